//! What nodes say to each other: a byte with the format's version, then MessagePack.
//!
//! Nodes of two versions work together during a rolling update: a field that this build does not know is skipped. What it
//! does not understand at all is dropped, and counted; the sender repeats it to whoever hosts the feed later.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use taskflow_protocol::UserId;
use taskflow_protocol::message::{Operation, OperationResult};
use uuid::Uuid;

use crate::domain::{Entry, codec};
use crate::ports::{Epoch, Head, NodeId, Spent};
use crate::trace::TraceContext;

/// The format that is written: the first byte of every message.
const FORMAT: u8 = 1;

/// A node, as it describes itself in its beats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// This life of it.
    pub node: NodeId,
    /// The same in every life.
    pub name: String,
    /// Feeds are placed on it.
    pub hosts_feeds: bool,
    /// It is about to end: nothing new is placed on it.
    pub leaving: bool,
    /// Which store it works on: two clusters on one broker must notice.
    pub cluster: u64,
}

#[derive(Serialize, Deserialize)]
struct MemberWire {
    name: String,
    hosts_feeds: bool,
    leaving: bool,
    cluster: u64,
}

impl Member {
    /// As the body of a beat.
    pub fn encode(&self) -> Bytes {
        encode(&MemberWire {
            name: self.name.clone(),
            hosts_feeds: self.hosts_feeds,
            leaving: self.leaving,
            cluster: self.cluster,
        })
    }

    /// From the body of a beat.
    pub fn decode(node: NodeId, body: &[u8]) -> Option<Self> {
        let MemberWire {
            name,
            hosts_feeds,
            leaving,
            cluster,
        } = decode(body)?;
        Some(Self {
            node,
            name,
            hosts_feeds,
            leaving,
            cluster,
        })
    }
}

/// Operations of one submission.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Who asks.
    pub author: UserId,
    /// In order.
    pub operations: Vec<Operation>,
    /// The step that waits for them, if that is traced. Builds from before it skip it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
}

/// Operations on their way to the host of their feed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Who waits for the reply.
    pub from: u64,
    /// The sender's number of it; the same when it is repeated.
    pub id: u64,
    /// From 1. From the second on it is a marked repeat.
    pub attempt: u32,
    /// Which feed.
    pub feed: UserId,
    /// In the order in which they are judged.
    pub items: Vec<Item>,
}

/// The results of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// Which request.
    pub id: u64,
    /// Which copy of it.
    pub attempt: u32,
    /// Whose feed.
    pub feed: UserId,
    /// One list for each item.
    pub results: Vec<Vec<OperationResult>>,
}

/// What one node sends to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum NodeMessage {
    /// Operations for a feed that is hosted there.
    #[serde(rename = "q")]
    Request(Request),
    /// Their results.
    #[serde(rename = "r")]
    Reply(Reply),
}

impl NodeMessage {
    /// As it goes over the bus.
    pub fn encode(&self) -> Bytes {
        encode(self)
    }

    /// As it came over the bus.
    pub fn decode(message: &[u8]) -> Option<Self> {
        decode(message)
    }
}

/// What every node has to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Notice {
    /// A sign-in was ended: its tokens are refused and its connections closed.
    #[serde(rename = "o")]
    SignedOut {
        /// Whose.
        #[serde(rename = "u")]
        user: UserId,
        /// Which.
        #[serde(rename = "s")]
        sign_in: Uuid,
    },
    /// Something that is limited was done: the others count it as well. Said once: what is lost is one attempt more.
    #[serde(rename = "t")]
    Tried {
        /// Where: who counted it already.
        #[serde(rename = "n")]
        node: u64,
        /// What it counts for.
        #[serde(rename = "k")]
        keys: Vec<u128>,
    },
    /// Much was done here, within a second, of what has a rate, or is held of what has a limit: the others take it off what is
    /// left there. What was done is said once, what is held each second.
    #[serde(rename = "r")]
    Spent {
        /// Where: who counted it already.
        #[serde(rename = "n")]
        node: u64,
        /// What, and how much.
        #[serde(rename = "s")]
        spent: Vec<Spent>,
    },
}

impl Notice {
    /// The channel that every node subscribes to: that of a feed that nobody has.
    pub const CHANNEL: UserId = UserId(Uuid::nil());

    /// As it goes over the bus.
    pub fn encode(&self) -> Bytes {
        encode(self)
    }

    /// As it came over the bus.
    pub fn decode(message: &[u8]) -> Option<Self> {
        decode(message)
    }
}

/// What a host says to all nodes that follow the feed.
#[derive(Clone, Debug, PartialEq)]
pub enum FeedMessage {
    /// These entries were committed.
    Entries(NodeId, Epoch, Vec<Entry>),
    /// The feed is this far.
    Head(NodeId, Head),
}

/// What follows the format's byte: which kind, then numbers of eight bytes, then for entries the body of a commit.
const ENTRIES: u8 = b'e';
const HEAD: u8 = b'h';

impl FeedMessage {
    /// Committed entries, as they go over the bus.
    pub fn entries(from: NodeId, epoch: Epoch, entries: &[Entry]) -> Bytes {
        let body = codec::encode_commit(entries);
        let mut message = Vec::with_capacity(18 + body.len());
        message.extend([FORMAT, ENTRIES]);
        message.extend(from.0.to_be_bytes());
        message.extend(epoch.0.to_be_bytes());
        message.extend(body);
        message.into()
    }

    /// How far a feed is, as it goes over the bus.
    pub fn head(from: NodeId, head: Head) -> Bytes {
        let mut message = vec![FORMAT, HEAD];
        for number in [from.0, head.epoch.0, head.seq, head.first, head.rows_upto] {
            message.extend(number.to_be_bytes());
        }
        message.into()
    }

    /// Who published it, without reading the rest.
    pub fn sender(message: &[u8]) -> Option<NodeId> {
        let (_, rest) = message.split_first_chunk::<2>()?;
        rest.first_chunk().map(|from| NodeId(u64::from_be_bytes(*from)))
    }

    /// As it came over the bus. Entries are dense, and there is one at least.
    pub fn decode(message: &[u8]) -> Option<Self> {
        let (&[format, kind], mut rest) = message.split_first_chunk::<2>()?;
        if format != FORMAT {
            return None;
        }
        let mut number = || {
            let (first, others) = rest.split_first_chunk::<8>()?;
            rest = others;
            Some(u64::from_be_bytes(*first))
        };
        let (from, epoch) = (NodeId(number()?), Epoch(number()?));
        match kind {
            ENTRIES => {
                let entries = codec::decode_commit(rest).ok()?;
                (!entries.is_empty()).then_some(Self::Entries(from, epoch, entries))
            }
            HEAD => {
                let (seq, first, rows_upto) = (number()?, number()?, number()?);
                let head = Head {
                    epoch,
                    seq,
                    first,
                    rows_upto,
                };
                Some(Self::Head(from, head))
            }
            _ => None,
        }
    }
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    let mut body = vec![FORMAT];
    let mut serializer = rmp_serde::Serializer::new(&mut body).with_struct_map();
    value
        .serialize(&mut serializer)
        .expect("messages are plain data and the writer is memory: neither can fail");
    body.into()
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    let (&format, mut rest) = body.split_first()?;
    if format != FORMAT {
        return None;
    }
    let mut deserializer = rmp_serde::Deserializer::new(&mut rest);
    T::deserialize(&mut deserializer).ok()
}

#[cfg(test)]
mod tests {
    use taskflow_protocol::OperationId;
    use taskflow_protocol::message::{Accepted, Command, Outcome, Undo};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_notice_is_read_as_it_was_told_and_its_bytes_stay() {
        let (user, sign_in) = (UserId(Uuid::from_u128(7)), Uuid::from_u128(8));
        let told = [
            Notice::SignedOut { user, sign_in },
            Notice::Tried { node: 1, keys: vec![2] },
            Notice::Spent {
                node: 1,
                spent: vec![Spent(1, 2, 3)],
            },
        ];
        let two = r"\0".repeat(15) + r"\x02";
        let number = |low: u8| format!(r"\xc4\x10{}\x{low:02x}", r"\0".repeat(15));
        for (notice, bytes) in told.into_iter().zip([
            format!(r"\x01\x81\xa1o\x82\xa1u{}\xa1s{}", number(7), number(8)),
            format!(r"\x01\x81\xa1t\x82\xa1n\x01\xa1k\x91\xc4\x10{two}"),
            format!(r"\x01\x81\xa1r\x82\xa1n\x01\xa1s\x91\x93\x01\xc4\x10{two}\x03"),
        ]) {
            let encoded = notice.encode();
            assert_eq!(
                encoded.escape_ascii().to_string().replace(r"\x00", r"\0"),
                bytes,
                "{notice:?}"
            );
            assert_eq!(Notice::decode(&encoded), Some(notice));
        }
    }

    const TRACE: TraceContext = TraceContext {
        trace: 1 << 127,
        span: 2,
    };

    /// Nodes of the last version and of this one work together while a cluster is updated.
    #[test]
    fn what_is_traced_is_read_by_the_last_version_and_what_is_not_looks_as_it_did() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct ItemBefore {
            author: UserId,
            operations: Vec<Operation>,
        }
        #[derive(Debug, PartialEq, Deserialize)]
        struct EntryBefore {
            s: u64,
            x: Option<u16>,
        }
        let author = UserId(Uuid::from_u128(7));
        let traced = Item {
            author,
            operations: Vec::new(),
            trace: Some(TRACE),
        };
        let before = decode::<ItemBefore>(&encode(&traced)).expect("it is read");
        assert_eq!((before.author, before.operations), (author, Vec::new()));
        let untraced = encode(&Item {
            trace: None,
            ..traced.clone()
        });
        assert_eq!(decode::<Item>(&untraced), Some(Item { trace: None, ..traced }));
        assert!(!untraced.escape_ascii().to_string().contains("trace"));
        let entry = Entry {
            seq: 5,
            time: 6,
            author,
            operation: OperationId(author.0),
            operation_hash: 1,
            changes: Vec::new(),
            refused: None,
            trace: Some(Box::new(TRACE)),
        };
        let body = codec::encode_commit(&[entry]);
        assert_eq!(
            decode::<Vec<EntryBefore>>(&body),
            Some(vec![EntryBefore { s: 5, x: None }])
        );
    }

    #[test]
    fn what_is_sent_is_what_is_read() {
        let feed = UserId(Uuid::from_u128(7));
        let operation = Operation {
            id: OperationId(Uuid::from_u128(8)),
            base: None,
            command: Command::Undo(Undo { seq: 9 }),
        };
        let message = NodeMessage::Request(Request {
            from: 1,
            id: 2,
            attempt: 3,
            feed,
            items: vec![Item {
                author: feed,
                operations: vec![operation],
                trace: Some(TRACE),
            }],
        });
        assert_eq!(NodeMessage::decode(&message.encode()), Some(message));
        let entry = Entry {
            seq: 5,
            time: 6,
            author: feed,
            operation: OperationId(Uuid::from_u128(8)),
            operation_hash: 1,
            changes: Vec::new(),
            refused: Some(400),
            trace: Some(Box::new(TRACE)),
        };
        let entries = FeedMessage::entries(NodeId(1), Epoch(2), std::slice::from_ref(&entry));
        assert_eq!(
            FeedMessage::decode(&entries),
            Some(FeedMessage::Entries(NodeId(1), Epoch(2), vec![entry]))
        );
        let head = Head {
            epoch: Epoch(2),
            seq: 3,
            first: 1,
            rows_upto: 2,
        };
        let message = FeedMessage::head(NodeId(1), head);
        assert_eq!(FeedMessage::decode(&message), Some(FeedMessage::Head(NodeId(1), head)));
        for message in [&message, &entries] {
            assert_eq!(FeedMessage::sender(message), Some(NodeId(1)));
        }
        for end in 0..message.len() {
            assert_eq!(FeedMessage::decode(&message[..end]), None);
        }
    }

    /// Nodes of the version before read and write exactly this: what changes here needs another format number.
    #[test]
    fn messages_look_as_the_last_version_knows_them() {
        let id = Uuid::from_u128(0x11);
        let request = NodeMessage::Request(Request {
            from: 1,
            id: 2,
            attempt: 3,
            feed: UserId(id),
            items: vec![Item {
                author: UserId(id),
                operations: vec![Operation {
                    id: OperationId(id),
                    base: None,
                    command: Command::Undo(Undo { seq: 9 }),
                }],
                trace: None,
            }],
        });
        let reply = NodeMessage::Reply(Reply {
            id: 2,
            attempt: 3,
            feed: UserId(id),
            results: vec![vec![OperationResult {
                id: OperationId(id),
                outcome: Outcome::Accepted(Accepted { seq: 4 }),
            }]],
        });
        let member = Member {
            node: NodeId(1),
            name: "one".to_owned(),
            hosts_feeds: true,
            leaving: false,
            cluster: 7,
        };
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        let uuid = r"\xc4\x10\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x11";
        let items = format!(
            r"\xa5items\x91\x82\xa6author{uuid}\xaaoperations\x91\x82\xa2id{uuid}\xa7command\x81\xa4undo\x81\xa3seq\t"
        );
        assert_eq!(
            text(&request.encode()),
            format!(r"\x01\x81\xa1q\x85\xa4from\x01\xa2id\x02\xa7attempt\x03\xa4feed{uuid}{items}")
        );
        let results = format!(r"\xa7results\x91\x91\x82\xa2id{uuid}\xa7outcome\x81\xa8accepted\x81\xa3seq\x04");
        assert_eq!(
            text(&reply.encode()),
            format!(r"\x01\x81\xa1r\x84\xa2id\x02\xa7attempt\x03\xa4feed{uuid}{results}")
        );
        assert_eq!(
            text(&member.encode()),
            r"\x01\x84\xa4name\xa3one\xabhosts_feeds\xc3\xa7leaving\xc2\xa7cluster\x07"
        );
    }

    #[test]
    fn a_member_of_a_newer_build_is_a_member() {
        let mut body = vec![FORMAT, 0x85];
        for (key, value) in [
            ("name", 0xa1),
            ("hosts_feeds", 0xc3),
            ("leaving", 0xc2),
            ("cluster", 7),
            ("more", 1),
        ] {
            body.push(0xa0 + key.len() as u8);
            body.extend(key.bytes());
            body.push(value);
            if value == 0xa1 {
                body.push(b'n');
            }
        }
        let member = Member::decode(NodeId(1), &body).expect("a member");
        assert_eq!(
            (member.name.as_str(), member.hosts_feeds, member.cluster),
            ("n", true, 7)
        );
    }
}
