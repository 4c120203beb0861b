//! The outcomes of the operations of the last 24 hours.

use std::collections::{HashMap, VecDeque};

use taskflow_protocol::values::{Seq, UnixMs};
use taskflow_protocol::{OperationId, UserId};

use crate::domain::Entry;

/// Accepted operations by author and id, forgotten in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Answers {
    by_id: HashMap<(UserId, OperationId), (u64, Seq)>,
    by_time: VecDeque<(UnixMs, UserId, OperationId)>,
}

impl Answers {
    /// The hash of the operation's body, and its entry.
    pub fn get(&self, author: UserId, id: OperationId) -> Option<(u64, Seq)> {
        self.by_id.get(&(author, id)).copied()
    }

    /// Remembers the operation that made this entry.
    pub fn insert(&mut self, entry: &Entry) {
        self.by_id
            .insert((entry.author, entry.operation), (entry.operation_hash, entry.seq));
        self.by_time.push_back((entry.time, entry.author, entry.operation));
    }

    /// Forgets what is older.
    pub fn forget_before(&mut self, time: UnixMs) {
        while let Some((_, author, id)) = self.by_time.pop_front_if(|(at, ..)| *at < time) {
            self.by_id.remove(&(author, id));
        }
    }
}
