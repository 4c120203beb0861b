//! What a follower gets next: a pure decision, shared by the socket, the event stream, the long-poll and `/changes`.

use taskflow_actors::cursor::Cursor;
use taskflow_actors::ports::Head;
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

#[cfg(test)]
mod tests {
    use super::*;
    use taskflow_actors::ports::Epoch;

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
