//! The store of a cluster: ScyllaDB, or anything else that speaks CQL with conditional updates (Cassandra 4.1 and later).
//!
//! - `log.rs`: appends, each one conditional update of one row; reads; cutting.
//! - `rows.rs`: the present values, written without conditions and stamped with their `seq`.
//! - `accounts.rs`: accounts and sign-ins.
//! - `migrate.rs`: the schema, in numbered steps that go forward only.
//! - `session.rs`: the driver, its settings, and what its errors mean.
//!
//! No clock decides here what is right: an append succeeds on the head that it names, rows are stamped with numbers from
//! the log, and what is not known is read back.

mod accounts;
mod log;
mod migrate;
mod rows;
mod seal;
mod session;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use taskflow_actors::domain::Quarter;
use taskflow_actors::ports::{
    Account, AccountError, Accounts, Append, AppendError, BoxFuture, Deletion, Device, Head, Loaded, LogPage, Note,
    ReadError, Retention, SignIn, Store, StoredRow, Unreadable,
};
use taskflow_protocol::UserId;
use taskflow_protocol::values::{Seq, UnixMs};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::telemetry::metrics::{CqlError, CqlRequest};

pub use self::migrate::{Migrated, migrate};
use self::session::{Places, Session};

/// Where the database is, and how it is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses (`host:port`) of some nodes; the others are found through them.
    pub nodes: Vec<String>,
    /// The keyspace.
    pub keyspace: String,
    /// The data centre whose replicas answer; `None`: the driver takes any.
    pub datacenter: Option<String>,
    /// The rack whose replicas are asked first.
    pub rack: Option<String>,
    /// Name and password.
    pub login: Option<(String, String)>,
    /// Certificates (PEM) that the nodes' own must lead to; `None`: no TLS.
    pub tls_ca: Option<PathBuf>,
    /// Replicas of everything, when the keyspace is made.
    pub replication: u8,
    /// Requests under way at once. A request takes a few milliseconds: 512 are more than 100,000 a second, and few enough
    /// that a database that has stopped does not cost memory.
    pub requests_max: usize,
    /// Whether large bodies are compressed. Builds of before cannot read them.
    pub compress: bool,
    /// After this an append is unknown. Longer than the database itself tries (1 s for the order, 2 s for the write).
    pub append_timeout: Duration,
    /// After this a read has failed.
    pub read_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            keyspace: "taskflow".to_owned(),
            datacenter: None,
            rack: None,
            login: None,
            tls_ca: None,
            replication: 3,
            requests_max: 512,
            compress: true,
            append_timeout: Duration::from_millis(2_500),
            read_timeout: Duration::from_secs(2),
        }
    }
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No node answers, or none lets us in.
    #[error(
        "cannot reach the database at {nodes}: {cause}. Check cql_nodes, cql_user, cql_password_file, cql_tls_ca and the network"
    )]
    Unreachable {
        /// Who was asked.
        nodes: String,
        /// What the driver says.
        cause: String,
    },
    /// It answers, but not in the data centre that was named.
    #[error("there is no data centre {named:?} in the database, only {found}: set cql_datacenter to one of them")]
    Datacenter {
        /// The setting.
        named: String,
        /// What there is.
        found: String,
    },
    /// The certificates cannot be used.
    #[error("cannot use {} (cql_tls_ca): {cause}", path.display())]
    Tls {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The keyspace is not there.
    #[error("there is no keyspace {0:?} in the database: run taskflow migrate, or set cql_keyspace")]
    Keyspace(String),
    /// The schema is older than this build needs.
    #[error("the schema is at step {found}, this build needs {needed}: run taskflow migrate")]
    Old {
        /// The last step that was done.
        found: i32,
        /// The last step of this build.
        needed: i32,
    },
    /// The schema is newer than this build knows.
    #[error(
        "the schema is at step {found}, this build knows {known}: a newer TaskFlow has migrated it. Run that version; a schema does not go back"
    )]
    Future {
        /// The last step that was done.
        found: i32,
        /// The last step of this build.
        known: i32,
    },
    /// It was reached, and answers no more.
    #[error(
        "cannot reach the database: no answer to {what}: {cause}. It may be too busy, or ending; start again when it answers"
    )]
    Silent {
        /// What it was asked.
        what: String,
        /// What the driver says.
        cause: String,
    },
    /// A statement failed.
    #[error(
        "the database refused what the schema needs ({what}): {cause}. The login needs CREATE, ALTER, SELECT and MODIFY on the keyspace"
    )]
    Statement {
        /// Which.
        what: String,
        /// What the database says.
        cause: String,
    },
}

/// Who counts what the store does. All methods may do nothing.
pub trait CqlObserver: Send + Sync + 'static {
    /// A request has ended.
    fn request(&self, _which: CqlRequest, _took: Duration) {}
    /// A read was sent to another replica as well.
    fn speculated(&self) {}
    /// A request failed.
    fn error(&self, _class: CqlError) {}
    /// A request that was certainly not sent is sent again; `false`: it is not, too many were.
    fn retry(&self, _may: bool) {}
    /// An append was not applied: another was there before.
    fn conflict(&self) {}
    /// Nobody knows what became of an append.
    fn unknown(&self) {}
    /// What is stored is not what was written.
    fn damage(&self) {}
}

/// Counts nothing.
impl CqlObserver for () {}

/// Places for what is done at once, and who has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Under way.
    pub running: usize,
    /// Waiting for a place.
    pub waiting: usize,
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Cql(Arc<Inner>);

struct Inner {
    session: Session,
    observer: Arc<dyn CqlObserver>,
    /// For each feed with appends under way, the end of the last one that was asked for.
    turns: Mutex<HashMap<UserId, (u64, oneshot::Receiver<()>)>>,
    /// Feeds of which an append ended without an answer: the next read of their log asks all replicas' promises.
    unsettled: Mutex<HashSet<UserId>>,
    /// Feeds that are known to exist, and the highest append of each that was answered here.
    known: Mutex<HashMap<UserId, Seq>>,
    /// Places of those who read all rows of a feed.
    loads: Places,
    compress: bool,
    cluster: u64,
}

/// Feeds that are read whole at once. Such a read is as much work for the database as a hundred others: when many feeds
/// come to a node together, all of them at once would be answered too late, and asked for again.
const LOADS_MAX: usize = 8;

/// Feeds that are remembered as existing: a look-up each is saved, and they are 24 bytes.
const KNOWN_MAX: usize = 100_000;

impl Cql {
    /// Opens the store of a schema that was migrated.
    pub async fn open(options: &Options, observer: Arc<dyn CqlObserver>) -> Result<Self, OpenError> {
        let session = Box::pin(Session::open(options, observer.clone())).await?;
        migrate::check(&session).await?;
        let cluster = migrate::cluster_id(&session).await?;
        Ok(Self(Arc::new(Inner {
            session,
            observer,
            turns: Mutex::default(),
            unsettled: Mutex::default(),
            known: Mutex::default(),
            loads: Places::new(LOADS_MAX),
            compress: options.compress,
            cluster,
        })))
    }

    /// The random number of this cluster's store.
    pub fn cluster(&self) -> u64 {
        self.0.cluster
    }

    /// Requests to the database.
    pub fn requests(&self) -> Used {
        self.0.session.places.used()
    }

    /// Feeds that are read whole.
    pub fn loads(&self) -> Used {
        self.0.loads.used()
    }

    /// Whether an append would succeed now.
    pub async fn ready(&self) -> Result<(), String> {
        self.read_serial_head(UserId(Uuid::nil()))
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    }

    /// The place of an append behind those of its feed that were asked for before.
    fn turn(&self, feed: UserId) -> Turn {
        let (done, end) = oneshot::channel();
        let mut turns = lock(&self.0.turns);
        let number = turns.get(&feed).map_or(0, |(number, _)| number + 1);
        let before = turns.insert(feed, (number, end)).map(|(_, before)| before);
        Turn {
            cql: self.clone(),
            feed,
            number,
            before,
            _done: done,
        }
    }
}

struct Turn {
    cql: Cql,
    feed: UserId,
    number: u64,
    before: Option<oneshot::Receiver<()>>,
    _done: oneshot::Sender<()>,
}

impl Turn {
    async fn comes(&mut self) {
        if let Some(before) = self.before.take() {
            // It ends when the other one is dropped: nothing is ever sent.
            let _ = before.await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = lock(&self.cql.0.turns);
        if turns.get(&self.feed).is_some_and(|(number, _)| *number == self.number) {
            turns.remove(&self.feed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store for Cql {
    fn append(&self, append: Append) -> BoxFuture<Result<(), AppendError>> {
        let (cql, mut turn) = (self.clone(), self.turn(append.feed));
        Box::pin(async move {
            turn.comes().await;
            cql.append_now(append).await
        })
    }

    fn head(&self, feed: UserId) -> BoxFuture<Result<Option<Head>, ReadError>> {
        let cql = self.clone();
        Box::pin(async move { cql.read_head(feed).await })
    }

    fn peek_head(&self, feed: UserId) -> BoxFuture<Result<Option<Head>, ReadError>> {
        let cql = self.clone();
        Box::pin(async move { cql.peek(feed).await })
    }

    fn read_log(&self, feed: UserId, after: Seq, bytes_max: usize) -> BoxFuture<Result<Option<LogPage>, ReadError>> {
        let cql = self.clone();
        Box::pin(async move { cql.read_page(feed, after, bytes_max).await })
    }

    fn load(&self, feed: UserId, ids_since: UnixMs) -> BoxFuture<Result<Option<Loaded>, ReadError>> {
        let cql = self.clone();
        Box::pin(async move { cql.load_all(feed, ids_since).await })
    }

    fn activity(&self, feed: UserId, from: Quarter, to: Quarter) -> BoxFuture<Result<Vec<StoredRow>, ReadError>> {
        let cql = self.clone();
        Box::pin(async move {
            let (rows, unreadable) = cql.read_activity(feed, from, to).await?;
            match unreadable.into_iter().next() {
                None => Ok(rows),
                Some(Unreadable { what, .. }) => Err(ReadError::Damaged(what)),
            }
        })
    }

    fn write_rows(&self, feed: UserId, rows: Vec<StoredRow>, upto: Seq) -> BoxFuture<Result<(), AppendError>> {
        let cql = self.clone();
        Box::pin(async move { cql.write_all(feed, rows, upto).await })
    }

    fn trim(&self, feed: UserId, retention: Retention) -> BoxFuture<Result<Option<Head>, AppendError>> {
        let cql = self.clone();
        Box::pin(async move { cql.cut(feed, retention).await })
    }

    fn remove(&self, feed: UserId, since: UnixMs) -> BoxFuture<Result<(), AppendError>> {
        let cql = self.clone();
        Box::pin(async move { cql.remove_all(feed, since).await })
    }
}

impl Accounts for Cql {
    fn create_account(&self, account: Account) -> BoxFuture<Result<(), AccountError>> {
        let cql = self.clone();
        Box::pin(async move { cql.insert_account(account).await })
    }

    fn account_by_email(&self, email: String) -> BoxFuture<Result<Option<Account>, AccountError>> {
        let cql = self.clone();
        Box::pin(async move { cql.find_account(email).await })
    }

    fn replace_password(&self, email: String, expected: String, hash: String) -> BoxFuture<Result<bool, AccountError>> {
        let cql = self.clone();
        Box::pin(async move { cql.swap_password(email, expected, hash).await })
    }

    fn change_email(&self, email: String, expected: String, new: String) -> BoxFuture<Result<bool, AccountError>> {
        let cql = self.clone();
        Box::pin(async move { cql.move_account(email, expected, new).await })
    }

    fn set_deletion(
        &self,
        email: String,
        user: UserId,
        expected: Option<UnixMs>,
        deletes_at: Option<UnixMs>,
    ) -> BoxFuture<Result<bool, AccountError>> {
        let cql = self.clone();
        Box::pin(async move { cql.mark_account(email, user, expected, deletes_at).await })
    }

    fn deletions_due(&self, now: UnixMs) -> BoxFuture<Result<Vec<Deletion>, AccountError>> {
        let cql = self.clone();
        Box::pin(async move { cql.find_deletions(now).await })
    }

    fn remove_account(&self, deletion: Deletion) -> BoxFuture<Result<(), AccountError>> {
        let cql = self.clone();
        Box::pin(async move { cql.delete_account(deletion).await })
    }

    fn note(&self, user: UserId, note: Note) -> BoxFuture<Result<(), AccountError>> {
        let cql = self.clone();
        Box::pin(async move { cql.write_note(user, note).await })
    }

    fn history(
        &self,
        user: UserId,
        before: Option<(UnixMs, Uuid)>,
        count: usize,
    ) -> BoxFuture<Result<Vec<Note>, AccountError>> {
        let cql = self.clone();
        Box::pin(async move { cql.read_history(user, before, count).await })
    }

    fn create_sign_in(&self, sign_in: SignIn, device: Device) -> BoxFuture<Result<(), AccountError>> {
        let cql = self.clone();
        Box::pin(async move { cql.open_sign_in(sign_in, device).await })
    }

    fn sign_in(&self, id: Uuid) -> BoxFuture<Result<Option<SignIn>, AccountError>> {
        let cql = self.clone();
        Box::pin(async move { cql.find_sign_in(id).await })
    }

    fn sign_ins_of(&self, user: UserId) -> BoxFuture<Result<Vec<(SignIn, Device)>, AccountError>> {
        let cql = self.clone();
        Box::pin(async move { cql.find_sign_ins_of(user).await })
    }

    fn replace_sign_in(
        &self,
        expected: [u8; 32],
        sign_in: SignIn,
        address: String,
    ) -> BoxFuture<Result<bool, AccountError>> {
        let cql = self.clone();
        Box::pin(async move { cql.renew_sign_in(expected, sign_in, address).await })
    }

    fn end_sign_in(&self, user: UserId, id: Uuid) -> BoxFuture<Result<(), AccountError>> {
        let cql = self.clone();
        Box::pin(async move { cql.delete_sign_in(user, id).await })
    }
}
