//! What cannot be brought about from outside: moments between two steps of one connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_rt::Arbiter;
use taskflow_actors::feed::Writers;
use taskflow_actors::ports::{Clock, Epoch};
use taskflow_actors::session::Sessions;
use taskflow_actors::supervisor::{Ports, Router, Supervisor, Unobserved};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use tokio::net::TcpStream;

use super::*;
use crate::auth::SignedOut;
use crate::config::Config;
use crate::socket::{Gateway, Hub};
use crate::telemetry::Telemetry;
use crate::testing::ApiBench;

/// A worker that runs on the thread of the test.
fn worker(bench: &ApiBench, hub: Arc<Hub>, router: Router) -> Rc<Worker> {
    let gateway = Arc::new(Gateway {
        rates: bench.api.rates.clone(),
        hub: hub.clone(),
        router,
        store: bench.api.store.clone(),
        tokens: bench.api.tokens.clone(),
        sessions: Arc::new(Sessions::new(hub)),
        seats: bench.api.seats.clone(),
        clock: bench.api.clock.clone(),
        metrics: Telemetry::new().metrics,
        traces: None,
        build: String::new(),
        heartbeat_ms: 1_000_000,
        heartbeat_timeout_s: 1_000_000,
        bytes_a_second_max: 0,
        live: bench.api.config.clone(),
        outbound_bytes_max: usize::MAX,
        outbound_bytes_total_max: usize::MAX,
        reconnect_window_ms: 0,
        snapshots: Arc::new(Semaphore::new(1)),
        overload: bench.api.overload.clone(),
    });
    let ended = gateway.clone();
    let end = move |SignedOut { user, sign_in }| ended.sessions.tell(user, Event::SignedOut(sign_in));
    gateway.tokens.on_sign_out(end);
    Worker::start(gateway).expect("the first of one")
}

/// Reads until one of these words comes, and says which.
async fn first_of<'a>(client: &mut TcpStream, words: &[&'a str]) -> &'a str {
    let mut text = Vec::new();
    loop {
        let read = tokio::time::timeout(Duration::from_secs(10), client.read_buf(&mut text)).await;
        let read = read.unwrap_or_else(|_| panic!("none of {words:?} came"));
        assert_ne!(read.expect("readable"), 0, "the connection ended");
        let seen = String::from_utf8_lossy(&text);
        if let Some(word) = words.iter().find(|word| seen.contains(**word)) {
            return word;
        }
    }
}

/// A client whose connection is open.
async fn open(worker: &Rc<Worker>, token: String) -> (TcpStream, Rc<Connection>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut client = TcpStream::connect(address).await.expect("it listens");
    let (stream, _) = listener.accept().await.expect("somebody comes");
    worker.adopt(stream.into(), Encoding::Json, Some(token), &[]);
    let first = ConnectionId {
        worker: 0,
        slot: 0,
        generation: 0,
    };
    let connection = worker.connection(first).expect("it was adopted");
    send(&mut client, r#"{"hello":{"protocol":{"min":1,"max":1}}}"#).await;
    first_of(&mut client, &["welcome"]).await;
    (client, connection)
}

/// Text in one frame, masked with zeros (RFC 6455, section 5.2).
async fn send(client: &mut TcpStream, text: &str) {
    let mut frame = vec![0x81];
    match u8::try_from(text.len()) {
        Ok(length @ ..126) => frame.push(0x80 | length),
        _ => {
            frame.push(0x80 | 126);
            frame.extend((text.len() as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    client.write_all(&frame).await.expect("writable");
}

#[actix_web::test]
async fn a_sign_in_that_ends_after_its_token_was_checked_ends_the_connection_that_brought_it() {
    let bench = ApiBench::new(Config::default());
    let tokens = &bench.api.tokens;
    let user = UserId(Uuid::from_u128(1));
    let (old, new) = (Uuid::from_u128(2), Uuid::from_u128(3));
    let worker = worker(&bench, Arc::new(Hub::new(1)), bench.api.router.clone());
    let (mut client, connection) = open(&worker, tokens.mint(user, old)).await;
    let claims = tokens.verify(&tokens.mint(user, new)).await.expect("good");
    // The session still knows the connection by its old sign-in, so this concerns nobody.
    tokens.end(SignedOut { user, sign_in: new });
    connection.refreshed(&worker, &claims);
    let words = ["refreshed", "signed_out"];
    assert_eq!(first_of(&mut client, &words).await, "signed_out");
}

/// Until more waits than a pipeline has room for, and the network takes no more.
async fn fill(worker: &Rc<Worker>, connection: &Rc<Connection>) {
    let piece = frame::message(Encoding::Json, &vec![b' '; PIPELINE_BYTES]);
    let waits = || connection.state().outbound.bytes();
    loop {
        while waits() <= PIPELINE_BYTES {
            connection.send(worker, &piece);
        }
        let before = waits();
        // Each is a look at the sockets, too.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        if waits() == before {
            return;
        }
    }
}

#[actix_web::test]
async fn all_who_wait_for_room_go_on_when_there_is_some_or_when_they_need_not_wait() {
    let bench = ApiBench::new(Config::default());
    let user = UserId(Uuid::from_u128(1));
    let worker = worker(&bench, Arc::new(Hub::new(1)), bench.api.router.clone());
    let token = bench.api.tokens.mint(user, Uuid::from_u128(2));
    let (mut client, connection) = open(&worker, token).await;
    connection.follow(&worker, Follow::default());
    let id = FollowId { feed: user, number: 1 };
    fill(&worker, &connection).await;
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let connection = connection.clone();
            actix_rt::spawn(async move { connection.has_room(id, 1).await })
        })
        .collect();
    tokio::task::yield_now().await;
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
    assert!(connection.state().drained.len() >= 3);
    let read = actix_rt::spawn(async move { tokio::io::copy(&mut client, &mut tokio::io::sink()).await });
    for waiting in waiting {
        assert!(
            tokio::time::timeout(Duration::from_secs(10), waiting)
                .await
                .expect("woken")
                .expect("no panic")
        );
    }
    read.abort();

    fill(&worker, &connection).await;
    let waits = connection.clone();
    let waiting = actix_rt::spawn(async move { waits.has_room(id, 1).await });
    tokio::task::yield_now().await;
    connection.stop_following(&worker, user);
    let went_on = tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .expect("woken");
    assert!(!went_on.expect("no panic"), "it is not followed any more");
}

/// A clock that panics when it is told to: nothing that a client or a store does makes a feed panic.
struct Bomb {
    clock: Arc<dyn Clock>,
    armed: AtomicBool,
}

impl Clock for Bomb {
    fn now_ms(&self) -> UnixMs {
        assert!(!self.armed.swap(false, Ordering::SeqCst), "planted");
        self.clock.now_ms()
    }
}

#[actix_web::test]
async fn a_client_hears_that_its_feed_panicked_and_the_same_operation_is_accepted_once_it_is_back() {
    let bench = ApiBench::new(Config::default());
    let hub = Arc::new(Hub::new(1));
    let bomb = Arc::new(Bomb {
        clock: bench.api.clock.clone(),
        armed: AtomicBool::new(false),
    });
    let ports = Ports {
        store: bench.store.clone(),
        push: hub.clone(),
        clock: bomb.clone(),
        writers: Writers::One,
        observer: Arc::new(Unobserved),
        tracer: Arc::new(()),
        new_epoch: Box::new(|| Epoch(7)),
        feed_idle: Duration::from_secs(60),
    };
    let arbiter = Arbiter::new();
    let router = Supervisor::start(ports, &[arbiter.handle()], || 1);
    let user = UserId(Uuid::from_u128(1));
    let born = router.birth(user, "UTC".to_owned(), "en".to_owned()).await;
    assert_eq!(born, Ok(()));
    let worker = worker(&bench, hub, router);
    let (mut client, _) = open(&worker, bench.api.tokens.mint(user, Uuid::from_u128(2))).await;
    let id = Uuid::from_u128(4);
    let operation = format!(
        r#"{{"operations":{{"operations":[{{"id":"{id}","command":{{"settings_patch":{{"locale":"de"}}}}}}]}}}}"#
    );
    bomb.armed.store(true, Ordering::SeqCst);
    send(&mut client, &operation).await;
    assert_eq!(
        first_of(&mut client, &["outcome_unknown", "accepted"]).await,
        "outcome_unknown"
    );
    loop {
        send(&mut client, &operation).await;
        if first_of(&mut client, &["feed_unavailable", "accepted"]).await == "accepted" {
            break;
        }
    }
    arbiter.stop();
}
