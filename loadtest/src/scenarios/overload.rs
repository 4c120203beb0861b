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
/// What the server has of a core.
const CORES: f64 = 0.5;
/// An answer that takes longer is late, because clients give up and ask again: the capacity is the highest rate at which 99 of a
/// hundred are not. A lower limit would find a lower capacity, and three times that would be no overload.
const LATE_MS: f64 = 1_000.0;
/// Of what was offered in a step of the ramp so much has to be done.
const DONE_SHARE: f64 = 0.99;
/// The rate of the first step, and by how much each is above the one before.
const FIRST_RATE: f64 = 1_000.0;
const STEP: f64 = 1.3;
/// How often the last step is halved to find where between two steps it is too much.
const HALVINGS: usize = 2;
const TIMES: f64 = 3.0;
/// Changes that were sent later than this were not offered at the rate.
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
    task: TaskId,
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
            task: task_id(),
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
            let made = create(author.task, "changed soon".to_owned(), String::new());
            let id = author.send(&seen, made, clock::now_ns());
            if seen.answer(id).await?.is_accepted {
                return Ok(author);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("an author cannot make a task")
    }

    fn send(&self, seen: &Seen, command: Command, due_ns: u64) -> OperationId {
        let operation = operation(command);
        let id = operation.id;
        seen.pending.borrow_mut().insert(id, due_ns);
        self.link.send(&operations(vec![operation]));
        id
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

    fn change(&self, due_ns: u64) {
        let number = self.next.replace(self.next.get() + 1);
        let author = &self.authors[number as usize % self.authors.len()];
        // Nothing is made: memory that grows is not that of more tasks.
        author.send(&self.seen, rename(author.task, mark(number as u32)), due_ns);
    }

    /// So many a second for so long, whatever becomes of them; then waits for what has no answer.
    async fn run(&self, rate: f64, seconds: f64, patience: Duration) -> Result<Stretch> {
        let mut pacer = Pacer::new()?;
        let begin_ns = clock::now_ns() + 1_000_000;
        let end_ns = begin_ns + (seconds * 1e9) as u64;
        let gap_ns = (1e9 / rate) as u64;
        let (mut due_ns, mut offered, mut late_ms) = (begin_ns, 0, Vec::new());
        while due_ns < end_ns {
            pacer.until(due_ns).await?;
            late_ms.push(clock::now_ns().saturating_sub(due_ns) as f64 / 1e6);
            self.change(due_ns);
            offered += 1;
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

    /// The highest rate that it keeps up with, by steps.
    async fn capacity(&self, seconds: f64, record: &mut Record) -> Result<f64> {
        let (mut good, mut rate, mut bad) = (0.0, FIRST_RATE, None);
        let mut halvings = 0;
        while halvings < HALVINGS {
            // What happens once may be the machine's doing.
            let keeps_up = self.keeps_up(rate, seconds, record).await? || self.keeps_up(rate, seconds, record).await?;
            match keeps_up {
                true => good = rate,
                false if good == 0.0 => bail!("the server does not keep up with {FIRST_RATE} changes a second"),
                false => bad = Some(rate),
            }
            rate = match bad {
                None => rate * STEP,
                Some(bad) => {
                    halvings += 1;
                    (good * bad).sqrt()
                }
            };
        }
        Ok(good)
    }

    /// Whether it keeps up with a rate, by one step.
    async fn keeps_up(&self, rate: f64, seconds: f64, record: &mut Record) -> Result<bool> {
        self.until_calm().await?;
        let watch = Watch::begin(&[self.server.process.pid()]);
        let step = self.run(rate, seconds, Duration::from_secs(20)).await?;
        let keeps_up = step.done() >= DONE_SHARE * step.offered as f64 && step.took_ms(0.99) <= LATE_MS;
        record.rounds.push(
            Round::new("ramp", watch.end())
                .figure("offered_a_second", rate)
                .figure("done_share", step.done() / step.offered as f64)
                .figure("p99_ms", step.took_ms(0.99))
                .figure("keeps_up", f64::from(u8::from(keeps_up)))
                .figure("late_p99_ms", stats::quantile(&step.late_ms, 0.99)),
        );
        println!(
            "  {rate:.0} changes a second: {:.1} % done, {:.1} % refused, p99 {:.0} ms",
            step.done() / step.offered as f64 * 100.0,
            (step.answers.len() as f64 - step.done()) / step.offered as f64 * 100.0,
            step.took_ms(0.99)
        );
        Ok(keeps_up)
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
            if let Some(first) = answers.iter().rev().nth(PROBES_GOOD - 1)
                && answers.iter().rev().take_while(good).count() >= PROBES_GOOD
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
    let (users, step_seconds, seconds) = (bench.size(3_000, 300), bench.size(6.0, 2.0), bench.size(60.0, 10.0));
    record.about = format!(
        "One node in a control group with {CORES} of a core (a quota each 100 ms, as containers get it). {users} authors, {SCREENS} screens \
         of each; a change gives the author's task another title, one to a message, by WebSocket, open loop, times from when \
         each was due; what is refused is not sent again. The ramp: steps of {step_seconds} s, each at {STEP} times the rate of the one before, then the last \
         step halved {HALVINGS} times; the capacity is the highest rate of which {DONE_SHARE} are done, 99 % of those within {LATE_MS} ms, in one of two tries. Then {TIMES} \
         times that for {seconds} s, while new clients knock ten times a second. Goodput is what was accepted within the {seconds} s. Recovery: until \
         {PROBES_GOOD} changes in a row are accepted within {LATE_MS} ms."
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
    };
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
    let goodput = done.iter().sum::<f64>() / done.len() as f64;
    let sent_late_ms = stats::quantile(&stretch.late_ms, 0.99);
    let mib = mib.take();
    let half = mib.len() / 2;
    record.rounds.push(
        Round::new("overload", machine)
            .figure("capacity", capacity)
            .figure("offered_a_second", stretch.offered as f64 / seconds)
            .figure("goodput_a_second", goodput)
            .figure("goodput_percent", goodput / capacity * 100.0)
            .figure("ack_p50_ms", stretch.took_ms(0.5))
            .figure("ack_p99_ms", stretch.took_ms(0.99))
            .figure("ack_max_ms", stretch.took_ms(1.0))
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
            .figure(
                "resident_growth_percent",
                (stats::median(&mib[half..]) / stats::median(&mib[half / 2..half]) - 1.0) * 100.0,
            )
            .figure("recovery_s", recovery_s)
            .figure(
                "throttled_percent",
                (cap.throttled_seconds() - throttled_before) / seconds * 100.0,
            )
            .figure("late_p99_ms", sent_late_ms)
            .samples("accepted_in_each_second", &done)
            .samples("ack_p99_in_each_second_ms", &stretch.p99_in_each_second_ms())
            .samples("resident_mib", &mib)
            .void_if_client_was_the_limit()
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
            "changes a second that it keeps up with (the capacity)",
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
            "growth of resident memory from the second quarter to the second half",
            "%",
            Better::Less,
            "resident_growth_percent",
        ),
        row("after it, until all is as before", "s", Better::Less, "recovery_s"),
    ];
    record.measures = measures;
}
