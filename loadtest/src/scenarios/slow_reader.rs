//! One client stops reading while its feed changes a thousand times a second: what the others notice.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinHandle;

use super::latency::Load;
use super::open_many;
use crate::board::Board;
use crate::machine::Watch;
use crate::net::Dial;
use crate::record::{Better, Measure, Record, Round};
use crate::server::taskflow::{Author, Setup, TaskFlow};
use crate::server::{Bench, User};
use crate::stats;

const FOLLOWERS: usize = 10;
const CHANGES_A_SECOND: u64 = 1_000;

/// Runs the scenario.
pub async fn run(bench: &mut Bench, record: &mut Record) -> Result<()> {
    let seconds = bench.size(10, 2);
    record.about = format!(
        "One client changes a task {CHANGES_A_SECOND} times a second, {FOLLOWERS} follow and are measured; in every other \
         round one more follows and stops reading (receive buffer of 4 KiB), and comes back each time that the server \
         cuts it. Each round {seconds} s, open loop, times from when a change was due."
    );
    let server = Rc::new(TaskFlow::start(bench, Setup::default()).await?);
    let user = server
        .users_with_feeds(bench, 1)
        .await?
        .pop()
        .context("one user was asked for")?;
    let author = Author::sign_in(&server, &user).await?;
    let board = Board::of_every_arrival();
    let (dialled, follower) = (server.clone(), user.clone());
    let sockets = open_many(FOLLOWERS, 10, move |number| {
        let (server, user) = (dialled.clone(), follower.clone());
        async move { Ok(server.follow(server.dial(number), &user).await?.0) }
    })
    .await?;
    for socket in sockets {
        board.watch(socket);
    }
    let changes = CHANGES_A_SECOND * seconds;
    let mut first = 0;
    for round in 0..2 * bench.rounds(5) {
        let stalled = round % 2 == 1;
        bench.quiet().await;
        let stall = stalled.then(|| stop_reading(server.clone(), user.clone()));
        let watch = Watch::begin(&[server.process.pid()]);
        let load = Load::run(&author, &board, first, changes, CHANGES_A_SECOND).await?;
        let seen = watch.end();
        first = load.next();
        if let Some(stall) = stall {
            stall.abort();
        }
        let evicted = server.metric(EVICTIONS).await?.unwrap_or(0.0);
        record.rounds.push(
            Round::new(if stalled { "with" } else { "without" }, seen)
                .figure("p50_ms", stats::quantile_of_sorted(&load.every_ms, 0.5))
                .figure("p99_ms", stats::quantile_of_sorted(&load.every_ms, 0.99))
                .figure("missed", load.missed(FOLLOWERS) as f64)
                .figure("evictions_so_far", evicted)
                .figure("late_p99_ms", load.late_p99_ms)
                .samples("last_screen_ms", &load.last_ms(FOLLOWERS))
                .void_if_others_used_more_than(bench.foreign_percent_max)
                .void_if_client_was_the_limit()
                .void_if(load.sent_late()),
        );
    }
    report(record);
    Ok(())
}

/// Connections that were cut because they did not read.
const EVICTIONS: &str = "taskflow_evictions_total";

fn stop_reading(server: Rc<TaskFlow>, user: User) -> JoinHandle<Result<()>> {
    tokio::task::spawn_local(async move {
        loop {
            let dial = Dial {
                receive_buffer_bytes: Some(4096),
                ..server.dial(FOLLOWERS)
            };
            let (socket, _) = server.follow(dial, &user).await?;
            while !socket.is_reset() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    })
}

/// An effect is measurable when it is more than what rounds without it differ by among themselves.
fn report(record: &mut Record) {
    let (with, without) = (record.figures("with", "p99_ms"), record.figures("without", "p99_ms"));
    let (low, high) = stats::spread(&without);
    let noise = high - low;
    let effects: Vec<f64> = with.iter().map(|p99| p99 - stats::median(&without)).collect();
    let missed = record.total("with", "missed");
    record.measures.extend([
        Measure::new(
            "a client that stops reading while its feed changes 1,000 times a second: effect on the others' p99 (at least: \
             what the rounds without it differ by)",
            "ms",
            Better::Less,
            &effects,
        )
        .asked(noise, noise)
        .without(&record.void("with")),
        Measure::new("pushes that the others missed", "pushes", Better::Less, &[missed]).asked(0.0, 0.0),
        record.measure("others, with", "ms, p99", Better::Less, "with", "p99_ms"),
        record.measure("others, without", "ms, p99", Better::Less, "without", "p99_ms"),
    ]);
}
