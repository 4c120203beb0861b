//! A node that has more to do than it can: who is there stays, and hears what is committed; what else is refused says when to
//! come back.

use std::path::PathBuf;

use rustix::process::Signal;

use crate::support::server::{DataDir, binary};
use crate::support::ws::{operation, task};
use crate::support::{Client, Encoding, Follower, Raw, Response, Server, http, json};

/// A server whose memory can be said to be full.
struct Pressed {
    server: Server,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Pressed {
    fn start() -> Self {
        let data = DataDir::temporary();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("settings.toml");
        std::fs::write(&file, "").unwrap();
        let mut command = binary();
        command
            .args(["serve", "--listen=127.0.0.1:0", "--operator-listen=127.0.0.1:0"])
            .arg(format!("--config={}", file.display()))
            .arg(format!("--data-dir={}", data.path().display()));
        let server = Server::spawn(command, data, &[]).unwrap_or_else(|(_, log)| panic!("{log}"));
        Self {
            server,
            file,
            _folder: folder,
        }
    }

    /// What the process has is this part of what it may have, from now on.
    fn memory_is(&self, percent: f64, level: f64) {
        let has = self.server.metric("process_resident_memory_bytes");
        let may = (has * 100.0 / percent) as u64;
        std::fs::write(&self.file, format!("memory_bytes_max = {may}\n")).unwrap();
        self.server.signal(Signal::HUP);
        self.server.wait_for_metric("taskflow_overload", |now| now == level);
    }

    fn calm(&self) {
        std::fs::write(&self.file, "").unwrap();
        self.server.signal(Signal::HUP);
        self.server.wait_for_metric("taskflow_overload", |now| now == 0.0);
    }
}

fn is_overloaded(answer: &Response) {
    assert_eq!(
        (answer.status, &answer.json()["name"], answer.header("retry-after")),
        (503, &json!("overloaded"), Some("2")),
        "{answer:?}"
    );
}

#[test]
fn a_node_that_is_full_does_less_and_nobody_who_is_there_goes() {
    let pressed = Pressed::start();
    let server = &pressed.server;
    let account = server.register();
    let mut follower = Follower::start(server, Encoding::Json, &account);
    let made = server.post("/api/v1/tasks", &account, &json!({ "title": "before" }));
    assert_eq!(made.status, 201);
    let path = made.header("location").unwrap().to_owned();
    follower.until_seq(follower.replica.position.max(2));

    // Statistics first. The share is in the middle of the level: a few percent more or less do not matter.
    pressed.memory_is(85.0, 1.0);
    is_overloaded(&server.get("/api/v1/statistics", &account));
    is_overloaded(&server.get("/api/v1/export", &account));
    assert_eq!(server.get("/api/v1/snapshot", &account).status, 200);
    drop(Client::open(server, Encoding::Json, &account));

    // Then all that is not here yet.
    pressed.memory_is(92.5, 2.0);
    is_overloaded(&server.get("/api/v1/snapshot", &account));
    is_overloaded(&server.get("/api/v1/events", &account));
    is_overloaded(&server.get("/api/v1/changes?wait=1", &account));
    is_overloaded(&Raw::connect(server.address).upgrade(&[]));
    let body = json!({ "email": account.email, "password": "not this one" });
    is_overloaded(&http::post(server.address, "/api/v1/auth/login", &[], &body));
    assert_eq!(server.get(&path, &account).status, 200);
    let seq = follower.client.accept(&task("in between")["command"]);
    follower.until_seq(seq);

    // Then all that is asked. Who is signed in stays it.
    pressed.memory_is(300.0, 3.0);
    is_overloaded(&server.get(&path, &account));
    is_overloaded(&server.post("/api/v1/tasks", &account, &json!({ "title": "too much" })));
    let refused = follower.client.submit(&operation(&task("too much")["command"]))["refused"].clone();
    assert_eq!(
        (&refused["name"], &refused["retry_after_ms"]),
        (&json!("overloaded"), &json!(2_000))
    );
    let body = json!({ "refresh_token": account.refresh });
    assert_eq!(
        http::post(server.address, "/api/v1/auth/refresh", &[], &body).status,
        200
    );
    assert_eq!(
        http::request(server.operator, "GET", "/health/ready", &[], b"").status,
        200
    );
    let unknown = format!("/api/v1/sessions/{}", crate::support::id());
    let ended = server.send("DELETE", &unknown, &account, &[], &crate::support::Value::Null);
    assert_ne!(ended.status, 503, "what a thief has can be ended");
    assert!(server.metric("taskflow_shed_total{what=\"operations\"}") >= 2.0);

    pressed.calm();
    let seq = follower.client.accept(&task("after")["command"]);
    follower.until_seq(seq);
    assert_eq!(server.get("/api/v1/statistics", &account).status, 200);
}
