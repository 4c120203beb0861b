//! Commands on tasks.

use std::sync::Arc;

use taskflow_protocol::limits::LABELS_A_TASK_MAX;
use taskflow_protocol::message::{Row, TaskCreate, TaskMove, TaskPatch};
use taskflow_protocol::model::TaskFields;
use taskflow_protocol::values::{Seq, Status};
use taskflow_protocol::{Code, LabelId, ListId, TaskId};

use super::super::due;
use super::super::row::{Stamp, Task};
use super::{Draft, Judged, Refusal, refuse, value};

impl Draft<'_> {
    pub(super) fn task_create(&mut self, create: &TaskCreate) -> Judged {
        if self.overlay.task(create.task).is_some() {
            return refuse(Code::IdTaken, "task");
        }
        let list = create.list.unwrap_or(self.inbox());
        self.check_list_takes_tasks(list)?;
        let mut task = Task {
            id: create.task,
            list,
            title: value::title(&create.title)?,
            notes: value::notes(&create.notes)?,
            status: Status::default(),
            priority: create.priority,
            due: create
                .due
                .as_ref()
                .map(due::due)
                .transpose()
                .map_err(|why| Refusal::value("due", why))?,
            deadline: deadline(create.deadline.as_deref())?,
            duration_minutes: create.duration_minutes.map(value::duration_minutes).transpose()?,
            labels: self.labels(&create.labels)?,
            parent: create.parent,
            rank: String::new(),
            completed: None,
            created: self.stamp,
            updated: None,
            deleted_at: None,
            version: 0,
        };
        set_status(&mut task, create.status, self.stamp);
        if let Some(parent) = create.parent {
            self.check_parent(parent, list, None, 0)?;
        }
        task.rank = self.task_rank(&create.place, list, None)?;
        self.overlay.put_task(task);
        Ok(())
    }

    pub(super) fn task_patch(&mut self, patch: &TaskPatch, base: Option<Seq>) -> Judged {
        let mut task = self.task_to_change(patch.task, base)?;
        let TaskFields {
            title,
            notes,
            status,
            priority,
            due,
            deadline: day,
            duration_minutes,
            labels,
            parent,
            rank,
            completed_at,
            completed_by,
            deleted_at,
        } = &patch.set;
        for (name, is_present, instead) in [
            ("parent", parent.is_some(), "task_move"),
            ("rank", rank.is_some(), "task_move"),
            ("completed_at", completed_at.is_some(), "status"),
            ("completed_by", completed_by.is_some(), "status"),
            ("deleted_at", deleted_at.is_some(), "task_delete or task_restore"),
        ] {
            if is_present {
                return Err(Refusal::value(name, &format!("a patch cannot set it; use {instead}")));
            }
        }
        if let Some(title) = title {
            task.title = value::title(title)?;
        }
        if let Some(notes) = notes {
            task.notes = value::notes(notes)?;
        }
        if let Some(status) = status {
            set_status(&mut task, *status, self.stamp);
        }
        if let Some(priority) = priority {
            task.priority = *priority;
        }
        if let Some(due) = due {
            let due = due.as_ref().map(due::due).transpose();
            task.due = due.map_err(|why| Refusal::value("due", why))?;
        }
        if let Some(day) = day {
            task.deadline = deadline(day.as_deref())?;
        }
        if let Some(minutes) = duration_minutes {
            task.duration_minutes = minutes.map(value::duration_minutes).transpose()?;
        }
        if let Some(labels) = labels {
            task.labels = self.labels(labels)?;
        }
        self.overlay.put_task(task);
        Ok(())
    }

    /// The subtasks go along. Into another list that is one change for each, of the list only: they keep their ranks.
    pub(super) fn task_move(&mut self, to: &TaskMove, base: Option<Seq>) -> Judged {
        let mut task = self.task_to_change(to.task, base)?;
        let list = to.list.unwrap_or(task.list);
        if list != task.list {
            self.check_list_takes_tasks(list)?;
        }
        let (subtasks, levels) = self.subtree(task.id);
        if let Some(parent) = to.parent {
            self.check_parent(parent, list, Some(task.id), levels)?;
        }
        task.rank = self.task_rank(&to.place, list, Some(task.id))?;
        task.parent = to.parent;
        if list != task.list {
            self.check_rows_fit(&subtasks)?;
            for id in subtasks {
                if let Some(subtask) = self.overlay.task(id) {
                    let mut subtask = Task::clone(subtask);
                    subtask.list = list;
                    self.overlay.put_task(subtask);
                }
            }
            task.list = list;
        }
        self.overlay.put_task(task);
        Ok(())
    }

    pub(super) fn task_complete(&mut self, id: TaskId, base: Option<Seq>) -> Judged {
        self.task_set_status(id, base, Status::Done)
    }

    pub(super) fn task_reopen(&mut self, id: TaskId, base: Option<Seq>) -> Judged {
        self.task_set_status(id, base, Status::Todo)
    }

    fn task_set_status(&mut self, id: TaskId, base: Option<Seq>, status: Status) -> Judged {
        let mut task = self.task_to_change(id, base)?;
        set_status(&mut task, status, self.stamp);
        self.overlay.put_task(task);
        Ok(())
    }

    /// One change: the subtasks stay as they are, and are not shown. What is in the bin already stays there since then.
    pub(super) fn task_delete(&mut self, id: TaskId, base: Option<Seq>) -> Judged {
        let mut task = self.task_at_base(id, base)?;
        self.check_list_of(&task)?;
        task.deleted_at = task.deleted_at.or(Some(self.stamp.at));
        self.overlay.put_task(task);
        Ok(())
    }

    /// Out of the bin and shown: where a parent above it is in the bin, it leaves that parent.
    pub(super) fn task_restore(&mut self, id: TaskId, base: Option<Seq>) -> Judged {
        let mut task = self.task_at_base(id, base)?;
        self.check_list_of(&task)?;
        task.deleted_at = None;
        if self.ancestors(task.parent).any(|parent| parent.is_deleted()) {
            task.parent = None;
        }
        self.overlay.put_task(task);
        Ok(())
    }

    /// A copy of the row, in the bin or not.
    fn task_at_base(&self, id: TaskId, base: Option<Seq>) -> Judged<Task> {
        let Some(task) = self.overlay.task(id) else {
            return refuse(Code::RowNotFound, "task");
        };
        self.check_base(base, task.version, || Row::Task(task.to_wire()))?;
        Ok(Task::clone(task))
    }

    /// A copy of the row; neither it nor its list is in the bin.
    fn task_to_change(&self, id: TaskId, base: Option<Seq>) -> Judged<Task> {
        let task = self.task_at_base(id, base)?;
        if task.is_deleted() {
            return refuse(Code::RowDeleted, "task");
        }
        self.check_list_of(&task)?;
        Ok(task)
    }

    /// The list that a task is in is not in the bin.
    pub(super) fn check_list_of(&self, task: &Task) -> Judged {
        match self.overlay.list(task.list) {
            Some(list) if !list.is_deleted() => Ok(()),
            Some(_) => refuse(Code::RowDeleted, "list"),
            None => refuse(Code::RowDamaged, "list"),
        }
    }

    /// Tasks may enter this list.
    pub(super) fn check_list_takes_tasks(&self, id: ListId) -> Judged {
        match self.overlay.list(id).map(Arc::as_ref) {
            None => refuse(Code::RowNotFound, "list"),
            Some(list) if list.is_deleted() => refuse(Code::RowDeleted, "list"),
            Some(list) if list.archived => refuse(Code::ListArchived, "list"),
            Some(_) => Ok(()),
        }
    }

    /// Labels that exist and are not in the bin; sorted, each once.
    fn labels(&self, ids: &[LabelId]) -> Judged<Vec<LabelId>> {
        let mut labels = ids.to_vec();
        labels.sort_unstable();
        labels.dedup();
        if labels.len() > LABELS_A_TASK_MAX {
            let why = format!("a task has at most {LABELS_A_TASK_MAX} labels");
            return Err(Refusal::new(Code::LimitReached).field("labels").because(why));
        }
        for id in &labels {
            self.check_label(*id)?;
        }
        Ok(labels)
    }

    /// A task may be given this label.
    pub(super) fn check_label(&self, id: LabelId) -> Judged {
        match self.overlay.label(id) {
            None => Err(Refusal::new(Code::RowNotFound)
                .field("labels")
                .because(format!("there is no label {id}"))),
            Some(label) if label.is_deleted() => refuse(Code::RowDeleted, "labels"),
            Some(_) => Ok(()),
        }
    }
}

/// `completed` is set exactly while the status is `done`.
fn set_status(task: &mut Task, status: Status, stamp: Stamp) {
    if status != task.status {
        task.status = status;
        task.completed = (status == Status::Done).then_some(stamp);
    }
}

fn deadline(day: Option<&str>) -> Judged<Option<String>> {
    day.map(due::date)
        .transpose()
        .map_err(|why| Refusal::value("deadline", why))
}
