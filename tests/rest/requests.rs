//! Requests: rows as resources, idempotency, conditions, pages, and the errors of everything.

use crate::support::http::Connection;
use crate::support::ws::Raw;
use crate::support::{Account, Encoding, Follower, Response, Server, Value, http, id, json};

fn name(response: &Response) -> (u16, String) {
    (
        response.status,
        response.json()["name"].as_str().unwrap_or_default().to_owned(),
    )
}

#[test]
fn a_task_lives_its_life_over_rest_and_a_socket_sees_it() {
    let server = Server::start(&[]);
    let account = server.user();
    let mut follower = Follower::start(&server, Encoding::MsgPack, &account);
    let made = server.post(
        "/api/v1/tasks",
        &account,
        &json!({ "title": "Milk", "priority": "high" }),
    );
    assert_eq!(made.status, 201, "{made:?}");
    let task = made.json();
    let path = format!("/api/v1/tasks/{}", task["id"].as_str().unwrap());
    assert_eq!(made.header("location"), Some(path.as_str()));
    let tag = made.header("etag").unwrap();
    assert!(tag.starts_with("\"2-"), "{tag}");
    assert_eq!(task["list"], *account.user, "in the inbox");
    follower.until_seq(2);
    let send = |method: &str, path: &str, body: &Value| server.send(method, path, &account, &[], body);
    let steps: [(&str, String, Value, u16); 6] = [
        (
            "PATCH",
            path.clone(),
            json!({ "title": "Oat milk", "due": { "all_day": "2026-06-21" } }),
            200,
        ),
        ("POST", format!("{path}/complete"), json!({}), 200),
        ("POST", format!("{path}/reopen"), json!({}), 200),
        ("POST", format!("{path}/move"), json!({ "place": "first" }), 200),
        ("DELETE", path.clone(), Value::Null, 204),
        ("POST", format!("{path}/restore"), json!({}), 200),
    ];
    for (index, (method, path, body, status)) in steps.iter().enumerate() {
        let answer = send(method, path, body);
        assert_eq!(answer.status, *status, "{method} {path}: {answer:?}");
        let seq = 3 + index as u64;
        follower.until_seq(seq);
        if *status == 200 {
            let row = follower.replica.task(task["id"].as_str().unwrap()).unwrap();
            assert_eq!(answer.json(), *row, "{method} {path}");
        }
    }
    let page = server.get("/api/v1/tasks?limit=10", &account).json();
    assert_eq!(
        (page["items"].as_array().unwrap().len(), &page["next"]),
        (1, &Value::Null)
    );
}

#[test]
fn the_same_key_makes_one_task_however_often_and_at_once() {
    let server = Server::start(&[]);
    let account = server.user();
    let key = format!("idempotency-key: {}", id());
    let body = json!({ "title": "once" });
    let answers = std::sync::Mutex::new(Vec::new());
    crate::support::in_parallel(0..8, |_| {
        for _ in 0..5 {
            let answer = server.send("POST", "/api/v1/tasks", &account, &[&key], &body);
            assert_eq!(answer.status, 201, "{answer:?}");
            answers.lock().unwrap().push(answer.json());
        }
    });
    let answers = answers.into_inner().unwrap();
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(
        server.get("/api/v1/tasks?limit=10", &account).json()["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let other = server.send(
        "POST",
        "/api/v1/tasks",
        &account,
        &[&key],
        &json!({ "title": "another" }),
    );
    assert_eq!(name(&other), (409, "operation_id_reused".to_owned()));
    // Another user's key is another key.
    let stranger = server.user();
    assert_eq!(
        server.send("POST", "/api/v1/tasks", &stranger, &[&key], &body).status,
        201
    );
}

#[test]
fn pages_hold_every_task_once_also_while_tasks_come_and_go() {
    let server = Server::start(&[]);
    let account = server.user();
    let ids: Vec<_> = (0..57).map(|_| id()).collect();
    let commands: Vec<_> = ids
        .iter()
        .map(|id| json!({ "task_create": { "task": id, "title": "t" } }))
        .collect();
    server.submit(
        &account,
        &json!({ "id": id(), "command": { "batch": { "commands": commands } } }),
    );
    for limit in [1, 10, 19, 56, 57, 58, 500] {
        let mut seen = Vec::new();
        let mut next = String::new();
        loop {
            let page = server
                .get(&format!("/api/v1/tasks?limit={limit}{next}"), &account)
                .json();
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= limit);
            seen.extend(items.iter().map(|task| task["id"].as_str().unwrap().to_owned()));
            match page["next"].as_str() {
                Some(token) => next = format!("&page={token}"),
                None => break,
            }
        }
        assert_eq!(seen, ids, "limit {limit}");
    }
    // The task that a page ended with goes to the bin: the next page begins where it was.
    let page = server.get("/api/v1/tasks?limit=10", &account).json();
    server.send(
        "DELETE",
        &format!("/api/v1/tasks/{}", ids[9]),
        &account,
        &[],
        &Value::Null,
    );
    let next = server
        .get(
            &format!("/api/v1/tasks?limit=1&page={}", page["next"].as_str().unwrap()),
            &account,
        )
        .json();
    assert_eq!(next["items"][0]["id"], *ids[10]);
}

#[test]
fn every_address_of_the_description_wants_a_token_and_refuses_other_methods() {
    let server = Server::start(&[]);
    let account = server.user();
    let description = http::request(server.address, "GET", "/openapi.json", &[], b"").json();
    let paths = description["paths"].as_object().expect("paths");
    assert!(paths.len() > 15, "{}", paths.len());
    let open = ["/api/v1/auth/", "/.well-known/", "/openapi.json", "/api/v1/socket"];
    for (path, methods) in paths {
        let path = path.replace("{id}", &id());
        for method in ["GET", "POST", "PATCH", "DELETE"] {
            let is_there = methods.get(method.to_ascii_lowercase()).is_some();
            if open.iter().any(|prefix| path.starts_with(prefix)) {
                continue;
            }
            let answer = http::request(
                server.address,
                method,
                &path,
                &["content-type: application/json"],
                b"{}",
            );
            let expected = if is_there {
                (401, "token_missing")
            } else {
                (405, "method_not_allowed")
            };
            assert_eq!(name(&answer), (expected.0, expected.1.to_owned()), "{method} {path}");
            if !is_there {
                let allow = answer.header("allow").unwrap_or_default().to_owned();
                assert!(!allow.is_empty() && !allow.contains(method), "{method} {path}: {allow}");
            }
        }
        if path.ends_with(|c: char| c.is_ascii_hexdigit()) && path.contains('-') && methods.get("get").is_some() {
            assert_eq!(
                name(&server.get(&path, &account)),
                (404, "row_not_found".to_owned()),
                "{path}"
            );
            let other = path.rsplit_once('/').unwrap().0;
            let answer = server.get(&format!("{other}/no-id"), &account);
            assert_eq!(name(&answer), (404, "row_not_found".to_owned()), "{path}");
        }
    }
}

#[test]
fn rows_of_another_user_are_not_there() {
    let server = Server::start(&[]);
    let (account, other) = (server.user(), server.user());
    let theirs = server
        .post("/api/v1/tasks", &other, &json!({ "title": "theirs" }))
        .json();
    let path = format!("/api/v1/tasks/{}", theirs["id"].as_str().unwrap());
    for (method, body) in [
        ("GET", Value::Null),
        ("PATCH", json!({ "title": "mine" })),
        ("DELETE", Value::Null),
    ] {
        let answer = server.send(method, &path, &account, &[], &body);
        assert_eq!(name(&answer), (404, "row_not_found".to_owned()), "{method}");
    }
    let answer = server.post("/api/v1/tasks", &account, &json!({ "title": "t", "list": other.user }));
    assert_eq!(name(&answer), (404, "row_not_found".to_owned()));
    assert_eq!(server.get("/api/v1/tasks", &account).json()["items"], json!([]));
    assert_eq!(server.get(&path, &other).json(), theirs);
}

#[test]
fn bodies_and_parameters_that_are_wrong_are_named() {
    let server = Server::start(&[]);
    let account = server.user();
    let send = |method: &str, path: &str, kind: &str, body: &[u8]| {
        let bearer = account.bearer();
        let headers: Vec<&str> = if kind.is_empty() {
            vec![&bearer]
        } else {
            vec![&bearer, kind]
        };
        name(&http::request(server.address, method, path, &headers, body))
    };
    let json_type = "content-type: application/json";
    let cases: [(&str, &[u8], u16, &str); 17] = [
        (json_type, b"", 400, "malformed"),
        (json_type, b"{", 400, "malformed"),
        (json_type, b"\xef\xbb\xbf{\"title\":\"bom\"}", 400, "malformed"),
        (json_type, b"{\"title\":\"t\"} {}", 400, "malformed"),
        (json_type, b"{\"title\":\"t\",\"title\":\"u\"}", 400, "invalid_field"),
        (json_type, b"{\"title\":\"t\",\"strange\":1}", 400, "invalid_field"),
        (json_type, b"{\"title\":NaN}", 400, "malformed"),
        (
            json_type,
            b"{\"title\":\"t\",\"duration_minutes\":1e9}",
            400,
            "invalid_field",
        ),
        (
            json_type,
            b"{\"title\":\"t\",\"duration_minutes\":99999999999999999999}",
            400,
            "invalid_field",
        ),
        (json_type, b"[\"t\"]", 400, "invalid_field"),
        (json_type, b"{\"title\":\"t\",\"notes\":null}", 400, "invalid_field"),
        (
            "content-type: application/json; charset=iso-8859-1",
            b"{\"title\":\"t\"}",
            415,
            "wrong_encoding",
        ),
        (
            "content-type: application/json\r\ncontent-encoding: gzip",
            b"\x1f\x8b",
            415,
            "wrong_encoding",
        ),
        (json_type, b"null", 400, "invalid_field"),
        (json_type, b"{\"title\":\"\xff\"}", 400, "invalid_utf8"),
        ("", b"{\"title\":\"t\"}", 415, "wrong_encoding"),
        (
            "content-type: application/x-www-form-urlencoded",
            b"title=t",
            415,
            "wrong_encoding",
        ),
    ];
    for (kind, body, status, expected) in cases {
        let seen = send("POST", "/api/v1/tasks", kind, body);
        assert_eq!(seen, (status, expected.to_owned()), "{}", String::from_utf8_lossy(body));
    }
    for (path, status, expected) in [
        ("/api/v1/tasks?limit=0", 422, "value_invalid"),
        ("/api/v1/tasks?limit=501", 422, "value_invalid"),
        ("/api/v1/tasks?limit=-1", 400, "invalid_field"),
        ("/api/v1/tasks?limit=x", 400, "invalid_field"),
        ("/api/v1/tasks?strange=1", 400, "invalid_field"),
        ("/api/v1/tasks?page=x", 400, "invalid_field"),
        ("/api/v1/tasks?status=strange", 400, "invalid_field"),
        ("/api/v1/changes?limit=0", 422, "value_invalid"),
        ("/api/v1/changes?wait=-1", 400, "invalid_field"),
        ("/api/v1/snapshot?strange=1", 400, "invalid_field"),
        ("/api/v1/settings?strange=1", 400, "invalid_field"),
        ("/api/v1/socket", 400, "framing_error"),
        ("/api/v1/../../etc/passwd", 404, "not_found"),
        ("/api/v1/tasks/%00", 404, "row_not_found"),
        ("//api/v1/tasks", 404, "not_found"),
    ] {
        assert_eq!(send("GET", path, "", b""), (status, expected.to_owned()), "{path}");
    }
    let good = server.post("/api/v1/tasks", &account, &json!({ "title": "t" })).json();
    let path = format!("/api/v1/tasks/{}", good["id"].as_str().unwrap());
    for body in ["notes", "title", "status", "priority", "labels"].map(|field| json!({ field: null })) {
        let answer = server.send("PATCH", &path, &account, &[], &body);
        assert_eq!(name(&answer), (400, "invalid_field".to_owned()), "{body}");
    }
    let made_of = server.send(
        "POST",
        "/api/v1/tasks",
        &account,
        &["if-match: \"2\""],
        &json!({ "title": "t" }),
    );
    assert_eq!(
        name(&made_of),
        (422, "value_invalid".to_owned()),
        "a new row has no version"
    );
    for (header, status, expected) in [
        ("if-match: \"2\"\r\nif-match: \"2\"", 400, "invalid_field"),
        ("idempotency-key: x\r\nidempotency-key: y", 400, "invalid_field"),
        ("authorization: Bearer x", 400, "invalid_field"),
        ("if-match: 2", 400, "invalid_field"),
        ("if-match: \"x\"", 400, "invalid_field"),
        ("if-match: \"1\"", 412, "version_conflict"),
        ("idempotency-key: x", 400, "invalid_field"),
    ] {
        let answer = server.send("PATCH", &path, &account, &[header], &json!({ "title": "new" }));
        assert_eq!(name(&answer), (status, expected.to_owned()), "{header}");
    }
    assert_eq!(server.get(&path, &account).json(), good, "nothing of it was done");
    let headers = ["if-match: \"2\""];
    assert_eq!(
        server
            .send("PATCH", &path, &account, &headers, &json!({ "title": "new" }))
            .status,
        200
    );
}

#[test]
fn a_page_of_an_allowed_origin_may_call_and_others_may_not() {
    let server = Server::start(&["--origins-allowed=https://app.example"]);
    let account = server.user();
    let preflight = |origin: &str| {
        let origin = format!("origin: {origin}");
        let headers = [
            &*origin,
            "access-control-request-method: POST",
            "access-control-request-headers: authorization",
        ];
        http::request(server.address, "OPTIONS", "/api/v1/tasks", &headers, b"")
    };
    let allowed = preflight("https://app.example");
    assert_eq!(allowed.status, 204, "{allowed:?}");
    assert_eq!(
        allowed.header("access-control-allow-origin"),
        Some("https://app.example")
    );
    assert_eq!(
        allowed.header("access-control-allow-credentials"),
        Some("true"),
        "the cookie of its sign-in may come along"
    );
    for origin in ["https://evil.example", "null"] {
        let refused = preflight(origin);
        assert_eq!(
            (refused.status, refused.header("access-control-allow-origin")),
            (403, None),
            "{origin}"
        );
        let headers = [&*format!("origin: {origin}")];
        let answer = server.send("POST", "/api/v1/tasks", &account, &headers, &json!({ "title": "csrf" }));
        assert_eq!(name(&answer), (403, "origin_refused".to_owned()));
    }
    assert_eq!(server.get("/api/v1/tasks", &account).json()["items"], json!([]));
}

#[test]
fn a_request_that_comes_byte_by_byte_or_stays_half_is_no_harm() {
    use std::io::Write;
    let server = Server::start(&[]);
    let account = server.user();
    let body = json!({ "title": "slow" }).to_string();
    let request = format!(
        "POST /api/v1/tasks HTTP/1.1\r\nhost: x\r\n{}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        account.bearer(),
        body.len(),
    );
    let mut connection = http::Connection::open(server.address);
    for byte in request.as_bytes() {
        connection.stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(connection.response().status, 201);
    // Half a body, then gone.
    let mut half = http::Connection::open(server.address);
    half.stream.write_all(&request.as_bytes()[..request.len() - 3]).unwrap();
    drop(half);
    // In chunks.
    let chunked = format!(
        "POST /api/v1/tasks HTTP/1.1\r\nhost: x\r\n{}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\
         connection: close\r\n\r\n1\r\n{{\r\n{:x}\r\n{}\r\n0\r\n\r\n",
        account.bearer(),
        body.len() - 1,
        &body[1..],
    );
    let mut connection = http::Connection::open(server.address);
    connection.stream.write_all(chunked.as_bytes()).unwrap();
    assert_eq!(connection.response().status, 201);
    assert_eq!(titles(&server, &account), ["slow", "slow"]);
}

fn titles(server: &Server, account: &Account) -> Vec<String> {
    let page = server.get("/api/v1/tasks", account).json();
    page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| task["title"].as_str().unwrap().to_owned())
        .collect()
}

/// Texts that have broken other programs: of every script and direction, of signs that mean something to a shell, a database, a
/// page or a parser, and of those that look like nothing.
const NAUGHTY: &[&str] = &[
    "undefined",
    "null",
    "NULL",
    "true",
    "NaN",
    "-Infinity",
    "0",
    "-0",
    "1e1000",
    "0x0",
    "1/0",
    "$1.00",
    "١٢٣",
    "9223372036854775808",
    "0.0.0.0",
    "\\",
    "\\\\",
    "\\u0000",
    "\\\"",
    "\"",
    "'",
    "''''",
    "`",
    "``",
    "<>",
    "&amp;",
    "%00",
    "%0d%0aX: y",
    "../../../../etc/passwd",
    "file:///dev/null",
    "C:\\CON",
    "$HOME",
    "$(touch /tmp/x)",
    "`id`",
    "; rm -rf /",
    "| cat",
    "{{7*7}}",
    "${jndi:ldap://x}",
    "%s%s%n",
    "{0}",
    "' OR 1=1 --",
    "1;DROP TABLE row",
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "<![CDATA[x]]>",
    "<!--#exec cmd=\"ls\"-->",
    "=1+1",
    "@SUM(1)",
    "+1",
    "-1",
    "a\u{300}\u{301}\u{302}\u{303}\u{304}",
    "Z\u{334}\u{322}a\u{335}l\u{336}g\u{337}o",
    "Å vs A\u{30a}",
    "ﬁ ﬂ",
    "ß ẞ SS",
    "İ ı I i",
    "Ⅷ ½ ²",
    "田中さんにあげて下さい",
    "사회과학원",
    "ไทยภาษา",
    "مُنَاقَشَةُ سُبُلِ",
    "הָיְתָה testالصفحات",
    "नमस्ते",
    "Ω≈ç√∫˜µ≤≥÷",
    "👩🏽‍🚀👨‍👩‍👧‍👦🏳️‍🌈",
    "🇺🇸🇷🇺🇸",
    "(╯°□°）╯︵ ┻━┻",
    "¡sıɥʇ ǝsɐǝʅd",
    "Ｔｈｅ ｑｕｉｃｋ",
    "𝕋𝕙𝕖 𝔮𝔲𝔦𝔠𝔨",
    "⁰⁴⁵₀₁₂",
    "\u{202e}txet tfel ot thgir\u{202c}",
    "\u{200b}\u{200c}\u{200d}x\u{feff}",
    "\u{feff}",
    "x\u{ad}y",
    "\u{e0001}x\u{e007f}",
    "\u{fffd}",
    "\u{ffff}",
    "\u{10ffff}",
    "\u{d7ff}\u{e000}",
    "a\u{a0}b\u{3000}c",
    "\u{1160}\u{3164}",
    "CREATE",
    "constructor",
    "__proto__",
    "toString",
    "hasOwnProperty",
    ".",
    "..",
    "~",
    "*",
    "#",
    "!",
    "label:none",
    "due < tomorrow & (",
    "\"unfinished",
    "page=2&limit=0",
    "COM1",
];

#[test]
fn texts_that_break_other_programs_are_kept_byte_by_byte_everywhere() {
    let server = Server::start(&[]);
    let account = server.user();
    let mut follower = crate::support::Follower::start(&server, crate::support::Encoding::MsgPack, &account);
    let mut made = Vec::new();
    for text in NAUGHTY {
        let notes = format!("first\n\t{text}\r\n{text}");
        let answer = server.post("/api/v1/tasks", &account, &json!({ "title": text, "notes": notes }));
        // Nothing to see is no title; all others are.
        let blank = text.trim().is_empty();
        assert_eq!(answer.status, if blank { 422 } else { 201 }, "{text:?}: {answer:?}");
        if blank {
            continue;
        }
        let task = answer.json();
        assert_eq!(
            (&task["title"], &task["notes"]),
            (&json!(text), &json!(notes)),
            "{text:?}"
        );
        made.push((
            task["id"].as_str().unwrap().to_owned(),
            *text,
            notes,
            task["version"].as_u64().unwrap(),
        ));
    }
    assert!(made.len() > 90, "{}", made.len());
    follower.until_seq(made.last().unwrap().3);
    let export = server.get("/api/v1/export", &account).json();
    let exported = export["tasks"].as_array().unwrap();
    let labels: Vec<&(String, &str, String, u64)> = made.iter().take(20).collect();
    for (id, text, notes, _) in &made {
        let is_it = |task: &Value| task["title"] == **text && task["notes"] == **notes;
        assert!(
            is_it(&server.get(&format!("/api/v1/tasks/{id}"), &account).json()),
            "{text:?} by REST"
        );
        assert!(
            follower.replica.task(id).is_some_and(is_it),
            "{text:?} on the WebSocket"
        );
        let found = exported.iter().find(|task| task["id"] == **id);
        assert!(found.is_some_and(is_it), "{text:?} in the export");
        // As a search and as a quoted filter they find what they find, and never fail.
        let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let search = server.get(&format!("/api/v1/tasks?limit=1&search={encoded}"), &account);
        assert_eq!(search.status, 200, "{text:?}: {search:?}");
        let filter = server.get(&format!("/api/v1/tasks?limit=1&filter=%22{encoded}%22"), &account);
        assert!([200, 400].contains(&filter.status), "{text:?}: {filter:?}");
    }
    for (_, text, ..) in labels {
        let answer = server.post("/api/v1/labels", &account, &json!({ "name": text }));
        assert_eq!(
            (answer.status, &answer.json()["name"]),
            (201, &json!(text)),
            "{answer:?}"
        );
    }
    // Once more from the disk.
    assert_eq!(
        crate::support::Replica::of(&server, &account).rows.len(),
        follower.replica.rows.len() + 20
    );
}

#[test]
fn whatever_may_be_asked_for_with_get_may_be_with_head() {
    let server = Server::start(&[]);
    let account = server.user();
    let made = server.post(
        "/api/v1/tasks",
        &account,
        &json!({ "title": "t", "notes": "n".repeat(5_000) }),
    );
    let task = made.json()["id"].as_str().expect("an id").to_owned();
    let description = http::request(server.address, "GET", "/openapi.json", &[], b"").json();
    let paths = description["paths"].as_object().expect("paths").iter();
    let paths = paths.filter(|(_, methods)| methods.get("get").is_some());
    let paths = paths.map(|(path, _)| path.replace("{id}", &task));
    let pages = ["/docs", "/docs/page.js", "/account/reset"].map(str::to_owned);
    let (bearer, mut statuses) = (account.bearer(), Vec::new());
    for path in paths.chain(pages) {
        let headers = [bearer.as_str(), "accept-encoding: gzip"];
        let mut connection = Connection::open(server.address);
        connection.send("HEAD", &path, &headers, b"");
        let head = connection.head().expect("an answer");
        assert_eq!(connection.rest(), b"", "{path}");
        if path == "/api/v1/events" {
            assert_eq!(
                (head.status, head.header("content-type")),
                (200, Some("text/event-stream"))
            );
            continue;
        }
        let got = http::request(server.address, "GET", &path, &headers, b"");
        let own = ["date", "x-request-id", "ratelimit"];
        let said = |response: &Response| {
            let mut said = response.headers.clone();
            said.retain(|(name, _)| !own.contains(&name.as_str()));
            said.sort();
            (response.status, said)
        };
        assert_eq!(said(&head), said(&got), "{path}");
        statuses.push(head.status);
    }
    assert!(
        statuses.iter().filter(|status| **status == 200).count() > 15,
        "{statuses:?}"
    );

    // The connection goes on.
    let mut connection = Connection::open(server.address);
    connection.send("HEAD", "/api/v1/tasks", &[&bearer, "connection: keep-alive"], b"");
    assert_eq!(connection.head().expect("an answer").status, 200);
    connection.send("GET", "/api/v1/tasks", &[&bearer], b"");
    assert_eq!(connection.response().json()["items"][0]["id"], *task);
}

#[test]
fn every_answer_says_which_request_it_is_for() {
    let server = Server::start(&[]);
    let account = server.user();
    let ask = |path: &str, said: &[&str]| server.send("GET", path, &account, said, &Value::Null);
    let id_of = |response: &Response| response.header("x-request-id").expect("an id").to_owned();
    let [one, other] = [(); 2].map(|()| id_of(&ask("/api/v1/tasks", &[])));
    assert!(one.len() == 32 && other.len() == 32 && one != other, "{one} {other}");
    for path in [
        "/api/v1/tasks",
        "/api/v1/snapshot",
        "/openapi.json",
        "/docs",
        "/nowhere",
    ] {
        assert_eq!(
            id_of(&ask(path, &["x-request-id: of-a-proxy.7"])),
            "of-a-proxy.7",
            "{path}"
        );
    }
    assert_eq!(
        id_of(&ask("/api/v1/tasks", &["x-request-id: a b"])).len(),
        32,
        "not fit to be repeated"
    );

    for (path, said) in [
        ("/api/v1/tasks?limit=0", vec!["x-request-id: of-a-proxy.8"]),
        ("/nowhere", vec![]),
        ("/api/v1/tasks", vec!["origin: https://evil.example"]),
    ] {
        let problem = ask(path, &said);
        assert!(problem.status >= 400, "{problem:?}");
        assert_eq!(problem.json()["request_id"], *id_of(&problem), "{path}");
    }

    let upgrade = |headers: &[&str]| Raw::connect(server.address).upgrade(headers);
    let accepted = upgrade(&["x-request-id: of-a-proxy.9"]);
    assert_eq!((accepted.status, &*id_of(&accepted)), (101, "of-a-proxy.9"));
    let refused = upgrade(&["origin: https://evil.example"]);
    assert_eq!(refused.json()["request_id"], *id_of(&refused), "{refused:?}");

    // A line of the log that is written for a request.
    let body = json!({ "email": "ada@example.org", "password": "a good guess" });
    let passed_on = ["x-forwarded-for: 192.0.2.1", "x-request-id: of-a-proxy.10"];
    http::post(server.address, "/api/v1/auth/login", &passed_on, &body);
    let line = server.log.wait(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        line["message"]
            .as_str()?
            .starts_with("requests are passed on")
            .then_some(line)
    });
    assert_eq!(line.expect("it is logged")["request.id"], "of-a-proxy.10");
}
