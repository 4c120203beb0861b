//! Where the operations of the last 24 hours are in the log.
//!
//! What became of an operation is in its entry, so only a way to find that is kept: a fingerprint of author and id, and
//! the entry's place. Two operations may have the same fingerprint: whoever asks compares the entries.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};

use hashbrown::HashTable;
use taskflow_protocol::values::{Seq, UnixMs};
use taskflow_protocol::{OperationId, UserId};

use crate::domain::Entry;

/// Bits of a fingerprint. With 32, one new operation in four thousand is looked up in vain where a million are remembered.
/// The simulation has few operations, and is to meet this.
const FINGERPRINT_BITS: u32 = if cfg!(feature = "simulation") { 9 } else { 32 };

/// What is forgotten together, in milliseconds: an hour in a day, so that going through all of them is rare, and little is
/// kept for longer than it must be.
const SPAN_MS: i64 = 60 * 60 * 1000;

/// Entries by the fingerprint of the operation that made them.
#[derive(Debug)]
pub(super) struct Answers {
    /// Nobody outside knows it, so that nobody can make operations that have the same fingerprint.
    key: u64,
    /// Fingerprints, and the low half of each entry's `seq`: eight bytes an operation.
    table: HashTable<(u32, u32)>,
    /// The newest entry, from which the high half follows.
    newest: Seq,
    /// Of each span, in order: the time of its first entry, and that entry.
    spans: VecDeque<(UnixMs, Seq)>,
}

impl Answers {
    /// None yet.
    pub fn new(key: u64) -> Self {
        Self {
            key,
            table: HashTable::new(),
            newest: 0,
            spans: VecDeque::new(),
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::new(self.key);
    }

    /// The entries that may be of this operation, the newest first: an id that is used again a day later is another operation.
    pub fn places(&self, author: UserId, id: OperationId) -> Vec<Seq> {
        let wanted = self.fingerprint(author, id);
        let same = self.table.iter_hash(spread(wanted));
        let same = same.filter(move |(fingerprint, _)| *fingerprint == wanted);
        let mut places: Vec<Seq> = same.map(|(_, place)| whole(*place, self.newest)).collect();
        places.sort_unstable_by_key(|seq| Reverse(*seq));
        places
    }

    /// Remembers the operation that made this entry. Times come in their order.
    pub fn insert(&mut self, entry: &Entry) {
        let fingerprint = self.fingerprint(entry.author, entry.operation);
        let hash = |(fingerprint, _): &(u32, u32)| spread(*fingerprint);
        self.table
            .insert_unique(spread(fingerprint), (fingerprint, low(entry.seq)), hash);
        self.newest = self.newest.max(entry.seq);
        if self.spans.back().is_none_or(|(begun, _)| entry.time - begun >= SPAN_MS) {
            self.spans.push_back((entry.time, entry.seq));
        }
    }

    /// Forgets what is older, except the last hour of it.
    pub fn forget_before(&mut self, time: UnixMs) {
        let mut is_old = false;
        while self.spans.pop_front_if(|(begun, _)| *begun + SPAN_MS <= time).is_some() {
            is_old = true;
        }
        if !is_old {
            return;
        }
        let newest = self.newest;
        let first = self.spans.front().map_or(newest + 1, |(_, first)| *first);
        self.table.retain(|(_, place)| whole(*place, newest) >= first);
        // Room for what comes before the next time, so that it does not shrink and grow in turns.
        let room = self.table.len() + self.table.len() / 8;
        self.table.shrink_to(room, |(fingerprint, _)| spread(*fingerprint));
    }

    fn fingerprint(&self, author: UserId, id: OperationId) -> u32 {
        let mut hasher = DefaultHasher::new();
        (self.key, author, id).hash(&mut hasher);
        low(hasher.finish() >> (64 - FINGERPRINT_BITS))
    }
}

/// The table finds by the low bits and compares the highest seven first.
fn spread(fingerprint: u32) -> u64 {
    u64::from(fingerprint) << 32 | u64::from(fingerprint)
}

fn low(seq: Seq) -> u32 {
    (seq & u64::from(u32::MAX)) as u32
}

/// The `seq` with this low half that is not above the newest: nobody does four thousand million operations in a day.
fn whole(place: u32, newest: Seq) -> Seq {
    newest - Seq::from(low(newest).wrapping_sub(place))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    /// What happens to an index.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// One of a few authors makes an entry under one of a few ids, so long after the one before.
        Insert(u128, u128, i64),
        /// What is older than so long is forgotten.
        Forget(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let minutes = |most: i64| (0..most).prop_map(|minutes| minutes * 60_000);
        prop_oneof![
            20 => (0..2_u128, 0..30_u128, minutes(20)).prop_map(|(author, id, after)| Step::Insert(author, id, after)),
            1 => minutes(300).prop_map(Step::Forget),
        ]
    }

    fn entry(author: u128, id: u128, time: UnixMs, seq: Seq) -> Entry {
        Entry {
            seq,
            time,
            author: UserId(Uuid::from_u128(author)),
            operation: OperationId(Uuid::from_u128(id)),
            operation_hash: 0,
            changes: Vec::new(),
            refused: None,
            trace: None,
        }
    }

    proptest! {
        #[test]
        fn what_is_not_old_is_found_and_what_is_an_hour_older_is_not(
            key: u64,
            // Also where the low half of a `seq` begins anew.
            first in prop_oneof![Just(1), Just(u64::from(u32::MAX) - 50), Just((7 << 32) - 50)],
            steps in prop::collection::vec(step(), 0..400),
        ) {
            let mut answers = Answers::new(key);
            let (mut model, mut time, mut forgotten) = (Vec::<Entry>::new(), 0, 0);
            for step in steps {
                match step {
                    Step::Insert(author, id, after) => {
                        time += after;
                        let entry = entry(author, id, time, first + model.len() as Seq);
                        answers.insert(&entry);
                        model.push(entry);
                    }
                    Step::Forget(age) => {
                        forgotten = forgotten.max(time - age);
                        answers.forget_before(time - age);
                    }
                }
            }
            for (author, id) in (0..2).flat_map(|author| (0..30).map(move |id| (author, id))) {
                let asked = entry(author, id, 0, 0);
                let found = answers.places(asked.author, asked.operation);
                prop_assert!(found.is_sorted_by(|newer, older| newer > older), "{found:?}");
                for entry in &model {
                    let is_same = (entry.author, entry.operation) == (asked.author, asked.operation);
                    let is_found = found.contains(&entry.seq);
                    prop_assert!(is_found || !is_same || entry.time < forgotten, "{entry:?} is forgotten");
                    prop_assert!(!is_found || entry.time >= forgotten - SPAN_MS, "{entry:?} is remembered");
                }
                // A fingerprint of 32 bits is hardly ever that of another.
                let same = |seq: &Seq| {
                    let entry = &model[usize::try_from(seq - first).unwrap()];
                    (entry.author, entry.operation) == (asked.author, asked.operation)
                };
                prop_assert!(cfg!(feature = "simulation") || found.iter().all(same), "{found:?}");
            }
        }
    }

    #[test]
    fn what_is_forgotten_gives_its_memory_back() {
        let mut answers = Answers::new(1);
        for seq in 1..=100_000 {
            answers.insert(&entry(1, seq.into(), 0, seq));
        }
        let full = answers.table.allocation_size();
        assert!(full / 100_000 <= 20, "{full} bytes");
        answers.forget_before(SPAN_MS - 1);
        assert_eq!(answers.table.len(), 100_000);
        answers.forget_before(SPAN_MS);
        assert_eq!((answers.table.len(), answers.spans.len()), (0, 0));
        assert!(answers.table.allocation_size() < 100);
    }
}
