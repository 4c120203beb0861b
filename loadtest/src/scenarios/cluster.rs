//! Two nodes over a real Redis and a real CQL database, beside the bare conditional writes of the same database.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlValue, Row};
use uuid::Uuid;

use super::open_many;
use crate::board::{Board, mark};
use crate::clock::{self, Pacer};
use crate::machine::Watch;
use crate::record::{Better, Measure, Record, Round};
use crate::server::services::{Services, meet};
use crate::server::taskflow::{Author, TaskFlow, create, next, operation, operations, rename, task_id};
use crate::server::{Bench, User};
use crate::stats;

const CLIENTS: usize = 64;
const FEEDS: usize = 100;
const TURNS: usize = 4;
const CHANGES_A_SECOND: u64 = 200;
/// The parts, by the names that choose them.
const PARTS: [&str; 4] = [FEED_EACH, ONE_FEED, LATENCY, KILL];
const FEED_EACH: &str = "feed-each";
const ONE_FEED: &str = "one-feed";
const LATENCY: &str = "latency";
const KILL: &str = "kill";
/// About what one change of a task takes in a log.
const BODY_BYTES: usize = 300;

/// The database alone: the statement that an append is.
struct Bare {
    session: Session,
    birth: PreparedStatement,
    append: PreparedStatement,
    /// The partitions of its writers, and how far each is: as old as the feeds that it is measured beside.
    partitions: Vec<(Uuid, Cell<i64>)>,
}

impl Bare {
    async fn connect(services: &Services) -> Result<Self> {
        let profile = ExecutionProfile::builder()
            .retry_policy(std::sync::Arc::new(FallthroughRetryPolicy::new()))
            .build();
        let session = SessionBuilder::new()
            .known_nodes(services.database())
            .default_execution_profile_handle(profile.into_handle())
            .build()
            .await?;
        session.use_keyspace("bench", false).await?;
        let set = "base = ?, append_id = ?, time = ?, bytes = ?, body = ? WHERE user_id = ? AND last = ? IF head = ";
        let birth = session
            .prepare(format!(
                "UPDATE feed_log SET head = ?, epoch = 1, first = 1, {set} NULL"
            ))
            .await?;
        let append = session
            .prepare(format!("UPDATE feed_log SET head = ?, {set} ? AND epoch = 1"))
            .await?;
        Ok(Self {
            session,
            birth,
            append,
            partitions: (0..CLIENTS).map(|_| (Uuid::new_v4(), Cell::new(0))).collect(),
        })
    }

    /// One append after `base`.
    async fn append(&self, user: Uuid, base: i64) -> Result<()> {
        let (last, body) = (base + 1, vec![b'x'; BODY_BYTES]);
        let bytes = BODY_BYTES as i32;
        let done = if base == 0 {
            let values = (last, base, last, last, bytes, body, user, last);
            self.session.execute_unpaged(&self.birth, values).await?
        } else {
            let values = (last, base, last, last, bytes, body, user, last, base);
            self.session.execute_unpaged(&self.append, values).await?
        };
        let rows = done.into_rows_result()?;
        match rows.first_row::<Row>()?.columns.first() {
            Some(Some(CqlValue::Boolean(true))) => Ok(()),
            other => bail!("a bare append was not applied: {other:?}"),
        }
    }
}

/// Runs the scenario.
pub async fn run(bench: &mut Bench, record: &mut Record) -> Result<()> {
    let (seconds, turn) = (bench.size(8, 2), bench.size(2, 1));
    record.about = format!(
        "Two nodes and one client on one machine, over one Cassandra (commitlog_sync: batch, data in memory) and one Redis, all on loopback; each node with one thread for sockets and one for feeds. \
         Throughput: {CLIENTS} clients, half on each node, one change of a task under way each, beside as many \
         writers of the bare conditional update that an append is, {BODY_BYTES} bytes each, on partitions that grow all the time as the feeds do, in {TURNS} turns of {turn} s each a round, one after the other. Latency: {CHANGES_A_SECOND} \
         changes a second over {FEEDS} feeds by way of one node, seen at the other, open loop, every time from when the change \
         was due; beside it the bare updates at the same rate on as many partitions. Kill: one node ends by SIGKILL, and one \
         operation for each of {FEEDS} feeds is sent to the other at once."
    );
    let services = Services::start(bench, 1)?;
    let one = Rc::new(services.node(bench, "one").await?);
    let mut two = services.node(bench, "two").await?;
    let bare = Rc::new(Bare::connect(&services).await?);
    let users = one.users_with_feeds(bench, FEEDS).await?;
    meet(&[&one, &two], 2.0).await?;
    // A database that has just started becomes faster with every second of work.
    bare_throughput(&bare, CLIENTS, seconds).await?;
    throughput(&one, &two, &users[..CLIENTS], seconds).await?;

    let parts = bench.subjects(&PARTS, 0);
    if let Some(part) = parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
        bail!(
            "no part of this scenario is called {part}: choose of {}",
            PARTS.join(", ")
        );
    }
    let chosen = |part: &str| parts.iter().any(|chosen| chosen == part);

    for _ in 0..bench.rounds(3) {
        bench.quiet().await;
        for (part, feeds, bare_subject, subject) in [
            (
                FEED_EACH,
                CLIENTS,
                "bare, one partition each",
                "taskflow, one feed each",
            ),
            (ONE_FEED, 1, "bare, one partition", "taskflow, one feed"),
        ] {
            if !chosen(part) {
                continue;
            }
            // The machine is not equally fast for long: short turns, one after the other.
            for _ in 0..TURNS {
                let watch = Watch::begin(&[]);
                let done = bare_throughput(&bare, feeds, turn).await?;
                record.rounds.push(round(bench, bare_subject, watch, done, turn));
                let watch = Watch::begin(&[one.process.pid(), two.process.pid()]);
                let done = throughput(&one, &two, &users[..feeds], turn).await?;
                record.rounds.push(round(bench, subject, watch, done, turn));
            }
        }
        if chosen(LATENCY) {
            bench.quiet().await;
            let watch = Watch::begin(&[]);
            let took_ms = bare_latency(&bare, CHANGES_A_SECOND * seconds).await?;
            record
                .rounds
                .push(latencies(bench, "bare, 200 a second", watch, &took_ms));
            let watch = Watch::begin(&[one.process.pid(), two.process.pid()]);
            let (took_ms, missed) = latency(&one, &two, &users, CHANGES_A_SECOND * seconds).await?;
            let round = latencies(bench, "taskflow, 200 a second", watch, &took_ms);
            record.rounds.push(round.figure("missed", missed as f64));
        }
    }
    let mut taken_ms = Vec::new();
    let kills = if chosen(KILL) { bench.rounds(3) } else { 0 };
    for _ in 0..kills {
        meet(&[&one, &two], 2.0).await?;
        let watch = Watch::begin(&[one.process.pid()]);
        let took_ms = kill(&one, &mut two, &users).await?;
        taken_ms.push(stats::quantile(&took_ms, 0.99));
        let round = Round::new("node killed", watch.end()).samples("until_accepted_ms", &took_ms);
        record.rounds.push(round);
        two.start_again(bench)?;
        two.wait_until_ready().await?;
    }
    report(record, &taken_ms);
    Ok(())
}

fn round(bench: &Bench, subject: &str, watch: Watch, done: u64, seconds: u64) -> Round {
    let seen = watch.end();
    Round::new(subject, seen)
        .figure("a_second", done as f64 / seconds as f64)
        .figure("server_cpu_us", seen.server_cpu_seconds * 1e6 / done.max(1) as f64)
        .void_if_client_was_the_limit()
        // The database and Redis are no server of the bench's: they count as others.
        .void_if_others_used_more_than(bench.foreign_percent_max.max(100.0))
}

fn latencies(bench: &Bench, subject: &str, watch: Watch, took_ms: &[f64]) -> Round {
    Round::new(subject, watch.end())
        .figure("p50_ms", stats::median(took_ms))
        .figure("p99_ms", stats::quantile(took_ms, 0.99))
        .samples("took_ms", took_ms)
        .void_if_client_was_the_limit()
        .void_if_others_used_more_than(bench.foreign_percent_max.max(100.0))
}

fn report(record: &mut Record, taken_ms: &[f64]) {
    let of = |subject: &str, figure: &str| -> Vec<f64> {
        let rounds = record
            .rounds
            .iter()
            .filter(|round| round.subject == subject && round.void.is_none());
        rounds.map(|round| round.figures[figure]).collect()
    };
    let turns = |subject: &str| -> Vec<Option<f64>> {
        let turns = record.rounds.iter().filter(|round| round.subject == subject);
        turns
            .map(|turn| turn.void.is_none().then_some(turn.figures["a_second"]))
            .collect()
    };
    // Each turn with the one just before it; both count, or neither.
    let per = |ours: &str, bare: &str| -> Vec<f64> {
        let pairs = turns(ours).into_iter().zip(turns(bare));
        pairs.filter_map(|(ours, bare)| Some(ours? / bare?)).collect()
    };
    let above: Vec<f64> = of("taskflow, 200 a second", "p99_ms")
        .into_iter()
        .zip(of("bare, 200 a second", "p99_ms"))
        .map(|(ours, bare)| ours - bare)
        .collect();
    let missed = record.total("taskflow, 200 a second", "missed");
    let measures = [
        Measure::new(
            "acknowledged operations a second, 64 clients on 64 feeds, against bare conditional writes by 64 writers on 64 partitions",
            "×",
            Better::More,
            &per("taskflow, one feed each", "bare, one partition each"),
        )
        .without(&record.void("taskflow, one feed each"))
        .asked(0.75, 0.9),
        Measure::new(
            "acknowledged operations a second, 64 clients on one feed, against bare conditional writes one after another on one partition",
            "×",
            Better::More,
            &per("taskflow, one feed", "bare, one partition"),
        )
        .without(&record.void("taskflow, one feed"))
        .asked(12.0, 25.0),
        Measure::new(
            "change on one node to a screen on the other, 200 changes a second over 100 feeds: p99 above the bare conditional \
             write's p99 of the same round",
            "ms",
            Better::Less,
            &above,
        )
        .without(&record.void("taskflow, 200 a second"))
        .asked(8.0, 3.0),
        Measure::new("of these missed or doubled", "pushes", Better::Less, &[missed]).asked(0.0, 0.0),
        Measure::new(
            "node killed with -9: until the feeds of all take operations again, p99 of 100 feeds",
            "ms",
            Better::Less,
            taken_ms,
        )
        .asked(6_000.0, 2_000.0),
        record.measure("taskflow, one feed each", "operations a second", Better::More, "taskflow, one feed each", "a_second"),
        record.measure("bare, one partition each", "writes a second", Better::More, "bare, one partition each", "a_second"),
        record.measure("taskflow, one feed", "operations a second", Better::More, "taskflow, one feed", "a_second"),
        record.measure("bare, one partition", "writes a second", Better::More, "bare, one partition", "a_second"),
        record.measure("CPU of both nodes for an operation, one feed each", "µs", Better::Less, "taskflow, one feed each", "server_cpu_us"),
        record.measure("CPU of both nodes for an operation, one feed", "µs", Better::Less, "taskflow, one feed", "server_cpu_us"),
        record.measure("taskflow, 200 a second", "ms, p99", Better::Less, "taskflow, 200 a second", "p99_ms"),
        record.measure("bare, 200 a second", "ms, p99", Better::Less, "bare, 200 a second", "p99_ms"),
    ];
    // A part that was not chosen has no rounds, void or not.
    record.measures.extend(
        measures
            .into_iter()
            .filter(|measure| !measure.measured.is_nan() || measure.void.is_some()),
    );
}

/// Appends of as many writers as there are clients; with one partition, of one writer.
async fn bare_throughput(bare: &Rc<Bare>, partitions: usize, seconds: u64) -> Result<u64> {
    let done = Rc::new(Cell::new(0));
    let end = clock::now_ns() + seconds * 1_000_000_000;
    let writers: Vec<_> = (0..partitions)
        .map(|number| {
            let (bare, done) = (bare.clone(), done.clone());
            tokio::task::spawn_local(async move {
                let (user, base) = &bare.partitions[number];
                while clock::now_ns() < end {
                    bare.append(*user, base.get()).await?;
                    base.set(base.get() + 1);
                    done.set(done.get() + u64::from(clock::now_ns() < end));
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for writer in writers {
        writer.await??;
    }
    Ok(done.get())
}

/// Changes by all clients, each with one under way, spread over the nodes and the users.
async fn throughput(one: &TaskFlow, two: &TaskFlow, users: &[User], seconds: u64) -> Result<u64> {
    let done = Rc::new(Cell::new(0));
    let mut sockets = Vec::new();
    for client in 0..CLIENTS {
        let node = if client % 2 == 0 { one } else { two };
        sockets.push(node.sign_in(node.dial(client), &users[client % users.len()]).await?);
    }
    let end = clock::now_ns() + seconds * 1_000_000_000;
    let clients: Vec<_> = sockets
        .into_iter()
        .map(|mut socket| {
            let done = done.clone();
            tokio::task::spawn_local(async move {
                let writer = socket.writer();
                let task = task_id();
                let mut command = create(task, "a task of the bench".to_owned(), String::new());
                for number in 0.. {
                    if clock::now_ns() > end {
                        break;
                    }
                    writer.send(&operations(vec![operation(command)])).await?;
                    // As many changes as there is time for: a feed holds only so many tasks.
                    command = rename(task, format!("{number:0100}"));
                    let answer = next(&mut socket).await?;
                    if memchr::memmem::find(&answer, br#""outcome":{"accepted""#).is_none() {
                        bail!("not accepted: {}", String::from_utf8_lossy(&answer));
                    }
                    done.set(done.get() + u64::from(clock::now_ns() < end));
                }
                Ok(())
            })
        })
        .collect();
    for client in clients {
        client.await??;
    }
    Ok(done.get())
}

/// Appends at a steady rate, each from when it was due.
async fn bare_latency(bare: &Rc<Bare>, appends: u64) -> Result<Vec<f64>> {
    let partitions: Vec<Uuid> = (0..FEEDS).map(|_| Uuid::new_v4()).collect();
    for user in &partitions {
        bare.append(*user, 0).await?;
    }
    let mut pacer = Pacer::new()?;
    let begin = clock::now_ns() + 1_000_000;
    let mut under_way = Vec::new();
    for number in 0..appends {
        let due = begin + number * 1_000_000_000 / CHANGES_A_SECOND;
        pacer.until(due).await?;
        let (bare, user) = (bare.clone(), partitions[number as usize % FEEDS]);
        let base = 1 + (number as usize / FEEDS) as i64;
        under_way.push(tokio::task::spawn_local(async move {
            bare.append(user, base).await?;
            anyhow::Ok((clock::now_ns() - due) as f64 / 1e6)
        }));
    }
    let mut took_ms = Vec::new();
    for append in under_way {
        took_ms.push(append.await??);
    }
    Ok(took_ms)
}

/// Changes at a steady rate on one node, and when each arrived at the other; how many were missed or doubled.
async fn latency(one: &Rc<TaskFlow>, two: &TaskFlow, users: &[User], changes: u64) -> Result<(Vec<f64>, u64)> {
    let mut authors = Vec::new();
    for user in users {
        authors.push(Author::sign_in(one, user).await?);
    }
    let board = Board::of_every_arrival();
    let mut watched = Vec::new();
    for (number, user) in users.iter().enumerate() {
        watched.push(board.watch(two.follow(two.dial(number), user).await?.0));
    }
    board.take_every();
    let mut pacer = Pacer::new()?;
    let begin = clock::now_ns() + 1_000_000;
    let mut due_ns = Vec::new();
    for number in 0..changes {
        let due = begin + number * 1_000_000_000 / CHANGES_A_SECOND;
        pacer.until(due).await?;
        due_ns.push(due);
        authors[number as usize % FEEDS].change(mark(number as u32)).await?;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut counts = vec![0_u64; changes as usize];
    let mut took_ms = Vec::new();
    for (number, at_ns) in board.take_every() {
        if let Some(due) = due_ns.get(number as usize) {
            counts[number as usize] += 1;
            took_ms.push(at_ns.saturating_sub(*due) as f64 / 1e6);
        }
    }
    for task in watched {
        task.abort();
    }
    Ok((took_ms, counts.iter().map(|count| count.abs_diff(1)).sum()))
}

/// Kills the second node, and sends one operation for each feed to the first; how long each took to be accepted.
async fn kill(one: &Rc<TaskFlow>, two: &mut TaskFlow, users: &[User]) -> Result<Vec<f64>> {
    let (dialled, all) = (one.clone(), Rc::new(users.to_vec()));
    let sockets = open_many(users.len(), 16, move |number| {
        let (server, users) = (dialled.clone(), all.clone());
        async move { server.sign_in(server.dial(number), &users[number]).await }
    })
    .await?;
    let killed = clock::now_ns();
    two.process.kill();
    let asked: Vec<_> = sockets
        .into_iter()
        .map(|mut socket| {
            tokio::task::spawn_local(async move {
                let made = operations(vec![operation(create(task_id(), "after".to_owned(), String::new()))]);
                loop {
                    socket.writer().send(&made).await?;
                    let answer = next(&mut socket).await?;
                    if memchr::memmem::find(&answer, br#""outcome":{"accepted""#).is_some() {
                        return anyhow::Ok((clock::now_ns() - killed) as f64 / 1e6);
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
        })
        .collect();
    let mut took_ms = Vec::new();
    for one in asked {
        took_ms.push(one.await??);
    }
    Ok(took_ms)
}
