//! What is left in memory of a connection that once carried a lot.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use memchr::memmem;
use taskflow_protocol::TaskId;
use taskflow_protocol::codec::Encoding;
use taskflow_protocol::limits::NOTES_BYTES_MAX;
use taskflow_protocol::message::{Command, Operations, TaskPatch};
use taskflow_protocol::model::TaskFields;

use super::open_many;
use crate::board::Board;
use crate::clock;
use crate::machine::Watch;
use crate::net::Dial;
use crate::net::http::Http;
use crate::net::socket::Socket;
use crate::record::{Better, Record, Round};
use crate::server::taskflow::{Setup, TaskFlow, create, next, operation, operations, task_id};
use crate::server::{Bench, User};

/// Bytes of the message that each connection sends once.
const FRAME_BYTES: usize = 64 * 1024;
/// Changes that a connection does not read, of notes of the greatest length: 1 MiB and some.
const BACKLOG_CHANGES: usize = 21;
/// Connections of the state that the rest is compared with.
const BASE: usize = 20;
/// Connections that do not read at the same time: a server may well cut who reads nothing for half a minute, which is
/// how long the changes of all would take a slow machine.
const WAVE: usize = 250;
/// So that the kernel holds little of the backlog and the server the rest.
const RECEIVE_BUFFER_BYTES: u32 = 16 * 1024;
/// The server gives back what it does not use within ten seconds, before the base as well as after the load.
const QUIET: Duration = Duration::from_secs(12);
const ARRIVES_WITHIN: Duration = Duration::from_secs(60);

/// Runs the scenario.
pub async fn run(bench: &mut Bench, record: &mut Record) -> Result<()> {
    let connections = bench.size(1_000, 100);
    record.about = format!(
        "{connections} connections of as many users, each following its feed. Each sends one message of 64 KiB; then \
         {WAVE} at a time stop reading (receive buffer of 16 KiB) while each feed changes {BACKLOG_CHANGES} times by notes of \
         {NOTES_BYTES_MAX} bytes; then read everything; all are idle until the feeds have stopped. Resident memory of \
         the server less that of the same server after {BASE} other connections went through the same, by the number of \
         connections: what they would cost had they always been idle is included."
    );
    for _ in 0..bench.rounds(3) {
        let setup = Setup::default().with("feed_idle_seconds", 2);
        let mut server = Rc::new(TaskFlow::start(bench, setup).await?);
        let users = Rc::new(server.users(bench, BASE + connections)?);
        // The sockets of the base are closed again: what they taught the server stays.
        drop(carry(&server, &users, 0, BASE).await?);
        settle(&mut server).await?;
        let base = server.process.memory()?;
        let watch = Watch::begin(&[server.process.pid()]);
        let board = Board::new();
        for wave in (0..connections).step_by(WAVE) {
            let count = WAVE.min(connections - wave);
            for socket in carry(&server, &users, BASE + wave, count).await? {
                board.watch(socket);
            }
        }
        let drained = server.process.memory()?;
        settle(&mut server).await?;
        let after = server.process.memory()?;
        if board.ended() > 0 {
            bail!("{} connections ended", board.ended());
        }
        let per_connection = |bytes: u64, base: u64| bytes.saturating_sub(base) as f64 / 1024.0 / connections as f64;
        record.rounds.push(
            Round::new("taskflow", watch.end())
                .figure(
                    "resident_kib_per_connection",
                    per_connection(after.resident, base.resident),
                )
                .figure(
                    "resident_when_drained_kib_per_connection",
                    per_connection(drained.resident, base.resident),
                )
                .figure(
                    "anonymous_kib_per_connection",
                    per_connection(after.anonymous, base.anonymous),
                )
                .figure("resident_at_base_mib", base.resident as f64 / 1048576.0),
        );
    }
    let row = record
        .measure(
            "memory after one 64 KiB frame in and 1 MiB of backlog out, on each of 1,000 connections, once idle again, per \
             connection",
            "KiB",
            Better::Less,
            "taskflow",
            "resident_kib_per_connection",
        )
        .asked(8.0, 4.0);
    record.measures = vec![
        row,
        record.measure(
            "the same right after the last byte was read",
            "KiB",
            Better::Less,
            "taskflow",
            "resident_when_drained_kib_per_connection",
        ),
    ];
    Ok(())
}

async fn settle(server: &mut Rc<TaskFlow>) -> Result<()> {
    let server = Rc::get_mut(server).context("nobody dials")?;
    server.wait_until_feeds_stopped(0.0).await?;
    tokio::time::sleep(QUIET).await;
    Ok(())
}

/// Connects, and has every connection carry its frame and its backlog.
async fn carry(server: &Rc<TaskFlow>, users: &Rc<Vec<User>>, first: usize, count: usize) -> Result<Vec<Socket>> {
    let (dialled, owners) = (server.clone(), users.clone());
    let opened = open_many(count, 32, move |offset| {
        let (server, users) = (dialled.clone(), owners.clone());
        async move {
            let user = &users[first + offset];
            let dial = Dial {
                receive_buffer_bytes: Some(RECEIVE_BUFFER_BYTES),
                ..server.dial(offset)
            };
            let (mut socket, _) = server.follow(dial, user).await?;
            let task = task_id();
            socket.writer().send(&big_frame(task)?).await?;
            // Two tasks, both pushed back.
            read_marks(&mut socket, b"\"task_put\"", 2)
                .await
                .context("a connection was cut that sent 64 KiB")?;
            Ok((offset, socket, task))
        }
    })
    .await?;
    let stopped = clock::now_ns();
    let tasks: Vec<(usize, TaskId)> = opened.iter().map(|(offset, _, task)| (first + offset, *task)).collect();
    let tasks = Rc::new(tasks);
    let (authors, users, address) = (tasks.clone(), users.clone(), server.address);
    open_many(count, 16, move |index| {
        let (tasks, users) = (authors.clone(), users.clone());
        async move {
            let (owner, task) = tasks[index];
            let mut http = Http::connect(Dial::to(address).number(index)).await?;
            change(&mut http, &users[owner], task)
                .await
                .context("a request was cut that changes a task")
        }
    })
    .await?;
    let mut sockets = Vec::with_capacity(count);
    for (_, mut socket, _) in opened {
        read_marks(&mut socket, b"\"task_set\"", BACKLOG_CHANGES)
            .await
            .with_context(|| {
                format!(
                    "a connection was cut that did not read for {:.1} s",
                    seconds_since(stopped)
                )
            })?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn seconds_since(begun_ns: u64) -> f64 {
    (clock::now_ns() - begun_ns) as f64 / 1e9
}

/// Two tasks whose notes fill a message of the size that is asked.
fn big_frame(task: TaskId) -> Result<Vec<u8>> {
    let with = |rest: usize| {
        let first = operation(create(task, "backlog".to_owned(), "n".repeat(NOTES_BYTES_MAX)));
        let second = operation(create(task_id(), "filler".to_owned(), "n".repeat(rest)));
        operations(vec![first, second])
    };
    let rest = FRAME_BYTES.checked_sub(with(0).len()).context("the first task fits")?;
    // An empty text is left out of the document, its key included.
    let surplus = with(rest).len() - FRAME_BYTES;
    Ok(with(rest - surplus))
}

/// Changes the notes so often, and as many at once as a request may carry.
async fn change(http: &mut Http, user: &User, task: TaskId) -> Result<()> {
    let mut left = BACKLOG_CHANGES;
    while left > 0 {
        let batch = left.min(5);
        let patches = (0..batch).map(|number| {
            let letter = char::from(b'a' + ((left - number) % 26) as u8);
            operation(Command::TaskPatch(TaskPatch {
                task,
                set: TaskFields {
                    notes: Some(letter.to_string().repeat(NOTES_BYTES_MAX)),
                    ..TaskFields::default()
                },
            }))
        });
        let body = Encoding::Json.encode(&Operations {
            feed: None,
            operations: patches.collect(),
            traceparent: None,
        });
        let body = String::from_utf8(body)?;
        let answer = http
            .request("POST", "/api/v1/operations", Some(&user.token), &body)
            .await?;
        let accepted = memmem::find_iter(&answer.body, b"\"accepted\"").count();
        if accepted != batch {
            bail!("{accepted} of {batch} changes were accepted: {}", answer.text());
        }
        left -= batch;
    }
    Ok(())
}

/// Reads until something was seen so often.
async fn read_marks(socket: &mut Socket, mark: &[u8], times: usize) -> Result<()> {
    let mut seen = 0;
    while seen < times {
        let text = tokio::time::timeout(ARRIVES_WITHIN, next(socket))
            .await
            .with_context(|| format!("{seen} of {times} arrived"))??;
        seen += memmem::find_iter(&text, mark).count();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_big_frame_has_the_size_that_is_asked() {
        assert_eq!(big_frame(task_id()).unwrap().len(), FRAME_BYTES);
    }
}
