//! Sign-ins and tokens, from the outside.

use taskflow_actors::ports::Clock as _;

use crate::support::server::PASSWORD;
use crate::support::{Account, Client, Encoding, Response, Server, Value, eventually, http, id, in_parallel, json};

fn auth(server: &Server, path: &str, body: &Value) -> Response {
    http::post(server.address, &format!("/api/v1/auth/{path}"), &[], body)
}

fn name(response: &Response) -> (u16, String) {
    (
        response.status,
        response.json()["name"].as_str().unwrap_or_default().to_owned(),
    )
}

#[test]
fn register_sign_in_refresh_and_sign_out() {
    let server = Server::start(&[]);
    let body = json!({ "email": "  Ann@Example.ORG ", "password": PASSWORD });
    let registered = auth(&server, "register", &body);
    assert_eq!(registered.status, 201, "{registered:?}");
    assert_eq!(registered.json()["expires_in"], 600);
    assert_eq!(registered.header("cache-control"), Some("no-store"));
    let login = auth(
        &server,
        "login",
        &json!({ "email": "ann@example.org", "password": PASSWORD }),
    );
    assert_eq!(login.status, 200, "{login:?}");
    assert_eq!(login.json()["user"], registered.json()["user"]);
    let account = Account::of(&login, String::new());
    assert_eq!(server.get("/api/v1/tasks", &account).status, 200);
    let refreshed = auth(&server, "refresh", &json!({ "refresh_token": account.refresh }));
    let again = auth(&server, "refresh", &json!({ "refresh_token": account.refresh }));
    assert_eq!(
        (refreshed.status, again.status),
        (200, 200),
        "a lost answer may be asked for again"
    );
    assert_eq!(refreshed.json()["refresh_token"], again.json()["refresh_token"]);
    let next = Account::of(&refreshed, String::new());
    assert_eq!(
        auth(&server, "logout", &json!({ "refresh_token": next.refresh })).status,
        204
    );
    for token in [&account.token, &next.token] {
        let account = Account {
            token: token.clone(),
            ..account.clone()
        };
        assert_eq!(
            name(&server.get("/api/v1/tasks", &account)),
            (401, "signed_out".to_owned())
        );
    }
    assert_eq!(
        name(&auth(&server, "refresh", &json!({ "refresh_token": next.refresh }))),
        (401, "signed_out".to_owned())
    );
    // The other sign-in is none of it.
    let first = Account::of(&registered, String::new());
    assert_eq!(server.get("/api/v1/tasks", &first).status, 200);
}

fn login(server: &Server, email: &str, password: &str, device: &str) -> Response {
    let body = json!({ "email": email, "password": password, "device": device });
    auth(server, "login", &body)
}

fn sessions(server: &Server, account: &Account) -> Vec<Value> {
    let answer = server.get("/api/v1/sessions", account);
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    answer.json()["items"].as_array().expect("items").clone()
}

fn status(server: &Server, account: &Account) -> (u16, String) {
    name(&server.get("/api/v1/tasks", account))
}

fn in_there() -> (u16, String) {
    (200, String::new())
}

fn signed_out() -> (u16, String) {
    (401, "signed_out".to_owned())
}

#[test]
fn sessions_are_listed_and_ended_one_by_one() {
    let server = Server::start(&[]);
    let first = server.register();
    let phone = Account::of(
        &login(&server, &first.email, PASSWORD, "Ada's phone"),
        first.email.clone(),
    );
    let all = sessions(&server, &phone);
    let [now, before] = &all[..] else { panic!("{all:?}") };
    assert_eq!((&now["device"], &now["current"]), (&json!("Ada's phone"), &json!(true)));
    assert_eq!(now["address"], "127.0.0.1");
    assert_eq!(before["current"], false);
    for time in ["created_at", "seen_at", "expires_at"] {
        assert!(now[time].as_i64() > Some(1_700_000_000_000), "{now}");
    }
    let path = |session: &Value| format!("/api/v1/sessions/{}", session["id"].as_str().unwrap());
    let end = |path: &str, account: &Account| server.send("DELETE", path, account, &[], &Value::Null);
    // Another user has nothing to end here.
    let other = server.register();
    assert_eq!(name(&end(&path(before), &other)), (404, "row_not_found".to_owned()));
    assert_eq!(
        name(&end("/api/v1/sessions/no-id", &phone)),
        (404, "row_not_found".to_owned())
    );
    assert_eq!(end(&path(before), &phone).status, 204);
    assert_eq!(name(&end(&path(before), &phone)), (404, "row_not_found".to_owned()));
    assert_eq!(status(&server, &first), signed_out());
    assert_eq!(
        name(&auth(&server, "refresh", &json!({ "refresh_token": first.refresh }))),
        signed_out()
    );
    assert_eq!(status(&server, &phone), in_there());
    assert_eq!(sessions(&server, &phone).len(), 1);
    assert_eq!(sessions(&server, &other).len(), 1);
    // What has no name of its own is called like its program.
    let agent = ["user-agent: curl/8.5.0"];
    let body = json!({ "email": first.email, "password": PASSWORD });
    let answer = http::post(server.address, "/api/v1/auth/login", &agent, &body);
    let unnamed = Account::of(&answer, first.email.clone());
    assert_eq!(sessions(&server, &unnamed)[0]["device"], "curl/8.5.0");
    for wrong in ["x".repeat(101), "two\nlines".to_owned()] {
        let answer = login(&server, &first.email, PASSWORD, &wrong);
        assert_eq!(
            (name(&answer), &answer.json()["field"]),
            ((422, "value_invalid".to_owned()), &json!("device"))
        );
    }
}

#[test]
fn signing_out_everywhere_ends_what_the_user_has_and_nothing_else() {
    let server = Server::start(&[]);
    let (first, other) = (server.register(), server.register());
    let again = || Account::of(&login(&server, &first.email, PASSWORD, "again"), first.email.clone());
    let second = again();
    let everywhere = json!({ "everywhere": true });
    let answer = http::post(server.address, "/api/v1/auth/logout", &[&second.bearer()], &everywhere);
    assert_eq!(answer.status, 204, "{answer:?}");
    for account in [&first, &second] {
        assert_eq!(status(&server, account), signed_out());
    }
    let (third, fourth) = (again(), again());
    let body = json!({ "refresh_token": third.refresh, "everywhere": true });
    assert_eq!(auth(&server, "logout", &body).status, 204);
    for account in [&third, &fourth] {
        assert_eq!(status(&server, account), signed_out());
    }
    // One that is ended already ends nothing, and says so.
    let fifth = again();
    assert_eq!(name(&auth(&server, "logout", &body)), signed_out());
    assert_eq!(status(&server, &fifth), in_there());
    assert_eq!(status(&server, &other), in_there());
}

#[test]
fn a_new_password_ends_every_other_sign_in() {
    const NEW: &str = "another horse, another battery";
    let server = Server::start(&[]);
    let (first, other) = (server.register(), server.register());
    let change = |password: &str, new: &str| {
        let body = json!({ "email": first.email, "password": password, "new_password": new, "device": "here" });
        auth(&server, "password", &body)
    };
    assert_eq!(
        name(&change("not the password", NEW)),
        (401, "credentials_wrong".to_owned())
    );
    for new in ["short", "Football1"] {
        assert_eq!(
            name(&change(PASSWORD, new)),
            (422, "password_invalid".to_owned()),
            "{new}"
        );
    }
    assert_eq!(status(&server, &first), in_there());
    let changed = change(PASSWORD, NEW);
    assert_eq!(changed.status, 200, "{changed:?}");
    let here = Account::of(&changed, first.email.clone());
    assert_eq!(status(&server, &here), in_there());
    assert_eq!(sessions(&server, &here)[0]["device"], "here");
    assert_eq!(sessions(&server, &here).len(), 1);
    assert_eq!(status(&server, &first), signed_out());
    assert_eq!(status(&server, &other), in_there());
    assert_eq!(
        name(&login(&server, &first.email, PASSWORD, "")),
        (401, "credentials_wrong".to_owned())
    );
    assert_eq!(login(&server, &first.email, NEW, "").status, 200);
    assert_eq!(
        name(&change(PASSWORD, "and one more")),
        (401, "credentials_wrong".to_owned())
    );
    let nobody = json!({ "email": "nobody@example.org", "password": PASSWORD, "new_password": NEW });
    assert_eq!(
        name(&auth(&server, "password", &nobody)),
        (401, "credentials_wrong".to_owned())
    );
}

#[test]
fn whoever_signs_in_while_the_password_is_replaced_is_out_or_has_the_new_one() {
    let server = Server::start(&[]);
    let account = server.register();
    let opened = std::sync::Mutex::new(Vec::new());
    in_parallel(0..7, |index| {
        if index == 3 {
            let body = json!({ "email": account.email, "password": PASSWORD, "new_password": "the new password" });
            assert_eq!(auth(&server, "password", &body).status, 200);
        } else {
            let answer = login(&server, &account.email, PASSWORD, "at the same moment");
            assert!([200, 401].contains(&answer.status), "{answer:?}");
            if answer.status == 200 {
                opened.lock().unwrap().push(Account::of(&answer, String::new()));
            }
        }
    });
    for account in opened.into_inner().unwrap() {
        assert_eq!(status(&server, &account), signed_out());
    }
}

fn keys(server: &Server, arguments: &[&str]) -> (bool, String) {
    let data = format!("--data-dir={}", server.data.path().display());
    let output = crate::support::server::binary()
        .arg("keys")
        .args(arguments)
        .arg(data)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn a_signing_key_is_replaced_while_everybody_goes_on() {
    let server = Server::start(&[]);
    let before = server.register();
    let mut socket = Client::open(&server, Encoding::Json, &before);
    let (made, said) = keys(&server, &["rotate", "--in=0"]);
    assert!(made, "{said}");
    let old = said.split_whitespace().next().unwrap().to_owned();
    let set = || http::request(server.address, "GET", "/.well-known/jwks.json", &[], b"").json();
    eventually("the server has read it", || {
        (set()["keys"].as_array()?.len() == 2).then_some(())
    });
    let after = server.register();
    for account in [&before, &after] {
        assert_eq!(status(&server, account), in_there());
    }
    let refreshed = auth(&server, "refresh", &json!({ "refresh_token": before.refresh }));
    assert_eq!(refreshed.status, 200, "{refreshed:?}");
    let (removed, said) = keys(&server, &["remove", &old]);
    assert!(removed && !said.contains(&old), "{said}");
    eventually("what the old key signed is refused", || {
        (status(&server, &before) == (401, "token_invalid".to_owned())).then_some(())
    });
    for account in [&after, &Account::of(&refreshed, String::new())] {
        assert_eq!(status(&server, account), in_there());
    }
    socket.accept(&crate::support::ws::task("a connection stays until its token expires")["command"]);
}

#[test]
fn signing_in_is_limited_for_each_address_and_each_account() {
    let flags = ["--sign-in-attempts-max=3", "--trusted-proxies=127.0.0.0/8"];
    let server = Server::start(&flags);
    // Each by way of a proxy, for this address.
    let from = |address: &str, email: &str| {
        let body = json!({ "email": email, "password": "not this one" });
        let header = format!("x-forwarded-for: 198.51.100.99, {address}");
        http::post(server.address, "/api/v1/auth/login", &[&header], &body)
    };
    for (number, left) in [(1, "2"), (2, "1"), (3, "0")] {
        let answer = from("192.0.2.1", &format!("user{number}@example.org"));
        assert_eq!(name(&answer), (401, "credentials_wrong".to_owned()));
        assert_eq!(answer.header("ratelimit-policy"), Some("\"sign-in\";q=3;w=900"));
        let quota = answer.header("ratelimit").unwrap();
        assert!(quota.starts_with(&format!("\"sign-in\";r={left};t=")), "{quota}");
    }
    let refused = from("192.0.2.1", "user4@example.org");
    assert_eq!(name(&refused), (429, "too_many_sign_ins".to_owned()));
    let wait = refused.json()["retry_after_ms"].as_u64().unwrap();
    assert!((850_000..=900_000).contains(&wait), "{wait}");
    assert_eq!(refused.header("retry-after"), Some(&*wait.div_ceil(1_000).to_string()));
    // The account has its own limit, wherever the attempts come from, and also if there is none.
    for number in 2..=4 {
        assert_eq!(from(&format!("192.0.2.{number}"), "Ada@example.org").status, 401);
    }
    assert_eq!(from("192.0.2.5", " ada@example.org").status, 429);
    assert_eq!(from("192.0.2.5", "bob@example.org").status, 401);
    assert_eq!(server.metric("taskflow_sign_ins_total{outcome=\"limited\"}"), 2.0);
}

#[test]
fn what_a_stranger_says_of_whose_request_it_passes_on_is_not_believed() {
    let server = Server::start(&["--sign-in-attempts-max=2"]);
    let mut statuses = Vec::new();
    for number in 1..=3 {
        let body = json!({ "email": format!("user{number}@example.org"), "password": "not this one" });
        let header = format!("x-forwarded-for: 192.0.2.{number}");
        statuses.push(http::post(server.address, "/api/v1/auth/login", &[&header], &body).status);
    }
    assert_eq!(statuses, [401, 401, 429]);
    server.log.wait(|line| line.contains("trusted_proxies").then_some(()));
}

#[test]
fn limits_that_only_count_refuse_nobody() {
    let server = Server::start(&["--sign-in-attempts-max=2", "--rate-limits=count"]);
    for _ in 0..5 {
        let body = json!({ "email": "ada@example.org", "password": "not this one" });
        assert_eq!(auth(&server, "login", &body).status, 401);
    }
    assert_eq!(server.metric("taskflow_sign_ins_total{outcome=\"limited\"}"), 3.0);
}

#[test]
fn a_refresh_token_that_is_old_ends_its_sign_in() {
    let server = Server::start(&[]);
    let account = server.register();
    let mut tokens = vec![account.refresh.clone()];
    for _ in 0..2 {
        let answer = auth(&server, "refresh", &json!({ "refresh_token": tokens.last() }));
        tokens.push(answer.json()["refresh_token"].as_str().unwrap().to_owned());
    }
    assert_eq!(
        name(&auth(&server, "refresh", &json!({ "refresh_token": tokens[0] }))),
        (401, "signed_out".to_owned())
    );
    // Nobody can tell who the thief is: both are out.
    assert_eq!(
        name(&auth(&server, "refresh", &json!({ "refresh_token": tokens[2] }))),
        (401, "signed_out".to_owned())
    );
    assert_eq!(
        name(&server.get("/api/v1/tasks", &account)),
        (401, "signed_out".to_owned())
    );
}

#[test]
fn one_address_is_one_account_also_for_those_who_come_at_once() {
    let server = Server::start(&[]);
    let statuses = std::sync::Mutex::new(Vec::new());
    in_parallel(0..6, |index| {
        let email = if index % 2 == 0 {
            "bob@example.org"
        } else {
            "BOB@example.org"
        };
        let answer = auth(&server, "register", &json!({ "email": email, "password": PASSWORD }));
        statuses.lock().unwrap().push(answer.status);
    });
    let mut statuses = statuses.into_inner().unwrap();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409, 409, 409]);
}

#[test]
fn what_is_no_account_is_refused_with_its_reason() {
    let server = Server::start(&[]);
    let long = "x".repeat(257);
    let cases: [(Value, (u16, &str)); 8] = [
        (
            json!({ "email": "a@example.org", "password": "1234567" }),
            (422, "password_invalid"),
        ),
        (
            json!({ "email": "a@example.org", "password": long }),
            (422, "password_invalid"),
        ),
        (
            json!({ "email": "a.example.org", "password": PASSWORD }),
            (422, "email_invalid"),
        ),
        (json!({ "email": "a@b@", "password": PASSWORD }), (422, "email_invalid")),
        (
            json!({ "email": "a@exa mple.org\u{0}", "password": PASSWORD }),
            (422, "email_invalid"),
        ),
        (
            json!({ "email": format!("{long}@example.org"), "password": PASSWORD }),
            (422, "email_invalid"),
        ),
        (json!({ "email": "a@example.org" }), (400, "invalid_field")),
        (
            json!({ "email": "a@example.org", "password": PASSWORD, "admin": true }),
            (400, "invalid_field"),
        ),
    ];
    for (body, (status, expected)) in cases {
        assert_eq!(
            name(&auth(&server, "register", &body)),
            (status, expected.to_owned()),
            "{body}"
        );
    }
    // A password may be anything else.
    for password in [
        "пароль с пробелами",
        "👩🏽‍🚀👩🏽‍🚀👩🏽‍🚀👩🏽‍🚀",
        "\u{0}\u{1}\u{2}\u{3}\u{4}\u{5}\u{6}\u{7}",
    ] {
        let email = format!("{}@example.org", id());
        assert_eq!(
            auth(&server, "register", &json!({ "email": email, "password": password })).status,
            201
        );
        assert_eq!(
            auth(&server, "login", &json!({ "email": email, "password": password })).status,
            200
        );
        let wrong = format!("{password}x");
        let answer = auth(&server, "login", &json!({ "email": email, "password": wrong }));
        assert_eq!(name(&answer), (401, "credentials_wrong".to_owned()));
    }
}

#[test]
fn tokens_of_other_clocks_keys_and_issuers_are_no_good() {
    let server = Server::start(&[]);
    let account = server.user();
    let keys = taskflow::auth::Keys::open(server.data.path()).expect("the server's key");
    let key = keys.at(0);
    let user = account.user.parse().expect("an id");
    let now = taskflow::clock::SystemClock.now_ms();
    let mint = |now: i64, seconds: i64| taskflow::auth::Tokens::mint_for_operator(key, user, now, seconds);
    let status = |token: String| {
        let account = Account {
            token,
            ..account.clone()
        };
        let answer = server.get("/api/v1/tasks", &account);
        (answer.status, answer.json()["name"].as_str().map(str::to_owned))
    };
    let refused = |name: &str| (401, Some(name.to_owned()));
    assert_eq!(status(mint(now, 60)), (200, None));
    // The clocks of two machines may be some seconds apart, not minutes: then a token is to be refreshed.
    assert_eq!(status(mint(now + 3_000, 60)), (200, None));
    assert_eq!(status(mint(now + 60_000, 600)), refused("token_expired"));
    assert_eq!(status(mint(now - 62_000, 60)), (200, None));
    assert_eq!(status(mint(now - 70_000, 60)), refused("token_expired"));
    assert_eq!(status(mint(0, 1)), refused("token_expired"));
    assert_eq!(status(mint(now, i64::MAX / 1_500)), refused("token_invalid"));
    let good = mint(now, 60);
    let parts: Vec<&str> = good.split('.').collect();
    let [header, body, signature] = parts[..] else {
        panic!("{good}")
    };
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let none = base64.encode(json!({ "alg": "none" }).to_string());
    let hmac = base64.encode(json!({ "alg": "HS256" }).to_string());
    let other = mint(now, 61);
    let other_body = other.split('.').nth(1).unwrap();
    for token in [
        format!("{none}.{body}."),
        format!("{hmac}.{body}.{signature}"),
        format!("{header}.{other_body}.{signature}"),
        format!("{header}.{body}"),
        format!("{header}.{body}.{signature}x"),
        format!("{header}.{body}.{signature}."),
        good[..good.len() - 1].to_owned(),
        "x".repeat(5_000),
        "..".to_owned(),
    ] {
        assert_eq!(status(token.clone()), refused("token_invalid"), "{token:.60}");
    }
    // The key of another server.
    let elsewhere = Server::start(&[]);
    assert_eq!(status(elsewhere.mint(&account.user, &[])), refused("token_invalid"));
    let scheme = http::request(
        server.address,
        "GET",
        "/api/v1/tasks",
        &["authorization: Basic YTpi"],
        b"",
    );
    assert_eq!(name(&scheme), (401, "token_missing".to_owned()));
    assert_eq!(scheme.header("www-authenticate"), Some("Bearer"));
    let lower = account.bearer().replace("Bearer", "bearer");
    assert_eq!(
        http::request(server.address, "GET", "/api/v1/tasks", &[&lower], b"").status,
        200
    );
}

#[test]
fn the_public_key_verifies_what_the_server_signs() {
    let server = Server::start(&[]);
    let account = server.register();
    let keys = http::request(server.address, "GET", "/.well-known/jwks.json", &[], b"").json();
    let key = &keys["keys"][0];
    assert_eq!(
        (&key["kty"], &key["crv"], &key["alg"]),
        (&json!("OKP"), &json!("Ed25519"), &json!("EdDSA"))
    );
    assert_eq!(key.get("d"), None, "the private part stays at home");
    let decoding = jsonwebtoken::DecodingKey::from_ed_components(key["x"].as_str().unwrap()).expect("a key");
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::EdDSA);
    validation.set_issuer(&["taskflow"]);
    validation.set_audience(&["taskflow"]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    let claims = jsonwebtoken::decode::<Value>(&account.token, &decoding, &validation)
        .expect("it verifies")
        .claims;
    assert_eq!(claims["sub"], *account.user);
}
