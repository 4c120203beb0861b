//! What finds tasks without looking at each: sets of them by their values and words.
//!
//! Made when somebody first asks, kept up to date from then on: feeds that nobody filters pay nothing for it. It holds
//! what is shown, so the sizes of its sets are the counts of the dashboard.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Bound, Range};
use std::sync::Arc;

use roaring::{MultiOps as _, RoaringBitmap};
use taskflow_protocol::limits::{SORT_TITLE_BYTES_MAX, WORDS_A_TASK_MAX};
use taskflow_protocol::values::{Priority, Status, UnixMs};
use taskflow_protocol::{LabelId, ListId, TaskId};

use super::super::entry::Change;
use super::super::row::Task;
use super::super::state::State;
use super::filter::Field;
use super::moment::Now;
use super::words::{each_word, folded};

/// A set of tasks.
pub type Tasks = RoaringBitmap;

/// The number of a task in an index: sets of small numbers are small and fast.
type Slot = u32;

/// A task, and of what it is sorted by what is dear to work out.
#[derive(Clone, Debug)]
pub struct Indexed {
    /// The task.
    pub task: Arc<Task>,
    /// Its beginning, without case and accents.
    pub title: Box<str>,
    due: Option<UnixMs>,
    deadline: Option<UnixMs>,
}

impl Indexed {
    fn new(task: Arc<Task>, now: &Now) -> Self {
        // What lies beyond the calendar's end is after everything.
        let due = task.due.as_ref().map(|due| now.due(due).unwrap_or(UnixMs::MAX));
        let deadline = task.deadline.as_ref().map(|day| now.end_of(day).unwrap_or(UnixMs::MAX));
        Self {
            title: beginning(folded(&task.title)),
            due,
            deadline,
            task,
        }
    }

    /// A time of the task.
    pub fn time(&self, field: Field) -> Option<UnixMs> {
        match field {
            Field::Due => self.due,
            Field::Deadline => self.deadline,
            Field::Created => Some(self.task.created.at),
            Field::Updated => Some(self.task.updated().at),
            Field::Completed => self.task.completed.map(|stamp| stamp.at),
        }
    }
}

fn beginning(mut text: String) -> Box<str> {
    text.truncate(text.floor_char_boundary(SORT_TITLE_BYTES_MAX));
    text.into_boxed_str()
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// The zone in which days are days: another one makes another index.
    zone: String,
    slots: Vec<Option<Indexed>>,
    free: Vec<Slot>,
    slot_of: BTreeMap<TaskId, Slot>,
    shown: Tasks,
    /// Lists whose tasks are not shown.
    hidden_lists: BTreeSet<ListId>,
    statuses: BTreeMap<u8, Tasks>,
    priorities: BTreeMap<Priority, Tasks>,
    lists: BTreeMap<ListId, Tasks>,
    labels: BTreeMap<LabelId, Tasks>,
    with_labels: Tasks,
    subtasks: BTreeMap<TaskId, Tasks>,
    with_parent: Tasks,
    times: BTreeMap<Field, BTreeSet<(UnixMs, Slot)>>,
    words: BTreeMap<Box<str>, Tasks>,
}

/// The different words of a task, as far as they count.
fn words_of(task: &Task) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for text in [&task.title, &task.notes] {
        each_word(text, |word| {
            if found.len() < WORDS_A_TASK_MAX && !found.contains(word) {
                found.insert(word.to_owned());
            }
        });
    }
    found
}

/// The words of many tasks at once: far faster than one task after the other.
#[derive(Default)]
struct Collected(HashMap<Box<str>, Vec<Slot>>);

impl Collected {
    /// Takes in a task whose slot is above those before.
    fn add(&mut self, task: &Task, slot: Slot) {
        let mut count = 0;
        for text in [&task.title, &task.notes] {
            each_word(text, |word| {
                if count == WORDS_A_TASK_MAX {
                    return;
                }
                let slots = match self.0.get_mut(word) {
                    Some(slots) => slots,
                    None => self.0.entry(word.into()).or_default(),
                };
                if slots.last() != Some(&slot) {
                    slots.push(slot);
                    count += 1;
                }
            });
        }
    }

    fn sets(self) -> BTreeMap<Box<str>, Tasks> {
        let sets = self
            .0
            .into_iter()
            .map(|(word, slots)| (word, slots.into_iter().collect()));
        sets.collect()
    }
}

impl Index {
    /// Of everything that is shown.
    pub fn new(state: &State) -> Self {
        let mut index = Self {
            zone: state.settings().time_zone.clone(),
            ..Self::default()
        };
        let now = Now::new(0, &index.zone);
        let hidden = state.all_lists().filter(|list| list.is_deleted());
        index.hidden_lists = hidden.map(|list| list.id).collect();
        let mut words = Collected::default();
        for task in state.all_tasks().filter(|task| state.is_shown(task)) {
            let slot = u32::try_from(index.slots.len()).expect("a feed has fewer tasks");
            let indexed = Indexed::new(task.clone(), &now);
            index.set(&indexed, slot, true);
            words.add(task, slot);
            index.slot_of.insert(task.id, slot);
            index.slots.push(Some(indexed));
        }
        index.words = words.sets();
        index
    }

    /// Takes in changes that the state has already. `None`: it has to be made anew.
    pub fn updated<'c>(mut self, state: &State, changes: impl Iterator<Item = &'c Change>) -> Option<Self> {
        if self.zone != state.settings().time_zone {
            return None;
        }
        let now = Now::new(0, &self.zone);
        for change in changes {
            match change {
                Change::TaskPut(put) => self.refresh_with_parts(state, put.task.id, &now),
                Change::TaskSet(set) => self.refresh_with_parts(state, set.task, &now),
                Change::ListPut(list) => self.refresh_list(state, list.id, &now),
                Change::ListSet(set) => self.refresh_list(state, set.list, &now),
                Change::LabelPut(_) | Change::LabelSet(_) | Change::SettingsPut(_) | Change::SettingsSet(_) => {}
            }
        }
        Some(self)
    }

    fn refresh_list(&mut self, state: &State, id: ListId, now: &Now) {
        let is_hidden = state.list(id).is_some_and(|list| list.is_deleted());
        let was_hidden = self.hidden_lists.contains(&id);
        if is_hidden == was_hidden {
            return;
        }
        if is_hidden {
            self.hidden_lists.insert(id);
        } else {
            self.hidden_lists.remove(&id);
        }
        for task in state.tasks_in(id) {
            self.refresh(state, task.id, now);
        }
    }

    /// A task that is shown now, or no more, takes its parts along.
    fn refresh_with_parts(&mut self, state: &State, id: TaskId, now: &Now) {
        let was_shown = self.slot_of.contains_key(&id);
        self.refresh(state, id, now);
        if self.slot_of.contains_key(&id) != was_shown {
            for part in state.subtasks(id) {
                self.refresh_with_parts(state, part.id, now);
            }
        }
    }

    /// Takes in how a task is now.
    fn refresh(&mut self, state: &State, id: TaskId, now: &Now) {
        let slot = match self.slot_of.get(&id) {
            Some(&slot) => {
                if let Some(old) = self.slots[slot as usize].take() {
                    self.set(&old, slot, false);
                    self.set_words(&old.task, slot, false);
                }
                Some(slot)
            }
            None => None,
        };
        let shown = state.task(id).filter(|task| state.is_shown(task));
        match (slot, shown) {
            (None, None) => {}
            (Some(slot), None) => {
                self.slot_of.remove(&id);
                self.free.push(slot);
            }
            (known, Some(task)) => {
                let slot = known.unwrap_or_else(|| {
                    self.free.pop().unwrap_or_else(|| {
                        self.slots.push(None);
                        u32::try_from(self.slots.len() - 1).expect("a feed has fewer tasks")
                    })
                });
                self.slot_of.insert(id, slot);
                let indexed = Indexed::new(task.clone(), now);
                self.set(&indexed, slot, true);
                self.set_words(task, slot, true);
                self.slots[slot as usize] = Some(indexed);
            }
        }
    }

    fn set(&mut self, indexed: &Indexed, slot: Slot, is_in: bool) {
        let task = &indexed.task;
        put(&mut self.shown, slot, is_in);
        put_in(&mut self.statuses, task.status as u8, slot, is_in);
        put_in(&mut self.priorities, task.priority, slot, is_in);
        put_in(&mut self.lists, task.list, slot, is_in);
        for label in &task.labels {
            put_in(&mut self.labels, *label, slot, is_in);
        }
        if !task.labels.is_empty() {
            put(&mut self.with_labels, slot, is_in);
        }
        if let Some(parent) = task.parent {
            put_in(&mut self.subtasks, parent, slot, is_in);
            put(&mut self.with_parent, slot, is_in);
        }
        for field in Field::ALL {
            if let Some(time) = indexed.time(field) {
                let times = self.times.entry(field).or_default();
                if is_in {
                    times.insert((time, slot));
                } else {
                    times.remove(&(time, slot));
                }
            }
        }
    }

    fn set_words(&mut self, task: &Task, slot: Slot, is_in: bool) {
        for word in words_of(task) {
            put_in(&mut self.words, word.into_boxed_str(), slot, is_in);
        }
    }

    /// The tasks of a set.
    pub fn tasks<'i>(&'i self, set: &'i Tasks) -> impl Iterator<Item = &'i Indexed> + 'i {
        set.iter().filter_map(|slot| self.slots.get(slot as usize)?.as_ref())
    }

    /// Everything.
    pub fn shown(&self) -> &Tasks {
        &self.shown
    }

    /// Those with this status.
    pub fn status(&self, status: Status) -> Option<&Tasks> {
        self.statuses.get(&(status as u8))
    }

    /// Those with one of these priorities.
    pub fn priorities(&self, wanted: impl Fn(Priority) -> bool) -> Tasks {
        let sets = self.priorities.iter().filter(|(priority, _)| wanted(**priority));
        sets.fold(Tasks::new(), |found, (_, set)| found | set)
    }

    /// Those with this priority.
    pub fn priority(&self, priority: Priority) -> Option<&Tasks> {
        self.priorities.get(&priority)
    }

    /// Those in this list.
    pub fn list(&self, list: ListId) -> Option<&Tasks> {
        self.lists.get(&list)
    }

    /// Those with this label.
    pub fn label(&self, label: LabelId) -> Option<&Tasks> {
        self.labels.get(&label)
    }

    /// Those with any label.
    pub fn with_labels(&self) -> &Tasks {
        &self.with_labels
    }

    /// The parts of a task.
    pub fn subtasks(&self, parent: TaskId) -> Option<&Tasks> {
        self.subtasks.get(&parent)
    }

    /// Those that are part of another one.
    pub fn with_parent(&self) -> &Tasks {
        &self.with_parent
    }

    /// Those with a time in this span.
    pub fn within(&self, field: Field, span: Range<UnixMs>) -> Tasks {
        let times = self.times.get(&field).filter(|_| span.start < span.end);
        let found = times.map(|times| times.range((span.start, 0)..(span.end, 0)));
        found.into_iter().flatten().map(|(_, slot)| *slot).collect()
    }

    /// Those with such a time at all.
    pub fn with_time(&self, field: Field) -> Tasks {
        self.times
            .get(&field)
            .into_iter()
            .flatten()
            .map(|(_, slot)| *slot)
            .collect()
    }

    /// Those with a word that begins so.
    pub fn prefix(&self, prefix: &str) -> Tasks {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let words = self.words.range::<str, _>(from);
        let words = words.take_while(|(word, _)| word.starts_with(prefix));
        words.map(|(_, set)| set).union()
    }

    /// Those with this word.
    pub fn word(&self, word: &str) -> Option<&Tasks> {
        self.words.get(word)
    }
}

fn put(set: &mut Tasks, slot: Slot, is_in: bool) {
    if is_in {
        set.insert(slot);
    } else {
        set.remove(slot);
    }
}

fn put_in<K: Ord>(sets: &mut BTreeMap<K, Tasks>, key: K, slot: Slot, is_in: bool) {
    if is_in {
        sets.entry(key).or_default().insert(slot);
    } else if let Some(set) = sets.get_mut(&key) {
        set.remove(slot);
        if set.is_empty() {
            sets.remove(&key);
        }
    }
}

#[cfg(test)]
impl Index {
    /// Every set with a name, by the ids of its tasks.
    pub fn sets(&self) -> BTreeMap<String, BTreeSet<TaskId>> {
        assert_eq!(
            self.slots.len() - self.free.len(),
            self.slot_of.len(),
            "numbers are used again"
        );
        let mut sets: BTreeMap<String, Tasks> = BTreeMap::new();
        for (name, set) in [
            ("shown", &self.shown),
            ("labels", &self.with_labels),
            ("parents", &self.with_parent),
        ] {
            sets.insert(name.to_owned(), set.clone());
        }
        sets.extend(
            self.statuses
                .iter()
                .map(|(key, set)| (format!("status {key}"), set.clone())),
        );
        sets.extend(
            self.priorities
                .iter()
                .map(|(key, set)| (format!("{key:?}"), set.clone())),
        );
        sets.extend(self.lists.iter().map(|(key, set)| (format!("list {key}"), set.clone())));
        sets.extend(
            self.labels
                .iter()
                .map(|(key, set)| (format!("label {key}"), set.clone())),
        );
        sets.extend(
            self.subtasks
                .iter()
                .map(|(key, set)| (format!("parent {key}"), set.clone())),
        );
        sets.extend(self.words.iter().map(|(key, set)| (format!("word {key}"), set.clone())));
        for (field, times) in &self.times {
            for (time, slot) in times {
                sets.entry(format!("{field:?} {time}")).or_default().insert(*slot);
            }
        }
        let ids = |set: &Tasks| self.tasks(set).map(|found| found.task.id).collect();
        sets.iter().map(|(name, set)| (name.clone(), ids(set))).collect()
    }
}
