//! Which fields of a row a change touched: what each was, and what it is now.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use taskflow_protocol::values::{Due, Priority, Status, UnixMs, WeekStart};
use taskflow_protocol::{LabelId, ListId, TaskId, model};

use super::row::{Label, List, Settings, Stamp, Task};

/// A field's new and old value. Stored as a pair, new before old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Was<T> {
    /// The value afterwards.
    pub new: T,
    /// The value before: undo needs it; clients are not sent it.
    pub old: T,
}

impl<T: Serialize> Serialize for Was<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.new, &self.old).serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Was<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (new, old) = Deserialize::deserialize(deserializer)?;
        Ok(Self { new, old })
    }
}

impl<T: Clone> Was<T> {
    fn set(was: &Option<Self>) -> Option<T> {
        was.as_ref().map(|was| was.new.clone())
    }
}

/// Writes, for the fields of a row that a change can touch, the struct and what can be done with it.
macro_rules! fields {
    ($(#[$doc:meta])* $name:ident of $row:ident { $($field:ident $key:literal: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $(
                #[doc = concat!("See [`", stringify!($row), "::", stringify!($field), "`].")]
                #[serde(rename = $key, skip_serializing_if = "Option::is_none")]
                pub $field: Option<Was<$type>>,
            )*
        }

        impl $name {
            /// The fields in which the rows differ.
            pub fn between(old: &$row, new: &$row) -> Self {
                Self {
                    $($field: (old.$field != new.$field).then(|| Was {
                        new: new.$field.clone(),
                        old: old.$field.clone(),
                    }),)*
                }
            }

            /// Nothing changed.
            pub fn is_empty(&self) -> bool {
                $(self.$field.is_none())&&*
            }

            /// Gives the row the new values.
            pub fn apply(&self, row: &mut $row) {
                $(if let Some(was) = &self.$field {
                    row.$field = was.new.clone();
                })*
            }

            /// Gives the row the old values back.
            pub fn revert(&self, row: &mut $row) {
                $(if let Some(was) = &self.$field {
                    row.$field = was.old.clone();
                })*
            }

            /// The row still has the new values.
            pub fn holds_in(&self, row: &$row) -> bool {
                $(self.$field.as_ref().is_none_or(|was| was.new == row.$field))&&*
            }
        }
    };
}

fields! {
    /// Fields of a task. (`list` only where the task was moved to another.)
    TaskChange of Task {
        list "l": ListId,
        title "t": String,
        notes "n": String,
        status "s": Status,
        priority "p": Priority,
        due "d": Option<Due>,
        deadline "e": Option<String>,
        duration_minutes "m": Option<u32>,
        labels "b": Vec<LabelId>,
        parent "a": Option<TaskId>,
        rank "r": String,
        completed "c": Option<Stamp>,
        deleted_at "x": Option<UnixMs>,
    }
}

fields! {
    /// Fields of a list.
    ListChange of List {
        name "n": String,
        color "c": Option<String>,
        rank "r": String,
        archived "z": bool,
        deleted_at "x": Option<UnixMs>,
    }
}

fields! {
    /// Fields of a label.
    LabelChange of Label {
        name "n": String,
        color "c": Option<String>,
        deleted_at "x": Option<UnixMs>,
    }
}

fields! {
    /// Fields of the settings.
    SettingsChange of Settings {
        time_zone "z": String,
        week_start "w": WeekStart,
        locale "l": String,
    }
}

impl TaskChange {
    /// The new values, as clients are sent them.
    pub fn to_wire(&self) -> model::TaskFields {
        model::TaskFields {
            title: Was::set(&self.title),
            notes: Was::set(&self.notes),
            status: Was::set(&self.status),
            priority: Was::set(&self.priority),
            due: Was::set(&self.due),
            deadline: Was::set(&self.deadline),
            duration_minutes: Was::set(&self.duration_minutes),
            labels: Was::set(&self.labels),
            parent: Was::set(&self.parent),
            rank: Was::set(&self.rank),
            completed_at: Was::set(&self.completed).map(|stamp| stamp.map(|stamp| stamp.at)),
            completed_by: Was::set(&self.completed).map(|stamp| stamp.map(|stamp| stamp.by)),
            deleted_at: Was::set(&self.deleted_at),
        }
    }
}

impl ListChange {
    /// The new values, as clients are sent them.
    pub fn to_wire(&self) -> model::ListFields {
        model::ListFields {
            name: Was::set(&self.name),
            color: Was::set(&self.color),
            rank: Was::set(&self.rank),
            archived: Was::set(&self.archived),
            deleted_at: Was::set(&self.deleted_at),
        }
    }
}

impl LabelChange {
    /// The new values, as clients are sent them.
    pub fn to_wire(&self) -> model::LabelFields {
        model::LabelFields {
            name: Was::set(&self.name),
            color: Was::set(&self.color),
            deleted_at: Was::set(&self.deleted_at),
        }
    }
}

impl SettingsChange {
    /// The new values, as clients are sent them.
    pub fn to_wire(&self) -> model::SettingsFields {
        model::SettingsFields {
            time_zone: Was::set(&self.time_zone),
            week_start: Was::set(&self.week_start),
            locale: Was::set(&self.locale),
        }
    }
}
