//! Undo: a new operation that inverts an old entry, never a rewind.
//!
//! Made becomes put in the bin, and every field that the entry set gets its old value back; but only if each of them
//! still has the value that the entry gave it. For a row that was made, that is every field. Then the rules are asked
//! again, because the rest of the feed has moved on.

use std::sync::Arc;

use taskflow_protocol::message::Undo;
use taskflow_protocol::{Code, TaskId};

use super::super::entry::{Change, Entry, TaskPut};
use super::super::fields::{LabelChange, ListChange, TaskChange};
use super::super::row::{Label, List, Task};
use super::{Draft, Judged, Refusal, refuse};

impl Draft<'_> {
    pub(super) fn undo(&mut self, undo: Undo, of: Option<&Entry>) -> Judged {
        let Some(entry) = of.filter(|entry| entry.seq == undo.seq) else {
            return refuse(Code::UndoGone, "seq");
        };
        // Each is of another row, so their order does not matter.
        for change in &entry.changes {
            self.invert(change)?;
        }
        self.check_undone_tasks()
    }

    fn invert(&mut self, change: &Change) -> Judged {
        match change {
            Change::TaskPut(put) => match &put.moved {
                None => self.unmake_task(put),
                Some(moved) => self.revert_task(put.task.id, moved),
            },
            Change::TaskSet(set) => self.revert_task(set.task, &set.change),
            Change::ListPut(made) => {
                self.check_not_inbox(made.id, "seq")?;
                let list = self
                    .overlay
                    .list(made.id)
                    .filter(|list| ListChange::between(made, list).is_empty());
                let mut list = List::clone(list.ok_or_else(conflict)?);
                list.deleted_at = Some(self.stamp.at);
                self.overlay.put_list(list);
                Ok(())
            }
            Change::ListSet(set) => {
                let list = self.overlay.list(set.list).filter(|list| set.change.holds_in(list));
                let mut list = List::clone(list.ok_or_else(conflict)?);
                if list.is_deleted() && set.change.deleted_at.is_none() {
                    return refuse(Code::RowDeleted, "list");
                }
                set.change.revert(&mut list);
                self.overlay.put_list(list);
                Ok(())
            }
            Change::LabelPut(made) => {
                let label = self
                    .overlay
                    .label(made.id)
                    .filter(|label| LabelChange::between(made, label).is_empty());
                let mut label = Label::clone(label.ok_or_else(conflict)?);
                label.deleted_at = Some(self.stamp.at);
                self.overlay.put_label(label);
                Ok(())
            }
            Change::LabelSet(set) => {
                let label = self.overlay.label(set.label).filter(|label| set.change.holds_in(label));
                let mut label = Label::clone(label.ok_or_else(conflict)?);
                if label.is_deleted() && set.change.deleted_at.is_none() {
                    return refuse(Code::RowDeleted, "label");
                }
                set.change.revert(&mut label);
                self.overlay.put_label(label);
                Ok(())
            }
            // Only birth makes settings, and with them the inbox.
            Change::SettingsPut(_) => refuse(Code::InboxFixed, "seq"),
            Change::SettingsSet(change) => {
                let mut settings = self.overlay.settings().clone();
                if !change.holds_in(&settings) {
                    return Err(conflict());
                }
                change.revert(&mut settings);
                self.overlay.put_settings(settings);
                Ok(())
            }
        }
    }

    fn unmake_task(&mut self, put: &TaskPut) -> Judged {
        let task = self.overlay.task(put.task.id);
        let task = task.filter(|task| TaskChange::between(&put.task, task).is_empty());
        let mut task = Task::clone(task.ok_or_else(conflict)?);
        task.deleted_at = Some(self.stamp.at);
        self.overlay.put_task(task);
        Ok(())
    }

    fn revert_task(&mut self, id: TaskId, change: &TaskChange) -> Judged {
        let task = self.overlay.task(id).filter(|task| change.holds_in(task));
        let mut task = Task::clone(task.ok_or_else(conflict)?);
        // Moves are asked later: a subtask in the bin goes along with its parent.
        if task.is_deleted() && change.deleted_at.is_none() && change.list.is_none() {
            return refuse(Code::RowDeleted, "task");
        }
        change.revert(&mut task);
        self.overlay.put_task(task);
        Ok(())
    }

    /// The rules that a command would have asked, on every task that the undo touched, once all of them are as they shall
    /// be.
    fn check_undone_tasks(&self) -> Judged {
        for (id, before) in self.overlay.tasks_before() {
            let (Some(before), Some(after)) = (before, self.overlay.task(id)) else {
                continue;
            };
            // A list that this undo itself puts in the bin, or takes out, is no obstacle.
            let is_deleted = |list: Option<&Arc<List>>| list.is_none_or(|list| list.is_deleted());
            if is_deleted(self.overlay.list_before(before.list)) && is_deleted(self.overlay.list(before.list)) {
                return refuse(Code::RowDeleted, "list");
            }
            if after.list != before.list {
                self.check_undone_move(before, after)?;
            }
            if let Some(parent) = after.parent
                && (after.parent != before.parent || after.list != before.list)
            {
                self.check_undone_parent(after, parent)?;
            }
            for label in after.labels.iter().filter(|label| !before.labels.contains(label)) {
                self.check_label(*label)?;
            }
        }
        Ok(())
    }

    fn check_undone_move(&self, before: &Task, after: &Task) -> Judged {
        self.check_list_takes_tasks(after.list)?;
        let goes_along = after.parent.is_some_and(|parent| {
            let lists = (self.overlay.task_before(parent), self.overlay.task(parent));
            matches!(lists, (Some(before), Some(after)) if before.list != after.list)
        });
        if before.is_deleted() && after.is_deleted() && !goes_along {
            return refuse(Code::RowDeleted, "task");
        }
        // A subtask that it got since cannot go where it goes.
        let left_behind = |subtask: TaskId| self.overlay.task(subtask).is_some_and(|row| row.list != after.list);
        if self.overlay.subtasks(after.id).any(left_behind) {
            return Err(conflict());
        }
        Ok(())
    }

    fn check_undone_parent(&self, task: &Task, parent: TaskId) -> Judged {
        let (_, levels) = self.subtree(task.id);
        match self.check_parent(parent, task.list, Some(task.id), levels) {
            // What stays or goes in the bin may be below a parent that is there, too.
            Err(Refusal::Code {
                code: Code::RowDeleted, ..
            }) if task.is_deleted() => self.check_depth(parent, levels),
            checked => checked,
        }
    }
}

fn conflict() -> Refusal {
    Refusal::new(Code::UndoConflict).field("seq")
}
