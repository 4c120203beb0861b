//! Every code of the table, reached on the wire by the request that leads to it.
//!
//! The `match` in [`reach`] is exhaustive: a new code does not compile without a way to it.

#![allow(
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests, helpers included, fail by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod store;

use std::sync::Mutex;

use support::issuer::Issuer;
use support::ws::{BINARY, FIN, TEXT, closing, masked, operation, task};
use support::{
    Account, Client, DEADLINE, Encoding, Ended, Raw, Response, Server, Value, eventually, http, id, in_parallel, json,
};
use taskflow_protocol::limits::REFRESHES_A_MINUTE_MAX;
use taskflow_protocol::{Action, Code};

/// Where a code showed itself.
#[derive(Debug)]
enum Seen {
    /// As a problem document.
    Http(Response),
    /// As a close code; with the message before it, where there is one.
    Closed(Ended, Option<Value>),
    /// In an `error` message, or in a refusal or unknown outcome of an operation.
    Error(Value),
}

fn check(code: Code, seen: &Seen) {
    let number = json!(code as u16);
    match seen {
        Seen::Http(response) => {
            let body = response.json();
            assert_eq!(response.status, code.http_status(), "{code}: {response:?}");
            assert_eq!(
                response.header("content-type"),
                Some("application/problem+json"),
                "{code}"
            );
            assert_eq!(
                (&body["code"], &body["name"]),
                (&number, &json!(code.name())),
                "{code}: {body}"
            );
            assert_eq!(
                (&body["title"], &body["status"]),
                (&json!(code.sentence()), &json!(code.http_status())),
                "{code}"
            );
            assert_eq!(body["type"], format!("about:blank#{code}"));
            let wait = match code {
                // It says when there is room again.
                Code::TooManySignIns | Code::RateLimited => body["retry_after_ms"].as_u64().map(|ms| ms as u32),
                _ => code.retry_after_ms(),
            };
            assert!(wait >= code.retry_after_ms(), "{code}");
            assert_eq!(body.get("retry_after_ms"), wait.map(|ms| json!(ms)).as_ref(), "{code}");
            let header = wait.map(|ms| ms.div_ceil(1000).to_string());
            assert_eq!(response.header("retry-after"), header.as_deref(), "{code}");
        }
        Seen::Closed(ended, word) => {
            assert!(code.close_code().is_some(), "{code} does not close");
            assert_eq!(
                *ended,
                Ended::Closed(code.close_code(), code.name().to_owned()),
                "{code}"
            );
            let word = word.as_ref();
            match code {
                Code::TooLarge | Code::WrongEncoding | Code::InvalidUtf8 | Code::FramingError => {
                    assert_eq!(word, None, "{code}: the two sides do not understand each other");
                }
                _ if code.action() == Action::Reconnect => {
                    let reconnect = &word.expect("a word before the end")["reconnect"];
                    assert_eq!(reconnect["code"], number, "{code}");
                    assert_eq!(
                        reconnect["after_ms"].as_u64(),
                        code.retry_after_ms().map(u64::from),
                        "{code}"
                    );
                    assert!(reconnect["window_ms"].is_u64(), "{code}");
                }
                _ => check(
                    code,
                    &Seen::Error(word.expect("a word before the end")["error"].clone()),
                ),
            }
        }
        Seen::Error(error) => {
            assert_eq!(
                (&error["code"], &error["name"]),
                (&number, &json!(code.name())),
                "{code}: {error}"
            );
            assert!(
                error["message"]
                    .as_str()
                    .is_some_and(|text| text.ends_with(code.sentence())),
                "{code}: {error}"
            );
            let wait = error.get("retry_after_ms").and_then(Value::as_u64).map(|ms| ms as u32);
            match code {
                // It says when there is room again.
                Code::RateLimited => assert!(wait >= code.retry_after_ms(), "{code}: {error}"),
                _ => assert_eq!(wait, code.retry_after_ms(), "{code}"),
            }
        }
    }
}

/// What the ways share.
struct World {
    server: Server,
    account: Account,
}

impl World {
    fn client(&self) -> Client {
        Client::open(&self.server, Encoding::Json, &self.account)
    }

    /// The error that a message gets.
    fn error(&self, message: &Value) -> Seen {
        self.error_to_text(&message.to_string())
    }

    fn error_to_text(&self, text: &str) -> Seen {
        let mut client = self.client();
        client.raw.send(&masked(FIN | TEXT, text.as_bytes()));
        let error = client.wait_for("error");
        // An error that is not the end leaves the connection as it was.
        client.flush();
        Seen::Error(error)
    }

    /// How a connection ends that gets these bytes, with or without a hello before.
    fn end(&self, is_open: bool, bytes: &[u8]) -> Seen {
        let mut client = if is_open {
            self.client()
        } else {
            Client::connect(&self.server, Encoding::Json)
        };
        client.raw.try_send(bytes);
        ended(client)
    }

    fn end_of_hello(&self, hello: &Value) -> Seen {
        self.end(
            false,
            &masked(FIN | TEXT, json!({ "hello": hello }).to_string().as_bytes()),
        )
    }

    /// The problem that a request gets.
    fn problem(&self, method: &str, path: &str, body: &Value) -> Seen {
        Seen::Http(self.server.send(method, path, &self.account, &[], body))
    }

    fn auth(&self, path: &str, body: &Value) -> Seen {
        Seen::Http(http::post(
            self.server.address,
            &format!("/api/v1/auth/{path}"),
            &[],
            body,
        ))
    }

    /// The refusal of the last of these commands, by socket; the others are accepted. A batch where it is one.
    fn refused(&self, commands: &[Value]) -> Seen {
        let (last, before) = commands.split_last().expect("one at least");
        let mut client = self.client();
        for command in before {
            client.accept(command);
        }
        Seen::Error(client.submit(&operation(last))["refused"].clone())
    }
}

/// How a connection ends that ends by itself.
fn ended(mut client: Client) -> Seen {
    let ended = client.ended();
    let word = client
        .stash
        .pop_back()
        .filter(|message| message.get("error").is_some() || message.get("reconnect").is_some());
    Seen::Closed(ended, word)
}

fn upgrade(server: &Server, headers: &[&str]) -> Seen {
    Seen::Http(Raw::connect(server.address).upgrade(headers))
}

fn create(fields: &Value) -> Value {
    let mut task = json!({ "task": id(), "title": "t" });
    for (name, value) in fields.as_object().expect("fields") {
        task[name] = value.clone();
    }
    json!({ "task_create": task })
}

fn row() -> String {
    id()
}

/// Makes the requests that lead to a code.
fn reach(code: Code, world: &World) -> Vec<Seen> {
    let World { server, account } = world;
    match code {
        Code::Malformed => vec![
            world.error_to_text("{"),
            Seen::Http(http::request(
                server.address,
                "POST",
                "/api/v1/tasks",
                &[&account.bearer(), "content-type: application/json"],
                b"{",
            )),
        ],
        Code::UnknownMessage => vec![world.error(&json!({ "strange": {} }))],
        Code::InvalidField => vec![
            world.error(&json!({ "unfollow": { "strange": 1 } })),
            world.problem("POST", "/api/v1/tasks", &json!({ "title": 7 })),
            world.refused(&[json!({ "strange": {} })]),
        ],
        Code::TooLarge => {
            let large = vec![b' '; 256 * 1024 + 1];
            let headers = [&*account.bearer(), "content-type: application/json"];
            vec![
                world.end(true, &masked(FIN | TEXT, &large)),
                Seen::Http(http::request(server.address, "POST", "/api/v1/tasks", &headers, &large)),
            ]
        }
        Code::TooManyOperations => {
            let many: Vec<_> = (0..101).map(|_| task("t")).collect();
            vec![
                world.error(&json!({ "operations": { "operations": many } })),
                world.problem("POST", "/api/v1/operations", &json!({ "operations": many })),
            ]
        }
        Code::WrongEncoding => {
            let headers = [&*account.bearer(), "content-type: text/plain"];
            vec![
                world.end(true, &masked(FIN | BINARY, b"\x80")),
                Seen::Http(http::request(server.address, "POST", "/api/v1/tasks", &headers, b"{}")),
            ]
        }
        Code::InvalidUtf8 => {
            let headers = [&*account.bearer(), "content-type: application/json"];
            vec![
                world.end(true, &masked(FIN | TEXT, b"\xff")),
                Seen::Http(http::request(
                    server.address,
                    "POST",
                    "/api/v1/tasks",
                    &headers,
                    b"{\"title\":\"\xff\"}",
                )),
            ]
        }
        Code::FramingError => {
            let mut raw = Raw::connect(server.address);
            let request = support::ws::handshake(server.address, &[]).replace("version: 13", "version: 12");
            raw.send(request.as_bytes());
            vec![
                world.end(true, &masked(FIN | 0x40 | TEXT, b"")),
                Seen::Http(raw.upgraded()),
            ]
        }
        Code::HelloExpected => {
            let hello = json!({ "hello": { "protocol": { "min": 1, "max": 1 }, "token": account.token } });
            vec![
                world.end(false, &masked(FIN | TEXT, br#"{"heartbeat":{}}"#)),
                world.end(true, &masked(FIN | TEXT, hello.to_string().as_bytes())),
            ]
        }
        Code::VersionUnsupported => vec![
            world.end_of_hello(&json!({ "protocol": { "min": 2, "max": 3 }, "token": account.token })),
            upgrade(server, &["sec-websocket-protocol: taskflow.v9.json"]),
        ],
        Code::NotFound => vec![world.problem("GET", "/api/v1/strange", &Value::Null)],
        Code::MethodNotAllowed => vec![world.problem("DELETE", "/api/v1/tasks", &Value::Null)],
        Code::BodyTimeout => {
            let half = ["content-type: application/json", "content-length: 9"];
            vec![Seen::Http(http::request(
                server.address,
                "POST",
                "/api/v1/auth/login",
                &half,
                b"{",
            ))]
        }
        Code::FilterInvalid => vec![world.problem("GET", "/api/v1/tasks?filter=due%20%3C%20soon", &Value::Null)],
        Code::HelloTimeout => vec![ended(Client::connect(server, Encoding::Json))],

        Code::TokenMissing => vec![
            world.end_of_hello(&json!({ "protocol": { "min": 1, "max": 1 } })),
            Seen::Http(http::request(server.address, "GET", "/api/v1/tasks", &[], b"")),
        ],
        Code::TokenInvalid => with_token(world, "nonsense"),
        Code::TokenExpired => with_token(world, &server.mint(&account.user, &["--seconds=-60"])),
        Code::SignedOut => {
            let gone = server.register();
            let open = Client::open(server, Encoding::Json, &gone);
            let answer = http::post(server.address, "/api/v1/auth/logout", &[&gone.bearer()], &json!({}));
            assert_eq!(answer.status, 204, "{answer:?}");
            let mut all = with_token(world, &gone.token);
            all.push(ended(open));
            all.push(world.auth("refresh", &json!({ "refresh_token": gone.refresh })));
            all
        }
        Code::CredentialsWrong => {
            let known = server.register();
            vec![
                world.auth("login", &json!({ "email": known.email, "password": "not this one" })),
                world.auth(
                    "login",
                    &json!({ "email": "nobody@example.org", "password": "not this one" }),
                ),
            ]
        }
        Code::RateLimited => {
            let server = Server::start(&["--writes-a-second-max=1"]);
            let account = server.user();
            let many: Vec<_> = (0..100).map(|_| operation(&task("t")["command"])).collect();
            let body = json!({ "operations": many });
            assert_eq!(server.post("/api/v1/operations", &account, &body).status, 200);
            let mut socket = Client::open(&server, Encoding::Json, &account);
            // One a second passes all the same: of what comes faster, some does not.
            let create = || server.post("/api/v1/tasks", &account, &json!({ "title": "t" }));
            let by_rest = std::iter::repeat_with(create)
                .take(50)
                .find(|answer| answer.status == 429);
            let submit = || socket.submit(&operation(&task("t")["command"]))["refused"].clone();
            let on_socket = std::iter::repeat_with(submit)
                .take(50)
                .find(|refused| !refused.is_null());
            vec![
                Seen::Http(by_rest.expect("one is refused")),
                Seen::Error(on_socket.expect("one is refused")),
            ]
        }
        // All of one byte is more than nineteen twentieths of it.
        Code::Overloaded => {
            let server = Server::start(&["--memory-bytes-max=1"]);
            let account = server.user_without_feed();
            server.wait_for_metric("taskflow_overload", |level| level == 3.0);
            vec![
                Seen::Http(server.get("/api/v1/tasks", &account)),
                Seen::Http(Raw::connect(server.address).upgrade(&[])),
            ]
        }
        Code::HostRefused => {
            let server = Server::start(&["--hosts=tasks.example"]);
            vec![Seen::Http(http::request(
                server.address,
                "GET",
                "/openapi.json",
                &[],
                b"",
            ))]
        }
        Code::AccountDeleting => {
            let account = server.register();
            let body = json!({ "email": account.email, "password": support::server::PASSWORD });
            let deleted = http::post(server.address, "/api/v1/auth/delete", &[], &body);
            assert_eq!(deleted.status, 202, "{deleted:?}");
            vec![Seen::Http(http::post(server.address, "/api/v1/auth/login", &[], &body))]
        }
        Code::ScopeMissing => {
            let owner = server.register();
            let body = json!({ "name": "n", "scopes": ["tasks:read"], "expires_in_days": 1 });
            let made = server.post("/api/v1/tokens", &owner, &body).json();
            let token = made["token"].as_str().unwrap().to_owned();
            let reader = Account { token, ..owner };
            let mut socket = Client::open(server, Encoding::Json, &reader);
            socket.send(&json!({ "operations": { "operations": [operation(&task("t")["command"])] } }));
            vec![
                Seen::Http(server.post("/api/v1/tasks", &reader, &json!({ "title": "t" }))),
                Seen::Error(socket.wait_for("error")),
            ]
        }
        Code::LinkInvalid => {
            let post =
                |path: &str, body: Value| http::post(server.address, &format!("/api/v1/auth/{path}"), &[], &body);
            vec![
                Seen::Http(post("reset", json!({ "token": "x", "new_password": "long enough" }))),
                Seen::Http(post("verify", json!({ "token": "x", "password": "12345678" }))),
            ]
        }
        Code::NoLetters => {
            let flags = [
                "--environment=staging",
                "--behind-proxy=true",
                "--trusted-proxies=127.0.0.1",
            ];
            let server = Server::start(&flags);
            let body = json!({ "email": "a@example.org" });
            vec![Seen::Http(http::post(
                server.address,
                "/api/v1/auth/forgot",
                &[],
                &body,
            ))]
        }
        Code::IssuerUnavailable => {
            let issuer = Issuer::away();
            let server = Server::start(&[&issuer.flag()]);
            let ada = issuer.user("ada");
            let mut client = Client::connect(&server, Encoding::Json);
            client.send_hello(&ada.token, &json!([]));
            vec![Seen::Http(server.get("/api/v1/tasks", &ada)), ended(client)]
        }
        Code::TooManySignIns => {
            let strict = Server::start(&["--sign-in-attempts-max=1"]);
            let body =
                |email: &str| json!({ "email": email, "password": "not this one", "new_password": "another one" });
            let login = json!({ "email": "a@example.org", "password": "not this one" });
            let post =
                |path: &str, body: &Value| http::post(strict.address, &format!("/api/v1/auth/{path}"), &[], body);
            assert_eq!(post("login", &login).status, 401);
            vec![
                Seen::Http(post("login", &login)),
                Seen::Http(post(
                    "register",
                    &json!({ "email": "b@example.org", "password": "long enough" }),
                )),
                Seen::Http(post("password", &body("c@example.org"))),
            ]
        }
        Code::OriginRefused => vec![
            upgrade(server, &["origin: https://evil.example"]),
            Seen::Http(server.send(
                "GET",
                "/api/v1/tasks",
                account,
                &["origin: https://evil.example"],
                &Value::Null,
            )),
        ],
        Code::EmailTaken => {
            let known = server.register();
            vec![world.auth(
                "register",
                &json!({ "email": known.email.to_uppercase(), "password": "long enough" }),
            )]
        }
        Code::EmailInvalid => vec![world.auth("register", &json!({ "email": "no address", "password": "12345678" }))],
        Code::PasswordInvalid => {
            let register =
                |password: &str| world.auth("register", &json!({ "email": "a@example.org", "password": password }));
            vec![register("1234567"), register("Password1")]
        }
        Code::SignInBusy => vec![sign_in_busy(&Server::start(&[]))],
        Code::RegistrationClosed => {
            let server = Server::start(&["--registration=closed"]);
            let body = json!({ "email": "a@example.org", "password": "12345678" });
            vec![Seen::Http(http::post(
                server.address,
                "/api/v1/auth/register",
                &[],
                &body,
            ))]
        }

        Code::CursorInvalid => vec![
            world.error(&json!({ "follow": { "cursor": "no cursor" } })),
            world.problem("GET", "/api/v1/changes?cursor=x", &Value::Null),
            world.problem("GET", "/api/v1/events?cursor=x", &Value::Null),
        ],
        Code::FeedNotFound => vec![
            world.error(&json!({ "follow": { "feed": id() } })),
            world.error(&json!({ "operations": { "feed": id(), "operations": [task("t")] } })),
            world.problem(
                "POST",
                "/api/v1/operations",
                &json!({ "feed": id(), "operations": [task("t")] }),
            ),
        ],
        Code::TooManyFollows => {
            let follow: Vec<_> = (0..65).map(|_| json!({ "feed": id() })).collect();
            let mut client = Client::connect(server, Encoding::Json);
            client.send_hello(&account.token, &json!(follow));
            vec![Seen::Error(client.wait_for("error"))]
        }
        Code::NotFollowing => vec![world.error(&json!({ "unfollow": {} }))],
        Code::AlreadyFollowing => {
            let mut client = Client::connect(server, Encoding::Json);
            client.hello(account, &json!([{}]));
            client.send(&json!({ "follow": {} }));
            vec![Seen::Error(client.wait_for("error"))]
        }

        Code::RowNotFound => vec![
            world.refused(&[json!({ "task_complete": { "task": id() } })]),
            world.problem("GET", &format!("/api/v1/lists/{}", id()), &Value::Null),
        ],
        Code::IdTaken => {
            let row = row();
            vec![
                world.refused(&[
                    create(&json!({ "task": row })),
                    create(&json!({ "task": row, "title": "other" })),
                ]),
                world.problem("POST", "/api/v1/tasks", &json!({ "id": row, "title": "other" })),
            ]
        }
        Code::OperationIdReused => {
            let first = task("one");
            let mut second = task("two");
            second["id"] = first["id"].clone();
            let mut client = world.client();
            client.submit(&first);
            let key = format!("idempotency-key: {}", first["id"].as_str().unwrap());
            vec![
                Seen::Error(client.submit(&second)["refused"].clone()),
                Seen::Http(server.send("POST", "/api/v1/tasks", account, &[&key], &json!({ "title": "three" }))),
            ]
        }
        Code::VersionConflict => {
            let row = row();
            world.client().accept(&create(&json!({ "task": row })));
            let path = format!("/api/v1/tasks/{row}");
            let response = server.send(
                "PATCH",
                &path,
                account,
                &["if-match: \"1\""],
                &json!({ "title": "new" }),
            );
            assert_eq!(response.json()["row"]["task"]["id"], row, "the present row comes along");
            vec![Seen::Http(response)]
        }
        Code::RowDeleted => {
            let row = row();
            let delete = json!({ "task_delete": { "task": row } });
            vec![
                world.refused(&[
                    create(&json!({ "task": row })),
                    delete,
                    json!({ "task_complete": { "task": row } }),
                ]),
                world.problem("GET", &format!("/api/v1/tasks/{row}"), &Value::Null),
            ]
        }
        Code::ParentElsewhere => {
            let (list, parent) = (row(), row());
            vec![world.refused(&[
                json!({ "list_create": { "list": list, "name": "other" } }),
                create(&json!({ "task": parent, "list": list })),
                create(&json!({ "parent": parent })),
            ])]
        }
        Code::ParentCycle => {
            let (parent, child) = (row(), row());
            vec![world.refused(&[
                create(&json!({ "task": parent })),
                create(&json!({ "task": child, "parent": parent })),
                json!({ "task_move": { "task": parent, "parent": child } }),
            ])]
        }
        Code::ParentTooDeep => {
            let rows: Vec<_> = (0..12).map(|_| row()).collect();
            let mut commands = vec![create(&json!({ "task": rows[0] }))];
            // Eight levels of subtasks are allowed; one more is not.
            let deeper = rows
                .windows(2)
                .map(|two| create(&json!({ "task": two[1], "parent": two[0] })));
            commands.extend(deeper.take(8));
            let mut client = world.client();
            let outcomes: Vec<_> = commands
                .iter()
                .map(|command| client.submit(&operation(command)))
                .collect();
            let refused = outcomes.iter().find(|outcome| outcome.get("refused").is_some());
            let refused = refused
                .cloned()
                .unwrap_or_else(|| client.submit(&operation(&create(&json!({ "task": rows[9], "parent": rows[8] })))));
            vec![Seen::Error(refused["refused"].clone())]
        }
        Code::ListArchived => {
            let list = row();
            vec![world.refused(&[
                json!({ "list_create": { "list": list, "name": "old" } }),
                json!({ "list_patch": { "list": list, "set": { "archived": true } } }),
                create(&json!({ "list": list })),
            ])]
        }
        Code::InboxFixed => vec![
            world.refused(&[json!({ "list_delete": { "list": account.user } })]),
            world.problem("DELETE", &format!("/api/v1/lists/{}", account.user), &Value::Null),
        ],
        Code::ValueInvalid => vec![
            world.refused(&[create(&json!({ "title": "" }))]),
            world.problem("POST", "/api/v1/tasks", &json!({ "title": "" })),
            world.problem("GET", "/api/v1/tasks?limit=0", &Value::Null),
        ],
        Code::ValueTooLong => {
            let long = "x".repeat(2001);
            let hello =
                json!({ "protocol": { "min": 1, "max": 1 }, "token": account.token, "client": "x".repeat(101) });
            let mut client = Client::connect(server, Encoding::Json);
            client.send(&json!({ "hello": hello }));
            vec![
                world.refused(&[create(&json!({ "title": long }))]),
                world.problem("POST", "/api/v1/tasks", &json!({ "title": long })),
                Seen::Error(client.wait_for("error")),
            ]
        }
        Code::LimitReached => {
            let labels: Vec<_> = (0..51).map(|_| row()).collect();
            let make = |label: &String| json!({ "label_create": { "label": label, "name": "l" } });
            let batch = json!({ "batch": { "commands": labels.iter().map(make).collect::<Vec<_>>() } });
            vec![
                world.refused(&[batch, create(&json!({ "labels": labels }))]),
                five_hundred_lists(server),
            ]
        }
        Code::UndoConflict => {
            let row = row();
            let mut client = world.client();
            let seq = client.accept(&create(&json!({ "task": row })));
            client.accept(&json!({ "task_patch": { "task": row, "set": { "title": "later" } } }));
            vec![Seen::Error(
                client.submit(&operation(&json!({ "undo": { "seq": seq } })))["refused"].clone(),
            )]
        }
        Code::UndoGone => vec![world.refused(&[json!({ "undo": { "seq": 1_000_000 } })])],
        Code::BatchTooLarge => {
            let many: Vec<_> = (0..101).map(|_| create(&json!({}))).collect();
            vec![
                world.refused(&[json!({ "batch": { "commands": many } })]),
                large_move(world),
            ]
        }

        Code::Internal => store::internal(),
        Code::FeedOverloaded => vec![overloaded(world)],
        Code::FeedUnavailable => store::feed_unavailable(),
        Code::StoreFull => store::store_full(),
        Code::StoreUnavailable => store::store_unavailable(),
        Code::OutcomeUnknown => store::outcome_unknown(),
        Code::ServerBusy => {
            let server = Server::start(&["--connections-max=1"]);
            let account = server.user();
            let _first = Client::connect(&server, Encoding::Json);
            vec![
                upgrade(&server, &[]),
                Seen::Http(server.get("/api/v1/events", &account)),
            ]
        }
        Code::TooManyConnections => {
            let server = Server::start(&["--connections-a-user-max=1"]);
            let account = server.user();
            let _first = Client::open(&server, Encoding::Json, &account);
            let mut second = Client::connect(&server, Encoding::Json);
            second.send_hello(&account.token, &json!([]));
            vec![ended(second), Seen::Http(server.get("/api/v1/events", &account))]
        }
        Code::TooSlow => vec![too_slow()],
        Code::ShuttingDown => {
            let mut server = Server::start(&[]);
            let account = server.user();
            let mut stubborn = Client::open(&server, Encoding::Json, &account);
            let leaving = Client::open(&server, Encoding::Json, &account);
            let mut early = Raw::connect(server.address);
            server.signal(rustix::process::Signal::TERM);
            stubborn.wait_for("reconnect");
            let seen = vec![ended(leaving), Seen::Http(early.upgrade(&[]))];
            drop(stubborn);
            assert_eq!(server.exit_status().code(), Some(0));
            seen
        }
        Code::HeartbeatMissed => {
            let server = Server::start(&["--heartbeat-ms=1000"]);
            let account = server.user();
            let mut client = Client::open(&server, Encoding::Json, &account);
            client.is_alive = false;
            vec![ended(client)]
        }
        Code::RowDamaged => store::row_damaged(),
        Code::FeedDamaged => store::feed_damaged(),
        Code::TooManyRefreshes => vec![too_many_refreshes(world)],
    }
}

/// A token that is refused: in hello, in the handshake, in a request, in a refresh.
fn with_token(world: &World, token: &str) -> Vec<Seen> {
    let bearer = format!("authorization: Bearer {token}");
    let refused = world.error(&json!({ "refresh": { "token": token } }));
    vec![
        world.end_of_hello(&json!({ "protocol": { "min": 1, "max": 1 }, "token": token })),
        upgrade(&world.server, &[&bearer]),
        Seen::Http(http::request(
            world.server.address,
            "GET",
            "/api/v1/tasks",
            &[&bearer],
            b"",
        )),
        refused,
    ]
}

/// More passwords at once than are hashed and wait.
fn sign_in_busy(server: &Server) -> Seen {
    let body = json!({ "email": "nobody@example.org", "password": "12345678" }).to_string();
    eventually("a busy answer", || {
        let mut all: Vec<_> = (0..200)
            .map(|_| {
                let mut connection = http::Connection::open(server.address);
                connection.send(
                    "POST",
                    "/api/v1/auth/login",
                    &["content-type: application/json"],
                    body.as_bytes(),
                );
                connection
            })
            .collect();
        // The last ones are the ones that are turned away, at once.
        let response = all.last_mut()?.response();
        (response.status == 503).then_some(Seen::Http(response))
    })
}

/// More lists than a feed may have.
fn five_hundred_lists(server: &Server) -> Seen {
    let account = server.user();
    let mut client = Client::open(server, Encoding::Json, &account);
    let batch = |count: usize| {
        let make = |_| json!({ "list_create": { "list": id(), "name": "l" } });
        json!({ "batch": { "commands": (0..count).map(make).collect::<Vec<_>>() } })
    };
    for count in [100, 100, 100, 100, 99] {
        client.accept(&batch(count));
    }
    Seen::Error(client.submit(&operation(&batch(1)))["refused"].clone())
}

/// One small operation that changes more than an entry can carry: a parent that takes its large subtasks along.
fn large_move(world: &World) -> Seen {
    let (list, parent) = (row(), row());
    let mut client = world.client();
    client.accept(&json!({ "list_create": { "list": list, "name": "other" } }));
    client.accept(&create(&json!({ "task": parent })));
    for _ in 0..25 {
        client.accept(&create(&json!({ "parent": parent, "notes": "x".repeat(50_000) })));
    }
    Seen::Error(client.submit(&operation(&json!({ "task_move": { "task": parent, "list": list } })))["refused"].clone())
}

/// More operations at once than a feed holds.
fn overloaded(world: &World) -> Seen {
    let account = world.server.user();
    let mut client = Client::open(&world.server, Encoding::Json, &account);
    eventually("an overloaded feed", || {
        let mut frames = Vec::new();
        let mut ids = Vec::new();
        for _ in 0..8 {
            let operations: Vec<_> = (0..100).map(|_| task("flood")).collect();
            frames.extend(client.frame_of(&json!({ "operations": { "operations": operations } })));
            ids.extend(
                operations
                    .iter()
                    .map(|operation| operation["id"].as_str().unwrap().to_owned()),
            );
        }
        client.raw.send(&frames);
        let mut refused = None;
        for id in &ids {
            let outcome = client.outcome(id);
            refused = refused.or_else(|| outcome.get("refused").cloned());
        }
        client.stash.clear();
        refused.map(Seen::Error)
    })
}

/// A client that sends and does not read.
fn too_slow() -> Seen {
    let server = Server::start(&["--outbound-bytes-max=1048576"]);
    let account = server.user();
    let mut client = Client::open(&server, Encoding::Json, &account);
    let frame = client.frame_of(&json!({ "unfollow": {} })).repeat(1000);
    let evicted = "taskflow_evictions_total{reason=\"too_slow\"}";
    let begun = std::time::Instant::now();
    while server.metric(evicted) == 0.0 {
        assert!(begun.elapsed() < DEADLINE);
        client.raw.try_send(&frame);
    }
    ended(client)
}

/// More tokens than a connection may bring, whenever its minute began.
fn too_many_refreshes(world: &World) -> Seen {
    let mut client = world.client();
    let refresh = json!({ "refresh": { "token": world.account.token } });
    for _ in 0..=2 * REFRESHES_A_MINUTE_MAX {
        client.send(&refresh);
    }
    let error = client.wait_for("error");
    // It goes on with the token that it has.
    client.accept(&task("still in")["command"]);
    Seen::Error(error)
}

/// Every code, each with what led to it, a few at a time: some wait for time-outs.
#[test]
fn every_code_is_reached_on_the_wire() {
    let server = Server::start(&["--connections-a-user-max=10000"]);
    let account = server.user();
    let world = World { server, account };
    // What takes longest begins first.
    let mut left: Vec<Code> = Code::ALL.to_vec();
    left.sort_by_key(|code| {
        matches!(
            code,
            Code::OutcomeUnknown | Code::BodyTimeout | Code::HelloTimeout | Code::HeartbeatMissed
        )
    });
    let left = Mutex::new(left);
    let failed = Mutex::new(Vec::new());
    in_parallel(0..12, |_| {
        loop {
            let Some(code) = left.lock().unwrap().pop() else { return };
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let all = reach(code, &world);
                assert!(!all.is_empty(), "{code} is not reached");
                for seen in &all {
                    check(code, seen);
                }
            }));
            if outcome.is_err() {
                failed.lock().unwrap().push(code.name());
            }
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "not reached as the table says: {failed:?}");
}

/// The table that people read.
#[test]
fn every_code_stands_in_the_documentation_with_its_action() {
    let page = include_str!("../../docs/protocol.md");
    for code in Code::ALL {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| {} | `{code}` |", *code as u16)));
        let row = row.unwrap_or_else(|| panic!("{code} is not in docs/protocol.md"));
        let close = code.close_code().map_or("–".to_owned(), |close| close.to_string());
        let expected = format!("| {} | {close} | {} |", code.http_status(), code.action().name());
        assert!(row.contains(&expected) && row.contains(code.sentence()), "{row}");
    }
}

/// The connection is closed by the client: no code of the table.
#[test]
fn a_close_by_the_client_is_no_code() {
    let server = Server::start(&[]);
    let account = server.user();
    let mut client = Client::open(&server, Encoding::Json, &account);
    client.raw.send(&closing(1000, b"bye"));
    assert_eq!(client.ended(), Ended::Closed(Some(1000), String::new()));
    assert!(client.stash.is_empty());
}
