//! kill -9 in the middle of everything: nothing acknowledged is missing, nothing is doubled, nobody sees a hole.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::server::PASSWORD;
use crate::support::ws::{operation, task};
use crate::support::{
    Account, Client, DEADLINE, ENCODINGS, Encoding, Ended, Follower, Random, Raw, Replica, Server, Value, eventually,
    http, id, in_parallel, json,
};

/// As many as `make test` has time for; the load tool does two hundred.
const ROUNDS: usize = 20;

/// Connects as a client does that comes back: until the server is there again.
fn connect(address: std::net::SocketAddr, encoding: Encoding) -> Client {
    let begun = Instant::now();
    while begun.elapsed() < DEADLINE {
        if let Ok(stream) = std::net::TcpStream::connect(address) {
            let mut raw = Raw {
                http: http::Connection::over(stream),
            };
            raw.try_send(
                crate::support::ws::handshake(
                    address,
                    &[&format!("sec-websocket-protocol: {}", encoding.subprotocol())],
                )
                .as_bytes(),
            );
            if raw.http.head().is_some_and(|head| head.status == 101) {
                return Client::connected(raw, encoding);
            }
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    panic!("the server did not come back within {DEADLINE:?}");
}

/// A writer: sends operations one after the other, and after each break the one that is not settled again.
fn write(
    address: std::net::SocketAddr,
    account: &Account,
    encoding: Encoding,
    over: &AtomicBool,
) -> BTreeMap<String, u64> {
    let mut acknowledged = BTreeMap::new();
    let mut pending: Option<Value> = None;
    loop {
        let mut client = connect(address, encoding);
        client.send_hello(&account.token, &json!([]));
        loop {
            if over.load(Ordering::Relaxed) && pending.is_none() {
                return acknowledged;
            }
            let now = pending.get_or_insert_with(|| task("under load")).clone();
            let id = now["id"].as_str().unwrap().to_owned();
            let frame = client.frame_of(&json!({ "operations": { "operations": [now] } }));
            client.raw.try_send(&frame);
            match next_outcome(&mut client, &id) {
                Ok(outcome) if outcome.get("accepted").is_some() => {
                    let seq = outcome["accepted"]["seq"].as_u64().unwrap();
                    let before = acknowledged.insert(id, seq);
                    assert_eq!(before, None);
                    pending = None;
                }
                // `unknown`, and refusals that may be repeated: the same again.
                Ok(outcome) => {
                    let error = outcome.get("unknown").or(outcome.get("refused")).expect("an error");
                    assert!(error["retry_after_ms"].is_u64(), "{outcome}");
                }
                Err(_) => break,
            }
        }
    }
}

fn next_outcome(client: &mut Client, id: &str) -> Result<Value, Ended> {
    loop {
        let message = client.next()?;
        let Some(results) = message["results"]["results"].as_array() else {
            if let Some(error) = message.get("error") {
                panic!("{error}");
            }
            continue;
        };
        if let Some(result) = results.iter().find(|result| result["id"] == id) {
            return Ok(result["outcome"].clone());
        }
    }
}

/// A follower: applies what comes, and after each break goes on from its cursor. Its copy never sees a hole or an entry
/// twice: `apply_entries` panics at both.
fn follow(
    address: std::net::SocketAddr,
    account: &Account,
    encoding: Encoding,
    over: &AtomicBool,
    until: &Mutex<u64>,
) -> Replica {
    let mut replica = Replica::default();
    loop {
        let mut client = connect(address, encoding);
        let cursor = match &replica.cursor {
            Some(cursor) => json!([{ "cursor": cursor }]),
            None => json!([{}]),
        };
        client.send_hello(&account.token, &cursor);
        // Pieces of a snapshot that was cut off are of no use.
        replica.pieces.clear();
        loop {
            if over.load(Ordering::Relaxed) && replica.position >= *until.lock().unwrap() {
                return replica;
            }
            let Ok(message) = client.next() else { break };
            if let Some(following) = message.get("following") {
                if replica.cursor.is_some() {
                    assert_ne!(following["mode"], "reset", "a cursor survives a crash: {following}");
                }
            } else if let Some(entries) = message.get("entries") {
                replica.apply_entries(entries);
            } else if let Some(piece) = message.get("snapshot") {
                replica.apply_snapshot(piece);
            } else if message.get("welcome").is_none() {
                panic!("{message}");
            }
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_by_kill_9_under_load() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 | 0x7a5);
    eprintln!("SEED={seed} repeats the moments of the crashes");
    let mut random = Random(seed);
    let mut server = Server::start(&["--heartbeat-ms=1000"]);
    let accounts = [server.user(), server.user()];
    let address = server.address;
    let (over, quiet) = (AtomicBool::new(false), AtomicBool::new(false));
    let untils = accounts.each_ref().map(|_| Mutex::new(u64::MAX));
    let (mut acknowledged, mut replicas) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let mut writers = Vec::new();
        let mut followers = Vec::new();
        for (account, until) in accounts.iter().zip(&untils) {
            for encoding in ENCODINGS {
                for _ in 0..2 {
                    let over = &over;
                    writers.push((account, scope.spawn(move || write(address, account, encoding, over))));
                }
                let quiet = &quiet;
                followers.push((
                    account,
                    scope.spawn(move || follow(address, account, encoding, quiet, until)),
                ));
            }
        }
        for _ in 0..ROUNDS {
            // It has to get somewhere between two crashes, and then not much further.
            let before = server.metric("taskflow_appends_total");
            let more = random.below(60) as f64;
            server.wait_for_metric("taskflow_appends_total", |count| count > before + more);
            std::thread::park_timeout(Duration::from_micros(random.below(30_000)));
            server.restart();
        }
        over.store(true, Ordering::Relaxed);
        for (account, writer) in writers {
            acknowledged.push((account, writer.join().unwrap()));
        }
        for (account, until) in accounts.iter().zip(&untils) {
            *until.lock().unwrap() = Replica::of(&server, account).position + 1;
        }
        quiet.store(true, Ordering::Relaxed);
        // One more, that ends the waiting.
        for account in &accounts {
            assert!(server.submit(account, &task("the end"))["accepted"].is_object());
        }
        for (account, follower) in followers {
            replicas.push((account, follower.join().unwrap()));
        }
    });
    for account in &accounts {
        let truth = Replica::of(&server, account);
        let mine = |other: &Account| other.user == account.user;
        let copies: Vec<_> = replicas
            .iter()
            .filter(|(other, _)| mine(other))
            .map(|(_, replica)| replica)
            .collect();
        for copy in &copies {
            assert_eq!(copy.rows, truth.rows);
            // Once each.
            let mut operations = copy.operations();
            operations.sort_unstable();
            let count = operations.len();
            operations.dedup();
            assert_eq!(operations.len(), count, "an operation was done twice");
        }
        // Everything that was acknowledged is there, as the entry that was named; what came before a follower began, too.
        let history = server.history(account);
        let mut all = 0;
        for (_, operations) in acknowledged.iter().filter(|(other, _)| mine(other)) {
            for (operation, seq) in operations {
                let entry = history.iter().find(|entry| entry["seq"] == *seq);
                let entry = entry.unwrap_or_else(|| panic!("entry {seq} was acknowledged and is missing"));
                assert_eq!(entry["operation"], **operation, "entry {seq}");
            }
            all += operations.len();
        }
        // Every writer settled all it sent: there is nothing else.
        assert_eq!(truth.position, 2 + all as u64);
        assert_eq!(truth.rows.len(), 3 + all);
        assert!(all > ROUNDS, "there was load: {all}");
    }
}

#[test]
fn an_operation_is_the_same_after_a_crash() {
    let mut server = Server::start(&[]);
    let account = server.user();
    let (row, list) = (id(), id());
    let operations = [
        operation(&json!({ "task_create": { "task": row, "title": "one" } })),
        operation(&json!({ "list_create": { "list": list, "name": "two" } })),
        operation(&json!({ "task_complete": { "task": row } })),
        operation(&json!({ "undo": { "seq": 4 } })),
        operation(&json!({ "batch": { "commands": [{ "task_complete": { "task": row } }] } })),
        operation(&json!({ "task_complete": { "task": row } })),
    ];
    let outcomes: Vec<_> = operations
        .iter()
        .map(|operation| server.submit(&account, operation))
        .collect();
    let before = Replica::of(&server, &account);
    for round in 0..3 {
        server.restart();
        let mut client = Client::open(&server, ENCODINGS[round % 2], &account);
        for (operation, outcome) in operations.iter().zip(&outcomes) {
            assert!(outcome["accepted"].is_object(), "{outcome}");
            assert_eq!(client.submit(operation), *outcome, "by socket");
            assert_eq!(server.submit(&account, operation), *outcome, "by REST");
            let mut other = operation.clone();
            other["command"] = json!({ "task_delete": { "task": row } });
            assert_eq!(client.submit(&other)["refused"]["name"], "operation_id_reused");
        }
        assert_eq!(Replica::of(&server, &account), before, "nothing was done again");
    }
}

#[test]
fn followers_go_on_from_their_cursors_after_a_crash_and_after_a_stop() {
    let mut server = Server::start(&[]);
    let account = server.user();
    let mut replica = Follower::start(&server, Encoding::Json, &account).replica;
    for round in 0..6 {
        let mut author = Client::open(&server, Encoding::Json, &account);
        for _ in 0..=round {
            author.accept(&task("missed")["command"]);
        }
        drop(author);
        if round % 2 == 0 {
            server.kill();
        } else {
            assert_eq!(server.stop().code(), Some(0));
        }
        server.restart();
        let follower = Follower::resume(&server, ENCODINGS[round % 2], &account, replica);
        assert_eq!(follower.following["mode"], "entries");
        replica = follower.replica;
        assert_eq!(replica.rows, Replica::of(&server, &account).rows);
    }
    // A cursor of what a crash took away is never given out: the author heard of nothing that is not durable.
    assert_eq!(replica.position, 1 + 21);
}

#[test]
fn accounts_sign_ins_and_sign_outs_survive_a_crash() {
    let mut server = Server::start(&[]);
    let (kept, gone) = (server.register(), server.register());
    let auth = |server: &Server, path: &str, body: &Value| {
        http::post(server.address, &format!("/api/v1/auth/{path}"), &[], body)
    };
    let refreshed = auth(&server, "refresh", &json!({ "refresh_token": kept.refresh })).json();
    assert_eq!(
        auth(&server, "logout", &json!({ "refresh_token": gone.refresh })).status,
        204
    );
    server.restart();
    assert_eq!(server.get("/api/v1/tasks", &kept).status, 200);
    assert_eq!(server.get("/api/v1/tasks", &gone).json()["name"], "signed_out");
    assert_eq!(
        auth(&server, "refresh", &json!({ "refresh_token": gone.refresh })).json()["name"],
        "signed_out"
    );
    let next = auth(
        &server,
        "refresh",
        &json!({ "refresh_token": refreshed["refresh_token"] }),
    );
    assert_eq!(next.status, 200, "{next:?}");
    let login = auth(&server, "login", &json!({ "email": kept.email, "password": PASSWORD }));
    assert_eq!(login.json()["user"], *kept.user);
    let again = auth(
        &server,
        "register",
        &json!({ "email": kept.email, "password": PASSWORD }),
    );
    assert_eq!(again.json()["name"], "email_taken");
}

#[test]
fn a_process_that_is_frozen_and_goes_on_has_lost_nothing() {
    // As a laptop that sleeps, or a machine that is paused: SIGSTOP for longer than the heartbeat's time-out.
    let server = Server::start(&["--heartbeat-ms=1000"]);
    let account = server.user();
    let mut follower = Follower::start(&server, Encoding::Json, &account);
    let operations: Vec<_> = (0..50).map(|_| task("frozen")).collect();
    follower.client.send_operations(&operations);
    server.signal(rustix::process::Signal::STOP);
    std::thread::park_timeout(Duration::from_secs(3));
    server.signal(rustix::process::Signal::CONT);
    follower.until_seq(51);
    assert_eq!(Replica::of(&server, &account).rows, follower.replica.rows);
}

#[test]
fn many_users_write_at_once_and_all_of_it_is_there_after_a_crash() {
    let mut server = Server::start(&[]);
    let accounts: Vec<_> = (0..12).map(|_| server.user()).collect();
    in_parallel(&accounts, |account| {
        let mut client = Client::open(&server, Encoding::MsgPack, account);
        for _ in 0..20 {
            client.accept(&task("mine")["command"]);
        }
    });
    server.restart();
    in_parallel(&accounts, |account| {
        let replica = Replica::of(&server, account);
        assert_eq!((replica.position, replica.rows.len()), (21, 22));
    });
    eventually("the feeds that were asked for run, and no others", || {
        (server.metric("taskflow_feeds_running") <= 12.0).then_some(())
    });
}
