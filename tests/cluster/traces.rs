//! A change in a cluster, as one trace.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::json;

use crate::Nodes;
use crate::rolling::old;
use crate::support::collector::{Collector, Does};
use crate::support::{ENCODINGS, Follower, eventually};

#[test]
fn a_change_that_another_node_hosts_is_one_trace_to_the_screens_of_both() {
    let collector = Collector::start(Does::Take);
    let mut cluster = Nodes::start("traces", 0);
    for _ in 0..2 {
        cluster.add(&[&collector.flag(), "--trace-sample-ratio=0"]);
    }
    cluster.meet();
    let account = cluster.nodes[0].user();
    let mut followers: Vec<_> = cluster
        .nodes
        .iter()
        .zip(ENCODINGS)
        .map(|(node, encoding)| Follower::start(node, encoding, &account))
        .collect();
    // One of them hosts the feed: what the other takes goes over the bus.
    let mut forwarded = 0;
    for (number, node) in cluster.nodes.iter().enumerate() {
        let id = format!("{:032x}", 0xc0ffee + number);
        let header = format!("traceparent: 00-{id}-00f067aa0ba902b7-01");
        let made = node.send("POST", "/api/v1/tasks", &account, &[&header], &json!({ "title": "t" }));
        assert_eq!(made.status, 201, "{made:?}");
        for follower in &mut followers {
            follower.until_seq(2 + number as u64);
        }
        let is_pushed_at = |node: &str| {
            let spans = collector.spans().into_iter();
            let mut pushes = spans.filter(|span| span.trace == id && span.name == "push");
            pushes.any(|span| span.node == node).then_some(())
        };
        for node in ["node-0", "node-1"] {
            eventually(&format!("{id} is pushed at {node}"), || is_pushed_at(node));
        }
        let trace = collector.trace(&id, &["POST /api/v1/tasks", "feed", "store append"]);
        let (request, feed) = (trace.one("POST /api/v1/tasks"), trace.one("feed"));
        let (here, there) = (format!("node-{number}"), format!("node-{}", 1 - number));
        assert_eq!(request.node, here);
        let pushes = trace.0.iter().filter(|span| span.name == "push");
        assert!(pushes.clone().all(|push| push.parent == feed.id), "{trace:#?}");
        assert_eq!(
            pushes.map(|push| &push.node).collect::<BTreeSet<_>>(),
            [&here, &there].into_iter().collect::<BTreeSet<_>>()
        );
        assert_eq!(trace.one("store append").parent, feed.id);
        if feed.node == here {
            assert_eq!(feed.parent, request.id);
            continue;
        }
        forwarded += 1;
        let (sent, done) = (trace.one("bus request"), trace.one("bus perform"));
        assert_eq!((&sent.parent, &sent.node, sent.kind), (&request.id, &here, 3));
        assert_eq!((&done.parent, &done.node, done.kind), (&sent.id, &there, 2));
        assert_eq!((&feed.parent, &feed.node), (&done.id, &there));
        assert_eq!(
            (sent.fact("taskflow.outcome"), done.fact("taskflow.attempt")),
            ("accepted", "1")
        );
    }
    assert_eq!(forwarded, 1);
}

/// While a cluster is updated to a build that traces, or back from it.
#[test]
fn nodes_of_the_version_before_take_and_show_what_is_traced() {
    let collector = Collector::start(Does::Take);
    let mut cluster = Nodes::start("traced", 0);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    cluster.add_as(&old(), [any, any], &[]);
    cluster.add(&[&collector.flag(), "--trace-sample-ratio=1"]);
    cluster.meet();
    // Some are hosted here, some there.
    for _ in 0..8 {
        let account = cluster.nodes[0].user();
        let follow = |(node, encoding)| Follower::start(node, encoding, &account);
        let mut followers: Vec<_> = cluster.nodes.iter().zip(ENCODINGS).map(follow).collect();
        for (seq, node) in (2..).zip([&cluster.nodes[1], &cluster.nodes[0]]) {
            let made = node.post("/api/v1/tasks", &account, &json!({ "title": "t" }));
            assert_eq!(made.status, 201, "{made:?}");
            for follower in &mut followers {
                follower.until_seq(seq);
            }
        }
    }
    assert_eq!(cluster.sum("taskflow_cluster_garbled_total"), 0.0);
    for name in ["bus request", "push"] {
        eventually(name, || {
            collector.spans().iter().any(|span| span.name == name).then_some(())
        });
    }
}
