//! What one feed holds: all its rows, in the bin or not, and the indexes that the rules and the readers need.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use taskflow_protocol::values::{Seq, UnixMs};
use taskflow_protocol::{LabelId, ListId, TaskId, UserId};
use uuid::Uuid;

use super::activity::{Activity, Quarter};
use super::codec::{self, CodecError};
use super::entry::{Change, Entry};
use super::find::Index;
use super::row::{Label, List, Settings, Stamp, Task};
use crate::planted::{Bug, is_planted};
use crate::ports::{Epoch, RowKey, RowKind, StoredRow};

/// How many rows there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tasks that are not in the bin themselves.
    pub tasks: usize,
    /// Lists that are not in the bin.
    pub lists: usize,
    /// Labels that are not in the bin.
    pub labels: usize,
    /// All lists, labels and tasks, those in the bin included.
    pub rows: usize,
}

/// Rows in the order of their ranks; equal ranks by id.
pub(super) type Order<Id> = BTreeSet<(String, Id)>;

/// Rows and their indexes. A [`State`] holds all rows of a feed, a [`super::Draft`] those that it touched.
///
/// Rows are shared (`Arc`): a snapshot keeps the rows of one `seq` while the state moves on. Maps are ordered, so that
/// everything that is read from them comes in the same order on every run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rows {
    pub(super) tasks: BTreeMap<TaskId, Arc<Task>>,
    pub(super) lists: BTreeMap<ListId, Arc<List>>,
    pub(super) labels: BTreeMap<LabelId, Arc<Label>>,
    pub(super) task_order: BTreeMap<ListId, Order<TaskId>>,
    pub(super) list_order: Order<ListId>,
    /// (parent, subtask), whatever is in the bin.
    subtasks: BTreeSet<(TaskId, TaskId)>,
    pub(super) counts: Counts,
}

impl Rows {
    /// Puts a row in the place of the one with its id; gives back what was there.
    pub(super) fn put_task(&mut self, task: Arc<Task>) -> Option<Arc<Task>> {
        let (id, new) = (task.id, task.clone());
        let old = self.tasks.insert(id, task);
        self.counts
            .replace(old.as_deref().map(Task::is_deleted), Some(new.is_deleted()), |counts| {
                &mut counts.tasks
            });
        let stays = old
            .as_ref()
            .is_some_and(|old| old.list == new.list && old.rank == new.rank);
        if !stays {
            if let Some(old) = &old {
                self.leave_order(old);
            }
            self.task_order
                .entry(new.list)
                .or_default()
                .insert((new.rank.clone(), id));
        }
        let old_parent = old.as_ref().and_then(|old| old.parent);
        if old_parent != new.parent {
            if let Some(parent) = old_parent {
                self.subtasks.remove(&(parent, id));
            }
            if let Some(parent) = new.parent {
                self.subtasks.insert((parent, id));
            }
        }
        old
    }

    /// Takes a task out, as if it had never been there.
    pub(super) fn remove_task(&mut self, id: TaskId) {
        if let Some(old) = self.tasks.remove(&id) {
            self.counts
                .replace(Some(old.is_deleted()), None, |counts| &mut counts.tasks);
            self.leave_order(&old);
            if let Some(parent) = old.parent {
                self.subtasks.remove(&(parent, id));
            }
        }
    }

    fn leave_order(&mut self, task: &Task) {
        if let Some(order) = self.task_order.get_mut(&task.list) {
            order.remove(&(task.rank.clone(), task.id));
            if order.is_empty() {
                self.task_order.remove(&task.list);
            }
        }
    }

    /// Puts a row in the place of the one with its id; gives back what was there.
    pub(super) fn put_list(&mut self, list: Arc<List>) -> Option<Arc<List>> {
        let (key, is_deleted) = ((list.rank.clone(), list.id), list.is_deleted());
        let old = self.lists.insert(list.id, list);
        self.counts
            .replace(old.as_deref().map(List::is_deleted), Some(is_deleted), |counts| {
                &mut counts.lists
            });
        if let Some(old) = &old {
            self.list_order.remove(&(old.rank.clone(), old.id));
        }
        self.list_order.insert(key);
        old
    }

    /// Takes a list out, as if it had never been there.
    pub(super) fn remove_list(&mut self, id: ListId) {
        if let Some(old) = self.lists.remove(&id) {
            self.counts
                .replace(Some(old.is_deleted()), None, |counts| &mut counts.lists);
            self.list_order.remove(&(old.rank.clone(), id));
        }
    }

    /// Puts a row in the place of the one with its id; gives back what was there.
    pub(super) fn put_label(&mut self, label: Arc<Label>) -> Option<Arc<Label>> {
        let is_deleted = label.is_deleted();
        let old = self.labels.insert(label.id, label);
        self.counts
            .replace(old.as_deref().map(Label::is_deleted), Some(is_deleted), |counts| {
                &mut counts.labels
            });
        old
    }

    /// Takes a label out, as if it had never been there.
    pub(super) fn remove_label(&mut self, id: LabelId) {
        if let Some(old) = self.labels.remove(&id) {
            self.counts
                .replace(Some(old.is_deleted()), None, |counts| &mut counts.labels);
        }
    }

    /// The tasks whose parent is this one, by id.
    pub(super) fn subtasks(&self, parent: TaskId) -> impl Iterator<Item = TaskId> + '_ {
        let first = (parent, TaskId(Uuid::nil()));
        let last = (parent, TaskId(Uuid::max()));
        self.subtasks
            .range((Bound::Included(first), Bound::Included(last)))
            .map(|(_, id)| *id)
    }
}

impl Counts {
    /// Counts one row that was replaced: each is `None` where there is no row, else whether that is in the bin.
    pub(super) fn replace(&mut self, old: Option<bool>, new: Option<bool>, live: impl FnOnce(&mut Self) -> &mut usize) {
        self.rows = self.rows + usize::from(new.is_some()) - usize::from(old.is_some());
        let live = live(self);
        *live = *live + usize::from(new == Some(false)) - usize::from(old == Some(false));
    }
}

/// All rows of one feed, after the entry [`Self::seq`].
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    user: UserId,
    epoch: Epoch,
    seq: Seq,
    settings: Settings,
    rows: Rows,
    /// Of the latest quarters: see [`Self::forget_activity`].
    activity: BTreeMap<Quarter, Activity>,
    left_out: BTreeSet<RowKey>,
    index: Indexed,
}

/// The index, if somebody asked for it. It follows from the rows: states are equal with it or without.
#[derive(Debug, Default)]
struct Indexed(OnceLock<Box<Index>>);

impl Clone for Indexed {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Indexed {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl State {
    /// A feed before its birth.
    pub fn new(user: UserId) -> Self {
        Self {
            user,
            epoch: Epoch(0),
            seq: 0,
            settings: Settings::default(),
            rows: Rows::default(),
            activity: BTreeMap::new(),
            left_out: BTreeSet::new(),
            index: Indexed::default(),
        }
    }

    /// Whose feed it is.
    pub fn user(&self) -> UserId {
        self.user
    }

    /// The history that it is of; 0 until it is known.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// It is of this history.
    pub(crate) fn belongs_to(&mut self, epoch: Epoch) {
        self.epoch = epoch;
    }

    /// The last entry that is in it; 0 before birth.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// The inbox has the user's id.
    pub fn inbox(&self) -> ListId {
        ListId(self.user.0)
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A task, in the bin or not.
    pub fn task(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.rows.tasks.get(&id)
    }

    /// A list, in the bin or not.
    pub fn list(&self, id: ListId) -> Option<&Arc<List>> {
        self.rows.lists.get(&id)
    }

    /// A label, in the bin or not.
    pub fn label(&self, id: LabelId) -> Option<&Arc<Label>> {
        self.rows.labels.get(&id)
    }

    /// Every list in the order of the ranks, those in the bin included.
    pub fn lists(&self) -> impl Iterator<Item = &Arc<List>> + '_ {
        self.rows.list_order.iter().filter_map(|(_, id)| self.list(*id))
    }

    /// Every task of a list in the order of the ranks, those in the bin included.
    pub fn tasks_in(&self, list: ListId) -> impl Iterator<Item = &Arc<Task>> + '_ {
        let order = self.rows.task_order.get(&list);
        order.into_iter().flatten().filter_map(|(_, id)| self.task(*id))
    }

    /// As [`Self::tasks_in`], but only what comes after this place: a page does not walk over the pages before it.
    pub fn tasks_in_after(&self, list: ListId, rank: &str, id: TaskId) -> impl Iterator<Item = &Arc<Task>> + '_ {
        let order = self.rows.task_order.get(&list);
        let rest = (Bound::Excluded((rank.to_owned(), id)), Bound::Unbounded);
        let rest = order.into_iter().flat_map(move |order| order.range(rest.clone()));
        rest.filter_map(|(_, id)| self.task(*id))
    }

    /// The direct subtasks of a task by id, those in the bin included.
    pub fn subtasks(&self, parent: TaskId) -> impl Iterator<Item = &Arc<Task>> + '_ {
        self.rows.subtasks(parent).filter_map(|id| self.task(id))
    }

    /// Every list by id, for snapshots.
    pub fn all_lists(&self) -> impl ExactSizeIterator<Item = &Arc<List>> + '_ {
        self.rows.lists.values()
    }

    /// Every label by id, for snapshots.
    pub fn all_labels(&self) -> impl ExactSizeIterator<Item = &Arc<Label>> + '_ {
        self.rows.labels.values()
    }

    /// Every task by id, for snapshots.
    pub fn all_tasks(&self) -> impl ExactSizeIterator<Item = &Arc<Task>> + '_ {
        self.rows.tasks.values()
    }

    /// How many rows there are.
    pub fn counts(&self) -> Counts {
        self.rows.counts
    }

    /// Neither the task, nor its list, nor any parent is in the bin, as far as they can be read.
    pub fn is_shown(&self, task: &Task) -> bool {
        let list_shown = self.list(task.list).is_none_or(|list| !list.is_deleted());
        list_shown && !task.is_deleted() && self.ancestors(task).all(|parent| !parent.is_deleted())
    }

    fn ancestors<'s>(&'s self, task: &Task) -> impl Iterator<Item = &'s Arc<Task>> + 's {
        ancestors(task.parent, |id| self.task(id))
    }

    pub(super) fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Takes in a committed entry. A row that is not older than the entry has it already and stays as it is, so entries
    /// may be replayed over rows that were stored after them.
    pub fn apply(&mut self, entry: &Entry) {
        for change in &entry.changes {
            self.apply_change(change, entry);
        }
        if let Some(done) = Activity::of(entry) {
            self.count(&done);
        }
        if let Some(index) = self.index.0.take()
            && let Some(index) = index.updated(self, entry.changes.iter())
        {
            self.index.0 = OnceLock::from(Box::new(index));
        }
        self.seq = self.seq.max(entry.seq);
    }

    /// What finds tasks. The first who asks pays for it; it is kept up to date from then on.
    pub(super) fn index(&self) -> &Index {
        self.index.0.get_or_init(|| Box::new(Index::new(self)))
    }

    fn count(&mut self, done: &Activity) {
        if self.left_out.contains(&done.quarter.key()) {
            return;
        }
        let counted = self.activity.entry(done.quarter).or_insert_with(|| Activity {
            quarter: done.quarter,
            ..Activity::default()
        });
        if counted.version < done.version || is_planted(Bug::CountedTwice) {
            counted.add(done);
        }
    }

    /// What was done in a quarter, as far as it is in memory.
    pub fn activity(&self, quarter: Quarter) -> Option<&Activity> {
        self.activity.get(&quarter)
    }

    /// What was done in the latest quarters, all that is not stored yet among them.
    pub fn latest_activity(&self) -> Vec<Activity> {
        self.activity.values().cloned().collect()
    }

    /// Forgets what is stored, but for the last quarter: more may be counted there.
    pub fn forget_activity(&mut self, is_stored: impl Fn(RowKey) -> bool) {
        let last = self.activity.last_key_value().map(|(quarter, _)| *quarter);
        self.activity
            .retain(|quarter, _| Some(*quarter) == last || !is_stored(quarter.key()));
    }

    fn apply_change(&mut self, change: &Change, entry: &Entry) {
        if !self.left_out.is_empty() && self.left_out.contains(&key_of(self.user, change)) {
            // Nothing is made up for a row that cannot be read, and nothing writes over it.
            return;
        }
        let seq = entry.seq;
        let rows = &mut self.rows;
        match change {
            Change::TaskPut(put) => {
                if rows.tasks.get(&put.task.id).is_none_or(|row| row.version < seq) {
                    rows.put_task(Arc::new(put.task.clone()));
                }
            }
            Change::TaskSet(set) => {
                if let Some(old) = rows.tasks.get(&set.task).filter(|row| row.version < seq) {
                    let mut row = Task::clone(old);
                    set.change.apply(&mut row);
                    row.touch(
                        seq,
                        Stamp {
                            at: entry.time,
                            by: entry.author,
                        },
                    );
                    rows.put_task(Arc::new(row));
                }
            }
            Change::ListPut(list) => {
                if rows.lists.get(&list.id).is_none_or(|row| row.version < seq) {
                    rows.put_list(Arc::new(List::clone(list)));
                }
            }
            Change::ListSet(set) => {
                if let Some(old) = rows.lists.get(&set.list).filter(|row| row.version < seq) {
                    let mut row = List::clone(old);
                    set.change.apply(&mut row);
                    row.touch(seq, entry.time);
                    rows.put_list(Arc::new(row));
                }
            }
            Change::LabelPut(label) => {
                if rows.labels.get(&label.id).is_none_or(|row| row.version < seq) {
                    rows.put_label(Arc::new(Label::clone(label)));
                }
            }
            Change::LabelSet(set) => {
                if let Some(old) = rows.labels.get(&set.label).filter(|row| row.version < seq) {
                    let mut row = Label::clone(old);
                    set.change.apply(&mut row);
                    row.version = seq;
                    rows.put_label(Arc::new(row));
                }
            }
            Change::SettingsPut(settings) => {
                if self.settings.version < seq {
                    self.settings = Settings::clone(settings);
                }
            }
            Change::SettingsSet(change) => {
                if self.settings.version < seq {
                    change.apply(&mut self.settings);
                    self.settings.version = seq;
                }
            }
        }
    }

    /// The rows that an entry changes.
    pub fn touched<'e>(&self, entry: &'e Entry) -> impl Iterator<Item = RowKey> + use<'e> {
        let user = self.user;
        let counted = Activity::of(entry).map(|done| done.quarter.key());
        let changed = entry.changes.iter().map(move |change| key_of(user, change));
        changed.chain(counted)
    }

    /// Rows that exist, but could not be read when the feed was loaded. No operation may name them.
    pub fn left_out(&self) -> &BTreeSet<RowKey> {
        &self.left_out
    }

    /// This row cannot be read. `false`: without it there is no feed.
    #[must_use]
    pub fn leave_out(&mut self, key: RowKey) -> bool {
        self.left_out.insert(key);
        key.kind != RowKind::Settings && key != list_key(self.inbox())
    }

    /// The entry that last changed a row.
    pub fn version(&self, key: RowKey) -> Option<Seq> {
        let id = Uuid::from_bytes(key.id);
        match key.kind {
            RowKind::Settings => Some(self.settings.version),
            RowKind::List => self.list(ListId(id)).map(|row| row.version),
            RowKind::Task => self.task(TaskId(id)).map(|row| row.version),
            RowKind::Label => self.label(LabelId(id)).map(|row| row.version),
            RowKind::Activity => self.activity(Quarter::of_key(key)?).map(|row| row.version),
        }
    }

    /// A row as the store keeps it; `None` if there is no such row.
    pub fn stored_row(&self, key: RowKey) -> Option<StoredRow> {
        let id = Uuid::from_bytes(key.id);
        let (seq, body) = match key.kind {
            RowKind::Settings => (self.settings.version, codec::encode_row(&self.settings)),
            RowKind::List => {
                let row = self.list(ListId(id))?;
                (row.version, codec::encode_row(&**row))
            }
            RowKind::Task => {
                let row = self.task(TaskId(id))?;
                (row.version, codec::encode_row(&**row))
            }
            RowKind::Label => {
                let row = self.label(LabelId(id))?;
                (row.version, codec::encode_row(&**row))
            }
            RowKind::Activity => {
                let row = self.activity(Quarter::of_key(key)?)?;
                (row.version, codec::encode_row(row))
            }
        };
        Some(StoredRow {
            key,
            seq,
            body: body.into(),
        })
    }

    /// Takes in a row from the store. Follow the last one with [`Self::loaded_upto`].
    pub fn load_row(&mut self, stored: &StoredRow) -> Result<(), CodecError> {
        self.index = Indexed::default();
        let id = Uuid::from_bytes(stored.key.id);
        let check = |found: Uuid, version: Seq| {
            if found == id && version == stored.seq {
                Ok(())
            } else {
                Err(CodecError::OtherRow)
            }
        };
        match stored.key.kind {
            RowKind::Settings => {
                let row: Settings = codec::decode_row(&stored.body)?;
                check(self.user.0, row.version)?;
                self.settings = row;
            }
            RowKind::List => {
                let row: List = codec::decode_row(&stored.body)?;
                check(row.id.0, row.version)?;
                self.rows.put_list(Arc::new(row));
            }
            RowKind::Task => {
                let row: Task = codec::decode_row(&stored.body)?;
                check(row.id.0, row.version)?;
                self.rows.put_task(Arc::new(row));
            }
            RowKind::Label => {
                let row: Label = codec::decode_row(&stored.body)?;
                check(row.id.0, row.version)?;
                self.rows.put_label(Arc::new(row));
            }
            RowKind::Activity => {
                let row = Activity::of_row(stored)?;
                self.activity.insert(row.quarter, row);
            }
        }
        Ok(())
    }

    /// The loaded rows hold every entry up to this one. (Not every entry leaves a trace in a row.)
    pub fn loaded_upto(&mut self, seq: Seq) {
        self.seq = self.seq.max(seq);
    }
}

impl Task {
    /// Stamps it as changed by an entry.
    pub(super) fn touch(&mut self, seq: Seq, stamp: Stamp) {
        self.version = seq;
        self.updated = Some(stamp);
    }
}

impl List {
    /// Stamps it as changed by an entry.
    pub(super) fn touch(&mut self, seq: Seq, time: UnixMs) {
        self.version = seq;
        self.updated_at = time;
    }
}

/// The parents above a task, nearest first. It ends also where damaged rows would make it go round.
pub(super) fn ancestors<'s>(
    parent: Option<TaskId>,
    task: impl Fn(TaskId) -> Option<&'s Arc<Task>> + 's,
) -> impl Iterator<Item = &'s Arc<Task>> + 's {
    let mut next = parent;
    std::iter::from_fn(move || {
        let found = task(next?)?;
        next = found.parent;
        Some(found)
    })
    .take(2 * taskflow_protocol::limits::PARENT_DEPTH_MAX)
}

fn key_of(user: UserId, change: &Change) -> RowKey {
    match change {
        Change::TaskPut(put) => task_key(put.task.id),
        Change::TaskSet(set) => task_key(set.task),
        Change::ListPut(list) => list_key(list.id),
        Change::ListSet(set) => list_key(set.list),
        Change::LabelPut(label) => label_key(label.id),
        Change::LabelSet(set) => label_key(set.label),
        Change::SettingsPut(_) | Change::SettingsSet(_) => settings_key(user),
    }
}

fn task_key(id: TaskId) -> RowKey {
    RowKey {
        kind: RowKind::Task,
        id: *id.bytes(),
    }
}

fn list_key(id: ListId) -> RowKey {
    RowKey {
        kind: RowKind::List,
        id: *id.bytes(),
    }
}

fn label_key(id: LabelId) -> RowKey {
    RowKey {
        kind: RowKind::Label,
        id: *id.bytes(),
    }
}

/// One row a feed, under the user's id.
fn settings_key(user: UserId) -> RowKey {
    RowKey {
        kind: RowKind::Settings,
        id: *user.bytes(),
    }
}
