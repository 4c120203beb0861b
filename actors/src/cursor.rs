//! How far a client has read a feed.

use taskflow_protocol::values::Seq;
use uuid::Uuid;

use crate::ports::Epoch;

/// The position that a cursor stands for. Clients treat its text as opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The history that it belongs to.
    pub epoch: Epoch,
    /// The last entry that the client has.
    pub seq: Seq,
}

impl Cursor {
    /// Its text: 32 hexadecimal digits, epoch before `seq`. (Followers of single lists will add a hash of the lists.)
    pub fn text(&self) -> String {
        Uuid::from_u64_pair(self.epoch.0, self.seq).simple().to_string()
    }

    /// Reads the text; `None` if it is not a cursor.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let (epoch, seq) = Uuid::try_parse(text).ok()?.as_u64_pair();
        Some(Self {
            epoch: Epoch(epoch),
            seq,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_and_nothing_else_does() {
        let cursor = Cursor {
            epoch: Epoch(0x1234_5678_9abc_def0),
            seq: 42,
        };
        assert_eq!(Cursor::parse(&cursor.text()), Some(cursor));
        for forged in [
            "",
            "x",
            "123456789abcdef0000000000000002",
            "123456789ABCDEF0000000000000002A",
            "not-a-cursor",
        ] {
            assert_eq!(Cursor::parse(forged), None, "{forged}");
        }
    }
}
