//! Finding tasks: filters, full-text search and order, a page at a time.
//!
//! [`Filter`] is the language, [`Index`] finds what it says without looking at each task, [`page`] puts what was found in
//! order and cuts a page out of it.
//!
//! Architecture invariant: what is found is what is shown, and equals what looking at every task would find.

mod counts;
mod filter;
mod index;
mod moment;
mod words;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use taskflow_protocol::limits::SORT_FIELDS_MAX;
use taskflow_protocol::values::{Priority, Status, UnixMs};
use taskflow_protocol::{Code, LabelId, ListId, TaskId};

pub use counts::{Count, TaskCounts, counts};
pub use filter::{Field, Filter, FilterError, Relation, Term, meant};
pub(super) use index::Index;
use index::{Indexed, Tasks};
pub use moment::{Now, When};
pub use words::words;

use super::row::Task;
use super::state::State;

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Query {
    /// In this list only.
    pub list: Option<ListId>,
    /// With this status only.
    pub status: Option<Status>,
    /// For which this holds.
    pub filter: Option<Filter>,
    /// Whose title or notes have words that begin with the words of this text.
    pub search: Option<String>,
    /// In this order.
    pub sort: Sort,
    /// After this one.
    pub after: Option<Mark>,
    /// So many.
    pub limit: usize,
}

/// An order of tasks: by these fields, the first of them first, then by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sort(Vec<(SortField, bool)>);

/// What tasks are sorted by. A task that has no such value comes last, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SortField {
    /// The order that the user gave them: lists by rank, tasks by rank.
    Place,
    Title,
    Status,
    Priority,
    Time(Field),
}

const SORT_FIELDS: &[(&str, SortField)] = &[
    ("place", SortField::Place),
    ("title", SortField::Title),
    ("status", SortField::Status),
    ("priority", SortField::Priority),
    ("due", SortField::Time(Field::Due)),
    ("deadline", SortField::Time(Field::Deadline)),
    ("created", SortField::Time(Field::Created)),
    ("updated", SortField::Time(Field::Updated)),
    ("completed", SortField::Time(Field::Completed)),
];

/// What a task is sorted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
enum Key<'t> {
    Number(i64),
    Text(Cow<'t, str>),
    /// The ranks of the list and of the task in it.
    Place(Cow<'t, str>, ListId, Cow<'t, str>),
    Nothing,
}

impl Key<'_> {
    fn owned(&self) -> Key<'static> {
        let text = |text: &Cow<'_, str>| Cow::Owned(text.clone().into_owned());
        match self {
            Self::Number(number) => Key::Number(*number),
            Self::Text(all) => Key::Text(text(all)),
            Self::Place(list_rank, list, rank) => Key::Place(text(list_rank), *list, text(rank)),
            Self::Nothing => Key::Nothing,
        }
    }
}

/// Where a page ended: what its last task was sorted by. It works when the task has changed or gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    keys: Vec<Key<'static>>,
    task: TaskId,
}

impl Sort {
    /// Reads `priority,-due`: the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut fields = Vec::new();
        for name in text.split(',') {
            let (name, is_descending) = match name.strip_prefix('-') {
                Some(name) => (name, true),
                None => (name, false),
            };
            let known = SORT_FIELDS.iter().find(|(known, _)| *known == name);
            let Some((_, field)) = known else {
                let meant = meant(name, SORT_FIELDS.iter().map(|(known, _)| *known));
                return Err(format!("tasks are not sorted by {name:?}{meant}"));
            };
            fields.push((*field, is_descending));
        }
        if fields.len() > SORT_FIELDS_MAX {
            return Err(format!("tasks are sorted by {SORT_FIELDS_MAX} fields at most"));
        }
        Ok(Self(fields))
    }

    /// Whether a mark is one of this order.
    pub fn fits(&self, mark: &Mark) -> bool {
        mark.keys.len() == self.0.len()
    }

    fn keys<'t>(&'t self, found: &'t Indexed, state: &'t State) -> impl Iterator<Item = Key<'t>> {
        let task = &*found.task;
        self.0.iter().map(move |(field, _)| match field {
            SortField::Place => {
                let list_rank = state.list(task.list).map_or("", |list| list.rank.as_str());
                Key::Place(list_rank.into(), task.list, task.rank.as_str().into())
            }
            SortField::Title => Key::Text((&*found.title).into()),
            SortField::Status => Key::Number(task.status as i64),
            SortField::Priority => Key::Number(task.priority as i64),
            SortField::Time(field) => found.time(*field).map_or(Key::Nothing, Key::Number),
        })
    }

    fn compare(&self, (one, one_id): (&[Key<'_>], TaskId), (other, other_id): (&[Key<'_>], TaskId)) -> Ordering {
        let fields = self.0.iter().zip(one.iter().zip(other));
        let mut orders = fields.map(|((_, is_descending), keys)| match keys {
            (Key::Nothing, Key::Nothing) => Ordering::Equal,
            (Key::Nothing, _) => Ordering::Greater,
            (_, Key::Nothing) => Ordering::Less,
            (one, other) if *is_descending => other.cmp(one),
            (one, other) => one.cmp(other),
        });
        let first = orders.find(|order| order.is_ne());
        first.unwrap_or_else(|| one_id.cmp(&other_id))
    }
}

/// Tasks in their order, and where they end if there are more.
#[derive(Clone, Debug)]
pub struct Page {
    /// The tasks.
    pub tasks: Vec<Arc<Task>>,
    /// The end of this page, if it is not the last.
    pub next: Option<Mark>,
}

/// Why nothing was looked for.
#[derive(Clone, Debug, PartialEq)]
pub enum FindError {
    /// There is no such list.
    NoList,
    /// The filter names what is not there.
    Filter(FilterError),
}

/// A page of what is looked for.
pub fn page(state: &State, query: &Query, now: UnixMs) -> Result<Page, FindError> {
    let index = state.index();
    let finder = Finder {
        state,
        index,
        now: Now::new(now, &state.settings().time_zone),
    };
    let found = finder.find(query)?;
    let sort = &query.sort;
    // The keys of one task after those of the other: what is put in order are numbers of tasks.
    let fields = sort.0.len();
    let found: Vec<&Indexed> = index.tasks(&found).collect();
    let keys: Vec<Key<'_>> = found.iter().flat_map(|found| sort.keys(found, state)).collect();
    let row = |at: u32| {
        let at = at as usize;
        (&keys[at * fields..(at + 1) * fields], found[at].task.id)
    };
    let count = u32::try_from(found.len()).expect("a feed has fewer tasks");
    let mut order: Vec<u32> = (0..count).collect();
    if let Some(after) = &query.after {
        order.retain(|at| sort.compare(row(*at), (&after.keys, after.task)).is_gt());
    }
    let in_order = |one: &u32, other: &u32| sort.compare(row(*one), row(*other));
    let is_last = order.len() <= query.limit;
    if !is_last {
        order.select_nth_unstable_by(query.limit - 1, in_order);
        order.truncate(query.limit);
    }
    order.sort_unstable_by(in_order);
    let next = order.last().filter(|_| !is_last).map(|last| {
        let (keys, task) = row(*last);
        let keys = keys.iter().map(Key::owned).collect();
        Mark { keys, task }
    });
    Ok(Page {
        tasks: order.iter().map(|at| Arc::clone(&found[*at as usize].task)).collect(),
        next,
    })
}

struct Finder<'s> {
    state: &'s State,
    index: &'s Index,
    now: Now,
}

impl Finder<'_> {
    fn find(&self, query: &Query) -> Result<Tasks, FindError> {
        let mut found = self.index.shown().clone();
        if let Some(list) = query.list {
            self.state.list(list).ok_or(FindError::NoList)?;
            found &= known(self.index.list(list));
        }
        if let Some(status) = query.status {
            found &= known(self.index.status(status));
        }
        if let Some(filter) = &query.filter {
            found &= self.filter(filter).map_err(FindError::Filter)?;
        }
        if let Some(text) = &query.search {
            let words = words::words(text);
            // Who looks for signs finds nothing; who has written nothing yet looks for nothing.
            if words.is_empty() && !text.trim().is_empty() {
                return Ok(Tasks::new());
            }
            for word in words {
                found &= self.index.prefix(&word);
            }
        }
        Ok(found)
    }

    fn filter(&self, filter: &Filter) -> Result<Tasks, FilterError> {
        match filter {
            Filter::All(parts) => {
                let mut found = self.index.shown().clone();
                for part in parts {
                    found &= self.filter(part)?;
                }
                Ok(found)
            }
            Filter::Either(parts) => {
                let mut found = Tasks::new();
                for part in parts {
                    found |= self.filter(part)?;
                }
                Ok(found)
            }
            Filter::Not(inner) => Ok(self.index.shown() - self.filter(inner)?),
            Filter::Term(column, term) => self.term(term).map_err(|message| FilterError {
                column: *column,
                message,
            }),
        }
    }

    fn term(&self, term: &Term) -> Result<Tasks, String> {
        let index = self.index;
        Ok(match term {
            Term::Status(statuses) => statuses
                .iter()
                .fold(Tasks::new(), |found, status| found | known(index.status(*status))),
            Term::Priority(relation, priority) => index.priorities(|other| relation.holds(other, *priority)),
            Term::Time(field, relation, when) => {
                let span = when.span(&self.now).ok_or("this time is beyond the calendar")?;
                self.times(*field, *relation, span)
            }
            Term::Without(field) => index.shown() - index.with_time(*field),
            Term::Label(name) => {
                let labels = self.labels(name)?;
                labels
                    .iter()
                    .fold(Tasks::new(), |found, label| found | known(index.label(*label)))
            }
            Term::NoLabel => index.shown() - index.with_labels(),
            Term::List(name) => {
                let lists = self.lists(name)?;
                lists
                    .iter()
                    .fold(Tasks::new(), |found, list| found | known(index.list(*list)))
            }
            Term::Parent(None) => index.shown() - index.with_parent(),
            Term::Parent(Some(parent)) => known(index.subtasks(*parent)),
            Term::Overdue => index.open() & index.within(Field::Due, UnixMs::MIN..self.now.ms),
            Term::Prefix(text) => words::words(text)
                .iter()
                .fold(index.shown().clone(), |found, word| found & index.prefix(word)),
            Term::Words(text) => words::words(text)
                .iter()
                .fold(index.shown().clone(), |found, word| found & known(index.word(word))),
        })
    }

    fn times(&self, field: Field, relation: Relation, span: Range<UnixMs>) -> Tasks {
        let Range { start, end } = span;
        match relation {
            Relation::Is => self.index.within(field, start..end),
            Relation::Below => self.index.within(field, UnixMs::MIN..start),
            Relation::UpTo => self.index.within(field, UnixMs::MIN..end),
            // What lies beyond the calendar is above everything, too.
            Relation::Above => self.index.with_time(field) - self.index.within(field, UnixMs::MIN..end),
            Relation::From => self.index.with_time(field) - self.index.within(field, UnixMs::MIN..start),
        }
    }

    fn labels(&self, name: &str) -> Result<Vec<LabelId>, String> {
        let labels = self.state.all_labels().filter(|label| !label.is_deleted());
        let labels: Vec<_> = labels
            .map(|label| (label.id, label.id.to_string(), label.name.as_str()))
            .collect();
        named("label", name, &labels)
    }

    fn lists(&self, name: &str) -> Result<Vec<ListId>, String> {
        let lists = self.state.lists().filter(|list| !list.is_deleted());
        let lists: Vec<_> = lists
            .map(|list| (list.id, list.id.to_string(), list.name.as_str()))
            .collect();
        named("list", name, &lists)
    }
}

/// Those of this name, without case and accents, or of this id.
fn named<Id: Copy>(kind: &str, name: &str, all: &[(Id, String, &str)]) -> Result<Vec<Id>, String> {
    let wanted = words::folded(name);
    let found = all
        .iter()
        .filter(|(_, id, name)| *id == wanted || words::folded(name) == wanted);
    let found: Vec<_> = found.map(|(id, ..)| *id).collect();
    if found.is_empty() {
        let meant = meant(name, all.iter().map(|(_, _, name)| *name));
        return Err(format!("there is no {kind} {name:?}{meant}"));
    }
    Ok(found)
}

fn known(set: Option<&Tasks>) -> Tasks {
    set.cloned().unwrap_or_default()
}

impl Relation {
    fn holds(self, value: Priority, than: Priority) -> bool {
        match self {
            Self::Is => value == than,
            Self::Below => value < than,
            Self::UpTo => value <= than,
            Self::Above => value > than,
            Self::From => value >= than,
        }
    }
}

impl FindError {
    /// What a client is told.
    pub fn code(&self) -> Code {
        match self {
            Self::NoList => Code::RowNotFound,
            Self::Filter(_) => Code::FilterInvalid,
        }
    }
}
