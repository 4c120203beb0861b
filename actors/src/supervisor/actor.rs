//! The shell that starts feeds on their arbiters, and what feeds need from outside.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use taskflow_protocol::UserId;
use taskflow_protocol::message::OperationResult;
use taskflow_protocol::values::UnixMs;

use super::router::{Router, Table};
use crate::domain::Entry;
use crate::feed::Writers;
use crate::feed::actor::FeedActor;
use crate::ports::{AppendError, Clock, Epoch, Push, Store, Tracer};

/// What feeds need from outside.
pub struct Ports {
    /// The log and the rows.
    pub store: Arc<dyn Store>,
    /// Who may append to the logs.
    pub writers: Writers,
    /// The way to the connections.
    pub push: Arc<dyn Push>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Who counts.
    pub observer: Arc<dyn Observer>,
    /// Who takes the steps of requests that are traced.
    pub tracer: Arc<dyn Tracer>,
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
    fn appended(&self, _took: Duration, _result: &Result<(), AppendError>) {}
    /// Operations got their results, so long after they had come to the feed.
    fn settled(&self, _results: &[OperationResult], _took: Duration) {}
    /// Entries are durable; the one before them is of this time, 0 if there was none.
    fn committed(&self, _entries: &[Entry], _before: UnixMs) {}
}

/// Counts nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;
impl Observer for Unobserved {}

/// Starts a feed, as [`super::Routed::Start`] says.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub(super) struct Start(pub(super) UserId);

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
        Router {
            table,
            supervisor,
            cluster: None,
        }
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
        for envelope in shard.started(feed, address.clone()) {
            #[allow(clippy::disallowed_methods, reason = "the permit bounds the mailbox")]
            address.do_send(envelope);
        }
    }
}
