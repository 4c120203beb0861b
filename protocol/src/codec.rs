//! JSON and MessagePack: one document, two encodings.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codes::Code;
use crate::ids::OperationId;
use crate::limits::{NESTING_MAX, OPERATIONS_A_MESSAGE_MAX};
use crate::message::{ClientMessage, ErrorBody, Operation, OperationResult, Operations, Outcome};

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
}

impl DecodeError {
    fn new(code: Code, detail: impl std::fmt::Display) -> Self {
        Self {
            code,
            detail: detail.to_string(),
        }
    }

    /// As it goes over the wire.
    pub fn body(&self) -> ErrorBody {
        ErrorBody::new(self.code).because(&self.detail)
    }
}

/// A message from a client, or as much of it as can be answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded {
    /// All of it was understood.
    Message(ClientMessage),
    /// Operations of which some were not understood: these are the refusals of the others.
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

    /// Reads a document that has nothing after it.
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, DecodeError> {
        match self {
            Self::Json => serde_json::from_slice(bytes).map_err(|error| {
                let code = if error.is_data() {
                    Code::InvalidField
                } else {
                    Code::Malformed
                };
                DecodeError::new(code, error)
            }),
            Self::MsgPack => {
                let mut rest = bytes;
                let mut deserializer = rmp_serde::Deserializer::new(&mut rest).with_human_readable();
                deserializer.set_max_depth(NESTING_MAX);
                let document = T::deserialize(&mut deserializer).map_err(|error| {
                    use rmp_serde::decode::Error as E;
                    let code = match error {
                        E::Syntax(_)
                        | E::TypeMismatch(_)
                        | E::OutOfRange
                        | E::LengthMismatch(_)
                        | E::Uncategorized(_) => Code::InvalidField,
                        _ => Code::Malformed,
                    };
                    DecodeError::new(code, error)
                })?;
                drop(deserializer);
                if rest.is_empty() {
                    Ok(document)
                } else {
                    Err(DecodeError::new(Code::Malformed, "there are bytes after the document"))
                }
            }
        }
    }

    /// Reads a client's message. A bad operation does not take its neighbours with it.
    pub fn decode_client(self, bytes: &[u8]) -> Result<Decoded, DecodeError> {
        let error = match self.decode::<ClientMessage>(bytes) {
            Ok(message) => return Ok(Decoded::Message(message)),
            Err(error) => error,
        };
        // The slow way, for bad input only: as a generic document, to tell apart what is wrong with it.
        let document: serde_json::Value = self
            .decode(bytes)
            .map_err(|generic| DecodeError::new(Code::Malformed, generic.detail))?;
        let mut map = match document {
            serde_json::Value::Object(map) if map.len() == 1 => map,
            _ => {
                return Err(DecodeError::new(
                    Code::UnknownMessage,
                    "a message is a map with one key",
                ));
            }
        };
        const NAMES: [&str; 6] = ["hello", "operations", "follow", "unfollow", "refresh", "heartbeat"];
        let name = map.keys().next().cloned().unwrap_or_default();
        if !NAMES.contains(&name.as_str()) {
            return Err(DecodeError::new(
                Code::UnknownMessage,
                format_args!("there is no message {name:?}"),
            ));
        }
        let invalid = DecodeError {
            code: Code::InvalidField,
            ..error
        };
        match map.remove("operations") {
            Some(body) => decode_each(body).ok_or(invalid),
            None => Err(invalid),
        }
    }
}

/// Takes the operations one by one; `None` where even their frame is wrong.
fn decode_each(mut body: serde_json::Value) -> Option<Decoded> {
    let map = body.as_object_mut()?;
    let serde_json::Value::Array(operations) = map.remove("operations")? else {
        return None;
    };
    let feed = map.remove("feed").map(serde_json::from_value).transpose().ok()?;
    if !map.is_empty() || operations.len() > OPERATIONS_A_MESSAGE_MAX {
        return None;
    }
    let (mut good, mut refused) = (Vec::new(), Vec::new());
    for operation in operations {
        // Without an id there is nobody to answer: the whole message is refused.
        let id: OperationId = serde_json::from_value(operation.get("id")?.clone()).ok()?;
        match serde_json::from_value::<Operation>(operation) {
            Ok(operation) => good.push(operation),
            Err(error) => {
                let body = ErrorBody::new(Code::InvalidField).because(error);
                refused.push(OperationResult {
                    id,
                    outcome: Outcome::Refused(body),
                });
            }
        }
    }
    Some(Decoded::Partly(Operations { feed, operations: good }, refused))
}
