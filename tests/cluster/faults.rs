//! One thing ends, and the others go on.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::proxy::{Proxy, Weather};
use crate::services::{Cassandra, Redis};
use crate::support::server::PASSWORD;
use crate::support::ws::task;
use crate::support::{Account, Client, ENCODINGS, Encoding, EventStream, Follower, Server, eventually, http, json};
use crate::{Nodes, clock};

/// Accepted in the end; how long that took.
pub fn accepted(node: &Server, account: &Account) -> Duration {
    let (begun, operation) = (Instant::now(), task("through"));
    loop {
        let outcome = node.submit(account, &operation);
        if outcome.get("accepted").is_some() {
            return begun.elapsed();
        }
        let error = outcome.get("unknown").or(outcome.get("refused")).expect("an error");
        assert!(error["retry_after_ms"].is_u64(), "{outcome}");
        assert!(begun.elapsed() < Duration::from_secs(40), "{outcome}");
    }
}

#[test]
fn when_a_node_is_killed_the_others_take_its_feeds() {
    let mut cluster = Nodes::start("killed", 3);
    // Many users: about a third of their feeds are hosted on the node that ends.
    let accounts: Vec<Account> = (0..12).map(|_| cluster.nodes[0].user()).collect();
    let mut followers: Vec<Follower> = accounts
        .iter()
        .map(|account| Follower::start(&cluster.nodes[1], Encoding::Json, account))
        .collect();
    for account in &accounts {
        accepted(&cluster.nodes[1], account);
    }
    cluster.nodes[2].kill();
    cluster.nodes.truncate(2);
    let slowest = accounts
        .iter()
        .map(|account| accepted(&cluster.nodes[0], account))
        .max()
        .unwrap();
    assert!(slowest < Duration::from_secs(20), "{slowest:?}");
    for follower in &mut followers {
        follower.until_seq(3);
    }
    cluster.meet();
}

#[test]
fn when_a_node_leaves_nobody_else_notices() {
    let mut cluster = Nodes::start("leaves", 3);
    let accounts: Vec<Account> = (0..9).map(|_| cluster.nodes[0].user()).collect();
    for account in &accounts {
        accepted(&cluster.nodes[0], account);
    }
    let leaving = cluster.nodes.pop().unwrap();
    leaving.signal(Signal::TERM);
    for round in 0..20 {
        for account in &accounts {
            let outcome = cluster.nodes[round % 2].submit(account, &task("on"));
            assert!(outcome.get("accepted").is_some(), "{outcome}");
        }
    }
    let mut leaving = leaving;
    assert!(leaving.exit_status().success());
    cluster.meet();
}

#[test]
fn a_node_that_leaves_answers_first_what_is_under_way() {
    let mut cluster = Nodes::start("answers", 1);
    let redis = SocketAddr::from(([127, 0, 0, 1], cluster.redis.port));
    let proxy = Proxy::to(redis);
    cluster.add(&[&format!("--redis=redis://{}", proxy.address)]);
    cluster.meet();
    let mut leaving = cluster.nodes.pop().unwrap();
    let accounts: Vec<Account> = (0..8).map(|_| cluster.nodes[0].user()).collect();
    let mut clients: Vec<Client> = accounts
        .iter()
        .zip(ENCODINGS.into_iter().cycle())
        .map(|(account, encoding)| Client::open(&leaving, encoding, account))
        .collect();
    for client in &mut clients {
        client.accept(&task("before")["command"]);
    }
    // What goes to the other node, where half of the feeds are, is under way until the network is whole again.
    proxy.set(Weather::NothingThere);
    let received = leaving.metric("taskflow_messages_received_total");
    let operations: Vec<Value> = clients.iter().map(|_| task("under way")).collect();
    for (client, operation) in clients.iter_mut().zip(&operations) {
        client.send_operations(std::slice::from_ref(operation));
    }
    let all = received + clients.len() as f64;
    leaving.wait_for_metric("taskflow_messages_received_total", |now| now >= all);
    leaving.wait_for_metric("taskflow_cluster_operations_waiting", |waiting| waiting > 0.0);
    // What waits for another node is no sign of overload here; half a second later the metric has been set anew.
    let ticks = "taskflow_thread_delay_duration_seconds_count{thread=\"feeds\"}";
    let before = leaving.metric(ticks);
    leaving.wait_for_metric(ticks, |now| now >= before + 5.0);
    assert_eq!(leaving.metric("taskflow_socket_operations"), 0.0);
    leaving.signal(Signal::TERM);
    eventually("it is about to leave", || {
        let ready = http::request(leaving.operator, "GET", "/health/ready", &[], b"");
        (ready.status == 503).then_some(())
    });
    proxy.set(Weather::Fair);
    for (client, operation) in clients.iter_mut().zip(&operations) {
        let outcome = client.outcome(operation["id"].as_str().unwrap());
        assert!(outcome.get("accepted").is_some(), "{outcome}");
        client.wait_for("reconnect");
    }
    assert!(leaving.exit_status().success());
}

#[test]
fn without_redis_every_node_works_and_shows_what_the_others_do() {
    let cluster = Nodes::start("alone", 2);
    let account = cluster.nodes[0].user();
    let mut followers: Vec<Follower> = cluster
        .nodes
        .iter()
        .zip(ENCODINGS)
        .map(|(node, encoding)| Follower::start(node, encoding, &account))
        .collect();
    accepted(&cluster.nodes[0], &account);
    for (signal, back) in [("-KILL", false), ("-STOP", true)] {
        cluster.redis.signal(0, signal);
        for node in &cluster.nodes {
            node.wait_for_metric("taskflow_bus_up", |up| up == 0.0);
            let ready = http::request(node.operator, "GET", "/health/ready", &[], b"");
            assert_eq!((ready.status, &ready.json()["status"]), (200, &json!("degraded")));
        }
        let before = followers[0].replica.position;
        for (number, node) in (1..).zip(&cluster.nodes) {
            accepted(node, &account);
            let last = before + number;
            for follower in &mut followers {
                follower.until(|replica| replica.position >= last);
            }
        }
        if back {
            cluster.redis.signal(0, "-CONT");
        } else {
            cluster.redis.up();
        }
        for node in &cluster.nodes {
            node.wait_for_metric("taskflow_bus_up", |up| up == 1.0);
        }
        cluster.meet();
        accepted(&cluster.nodes[1], &account);
    }
}

#[test]
fn where_neither_redis_nor_the_database_answers_screens_are_told_that_they_may_be_old() {
    // A database that may be stopped.
    let cassandra = Box::leak(Box::new(Cassandra::start(1)));
    let mut cluster = Nodes::on(cassandra, Redis::start("standalone"), "stale", 0);
    // None comes in turn, while this lasts.
    cluster.add(&["--heartbeat-ms=600000"]);
    let node = &cluster.nodes[0];
    let account = node.user();
    let mut clients: Vec<Client> = ENCODINGS
        .into_iter()
        .map(|encoding| {
            let mut client = Client::connect(node, encoding);
            client.hello(&account, &json!([{}]));
            client.wait_for("snapshot");
            client
        })
        .collect();
    let stream = |headers: &[&str]| EventStream::open(node.address, "/api/v1/events", headers).expect("a stream");
    let cursor = stream(&[&account.bearer()]).wait_for("snapshot").id.expect("a cursor");
    // One that has nothing to read is live when it answers.
    let mut events = stream(&[&account.bearer(), &format!("last-event-id: {cursor}")]);
    cluster.cassandra.signal(1, "-STOP");
    cluster.redis.signal(0, "-STOP");
    assert!(events.wait_for("heartbeat").data["stale_since"].is_u64());
    for client in &mut clients {
        let beat = client.wait_for("heartbeat");
        assert!(beat["stale_since"].is_u64(), "{beat}");
    }
    assert_eq!(node.metric("taskflow_stale"), 1.0);
    // So does who comes meanwhile.
    let mut late = Client::open(node, Encoding::Json, &account);
    assert!(late.wait_for("heartbeat")["stale_since"].is_u64());
    late.send_operations(&[task("waits")]);
    for queue in [
        "taskflow_feed_operations_waiting",
        "taskflow_feed_operations_waiting_max",
    ] {
        node.wait_for_metric(queue, |waiting| waiting == 1.0);
    }
    node.wait_for_metric("taskflow_cql_requests_running", |running| running > 0.0);
    // That Redis is back says nothing of what was missed.
    cluster.redis.signal(0, "-CONT");
    node.wait_for_metric("taskflow_bus_up", |up| up == 1.0);
    assert_eq!(node.metric("taskflow_stale"), 1.0);
    cluster.cassandra.signal(1, "-CONT");
    for client in clients.iter_mut().chain([&mut late]) {
        assert_eq!(client.wait_for("heartbeat"), json!({}));
    }
    assert_eq!(events.wait_for("heartbeat").data, json!({}));
    node.wait_for_metric("taskflow_stale", |stale| stale == 0.0);
    node.wait_for_metric("taskflow_feed_operations_waiting", |waiting| waiting == 0.0);
}

#[test]
fn clocks_ten_minutes_apart_are_named_and_change_nothing() {
    let mut cluster = Nodes::start("clocks", 1);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    for seconds in [-600, 600] {
        cluster.add_as(&clock::ahead(seconds), [any, any], &[]);
    }
    cluster.meet();
    for (node, seconds) in cluster.nodes.iter().zip([0.0, -600.0, 600.0]) {
        node.wait_for_metric("taskflow_clock_ahead_seconds", |ahead: f64| {
            (ahead - seconds).abs() < 5.0
        });
    }
    for node in &cluster.nodes[1..] {
        node.log.wait(|line| {
            line.contains("this node's clock and that of Redis differ")
                .then_some(())
        });
    }
    assert!(!cluster.nodes[0].log.text().contains("differ"));
    // Whichever node hosts them: the feeds of some users are on each.
    for _ in 0..9 {
        let account = cluster.nodes[0].register();
        // Access tokens are good for minutes, by the clock of the node that made them.
        let on_each: Vec<Account> = cluster.nodes.iter().map(|node| signed_in(node, &account)).collect();
        let stale = cluster.nodes[1].get("/api/v1/snapshot", &on_each[2]);
        assert_eq!((stale.status, &stale.json()["name"]), (401, &json!("token_expired")));
        let mut follower = Follower::start(&cluster.nodes[2], Encoding::Json, &on_each[2]);
        for (node, account) in cluster.nodes.iter().zip(&on_each).cycle().take(6) {
            let outcome = node.submit(account, &task("at some time"));
            assert!(outcome.get("accepted").is_some(), "{outcome}");
        }
        follower.until_seq(7);
        let entries = &follower.replica.entries;
        assert!(entries.is_sorted_by_key(|entry| entry["time"].as_u64()), "{entries:?}");
    }
}

/// The same account with a token of this node.
pub fn signed_in(node: &Server, account: &Account) -> Account {
    let body = json!({ "email": account.email, "password": PASSWORD });
    let response = http::post(node.address, "/api/v1/auth/login", &[], &body);
    assert_eq!(response.status, 200, "{response:?}");
    Account::of(&response, account.email.clone())
}
