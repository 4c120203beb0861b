//! Knows which feeds run on this node, starts them on first use, routes to them, and lets rest what failed.
//!
//! [`Shard`] is the component: a plain struct that is told what happens, and when, and says what is to be done. Two
//! shells carry that out. [`router`] has all shards, each behind a lock, and works on the caller's thread, so that a feed
//! that runs is reached without a hop. [`actor`] starts feeds on their arbiters. What the component promises, if what it
//! says is carried out before it is told the next thing:
//!
//! - A feed gets its requests in the order in which they came, also those that came before it ran.
//! - A user has one feed at most.
//! - A feed stops only when no request is on its way to it.
//! - A feed that panicked rests, longer each time.

pub mod actor;
pub mod router;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use taskflow_protocol::limits::FEED_UNSAVED_OPERATIONS_MAX;
use taskflow_protocol::{Code, UserId};

pub use self::actor::{Observer, Ports, Supervisor, Unobserved};
pub use self::router::{Committed, ReplyTo, Router, Settled, Submission, Table, Waiting};

/// Shortest wait before a feed that panicked is started again.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait: a feed whose data makes it panic must not eat a core.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A feed that ran this long without a panic begins again with the shortest wait.
const BACKOFF_FORGET: Duration = Duration::from_secs(60);

/// What waits at a feed: each may be [`FEED_UNSAVED_OPERATIONS_MAX`].
#[derive(Debug, Default)]
pub struct Used {
    operations: AtomicU32,
    looks: AtomicU32,
}

impl Used {
    fn is_idle(&self) -> bool {
        self.operations.load(Ordering::Acquire) == 0 && self.looks.load(Ordering::Acquire) == 0
    }
}

/// The right to have so many operations wait at a feed, or one look. Given back when dropped, wherever that is.
#[derive(Debug)]
pub struct Permit {
    used: Arc<Used>,
    /// 0: a look.
    operations: u32,
}

impl Permit {
    fn acquire(used: &Arc<Used>, operations: u32) -> Option<Self> {
        let max = FEED_UNSAVED_OPERATIONS_MAX as u32;
        let permit = Self {
            used: used.clone(),
            operations,
        };
        let (counter, count) = permit.counter();
        let before = counter.fetch_add(count, Ordering::AcqRel);
        // A refused permit is dropped right here, which takes the addition back.
        (before + count <= max).then_some(permit)
    }

    fn counter(&self) -> (&AtomicU32, u32) {
        match self.operations {
            0 => (&self.used.looks, 1),
            count => (&self.used.operations, count),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let (counter, count) = self.counter();
        counter.fetch_sub(count, Ordering::AcqRel);
    }
}

/// A request with its permit, as a feed gets it.
#[derive(Debug)]
pub struct Envelope<R> {
    /// What is asked.
    pub request: R,
    /// Given back when the request is answered, whatever the exit.
    pub permit: Permit,
}

/// Where a feed that was started takes its requests.
pub trait Address {
    /// Whether it still takes any. `false`: it ended without a word, with its arbiter.
    fn connected(&self) -> bool;
}

/// What is to be done with a request.
#[derive(Debug)]
#[must_use]
pub enum Routed<'a, A, R> {
    /// The feed runs: hand it over.
    Hand(&'a A, Envelope<R>),
    /// Start the feed. The request waits here until [`Shard::started`].
    Start,
    /// The feed is being started, and the request waits here behind those that came before.
    Wait,
    /// Give it back.
    Refuse(Code, R),
}

/// A feed, as the routing table knows it.
#[derive(Debug)]
enum Place<A, R> {
    /// It is being started; this is what waits for it, in order.
    Starting { waiting: Vec<Envelope<R>>, used: Arc<Used> },
    /// It runs.
    Running { address: A, used: Arc<Used> },
    /// It panicked and rests until this time.
    Resting { until: Instant },
}

/// How often a feed panicked lately.
#[derive(Clone, Copy, Debug)]
struct Failures {
    wait: Duration,
    last: Instant,
}

/// The component: some of the node's feeds, all of them together in one. See the module.
#[derive(Debug)]
pub struct Shard<A, R> {
    places: HashMap<UserId, Place<A, R>>,
    failures: HashMap<UserId, Failures>,
}

impl<A, R> Default for Shard<A, R> {
    fn default() -> Self {
        Self {
            places: HashMap::new(),
            failures: HashMap::new(),
        }
    }
}

impl<A: Address, R> Shard<A, R> {
    /// Somebody asks for something that counts as so many operations; 0: to look at the feed.
    pub fn route(&mut self, feed: UserId, count: u32, request: R, now: Instant) -> Routed<'_, A, R> {
        // A feed that never ran has rested enough, and so has one that ended without a word.
        let rested = || Place::Resting { until: now };
        let place = self.places.entry(feed).or_insert_with(rested);
        if matches!(place, Place::Running { address, .. } if !address.connected()) {
            *place = rested();
        }
        match place {
            Place::Running { address, used } => match Permit::acquire(used, count) {
                Some(permit) => Routed::Hand(address, Envelope { request, permit }),
                None => Routed::Refuse(Code::FeedOverloaded, request),
            },
            Place::Starting { waiting, used } => match Permit::acquire(used, count) {
                Some(permit) => {
                    waiting.push(Envelope { request, permit });
                    Routed::Wait
                }
                None => Routed::Refuse(Code::FeedOverloaded, request),
            },
            Place::Resting { until } if *until > now => Routed::Refuse(Code::FeedUnavailable, request),
            Place::Resting { .. } => {
                let used = Arc::default();
                let Some(permit) = Permit::acquire(&used, count) else {
                    return Routed::Refuse(Code::FeedOverloaded, request);
                };
                let waiting = vec![Envelope { request, permit }];
                *place = Place::Starting { waiting, used };
                Routed::Start
            }
        }
    }

    /// A feed was started. What waited for it is to be handed to it, in order.
    pub fn started(&mut self, feed: UserId, address: A) -> Vec<Envelope<R>> {
        let Some(place) = self.places.get_mut(&feed) else {
            return Vec::new();
        };
        let Place::Starting { waiting, used } = place else {
            return Vec::new();
        };
        let (waiting, used) = (std::mem::take(waiting), used.clone());
        *place = Place::Running { address, used };
        waiting
    }

    /// Where the feeds that run take their requests.
    pub fn running(&self) -> impl Iterator<Item = &A> {
        self.places.values().filter_map(|place| match place {
            Place::Running { address, .. } => Some(address),
            Place::Starting { .. } | Place::Resting { .. } => None,
        })
    }

    /// Where the feed takes its requests, if it runs.
    pub fn address(&self, feed: UserId) -> Option<&A> {
        match self.places.get(&feed) {
            Some(Place::Running { address, .. }) => Some(address),
            Some(Place::Starting { .. } | Place::Resting { .. }) | None => None,
        }
    }

    /// Whether operations wait at the feed, or for it. Looks do not count.
    pub fn is_busy(&self, feed: UserId) -> bool {
        match self.places.get(&feed) {
            Some(Place::Running { used, .. } | Place::Starting { used, .. }) => {
                used.operations.load(Ordering::Acquire) > 0
            }
            Some(Place::Resting { .. }) | None => false,
        }
    }

    /// Each feed at which operations wait, or for which they do while it starts, and how many.
    pub fn queues(&self) -> impl Iterator<Item = (UserId, u32)> {
        let queues = self.places.iter().filter_map(|(feed, place)| match place {
            Place::Running { used, .. } | Place::Starting { used, .. } => {
                Some((*feed, used.operations.load(Ordering::Relaxed)))
            }
            Place::Resting { .. } => None,
        });
        queues.filter(|(_, operations)| *operations > 0)
    }

    /// How many feeds are being started.
    pub fn starting(&self) -> usize {
        let starting = |place: &&Place<A, R>| matches!(place, Place::Starting { .. });
        self.places.values().filter(starting).count()
    }

    /// A feed that runs wants to stop. It may, unless a request is on its way to it; whoever asks from now on starts a
    /// new one.
    pub fn retire(&mut self, feed: UserId) -> bool {
        match self.places.get(&feed) {
            Some(Place::Running { used, .. }) if used.is_idle() => {
                self.places.remove(&feed);
                // After a rush the table is as large as it was then; the memory is for connections.
                if self.places.len() < self.places.capacity() / 4 {
                    self.places.shrink_to_fit();
                }
                true
            }
            _ => false,
        }
    }

    /// A feed that ran has panicked and is gone: it rests for a while, longer each time.
    pub fn failed(&mut self, feed: UserId, now: Instant) {
        self.failures.retain(|_, failure| now - failure.last < BACKOFF_FORGET);
        let wait = self
            .failures
            .get(&feed)
            .map_or(BACKOFF_MIN, |failure| (failure.wait * 2).min(BACKOFF_MAX));
        self.failures.insert(feed, Failures { wait, last: now });
        self.places.insert(feed, Place::Resting { until: now + wait });
    }
}
