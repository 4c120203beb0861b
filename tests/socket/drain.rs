//! How a server is taken down: in stages, and however whoever takes it down behaves.

use std::io::Read as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::server::binary;
use crate::support::ws::task;
use crate::support::{Client, Encoding, Ended, EventStream, Follower, Raw, Server, eventually, http, json};

/// WebSockets that were sent away.
const SENT_AWAY: &str = "taskflow_drained_total{kind=\"websocket\"}";

fn ready(server: &Server) -> u16 {
    http::request(server.operator, "GET", "/health/ready", &[], b"").status
}

fn gone() -> Ended {
    Ended::Closed(Some(1012), "shutting_down".to_owned())
}

#[test]
fn while_balancers_notice_clients_are_taken_and_keep_what_they_have() {
    let mut server = Server::start(&["--drain-wait-seconds=3"]);
    let account = server.user();
    let mut follower = Follower::start(&server, Encoding::Json, &account);
    server.signal(Signal::TERM);
    eventually("that it is not ready", || (ready(&server) == 503).then_some(()));
    assert_eq!(server.metric("taskflow_draining"), 1.0);
    // A balancer that has not noticed yet sends somebody.
    let mut late = Client::open(&server, Encoding::Json, &account);
    late.accept(&task("late")["command"]);
    let seq = follower.client.accept(&task("as before")["command"]);
    follower.until_seq(seq);
    // A connection that a proxy keeps for the next request is not one of those.
    let mut connection = http::Connection::open(server.address);
    connection.send(
        "GET",
        "/api/v1/tasks",
        &["connection: keep-alive", &account.bearer()],
        b"",
    );
    let answer = connection.response();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert_eq!(late.ended(), gone());
    assert_eq!(follower.client.ended(), gone());
    assert_eq!(server.exit_status().code(), Some(0));
}

#[test]
fn clients_are_sent_away_at_the_rate_that_is_set() {
    const CLIENTS: u32 = 60;
    let mut server = Server::start(&["--drain-clients-a-second=40", "--connections-a-user-max=100"]);
    let account = server.user();
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| Client::open(&server, Encoding::Json, &account))
        .collect();
    server.signal(Signal::TERM);
    eventually("half of them have gone", || {
        (server.metric(SENT_AWAY) >= 30.0).then_some(())
    });
    let (gone_by_now, open) = (server.metric(SENT_AWAY), server.metric("taskflow_connections"));
    assert!(
        open > 0.0 && gone_by_now + open >= f64::from(CLIENTS),
        "{gone_by_now} and {open}"
    );
    // Whoever is still here is served.
    let account = &account;
    let answer = server.post("/api/v1/tasks", account, &json!({ "title": "in the drain" }));
    assert_eq!(answer.status, 201);
    for client in &mut clients {
        assert_eq!(client.ended(), gone());
    }
    drop(clients);
    assert_eq!(server.exit_status().code(), Some(0));
}

#[test]
fn event_streams_end_one_after_the_other() {
    let mut server = Server::start(&["--drain-clients-a-second=10", "--connections-a-user-max=100"]);
    let account = server.user();
    let open = || EventStream::open(server.address, "/api/v1/events", &[&account.bearer()]).expect("a stream");
    let streams: Vec<_> = (0..20).map(|_| open()).collect();
    server.signal(Signal::TERM);
    let ends = std::thread::scope(|scope| {
        let waits = streams.into_iter().map(|mut stream| {
            scope.spawn(move || {
                stream.wait_for("reconnect");
                Instant::now()
            })
        });
        let waits: Vec<_> = waits.collect();
        eventually("one that was sent away", || {
            (server.metric("taskflow_drained_total{kind=\"request\"}") >= 1.0).then_some(())
        });
        waits
            .into_iter()
            .map(|wait| wait.join().expect("an end"))
            .collect::<Vec<_>>()
    });
    let (first, last) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
    // Twenty moments within two seconds, at random: all within a quarter of it once in ten thousand million runs.
    assert!(*last - *first > Duration::from_millis(500), "{:?}", *last - *first);
    assert_eq!(server.exit_status().code(), Some(0));
}

#[test]
fn a_connection_that_a_proxy_keeps_for_the_next_request_does_not_hold_a_stop_up() {
    let mut server = Server::start(&[]);
    let mut kept = http::Connection::open(server.address);
    kept.send("GET", "/.well-known/jwks.json", &["connection: keep-alive"], b"");
    assert_eq!(kept.response().status, 200);
    server.signal(Signal::TERM);
    assert_eq!(server.exit_status().code(), Some(0));
    let said = server.log.text();
    assert!(!said.contains("requests that are still under way are cut"), "{said}");
}

#[test]
fn whoever_says_it_twice_does_not_wait() {
    let mut server = Server::start(&["--drain-wait-seconds=50", "--drain-seconds-max=3600"]);
    let account = server.user();
    let mut client = Client::open(&server, Encoding::Json, &account);
    server.signal(Signal::TERM);
    eventually("that it is not ready", || (ready(&server) == 503).then_some(()));
    server.signal(Signal::TERM);
    assert_eq!(client.ended(), gone());
    assert_eq!(server.exit_status().code(), Some(0));
    assert!(
        server.log.text().contains("told to stop a second time"),
        "{}",
        server.log.text()
    );
}

#[test]
fn a_kill_in_the_drain_loses_nothing_that_was_confirmed() {
    let mut server = Server::start(&["--drain-wait-seconds=50", "--drain-seconds-max=3600"]);
    let account = server.user();
    let mut follower = Follower::start(&server, Encoding::Json, &account);
    server.signal(Signal::TERM);
    eventually("that it is not ready", || (ready(&server) == 503).then_some(()));
    let mut last = 0;
    for number in 0..20 {
        last = follower
            .client
            .accept(&task(&format!("{number} in the drain"))["command"]);
    }
    server.kill();
    server.restart();
    let mut again = Follower::start(&server, Encoding::Json, &account);
    again.until_seq(last);
    let titles = again.replica.rows.values().filter(|row| {
        row["title"]
            .as_str()
            .is_some_and(|title| title.ends_with("in the drain"))
    });
    assert_eq!(titles.count(), 20);
}

#[test]
fn a_scrape_in_the_drain_works_and_new_sockets_are_told_when_to_come_back() {
    let mut server = Server::start(&["--drain-clients-a-second=1"]);
    let account = server.user();
    let follower = Follower::start(&server, Encoding::Json, &account);
    let cursor = follower.replica.cursor.clone().expect("a cursor");
    drop(follower);
    let mut clients = [(); 4].map(|()| Client::open(&server, Encoding::Json, &account));
    let mut early = Raw::connect(server.address);
    server.signal(Signal::TERM);
    eventually("the first to be sent away", || {
        (server.metric(SENT_AWAY) >= 1.0).then_some(())
    });
    let refused = early.upgrade(&[]);
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (503, Some("1")),
        "{refused:?}"
    );
    let scrape = http::request(server.operator, "GET", "/metrics", &[], b"");
    assert_eq!(scrape.status, 200);
    let path = format!("/api/v1/changes?wait=50&cursor={cursor}");
    let refused = server.get(&path, &account);
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (503, Some("1")),
        "{refused:?}"
    );
    // It need not wait for the rest of them.
    server.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(client.ended(), gone());
    }
    assert_eq!(server.exit_status().code(), Some(0));
}

#[test]
fn a_stop_while_it_starts_ends_it_and_leaves_a_folder_that_opens() {
    let server = Server::start(&[]);
    let account = server.user();
    let made = server.post("/api/v1/tasks", &account, &json!({ "title": "before" }));
    assert_eq!(made.status, 201);
    let data = server.data.clone();
    drop(server);
    for turn in 0..12_u64 {
        let mut child = binary()
            .args(["serve", "--listen=127.0.0.1:0", "--operator-listen=127.0.0.1:0"])
            .arg(format!("--data-dir={}", data.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        // At every moment of a start, also before it listens to signals.
        std::thread::park_timeout(Duration::from_millis(turn * 5));
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, Signal::TERM).expect("it is there");
        let mut said = String::new();
        child
            .stdout
            .take()
            .expect("piped")
            .read_to_string(&mut said)
            .expect("text");
        let status = child.wait().expect("it ends");
        use std::os::unix::process::ExitStatusExt as _;
        assert!(
            status.code() == Some(0) || status.signal() == Some(Signal::TERM.as_raw()),
            "{status}: {said}"
        );
    }
    let server = Server::start_in(data, &[]);
    let tasks = server.get("/api/v1/tasks", &account).json().to_string();
    assert!(tasks.contains("before"), "{tasks}");
}

#[test]
fn a_stop_before_the_settings_are_read_is_not_lost() {
    let data = Server::start(&[]).data.clone();
    let settings = data.path().join("settings");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &settings, rustix::fs::FileType::Fifo, mode, 0).expect("made");
    let child = binary()
        .args(["serve", "--listen=127.0.0.1:0", "--operator-listen=127.0.0.1:0"])
        .arg(format!("--data-dir={}", data.path().display()))
        .arg(format!("--config={}", settings.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let pid = rustix::process::Pid::from_child(&child);
    // Opens when the server does, and the server reads on until it is closed.
    let file = std::fs::File::create(&settings).expect("opened");
    rustix::process::kill_process(pid, Signal::TERM).expect("it is there");
    drop(file);
    let (status, said) = end_of(child);
    assert_eq!(status.code(), Some(0), "{status}: {said}");
    assert!(said.contains("stopped"), "{said}");
}

/// How a server ended, and what it had said.
fn end_of(mut child: std::process::Child) -> (std::process::ExitStatus, String) {
    let mut said = String::new();
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_to_string(&mut said).expect("text");
    (child.wait().expect("it ends"), said)
}

#[test]
fn a_stop_while_the_database_does_not_answer_ends_it() {
    let data = Server::start(&[]).data.clone();
    // It takes connections and says nothing.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let child = binary()
        .args([
            "serve",
            "--listen=127.0.0.1:0",
            "--operator-listen=127.0.0.1:0",
            "--store=cql",
        ])
        .arg(format!("--cql-nodes={}", silent.local_addr().expect("bound")))
        .arg(format!("--data-dir={}", data.path().display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let pid = rustix::process::Pid::from_child(&child);
    let (_asks, _) = silent.accept().expect("it asks");
    rustix::process::kill_process(pid, Signal::TERM).expect("it is there");
    let (status, said) = end_of(child);
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("told to stop before the database had answered"), "{said}");
}
