//! One change, 5,000 screens: what a push costs the server, and how long until the last screen has it, beside the floor.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{open_many, subjects};
use crate::board::{Board, mark};
use crate::clock;
use crate::machine::Watch;
use crate::process::Process;
use crate::record::{Better, Measure, Record, Round};
use crate::server::Bench;
use crate::server::reference::Reference;
use crate::server::taskflow::{Author, Setup, TaskFlow};
use crate::stats;

/// Publishes before the measurement, so that caches and buffers have their size.
const WARM_UP: u32 = 5;
/// A push that is not everywhere by then is lost.
const LOST_AFTER: Duration = Duration::from_secs(10);
/// Bytes of a pushed message, as far as TaskFlow's own words leave room.
const MESSAGE_BYTES: usize = 256;

/// Who makes pushes happen.
enum Publisher {
    Reference { server: Reference, message_bytes: usize },
    TaskFlow { server: Rc<TaskFlow>, author: Author },
}

impl Publisher {
    fn process(&self) -> &Process {
        match self {
            Self::Reference { server, .. } => &server.process,
            Self::TaskFlow { server, .. } => &server.process,
        }
    }

    async fn publish(&mut self, number: u32) -> Result<()> {
        match self {
            Self::Reference { server, message_bytes } => server.publish(number, *message_bytes).await,
            Self::TaskFlow { author, .. } => author.change(mark(number)).await,
        }
    }
}

/// Runs the scenario.
pub async fn run(bench: &mut Bench, record: &mut Record) -> Result<()> {
    let connections = bench.size(5_000, 500);
    record.about = format!(
        "One publisher, {connections} connections of one user on one node. With one publish in flight the next one is \
         made when the last screen has the one before; with four, three more are under way. TaskFlow's publish is a \
         change of a task, durable before it is pushed; the floor's is a line on its control port. Both push messages of \
         the same size to clients that only count them. Server and client share both cores."
    );
    let mut message_bytes = MESSAGE_BYTES;
    for round in 0..bench.rounds(5) {
        // TaskFlow first, once: the floor pushes messages of the size that TaskFlow's turn out to have.
        for subject in bench.subjects(&["taskflow", "r"], round) {
            let board = Board::new();
            let publisher = match subject.as_str() {
                "taskflow" => open_taskflow(bench, &board, connections).await?,
                stack => open_reference(bench, &board, stack, connections, message_bytes).await?,
            };
            let mut load = Load {
                board,
                publisher,
                connections: connections as u64,
                foreign_percent_max: bench.foreign_percent_max,
                next: 0,
            };
            bench.quiet().await;
            let publishes = bench.size((100, 200), (20, 40));
            record.rounds.push(load.run(&subject, 1, publishes.0).await?);
            record.rounds.push(load.run(&subject, 4, publishes.1).await?);
            if subject == "taskflow" {
                message_bytes = load.board.frame_bytes();
            }
        }
    }
    record
        .notes
        .push(format!("A pushed message has {message_bytes} bytes."));
    report(record);
    Ok(())
}

async fn open_reference(
    bench: &mut Bench,
    board: &Rc<Board>,
    stack: &str,
    connections: usize,
    message_bytes: usize,
) -> Result<Publisher> {
    let server = Rc::new(Reference::start(bench, stack).await?);
    let users = match stack {
        "r" => Vec::new(),
        _ => Reference::users(bench, connections)?,
    };
    let dialled = server.clone();
    let sockets = open_many(connections, 64, move |number| {
        let (server, user) = (dialled.clone(), users.get(number).cloned());
        async move { Ok(server.open(number, user.as_ref()).await?) }
    })
    .await?;
    board.watch_all(sockets)?;
    let mut server = Rc::into_inner(server).context("the diallers are done")?;
    // The server takes a connection in after it has answered the handshake.
    while server.connections().await? < connections {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(Publisher::Reference { server, message_bytes })
}

async fn open_taskflow(bench: &mut Bench, board: &Rc<Board>, connections: usize) -> Result<Publisher> {
    let setup = Setup::default().with("connections_a_user_max", connections as i64 + 8);
    let server = Rc::new(TaskFlow::start(bench, setup).await?);
    let user = server
        .users_with_feeds(bench, 1)
        .await?
        .pop()
        .context("one user was asked for")?;
    let author = Author::sign_in(&server, &user).await?;
    let dialled = server.clone();
    let sockets = open_many(connections, 64, move |number| {
        let (server, user) = (dialled.clone(), user.clone());
        async move { Ok(server.follow(server.dial(number), &user).await?.0) }
    })
    .await?;
    board.watch_all(sockets)?;
    Ok(Publisher::TaskFlow { server, author })
}

struct Load {
    board: Rc<Board>,
    publisher: Publisher,
    connections: u64,
    foreign_percent_max: f64,
    next: u32,
}

impl Load {
    async fn run(&mut self, subject: &str, in_flight: u32, publishes: u32) -> Result<Round> {
        self.burst(in_flight, WARM_UP).await?;
        let watch = Watch::begin(&[self.publisher.process().pid()]);
        let last_ms = self.burst(in_flight, publishes).await?;
        let seen = watch.end();
        let messages = f64::from(publishes) * self.connections as f64;
        Ok(Round::new(format!("{subject}, {in_flight} in flight"), seen)
            .figure("cpu_us_per_message", seen.server_cpu_seconds * 1e6 / messages)
            .figure("messages_per_s", messages / seen.seconds)
            .figure("last_screen_p50_ms", stats::median(&last_ms))
            .figure("last_screen_p99_ms", stats::quantile(&last_ms, 0.99))
            .samples("last_screen_ms", &last_ms)
            .void_if_others_used_more_than(self.foreign_percent_max)
            .void_if_client_was_the_limit())
    }

    /// Publishes, and for each publish the milliseconds until the last screen had it.
    async fn burst(&mut self, in_flight: u32, publishes: u32) -> Result<Vec<f64>> {
        let (first, before) = (self.next, self.board.pushes());
        let mut sent_ns = Vec::new();
        for done in 0..publishes {
            while self.next < first + publishes && self.next < first + done + in_flight {
                sent_ns.push(clock::now_ns());
                self.publisher.publish(self.next).await?;
                self.next += 1;
            }
            let wanted = before + u64::from(done + 1) * self.connections;
            let arrived = tokio::time::timeout(LOST_AFTER, self.board.until_pushes(wanted)).await;
            if arrived.is_err() || self.board.pushes() < wanted {
                let got = self.board.pushes() - before;
                let ended = self.board.ended();
                bail!("publish {done}: {got} pushes of {wanted}, and {ended} connections ended");
            }
        }
        let mut last_ms = Vec::new();
        for (number, sent_ns) in (first..self.next).zip(sent_ns) {
            let arrivals = self.board.arrivals(number);
            if u64::from(arrivals.count) != self.connections {
                bail!(
                    "publish {number} came {} times on {} screens",
                    arrivals.count,
                    self.connections
                );
            }
            last_ms.push((arrivals.last_ns - sent_ns) as f64 / 1e6);
        }
        Ok(last_ms)
    }
}

/// Ratios are taken round by round: the two servers of a round ran one right after the other.
fn report(record: &mut Record) {
    let ratio = |record: &Record, load: &str, figure: &str| -> Vec<f64> {
        let of = |server: &str| {
            let subject = format!("{server}, {load}");
            let rounds = record.rounds.iter().filter(move |round| round.subject == subject);
            rounds
                .map(|round| round.void.is_none().then(|| round.figures[figure]))
                .collect::<Vec<_>>()
        };
        let pairs = of("taskflow").into_iter().zip(of("r"));
        pairs.filter_map(|(ours, floor)| Some(ours? / floor?)).collect()
    };
    let one = Measure::new(
        "server CPU of a push to 5,000 connections, one publish in flight, against the floor R",
        "×",
        Better::Less,
        &ratio(record, "1 in flight", "cpu_us_per_message"),
    )
    .asked(1.4, 1.2)
    .without(&record.void("taskflow, 1 in flight"));
    let four = Measure::new(
        "p99 from publish to the last of 5,000 screens, four publishes in flight, against the floor R",
        "×",
        Better::Less,
        &ratio(record, "4 in flight", "last_screen_p99_ms"),
    )
    .asked(1.6, 1.2)
    .without(&record.void("taskflow, 4 in flight"));
    record.measures.extend([one, four]);
    for subject in &subjects(record) {
        for (figure, unit) in [
            ("cpu_us_per_message", "µs a message"),
            ("last_screen_p99_ms", "ms to the last screen, p99"),
        ] {
            let row = record.measure(subject, unit, Better::Less, subject, figure);
            record.measures.push(row);
        }
    }
}
