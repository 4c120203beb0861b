//! The shell that routes: all shards, each behind a lock, on whatever thread somebody asks.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::prelude::*;
use taskflow_protocol::message::{ErrorBody, Operation, OperationResult, Outcome};
use taskflow_protocol::{Code, OperationId, UserId};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::actor::{Observer, Start, Supervisor};
use super::{Address, Routed, Shard};
use crate::cluster::Cluster;
use crate::cluster::lines::all;
use crate::domain::{Entry, State};
use crate::feed::actor::{Announce, FeedActor, Removed, Request};
use crate::ports::{ConnectionId, Epoch, Push};
use crate::trace::TraceContext;

/// Shards of the routing table: enough that the workers of one node seldom meet at a lock.
const TABLE_SHARDS: usize = 64;

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
    /// What was committed with them; none if the results come from memory, or from another node.
    pub committed: Option<Committed>,
}

/// Entries that were committed with the results of a request, those of others among them. They hold the rows that the request
/// made, so it need not look for them.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The history that they are of.
    pub epoch: Epoch,
    /// The entries.
    pub entries: Arc<[Entry]>,
}

impl From<Vec<OperationResult>> for Settled {
    fn from(results: Vec<OperationResult>) -> Self {
        Self {
            results,
            committed: None,
        }
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
    /// See [`crate::feed::Message::Submit`].
    pub repeated: bool,
    /// What asked for them, if that is traced.
    pub trace: Option<TraceContext>,
}

impl Address for Addr<FeedActor> {
    fn connected(&self) -> bool {
        Addr::connected(self)
    }
}

type FeedShard = Shard<Addr<FeedActor>, Request>;

/// The routing table of this node.
pub struct Table {
    shards: Vec<Mutex<FeedShard>>,
    observer: Arc<dyn Observer>,
}

impl Table {
    pub(super) fn new(observer: Arc<dyn Observer>) -> Self {
        let shards = (0..TABLE_SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, observer }
    }

    /// The shard of a feed. What it says is to be carried out before the lock is given back.
    pub(super) fn shard(&self, feed: UserId) -> MutexGuard<'_, FeedShard> {
        self.locked(feed.bytes()[15] as usize % TABLE_SHARDS)
    }

    fn locked(&self, shard: usize) -> MutexGuard<'_, FeedShard> {
        // A panic while the lock is held leaves the shard whole: every change to it is one insert or remove.
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Shard::retire`].
    pub fn retire(&self, feed: UserId) -> bool {
        self.shard(feed).retire(feed)
    }

    /// See [`Shard::failed`].
    pub fn failed(&self, feed: UserId) {
        self.observer.feed_panicked();
        self.shard(feed).failed(feed, Instant::now().into_std());
    }
}

/// What waits on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Waiting {
    /// Operations at feeds.
    pub operations: u64,
    /// Those of the feed at which the most of them wait.
    pub operations_max: u32,
    /// Feeds that the supervisor is to start.
    pub starts: usize,
}

/// The way to every feed. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    pub(super) table: Arc<Table>,
    pub(super) supervisor: Addr<Supervisor>,
    pub(super) cluster: Option<Arc<Cluster>>,
}

impl Router {
    /// The same, in a cluster: operations go to the node that hosts their feed.
    pub fn with_cluster(self, cluster: Arc<Cluster>) -> Self {
        Self {
            cluster: Some(cluster),
            ..self
        }
    }

    /// The cluster, if there is one.
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    /// Has every feed on this node say how far it is.
    pub fn announce_all(&self) {
        for shard in 0..TABLE_SHARDS {
            for address in self.table.locked(shard).running() {
                #[allow(
                    clippy::disallowed_methods,
                    reason = "one for each feed, once when messages come through again"
                )]
                address.do_send(Announce);
            }
        }
    }

    /// The feed was removed from the store: what this node has of it in memory is dropped. Other nodes find it out when they
    /// look at the head.
    pub fn removed(&self, feed: UserId) {
        if let Some(address) = self.table.shard(feed).address(feed) {
            #[allow(clippy::disallowed_methods, reason = "one for each account that is deleted")]
            address.do_send(Removed);
        }
    }

    /// The feeds on this node at which the most operations wait, the longest queue first, up to so many of them. For an
    /// operator: each shard is locked for as long as its feeds are counted.
    pub fn longest_queues(&self, max: usize) -> Vec<(UserId, u32)> {
        let mut longest: Vec<(UserId, u32)> = Vec::new();
        for shard in 0..TABLE_SHARDS {
            longest.extend(self.table.locked(shard).queues());
            longest.sort_unstable_by_key(|(feed, operations)| (Reverse(*operations), *feed));
            longest.truncate(max);
        }
        longest
    }

    /// What waits on this node. For whoever counts: each shard is locked for as long as its feeds are counted.
    pub fn waiting(&self) -> Waiting {
        let mut waiting = Waiting::default();
        for shard in 0..TABLE_SHARDS {
            let shard = self.table.locked(shard);
            waiting.starts += shard.starting();
            for (_, operations) in shard.queues() {
                waiting.operations += u64::from(operations);
                waiting.operations_max = waiting.operations_max.max(operations);
            }
        }
        waiting
    }

    /// Whether operations wait at the feed's actor on this node.
    pub fn is_busy(&self, feed: UserId) -> bool {
        self.table.shard(feed).is_busy(feed)
    }

    /// Whether another node hosts the feed.
    pub fn is_elsewhere(&self, feed: UserId) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.is_elsewhere(feed))
    }

    /// Sends operations to their feed, wherever it is hosted. Every operation is answered through `reply`, also those that
    /// are refused at once.
    pub fn submit(&self, submission: Submission, push: &dyn Push) {
        match &self.cluster {
            Some(cluster) if cluster.is_elsewhere(submission.feed) => cluster.submit(submission),
            _ => self.submit_here(submission, push),
        }
    }

    /// Sends operations to the feed's actor on this node, whoever hosts it.
    pub fn submit_here(&self, submission: Submission, push: &dyn Push) {
        let (feed, count) = (submission.feed, submission.operations.len().max(1) as u32);
        if let Err((code, Request::Submit(submission))) = self.route(feed, count, Request::Submit(submission)) {
            let outcome = if submission.repeated {
                // This copy is not done; of the one before it nobody knows.
                Outcome::Unknown(ErrorBody::new(Code::OutcomeUnknown))
            } else {
                Outcome::Refused(ErrorBody::new(code))
            };
            let results = all(&submission.operations, &outcome);
            match submission.reply {
                ReplyTo::Connection(connection) => push.answer(connection, results),
                ReplyTo::Waiter(waiter) => drop(waiter.send(Settled::from(results))),
            }
        }
    }

    /// Sends operations and waits for their results.
    pub async fn ask(
        &self,
        feed: UserId,
        author: UserId,
        operations: Vec<Operation>,
        trace: Option<TraceContext>,
    ) -> Settled {
        let ids: Vec<OperationId> = operations.iter().map(|operation| operation.id).collect();
        let (sender, receiver) = oneshot::channel();
        let count = operations.len().max(1) as u32;
        let submission = Submission {
            feed,
            author,
            operations,
            reply: ReplyTo::Waiter(sender),
            repeated: false,
            trace,
        };
        let sent = match &self.cluster {
            Some(cluster) if cluster.is_elsewhere(feed) => {
                cluster.submit(submission);
                Ok(())
            }
            _ => self.route(feed, count, Request::Submit(submission)),
        };
        let outcome = match sent {
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
        self.route(feed, 0, look).map_err(|(code, _)| code)?;
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
        let now = Instant::now().into_std();
        let mut shard = self.table.shard(feed);
        match shard.route(feed, count, request, now) {
            #[allow(clippy::disallowed_methods, reason = "the permit bounds the mailbox")]
            Routed::Hand(address, envelope) => address.do_send(envelope),
            #[allow(clippy::disallowed_methods, reason = "one message for each feed that is starting")]
            Routed::Start => self.supervisor.do_send(Start(feed)),
            Routed::Wait => {}
            Routed::Refuse(code, request) => return Err((code, request)),
        }
        Ok(())
    }
}
