//! From an outline to operations whose ids are derived from what the file says: doing it again does nothing.
//!
//! A task is the same if the source's own id is the same, or, where the source has none, the list, the parent and the
//! title; the second of two such tasks is the second also in the next file. So a later export of the same project brings
//! what is new in it, and nothing twice.
//!
//! Architecture invariant: no I/O; the same outline and the same copy of the feed give the same operations.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use taskflow_protocol::limits::{
    DURATION_MINUTES_MAX, LABELS_A_TASK_MAX, NAME_BYTES_MAX, NOTES_BYTES_MAX, PARENT_DEPTH_MAX, TITLE_BYTES_MAX,
};
use taskflow_protocol::message::{Command, LabelCreate, ListCreate, ListPatch, Operation, Place, TaskCreate};
use taskflow_protocol::model::{ListFields, Settings, SettingsFields};
use taskflow_protocol::values::Seq;
use taskflow_protocol::{Encoding, LabelId, ListId, OperationId, TaskId, UserId};
use uuid::Uuid;

use super::outline::{Outline, OutlineTask, Remark};
use crate::client::find;
use crate::client::replica::Rows;

/// The version of the inbox and the settings while nobody has changed them since the account was made.
const BIRTH: Seq = 1;

/// What no operation can say: the time of an entry is that at which it was written, and activity and streak are counted by it.
pub const AS_NEW: &str = "what is brought counts as made, and what is done as completed, at the time of the import: history, \
                          activity and streak begin with it";

/// What an operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Makes a list.
    List,
    /// Makes a label.
    Label,
    /// Makes a task.
    Task,
    /// Puts a list away, after its tasks are in it, or gives the inbox its colour.
    ListPatch,
    /// Changes the settings.
    Settings,
}

/// An operation, and what must be there before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What to send.
    pub operation: Operation,
    /// What for.
    pub kind: Kind,
    /// Where in the file.
    pub place: String,
    /// The task's title, the name of the list or label, or what else it is about.
    pub name: String,
    /// Earlier steps.
    pub needs: Vec<usize>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// Tasks that an earlier run brought.
    pub already_there: usize,
    /// Of those, how many are in the bin now.
    pub in_bin: usize,
    /// What was cut or changed to fit.
    pub remarks: Vec<Remark>,
}

/// How to plan.
#[derive(Clone, Copy, Debug)]
pub struct Wishes<'a> {
    /// Everything goes in this list.
    pub list: Option<&'a str>,
    /// What is in the bin is brought once more.
    pub again: bool,
}

/// Plans the import of a file.
///
/// # Errors
///
/// A sentence, when a name means several lists.
pub fn plan(outline: &Outline, user: UserId, rows: &Rows, wishes: Wishes<'_>) -> Result<Plan, String> {
    let mut planning = Planning {
        user,
        seed: Seed::new(user, outline.format),
        is_own: outline.is_own,
        rows,
        wishes,
        plan: Plan::default(),
        lists: BTreeMap::new(),
        labels: BTreeMap::new(),
    };
    for label in &outline.labels {
        planning.label(&label.name, label.color.as_deref());
    }
    let mut archive = Vec::new();
    let inbox = outline.lists.iter().position(|list| list.name.is_none());
    for (at, list) in outline.lists.iter().enumerate() {
        let name = wishes.list.or(list.name.as_deref());
        let color = list.color.as_deref().filter(|_| wishes.list.is_none());
        let place = match outline.is_own && inbox.is_some_and(|inbox| at < inbox) {
            true => Place::Before(ListId(user.0)),
            false => Place::Last,
        };
        let (id, step) = planning.list(name, color, place)?;
        planning.tasks(list.name.as_deref(), &list.tasks, id, step);
        // Also where an earlier run was interrupted before it came to this, and nobody has touched the list since.
        let untouched = rows
            .lists
            .get(&id)
            .is_some_and(|row| !row.archived && row.created_at == row.updated_at);
        if list.archived && wishes.list.is_none() && (step.is_some() || untouched) {
            archive.push((id, step, name.unwrap_or_default().to_owned()));
        }
    }
    for (list, step, name) in archive {
        let command = Command::ListPatch(ListPatch {
            list,
            set: ListFields {
                archived: Some(true),
                ..ListFields::default()
            },
        });
        planning.step(command, Kind::ListPatch, "", &name, step.into_iter().collect());
    }
    if outline.is_own && planning.plan.steps.iter().any(|step| step.kind == Kind::Task) {
        planning.remark("", AS_NEW);
    }
    // What is put in one list is to change nothing else.
    if let (Some(settings), Some(present), None) = (&outline.settings, &rows.settings, wishes.list) {
        planning.settings(settings, present);
    }
    Ok(planning.plan)
}

/// From which all ids come.
struct Seed([u8; 32]);

impl Seed {
    fn new(user: UserId, format: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"taskflow import 2");
        hash.update(user.bytes());
        hash.update(format);
        Self(hash.finalize().into())
    }

    /// UUIDv8 (RFC 9562, section 5.8): bits of a hash. `what` and its parts are separated by their lengths.
    fn id(&self, what: &[&[u8]], generation: u32) -> Uuid {
        let mut hash = Sha256::new();
        hash.update(self.0);
        for part in what {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.update(generation.to_be_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let (first, _) = digest.split_first_chunk::<16>().expect("32 bytes have 16");
        uuid::Builder::from_custom_bytes(*first).into_uuid()
    }
}

struct Planning<'a> {
    user: UserId,
    seed: Seed,
    /// See [`Outline::is_own`].
    is_own: bool,
    rows: &'a Rows,
    wishes: Wishes<'a>,
    plan: Plan,
    /// By name: the id, and the step that makes it if it is new.
    lists: BTreeMap<Option<String>, (ListId, Option<usize>)>,
    labels: BTreeMap<String, (LabelId, Option<usize>)>,
}

impl Planning<'_> {
    fn step(&mut self, command: Command, kind: Kind, place: &str, name: &str, needs: Vec<usize>) -> usize {
        // The body is in the id: should the same row one day be asked for with another body (a list was renamed between
        // two runs), it is another operation, and the row's own id says that it is there.
        let body = Encoding::MsgPack.encode(&command);
        let id = OperationId(self.seed.id(&[b"operation", &body], 0));
        self.plan.steps.push(Step {
            operation: Operation {
                id,
                base: None,
                command,
            },
            kind,
            place: place.to_owned(),
            name: name.to_owned(),
            needs,
        });
        self.plan.steps.len() - 1
    }

    fn remark(&mut self, place: &str, what: impl Into<String>) {
        self.plan.remarks.push(Remark {
            place: place.to_owned(),
            what: what.into(),
        });
    }

    /// The settings as they were, unless somebody has chosen some here.
    fn settings(&mut self, wanted: &Settings, present: &Settings) {
        fn changed<T: PartialEq + Clone>(wanted: &T, present: &T) -> Option<T> {
            (wanted != present).then(|| wanted.clone())
        }
        let set = SettingsFields {
            time_zone: changed(&wanted.time_zone, &present.time_zone),
            week_start: changed(&wanted.week_start, &present.week_start),
            locale: changed(&wanted.locale, &present.locale),
        };
        if set == SettingsFields::default() {
            return;
        }
        if present.version > BIRTH {
            self.remark("", "the settings were changed here, and stay as they are here");
            return;
        }
        self.step(Command::SettingsPatch(set), Kind::Settings, "", "settings", Vec::new());
    }

    /// One line of at most so many bytes; TaskFlow's own ones are that.
    fn line(&self, text: &str, bytes_max: usize) -> String {
        match self.is_own {
            true => text.to_owned(),
            false => fit(text, bytes_max),
        }
    }

    fn list(
        &mut self,
        name: Option<&str>,
        color: Option<&str>,
        place: Place<ListId>,
    ) -> Result<(ListId, Option<usize>), String> {
        let Some(name) = name else {
            let inbox = ListId(self.user.0);
            let untouched = self.rows.lists.get(&inbox).is_none_or(|inbox| inbox.version <= BIRTH);
            if let Some(color) = color.filter(|_| untouched) {
                let set = ListFields {
                    color: Some(Some(color.to_owned())),
                    ..ListFields::default()
                };
                let command = Command::ListPatch(ListPatch { list: inbox, set });
                self.step(command, Kind::ListPatch, "", "Inbox", Vec::new());
            }
            return Ok((inbox, None));
        };
        let name = self.line(name, NAME_BYTES_MAX);
        if let Some(known) = self.lists.get(&Some(name.clone())) {
            return Ok(*known);
        }
        let same = |list: &&&taskflow_protocol::model::List| list.name.to_lowercase() == name.to_lowercase();
        let made = match self.rows.lists_in_order().iter().filter(same).count() {
            // With several of that name the person must say which; `find` has the sentence.
            1.. => (find::list(self.rows, &name)?.id, None),
            0 => {
                let shown = |id: Uuid| self.rows.lists.get(&ListId(id)).map(|list| list.deleted_at.is_none());
                let list = ListId(self.free(&[b"list", name.as_bytes()], &shown));
                if self.rows.lists.contains_key(&list) {
                    // Renamed since an earlier run: its tasks belong there.
                    (list, None)
                } else {
                    let command = Command::ListCreate(ListCreate {
                        list,
                        name: name.clone(),
                        color: color.map(str::to_owned),
                        place,
                    });
                    (list, Some(self.step(command, Kind::List, "", &name, Vec::new())))
                }
            }
        };
        self.lists.insert(Some(name), made);
        Ok(made)
    }

    /// The first derived id that is free or shown; those in the bin are passed over.
    fn free(&self, what: &[&[u8]], shown: &dyn Fn(Uuid) -> Option<bool>) -> Uuid {
        let mut generation = 0;
        loop {
            let id = self.seed.id(what, generation);
            if shown(id) != Some(false) {
                return id;
            }
            generation += 1;
        }
    }

    fn label(&mut self, name: &str, color: Option<&str>) -> (LabelId, Option<usize>) {
        let name = self.line(name, NAME_BYTES_MAX);
        let key = name.to_lowercase();
        if let Some(known) = self.labels.get(&key) {
            return *known;
        }
        let made = match find::label(self.rows, &name) {
            Some(label) => (label.id, None),
            None => {
                let shown = |id: Uuid| {
                    self.rows
                        .labels
                        .get(&LabelId(id))
                        .map(|label| label.deleted_at.is_none())
                };
                let label = LabelId(self.free(&[b"label", key.as_bytes()], &shown));
                if self.rows.labels.contains_key(&label) {
                    (label, None)
                } else {
                    let command = Command::LabelCreate(LabelCreate {
                        label,
                        name: name.clone(),
                        color: color.map(str::to_owned),
                    });
                    (label, Some(self.step(command, Kind::Label, "", &name, Vec::new())))
                }
            }
        };
        self.labels.insert(key, made);
        made
    }

    fn tasks(&mut self, name: Option<&str>, tasks: &[OutlineTask], list: ListId, list_step: Option<usize>) {
        // For each: its id, the step that makes it, and its depth.
        let mut made: Vec<(TaskId, Option<usize>, usize)> = Vec::with_capacity(tasks.len());
        let mut equal: BTreeMap<(Option<TaskId>, &str), u64> = BTreeMap::new();
        for task in tasks {
            let above = task.parent.map(|parent| made[parent].0);
            let nth = equal.entry((above, &task.title)).or_default();
            *nth += 1;
            let (nth, above) = (nth.to_be_bytes(), above.map_or(Uuid::nil(), |above| above.0));
            let identity: &[&[u8]] = match &task.source_id {
                Some(id) => &[b"task by id", id.as_bytes()],
                None => {
                    let list = name.unwrap_or_default().as_bytes();
                    &[b"task", list, above.as_bytes(), task.title.as_bytes(), &nth]
                }
            };
            let parent = self.parent(task, &made, tasks);
            let depth = parent.map_or(0, |parent| made[parent].2 + 1);
            let shown = |id: Uuid| {
                let row = self.rows.tasks.get(&TaskId(id))?;
                Some(!self.wishes.again || self.rows.task_shown(row))
            };
            // Its own id, unless that one is in the bin and wanted once more.
            let own = task.id.filter(|id| shown(id.0) != Some(false));
            let id = own.unwrap_or_else(|| TaskId(self.free(identity, &shown)));
            if let Some(row) = self.rows.tasks.get(&id) {
                self.plan.already_there += 1;
                self.plan.in_bin += usize::from(!self.rows.task_shown(row));
                made.push((id, None, depth));
                continue;
            }
            let mut needs: Vec<usize> = list_step.into_iter().collect();
            let parent = parent.map(|parent| {
                needs.extend(made[parent].1);
                made[parent].0
            });
            let labels = self.labels(task, &mut needs);
            let (title, notes) = self.texts(task);
            let command = Command::TaskCreate(TaskCreate {
                task: id,
                // The inbox has the id of its user, and need not be named.
                list: (list.0 != self.user.0).then_some(list),
                title,
                notes,
                status: task.status,
                priority: task.priority,
                due: task.due.clone(),
                deadline: task.deadline.clone(),
                duration_minutes: self.duration(task),
                labels,
                // Where an earlier run's parent went elsewhere since, the part stands alone.
                parent: parent.filter(|parent| self.rows.tasks.get(parent).is_none_or(|row| row.list == list)),
                place: Place::Last,
            });
            let step = self.step(command, Kind::Task, &task.place, &task.title, needs);
            made.push((id, Some(step), depth));
        }
    }

    /// The parent, or an ancestor of it where subtasks are nested more deeply than they may be.
    fn parent(
        &mut self,
        task: &OutlineTask,
        made: &[(TaskId, Option<usize>, usize)],
        tasks: &[OutlineTask],
    ) -> Option<usize> {
        let mut parent = task.parent?;
        let mut moved = false;
        while made[parent].2 + 1 >= PARENT_DEPTH_MAX {
            parent = tasks[parent].parent?;
            moved = true;
        }
        if moved {
            let what = format!("\"{}\" is nested too deeply and was moved up", task.title);
            self.remark(&task.place, what);
        }
        Some(parent)
    }

    fn labels(&mut self, task: &OutlineTask, needs: &mut Vec<usize>) -> Vec<LabelId> {
        let mut labels = Vec::new();
        for name in &task.labels {
            if labels.len() == LABELS_A_TASK_MAX {
                self.remark(
                    &task.place,
                    format!("it has more than {LABELS_A_TASK_MAX} labels; the others were left out"),
                );
                break;
            }
            let (label, step) = self.label(name, None);
            if !labels.contains(&label) {
                labels.push(label);
                needs.extend(step);
            }
        }
        labels.sort();
        labels
    }

    /// Title and notes as they fit; what is cut from the title stands in the notes.
    fn texts(&mut self, task: &OutlineTask) -> (String, String) {
        if self.is_own {
            return (task.title.clone(), task.notes.concat());
        }
        let title = fit(&task.title, TITLE_BYTES_MAX);
        let mut notes = task.notes.clone();
        if task.title.trim().len() > TITLE_BYTES_MAX {
            notes.insert(0, task.title.clone());
            self.remark(
                &task.place,
                format!("its title is longer than {TITLE_BYTES_MAX} bytes; all of it is in the notes"),
            );
        }
        let mut notes = notes.join("\n\n").replace("\r\n", "\n");
        notes.retain(|letter| !letter.is_control() || letter == '\n' || letter == '\t');
        if notes.len() > NOTES_BYTES_MAX {
            notes.truncate(boundary(&notes, NOTES_BYTES_MAX));
            self.remark(
                &task.place,
                format!("its notes are longer than {NOTES_BYTES_MAX} bytes; the rest was left out"),
            );
        }
        (title, notes)
    }

    fn duration(&mut self, task: &OutlineTask) -> Option<u32> {
        let minutes = task.duration_minutes?;
        if minutes > DURATION_MINUTES_MAX || minutes == 0 {
            self.remark(&task.place, format!("the duration of {minutes} minutes is not allowed"));
            return None;
        }
        Some(minutes)
    }
}

/// One line of at most so many bytes.
fn fit(text: &str, bytes_max: usize) -> String {
    let mut line: String = text
        .trim()
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    if line.len() > bytes_max {
        let end = boundary(&line, bytes_max - '…'.len_utf8());
        line.truncate(end);
        line.push('…');
    }
    line
}

/// The last place at or before `bytes` that is between two characters.
fn boundary(text: &str, bytes: usize) -> usize {
    (0..=bytes.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use taskflow_protocol::model::{List, Task};

    use super::super::outline::OutlineList;
    use super::*;

    const USER: UserId = UserId(Uuid::from_u128(7));
    const PLAIN: Wishes<'static> = Wishes {
        list: None,
        again: false,
    };

    fn task(title: &str, parent: Option<usize>) -> OutlineTask {
        OutlineTask {
            place: "line 1".to_owned(),
            title: title.to_owned(),
            parent,
            ..OutlineTask::default()
        }
    }

    fn outline(name: Option<&str>, tasks: Vec<OutlineTask>) -> Outline {
        let list = OutlineList {
            name: name.map(str::to_owned),
            color: None,
            archived: false,
            tasks,
        };
        Outline {
            format: "todo-txt",
            lists: vec![list],
            ..Outline::default()
        }
    }

    /// The feed after every step was done, each giving a row.
    fn done(plan: &Plan, rows: &Rows) -> Rows {
        let mut rows = rows.clone();
        for step in &plan.steps {
            match &step.operation.command {
                Command::ListCreate(create) => {
                    let list: List = serde_json::from_value(serde_json::json!({
                        "id": create.list, "name": create.name, "rank": "m", "created_at": 1, "updated_at": 1, "version": 1,
                    }))
                    .expect("it is a list");
                    rows.lists.insert(list.id, list);
                }
                Command::LabelCreate(create) => {
                    let label = serde_json::from_value(serde_json::json!({
                        "id": create.label, "name": create.name, "version": 1,
                    }));
                    rows.labels.insert(create.label, label.expect("it is a label"));
                }
                Command::TaskCreate(create) => {
                    let task: Task = serde_json::from_value(serde_json::json!({
                        "id": create.task, "list": create.list.unwrap_or(ListId(USER.0)), "title": create.title,
                        "status": "todo", "priority": "none", "rank": "m", "created_at": 1, "created_by": USER,
                        "updated_at": 1, "updated_by": USER, "version": 1,
                    }))
                    .expect("it is a task");
                    rows.tasks.insert(task.id, task);
                }
                _ => {}
            }
        }
        rows
    }

    fn ids(outline: &Outline) -> Vec<TaskId> {
        let plan = plan(outline, USER, &Rows::default(), PLAIN).expect("no list is ambiguous");
        let tasks = plan.steps.iter().filter_map(|step| match &step.operation.command {
            Command::TaskCreate(create) => Some(create.task),
            _ => None,
        });
        tasks.collect()
    }

    #[test]
    fn the_same_outline_gives_the_same_operations_and_each_needs_what_it_names() {
        let outline = outline(Some("Garden"), vec![task("a", None), task("b", Some(0))]);
        let rows = Rows::default();
        let one = plan(&outline, USER, &rows, PLAIN).expect("no list is ambiguous");
        assert_eq!(one, plan(&outline, USER, &rows, PLAIN).expect("no list is ambiguous"));
        let ids: BTreeSet<_> = one.steps.iter().map(|step| step.operation.id).collect();
        assert_eq!(ids.len(), 3);
        assert_eq!(one.steps[2].needs, [0, 1]);
    }

    #[test]
    fn a_later_export_has_the_same_ids_for_what_was_there() {
        let old = ids(&outline(
            Some("Garden"),
            vec![task("a", None), task("b", Some(0)), task("a", None)],
        ));
        let more = vec![
            task("new", None),
            task("a", None),
            task("b", Some(1)),
            task("a", None),
            task("c", Some(1)),
        ];
        let new = ids(&outline(Some("Garden"), more));
        assert_eq!(new[1..4], old);
        assert!(!old.contains(&new[0]) && !old.contains(&new[4]));
    }

    #[test]
    fn another_list_another_parent_or_another_format_is_another_task() {
        let one = outline(Some("Garden"), vec![task("a", None), task("a", Some(0))]);
        let mut all = ids(&one);
        all.extend(ids(&outline(Some("House"), vec![task("a", None), task("a", Some(0))])));
        all.extend(ids(&Outline {
            format: "todoist-csv",
            ..one
        }));
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 6);
    }

    #[test]
    fn where_the_source_has_ids_they_alone_count() {
        let known = |title: &str| OutlineTask {
            source_id: Some("17".to_owned()),
            ..task(title, None)
        };
        let moved = outline(Some("House"), vec![task("x", None), known("renamed")]);
        assert_eq!(ids(&outline(None, vec![known("a")]))[0], ids(&moved)[1]);
    }

    #[test]
    fn equal_tasks_in_one_file_are_as_many_tasks() {
        let outline = outline(None, vec![task("milk", None), task("milk", None)]);
        let plan = plan(&outline, USER, &Rows::default(), PLAIN).expect("no list is ambiguous");
        assert_eq!(plan.steps.len(), 2);
        assert_ne!(plan.steps[0].operation.id, plan.steps[1].operation.id);
    }

    #[test]
    fn what_an_earlier_run_brought_is_not_brought_again() {
        let mut outline = outline(Some("Garden"), vec![task("a", None), task("b", Some(0))]);
        outline.lists[0].tasks[0].labels = vec!["Home".to_owned(), "home".to_owned()];
        let first = plan(&outline, USER, &Rows::default(), PLAIN).expect("no list is ambiguous");
        assert_eq!(first.steps.len(), 4);
        let rows = done(&first, &Rows::default());
        let second = plan(&outline, USER, &rows, PLAIN).expect("no list is ambiguous");
        assert_eq!((second.steps.len(), second.already_there, second.in_bin), (0, 2, 0));
    }

    #[test]
    fn what_is_in_the_bin_comes_again_only_when_asked_for() {
        let outline = outline(None, vec![task("a", None), task("b", None)]);
        let inbox = serde_json::from_value(serde_json::json!({
            "id": USER, "name": "Inbox", "rank": "m", "created_at": 1, "updated_at": 1, "version": 1,
        }));
        let mut before = Rows::default();
        before.lists.insert(ListId(USER.0), inbox.expect("it is a list"));
        let first = plan(&outline, USER, &before, PLAIN).expect("no list is ambiguous");
        let mut rows = done(&first, &before);
        rows.tasks.values_mut().next().expect("there are two").deleted_at = Some(1);
        let second = plan(&outline, USER, &rows, PLAIN).expect("no list is ambiguous");
        assert_eq!((second.steps.len(), second.already_there, second.in_bin), (0, 2, 1));
        let wishes = Wishes {
            list: None,
            again: true,
        };
        let third = plan(&outline, USER, &rows, wishes).expect("no list is ambiguous");
        assert_eq!((third.steps.len(), third.already_there, third.in_bin), (1, 1, 0));
    }

    #[test]
    fn a_list_of_that_name_is_used_and_one_that_was_deleted_is_made_anew() {
        let outline = outline(Some("garden"), vec![task("a", None)]);
        let first = plan(&outline, USER, &Rows::default(), PLAIN).expect("no list is ambiguous");
        let mut rows = done(&first, &Rows::default());
        rows.tasks.clear();
        let list = *rows.lists.keys().next().expect("it was made");
        rows.lists.get_mut(&list).expect("it was made").name = "Garden".to_owned();
        let second = plan(&outline, USER, &rows, PLAIN).expect("no list is ambiguous");
        assert!(
            matches!(&second.steps[..], [Step { operation: Operation { command: Command::TaskCreate(create), .. }, .. }]
            if create.list == Some(list))
        );
        rows.lists.get_mut(&list).expect("it was made").deleted_at = Some(1);
        let third = plan(&outline, USER, &rows, PLAIN).expect("no list is ambiguous");
        assert!(matches!(&third.steps[0].operation.command, Command::ListCreate(create) if create.list != list));
    }

    #[test]
    fn what_is_too_long_or_too_deep_is_cut_and_named() {
        let mut tasks: Vec<OutlineTask> = (0..10).map(|depth: usize| task("deep", depth.checked_sub(1))).collect();
        tasks.push(OutlineTask {
            notes: vec!["n".repeat(60_000)],
            duration_minutes: Some(10_000_000),
            ..task(&"ö".repeat(1_500), None)
        });
        let plan = plan(&outline(None, tasks), USER, &Rows::default(), PLAIN).expect("no list is ambiguous");
        let creates: Vec<&TaskCreate> = plan
            .steps
            .iter()
            .filter_map(|step| match &step.operation.command {
                Command::TaskCreate(create) => Some(create),
                _ => None,
            })
            .collect();
        assert_eq!(
            (creates[7].parent, creates[8].parent),
            (Some(creates[6].task), Some(creates[6].task))
        );
        assert!(creates[10].title.len() <= TITLE_BYTES_MAX && creates[10].title.ends_with("ö…"));
        assert_eq!(creates[10].notes.len(), NOTES_BYTES_MAX);
        assert_eq!(creates[10].duration_minutes, None);
        assert_eq!(plan.remarks.len(), 5);
    }
}
