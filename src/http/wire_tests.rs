//! What only a real socket shows: bodies that do not end, clients that go away.

use std::net::SocketAddr;
use std::time::Duration;

use actix_web::{App, HttpServer, web};
use taskflow_protocol::limits::MESSAGE_BYTES_MAX;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::config::Config;
use crate::http::{Api, routes};
use crate::testing::ApiBench;

/// Longest wait for anything here; nothing takes as long.
const PATIENCE: Duration = Duration::from_secs(20);

fn serve(api: web::Data<Api>) -> SocketAddr {
    let server = HttpServer::new(move || App::new().app_data(api.clone()).configure(routes))
        .workers(1)
        .disable_signals()
        .bind("127.0.0.1:0")
        .expect("a free port");
    let address = *server.addrs().first().expect("an address");
    actix_rt::spawn(server.run());
    address
}

/// Reads until the text is there.
async fn read_until(stream: &mut TcpStream, seen: &mut String, wanted: &str) {
    let read = async {
        while !seen.contains(wanted) {
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).await.expect("readable");
            assert_ne!(count, 0, "the connection ended before {wanted:?}: {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("in time");
}

#[actix_web::test]
async fn a_body_without_end_is_cut_off_at_the_limit() {
    let bench = ApiBench::new(Config::default());
    let (_, token) = bench.user().await;
    let address = serve(bench.api.clone());
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let head = format!(
        "POST /api/v1/tasks HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    let (mut reader, mut writer) = stream.split();
    let send = async {
        for _ in 0..4 * MESSAGE_BYTES_MAX / 0x4000 {
            if writer.write_all(chunk.as_bytes()).await.is_err() {
                return;
            }
        }
    };
    let receive = async {
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&seen).contains("too_large") {
            match reader.read(&mut buffer).await {
                Ok(count) if count > 0 => seen.extend_from_slice(&buffer[..count]),
                _ => break,
            }
        }
        String::from_utf8_lossy(&seen).into_owned()
    };
    let both = async { tokio::join!(send, receive) };
    let ((), seen) = tokio::time::timeout(PATIENCE, both).await.expect("in time");
    assert!(seen.starts_with("HTTP/1.1 413 "), "{seen}");
}

#[actix_web::test]
async fn requests_on_one_connection_do_not_disturb_each_other() {
    let bench = ApiBench::new(Config::default());
    let (_, token) = bench.user().await;
    let address = serve(bench.api.clone());
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = |body: &str| {
        format!(
            "POST /api/v1/tasks HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    // A bad one, one without a token, and a good one, all at once.
    let all = [
        request("{\"title\""),
        "POST /api/v1/tasks HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}".to_owned(),
        request("{\"title\":\"good\"}"),
    ];
    stream.write_all(all.concat().as_bytes()).await.expect("sent");
    let mut seen = String::new();
    read_until(&mut stream, &mut seen, "\"title\":\"good\"").await;
    let statuses: Vec<&str> = seen
        .split("HTTP/1.1 ")
        .skip(1)
        .filter_map(|answer| answer.split(' ').next())
        .collect();
    assert_eq!(statuses, ["400", "401", "201"]);
}

#[actix_web::test]
async fn an_event_stream_arrives_at_once_and_its_seat_is_free_when_the_client_goes() {
    let bench = ApiBench::new(Config::default());
    let (user, token) = bench.user().await;
    let address = serve(bench.api.clone());
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let head = format!(
        "GET /api/v1/events HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
         accept: text/event-stream\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut seen = String::new();
    read_until(&mut stream, &mut seen, "\"done\"").await;
    assert!(seen.contains("event: reset\n"), "{seen}");
    let change = async |n: u64| {
        let command = serde_json::json!({ "settings_patch": { "week_start": if n.is_multiple_of(2) { "sunday" } else { "monday" } } });
        let operation = taskflow_protocol::message::Operation {
            id: taskflow_protocol::OperationId(uuid::Uuid::from_u128(u128::from(n) + 1)),
            base: None,
            command: serde_json::from_value(command).expect("a command"),
        };
        bench.api.router.ask(user, user, vec![operation], None).await
    };
    change(0).await;
    read_until(&mut stream, &mut seen, "event: entries\n").await;
    assert_eq!(bench.api.seats.open(), 1);
    drop(stream);
    // Only writing shows that nobody is there.
    let gone = async {
        for n in 1.. {
            if bench.api.seats.open() == 0 {
                return;
            }
            change(n).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("in time");
}
