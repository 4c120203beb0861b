//! How much may be asked for, and what answers cost on the wire.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::http::{self, Connection, Response};
use crate::support::server::Server;
use crate::support::ws::{Client, operation, task};
use crate::support::{ENCODINGS, Encoding, EventStream, Replica, Value, eventually, id, json};

/// The harness has no limits but these.
fn limited(flags: &[&str]) -> Server {
    Server::start(flags)
}

/// How many of the requests that are sent for so long pass, and how long that was.
fn passed(within: Duration, mut ask: impl FnMut() -> u16) -> (u32, f64) {
    let begun = Instant::now();
    let mut passed = 0;
    while begun.elapsed() < within {
        match ask() {
            429 => {}
            status if status < 400 => passed += 1,
            status => panic!("status {status}"),
        }
    }
    (passed, begun.elapsed().as_secs_f64())
}

/// Neither more nor much less than the burst and the rate together.
fn is_the_rate(what: &str, (passed, seconds): (u32, f64), a_second: f64) {
    let most = a_second * (10.0 + seconds) + 2.0;
    assert!(
        f64::from(passed) <= most,
        "{what}: {passed} in {seconds} s, at most {most}"
    );
    let least = a_second * (10.0 + seconds * 0.8) - 2.0;
    assert!(
        f64::from(passed) >= least,
        "{what}: {passed} in {seconds} s, at least {least}"
    );
}

/// Longer than what a burst alone would take.
const WHILE: Duration = Duration::from_secs(3);

#[test]
fn a_user_reads_at_the_rate_for_as_long_as_one_likes_and_others_do_not_notice() {
    let server = limited(&["--reads-a-second-max=10"]);
    let (ada, bob) = (server.register(), server.register());
    let mut connection = Connection::open(server.address);
    let header = [ada.bearer(), "connection: keep-alive".to_owned()];
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut last = None;
    let all = passed(WHILE, || {
        connection.send("GET", "/api/v1/settings", &header, b"");
        let answer = connection.response();
        let status = answer.status;
        last = Some(answer).filter(|answer| answer.status == 429).or(last.take());
        status
    });
    is_the_rate("reads", all, 10.0);
    let refused = last.expect("some were refused");
    assert_eq!(refused.json()["name"], "rate_limited");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.header("ratelimit-policy"), Some("\"reads\";q=100;w=10"));
    assert!(refused.header("ratelimit").unwrap().starts_with("\"reads\";r=0;t=1"));
    let other = server.get("/api/v1/settings", &bob);
    assert_eq!(
        (other.status, other.header("ratelimit")),
        (200, Some("\"reads\";r=99;t=1"))
    );
    assert!(server.metric("taskflow_limited_total{what=\"reads\"}") > 100.0);
    // Changing something is another matter.
    assert_eq!(server.post("/api/v1/tasks", &ada, &json!({ "title": "t" })).status, 201);
}

#[test]
fn operations_count_together_however_they_come() {
    let server = limited(&["--writes-a-second-max=10"]);
    let ada = server.register();
    let begun = Instant::now();
    let many: Vec<Value> = (0..60).map(|_| operation(&task("t")["command"])).collect();
    let answer = server.post("/api/v1/operations", &ada, &json!({ "operations": many }));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.header("ratelimit").unwrap().starts_with("\"writes\";r="));
    let mut socket = Client::open(&server, Encoding::Json, &ada);
    let all = passed(WHILE, || {
        let outcome = socket.submit(&operation(&task("t")["command"]));
        match outcome.get("refused") {
            None => 200,
            Some(refused) => {
                assert_eq!(refused["name"], "rate_limited", "{refused}");
                assert!(refused["retry_after_ms"].as_u64() >= Some(1), "{refused}");
                429
            }
        }
    });
    let together = (all.0 + 60, begun.elapsed().as_secs_f64());
    is_the_rate("operations", together, 10.0);
    // What was refused is taken a little later, under the same id.
    let again = operation(&task("again")["command"]);
    eventually("it is taken", || {
        socket.submit(&again).get("accepted").is_some().then_some(())
    });
    for encoding in ENCODINGS {
        let refused = Client::open(&server, encoding, &ada).submit(&operation(&task("t")["command"]));
        assert!(refused.get("refused").is_some() || refused.get("accepted").is_some());
    }
}

#[test]
fn strangers_share_what_their_address_may_ask_for() {
    let server = limited(&["--strangers-a-second-max=10", "--trusted-proxies=127.0.0.1"]);
    let ada = server.register();
    let ask = |headers: &[&str]| http::request(server.address, "GET", "/.well-known/jwks.json", headers, b"").status;
    let from = |address: &str| format!("x-forwarded-for: {address}");
    let (here, there) = (from("192.0.2.1"), from("192.0.2.2"));
    is_the_rate("strangers", passed(WHILE, || ask(&[&here])), 10.0);
    assert_eq!(ask(&[&there]), 200, "another address");
    // A bad token makes nobody a user, a good one does.
    let with = |token: &str| {
        let bearer = format!("authorization: Bearer {token}");
        http::request(server.address, "GET", "/api/v1/settings", &[&here, &bearer], b"").status
    };
    assert!((0..50).any(|_| with("eyJhbGciOiJub25lIn0.e30.") == 429));
    assert_eq!(with(&ada.token), 200);
    // Nor does one that nobody reads.
    let open = |path: &str| http::request(server.address, "GET", path, &[&here, "authorization: x"], b"").status;
    for path in ["/openapi.json", "/docs", "/nothing"] {
        assert!((0..50).any(|_| open(path) == 429), "{path}");
    }
    // Handshakes are of strangers, too, unless a good token comes with them.
    let upgrade = |from: &str, protocols: &str| {
        let mut socket = crate::support::Raw::connect(server.address);
        let protocols = format!("sec-websocket-protocol: taskflow.v1.json{protocols}");
        socket.upgrade(&[from, &protocols]).status
    };
    let good = format!(", taskflow.token.{}", ada.token);
    assert!((0..50).any(|_| upgrade(&here, "") == 429));
    assert!((0..50).any(|_| upgrade(&here, ", taskflow.token.bad") == 429));
    for _ in 0..50 {
        assert_eq!(upgrade(&here, &good), 101);
    }
    assert_eq!(upgrade(&there, ""), 101);
}

#[test]
fn nobody_is_asked_about_tokens_that_come_with_too_many_bad_ones() {
    let server = limited(&["--strangers-a-second-max=1", "--trusted-proxies=127.0.0.1"]);
    let ada = server.register();
    let personal = || {
        let wish = json!({ "name": "script", "scopes": ["tasks:read"], "expires_in_days": 1 });
        let made = server.post("/api/v1/tokens", &ada, &wish);
        assert_eq!(made.status, 201, "{made:?}");
        made.json()["token"].as_str().unwrap().to_owned()
    };
    let from = |address: &str, token: &str| {
        let headers = [
            format!("x-forwarded-for: {address}"),
            format!("authorization: Bearer {token}"),
        ];
        let headers = headers.each_ref().map(String::as_str);
        let read = http::request(server.address, "GET", "/api/v1/settings", &headers, b"").status;
        let mut socket = crate::support::Raw::connect(server.address);
        (read, socket.upgrade(&headers).status)
    };
    let (known, unknown) = (personal(), personal());
    let (here, there) = ("192.0.2.1", "192.0.2.2");
    assert_eq!(from(here, &known), (200, 101));
    // The next one may come a second after the first.
    assert!((0..20).any(|_| from(here, "bad") == (429, 429)));
    assert_eq!(from(here, &unknown), (429, 429));
    assert_eq!(from(here, &known), (200, 101), "it was asked for before");
    assert_eq!(from(here, &ada.token), (200, 101), "it was signed here");
    assert_eq!(from(there, &unknown), (200, 101), "another address");
}

#[test]
fn handshakes_with_a_good_token_count_as_reads_of_its_user() {
    let server = limited(&["--reads-a-second-max=10", "--strangers-a-second-max=1"]);
    let ada = server.register();
    let all = passed(WHILE, || {
        let mut socket = crate::support::Raw::connect(server.address);
        socket.upgrade(&[&ada.bearer()]).status
    });
    is_the_rate("handshakes", all, 10.0);
}

#[test]
fn limits_that_are_tried_out_refuse_nobody() {
    let server = limited(&["--reads-a-second-max=1", "--rate-limits=count"]);
    let ada = server.register();
    for _ in 0..30 {
        assert_eq!(server.get("/api/v1/settings", &ada).status, 200);
    }
    assert!(server.metric("taskflow_limited_total{what=\"reads\"}") >= 1.0);
}

#[test]
fn who_wants_little_gets_little() {
    let server = Server::start(&[]);
    let ada = server.user();
    let minimal = ["prefer: respond-async, return=minimal"];
    let key = id();
    let headers = [minimal[0], &format!("idempotency-key: {key}")];
    let made = server.send("POST", "/api/v1/tasks", &ada, &headers, &json!({ "title": "quiet" }));
    assert_eq!((made.status, made.body.len()), (201, 0), "{made:?}");
    assert_eq!(made.header("preference-applied"), Some("return=minimal"));
    let path = made.header("location").unwrap().to_owned();
    let tag = format!("if-match: {}", made.header("etag").unwrap());
    let changed = server.send(
        "PATCH",
        &path,
        &ada,
        &[minimal[0], &tag],
        &json!({ "title": "quieter" }),
    );
    assert_eq!((changed.status, changed.body.len()), (204, 0), "{changed:?}");
    let now = server.get(&path, &ada);
    assert_eq!(
        (now.header("etag"), &now.json()["title"]),
        (changed.header("etag"), &json!("quieter"))
    );
    let done = server.send("POST", &format!("{path}/complete"), &ada, &minimal, &Value::Null);
    assert_eq!(done.status, 204);
    // The same once more is done already: which version it made is history.
    let again = server.send("POST", "/api/v1/tasks", &ada, &headers, &json!({ "title": "quiet" }));
    assert_eq!(
        (again.status, again.header("location")),
        (201, Some(&*path)),
        "{again:?}"
    );
    let whole = server.send(
        "PATCH",
        &path,
        &ada,
        &["prefer: return=representation"],
        &json!({ "title": "loud" }),
    );
    assert_eq!((whole.status, &whole.json()["title"]), (200, &json!("loud")));
}

fn plain(answer: &Response) -> Vec<u8> {
    let mut bytes = Vec::new();
    match answer.header("content-encoding") {
        Some("br") => brotli::Decompressor::new(&*answer.body, 4_096)
            .read_to_end(&mut bytes)
            .unwrap(),
        Some("zstd") => zstd::Decoder::new(&*answer.body)
            .and_then(|mut decoder| decoder.read_to_end(&mut bytes))
            .unwrap(),
        Some("gzip") => flate2::read::GzDecoder::new(&*answer.body)
            .read_to_end(&mut bytes)
            .unwrap(),
        None => return answer.body.clone(),
        other => panic!("{other:?}"),
    };
    bytes
}

#[test]
fn answers_are_compressed_for_who_takes_that() {
    let server = Server::start(&[]);
    let ada = server.user();
    for n in 0..60 {
        let body = json!({ "title": format!("Crème fraîche {n}"), "notes": "ä".repeat(600) });
        assert_eq!(server.post("/api/v1/tasks", &ada, &body).status, 201);
    }
    let ask = |path: &str, accept: &[&str]| {
        let bearer = ada.bearer();
        let mut headers = vec![bearer.as_str()];
        headers.extend(accept);
        http::request(server.address, "GET", path, &headers, b"")
    };
    for path in ["/api/v1/tasks", "/api/v1/snapshot", "/api/v1/export", "/openapi.json"] {
        let whole = ask(path, &[]);
        assert_eq!((whole.status, whole.header("content-encoding")), (200, None), "{path}");
        for (accept, coding) in [
            ("accept-encoding: gzip, br, zstd", "zstd"),
            ("accept-encoding: gzip, br", "br"),
            ("accept-encoding: gzip", "gzip"),
        ] {
            let small = ask(path, &[accept]);
            assert_eq!(
                (small.status, small.header("content-encoding")),
                (200, Some(coding)),
                "{path}"
            );
            assert!(
                small
                    .header("vary")
                    .is_some_and(|vary| vary.contains("Accept-Encoding")),
                "{path}"
            );
            assert!(
                small.body.len() < whole.body.len() / 3,
                "{path}: {} of {}",
                small.body.len(),
                whole.body.len()
            );
            if path != "/api/v1/export" {
                assert!(plain(&small) == whole.body, "{path}");
            } else {
                let document =
                    |answer: &Response| serde_json::from_slice::<Value>(&plain(answer)).unwrap()["tasks"].clone();
                assert_eq!(document(&small), document(&whole));
            }
        }
    }
    // A tag of a page means the same with and without; that of a row is of its bytes.
    let page = ask("/api/v1/tasks", &["accept-encoding: br"]);
    let had = format!("if-none-match: {}", page.header("etag").unwrap());
    assert_eq!(ask("/api/v1/tasks", &[&had]).status, 304);
    let id = serde_json::from_slice::<Value>(&plain(&page)).unwrap()["items"][0]["id"].clone();
    let row = ask(
        &format!("/api/v1/tasks/{}", id.as_str().unwrap()),
        &["accept-encoding: br"],
    );
    assert_eq!(row.header("content-encoding"), None);
    // Events leave one by one.
    let headers = [ada.bearer(), "accept-encoding: gzip".to_owned()];
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let mut stream = crate::support::EventStream::open(server.address, "/api/v1/events", &headers).unwrap();
    stream.wait_for("snapshot");
}

#[test]
fn a_socket_sends_at_the_rate_and_what_is_more_waits_and_is_not_lost() {
    let server = limited(&["--socket-bytes-a-second-max=20000"]);
    let ada = server.register();
    let mut client = Client::open(&server, Encoding::Json, &ada);
    let mut other = Client::open(&server, Encoding::Json, &ada);
    let big = || operation(&json!({ "task_create": { "task": id(), "title": "t", "notes": "n".repeat(10_000) } }));
    let operations: Vec<Value> = (0..40).map(|_| big()).collect();
    let begun = Instant::now();
    let seqs: Vec<u64> = operations
        .iter()
        .map(|operation| {
            // At once: 400 KB of which ten seconds' worth, 200 KB, need no waiting.
            client.send_operations(std::slice::from_ref(operation));
            operation["id"].as_str().expect("an id").to_owned()
        })
        .collect::<Vec<_>>()
        .iter()
        .map(|id| {
            client.outcome(id)["accepted"]["seq"]
                .as_u64()
                .expect("all are accepted")
        })
        .collect();
    // The rest at the rate, but for what one read takes in advance (64 KiB) and a tick of the server's clock (a second).
    assert!(begun.elapsed() >= Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(seqs.is_sorted(), "{seqs:?}");
    assert!(server.metric("taskflow_limited_total{what=\"bytes\"}") >= 1.0);
    other.accept(&task("of another connection")["command"]);
}

#[test]
fn statistics_that_are_asked_for_again_and_again_are_reads() {
    let server = limited(&["--reads-a-second-max=1"]);
    let ada = server.register();
    let mut client = Client::open(&server, Encoding::Json, &ada);
    let refused = eventually("it is too much", || {
        client.send(&json!({ "follow": { "statistics": true } }));
        let answer = client.wait("an answer", |message| {
            let is_answer = message.get("following").or(message.get("error")).is_some();
            is_answer.then(|| message.clone())
        });
        client.send(&json!({ "unfollow": {} }));
        answer.get("error").cloned()
    });
    assert_eq!(
        (&refused["name"], &refused["feed"]),
        (&json!("rate_limited"), &json!(ada.user))
    );
    assert!(refused["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{refused}");
}

#[test]
fn a_sign_in_is_refreshed_at_a_rate_wherever_the_others_are() {
    let server = limited(&[]);
    let ada = server.register();
    let bob = server.register();
    let refresh = |token: &str| {
        http::post(
            server.address,
            "/api/v1/auth/refresh",
            &[],
            &json!({ "refresh_token": token }),
        )
    };
    let mut token = ada.refresh;
    let refused = eventually("it is too much", || {
        let answer = refresh(&token);
        if answer.status == 200 {
            token = answer.json()["refresh_token"].as_str().expect("a token").to_owned();
        }
        (answer.status != 200).then_some(answer)
    });
    assert_eq!((refused.status, &refused.json()["name"]), (429, &json!("rate_limited")));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(refresh(&bob.refresh).status, 200);
    // It was not used up by being refused.
    eventually("it passes again", || (refresh(&token).status == 200).then_some(()));
}

/// Files that this process may open: as many as it can.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("the soft limit may be raised");
}

#[test]
fn ten_thousand_who_are_slow_make_room_for_others() {
    raise_file_limit();
    let server = Server::start(&[]);
    let ada = server.register();
    let mut events = EventStream::open(server.address, "/api/v1/events", &[&ada.bearer()]).expect("a stream");
    let cursor = Replica::of(&server, &ada).cursor.expect("a cursor");
    let mut poll = Connection::open(server.address);
    poll.send(
        "GET",
        &format!("/api/v1/changes?cursor={cursor}&wait=30"),
        &[&ada.bearer()],
        b"",
    );

    // Half of them send half a head, the others a head and no body.
    let host = server.address;
    let head = format!("GET /api/v1/tasks HTTP/1.1\r\nhost: {host}\r\nx-slow: ");
    let bodiless = format!(
        "POST /api/v1/auth/login HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
    );
    let slow: Vec<TcpStream> = (0..10_000)
        .map(|n| {
            // From an address of their own: the ports of ours are those that other tests listen on.
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            let from = SocketAddr::from(([127, 0, 0, 2], 0));
            socket.bind(&from.into()).expect("a free port");
            socket.connect(&host.into()).expect("the server accepts");
            let mut stream = TcpStream::from(socket);
            let sent = stream.write_all(if n % 2 == 0 { &head } else { &bodiless }.as_bytes());
            drop(sent);
            stream
        })
        .collect();
    let closed = "taskflow_http_idle_closed_total";
    eventually("those who have waited for longest are closed", || {
        let answer = http::request(host, "GET", "/.well-known/jwks.json", &[], b"");
        assert_eq!(answer.status, 200);
        (server.metric(closed) >= 5_000.0).then_some(())
    });
    assert_eq!(
        server.post("/api/v1/tasks", &ada, &json!({ "title": "seen" })).status,
        201
    );
    while !events.wait_for("entries").data.to_string().contains("seen") {}
    let changes = poll.response();
    assert!(
        changes.status == 200 && String::from_utf8_lossy(&changes.body).contains("seen"),
        "{changes:?}"
    );
    drop(slow);
}
