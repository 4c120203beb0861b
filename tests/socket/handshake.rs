//! The handshake (RFC 6455, section 4.2), and every way to be refused there.

use crate::support::ws::{ACCEPT, KEY, handshake};
use crate::support::{Client, Encoding, Raw, Response, Server, Value, eventually, http, json};

fn problem(response: &Response, status: u16, name: &str) {
    assert_eq!(
        (response.status, response.json()["name"].as_str()),
        (status, Some(name)),
        "{response:?}"
    );
    assert_eq!(response.header("content-type"), Some("application/problem+json"));
    assert_eq!(response.json()["status"], status);
}

fn upgrade(server: &Server, headers: &[&str]) -> Response {
    Raw::connect(server.address).upgrade(headers)
}

#[test]
fn the_accept_key_is_that_of_the_rfc() {
    let server = Server::start(&[]);
    let response = upgrade(&server, &[]);
    assert_eq!(response.status, 101);
    assert_eq!(response.header("sec-websocket-accept"), Some(ACCEPT));
    assert_eq!(
        response.header("upgrade").map(str::to_ascii_lowercase),
        Some("websocket".to_owned())
    );
    assert_eq!(
        response.header("connection").map(str::to_ascii_lowercase),
        Some("upgrade".to_owned())
    );
    assert_eq!(response.header("sec-websocket-extensions"), None);
}

#[test]
fn the_first_subprotocol_that_is_known_is_chosen() {
    let server = Server::start(&[]);
    let cases: [(&[&str], Option<&str>); 7] = [
        (&[], None),
        (&["taskflow.v1.json"], Some("taskflow.v1.json")),
        (&["taskflow.v1.msgpack"], Some("taskflow.v1.msgpack")),
        (&["taskflow.v1.msgpack, taskflow.v1.json"], Some("taskflow.v1.msgpack")),
        (&["taskflow.v1.json,taskflow.v1.msgpack"], Some("taskflow.v1.json")),
        (&["taskflow.v2.json,  taskflow.v1.msgpack"], Some("taskflow.v1.msgpack")),
        (&["graphql-ws", "taskflow.v1.json"], Some("taskflow.v1.json")),
    ];
    for (offered, chosen) in cases {
        let headers: Vec<_> = offered
            .iter()
            .map(|value| format!("sec-websocket-protocol: {value}"))
            .collect();
        let response = upgrade(&server, &headers.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(
            (response.status, response.header("sec-websocket-protocol")),
            (101, chosen),
            "{offered:?}"
        );
    }
    for offered in ["taskflow.v2.json", "graphql-ws, mqtt", "TASKFLOW.V1.JSON", ","] {
        let response = upgrade(&server, &[&format!("sec-websocket-protocol: {offered}")]);
        problem(&response, 400, "version_unsupported");
    }
}

#[test]
fn without_a_subprotocol_a_client_speaks_json() {
    let server = Server::start(&[]);
    let account = server.user();
    let mut raw = Raw::connect(server.address);
    assert_eq!(raw.upgrade(&[]).status, 101);
    Client::connected(raw, Encoding::Json).hello(&account, &json!([{}]));
}

#[test]
fn the_token_comes_in_a_header_a_subprotocol_or_hello() {
    let server = Server::start(&[]);
    let (one, two) = (server.user(), server.user());
    let hello = |token: Option<&str>| json!({ "hello": { "protocol": { "min": 1, "max": 1 }, "token": token } });
    let token = |account: &crate::support::Account| format!("taskflow.token.{}", account.token);
    let cases: [(&str, Vec<String>, Value, &str); 6] = [
        ("in the header", vec![one.bearer()], hello(None), &one.user),
        (
            "in the header, in lower case",
            vec![one.bearer().replace("Bearer", "bearer")],
            hello(None),
            &one.user,
        ),
        (
            "in a subprotocol",
            vec![format!("sec-websocket-protocol: taskflow.v1.json, {}", token(&one))],
            hello(None),
            &one.user,
        ),
        (
            "in a subprotocol that stands first",
            vec![format!("sec-websocket-protocol: {}, taskflow.v1.json", token(&one))],
            hello(None),
            &one.user,
        ),
        ("in hello", vec![], hello(Some(&one.token)), &one.user),
        (
            "in both: hello counts",
            vec![one.bearer()],
            hello(Some(&two.token)),
            &two.user,
        ),
    ];
    for (why, headers, hello, user) in cases {
        let mut raw = Raw::connect(server.address);
        let response = raw.upgrade(&headers.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(response.status, 101, "{why}: {response:?}");
        assert!(
            !format!("{response:?}").contains("taskflow.token"),
            "{why}: a token is never echoed"
        );
        let mut client = Client::connected(raw, Encoding::Json);
        client.send(&hello);
        assert_eq!(client.wait_for("welcome")["user"], *user, "{why}");
    }
}

#[test]
fn a_bad_token_in_the_handshake_is_refused_there() {
    let server = Server::start(&[]);
    let account = server.register();
    let expired = server.mint(&account.user, &["--seconds=-60"]);
    let tokens: [(&str, u16, &str); 3] = [
        ("nonsense", 401, "token_invalid"),
        (&expired, 401, "token_expired"),
        (&"x".repeat(4097), 401, "token_invalid"),
    ];
    for (token, status, name) in tokens {
        problem(
            &upgrade(&server, &[&format!("authorization: Bearer {token}")]),
            status,
            name,
        );
        let offered = format!("sec-websocket-protocol: taskflow.v1.json, taskflow.token.{token}");
        problem(&upgrade(&server, &[&offered]), status, name);
    }
    let body = json!({ "refresh_token": account.refresh });
    assert_eq!(
        http::post(server.address, "/api/v1/auth/logout", &[], &body).status,
        204
    );
    problem(&upgrade(&server, &[&account.bearer()]), 401, "signed_out");
}

#[test]
fn a_page_of_another_origin_is_refused_unless_the_operator_allows_it() {
    let server = Server::start(&["--origins-allowed=https://app.example,http://localhost:3000"]);
    let own = format!("http://{}", server.address);
    for origin in [
        own.as_str(),
        "https://app.example",
        "HTTPS://APP.EXAMPLE",
        "http://localhost:3000",
    ] {
        assert_eq!(
            upgrade(&server, &[&format!("origin: {origin}")]).status,
            101,
            "{origin}"
        );
    }
    assert_eq!(upgrade(&server, &[]).status, 101, "a client that is no browser");
    for origin in [
        "null",
        "",
        "https://evil.example",
        "https://app.example.evil.example",
        "https://app.example:8443",
        "http://app.example",
        "http://localhost:3001",
        "file://",
        "https://app.example, https://evil.example",
    ] {
        problem(
            &upgrade(&server, &[&format!("origin: {origin}")]),
            403,
            "origin_refused",
        );
    }
}

#[test]
fn what_is_no_handshake_is_refused_and_says_why() {
    let server = Server::start(&[]);
    let good = handshake(server.address, &[]);
    let without = |name: &str| -> String {
        good.split_inclusive("\r\n")
            .filter(|line| !line.to_ascii_lowercase().starts_with(name))
            .collect()
    };
    let cases = [
        ("no key", without("sec-websocket-key")),
        ("no version", without("sec-websocket-version")),
        (
            "version 8",
            good.replace("sec-websocket-version: 13", "sec-websocket-version: 8"),
        ),
        (
            "version 99",
            good.replace("sec-websocket-version: 13", "sec-websocket-version: 99"),
        ),
        ("POST", good.replacen("GET", "POST", 1)),
        ("a key that is no base64 of 16 bytes", good.replace(KEY, "short")),
    ];
    for (why, request) in cases {
        let mut raw = Raw::connect(server.address);
        raw.send(request.as_bytes());
        let response = raw.upgraded();
        assert_eq!(response.status / 100, 4, "{why}: {response:?}");
        problem(
            &response,
            response.status,
            response.json()["name"].as_str().unwrap_or_default(),
        );
        if why.starts_with("version") || why == "no version" {
            // RFC 6455, section 4.4: so that the client can try again.
            assert_eq!(response.header("sec-websocket-version"), Some("13"), "{why}");
        }
    }
    // Without `Upgrade` it is a plain request for an address that has nothing for it.
    for method in ["GET", "HEAD", "POST", "PUT"] {
        let response = http::request(server.address, method, "/api/v1/socket", &[], b"");
        assert!((400..500).contains(&response.status), "{method}: {response:?}");
    }
    // And a handshake at another address.
    let mut raw = Raw::connect(server.address);
    raw.send(good.replacen("/api/v1/socket", "/api/v1/tasks", 1).as_bytes());
    problem(&raw.upgraded(), 404, "not_found");
}

#[test]
fn an_offer_of_another_protocol_is_ignored() {
    // RFC 9110, section 7.8: a server may ignore Upgrade. curl --http2 sends this.
    let server = Server::start(&[]);
    let headers = [
        "connection: Upgrade, HTTP2-Settings",
        "upgrade: h2c",
        "http2-settings: AAMAAABkAARAAAAAAAIAAAAA",
    ];
    let response = http::request(server.address, "GET", "/.well-known/jwks.json", &headers, b"");
    assert_eq!(response.status, 200, "{response:?}");
    let body = json!({ "email": "a@example.org", "password": "12345678" }).to_string();
    let mut with_type = headers.to_vec();
    with_type.push("content-type: application/json");
    let response = http::request(
        server.address,
        "POST",
        "/api/v1/auth/login",
        &with_type,
        body.as_bytes(),
    );
    assert_eq!(
        (response.status, response.json()["name"].as_str()),
        (401, Some("credentials_wrong")),
        "{response:?}"
    );
}

#[test]
fn a_full_server_refuses_the_handshake_and_takes_it_when_there_is_room() {
    let server = Server::start(&["--connections-max=2"]);
    let clients: Vec<_> = (0..2).map(|_| Client::connect(&server, Encoding::Json)).collect();
    let response = upgrade(&server, &[]);
    problem(&response, 503, "server_busy");
    assert_eq!(response.header("retry-after"), Some("1"));
    assert_eq!(server.metric("taskflow_handshakes_total{outcome=\"limited\"}"), 1.0);
    drop(clients);
    eventually("room again", || (upgrade(&server, &[]).status == 101).then_some(()));
}

#[test]
fn handshakes_that_are_not_finished_hold_no_others_up() {
    // A thousand connections that send half a handshake, or nothing.
    let server = Server::start(&[]);
    let half = handshake(server.address, &[]);
    let _slow: Vec<_> = (0..1000)
        .map(|index| {
            let mut raw = Raw::connect(server.address);
            raw.send(&half.as_bytes()[..index % 100]);
            raw
        })
        .collect();
    let account = server.user();
    Client::open(&server, Encoding::Json, &account);
}
