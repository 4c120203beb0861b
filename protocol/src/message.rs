//! The messages. Each is a map with one key, the message's name.

use serde::{Deserialize, Serialize};

use crate::codes::Code;
use crate::ids::{LabelId, ListId, OperationId, TaskId, UserId};
use crate::model::{Label, LabelFields, List, ListFields, Settings, SettingsFields, Statistics, Task, TaskFields};
use crate::values::{Due, Priority, Seq, Status, UnixMs};

/// What a client sends. Unknown messages and unknown fields are errors: a typo must not lose an intent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientMessage {
    /// The first message of every connection.
    Hello(Hello),
    /// Asks to change a feed.
    Operations(Operations),
    /// Begins to follow a feed.
    Follow(Follow),
    /// Ends following a feed.
    Unfollow(Unfollow),
    /// Brings a new access token before the old one expires.
    Refresh(Refresh),
    /// The answer to the server's heartbeat.
    Heartbeat(Empty),
}

/// A map with no keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Empty {}

/// A range of protocol versions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProtocolRange {
    /// Oldest.
    pub min: u16,
    /// Newest.
    pub max: u16,
}

/// Opens the conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The versions that the client speaks.
    pub protocol: ProtocolRange,
    /// The access token, unless it came with the handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Name and version of the client program, for the server's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The feeds to follow from the start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub follow: Vec<Follow>,
}

/// Asks to follow a feed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Follow {
    /// The feed; absent: the user's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feed: Option<UserId>,
    /// Only these lists of it; absent: all that the user may see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lists: Option<Vec<ListId>>,
    /// Where the client stopped reading; absent: it has nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Whether its statistics are sent, too, now and when they have changed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub statistics: bool,
}

/// Asks to stop following a feed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Unfollow {
    /// The feed; absent: the user's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feed: Option<UserId>,
}

/// A new access token of the same user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refresh {
    /// The token.
    pub token: String,
}

/// Operations on one feed, judged in this order, each on its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operations {
    /// The feed; absent: the user's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feed: Option<UserId>,
    /// One to [`crate::limits::OPERATIONS_A_MESSAGE_MAX`].
    pub operations: Vec<Operation>,
    /// What the client traces them under (W3C Trace Context), if the server said that it takes this. What is no `traceparent` is
    /// as if it were not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// A request to change a feed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Made by the client (UUIDv7); the same operation is sent again under the same id.
    pub id: OperationId,
    /// The version that the row must still have; else the answer is `conflict` with the present row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Seq>,
    /// What to do.
    pub command: Command,
}

/// What an operation does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Makes a task.
    TaskCreate(TaskCreate),
    /// Changes fields of a task.
    TaskPatch(TaskPatch),
    /// Puts a task elsewhere: another list, parent or place.
    TaskMove(TaskMove),
    /// Status becomes `done`.
    TaskComplete(TaskRef),
    /// Status becomes `todo`.
    TaskReopen(TaskRef),
    /// Puts a task, with its subtasks, in the bin.
    TaskDelete(TaskRef),
    /// Takes a task out of the bin.
    TaskRestore(TaskRef),
    /// Makes a list.
    ListCreate(ListCreate),
    /// Changes fields of a list.
    ListPatch(ListPatch),
    /// Puts a list elsewhere in the order.
    ListMove(ListMove),
    /// Puts a list, with its tasks, in the bin.
    ListDelete(ListRef),
    /// Takes a list out of the bin.
    ListRestore(ListRef),
    /// Makes a label.
    LabelCreate(LabelCreate),
    /// Changes fields of a label.
    LabelPatch(LabelPatch),
    /// Deletes a label; tasks that carry it show it no more.
    LabelDelete(LabelRef),
    /// Takes a label out of the bin.
    LabelRestore(LabelRef),
    /// Changes settings.
    SettingsPatch(SettingsFields),
    /// Inverts an earlier entry, if nobody changed the same fields since.
    Undo(Undo),
    /// Several commands, all or none, as one entry.
    Batch(Batch),
}

/// Where to put a row among its neighbours.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place<Id> {
    /// Before all others.
    First,
    /// After all others.
    #[default]
    Last,
    /// Right before this row.
    Before(Id),
    /// Right after this row.
    After(Id),
}

/// See [`Command::TaskCreate`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskCreate {
    /// Made by the client (UUIDv7), final.
    pub task: TaskId,
    /// Absent: the inbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<ListId>,
    /// One line.
    pub title: String,
    /// Markdown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub notes: String,
    /// Absent: `todo`.
    #[serde(default)]
    pub status: Status,
    /// Absent: `none`.
    #[serde(default)]
    pub priority: Priority,
    /// When to do it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Due>,
    /// `YYYY-MM-DD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// In minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_minutes: Option<u32>,
    /// Labels that exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<LabelId>,
    /// A task in the same list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// Absent: last.
    #[serde(default)]
    pub place: Place<TaskId>,
}

/// See [`Command::TaskPatch`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskPatch {
    /// The task.
    pub task: TaskId,
    /// The fields to change.
    pub set: TaskFields,
}

/// See [`Command::TaskMove`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskMove {
    /// The task; its subtasks go with it.
    pub task: TaskId,
    /// Absent: the list stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<ListId>,
    /// The parent afterwards; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
    /// Absent: last.
    #[serde(default)]
    pub place: Place<TaskId>,
}

/// Names a task.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskRef {
    /// The task.
    pub task: TaskId,
}

/// See [`Command::ListCreate`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListCreate {
    /// Made by the client (UUIDv7), final.
    pub list: ListId,
    /// What it is called.
    pub name: String,
    /// `#rrggbb`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color: Option<String>,
    /// Absent: last.
    #[serde(default)]
    pub place: Place<ListId>,
}

/// See [`Command::ListPatch`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListPatch {
    /// The list.
    pub list: ListId,
    /// The fields to change.
    pub set: ListFields,
}

/// See [`Command::ListMove`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListMove {
    /// The list.
    pub list: ListId,
    /// Where.
    pub place: Place<ListId>,
}

/// Names a list.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListRef {
    /// The list.
    pub list: ListId,
}

/// See [`Command::LabelCreate`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelCreate {
    /// Made by the client (UUIDv7), final.
    pub label: LabelId,
    /// What it is called.
    pub name: String,
    /// `#rrggbb`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color: Option<String>,
}

/// See [`Command::LabelPatch`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelPatch {
    /// The label.
    pub label: LabelId,
    /// The fields to change.
    pub set: LabelFields,
}

/// Names a label.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelRef {
    /// The label.
    pub label: LabelId,
}

/// See [`Command::Undo`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Undo {
    /// The entry to invert.
    pub seq: Seq,
}

/// See [`Command::Batch`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// One to [`crate::limits::COMMANDS_A_BATCH_MAX`]; no batch or undo within.
    pub commands: Vec<Command>,
}

/// What the server sends. Clients ignore messages and fields that they do not know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerMessage {
    /// The answer to `hello`.
    Welcome(Welcome),
    /// The answer to `follow`: what comes next for that feed.
    Following(Following),
    /// The feed is followed no more.
    Unfollowed(Unfollowed),
    /// A piece of a feed's state at one `seq`.
    Snapshot(Snapshot),
    /// Committed entries, in order.
    Entries(Entries),
    /// The answers to operations.
    Results(Results),
    /// What a feed has, counted, for who asked for that.
    Statistics(FeedStatistics),
    /// The token of the connection was replaced.
    Refreshed(Refreshed),
    /// Answer it with a heartbeat.
    Heartbeat(Heartbeat),
    /// The server sends the client away; the connection closes next.
    Reconnect(Reconnect),
    /// What went wrong with a message that has no other answer.
    Error(ErrorBody),
}

/// See [`ServerMessage::Heartbeat`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Since then the server cannot find out whether the feeds that it serves have changed: what a screen shows may be old.
    /// Absent: it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_since: Option<UnixMs>,
}

/// See [`ServerMessage::Welcome`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// Name and version of the server.
    pub build: String,
    /// The versions that the server speaks.
    pub protocol: ProtocolRange,
    /// The version that this connection uses.
    pub version: u16,
    /// Whose connection this is; also names the user's own feed and inbox.
    pub user: UserId,
    /// The server's clock.
    pub time: UnixMs,
    /// A heartbeat comes at least this often, in milliseconds; after two without one the connection is dead.
    pub heartbeat_ms: u32,
    /// When the access token expires.
    pub token_expires_at: UnixMs,
    /// The largest message that the server takes, in bytes.
    pub message_bytes_max: u32,
    /// The most operations in one message.
    pub operations_max: u32,
    /// Whether `operations` may have a `traceparent`: the server traces, and knows the field. Absent: it may not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub traces: bool,
}

/// What comes next for a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FollowMode {
    /// Nothing was missed: live from here.
    UpToDate,
    /// The missed entries follow, then live.
    Entries,
    /// Forget what you have of this feed: a snapshot follows, then live.
    Reset,
}

/// Why a follower is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetReason {
    /// It brought no cursor.
    NoCursor,
    /// The cursor is of another history of this feed (a restored backup), or of another feed.
    EpochChanged,
    /// The cursor is ahead of the feed.
    CursorAhead,
    /// What was missed is no longer kept.
    CursorTooOld,
    /// The cursor was made for other lists.
    ListsChanged,
}

/// See [`ServerMessage::Following`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Following {
    /// The feed.
    pub feed: UserId,
    /// What comes next.
    pub mode: FollowMode,
    /// Why, when the mode is `reset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ResetReason>,
    /// The newest entry of the feed when this was sent.
    pub head: Seq,
}

/// See [`ServerMessage::Unfollowed`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unfollowed {
    /// The feed.
    pub feed: UserId,
}

/// See [`ServerMessage::Snapshot`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The feed.
    pub feed: UserId,
    /// The state is that after this entry; the same in every piece.
    pub seq: Seq,
    /// From 0.
    pub piece: u32,
    /// In the first piece.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    /// Lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<List>,
    /// Labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<Label>,
    /// Tasks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<Task>,
    /// In the last piece only: until then the client has nothing that it may keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<SnapshotDone>,
}

/// Ends a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotDone {
    /// The cursor to keep.
    pub cursor: String,
    /// How many rows all pieces carried, settings included, so that the client can check.
    pub rows: u64,
    /// Rows that exist, but are damaged in the store: they are in no piece, and no operation may name them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
}

/// A row that a snapshot lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOut {
    /// A list. Its tasks are there.
    List(ListId),
    /// A task. Its subtasks are there.
    Task(TaskId),
    /// A label. Its tasks name it.
    Label(LabelId),
}

/// See [`ServerMessage::Entries`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entries {
    /// The feed.
    pub feed: UserId,
    /// Dense: each `seq` is the one before plus one.
    pub entries: Vec<Entry>,
    /// The cursor after the last of them.
    pub cursor: String,
}

/// One committed step of a feed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Dense, from 1.
    pub seq: Seq,
    /// When it was committed. Never goes back within a feed.
    pub time: UnixMs,
    /// Who asked for it.
    pub author: UserId,
    /// The operation that made it: retire what is shown as pending under this id. The nil UUID: it keeps the refusal of an
    /// operation that may have been sent twice within the cluster, and changes nothing.
    pub operation: OperationId,
    /// What it did. May be empty: the operation asked for what was so already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

/// What an entry did to one row. Afterwards the row's `version` is the entry's `seq`, its `updated_at` and `updated_by`
/// the entry's `time` and `author`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A task entered its list: it was made or moved here. The whole row.
    TaskPut(TaskPut),
    /// Fields of a task changed.
    TaskSet(TaskSet),
    /// A list was made. The whole row.
    ListPut(List),
    /// Fields of a list changed. Putting a list in the bin, or taking it out, is this one change: its tasks stay as they are.
    ListSet(ListSet),
    /// A label was made. The whole row.
    LabelPut(Label),
    /// Fields of a label changed.
    LabelSet(LabelSet),
    /// Settings changed.
    SettingsSet(SettingsFields),
}

/// See [`Change::TaskPut`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskPut {
    /// The list it left, when it was moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ListId>,
    /// The row.
    pub task: Task,
}

/// See [`Change::TaskSet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSet {
    /// The task.
    pub task: TaskId,
    /// The list it is in.
    pub list: ListId,
    /// The new values.
    pub set: TaskFields,
}

/// See [`Change::ListSet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListSet {
    /// The list.
    pub list: ListId,
    /// The new values.
    pub set: ListFields,
}

/// See [`Change::LabelSet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelSet {
    /// The label.
    pub label: LabelId,
    /// The new values.
    pub set: LabelFields,
}

/// See [`ServerMessage::Results`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// One for each operation, in the order they were settled.
    pub results: Vec<OperationResult>,
}

/// The answer to one operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperationResult {
    /// The operation.
    pub id: OperationId,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(
    clippy::large_enum_variant,
    reason = "a result lives for a moment; a box for the row would cost every reader more than it saves"
)]
pub enum Outcome {
    /// Durable, as this entry.
    Accepted(Accepted),
    /// Not done. The code's action says whether the same may be sent again (`retry`) or must be changed first.
    Refused(ErrorBody),
    /// Not done: the row is no longer at the base version.
    Conflict(Conflict),
    /// It may or may not have been done: send the same again.
    Unknown(ErrorBody),
}

/// See [`Outcome::Accepted`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// The entry.
    pub seq: Seq,
}

/// See [`Outcome::Conflict`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conflict {
    /// The present row.
    pub row: Row,
}

/// Any row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Row {
    /// A task.
    Task(Task),
    /// A list.
    List(List),
    /// A label.
    Label(Label),
    /// The settings.
    Settings(Settings),
}

/// See [`ServerMessage::Statistics`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeedStatistics {
    /// The feed.
    pub feed: UserId,
    /// What `GET /api/v1/statistics` answers.
    pub counts: Statistics,
}

/// See [`ServerMessage::Refreshed`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refreshed {
    /// When the new token expires.
    pub token_expires_at: UnixMs,
}

/// See [`ServerMessage::Reconnect`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reconnect {
    /// Wait at least this long, in milliseconds.
    pub after_ms: u32,
    /// Then a random time up to this, in milliseconds, so that not all come at once.
    pub window_ms: u32,
    /// Why, as a number of the code table.
    pub code: Code,
}

/// An error, the same on every transport.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Number of the code table.
    pub code: Code,
    /// Name of the code table.
    pub name: String,
    /// A sentence that says what to do.
    pub message: String,
    /// The field that is wrong, as a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The feed that the failed message was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feed: Option<UserId>,
    /// Wait at least this long before you try again, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u32>,
}

impl ErrorBody {
    /// The code with the table's own sentence.
    pub fn new(code: Code) -> Self {
        Self {
            code,
            name: code.name().to_owned(),
            message: code.sentence().to_owned(),
            field: None,
            feed: None,
            retry_after_ms: code.retry_after_ms(),
        }
    }

    /// Names the field that is wrong.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Names the feed that the failed message was about.
    #[must_use]
    pub fn feed(mut self, feed: UserId) -> Self {
        self.feed = Some(feed);
        self
    }

    /// Puts what is particular to this case before the table's sentence.
    #[must_use]
    pub fn because(mut self, cause: impl std::fmt::Display) -> Self {
        self.message = format!("{cause}. {}", self.code.sentence());
        self
    }
}
