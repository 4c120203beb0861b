//! The operator's port: every figure that should move moves, and health means something.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

use crate::support::ws::{FIN, TEXT, masked, operation, task};
use taskflow::telemetry::log::FIELDS;

use crate::support::{Client, Encoding, EventStream, Follower, Raw, Replica, Server, eventually, http, id, json};

#[test]
fn every_figure_moves_with_what_it_counts() {
    let server = Server::start(&[
        "--heartbeat-ms=1000",
        "--feed-idle-seconds=1",
        "--sign-in-attempts-max=10",
        "--writes-a-second-max=50",
    ]);
    let metric = |name: &str| server.metric(&format!("taskflow_{name}"));
    let zero = [
        "connections",
        "pushes_total",
        "push_bytes_total",
        "messages_received_total",
        "queue_bytes",
        "feeds_running",
        "feed_starts_total",
        "feed_panics_total",
        "catch_ups_total",
        "snapshots_total",
        "operations_total{outcome=\"accepted\"}",
        "evictions_total{reason=\"protocol\"}",
    ];
    for name in zero {
        assert_eq!(metric(name), 0.0, "{name}");
    }
    let account = server.register();
    assert_eq!(metric("sign_ins_total{outcome=\"registered\"}"), 1.0);
    assert_eq!(metric("feed_starts_total"), 1.0);
    assert_eq!(metric("http_requests_total{route=\"auth\",class=\"2xx\"}"), 1.0);

    let mut follower = Follower::start(&server, Encoding::Json, &account);
    assert_eq!(metric("connections"), 1.0);
    assert_eq!(metric("handshakes_total{outcome=\"accepted\"}"), 1.0);
    assert_eq!(metric("handshake_duration_seconds_count"), 1.0);
    assert_eq!(metric("hello_duration_seconds_count{outcome=\"welcomed\"}"), 1.0);
    assert_eq!(metric("follow_duration_seconds_count{outcome=\"reset\"}"), 1.0);
    assert_eq!(metric("sessions"), 1.0);
    server.wait_for_metric("taskflow_session_events_waiting", |events| events == 0.0);
    // What became a WebSocket is no HTTP connection any more.
    server.wait_for_metric("taskflow_http_connections", |connections| connections == 0.0);
    assert_eq!(metric("snapshots_total"), 1.0);
    assert_eq!(metric("resets_total{reason=\"no_cursor\"}"), 1.0);

    let received = metric("messages_received_total");
    let seq = follower.client.accept(&task("counted")["command"]);
    follower.until_seq(seq);
    // Heartbeats are messages, too.
    assert!(metric("messages_received_total") > received);
    assert_eq!(metric("pushes_total"), 1.0);
    assert!(metric("push_bytes_total") > 300.0, "{}", metric("push_bytes_total"));
    assert_eq!(metric("operations_total{outcome=\"accepted\"}"), 1.0);
    assert_eq!(metric("operation_duration_seconds_count"), 1.0);
    assert!(metric("rates_counted") >= 1.0);
    assert_eq!(metric("push_duration_seconds_count"), 1.0);
    assert_eq!(metric("tasks_created_total"), 1.0);
    assert_eq!(metric("users_active_total"), 1.0, "born and changed on one day");
    assert_eq!(metric("feeds_running"), 1.0);
    assert_eq!(metric("feeds_followed"), 1.0);
    assert_eq!(metric("ready"), 1.0);
    assert!(metric("thread_delay_duration_seconds_count") > 0.0);
    assert!(metric("messages_received_total{kind=\"hello\"}") == 1.0);
    assert!(metric("messages_received_total{kind=\"operations\"}") == 1.0);
    assert!(metric("token_lookups_total{outcome=\"hit\"}") >= 1.0);
    assert!(metric("http_request_duration_seconds_count{route=\"auth\"}") >= 1.0);

    let version = format!("build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(metric(&version), 1.0);
    assert_eq!(metric("bus_configured"), 0.0);
    let files = ["taskflow.db", "taskflow.db-wal"].map(|name| server.data.path().join(name).metadata());
    let bytes: u64 = files.iter().flatten().map(std::fs::Metadata::len).sum();
    // It may have grown since.
    assert!(bytes > 0 && metric("store_bytes") >= bytes as f64);

    let mut stale = operation(&json!({ "settings_patch": { "week_start": "sunday" } }));
    stale["base"] = json!(99);
    follower.client.submit(&stale);
    assert_eq!(metric("operations_total{outcome=\"conflict\"}"), 1.0);
    follower
        .client
        .submit(&operation(&json!({ "task_complete": { "task": id() } })));
    assert_eq!(metric("operations_total{outcome=\"refused\"}"), 1.0);
    assert_eq!(metric("operation_refusals_total{fault=\"client\"}"), 1.0);
    assert_eq!(metric("operation_refusals_total{fault=\"server\"}"), 0.0);

    let born = format!("{}{:016x}", &follower.replica.cursor.as_ref().unwrap()[..16], 1);
    let old = Replica {
        position: 1,
        cursor: Some(born),
        ..follower.replica.clone()
    };
    Follower::resume(&server, Encoding::Json, &account, old);
    assert_eq!(metric("catch_ups_total"), 1.0);
    assert_eq!(metric("follow_duration_seconds_count{outcome=\"caught_up\"}"), 1.0);
    follower.client.send(&json!({ "follow": {} }));
    follower.client.send(&json!({ "follow": { "feed": id() } }));
    server.wait_for_metric(
        "taskflow_follow_duration_seconds_count{outcome=\"refused\"}",
        |refused| refused == 2.0,
    );
    let mut stranger = Client::over(Raw::connect(server.address), Encoding::Json);
    stranger.send(&json!({ "hello": { "protocol": { "min": 1, "max": 1 }, "token": "none" } }));
    stranger.ended();
    assert_eq!(metric("hello_duration_seconds_count{outcome=\"refused\"}"), 1.0);

    let refused = Raw::connect(server.address).upgrade(&["origin: https://evil.example"]);
    assert_eq!(refused.status, 403);
    assert_eq!(metric("handshakes_total{outcome=\"refused\"}"), 1.0);
    let mut broken = Client::open(&server, Encoding::Json, &account);
    broken.raw.send(&masked(FIN | 0x40 | TEXT, b""));
    broken.ended();
    assert_eq!(metric("evictions_total{reason=\"protocol\"}"), 1.0);
    let body = json!({ "email": account.email, "password": "not the password" });
    assert_eq!(http::post(server.address, "/api/v1/auth/login", &[], &body).status, 401);
    assert_eq!(metric("sign_ins_total{outcome=\"refused\"}"), 1.0);
    assert_eq!(metric("sign_in_attempts_counted"), 2.0, "the address and the account");
    assert!(metric("http_requests_total{route=\"auth\",class=\"4xx\"}") >= 1.0);

    let stream = EventStream::open(server.address, "/api/v1/events", &[&account.bearer()]).unwrap();
    server.wait_for_metric("taskflow_connections", |count| count == 2.0);
    assert_eq!(metric("http_connections"), 1.0);
    drop((stream, follower));
    server.wait_for_metric("taskflow_sessions", |sessions| sessions == 0.0);
    server.wait_for_metric("taskflow_feeds_running", |count| count == 0.0);
    server.wait_for_metric("taskflow_feed_stops_total", |count| count >= 1.0);
    // What only the store counts.
    assert!(metric("appends_total") >= 2.0);
    assert!(metric("fsyncs_total") >= 1.0);
    assert!(metric("append_duration_seconds_count") >= 2.0);
    assert!(metric("fsync_duration_seconds_count") >= 1.0);
    assert!(metric("store_bytes_free") > 0.0);
    assert_eq!(metric("store_errors_total"), 0.0);
}

#[test]
fn what_waits_for_a_client_that_does_not_read_is_shown() {
    // The queue must not be full before it is looked at.
    let server = Server::start(&["--outbound-bytes-max=536870912"]);
    let account = server.user();
    let mut author = Follower::start(&server, Encoding::Json, &account);
    let small = Client::over(Raw::connect_small(server.address), Encoding::Json);
    let slow = Follower::over(small, &account, Replica::default());
    crate::support::eventually("bytes that wait", || {
        author
            .client
            .accept(&json!({ "task_create": { "task": id(), "title": "t", "notes": "x".repeat(50_000) } }));
        let seq = author.replica.position + 1;
        author.until_seq(seq);
        (server.metric("taskflow_queue_bytes") > 100_000.0).then_some(())
    });
    drop(slow);
    server.wait_for_metric("taskflow_queue_bytes", |bytes| bytes == 0.0);
}

#[test]
fn health_is_on_the_operators_port_and_nothing_of_the_operators_on_the_other() {
    let server = Server::start(&[]);
    for path in ["/health/live", "/health/ready", "/health/startup"] {
        let answer = http::request(server.operator, "GET", path, &[], b"");
        assert_eq!(
            (answer.status, answer.json()),
            (200, json!({ "status": "ok" })),
            "{path}"
        );
    }
    for path in ["/metrics", "/health/live", "/health/ready"] {
        assert_eq!(
            http::request(server.address, "GET", path, &[], b"").status,
            404,
            "{path}"
        );
    }
    assert_eq!(
        http::request(server.operator, "GET", "/api/v1/tasks", &[], b"").status,
        404
    );
}

/// `taskflow health` for the server with this operator's port: whether it is ready, and what it says.
fn health_of(operator: SocketAddr) -> (bool, String) {
    let output = crate::support::server::binary()
        .arg("health")
        .arg(format!("--operator-listen={operator}"))
        // For other places than this machine.
        .env("http_proxy", "http://127.0.0.1:9")
        .output()
        .expect("the binary runs");
    let said = if output.status.success() {
        output.stdout
    } else {
        output.stderr
    };
    (output.status.success(), String::from_utf8(said).expect("UTF-8"))
}

#[test]
fn the_command_health_says_what_the_operators_port_says() {
    let mut server = Server::start(&[]);
    assert_eq!(health_of(server.operator), (true, "the server is ready\n".to_owned()));
    let everywhere = SocketAddr::from(([0, 0, 0, 0], server.operator.port()));
    assert_eq!(health_of(everywhere), (true, "the server is ready\n".to_owned()));
    server.kill();
    let (is_ready, said) = health_of(server.operator);
    let begins = format!("taskflow: no answer from {} (operator_listen): ", server.operator);
    assert!(!is_ready && said.starts_with(&begins), "{said}");

    let (any, wrong) = (
        SocketAddr::from(([127, 0, 0, 1], 0)),
        "operator_listen has port 0: only the server knows which one it took",
    );
    assert_eq!(health_of(any), (false, format!("taskflow: {wrong}\n")));
}

#[test]
fn the_command_health_fails_unless_the_answer_is_ready() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let answers = [
        (
            "503 Service Unavailable",
            r#"{"status":"unavailable","reason":"the disk is full"}"#,
        ),
        (
            "200 OK",
            r#"{"status":"degraded","reason":"Redis does not carry messages"}"#,
        ),
        ("404 Not Found", "nothing here"),
    ];
    std::thread::spawn(move || {
        for (status, body) in answers {
            let mut stream = listener.accept().expect("a connection").0;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a request");
                head.push(byte[0]);
            }
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).expect("it is read");
        }
    });
    let said = [(); 3].map(|()| health_of(address));
    let unknown = format!("taskflow: what listens on {address} (operator_listen) answers 404: is it TaskFlow?\n");
    assert_eq!(
        said[0],
        (
            false,
            "taskflow: the server is not ready: the disk is full\n".to_owned()
        )
    );
    assert_eq!(
        said[1],
        (
            true,
            "the server is ready, but: Redis does not carry messages\n".to_owned()
        )
    );
    assert_eq!(said[2], (false, unknown));
}

#[test]
fn no_metric_names_a_user_a_list_or_a_token() {
    let server = Server::start(&[]);
    let account = server.register();
    let mut follower = Follower::start(&server, Encoding::Json, &account);
    let list = id();
    follower
        .client
        .accept(&json!({ "list_create": { "list": list, "name": "a secret name" } }));
    let scrape = http::request(server.operator, "GET", "/metrics", &[], b"");
    let text = String::from_utf8(scrape.body).unwrap();
    for secret in [
        account.user.as_str(),
        &account.email,
        &list,
        "a secret name",
        &account.token,
        "127.0.0.1",
    ] {
        assert!(!text.contains(secret), "{secret}");
    }
    // Nor does the log, but for the user's id.
    let log = server.log.text();
    for secret in [
        account.email.as_str(),
        "a secret name",
        &account.token,
        &account.refresh,
    ] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

/// A label that could have any value would fill whoever scrapes.
#[test]
fn ten_thousand_users_have_as_many_series_as_a_thousand() {
    let server = Server::start(&["--feed-idle-seconds=1"]);
    let tokens = server.mint_many(10_000);
    let series = || {
        let scrape = http::request(server.operator, "GET", "/metrics", &[], b"");
        let text = String::from_utf8(scrape.body).expect("UTF-8");
        assert!(text.len() < 100_000, "{} bytes", text.len());
        text.lines().filter(|line| !line.starts_with('#')).count()
    };
    let come = |tokens: &[String]| {
        let mut connection = http::Connection::open(server.address);
        for token in tokens {
            let bearer = format!("connection: keep-alive\r\nauthorization: Bearer {token}");
            connection.send(
                "POST",
                "/api/v1/tasks",
                &[&bearer, "content-type: application/json"],
                br#"{"title":"one"}"#,
            );
            assert_eq!(connection.response().status, 201);
            connection.send("GET", &format!("/api/v1/nothing/{}", id()), &[&bearer], b"");
            assert_eq!(connection.response().status, 404);
        }
    };
    let before = series();
    come(&tokens[..1_000]);
    let of_a_thousand = series();
    std::thread::scope(|scope| {
        for tokens in tokens[1_000..].chunks(1_500) {
            scope.spawn(move || come(tokens));
        }
    });
    assert_eq!((before, of_a_thousand), (series(), series()));
    assert_eq!(server.metric("taskflow_users_active_total"), 10_000.0);
}

#[test]
fn every_line_of_the_log_has_the_fields_of_the_table_and_no_others() {
    let mut server = Server::start(&["--log-level=debug"]);
    let account = server.register();
    let mut follower = Follower::start(&server, Encoding::Json, &account);
    let seq = follower.client.accept(&task("logged")["command"]);
    follower.until_seq(seq);
    server.signal(rustix::process::Signal::HUP);
    server.log.wait(|line| line.contains("were read again").then_some(()));
    assert!(server.stop().success());
    let text = server.log.text();
    assert!(text.lines().count() >= 4, "{text}");
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let line = line.as_object().unwrap();
        for (name, _) in &FIELDS[..4] {
            assert!(
                line[*name].as_str().is_some_and(|text| !text.is_empty()),
                "{name}: {line:?}"
            );
        }
        let unknown = line.keys().find(|name| FIELDS.iter().all(|(known, _)| known != name));
        assert_eq!(unknown, None, "{line:?}");
    }
}

#[test]
fn the_page_shows_who_is_behind_and_where_operations_wait() {
    let server = Server::start(&[]);
    let status = || http::request(server.operator, "GET", "/status", &[], b"").json();
    let first = status();
    assert_eq!(first["build"], concat!("taskflow ", env!("CARGO_PKG_VERSION")));
    for list in ["nodes", "slowest", "feeds"] {
        assert_eq!(first[list], json!([]), "{list}");
    }
    // A client that asks and does not read the answers.
    let account = server.register();
    let mut deaf = Client::over(Raw::connect_small(server.address), Encoding::Json);
    deaf.hello(&account, &json!([]));
    let frame = deaf.frame_of(&json!({ "unfollow": {} })).repeat(1000);
    let shown = eventually("somebody is behind", || {
        deaf.raw.try_send(&frame);
        let shown = status();
        (shown["slowest"] != json!([])).then_some(shown)
    });
    let slow = shown["slowest"].as_array().unwrap();
    assert_eq!(slow.len(), 1, "{shown}");
    assert_eq!(slow[0]["user"], account.user.as_str());
    assert!(slow[0]["bytes"].as_u64() > Some(0), "{shown}");
    assert_eq!(shown["workers_silent"], 0);
    let behind = slow[0]["behind_ms"].as_u64().unwrap();
    eventually("it is behind for longer", || {
        (status()["slowest"][0]["behind_ms"].as_u64()? > behind).then_some(())
    });
}

#[test]
fn a_check_of_the_settings_names_variables_that_are_none() {
    let check = |name: &str, value: &str| {
        let mut command = crate::support::server::binary();
        let output = command.args(["config", "check"]).env(name, value).output();
        let output = output.expect("the binary runs");
        (output.status.success(), String::from_utf8(output.stderr).expect("text"))
    };
    assert_eq!(check("TASKFLOW_SERVICE_HOST", "10.0.0.7"), (true, String::new()));
    let (is_fine, said) = check("TASKFLOW_HARTBEAT_MS", "1000");
    let expected = "taskflow: TASKFLOW_HARTBEAT_MS: this variable is no setting; did you mean heartbeat_ms?\n";
    assert_eq!((is_fine, said.as_str()), (false, expected));
}
