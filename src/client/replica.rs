//! A copy of one feed, kept in step by what the server says.
//!
//! Architecture invariant: no I/O, no clock, no randomness. A message goes in; the rows change and events come out. What
//! is on the way to the server is never mixed into the rows: they hold only what is durable there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use taskflow_protocol::codes::{Action, Code};
use taskflow_protocol::limits::OPERATION_IDS_KEPT_MS;
use taskflow_protocol::message::{
    Change, Command, Conflict, Entries, Entry, ErrorBody, FollowMode, Following, Operation, OperationResult, Outcome,
    ResetReason, Row, ServerMessage, Snapshot,
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
        let mut in_flight = self.pending.iter().filter(|pending| pending.in_flight).count();
        for pending in self.pending.iter_mut().filter(|pending| !pending.in_flight) {
            // A later one must not overtake one that waits: it may build on it.
            if in_flight == in_flight_max || pending.not_before > now || !fits(&pending.operation) {
                break;
            }
            pending.in_flight = true;
            pending.sent = true;
            in_flight += 1;
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
            let done = pending.sent && !pending.in_flight && makes_only(&pending.operation.command, rows);
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
