//! RFC 6455, sections 5 to 8: what Autobahn's test suite asks of an echo server, asked of ours. It does not echo, so a
//! ping shows that it goes on, and the close code why it does not.

use crate::support::ws::{BINARY, CLOSE, CONTINUATION, FIN, Frame, PING, PONG, TEXT, closing, handshake, masked};
use crate::support::{Account, Client, ENCODINGS, Encoding, Ended, Raw, Server, http, json};

const LIMIT: usize = 256 * 1024;

struct Peer {
    server: Server,
    account: Account,
}

impl Peer {
    fn new() -> Self {
        let server = Server::start(&[]);
        let account = server.user();
        Self { server, account }
    }

    fn open(&self, encoding: Encoding) -> Client {
        Client::open(&self.server, encoding, &self.account)
    }

    /// These bytes end a JSON connection with this code.
    fn ends(&self, bytes: &[u8], code: u16, why: &str) {
        let mut client = self.open(Encoding::Json);
        client.says_goodbye(bytes);
        assert_eq!(client.ended().code(), Some(code), "{why}");
    }

    /// These bytes leave a connection as it was.
    fn goes_on(&self, encoding: Encoding, bytes: &[u8], why: &str) {
        let mut client = self.open(encoding);
        client.raw.send(bytes);
        client.flush();
        assert!(client.stash.is_empty(), "{why}: {:?}", client.stash);
    }
}

/// The next frame that is no heartbeat: one may come at any time.
fn frame(client: &mut Client) -> Option<Frame> {
    loop {
        let frame = client.raw.frame()?;
        if frame.first != FIN | TEXT && frame.first != FIN | BINARY {
            return Some(frame);
        }
        assert_eq!(client.encoding.decode(&frame.payload), json!({ "heartbeat": {} }));
    }
}

/// A heartbeat, made this long with spaces, which JSON allows.
fn padded_heartbeat(length: usize) -> Vec<u8> {
    let mut text = br#"{"heartbeat":{}}"#.to_vec();
    text.resize(length, b' ');
    text
}

const HEARTBEAT: &[u8] = br#"{"heartbeat":{}}"#;

#[test]
fn every_way_to_write_a_length_is_read() {
    let peer = Peer::new();
    for length in [16, 125, 126, 127, 128, 65_535, 65_536, LIMIT - 1, LIMIT] {
        peer.goes_on(
            Encoding::Json,
            &masked(FIN | TEXT, &padded_heartbeat(length)),
            &format!("{length} bytes"),
        );
    }
    // In MessagePack a document has no padding: a token of this length makes it long, and is refused as a token.
    for length in [30, 125, 126, 65_535, 65_536, LIMIT] {
        let mut client = peer.open(Encoding::MsgPack);
        let mut token = String::new();
        let mut frame = Vec::new();
        while frame.len() < length {
            token.push_str(&"x".repeat(length.saturating_sub(frame.len()).max(1)));
            let payload = Encoding::MsgPack.encode(&json!({ "refresh": { "token": token } }));
            if payload.len() > length {
                token.truncate(token.len() - (payload.len() - length));
                frame = Encoding::MsgPack.encode(&json!({ "refresh": { "token": token } }));
                break;
            }
            frame = payload;
        }
        client.raw.send(&masked(FIN | BINARY, &frame));
        assert_eq!(client.wait_for("error")["name"], "token_invalid", "{length} bytes");
    }
}

#[test]
fn an_empty_message_is_malformed_and_the_connection_goes_on() {
    let peer = Peer::new();
    for (encoding, opcode) in [(Encoding::Json, TEXT), (Encoding::MsgPack, BINARY)] {
        let mut client = peer.open(encoding);
        client.raw.send(&masked(FIN | opcode, b""));
        assert_eq!(client.wait_for("error")["name"], "malformed");
        client.flush();
    }
}

#[test]
fn a_ping_is_answered_with_its_payload_and_pongs_are_ignored() {
    let peer = Peer::new();
    let pong = |payload: &[u8]| Frame {
        first: FIN | PONG,
        payload: payload.to_vec(),
    };
    let full: Vec<u8> = (0..125).collect();
    for encoding in ENCODINGS {
        let mut client = peer.open(encoding);
        for payload in [&b""[..], b"hello", &[0, 0xff, 0xfe, 0xc0], &full] {
            client.raw.send(&masked(FIN | PING, payload));
            assert_eq!(frame(&mut client), Some(pong(payload)));
        }
        // Ten at once, in order; byte by byte; and pongs that nobody asked for.
        let many: Vec<u8> = (0..10).flat_map(|index| masked(FIN | PING, &[index])).collect();
        client.raw.send(&many);
        for index in 0..10 {
            assert_eq!(frame(&mut client), Some(pong(&[index])));
        }
        for byte in masked(FIN | PING, b"slow") {
            client.raw.send(&[byte]);
        }
        assert_eq!(frame(&mut client), Some(pong(b"slow")));
        client
            .raw
            .send(&[masked(FIN | PONG, b""), masked(FIN | PONG, &full)].concat());
        client.flush();
    }
    peer.ends(&masked(FIN | PING, &[0; 126]), 1002, "a ping of 126 bytes");
}

#[test]
fn reserved_bits_and_opcodes_are_a_framing_error() {
    let peer = Peer::new();
    for rsv in [0x40, 0x20, 0x10, 0x70] {
        for opcode in [TEXT, PING, CLOSE, CONTINUATION] {
            peer.ends(
                &masked(FIN | rsv | opcode, b""),
                1002,
                &format!("bits {rsv:x} on {opcode}"),
            );
        }
    }
    for opcode in (3..=7).chain(11..=15) {
        peer.ends(&masked(FIN | opcode, b""), 1002, &format!("opcode {opcode}"));
        peer.ends(&masked(FIN | opcode, b"payload"), 1002, &format!("opcode {opcode}"));
    }
    // Also right behind a message that is fine.
    let both = [masked(FIN | TEXT, HEARTBEAT), masked(FIN | 5, b"")].concat();
    peer.ends(&both, 1002, "behind a good message");
}

#[test]
fn a_frame_without_a_mask_is_a_framing_error() {
    let peer = Peer::new();
    let mut bytes = vec![FIN | TEXT, HEARTBEAT.len() as u8];
    bytes.extend_from_slice(HEARTBEAT);
    peer.ends(&bytes, 1002, "no mask");
    peer.ends(&[FIN | PING, 0], 1002, "no mask on a ping");
}

#[test]
fn fragments_are_joined_whatever_comes_between_them() {
    let peer = Peer::new();
    let (a, b) = HEARTBEAT.split_at(7);
    let cases: [(&str, Vec<Vec<u8>>); 4] = [
        ("two", vec![masked(TEXT, a), masked(FIN | CONTINUATION, b)]),
        (
            "empty ones",
            vec![
                masked(TEXT, b""),
                masked(CONTINUATION, HEARTBEAT),
                masked(FIN | CONTINUATION, b""),
            ],
        ),
        (
            "a pong between",
            vec![masked(TEXT, a), masked(FIN | PONG, b"x"), masked(FIN | CONTINUATION, b)],
        ),
        (
            "one a byte",
            std::iter::once(masked(TEXT, b""))
                .chain(HEARTBEAT.iter().map(|byte| masked(CONTINUATION, &[*byte])))
                .chain([masked(FIN | CONTINUATION, b"")])
                .collect(),
        ),
    ];
    for (why, frames) in cases {
        peer.goes_on(Encoding::Json, &frames.concat(), why);
    }
    // A ping between is answered before the message is complete.
    let mut client = peer.open(Encoding::Json);
    client
        .raw
        .send(&[masked(TEXT, br#"{"unfol"#), masked(FIN | PING, b"between")].concat());
    let pong = Frame {
        first: FIN | PONG,
        payload: b"between".to_vec(),
    };
    assert_eq!(frame(&mut client), Some(pong));
    client.raw.send(&masked(FIN | CONTINUATION, br#"low":{}}"#));
    assert_eq!(client.wait_for("error")["name"], "not_following");
}

#[test]
fn fragments_that_break_the_rules_are_a_framing_error() {
    let peer = Peer::new();
    let begun = masked(TEXT, br#"{"heart"#);
    let cases = [
        ("a continuation of nothing", masked(FIN | CONTINUATION, b"x")),
        ("a continuation of nothing, not the last", masked(CONTINUATION, b"x")),
        (
            "a new message within",
            [begun.clone(), masked(FIN | TEXT, HEARTBEAT)].concat(),
        ),
        (
            "a new fragmented message within",
            [begun.clone(), masked(TEXT, HEARTBEAT)].concat(),
        ),
        ("a binary one within", [begun, masked(FIN | BINARY, b"x")].concat()),
        ("a continuation after the end", {
            [
                masked(TEXT, b"{"),
                masked(FIN | CONTINUATION, b"}"),
                masked(FIN | CONTINUATION, b""),
            ]
            .concat()
        }),
        ("a fragmented ping", masked(PING, b"x")),
        ("a fragmented pong", masked(PONG, b"x")),
        ("a fragmented close", masked(CLOSE, &1000_u16.to_be_bytes())),
    ];
    for (why, bytes) in cases {
        peer.ends(&bytes, 1002, why);
    }
}

#[test]
fn text_that_is_not_utf8_fails_at_the_first_wrong_byte() {
    let peer = Peer::new();
    let bad: [&[u8]; 9] = [
        b"\xff",
        b"{\x80}",
        b"\xc0\xaf",         // overlong
        b"\xe0\x80\xaf",     // overlong
        b"\xed\xa0\x80",     // a surrogate
        b"\xf4\x90\x80\x80", // above U+10FFFF
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        b"\xf8\x88\x80\x80\x80",
        b"{\"x\":\"\xe2\x82",
    ];
    for bytes in bad {
        peer.ends(&masked(FIN | TEXT, bytes), 1007, &format!("{bytes:x?}"));
    }
    // Fail fast: the message is not complete, and is over all the same.
    for bytes in &bad[..8] {
        peer.ends(&masked(TEXT, bytes), 1007, &format!("{bytes:x?} in a first fragment"));
        let fragments = [masked(TEXT, b"\xce"), masked(CONTINUATION, &[b"\xba", *bytes].concat())].concat();
        peer.ends(&fragments, 1007, &format!("{bytes:x?} in a second fragment"));
    }
    peer.ends(
        &[masked(TEXT, b"\xe2\x82"), masked(FIN | CONTINUATION, b"")].concat(),
        1007,
        "cut at the end",
    );
    peer.ends(
        &[masked(TEXT, b"\xe2"), masked(CONTINUATION, b"x")].concat(),
        1007,
        "not continued",
    );
    // Cut within a character, and whole again.
    let text = r#"{"refresh":{"token":"κόσμε 😀"}}"#.as_bytes();
    for cut in 21..text.len() - 3 {
        let mut client = peer.open(Encoding::Json);
        client
            .raw
            .send(&[masked(TEXT, &text[..cut]), masked(FIN | CONTINUATION, &text[cut..])].concat());
        assert_eq!(client.wait_for("error")["name"], "token_invalid", "cut at {cut}");
    }
    // MessagePack says where its text is: what is wrong there is the message's fault, not the frame's.
    let mut client = peer.open(Encoding::MsgPack);
    client
        .raw
        .send(&masked(FIN | BINARY, b"\x81\xa7refresh\x81\xa5token\xa2\xff\xff"));
    assert_eq!(client.wait_for("error")["name"], "invalid_utf8");
    client.flush();
}

#[test]
fn a_message_of_the_other_kind_closes_with_1003() {
    let peer = Peer::new();
    peer.ends(&masked(FIN | BINARY, HEARTBEAT), 1003, "binary to JSON");
    peer.ends(
        &masked(BINARY, HEARTBEAT),
        1003,
        "the beginning of a binary message to JSON",
    );
    let mut client = peer.open(Encoding::MsgPack);
    client.raw.send(&masked(FIN | TEXT, HEARTBEAT));
    assert_eq!(client.ended(), Ended::Closed(Some(1003), "wrong_encoding".to_owned()));
}

#[test]
fn what_is_too_large_closes_with_1009_before_it_is_read() {
    let peer = Peer::new();
    let header = |length: u64| [&[FIN | TEXT, 0x80 | 127][..], &length.to_be_bytes(), &[0; 4]].concat();
    // The header alone is enough: the server does not wait for the payload.
    for length in [LIMIT as u64 + 1, 1 << 32, i64::MAX as u64] {
        peer.ends(&header(length), 1009, &format!("{length} bytes announced"));
    }
    peer.ends(&header(1 << 63), 1002, "the highest bit must be 0 (section 5.2)");
    peer.ends(&masked(FIN | TEXT, &padded_heartbeat(LIMIT + 1)), 1009, "a frame");
    let half = padded_heartbeat(LIMIT / 2);
    let fragments = [
        masked(TEXT, &half),
        masked(CONTINUATION, &half[..]),
        masked(CONTINUATION, b" "),
    ]
    .concat();
    peer.ends(&fragments, 1009, "fragments");
    let exact = [
        masked(TEXT, HEARTBEAT),
        masked(FIN | CONTINUATION, &vec![b' '; LIMIT - HEARTBEAT.len()]),
    ]
    .concat();
    peer.goes_on(Encoding::Json, &exact, "fragments of exactly the limit");
    let fragments = |count: usize| {
        let mut bytes = masked(TEXT, HEARTBEAT);
        bytes.extend((2..count).flat_map(|_| masked(CONTINUATION, b"")));
        bytes.extend(masked(FIN | CONTINUATION, b""));
        bytes
    };
    peer.goes_on(Encoding::Json, &fragments(4096), "4,096 fragments");
    peer.ends(&fragments(4097), 1009, "4,097 fragments");
}

#[test]
fn a_close_is_answered_with_its_code() {
    let peer = Peer::new();
    let valid = [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999,
    ];
    for code in valid {
        peer.ends(&closing(code, b""), code, "echoed");
    }
    peer.ends(&closing(1000, b"going away"), 1000, "with a reason");
    peer.ends(&closing(1000, &[b'x'; 123]), 1000, "with the longest reason");
    peer.ends(&closing(1000, "bis später".as_bytes()), 1000, "with a reason in UTF-8");
    peer.ends(&masked(FIN | CLOSE, b""), 1000, "without a code");
    let mut client = peer.open(Encoding::Json);
    client.raw.send(&closing(1000, b""));
    assert_eq!(client.raw.ended(), Ended::Closed(Some(1000), String::new()));
}

#[test]
fn a_close_that_breaks_the_rules_is_a_framing_error() {
    let peer = Peer::new();
    let invalid = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535];
    for code in invalid {
        peer.ends(&closing(code, b""), 1002, &format!("code {code}"));
        peer.ends(&closing(code, b"reason"), 1002, &format!("code {code} with a reason"));
    }
    peer.ends(&masked(FIN | CLOSE, &[3]), 1002, "one byte");
    peer.ends(&closing(1000, &[b'x'; 124]), 1002, "126 bytes");
    peer.ends(&closing(1000, b"\xff"), 1007, "a reason that is not UTF-8");
    peer.ends(
        &closing(1000, b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80"),
        1007,
        "a reason with a surrogate",
    );
}

#[test]
fn nothing_after_a_close_is_looked_at() {
    let peer = Peer::new();
    let close = closing(1000, b"");
    let cases = [
        ("a second close", [close.clone(), closing(1001, b"")].concat()),
        ("a ping", [close.clone(), masked(FIN | PING, b"")].concat()),
        (
            "a message",
            [close.clone(), masked(FIN | TEXT, br#"{"unfollow":{}}"#)].concat(),
        ),
        ("a broken frame", [close.clone(), vec![0xff; 40]].concat()),
        (
            "close within a message",
            [masked(TEXT, b"{"), close, masked(FIN | CONTINUATION, b"}")].concat(),
        ),
    ];
    for (why, bytes) in cases {
        let mut client = peer.open(Encoding::Json);
        client.raw.send(&bytes);
        assert_eq!(
            frame(&mut client),
            Some(Frame {
                first: FIN | CLOSE,
                payload: vec![3, 232]
            }),
            "{why}"
        );
        assert_eq!(frame(&mut client), None, "{why}");
    }
}

#[test]
fn what_was_asked_before_a_close_is_answered_before_it() {
    let peer = Peer::new();
    let mut client = peer.open(Encoding::Json);
    let errors: Vec<u8> = (0..500)
        .flat_map(|_| masked(FIN | TEXT, br#"{"unfollow":{}}"#))
        .collect();
    client.says_goodbye(&[errors, closing(1000, b"")].concat());
    assert_eq!(client.ended().code(), Some(1000));
    assert_eq!(client.stash.len(), 500);
}

#[test]
fn what_waits_for_who_reads_slowly_is_sent_before_the_end() {
    let peer = Peer::new();
    let mut client = Client::over(Raw::connect_small(peer.server.address), Encoding::Json);
    client.hello(&peer.account, &json!([]));
    // More than the kernel holds for it, less than what is dropped for the sake of the last words.
    let frame = masked(FIN | TEXT, br#"{"unfollow":{}}"#);
    client.raw.send(&frame.repeat(3000));
    peer.server.wait_for_metric("taskflow_queue_bytes", |bytes| bytes > 0.0);
    client.says_goodbye(&closing(1000, b""));
    assert_eq!(client.ended().code(), Some(1000));
    assert_eq!(client.stash.len(), 3000);
}

#[test]
fn the_close_code_arrives_also_when_the_peer_goes_on_sending() {
    // A socket that is closed with unread bytes sends a reset, which takes the close frame with it.
    let peer = Peer::new();
    for (why, first, code) in [
        ("a broken frame", masked(FIN | 7, b"x"), 1002),
        (
            "a frame that is too large",
            masked(FIN | TEXT, &padded_heartbeat(LIMIT + 1)),
            1009,
        ),
    ] {
        let mut client = peer.open(Encoding::Json);
        let rest = masked(FIN | BINARY, &[0x55; 60_000]).repeat(40);
        client.raw.try_send(&[first, rest].concat());
        assert_eq!(client.raw.ended().code(), Some(code), "{why}");
    }
}

#[test]
fn bytes_may_come_one_by_one_and_all_at_once() {
    let peer = Peer::new();
    let address = peer.server.address;
    let hello = json!({ "hello": {
        "protocol": { "min": 1, "max": 1 }, "token": peer.account.token, "follow": [{}],
    } });
    for encoding in ENCODINGS {
        let opcode = if encoding == Encoding::Json { TEXT } else { BINARY };
        let subprotocol = format!("sec-websocket-protocol: {}", encoding.subprotocol());
        let mut bytes = handshake(address, &[&subprotocol]).into_bytes();
        let task = crate::support::ws::task("glued");
        bytes.extend(masked(FIN | opcode, &encoding.encode(&hello)));
        bytes.extend(masked(
            FIN | opcode,
            &encoding.encode(&json!({ "operations": { "operations": [task] } })),
        ));
        for one_by_one in [false, true] {
            let mut raw = Raw::connect(address);
            if one_by_one {
                for byte in &bytes {
                    raw.send(&[*byte]);
                }
            } else {
                raw.send(&bytes);
            }
            let response = raw.upgraded();
            assert_eq!(response.status, 101, "{response:?}");
            let mut client = Client::connected(raw, encoding);
            client.wait_for("welcome");
            client.wait_for("following");
            let outcome = client.outcome(task["id"].as_str().unwrap());
            assert!(outcome["accepted"]["seq"].is_u64(), "{outcome}");
        }
    }
}

#[test]
fn a_handshake_may_follow_other_requests_on_one_connection() {
    let peer = Peer::new();
    let mut connection = http::Connection::open(peer.server.address);
    for _ in 0..3 {
        connection.send("GET", "/.well-known/jwks.json", &["connection: keep-alive"], b"");
        assert_eq!(connection.response().status, 200);
    }
    // And pipelined: request and handshake in one write.
    let request = "GET /.well-known/jwks.json HTTP/1.1\r\nhost: x\r\n\r\n";
    let bytes = format!("{request}{}", handshake(peer.server.address, &[]));
    let mut raw = Raw { http: connection };
    raw.send(bytes.as_bytes());
    assert_eq!(raw.http.response().status, 200);
    assert_eq!(raw.upgraded().status, 101);
    let mut client = Client::connected(raw, Encoding::Json);
    client.hello(&peer.account, &json!([]));
}

#[test]
fn a_connection_that_just_vanishes_is_forgotten() {
    let peer = Peer::new();
    let open = || peer.server.metric("taskflow_connections");
    let clients: Vec<_> = ENCODINGS
        .into_iter()
        .cycle()
        .take(10)
        .map(|encoding| peer.open(encoding))
        .collect();
    assert_eq!(open(), 10.0);
    for (index, client) in clients.iter().enumerate() {
        if index % 2 == 0 {
            // A reset instead of an end.
            socket2::SockRef::from(client.raw.stream())
                .set_linger(Some(std::time::Duration::ZERO))
                .unwrap();
        }
    }
    drop(clients);
    peer.server
        .wait_for_metric("taskflow_connections", |count| count == 0.0);
}
