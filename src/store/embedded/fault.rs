//! What can go wrong with the database, in the words of the ports.

use std::fmt::Display;

use rusqlite::ErrorCode;
use taskflow_actors::ports::{AccountError, AppendError, ReadError};

use super::folder::DATABASE;

/// A failure inside the store, before it is told to a caller.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fault {
    /// No room; nothing was written.
    Full,
    /// What is stored is not what was written. Names file, table and key.
    Damaged(String),
    /// Anything else: whether something was written is not known.
    Unavailable(String),
}

/// SQLITE_IOERR_SHORT_READ: a page is not wholly there. <https://sqlite.org/rescode.html>
const IOERR_SHORT_READ: i32 = 522;
/// SQLITE_IOERR_CORRUPTFS: the file system says that its own data is damaged.
const IOERR_CORRUPTFS: i32 = 8458;

pub(super) type Outcome<T> = Result<T, Fault>;

impl Fault {
    /// Damage to one value.
    pub(super) fn damaged(table: &str, key: impl Display, what: impl Display) -> Self {
        Self::Damaged(format!("{DATABASE}, table {table}, {key}: {what}"))
    }

    /// Says where it happened, unless it says so already.
    pub(super) fn at(self, table: &str, key: impl Display) -> Self {
        match self {
            Self::Damaged(what) if !what.starts_with(DATABASE) => Self::damaged(table, key, what),
            other => other,
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        match &error {
            rusqlite::Error::SqliteFailure(code, _) => match code.code {
                ErrorCode::DiskFull => Self::Full,
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Damaged(error.to_string()),
                _ if code.extended_code == IOERR_SHORT_READ => Self::Damaged("the file is too short".to_owned()),
                _ if code.extended_code == IOERR_CORRUPTFS => Self::Damaged(error.to_string()),
                _ => Self::Unavailable(format!("{error} (SQLite code {})", code.extended_code)),
            },
            // A number where bytes were written, or the like.
            rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::FromSqlConversionFailure(..) => {
                Self::Damaged(error.to_string())
            }
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<rusqlite::types::FromSqlError> for Fault {
    fn from(error: rusqlite::types::FromSqlError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<Fault> for AppendError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Full => Self::Full,
            Fault::Damaged(what) => Self::Damaged(what),
            Fault::Unavailable(what) => Self::Unavailable(what),
        }
    }
}

impl From<Fault> for ReadError {
    fn from(fault: Fault) -> Self {
        match fault {
            // Reading needs room for the index of the write-ahead log only; without it there is no answer.
            Fault::Full => Self::Unavailable("there is no room left to read".to_owned()),
            Fault::Damaged(what) => Self::Damaged(what),
            Fault::Unavailable(what) => Self::Unavailable(what),
        }
    }
}

impl From<Fault> for AccountError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Full => Self::Full,
            Fault::Damaged(what) => Self::Damaged(what),
            Fault::Unavailable(what) => Self::Unavailable(what),
        }
    }
}
