//! What a follower gets next: a pure decision, shared by the socket, the event stream, the long-poll and `/changes`.

use std::collections::VecDeque;

use crate::cursor::Cursor;
use crate::domain::Entry;
use crate::feed::decode_row;
use crate::planted::{Bug, is_planted};
use crate::ports::{Epoch, Head, LogPage};
use taskflow_protocol::UserId;
use taskflow_protocol::message::{FollowMode, ResetReason};
use taskflow_protocol::values::Seq;

/// What comes next for a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing was missed.
    UpToDate,
    /// The entries after this one were missed, and the log still has them all.
    Entries(Seq),
    /// What the follower has is of no use: a snapshot follows.
    Reset(ResetReason),
}

impl Decision {
    /// As `following` says it.
    pub fn mode(self) -> FollowMode {
        match self {
            Self::UpToDate => FollowMode::UpToDate,
            Self::Entries(_) => FollowMode::Entries,
            Self::Reset(_) => FollowMode::Reset,
        }
    }

    /// Why, when it is a reset.
    pub fn reason(self) -> Option<ResetReason> {
        match self {
            Self::Reset(reason) => Some(reason),
            Self::UpToDate | Self::Entries(_) => None,
        }
    }
}

/// Decides from the cursor that a follower brings and the head of the feed's log.
///
/// The head must be the store's, not a guess: a cursor that is ahead of a stale head would be reset for nothing.
pub fn decide(cursor: Option<Cursor>, head: &Head) -> Decision {
    let Some(cursor) = cursor else {
        return Decision::Reset(ResetReason::NoCursor);
    };
    if cursor.epoch != head.epoch {
        return Decision::Reset(ResetReason::EpochChanged);
    }
    if cursor.seq > head.seq {
        return Decision::Reset(ResetReason::CursorAhead);
    }
    if cursor.seq == head.seq {
        return Decision::UpToDate;
    }
    // The entry after the cursor must still be kept. (`seq < head.seq`, so adding one cannot overflow.)
    if cursor.seq + 1 < head.first {
        return Decision::Reset(ResetReason::CursorTooOld);
    }
    Decision::Entries(cursor.seq)
}

/// The entries of a page of the log after `position`, checked to be dense from there on.
///
/// An entry that does not decode and a hole are walls: the error names the place, and nobody is sent past it
/// (`feed_damaged`). Empty means that the log ends at `position`.
pub fn entries_after(feed: UserId, page: &LogPage, position: Seq) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    for row in &page.rows {
        entries.extend(decode_row(feed, row)?.into_iter().filter(|entry| entry.seq > position));
    }
    for (entry, expected) in entries.iter().zip(position + 1..) {
        if entry.seq != expected {
            return Err(format!("feed {feed}: entry {expected} is missing from the log"));
        }
    }
    if entries.is_empty() && page.head.seq > position {
        return Err(format!("feed {feed}: entry {} is missing from the log", position + 1));
    }
    Ok(entries)
}

/// What a follower does with a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It begins right after the follower's position: it is sent.
    Now,
    /// The follower is being read to, and may get it when that has come so far: see [`Kept`].
    Later,
    /// The follower has it.
    Not,
    /// The follower missed something before it, and has to read the log from its position. Then it may get this one.
    Missed,
}

/// Publications that wait for a follower until the log has been read to where they begin. They spare it a read for each
/// change that comes while it reads: one who reads a feed that changes faster than that would never be done.
#[derive(Debug)]
pub struct Kept<T> {
    waiting: VecDeque<Waiting<T>>,
    /// Of all of them.
    bytes: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    epoch: Epoch,
    first: Seq,
    last: Seq,
    bytes: usize,
    publication: T,
}

/// More than come while one page of the log is read, also from a slow store. What does not fit is read.
const KEPT_MAX: usize = 32;

/// Bytes of them: a client that does not read while its feed changes must not cost more than its queue may hold.
const KEPT_BYTES_MAX: usize = 64 * 1024;

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
        }
    }
}

impl<T> Kept<T> {
    /// Keeps a publication of these entries, if it is small enough. The oldest make room: the log that is being read has
    /// them first.
    pub fn keep(&mut self, epoch: Epoch, entries: &[Entry], publication: T) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return;
        };
        let bytes: usize = entries.iter().map(Entry::stored_bytes_max).sum();
        while self.waiting.len() == KEPT_MAX || self.bytes + bytes > KEPT_BYTES_MAX {
            let Some(oldest) = self.waiting.pop_front() else { return };
            self.bytes -= oldest.bytes;
        }
        self.bytes += bytes;
        self.waiting.push_back(Waiting {
            epoch,
            first: first.seq,
            last: last.seq,
            bytes,
            publication,
        });
    }

    /// The next one, if it begins right after the follower's position, which it moves. What the follower has is dropped.
    pub fn next(&mut self, at: &mut Follower) -> Option<T> {
        loop {
            let &Waiting { epoch, first, last, .. } = self.waiting.front()?;
            let is_old = epoch != at.epoch || last <= at.position;
            let fits = !is_old && (first == at.position + 1 || is_planted(Bug::KeptOverHole));
            if !fits && !is_old {
                return None;
            }
            let oldest = self.waiting.pop_front()?;
            self.bytes -= oldest.bytes;
            if self.waiting.is_empty() {
                // Most connections wait for nothing most of the time.
                self.waiting = VecDeque::new();
            }
            if fits {
                at.position = last;
                return Some(oldest.publication);
            }
        }
    }
}

/// How far a follower is, and what it is to get next.
///
/// A follower that is *live* gets publications as they come. One that is not is being read to, from the log; what is
/// published meanwhile is noted, and kept if there is room, and if not it is read. So there is no window between the two: it
/// goes live when the log and what was kept have nothing that it lacks and nothing newer was noted.
#[derive(Clone, Copy, Debug)]
pub struct Follower {
    epoch: Epoch,
    /// The last entry that was sent.
    position: Seq,
    /// The newest entry that is known to be there.
    noted: Seq,
    /// The same when the read that is under way began.
    asked: Seq,
    /// Something was lost on its way here since the read that is under way began: nobody knows what.
    lost: bool,
    live: bool,
}

impl Default for Follower {
    /// Nothing was read yet.
    fn default() -> Self {
        Self {
            epoch: Epoch(0),
            position: 0,
            noted: 0,
            asked: 0,
            lost: false,
            live: false,
        }
    }
}

impl Follower {
    /// The history that it follows.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last entry that it has.
    pub fn position(&self) -> Seq {
        self.position
    }

    /// Whether it gets publications as they come.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// It stands here in this history: a cursor, or the end of a snapshot.
    pub fn stands(&mut self, epoch: Epoch, position: Seq) {
        self.epoch = epoch;
        self.position = position;
    }

    /// Entries were published, from the first to the last.
    pub fn published(&mut self, epoch: Epoch, first: Seq, last: Seq) -> Wanted {
        if !self.live {
            self.noted = self.noted.max(last);
            return Wanted::Later;
        }
        if epoch == self.epoch && last <= self.position {
            return Wanted::Not;
        }
        if epoch != self.epoch || first != self.position + 1 && !is_planted(Bug::HoleIgnored) {
            self.live = false;
            self.noted = last;
            return Wanted::Missed;
        }
        self.position = last;
        Wanted::Now
    }

    /// The feed is this far: whether the follower missed something, and has to read the log from its position.
    pub fn announced(&mut self, epoch: Epoch, head: Seq) -> bool {
        if !self.live {
            self.noted = self.noted.max(head);
            return false;
        }
        if epoch == self.epoch && head <= self.position {
            return false;
        }
        self.live = false;
        self.noted = head;
        true
    }

    /// After which entry the log is to be read next; `None`: it is live from here on.
    pub fn read_next(&mut self) -> Option<Seq> {
        let lost = std::mem::take(&mut self.lost);
        self.live = self.position >= self.noted && !lost || is_planted(Bug::LiveTooEarly);
        self.asked = self.noted;
        (!self.live).then_some(self.position)
    }

    /// A page of the log was read, with entries for the follower or without.
    pub fn read(&mut self, has_entries: bool, head: Seq) {
        self.noted = if has_entries {
            // A page holds only so many bytes: up to the head there may be more, whether or not it is published now.
            self.noted.max(head)
        } else if self.noted > self.asked && !is_planted(Bug::NotedIsForgotten) {
            // It came while the log was being read, which may have been before it was written.
            self.noted
        } else {
            // What was noted before the log was read, and is not in it, is not there.
            self.position
        };
    }

    /// Entries of the log up to this one were sent.
    pub fn sent(&mut self, last: Seq) {
        self.position = last;
    }

    /// It begins anew, in whatever history there is: what was noted may be of another.
    pub fn begins_anew(&mut self) {
        self.noted = 0;
    }

    /// Publications were lost on the way: whether it has to read the log from its position. If it is being read to, it is
    /// read to again, for the read that is under way may have been before what was lost.
    pub fn lost_some(&mut self) -> bool {
        self.lost = !is_planted(Bug::LostIsForgotten);
        std::mem::replace(&mut self.live, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::codec::encode_commit;
    use crate::ports::LogRow;
    use taskflow_protocol::OperationId;
    use uuid::Uuid;

    const FEED: UserId = UserId(Uuid::from_u128(9));

    fn entries(seqs: std::ops::RangeInclusive<Seq>) -> Vec<Entry> {
        let entry = |seq| Entry {
            seq,
            time: 1_000,
            author: FEED,
            operation: OperationId(Uuid::from_u128(seq.into())),
            operation_hash: 0,
            changes: Vec::new(),
            refused: None,
            trace: None,
        };
        seqs.map(entry).collect()
    }

    fn row(seqs: std::ops::RangeInclusive<Seq>) -> LogRow {
        let last = *seqs.end();
        LogRow {
            last,
            append_id: last,
            time: 1_000,
            body: encode_commit(&entries(seqs)).into(),
        }
    }

    fn seqs(rows: Vec<LogRow>, position: Seq) -> Result<Vec<Seq>, String> {
        let page = LogPage { head: HEAD, rows };
        let entries = entries_after(FEED, &page, position)?;
        Ok(entries.iter().map(|entry| entry.seq).collect())
    }

    #[test]
    fn a_cursor_may_point_inside_a_commit() {
        assert_eq!(seqs(vec![row(95..=98), row(99..=100)], 96), Ok(vec![97, 98, 99, 100]));
        assert_eq!(seqs(vec![row(95..=100)], 99), Ok(vec![100]));
        assert_eq!(
            seqs(vec![row(95..=98)], 94),
            Ok(vec![95, 96, 97, 98]),
            "a page need not reach the head"
        );
        assert_eq!(seqs(vec![], 100), Ok(vec![]));
    }

    #[test]
    fn a_hole_is_a_wall_wherever_it_is() {
        let missing = |seq: Seq| Err(format!("feed {FEED}: entry {seq} is missing from the log"));
        assert_eq!(seqs(vec![row(97..=98)], 95), missing(96), "at the beginning");
        assert_eq!(
            seqs(vec![row(95..=96), row(99..=100)], 94),
            missing(97),
            "in the middle"
        );
        assert_eq!(seqs(vec![], 99), missing(100), "at the end");
        assert_eq!(seqs(vec![row(95..=98)], 98), missing(99), "a page with nothing new");
    }

    #[test]
    fn an_entry_that_does_not_decode_is_a_wall_and_named() {
        let damaged = LogRow {
            body: vec![1, 0xc1].into(),
            ..row(100..=100)
        };
        let error = seqs(vec![row(99..=99), damaged], 98).expect_err("a wall");
        assert!(error.contains("the commit at 100 does not decode"), "{error}");
    }

    const HEAD: Head = Head {
        epoch: Epoch(7),
        seq: 100,
        first: 41,
        rows_upto: 100,
    };

    fn at(epoch: u64, seq: Seq) -> Option<Cursor> {
        Some(Cursor {
            epoch: Epoch(epoch),
            seq,
        })
    }

    #[test]
    fn every_cursor_leads_to_exactly_one_answer() {
        let cases = [
            (None, Decision::Reset(ResetReason::NoCursor)),
            (at(8, 100), Decision::Reset(ResetReason::EpochChanged)),
            (at(7, 101), Decision::Reset(ResetReason::CursorAhead)),
            (at(7, Seq::MAX), Decision::Reset(ResetReason::CursorAhead)),
            (at(7, 100), Decision::UpToDate),
            (at(7, 99), Decision::Entries(99)),
            (at(7, 41), Decision::Entries(41)),
            // Entry 41 is the first that is kept: who has 40 has missed nothing that is gone.
            (at(7, 40), Decision::Entries(40)),
            (at(7, 39), Decision::Reset(ResetReason::CursorTooOld)),
            (at(7, 0), Decision::Reset(ResetReason::CursorTooOld)),
        ];
        for (cursor, expected) in cases {
            assert_eq!(decide(cursor, &HEAD), expected, "{cursor:?}");
        }
    }

    #[test]
    fn a_feed_that_keeps_everything_takes_a_cursor_of_zero() {
        let head = Head { first: 1, ..HEAD };
        assert_eq!(decide(at(7, 0), &head), Decision::Entries(0));
    }

    #[test]
    fn what_is_published_while_the_log_is_being_read_is_read_next() {
        let mut follower = Follower::default();
        follower.stands(Epoch(7), 5);
        // The log was read, it ended at 5, and before that is known here the next entry is committed and published.
        assert_eq!(follower.published(Epoch(7), 6, 6), Wanted::Later);
        follower.read(false, 5);
        assert_eq!(follower.read_next(), Some(5));
        assert!(!follower.announced(Epoch(7), 7));
        follower.read(true, 6);
        follower.sent(6);
        assert_eq!(follower.read_next(), Some(6));
        follower.read(true, 7);
        follower.sent(7);
        assert_eq!(follower.read_next(), None);
        assert_eq!(follower.published(Epoch(7), 8, 8), Wanted::Now);
    }

    #[test]
    fn what_was_noted_before_a_read_that_does_not_show_it_is_not_there() {
        let mut follower = Follower::default();
        follower.stands(Epoch(7), 5);
        assert_eq!(follower.read_next(), None);
        assert!(follower.announced(Epoch(7), 9));
        assert_eq!(follower.read_next(), Some(5));
        follower.read(false, 5);
        assert_eq!(follower.read_next(), None);
    }

    #[test]
    fn what_was_lost_on_the_way_is_read() {
        let mut follower = Follower::default();
        follower.stands(Epoch(7), 5);
        assert_eq!(follower.read_next(), None);
        assert!(follower.lost_some());
        assert_eq!(follower.read_next(), Some(5), "nobody knows what it was");
        follower.read(true, 6);
        follower.sent(6);
        assert_eq!(follower.read_next(), None, "the log has no more");
        assert_eq!(follower.published(Epoch(7), 7, 7), Wanted::Now);
    }

    #[test]
    fn what_was_lost_while_the_log_was_being_read_is_read_next() {
        let mut follower = Follower::default();
        follower.stands(Epoch(7), 5);
        // The log was read, and before that is known here the next entry is committed, and lost on its way here.
        assert!(!follower.lost_some(), "it is being read to");
        follower.read(false, 5);
        assert_eq!(follower.read_next(), Some(5));
        follower.read(false, 5);
        assert_eq!(follower.read_next(), None);
    }

    #[test]
    fn what_is_kept_while_the_log_is_being_read_needs_no_further_read() {
        let (mut follower, mut kept) = (Follower::default(), Kept::default());
        follower.stands(Epoch(7), 5);
        for (first, last) in [(6, 6), (7, 8), (9, 9)] {
            assert_eq!(follower.published(Epoch(7), first, last), Wanted::Later);
            kept.keep(Epoch(7), &entries(first..=last), last);
        }
        assert_eq!(kept.next(&mut follower), Some(6));
        // The log was read further than that.
        follower.sent(8);
        assert_eq!(kept.next(&mut follower), Some(9));
        assert_eq!(kept.next(&mut follower), None);
        assert_eq!((follower.read_next(), follower.position()), (None, 9));
    }

    #[test]
    fn what_is_kept_after_a_hole_waits_for_the_log() {
        let (mut follower, mut kept) = (Follower::default(), Kept::default());
        follower.stands(Epoch(7), 5);
        assert_eq!(follower.read_next(), None);
        assert_eq!(follower.published(Epoch(7), 7, 8), Wanted::Missed);
        kept.keep(Epoch(7), &entries(7..=8), "seven and eight");
        assert_eq!(kept.next(&mut follower), None);
        assert_eq!(follower.read_next(), Some(5));
        follower.read(true, 6);
        follower.sent(6);
        assert_eq!(kept.next(&mut follower), Some("seven and eight"));
        assert_eq!(follower.read_next(), None);
    }

    #[test]
    fn what_is_kept_of_another_history_is_dropped_and_the_oldest_make_room() {
        let (mut follower, mut kept) = (Follower::default(), Kept::default());
        kept.keep(Epoch(6), &entries(6..=6), 0);
        for seq in 6..=5 + KEPT_MAX as Seq + 2 {
            kept.keep(Epoch(7), &entries(seq..=seq), seq);
        }
        follower.stands(Epoch(7), 5);
        assert_eq!(kept.next(&mut follower), None, "6 and 7 made room");
        follower.sent(7);
        assert_eq!(kept.next(&mut follower), Some(8));
        follower.stands(Epoch(8), 0);
        assert_eq!(kept.next(&mut follower), None);
        assert!(kept.waiting.is_empty() && kept.bytes == 0);
        // Nor does one that is larger than there may be, and those before it are of no use.
        kept.keep(Epoch(8), &entries(1..=1), 1);
        kept.keep(Epoch(8), &entries(2..=20_000), 2);
        assert!(kept.waiting.is_empty() && kept.bytes == 0);
    }

    #[test]
    fn mode_and_reason_go_together() {
        assert_eq!(Decision::UpToDate.mode(), FollowMode::UpToDate);
        assert_eq!(Decision::UpToDate.reason(), None);
        assert_eq!(Decision::Entries(3).mode(), FollowMode::Entries);
        assert_eq!(Decision::Reset(ResetReason::CursorAhead).mode(), FollowMode::Reset);
        assert_eq!(
            Decision::Reset(ResetReason::CursorAhead).reason(),
            Some(ResetReason::CursorAhead)
        );
    }
}
