//! The parameters after `?`, read as a type: what is wrong with one says which, and what it may be.

use std::fmt;

use percent_encoding::percent_decode_str;
use serde::de::value::{MapDeserializer, StringDeserializer};
use serde::de::{DeserializeOwned, Error as _, Expected, IntoDeserializer, Unexpected, Visitor};
use serde::{Deserializer, forward_to_deserialize_any};
use taskflow_actors::domain::find::meant;
use taskflow_protocol::Code;

use crate::http::problem::Problem;

/// Reads them; an unknown one is an error, like an unknown field.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    // What takes them apart would put a sign of its own for what is no UTF-8.
    let mut pairs = text.split('&');
    if let Some(broken) = pairs.find(|pair| percent_decode_str(pair).decode_utf8().is_err()) {
        let name = broken.split('=').next().unwrap_or_default();
        return Err(Problem::new(Code::InvalidUtf8).field(name));
    }
    let pairs = actix_web::web::Query::<Vec<(String, String)>>::from_query(text);
    let pairs = pairs.map_err(|_| Code::InvalidField)?.into_inner();
    let pairs = pairs.into_iter().map(|(name, text)| {
        let parameter = Parameter {
            name: name.clone(),
            text,
        };
        (name, parameter)
    });
    T::deserialize(MapDeserializer::new(pairs)).map_err(|wrong| {
        let problem = Problem::new(Code::InvalidField).because(wrong.cause);
        match wrong.name {
            Some(name) => problem.field(name),
            None => problem,
        }
    })
}

/// One of them.
struct Parameter {
    name: String,
    text: String,
}

impl<'de> IntoDeserializer<'de, Wrong> for Parameter {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Parameter {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor
            .visit_string(self.text)
            .map_err(|wrong: Wrong| wrong.of(&self.name))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_some(self)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let wrong = |_| Wrong::custom("it must be a whole number").of(&self.name);
        visitor.visit_u64(self.text.parse().map_err(wrong)?)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let wrong = |_| Wrong::custom("it must be true or false").of(&self.name);
        visitor.visit_bool(self.text.parse().map_err(wrong)?)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        let variant = StringDeserializer::new(self.text);
        visitor.visit_enum(variant).map_err(|wrong: Wrong| wrong.of(&self.name))
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 u8 u16 u32 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

/// What is wrong, in the words of this server.
#[derive(Debug)]
struct Wrong {
    name: Option<String>,
    cause: String,
}

impl Wrong {
    fn of(self, name: &str) -> Self {
        Self {
            name: Some(name.to_owned()),
            ..self
        }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl std::error::Error for Wrong {}

impl serde::de::Error for Wrong {
    fn custom<T: fmt::Display>(cause: T) -> Self {
        Self {
            name: None,
            cause: cause.to_string(),
        }
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("it must be {expected}"))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("it must be {expected}"))
    }

    fn unknown_variant(_: &str, known: &'static [&'static str]) -> Self {
        Self::custom(format_args!("it must be one of {}", known.join(", ")))
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        let meant = meant(name, known.iter().copied());
        let others = match known {
            [] => "; this address takes none".to_owned(),
            known if meant.is_empty() => format!("; there are {}", known.join(", ")),
            _ => meant,
        };
        Self::custom(format_args!("there is no such parameter here{others}")).of(name)
    }

    fn duplicate_field(name: &'static str) -> Self {
        Self::custom("it is there twice").of(name)
    }
}
