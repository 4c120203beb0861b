//! What a node does that has more to do than it can: it does less, in a stated order, so that those who are here go on.
//!
//! Three things say so: timers that ring too late, because the threads are busy, memory, and operations that wait. First the statistics
//! go, then whoever is not here yet, then everything else that is asked; what has been committed is always pushed. Operations are the
//! last: of those as many are done as can be, and only the others are refused.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use taskflow_protocol::Code;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::config::Live;
use crate::telemetry::Metrics;
use crate::telemetry::instruments::Histogram;
use crate::telemetry::metrics::Shed;
use crate::telemetry::process;

/// How often a thread looks how late it is. Ten times a second sees a stall of a tenth of it, and costs an idle thread nothing
/// that can be measured.
const TICK: Duration = Duration::from_millis(100);

/// How often the level is decided.
const DECIDE: Duration = Duration::from_millis(250);

/// Calm decisions in a row before a level ends: a second, or it would come and go with every wave.
const CALM: u8 = 4;

/// How late the timers of the busiest thread ring, and what part of its memory the node has, from which each level begins. A tenth
/// of a second is what people begin to see; at a second clients give up and ask again, which makes it worse.
const LEVELS: [(Duration, f64); 3] = [
    (Duration::from_millis(100), 0.80),
    (Duration::from_millis(250), 0.90),
    (Duration::from_millis(1_000), 0.95),
];

/// Ticks of which the least late counts, as in CoDel (RFC 8289): one long stall (a large feed that is indexed) is followed by a tick in
/// time, and is no overload; a queue that never empties makes every one late.
const LOOKS: usize = 5;

/// What is done within this time may be under way; more than that only waits. Half of what clients wait before they ask again: whoever
/// sends three times as much as is done waits three times as long as this. Much less, and less goes into one write: less would be done.
const WORK: Duration = Duration::from_millis(500);

/// So many operations may be under way however fast they are done: a thousand clients and more with one or two each may wait for a store
/// that takes half a second, which is its pace and no overload; and a burst is none.
const OPERATIONS_FREE: u32 = 2_048;

/// Decisions from which the speed is taken, a second: less is more of an accident.
const SPEED_OF: usize = 4;

/// Decisions in a row at which too many must be under way, half a second from the first to the last: a burst goes by.
const WAITING_OF: usize = 3;

/// Decisions in a row without anything done, half a second, after which it is the store that stands still, not the node that is slow:
/// whoever waits for it is told.
const STILL: usize = 2;

/// Decisions without too many after which there is no limit any more, two seconds: without one, all that clients hold back would come at
/// once.
const LIMIT_KEPT: u8 = 8;

/// No limit.
const NONE: u32 = u32::MAX;

impl Shed {
    /// The level at which it is no longer done.
    const fn level(self) -> u8 {
        match self {
            Self::Statistics => 1,
            Self::Snapshots | Self::Connections | Self::SignIns => 2,
            Self::Reads | Self::Operations => 3,
        }
    }
}

/// How hard the node is pressed.
pub struct Overload {
    level: AtomicU8,
    /// No operation is done: the node has no memory for it, or its threads are not to be had.
    is_full: AtomicBool,
    /// The latest timer since the last decision, in microseconds.
    late_us: AtomicU64,
    operations: Operations,
    live: Arc<Live>,
    metrics: Arc<Metrics>,
}

/// The operations of WebSockets for feeds of this node that are under way: from the message to the answer, wherever they wait. How long one
/// waits in all is how many there are by how many are done in a second (Little's law): that is known at once, where a wait that is
/// measured is over.
struct Operations {
    running: AtomicU32,
    /// Since the last decision.
    done: AtomicU32,
    /// How many may be under way.
    limit: AtomicU32,
    /// Messages that drew a lot, and who wins: nobody can choose it.
    drawn: AtomicU32,
    lots: RandomState,
}

impl Default for Operations {
    fn default() -> Self {
        Self {
            running: AtomicU32::new(0),
            done: AtomicU32::new(0),
            limit: AtomicU32::new(NONE),
            drawn: AtomicU32::new(0),
            lots: RandomState::new(),
        }
    }
}

impl Operations {
    /// Whether those of a message may be done. Of all messages the part is refused that there are too many: so the wait is in proportion to
    /// what is asked, however much that is; it neither grows nor swings.
    fn may(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let running = self.running.load(Ordering::Relaxed);
        if running <= limit {
            return true;
        }
        let lot = self.lots.hash_one(self.drawn.fetch_add(1, Ordering::Relaxed));
        (lot as f64 / u64::MAX as f64) < f64::from(limit) / f64::from(running)
    }

    fn begin(&self, count: u32) {
        self.running.fetch_add(count, Ordering::Relaxed);
    }

    /// So many are over, of which so many were done: what is refused for want of room says nothing of how fast the node is.
    fn end(&self, count: u32, done: u32) {
        self.running.fetch_sub(count, Ordering::Relaxed);
        self.done.fetch_add(done, Ordering::Relaxed);
    }

    /// Sets the limit anew; how long an operation waits.
    fn decide(&self, pace: &mut Pace) -> Duration {
        let (done, running) = (
            self.done.swap(0, Ordering::Relaxed),
            self.running.load(Ordering::Relaxed),
        );
        let (wait, limit) = pace.decide(done, running);
        self.limit.store(limit, Ordering::Relaxed);
        wait
    }
}

/// Decides how many operations may be under way, from what was done lately.
#[derive(Debug, Default)]
struct Pace {
    done: [u32; SPEED_OF],
    running: [u32; WAITING_OF],
    decisions: usize,
    /// Decisions in a row without anything done.
    still: usize,
    /// Decisions for which there is still a limit.
    limited: u8,
}

impl Pace {
    /// What was done since the last decision, and how many are under way: how long an operation waits, and how many may be under way.
    fn decide(&mut self, done: u32, running: u32) -> (Duration, u32) {
        self.done[self.decisions % SPEED_OF] = done;
        self.running[self.decisions % WAITING_OF] = running;
        self.decisions += 1;
        self.still = if done == 0 { self.still + 1 } else { 0 };
        if self.still >= STILL {
            return (Duration::ZERO, NONE);
        }
        let waiting = self.running.iter().copied().min().unwrap_or_default();
        let a_second = f64::from(self.done.iter().sum::<u32>()) / (DECIDE * SPEED_OF as u32).as_secs_f64();
        let limit = ((a_second * WORK.as_secs_f64()) as u32).max(OPERATIONS_FREE);
        self.limited = if waiting > limit {
            LIMIT_KEPT
        } else {
            self.limited.saturating_sub(1)
        };
        let wait = if waiting > OPERATIONS_FREE {
            Duration::from_secs_f64(f64::from(waiting) / a_second)
        } else {
            Duration::ZERO
        };
        (wait, if self.limited > 0 { limit } else { NONE })
    }
}

/// Decides the level from what was seen.
#[derive(Debug, Default)]
struct Judge {
    level: u8,
    calm: u8,
}

impl Judge {
    /// Up at once, down one level a second.
    fn decide(&mut self, late: Duration, memory_share: f64) -> u8 {
        let reached = LEVELS
            .iter()
            .filter(|(delay, share)| late >= *delay || memory_share >= *share);
        let seen = reached.count() as u8;
        if seen >= self.level {
            (self.level, self.calm) = (seen, 0);
        } else {
            self.calm += 1;
            if self.calm == CALM {
                (self.level, self.calm) = (self.level - 1, 0);
            }
        }
        self.level
    }
}

/// What the wait of operations counts as: before some of them are refused, all else is.
fn pressed(wait: Duration, limit: u32) -> Duration {
    if limit == NONE { wait } else { wait.max(LEVELS[2].0) }
}

impl Overload {
    /// Of a node that has nothing to do.
    pub fn new(live: Arc<Live>, metrics: Arc<Metrics>) -> Self {
        Self {
            level: AtomicU8::new(0),
            is_full: AtomicBool::new(false),
            late_us: AtomicU64::new(0),
            operations: Operations::default(),
            live,
            metrics,
        }
    }

    /// Whether something may be done now; if not, it is counted.
    pub fn may(&self, what: Shed) -> Result<(), Code> {
        let may = match what {
            Shed::Operations => !self.refuses_operations(),
            _ => self.level.load(Ordering::Relaxed) < what.level(),
        };
        if may {
            return Ok(());
        }
        self.metrics.shed.of(what).inc();
        Err(Code::Overloaded)
    }

    /// Whether the operations of a message that came now are refused, if it has some: each message has its own luck.
    pub fn refuses_operations(&self) -> bool {
        self.is_full.load(Ordering::Relaxed) || !self.operations.may()
    }

    /// So many operations of a WebSocket are under way from here on.
    pub fn operations_begin(&self, count: u32) {
        self.operations.begin(count);
    }

    /// So many are over, of which so many were done.
    pub fn operations_end(&self, count: u32, done: u32) {
        self.operations.end(count, done);
    }

    /// From here on so many may be under way; how many are.
    #[cfg(test)]
    pub fn limit_operations(&self, limit: u32) -> u32 {
        self.operations.limit.store(limit, Ordering::Relaxed);
        self.operations.running.load(Ordering::Relaxed)
    }

    /// Measures how late the timers of the present thread ring, for ever.
    pub async fn watch_thread(self: Arc<Self>, delays: Histogram) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut looks, mut next) = ([Duration::ZERO; LOOKS], 0);
        loop {
            let due = tick.tick().await;
            let late = Instant::now().saturating_duration_since(due);
            delays.observe(late);
            looks[next] = late;
            next = (next + 1) % LOOKS;
            let least = looks.iter().min().copied().unwrap_or_default();
            self.late_us.fetch_max(least.as_micros() as u64, Ordering::Relaxed);
        }
    }

    /// Decides the level, for ever.
    pub async fn decide(self: Arc<Self>) {
        let memory_max = process::memory_max();
        let (mut threads, mut operations, mut pace) = (Judge::default(), Judge::default(), Pace::default());
        let mut tick = interval(DECIDE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let memory_max = match self.live.now().memory_bytes_max {
                0 => memory_max,
                max => max,
            };
            self.metrics.memory_bytes_max.set(memory_max as f64);
            let late = Duration::from_micros(self.late_us.swap(0, Ordering::Relaxed));
            let memory = process::memory();
            let wait = self.operations.decide(&mut pace);
            let limit = self.operations.limit.load(Ordering::Relaxed);
            let running = self.operations.running.load(Ordering::Relaxed);
            self.metrics.socket_operations.set(f64::from(running));
            self.metrics
                .socket_operations_max
                .set(if limit == NONE { 0.0 } else { f64::from(limit) });
            let before = threads.level.max(operations.level);
            let level = threads.decide(late, memory as f64 / memory_max.max(1) as f64);
            self.is_full.store(level >= Shed::Operations.level(), Ordering::Relaxed);
            let level = operations.decide(pressed(wait, limit), 0.0).max(level);
            self.level.store(level, Ordering::Relaxed);
            self.metrics.overload.set(f64::from(level));
            if level > before {
                tracing::warn!(
                    overload = level,
                    late_ms = late.as_millis() as u64,
                    wait_ms = wait.as_millis() as u64,
                    memory_bytes = memory,
                    memory_bytes_max = memory_max,
                    "the node has more to do than it can, and does less"
                );
            } else if level == 0 && before > 0 {
                tracing::info!("the node does everything again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::telemetry::Telemetry;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_level_is_reached_by_late_timers_or_by_memory_whichever_is_worse() {
        for (late, memory, level) in [
            (0, 0.79, 0),
            (99, 0.0, 0),
            (100, 0.0, 1),
            (0, 0.80, 1),
            (100, 0.90, 2),
            (250, 0.80, 2),
            (999, 0.94, 2),
            (1_000, 0.0, 3),
            (0, 0.95, 3),
            (0, 7.0, 3),
        ] {
            assert_eq!(Judge::default().decide(ms(late), memory), level, "{late} ms, {memory}");
        }
    }

    /// What a thread says that is busy for so long between its ticks.
    async fn lateness(busy: &[u64]) -> Vec<u64> {
        let live = Arc::new(Live::new(Config::default()));
        let overload = Arc::new(Overload::new(live, Telemetry::new().metrics));
        let watch = overload.clone().watch_thread(Histogram::default());
        tokio::pin!(watch);
        let mut said = Vec::new();
        for busy in busy {
            // Time goes on while the timer is not looked at.
            tokio::time::advance(TICK + ms(*busy)).await;
            assert!(futures_util::poll!(&mut watch).is_pending());
            said.push(overload.late_us.swap(0, Ordering::Relaxed) / 1_000);
        }
        said
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_is_no_overload_and_a_queue_that_never_empties_is() {
        let stalls = lateness(&[0, 0, 2_000, 0, 0, 0, 0, 5_000, 0]).await;
        assert_eq!(stalls.iter().max(), Some(&0));
        let busy = lateness(&[300; 8]).await;
        assert_eq!(busy[7], 300, "{busy:?}");
        assert!(busy[..3].iter().all(|late| *late == 0), "{busy:?}");
    }

    #[test]
    fn it_comes_at_once_and_goes_one_level_a_second() {
        let mut judge = Judge::default();
        assert_eq!(judge.decide(ms(2_000), 0.0), 3);
        let levels: Vec<u8> = (0..13).map(|_| judge.decide(ms(0), 0.0)).collect();
        assert_eq!(levels, [3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0]);
        assert_eq!(judge.decide(ms(300), 0.0), 2);
        assert_eq!(judge.decide(ms(0), 0.0), 2);
        assert_eq!(judge.decide(ms(300), 0.0), 2, "a wave begins the second anew");
        let levels: Vec<u8> = (0..4).map(|_| judge.decide(ms(120), 0.0)).collect();
        assert_eq!(levels, [2, 2, 2, 1]);
    }

    /// A node that does so many operations a second, and is asked for so many, step by step of ten milliseconds.
    struct Node {
        operations: Operations,
        pace: Pace,
        steps: u32,
        done: u32,
        refused: u32,
    }

    impl Node {
        fn new() -> Self {
            Self {
                operations: Operations::default(),
                pace: Pace::default(),
                steps: 0,
                done: 0,
                refused: 0,
            }
        }

        fn run(&mut self, seconds: u32, can: u32, asked: u32) -> Duration {
            (self.done, self.refused) = (0, 0);
            let mut wait = Duration::ZERO;
            for _ in 0..seconds * 100 {
                for _ in 0..asked / 100 {
                    if self.operations.may() {
                        self.operations.begin(1);
                    } else {
                        self.refused += 1;
                    }
                }
                let done = self.running().min(can / 100);
                self.operations.end(done, done);
                self.done += done;
                self.steps += 1;
                if self.steps.is_multiple_of(25) {
                    wait = self.operations.decide(&mut self.pace);
                }
            }
            wait
        }

        fn running(&self) -> u32 {
            self.operations.running.load(Ordering::Relaxed)
        }

        fn limit(&self) -> u32 {
            self.operations.limit.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn whatever_is_asked_as_many_operations_are_done_as_can_be_and_none_waits_without_end() {
        for times in [2, 3, 10] {
            let mut node = Node::new();
            node.run(10, 10_000, times * 10_000);
            let wait = node.run(10, 10_000, times * 10_000);
            assert_eq!(node.done, 100_000, "{times}: it is never without work");
            let expected = WORK * times;
            assert!(
                wait > expected / 2 && wait < expected * 3 / 2,
                "{times}: {wait:?} instead of {expected:?}"
            );
        }
    }

    #[test]
    fn what_can_be_done_is_never_refused() {
        let mut node = Node::new();
        node.run(10, 10_000, 9_900);
        assert_eq!((node.refused, node.done), (0, 99_000));
        // Everybody at once, and the next second is quiet.
        for _ in 0..9_000 {
            assert!(node.operations.may());
            node.operations.begin(1);
        }
        node.run(2, 10_000, 1_000);
        assert_eq!(node.refused, 0);
        // A slow node, and as many as may be under way on any.
        let mut node = Node::new();
        node.operations.begin(OPERATIONS_FREE - 100);
        node.run(5, 500, 500);
        assert_eq!((node.refused, node.running()), (0, OPERATIONS_FREE - 100));
    }

    #[test]
    fn before_operations_are_refused_all_else_is() {
        let mut node = Node::new();
        let wait = node.run(10, 10_000, 15_000);
        assert!(node.refused > 0 && wait < LEVELS[2].0, "{wait:?}");
        assert_eq!(Judge::default().decide(pressed(wait, node.limit()), 0.0), 3);
        assert_eq!(Judge::default().decide(pressed(ms(300), NONE), 0.0), 2);
    }

    #[test]
    fn the_limit_goes_when_there_have_not_been_too_many_for_two_seconds() {
        let mut pace = Pace::default();
        let limits: Vec<bool> = (0..4).map(|_| pace.decide(2_500, 9_000).1 != NONE).collect();
        assert_eq!(limits, [false, false, true, true]);
        let limits: Vec<bool> = (0..8).map(|_| pace.decide(2_500, 4_000).1 != NONE).collect();
        assert_eq!(limits, [true, true, true, true, true, true, true, false]);
    }

    #[test]
    fn the_speed_is_that_of_a_second() {
        let mut pace = Pace::default();
        let decided: Vec<_> = (0..8)
            .map(|n| pace.decide(if n % 2 == 0 { 100 } else { 4_900 }, 15_000))
            .collect();
        // 10,000 a second.
        assert!(
            decided[3..].iter().all(|decided| *decided == (ms(1_500), 5_000)),
            "{decided:?}"
        );
    }

    #[test]
    fn a_store_that_stands_still_is_no_overload() {
        for asked in [1_000, 5_000, 10_000, 50_000] {
            // Whenever it begins.
            for steps in 0..25 {
                let mut node = Node::new();
                node.steps = steps;
                node.run(5, 50_000, asked);
                node.run(3, 0, asked);
                assert_eq!((node.refused, node.running()), (0, 3 * asked), "{asked} a second");
            }
        }
    }

    #[test]
    fn what_is_over_without_being_done_says_nothing_of_the_speed() {
        let mut node = Node::new();
        node.run(5, 10_000, 30_000);
        let limit = node.limit();
        node.operations.begin(50_000);
        node.operations.end(50_000, 0);
        node.run(1, 10_000, 30_000);
        assert_eq!(node.limit(), limit);
    }

    #[test]
    fn what_is_beyond_the_limit_is_refused_in_proportion_to_what_there_is() {
        let operations = Operations::default();
        operations.limit.store(1_000, Ordering::Relaxed);
        operations.begin(1_000);
        assert!((0..100).all(|_| operations.may()));
        operations.begin(3_000);
        let may: Vec<bool> = (0..10_000).map(|_| operations.may()).collect();
        let share = |may: &mut dyn Iterator<Item = &bool>| {
            let (done, all) = may.fold((0, 0), |(done, all), may| (done + u32::from(*may), all + 1));
            f64::from(done) / f64::from(all)
        };
        // A thousand of four; 0.1 is more than ten times the standard deviation. Whoever sends every other message has as much of it.
        let (all, others) = (share(&mut may.iter()), share(&mut may.iter().step_by(2)));
        assert!(
            (all - 0.25).abs() < 0.1 && (others - 0.25).abs() < 0.1,
            "{all}, {others}"
        );
    }

    #[test]
    fn what_is_shed_first_is_what_people_miss_least() {
        let levels = [
            Shed::Statistics,
            Shed::Snapshots,
            Shed::Connections,
            Shed::SignIns,
            Shed::Reads,
            Shed::Operations,
        ]
        .map(Shed::level);
        assert!(levels.is_sorted());
    }
}
