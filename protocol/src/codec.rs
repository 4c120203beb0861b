//! JSON and MessagePack: one document, two encodings, one reading of both.

use std::fmt;

use serde::de::{self, DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::codes::Code;
use crate::ids::OperationId;
use crate::limits::{ERROR_DETAIL_BYTES_MAX, MESSAGE_BYTES_MAX, OPERATIONS_A_MESSAGE_MAX};
use crate::message::{ClientMessage, ErrorBody, Operation, OperationResult, Operations, Outcome, ServerMessage};
use crate::strict::{Rules, Strict, Unknown};

/// How a document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// RFC 8259, in text frames.
    Json,
    /// <https://msgpack.org>, maps with string keys, in binary frames.
    MsgPack,
}

/// Why a document was not understood.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct DecodeError {
    /// The code for the sender.
    pub code: Code,
    /// What the parser said.
    pub detail: String,
    /// The field that is wrong, as a path.
    pub field: Option<String>,
}

impl DecodeError {
    fn new(code: Code, detail: impl fmt::Display) -> Self {
        Self {
            code,
            detail: short(detail.to_string()),
            field: None,
        }
    }

    fn at(mut self, path: impl fmt::Display) -> Self {
        self.field = Some(short(path.to_string()));
        self
    }

    /// As it goes over the wire.
    pub fn body(&self) -> ErrorBody {
        let body = ErrorBody::new(self.code).because(&self.detail);
        match &self.field {
            Some(field) => body.field(field),
            None => body,
        }
    }
}

/// The parsers quote what they read; a message of the greatest size must not come back as its own error.
fn short(mut text: String) -> String {
    if text.len() > ERROR_DETAIL_BYTES_MAX {
        let end = (0..=ERROR_DETAIL_BYTES_MAX)
            .rev()
            .find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push('…');
    }
    text
}

/// A message from a client, or as much of it as can be answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded {
    /// All of it was understood.
    Message(ClientMessage),
    /// Operations of which some were not understood: these are the refusals of the others. There may be none left.
    Partly(Operations, Vec<OperationResult>),
}

impl Encoding {
    /// Writes a document. Wire types have string keys and no failing serializer, so this cannot fail.
    pub fn encode<T: Serialize>(self, document: &T) -> Vec<u8> {
        match self {
            Self::Json => serde_json::to_vec(document).expect("wire types have string keys and serialize"),
            Self::MsgPack => {
                let mut bytes = Vec::with_capacity(256);
                let mut serializer = rmp_serde::Serializer::new(&mut bytes)
                    .with_struct_map()
                    .with_human_readable();
                document
                    .serialize(&mut serializer)
                    .expect("wire types serialize into memory");
                bytes
            }
        }
    }

    /// Reads a document that a client sends: a field that is not known is an error.
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, DecodeError> {
        self.parse(bytes, Unknown::Refuse)
            .map_err(|error| self.explain::<T>(bytes, Unknown::Refuse, error))
    }

    /// Reads a document that a server sends: fields that are not known are skipped, because a newer server may send them.
    pub fn decode_tolerant<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, DecodeError> {
        self.parse(bytes, Unknown::Skip)
            .map_err(|error| self.explain::<T>(bytes, Unknown::Skip, error))
    }

    /// Reads a server's message; `None` if it is one that this version does not know, to be ignored.
    pub fn decode_server(self, bytes: &[u8]) -> Result<Option<ServerMessage>, DecodeError> {
        let error = match self.parse(bytes, Unknown::Skip) {
            Ok(message) => return Ok(Some(message)),
            Err(error) => error,
        };
        match self.document(bytes)? {
            Value::Object(map)
                if map.len() == 1 && !map.keys().any(|name| SERVER_MESSAGES.contains(&name.as_str())) =>
            {
                Ok(None)
            }
            document => Err(typed::<ServerMessage>(document, Unknown::Skip).err().unwrap_or(error)),
        }
    }

    /// Reads a client's message. A bad operation does not take its neighbours with it.
    pub fn decode_client(self, bytes: &[u8]) -> Result<Decoded, DecodeError> {
        check_size(bytes)?;
        match self.parse::<ClientMessage>(bytes, Unknown::Refuse) {
            Ok(ClientMessage::Operations(operations)) => {
                check_count(operations.operations.len()).map_err(|error| error.within("operations"))?;
                Ok(Decoded::Message(ClientMessage::Operations(operations)))
            }
            Ok(message) => Ok(Decoded::Message(message)),
            Err(error) => explain_client(self.document(bytes)?, error),
        }
    }

    /// The ids of the operations in a client's message, if it has as many as it may, without a look at what they ask for: to refuse them
    /// for a part of what reading them costs.
    pub fn operation_ids(self, bytes: &[u8]) -> Option<Vec<OperationId>> {
        #[derive(Deserialize)]
        struct Message {
            operations: Within,
        }
        #[derive(Deserialize)]
        struct Within {
            operations: Vec<Identified>,
        }
        #[derive(Deserialize)]
        struct Identified {
            id: OperationId,
        }
        check_size(bytes).ok()?;
        let message: Message = self.parse(bytes, Unknown::Skip).ok()?;
        let operations = message.operations.operations;
        check_count(operations.len()).ok()?;
        Some(operations.into_iter().map(|operation| operation.id).collect())
    }

    /// Reads the content of an `operations` message, for a body of a request. What is not understood comes as refusals,
    /// each with its place among the operations of the document.
    pub fn decode_operations(self, bytes: &[u8]) -> Result<(Operations, Vec<(usize, OperationResult)>), DecodeError> {
        check_size(bytes)?;
        match self.parse::<Operations>(bytes, Unknown::Refuse) {
            Ok(operations) => {
                check_count(operations.operations.len())?;
                Ok((operations, Vec::new()))
            }
            Err(error) => each(self.document(bytes)?, error),
        }
    }

    /// Reads bytes as a type, with whatever the parser says about the first thing that is wrong.
    fn parse<T: DeserializeOwned>(self, bytes: &[u8], unknown: Unknown) -> Result<T, DecodeError> {
        let rules = Rules::new(unknown);
        match self {
            Self::Json => {
                let mut parser = serde_json::Deserializer::from_slice(bytes);
                T::deserialize(Strict::new(&mut parser, &rules))
                    .and_then(|document| parser.end().map(|()| document))
                    .map_err(|error| {
                        let code = match error.classify() {
                            _ if rules.too_deep() => Code::Malformed,
                            serde_json::error::Category::Data => Code::InvalidField,
                            _ => Code::Malformed,
                        };
                        DecodeError::new(code, error)
                    })
            }
            Self::MsgPack => {
                let mut rest = bytes;
                let mut parser = rmp_serde::Deserializer::new(&mut rest).with_human_readable();
                let document = T::deserialize(Strict::new(&mut parser, &rules)).map_err(|error| {
                    use rmp_serde::decode::Error as E;
                    let code = match error {
                        _ if rules.too_deep() => Code::Malformed,
                        E::Utf8Error(_) => Code::InvalidUtf8,
                        // 0xc1 is no MessagePack at all.
                        E::TypeMismatch(marker) if marker.to_u8() == 0xc1 => Code::Malformed,
                        E::Syntax(_) | E::TypeMismatch(_) | E::OutOfRange | E::LengthMismatch(_) => Code::InvalidField,
                        _ => Code::Malformed,
                    };
                    DecodeError::new(code, error)
                })?;
                drop(parser);
                if rest.is_empty() {
                    Ok(document)
                } else {
                    Err(DecodeError::new(Code::Malformed, "there are bytes after the document"))
                }
            }
        }
    }

    /// The slow way, for bad input only: reads the whole as a generic document, so that both encodings agree on what is
    /// wrong with it, whatever comes first.
    fn document(self, bytes: &[u8]) -> Result<Value, DecodeError> {
        if self == Self::Json && std::str::from_utf8(bytes).is_err() {
            return Err(DecodeError::new(Code::InvalidUtf8, "the document is not UTF-8"));
        }
        self.parse::<Document>(bytes, Unknown::Refuse)
            .map(|document| document.0)
    }

    fn explain<T: DeserializeOwned>(self, bytes: &[u8], unknown: Unknown, error: DecodeError) -> DecodeError {
        match self.document(bytes) {
            Ok(document) => typed::<T>(document, unknown).err().unwrap_or(error),
            Err(error) => error,
        }
    }
}

/// The names of the messages, to tell an unknown one from a bad one.
const CLIENT_MESSAGES: [&str; 6] = ["hello", "operations", "follow", "unfollow", "refresh", "heartbeat"];
const SERVER_MESSAGES: [&str; 11] = [
    "welcome",
    "following",
    "unfollowed",
    "snapshot",
    "entries",
    "results",
    "statistics",
    "refreshed",
    "heartbeat",
    "reconnect",
    "error",
];

impl DecodeError {
    /// The same, seen from further out.
    fn within(mut self, outer: &str) -> Self {
        self.field = Some(match self.field {
            Some(field) => format!("{outer}.{field}"),
            None => outer.to_owned(),
        });
        self
    }
}

fn check_size(bytes: &[u8]) -> Result<(), DecodeError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        let detail = format_args!("{} bytes are more than {MESSAGE_BYTES_MAX}", bytes.len());
        return Err(DecodeError::new(Code::TooLarge, detail));
    }
    Ok(())
}

fn check_count(operations: usize) -> Result<(), DecodeError> {
    let code = match operations {
        0 => Code::InvalidField,
        1..=OPERATIONS_A_MESSAGE_MAX => return Ok(()),
        _ => Code::TooManyOperations,
    };
    let detail = format_args!("{operations} operations are not 1 to {OPERATIONS_A_MESSAGE_MAX}");
    Err(DecodeError::new(code, detail).at("operations"))
}

/// Reads a document as a type; the error names the field.
fn typed<T: DeserializeOwned>(document: Value, unknown: Unknown) -> Result<T, DecodeError> {
    let rules = Rules::new(unknown);
    serde_path_to_error::deserialize(Strict::new(document, &rules)).map_err(|error| {
        let mut path = path(error.path());
        let error = DecodeError::new(Code::InvalidField, error.inner());
        // The path leads to what the field is missing from.
        if let Some(name) = missing(&error.detail) {
            push_name(&mut path, name);
        }
        if path.is_empty() { error } else { error.at(path) }
    })
}

/// The field that is missing, from what [`de::Error::missing_field`] makes of its name: an error of the parser's own type
/// cannot say it.
fn missing(detail: &str) -> Option<&str> {
    detail.strip_prefix("missing field `")?.strip_suffix('`')
}

/// Where in the document: `hello.protocol.min`. Which of several shapes it was is left out further in, as the rules leave
/// it out: `commands[3].title`, not `commands[3].task_create.title`.
fn path(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("[{index}]")),
            Segment::Map { key: name } => push_name(&mut text, name),
            Segment::Enum { variant: name } if text.is_empty() => push_name(&mut text, name),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    text
}

fn push_name(text: &mut String, name: &str) {
    if !text.is_empty() {
        text.push('.');
    }
    text.push_str(name);
}

fn explain_client(document: Value, error: DecodeError) -> Result<Decoded, DecodeError> {
    let unknown = |detail: String| Err(DecodeError::new(Code::UnknownMessage, detail));
    let Value::Object(map) = &document else {
        return unknown("a message is a map with one key".to_owned());
    };
    let mut names = map.keys();
    let (Some(name), None) = (names.next(), names.next()) else {
        return unknown("a message is a map with one key".to_owned());
    };
    if !CLIENT_MESSAGES.contains(&name.as_str()) {
        return unknown(format!("there is no message {name:?}"));
    }
    match document {
        Value::Object(mut map) if map.contains_key("operations") => {
            let body = map.remove("operations").unwrap_or_default();
            let (operations, refused) = each(body, error).map_err(|error| error.within("operations"))?;
            Ok(Decoded::Partly(
                operations,
                refused.into_iter().map(|(_, refusal)| refusal).collect(),
            ))
        }
        document => Err(typed::<ClientMessage>(document, Unknown::Refuse).err().unwrap_or(error)),
    }
}

/// Takes operations one by one, the bad ones as refusals; an error where even their frame is wrong.
fn each(mut body: Value, error: DecodeError) -> Result<(Operations, Vec<(usize, OperationResult)>), DecodeError> {
    // The operations apart from their frame, so that the frame is read by its type as ever.
    let operations = match body.as_object_mut().and_then(|map| map.get_mut("operations")) {
        Some(Value::Array(operations)) => std::mem::take(operations),
        _ => return Err(typed::<Operations>(body, Unknown::Refuse).err().unwrap_or(error)),
    };
    let mut whole: Operations = typed(body, Unknown::Refuse)?;
    check_count(operations.len())?;
    let mut refused = Vec::new();
    for (place, operation) in operations.into_iter().enumerate() {
        // Without an id there is nobody to answer: the whole message is refused.
        let id = operation.get("id").cloned().unwrap_or_default();
        let id: OperationId =
            typed(id, Unknown::Refuse).map_err(|error| error.at(format_args!("operations[{place}].id")))?;
        match typed::<Operation>(operation, Unknown::Refuse) {
            Ok(operation) => whole.operations.push(operation),
            Err(error) => {
                let mut body = error.body();
                // As the rules name the fields of a command.
                body.field = body.field.map(|field| match field.strip_prefix("command.") {
                    Some(within) => within.to_owned(),
                    None => field,
                });
                let outcome = Outcome::Refused(body);
                refused.push((place, OperationResult { id, outcome }));
            }
        }
    }
    Ok((whole, refused))
}

/// Any document that the protocol could have: no bytes, no extension types, no key twice.
struct Document(Value);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DocumentVisitor).map(Self)
    }
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map, an array, text, a number, true, false or null")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        // `Value` would make null of what is not finite, and null means something.
        serde_json::Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::invalid_value(de::Unexpected::Float(value), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Document(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut all = serde_json::Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let Document(value) = fields.next_value()?;
            if let Some(twice) = all.insert(name, value) {
                drop(twice);
                return Err(de::Error::custom("a field is there twice"));
            }
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What serde says that the variants of an enum are.
    fn variants<T: DeserializeOwned>() -> Vec<&'static str> {
        struct Ask<'a>(&'a mut Vec<&'static str>);
        impl<'de> Deserializer<'de> for Ask<'_> {
            type Error = de::value::Error;
            fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
                Err(de::Error::custom("not an enum"))
            }
            fn deserialize_enum<V: Visitor<'de>>(
                self,
                _name: &'static str,
                variants: &'static [&'static str],
                _visitor: V,
            ) -> Result<V::Value, Self::Error> {
                self.0.extend(variants);
                Err(de::Error::custom("only asking"))
            }
            serde::forward_to_deserialize_any! {
                bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
                unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
            }
        }
        let mut names = Vec::new();
        assert!(T::deserialize(Ask(&mut names)).is_err());
        names
    }

    #[test]
    fn the_names_of_messages_are_those_of_the_types() {
        assert_eq!(variants::<ClientMessage>(), CLIENT_MESSAGES);
        assert_eq!(variants::<ServerMessage>(), SERVER_MESSAGES);
    }

    #[test]
    fn a_detail_is_cut_at_a_character() {
        let long = "ü".repeat(ERROR_DETAIL_BYTES_MAX);
        let error = DecodeError::new(Code::InvalidField, format_args!("x{long}"));
        assert_eq!(
            error.detail,
            format!("x{}…", "ü".repeat((ERROR_DETAIL_BYTES_MAX - 1) / 2))
        );
    }
}
