//! Brings what is in the inbox to its place: the commits of a feed, then its rows, then its head, feed by feed, in one
//! transaction without an fsync of its own. A crash loses it with everything after it, and the inbox still has the rest.

use std::collections::VecDeque;
use std::time::Instant;

use rusqlite::{Connection, OptionalExtension as _};
use taskflow_actors::ports::{AppendError, RowKind, StoredRow};
use taskflow_protocol::UserId;
use taskflow_protocol::values::Seq;

use super::codec::{self, Commit, StoredHead, Table};
use super::fault::{Fault, Outcome};
use super::queue::{RowsJob, TrimJob};
use super::reader;
use super::schema::{Meta, erase, put_meta};
use super::writer::Writer;

/// Commits that one piece of a trim removes: some milliseconds.
const TRIM_PIECE_COMMITS: u32 = 1_000;

/// Rows of a table that one piece of a removal removes: the same.
const REMOVE_PIECE_ROWS: u32 = 1_000;

/// Where the mover stands.
pub(super) struct Mover {
    /// Feeds of this round that are still to be moved, in the order of their keys: neighbours share pages.
    round: VecDeque<UserId>,
    /// When the last round began.
    begun: Instant,
    /// After a failure, not before this.
    retry: Option<Instant>,
}

impl Mover {
    pub(super) fn new() -> Self {
        Self {
            round: VecDeque::new(),
            begun: Instant::now(),
            retry: None,
        }
    }

    pub(super) fn may_try(&self) -> bool {
        self.retry.is_none_or(|at| at <= Instant::now())
    }
}

/// One feed's part of a transaction.
struct Plan {
    feed: UserId,
    commits: Vec<Commit>,
    /// How many of the waiting batches of rows.
    batches: usize,
    /// The head afterwards.
    head: StoredHead,
}

impl Writer {
    /// Is there anything to move?
    pub(super) fn has_work(&self) -> bool {
        let groups = &self.state.groups;
        !self.mover.round.is_empty() || !self.state.dirty.is_empty() || groups.removable() > groups.removed
    }

    /// When to move next; `None`: there is nothing to move.
    pub(super) fn next_move(&self) -> Option<Instant> {
        if !self.has_work() {
            return None;
        }
        let options = &self.shared.options;
        let due = if self.mover.round.is_empty() {
            (self.active_at + options.move_idle).min(self.mover.begun + options.move_every)
        } else {
            Instant::now()
        };
        Some(self.mover.retry.map_or(due, |retry| due.max(retry)))
    }

    /// Moves a slice. `Err` only if it is not known what became of it.
    pub(super) fn move_slice(&mut self) -> Outcome<()> {
        self.mover.retry = None;
        if self.mover.round.is_empty() {
            self.mover.round = std::mem::take(&mut self.state.dirty).into_iter().collect();
            self.mover.begun = Instant::now();
        }
        let mut plans = self.plan();
        match self.carry_out(&mut plans) {
            Ok(()) => Ok(()),
            Err(fault @ Fault::Damaged(_)) if plans.len() <= 1 => {
                let Some(plan) = plans.pop() else {
                    self.try_later(&fault, Vec::new());
                    return Ok(());
                };
                self.give_up(plan.feed, &fault)
            }
            Err(Fault::Damaged(_)) => {
                // One of them is damaged: each alone, so that the others are moved.
                for plan in plans {
                    let feed = plan.feed;
                    let mut alone = vec![plan];
                    match self.carry_out(&mut alone) {
                        Ok(()) => {}
                        Err(fault @ Fault::Damaged(_)) => self.give_up(feed, &fault)?,
                        Err(Fault::Full) => self.try_later(&Fault::Full, alone),
                        Err(fault) => return Err(fault),
                    }
                }
                Ok(())
            }
            Err(Fault::Full) => {
                self.try_later(&Fault::Full, plans);
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }

    /// The next feeds of the round, as many as a slice holds.
    fn plan(&mut self) -> Vec<Plan> {
        let mut room = self.shared.options.move_items.max(1);
        let mut plans = Vec::new();
        while room > 0 {
            let Some(feed) = self.mover.round.pop_front() else {
                break;
            };
            let Some(known) = self.state.feeds.get(&feed) else {
                continue;
            };
            let commits = self.shared.tail.oldest(feed, room);
            room -= commits.len().min(room);
            let mut head = known.stored;
            for commit in &commits {
                head.seq = commit.row.last;
                head.commits += 1;
                head.bytes += commit.row.body.len() as u64;
            }
            // Rows only after the commits that they come from.
            let batches = known.rows.iter().take_while(|job| job.upto <= head.seq).count();
            let rows: usize = known.rows[..batches].iter().map(|job| job.rows.len()).sum();
            room -= rows.min(room);
            let rest = commits.len() < known.waiting;
            plans.push(Plan {
                feed,
                commits,
                batches,
                head,
            });
            if rest {
                self.mover.round.push_front(feed);
                break;
            }
        }
        plans
    }

    /// Writes the plans in one transaction, and takes note.
    fn carry_out(&mut self, plans: &mut [Plan]) -> Outcome<()> {
        let begun = Instant::now();
        let Some(engine) = &mut self.engine else { return Ok(()) };
        for plan in &*plans {
            self.state.groups.take(&plan.commits);
        }
        let removable = self.state.groups.removable();
        let removed = self.state.groups.removed;
        let feeds = &self.state.feeds;
        let written = engine.transaction(false, |connection| {
            let mut value = Vec::new();
            for plan in &mut *plans {
                let batches = feeds.get(&plan.feed).map_or(&[][..], |feed| &feed.rows[..plan.batches]);
                write_feed(connection, plan, batches, &mut value)?;
            }
            remove_groups(connection, removed, removable)
        });
        if let Err(fault) = written {
            for plan in &*plans {
                self.state.groups.give_back(&plan.commits);
            }
            return Err(fault);
        }
        self.state.groups.remove(removable);
        let (mut commits, mut rows) = (0, 0);
        for plan in plans {
            commits += plan.commits.len();
            let Some(feed) = self.state.feeds.get_mut(&plan.feed) else {
                continue;
            };
            feed.stored = plan.head;
            feed.waiting -= plan.commits.len();
            let rest = feed.rows.split_off(plan.batches);
            let done = std::mem::replace(&mut feed.rows, rest);
            if !feed.rows.is_empty() {
                self.state.dirty.insert(plan.feed);
            }
            self.shared.tail.moved(plan.feed, plan.head.seq, feed.head());
            for job in done {
                rows += job.rows.len();
                self.state.rows_bytes -= job.bytes();
                let _ = job.answer.send(Ok(()));
            }
        }
        self.shared.observer.moved(commits, rows, begun.elapsed());
        Ok(())
    }

    /// Nothing was written: it stays where it is. Rows are handed back, their feed has them.
    fn try_later(&mut self, fault: &Fault, plans: Vec<Plan>) {
        self.mover.retry = Some(Instant::now() + self.shared.options.move_retry);
        match fault {
            Fault::Full => self.shared.observer.full(),
            other => self.shared.trouble(&format!("the inbox cannot be emptied: {other:?}")),
        }
        let round = self
            .mover
            .round
            .drain(..)
            .chain(plans.into_iter().map(|plan| plan.feed));
        self.state.dirty.extend(round);
        for feed in self.state.feeds.values_mut() {
            for job in feed.rows.drain(..) {
                let _ = job.answer.send(Err(fault.clone().into()));
            }
        }
        self.state.rows_bytes = 0;
        let feeds = &self.state.feeds;
        self.state
            .dirty
            .retain(|feed| feeds.get(feed).is_some_and(|feed| feed.waiting > 0));
    }

    /// A feed whose tables are damaged: what is durable only in the inbox is put aside, whole, and the others go on.
    fn give_up(&mut self, feed: UserId, fault: &Fault) -> Outcome<()> {
        let Fault::Damaged(what) = fault else { return Ok(()) };
        let commits = self.shared.tail.oldest(feed, usize::MAX);
        if self.put_aside(feed, what, &commits)? {
            self.shared.tail.remove(feed);
        }
        // Else they stay in memory, where they are read, and in the inbox, from where the next start tries again.
        Ok(())
    }

    /// Puts commits of a damaged feed into the table `aside`, so that the inbox can go on and nothing is thrown away.
    /// `false`: that was not possible either, and they are still in the inbox.
    pub(super) fn put_aside(&mut self, feed: UserId, what: &str, commits: &[Commit]) -> Outcome<bool> {
        self.shared.damaged(feed, what);
        if let Some(known) = self.state.feeds.remove(&feed) {
            for job in known.rows {
                self.state.rows_bytes -= job.bytes();
                let _ = job.answer.send(Err(AppendError::Damaged(what.to_owned())));
            }
        }
        self.mover.round.retain(|other| *other != feed);
        self.state.dirty.remove(&feed);
        let Some(engine) = &mut self.engine else {
            return Ok(false);
        };
        self.state.groups.take(commits);
        let (removable, removed) = (self.state.groups.removable(), self.state.groups.removed);
        let written = engine.transaction(false, |connection| {
            let mut value = Vec::new();
            let mut put = connection.prepare_cached(PUT_ASIDE)?;
            for commit in commits {
                let key = codec::log_key(feed, commit.row.last);
                commit.encode(Table::Aside, &key, &mut value);
                put.execute((&key, &value))?;
            }
            drop(put);
            remove_groups(connection, removed, removable)
        });
        match written {
            Ok(()) => {
                self.state.groups.remove(removable);
                Ok(true)
            }
            Err(fault @ Fault::Unavailable(_)) => Err(fault),
            Err(fault) => {
                self.state.groups.give_back(commits);
                self.shared.trouble(&format!(
                    "commits of the damaged feed {feed} cannot be put aside: {fault:?}"
                ));
                Ok(false)
            }
        }
    }

    /// Cuts a piece of the first log that waits for it.
    pub(super) fn trim_piece(&mut self) -> Outcome<()> {
        let Some(job) = self.trims.pop_front() else {
            return Ok(());
        };
        match self.trim(&job) {
            Ok(Trimmed::All(head)) => drop(job.answer.send(Ok(head))),
            Ok(Trimmed::Piece) => self.trims.push_back(job),
            Err(fault) => {
                if let Fault::Damaged(what) = &fault {
                    self.shared.damaged(job.feed, what);
                }
                let unknown = matches!(fault, Fault::Unavailable(_));
                let _ = job.answer.send(Err(fault.clone().into()));
                if unknown {
                    return Err(fault);
                }
            }
        }
        Ok(())
    }

    fn trim(&mut self, job: &TrimJob) -> Outcome<Trimmed> {
        if let Some(what) = self.shared.damage_of(job.feed) {
            return Err(Fault::Damaged(what));
        }
        let Some(known) = self.feed(job.feed)? else {
            return Ok(Trimmed::All(None));
        };
        let stored = known.stored;
        let waiting = known.waiting;
        let tail = self.shared.tail.oldest(job.feed, waiting);
        let tail_bytes: u64 = tail.iter().map(|commit| commit.row.body.len() as u64).sum();
        let Some(engine) = &mut self.engine else {
            return Ok(Trimmed::All(None));
        };
        let (cut, more) = engine.transaction(false, |connection| {
            cut(connection, job, stored, waiting as u64, tail_bytes)
                .map_err(|fault| fault.at(Table::Log.name(), format_args!("feed {}", job.feed)))
        })?;
        let Some(known) = self.feed(job.feed)? else {
            return Ok(Trimmed::All(None));
        };
        known.stored = cut;
        let head = known.head();
        // Nothing leaves the tail; its head now has the new `first`.
        self.shared.tail.moved(job.feed, 0, head);
        Ok(if more { Trimmed::Piece } else { Trimmed::All(Some(head)) })
    }
}

impl Writer {
    /// Removes a piece of the first feed that waits for it.
    pub(super) fn remove_piece(&mut self) -> Outcome<()> {
        let Some(job) = self.removals.pop_front() else {
            return Ok(());
        };
        match self.remove(job.feed) {
            Ok(true) => drop(job.answer.send(Ok(()))),
            Ok(false) => self.removals.push_back(job),
            Err(fault) => {
                let unknown = matches!(fault, Fault::Unavailable(_));
                let _ = job.answer.send(Err(fault.clone().into()));
                if unknown {
                    return Err(fault);
                }
            }
        }
        Ok(())
    }

    /// `true`: nothing is left of the feed.
    fn remove(&mut self, feed: UserId) -> Outcome<bool> {
        if self.state.feeds.get(&feed).is_some_and(|known| known.waiting > 0) {
            // Out of the inbox first: what is there comes back at the next start.
            if !self.mover.may_try() {
                return Err(Fault::Full);
            }
            self.move_slice()?;
            return Ok(false);
        }
        let Some(engine) = &mut self.engine else {
            return Ok(false);
        };
        if !reader::is_removed(&engine.connection, feed)? {
            engine.transaction(true, |connection| {
                let mut value = Vec::new();
                codec::begin(&mut value);
                codec::seal(Table::Removed, feed.bytes(), &mut value);
                connection
                    .prepare_cached("INSERT INTO removed(k,v) VALUES(?,?)")?
                    .execute((feed.bytes(), &value))?;
                connection
                    .prepare_cached("DELETE FROM head WHERE k=?")?
                    .execute([feed.bytes()])?;
                Ok(())
            })?;
            if let Some(known) = self.state.feeds.remove(&feed) {
                for job in known.rows {
                    self.state.rows_bytes -= job.bytes();
                    let _ = job.answer.send(Err(AppendError::Conflict(None)));
                }
            }
            self.mover.round.retain(|other| *other != feed);
            self.state.dirty.remove(&feed);
            self.shared.tail.remove(feed);
            self.shared.forget(feed);
            return Ok(false);
        }
        erase(&engine.connection, true)?;
        let removed = engine.transaction(false, |connection| {
            let log = (codec::log_key(feed, 0), codec::log_key(feed, Seq::MAX));
            for table in ["log", "aside"] {
                if !remove_some(connection, table, &log.0, &log.1)? {
                    return Ok(false);
                }
            }
            // From the first kind to the last, those to come included.
            let (mut from, mut to) = ([0; codec::ROW_KEY_BYTES], [0xff; codec::ROW_KEY_BYTES]);
            from[..16].copy_from_slice(feed.bytes());
            to[..16].copy_from_slice(feed.bytes());
            remove_some(connection, "row", &from, &to)
        });
        erase(&engine.connection, false)?;
        removed
    }
}

/// Removes some rows of a table; `true`: there are no more.
fn remove_some(connection: &Connection, table: &str, from: &[u8], to: &[u8]) -> Outcome<bool> {
    let statement = format!("DELETE FROM {table} WHERE k IN (SELECT k FROM {table} WHERE k>=? AND k<=? LIMIT ?)");
    let removed = connection
        .prepare_cached(&statement)?
        .execute((from, to, REMOVE_PIECE_ROWS))?;
    Ok(removed < REMOVE_PIECE_ROWS as usize)
}

enum Trimmed {
    All(Option<taskflow_actors::ports::Head>),
    Piece,
}

const PUT_ASIDE: &str = "INSERT INTO aside(k,v) VALUES(?,?) ON CONFLICT(k) DO UPDATE SET v=excluded.v";
const PUT_LOG: &str = "INSERT INTO log(k,v) VALUES(?,?) ON CONFLICT(k) DO UPDATE SET v=excluded.v";
const PUT_ROW: &str = "INSERT INTO row(k,v) VALUES(?,?) ON CONFLICT(k) DO UPDATE SET v=excluded.v";
const PUT_HEAD: &str = "INSERT INTO head(k,v) VALUES(?,?) ON CONFLICT(k) DO UPDATE SET v=excluded.v";

fn write_feed(connection: &Connection, plan: &mut Plan, batches: &[RowsJob], value: &mut Vec<u8>) -> Outcome<()> {
    let named = format_args!("feed {}", plan.feed).to_string();
    if !plan.commits.is_empty() {
        let mut put = connection.prepare_cached(PUT_LOG)?;
        for commit in &plan.commits {
            let key = codec::log_key(plan.feed, commit.row.last);
            commit.encode(Table::Log, &key, value);
            put.execute((&key, &*value))
                .map_err(|error| Fault::from(error).at(Table::Log.name(), &named))?;
        }
    }
    for job in batches {
        write_rows(connection, plan.feed, &mut plan.head, &job.rows, value)
            .map_err(|fault| fault.at(Table::Row.name(), &named))?;
        plan.head.rows_upto = plan.head.rows_upto.max(job.upto);
    }
    plan.head.encode(plan.feed, value);
    let mut put = connection.prepare_cached(PUT_HEAD)?;
    put.execute((plan.feed.bytes(), &*value))
        .map_err(|error| Fault::from(error).at(Table::Head.name(), &named))?;
    Ok(())
}

/// For each key the highest `seq` wins; the head keeps count.
fn write_rows(
    connection: &Connection,
    feed: UserId,
    head: &mut StoredHead,
    rows: &[StoredRow],
    value: &mut Vec<u8>,
) -> Outcome<()> {
    let mut get = connection.prepare_cached("SELECT v FROM row WHERE k=?")?;
    let mut put = connection.prepare_cached(PUT_ROW)?;
    for row in rows {
        let key = codec::encode_row(feed, row, value);
        let old = get.query_row([&key[..]], |found| {
            Ok(codec::row_mark(&key, found.get_ref(0)?.as_blob()?))
        });
        match old.optional()?.transpose()? {
            Some(old) if old.seq > row.seq => continue,
            _ if row.key.kind == RowKind::Activity => {}
            Some(old) => head.digest ^= old.digest ^ codec::row_digest(value),
            None => {
                head.rows += 1;
                head.digest ^= codec::row_digest(value);
            }
        }
        put.execute((&key, &*value))?;
    }
    Ok(())
}

fn remove_groups(connection: &Connection, removed: u64, upto: u64) -> Outcome<()> {
    if upto > removed {
        connection
            .prepare_cached("DELETE FROM inbox WHERE n<=?")?
            .execute([upto.cast_signed()])?;
        put_meta(connection, Meta::Moved, &upto.to_be_bytes())?;
    }
    Ok(())
}

/// Removes the oldest commits that the retention lets go, a piece at a time; the head afterwards, and whether there is
/// more. The archive, once there is one, copies them before.
fn cut(
    connection: &Connection,
    job: &TrimJob,
    mut head: StoredHead,
    waiting: u64,
    tail_bytes: u64,
) -> Outcome<(StoredHead, bool)> {
    let retention = &job.retention;
    let (from, to) = (codec::log_key(job.feed, 0), codec::log_key(job.feed, Seq::MAX));
    let mut upto: Option<Seq> = None;
    let mut more = false;
    {
        let mut statement = connection.prepare_cached("SELECT k,v FROM log WHERE k>=? AND k<=? ORDER BY k LIMIT ?")?;
        let mut rows = statement.query((&from, &to, TRIM_PIECE_COMMITS))?;
        let mut seen = 0;
        while let Some(row) = rows.next()? {
            let mark = codec::commit_mark(job.feed, row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_blob()?)?;
            if mark.base + 1 != head.first {
                return Err(Fault::Damaged(format!(
                    "the commits from seq {} to seq {} are missing",
                    head.first, mark.base
                )));
            }
            let over = mark.time < retention.cut_before
                || head.commits + waiting > retention.commits_max
                || head.bytes + tail_bytes > retention.bytes_max;
            if !over || mark.time >= retention.keep_since || mark.last > head.rows_upto {
                break;
            }
            upto = Some(mark.last);
            head.first = mark.last + 1;
            head.commits = head.commits.saturating_sub(1);
            head.bytes = head.bytes.saturating_sub(mark.bytes);
            seen += 1;
            more = seen == TRIM_PIECE_COMMITS;
        }
    }
    if let Some(upto) = upto {
        let cut = codec::log_key(job.feed, upto);
        connection
            .prepare_cached("DELETE FROM log WHERE k>=? AND k<=?")?
            .execute((&from, &cut))?;
        let mut value = Vec::new();
        head.encode(job.feed, &mut value);
        connection
            .prepare_cached(PUT_HEAD)?
            .execute((job.feed.bytes(), &value))?;
    }
    Ok((head, more))
}
