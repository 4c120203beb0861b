//! Bad and strange input: it is refused with the right word, or kept exactly as it came; it never ends the connection.

use crate::support::ws::{BINARY, FIN, TEXT, masked, operation};
use crate::support::{Client, ENCODINGS, Encoding, Follower, Server, Value, http, id, json};

/// What a title may be: it comes back byte for byte.
const STRANGE_TITLES: [&str; 22] = [
    "Ω≈ç√∫˜µ≤≥÷",
    "田中さんにあげて下さい",
    "👩🏽‍🚀👨‍👩‍👧‍👦🇪🇺",
    "\u{202e}txt.exe\u{202c}",
    "\u{200b}zero\u{200d}width\u{feff}",
    "Z̮̞̠͙͔ͅḀ̗̞͈̻̗Ḷ͙͎̯̹̞͓G̻O̭̗̮",
    "\u{10ffff}\u{fffe}\u{e000}",
    "'; DROP TABLE tasks; --",
    "<script>alert('x')</script>",
    "{\"json\":\"inside\"}",
    "\\u0000 \\n \\\" \\",
    "null",
    "NaN",
    "undefined",
    "1e309",
    "%s%n%x{}{0}",
    "../../etc/passwd",
    "٠١٢٣٤٥٦٧٨٩",
    "ﷺﷺﷺ",
    "İıſß",
    "  spaces around  ",
    "\u{a0}nbsp",
];

#[test]
fn strange_text_is_kept_byte_for_byte_everywhere() {
    let server = Server::start(&[]);
    let account = server.user();
    let mut followers = ENCODINGS.map(|encoding| Follower::start(&server, encoding, &account));
    for (index, title) in STRANGE_TITLES.iter().enumerate() {
        let row = id();
        let notes = format!("{title}\r\n\t{title}\n");
        let command = json!({ "task_create": { "task": row, "title": title, "notes": notes } });
        let seq = followers[index % 2].client.accept(&command);
        for follower in &mut followers {
            follower.until_seq(seq);
            let task = follower.replica.task(&row).expect("it is there");
            assert_eq!((&task["title"], &task["notes"]), (&json!(title), &json!(notes)));
        }
        let response = server.get(&format!("/api/v1/tasks/{row}"), &account);
        assert_eq!(
            (&response.json()["title"], &response.json()["notes"]),
            (&json!(title), &json!(notes))
        );
    }
}

#[test]
fn text_that_is_not_allowed_is_refused_with_its_field() {
    let server = Server::start(&[]);
    let account = server.user();
    for encoding in ENCODINGS {
        let mut client = Client::open(&server, encoding, &account);
        let cases: Vec<(Value, &str, &str)> = vec![
            (json!({ "title": "" }), "value_invalid", "title"),
            (json!({ "title": " \u{a0}\u{2003} " }), "value_invalid", "title"),
            (json!({ "title": "two\nlines" }), "value_invalid", "title"),
            (json!({ "title": "nul\u{0}" }), "value_invalid", "title"),
            (json!({ "title": "\u{7f}" }), "value_invalid", "title"),
            (json!({ "title": "c1\u{85}" }), "value_invalid", "title"),
            (json!({ "title": "\u{2028}" }), "value_invalid", "title"),
            (json!({ "title": "x".repeat(2_001) }), "value_too_long", "title"),
            (json!({ "title": "é".repeat(1_001) }), "value_too_long", "title"),
            (json!({ "title": "t", "notes": "\u{1b}[31m" }), "value_invalid", "notes"),
            (
                json!({ "title": "t", "notes": "x".repeat(50_001) }),
                "value_too_long",
                "notes",
            ),
            (
                json!({ "title": "t", "deadline": "2026-02-30" }),
                "value_invalid",
                "deadline",
            ),
            (
                json!({ "title": "t", "deadline": "tomorrow" }),
                "value_invalid",
                "deadline",
            ),
            (
                json!({ "title": "t", "due": { "all_day": "" } }),
                "value_invalid",
                "due",
            ),
            (
                json!({ "title": "t", "due": { "floating": "2026-06-21T25:00:00" } }),
                "value_invalid",
                "due",
            ),
            (
                json!({ "title": "t", "due": { "zoned": { "local": "2026-06-21T09:30:00", "zone": "Mars/Base" } } }),
                { "value_invalid" },
                "due",
            ),
            (
                json!({ "title": "t", "duration_minutes": 0 }),
                "value_invalid",
                "duration_minutes",
            ),
            (
                json!({ "title": "t", "duration_minutes": 527_041 }),
                "value_invalid",
                "duration_minutes",
            ),
            (json!({ "title": "t", "labels": [id()] }), "row_not_found", "labels"),
            (json!({ "title": "t", "list": id() }), "row_not_found", "list"),
            (json!({ "title": "t", "parent": id() }), "row_not_found", "parent"),
            (
                json!({ "title": "t", "place": { "before": id() } }),
                "row_not_found",
                "place",
            ),
        ];
        for (mut fields, name, field) in cases {
            fields["task"] = json!(id());
            let outcome = client.submit(&operation(&json!({ "task_create": fields })));
            let refused = &outcome["refused"];
            assert_eq!(refused["name"], name, "{outcome}");
            assert!(
                refused["field"].as_str().is_some_and(|path| path.contains(field)),
                "{outcome}"
            );
        }
        // What is exactly as long as it may be.
        let longest = json!({ "task": id(), "title": "é".repeat(1_000), "notes": "x".repeat(50_000) });
        client.accept(&json!({ "task_create": longest }));
    }
}

#[test]
fn documents_that_are_wrong_are_named_and_the_connection_goes_on() {
    let server = Server::start(&[]);
    let account = server.user();
    let mut client = Client::open(&server, Encoding::Json, &account);
    let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let cases: Vec<(String, &str)> = vec![
        ("{".into(), "malformed"),
        ("\u{feff}{\"heartbeat\":{}}".into(), "malformed"),
        ("{\"heartbeat\":{}}{\"heartbeat\":{}}".into(), "malformed"),
        ("{\"heartbeat\":{}} x".into(), "malformed"),
        ("{'heartbeat':{}}".into(), "malformed"),
        ("{\"heartbeat\":{},}".into(), "malformed"),
        ("{\"heartbeat\":{}/**/}".into(), "malformed"),
        ("{\"refresh\":{\"token\":\"\u{1}\"}}".into(), "malformed"),
        ("{\"refresh\":{\"token\":\"\\ud800\"}}".into(), "malformed"),
        (format!("{{\"follow\":{}}}", deep(33)), "malformed"),
        (deep(10_000), "malformed"),
        ("NaN".into(), "malformed"),
        ("{\"follow\":{\"feed\":NaN}}".into(), "malformed"),
        ("{\"follow\":{\"feed\":Infinity}}".into(), "malformed"),
        ("[]".into(), "unknown_message"),
        ("{}".into(), "unknown_message"),
        ("null".into(), "unknown_message"),
        ("\"heartbeat\"".into(), "unknown_message"),
        ("{\"Heartbeat\":{}}".into(), "unknown_message"),
        ("{\"welcome\":{}}".into(), "unknown_message"),
        ("{\"heartbeat\":{},\"follow\":{}}".into(), "unknown_message"),
        ("{\"heartbeat\":{\"x\":1}}".into(), "invalid_field"),
        ("{\"heartbeat\":[]}".into(), "invalid_field"),
        ("{\"heartbeat\":null}".into(), "invalid_field"),
        ("{\"unfollow\":{\"feed\":\"no id\"}}".into(), "invalid_field"),
        ("{\"unfollow\":{\"feed\":7}}".into(), "invalid_field"),
        ("{\"unfollow\":{\"feed\":null,\"feed\":null}}".into(), "invalid_field"),
        ("{\"follow\":{\"cursor\":1}}".into(), "invalid_field"),
        ("{\"refresh\":{}}".into(), "invalid_field"),
        ("{\"operations\":{\"operations\":[]}}".into(), "invalid_field"),
        ("{\"operations\":{}}".into(), "invalid_field"),
        (
            "{\"operations\":{\"operations\":[{\"command\":{\"undo\":{\"seq\":1}}}]}}".into(),
            "invalid_field",
        ),
    ];
    for (text, name) in cases {
        client.raw.send(&masked(FIN | TEXT, text.as_bytes()));
        let error = client.wait_for("error");
        assert_eq!(error["name"], name, "{text:.60}: {error}");
        assert!(error["message"].as_str().unwrap().len() < 600, "an error is no echo");
    }
    client.flush();
    assert!(client.stash.is_empty(), "{:?}", client.stash);
}

#[test]
fn numbers_that_do_not_fit_are_refused_for_their_operation_alone() {
    let server = Server::start(&[]);
    let account = server.user();
    let mut client = Client::open(&server, Encoding::Json, &account);
    let numbers = [
        "-1",
        "1.5",
        "1e3",
        "18446744073709551616",
        "1e400",
        "\"1\"",
        "true",
        "[]",
        "1e-400",
        "-0.0",
    ];
    for number in numbers {
        let id = id();
        let text =
            format!(r#"{{"operations":{{"operations":[{{"id":"{id}","command":{{"undo":{{"seq":{number}}}}}}}]}}}}"#);
        client.raw.send(&masked(FIN | TEXT, text.as_bytes()));
        if number == "1e400" {
            // Beyond what any number is: the document itself is not well-formed for the parser, or the field is wrong.
            let name = client.wait("a refusal", |message| {
                let result = &message["results"]["results"][0]["outcome"]["refused"]["name"];
                result.as_str().or(message["error"]["name"].as_str()).map(str::to_owned)
            });
            assert!(["malformed", "invalid_field"].contains(&name.as_str()), "{name}");
            continue;
        }
        assert_eq!(client.outcome(&id)["refused"]["name"], "invalid_field", "{number}");
    }
    for (seq, name) in [
        ("0", "undo_gone"),
        ("9007199254740993", "undo_gone"),
        ("18446744073709551615", "undo_gone"),
    ] {
        let id = id();
        let text =
            format!(r#"{{"operations":{{"operations":[{{"id":"{id}","command":{{"undo":{{"seq":{seq}}}}}}}]}}}}"#);
        client.raw.send(&masked(FIN | TEXT, text.as_bytes()));
        assert_eq!(client.outcome(&id)["refused"]["name"], name, "{seq}");
    }
    client.flush();
}

#[test]
fn messagepack_that_is_wrong_is_named_too() {
    let server = Server::start(&[]);
    let account = server.user();
    let mut client = Client::open(&server, Encoding::MsgPack, &account);
    let cases: [(&[u8], &str); 10] = [
        (b"", "malformed"),
        (b"\xc1", "malformed"),
        (b"\x81\xa9heartbeat", "malformed"),
        (b"\x81\xa9heartbeat\x80\x80", "malformed"),
        (b"\xdf\xff\xff\xff\xff", "malformed"),
        (b"\xdd\xff\xff\xff\xff\x01", "malformed"),
        (b"\xc6\xff\xff\xff\xff", "malformed"),
        (b"\x80", "unknown_message"),
        (b"\x81\xa8unfollow\x81\xa4feed\xc4\x01x", "invalid_field"),
        (
            b"\x81\xa8unfollow\x81\xa4feed\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00",
            "invalid_field",
        ),
    ];
    for (bytes, name) in cases {
        client.raw.send(&masked(FIN | BINARY, bytes));
        let error = client.wait_for("error");
        assert_eq!(error["name"], name, "{bytes:x?}: {error}");
    }
    client.raw.send(&masked(FIN | BINARY, &[0x91; 10_000]));
    assert_eq!(client.wait_for("error")["name"], "malformed", "nested 10,000 deep");
    client.flush();
}

#[test]
fn junk_of_every_kind_ends_in_an_error_and_not_in_the_server() {
    let server = Server::start(&["--connections-a-user-max=1000"]);
    let account = server.user();
    let mut random = crate::support::Random(0x7a5c);
    for round in 0..300 {
        let encoding = ENCODINGS[round % 2];
        let mut client = Client::open(&server, encoding, &account);
        let good = encoding.encode(&json!({ "operations": { "operations": [crate::support::ws::task("junk")] } }));
        for _ in 0..20 {
            let mut bytes = good.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len() as u64) as usize;
                match random.below(3) {
                    0 => bytes[at] = random.next() as u8,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, random.next() as u8),
                }
            }
            let opcode = if encoding == Encoding::Json { TEXT } else { BINARY };
            client.raw.try_send(&masked(FIN | opcode, &bytes));
        }
        // Either it goes on, or it was closed for text that is not UTF-8.
        client.raw.try_send(&crate::support::ws::closing(1000, b""));
        let code = client.ended().code();
        assert!([Some(1000), Some(1007)].contains(&code), "round {round}: {code:?}");
    }
    // And junk instead of HTTP.
    for _ in 0..100 {
        let mut connection = http::Connection::open(server.address);
        let bytes: Vec<u8> = (0..random.below(2_000)).map(|_| random.next() as u8).collect();
        use std::io::Write;
        let _ = connection.stream.write_all(&bytes);
    }
    Client::open(&server, Encoding::Json, &account).flush();
    assert_eq!(server.metric("taskflow_feed_panics_total"), 0.0);
    assert!(!server.log.text().contains("panicked"), "{}", server.log.text());
}

#[test]
fn ids_are_ids_and_nothing_else() {
    let server = Server::start(&[]);
    let account = server.user();
    let mut client = Client::open(&server, Encoding::Json, &account);
    let upper = id().to_uppercase();
    client.accept(&json!({ "task_create": { "task": upper, "title": "read in either case" } }));
    let follower = Follower::start(&server, Encoding::Json, &account);
    assert!(
        follower.replica.task(&upper.to_lowercase()).is_some(),
        "written in lower case"
    );
    let plain = id().replace('-', "");
    let cases = [
        plain,
        format!("{{{}}}", id()),
        format!("urn:uuid:{}", id()),
        String::new(),
        format!("{} ", id()),
    ];
    for bad in cases {
        let outcome = client.submit(&operation(&json!({ "task_create": { "task": bad, "title": "t" } })));
        assert_eq!(outcome["refused"]["name"], "invalid_field", "{bad}");
    }
    // The nil id and a list's id are ids like all others.
    let nil = "00000000-0000-0000-0000-000000000000";
    client.accept(&json!({ "task_create": { "task": nil, "title": "nil" } }));
    client.accept(&json!({ "task_create": { "task": account.user, "title": "named like the inbox" } }));
    let outcome = client.submit(&operation(
        &json!({ "list_create": { "list": account.user, "name": "inbox?" } }),
    ));
    assert_eq!(outcome["refused"]["name"], "id_taken");
}
