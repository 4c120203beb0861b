//! Reads: what is in the tables, joined with the tail in memory, each answer checked to be whole.
//!
//! The tail is looked at first and the tables after it. What was moved between the two is then seen twice, never not at
//! all, and the `seq` tells.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension as _};
use taskflow_actors::domain::Quarter;
use taskflow_actors::ports::{Loaded, LogPage, LogRow, ReadError, RowKey, RowKind, StoredRow, Unreadable};
use taskflow_protocol::UserId;
use taskflow_protocol::values::{Seq, UnixMs};

use super::COLLECT_EVERY;
use super::accounts;
use super::codec::{self, Commit, LOG_KEY_BYTES, StoredHead, Table};
use super::fault::{Fault, Outcome};
use super::queue::{Read, Turn};
use super::schema::{Role, connect, shrink};
use super::shared::Shared;
use super::tail::FeedTail;

/// Jobs in one read transaction. A hundred short ones take half a millisecond; more would not save more.
const BATCH_JOBS_MAX: usize = 128;
/// Longest that one read transaction goes on to a next job: an old one stops the write-ahead log from starting over.
const TRANSACTION_MAX: Duration = Duration::from_millis(20);

/// A reader thread, to its end.
pub(super) fn run(shared: &Arc<Shared>) {
    let mut connection: Option<Connection> = None;
    let mut counted = false;
    let mut worked = false;
    loop {
        match shared
            .reads
            .next(BATCH_JOBS_MAX, counted, worked.then_some(COLLECT_EVERY))
        {
            Turn::Idle => {
                connection.iter().for_each(shrink);
                (shared.options.collect)();
                worked = false;
            }
            Turn::Jobs(jobs) => {
                counted = true;
                worked = true;
                batch(shared, &mut connection, jobs.into());
            }
            Turn::Disconnect => {
                connection = None;
                counted = false;
                shared.reads.disconnected();
            }
            Turn::End => break,
        }
    }
    drop(connection);
    if counted {
        shared.reads.disconnected();
    }
}

fn batch(shared: &Shared, connection: &mut Option<Connection>, mut jobs: VecDeque<Read>) {
    while !jobs.is_empty() {
        let open = match connection {
            Some(open) => open,
            None => match connect(&shared.folder, &shared.options, Role::Reader) {
                Ok(open) => connection.insert(open),
                Err(fault) => {
                    shared.trouble(&format!("a reader cannot open the database: {fault:?}"));
                    for job in jobs.drain(..) {
                        job.refuse("the database cannot be opened");
                    }
                    return;
                }
            },
        };
        let ends = Instant::now() + TRANSACTION_MAX;
        // Before the transaction: see the module.
        let tails: Vec<Option<FeedTail>> = jobs.iter().map(|job| tail_for(shared, job)).collect();
        let mut whole = begin(open);
        let mut tails = tails.into_iter();
        while let Some(job) = jobs.pop_front() {
            answer(shared, open, job, tails.next().flatten());
            if Instant::now() >= ends {
                break;
            }
        }
        whole &= end(open);
        if !whole {
            // Whatever is wrong with it, a new one begins anew.
            *connection = None;
        }
    }
}

fn begin(connection: &Connection) -> bool {
    let begun = connection
        .prepare_cached("BEGIN")
        .and_then(|mut begin| begin.execute([]));
    begun.is_ok()
}

fn end(connection: &Connection) -> bool {
    let ended = connection.prepare_cached("COMMIT").and_then(|mut end| end.execute([]));
    ended.is_ok()
}

fn tail_for(shared: &Shared, job: &Read) -> Option<FeedTail> {
    match job {
        Read::Head(feed, _) => shared.tail.after(*feed, Seq::MAX, 0),
        Read::Log(feed, after, bytes_max, _) => shared.tail.after(*feed, *after, *bytes_max),
        Read::Load(feed, _, _) => shared.tail.of(*feed),
        Read::Activity(..)
        | Read::AccountByEmail(..)
        | Read::SignIn(..)
        | Read::SignInsOf(..)
        | Read::DeletionsDue(..)
        | Read::History(..) => None,
    }
}

fn answer(shared: &Shared, connection: &Connection, job: Read, tail: Option<FeedTail>) {
    match job {
        Read::Head(feed, answer) => {
            let head = shared
                .readable(feed)
                .and_then(|()| head_now(connection, feed, tail.as_ref()));
            let head = tell(shared, feed, head.map(|head| head.map(|(_, head)| head)));
            let _ = answer.send(head);
        }
        Read::Log(feed, after, bytes_max, answer) => {
            let page = shared
                .readable(feed)
                .and_then(|()| page(connection, feed, after, bytes_max, tail));
            let _ = answer.send(tell(shared, feed, page));
        }
        Read::Load(feed, ids_since, answer) => {
            let loaded = shared
                .readable(feed)
                .and_then(|()| load(connection, feed, ids_since, tail));
            if let Ok(Some(Loaded { unreadable, .. })) = &loaded
                && !unreadable.is_empty()
            {
                shared.observer.damage();
            }
            let _ = answer.send(tell(shared, feed, loaded));
        }
        Read::Activity(feed, from, to, answer) => {
            let found = scan(connection, feed, from.key(), to.key());
            let activity = found.and_then(|Found { rows, unreadable, .. }| match unreadable.into_iter().next() {
                None => Ok(rows),
                Some(Unreadable { what, .. }) => Err(Fault::Damaged(what)),
            });
            let _ = answer.send(shared.noted(activity).map_err(Into::into));
        }
        Read::AccountByEmail(email, answer) => {
            let mut account = accounts::by_email(connection, &email);
            if account == Ok(None) && shared.accounts_incomplete() {
                account = Err(accounts::incomplete());
            }
            let _ = answer.send(shared.noted(account).map_err(Into::into));
        }
        Read::SignInsOf(user, answer) => {
            let sign_ins = accounts::sign_ins_of(connection, user);
            let _ = answer.send(shared.noted(sign_ins).map_err(Into::into));
        }
        Read::DeletionsDue(now, answer) => {
            let due = accounts::deletions_due(connection, now);
            let _ = answer.send(shared.noted(due).map_err(Into::into));
        }
        Read::History(user, before, count, answer) => {
            let notes = accounts::history(connection, user, before, count);
            let _ = answer.send(shared.noted(notes).map_err(Into::into));
        }
        Read::SignIn(id, answer) => {
            let sign_in = accounts::sign_in(connection, id);
            let _ = answer.send(shared.noted(sign_in).map_err(Into::into));
        }
    }
}

/// Remembers damage, so that the feed takes no appends.
fn tell<T>(shared: &Shared, feed: UserId, outcome: Outcome<T>) -> Result<T, ReadError> {
    if let Err(Fault::Damaged(what)) = &outcome {
        shared.damaged(feed, what);
    }
    shared.noted(outcome).map_err(Into::into)
}

/// What the table says, checked against the other tables as far as one look each can.
pub(super) fn stored_head(connection: &Connection, feed: UserId) -> Outcome<Option<StoredHead>> {
    let read = || -> Outcome<Option<StoredHead>> {
        let mut statement = connection.prepare_cached("SELECT v FROM head WHERE k=?")?;
        let mut rows = statement.query([feed.bytes()])?;
        let head = match rows.next()? {
            Some(row) => Some(StoredHead::decode(feed, row.get_ref(0)?.as_blob()?)?),
            None => None,
        };
        drop(rows);
        if head.is_none() && is_removed(connection, feed)? {
            // What is left of it is being removed.
            return Ok(None);
        }
        // A head that a damaged page hides, or an old one, leaves its log behind.
        let after = log_key(feed, head.map_or(0, |head| head.seq));
        if exists(
            connection,
            "SELECT 1 FROM log WHERE k>? AND k<=? LIMIT 1",
            &after,
            &log_key(feed, Seq::MAX),
        )? {
            return Err(Fault::Damaged("the log goes beyond it".to_owned()));
        }
        let [from, to] = ALL_ROWS.map(|key| codec::row_key(feed, key));
        if head.is_none() && exists(connection, "SELECT 1 FROM row WHERE k>=? AND k<=? LIMIT 1", &from, &to)? {
            return Err(Fault::Damaged("it is missing, but the feed has rows".to_owned()));
        }
        if exists(
            connection,
            "SELECT 1 FROM aside WHERE k>=? AND k<=? LIMIT 1",
            &log_key(feed, 0),
            &log_key(feed, Seq::MAX),
        )? {
            return Err(Fault::Damaged(
                "commits that do not follow it were put into the table aside".to_owned(),
            ));
        }
        Ok(head)
    };
    read().map_err(|fault| fault.at(Table::Head.name(), format_args!("feed {feed}")))
}

/// Whether the feed was removed for good.
pub(super) fn is_removed(connection: &Connection, feed: UserId) -> Outcome<bool> {
    let mut statement = connection.prepare_cached("SELECT v FROM removed WHERE k=?")?;
    let found = statement
        .query_row([feed.bytes()], |row| row.get::<_, Vec<u8>>(0))
        .optional()?;
    let Some(value) = found else { return Ok(false) };
    codec::open(Table::Removed, feed.bytes(), &value)
        .map_err(|fault| fault.at(Table::Removed.name(), format_args!("feed {feed}")))?;
    Ok(true)
}

fn log_key(feed: UserId, seq: Seq) -> [u8; LOG_KEY_BYTES] {
    codec::log_key(feed, seq)
}

/// From the first row to the last of those that a feed has whole. The activity comes after them.
const ALL_ROWS: [RowKey; 2] = [
    RowKey {
        kind: RowKind::Settings,
        id: [0; 16],
    },
    RowKey {
        kind: RowKind::Label,
        id: [0xff; 16],
    },
];

fn exists(connection: &Connection, query: &str, from: &[u8], to: &[u8]) -> Outcome<bool> {
    let mut statement = connection.prepare_cached(query)?;
    Ok(statement.query_row((from, to), |_| Ok(())).optional()?.is_some())
}

/// The head with and without the tail.
fn head_now(
    connection: &Connection,
    feed: UserId,
    tail: Option<&FeedTail>,
) -> Outcome<Option<(StoredHead, taskflow_actors::ports::Head)>> {
    let stored = stored_head(connection, feed)?;
    let tail = tail.map(|tail| tail.head);
    Ok(match (stored, tail) {
        (None, None) => None,
        (None, Some(tail)) => Some((StoredHead::born(tail.epoch), tail)),
        (Some(stored), None) => Some((stored, stored.head(stored.seq))),
        (Some(stored), Some(tail)) => Some((stored, stored.head(stored.seq.max(tail.seq)))),
    })
}

fn page(
    connection: &Connection,
    feed: UserId,
    after: Seq,
    bytes_max: usize,
    tail: Option<FeedTail>,
) -> Outcome<Option<LogPage>> {
    let Some((stored, head)) = head_now(connection, feed, tail.as_ref())? else {
        return Ok(None);
    };
    // Below `first` there would be a hole, above the head there is nothing.
    if after >= head.seq || after.saturating_add(1) < head.first {
        return Ok(Some(LogPage { head, rows: Vec::new() }));
    }
    let read = || -> Outcome<Vec<LogRow>> {
        let mut rows: Vec<LogRow> = Vec::new();
        let mut bytes = 0;
        let mut full = false;
        let mut chain = Chain {
            at: after,
            begun: false,
        };
        let mut statement = connection.prepare_cached("SELECT k,v FROM log WHERE k>? AND k<=? ORDER BY k")?;
        let mut found = statement.query((log_key(feed, after), log_key(feed, Seq::MAX)))?;
        while let Some(row) = found.next()? {
            let (key, value) = (row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_blob()?);
            if !rows.is_empty() && bytes + value.len() > bytes_max {
                full = true;
                break;
            }
            bytes += value.len();
            let commit = decode(feed, key, value)?;
            chain.follow(&commit)?;
            rows.push(commit.row);
        }
        if !full {
            if chain.begun && chain.at != stored.seq || !chain.begun && after < stored.seq {
                return Err(hole(chain.at, stored.seq));
            }
            for commit in tail.into_iter().flat_map(|tail| tail.commits) {
                if commit.row.last <= chain.at {
                    continue;
                }
                if !rows.is_empty() && bytes + commit.row.body.len() > bytes_max {
                    break;
                }
                bytes += commit.row.body.len();
                chain.follow(&commit)?;
                rows.push(commit.row);
            }
        }
        Ok(rows)
    };
    let rows = read().map_err(|fault| fault.at(Table::Log.name(), format_args!("feed {feed}")))?;
    Ok(Some(LogPage { head, rows }))
}

fn decode(feed: UserId, key: &[u8], value: &[u8]) -> Outcome<Commit> {
    let seq = codec::log_key_seq(feed, key)?;
    Commit::decode(feed, key, value).map_err(|fault| match fault {
        Fault::Damaged(what) => Fault::Damaged(format!("seq {seq}: {what}")),
        other => other,
    })
}

/// Follows the log upwards and sees holes.
struct Chain {
    at: Seq,
    begun: bool,
}

impl Chain {
    fn follow(&mut self, commit: &Commit) -> Outcome<()> {
        // The first may begin below the place that was asked for.
        let joined = commit.base == self.at || (!self.begun && commit.base < self.at);
        if !joined || commit.row.last <= self.at {
            return Err(hole(self.at, commit.base));
        }
        self.at = commit.row.last;
        self.begun = true;
        Ok(())
    }
}

fn hole(at: Seq, next: Seq) -> Fault {
    Fault::Damaged(format!("the commits after seq {at} up to seq {next} are missing"))
}

fn load(connection: &Connection, feed: UserId, ids_since: UnixMs, tail: Option<FeedTail>) -> Outcome<Option<Loaded>> {
    let Some((stored, head)) = head_now(connection, feed, tail.as_ref())? else {
        return Ok(None);
    };
    let Found {
        mut rows,
        mut unreadable,
        ..
    } = load_rows(connection, feed, &stored)?;
    let log = load_log(connection, feed, ids_since, &stored, tail)
        .map_err(|fault| fault.at(Table::Log.name(), format_args!("feed {feed}")))?;
    if let Some(first) = log.first() {
        let from = Quarter::of(first.time).key();
        let activity = scan(connection, feed, from, Quarter(u32::MAX).key())?;
        rows.extend(activity.rows);
        unreadable.extend(activity.unreadable);
    }
    Ok(Some(Loaded {
        head,
        rows,
        unreadable,
        log,
    }))
}

/// The rows that a feed has whole, and those that cannot be read.
fn load_rows(connection: &Connection, feed: UserId, stored: &StoredHead) -> Outcome<Found> {
    let [from, to] = ALL_ROWS;
    let found = scan(connection, feed, from, to)?;
    let count = found.rows.len() + found.unreadable.len();
    let damaged = |what| {
        let damage = Fault::Damaged(what);
        Err(damage.at(Table::Row.name(), format_args!("feed {feed}")))
    };
    if count as u64 != stored.rows {
        return damaged(format!("{count} rows were found, {} were written", stored.rows));
    }
    // A row that is damaged spoils the digest of all.
    if found.digest != stored.digest && found.unreadable.is_empty() {
        return damaged("some rows are older than what was written".to_owned());
    }
    Ok(found)
}

/// What a part of the table `row` holds.
#[derive(Default)]
struct Found {
    rows: Vec<StoredRow>,
    unreadable: Vec<Unreadable>,
    /// [`codec::row_digest`] of all of them, combined by exclusive or.
    digest: u64,
}

fn scan(connection: &Connection, feed: UserId, from: RowKey, to: RowKey) -> Outcome<Found> {
    let read = || -> Outcome<Found> {
        let mut all = Found::default();
        let mut statement = connection.prepare_cached("SELECT k,v FROM row WHERE k>=? AND k<=? ORDER BY k")?;
        let mut found = statement.query((codec::row_key(feed, from), codec::row_key(feed, to)))?;
        while let Some(row) = found.next()? {
            let (key, value) = (row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_blob()?);
            all.digest ^= codec::row_digest(value);
            match codec::decode_row(feed, key, value) {
                Ok(row) => all.rows.push(row),
                Err(Fault::Damaged(what)) => {
                    let named = format_args!("feed {feed}, row {}", hex(key.get(16..).unwrap_or(key)));
                    let damage = Fault::damaged(Table::Row.name(), named, what);
                    match (codec::row_of_key(feed, key), damage) {
                        (Ok(key), Fault::Damaged(what)) => all.unreadable.push(Unreadable { key, what }),
                        (_, damage) => return Err(damage),
                    }
                }
                Err(other) => return Err(other),
            }
        }
        Ok(all)
    };
    read().map_err(|fault| fault.at(Table::Row.name(), format_args!("feed {feed}")))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The commits after `rows_upto`, and those since `ids_since`; read backwards, because the times grow with the log.
fn load_log(
    connection: &Connection,
    feed: UserId,
    ids_since: UnixMs,
    stored: &StoredHead,
    tail: Option<FeedTail>,
) -> Outcome<Vec<LogRow>> {
    let tail = tail.map(|tail| tail.commits).unwrap_or_default();
    let wanted = |commit: &Commit| commit.row.last > stored.rows_upto || commit.row.time >= ids_since;
    // Newest first.
    let mut log: Vec<LogRow> = Vec::new();
    let mut next_base = None;
    for commit in tail.into_iter().rev().take_while(|commit| commit.row.last > stored.seq) {
        if !wanted(&commit) {
            log.reverse();
            return Ok(log);
        }
        next_base = Some(commit.base);
        log.push(commit.row);
    }
    let mut expected = next_base.unwrap_or(stored.seq);
    if expected != stored.seq {
        return Err(hole(stored.seq, expected));
    }
    let mut statement = connection.prepare_cached("SELECT k,v FROM log WHERE k>=? AND k<=? ORDER BY k DESC")?;
    let mut found = statement.query((log_key(feed, 0), log_key(feed, Seq::MAX)))?;
    while expected >= stored.first {
        let Some(row) = found.next()? else {
            return Err(hole(stored.first - 1, expected));
        };
        let commit = decode(feed, row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_blob()?)?;
        if commit.row.last != expected || commit.base >= expected {
            return Err(hole(commit.row.last, expected));
        }
        if !wanted(&commit) {
            break;
        }
        expected = commit.base;
        log.push(commit.row);
    }
    log.reverse();
    Ok(log)
}
