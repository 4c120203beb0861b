//! TaskFlow's own JSON: what `taskflow export` writes.

use std::collections::BTreeMap;

use serde::Deserialize;
use taskflow_protocol::model::{Label, List, Settings, Task};
use taskflow_protocol::{ListId, TaskId, UserId};

use super::outline::{Outline, OutlineLabel, OutlineTask};
use crate::client::replica::Rows;

/// The newest form that this build can read.
const FORM_MAX: u32 = 1;

#[derive(Deserialize)]
struct File {
    user: UserId,
    settings: Settings,
    lists: Vec<List>,
    labels: Vec<Label>,
    tasks: Vec<Task>,
    #[serde(default)]
    left_out: Vec<serde_json::Value>,
}

/// Of all files.
#[derive(Deserialize)]
struct Form {
    taskflow: u32,
}

/// Whether a file says that it is one: at its beginning, as it was written, or wherever another program has put it since.
pub fn is_marked(text: &str) -> bool {
    let is_first = text.trim_start_matches('{').trim_start().starts_with("\"taskflow\"");
    is_first || text.starts_with('{') && serde_json::from_str::<Form>(text).is_ok()
}

/// Reads a file.
///
/// # Errors
///
/// A sentence, if it is no such file, or not the whole of one.
pub fn read(text: &str) -> Result<Outline, String> {
    let text = text.trim_start_matches('\u{feff}');
    let unread = |error: serde_json::Error| match error.is_eof() {
        true => "The file is cut off. Export it again.".to_owned(),
        false => format!("The file is not TaskFlow's JSON: {error}."),
    };
    let Form { taskflow } = serde_json::from_str(text).map_err(unread)?;
    if taskflow > FORM_MAX {
        return Err(format!(
            "The file was written by a newer TaskFlow (form {taskflow}; this one reads {FORM_MAX}). Update it."
        ));
    }
    let file: File = serde_json::from_str(text).map_err(unread)?;
    Ok(file.outline())
}

impl File {
    fn outline(self) -> Outline {
        let mut outline = Outline {
            is_own: true,
            settings: Some(self.settings),
            ..Outline::default()
        };
        let rows = Rows {
            settings: None,
            lists: self.lists.into_iter().map(|list| (list.id, list)).collect(),
            labels: self.labels.into_iter().map(|label| (label.id, label)).collect(),
            tasks: self.tasks.into_iter().map(|task| (task.id, task)).collect(),
        };
        let mut called: BTreeMap<String, usize> = BTreeMap::new();
        for label in rows.labels.values().filter(|label| label.deleted_at.is_none()) {
            *called.entry(label.name.to_lowercase()).or_default() += 1;
            outline.labels.push(OutlineLabel {
                name: label.name.clone(),
                color: label.color.clone(),
            });
        }
        for (name, count) in called.iter().filter(|(_, count)| **count > 1) {
            outline.remark("", format!("there are {count} labels \"{name}\": they become one"));
        }
        let mut in_order: BTreeMap<ListId, Vec<&Task>> = BTreeMap::new();
        for task in rows.tasks.values().filter(|task| rows.task_shown(task)) {
            in_order.entry(task.list).or_default().push(task);
        }
        let shown: usize = in_order.values().map(Vec::len).sum();
        for list in rows.lists_in_order() {
            let name = (list.id.0 != self.user.0).then_some(list.name.as_str());
            let known = outline.lists.len();
            let at = outline.list(name);
            if at < known {
                outline.remark("", format!("there are two lists \"{}\": they become one", list.name));
            } else {
                outline.lists[at].archived = list.archived;
                outline.lists[at].color.clone_from(&list.color);
            }
            let mut tasks = in_order.remove(&list.id).unwrap_or_default();
            tasks.sort_by(|one, other| (&one.rank, one.id).cmp(&(&other.rank, other.id)));
            let mut places: BTreeMap<TaskId, usize> = BTreeMap::new();
            // A part that stands before what it is a part of comes behind it.
            let mut waiting: BTreeMap<TaskId, Vec<&Task>> = BTreeMap::new();
            for task in tasks {
                let parent = task.parent.and_then(|id| rows.tasks.get(&id));
                let parent = parent.filter(|parent| parent.list == list.id && !places.contains_key(&parent.id));
                if let Some(parent) = parent {
                    waiting.entry(parent.id).or_default().push(task);
                    continue;
                }
                let mut stack = vec![task];
                while let Some(task) = stack.pop() {
                    places.insert(task.id, outline.lists[at].tasks.len());
                    let parent = task.parent.and_then(|id| places.get(&id).copied());
                    outline.lists[at].tasks.push(of(task, parent, &rows));
                    stack.extend(waiting.remove(&task.id).into_iter().flatten().rev());
                }
            }
        }
        for (what, count) in [
            ("task", rows.tasks.len() - shown),
            (
                "list",
                rows.lists.values().filter(|list| list.deleted_at.is_some()).count(),
            ),
            (
                "label",
                rows.labels.values().filter(|label| label.deleted_at.is_some()).count(),
            ),
        ] {
            match count {
                0 => {}
                1 => outline.remark("", format!("1 {what} that was in the bin was left out")),
                _ => outline.remark("", format!("{count} {what}s that were in the bin were left out")),
            }
        }
        if !self.left_out.is_empty() {
            let count = self.left_out.len();
            outline.remark("", format!("{count} rows could not be read when the file was written"));
        }
        outline
    }
}

fn of(task: &Task, parent: Option<usize>, rows: &Rows) -> OutlineTask {
    let labels = task.labels.iter().filter_map(|id| rows.labels.get(id));
    OutlineTask {
        place: String::new(),
        id: Some(task.id),
        source_id: Some(task.id.to_string()),
        title: task.title.clone(),
        notes: Some(task.notes.clone())
            .filter(|notes| !notes.is_empty())
            .into_iter()
            .collect(),
        status: task.status,
        priority: task.priority,
        due: task.due.clone(),
        deadline: task.deadline.clone(),
        duration_minutes: task.duration_minutes,
        labels: labels
            .filter(|label| label.deleted_at.is_none())
            .map(|label| label.name.clone())
            .collect(),
        parent,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const USER: &str = "00000000-0000-0000-0000-00000000000a";

    fn id(n: u32) -> String {
        format!("00000000-0000-0000-0000-{n:012}")
    }

    fn list(id: &str, name: &str, rank: &str) -> Value {
        json!({ "id": id, "name": name, "rank": rank, "created_at": 1, "updated_at": 1, "version": 1 })
    }

    fn task(n: u32, list: &str, rank: &str, more: &Value) -> Value {
        let mut task = json!({
            "id": id(n), "list": list, "title": format!("task {n}"), "status": "todo", "priority": "none", "rank": rank,
            "created_at": 1, "created_by": USER, "updated_at": 1, "updated_by": USER, "version": 1,
        });
        for (name, value) in more.as_object().expect("a map") {
            task[name] = value.clone();
        }
        task
    }

    fn file(lists: &[Value], labels: &[Value], tasks: &[Value]) -> String {
        let settings = json!({ "time_zone": "Asia/Tokyo", "week_start": "monday", "locale": "ja", "version": 7 });
        json!({
            "taskflow": 1, "user": USER, "exported_at": 1, "settings": settings, "lists": lists, "labels": labels, "tasks": tasks,
            "left_out": [],
        })
        .to_string()
    }

    #[test]
    fn everything_that_is_shown_comes_in_its_order() {
        let label = json!({ "id": id(90), "name": "home", "color": "#112233", "version": 1 });
        let tasks = vec![
            task(1, USER, "b", &json!({})),
            task(
                2,
                USER,
                "a",
                &json!({ "notes": "n", "labels": [id(90)], "due": { "all_day": "2026-12-24" } }),
            ),
            task(
                3,
                USER,
                "c",
                &json!({ "parent": id(2), "status": "done", "completed_at": 5 }),
            ),
            task(4, USER, "d", &json!({ "deleted_at": 5 })),
            task(5, USER, "e", &json!({ "parent": id(4) })),
            task(6, &id(80), "a", &json!({})),
            task(7, &id(81), "a", &json!({})),
            // A part that stands before what it is a part of.
            task(9, USER, "f", &json!({ "parent": id(8) })),
            task(8, USER, "g", &json!({})),
        ];
        let mut gone = list(&id(81), "Gone", "c");
        gone["deleted_at"] = json!(5);
        let lists = vec![list(&id(80), "Garden", "b"), list(USER, "Inbox", "a"), gone];
        let outline = read(&file(&lists, &[label], &tasks)).expect("it is whole");
        let found: Vec<(Option<&str>, Vec<&str>)> = outline
            .lists
            .iter()
            .map(|list| {
                (
                    list.name.as_deref(),
                    list.tasks.iter().map(|task| task.title.as_str()).collect(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                (None, vec!["task 2", "task 1", "task 3", "task 8", "task 9"]),
                (Some("Garden"), vec!["task 6"])
            ]
        );
        let first = &outline.lists[0].tasks[0];
        assert_eq!(
            (first.labels.as_slice(), first.notes.as_slice()),
            (&["home".to_owned()][..], &["n".to_owned()][..])
        );
        let parents: Vec<_> = outline.lists[0].tasks.iter().map(|task| task.parent).collect();
        assert_eq!(parents, [None, None, Some(0), None, Some(3)]);
        assert_eq!(outline.labels[0].color.as_deref(), Some("#112233"));
        let remarks: Vec<_> = outline.remarks.iter().map(|remark| remark.what.as_str()).collect();
        assert_eq!(
            remarks,
            [
                "3 tasks that were in the bin were left out",
                "1 list that was in the bin was left out",
            ]
        );
    }

    #[test]
    fn what_becomes_one_is_named() {
        let label = |n: u32, name: &str| json!({ "id": id(n), "name": name, "version": 1 });
        let lists = [list(&id(80), "Garden", "b"), list(&id(81), "Garden", "c")];
        let labels = [label(90, "Home"), label(91, "home"), label(92, "work")];
        let outline = read(&file(&lists, &labels, &[])).expect("it is whole");
        let remarks: Vec<_> = outline.remarks.iter().map(|remark| remark.what.as_str()).collect();
        assert_eq!(
            remarks,
            [
                "there are 2 labels \"home\": they become one",
                "there are two lists \"Garden\": they become one",
            ]
        );
    }

    #[test]
    fn what_is_no_such_file_or_half_of_one_is_refused() {
        let whole = file(&[list(USER, "Inbox", "a")], &[], &[task(1, USER, "a", &json!({}))]);
        for (text, part) in [
            (&whole[..whole.len() - 3], "cut off"),
            ("{\"taskflow\": 2}", "newer TaskFlow"),
            ("{\"taskflow\": 1}", "not TaskFlow's JSON"),
            ("{}", "not TaskFlow's JSON"),
        ] {
            let sentence = read(text).expect_err("it is no such file");
            assert!(sentence.contains(part), "{sentence}");
        }
    }
}
