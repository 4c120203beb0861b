//! What the black-box tests work with: the real binary, and clients of the tests' own that share no code with it.
//!
//! Everything waits for a condition, up to [`DEADLINE`]; nothing sleeps.

#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]

pub mod collector;
pub mod feed;
pub mod http;
pub mod issuer;
pub mod sentry;
pub mod server;
pub mod ws;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use collector::Collector;
pub use feed::{Follower, Replica};
pub use http::{EventStream, Response};
pub use serde_json::{Value, json};
pub use server::{Account, Server};
pub use ws::{Client, Ended, Raw};

/// How long a test waits for what must happen. Long, because it is reached only by a failure: the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(40);

/// Both encodings of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Text frames.
    Json,
    /// Binary frames.
    MsgPack,
}

/// For tests that hold in both.
pub const ENCODINGS: [Encoding; 2] = [Encoding::Json, Encoding::MsgPack];

impl Encoding {
    pub fn subprotocol(self) -> &'static str {
        match self {
            Self::Json => "taskflow.v1.json",
            Self::MsgPack => "taskflow.v1.msgpack",
        }
    }

    pub fn encode(self, document: &Value) -> Vec<u8> {
        match self {
            Self::Json => serde_json::to_vec(document).expect("a document"),
            Self::MsgPack => rmp_serde::to_vec_named(document).expect("a document"),
        }
    }

    pub fn decode(self, bytes: &[u8]) -> Value {
        match self {
            Self::Json => serde_json::from_slice(bytes).expect("the server sends JSON"),
            Self::MsgPack => rmp_serde::from_slice(bytes).expect("the server sends MessagePack"),
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::MsgPack => "application/msgpack",
        }
    }
}

/// A new id (UUIDv7).
pub fn id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Something that is different at each call in this process.
pub fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Asks again and again until there is an answer.
///
/// # Panics
///
/// At the deadline, with `what` was waited for.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(
            begun.elapsed() < DEADLINE,
            "this did not happen within {DEADLINE:?}: {what}"
        );
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Runs one closure for each item at the same time, and passes on the first panic.
pub fn in_parallel<T: Send>(items: impl IntoIterator<Item = T>, run: impl Fn(T) + Sync) {
    let run = &run;
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.into_iter().map(|item| scope.spawn(move || run(item))).collect();
        let failed: Vec<_> = threads.into_iter().filter_map(|thread| thread.join().err()).collect();
        if let Some(panic) = failed.into_iter().next() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A small generator of pseudo-random numbers (SplitMix64), so that a seed repeats a test.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to, and without, `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
