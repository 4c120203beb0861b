//! Three nodes replaced one after the other, under load, behind each of the proxies that there are examples for.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::load::{Load, now, seconds_between, steady_rate};
use crate::clock;
use crate::load::{Count, Outcome, Recorded, Second, Timed};
use crate::machine::Watch;
use crate::record::{Better, Measure, Record, Round};
use crate::server::proxy::{self, Nodes, Proxy};
use crate::server::services::{Services, meet};
use crate::server::taskflow::TaskFlow;
use crate::server::{Bench, free_port};

/// Three screens a user: a change is seen by others.
const SCREENS: usize = 3;
/// Of ten acts of the load scenario eight are changes.
const ACTS_A_CHANGE: f64 = 1.25;
/// Until a proxy that asks every second has noticed, and a second more.
const DRAIN_WAIT_SECONDS: i64 = 3;
const DRAIN_SECONDS_MAX: i64 = 90;
/// Of a load before anything is done to it, and after.
const CALM: Duration = Duration::from_secs(5);
/// After this, what a node's going does to clients is over: told, away, back.
const AFTERMATH_SECONDS: f64 = 5.0;

struct Size {
    connections: usize,
    changes_a_second: f64,
    clients_a_second: f64,
}

/// A node that went and came again, in seconds of Unix time.
struct Replaced {
    asked: f64,
    ended: f64,
    ready: f64,
    code: Option<i32>,
    connections: f64,
}

/// Runs the scenario.
pub async fn run(bench: &mut Bench, record: &mut Record) -> Result<()> {
    let size = Size {
        connections: bench.size(9_000, 900),
        changes_a_second: bench.size(200.0, 50.0),
        clients_a_second: bench.size(200.0, 60.0),
    };
    record.about = format!(
        "Three nodes over one Redis and one Cassandra, in turn behind HAProxy, Caddy and nginx as the examples in deploy/ set them \
         up (in the clear, which is all that is changed), everything on one machine. {} connections of {} users through the proxy, {} changes a second by \
         WebSocket and REST and a quarter as many reads, open loop. The nodes are replaced one after the other: SIGTERM, \
         until the process has ended, started again, ready, and all clients are back. `drain_clients_a_second` is {}, \
         `drain_wait_seconds` {DRAIN_WAIT_SECONDS}. Reconnects a second are those of the middle four fifths of each drain. Each change is checked to \
         come to each screen once and in order, and to be there at the end.",
        size.connections,
        size.connections / SCREENS,
        size.changes_a_second,
        size.clients_a_second,
    );
    let addresses = [1, 2, 3].map(|last| Ipv4Addr::new(127, 0, 1, last));
    let places = Nodes {
        addresses,
        port: free_port(&addresses)?,
        operator_port: free_port(&addresses)?,
    };
    let services = Services::start(bench, 1)?;
    let mut nodes = Vec::new();
    for (name, address) in ["one", "two", "three"].into_iter().zip(addresses) {
        let mut setup = services
            .setup(name)
            .with("drain_clients_a_second", size.clients_a_second as i64)
            .with("drain_wait_seconds", DRAIN_WAIT_SECONDS)
            .with("drain_seconds_max", DRAIN_SECONDS_MAX);
        setup.texts.push(("behind_proxy", "true".to_owned()));
        setup.texts.push(("trusted_proxies", "[\"127.0.0.1\"]".to_owned()));
        setup.texts.push(("hosts", "[\"127.0.0.1\"]".to_owned()));
        setup.listen = Some(((address, places.port).into(), (address, places.operator_port).into()));
        nodes.push(TaskFlow::start_in(bench, setup, &format!("taskflow-{name}")).await?);
    }
    let proxies = bench.subjects(&proxy::NAMES, 0);
    for name in &proxies {
        for _ in 0..bench.rounds(1) {
            bench.quiet().await;
            update(bench, record, name, &mut nodes, places, &size).await?;
        }
    }
    report(record, &proxies);
    Ok(())
}

/// One rolling update behind one proxy.
async fn update(
    bench: &mut Bench,
    record: &mut Record,
    name: &str,
    nodes: &mut [TaskFlow],
    places: Nodes,
    size: &Size,
) -> Result<()> {
    meet(&nodes.iter().collect::<Vec<_>>(), 3.0).await?;
    let proxy = Proxy::start(bench, name, places).await?;
    let users = nodes[0].users(bench, size.connections / SCREENS)?;
    let ramp = size.connections as f64 / size.clients_a_second;
    // The third that leaves first, and then twice the half.
    let leaving = size.connections as f64 * 4.0 / 3.0 / size.clients_a_second;
    let arguments = [
        ("connections", size.connections as f64),
        ("rate", size.changes_a_second * ACTS_A_CHANGE),
        ("ramp", ramp),
        ("seconds", (leaving * 1.3 + 70.0).ceil()),
    ];
    let watch = Watch::begin(&[]);
    let mut load = Load::start(bench, "rolling", proxy.address, &users, &arguments)?;
    load.has_begun().await?;
    tokio::time::sleep(CALM).await;
    let mut all = Vec::new();
    for number in 0..nodes.len() {
        all.push(replace(bench, &mut nodes[number]).await?);
        meet(&nodes.iter().collect::<Vec<_>>(), 3.0).await?;
        everyone_is_back(nodes, size.connections).await?;
        tokio::time::sleep(CALM).await;
    }
    if !load.is_running()? {
        bail!("the update took longer than the load: {:.0} s", now() - all[0].asked);
    }
    let outcome = load.outcome().await?;
    drop(proxy);
    record
        .rounds
        .push(round(name, Round::new(name, watch.end()), &outcome, &all, size));
    note(record, name, &outcome);
    Ok(())
}

/// SIGTERM, and starts it again when it has ended.
async fn replace(bench: &mut Bench, node: &mut TaskFlow) -> Result<Replaced> {
    let connections = node.metric("taskflow_connections").await?.context("connections")?;
    node.process.ask_to_stop();
    let asked = now();
    let status = loop {
        if let Some(status) = node.process.ended()? {
            break status;
        }
        if now() > asked + 2.0 * DRAIN_SECONDS_MAX as f64 {
            bail!("a node that was told to stop has not ended");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let ended = now();
    node.start_again(bench)?;
    node.wait_until_ready().await?;
    Ok(Replaced {
        asked,
        ended,
        ready: now(),
        code: status.code(),
        connections,
    })
}

async fn everyone_is_back(nodes: &[TaskFlow], connections: usize) -> Result<()> {
    let deadline = clock::now_ns() + 60_000_000_000;
    loop {
        let mut sum = 0.0;
        for node in nodes {
            sum += node.metric("taskflow_connections").await?.unwrap_or_default();
        }
        if sum >= connections as f64 {
            return Ok(());
        }
        if clock::now_ns() > deadline {
            bail!("{sum} of {connections} clients are back after a minute");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn round(name: &str, round: Round, outcome: &Outcome, replaced: &[Replaced], size: &Size) -> Round {
    let tally = &outcome.tally;
    let count = |count| tally.count(count) as f64;
    let wrong = [
        Count::Lost,
        Count::Doubled,
        Count::Disordered,
        Count::Gone,
        Count::Refused,
        Count::Unanswered,
    ];
    let of_each = |value: &dyn Fn(&Replaced) -> f64| replaced.iter().map(value).collect::<Vec<f64>>();
    let during = |node: &Replaced| seconds_between(outcome, node.asked, node.ended + AFTERMATH_SECONDS);
    let rates = of_each(&|node| steady_rate(&counts(during(node), Count::Reconnects)));
    let off = rates
        .iter()
        .map(|rate| (rate / size.clients_a_second - 1.0).abs() * 100.0);
    let calm = seconds_between(outcome, outcome.began, replaced[0].asked);
    let drains = || replaced.iter().flat_map(during);
    let drain_s = of_each(&|node| node.ended - node.asked);
    // What a drain takes if everyone goes at the rate and at once.
    let beyond = replaced
        .iter()
        .zip(&drain_s)
        .map(|(node, took)| took - DRAIN_WAIT_SECONDS as f64 - node.connections / size.clients_a_second);
    let ready_s = of_each(&|node| node.ready - node.ended);
    let quantile = |seconds: Vec<&Second>, timed, share| {
        Recorded::quantile_of_seconds_ms(seconds.into_iter(), timed, share).unwrap_or(f64::NAN)
    };
    let all = &tally.seconds;
    let series = |of: Count| {
        counts(all, of)
            .into_iter()
            .map(|number| number as f64)
            .collect::<Vec<_>>()
    };
    let p99s: Vec<f64> = all
        .iter()
        .map(|second| quantile(vec![second], Timed::Push, 0.99))
        .map(|p99| if p99.is_nan() { 0.0 } else { p99 })
        .collect();
    println!(
        "  {name}: {} connections each, drains of {} s",
        list(&of_each(&|node| node.connections)),
        list(&drain_s)
    );
    round
        .figure("lost_or_doubled", wrong.map(count).iter().sum())
        .figure("failed", count(Count::Failed) + count(Count::Limited))
        .figure("unconnected", count(Count::Unconnected))
        .figure("sent_again", count(Count::Retried))
        .figure("changes", count(Count::Acknowledged))
        .figure("reconnects", count(Count::Reconnects))
        .figure("rate_off_percent", off.fold(f64::NAN, f64::max))
        .figure(
            "bad_exits",
            replaced.iter().filter(|node| node.code != Some(0)).count() as f64,
        )
        .figure("drain_beyond_s", beyond.fold(f64::NAN, f64::max))
        .figure("drain_max_s", drain_s.iter().copied().fold(f64::NAN, f64::max))
        .figure("ready_max_s", ready_s.iter().copied().fold(f64::NAN, f64::max))
        .figure("push_calm_p99_ms", quantile(calm.iter().collect(), Timed::Push, 0.99))
        .figure("push_p50_ms", quantile(drains().collect(), Timed::Push, 0.5))
        .figure("push_p99_ms", quantile(drains().collect(), Timed::Push, 0.99))
        .figure("reconnect_p99_ms", quantile(drains().collect(), Timed::Reconnect, 0.99))
        .figure("late_p99_ms", quantile(all.iter().collect(), Timed::Late, 0.99))
        .samples("reconnects_a_second", &rates)
        .samples("connections", &of_each(&|node| node.connections))
        .samples("drain_s", &drain_s)
        .samples("ready_s", &ready_s)
        .samples("asked_at_s", &of_each(&|node| node.asked - outcome.began))
        .samples("reconnects_in_each_second", &series(Count::Reconnects))
        .samples("failed_in_each_second", &series(Count::Failed))
        .samples("unconnected_in_each_second", &series(Count::Unconnected))
        .samples("push_p99_in_each_second_ms", &p99s)
}

fn counts(seconds: &[Second], count: Count) -> Vec<u64> {
    seconds.iter().map(|second| second.count(count)).collect()
}

fn list(values: &[f64]) -> String {
    let values: Vec<_> = values.iter().map(|value| format!("{value:.0}")).collect();
    values.join(", ")
}

/// What the clients said that went wrong.
fn note(record: &mut Record, name: &str, outcome: &Outcome) {
    for (sentence, times) in &outcome.tally.errors {
        record.notes.push(format!("{name}, {times} times: {sentence}"));
    }
    for sentence in outcome.reasons.iter().chain(&outcome.unchecked) {
        record.notes.push(format!("{name}: {sentence}"));
    }
}

fn report(record: &mut Record, proxies: &[String]) {
    let mut measures = Vec::new();
    for name in proxies {
        let row = |what: &str, unit: &str, figure: &str| -> Measure {
            record.measure(&format!("{name}: {what}"), unit, Better::Less, name, figure)
        };
        measures.extend([
            row(
                "changes lost, doubled, out of order, gone or without an answer",
                "changes",
                "lost_or_doubled",
            )
            .asked(0.0, 0.0),
            row("requests that failed", "requests", "failed").asked(0.0, 0.0),
            row(
                "reconnects a second against the configured rate, the worst of three drains: off by",
                "%",
                "rate_off_percent",
            )
            .asked(10.0, 5.0),
            row("nodes that did not exit with 0", "nodes", "bad_exits").asked(0.0, 0.0),
            row("connections that were tried in vain", "tries", "unconnected"),
            row(
                "from SIGTERM to the end of the process, beyond the wait and the rate",
                "s",
                "drain_beyond_s",
            ),
            row(
                "p99 of a push, from when the change was due, before the update",
                "ms",
                "push_calm_p99_ms",
            ),
            row("the same during the drains, on screens that stay", "ms", "push_p99_ms"),
            row(
                "p99 of a reconnect, from when it was due until the screen is current",
                "ms",
                "reconnect_p99_ms",
            ),
            row("how late the client itself was, p99", "ms", "late_p99_ms"),
        ]);
    }
    record.measures = measures;
}
