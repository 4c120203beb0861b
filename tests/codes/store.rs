//! The codes that need a store in trouble: a database that somebody else has locked, values that are not what was
//! written, a disk that is full.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, TransactionBehavior};

use crate::Seen;
use crate::support::server::{DataDir, PASSWORD, binary};
use crate::support::ws::{operation as operation_of, task};
use crate::support::{Account, Client, Encoding, Server, Value, eventually, http, id, json};

fn database(server: &Server) -> Connection {
    let connection = Connection::open(server.data.path().join("taskflow.db")).expect("the database");
    connection.busy_timeout(Duration::from_secs(30)).expect("a connection");
    // A guest does not tidy up.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .expect("a connection");
    connection
}

/// A server with a warm feed and a cold one, and its database locked: writes fail, and nobody knows what became of them.
fn locked<T>(run: impl FnOnce(&Server, &Account, &Account) -> T) -> T {
    let mut server = Server::start(&[]);
    let (warm, cold) = (server.user(), server.user());
    assert_eq!(server.stop().code(), Some(0));
    server.restart();
    assert_eq!(server.get("/api/v1/tasks", &warm).status, 200);
    let mut database = database(&server);
    let lock = database
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .expect("the lock");
    let seen = run(&server, &warm, &cold);
    drop(lock);
    drop(database);
    // When the trouble is over, all goes on by itself.
    eventually("an operation is accepted again", || {
        let outcome = server.submit(&warm, &task("afterwards"));
        outcome.get("accepted").map(|_| ())
    });
    seen
}

fn register(server: &Server) -> http::Response {
    let body = json!({ "email": format!("{}@example.org", id()), "password": PASSWORD });
    http::post(server.address, "/api/v1/auth/register", &[], &body)
}

pub fn store_unavailable() -> Vec<Seen> {
    locked(|server, warm, _| {
        // Somebody's write fails first; from then on the store says so at once.
        let mut client = Client::open(server, Encoding::Json, warm);
        client.send_operations(&[task("stuck")]);
        let response = eventually("a failed registration", || {
            let response = register(server);
            (response.status != 201).then_some(response)
        });
        vec![Seen::Http(response)]
    })
}

pub fn feed_unavailable() -> Vec<Seen> {
    locked(|server, warm, cold| {
        let mut stuck = Client::open(server, Encoding::Json, warm);
        stuck.send_operations(&[task("stuck")]);
        // From here on nothing is read either: what could be read is not known to be durable.
        server
            .log
            .wait(|line| line.contains("the store is in trouble").then_some(()))
            .expect("it is logged");
        let mut client = Client::open(server, Encoding::Json, cold);
        let outcome = client.submit(&task("cold"));
        vec![
            Seen::Error(outcome["refused"].clone()),
            Seen::Http(server.get("/api/v1/tasks", cold)),
        ]
    })
}

pub fn outcome_unknown() -> Vec<Seen> {
    locked(|server, warm, _| {
        // Nothing is answered before it is known; a request is given up after 30 s.
        let operation = task("stuck");
        let body = json!({ "title": "stuck" });
        let key = format!("idempotency-key: {}", operation["id"].as_str().unwrap());
        let response = server.send("POST", "/api/v1/tasks", warm, &[&key], &body);
        assert_eq!(
            response.json()["operation"],
            operation["id"],
            "the id to repeat it under"
        );
        vec![Seen::Http(response)]
    })
}

/// Stops a server, changes what it stored, and starts it again.
fn damaged(change: &str, prepare: impl FnOnce(&Server) -> Account) -> (Server, Account) {
    let mut server = Server::start(&[]);
    let account = prepare(&server);
    assert_eq!(server.stop().code(), Some(0));
    let changed = database(&server).execute(change, []).expect("a change");
    assert!(changed > 0, "{change}");
    server.restart();
    (server, account)
}

pub fn feed_damaged() -> Vec<Seen> {
    let mut cursor = String::new();
    let (server, account) = damaged("UPDATE log SET v = x'00'", |server| {
        let account = server.user();
        cursor = crate::support::Replica::of(server, &account).cursor.expect("a cursor");
        server.submit(&account, &task("one"));
        account
    });
    let mut client = Client::open(&server, Encoding::Json, &account);
    client.send(&json!({ "follow": { "cursor": cursor } }));
    let seen = vec![
        Seen::Error(client.wait_for("error")),
        Seen::Error(client.submit(&task("two"))["refused"].clone()),
        Seen::Http(server.get(&format!("/api/v1/changes?cursor={cursor}"), &account)),
        Seen::Http(server.get("/api/v1/tasks", &account)),
    ];
    // The operator finds it in the log; other feeds are not concerned; nothing was touched.
    let log = server.log.text();
    assert!(log.contains(&account.user) && log.contains("ERROR"), "{log}");
    let other = server.user();
    assert!(server.submit(&other, &task("fine"))["accepted"].is_object());
    let left: i64 = database(&server)
        .query_row("SELECT count(*) FROM log WHERE v = x'00'", [], |row| row.get(0))
        .expect("a count");
    assert!(left > 0, "damage is not tidied away");
    seen
}

pub fn row_damaged() -> Vec<Seen> {
    let (lost, kept) = (task("lost"), task("kept"));
    let id = |operation: &Value| operation["command"]["task_create"]["task"].clone();
    // A key is the feed, the kind and the id.
    let named = id(&lost).as_str().unwrap().replace('-', "").to_uppercase();
    let condition = format!("hex(substr(k, 18)) = '{named}'");
    let (server, account) = damaged(&format!("UPDATE row SET v = x'00' WHERE {condition}"), |server| {
        let account = server.user();
        for operation in [&lost, &kept] {
            assert!(server.submit(&account, operation)["accepted"].is_object());
        }
        let written = format!("SELECT 1 FROM row WHERE {condition}");
        eventually("the row is written", || {
            database(server).query_row(&written, [], |_| Ok(())).ok()
        });
        account
    });
    let path = |operation: &Value| format!("/api/v1/tasks/{}", id(operation).as_str().unwrap());
    let complete = |operation: &Value| operation_of(&json!({ "task_complete": { "task": id(operation) } }));
    let mut client = Client::open(&server, Encoding::Json, &account);
    let seen = vec![
        Seen::Http(server.get(&path(&lost), &account)),
        Seen::Error(client.submit(&complete(&lost))["refused"].clone()),
    ];
    // It is named wherever the rest is shown, and the rest works as before.
    let left_out = json!([{ "task": id(&lost) }]);
    let named = |snapshot: &Value| snapshot["done"]["left_out"].clone();
    let lines = server.get("/api/v1/snapshot", &account).json_lines();
    assert_eq!(named(&lines.last().unwrap()["snapshot"]), left_out);
    client.send(&json!({ "follow": {} }));
    let done = eventually("the last piece", || {
        let piece = client.wait_for("snapshot");
        piece["done"].is_object().then_some(piece)
    });
    assert_eq!(named(&done), left_out);
    assert!(client.submit(&complete(&kept))["accepted"].is_object());
    assert_eq!(server.get(&path(&kept), &account).json()["status"], "done");
    let log = server.log.text();
    assert!(log.contains("taskflow.db, table row") && log.contains("ERROR"), "{log}");
    assert!(server.metric("taskflow_store_errors_total") > 0.0);
    let left: i64 = database(&server)
        .query_row("SELECT count(*) FROM row WHERE v = x'00'", [], |row| row.get(0))
        .expect("a count");
    assert_eq!(left, 1, "damage is not tidied away");
    seen
}

pub fn internal() -> Vec<Seen> {
    let (server, account) = damaged("UPDATE account SET v = x'00'", Server::register);
    let body = json!({ "email": account.email, "password": PASSWORD });
    vec![Seen::Http(http::post(server.address, "/api/v1/auth/login", &[], &body))]
}

/// A server whose data is on a small disk of its own.
///
/// The disk is a tmpfs in a mount namespace that ends with the process, so nothing of it stays on the machine. That
/// needs the right to make namespaces: root has it, and on most machines every user in a user namespace.
pub fn on_a_small_disk() -> (Server, PathBuf) {
    let outside = tempfile::tempdir().expect("a temporary folder");
    let mount = outside.keep();
    let script = "mount -t tmpfs -o size=48m tmpfs \"$0\" && exec \"$@\"";
    let mut failures = Vec::new();
    for namespace in [&["--mount"][..], &["--mount", "--user", "--map-root-user"]] {
        let mut command = Command::new("unshare");
        let data = mount.join("data");
        command
            .args(namespace)
            .args(["sh", "-c", script])
            .arg(&mount)
            .arg(binary().get_program())
            .arg("serve");
        command.args(["--listen=127.0.0.1:0", "--operator-listen=127.0.0.1:0", "--workers=2"]);
        command.arg(format!("--data-dir={}", data.display()));
        match Server::spawn(command, DataDir::at(data), &[]) {
            Ok(server) => {
                let inside = format!("/proc/{}/root{}", server.pid().as_raw_nonzero(), mount.display());
                return (server, inside.into());
            }
            Err((status, log)) => failures.push(format!("unshare {namespace:?}: {status} {log}")),
        }
    }
    panic!("a small disk needs root or user namespaces: {failures:#?}");
}

pub fn store_full() -> Vec<Seen> {
    let (server, disk) = on_a_small_disk();
    let account = server.register();
    let before = server.post("/api/v1/tasks", &account, &json!({ "title": "before" }));
    assert_eq!(before.status, 201);
    // Somebody else fills the disk.
    let filler = disk.join("filler");
    std::fs::write(&filler, vec![0x55; 36 * 1024 * 1024]).expect("room for it");
    let mut client = Client::open(&server, Encoding::Json, &account);
    let mut seen = vec![
        Seen::Http(server.post("/api/v1/tasks", &account, &json!({ "title": "no room" }))),
        Seen::Error(client.submit(&task("no room"))["refused"].clone()),
        Seen::Http(register(&server)),
    ];
    // Reading works, and the operator sees it.
    assert_eq!(
        server.get("/api/v1/tasks", &account).json()["items"][0]["title"],
        "before"
    );
    let ready = eventually("it is not ready", || {
        let ready = http::request(server.operator, "GET", "/health/ready", &[], b"");
        (ready.status == 503).then_some(ready)
    });
    assert!(
        ready.json()["reason"].as_str().is_some_and(|reason| !reason.is_empty()),
        "{ready:?}"
    );
    std::fs::remove_file(&filler).expect("it is there");
    assert!(client.submit(&task("room again"))["accepted"].is_object());
    eventually("it is ready again", || {
        (http::request(server.operator, "GET", "/health/ready", &[], b"").status == 200).then_some(())
    });
    assert_eq!(titles(&server, &account), ["before", "room again"]);
    seen.retain(|seen| !matches!(seen, Seen::Error(Value::Null)));
    let _ = std::fs::remove_dir(server.data.path().parent().expect("it is in a folder"));
    seen
}

fn titles(server: &Server, account: &Account) -> Vec<Value> {
    let page = server.get("/api/v1/tasks", account).json();
    page["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|task| task["title"].clone())
        .collect()
}
