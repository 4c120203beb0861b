//! A copy of one feed, kept in step by what the server says.
//!
//! Architecture invariant: no I/O, no clock, no randomness. A message goes in; the rows change and events come out. What
//! is on the way to the server is never mixed into the rows: they hold only what is durable there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use taskflow_protocol::codes::{Action, Code};
use taskflow_protocol::limits::OPERATION_IDS_KEPT_MS;
use taskflow_protocol::message::{
    Change, Command, Conflict, Entries, Entry, ErrorBody, FollowMode, Following, LeftOut, Operation, OperationResult,
    Outcome, ResetReason, Row, ServerMessage, Snapshot,
};
use taskflow_protocol::model::{Label, LabelFields, List, ListFields, Settings, SettingsFields, Task, TaskFields};
use taskflow_protocol::values::{Seq, Status, UnixMs};
use taskflow_protocol::{LabelId, ListId, OperationId, TaskId, UserId};

/// The rows of a feed, the bin included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    /// Absent until the first snapshot is complete.
    pub settings: Option<Settings>,
    /// Lists.
    pub lists: BTreeMap<ListId, List>,
    /// Labels.
    pub labels: BTreeMap<LabelId, Label>,
    /// Tasks.
    pub tasks: BTreeMap<TaskId, Task>,
}

/// How far the rows go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// The rows are those after this entry.
    pub seq: Seq,
    /// What the server gave us to continue from here.
    pub cursor: String,
}

/// What may happen to an operation of which we do not know whether it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Somebody typed it: after a reset, or a day later, a person decides whether it is sent again.
    Ask,
    /// Every row it makes has an id derived from its source, so a repeat can never double anything.
    Safe,
}

/// An operation that the server has not yet shown us as an entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    /// What to do.
    pub operation: Operation,
    /// When it was asked for.
    pub made_at: UnixMs,
    /// See there.
    pub repeat: Repeat,
    /// It may have reached the server, on this connection or an earlier one.
    pub sent: bool,
    /// It was sent on the present connection and has no answer yet.
    in_flight: bool,
    /// Not to be sent again before this time.
    not_before: UnixMs,
}

/// Why an operation waits for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parked {
    /// The server remembers operation ids for 24 hours only; a repeat could double it.
    TooOld,
    /// The feed has another history since (a restored backup): whether it was done cannot be known.
    Reset,
}

/// What a message did.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The server said what comes next.
    Following(Following),
    /// An entry was applied, and this is what it did. (The rows may already be those after later entries.)
    Applied(Entry, Vec<Effect>),
    /// A snapshot is complete, and the rows are now those.
    Reset(ResetReason, Seq),
    /// Rows that the snapshot lacks, because they are damaged in the server's store.
    LeftOut(Vec<LeftOut>),
    /// An operation is durable.
    Retired(OperationId, Seq),
    /// An operation was not done, and never will be under this id.
    Refused(Operation, ErrorBody),
    /// An operation was not done, because the row is no longer what it was based on.
    Conflict(Operation, Box<Row>),
    /// An operation is not sent again until a person says so.
    Parked(Operation, Parked),
    /// The server answered a message with an error.
    Error(ErrorBody),
}

/// One row before and after an entry.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// A task.
    Task(Option<Box<Task>>, Box<Task>),
    /// A list.
    List(Option<Box<List>>, Box<List>),
    /// A label.
    Label(Option<Box<Label>>, Box<Label>),
    /// The settings.
    Settings(Box<Settings>),
}

/// The server and this copy disagree. Nothing of the message was applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Broken {
    /// Entries are missing between what we have and what came.
    #[error("entry {expected} was expected and {got} came")]
    Hole {
        /// The next one.
        expected: Seq,
        /// What came instead.
        got: Seq,
    },
    /// A change of a row that we do not have.
    #[error("entry {0} changes a row that this copy does not have")]
    UnknownRow(Seq),
    /// The pieces of a snapshot do not fit together.
    #[error("the snapshot is not whole: {0}")]
    Snapshot(&'static str),
    /// Something came that the protocol does not allow here.
    #[error("the server sent {0} where it may not come")]
    Unexpected(&'static str),
}

impl Broken {
    /// How to get whole again.
    pub fn action(&self) -> Action {
        match self {
            // The cursor is good: the log has what is missing.
            Self::Hole { .. } | Self::Snapshot(_) | Self::Unexpected(_) => Action::Reconnect,
            // With the same cursor the same would come again.
            Self::UnknownRow(_) => Action::Resync,
        }
    }
}

/// A snapshot that is still coming. The rows we have are shown until it is whole.
#[derive(Clone, Debug, PartialEq)]
struct Incoming {
    reason: ResetReason,
    rows: Rows,
    /// Of the first piece.
    seq: Option<Seq>,
    next_piece: u32,
    rows_count: u64,
}

/// The copy.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    feed: Option<UserId>,
    rows: Rows,
    position: Option<Position>,
    incoming: Option<Incoming>,
    /// What `following` said on this connection; entries before it are out of place.
    following: Option<Following>,
    /// In the order in which they were asked for, which is the order in which they are sent.
    pending: Vec<Pending>,
    parked: Vec<(Operation, Parked)>,
}

impl Replica {
    /// What was kept from an earlier run.
    pub fn restore(feed: UserId, rows: Rows, position: Position) -> Self {
        Self {
            feed: Some(feed),
            rows,
            position: Some(position),
            ..Self::default()
        }
    }

    /// Whose feed this is, once known.
    pub fn feed(&self) -> Option<UserId> {
        self.feed
    }

    /// The rows, the bin included.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// How far the rows go; `None` before the first snapshot.
    pub fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// What to follow with.
    pub fn cursor(&self) -> Option<String> {
        self.position.as_ref().map(|position| position.cursor.clone())
    }

    /// The head that the server named, while we have not reached it.
    pub fn behind(&self) -> Option<(Seq, Seq)> {
        let head = self.following.as_ref()?.head;
        let seq = self.position.as_ref().map_or(0, |position| position.seq);
        (self.incoming.is_some() || seq < head).then_some((seq, head))
    }

    /// Everything up to the head that the server named is here, and what comes now is live.
    pub fn live(&self) -> bool {
        self.following.is_some() && self.behind().is_none()
    }

    /// Operations on their way, oldest first.
    pub fn pending(&self) -> &[Pending] {
        &self.pending
    }

    /// Operations that wait for a person.
    pub fn parked(&self) -> &[(Operation, Parked)] {
        &self.parked
    }

    /// Takes an operation to be sent.
    pub fn submit(&mut self, operation: Operation, made_at: UnixMs, repeat: Repeat) {
        self.add(operation, made_at, repeat, false);
    }

    /// Takes an operation that an earlier run wrote down before it sent it, if it did.
    pub fn resume(&mut self, operation: Operation, made_at: UnixMs) {
        self.add(operation, made_at, Repeat::Ask, true);
    }

    fn add(&mut self, operation: Operation, made_at: UnixMs, repeat: Repeat, sent: bool) {
        // A crash while one run took over from another can leave an operation in two journals.
        if self.pending.iter().any(|pending| pending.operation.id == operation.id) {
            return;
        }
        self.pending.push(Pending {
            operation,
            made_at,
            repeat,
            sent,
            in_flight: false,
            not_before: UnixMs::MIN,
        });
    }

    /// The connection is there and belongs to this user. Another user's rows are no use.
    pub fn connected(&mut self, user: UserId) {
        if self.feed != Some(user) {
            self.rows = Rows::default();
            self.position = None;
        }
        self.feed = Some(user);
        self.disconnected();
    }

    /// The connection is gone: what was in flight may or may not have been done, and half a snapshot is none.
    pub fn disconnected(&mut self) {
        self.incoming = None;
        self.following = None;
        for pending in &mut self.pending {
            pending.in_flight = false;
        }
    }

    /// Forgets the cursor, so that a snapshot comes; the rows stay until it is whole.
    pub fn resync(&mut self) {
        self.position = None;
    }

    /// Takes the next operations to send, in order, within what one message carries. Only once live: until then an entry
    /// that is still to come may say that they were done.
    ///
    /// `in_flight_max` bounds what is on the way at once.
    pub fn next_to_send(
        &mut self,
        now: UnixMs,
        in_flight_max: usize,
        fits: &mut dyn FnMut(&Operation) -> bool,
    ) -> (Vec<Operation>, Vec<Event>) {
        let (mut operations, mut events) = (Vec::new(), Vec::new());
        if !self.live() {
            return (operations, events);
        }
        self.retire_made(&mut events);
        self.park(&mut events, |pending| {
            let old = now.saturating_sub(pending.made_at) >= OPERATION_IDS_KEPT_MS;
            (pending.sent && old && pending.repeat == Repeat::Ask).then_some(Parked::TooOld)
        });
        let in_flight = self.pending.iter().filter(|pending| pending.in_flight).count();
        let room = in_flight_max.saturating_sub(in_flight);
        for pending in self.pending.iter_mut().filter(|pending| !pending.in_flight) {
            // A later one must not overtake one that waits: it may build on it.
            if operations.len() == room || pending.not_before > now || !fits(&pending.operation) {
                break;
            }
            pending.in_flight = true;
            pending.sent = true;
            operations.push(pending.operation.clone());
        }
        (operations, events)
    }

    /// When something that waits may be sent again.
    pub fn next_send_at(&self) -> Option<UnixMs> {
        let waiting = self.pending.iter().find(|pending| !pending.in_flight)?;
        Some(waiting.not_before)
    }

    /// Takes a message. `now` is when it came.
    pub fn receive(&mut self, message: ServerMessage, now: UnixMs) -> Result<Vec<Event>, Broken> {
        match message {
            ServerMessage::Following(following) if self.is_ours(following.feed) => Ok(self.follow(following)),
            ServerMessage::Snapshot(snapshot) if self.is_ours(snapshot.feed) => self.piece(snapshot),
            ServerMessage::Entries(entries) if self.is_ours(entries.feed) => self.entries(entries),
            ServerMessage::Results(results) => Ok(self.results(results.results, now)),
            ServerMessage::Error(error) => Ok(vec![Event::Error(error)]),
            // Of other feeds, or about the connection alone.
            _ => Ok(Vec::new()),
        }
    }

    fn is_ours(&self, feed: UserId) -> bool {
        self.feed == Some(feed)
    }

    fn follow(&mut self, following: Following) -> Vec<Event> {
        self.incoming = (following.mode == FollowMode::Reset).then(|| Incoming {
            reason: following.reason.unwrap_or(ResetReason::NoCursor),
            rows: Rows::default(),
            seq: None,
            next_piece: 0,
            rows_count: 0,
        });
        self.following = Some(following.clone());
        vec![Event::Following(following)]
    }

    fn piece(&mut self, piece: Snapshot) -> Result<Vec<Event>, Broken> {
        let Some(incoming) = &mut self.incoming else {
            return Err(Broken::Unexpected("a piece of a snapshot"));
        };
        if piece.piece != incoming.next_piece {
            return Err(Broken::Snapshot("a piece is missing or came twice"));
        }
        if *incoming.seq.get_or_insert(piece.seq) != piece.seq {
            return Err(Broken::Snapshot("its pieces are of different moments"));
        }
        incoming.next_piece += 1;
        let count = usize::from(piece.settings.is_some()) + piece.lists.len() + piece.labels.len() + piece.tasks.len();
        incoming.rows_count += count as u64;
        let rows = &mut incoming.rows;
        if let Some(settings) = piece.settings {
            rows.settings = Some(settings);
        }
        rows.lists.extend(piece.lists.into_iter().map(|list| (list.id, list)));
        rows.labels
            .extend(piece.labels.into_iter().map(|label| (label.id, label)));
        rows.tasks.extend(piece.tasks.into_iter().map(|task| (task.id, task)));
        let Some(done) = piece.done else {
            return Ok(Vec::new());
        };
        let whole = self.incoming.take().expect("it was there a moment ago");
        if whole.rows_count != done.rows {
            return Err(Broken::Snapshot("its rows are not as many as it says"));
        }
        self.rows = whole.rows;
        self.position = Some(Position {
            seq: piece.seq,
            cursor: done.cursor,
        });
        let mut events = vec![Event::Reset(whole.reason, piece.seq)];
        if !done.left_out.is_empty() {
            events.push(Event::LeftOut(done.left_out));
        }
        self.settle_after_reset(&mut events);
        Ok(events)
    }

    /// The entries that could have told us what became of the operations on their way are not coming any more.
    fn settle_after_reset(&mut self, events: &mut Vec<Event>) {
        self.retire_made(events);
        self.park(events, |pending| {
            (pending.sent && pending.repeat == Repeat::Ask).then_some(Parked::Reset)
        });
    }

    /// Retires what was sent, and whose rows are there: its entry was seen by an earlier run, or is in a snapshot.
    fn retire_made(&mut self, events: &mut Vec<Event>) {
        let (rows, seq) = (&self.rows, self.position.as_ref().map_or(0, |position| position.seq));
        self.pending.retain(|pending| {
            let done = pending.sent && makes_only(&pending.operation.command, rows);
            if done {
                events.push(Event::Retired(pending.operation.id, seq));
            }
            !done
        });
    }

    fn park(&mut self, events: &mut Vec<Event>, why: impl Fn(&Pending) -> Option<Parked>) {
        let mut kept = Vec::with_capacity(self.pending.len());
        for pending in self.pending.drain(..) {
            match why(&pending) {
                Some(reason) => {
                    self.parked.push((pending.operation.clone(), reason));
                    events.push(Event::Parked(pending.operation, reason));
                }
                None => kept.push(pending),
            }
        }
        self.pending = kept;
    }

    fn entries(&mut self, message: Entries) -> Result<Vec<Event>, Broken> {
        if self.following.is_none() || self.incoming.is_some() {
            return Err(Broken::Unexpected("entries"));
        }
        let Some(position) = &self.position else {
            return Err(Broken::Unexpected("entries"));
        };
        if message.entries.is_empty() {
            // The cursor of a quiet follower moves.
            self.position = Some(Position {
                seq: position.seq,
                cursor: message.cursor,
            });
            return Ok(Vec::new());
        }
        // First all checks, then all changes: rows and cursor must never be half-way.
        let had = position.seq;
        let fresh: Vec<Entry> = message.entries.into_iter().filter(|entry| entry.seq > had).collect();
        for (expected, entry) in (had + 1..).zip(&fresh) {
            if entry.seq != expected {
                return Err(Broken::Hole {
                    expected,
                    got: entry.seq,
                });
            }
        }
        let (mut events, mut rows) = (Vec::new(), std::mem::take(&mut self.rows));
        let mut undo = Vec::new();
        for entry in &fresh {
            match rows.apply(entry) {
                Ok(effects) => undo.push(effects),
                Err(broken) => {
                    for effects in undo.into_iter().rev() {
                        rows.revert(effects);
                    }
                    self.rows = rows;
                    return Err(broken);
                }
            }
        }
        self.rows = rows;
        for (entry, effects) in fresh.into_iter().zip(undo) {
            let (seq, operation) = (entry.seq, entry.operation);
            let before = self.pending.len();
            self.pending.retain(|pending| pending.operation.id != operation);
            let retired = self.pending.len() < before;
            self.position = Some(Position {
                seq,
                cursor: message.cursor.clone(),
            });
            events.push(Event::Applied(entry, effects));
            if retired {
                events.push(Event::Retired(operation, seq));
            }
        }
        Ok(events)
    }

    fn results(&mut self, results: Vec<OperationResult>, now: UnixMs) -> Vec<Event> {
        let mut events = Vec::new();
        for result in results {
            let Some(at) = self
                .pending
                .iter()
                .position(|pending| pending.operation.id == result.id)
            else {
                // The entry was faster, and says more.
                continue;
            };
            let seq = self.position.as_ref().map_or(0, |position| position.seq);
            match result.outcome {
                // The entry will retire it, unless we had it before we had the operation.
                Outcome::Accepted(accepted) if accepted.seq > seq => {}
                Outcome::Accepted(accepted) => {
                    self.pending.remove(at);
                    events.push(Event::Retired(result.id, accepted.seq));
                }
                Outcome::Unknown(error) => self.pending[at].wait(now, &error),
                Outcome::Refused(error) if error.code.action() == Action::Retry => self.pending[at].wait(now, &error),
                Outcome::Refused(error) => {
                    let pending = self.pending.remove(at);
                    events.push(Event::Refused(pending.operation, error));
                }
                Outcome::Conflict(Conflict { row }) => {
                    let pending = self.pending.remove(at);
                    events.push(Event::Conflict(pending.operation, Box::new(row)));
                }
            }
        }
        events
    }
}

impl Pending {
    fn wait(&mut self, now: UnixMs, error: &ErrorBody) {
        let after = error.retry_after_ms.or(error.code.retry_after_ms());
        self.in_flight = false;
        // Never at once: a server that refuses for lack of room is not helped by a client that spins.
        self.not_before = now.saturating_add(UnixMs::from(after.unwrap_or(0).max(100)));
    }
}

/// Everything that the command makes is there: ids are the client's and final, so it was this command that made it.
fn makes_only(command: &Command, rows: &Rows) -> bool {
    match command {
        Command::TaskCreate(create) => rows.tasks.contains_key(&create.task),
        Command::ListCreate(create) => rows.lists.contains_key(&create.list),
        Command::LabelCreate(create) => rows.labels.contains_key(&create.label),
        Command::Batch(batch) => batch.commands.iter().all(|command| makes_only(command, rows)),
        _ => false,
    }
}

impl Rows {
    fn apply(&mut self, entry: &Entry) -> Result<Vec<Effect>, Broken> {
        let mut effects = Vec::with_capacity(entry.changes.len());
        for change in &entry.changes {
            let Some(effect) = self.change(entry, change) else {
                self.revert(effects);
                return Err(Broken::UnknownRow(entry.seq));
            };
            effects.push(effect);
        }
        Ok(effects)
    }

    fn revert(&mut self, effects: Vec<Effect>) {
        for effect in effects.into_iter().rev() {
            match effect {
                Effect::Task(Some(before), _) => drop(self.tasks.insert(before.id, *before)),
                Effect::Task(None, after) => drop(self.tasks.remove(&after.id)),
                Effect::List(Some(before), _) => drop(self.lists.insert(before.id, *before)),
                Effect::List(None, after) => drop(self.lists.remove(&after.id)),
                Effect::Label(Some(before), _) => drop(self.labels.insert(before.id, *before)),
                Effect::Label(None, after) => drop(self.labels.remove(&after.id)),
                Effect::Settings(before) => self.settings = Some(*before),
            }
        }
    }

    /// Applies one change; `None` if there is no such row.
    fn change(&mut self, entry: &Entry, change: &Change) -> Option<Effect> {
        Some(match change {
            Change::TaskPut(put) => {
                let mut task = put.task.clone();
                (task.version, task.updated_at, task.updated_by) = (entry.seq, entry.time, entry.author);
                let before = self.tasks.insert(task.id, task.clone());
                Effect::Task(before.map(Box::new), Box::new(task))
            }
            Change::TaskSet(set) => {
                let task = self.tasks.get_mut(&set.task)?;
                let before = task.clone();
                set_task(task, &set.set);
                (task.version, task.updated_at, task.updated_by) = (entry.seq, entry.time, entry.author);
                Effect::Task(Some(Box::new(before)), Box::new(task.clone()))
            }
            Change::ListPut(list) => {
                let mut list = list.clone();
                (list.version, list.updated_at) = (entry.seq, entry.time);
                let before = self.lists.insert(list.id, list.clone());
                Effect::List(before.map(Box::new), Box::new(list))
            }
            Change::ListSet(set) => {
                let list = self.lists.get_mut(&set.list)?;
                let before = list.clone();
                set_list(list, &set.set);
                (list.version, list.updated_at) = (entry.seq, entry.time);
                Effect::List(Some(Box::new(before)), Box::new(list.clone()))
            }
            Change::LabelPut(label) => {
                let mut label = label.clone();
                label.version = entry.seq;
                let before = self.labels.insert(label.id, label.clone());
                Effect::Label(before.map(Box::new), Box::new(label))
            }
            Change::LabelSet(set) => {
                let label = self.labels.get_mut(&set.label)?;
                let before = label.clone();
                set_label(label, &set.set);
                label.version = entry.seq;
                Effect::Label(Some(Box::new(before)), Box::new(label.clone()))
            }
            Change::SettingsSet(set) => {
                let settings = self.settings.as_mut()?;
                let before = settings.clone();
                set_settings(settings, set);
                settings.version = entry.seq;
                Effect::Settings(Box::new(before))
            }
        })
    }

    /// The list is not in the bin.
    pub fn list_shown(&self, list: ListId) -> bool {
        self.lists.get(&list).is_some_and(|list| list.deleted_at.is_none())
    }

    /// The task, its list and all its parents are not in the bin.
    pub fn task_shown(&self, task: &Task) -> bool {
        let mut at = task;
        // The rules allow eight levels; a copy that somehow holds a circle must not hang the screen.
        for _ in 0..=self.tasks.len() {
            if at.deleted_at.is_some() || !self.list_shown(at.list) {
                return false;
            }
            match at.parent.and_then(|parent| self.tasks.get(&parent)) {
                Some(parent) => at = parent,
                None => return true,
            }
        }
        false
    }

    /// The label is not in the bin.
    pub fn label_shown(&self, label: LabelId) -> bool {
        self.labels.get(&label).is_some_and(|label| label.deleted_at.is_none())
    }

    /// Lists that are shown, in their order.
    pub fn lists_in_order(&self) -> Vec<&List> {
        let mut lists: Vec<&List> = self.lists.values().filter(|list| list.deleted_at.is_none()).collect();
        lists.sort_by(|a, b| (a.rank.as_bytes(), a.id).cmp(&(b.rank.as_bytes(), b.id)));
        lists
    }

    /// Tasks of a list that are shown, in their order, each with its depth among its parents.
    pub fn tasks_in_order(&self, list: ListId) -> Vec<(usize, &Task)> {
        let mut children: BTreeMap<Option<TaskId>, Vec<&Task>> = BTreeMap::new();
        for task in self.tasks.values() {
            if task.list == list && self.task_shown(task) {
                let parent = task.parent.filter(|parent| self.tasks.contains_key(parent));
                children.entry(parent).or_default().push(task);
            }
        }
        for siblings in children.values_mut() {
            siblings.sort_by(|a, b| (b.rank.as_bytes(), b.id).cmp(&(a.rank.as_bytes(), a.id)));
        }
        // Depth first, with a stack of what is still to be visited: the last on it comes next.
        let mut stack: Vec<(usize, &Task)> = children
            .remove(&None)
            .unwrap_or_default()
            .into_iter()
            .map(|task| (0, task))
            .collect();
        let mut ordered = Vec::new();
        while let Some((depth, task)) = stack.pop() {
            ordered.push((depth, task));
            let below = children.remove(&Some(task.id)).unwrap_or_default();
            stack.extend(below.into_iter().map(|child| (depth + 1, child)));
        }
        ordered
    }
}

/// Still to be done.
pub fn is_open(task: &Task) -> bool {
    matches!(task.status, Status::Todo | Status::Doing)
}

fn put<T: Clone>(field: &mut T, value: Option<&T>) {
    if let Some(value) = value {
        field.clone_from(value);
    }
}

fn set_task(task: &mut Task, set: &TaskFields) {
    put(&mut task.title, set.title.as_ref());
    put(&mut task.notes, set.notes.as_ref());
    put(&mut task.status, set.status.as_ref());
    put(&mut task.priority, set.priority.as_ref());
    put(&mut task.due, set.due.as_ref());
    put(&mut task.deadline, set.deadline.as_ref());
    put(&mut task.duration_minutes, set.duration_minutes.as_ref());
    put(&mut task.labels, set.labels.as_ref());
    put(&mut task.parent, set.parent.as_ref());
    put(&mut task.rank, set.rank.as_ref());
    put(&mut task.completed_at, set.completed_at.as_ref());
    put(&mut task.completed_by, set.completed_by.as_ref());
    put(&mut task.deleted_at, set.deleted_at.as_ref());
}

fn set_list(list: &mut List, set: &ListFields) {
    put(&mut list.name, set.name.as_ref());
    put(&mut list.color, set.color.as_ref());
    put(&mut list.rank, set.rank.as_ref());
    put(&mut list.archived, set.archived.as_ref());
    put(&mut list.deleted_at, set.deleted_at.as_ref());
}

fn set_label(label: &mut Label, set: &LabelFields) {
    put(&mut label.name, set.name.as_ref());
    put(&mut label.color, set.color.as_ref());
    put(&mut label.deleted_at, set.deleted_at.as_ref());
}

fn set_settings(settings: &mut Settings, set: &SettingsFields) {
    put(&mut settings.time_zone, set.time_zone.as_ref());
    put(&mut settings.week_start, set.week_start.as_ref());
    put(&mut settings.locale, set.locale.as_ref());
}

/// A refusal that a repeat of an import expects: the row was made by an earlier run.
pub fn is_already_there(error: &ErrorBody) -> bool {
    error.code == Code::IdTaken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use taskflow_protocol::message::{
        Accepted, Batch, ListSet, Results, SnapshotDone, TaskCreate, TaskPut, TaskRef, TaskSet,
    };
    use taskflow_protocol::values::{Priority, WeekStart};
    use uuid::Uuid;

    use super::*;

    const USER: UserId = UserId(Uuid::from_u128(7));
    const DAY: UnixMs = OPERATION_IDS_KEPT_MS;

    fn task_id(number: u128) -> TaskId {
        TaskId(Uuid::from_u128(1000 + number))
    }

    fn operation_id(number: u128) -> OperationId {
        OperationId(Uuid::from_u128(9000 + number))
    }

    fn list() -> List {
        List {
            id: ListId(USER.0),
            name: "Inbox".to_owned(),
            color: None,
            rank: "m".to_owned(),
            archived: false,
            created_at: 1,
            updated_at: 1,
            deleted_at: None,
            version: 1,
        }
    }

    fn task(number: u128) -> Task {
        Task {
            id: task_id(number),
            list: ListId(USER.0),
            title: format!("task {number}"),
            notes: String::new(),
            status: Status::Todo,
            priority: Priority::None,
            due: None,
            deadline: None,
            duration_minutes: None,
            labels: Vec::new(),
            parent: None,
            rank: format!("{number:04}"),
            completed_at: None,
            completed_by: None,
            created_at: 1,
            created_by: USER,
            updated_at: 1,
            updated_by: USER,
            deleted_at: None,
            version: 1,
        }
    }

    fn put(number: u128) -> Change {
        Change::TaskPut(TaskPut {
            from: None,
            task: task(number),
        })
    }

    fn set(number: u128, set: TaskFields) -> Change {
        Change::TaskSet(TaskSet {
            task: task_id(number),
            list: ListId(USER.0),
            set,
        })
    }

    fn rename(number: u128, title: &str) -> Change {
        let title = Some(title.to_owned());
        set(
            number,
            TaskFields {
                title,
                ..TaskFields::default()
            },
        )
    }

    fn entry(seq: Seq, changes: Vec<Change>) -> Entry {
        Entry {
            seq,
            time: seq as UnixMs * 1000,
            author: USER,
            operation: operation_id(u128::from(seq)),
            changes,
        }
    }

    fn entries(entries: Vec<Entry>) -> ServerMessage {
        let last = entries.last().map_or(0, |entry| entry.seq);
        ServerMessage::Entries(Entries {
            feed: USER,
            entries,
            cursor: format!("at {last}"),
        })
    }

    fn following(mode: FollowMode, head: Seq) -> ServerMessage {
        let reason = (mode == FollowMode::Reset).then_some(ResetReason::NoCursor);
        ServerMessage::Following(Following {
            feed: USER,
            mode,
            reason,
            head,
        })
    }

    fn settings() -> Settings {
        Settings {
            time_zone: "Europe/Berlin".to_owned(),
            week_start: WeekStart::Monday,
            locale: "de".to_owned(),
            version: 1,
        }
    }

    /// A snapshot in two pieces.
    fn snapshot(seq: Seq, tasks: &[Task], rows: u64) -> [ServerMessage; 2] {
        let piece = |piece, tasks: Vec<Task>, done| Snapshot {
            feed: USER,
            seq,
            piece,
            settings: (piece == 0).then(settings),
            lists: if piece == 0 { vec![list()] } else { Vec::new() },
            labels: Vec::new(),
            tasks,
            done,
        };
        let cursor = format!("at {seq}");
        [
            ServerMessage::Snapshot(piece(0, Vec::new(), None)),
            ServerMessage::Snapshot(piece(
                1,
                tasks.to_vec(),
                Some(SnapshotDone {
                    cursor,
                    rows,
                    left_out: Vec::new(),
                }),
            )),
        ]
    }

    /// Live after entry 1, with an inbox and nothing in it.
    fn live() -> Replica {
        let mut replica = Replica::default();
        replica.connected(USER);
        take(&mut replica, following(FollowMode::Reset, 1));
        for piece in snapshot(1, &[], 2) {
            take(&mut replica, piece);
        }
        assert!(replica.live());
        replica
    }

    fn take(replica: &mut Replica, message: ServerMessage) -> Vec<Event> {
        replica.receive(message, 0).expect("the message fits")
    }

    fn create(number: u128) -> Operation {
        let task = task(number);
        Operation {
            id: operation_id(number),
            base: None,
            command: Command::TaskCreate(TaskCreate {
                task: task.id,
                list: None,
                title: task.title,
                notes: String::new(),
                status: Status::Todo,
                priority: Priority::None,
                due: None,
                deadline: None,
                duration_minutes: None,
                labels: Vec::new(),
                parent: None,
                place: Default::default(),
            }),
        }
    }

    fn complete(number: u128) -> Operation {
        Operation {
            id: operation_id(number),
            base: None,
            command: Command::TaskComplete(TaskRef { task: task_id(number) }),
        }
    }

    fn send(replica: &mut Replica, now: UnixMs) -> Vec<OperationId> {
        let (operations, _) = replica.next_to_send(now, 100, &mut |_| true);
        operations.into_iter().map(|operation| operation.id).collect()
    }

    fn answer(number: u128, outcome: Outcome) -> ServerMessage {
        let id = operation_id(number);
        ServerMessage::Results(Results {
            results: vec![OperationResult { id, outcome }],
        })
    }

    #[test]
    fn a_changed_row_has_the_entrys_seq_time_and_author() {
        let mut replica = live();
        let other = UserId(Uuid::from_u128(8));
        let mut second = entry(3, vec![rename(1, "new")]);
        second.author = other;
        take(&mut replica, entries(vec![entry(2, vec![put(1)]), second]));
        let row = &replica.rows().tasks[&task_id(1)];
        assert_eq!(
            (row.title.as_str(), row.version, row.updated_at, row.updated_by),
            ("new", 3, 3000, other)
        );
        assert_eq!(
            replica.position(),
            Some(&Position {
                seq: 3,
                cursor: "at 3".to_owned()
            })
        );
    }

    #[test]
    fn entries_that_are_here_already_change_nothing() {
        let mut replica = live();
        take(
            &mut replica,
            entries(vec![entry(2, vec![put(1)]), entry(3, vec![rename(1, "new")])]),
        );
        let before = replica.clone();
        assert_eq!(take(&mut replica, entries(vec![entry(2, vec![put(1)])])), []);
        assert_eq!((replica.rows(), replica.position()), (before.rows(), before.position()));
        // One that overlaps gives only what is new.
        let overlapping = entries(vec![entry(3, vec![rename(1, "x")]), entry(4, vec![rename(1, "newer")])]);
        assert_eq!(take(&mut replica, overlapping).len(), 1);
        assert_eq!(replica.rows().tasks[&task_id(1)].title, "newer");
    }

    #[test]
    fn a_hole_is_an_error_and_nothing_of_the_message_is_applied() {
        let mut replica = live();
        let before = replica.clone();
        let hole = entries(vec![entry(2, vec![put(1)]), entry(4, vec![put(2)])]);
        assert_eq!(replica.receive(hole, 0), Err(Broken::Hole { expected: 3, got: 4 }));
        assert_eq!((replica.rows(), replica.position()), (before.rows(), before.position()));
    }

    #[test]
    fn a_change_of_an_unknown_row_takes_back_all_of_its_message_and_asks_for_a_snapshot() {
        let mut replica = live();
        take(&mut replica, entries(vec![entry(2, vec![put(1)])]));
        let before = replica.clone();
        let message = entries(vec![
            entry(
                3,
                vec![
                    put(2),
                    rename(1, "new"),
                    Change::ListPut(List {
                        name: "x".to_owned(),
                        ..list()
                    }),
                ],
            ),
            entry(
                4,
                vec![
                    put(3),
                    Change::SettingsSet(SettingsFields::default()),
                    rename(9, "nobody"),
                ],
            ),
        ]);
        let broken = replica.receive(message, 0);
        assert_eq!(broken, Err(Broken::UnknownRow(4)));
        assert_eq!(broken.map_err(|broken| broken.action()), Err(Action::Resync));
        assert_eq!((replica.rows(), replica.position()), (before.rows(), before.position()));
    }

    #[test]
    fn the_old_view_stays_until_the_last_piece_of_a_snapshot() {
        let mut replica = live();
        take(&mut replica, entries(vec![entry(2, vec![put(1)])]));
        replica.connected(USER);
        take(&mut replica, following(FollowMode::Reset, 50));
        let [first, last] = snapshot(50, &[task(2)], 3);
        assert_eq!(take(&mut replica, first), []);
        assert!(replica.rows().tasks.contains_key(&task_id(1)));
        assert!(!replica.live());
        assert_eq!(take(&mut replica, last), [Event::Reset(ResetReason::NoCursor, 50)]);
        assert_eq!(replica.rows().tasks.keys().copied().collect::<Vec<_>>(), [task_id(2)]);
        assert!(replica.live());
    }

    #[test]
    fn a_snapshot_that_is_not_whole_is_not_taken() {
        let check = |pieces: Vec<ServerMessage>, expected: Broken| {
            let mut replica = live();
            replica.connected(USER);
            take(&mut replica, following(FollowMode::Reset, 50));
            let before = replica.rows().clone();
            let broken = pieces.into_iter().find_map(|piece| replica.receive(piece, 0).err());
            assert_eq!(broken, Some(expected));
            assert_eq!(replica.rows(), &before);
        };
        let [first, last] = snapshot(50, &[task(2)], 4);
        check(
            vec![first, last],
            Broken::Snapshot("its rows are not as many as it says"),
        );
        let [first, last] = snapshot(50, &[task(2)], 3);
        check(vec![last], Broken::Snapshot("a piece is missing or came twice"));
        check(
            vec![first.clone(), first],
            Broken::Snapshot("a piece is missing or came twice"),
        );
        let ([first, _], [_, last]) = (snapshot(50, &[], 2), snapshot(51, &[], 2));
        check(
            vec![first.clone(), last],
            Broken::Snapshot("its pieces are of different moments"),
        );
        check(
            vec![first, entries(vec![entry(51, Vec::new())])],
            Broken::Unexpected("entries"),
        );
    }

    #[test]
    fn what_may_not_come_before_following_is_an_error() {
        let mut replica = live();
        replica.disconnected();
        let [first, _] = snapshot(1, &[], 2);
        assert_eq!(
            replica.receive(first, 0),
            Err(Broken::Unexpected("a piece of a snapshot"))
        );
        assert_eq!(
            replica.receive(entries(vec![entry(2, vec![put(1)])]), 0),
            Err(Broken::Unexpected("entries"))
        );
    }

    #[test]
    fn an_operation_is_retired_by_its_entry_and_not_by_its_answer() {
        let mut replica = live();
        replica.submit(create(2), 0, Repeat::Ask);
        assert_eq!(send(&mut replica, 0), [operation_id(2)]);
        assert_eq!(
            take(&mut replica, answer(2, Outcome::Accepted(Accepted { seq: 2 }))),
            []
        );
        assert_eq!(replica.pending().len(), 1);
        let events = take(&mut replica, entries(vec![entry(2, vec![put(2)])]));
        assert_eq!(events[1..], [Event::Retired(operation_id(2), 2)]);
        assert_eq!(replica.pending(), []);
        // A late refusal of what an entry has shown says nothing.
        assert_eq!(
            take(
                &mut replica,
                answer(2, Outcome::Refused(ErrorBody::new(Code::RowNotFound)))
            ),
            []
        );
    }

    #[test]
    fn an_answer_retires_an_operation_whose_entry_was_here_before_it() {
        let mut replica = live();
        replica.resume(complete(2), 0);
        assert_eq!(send(&mut replica, 0), [operation_id(2)]);
        let events = take(&mut replica, answer(2, Outcome::Accepted(Accepted { seq: 1 })));
        assert_eq!(events, [Event::Retired(operation_id(2), 1)]);
    }

    #[test]
    fn nothing_is_sent_before_everything_missed_is_here() {
        let mut replica = live();
        replica.submit(complete(2), 0, Repeat::Ask);
        send(&mut replica, 0);
        replica.connected(USER);
        assert_eq!(send(&mut replica, 0), []);
        take(&mut replica, following(FollowMode::Entries, 3));
        take(&mut replica, entries(vec![entry(2, vec![put(1)])]));
        assert!(!replica.live() && replica.behind() == Some((2, 3)));
        assert_eq!(send(&mut replica, 0), []);
        take(&mut replica, entries(vec![entry(3, Vec::new())]));
        // Entry 2 was of this operation, so nothing is left to send.
        assert_eq!(send(&mut replica, 0), []);
        assert_eq!(replica.pending(), []);
    }

    #[test]
    fn what_was_in_flight_is_sent_again_under_the_same_id_and_in_the_same_order() {
        let mut replica = live();
        for number in [11, 12, 13] {
            replica.submit(complete(number), 0, Repeat::Ask);
        }
        let ids = [operation_id(11), operation_id(12), operation_id(13)];
        assert_eq!(send(&mut replica, 0), ids);
        assert_eq!(send(&mut replica, 0), []);
        replica.connected(USER);
        take(&mut replica, following(FollowMode::UpToDate, 1));
        assert_eq!(send(&mut replica, 0), ids);
    }

    #[test]
    fn what_waits_is_not_overtaken() {
        let mut replica = live();
        for number in [11, 12] {
            replica.submit(complete(number), 0, Repeat::Ask);
        }
        let (sent, _) = replica.next_to_send(0, 1, &mut |_| true);
        assert_eq!(sent, [complete(11)]);
        let error = ErrorBody::new(Code::FeedOverloaded);
        assert_eq!(take(&mut replica, answer(11, Outcome::Refused(error))), []);
        assert_eq!(replica.next_send_at(), Some(250));
        assert_eq!(send(&mut replica, 249), []);
        assert_eq!(send(&mut replica, 250), [operation_id(11), operation_id(12)]);
    }

    #[test]
    fn an_unknown_outcome_is_asked_again_and_a_refusal_is_final() {
        let mut replica = live();
        replica.submit(complete(11), 0, Repeat::Ask);
        send(&mut replica, 0);
        take(
            &mut replica,
            answer(11, Outcome::Unknown(ErrorBody::new(Code::OutcomeUnknown))),
        );
        assert_eq!(send(&mut replica, 1000), [operation_id(11)]);
        let error = ErrorBody::new(Code::RowNotFound);
        let events = take(&mut replica, answer(11, Outcome::Refused(error.clone())));
        assert_eq!(events, [Event::Refused(complete(11), error)]);
        assert_eq!(replica.pending(), []);
        replica.submit(complete(12), 0, Repeat::Ask);
        send(&mut replica, 0);
        let row = Row::Task(task(12));
        let events = take(
            &mut replica,
            answer(12, Outcome::Conflict(Conflict { row: row.clone() })),
        );
        assert_eq!(events, [Event::Conflict(complete(12), Box::new(row))]);
    }

    #[test]
    fn after_a_day_only_what_was_never_sent_or_cannot_double_is_sent() {
        let mut replica = live();
        replica.submit(complete(11), 0, Repeat::Ask);
        replica.submit(complete(12), 0, Repeat::Safe);
        send(&mut replica, 0);
        replica.submit(complete(13), 0, Repeat::Ask);
        replica.connected(USER);
        take(&mut replica, following(FollowMode::UpToDate, 1));
        let (sent, events) = replica.next_to_send(DAY, 100, &mut |_| true);
        assert_eq!(sent, [complete(12), complete(13)]);
        assert_eq!(events, [Event::Parked(complete(11), Parked::TooOld)]);
        assert_eq!(replica.parked(), [(complete(11), Parked::TooOld)]);
    }

    #[test]
    fn at_a_reset_what_may_have_been_done_waits_for_a_person_unless_the_snapshot_shows_it() {
        let mut replica = live();
        let both = Operation {
            id: operation_id(3),
            base: None,
            command: Command::Batch(Batch {
                commands: vec![create(3).command, create(4).command],
            }),
        };
        for operation in [create(2), both.clone(), complete(5)] {
            replica.submit(operation, 0, Repeat::Ask);
        }
        send(&mut replica, 0);
        replica.submit(complete(6), 0, Repeat::Ask);
        replica.connected(USER);
        take(&mut replica, following(FollowMode::Reset, 50));
        let [first, last] = snapshot(50, &[task(2), task(3)], 4);
        take(&mut replica, first);
        let events = take(&mut replica, last);
        assert_eq!(
            events,
            [
                Event::Reset(ResetReason::NoCursor, 50),
                Event::Retired(operation_id(2), 50),
                Event::Parked(both, Parked::Reset),
                Event::Parked(complete(5), Parked::Reset),
            ]
        );
        assert_eq!(send(&mut replica, 0), [operation_id(6)]);
    }

    #[test]
    fn another_users_rows_are_not_kept() {
        let mut replica = live();
        take(&mut replica, entries(vec![entry(2, vec![put(1)])]));
        replica.connected(UserId(Uuid::from_u128(8)));
        assert_eq!((replica.rows(), replica.cursor()), (&Rows::default(), None));
    }

    #[test]
    fn a_task_is_shown_if_it_its_list_and_its_parents_are_not_in_the_bin() {
        let mut replica = live();
        let child = Change::TaskPut(TaskPut {
            from: None,
            task: Task {
                parent: Some(task_id(1)),
                ..task(2)
            },
        });
        let deleted = |deleted_at| TaskFields {
            deleted_at: Some(deleted_at),
            ..TaskFields::default()
        };
        let shown = |replica: &Replica| {
            let rows = replica.rows();
            [1, 2].map(|number| rows.task_shown(&rows.tasks[&task_id(number)]))
        };
        take(&mut replica, entries(vec![entry(2, vec![put(1), child])]));
        assert_eq!(shown(&replica), [true, true]);
        take(&mut replica, entries(vec![entry(3, vec![set(1, deleted(Some(5)))])]));
        assert_eq!(shown(&replica), [false, false]);
        take(
            &mut replica,
            entries(vec![entry(4, vec![set(1, deleted(None)), set(2, deleted(Some(5)))])]),
        );
        assert_eq!(shown(&replica), [true, false]);
        let bin = Change::ListSet(ListSet {
            list: ListId(USER.0),
            set: ListFields {
                deleted_at: Some(Some(5)),
                ..ListFields::default()
            },
        });
        take(&mut replica, entries(vec![entry(5, vec![bin])]));
        assert_eq!(shown(&replica), [false, false]);
    }

    #[test]
    fn tasks_stand_in_the_order_of_their_ranks_below_their_parents() {
        let mut rows = Rows::default();
        rows.lists.insert(list().id, list());
        for (number, parent, rank) in [
            (1, None, "b"),
            (2, Some(1), "z"),
            (3, None, "a"),
            (4, Some(1), "a"),
            (5, Some(4), "a"),
        ] {
            let task = Task {
                parent: parent.map(task_id),
                rank: rank.to_owned(),
                ..task(number)
            };
            rows.tasks.insert(task.id, task);
        }
        let order: Vec<(usize, TaskId)> = rows
            .tasks_in_order(list().id)
            .into_iter()
            .map(|(depth, task)| (depth, task.id))
            .collect();
        let expected = [(0, 3), (0, 1), (1, 4), (2, 5), (1, 2)].map(|(depth, number)| (depth, task_id(number)));
        assert_eq!(order, expected);
    }

    /// What the feed of the property test may do next.
    #[derive(Clone, Debug)]
    enum Act {
        Put(u128),
        Rename(u128, String),
        Bin(u128, bool),
        Nothing,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            3 => (0..6u128).prop_map(Act::Put),
            3 => (0..6u128, "[a-z]{1,3}").prop_map(|(number, title)| Act::Rename(number, title)),
            1 => (0..6u128, any::<bool>()).prop_map(|(number, bin)| Act::Bin(number, bin)),
            1 => Just(Act::Nothing),
        ];
        prop::collection::vec(act, 1..40)
    }

    /// A log, and the rows after each of its entries.
    fn history(acts: &[Act]) -> (Vec<Entry>, Vec<Rows>) {
        let mut rows = live().rows().clone();
        let (mut log, mut states) = (vec![entry(1, Vec::new())], vec![rows.clone()]);
        for (seq, act) in (2..).zip(acts) {
            let known = |number: &u128| rows.tasks.contains_key(&task_id(*number));
            let changes = match act {
                Act::Put(number) => vec![put(*number)],
                Act::Rename(number, title) if known(number) => vec![rename(*number, title)],
                Act::Bin(number, bin) if known(number) => {
                    let deleted_at = Some(bin.then_some(seq as UnixMs));
                    vec![set(
                        *number,
                        TaskFields {
                            deleted_at,
                            ..TaskFields::default()
                        },
                    )]
                }
                _ => Vec::new(),
            };
            let entry = entry(seq, changes);
            rows.apply(&entry).expect("the rows are known");
            log.push(entry);
            states.push(rows.clone());
        }
        (log, states)
    }

    /// What the network does next.
    #[derive(Clone, Debug)]
    enum Net {
        /// The next so many entries, beginning so many too early.
        Deliver(usize, usize),
        /// The entries after the next one.
        Skip,
        /// The connection breaks, and comes back with the cursor, or with a reset.
        Break(bool),
    }

    fn nets() -> impl Strategy<Value = Vec<Net>> {
        let net = prop_oneof![
            6 => (1..5usize, 0..3usize).prop_map(|(count, early)| Net::Deliver(count, early)),
            1 => Just(Net::Skip),
            2 => any::<bool>().prop_map(Net::Break),
        ];
        prop::collection::vec(net, 1..40)
    }

    proptest! {
        /// However the entries come, the rows are those of the log at the position, and at the end all of it is here.
        #[test]
        fn the_rows_are_always_those_of_the_log_at_the_position(acts in acts(), nets in nets()) {
            let (log, states) = history(&acts);
            let head = log.len() as Seq;
            let tasks_at = |seq: Seq| states[seq as usize - 1].tasks.values().cloned().collect::<Vec<_>>();
            let mut replica = live();
            let slice = |from: Seq, to: Seq| log[from as usize..to as usize].to_vec();
            let mut seen = vec![1];
            let come_back = |replica: &mut Replica, reset: bool, seen: &mut Vec<Seq>| {
                replica.connected(USER);
                let at = replica.position().expect("it was live").seq;
                if reset {
                    take(replica, following(FollowMode::Reset, head));
                    let tasks = tasks_at(head);
                    for piece in snapshot(head, &tasks, tasks.len() as u64 + 2) {
                        take(replica, piece);
                    }
                    *seen = vec![head];
                } else {
                    take(replica, following(if at == head { FollowMode::UpToDate } else { FollowMode::Entries }, head));
                }
            };
            for net in nets {
                let at = replica.position().expect("it was live").seq;
                match net {
                    Net::Deliver(count, early) => {
                        let from = at.saturating_sub(early as Seq).max(1);
                        let message = slice(from, (at + count as Seq).min(head));
                        for event in take(&mut replica, entries(message)) {
                            if let Event::Applied(entry, _) = event {
                                seen.push(entry.seq);
                            }
                        }
                    }
                    Net::Skip if at + 1 < head => {
                        let broken = replica.receive(entries(slice(at + 1, head)), 0);
                        prop_assert_eq!(broken, Err(Broken::Hole { expected: at + 1, got: at + 2 }));
                        come_back(&mut replica, false, &mut seen);
                    }
                    Net::Skip => {}
                    Net::Break(reset) => come_back(&mut replica, reset, &mut seen),
                }
                let at = replica.position().expect("it was live").seq;
                prop_assert_eq!(&replica.rows().tasks, &states[at as usize - 1].tasks);
                // Each was shown once, in order.
                prop_assert!(seen.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{:?}", seen);
            }
        }

        /// Whatever becomes of messages, every operation of a person is done once, or the person is told.
        #[test]
        fn no_operation_is_lost_or_done_twice(faults in prop::collection::vec(0..6u8, 0..30)) {
            let mut replica = live();
            let mut log: Vec<Entry> = vec![entry(1, Vec::new())];
            let mut told = 0;
            let mut asked = 0;
            let mut faults = faults.into_iter().chain(std::iter::repeat_n(5, 20));
            for now in 0.. {
                let Some(fault) = faults.next() else { break };
                if asked < 10 {
                    asked += 1;
                    replica.submit(complete(100 + asked), now, Repeat::Ask);
                }
                let (operations, _) = replica.next_to_send(now * 1000, 100, &mut |_| true);
                let lost = |fault: u8| matches!(fault, 0 | 1);
                let first = log.len();
                let mut results = Vec::new();
                if fault != 0 {
                    for operation in &operations {
                        let known = log.iter().find(|entry| entry.operation == operation.id).map(|entry| entry.seq);
                        let outcome = match (known, fault) {
                            (None, 2) => Outcome::Refused(ErrorBody::new(Code::FeedOverloaded)),
                            (None, 3) => Outcome::Refused(ErrorBody::new(Code::RowNotFound)),
                            (known, _) => {
                                let seq = known.unwrap_or_else(|| {
                                    let mut done = entry(log.len() as Seq + 1, Vec::new());
                                    done.operation = operation.id;
                                    log.push(done);
                                    log.len() as Seq
                                });
                                if fault == 4 {
                                    Outcome::Unknown(ErrorBody::new(Code::OutcomeUnknown))
                                } else {
                                    Outcome::Accepted(Accepted { seq })
                                }
                            }
                        };
                        results.push(OperationResult { id: operation.id, outcome });
                    }
                }
                if lost(fault) {
                    replica.connected(USER);
                    let at = replica.position().expect("it was live").seq;
                    take(&mut replica, following(FollowMode::Entries, log.len() as Seq));
                    take(&mut replica, entries(log[at as usize..].to_vec()));
                    continue;
                }
                let mut events = Vec::new();
                if log.len() > first {
                    events.extend(take(&mut replica, entries(log[first..].to_vec())));
                }
                events.extend(replica.receive(ServerMessage::Results(Results { results }), now * 1000).expect("they fit"));
                told += events.iter().filter(|event| matches!(event, Event::Refused(..))).count();
            }
            prop_assert_eq!(replica.pending(), &[]);
            prop_assert_eq!(log.len() - 1 + told, 10);
        }
    }
}
