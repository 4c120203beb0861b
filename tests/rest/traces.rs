//! Traces, as a collector gets them, and what a collector that is not well costs.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::collector::{Collector, Does, Trace};
use crate::support::server::{DataDir, Program, binary, free_port};
use crate::support::ws::task;
use crate::support::{Client, ENCODINGS, Encoding, Follower, Server, Value, eventually, http, id, json, unique};

/// What a client that traces sends: its trace, and the header.
fn traced(flags: &str) -> (String, String) {
    let trace = format!("{:032x}", 0x5eed_0000_0000 + u128::from(unique()));
    let header = format!("00-{trace}-00f067aa0ba902b7-{flags}");
    (trace, header)
}

/// That each step is under the one that it should be under, and within its time.
fn is_under(trace: &Trace, name: &str, parent: &str) {
    let (span, parent) = (trace.one(name), trace.one(parent));
    assert_eq!(span.parent, parent.id, "{name} in {trace:#?}");
    assert!(span.began_ns >= parent.began_ns, "{name} in {trace:#?}");
}

#[test]
fn a_change_by_rest_is_one_trace_from_the_request_to_the_append_and_the_screens() {
    let collector = Collector::start(Does::Take);
    let server = Server::start(&[&collector.flag(), "--trace-sample-ratio=0", "--node-name=here"]);
    let account = server.user();
    let mut follower = Follower::start(&server, Encoding::Json, &account);
    let (id, header) = traced("01");
    let made = server.send(
        "POST",
        "/api/v1/tasks",
        &account,
        &[&format!("traceparent: {header}"), "tracestate: vendor=1"],
        &json!({ "title": "a secret title" }),
    );
    assert_eq!(made.status, 201, "{made:?}");
    assert!(made.header("traceparent").is_none() && made.header("tracestate").is_none());
    follower.until_seq(2);
    let trace = collector.trace(&id, &["POST /api/v1/tasks", "feed", "store append", "push"]);
    let request = trace.one("POST /api/v1/tasks");
    assert_eq!((request.parent.as_str(), request.kind), ("00f067aa0ba902b7", 2));
    assert_eq!(request.fact("http.request.method"), "POST");
    assert_eq!(request.fact("http.route"), "/api/v1/tasks");
    assert_eq!(request.fact("http.response.status_code"), "201");
    is_under(&trace, "feed", "POST /api/v1/tasks");
    is_under(&trace, "store append", "feed");
    is_under(&trace, "push", "feed");
    let (feed, append, push) = (trace.one("feed"), trace.one("store append"), trace.one("push"));
    assert!(append.ended_ns <= push.began_ns, "what is pushed is durable");
    assert!(append.ended_ns <= feed.ended_ns && feed.ended_ns <= request.ended_ns);
    assert_eq!(
        (feed.fact("user.id"), feed.fact("feed.seq")),
        (account.user.as_str(), "2")
    );
    assert_eq!(feed.fact("taskflow.outcome"), "accepted");
    assert_eq!(append.fact("taskflow.outcome"), "durable");
    assert_eq!((push.fact("feed.seq"), push.fact("taskflow.pushes")), ("2", "1"));
    for span in &trace.0 {
        assert_eq!((span.node.as_str(), span.status), ("here", 0), "{span:?}");
        assert!(span.began_ns <= span.ended_ns, "{span:?}");
    }
    // Nothing else was asked to be traced, and what was says nothing of what the user wrote.
    assert!(collector.spans().iter().all(|span| span.trace == id));
    let sent = collector.text();
    for secret in ["a secret title", &account.token, "vendor"] {
        assert!(!sent.contains(secret), "{secret} in {sent}");
    }
    server.wait_for_metric("taskflow_spans_total{outcome=\"sent\"}", |sent| sent >= 4.0);
}

#[test]
fn operations_on_a_socket_are_traced_under_what_their_client_says() {
    let collector = Collector::start(Does::Take);
    let server = Server::start(&[&collector.flag(), "--trace-sample-ratio=0"]);
    for encoding in ENCODINGS {
        let account = server.user();
        let mut client = Client::connect(&server, encoding);
        assert_eq!(client.hello(&account, &json!([{}]))["traces"], true);
        // What is committed before it is live comes from the log, and is no push.
        client.wait_for("snapshot");
        let mut send = |operation: &Value, traceparent: &str| {
            let message = json!({ "operations": { "operations": [operation], "traceparent": traceparent } });
            client.send(&message);
            client.outcome(operation["id"].as_str().expect("an id"))
        };
        let (id, header) = traced("01");
        assert_eq!(send(&task("one"), &header)["accepted"]["seq"], 2);
        let trace = collector.trace(&id, &["socket operations", "feed", "store append", "push"]);
        assert_eq!(trace.one("socket operations").parent, "00f067aa0ba902b7");
        is_under(&trace, "feed", "socket operations");
        is_under(&trace, "store append", "feed");
        is_under(&trace, "push", "feed");
        // What is refused is a trace, too.
        let (id, header) = traced("01");
        let outcome = send(&task(""), &header);
        assert_eq!(outcome["refused"]["name"], "value_invalid", "{outcome}");
        let trace = collector.trace(&id, &["socket operations", "feed"]);
        let request = trace.one("socket operations");
        assert_eq!(request.fact("taskflow.outcome"), "refused");
        assert_eq!((request.fact("taskflow.code"), request.status), ("value_invalid", 0));
        // What is no traceparent takes nothing away from the operations.
        for wrong in ["", "00-1-2-01", &header.to_uppercase(), &traced("00").1] {
            assert!(send(&task("two"), wrong).get("accepted").is_some(), "{wrong}");
        }
    }
    assert_eq!(
        collector
            .spans()
            .iter()
            .filter(|span| span.name == "socket operations")
            .count(),
        4
    );
}

#[test]
fn who_says_nothing_is_traced_by_the_ratio_and_who_says_no_is_not() {
    let collector = Collector::start(Does::Take);
    let server = Server::start(&[&collector.flag(), "--trace-sample-ratio=1"]);
    let account = server.user();
    let path = format!("/api/v1/tasks/{}", id());
    let get = |headers: &[&str]| server.send("GET", &path, &account, headers, &Value::Null);
    let (no, unsampled) = traced("00");
    assert_eq!(get(&[&format!("traceparent: {unsampled}")]).status, 404);
    // Of two, nobody knows which is meant; a new trace is begun, as where there is none.
    let (asked, sampled) = traced("01");
    let twice = format!("traceparent: {sampled}");
    assert_eq!(get(&[&twice, &twice]).status, 404);
    let found = eventually("the trace of who said nothing", || {
        let spans = collector.spans();
        spans.into_iter().find(|span| span.name == "GET /api/v1/tasks/{id}")
    });
    assert_eq!(found.parent, "");
    assert_eq!(
        (found.fact("http.response.status_code"), found.fact("taskflow.code")),
        ("404", "row_not_found")
    );
    assert!(
        collector
            .spans()
            .iter()
            .all(|span| span.trace != no && span.trace != asked)
    );
}

#[test]
fn strangers_cannot_have_themselves_traced_and_users_only_so_many_a_second() {
    let collector = Collector::start(Does::Take);
    let server = Server::start(&[&collector.flag(), "--trace-sample-ratio=0"]);
    let account = server.user();
    let (stranger, header) = traced("01");
    let header = format!("traceparent: {header}");
    let path = "/api/v1/lists";
    let refused = http::request(server.address, "GET", path, &[&header, "authorization: Bearer no"], b"");
    assert_eq!(refused.status, 401);
    let (begun, mut connection) = (Instant::now(), http::Connection::open(server.address));
    for _ in 0..400 {
        let header = format!("traceparent: {}", traced("01").1);
        connection.send(
            "GET",
            path,
            &["connection: keep-alive", &account.bearer(), &header],
            b"",
        );
        assert_eq!(connection.response().status, 200);
    }
    let mut client = Client::open(&server, Encoding::MsgPack, &account);
    for _ in 0..100 {
        let operation = task("traced");
        client.send(&json!({ "operations": { "operations": [operation], "traceparent": traced("01").1 } }));
        client.outcome(operation["id"].as_str().expect("an id"));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let count = || {
        collector
            .spans()
            .iter()
            .map(|span| span.trace.clone())
            .collect::<BTreeSet<_>>()
    };
    eventually("as many traces as may be", || (count().len() >= 20).then_some(()));
    let mut server = server;
    assert_eq!(server.stop().code(), Some(0));
    let traces = count();
    assert!(
        traces.len() as f64 <= 20.0 + 20.0 * seconds.ceil(),
        "{} in {seconds} s",
        traces.len()
    );
    assert!(!traces.contains(&stranger));
}

#[test]
fn where_traces_are_off_nobody_is_connected_to_and_nothing_is_told() {
    let collector = Collector::start(Does::Take);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let program = Program {
        // What other programs are told by.
        environment: vec![("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", collector.address))],
        ..Program::default()
    };
    let server = Server::try_start_as(&program, DataDir::temporary(), any, any, &["--trace-sample-ratio=1"]);
    let mut server = server.expect("it starts");
    let account = server.user();
    let mut client = Client::connect(&server, Encoding::Json);
    assert_eq!(client.hello(&account, &json!([])).get("traces"), None);
    // A client that does not ask is not refused.
    let message = json!({ "operations": { "operations": [task("one")], "traceparent": traced("01").1 } });
    client.send(&message);
    client.wait_for("results");
    assert_eq!(server.metric("taskflow_spans_total"), 0.0);
    assert_eq!(server.stop().code(), Some(0));
    assert_eq!(collector.connections(), 0);
}

/// So many requests that are traced; none of them may wait for the collector.
fn many(server: &Server, count: usize) {
    let mut connection = http::Connection::open(server.address);
    for _ in 0..count {
        connection.send("GET", "/.well-known/jwks.json", &["connection: keep-alive"], b"");
        assert_eq!(connection.response().status, 200);
    }
}

#[test]
fn a_collector_that_hangs_costs_spans_and_nothing_else() {
    let collector = Collector::start(Does::Hang);
    let mut server = Server::start(&[&collector.flag(), "--trace-sample-ratio=1", "--drain-seconds-max=5"]);
    let account = server.user();
    eventually("the collector is asked", || (collector.connections() > 0).then_some(()));
    // Until there are more than the queue and a request hold.
    server.wait_for_metric("taskflow_spans_total{outcome=\"queue_full\"}", |full| {
        many(&server, 500);
        full > 0.0
    });
    // But for what a request has taken since.
    let waiting = server.metric("taskflow_spans_waiting");
    assert!((3_000.0..=4_096.0).contains(&waiting), "{waiting}");
    let made = server.post("/api/v1/tasks", &account, &json!({ "title": "all the same" }));
    assert_eq!(made.status, 201, "{made:?}");
    let begun = Instant::now();
    assert_eq!(server.stop().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn a_collector_that_comes_late_gets_what_is_traced_from_then_on() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let endpoint = format!("--otlp-endpoint=http://{address}/");
    let server = Server::start(&[&endpoint, "--trace-sample-ratio=1"]);
    many(&server, 3);
    server.wait_for_metric("taskflow_spans_total{outcome=\"failed\"}", |failed| failed >= 3.0);
    let warned = |log: &str| log.matches("the collector at otlp_endpoint takes no traces").count();
    // The line comes through a pipe, the metric does not.
    eventually("the operator is warned", || {
        (warned(&server.log.text()) > 0).then_some(())
    });
    assert_eq!(warned(&server.log.text()), 1, "once");
    let collector = Collector::start_at(address, Does::Take);
    eventually("spans come", || {
        many(&server, 1);
        (!collector.spans().is_empty()).then_some(())
    });
    server.wait_for_metric("taskflow_spans_waiting", |waiting| waiting == 0.0);
    eventually("the operator is told", || {
        server
            .log
            .text()
            .contains("the collector takes traces again")
            .then_some(())
    });
    // One that says that it cannot, or that others should be asked, is as good as none.
    for status in ["503 Service Unavailable", "307 Temporary Redirect"] {
        collector.now_does(Does::Answer(status));
        let failed = server.metric("taskflow_spans_total{outcome=\"failed\"}");
        server.wait_for_metric("taskflow_spans_total{outcome=\"failed\"}", |now| {
            many(&server, 1);
            now > failed
        });
    }
}

#[test]
fn what_was_traced_last_is_sent_before_the_server_ends() {
    let collector = Collector::start(Does::Take);
    let mut server = Server::start(&[&collector.flag(), "--trace-sample-ratio=0"]);
    let account = server.user();
    let (id, header) = traced("01");
    let header = format!("traceparent: {header}");
    let body = json!({ "title": "last" });
    assert_eq!(
        server.send("POST", "/api/v1/tasks", &account, &[&header], &body).status,
        201
    );
    assert_eq!(server.stop().code(), Some(0));
    let names: BTreeSet<_> = collector
        .spans()
        .into_iter()
        .filter(|span| span.trace == id)
        .map(|span| span.name)
        .collect();
    assert!(
        names.contains("POST /api/v1/tasks") && names.contains("store append"),
        "{names:?}"
    );
}

#[test]
fn the_ratio_is_changed_without_a_restart() {
    let collector = Collector::start(Does::Take);
    let data = DataDir::temporary();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.toml");
    let ratio = |ratio: &str| std::fs::write(&file, format!("trace_sample_ratio = {ratio}\n")).unwrap();
    ratio("0");
    let mut command = binary();
    command
        .args(["serve", "--listen=127.0.0.1:0", "--operator-listen=127.0.0.1:0"])
        .arg(format!("--config={}", file.display()))
        .arg(format!("--data-dir={}", data.path().display()))
        .arg(collector.flag());
    let server = Server::spawn(command, data, &[]).unwrap_or_else(|(_, log)| panic!("{log}"));
    many(&server, 50);
    assert_eq!(server.metric("taskflow_spans_total"), 0.0);
    ratio("1.0");
    server.signal(Signal::HUP);
    eventually("requests are traced", || {
        many(&server, 1);
        (!collector.spans().is_empty()).then_some(())
    });
}
