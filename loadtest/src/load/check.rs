//! What every scenario checks: each acknowledged change comes to every screen of its feed, once and in order, and is still
//! there at the end.

use std::collections::{BTreeSet, HashMap};

use taskflow_protocol::values::Seq;
use taskflow_protocol::{OperationId, TaskId};

/// What a server must never do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// So many entries were left out.
    Lost(u64),
    /// An entry came again, or an operation made two.
    Doubled,
    /// An entry came after a later one, or is not the one that was acknowledged.
    Disordered,
}

/// How far one screen is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// The last entry that it knows.
    pub position: Seq,
    /// Those before it that did not come.
    missing: BTreeSet<Seq>,
}

impl Sequence {
    /// A snapshot came: everything up to here is known.
    pub fn snapshot(&mut self, seq: Seq) {
        self.position = seq;
        self.missing.clear();
    }

    /// An entry came.
    pub fn take(&mut self, seq: Seq) -> Result<(), Wrong> {
        if seq <= self.position {
            return Err(match self.missing.remove(&seq) {
                true => Wrong::Disordered,
                false => Wrong::Doubled,
            });
        }
        let next = self.position + 1;
        self.missing.extend(next..seq);
        self.position = seq;
        if seq > next {
            return Err(Wrong::Lost(seq - next));
        }
        Ok(())
    }

    /// How many acknowledged changes up to `seq` have not come yet.
    pub fn behind(&self, seq: Seq) -> u64 {
        seq.saturating_sub(self.position)
    }
}

/// A change that this client made.
#[derive(Clone, Copy, Debug)]
struct Change {
    due_ns: u64,
    task: TaskId,
    entry: Option<Seq>,
    acknowledged: Option<Seq>,
}

/// What is known of one feed.
#[derive(Debug, Default)]
pub struct Feed {
    changes: HashMap<OperationId, Change>,
    /// The newest change that was acknowledged.
    pub acknowledged: Seq,
    /// Tasks, by the newest of their changes that was acknowledged.
    rows: HashMap<TaskId, Seq>,
}

impl Feed {
    /// A change is due now.
    pub fn begin(&mut self, operation: OperationId, task: TaskId, due_ns: u64) {
        let change = Change {
            due_ns,
            task,
            entry: None,
            acknowledged: None,
        };
        self.changes.insert(operation, change);
    }

    /// The server says that a change is durable as this entry.
    pub fn acknowledge(&mut self, operation: OperationId, seq: Seq) -> Result<(), Wrong> {
        self.acknowledged = self.acknowledged.max(seq);
        let Some(change) = self.changes.get_mut(&operation) else {
            return Ok(());
        };
        change.acknowledged = Some(seq);
        let row = self.rows.entry(change.task).or_default();
        *row = seq.max(*row);
        match change.entry {
            Some(entry) if entry != seq => Err(Wrong::Disordered),
            _ => Ok(()),
        }
    }

    /// An entry of this operation came to a screen: when it was due, if the change is one of this client's.
    pub fn arrive(&mut self, operation: OperationId, seq: Seq) -> Result<Option<u64>, Wrong> {
        let Some(change) = self.changes.get_mut(&operation) else {
            return Ok(None);
        };
        match change.entry.replace(seq) {
            Some(entry) if entry != seq => return Err(Wrong::Doubled),
            Some(_) => {}
            None if change.acknowledged.is_some_and(|acknowledged| acknowledged != seq) => {
                return Err(Wrong::Disordered);
            }
            None => {}
        }
        Ok(Some(change.due_ns))
    }

    /// The entry of an operation, once it has come to any screen.
    pub fn entry(&self, operation: OperationId) -> Option<Seq> {
        self.changes.get(&operation)?.entry
    }

    /// Forgets what was due before this and has been to all screens, the last of which is at `shown`.
    pub fn forget(&mut self, due_before_ns: u64, shown: Seq) {
        self.changes.retain(|_, change| {
            change.due_ns >= due_before_ns
                || change.acknowledged.is_none()
                || change.entry.is_none_or(|entry| entry > shown)
        });
    }

    /// Whether anything is to be read back.
    pub fn has_rows(&self) -> bool {
        !self.rows.is_empty()
    }

    /// How many rows do not have their newest acknowledged change, by what was read back: versions of rows.
    pub fn gone(&self, versions: &HashMap<TaskId, Seq>) -> u64 {
        let is_gone =
            |(task, acknowledged): &(&TaskId, &Seq)| versions.get(task).is_none_or(|version| version < acknowledged);
        self.rows.iter().filter(is_gone).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn check(seqs: &[Seq], expect: &[Result<(), Wrong>]) -> Sequence {
        let mut sequence = Sequence::default();
        sequence.snapshot(1);
        let got: Vec<_> = seqs.iter().map(|seq| sequence.take(*seq)).collect();
        assert_eq!(got, expect);
        sequence
    }

    fn operation(number: u128) -> OperationId {
        OperationId(Uuid::from_u128(number))
    }

    fn task(number: u128) -> TaskId {
        TaskId(Uuid::from_u128(number))
    }

    #[test]
    fn entries_in_order_are_right() {
        let sequence = check(&[2, 3, 4], &[Ok(()), Ok(()), Ok(())]);
        assert_eq!((sequence.behind(4), sequence.behind(6)), (0, 2));
    }

    #[test]
    fn an_entry_left_out_is_lost_and_late_it_is_disordered() {
        check(
            &[2, 5, 3, 6],
            &[Ok(()), Err(Wrong::Lost(2)), Err(Wrong::Disordered), Ok(())],
        );
    }

    #[test]
    fn an_entry_that_comes_again_is_doubled() {
        check(
            &[2, 2, 3, 2],
            &[Ok(()), Err(Wrong::Doubled), Ok(()), Err(Wrong::Doubled)],
        );
    }

    #[test]
    fn an_operation_that_makes_two_entries_is_doubled() {
        let mut feed = Feed::default();
        feed.begin(operation(1), task(1), 77);
        assert_eq!(feed.arrive(operation(1), 5), Ok(Some(77)));
        assert_eq!(feed.arrive(operation(1), 5), Ok(Some(77)), "on another screen");
        assert_eq!(feed.arrive(operation(1), 6), Err(Wrong::Doubled));
        assert_eq!(feed.arrive(operation(9), 7), Ok(None), "somebody else's");
    }

    #[test]
    fn an_entry_that_is_not_the_acknowledged_one_is_disordered() {
        let mut feed = Feed::default();
        feed.begin(operation(1), task(1), 0);
        assert_eq!(feed.acknowledge(operation(1), 5), Ok(()));
        assert_eq!(feed.arrive(operation(1), 6), Err(Wrong::Disordered));
        feed.begin(operation(2), task(1), 0);
        assert_eq!(feed.arrive(operation(2), 7), Ok(Some(0)));
        assert_eq!(feed.acknowledge(operation(2), 8), Err(Wrong::Disordered));
    }

    #[test]
    fn rows_without_their_newest_acknowledged_change_are_gone() {
        let mut feed = Feed::default();
        for (number, seq) in [(1, 2), (2, 3), (3, 4)] {
            feed.begin(operation(number), task(number), 0);
            feed.acknowledge(operation(number), seq).unwrap();
        }
        feed.begin(operation(4), task(3), 0);
        feed.acknowledge(operation(4), 9).unwrap();
        let versions = HashMap::from([(task(1), 2), (task(3), 4)]);
        assert_eq!(feed.gone(&versions), 2, "one is not there, one is old");
        let versions = HashMap::from([(task(1), 20), (task(2), 3), (task(3), 9)]);
        assert_eq!(feed.gone(&versions), 0);
    }

    #[test]
    fn what_is_forgotten_is_old_acknowledged_and_on_all_screens() {
        let mut feed = Feed::default();
        for (number, due_ns) in [(1, 5), (2, 5), (3, 50), (4, 5)] {
            feed.begin(operation(number), task(number), due_ns);
        }
        for number in [1, 2, 3] {
            feed.acknowledge(operation(number), number as Seq).unwrap();
            feed.arrive(operation(number), number as Seq).unwrap();
        }
        feed.forget(10, 1);
        let left: Vec<_> = (1..=4).filter(|n| feed.changes.contains_key(&operation(*n))).collect();
        assert_eq!(left, [2, 3, 4]);
    }
}
