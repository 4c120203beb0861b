//! The tables, and how connections are set up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use super::Options;
use super::codec::{self, Fields, Table};
use super::fault::{Fault, Outcome};
use super::folder::{DATABASE, Folder};

/// Format of the tables and values. A server refuses what is newer than it knows.
///
/// Since 2 the table `row` may hold what a feed's head does not count, the activity, and there is the table `device`. Since 3
/// there are `deletion`, `history` and `removed`, and a sign-in may be a personal access token.
pub(super) const FORMAT: i64 = 3;

/// `TFLW`: tells the file from other SQLite databases.
const APPLICATION_ID: i64 = 0x5446_4C57;

/// Plain tables of one key and one value, compared bytewise; the inbox by number.
const TABLES: &str = "
CREATE TABLE inbox(n INTEGER PRIMARY KEY, v BLOB NOT NULL);
CREATE TABLE head(k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE log(k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE row(k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE aside(k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE meta(k TEXT PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE account(k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE sign_in(k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID;
";

/// The tables since format 2, and since format 3.
const TABLES_2: &str = "CREATE TABLE device(k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID;";
const TABLES_3: &str = "
CREATE TABLE deletion(k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE history(k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE removed(k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID;
";

/// Kilobytes of page cache of the writer: it moves in the order of the keys, and the kernel's cache is behind it.
const WRITER_CACHE_KB: i64 = 4 * 1024;
/// Kilobytes of page cache of a reader: the kernel's cache is behind it.
const READER_CACHE_KB: i64 = 2 * 1024;
/// Bytes to which the write-ahead log is cut when it starts over.
const WAL_BYTES_KEPT: i64 = 64 * 1024 * 1024;
/// How long a statement waits for somebody with a database shell before it fails.
const BUSY: Duration = Duration::from_millis(1000);

/// What a connection is for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Role {
    Writer,
    Reader,
}

/// Opens a connection and writes nothing to the database.
pub(super) fn connect(folder: &Folder, options: &Options, role: Role) -> Outcome<Connection> {
    let access = match role {
        Role::Writer => OpenFlags::SQLITE_OPEN_READ_WRITE,
        Role::Reader => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    // Each connection stays on one thread.
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match options.vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(folder.database(), flags, vfs)?,
        None => Connection::open_with_flags(folder.database(), flags)?,
    };
    // Neither opening nor closing a damaged store may tidy the evidence away.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(32);
    let cache_kb = match role {
        Role::Writer => WRITER_CACHE_KB,
        Role::Reader => READER_CACHE_KB,
    };
    connection.pragma_update(None, "cache_size", -cache_kb)?;
    // A file that shrinks or fails under a memory map would end the process by a signal.
    set(&connection, "PRAGMA mmap_size=0")?;
    // Malformed pages are errors.
    set(&connection, "PRAGMA cell_size_check=ON")?;
    // Nothing of a user's is written outside the data folder.
    set(&connection, "PRAGMA temp_store=MEMORY")?;
    Ok(connection)
}

/// Gives back the connection's page cache: the kernel's is behind it.
pub(super) fn shrink(connection: &Connection) {
    // If not now, then the next time.
    drop(set(connection, "PRAGMA shrink_memory"));
}

/// Whether what is deleted is overwritten in the file, rather than left where nothing points to it.
pub(super) fn erase(connection: &Connection, is_on: bool) -> Outcome<()> {
    let how = if is_on { "ON" } else { "OFF" };
    set(connection, &format!("PRAGMA secure_delete={how}"))
}

/// Makes a connection the writer's. The first write to a new file happens here.
pub(super) fn prepare_writer(connection: &Connection) -> Outcome<()> {
    connection.pragma_update(None, "page_size", 4096)?;
    let mode: String = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Fault::Unavailable(format!(
            "the journal mode is {mode}, not wal: this file system cannot do it"
        )));
    }
    // Checkpoints are the writer's own, so that their errors are seen.
    set(connection, "PRAGMA wal_autocheckpoint=0")?;
    set(connection, &format!("PRAGMA journal_size_limit={WAL_BYTES_KEPT}"))?;
    set(connection, "PRAGMA synchronous=FULL")
}

fn set(connection: &Connection, pragma: &str) -> Outcome<()> {
    connection.query_row(pragma, [], |_| Ok(())).optional()?;
    Ok(())
}

/// Counts the frames in the write-ahead log after each commit of this connection.
pub(super) fn count_frames(connection: &mut Connection, frames: &Arc<AtomicU64>) -> Outcome<()> {
    let frames = frames.clone();
    connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: std::ffi::c_int| {
        frames.store(u64::try_from(pages).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }))?;
    Ok(())
}

/// Makes the tables of a new store, all or none.
pub(super) fn create(connection: &Connection, store: u64) -> Outcome<()> {
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {TABLES} {TABLES_2} {TABLES_3} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={FORMAT};"
    ))?;
    put_meta(connection, Meta::Store, &store.to_be_bytes())?;
    put_meta(connection, Meta::Moved, &0_u64.to_be_bytes())?;
    put_meta(connection, Meta::Accounts, &[0; 16])?;
    put_meta(connection, Meta::Checkpoints, &[0; 8])?;
    connection.execute_batch("COMMIT")?;
    Ok(())
}

/// The format of the database; 0: it has no tables yet.
pub(super) fn format(connection: &Connection) -> Outcome<i64> {
    Ok(connection.query_row("PRAGMA user_version", [], |row| row.get(0))?)
}

/// Is it a store's database, in the mode that a store uses? If the mode were another, SQLite would not look at the
/// write-ahead log. Writes nothing.
pub(super) fn recognise(connection: &Connection, format: i64) -> Outcome<()> {
    let damaged = |what: String| Err(Fault::Damaged(format!("{DATABASE}, header: {what}")));
    if !(1..=FORMAT).contains(&format) {
        return damaged(format!("the format is {format}, not 1 to {FORMAT}"));
    }
    let application: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    if application != APPLICATION_ID {
        return damaged("it is not a database of taskflow".to_owned());
    }
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if mode != "wal" {
        return damaged(format!("the journal mode is {mode}, not wal"));
    }
    Ok(())
}

/// Brings a store to the present format, all of it or nothing.
pub(super) fn upgrade(connection: &Connection) -> Outcome<()> {
    let found = format(connection)?;
    if found < FORMAT {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        if found < 2 {
            connection.execute_batch(TABLES_2)?;
            super::accounts::name_devices(connection)?;
        }
        connection.execute_batch(&format!("{TABLES_3} PRAGMA user_version={FORMAT}; COMMIT"))?;
    }
    Ok(())
}

/// Frames in the write-ahead log that SQLite takes for valid, without moving any.
pub(super) fn frames(connection: &Connection) -> Outcome<u64> {
    let frames: i64 = connection.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get(1))?;
    Ok(u64::try_from(frames).unwrap_or(0))
}

/// The few values that are about the whole store.
#[derive(Clone, Copy, Debug)]
pub(super) enum Meta {
    /// A random number, the same as in the witness.
    Store,
    /// Groups up to this number are no longer in the inbox.
    Moved,
    /// How many accounts there are, and a digest of them.
    Accounts,
    /// Checkpoints that were begun.
    Checkpoints,
}

impl Meta {
    fn key(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Moved => "moved",
            Self::Accounts => "accounts",
            Self::Checkpoints => "checkpoints",
        }
    }
}

/// A value about the whole store, as numbers.
pub(super) fn meta<const N: usize>(connection: &Connection, which: Meta) -> Outcome<[u64; N]> {
    let key = which.key();
    let read = || -> Outcome<[u64; N]> {
        let mut statement = connection.prepare_cached("SELECT v FROM meta WHERE k=?")?;
        let value: Option<Vec<u8>> = statement.query_row([key], |row| row.get(0)).optional()?;
        let value = value.ok_or_else(|| Fault::Damaged("it is missing".to_owned()))?;
        let mut fields = Fields(codec::open(Table::Meta, key.as_bytes(), &value)?);
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = fields.u64()?;
        }
        Ok(numbers)
    };
    read().map_err(|fault| fault.at("meta", key))
}

pub(super) fn put_meta(connection: &Connection, which: Meta, bytes: &[u8]) -> Outcome<()> {
    let mut value = Vec::new();
    codec::begin(&mut value);
    value.extend_from_slice(bytes);
    codec::seal(Table::Meta, which.key().as_bytes(), &mut value);
    let mut statement =
        connection.prepare_cached("INSERT INTO meta(k,v) VALUES(?,?) ON CONFLICT(k) DO UPDATE SET v=excluded.v")?;
    statement.execute((which.key(), value))?;
    Ok(())
}
