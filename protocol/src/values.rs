//! The words that the wire, the log and the rules share: their spellings are a promise everywhere.

use serde::{Deserialize, Serialize};

/// Unix time in milliseconds, UTC.
pub type UnixMs = i64;

/// Position of an entry in its feed: dense, from 1.
pub type Seq = u64;

/// Where a task stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not begun.
    #[default]
    Todo,
    /// Under way.
    Doing,
    /// Completed: `completed_at` and `completed_by` are set.
    Done,
    /// Given up: closed without being done.
    Cancelled,
}

/// How much a task matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Not set.
    #[default]
    None,
    /// Low.
    Low,
    /// Medium.
    Medium,
    /// High.
    High,
    /// Urgent.
    Urgent,
}

/// When a task is due. Dates and times are ISO 8601 (RFC 9557 without the zone, which stands beside it).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Due {
    /// A whole day, `YYYY-MM-DD`, wherever the user is.
    AllDay(String),
    /// A wall-clock time, `YYYY-MM-DDTHH:MM:SS`, wherever the user is.
    Floating(String),
    /// A wall-clock time in one zone.
    Zoned(Zoned),
}

/// A wall-clock time in a time zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zoned {
    /// `YYYY-MM-DDTHH:MM:SS`.
    pub local: String,
    /// IANA zone name, such as `Europe/Berlin`.
    pub zone: String,
}

/// First day of the week in calendars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeekStart {
    /// Monday (ISO 8601).
    #[default]
    Monday,
    /// Saturday.
    Saturday,
    /// Sunday.
    Sunday,
}
