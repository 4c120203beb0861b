//! The one place where a user's operations are put in order.
//!
//! [`Feed`] is a plain component: it takes a [`Message`] and returns [`Effect`]s. [`actor`] is the actix shell that
//! carries them out. What the component promises:
//!
//! - One append is in flight at most; operations that arrive meanwhile are judged together, on what is durable by then,
//!   and go in the next one (group commit).
//! - `state` holds what is durable and nothing else: operations are judged on a draft on top of it.
//! - An answer leaves only when nothing that it was judged on is in flight.
//!
//! Where other nodes may write to the same log ([`Writers::Many`]), what is in memory may be old without knowing it. So a
//! refusal, and a look at the memory, leave only when the head is known to be the store's: by an append that began after
//! they came, or by a read of the head. Acceptances need no such care: the append itself is conditional.

pub mod actor;
mod answers;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use taskflow_protocol::limits;
use taskflow_protocol::message::{Accepted, Command, ErrorBody, Operation, OperationResult, Outcome};
use taskflow_protocol::values::{Seq, UnixMs};
use taskflow_protocol::{Code, OperationId, UserId};

use self::answers::Answers;
use crate::domain::{self, Draft, Entry, State, codec};
use crate::planted::{Bug, is_planted};
use crate::ports::{
    Append, AppendError, Epoch, Head, Loaded, LogPage, LogRow, ReadError, Retention, RowKey, StoredRow, Unreadable,
};
use crate::trace::TraceContext;

/// Entries kept in memory for undo and for operations that are sent again; an older entry is read from the log. The
/// simulation has short logs, and is to read them.
const RECENT_ENTRIES_MAX: usize = if cfg!(feature = "simulation") { 4 } else { 64 };

/// Bytes of commits that are read with an older entry. Operations that are sent again mostly lie beside each other, and 40
/// commits of one operation are what a client may have sent while its connection broke.
pub const ENTRY_READ_BYTES: usize = if cfg!(feature = "simulation") { 1_024 } else { 16 * 1024 };

/// Commits between two looks at what the log keeps: rare enough to cost nothing, often enough that a log is never much
/// longer than its limits.
const TRIM_EVERY_COMMITS: u32 = 1024;

/// How long rows wait to be written together, in milliseconds. They are derived from the log: waiting risks nothing and
/// saves a write for every further change of the same row.
pub const FLUSH_AFTER_MS: u64 = 1_000;

/// How long the feed waits after the store failed before it asks again, in milliseconds.
pub const RETRY_AFTER_MS: u64 = 200;

/// How long whoever waits is kept waiting while the store says nothing of use, in milliseconds: as long as one who asks
/// by way of another node. Nothing is given up but the wait: what is on its way to the store is found out all the same.
const PATIENCE_MS: i64 = crate::cluster::lines::DEADLINE_MS.cast_signed();

/// Who may append to the log of a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// This process alone.
    One,
    /// Every node of a cluster. Placement makes it one at a time, nearly always.
    Many,
}

/// Names a submission or a look between the shell, which knows who waits for it, and the component, which does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubmissionId(pub u64);

/// Names a read, so that an answer that comes late is not taken for that to a later question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadId(pub u64);

/// What happens to a feed.
#[derive(Debug)]
pub enum Message {
    /// Somebody asks for changes.
    Submit {
        /// Comes back in [`Effect::Settled`] or [`Effect::Publish`], once.
        submission: SubmissionId,
        /// Who asks.
        author: UserId,
        /// In order.
        operations: Vec<Operation>,
        /// They were sent before, and that copy may still be under way to another host: a refusal of these is kept in
        /// the log, so that no copy is accepted later.
        repeated: bool,
        /// Goes along with their entries.
        trace: Option<TraceContext>,
    },
    /// A new user needs a feed.
    Birth {
        /// Comes back like that of operations.
        submission: SubmissionId,
        /// Random: the id of the new history.
        epoch: Epoch,
        /// The user's zone.
        time_zone: String,
        /// The user's language.
        locale: String,
    },
    /// Somebody wants to look at the memory. Comes back in [`Effect::Look`], once.
    Look(SubmissionId),
    /// The feed was removed from the store: nothing in memory is true any more.
    Removed,
    /// The answer to [`Effect::Load`].
    Loaded(Result<Option<Loaded>, ReadError>),
    /// The answer to [`Effect::Append`].
    Appended(u64, Result<(), AppendError>),
    /// The answer to [`Effect::ReadBack`].
    ReadBack(ReadId, Result<Option<LogPage>, ReadError>),
    /// The answer to [`Effect::ReadHead`].
    HeadRead(ReadId, Result<Option<Head>, ReadError>),
    /// The answer to [`Effect::ReadOn`].
    ReadOn(ReadId, Result<Option<LogPage>, ReadError>),
    /// The answer to [`Effect::ReadEntry`].
    EntryRead(Seq, Result<Option<LogPage>, ReadError>),
    /// The answer to [`Effect::WriteRows`].
    RowsWritten(Seq, Result<(), AppendError>),
    /// The answer to [`Effect::Trim`].
    Trimmed(Result<Option<Head>, AppendError>),
    /// A timer rang.
    Timer(Timer),
}

/// What the feed waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Rows are to be written.
    Flush,
    /// What the store did not answer is to be tried again.
    Retry,
}

/// What the shell is to do.
#[derive(Debug)]
pub enum Effect {
    /// Read everything; operation ids since this time.
    Load {
        /// See [`crate::ports::Store::load`].
        ids_since: UnixMs,
    },
    /// Append to the log.
    Append(Append),
    /// Find out what became of an append: read the log after this `seq`.
    ReadBack(ReadId, Seq),
    /// Read the head, so that all that was ever answered is in it.
    ReadHead(ReadId),
    /// Read what others appended after this `seq`.
    ReadOn(ReadId, Seq),
    /// Read the log for an entry, and [`ENTRY_READ_BYTES`] from there on.
    ReadEntry(Seq),
    /// Write rows.
    WriteRows {
        /// Absolute values.
        rows: Vec<StoredRow>,
        /// The new `rows_upto`.
        upto: Seq,
    },
    /// Cut the log.
    Trim(Retention),
    /// Push entries to the followers, with the answers that became due.
    Publish {
        /// The history.
        epoch: Epoch,
        /// Durable.
        entries: Arc<[Entry]>,
        /// When the entry before them was committed; 0 if there was none.
        before: UnixMs,
        /// Whose submissions these entries complete.
        settled: Vec<(SubmissionId, Vec<OperationResult>)>,
    },
    /// Answer a submission that made no entry now.
    Settled(SubmissionId, Vec<OperationResult>),
    /// Let somebody look at [`Feed::state`] now, or say why not.
    Look(SubmissionId, Result<(), Code>),
    /// Tell the followers how far the feed is: what was published on other nodes may have been lost on the way.
    Announce(Head),
    /// Ring after so many milliseconds.
    After(u64, Timer),
    /// Somebody should look at this: the text names what is damaged.
    Report(String),
}

/// An operation that is not durable yet.
#[derive(Debug)]
struct Waiting {
    submission: SubmissionId,
    /// Its place among the results of the submission.
    index: usize,
    author: UserId,
    operation: Operation,
    repeated: bool,
    trace: Option<TraceContext>,
}

impl Waiting {
    /// The answer where the operation was not judged, or judged in vain.
    fn not_done(&self, code: Code) -> Outcome {
        if self.repeated {
            // This copy is not done; of the one before it nobody knows.
            Outcome::Unknown(ErrorBody::new(Code::OutcomeUnknown))
        } else {
            Outcome::Refused(ErrorBody::new(code))
        }
    }
}

/// A submission that is not answered yet.
#[derive(Debug)]
struct Open {
    results: Vec<Option<OperationResult>>,
    left: usize,
}

/// What an operation of the commit in flight gets when it is durable.
#[derive(Debug)]
struct Judged {
    waiting: Waiting,
    outcome: Outcome,
}

/// The commit on its way to the store.
#[derive(Debug)]
struct InFlight {
    append: Append,
    entries: Vec<Entry>,
    judged: Vec<Judged>,
    /// Its outcome is unknown and the log is being read for it.
    unknown: bool,
}

#[derive(Debug, PartialEq)]
enum Phase {
    /// Nothing is in memory.
    Cold,
    /// The load is on its way.
    Loading,
    /// The user has no feed.
    Absent,
    /// Everything durable is in memory, as far as this node knows.
    Ready,
    /// Others appended to the log: what they did is being read.
    Behind,
    /// What is stored cannot be used; a restart of the feed tries again.
    Damaged,
}

/// A birth that waits for the load to say that there is no feed.
#[derive(Debug)]
struct Birth {
    submission: SubmissionId,
    epoch: Epoch,
    time_zone: String,
    locale: String,
}

/// The component. See the module.
#[derive(Debug)]
pub struct Feed {
    user: UserId,
    writers: Writers,
    phase: Phase,
    head: Option<Head>,
    state: State,
    /// Where the operations of the last 24 hours are in the log.
    answers: Answers,
    /// The newest entries.
    recent: VecDeque<Entry>,
    /// Older ones that were read for the operation at the head of the queue: all of them, until it is judged.
    fetched: BTreeMap<Seq, Entry>,
    fetching: bool,
    waiting: VecDeque<Waiting>,
    open: HashMap<SubmissionId, Open>,
    births: Vec<Birth>,
    in_flight: Option<InFlight>,
    /// Refusals, and what was judged with them, that leave when the head is known to be the store's.
    unverified: Vec<Judged>,
    /// Looks that wait for something to begin that will show whether the memory is the store's.
    looks: Vec<SubmissionId>,
    /// Looks that are served when what has begun ends well.
    covered: Vec<SubmissionId>,
    /// The head is being read.
    checking: bool,
    /// The log is being read for what others appended.
    reading_on: bool,
    /// Since when the store has said nothing of use to those who wait; `None`: it works.
    silent_since: Option<UnixMs>,
    /// The read of log or head whose answer counts.
    awaited: Option<ReadId>,
    next_read: u64,
    /// Rows that changed since they were last written.
    dirty: BTreeSet<RowKey>,
    /// Some of them changed here: nobody else writes them.
    flush_due: bool,
    /// Rows on their way to the store.
    flushing: Option<BTreeSet<RowKey>>,
    flush_timer: bool,
    commits_since_trim: u32,
    /// The time of the last entry: times never go back within a feed.
    last_time: UnixMs,
    next_append_id: u64,
}

impl Feed {
    /// A feed that has nothing in memory. `random` is where the ids of appends begin, which must differ between two lives of a
    /// feed, and what nobody outside knows.
    pub fn new(user: UserId, random: u64, writers: Writers) -> Self {
        Self {
            user,
            writers,
            phase: Phase::Cold,
            head: None,
            state: State::new(user),
            answers: Answers::new(random),
            recent: VecDeque::new(),
            fetched: BTreeMap::new(),
            fetching: false,
            waiting: VecDeque::new(),
            open: HashMap::new(),
            births: Vec::new(),
            in_flight: None,
            unverified: Vec::new(),
            looks: Vec::new(),
            covered: Vec::new(),
            checking: false,
            reading_on: false,
            silent_since: None,
            awaited: None,
            next_read: 0,
            dirty: BTreeSet::new(),
            flush_due: false,
            flushing: None,
            flush_timer: false,
            commits_since_trim: 0,
            last_time: 0,
            next_append_id: random,
        }
    }

    /// What is durable; `None` while nothing is in memory.
    pub fn state(&self) -> Result<&State, Code> {
        match self.phase {
            Phase::Ready | Phase::Behind => Ok(&self.state),
            Phase::Absent => Err(Code::FeedNotFound),
            Phase::Damaged => Err(Code::FeedDamaged),
            Phase::Cold | Phase::Loading => Err(Code::FeedUnavailable),
        }
    }

    /// Where the log stands, as far as is known here; `None` while nothing is in memory.
    pub fn head(&self) -> Option<Head> {
        self.head
    }

    /// Whose operations are in the commit on its way to the store, those of one after the other.
    pub fn in_flight(&self) -> impl Iterator<Item = SubmissionId> {
        let judged = self.in_flight.iter().flat_map(|in_flight| &in_flight.judged);
        judged.map(|judged| judged.waiting.submission)
    }

    /// Whether stopping now would lose nothing and make nobody wait.
    pub fn is_idle(&self) -> bool {
        self.phase != Phase::Loading
            && self.open.is_empty()
            && self.looks.is_empty()
            && self.covered.is_empty()
            && self.in_flight.is_none()
            && !self.flush_due
            && self.flushing.is_none()
    }

    /// Takes one message. Waits for nothing.
    pub fn handle(&mut self, message: Message, now: UnixMs) -> Vec<Effect> {
        let mut effects = Vec::new();
        let asks = matches!(
            message,
            Message::Submit { .. } | Message::Birth { .. } | Message::Look(_)
        );
        if asks && self.phase == Phase::Absent && self.writers == Writers::Many && self.in_flight.is_none() {
            // Another node may have given birth since.
            self.phase = Phase::Cold;
        }
        match message {
            Message::Submit {
                submission,
                author,
                operations,
                repeated,
                trace,
            } => {
                let waiting = |(index, operation)| Waiting {
                    submission,
                    index,
                    author,
                    operation,
                    repeated,
                    trace,
                };
                let waiting = operations.into_iter().enumerate().map(waiting);
                self.enqueue(submission, waiting, &mut effects);
            }
            Message::Birth {
                submission,
                epoch,
                time_zone,
                locale,
            } => {
                self.births.push(Birth {
                    submission,
                    epoch,
                    time_zone,
                    locale,
                });
            }
            Message::Look(look) => self.looks.push(look),
            Message::Removed => {
                self.removed();
                // Whoever asks next makes it load.
                return effects;
            }
            Message::Loaded(result) => {
                self.loaded(result, now, &mut effects);
                if self.phase == Phase::Cold {
                    // The store did not answer. Whoever waited has heard it; the next one who asks makes it load again.
                    return effects;
                }
            }
            Message::Appended(append_id, result) => self.appended(append_id, result, now, &mut effects),
            Message::ReadBack(read, _) | Message::HeadRead(read, _) | Message::ReadOn(read, _)
                if self.awaited != Some(read) => {}
            Message::ReadBack(_, result) => {
                self.awaited = None;
                self.read_back(result, now, &mut effects);
            }
            Message::HeadRead(_, result) => {
                self.awaited = None;
                self.head_read(&result, now, &mut effects);
            }
            Message::ReadOn(_, result) => {
                self.awaited = None;
                self.read_on(result, now, &mut effects);
                if self.phase == Phase::Behind && !self.reading_on {
                    // The store did not answer. Whoever waited has heard it; the next one who asks makes it read again.
                    return effects;
                }
            }
            Message::EntryRead(seq, result) => self.entry_read(seq, result, &mut effects),
            Message::RowsWritten(upto, result) => self.rows_written(upto, result, now, &mut effects),
            Message::Trimmed(result) => {
                if let (Ok(Some(cut)), Some(head)) = (result, &mut self.head) {
                    head.first = cut.first;
                }
            }
            Message::Timer(Timer::Flush) => {
                self.flush_timer = false;
                self.flush(&mut effects);
            }
            Message::Timer(Timer::Retry) => self.retry(&mut effects),
        }
        self.proceed(now, &mut effects);
        effects
    }

    fn enqueue(
        &mut self,
        submission: SubmissionId,
        waiting: impl ExactSizeIterator<Item = Waiting>,
        effects: &mut Vec<Effect>,
    ) {
        let count = waiting.len();
        if count == 0 {
            effects.push(Effect::Settled(submission, Vec::new()));
            return;
        }
        self.open.insert(
            submission,
            Open {
                results: (0..count).map(|_| None).collect(),
                left: count,
            },
        );
        self.waiting.extend(waiting);
    }

    /// Does what can be done now: load, give birth, append.
    fn proceed(&mut self, now: UnixMs, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Cold => {
                self.phase = Phase::Loading;
                self.covered.append(&mut self.looks);
                effects.push(Effect::Load {
                    ids_since: now - limits::OPERATION_IDS_KEPT_MS,
                });
            }
            Phase::Loading => {}
            Phase::Damaged => self.refuse_all(Code::FeedDamaged, effects),
            Phase::Absent => self.proceed_absent(now, effects),
            Phase::Behind => {
                if !self.reading_on {
                    self.reading_on = true;
                    self.covered.append(&mut self.looks);
                    let after = self.head.expect("who is behind has a head").seq;
                    effects.push(Effect::ReadOn(self.ask(), after));
                }
            }
            Phase::Ready => {
                for birth in std::mem::take(&mut self.births) {
                    effects.push(Effect::Settled(birth.submission, Vec::new()));
                }
                if self.writers == Writers::One || is_planted(Bug::StaleLook) {
                    self.covered.append(&mut self.looks);
                    self.serve_looks(Ok(()), effects);
                }
                if !self.checking {
                    self.next_append(now, effects);
                    self.check(effects);
                }
            }
        }
    }

    /// Reads the head if somebody waits for it and no append will tell.
    fn check(&mut self, effects: &mut Vec<Effect>) {
        if self.in_flight.is_none() && (!self.unverified.is_empty() || !self.looks.is_empty()) {
            self.checking = true;
            self.covered.append(&mut self.looks);
            effects.push(Effect::ReadHead(self.ask()));
        }
    }

    /// Names a read that begins now: the only one that is awaited from here on.
    fn ask(&mut self) -> ReadId {
        self.next_read += 1;
        let read = ReadId(self.next_read);
        self.awaited = Some(read);
        read
    }

    /// Those whose wait has ended, well or not.
    fn serve_looks(&mut self, result: Result<(), Code>, effects: &mut Vec<Effect>) {
        effects.extend(self.covered.drain(..).map(|look| Effect::Look(look, result)));
    }

    fn proceed_absent(&mut self, now: UnixMs, effects: &mut Vec<Effect>) {
        if self.in_flight.is_some() {
            return;
        }
        self.covered.append(&mut self.looks);
        self.serve_looks(Err(Code::FeedNotFound), effects);
        let Some(birth) = self.births.first() else {
            self.refuse_all(Code::FeedNotFound, effects);
            return;
        };
        let entry = match domain::birth(self.user, now, &birth.time_zone, &birth.locale) {
            Ok(entry) => entry,
            Err(refusal) => {
                let birth = self.births.remove(0);
                let id = OperationId(self.user.0);
                let result = OperationResult {
                    id,
                    outcome: refusal.outcome(),
                };
                effects.push(Effect::Settled(birth.submission, vec![result]));
                return self.proceed_absent(now, effects);
            }
        };
        let (epoch, base) = (birth.epoch, 0);
        self.start_append(epoch, base, now, vec![entry], Vec::new(), effects);
    }

    /// Judges what waits and sends it to the store, if nothing is in flight.
    fn next_append(&mut self, now: UnixMs, effects: &mut Vec<Effect>) {
        if self.in_flight.is_some() || self.fetching || self.waiting.is_empty() {
            return;
        }
        let head = self.head.expect("a ready feed has a head");
        let time = now.max(self.last_time);
        let mut draft = Draft::new(&self.state);
        let mut entries: Vec<Entry> = Vec::new();
        let mut made = Made::new();
        let mut judged = Vec::new();
        let mut bytes = 0;
        let mut fetch = None;
        while let Some(waiting) = self.waiting.pop_front() {
            let id = waiting.operation.id;
            if id.0.is_nil() {
                // An entry under it would retire nothing: it stands for what was refused (see `Entry::wire`).
                let cause = "the nil UUID names no operation: make a new id for each";
                let refused = ErrorBody::new(Code::ValueInvalid).field("id").because(cause);
                let outcome = Outcome::Refused(refused);
                judged.push(Judged { waiting, outcome });
                continue;
            }
            let undone = match self.look_up(&waiting, &made, &entries, head) {
                Ok((Some(outcome), _)) => {
                    judged.push(Judged { waiting, outcome });
                    continue;
                }
                Ok((None, undone)) => undone,
                Err(NotHere(seq)) => {
                    fetch = Some(seq);
                    self.waiting.push_front(waiting);
                    break;
                }
            };
            let (mut entry, outcome) = match draft.judge(waiting.author, time, &waiting.operation, undone.as_ref()) {
                Ok(entry) => {
                    let outcome = Outcome::Accepted(Accepted { seq: entry.seq });
                    (entry, outcome)
                }
                Err(refusal) => {
                    let outcome = refusal.outcome();
                    if !waiting.repeated || is_planted(Bug::RepeatRefusalForgotten) {
                        judged.push(Judged { waiting, outcome });
                        continue;
                    }
                    let code = match &outcome {
                        Outcome::Refused(error) => error.code,
                        _ => Code::VersionConflict,
                    };
                    let entry = draft.keep_refusal(waiting.author, time, &waiting.operation, code);
                    (entry, outcome)
                }
            };
            entry.trace = waiting.trace.map(Box::new);
            if entry.stored_bytes_max() > limits::COMMIT_BYTES_MAX {
                // What fits without it is stored without it.
                entry.trace = None;
            }
            let size = entry.stored_bytes_max();
            if bytes + size > limits::COMMIT_BYTES_MAX && !entries.is_empty() {
                // The draft holds this operation already, so it ends here; the rest is judged on the next one.
                self.waiting.push_front(waiting);
                break;
            }
            bytes += size;
            made.insert((waiting.author, id), entries.len());
            judged.push(Judged { waiting, outcome });
            entries.push(entry);
        }
        if !judged.is_empty() {
            // It was read for the one that was at the head, and for what lies beside it. What the next one needs is read for
            // that: no more is kept than one needs.
            self.fetched.clear();
        }
        if entries.is_empty() {
            let firm = |judged: &Judged| matches!(judged.outcome, Outcome::Accepted(_));
            let is_sure = self.writers == Writers::One || is_planted(Bug::RefusalOnStaleHead);
            if is_sure || judged.iter().all(firm) {
                self.settle_now(judged, effects);
            } else {
                self.unverified.extend(judged);
            }
            match fetch {
                Some(seq) => {
                    self.fetching = true;
                    effects.push(Effect::ReadEntry(seq));
                }
                None => debug_assert!(
                    self.waiting.is_empty(),
                    "an empty draft ends only at the end, or at a fetch"
                ),
            }
            return;
        }
        self.start_append(head.epoch, head.seq, time, entries, judged, effects);
    }

    fn start_append(
        &mut self,
        epoch: Epoch,
        base: Seq,
        time: UnixMs,
        entries: Vec<Entry>,
        judged: Vec<Judged>,
        effects: &mut Vec<Effect>,
    ) {
        let stored = if is_planted(Bug::LastOfBatchDropped) && entries.len() > 1 {
            &entries[..entries.len() - 1]
        } else {
            &entries[..]
        };
        let append = Append {
            feed: self.user,
            epoch,
            base,
            last: entries.last().expect("a commit has an entry").seq,
            append_id: self.next_append_id,
            time,
            body: Bytes::from(codec::encode_commit(stored)),
        };
        let judged = if is_planted(Bug::AnswerBeforeDurable) {
            self.settle_now(judged, effects);
            Vec::new()
        } else {
            judged
        };
        if is_planted(Bug::PublishBeforeAppend) {
            effects.push(Effect::Publish {
                epoch,
                entries: entries.clone().into(),
                before: self.last_time,
                settled: Vec::new(),
            });
        }
        self.next_append_id = self.next_append_id.wrapping_add(1);
        self.covered.append(&mut self.looks);
        effects.push(Effect::Append(append.clone()));
        self.in_flight = Some(InFlight {
            append,
            entries,
            judged,
            unknown: false,
        });
    }

    /// The answer to an operation that is in the log or in the draft already; to one that is new, the entry that it undoes.
    fn look_up(
        &self,
        waiting: &Waiting,
        made: &Made,
        entries: &[Entry],
        head: Head,
    ) -> Result<(Option<Outcome>, Option<Entry>), NotHere> {
        let (author, operation) = (waiting.author, &waiting.operation);
        if let Some(at) = made.get(&(author, operation.id)) {
            return Ok((Some(answer_again(&entries[*at], operation)), None));
        }
        let mut missing = None;
        for seq in self.answers.places(author, operation.id) {
            match self.entry(seq, &[], head) {
                Ok(Some(entry))
                    if (entry.author, entry.operation) == (author, operation.id)
                        || is_planted(Bug::CollisionIsRepeat) =>
                {
                    return Ok((Some(answer_again(entry, operation)), None));
                }
                // Another operation with the same fingerprint, or older than the log is.
                Ok(_) => {}
                Err(not_here) => missing = Some(not_here),
            }
            if is_planted(Bug::FirstPlaceCounts) {
                break;
            }
        }
        if let Some(not_here) = missing {
            return Err(not_here);
        }
        match &operation.command {
            Command::Undo(undo) => Ok((None, self.entry(undo.seq, entries, head)?.cloned())),
            _ => Ok((None, None)),
        }
    }

    /// An entry of the log. `Ok(None)`: there is none to be had.
    fn entry<'a>(&'a self, seq: Seq, made: &'a [Entry], head: Head) -> Result<Option<&'a Entry>, NotHere> {
        let mut newest = made.iter().rev().chain(self.recent.iter().rev());
        let entry = newest.find(|entry| entry.seq == seq).or_else(|| self.fetched.get(&seq));
        if entry.is_none() && (head.first..=head.seq).contains(&seq) {
            return Err(NotHere(seq));
        }
        Ok(entry)
    }

    fn entry_read(&mut self, seq: Seq, result: Result<Option<LogPage>, ReadError>, effects: &mut Vec<Effect>) {
        self.fetching = false;
        let Some(head) = &mut self.head else { return };
        let page = match result {
            Ok(page) => page,
            Err(_) if is_planted(Bug::UnreadIsGone) => {
                head.first = seq + 1;
                return;
            }
            Err(error) => {
                effects.push(Effect::Report(error.to_string()));
                return self.refuse_all(Code::StoreUnavailable, effects);
            }
        };
        let Some(page) = page.filter(|page| page.head.epoch == head.epoch) else {
            // Of another history. Which one is the store's is found by reading on, or by the look at the head that is
            // under way.
            if self.phase == Phase::Ready && !self.checking {
                self.phase = Phase::Behind;
            }
            return;
        };
        head.first = head.first.max(page.head.first);
        let is_gone = seq < head.first;
        let mut problem = format!("feed {}: entry {seq} is missing from the log", self.user);
        for row in &page.rows {
            match decode_row(self.user, row) {
                Ok(entries) => self.fetched.extend(entries.into_iter().map(|entry| (entry.seq, entry))),
                Err(what) => {
                    problem = what;
                    break;
                }
            }
        }
        if !is_gone && !self.fetched.contains_key(&seq) {
            // It must not be taken for one that was never made.
            effects.push(Effect::Report(problem));
            self.refuse_all(Code::StoreUnavailable, effects);
        }
    }

    fn appended(&mut self, append_id: u64, result: Result<(), AppendError>, now: UnixMs, effects: &mut Vec<Effect>) {
        let Some(in_flight) = &mut self.in_flight else { return };
        if in_flight.append.append_id != append_id {
            return;
        }
        match result {
            Ok(()) => self.commit(now, effects),
            Err(AppendError::Unavailable(_)) => {
                // Nobody knows: only reading can tell, and until it has, nothing else happens to this feed.
                in_flight.unknown = true;
                let base = in_flight.append.base;
                effects.push(Effect::ReadBack(self.ask(), base));
                self.serve_looks(Err(Code::FeedUnavailable), effects);
                self.is_silent(now, effects);
            }
            Err(AppendError::Conflict(_)) if is_planted(Bug::NoConditionOnHead) => self.commit(now, effects),
            Err(AppendError::Conflict(_)) => self.judge_anew(),
            Err(AppendError::Full) => self.give_up_in_flight(Code::StoreFull, effects),
            Err(AppendError::Gone) => self.give_up_in_flight(Code::FeedNotFound, effects),
            Err(AppendError::Damaged(what)) => {
                effects.push(Effect::Report(what));
                self.phase = Phase::Damaged;
                self.give_up_in_flight(Code::FeedDamaged, effects);
            }
        }
    }

    /// Settles an append whose outcome was unknown.
    fn read_back(&mut self, result: Result<Option<LogPage>, ReadError>, now: UnixMs, effects: &mut Vec<Effect>) {
        let Some(in_flight) = &mut self.in_flight else { return };
        if result.is_err() && is_planted(Bug::FailedReadBackIsNotFound) {
            return self.judge_anew();
        }
        let Ok(page) = result else {
            // A failed read says nothing about the append: the read is repeated, never the append.
            effects.push(Effect::After(RETRY_AFTER_MS, Timer::Retry));
            return self.is_silent(now, effects);
        };
        let base = in_flight.append.base;
        let (head, rows) = page.map_or((0, Vec::new()), |page| (page.head.seq, page.rows));
        if rows.iter().any(|row| row.append_id == in_flight.append.append_id) {
            in_flight.unknown = false;
            let time = in_flight.append.time;
            self.commit(time, effects);
        } else if head == base {
            // It may still land: the identical row at the identical head is the only thing that can be sent.
            in_flight.unknown = false;
            effects.push(Effect::Append(in_flight.append.clone()));
        } else {
            self.judge_anew();
        }
    }

    fn retry(&mut self, effects: &mut Vec<Effect>) {
        match &self.in_flight {
            // The read itself is under way.
            _ if self.awaited.is_some() => self.flush(effects),
            Some(in_flight) if in_flight.unknown => {
                let base = in_flight.append.base;
                effects.push(Effect::ReadBack(self.ask(), base));
            }
            None if self.checking => effects.push(Effect::ReadHead(self.ask())),
            _ => self.flush(effects),
        }
    }

    /// The store said nothing of use. Whoever has waited too long hears that, and so does whoever comes until it speaks.
    fn is_silent(&mut self, now: UnixMs, effects: &mut Vec<Effect>) {
        let since = *self.silent_since.get_or_insert(now);
        if now - since < PATIENCE_MS {
            return;
        }
        let unknown = if is_planted(Bug::SilentIsRefused) {
            Outcome::Refused(ErrorBody::new(Code::FeedUnavailable))
        } else {
            Outcome::Unknown(ErrorBody::new(Code::OutcomeUnknown))
        };
        let mut judged = std::mem::take(&mut self.unverified);
        for judged in &mut judged {
            if !matches!(judged.outcome, Outcome::Accepted(_)) {
                judged.outcome = judged.waiting.not_done(Code::FeedUnavailable);
            }
        }
        // The append stays on its way: who sends one of these again, under its id, hears what became of it.
        let in_flight = self
            .in_flight
            .as_mut()
            .map(|in_flight| std::mem::take(&mut in_flight.judged));
        judged.extend(in_flight.into_iter().flatten().map(|Judged { waiting, .. }| Judged {
            waiting,
            outcome: unknown.clone(),
        }));
        self.settle_now(judged, effects);
        self.refuse_all(Code::FeedUnavailable, effects);
    }

    /// The head is another than was thought: everything that was judged on it is judged again, on what others did.
    fn judge_anew(&mut self) {
        self.silent_since = None;
        let judged = match self.in_flight.take() {
            Some(in_flight) => in_flight.judged,
            None => std::mem::take(&mut self.unverified),
        };
        for judged in judged.into_iter().rev() {
            self.waiting.push_front(judged.waiting);
        }
        self.phase = if self.phase == Phase::Ready {
            Phase::Behind
        } else {
            Phase::Cold
        };
    }

    /// Settles what waits to know whether the memory is the store's.
    fn head_read(&mut self, result: &Result<Option<Head>, ReadError>, now: UnixMs, effects: &mut Vec<Effect>) {
        if !self.checking {
            return;
        }
        let Ok(found) = result else {
            // Refusals wait for the store; whoever only looks is told.
            self.serve_looks(Err(Code::FeedUnavailable), effects);
            self.is_silent(now, effects);
            if self.unverified.is_empty() {
                self.checking = false;
                // Nobody waits any more: the next silence begins with who comes next.
                self.silent_since = None;
            } else {
                effects.push(Effect::After(RETRY_AFTER_MS, Timer::Retry));
            }
            return;
        };
        self.checking = false;
        self.silent_since = None;
        let here = self.head.map(|head| (head.epoch, head.seq));
        if found.map(|head| (head.epoch, head.seq)) == here {
            let judged = std::mem::take(&mut self.unverified);
            self.settle_now(judged, effects);
            self.serve_looks(Ok(()), effects);
        } else {
            self.judge_anew();
        }
    }

    /// Takes in what others appended. What does not fit to the memory is left to a new load.
    fn read_on(&mut self, result: Result<Option<LogPage>, ReadError>, now: UnixMs, effects: &mut Vec<Effect>) {
        if !self.reading_on {
            return;
        }
        self.reading_on = false;
        match result {
            Err(ReadError::Unavailable(what)) => {
                effects.push(Effect::Report(what));
                self.refuse_all(Code::FeedUnavailable, effects);
            }
            Err(ReadError::Damaged(what)) => {
                effects.push(Effect::Report(what));
                self.phase = Phase::Damaged;
            }
            Ok(None) => self.phase = Phase::Cold,
            Ok(Some(page)) => {
                self.phase = match self.take_page(&page, now) {
                    Some(true) => Phase::Ready,
                    Some(false) => Phase::Behind,
                    None => Phase::Cold,
                };
                if self.phase == Phase::Ready {
                    self.serve_looks(Ok(()), effects);
                } else if self.phase == Phase::Behind {
                    self.reading_on = true;
                    let after = self.head.map_or(0, |head| head.seq);
                    effects.push(Effect::ReadOn(self.ask(), after));
                }
            }
        }
    }

    /// Whether the page leads to its head; `None` if it does not begin where the memory ends.
    fn take_page(&mut self, page: &LogPage, now: UnixMs) -> Option<bool> {
        let head = self.head?;
        if page.head.epoch != head.epoch {
            return None;
        }
        for row in &page.rows {
            let have = self.state.seq();
            for entry in codec::decode_commit(&row.body).ok()? {
                if entry.seq <= have {
                    continue;
                }
                if entry.seq != self.state.seq() + 1 {
                    return None;
                }
                self.state.apply(&entry);
                if !is_planted(Bug::IdsOfOthersForgotten) {
                    self.answers.insert(&entry);
                }
                self.dirty.extend(self.state.touched(&entry));
                remember(&mut self.recent, entry);
            }
            self.last_time = self.last_time.max(row.time);
        }
        self.answers.forget_before(now - limits::OPERATION_IDS_KEPT_MS);
        let read = self.state.seq();
        if read == head.seq && page.head.seq != read {
            return None;
        }
        self.head = Some(Head { seq: read, ..page.head });
        // What another host has written already need not be written again.
        let state = &self.state;
        self.dirty
            .retain(|key| state.version(*key).is_some_and(|version| version > page.head.rows_upto));
        Some(read == page.head.seq)
    }

    /// What was in flight did not happen, and will not.
    fn give_up_in_flight(&mut self, code: Code, effects: &mut Vec<Effect>) {
        let Some(in_flight) = self.in_flight.take() else { return };
        self.silent_since = None;
        // What was judged after an operation that did not happen was judged on nothing: it gets the same answer.
        let judged = in_flight.judged.into_iter().map(|Judged { waiting, .. }| Judged {
            outcome: waiting.not_done(code),
            waiting,
        });
        self.settle_now(judged.collect(), effects);
        self.looks.append(&mut self.covered);
        if in_flight.append.base == 0 {
            self.refuse_births(code, effects);
        }
    }

    /// The commit in flight is durable.
    fn commit(&mut self, now: UnixMs, effects: &mut Vec<Effect>) {
        let InFlight {
            append,
            entries,
            judged,
            ..
        } = self.in_flight.take().expect("a commit is in flight");
        self.silent_since = None;
        let head = Head {
            epoch: append.epoch,
            seq: append.last,
            first: self.head.map_or(1, |head| head.first),
            rows_upto: self.head.map_or(0, |head| head.rows_upto),
        };
        self.head = Some(head);
        self.state.belongs_to(head.epoch);
        self.phase = Phase::Ready;
        let before = std::mem::replace(&mut self.last_time, append.time);
        for entry in &entries {
            self.state.apply(entry);
            self.answers.insert(entry);
            self.dirty.extend(self.state.touched(entry));
            remember(&mut self.recent, entry.clone());
        }
        self.answers.forget_before(now - limits::OPERATION_IDS_KEPT_MS);
        self.commits_since_trim += 1;
        let settled = self.settle(judged);
        effects.push(Effect::Publish {
            epoch: append.epoch,
            entries: entries.into(),
            before,
            settled,
        });
        self.flush_due = true;
        self.set_flush_timer(effects);
        self.serve_looks(Ok(()), effects);
    }

    /// What is in flight finds that out by itself.
    fn removed(&mut self) {
        self.dirty.clear();
        self.flush_due = false;
        if self.phase == Phase::Ready && self.in_flight.is_none() && !self.checking {
            self.phase = Phase::Cold;
        }
    }

    /// Gives each operation its outcome; returns the submissions that are complete.
    fn settle(&mut self, judged: Vec<Judged>) -> Vec<(SubmissionId, Vec<OperationResult>)> {
        let mut complete = Vec::new();
        for Judged { waiting, outcome } in judged {
            let Some(open) = self.open.get_mut(&waiting.submission) else {
                continue;
            };
            open.results[waiting.index] = Some(OperationResult {
                id: waiting.operation.id,
                outcome,
            });
            open.left -= 1;
            if open.left == 0 {
                let open = self
                    .open
                    .remove(&waiting.submission)
                    .expect("it was found a line above");
                complete.push((waiting.submission, open.results.into_iter().flatten().collect()));
            }
        }
        complete
    }

    fn settle_now(&mut self, judged: Vec<Judged>, effects: &mut Vec<Effect>) {
        let settled = self.settle(judged);
        effects.extend(
            settled
                .into_iter()
                .map(|(submission, results)| Effect::Settled(submission, results)),
        );
    }

    fn refuse_all(&mut self, code: Code, effects: &mut Vec<Effect>) {
        self.fetched.clear();
        let judged = std::mem::take(&mut self.waiting).into_iter().map(|waiting| Judged {
            outcome: waiting.not_done(code),
            waiting,
        });
        let judged: Vec<_> = judged.collect();
        self.settle_now(judged, effects);
        self.refuse_births(code, effects);
        self.covered.append(&mut self.looks);
        self.serve_looks(Err(code), effects);
    }

    fn refuse_births(&mut self, code: Code, effects: &mut Vec<Effect>) {
        for birth in std::mem::take(&mut self.births) {
            let outcome = Outcome::Refused(ErrorBody::new(code));
            let result = OperationResult {
                id: OperationId(self.user.0),
                outcome,
            };
            effects.push(Effect::Settled(birth.submission, vec![result]));
        }
    }

    fn loaded(&mut self, result: Result<Option<Loaded>, ReadError>, now: UnixMs, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Loading {
            return;
        }
        match result {
            Ok(Some(loaded)) => match self.take_in(&loaded, now, effects) {
                Ok(()) => {
                    self.phase = Phase::Ready;
                    self.serve_looks(Ok(()), effects);
                    if self.writers == Writers::Many {
                        effects.push(Effect::Announce(loaded.head));
                    }
                }
                Err(what) => {
                    effects.push(Effect::Report(what));
                    self.phase = Phase::Damaged;
                }
            },
            Ok(None) => self.phase = Phase::Absent,
            Err(ReadError::Damaged(what)) => {
                effects.push(Effect::Report(what));
                self.phase = Phase::Damaged;
            }
            Err(ReadError::Unavailable(what)) => {
                effects.push(Effect::Report(what));
                self.refuse_all(Code::FeedUnavailable, effects);
                // Nothing waits any more; the next message asks the store again.
                self.phase = Phase::Cold;
            }
        }
    }

    /// Builds the memory from what is stored. The error names what is damaged.
    fn take_in(&mut self, loaded: &Loaded, now: UnixMs, effects: &mut Vec<Effect>) -> Result<(), String> {
        let kept_since = now - limits::OPERATION_IDS_KEPT_MS;
        self.answers.clear();
        self.recent.clear();
        self.fetched.clear();
        self.dirty.clear();
        let report = |problem| effects.push(Effect::Report(problem));
        let rebuilt = replay(self.user, loaded, report, |state, entry| {
            if entry.time >= kept_since && !is_planted(Bug::IdsForgottenAtStart) {
                self.answers.insert(&entry);
            }
            if entry.seq > loaded.head.rows_upto {
                self.dirty.extend(state.touched(&entry));
            }
            remember(&mut self.recent, entry);
        })?;
        self.state = rebuilt.state;
        // The log may hold what can go if the load did not bring all of it, or brought some that is not recent.
        let may_be_cut = match rebuilt.log_from {
            Some((seq, time)) => seq > loaded.head.first || time < kept_since,
            None => loaded.head.seq >= loaded.head.first,
        };
        self.commits_since_trim = if may_be_cut { TRIM_EVERY_COMMITS } else { 0 };
        self.last_time = loaded.log.last().map_or(0, |row| row.time);
        self.head = Some(loaded.head);
        self.flush_due = !self.dirty.is_empty();
        if self.flush_due {
            self.set_flush_timer(effects);
        }
        Ok(())
    }

    fn set_flush_timer(&mut self, effects: &mut Vec<Effect>) {
        if !self.flush_timer {
            self.flush_timer = true;
            effects.push(Effect::After(FLUSH_AFTER_MS, Timer::Flush));
        }
    }

    /// Writes the rows that changed, one batch at a time, in order.
    fn flush(&mut self, effects: &mut Vec<Effect>) {
        let Some(head) = self.head else { return };
        let is_whole = matches!(self.phase, Phase::Ready | Phase::Behind);
        if !is_whole || self.flushing.is_some() || self.dirty.is_empty() {
            return;
        }
        self.flush_due = false;
        let keys = std::mem::take(&mut self.dirty);
        let rows = keys.iter().filter_map(|key| self.state.stored_row(*key)).collect();
        self.flushing = Some(keys);
        let ahead = match &self.in_flight {
            Some(in_flight) if is_planted(Bug::RowsUptoOverHole) => in_flight.append.last,
            _ => head.seq,
        };
        effects.push(Effect::WriteRows { rows, upto: ahead });
    }

    fn rows_written(&mut self, upto: Seq, result: Result<(), AppendError>, now: UnixMs, effects: &mut Vec<Effect>) {
        let Some(keys) = self.flushing.take() else { return };
        match result {
            Ok(()) => {
                if let Some(head) = &mut self.head {
                    head.rows_upto = head.rows_upto.max(upto);
                }
                let dirty = &self.dirty;
                self.state.forget_activity(|key| !dirty.contains(&key));
                if self.flush_due {
                    self.set_flush_timer(effects);
                }
                if self.commits_since_trim >= TRIM_EVERY_COMMITS {
                    self.commits_since_trim = 0;
                    effects.push(Effect::Trim(Retention {
                        keep_since: now - limits::OPERATION_IDS_KEPT_MS,
                        cut_before: now - limits::LOG_KEPT_MS,
                        commits_max: limits::LOG_KEPT_COMMITS,
                        bytes_max: limits::LOG_KEPT_BYTES,
                    }));
                }
            }
            Err(AppendError::Damaged(what)) => {
                effects.push(Effect::Report(what));
                self.phase = Phase::Damaged;
            }
            // The feed was removed: there is nothing that these rows could belong to.
            Err(AppendError::Conflict(None)) => self.removed(),
            Err(_) => {
                // The rows are still in memory, and their changes in the log: try again, and lose nothing meanwhile.
                self.dirty.extend(keys);
                self.flush_due = true;
                effects.push(Effect::After(FLUSH_AFTER_MS, Timer::Retry));
            }
        }
    }
}

/// The entry is in the log but not in memory.
struct NotHere(Seq);

/// Where the operations of a draft are among its entries.
type Made = HashMap<(UserId, OperationId), usize>;

/// The answer to an operation whose id is that of this entry.
fn answer_again(entry: &Entry, operation: &Operation) -> Outcome {
    match entry.refused {
        _ if entry.operation_hash != domain::operation_hash(operation) => {
            Outcome::Refused(ErrorBody::new(Code::OperationIdReused))
        }
        None => Outcome::Accepted(Accepted { seq: entry.seq }),
        Some(number) => Outcome::Refused(ErrorBody::new(Code::from_number(number).unwrap_or(Code::ValueInvalid))),
    }
}

fn remember(recent: &mut VecDeque<Entry>, entry: Entry) {
    if recent.len() == RECENT_ENTRIES_MAX {
        recent.pop_front();
    }
    recent.push_back(entry);
}

/// What is built from what is stored.
#[derive(Debug)]
pub struct Rebuilt {
    /// Everything up to the head.
    pub state: State,
    /// The first entry of the commits that the load brought, and its time.
    pub log_from: Option<(Seq, UnixMs)>,
}

/// Builds the state of a feed from what a load found: the rows, and on them the entries that they lack.
///
/// A row that cannot be read is left out and named through `report`. The settings or the inbox, an entry that does not
/// decode, or a hole are a wall: the error names it.
pub fn rebuild(user: UserId, loaded: &Loaded, report: impl FnMut(String)) -> Result<Rebuilt, String> {
    replay(user, loaded, report, |_, _| {})
}

/// The same, and hands on each entry of the commits that the load brought, one commit after the other: of all that was done
/// in a day, no more is decoded at a time.
fn replay(
    user: UserId,
    loaded: &Loaded,
    mut report: impl FnMut(String),
    mut each: impl FnMut(&State, Entry),
) -> Result<Rebuilt, String> {
    let mut state = State::new(user);
    state.belongs_to(loaded.head.epoch);
    let mut damaged = loaded.unreadable.clone();
    for row in &loaded.rows {
        if let Err(error) = state.load_row(row) {
            let what = format!("feed {user}: row {:?} does not decode: {error}", row.key);
            damaged.push(Unreadable { key: row.key, what });
        }
    }
    for Unreadable { key, what } in damaged {
        if !state.leave_out(key) {
            return Err(what);
        }
        report(what);
    }
    let mut log_from = None;
    let mut expected = loaded.head.rows_upto + 1;
    for row in &loaded.log {
        for entry in decode_row(user, row)? {
            log_from.get_or_insert((entry.seq, entry.time));
            if entry.seq > loaded.head.rows_upto {
                if entry.seq != expected {
                    return Err(format!("feed {user}: entry {expected} is missing from the log"));
                }
                if !is_planted(Bug::NoReplayAtStart) {
                    state.apply(&entry);
                }
                expected += 1;
            }
            each(&state, entry);
        }
    }
    if expected != loaded.head.seq + 1 {
        return Err(format!(
            "feed {user}: the log ends at {} but its head is {}",
            expected - 1,
            loaded.head.seq
        ));
    }
    state.loaded_upto(loaded.head.seq);
    Ok(Rebuilt { state, log_from })
}

/// Decodes a row of the log; the error names it.
pub fn decode_row(user: UserId, row: &LogRow) -> Result<Vec<Entry>, String> {
    codec::decode_commit(&row.body)
        .map_err(|error| format!("feed {user}: the commit at {} does not decode: {error}", row.last))
}
