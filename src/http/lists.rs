//! `/api/v1/lists`, `/api/v1/labels` and `/api/v1/settings`

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use taskflow_actors::domain::State;
use taskflow_protocol::message::{
    Command, LabelCreate, LabelPatch, LabelRef, ListCreate, ListMove, ListPatch, ListRef, Place,
};
use taskflow_protocol::model::{LabelFields, ListFields, SettingsFields};
use taskflow_protocol::{LabelId, ListId};

use crate::http::problem::Problem;
use crate::http::request::Had;
use crate::http::rows::{self, Name, Several};
use crate::http::{Api, operations, request};

/// No page token: a feed holds few enough of them for one page.
#[derive(Serialize)]
struct All<T> {
    items: Vec<T>,
    next: Option<String>,
}

fn all<T: Serialize>(items: Vec<T>) -> All<T> {
    All { items, next: None }
}

/// `GET /api/v1/lists`: those that are not in the bin, in their order.
pub async fn lists(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::reader(&api, &http).await?;
    request::no_parameters(&http)?;
    let had = Had::of(&http);
    let look = move |state: &State| {
        let shown = || state.lists().filter(|list| !list.is_deleted()).cloned();
        Several::look(state, &had, || shown().collect::<Vec<_>>())
    };
    let found = operations::view(&api.router, caller.user, look).await?;
    Ok(found.answer(|lists| all(lists.iter().map(|list| list.to_wire()).collect())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewList {
    id: Option<ListId>,
    name: String,
    color: Option<String>,
    #[serde(default)]
    place: Place<ListId>,
}

/// `POST /api/v1/lists`
pub async fn create_list(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let caller = request::caller(&api, &http).await?;
    let body: NewList = request::document(&http, payload).await?;
    let operation = operations::operation_id(&api, &http)?;
    let list = body.id.unwrap_or(ListId(operation.0));
    let command = Command::ListCreate(ListCreate {
        list,
        name: body.name,
        color: body.color,
        place: body.place,
    });
    rows::create(&api, &http, caller.user, operation, Name::List(list), command).await
}

/// `GET /api/v1/lists/{id}`
pub async fn list(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::reader(&api, &http).await?;
    rows::get(&api, &http, caller.user, Name::List(request::id(&http)?)).await
}

/// `PATCH /api/v1/lists/{id}`
pub async fn patch_list(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let caller = request::caller(&api, &http).await?;
    let list = request::id(&http)?;
    let set: ListFields = request::document(&http, payload).await?;
    let command = Command::ListPatch(ListPatch { list, set });
    rows::change(&api, &http, caller.user, Name::List(list), command).await
}

/// `DELETE /api/v1/lists/{id}`
pub async fn delete_list(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::caller(&api, &http).await?;
    let list = request::id(&http)?;
    rows::delete(
        &api,
        &http,
        caller.user,
        Name::List(list),
        Command::ListDelete(ListRef { list }),
    )
    .await
}

/// `POST /api/v1/lists/{id}/restore`
pub async fn restore_list(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::caller(&api, &http).await?;
    let list = request::id(&http)?;
    let command = Command::ListRestore(ListRef { list });
    rows::change(&api, &http, caller.user, Name::List(list), command).await
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Move {
    place: Place<ListId>,
}

/// `POST /api/v1/lists/{id}/move`
pub async fn move_list(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let caller = request::caller(&api, &http).await?;
    let list = request::id(&http)?;
    let Move { place } = request::document(&http, payload).await?;
    let command = Command::ListMove(ListMove { list, place });
    rows::change(&api, &http, caller.user, Name::List(list), command).await
}

/// `GET /api/v1/labels`: those that are not in the bin.
pub async fn labels(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::reader(&api, &http).await?;
    request::no_parameters(&http)?;
    let had = Had::of(&http);
    let look = move |state: &State| {
        let shown = || state.all_labels().filter(|label| !label.is_deleted()).cloned();
        Several::look(state, &had, || shown().collect::<Vec<_>>())
    };
    let found = operations::view(&api.router, caller.user, look).await?;
    Ok(found.answer(|labels| all(labels.iter().map(|label| label.to_wire()).collect())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewLabel {
    id: Option<LabelId>,
    name: String,
    color: Option<String>,
}

/// `POST /api/v1/labels`
pub async fn create_label(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let caller = request::caller(&api, &http).await?;
    let body: NewLabel = request::document(&http, payload).await?;
    let operation = operations::operation_id(&api, &http)?;
    let label = body.id.unwrap_or(LabelId(operation.0));
    let command = Command::LabelCreate(LabelCreate {
        label,
        name: body.name,
        color: body.color,
    });
    rows::create(&api, &http, caller.user, operation, Name::Label(label), command).await
}

/// `GET /api/v1/labels/{id}`
pub async fn label(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::reader(&api, &http).await?;
    rows::get(&api, &http, caller.user, Name::Label(request::id(&http)?)).await
}

/// `PATCH /api/v1/labels/{id}`
pub async fn patch_label(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let caller = request::caller(&api, &http).await?;
    let label = request::id(&http)?;
    let set: LabelFields = request::document(&http, payload).await?;
    let command = Command::LabelPatch(LabelPatch { label, set });
    rows::change(&api, &http, caller.user, Name::Label(label), command).await
}

/// `DELETE /api/v1/labels/{id}`
pub async fn delete_label(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::caller(&api, &http).await?;
    let label = request::id(&http)?;
    rows::delete(
        &api,
        &http,
        caller.user,
        Name::Label(label),
        Command::LabelDelete(LabelRef { label }),
    )
    .await
}

/// `POST /api/v1/labels/{id}/restore`
pub async fn restore_label(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::caller(&api, &http).await?;
    let label = request::id(&http)?;
    let command = Command::LabelRestore(LabelRef { label });
    rows::change(&api, &http, caller.user, Name::Label(label), command).await
}

/// `GET /api/v1/settings`
pub async fn settings(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::reader(&api, &http).await?;
    request::no_parameters(&http)?;
    rows::get(&api, &http, caller.user, Name::Settings).await
}

/// `PATCH /api/v1/settings`
pub async fn patch_settings(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let caller = request::caller(&api, &http).await?;
    let set: SettingsFields = request::document(&http, payload).await?;
    let command = Command::SettingsPatch(set);
    rows::change(&api, &http, caller.user, Name::Settings, command).await
}
