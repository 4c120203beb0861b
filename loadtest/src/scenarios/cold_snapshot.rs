//! A feed that is not in memory: from hello to its whole snapshot.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use memchr::memmem;
use taskflow_protocol::codec::Encoding;
use taskflow_protocol::limits::OPERATIONS_A_MESSAGE_MAX;
use taskflow_protocol::message::ServerMessage;

use crate::clock;
use crate::machine::Watch;
use crate::record::{Better, Measure, Record, Round};
use crate::server::taskflow::{Setup, TaskFlow, create, hello, next, operation, operations, task_id};
use crate::server::{Bench, User};
use crate::stats;

/// How long the server may take with a message of operations.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);

/// Runs the scenario.
pub async fn run(bench: &mut Bench, record: &mut Record) -> Result<()> {
    let tasks = bench.size(5_000, 500);
    record.about = format!(
        "A feed of {tasks} tasks with titles of 40 and notes of 80 bytes. Time from sending hello, on a connection that is \
         open, to the last piece of the snapshot; every piece is then decoded and the rows counted. `stopped`: the feed \
         left memory for want of use. `restarted`: the server was started anew and this is its first work."
    );
    let setup = Setup::default().with("feed_idle_seconds", 1);
    let server = Rc::new(TaskFlow::start(bench, setup).await?);
    let user = server
        .users_with_feeds(bench, 1)
        .await?
        .pop()
        .context("one user was asked for")?;
    fill(&server, &user, tasks).await?;
    let mut server = Rc::into_inner(server).context("nobody dials")?;
    let stops = bench.size(10, 3);
    for _ in 0..bench.rounds(5) {
        bench.quiet().await;
        for subject in ["stopped", "restarted"] {
            let mut took_ms = Vec::new();
            let watch = Watch::begin(&[server.process.pid()]);
            for _ in 0..if subject == "stopped" { stops } else { 1 } {
                if subject == "restarted" {
                    server.process.stop();
                    server.start_again(bench)?;
                    server.wait_until_ready().await?;
                } else {
                    server.wait_until_feeds_stopped(0.0).await?;
                }
                took_ms.push(snapshot(&server, &user, tasks).await?);
            }
            record.rounds.push(
                Round::new(subject, watch.end())
                    .figure("median_ms", stats::median(&took_ms))
                    .figure("max_ms", stats::quantile(&took_ms, 1.0))
                    .samples("snapshot_ms", &took_ms)
                    .void_if_others_used_more_than(bench.foreign_percent_max),
            );
        }
    }
    let of = |subject: &str| record.samples(subject, "snapshot_ms");
    record.measures = vec![
        Measure::new(
            "a cold feed of 5,000 tasks: from the client's hello to the whole snapshot at the client",
            "ms",
            Better::Less,
            &of("stopped"),
        )
        .asked(60.0, 20.0)
        .without(&record.void("stopped")),
        Measure::new(
            "the same as the first work of a server that just started",
            "ms",
            Better::Less,
            &of("restarted"),
        ),
    ];
    Ok(())
}

async fn fill(server: &TaskFlow, user: &User, tasks: usize) -> Result<()> {
    let mut author = server.sign_in(server.dial(0), user).await?;
    let writer = author.writer();
    let mut made = 0;
    while made < tasks {
        let batch = OPERATIONS_A_MESSAGE_MAX.min(tasks - made);
        let creates = (made..made + batch).map(|number| {
            let title = format!("Task {number:06}, with a title of forty bytes");
            operation(create(task_id(), title, "n".repeat(80)))
        });
        writer.send(&operations(creates.collect())).await?;
        let mut settled = 0;
        while settled < batch {
            let text = tokio::time::timeout(SETTLED_WITHIN, next(&mut author)).await??;
            settled += memmem::find_iter(&text, br#""outcome":{"accepted""#).count();
            if memmem::find(&text, br#""refused""#).is_some() {
                bail!("a task was refused: {}", String::from_utf8_lossy(&text));
            }
        }
        made += batch;
    }
    Ok(())
}

async fn snapshot(server: &TaskFlow, user: &User, tasks: usize) -> Result<f64> {
    let mut socket = server.open(server.dial(0)).await?;
    let begin = clock::now_ns();
    socket.writer().send(&hello(&user.token, Some(None))).await?;
    let mut messages = Vec::new();
    loop {
        let text = next(&mut socket).await?;
        // The key stands in the last piece only; in a title or a note its quotes would be escaped.
        let last = memmem::find(&text, br#""done":{"#).is_some();
        messages.push(text);
        if last {
            break;
        }
    }
    let took_ms = (clock::now_ns() - begin) as f64 / 1e6;
    let (mut got, mut rows, mut said) = (0, 0, 0);
    for text in messages {
        if let ServerMessage::Snapshot(piece) = Encoding::Json.decode(&text)? {
            got += piece.tasks.len();
            rows += piece.tasks.len() + piece.lists.len() + piece.labels.len() + usize::from(piece.settings.is_some());
            said += piece.done.map_or(0, |done| done.rows);
        }
    }
    if got != tasks || rows as u64 != said {
        bail!("{got} tasks of {tasks}, {rows} rows where {said} were announced");
    }
    Ok(took_ms)
}
