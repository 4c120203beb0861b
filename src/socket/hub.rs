//! What the workers share: who follows what, and the way to each worker.
//!
//! A publication goes in one message to each worker that has followers of the feed, and from there straight to the
//! sockets. Its frames are encoded once, by whichever worker needs them first.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use taskflow_actors::cluster::Cluster;
use taskflow_actors::cursor::Cursor;
use taskflow_actors::ports::{BoxFuture, ConnectionId, Head, Publication, Push};
use taskflow_actors::session::{Decision, Gate};
use taskflow_protocol::message::{Entries, OperationResult, Results, ServerMessage};
use taskflow_protocol::values::Seq;
use taskflow_protocol::{Encoding, UserId};
use tokio::sync::{mpsc, oneshot, watch};

use super::frame;
use super::outbound::TOTAL_BYTES;
use crate::http::Changes;

/// Workers of one process: the width of the mask that says which of them follow a feed.
pub const WORKERS_MAX: usize = 64;

/// Publications that wait for one worker. A worker empties its queue each time it runs; as many as this mean that it has
/// not run for seconds. Beyond it publications are dropped, and the worker's followers read them from the log instead.
const PUBLICATIONS_WAITING_MAX: usize = 16 * 1024;

/// Shards of the table of followers.
const SHARDS: usize = 64;

/// A publication on its way to the sockets.
#[derive(Debug)]
pub struct Delivery {
    /// What was committed. Its answers are with the workers whose connections they are for.
    pub publication: Publication,
    /// When this node knew of it.
    pub known_at: Instant,
    json: OnceLock<Bytes>,
    msgpack: OnceLock<Bytes>,
}

impl Delivery {
    /// The `seq` of its first entry.
    pub fn first(&self) -> Seq {
        self.publication.entries.first().map_or(0, |entry| entry.seq)
    }

    /// The `seq` of its last entry.
    pub fn last(&self) -> Seq {
        self.publication.entries.last().map_or(0, |entry| entry.seq)
    }

    /// The frame for all who follow the whole feed: the same bytes, shared.
    pub fn frame(&self, encoding: Encoding) -> &Bytes {
        let cell = match encoding {
            Encoding::Json => &self.json,
            Encoding::MsgPack => &self.msgpack,
        };
        cell.get_or_init(|| {
            let Publication {
                feed, epoch, entries, ..
            } = &self.publication;
            let cursor = Cursor {
                epoch: *epoch,
                seq: self.last(),
            }
            .text();
            let entries = entries.iter().map(taskflow_actors::domain::Entry::wire).collect();
            let message = ServerMessage::Entries(Entries {
                feed: *feed,
                entries,
                cursor,
            });
            frame::message(encoding, &encoding.encode(&message))
        })
    }
}

/// Answers for connections of one worker.
pub type Answers = Vec<(ConnectionId, Vec<OperationResult>)>;

/// How far the client of a connection is behind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lag {
    /// Whose it is.
    pub user: UserId,
    /// Bytes that wait for it.
    pub bytes: usize,
    /// Since when its socket has not taken all that there was, in milliseconds.
    pub behind_ms: u64,
}

/// Connections of whom an operator hears at once: as many as somebody reads.
pub const SLOWEST_MAX: usize = 10;

/// How long a worker may take to say which of its connections are slow. One that is busy for longer is slow itself.
const SLOWEST_WAIT: Duration = Duration::from_millis(250);

/// The slowest connections, the one with the most bytes first.
#[derive(Debug, Default)]
pub struct Slowest(Vec<Lag>);

impl Slowest {
    /// One more, if it is among them.
    pub fn add(&mut self, lag: Lag) {
        let place = self.0.partition_point(|other| other.bytes >= lag.bytes);
        if place < SLOWEST_MAX {
            self.0.truncate(SLOWEST_MAX - 1);
            self.0.insert(place, lag);
        }
    }
}

/// What a worker gets.
pub enum ToWorker {
    /// Entries for its followers, and answers for its connections.
    Deliver(Arc<Delivery>, Answers),
    /// A feed is this far: whoever has less missed something.
    Announce(UserId, Head),
    /// Answers that come without an entry.
    Answer(ConnectionId, Vec<OperationResult>),
    /// For so long nobody has been able to find out whether feeds have changed, or it is known again.
    Stale(Option<Duration>),
    /// What a session decided.
    Decided(Decision),
    /// An operator asks which connections are slow.
    Slowest(oneshot::Sender<Slowest>),
    /// The server stops: send some away, as many as [`Hub::may_leave`] says.
    Leave,
    /// The server stops: send away whoever is left.
    Drain,
}

struct WorkerQueue {
    sender: mpsc::UnboundedSender<ToWorker>,
    /// Publications in the queue. All else in it is bounded by the connections and by the permits of the feeds.
    publications: AtomicUsize,
    /// A publication was dropped.
    missed: AtomicBool,
}

/// Who wants to hear of a feed.
#[derive(Default)]
struct Interest {
    /// One bit for each worker that has followers.
    workers: u64,
    /// Long-polls and event streams, each waiting for an entry above its `seq`.
    waiters: Vec<(Seq, oneshot::Sender<()>)>,
}

impl Interest {
    fn is_none(&self) -> bool {
        self.workers == 0 && self.waiters.is_empty()
    }
}

/// Who wants to hear of which feed.
struct Interests {
    shards: Vec<Mutex<HashMap<UserId, Interest>>>,
    /// Where a feed's publications come from, if it is hosted elsewhere. It is told under the shard's lock, so that it
    /// hears of beginnings and ends in order.
    cluster: OnceLock<Arc<Cluster>>,
}

impl Interests {
    fn shard(&self, feed: UserId) -> MutexGuard<'_, HashMap<UserId, Interest>> {
        lock(&self.shards[feed.bytes()[15] as usize % SHARDS])
    }

    /// Changes who wants to hear of a feed, where perhaps nobody did.
    fn begin(&self, feed: UserId, change: impl FnOnce(&mut Interest)) {
        let mut shard = self.shard(feed);
        let interest = shard.entry(feed).or_default();
        let is_first = interest.is_none();
        change(interest);
        if is_first && let Some(cluster) = self.cluster.get() {
            cluster.followed(feed);
        }
    }

    /// Changes who wants to hear of a feed, if anyone does. Nothing stays of a feed that nobody wants to hear of.
    fn change(&self, feed: UserId, change: impl FnOnce(&mut Interest)) {
        let mut shard = self.shard(feed);
        if let Some(interest) = shard.get_mut(&feed) {
            change(interest);
            if interest.is_none() {
                shard.remove(&feed);
                if let Some(cluster) = self.cluster.get() {
                    cluster.unfollowed(feed);
                }
            }
        }
    }
}

/// A long-poll or event stream that waits. Whatever ends the wait takes it out of the table.
struct Waiting {
    receiver: oneshot::Receiver<()>,
    feed: UserId,
    interests: Arc<Interests>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.receiver.close();
        self.interests.change(self.feed, |interest| {
            interest.waiters.retain(|(_, waiter)| !waiter.is_closed());
        });
    }
}

/// See the module.
pub struct Hub {
    workers: Vec<WorkerQueue>,
    starting: Mutex<Vec<Option<mpsc::UnboundedReceiver<ToWorker>>>>,
    interests: Arc<Interests>,
    /// For those who wait without a worker.
    stale: watch::Sender<Option<Instant>>,
    /// WebSockets of all workers, those included whose handshake is under way.
    pub connections: AtomicUsize,
    /// Handshakes under way.
    pub handshakes: AtomicUsize,
    /// The server stops: new connections go elsewhere.
    pub draining: AtomicBool,
    /// Connections that may be sent away now.
    leaving: AtomicUsize,
}

/// A worker's end of its queue.
pub struct WorkerInbox {
    /// Which worker.
    pub index: u16,
    receiver: mpsc::UnboundedReceiver<ToWorker>,
}

impl Hub {
    /// A hub for so many workers.
    ///
    /// # Panics
    ///
    /// If there are more than [`WORKERS_MAX`].
    pub fn new(workers: usize) -> Self {
        assert!(workers <= WORKERS_MAX, "one bit a worker");
        let (queues, receivers) = (0..workers)
            .map(|_| {
                let (sender, receiver) = mpsc::unbounded_channel();
                let queue = WorkerQueue {
                    sender,
                    publications: AtomicUsize::new(0),
                    missed: AtomicBool::new(false),
                };
                (queue, Some(receiver))
            })
            .unzip();
        Self {
            workers: queues,
            starting: Mutex::new(receivers),
            interests: Arc::new(Interests {
                shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
                cluster: OnceLock::new(),
            }),
            stale: watch::Sender::new(None),
            connections: AtomicUsize::new(0),
            handshakes: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            leaving: AtomicUsize::new(0),
        }
    }

    fn queues(&self) -> &[WorkerQueue] {
        &self.workers
    }

    /// The inbox of the next worker that starts; `None` if all have theirs.
    pub fn take_inbox(&self) -> Option<WorkerInbox> {
        let mut starting = lock(&self.starting);
        let index = starting.iter().position(Option::is_some)?;
        let receiver = starting[index].take()?;
        Some(WorkerInbox {
            index: index as u16,
            receiver,
        })
    }

    /// Feeds that somebody here wants to hear of.
    pub fn feeds_followed(&self) -> usize {
        self.interests.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Publications that wait for the worker for which the most do.
    pub fn publications_waiting(&self) -> usize {
        let waiting = self
            .workers
            .iter()
            .map(|queue| queue.publications.load(Ordering::Relaxed));
        waiting.max().unwrap_or(0)
    }

    /// From now on the worker gets the feed's publications.
    pub fn follow(&self, worker: u16, feed: UserId) {
        self.interests.begin(feed, |interest| interest.workers |= 1 << worker);
    }

    /// From now on feeds are followed across the cluster. Before the first connection.
    pub fn join(&self, cluster: Arc<Cluster>) {
        let _ = self.interests.cluster.set(cluster);
    }

    /// The worker has no followers of the feed any more.
    pub fn unfollow(&self, worker: u16, feed: UserId) {
        self.interests
            .change(feed, |interest| interest.workers &= !(1 << worker));
    }
}

impl Changes for Hub {
    fn changed(&self, feed: UserId, after: Seq) -> BoxFuture<()> {
        let (sender, receiver) = oneshot::channel();
        self.interests
            .begin(feed, |interest| interest.waiters.push((after, sender)));
        let mut waiting = Waiting {
            receiver,
            feed,
            interests: self.interests.clone(),
        };
        Box::pin(async move { drop((&mut waiting.receiver).await) })
    }

    fn listening(&self, feed: UserId) -> BoxFuture<()> {
        match self.interests.cluster.get().cloned() {
            Some(cluster) => Box::pin(async move { cluster.subscribed(feed).await }),
            None => Box::pin(std::future::ready(())),
        }
    }

    fn stale(&self) -> watch::Receiver<Option<Instant>> {
        self.stale.subscribe()
    }
}

impl Hub {
    /// From now on no connection is taken, and so many more than before are sent away, of whichever workers: those with
    /// operations under way when they have been answered.
    pub fn leave(&self, more: usize) {
        self.draining.store(true, Ordering::Release);
        self.leaving.fetch_add(more, Ordering::AcqRel);
        for queue in self.queues() {
            drop(queue.sender.send(ToWorker::Leave));
        }
    }

    /// Whether one more connection may be sent away.
    pub fn may_leave(&self) -> bool {
        let one_less = |left: usize| left.checked_sub(1);
        let took = self.leaving.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less);
        took.is_ok()
    }

    /// Sends away whoever is left; those who have been sent away already and are not gone are cut.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        for queue in self.queues() {
            drop(queue.sender.send(ToWorker::Drain));
        }
    }

    /// The slowest connections of all workers, and how many workers did not say in time. Costs nothing while nothing waits for
    /// anybody; else each worker looks at its connections once.
    pub async fn slowest(&self) -> (Vec<Lag>, usize) {
        let mut all = Slowest::default();
        if TOTAL_BYTES.load(Ordering::Relaxed) == 0 {
            return (all.0, 0);
        }
        // Those that have not begun have nobody, and would not answer.
        let has_begun: Vec<bool> = lock(&self.starting).iter().map(Option::is_none).collect();
        let begun = self
            .queues()
            .iter()
            .zip(has_begun)
            .filter_map(|(queue, has_begun)| has_begun.then_some(queue));
        let answers = begun.map(|queue| {
            let (sender, receiver) = oneshot::channel();
            drop(queue.sender.send(ToWorker::Slowest(sender)));
            tokio::time::timeout(SLOWEST_WAIT, receiver)
        });
        let mut silent = 0;
        for answer in join_all(answers).await {
            match answer {
                Ok(Ok(slowest)) => slowest.0.into_iter().for_each(|lag| all.add(lag)),
                _ => silent += 1,
            }
        }
        (all.0, silent)
    }

    fn send(&self, worker: u16, message: ToWorker) {
        if let Some(queue) = self.queues().get(worker as usize) {
            drop(queue.sender.send(message));
        }
    }

    /// Whether the worker lost publications since the last call.
    pub fn take_missed(&self, worker: u16) -> bool {
        self.queues()
            .get(worker as usize)
            .is_some_and(|queue| queue.missed.swap(false, Ordering::AcqRel))
    }
}

impl WorkerInbox {
    /// Takes all that waits, in order; waits if nothing does. `false`: there will be nothing more.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn receive(&mut self, hub: &Hub, batch: &mut Vec<ToWorker>) -> bool {
        let count = self.receiver.recv_many(batch, 1024).await;
        // What was in the batch before has been counted.
        let publications = batch[batch.len() - count..]
            .iter()
            .filter(|message| matches!(message, ToWorker::Deliver(..)))
            .count();
        if let Some(queue) = hub.queues().get(self.index as usize) {
            queue.publications.fetch_sub(publications, Ordering::AcqRel);
        }
        count > 0
    }
}

impl Push for Hub {
    fn publish(&self, mut publication: Publication) {
        let mut answers = std::mem::take(&mut publication.answers);
        let mut workers: u64 = answers.iter().fold(0, |mask, (to, _)| mask | 1 << to.worker);
        let last = publication.entries.last().map_or(0, |entry| entry.seq);
        self.interests.change(publication.feed, |interest| {
            workers |= interest.workers;
            for (_, waiter) in interest.waiters.extract_if(.., |(after, _)| *after < last) {
                // Whoever gave up waiting is gone; there is nobody to tell.
                let _ = waiter.send(());
            }
        });
        if workers == 0 {
            return;
        }
        let delivery = Arc::new(Delivery {
            publication,
            known_at: Instant::now(),
            json: OnceLock::new(),
            msgpack: OnceLock::new(),
        });
        for (index, queue) in self
            .queues()
            .iter()
            .enumerate()
            .filter(|(index, _)| workers & 1 << index != 0)
        {
            let own = answers.extract_if(.., |(to, _)| to.worker as usize == index).collect();
            if queue.publications.fetch_add(1, Ordering::AcqRel) < PUBLICATIONS_WAITING_MAX {
                drop(queue.sender.send(ToWorker::Deliver(delivery.clone(), own)));
                continue;
            }
            queue.publications.fetch_sub(1, Ordering::AcqRel);
            queue.missed.store(true, Ordering::Release);
            for (connection, results) in own {
                drop(queue.sender.send(ToWorker::Answer(connection, results)));
            }
        }
    }

    fn announce(&self, feed: UserId, head: Head) {
        let mut workers = 0;
        self.interests.change(feed, |interest| {
            workers = interest.workers;
            for (_, waiter) in interest.waiters.extract_if(.., |(after, _)| *after < head.seq) {
                let _ = waiter.send(());
            }
        });
        for worker in (0..self.workers.len() as u16).filter(|worker| workers & 1 << worker != 0) {
            self.send(worker, ToWorker::Announce(feed, head));
        }
    }

    fn answer(&self, connection: ConnectionId, results: Vec<OperationResult>) {
        self.send(connection.worker, ToWorker::Answer(connection, results));
    }

    fn stale(&self, since: Option<Duration>) {
        let now = Instant::now();
        self.stale
            .send_replace(since.map(|since| now.checked_sub(since).unwrap_or(now)));
        for worker in 0..self.workers.len() as u16 {
            self.send(worker, ToWorker::Stale(since));
        }
    }
}

impl Gate for Hub {
    fn decided(&self, decision: Decision) {
        let (Decision::Admit(to) | Decision::Close(to, _) | Decision::Follow(to, ..)) = decision;
        self.send(to.worker, ToWorker::Decided(decision));
    }
}

/// The frame of results.
pub fn results_frame(encoding: Encoding, results: Vec<OperationResult>) -> Bytes {
    frame::message(encoding, &encoding.encode(&ServerMessage::Results(Results { results })))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is complete at each step, so a panic elsewhere leaves them usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use taskflow_actors::domain::Entry;
    use taskflow_actors::ports::Epoch;
    use taskflow_protocol::OperationId;
    use uuid::Uuid;

    use super::*;

    const FEED: UserId = UserId(Uuid::from_u128(9));

    fn publish(hub: &Hub, seq: Seq) {
        publish_with(hub, seq, Vec::new());
    }

    fn publish_with(hub: &Hub, seq: Seq, answers: Answers) {
        let entry = Entry {
            seq,
            time: 1_000,
            author: FEED,
            operation: OperationId(Uuid::from_u128(seq.into())),
            operation_hash: 0,
            changes: Vec::new(),
            refused: None,
            trace: None,
        };
        hub.publish(Publication {
            feed: FEED,
            epoch: Epoch(1),
            entries: Arc::new([entry]),
            answers,
        });
    }

    fn waiters(hub: &Hub) -> Option<usize> {
        hub.interests
            .shard(FEED)
            .get(&FEED)
            .map(|interest| interest.waiters.len())
    }

    #[test]
    fn each_worker_gets_the_answers_of_its_connections_also_when_it_loses_the_entries() {
        let hub = Hub::new(3);
        let mut inboxes: Vec<_> = std::iter::from_fn(|| hub.take_inbox()).collect();
        let connection = |worker, slot| ConnectionId {
            worker,
            slot,
            generation: 0,
        };
        // The last worker does not keep up.
        for _ in 0..PUBLICATIONS_WAITING_MAX {
            publish_with(&hub, 1, vec![(connection(2, 0), Vec::new())]);
        }
        assert_eq!(hub.publications_waiting(), PUBLICATIONS_WAITING_MAX);
        let to = [(0, 1), (1, 2), (2, 3), (0, 4), (2, 5)].map(|(worker, slot)| connection(worker, slot));
        publish_with(&hub, 2, to.map(|to| (to, Vec::new())).into());
        let mut received = |worker: usize| {
            let mut all = Vec::new();
            while let Some(true) = inboxes[worker].receive(&hub, &mut all).now_or_never() {}
            all
        };
        for (worker, expected) in [(0, vec![1, 4]), (1, vec![2])] {
            let [ToWorker::Deliver(_, answers)] = &received(worker)[..] else {
                panic!("one publication")
            };
            assert_eq!(answers.iter().map(|(to, _)| to.slot).collect::<Vec<_>>(), expected);
        }
        let late: Vec<_> = received(2).drain(PUBLICATIONS_WAITING_MAX..).collect();
        let [ToWorker::Answer(first, _), ToWorker::Answer(second, _)] = &late[..] else {
            panic!("two answers, and no entries")
        };
        assert_eq!([first.slot, second.slot], [3, 5]);
        assert_eq!(hub.publications_waiting(), 0);
        assert!(hub.take_missed(2) && !hub.take_missed(0));
    }

    #[test]
    fn who_waits_is_told_of_an_entry_above_what_it_has_and_nothing_of_it_stays() {
        let hub = Hub::new(1);
        let (mut here, mut ahead) = (hub.changed(FEED, 5), hub.changed(FEED, 6));
        publish(&hub, 6);
        assert_eq!((&mut here).now_or_never(), Some(()));
        assert_eq!((&mut ahead).now_or_never(), None);
        publish(&hub, 7);
        assert_eq!(ahead.now_or_never(), Some(()));
        assert_eq!(waiters(&hub), None);
    }

    #[test]
    fn who_left_while_it_waited_leaves_nothing_behind() {
        let hub = Hub::new(1);
        let (left, unasked, mut stays) = (hub.changed(FEED, 5), hub.changed(FEED, 5), hub.changed(FEED, 5));
        assert_eq!(left.now_or_never(), None, "it waited, and is dropped here");
        drop(unasked);
        assert_eq!(waiters(&hub), Some(1));
        publish(&hub, 6);
        assert_eq!((&mut stays).now_or_never(), Some(()), "the others still hear of it");
        assert_eq!(waiters(&hub), None);
    }

    #[test]
    fn a_worker_that_follows_stays_when_the_last_waiter_leaves() {
        let hub = Hub::new(1);
        hub.follow(0, FEED);
        drop(hub.changed(FEED, 5));
        assert_eq!(waiters(&hub), Some(0));
        hub.unfollow(0, FEED);
        assert_eq!(waiters(&hub), None);
    }
}
