//! Todoist's JSON: what its sync API answers to a full sync, which backup programs keep as a file.
//!
//! <https://developer.todoist.com/api/v1/> (and the older versions 8 and 9) has the shape: `projects`, `sections`, `items`,
//! `labels`, `notes`, each with an `id` that is a number or a string. Priority 4 is the highest here. A `due` has `date`
//! (a day; a time without a zone; or a moment in UTC with `timezone`), `string` (the words) and `is_recurring`.
//! What a file of another age lacks is left at its default; one item that cannot be read does not take the others along.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;
use taskflow_protocol::values::{Due, Priority, Status, Zoned};

use super::outline::{Outline, OutlineTask};
use super::todoist_csv::minutes;
use crate::client::dates;

/// A number in old files, a string in new ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id(String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text)),
            Value::Number(number) => Ok(Self(number.to_string())),
            _ => Err(serde::de::Error::custom("an id is a number or a string")),
        }
    }
}

/// `true`, or 1 in old files.
fn flag<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Bool(flag) => flag,
        Value::Number(number) => number.as_i64() != Some(0),
        _ => false,
    })
}

/// Old files have `null` where new ones have an empty value.
fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Debug, Deserialize)]
struct Project {
    id: Id,
    name: String,
    #[serde(default)]
    parent_id: Option<Id>,
    #[serde(default, deserialize_with = "or_default")]
    child_order: i64,
    #[serde(default, deserialize_with = "flag", alias = "is_inbox_project")]
    inbox_project: bool,
    #[serde(default, deserialize_with = "flag")]
    is_archived: bool,
    #[serde(default, deserialize_with = "flag")]
    is_deleted: bool,
}

#[derive(Debug, Deserialize)]
struct Section {
    id: Id,
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    section_order: i64,
    #[serde(default, deserialize_with = "flag")]
    is_deleted: bool,
}

#[derive(Debug, Deserialize)]
struct Item {
    id: Id,
    content: String,
    #[serde(default, deserialize_with = "or_default")]
    description: String,
    #[serde(default)]
    project_id: Option<Id>,
    #[serde(default)]
    section_id: Option<Id>,
    #[serde(default)]
    parent_id: Option<Id>,
    #[serde(default, deserialize_with = "or_default", alias = "order")]
    child_order: i64,
    #[serde(default, deserialize_with = "or_default")]
    priority: i64,
    #[serde(default)]
    due: Option<ItemDue>,
    #[serde(default)]
    deadline: Option<ItemDeadline>,
    #[serde(default)]
    duration: Option<ItemDuration>,
    #[serde(default, deserialize_with = "or_default")]
    labels: Vec<Id>,
    #[serde(default, deserialize_with = "flag", alias = "is_completed")]
    checked: bool,
    #[serde(default)]
    completed_at: Option<String>,
    #[serde(default)]
    responsible_uid: Option<Id>,
    #[serde(default, deserialize_with = "flag")]
    is_deleted: bool,
}

#[derive(Debug, Deserialize)]
struct ItemDue {
    #[serde(default, deserialize_with = "or_default")]
    date: String,
    /// In answers of the REST API, beside a `date` without a time.
    #[serde(default)]
    datetime: Option<String>,
    #[serde(default)]
    timezone: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    string: String,
    #[serde(default, deserialize_with = "flag")]
    is_recurring: bool,
}

#[derive(Debug, Deserialize)]
struct ItemDeadline {
    date: String,
}

#[derive(Debug, Deserialize)]
struct ItemDuration {
    amount: u32,
    unit: String,
}

#[derive(Debug, Deserialize)]
struct Note {
    #[serde(default, alias = "task_id")]
    item_id: Option<Id>,
    #[serde(default, deserialize_with = "or_default")]
    content: String,
    #[serde(default, deserialize_with = "or_default")]
    posted_at: String,
    #[serde(default, alias = "attachment")]
    file_attachment: Option<Value>,
    #[serde(default, deserialize_with = "flag")]
    is_deleted: bool,
}

#[derive(Debug, Deserialize)]
struct Label {
    id: Id,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Collaborator {
    id: Id,
    #[serde(default, alias = "full_name")]
    name: Option<String>,
}

/// Reads a file.
///
/// # Errors
///
/// A sentence, if it is no such file at all.
pub fn read(text: &str) -> Result<Outline, String> {
    let document: Value = serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|error| format!("The file is not JSON: {error}."))?;
    let document = match document {
        // A list of tasks alone, as the REST API answers.
        Value::Array(items) => serde_json::json!({ "items": items }),
        other => other,
    };
    let has = |name: &str| document.get(name).is_some_and(Value::is_array);
    if !(has("items") || has("tasks")) {
        return Err("The file is not Todoist's JSON: it has no list named items.".to_owned());
    }
    let mut outline = Outline::default();
    let projects: Vec<Project> = each(&mut outline, &document, &["projects"]);
    let sections: Vec<Section> = each(&mut outline, &document, &["sections"]);
    let items: Vec<Item> = each(&mut outline, &document, &["items", "tasks"]);
    let labels: Vec<Label> = each(&mut outline, &document, &["labels"]);
    let notes: Vec<Note> = each(&mut outline, &document, &["notes", "comments"]);
    let people: Vec<Collaborator> = each(&mut outline, &document, &["collaborators"]);
    for (name, what) in [
        ("reminders", "reminders"),
        ("filters", "filters"),
        ("project_notes", "comments on projects"),
    ] {
        let count = document.get(name).and_then(Value::as_array).map_or(0, Vec::len);
        if count > 0 {
            outline.remark(name, format!("{count} {what} were left out"));
        }
    }
    let reading = Reading {
        projects: projects
            .into_iter()
            .map(|project| (project.id.clone(), project))
            .collect(),
        sections: sections
            .into_iter()
            .map(|section| (section.id.clone(), section))
            .collect(),
        labels: labels.into_iter().map(|label| (label.id, label.name)).collect(),
        people: people
            .into_iter()
            .filter_map(|person| Some((person.id, person.name?)))
            .collect(),
        notes,
    };
    Ok(reading.write(outline, &items))
}

/// Every element that can be read; the others are named.
fn each<T: for<'de> Deserialize<'de>>(outline: &mut Outline, document: &Value, names: &[&str]) -> Vec<T> {
    let mut read = Vec::new();
    for name in names {
        let elements = document
            .get(name)
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        for (number, element) in elements.iter().enumerate() {
            match T::deserialize(element) {
                Ok(element) => read.push(element),
                Err(error) => outline.remark(&format!("{name}[{number}]"), format!("it cannot be read ({error})")),
            }
        }
    }
    read
}

struct Reading {
    projects: BTreeMap<Id, Project>,
    sections: BTreeMap<Id, Section>,
    labels: BTreeMap<Id, String>,
    people: BTreeMap<Id, String>,
    notes: Vec<Note>,
}

impl Reading {
    fn write(&self, mut outline: Outline, items: &[Item]) -> Outline {
        let gone: BTreeSet<Id> = items
            .iter()
            .filter(|item| item.is_deleted)
            .map(|item| item.id.clone())
            .collect();
        let known: BTreeSet<Id> = items.iter().map(|item| item.id.clone()).collect();
        let mut children: BTreeMap<Option<Id>, Vec<&Item>> = BTreeMap::new();
        for item in items.iter().filter(|item| !item.is_deleted) {
            let parent = item
                .parent_id
                .clone()
                .filter(|parent| known.contains(parent) && !gone.contains(parent));
            if item.parent_id != parent {
                outline.remark(&place(item), "its parent is not in the file, so it stands alone");
            }
            children.entry(parent).or_default().push(item);
        }
        for siblings in children.values_mut() {
            siblings.sort_by_key(|item| item.child_order);
        }
        let mut roots = children.remove(&None).unwrap_or_default();
        roots.sort_by_key(|item| self.order(item));
        // Empty projects are lists too.
        for project in self.projects_in_order() {
            let list = outline.list(self.project_name(project).as_deref());
            outline.lists[list].archived = project.is_archived;
        }
        let mut written = BTreeSet::new();
        // Depth first; a part goes where its parent is, whatever it says itself.
        let mut stack: Vec<(&Item, Option<(usize, usize)>)> =
            roots.into_iter().rev().map(|item| (item, None)).collect();
        while let Some((item, parent)) = stack.pop() {
            let list = match parent {
                Some((list, _)) => list,
                None => self.list_of(&mut outline, item),
            };
            let mut task = self.task(&mut outline, item);
            task.parent = parent.map(|(_, parent)| parent);
            outline.lists[list].tasks.push(task);
            written.insert(item.id.clone());
            let at = Some((list, outline.lists[list].tasks.len() - 1));
            let below = children.remove(&Some(item.id.clone())).unwrap_or_default();
            stack.extend(below.into_iter().rev().map(|child| (child, at)));
        }
        for item in items
            .iter()
            .filter(|item| !item.is_deleted && !written.contains(&item.id))
        {
            outline.remark(
                &place(item),
                format!("\"{}\" is a part of itself in the file and was left out", item.content),
            );
        }
        outline
    }

    fn projects_in_order(&self) -> Vec<&Project> {
        let mut projects: Vec<&Project> = self.projects.values().filter(|project| !project.is_deleted).collect();
        projects.sort_by_key(|project| (!project.inbox_project, project.child_order));
        projects
    }

    /// The project's place, then no section before sections, then the item's.
    fn order(&self, item: &Item) -> (bool, i64, i64, i64) {
        let project = item.project_id.as_ref().and_then(|id| self.projects.get(id));
        let section = item.section_id.as_ref().and_then(|id| self.sections.get(id));
        (
            project.is_some_and(|project| !project.inbox_project),
            project.map_or(0, |project| project.child_order),
            section.map_or(-1, |section| section.section_order),
            item.child_order,
        )
    }

    /// `None`: the inbox. A project within another carries the other's name.
    fn project_name(&self, project: &Project) -> Option<String> {
        if project.inbox_project {
            return None;
        }
        let mut name = project.name.clone();
        let mut at = project;
        // A circle in the file must not be one here.
        for _ in 0..self.projects.len() {
            match at.parent_id.as_ref().and_then(|parent| self.projects.get(parent)) {
                Some(parent) => {
                    name = format!("{} / {name}", parent.name);
                    at = parent;
                }
                None => break,
            }
        }
        Some(name)
    }

    fn list_of(&self, outline: &mut Outline, item: &Item) -> usize {
        let project = item.project_id.as_ref().and_then(|id| self.projects.get(id));
        let project_name = project.and_then(|project| self.project_name(project));
        let section = item.section_id.as_ref().and_then(|id| self.sections.get(id));
        let Some(section) = section.filter(|section| !section.is_deleted) else {
            return outline.list(project_name.as_deref());
        };
        let name = format!("{} / {}", project_name.as_deref().unwrap_or("Inbox"), section.name);
        if !outline.lists.iter().any(|list| list.name.as_deref() == Some(&name)) {
            let id = &section.id.0;
            outline.remark(
                &format!("section {id}"),
                format!("the section \"{}\" became the list \"{name}\"", section.name),
            );
        }
        let list = outline.list(Some(&name));
        outline.lists[list].archived = project.is_some_and(|project| project.is_archived);
        list
    }

    fn task(&self, outline: &mut Outline, item: &Item) -> OutlineTask {
        let place = place(item);
        let mut task = OutlineTask {
            source_id: Some(item.id.0.clone()),
            title: item.content.clone(),
            status: if item.checked { Status::Done } else { Status::Todo },
            priority: match item.priority {
                4 => Priority::Urgent,
                3 => Priority::High,
                2 => Priority::Medium,
                _ => Priority::None,
            },
            deadline: item.deadline.as_ref().map(|deadline| deadline.date.clone()),
            // Names in new files; ids of the table in old ones.
            labels: item
                .labels
                .iter()
                .map(|label| self.labels.get(label).cloned().unwrap_or_else(|| label.0.clone()))
                .collect(),
            ..OutlineTask::default()
        };
        if let Some(deadline) = &task.deadline
            && dates::fixed(deadline, "en").is_none()
        {
            outline.remark(&place, format!("the deadline \"{deadline}\" is no date"));
            task.deadline = None;
        }
        if !item.description.is_empty() {
            task.notes.push(item.description.clone());
        }
        if let Some(due) = &item.due {
            task.due = when(due);
            if due.is_recurring {
                task.notes.push(format!("Repeats in Todoist: {}", due.string));
                outline.remark(
                    &place,
                    format!("the repetition \"{}\" was kept in the notes", due.string),
                );
            } else if task.due.is_none() {
                let words = if due.string.is_empty() { &due.date } else { &due.string };
                task.notes.push(format!("Due in Todoist: {words}"));
                outline.remark(
                    &place,
                    format!("the date \"{words}\" is in words and was kept in the notes"),
                );
            }
        }
        if let Some(duration) = &item.duration {
            task.duration_minutes = minutes(Some(duration.amount), &duration.unit);
            if task.duration_minutes.is_none() {
                let text = format!("the duration \"{} {}\" is not known", duration.amount, duration.unit);
                outline.remark(&place, text);
            }
        }
        if let Some(responsible) = &item.responsible_uid {
            let name = self.people.get(responsible).unwrap_or(&responsible.0);
            task.notes.push(format!("Assigned to {name}"));
            outline.remark(&place, format!("the assignment to \"{name}\" was kept in the notes"));
        }
        let comments = self
            .notes
            .iter()
            .filter(|note| note.item_id.as_ref() == Some(&item.id) && !note.is_deleted);
        for note in comments {
            let day = note
                .posted_at
                .get(..10)
                .map(|day| format!(" ({day})"))
                .unwrap_or_default();
            let mut text = format!("Comment{day}: {}", note.content);
            if let Some(attachment) = &note.file_attachment
                && let Some(url) = attachment["file_url"].as_str()
            {
                text = format!("{text} <{url}>");
            }
            task.notes.push(text);
            outline.remark(&place, "a comment became a part of its task's notes");
        }
        if let Some(at) = item.completed_at.as_ref().filter(|_| item.checked) {
            task.notes.push(format!("Completed: {}", at.get(..10).unwrap_or(at)));
        }
        task.place = place;
        task
    }
}

fn place(item: &Item) -> String {
    format!("item {}", item.id.0)
}

fn when(due: &ItemDue) -> Option<Due> {
    let text = due.datetime.as_deref().unwrap_or(&due.date);
    if let Some(zone) = due.timezone.as_deref()
        && let Ok(moment) = text.parse::<jiff::Timestamp>()
        && jiff::tz::TimeZone::get(zone).is_ok()
    {
        let local = dates::moment(moment.as_millisecond(), zone);
        return Some(Due::Zoned(Zoned {
            local: local.strftime("%Y-%m-%dT%H:%M:%S").to_string(),
            zone: zone.to_owned(),
        }));
    }
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        // A moment whose zone is not known here is still a moment.
        return Some(Due::Zoned(Zoned {
            local: dates::moment(moment.as_millisecond(), "UTC")
                .strftime("%Y-%m-%dT%H:%M:%S")
                .to_string(),
            zone: "UTC".to_owned(),
        }));
    }
    dates::fixed(text, "en").map(|(day, time)| dates::local(day, time, None))
}

#[cfg(test)]
mod tests {
    use super::super::outline::Remark;
    use super::*;

    fn sample() -> Outline {
        read(include_str!("samples/todoist.json")).expect("it is such a file")
    }

    fn task<'a>(outline: &'a Outline, title: &str) -> &'a OutlineTask {
        let mut tasks = outline.lists.iter().flat_map(|list| &list.tasks);
        tasks.find(|task| task.title == title).expect("it is in the sample")
    }

    #[test]
    fn projects_and_sections_become_lists_and_items_keep_their_order_and_parents() {
        let outline = sample();
        let shape: Vec<(_, bool, Vec<(&str, Option<_>)>)> = outline
            .lists
            .iter()
            .map(|list| {
                let tasks = list
                    .tasks
                    .iter()
                    .map(|task| (task.title.as_str(), task.parent))
                    .collect();
                (list.name.as_deref(), list.archived, tasks)
            })
            .collect();
        assert_eq!(
            shape,
            [
                (None, false, vec![("Buy milk", None), ("Call the plumber", None)]),
                (
                    Some("Work"),
                    false,
                    vec![
                        ("Plan the launch", None),
                        ("Book a venue", Some(0)),
                        ("Ask three of them", Some(1))
                    ]
                ),
                (Some("Old house"), true, vec![("Sell the sofa", None)]),
                (Some("Work / Clients"), false, vec![("Pay the invoice", None)]),
                (Some("Work / Doing"), false, vec![("Write the report", None)]),
            ]
        );
    }

    #[test]
    fn priority_four_is_urgent_and_one_is_none() {
        let outline = sample();
        assert_eq!(task(&outline, "Plan the launch").priority, Priority::Urgent);
        assert_eq!(task(&outline, "Book a venue").priority, Priority::High);
        assert_eq!(task(&outline, "Write the report").priority, Priority::Medium);
        assert_eq!(task(&outline, "Buy milk").priority, Priority::None);
    }

    #[test]
    fn the_three_kinds_of_dates_are_told_apart() {
        let outline = sample();
        assert_eq!(
            task(&outline, "Plan the launch").due,
            Some(Due::AllDay("2026-12-01".to_owned()))
        );
        assert_eq!(
            task(&outline, "Book a venue").due,
            Some(Due::Floating("2026-12-01T15:30:00".to_owned()))
        );
        let zoned = Zoned {
            local: "2026-12-01T15:30:00".to_owned(),
            zone: "Europe/Moscow".to_owned(),
        };
        assert_eq!(task(&outline, "Write the report").due, Some(Due::Zoned(zoned)));
    }

    #[test]
    fn labels_notes_durations_and_completion_are_carried_over() {
        let outline = sample();
        let milk = task(&outline, "Buy milk");
        assert_eq!(milk.labels, ["Food", "Shopping"]);
        assert_eq!(
            milk.notes,
            [
                "Two litres",
                "Comment (2026-11-20): The blue one <https://example.org/milk.png>"
            ]
        );
        let launch = task(&outline, "Plan the launch");
        assert_eq!(
            (launch.duration_minutes, launch.deadline.as_deref()),
            (Some(90), Some("2026-12-24"))
        );
        let sofa = task(&outline, "Sell the sofa");
        assert_eq!(
            (sofa.status, sofa.notes.as_slice()),
            (Status::Done, &["Completed: 2026-01-02".to_owned()][..])
        );
        // Deleted ones are not there.
        assert!(
            !outline
                .lists
                .iter()
                .flat_map(|list| &list.tasks)
                .any(|task| task.title == "Gone")
        );
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let remark = |place: &str, what: &str| Remark {
            place: place.to_owned(),
            what: what.to_owned(),
        };
        assert_eq!(
            sample().remarks,
            [
                remark("items[9]", "it cannot be read (missing field `id`)"),
                remark("reminders", "1 reminders were left out"),
                remark("item 2995104339", "a comment became a part of its task's notes"),
                remark("item 103", "the assignment to \"Alan Turing\" was kept in the notes"),
                remark("section 7025", "the section \"Doing\" became the list \"Work / Doing\""),
                remark("item 105", "the repetition \"every month\" was kept in the notes"),
            ]
        );
    }

    #[test]
    fn items_that_are_parts_of_each_other_are_left_out_and_named() {
        let text = r#"{"items":[{"id":"1","content":"a","parent_id":"2"},{"id":"2","content":"b","parent_id":"1"}]}"#;
        let outline = read(text).expect("it is such a file");
        assert_eq!(outline.lists, []);
        assert_eq!(outline.remarks.len(), 2);
    }

    #[test]
    fn old_files_with_numbers_for_ids_and_flags_are_read_too() {
        let text = r#"{"projects":[{"id":1,"name":"P","parent_id":null}],"labels":[{"id":5,"name":"home"}],
            "items":[{"id":7,"project_id":1,"content":"x","checked":1,"labels":[5],"due":null,"is_deleted":0,"child_order":1}]}"#;
        let outline = read(text).expect("it is such a file");
        let task = &outline.lists[0].tasks[0];
        assert_eq!(
            (task.status, task.labels.as_slice()),
            (Status::Done, &["home".to_owned()][..])
        );
        assert_eq!(outline.remarks, []);
    }

    #[test]
    fn other_json_is_refused_with_a_sentence() {
        assert_eq!(
            read("{}"),
            Err("The file is not Todoist's JSON: it has no list named items.".to_owned())
        );
        assert!(read("{").is_err_and(|sentence| sentence.starts_with("The file is not JSON: ")));
    }
}
