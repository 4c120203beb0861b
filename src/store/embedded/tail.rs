//! The newest commits of the log: durable in the inbox, not yet moved to their places, and therefore held in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use taskflow_actors::ports::{Head, LogPage};
use taskflow_protocol::UserId;
use taskflow_protocol::values::Seq;

use super::codec::Commit;

/// Bytes that a commit costs in memory beside its body.
const COMMIT_BYTES: usize = 128;

/// The tail of one feed's log.
#[derive(Clone, Debug)]
pub(super) struct FeedTail {
    /// As of the last commit here.
    pub head: Head,
    /// In order, without a hole, none durable one missing after the first.
    pub commits: VecDeque<Commit>,
}

/// The tails of all feeds that have one. Holds durable commits only: what is here may be shown.
#[derive(Debug, Default)]
pub(super) struct Tail {
    feeds: Mutex<BTreeMap<UserId, FeedTail>>,
    bytes: AtomicUsize,
}

fn cost(commit: &Commit) -> usize {
    COMMIT_BYTES + commit.row.body.len()
}

impl Tail {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<UserId, FeedTail>> {
        // Every change below is complete at each point where it could panic.
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Adds what has become durable.
    pub(super) fn publish(&self, commits: impl IntoIterator<Item = (UserId, Head, Commit)>) {
        let mut feeds = self.lock();
        let mut bytes = 0;
        for (feed, head, commit) in commits {
            bytes += cost(&commit);
            let tail = feeds.entry(feed).or_insert_with(|| FeedTail {
                head,
                commits: VecDeque::new(),
            });
            tail.head = head;
            tail.commits.push_back(commit);
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Up to `count` of the oldest commits of a feed.
    pub(super) fn oldest(&self, feed: UserId, count: usize) -> Vec<Commit> {
        let feeds = self.lock();
        feeds
            .get(&feed)
            .map_or_else(Vec::new, |tail| tail.commits.iter().take(count).cloned().collect())
    }

    /// Commits up to `upto` are in their places; the rest of the head is now like this.
    pub(super) fn moved(&self, feed: UserId, upto: Seq, head: Head) {
        let mut feeds = self.lock();
        let Some(tail) = feeds.get_mut(&feed) else { return };
        let mut bytes = 0;
        while let Some(commit) = tail.commits.pop_front_if(|commit| commit.row.last <= upto) {
            bytes += cost(&commit);
        }
        tail.head = head;
        if tail.commits.is_empty() {
            feeds.remove(&feed);
        }
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Forgets a feed.
    pub(super) fn remove(&self, feed: UserId) {
        self.moved(
            feed,
            Seq::MAX,
            Head {
                epoch: taskflow_actors::ports::Epoch(0),
                seq: 0,
                first: 0,
                rows_upto: 0,
            },
        );
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.lock().clear();
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// The whole tail of a feed.
    pub(super) fn of(&self, feed: UserId) -> Option<FeedTail> {
        self.lock().get(&feed).cloned()
    }

    /// The head of a feed that has a tail.
    pub(super) fn head(&self, feed: UserId) -> Option<Head> {
        self.lock().get(&feed).map(|tail| tail.head)
    }

    /// The tail of a feed from the commit on that holds `after + 1`, to about `bytes_max`; for one page.
    pub(super) fn after(&self, feed: UserId, after: Seq, bytes_max: usize) -> Option<FeedTail> {
        let feeds = self.lock();
        let tail = feeds.get(&feed)?;
        let from = tail.commits.partition_point(|commit| commit.row.last <= after);
        let mut bytes = 0;
        let mut commits = VecDeque::new();
        for commit in tail.commits.range(from..) {
            if !commits.is_empty() && bytes + commit.row.body.len() > bytes_max {
                break;
            }
            bytes += commit.row.body.len();
            commits.push_back(commit.clone());
        }
        Some(FeedTail {
            head: tail.head,
            commits,
        })
    }

    /// A page that is wholly here; `None`: the tables have to be asked.
    pub(super) fn page(&self, feed: UserId, after: Seq, bytes_max: usize) -> Option<LogPage> {
        let here = {
            let feeds = self.lock();
            let tail = feeds.get(&feed)?;
            after >= tail.head.seq || tail.commits.front().is_some_and(|first| first.base <= after)
        };
        if !here {
            return None;
        }
        // Between the two locks the front may have been moved away: then what is left does not reach down to `after`.
        let tail = self.after(feed, after, bytes_max)?;
        let joined = match tail.commits.front() {
            Some(first) => first.base <= after,
            None => after >= tail.head.seq,
        };
        joined.then(|| LogPage {
            head: tail.head,
            rows: tail.commits.into_iter().map(|commit| commit.row).collect(),
        })
    }
}
