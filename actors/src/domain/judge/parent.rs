//! Trees of tasks: a parent is in the same list, no task is a part of itself, and trees are not too deep.

use taskflow_protocol::limits::{COMMIT_BYTES_MAX, PARENT_DEPTH_MAX};
use taskflow_protocol::{Code, ListId, TaskId};

use super::super::row::Task;
use super::super::state::ancestors;
use super::{Draft, Judged, Refusal, refuse};

impl Draft<'_> {
    /// The parents of a task, nearest first.
    pub(super) fn ancestors(&self, parent: Option<TaskId>) -> impl Iterator<Item = &std::sync::Arc<Task>> + '_ {
        ancestors(parent, |id| self.overlay.task(id))
    }

    /// A task may become a part of this parent: a new one, or `task`, which brings `levels` levels of subtasks along.
    pub(super) fn check_parent(&self, parent: TaskId, list: ListId, task: Option<TaskId>, levels: usize) -> Judged {
        if Some(parent) == task {
            return refuse(Code::ParentCycle, "parent");
        }
        let Some(row) = self.overlay.task(parent) else {
            return refuse(Code::RowNotFound, "parent");
        };
        let above = || self.ancestors(Some(parent));
        if !self.overlay.state().left_out().is_empty() && above().last().is_some_and(|top| top.parent.is_some()) {
            // What is above it cannot be read: it might be the task itself.
            return refuse(Code::RowDamaged, "parent");
        }
        if above().any(|each| Some(each.id) == task) {
            return refuse(Code::ParentCycle, "parent");
        }
        if row.list != list {
            return refuse(Code::ParentElsewhere, "parent");
        }
        if above().any(|each| each.is_deleted()) {
            return refuse(Code::RowDeleted, "parent");
        }
        self.check_depth(parent, levels)
    }

    /// Subtasks below this parent, and `levels` levels more below them, are not too deep.
    pub(super) fn check_depth(&self, parent: TaskId, levels: usize) -> Judged {
        let depth = self.ancestors(Some(parent)).count() + levels;
        if depth > PARENT_DEPTH_MAX {
            let why = format!("subtasks have at most {PARENT_DEPTH_MAX} levels");
            return Err(Refusal::new(Code::ParentTooDeep).field("parent").because(why));
        }
        Ok(())
    }

    /// All subtasks of a task, level by level and by id, those in the bin included; and how many levels there are.
    pub(super) fn subtree(&self, task: TaskId) -> (Vec<TaskId>, usize) {
        let mut all = Vec::new();
        let mut level = vec![task];
        let mut levels = 0;
        // Deeper there is nothing; the bound also ends a circle of damaged rows.
        while levels <= 2 * PARENT_DEPTH_MAX {
            level = level.iter().flat_map(|parent| self.overlay.subtasks(*parent)).collect();
            if level.is_empty() {
                break;
            }
            // The same order whatever the draft has touched: the entry's changes come in it.
            level.sort_unstable();
            levels += 1;
            all.extend_from_slice(&level);
        }
        (all, levels)
    }

    /// The rows together fit in one entry, as far as can be told without copying them.
    pub(super) fn check_rows_fit(&self, tasks: &[TaskId]) -> Judged {
        let bytes = |id: &TaskId| {
            self.overlay
                .task(*id)
                .map_or(0, |task| 150 + task.title.len() + task.notes.len())
        };
        if tasks.iter().map(bytes).sum::<usize>() > COMMIT_BYTES_MAX {
            return Err(Refusal::new(Code::BatchTooLarge).field("task"));
        }
        Ok(())
    }
}
