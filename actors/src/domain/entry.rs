//! Entries: the committed steps of a feed. Results, never instructions: replaying one asks no clock, zone or rule.

use serde::{Deserialize, Serialize};
use taskflow_protocol::values::{Seq, UnixMs};
use taskflow_protocol::{LabelId, ListId, OperationId, TaskId, UserId, message, model};

use super::fields::{LabelChange, ListChange, SettingsChange, TaskChange, Was};
use super::row::{Label, List, Settings, Task};
use crate::trace::TraceContext;

/// One committed step of a feed.
///
/// It has at most one change a row, the net one of everything that its operation did: so a row's version alone says
/// whether an entry is in it. Settings, lists and labels come before tasks; a subtask may come before its parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Dense, from 1.
    #[serde(rename = "s")]
    pub seq: Seq,
    /// When it was committed. Never below that of the entry before.
    #[serde(rename = "t")]
    pub time: UnixMs,
    /// Who asked for it.
    #[serde(rename = "a")]
    pub author: UserId,
    /// The operation that made it.
    #[serde(rename = "o")]
    pub operation: OperationId,
    /// Tells the same operation, sent again, from another one under the same id: [`super::operation_hash`].
    #[serde(rename = "h")]
    pub operation_hash: u64,
    /// What it did. Empty if the operation asked for what was so already, or was refused.
    #[serde(rename = "c", default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// The number of the code with which the operation was refused for good. A refusal is kept only where an earlier copy
    /// of the operation may still be under way to another host: with it in the log, that copy finds the answer.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<u16>,
    /// The step that made it, where the request is traced: what pushes it is under that, on whatever node.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Box<TraceContext>>,
}

/// What an entry did to one row, with what undoing it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A task entered its list: it was made or moved there.
    #[serde(rename = "tp")]
    TaskPut(Box<TaskPut>),
    /// Fields of a task changed.
    #[serde(rename = "ts")]
    TaskSet(Box<TaskSet>),
    /// A list was made.
    #[serde(rename = "lp")]
    ListPut(Box<List>),
    /// Fields of a list changed.
    #[serde(rename = "ls")]
    ListSet(Box<ListSet>),
    /// A label was made.
    #[serde(rename = "bp")]
    LabelPut(Box<Label>),
    /// Fields of a label changed.
    #[serde(rename = "bs")]
    LabelSet(Box<LabelSet>),
    /// The feed was born.
    #[serde(rename = "sp")]
    SettingsPut(Box<Settings>),
    /// Fields of the settings changed.
    #[serde(rename = "ss")]
    SettingsSet(Box<SettingsChange>),
}

/// See [`Change::TaskPut`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskPut {
    /// The whole row, as it is afterwards.
    #[serde(rename = "r")]
    pub task: Task,
    /// What changed, where it was moved (`list` among it); `None`: it was made.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<TaskChange>,
}

/// See [`Change::TaskSet`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSet {
    /// The task.
    #[serde(rename = "i")]
    pub task: TaskId,
    /// The list it is in.
    #[serde(rename = "l")]
    pub list: ListId,
    /// What changed.
    #[serde(rename = "c")]
    pub change: TaskChange,
}

/// See [`Change::ListSet`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListSet {
    /// The list.
    #[serde(rename = "i")]
    pub list: ListId,
    /// What changed.
    #[serde(rename = "c")]
    pub change: ListChange,
}

/// See [`Change::LabelSet`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelSet {
    /// The label.
    #[serde(rename = "i")]
    pub label: LabelId,
    /// What changed.
    #[serde(rename = "c")]
    pub change: LabelChange,
}

impl Entry {
    /// As it goes to clients: new values only. What was refused names no operation, so that nobody takes it for accepted.
    pub fn wire(&self) -> message::Entry {
        let operation = match self.refused {
            None => self.operation,
            Some(_) => OperationId(uuid::Uuid::nil()),
        };
        message::Entry {
            seq: self.seq,
            time: self.time,
            author: self.author,
            operation,
            changes: self.changes.iter().map(Change::wire).collect(),
        }
    }

    /// Not less than the bytes of its stored form, found without encoding it.
    pub fn stored_bytes_max(&self) -> usize {
        let trace = self.trace.as_ref().map_or(0, |_| 36);
        128 + trace + self.changes.iter().map(Change::stored_bytes_max).sum::<usize>()
    }
}

impl Change {
    /// As it goes to clients: new values only.
    pub fn wire(&self) -> message::Change {
        match self {
            Self::TaskPut(put) => message::Change::TaskPut(message::TaskPut {
                from: put.from(),
                task: put.task.to_wire(),
            }),
            Self::TaskSet(set) => message::Change::TaskSet(message::TaskSet {
                task: set.task,
                list: set.list,
                set: set.change.to_wire(),
            }),
            Self::ListPut(list) => message::Change::ListPut(list.to_wire()),
            Self::ListSet(set) => message::Change::ListSet(message::ListSet {
                list: set.list,
                set: set.change.to_wire(),
            }),
            Self::LabelPut(label) => message::Change::LabelPut(label.to_wire()),
            Self::LabelSet(set) => message::Change::LabelSet(message::LabelSet {
                label: set.label,
                set: set.change.to_wire(),
            }),
            Self::SettingsPut(settings) => message::Change::SettingsSet(model::SettingsFields {
                time_zone: Some(settings.time_zone.clone()),
                week_start: Some(settings.week_start),
                locale: Some(settings.locale.clone()),
            }),
            Self::SettingsSet(change) => message::Change::SettingsSet(change.to_wire()),
        }
    }

    /// The texts and labels, and a bound of everything else together.
    fn stored_bytes_max(&self) -> usize {
        match self {
            Self::TaskPut(put) => task_bytes_max(&put.task) + put.moved.as_ref().map_or(0, task_change_bytes_max),
            Self::TaskSet(set) => 64 + task_change_bytes_max(&set.change),
            // A name of 250 bytes and a rank of 200 at most, each old and new, a colour, times.
            Self::ListPut(_) | Self::ListSet(_) | Self::LabelPut(_) | Self::LabelSet(_) => 1_024,
            // Zone and locale, 64 bytes at most, each old and new.
            Self::SettingsPut(_) | Self::SettingsSet(_) => 384,
        }
    }
}

/// Beside texts and labels: 17 keys, three ids, four stamps and times, a due with a zone name.
fn task_bytes_max(task: &Task) -> usize {
    448 + task.title.len() + task.notes.len() + task.rank.len() + 18 * task.labels.len()
}

/// Beside texts and labels, old and new: 13 keys, four ids, four stamps and times, two dues with zone names.
fn task_change_bytes_max(change: &TaskChange) -> usize {
    let text = |was: &Option<Was<String>>| was.as_ref().map_or(0, |was| was.new.len() + was.old.len());
    let labels = change.labels.as_ref().map_or(0, |was| was.new.len() + was.old.len());
    640 + text(&change.title) + text(&change.notes) + text(&change.rank) + 18 * labels
}

impl TaskPut {
    /// The list it left, when it was moved.
    pub fn from(&self) -> Option<ListId> {
        self.moved.as_ref()?.list.as_ref().map(|was| was.old)
    }
}
