//! The outcomes of the operations of the last 24 hours.

use std::collections::{HashMap, VecDeque};

use taskflow_protocol::values::{Seq, UnixMs};
use taskflow_protocol::{OperationId, UserId};

use crate::domain::Entry;

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Tells the same operation from another under the same id.
    pub hash: u64,
    /// Its entry.
    pub seq: Seq,
    /// The code's number, if it was refused for good.
    pub refused: Option<u16>,
}

impl From<&Entry> for Answer {
    fn from(entry: &Entry) -> Self {
        Self {
            hash: entry.operation_hash,
            seq: entry.seq,
            refused: entry.refused,
        }
    }
}

/// Operations that are in the log, by author and id, forgotten in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Answers {
    by_id: HashMap<(UserId, OperationId), Answer>,
    by_time: VecDeque<(UnixMs, UserId, OperationId)>,
}

impl Answers {
    /// What became of the operation, if it is known.
    pub fn get(&self, author: UserId, id: OperationId) -> Option<Answer> {
        self.by_id.get(&(author, id)).copied()
    }

    /// Remembers the operation that made this entry.
    pub fn insert(&mut self, entry: &Entry) {
        self.by_id.insert((entry.author, entry.operation), entry.into());
        self.by_time.push_back((entry.time, entry.author, entry.operation));
    }

    /// Forgets what is older.
    pub fn forget_before(&mut self, time: UnixMs) {
        while let Some((_, author, id)) = self.by_time.pop_front_if(|(at, ..)| *at < time) {
            self.by_id.remove(&(author, id));
        }
    }
}
