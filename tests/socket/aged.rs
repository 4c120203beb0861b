//! What a server does with what is older than it keeps.

use std::sync::Arc;
use std::time::Duration;

use actix_rt::{Arbiter, System};
use taskflow::clock::SystemClock;
use taskflow::store::embedded;
use taskflow_actors::feed::Writers;
use taskflow_actors::ports::{Clock, ConnectionId, Epoch, Head, Publication, Push};
use taskflow_actors::supervisor::{Ports, Supervisor, Unobserved};
use taskflow_protocol::UserId;
use taskflow_protocol::limits::LOG_KEPT_MS;
use taskflow_protocol::message::{Operation, OperationResult, Outcome};
use taskflow_protocol::values::UnixMs;

use crate::support::server::DataDir;
use crate::support::ws::task;
use crate::support::{Account, Encoding, Follower, Replica, Server, eventually, id, json};

const HOUR_MS: UnixMs = 60 * 60 * 1000;

/// The clock as it was when what the log holds now could still be kept.
struct LongAgo;

impl Clock for LongAgo {
    fn now_ms(&self) -> UnixMs {
        SystemClock.now_ms() - LOG_KEPT_MS - HOUR_MS
    }
}

struct Nobody;

impl Push for Nobody {
    fn publish(&self, _: Publication) {}
    fn announce(&self, _: UserId, _: Head) {}
    fn answer(&self, _: ConnectionId, _: Vec<OperationResult>) {}
    fn stale(&self, _: Option<Duration>) {}
}

/// A data folder in which a user made so many tasks long ago: with the server's own feed and store, by another clock.
fn made_long_ago(user: &str, tasks: usize) -> Arc<DataDir> {
    let data = DataDir::temporary();
    let user = serde_json::from_value(json!(user)).expect("a user");
    System::new().block_on(async {
        let store = embedded::open(data.path(), embedded::Options::default(), Arc::new(())).expect("a store");
        let arbiter = Arbiter::new();
        let ports = Ports {
            store: Arc::new(store.clone()),
            push: Arc::new(Nobody),
            writers: Writers::One,
            clock: Arc::new(LongAgo),
            observer: Arc::new(Unobserved),
            tracer: Arc::new(()),
            new_epoch: Box::new(|| Epoch(7)),
            feed_idle: Duration::from_secs(60),
        };
        let router = Supervisor::start(ports, &[arbiter.handle()], || 1);
        router
            .birth(user, "UTC".to_owned(), "en".to_owned())
            .await
            .expect("born");
        for _ in 0..tasks {
            let operation: Operation = serde_json::from_value(task("old")).expect("an operation");
            let settled = router.ask(user, user, vec![operation], None).await;
            assert!(
                matches!(settled.results[0].outcome, Outcome::Accepted(_)),
                "{settled:?}"
            );
        }
        arbiter.stop();
        store.shutdown();
    });
    data
}

#[test]
fn a_cursor_from_before_what_the_log_keeps_leads_to_a_snapshot() {
    let user = id();
    let server = Server::start_in(made_long_ago(&user, 3), &[]);
    let account = Account {
        token: server.mint(&user, &["--seconds=3600"]),
        user,
        refresh: String::new(),
        email: String::new(),
    };
    let mut author = Follower::start(&server, Encoding::Json, &account);
    assert_eq!(author.replica.position, 4);
    let epoch = author.replica.cursor.clone().expect("a cursor")[..16].to_owned();
    let cursor_at = |seq: u64| format!("{epoch}{seq:016x}");
    let from = |seq: u64| {
        let replica = Replica {
            cursor: Some(cursor_at(seq)),
            position: seq,
            ..Replica::default()
        };
        Follower::resume(&server, Encoding::MsgPack, &account, replica)
    };
    assert_eq!(from(2).following["mode"], "entries", "nobody wrote, so nothing was cut");
    // The first change after a start has the log cut, soon afterwards.
    author.client.accept(&task("new")["command"]);
    author.until_seq(5);
    let follower = eventually("the cut", || {
        let follower = from(2);
        (follower.following["mode"] == "reset").then_some(follower)
    });
    assert_eq!(follower.following["reason"], "cursor_too_old");
    assert_eq!(follower.replica.rows, author.replica.rows);
    assert_eq!(follower.replica.position, 5);
    assert_eq!(server.metric("taskflow_resets_total{reason=\"cursor_too_old\"}"), 1.0);
    // The same over HTTP, for whoever has no socket.
    let changes = server.get(&format!("/api/v1/changes?cursor={}", cursor_at(3)), &account);
    let following = &changes.json()["following"];
    assert_eq!(
        (&following["mode"], &following["reason"]),
        (&json!("reset"), &json!("cursor_too_old"))
    );
    // Who has all that was cut has missed nothing that is gone.
    assert_eq!(from(4).following["mode"], "entries");
}
