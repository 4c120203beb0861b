//! Identifiers: UUIDs. On the wire they are lower-case hyphenated strings in both encodings; in the log, whose codec is
//! not human-readable, they are 16 bytes.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The 16 bytes, most significant first.
            pub fn bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    let mut buffer = [0; 36];
                    serializer.serialize_str(self.0.hyphenated().encode_lower(&mut buffer))
                } else {
                    serializer.serialize_bytes(self.0.as_bytes())
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    deserializer.deserialize_str(IdVisitor).map(Self)
                } else {
                    deserializer.deserialize_bytes(IdVisitor).map(Self)
                }
            }
        }
    };
}

id! {
    /// A user; also names that user's feed.
    UserId
}
id! {
    /// A list. The inbox of a feed has the id of its user.
    ListId
}
id! {
    /// A task.
    TaskId
}
id! {
    /// A label.
    LabelId
}
id! {
    /// An operation. The client makes it (UUIDv7) and sends the same operation again under the same id.
    OperationId
}

/// Only the hyphenated form: one id, one spelling.
fn parse(text: &str) -> Result<Uuid, uuid::Error> {
    if text.len() == 36 {
        Uuid::try_parse(text)
    } else {
        // The parser takes other spellings too; this one is wrong in length, so let it say what it expected.
        Uuid::try_parse("not a hyphenated uuid")
    }
}

struct IdVisitor;

impl Visitor<'_> for IdVisitor {
    type Value = Uuid;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a UUID as a hyphenated string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Uuid, E> {
        parse(text).map_err(|_| de::Error::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Uuid, E> {
        Uuid::from_slice(bytes).map_err(|_| de::Error::invalid_length(bytes.len(), &self))
    }
}
