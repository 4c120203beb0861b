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

/// Reads until one of these words comes, and says which. Whole messages: what is left of one is not taken for the next.
async fn first_of<'a>(client: &mut TcpStream, words: &[&'a str]) -> &'a str {
    let mut text = Vec::with_capacity(64 * 1024);
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

/// A client that has said nothing yet.
async fn connect(worker: &Rc<Worker>, token: Option<String>) -> TcpStream {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let client = TcpStream::connect(address).await.expect("it listens");
    let (stream, _) = listener.accept().await.expect("somebody comes");
    worker.adopt(stream.into(), Encoding::Json, token, &[]);
    client
}

/// A client whose connection is open, the first.
async fn open(worker: &Rc<Worker>, token: String) -> (TcpStream, Rc<Connection>) {
    let mut client = connect(worker, Some(token)).await;
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

const HEARTBEAT: &str = r#"{"heartbeat":{}}"#;

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

/// A worker with a feed behind it, of user 1 (the other bench has a feed, but its answers go elsewhere).
struct Served {
    bench: ApiBench,
    worker: Rc<Worker>,
    bomb: Arc<Bomb>,
    arbiter: Arbiter,
}

impl Served {
    async fn new(config: Config) -> Self {
        let bench = ApiBench::new(config);
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
        let born = router.birth(UserId(Uuid::from_u128(1)), "UTC".to_owned(), "en".to_owned());
        assert_eq!(born.await, Ok(()));
        let worker = worker(&bench, hub, router);
        Self {
            bench,
            worker,
            bomb,
            arbiter,
        }
    }

    async fn open(&self) -> (TcpStream, Rc<Connection>) {
        let token = self
            .bench
            .api
            .tokens
            .mint(UserId(Uuid::from_u128(1)), Uuid::from_u128(2));
        open(&self.worker, token).await
    }

    /// Refuses these for want of room, and then there is room.
    async fn refuse(&self, client: &mut TcpStream, ids: impl IntoIterator<Item = u128>) {
        // One of somebody else is under way, and none may be.
        self.bench.api.overload.operations_begin(1);
        self.running(0);
        send(client, &operations_of(ids)).await;
        first_of(client, &["overloaded"]).await;
        self.running(u32::MAX);
    }

    /// How many operations are under way; so many may be.
    fn running(&self, limit: u32) -> u32 {
        self.bench.api.overload.limit_operations(limit)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.arbiter.stop();
    }
}

/// A message with these operations, each of which sets the language.
fn operations_of(ids: impl IntoIterator<Item = u128>) -> String {
    let operations: Vec<_> = ids
        .into_iter()
        .map(|id| {
            let id = Uuid::from_u128(id);
            format!(r#"{{"id":"{id}","command":{{"settings_patch":{{"locale":"de"}}}}}}"#)
        })
        .collect();
    format!(r#"{{"operations":{{"operations":[{}]}}}}"#, operations.join(","))
}

#[actix_web::test]
async fn a_client_hears_that_its_feed_panicked_and_the_same_operation_is_accepted_once_it_is_back() {
    let served = Served::new(Config::default()).await;
    let (mut client, _) = served.open().await;
    let operation = operations_of([4]);
    served.bomb.armed.store(true, Ordering::SeqCst);
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
    assert_eq!(
        served.running(u32::MAX),
        0,
        "whatever the answer was, it is under way no more"
    );
}

#[actix_web::test]
async fn operations_beyond_the_limit_are_refused_and_what_is_no_operation_is_answered_as_ever() {
    let served = Served::new(Config::default()).await;
    let (mut client, _) = served.open().await;
    // One of somebody else is under way, and none may be.
    served.bench.api.overload.operations_begin(1);
    assert_eq!(served.running(0), 1);
    send(&mut client, &operations_of([4])).await;
    first_of(&mut client, &["overloaded"]).await;
    assert_eq!(
        served
            .worker
            .gateway
            .metrics
            .messages_received
            .of(MessageKind::Operations)
            .get(),
        1
    );
    send(&mut client, r#"{"unfollow":{}}"#).await;
    first_of(&mut client, &["not_following"]).await;
    send(&mut client, r#"{"operations":{"operations":[{"id":4}]}}"#).await;
    first_of(&mut client, &["operations[0].id"]).await;
    send(&mut client, r#"{"operations":{"operations":[]}}"#).await;
    first_of(&mut client, &["0 operations"]).await;
    send(&mut client, &operations_of(1..102)).await;
    first_of(&mut client, &["too_many_operations"]).await;
    assert_eq!(served.running(0), 1, "what is refused is not under way");
    // Who has not said who it is gets no answer to them.
    let mut stranger = connect(&served.worker, None).await;
    send(&mut stranger, &operations_of([4])).await;
    assert_eq!(
        first_of(&mut stranger, &["overloaded", "hello_expected"]).await,
        "hello_expected"
    );
}

#[actix_web::test]
async fn what_was_sent_behind_a_refused_operation_does_not_overtake_it() {
    let served = Served::new(Config::default()).await;
    let (mut client, _) = served.open().await;
    served.refuse(&mut client, [4, 5]).await;
    // There is room for it, but it comes behind them.
    send(&mut client, &operations_of([6])).await;
    assert_eq!(first_of(&mut client, &["overloaded", "accepted"]).await, "overloaded");
    send(&mut client, &operations_of([4, 5, 6])).await;
    assert_eq!(first_of(&mut client, &["overloaded", "accepted"]).await, "accepted");
    send(&mut client, &operations_of([7])).await;
    assert_eq!(first_of(&mut client, &["overloaded", "accepted"]).await, "accepted");
}

#[actix_web::test]
async fn whoever_has_heard_of_a_refused_operation_may_go_on() {
    let served = Served::new(Config::default()).await;
    let (mut client, connection) = served.open().await;
    // One that is still to be answered when the operation is refused.
    connection.beat(&served.worker);
    served.refuse(&mut client, [4]).await;
    send(&mut client, HEARTBEAT).await;
    send(&mut client, &operations_of([5])).await;
    assert_eq!(first_of(&mut client, &["overloaded", "accepted"]).await, "overloaded");
    send(&mut client, HEARTBEAT).await;
    send(&mut client, &operations_of([6])).await;
    assert_eq!(first_of(&mut client, &["overloaded", "accepted"]).await, "accepted");
}

#[actix_web::test]
async fn nor_what_was_sent_behind_one_that_was_too_many_for_the_rate() {
    let served = Served::new(Config {
        writes_a_second_max: 1,
        ..Config::default()
    })
    .await;
    let (mut client, _) = served.open().await;
    // Ten may come at once.
    send(&mut client, &operations_of(1..=5)).await;
    first_of(&mut client, &["accepted"]).await;
    send(&mut client, &operations_of(11..=20)).await;
    assert_eq!(
        first_of(&mut client, &["rate_limited", "accepted"]).await,
        "rate_limited"
    );
    // That has used nothing up: for this one there is room, but it comes behind.
    send(&mut client, &operations_of([21])).await;
    assert_eq!(
        first_of(&mut client, &["rate_limited", "accepted"]).await,
        "rate_limited"
    );
    send(&mut client, &operations_of([11])).await;
    assert_eq!(first_of(&mut client, &["rate_limited", "accepted"]).await, "accepted");
}

#[actix_web::test]
async fn whoever_answers_no_heartbeat_goes_on_when_its_time_is_over() {
    let served = Served::new(Config::default()).await;
    let (mut client, connection) = served.open().await;
    let now_s = served.worker.now_s();
    served.refuse(&mut client, [4]).await;
    let until_s = connection.state().refused.as_ref().expect("it was refused").until_s;
    assert!(until_s > now_s + 2, "its client waits for two seconds");
    connection.state().refused.as_mut().expect("still").until_s = served.worker.now_s();
    send(&mut client, &operations_of([6])).await;
    assert_eq!(first_of(&mut client, &["overloaded", "accepted"]).await, "accepted");
}

#[actix_web::test]
async fn the_operations_of_a_connection_that_ends_are_under_way_no_more() {
    let bench = ApiBench::new(Config::default());
    let overload = bench.api.overload.clone();
    // Nobody answers here: its feed's answers go elsewhere.
    let worker = worker(&bench, Arc::new(Hub::new(1)), bench.api.router.clone());
    let token = bench.api.tokens.mint(UserId(Uuid::from_u128(1)), Uuid::from_u128(2));
    let (mut client, connection) = open(&worker, token).await;
    send(&mut client, &operations_of([4])).await;
    until(|| overload.limit_operations(u32::MAX) == 1).await;
    drop((client, connection));
    until(|| overload.limit_operations(u32::MAX) == 0).await;
}

/// Waits for something that other tasks do.
async fn until(is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .expect("it comes about");
}
