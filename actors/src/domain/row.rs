//! The rows of a feed, and their stored form: maps with short keys, absent where a value is the ordinary one.
//!
//! The keys are a promise: a key is never reused for something else. A reader skips keys that it does not know.

use serde::{Deserialize, Serialize};
use taskflow_protocol::values::{Due, Priority, Seq, Status, UnixMs, WeekStart};
use taskflow_protocol::{LabelId, ListId, TaskId, UserId, model};

/// When something was done, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// When.
    #[serde(rename = "t")]
    pub at: UnixMs,
    /// By whom.
    #[serde(rename = "u")]
    pub by: UserId,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Client-made, final.
    #[serde(rename = "i")]
    pub id: TaskId,
    /// The list it is in. Its parent is in the same one.
    #[serde(rename = "l")]
    pub list: ListId,
    /// One line, never empty.
    #[serde(rename = "t")]
    pub title: String,
    /// Markdown.
    #[serde(rename = "n", default, skip_serializing_if = "String::is_empty")]
    pub notes: String,
    /// Where it stands.
    #[serde(rename = "s", default, skip_serializing_if = "is_default")]
    pub status: Status,
    /// How much it matters.
    #[serde(rename = "p", default, skip_serializing_if = "is_default")]
    pub priority: Priority,
    /// When to do it, in the one spelling of [`super::due`].
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Due>,
    /// `YYYY-MM-DD`.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// In minutes, at least 1.
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    pub duration_minutes: Option<u32>,
    /// Sorted, each once. They may name labels that are in the bin: clients hide those.
    #[serde(rename = "b", default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<LabelId>,
    /// The task it is a part of.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// See [`super::rank`].
    #[serde(rename = "r")]
    pub rank: String,
    /// Set exactly while the status is `done`.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub completed: Option<Stamp>,
    /// When and by whom it was created.
    #[serde(rename = "o")]
    pub created: Stamp,
    /// Its last change; `None`: none since it was created.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<Stamp>,
    /// When it was put in the bin.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<UnixMs>,
    /// The entry that last changed it.
    #[serde(rename = "v")]
    pub version: Seq,
}

/// A list of tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Client-made, final; the inbox has the user's id.
    #[serde(rename = "i")]
    pub id: ListId,
    /// One line, never empty.
    #[serde(rename = "n")]
    pub name: String,
    /// `#rrggbb`, in lower case.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub color: Option<String>,
    /// See [`super::rank`].
    #[serde(rename = "r")]
    pub rank: String,
    /// Put away: no task may enter it.
    #[serde(rename = "z", default, skip_serializing_if = "is_default")]
    pub archived: bool,
    /// When it was created.
    #[serde(rename = "o")]
    pub created_at: UnixMs,
    /// When it last changed.
    #[serde(rename = "u")]
    pub updated_at: UnixMs,
    /// When it was put in the bin. Its tasks stay as they are.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<UnixMs>,
    /// The entry that last changed it.
    #[serde(rename = "v")]
    pub version: Seq,
}

/// A label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Client-made, final.
    #[serde(rename = "i")]
    pub id: LabelId,
    /// One line, never empty.
    #[serde(rename = "n")]
    pub name: String,
    /// `#rrggbb`, in lower case.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub color: Option<String>,
    /// When it was put in the bin. Tasks keep naming it.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<UnixMs>,
    /// The entry that last changed it.
    #[serde(rename = "v")]
    pub version: Seq,
}

/// A user's settings: the one row that every feed has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// IANA zone name, spelled as in the zone database.
    #[serde(rename = "z")]
    pub time_zone: String,
    /// First day of the week.
    #[serde(rename = "w", default, skip_serializing_if = "is_default")]
    pub week_start: WeekStart,
    /// BCP 47 language tag.
    #[serde(rename = "l")]
    pub locale: String,
    /// The entry that last changed it; 0 before birth.
    #[serde(rename = "v")]
    pub version: Seq,
}

impl Default for Settings {
    /// Before a feed is born.
    fn default() -> Self {
        Self {
            time_zone: "UTC".to_owned(),
            week_start: WeekStart::default(),
            locale: "en".to_owned(),
            version: 0,
        }
    }
}

impl Task {
    /// When and by whom it was last changed.
    pub fn updated(&self) -> Stamp {
        self.updated.unwrap_or(self.created)
    }

    /// In the bin itself. (It is also not shown when its list or a parent is: [`super::State::is_shown`].)
    pub fn is_deleted(&self) -> bool {
        self.deleted_at.is_some()
    }

    /// As a client sees it.
    pub fn to_wire(&self) -> model::Task {
        let updated = self.updated();
        model::Task {
            id: self.id,
            list: self.list,
            title: self.title.clone(),
            notes: self.notes.clone(),
            status: self.status,
            priority: self.priority,
            due: self.due.clone(),
            deadline: self.deadline.clone(),
            duration_minutes: self.duration_minutes,
            labels: self.labels.clone(),
            parent: self.parent,
            rank: self.rank.clone(),
            completed_at: self.completed.map(|stamp| stamp.at),
            completed_by: self.completed.map(|stamp| stamp.by),
            created_at: self.created.at,
            created_by: self.created.by,
            updated_at: updated.at,
            updated_by: updated.by,
            deleted_at: self.deleted_at,
            version: self.version,
        }
    }
}

impl List {
    /// In the bin, and with it all its tasks.
    pub fn is_deleted(&self) -> bool {
        self.deleted_at.is_some()
    }

    /// As a client sees it.
    pub fn to_wire(&self) -> model::List {
        model::List {
            id: self.id,
            name: self.name.clone(),
            color: self.color.clone(),
            rank: self.rank.clone(),
            archived: self.archived,
            created_at: self.created_at,
            updated_at: self.updated_at,
            deleted_at: self.deleted_at,
            version: self.version,
        }
    }
}

impl Label {
    /// In the bin.
    pub fn is_deleted(&self) -> bool {
        self.deleted_at.is_some()
    }

    /// As a client sees it.
    pub fn to_wire(&self) -> model::Label {
        model::Label {
            id: self.id,
            name: self.name.clone(),
            color: self.color.clone(),
            deleted_at: self.deleted_at,
            version: self.version,
        }
    }
}

impl Settings {
    /// As a client sees it.
    pub fn to_wire(&self) -> model::Settings {
        model::Settings {
            time_zone: self.time_zone.clone(),
            week_start: self.week_start,
            locale: self.locale.clone(),
            version: self.version,
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
