//! Three times as much as a node can do, for a minute: what is still done, how late, and who stays.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use memchr::memmem;
use serde::Deserialize;
use serde::de::IgnoredAny;
use taskflow_protocol::message::Command;
use taskflow_protocol::{OperationId, SUBPROTOCOL_JSON, TaskId};

use super::open_many;
use crate::board::{Board, mark};
use crate::clock::{self, Pacer};
use crate::machine::Watch;
use crate::net::link::{Link, NotUpgraded};
use crate::net::stream::Stream;
use crate::process::CpuCap;
use crate::record::{Better, Measure, Record, Round};
use crate::server::taskflow::{
    HEARTBEAT, Setup, TaskFlow, create, hello, is_heartbeat, operation, operations, rename, task_id,
};
use crate::server::{Bench, User};
use crate::stats;

/// Screens of each author: a change is worth something when somebody sees it.
const SCREENS: usize = 2;
/// Changes of a message, each of another task: as a client sends what was done while it had no connection. One to a message would cost
/// this client as much as the server, and then it cannot offer three times as much.
const CHANGES: usize = 8;
/// What the server has of a core.
const CORES: f64 = 0.5;
/// Memory that it may have: what compose.cluster.yaml gives a node.
const MEMORY_MIB: f64 = 512.0;
/// An answer that takes longer is late, because clients give up and ask again.
const LATE_MS: f64 = 1_000.0;
/// Changes a second of the first step of the ramp, and by how much each is above the one before.
const FIRST_RATE: f64 = 8_000.0;
const STEP: f64 = 1.15;
/// The capacity is the most that is done in a second, whatever is offered: once so many steps in a row do not bring so much more, no
/// step will. It is not where answers begin to be late: the more waits, the more goes into one write, so that the server does more than
/// there, and would not be overloaded by three times as much.
const FLAT_STEPS: usize = 2;
const MORE: f64 = 1.03;
const TIMES: f64 = 3.0;
/// Whoever does that much of the capacity has more than was found.
const FOUND_PERCENT_MAX: f64 = 130.0;
/// Messages that were sent later than this were not offered at the rate.
const SENT_LATE_MS_MAX: f64 = 100.0;
/// A probe each: changes after the load, and connections during it.
const PROBE: Duration = Duration::from_millis(50);
const CONNECT: Duration = Duration::from_millis(100);
/// So many probes in a row that are not late: the server is as it was.
const PROBES_GOOD: usize = 20;
const SECOND_NS: u64 = 1_000_000_000;

/// One change, from when it was due.
#[derive(Clone, Copy, Debug)]
struct Answer {
    id: OperationId,
    due_ns: u64,
    at_ns: u64,
    is_accepted: bool,
}

impl Answer {
    fn took_ms(&self) -> f64 {
        self.at_ns.saturating_sub(self.due_ns) as f64 / 1e6
    }
}

/// What all authors share.
#[derive(Default)]
struct Seen {
    answers: RefCell<Vec<Answer>>,
    pending: RefCell<HashMap<OperationId, u64>>,
    ended: Cell<u64>,
}

/// Changes tasks in a feed of its own, and never waits.
struct Author {
    link: Rc<Link>,
    tasks: Vec<TaskId>,
}

#[derive(Deserialize)]
struct Frame {
    results: Option<Results>,
}

#[derive(Deserialize)]
struct Results {
    results: Vec<Of>,
}

#[derive(Deserialize)]
struct Of {
    id: OperationId,
    outcome: Outcome,
}

#[derive(Deserialize)]
struct Outcome {
    accepted: Option<IgnoredAny>,
}

impl Author {
    async fn sign_in(server: &TaskFlow, number: usize, user: &User, seen: Rc<Seen>) -> Result<Self> {
        let stream = Stream::plain(server.dial(number).connect().await?);
        let link = Link::upgrade(stream, "localhost", "/api/v1/socket", Some(SUBPROTOCOL_JSON)).await?;
        let link = Rc::new(link);
        link.send(&hello(&user.token, Some(None)));
        let author = Self {
            link: link.clone(),
            tasks: (0..CHANGES).map(|_| task_id()).collect(),
        };
        let driven = seen.clone();
        tokio::task::spawn_local(async move {
            let answered = |text: &[u8]| {
                if is_heartbeat(text) {
                    link.send(HEARTBEAT);
                } else if memmem::find(text, br#""outcome""#).is_some() {
                    driven.take(text);
                }
            };
            // However it ends: that it ended is what counts.
            let _ = link
                .drive(Duration::from_secs(3_600), &Cell::new(false), answered)
                .await;
            driven.ended.set(driven.ended.get() + 1);
        });
        let deadline = clock::now_ns() + 60 * SECOND_NS;
        // Many who sign in at once are much for half a core, too.
        while clock::now_ns() < deadline {
            let made = author
                .tasks
                .iter()
                .map(|task| create(*task, "changed soon".to_owned(), String::new()))
                .collect();
            let ids = author.send(&seen, made, clock::now_ns());
            let mut is_made = true;
            for id in ids {
                is_made &= seen.answer(id).await?.is_accepted;
            }
            if is_made {
                return Ok(author);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("an author cannot make tasks")
    }

    /// One message.
    fn send(&self, seen: &Seen, commands: Vec<Command>, due_ns: u64) -> Vec<OperationId> {
        let message: Vec<_> = commands.into_iter().map(operation).collect();
        let ids: Vec<_> = message.iter().map(|operation| operation.id).collect();
        seen.pending.borrow_mut().extend(ids.iter().map(|id| (*id, due_ns)));
        self.link.send(&operations(message));
        ids
    }
}

impl Seen {
    fn take(&self, text: &[u8]) {
        let Ok(Frame { results: Some(results) }) = serde_json::from_slice(text) else {
            return;
        };
        let at_ns = clock::now_ns();
        for result in results.results {
            if let Some(due_ns) = self.pending.borrow_mut().remove(&result.id) {
                self.answers.borrow_mut().push(Answer {
                    id: result.id,
                    due_ns,
                    at_ns,
                    is_accepted: result.outcome.accepted.is_some(),
                });
            }
        }
    }

    /// Waits for the answer to one, and takes it.
    async fn answer(&self, id: OperationId) -> Result<Answer> {
        let deadline = clock::now_ns() + 30 * SECOND_NS;
        while clock::now_ns() < deadline {
            let place = self.answers.borrow().iter().position(|answer| answer.id == id);
            if let Some(place) = place {
                return Ok(self.answers.borrow_mut().swap_remove(place));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        bail!("a change has no answer")
    }

    /// Waits until all are answered, at most so long; how many were not.
    async fn rest(&self, at_most: Duration) -> usize {
        let deadline = clock::now_ns() + at_most.as_nanos() as u64;
        while !self.pending.borrow().is_empty() && clock::now_ns() < deadline {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.pending.borrow().len()
    }
}

/// The clients, and what they put on.
struct Load {
    server: Rc<TaskFlow>,
    authors: Vec<Author>,
    seen: Rc<Seen>,
    board: Rc<Board>,
    next: Cell<u64>,
}

/// What became of a stretch of load.
struct Stretch {
    begin_ns: u64,
    end_ns: u64,
    offered: u64,
    answers: Vec<Answer>,
    late_ms: Vec<f64>,
}

impl Load {
    async fn connect(server: Rc<TaskFlow>, users: &[User]) -> Result<Self> {
        let seen = Rc::new(Seen::default());
        let (dialled, all, shared) = (server.clone(), Rc::new(users.to_vec()), seen.clone());
        let authors = open_many(users.len(), 32, move |number| {
            let (server, users, seen) = (dialled.clone(), all.clone(), shared.clone());
            async move { Author::sign_in(&server, number, &users[number], seen).await }
        })
        .await?;
        let (dialled, all) = (server.clone(), Rc::new(users.to_vec()));
        let screens = open_many(users.len() * SCREENS, 32, move |number| {
            let (server, users) = (dialled.clone(), all.clone());
            async move { Ok(server.follow(server.dial(number), &users[number / SCREENS]).await?.0) }
        })
        .await?;
        let board = Board::new();
        board.watch_all(screens)?;
        Ok(Self {
            server,
            authors,
            seen,
            board,
            next: Cell::new(0),
        })
    }

    /// One message of the next author.
    fn change(&self, due_ns: u64) {
        let number = self.next.replace(self.next.get() + 1);
        let author = &self.authors[number as usize % self.authors.len()];
        let first = number as u32 * CHANGES as u32;
        let renames = (0..CHANGES)
            .map(|at| rename(author.tasks[at], mark(first + at as u32)))
            .collect();
        author.send(&self.seen, renames, due_ns);
    }

    /// So many changes a second for so long, whatever becomes of them; then waits for what has no answer.
    async fn run(&self, rate: f64, seconds: f64, patience: Duration) -> Result<Stretch> {
        let mut pacer = Pacer::new()?;
        let begin_ns = clock::now_ns() + 1_000_000;
        let end_ns = begin_ns + (seconds * 1e9) as u64;
        let gap_ns = (1e9 * CHANGES as f64 / rate) as u64;
        let (mut due_ns, mut offered, mut late_ms) = (begin_ns, 0, Vec::new());
        while due_ns < end_ns {
            pacer.until(due_ns).await?;
            late_ms.push(clock::now_ns().saturating_sub(due_ns) as f64 / 1e6);
            self.change(due_ns);
            offered += CHANGES as u64;
            due_ns += gap_ns;
        }
        self.seen.rest(patience).await;
        Ok(Stretch {
            begin_ns,
            end_ns,
            offered,
            answers: self.seen.answers.take(),
            late_ms,
        })
    }

    /// The most changes a second that it does, by steps.
    async fn capacity(&self, seconds: f64, record: &mut Record) -> Result<f64> {
        let (mut most, mut rate, mut flat) = (0.0, FIRST_RATE, 0);
        while flat < FLAT_STEPS {
            let goodput = self.goodput(rate, seconds, record).await?;
            flat = if goodput > MORE * most { 0 } else { flat + 1 };
            most = goodput.max(most);
            rate *= STEP;
        }
        Ok(most)
    }

    /// What is done in a second of a step, once it has gone on for a while: the more waits, the more goes into one write.
    async fn goodput(&self, rate: f64, seconds: f64, record: &mut Record) -> Result<f64> {
        self.until_calm().await?;
        let watch = Watch::begin(&[self.server.process.pid()]);
        let step = self.run(rate, seconds, Duration::from_secs(60)).await?;
        let unanswered = self.seen.pending.borrow().len();
        if unanswered > 0 {
            bail!("{unanswered} changes have no answer a minute after a step of the ramp");
        }
        let done = step.done_in_each_second();
        let goodput = mean(&done[done.len() / 2..]);
        record.rounds.push(
            Round::new("ramp", watch.end())
                .figure("offered_a_second", rate)
                .figure("goodput_a_second", goodput)
                .figure("done_share", step.done() / step.offered as f64)
                .figure("p99_ms", step.took_ms(0.99))
                .figure("late_p99_ms", stats::quantile(&step.late_ms, 0.99)),
        );
        println!(
            "  {rate:.0} changes a second: {goodput:.0} done a second, {:.1} % refused, p99 {:.0} ms",
            (step.answers.len() as f64 - step.done()) / step.offered as f64 * 100.0,
            step.took_ms(0.99)
        );
        Ok(goodput)
    }

    /// Waits until the server says that it does everything; a step begins with a server that has nothing to catch up on.
    async fn until_calm(&self) -> Result<()> {
        let deadline = clock::now_ns() + 60 * SECOND_NS;
        while self.server.metric("taskflow_overload").await?.context("the level")? > 0.0 {
            if clock::now_ns() > deadline {
                bail!("a server without a load is overloaded");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Changes now and then, until they are answered as before: seconds since then.
    async fn recovery(&self, since_ns: u64) -> Result<f64> {
        let deadline = clock::now_ns() + 60 * SECOND_NS;
        let mut pacer = Pacer::new()?;
        let mut due_ns = clock::now_ns();
        loop {
            self.change(due_ns);
            due_ns += PROBE.as_nanos() as u64;
            pacer.until(due_ns).await?;
            let answers = self.seen.answers.borrow();
            let good = |answer: &&Answer| answer.is_accepted && answer.took_ms() <= LATE_MS;
            if let Some(first) = answers.iter().rev().nth(PROBES_GOOD * CHANGES - 1)
                && answers.iter().rev().take_while(good).count() >= PROBES_GOOD * CHANGES
            {
                return Ok(first.at_ns.saturating_sub(since_ns) as f64 / 1e9);
            }
            if clock::now_ns() > deadline {
                bail!("the server does not recover within a minute");
            }
        }
    }
}

impl Stretch {
    fn accepted(&self) -> impl Iterator<Item = &Answer> {
        self.answers.iter().filter(|answer| answer.is_accepted)
    }

    fn done(&self) -> f64 {
        self.accepted().count() as f64
    }

    fn took_ms(&self, share: f64) -> f64 {
        stats::quantile(&self.accepted().map(Answer::took_ms).collect::<Vec<_>>(), share)
    }

    /// Accepted in each second of the load.
    fn done_in_each_second(&self) -> Vec<f64> {
        let seconds = (self.end_ns - self.begin_ns) / SECOND_NS;
        let mut done = vec![0.0; seconds as usize];
        for answer in self.accepted() {
            let second = answer.at_ns.saturating_sub(self.begin_ns) / SECOND_NS;
            if let Some(count) = done.get_mut(second as usize) {
                *count += 1.0;
            }
        }
        done
    }

    /// The 99th percentile of those accepted in each second.
    fn p99_in_each_second_ms(&self) -> Vec<f64> {
        let seconds = (self.end_ns - self.begin_ns) / SECOND_NS;
        let mut took = vec![Vec::new(); seconds as usize];
        for answer in self.accepted() {
            let second = answer.at_ns.saturating_sub(self.begin_ns) / SECOND_NS;
            if let Some(took) = took.get_mut(second as usize) {
                took.push(answer.took_ms());
            }
        }
        let p99s = took.iter().map(|took| stats::quantile(took, 0.99));
        p99s.map(|p99| if p99.is_nan() { 0.0 } else { p99 }).collect()
    }
}

/// From the second quarter to the second half.
fn growth_percent(samples: &[f64]) -> f64 {
    let half = samples.len() / 2;
    (stats::median(&samples[half..]) / stats::median(&samples[half / 2..half]) - 1.0) * 100.0
}

fn mean(samples: &[f64]) -> f64 {
    samples.iter().sum::<f64>() / samples.len() as f64
}

/// Connections that are tried during the load: how many came about, and how many were refused with a word.
async fn newcomers(server: Rc<TaskFlow>, taken: Rc<Cell<u64>>, refused: Rc<Cell<u64>>, silent: Rc<Cell<u64>>) {
    for number in 0.. {
        tokio::time::sleep(CONNECT).await;
        let (server, taken, refused, silent) = (server.clone(), taken.clone(), refused.clone(), silent.clone());
        tokio::task::spawn_local(async move {
            let upgraded = async {
                let stream = Stream::plain(server.dial(number).connect().await?);
                Link::upgrade(stream, "localhost", "/api/v1/socket", Some(SUBPROTOCOL_JSON)).await
            };
            let counted = match tokio::time::timeout(Duration::from_secs(5), upgraded).await {
                Ok(Ok(_)) => taken,
                Ok(Err(error)) if status(&error) == Some(503) => refused,
                _ => silent,
            };
            counted.set(counted.get() + 1);
        });
    }
}

fn status(error: &std::io::Error) -> Option<u16> {
    error.get_ref()?.downcast_ref::<NotUpgraded>()?.status()
}

/// Resident memory, each half of a second.
async fn watch_memory(server: Rc<TaskFlow>, mib: Rc<RefCell<Vec<f64>>>) {
    loop {
        if let Ok(memory) = server.process.memory() {
            mib.borrow_mut().push(memory.resident as f64 / 1_048_576.0);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Runs the scenario.
pub async fn run(bench: &mut Bench, record: &mut Record) -> Result<()> {
    let (users, step_seconds, seconds) = (bench.size(1_000, 300), bench.size(8.0, 4.0), bench.size(60.0, 10.0));
    record.about = format!(
        "One node in a control group with {CORES} of a core (a quota each 100 ms, as containers get it), which may have {MEMORY_MIB} MiB of memory. {users} authors, {SCREENS} screens \
         of each; a message gives {CHANGES} tasks another title each, by WebSocket, open loop, times from when each was due; what is refused \
         is not sent again. The ramp: steps of {step_seconds} s, each at {STEP} times the rate of the one before, until {FLAT_STEPS} in a row do \
         not bring {MORE} times as much; the capacity is the most that was done a second in the second half of a step. Then {TIMES} \
         times that for {seconds} s, while new clients knock ten times a second. Goodput is what was accepted within the {seconds} s. Recovery: until \
         {PROBES_GOOD} messages in a row are accepted within {LATE_MS} ms."
    );
    for _ in 0..bench.rounds(3) {
        bench.quiet().await;
        measure(bench, record, users, step_seconds, seconds).await?;
    }
    report(record);
    Ok(())
}

async fn measure(bench: &mut Bench, record: &mut Record, users: usize, step_seconds: f64, seconds: f64) -> Result<()> {
    let cap = CpuCap::new(CORES)?;
    let setup = Setup {
        cap: Some(cap.folder().to_owned()),
        ..Setup::default()
    }
    .with("memory_bytes_max", (MEMORY_MIB * 1_048_576.0) as i64);
    let server = Rc::new(TaskFlow::start(bench, setup).await?);
    let users = server.users(bench, users)?;
    let load = Load::connect(server.clone(), &users).await?;
    load.run(FIRST_RATE, step_seconds, Duration::from_secs(20)).await?;
    let capacity = load.capacity(step_seconds, record).await?;
    load.until_calm().await?;

    let (taken, refused, silent) = <(Rc<Cell<u64>>, Rc<Cell<u64>>, Rc<Cell<u64>>)>::default();
    let mib = Rc::new(RefCell::new(Vec::new()));
    let before_mib = server.process.memory()?.resident as f64 / 1_048_576.0;
    let besides = [
        tokio::task::spawn_local(newcomers(
            server.clone(),
            taken.clone(),
            refused.clone(),
            silent.clone(),
        )),
        tokio::task::spawn_local(watch_memory(server.clone(), mib.clone())),
    ];
    let throttled_before = cap.throttled_seconds();
    let pushed_before = load.board.pushes();
    let watch = Watch::begin(&[server.process.pid()]);
    let stretch = load.run(TIMES * capacity, seconds, Duration::ZERO).await?;
    let machine = watch.end();
    for task in &besides {
        task.abort();
    }
    let recovery_s = load.recovery(stretch.end_ns).await?;
    let unanswered = load.seen.rest(Duration::from_secs(30)).await;
    let late = load.seen.answers.take();
    // What was accepted is on all screens by now, or does not come.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let accepted = stretch.done() + late.iter().filter(|answer| answer.is_accepted).count() as f64;
    let pushed = (load.board.pushes() - pushed_before) as f64;
    let done = stretch.done_in_each_second();
    let goodput = mean(&done);
    let of_capacity = goodput / capacity * 100.0;
    let sent_late_ms = stats::quantile(&stretch.late_ms, 0.99);
    let (mib, p99s) = (mib.take(), stretch.p99_in_each_second_ms());
    record.rounds.push(
        Round::new("overload", machine)
            .figure("capacity", capacity)
            .figure("offered_a_second", stretch.offered as f64 / seconds)
            .figure("goodput_a_second", goodput)
            .figure("goodput_percent", of_capacity)
            .figure(
                "refused_a_second",
                (stretch.answers.len() as f64 - stretch.done()) / seconds,
            )
            .figure("ack_p50_ms", stretch.took_ms(0.5))
            .figure("ack_p99_ms", stretch.took_ms(0.99))
            .figure("ack_max_ms", stretch.took_ms(1.0))
            .figure("ack_p99_growth_percent", growth_percent(&p99s))
            .figure(
                "ack_late_max_ms",
                stats::quantile(&late.iter().map(Answer::took_ms).collect::<Vec<_>>(), 1.0),
            )
            .figure("never_answered", unanswered as f64)
            .figure("sockets_cut", (load.seen.ended.get() + load.board.ended()) as f64)
            .figure("newcomers_taken", taken.get() as f64)
            .figure("newcomers_refused", refused.get() as f64)
            .figure("newcomers_silent", silent.get() as f64)
            .figure("pushes_missing", accepted * SCREENS as f64 - pushed)
            .figure("resident_before_mib", before_mib)
            .figure("resident_peak_mib", stats::quantile(&mib, 1.0))
            .figure("resident_peak_percent", stats::quantile(&mib, 1.0) / MEMORY_MIB * 100.0)
            .figure("resident_growth_percent", growth_percent(&mib))
            .figure("recovery_s", recovery_s)
            .figure(
                "throttled_percent",
                (cap.throttled_seconds() - throttled_before) / seconds * 100.0,
            )
            .figure("late_p99_ms", sent_late_ms)
            .samples("accepted_in_each_second", &done)
            .samples("ack_p99_in_each_second_ms", &p99s)
            .samples("resident_mib", &mib)
            .void_if_client_was_the_limit()
            .void_if(
                (of_capacity > FOUND_PERCENT_MAX)
                    .then(|| format!("the capacity is higher: {of_capacity:.0} % of it were done")),
            )
            .void_if(
                (sent_late_ms > SENT_LATE_MS_MAX).then(|| format!("the client was late itself: {sent_late_ms:.0} ms")),
            ),
    );
    Ok(())
}

fn report(record: &mut Record) {
    let row = |what: &str, unit: &str, better: Better, figure: &str| -> Measure {
        record.measure(what, unit, better, "overload", figure)
    };
    let measures = vec![
        row(
            "changes a second that it does at most (the capacity)",
            "1/s",
            Better::More,
            "capacity",
        ),
        row(
            "goodput at three times the capacity, of the capacity",
            "%",
            Better::More,
            "goodput_percent",
        )
        .asked(80.0, 95.0),
        row(
            "p50 of an accepted change meanwhile, from when it was due",
            "ms",
            Better::Less,
            "ack_p50_ms",
        ),
        row("p99 of the same", "ms", Better::Less, "ack_p99_ms"),
        row("the latest of the same", "ms", Better::Less, "ack_max_ms"),
        row(
            "growth of the p99 of each second, from the second quarter to the second half",
            "%",
            Better::Less,
            "ack_p99_growth_percent",
        ),
        row("changes refused meanwhile", "1/s", Better::Less, "refused_a_second"),
        row(
            "the latest answer after the load had ended",
            "ms",
            Better::Less,
            "ack_late_max_ms",
        ),
        row("changes without an answer", "changes", Better::Less, "never_answered").asked(0.0, 0.0),
        row(
            "connections cut that were there",
            "connections",
            Better::Less,
            "sockets_cut",
        )
        .asked(0.0, 0.0),
        row(
            "pushes of accepted changes that did not come",
            "pushes",
            Better::Less,
            "pushes_missing",
        )
        .asked(0.0, 0.0),
        row(
            "new clients refused with 503",
            "tries",
            Better::More,
            "newcomers_refused",
        ),
        row("new clients taken", "tries", Better::More, "newcomers_taken"),
        row("new clients without a word", "tries", Better::Less, "newcomers_silent"),
        row("resident memory before it", "MiB", Better::Less, "resident_before_mib"),
        row("resident memory, the most", "MiB", Better::Less, "resident_peak_mib"),
        row(
            "the same, of what it may have (memory_bytes_max)",
            "%",
            Better::Less,
            "resident_peak_percent",
        )
        .asked(100.0, 95.0),
        row(
            "growth of resident memory from the second quarter to the second half",
            "%",
            Better::Less,
            "resident_growth_percent",
        ),
        row("after it, until all is as before", "s", Better::Less, "recovery_s"),
    ];
    record.measures = measures;
}
