//! What one worker thread has: its connections, who of them follows what, one timer wheel, one read buffer.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_rt::spawn;
use bytes::{Bytes, BytesMut};
use slab::Slab;
use taskflow_actors::ports::{Clock, ConnectionId, Head, Store, Tracer as _};
use taskflow_actors::session::{Decision, Sessions};
use taskflow_actors::supervisor::Router;
use taskflow_actors::trace::SpanKind;
use taskflow_protocol::message::{Heartbeat, ServerMessage};
use taskflow_protocol::values::UnixMs;
use taskflow_protocol::{Code, Encoding, UserId};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::catch_up;
use super::connection::{Connection, Delivered, Run};
use super::frame;
use super::hub::{Answers, Delivery, Hub, Slowest, ToWorker, WorkerInbox};
use super::outbound::TOTAL_BYTES;
use super::wire::Wire;
use crate::allocator;
use crate::auth::{Claims, Tokens};
use crate::config::Live;
use crate::http::rates::Rates;
use crate::http::seats::Seats;
use crate::overload::Overload;
use crate::telemetry::metrics::{ConnectionKind, Eviction, Thread};
use crate::telemetry::{Metrics, Traces};

/// Pushes after which the clock is looked at: eight writes take less than the finest bucket is wide.
const PUSHES_A_LOOK: u64 = 8;

/// What connections need from the rest of the server.
pub struct Gateway {
    /// How much somebody may ask for.
    pub rates: Arc<Rates>,
    /// What the workers share.
    pub hub: Arc<Hub>,
    /// The way to the feeds.
    pub router: Router,
    /// The log, for catching up.
    pub store: Arc<dyn Store>,
    /// Who may come in.
    pub tokens: Arc<Tokens>,
    /// The users that are here.
    pub sessions: Arc<Sessions>,
    /// How many connections each of them has, event streams and long-polls included.
    pub seats: Arc<Seats>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The figures.
    pub metrics: Arc<Metrics>,
    /// Which operations are traced; `None`: none.
    pub traces: Option<Arc<Traces>>,
    /// What is not done because there is too much to do.
    pub overload: Arc<Overload>,
    /// Name and version of the server.
    pub build: String,
    /// See [`taskflow_protocol::limits::HEARTBEAT_MS`].
    pub heartbeat_ms: u32,
    /// Seconds without a byte from the client after which it is gone: two and a half heartbeats.
    pub heartbeat_timeout_s: u32,
    /// See [`taskflow_protocol::limits::OUTBOUND_BYTES_MAX`].
    pub outbound_bytes_max: usize,
    /// See [`taskflow_protocol::limits::SOCKET_BYTES_A_SECOND_MAX`]; 0: any number.
    pub bytes_a_second_max: u32,
    /// Whether limits refuse, or only count.
    pub live: Arc<Live>,
    /// See [`taskflow_protocol::limits::OUTBOUND_BYTES_TOTAL_MAX`].
    pub outbound_bytes_total_max: usize,
    /// Clients that are sent away come back within this time, spread evenly.
    pub reconnect_window_ms: u32,
    /// Snapshots under way at once: each holds a feed in memory.
    pub snapshots: Arc<Semaphore>,
}

struct Slot {
    generation: u32,
    /// When the connection's token expires, in seconds of the worker's clock.
    expires_s: u32,
    connection: Option<Rc<Connection>>,
}

/// The followers of one feed, by slot. Nearly always one.
enum Followers {
    One(u32),
    Many(Vec<u32>),
}

impl Followers {
    fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(slot) => std::slice::from_ref(slot),
            Self::Many(slots) => slots,
        }
    }
}

/// See the module.
pub struct Worker {
    /// Which of the workers.
    pub index: u16,
    /// The rest of the server.
    pub gateway: Arc<Gateway>,
    slots: RefCell<Slab<Slot>>,
    followers: RefCell<HashMap<UserId, Followers>>,
    /// Connections at a beginning or an end, looked at every second.
    watched: RefCell<Vec<u32>>,
    buffer: RefCell<BytesMut>,
    next_generation: Cell<u32>,
    /// Connections in slots below this one have been sent away.
    left_upto: Cell<u32>,
    begun: Instant,
    now_s: Cell<u32>,
    /// The heartbeat, in both encodings, and whether it says more than that.
    beats: RefCell<[Bytes; 2]>,
    is_stale: Cell<bool>,
}

impl Worker {
    /// Starts the worker's loop and wheel on the present thread; `None` if all workers of the hub have been started.
    pub fn start(gateway: Arc<Gateway>) -> Option<Rc<Self>> {
        let inbox = gateway.hub.take_inbox()?;
        let worker = Rc::new(Self {
            index: inbox.index,
            gateway,
            slots: RefCell::default(),
            followers: RefCell::default(),
            watched: RefCell::default(),
            buffer: RefCell::default(),
            next_generation: Cell::new(0),
            left_upto: Cell::new(0),
            begun: Instant::now(),
            now_s: Cell::new(0),
            beats: RefCell::new(beats(Heartbeat::default())),
            is_stale: Cell::new(false),
        });
        spawn(worker.clone().deliver_all(inbox));
        spawn(worker.clone().turn_wheel());
        let delays = worker.gateway.metrics.thread_delay.of(Thread::Worker).clone();
        spawn(worker.gateway.overload.clone().watch_thread(delays));
        Some(worker)
    }

    /// Seconds since the worker began, as of its last tick.
    pub fn now_s(&self) -> u32 {
        self.now_s.get()
    }

    /// Whether new connections are to be sent elsewhere.
    pub fn is_draining(&self) -> bool {
        self.gateway.hub.draining.load(Ordering::Acquire)
    }

    /// Takes a socket whose handshake is done, and which is counted already. `early` are bytes that came right behind it.
    pub fn adopt(self: &Rc<Self>, stream: Wire, encoding: Encoding, token: Option<String>, early: &[u8]) {
        let generation = self.next_generation.get();
        self.next_generation.set(generation.wrapping_add(1));
        let slot = self.slots.borrow_mut().insert(Slot {
            generation,
            expires_s: u32::MAX,
            connection: None,
        }) as u32;
        let id = ConnectionId {
            worker: self.index,
            slot,
            generation,
        };
        let connection = Rc::new(Connection::new(id, stream, encoding, token, self.now_s(), early));
        if let Some(slot) = self.slots.borrow_mut().get_mut(slot as usize) {
            slot.connection = Some(connection.clone());
        }
        self.gateway.metrics.connections.of(ConnectionKind::WebSocket).inc();
        self.watch(slot);
        spawn(Run {
            connection,
            worker: self.clone(),
        });
    }

    /// The connection is over: nothing of it stays.
    pub(super) fn remove(&self, id: ConnectionId) {
        let mut slots = self.slots.borrow_mut();
        if slots
            .get(id.slot as usize)
            .is_some_and(|slot| slot.generation == id.generation)
        {
            slots.remove(id.slot as usize);
            self.gateway.hub.connections.fetch_sub(1, Ordering::Relaxed);
            self.gateway.metrics.connections.of(ConnectionKind::WebSocket).dec();
        }
    }

    /// The connection's token expires then: within two seconds after that the connection is closed.
    pub(super) fn expires(&self, id: ConnectionId, at: UnixMs) {
        let left_ms = u64::try_from(at - self.gateway.clock.now_ms()).unwrap_or(0);
        let expires_s = (self.begun.elapsed().as_millis() as u64 + left_ms).div_ceil(1000);
        if let Some(slot) = self.slots.borrow_mut().get_mut(id.slot as usize)
            && slot.generation == id.generation
        {
            slot.expires_s = u32::try_from(expires_s).unwrap_or(u32::MAX);
        }
    }

    fn close_expired(&self) {
        let now_s = self.now_s();
        let slots = self.slots.borrow();
        let expired = slots.iter().filter(|(_, slot)| slot.expires_s <= now_s);
        let expired: Vec<_> = expired.filter_map(|(_, slot)| slot.connection.clone()).collect();
        drop(slots);
        for connection in expired {
            connection.expire(self);
        }
    }

    /// Looks at the connection every second until it is in the middle of its life, or gone.
    pub(super) fn watch(&self, slot: u32) {
        self.watched.borrow_mut().push(slot);
    }

    pub(super) fn connection(&self, id: ConnectionId) -> Option<Rc<Connection>> {
        let slots = self.slots.borrow();
        let slot = slots
            .get(id.slot as usize)
            .filter(|slot| slot.generation == id.generation)?;
        slot.connection.clone()
    }

    fn in_slot(&self, slot: u32) -> Option<Rc<Connection>> {
        self.slots.borrow().get(slot as usize)?.connection.clone()
    }

    /// The buffer that all connections read into.
    pub(super) fn read_buffer(&self) -> BytesMut {
        self.buffer.take()
    }

    pub(super) fn give_back(&self, buffer: BytesMut) {
        self.buffer.replace(buffer);
    }

    /// Checks a token, at once if it was checked before.
    pub(super) fn verify(&self, token: String, then: impl FnOnce(Result<Claims, Code>) + 'static) {
        match self.gateway.tokens.verify_cached(&token) {
            Some(verified) => then(verified),
            None => {
                let tokens = self.gateway.tokens.clone();
                spawn(async move { then(tokens.verify_anew(&token).await) });
            }
        }
    }

    // ----------------------------------------------------------------------------------------------------- following

    pub(super) fn follow(&self, feed: UserId, slot: u32) {
        let mut followers = self.followers.borrow_mut();
        match followers.get_mut(&feed) {
            None => {
                followers.insert(feed, Followers::One(slot));
                self.gateway.hub.follow(self.index, feed);
            }
            Some(Followers::Many(slots)) => slots.push(slot),
            Some(one) => *one = Followers::Many(one.as_slice().iter().copied().chain([slot]).collect()),
        }
    }

    pub(super) fn unfollow(&self, feed: UserId, slot: u32) {
        let mut followers = self.followers.borrow_mut();
        let gone = match followers.get_mut(&feed) {
            None => return,
            Some(Followers::One(one)) => *one == slot,
            Some(Followers::Many(slots)) => {
                if let Some(index) = slots.iter().position(|other| *other == slot) {
                    slots.swap_remove(index);
                }
                slots.is_empty()
            }
        };
        if gone {
            followers.remove(&feed);
            self.gateway.hub.unfollow(self.index, feed);
        }
    }

    // ------------------------------------------------------------------------------------------------------- the loop

    async fn deliver_all(self: Rc<Self>, mut inbox: WorkerInbox) {
        let hub = self.gateway.hub.clone();
        let mut batch = Vec::new();
        while inbox.receive(&hub, &mut batch).await {
            // Several frames for one connection go in one write; a single push goes out without the detour.
            let joined = batch.len() > 1;
            let (mut touched, mut waiting) = (Vec::new(), Vec::new());
            for message in batch.drain(..) {
                match message {
                    ToWorker::Deliver(delivery, answers) => {
                        let pushes = self.deliver(&delivery, answers, joined, &mut touched);
                        if pushes > 0 {
                            waiting.push((delivery, pushes));
                        }
                    }
                    ToWorker::Answer(to, results) => {
                        if let Some(connection) = self.connection(to) {
                            connection.answer(&self, results);
                            touched.push(connection);
                        }
                    }
                    ToWorker::Announce(feed, head) => self.announce(feed, head),
                    ToWorker::Stale(since) => self.stale(since),
                    ToWorker::Decided(decision) => self.decided(decision),
                    // Whoever asked may have given up.
                    ToWorker::Slowest(asked) => drop(asked.send(self.slowest())),
                    ToWorker::Leave => self.send_some_away(),
                    ToWorker::Drain => self.drain(),
                }
            }
            for connection in touched {
                connection.flush();
            }
            for (delivery, pushes) in waiting {
                self.pushed(delivery.known_at, pushes);
                self.trace(&delivery, pushes);
            }
            if hub.take_missed(self.index) {
                self.read_all_again();
            }
            self.make_room();
        }
    }

    /// So many frames of one publication have just been written.
    fn pushed(&self, known_at: std::time::Instant, pushes: u64) {
        let metrics = &self.gateway.metrics;
        metrics.push_duration.observe_many(known_at.elapsed(), pushes);
    }

    /// The same for those who traced what was published.
    fn trace(&self, delivery: &Delivery, pushes: u64) {
        let Some(traces) = &self.gateway.traces else { return };
        let mut before = None;
        for entry in delivery.publication.entries.iter() {
            let Some(trace) = entry.trace.as_deref().filter(|trace| before != Some(**trace)) else {
                continue;
            };
            before = Some(*trace);
            if let Some(mut span) = traces.begin("push", SpanKind::Internal, *trace) {
                span.began = delivery.known_at;
                span.fact("taskflow.pushes", pushes);
                span.fact("feed.seq", entry.seq);
                traces.end(span);
            }
        }
    }

    /// How many pushes wait for a flush.
    fn deliver(
        self: &Rc<Self>,
        delivery: &Arc<Delivery>,
        answers: Answers,
        joined: bool,
        touched: &mut Vec<Rc<Connection>>,
    ) -> u64 {
        // The author's answer and the push of its entry go in one write.
        let joined = joined || !answers.is_empty();
        for (to, results) in answers {
            if let Some(connection) = self.connection(to) {
                connection.answer(self, results);
                touched.push(connection);
            }
        }
        let feed = delivery.publication.feed;
        let followers = self.followers.borrow();
        let slots = followers.get(&feed).map_or(&[][..], Followers::as_slice);
        let mut behind = Vec::new();
        let (mut pushes, mut push_bytes, mut timed) = (0, 0, 0);
        for connection in slots.iter().filter_map(|slot| self.in_slot(*slot)) {
            match connection.deliver(self, delivery, joined) {
                Delivered::Pushed(bytes) => {
                    pushes += 1;
                    push_bytes += bytes as u64;
                }
                Delivered::Behind(id) => behind.push((connection.clone(), id)),
                Delivered::NotWanted => {}
            }
            if joined {
                touched.push(connection);
            } else if pushes - timed == PUSHES_A_LOOK {
                self.pushed(delivery.known_at, PUSHES_A_LOOK);
                timed = pushes;
            }
        }
        drop(followers);
        self.gateway.metrics.pushes.inc_by(pushes);
        self.gateway.metrics.push_bytes.inc_by(push_bytes);
        for (connection, id) in behind {
            spawn(catch_up::resume(connection, self.clone(), id));
        }
        if joined {
            return pushes;
        }
        if pushes > timed {
            self.pushed(delivery.known_at, pushes - timed);
        }
        if pushes > 0 {
            self.trace(delivery, pushes);
        }
        0
    }

    fn announce(self: &Rc<Self>, feed: UserId, head: Head) {
        let followers = self.followers.borrow();
        let slots = followers.get(&feed).map_or(&[][..], Followers::as_slice);
        for connection in slots.iter().filter_map(|slot| self.in_slot(*slot)) {
            if let Some(id) = connection.announced(feed, head) {
                spawn(catch_up::resume(connection.clone(), self.clone(), id));
            }
        }
    }

    fn decided(self: &Rc<Self>, decision: Decision) {
        let (Decision::Admit(to) | Decision::Close(to, _) | Decision::Follow(to, ..)) = decision;
        let Some(connection) = self.connection(to) else { return };
        match decision {
            Decision::Admit(_) => connection.admitted(self),
            Decision::Close(_, code) => connection.close(self, code),
            Decision::Follow(_, feed, may) => {
                let Some(id) = connection.begin_following(feed) else {
                    return;
                };
                match may {
                    Ok(()) => {
                        self.follow(feed, to.slot);
                        spawn(catch_up::begin(connection, self.clone(), id));
                    }
                    Err(code) => connection.refuse_following(self, id, code),
                }
            }
        }
    }

    /// Publications were lost on the way here: everyone reads the log from where they are.
    fn read_all_again(self: &Rc<Self>) {
        let all: Vec<_> = self
            .slots
            .borrow()
            .iter()
            .filter_map(|(_, slot)| slot.connection.clone())
            .collect();
        for connection in all {
            for id in connection.lost_some() {
                spawn(catch_up::resume(connection.clone(), self.clone(), id));
            }
        }
    }

    /// If all queues together hold too much, the fullest connection here goes, unless the fullest of all must be another
    /// worker's: that one has at least the average.
    fn make_room(&self) {
        let total = TOTAL_BYTES.load(Ordering::Relaxed);
        if total <= self.gateway.outbound_bytes_total_max {
            return;
        }
        let average = total / self.gateway.hub.connections.load(Ordering::Relaxed).max(1);
        let slots = self.slots.borrow();
        let all = slots.iter().filter_map(|(_, slot)| slot.connection.clone());
        let fullest = all
            .filter(|connection| !connection.is_ending())
            .max_by_key(|connection| connection.outbound_bytes());
        drop(slots);
        if let Some(connection) = fullest.filter(|connection| connection.outbound_bytes() >= average) {
            self.gateway.metrics.evictions.of(Eviction::QueuesFull).inc();
            connection.close(self, Code::TooSlow);
        }
    }

    /// Which clients are behind, for an operator.
    fn slowest(&self) -> Slowest {
        let mut slowest = Slowest::default();
        for (_, slot) in self.slots.borrow().iter() {
            if let Some(lag) = slot.connection.as_ref().map(|connection| connection.lag())
                && lag.bytes > 0
            {
                slowest.add(lag);
            }
        }
        slowest
    }

    /// As many as may leave now, in the order of the slots: nobody new comes any more.
    fn send_some_away(&self) {
        let end = self.slots_end();
        while self.left_upto.get() < end {
            let slot = self.left_upto.get();
            if let Some(connection) = self.in_slot(slot) {
                if !self.gateway.hub.may_leave() {
                    return;
                }
                self.gateway.metrics.drained.of(ConnectionKind::WebSocket).inc();
                connection.leave(self);
            }
            self.left_upto.set(slot + 1);
        }
    }

    fn slots_end(&self) -> u32 {
        let slots = self.slots.borrow();
        slots.iter().next_back().map_or(0, |(slot, _)| slot as u32 + 1)
    }

    fn drain(&self) {
        let all: Vec<_> = self
            .slots
            .borrow()
            .iter()
            .filter_map(|(_, slot)| slot.connection.clone())
            .collect();
        for connection in all {
            connection.leave(self);
        }
    }

    /// One timer for all connections: each second it visits one of as many groups as a heartbeat period has seconds.
    async fn turn_wheel(self: Rc<Self>) {
        let groups = (self.gateway.heartbeat_ms as usize / 1000).max(1);
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut group = 0;
        let mut collected = Instant::now();
        loop {
            tick.tick().await;
            self.now_s.set(self.begun.elapsed().as_secs() as u32);
            // Queues also grow by what their clients ask for, and then nothing comes through the loop.
            self.make_room();
            self.close_expired();
            // The first group is the last: whoever comes in while a worker starts is not asked at once.
            group = (group + 1) % groups;
            self.beat(group, groups, Connection::heartbeat);
            let watched = self.watched.take();
            let still = watched.into_iter().filter(|slot| {
                self.in_slot(*slot)
                    .is_some_and(|connection| connection.check_phase(&self))
            });
            let still: Vec<u32> = still.collect();
            self.watched.borrow_mut().extend(still);
            if collected.elapsed() >= allocator::COLLECT_EVERY {
                collected = Instant::now();
                allocator::collect();
            }
        }
    }

    /// Since so long nobody can find out whether feeds have changed, or it is known again: every screen hears of it now, and
    /// with each heartbeat.
    fn stale(&self, since: Option<Duration>) {
        let now = self.gateway.clock.now_ms();
        let stale_since = since.map(|since| now - since.as_millis() as UnixMs);
        self.beats.replace(beats(Heartbeat { stale_since }));
        self.is_stale.set(stale_since.is_some());
        self.beat(0, 1, Connection::beat);
    }

    /// The heartbeat as it is now.
    pub(super) fn heartbeat(&self, encoding: Encoding) -> Bytes {
        self.beats.borrow()[usize::from(encoding == Encoding::MsgPack)].clone()
    }

    /// Whether a heartbeat says more than that the server is there.
    pub(super) fn is_stale(&self) -> bool {
        self.is_stale.get()
    }

    fn beat(&self, group: usize, groups: usize, beat: impl Fn(&Connection, &Self)) {
        for slot in (group..self.slots_end() as usize).step_by(groups) {
            if let Some(connection) = self.in_slot(slot as u32) {
                beat(&connection, self);
            }
        }
    }
}

fn beats(heartbeat: Heartbeat) -> [Bytes; 2] {
    [Encoding::Json, Encoding::MsgPack]
        .map(|encoding| frame::message(encoding, &encoding.encode(&ServerMessage::Heartbeat(heartbeat))))
}
