//! Carries out a plan: one queue of events in virtual time, and the shells around the components.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use bytes::Bytes;
use taskflow_protocol::limits::CATCH_UP_BYTES;
use taskflow_protocol::message::{
    Command, ErrorBody, Operation, OperationResult, Outcome as Became, TaskCreate, TaskPatch, TaskRef, Undo,
};
use taskflow_protocol::values::{Priority, Seq, Status};
use taskflow_protocol::{OperationId, TaskId, UserId};

use super::broker::{Broker, Link};
use super::client::{Client, Connection, Pending};
use super::model::{Counts, Model};
use super::node::{Asked, Gathering, Hosted, RequestKey, Served, SimNode, Token};
use super::plan::{Fault, MS, Plan, SECOND, Step, Time, Wish};
use super::rng::Rng;
use super::store::SimStore;
use crate::cluster::lines::{GATHER_MS, Submitted};
use crate::cluster::node::{Effect as Told, Event as Heard, Node, Report, SUBSCRIBE_WAIT_MS};
use crate::cluster::wire::{FeedMessage, NodeMessage, Reply, Request};
use crate::cluster::{Member, lines};
use crate::cursor::Cursor;
use crate::domain::{Entry, State, birth};
use crate::feed::{ENTRY_READ_BYTES, Effect, Feed, Message, ReadId, SubmissionId, Writers, rebuild};
use crate::follow::{Decision, Follower, Kept, Wanted, decide, entries_after};
use crate::ports::{
    Append, AppendError, BusEvent, ConnectionId, Epoch, Head, Loaded, LogPage, NodeId, ReadError, StoredRow,
};

/// How often a node ticks. In production it is more often; nothing depends on it but how soon something is noticed.
const TICK: Time = 50 * MS;

/// How long after the last fault everyone must be current: loads, two rounds of beats and repeats with their waits.
const CALM: Time = 14 * SECOND;

/// The same where messages were lost and nobody was told: then a feed is compared once a minute.
const CALM_LOSSY: Time = 75 * SECOND;

/// How long a screen may be behind while nothing is wrong anywhere: a node that ended is missed after two seconds, and a read
/// that failed is repeated after one and a half.
const STALE: Time = 5 * SECOND;

/// How long a screen may be behind without a word, whatever is wrong: that messages do not come through is noticed within 2.5
/// seconds, and that the log cannot be read either is said five seconds later.
const SILENT: Time = 10 * SECOND;

/// How long an operation may wait for an answer of some kind: the patience with a silent store begins anew when it has said
/// something, and here it is silent for longer than that once.
const ANSWER: Time = 2 * lines::DEADLINE_MS * MS;

/// The clock of the store, when virtual time begins.
const BEGINNING_MS: i64 = 1_799_999_990_000;

/// How a schedule went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Messages and timers handled by components.
    pub steps: u64,
    /// What was wrong.
    pub violations: Vec<String>,
    /// What happened how often.
    pub counts: Counts,
    /// Of everything that happened, in order.
    pub digest: u64,
}

/// What arrives at a node, at one of its lives.
enum ToNode {
    Tick,
    Beat,
    Bus(BusEvent),
    /// For the feed's component.
    Feed(UserId, Message),
    HeadRead(UserId, Result<Option<Head>, ReadError>),
    /// A request has been gathered.
    Gathered(UserId),
    /// A client connects, with its cursor.
    Hello(usize, u32, UserId, Option<Cursor>),
    /// A client's connection is gone.
    Gone(usize, u32),
    /// A client's operations.
    Operations(usize, u32, Vec<Operation>),
    /// A client looks.
    Look(usize, u32),
    /// The wait for a subscription is over.
    Waited(usize, u32),
    /// What was read for a follower: by its cursor, or to go on.
    Page(usize, u32, Option<Option<Cursor>>, Result<Option<LogPage>, ReadError>),
    /// A whole feed for a follower.
    Whole(usize, u32, Result<Option<Loaded>, ReadError>),
}

enum ToClient {
    /// The whole feed.
    Whole(Box<State>, Head),
    Entries(Epoch, Vec<Entry>),
    /// There is nothing more for now.
    Current,
    Results(Vec<OperationResult>),
    Looked(Seq, Seq),
    /// The node ends the connection.
    Closed,
}

enum Event {
    Node(usize, u32, ToNode),
    Client(usize, u32, ToClient),
    /// A message of the broker for a node.
    Deliver(usize, u32, UserId, Bytes),
    Step(Step),
    Start(usize),
    Store(StoreRequest),
    /// What a fault had broken is whole again.
    Mend(Mend),
    /// The client's connection is gone, and it knows; or it tries again.
    Reconnect(usize),
    /// The client sends again what is not known.
    Resend(usize),
    TellDown(usize, u32),
    /// The broker subscribes a node.
    Subscribe(usize, u32, UserId),
    /// Somebody needs the feed to be there, and asks at this node.
    Birth(usize, UserId),
}

#[derive(Clone, Copy)]
enum Mend {
    Link(usize),
    Store(usize),
    Flaky,
    Slow,
    StoreDown,
    Lossy,
    Broker,
    Late,
    Overflow(usize),
    Disarm(usize),
}

struct StoreRequest {
    node: usize,
    life: u32,
    feed: UserId,
    /// The answer never comes; the node gives up.
    is_lost: bool,
    what: StoreWhat,
}

enum StoreWhat {
    Append(Append),
    Head(ReadId),
    HeadOf,
    Log(Asks, Seq, usize),
    Load(i64),
    Rows(Vec<StoredRow>, Seq),
    Page(usize, u32, Option<Option<Cursor>>, Seq),
    Whole(usize, u32),
}

/// What a feed reads the log for.
#[derive(Clone, Copy)]
enum Asks {
    Back(ReadId),
    On(ReadId),
    Entry(Seq),
}

impl Asks {
    fn message(self, page: Result<Option<LogPage>, ReadError>) -> Message {
        match self {
            Self::Back(read) => Message::ReadBack(read, page),
            Self::On(read) => Message::ReadOn(read, page),
            Self::Entry(seq) => Message::EntryRead(seq, page),
        }
    }
}

struct Queued {
    at: Time,
    order: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

struct World {
    now: Time,
    rng: Rng,
    queue: BinaryHeap<Reverse<Queued>>,
    order: u64,
    nodes: Vec<SimNode>,
    clients: Vec<Client>,
    feeds: Vec<UserId>,
    store: SimStore,
    broker: Broker,
    model: Model,
    steps: u64,
    digest: u64,
    /// How many faults of a kind are under way.
    flaky: u32,
    slow: u32,
    store_down: u32,
    lossy: u32,
    down: u32,
    late: u32,
    /// Since when nothing is wrong anywhere.
    whole_since: Time,
    /// Whether whoever is not told of a loss must find it.
    tells: bool,
    /// Operations that a node took over a connection, and has not answered there.
    unanswered: BTreeMap<(Token, OperationId), Time>,
    /// Tasks that somebody named before they were made.
    early: BTreeMap<UserId, Vec<TaskId>>,
    /// When the last message on each way arrives.
    last_delivery: BTreeMap<(usize, usize), Time>,
    /// No more faults: what is sent arrives.
    is_calm: bool,
}

/// Runs a plan.
pub fn run(plan: &Plan) -> Outcome {
    let mut world = World::new(plan);
    for (at, step) in &plan.steps {
        world.later_at(*at, Event::Step(*step));
    }
    world.go_until(plan.end);
    world.is_calm = true;
    let calm = if plan.loses_quietly() { CALM_LOSSY } else { CALM };
    world.go_until(plan.end + calm);
    world.finish();
    Outcome {
        steps: world.steps,
        violations: world.model.violations,
        counts: world.model.counts,
        digest: world.digest,
    }
}

impl World {
    fn new(plan: &Plan) -> Self {
        let mut rng = Rng::new(plan.seed ^ 0x5eed);
        let feeds: Vec<UserId> = (0..plan.feeds).map(|_| UserId(rng.uuid())).collect();
        let clients = (0..plan.clients)
            .map(|client| Client::new(feeds[client % feeds.len()]))
            .collect();
        let mut world = Self {
            now: 0,
            rng,
            queue: BinaryHeap::new(),
            order: 0,
            nodes: Vec::new(),
            clients,
            feeds: feeds.clone(),
            store: SimStore::default(),
            broker: Broker::default(),
            model: Model::default(),
            steps: 0,
            digest: 0xcbf2_9ce4_8422_2325,
            flaky: 0,
            slow: 0,
            store_down: 0,
            lossy: 0,
            down: 0,
            late: 0,
            whole_since: 0,
            tells: !plan.loses_quietly(),
            unanswered: BTreeMap::new(),
            early: BTreeMap::new(),
            last_delivery: BTreeMap::new(),
            is_calm: false,
        };
        for feed in feeds {
            if plan.twins && world.rng.permille(500) {
                let (one, two) = (world.rng.below(2) as usize, 2);
                world.later(SECOND / 4, Event::Birth(one, feed));
                world.later(SECOND / 4 + MS, Event::Birth(two, feed));
            } else {
                world.give_birth(feed);
            }
        }
        for index in 0..plan.nodes {
            let member = world.member(index);
            world.nodes.push(SimNode {
                life: 0,
                is_up: false,
                paused_until: 0,
                skew: plan.skews[index],
                begun: 0,
                node: Node::new(member, 0),
                feeds: BTreeMap::new(),
                gathering: BTreeMap::new(),
                served: BTreeMap::new(),
                beat: Bytes::new(),
                link: Link::Up,
                is_told_down: false,
                says_stale: false,
                said_stale_at: 0,
                has_store: true,
                ends_at_append: None,
                overflow: 0,
                wants: BTreeSet::new(),
            });
            world.later(world_start(index), Event::Start(index));
        }
        for client in 0..plan.clients {
            world.later(SECOND / 2, Event::Reconnect(client));
        }
        world
    }

    fn give_birth(&mut self, feed: UserId) {
        let Ok(entry) = birth(feed, BEGINNING_MS, "UTC", "en") else {
            return;
        };
        let append = Append {
            feed,
            epoch: Epoch(7),
            base: 0,
            last: 1,
            append_id: self.rng.number(),
            time: entry.time,
            body: crate::domain::codec::encode_commit(std::slice::from_ref(&entry)).into(),
        };
        let _ = self.store.append(append);
        self.model.appended(feed, &self.store);
    }

    fn member(&mut self, index: usize) -> Member {
        Member {
            node: NodeId(self.rng.number()),
            name: format!("node-{index}"),
            hosts_feeds: true,
            leaving: false,
            cluster: 1,
        }
    }

    // ---------------------------------------------------------------------------------------------------- time

    fn later_at(&mut self, at: Time, event: Event) {
        self.order += 1;
        let order = self.order;
        self.queue.push(Reverse(Queued { at, order, event }));
    }

    fn later(&mut self, after: Time, event: Event) {
        self.later_at(self.now + after, event);
    }

    fn go_until(&mut self, end: Time) {
        while let Some(Reverse(next)) = self.queue.peek() {
            if next.at > end || !self.model.violations.is_empty() {
                break;
            }
            let Some(Reverse(Queued { at, order, event })) = self.queue.pop() else {
                break;
            };
            self.now = at;
            self.happen(order, event);
        }
        self.now = self.now.max(end);
    }

    fn note(&mut self, what: u64) {
        self.digest = (self.digest ^ what ^ self.now).wrapping_mul(0x0100_0000_01b3);
    }

    fn node_now(&self, node: usize) -> u64 {
        (self.now - self.nodes[node].begun) / MS
    }

    fn clock(&self, node: usize) -> i64 {
        BEGINNING_MS + (self.now / MS).cast_signed() + self.nodes[node].skew
    }

    fn happen(&mut self, order: u64, event: Event) {
        match event {
            Event::Node(node, life, what)
                if self.nodes[node].paused_until > self.now && self.nodes[node].life == life =>
            {
                // It comes later, in the order in which it came.
                let (at, event) = (self.nodes[node].paused_until, Event::Node(node, life, what));
                self.queue.push(Reverse(Queued { at, order, event }));
            }
            Event::Node(node, life, what) => self.at_node(node, life, what),
            Event::Deliver(node, life, feed, message) => {
                let there = &self.nodes[node];
                if there.life == life && there.is_up && there.link == Link::Up && !self.broker.is_down {
                    self.happen(
                        order,
                        Event::Node(node, life, ToNode::Bus(BusEvent::Published(feed, message))),
                    );
                } else {
                    self.model.counts.count("messages lost");
                }
            }
            Event::Client(client, number, what) => self.at_client(client, number, what),
            Event::Step(Step::Fault(fault)) => self.go_wrong(fault),
            Event::Step(Step::Wish(client, wish)) => self.wish(client, wish),
            Event::Start(node) => self.start(node),
            Event::Store(request) => self.store(request),
            Event::Mend(mend) => self.mend(mend),
            Event::Reconnect(client) => self.reconnect(client),
            Event::Resend(client) => self.send_pending(client),
            Event::TellDown(node, life) => self.tell_down(node, life),
            Event::Subscribe(node, life, feed) => {
                let there = &self.nodes[node];
                if there.life == life && there.wants.contains(&feed) && self.hears_broker(node) {
                    self.broker.subscribe(node, feed);
                    let back = self.rng.between(100, 3_000);
                    let subscribed = ToNode::Bus(BusEvent::Subscribed(vec![feed]));
                    self.later(back, Event::Node(node, life, subscribed));
                }
            }
            Event::Birth(node, feed) => self.need(node, feed),
        }
    }

    // ---------------------------------------------------------------------------------------------------- faults

    fn go_wrong(&mut self, fault: Fault) {
        self.note(1);
        let kind = match fault {
            // Counted where it really ends a node.
            Fault::Crash(..) | Fault::CrashAtAppend(..) | Fault::Retire(_) => None,
            Fault::Leave(..) => Some("fault: leave"),
            Fault::Pause(..) => Some("fault: pause"),
            Fault::CutBroker(..) => Some("fault: cut from the broker"),
            Fault::Deaf(..) => Some("fault: deaf to the broker"),
            Fault::CutStore(..) => Some("fault: cut from the store"),
            Fault::StoreFlaky(_) => Some("fault: flaky store"),
            Fault::StoreSlow(_) => Some("fault: slow store"),
            Fault::StoreDown(_) => Some("fault: store down"),
            Fault::Lossy(_) => Some("fault: lossy broker"),
            Fault::Flush => Some("fault: broker forgets"),
            Fault::BrokerDown(_) => Some("fault: broker down"),
            Fault::LateSubscriptions(_) => Some("fault: late subscriptions"),
            Fault::Overflow(..) => Some("fault: a node's queues are full"),
            Fault::Drop(_) => Some("fault: connection lost"),
            Fault::Forget(_) => Some("fault: client forgets"),
        };
        kind.into_iter().for_each(|kind| self.model.counts.count(kind));
        match fault {
            Fault::Crash(node, back) => self.crash(node, back),
            Fault::CrashAtAppend(node, back) => {
                self.nodes[node].ends_at_append = Some(back);
                self.later(3 * SECOND, Event::Mend(Mend::Disarm(node)));
            }
            Fault::LateSubscriptions(length) => {
                self.late += 1;
                self.later(length, Event::Mend(Mend::Late));
            }
            Fault::Overflow(node, length) => {
                self.nodes[node].overflow += 1;
                self.later(length, Event::Mend(Mend::Overflow(node)));
            }
            Fault::Retire(node) => {
                let before = self.nodes[node].feeds.len();
                let used = |hosted: &Hosted| !hosted.feed.is_idle() || !hosted.asked.is_empty();
                self.nodes[node].feeds.retain(|_, hosted| used(hosted));
                for _ in self.nodes[node].feeds.len()..before {
                    self.model.counts.count("feeds let go of");
                }
            }
            Fault::Leave(node, back) => {
                if self.nodes[node].is_up {
                    self.hear(node, Heard::Leave);
                    let life = self.nodes[node].life;
                    // It ends two seconds later, whatever it does then.
                    self.later(2 * SECOND, Event::Node(node, life, ToNode::Gone(usize::MAX, 0)));
                    self.later(2 * SECOND + back, Event::Start(node));
                }
            }
            Fault::Pause(node, length) => {
                let until = self.now + length;
                self.nodes[node].paused_until = self.nodes[node].paused_until.max(until);
            }
            Fault::CutBroker(node, length) => self.cut(node, Link::Cut, length),
            Fault::Deaf(node, length) => self.cut(node, Link::Deaf, length),
            Fault::CutStore(node, length) => {
                self.nodes[node].has_store = false;
                self.later(length, Event::Mend(Mend::Store(node)));
            }
            Fault::StoreFlaky(length) => {
                self.flaky += 1;
                self.later(length, Event::Mend(Mend::Flaky));
            }
            Fault::StoreDown(length) => {
                self.store_down += 1;
                self.later(length, Event::Mend(Mend::StoreDown));
            }
            Fault::Forget(client) => {
                self.go_wrong(Fault::Drop(client));
                self.clients[client].cursor = None;
                self.clients[client].state = State::new(self.clients[client].feed);
            }
            Fault::StoreSlow(length) => {
                self.slow += 1;
                self.later(length, Event::Mend(Mend::Slow));
            }
            Fault::Lossy(length) => {
                self.lossy += 1;
                self.later(length, Event::Mend(Mend::Lossy));
            }
            Fault::Flush => self.broker.flush(),
            Fault::BrokerDown(length) => {
                self.down += 1;
                self.broker.is_down = true;
                self.broker.flush();
                for node in 0..self.nodes.len() {
                    self.unsubscribed(node);
                    let life = self.nodes[node].life;
                    let notice = self.rng.between(0, 2_000) * MS;
                    self.later(notice, Event::TellDown(node, life));
                }
                self.later(length, Event::Mend(Mend::Broker));
            }
            Fault::Drop(client) => {
                if let Some(connection) = self.clients[client].connection {
                    let gone = ToNode::Gone(client, connection.number);
                    let delay = self.rng.between(0, 500) * MS;
                    self.later(delay, Event::Node(connection.node, connection.life, gone));
                    self.lose_connection(client);
                }
            }
        }
    }

    fn cut(&mut self, node: usize, link: Link, length: Time) {
        self.nodes[node].link = link;
        if link == Link::Cut {
            self.unsubscribed(node);
        }
        let life = self.nodes[node].life;
        // A lost connection is noticed at once or by the canary, one that delivers nothing by the canary only.
        let notice = self.rng.between(if link == Link::Cut { 0 } else { 1_500 }, 2_500) * MS;
        self.later(notice, Event::TellDown(node, life));
        self.later(length, Event::Mend(Mend::Link(node)));
    }

    fn tell_down(&mut self, node: usize, life: u32) {
        let there = &mut self.nodes[node];
        let is_broken = self.broker.is_down || there.link != Link::Up;
        if there.life != life || !there.is_up || there.is_told_down || !is_broken {
            return;
        }
        there.is_told_down = true;
        self.unsubscribed(node);
        self.model.counts.count("node knows that messages do not come through");
        self.later(
            0,
            Event::Node(node, life, ToNode::Bus(BusEvent::Down("cut".to_owned()))),
        );
    }

    /// Subscribes everything anew and says so, if the node and the broker hear each other.
    fn connect_bus(&mut self, node: usize) {
        let there = &mut self.nodes[node];
        if !there.is_up || there.link != Link::Up || self.broker.is_down {
            return;
        }
        let life = there.life;
        let feeds: Vec<UserId> = there.node.followed().collect();
        there.is_told_down = false;
        for feed in feeds {
            self.subscribe(node, feed);
        }
        self.later(2 * MS, Event::Node(node, life, ToNode::Bus(BusEvent::Up)));
        self.later(3 * MS, Event::Node(node, life, ToNode::Beat));
    }

    fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::Link(node) => {
                self.nodes[node].link = Link::Up;
                // The driver says that it was gone before it says that it is back.
                let life = self.nodes[node].life;
                if !self.nodes[node].is_told_down && self.nodes[node].is_up {
                    self.nodes[node].is_told_down = true;
                    self.later(
                        0,
                        Event::Node(node, life, ToNode::Bus(BusEvent::Down("cut".to_owned()))),
                    );
                }
                self.later_connect(node);
            }
            Mend::Store(node) => self.nodes[node].has_store = true,
            Mend::Flaky => self.flaky -= 1,
            Mend::Slow => self.slow -= 1,
            Mend::StoreDown => self.store_down -= 1,
            Mend::Lossy => self.lossy -= 1,
            Mend::Late => self.late -= 1,
            Mend::Overflow(node) => self.nodes[node].overflow -= 1,
            Mend::Disarm(node) => self.nodes[node].ends_at_append = None,
            Mend::Broker => {
                self.down -= 1;
                if self.down == 0 {
                    self.broker.is_down = false;
                    for node in 0..self.nodes.len() {
                        let life = self.nodes[node].life;
                        if !self.nodes[node].is_told_down && self.nodes[node].is_up {
                            self.nodes[node].is_told_down = true;
                            self.later(
                                0,
                                Event::Node(node, life, ToNode::Bus(BusEvent::Down("gone".to_owned()))),
                            );
                        }
                        self.later_connect(node);
                    }
                }
            }
        }
    }

    fn later_connect(&mut self, node: usize) {
        // A connection after the node was told that it had none.
        let after = self.rng.between(10, 300) * MS;
        let life = self.nodes[node].life;
        self.later(after, Event::Node(node, life, ToNode::Waited(usize::MAX, 0)));
    }

    fn crash(&mut self, node: usize, back: Time) {
        if !self.nodes[node].is_up {
            return;
        }
        self.model.counts.count("fault: crash");
        // Whoever waits because of one node that ended may have to wait for another one next.
        self.whole_since = self.now;
        self.end(node);
        self.later(back, Event::Start(node));
    }

    fn subscribe(&mut self, node: usize, feed: UserId) {
        let late = if self.late > 0 && self.rng.permille(500) {
            self.rng.between(1, 2_500) * MS
        } else {
            0
        };
        let delay = self.rng.between(100, 3_000) + late;
        self.nodes[node].wants.insert(feed);
        let life = self.nodes[node].life;
        self.later(delay, Event::Subscribe(node, life, feed));
    }

    fn unsubscribed(&mut self, node: usize) {
        self.broker.forget(node);
        self.nodes[node].wants.clear();
    }

    fn hears_broker(&self, node: usize) -> bool {
        let there = &self.nodes[node];
        there.link == Link::Up && !self.broker.is_down && !there.is_told_down
    }

    fn end(&mut self, node: usize) {
        let there = &mut self.nodes[node];
        there.is_up = false;
        there.life += 1;
        there.feeds.clear();
        there.gathering.clear();
        there.served.clear();
        self.unsubscribed(node);
        for client in 0..self.clients.len() {
            if self.clients[client]
                .connection
                .is_some_and(|connection| connection.node == node)
            {
                self.lose_connection(client);
            }
        }
    }

    fn start(&mut self, node: usize) {
        if self.nodes[node].is_up {
            return;
        }
        let member = self.member(node);
        let (beat, first) = (member.encode(), self.rng.number());
        let there = &mut self.nodes[node];
        there.life += 1;
        there.is_up = true;
        there.begun = self.now;
        there.paused_until = 0;
        there.node = Node::new(member, first);
        there.beat = beat;
        there.is_told_down = true;
        there.says_stale = false;
        let life = there.life;
        self.later(0, Event::Node(node, life, ToNode::Tick));
        self.later(self.now % MS, Event::Node(node, life, ToNode::Beat));
        self.connect_bus(node);
    }

    // ---------------------------------------------------------------------------------------------------- the broker

    fn publish(&mut self, from: usize, feed: UserId, message: &Bytes) {
        if self.nodes[from].link == Link::Cut || self.broker.is_down || self.nodes[from].is_told_down {
            self.model.counts.count("messages lost");
            return;
        }
        for node in self.broker.subscribers(feed) {
            for delay in self.delays((from, node)) {
                let life = self.nodes[node].life;
                self.later(delay, Event::Deliver(node, life, feed, message.clone()));
            }
        }
    }

    fn send(&mut self, from: usize, to: NodeId, message: &Bytes) {
        let Some(node) = self
            .nodes
            .iter()
            .position(|node| node.is_up && node.node.me().node == to)
        else {
            self.model.counts.count("messages lost");
            return;
        };
        let is_heard = self.nodes[from].link != Link::Cut && self.nodes[node].link == Link::Up && !self.broker.is_down;
        if !is_heard || self.nodes[from].is_told_down {
            self.model.counts.count("messages lost");
            return;
        }
        let life = self.nodes[node].life;
        for delay in self.delays((from, node)) {
            let bus = ToNode::Bus(BusEvent::Received(message.clone()));
            self.later(delay, Event::Node(node, life, bus));
        }
    }

    /// How long a message takes, once for each time that it arrives.
    fn delays(&mut self, way: (usize, usize)) -> Vec<Time> {
        if self.lossy > 0 {
            if self.rng.permille(250) {
                self.model.counts.count("messages lost");
                return Vec::new();
            }
            let count = if self.rng.permille(150) { 2 } else { 1 };
            return (0..count)
                .map(|_| {
                    let most = if self.rng.permille(200) { 1_500 } else { 20 };
                    self.rng.between(0, most) * MS
                })
                .collect();
        }
        // In order on each way.
        let earliest = self.last_delivery.get(&way).copied().unwrap_or(0);
        let at = (self.now + self.rng.between(100, 3_000)).max(earliest + 1);
        self.last_delivery.insert(way, at);
        vec![at - self.now]
    }

    // ---------------------------------------------------------------------------------------------------- the store

    fn ask_store(&mut self, node: usize, feed: UserId, what: StoreWhat) {
        let life = self.nodes[node].life;
        let slow = if self.slow > 0 {
            self.rng.between(50, 800) * MS
        } else {
            0
        };
        let delay = self.rng.between(200, 3_000) + slow;
        let mut request = StoreRequest {
            node,
            life,
            feed,
            is_lost: false,
            what,
        };
        let is_flaky = self.flaky > 0 && self.rng.permille(400);
        let is_gone = !self.nodes[node].has_store || self.store_down > 0;
        if is_gone || is_flaky {
            // The node gives up after a while. What it asked for may not arrive, arrive, or arrive after that.
            let patience = self.rng.between(20, 900) * MS;
            let arrives = !is_gone && self.rng.permille(600);
            let lost = self.given_up(&request);
            self.later(patience, lost);
            if arrives {
                request.is_lost = true;
                let late = if self.rng.permille(400) {
                    self.rng.between(0, 2_500) * MS
                } else {
                    0
                };
                self.later(delay + late, Event::Store(request));
            }
            return;
        }
        self.later(delay, Event::Store(request));
    }

    /// What the node hears when no answer comes.
    fn given_up(&mut self, request: &StoreRequest) -> Event {
        let read = || ReadError::Unavailable("no answer".to_owned());
        let append = || AppendError::Unavailable("no answer".to_owned());
        self.model.counts.count("answers of the store that never came");
        let feed = request.feed;
        let what = match &request.what {
            StoreWhat::Append(asked) => ToNode::Feed(feed, Message::Appended(asked.append_id, Err(append()))),
            StoreWhat::Head(id) => ToNode::Feed(feed, Message::HeadRead(*id, Err(read()))),
            StoreWhat::HeadOf => ToNode::HeadRead(feed, Err(read())),
            StoreWhat::Log(asks, ..) => ToNode::Feed(feed, asks.message(Err(read()))),
            StoreWhat::Load(_) => ToNode::Feed(feed, Message::Loaded(Err(read()))),
            StoreWhat::Rows(_, upto) => ToNode::Feed(feed, Message::RowsWritten(*upto, Err(append()))),
            StoreWhat::Page(client, number, cursor, _) => ToNode::Page(*client, *number, *cursor, Err(read())),
            StoreWhat::Whole(client, number) => ToNode::Whole(*client, *number, Err(read())),
        };
        Event::Node(request.node, request.life, what)
    }

    /// The same answer, if it had not come.
    fn nothing_came(answer: ToNode) -> ToNode {
        let read = || ReadError::Unavailable("no answer".to_owned());
        let append = || AppendError::Unavailable("no answer".to_owned());
        match answer {
            ToNode::Feed(feed, message) => {
                let message = match message {
                    Message::Appended(id, _) => Message::Appended(id, Err(append())),
                    Message::HeadRead(id, _) => Message::HeadRead(id, Err(read())),
                    Message::ReadBack(id, _) => Message::ReadBack(id, Err(read())),
                    Message::ReadOn(id, _) => Message::ReadOn(id, Err(read())),
                    Message::EntryRead(seq, _) => Message::EntryRead(seq, Err(read())),
                    Message::Loaded(_) => Message::Loaded(Err(read())),
                    Message::RowsWritten(upto, _) => Message::RowsWritten(upto, Err(append())),
                    other => other,
                };
                ToNode::Feed(feed, message)
            }
            ToNode::HeadRead(feed, _) => ToNode::HeadRead(feed, Err(read())),
            ToNode::Page(client, number, cursor, _) => ToNode::Page(client, number, cursor, Err(read())),
            ToNode::Whole(client, number, _) => ToNode::Whole(client, number, Err(read())),
            other => other,
        }
    }

    fn store(&mut self, request: StoreRequest) {
        let StoreRequest {
            node,
            life,
            feed,
            is_lost,
            what,
        } = request;
        let answer = match what {
            StoreWhat::Append(append) => {
                let id = append.append_id;
                let done = self.store.append(append);
                match &done {
                    Ok(()) => {
                        self.model.appended(feed, &self.store);
                        let there = &self.nodes[node];
                        if there.life == life
                            && there.is_up
                            && let Some(back) = self.nodes[node].ends_at_append.take()
                        {
                            self.model.counts.count("fault: crash at an append");
                            return self.crash(node, back);
                        }
                        if !is_lost && self.store_down == 0 {
                            self.store.answered(id);
                        }
                    }
                    Err(AppendError::Conflict(_)) => self.model.counts.count("appends that found another head"),
                    Err(_) => {}
                }
                ToNode::Feed(feed, Message::Appended(id, done))
            }
            StoreWhat::Head(id) => ToNode::Feed(feed, Message::HeadRead(id, self.store.head(feed))),
            StoreWhat::HeadOf => ToNode::HeadRead(feed, self.store.head(feed)),
            StoreWhat::Log(asks, after, bytes) => {
                let page = self.store.read_log(feed, after, bytes);
                ToNode::Feed(feed, asks.message(page))
            }
            StoreWhat::Load(since) => ToNode::Feed(feed, Message::Loaded(self.store.load(feed, since))),
            StoreWhat::Rows(rows, _) if is_lost && self.rng.permille(500) => {
                self.model.counts.count("rows of which only the first were written");
                return self.store.write_first_rows(feed, rows);
            }
            StoreWhat::Rows(rows, upto) => {
                let done = self.store.write_rows(feed, rows, upto);
                ToNode::Feed(feed, Message::RowsWritten(upto, done))
            }
            StoreWhat::Page(client, number, cursor, after) => {
                let page = self.store.read_log(feed, after, CATCH_UP_BYTES);
                ToNode::Page(client, number, cursor, page)
            }
            StoreWhat::Whole(client, number) => ToNode::Whole(client, number, self.store.load(feed, i64::MAX)),
        };
        if self.store_down > 0 && !is_lost {
            // It went down between question and answer.
            let patience = self.rng.between(100, 400) * MS;
            let given_up = Self::nothing_came(answer);
            self.model.counts.count("answers of the store that never came");
            return self.later(patience, Event::Node(node, life, given_up));
        }
        if !is_lost {
            // Now and then an answer waits for a thread, or for a packet that is sent again, while what came later is taken.
            let is_head = matches!(answer, ToNode::HeadRead(..));
            let is_page = matches!(answer, ToNode::Page(..));
            let back = match self.rng.below(1_000) {
                0..=59 => self.rng.between(5, 100) * MS,
                60..=69 => self.rng.between(100, 1_500) * MS,
                70..=399 if is_head || is_page => self.rng.between(100, 1_500) * MS,
                _ => self.rng.between(100, 1_500),
            };
            self.later(back, Event::Node(node, life, answer));
        }
    }

    // ---------------------------------------------------------------------------------------------------- a node

    fn at_node(&mut self, index: usize, life: u32, what: ToNode) {
        let node = &self.nodes[index];
        if !node.is_up || node.life != life {
            return;
        }
        match what {
            ToNode::Tick => {
                self.hear(index, Heard::Tick);
                self.check_screens(index);
                self.later(TICK, Event::Node(index, life, ToNode::Tick));
            }
            ToNode::Beat => {
                self.later(500 * MS, Event::Node(index, life, ToNode::Beat));
                self.beat(index);
            }
            ToNode::Bus(event) => self.hear(index, Heard::Bus(event)),
            ToNode::Feed(feed, message) => self.step_feed(index, feed, message),
            ToNode::HeadRead(feed, result) => self.hear(index, Heard::HeadRead(feed, result)),
            ToNode::Gathered(feed) => self.hear(index, Heard::Gathered(feed)),
            ToNode::Hello(client, number, feed, cursor) => self.hello(index, client, number, feed, cursor),
            // The end of a node that left.
            ToNode::Gone(usize::MAX, _) => self.end(index),
            ToNode::Gone(client, number) => self.unserve(index, client, number),
            ToNode::Operations(client, number, operations) => self.operations(index, client, number, operations),
            ToNode::Look(client, number) => self.look(index, client, number),
            // The broker is to be connected again.
            ToNode::Waited(usize::MAX, _) => self.connect_bus(index),
            ToNode::Waited(client, number) => self.waited(index, client, number),
            ToNode::Page(client, number, cursor, page) => self.page(index, client, number, cursor, page),
            ToNode::Whole(client, number, loaded) => self.whole(index, client, number, loaded),
        }
    }

    fn beat(&mut self, index: usize) {
        let node = &self.nodes[index];
        if node.link == Link::Cut || self.broker.is_down || node.is_told_down {
            return;
        }
        let (id, body, life) = (node.node.me().node, node.beat.clone(), node.life);
        let beats = self.broker.beat(id, body, self.now);
        self.later(MS, Event::Node(index, life, ToNode::Bus(BusEvent::Beats(beats))));
    }

    /// The node's component hears something; what it says is carried out.
    fn hear(&mut self, index: usize, event: Heard<Token>) {
        self.steps += 1;
        self.note(2 + index as u64);
        let now = self.node_now(index);
        let node = &mut self.nodes[index];
        let busy: Vec<UserId> = node
            .feeds
            .iter()
            .filter(|(_, hosted)| hosted.is_busy())
            .map(|(feed, _)| *feed)
            .collect();
        let effects = node.node.handle(event, now, &|feed| busy.contains(&feed));
        for effect in effects {
            self.told(index, effect);
        }
    }

    fn told(&mut self, index: usize, effect: Told<Token>) {
        match effect {
            Told::Answer(token, results) => self.answer(index, token, results),
            Told::Refuse(code, token, operations) => {
                let refused = Became::Refused(ErrorBody::new(code));
                self.answer(index, token, lines::all(&operations, &refused));
            }
            Told::Perform(from, request) => self.perform(index, from, request),
            Told::Send(to, message) => {
                self.model.counts.count("requests to another node");
                if let Some(NodeMessage::Request(request)) = NodeMessage::decode(&message)
                    && request.attempt > 1
                {
                    self.model.counts.count("requests that were repeated");
                }
                self.send(index, to, &message);
            }
            Told::Subscribe(feed) => {
                if self.hears_broker(index) {
                    self.subscribe(index, feed);
                }
            }
            Told::Unsubscribe(feed) => {
                self.nodes[index].wants.remove(&feed);
                self.broker.unsubscribe(index, feed);
            }
            Told::Beat(body) => {
                self.nodes[index].beat = body;
                self.beat(index);
            }
            Told::ReadHead(feed) => self.ask_store(index, feed, StoreWhat::HeadOf),
            Told::Gather(feed) => {
                let gathered = Event::Node(index, self.nodes[index].life, ToNode::Gathered(feed));
                self.later(GATHER_MS * MS, gathered);
            }
            Told::Deliver(feed, epoch, entries) => self.push(index, feed, epoch, &entries),
            Told::Announce(feed, head) => self.announce(index, feed, head),
            Told::Subscribed(feeds) => {
                let waiting: Vec<(usize, u32)> = self.nodes[index]
                    .served
                    .iter()
                    .filter(|(_, served)| served.waits && feeds.contains(&served.feed))
                    .map(|(client, served)| (*client, served.number))
                    .collect();
                for (client, number) in waiting {
                    self.waited(index, client, number);
                }
            }
            Told::AnnounceAll => {
                let heads: Vec<(UserId, Head)> = self.nodes[index]
                    .feeds
                    .iter()
                    .filter_map(|(feed, hosted)| Some((*feed, hosted.feed.head()?)))
                    .collect();
                let from = self.nodes[index].node.me().node;
                for (feed, head) in heads {
                    self.announce(index, feed, head);
                    self.publish(index, feed, &FeedMessage::head(from, head));
                }
            }
            Told::Report(Report::Clash(what)) => self.model.fail(what),
            Told::Report(Report::Garbled) => self.model.fail("a message was not understood".to_owned()),
            Told::Stale(since) => {
                self.nodes[index].says_stale = since.is_some();
                self.nodes[index].said_stale_at = self.now;
                self.model
                    .counts
                    .count("screens told that they may be old, or that they are not");
            }
            // Sign-ins are no part of the simulation.
            Told::Tell(_) | Told::Notice(_) | Told::NoticesMissed | Told::Report(_) | Told::Placed(_) => {}
        }
    }

    // ---------------------------------------------------------------------------------------------------- a feed

    fn hosted(&mut self, index: usize, feed: UserId) -> &mut Hosted {
        let first = self.rng.number();
        self.nodes[index].feeds.entry(feed).or_insert_with(|| Hosted {
            feed: Feed::new(feed, first, Writers::Many),
            asked: BTreeMap::new(),
            next: 0,
        })
    }

    fn submit(
        &mut self,
        index: usize,
        feed: UserId,
        author: UserId,
        operations: Vec<Operation>,
        asked: Asked,
        repeated: bool,
    ) {
        let hosted = self.hosted(index, feed);
        hosted.next += 1;
        let submission = SubmissionId(hosted.next);
        hosted.asked.insert(submission, asked);
        self.step_feed(
            index,
            feed,
            Message::Submit {
                submission,
                author,
                operations,
                repeated,
                trace: None,
            },
        );
    }

    fn step_feed(&mut self, index: usize, feed: UserId, message: Message) {
        self.steps += 1;
        self.note(100 + index as u64);
        let now = self.clock(index);
        let Some(hosted) = self.nodes[index].feeds.get_mut(&feed) else {
            return;
        };
        let effects = hosted.feed.handle(message, now);
        for effect in effects {
            self.carry_out(index, feed, effect);
        }
    }

    fn carry_out(&mut self, index: usize, feed: UserId, effect: Effect) {
        match effect {
            Effect::Load { ids_since } => self.ask_store(index, feed, StoreWhat::Load(ids_since)),
            Effect::Append(append) => self.ask_store(index, feed, StoreWhat::Append(append)),
            Effect::ReadBack(id, after) => self.ask_store(index, feed, StoreWhat::Log(Asks::Back(id), after, 1)),
            Effect::ReadHead(id) => self.ask_store(index, feed, StoreWhat::Head(id)),
            Effect::ReadOn(id, after) => {
                self.ask_store(index, feed, StoreWhat::Log(Asks::On(id), after, CATCH_UP_BYTES));
            }
            Effect::ReadEntry(seq) => {
                self.model.counts.count("older entries that were read");
                let what = StoreWhat::Log(Asks::Entry(seq), seq - 1, ENTRY_READ_BYTES);
                self.ask_store(index, feed, what);
            }
            Effect::WriteRows { rows, upto } => self.ask_store(index, feed, StoreWhat::Rows(rows, upto)),
            Effect::Trim(_) => {}
            Effect::Publish {
                epoch,
                entries,
                settled,
                ..
            } => {
                for (submission, results) in settled {
                    self.settled(index, feed, submission, results);
                }
                let from = self.nodes[index].node.me().node;
                let message = FeedMessage::entries(from, epoch, &entries);
                self.push(index, feed, epoch, &entries);
                self.publish(index, feed, &message);
            }
            Effect::Settled(submission, results) => self.settled(index, feed, submission, results),
            Effect::Look(look, may) => {
                let Some(hosted) = self.nodes[index].feeds.get_mut(&feed) else {
                    return;
                };
                let Some(Asked::Look(token, asked_at)) = hosted.asked.remove(&look) else {
                    return;
                };
                if let Some(seen) = may.ok().and_then(|()| hosted.feed.state().ok()).map(State::seq) {
                    self.tell_client(index, token, ToClient::Looked(asked_at, seen));
                }
            }
            Effect::Announce(head) => {
                let from = self.nodes[index].node.me().node;
                self.announce(index, feed, head);
                self.publish(index, feed, &FeedMessage::head(from, head));
            }
            Effect::After(ms, timer) => {
                let life = self.nodes[index].life;
                let ring = ToNode::Feed(feed, Message::Timer(timer));
                self.later(ms * MS, Event::Node(index, life, ring));
            }
            Effect::Report(_) => {}
        }
    }

    fn settled(&mut self, index: usize, feed: UserId, submission: SubmissionId, results: Vec<OperationResult>) {
        let hosted = self.nodes[index].feeds.get_mut(&feed);
        match hosted.and_then(|hosted| hosted.asked.remove(&submission)) {
            Some(Asked::Client(token, _)) => self.answer(index, token, results),
            Some(Asked::Item(key, item)) => self.gather(index, key, item, results),
            Some(Asked::Birth) => {
                let refused = results
                    .iter()
                    .any(|result| matches!(result.outcome, Became::Refused(_)));
                if !refused && self.model.head(feed) == 0 {
                    self.model.fail(format!("{feed}: it was said to be there, and is not"));
                }
            }
            Some(Asked::Look(..)) | None => {}
        }
    }

    /// Somebody asks for the feed until it is there.
    fn need(&mut self, index: usize, feed: UserId) {
        if self.model.head(feed) > 0 {
            return;
        }
        let is_asked = |node: &SimNode| node.feeds.get(&feed).is_some_and(|hosted| !hosted.asked.is_empty());
        if self.nodes.iter().filter(|node| is_asked(node)).count() > 0 {
            self.model.counts.count("feeds that began at two nodes at once");
        }
        if self.nodes[index].is_up {
            let epoch = Epoch(self.rng.number());
            let hosted = self.hosted(index, feed);
            hosted.next += 1;
            let submission = SubmissionId(hosted.next);
            hosted.asked.insert(submission, Asked::Birth);
            let birth = Message::Birth {
                submission,
                epoch,
                time_zone: "UTC".to_owned(),
                locale: "en".to_owned(),
            };
            self.step_feed(index, feed, birth);
        }
        self.later(SECOND / 2, Event::Birth(index, feed));
    }

    fn perform(&mut self, index: usize, from: Option<NodeId>, request: Request) {
        let Request {
            id,
            attempt,
            feed,
            items,
            ..
        } = request;
        let key: RequestKey = (from, id, attempt);
        let gathering = Gathering {
            feed,
            results: items.iter().map(|_| None).collect(),
        };
        self.nodes[index].gathering.insert(key, gathering);
        for (item, what) in items.into_iter().enumerate() {
            self.submit(
                index,
                feed,
                what.author,
                what.operations,
                Asked::Item(key, item),
                attempt > 1,
            );
        }
    }

    fn gather(&mut self, index: usize, key: RequestKey, item: usize, results: Vec<OperationResult>) {
        let Some(gathering) = self.nodes[index].gathering.get_mut(&key) else {
            return;
        };
        gathering.results[item] = Some(results);
        if gathering.results.iter().any(Option::is_none) {
            return;
        }
        let Some(gathering) = self.nodes[index].gathering.remove(&key) else {
            return;
        };
        let (from, id, attempt) = key;
        let reply = Reply {
            id,
            attempt,
            feed: gathering.feed,
            results: gathering.results.into_iter().flatten().collect(),
        };
        match from {
            Some(from) => self.send(index, from, &NodeMessage::Reply(reply).encode()),
            None => self.hear(index, Heard::Replied(reply)),
        }
    }

    // ---------------------------------------------------------------------------------------------------- followers

    fn hello(&mut self, index: usize, client: usize, number: u32, feed: UserId, cursor: Option<Cursor>) {
        let is_first = !self.nodes[index].served.values().any(|served| served.feed == feed);
        let served = Served {
            number,
            feed,
            at: Follower::default(),
            kept: Kept::default(),
            told: 0,
            cursor,
            is_reading: true,
            waits: false,
            behind_since: None,
            lacks_since: None,
        };
        self.nodes[index].served.insert(client, served);
        if is_first {
            self.hear(index, Heard::Followed(feed));
        }
        if self.nodes[index].node.awaits_subscription(feed) {
            let life = self.nodes[index].life;
            if let Some(served) = self.nodes[index].served.get_mut(&client) {
                served.waits = true;
            }
            let over = ToNode::Waited(client, number);
            self.later(SUBSCRIBE_WAIT_MS * MS, Event::Node(index, life, over));
        } else {
            self.begin(index, client, number, feed);
        }
    }

    fn waited(&mut self, index: usize, client: usize, number: u32) {
        let Some(served) = self.nodes[index].served.get_mut(&client) else {
            return;
        };
        if served.number != number || !std::mem::replace(&mut served.waits, false) {
            return;
        }
        let feed = served.feed;
        self.begin(index, client, number, feed);
    }

    fn begin(&mut self, index: usize, client: usize, number: u32, feed: UserId) {
        let Some(served) = self.served(index, client, number) else {
            return;
        };
        match served.cursor {
            None => {
                self.model.counts.count("followers that began anew");
                self.ask_store(index, feed, StoreWhat::Whole(client, number));
            }
            cursor @ Some(Cursor { seq, .. }) => {
                self.ask_store(index, feed, StoreWhat::Page(client, number, Some(cursor), seq));
            }
        }
    }

    fn served(&mut self, index: usize, client: usize, number: u32) -> Option<&mut Served> {
        let served = self.nodes[index].served.get_mut(&client);
        served.filter(|served| served.number == number)
    }

    fn page(
        &mut self,
        index: usize,
        client: usize,
        number: u32,
        cursor: Option<Option<Cursor>>,
        page: Result<Option<LogPage>, ReadError>,
    ) {
        self.steps += 1;
        let Some(served) = self.served(index, client, number) else {
            return;
        };
        let feed = served.feed;
        let Ok(Some(page)) = page else {
            return self.close(index, client, number);
        };
        let standing = match cursor {
            Some(cursor) => cursor,
            None => Some(Cursor {
                epoch: served.at.epoch(),
                seq: served.at.position(),
            }),
        };
        match decide(standing, &page.head) {
            Decision::Reset(_) => {
                served.at.begins_anew();
                self.model.counts.count("followers that began anew");
                return self.ask_store(index, feed, StoreWhat::Whole(client, number));
            }
            Decision::UpToDate | Decision::Entries(_) => {}
        }
        if let Some(Some(cursor)) = cursor {
            served.at.stands(page.head.epoch, cursor.seq);
        }
        let position = served.at.position();
        match entries_after(feed, &page, position) {
            Err(what) => self.model.fail(what),
            Ok(entries) => {
                served.at.read(!entries.is_empty(), page.head.seq);
                if let Some(last) = entries.last() {
                    served.at.sent(last.seq);
                    self.tell_client(index, (client, number), ToClient::Entries(page.head.epoch, entries));
                }
                self.read_on(index, client, number);
            }
        }
    }

    fn read_on(&mut self, index: usize, client: usize, number: u32) {
        while let Some(served) = self.served(index, client, number)
            && let Some((epoch, entries)) = served.kept.next(&mut served.at)
        {
            self.model.counts.count("publications that waited for a follower");
            self.tell_client(index, (client, number), ToClient::Entries(epoch, entries));
        }
        let Some(served) = self.served(index, client, number) else {
            return;
        };
        let feed = served.feed;
        match served.at.read_next() {
            Some(position) => self.ask_store(index, feed, StoreWhat::Page(client, number, None, position)),
            None => {
                served.is_reading = false;
                if served.at.position() < served.told {
                    let (at, told) = (served.at.position(), served.told);
                    let what = format!("client {client} goes live at {at}, and its node was told of {told}");
                    return self.model.fail(what);
                }
                self.tell_client(index, (client, number), ToClient::Current);
            }
        }
    }

    fn whole(&mut self, index: usize, client: usize, number: u32, loaded: Result<Option<Loaded>, ReadError>) {
        self.steps += 1;
        let Some(served) = self.served(index, client, number) else {
            return;
        };
        let feed = served.feed;
        let Ok(Some(loaded)) = loaded else {
            return self.close(index, client, number);
        };
        match rebuild(feed, &loaded, |_| {}) {
            Err(what) => self.model.fail(what),
            Ok(rebuilt) => {
                served.at.stands(loaded.head.epoch, loaded.head.seq);
                let whole = ToClient::Whole(Box::new(rebuilt.state), loaded.head);
                self.tell_client(index, (client, number), whole);
                self.read_on(index, client, number);
            }
        }
    }

    fn followers(&self, index: usize, feed: UserId) -> Vec<(usize, u32)> {
        let served = self.nodes[index]
            .served
            .iter()
            .filter(|(_, served)| served.feed == feed);
        served.map(|(client, served)| (*client, served.number)).collect()
    }

    fn push(&mut self, index: usize, feed: UserId, epoch: Epoch, entries: &[Entry]) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return;
        };
        let (first, last) = (first.seq, last.seq);
        if self.nodes[index].overflow > 0 && self.rng.permille(500) {
            return self.lost_some(index);
        }
        for (client, number) in self.followers(index, feed) {
            self.steps += 1;
            let Some(served) = self.served(index, client, number) else {
                continue;
            };
            served.told = served.told.max(last);
            match served.at.published(epoch, first, last) {
                Wanted::Now => self.tell_client(index, (client, number), ToClient::Entries(epoch, entries.to_vec())),
                Wanted::Not => {}
                Wanted::Later => served.kept.keep(epoch, entries, (epoch, entries.to_vec())),
                Wanted::Missed => {
                    served.kept.keep(epoch, entries, (epoch, entries.to_vec()));
                    served.is_reading = true;
                    self.model.counts.count("followers that had missed something");
                    self.read_on(index, client, number);
                }
            }
        }
    }

    /// The node's queue was full: nobody knows for whom the publication was.
    fn lost_some(&mut self, index: usize) {
        let all: Vec<(usize, u32)> = self.nodes[index]
            .served
            .iter()
            .map(|(client, served)| (*client, served.number))
            .collect();
        for (client, number) in all {
            self.steps += 1;
            if let Some(served) = self.served(index, client, number)
                && served.at.lost_some()
            {
                served.is_reading = true;
                self.model.counts.count("followers of queues that were full");
                self.read_on(index, client, number);
            }
        }
    }

    /// No screen is behind for long while nothing is wrong, and none without a word whatever is.
    fn check_screens(&mut self, index: usize) {
        let is_wrong = |node: &SimNode| {
            node.is_up
                && (node.link != Link::Up
                    || node.is_told_down
                    || !node.has_store
                    || node.overflow > 0
                    || node.paused_until > self.now)
        };
        let faults = self.flaky + self.slow + self.store_down + self.lossy + self.down + self.late;
        if faults > 0 || self.nodes.iter().any(is_wrong) {
            self.whole_since = self.now;
        }
        let (now, whole_since) = (self.now, self.whole_since);
        let stood_still = self.nodes[index].paused_until;
        let (says_stale, said_stale_at) = (self.nodes[index].says_stale, self.nodes[index].said_stale_at);
        if says_stale && now - whole_since > STALE {
            let what = format!("node {index} says that screens may be old, and nothing has been wrong for a while");
            return self.model.fail(what);
        }
        let served = &self.nodes[index].served;
        let waits = |token: &Token| served.get(&token.0).is_some_and(|served| served.number == token.1);
        let longest = self
            .unanswered
            .iter()
            .filter(|((token, _), _)| waits(token))
            .min_by_key(|(_, since)| **since);
        if let Some(((token, id), since)) = longest
            && now.saturating_sub((*since).max(stood_still)) > ANSWER
        {
            let what = format!("client {}: {id:?} has waited too long for an answer", token.0);
            return self.model.fail(what);
        }
        for (client, served) in &mut self.nodes[index].served {
            if served.at.position() >= self.model.head(served.feed) {
                served.behind_since = None;
                served.lacks_since = None;
                continue;
            }
            let behind_since = *served.behind_since.get_or_insert(now);
            let (at, head) = (served.at.position(), self.model.head(served.feed));
            if self.tells && now - behind_since.max(whole_since) > STALE {
                let what = format!("client {client} is shown {at} of {head}, and nothing has been wrong for a while");
                return self.model.fail(what);
            }
            // What nobody has been told of, nobody misses.
            let Some(told_at) = self.model.confirmed_after(served.feed, at) else {
                served.lacks_since = None;
                continue;
            };
            let lacks_since = (*served.lacks_since.get_or_insert(now))
                .max(told_at)
                .max(stood_still)
                .max(said_stale_at);
            if self.tells && !says_stale && now.saturating_sub(lacks_since) > SILENT {
                let confirmed = self.model.confirmed(served.feed);
                let what = format!("client {client} is shown {at} of {confirmed}, and nobody says that it may be old");
                return self.model.fail(what);
            }
        }
    }

    fn announce(&mut self, index: usize, feed: UserId, head: Head) {
        for (client, number) in self.followers(index, feed) {
            self.steps += 1;
            let Some(served) = self.served(index, client, number) else {
                continue;
            };
            served.told = served.told.max(head.seq);
            if served.at.announced(head.epoch, head.seq) {
                served.is_reading = true;
                self.model.counts.count("followers that had missed something");
                self.read_on(index, client, number);
            }
        }
    }

    fn close(&mut self, index: usize, client: usize, number: u32) {
        self.tell_client(index, (client, number), ToClient::Closed);
        self.unserve(index, client, number);
    }

    fn unserve(&mut self, index: usize, client: usize, number: u32) {
        if self.served(index, client, number).is_none() {
            return;
        }
        let Some(served) = self.nodes[index].served.remove(&client) else {
            return;
        };
        if !self.nodes[index].served.values().any(|other| other.feed == served.feed) {
            self.hear(index, Heard::Unfollowed(served.feed));
        }
    }

    fn operations(&mut self, index: usize, client: usize, number: u32, operations: Vec<Operation>) {
        let Some(served) = self.served(index, client, number) else {
            return;
        };
        let feed = served.feed;
        let now = self.now;
        let taken = operations
            .iter()
            .map(|operation| (((client, number), operation.id), now));
        self.unanswered.extend(taken);
        if self.nodes[index].node.is_elsewhere(feed) {
            self.hear(
                index,
                Heard::Submit(Submitted {
                    feed,
                    author: feed,
                    connection: Some(ConnectionId {
                        worker: 0,
                        slot: client as u32,
                        generation: number,
                    }),
                    operations,
                    bytes: 200,
                    trace: None,
                    token: (client, number),
                }),
            );
        } else {
            let ids = operations.iter().map(|operation| operation.id).collect();
            self.submit(
                index,
                feed,
                feed,
                operations,
                Asked::Client((client, number), ids),
                false,
            );
        }
    }

    fn look(&mut self, index: usize, client: usize, number: u32) {
        let Some(served) = self.served(index, client, number) else {
            return;
        };
        let feed = served.feed;
        // Whatever was ever answered is in the log by now.
        let asked_at = self.model.head(feed);
        let hosted = self.hosted(index, feed);
        hosted.next += 1;
        let look = SubmissionId(hosted.next);
        hosted.asked.insert(look, Asked::Look((client, number), asked_at));
        self.step_feed(index, feed, Message::Look(look));
    }

    fn answer(&mut self, index: usize, token: Token, results: Vec<OperationResult>) {
        for result in &results {
            if self.unanswered.remove(&(token, result.id)).is_none() {
                let (client, id) = (token.0, result.id);
                self.model.fail(format!("client {client}: {id:?} is answered twice"));
            }
        }
        for result in results
            .iter()
            .filter(|result| !matches!(result.outcome, Became::Accepted(_)))
        {
            self.model.given_up(result.id);
        }
        self.tell_client(index, token, ToClient::Results(results));
    }

    fn tell_client(&mut self, index: usize, (client, number): Token, what: ToClient) {
        let there = &self.clients[client];
        let life = self.nodes[index].life;
        let here = Connection {
            node: index,
            life,
            number,
        };
        if there.connection != Some(here) {
            return;
        }
        let at = (self.now + self.rng.between(100, 5_000)).max(there.from_node_at + 1);
        self.clients[client].from_node_at = at;
        self.later_at(at, Event::Client(client, number, what));
    }

    // ---------------------------------------------------------------------------------------------------- clients

    fn lose_connection(&mut self, client: usize) {
        if self.clients[client].connection.is_some() {
            self.clients[client].disconnected();
            let after = self.rng.between(50, 1_500) * MS;
            self.later(after, Event::Reconnect(client));
        }
    }

    fn reconnect(&mut self, client: usize) {
        if self.clients[client].connection.is_some() {
            return;
        }
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        let there = &self.nodes[node];
        if !there.is_up || there.paused_until > self.now || there.node.me().leaving {
            let after = self.rng.between(20, 300) * MS;
            return self.later(after, Event::Reconnect(client));
        }
        let life = there.life;
        let connecting = &mut self.clients[client];
        connecting.connections += 1;
        let number = connecting.connections;
        connecting.connection = Some(Connection { node, life, number });
        let (feed, cursor) = (connecting.feed, connecting.cursor);
        self.tell_node(client, ToNode::Hello(client, number, feed, cursor));
    }

    fn tell_node(&mut self, client: usize, what: ToNode) {
        let Some(Connection { node, life, .. }) = self.clients[client].connection else {
            return;
        };
        let at = (self.now + self.rng.between(100, 5_000)).max(self.clients[client].to_node_at + 1);
        self.clients[client].to_node_at = at;
        self.later_at(at, Event::Node(node, life, what));
    }

    fn at_client(&mut self, client: usize, number: u32, what: ToClient) {
        let there = &self.clients[client];
        if there.connection.is_none_or(|connection| connection.number != number) {
            return;
        }
        self.note(1000 + client as u64);
        match what {
            ToClient::Whole(state, head) => {
                let feed = self.clients[client].feed;
                self.model.shown_whole(client, feed, head.seq, &state);
                let there = &mut self.clients[client];
                there.state = *state;
                there.cursor = Some(Cursor {
                    epoch: head.epoch,
                    seq: head.seq,
                });
            }
            ToClient::Entries(epoch, entries) => self.entries(client, epoch, &entries),
            ToClient::Current => {
                self.clients[client].is_current = true;
                self.send_pending(client);
            }
            ToClient::Results(results) => self.results(client, &results),
            ToClient::Looked(asked_at, seen) => {
                self.model.counts.count("looks at a feed");
                self.model.looked(client, asked_at, seen);
            }
            ToClient::Closed => self.lose_connection(client),
        }
    }

    fn entries(&mut self, client: usize, epoch: Epoch, entries: &[Entry]) {
        let feed = self.clients[client].feed;
        for entry in entries {
            let position = self.clients[client].position();
            self.model.shown(client, feed, position, entry);
            let there = &mut self.clients[client];
            there.state.apply(entry);
            there.cursor = Some(Cursor { epoch, seq: entry.seq });
            if entry.refused.is_none() {
                // An entry beats any answer: what it did is done.
                there.pending.retain(|pending| pending.operation.id != entry.operation);
            }
        }
    }

    fn results(&mut self, client: usize, results: &[OperationResult]) {
        let feed = self.clients[client].feed;
        let mut is_unknown = false;
        for result in results {
            let there = &mut self.clients[client];
            let place = there
                .pending
                .iter()
                .position(|pending| pending.operation.id == result.id);
            // Without it an entry came before.
            let pending = place.map(|place| there.pending[place].clone());
            let may_retry = match &result.outcome {
                Became::Unknown(_) => true,
                Became::Refused(error) => error.code.action() == taskflow_protocol::codes::Action::Retry,
                _ => false,
            };
            if let Some(place) = place {
                if may_retry {
                    there.pending[place].is_under_way = false;
                    is_unknown = true;
                } else {
                    there.pending.remove(place);
                }
            }
            if let Some(pending) = pending {
                self.model.answered(feed, &pending, &result.outcome, self.now);
            }
        }
        if is_unknown {
            self.later(250 * MS, Event::Resend(client));
        }
    }

    /// Sends what is pending and not under way.
    fn send_pending(&mut self, client: usize) {
        let there = &mut self.clients[client];
        let Some(Connection { number, .. }) = there.connection.filter(|_| there.is_current) else {
            return;
        };
        let head = self.model.head(there.feed);
        let mut operations = Vec::new();
        for pending in there.pending.iter_mut().filter(|pending| !pending.is_under_way) {
            pending.is_under_way = true;
            pending.sent += 1;
            if pending.sent == 1 {
                pending.head_when_sent = head;
            }
            self.model.sends(client, number, &pending.operation, pending.sent == 1);
            operations.push(pending.operation.clone());
        }
        if !operations.is_empty() {
            self.tell_node(client, ToNode::Operations(client, number, operations));
        }
    }

    fn wish(&mut self, client: usize, wish: Wish) {
        if wish == Wish::Look {
            if let Some(Connection { number, .. }) = self.clients[client].connection {
                self.tell_node(client, ToNode::Look(client, number));
            }
            return;
        }
        if wish == Wish::Early {
            // Somebody makes the task soon after, perhaps while the first is judged again.
            let feed = self.clients[client].feed;
            let others: Vec<usize> = (0..self.clients.len())
                .filter(|other| self.clients[*other].feed == feed)
                .collect();
            let other = others[self.rng.below(others.len() as u64) as usize];
            let after = self.rng.between(0, 1_500) * MS;
            self.later(after, Event::Step(Step::Wish(other, Wish::Create)));
        }
        let count = if wish == Wish::Two { 2 } else { 1 };
        for _ in 0..count {
            let operation = self.operation(client, wish);
            self.clients[client].pending.push_back(Pending {
                operation,
                sent: 0,
                is_under_way: false,
                head_when_sent: 0,
            });
        }
        self.send_pending(client);
    }

    fn operation(&mut self, client: usize, wish: Wish) -> Operation {
        let id = OperationId(self.rng.uuid());
        let new = TaskId(self.rng.uuid());
        // One that somebody who follows the same feed made, or wanted to make; now and then one that nobody knows.
        let feed = self.clients[client].feed;
        let known: Vec<TaskId> = self
            .clients
            .iter()
            .filter(|other| other.feed == feed)
            .flat_map(|other| other.tasks.iter().copied())
            .collect();
        let old = if known.is_empty() || self.rng.permille(50) {
            new
        } else {
            known[self.rng.below(known.len() as u64) as usize]
        };
        let base = (wish == Wish::RenameAt).then(|| {
            let version = self.clients[client].state.task(old).map_or(1, |task| task.version);
            version.saturating_sub(self.rng.below(2))
        });
        let title = format!("{:x}", id.0.as_u128() & 0xffff);
        let command = match wish {
            Wish::Undo => {
                let at = self.clients[client].position();
                let seq = at.saturating_sub(self.rng.below(at.clamp(1, 90)));
                Command::Undo(Undo { seq })
            }
            Wish::Early => {
                self.early.entry(feed).or_default().push(new);
                Command::TaskPatch(TaskPatch {
                    task: new,
                    set: taskflow_protocol::model::TaskFields {
                        title: Some(title),
                        ..Default::default()
                    },
                })
            }
            Wish::Create | Wish::Two | Wish::Look => {
                let named = self.early.get_mut(&feed).and_then(Vec::pop);
                let new = named.unwrap_or(new);
                self.clients[client].tasks.push(new);
                Command::TaskCreate(TaskCreate {
                    task: new,
                    list: None,
                    title,
                    notes: String::new(),
                    status: Status::Todo,
                    priority: Priority::None,
                    due: None,
                    deadline: None,
                    duration_minutes: None,
                    labels: Vec::new(),
                    parent: None,
                    place: Default::default(),
                })
            }
            Wish::Rename | Wish::RenameAt => Command::TaskPatch(TaskPatch {
                task: old,
                set: taskflow_protocol::model::TaskFields {
                    title: Some(title),
                    ..Default::default()
                },
            }),
            Wish::Complete => Command::TaskComplete(TaskRef { task: old }),
            Wish::Delete => Command::TaskDelete(TaskRef { task: old }),
        };
        Operation { id, base, command }
    }

    // ---------------------------------------------------------------------------------------------------- the end

    /// Everyone is connected and current, nothing is pending, and what is stored is what the log says.
    fn finish(&mut self) {
        if !self.model.violations.is_empty() {
            return;
        }
        for client in 0..self.clients.len() {
            let there = &self.clients[client];
            let (feed, position) = (there.feed, there.position());
            let head = self.model.head(feed);
            let pending: Vec<_> = there.pending.iter().map(|pending| pending.operation.id).collect();
            if !pending.is_empty() {
                self.model
                    .fail(format!("client {client}: in the end nobody has answered {pending:?}"));
            }
            if position != head {
                self.model
                    .fail(format!("client {client}: in the end it shows {position} of {head}"));
            }
            self.model.check_order(client, feed);
            let state = std::mem::replace(&mut self.clients[client].state, State::new(feed));
            self.model.shown_whole(client, feed, position, &state);
        }
        for feed in self.feeds.clone() {
            self.model.check_rows(feed, &self.store);
        }
    }
}

/// Nodes start one after the other.
fn world_start(index: usize) -> Time {
    index as Time * 20 * MS
}
