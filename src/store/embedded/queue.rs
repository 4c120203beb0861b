//! The bounded queues in front of the writer and the readers.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use taskflow_actors::domain::Quarter;
use taskflow_actors::ports::{
    Account, AccountError, Append, AppendError, Deletion, Device, Head, Loaded, LogPage, Note, ReadError, Retention,
    SignIn, StoredRow,
};
use taskflow_protocol::UserId;
use taskflow_protocol::values::{Seq, UnixMs};
use tokio::sync::oneshot;
use uuid::Uuid;

/// Where an answer goes. Whoever asked may be gone; that is nobody's error.
pub(super) type Answer<T> = oneshot::Sender<T>;

/// What the writer is asked.
pub(super) enum Write {
    Append(Append, Answer<Result<(), AppendError>>),
    Rows(RowsJob),
    Trim(TrimJob),
    Remove(RemoveJob),
    Account(AccountWrite),
    /// An empty group: would an append succeed?
    Check(Answer<Result<(), AppendError>>),
}

/// Rows on their way into the table.
pub(super) struct RowsJob {
    pub feed: UserId,
    pub rows: Vec<StoredRow>,
    pub upto: Seq,
    pub answer: Answer<Result<(), AppendError>>,
}

impl RowsJob {
    pub(super) fn bytes(&self) -> usize {
        self.rows.iter().map(|row| ROW_BYTES + row.body.len()).sum()
    }
}

/// A log to cut.
pub(super) struct TrimJob {
    pub feed: UserId,
    pub retention: Retention,
    pub answer: Answer<Result<Option<Head>, AppendError>>,
}

/// A feed to remove.
pub(super) struct RemoveJob {
    pub feed: UserId,
    pub answer: Answer<Result<(), AppendError>>,
}

/// A change to accounts and sign-ins.
pub(super) enum AccountWrite {
    CreateAccount(Account, Answer<Result<(), AccountError>>),
    /// Address, hash expected, new hash.
    ReplacePassword(String, String, String, Answer<Result<bool, AccountError>>),
    /// Address, hash expected, new address.
    ChangeEmail(String, String, String, Answer<Result<bool, AccountError>>),
    /// Address, user, time expected, new time.
    SetDeletion(
        String,
        UserId,
        Option<UnixMs>,
        Option<UnixMs>,
        Answer<Result<bool, AccountError>>,
    ),
    Remove(Deletion, Answer<Result<(), AccountError>>),
    Note(UserId, Note, Answer<Result<(), AccountError>>),
    CreateSignIn(SignIn, Device, Answer<Result<(), AccountError>>),
    ReplaceSignIn([u8; 32], SignIn, String, Answer<Result<bool, AccountError>>),
    EndSignIn(UserId, Uuid, Answer<Result<(), AccountError>>),
}

/// Bytes of a row in memory beside its body.
const ROW_BYTES: usize = 64;
/// Bytes of any job in memory beside what it carries.
const JOB_BYTES: usize = 256;

impl Write {
    fn bytes(&self) -> usize {
        JOB_BYTES
            + match self {
                Self::Append(append, _) => append.body.len(),
                Self::Rows(job) => job.bytes(),
                Self::Trim(_) | Self::Remove(_) | Self::Check(_) => 0,
                Self::Account(_) => 512,
            }
    }
}

/// Why a job was not taken. Nothing of it was done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum NotTaken {
    /// Too much waits.
    Full,
    /// The store was closed.
    Closed,
}

/// How the writer ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Close {
    /// Everything is moved to its place first.
    Tidy,
    /// What is durable is durable; the next start moves it.
    Quick,
}

#[derive(Default)]
struct Writes {
    jobs: VecDeque<Write>,
    bytes: usize,
    close: Option<Close>,
}

/// Room for so many waiting jobs stays when none waits.
const JOBS_KEPT: usize = 64;

/// How often the writer stands aside before a group, at most: on a core that it shares with the other threads each time
/// lets all of them run once.
const GATHER_YIELDS_MAX: usize = 8;

/// What waits for the writer, in the order of the calls.
pub(super) struct WriteQueue {
    inner: Mutex<Writes>,
    arrived: Condvar,
    jobs_max: usize,
    bytes_max: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics while it holds a lock; the queues are plain data.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WriteQueue {
    pub(super) fn new(jobs_max: usize, bytes_max: usize) -> Self {
        Self {
            inner: Mutex::default(),
            arrived: Condvar::new(),
            jobs_max,
            bytes_max,
        }
    }

    #[allow(
        clippy::result_large_err,
        reason = "the error is the job itself, on its way back to its only caller"
    )]
    pub(super) fn push(&self, job: Write) -> Result<(), (NotTaken, Write)> {
        let bytes = job.bytes();
        let mut inner = lock(&self.inner);
        if inner.close.is_some() {
            return Err((NotTaken::Closed, job));
        }
        // A job that alone is over the limit is taken when nothing else waits: it could never go otherwise.
        let full = inner.jobs.len() >= self.jobs_max || inner.bytes + bytes > self.bytes_max;
        if full && !inner.jobs.is_empty() {
            return Err((NotTaken::Full, job));
        }
        inner.bytes += bytes;
        inner.jobs.push_back(job);
        if inner.jobs.len() == 1 {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Stands aside for threads that are about to bring more, as long as they do: what they bring shares the fsync. Where
    /// nobody else has anything to do this costs a microsecond, so a lone append does not wait.
    fn gather(&self) {
        let mut seen = 0;
        for _ in 0..GATHER_YIELDS_MAX {
            let waiting = lock(&self.inner).jobs.len();
            if waiting <= seen {
                return;
            }
            seen = waiting;
            std::thread::yield_now();
        }
    }

    /// Takes what waits, up to about `bytes_max`, waiting for it until `until` (`None`: as long as it takes).
    pub(super) fn take(&self, bytes_max: usize, until: Option<Instant>, jobs: &mut Vec<Write>) -> Option<Close> {
        let mut inner = lock(&self.inner);
        while inner.jobs.is_empty() && inner.close.is_none() {
            inner = match until {
                None => self.arrived.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    self.arrived
                        .wait_timeout(inner, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
        if !inner.jobs.is_empty() {
            drop(inner);
            self.gather();
            inner = lock(&self.inner);
        }
        let mut bytes = 0;
        while bytes < bytes_max {
            let Some(job) = inner.jobs.pop_front() else { break };
            bytes += job.bytes();
            jobs.push(job);
        }
        inner.bytes -= bytes;
        if inner.jobs.is_empty() {
            // What a burst needed goes.
            inner.jobs.shrink_to(JOBS_KEPT);
            inner.close
        } else {
            None
        }
    }

    /// Jobs that wait, and their bytes.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let inner = lock(&self.inner);
        (inner.jobs.len(), inner.bytes)
    }

    /// Takes no more jobs; those that wait are done.
    pub(super) fn close(&self, how: Close) {
        let mut inner = lock(&self.inner);
        inner.close.get_or_insert(how);
        self.arrived.notify_all();
    }
}

/// What a reader is asked.
pub(super) enum Read {
    Head(UserId, Answer<Result<Option<Head>, ReadError>>),
    Log(UserId, Seq, usize, Answer<Result<Option<LogPage>, ReadError>>),
    Load(UserId, UnixMs, Answer<Result<Option<Loaded>, ReadError>>),
    Activity(UserId, Quarter, Quarter, Answer<Result<Vec<StoredRow>, ReadError>>),
    AccountByEmail(String, Answer<Result<Option<Account>, AccountError>>),
    SignIn(Uuid, Answer<Result<Option<SignIn>, AccountError>>),
    SignInsOf(UserId, Answer<Result<Vec<(SignIn, Device)>, AccountError>>),
    DeletionsDue(UnixMs, Answer<Result<Vec<Deletion>, AccountError>>),
    History(
        UserId,
        Option<(UnixMs, Uuid)>,
        usize,
        Answer<Result<Vec<Note>, AccountError>>,
    ),
}

impl Read {
    /// The store does not answer.
    pub(super) fn refuse(self, why: &str) {
        let unavailable = ReadError::Unavailable(why.to_owned());
        let unknown = AccountError::Unavailable(why.to_owned());
        match self {
            Self::Head(_, answer) => drop(answer.send(Err(unavailable))),
            Self::Log(_, _, _, answer) => drop(answer.send(Err(unavailable))),
            Self::Load(_, _, answer) => drop(answer.send(Err(unavailable))),
            Self::Activity(_, _, _, answer) => drop(answer.send(Err(unavailable))),
            Self::AccountByEmail(_, answer) => drop(answer.send(Err(unknown))),
            Self::SignInsOf(_, answer) => drop(answer.send(Err(unknown))),
            Self::SignIn(_, answer) => drop(answer.send(Err(unknown))),
            Self::DeletionsDue(_, answer) => drop(answer.send(Err(unknown))),
            Self::History(_, _, _, answer) => drop(answer.send(Err(unknown))),
        }
    }
}

/// Whether readers may read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gate {
    Open,
    /// The writer is finding out what is durable: nobody has a connection, nobody reads.
    Shut,
    /// For good.
    Closed,
}

struct Reads {
    jobs: VecDeque<Read>,
    gate: Gate,
    /// Readers that hold a connection.
    connected: usize,
    /// Readers that wait for jobs.
    idle: usize,
}

/// What waits for the readers.
pub(super) struct ReadQueue {
    inner: Mutex<Reads>,
    arrived: Condvar,
    left: Condvar,
    jobs_max: usize,
}

/// What a reader does next.
pub(super) enum Turn {
    /// Nothing came for as long as was asked.
    Idle,
    /// Answer these.
    Jobs(Vec<Read>),
    /// Close the connection, say so with [`ReadQueue::disconnected`], and ask again.
    Disconnect,
    /// End.
    End,
}

impl ReadQueue {
    pub(super) fn new(jobs_max: usize) -> Self {
        let reads = Reads {
            jobs: VecDeque::new(),
            gate: Gate::Open,
            connected: 0,
            idle: 0,
        };
        Self {
            inner: Mutex::new(reads),
            arrived: Condvar::new(),
            left: Condvar::new(),
            jobs_max,
        }
    }

    /// Queues a job, or refuses it.
    pub(super) fn push(&self, job: Read) {
        let mut inner = lock(&self.inner);
        let why = match inner.gate {
            Gate::Closed => "it is closed",
            _ if inner.jobs.len() >= self.jobs_max => "too many reads wait",
            _ => {
                inner.jobs.push_back(job);
                // A reader that is not idle takes the job with its next batch: a burst wakes nobody twice.
                if inner.idle > 0 && inner.gate == Gate::Open {
                    self.arrived.notify_one();
                }
                return;
            }
        };
        drop(inner);
        job.refuse(why);
    }

    /// Waits for the reader's turn; with jobs it counts as connected.
    pub(super) fn next(&self, jobs_max: usize, connected: bool, idle_after: Option<Duration>) -> Turn {
        let mut inner = lock(&self.inner);
        loop {
            match inner.gate {
                Gate::Closed if inner.jobs.is_empty() => return Turn::End,
                Gate::Shut if connected => return Turn::Disconnect,
                Gate::Open | Gate::Closed if !inner.jobs.is_empty() => break,
                Gate::Open | Gate::Shut | Gate::Closed => {}
            }
            inner.idle += 1;
            let Some(idle_after) = idle_after else {
                inner = self.arrived.wait(inner).unwrap_or_else(PoisonError::into_inner);
                inner.idle -= 1;
                continue;
            };
            let waited = self.arrived.wait_timeout(inner, idle_after);
            let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            inner = woken;
            inner.idle -= 1;
            if timeout.timed_out() {
                return Turn::Idle;
            }
        }
        let count = inner.jobs.len().min(jobs_max);
        let jobs = inner.jobs.drain(..count).collect();
        if !connected {
            inner.connected += 1;
        }
        if !inner.jobs.is_empty() && inner.idle > 0 {
            self.arrived.notify_one();
        }
        Turn::Jobs(jobs)
    }

    /// A reader has closed its connection.
    pub(super) fn disconnected(&self) {
        lock(&self.inner).connected -= 1;
        self.left.notify_all();
    }

    /// Keeps readers out; returns when none has a connection. They are short.
    pub(super) fn shut(&self) {
        let mut inner = lock(&self.inner);
        if inner.gate == Gate::Open {
            inner.gate = Gate::Shut;
        }
        self.arrived.notify_all();
        while inner.connected > 0 {
            inner = self.left.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets readers in again.
    pub(super) fn reopen(&self) {
        let mut inner = lock(&self.inner);
        if inner.gate == Gate::Shut {
            inner.gate = Gate::Open;
        }
        self.arrived.notify_all();
    }

    /// Whether reads are answered at the moment, also those from memory.
    pub(super) fn is_open(&self) -> bool {
        lock(&self.inner).gate == Gate::Open
    }

    /// Jobs that wait.
    pub(super) fn waiting(&self) -> usize {
        lock(&self.inner).jobs.len()
    }

    /// Refuses what waits, for instance because it has waited long.
    pub(super) fn refuse_waiting(&self, why: &str) {
        let jobs = std::mem::take(&mut lock(&self.inner).jobs);
        for job in jobs {
            job.refuse(why);
        }
    }

    /// Takes no more jobs. What waits is answered, or refused where nobody may read.
    pub(super) fn close(&self) {
        let refused = {
            let mut inner = lock(&self.inner);
            let shut = inner.gate == Gate::Shut;
            inner.gate = Gate::Closed;
            if shut {
                std::mem::take(&mut inner.jobs)
            } else {
                VecDeque::new()
            }
        };
        self.arrived.notify_all();
        for job in refused {
            job.refuse("it is closed");
        }
    }
}

/// Longest wait of a read while the writer finds out what is durable: then it is told that the store does not answer.
pub(super) const READ_WAIT_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_counted_until_a_reader_takes_them() {
        let reads = ReadQueue::new(10);
        for number in 0..3 {
            reads.push(Read::Head(UserId(Uuid::from_u128(number)), oneshot::channel().0));
        }
        assert_eq!(reads.waiting(), 3);
        assert!(matches!(reads.next(2, false, None), Turn::Jobs(jobs) if jobs.len() == 2));
        assert_eq!(reads.waiting(), 1);
    }
}
