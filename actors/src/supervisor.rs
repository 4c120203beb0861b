//! Knows which feeds run on this node, starts them on first use, routes to them, and restarts what fails.
//!
//! The routing table is shared: a feed that runs is reached without a hop. Only a feed that does not run costs a message
//! to the [`Supervisor`] actor, which starts it on the arbiter that its id chooses.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::prelude::*;
use taskflow_protocol::limits::FEED_UNSAVED_OPERATIONS_MAX;
use taskflow_protocol::message::{ErrorBody, Operation, OperationResult, Outcome};
use taskflow_protocol::{Code, OperationId, UserId};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::domain::{Entry, State};
use crate::feed::actor::{Envelope, FeedActor, Request};
use crate::ports::{Clock, ConnectionId, Epoch, Push, Store};

/// Shards of the routing table: enough that the workers of one node seldom meet at a lock.
const TABLE_SHARDS: usize = 64;

/// Shortest wait before a feed that panicked is started again.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait: a feed whose data makes it panic must not eat a core.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A feed that ran this long without a panic begins again with the shortest wait.
const BACKOFF_FORGET: Duration = Duration::from_secs(60);

/// Where the results of a submission go.
#[derive(Debug)]
pub enum ReplyTo {
    /// To a connection, in one write with the push of the entries.
    Connection(ConnectionId),
    /// To a waiting request. A dropped sender means `outcome_unknown`.
    Waiter(oneshot::Sender<Settled>),
}

/// What a waiting request gets.
#[derive(Clone, Debug, Default)]
pub struct Settled {
    /// One for each operation.
    pub results: Vec<OperationResult>,
    /// The entries that were committed with them, those of others among them; none if the results come from memory. They
    /// hold the rows that a request made, so it need not look for them.
    pub entries: Option<Arc<[Entry]>>,
}

impl From<Vec<OperationResult>> for Settled {
    fn from(results: Vec<OperationResult>) -> Self {
        Self { results, entries: None }
    }
}

/// Operations on their way to a feed.
#[derive(Debug)]
pub struct Submission {
    /// The feed that they change.
    pub feed: UserId,
    /// Who asks.
    pub author: UserId,
    /// In the order in which they are judged.
    pub operations: Vec<Operation>,
    /// Who gets the results.
    pub reply: ReplyTo,
}

/// What feeds need from outside.
pub struct Ports {
    /// The log and the rows.
    pub store: Arc<dyn Store>,
    /// The way to the connections.
    pub push: Arc<dyn Push>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Who counts.
    pub observer: Arc<dyn Observer>,
    /// Random ids of new histories.
    pub new_epoch: Box<dyn Fn() -> Epoch + Send + Sync>,
    /// A feed that nobody asked anything for this long stops; it comes back on the next use.
    pub feed_idle: Duration,
}

/// Who counts what happens to feeds. All methods may do nothing.
pub trait Observer: Send + Sync + 'static {
    /// A feed actor began.
    fn feed_started(&self) {}
    /// A feed actor ended, for whatever reason.
    fn feed_stopped(&self) {}
    /// A feed panicked.
    fn feed_panicked(&self) {}
    /// An append was answered.
    fn appended(&self, _took: Duration) {}
    /// Operations got their results.
    fn settled(&self, _results: &[OperationResult]) {}
}

/// Counts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;
impl Observer for Unobserved {}

/// The right to have so many operations wait at a feed. Given back when dropped.
#[derive(Debug)]
pub struct Permit {
    used: Arc<AtomicU32>,
    count: u32,
}

impl Permit {
    fn acquire(used: &Arc<AtomicU32>, count: u32) -> Option<Self> {
        let max = FEED_UNSAVED_OPERATIONS_MAX as u32;
        let before = used.fetch_add(count, Ordering::AcqRel);
        let permit = Self {
            used: used.clone(),
            count,
        };
        // A refused permit is dropped right here, which takes the addition back.
        (before + count <= max).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.used.fetch_sub(self.count, Ordering::AcqRel);
    }
}

/// A feed, as the routing table knows it.
enum Place {
    /// The supervisor was told to start it; this is what waits for it, in order.
    Starting {
        waiting: Vec<Envelope>,
        used: Arc<AtomicU32>,
    },
    /// It runs.
    Running {
        address: Addr<FeedActor>,
        used: Arc<AtomicU32>,
    },
    /// It panicked and rests until this time.
    Resting { until: Instant },
}

/// How often a feed panicked lately.
#[derive(Clone, Copy)]
struct Failures {
    wait: Duration,
    last: Instant,
}

/// The routing table of this node.
pub struct Table {
    shards: Vec<Mutex<HashMap<UserId, Place>>>,
    failures: Mutex<HashMap<UserId, Failures>>,
    observer: Arc<dyn Observer>,
}

impl Table {
    fn new(observer: Arc<dyn Observer>) -> Self {
        let shards = (0..TABLE_SHARDS).map(|_| Mutex::default()).collect();
        Self {
            shards,
            failures: Mutex::default(),
            observer,
        }
    }

    fn shard(&self, feed: UserId) -> MutexGuard<'_, HashMap<UserId, Place>> {
        lock(&self.shards[feed.bytes()[15] as usize % TABLE_SHARDS])
    }

    /// Takes a feed that wants to stop out of the table, unless a request is on its way to it.
    pub fn retire(&self, feed: UserId) -> bool {
        let mut shard = self.shard(feed);
        match shard.get(&feed) {
            Some(Place::Running { used, .. }) if used.load(Ordering::Acquire) == 0 => {
                shard.remove(&feed);
                // After a rush the table is as large as it was then; the memory is for connections.
                if shard.len() < shard.capacity() / 4 {
                    shard.shrink_to_fit();
                }
                true
            }
            _ => false,
        }
    }

    /// A feed panicked: it rests for a while, longer each time.
    pub fn failed(&self, feed: UserId) {
        self.observer.feed_panicked();
        let now = Instant::now();
        let mut failures = lock(&self.failures);
        failures.retain(|_, failure| now - failure.last < BACKOFF_FORGET);
        let wait = failures
            .get(&feed)
            .map_or(BACKOFF_MIN, |failure| (failure.wait * 2).min(BACKOFF_MAX));
        failures.insert(feed, Failures { wait, last: now });
        self.shard(feed).insert(feed, Place::Resting { until: now + wait });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while a table lock is held leaves the map whole: every change to it is one insert or remove.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The way to every feed. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    table: Arc<Table>,
    supervisor: Addr<Supervisor>,
}

impl Router {
    /// Sends operations to their feed. Every operation is answered through `reply`, also those that are refused at once.
    pub fn submit(&self, submission: Submission, push: &dyn Push) {
        let (feed, count) = (submission.feed, submission.operations.len().max(1) as u32);
        if let Err((code, Request::Submit(submission))) = self.route(feed, count, Request::Submit(submission)) {
            let refuse = |operation: Operation| OperationResult {
                id: operation.id,
                outcome: Outcome::Refused(ErrorBody::new(code)),
            };
            let results = submission.operations.into_iter().map(refuse).collect();
            match submission.reply {
                ReplyTo::Connection(connection) => push.answer(connection, results),
                ReplyTo::Waiter(waiter) => drop(waiter.send(Settled::from(results))),
            }
        }
    }

    /// Sends operations and waits for their results.
    pub async fn ask(&self, feed: UserId, author: UserId, operations: Vec<Operation>) -> Settled {
        let ids: Vec<OperationId> = operations.iter().map(|operation| operation.id).collect();
        let (sender, receiver) = oneshot::channel();
        let count = operations.len().max(1) as u32;
        let submission = Submission {
            feed,
            author,
            operations,
            reply: ReplyTo::Waiter(sender),
        };
        let outcome = match self.route(feed, count, Request::Submit(submission)) {
            Ok(()) => match receiver.await {
                Ok(settled) => return settled,
                Err(_) => Outcome::Unknown(ErrorBody::new(Code::OutcomeUnknown)),
            },
            Err((code, _)) => Outcome::Refused(ErrorBody::new(code)),
        };
        let result = |id| OperationResult {
            id,
            outcome: outcome.clone(),
        };
        Settled::from(ids.into_iter().map(result).collect::<Vec<_>>())
    }

    /// Looks at a feed's memory, starting the feed if it is not running. The look runs on the feed's own thread.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the feed as it was.
    pub async fn view<T: Send + 'static>(
        &self,
        feed: UserId,
        look: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<T, Code> {
        let (sender, receiver) = oneshot::channel();
        let look = Request::Look(Box::new(move |state| drop(sender.send(state.map(look)))));
        self.route(feed, 1, look).map_err(|(code, _)| code)?;
        receiver.await.unwrap_or(Err(Code::FeedUnavailable))
    }

    /// Gives a new user a feed with an inbox and settings; it is no error if it is there already.
    pub async fn birth(&self, user: UserId, time_zone: String, locale: String) -> Result<(), Code> {
        let (sender, receiver) = oneshot::channel();
        let birth = Request::Birth {
            time_zone,
            locale,
            reply: ReplyTo::Waiter(sender),
        };
        self.route(user, 1, birth).map_err(|(code, _)| code)?;
        match receiver
            .await
            .unwrap_or_default()
            .results
            .pop()
            .map(|result| result.outcome)
        {
            None | Some(Outcome::Accepted(_)) => Ok(()),
            Some(Outcome::Refused(error) | Outcome::Unknown(error)) => Err(error.code),
            Some(Outcome::Conflict(_)) => Err(Code::Internal),
        }
    }

    /// Hands a request to the feed's actor, in the order of the calls. Gives it back with a code if it cannot.
    #[allow(
        clippy::result_large_err,
        reason = "the error is the request itself, on its way back to its only caller"
    )]
    fn route(&self, feed: UserId, count: u32, request: Request) -> Result<(), (Code, Request)> {
        let mut shard = self.table.shard(feed);
        match shard.get_mut(&feed) {
            Some(Place::Running { address, used }) if address.connected() => {
                let Some(permit) = Permit::acquire(used, count) else {
                    return Err((Code::FeedOverloaded, request));
                };
                #[allow(clippy::disallowed_methods, reason = "the permit bounds the mailbox")]
                address.do_send(Envelope { request, permit });
                return Ok(());
            }
            Some(Place::Starting { waiting, used }) => {
                let Some(permit) = Permit::acquire(used, count) else {
                    return Err((Code::FeedOverloaded, request));
                };
                waiting.push(Envelope { request, permit });
                return Ok(());
            }
            Some(Place::Resting { until }) if *until > Instant::now() => {
                return Err((Code::FeedUnavailable, request));
            }
            // Never started, rested enough, or ended without a word (its arbiter is gone): start it.
            Some(Place::Running { .. } | Place::Resting { .. }) | None => {}
        }
        let used = Arc::new(AtomicU32::new(0));
        let Some(permit) = Permit::acquire(&used, count) else {
            return Err((Code::FeedOverloaded, request));
        };
        shard.insert(
            feed,
            Place::Starting {
                waiting: vec![Envelope { request, permit }],
                used,
            },
        );
        #[allow(clippy::disallowed_methods, reason = "one message for each feed that is starting")]
        self.supervisor.do_send(Start(feed));
        Ok(())
    }
}

/// Starts a feed that is in the table as `Starting`.
#[derive(actix::Message)]
#[rtype(result = "()")]
struct Start(UserId);

/// One a node: starts feeds on their arbiters.
pub struct Supervisor {
    table: Arc<Table>,
    ports: Arc<Ports>,
    arbiters: Vec<ArbiterHandle>,
    new_append_id: Box<dyn Fn() -> u64 + Send>,
}

impl Supervisor {
    /// Starts the supervisor on the first arbiter; feeds are spread over all of them by the user's id.
    ///
    /// # Panics
    ///
    /// If there are no arbiters.
    pub fn start(ports: Ports, arbiters: &[ArbiterHandle], new_append_id: impl Fn() -> u64 + Send + 'static) -> Router {
        assert!(!arbiters.is_empty(), "feeds need an arbiter to live on");
        let table = Arc::new(Table::new(ports.observer.clone()));
        let supervisor = Self {
            table: table.clone(),
            ports: Arc::new(ports),
            arbiters: arbiters.to_vec(),
            new_append_id: Box::new(new_append_id),
        };
        let supervisor = Actor::start_in_arbiter(&arbiters[0], move |_| supervisor);
        Router { table, supervisor }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;
}

impl Handler<Start> for Supervisor {
    type Result = ();

    fn handle(&mut self, Start(feed): Start, _: &mut Self::Context) {
        let (ports, table, first) = (self.ports.clone(), self.table.clone(), (self.new_append_id)());
        let arbiter = &self.arbiters[feed.bytes()[14] as usize % self.arbiters.len()];
        let address = FeedActor::start_in_arbiter(arbiter, move |_| FeedActor::new(feed, first, ports, table));
        let mut shard = self.table.shard(feed);
        if let Some(Place::Starting { waiting, used }) = shard.remove(&feed) {
            for envelope in waiting {
                #[allow(clippy::disallowed_methods, reason = "the permit bounds the mailbox")]
                address.do_send(envelope);
            }
            shard.insert(feed, Place::Running { address, used });
        }
    }
}
