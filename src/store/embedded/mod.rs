//! The store of a single node: SQLite in one folder, for one process.
//!
//! - [`writer`]: one thread owns all writing. Appends that wait go together as one row of the *inbox*, with one fsync.
//! - [`mover`]: the same thread, between groups: brings commits, rows and heads to their tables, without an fsync of its
//!   own; only then a group leaves the inbox. A crash loses at worst the moving, and [`replay`] does it again.
//! - [`tail`]: what is durable but not moved yet is held in memory, and joined into what [`reader`] finds in the tables.
//! - [`witness`]: the number of the last durable group, outside the database, so that a database that went back in time
//!   is refused instead of believed.
//!
//! Architecture invariant: nothing here truncates or deletes anything because it is damaged; damage is named.
//! Architecture invariant: a read shows only what is durable; the tail is filled after the fsync, and the mover moves
//! only what is in the tail.
//!
//! `docs/decisions/0002-embedded-store.md` has the reasons and the figures.

mod accounts;
mod codec;
mod fault;
mod folder;
mod mover;
mod queue;
mod reader;
mod replay;
mod schema;
mod shared;
mod tail;
mod witness;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use taskflow_actors::domain::Quarter;
use taskflow_actors::ports::{
    Account, AccountError, Accounts, Append, AppendError, BoxFuture, Deletion, Device, Head, Loaded, LogPage, Note,
    ReadError, Retention, SignIn, Store, StoredRow,
};
use taskflow_protocol::UserId;
use taskflow_protocol::values::{Seq, UnixMs};
use tokio::sync::oneshot;
use uuid::Uuid;

use fault::Fault;
use folder::Folder;
use queue::{AccountWrite, Answer, Close, NotTaken, Read, RemoveJob, RowsJob, TrimJob, Write};
use shared::Shared;

/// How the store behaves. The defaults are for a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes that stay free on the disk: below it appends are refused as `Full`. What was accepted must still find room
    /// when it is moved to its tables, and so must the write-ahead log.
    pub reserve_bytes: u64,
    /// Jobs that may wait for the writer: a disk that hangs must not fill the memory.
    pub queue_jobs_max: usize,
    /// Bytes that may wait for the writer.
    pub queue_bytes_max: usize,
    /// Bytes of one group: more than this share the next fsync.
    pub group_bytes_max: usize,
    /// Reads that may wait: three times the clients that come back at once.
    pub reads_max: usize,
    /// Threads that read.
    pub readers: usize,
    /// Bytes of commits and rows that are not moved yet; above it moving goes before appending.
    pub tail_bytes_max: usize,
    /// What is not moved yet is moved after this time, also under load.
    pub move_every: Duration,
    /// And after this time without an append.
    pub move_idle: Duration,
    /// Commits and rows that are moved at once, between two groups. More hold back the group behind them.
    pub move_items: usize,
    /// Frames of the write-ahead log, of 4 KiB, after which a checkpoint is made.
    pub checkpoint_frames: u64,
    /// Pause after a failure to move, for instance on a full disk.
    pub move_retry: Duration,
    /// Heads of feeds that the writer remembers, of about 150 bytes.
    pub heads_max: usize,
    /// Called on each of the store's threads when it falls idle, or every few seconds: gives memory back.
    pub collect: fn(),
    /// The SQLite file layer, by its registered name: tests bring one that loses and tears writes.
    pub vfs: Option<&'static str>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            reserve_bytes: 16 * 1024 * 1024,
            queue_jobs_max: 65_536,
            queue_bytes_max: 64 * 1024 * 1024,
            group_bytes_max: 4 * 1024 * 1024,
            reads_max: 65_536,
            readers: 2,
            tail_bytes_max: 64 * 1024 * 1024,
            move_every: Duration::from_secs(1),
            move_idle: Duration::from_millis(50),
            move_items: 512,
            checkpoint_frames: 2_000,
            move_retry: Duration::from_secs(1),
            heads_max: 4_096,
            collect: || (),
            vfs: None,
        }
    }
}

/// How long a thread of the store waits, after work, before it gives memory back.
const COLLECT_EVERY: Duration = Duration::from_secs(5);

/// Is told what the store does. Called on the store's threads: must not wait.
pub trait StoreObserver: Send + Sync + 'static {
    /// A durable commit took this long, nearly all of it the fsync.
    fn fsync(&self, _took: Duration) {}
    /// A group of appends is durable.
    fn group(&self, _appends: usize, _bytes: usize) {}
    /// Commits and rows were moved to their tables.
    fn moved(&self, _commits: usize, _rows: usize, _took: Duration) {}
    /// Appends or rows were refused because there is no room, on the disk or in the queue.
    fn full(&self) {}
    /// A read, an append or a write failed.
    fn error(&self) {}
    /// Damage was found.
    fn damage(&self) {}
    /// Bytes free on the disk.
    fn bytes_free(&self, _bytes: u64) {}
    /// Size of the write-ahead log.
    fn wal_bytes(&self, _bytes: u64) {}
    /// Bytes that are not moved yet.
    fn tail_bytes(&self, _bytes: usize) {}
}

impl StoreObserver for () {}

/// What waits for the store's threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Appends and other writes.
    pub writes: usize,
    /// Bytes of those.
    pub bytes: usize,
    /// Reads.
    pub reads: usize,
}

/// Why a store did not open. The texts say what the operator can do; `docs/operations.md` has more.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the folder.
    #[error("the data folder {} is in use by another process ({process}): stop it, or use another --data-dir", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The number of the process, as it wrote it.
        process: String,
    },
    /// The operating system said no.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Written by a newer version.
    #[error("{} has format {found}, this version knows up to {known}: use the newer version of taskflow", path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest known.
        known: i64,
    },
    /// What is there is not what was written. Nothing was changed.
    #[error(
        "the data in {} is damaged: {what}. Nothing was changed. Keep a copy of the whole folder, then put the folder \
         back from a backup; see \"The store does not open\" in docs/operations.md", folder.display()
    )]
    Damaged {
        /// The folder.
        folder: PathBuf,
        /// The file, the table and the key, and what is wrong.
        what: String,
    },
    /// SQLite could not open it.
    #[error("the database in {} cannot be opened: {what}", folder.display())]
    Unavailable {
        /// The folder.
        folder: PathBuf,
        /// Why.
        what: String,
    },
}

/// The store. Cheap to clone; the threads end with the last clone.
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Bytes of the store's files in a folder: the database and its write-ahead log.
pub fn bytes(data_dir: &Path) -> u64 {
    let log = format!("{}-wal", folder::DATABASE);
    let files = [folder::DATABASE, &log].map(|name| std::fs::metadata(data_dir.join(name)));
    files.iter().flatten().map(std::fs::Metadata::len).sum()
}

/// Opens the store in a folder, making both if there is nothing yet. Blocks; the time grows only with what was not moved
/// and with the number of accounts.
///
/// # Errors
///
/// See [`OpenError`]. A store that does not open was not changed.
pub fn open(folder: &Path, options: Options, observer: Arc<dyn StoreObserver>) -> Result<Embedded, OpenError> {
    let folder = Folder::open(folder)?;
    let shared = Arc::new(Shared::new(folder, options, observer));
    let inner = Inner {
        shared: shared.clone(),
        threads: Mutex::default(),
    };
    // From here on every way out passes `Drop`, which ends the threads that were started.
    let (opened, answer) = mpsc::sync_channel(1);
    inner.spawn("store-writer", {
        let shared = shared.clone();
        move || writer::run(&shared, &opened)
    })?;
    match answer.recv() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(error),
        Err(mpsc::RecvError) => {
            let folder = shared.folder.path().to_owned();
            return Err(OpenError::Unavailable {
                folder,
                what: "the writer ended at once".to_owned(),
            });
        }
    }
    for _ in 0..shared.options.readers.max(1) {
        let shared = shared.clone();
        inner.spawn("store-reader", move || reader::run(&shared))?;
    }
    Ok(Embedded { inner: Arc::new(inner) })
}

impl Inner {
    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), OpenError> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        let thread = thread.map_err(|source| OpenError::Io {
            path: self.shared.folder.path().to_owned(),
            source,
        })?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    fn close(&self, how: Close) {
        self.shared.writes.close(how);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A thread that panicked has been reported by the panic itself.
            let _ = thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close(Close::Quick);
    }
}

impl Embedded {
    /// Would an append succeed now? Goes through the writer and an fsync, so callers bound how often they ask.
    pub fn check_append(&self) -> BoxFuture<Result<(), AppendError>> {
        self.write(Write::Check)
    }

    /// What waits for its threads now.
    pub fn waiting(&self) -> Waiting {
        let shared = &self.inner.shared;
        let (writes, bytes) = shared.writes.waiting();
        Waiting {
            writes,
            bytes,
            reads: shared.reads.waiting(),
        }
    }

    /// Does what waits, moves everything to its place, and closes the files. Blocks. Calls that come later on other
    /// clones are answered `Unavailable`.
    pub fn shutdown(self) {
        self.inner.close(Close::Tidy);
    }

    fn write<T: Send + 'static, E>(&self, job: impl FnOnce(Answer<Result<T, E>>) -> Write) -> BoxFuture<Result<T, E>>
    where
        E: From<Fault> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        if let Err((why, job)) = self.inner.shared.writes.push(job(answer)) {
            drop(job);
            let fault = match why {
                // Nothing was written, and nothing will be: as with a full disk, the caller may refuse and try later.
                NotTaken::Full => {
                    self.inner.shared.observer.full();
                    Fault::Full
                }
                NotTaken::Closed => Fault::Unavailable("it is closed".to_owned()),
            };
            return Box::pin(std::future::ready(Err(fault.into())));
        }
        Box::pin(async move {
            answered
                .await
                .unwrap_or_else(|_| Err(Fault::Unavailable("the writer has ended".to_owned()).into()))
        })
    }

    fn read<T: Send + 'static, E>(&self, job: impl FnOnce(Answer<Result<T, E>>) -> Read) -> BoxFuture<Result<T, E>>
    where
        E: From<Fault> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.inner.shared.reads.push(job(answer));
        Box::pin(async move {
            answered
                .await
                .unwrap_or_else(|_| Err(Fault::Unavailable("the reader has ended".to_owned()).into()))
        })
    }
}

impl Store for Embedded {
    fn append(&self, append: Append) -> BoxFuture<Result<(), AppendError>> {
        self.write(|answer| Write::Append(append, answer))
    }

    fn head(&self, feed: UserId) -> BoxFuture<Result<Option<Head>, ReadError>> {
        let shared = &self.inner.shared;
        if shared.reads.is_open()
            && let Some(head) = shared.tail.head(feed)
        {
            return Box::pin(std::future::ready(Ok(Some(head))));
        }
        self.read(|answer| Read::Head(feed, answer))
    }

    fn read_log(&self, feed: UserId, after: Seq, bytes_max: usize) -> BoxFuture<Result<Option<LogPage>, ReadError>> {
        let shared = &self.inner.shared;
        if shared.reads.is_open()
            && let Some(page) = shared.tail.page(feed, after, bytes_max)
        {
            return Box::pin(std::future::ready(Ok(Some(page))));
        }
        self.read(|answer| Read::Log(feed, after, bytes_max, answer))
    }

    fn load(&self, feed: UserId, ids_since: UnixMs) -> BoxFuture<Result<Option<Loaded>, ReadError>> {
        self.read(|answer| Read::Load(feed, ids_since, answer))
    }

    fn activity(&self, feed: UserId, from: Quarter, to: Quarter) -> BoxFuture<Result<Vec<StoredRow>, ReadError>> {
        self.read(|answer| Read::Activity(feed, from, to, answer))
    }

    fn write_rows(&self, feed: UserId, rows: Vec<StoredRow>, upto: Seq) -> BoxFuture<Result<(), AppendError>> {
        self.write(|answer| {
            Write::Rows(RowsJob {
                feed,
                rows,
                upto,
                answer,
            })
        })
    }

    fn trim(&self, feed: UserId, retention: Retention) -> BoxFuture<Result<Option<Head>, AppendError>> {
        self.write(|answer| {
            Write::Trim(TrimJob {
                feed,
                retention,
                answer,
            })
        })
    }

    fn remove(&self, feed: UserId, _: UnixMs) -> BoxFuture<Result<(), AppendError>> {
        self.write(|answer| Write::Remove(RemoveJob { feed, answer }))
    }
}

impl Accounts for Embedded {
    fn create_account(&self, account: Account) -> BoxFuture<Result<(), AccountError>> {
        self.write(|answer| Write::Account(AccountWrite::CreateAccount(account, answer)))
    }

    fn account_by_email(&self, email: String) -> BoxFuture<Result<Option<Account>, AccountError>> {
        self.read(|answer| Read::AccountByEmail(email, answer))
    }

    fn replace_password(&self, email: String, expected: String, hash: String) -> BoxFuture<Result<bool, AccountError>> {
        self.write(|answer| Write::Account(AccountWrite::ReplacePassword(email, expected, hash, answer)))
    }

    fn change_email(&self, email: String, expected: String, new: String) -> BoxFuture<Result<bool, AccountError>> {
        self.write(|answer| Write::Account(AccountWrite::ChangeEmail(email, expected, new, answer)))
    }

    fn set_deletion(
        &self,
        email: String,
        user: UserId,
        expected: Option<UnixMs>,
        deletes_at: Option<UnixMs>,
    ) -> BoxFuture<Result<bool, AccountError>> {
        self.write(|answer| Write::Account(AccountWrite::SetDeletion(email, user, expected, deletes_at, answer)))
    }

    fn deletions_due(&self, now: UnixMs) -> BoxFuture<Result<Vec<Deletion>, AccountError>> {
        self.read(|answer| Read::DeletionsDue(now, answer))
    }

    fn remove_account(&self, deletion: Deletion) -> BoxFuture<Result<(), AccountError>> {
        self.write(|answer| Write::Account(AccountWrite::Remove(deletion, answer)))
    }

    fn note(&self, user: UserId, note: Note) -> BoxFuture<Result<(), AccountError>> {
        self.write(|answer| Write::Account(AccountWrite::Note(user, note, answer)))
    }

    fn history(
        &self,
        user: UserId,
        before: Option<(UnixMs, Uuid)>,
        count: usize,
    ) -> BoxFuture<Result<Vec<Note>, AccountError>> {
        self.read(|answer| Read::History(user, before, count, answer))
    }

    fn create_sign_in(&self, sign_in: SignIn, device: Device) -> BoxFuture<Result<(), AccountError>> {
        self.write(|answer| Write::Account(AccountWrite::CreateSignIn(sign_in, device, answer)))
    }

    fn sign_in(&self, id: Uuid) -> BoxFuture<Result<Option<SignIn>, AccountError>> {
        self.read(|answer| Read::SignIn(id, answer))
    }

    fn sign_ins_of(&self, user: UserId) -> BoxFuture<Result<Vec<(SignIn, Device)>, AccountError>> {
        self.read(|answer| Read::SignInsOf(user, answer))
    }

    fn replace_sign_in(
        &self,
        expected: [u8; 32],
        sign_in: SignIn,
        address: String,
    ) -> BoxFuture<Result<bool, AccountError>> {
        self.write(|answer| Write::Account(AccountWrite::ReplaceSignIn(expected, sign_in, address, answer)))
    }

    fn end_sign_in(&self, user: UserId, id: Uuid) -> BoxFuture<Result<(), AccountError>> {
        self.write(|answer| Write::Account(AccountWrite::EndSignIn(user, id, answer)))
    }
}
