//! What was answered and seen, and whether the log agrees.

use std::collections::{BTreeMap, BTreeSet};

use taskflow_protocol::message::Outcome;
use taskflow_protocol::values::Seq;
use taskflow_protocol::{OperationId, UserId};

use super::store::SimStore;
use crate::domain::{Entry, State};
use crate::feed::{decode_row, rebuild};

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Operations that were accepted.
    pub accepted: u64,
    /// Refused, or in conflict with another version.
    pub refused: u64,
    /// Of which the client was told that nobody knows.
    pub unknown: u64,
    /// Appends that found another head.
    pub conflicts: u64,
    /// Appends without an answer.
    pub lost_answers: u64,
    /// Requests to another node.
    pub forwarded: u64,
    /// The same again.
    pub repeated: u64,
    /// Followers that began anew.
    pub resets: u64,
    /// Followers that read the log because they had missed something.
    pub missed: u64,
    /// Messages of the broker that were lost.
    pub lost_messages: u64,
    /// Nodes that ended without a word.
    pub crashes: u64,
    /// Times that messages did not come through.
    pub downs: u64,
}

impl Counts {
    fn all(&self) -> [(&'static str, u64); 12] {
        [
            ("accepted", self.accepted),
            ("refused", self.refused),
            ("unknown", self.unknown),
            ("conflicts", self.conflicts),
            ("lost answers", self.lost_answers),
            ("forwarded", self.forwarded),
            ("repeated", self.repeated),
            ("resets", self.resets),
            ("missed", self.missed),
            ("lost messages", self.lost_messages),
            ("crashes", self.crashes),
            ("downs", self.downs),
        ]
    }

    /// What never happened: a run without it shows nothing about it.
    pub fn missing(&self) -> Vec<&'static str> {
        self.all().iter().filter(|(_, count)| *count == 0).map(|(name, _)| *name).collect()
    }

    /// Adds those of another schedule.
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.conflicts += other.conflicts;
        self.lost_answers += other.lost_answers;
        self.forwarded += other.forwarded;
        self.repeated += other.repeated;
        self.resets += other.resets;
        self.missed += other.missed;
        self.lost_messages += other.lost_messages;
        self.crashes += other.crashes;
        self.downs += other.downs;
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
                return self.violated(format!("{feed}: the commit at {} holds entries up to {length}", row.last));
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

    /// A client was answered. `sent` says how often it had sent the operation.
    pub fn answered(&mut self, feed: UserId, id: OperationId, outcome: &Outcome, sent: u32) {
        match outcome {
            Outcome::Accepted(accepted) => {
                self.counts.accepted += 1;
                let entry = self.entry(feed, accepted.seq).map(|entry| (entry.operation, entry.refused));
                if entry != Some((id, None)) {
                    let seq = accepted.seq;
                    self.violated(format!("{feed}: {id:?} was accepted as {seq}, where there is {entry:?}"));
                }
            }
            Outcome::Refused(error) => {
                self.counts.refused += 1;
                self.refused_for_good(feed, id, error.code.action() == taskflow_protocol::codes::Action::Retry, sent);
            }
            Outcome::Conflict(_) => {
                self.counts.refused += 1;
                self.refused_for_good(feed, id, false, sent);
            }
            Outcome::Unknown(_) => self.counts.unknown += 1,
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
            self.violated(format!("client {client}: entry {} is not in the log like that", entry.seq));
        }
    }

    /// A client was shown a whole feed, or looked at it.
    pub fn shown_whole(&mut self, client: usize, feed: UserId, at: Seq, state: &State) {
        let expected = self.state(feed, at);
        if !same(state, &expected) {
            self.violated(format!("client {client}: what it sees is not what the log says at {at}"));
        }
    }

    /// A client looked at a feed that was this far when it asked.
    pub fn looked(&mut self, client: usize, asked_at: Seq, seen: Seq) {
        if seen < asked_at {
            self.violated(format!("client {client}: it looked, and saw {seen} where {asked_at} had been answered"));
        }
    }

    /// The log replayed from its beginning.
    pub fn state(&self, feed: UserId, upto: Seq) -> State {
        let mut state = State::new(feed);
        for entry in self.logs.get(&feed).into_iter().flatten().filter(|entry| entry.seq <= upto) {
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
    }

    /// Something else is wrong.
    pub fn fail(&mut self, what: String) {
        self.violated(what);
    }
}

/// Whether two states hold the same rows.
pub fn same(one: &State, other: &State) -> bool {
    one.all_tasks().eq(other.all_tasks()) && one.all_lists().eq(other.all_lists()) && one.all_labels().eq(other.all_labels())
}
