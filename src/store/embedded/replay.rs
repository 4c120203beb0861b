//! The start: what the database holds, compared with the witness, and the inbox read back into memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use rusqlite::Connection;
use taskflow_actors::ports::{Append, Head};
use taskflow_protocol::UserId;
use taskflow_protocol::values::Seq;

use super::codec::{self, Commit, Filed, StoredHead};
use super::fault::{Fault, Outcome};
use super::folder::{DATABASE, WITNESS};
use super::queue::RowsJob;
use super::reader;
use super::schema::{self, Meta};
use super::witness::{Record, Witness};

/// What the writer knows of a feed.
#[derive(Debug)]
pub(super) struct Feed {
    /// As the table `head` has it.
    pub stored: StoredHead,
    /// The last commit, the ones not moved yet and the one being written included.
    pub seq: Seq,
    /// Commits not moved yet.
    pub waiting: usize,
    /// Rows not written yet, in the order of the calls.
    pub rows: Vec<RowsJob>,
}

impl std::fmt::Debug for RowsJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows up to {}", self.rows.len(), self.upto)
    }
}

impl Feed {
    pub(super) fn new(stored: StoredHead) -> Self {
        Self {
            stored,
            seq: stored.seq,
            waiting: 0,
            rows: Vec::new(),
        }
    }

    pub(super) fn head(&self) -> Head {
        self.stored.head(self.seq)
    }

    pub(super) fn takes(&self, append: &Append) -> bool {
        append.base == self.seq && append.epoch == self.stored.epoch && append.last > append.base
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting == 0 && self.rows.is_empty()
    }
}

/// How much of each group in the inbox has not been moved.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Groups up to this one are gone from the inbox.
    pub removed: u64,
    /// Commits not moved yet, of the group `removed + 1` and those after it.
    left: VecDeque<u32>,
}

impl Groups {
    pub(super) fn last(&self) -> u64 {
        self.removed + self.left.len() as u64
    }

    pub(super) fn add(&mut self, commits: usize) {
        self.left.push_back(u32::try_from(commits).unwrap_or(u32::MAX));
    }

    fn of(&mut self, commit: &Commit) -> Option<&mut u32> {
        let index = commit.group.checked_sub(self.removed + 1)?;
        self.left.get_mut(usize::try_from(index).ok()?)
    }

    /// These are moved, once the transaction is through.
    pub(super) fn take(&mut self, commits: &[Commit]) {
        for commit in commits {
            if let Some(left) = self.of(commit) {
                *left = left.saturating_sub(1);
            }
        }
    }

    /// They are not: the transaction failed.
    pub(super) fn give_back(&mut self, commits: &[Commit]) {
        for commit in commits {
            if let Some(left) = self.of(commit) {
                *left += 1;
            }
        }
    }

    /// The last group of which nothing is left, nor of any before it.
    pub(super) fn removable(&self) -> u64 {
        self.removed + self.left.iter().take_while(|left| **left == 0).count() as u64
    }

    pub(super) fn remove(&mut self, upto: u64) {
        while self.removed < upto && self.left.pop_front().is_some() {
            self.removed += 1;
        }
    }
}

/// Everything the writer holds about the database.
///
/// Trees, not hash tables: they grow and shrink by small nodes, where a table moves whole into a new and larger block, and
/// stays as large as it ever was.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Feeds with something to move, and some others.
    pub feeds: BTreeMap<UserId, Feed>,
    pub groups: Groups,
    /// Feeds with something to move.
    pub dirty: BTreeSet<UserId>,
    /// Bytes of rows that wait.
    pub rows_bytes: usize,
}

/// What a start finds.
#[derive(Default)]
pub(super) struct Replayed {
    pub state: State,
    /// For the tail.
    pub commits: Vec<(UserId, Head, Commit)>,
    /// Commits of feeds whose head does not fit them: what is wrong, and what is to be put aside.
    pub stranded: HashMap<UserId, (String, Vec<Commit>)>,
}

/// Reads the inbox and compares with the witness. Writes nothing.
pub(super) fn replay(connection: &Connection, witness: &Record) -> Outcome<Replayed> {
    let [store] = schema::meta(connection, Meta::Store)?;
    if store != witness.store {
        return Err(Fault::Damaged(format!(
            "{DATABASE} and {WITNESS} belong to different stores"
        )));
    }
    let frames = schema::frames(connection)?;
    if !Witness::allows(witness, frames) {
        return Err(Fault::Damaged(format!(
            "{DATABASE}-wal: the last run ended in the middle of a checkpoint, which needs {} frames of this file, and \
             only {frames} are valid; {DATABASE} alone is neither old nor new",
            witness.frames
        )));
    }
    let [removed] = schema::meta(connection, Meta::Moved)?;
    let mut replayed = Replayed::default();
    replayed.state.groups.removed = removed;
    let mut statement = connection.prepare("SELECT n,v FROM inbox ORDER BY n")?;
    let mut groups = statement.query([])?;
    while let Some(group) = groups
        .next()
        .map_err(|error| Fault::from(error).at("inbox", "reading"))?
    {
        let number = group.get_ref(0)?.as_i64()?.cast_unsigned();
        let expected = replayed.state.groups.last() + 1;
        if number != expected {
            return Err(Fault::damaged(
                "inbox",
                format_args!("group {expected}"),
                "it is missing",
            ));
        }
        let filed = codec::decode_group(number, group.get_ref(1)?.as_blob()?)
            .map_err(|fault| fault.at("inbox", format_args!("group {number}")))?;
        replayed.state.groups.add(filed.len());
        for filed in filed {
            replayed.file(connection, filed)?;
        }
    }
    let last = replayed.state.groups.last();
    if last < witness.group {
        return Err(Fault::Damaged(format!(
            "{DATABASE} with {DATABASE}-wal ends with group {last}, but {WITNESS} says that group {} was durable: what \
             was written after group {last} is missing",
            witness.group
        )));
    }
    Ok(replayed)
}

impl Replayed {
    fn file(&mut self, connection: &Connection, filed: Filed) -> Outcome<()> {
        let Filed { feed, epoch, commit } = filed;
        if let Some((_, commits)) = self.stranded.get_mut(&feed) {
            commits.push(commit);
            return Ok(());
        }
        if !self.state.feeds.contains_key(&feed) {
            let stored = match reader::stored_head(connection, feed) {
                // It was moved and removed before the end; only its group had others left.
                Ok(None) if reader::is_removed(connection, feed)? => {
                    self.state.groups.take(std::slice::from_ref(&commit));
                    return Ok(());
                }
                Ok(stored) => stored.unwrap_or(StoredHead::born(epoch)),
                Err(Fault::Damaged(what)) => {
                    self.strand(feed, what, commit);
                    return Ok(());
                }
                Err(other) => return Err(other),
            };
            self.state.feeds.insert(feed, Feed::new(stored));
        }
        let Some(known) = self.state.feeds.get_mut(&feed) else {
            return Ok(());
        };
        if commit.row.last <= known.stored.seq {
            // Moved before the end; only its group had others left.
            self.state.groups.take(std::slice::from_ref(&commit));
            return Ok(());
        }
        if commit.base != known.seq || epoch != known.stored.epoch || commit.row.last <= commit.base {
            let what = format!(
                "{DATABASE}, table inbox, feed {feed}, seq {}: it follows seq {}, but the head is {}",
                commit.row.last, commit.base, known.seq
            );
            self.strand(feed, what, commit);
            return Ok(());
        }
        known.seq = commit.row.last;
        known.waiting += 1;
        self.commits.push((feed, known.head(), commit));
        self.state.dirty.insert(feed);
        Ok(())
    }

    /// The feed's commits cannot be applied: all that the inbox has of it is kept apart.
    fn strand(&mut self, feed: UserId, what: String, commit: Commit) {
        self.state.feeds.remove(&feed);
        self.state.dirty.remove(&feed);
        let mut commits = Vec::new();
        self.commits.retain(|(of, _, commit)| {
            if *of == feed {
                commits.push(commit.clone());
            }
            *of != feed
        });
        commits.push(commit);
        self.stranded.insert(feed, (what, commits));
    }
}
