//! The feeds that this node follows, and when each is to be compared with its log.
//!
//! A message that was lost shows as a hole with the next one, but a lost *last* message shows nothing. So every followed
//! feed is compared with its head in the store now and then, and at once after anything that may have lost a message.
//! While no messages come through at all, this is how changes are found: feeds that changed or were opened lately every
//! second or two, the others as often if they are few, and twice a minute at least, within a budget of reads under way.
//!
//! Times are milliseconds of this node's own monotonic clock.

use std::collections::{BTreeMap, BTreeSet};

use taskflow_protocol::UserId;
use taskflow_protocol::values::Seq;

use crate::planted::{Bug, is_planted};
use crate::ports::{Epoch, Head};

/// While messages come through: a feed is compared once a minute.
const QUIET_MS: u64 = 60_000;

/// While they do not: feeds that changed or were opened lately.
const LATELY_MS: u64 = 1_500;

/// While they do not: all others, together so many a second. A read is a tenth of a millisecond of the database's time, and
/// most of them find nothing.
const OTHERS_A_SECOND: u64 = 500;

/// The longest time between two reads of one of them.
const OTHERS_MS: u64 = 30_000;

/// What is lately.
const LATELY_WITHIN_MS: u64 = 60_000;

/// Reads of heads under way at once. Each is a fraction of a millisecond of the store's time: ten thousand feeds take a
/// few seconds, and those who write hardly notice.
pub const READS_MAX: usize = 64;

#[derive(Debug)]
struct Watched {
    due: u64,
    changed_at: u64,
    /// Where it stood when it was read last.
    head: Option<(Epoch, Seq)>,
    reading: bool,
    /// When it was asked for last.
    asked_at: u64,
    /// Since when something that nobody here was told of may have been lost. While no messages come through, always.
    doubtful_since: Option<u64>,
    /// Since when it has been in doubt and no read of it has succeeded: when the first that failed began.
    failing_since: Option<u64>,
    /// It came into doubt while it was being read: what is read may be older than what was lost.
    again: bool,
}

/// The component.
#[derive(Debug, Default)]
pub struct Watch {
    feeds: BTreeMap<UserId, Watched>,
    due: BTreeSet<(u64, UserId)>,
    failing: BTreeSet<(u64, UserId)>,
    reading: usize,
    up: bool,
}

impl Watch {
    /// Somebody on this node follows the feed now.
    pub fn follow(&mut self, feed: UserId, now: u64) {
        let interval = if self.up { QUIET_MS } else { LATELY_MS };
        let due = now + spread(feed, interval);
        let watched = Watched {
            due,
            changed_at: now,
            head: None,
            reading: false,
            asked_at: now,
            doubtful_since: (!self.up).then_some(now),
            failing_since: None,
            again: false,
        };
        self.unfollow(feed);
        self.feeds.insert(feed, watched);
        self.due.insert((due, feed));
    }

    /// Nobody does any more.
    pub fn unfollow(&mut self, feed: UserId) {
        if let Some(watched) = self.feeds.remove(&feed) {
            self.due.remove(&(watched.due, feed));
            self.reading -= usize::from(watched.reading);
            if let Some(since) = watched.failing_since {
                self.failing.remove(&(since, feed));
            }
        }
    }

    /// Since when it is not known of some feed whether it has changed: the longest time of all. That a feed cannot be compared
    /// while messages come through, and nothing of it may have been lost, is no reason.
    pub fn failing_since(&self) -> Option<u64> {
        self.failing.first().map(|(since, _)| *since)
    }

    /// How many feeds are followed.
    pub fn len(&self) -> usize {
        self.feeds.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.feeds.is_empty()
    }

    /// All feeds that are followed.
    pub fn feeds(&self) -> impl Iterator<Item = UserId> {
        self.feeds.keys().copied()
    }

    /// The feed changed: a publication came, of this node or of another.
    pub fn changed(&mut self, feed: UserId, now: u64) {
        if let Some(watched) = self.feeds.get_mut(&feed) {
            watched.changed_at = now;
        }
    }

    /// Messages of these feeds may have been lost: they are compared next.
    pub fn doubt(&mut self, feeds: impl IntoIterator<Item = UserId>, now: u64) {
        for feed in feeds {
            if is_planted(Bug::LossForgotten) {
                continue;
            }
            if let Some(watched) = self.feeds.get_mut(&feed) {
                watched.again |= watched.reading && !is_planted(Bug::DoubtForgotten);
                watched.doubtful_since.get_or_insert(now);
            }
            self.set_due(feed, now);
        }
    }

    /// Messages come through from now on, or not. Either way each feed is compared: something may just have been lost.
    pub fn set_up(&mut self, up: bool, now: u64) {
        if self.up != up {
            self.up = up;
            let feeds: Vec<UserId> = self.feeds().collect();
            self.doubt(feeds, now);
        }
    }

    fn set_due(&mut self, feed: UserId, due: u64) {
        if let Some(watched) = self.feeds.get_mut(&feed) {
            self.due.remove(&(watched.due, feed));
            watched.due = due;
            self.due.insert((due, feed));
        }
    }

    /// The feeds whose heads are to be read now.
    pub fn tick(&mut self, now: u64) -> Vec<UserId> {
        let mut feeds = Vec::new();
        if is_planted(Bug::LastMessageNeverMissed) {
            return feeds;
        }
        let others = (self.feeds.len() as u64 * 1_000 / OTHERS_A_SECOND).clamp(LATELY_MS, OTHERS_MS);
        while self.reading < READS_MAX
            && let Some((_, feed)) = self.due.first().copied().filter(|(due, _)| *due <= now)
        {
            self.due.pop_first();
            let Some(watched) = self.feeds.get_mut(&feed) else {
                continue;
            };
            let interval = if self.up {
                QUIET_MS
            } else if now - watched.changed_at < LATELY_WITHIN_MS {
                LATELY_MS
            } else {
                others
            };
            watched.due = now + interval;
            self.due.insert((watched.due, feed));
            if !watched.reading {
                watched.reading = true;
                watched.asked_at = now;
                self.reading += 1;
                feeds.push(feed);
            }
        }
        feeds
    }

    /// A read ended; `None`: it failed, and is due again soon, for until it succeeds nobody knows what the feed missed. A
    /// feed that has moved since the read before has changed.
    pub fn read(&mut self, feed: UserId, found: Option<Option<Head>>, now: u64) {
        let Some(watched) = self.feeds.get_mut(&feed).filter(|watched| watched.reading) else {
            return;
        };
        watched.reading = false;
        self.reading -= 1;
        let failed_since = watched.failing_since;
        watched.failing_since = match found {
            Some(_) => None,
            None => failed_since.or(watched.doubtful_since.map(|since| since.max(watched.asked_at))),
        };
        if found.is_some() && self.up && !watched.again {
            watched.doubtful_since = None;
        }
        if watched.failing_since != failed_since {
            self.failing.extend(watched.failing_since.map(|since| (since, feed)));
            if let Some(since) = failed_since {
                self.failing.remove(&(since, feed));
            }
        }
        if let Some(found) = found {
            let found = found.map(|head| (head.epoch, head.seq));
            let before = std::mem::replace(&mut watched.head, found);
            if before.is_some() && before != found {
                watched.changed_at = now;
            }
        }
        if std::mem::take(&mut watched.again) {
            self.set_due(feed, now);
        } else if found.is_none() {
            self.set_due(feed, now + LATELY_MS);
        }
    }
}

/// Feeds that were followed together are not compared together.
fn spread(feed: UserId, interval: u64) -> u64 {
    interval / 2 + feed.0.as_u64_pair().1 % (interval / 2)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn feed(number: u128) -> UserId {
        UserId(Uuid::from_u128(number))
    }

    fn watch(count: u128, up: bool) -> Watch {
        let mut watch = Watch::default();
        watch.set_up(up, 0);
        for number in 0..count {
            watch.follow(feed(number), 0);
        }
        watch
    }

    /// How often each feed was read from the first time on to the second.
    fn reads(watch: &mut Watch, from: u64, to: u64) -> usize {
        let mut count = 0;
        for now in (from..to).step_by(20) {
            for feed in watch.tick(now) {
                count += 1;
                watch.read(feed, Some(None), now);
            }
        }
        count
    }

    #[test]
    fn while_messages_come_through_each_feed_is_read_once_a_minute() {
        let mut watch = watch(100, true);
        reads(&mut watch, 0, 60_000);
        assert_eq!(reads(&mut watch, 60_000, 120_000), 100);
    }

    #[test]
    fn without_messages_what_changed_lately_is_read_often_and_the_rest_seldom() {
        let mut watch = watch(20_000, false);
        reads(&mut watch, 0, 60_000);
        let quiet = reads(&mut watch, 90_000, 120_000);
        assert!(quiet <= 20_000, "{quiet}");
        watch.changed(feed(3), 120_000);
        watch.doubt([feed(3)], 120_000);
        let busy = reads(&mut watch, 120_000, 150_000);
        assert!((20_015..=20_022).contains(&busy), "{busy}");
    }

    #[test]
    fn without_messages_few_feeds_are_all_read_often() {
        let mut watch = watch(100, false);
        reads(&mut watch, 0, 120_000);
        let quiet = reads(&mut watch, 120_000, 150_000);
        assert!((1_900..=2_100).contains(&quiet), "{quiet}");
    }

    #[test]
    fn a_feed_that_moves_between_two_reads_is_read_often_however_long_there_were_no_messages() {
        let head = |seq| {
            Some(Some(Head {
                epoch: Epoch(1),
                seq,
                first: 1,
                rows_upto: 0,
            }))
        };
        let mut watch = watch(20_000, false);
        let mut reads = 0;
        for now in (0..300_000).step_by(20) {
            for feed in watch.tick(now) {
                let moves = feed == self::feed(1);
                // One change every 45 s.
                watch.read(feed, head(if moves { 1 + now / 45_000 } else { 1 }), now);
                reads += usize::from(moves && now >= 90_000);
            }
        }
        assert!(reads >= 130, "{reads}, where a quiet one has 7");
    }

    #[test]
    fn after_a_loss_every_feed_is_read_at_once_within_the_budget() {
        let mut watch = watch(200, true);
        watch.set_up(false, 100);
        let first = watch.tick(100);
        assert_eq!(first.len(), READS_MAX);
        assert_eq!(watch.tick(101), []);
        for feed in first {
            watch.read(feed, Some(None), 105);
        }
        assert_eq!(watch.tick(105).len(), READS_MAX);
    }

    #[test]
    fn a_read_that_failed_is_repeated_soon() {
        let mut watch = watch(1, true);
        watch.doubt([feed(0)], 50);
        assert_eq!(watch.tick(50), [feed(0)]);
        watch.read(feed(0), None, 60);
        assert_eq!(watch.tick(60 + LATELY_MS - 1), []);
        assert_eq!(watch.tick(60 + LATELY_MS), [feed(0)]);
    }

    #[test]
    fn a_doubt_during_a_read_makes_it_read_again() {
        let mut watch = watch(1, true);
        watch.doubt([feed(0)], 50);
        assert_eq!(watch.tick(50), [feed(0)]);
        watch.doubt([feed(0)], 51);
        assert_eq!(watch.tick(51), [], "one read of a feed at a time");
        watch.read(feed(0), Some(None), 52);
        assert_eq!(watch.tick(52), [feed(0)]);
        watch.read(feed(0), Some(None), 53);
        assert_eq!(watch.tick(54), []);
    }

    #[test]
    fn who_is_followed_no_more_leaves_nothing_behind() {
        let mut watch = watch(5, true);
        watch.doubt([feed(1)], 1);
        watch.tick(1);
        for number in 0..5 {
            watch.unfollow(feed(number));
        }
        assert!(watch.is_empty() && watch.due.is_empty() && watch.reading == 0);
        watch.read(feed(1), Some(None), 2);
        assert_eq!(watch.reading, 0);
    }
}
