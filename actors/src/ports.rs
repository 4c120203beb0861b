//! What the actors need from outside. Each port has a written contract; `contract` suites run it against every adapter.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use taskflow_protocol::UserId;
use taskflow_protocol::message::OperationResult;
use taskflow_protocol::values::{Seq, UnixMs};

use crate::domain::{Entry, Quarter};
use crate::trace::{Span, SpanKind, TraceContext};

/// A boxed future, so that ports can be trait objects.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// The random id of one unbroken history of a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

/// Where a feed's log stands in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The history.
    pub epoch: Epoch,
    /// The last entry; 0 does not occur (a feed is born with its first commit).
    pub seq: Seq,
    /// The first entry that the log still keeps. Reading from a cursor below `first - 1` is impossible.
    pub first: Seq,
    /// Every change of the entries up to this one is in the rows.
    pub rows_upto: Seq,
}

/// One commit: one row of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Append {
    /// Whose log.
    pub feed: UserId,
    /// The history that it continues; at birth, the new one.
    pub epoch: Epoch,
    /// The head that the log must have; 0 at birth.
    pub base: Seq,
    /// The last `seq` of the commit, and the head afterwards.
    pub last: Seq,
    /// Tells this append from every other, so that an unknown outcome can be settled by reading.
    pub append_id: u64,
    /// When, for retention and for the ids of the last 24 hours. Never below that of the commit before.
    pub time: UnixMs,
    /// The entries, opaque to the store.
    pub body: Bytes,
}

/// Why an append did not succeed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AppendError {
    /// The head or the epoch is another; nothing was written. (`None`: there is no such feed.)
    #[error("the head of the log is another")]
    Conflict(Option<Head>),
    /// There is no room; nothing was written. Reading works.
    #[error("there is no room left in the store")]
    Full,
    /// Not known: it may have been written, or may yet be.
    #[error("the store did not answer: {0}")]
    Unavailable(String),
    /// The feed was removed ([`Store::remove`]) and is not born again; nothing was written.
    #[error("the feed was removed")]
    Gone,
    /// The stored feed is damaged; nothing was written.
    #[error("the stored feed is damaged: {0}")]
    Damaged(String),
}

/// Why a read did not succeed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReadError {
    /// The store does not answer.
    #[error("the store did not answer: {0}")]
    Unavailable(String),
    /// What is stored is not what was written; the text names the file or table and the key.
    #[error("the stored data is damaged: {0}")]
    Damaged(String),
}

/// A row of the log, as read.
#[derive(Clone, Debug, PartialEq)]
pub struct LogRow {
    /// The last `seq` of the commit.
    pub last: Seq,
    /// See [`Append::append_id`].
    pub append_id: u64,
    /// See [`Append::time`].
    pub time: UnixMs,
    /// See [`Append::body`].
    pub body: Bytes,
}

/// What one read of the log found.
#[derive(Clone, Debug, PartialEq)]
pub struct LogPage {
    /// The head at the moment of the read.
    pub head: Head,
    /// Commits in order, whole: the first may begin at or below the asked `after`.
    pub rows: Vec<LogRow>,
}

/// The kind of a row: part of its key, never renumbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum RowKind {
    /// The settings: one row.
    Settings = 1,
    /// A list.
    List = 2,
    /// A task.
    Task = 3,
    /// A label.
    Label = 4,
    /// What was done in one quarter of an hour ([`crate::domain::Activity`]). There is no end of these, so they are kept
    /// apart: [`Store::activity`].
    Activity = 5,
}

/// The key of a row within its feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowKey {
    /// What it is.
    pub kind: RowKind,
    /// Which.
    pub id: [u8; 16],
}

/// A row, as stored: absolute values, and the `seq` that last changed them.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRow {
    /// Which row.
    pub key: RowKey,
    /// The entry that last changed it. A write with a lower `seq` than what is stored changes nothing.
    pub seq: Seq,
    /// The values, opaque to the store.
    pub body: Bytes,
}

/// A row that is there, but is not what was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Unreadable {
    /// Which row.
    pub key: RowKey,
    /// What is wrong, with the name of the file or table and the key.
    pub what: String,
}

/// All that is needed to bring a feed into memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The head at the moment of the read.
    pub head: Head,
    /// All rows that can be read; of the activity, only the quarters of the commits in `log`.
    pub rows: Vec<StoredRow>,
    /// All others. Nothing writes over them.
    pub unreadable: Vec<Unreadable>,
    /// The commits after `rows_upto`, and all commits whose time is at or after the asked one, in order, without a hole
    /// up to the head.
    pub log: Vec<LogRow>,
}

/// What to cut from a log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retention {
    /// Commits at or after this time stay, whatever else says cut.
    pub keep_since: UnixMs,
    /// Commits before this time go.
    pub cut_before: UnixMs,
    /// No more commits than this stay.
    pub commits_max: u64,
    /// No more bytes of bodies than this stay.
    pub bytes_max: u64,
}

/// The durable log and rows of every feed.
///
/// # Contract
///
/// - *Append* is atomic and conditional: it succeeds only if the head is `base` and the epoch the same (at birth: if the
///   feed does not exist). When its future resolves to `Ok`, the commit is durable. Appends of one feed that are in
///   flight together are applied in the order of the calls.
/// - After `Unavailable` the commit may be there, may not be, or may still arrive; every other error means that it is not
///   there and will not come. After `Unavailable` the store answers the next read of that feed only when it knows again.
/// - *Reads* see every append that was answered `Ok` before the read began, and show no commit that a crash could lose.
/// - *Rows* are idempotent: for each key the highest `seq` wins. `rows_upto` never goes down and is stored together with
///   the rows; a crash may lose the latest writes of rows, but then `rows_upto` with them. The activity may be further
///   than `rows_upto`, never less far.
/// - *Damage* is found and reported with the name of the file or table; nothing that was acknowledged is silently absent.
///   A row that is damaged alone is named by the load, which succeeds; a row that is missing makes it fail.
/// - *Trim* never cuts above `rows_upto`, never a commit at or after `keep_since`, and moves `first`.
/// - *Remove* leaves nothing of a feed that could be read, and no later birth brings it back: that is `Gone`, every other
///   append a `Conflict(None)`. It may be called again, after a failure or for what was never there.
pub trait Store: Send + Sync + 'static {
    /// Appends one commit.
    fn append(&self, append: Append) -> BoxFuture<Result<(), AppendError>>;

    /// Where the log stands; `None`: there is no such feed. Settles what is under way: an append that this head does not
    /// hold will not be found before it later.
    fn head(&self, feed: UserId) -> BoxFuture<Result<Option<Head>, ReadError>>;

    /// The same, with every append in it that was answered before, but perhaps without one under way. Cheaper where
    /// nodes share a store: for those who only want to know whether there is something new.
    fn peek_head(&self, feed: UserId) -> BoxFuture<Result<Option<Head>, ReadError>> {
        self.head(feed)
    }

    /// The commits after `after`, up to about `bytes_max` of bodies (at least one commit if there is one).
    fn read_log(&self, feed: UserId, after: Seq, bytes_max: usize) -> BoxFuture<Result<Option<LogPage>, ReadError>>;

    /// Everything of a feed, for memory or for a snapshot; commits since `ids_since` come along for their operation ids.
    fn load(&self, feed: UserId, ids_since: UnixMs) -> BoxFuture<Result<Option<Loaded>, ReadError>>;

    /// What was done from the one quarter to the other, both included, in order.
    fn activity(&self, feed: UserId, from: Quarter, to: Quarter) -> BoxFuture<Result<Vec<StoredRow>, ReadError>>;

    /// Writes rows, and moves `rows_upto` to `upto`.
    fn write_rows(&self, feed: UserId, rows: Vec<StoredRow>, upto: Seq) -> BoxFuture<Result<(), AppendError>>;

    /// Cuts the log; the new head says what is left.
    fn trim(&self, feed: UserId, retention: Retention) -> BoxFuture<Result<Option<Head>, AppendError>>;

    /// Removes a feed for good: log, what was cut from it, rows and activity. Nothing of it is older than `since`.
    fn remove(&self, feed: UserId, since: UnixMs) -> BoxFuture<Result<(), AppendError>>;
}

/// A connection of this node, as a plain address: which worker, which slot there, and a number that tells the present
/// connection in that slot from those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// The worker that owns the socket.
    pub worker: u16,
    /// The slot.
    pub slot: u32,
    /// Which use of the slot.
    pub generation: u32,
}

/// Committed entries on their way to everyone who follows the feed.
#[derive(Debug)]
pub struct Publication {
    /// The feed.
    pub feed: UserId,
    /// Its history.
    pub epoch: Epoch,
    /// Durable, dense, in order; never empty.
    pub entries: Arc<[Entry]>,
    /// Answers for connections, to go in the same write as the push.
    pub answers: Vec<(ConnectionId, Vec<OperationResult>)>,
}

/// Carries what a feed says to the connections.
///
/// # Contract
///
/// - Never waits. What cannot be carried is dropped, and the followers are told that they missed something, so that they
///   read the log.
/// - Publications of one feed arrive in the order of the calls.
pub trait Push: Send + Sync + 'static {
    /// To everyone who follows the feed; its answers to their connections.
    fn publish(&self, publication: Publication);

    /// How far a feed is, to everyone who follows it: what was published elsewhere may have been lost on the way.
    fn announce(&self, feed: UserId, head: Head);

    /// Answers without an entry (refusals).
    fn answer(&self, connection: ConnectionId, results: Vec<OperationResult>);

    /// To everyone: for so long nobody here has been able to find out whether feeds have changed; `None`: it is known again.
    fn stale(&self, since: Option<Duration>);
}

/// One life of one node of a cluster: random, so that a node that was started again is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// A node's latest beat, as the broker has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Whose.
    pub node: NodeId,
    /// How long ago it was, in milliseconds, by the broker's clock alone: the clocks of nodes are not compared.
    pub age_ms: u64,
    /// What the node says of itself, opaque to the bus.
    pub body: Bytes,
}

/// What comes in over the bus.
#[derive(Clone, Debug, PartialEq)]
pub enum BusEvent {
    /// Somebody published for a feed to which this node subscribes, this node itself included.
    Published(UserId, Bytes),
    /// Somebody sent this to this node.
    Received(Bytes),
    /// Subscriptions are in force from here on: what is published later comes in, or [`BusEvent::Down`] does. Sent after
    /// each call of [`Bus::subscribe`], and again, for all feeds, after a connection was lost and made anew.
    Subscribed(Vec<UserId>),
    /// A beat of this node was taken by the broker; these are the beats of all nodes, its own included.
    Beats(Vec<Beat>),
    /// Messages may have been lost: the connection is gone, or a message to oneself did not come back in time. Comes once
    /// until [`BusEvent::Up`]. The text says what happened.
    Down(String),
    /// Messages come through again. Comes after the feeds were subscribed anew.
    Up,
}

/// Takes what comes in. Called by the bus in the order of arrival, feed by feed.
///
/// # Contract
///
/// Never waits, and holds nothing without a bound: what it cannot take it drops.
pub trait BusInbox: Send + Sync + 'static {
    /// Takes it.
    fn take(&self, event: BusEvent);
}

/// Carries messages between the nodes of a cluster, at most once.
///
/// # Contract
///
/// - No call waits. What cannot be queued is dropped and counted; nothing depends on its arrival.
/// - Messages of one node for one feed arrive in the order of the calls, those that arrive.
/// - A node that hears neither [`BusEvent::Down`] nor of a lost connection has heard all that was published for the feeds
///   of [`BusEvent::Subscribed`], up to five seconds ago.
pub trait Bus: Send + Sync + 'static {
    /// To every node that subscribes to the feed.
    fn publish(&self, feed: UserId, message: Bytes);
    /// To one node.
    fn send(&self, node: NodeId, message: Bytes);
    /// This node wants what is published for the feed.
    fn subscribe(&self, feed: UserId);
    /// This node wants no more of it.
    fn unsubscribe(&self, feed: UserId);
    /// What this node says of itself from now on, in its beats. Sent at once, and then with each beat.
    fn beat(&self, body: Bytes);
}

/// Hears what other nodes do about sign-ins.
///
/// # Contract
///
/// Never waits.
pub trait Notices: Send + Sync + 'static {
    /// A sign-in was ended, here or elsewhere; perhaps it is said more than once.
    fn ended(&self, user: UserId, sign_in: uuid::Uuid);
    /// Some that were ended before may not have been told of here: only the store knows.
    fn missed(&self);
    /// Something that is limited was done on another node.
    fn tried(&self, keys: &[u128]);
    /// Much was done on another node, in the second before, of what has a rate; or much is held there of what has a limit.
    fn spent(&self, node: NodeId, spent: &[Spent]);
}

/// What was done, of which rate, how often; or what is held, of which limit, how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Spent(
    /// The rate or limit: a number that whoever limits gave it. Others are passed over.
    pub u8,
    /// Whose.
    pub u128,
    /// How often, or how many.
    pub u32,
);

/// Takes the steps of requests that are traced.
///
/// # Contract
///
/// Never waits, and holds nothing without a bound: what it cannot take it drops.
pub trait Tracer: Send + Sync + 'static {
    /// A step begins now, under another; `None`: nothing is traced here.
    fn begin(&self, name: &'static str, kind: SpanKind, under: TraceContext) -> Option<Box<Span>>;
    /// It has ended now.
    fn end(&self, span: Box<Span>);
}

/// Traces nothing.
impl Tracer for () {
    fn begin(&self, _: &'static str, _: SpanKind, _: TraceContext) -> Option<Box<Span>> {
        None
    }
    fn end(&self, _: Box<Span>) {}
}

/// The clock, injected so that a seed repeats a failure.
pub trait Clock: Send + Sync + 'static {
    /// Unix time in milliseconds.
    fn now_ms(&self) -> UnixMs;
}

/// A user's account.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    /// The user, and the user's feed.
    pub user: UserId,
    /// In lower case and trimmed: one address, one account.
    pub email: String,
    /// Argon2id, in PHC string format.
    pub password_hash: String,
    /// When it was made.
    pub created_at: UnixMs,
    /// From then on it may be deleted; [`DELETING`]: it is being deleted. `None`: it stays.
    pub deletes_at: Option<UnixMs>,
}

/// See [`Account::deletes_at`]: there is no way back.
pub const DELETING: UnixMs = 0;

/// An account whose time has come.
#[derive(Clone, Debug, PartialEq)]
pub struct Deletion {
    /// The time for which it was marked.
    pub at: UnixMs,
    /// The account.
    pub account: Account,
}

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Access {
    /// Read tasks and all that belongs to them.
    Read = 1,
    /// Change them, too.
    Write = 2,
    /// Everything: the account and its sign-ins, too.
    Owner = 3,
}

impl Access {
    /// The access of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Read, Self::Write, Self::Owner]
            .into_iter()
            .find(|access| *access as u8 == number)
    }
}

/// What a password opened (the refresh token's other half), or a personal access token.
#[derive(Clone, Debug, PartialEq)]
pub struct SignIn {
    /// Also in every access token that was made under it.
    pub id: uuid::Uuid,
    /// Whose.
    pub user: UserId,
    /// What it lets do. Less than all: it is a personal access token, which is never replaced.
    pub access: Access,
    /// SHA-256 of the refresh token that is valid now, or the hash of the personal access token.
    pub secret_hash: [u8; 32],
    /// SHA-256 of the one before it (zeros at first): its late reuse by a client that lost an answer is told from theft.
    pub previous_hash: [u8; 32],
    /// When the present refresh token was made.
    pub rotated_at: UnixMs,
    /// After this it is no more.
    pub expires_at: UnixMs,
}

/// Where a sign-in is used, as its owner sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// What it calls itself.
    pub name: String,
    /// The network address that it last came from.
    pub address: String,
    /// When it was signed in.
    pub created_at: UnixMs,
}

/// What happened to an account, for its owner to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// When.
    pub at: UnixMs,
    /// Tells it from others of the same moment.
    pub id: uuid::Uuid,
    /// What, as a word.
    pub event: String,
    /// The sign-in under which, or to which, it happened; nil: none.
    pub sign_in: uuid::Uuid,
    /// The network address that it came from.
    pub address: String,
    /// What the device calls itself.
    pub device: String,
}

/// Notes are kept for so long: 90 days, in milliseconds.
pub const HISTORY_KEPT_MS: i64 = 90 * 86_400_000;

/// Why an account operation did not succeed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AccountError {
    /// There is an account with this address.
    #[error("the e-mail address is taken")]
    EmailTaken,
    /// There is no room; nothing was written.
    #[error("there is no room left in the store")]
    Full,
    /// Not known.
    #[error("the store did not answer: {0}")]
    Unavailable(String),
    /// What is stored is not what was written.
    #[error("the stored data is damaged: {0}")]
    Damaged(String),
}

/// Accounts and sign-ins.
///
/// # Contract
///
/// What was answered `Ok` is durable. `create_account` is atomic: of two calls with one address one wins.
/// `replace_sign_in` is conditional on the present `secret_hash`, `replace_password` and `change_email` on the present hash
/// of the password, and `set_deletion` on the present time: of two calls with one token, one old password or one time, one
/// wins. `sign_ins_of` finds every sign-in whose creation was answered before, and none whose end was. Under two addresses
/// an account is never found, at no moment under none, and one that is to be deleted keeps its address.
pub trait Accounts: Send + Sync + 'static {
    /// Makes an account, unless the address is taken.
    fn create_account(&self, account: Account) -> BoxFuture<Result<(), AccountError>>;
    /// Finds an account by its normalised address.
    fn account_by_email(&self, email: String) -> BoxFuture<Result<Option<Account>, AccountError>>;
    /// Replaces the password of an account whose hash is still `expected`; `false` if it is another, or there is no account.
    fn replace_password(&self, email: String, expected: String, hash: String) -> BoxFuture<Result<bool, AccountError>>;
    /// Moves an account whose hash is still `expected` to another address; `false` if the hash is another, the account is
    /// to be deleted, or there is none.
    fn change_email(&self, email: String, expected: String, new: String) -> BoxFuture<Result<bool, AccountError>>;
    /// Says when this user's account is to be deleted, if what was said before is still `expected`; `false` if it is
    /// something else, or there is no such account.
    fn set_deletion(
        &self,
        email: String,
        user: UserId,
        expected: Option<UnixMs>,
        deletes_at: Option<UnixMs>,
    ) -> BoxFuture<Result<bool, AccountError>>;
    /// Accounts that are to be deleted by now, those being deleted included; a hundred at most.
    fn deletions_due(&self, now: UnixMs) -> BoxFuture<Result<Vec<Deletion>, AccountError>>;
    /// Removes an account that is being deleted, with its sign-ins and its history. It is no error if it is gone.
    fn remove_account(&self, deletion: Deletion) -> BoxFuture<Result<(), AccountError>>;
    /// Writes into the history of an account.
    fn note(&self, user: UserId, note: Note) -> BoxFuture<Result<(), AccountError>>;
    /// The newest notes of an account before this one, the newest first. Those of the last 90 days are there.
    fn history(
        &self,
        user: UserId,
        before: Option<(UnixMs, uuid::Uuid)>,
        count: usize,
    ) -> BoxFuture<Result<Vec<Note>, AccountError>>;
    /// Stores a new sign-in.
    fn create_sign_in(&self, sign_in: SignIn, device: Device) -> BoxFuture<Result<(), AccountError>>;
    /// Finds a sign-in.
    fn sign_in(&self, id: uuid::Uuid) -> BoxFuture<Result<Option<SignIn>, AccountError>>;
    /// All sign-ins of a user, in no order. Those that are past their end may be among them.
    fn sign_ins_of(&self, user: UserId) -> BoxFuture<Result<Vec<(SignIn, Device)>, AccountError>>;
    /// Replaces a sign-in whose `secret_hash` is still `expected`; `false` if it is another or gone. It was used from this
    /// address.
    fn replace_sign_in(
        &self,
        expected: [u8; 32],
        sign_in: SignIn,
        address: String,
    ) -> BoxFuture<Result<bool, AccountError>>;
    /// Ends a sign-in of this user; it is no error if there is none.
    fn end_sign_in(&self, user: UserId, id: uuid::Uuid) -> BoxFuture<Result<(), AccountError>>;
}
