//! What the server's own instruments cost at full fan-out, beside the same server built without them.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::open_many;
use crate::board::{Board, mark};
use crate::machine::Watch;
use crate::record::{Better, Measure, Record, Round};
use crate::server::Bench;
use crate::server::taskflow::{Author, Setup, TaskFlow};

/// The same server, built with the feature `unmetered`, beside the other one.
const UNMETERED: &str = "taskflow-unmetered";
/// As often as Prometheus asks, and more: a scrape is part of the cost.
const SCRAPE: Duration = Duration::from_secs(5);
const WARM_UP: u32 = 20;
const LOST_AFTER: Duration = Duration::from_secs(10);
/// How many times the two servers take turns in a round.
const TURNS: usize = 6;

/// A server with its author and screens.
struct Side {
    name: &'static str,
    server: Rc<TaskFlow>,
    author: Author,
    board: Rc<Board>,
    next: u32,
}

impl Side {
    async fn open(bench: &mut Bench, name: &'static str, binary: PathBuf, connections: usize) -> Result<Self> {
        let usual = std::mem::replace(&mut bench.server_binary, binary);
        let setup = Setup::default().with("connections_a_user_max", connections as i64 + 8);
        let server = TaskFlow::start_in(bench, setup, name).await;
        bench.server_binary = usual;
        let server = Rc::new(server?);
        // Tokens are made by the usual one.
        let users = server.users_with_feeds(bench, 1).await?;
        let user = users.into_iter().next().context("one user was asked for")?;
        let author = Author::sign_in(&server, &user).await?;
        let dialled = server.clone();
        let sockets = open_many(connections, 64, move |number| {
            let (server, user) = (dialled.clone(), user.clone());
            async move { Ok(server.follow(server.dial(number), &user).await?.0) }
        })
        .await?;
        let board = Board::new();
        board.watch_all(sockets)?;
        Ok(Self {
            name,
            server,
            author,
            board,
            next: 0,
        })
    }

    /// So many changes, each on all screens before the next.
    async fn publish(&mut self, publishes: u32, connections: usize) -> Result<()> {
        for _ in 0..publishes {
            let wanted = self.board.pushes() + connections as u64;
            self.author.change(mark(self.next)).await?;
            self.next += 1;
            let arrived = tokio::time::timeout(LOST_AFTER, self.board.until_pushes(wanted)).await;
            if arrived.is_err() || self.board.ended() > 0 {
                bail!("{}: a change did not come to all screens", self.name);
            }
        }
        Ok(())
    }

    async fn turn(&mut self, bench: &Bench, publishes: u32, connections: usize) -> Result<Round> {
        let scraped = self.server.clone();
        let scrapes = tokio::task::spawn_local(async move {
            while scraped.metric("taskflow_pushes_total").await.is_ok() {
                tokio::time::sleep(SCRAPE).await;
            }
        });
        let watch = Watch::begin(&[self.server.process.pid()]);
        self.publish(publishes, connections).await?;
        let seen = watch.end();
        scrapes.abort();
        let messages = f64::from(publishes) * connections as f64;
        Ok(Round::new(self.name, seen)
            .figure("cpu_us_per_message", seen.server_cpu_seconds * 1e6 / messages)
            .void_if_others_used_more_than(bench.foreign_percent_max)
            .void_if_client_was_the_limit())
    }
}

/// Runs the scenario.
pub async fn run(bench: &mut Bench, record: &mut Record) -> Result<()> {
    let (connections, publishes) = (bench.size(5_000, 500), bench.size(60, 20));
    record.about = format!(
        "The same server twice, as it is and built with the feature `unmetered`, in which no counter, gauge or histogram is written \
         (clocks that are read for them still are: one look for each batch of pushes). Each has {connections} connections that follow one feed. In turns, {TURNS} a round, \
         the order changing each time: {publishes} changes one after the other, each on all screens before the next, and a scrape every {} s. CPU of the server by \
         messages pushed. Both run all the time, each idle in the turn of the other.",
        SCRAPE.as_secs()
    );
    let unmetered = bench.server_binary.with_file_name(UNMETERED);
    if !unmetered.exists() {
        bail!(
            "there is no server without instruments at {}: `make bench SCENARIO=metrics-cost` builds it",
            unmetered.display()
        );
    }
    let mut costs = Vec::new();
    for _ in 0..bench.rounds(3) {
        let metered = bench.server_binary.clone();
        let mut with = Side::open(bench, "with instruments", metered, connections).await?;
        let mut without = Side::open(bench, "without", unmetered.clone(), connections).await?;
        for side in [&mut with, &mut without] {
            side.publish(WARM_UP, connections).await?;
        }
        for turn in 0..TURNS {
            bench.quiet().await;
            let (one, other) = match turn % 2 {
                0 => {
                    let one = with.turn(bench, publishes, connections).await?;
                    (one, without.turn(bench, publishes, connections).await?)
                }
                _ => {
                    let other = without.turn(bench, publishes, connections).await?;
                    (with.turn(bench, publishes, connections).await?, other)
                }
            };
            if one.void.is_none() && other.void.is_none() {
                let of = |round: &Round| round.figures["cpu_us_per_message"];
                costs.push((of(&one) / of(&other) - 1.0) * 100.0);
            }
            record.rounds.extend([one, other]);
        }
    }
    let cost = Measure::new(
        "CPU of a push to 5,000 connections, with instruments and scrapes against without: more by",
        "%",
        Better::Less,
        &costs,
    )
    .asked(3.0, 1.0)
    .without(&record.void("with instruments"));
    record.measures.push(cost);
    for subject in ["with instruments", "without"] {
        let row = record.measure(subject, "µs a message", Better::Less, subject, "cpu_us_per_message");
        record.measures.push(row);
    }
    Ok(())
}
