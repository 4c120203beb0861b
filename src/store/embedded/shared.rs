//! What the callers, the writer and the readers have in common.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use taskflow_protocol::UserId;

use super::fault::{Fault, Outcome};
use super::folder::Folder;
use super::queue::{ReadQueue, WriteQueue};
use super::tail::Tail;
use super::{Options, StoreObserver};

pub(super) struct Shared {
    pub folder: Folder,
    pub options: Options,
    pub observer: Arc<dyn StoreObserver>,
    pub writes: WriteQueue,
    pub reads: ReadQueue,
    pub tail: Tail,
    damaged: Damaged,
    accounts_incomplete: AtomicBool,
}

#[derive(Default)]
struct Damaged {
    /// So that the ordinary case takes no lock.
    any: AtomicBool,
    feeds: Mutex<HashMap<UserId, String>>,
    /// Those of which a part can be read and a part that was acknowledged cannot: they are not read at all.
    hidden: Mutex<HashMap<UserId, String>>,
}

impl Shared {
    pub(super) fn new(folder: Folder, options: Options, observer: Arc<dyn StoreObserver>) -> Self {
        Self {
            writes: WriteQueue::new(options.queue_jobs_max, options.queue_bytes_max),
            reads: ReadQueue::new(options.reads_max),
            folder,
            options,
            observer,
            tail: Tail::default(),
            damaged: Damaged::default(),
            accounts_incomplete: AtomicBool::new(false),
        }
    }

    /// A feed is damaged: from now on it takes no appends. Reported once.
    pub(super) fn damaged(&self, feed: UserId, what: &str) {
        let new = {
            let mut feeds = self.damaged.feeds.lock().unwrap_or_else(PoisonError::into_inner);
            feeds.insert(feed, what.to_owned()).is_none()
        };
        self.damaged.any.store(true, Ordering::Release);
        if new {
            tracing::error!(user.id = %feed, damage = what, "a stored feed is damaged and takes no more changes");
            self.observer.damage();
        }
    }

    /// The feed is there no more, and so is what was wrong with it.
    pub(super) fn forget(&self, feed: UserId) {
        for map in [&self.damaged.feeds, &self.damaged.hidden] {
            map.lock().unwrap_or_else(PoisonError::into_inner).remove(&feed);
        }
    }

    /// Reads of this feed fail from now on: what they would show is not all of it.
    pub(super) fn hide(&self, feed: UserId, what: &str) {
        self.damaged
            .hidden
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(feed, what.to_owned());
        self.damaged.any.store(true, Ordering::Release);
    }

    /// Whether a feed may be read.
    pub(super) fn readable(&self, feed: UserId) -> Outcome<()> {
        if !self.damaged.any.load(Ordering::Acquire) {
            return Ok(());
        }
        match self
            .damaged
            .hidden
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&feed)
        {
            Some(what) => Err(Fault::Damaged(what.clone())),
            None => Ok(()),
        }
    }

    /// What is known to be wrong with a feed.
    pub(super) fn damage_of(&self, feed: UserId) -> Option<String> {
        if !self.damaged.any.load(Ordering::Acquire) {
            return None;
        }
        self.damaged
            .feeds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&feed)
            .cloned()
    }

    pub(super) fn set_accounts_incomplete(&self) {
        if !self.accounts_incomplete.swap(true, Ordering::Relaxed) {
            tracing::error!("the table of accounts is damaged: some accounts that were written are missing");
            self.observer.damage();
        }
    }

    pub(super) fn accounts_incomplete(&self) -> bool {
        self.accounts_incomplete.load(Ordering::Relaxed)
    }

    /// Something failed, and it is not told to a caller in full.
    pub(super) fn trouble(&self, what: &str) {
        tracing::error!(cause = what, "the store is in trouble");
        self.observer.error();
    }

    /// Counts a failure on its way to the caller.
    pub(super) fn noted<T>(&self, outcome: Outcome<T>) -> Outcome<T> {
        if let Err(Fault::Unavailable(_) | Fault::Damaged(_)) = &outcome {
            self.observer.error();
        }
        outcome
    }
}
