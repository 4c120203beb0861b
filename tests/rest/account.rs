//! The life of an account: its address, its personal access tokens, its history, its end.

use std::path::Path;

use taskflow_actors::ports::Clock as _;

use crate::support::ENCODINGS;
use crate::support::http::{self, Connection, Response};
use crate::support::server::{Account, PASSWORD, Server};
use crate::support::ws::{Client, operation, task};
use crate::support::{Encoding, Value, eventually, id, json};

pub(crate) fn auth(server: &Server, path: &str, body: &Value) -> Response {
    http::post(server.address, &format!("/api/v1/auth/{path}"), &[], body)
}

pub(crate) fn name(response: &Response) -> (u16, String) {
    (
        response.status,
        response.json()["name"].as_str().unwrap_or_default().to_owned(),
    )
}

pub(crate) fn refused(status: u16, name: &str) -> (u16, String) {
    (status, name.to_owned())
}

fn credentials(email: &str) -> Value {
    json!({ "email": email, "password": PASSWORD, "device": "laptop" })
}

/// The events of a user, the newest first.
pub(crate) fn events(server: &Server, account: &Account) -> Vec<String> {
    let answer = server.get("/api/v1/history", account);
    assert_eq!(answer.status, 200, "{answer:?}");
    let items = answer.json()["items"].as_array().unwrap().clone();
    items
        .iter()
        .map(|item| item["event"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn an_account_that_is_to_be_deleted_is_signed_out_and_can_be_kept() {
    let server = Server::start(&[]);
    let ada = server.register();
    let made = server.post("/api/v1/tasks", &ada, &json!({ "title": "keep me" }));
    assert_eq!(made.status, 201);
    let mut sockets = ENCODINGS.map(|encoding| Client::open(&server, encoding, &ada));
    let wrong = json!({ "email": ada.email, "password": "another battery" });
    for path in ["delete", "restore"] {
        assert_eq!(name(&auth(&server, path, &wrong)), refused(401, "credentials_wrong"));
    }
    let asked = auth(&server, "delete", &credentials(&ada.email));
    assert_eq!(asked.status, 202, "{asked:?}");
    let deletes_at = asked.json()["deletes_at"].as_i64().unwrap();
    let now = taskflow::clock::SystemClock.now_ms();
    let days = (deletes_at - now) as f64 / 86_400_000.0;
    assert!((13.99..=14.0).contains(&days), "{days}");
    for socket in &mut sockets {
        assert_eq!(socket.ended().code(), Some(4203));
    }
    assert_eq!(name(&server.get("/api/v1/tasks", &ada)), refused(401, "signed_out"));
    // Nothing opens it but the wish to keep it.
    for (path, more) in [
        ("login", json!({})),
        ("password", json!({ "new_password": "another battery" })),
        ("email", json!({ "new_email": "new@example.org" })),
    ] {
        let mut body = json!({ "email": ada.email, "password": PASSWORD });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = auth(&server, path, &body);
        assert_eq!(name(&answer), refused(403, "account_deleting"), "{path}");
        assert!(
            answer.json()["detail"].as_str().unwrap().contains("deleted at 20"),
            "{answer:?}"
        );
    }
    let again = auth(&server, "delete", &credentials(&ada.email));
    assert_eq!(
        again.json()["deletes_at"],
        deletes_at,
        "asked twice, it is the first time that counts"
    );
    assert_eq!(
        name(&auth(&server, "register", &credentials(&ada.email))),
        refused(409, "email_taken")
    );
    for _ in 0..2 {
        // Also where the first answer was lost.
        let kept = auth(&server, "restore", &credentials(&ada.email));
        assert_eq!(kept.status, 200, "{kept:?}");
        let kept = Account::of(&kept, ada.email.clone());
        assert_eq!(kept.user, ada.user);
        assert_eq!(
            server.get("/api/v1/tasks", &kept).json()["items"][0]["title"],
            "keep me"
        );
    }
    let back = Account::of(&auth(&server, "login", &credentials(&ada.email)), ada.email.clone());
    let expected = [
        "signed_in",
        "signed_in",
        "signed_in",
        "deletion_cancelled",
        "deletion_requested",
    ];
    let events = events(&server, &back);
    let of_its_owner: Vec<_> = events.iter().filter(|event| *event != "sign_in_failed").collect();
    assert_eq!(of_its_owner[..5], expected, "{events:?}");
}

/// What the database holds that has these bytes in its key or in its value, by table.
fn found_in(data: &Path, bytes: &[u8]) -> Vec<String> {
    let database =
        rusqlite::Connection::open_with_flags(data.join("taskflow.db"), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY);
    let database = database.unwrap();
    let mut tables = database
        .prepare("SELECT name FROM sqlite_master WHERE type='table'")
        .unwrap();
    let tables: Vec<String> = tables
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(tables.len() >= 12, "{tables:?}");
    let holds = |table: &String| {
        let mut rows = database.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let mut rows = rows.query([]).unwrap();
        let mut count = 0;
        while let Some(row) = rows.next().unwrap() {
            count += (0..2)
                .filter(|column| {
                    let value = row.get_ref(*column).unwrap();
                    let value = value.as_bytes().unwrap_or_default();
                    value.windows(bytes.len()).any(|window| window == bytes)
                })
                .count();
        }
        count > 0
    };
    tables.into_iter().filter(holds).collect()
}

#[test]
fn a_deleted_account_leaves_nothing_and_the_others_everything() {
    let mut server = Server::start(&["--account-grace-days=0"]);
    let (ada, bob) = (server.register(), server.register());
    for account in [&ada, &bob] {
        for n in 0..40 {
            let title = format!("{n} of {}", account.email);
            let made = server.post(
                "/api/v1/tasks",
                account,
                &json!({ "title": title, "notes": account.email }),
            );
            assert_eq!(made.status, 201);
        }
        let token = json!({ "name": "script", "scopes": ["tasks:read"], "expires_in_days": 1 });
        assert_eq!(server.post("/api/v1/tokens", account, &token).status, 201);
        auth(
            &server,
            "login",
            &json!({ "email": account.email, "password": "a wrong one" }),
        );
    }
    let bytes = |user: &str| user.parse::<uuid::Uuid>().unwrap().into_bytes();
    let (data, tables) = (
        server.data.clone(),
        ["head", "log", "row", "device", "history", "account", "sign_in"],
    );
    for account in [&ada, &bob] {
        eventually("all of it is in its place", || {
            let found = found_in(data.path(), &bytes(&account.user));
            tables
                .iter()
                .all(|table| found.iter().any(|of| of == table))
                .then_some(())
        });
    }
    let asked = auth(&server, "delete", &credentials(&ada.email));
    assert_eq!(asked.status, 202, "{asked:?}");
    server.wait_for_metric("taskflow_accounts_deleted_total", |count| count == 1.0);
    assert_eq!(
        name(&auth(&server, "login", &credentials(&ada.email))),
        refused(401, "credentials_wrong")
    );
    assert_eq!(name(&server.get("/api/v1/tasks", &ada)), refused(401, "signed_out"));
    // Whoever has the address next is somebody else.
    let next = auth(&server, "register", &credentials(&ada.email));
    assert_eq!(next.status, 201, "{next:?}");
    let next = Account::of(&next, ada.email.clone());
    assert_ne!(next.user, ada.user);
    assert_eq!(server.get("/api/v1/tasks", &next).json()["items"], json!([]));
    assert_eq!(events(&server, &next), ["registered"]);
    auth(&server, "delete", &credentials(&ada.email));
    server.wait_for_metric("taskflow_accounts_deleted_total", |count| count == 2.0);
    // The operator's token is another matter: its user is not born again either.
    let minted = Account {
        token: server.mint(&ada.user, &[]),
        ..ada.clone()
    };
    assert_eq!(
        name(&server.get("/api/v1/tasks", &minted)),
        refused(404, "feed_not_found")
    );
    assert_eq!(
        server.get("/api/v1/tasks?limit=500", &bob).json()["items"]
            .as_array()
            .unwrap()
            .len(),
        40
    );
    assert!(server.stop().success());
    let found = found_in(data.path(), &bytes(&ada.user));
    assert_eq!(found, ["removed"], "its number alone");
    assert_eq!(found_in(data.path(), ada.email.as_bytes()), [] as [String; 0]);
    let of_bob = found_in(data.path(), &bytes(&bob.user));
    assert!(
        tables.iter().all(|table| of_bob.iter().any(|of| of == table)),
        "{of_bob:?}"
    );
    server.restart();
    assert_eq!(
        server.get("/api/v1/tasks?limit=500", &bob).json()["items"]
            .as_array()
            .unwrap()
            .len(),
        40
    );
}

#[test]
fn an_address_is_changed_and_nobody_is_signed_out() {
    let server = Server::start(&[]);
    let (ada, bob) = (server.register(), server.register());
    let new = format!("new-{}", ada.email);
    let change = |password: &str, to: &str| {
        auth(
            &server,
            "email",
            &json!({ "email": ada.email, "password": password, "new_email": to }),
        )
    };
    assert_eq!(
        name(&change("another battery", &new)),
        refused(401, "credentials_wrong")
    );
    for (to, expected) in [
        (bob.email.as_str(), refused(409, "email_taken")),
        ("nonsense", refused(422, "email_invalid")),
    ] {
        let answer = change(PASSWORD, to);
        assert_eq!(
            (name(&answer), &answer.json()["field"]),
            (expected, &json!("new_email"))
        );
    }
    // To itself is no change.
    assert_eq!(change(PASSWORD, &ada.email.to_uppercase()).status, 204);
    assert_eq!(change(PASSWORD, &format!(" {} ", new.to_uppercase())).status, 204);
    assert_eq!(server.get("/api/v1/tasks", &ada).status, 200);
    assert_eq!(
        name(&auth(&server, "login", &credentials(&ada.email))),
        refused(401, "credentials_wrong")
    );
    let login = auth(&server, "login", &credentials(&new));
    assert_eq!(login.json()["user"], *ada.user);
    assert_eq!(events(&server, &ada)[..2], ["signed_in", "email_changed"]);
    // The old address is free.
    assert_eq!(auth(&server, "register", &credentials(&ada.email)).status, 201);
}

fn token(server: &Server, owner: &Account, scopes: &[&str]) -> (String, Account) {
    let body = json!({ "name": "backup script", "scopes": scopes, "expires_in_days": 30 });
    let answer = server.post("/api/v1/tokens", owner, &body);
    assert_eq!(
        (answer.status, answer.header("cache-control")),
        (201, Some("no-store")),
        "{answer:?}"
    );
    let made = answer.json();
    let account = Account {
        token: made["token"].as_str().unwrap().to_owned(),
        refresh: String::new(),
        ..owner.clone()
    };
    (made["id"].as_str().unwrap().to_owned(), account)
}

#[test]
fn a_personal_access_token_does_what_its_scopes_say_until_it_is_ended() {
    let server = Server::start(&[]);
    let ada = server.register();
    let (read_id, reader) = token(&server, &ada, &["tasks:read"]);
    let (_, writer) = token(&server, &ada, &["tasks:write"]);
    assert!(reader.token.starts_with("tfp_"));
    let create = |account: &Account| server.post("/api/v1/tasks", account, &json!({ "title": "by a script" }));
    assert_eq!(create(&writer).status, 201);
    assert_eq!(name(&create(&reader)), refused(403, "scope_missing"));
    let submitted = server.post(
        "/api/v1/operations",
        &reader,
        &json!({ "operations": [operation(&task("no")["command"])] }),
    );
    assert_eq!(name(&submitted), refused(403, "scope_missing"));
    for account in [&reader, &writer] {
        let page = server.get("/api/v1/tasks", account).json();
        assert_eq!(page["items"].as_array().unwrap().len(), 1);
        // The account itself is its owner's, whatever the scope.
        for (method, path) in [
            ("GET", "/api/v1/sessions"),
            ("DELETE", &*format!("/api/v1/sessions/{}", id())),
            ("GET", "/api/v1/tokens"),
            ("POST", "/api/v1/tokens"),
            ("DELETE", &*format!("/api/v1/tokens/{read_id}")),
            ("GET", "/api/v1/history"),
            ("POST", "/api/v1/auth/logout"),
        ] {
            let answer = server.send(method, path, account, &[], &json!({}));
            assert_eq!(name(&answer), refused(403, "scope_missing"), "{method} {path}");
        }
    }
    let listed = server.get("/api/v1/tokens", &ada).json();
    let listed = listed["items"].as_array().unwrap();
    assert_eq!(listed.len(), 2);
    let one = listed.iter().find(|one| one["id"] == *read_id).unwrap();
    assert_eq!(
        (&one["name"], &one["scopes"]),
        (&json!("backup script"), &json!(["tasks:read"]))
    );
    assert_eq!(one.get("token"), None, "it is shown once");
    assert_eq!(
        server.get("/api/v1/sessions", &ada).json()["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    for encoding in ENCODINGS {
        let mut socket = Client::open(&server, encoding, &reader);
        socket.send(&json!({ "follow": { "feed": ada.user } }));
        socket.wait_for("snapshot");
        socket.send_operations(&[operation(&task("no")["command"])]);
        assert_eq!(socket.wait_for("error")["name"], "scope_missing");
        // What others do is pushed to it.
        assert_eq!(create(&writer).status, 201);
        socket.wait_for("entries");
    }
    // Not for another's account, and not as anything else.
    let bob = server.register();
    let path = format!("/api/v1/tokens/{read_id}");
    assert_eq!(
        name(&server.send("DELETE", &path, &bob, &[], &Value::Null)),
        refused(404, "row_not_found")
    );
    let stripped = json!({ "refresh_token": reader.token.strip_prefix("tfp_").unwrap() });
    assert_eq!(name(&auth(&server, "refresh", &stripped)), refused(401, "signed_out"));
    assert_eq!(server.get("/api/v1/tasks", &reader).status, 200, "and it goes on");
    let mut socket = Client::open(&server, Encoding::Json, &reader);
    assert_eq!(server.send("DELETE", &path, &ada, &[], &Value::Null).status, 204);
    assert_eq!(socket.ended().code(), Some(4203));
    assert_eq!(name(&server.get("/api/v1/tasks", &reader)), refused(401, "signed_out"));
    assert_eq!(server.get("/api/v1/tasks", &writer).status, 200);
    // A new password is the end of all of them.
    let body = json!({ "email": ada.email, "password": PASSWORD, "new_password": "another battery" });
    let changed = auth(&server, "password", &body);
    assert_eq!(name(&server.get("/api/v1/tasks", &writer)), refused(401, "signed_out"));
    let ada = Account::of(&changed, ada.email);
    assert_eq!(
        events(&server, &ada),
        [
            "password_changed",
            "token_ended",
            "token_made",
            "token_made",
            "registered"
        ]
    );
}

#[test]
fn tokens_have_limits_and_a_guessed_one_opens_nothing() {
    let mut server = Server::start(&[]);
    let ada = server.register();
    let make = |body: &Value| server.post("/api/v1/tokens", &ada, body);
    let good = json!({ "name": "n", "scopes": ["tasks:read"], "expires_in_days": 1 });
    // Whoever relies on it must not find out by two tokens that nothing is remembered.
    let key = "idempotency-key: 0197a3c0-5555-7aaa-8000-000000000006";
    let repeatable = server.send("POST", "/api/v1/tokens", &ada, &[key], &good);
    assert_eq!(
        (name(&repeatable), &repeatable.json()["field"]),
        (refused(400, "invalid_field"), &json!("Idempotency-Key"))
    );
    for (field, value, status, expected, at) in [
        ("name", json!(""), 422, "value_invalid", json!("name")),
        ("name", json!("x".repeat(101)), 422, "value_invalid", json!("name")),
        ("name", json!("two\nlines"), 422, "value_invalid", json!("name")),
        ("scopes", json!([]), 422, "value_invalid", json!("scopes")),
        ("scopes", json!(["admin"]), 400, "invalid_field", json!("scopes[0]")),
        (
            "expires_in_days",
            json!(0),
            422,
            "value_invalid",
            json!("expires_in_days"),
        ),
        (
            "expires_in_days",
            json!(367),
            422,
            "value_invalid",
            json!("expires_in_days"),
        ),
        (
            "expires_in_days",
            json!(-1),
            400,
            "invalid_field",
            json!("expires_in_days"),
        ),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let answer = make(&body);
        assert_eq!(name(&answer), refused(status, expected), "{body}");
        assert_eq!(answer.json()["field"], at, "{body}");
    }
    let made: Vec<Value> = (0..50).map(|_| make(&good).json()).collect();
    let full = make(&good);
    assert_eq!(name(&full), refused(409, "limit_reached"));
    assert_eq!(full.json()["detail"], "there are 50 tokens");
    // They are no sign-ins: none of those is ended for them.
    assert_eq!(
        server.get("/api/v1/sessions", &ada).json()["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let text = made[0]["token"].as_str().unwrap();
    let last = if text.ends_with('A') { 'B' } else { 'A' };
    let guesses = [
        format!("{}{last}", &text[..text.len() - 1]),
        format!("tfp_{}", "A".repeat(64)),
        "tfp_".to_owned(),
    ];
    let status = |server: &Server, token: &str| {
        let account = Account {
            token: token.to_owned(),
            ..ada.clone()
        };
        name(&server.get("/api/v1/tasks", &account))
    };
    for guess in guesses {
        assert_eq!(status(&server, &guess), refused(401, "token_invalid"), "{guess}");
    }
    assert_eq!(status(&server, text), refused(200, ""));
    server.kill();
    server.restart();
    assert_eq!(status(&server, text), refused(200, ""), "it outlives a crash");
}

#[test]
fn the_history_says_who_did_what_from_where() {
    let server = Server::start(&["--trusted-proxies=127.0.0.1"]);
    let (ada, bob) = (server.register(), server.register());
    let body = json!({ "email": ada.email, "password": "a good guess", "device": "thief" });
    let from = ["x-forwarded-for: 192.0.2.66"];
    assert_eq!(
        http::post(server.address, "/api/v1/auth/login", &from, &body).status,
        401
    );
    assert_eq!(server.get("/api/v1/export", &ada).status, 200);
    let stolen = json!({ "refresh_token": ada.refresh });
    let phone = Account::of(&auth(&server, "login", &credentials(&ada.email)), ada.email.clone());
    let all = eventually("the note of the failure", || {
        let items = server.get("/api/v1/history", &phone).json()["items"]
            .as_array()
            .unwrap()
            .clone();
        eprintln!("{items:?}");
        (items.len() == 4).then_some(items)
    });
    let failed = all.iter().find(|item| item["event"] == "sign_in_failed").unwrap();
    assert_eq!(
        (&failed["address"], &failed["device"]),
        (&json!("192.0.2.66"), &json!("thief"))
    );
    assert_eq!(failed.get("session"), None);
    let signed_in = all.iter().find(|item| item["event"] == "signed_in").unwrap();
    assert_eq!(
        (&signed_in["address"], &signed_in["device"]),
        (&json!("127.0.0.1"), &json!("laptop"))
    );
    let sessions = server.get("/api/v1/sessions", &phone).json();
    assert_eq!(signed_in["session"], sessions["items"][0]["id"]);
    assert!(all.iter().any(|item| item["event"] == "exported"));
    assert!(all.iter().all(|item| item["at"].as_i64() > Some(1_700_000_000_000)));
    assert_eq!(events(&server, &bob), ["registered"], "each has their own");
    // A token that was replaced twice is used by whoever copied it.
    let second = auth(&server, "refresh", &stolen).json()["refresh_token"].clone();
    let third = auth(&server, "refresh", &json!({ "refresh_token": second }));
    assert_eq!(third.status, 200);
    assert_eq!(name(&auth(&server, "refresh", &stolen)), refused(401, "signed_out"));
    assert_eq!(events(&server, &phone)[0], "refresh_token_reused");
    let body = json!({ "refresh_token": phone.refresh });
    let last = Account::of(&auth(&server, "login", &credentials(&ada.email)), ada.email.clone());
    assert_eq!(auth(&server, "logout", &body).status, 204);
    assert_eq!(events(&server, &last)[..2], ["signed_out", "signed_in"]);
    // Page by page it is the same.
    let whole = server.get("/api/v1/history", &last).json()["items"].clone();
    let (mut pages, mut path) = (Vec::new(), "/api/v1/history?limit=2".to_owned());
    for _ in 0..10 {
        let answer = server.get(&path, &last);
        let page = answer.json();
        pages.extend(page["items"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/history?limit=2&page={next}");
        assert_eq!(answer.header("link"), Some(&*format!("<{path}>; rel=\"next\"")));
    }
    assert_eq!(Value::Array(pages), whole);
    for (query, expected) in [
        ("limit=0", refused(422, "value_invalid")),
        ("page=x", refused(422, "value_invalid")),
        ("page=1.x", refused(422, "value_invalid")),
        ("when=now", refused(400, "invalid_field")),
    ] {
        assert_eq!(
            name(&server.get(&format!("/api/v1/history?{query}"), &last)),
            expected,
            "{query}"
        );
    }
}

#[test]
fn whoever_is_signed_out_while_making_a_token_makes_none() {
    let server = Server::start(&[]);
    let ada = server.register();
    let body = json!({ "name": "n", "scopes": ["tasks:write"], "expires_in_days": 366 }).to_string();
    let mut thief = Connection::open(server.address);
    // The server has seen whose it is, and waits for the rest.
    let head = format!(
        "POST /api/v1/tokens HTTP/1.1\r\nhost: {}\r\n{}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         expect: 100-continue\r\n\r\n",
        server.address,
        ada.bearer(),
        body.len()
    );
    thief.send_raw(head.as_bytes());
    assert_eq!(thief.head().map(|head| head.status), Some(100));
    let out = json!({ "refresh_token": ada.refresh, "everywhere": true });
    assert_eq!(auth(&server, "logout", &out).status, 204);
    thief.send_raw(body.as_bytes());
    assert_eq!(name(&thief.response()), refused(401, "signed_out"));
    let login = json!({ "email": ada.email, "password": PASSWORD });
    let again = Account::of(&auth(&server, "login", &login), ada.email);
    assert_eq!(server.get("/api/v1/tokens", &again).json()["items"], json!([]));
}
