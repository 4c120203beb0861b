//! The rows as a client sees them, and the fields of a row that a change or a patch carries.
//!
//! Types that both sides send do not deny unknown fields themselves: whether one is an error is decided by who sent it
//! ([`crate::Encoding::decode`], [`crate::Encoding::decode_tolerant`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::ids::{LabelId, ListId, TaskId, UserId};
use crate::values::{Due, Priority, Seq, Status, UnixMs, WeekStart};

/// A task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Client-made (UUIDv7), final.
    pub id: TaskId,
    /// The list it is in.
    pub list: ListId,
    /// One line of text.
    pub title: String,
    /// Markdown text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub notes: String,
    /// Where it stands.
    pub status: Status,
    /// How much it matters.
    pub priority: Priority,
    /// When to do it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Due>,
    /// The day after which it is too late, `YYYY-MM-DD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// How long it will take, in minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_minutes: Option<u32>,
    /// Labels, sorted by id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<LabelId>,
    /// The task it is a part of, in the same list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// Order among its list's tasks: compare bytes, ties by id.
    pub rank: String,
    /// When it was completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<UnixMs>,
    /// Who completed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_by: Option<UserId>,
    /// When it was created.
    pub created_at: UnixMs,
    /// Who created it.
    pub created_by: UserId,
    /// When it last changed.
    pub updated_at: UnixMs,
    /// Who last changed it.
    pub updated_by: UserId,
    /// When it was put in the bin. A row is shown if it, its list and all its parents are not in the bin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<UnixMs>,
    /// The `seq` that last changed it.
    pub version: Seq,
}

/// A list of tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct List {
    /// Client-made (UUIDv7), final; the inbox has the user's id.
    pub id: ListId,
    /// What it is called.
    pub name: String,
    /// `#rrggbb`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color: Option<String>,
    /// Order among the lists: compare bytes, ties by id.
    pub rank: String,
    /// Put away: it takes no new tasks.
    #[serde(default, skip_serializing_if = "is_false")]
    pub archived: bool,
    /// When it was created.
    pub created_at: UnixMs,
    /// When it last changed.
    pub updated_at: UnixMs,
    /// When it was put in the bin. A row is shown if it, its list and all its parents are not in the bin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<UnixMs>,
    /// The `seq` that last changed it.
    pub version: Seq,
}

/// A label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// Client-made (UUIDv7), final.
    pub id: LabelId,
    /// What it is called.
    pub name: String,
    /// `#rrggbb`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color: Option<String>,
    /// When it was put in the bin. A row is shown if it, its list and all its parents are not in the bin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<UnixMs>,
    /// The `seq` that last changed it.
    pub version: Seq,
}

/// A user's settings: one row a feed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// IANA zone name, such as `Europe/Berlin`.
    pub time_zone: String,
    /// First day of the week.
    pub week_start: WeekStart,
    /// BCP 47 language tag, such as `de-AT`.
    pub locale: String,
    /// The `seq` that last changed it.
    pub version: Seq,
}

/// Fields of a task that changed, or that a patch asks to change. An absent field stays; `null` clears those
/// that may be empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskFields {
    /// See [`Task::title`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub title: Option<String>,
    /// See [`Task::notes`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub notes: Option<String>,
    /// See [`Task::status`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub status: Option<Status>,
    /// See [`Task::priority`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub priority: Option<Priority>,
    /// See [`Task::due`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub due: Option<Option<Due>>,
    /// See [`Task::deadline`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub deadline: Option<Option<String>>,
    /// See [`Task::duration_minutes`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub duration_minutes: Option<Option<u32>>,
    /// See [`Task::labels`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub labels: Option<Vec<LabelId>>,
    /// See [`Task::parent`]. In changes only: a patch moves nothing.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub parent: Option<Option<TaskId>>,
    /// See [`Task::rank`]. In changes only: a patch moves nothing.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub rank: Option<String>,
    /// See [`Task::completed_at`]. In changes only.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub completed_at: Option<Option<UnixMs>>,
    /// See [`Task::completed_by`]. In changes only.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub completed_by: Option<Option<UserId>>,
    /// When it was put in the bin. In changes only.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub deleted_at: Option<Option<UnixMs>>,
}

/// Fields of a list that changed, or that a patch asks to change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListFields {
    /// See [`List::name`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub name: Option<String>,
    /// See [`List::color`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub color: Option<Option<String>>,
    /// See [`List::rank`]. In changes only.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub rank: Option<String>,
    /// See [`List::archived`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub archived: Option<bool>,
    /// When it was put in the bin. In changes only.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub deleted_at: Option<Option<UnixMs>>,
}

/// Fields of a label that changed, or that a patch asks to change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LabelFields {
    /// See [`Label::name`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub name: Option<String>,
    /// See [`Label::color`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub color: Option<Option<String>>,
    /// When it was put in the bin. In changes only.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub deleted_at: Option<Option<UnixMs>>,
}

/// Fields of the settings that changed, or that a patch asks to change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SettingsFields {
    /// See [`Settings::time_zone`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub time_zone: Option<String>,
    /// See [`Settings::week_start`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub week_start: Option<WeekStart>,
    /// See [`Settings::locale`].
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub locale: Option<String>,
}

/// What is shown of a feed, counted. Days are those of its settings' zone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// The entry up to which it is counted.
    pub seq: Seq,
    /// The zone.
    pub time_zone: String,
    /// All tasks.
    pub tasks: u64,
    /// Those that are todo or doing.
    pub open: u64,
    /// Open ones whose due time is over.
    pub overdue: u64,
    /// Open ones that are due today.
    pub due_today: u64,
    /// Tasks by status.
    pub by_status: BTreeMap<Status, u64>,
    /// Tasks by priority.
    pub by_priority: BTreeMap<Priority, Counted>,
    /// Tasks by list, in the order of the lists.
    pub by_list: Vec<CountedList>,
    /// Tasks by label, in the order of the labels.
    pub by_label: Vec<CountedLabel>,
    /// Completed since the day began.
    pub completed_today: u32,
    /// Completed since the week began.
    pub completed_this_week: u32,
    /// Days one after the other on which something was completed, up to today, or up to yesterday while today has nothing yet.
    pub streak_days: u32,
    /// Done among those that are not cancelled; absent or null: there is none.
    pub completion_rate: Option<f64>,
}

/// See [`Statistics::by_priority`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// See [`Statistics::tasks`].
    pub tasks: u64,
    /// See [`Statistics::open`].
    pub open: u64,
}

/// See [`Statistics::by_list`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountedList {
    /// The list.
    pub list: ListId,
    /// See [`Statistics::tasks`].
    pub tasks: u64,
    /// See [`Statistics::open`].
    pub open: u64,
}

/// See [`Statistics::by_label`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountedLabel {
    /// The label.
    pub label: LabelId,
    /// See [`Statistics::tasks`].
    pub tasks: u64,
    /// See [`Statistics::open`].
    pub open: u64,
}

/// What cannot be cleared is not given as `null`: whoever sends that means something else than to leave it.
fn not_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Tells `null` (clear it) from an absent field (leave it).
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

fn is_false(value: &bool) -> bool {
    !value
}
