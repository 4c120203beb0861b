//! A client's copy of a feed that trusts nobody: every rule of docs/protocol.md that a server could break is checked.

use std::collections::{BTreeMap, HashMap};

use taskflow_protocol::message::{Change, Entries, Entry, FollowMode, Following, ServerMessage, Snapshot};
use taskflow_protocol::model::{Label, LabelFields, List, ListFields, Settings, SettingsFields, Task, TaskFields};
use taskflow_protocol::values::Seq;
use taskflow_protocol::{LabelId, ListId, OperationId, TaskId};

/// All rows of a feed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Tasks, those in the bin included.
    pub tasks: BTreeMap<TaskId, Task>,
    /// Lists.
    pub lists: BTreeMap<ListId, List>,
    /// Labels.
    pub labels: BTreeMap<LabelId, Label>,
    /// Settings.
    pub settings: Option<Settings>,
}

/// What a server must never do, in the words of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// An entry came before one that should have come first.
    Gap {
        /// What should have come.
        expected: Seq,
        /// What came.
        came: Seq,
    },
    /// An entry came a second time, or an older one after a newer one.
    Again {
        /// The last one that came.
        position: Seq,
        /// What came.
        came: Seq,
    },
    /// An operation made two entries.
    DoneTwice(OperationId, Seq, Seq),
    /// A client with a good cursor was told to start anew.
    Reset(String),
    /// A change is about a row that is not there.
    NoSuchRow(Seq),
    /// A snapshot is not what it announces.
    Snapshot(String),
}

/// A copy of a feed.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    /// The rows after the entry at `position`.
    pub rows: Rows,
    /// The last entry applied, or that of the snapshot.
    pub position: Seq,
    /// What to bring when connecting again.
    pub cursor: Option<String>,
    /// The entries that came, by the operations that made them.
    pub entries: HashMap<OperationId, Seq>,
    /// A snapshot that is not whole yet, and the piece that comes next.
    loading: Option<(Rows, u32)>,
}

impl Replica {
    /// A connection was made; a half snapshot is forgotten.
    pub fn connected(&mut self) {
        self.loading = None;
    }

    /// Whether the rows can be used.
    pub fn is_whole(&self) -> bool {
        self.cursor.is_some() && self.loading.is_none()
    }

    /// Takes a message about this feed; others do nothing.
    pub fn take(&mut self, message: ServerMessage) -> Result<(), Wrong> {
        match message {
            ServerMessage::Following(following) => self.following(&following),
            ServerMessage::Snapshot(snapshot) => self.snapshot(snapshot),
            ServerMessage::Entries(entries) => self.entries(entries),
            _ => Ok(()),
        }
    }

    fn following(&mut self, following: &Following) -> Result<(), Wrong> {
        if following.mode == FollowMode::Reset {
            self.loading = Some((Rows::default(), 0));
            if self.cursor.is_some() {
                return Err(Wrong::Reset(format!("{:?}", following.reason)));
            }
        }
        Ok(())
    }

    fn snapshot(&mut self, snapshot: Snapshot) -> Result<(), Wrong> {
        let Some((rows, next)) = &mut self.loading else {
            return Err(Wrong::Snapshot("nobody asked for it".to_owned()));
        };
        if snapshot.piece != *next {
            return Err(Wrong::Snapshot(format!("piece {} came for {next}", snapshot.piece)));
        }
        *next += 1;
        rows.settings = snapshot.settings.or(rows.settings.take());
        rows.lists
            .extend(snapshot.lists.into_iter().map(|list| (list.id, list)));
        rows.labels
            .extend(snapshot.labels.into_iter().map(|label| (label.id, label)));
        rows.tasks
            .extend(snapshot.tasks.into_iter().map(|task| (task.id, task)));
        if let Some(done) = snapshot.done {
            let count = rows.tasks.len() + rows.lists.len() + rows.labels.len() + usize::from(rows.settings.is_some());
            if count as u64 != done.rows {
                return Err(Wrong::Snapshot(format!("{count} rows came of {}", done.rows)));
            }
            self.rows = std::mem::take(rows);
            self.loading = None;
            self.position = snapshot.seq;
            self.cursor = Some(done.cursor);
        }
        Ok(())
    }

    fn entries(&mut self, entries: Entries) -> Result<(), Wrong> {
        for entry in entries.entries {
            let (position, came) = (self.position, entry.seq);
            if came <= position {
                return Err(Wrong::Again { position, came });
            }
            if came != position + 1 {
                return Err(Wrong::Gap {
                    expected: position + 1,
                    came,
                });
            }
            if let Some(first) = self.entries.insert(entry.operation, came) {
                return Err(Wrong::DoneTwice(entry.operation, first, came));
            }
            self.rows.apply(entry)?;
            self.position = came;
        }
        self.cursor = Some(entries.cursor);
        Ok(())
    }
}

impl Rows {
    fn apply(&mut self, entry: Entry) -> Result<(), Wrong> {
        let missing = Wrong::NoSuchRow(entry.seq);
        for change in entry.changes {
            match change {
                Change::TaskPut(put) => {
                    self.tasks.insert(put.task.id, put.task);
                }
                Change::TaskSet(set) => {
                    let task = self.tasks.get_mut(&set.task).ok_or(missing.clone())?;
                    set_task(task, set.set);
                    task.version = entry.seq;
                    task.updated_at = entry.time;
                    task.updated_by = entry.author;
                }
                Change::ListPut(list) => {
                    self.lists.insert(list.id, list);
                }
                Change::ListSet(set) => {
                    let list = self.lists.get_mut(&set.list).ok_or(missing.clone())?;
                    set_list(list, set.set);
                    list.version = entry.seq;
                    list.updated_at = entry.time;
                }
                Change::LabelPut(label) => {
                    self.labels.insert(label.id, label);
                }
                Change::LabelSet(set) => {
                    let label = self.labels.get_mut(&set.label).ok_or(missing.clone())?;
                    set_label(label, set.set);
                    label.version = entry.seq;
                }
                Change::SettingsSet(set) => {
                    let settings = self.settings.as_mut().ok_or(missing.clone())?;
                    set_settings(settings, set);
                    settings.version = entry.seq;
                }
            }
        }
        Ok(())
    }
}

/// A field that is given replaces the row's.
fn replace<T>(field: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *field = given;
    }
}

fn set_task(task: &mut Task, set: TaskFields) {
    replace(&mut task.title, set.title);
    replace(&mut task.notes, set.notes);
    replace(&mut task.status, set.status);
    replace(&mut task.priority, set.priority);
    replace(&mut task.due, set.due);
    replace(&mut task.deadline, set.deadline);
    replace(&mut task.duration_minutes, set.duration_minutes);
    replace(&mut task.labels, set.labels);
    replace(&mut task.parent, set.parent);
    replace(&mut task.rank, set.rank);
    replace(&mut task.completed_at, set.completed_at);
    replace(&mut task.completed_by, set.completed_by);
    replace(&mut task.deleted_at, set.deleted_at);
}

fn set_list(list: &mut List, set: ListFields) {
    replace(&mut list.name, set.name);
    replace(&mut list.color, set.color);
    replace(&mut list.rank, set.rank);
    replace(&mut list.archived, set.archived);
    replace(&mut list.deleted_at, set.deleted_at);
}

fn set_label(label: &mut Label, set: LabelFields) {
    replace(&mut label.name, set.name);
    replace(&mut label.color, set.color);
    replace(&mut label.deleted_at, set.deleted_at);
}

fn set_settings(settings: &mut Settings, set: SettingsFields) {
    replace(&mut settings.time_zone, set.time_zone);
    replace(&mut settings.week_start, set.week_start);
    replace(&mut settings.locale, set.locale);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FEED: &str = "0197a3c0-1111-7aaa-8000-000000000001";

    fn take(replica: &mut Replica, message: serde_json::Value) -> Result<(), Wrong> {
        replica.take(serde_json::from_value(message).unwrap())
    }

    /// A replica at position 1 of a feed that was just born.
    fn born() -> Replica {
        let mut replica = Replica::default();
        take(
            &mut replica,
            json!({"following": {"feed": FEED, "mode": "reset", "reason": "no_cursor", "head": 1}}),
        )
        .unwrap();
        take(
            &mut replica,
            json!({"snapshot": {"feed": FEED, "seq": 1, "piece": 0,
                "settings": {"time_zone": "UTC", "week_start": "monday", "locale": "en", "version": 1},
                "done": {"cursor": "one", "rows": 1}}}),
        )
        .unwrap();
        replica
    }

    fn entries(seqs: &[(u64, u32)]) -> serde_json::Value {
        let entries: Vec<_> = seqs
            .iter()
            .map(|(seq, operation)| {
                json!({"seq": seq, "time": 5, "author": FEED, "operation": operation_id(*operation),
                    "changes": [{"settings_set": {"locale": format!("l{seq}")}}]})
            })
            .collect();
        json!({"entries": {"feed": FEED, "entries": entries, "cursor": "later"}})
    }

    fn operation_id(number: u32) -> OperationId {
        format!("0197a3c0-5555-7aaa-8000-{number:012}").parse().unwrap()
    }

    #[test]
    fn entries_in_order_are_applied_and_move_the_cursor() {
        let mut replica = born();
        take(&mut replica, entries(&[(2, 2), (3, 3)])).unwrap();
        assert_eq!((replica.position, replica.cursor.as_deref()), (3, Some("later")));
        let settings = replica.rows.settings.unwrap();
        assert_eq!((settings.locale.as_str(), settings.version), ("l3", 3));
    }

    #[test]
    fn a_gap_a_repeat_and_an_operation_done_twice_are_told_apart() {
        assert_eq!(
            take(&mut born(), entries(&[(3, 3)])),
            Err(Wrong::Gap { expected: 2, came: 3 })
        );
        assert_eq!(
            take(&mut born(), entries(&[(2, 2), (2, 3)])),
            Err(Wrong::Again { position: 2, came: 2 })
        );
        assert_eq!(
            take(&mut born(), entries(&[(2, 7), (3, 7)])),
            Err(Wrong::DoneTwice(operation_id(7), 2, 3))
        );
    }

    #[test]
    fn a_reset_of_a_good_cursor_is_wrong() {
        let reset = json!({"following": {"feed": FEED, "mode": "reset", "reason": "cursor_ahead", "head": 1}});
        assert_eq!(
            take(&mut born(), reset),
            Err(Wrong::Reset("Some(CursorAhead)".to_owned()))
        );
    }

    #[test]
    fn a_snapshot_with_a_row_missing_is_wrong() {
        let mut replica = Replica::default();
        take(
            &mut replica,
            json!({"following": {"feed": FEED, "mode": "reset", "head": 1}}),
        )
        .unwrap();
        let short = json!({"snapshot": {"feed": FEED, "seq": 1, "piece": 0, "done": {"cursor": "one", "rows": 1}}});
        assert_eq!(
            take(&mut replica, short),
            Err(Wrong::Snapshot("0 rows came of 1".to_owned()))
        );
        assert!(!replica.is_whole());
    }
}
