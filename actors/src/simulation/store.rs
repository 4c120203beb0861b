//! The store of a simulated cluster: the conditional log of the port's contract, with answers that are late or never come.
//!
//! Requests are carried out when they arrive, one after the other, as the replicas of one partition do. Whether the
//! answer arrives is another matter.

use std::collections::BTreeSet;

use futures_util::FutureExt as _;
use taskflow_protocol::UserId;

use crate::domain::Quarter;
use crate::memory::MemoryStore;
use crate::ports::{Append, AppendError, BoxFuture, Head, Loaded, LogPage, ReadError, RowKind, Store as _, StoredRow};

/// See the module.
#[derive(Debug, Default)]
pub struct SimStore {
    inner: MemoryStore,
    answered: BTreeSet<u64>,
}

fn now<T>(future: BoxFuture<T>) -> T {
    future.now_or_never().expect("the store in memory answers at once")
}

impl SimStore {
    /// Appends now. A refusal is looked at as the adapter does: it may be this very append, carried out before.
    pub fn append(&mut self, append: Append) -> Result<(), AppendError> {
        let (feed, base, id) = (append.feed, append.base, append.append_id);
        let mut done = now(self.inner.append(append));
        if matches!(done, Err(AppendError::Conflict(_))) && !self.answered.contains(&id) {
            let page = now(self.inner.read_log(feed, base, 1)).ok().flatten();
            let first = page.and_then(|page| page.rows.into_iter().next());
            if first.is_some_and(|row| row.append_id == id) {
                done = Ok(());
            }
        }
        done
    }

    /// The answer to an append has reached its node.
    pub fn answered(&mut self, append_id: u64) {
        self.answered.insert(append_id);
    }

    /// The head now.
    pub fn head(&self, feed: UserId) -> Result<Option<Head>, ReadError> {
        now(self.inner.head(feed))
    }

    /// The log after this entry.
    pub fn read_log(&self, feed: UserId, after: u64, bytes_max: usize) -> Result<Option<LogPage>, ReadError> {
        now(self.inner.read_log(feed, after, bytes_max))
    }

    /// Everything.
    pub fn load(&self, feed: UserId, ids_since: i64) -> Result<Option<Loaded>, ReadError> {
        now(self.inner.load(feed, ids_since))
    }

    /// What was done, all of it.
    pub fn activity(&self, feed: UserId) -> Vec<StoredRow> {
        let all = now(self.inner.activity(feed, Quarter(0), Quarter(u32::MAX)));
        all.unwrap_or_default()
    }

    /// Writes of rows what is written before all others, and then no more.
    pub fn write_first_rows(&self, feed: UserId, mut rows: Vec<StoredRow>) {
        rows.retain(|row| row.key.kind == RowKind::Activity);
        let _ = now(self.inner.write_rows(feed, rows, 0));
    }

    /// Writes rows now.
    pub fn write_rows(&self, feed: UserId, rows: Vec<StoredRow>, upto: u64) -> Result<(), AppendError> {
        now(self.inner.write_rows(feed, rows, upto))
    }
}
