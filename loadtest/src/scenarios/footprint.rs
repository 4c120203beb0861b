//! What a feed takes: memory while somebody works with it, and the disk for good; and how long a push is.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use taskflow_protocol::Encoding;
use taskflow_protocol::message::Operations;

use crate::board::{Board, mark};
use crate::clock;
use crate::machine::Watch;
use crate::net::http::Http;
use crate::record::{Better, Record, Round};
use crate::server::Bench;
use crate::server::taskflow::{Author, Setup, TaskFlow, create, operation, task_id};

/// Tasks of each feed: of somebody who has used it for some months.
const TASKS: usize = 200;
/// Operations of one request, at most.
const BATCH: usize = 100;
/// Longer than the scenario: no feed leaves memory.
const FEED_IDLE_SECONDS: i64 = 3_600;
/// Memory that changes by less between two looks has settled.
const SETTLED_SHARE: f64 = 0.002;

/// Runs the scenario.
pub async fn run(bench: &mut Bench, record: &mut Record) -> Result<()> {
    let feeds = bench.size(2_000, 100);
    record.about = format!(
        "{feeds} users make {TASKS} tasks each, over REST, and their feeds stay in memory. Resident memory of the server less that \
         before, by the number of feeds; after the server has stopped, the bytes of its data folder by the number of tasks, each of \
         which is an entry in the log and a row. Then the length of the push of one change of a task."
    );
    for _ in 0..bench.rounds(3) {
        bench.quiet().await;
        record.rounds.push(measure(bench, feeds).await?);
    }
    record.measures = [
        ("memory of a feed of 200 tasks", "KiB", "resident_kib_per_feed"),
        (
            "disk of a task, its entry in the log and its row",
            "bytes",
            "disk_bytes_per_task",
        ),
        ("the push of a change", "bytes", "push_bytes"),
    ]
    .map(|(what, unit, figure)| record.measure(what, unit, Better::Less, "taskflow", figure))
    .to_vec();
    Ok(())
}

async fn measure(bench: &mut Bench, feeds: usize) -> Result<Round> {
    let setup = Setup::default().with("feed_idle_seconds", FEED_IDLE_SECONDS);
    let server = Rc::new(TaskFlow::start(bench, setup).await?);
    let users = server.users(bench, feeds)?;
    let before = settled(&server).await?;
    let watch = Watch::begin(&[server.process.pid()]);
    let mut http = Http::connect(server.dial(0)).await?;
    for user in &users {
        for first in (0..TASKS).step_by(BATCH) {
            let title = |number| format!("Task {number} of many, to be done soon");
            let made = (first..TASKS.min(first + BATCH))
                .map(|number| operation(create(task_id(), title(number), String::new())));
            let operations = Operations {
                feed: None,
                operations: made.collect(),
                traceparent: None,
            };
            let body = String::from_utf8(Encoding::Json.encode(&operations)).context("JSON is text")?;
            let answer = http
                .request("POST", "/api/v1/operations", Some(&user.token), &body)
                .await?;
            if answer.status != 200 || answer.text().contains("refused") {
                bail!("tasks were not made: {}", answer.text());
            }
        }
    }
    let seen = watch.end();
    let after = settled(&server).await?;
    let push_bytes = push(&server, &users[0]).await?;
    let mut server = Rc::into_inner(server).context("nobody else has it")?;
    server.process.stop();
    let disk = size(&bench.work.join("taskflow-data"))?;
    let each = |bytes: f64| bytes / feeds as f64;
    Ok(Round::new("taskflow", seen)
        .figure("resident_kib_per_feed", each((after - before) / 1024.0))
        .figure("disk_bytes_per_task", each(disk as f64) / TASKS as f64)
        .figure("push_bytes", push_bytes as f64))
}

/// Resident memory once it no longer changes: freed memory is given back every few seconds.
async fn settled(server: &TaskFlow) -> Result<f64> {
    let deadline = clock::now_ns() + 60_000_000_000;
    let mut last = 0.0;
    loop {
        // Longer than the pause between two such turns.
        tokio::time::sleep(Duration::from_secs(6)).await;
        let now = server.process.memory()?.resident as f64;
        if (now - last).abs() < now * SETTLED_SHARE || clock::now_ns() > deadline {
            return Ok(now);
        }
        last = now;
    }
}

/// Bytes of a push of one change.
async fn push(server: &Rc<TaskFlow>, user: &crate::server::User) -> Result<usize> {
    let author = Author::sign_in(server, user).await?;
    let board = Board::new();
    let reader = board.watch(server.follow(server.dial(1), user).await?.0);
    author.change(format!("{} of many, to be done soon", mark(0))).await?;
    board.until_pushes(1).await;
    reader.abort();
    Ok(board.frame_bytes())
}

/// Of all files in a folder.
fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => size(&entry.path())?,
            false => entry.metadata()?.len(),
        };
    }
    Ok(bytes)
}
