//! How many tasks there are of each kind: the sizes of the index's sets.

use taskflow_protocol::values::{Priority, Status, UnixMs};
use taskflow_protocol::{LabelId, ListId};

use super::super::state::State;
use super::filter::Field;
use super::index::{Index, Tasks};
use super::moment::Now;

/// Tasks that are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskCounts {
    /// With each status.
    pub statuses: Vec<(Status, u64)>,
    /// With each priority.
    pub priorities: Vec<(Priority, Count)>,
    /// In each list that is shown, in the order of the lists.
    pub lists: Vec<(ListId, Count)>,
    /// With each label that is shown.
    pub labels: Vec<(LabelId, Count)>,
    /// All of them.
    pub all: Count,
    /// Open, and due before now.
    pub overdue: u64,
    /// Open, and due at some time of today.
    pub due_today: u64,
}

/// Of some kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// All of them.
    pub tasks: u64,
    /// Those that are to be done.
    pub open: u64,
}

impl Count {
    fn of(set: Option<&Tasks>, open: &Tasks) -> Self {
        Self {
            tasks: set.map_or(0, Tasks::len),
            open: set.map_or(0, |set| set.intersection_len(open)),
        }
    }
}

/// Counts what is shown. What it costs grows with the number of lists and labels, and with what is overdue.
pub fn counts(state: &State, now: UnixMs) -> TaskCounts {
    let index = state.index();
    let now = Now::new(now, &state.settings().time_zone);
    let open = index.open();
    let due = |span| index.within(Field::Due, span).intersection_len(&open);
    let of = |set| Count::of(set, &open);
    TaskCounts {
        statuses: [Status::Todo, Status::Doing, Status::Done, Status::Cancelled]
            .map(|status| (status, index.status(status).map_or(0, Tasks::len)))
            .to_vec(),
        priorities: [
            Priority::None,
            Priority::Low,
            Priority::Medium,
            Priority::High,
            Priority::Urgent,
        ]
        .map(|priority| (priority, of(index.priority(priority))))
        .to_vec(),
        lists: state
            .lists()
            .filter(|list| !list.is_deleted())
            .map(|list| (list.id, of(index.list(list.id))))
            .collect(),
        labels: state
            .all_labels()
            .filter(|label| !label.is_deleted())
            .map(|label| (label.id, of(index.label(label.id))))
            .collect(),
        all: of(Some(index.shown())),
        overdue: due(UnixMs::MIN..now.ms),
        due_today: now.day(now.today()).map_or(0, due),
    }
}

impl Index {
    /// Those that are to be done.
    pub fn open(&self) -> Tasks {
        let sets = [Status::Todo, Status::Doing].map(|status| self.status(status).cloned().unwrap_or_default());
        sets.into_iter().fold(Tasks::new(), |open, set| open | set)
    }
}
