//! What cannot be brought about from outside: moments between two steps of one connection.

use std::sync::Arc;

use taskflow_actors::session::Sessions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::*;
use crate::auth::SignedOut;
use crate::config::Config;
use crate::socket::{Gateway, Hub};
use crate::telemetry::Telemetry;
use crate::testing::ApiBench;

/// A worker that runs on the thread of the test.
fn worker(bench: &ApiBench) -> Rc<Worker> {
    let hub = Arc::new(Hub::new(1));
    let gateway = Arc::new(Gateway {
        hub: hub.clone(),
        router: bench.api.router.clone(),
        store: bench.api.store.clone(),
        tokens: bench.api.tokens.clone(),
        sessions: Sessions::new(hub),
        seats: bench.api.seats.clone(),
        clock: bench.api.clock.clone(),
        metrics: Telemetry::new().metrics,
        build: String::new(),
        heartbeat_ms: 1_000_000,
        heartbeat_timeout_s: 1_000_000,
        outbound_bytes_max: usize::MAX,
        outbound_bytes_total_max: usize::MAX,
        reconnect_window_ms: 0,
        snapshots: Arc::new(Semaphore::new(1)),
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
        client.read_buf(&mut text).await.expect("readable");
        let seen = String::from_utf8_lossy(&text);
        if let Some(word) = words.iter().find(|word| seen.contains(**word)) {
            return word;
        }
    }
}

#[actix_web::test]
async fn a_sign_in_that_ends_after_its_token_was_checked_ends_the_connection_that_brought_it() {
    let bench = ApiBench::new(Config::default());
    let tokens = &bench.api.tokens;
    let user = UserId(Uuid::from_u128(1));
    let (old, new) = (Uuid::from_u128(2), Uuid::from_u128(3));
    let worker = worker(&bench);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let mut client = TcpStream::connect(listener.local_addr().expect("bound"))
        .await
        .expect("it listens");
    let (stream, _) = listener.accept().await.expect("somebody comes");
    worker.adopt(stream, Encoding::Json, Some(tokens.mint(user, old)), &[]);
    let connection = worker.connection(ConnectionId {
        worker: 0,
        slot: 0,
        generation: 0,
    });
    let connection = connection.expect("it was adopted");
    let hello = br#"{"hello":{"protocol":{"min":1,"max":1}}}"#;
    // Text, one frame, masked with zeros (RFC 6455, section 5.2).
    let mut frame = vec![0x81, 0x80 | hello.len() as u8, 0, 0, 0, 0];
    frame.extend(hello);
    client.write_all(&frame).await.expect("writable");
    first_of(&mut client, &["welcome"]).await;

    let claims = tokens.verify(&tokens.mint(user, new)).await.expect("good");
    // The session still knows the connection by its old sign-in, so this concerns nobody.
    tokens.end(SignedOut { user, sign_in: new });
    connection.refreshed(&worker, &claims);
    let words = ["refreshed", "signed_out"];
    assert_eq!(first_of(&mut client, &words).await, "signed_out");
}
