//! What users do.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use taskflow_protocol::codes::{Action, Code};
use taskflow_protocol::message::{Command, TaskRef};
use taskflow_protocol::values::Seq;
use taskflow_protocol::{OperationId, TaskId};
use uuid::Uuid;

use super::scenario::Act;
use super::screen::acknowledged;
use super::tally::{Count, Timed};
use super::world::World;
use crate::net::http::Answer;
use crate::server::taskflow::{create, rename, task_id};

/// Titles begin with these, and searches look for them.
const WORDS: [&str; 12] = [
    "call", "buy", "write", "read", "repair", "plan", "water", "invite", "answer", "book", "clean", "return",
];
/// Before a request is sent again, if the server does not say.
const RETRY: Duration = Duration::from_millis(250);

/// Does what is due, and waits for nothing.
pub fn begin(world: &Rc<World>, act: Act, due_ns: u64) {
    let user = world.below(world.feeds.len());
    match act {
        Act::Create => write(world, user, due_ns, None),
        Act::Edit => match world.task_of(user) {
            Some(task) => write(world, user, due_ns, Some((task, rename(task, title(world))))),
            None => write(world, user, due_ns, None),
        },
        Act::Complete => match world.take_task_of(user) {
            Some(task) => write(
                world,
                user,
                due_ns,
                Some((task, Command::TaskComplete(TaskRef { task }))),
            ),
            None => write(world, user, due_ns, None),
        },
        Act::Reconnect => {
            let screen = world.below(world.screens.len());
            world.screens[screen].drop_connection(due_ns);
        }
        Act::CreateByRest => spawn(create_by_rest(world.clone(), user, due_ns)),
        Act::Page => spawn(read(world.clone(), user, "/api/v1/tasks?limit=50".to_owned(), due_ns)),
        Act::Search => {
            let word = WORDS[world.below(WORDS.len())];
            let path = format!("/api/v1/tasks?limit=50&search={word}");
            spawn(read(world.clone(), user, path, due_ns));
        }
        Act::SignIn => spawn(sign_in(world.clone(), due_ns)),
    }
}

fn spawn(run: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(run);
}

/// Never the same again: an edit that changes nothing would leave the row as it is, and look as if it were gone.
fn title(world: &World) -> String {
    format!("{} no. {}", WORDS[world.below(WORDS.len())], world.next_number())
}

fn write(world: &World, user: usize, due_ns: u64, change: Option<(TaskId, Command)>) {
    let (task, command) = change.unwrap_or_else(|| {
        let task = task_id();
        (task, create(task, title(world), String::new()))
    });
    world.screen_of(user).change(world, task, command, due_ns);
}

/// Until it is acknowledged, or refused for good, or all is over: always under the same id.
async fn create_by_rest(world: Rc<World>, user: usize, due_ns: u64) {
    let (operation, task) = (OperationId(Uuid::now_v7()), task_id());
    world.count(Count::Changes);
    world.feeds[user].borrow_mut().begin(operation, task, due_ns);
    let body = json!({"id": task, "title": title(&world)}).to_string();
    let headers = format!("Idempotency-Key: {}\r\n", operation.0);
    world.under_way.set(world.under_way.get() + 1);
    while !world.is_over.get() {
        let token = Some(world.plan.users[user].token.as_str());
        let answer = world.request("POST", "/api/v1/tasks", token, &headers, &body).await;
        if let Ok(answer) = &answer
            && answer.status == 201
            && let Some(seq) = version(answer)
        {
            acknowledged(&world, user, operation, seq);
            world.remember(user, task);
            world.time(Timed::Rest, due_ns);
            world.under_way.set(world.under_way.get() - 1);
            return;
        }
        let Some(wait) = failed(&world, answer) else {
            world.count(Count::Refused);
            world.under_way.set(world.under_way.get() - 1);
            return;
        };
        world.count(Count::Retried);
        tokio::time::sleep(wait).await;
    }
}

/// The version of the row in an answer: the entry that made it.
fn version(answer: &Answer) -> Option<Seq> {
    let row: Value = serde_json::from_slice(&answer.body).ok()?;
    row["version"].as_u64()
}

async fn read(world: Rc<World>, user: usize, path: String, due_ns: u64) {
    let token = Some(world.plan.users[user].token.as_str());
    match world.request("GET", &path, token, "", "").await {
        Ok(answer) if answer.status == 200 => {
            world.count(Count::Reads);
            world.time(Timed::Read, due_ns);
        }
        answer => drop(failed(&world, answer)),
    }
}

async fn sign_in(world: Rc<World>, due_ns: u64) {
    let account = &world.plan.accounts[world.below(world.plan.accounts.len())];
    let body = json!({"email": account.email, "password": account.password}).to_string();
    match world.request("POST", "/api/v1/auth/login", None, "", &body).await {
        Ok(answer) if answer.status == 200 => {
            world.count(Count::SignIns);
            world.time(Timed::SignIn, due_ns);
        }
        answer => drop(failed(&world, answer)),
    }
}

/// Counts a request that failed: when to send it again, if that makes sense.
fn failed(world: &World, answer: io::Result<Answer>) -> Option<Duration> {
    let answer = match answer {
        Err(error) => {
            world.count(Count::Failed);
            world.error(world.target.sentence(&error));
            return Some(RETRY);
        }
        Ok(answer) => answer,
    };
    let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let name = problem["name"].as_str().unwrap_or("no reason");
    let code = problem["code"]
        .as_u64()
        .and_then(|number| u16::try_from(number).ok())
        .and_then(Code::from_number);
    match answer.status {
        429 => {
            world.count(Count::Limited);
            world.error(format!(
                "The server has a limit (429 {name}): see the limits in docs/operations.md."
            ));
        }
        status => {
            world.count(Count::Failed);
            world.error(format!("The server answered {status} {name}."));
        }
    }
    let is_for_now = match code {
        Some(code) => matches!(code.action(), Action::Retry | Action::Reconnect),
        // Of a proxy.
        None => answer.status >= 500 || answer.status == 429,
    };
    let wait = problem["retry_after_ms"].as_u64().map_or(RETRY, Duration::from_millis);
    is_for_now.then_some(wait)
}
