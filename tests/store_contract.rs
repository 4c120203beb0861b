//! The embedded store keeps the contract of its ports.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where what it needs fails")]

#[path = "../src/store/contract.rs"]
mod contract;

use std::sync::Arc;
use std::time::Duration;

use contract::Bench;
use taskflow::store::embedded::{self, Embedded, Options};
use taskflow_actors::ports::{Accounts, Store};
use tempfile::TempDir;

struct EmbeddedBench {
    folder: TempDir,
    options: Options,
    store: Option<Embedded>,
    /// How many times it was reopened: every other time it is not tidied before.
    reopened: usize,
}

impl EmbeddedBench {
    fn new(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Some(embedded::open(folder.path(), options.clone(), Arc::new(())).unwrap());
        Self {
            folder,
            options,
            store,
            reopened: 0,
        }
    }
}

impl Bench for EmbeddedBench {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone().unwrap())
    }

    fn accounts(&self) -> Arc<dyn Accounts> {
        Arc::new(self.store.clone().unwrap())
    }

    fn reopen(&mut self) {
        let store = self.store.take().unwrap();
        if self.reopened.is_multiple_of(2) {
            drop(store);
        } else {
            store.shutdown();
        }
        self.reopened += 1;
        self.store = Some(embedded::open(self.folder.path(), self.options.clone(), Arc::new(())).unwrap());
    }
}

/// What is appended is moved to its place at once: reads find it in the tables.
mod moved_at_once {
    use super::*;

    fn bench() -> EmbeddedBench {
        EmbeddedBench::new(Options {
            move_idle: Duration::ZERO,
            reserve_bytes: 0,
            ..Options::default()
        })
    }

    store_contract!(bench());
    accounts_contract!(bench());
}

/// It stays in memory until somebody writes rows: reads join both.
mod moved_late {
    use super::*;

    fn bench() -> EmbeddedBench {
        EmbeddedBench::new(Options {
            move_idle: Duration::from_millis(20),
            reserve_bytes: 0,
            ..Options::default()
        })
    }

    store_contract!(bench());
}

/// It is moved in the smallest pieces, and the write-ahead log starts over all the time.
mod moved_in_pieces {
    use super::*;

    fn bench() -> EmbeddedBench {
        EmbeddedBench::new(Options {
            move_idle: Duration::ZERO,
            move_items: 1,
            checkpoint_frames: 10,
            heads_max: 4,
            tail_bytes_max: 20_000,
            reserve_bytes: 0,
            ..Options::default()
        })
    }

    store_contract!(bench());
}
