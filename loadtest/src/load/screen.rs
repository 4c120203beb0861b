//! A connection that follows a user's feed, checks what comes, writes, and comes back when it ends: a client as
//! docs/protocol.md wants one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use taskflow_protocol::codes::{Action, Code};
use taskflow_protocol::message::{Command, ErrorBody, FollowMode, Operation, OperationResult, Outcome, Reconnect};
use taskflow_protocol::values::Seq;
use taskflow_protocol::{OperationId, TaskId};
use tokio::sync::Notify;

use super::check::Sequence;
use super::tally::{Count, Timed};
use super::target::Target;
use super::world::World;
use crate::clock;
use crate::net::link::Link;
use crate::net::socket::Event;
use crate::server::taskflow::{HEARTBEAT, hello, operations};

/// A server that was silent for two of its heartbeats is dead.
const SILENCE: Duration = Duration::from_secs(50);
/// Until a connection that was made is current.
const CURRENT_PATIENCE: Duration = Duration::from_secs(60);
/// The upper ends of the wait before a connection is tried again.
const BACK_OFF_FIRST: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// Before a change is sent again, if the server does not say.
const RETRY_MS: u32 = 250;
/// Operations that one message may carry.
const OPERATIONS_MAX: usize = 100;

/// See the module.
pub struct Screen {
    number: usize,
    /// Whose.
    pub user: usize,
    /// It reads slowly, until the load is over.
    pub is_slow: bool,
    slow: Cell<bool>,
    link: RefCell<Option<Rc<Link>>>,
    /// How far it is.
    pub sequence: RefCell<Sequence>,
    cursor: RefCell<Option<String>>,
    /// The newest entry when it connected: what comes up to it was missed.
    head: Cell<Seq>,
    /// It has everything up to the head.
    pub is_current: Cell<bool>,
    /// It was current once.
    pub was_current: Cell<bool>,
    pending: RefCell<VecDeque<Pending>>,
    dropped: Notify,
    dropped_ns: Cell<Option<u64>>,
    told: Cell<Option<Reconnect>>,
    refused: Cell<bool>,
}

/// A change without an answer.
#[derive(Clone)]
struct Pending {
    operation: Operation,
    due_ns: u64,
}

/// What of a server's message is looked at: the rest is not decoded, because this client shall cost less than the server.
#[derive(Deserialize)]
struct Frame<'a> {
    heartbeat: Option<IgnoredAny>,
    #[serde(borrow)]
    entries: Option<Entries<'a>>,
    results: Option<Results>,
    following: Option<Following>,
    snapshot: Option<Piece>,
    reconnect: Option<Reconnect>,
    error: Option<ErrorBody>,
}

#[derive(Deserialize)]
struct Entries<'a> {
    entries: Vec<Entry>,
    cursor: &'a str,
}

#[derive(Deserialize)]
struct Entry {
    seq: Seq,
    operation: OperationId,
}

#[derive(Deserialize)]
struct Results {
    results: Vec<OperationResult>,
}

#[derive(Deserialize)]
struct Following {
    mode: FollowMode,
    head: Seq,
}

#[derive(Deserialize)]
struct Piece {
    seq: Seq,
    done: Option<Done>,
}

#[derive(Deserialize)]
struct Done {
    cursor: String,
}

/// How a connection ended.
enum End {
    /// This client dropped it, at this time.
    Dropped(u64),
    /// The server ended it, or the network; it may have said when to come back.
    Cut(Option<Duration>),
    /// It could not be made.
    Failed,
    /// The server will not have it.
    Refused,
}

impl Screen {
    /// Before it is connected.
    pub fn new(number: usize, user: usize, is_slow: bool) -> Self {
        Self {
            number,
            user,
            is_slow,
            slow: Cell::new(false),
            link: RefCell::default(),
            sequence: RefCell::default(),
            cursor: RefCell::default(),
            head: Cell::new(0),
            is_current: Cell::new(false),
            was_current: Cell::new(false),
            pending: RefCell::default(),
            dropped: Notify::new(),
            dropped_ns: Cell::new(None),
            told: Cell::new(None),
            refused: Cell::new(false),
        }
    }

    /// Connects when it is due, and comes back until all is over.
    pub async fn live(self: Rc<Self>, world: Rc<World>, first_due_ns: u64) {
        wait_until(first_due_ns).await;
        let (mut due_ns, mut back_off) = (first_due_ns, BACK_OFF_FIRST);
        while !world.is_over.get() {
            let end = self.connect(&world, due_ns).await;
            let was_current = self.is_current.replace(false);
            self.link.take();
            if was_current {
                world.up.set(world.up.get() - 1);
                back_off = BACK_OFF_FIRST;
            }
            match end {
                End::Dropped(at_ns) => due_ns = at_ns,
                End::Cut(wait) => {
                    world.count(Count::Cut);
                    tokio::time::sleep(wait.unwrap_or_else(|| world.part_of(back_off))).await;
                    back_off = BACK_OFF_MAX.min(back_off * 2);
                    due_ns = clock::now_ns();
                }
                // Still due since the first try.
                End::Failed => {
                    tokio::time::sleep(world.part_of(back_off)).await;
                    back_off = BACK_OFF_MAX.min(back_off * 2);
                }
                End::Refused => {
                    self.refused.set(true);
                    return;
                }
            }
        }
    }

    /// The server will not have it, and it does not come back.
    pub fn is_refused(&self) -> bool {
        self.refused.get()
    }

    async fn connect(self: &Rc<Self>, world: &Rc<World>, due_ns: u64) -> End {
        self.dropped_ns.set(None);
        self.told.set(None);
        let link = match world.target.open(self.number).await {
            Ok(link) => Rc::new(link),
            Err(error) => {
                world.error(world.target.sentence(&error));
                world.count(Count::Unconnected);
                if Target::status(&error) == Some(429) {
                    world.count(Count::Limited);
                }
                return End::Failed;
            }
        };
        let token = &world.plan.users[self.user].token;
        link.send(&hello(token, Some(self.cursor.borrow().as_deref())));
        *self.link.borrow_mut() = Some(link.clone());
        let read = link.drive(SILENCE, &self.slow, |text| self.take(world, &link, text, due_ns));
        let too_late = async {
            tokio::time::sleep(CURRENT_PATIENCE).await;
            if self.is_current.get() {
                std::future::pending::<()>().await;
            }
        };
        let end = tokio::select! {
            end = read => end,
            () = self.dropped.notified() => match self.dropped_ns.take() {
                Some(at_ns) => return End::Dropped(at_ns),
                None => return End::Cut(None),
            },
            () = too_late => Err(io::ErrorKind::TimedOut.into()),
        };
        self.ended(world, end)
    }

    /// Says how a connection ended that the client did not end.
    fn ended(&self, world: &World, end: io::Result<Event>) -> End {
        let (code, sentence) = match end {
            Ok(Event::Close(number, reason)) => {
                let code = Code::ALL.iter().find(|code| code.close_code() == Some(number));
                let what = code.map_or("", |code| code.sentence());
                (
                    code,
                    format!("The server closed a connection ({number} {reason}). {what}"),
                )
            }
            Ok(Event::Text(_)) => (None, String::new()),
            Err(error) => (None, world.target.sentence(&error)),
        };
        if code == Some(&Code::TooManyConnections) {
            world.error("A user has as many connections as the server allows one: use more --users, or raise its connections_a_user_max.");
        } else if !world.is_over.get() {
            world.error(sentence);
        }
        if code == Some(&Code::TooSlow) {
            world.count(Count::Evicted);
        }
        match code.map(|code| code.action()) {
            Some(Action::SignIn | Action::GiveUp) => End::Refused,
            // Whoever was in comes back to where another node has gone; whoever never was does not fit.
            _ if code == Some(&Code::TooManyConnections) && !self.was_current.get() => End::Refused,
            _ => End::Cut(self.told.get().map(|told| {
                let window = Duration::from_millis(told.window_ms.into());
                Duration::from_millis(told.after_ms.into()) + world.part_of(window)
            })),
        }
    }

    fn take(self: &Rc<Self>, world: &Rc<World>, link: &Rc<Link>, text: &[u8], due_ns: u64) {
        let frame: Frame<'_> = match serde_json::from_slice(text) {
            Ok(frame) => frame,
            Err(error) => return world.error(format!("The server sent what cannot be read: {error}.")),
        };
        if let Some(entries) = frame.entries {
            self.entries(world, entries, due_ns);
        }
        if let Some(results) = frame.results {
            for result in results.results {
                self.settle(world, result);
            }
        }
        if frame.heartbeat.is_some() {
            link.send(HEARTBEAT);
        }
        if let Some(following) = frame.following {
            self.head.set(following.head);
            let has_cursor = self.cursor.borrow().is_some();
            match following.mode {
                FollowMode::UpToDate => self.current(world, due_ns),
                FollowMode::Reset if has_cursor => {
                    world.error("The server had a screen with a good cursor start anew.");
                }
                FollowMode::Reset | FollowMode::Entries => {}
            }
        }
        if let Some(piece) = frame.snapshot
            && let Some(done) = piece.done
        {
            self.sequence.borrow_mut().snapshot(piece.seq);
            *self.cursor.borrow_mut() = Some(done.cursor);
            self.current(world, due_ns);
        }
        if let Some(reconnect) = frame.reconnect {
            self.told.set(Some(reconnect));
        }
        // What ends the connection is said when it does.
        if let Some(error) = frame.error.filter(|error| error.code.close_code().is_none()) {
            world.error(format!("The server said {}: {}", error.name, error.message));
        }
    }

    fn entries(self: &Rc<Self>, world: &Rc<World>, entries: Entries<'_>, due_ns: u64) {
        let now_ns = clock::now_ns();
        for entry in entries.entries {
            let timed = match (entry.seq <= self.head.get(), self.is_slow) {
                (true, _) => Timed::CatchUp,
                (_, true) => Timed::SlowPush,
                _ => Timed::Push,
            };
            let arrived = world.feeds[self.user].borrow_mut().arrive(entry.operation, entry.seq);
            match self.sequence.borrow_mut().take(entry.seq).and(arrived) {
                Ok(Some(due_ns)) => {
                    let mut meter = world.meter.borrow_mut();
                    meter.time(timed, due_ns, now_ns);
                    meter.count(Count::Pushes);
                }
                Ok(None) => {}
                Err(wrong) => world.wrong(wrong),
            }
        }
        *self.cursor.borrow_mut() = Some(entries.cursor.to_owned());
        if !self.is_current.get() && self.sequence.borrow().behind(self.head.get()) == 0 {
            self.current(world, due_ns);
        }
    }

    /// It has what it missed: what is pending is sent again, unless an entry has it.
    fn current(self: &Rc<Self>, world: &Rc<World>, due_ns: u64) {
        if self.is_current.replace(true) {
            return;
        }
        world.up.set(world.up.get() + 1);
        match self.was_current.replace(true) {
            false => {
                world.count(Count::Connects);
                world.time(Timed::Connect, due_ns);
            }
            true => {
                world.count(Count::Reconnects);
                world.time(Timed::Reconnect, due_ns);
            }
        }
        let pending: Vec<_> = self.pending.borrow().iter().cloned().collect();
        let mut again = Vec::new();
        for change in pending {
            let entry = world.feeds[self.user].borrow().entry(change.operation.id);
            match entry {
                Some(seq) => self.accepted(world, change.operation.id, seq),
                None => again.push(change.operation),
            }
        }
        for some in again.chunks(OPERATIONS_MAX) {
            self.send(some.to_vec());
        }
    }

    fn send(&self, some: Vec<Operation>) {
        if let Some(link) = &*self.link.borrow() {
            link.send(&operations(some));
        }
    }

    /// Makes a change: now, or as soon as it is connected.
    pub fn change(&self, world: &World, task: TaskId, command: Command, due_ns: u64) {
        let operation = crate::server::taskflow::operation(command);
        world.count(Count::Changes);
        world.feeds[self.user].borrow_mut().begin(operation.id, task, due_ns);
        self.pending.borrow_mut().push_back(Pending {
            operation: operation.clone(),
            due_ns,
        });
        if self.is_current.get() {
            self.send(vec![operation]);
        }
    }

    fn settle(self: &Rc<Self>, world: &Rc<World>, result: OperationResult) {
        let (again, error) = match result.outcome {
            Outcome::Accepted(accepted) => return self.accepted(world, result.id, accepted.seq),
            Outcome::Refused(error) => (error.code.action() == Action::Retry, error),
            Outcome::Unknown(error) => (true, error),
            Outcome::Conflict(_) => (false, ErrorBody::new(Code::VersionConflict)),
        };
        world.error(format!("The server said {}: {}", error.name, error.message));
        if error.code.http_status() == 429 {
            world.count(Count::Limited);
        }
        if !again {
            world.count(Count::Refused);
            self.pending
                .borrow_mut()
                .retain(|change| change.operation.id != result.id);
            return;
        }
        world.count(Count::Retried);
        let (screen, wait) = (self.clone(), error.retry_after_ms.unwrap_or(RETRY_MS));
        tokio::task::spawn_local(async move {
            tokio::time::sleep(Duration::from_millis(wait.into())).await;
            let waiting = screen.pending.borrow();
            let change = waiting.iter().find(|change| change.operation.id == result.id);
            // Who is not current sends everything again when it is.
            if let Some(change) = change.filter(|_| screen.is_current.get()) {
                screen.send(vec![change.operation.clone()]);
            }
        });
    }

    fn accepted(&self, world: &World, operation: OperationId, seq: Seq) {
        let place = self
            .pending
            .borrow()
            .iter()
            .position(|change| change.operation.id == operation);
        let Some(change) = place.and_then(|place| self.pending.borrow_mut().remove(place)) else {
            // Sent twice and answered twice: the second answer has to be the same.
            if let Err(wrong) = world.feeds[self.user].borrow_mut().acknowledge(operation, seq) {
                world.wrong(wrong);
            }
            return;
        };
        acknowledged(world, self.user, operation, seq);
        if let Command::TaskCreate(create) = change.operation.command {
            world.remember(self.user, create.task);
        }
        world.time(Timed::Write, change.due_ns);
    }

    /// Drops the connection, which was due then, and comes back at once.
    pub fn drop_connection(&self, due_ns: u64) {
        if self.link.borrow().is_some() {
            self.dropped_ns.set(Some(due_ns));
            self.dropped.notify_one();
        }
    }

    /// Reads slowly from now on, if it is one that does, or like everybody else again.
    pub fn read_slowly(&self, slowly: bool) {
        self.slow.set(slowly && self.is_slow);
    }

    /// Changes without an answer.
    pub fn unanswered(&self) -> u64 {
        self.pending.borrow().len() as u64
    }
}

/// A change is durable.
pub fn acknowledged(world: &World, user: usize, operation: OperationId, seq: Seq) {
    world.count(Count::Acknowledged);
    let acknowledged = world.feeds[user].borrow_mut().acknowledge(operation, seq);
    if let Err(wrong) = acknowledged {
        world.wrong(wrong);
    }
}

/// Waits with the runtime's own timers: connecting is not timed to the millisecond.
async fn wait_until(due_ns: u64) {
    let left = due_ns.saturating_sub(clock::now_ns());
    tokio::time::sleep(Duration::from_nanos(left)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_message_only_what_is_looked_at_is_decoded() {
        let text = br#"{"entries":{"feed":"x","entries":[{"seq":42,"time":1,"author":"y",
            "operation":"0197a3c0-5555-7aaa-8000-000000000006","changes":[{"new_kind":{}}]}],"cursor":"here"}}"#;
        let frame: Frame<'_> = serde_json::from_slice(text).unwrap();
        let entries = frame.entries.unwrap();
        assert_eq!((entries.entries[0].seq, entries.cursor), (42, "here"));
        let frame: Frame<'_> = serde_json::from_slice(br#"{"presence":{"of":"tomorrow"}}"#).unwrap();
        assert!(frame.entries.is_none() && frame.heartbeat.is_none());
    }
}
