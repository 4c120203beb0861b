//! Letters with links: whose an address is, and a new password. And a mail server that takes them.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;

use crate::account::{auth, events, name, refused};
use crate::support::http::Response;
use crate::support::server::{Account, PASSWORD, Server, free_port};
use crate::support::{DEADLINE, Value, http, json};

/// The text of the letter of this subject to this address, from the log: in development no mail server is needed.
fn letter(server: &Server, to: &str, subject: &str) -> String {
    let found = server.log.wait(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        let is_it = line["to"] == to && line["subject"] == subject;
        is_it.then(|| line["text"].as_str().unwrap().to_owned())
    });
    found.unwrap_or_else(|| panic!("no letter {subject} to {to}"))
}

fn letters_to(server: &Server, to: &str) -> usize {
    let lines = server.log.text();
    let lines = lines
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["to"] == to).count()
}

/// The token of the only link in a text, which leads to this page.
fn token(text: &str, page: &str) -> String {
    let mut links = text.split_whitespace().filter(|word| word.contains('#'));
    let (link, none) = (links.next().expect("a link"), links.next());
    assert_eq!(none, None, "{text}");
    let (address, token) = link.split_once('#').unwrap();
    assert!(address.ends_with(&format!("/account/{page}")), "{address}");
    token.to_owned()
}

const MINE: &str = "a password of my own";

fn register(server: &Server, email: &str, password: &str) -> Response {
    auth(server, "register", &json!({ "email": email, "password": password }))
}

fn verify(server: &Server, token: &str, password: &str) -> Response {
    auth(server, "verify", &json!({ "token": token, "password": password }))
}

fn login(server: &Server, email: &str, password: &str) -> Response {
    auth(server, "login", &json!({ "email": email, "password": password }))
}

fn verified() -> Server {
    Server::start(&["--registration=verified", "--public-url=https://tasks.example/"])
}

#[test]
fn an_account_opens_once_its_owner_has_followed_the_link() {
    let server = verified();
    let email = "ada@example.org";
    let answer = register(&server, "  Ada@Example.org ", MINE);
    assert_eq!((answer.status, answer.body.as_slice()), (202, &b""[..]), "{answer:?}");
    assert_eq!(name(&login(&server, email, MINE)), refused(401, "credentials_wrong"));
    let text = letter(&server, email, "Confirm your e-mail address");
    assert!(text.contains("https://tasks.example/account/verify#"), "{text}");
    let link = token(&text, "verify");
    assert_eq!(
        name(&verify(&server, &link, "not my password")),
        refused(401, "credentials_wrong")
    );
    // What is wrong uses nothing up.
    let in_zone = |zone: &str| {
        let body = json!({ "token": link, "password": MINE, "time_zone": zone });
        auth(&server, "verify", &body)
    };
    let wrong = in_zone("Mars/Base");
    assert_eq!(
        (name(&wrong), &wrong.json()["field"]),
        (refused(422, "value_invalid"), &json!("time_zone"))
    );
    let opened = in_zone("Asia/Tokyo");
    assert_eq!(opened.status, 200, "{opened:?}");
    let ada = Account::of(&opened, email.to_owned());
    assert_eq!(server.get("/api/v1/settings", &ada).json()["time_zone"], "Asia/Tokyo");
    assert_eq!(server.post("/api/v1/tasks", &ada, &json!({ "title": "t" })).status, 201);
    assert_eq!(
        name(&verify(&server, &link, MINE)),
        refused(403, "link_invalid"),
        "it is good once"
    );
    assert_eq!(login(&server, email, MINE).status, 200);
    let expected = [
        "signed_in",
        "signed_in",
        "email_verified",
        "sign_in_failed",
        "sign_in_failed",
    ];
    assert_eq!(events(&server, &ada), expected);
}

#[test]
fn nobody_learns_by_registering_who_has_an_account() {
    let server = verified();
    let email = "ada@example.org";
    assert_eq!(register(&server, email, MINE).status, 202);
    let link = token(&letter(&server, email, "Confirm your e-mail address"), "verify");
    let ada = Account::of(&verify(&server, &link, MINE), email.to_owned());
    let known = register(&server, email, "the password of a thief");
    let unknown = register(&server, "nobody@example.org", "the password of a thief");
    let shown = |answer: &Response| {
        let headers = answer.headers.iter();
        let headers = headers.filter(|(name, _)| name != "date" && name != "x-request-id");
        let headers: BTreeMap<_, _> = headers.cloned().collect();
        (answer.status, headers, answer.body.clone())
    };
    assert_eq!(shown(&known), shown(&unknown));
    let text = letter(&server, email, "You have an account already");
    assert!(!text.contains('#'), "{text}");
    assert_eq!(login(&server, email, MINE).status, 200, "nothing was changed");
    assert_eq!(events(&server, &ada)[1], "registered_again");
    // Nor by what the password opens that was registered with.
    for (path, field, value) in [
        ("login", "device", "a phone"),
        ("password", "new_password", "another of a thief"),
        ("email", "new_email", "thief@example.org"),
        ("restore", "device", "a phone"),
        ("delete", "password", "the password of a thief"),
    ] {
        let probe = |email: &str| {
            let mut body = json!({ "email": email, "password": "the password of a thief" });
            body[field] = json!(value);
            let answer = auth(&server, path, &body);
            let mut problem = answer.json();
            problem.as_object_mut().unwrap().remove("request_id");
            (name(&answer), problem)
        };
        let (taken, free) = (probe(email), probe("nobody@example.org"));
        assert_eq!(free.0, refused(401, "credentials_wrong"), "{path}");
        assert_eq!(taken, free, "{path}");
    }
}

#[test]
fn who_registers_with_the_address_of_another_gets_nothing_of_the_account() {
    let server = verified();
    let email = "ada@example.org";
    let confirm = "Confirm your e-mail address";
    // The thief is first, and knows the password of what is nobody's yet.
    register(&server, email, "the password of a thief");
    let of_thief = token(&letter(&server, email, confirm), "verify");
    register(&server, email, MINE);
    let of_owner = server
        .log
        .wait(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let is_it = line["to"] == email && line["subject"] == confirm;
            let link = is_it.then(|| token(line["text"].as_str().unwrap(), "verify"))?;
            (link != of_thief).then_some(link)
        })
        .expect("a second letter");
    // The owner opens the older letter: it is worth nothing any more, and the thief's password neither.
    assert_eq!(name(&verify(&server, &of_thief, MINE)), refused(403, "link_invalid"));
    assert_eq!(
        name(&verify(&server, &of_owner, "the password of a thief")),
        refused(401, "credentials_wrong")
    );
    assert_eq!(verify(&server, &of_owner, MINE).status, 200);
    assert_eq!(
        name(&login(&server, email, "the password of a thief")),
        refused(401, "credentials_wrong")
    );
}

#[test]
fn who_has_forgotten_the_password_chooses_another_and_every_device_is_signed_out() {
    let server = Server::start(&[]);
    let ada = server.register();
    let forgot = |email: &str| auth(&server, "forgot", &json!({ "email": email }));
    assert_eq!(name(&forgot("no address")), refused(422, "email_invalid"));
    assert_eq!(
        (forgot(&ada.email).status, forgot("nobody@example.org").status),
        (202, 202)
    );
    let link = token(&letter(&server, &ada.email, "Choose a new password"), "reset");
    assert_eq!(letters_to(&server, "nobody@example.org"), 0);
    let reset = |link: &str, new: &str| auth(&server, "reset", &json!({ "token": link, "new_password": new }));
    for new in ["short", "Football1"] {
        assert_eq!(name(&reset(&link, new)), refused(422, "password_invalid"), "{new}");
    }
    // A link is for one thing only.
    assert_eq!(name(&verify(&server, &link, PASSWORD)), refused(403, "link_invalid"));
    let opened = reset(&link, MINE);
    assert_eq!(opened.status, 200, "{opened:?}");
    let back = Account::of(&opened, ada.email.clone());
    assert_eq!(back.user, ada.user);
    assert_eq!(name(&server.get("/api/v1/tasks", &ada)), refused(401, "signed_out"));
    assert_eq!(
        name(&reset(&link, "another password")),
        refused(403, "link_invalid"),
        "it is good once"
    );
    assert_eq!(
        name(&login(&server, &ada.email, PASSWORD)),
        refused(401, "credentials_wrong")
    );
    assert_eq!(login(&server, &ada.email, MINE).status, 200);
    assert!(events(&server, &back).contains(&"password_reset".to_owned()));
    letter(&server, &ada.email, "Your password was changed");
}

#[test]
fn a_link_is_worth_nothing_once_the_password_was_changed_or_any_of_it() {
    let server = Server::start(&[]);
    let ada = server.register();
    auth(&server, "forgot", &json!({ "email": ada.email }));
    let link = token(&letter(&server, &ada.email, "Choose a new password"), "reset");
    let reset = |link: &str| {
        let body = json!({ "token": link, "new_password": "another password" });
        name(&auth(&server, "reset", &body))
    };
    let bob = server.register();
    for at in (0..link.len()).step_by(7) {
        let other = if link.as_bytes()[at] == b'A' { "B" } else { "A" };
        let changed = format!("{}{other}{}", &link[..at], &link[at + 1..]);
        assert_eq!(reset(&changed), refused(403, "link_invalid"), "{at}");
    }
    assert_eq!(reset(&bob.refresh), refused(403, "link_invalid"));
    let body = json!({ "email": ada.email, "password": PASSWORD, "new_password": MINE });
    assert_eq!(auth(&server, "password", &body).status, 200);
    assert_eq!(reset(&link), refused(403, "link_invalid"));
}

#[test]
fn an_account_moves_where_its_owner_has_followed_the_link() {
    let server = verified();
    let (old, new) = ("ada@example.org", "ada@example.net");
    for email in [old, "bob@example.org"] {
        register(&server, email, MINE);
    }
    let link = token(&letter(&server, old, "Confirm your e-mail address"), "verify");
    let ada = Account::of(&verify(&server, &link, MINE), old.to_owned());
    let move_to = |to: &str| {
        let body = json!({ "email": old, "password": MINE, "new_email": to });
        auth(&server, "email", &body)
    };
    assert_eq!(name(&move_to("no address")), refused(422, "email_invalid"));
    assert_eq!(move_to(new).status, 202);
    assert_eq!(login(&server, old, MINE).status, 200, "nothing has changed yet");
    assert_eq!(move_to("bob@example.org").status, 202);
    letter(&server, "bob@example.org", "You have an account already");
    let link = token(&letter(&server, new, "Confirm your new e-mail address"), "verify");
    assert_eq!(
        name(&verify(&server, &link, "not my password")),
        refused(401, "credentials_wrong")
    );
    let moved = verify(&server, &link, MINE);
    assert_eq!(moved.status, 200, "{moved:?}");
    assert_eq!(Account::of(&moved, new.to_owned()).user, ada.user);
    assert_eq!(name(&login(&server, old, MINE)), refused(401, "credentials_wrong"));
    assert_eq!(login(&server, new, MINE).status, 200);
    let text = letter(&server, old, "The e-mail address of your account was changed");
    assert!(text.contains(new), "{text}");
}

/// Takes one letter after the other as a mail server does (RFC 5321), and hands over what was said to it.
fn mail_server() -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut answers = stream.try_clone().unwrap();
            let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
            let mut say = |text: &str| answers.write_all(format!("{text}\r\n").as_bytes());
            let mut said = String::new();
            if say("220 mail.example ESMTP").is_err() {
                continue;
            }
            while let Some(line) = lines.next() {
                said.push_str(&line);
                said.push('\n');
                let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
                let answer = match verb.as_str() {
                    "EHLO" => "250-mail.example\r\n250 AUTH PLAIN",
                    "AUTH" => "235 welcome",
                    "DATA" => {
                        let _ = say("354 go on");
                        for line in lines.by_ref().take_while(|line| line != ".") {
                            said.push_str(&line);
                            said.push('\n');
                        }
                        "250 taken"
                    }
                    "QUIT" => "221 bye",
                    _ => "250 fine",
                };
                let is_over = say(answer).is_err() || verb == "QUIT";
                if verb == "DATA" && sender.send(said.clone()).is_err() || is_over {
                    break;
                }
            }
        }
    });
    (port, receiver)
}

#[test]
fn a_mail_server_gets_the_letters() {
    let (port, letters) = mail_server();
    let smtp = format!("--smtp=smtp://robot:pa55@127.0.0.1:{port}");
    let server = Server::start(&[
        &smtp,
        "--mail-from=TaskFlow <tasks@tasks.example>",
        "--public-url=https://tasks.example",
    ]);
    let ada = server.register();
    auth(&server, "forgot", &json!({ "email": ada.email }));
    let said = letters.recv_timeout(DEADLINE).expect("a letter");
    for expected in [
        "MAIL FROM:<tasks@tasks.example>".to_owned(),
        format!("RCPT TO:<{}>", ada.email),
        "AUTH PLAIN".to_owned(),
        "From: TaskFlow <tasks@tasks.example>".to_owned(),
        "Subject: Choose a new password".to_owned(),
    ] {
        assert!(said.contains(&expected), "{expected} in {said}");
    }
    // Long lines are folded on the way.
    let link = said.replace("=\n", "").replace("=3D", "=");
    let link = token(&link, "reset");
    let reset = auth(&server, "reset", &json!({ "token": link, "new_password": MINE }));
    assert_eq!(reset.status, 200, "{reset:?}");
    letters.recv_timeout(DEADLINE).expect("the letter about it");
    server.wait_for_metric("taskflow_letters_total{outcome=\"sent\"}", |sent| sent == 2.0);
    let log = server.log.text();
    assert!(!log.contains("pa55") && !log.contains(&link), "{log}");
}

#[test]
fn letters_that_wait_for_another_try_are_counted() {
    let smtp = format!("--smtp=smtp://127.0.0.1:{}", free_port());
    let server = Server::start(&[
        &smtp,
        "--mail-from=tasks@tasks.example",
        "--public-url=https://tasks.example",
    ]);
    assert_eq!(server.metric("taskflow_letters_waiting"), 0.0);
    let ada = server.register();
    auth(&server, "forgot", &json!({ "email": ada.email }));
    server.wait_for_metric("taskflow_letters_waiting", |waiting| waiting == 1.0);
}

#[test]
fn a_mailbox_is_not_buried_and_nobody_is_asked_to_wait() {
    let server = Server::start(&[]);
    let ada = server.register();
    for _ in 0..12 {
        let answer = http::post(
            server.address,
            "/api/v1/auth/forgot",
            &[],
            &json!({ "email": ada.email }),
        );
        assert_eq!(answer.status, 202);
    }
    server.wait_for_metric("taskflow_letters_total{outcome=\"dropped\"}", |dropped| dropped == 7.0);
    server.wait_for_metric("taskflow_letters_total{outcome=\"sent\"}", |sent| sent == 5.0);
    assert_eq!(letters_to(&server, &ada.email), 5);
}

#[test]
fn the_pages_that_links_lead_to_bring_all_they_need() {
    let server = Server::start(&[]);
    let get = |path: &str| http::request(server.address, "GET", path, &[], b"");
    for (path, media_type) in [
        ("/account/verify", "text/html; charset=utf-8"),
        ("/account/reset", "text/html; charset=utf-8"),
        ("/account/page.js", "text/javascript; charset=utf-8"),
        ("/account/page.css", "text/css; charset=utf-8"),
    ] {
        let answer = get(path);
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some(media_type)),
            "{path}"
        );
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        let text = String::from_utf8(answer.body).unwrap();
        assert!(!text.contains("://"), "{path} asks somebody else");
        assert_eq!(
            name(&http::request(server.address, "POST", path, &[], b"")),
            refused(405, "method_not_allowed")
        );
    }
}
