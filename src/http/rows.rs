//! Rows over REST: what tasks, lists, labels and settings have in common.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use serde::Serialize;
use taskflow_actors::domain::{Change, Entry, Label, List, Settings, State, Task};
use taskflow_actors::ports::{RowKey, RowKind};
use taskflow_protocol::message::{Command, Row};
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

    /// The row itself, with its version as `ETag`.
    fn answer(&self, status: StatusCode) -> HttpResponse {
        answer(status, self.version(), self.json())
    }
}

fn answer(status: StatusCode, version: Seq, json: Vec<u8>) -> HttpResponse {
    tagged(status, &tag_of(version)).body(json)
}

fn tag_of(version: Seq) -> String {
    format!("\"{version}\"")
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
        let tag = format!("W/\"{}-{}\"", state.seq(), env!("CARGO_PKG_VERSION"));
        if had.has(&tag) {
            Self::Had(tag)
        } else {
            Self::Found(tag, look())
        }
    }

    /// The answer: 304, or what was found, written down.
    pub fn answer<D: Serialize>(self, write: impl FnOnce(T) -> D) -> HttpResponse {
        match self {
            Self::Had(tag) => tagged(StatusCode::NOT_MODIFIED, &tag).finish(),
            Self::Found(tag, found) => tagged(StatusCode::OK, &tag).body(Encoding::Json.encode(&write(found))),
        }
    }
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
    let look = move |state: &State| {
        let found = Found::look(state, name).ok_or_else(|| missing(state, name))?;
        let shown = match &found {
            Found::Task(task) => state.is_shown(task),
            Found::List(list) => !list.is_deleted(),
            Found::Label(label) => !label.is_deleted(),
            Found::Settings(_) => true,
        };
        Ok::<_, Code>((found, shown))
    };
    match operations::view(&api.router, user, look).await? {
        Ok((found, true)) => {
            let tag = tag_of(found.version());
            if Had::of(http).has(&tag) {
                return Ok(tagged(StatusCode::NOT_MODIFIED, &tag).finish());
            }
            Ok(found.answer(StatusCode::OK))
        }
        Ok((found, false)) => Err(Problem::new(Code::RowDeleted).row(found.wire())),
        Err(missing) => Err(missing.into()),
    }
}

/// Submits a command, waits until it is durable, and answers with the row.
pub async fn change(
    api: &Api,
    http: &HttpRequest,
    user: UserId,
    name: Name,
    command: Command,
) -> Result<HttpResponse, Problem> {
    let base = request::base(http)?;
    let id = operations::operation_id(api, http)?;
    let (accepted, entries) = operations::submit_one(api, user, id, base, command).await?;
    if request::prefers_minimal(http) {
        // Of an operation that was done before nobody knows here which version it made.
        let is_new = entries.is_some_and(|entries| entries.iter().any(|entry| entry.seq == accepted.seq));
        return Ok(minimal(StatusCode::NO_CONTENT, is_new.then_some(accepted.seq)));
    }
    Ok(changed(api, user, name).await?.answer(StatusCode::OK))
}

/// An answer without the row.
fn minimal(status: StatusCode, version: Option<Seq>) -> HttpResponse {
    let mut response = HttpResponse::build(status);
    response.insert_header(("preference-applied", "return=minimal"));
    if let Some(version) = version {
        response.insert_header((header::ETAG, tag_of(version)));
    }
    response.finish()
}

/// As [`change`], for a deletion: there is nothing to answer.
pub async fn delete(api: &Api, http: &HttpRequest, user: UserId, command: Command) -> Result<HttpResponse, Problem> {
    let base = request::base(http)?;
    let id = operations::operation_id(api, http)?;
    operations::submit_one(api, user, id, base, command).await?;
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
    let base = request::base(http)?;
    let (accepted, entries) = operations::submit_one(api, user, operation, base, command).await?;
    let made = entries.and_then(|entries| made(&entries, accepted.seq, name));
    let mut response = match made {
        Some(_) if request::prefers_minimal(http) => minimal(StatusCode::CREATED, Some(accepted.seq)),
        Some(json) => answer(StatusCode::CREATED, accepted.seq, json),
        // The same operation again: its entry is history, the row is as it is now.
        None => changed(api, user, name).await?.answer(StatusCode::CREATED),
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
async fn changed(api: &Api, user: UserId, name: Name) -> Result<Found, Problem> {
    let found = operations::view(&api.router, user, move |state| Found::look(state, name)).await?;
    found.ok_or_else(|| Code::Internal.into())
}
