//! The rows as a draft sees them: those of the state, and on top of them those that the draft touched.
//!
//! [`Overlay`] reads through and remembers, for the operation under way, what each row it touches was before: from that
//! come the changes of the entry, and the way back if the operation is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use taskflow_protocol::limits::{LABELS_A_FEED_MAX, LISTS_A_FEED_MAX, ROWS_A_FEED_MAX, TASKS_A_FEED_MAX};
use taskflow_protocol::values::Seq;
use taskflow_protocol::{Code, LabelId, ListId, TaskId};

use super::super::entry::{Change, LabelSet, ListSet, TaskPut, TaskSet};
use super::super::fields::{LabelChange, ListChange, SettingsChange, TaskChange};
use super::super::row::{Label, List, Settings, Stamp, Task};
use super::super::state::{Counts, Rows, State};
use super::Refusal;

/// Rows of one kind that the operation under way has touched, in that order, and what they were before.
struct Touched<Id, Row> {
    order: Vec<Id>,
    before: BTreeMap<Id, Option<Arc<Row>>>,
}

impl<Id: Copy + Ord, Row> Default for Touched<Id, Row> {
    fn default() -> Self {
        Self {
            order: Vec::new(),
            before: BTreeMap::new(),
        }
    }
}

impl<Id: Copy + Ord, Row> Touched<Id, Row> {
    fn note(&mut self, id: Id, before: Option<Arc<Row>>) {
        self.before.entry(id).or_insert_with(|| {
            self.order.push(id);
            before
        });
    }

    fn iter(&self) -> impl Iterator<Item = (Id, Option<&Arc<Row>>)> + '_ {
        self.order
            .iter()
            .map(|id| (*id, self.before.get(id).and_then(Option::as_ref)))
    }
}

/// See the module.
pub(super) struct Overlay<'a> {
    state: &'a State,
    /// The touched rows.
    rows: Rows,
    settings: Option<Settings>,
    /// Of all rows together.
    counts: Counts,
    tasks_touched: Touched<TaskId, Task>,
    lists_touched: Touched<ListId, List>,
    labels_touched: Touched<LabelId, Label>,
    settings_before: Option<Settings>,
    counts_before: Counts,
}

impl<'a> Overlay<'a> {
    pub(super) fn new(state: &'a State) -> Self {
        Self {
            state,
            rows: Rows::default(),
            settings: None,
            counts: state.counts(),
            tasks_touched: Touched::default(),
            lists_touched: Touched::default(),
            labels_touched: Touched::default(),
            settings_before: None,
            counts_before: state.counts(),
        }
    }

    pub(super) fn state(&self) -> &'a State {
        self.state
    }

    /// The touched rows alone.
    pub(super) fn touched_rows(&self) -> &Rows {
        &self.rows
    }

    pub(super) fn task(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.rows.tasks.get(&id).or_else(|| self.state.task(id))
    }

    pub(super) fn list(&self, id: ListId) -> Option<&Arc<List>> {
        self.rows.lists.get(&id).or_else(|| self.state.list(id))
    }

    pub(super) fn label(&self, id: LabelId) -> Option<&Arc<Label>> {
        self.rows.labels.get(&id).or_else(|| self.state.label(id))
    }

    pub(super) fn settings(&self) -> &Settings {
        self.settings.as_ref().unwrap_or(self.state.settings())
    }

    /// The direct subtasks, those in the bin included.
    pub(super) fn subtasks(&self, parent: TaskId) -> impl Iterator<Item = TaskId> + '_ {
        let untouched = self.state.rows().subtasks(parent);
        untouched
            .filter(|id| !self.rows.tasks.contains_key(id))
            .chain(self.rows.subtasks(parent))
    }

    pub(super) fn put_task(&mut self, task: Task) {
        let (id, is_deleted) = (task.id, task.is_deleted());
        let before = self.task(id).cloned();
        self.counts
            .replace(before.as_deref().map(Task::is_deleted), Some(is_deleted), |counts| {
                &mut counts.tasks
            });
        self.rows.put_task(Arc::new(task));
        self.tasks_touched.note(id, before);
    }

    pub(super) fn put_list(&mut self, list: List) {
        let (id, is_deleted) = (list.id, list.is_deleted());
        let before = self.list(id).cloned();
        self.counts
            .replace(before.as_deref().map(List::is_deleted), Some(is_deleted), |counts| {
                &mut counts.lists
            });
        self.rows.put_list(Arc::new(list));
        self.lists_touched.note(id, before);
    }

    pub(super) fn put_label(&mut self, label: Label) {
        let (id, is_deleted) = (label.id, label.is_deleted());
        let before = self.label(id).cloned();
        self.counts
            .replace(before.as_deref().map(Label::is_deleted), Some(is_deleted), |counts| {
                &mut counts.labels
            });
        self.rows.put_label(Arc::new(label));
        self.labels_touched.note(id, before);
    }

    pub(super) fn put_settings(&mut self, settings: Settings) {
        if self.settings_before.is_none() {
            self.settings_before = Some(self.settings().clone());
        }
        self.settings = Some(settings);
    }

    /// The tasks that the operation under way has touched, as they were.
    pub(super) fn tasks_before(&self) -> impl Iterator<Item = (TaskId, Option<&Arc<Task>>)> + '_ {
        self.tasks_touched.iter()
    }

    /// A task as it was before the operation under way.
    pub(super) fn task_before(&self, id: TaskId) -> Option<&Arc<Task>> {
        match self.tasks_touched.before.get(&id) {
            Some(before) => before.as_ref(),
            None => self.task(id),
        }
    }

    /// A list as it was before the operation under way.
    pub(super) fn list_before(&self, id: ListId) -> Option<&Arc<List>> {
        match self.lists_touched.before.get(&id) {
            Some(before) => before.as_ref(),
            None => self.list(id),
        }
    }

    /// Refuses if the operation under way left more rows than a feed may hold. What it did not add to, it may leave.
    pub(super) fn check_counts(&self) -> Result<(), Refusal> {
        let (now, before) = (&self.counts, &self.counts_before);
        for (what, now, before, max) in [
            ("tasks", now.tasks, before.tasks, TASKS_A_FEED_MAX),
            ("lists", now.lists, before.lists, LISTS_A_FEED_MAX),
            ("labels", now.labels, before.labels, LABELS_A_FEED_MAX),
            ("rows", now.rows, before.rows, ROWS_A_FEED_MAX),
        ] {
            if now > before && now > max {
                let why = match what {
                    "rows" => format!("a feed holds at most {max} rows, those in the bin included"),
                    _ => format!("a feed holds at most {max} {what}"),
                };
                return Err(Refusal::new(Code::LimitReached).field(what).because(why));
            }
        }
        Ok(())
    }

    /// The net change of each row that the operation under way touched, in the order of [`super::super::Entry`]. The rows
    /// get the version and stamp that applying those changes gives them. Follow it with [`Self::keep`], or roll back.
    pub(super) fn changes(&mut self, seq: Seq, stamp: Stamp) -> Vec<Change> {
        let mut changes = Vec::with_capacity(self.tasks_touched.order.len());
        if let (Some(before), Some(settings)) = (&self.settings_before, &mut self.settings) {
            let change = SettingsChange::between(before, settings);
            if !change.is_empty() {
                settings.version = seq;
                changes.push(Change::SettingsSet(Box::new(change)));
            }
        }
        for (id, before) in self.lists_touched.iter() {
            let Some(row) = self.rows.lists.get(&id) else { continue };
            let mut row = List::clone(row);
            let change = match before {
                None => {
                    row.version = seq;
                    Change::ListPut(Box::new(row.clone()))
                }
                Some(before) => {
                    let change = ListChange::between(before, &row);
                    if change.is_empty() {
                        continue;
                    }
                    row.touch(seq, stamp.at);
                    Change::ListSet(Box::new(ListSet { list: id, change }))
                }
            };
            changes.push(change);
            self.rows.put_list(Arc::new(row));
        }
        for (id, before) in self.labels_touched.iter() {
            let Some(row) = self.rows.labels.get(&id) else { continue };
            let mut row = Label::clone(row);
            row.version = seq;
            let change = match before {
                None => Change::LabelPut(Box::new(row.clone())),
                Some(before) => {
                    let change = LabelChange::between(before, &row);
                    if change.is_empty() {
                        continue;
                    }
                    Change::LabelSet(Box::new(LabelSet { label: id, change }))
                }
            };
            changes.push(change);
            self.rows.put_label(Arc::new(row));
        }
        for (id, before) in self.tasks_touched.iter() {
            let Some(row) = self.rows.tasks.get(&id) else { continue };
            let mut row = Task::clone(row);
            let change = match before {
                None => {
                    row.version = seq;
                    Change::TaskPut(Box::new(TaskPut {
                        task: row.clone(),
                        moved: None,
                    }))
                }
                Some(before) => {
                    let change = TaskChange::between(before, &row);
                    if change.is_empty() {
                        continue;
                    }
                    row.touch(seq, stamp);
                    if change.list.is_some() {
                        Change::TaskPut(Box::new(TaskPut {
                            task: row.clone(),
                            moved: Some(change),
                        }))
                    } else {
                        Change::TaskSet(Box::new(TaskSet {
                            task: id,
                            list: row.list,
                            change,
                        }))
                    }
                }
            };
            changes.push(change);
            self.rows.put_task(Arc::new(row));
        }
        changes
    }

    /// Ends the operation under way: what it did stays.
    pub(super) fn keep(&mut self) {
        self.settings_before = None;
        self.lists_touched = Touched::default();
        self.labels_touched = Touched::default();
        self.tasks_touched = Touched::default();
        self.counts_before = self.counts;
    }

    /// Ends the operation under way as if it had not begun.
    pub(super) fn roll_back(&mut self) {
        if let Some(before) = self.settings_before.take() {
            self.settings = Some(before);
        }
        for (id, before) in self.lists_touched.iter() {
            match before {
                Some(before) => drop(self.rows.put_list(before.clone())),
                None => self.rows.remove_list(id),
            }
        }
        for (id, before) in self.labels_touched.iter() {
            match before {
                Some(before) => drop(self.rows.put_label(before.clone())),
                None => self.rows.remove_label(id),
            }
        }
        for (id, before) in self.tasks_touched.iter() {
            match before {
                Some(before) => drop(self.rows.put_task(before.clone())),
                None => self.rows.remove_task(id),
            }
        }
        self.counts = self.counts_before;
        self.keep();
    }
}
