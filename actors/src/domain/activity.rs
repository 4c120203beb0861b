//! How much was done when: the time series behind the charts.
//!
//! Counted by quarters of an hour in UTC, because every zone in use is whole quarters away from it: so no zone and no rule
//! is needed to count, and days can be drawn in whatever zone the user has by then.

use serde::{Deserialize, Serialize};
use taskflow_protocol::values::{Seq, Status, UnixMs};

use super::codec::{self, CodecError};
use super::entry::{Change, Entry};
use crate::ports::{RowKey, RowKind, StoredRow};

const QUARTER_MS: i64 = 15 * 60 * 1_000;

/// A quarter of an hour, counted from the beginning of 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Quarter(pub u32);

impl Quarter {
    /// The one that a time is in. Times before 1970 are in the first.
    pub fn of(time: UnixMs) -> Self {
        let quarter = time.div_euclid(QUARTER_MS).clamp(0, u32::MAX.into());
        Self(u32::try_from(quarter).unwrap_or(0))
    }

    /// When it begins.
    pub fn begin(self) -> UnixMs {
        i64::from(self.0) * QUARTER_MS
    }

    /// Under which key its counts are kept.
    pub fn key(self) -> RowKey {
        let mut id = [0; 16];
        id[12..].copy_from_slice(&self.0.to_be_bytes());
        RowKey {
            kind: RowKind::Activity,
            id,
        }
    }

    /// The quarter of such a key; `None`: it is another row's.
    pub fn of_key(key: RowKey) -> Option<Self> {
        match (key.kind, key.id.split_last_chunk()) {
            (RowKind::Activity, Some((_, number))) => Some(Self(u32::from_be_bytes(*number))),
            _ => None,
        }
    }
}

/// What was done in one quarter: absolute values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// When.
    #[serde(rename = "i")]
    pub quarter: Quarter,
    /// Tasks that were made.
    #[serde(rename = "n", default, skip_serializing_if = "is_zero")]
    pub created: u32,
    /// Tasks that became `done`.
    #[serde(rename = "d", default, skip_serializing_if = "is_zero")]
    pub completed: u32,
    /// Tasks that were `done` and are no more.
    #[serde(rename = "r", default, skip_serializing_if = "is_zero")]
    pub reopened: u32,
    /// The last entry that is counted.
    #[serde(rename = "v")]
    pub version: Seq,
}

impl Activity {
    /// What one entry comes to; `None`: nothing that is counted.
    pub fn of(entry: &Entry) -> Option<Self> {
        let mut found = Self {
            quarter: Quarter::of(entry.time),
            version: entry.seq,
            ..Self::default()
        };
        for change in &entry.changes {
            let change = match change {
                Change::TaskPut(put) => match &put.moved {
                    Some(moved) => moved,
                    None => {
                        found.created += 1;
                        found.completed += u32::from(put.task.status == Status::Done);
                        continue;
                    }
                },
                Change::TaskSet(set) => &set.change,
                _ => continue,
            };
            if let Some(status) = &change.status {
                found.completed += u32::from(status.new == Status::Done);
                found.reopened += u32::from(status.old == Status::Done);
            }
        }
        (found.created + found.completed + found.reopened > 0).then_some(found)
    }

    /// From its stored form.
    pub fn of_row(row: &StoredRow) -> Result<Self, CodecError> {
        let found: Self = codec::decode_row(&row.body)?;
        if found.quarter.key() == row.key && found.version == row.seq {
            Ok(found)
        } else {
            Err(CodecError::OtherRow)
        }
    }

    /// Counts an entry that comes after all that are counted.
    pub(super) fn add(&mut self, other: &Self) {
        self.created = self.created.saturating_add(other.created);
        self.completed = self.completed.saturating_add(other.completed);
        self.reopened = self.reopened.saturating_add(other.reopened);
        self.version = other.version;
    }
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}
