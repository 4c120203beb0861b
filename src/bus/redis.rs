//! The bus over Redis pub/sub: one server, Sentinel, or Cluster (sharded pub/sub).
//!
//! One task owns the connection. It publishes what waits in one write, keeps the subscriptions as they are wanted, beats,
//! and sends itself a canary: a Redis that answers but does not deliver is found by that, and by nothing else. When
//! anything is wrong it says so once ([`BusEvent::Down`]), throws the connection away and makes everything anew.
//!
//! What comes in goes to the inbox on the driver's own task, in order, with no queue in between.

mod link;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use rand::Rng as _;
use taskflow_actors::cluster::members::BEAT_MS;
use taskflow_actors::ports::{Beat, Bus, BusEvent, BusInbox, Clock as _, NodeId};
use taskflow_protocol::UserId;
use tokio::sync::{Notify, mpsc, watch};

use crate::clock::SystemClock;

use self::link::{Came, Incoming, Link};

/// Messages that wait to be sent. The task sends all of them in one write: as many as this mean that Redis has not
/// answered for a while. Beyond it messages are dropped, and followers find out by the next one or by comparing.
const WAITING_MAX: usize = 16 * 1024;

/// Bytes of messages that wait to be sent, for the same reason: some large commits must not cost a gigabyte.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Messages in one write.
const WRITE_MAX: usize = 512;

/// Feeds in one round of subscriptions: a round is a few hundred microseconds of Redis' time, which others wait for.
const SUBSCRIBE_MAX: usize = 512;

/// How long Redis may take to answer, and how long a canary may take. Both are far above what a slow moment takes and
/// together below the five seconds within which a loss has to be noticed.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// How long to wait before connecting again, at first and at most.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);
const RECONNECT_AFTER_MAX: Duration = Duration::from_secs(2);

/// Records of nodes that have not beaten for this long are removed, in milliseconds: they end long before in any node's
/// eyes, and a hash must not grow for ever.
const RECORD_MAX_MS: u64 = 60_000;

/// What kind of Redis it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One server.
    Standalone,
    /// Sentinels, which know the server of this name.
    Sentinel(String),
    /// Redis Cluster, version 7 or later.
    Cluster,
}

/// Where Redis is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses (`redis://…` or `rediss://…`): of the server, the sentinels, or some nodes of the cluster.
    pub nodes: Vec<String>,
    /// What kind it is.
    pub mode: Mode,
    /// In front of every channel and key: clusters that share a Redis keep apart by it.
    pub cluster_name: String,
}

impl Options {
    /// The addresses for the log: without the login that may stand in them.
    fn shown(&self) -> String {
        let shown = self
            .nodes
            .iter()
            .map(|node| match (node.split_once("://"), node.rsplit_once('@')) {
                (Some((scheme, _)), Some((_, place))) => format!("{scheme}://{place}"),
                _ => node.clone(),
            });
        shown.collect::<Vec<_>>().join(", ")
    }
}

/// Who counts what the bus does. All methods may do nothing.
pub trait RedisObserver: Send + Sync + 'static {
    /// So many messages went out in one write.
    fn sent(&self, _messages: usize) {}
    /// A message came in.
    fn received(&self, _bytes: usize) {}
    /// How long a message took from its sender to here, by the broker's clock.
    fn lag(&self, _lag: Duration) {}
    /// A message was dropped before it was sent.
    fn dropped(&self) {}
    /// A connection was made.
    fn connected(&self) {}
    /// How long a canary took.
    fn canary(&self, _took: Duration) {}
    /// This node's clock is so far ahead of the broker's, in milliseconds; behind it, less than 0.
    fn clock_ahead(&self, _ms: i64) {}
    /// So many feeds are subscribed.
    fn subscriptions(&self, _feeds: usize) {}
}

/// Counts nothing.
impl RedisObserver for () {}

/// Channels and keys of a cluster.
#[derive(Clone, Debug)]
struct Names {
    feed: String,
    node: String,
    canary: String,
    beats: String,
}

impl Names {
    fn of(cluster: &str, node: NodeId) -> Self {
        Self {
            feed: format!("taskflow:{cluster}:feed:"),
            node: format!("taskflow:{cluster}:node:"),
            canary: format!("taskflow:{cluster}:canary:{:016x}", node.0),
            // Braces: all commands on it go to one node of a Redis Cluster.
            beats: format!("taskflow:{{{cluster}}}:beats"),
        }
    }
    fn feed(&self, feed: UserId) -> String {
        format!("{}{}", self.feed, feed.0)
    }
    fn node(&self, node: NodeId) -> String {
        format!("{}{:016x}", self.node, node.0)
    }
}

/// A message on its way out.
struct Out {
    channel: String,
    message: Bytes,
}

/// The feeds that this node wants, and what changed since the task looked.
#[derive(Default)]
struct Wanted {
    feeds: HashSet<UserId>,
    changed: Vec<UserId>,
    /// Redis ended these subscriptions.
    ended: Vec<UserId>,
}

struct Shared {
    node: NodeId,
    names: Names,
    out: mpsc::Sender<Out>,
    out_bytes: AtomicUsize,
    wanted: Mutex<Wanted>,
    changed: Notify,
    body: Mutex<Bytes>,
    beat_now: Notify,
    /// Messages come through: while they do not, nothing is queued.
    up: AtomicBool,
    /// The broker's clock less this node's, in microseconds.
    offset_us: AtomicI64,
    begun: Instant,
    /// The canary that came back last from each server.
    canaries: Mutex<Vec<u64>>,
    inbox: Arc<dyn BusInbox>,
    observer: Arc<dyn RedisObserver>,
}

impl Shared {
    fn now_us(&self) -> i64 {
        self.begun.elapsed().as_micros() as i64
    }

    fn broker_us(&self) -> i64 {
        self.now_us() + self.offset_us.load(Ordering::Relaxed)
    }

    fn queue(&self, channel: String, message: &Bytes) {
        let size = message.len();
        if !self.up.load(Ordering::Acquire) {
            return self.observer.dropped();
        }
        let before = self.out_bytes.fetch_add(size, Ordering::AcqRel);
        // Its time of sending goes in front, by the broker's clock.
        let mut stamped = BytesMut::with_capacity(8 + size);
        stamped.put_i64(self.broker_us());
        stamped.put_slice(message);
        let out = Out {
            channel,
            message: stamped.freeze(),
        };
        if before + size > WAITING_BYTES_MAX || self.out.try_send(out).is_err() {
            self.out_bytes.fetch_sub(size, Ordering::AcqRel);
            self.observer.dropped();
        }
    }

    /// What the driver hands over: on its own task, in order.
    fn incoming(&self, channel: &[u8], message: &Bytes) {
        let is = |name: &str| channel.strip_prefix(name.as_bytes());
        if let Some(rest) = is(&self.names.feed) {
            let feed = std::str::from_utf8(rest).ok().and_then(|text| text.parse().ok());
            if let (Some(feed), Some(message)) = (feed, self.unstamped(message)) {
                self.inbox.take(BusEvent::Published(UserId(feed), message));
            }
        } else if is(&self.names.node).is_some() {
            if let Some(message) = self.unstamped(message) {
                self.inbox.take(BusEvent::Received(message));
            }
        } else if is(&self.names.canary).is_some()
            && let (Some(number), Some(server)) = (message.first_chunk(), message.last_chunk())
            && let Some(last) = lock(&self.canaries).get_mut(usize::from(u16::from_be_bytes(*server)))
        {
            *last = u64::from_be_bytes(*number);
        }
    }

    /// Nothing more comes on a channel. Whether the connection is still worth something.
    fn ended(&self, channel: &[u8]) -> bool {
        let Some(rest) = channel.strip_prefix(self.names.feed.as_bytes()) else {
            return false;
        };
        let feed = std::str::from_utf8(rest).ok().and_then(|text| text.parse().ok());
        if let Some(feed) = feed.map(UserId) {
            let mut wanted = lock(&self.wanted);
            if wanted.feeds.contains(&feed) {
                wanted.ended.push(feed);
                wanted.changed.push(feed);
                self.changed.notify_one();
            }
        }
        true
    }

    fn unstamped(&self, message: &Bytes) -> Option<Bytes> {
        let stamp = i64::from_be_bytes(*message.first_chunk()?);
        self.observer.received(message.len());
        let lag = self.broker_us().saturating_sub(stamp);
        self.observer
            .lag(Duration::from_micros(u64::try_from(lag).unwrap_or(0)));
        Some(message.slice(8..))
    }
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct RedisBus {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
}

impl RedisBus {
    /// Starts on the present runtime, which must live as long as the bus. Redis may come later.
    pub fn start(options: Options, node: NodeId, inbox: Arc<dyn BusInbox>, observer: Arc<dyn RedisObserver>) -> Self {
        let (out, waiting) = mpsc::channel(WAITING_MAX);
        let shared = Arc::new(Shared {
            node,
            names: Names::of(&options.cluster_name, node),
            out,
            out_bytes: AtomicUsize::new(0),
            wanted: Mutex::default(),
            changed: Notify::new(),
            body: Mutex::default(),
            beat_now: Notify::new(),
            up: AtomicBool::new(false),
            offset_us: AtomicI64::new(0),
            begun: Instant::now(),
            canaries: Mutex::default(),
            inbox,
            observer,
        });
        let (stop, stopped) = watch::channel(false);
        let task = Task {
            shared: shared.clone(),
            options,
            waiting,
            stopped,
        };
        tokio::spawn(task.run());
        Self { shared, stop }
    }

    /// Messages that wait to be sent, and their bytes.
    pub fn waiting(&self) -> (usize, usize) {
        let shared = &self.shared;
        let messages = shared.out.max_capacity() - shared.out.capacity();
        (messages, shared.out_bytes.load(Ordering::Relaxed))
    }

    /// Ends it, and takes this node's record away. Comes back when that is done, or after a second.
    pub async fn stop(&self) {
        let _ = self.stop.send(true);
        let ended = self.stop.closed();
        let _ = tokio::time::timeout(Duration::from_secs(1), ended).await;
    }
}

impl Bus for RedisBus {
    fn publish(&self, feed: UserId, message: Bytes) {
        self.shared.queue(self.shared.names.feed(feed), &message);
    }

    fn send(&self, node: NodeId, message: Bytes) {
        self.shared.queue(self.shared.names.node(node), &message);
    }

    fn subscribe(&self, feed: UserId) {
        let mut wanted = lock(&self.shared.wanted);
        wanted.feeds.insert(feed);
        wanted.changed.push(feed);
        self.shared.changed.notify_one();
    }

    fn unsubscribe(&self, feed: UserId) {
        let mut wanted = lock(&self.shared.wanted);
        wanted.feeds.remove(&feed);
        wanted.changed.push(feed);
        self.shared.changed.notify_one();
    }

    fn beat(&self, body: Bytes) {
        *lock(&self.shared.body) = body;
        self.shared.beat_now.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a connection is thrown away.
enum End {
    Lost(String),
    Stopped,
}

impl From<::redis::RedisError> for End {
    fn from(error: ::redis::RedisError) -> Self {
        Self::Lost(error.to_string())
    }
}

struct Task {
    shared: Arc<Shared>,
    options: Options,
    waiting: mpsc::Receiver<Out>,
    stopped: watch::Receiver<bool>,
}

impl Task {
    async fn run(mut self) {
        let mut wait = RECONNECT_AFTER;
        let mut is_told = false;
        loop {
            let begun = Instant::now();
            let end = self.connect_and_serve().await;
            let was_up = self.shared.up.swap(false, Ordering::AcqRel);
            // What waits would be old by the time that there is a connection.
            while self.waiting.try_recv().is_ok() {
                self.shared.observer.dropped();
            }
            self.shared.out_bytes.store(0, Ordering::Release);
            let End::Lost(why) = end else { return };
            if was_up || !is_told {
                is_told = true;
                tracing::warn!(
                    nodes = self.options.shown(),
                    problem = why,
                    "Redis does not carry messages: this node works alone and reads the log instead"
                );
                self.shared.inbox.take(BusEvent::Down(why));
            }
            if begun.elapsed() > Duration::from_secs(10) {
                wait = RECONNECT_AFTER;
            }
            let jittered = wait.mul_f64(rand::rng().random_range(0.5..1.5));
            wait = (wait * 2).min(RECONNECT_AFTER_MAX);
            tokio::select! {
                () = tokio::time::sleep(jittered) => {}
                () = is_stopped(&mut self.stopped) => return,
            }
        }
    }

    async fn connect_and_serve(&mut self) -> End {
        let lost = Arc::new(Notify::new());
        let (shared, gone) = (self.shared.clone(), lost.clone());
        let incoming: Incoming = Arc::new(move |came| match came {
            Came::Message(channel, message) => shared.incoming(channel, &message),
            Came::Ended(channel) if shared.ended(channel) => {}
            Came::Ended(_) | Came::Gone => gone.notify_one(),
        });
        let connected = tokio::time::timeout(PATIENCE * 2, Link::connect(&self.options, PATIENCE, incoming));
        let mut link = match connected.await {
            Ok(Ok(link)) => link,
            Ok(Err(error)) => return End::Lost(error.to_string()),
            Err(_) => return End::Lost("no answer while connecting".to_owned()),
        };
        self.shared.observer.connected();
        let served = self.serve(&mut link, &lost).await;
        match served {
            Err(end) => {
                if matches!(end, End::Stopped) {
                    let gone = link.forget(&self.shared.names.beats, self.shared.node);
                    let _ = tokio::time::timeout(PATIENCE, gone).await;
                }
                end
            }
            Ok(()) => End::Lost("the connection was closed".to_owned()),
        }
    }

    async fn serve(&mut self, link: &mut Link, lost: &Notify) -> Result<(), End> {
        let shared = self.shared.clone();
        let mut canary = Canary::new(link.channel_on_each(&shared.names.canary), &shared);
        let mut own = canary.channels.clone();
        own.push(shared.names.node(shared.node));
        in_time(link.subscribe(&own)).await?;
        // First the canary: what is subscribed before it comes back may be worth nothing.
        canary.send(link).await?;
        let mut replaced = link.replaced(&self.options);
        let mut subscribed = HashSet::new();
        {
            let mut wanted = lock(&shared.wanted);
            wanted.changed = wanted.feeds.iter().copied().collect();
            wanted.ended.clear();
        }
        let mut beat = tokio::time::interval(Duration::from_millis(BEAT_MS));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut out = Vec::new();
        loop {
            shared.change(link, &mut subscribed).await?;
            if !shared.up.load(Ordering::Acquire) && canary.is_back(&shared) {
                shared.up.store(true, Ordering::Release);
                tracing::info!(nodes = self.options.shown(), "Redis carries messages");
                shared.inbox.take(BusEvent::Up);
            }
            tokio::select! {
                count = self.waiting.recv_many(&mut out, WRITE_MAX) => {
                    if count == 0 {
                        return Ok(());
                    }
                    let bytes: usize = out.iter().map(|out| out.message.len() - 8).sum();
                    shared.out_bytes.fetch_sub(bytes, Ordering::AcqRel);
                    shared.observer.sent(count);
                    let messages = out.drain(..).map(|out| (out.channel, out.message)).collect();
                    in_time(link.publish(messages)).await?;
                }
                () = shared.changed.notified() => {}
                () = shared.beat_now.notified() => shared.beat(link).await?,
                _ = beat.tick() => {
                    shared.beat(link).await?;
                    canary.look(&shared)?;
                    canary.send(link).await?;
                }
                // While it is not up, the canary is looked for more often than it is sent.
                () = tokio::time::sleep(Duration::from_millis(5)), if !shared.up.load(Ordering::Acquire) => {
                    canary.look(&shared)?;
                }
                why = &mut replaced => return Err(End::Lost(why)),
                () = lost.notified() => return Err(End::Lost("the connection was closed".to_owned())),
                () = is_stopped(&mut self.stopped) => return Err(End::Stopped),
            }
        }
    }
}

impl Shared {
    /// Makes the subscriptions what is wanted, in rounds.
    async fn change(&self, link: &mut Link, subscribed: &mut HashSet<UserId>) -> Result<(), End> {
        loop {
            let (begin, end) = {
                let mut wanted = lock(&self.wanted);
                let count = wanted.changed.len().min(SUBSCRIBE_MAX);
                // What was wanted and is not any more, or the other way round, within a round: the present wish counts.
                let asked: HashSet<UserId> = wanted.changed.drain(..count).collect();
                for feed in wanted.ended.drain(..) {
                    subscribed.remove(&feed);
                }
                let (begin, end): (Vec<UserId>, Vec<UserId>) =
                    asked.into_iter().partition(|feed| wanted.feeds.contains(feed));
                (begin, end)
            };
            if begin.is_empty() && end.is_empty() {
                return Ok(());
            }
            let channels =
                |feeds: &[UserId]| -> Vec<String> { feeds.iter().map(|feed| self.names.feed(*feed)).collect() };
            let new: Vec<UserId> = begin.iter().copied().filter(|feed| subscribed.insert(*feed)).collect();
            in_time(link.subscribe(&channels(&new))).await?;
            let old: Vec<UserId> = end.into_iter().filter(|feed| subscribed.remove(feed)).collect();
            in_time(link.unsubscribe(&channels(&old))).await?;
            self.observer.subscriptions(subscribed.len());
            if !begin.is_empty() {
                self.inbox.take(BusEvent::Subscribed(begin));
            }
        }
    }

    async fn beat(&self, link: &mut Link) -> Result<(), End> {
        let body = lock(&self.body).clone();
        if body.is_empty() {
            return Ok(());
        }
        let asked_us = self.now_us();
        let beat = link.beat(&self.names.beats, self.node, &body, RECORD_MAX_MS);
        let (broker_us, records) = in_time(beat).await?;
        // The broker looked at its clock about half way.
        let middle_us = asked_us + (self.now_us() - asked_us) / 2;
        self.offset_us.store(broker_us - middle_us, Ordering::Relaxed);
        let broker_ms = broker_us / 1000;
        // The answer took as long as the time since the middle: what is left is the difference of the clocks.
        let since_ms = (self.now_us() - middle_us) / 1000;
        self.observer.clock_ahead(SystemClock.now_ms() - since_ms - broker_ms);
        let beats = records.into_iter().filter_map(|(node, record)| {
            let node = u64::from_str_radix(std::str::from_utf8(&node).ok()?, 16).ok()?;
            let (at_ms, body) = (record.first_chunk::<8>()?, &record[8..]);
            Some(Beat {
                node: NodeId(node),
                age_ms: u64::try_from(broker_ms - i64::from_be_bytes(*at_ms)).unwrap_or(0),
                body: Bytes::copy_from_slice(body),
            })
        });
        self.inbox.take(BusEvent::Beats(beats.collect()));
        Ok(())
    }
}

async fn is_stopped(stopped: &mut watch::Receiver<bool>) {
    // An error means that the bus itself was dropped: that is an end, too.
    drop(stopped.wait_for(|stopped| *stopped).await);
}

/// Redis answers in time, or the connection is worth nothing: while one answer is waited for, everything else waits, too.
async fn in_time<T>(asked: impl Future<Output = ::redis::RedisResult<T>>) -> Result<T, End> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answered) => Ok(answered?),
        Err(_) => Err(End::Lost(format!(
            "Redis has not answered for {} ms",
            PATIENCE.as_millis()
        ))),
    }
}

/// Numbered messages to oneself, by way of every server that carries messages.
struct Canary {
    /// A channel on each of them.
    channels: Vec<String>,
    /// The last that was sent, and when.
    sent: (u64, Instant),
    /// The oldest that was not seen back from all, and when it was sent.
    missing: Option<(u64, Instant)>,
}

impl Canary {
    /// None was sent. Numbers go on from those of the connection before.
    fn new(channels: Vec<String>, shared: &Shared) -> Self {
        let mut canaries = lock(&shared.canaries);
        let last = canaries.iter().copied().max().unwrap_or(0);
        *canaries = vec![last; channels.len()];
        Self {
            channels,
            sent: (last, Instant::now()),
            missing: None,
        }
    }

    async fn send(&mut self, link: &mut Link) -> Result<(), End> {
        let (number, now) = (self.sent.0 + 1, Instant::now());
        self.sent = (number, now);
        self.missing = self.missing.or(Some((number, now)));
        let message = |(server, channel): (u16, &String)| {
            let mut message = BytesMut::with_capacity(10);
            message.put_u64(number);
            message.put_u16(server);
            (channel.clone(), message.freeze())
        };
        in_time(link.publish((0..).zip(&self.channels).map(message).collect())).await
    }

    /// The newest that has come back from all.
    fn back(shared: &Shared) -> u64 {
        lock(&shared.canaries).iter().copied().min().unwrap_or(0)
    }

    /// Whether one that was sent over this connection has come back.
    fn is_back(&self, shared: &Shared) -> bool {
        self.missing.is_none_or(|(number, _)| Self::back(shared) >= number)
    }

    fn look(&mut self, shared: &Shared) -> Result<(), End> {
        let back = Self::back(shared);
        if let Some((number, at)) = self.missing {
            if back >= number {
                shared.observer.canary(at.elapsed());
                self.missing = Some(self.sent).filter(|(sent, _)| *sent > back);
            } else if at.elapsed() > PATIENCE {
                return Err(End::Lost(format!(
                    "Redis answers but does not deliver: a message to this node itself has not come back for {} ms",
                    at.elapsed().as_millis()
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Deaf;

    impl BusInbox for Deaf {
        fn take(&self, _: BusEvent) {}
    }

    #[tokio::test]
    async fn messages_are_counted_while_they_wait() {
        let options = Options {
            // Nobody is there.
            nodes: vec!["redis://127.0.0.1:1".to_owned()],
            mode: Mode::Standalone,
            cluster_name: "taskflow".to_owned(),
        };
        let bus = RedisBus::start(options, NodeId(1), Arc::new(Deaf), Arc::new(()));
        // Its task has not begun: nothing takes them.
        bus.shared.up.store(true, Ordering::Release);
        let feed = UserId(uuid::Uuid::from_u128(1));
        for message in ["one", "three"] {
            bus.publish(feed, Bytes::from_static(message.as_bytes()));
        }
        assert_eq!(bus.waiting(), (2, 8));
        while bus.waiting() != (0, 0) {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn no_password_is_logged() {
        let options = Options {
            nodes: ["redis://:hunter2@a:6379/0", "rediss://me:p@ss@b", "redis://c:6379"]
                .map(str::to_owned)
                .into(),
            mode: Mode::Standalone,
            cluster_name: "taskflow".to_owned(),
        };
        assert_eq!(options.shown(), "redis://a:6379/0, rediss://b, redis://c:6379");
    }
}
