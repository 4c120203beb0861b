//! Every route, asked by those whom it is not for: by nobody, by another user, by a script that may only look, with a token that
//! was ended, and with one that was made up. Whoever it is knows every id of Ann's, and gets nothing of hers by it.
//!
//! The routes are those of `/openapi.json`, which is the router's table (a test in `src/http/tests.rs`). What each is asked
//! stands in [`asks`], and a route, a parameter or a field that is not asked there fails the walk.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use taskflow::clock::SystemClock;
use taskflow_actors::ports::Clock as _;
use uuid::Uuid;

use crate::support::server::PASSWORD;
use crate::support::ws::operation;
use crate::support::{Account, EventStream, Replica, Response, Server, Value, http, id, json};

/// What only Ann has, in all that she wrote.
const MARKER: &str = "only-ann-knows";

/// The routes that need no access token: what they are asked says who asks, or they are for all.
const OPEN: &[&str] = &[
    "GET /.well-known/jwks.json",
    "GET /openapi.json",
    "POST /api/v1/auth/delete",
    "POST /api/v1/auth/email",
    "POST /api/v1/auth/forgot",
    "POST /api/v1/auth/login",
    "POST /api/v1/auth/password",
    "POST /api/v1/auth/refresh",
    "POST /api/v1/auth/register",
    "POST /api/v1/auth/reset",
    "POST /api/v1/auth/restore",
    "POST /api/v1/auth/verify",
];

/// The routes that no personal access token is enough for, even to look.
const OF_THE_OWNER: &[&str] = &["GET /api/v1/history", "GET /api/v1/sessions", "GET /api/v1/tokens"];

/// Ann, and what of hers somebody may have seen over her shoulder.
struct Ann {
    account: Account,
    list: String,
    task: String,
    label: String,
    session: String,
    ended_session: String,
    /// The id of her personal access token, and the token.
    token: (String, String),
    /// The id of the operation that made her task.
    operation: String,
    cursor: String,
    /// Of her tasks in their places, of her tasks by their titles, and of her history.
    pages: [String; 3],
    /// An access token and a refresh token of the sign-in that she ended.
    ended: Account,
}

impl Ann {
    fn moves_in(server: &Server) -> Self {
        let email = format!("{MARKER}@example.org");
        let body = json!({ "email": email, "password": PASSWORD, "device": format!("laptop, {MARKER}") });
        let sign_in = |path: &str, status: u16| {
            let answer = http::post(server.address, &format!("/api/v1/auth/{path}"), &[], &body);
            assert_eq!(answer.status, status, "{answer:?}");
            Account::of(&answer, email.clone())
        };
        let account = sign_in("register", 201);
        let session = |index: usize| {
            let all = server.get("/api/v1/sessions", &account).json();
            text(&all["items"][index]["id"])
        };
        let first = session(0);
        let ended = sign_in("login", 200);
        let ended_session = [session(0), session(1)].into_iter().find(|id| *id != first);
        let body = json!({ "refresh_token": ended.refresh });
        assert_eq!(server.post("/api/v1/auth/logout", &account, &body).status, 204);

        let make = |kind: &str, headers: &[&str], body: &Value| {
            let made = server.send("POST", &format!("/api/v1/{kind}"), &account, headers, body);
            assert_eq!(made.status, 201, "{made:?}");
            (text(&made.json()["id"]), made.json())
        };
        let (list, _) = make("lists", &[], &json!({ "name": format!("house, {MARKER}") }));
        let (label, _) = make("labels", &[], &json!({ "name": format!("dear, {MARKER}") }));
        let operation = id();
        let task = json!({ "title": format!("gift, {MARKER}"), "notes": MARKER, "list": list, "labels": [label] });
        let (task, _) = make("tasks", &[&format!("idempotency-key: {operation}")], &task);
        make(
            "tasks",
            &[],
            &json!({ "title": format!("wine, {MARKER}"), "list": list, "parent": task }),
        );
        let token = json!({ "name": MARKER, "scopes": ["tasks:read"], "expires_in_days": 1 });
        let (token, made) = make("tokens", &[], &token);
        let page = |path: &str| {
            let answer = server.get(path, &account).json();
            let next = answer["next"].as_str();
            next.unwrap_or_else(|| panic!("a second page: {answer}")).to_owned()
        };
        Self {
            list,
            task,
            label,
            session: first,
            ended_session: ended_session.expect("another one"),
            token: (token, text(&made["token"])),
            operation,
            cursor: Replica::of(server, &account).cursor.expect("a cursor"),
            pages: [
                page("/api/v1/tasks?limit=1"),
                page("/api/v1/tasks?limit=1&sort=title"),
                page("/api/v1/history?limit=1"),
            ],
            ended,
            account,
        }
    }

    fn ids(&self) -> [&str; 8] {
        [
            &self.account.user,
            &self.list,
            &self.task,
            &self.label,
            &self.session,
            &self.ended_session,
            &self.token.0,
            &self.operation,
        ]
    }

    /// All of hers, byte by byte.
    fn all(&self, server: &Server) -> Vec<(&'static str, String)> {
        let seen = [
            "snapshot", "tasks", "lists", "labels", "settings", "sessions", "tokens", "history",
        ];
        let read = |name| {
            let answer = server.get(&format!("/api/v1/{name}"), &self.account);
            assert_eq!(answer.status, 200, "{answer:?}");
            if name != "history" {
                return (name, String::from_utf8(answer.body).expect("UTF-8"));
            }
            // That somebody guessed at her password is to be noted.
            let history = answer.json();
            let items = history["items"].as_array().expect("notes").iter();
            let items = items.filter(|note| note["event"] != "sign_in_failed");
            (name, items.map(Value::to_string).collect())
        };
        seen.map(read).into()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text: {value}")).to_owned()
}

/// A question to a route, and what another user is told.
struct Ask {
    /// Method and path, as they are in the description.
    route: &'static str,
    query: String,
    headers: Vec<String>,
    body: Value,
    answer: &'static str,
}

fn ask(route: &'static str, answer: &'static str) -> Ask {
    Ask {
        route,
        query: String::new(),
        headers: Vec::new(),
        body: Value::Null,
        answer,
    }
}

impl Ask {
    fn query(mut self, query: String) -> Self {
        self.query = query;
        self
    }

    fn header(mut self, header: String) -> Self {
        self.headers.push(header);
        self
    }

    fn body(mut self, body: Value) -> Self {
        self.body = body;
        self
    }

    fn method(&self) -> &'static str {
        self.route.split(' ').next().unwrap_or_default()
    }

    fn path(&self) -> &'static str {
        self.route.split(' ').nth(1).unwrap_or_default()
    }

    /// A refresh token stands for an access token.
    fn needs_no_access_token(&self) -> bool {
        OPEN.contains(&self.route) || self.body.get("refresh_token").is_some()
    }
}

/// What every route is asked with what is Ann's, in this order. An `{id}` is each of her ids in turn, and need not be
/// mentioned; all else that names something is given here.
fn asks(ann: &Ann, bob: &Account) -> Vec<Ask> {
    let Ann {
        list,
        task,
        label,
        cursor,
        pages: [places, titles, history],
        ..
    } = ann;
    let (email, user) = (&ann.account.email, &ann.account.user);
    let not_there = "404 row_not_found";
    let guess = json!({ "email": email, "password": "a good guess", "device": "phone", "cookie": true });
    let guess_with = |field: &str, value: &str| {
        let mut guess = guess.clone();
        guess[field] = json!(value);
        guess
    };
    // The cursor is of another feed.
    let looks = [
        "GET /api/v1/tasks",
        "GET /api/v1/tasks/{id}",
        "GET /api/v1/lists",
        "GET /api/v1/lists/{id}",
        "GET /api/v1/labels",
        "GET /api/v1/labels/{id}",
        "GET /api/v1/settings",
        "GET /api/v1/statistics",
        "GET /api/v1/activity",
        "GET /api/v1/snapshot",
        "GET /api/v1/export",
    ];
    let waits = looks.map(|look| ask(look, "400 cursor_invalid").query(format!("wait_for={cursor}")));
    let others = vec![
        ask("GET /.well-known/jwks.json", "200"),
        ask("GET /openapi.json", "200"),
        ask("POST /api/v1/auth/register", "409 email_taken").body(json!({
            "email": email, "password": "a good guess", "time_zone": "UTC", "locale": "en", "device": "phone",
            "cookie": true,
        })),
        ask("POST /api/v1/auth/login", "401 credentials_wrong").body(guess.clone()),
        ask("POST /api/v1/auth/password", "401 credentials_wrong").body(guess_with("new_password", PASSWORD)),
        ask("POST /api/v1/auth/email", "401 credentials_wrong")
            .body(json!({ "email": email, "password": "a good guess", "new_email": bob.email })),
        // With a password that is right, for another account.
        ask("POST /api/v1/auth/email", "409 email_taken")
            .body(json!({ "email": bob.email, "password": PASSWORD, "new_email": email })),
        ask("POST /api/v1/auth/forgot", "202").body(json!({ "email": email })),
        ask("POST /api/v1/auth/reset", "403 link_invalid").body(json!({
            "token": forged_link(2, email), "new_password": "a good guess", "device": "phone", "cookie": true,
        })),
        ask("POST /api/v1/auth/verify", "403 link_invalid").body(json!({
            "token": forged_link(1, email), "password": "a good guess", "time_zone": "UTC", "locale": "en", "device": "phone",
            "cookie": true,
        })),
        ask("POST /api/v1/auth/delete", "401 credentials_wrong").body(guess.clone()),
        ask("POST /api/v1/auth/restore", "401 credentials_wrong").body(guess.clone()),
        ask("POST /api/v1/auth/refresh", "401 token_invalid").body(json!({ "refresh_token": forged(&ann.session) })),
        ask("POST /api/v1/auth/refresh", "401 signed_out").body(json!({ "refresh_token": forged(&ann.token.0) })),
        ask("POST /api/v1/auth/refresh", "401 signed_out").body(json!({ "refresh_token": ann.ended.refresh })),
        ask("POST /api/v1/auth/logout", "401 token_invalid").body(json!({ "refresh_token": forged(&ann.session) })),
        ask("POST /api/v1/auth/logout", "401 token_invalid").body(json!({ "refresh_token": forged(&ann.token.0) })),
        ask("POST /api/v1/auth/logout", "401 signed_out")
            .body(json!({ "refresh_token": ann.ended.refresh, "everywhere": true })),

        ask("GET /api/v1/tasks", "200"),
        ask("GET /api/v1/tasks", not_there).query(format!("list={list}")),
        ask("GET /api/v1/tasks", "200").query(format!("status=todo&search={MARKER}&filter=gift&fields=id,title")),
        ask("GET /api/v1/tasks", "200").query(format!("limit=1&page={places}")),
        ask("GET /api/v1/tasks", "200").query(format!("limit=1&sort=title&page={titles}")),
        ask("GET /api/v1/tasks/{id}", not_there),
        ask("GET /api/v1/tasks/{id}", not_there).header("if-none-match: *".to_owned()),
        ask("PATCH /api/v1/tasks/{id}", not_there).body(json!({
            "title": "t", "notes": "n", "status": "done", "priority": "high", "due": null, "deadline": null,
            "duration_minutes": null, "labels": [label],
        })),
        ask("PATCH /api/v1/tasks/{id}", not_there).header("if-match: *".to_owned()).body(json!({ "title": "t" })),
        ask("DELETE /api/v1/tasks/{id}", not_there),
        ask("POST /api/v1/tasks/{id}/restore", not_there),
        ask("POST /api/v1/tasks/{id}/complete", not_there),
        ask("POST /api/v1/tasks/{id}/reopen", not_there),
        ask("POST /api/v1/tasks/{id}/move", not_there)
            .body(json!({ "list": list, "parent": task, "place": { "after": task } })),
        ask("POST /api/v1/tasks", not_there).body(json!({ "title": "t", "list": list })),
        ask("POST /api/v1/tasks", not_there).body(json!({ "title": "t", "list": user })),
        ask("POST /api/v1/tasks", not_there).body(json!({ "title": "t", "parent": task })),
        ask("POST /api/v1/tasks", not_there).body(json!({ "title": "t", "labels": [label] })),
        ask("POST /api/v1/tasks", not_there).body(json!({ "title": "t", "place": { "before": task } })),

        ask("GET /api/v1/lists", "200"),
        ask("GET /api/v1/lists/{id}", not_there),
        ask("PATCH /api/v1/lists/{id}", not_there).body(json!({ "name": "n", "color": null, "archived": true })),
        ask("DELETE /api/v1/lists/{id}", not_there),
        ask("POST /api/v1/lists/{id}/restore", not_there),
        ask("POST /api/v1/lists/{id}/move", not_there).body(json!({ "place": { "before": list } })),
        ask("POST /api/v1/lists", not_there).body(json!({ "name": "n", "place": { "after": list } })),

        ask("GET /api/v1/labels", "200"),
        ask("GET /api/v1/labels/{id}", not_there),
        ask("PATCH /api/v1/labels/{id}", not_there).body(json!({ "name": "n", "color": null })),
        ask("DELETE /api/v1/labels/{id}", not_there),
        ask("POST /api/v1/labels/{id}/restore", not_there),

        ask("GET /api/v1/settings", "200"),
        ask("PATCH /api/v1/settings", "200")
            .body(json!({ "time_zone": "Asia/Tokyo", "week_start": "sunday", "locale": "ja" })),
        ask("POST /api/v1/operations", "404 feed_not_found").body(json!({ "feed": user, "operations": commands(ann) })),
        ask("POST /api/v1/operations", "200 row_not_found").body(json!({
            "operations": commands(ann), "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        })),

        ask("GET /api/v1/changes", "200").query(format!("cursor={cursor}&wait=1&limit=1")),
        ask("GET /api/v1/events", "200").query(format!("cursor={cursor}&statistics=true")),
        ask("GET /api/v1/events", "200").query("statistics=true".to_owned()).header(format!("last-event-id: {cursor}")),
        ask("GET /api/v1/snapshot", "200"),
        ask("GET /api/v1/export", "200"),
        ask("GET /api/v1/activity", "200").query("from=2026-01-01&to=2026-12-31".to_owned()),
        ask("GET /api/v1/statistics", "200"),

        ask("GET /api/v1/sessions", "200"),
        ask("DELETE /api/v1/sessions/{id}", not_there),
        ask("GET /api/v1/tokens", "200"),
        ask("DELETE /api/v1/tokens/{id}", not_there),
        ask("POST /api/v1/tokens", "201").body(json!({ "name": "n", "scopes": ["tasks:read"], "expires_in_days": 1 })),
        ask("GET /api/v1/history", "200").query(format!("limit=1&page={history}")),

        // From here on Bob has rows of his own under ids of Ann's: an id is one of its feed.
        ask("POST /api/v1/tasks", "201").header(format!("idempotency-key: {}", ann.operation)).body(json!({
            "id": task, "title": "t", "notes": "n", "status": "todo", "priority": "low", "due": { "all_day": "2026-12-24" },
            "deadline": "2026-12-24", "duration_minutes": 5, "labels": [],
        })),
        ask("POST /api/v1/lists", "201").body(json!({ "id": list, "name": "n", "color": "#3b82f6" })),
        ask("POST /api/v1/labels", "201").body(json!({ "id": label, "name": "n", "color": "#3b82f6" })),
        // The last one, because Bob is out after it.
        ask("POST /api/v1/auth/logout", "204").body(json!({ "everywhere": true })),
    ];
    waits.into_iter().chain(others).collect()
}

/// One of every kind that names a row, on Ann's.
fn commands(ann: &Ann) -> Vec<Value> {
    let (task, list, label) = (&ann.task, &ann.list, &ann.label);
    let commands = [
        json!({ "task_create": { "task": id(), "title": "t", "list": list } }),
        json!({ "task_create": { "task": id(), "title": "t", "labels": [label] } }),
        json!({ "task_create": { "task": id(), "title": "t", "parent": task } }),
        json!({ "task_create": { "task": id(), "title": "t", "place": { "after": task } } }),
        json!({ "task_patch": { "task": task, "set": { "title": "t" } } }),
        json!({ "task_move": { "task": task, "list": list } }),
        json!({ "task_complete": { "task": task } }),
        json!({ "task_reopen": { "task": task } }),
        json!({ "task_delete": { "task": task } }),
        json!({ "task_restore": { "task": task } }),
        json!({ "list_patch": { "list": list, "set": { "name": "n" } } }),
        json!({ "list_move": { "list": list, "place": "first" } }),
        json!({ "list_delete": { "list": list } }),
        json!({ "list_restore": { "list": list } }),
        json!({ "list_delete": { "list": ann.account.user } }),
        json!({ "label_patch": { "label": label, "set": { "name": "n" } } }),
        json!({ "label_delete": { "label": label } }),
        json!({ "label_restore": { "label": label } }),
        json!({ "batch": { "commands": [{ "task_delete": { "task": task } }] } }),
    ];
    commands.iter().map(operation).collect()
}

/// A token of the right form that names what another has, with a secret that is not the one.
fn forged(id: &str) -> String {
    let id: Uuid = id.parse().expect("an id");
    URL_SAFE_NO_PAD.encode([id.as_bytes(), &[7; 32][..]].concat())
}

/// The token of a link of the right form, made now for this address, with a code that is not the one.
fn forged_link(purpose: u8, email: &str) -> String {
    let now = SystemClock.now_ms().to_be_bytes();
    URL_SAFE_NO_PAD.encode([&[purpose], &now[..], &[7; 32], email.as_bytes(), &[0]].concat())
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Nobody,
    /// Whoever has found a token of a sign-in that Ann has ended.
    Late,
    /// Whoever knows the id of Ann's personal access token, and makes the rest up.
    Forger,
    /// Bob's script, which may only look.
    Script,
    Bob,
}

/// In this order, because Bob signs out in the end.
const ALL: [Who; 5] = [Who::Nobody, Who::Late, Who::Forger, Who::Script, Who::Bob];

/// What each of them must be told.
fn answer_for(who: Who, ask: &Ask) -> &'static str {
    if ask.needs_no_access_token() {
        return ask.answer;
    }
    match who {
        Who::Nobody => "401 token_missing",
        Who::Late => "401 signed_out",
        Who::Forger => "401 token_invalid",
        Who::Script if ask.method() != "GET" || OF_THE_OWNER.contains(&ask.route) => "403 scope_missing",
        Who::Script | Who::Bob => ask.answer,
    }
}

/// Asks; what was said in short, and every byte of it that could give something away.
fn told(server: &Server, token: Option<&str>, ask: &Ask, path: &str) -> (String, String) {
    let mut headers = ask.headers.clone();
    headers.extend(token.map(|token| format!("authorization: Bearer {token}")));
    headers.push("content-type: application/json".to_owned());
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    if ask.path() == "/api/v1/events" {
        // It has no end: the statistics come behind the state and whatever was missed.
        let mut stream = match EventStream::open(server.address, path, &headers) {
            Ok(stream) => stream,
            Err(refused) => return (in_short(&refused), format!("{refused:?}")),
        };
        let mut said = String::new();
        loop {
            let event = stream.next().expect("the stream goes on");
            said.push_str(&format!("{:?} {}\n", event.id, event.data));
            if event.event == "statistics" {
                return ("200".to_owned(), said);
            }
        }
    }
    let body = match &ask.body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let response = http::request(server.address, ask.method(), path, &headers, body.as_bytes());
    (in_short(&response), format!("{response:?}"))
}

/// The status, and the name of the problem: that of every operation, where there are some.
fn in_short(response: &Response) -> String {
    let status = response.status.to_string();
    let Ok(body) = serde_json::from_slice::<Value>(&response.body) else {
        return status;
    };
    let of_operations = body["results"].as_array().into_iter().flatten();
    let mut names: Vec<&str> = of_operations
        .map(|result| &result["outcome"])
        .map(|outcome| outcome["refused"]["name"].as_str().unwrap_or("done"))
        .collect();
    names.dedup();
    names.extend(body["name"].as_str().filter(|_| response.status >= 400));
    [vec![status.as_str()], names].concat().join(" ")
}

/// Every route of the description.
fn routes(description: &Value) -> impl Iterator<Item = (String, &Value, &Value)> {
    let paths = description["paths"].as_object().expect("paths").iter();
    paths.flat_map(|(path, item)| {
        let methods = item.as_object().expect("methods").iter();
        let methods = methods.filter(|(method, _)| *method != "parameters");
        methods.map(move |(method, route)| (format!("{} {path}", method.to_uppercase()), route, item))
    })
}

/// What the description has and the table has not: a route, a parameter of one, or a field of what is sent to one.
fn unasked(description: &Value, asks: &[Ask]) -> Vec<String> {
    let resolved = |value: &Value| match value["$ref"].as_str() {
        Some(reference) => description.pointer(&reference[1..]).expect("it is there").clone(),
        None => value.clone(),
    };
    let mut unasked = Vec::new();
    for (name, route, item) in routes(description) {
        let asks: Vec<&Ask> = asks.iter().filter(|ask| ask.route == name).collect();
        if asks.is_empty() {
            unasked.push(name);
            continue;
        }
        let parameters = [&route["parameters"], &item["parameters"]];
        let parameters = parameters.into_iter().filter_map(Value::as_array).flatten();
        for parameter in parameters.map(resolved).filter(|parameter| parameter["in"] == "query") {
            let parameter = text(&parameter["name"]);
            let is_asked = |ask: &&Ask| {
                ask.query
                    .split('&')
                    .any(|pair| pair.split('=').next() == Some(&parameter))
            };
            if !asks.iter().any(is_asked) {
                unasked.push(format!("the parameter {parameter} of {name}"));
            }
        }
        let schema = resolved(&route["requestBody"]["content"]["application/json"]["schema"]);
        let fields = schema["properties"].as_object().into_iter().flatten();
        for (field, _) in fields {
            if !asks.iter().any(|ask| ask.body.get(field).is_some()) {
                unasked.push(format!("the field {field} of {name}"));
            }
        }
    }
    unasked
}

#[test]
fn nobody_gets_or_changes_anything_of_another_user_by_any_route() {
    let server = Server::start(&[]);
    let ann = Ann::moves_in(&server);
    let bob = server.register();
    let description = http::request(server.address, "GET", "/openapi.json", &[], b"").json();
    let asks = asks(&ann, &bob);
    let unasked = unasked(&description, &asks);
    assert!(
        unasked.is_empty(),
        "these are asked nothing: give them a line in `asks` of tests/rest/strangers.rs: {unasked:#?}"
    );
    let names: Vec<String> = routes(&description).map(|(name, ..)| name).collect();
    let gone: Vec<&str> = asks
        .iter()
        .map(|ask| ask.route)
        .filter(|route| !names.iter().any(|name| name == route))
        .collect();
    assert!(gone.is_empty(), "there are no such routes any more: {gone:?}");
    let mut open: Vec<String> = routes(&description)
        .filter(|(_, route, _)| route["security"] == json!([]))
        .map(|(name, ..)| name)
        .collect();
    open.sort();
    assert_eq!(
        open, OPEN,
        "these need no token, by the description and by the list above"
    );

    let script = json!({ "name": "script", "scopes": ["tasks:read"], "expires_in_days": 1 });
    let script = text(&server.post("/api/v1/tokens", &bob, &script).json()["token"]);
    let before = ann.all(&server);
    let mut wrong = Vec::new();
    for who in ALL {
        let token = match who {
            Who::Nobody => None,
            Who::Late => Some(ann.ended.token.clone()),
            Who::Forger => Some(format!("tfp_{}", forged(&ann.token.0))),
            Who::Script => Some(script.clone()),
            Who::Bob => Some(bob.token.clone()),
        };
        wrong.extend(walk(&server, &ann, &asks, who, token.as_deref()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(ann.all(&server), before, "of Ann's nothing has changed");
    ann.has_all_her_keys(&server);
}

/// Entries and versions have the same numbers in every feed. What one user has must be good for nobody else, whoever sends its
/// tag: caches do that for all who share them.
#[test]
fn what_one_user_has_is_not_still_good_for_another() {
    let server = Server::start(&[]);
    let (ann, bob) = (server.register(), server.register());
    let [list, label, task] = [id(), id(), id()];
    for (who, name) in [(&ann, "hers"), (&bob, "his")] {
        let make = |kind: &str, body: Value| {
            let made = server.post(&format!("/api/v1/{kind}"), who, &body);
            assert_eq!(made.status, 201, "{made:?}");
        };
        make("lists", json!({ "id": list, "name": name }));
        make("labels", json!({ "id": label, "name": name }));
        make(
            "tasks",
            json!({ "id": task, "title": name, "list": list, "labels": [label] }),
        );
    }
    let description = http::request(server.address, "GET", "/openapi.json", &[], b"").json();
    let varies = |response: &Response| {
        let mut varies = response.headers.iter().filter(|(name, _)| name == "vary");
        varies.any(|(_, by)| by == "Authorization")
    };
    let mut tagged = Vec::new();
    for (route, ..) in routes(&description) {
        // Event streams have no end, and no tag.
        let Some(path) = route.strip_prefix("GET ").filter(|path| *path != "/api/v1/events") else {
            continue;
        };
        let id = match path.split('/').nth(3) {
            Some("lists") => &list,
            Some("labels") => &label,
            _ => &task,
        };
        let path = path.replace("{id}", id);
        let [hers, his] = [&ann, &bob].map(|who| server.get(&path, who));
        assert_eq!((hers.status, his.status), (200, 200), "{path}");
        if !OPEN.contains(&route.as_str()) {
            let is_kept = hers.header("cache-control") != Some("no-store");
            assert!(varies(&hers) || !is_kept, "{path} {hers:?}");
        }
        let Some(tag) = hers.header("etag") else {
            continue;
        };
        let version = |tag: &str| tag.split('-').next().map(str::to_owned);
        assert_eq!(
            version(tag),
            his.header("etag").and_then(version),
            "the test asks too little"
        );
        let has = format!("if-none-match: {tag}");
        let [hers, his] = [&ann, &bob].map(|who| server.send("GET", &path, who, &[&has], &Value::Null));
        assert_eq!((hers.status, his.status), (304, 200), "{path}");
        assert!(varies(&hers), "{hers:?}");
        tagged.push(path);
    }
    assert_eq!(tagged.len(), 7, "rows of each kind, and pages of them: {tagged:?}");
}

/// Asks everything, and says what was answered otherwise than it must be.
fn walk(server: &Server, ann: &Ann, asks: &[Ask], who: Who, token: Option<&str>) -> Vec<String> {
    let mut wrong = Vec::new();
    for ask in asks {
        let ids = ann.ids();
        let ids = if ask.path().contains("{id}") { &ids[..] } else { &[""] };
        for id in ids {
            let mut path = ask.path().replace("{id}", id);
            if !ask.query.is_empty() {
                path = format!("{path}?{}", ask.query);
            }
            let asked = format!("{who:?}: {} {path} {:?} {}", ask.method(), ask.headers, ask.body);
            let (said, bytes) = told(server, token, ask, &path);
            let expected = answer_for(who, ask);
            if said != expected {
                wrong.push(format!("{asked}\n  is not {expected} but {bytes}"));
            }
            let given_away = given_away(ann, &asked, &bytes);
            wrong.extend(given_away.map(|what| format!("{asked}\n  gives {what} away: {bytes}")));
        }
    }
    wrong
}

/// What of Ann's is in an answer, in its headers or in its body. What was in the question may come back.
fn given_away<'a>(ann: &'a Ann, asked: &str, bytes: &str) -> impl Iterator<Item = &'a str> {
    let secrets = [MARKER, &ann.account.token, &ann.account.refresh, &ann.token.1];
    let ids = ann.ids().into_iter().filter(|id| !asked.contains(id));
    secrets.into_iter().chain(ids).filter(|secret| bytes.contains(secret))
}

impl Ann {
    /// Her password, her refresh token and her personal access token are good, and lead to her.
    fn has_all_her_keys(&self, server: &Server) {
        let body = json!({ "email": self.account.email, "password": PASSWORD });
        let signed_in = http::post(server.address, "/api/v1/auth/login", &[], &body);
        let refreshed = json!({ "refresh_token": self.account.refresh });
        let refreshed = http::post(server.address, "/api/v1/auth/refresh", &[], &refreshed);
        for answer in [signed_in, refreshed] {
            assert_eq!(
                (answer.status, &answer.json()["user"]),
                (200, &json!(self.account.user)),
                "{answer:?}"
            );
        }
        let bearer = format!("authorization: Bearer {}", self.token.1);
        let path = format!("/api/v1/tasks/{}", self.task);
        assert_eq!(http::request(server.address, "GET", &path, &[&bearer], b"").status, 200);
    }
}
