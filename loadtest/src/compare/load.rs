//! A stretch of load on one of the servers: open loop, at a rate, by one thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum;
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Semaphore;

use super::rival::{Follower, Rival};
use crate::board::Board;
use crate::clock::{self, Pacer};
use crate::load::arrivals::Arrivals;
use crate::machine::Watch;
use crate::net::http::Http;
use crate::record::Round;
use crate::scenarios::open_many;
use crate::stats;

/// Connections for requests: more wait for one of them, from when they were due.
const REQUESTS_MAX: usize = 16;
/// Connections that are made at a time.
const DIALLERS: usize = 16;
/// What has not come by then is lost.
const SETTLE: Duration = Duration::from_secs(10);
/// Samples that are kept of a stretch, evenly; figures are of all.
const SAMPLES_MAX: usize = 1_000;

/// What is done, and what of it is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// A page of 50 tasks is read: until it is there.
    Page,
    /// A task is made: until it is acknowledged.
    Create,
    /// A task is made, or published: until it is on all screens, which all follow the same.
    Fanout,
    /// The same for one of many users, with a few screens each.
    Personal,
}

impl Part {
    /// As in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Page => "page of 50",
            Self::Create => "create",
            Self::Fanout => "fan-out",
            Self::Personal => "personal push",
        }
    }

    /// Whether a server can do it.
    pub fn is_for(self, rival: &Rival) -> bool {
        match self {
            Self::Page | Self::Create => rival.has_tasks(),
            Self::Fanout => true,
            Self::Personal => rival.has_personal_pushes(),
        }
    }

    fn is_pushed(self) -> bool {
        matches!(self, Self::Fanout | Self::Personal)
    }
}

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What.
    pub part: Part,
    /// Times a second.
    pub rate: f64,
    /// How long.
    pub seconds: f64,
    /// Users, or channels, that are followed; one, for a fan-out.
    pub groups: usize,
    /// Screens of each.
    pub screens: usize,
    /// What random times and choices follow from.
    pub seed: u64,
    /// Milliseconds that this client may be late at the 99th percentile.
    pub late_ms_max: f64,
}

/// What happened to requests.
#[derive(Default)]
struct Tally {
    answered_ms: RefCell<Vec<f64>>,
    failed: Cell<u64>,
    first_error: RefCell<Option<String>>,
}

impl Load {
    /// Runs it. `servers` are the processes whose CPU is counted, where they are here.
    pub async fn run(&self, rival: &Rc<Rival>, servers: &[Pid]) -> Result<Round> {
        let board = Board::of_every_arrival();
        let _followers = self.follow(rival, &board).await?;
        let places = Rc::new(Semaphore::new(REQUESTS_MAX));
        let idle: Rc<RefCell<Vec<Http>>> = Rc::default();
        let tally = Rc::new(Tally::default());
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut pacer = Pacer::new()?;
        let (mut due, mut late_ms, mut running) = (Vec::new(), Vec::new(), Vec::new());
        let watch = Watch::begin(servers);
        let begin = clock::now_ns() + 1_000_000;
        let end = (self.seconds * 1e9) as u64;
        for at in Arrivals::new(self.rate, self.seed).take_while(|at| *at < end) {
            let due_ns = begin + at;
            pacer.until(due_ns).await?;
            late_ms.push((clock::now_ns().saturating_sub(due_ns)) as f64 / 1e6);
            let number = due.len() as u32;
            due.push(due_ns);
            let asked = match self.part {
                Part::Page => rival.page(),
                Part::Create => rival.create(&format!("Task {number}, to be done soon")),
                Part::Fanout | Part::Personal => rival.change(random.random_range(0..self.groups), number),
            };
            let (rival, places, idle, tally) = (rival.clone(), places.clone(), idle.clone(), tally.clone());
            running.push(tokio::task::spawn_local(async move {
                let _place = places.acquire().await?;
                // One is made when all are in use, and left when the server has ended it: each has its own patience.
                let kept = std::iter::from_fn(|| idle.borrow_mut().pop()).find(|http| !http.has_ended());
                let mut http = match kept {
                    Some(http) => http,
                    None => rival.http().await?,
                };
                match asked.send(&mut http).await {
                    Ok(_) => {
                        let took_ns = clock::now_ns() - due_ns;
                        tally.answered_ms.borrow_mut().push(took_ns as f64 / 1e6);
                        idle.borrow_mut().push(http);
                    }
                    Err(error) => {
                        tally.failed.set(tally.failed.get() + 1);
                        tally.first_error.borrow_mut().get_or_insert_with(|| error.to_string());
                    }
                }
                Ok::<_, anyhow::Error>(())
            }));
        }
        let deadline = tokio::time::Instant::now() + SETTLE;
        let answered = async {
            for request in running {
                request.await??;
            }
            Ok::<_, anyhow::Error>(())
        };
        let Ok(answered) = tokio::time::timeout_at(deadline, answered).await else {
            bail!(
                "{} has not answered within {} s of the last request of {} a second: give a lower rate",
                rival.name,
                SETTLE.as_secs(),
                self.rate
            );
        };
        answered?;
        let good = due.len() as u64 - tally.failed.get();
        if self.part.is_pushed() {
            // What has not come by then is counted below.
            let _ = tokio::time::timeout_at(deadline, board.until_pushes(good * self.screens as u64)).await;
        }
        let seen = watch.end();
        let (times, things) = match self.part.is_pushed() {
            true => (self.pushed_ms(&board, &due), good * self.screens as u64),
            false => (tally.answered_ms.take(), good),
        };
        let mut sorted = times.clone();
        sorted.sort_by(f64::total_cmp);
        let step = times.len().div_ceil(SAMPLES_MAX).max(1);
        let samples: Vec<f64> = times.iter().copied().step_by(step).collect();
        let late_p99_ms = stats::quantile(&late_ms, 0.99);
        let late = format!("this client was late itself: {late_p99_ms:.2} ms at the 99th percentile");
        let mut round = Round::new(subject(rival, self.part), seen)
            .figure("done_per_s", good as f64 / self.seconds)
            .figure("failed", tally.failed.get() as f64)
            .figure("p50_ms", stats::quantile_of_sorted(&sorted, 0.5))
            .figure("p99_ms", stats::quantile_of_sorted(&sorted, 0.99))
            .figure("max_ms", stats::quantile_of_sorted(&sorted, 1.0))
            .figure("late_p99_ms", late_p99_ms)
            .samples("took_ms", &samples)
            .void_if_client_was_the_limit()
            .void_if((late_p99_ms > self.late_ms_max).then_some(late));
        if self.part.is_pushed() {
            let (missed, doubled) = self.miscounted(&board, due.len(), tally.failed.get());
            round = round
                .figure("missed", missed as f64)
                .figure("doubled", doubled as f64)
                .figure("ended", board.ended() as f64);
        }
        if !servers.is_empty() {
            round = round.figure("cpu_us", seen.server_cpu_seconds * 1e6 / things as f64);
        }
        if let Some(error) = tally.first_error.take() {
            eprintln!("{}: {error}", round.subject);
        }
        Ok(round)
    }

    /// All screens, each current.
    async fn follow(&self, rival: &Rc<Rival>, board: &Rc<Board>) -> Result<Vec<Follower>> {
        if !self.part.is_pushed() {
            return Ok(Vec::new());
        }
        let (rival, board, groups) = (rival.clone(), board.clone(), self.groups);
        open_many(groups * self.screens, DIALLERS, move |number| {
            let (rival, board) = (rival.clone(), board.clone());
            async move { rival.follow(number % groups, number, &board).await }
        })
        .await
    }

    /// From when each change was due until it was on each screen.
    fn pushed_ms(&self, board: &Board, due: &[u64]) -> Vec<f64> {
        board
            .take_every()
            .into_iter()
            .filter_map(|(number, at_ns)| Some(at_ns.saturating_sub(*due.get(number as usize)?) as f64 / 1e6))
            .collect()
    }

    /// Pushes that did not come, and that came more than once. Of what failed nothing must come.
    fn miscounted(&self, board: &Board, changes: usize, failed: u64) -> (u64, u64) {
        let screens = self.screens as u64;
        let (mut missed, mut doubled) = (0, 0);
        for number in 0..changes as u32 {
            let came = u64::from(board.arrivals(number).count);
            missed += screens.saturating_sub(came);
            doubled += came.saturating_sub(screens);
        }
        (missed.saturating_sub(failed * screens), doubled)
    }
}

/// How a server's part is called in the record.
pub fn subject(rival: &Rival, part: Part) -> String {
    format!("{}, {}", part.name(), rival.name)
}
