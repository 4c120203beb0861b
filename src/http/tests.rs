//! The whole client port but the socket: real feeds on a store in memory.

use std::collections::BTreeSet;
use std::time::Duration;

use actix_http::Request;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Service, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::HeaderMap;
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use actix_web::{App, Error};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use taskflow_actors::cursor::Cursor;
use taskflow_actors::memory::Failure;
use taskflow_actors::ports::{AccountError, Append, Clock as _, Head, Push as _, Store as _};
use taskflow_protocol::limits::{MESSAGE_BYTES_MAX, OPERATIONS_A_MESSAGE_MAX};
use taskflow_protocol::message::{Outcome, Results};
use taskflow_protocol::{Code, Encoding, TaskId, UserId};
use uuid::Uuid;

use crate::auth::{SignedOut, Tokens};
use crate::config::{Config, Origins, Registration};
use crate::http::{ROUTES, routes};
use crate::testing::ApiBench;

/// An answer, read to its end.
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("there is no {name}"));
        value.to_str().expect("text")
    }

    /// Success with a document.
    #[track_caller]
    fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// Exactly this error, as a whole problem document.
    #[track_caller]
    fn problem(&self, code: Code) -> Value {
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["name"], code.name(), "{problem}");
        assert_eq!(problem["code"], code as u16);
        assert_eq!(problem["status"], code.http_status());
        assert_eq!(problem["title"], code.sentence());
        assert_eq!(self.status, code.http_status());
        problem
    }
}

struct Client<S> {
    app: S,
    token: Option<String>,
}

/// A request under construction.
struct Ask<'c, S> {
    client: &'c Client<S>,
    request: TestRequest,
}

impl<S, B> Client<S>
where
    S: Service<Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    fn ask(&self, method: &str, path: &str) -> Ask<'_, S> {
        let method: Method = method.parse().expect("a method");
        let mut request = TestRequest::default().method(method).uri(path);
        if let Some(token) = &self.token {
            request = request.insert_header(("authorization", format!("Bearer {token}")));
        }
        Ask { client: self, request }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path).send().await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask("POST", path).json(&body).send().await
    }

    async fn patch(&self, path: &str, body: Value) -> Answer {
        self.ask("PATCH", path).json(&body).send().await
    }
}

impl<S, B> Ask<'_, S>
where
    S: Service<Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.request = self.request.insert_header((name, value.to_owned()));
        self
    }

    fn more(mut self, name: &'static str, value: &str) -> Self {
        self.request = self.request.append_header((name, value.to_owned()));
        self
    }

    fn json(self, body: &Value) -> Self {
        self.raw("application/json", body.to_string())
    }

    fn raw(mut self, content_type: &str, body: impl Into<actix_web::web::Bytes>) -> Self {
        self.request = self
            .request
            .insert_header(("content-type", content_type.to_owned()))
            .set_payload(body);
        self
    }

    async fn send(self) -> Answer {
        let response = call_service(&self.client.app, self.request.to_request()).await;
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: read_body(response).await.to_vec(),
        }
    }
}

/// Long before it would come for another reason.
async fn in_time<T>(answer: impl Future<Output = T>) -> T {
    let answered = tokio::time::timeout(Duration::from_secs(30), answer).await;
    answered.expect("it comes")
}

/// The first commit after the birth cannot be decoded. Nobody is told of it.
async fn damage(bench: &ApiBench, user: UserId) {
    let head = bench.store.head(user).await.expect("readable").expect("born");
    let damaged = Append {
        feed: user,
        epoch: head.epoch,
        base: 1,
        last: 2,
        append_id: 7,
        time: bench.auth.clock.now_ms(),
        body: vec![1, 0xc1].into(),
    };
    bench.store.append(damaged).await.expect("appended");
}

/// A client of a new server, signed in as a new user.
macro_rules! client {
    ($bench:expr) => {{
        let (_, token) = $bench.user().await;
        Client {
            app: init_service(App::new().app_data($bench.api.clone()).configure(routes)).await,
            token: Some(token),
        }
    }};
}

fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

#[actix_web::test]
async fn a_task_is_made_changed_completed_deleted_and_restored() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let made = client.post("/api/v1/tasks", json!({ "title": "Buy milk" })).await;
    let task = made.ok(201);
    let id = task["id"].as_str().expect("an id").to_owned();
    let path = format!("/api/v1/tasks/{id}");
    assert_eq!(made.header("location"), path);
    let tag = made.header("etag").to_owned();
    assert!(tag.starts_with("\"2-"), "{tag}");
    assert_eq!(task["title"], "Buy milk");
    assert_eq!(task["status"], "todo");
    assert_eq!(task["version"], 2);
    assert_eq!(
        task["created_by"], task["list"],
        "it is in the inbox, whose id is the user's"
    );
    assert_eq!(Uuid::parse_str(&id).expect("a UUID").get_version_num(), 7);

    let got = client.get(&path).await;
    assert_eq!(got.ok(200), task);
    assert_eq!(got.header("etag"), tag);

    let patched = client
        .patch(
            &path,
            json!({ "title": "Buy oat milk", "due": { "all_day": "2026-12-01" } }),
        )
        .await;
    assert_eq!(patched.ok(200)["title"], "Buy oat milk");
    assert_eq!(patched.header("etag"), tag.replace("\"2-", "\"3-"));
    let cleared = client.patch(&path, json!({ "due": null })).await.ok(200);
    assert_eq!(cleared.get("due"), None);

    let done = client.ask("POST", &format!("{path}/complete")).send().await.ok(200);
    assert_eq!(done["status"], "done");
    let open = client.ask("POST", &format!("{path}/reopen")).send().await.ok(200);
    assert_eq!(open["status"], "todo");

    let deleted = client.ask("DELETE", &path).send().await;
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
    let gone = client.get(&path).await.problem(Code::RowDeleted);
    assert_eq!(gone["row"]["task"]["title"], "Buy oat milk");
    let restored = client.ask("POST", &format!("{path}/restore")).send().await.ok(200);
    assert_eq!(restored["title"], "Buy oat milk");
    assert!(client.get(&path).await.status == 200);
}

#[actix_web::test]
async fn every_field_of_a_new_task_is_taken() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let list = client
        .post("/api/v1/lists", json!({ "name": "Work", "color": "#ff8800" }))
        .await
        .ok(201);
    let label = client.post("/api/v1/labels", json!({ "name": "urgent" })).await.ok(201);
    let first = client
        .post("/api/v1/tasks", json!({ "title": "Parent", "list": list["id"] }))
        .await
        .ok(201);
    let body = json!({
        "id": uuid(7), "title": "Child", "list": list["id"], "notes": "*now*", "status": "doing", "priority": "high",
        "due": { "zoned": { "local": "2026-12-01T09:00:00", "zone": "Europe/Berlin" } }, "deadline": "2026-12-24",
        "duration_minutes": 30, "labels": [label["id"]], "parent": first["id"], "place": "first",
    });
    let task = client.post("/api/v1/tasks", body.clone()).await.ok(201);
    for (field, value) in body
        .as_object()
        .expect("a map")
        .iter()
        .filter(|(field, _)| *field != "place")
    {
        assert_eq!(&task[field], value, "{field}");
    }
    assert!(task["rank"].as_str() < first["rank"].as_str());
}

#[actix_web::test]
async fn pages_go_through_everything_shown_once_and_in_order() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let list = client.post("/api/v1/lists", json!({ "name": "Later" })).await.ok(201)["id"].clone();
    let mut expected = Vec::new();
    for n in 0..7 {
        let task = client
            .post("/api/v1/tasks", json!({ "title": format!("inbox {n}") }))
            .await
            .ok(201);
        expected.push(task["title"].clone());
    }
    for n in 0..5 {
        let body = json!({ "title": format!("later {n}"), "list": list });
        expected.push(client.post("/api/v1/tasks", body).await.ok(201)["title"].clone());
    }
    let binned = client.post("/api/v1/tasks", json!({ "title": "gone" })).await.ok(201);
    let path = format!("/api/v1/tasks/{}", binned["id"].as_str().expect("an id"));
    client.ask("DELETE", &path).send().await;

    for limit in [1, 3, 7, 12, 100] {
        let mut titles = Vec::new();
        let mut path = format!("/api/v1/tasks?limit={limit}");
        for _ in 0..20 {
            let page = client.get(&path).await.ok(200);
            let items = page["items"].as_array().expect("items");
            assert!(items.len() <= limit);
            titles.extend(items.iter().map(|task| task["title"].clone()));
            match page["next"].as_str() {
                Some(next) => path = format!("/api/v1/tasks?limit={limit}&page={next}"),
                None => break,
            }
        }
        assert_eq!(titles, expected, "{limit} a page");
    }
    let only = format!("/api/v1/tasks?list={}", list.as_str().expect("an id"));
    assert_eq!(
        client.get(&only).await.ok(200)["items"]
            .as_array()
            .expect("items")
            .len(),
        5
    );
    let done = client.get("/api/v1/tasks?status=done").await.ok(200);
    assert_eq!(done, json!({ "items": [], "next": null }));
}

/// The titles of a page.
fn titles(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().expect("items");
    items
        .iter()
        .map(|task| task["title"].as_str().expect("a title"))
        .collect()
}

#[actix_web::test]
async fn tasks_are_filtered_searched_and_sorted() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let label = client
        .post("/api/v1/labels", json!({ "name": "Zu Hause" }))
        .await
        .ok(201)["id"]
        .clone();
    for (title, notes, priority, day) in [
        ("Crème fraîche", "for the cake", "high", "2026-12-02"),
        ("Cake", "", "low", "2026-12-01"),
        ("Letters", "", "urgent", "2026-12-03"),
        ("Sleep", "", "none", ""),
    ] {
        let due = (!day.is_empty()).then(|| json!({ "all_day": day }));
        let labels = if title == "Cake" { vec![&label] } else { Vec::new() };
        let body = json!({ "title": title, "notes": notes, "priority": priority, "due": due, "labels": labels });
        client.post("/api/v1/tasks", body).await.ok(201);
    }
    for (query, expected) in [
        ("filter=priority%3E%3Dhigh", vec!["Crème fraîche", "Letters"]),
        (
            "filter=priority+%3E%3D+high+%26+due+%3C+2026-12-03",
            vec!["Crème fraîche"],
        ),
        ("filter=label:%22zu%20hause%22", vec!["Cake"]),
        ("search=CAKE", vec!["Crème fraîche", "Cake"]),
        ("search=creme&status=todo", vec!["Crème fraîche"]),
        ("search=cake&status=done", vec![]),
        ("search=%F0%9F%A6%84", vec![]),
        ("filter=STATUS+!%3D+Done+cake", vec!["Crème fraîche", "Cake"]),
        ("sort=due", vec!["Cake", "Crème fraîche", "Letters", "Sleep"]),
        (
            "sort=-priority&filter=!due:none",
            vec!["Letters", "Crème fraîche", "Cake"],
        ),
    ] {
        let page = client.get(&format!("/api/v1/tasks?{query}")).await.ok(200);
        assert_eq!(titles(&page), expected, "{query}");
        assert_eq!(page["next"], Value::Null);
    }
    let refused = client.get("/api/v1/tasks?filter=a%20%26%20pririty:high").await;
    let problem = refused.problem(Code::FilterInvalid);
    assert_eq!((&problem["field"], &problem["column"]), (&json!("filter"), &json!(5)));
    assert_eq!(
        problem["detail"],
        "column 5: there is no field \"pririty\"; did you mean priority?"
    );
    let problem = client
        .get("/api/v1/tasks?filter=!label:garden")
        .await
        .problem(Code::FilterInvalid);
    assert_eq!((&problem["field"], &problem["column"]), (&json!("filter"), &json!(2)));
}

#[actix_web::test]
async fn pages_of_what_is_found_are_linked() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    for n in 0..5 {
        client
            .post("/api/v1/tasks", json!({ "title": format!("task {n}") }))
            .await
            .ok(201);
    }
    for first in ["/api/v1/tasks?limit=2", "/api/v1/tasks?search=task&sort=-title&limit=2"] {
        let mut found = Vec::new();
        let mut path = first.to_owned();
        for _ in 0..3 {
            let answer = client.get(&path).await;
            let page = answer.ok(200);
            found.extend(titles(&page).iter().map(|title| (*title).to_owned()));
            let Some(next) = page["next"].as_str() else {
                assert!(answer.headers.get("link").is_none());
                break;
            };
            path = format!("{first}&page={next}");
            assert_eq!(answer.header("link"), format!("<{path}>; rel=\"next\""));
        }
        let mut expected: Vec<_> = (0..5).map(|n| format!("task {n}")).collect();
        if first.contains("-title") {
            expected.reverse();
        }
        assert_eq!(found, expected);
    }
    let page = client.get("/api/v1/tasks?sort=title&limit=1").await.ok(200);
    let page = page["next"].as_str().expect("more");
    for other in ["sort=-title&", "sort=due,title&", ""] {
        let path = format!("/api/v1/tasks?{other}page={page}");
        assert_eq!(
            client.get(&path).await.problem(Code::InvalidField)["field"],
            "page",
            "{other}"
        );
    }
}

#[actix_web::test]
async fn a_client_asks_for_the_fields_that_it_needs() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let task = client.post("/api/v1/tasks", json!({ "title": "one" })).await.ok(201);
    let page = client.get("/api/v1/tasks?fields=id,title").await.ok(200);
    assert_eq!(page["items"], json!([{ "id": task["id"], "title": "one" }]));
    // Every field of a task may be asked for, and nothing else.
    let all: Vec<_> = task.as_object().expect("a task").keys().cloned().collect();
    let page = client
        .get(&format!("/api/v1/tasks?sort=title&fields={}", all.join(",")))
        .await
        .ok(200);
    assert_eq!(page["items"], json!([task]));
    let problem = client
        .get("/api/v1/tasks?fields=titel")
        .await
        .problem(Code::ValueInvalid);
    assert_eq!(problem["detail"], "a task has no field \"titel\"; did you mean title?");
}

#[actix_web::test]
async fn what_a_filter_finds_at_another_time_is_not_what_the_client_has() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    client.post("/api/v1/tasks", json!({ "title": "one" })).await.ok(201);
    for (query, status) in [("filter=one", 304), ("sort=title", 304), ("filter=created%3Cnow", 200)] {
        let path = format!("/api/v1/tasks?{query}");
        let tag = client.get(&path).await.header("etag").to_owned();
        assert_eq!(
            client
                .ask("GET", &path)
                .header("if-none-match", &tag)
                .send()
                .await
                .status,
            status,
            "{query}"
        );
    }
}

#[actix_web::test]
async fn statistics_count_what_is_shown_and_what_was_done() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let (today, label) = {
        let days = client.get("/api/v1/activity").await.ok(200);
        let label = client.post("/api/v1/labels", json!({ "name": "l" })).await.ok(201)["id"].clone();
        (days["items"][29]["day"].clone(), label)
    };
    let empty = client.get("/api/v1/statistics").await.ok(200);
    assert_eq!((&empty["tasks"], &empty["completion_rate"]), (&json!(0), &Value::Null));
    let inbox = empty["by_list"][0]["list"].clone();
    for body in [
        json!({ "title": "a", "priority": "high", "due": { "all_day": today }, "labels": [label] }),
        json!({ "title": "b", "due": { "all_day": "2020-01-01" } }),
        json!({ "title": "c", "status": "done" }),
        json!({ "title": "d", "status": "cancelled" }),
    ] {
        client.post("/api/v1/tasks", body).await.ok(201);
    }
    let mut found = client.get("/api/v1/statistics").await.ok(200);
    found.as_object_mut().expect("a map").remove("seq");
    let none = json!({ "tasks": 0, "open": 0 });
    assert_eq!(
        found,
        json!({
            "time_zone": "Europe/Berlin", "tasks": 4, "open": 2, "overdue": 1, "due_today": 1,
            "by_status": { "todo": 2, "doing": 0, "done": 1, "cancelled": 1 },
            "by_priority": {
                "none": { "tasks": 3, "open": 1 }, "low": none, "medium": none, "high": { "tasks": 1, "open": 1 }, "urgent": none,
            },
            "by_list": [{ "list": inbox, "tasks": 4, "open": 2 }],
            "by_label": [{ "label": label, "tasks": 1, "open": 1 }],
            "completed_today": 1, "completed_this_week": 1, "streak_days": 1,
            "completion_rate": 1.0 / 3.0,
        })
    );
}

#[actix_web::test]
async fn an_export_is_one_document_with_everything() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let export = async || {
        let answer = client.get("/api/v1/export").await;
        assert_eq!(
            answer.header("content-disposition"),
            "attachment; filename=\"taskflow.json\""
        );
        answer.ok(200)
    };
    let empty = export().await;
    assert_eq!(
        (&empty["taskflow"], &empty["tasks"], &empty["left_out"]),
        (&json!(1), &json!([]), &json!([]))
    );
    assert_eq!(empty["lists"][0]["id"], empty["user"]);
    let mut tasks = Vec::new();
    // More than two pieces of a snapshot.
    for n in 0..5 {
        let operations: Vec<_> = (0..100)
            .map(|m| {
                let command = json!({ "task_create": { "task": Uuid::new_v4(), "title": format!("{n} {m}") } });
                json!({ "id": Uuid::new_v4(), "command": command })
            })
            .collect();
        client
            .post("/api/v1/operations", json!({ "operations": operations }))
            .await
            .ok(200);
        tasks.extend((0..100).map(|m| format!("{n} {m}")));
    }
    let gone = client.post("/api/v1/tasks", json!({ "title": "gone" })).await;
    client.ask("DELETE", gone.header("location")).send().await;
    tasks.push("gone".to_owned());
    let label = client.post("/api/v1/labels", json!({ "name": "l" })).await.ok(201);
    let found = export().await;
    let mut titles: Vec<_> = found["tasks"]
        .as_array()
        .expect("tasks")
        .iter()
        .map(|task| task["title"].clone())
        .collect();
    titles.sort_by_key(Value::to_string);
    tasks.sort_by_key(|title| json!(title).to_string());
    assert_eq!(json!(titles), json!(tasks));
    assert_eq!(found["labels"], json!([label]));
    assert_eq!(found["settings"], client.get("/api/v1/settings").await.ok(200));
}

#[actix_web::test]
async fn a_page_goes_on_where_it_was_when_its_last_task_has_gone() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    for n in 0..4 {
        client
            .post("/api/v1/tasks", json!({ "title": format!("{n}") }))
            .await
            .ok(201);
    }
    let page = client.get("/api/v1/tasks?limit=2").await.ok(200);
    let last = page["items"][1]["id"].as_str().expect("an id");
    client.ask("DELETE", &format!("/api/v1/tasks/{last}")).send().await;
    let next = format!("/api/v1/tasks?limit=2&page={}", page["next"].as_str().expect("more"));
    let rest = client.get(&next).await.ok(200);
    assert_eq!(rest["items"][0]["title"], "2");
    assert_eq!(rest["items"][1]["title"], "3");
    assert_eq!(rest["next"], Value::Null);
}

#[actix_web::test]
async fn lists_labels_and_settings_have_the_same_shape() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    for (path, body) in [
        ("/api/v1/lists", json!({ "name": "Work" })),
        ("/api/v1/labels", json!({ "name": "home" })),
    ] {
        let made = client.post(path, body).await;
        let row = made.ok(201);
        let address = made.header("location").to_owned();
        assert_eq!(address, format!("{path}/{}", row["id"].as_str().expect("an id")));
        let renamed = client.patch(&address, json!({ "name": "New" })).await.ok(200);
        assert_eq!(renamed["name"], "New");
        let items = client.get(path).await.ok(200)["items"].clone();
        assert!(items.as_array().expect("items").contains(&renamed));
        assert_eq!(client.ask("DELETE", &address).send().await.status, 204);
        client.get(&address).await.problem(Code::RowDeleted);
        let items = client.get(path).await.ok(200)["items"].clone();
        assert!(!items.to_string().contains("New"));
        client.ask("POST", &format!("{address}/restore")).send().await.ok(200);
        assert_eq!(client.get(&address).await.ok(200)["name"], "New");
    }
    let settings = client.get("/api/v1/settings").await.ok(200);
    assert_eq!(settings["time_zone"], "Europe/Berlin");
    let patched = client
        .patch("/api/v1/settings", json!({ "week_start": "sunday" }))
        .await;
    assert_eq!(patched.ok(200)["week_start"], "sunday");
}

#[actix_web::test]
async fn rows_are_moved() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let work = client.post("/api/v1/lists", json!({ "name": "Work" })).await.ok(201);
    let task = client.post("/api/v1/tasks", json!({ "title": "a" })).await.ok(201);
    let path = format!("/api/v1/tasks/{}/move", task["id"].as_str().expect("an id"));
    let moved = client
        .post(&path, json!({ "list": work["id"], "place": "first" }))
        .await
        .ok(200);
    assert_eq!(moved["list"], work["id"]);
    let home = client.post("/api/v1/lists", json!({ "name": "Home" })).await.ok(201);
    let path = format!("/api/v1/lists/{}/move", home["id"].as_str().expect("an id"));
    let moved = client
        .post(&path, json!({ "place": { "before": work["id"] } }))
        .await
        .ok(200);
    assert!(moved["rank"].as_str() < work["rank"].as_str());
}

#[actix_web::test]
async fn activity_is_counted_by_the_days_of_the_users_zone_stored_or_not() {
    let bench = ApiBench::new(Config::default());
    let mut client = client!(bench);
    let (user, _) = bench.user().await;
    let now = bench.auth.clock.now_ms();
    client.token = Some(Tokens::mint_for_operator(bench.auth.key(), user, now, 10 * 86_400));
    let day = async |path: &str, at: usize| {
        let answer = client.get(path).await.ok(200);
        let day = &answer["items"][at];
        (
            day["created"].clone(),
            day["completed"].clone(),
            day["reopened"].clone(),
        )
    };
    assert_eq!(
        client.get("/api/v1/activity").await.ok(200)["items"]
            .as_array()
            .map(Vec::len),
        Some(30)
    );
    let made = client.post("/api/v1/tasks", json!({ "title": "one" })).await;
    let path = made.header("location").to_owned();
    client.post(&format!("{path}/complete"), Value::Null).await.ok(200);
    let today = client.get("/api/v1/activity").await.ok(200)["items"][29]["day"].clone();
    assert_eq!(day("/api/v1/activity", 29).await, (json!(1), json!(1), json!(0)));
    // A quarter of an hour and a day later, when those before are stored and no longer in memory.
    let stored = async || {
        let is_stored = |head: Head| head.rows_upto == head.seq;
        while !bench.store.head(user).await.expect("a read").is_some_and(is_stored) {
            actix_rt::time::sleep(Duration::from_millis(20)).await;
        }
    };
    stored().await;
    bench.auth.clock.advance_ms(900_000);
    client.post(&format!("{path}/reopen"), Value::Null).await.ok(200);
    stored().await;
    bench.auth.clock.advance_ms(86_400_000);
    client.post("/api/v1/tasks", json!({ "title": "two" })).await.ok(201);
    let one_day = format!("/api/v1/activity?from={0}&to={0}", today.as_str().expect("a day"));
    assert_eq!(day(&one_day, 0).await, (json!(1), json!(1), json!(1)));
    assert_eq!(day("/api/v1/activity", 29).await, (json!(1), json!(0), json!(0)));
    for wrong in [
        "from=x",
        "from=2026-02-30",
        "from=2020-01-01",
        "from=2026-01-02&to=2026-01-01",
    ] {
        client
            .get(&format!("/api/v1/activity?{wrong}"))
            .await
            .problem(Code::ValueInvalid);
    }
}

#[actix_web::test]
async fn what_the_client_has_is_not_sent_again() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let made = client.post("/api/v1/tasks", json!({ "title": "one" })).await;
    let row = made.header("location").to_owned();
    let ask = async |path: &str, tags: &str| client.ask("GET", path).header("if-none-match", tags).send().await;
    let pages = [
        "/api/v1/tasks?limit=1",
        "/api/v1/lists",
        "/api/v1/labels",
        "/api/v1/settings",
        &row,
    ];
    for path in pages {
        let first = client.get(path).await;
        assert_eq!(
            (first.status, first.header("cache-control")),
            (200, "private, no-cache"),
            "{path}"
        );
        let tag = first.header("etag").to_owned();
        for has in [
            tag.clone(),
            format!("\"x\", {tag}"),
            format!("W/{tag}").replace("W/W/", ""),
            "*".to_owned(),
        ] {
            let again = ask(path, &has).await;
            assert_eq!((again.status, &*again.body), (304, &b""[..]), "{path} {has}");
            assert_eq!(again.header("etag"), tag);
        }
        for other in ["\"x\"", "", "\u{e9}"] {
            assert_eq!(ask(path, other).await.status, 200, "{path} {other:?}");
        }
    }
    let before = client.get("/api/v1/lists").await.header("etag").to_owned();
    client.post("/api/v1/tasks", json!({ "title": "two" })).await.ok(201);
    for path in ["/api/v1/tasks?limit=1", "/api/v1/lists", "/api/v1/labels"] {
        assert_eq!(ask(path, &before).await.status, 200, "{path}");
    }
    // What is not there, or not there for this one, is said first.
    let nowhere = format!("/api/v1/tasks?list={}", uuid(9));
    ask(&nowhere, "*").await.problem(Code::RowNotFound);
}

#[actix_web::test]
async fn if_match_asks_for_a_version_and_a_conflict_brings_the_present_row() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let made = client.post("/api/v1/tasks", json!({ "title": "v2" })).await;
    let path = made.header("location").to_owned();
    let patch = async |etag: &str, title: &str| {
        let body = json!({ "title": title });
        client
            .ask("PATCH", &path)
            .header("if-match", etag)
            .json(&body)
            .send()
            .await
    };
    let tag = made.header("etag");
    patch(tag, "v3").await.ok(200);
    let conflict = patch(tag, "lost").await.problem(Code::VersionConflict);
    assert_eq!(conflict["row"]["task"]["title"], "v3");
    // The version alone, and with the mark of another history.
    let conflict = patch("\"2\"", "lost").await.problem(Code::VersionConflict);
    assert_eq!(conflict["row"]["task"]["title"], "v3");
    assert_eq!(conflict["row"]["task"]["version"], 3);
    let other = "\"3-0123456789abcdef\"";
    let conflict = patch(other, "lost").await.problem(Code::VersionConflict);
    assert_eq!(conflict["row"]["task"]["title"], "v3");
    let gone = client.ask("DELETE", &path).header("if-match", other).send().await;
    gone.problem(Code::VersionConflict);
    patch("\"3\"", "v4").await.ok(200);
    patch("*", "v5").await.ok(200);
    for bad in [
        "2",
        "W/\"2\"",
        "\"x\"",
        "\"-1\"",
        "\"+1\"",
        "\"\"",
        "\"5-\"",
        "\"5-123\"",
        "\"5-+123456789abcdef\"",
        "\"99999999999999999999\"",
    ] {
        assert_eq!(
            patch(bad, "bad").await.problem(Code::InvalidField)["field"],
            "If-Match",
            "{bad}"
        );
    }
    let stale = client.ask("DELETE", &path).header("if-match", "\"2\"").send().await;
    stale.problem(Code::VersionConflict);
}

#[actix_web::test]
async fn a_patch_may_be_called_a_merge_patch_and_nothing_else_may() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let made = client.post("/api/v1/tasks", json!({ "title": "t", "deadline": "2026-12-01" }));
    let task = made.await.header("location").to_owned();
    let merge = async |method: &str, path: &str, body: Value| {
        let kind = "application/merge-patch+json";
        client.ask(method, path).raw(kind, body.to_string()).send().await
    };
    let patched = merge("PATCH", &task, json!({ "title": "u", "deadline": null }))
        .await
        .ok(200);
    assert_eq!((&patched["title"], patched.get("deadline")), (&json!("u"), None));
    let settings = merge("PATCH", "/api/v1/settings", json!({ "locale": "ja" })).await;
    assert_eq!(settings.ok(200)["locale"], "ja");
    let made = merge("POST", "/api/v1/tasks", json!({ "title": "t" })).await;
    made.problem(Code::WrongEncoding);
}

#[actix_web::test]
async fn the_same_key_makes_one_task_and_another_body_under_it_is_refused() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let key = uuid(42).to_string();
    let create = async |title: &str| {
        let ask = client.ask("POST", "/api/v1/tasks").header("idempotency-key", &key);
        ask.json(&json!({ "title": title })).send().await
    };
    let first = create("once").await.ok(201);
    assert_eq!(create("once").await.ok(201), first);
    create("twice").await.problem(Code::OperationIdReused);
    let items = client.get("/api/v1/tasks").await.ok(200)["items"].clone();
    assert_eq!(items.as_array().expect("items").len(), 1);
    let ask = client
        .ask("POST", "/api/v1/tasks")
        .header("idempotency-key", "not a uuid");
    let problem = ask
        .json(&json!({ "title": "x" }))
        .send()
        .await
        .problem(Code::InvalidField);
    assert_eq!(problem["field"], "Idempotency-Key");
    let nil = client
        .ask("POST", "/api/v1/tasks")
        .header("idempotency-key", &uuid(0).to_string());
    let problem = nil
        .json(&json!({ "title": "x" }))
        .send()
        .await
        .problem(Code::ValueInvalid);
    assert_eq!(problem["field"], "Idempotency-Key");
}

#[actix_web::test]
async fn operations_are_judged_each_on_its_own_in_both_encodings() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let task = TaskId(uuid(5));
    let body = json!({ "operations": [
        { "id": uuid(1), "command": { "task_create": { "task": task, "title": "one" } } },
        { "id": uuid(2), "command": { "task_complete": { "task": uuid(99) } } },
        { "id": uuid(3), "base": 1, "command": { "task_complete": { "task": task } } },
    ] });
    let results: Results =
        serde_json::from_value(client.post("/api/v1/operations", body.clone()).await.ok(200)).expect("results");
    let by_id = |n: u128| {
        let found = results.results.iter().find(|result| result.id.0 == uuid(n));
        &found.expect("an answer for each").outcome
    };
    assert!(matches!(by_id(1), Outcome::Accepted(accepted) if accepted.seq == 2));
    assert!(matches!(by_id(2), Outcome::Refused(error) if error.code == Code::RowNotFound));
    assert!(matches!(by_id(3), Outcome::Conflict(_)));

    let bytes = Encoding::MsgPack.encode(&body);
    let answer = client
        .ask("POST", "/api/v1/operations")
        .raw("application/msgpack", bytes)
        .send()
        .await;
    assert_eq!(answer.header("content-type"), "application/msgpack");
    let again: Results = Encoding::MsgPack.decode(&answer.body).expect("results");
    assert!(
        again
            .results
            .iter()
            .any(|result| result.id.0 == uuid(1) && matches!(result.outcome, Outcome::Accepted(_)))
    );
}

#[actix_web::test]
async fn bad_requests_for_operations_are_refused_and_a_bad_operation_alone() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let send = async |body: Value| client.post("/api/v1/operations", body).await;
    assert_eq!(
        send(json!({ "operations": [] })).await.problem(Code::InvalidField)["field"],
        "operations"
    );
    let complete = |n: u128| json!({ "id": uuid(n), "command": { "task_complete": { "task": uuid(9) } } });
    let many: Vec<Value> = (0..=OPERATIONS_A_MESSAGE_MAX as u128).map(complete).collect();
    send(json!({ "operations": many }))
        .await
        .problem(Code::TooManyOperations);
    let foreign = json!({ "feed": uuid(1), "operations": [complete(1)] });
    assert_eq!(send(foreign).await.problem(Code::FeedNotFound)["field"], "feed");
    let mixed = json!({ "operations": [{ "id": uuid(1), "command": { "task_explode": {} } }, complete(2)] });
    let answered = send(mixed).await;
    assert_eq!(answered.status, 200);
    let codes: Vec<_> = answered.json()["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|result| (result["id"].clone(), result["outcome"]["refused"]["name"].clone()))
        .collect();
    assert_eq!(codes.len(), 2);
    assert!(codes.contains(&(json!(uuid(1)), json!("invalid_field"))), "{codes:?}");
    assert!(codes.contains(&(json!(uuid(2)), json!("row_not_found"))), "{codes:?}");
    send(json!({ "operations": [{ "id": "x", "command": {} }] }))
        .await
        .problem(Code::InvalidField);
    send(json!({ "operations": [complete(1)], "extra": 1 }))
        .await
        .problem(Code::InvalidField);
}

#[actix_web::test]
async fn a_body_that_is_not_what_it_should_be_gets_its_code() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let post = async |content_type: &str, body: Vec<u8>| {
        client.ask("POST", "/api/v1/tasks").raw(content_type, body).send().await
    };
    let json = "application/json";
    post(json, b"{\"title\"".to_vec()).await.problem(Code::Malformed);
    post(json, b"".to_vec()).await.problem(Code::Malformed);
    post(json, b"{\"title\":\"a\"} x".to_vec())
        .await
        .problem(Code::Malformed);
    post(json, b"{\"title\":\"\xff\xfe\"}".to_vec())
        .await
        .problem(Code::InvalidUtf8);
    post(json, "[".repeat(10_000).into_bytes())
        .await
        .problem(Code::Malformed);
    post(json, b"[]".to_vec()).await.problem(Code::InvalidField);
    post("text/plain", b"{}".to_vec()).await.problem(Code::WrongEncoding);
    let twice = client.ask("POST", "/api/v1/tasks").json(&json!({ "title": "a" }));
    let twice = twice
        .more("content-type", "text/plain")
        .send()
        .await
        .problem(Code::InvalidField);
    assert_eq!(twice["field"], "Content-Type");
    post("", b"{}".to_vec()).await.problem(Code::WrongEncoding);
    post("application/msgpack", b"\xc1".to_vec())
        .await
        .problem(Code::Malformed);
    assert_eq!(
        post("application/JSON; charset=utf-8", b"{\"title\":\"a\"}".to_vec())
            .await
            .status,
        201
    );
    let msgpack = Encoding::MsgPack.encode(&json!({ "title": "b" }));
    assert_eq!(post("application/msgpack", msgpack).await.status, 201);
    post(json, vec![b' '; MESSAGE_BYTES_MAX + 1])
        .await
        .problem(Code::TooLarge);
    let declared = client
        .ask("POST", "/api/v1/tasks")
        .raw(json, "{}")
        .header("content-length", "999999999");
    declared.send().await.problem(Code::TooLarge);
}

#[actix_web::test]
async fn what_a_feed_refuses_comes_with_the_feeds_code() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let create = async |body: Value| client.post("/api/v1/tasks", body).await;
    create(json!({ "title": "" })).await.problem(Code::ValueInvalid);
    create(json!({ "title": "x".repeat(2_001) }))
        .await
        .problem(Code::ValueTooLong);
    create(json!({ "title": "x", "list": uuid(9) }))
        .await
        .problem(Code::RowNotFound);
    create(json!({ "title": "x", "deadline": "soon" }))
        .await
        .problem(Code::ValueInvalid);
    let task = create(json!({ "title": "x", "id": uuid(1) })).await.ok(201);
    let taken = create(json!({ "title": "y", "id": uuid(1) }))
        .await
        .problem(Code::IdTaken);
    assert_eq!(taken["field"], "id");
    let path = format!("/api/v1/tasks/{}", task["id"].as_str().expect("an id"));
    let own_parent = json!({ "parent": task["id"] });
    client
        .post(&format!("{path}/move"), own_parent)
        .await
        .problem(Code::ParentCycle);
    client
        .patch(&path, json!({ "rank": "a" }))
        .await
        .problem(Code::ValueInvalid);
    client.ask("DELETE", &path).send().await;
    let gone = client
        .patch(&path, json!({ "title": "z" }))
        .await
        .problem(Code::RowDeleted);
    assert_eq!(
        (&gone["field"], &gone["row"]["task"]["id"]),
        (&json!("id"), &task["id"])
    );
    assert!(gone["row"]["task"]["deleted_at"].is_i64(), "{gone}");
    let gone = client
        .post(&format!("{path}/complete"), json!({}))
        .await
        .problem(Code::RowDeleted);
    assert_eq!(gone["row"]["task"]["id"], task["id"]);
    let inbox = format!("/api/v1/lists/{}", task["list"].as_str().expect("an id"));
    client.ask("DELETE", &inbox).send().await.problem(Code::InboxFixed);
    let archived = client.post("/api/v1/lists", json!({ "name": "Old" })).await.ok(201);
    let list = format!("/api/v1/lists/{}", archived["id"].as_str().expect("an id"));
    client.patch(&list, json!({ "archived": true })).await.ok(200);
    create(json!({ "title": "x", "list": archived["id"] }))
        .await
        .problem(Code::ListArchived);
}

#[actix_web::test]
async fn what_is_not_there_is_not_found() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    for kind in ["tasks", "lists", "labels"] {
        client
            .get(&format!("/api/v1/{kind}/{}", uuid(9)))
            .await
            .problem(Code::RowNotFound);
        client
            .get(&format!("/api/v1/{kind}/not-an-id"))
            .await
            .problem(Code::RowNotFound);
        let patch = client.patch(&format!("/api/v1/{kind}/{}", uuid(9)), json!({})).await;
        patch.problem(Code::RowNotFound);
    }
    client
        .get(&format!("/api/v1/tasks?list={}", uuid(9)))
        .await
        .problem(Code::RowNotFound);
    for path in [
        "/",
        "/api",
        "/api/v1",
        "/api/v1/",
        "/api/v1/tasks/",
        "/api/v2/tasks",
        "/api/v1/tasks/a/b/c",
        "/%00",
    ] {
        client.get(path).await.problem(Code::NotFound);
    }
}

#[actix_web::test]
async fn every_address_says_which_methods_it_takes() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    for (path, methods) in ROUTES {
        let path = path.replace("{id}", &uuid(1).to_string());
        let head = methods.contains(&"GET").then_some("HEAD");
        let taken: Vec<&str> = methods.iter().copied().chain(head).collect();
        for method in ["PUT", "TRACE", "OPTIONS", "BREW"] {
            let answer = client.ask(method, &path).send().await;
            answer.problem(Code::MethodNotAllowed);
            assert_eq!(answer.header("allow"), taken.join(", "), "{path}");
        }
        let answer = client.ask("HEAD", &path).send().await;
        assert_eq!(answer.body, b"", "{path}");
        assert_eq!(answer.status == 405, head.is_none(), "{path}");
    }
}

#[actix_web::test]
async fn a_field_that_is_wrong_missing_or_unknown_is_named_as_it_is_in_operations() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let task = client.post("/api/v1/tasks", json!({ "title": "t" })).await.ok(201);
    let path = format!("/api/v1/tasks/{}", task["id"].as_str().expect("an id"));
    for (method, at, body, field) in [
        ("POST", "/api/v1/tasks", json!({}), "title"),
        ("POST", "/api/v1/tasks", json!({ "title": 7 }), "title"),
        (
            "POST",
            "/api/v1/tasks",
            json!({ "title": "x", "priority": "hgih" }),
            "priority",
        ),
        ("POST", "/api/v1/tasks", json!({ "title": "x", "titel": "y" }), "titel"),
        (
            "POST",
            "/api/v1/tasks",
            json!({ "title": "x", "labels": [7] }),
            "labels[0]",
        ),
        (
            "POST",
            "/api/v1/tokens",
            json!({ "name": "x", "scopes": ["tasks:read"] }),
            "expires_in_days",
        ),
        (
            "POST",
            "/api/v1/auth/login",
            json!({ "email": "a@example.org" }),
            "password",
        ),
        ("PATCH", &path, json!({ "titel": "x" }), "titel"),
        ("PATCH", "/api/v1/settings", json!({ "zone": "UTC" }), "zone"),
    ] {
        let problem = client
            .ask(method, at)
            .json(&body)
            .send()
            .await
            .problem(Code::InvalidField);
        assert_eq!(problem["field"], field, "{method} {at} {body}: {problem}");
    }
    for (body, field, detail) in [
        (
            json!({ "list": uuid(9).to_string() }),
            "list",
            "a patch moves no task; POST /api/v1/tasks/{id}/move does",
        ),
        (
            json!({ "parent": null }),
            "parent",
            "a patch moves no task; POST /api/v1/tasks/{id}/move does",
        ),
        (
            json!({ "completed_at": 1 }),
            "completed_at",
            "it follows from `status`; leave it out",
        ),
        (
            json!({ "deleted_at": 1 }),
            "deleted_at",
            "a patch cannot set it; use DELETE, or POST /api/v1/tasks/{id}/restore",
        ),
        (
            task.clone(),
            "created_at",
            "a patch cannot set it; send only what changes of title, notes, status, priority, due, deadline, \
             duration_minutes and labels",
        ),
    ] {
        let problem = client.ask("PATCH", &path).json(&body).send().await.json();
        assert_eq!(
            (&problem["field"], &problem["detail"]),
            (&json!(field), &json!(detail)),
            "{body}"
        );
    }
}

#[actix_web::test]
async fn parameters_are_checked() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    for (query, code, field) in [
        ("tasks?limit=0", Code::ValueInvalid, "limit"),
        ("tasks?limit=501", Code::ValueInvalid, "limit"),
        ("tasks?page=x", Code::InvalidField, "page"),
        ("tasks?sort=title&page=x", Code::InvalidField, "page"),
        ("tasks?sort=prio", Code::ValueInvalid, "sort"),
        ("tasks?fields=", Code::ValueInvalid, "fields"),
        (
            &format!("tasks?search={}", "x".repeat(501)),
            Code::ValueTooLong,
            "search",
        ),
        (
            &format!("tasks?search={}", "a+".repeat(21)),
            Code::ValueTooLong,
            "search",
        ),
        ("tasks?filter=", Code::FilterInvalid, "filter"),
        ("changes?limit=0", Code::ValueInvalid, "limit"),
        ("changes?cursor=x", Code::CursorInvalid, "cursor"),
        ("events?cursor=x", Code::CursorInvalid, "cursor"),
    ] {
        let problem = client.get(&format!("/api/v1/{query}")).await.problem(code);
        assert_eq!(problem["field"], field, "{query}");
    }
    for (query, field, detail) in [
        ("tasks?limit=x", "limit", "it must be a whole number"),
        ("changes?wait=-1", "wait", "it must be a whole number"),
        ("events?statistics=yes", "statistics", "it must be true or false"),
        (
            "tasks?status=never",
            "status",
            "it must be one of todo, doing, done, cancelled",
        ),
        ("tasks?list=x", "list", "it must be a UUID as a hyphenated string"),
        (
            "tasks?list=x&limit=1",
            "list",
            "it must be a UUID as a hyphenated string",
        ),
        ("tasks?limit=1&limit=2", "limit", "it is there twice"),
        (
            "tasks?filtr=x",
            "filtr",
            "there is no such parameter here; did you mean filter?",
        ),
        (
            "activity?zone=UTC",
            "zone",
            "there is no such parameter here; there are from, to",
        ),
        (
            "lists?x=1",
            "x",
            "there is no such parameter here; this address takes none",
        ),
    ] {
        let answer = client.get(&format!("/api/v1/{query}")).await;
        let problem = answer.problem(Code::InvalidField);
        assert_eq!(
            (&problem["field"], &problem["detail"]),
            (&json!(field), &json!(detail)),
            "{query}"
        );
    }
    for (query, field) in [
        ("search=%FF", "search"),
        ("limit=1&filter=a%E2%82&sort=due", "filter"),
        ("%FF=1", "%FF"),
    ] {
        let problem = client
            .get(&format!("/api/v1/tasks?{query}"))
            .await
            .problem(Code::InvalidUtf8);
        assert_eq!(problem["field"], field, "{query}");
    }
    // The sign that others put for what is none is as good as any.
    client.get("/api/v1/tasks?search=%EF%BF%BD").await.ok(200);
}

#[actix_web::test]
async fn nothing_is_shown_without_a_good_token() {
    let bench = ApiBench::new(Config::default());
    let mut client = client!(bench);
    let good = client.token.take().expect("a token");
    // The last one asks for a password.
    const PUBLIC: [&str; 12] = [
        "/api/v1/auth/forgot",
        "/api/v1/auth/reset",
        "/api/v1/auth/verify",
        "/api/v1/auth/email",
        "/api/v1/auth/delete",
        "/api/v1/auth/restore",
        "/.well-known/jwks.json",
        "/openapi.json",
        "/api/v1/auth/login",
        "/api/v1/auth/register",
        "/api/v1/auth/refresh",
        "/api/v1/auth/password",
    ];
    for (path, methods) in ROUTES.iter().filter(|(path, _)| !PUBLIC.contains(path)) {
        let path = path.replace("{id}", &uuid(1).to_string());
        for method in *methods {
            let answer = client.ask(method, &path).send().await;
            answer.problem(Code::TokenMissing);
            assert_eq!(answer.header("www-authenticate"), "Bearer", "{method} {path}");
            assert_eq!(answer.header("x-content-type-options"), "nosniff");
            assert_eq!(answer.header("referrer-policy"), "no-referrer");
            assert!(
                answer
                    .header("content-security-policy")
                    .contains("frame-ancestors 'none'")
            );
        }
    }
    let with = async |value: String| {
        client
            .ask("GET", "/api/v1/lists")
            .header("authorization", &value)
            .send()
            .await
    };
    with("Basic YTpi".to_owned()).await.problem(Code::TokenMissing);
    with("Bearer".to_owned()).await.problem(Code::TokenInvalid);
    with("Bearer x".to_owned()).await.problem(Code::TokenInvalid);
    with(format!("Bearer {}", "x".repeat(5_000)))
        .await
        .problem(Code::TokenInvalid);
    assert_eq!(with(format!("bearer  {good}")).await.status, 200);
    // A token in the address would be in every log on the way.
    client
        .get(&format!("/api/v1/events?access_token={good}"))
        .await
        .problem(Code::TokenMissing);
    bench.auth.clock.advance_ms(3_700_000);
    let expired = with(format!("Bearer {good}")).await;
    expired.problem(Code::TokenExpired);
    assert_eq!(expired.header("www-authenticate"), "Bearer error=\"invalid_token\"");
}

#[actix_web::test]
async fn someone_registers_signs_in_refreshes_and_signs_out() {
    let bench = ApiBench::new(Config::default());
    let mut client = client!(bench);
    client.token = None;
    let credentials = json!({ "email": "ann@example.org", "password": "correct horse" });
    let with_zone = json!({
        "email": "ann@example.org", "password": "correct horse", "time_zone": "Asia/Tokyo", "locale": "ja",
    });
    let registered = client.post("/api/v1/auth/register", with_zone).await;
    assert_eq!(registered.header("cache-control"), "no-store");
    let registered = registered.ok(201);
    assert_eq!(registered["expires_in"], 900);
    assert_eq!(registered["token_type"], "Bearer");
    client
        .post("/api/v1/auth/register", credentials.clone())
        .await
        .problem(Code::EmailTaken);

    let opened = client.post("/api/v1/auth/login", credentials).await.ok(200);
    assert_eq!(opened["user"], registered["user"]);
    client.token = opened["access_token"].as_str().map(str::to_owned);
    assert_eq!(client.get("/api/v1/settings").await.ok(200)["time_zone"], "Asia/Tokyo");
    client.post("/api/v1/tasks", json!({ "title": "a" })).await.ok(201);

    let body = json!({ "refresh_token": opened["refresh_token"] });
    let refreshed = client.post("/api/v1/auth/refresh", body).await.ok(200);
    assert_eq!(client.ask("POST", "/api/v1/auth/logout").send().await.status, 204);
    client.get("/api/v1/settings").await.problem(Code::SignedOut);
    client.token = refreshed["access_token"].as_str().map(str::to_owned);
    client.get("/api/v1/settings").await.problem(Code::SignedOut);
    let body = json!({ "refresh_token": refreshed["refresh_token"] });
    client.post("/api/v1/auth/refresh", body).await.problem(Code::SignedOut);
    // The other sign-in, from registering, goes on; and it can be ended by its refresh token alone.
    client.token = registered["access_token"].as_str().map(str::to_owned);
    client.get("/api/v1/settings").await.ok(200);
    let token = client.token.take();
    let body = json!({ "refresh_token": registered["refresh_token"] });
    assert_eq!(client.post("/api/v1/auth/logout", body).await.status, 204);
    client.token = token;
    client.get("/api/v1/settings").await.problem(Code::SignedOut);
}

#[actix_web::test]
async fn sign_in_says_what_is_wrong_and_not_more() {
    let bench = ApiBench::new(Config::default());
    let mut client = client!(bench);
    let operator = client.token.take();
    let register = async |email: &str, password: &str| {
        client
            .post("/api/v1/auth/register", json!({ "email": email, "password": password }))
            .await
    };
    register("ann", "correct horse").await.problem(Code::EmailInvalid);
    register("ann@example.org", "short")
        .await
        .problem(Code::PasswordInvalid);
    register("ann@example.org", "correct horse").await.ok(201);
    let zone = json!({ "email": "bob@example.org", "password": "correct horse", "time_zone": "Mars/Base" });
    let problem = client
        .post("/api/v1/auth/register", zone)
        .await
        .problem(Code::ValueInvalid);
    assert_eq!(problem["field"], "time_zone");
    // It has made nothing that would be in the way of the next try.
    register("bob@example.org", "correct horse").await.ok(201);
    let login = async |email: &str, password: &str| {
        let ask = client
            .ask("POST", "/api/v1/auth/login")
            .header("x-request-id", "the-same");
        ask.json(&json!({ "email": email, "password": password })).send().await
    };
    let wrong = login("ann@example.org", "wrong horse")
        .await
        .problem(Code::CredentialsWrong);
    let unknown = login("eve@example.org", "wrong horse")
        .await
        .problem(Code::CredentialsWrong);
    assert_eq!(wrong, unknown, "the answer does not say whether the account exists");
    let refresh = json!({ "refresh_token": "x" });
    client
        .post("/api/v1/auth/refresh", refresh.clone())
        .await
        .problem(Code::TokenInvalid);
    client
        .post("/api/v1/auth/logout", refresh)
        .await
        .problem(Code::TokenInvalid);
    client
        .ask("POST", "/api/v1/auth/logout")
        .send()
        .await
        .problem(Code::TokenMissing);
    client
        .post("/api/v1/auth/login", json!({ "email": "a@b" }))
        .await
        .problem(Code::InvalidField);
    bench.auth.accounts.fail(Some(AccountError::Full));
    register("new@example.org", "correct horse")
        .await
        .problem(Code::StoreFull);
    bench
        .auth
        .accounts
        .fail(Some(AccountError::Unavailable("planted".to_owned())));
    login("ann@example.org", "correct horse")
        .await
        .problem(Code::StoreUnavailable);
    bench.auth.accounts.fail(None);
    client.token = operator;
    // A token that the operator minted belongs to no sign-in that could be ended.
    client
        .ask("POST", "/api/v1/auth/logout")
        .send()
        .await
        .problem(Code::TokenInvalid);
}

#[actix_web::test]
async fn a_registration_that_was_cut_short_is_made_up_for_at_the_next_sign_in() {
    let bench = ApiBench::new(Config::default());
    let mut client = client!(bench);
    client.token = None;
    // The account is there, the feed is not: the server died in between.
    let sign_ins = bench.auth.sign_ins();
    sign_ins
        .register("ann@example.org", "correct horse".to_owned())
        .await
        .expect("an account");
    let credentials = json!({ "email": "ann@example.org", "password": "correct horse" });
    let opened = client.post("/api/v1/auth/login", credentials).await.ok(200);
    client.token = opened["access_token"].as_str().map(str::to_owned);
    client.post("/api/v1/tasks", json!({ "title": "a" })).await.ok(201);
}

#[actix_web::test]
async fn a_user_of_the_operators_gets_a_feed_at_the_first_request() {
    let bench = ApiBench::new(Config::default());
    let mut client = client!(bench);
    for (n, path) in ["tasks", "lists", "settings", "snapshot", "changes"].iter().enumerate() {
        let user = UserId(uuid(100 + n as u128));
        client.token = Some(Tokens::mint_for_operator(
            bench.auth.key(),
            user,
            bench.auth.clock.now_ms(),
            60,
        ));
        assert_eq!(client.get(&format!("/api/v1/{path}")).await.status, 200, "{path}");
    }
    client.token = Some(Tokens::mint_for_operator(
        bench.auth.key(),
        UserId(uuid(99)),
        bench.auth.clock.now_ms(),
        60,
    ));
    let made = client.post("/api/v1/tasks", json!({ "title": "a" })).await.ok(201);
    assert_eq!(made["version"], 2);
}

#[actix_web::test]
async fn a_closed_server_takes_no_new_accounts() {
    let bench = ApiBench::new(Config {
        registration: Registration::Closed,
        ..Config::default()
    });
    let client = client!(bench);
    let credentials = json!({ "email": "ann@example.org", "password": "correct horse" });
    let problem = client
        .post("/api/v1/auth/register", credentials)
        .await
        .problem(Code::RegistrationClosed);
    assert_eq!(problem["status"], 403);
}

#[actix_web::test]
async fn where_letters_are_needed_and_none_go_out_nobody_waits_for_one() {
    let config = Config {
        registration: Registration::Verified,
        ..Config::default()
    };
    let bench = ApiBench::new(config);
    let mut client = client!(bench);
    client.token = None;
    let body = json!({ "email": "ada@example.org", "password": "correct horse" });
    let answer = client.ask("POST", "/api/v1/auth/register").json(&body).send().await;
    answer.problem(Code::NoLetters);
    let forgot = json!({ "email": "ada@example.org" });
    let answer = client.ask("POST", "/api/v1/auth/forgot").json(&forgot).send().await;
    answer.problem(Code::NoLetters);
}

#[actix_web::test]
async fn the_key_set_is_what_the_tokens_are_signed_with() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let keys = client.get("/.well-known/jwks.json").await.ok(200);
    let jwk = serde_json::from_value(keys["keys"][0].clone()).expect("a key");
    let key = jsonwebtoken::DecodingKey::from_jwk(&jwk).expect("an Ed25519 key");
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::EdDSA);
    validation.validate_exp = false;
    validation.set_audience(&["taskflow"]);
    let token = client.token.as_deref().expect("a token");
    let decoded = jsonwebtoken::decode::<Value>(token, &key, &validation).expect("anyone can check it");
    assert_eq!(decoded.header.kid, jwk.common.key_id);
    assert_eq!(decoded.claims["iss"], "taskflow");
}

#[actix_web::test]
async fn pages_of_other_origins_are_refused_unless_allowed() {
    let bench = ApiBench::new(Config {
        origins_allowed: Origins(vec!["https://app.example".to_owned()]),
        ..Config::default()
    });
    let client = client!(bench);
    let from = |origin: &str| {
        let ask = client.ask("GET", "/api/v1/lists").header("host", "tasks.example");
        ask.header("origin", origin)
    };
    from("https://evil.example").send().await.problem(Code::OriginRefused);
    from("null").send().await.problem(Code::OriginRefused);
    let own = from("https://tasks.example").send().await;
    assert_eq!(own.status, 200);
    let allowed = from("https://app.example").send().await;
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example");
    assert_eq!(allowed.header("vary"), "Origin");
    assert_eq!(
        allowed.header("access-control-expose-headers"),
        "Deprecation, ETag, Link, Location, Preference-Applied, RateLimit, RateLimit-Policy, Retry-After, Sunset, X-Request-Id"
    );
    let preflight = client
        .ask("OPTIONS", "/api/v1/tasks")
        .header("origin", "https://app.example");
    let preflight = preflight.header("access-control-request-method", "POST").send().await;
    assert_eq!(preflight.status, 204);
    assert_eq!(
        preflight.header("access-control-allow-methods"),
        "GET, POST, PATCH, DELETE"
    );
    let refused = client
        .ask("OPTIONS", "/api/v1/tasks")
        .header("origin", "https://evil.example");
    refused
        .header("access-control-request-method", "POST")
        .send()
        .await
        .problem(Code::OriginRefused);
}

#[actix_web::test]
async fn a_store_that_fails_is_told_with_the_operation_to_repeat() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    bench.store.fail_next([Failure::Full]);
    let full = client.post("/api/v1/tasks", json!({ "title": "a" })).await;
    full.problem(Code::StoreFull);
    assert_eq!(full.header("retry-after"), "5");
    // Written, but the answer was lost: the feed finds out by itself.
    bench.store.fail_next([Failure::AnswerLost]);
    client.post("/api/v1/tasks", json!({ "title": "b" })).await.ok(201);
}

#[actix_web::test]
async fn more_sign_ins_than_can_wait_are_told_to_come_back() {
    let bench = ApiBench::new(Config {
        sign_in_attempts_max: 0,
        ..Config::default()
    });
    let client = client!(bench);
    let login = async || {
        let credentials = json!({ "email": "nobody@example.org", "password": "correct horse" });
        client.post("/api/v1/auth/login", credentials).await
    };
    let mut answers: FuturesUnordered<_> = (0..140).map(|_| login()).collect();
    let busy = loop {
        let answer = answers.next().await.expect("140 at once are too many");
        if answer.status == 503 {
            break answer;
        }
    };
    busy.problem(Code::SignInBusy);
    assert_eq!(busy.header("retry-after"), "1");
    // The others hang up, and their places in the queue are free.
    drop(answers);
    login().await.problem(Code::CredentialsWrong);
}

#[actix_web::test]
async fn nobody_is_sent_past_an_entry_that_does_not_decode() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let user = UserId(uuid(50));
    bench
        .api
        .router
        .birth(user, "UTC".to_owned(), "en".to_owned())
        .await
        .expect("born");
    let token = Tokens::mint_for_operator(bench.auth.key(), user, bench.auth.clock.now_ms(), 60);
    let client = Client {
        token: Some(token),
        ..client
    };
    let cursor = snapshot_cursor(&client).await;
    damage(&bench, user).await;
    for path in ["changes", "events"] {
        client
            .get(&format!("/api/v1/{path}?cursor={cursor}"))
            .await
            .problem(Code::FeedDamaged);
    }
    client
        .get(&format!("/api/v1/changes?cursor={cursor}&wait=30"))
        .await
        .problem(Code::FeedDamaged);
    client.get("/api/v1/snapshot").await.problem(Code::FeedDamaged);
    client.get("/api/v1/events").await.problem(Code::FeedDamaged);
    assert_eq!(bench.api.seats.open(), 0);
}

#[actix_web::test]
async fn a_full_server_takes_no_more_streams() {
    let bench = ApiBench::new(Config {
        connections_max: 1,
        ..Config::default()
    });
    let client = client!(bench);
    let ask = client.ask("GET", "/api/v1/events");
    let first = call_service(&client.app, ask.request.to_request()).await;
    assert_eq!(first.status(), 200);
    let full = client.get("/api/v1/events").await;
    full.problem(Code::ServerBusy);
    assert_eq!(full.header("retry-after"), "1");
}

#[actix_web::test]
async fn changes_bring_what_came_after_the_cursor() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let none = client.get("/api/v1/changes").await.ok(200);
    assert_eq!(none["following"]["mode"], "reset");
    assert_eq!(none["following"]["reason"], "no_cursor");
    assert_eq!(none["following"]["head"], 1);
    assert_eq!(none["snapshot"], "/api/v1/snapshot");
    assert_eq!((&none["entries"], &none["more"]), (&json!([]), &json!(false)));
    assert_eq!(none.get("cursor"), None);

    let snapshot = client.get("/api/v1/snapshot").await;
    assert_eq!(snapshot.header("content-type"), "application/x-ndjson");
    let lines = lines(&snapshot);
    let done = &lines.last().expect("a piece")["snapshot"]["done"];
    assert_eq!(done["rows"], 2, "the settings and the inbox");
    let cursor = done["cursor"].as_str().expect("a cursor").to_owned();
    let after = async |cursor: &str, more: &str| {
        client
            .get(&format!("/api/v1/changes?cursor={cursor}{more}"))
            .await
            .ok(200)
    };
    let quiet = after(&cursor, "").await;
    assert_eq!(quiet["following"]["mode"], "up_to_date");
    assert_eq!(quiet["cursor"], cursor);

    for n in 0..5 {
        client
            .post("/api/v1/tasks", json!({ "title": format!("{n}") }))
            .await
            .ok(201);
    }
    let mut seqs = Vec::new();
    let mut position = cursor.clone();
    for more in [true, true, false] {
        let page = after(&position, "&limit=2").await;
        assert_eq!(page["following"]["mode"], "entries");
        assert_eq!(page["more"], more);
        seqs.extend(
            page["entries"]
                .as_array()
                .expect("entries")
                .iter()
                .map(|entry| entry["seq"].clone()),
        );
        position = page["cursor"].as_str().expect("a cursor").to_owned();
    }
    assert_eq!(seqs, [2, 3, 4, 5, 6]);
    assert_eq!(after(&position, "").await["following"]["mode"], "up_to_date");

    let ahead = format!("{}{:016x}", &cursor[..16], 99);
    assert_eq!(after(&ahead, "").await["following"]["reason"], "cursor_ahead");
    let elsewhere = format!("{:016x}{}", 1, &cursor[16..]);
    assert_eq!(
        after(&elsewhere, "&wait=30").await["following"]["reason"],
        "epoch_changed"
    );
}

#[actix_web::test]
async fn a_long_poll_answers_with_the_next_change_or_when_its_time_is_over() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let cursor = snapshot_cursor(&client).await;
    let path = format!("/api/v1/changes?cursor={cursor}&wait=30");
    let (answer, made) = tokio::join!(client.get(&path), async {
        // Not before the other one waits.
        while bench.api.seats.open() == 0 {
            actix_rt::task::yield_now().await;
        }
        client.post("/api/v1/tasks", json!({ "title": "a" })).await
    });
    made.ok(201);
    let answer = answer.ok(200);
    assert_eq!(answer["entries"][0]["seq"], 2);
    assert_eq!(answer["more"], false);

    let cursor = answer["cursor"].as_str().expect("a cursor");
    let path = format!("/api/v1/changes?cursor={cursor}&wait=1");
    let quiet = client.get(&path).await.ok(200);
    assert_eq!(quiet["following"]["mode"], "up_to_date");
    assert_eq!(quiet["cursor"], cursor);

    let longer = client.get(&format!("/api/v1/changes?cursor={cursor}&wait=56")).await;
    assert_eq!(longer.problem(Code::ValueInvalid)["field"], "wait");

    let path = format!("/api/v1/changes?cursor={cursor}&wait=55");
    let (answer, ()) = tokio::join!(client.get(&path), async {
        while bench.api.seats.open() == 0 {
            actix_rt::task::yield_now().await;
        }
        bench.leave();
    });
    assert_eq!(
        answer.ok(200)["following"]["mode"],
        "up_to_date",
        "a server that stops lets nobody wait"
    );
    assert_eq!(bench.api.seats.open(), 0);
}

#[actix_web::test]
async fn a_look_waits_for_a_cursor_only_so_long() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let ahead = Cursor {
        seq: 9,
        ..Cursor::parse(&snapshot_cursor(&client).await).expect("a cursor")
    };
    let path = format!("/api/v1/lists?wait_for={}", ahead.text());
    tokio::time::pause();
    let late = client.get(&path).await;
    tokio::time::resume();
    let late = late.ok(400);
    assert_eq!(
        (&late["name"], &late["field"]),
        (&json!("cursor_invalid"), &json!("wait_for"))
    );
    assert!(
        late["detail"]
            .as_str()
            .is_some_and(|why| why.contains("has not come as far")),
        "{late}"
    );

    let (answer, ()) = tokio::join!(client.get(&path), async {
        while bench.api.seats.open() == 0 {
            actix_rt::task::yield_now().await;
        }
        bench.leave();
    });
    assert_eq!(answer.ok(503)["name"], "shutting_down");
    assert_eq!(bench.api.seats.open(), 0);
}

#[actix_web::test]
async fn who_is_signed_out_while_he_waits_for_a_cursor_sees_nothing() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let next = Cursor {
        seq: 2,
        ..Cursor::parse(&snapshot_cursor(&client).await).expect("a cursor")
    };
    let token = client.token.as_deref().expect("a token");
    let claims = bench.api.tokens.verify(token).await.expect("it is good");
    let path = format!("/api/v1/lists?wait_for={}", next.text());
    let (answer, made) = tokio::join!(client.get(&path), async {
        while bench.api.seats.open() == 0 {
            actix_rt::task::yield_now().await;
        }
        let made = client.post("/api/v1/tasks", json!({ "title": "a" })).await;
        let (user, sign_in) = (claims.user, claims.sign_in);
        bench.api.tokens.end(SignedOut { user, sign_in });
        made
    });
    made.ok(201);
    assert_eq!(answer.ok(401)["name"], "signed_out");
}

#[actix_web::test]
async fn one_user_may_wait_only_so_often() {
    let bench = ApiBench::new(Config {
        connections_a_user_max: 1,
        ..Config::default()
    });
    let client = client!(bench);
    let cursor = snapshot_cursor(&client).await;
    let events = call_service(
        &client.app,
        client
            .ask("GET", &format!("/api/v1/events?cursor={cursor}"))
            .request
            .to_request(),
    );
    let events = events.await;
    assert_eq!(events.status(), 200);
    client
        .get(&format!("/api/v1/changes?cursor={cursor}&wait=30"))
        .await
        .problem(Code::TooManyConnections);
    client.get("/api/v1/events").await.problem(Code::TooManyConnections);
    drop(events);
    let quiet = client.get(&format!("/api/v1/changes?cursor={cursor}&wait=1")).await;
    assert_eq!(quiet.status, 200, "the seat is free again");
}

#[actix_web::test]
async fn a_snapshot_has_everything_also_what_is_in_the_bin() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let operations: Vec<Value> = (0..90)
        .map(|n: u128| {
            json!({ "id": uuid(1_000 + n), "command": { "task_create": { "task": uuid(n + 1), "title": format!("{n}") } } })
        })
        .collect();
    for round in 0..5 {
        let operations: Vec<Value> = operations
            .iter()
            .enumerate()
            .map(|(n, operation)| {
                let mut operation = operation.clone();
                operation["id"] = json!(uuid(10_000 * (round + 1) + n as u128));
                operation["command"]["task_create"]["task"] = json!(uuid(1_000_000 * (round + 1) + n as u128));
                operation
            })
            .collect();
        client
            .post("/api/v1/operations", json!({ "operations": operations }))
            .await
            .ok(200);
    }
    let binned = format!("/api/v1/tasks/{}", uuid(1_000_000));
    assert_eq!(client.ask("DELETE", &binned).send().await.status, 204);
    let snapshot = client.get("/api/v1/snapshot").await;
    assert_eq!(snapshot.status, 200);
    let pieces = lines(&snapshot);
    assert!(pieces.len() >= 3, "{} pieces", pieces.len());
    let mut tasks = BTreeSet::new();
    for (n, piece) in pieces.iter().enumerate() {
        let piece = &piece["snapshot"];
        assert_eq!(piece["piece"], n);
        assert_eq!(piece["seq"], 452);
        assert_eq!(piece.get("done").is_some(), n + 1 == pieces.len());
        assert_eq!(piece.get("settings").is_some(), n == 0);
        for task in piece["tasks"].as_array().into_iter().flatten() {
            assert!(tasks.insert(task["id"].to_string()), "twice");
        }
    }
    assert_eq!(tasks.len(), 450);
    assert_eq!(pieces.last().expect("a piece")["snapshot"]["done"]["rows"], 452);
}

#[actix_web::test]
async fn an_event_stream_begins_with_the_snapshot_and_goes_on_live() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let ask = client.ask("GET", "/api/v1/events");
    let response = call_service(&client.app, ask.request.to_request()).await;
    assert_eq!(response.status(), 200);
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-store"),
        ("x-accel-buffering", "no"),
    ] {
        assert_eq!(response.headers().get(name).expect("set"), value);
    }
    let mut stream = Stream::new(response);
    let reset = stream.event().await;
    assert_eq!((reset.name.as_str(), reset.id.as_deref()), ("reset", None));
    assert_eq!(reset.data["reason"], "no_cursor");
    let snapshot = stream.event().await;
    assert_eq!(snapshot.name, "snapshot");
    assert_eq!(snapshot.id.as_deref(), snapshot.data["done"]["cursor"].as_str());
    let cursor = snapshot.id.expect("the last piece has the cursor");

    client.post("/api/v1/tasks", json!({ "title": "a" })).await.ok(201);
    let entries = stream.event().await;
    assert_eq!(entries.name, "entries");
    assert_eq!(entries.data["entries"][0]["seq"], 2);
    assert_eq!(entries.id.as_deref(), entries.data["cursor"].as_str());
    drop(stream);

    // Cut, and back with the id of the last event that arrived: what was missed comes first.
    client.post("/api/v1/tasks", json!({ "title": "b" })).await.ok(201);
    let ask = client.ask("GET", "/api/v1/events?cursor=00000000000000000000000000000000");
    let ask = ask.header("last-event-id", &cursor);
    let mut stream = Stream::new(call_service(&client.app, ask.request.to_request()).await);
    let missed = stream.event().await;
    assert_eq!(missed.name, "entries");
    let seqs: Vec<_> = missed.data["entries"]
        .as_array()
        .expect("entries")
        .iter()
        .map(|entry| &entry["seq"])
        .collect();
    assert_eq!(seqs, [2, 3]);
    // A stale stream resets by itself.
    let ask = client.ask("GET", &format!("/api/v1/events?cursor={}{:016x}", &cursor[..16], 99));
    let mut stale = Stream::new(call_service(&client.app, ask.request.to_request()).await);
    assert_eq!(stale.event().await.data["reason"], "cursor_ahead");
}

#[actix_web::test]
async fn an_event_stream_says_that_what_is_shown_may_be_old() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let cursor = snapshot_cursor(&client).await;
    let ask = || {
        client
            .ask("GET", &format!("/api/v1/events?cursor={cursor}"))
            .request
            .to_request()
    };
    let mut stream = Stream::new(call_service(&client.app, ask()).await);
    let since = bench.auth.clock.now_ms() - 3_000;
    bench.hub.stale(Some(Duration::from_secs(3)));
    let mut late = Stream::new(call_service(&client.app, ask()).await);
    for stream in [&mut stream, &mut late] {
        let beat = in_time(stream.event()).await;
        assert_eq!((beat.name.as_str(), beat.id), ("heartbeat", None));
        let told = beat.data["stale_since"].as_i64().expect("a time");
        assert!((since - 1_000..=since).contains(&told), "{told} is not {since}");
    }
    bench.hub.stale(None);
    for stream in [&mut stream, &mut late] {
        let beat = in_time(stream.event()).await;
        assert_eq!((beat.name.as_str(), beat.data), ("heartbeat", json!({})));
    }
}

#[actix_web::test]
async fn an_event_stream_brings_statistics_to_who_asks() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let cursor = snapshot_cursor(&client).await;
    let open = |more: &str| {
        client
            .ask("GET", &format!("/api/v1/events?cursor={cursor}{more}"))
            .request
            .to_request()
    };
    let mut stream = Stream::new(call_service(&client.app, open("&statistics=true")).await);
    let mut other = Stream::new(call_service(&client.app, open("")).await);
    let first = in_time(stream.event()).await;
    assert_eq!(
        (first.name.as_str(), &first.data["open"], first.id),
        ("statistics", &json!(0), None)
    );
    for n in 0..3 {
        client
            .post("/api/v1/tasks", json!({ "title": format!("{n}") }))
            .await
            .ok(201);
    }
    // However many changes there were, it ends with all of them counted.
    let (mut entries, mut open) = (0, json!(0));
    while entries < 3 || open != 3 {
        let event = in_time(stream.event()).await;
        match event.name.as_str() {
            "entries" => entries += event.data["entries"].as_array().expect("entries").len(),
            "statistics" => open = event.data["open"].clone(),
            name => panic!("{name}"),
        }
    }
    let mut entries = 0;
    while entries < 3 {
        let event = in_time(other.event()).await;
        assert_eq!(event.name, "entries");
        entries += event.data["entries"].as_array().expect("entries").len();
    }
}

#[actix_web::test]
async fn a_long_poll_reads_the_log_where_nothing_comes_by_itself() {
    let bench = ApiBench::new(Config::default());
    for noticed_before in [false, true] {
        bench.hub.stale(noticed_before.then_some(Duration::ZERO));
        let (user, token) = bench.user().await;
        let client = Client {
            token: Some(token),
            ..client!(bench)
        };
        let cursor = snapshot_cursor(&client).await;
        let path = format!("/api/v1/changes?cursor={cursor}&wait=50");
        let (answer, ()) = tokio::join!(in_time(client.get(&path)), async {
            while bench.api.seats.open() == 0 {
                actix_rt::task::yield_now().await;
            }
            // Nobody tells of it.
            damage(&bench, user).await;
            if !noticed_before {
                bench.hub.stale(Some(Duration::ZERO));
            }
        });
        answer.problem(Code::FeedDamaged);
    }
}

#[actix_web::test]
async fn an_event_stream_ends_with_its_sign_in_and_with_the_server() {
    let bench = ApiBench::new(Config::default());
    let mut client = client!(bench);
    let credentials = json!({ "email": "ann@example.org", "password": "correct horse" });
    let opened = client.post("/api/v1/auth/register", credentials).await.ok(201);
    let operator = client.token.take();
    client.token = opened["access_token"].as_str().map(str::to_owned);
    let cursor = snapshot_cursor(&client).await;
    let events = format!("/api/v1/events?cursor={cursor}");
    let mut stream = Stream::new(call_service(&client.app, client.ask("GET", &events).request.to_request()).await);
    let (last, out) = tokio::join!(stream.event(), client.ask("POST", "/api/v1/auth/logout").send());
    assert_eq!(out.status, 204);
    assert_eq!(last.name, "reconnect");
    assert_eq!(last.data["code"], Code::SignedOut as u16);
    assert!(stream.is_over().await);

    client.token = operator;
    let cursor = snapshot_cursor(&client).await;
    let events = format!("/api/v1/events?cursor={cursor}");
    let mut stream = Stream::new(call_service(&client.app, client.ask("GET", &events).request.to_request()).await);
    bench.leave();
    let last = stream.event().await;
    assert_eq!(
        (last.name.as_str(), &last.data["code"]),
        ("reconnect", &json!(Code::ShuttingDown as u16))
    );
    assert!(stream.is_over().await);
    client.get(&events).await.problem(Code::ShuttingDown);
}

#[actix_web::test]
async fn an_event_stream_ends_when_its_token_expires() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let cursor = snapshot_cursor(&client).await;
    let events = format!("/api/v1/events?cursor={cursor}");
    let response = call_service(&client.app, client.ask("GET", &events).request.to_request()).await;
    bench.auth.clock.advance_ms(3_600_000);
    let mut stream = Stream::new(response);
    let last = stream.event().await;
    assert_eq!(
        (last.name.as_str(), &last.data["code"]),
        ("reconnect", &json!(Code::TokenExpired as u16))
    );
    assert!(stream.is_over().await);
}

#[actix_web::test]
async fn the_description_names_every_address_method_and_code() {
    let bench = ApiBench::new(Config::default());
    let client = client!(bench);
    let openapi = client.get("/openapi.json").await.ok(200);
    assert_eq!(openapi["openapi"], "3.1.0");
    let described: BTreeSet<(String, String)> = openapi["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().expect("methods").keys();
            methods
                .filter(|key| *key != "parameters")
                .map(|method| (path.clone(), method.to_uppercase()))
        })
        .collect();
    let routed: BTreeSet<(String, String)> = ROUTES
        .iter()
        .flat_map(|(path, methods)| methods.iter().map(|method| ((*path).to_owned(), (*method).to_owned())))
        .collect();
    assert_eq!(described, routed);
    let name = &openapi["components"]["schemas"]["Problem"]["properties"]["name"];
    let names = name["enum"].as_array().expect("names");
    let names: BTreeSet<&str> = names.iter().filter_map(Value::as_str).collect();
    let codes: BTreeSet<&str> = Code::ALL.iter().map(|code| code.name()).collect();
    assert_eq!(names, codes);
    let meanings = Code::ALL.iter().map(|code| {
        let (number, status) = (*code as u16, code.http_status());
        let meaning = format!("{number}, HTTP {status}: {}", code.sentence());
        (code.name().to_owned(), Value::from(meaning))
    });
    assert_eq!(name["x-enumDescriptions"], Value::Object(meanings.collect()));
    // Each operation has a name of its own, for those who generate a client.
    let operations: Vec<&Value> = openapi["paths"]
        .as_object()
        .expect("paths")
        .values()
        .flat_map(|item| item.as_object().expect("methods"))
        .filter(|(key, _)| *key != "parameters")
        .map(|(_, operation)| &operation["operationId"])
        .collect();
    let named: BTreeSet<&str> = operations.iter().filter_map(|name| name.as_str()).collect();
    assert_eq!(named.len(), operations.len());
    // Every reference leads somewhere.
    let text = openapi.to_string();
    for reference in text.split("\"#/").skip(1) {
        let pointer = format!("/{}", reference.split('"').next().expect("an end"));
        assert!(openapi.pointer(&pointer).is_some(), "{pointer}");
    }
}

/// An operation of the description.
struct Described<'d> {
    name: &'d str,
    method: String,
    path: &'d str,
    parameters: Vec<&'d Value>,
    operation: &'d Value,
}

impl Described<'_> {
    /// The address with the parameters' examples in it.
    fn address(&self) -> String {
        let (mut path, mut query) = (self.path.to_owned(), String::new());
        for parameter in &self.parameters {
            let Some(example) = parameter.get("example") else {
                continue;
            };
            let example = example.as_str().map_or_else(|| example.to_string(), str::to_owned);
            let name = parameter["name"].as_str().expect("a name");
            if parameter["in"] == "path" {
                path = path.replace(&format!("{{{name}}}"), &example);
            } else {
                let encoded: String = example.bytes().map(|byte| format!("%{byte:02X}")).collect();
                query.push_str(&format!("{}{name}={encoded}", if query.is_empty() { '?' } else { '&' }));
            }
        }
        path + &query
    }

    /// What is shown of the bodies to send.
    fn bodies(&self) -> Vec<&Value> {
        examples(&self.operation["requestBody"]["content"]["application/json"])
    }

    /// The status of the answer when all goes well, and what is shown of its body. Where a letter may come in between (202), as
    /// when none does.
    fn success(&self) -> (&str, Vec<&Value>) {
        let responses = self.operation["responses"].as_object().expect("responses");
        let successes = responses.iter().filter(|(status, _)| status.starts_with('2'));
        let success = successes.min_by_key(|(status, _)| *status == "202");
        let (status, response) = success.expect("it may go well");
        let content = response["content"].as_object();
        (
            status,
            content
                .into_iter()
                .flat_map(|media| media.values().flat_map(examples))
                .collect(),
        )
    }
}

fn examples(media: &Value) -> Vec<&Value> {
    let examples = media["examples"].as_object();
    let examples = examples.into_iter().flat_map(|examples| examples.values());
    examples.map(|example| &example["value"]).collect()
}

/// What a reference leads to; what is none, as it is.
fn followed<'d>(openapi: &'d Value, value: &'d Value) -> &'d Value {
    match &value["$ref"] {
        Value::String(reference) => openapi.pointer(&reference[1..]).expect("it leads somewhere"),
        _ => value,
    }
}

fn described(openapi: &Value) -> Vec<Described<'_>> {
    let mut all = Vec::new();
    for (path, item) in openapi["paths"].as_object().expect("paths") {
        let methods = item.as_object().expect("methods").iter();
        for (method, operation) in methods.filter(|(key, _)| *key != "parameters") {
            let parameters = [&item["parameters"], &operation["parameters"]];
            let parameters = parameters.into_iter().filter_map(Value::as_array).flatten();
            all.push(Described {
                name: operation["operationId"].as_str().expect("a name"),
                method: method.to_uppercase(),
                path,
                parameters: parameters.map(|parameter| followed(openapi, parameter)).collect(),
                operation,
            });
        }
    }
    all
}

#[test]
fn every_operation_is_in_a_group_and_shows_what_to_send_and_what_comes_back() {
    let openapi: Value = serde_json::from_str(include_str!("openapi.json")).expect("JSON");
    let groups = openapi["tags"].as_array().expect("groups");
    let groups: Vec<&Value> = groups.iter().map(|group| &group["name"]).collect();
    for described in described(&openapi) {
        let name = described.name;
        let tags = described.operation["tags"].as_array();
        assert!(
            tags.is_some_and(|tags| tags.len() == 1 && groups.contains(&&tags[0])),
            "{name}"
        );
        let has_body = described.operation.get("requestBody").is_some();
        assert!(!has_body || !described.bodies().is_empty(), "{name}");
        let (status, shown) = described.success();
        // The document is its own example.
        assert!(
            ["202", "204"].contains(&status) || name == "getOpenapi" || !shown.is_empty(),
            "{name}"
        );
    }
}

/// Every operation, in an order in which each finds what its examples are about.
const STORIES: [&str; 2] = [
    "register createList createLabel createTask listTasks getTask getSnapshot exportAll completeTask getActivity
     getStatistics reopenTask moveTask deleteTask restoreTask updateTask listLists getList moveList deleteList restoreList
     updateList listLabels getLabel deleteLabel restoreLabel updateLabel getSettings updateSettings submitOperations
     makeToken listTokens getKeys signIn listSessions readHistory deleteAccount keepAccount changePassword",
    "register changeEmail signOut",
];

/// These ask for what the server made (a token, a link, a session, a cursor), or do not end.
const UNTOLD: [&str; 9] = [
    "forgotPassword",
    "resetPassword",
    "verifyAddress",
    "refreshTokens",
    "endSession",
    "endToken",
    "getChanges",
    "streamEvents",
    "getOpenapi",
];

#[actix_web::test]
async fn the_examples_of_the_description_are_answered_as_it_shows() {
    let openapi: Value = serde_json::from_str(include_str!("openapi.json")).expect("JSON");
    let all = described(&openapi);
    let mut untold: BTreeSet<&str> = all.iter().map(|described| described.name).collect();
    for story in STORIES {
        let bench = ApiBench::new(Config::default());
        let mut client = client!(bench);
        client.token = None;
        for name in story.split_whitespace() {
            let described = all.iter().find(|described| described.name == name);
            let described = described.unwrap_or_else(|| panic!("{name} is not described"));
            let (status, shown) = described.success();
            let path = described.address();
            let mut bodies: Vec<Option<&Value>> = described.bodies().into_iter().map(Some).collect();
            if bodies.is_empty() {
                bodies.push(None);
            }
            for (index, body) in bodies.into_iter().enumerate() {
                let ask = client.ask(&described.method, &path);
                let answer = match body {
                    Some(body) => ask.json(body),
                    None => ask,
                };
                let answer = answer.send().await;
                let text = String::from_utf8_lossy(&answer.body);
                assert_eq!(answer.status.to_string(), status, "{name}: {text}");
                // What is shown is the answer to the first.
                if index > 0 || text.is_empty() || answer.header("content-type") != "application/json" {
                    continue;
                }
                let seen = answer.json();
                assert!(is_like(shown[0], &seen), "{name}: {seen} is not like {}", shown[0]);
                if let Some(token) = seen["access_token"].as_str() {
                    client.token = Some(token.to_owned());
                }
            }
            untold.remove(name);
        }
    }
    assert_eq!(untold, BTreeSet::from(UNTOLD));
}

/// Whether both have the same fields with values of the same kinds. Of a list the first item stands for all.
fn is_like(shown: &Value, seen: &Value) -> bool {
    match (shown, seen) {
        (Value::Object(shown), Value::Object(seen)) => {
            shown.len() == seen.len()
                && shown
                    .iter()
                    .all(|(name, value)| seen.get(name).is_some_and(|other| is_like(value, other)))
        }
        (Value::Array(shown), Value::Array(seen)) => match (&**shown, &**seen) {
            ([shown, ..], [seen, ..]) => is_like(shown, seen),
            (shown, seen) => shown.len() == seen.len(),
        },
        _ => std::mem::discriminant(shown) == std::mem::discriminant(seen),
    }
}

async fn snapshot_cursor<S, B>(client: &Client<S>) -> String
where
    S: Service<Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    let snapshot = client.get("/api/v1/snapshot").await;
    let pieces = lines(&snapshot);
    let cursor = &pieces.last().expect("a piece")["snapshot"]["done"]["cursor"];
    cursor.as_str().expect("a cursor").to_owned()
}

fn lines(answer: &Answer) -> Vec<Value> {
    let text = std::str::from_utf8(&answer.body).expect("UTF-8");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// An event.
struct Event {
    name: String,
    id: Option<String>,
    data: Value,
}

/// An event stream as a client reads it.
struct Stream {
    body: std::pin::Pin<Box<dyn MessageBody<Error = Box<dyn std::error::Error>>>>,
    text: String,
}

impl Stream {
    fn new<B: MessageBody + 'static>(response: ServiceResponse<B>) -> Self {
        let body: BoxBody = response.into_body().boxed();
        Self {
            body: Box::pin(body),
            text: String::new(),
        }
    }

    async fn chunk(&mut self) -> Option<actix_web::web::Bytes> {
        let next = std::future::poll_fn(|cx| self.body.as_mut().poll_next(cx)).await;
        next.map(|chunk| chunk.expect("a stream does not fail"))
    }

    async fn event(&mut self) -> Event {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| {
                    let line = block
                        .lines()
                        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                    line.map(str::to_owned)
                };
                let Some(name) = field("event") else {
                    continue;
                };
                return Event {
                    name,
                    id: field("id"),
                    data: serde_json::from_str(&field("data").expect("data")).expect("JSON"),
                };
            }
            let chunk = self.chunk().await.expect("the stream goes on");
            self.text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }

    async fn is_over(&mut self) -> bool {
        self.text.is_empty() && self.chunk().await.is_none()
    }
}
