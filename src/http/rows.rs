//! Rows over REST: what tasks, lists, labels and settings have in common.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};
use taskflow_actors::domain::{Label, List, Settings, State, Task};
use taskflow_protocol::message::{Command, Row};
use taskflow_protocol::values::Seq;
use taskflow_protocol::{Code, Encoding, LabelId, ListId, OperationId, TaskId, UserId};

use crate::http::problem::Problem;
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
    pub fn answer(&self, status: StatusCode, location: Option<String>) -> HttpResponse {
        let mut response = HttpResponse::build(status);
        response.content_type("application/json");
        let etag = HeaderValue::from_str(&format!("\"{}\"", self.version()));
        response.insert_header((header::ETAG, etag.expect("digits and quotes")));
        if let Some(location) = location {
            response.insert_header((header::LOCATION, location));
        }
        response.body(self.json())
    }
}

/// `GET` of one row. What is in the bin is gone (410), and comes along all the same, so that it can be restored.
pub async fn get(api: &Api, user: UserId, name: Name) -> Result<HttpResponse, Problem> {
    let look = move |state: &State| {
        let found = Found::look(state, name)?;
        let shown = match &found {
            Found::Task(task) => state.is_shown(task),
            Found::List(list) => !list.is_deleted(),
            Found::Label(label) => !label.is_deleted(),
            Found::Settings(_) => true,
        };
        Some((found, shown))
    };
    match api.router.view(user, look).await? {
        Some((found, true)) => Ok(found.answer(StatusCode::OK, None)),
        Some((found, false)) => Err(Problem::new(Code::RowDeleted).row(found.wire())),
        None => Err(Code::RowNotFound.into()),
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
    operations::submit_one(api, user, id, base, command).await?;
    Ok(changed(api, user, name).await?.answer(StatusCode::OK, None))
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
    user: UserId,
    operation: OperationId,
    name: Name,
    command: Command,
) -> Result<HttpResponse, Problem> {
    operations::submit_one(api, user, operation, None, command).await?;
    let location = match name {
        Name::Task(id) => format!("/api/v1/tasks/{id}"),
        Name::List(id) => format!("/api/v1/lists/{id}"),
        Name::Label(id) => format!("/api/v1/labels/{id}"),
        Name::Settings => "/api/v1/settings".to_owned(),
    };
    let found = changed(api, user, name).await?;
    Ok(found.answer(StatusCode::CREATED, Some(location)))
}

/// The row after a change that was accepted.
async fn changed(api: &Api, user: UserId, name: Name) -> Result<Found, Problem> {
    let found = api.router.view(user, move |state| Found::look(state, name)).await?;
    found.ok_or_else(|| Code::Internal.into())
}
