//! Rows over REST: what tasks, lists, labels and settings have in common.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use serde::Serialize;
use taskflow_actors::domain::{Change, Entry, Label, List, Settings, State, Task};
use taskflow_actors::ports::{Epoch, RowKey, RowKind};
use taskflow_actors::supervisor::Committed;
use taskflow_protocol::message::{Accepted, Command, Row};
use taskflow_protocol::values::Seq;
use taskflow_protocol::{Code, Encoding, LabelId, ListId, OperationId, TaskId, UserId};

use crate::http::problem::Problem;
use crate::http::request::Had;
use crate::http::{Api, operations, request};

/// Names a row of a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// A task.
    Task(TaskId),
    /// A list.
    List(ListId),
    /// A label.
    Label(LabelId),
    /// The settings.
    Settings,
}

/// A row, shared with the feed's memory: it is written down on the thread that answers, not on the feed's.
#[derive(Clone, Debug)]
pub enum Found {
    /// A task.
    Task(Arc<Task>),
    /// A list.
    List(Arc<List>),
    /// A label.
    Label(Arc<Label>),
    /// The settings.
    Settings(Box<Settings>),
}

impl Found {
    fn look(state: &State, name: Name) -> Option<Self> {
        match name {
            Name::Task(id) => state.task(id).cloned().map(Self::Task),
            Name::List(id) => state.list(id).cloned().map(Self::List),
            Name::Label(id) => state.label(id).cloned().map(Self::Label),
            Name::Settings => Some(Self::Settings(Box::new(state.settings().clone()))),
        }
    }

    fn version(&self) -> Seq {
        match self {
            Self::Task(row) => row.version,
            Self::List(row) => row.version,
            Self::Label(row) => row.version,
            Self::Settings(row) => row.version,
        }
    }

    fn wire(&self) -> Row {
        match self {
            Self::Task(row) => Row::Task(row.to_wire()),
            Self::List(row) => Row::List(row.to_wire()),
            Self::Label(row) => Row::Label(row.to_wire()),
            Self::Settings(row) => Row::Settings(row.to_wire()),
        }
    }

    fn json(&self) -> Vec<u8> {
        match self {
            Self::Task(row) => Encoding::Json.encode(&row.to_wire()),
            Self::List(row) => Encoding::Json.encode(&row.to_wire()),
            Self::Label(row) => Encoding::Json.encode(&row.to_wire()),
            Self::Settings(row) => Encoding::Json.encode(&row.to_wire()),
        }
    }
}

fn answer(status: StatusCode, tag: &str, json: Vec<u8>) -> HttpResponse {
    tagged(status, tag).body(json)
}

/// Tells one history of one feed from all others, in tags: versions and entries have the same numbers in each, and whoever asks
/// with the tag of another user's row, as caches do for those who share them, must not hear that it is still good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u64);

impl Mark {
    /// The epoch is random: with the id folded into it, it stays so.
    fn new(feed: UserId, epoch: Epoch) -> Self {
        let (high, low) = feed.0.as_u64_pair();
        Self(epoch.0 ^ high ^ low)
    }

    fn of(state: &State) -> Self {
        Self::new(state.user(), state.epoch())
    }

    /// Sixteen digits.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| u64::from_str_radix(text, 16).ok().map(Self))?
    }

    /// The tag of a row of this version.
    fn tag(self, version: Seq) -> String {
        format!("\"{version}-{:016x}\"", self.0)
    }
}

/// An answer in JSON with its tag. It is the user's own, and is asked for again each time it is used.
fn tagged(status: StatusCode, tag: &str) -> HttpResponseBuilder {
    let tag = HeaderValue::from_str(tag).expect("digits, letters and quotes");
    let mut response = HttpResponse::build(status);
    response
        .insert_header((header::CONTENT_TYPE, HeaderValue::from_static("application/json")))
        .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache")))
        .insert_header((header::ETAG, tag));
    response
}

/// Several rows, as they are in one state of the feed.
pub enum Several<T> {
    /// The client has them already.
    Had(String),
    /// The tag of the state, and what was looked for.
    Found(String, T),
}

impl<T> Several<T> {
    /// Looks, unless the client has seen this very state. Another build may write the same rows otherwise.
    pub fn look(state: &State, had: &Had, look: impl FnOnce() -> T) -> Self {
        let Mark(mark) = Mark::of(state);
        let tag = format!("W/\"{}-{mark:016x}-{}\"", state.seq(), env!("CARGO_PKG_VERSION"));
        if had.has(&tag) {
            Self::Had(tag)
        } else {
            Self::Found(tag, look())
        }
    }

    /// The answer: 304, or what was found, written down.
    pub fn answer<D: Serialize>(self, write: impl FnOnce(T) -> D) -> HttpResponse {
        match self {
            // With the headers that choose among what is kept: a cache takes them from here, too.
            Self::Had(tag) => tagged(StatusCode::NOT_MODIFIED, &tag)
                .insert_header((header::VARY, HeaderValue::from_static("Accept-Encoding")))
                .finish(),
            Self::Found(tag, found) => tagged(StatusCode::OK, &tag).body(Encoding::Json.encode(&write(found))),
        }
    }
}

/// A row, and whether it is shown.
fn shown(state: &State, name: Name) -> Result<(Found, bool), Code> {
    let found = Found::look(state, name).ok_or_else(|| missing(state, name))?;
    let shown = match &found {
        Found::Task(task) => state.is_shown(task),
        Found::List(list) => !list.is_deleted(),
        Found::Label(label) => !label.is_deleted(),
        Found::Settings(_) => true,
    };
    Ok((found, shown))
}

/// Why there is no such row.
fn missing(state: &State, name: Name) -> Code {
    let (kind, id) = match name {
        Name::Task(id) => (RowKind::Task, id.0),
        Name::List(id) => (RowKind::List, id.0),
        Name::Label(id) => (RowKind::Label, id.0),
        Name::Settings => return Code::Internal,
    };
    let key = RowKey {
        kind,
        id: id.into_bytes(),
    };
    if state.left_out().contains(&key) {
        Code::RowDamaged
    } else {
        Code::RowNotFound
    }
}

/// `GET` of one row. What is in the bin is gone (410), and comes along all the same, so that it can be restored.
pub async fn get(api: &Api, http: &HttpRequest, user: UserId, name: Name) -> Result<HttpResponse, Problem> {
    let look = move |state: &State| shown(state, name).map(|(found, shown)| (found, shown, Mark::of(state)));
    match operations::view(&api.router, user, look).await? {
        Ok((found, true, mark)) => {
            let tag = mark.tag(found.version());
            if Had::of(http).has(&tag) {
                return Ok(tagged(StatusCode::NOT_MODIFIED, &tag).finish());
            }
            Ok(answer(StatusCode::OK, &tag, found.json()))
        }
        Ok((found, false, _)) => Err(Problem::new(Code::RowDeleted).row(found.wire())),
        Err(missing) => Err(missing.into()),
    }
}

/// Submits a command about a row and waits until it is durable. A refusal names the row as address and body do, and brings
/// along what is in the bin.
async fn submit(
    api: &Api,
    user: UserId,
    operation: OperationId,
    base: Option<Seq>,
    name: Name,
    command: Command,
) -> Result<(Accepted, Option<Committed>), Problem> {
    let mut problem = match operations::submit_one(api, user, operation, base, command).await {
        Ok(accepted) => return Ok(accepted),
        Err(problem) => problem,
    };
    let in_commands = match name {
        Name::Task(_) => Some("task"),
        Name::List(_) => Some("list"),
        Name::Label(_) => Some("label"),
        Name::Settings => None,
    };
    if in_commands.is_some() && problem.named() == in_commands {
        problem = problem.field("id");
    }
    if problem.code() == Code::RowDeleted
        && let Ok(Ok((found, false))) = operations::view(&api.router, user, move |state| shown(state, name)).await
    {
        problem = problem.row(found.wire());
    }
    Err(problem)
}

/// Submits a command, waits until it is durable, and answers with the row.
pub async fn change(
    api: &Api,
    http: &HttpRequest,
    user: UserId,
    name: Name,
    command: Command,
) -> Result<HttpResponse, Problem> {
    let base = base(api, http, user, name).await?;
    let id = operations::operation_id(api, http)?;
    let (accepted, committed) = submit(api, user, id, base, name, command).await?;
    if request::prefers_minimal(http) {
        // Of an operation that was done before nobody knows here which version it made.
        let committed = committed.filter(|all| all.entries.iter().any(|entry| entry.seq == accepted.seq));
        let tag = committed.map(|all| Mark::new(user, all.epoch).tag(accepted.seq));
        return Ok(minimal(StatusCode::NO_CONTENT, tag));
    }
    changed(api, user, name, StatusCode::OK).await
}

/// The version that the row must still have. What has the mark of another history is none of it.
async fn base(api: &Api, http: &HttpRequest, user: UserId, name: Name) -> Result<Option<Seq>, Problem> {
    let Some((version, mark)) = request::base(http)? else {
        return Ok(None);
    };
    if let Some(mark) = mark {
        let look = move |state: &State| (Mark::of(state) != mark).then(|| Found::look(state, name))?;
        if let Some(other) = operations::view(&api.router, user, look).await? {
            return Err(Problem::new(Code::VersionConflict).row(other.wire()));
        }
    }
    Ok(Some(version))
}

/// An answer without the row.
fn minimal(status: StatusCode, tag: Option<String>) -> HttpResponse {
    let mut response = HttpResponse::build(status);
    response.insert_header(("preference-applied", "return=minimal"));
    if let Some(tag) = tag {
        response.insert_header((header::ETAG, tag));
    }
    response.finish()
}

/// As [`change`], for a deletion: there is nothing to answer.
pub async fn delete(
    api: &Api,
    http: &HttpRequest,
    user: UserId,
    name: Name,
    command: Command,
) -> Result<HttpResponse, Problem> {
    let base = base(api, http, user, name).await?;
    let id = operations::operation_id(api, http)?;
    submit(api, user, id, base, name, command).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// As [`change`], for a new row: 201, with its address.
pub async fn create(
    api: &Api,
    http: &HttpRequest,
    user: UserId,
    operation: OperationId,
    name: Name,
    command: Command,
) -> Result<HttpResponse, Problem> {
    let base = request::base(http)?.map(|(version, _)| version);
    let (accepted, committed) = submit(api, user, operation, base, name, command).await?;
    let made = committed.and_then(|all| {
        let json = made(&all.entries, accepted.seq, name)?;
        Some((Mark::new(user, all.epoch).tag(accepted.seq), json))
    });
    let mut response = match made {
        Some((tag, _)) if request::prefers_minimal(http) => minimal(StatusCode::CREATED, Some(tag)),
        Some((tag, json)) => answer(StatusCode::CREATED, &tag, json),
        // The same operation again: its entry is history, the row is as it is now.
        None => changed(api, user, name, StatusCode::CREATED).await?,
    };
    let location = match name {
        Name::Task(id) => format!("/api/v1/tasks/{id}"),
        Name::List(id) => format!("/api/v1/lists/{id}"),
        Name::Label(id) => format!("/api/v1/labels/{id}"),
        Name::Settings => "/api/v1/settings".to_owned(),
    };
    let location = HeaderValue::from_str(&location).expect("ids are ASCII");
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// The row that an entry made, from the entry itself: without a look at the feed, which would cost a second way there
/// and back.
fn made(entries: &[Entry], seq: Seq, name: Name) -> Option<Vec<u8>> {
    let entry = entries.iter().find(|entry| entry.seq == seq)?;
    entry.changes.iter().find_map(|change| match (change, name) {
        (Change::TaskPut(put), Name::Task(id)) if put.task.id == id => Some(Encoding::Json.encode(&put.task.to_wire())),
        (Change::ListPut(list), Name::List(id)) if list.id == id => Some(Encoding::Json.encode(&list.to_wire())),
        (Change::LabelPut(label), Name::Label(id)) if label.id == id => Some(Encoding::Json.encode(&label.to_wire())),
        _ => None,
    })
}

/// The row after a change that was accepted.
async fn changed(api: &Api, user: UserId, name: Name, status: StatusCode) -> Result<HttpResponse, Problem> {
    let look = move |state: &State| Some((Found::look(state, name)?, Mark::of(state)));
    let (found, mark) = operations::view(&api.router, user, look).await?.ok_or(Code::Internal)?;
    Ok(answer(status, &mark.tag(found.version()), found.json()))
}
