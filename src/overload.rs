//! What a node does that has more to do than it can: it does less, in a stated order, so that those who are here go on.
//!
//! Two things say so: timers that ring too late, because the threads are busy, and memory. First the statistics go, then
//! whoever is not here yet, then everything else that is asked; what has been committed is always pushed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
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
    /// The latest timer since the last decision, in microseconds.
    late_us: AtomicU64,
    live: Arc<Live>,
    metrics: Arc<Metrics>,
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

impl Overload {
    /// Of a node that has nothing to do.
    pub fn new(live: Arc<Live>, metrics: Arc<Metrics>) -> Self {
        Self {
            level: AtomicU8::new(0),
            late_us: AtomicU64::new(0),
            live,
            metrics,
        }
    }

    /// Whether something may be done now; if not, it is counted.
    pub fn may(&self, what: Shed) -> Result<(), Code> {
        if self.level.load(Ordering::Relaxed) < what.level() {
            return Ok(());
        }
        self.metrics.shed.of(what).inc();
        Err(Code::Overloaded)
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
        let mut judge = Judge::default();
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
            let before = judge.level;
            let level = judge.decide(late, memory as f64 / memory_max.max(1) as f64);
            self.level.store(level, Ordering::Relaxed);
            self.metrics.overload.set(f64::from(level));
            if level > before {
                tracing::warn!(
                    overload = level,
                    late_ms = late.as_millis() as u64,
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
