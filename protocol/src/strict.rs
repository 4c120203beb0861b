//! Reads documents exactly as `docs/protocol.md` says, whatever the parser underneath would also take.
//!
//! serde's derived code and both parsers are generous: an array is taken for a map, a number for the name of a field or
//! variant (its index), bytes for text, `{"done":null}` for `"done"`. A wrapper around parser, visitors and accessors takes
//! that away in one place, for both encodings alike, and counts the depth, which the parsers count differently.
//!
//! Fields that are not known are errors or not, by who sent the document: see [`Unknown`]. (Types that only clients send
//! also carry `deny_unknown_fields`, whose errors name the fields that there are.)

use std::cell::Cell;
use std::fmt;

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess, Unexpected, Visitor,
};

use crate::limits::NESTING_MAX;

/// Items for which room is made before they are read.
///
/// MessagePack says how many items an array has before they come, and a message of 20 bytes can say four billion. serde
/// would reserve 1 MiB for it, and again for every array within.
const ITEMS_RESERVED_MAX: usize = 16;

/// What to do with a field that the type does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// An error: a typo of a client must not lose an intent.
    Refuse,
    /// Skipped: a newer server may send it.
    Skip,
}

/// What one document is read with.
pub(crate) struct Rules {
    unknown: Unknown,
    too_deep: Cell<bool>,
}

impl Rules {
    pub(crate) fn new(unknown: Unknown) -> Self {
        Self {
            unknown,
            too_deep: Cell::new(false),
        }
    }

    /// Whether reading stopped because of the depth. (An error of the parser's own type cannot say it.)
    pub(crate) fn too_deep(&self) -> bool {
        self.too_deep.get()
    }
}

/// A parser, visitor, seed or accessor under the rules.
pub(crate) struct Strict<'r, T> {
    inner: T,
    rules: &'r Rules,
    /// How many more arrays and maps may be opened.
    levels: usize,
}

impl<'r, T> Strict<'r, T> {
    pub(crate) fn new(inner: T, rules: &'r Rules) -> Self {
        Self {
            inner,
            rules,
            levels: NESTING_MAX,
        }
    }

    /// Another part of the document on the same level.
    fn with<U>(&self, inner: U) -> Strict<'r, U> {
        Strict {
            inner,
            rules: self.rules,
            levels: self.levels,
        }
    }

    /// What is in an array or map that begins here.
    fn within<U, E: de::Error>(&self, inner: U) -> Result<Strict<'r, U>, E> {
        match self.levels.checked_sub(1) {
            Some(levels) => Ok(Strict {
                inner,
                rules: self.rules,
                levels,
            }),
            None => {
                self.rules.too_deep.set(true);
                Err(E::custom(format_args!("nested deeper than {NESTING_MAX} levels")))
            }
        }
    }
}

/// Hands on what the type asks for, with its visitor under the rules.
macro_rules! ask {
    ($($method:ident($($argument:ident: $type:ty),*))*) => {
        $(fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            let visitor = self.with(visitor);
            self.inner.$method($($argument,)* visitor)
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<'_, D> {
    type Error = D::Error;

    ask! {
        deserialize_any() deserialize_bool()
        deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64()
        deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64()
        deserialize_f32() deserialize_f64() deserialize_char() deserialize_str() deserialize_string()
        deserialize_bytes() deserialize_byte_buf() deserialize_option() deserialize_unit() deserialize_seq()
        deserialize_map() deserialize_unit_struct(name: &'static str) deserialize_newtype_struct(name: &'static str)
        deserialize_tuple(len: usize) deserialize_tuple_struct(name: &'static str, len: usize)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.with(OnlyMap(visitor));
        self.inner.deserialize_struct(name, fields, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.with(OnlyVariant(visitor));
        self.inner.deserialize_any(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_identifier(OnlyText(visitor))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        match self.rules.unknown {
            Unknown::Refuse => Err(D::Error::custom("there is no such field here")),
            // Not `deserialize_ignored_any`: what is skipped is held to the same rules in both encodings.
            Unknown::Skip => {
                let visitor = self.with(visitor);
                self.inner.deserialize_any(visitor)
            }
        }
    }

    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// Hands on single values. `visit_bytes` and `visit_newtype_struct` (MessagePack's `ext`) are left out: they refuse.
macro_rules! take {
    ($($method:ident($type:ty))*) => {
        $(fn $method<E: de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.inner.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Strict<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    take! {
        visit_bool(bool) visit_i64(i64) visit_u64(u64) visit_f64(f64)
        visit_str(&str) visit_borrowed_str(&'de str) visit_string(String)
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        let deserializer = self.with(deserializer);
        self.inner.visit_some(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        let items = self.within(items)?;
        self.inner.visit_seq(items)
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<V::Value, A::Error> {
        let fields = self.within(fields)?;
        self.inner.visit_map(fields)
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Strict<'_, A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        let seed = self.with(seed);
        self.inner.next_element_seed(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint().map(|items| items.min(ITEMS_RESERVED_MAX))
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Strict<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let seed = self.with(seed);
        self.inner.next_key_seed(seed)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        let seed = self.with(seed);
        self.inner.next_value_seed(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint().map(|items| items.min(ITEMS_RESERVED_MAX))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        let deserializer = self.with(deserializer);
        self.inner.deserialize(deserializer)
    }
}

/// Takes a struct as a map and as nothing else: by default a visitor refuses what it has no method for.
struct OnlyMap<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for OnlyMap<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(fields)
    }
}

/// Takes the name of a field or variant as text and as nothing else.
struct OnlyText<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for OnlyText<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name as text")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<V::Value, E> {
        self.0.visit_str(name)
    }

    fn visit_borrowed_str<E: de::Error>(self, name: &'de str) -> Result<V::Value, E> {
        self.0.visit_borrowed_str(name)
    }

    fn visit_string<E: de::Error>(self, name: String) -> Result<V::Value, E> {
        self.0.visit_string(name)
    }
}

/// Takes a variant as a word if it has no content, and as a map with one key if it has.
struct OnlyVariant<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for OnlyVariant<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a word or a map with one key")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<V::Value, E> {
        self.0.visit_enum(Word::<E>(word, std::marker::PhantomData))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.0.visit_enum(OneKey(map))
    }
}

/// A variant without content.
struct Word<'w, E>(&'w str, std::marker::PhantomData<E>);

impl<'de, E: de::Error> EnumAccess<'de> for Word<'_, E> {
    type Error = E;
    type Variant = NoContent<E>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, NoContent<E>), E> {
        let variant = seed.deserialize(de::value::StrDeserializer::new(self.0))?;
        Ok((variant, NoContent(std::marker::PhantomData)))
    }
}

struct NoContent<E>(std::marker::PhantomData<E>);

impl<'de, E: de::Error> de::VariantAccess<'de> for NoContent<E> {
    type Error = E;

    fn unit_variant(self) -> Result<(), E> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, _seed: S) -> Result<S::Value, E> {
        Err(E::invalid_type(Unexpected::UnitVariant, &"a map with one key"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value, E> {
        Err(E::invalid_type(Unexpected::UnitVariant, &"a map with one key"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _fields: &'static [&'static str], _visitor: V) -> Result<V::Value, E> {
        Err(E::invalid_type(Unexpected::UnitVariant, &"a map with one key"))
    }
}

/// A variant with content.
struct OneKey<A>(A);

impl<'de, A: MapAccess<'de>> EnumAccess<'de> for OneKey<A> {
    type Error = A::Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(mut self, seed: S) -> Result<(S::Value, Self), A::Error> {
        match self.0.next_key_seed(seed)? {
            Some(variant) => Ok((variant, self)),
            None => Err(A::Error::invalid_length(0, &"a map with one key")),
        }
    }
}

impl<'de, A: MapAccess<'de>> OneKey<A> {
    fn only<S: DeserializeSeed<'de>>(mut self, seed: S) -> Result<S::Value, A::Error> {
        let content = self.0.next_value_seed(seed)?;
        match self.0.next_key::<String>()? {
            None => Ok(content),
            Some(_) => Err(A::Error::invalid_length(2, &"a map with one key")),
        }
    }
}

impl<'de, A: MapAccess<'de>> de::VariantAccess<'de> for OneKey<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        Err(A::Error::invalid_type(Unexpected::Map, &"a word"))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.only(seed)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value, A::Error> {
        Err(A::Error::custom("there are no such variants in the protocol"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, A::Error> {
        Err(A::Error::custom("there are no such variants in the protocol"))
    }
}
