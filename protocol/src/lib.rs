//! What goes over the wire between TaskFlow and its clients.
//!
//! The same types are JSON and MessagePack: the document is the same, only its encoding differs. `docs/protocol.md` is
//! the prose; the files in `protocol/golden` hold one example of every variant in both encodings.
//!
//! Architecture invariant: serde only. No I/O, no clock, no randomness, no actix; wire types are never domain types.

pub mod codec;
pub mod codes;
pub mod ids;
pub mod limits;
pub mod message;
pub mod model;
mod strict;
pub mod values;

pub use codec::{DecodeError, Encoding};
pub use codes::{Action, Code};
pub use ids::{LabelId, ListId, OperationId, TaskId, UserId};
pub use message::{ClientMessage, ServerMessage};

/// The oldest protocol version that this build speaks.
pub const PROTOCOL_MIN: u16 = 1;
/// The newest protocol version that this build speaks.
pub const PROTOCOL_MAX: u16 = 1;
/// WebSocket subprotocol for JSON in text frames.
pub const SUBPROTOCOL_JSON: &str = "taskflow.v1.json";
/// WebSocket subprotocol for MessagePack in binary frames.
pub const SUBPROTOCOL_MSGPACK: &str = "taskflow.v1.msgpack";
/// A client that cannot set headers offers `taskflow.token.<access token>` beside the real subprotocol.
pub const SUBPROTOCOL_TOKEN_PREFIX: &str = "taskflow.token.";
