//! The log: one conditional update of one row for each commit.

use bytes::Bytes;
use scylla::response::query_result::QueryResult;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::value::{CqlValue, Row};
use taskflow_actors::ports::{Append, AppendError, Clock as _, Epoch, Head, LogPage, LogRow, ReadError, Retention};
use taskflow_protocol::UserId;
use taskflow_protocol::values::{Seq, UnixMs};

use super::seal::{seal, unseal};
use super::session::{Failed, Statement};
use super::{Cql, KNOWN_MAX, lock};
use crate::clock::SystemClock;

/// How often a read that found a hole reads again: a cut, or an append, may have come between two of its pages.
const READS_MAX: usize = 5;

/// Commits that are copied to the archive at once.
const ARCHIVE_AT_ONCE: usize = 64;

/// Partitions of a feed that are removed at once.
const REMOVE_AT_ONCE: usize = 16;

/// A commit, as one row of `feed_log` with the statics beside it.
type CommitRow = (
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<Bytes>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
);

/// The head as `feed_log` has it: without `rows_upto`.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogHead {
    pub epoch: Epoch,
    pub seq: Seq,
    pub first: Seq,
}

impl LogHead {
    pub fn with(self, rows_upto: Seq) -> Head {
        Head {
            epoch: self.epoch,
            seq: self.seq,
            first: self.first,
            // Rows are written after their commits, but read at another moment.
            rows_upto: rows_upto.min(self.seq),
        }
    }
}

/// A commit that was read, and the `seq` before it.
pub(super) struct Commit {
    pub base: Seq,
    pub row: LogRow,
}

/// Seqs are stored as the signed numbers that CQL has; they never come near the sign.
pub(super) fn stored(seq: Seq) -> i64 {
    seq.cast_signed()
}

impl Failed {
    pub fn append(self) -> AppendError {
        AppendError::Unavailable(self.to_string())
    }
    pub fn read(self) -> ReadError {
        ReadError::Unavailable(self.to_string())
    }
}

/// What a conditional statement answered.
pub(super) enum Applied {
    Yes,
    No,
}

/// Cassandra answers `[applied]` alone if it was, ScyllaDB always with the old row beside it: both have the column.
pub(super) fn applied(result: QueryResult) -> Result<Applied, Failed> {
    let garbled = |error: &dyn std::fmt::Display| Failed::Unknown(format!("a conditional statement's answer: {error}"));
    let rows = result.into_rows_result().map_err(|error| garbled(&error))?;
    let at = rows.column_specs().get_by_name("[applied]").map(|(at, _)| at);
    let row = rows.first_row::<Row>().map_err(|error| garbled(&error))?;
    match at.and_then(|at| row.columns.get(at)) {
        Some(Some(CqlValue::Boolean(true))) => Ok(Applied::Yes),
        Some(Some(CqlValue::Boolean(false))) => Ok(Applied::No),
        _ => Err(garbled(&"there is no [applied] in it")),
    }
}

/// The head of a feed that was removed: no append finds it, no birth finds that there is none.
const GRAVE: i64 = -1;

impl Cql {
    pub(super) async fn append_now(&self, append: Append) -> Result<(), AppendError> {
        let statements = self.0.session.statements();
        let body = seal(&append.body, self.0.compress);
        let bytes = i32::try_from(append.body.len()).unwrap_or(i32::MAX);
        let user = append.feed.0;
        let (last, base, id) = (stored(append.last), stored(append.base), append.append_id.cast_signed());
        let epoch = append.epoch.0.cast_signed();
        let done = if append.base == 0 {
            let values = (last, epoch, base, id, append.time, bytes, body, user, last);
            self.0.session.execute(&statements.birth, values).await
        } else {
            let values = (last, base, id, append.time, bytes, body, user, last, base, epoch);
            self.0.session.execute(&statements.append, values).await
        };
        match done.and_then(applied) {
            Ok(Applied::Yes) => {
                self.knows(append.feed, append.last);
                Ok(())
            }
            // It may be this very append, sent or seen twice on its way.
            Ok(Applied::No) => self.settle_refused(&append).await,
            Err(failed) => {
                self.0.observer.unknown();
                lock(&self.0.unsettled).insert(append.feed);
                Err(failed.append())
            }
        }
    }

    async fn settle_refused(&self, append: &Append) -> Result<(), AppendError> {
        let settled = async {
            let head = self.read_serial_head(append.feed).await?;
            let statement = &self.0.session.statements().log_serial;
            let (commits, _) = self.commits(append.feed, append.base, 1, statement).await?;
            Ok::<_, ReadError>((head, commits))
        };
        let (head, commits) = settled.await.map_err(|error| {
            self.0.observer.unknown();
            lock(&self.0.unsettled).insert(append.feed);
            match error {
                ReadError::Unavailable(what) => AppendError::Unavailable(what),
                ReadError::Damaged(what) => AppendError::Damaged(what),
            }
        })?;
        let is_own = |commit: &Commit| commit.base == append.base && commit.row.append_id == append.append_id;
        // What was answered once is not answered again: whoever repeats that does not know the head.
        let was_answered = lock(&self.0.known)
            .get(&append.feed)
            .is_some_and(|last| *last >= append.last);
        let is_there = head.is_some_and(|head| head.epoch == append.epoch) && commits.first().is_some_and(is_own);
        if is_there && !was_answered {
            self.knows(append.feed, append.last);
            return Ok(());
        }
        self.0.observer.conflict();
        if append.base == 0 && head.is_none() {
            // There is a head, and none that can be read.
            return Err(AppendError::Gone);
        }
        let rows_upto = self.rows_upto(append.feed).await.unwrap_or(0);
        Err(AppendError::Conflict(head.map(|head| head.with(rows_upto))))
    }

    /// The feed exists, and an append up to this one was answered here.
    pub(super) fn knows(&self, feed: UserId, answered: Seq) {
        let mut known = lock(&self.0.known);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        let highest = known.entry(feed).or_default();
        *highest = answered.max(*highest);
    }

    /// The head, with everything in it that was ever answered.
    pub(super) async fn read_serial_head(&self, feed: UserId) -> Result<Option<LogHead>, ReadError> {
        self.read_log_head(feed, &self.0.session.statements().head_serial).await
    }

    async fn read_log_head(&self, feed: UserId, statement: &Statement) -> Result<Option<LogHead>, ReadError> {
        let result = self
            .0
            .session
            .execute(statement, (feed.0,))
            .await
            .map_err(Failed::read)?;
        let rows = result.into_rows_result().map_err(|error| self.damaged(feed, &error))?;
        let row = rows
            .maybe_first_row::<(Option<i64>, Option<i64>, Option<i64>)>()
            .map_err(|error| self.damaged(feed, &error))?;
        match row {
            None | Some((None | Some(GRAVE), ..)) => Ok(None),
            Some((head, epoch, first)) => self.head_of(feed, head, epoch, first).map(Some),
        }
    }

    fn head_of(
        &self,
        feed: UserId,
        head: Option<i64>,
        epoch: Option<i64>,
        first: Option<i64>,
    ) -> Result<LogHead, ReadError> {
        match (head, epoch, first) {
            (Some(seq), Some(epoch), Some(first)) => Ok(LogHead {
                epoch: Epoch(epoch.cast_unsigned()),
                seq: seq.cast_unsigned(),
                first: first.cast_unsigned(),
            }),
            _ => Err(self.damaged(feed, &"it has a head without an epoch or a beginning")),
        }
    }

    pub(super) fn damaged(&self, feed: UserId, what: &dyn std::fmt::Display) -> ReadError {
        self.0.observer.damage();
        ReadError::Damaged(format!("feed_log of user {feed}: {what}"))
    }

    pub(super) async fn read_head(&self, feed: UserId) -> Result<Option<Head>, ReadError> {
        let (head, rows_upto) = tokio::join!(self.read_serial_head(feed), self.rows_upto(feed));
        let Some(head) = head? else { return Ok(None) };
        self.knows(feed, 0);
        Ok(Some(head.with(rows_upto?)))
    }

    pub(super) async fn peek(&self, feed: UserId) -> Result<Option<Head>, ReadError> {
        let head = &self.0.session.statements().head;
        let (head, rows_upto) = tokio::join!(self.read_log_head(feed, head), self.rows_upto(feed));
        Ok(match head? {
            Some(head) => Some(head.with(rows_upto?)),
            None => None,
        })
    }

    /// Whether the next read of the log has to settle an append. Given back by [`Cql::settled`].
    pub(super) fn is_unsettled(&self, feed: UserId) -> bool {
        lock(&self.0.unsettled).contains(&feed)
    }

    pub(super) fn settled(&self, feed: UserId) {
        lock(&self.0.unsettled).remove(&feed);
    }

    pub(super) async fn read_page(
        &self,
        feed: UserId,
        after: Seq,
        bytes_max: usize,
    ) -> Result<Option<LogPage>, ReadError> {
        let statements = self.0.session.statements();
        let unsettled = self.is_unsettled(feed);
        let (log, head) = if unsettled {
            (&statements.log_serial, &statements.head_serial)
        } else {
            (&statements.log, &statements.head)
        };
        let mut hole = String::new();
        for _ in 0..READS_MAX {
            let (page, rows_upto) = tokio::join!(self.commits(feed, after, bytes_max, log), self.rows_upto(feed));
            let ((commits, found), rows_upto) = (page?, rows_upto?);
            let found = match found {
                Some(found) => found,
                // No commit after this one: the head is read alone.
                None => match self.read_log_head(feed, head).await? {
                    None => {
                        self.settled(feed);
                        return Ok(None);
                    }
                    // One came between the two reads.
                    Some(found) if found.seq > after => {
                        hole = format!("the head is {}, but there is no commit after {after}", found.seq);
                        continue;
                    }
                    Some(found) => found,
                },
            };
            match hole_in(&commits, after, found) {
                None => {
                    if unsettled {
                        self.settled(feed);
                    }
                    return Ok(Some(LogPage {
                        head: found.with(rows_upto),
                        rows: commits.into_iter().map(|commit| commit.row).collect(),
                    }));
                }
                Some(found) => hole = found,
            }
        }
        Err(self.damaged(feed, &hole))
    }

    /// Commits after this one, up to about so many bytes, and the head beside the last of them.
    async fn commits(
        &self,
        feed: UserId,
        after: Seq,
        bytes_max: usize,
        statement: &Statement,
    ) -> Result<(Vec<Commit>, Option<LogHead>), ReadError> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let (mut commits, mut head, mut bytes) = (Vec::new(), None, 0);
        let mut from = PagingState::start();
        loop {
            let page = self.0.session.page(statement, (feed.0, after), from).await;
            let (result, next) = page.map_err(Failed::read)?;
            for (commit, found) in self.commit_rows(feed, result)? {
                if !commits.is_empty() && bytes + commit.row.body.len() > bytes_max {
                    return Ok((commits, head));
                }
                bytes += commit.row.body.len();
                head = Some(found);
                commits.push(commit);
            }
            match next {
                PagingStateResponse::HasMorePages { state } => from = state,
                PagingStateResponse::NoMorePages => return Ok((commits, head)),
            }
        }
    }

    /// The end of the log: commits after `upto`, and those at or after `since`, in order.
    pub(super) async fn commits_back(
        &self,
        feed: UserId,
        upto: Seq,
        since: UnixMs,
    ) -> Result<Option<(LogHead, Vec<Commit>)>, ReadError> {
        let statements = self.0.session.statements();
        let (log, alone) = if self.is_unsettled(feed) {
            (&statements.log_back_serial, &statements.head_serial)
        } else {
            (&statements.log_back, &statements.head)
        };
        let mut hole = String::new();
        for _ in 0..READS_MAX {
            let (mut commits, mut head) = (Vec::new(), None);
            let mut from = PagingState::start();
            'pages: loop {
                let page = self.0.session.page(log, (feed.0,), from).await;
                let (result, next) = page.map_err(Failed::read)?;
                for (commit, found) in self.commit_rows(feed, result)? {
                    // The first page has the newest commit, and the head that belongs to it.
                    head = head.or(Some(found));
                    if commit.row.last <= upto && commit.row.time < since {
                        break 'pages;
                    }
                    commits.push(commit);
                }
                match next {
                    PagingStateResponse::HasMorePages { state } => from = state,
                    PagingStateResponse::NoMorePages => break,
                }
            }
            commits.reverse();
            let Some(head) = head.or(self.read_log_head(feed, alone).await?) else {
                return Ok(None);
            };
            let needed = commits.first().map_or(upto, |first| first.base.min(upto));
            match hole_in(&commits, needed.max(head.first - 1), head).or_else(|| {
                end_of(&commits)
                    .filter(|end| *end != head.seq)
                    .map(|end| end_hole(end, head))
            }) {
                None => {
                    self.settled(feed);
                    return Ok(Some((head, commits)));
                }
                Some(found) => hole = found,
            }
        }
        Err(self.damaged(feed, &hole))
    }

    fn commit_rows(&self, feed: UserId, result: QueryResult) -> Result<Vec<(Commit, LogHead)>, ReadError> {
        let rows = result.into_rows_result().map_err(|error| self.damaged(feed, &error))?;
        let rows = rows.rows::<CommitRow>().map_err(|error| self.damaged(feed, &error))?;
        let mut commits = Vec::new();
        for row in rows {
            let (last, base, id, time, body, head, epoch, first) = row.map_err(|error| self.damaged(feed, &error))?;
            // A partition without commits has one row, of statics alone.
            let Some(last) = last else { continue };
            let head = self.head_of(feed, head, epoch, first)?;
            let body = body.as_ref().and_then(unseal);
            let (Some(base), Some(id), Some(time), Some(body)) = (base, id, time, body) else {
                return Err(self.damaged(feed, &format!("the commit at {last} is not what was written")));
            };
            let row = LogRow {
                last: last.cast_unsigned(),
                append_id: id.cast_unsigned(),
                time,
                body,
            };
            let base = base.cast_unsigned();
            commits.push((Commit { base, row }, head));
        }
        Ok(commits)
    }

    pub(super) async fn cut(&self, feed: UserId, retention: Retention) -> Result<Option<Head>, AppendError> {
        let read = |error| match error {
            ReadError::Unavailable(what) => AppendError::Unavailable(what),
            ReadError::Damaged(what) => AppendError::Damaged(what),
        };
        // Before the log is looked at: it only grows, so what is not above it now is not above it later.
        let rows_upto = self.rows_upto(feed).await.map_err(read)?;
        let sizes = self.log_sizes(feed).await.map_err(read)?;
        let Some((epoch, first)) = sizes.place else {
            return self.read_head(feed).await.map_err(read);
        };
        let mut commits = sizes.commits.len() as u64;
        let mut bytes: u64 = sizes.commits.iter().map(|commit| commit.2).sum();
        let mut cut = None;
        for (last, time, size) in sizes.commits {
            let is_over = time < retention.cut_before || commits > retention.commits_max || bytes > retention.bytes_max;
            if !is_over || time >= retention.keep_since || last > rows_upto {
                break;
            }
            commits -= 1;
            bytes -= size;
            cut = Some(last);
        }
        if let Some(last) = cut {
            self.archive(feed, Epoch(epoch.cast_unsigned()), last).await?;
            let statements = self.0.session.statements();
            let both = [&statements.cut_first, &statements.cut_rows];
            let (next, user) = (stored(last + 1), feed.0);
            let values = ((next, user, first, epoch), (user, stored(last)));
            let done = self.0.session.batch(&both, values, false).await;
            // Somebody else cut it meanwhile: then it is cut.
            done.and_then(applied).map_err(Failed::append)?;
        }
        self.read_head(feed).await.map_err(read)
    }

    /// Removes a feed: first its log, after which nothing is appended any more, then what goes with it.
    pub(super) async fn remove_all(&self, feed: UserId, since: UnixMs) -> Result<(), AppendError> {
        let statements = self.0.session.statements();
        loop {
            let head = self.stored_head(feed).await.map_err(Failed::append)?;
            let removed = match head {
                Some(GRAVE) => break,
                None => {
                    let values = (GRAVE, feed.0, None::<i64>);
                    self.0.session.execute(&statements.remove_log, values).await
                }
                Some(head) => {
                    let both = [&statements.remove_log, &statements.cut_rows];
                    let values = ((GRAVE, feed.0, head), (feed.0, head));
                    self.0.session.batch(&both, values, false).await
                }
            };
            // Something was appended meanwhile: then that goes, too.
            removed.and_then(applied).map_err(Failed::append)?;
        }
        lock(&self.0.known).remove(&feed);
        let rows = self.0.session.execute(&statements.remove_rows, (feed.0,)).await;
        rows.map_err(Failed::append)?;
        // The clocks of those who wrote it may have been off.
        let months = month_of(since) - 1..=month_of(SystemClock.now_ms()) + 1;
        let tables = [&statements.remove_activity, &statements.remove_archive];
        let all: Vec<_> = months
            .flat_map(|month| tables.map(|statement| (statement, month)))
            .collect();
        for some in all.chunks(REMOVE_AT_ONCE) {
            let removals = some.iter().map(|(statement, month)| {
                let values = (feed.0, *month);
                self.0.session.execute(statement, values)
            });
            futures_util::future::try_join_all(removals)
                .await
                .map_err(Failed::append)?;
        }
        Ok(())
    }

    /// The head as it is stored.
    async fn stored_head(&self, feed: UserId) -> Result<Option<i64>, Failed> {
        let statement = &self.0.session.statements().head_serial;
        let result = self.0.session.execute(statement, (feed.0,)).await?;
        let garbled = |error: &dyn std::fmt::Display| Failed::Unknown(format!("the head of {feed}: {error}"));
        let rows = result.into_rows_result().map_err(|error| garbled(&error))?;
        let row = rows
            .maybe_first_row::<(Option<i64>, Option<i64>, Option<i64>)>()
            .map_err(|error| garbled(&error))?;
        Ok(row.and_then(|(head, ..)| head))
    }

    async fn log_sizes(&self, feed: UserId) -> Result<Sizes, ReadError> {
        let mut sizes = Sizes::default();
        let mut from = PagingState::start();
        loop {
            let statement = &self.0.session.statements().log_sizes;
            let page = self.0.session.page(statement, (feed.0,), from).await;
            let (result, next) = page.map_err(Failed::read)?;
            let rows = result.into_rows_result().map_err(|error| self.damaged(feed, &error))?;
            let rows = rows
                .rows::<(Option<i64>, Option<i64>, Option<i32>, Option<i64>, Option<i64>)>()
                .map_err(|error| self.damaged(feed, &error))?;
            for row in rows {
                let (last, time, bytes, first, epoch) = row.map_err(|error| self.damaged(feed, &error))?;
                sizes.place = sizes.place.or(epoch.zip(first));
                if let (Some(last), Some(time), Some(bytes)) = (last, time, bytes) {
                    sizes
                        .commits
                        .push((last.cast_unsigned(), time, bytes.unsigned_abs().into()));
                }
            }
            match next {
                PagingStateResponse::HasMorePages { state } => from = state,
                PagingStateResponse::NoMorePages => return Ok(sizes),
            }
        }
    }

    /// What was cut from a feed's log in a month (year * 12 + month), in order.
    pub async fn archived(&self, feed: UserId, month: i32) -> Result<Vec<LogRow>, ReadError> {
        let statement = &self.0.session.statements().read_archive;
        let mut found = Vec::new();
        let mut from = PagingState::start();
        loop {
            let page = self.0.session.page(statement, (feed.0, month), from).await;
            let (result, next) = page.map_err(Failed::read)?;
            let rows = result.into_rows_result().map_err(|error| self.damaged(feed, &error))?;
            let rows = rows
                .rows::<(i64, i64, i64, Bytes)>()
                .map_err(|error| self.damaged(feed, &error))?;
            for row in rows {
                let (last, id, time, body) = row.map_err(|error| self.damaged(feed, &error))?;
                let body = unseal(&body).ok_or_else(|| self.damaged(feed, &"an archived commit is damaged"))?;
                found.push(LogRow {
                    last: last.cast_unsigned(),
                    append_id: id.cast_unsigned(),
                    time,
                    body,
                });
            }
            match next {
                PagingStateResponse::HasMorePages { state } => from = state,
                PagingStateResponse::NoMorePages => return Ok(found),
            }
        }
    }

    /// Copies what is about to be cut. Copying twice changes nothing.
    async fn archive(&self, feed: UserId, epoch: Epoch, upto: Seq) -> Result<(), AppendError> {
        let statements = self.0.session.statements();
        let mut from = PagingState::start();
        loop {
            let page = self.0.session.page(&statements.log, (feed.0, 0_i64), from).await;
            let (result, next) = page.map_err(Failed::append)?;
            let commits = self.commit_rows(feed, result).map_err(|error| match error {
                ReadError::Unavailable(what) => AppendError::Unavailable(what),
                ReadError::Damaged(what) => AppendError::Damaged(what),
            })?;
            let is_over = commits.last().is_none_or(|(commit, _)| commit.row.last >= upto);
            let cut: Vec<_> = commits
                .into_iter()
                .filter(|(commit, _)| commit.row.last <= upto)
                .collect();
            for some in cut.chunks(ARCHIVE_AT_ONCE) {
                let copies = some.iter().map(|(Commit { base, row }, _)| {
                    let values = (
                        feed.0,
                        month_of(row.time),
                        stored(row.last),
                        epoch.0.cast_signed(),
                        stored(*base),
                        row.append_id.cast_signed(),
                        row.time,
                        seal(&row.body, self.0.compress),
                    );
                    self.0.session.execute(&statements.archive, values)
                });
                let copied = futures_util::future::join_all(copies).await;
                for done in copied {
                    done.map_err(Failed::append)?;
                }
            }
            match next {
                PagingStateResponse::HasMorePages { state } if !is_over => from = state,
                _ => return Ok(()),
            }
        }
    }
}

#[derive(Default)]
struct Sizes {
    /// Epoch and first, as stored.
    place: Option<(i64, i64)>,
    /// Last seq, time and bytes of each commit.
    commits: Vec<(Seq, UnixMs, u64)>,
}

/// The month of a time, in UTC: year * 12 + month.
pub(super) fn month_of(time: UnixMs) -> i32 {
    match jiff::Timestamp::from_millisecond(time) {
        Ok(time) => {
            let date = jiff::tz::TimeZone::UTC.to_datetime(time).date();
            i32::from(date.year()) * 12 + i32::from(date.month())
        }
        // Outside the calendar: all in one.
        Err(_) => 0,
    }
}

/// Where the commits are not dense after this seq.
fn hole_in(commits: &[Commit], after: Seq, head: LogHead) -> Option<String> {
    let first = commits.first()?;
    let mut end = first.base;
    // A cursor may be inside the first commit, or before what is kept.
    if end > after.max(head.first - 1) {
        return Some(format!("a commit is missing between {after} and {end}"));
    }
    for commit in commits {
        if commit.base != end {
            return Some(format!("a commit is missing between {end} and {}", commit.base));
        }
        end = commit.row.last;
    }
    None
}

fn end_of(commits: &[Commit]) -> Option<Seq> {
    commits.last().map(|commit| commit.row.last)
}

fn end_hole(end: Seq, head: LogHead) -> String {
    format!("the log ends at {end}, but its head is {}", head.seq)
}
