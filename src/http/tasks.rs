//! `/api/v1/tasks`

use std::sync::Arc;

use actix_web::http::header;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use taskflow_actors::domain::find::{self, Filter, FilterError, FindError, Mark, Sort, meant};
use taskflow_actors::domain::{State, Task};
use taskflow_protocol::limits::{PAGE_ITEMS_MAX, SEARCH_BYTES_MAX, SEARCH_WORDS_MAX};
use taskflow_protocol::message::{Command, Place, TaskCreate, TaskMove, TaskPatch, TaskRef};
use taskflow_protocol::model::{self, TaskFields};
use taskflow_protocol::values::{Due, Priority, Status};
use taskflow_protocol::{Code, LabelId, ListId, TaskId, UserId};
use uuid::Uuid;

use crate::http::problem::Problem;
use crate::http::request::Had;
use crate::http::rows::{self, Name, Several};
use crate::http::{Api, operations, request};

/// Tasks on a page where the client does not say.
const PAGE_ITEMS_DEFAULT: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    list: Option<ListId>,
    status: Option<Status>,
    filter: Option<String>,
    search: Option<String>,
    sort: Option<String>,
    fields: Option<String>,
    limit: Option<usize>,
    page: Option<String>,
}

#[derive(Serialize)]
struct Page {
    items: Vec<Fields>,
    next: Option<String>,
}

/// A task, or of a task what was asked for.
#[derive(Serialize)]
#[serde(untagged)]
enum Fields {
    All(Box<model::Task>),
    Some(Map<String, Value>),
}

/// Fields that a client may ask for: those of `model::Task`.
const FIELDS: &[&str] = &[
    "id",
    "list",
    "title",
    "notes",
    "status",
    "priority",
    "due",
    "deadline",
    "duration_minutes",
    "labels",
    "parent",
    "rank",
    "completed_at",
    "completed_by",
    "created_at",
    "created_by",
    "updated_at",
    "updated_by",
    "deleted_at",
    "version",
];

/// Begins the page tokens of what was found, and no others: the sign is none of base64.
const FOUND: &str = "f.";

/// Where a page begins: after this task. It holds the place, not the row, so it works when the task has gone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PageToken {
    list: ListId,
    task: TaskId,
    rank: String,
}

impl PageToken {
    fn text(&self) -> String {
        let bytes = [&self.list.bytes()[..], self.task.bytes(), self.rank.as_bytes()].concat();
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (list, rest) = bytes.split_at_checked(16)?;
        let (task, rank) = rest.split_at_checked(16)?;
        Some(Self {
            list: ListId(Uuid::from_slice(list).ok()?),
            task: TaskId(Uuid::from_slice(task).ok()?),
            rank: String::from_utf8(rank.to_vec()).ok()?,
        })
    }
}

/// `GET /api/v1/tasks`: what is shown, list by list in their order, each in the order of the ranks; or what a filter and
/// a search find, in the order asked for.
pub async fn page(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::reader(&api, &http).await?;
    let query: Query = request::parameters(&http)?;
    let limit = query.limit.unwrap_or(PAGE_ITEMS_DEFAULT);
    if !(1..=PAGE_ITEMS_MAX).contains(&limit) {
        let range = format_args!("{limit} is not between 1 and {PAGE_ITEMS_MAX}").to_string();
        return Err(Problem::new(Code::ValueInvalid).field("limit").because(range));
    }
    let fields = query.fields.as_deref().map(wanted_fields).transpose()?;
    let had = Had::of(&http);
    let write = move |(tasks, next): (Vec<Arc<Task>>, Option<String>)| Page {
        items: tasks.iter().map(|task| some_fields(task, fields.as_deref())).collect(),
        next,
    };
    let mut next = None;
    let answer = |found| {
        let page: Page = write(found);
        next.clone_from(&page.next);
        page
    };
    let mut response = if query.filter.is_some() || query.search.is_some() || query.sort.is_some() {
        find(&api, caller.user, &query, limit, had, answer).await?
    } else {
        walk(&api, caller.user, &query, limit, had, answer).await?
    };
    if let Some(link) = next.and_then(|next| request::next_page(&http, &next)) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

fn no_page() -> Problem {
    let problem = Problem::new(Code::InvalidField).field("page");
    problem.because("it must be what `next` of the page before said, with the same `sort`")
}

/// In the order that the user gave them, from where the page begins.
async fn walk(
    api: &Api,
    user: UserId,
    query: &Query,
    limit: usize,
    had: Had,
    write: impl FnOnce((Vec<Arc<Task>>, Option<String>)) -> Page,
) -> Result<HttpResponse, Problem> {
    let (list, status) = (query.list, query.status);
    let after = match query.page.as_deref().map(PageToken::parse) {
        Some(None) => return Err(no_page()),
        Some(token) => token,
        None => None,
    };
    let look = move |state: &State| {
        if list.is_some_and(|list| state.list(list).is_none()) {
            return Err(Code::RowNotFound);
        }
        Ok(Several::look(state, &had, || {
            collect(state, list, status, limit, after.as_ref())
        }))
    };
    Ok(operations::view(&api.router, user, look).await??.answer(write))
}

/// By the index of the feed.
async fn find(
    api: &Api,
    user: UserId,
    query: &Query,
    limit: usize,
    had: Had,
    write: impl FnOnce((Vec<Arc<Task>>, Option<String>)) -> Page,
) -> Result<HttpResponse, Problem> {
    let filter = query.filter.as_deref().map(Filter::parse).transpose();
    let filter = filter.map_err(|error| unread(&error))?;
    let search = query.search.clone();
    if search.as_ref().is_some_and(|text| text.len() > SEARCH_BYTES_MAX) {
        let problem = Problem::new(Code::ValueTooLong).field("search");
        return Err(problem.because(format_args!("at most {SEARCH_BYTES_MAX} bytes")));
    }
    if search
        .as_ref()
        .is_some_and(|text| find::words(text).len() > SEARCH_WORDS_MAX)
    {
        let problem = Problem::new(Code::ValueTooLong).field("search");
        return Err(problem.because(format_args!("at most {SEARCH_WORDS_MAX} words")));
    }
    let by = query.sort.clone().unwrap_or_else(|| "place".to_owned());
    let sort = Sort::parse(&by).map_err(|why| Problem::new(Code::ValueInvalid).field("sort").because(why))?;
    let after = query.page.as_deref().map(|text| {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(FOUND)?).ok()?;
        let (of, mark): (String, Mark) = rmp_serde::from_slice(&bytes).ok()?;
        (of == by && sort.fits(&mark)).then_some(mark)
    });
    let after = match after {
        Some(None) => return Err(no_page()),
        Some(mark) => mark,
        None => None,
    };
    let now = api.clock.now_ms();
    // The same rows are found at another time of day by another filter, whatever the client has.
    let depends_on_time = filter.as_ref().is_some_and(Filter::depends_on_time);
    let had = if depends_on_time { Had::default() } else { had };
    let wanted = find::Query {
        list: query.list,
        status: query.status,
        filter,
        search,
        sort,
        after,
        limit,
    };
    let look = move |state: &State| match Several::look(state, &had, || find::page(state, &wanted, now)) {
        Several::Had(tag) => Ok(Several::Had(tag)),
        Several::Found(tag, found) => found.map(|found| Several::Found(tag, found)),
    };
    let found = operations::view(&api.router, user, look).await?;
    let found = found.map_err(|error| match error {
        FindError::NoList => Problem::new(Code::RowNotFound).field("list"),
        FindError::Filter(error) => unread(&error),
    })?;
    Ok(found.answer(|page: find::Page| {
        let next = page.next.map(|mark| {
            let bytes = rmp_serde::to_vec(&(by, mark)).expect("texts and numbers");
            format!("{FOUND}{}", URL_SAFE_NO_PAD.encode(bytes))
        });
        write((page.tasks, next))
    }))
}

fn unread(error: &FilterError) -> Problem {
    Problem::new(Code::FilterInvalid)
        .field("filter")
        .column(error.column)
        .because(error)
}

fn wanted_fields(text: &str) -> Result<Vec<&'static str>, Problem> {
    let known = |name: &str| {
        let known = FIELDS.iter().find(|known| **known == name);
        known.copied().ok_or_else(|| {
            let meant = meant(name, FIELDS.iter().copied());
            let problem = Problem::new(Code::ValueInvalid).field("fields");
            problem.because(format_args!("a task has no field {name:?}{meant}"))
        })
    };
    text.split(',').map(known).collect()
}

fn some_fields(task: &Task, wanted: Option<&[&'static str]>) -> Fields {
    let task = task.to_wire();
    let Some(wanted) = wanted else {
        return Fields::All(Box::new(task));
    };
    match serde_json::to_value(task) {
        Ok(Value::Object(mut fields)) => {
            fields.retain(|name, _| wanted.contains(&name.as_str()));
            Fields::Some(fields)
        }
        _ => Fields::Some(Map::new()),
    }
}

/// Runs on the feed's thread: it takes references, and looks at no list before the page's.
fn collect(
    state: &State,
    only: Option<ListId>,
    status: Option<Status>,
    limit: usize,
    after: Option<&PageToken>,
) -> (Vec<Arc<Task>>, Option<String>) {
    let lists = state.lists().filter(|list| !list.is_deleted());
    let lists = lists
        .filter(|list| only.is_none_or(|only| list.id == only))
        .map(|list| list.id);
    let first = after.map(|after| after.list);
    let lists = lists.skip_while(|list| first.is_some_and(|first| *list != first));
    let mut tasks: Vec<Arc<Task>> = Vec::new();
    for list in lists {
        let from = after.filter(|after| after.list == list);
        let rest = from.map(|from| state.tasks_in_after(list, &from.rank, from.task));
        let whole = from.is_none().then(|| state.tasks_in(list));
        for task in rest.into_iter().flatten().chain(whole.into_iter().flatten()) {
            let wanted = status.is_none_or(|status| task.status == status) && state.is_shown(task);
            if !wanted {
                continue;
            }
            if tasks.len() == limit {
                let last = tasks.last().map(|last| PageToken {
                    list: last.list,
                    task: last.id,
                    rank: last.rank.clone(),
                });
                return (tasks, last.map(|last| last.text()));
            }
            tasks.push(Arc::clone(task));
        }
    }
    (tasks, None)
}

/// `TaskCreate`, but the id may be left to the server.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTask {
    id: Option<TaskId>,
    title: String,
    list: Option<ListId>,
    #[serde(default)]
    notes: String,
    #[serde(default)]
    status: Status,
    #[serde(default)]
    priority: Priority,
    due: Option<Due>,
    deadline: Option<String>,
    duration_minutes: Option<u32>,
    #[serde(default)]
    labels: Vec<LabelId>,
    parent: Option<TaskId>,
    #[serde(default)]
    place: Place<TaskId>,
}

/// `POST /api/v1/tasks`
pub async fn create(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let caller = request::caller(&api, &http).await?;
    let body: NewTask = request::document(&http, payload).await?;
    let operation = operations::operation_id(&api, &http)?;
    // Without an id the task gets the operation's: sent again under the same key, it is the same operation.
    let task = body.id.unwrap_or(TaskId(operation.0));
    let command = Command::TaskCreate(TaskCreate {
        task,
        list: body.list,
        title: body.title,
        notes: body.notes,
        status: body.status,
        priority: body.priority,
        due: body.due,
        deadline: body.deadline,
        duration_minutes: body.duration_minutes,
        labels: body.labels,
        parent: body.parent,
        place: body.place,
    });
    rows::create(&api, &http, caller.user, operation, Name::Task(task), command).await
}

/// `GET /api/v1/tasks/{id}`
pub async fn get(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::reader(&api, &http).await?;
    rows::get(&api, &http, caller.user, Name::Task(request::id(&http)?)).await
}

/// `PATCH /api/v1/tasks/{id}`
pub async fn patch(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let caller = request::caller(&api, &http).await?;
    let task = request::id(&http)?;
    let set: TaskFields = request::document(&http, payload).await.map_err(elsewhere)?;
    let command = Command::TaskPatch(TaskPatch { task, set });
    let changed = rows::change(&api, &http, caller.user, Name::Task(task), command).await;
    changed.map_err(elsewhere)
}

/// Fields of a task that a patch does not change: the error says what does.
fn elsewhere(problem: Problem) -> Problem {
    if !matches!(problem.code(), Code::InvalidField | Code::ValueInvalid) {
        return problem;
    }
    let instead = match problem.named() {
        Some("list" | "parent" | "place" | "rank") => "a patch moves no task; POST /api/v1/tasks/{id}/move does",
        Some("completed_at" | "completed_by") => "it follows from `status`; leave it out",
        Some("deleted_at") => "a patch cannot set it; use DELETE, or POST /api/v1/tasks/{id}/restore",
        Some("id" | "created_at" | "created_by" | "updated_at" | "updated_by" | "version") => {
            "a patch cannot set it; send only what changes of title, notes, status, priority, due, deadline, \
             duration_minutes and labels"
        }
        _ => return problem,
    };
    problem.because(instead)
}

/// `DELETE /api/v1/tasks/{id}`
pub async fn delete(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::caller(&api, &http).await?;
    let task = request::id(&http)?;
    rows::delete(
        &api,
        &http,
        caller.user,
        Name::Task(task),
        Command::TaskDelete(TaskRef { task }),
    )
    .await
}

/// `POST /api/v1/tasks/{id}/complete`
pub async fn complete(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    refer(&api, &http, Command::TaskComplete).await
}

/// `POST /api/v1/tasks/{id}/reopen`
pub async fn reopen(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    refer(&api, &http, Command::TaskReopen).await
}

/// `POST /api/v1/tasks/{id}/restore`
pub async fn restore(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    refer(&api, &http, Command::TaskRestore).await
}

async fn refer(api: &Api, http: &HttpRequest, command: fn(TaskRef) -> Command) -> Result<HttpResponse, Problem> {
    let caller = request::caller(api, http).await?;
    let task = request::id(http)?;
    rows::change(api, http, caller.user, Name::Task(task), command(TaskRef { task })).await
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Move {
    list: Option<ListId>,
    parent: Option<TaskId>,
    place: Place<TaskId>,
}

/// `POST /api/v1/tasks/{id}/move`
pub async fn r#move(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let caller = request::caller(&api, &http).await?;
    let task = request::id(&http)?;
    let body: Move = request::document(&http, payload).await?;
    let command = Command::TaskMove(TaskMove {
        task,
        list: body.list,
        parent: body.parent,
        place: body.place,
    });
    rows::change(&api, &http, caller.user, Name::Task(task), command).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_reads_back_and_nothing_else_does() {
        let token = PageToken {
            list: ListId(Uuid::from_u128(1)),
            task: TaskId(Uuid::from_u128(2)),
            rank: "a0V".to_owned(),
        };
        assert_eq!(PageToken::parse(&token.text()), Some(token));
        for forged in ["", "x", "!!", "AAAA", "=", &URL_SAFE_NO_PAD.encode([0xff; 33])] {
            assert_eq!(PageToken::parse(forged), None, "{forged}");
        }
    }
}
