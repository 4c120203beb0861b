//! From the start of the process until it is ready, what it takes when it is idle, how big it is, and what a scrape costs.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::open_many;
use crate::board::Board;
use crate::clock;
use crate::machine::Watch;
use crate::record::{Better, Record, Round};
use crate::server::services::{Services, meet};
use crate::server::taskflow::{Setup, TaskFlow};
use crate::server::{Bench, output_of};
use crate::stats;

const MIB: f64 = 1_048_576.0;
/// What an idle server does when it has just started (its first looks at itself, memory given back) is over after this.
const IDLE: Duration = Duration::from_secs(5);
const SCRAPES: usize = 30;

/// Runs the scenario.
pub async fn run(bench: &mut Bench, record: &mut Record) -> Result<()> {
    let (starts, connections) = (bench.rounds(12), bench.size(19_500, 500));
    record.about = format!(
        "From the moment before the process is made until /health/ready says 200, asked each half of a millisecond: {starts} starts on an \
         empty folder, as many on a folder that is there, and as many of a second node of a cluster, beside a first one, over a \
         Redis and a Cassandra that are up. Idle: {} s after such a start, without a connection. The binary as it is published: stripped. \
         Scrapes: {SCRAPES} of /metrics over one kept connection, one a tenth of a second, at a node with {connections} signed-in connections that follow.",
        IDLE.as_secs()
    );
    record.rounds.push(binary(bench)?);
    embedded(bench, record, starts).await?;
    scrapes(bench, record, connections).await?;
    cluster(bench, record, starts).await?;
    report(record, connections);
    Ok(())
}

/// Starts again on what is there.
async fn start(bench: &mut Bench, server: &mut TaskFlow, subject: &str) -> Result<Round> {
    bench.quiet().await;
    let watch = Watch::begin(&[]);
    let began = clock::now_ns();
    server.start_again(bench)?;
    let deadline = began + 60_000_000_000;
    while !server.is_ready().await {
        server.process.check_running()?;
        if clock::now_ns() > deadline {
            bail!("the server is not ready after a minute");
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    let ready_ms = (clock::now_ns() - began) as f64 / 1e6;
    let cpu_ms = clock::process_cpu_ns(server.process.pid()) as f64 / 1e6;
    Ok(Round::new(subject, watch.end())
        .figure("ready_ms", ready_ms)
        .figure("cpu_ms", cpu_ms)
        .void_if_others_used_more_than(bench.foreign_percent_max.max(match subject {
            // The database and Redis are others.
            "cluster" => 100.0,
            _ => 0.0,
        })))
}

async fn idle(server: &TaskFlow, subject: &str) -> Result<Round> {
    let watch = Watch::begin(&[server.process.pid()]);
    tokio::time::sleep(IDLE).await;
    let memory = server.process.memory()?;
    Ok(Round::new(subject, watch.end())
        .figure("resident_mib", memory.resident as f64 / MIB)
        .figure("anonymous_mib", memory.anonymous as f64 / MIB))
}

async fn embedded(bench: &mut Bench, record: &mut Record, starts: usize) -> Result<()> {
    for _ in 0..starts {
        // It is started once for its folder and ports.
        let mut server = TaskFlow::start(bench, Setup::default()).await?;
        server.process.stop();
        server.empty_folder()?;
        record
            .rounds
            .push(start(bench, &mut server, "embedded, empty folder").await?);
        server.process.stop();
        record.rounds.push(start(bench, &mut server, "embedded").await?);
    }
    for _ in 0..3 {
        let server = TaskFlow::start(bench, Setup::default()).await?;
        record.rounds.push(idle(&server, "idle, embedded").await?);
    }
    Ok(())
}

async fn cluster(bench: &mut Bench, record: &mut Record, starts: usize) -> Result<()> {
    let services = Services::start(bench, 1)?;
    let one = services.node(bench, "one").await?;
    let mut two = services.node(bench, "two").await?;
    for _ in 0..starts {
        two.process.stop();
        record.rounds.push(start(bench, &mut two, "cluster").await?);
        meet(&[&one, &two], 2.0).await?;
    }
    record.rounds.push(idle(&two, "idle, cluster").await?);
    Ok(())
}

async fn scrapes(bench: &mut Bench, record: &mut Record, connections: usize) -> Result<()> {
    let server = Rc::new(TaskFlow::start(bench, Setup::default()).await?);
    let users = Rc::new(server.users(bench, connections)?);
    let dialled = server.clone();
    let sockets = open_many(connections, 64, move |number| {
        let (server, users) = (dialled.clone(), users.clone());
        async move { Ok(server.follow(server.dial(number), &users[number]).await?.0) }
    })
    .await?;
    // Who does not answer heartbeats is gone.
    let board = Board::new();
    board.watch_all(sockets)?;
    bench.quiet().await;
    let watch = Watch::begin(&[server.process.pid()]);
    let (mut took_ms, mut bytes) = (Vec::new(), 0);
    let mut operator = server.operator().await?;
    for _ in 0..SCRAPES {
        let began = clock::now_ns();
        let answer = operator.request("GET", "/metrics", None, "").await?;
        took_ms.push((clock::now_ns() - began) as f64 / 1e6);
        if answer.status != 200 {
            bail!("a scrape was answered with {}", answer.status);
        }
        bytes = answer.body.len();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let open = server.metric("taskflow_connections").await?.context("connections")?;
    if (open as usize) < connections {
        bail!("{open} of {connections} connections are there");
    }
    record.rounds.push(
        Round::new("scrape", watch.end())
            .figure("p50_ms", stats::median(&took_ms))
            .figure("max_ms", stats::quantile(&took_ms, 1.0))
            .figure("kilobytes", bytes as f64 / 1e3)
            .samples("took_ms", &took_ms)
            .void_if_others_used_more_than(bench.foreign_percent_max),
    );
    Ok(())
}

/// The size of what is published.
fn binary(bench: &Bench) -> Result<Round> {
    let stripped = bench.work.join("stripped");
    let out = format!("--output-file={}", stripped.display());
    output_of(Path::new("strip"), &[&out, &bench.server_binary.to_string_lossy()])?;
    let bytes = std::fs::metadata(&stripped)?.len();
    std::fs::remove_file(&stripped)?;
    Ok(Round::new("binary", Watch::begin(&[]).end()).figure("megabytes", bytes as f64 / 1e6))
}

fn report(record: &mut Record, connections: usize) {
    let row = |what: &str, unit: &str, subject: &str, figure: &str, asked: Option<(f64, f64)>| {
        let measure = record.measure(what, unit, Better::Less, subject, figure);
        match asked {
            Some((at_least, aim)) => measure.asked(at_least, aim),
            None => measure,
        }
    };
    let scraped = format!("a scrape of a node with {connections} connections");
    let measures = vec![
        row(
            "start to ready, embedded",
            "ms",
            "embedded",
            "ready_ms",
            Some((100.0, 20.0)),
        ),
        row(
            "the same on an empty folder",
            "ms",
            "embedded, empty folder",
            "ready_ms",
            Some((100.0, 20.0)),
        ),
        row(
            "start to ready, a node of a cluster",
            "ms",
            "cluster",
            "ready_ms",
            Some((3_000.0, 1_000.0)),
        ),
        row("CPU of a start, embedded", "ms", "embedded", "cpu_ms", None),
        row("CPU of a start, a node of a cluster", "ms", "cluster", "cpu_ms", None),
        row(
            "resident memory of an idle node, embedded",
            "MiB",
            "idle, embedded",
            "resident_mib",
            Some((25.0, 12.0)),
        ),
        row(
            "of that heap and stacks",
            "MiB",
            "idle, embedded",
            "anonymous_mib",
            None,
        ),
        row(
            "resident memory of an idle node of a cluster",
            "MiB",
            "idle, cluster",
            "resident_mib",
            None,
        ),
        row("stripped binary", "MB", "binary", "megabytes", Some((30.0, 15.0))),
        row(&format!("{scraped}, p50"), "ms", "scrape", "p50_ms", Some((10.0, 3.0))),
        row(
            &format!("{scraped}, the slowest of {SCRAPES}"),
            "ms",
            "scrape",
            "max_ms",
            None,
        ),
        row(&scraped, "kB", "scrape", "kilobytes", Some((100.0, 100.0))),
    ];
    record.measures = measures;
}
