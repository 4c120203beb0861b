//! From one client's operation to another client's screen, beside what the disk alone takes.

use std::fs::File;
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::open_many;
use crate::board::{Board, mark};
use crate::clock::{self, Pacer};
use crate::machine::Watch;
use crate::record::{Better, Measure, Record, Round};
use crate::server::Bench;
use crate::server::taskflow::{Author, Setup, TaskFlow};
use crate::stats;

const FOLLOWERS: usize = 50;
const CHANGES_A_SECOND: u64 = 200;
/// About what one change of a task takes in a log.
const RECORD_BYTES: usize = 300;
/// A client that sends later than this after the due time, in one case of a hundred, measures itself.
const LATE_MS_MAX: f64 = 1.0;

/// Runs the scenario.
pub async fn run(bench: &mut Bench, record: &mut Record) -> Result<()> {
    let seconds = bench.size(10, 2);
    record.about = format!(
        "One client changes a task {CHANGES_A_SECOND} times a second, {FOLLOWERS} others follow; each round {seconds} s, \
         between rounds of as many appends of {RECORD_BYTES} bytes with fdatasync to a file on the same disk, alone. Open \
         loop: every time runs from when the change (or the append) was due. The difference of the two p99 of a round is \
         what the server, the network and the clients add to the disk."
    );
    let server = Rc::new(TaskFlow::start(bench, Setup::default()).await?);
    let user = server
        .users_with_feeds(bench, 1)
        .await?
        .pop()
        .context("one user was asked for")?;
    let author = Author::sign_in(&server, &user).await?;
    let board = Board::of_every_arrival();
    let dialled = server.clone();
    let sockets = open_many(FOLLOWERS, 16, move |number| {
        let (server, user) = (dialled.clone(), user.clone());
        async move { Ok(server.follow(server.dial(number), &user).await?.0) }
    })
    .await?;
    for socket in sockets {
        board.watch(socket);
    }
    let changes = CHANGES_A_SECOND * seconds;
    let mut first = 0;
    for _ in 0..bench.rounds(5) {
        bench.quiet().await;
        let bare = bare_syncs(bench, changes).await?;
        record
            .rounds
            .push(bare.void_if_others_used_more_than(bench.foreign_percent_max));
        let watch = Watch::begin(&[server.process.pid()]);
        let load = Load::run(&author, &board, first, changes, CHANGES_A_SECOND).await?;
        let seen = watch.end();
        first += changes as u32;
        let last_ms = load.last_ms(FOLLOWERS);
        record.rounds.push(
            Round::new("taskflow", seen)
                .figure("p50_ms", stats::quantile_of_sorted(&load.every_ms, 0.5))
                .figure("p99_ms", stats::quantile_of_sorted(&load.every_ms, 0.99))
                .figure("max_ms", stats::quantile_of_sorted(&load.every_ms, 1.0))
                .figure("missed", load.missed(FOLLOWERS) as f64)
                .figure("not_accepted", author.not_accepted() as f64)
                .figure("late_p99_ms", load.late_p99_ms)
                .samples("last_screen_ms", &last_ms)
                .void_if_others_used_more_than(bench.foreign_percent_max)
                .void_if_client_was_the_limit()
                .void_if(load.sent_late()),
        );
    }
    report(record);
    Ok(())
}

fn report(record: &mut Record) {
    let of = |subject: &str| -> Vec<Option<f64>> {
        let rounds = record.rounds.iter().filter(|round| round.subject == subject);
        rounds
            .map(|round| round.void.is_none().then(|| round.figures["p99_ms"]))
            .collect()
    };
    let pairs = of("taskflow").into_iter().zip(of("bare fdatasync"));
    let above: Vec<f64> = pairs.filter_map(|(ours, bare)| Some(ours? - bare?)).collect();
    let missed = record.total("taskflow", "missed");
    record.measures.extend([
        Measure::new(
            "latency from one client's operation to another client's screen, 200 changes a second, 50 followers: p99 above \
             the bare fdatasync's p99 of the same round",
            "ms",
            Better::Less,
            &above,
        )
        .asked(6.0, 2.0)
        .without(&record.void("taskflow")),
        Measure::new("of these missed or doubled", "pushes", Better::Less, &[missed]).asked(0.0, 0.0),
        record.measure("taskflow", "ms, p99", Better::Less, "taskflow", "p99_ms"),
        record.measure("taskflow", "ms, median", Better::Less, "taskflow", "p50_ms"),
        record.measure("bare fdatasync", "ms, p99", Better::Less, "bare fdatasync", "p99_ms"),
    ]);
}

/// Appends with `fdatasync`, at the rate and with the timer that the load has.
async fn bare_syncs(bench: &Bench, appends: u64) -> Result<Round> {
    let path = bench.work.join("bare-syncs");
    let mut file = File::create(&path)?;
    let mut pacer = Pacer::new()?;
    let mut took_ms = Vec::new();
    let watch = Watch::begin(&[]);
    let begin = clock::now_ns();
    for append in 0..appends {
        let due = begin + append * 1_000_000_000 / CHANGES_A_SECOND;
        pacer.until(due).await?;
        file.write_all(&[b'x'; RECORD_BYTES])?;
        file.sync_data()?;
        took_ms.push((clock::now_ns() - due) as f64 / 1e6);
    }
    let seen = watch.end();
    std::fs::remove_file(path)?;
    Ok(Round::new("bare fdatasync", seen)
        .figure("p50_ms", stats::median(&took_ms))
        .figure("p99_ms", stats::quantile(&took_ms, 0.99))
        .figure("max_ms", stats::quantile(&took_ms, 1.0))
        .samples("append_ms", &took_ms))
}

/// Changes at a steady rate, and when they arrived.
pub struct Load {
    first: u32,
    due_ns: Vec<u64>,
    /// Screens that got each change, and when the last one did.
    arrivals: Vec<(u32, u64)>,
    /// From due to arrival, for every change and screen, sorted.
    pub every_ms: Vec<f64>,
    /// How late the client sent, in one case of a hundred.
    pub late_p99_ms: f64,
}

impl Load {
    /// Sends the changes, open loop, and waits a second for what is under way at the end.
    pub async fn run(author: &Author, board: &Rc<Board>, first: u32, changes: u64, a_second: u64) -> Result<Self> {
        let mut pacer = Pacer::new()?;
        let (mut due_ns, mut late_ms) = (Vec::new(), Vec::new());
        board.take_every();
        let begin = clock::now_ns() + 1_000_000;
        for change in 0..changes {
            let due = begin + change * 1_000_000_000 / a_second;
            pacer.until(due).await?;
            late_ms.push((clock::now_ns() - due) as f64 / 1e6);
            due_ns.push(due);
            author.change(mark(first + change as u32)).await?;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut arrivals = vec![(0, 0); changes as usize];
        let mut every_ms = Vec::new();
        for (number, at_ns) in board.take_every() {
            let Some(index) = number.checked_sub(first).map(|index| index as usize) else {
                continue;
            };
            let Some(due) = due_ns.get(index) else { continue };
            every_ms.push(at_ns.saturating_sub(*due) as f64 / 1e6);
            arrivals[index] = (arrivals[index].0 + 1, at_ns);
        }
        every_ms.sort_by(f64::total_cmp);
        Ok(Self {
            first,
            due_ns,
            arrivals,
            every_ms,
            late_p99_ms: stats::quantile(&late_ms, 0.99),
        })
    }

    /// For each change, from due to the last screen; a change that missed a screen has no last one.
    pub fn last_ms(&self, screens: usize) -> Vec<f64> {
        let times = self.arrivals.iter().zip(&self.due_ns);
        times
            .filter(|((count, _), _)| *count as usize == screens)
            .map(|((_, last_ns), due_ns)| last_ns.saturating_sub(*due_ns) as f64 / 1e6)
            .collect()
    }

    /// Pushes that came not at all or twice.
    pub fn missed(&self, screens: usize) -> u64 {
        self.arrivals
            .iter()
            .map(|(count, _)| u64::from(count.abs_diff(screens as u32)))
            .sum()
    }

    /// The number after the last change.
    pub fn next(&self) -> u32 {
        self.first + self.due_ns.len() as u32
    }

    /// Why the round does not count, if the client was late.
    pub fn sent_late(&self) -> Option<String> {
        let late = self.late_p99_ms;
        (late > LATE_MS_MAX).then(|| format!("the client sent late: {late:.2} ms at p99"))
    }
}
