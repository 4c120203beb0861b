//! The writer: the one thread that writes. It joins the appends that wait into groups, judges them against heads in
//! memory, and between groups lets the mover work.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use taskflow_actors::ports::{AccountError, Append, AppendError, LogRow};
use taskflow_protocol::UserId;

use super::COLLECT_EVERY;
use super::OpenError;
use super::accounts::{self, Census, Sweep, Written};
use super::codec::{self, Commit, FILED_BYTES, StoredHead};
use super::fault::{Fault, Outcome};
use super::folder::{DATABASE, WITNESS, private};
use super::mover::Mover;
use super::queue::{AccountWrite, Answer, Close, READ_WAIT_MAX, RemoveJob, RowsJob, TrimJob, Write};
use super::reader;
use super::replay::{Feed, Replayed, State, replay};
use super::schema::{self, FORMAT, Meta, Role, put_meta};
use super::shared::Shared;
use super::witness::{Found, Witness};

/// Fewer groups than this between two collections, and the store is quiet: only the questions whether it is well.
const QUIET_GROUPS: u64 = 10;

/// First and longest pause between two attempts to find out what is durable.
const RECOVERY_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The writer's connection.
pub(super) struct Engine {
    pub connection: Connection,
    /// Whether commits are synced; the mover's are not.
    durable: bool,
    /// Frames in the write-ahead log after the last commit.
    pub frames: Arc<AtomicU64>,
    /// The same after the last durable transaction.
    frames_synced: u64,
}

impl Engine {
    fn open(shared: &Shared) -> Outcome<Self> {
        let connection = schema::connect(&shared.folder, &shared.options, Role::Writer)?;
        Ok(Self {
            connection,
            durable: false,
            frames: Arc::default(),
            frames_synced: 0,
        })
    }

    /// From here on it may write.
    fn begin_writing(&mut self) -> Outcome<()> {
        schema::prepare_writer(&self.connection)?;
        schema::count_frames(&mut self.connection, &self.frames)?;
        self.durable = true;
        Ok(())
    }

    /// Runs `work` as one transaction, synced before this returns if it is `durable`.
    ///
    /// `Full` and `Damaged` mean that nothing was written; after `Unavailable` nobody knows.
    pub(super) fn transaction<T>(&mut self, durable: bool, work: impl FnOnce(&Connection) -> Outcome<T>) -> Outcome<T> {
        if self.durable != durable {
            // Never OFF: a checkpoint would not be synced then either. Not as a cached statement: this pragma takes
            // effect when it is compiled, not when it is run.
            let level = if durable {
                "PRAGMA synchronous=FULL"
            } else {
                "PRAGMA synchronous=NORMAL"
            };
            self.connection.execute_batch(level)?;
            self.durable = durable;
        }
        let before = self.frames.load(Ordering::Relaxed);
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let done = work(&self.connection).and_then(|value| {
            self.connection.prepare_cached("COMMIT")?.execute([])?;
            Ok(value)
        });
        // Some failures end the transaction by themselves, others leave it open.
        if done.is_err() && !self.connection.is_autocommit() {
            self.connection
                .execute_batch("ROLLBACK")
                .map_err(|error| Fault::Unavailable(format!("a transaction could not be rolled back: {error}")))?;
        }
        if done.is_ok() {
            let frames = self.frames.load(Ordering::Relaxed);
            if durable {
                self.frames_synced = frames;
            } else if frames < before {
                // The write-ahead log has started over, with nothing that is synced.
                self.frames_synced = 0;
            }
        }
        done
    }
}

/// See the module.
pub(super) struct Writer {
    pub shared: Arc<Shared>,
    witness: Witness,
    /// `None` while it is not known what is durable.
    pub engine: Option<Engine>,
    pub state: State,
    pub mover: Mover,
    sweep: Sweep,
    /// Logs to cut, a piece at a time.
    pub trims: VecDeque<TrimJob>,
    /// Feeds to remove, a piece at a time.
    pub removals: VecDeque<RemoveJob>,
    /// The group being encoded; kept for its room.
    group: Vec<u8>,
    /// When the last group was written.
    pub active_at: Instant,
    /// Frames at which the next checkpoint is made.
    checkpoint_at: u64,
    frames_seen: u64,
    recovery: Recovery,
}

/// When to look again, while it is not known what is durable.
struct Recovery {
    since: Instant,
    next: Instant,
    pause: Duration,
    why: String,
}

impl Recovery {
    fn begin(why: String) -> Self {
        let now = Instant::now();
        Self {
            since: now,
            next: now,
            pause: RECOVERY_PAUSE.0,
            why,
        }
    }
}

/// Whatever way the thread ends, nobody waits for it in vain.
struct LastOne<'a>(&'a Shared);

impl Drop for LastOne<'_> {
    fn drop(&mut self) {
        self.0.writes.close(Close::Quick);
        let mut jobs = Vec::new();
        while self.0.writes.take(usize::MAX, None, &mut jobs).is_none() {}
        drop(jobs);
        self.0.reads.close();
    }
}

/// The writer thread: opens the store, tells how that went, and works until the queue is closed.
pub(super) fn run(shared: &Arc<Shared>, opened: &SyncSender<Result<(), OpenError>>) {
    let _last = LastOne(shared);
    match Writer::open(shared.clone()) {
        Ok(mut writer) => {
            // Whoever opened waits for this.
            let _ = opened.send(Ok(()));
            writer.work();
        }
        Err(error) => {
            let _ = opened.send(Err(error));
        }
    }
}

impl Writer {
    fn open(shared: Arc<Shared>) -> Result<Self, OpenError> {
        let folder = shared.folder.path().to_owned();
        let refuse = |fault: Fault| match fault {
            Fault::Damaged(what) => {
                let what = if what.starts_with(DATABASE) {
                    what
                } else {
                    format!("{DATABASE}: {what}")
                };
                OpenError::Damaged {
                    folder: folder.clone(),
                    what,
                }
            }
            Fault::Full => OpenError::Unavailable {
                folder: folder.clone(),
                what: "the disk is full: make room and start again".to_owned(),
            },
            Fault::Unavailable(what) => OpenError::Unavailable {
                folder: folder.clone(),
                what,
            },
        };
        let mut witness = find_witness(&shared)?;
        if !witness.record().ready {
            // Made here, so that SQLite finds it with the right mode and gives the same to what it puts beside it.
            let made = private().create(true).truncate(false).open(shared.folder.database());
            made.map_err(|source| OpenError::Io {
                path: shared.folder.database(),
                source,
            })?;
        }
        let mut engine = Engine::open(&shared).map_err(refuse)?;
        prepare(&shared, &mut engine, &mut witness, refuse)?;
        let replayed = replay(&engine.connection, &witness.record()).map_err(refuse)?;
        // Compared; now it may be written.
        engine.begin_writing().map_err(refuse)?;
        schema::upgrade(&engine.connection).map_err(refuse)?;
        let census =
            Census::stored(&engine.connection).and_then(|stored| Ok(stored == Census::taken(&engine.connection)?));
        match census {
            Ok(true) => {}
            Ok(false) | Err(Fault::Damaged(_)) => shared.set_accounts_incomplete(),
            Err(fault) => return Err(refuse(fault)),
        }
        let now = Instant::now();
        let mut writer = Self {
            checkpoint_at: shared.options.checkpoint_frames,
            shared,
            witness,
            engine: Some(engine),
            state: State::default(),
            mover: Mover::new(),
            sweep: Sweep::default(),
            trims: VecDeque::new(),
            removals: VecDeque::new(),
            group: Vec::new(),
            active_at: now,
            frames_seen: 0,
            recovery: Recovery::begin(String::new()),
        };
        writer.install(replayed).map_err(refuse)?;
        Ok(writer)
    }

    /// Takes over what a replay found.
    fn install(&mut self, replayed: Replayed) -> Outcome<()> {
        let Replayed {
            state,
            commits,
            stranded,
        } = replayed;
        self.state = state;
        self.shared.tail.clear();
        self.shared.tail.publish(commits);
        self.note_group();
        for (feed, (what, commits)) in stranded {
            if !self.put_aside(feed, &what, &commits)? {
                self.shared.hide(feed, &what);
            }
        }
        Ok(())
    }

    fn work(&mut self) {
        let mut jobs = Vec::new();
        let mut collected = Instant::now();
        let mut groups = 0;
        loop {
            // The server asks every few seconds whether an append would succeed, so this is passed also when idle.
            if collected.elapsed() >= COLLECT_EVERY {
                collected = Instant::now();
                // As large as the largest group was; the next one makes its own.
                self.group = Vec::new();
                let quiet = self.state.groups.last() < groups + QUIET_GROUPS;
                groups = self.state.groups.last();
                if quiet && let Some(engine) = &self.engine {
                    schema::shrink(&engine.connection);
                }
                (self.shared.options.collect)();
            }
            let until = match &self.engine {
                Some(_) if !(self.trims.is_empty() && self.removals.is_empty()) => Some(Instant::now()),
                Some(_) => self.next_move(),
                None => Some(self.recovery.next),
            };
            let close = self
                .shared
                .writes
                .take(self.shared.options.group_bytes_max, until, &mut jobs);
            if self.engine.is_some() {
                self.serve(&mut jobs);
                self.upkeep();
            } else {
                self.refuse(&mut jobs);
                if Instant::now() >= self.recovery.next {
                    self.recover();
                }
            }
            if let Some(close) = close {
                if close == Close::Tidy {
                    self.tidy();
                }
                return;
            }
        }
    }

    /// Does what was asked.
    fn serve(&mut self, jobs: &mut Vec<Write>) {
        let (mut appends, mut accounts, mut checks) = (Vec::new(), Vec::new(), Vec::new());
        let mut rows = Vec::new();
        for job in jobs.drain(..) {
            match job {
                Write::Append(append, answer) => appends.push((append, answer)),
                Write::Account(write) => accounts.push(write),
                Write::Check(answer) => checks.push(answer),
                Write::Rows(job) => rows.push(job),
                Write::Trim(job) => self.trims.push_back(job),
                Write::Remove(job) => self.removals.push_back(job),
            }
        }
        if !(appends.is_empty() && accounts.is_empty() && checks.is_empty()) {
            self.write_group(appends, accounts, checks);
        }
        for job in rows {
            self.accept_rows(job);
        }
    }

    fn refuse(&mut self, jobs: &mut Vec<Write>) {
        let fault = Fault::Unavailable(self.recovery.why.clone());
        for job in jobs.drain(..) {
            answer_write(job, &fault);
        }
    }

    /// Room for one more group, and for moving what has been accepted.
    fn room(&mut self) -> Outcome<()> {
        let bytes_max = self.shared.options.tail_bytes_max;
        while self.has_work() && self.shared.tail.bytes() + self.state.rows_bytes > bytes_max {
            if !self.mover.may_try() {
                return Err(Fault::Full);
            }
            self.move_slice()?;
        }
        let free = match self.shared.folder.bytes_free() {
            Ok(free) => free,
            Err(error) => {
                // Then the write itself will tell.
                self.shared
                    .trouble(&format!("the room left on the disk is not known: {error}"));
                return Ok(());
            }
        };
        self.shared.observer.bytes_free(free);
        // What is not moved yet goes through the write-ahead log into two tables; the log itself into the database.
        let owed = 3 * self.shared.tail.bytes() as u64 + 4096 * self.frames();
        if free < self.shared.options.reserve_bytes.saturating_add(owed) {
            return Err(Fault::Full);
        }
        Ok(())
    }

    fn frames(&self) -> u64 {
        self.engine
            .as_ref()
            .map_or(0, |engine| engine.frames.load(Ordering::Relaxed))
    }

    /// One group: judged, written, synced, answered.
    fn write_group(
        &mut self,
        appends: Vec<(Append, Answer<Result<(), AppendError>>)>,
        accounts: Vec<AccountWrite>,
        checks: Vec<Answer<Result<(), AppendError>>>,
    ) {
        if let Err(fault) = self.room() {
            if matches!(fault, Fault::Full) {
                self.shared.observer.full();
            } else {
                self.lost(&fault);
            }
            let appends = appends
                .into_iter()
                .map(|(append, answer)| Write::Append(append, answer));
            let accounts = accounts.into_iter().map(Write::Account);
            let checks = checks.into_iter().map(Write::Check);
            appends
                .chain(accounts)
                .chain(checks)
                .for_each(|job| answer_write(job, &fault));
            return;
        }
        let number = self.state.groups.last() + 1;
        let mut group = std::mem::take(&mut self.group);
        codec::begin(&mut group);
        let mut staged: Vec<Staged> = Vec::with_capacity(appends.len());
        // Refusals that were judged on a commit of this very group: they are true only if it becomes durable.
        let mut refused = Vec::new();
        let mut touched: HashSet<UserId> = HashSet::new();
        for (append, answer) in appends {
            match self.judge(&append) {
                Ok(()) => {
                    touched.insert(append.feed);
                    let Append {
                        feed,
                        epoch,
                        base,
                        last,
                        append_id,
                        time,
                        body,
                    } = append;
                    let row = LogRow {
                        last,
                        append_id,
                        time,
                        body,
                    };
                    codec::file(&mut group, feed, epoch, base, &row);
                    staged.push(Staged {
                        feed,
                        commit: Commit {
                            base,
                            row,
                            group: number,
                        },
                        answer,
                    });
                }
                Err(error) if touched.contains(&append.feed) => refused.push((answer, error)),
                Err(error) => drop(answer.send(Err(error))),
            }
        }
        if staged.is_empty() && accounts.is_empty() && checks.is_empty() {
            self.group = group;
            return;
        }
        codec::seal_group(number, &mut group);
        let written = self.commit_group(number, &group, accounts);
        let bytes = group.len();
        self.group = group;
        if self.group.capacity() > 2 * self.shared.options.group_bytes_max {
            self.group = Vec::new();
        }
        match written {
            Ok(accounts) => {
                self.publish(staged, bytes);
                for (write, done) in accounts {
                    answer_account(write, done);
                }
                for (answer, error) in refused {
                    let _ = answer.send(Err(error));
                }
                for answer in checks {
                    let _ = answer.send(Ok(()));
                }
            }
            Err((fault, accounts)) => {
                if matches!(fault, Fault::Full) {
                    self.shared.observer.full();
                }
                if matches!(fault, Fault::Unavailable(_)) {
                    // First nobody may read, then they may hear that nobody knows.
                    self.lost(&fault);
                } else {
                    self.unstage(&staged);
                }
                for Staged { answer, .. } in staged {
                    let _ = answer.send(Err(fault.clone().into()));
                }
                accounts
                    .into_iter()
                    .for_each(|write| answer_write(Write::Account(write), &fault));
                for answer in refused.into_iter().map(|(answer, _)| answer).chain(checks) {
                    let _ = answer.send(Err(fault.clone().into()));
                }
            }
        }
    }

    /// Does the append fit? If so, the feed's head is moved on in memory.
    fn judge(&mut self, append: &Append) -> Result<(), AppendError> {
        if let Some(what) = self.shared.damage_of(append.feed) {
            return Err(AppendError::Damaged(what));
        }
        let shared = self.shared.clone();
        match self.feed(append.feed) {
            Ok(Some(feed)) if feed.takes(append) => {
                feed.seq = append.last;
                Ok(())
            }
            Ok(Some(feed)) => Err(AppendError::Conflict(Some(feed.head()))),
            Ok(None) if append.base == 0 && append.last > 0 => {
                if self.is_removed(append.feed)? {
                    return Err(AppendError::Gone);
                }
                let mut feed = Feed::new(StoredHead::born(append.epoch));
                feed.seq = append.last;
                self.state.feeds.insert(append.feed, feed);
                Ok(())
            }
            Ok(None) => Err(AppendError::Conflict(None)),
            Err(fault) => {
                if let Fault::Damaged(what) = &fault {
                    shared.damaged(append.feed, what);
                }
                shared.noted::<()>(Err(fault)).map_err(Into::into)
            }
        }
    }

    /// What is known of a feed, read from the tables if it is not in memory.
    pub(super) fn feed(&mut self, feed: UserId) -> Outcome<Option<&mut Feed>> {
        if !self.state.feeds.contains_key(&feed) {
            let Some(engine) = &self.engine else {
                return Err(Fault::Unavailable(self.recovery.why.clone()));
            };
            let Some(stored) = reader::stored_head(&engine.connection, feed)? else {
                return Ok(None);
            };
            self.state.feeds.insert(feed, Feed::new(stored));
        }
        Ok(self.state.feeds.get_mut(&feed))
    }

    fn is_removed(&self, feed: UserId) -> Outcome<bool> {
        match &self.engine {
            Some(engine) => reader::is_removed(&engine.connection, feed),
            None => Err(Fault::Unavailable(self.recovery.why.clone())),
        }
    }

    /// Heads in memory go back to where they were before this group.
    fn unstage(&mut self, staged: &[Staged]) {
        for Staged { feed, commit, .. } in staged.iter().rev() {
            let Some(known) = self.state.feeds.get_mut(feed) else {
                continue;
            };
            known.seq = commit.base;
            if commit.base == 0 {
                self.state.feeds.remove(feed);
            }
        }
    }

    /// Writes the group and the accounts in one durable transaction. An account that is damaged fails alone.
    #[expect(clippy::type_complexity, reason = "said once, used once")]
    fn commit_group(
        &mut self,
        number: u64,
        group: &[u8],
        accounts: Vec<AccountWrite>,
    ) -> Result<Vec<(AccountWrite, Outcome<Written>)>, (Fault, Vec<AccountWrite>)> {
        let Some(engine) = &mut self.engine else {
            return Err((Fault::Unavailable(self.recovery.why.clone()), accounts));
        };
        let mut writes: Vec<(AccountWrite, Outcome<Written>)> =
            accounts.into_iter().map(|write| (write, Ok(Written::Yes))).collect();
        let begun = Instant::now();
        loop {
            let (sweep, shared) = (&mut self.sweep, &self.shared);
            let mut failed = None;
            let outcome = engine.transaction(true, |connection| {
                connection
                    .prepare_cached("INSERT INTO inbox(n,v) VALUES(?,?)")?
                    .execute((number.cast_signed(), group))
                    .map_err(|error| Fault::from(error).at("inbox", format_args!("group {number}")))?;
                for (at, (write, done)) in writes.iter_mut().enumerate().filter(|(_, (_, done))| done.is_ok()) {
                    let written = write_account(connection, sweep, shared, write);
                    if let Err(Fault::Damaged(_)) = written {
                        failed = Some(at);
                    }
                    *done = Ok(written?);
                }
                Ok(())
            });
            match (outcome, failed) {
                (Ok(()), _) => break,
                // Rolled back: once more without the one that failed.
                (Err(fault @ Fault::Damaged(_)), Some(at)) => writes[at].1 = shared.noted(Err(fault)),
                (Err(fault), _) => {
                    return Err((fault, writes.into_iter().map(|(write, _)| write).collect()));
                }
            }
        }
        self.shared.observer.fsync(begun.elapsed());
        Ok(writes)
    }

    /// The group is durable: the witness, then readers, then whoever waits hear of it.
    fn publish(&mut self, staged: Vec<Staged>, bytes: usize) {
        self.state.groups.add(staged.len());
        self.note_group();
        self.active_at = Instant::now();
        let count = staged.len();
        let mut answers = Vec::with_capacity(count);
        let mut commits = Vec::with_capacity(count);
        for Staged { feed, commit, answer } in staged {
            answers.push(answer);
            let Some(known) = self.state.feeds.get_mut(&feed) else {
                continue;
            };
            known.waiting += 1;
            self.state.dirty.insert(feed);
            commits.push((feed, known.stored.head(commit.row.last), commit));
        }
        self.shared.tail.publish(commits);
        for answer in answers {
            let _ = answer.send(Ok(()));
        }
        if count > 0 {
            self.shared
                .observer
                .group(count, bytes.saturating_sub(count * FILED_BYTES));
        }
    }

    fn note_group(&mut self) {
        if let Err(error) = self.witness.set_group(self.state.groups.last()) {
            // The witness then lags, which makes it less strict and nothing wrong.
            self.shared.trouble(&format!("{WITNESS} cannot be written: {error}"));
        }
    }

    /// Rows wait for the mover; what cannot be is refused at once.
    fn accept_rows(&mut self, job: RowsJob) {
        if let Some(what) = self.shared.damage_of(job.feed) {
            let _ = job.answer.send(Err(AppendError::Damaged(what)));
            return;
        }
        let bytes = job.bytes();
        let id = job.feed;
        match self.feed(id) {
            Ok(Some(feed)) if job.upto <= feed.seq => {
                feed.rows.push(job);
                self.state.rows_bytes += bytes;
                self.state.dirty.insert(id);
            }
            Ok(Some(feed)) => {
                let head = feed.head();
                let _ = job.answer.send(Err(AppendError::Conflict(Some(head))));
            }
            Ok(None) => drop(job.answer.send(Err(AppendError::Conflict(None)))),
            Err(fault) => {
                if let Fault::Damaged(what) = &fault {
                    self.shared.damaged(id, what);
                }
                let _ = job.answer.send(self.shared.noted::<()>(Err(fault)).map_err(Into::into));
            }
        }
    }

    /// What is done between groups.
    fn upkeep(&mut self) {
        let mut done = Ok(());
        if self.next_move().is_some_and(|at| at <= Instant::now()) {
            done = self.move_slice();
        }
        if done.is_ok() && !self.trims.is_empty() {
            done = self.trim_piece();
        }
        if done.is_ok() && !self.removals.is_empty() {
            done = self.remove_piece();
        }
        if done.is_ok() {
            done = self.checkpoint_when_due();
        }
        if let Err(fault @ Fault::Unavailable(_)) = done {
            self.lost(&fault);
        }
        self.shared.observer.tail_bytes(self.shared.tail.bytes());
        self.forget_heads();
    }

    /// Heads that are not needed make room.
    fn forget_heads(&mut self) {
        if self.state.feeds.len() > self.shared.options.heads_max {
            self.state.feeds.retain(|_, feed| !feed.is_idle());
        }
    }

    fn checkpoint_when_due(&mut self) -> Outcome<()> {
        let frames = self.frames();
        if frames < self.frames_seen {
            // The write-ahead log has started over.
            self.checkpoint_at = self.shared.options.checkpoint_frames;
        }
        if frames != self.frames_seen {
            self.shared.observer.wal_bytes(frames * 4096);
        }
        self.frames_seen = frames;
        if frames < self.checkpoint_at {
            return Ok(());
        }
        match self.checkpoint() {
            Ok(_) => {}
            Err(Fault::Full) => self.shared.observer.full(),
            Err(fault) => return Err(fault),
        }
        // If somebody still reads from the log, or the disk is full, it is tried again a while later.
        self.checkpoint_at = frames + self.shared.options.checkpoint_frames / 2 + 1;
        Ok(())
    }

    /// Brings the write-ahead log into the database file; `true`: all of it.
    fn checkpoint(&mut self) -> Outcome<bool> {
        let whole = self.backfill()?;
        if whole {
            // Synced before the log starts over: then it has fewer frames than the checkpoint began with.
            self.witness.set_frames(0).map_err(witness_fault)?;
        }
        Ok(whole)
    }

    /// As [`Self::checkpoint`], and then cuts the write-ahead log to nothing; `false`: somebody else uses it.
    fn empty_wal(&mut self) -> Outcome<bool> {
        if !self.backfill()? {
            return Ok(false);
        }
        self.witness.set_emptying().map_err(witness_fault)?;
        let Some(engine) = &self.engine else { return Ok(false) };
        let (busy, ..) = run_checkpoint(&engine.connection, "TRUNCATE")?;
        if busy {
            return Ok(false);
        }
        // SQLite does not sync the cut. Were it undone by a loss of power, an old log would lie over a newer database.
        let wal = self.shared.folder.file(&format!("{DATABASE}-wal"));
        private()
            .open(&wal)
            .and_then(|wal| wal.sync_all())
            .map_err(|error| Fault::Unavailable(format!("{} cannot be synced: {error}", wal.display())))?;
        engine.frames.store(0, Ordering::Relaxed);
        self.witness.set_frames(0).map_err(witness_fault)?;
        Ok(true)
    }

    /// A checkpoint, until the point where the witness may be told that it has ended.
    fn backfill(&mut self) -> Outcome<bool> {
        let Some(engine) = &mut self.engine else {
            return Ok(false);
        };
        // The frames that the witness names must be on the disk, so they are synced first, by a durable transaction. It
        // changes a number: SQLite does not write a page that stays as it is, and then syncs nothing.
        let touched = engine.transaction(true, |connection| {
            let [begun] = schema::meta::<1>(connection, Meta::Checkpoints)?;
            put_meta(connection, Meta::Checkpoints, &begun.wrapping_add(1).to_be_bytes())
        });
        match touched {
            // Where there is no room for one more frame, those of the last durable transaction are.
            Ok(()) | Err(Fault::Full) => {}
            Err(fault) => return Err(fault),
        }
        self.witness.set_frames(engine.frames_synced).map_err(witness_fault)?;
        let (busy, frames, done) = run_checkpoint(&engine.connection, "PASSIVE")?;
        Ok(!busy && frames == done)
    }

    /// Something failed such that it is not known what is durable.
    fn lost(&mut self, fault: &Fault) {
        let Fault::Unavailable(why) = fault else { return };
        self.shared.trouble(why);
        self.shared.reads.shut();
        self.engine = None;
        self.recovery = Recovery::begin(why.clone());
        for (_, feed) in std::mem::take(&mut self.state.feeds) {
            for job in feed.rows {
                let _ = job.answer.send(Err(AppendError::Unavailable(why.clone())));
            }
        }
        self.state = State::default();
        self.mover = Mover::new();
        for job in self.trims.drain(..) {
            let _ = job.answer.send(Err(AppendError::Unavailable(why.clone())));
        }
        for job in self.removals.drain(..) {
            let _ = job.answer.send(Err(AppendError::Unavailable(why.clone())));
        }
    }

    /// Finds out what is durable. What SQLite reads back after a failed fsync comes from the kernel's memory and proves
    /// nothing; so everything is written anew into the database file, and that must be synced.
    fn recover(&mut self) {
        match self.try_to_recover() {
            Ok(()) => {
                tracing::info!("the store answers again");
                self.shared.reads.reopen();
            }
            Err(fault) => {
                self.engine = None;
                self.shared
                    .trouble(&format!("the store does not answer yet: {fault:?}"));
                if self.recovery.since.elapsed() > READ_WAIT_MAX {
                    self.shared.reads.refuse_waiting(&self.recovery.why);
                }
                self.recovery.next = Instant::now() + self.recovery.pause;
                self.recovery.pause = (self.recovery.pause * 2).min(RECOVERY_PAUSE.1);
            }
        }
    }

    fn try_to_recover(&mut self) -> Outcome<()> {
        let mut engine = Engine::open(&self.shared)?;
        // Compared before anything is written, as at a start.
        replay(&engine.connection, &self.witness.record())?;
        engine.begin_writing()?;
        self.engine = Some(engine);
        if !self.empty_wal()? {
            return Err(Fault::Unavailable("another process holds the database open".to_owned()));
        }
        let Some(engine) = &self.engine else { return Ok(()) };
        let replayed = replay(&engine.connection, &self.witness.record())?;
        self.frames_seen = 0;
        self.checkpoint_at = self.shared.options.checkpoint_frames;
        self.install(replayed)
    }

    /// Everything into its place, for the end.
    fn tidy(&mut self) {
        let mut done = Ok(());
        while done.is_ok() && self.engine.is_some() && self.has_work() && self.mover.may_try() {
            done = self.move_slice();
        }
        while done.is_ok() && self.engine.is_some() && !self.trims.is_empty() {
            done = self.trim_piece();
        }
        while done.is_ok() && self.engine.is_some() && !self.removals.is_empty() {
            done = self.remove_piece();
        }
        let done = done.and_then(|()| self.empty_wal());
        if let Err(fault) = done {
            // Nothing is lost: the next start moves it.
            self.shared
                .trouble(&format!("the store could not be tidied before its end: {fault:?}"));
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn witness_fault(error: std::io::Error) -> Fault {
    Fault::Unavailable(format!("{WITNESS} cannot be written: {error}"))
}

/// Whether somebody was in the way, the frames in the write-ahead log, and how many of them are in the database file.
fn run_checkpoint(connection: &Connection, mode: &str) -> Outcome<(bool, i64, i64)> {
    let outcome = connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        Ok((row.get::<_, i64>(0)? != 0, row.get(1)?, row.get(2)?))
    })?;
    Ok(outcome)
}

/// An append on its way.
struct Staged {
    feed: UserId,
    commit: Commit,
    answer: Answer<Result<(), AppendError>>,
}

fn write_account(
    connection: &Connection,
    sweep: &mut Sweep,
    shared: &Shared,
    write: &AccountWrite,
) -> Outcome<Written> {
    match write {
        AccountWrite::CreateAccount(..) | AccountWrite::ChangeEmail(..) if shared.accounts_incomplete() => {
            Err(accounts::incomplete())
        }
        AccountWrite::CreateAccount(account, _) => accounts::create(connection, account),
        AccountWrite::ReplacePassword(email, expected, hash, _) => {
            accounts::replace_password(connection, email, expected, hash).map(Into::into)
        }
        AccountWrite::ChangeEmail(email, expected, new, _) => accounts::change_email(connection, email, expected, new),
        AccountWrite::SetDeletion(email, user, expected, deletes_at, _) => {
            accounts::set_deletion(connection, email, *user, *expected, *deletes_at).map(Into::into)
        }
        AccountWrite::Remove(deletion, _) => accounts::remove(connection, deletion).map(|()| Written::Yes),
        AccountWrite::Note(user, note, _) => accounts::put_note(connection, *user, note).map(|()| Written::Yes),
        AccountWrite::CreateSignIn(sign_in, device, _) => {
            accounts::create_sign_in(connection, sweep, sign_in, device).map(|()| Written::Yes)
        }
        AccountWrite::ReplaceSignIn(expected, sign_in, address, _) => {
            accounts::replace_sign_in(connection, expected, sign_in, address).map(Into::into)
        }
        AccountWrite::EndSignIn(user, id, _) => accounts::end_sign_in(connection, *user, *id).map(|()| Written::Yes),
    }
}

fn answer_account(write: AccountWrite, done: Outcome<Written>) {
    let done = match done {
        Ok(Written::Taken) => Err(AccountError::EmailTaken),
        Ok(written) => Ok(written == Written::Yes),
        Err(fault) => Err(fault.into()),
    };
    match write {
        AccountWrite::CreateAccount(_, answer)
        | AccountWrite::CreateSignIn(_, _, answer)
        | AccountWrite::EndSignIn(_, _, answer)
        | AccountWrite::Remove(_, answer)
        | AccountWrite::Note(_, _, answer) => drop(answer.send(done.map(drop))),
        AccountWrite::ReplacePassword(_, _, _, answer)
        | AccountWrite::ChangeEmail(_, _, _, answer)
        | AccountWrite::SetDeletion(_, _, _, _, answer)
        | AccountWrite::ReplaceSignIn(_, _, _, answer) => drop(answer.send(done)),
    }
}

fn answer_write(job: Write, fault: &Fault) {
    match job {
        Write::Append(_, answer)
        | Write::Check(answer)
        | Write::Rows(RowsJob { answer, .. })
        | Write::Remove(RemoveJob { answer, .. }) => {
            let _ = answer.send(Err(fault.clone().into()));
        }
        Write::Trim(TrimJob { answer, .. }) => drop(answer.send(Err(fault.clone().into()))),
        Write::Account(write) => answer_account(write, Err(fault.clone())),
    }
}

/// Finds the witness, or makes it where there is no store yet.
fn find_witness(shared: &Shared) -> Result<Witness, OpenError> {
    let folder = &shared.folder;
    let io = |source| OpenError::Io {
        path: folder.file(WITNESS),
        source,
    };
    let damaged = |what: &str| OpenError::Damaged {
        folder: folder.path().to_owned(),
        what: what.to_owned(),
    };
    let database = match std::fs::metadata(folder.database()) {
        Ok(database) => Some(database.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(io(error)),
    };
    match Witness::find(folder).map_err(io)? {
        Found::Valid(witness) if witness.record().ready && database.is_none() => Err(damaged(&format!(
            "{DATABASE}: the file is missing, but {WITNESS} says that there was one"
        ))),
        // Said here, because SQLite would delete the write-ahead log beside an empty database.
        Found::Valid(witness) if witness.record().ready && database == Some(0) => {
            Err(damaged(&format!("{DATABASE}: the file is empty")))
        }
        Found::Valid(witness) => Ok(witness),
        Found::Unreadable => Err(damaged(&format!(
            "{WITNESS}: it cannot be read, so nothing says how far {DATABASE} had come"
        ))),
        Found::Missing if database.is_some() => Err(damaged(&format!(
            "{WITNESS}: the file is missing, so nothing says how far {DATABASE} had come"
        ))),
        Found::Missing => Witness::create(folder, rand::random()).map_err(io),
    }
}

/// Makes the tables of a new store; looks at the format of another, and writes nothing there.
fn prepare(
    shared: &Shared,
    engine: &mut Engine,
    witness: &mut Witness,
    refuse: impl Fn(Fault) -> OpenError,
) -> Result<(), OpenError> {
    let format = schema::format(&engine.connection).map_err(&refuse)?;
    if witness.record().ready {
        if format > FORMAT {
            return Err(OpenError::Newer {
                path: shared.folder.database(),
                found: format,
                known: FORMAT,
            });
        }
        return schema::recognise(&engine.connection, format).map_err(refuse);
    }
    let io = |source| OpenError::Io {
        path: shared.folder.path().to_owned(),
        source,
    };
    engine.begin_writing().map_err(&refuse)?;
    if format == 0 {
        schema::create(&engine.connection, witness.record().store).map_err(&refuse)?;
    }
    shared.folder.sync().and_then(|()| witness.set_ready()).map_err(io)
}
