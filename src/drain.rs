//! How a server is taken down: docs/operations.md, "Stopping and starting again", says what it guarantees.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use taskflow_actors::cluster::Cluster;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::Config;
use crate::http::Leaving;
use crate::http::seats::Seats;
use crate::socket::Hub;
use crate::telemetry::Metrics;

/// How often some are sent away: at a thousand a second twenty at a time, which no client sees as a burst.
const EVERY: Duration = Duration::from_millis(20);

/// Of the whole time, for the last requests, the bus and the store.
const LAST: Duration = Duration::from_secs(2);

/// The same for whoever does not want to wait.
const LAST_IN_A_HURRY: Duration = Duration::from_secs(1);

/// Clients that are sent away and do not go within this are cut, when all others have gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// What has to be emptied.
pub struct Drain {
    /// Those with a WebSocket.
    pub hub: Arc<Hub>,
    /// Those with an event stream or a long-poll.
    pub seats: Arc<Seats>,
    /// Tells those when to go.
    pub leaving: watch::Sender<Option<Leaving>>,
    /// The feeds of this node.
    pub cluster: Option<Arc<Cluster>>,
    /// Says to requests that they are the last of their connection.
    pub stopping: Arc<AtomicBool>,
    /// Where it shows.
    pub metrics: Arc<Metrics>,
}

/// How many leave in how long.
#[derive(Debug, PartialEq)]
struct Pace {
    /// For all of them.
    over: Duration,
    sockets: usize,
}

impl Pace {
    /// At a rate, or faster if they would not be gone within the time that there is.
    fn new(sockets: usize, streams: usize, a_second: u32, within: Duration) -> Self {
        let over = Duration::from_secs_f64((sockets + streams) as f64 / f64::from(a_second.max(1)));
        Self {
            over: over.min(within),
            sockets,
        }
    }

    /// WebSockets that are to have been sent away after so long.
    fn due(&self, after: Duration) -> usize {
        if after >= self.over {
            return self.sockets;
        }
        (self.sockets as f64 * after.as_secs_f64() / self.over.as_secs_f64()) as usize
    }
}

impl Drain {
    /// Empties the server; until when the rest may take. `hurry` ends the waiting: whoever is still there is cut.
    pub async fn run(&self, config: &Config, hurry: impl Future<Output = ()>) -> Instant {
        let deadline = Instant::now() + Duration::from_secs(config.drain_seconds_max);
        self.stopping.store(true, Ordering::Release);
        self.metrics.draining.set(1.0);
        self.seats.leave();
        let orderly = async {
            sleep(Duration::from_secs(config.drain_wait_seconds)).await;
            let end = deadline - LAST;
            tokio::join!(self.clients(config.drain_clients_a_second, end), self.feeds(end));
        };
        let deadline = tokio::select! {
            () = orderly => {
                self.cut();
                deadline
            }
            () = hurry => {
                tracing::warn!(
                    connections = self.hub.connections.load(Ordering::Relaxed),
                    "told to stop a second time: whoever is still here is cut"
                );
                self.end_streams(Duration::ZERO);
                self.cut();
                // One moment, in which the other nodes hear that the feeds are theirs.
                self.feeds(Instant::now() + EVERY).await;
                deadline.min(Instant::now() + LAST_IN_A_HURRY)
            }
        };
        deadline
    }

    /// Whoever is still there has to go now.
    fn cut(&self) {
        let left = self.hub.connections.load(Ordering::Relaxed);
        self.metrics.drain_cut.inc_by(left as u64);
        self.hub.drain();
    }

    async fn clients(&self, a_second: u32, end: Instant) {
        let begun = Instant::now();
        let sockets = self.hub.connections.load(Ordering::Relaxed);
        let streams = self.seats.open();
        let pace = Pace::new(sockets, streams, a_second, end - begun);
        tracing::info!(
            sockets,
            streams,
            seconds = pace.over.as_secs_f64(),
            "clients are sent to other nodes"
        );
        self.end_streams(pace.over);
        let mut told = 0;
        let is_over = || begun.elapsed() >= pace.over + PATIENCE || Instant::now() >= end;
        while (self.hub.connections.load(Ordering::Relaxed) > 0 || self.seats.open() > 0) && !is_over() {
            let due = pace.due(begun.elapsed());
            self.hub.leave(due - told);
            told = due;
            sleep(EVERY).await;
        }
        // Also where there was nobody: nobody comes any more.
        self.hub.leave(sockets - told);
        let left = self.hub.connections.load(Ordering::Relaxed);
        if left > 0 {
            tracing::warn!(connections = left, "clients that were sent away and did not go are cut");
        }
    }

    fn end_streams(&self, over: Duration) {
        let from = Instant::now();
        self.leaving.send_replace(Some(Leaving { from, over }));
    }

    async fn feeds(&self, end: Instant) {
        if let Some(cluster) = &self.cluster {
            cluster.leave(end).await;
        }
    }
}

/// What takes too long is left as it is.
pub async fn until(deadline: Instant, work: impl Future) {
    tokio::select! {
        _ = work => {}
        () = sleep_until(deadline) => tracing::warn!("requests that are still under way are cut"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ApiBench;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn clients_leave_at_the_rate_that_is_set() {
        let pace = Pace::new(2_900, 100, 200, s(60));
        assert_eq!(pace.over, s(15));
        assert_eq!(
            (pace.due(s(0)), pace.due(s(3)), pace.due(s(15)), pace.due(s(99))),
            (0, 580, 2_900, 2_900)
        );
    }

    #[test]
    fn more_than_can_leave_in_time_leave_faster() {
        let pace = Pace::new(30_000, 0, 1_000, s(10));
        assert_eq!((pace.over, pace.due(s(5))), (s(10), 15_000));
    }

    fn drain_of(bench: &ApiBench) -> Drain {
        Drain {
            hub: bench.hub.clone(),
            seats: bench.api.seats.clone(),
            leaving: watch::Sender::new(None),
            cluster: None,
            stopping: Arc::default(),
            metrics: bench.api.metrics.clone(),
        }
    }

    #[actix_web::test]
    async fn whoever_does_not_go_is_cut_at_the_end_and_counted() {
        let config = Config {
            drain_wait_seconds: 0,
            // Less than the last requests have: there is no time for clients.
            drain_seconds_max: 1,
            ..Config::default()
        };
        let bench = ApiBench::new(config.clone());
        bench.hub.connections.store(3, Ordering::Relaxed);
        drain_of(&bench).run(&config, std::future::pending()).await;
        assert_eq!(bench.api.metrics.drain_cut.get(), 3);
    }

    #[actix_web::test]
    async fn whoever_does_not_want_to_wait_gets_a_deadline_of_his_own() {
        let config = Config {
            drain_wait_seconds: 60,
            drain_seconds_max: 3_600,
            ..Config::default()
        };
        let bench = ApiBench::new(config.clone());
        bench.hub.connections.store(2, Ordering::Relaxed);
        let drain = drain_of(&bench);
        let deadline = drain.run(&config, std::future::ready(())).await;
        assert!(deadline <= Instant::now() + LAST_IN_A_HURRY);
        assert!(drain.leaving.borrow().is_some() && bench.hub.draining.load(Ordering::Acquire));
        assert_eq!(bench.api.metrics.drain_cut.get(), 2);
    }

    #[test]
    fn where_nobody_is_nobody_is_waited_for() {
        let pace = Pace::new(0, 0, 1_000, s(10));
        assert_eq!((pace.over, pace.due(s(0))), (s(0), 0));
    }
}
