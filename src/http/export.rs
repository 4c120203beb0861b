//! `/api/v1/export`: everything of a user in one file.

use actix_web::http::header;
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::stream;
use serde::Serialize;
use taskflow_protocol::message::Snapshot;
use taskflow_protocol::values::UnixMs;
use taskflow_protocol::{Encoding, UserId};

use crate::auth::Event;
use crate::http::problem::Problem;
use crate::http::{Api, compress, feed, request, sign_in};

/// Of the file's form. A reader refuses what is newer than itself.
const FORM: u32 = 1;

/// `GET /api/v1/export`: one JSON document, written as the client reads. What is cut off is no JSON, and so noticed.
pub async fn get(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::reader(&api, &http).await?;
    request::no_parameters(&http)?;
    let asker = sign_in::asker(&api, &http, None)?;
    let noted = api.sign_ins.note(caller.user, Event::Exported, caller.sign_in, &asker);
    noted.await;
    let now = api.clock.now_ms();
    let (pieces, _) = feed::load(&api, caller.user).await?;
    let chunks = pieces.map(move |piece| Ok::<_, actix_web::Error>(Bytes::from(chunk(caller.user, now, &piece))));
    let mut response = HttpResponse::Ok();
    response
        .content_type("application/json")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::CONTENT_DISPOSITION, "attachment; filename=\"taskflow.json\""));
    Ok(compress::pieces(http.headers(), response, stream::iter(chunks)))
}

/// The part of the document that a piece of the snapshot is.
fn chunk(user: UserId, now: UnixMs, piece: &Snapshot) -> Vec<u8> {
    let mut text = Vec::new();
    let mut field = |before: &str, name: &str, value: &dyn Fn() -> Vec<u8>| {
        text.extend_from_slice(before.as_bytes());
        text.extend_from_slice(format!("\"{name}\":").as_bytes());
        text.extend_from_slice(&value());
    };
    if piece.piece == 0 {
        field("{", "taskflow", &|| json(&FORM));
        field(",", "user", &|| json(&user));
        field(",", "exported_at", &|| json(&now));
        field(",", "settings", &|| json(&piece.settings));
        field(",", "lists", &|| json(&piece.lists));
        field(",", "labels", &|| json(&piece.labels));
        field(",", "tasks", &|| b"[".to_vec());
    }
    // The first tasks come in the second piece.
    let comma_from = usize::from(piece.piece == 1);
    for (at, task) in piece.tasks.iter().enumerate() {
        if at >= comma_from {
            text.push(b',');
        }
        text.extend_from_slice(&json(task));
    }
    if let Some(done) = &piece.done {
        text.extend_from_slice(b"],\"left_out\":");
        text.extend_from_slice(&json(&done.left_out));
        text.push(b'}');
    }
    text
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    Encoding::Json.encode(value)
}

#[cfg(test)]
mod tests {
    //! What `taskflow import` makes of it, with no network between: both ends are in this crate.

    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};
    use taskflow_protocol::message::Command;
    use taskflow_protocol::{ListId, OperationId};
    use uuid::Uuid;

    use super::*;
    use crate::client::import::plan::{self, AS_NEW, Kind, Wishes};
    use crate::client::import::taskflow_json;
    use crate::client::replica::Rows;
    use crate::config::Config;
    use crate::http::operations;
    use crate::testing::ApiBench;

    /// Every one shows something; the server takes no others.
    const TEXTS: [&str; 9] = [
        "plain",
        "trail  ",
        "  lead",
        "\u{3000}wide\u{3000}",
        "no-break\u{a0}",
        "\u{202e}bidi \u{200b}",
        "e\u{301} 🦄",
        "\u{feff}mark",
        "…",
    ];

    /// What is done to a feed before it is exported. Numbers name one of those that are there, counted round.
    #[derive(Clone, Debug)]
    enum Deed {
        List(bool, &'static str),
        Label(&'static str),
        /// In this list, or as a part of that one; whether first of all; with this label; the status.
        Task(usize, Option<usize>, bool, Option<usize>, usize, &'static str),
        Archive(usize),
        Delete(&'static str, usize),
        Due(usize),
        InboxColor,
        Settings(&'static str, &'static str),
    }

    fn deed() -> impl Strategy<Value = Deed> {
        let text = || prop::sample::select(&TEXTS[..]);
        let at = || 0..1_000_usize;
        let kind = prop::sample::select(vec!["list", "label", "task"]);
        let (part, label) = (prop::option::of(at()), prop::option::of(at()));
        prop_oneof![
            3 => (any::<bool>(), text()).prop_map(|(first, text)| Deed::List(first, text)),
            2 => text().prop_map(Deed::Label),
            9 => (at(), part, any::<bool>(), label, 0..4_usize, text())
                .prop_map(|(list, part, first, label, status, text)| Deed::Task(list, part, first, label, status, text)),
            1 => at().prop_map(Deed::Archive),
            1 => (kind, at()).prop_map(|(kind, at)| Deed::Delete(kind, at)),
            1 => at().prop_map(Deed::Due),
            1 => Just(Deed::InboxColor),
            1 => Just(Deed::Settings("Asia/Tokyo", "sunday")),
        ]
    }

    /// The commands. No two lists and no two labels are called the same, for those become one.
    fn commands(user: UserId, deeds: &[Deed]) -> Vec<Command> {
        let id = |kind: u128, nth: usize| Uuid::from_u128(kind << 64 | nth as u128);
        let one = |all: &[Uuid], at: usize| all.get(at % all.len().max(1)).copied();
        let place = |first: bool| if first { "first" } else { "last" };
        let (mut lists, mut labels, mut tasks, mut list_of) = (vec![user.0], vec![], vec![], BTreeMap::new());
        let mut commands = Vec::new();
        for (nth, deed) in deeds.iter().enumerate() {
            let mut command = || {
                Some(match *deed {
                    Deed::List(first, text) => {
                        lists.push(id(1, nth));
                        let name = format!("{text}{nth}{text}");
                        json!({ "list_create": { "list": id(1, nth), "name": name, "color": "#0a0b0c", "place": place(first) } })
                    }
                    Deed::Label(text) => {
                        labels.push(id(2, nth));
                        json!({ "label_create": { "label": id(2, nth), "name": format!("{text}{nth}{text}") } })
                    }
                    Deed::Task(list, part, first, label, status, text) => {
                        let parent = part.and_then(|at| one(&tasks, at));
                        let list = parent.map_or(lists[list % lists.len()], |parent| list_of[&parent]);
                        tasks.push(id(3, nth));
                        list_of.insert(id(3, nth), list);
                        json!({ "task_create": {
                        "task": id(3, nth), "list": list, "parent": parent, "place": place(first), "title": text,
                        "notes": format!("{text}\r\n\t{text}\n"), "labels": label.and_then(|at| one(&labels, at)).as_slice(),
                        "status": (["todo", "doing", "done", "cancelled"][status]),
                        "priority": (["none", "low", "high", "urgent"][status]),
                    } })
                    }
                    Deed::Archive(at) => {
                        json!({ "list_patch": { "list": one(&lists, at)?, "set": { "archived": true } } })
                    }
                    Deed::Delete(kind, at) => {
                        let all = match kind {
                            "list" => &lists,
                            "label" => &labels,
                            _ => &tasks,
                        };
                        json!({ (format!("{kind}_delete")): { kind: one(all, at)? } })
                    }
                    Deed::Due(at) => {
                        let due = json!({ "zoned": { "local": "2026-12-24T18:00:00", "zone": "Europe/Berlin" } });
                        let set = json!({ "due": due, "deadline": "2026-12-31", "duration_minutes": 30 });
                        json!({ "task_patch": { "task": one(&tasks, at)?, "set": set } })
                    }
                    Deed::InboxColor => json!({ "list_patch": { "list": user, "set": { "color": "#112233" } } }),
                    Deed::Settings(zone, day) => {
                        json!({ "settings_patch": { "time_zone": zone, "week_start": day, "locale": "ja" } })
                    }
                })
            };
            // Where there is no row to change, there is none.
            commands.extend(command().map(|command| serde_json::from_value::<Command>(command).expect("a command")));
        }
        commands
    }

    async fn export(api: &Api, user: UserId) -> String {
        let (pieces, _) = feed::load(api, user).await.expect("it is there");
        let text = pieces.flat_map(|piece| chunk(user, 0, &piece)).collect();
        String::from_utf8(text).expect("JSON is text")
    }

    fn rows(export: &str) -> Rows {
        let export: Value = serde_json::from_str(export).expect("JSON");
        fn all<T: serde::de::DeserializeOwned>(rows: &Value) -> Vec<T> {
            serde_json::from_value(rows.clone()).expect("rows")
        }
        let (lists, labels, tasks) = (all(&export["lists"]), all(&export["labels"]), all(&export["tasks"]));
        Rows {
            settings: serde_json::from_value(export["settings"].clone()).expect("settings"),
            lists: lists
                .into_iter()
                .map(|list: taskflow_protocol::model::List| (list.id, list))
                .collect(),
            labels: labels
                .into_iter()
                .map(|label: taskflow_protocol::model::Label| (label.id, label))
                .collect(),
            tasks: tasks
                .into_iter()
                .map(|task: taskflow_protocol::model::Task| (task.id, task))
                .collect(),
        }
    }

    /// All that is shown, in its order, by names where ids change; without what an import says that it does not bring.
    fn content(export: &str, user: UserId) -> Value {
        let rows = rows(export);
        let name = |list: ListId| match list.0 == user.0 {
            true => "",
            false => rows.lists[&list].name.as_str(),
        };
        let lists = rows.lists_in_order();
        let lists: Vec<_> = lists
            .iter()
            .map(|list| json!([name(list.id), list.color, list.archived]))
            .collect();
        let labels = rows.labels.values().filter(|label| label.deleted_at.is_none());
        let labels: BTreeMap<_, _> = labels.map(|label| (&label.name, &label.color)).collect();
        let mut tasks: Vec<_> = rows.tasks.values().filter(|task| rows.task_shown(task)).collect();
        // In the order among the parts of one: a part that stood before what it is a part of stands behind it now.
        tasks.sort_by_key(|task| (name(task.list), task.parent, &task.rank, task.id));
        let tasks: Vec<_> = tasks
            .iter()
            .map(|task| {
                let labels = task.labels.iter().filter(|label| rows.label_shown(**label));
                let labels: Vec<_> = labels.map(|label| &rows.labels[label].name).collect();
                json!([
                    name(task.list),
                    task.id,
                    task.parent,
                    task.title,
                    task.notes,
                    task.status,
                    task.priority,
                    task.due,
                    task.deadline,
                    task.duration_minutes,
                    labels,
                ])
            })
            .collect();
        let settings = rows
            .settings
            .map(|settings| (settings.time_zone, settings.week_start, settings.locale));
        json!({ "lists": lists, "labels": labels, "tasks": tasks, "settings": settings })
    }

    async fn round_trip(deeds: &[Deed]) {
        let bench = ApiBench::new(Config::default());
        let api = &bench.api;
        let ((one, _), (two, _)) = (bench.user().await, bench.user().await);
        for command in commands(one, deeds) {
            // Some are refused: a list that was put away takes no tasks.
            drop(operations::submit_one(api, one, OperationId(Uuid::new_v4()), None, command).await);
        }
        let exported = export(api, one).await;
        let outline = taskflow_json::read(&exported).expect("it is whole");
        let wishes = Wishes {
            list: None,
            again: false,
        };
        let plan = plan::plan(&outline, two, &rows(&export(api, two).await), wishes).expect("no list is ambiguous");
        let brings_tasks = plan.steps.iter().any(|step| step.kind == Kind::Task);
        let remarks: Vec<_> = plan.remarks.iter().map(|remark| remark.what.as_str()).collect();
        assert_eq!(remarks, if brings_tasks { vec![AS_NEW] } else { vec![] });
        for step in &plan.steps {
            let operation = step.operation.clone();
            let done = operations::submit_one(api, two, operation.id, operation.base, operation.command).await;
            assert!(done.is_ok(), "{step:?}");
        }
        let brought = export(api, two).await;
        assert_eq!(content(&brought, two), content(&exported, one));
        let again = plan::plan(&outline, two, &rows(&brought), wishes).expect("no list is ambiguous");
        assert_eq!(again.steps, [], "nothing comes twice");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever was done to an account, another one that takes its export back shows the same.
        #[test]
        fn what_is_exported_comes_back_as_it_was(deeds in prop::collection::vec(deed(), 1..40)) {
            actix_rt::System::new().block_on(round_trip(&deeds));
        }
    }
}
