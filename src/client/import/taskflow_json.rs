//! TaskFlow's own JSON: what `taskflow export` writes.

use std::collections::BTreeMap;

use serde::Deserialize;
use taskflow_protocol::model::{Label, List, Task};
use taskflow_protocol::{LabelId, ListId, TaskId, UserId};

use super::outline::{Outline, OutlineLabel, OutlineTask};

/// The newest form that this build can read.
const FORM_MAX: u32 = 1;

#[derive(Deserialize)]
struct File {
    user: UserId,
    lists: Vec<List>,
    labels: Vec<Label>,
    tasks: Vec<Task>,
    #[serde(default)]
    left_out: Vec<serde_json::Value>,
}

/// Reads a file.
///
/// # Errors
///
/// A sentence, if it is no such file, or not the whole of one.
pub fn read(text: &str) -> Result<Outline, String> {
    #[derive(Deserialize)]
    struct Form {
        taskflow: u32,
    }
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
    fn outline(&self) -> Outline {
        let mut outline = Outline::default();
        let shown = |label: &&Label| label.deleted_at.is_none();
        outline.labels = self
            .labels
            .iter()
            .filter(shown)
            .map(|label| OutlineLabel {
                name: label.name.clone(),
                color: label.color.clone(),
            })
            .collect();
        let names: BTreeMap<LabelId, &str> = self
            .labels
            .iter()
            .filter(shown)
            .map(|label| (label.id, label.name.as_str()))
            .collect();
        let mut below: BTreeMap<(ListId, Option<TaskId>), Vec<&Task>> = BTreeMap::new();
        for task in &self.tasks {
            below.entry((task.list, task.parent)).or_default().push(task);
        }
        for tasks in below.values_mut() {
            tasks.sort_by(|one, other| (&one.rank, one.id).cmp(&(&other.rank, other.id)));
        }
        let mut lists: Vec<_> = self.lists.iter().filter(|list| list.deleted_at.is_none()).collect();
        lists.sort_by(|one, other| (&one.rank, one.id).cmp(&(&other.rank, other.id)));
        let mut brought = 0;
        for list in lists {
            let name = (list.id.0 != self.user.0).then_some(list.name.as_str());
            let known = outline.lists.len();
            let at = outline.list(name);
            if at < known {
                outline.remark("", format!("there are two lists \"{}\": they become one", list.name));
            } else {
                outline.lists[at].archived = list.archived;
                outline.lists[at].color.clone_from(&list.color);
            }
            // Depth first, so that parents come before their parts.
            let mut stack: Vec<(&Task, Option<usize>)> = Vec::new();
            let next = |id: Option<TaskId>| below.get(&(list.id, id)).into_iter().flatten().rev();
            stack.extend(next(None).map(|task| (*task, None)));
            while let Some((task, parent)) = stack.pop() {
                if task.deleted_at.is_some() {
                    continue;
                }
                brought += 1;
                outline.lists[at].tasks.push(of(task, parent, &names));
                let place = outline.lists[at].tasks.len() - 1;
                stack.extend(next(Some(task.id)).map(|part| (*part, Some(place))));
            }
        }
        let rest = self.tasks.len() - brought;
        if rest > 0 {
            outline.remark("", format!("{rest} tasks that were in the bin were left out"));
        }
        if !self.left_out.is_empty() {
            let count = self.left_out.len();
            outline.remark("", format!("{count} rows could not be read when the file was written"));
        }
        outline
    }
}

fn of(task: &Task, parent: Option<usize>, labels: &BTreeMap<LabelId, &str>) -> OutlineTask {
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
        labels: task
            .labels
            .iter()
            .filter_map(|id| labels.get(id))
            .map(|name| (*name).to_owned())
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
        json!({
            "taskflow": 1, "user": USER, "exported_at": 1, "settings": {}, "lists": lists, "labels": labels, "tasks": tasks,
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
                (None, vec!["task 2", "task 3", "task 1"]),
                (Some("Garden"), vec!["task 6"])
            ]
        );
        let first = &outline.lists[0].tasks[0];
        assert_eq!(
            (first.labels.as_slice(), first.notes.as_slice()),
            (&["home".to_owned()][..], &["n".to_owned()][..])
        );
        assert_eq!(outline.lists[0].tasks[1].parent, Some(0));
        assert_eq!(outline.labels[0].color.as_deref(), Some("#112233"));
        let remarks: Vec<_> = outline.remarks.iter().map(|remark| remark.what.as_str()).collect();
        assert_eq!(remarks, ["3 tasks that were in the bin were left out"]);
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
