//! What was answered and seen, and whether the log agrees.

use std::collections::{BTreeMap, BTreeSet};

use taskflow_protocol::codes::Action;
use taskflow_protocol::message::{Command, Operation, Outcome};
use taskflow_protocol::values::Seq;
use taskflow_protocol::{OperationId, UserId};

use super::client::Pending;
use super::plan::Time;
use super::store::SimStore;
use crate::domain::{Activity, Draft, Entry, State};
use crate::feed::{decode_row, rebuild};
use crate::ports::{RowKey, StoredRow};

/// What may be counted: each must happen in a run of a thousand schedules, or the run shows nothing about it.
pub const COUNTED: &[&str] = &[
    "operations accepted",
    "operations refused",
    "operations unknown",
    "appends that found another head",
    "answers of the store that never came",
    "requests to another node",
    "screens told that they may be old, or that they are not",
    "requests that were repeated",
    "followers that began anew",
    "followers that had missed something",
    "messages lost",
    "looks at a feed",
    "changes that were undone",
    "older entries that were read",
    "feeds that began at two nodes at once",
    "followers of queues that were full",
    "publications that waited for a follower",
    "fault: crash",
    "fault: crash at an append",
    "fault: leave",
    "fault: pause",
    "fault: cut from the broker",
    "fault: deaf to the broker",
    "fault: cut from the store",
    "fault: flaky store",
    "fault: slow store",
    "fault: store down",
    "fault: lossy broker",
    "fault: broker forgets",
    "fault: broker down",
    "fault: late subscriptions",
    "fault: a node's queues are full",
    "feeds let go of",
    "fault: connection lost",
    "fault: client forgets",
    "node knows that messages do not come through",
    "rows of which only the first were written",
    "activity that was recounted",
];

/// How often each of [`COUNTED`] happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(pub BTreeMap<&'static str, u64>);

impl Counts {
    /// One more.
    pub fn count(&mut self, what: &'static str) {
        debug_assert!(COUNTED.contains(&what), "{what}");
        *self.0.entry(what).or_default() += 1;
    }

    /// What never happened.
    pub fn missing(&self) -> Vec<&'static str> {
        COUNTED
            .iter()
            .copied()
            .filter(|what| !self.0.contains_key(what))
            .collect()
    }

    /// Adds those of another schedule.
    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Model {
    /// The entries of each feed, as the store has them: the index is `seq - 1`.
    logs: BTreeMap<UserId, Vec<Entry>>,
    /// Where each operation is.
    places: BTreeMap<(UserId, OperationId), Seq>,
    /// Operations that a client was told are refused, and that it sent once.
    refused: BTreeSet<(UserId, OperationId)>,
    /// What each connection of a client sent, in order; and what was sent more than once.
    sent: BTreeMap<(usize, u32), Vec<OperationId>>,
    sent_again: BTreeSet<OperationId>,
    /// What a client was told of as accepted, each `seq` that was above all before, and when.
    confirmed: BTreeMap<UserId, Vec<(Seq, Time)>>,
    /// What is wrong.
    pub violations: Vec<String>,
    /// What was counted.
    pub counts: Counts,
}

impl Model {
    fn violated(&mut self, what: String) {
        // The first is what matters; the others follow from it.
        if self.violations.len() < 10 {
            self.violations.push(what);
        }
    }

    /// The log of a feed has grown: takes in what is new, and checks it.
    pub fn appended(&mut self, feed: UserId, store: &SimStore) {
        let have = self.logs.entry(feed).or_default().len() as Seq;
        let Ok(Some(page)) = store.read_log(feed, have, usize::MAX) else {
            return;
        };
        for row in &page.rows {
            let entries = match decode_row(feed, row) {
                Ok(entries) => entries,
                Err(what) => return self.violated(what),
            };
            for entry in entries {
                self.entered(feed, entry);
            }
            let length = self.logs.get(&feed).map_or(0, Vec::len) as Seq;
            if length != row.last {
                return self.violated(format!(
                    "{feed}: the commit at {} holds entries up to {length}",
                    row.last
                ));
            }
        }
    }

    fn entered(&mut self, feed: UserId, entry: Entry) {
        let log = self.logs.entry(feed).or_default();
        let expected = log.len() as Seq + 1;
        if entry.seq != expected {
            return self.violated(format!("{feed}: entry {} where {expected} should be", entry.seq));
        }
        if log.last().is_some_and(|last| last.time > entry.time) {
            let seq = entry.seq;
            return self.violated(format!("{feed}: time goes back at entry {seq}"));
        }
        let key = (feed, entry.operation);
        let (seq, refused) = (entry.seq, entry.refused);
        log.push(entry);
        if let Some(before) = self.places.insert(key, seq) {
            return self.violated(format!("{feed}: operation {:?} is at {before} and at {seq}", key.1));
        }
        if refused.is_none() && self.refused.contains(&key) {
            self.violated(format!("{feed}: operation {:?} was refused, and is at {seq}", key.1));
        }
    }

    /// A client sends an operation over one of its connections.
    pub fn sends(&mut self, client: usize, connection: u32, operation: &Operation, is_first: bool) {
        let id = operation.id;
        // What may be refused at first, with an answer that is lost, may be accepted later, and behind others.
        let is_sure = matches!(operation.command, Command::TaskCreate(_));
        if is_first && is_sure {
            self.sent.entry((client, connection)).or_default().push(id);
        } else {
            self.sent_again.insert(id);
        }
    }

    /// A client is told something else than that the operation was accepted: later ones need not wait for it.
    pub fn given_up(&mut self, id: OperationId) {
        self.sent_again.insert(id);
    }

    /// In the end: what a connection sent, and sent once, is in the log in that order.
    pub fn check_order(&mut self, client: usize, feed: UserId) {
        for ids in self
            .sent
            .iter()
            .filter(|((of, _), _)| *of == client)
            .map(|(_, ids)| ids.clone())
            .collect::<Vec<_>>()
        {
            let once = ids.iter().filter(|id| !self.sent_again.contains(id));
            let seqs: Vec<Seq> = once.filter_map(|id| self.places.get(&(feed, *id)).copied()).collect();
            if !seqs.is_sorted() {
                return self.violated(format!("client {client}: what it sent in order is at {seqs:?}"));
            }
        }
    }

    /// A refusal must have been right at some moment between the sending and the answer.
    fn check_refusal(&mut self, feed: UserId, operation: &Operation, head_when_sent: Seq) {
        let mut state = self.state(feed, head_when_sent);
        for seq in head_when_sent..=self.head(feed) {
            if let Some(entry) = self.entry(feed, seq).filter(|_| seq > head_when_sent) {
                state.apply(entry);
            }
            let undone = match &operation.command {
                Command::Undo(undo) => self.entry(feed, undo.seq).filter(|_| undo.seq <= seq),
                _ => None,
            };
            if seq == 0 || Draft::new(&state).judge(feed, 0, operation, undone).is_err() {
                return;
            }
        }
        let id = operation.id;
        self.violated(format!(
            "{feed}: {id:?} was refused, and at no time since it was sent was that right"
        ));
    }

    /// A client was answered. `sent` says how often it had sent the operation.
    pub fn answered(&mut self, feed: UserId, pending: &Pending, outcome: &Outcome, now: Time) {
        let (id, sent) = (pending.operation.id, pending.sent);
        let is_final = match outcome {
            Outcome::Conflict(_) => true,
            Outcome::Refused(error) => error.code.action() != Action::Retry,
            _ => false,
        };
        if is_final && sent == 1 {
            self.check_refusal(feed, &pending.operation, pending.head_when_sent);
        }
        match outcome {
            Outcome::Accepted(accepted) => {
                self.counts.count("operations accepted");
                if matches!(pending.operation.command, Command::Undo(_)) {
                    self.counts.count("changes that were undone");
                }
                if accepted.seq > self.confirmed(feed) {
                    self.confirmed.entry(feed).or_default().push((accepted.seq, now));
                }
                let entry = self
                    .entry(feed, accepted.seq)
                    .map(|entry| (entry.operation, entry.refused));
                if entry != Some((id, None)) {
                    let seq = accepted.seq;
                    self.violated(format!(
                        "{feed}: {id:?} was accepted as {seq}, where there is {entry:?}"
                    ));
                }
            }
            Outcome::Refused(error) => {
                self.counts.count("operations refused");
                self.refused_for_good(feed, id, error.code.action() == Action::Retry, sent);
            }
            Outcome::Conflict(_) => {
                self.counts.count("operations refused");
                self.refused_for_good(feed, id, false, sent);
            }
            Outcome::Unknown(_) => self.counts.count("operations unknown"),
        }
    }

    fn refused_for_good(&mut self, feed: UserId, id: OperationId, may_retry: bool, sent: u32) {
        if sent > 1 {
            // An earlier copy may be under way over a connection that is gone: its entry, when it comes, beats this answer.
            return;
        }
        let place = self.places.get(&(feed, id)).copied();
        let is_there = place.is_some_and(|seq| self.entry(feed, seq).is_some_and(|entry| entry.refused.is_none()));
        if is_there {
            return self.violated(format!("{feed}: {id:?} was refused, and is at {place:?}"));
        }
        if !may_retry {
            self.refused.insert((feed, id));
        }
    }

    /// An entry of the log.
    pub fn entry(&self, feed: UserId, seq: Seq) -> Option<&Entry> {
        self.logs.get(&feed)?.get(usize::try_from(seq).ok()?.checked_sub(1)?)
    }

    /// How far somebody has been told that the log is.
    pub fn confirmed(&self, feed: UserId) -> Seq {
        let confirmed = self.confirmed.get(&feed).and_then(|confirmed| confirmed.last());
        confirmed.map_or(0, |(seq, _)| *seq)
    }

    /// When somebody was first told of something after this position.
    pub fn confirmed_after(&self, feed: UserId, at: Seq) -> Option<Time> {
        let confirmed = self.confirmed.get(&feed)?;
        let next = confirmed.partition_point(|(seq, _)| *seq <= at);
        confirmed.get(next).map(|(_, time)| *time)
    }

    /// How long the log is.
    pub fn head(&self, feed: UserId) -> Seq {
        self.logs.get(&feed).map_or(0, Vec::len) as Seq
    }

    /// A client was shown an entry after this position.
    pub fn shown(&mut self, client: usize, feed: UserId, position: Seq, entry: &Entry) {
        if entry.seq != position + 1 {
            return self.violated(format!("client {client}: entry {} after {position}", entry.seq));
        }
        if self.entry(feed, entry.seq) != Some(entry) {
            self.violated(format!(
                "client {client}: entry {} is not in the log like that",
                entry.seq
            ));
        }
    }

    /// A client was shown a whole feed, or looked at it.
    pub fn shown_whole(&mut self, client: usize, feed: UserId, at: Seq, state: &State) {
        let expected = self.state(feed, at);
        if !same(state, &expected) {
            self.violated(format!(
                "client {client}: what it sees is not what the log says at {at}"
            ));
        }
    }

    /// A client looked at a feed that was this far when it asked.
    pub fn looked(&mut self, client: usize, asked_at: Seq, seen: Seq) {
        if seen < asked_at {
            self.violated(format!(
                "client {client}: it looked, and saw {seen} where {asked_at} had been answered"
            ));
        }
    }

    /// The log replayed from its beginning.
    pub fn state(&self, feed: UserId, upto: Seq) -> State {
        let mut state = State::new(feed);
        for entry in self
            .logs
            .get(&feed)
            .into_iter()
            .flatten()
            .filter(|entry| entry.seq <= upto)
        {
            state.apply(entry);
        }
        state.loaded_upto(upto);
        state
    }

    /// In the end: the rows with what is replayed on them come to the same as the log alone, and every accepted
    /// operation of every client is there.
    pub fn check_rows(&mut self, feed: UserId, store: &SimStore) {
        let Ok(Some(loaded)) = store.load(feed, i64::MAX) else {
            return self.violated(format!("{feed}: it cannot be loaded"));
        };
        match rebuild(feed, &loaded, |_| {}) {
            Err(what) => self.violated(what),
            Ok(rebuilt) => {
                let expected = self.state(feed, loaded.head.seq);
                if !same(&rebuilt.state, &expected) {
                    self.violated(format!("{feed}: rows and replay are not what the log says"));
                }
            }
        }
        self.check_activity(feed, loaded.head.rows_upto, store);
    }

    /// What is counted is what a recount of the log comes to, and counted is at least what the rows say.
    fn check_activity(&mut self, feed: UserId, rows_upto: Seq, store: &SimStore) {
        let stored: BTreeMap<RowKey, StoredRow> = store.activity(feed).into_iter().map(|row| (row.key, row)).collect();
        let mut recount = State::new(feed);
        let mut last = BTreeMap::new();
        for entry in self.logs.get(&feed).into_iter().flatten() {
            let Some(key) = Activity::of(entry).map(|done| done.quarter.key()) else {
                continue;
            };
            let counted_upto = stored.get(&key).map_or(0, |row| row.seq);
            if entry.seq <= counted_upto {
                recount.apply(entry);
            }
            if entry.seq <= rows_upto {
                last.insert(key, entry.seq);
            }
        }
        for (key, seq) in last {
            if stored.get(&key).is_none_or(|row| row.seq < seq) {
                return self.violated(format!("{feed}: the rows are at {rows_upto}, but {seq} is not counted"));
            }
        }
        for (key, row) in &stored {
            if recount.stored_row(*key).as_ref() != Some(row) {
                return self.violated(format!(
                    "{feed}: what is counted up to {} is not what the log says",
                    row.seq
                ));
            }
        }
        if !stored.is_empty() {
            self.counts.count("activity that was recounted");
        }
    }

    /// Something else is wrong.
    pub fn fail(&mut self, what: String) {
        self.violated(what);
    }
}

/// Whether two states hold the same rows.
pub fn same(one: &State, other: &State) -> bool {
    one.all_tasks().eq(other.all_tasks())
        && one.all_lists().eq(other.all_lists())
        && one.all_labels().eq(other.all_labels())
}
