//! Nodes that are well: what one takes, all show.

use serde_json::json;

use crate::Nodes;
use crate::support::ws::task;
use crate::support::{ENCODINGS, Follower, Replica, eventually, http, id};

#[test]
fn what_one_node_takes_is_on_the_screens_of_all_once_and_in_order() {
    let cluster = Nodes::start("together", 3);
    let account = cluster.nodes[0].user();
    let mut followers: Vec<Follower> = cluster
        .nodes
        .iter()
        .zip(ENCODINGS.iter().cycle())
        .map(|(node, encoding)| Follower::start(node, *encoding, &account))
        .collect();
    let mut seqs = Vec::new();
    for round in 0..10 {
        for node in &cluster.nodes {
            let outcome = node.submit(&account, &task(&format!("round {round}")));
            seqs.push(
                outcome["accepted"]["seq"]
                    .as_u64()
                    .unwrap_or_else(|| panic!("{outcome}")),
            );
        }
    }
    assert_eq!(seqs, (2..=31).collect::<Vec<u64>>(), "one order, whoever is asked");
    let last = *seqs.last().unwrap();
    for follower in &mut followers {
        follower.until_seq(last);
        assert_eq!(follower.replica.rows, Replica::of(&cluster.nodes[1], &account).rows);
    }
    assert!(cluster.sum("taskflow_cluster_forwards_total") > 0.0);
    for node in &cluster.nodes {
        let ahead = node.metric("taskflow_clock_ahead_seconds");
        assert!(ahead.abs() < 1.0, "one machine has one clock: {ahead}");
    }
    // Each change went out once, and came in at each node with a follower, the host itself included.
    let (changes, received) = (30.0, cluster.sum("taskflow_bus_received_total"));
    let requests = cluster.sum("taskflow_cluster_forwards_total") * 2.0;
    assert!(
        received >= 3.0 * changes && received <= 3.0 * changes + requests + 20.0,
        "{received} messages for {changes} changes"
    );
}

#[test]
fn the_operators_page_of_each_node_shows_all_of_them() {
    let mut cluster = Nodes::start("shown", 2);
    cluster.add(&["--roles=gateway"]);
    cluster.meet();
    for (number, node) in cluster.nodes.iter().enumerate() {
        let shown = http::request(node.operator, "GET", "/status", &[], b"").json();
        assert_eq!(shown["node"], format!("node-{number}"));
        let nodes = shown["nodes"].as_array().unwrap();
        let names: Vec<_> = nodes.iter().map(|node| node["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["node-0", "node-1", "node-2"], "{shown}");
        let mut shares = 0.0;
        for node in nodes {
            assert_eq!(node["is_this"], node["name"] == shown["node"], "{shown}");
            assert_eq!(node["leaving"], false);
            assert!(node["heard_ms_ago"].as_u64().unwrap() < 2_000, "{shown}");
            let (share, is_host) = (node["share"].as_f64().unwrap(), node["name"] != "node-2");
            assert_eq!(node["hosts_feeds"], is_host);
            assert_eq!(share > 0.3, is_host, "{shown}");
            shares += share;
        }
        assert_eq!(shares, 1.0, "{shown}");
        assert_eq!(node.metric("taskflow_bus_configured"), 1.0);
    }
}

#[test]
fn a_node_may_serve_clients_alone_and_another_host_feeds_alone() {
    let mut cluster = Nodes::start("roles", 0);
    cluster.add(&["--roles=gateway"]);
    cluster.add(&["--roles=feeds"]);
    cluster.meet();
    let account = cluster.nodes[0].user();
    let mut follower = Follower::start(&cluster.nodes[0], ENCODINGS[0], &account);
    for seq in 2..=6 {
        let outcome = cluster.nodes[0].submit(&account, &task("over there"));
        assert_eq!(outcome["accepted"]["seq"], seq, "{outcome}");
        follower.until_seq(seq);
    }
    assert!(cluster.nodes[1].metric("taskflow_cluster_requests_total") >= 5.0);
}

#[test]
fn whoever_writes_reads_it_at_once_on_every_node() {
    let cluster = Nodes::start("reads", 3);
    let account = cluster.nodes[0].user();
    for round in 0..15 {
        let (writer, reader) = (&cluster.nodes[round % 3], &cluster.nodes[(round + 1) % 3]);
        let title = format!("task {round}");
        let made = writer.post("/api/v1/tasks", &account, &json!({ "title": title }));
        assert_eq!(made.status, 201, "{made:?}");
        let task = made.json()["id"].as_str().unwrap().to_owned();
        let read = reader.get(&format!("/api/v1/tasks/{task}"), &account);
        assert_eq!(read.status, 200, "{read:?}");
        assert_eq!(read.json()["title"], title);
    }
}

#[test]
fn the_same_operation_sent_to_two_nodes_is_done_once() {
    let cluster = Nodes::start("once", 2);
    let account = cluster.nodes[0].user();
    let operation = task("once");
    let first = cluster.nodes[0].submit(&account, &operation);
    let again = cluster.nodes[1].submit(&account, &operation);
    assert_eq!(first, again);
    assert_eq!(Replica::of(&cluster.nodes[0], &account).position, 2);
}

#[test]
fn long_polls_and_event_streams_hear_of_changes_on_other_nodes() {
    let cluster = Nodes::start("polls", 2);
    let account = cluster.nodes[0].user();
    let cursor = Replica::of(&cluster.nodes[0], &account).cursor.unwrap();
    let path = format!("/api/v1/changes?cursor={cursor}&wait=30");
    std::thread::scope(|scope| {
        let polls: Vec<_> = cluster
            .nodes
            .iter()
            .map(|node| scope.spawn(|| node.get(&path, &account)))
            .collect();
        for node in &cluster.nodes {
            // The channel of all nodes is always one of them.
            node.wait_for_metric("taskflow_bus_subscriptions", |channels| channels == 2.0);
        }
        cluster.nodes[0].submit(&account, &task("heard"));
        for poll in polls {
            let answer = poll.join().unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(
                answer.json()["entries"].as_array().map(Vec::len),
                Some(1),
                "{:?}",
                answer.json()
            );
        }
    });
}

#[test]
fn a_token_of_one_node_is_good_on_all_and_an_account_is_everywhere() {
    let cluster = Nodes::start("accounts", 2);
    let account = cluster.nodes[0].register();
    assert_eq!(cluster.nodes[1].get("/api/v1/tasks", &account).status, 200);
    let body = json!({ "email": account.email, "password": "a wrong password, long enough" });
    let wrong = crate::support::http::post(cluster.nodes[1].address, "/api/v1/auth/login", &[], &body);
    assert_eq!(wrong.status, 401, "{wrong:?}");
}

#[test]
fn two_clusters_that_share_a_redis_by_mistake_are_named_and_keep_apart() {
    let cluster = Nodes::start("mistake", 1);
    let accounts: Vec<_> = (0..8).map(|_| cluster.nodes[0].user()).collect();
    let other_keyspace = format!("--cql-keyspace=other{}", &id().replace('-', "")[..8]);
    let mut flags: Vec<String> = cluster.flags.clone();
    flags.retain(|flag| !flag.starts_with("--cql-keyspace"));
    flags.push(other_keyspace);
    let migrated = crate::binary().arg("migrate").args(&flags).output().unwrap();
    assert!(migrated.status.success(), "{migrated:?}");
    flags.push("--node-name=stranger".to_owned());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let stranger = crate::Server::start(&flags);
    for node in [&cluster.nodes[0], &stranger] {
        eventually("a clash in the log", || {
            let text = node.log.text();
            (text.contains("works on another store") && text.contains("cluster_name")).then_some(())
        });
    }
    // The stranger does not know these users: whatever it were asked it would refuse.
    for account in &accounts {
        let outcome = cluster.nodes[0].submit(account, &task("mine"));
        assert!(outcome.get("accepted").is_some(), "{outcome}");
    }
}

#[test]
fn two_nodes_of_one_name_are_named() {
    let mut cluster = Nodes::start("namesakes", 2);
    cluster.add(&["--node-name=node-1"]);
    for node in &cluster.nodes[1..] {
        eventually("a namesake in the log", || {
            let text = node.log.text();
            (text.contains("two nodes are called node-1") && text.contains("node_name")).then_some(())
        });
    }
    let account = cluster.nodes[0].user();
    let outcome = cluster.nodes[2].submit(&account, &task("all the same"));
    assert!(outcome.get("accepted").is_some(), "{outcome}");
}
