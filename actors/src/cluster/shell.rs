//! The shell of a node: one lock around the component, and what it says carried out.
//!
//! What goes to the bus is handed over under the lock, because its order matters and the bus never waits. Everything else
//! is done after the lock was given back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use taskflow_protocol::message::{ErrorBody, OperationResult, Outcome};
use taskflow_protocol::{Code, UserId};
use tokio::sync::oneshot;

use super::lines::{self, Submitted};
use super::members::BEAT_MS;
use super::node::{Effect, Event, Node, Report, SUBSCRIBE_WAIT_MS};
use super::wire::{FeedMessage, Item, NodeMessage, Notice, Reply, Request};
use super::{Member, Placement};
use crate::ports::{Bus, BusEvent, BusInbox, Head, NodeId, Notices, Publication, Push, Spent, Store, Tracer};
use crate::supervisor::{ReplyTo, Router, Settled, Submission};
use crate::trace::{Span, SpanKind};

/// How often a node looks at what is due: repeats, deadlines, reads of heads.
const TICK: Duration = Duration::from_millis(20);

/// How long a node that leaves goes on serving: by then every other one has looked at the beats, twice.
const LEAVE_AFTER: Duration = Duration::from_millis(3 * BEAT_MS);

/// Who counts what happens between nodes. All methods may do nothing.
pub trait Observer: Send + Sync + 'static {
    /// A request went to a host elsewhere, for the first time or again.
    fn forwarded(&self) {}
    /// A request of another node was taken.
    fn taken(&self) {}
    /// The head of a followed feed was read.
    fn head_read(&self) {}
    /// An operator should know.
    fn reported(&self, _report: &Report) {}
}

/// Counts nothing.
impl Observer for () {}

/// Who waits for a host elsewhere.
#[derive(Debug)]
pub struct Asked {
    reply: ReplyTo,
    /// Where the request is traced.
    span: Option<Box<Span>>,
}

/// A node of a cluster. See the module.
pub struct Cluster {
    node: Mutex<Node<Asked>>,
    me: NodeId,
    placement: RwLock<Arc<Placement>>,
    /// Feeds with operations that wait for a host: while there are none, nobody needs the lock to know.
    lines: AtomicUsize,
    /// Requests of other nodes that are being performed.
    performing: AtomicUsize,
    waiting: Mutex<HashMap<UserId, Vec<oneshot::Sender<()>>>>,
    begun: Instant,
    store: Arc<dyn Store>,
    push: Arc<dyn Push>,
    observer: Arc<dyn Observer>,
    tracer: Arc<dyn Tracer>,
    bus: OnceLock<Arc<dyn Bus>>,
    router: OnceLock<Router>,
    notices: OnceLock<Arc<dyn Notices>>,
    /// Some may have been missed before there was anybody to tell.
    missed_early: AtomicBool,
}

/// A node, as another one or it itself sees it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct SeenNode {
    /// Its name.
    pub name: String,
    /// It is the one that sees.
    pub is_this: bool,
    /// It hosts feeds.
    pub hosts_feeds: bool,
    /// It is about to end.
    pub leaving: bool,
    /// Milliseconds since it was heard.
    pub heard_ms_ago: Option<u64>,
    /// How much of all feeds it hosts, from 0 to 1.
    pub share: f64,
}

/// What is left to do when the lock has been given back.
type Rest = Vec<Effect<Asked>>;

impl Cluster {
    /// A node that is not on the bus yet: see [`Cluster::join`].
    pub fn new(
        me: Member,
        first_request: u64,
        store: Arc<dyn Store>,
        push: Arc<dyn Push>,
        observer: Arc<dyn Observer>,
        tracer: Arc<dyn Tracer>,
    ) -> Arc<Self> {
        Arc::new(Self {
            me: me.node,
            node: Mutex::new(Node::new(me, first_request)),
            placement: RwLock::new(Arc::new(Placement::alone())),
            lines: AtomicUsize::new(0),
            performing: AtomicUsize::new(0),
            waiting: Mutex::default(),
            begun: Instant::now(),
            store,
            push,
            observer,
            tracer,
            bus: OnceLock::new(),
            router: OnceLock::new(),
            notices: OnceLock::new(),
            missed_early: AtomicBool::new(false),
        })
    }

    /// Goes on the bus, with the way to the feeds of this node, and begins to beat and to tick. Needs a runtime that
    /// lives as long as the node.
    pub fn join(self: &Arc<Self>, bus: Arc<dyn Bus>, router: Router) {
        let _ = self.router.set(router);
        bus.beat(self.locked().me().encode());
        bus.subscribe(Notice::CHANNEL);
        let _ = self.bus.set(bus);
        let cluster = self.clone();
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(TICK);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                cluster.handle(Event::Tick);
            }
        });
    }

    /// Tells the others that this node is about to end, so that they host its feeds from now on. What they still send is
    /// done and answered: ends when they know, and no request of theirs is under way, or at the deadline.
    pub async fn leave(self: &Arc<Self>, deadline: tokio::time::Instant) {
        self.handle(Event::Leave);
        if !self.status().0 {
            // There is nobody to tell.
            return;
        }
        tokio::time::sleep_until(deadline.min(tokio::time::Instant::now() + LEAVE_AFTER)).await;
        while self.performing.load(Ordering::Acquire) > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(TICK).await;
        }
    }

    /// Who hears what all nodes are told. To be set once, before the first token is taken.
    pub fn on_notices(&self, notices: Arc<dyn Notices>) {
        let notices = self.notices.get_or_init(|| notices);
        if self.missed_early.load(Ordering::SeqCst) {
            notices.missed();
        }
    }

    /// Tells every other node that something limited was done here.
    pub fn tried(self: &Arc<Self>, keys: Vec<u128>) {
        let node = self.me.0;
        self.handle(Event::Notice(Notice::Tried { node, keys }));
    }

    /// Tells every other node that much was done here of what has a rate, or is held of what has a limit.
    pub fn spent(self: &Arc<Self>, spent: Vec<Spent>) {
        let node = self.me.0;
        self.handle(Event::Notice(Notice::Spent { node, spent }));
    }

    /// Tells every node that a sign-in was ended. Whoever does not hear it looks into the store when messages come through
    /// again.
    pub fn signed_out(self: &Arc<Self>, user: UserId, sign_in: uuid::Uuid) {
        self.handle(Event::Notice(Notice::SignedOut { user, sign_in }));
    }

    /// This life of this node.
    pub fn node(&self) -> NodeId {
        self.me
    }

    /// Whether operations for the feed have to go to another node, or behind others that do.
    pub fn is_elsewhere(&self, feed: UserId) -> bool {
        if self.lines.load(Ordering::Acquire) > 0 {
            return self.locked().is_elsewhere(feed);
        }
        let placement = self.placement.read().unwrap_or_else(PoisonError::into_inner);
        placement.host(feed).is_some_and(|host| host != self.me)
    }

    /// Sends operations to their host.
    pub fn submit(self: &Arc<Self>, submission: Submission) {
        let Submission {
            feed,
            author,
            operations,
            reply,
            trace,
            ..
        } = submission;
        let bytes = operations.iter().map(approximate_bytes).sum();
        let connection = match reply {
            ReplyTo::Connection(connection) => Some(connection),
            ReplyTo::Waiter(_) => None,
        };
        let span = trace.and_then(|trace| self.tracer.begin("bus request", SpanKind::Client, trace));
        self.handle(Event::Submit(Submitted {
            feed,
            author,
            connection,
            operations,
            bytes,
            trace: span.as_ref().map(|span| span.context),
            token: Asked { reply, span },
        }));
    }

    /// Somebody here follows the feed now. Each call is followed by one of [`Cluster::unfollowed`].
    pub fn followed(self: &Arc<Self>, feed: UserId) {
        self.handle(Event::Followed(feed));
    }

    /// Nobody does any more.
    pub fn unfollowed(self: &Arc<Self>, feed: UserId) {
        self.handle(Event::Unfollowed(feed));
    }

    /// Ends when what is published for the feed comes in, or cannot for now. Then is the time to read the log.
    pub async fn subscribed(&self, feed: UserId) {
        let receiver = {
            let node = self.locked();
            if !node.awaits_subscription(feed) {
                return;
            }
            let (sender, receiver) = oneshot::channel();
            lock(&self.waiting).entry(feed).or_default().push(sender);
            receiver
        };
        // Whether it came or not, the log is read next; what comes later is compared with the head.
        let _ = tokio::time::timeout(Duration::from_millis(SUBSCRIBE_WAIT_MS), receiver).await;
    }

    /// What an operator may see: whether messages come through, and the names of the nodes that are there.
    pub fn status(&self) -> (bool, Vec<String>) {
        let node = self.locked();
        (
            node.is_up(),
            node.members().iter().map(|member| member.name.clone()).collect(),
        )
    }

    /// How many operations for feeds hosted elsewhere are not answered yet.
    pub fn operations_waiting(&self) -> usize {
        self.locked().operations_waiting()
    }

    /// How many sign-outs are to be told again, because this node has not heard them itself.
    pub fn sign_outs_waiting(&self) -> usize {
        self.locked().sign_outs_waiting()
    }

    /// The nodes that are there, as this one sees them.
    pub fn nodes(&self) -> Vec<SeenNode> {
        let now = self.begun.elapsed().as_millis() as u64;
        let (members, placement) = {
            let node = self.locked();
            let heard = |member: &Member| node.members().heard_ms_ago(member.node, now);
            let members = node.members().iter().map(|member| (member.clone(), heard(member)));
            (members.collect::<Vec<_>>(), node.placement().clone())
        };
        let seen = members.into_iter().map(|(member, heard_ms_ago)| SeenNode {
            is_this: member.node == self.me,
            hosts_feeds: member.hosts_feeds,
            leaving: member.leaving,
            heard_ms_ago,
            share: placement.share(member.node),
            name: member.name,
        });
        seen.collect()
    }

    fn locked(&self) -> MutexGuard<'_, Node<Asked>> {
        // A panic under the lock ends what was being done; the component is whole between two events.
        lock(&self.node)
    }

    fn handle(self: &Arc<Self>, event: Event<Asked>) {
        let rest = {
            let mut node = self.locked();
            let now = self.begun.elapsed().as_millis() as u64;
            let busy = |feed| self.router.get().is_some_and(|router| router.is_busy(feed));
            let effects = node.handle(event, now, &busy);
            self.lines.store(node.lines(), Ordering::Release);
            self.tell_bus(effects)
        };
        for effect in rest {
            self.carry_out(effect);
        }
    }

    /// What goes to the bus, in order; gives back the rest.
    fn tell_bus(&self, effects: Vec<Effect<Asked>>) -> Rest {
        let Some(bus) = self.bus.get() else { return effects };
        let mut rest = Vec::new();
        for effect in effects {
            match effect {
                Effect::Send(node, message) => {
                    self.observer.forwarded();
                    bus.send(node, message);
                }
                Effect::Tell(message) => bus.publish(Notice::CHANNEL, message),
                Effect::Subscribe(feed) => bus.subscribe(feed),
                Effect::Unsubscribe(feed) => bus.unsubscribe(feed),
                Effect::Beat(body) => bus.beat(body),
                Effect::Placed(placement) => {
                    *self.placement.write().unwrap_or_else(PoisonError::into_inner) = placement;
                }
                other => rest.push(other),
            }
        }
        rest
    }

    fn carry_out(self: &Arc<Self>, effect: Effect<Asked>) {
        match effect {
            Effect::Answer(asked, results) => self.answer(asked, results),
            Effect::Refuse(code, asked, operations) => {
                let refused = Outcome::Refused(ErrorBody::new(code));
                self.answer(asked, lines::all(&operations, &refused));
            }
            Effect::Perform(from, request) => self.perform(from, request),
            Effect::ReadHead(feed) => {
                self.observer.head_read();
                let (cluster, read) = (self.clone(), self.store.peek_head(feed));
                tokio::spawn(async move { cluster.handle(Event::HeadRead(feed, read.await)) });
            }
            Effect::Gather(feed) => {
                let cluster = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(lines::GATHER_MS)).await;
                    cluster.handle(Event::Gathered(feed));
                });
            }
            Effect::Deliver(feed, epoch, entries) => self.push.publish(Publication {
                feed,
                epoch,
                entries: entries.into(),
                answers: Vec::new(),
            }),
            Effect::Announce(feed, head) => self.push.announce(feed, head),
            Effect::Subscribed(feeds) => {
                let mut waiting = lock(&self.waiting);
                for waiter in feeds.iter().filter_map(|feed| waiting.remove(feed)).flatten() {
                    // Who gave up waiting is reading already.
                    let _ = waiter.send(());
                }
            }
            Effect::Stale(ms) => self.push.stale(ms.map(Duration::from_millis)),
            Effect::AnnounceAll => {
                if let Some(router) = self.router.get() {
                    router.announce_all();
                }
            }
            Effect::Notice(Notice::SignedOut { user, sign_in }) => {
                if let Some(notices) = self.notices.get() {
                    notices.ended(user, sign_in);
                }
            }
            Effect::Notice(Notice::Tried { keys, .. }) => {
                if let Some(notices) = self.notices.get() {
                    notices.tried(&keys);
                }
            }
            Effect::Notice(Notice::Spent { node, spent }) => {
                if let Some(notices) = self.notices.get() {
                    notices.spent(NodeId(node), &spent);
                }
            }
            Effect::NoticesMissed => {
                self.missed_early.store(true, Ordering::SeqCst);
                if let Some(notices) = self.notices.get() {
                    notices.missed();
                }
            }
            Effect::Report(report) => self.observer.reported(&report),
            // Before the node is on the bus there is nobody to tell.
            Effect::Send(..)
            | Effect::Tell(_)
            | Effect::Subscribe(_)
            | Effect::Unsubscribe(_)
            | Effect::Beat(_)
            | Effect::Placed(_) => {}
        }
    }

    fn answer(&self, Asked { reply, span }: Asked, results: Vec<OperationResult>) {
        if let Some(mut span) = span {
            span.settle(&results);
            self.tracer.end(span);
        }
        match reply {
            ReplyTo::Connection(connection) => self.push.answer(connection, results),
            ReplyTo::Waiter(waiter) => drop(waiter.send(Settled::from(results))),
        }
    }

    /// Has the feed's actor here judge the operations of a request. The permits that they take bound what is under way.
    fn perform(self: &Arc<Self>, from: Option<NodeId>, request: Request) {
        let Some(router) = self.router.get() else { return };
        self.observer.taken();
        let Request {
            id,
            attempt,
            feed,
            items,
            ..
        } = request;
        let repeated = attempt > 1;
        let asked: Vec<_> = items
            .into_iter()
            .map(|item| {
                let Item {
                    author,
                    operations,
                    trace,
                } = item;
                let mut span = trace.and_then(|trace| self.tracer.begin("bus perform", SpanKind::Server, trace));
                if let Some(span) = &mut span {
                    span.fact("taskflow.attempt", u64::from(attempt));
                }
                let ids: Vec<_> = operations.iter().map(|operation| operation.id).collect();
                let (sender, receiver) = oneshot::channel();
                let submission = Submission {
                    feed,
                    author,
                    operations,
                    reply: ReplyTo::Waiter(sender),
                    repeated,
                    trace: span.as_ref().map(|span| span.context),
                };
                router.submit_here(submission, &*self.push);
                (ids, receiver, span)
            })
            .collect();
        let cluster = self.clone();
        self.performing.fetch_add(1, Ordering::AcqRel);
        tokio::spawn(async move {
            let mut results = Vec::with_capacity(asked.len());
            for (ids, receiver, span) in asked {
                let unknown = Outcome::Unknown(ErrorBody::new(Code::OutcomeUnknown));
                let result = |id| OperationResult {
                    id,
                    outcome: unknown.clone(),
                };
                let settled = receiver.await.map(|settled| settled.results);
                let settled = settled.unwrap_or_else(|_| ids.into_iter().map(result).collect());
                if let Some(mut span) = span {
                    span.settle(&settled);
                    cluster.tracer.end(span);
                }
                results.push(settled);
            }
            let reply = Reply {
                id,
                attempt,
                feed,
                results,
            };
            match (from, cluster.bus.get()) {
                (Some(from), Some(bus)) => bus.send(from, NodeMessage::Reply(reply).encode()),
                _ => cluster.handle(Event::Replied(reply)),
            }
            cluster.performing.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

/// The bus's end: it may be handed out before the node is on the bus.
pub struct Inbox(pub Arc<Cluster>);

impl BusInbox for Inbox {
    fn take(&self, event: BusEvent) {
        self.0.handle(Event::Bus(event));
    }
}

/// What feeds of this node say, to its own connections first and then to the other nodes.
pub struct Everywhere {
    /// The way to the connections of this node.
    pub here: Arc<dyn Push>,
    /// The node.
    pub cluster: Arc<Cluster>,
}

impl Push for Everywhere {
    fn publish(&self, publication: Publication) {
        let Publication {
            feed, epoch, entries, ..
        } = &publication;
        let message = FeedMessage::entries(self.cluster.me, *epoch, entries);
        let feed = *feed;
        self.here.publish(publication);
        if let Some(bus) = self.cluster.bus.get() {
            bus.publish(feed, message);
        }
    }

    fn announce(&self, feed: UserId, head: Head) {
        self.here.announce(feed, head);
        if let Some(bus) = self.cluster.bus.get() {
            bus.publish(feed, FeedMessage::head(self.cluster.me, head));
        }
    }

    fn answer(&self, connection: crate::ports::ConnectionId, results: Vec<OperationResult>) {
        self.here.answer(connection, results);
    }

    fn stale(&self, since: Option<Duration>) {
        self.here.stale(since);
    }
}

/// About how many bytes an operation has on the wire.
fn approximate_bytes(operation: &taskflow_protocol::message::Operation) -> usize {
    taskflow_protocol::Encoding::MsgPack.encode(operation).len()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
