//! Access tokens of others whom the operator trusts.

use taskflow::clock::SystemClock;
use taskflow_actors::ports::Clock as _;

use crate::account::name;
use crate::support::issuer::Issuer;
use crate::support::ws::task;
use crate::support::{Account, Client, ENCODINGS, Encoding, Follower, Server, Value, json};

fn with(user: &Account, token: String) -> Account {
    Account { token, ..user.clone() }
}

#[test]
fn who_comes_with_a_token_of_an_issuer_is_a_user_like_any_other() {
    let issuer = Issuer::start();
    let server = Server::start(&[&issuer.flag()]);
    let (ada, bob) = (issuer.user("ada"), issuer.user("bob"));
    let made = server.post("/api/v1/tasks", &ada, &json!({ "title": "hers" }));
    assert_eq!(made.status, 201, "{made:?}");
    // The same user with another token, over the other ways in, and after a restart.
    let later = with(&ada, issuer.token("ada", &json!({ "jti": "another" })));
    for encoding in ENCODINGS {
        let mut follower = Follower::start(&server, encoding, &later);
        let seq = follower.client.accept(&task("pushed")["command"]);
        follower.until_seq(seq);
    }
    let titles = |server: &Server, user: &Account| {
        let tasks = server.get("/api/v1/tasks", user).json();
        let tasks = tasks["items"].as_array().cloned().expect("tasks");
        tasks.iter().map(|task| task["title"].clone()).collect::<Vec<Value>>()
    };
    assert_eq!(titles(&server, &later), ["hers", "pushed", "pushed"]);
    assert_eq!(titles(&server, &bob), [""; 0], "and of nobody else");
    assert_eq!(issuer.asked(), 1);
    let mut server = server;
    server.restart();
    assert_eq!(titles(&server, &ada), ["hers", "pushed", "pushed"]);
    assert_eq!(issuer.asked(), 2);
    // Accounts of this server go on beside them.
    let own = server.register();
    assert_eq!(server.get("/api/v1/tasks", &own).status, 200);
}

#[test]
fn such_a_token_opens_tasks_and_nothing_of_an_account() {
    let issuer = Issuer::start();
    let server = Server::start(&[&issuer.flag()]);
    let ada = issuer.user("ada");
    for (method, path, body) in [
        ("GET", "/api/v1/sessions", Value::Null),
        ("GET", "/api/v1/tokens", Value::Null),
        (
            "POST",
            "/api/v1/tokens",
            json!({ "name": "n", "scopes": ["tasks:read"], "expires_in_days": 1 }),
        ),
        ("GET", "/api/v1/history", Value::Null),
        ("POST", "/api/v1/auth/logout", json!({ "everywhere": true })),
    ] {
        let refused = server.send(method, path, &ada, &[], &body);
        assert_eq!(name(&refused), (403, "scope_missing".to_owned()), "{method} {path}");
    }
    // What the issuer gave it to do, and no more.
    let reader = with(&ada, issuer.token("ada", &json!({ "scope": "tasks:read" })));
    assert_eq!(server.get("/api/v1/tasks", &reader).status, 200);
    let refused = server.post("/api/v1/tasks", &reader, &json!({ "title": "t" }));
    assert_eq!(name(&refused), (403, "scope_missing".to_owned()));
    let mut client = Client::open(&server, Encoding::Json, &reader);
    client.send_operations(&[task("t")]);
    assert_eq!(client.wait_for("error")["name"], "scope_missing");
    let none = with(&ada, issuer.token("ada", &json!({ "scope": "openid" })));
    let refused = server.get("/api/v1/tasks", &none);
    assert_eq!(name(&refused), (403, "scope_missing".to_owned()));
}

#[test]
fn a_token_of_an_issuer_ends_when_it_says() {
    let issuer = Issuer::start();
    let server = Server::start(&[&issuer.flag()]);
    let now = SystemClock.now_ms() / 1_000;
    let over = with(&issuer.user("ada"), issuer.token("ada", &json!({ "exp": now - 120 })));
    let refused = server.get("/api/v1/tasks", &over);
    assert_eq!(name(&refused), (401, "token_expired".to_owned()));
    let of_others = with(&over, issuer.token("ada", &json!({ "aud": "another program" })));
    let refused = server.get("/api/v1/tasks", &of_others);
    assert_eq!(name(&refused), (401, "token_invalid".to_owned()));
    // A connection goes with its token.
    let short = with(&over, issuer.token("ada", &json!({ "exp": now + 3 })));
    let mut client = Client::open(&server, Encoding::Json, &short);
    assert_eq!(client.ended().code(), Some(4202));
}

#[test]
fn an_issuer_that_is_away_is_said_to_be() {
    let issuer = Issuer::away();
    let server = Server::start(&[&issuer.flag()]);
    let ada = issuer.user("ada");
    let refused = server.get("/api/v1/tasks", &ada);
    assert_eq!(name(&refused), (503, "issuer_unavailable".to_owned()));
    assert_eq!(refused.header("retry-after"), Some("5"));
    let mut client = Client::connect(&server, Encoding::Json);
    client.send_hello(&ada.token, &json!([]));
    assert_eq!(client.ended().code(), Some(4217));
    let own = server.register();
    assert_eq!(
        server.get("/api/v1/tasks", &own).status,
        200,
        "accounts of this server need nobody"
    );
}
