//! The component alone: no runtime, and a time that only the test moves.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

/// One life of a feed: the address is its number, and whether its arbiter is still there.
#[derive(Clone, Debug)]
struct Life {
    number: usize,
    arbiter: Rc<Cell<bool>>,
}

impl Address for Life {
    fn connected(&self) -> bool {
        self.arbiter.get()
    }
}

/// What a life of a feed has in its mailbox.
#[derive(Debug)]
struct Mailbox {
    life: Life,
    envelopes: VecDeque<Envelope<u32>>,
}

/// What became of a route.
#[derive(Debug, PartialEq)]
enum Fate {
    Handed,
    Started,
    Waits,
    Refused(Code),
}

/// Carries out what a shard says, as the shells do, when a test tells it to.
struct Node {
    shard: Shard<Life, u32>,
    now: Instant,
    /// Feeds that are to be started, in order.
    starts: VecDeque<UserId>,
    /// Feeds that run.
    running: HashMap<UserId, Mailbox>,
    lives: usize,
}

impl Node {
    fn new() -> Self {
        Self {
            shard: Shard::default(),
            now: Instant::now(),
            starts: VecDeque::new(),
            running: HashMap::new(),
            lives: 0,
        }
    }

    fn route(&mut self, feed: UserId, count: u32, request: u32) -> Fate {
        match self.shard.route(feed, count, request, self.now) {
            Routed::Hand(life, envelope) => {
                let mailbox = self.running.get_mut(&feed).expect("only what runs is handed to");
                assert_eq!(life.number, mailbox.life.number, "the life that runs");
                mailbox.envelopes.push_back(envelope);
                Fate::Handed
            }
            Routed::Start => {
                self.starts.push_back(feed);
                Fate::Started
            }
            Routed::Wait => Fate::Waits,
            Routed::Refuse(code, refused) => {
                assert_eq!(refused, request, "the request comes back");
                Fate::Refused(code)
            }
        }
    }

    /// Carries out the start that was asked for first.
    fn start(&mut self) {
        let Some(feed) = self.starts.pop_front() else { return };
        let life = Life {
            number: self.lives,
            arbiter: Rc::new(Cell::new(true)),
        };
        self.lives += 1;
        let envelopes = self.shard.started(feed, life.clone()).into();
        let before = self.running.insert(feed, Mailbox { life, envelopes });
        assert!(before.is_none(), "a user has one feed at most");
    }

    /// A feed answers what came first.
    fn answer(&mut self, feed: UserId) -> Option<u32> {
        let envelope = self.running.get_mut(&feed)?.envelopes.pop_front()?;
        Some(envelope.request)
    }

    fn retire(&mut self, feed: UserId) -> bool {
        let Some(mailbox) = self.running.get(&feed) else {
            return false;
        };
        let empty = mailbox.envelopes.is_empty();
        let may = self.shard.retire(feed);
        assert_eq!(
            may, empty,
            "a feed stops when nothing is on its way to it, and not before"
        );
        if may {
            self.running.remove(&feed);
        }
        may
    }

    /// A feed panics; what it had not answered.
    fn panic(&mut self, feed: UserId) -> Vec<u32> {
        let Some(mailbox) = self.running.remove(&feed) else {
            return Vec::new();
        };
        self.shard.failed(feed, self.now);
        mailbox.envelopes.into_iter().map(|envelope| envelope.request).collect()
    }

    /// The arbiter of a feed ends without a word; what the feed had not answered.
    fn lose(&mut self, feed: UserId) -> Vec<u32> {
        let Some(mailbox) = self.running.remove(&feed) else {
            return Vec::new();
        };
        mailbox.life.arbiter.set(false);
        mailbox.envelopes.into_iter().map(|envelope| envelope.request).collect()
    }
}

fn user(number: u128) -> UserId {
    UserId(Uuid::from_u128(number))
}

const FULL: u32 = FEED_UNSAVED_OPERATIONS_MAX as u32;

#[test]
fn what_comes_while_a_feed_starts_is_handed_to_it_in_order_and_before_what_comes_later() {
    let (mut node, feed) = (Node::new(), user(1));
    assert_eq!(node.route(feed, 1, 0), Fate::Started);
    assert_eq!(node.route(feed, 1, 1), Fate::Waits);
    assert_eq!(node.route(feed, 1, 2), Fate::Waits);
    assert_eq!(node.starts, [feed], "it is started once");
    node.start();
    assert_eq!(node.route(feed, 1, 3), Fate::Handed);
    let answered: Vec<u32> = std::iter::from_fn(|| node.answer(feed)).collect();
    assert_eq!(answered, [0, 1, 2, 3]);
}

#[test]
fn the_queues_are_those_of_feeds_that_run_or_start_and_what_was_answered_is_not_in_them() {
    let mut node = Node::new();
    assert_eq!(node.route(user(1), 3, 0), Fate::Started);
    node.start();
    assert_eq!(node.route(user(1), 2, 1), Fate::Handed);
    assert_eq!(node.route(user(2), 7, 2), Fate::Started);
    assert_eq!(node.route(user(3), 0, 3), Fate::Started, "a look is no operation");
    let queues = |node: &Node| node.shard.queues().collect::<HashMap<_, _>>();
    assert_eq!(queues(&node), HashMap::from([(user(1), 5), (user(2), 7)]));
    assert_eq!(node.shard.starting(), 2);
    node.answer(user(1));
    assert_eq!(queues(&node), HashMap::from([(user(1), 2), (user(2), 7)]));
    node.answer(user(1));
    assert_eq!(queues(&node), HashMap::from([(user(2), 7)]));
}

#[test]
fn a_feed_is_full_at_its_limit_whether_it_runs_or_starts_and_has_room_again_for_what_it_answers() {
    let (mut node, feed) = (Node::new(), user(1));
    assert_eq!(node.route(feed, FULL + 1, 0), Fate::Refused(Code::FeedOverloaded));
    assert_eq!(node.route(feed, FULL - 1, 1), Fate::Started);
    assert_eq!(node.route(feed, 2, 2), Fate::Refused(Code::FeedOverloaded));
    assert_eq!(node.route(feed, 1, 3), Fate::Waits);
    node.start();
    assert_eq!(node.route(feed, 1, 4), Fate::Refused(Code::FeedOverloaded));
    assert_eq!(node.answer(feed), Some(1));
    assert_eq!(node.route(feed, FULL - 1, 5), Fate::Handed);
    assert_eq!(node.route(feed, 1, 6), Fate::Refused(Code::FeedOverloaded));
}

#[test]
fn a_feed_does_not_stop_while_a_request_is_on_its_way_and_the_next_one_starts_it_again() {
    let (mut node, feed) = (Node::new(), user(1));
    assert_eq!(node.route(feed, 1, 0), Fate::Started);
    assert!(!node.shard.retire(feed), "it does not run");
    node.start();
    assert!(!node.retire(feed), "a request is in its mailbox");
    assert_eq!(node.answer(feed), Some(0));
    assert!(node.retire(feed));
    assert_eq!(node.route(feed, 1, 1), Fate::Started);
}

#[test]
fn a_feed_that_panics_again_and_again_rests_twice_as_long_each_time_up_to_a_limit() {
    let (mut node, feed) = (Node::new(), user(1));
    let waits_ms = [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000];
    for wait in waits_ms.map(Duration::from_millis) {
        assert_eq!(node.route(feed, 1, 0), Fate::Started);
        node.start();
        node.panic(feed);
        node.now += wait - Duration::from_millis(1);
        assert_eq!(
            node.route(feed, 1, 0),
            Fate::Refused(Code::FeedUnavailable),
            "{wait:?} are not over"
        );
        node.now += Duration::from_millis(1);
    }
}

#[test]
fn a_feed_that_did_not_panic_for_a_minute_begins_with_the_shortest_rest() {
    let (mut node, feed) = (Node::new(), user(1));
    for _ in 0..5 {
        assert_eq!(node.route(feed, 1, 0), Fate::Started);
        node.start();
        node.panic(feed);
        node.now += BACKOFF_FORGET;
    }
    assert_eq!(node.route(feed, 1, 0), Fate::Started);
    node.start();
    node.panic(feed);
    node.now += BACKOFF_MIN;
    assert_eq!(node.route(feed, 1, 0), Fate::Started);
}

#[test]
fn a_feed_whose_arbiter_is_gone_is_started_again_at_once() {
    let (mut node, feed) = (Node::new(), user(1));
    assert_eq!(node.route(feed, 1, 0), Fate::Started);
    node.start();
    assert_eq!(node.lose(feed), [0]);
    assert_eq!(
        node.route(feed, FULL, 1),
        Fate::Started,
        "no permit of the old life is held against it"
    );
    node.start();
    assert_eq!(node.answer(feed), Some(1));
}

#[test]
fn the_rest_of_one_feed_is_nobody_elses() {
    let (mut node, hurt, other) = (Node::new(), user(1), user(2));
    assert_eq!(node.route(hurt, 1, 0), Fate::Started);
    node.start();
    node.panic(hurt);
    assert_eq!(node.route(other, 1, 1), Fate::Started);
    assert_eq!(node.route(hurt, 1, 2), Fate::Refused(Code::FeedUnavailable));
}

#[derive(Clone, Debug)]
enum Step {
    Route(UserId, u32),
    Start,
    Answer(UserId),
    Retire(UserId),
    Panic(UserId),
    Lose(UserId),
    Pass(Duration),
}

fn a_step() -> impl Strategy<Value = Step> {
    let a_feed = || (0..3_u128).prop_map(user);
    prop_oneof![
        12 => (a_feed(), prop_oneof![Just(1), 1..=100_u32]).prop_map(|(feed, count)| Step::Route(feed, count)),
        6 => Just(Step::Start),
        8 => a_feed().prop_map(Step::Answer),
        4 => a_feed().prop_map(Step::Retire),
        2 => a_feed().prop_map(Step::Panic),
        1 => a_feed().prop_map(Step::Lose),
        4 => prop_oneof![1..500_u64, 1_000..70_000_u64].prop_map(|ms| Step::Pass(Duration::from_millis(ms))),
    ]
}

/// What a feed is expected to hold and to be allowed.
#[derive(Default)]
struct Expected {
    /// Requests that were taken and not answered, each with its count, in order.
    open: VecDeque<(u32, u32)>,
    /// When it panicked, lately without a minute in between.
    panics: Vec<Instant>,
}

impl Expected {
    fn rests(&self, now: Instant) -> bool {
        let Some(last) = self.panics.last() else { return false };
        let wait_ms = (50_u64 << self.panics.len().min(20)).min(30_000);
        now < *last + Duration::from_millis(wait_ms)
    }

    fn panicked(&mut self, now: Instant) {
        if self
            .panics
            .last()
            .is_some_and(|last| now - *last >= Duration::from_secs(60))
        {
            self.panics.clear();
        }
        self.panics.push(now);
    }
}

proptest! {
    /// Besides what [`Node`] asserts: every request is refused for a reason, or taken and answered in order, or ends with
    /// its feed; permits are those of the requests that are open.
    #[test]
    fn nothing_is_lost_or_reordered_whatever_happens(steps in prop::collection::vec(a_step(), 1..200)) {
        let mut node = Node::new();
        let mut expected: HashMap<UserId, Expected> = HashMap::new();
        for (request, step) in (0_u32..).zip(steps) {
            match step {
                Step::Route(feed, count) => {
                    let runs = node.running.contains_key(&feed);
                    let starts = node.starts.contains(&feed);
                    let fate = node.route(feed, count, request);
                    let expected = expected.entry(feed).or_default();
                    let used: u32 = expected.open.iter().map(|(_, count)| count).sum();
                    let should = if !runs && !starts && expected.rests(node.now) {
                        Fate::Refused(Code::FeedUnavailable)
                    } else if used + count > FULL {
                        Fate::Refused(Code::FeedOverloaded)
                    } else if runs {
                        Fate::Handed
                    } else if starts {
                        Fate::Waits
                    } else {
                        Fate::Started
                    };
                    if !matches!(should, Fate::Refused(_)) {
                        expected.open.push_back((request, count));
                    }
                    prop_assert_eq!(fate, should);
                }
                Step::Start => node.start(),
                Step::Answer(feed) => {
                    let runs = node.running.contains_key(&feed);
                    let answered = node.answer(feed);
                    let next = expected.entry(feed).or_default();
                    let should = if runs { next.open.pop_front() } else { None };
                    prop_assert_eq!(answered, should.map(|(request, _)| request));
                }
                Step::Retire(feed) => drop(node.retire(feed)),
                Step::Panic(feed) | Step::Lose(feed) => {
                    if !node.running.contains_key(&feed) {
                        continue;
                    }
                    let next = expected.entry(feed).or_default();
                    let lost = if matches!(step, Step::Panic(_)) {
                        next.panicked(node.now);
                        node.panic(feed)
                    } else {
                        node.lose(feed)
                    };
                    let open: Vec<u32> = next.open.drain(..).map(|(request, _)| request).collect();
                    prop_assert_eq!(lost, open);
                }
                Step::Pass(time) => node.now += time,
            }
        }
        // In the end everything is started and answered, and every permit is back: all feeds may stop.
        while !node.starts.is_empty() {
            node.start();
        }
        let running: Vec<UserId> = node.running.keys().copied().collect();
        for feed in running {
            let answered: Vec<u32> = std::iter::from_fn(|| node.answer(feed)).collect();
            let open = expected.remove(&feed).unwrap_or_default().open;
            prop_assert_eq!(answered, open.into_iter().map(|(request, _)| request).collect::<Vec<_>>());
            prop_assert!(node.retire(feed));
        }
        let left = expected.values().map(|expected| expected.open.len()).sum::<usize>();
        prop_assert_eq!(left, 0, "requests that nobody has");
    }
}
