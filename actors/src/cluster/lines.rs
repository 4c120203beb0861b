//! The operations of this node that wait for a host elsewhere: one line a feed.
//!
//! What the component promises:
//!
//! - Two requests are under way for a feed at most: while the host commits one, the other waits there for the next commit.
//!   What comes meanwhile waits and goes together; the second one is given a moment to gather what comes just then, for the
//!   host is busy anyway.
//! - The operations of one connection are in one of them at a time: so they keep their order, whatever is lost or repeated.
//! - A request is repeated under the same ids, to whoever hosts the feed by then, until it is answered or its time is
//!   over. Every submission is answered once.
//! - Once a request was repeated, only acceptances count, and answers to marked repeats: the host keeps a refusal of
//!   those in the log. What was sent and not answered in time is `unknown`, never `refused`.
//!
//! Times are milliseconds of this node's own monotonic clock.

use std::collections::{BTreeMap, HashSet, VecDeque};

use taskflow_protocol::limits::{FEED_UNSAVED_OPERATIONS_MAX, MESSAGE_BYTES_MAX};
use taskflow_protocol::message::{ErrorBody, Operation, OperationResult, Outcome};
use taskflow_protocol::{Code, OperationId, UserId};

use super::wire::{Item, Reply, Request};
use crate::planted::{Bug, is_planted};
use crate::ports::{ConnectionId, NodeId};
use crate::trace::TraceContext;

/// Requests under way for a feed.
const UNDER_WAY_MAX: usize = 2;

/// Milliseconds that a request is gathered for while another is under way: those who heard an answer together ask again
/// together, and a commit takes longer.
pub const GATHER_MS: u64 = 1;

/// Milliseconds until an operation that was not answered is `unknown`: longer than a node that died is noticed and its
/// feeds are loaded elsewhere, shorter than a person waits.
pub const DEADLINE_MS: u64 = 10_000;

/// Milliseconds until a request is repeated for the first time; each further time takes twice as long. A host that is
/// only slow answers within this, and repeats cost it work.
pub const REPEAT_AFTER_MS: u64 = 500;

/// Longest time between two repeats, in milliseconds.
const REPEAT_AFTER_MAX_MS: u64 = 2_000;

/// Bytes of operations in one request, as their clients sent them: two messages of the greatest size.
const REQUEST_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;

/// Operations that wait on this node for all feeds together. 64k of 400 bytes are 25 MB: seconds of a busy cluster.
pub const WAITING_MAX: usize = 64 * 1024;

/// What the lines need to know of the rest of the node.
pub trait Ground {
    /// Who hosts the feed: `None`, this node.
    fn host(&self, feed: UserId) -> Option<NodeId>;
    /// Operations wait at the feed's actor here. What comes later may not overtake them.
    fn is_busy_here(&self, feed: UserId) -> bool;
}

/// What is to be done.
#[derive(Debug)]
pub enum Effect<T> {
    /// Send it to the node.
    Send(NodeId, Request),
    /// Have it done by the feed's actor on this node; [`Lines::replied`] takes the results.
    Here(Request),
    /// Answer who asked.
    Answer(T, Vec<OperationResult>),
    /// Call [`Lines::gathered`] after [`GATHER_MS`].
    Gather(UserId),
}

/// Operations, and who asked.
#[derive(Debug)]
pub struct Submitted<T> {
    /// Which feed.
    pub feed: UserId,
    /// Who asks.
    pub author: UserId,
    /// Where they came from: what comes from one connection keeps its order. `None`: they may go beside any other.
    pub connection: Option<ConnectionId>,
    /// In order.
    pub operations: Vec<Operation>,
    /// About how many bytes they have.
    pub bytes: usize,
    /// What asked for them, if that is traced.
    pub trace: Option<TraceContext>,
    /// Comes back with the answer, once.
    pub token: T,
}

#[derive(Debug)]
struct Waiting<T> {
    item: Item,
    connection: Option<ConnectionId>,
    bytes: usize,
    /// `None`: it has been answered, its time being over.
    token: Option<T>,
    deadline: u64,
}

#[derive(Debug)]
struct Sent<T> {
    id: u64,
    /// `None`: to this node.
    to: Option<NodeId>,
    attempt: u32,
    repeat_at: u64,
    waiting: Vec<Waiting<T>>,
    /// Where these came from.
    connections: HashSet<ConnectionId>,
}

#[derive(Debug)]
struct Line<T> {
    /// These can go.
    queue: VecDeque<Waiting<T>>,
    /// Something of the same connection is under way: these go behind it.
    behind: VecDeque<Waiting<T>>,
    sent: Vec<Sent<T>>,
    /// A request is being gathered.
    gathers: bool,
    operations: usize,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            behind: VecDeque::new(),
            sent: Vec::new(),
            gathers: false,
            operations: 0,
        }
    }
}

impl<T> Line<T> {
    fn is_under_way(&self, waiting: &Waiting<T>) -> bool {
        waiting.connection.is_some_and(|connection| {
            self.sent.iter().any(|sent| sent.connections.contains(&connection)) && !is_planted(Bug::OvertakenBySecond)
        })
    }

    /// Puts each where it waits.
    fn place(&mut self, all: impl IntoIterator<Item = Waiting<T>>) {
        for waiting in all {
            let is_behind = self.is_under_way(&waiting);
            let queue = if is_behind { &mut self.behind } else { &mut self.queue };
            queue.push_back(waiting);
        }
    }

    /// A request has ended: what was behind it can go.
    fn let_go(&mut self) {
        let behind = std::mem::take(&mut self.behind);
        self.place(behind);
    }

    fn is_empty(&self) -> bool {
        self.sent.is_empty() && self.queue.is_empty() && self.behind.is_empty()
    }
}

/// The component. See the module. `T` says who asked.
#[derive(Debug)]
pub struct Lines<T> {
    me: NodeId,
    lines: BTreeMap<UserId, Line<T>>,
    next_request: u64,
    waiting: usize,
    waiting_max: usize,
}

impl<T> Lines<T> {
    /// No lines. Ids begin at a random number; at most so many operations wait.
    pub fn new(me: NodeId, first_request: u64, waiting_max: usize) -> Self {
        Self {
            me,
            lines: BTreeMap::new(),
            next_request: first_request,
            waiting: 0,
            waiting_max,
        }
    }

    /// Whether operations for the feed wait here, so that others must wait behind them.
    pub fn has(&self, feed: UserId) -> bool {
        self.lines.contains_key(&feed)
    }

    /// How many feeds have a line.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// How many operations wait for their answers.
    pub fn operations(&self) -> usize {
        self.waiting
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Takes a submission. Gives it back with a code if there is no room.
    pub fn submit(
        &mut self,
        submitted: Submitted<T>,
        now: u64,
        ground: &impl Ground,
    ) -> Result<Vec<Effect<T>>, (Code, T, Vec<Operation>)> {
        let Submitted {
            feed,
            author,
            connection,
            operations,
            bytes,
            trace,
            token,
        } = submitted;
        let count = operations.len();
        let here = self.lines.get(&feed).map_or(0, |line| line.operations);
        if here + count > FEED_UNSAVED_OPERATIONS_MAX || self.waiting + count > self.waiting_max {
            return Err((Code::FeedOverloaded, token, operations));
        }
        self.waiting += count;
        let line = self.lines.entry(feed).or_default();
        line.operations += count;
        line.place([Waiting {
            item: Item {
                author,
                operations,
                trace,
            },
            connection,
            bytes,
            token: Some(token),
            deadline: now + DEADLINE_MS,
        }]);
        let mut effects = Vec::new();
        self.next(feed, now, ground, &mut effects);
        Ok(effects)
    }

    /// A host answered.
    pub fn replied(&mut self, reply: Reply, now: u64, ground: &impl Ground) -> Vec<Effect<T>> {
        let mut effects = Vec::new();
        let Some(line) = self.lines.get_mut(&reply.feed) else {
            return effects;
        };
        let Some(at) = line.sent.iter().position(|sent| sent.id == reply.id) else {
            return effects;
        };
        let sent = &line.sent[at];
        let was_repeated = sent.attempt > 1;
        let counts = |outcome: &Outcome| match outcome {
            Outcome::Accepted(_) => true,
            Outcome::Refused(_) | Outcome::Conflict(_) => {
                !was_repeated || reply.attempt > 1 || is_planted(Bug::FirstRefusalCounts)
            }
            // Nobody knows: that is no answer.
            Outcome::Unknown(_) => false,
        };
        let fits = reply.results.len() == sent.waiting.len()
            && sent.waiting.iter().zip(&reply.results).all(|(waiting, results)| {
                results.len() == waiting.item.operations.len() && results.iter().all(|result| counts(&result.outcome))
            });
        if !fits {
            return effects;
        }
        let sent = line.sent.remove(at);
        line.let_go();
        for (waiting, results) in sent.waiting.into_iter().zip(reply.results) {
            line.operations -= waiting.item.operations.len();
            self.waiting -= waiting.item.operations.len();
            if let Some(token) = waiting.token {
                effects.push(Effect::Answer(token, results));
            }
        }
        self.next(reply.feed, now, ground, &mut effects);
        effects
    }

    /// The time to gather is over: sends what came.
    pub fn gathered(&mut self, feed: UserId, now: u64, ground: &impl Ground) -> Vec<Effect<T>> {
        let mut effects = Vec::new();
        self.send(feed, now, ground, &mut effects);
        effects
    }

    /// Time has passed, or hosts have changed: repeats what was not answered, ends what is over.
    pub fn tick(&mut self, now: u64, ground: &impl Ground) -> Vec<Effect<T>> {
        let mut effects = Vec::new();
        let feeds: Vec<UserId> = self.lines.keys().copied().collect();
        for feed in feeds {
            self.expire(feed, now, &mut effects);
            self.repeat(feed, now, ground, &mut effects);
            self.send(feed, now, ground, &mut effects);
        }
        effects
    }

    fn expire(&mut self, feed: UserId, now: u64, effects: &mut Vec<Effect<T>>) {
        let Some(line) = self.lines.get_mut(&feed) else { return };
        let mut end = |waiting: &mut Waiting<T>, outcome: &Outcome| {
            if waiting.deadline <= now
                && let Some(token) = waiting.token.take()
            {
                effects.push(Effect::Answer(token, all(&waiting.item.operations, outcome)));
            }
        };
        let unknown = if is_planted(Bug::UnknownIsRefused) {
            Outcome::Refused(ErrorBody::new(Code::FeedUnavailable))
        } else {
            Outcome::Unknown(ErrorBody::new(Code::OutcomeUnknown))
        };
        let (mut over, under_way) = (0, line.sent.len());
        let count = |waiting: &Waiting<T>| waiting.item.operations.len();
        line.sent.retain_mut(|sent| {
            sent.waiting.iter_mut().for_each(|waiting| end(waiting, &unknown));
            let is_over = sent.waiting.iter().all(|waiting| waiting.token.is_none());
            if is_over {
                over += sent.waiting.iter().map(count).sum::<usize>();
            }
            !is_over
        });
        let refused = Outcome::Refused(ErrorBody::new(Code::FeedUnavailable));
        for queue in [&mut line.queue, &mut line.behind] {
            queue.retain_mut(|waiting| {
                end(waiting, &refused);
                if waiting.token.is_none() {
                    over += count(waiting);
                }
                waiting.token.is_some()
            });
        }
        line.operations -= over;
        self.waiting -= over;
        if line.sent.len() < under_way {
            line.let_go();
        }
    }

    fn repeat(&mut self, feed: UserId, now: u64, ground: &impl Ground, effects: &mut Vec<Effect<T>>) {
        let Some(line) = self.lines.get_mut(&feed) else { return };
        let host = ground.host(feed);
        for sent in &mut line.sent {
            if sent.to == host && now < sent.repeat_at {
                continue;
            }
            // Behind others at the actor here it stays there: elsewhere it would overtake them.
            let stays = sent.to.is_none() && host.is_some() && ground.is_busy_here(feed);
            if stays && !is_planted(Bug::Overtaking) {
                continue;
            }
            sent.to = host;
            sent.attempt += 1;
            let wait = REPEAT_AFTER_MS << (sent.attempt - 1).min(8);
            sent.repeat_at = now + wait.min(REPEAT_AFTER_MAX_MS);
            effects.push(sent.effect(self.me, feed));
        }
    }

    /// Sends what waits if nothing is under way, and gathers if something is.
    fn next(&mut self, feed: UserId, now: u64, ground: &impl Ground, effects: &mut Vec<Effect<T>>) {
        let Some(line) = self.lines.get_mut(&feed) else { return };
        if line.sent.is_empty() {
            self.send(feed, now, ground, effects);
        } else if line.sent.len() < UNDER_WAY_MAX && !line.queue.is_empty() && !line.gathers {
            line.gathers = true;
            effects.push(Effect::Gather(feed));
        }
    }

    /// Sends what waits, if less is under way than may be.
    fn send(&mut self, feed: UserId, now: u64, ground: &impl Ground, effects: &mut Vec<Effect<T>>) {
        let Some(line) = self.lines.get_mut(&feed) else { return };
        line.gathers = false;
        if line.is_empty() {
            self.lines.remove(&feed);
            return;
        }
        while line.sent.len() < UNDER_WAY_MAX && !line.queue.is_empty() {
            let host = ground.host(feed);
            if host.is_some() && ground.is_busy_here(feed) && !is_planted(Bug::Overtaking) {
                return;
            }
            let mut bytes = 0;
            let mut waiting = Vec::new();
            while let Some(first) = line
                .queue
                .pop_front_if(|first| waiting.is_empty() || bytes + first.bytes <= REQUEST_BYTES_MAX)
            {
                bytes += first.bytes;
                waiting.push(first);
            }
            let sent = Sent {
                id: self.next_request,
                to: host,
                attempt: 1,
                repeat_at: now + REPEAT_AFTER_MS,
                connections: waiting.iter().filter_map(|waiting| waiting.connection).collect(),
                waiting,
            };
            self.next_request = self.next_request.wrapping_add(1);
            effects.push(sent.effect(self.me, feed));
            line.sent.push(sent);
            // Of what had no room, some may be behind it now.
            let left = std::mem::take(&mut line.queue);
            line.place(left);
        }
    }
}

impl<T> Sent<T> {
    fn effect(&self, me: NodeId, feed: UserId) -> Effect<T> {
        let request = Request {
            from: me.0,
            id: self.id,
            attempt: self.attempt,
            feed,
            items: self.waiting.iter().map(|waiting| waiting.item.clone()).collect(),
        };
        match self.to {
            Some(node) => Effect::Send(node, request),
            None => Effect::Here(request),
        }
    }
}

/// The same outcome for all.
pub fn all(operations: &[Operation], outcome: &Outcome) -> Vec<OperationResult> {
    let result = |id: OperationId| OperationResult {
        id,
        outcome: outcome.clone(),
    };
    operations.iter().map(|operation| result(operation.id)).collect()
}

#[cfg(test)]
mod tests {
    use taskflow_protocol::message::{Accepted, Command, Undo};
    use uuid::Uuid;

    use super::*;

    const ME: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);
    const THIRD: NodeId = NodeId(3);
    const FEED: UserId = UserId(Uuid::from_u128(7));

    struct Fixed(Option<NodeId>, bool);

    impl Ground for Fixed {
        fn host(&self, _: UserId) -> Option<NodeId> {
            self.0
        }
        fn is_busy_here(&self, _: UserId) -> bool {
            self.1
        }
    }

    const THERE: Fixed = Fixed(Some(OTHER), false);

    fn operation(id: u128) -> Operation {
        Operation {
            id: OperationId(Uuid::from_u128(id)),
            base: None,
            command: Command::Undo(Undo { seq: 1 }),
        }
    }

    fn lines() -> Lines<u32> {
        Lines::new(ME, 100, WAITING_MAX)
    }

    fn asked(feed: UserId, connection: u32, token: u32) -> Submitted<u32> {
        Submitted {
            feed,
            author: FEED,
            connection: Some(ConnectionId {
                worker: 0,
                slot: connection,
                generation: 0,
            }),
            operations: vec![operation(token.into())],
            bytes: 100,
            trace: None,
            token,
        }
    }

    /// All from one connection.
    fn submit(lines: &mut Lines<u32>, token: u32, now: u64, ground: &Fixed) -> Vec<Effect<u32>> {
        submit_from(lines, 1, token, now, ground)
    }

    /// What is gathered is sent at once.
    fn submit_from(lines: &mut Lines<u32>, from: u32, token: u32, now: u64, ground: &Fixed) -> Vec<Effect<u32>> {
        let effects = lines.submit(asked(FEED, from, token), now, ground);
        and_gathered(lines, effects.expect("there is room"), now, ground)
    }

    fn and_gathered(
        lines: &mut Lines<u32>,
        mut effects: Vec<Effect<u32>>,
        now: u64,
        ground: &Fixed,
    ) -> Vec<Effect<u32>> {
        while let Some(Effect::Gather(feed)) = effects.pop_if(|effect| matches!(effect, Effect::Gather(_))) {
            effects.extend(lines.gathered(feed, now, ground));
        }
        effects
    }

    fn reply(request: &Request, outcome: impl Fn(u32) -> Outcome) -> Reply {
        let results = |item: &Item| {
            let result = |operation: &Operation| OperationResult {
                id: operation.id,
                outcome: outcome(operation.id.0.as_u128() as u32),
            };
            item.operations.iter().map(result).collect()
        };
        Reply {
            id: request.id,
            attempt: request.attempt,
            feed: request.feed,
            results: request.items.iter().map(results).collect(),
        }
    }

    fn accepted(_: u32) -> Outcome {
        Outcome::Accepted(Accepted { seq: 2 })
    }

    fn refused(_: u32) -> Outcome {
        Outcome::Refused(ErrorBody::new(Code::RowNotFound))
    }

    fn unknown(_: u32) -> Outcome {
        Outcome::Unknown(ErrorBody::new(Code::OutcomeUnknown))
    }

    fn sent(effects: &[Effect<u32>]) -> (Option<NodeId>, Request) {
        match effects {
            [.., Effect::Send(to, request)] => (Some(*to), request.clone()),
            [.., Effect::Here(request)] => (None, request.clone()),
            other => panic!("nothing was sent: {other:?}"),
        }
    }

    fn answers(effects: &[Effect<u32>]) -> Vec<(u32, Outcome)> {
        let answer = |effect: &Effect<u32>| match effect {
            Effect::Answer(token, results) => Some((*token, results[0].outcome.clone())),
            _ => None,
        };
        effects.iter().filter_map(answer).collect()
    }

    fn ids(request: &Request) -> Vec<u128> {
        request
            .items
            .iter()
            .flat_map(|item| item.operations.iter().map(|operation| operation.id.0.as_u128()))
            .collect()
    }

    #[test]
    fn one_request_of_a_connection_is_under_way_and_what_waits_goes_together() {
        let mut lines = lines();
        let (to, first) = sent(&submit(&mut lines, 1, 0, &THERE));
        assert_eq!((to, ids(&first)), (Some(OTHER), vec![1]));
        for token in 2..=4 {
            assert!(submit(&mut lines, token, 1, &THERE).is_empty());
        }
        let effects = lines.replied(reply(&first, accepted), 2, &THERE);
        assert_eq!(answers(&effects), [(1, accepted(0))]);
        assert_eq!(ids(&sent(&effects).1), [2, 3, 4]);
        let second = sent(&effects).1;
        let effects = lines.replied(reply(&second, accepted), 3, &THERE);
        assert_eq!(effects.len(), 3);
        assert!(!lines.has(FEED) && lines.waiting == 0);
    }

    #[test]
    fn two_requests_are_under_way_and_each_connection_is_in_one_of_them() {
        let mut lines = lines();
        let (_, first) = sent(&submit_from(&mut lines, 1, 1, 0, &THERE));
        assert!(submit_from(&mut lines, 1, 2, 0, &THERE).is_empty());
        let (to, second) = sent(&submit_from(&mut lines, 2, 3, 0, &THERE));
        assert_eq!((to, ids(&second)), (Some(OTHER), vec![3]), "it has nothing to wait for");
        for (connection, token) in [(1, 4), (2, 5), (3, 6), (3, 7), (2, 8)] {
            assert!(submit_from(&mut lines, connection, token, 1, &THERE).is_empty());
        }
        let effects = lines.replied(reply(&second, accepted), 2, &THERE);
        let effects = and_gathered(&mut lines, effects, 2, &THERE);
        let (_, third) = sent(&effects);
        assert_eq!((ids(&third), answers(&effects).len()), (vec![6, 7, 5, 8], 1));
        let effects = lines.replied(reply(&first, accepted), 3, &THERE);
        let effects = and_gathered(&mut lines, effects, 3, &THERE);
        let (_, fourth) = sent(&effects);
        assert_eq!(ids(&fourth), [2, 4]);
        lines.replied(reply(&fourth, accepted), 4, &THERE);
        lines.replied(reply(&third, accepted), 5, &THERE);
        assert!(!lines.has(FEED) && lines.waiting == 0);
    }

    #[test]
    fn a_second_request_gathers_and_a_first_one_does_not() {
        let mut lines = lines();
        let (_, first) = sent(&lines.submit(asked(FEED, 1, 1), 0, &THERE).expect("there is room"));
        let begins = lines.submit(asked(FEED, 2, 2), 0, &THERE).expect("there is room");
        assert!(matches!(begins[..], [Effect::Gather(FEED)]));
        assert!(
            lines
                .submit(asked(FEED, 3, 3), 0, &THERE)
                .expect("there is room")
                .is_empty()
        );
        assert_eq!(ids(&sent(&lines.gathered(FEED, 1, &THERE)).1), [2, 3]);
        // A tick in between sends it, and the end of its time finds nothing to do.
        lines.replied(reply(&first, accepted), 2, &THERE);
        assert_eq!(
            lines.submit(asked(FEED, 4, 4), 2, &THERE).expect("there is room").len(),
            1
        );
        assert_eq!(ids(&sent(&lines.tick(2, &THERE)).1), [4]);
        assert!(lines.gathered(FEED, 3, &THERE).is_empty());
        assert!(lines.gathered(UserId(Uuid::nil()), 3, &THERE).is_empty());
    }

    #[test]
    fn what_came_over_no_connection_waits_for_no_other() {
        let mut lines = lines();
        for token in 1..=3 {
            let submitted = Submitted {
                connection: None,
                ..asked(FEED, 1, token)
            };
            let effects = lines.submit(submitted, 0, &THERE).expect("there is room");
            let effects = and_gathered(&mut lines, effects, 0, &THERE);
            assert_eq!(effects.len(), usize::from(token < 3));
        }
    }

    #[test]
    fn each_of_two_requests_is_repeated_and_ends_by_itself() {
        let mut lines = lines();
        let (_, first) = sent(&submit_from(&mut lines, 1, 1, 0, &THERE));
        let (_, second) = sent(&submit_from(&mut lines, 2, 2, 400, &THERE));
        submit_from(&mut lines, 1, 3, 450, &THERE);
        assert_eq!(sent(&lines.tick(500, &THERE)).1.id, first.id);
        assert_eq!(sent(&lines.tick(900, &THERE)).1.id, second.id);
        let moved = lines.tick(901, &Fixed(Some(THIRD), false));
        let to = |effect: &Effect<u32>| matches!(effect, Effect::Send(THIRD, _));
        assert_eq!((moved.len(), moved.iter().filter(|one| to(one)).count()), (2, 2));
        let effects = lines.tick(DEADLINE_MS, &Fixed(Some(THIRD), false));
        assert_eq!(answers(&effects), [(1, unknown(0))]);
        assert_eq!(ids(&sent(&effects).1), [3], "who waited behind it has its turn");
        let effects = lines.tick(DEADLINE_MS + 400, &Fixed(Some(THIRD), false));
        assert_eq!(answers(&effects), [(2, unknown(0))]);
    }

    #[test]
    fn what_is_not_answered_is_repeated_with_the_same_id_and_marked() {
        let mut lines = lines();
        let (_, first) = sent(&submit(&mut lines, 1, 0, &THERE));
        assert!(lines.tick(REPEAT_AFTER_MS - 1, &THERE).is_empty());
        let (to, again) = sent(&lines.tick(REPEAT_AFTER_MS, &THERE));
        assert_eq!(to, Some(OTHER));
        assert_eq!((again.id, first.attempt, again.attempt), (first.id, 1, 2));
        assert_eq!(again.items, first.items);
        assert!(lines.tick(REPEAT_AFTER_MS + 999, &THERE).is_empty());
        assert_eq!(sent(&lines.tick(REPEAT_AFTER_MS + 1_000, &THERE)).1.attempt, 3);
    }

    #[test]
    fn what_moves_is_sent_to_the_new_host_at_once() {
        let mut lines = lines();
        submit(&mut lines, 1, 0, &THERE);
        let (to, again) = sent(&lines.tick(1, &Fixed(Some(THIRD), false)));
        assert_eq!((to, again.attempt), (Some(THIRD), 2));
        let (to, again) = sent(&lines.tick(2, &Fixed(None, false)));
        assert_eq!(
            (to, again.attempt),
            (None, 3),
            "and when this node is the new host, here"
        );
    }

    #[test]
    fn after_a_repeat_only_acceptances_and_answers_to_marked_repeats_count() {
        let mut lines = lines();
        let (_, first) = sent(&submit(&mut lines, 1, 0, &THERE));
        let (_, again) = sent(&lines.tick(REPEAT_AFTER_MS, &THERE));
        assert!(lines.replied(reply(&first, refused), 501, &THERE).is_empty());
        assert!(lines.replied(reply(&again, unknown), 502, &THERE).is_empty());
        let effects = lines.replied(reply(&again, refused), 503, &THERE);
        assert_eq!(answers(&effects), [(1, refused(0))]);
        assert!(
            lines.replied(reply(&first, accepted), 504, &THERE).is_empty(),
            "it was answered"
        );

        let (_, first) = sent(&submit(&mut lines, 2, 1_000, &THERE));
        lines.tick(1_500, &THERE);
        let effects = lines.replied(reply(&first, accepted), 1_501, &THERE);
        assert_eq!(answers(&effects), [(2, accepted(0))]);
    }

    #[test]
    fn a_first_refusal_of_what_was_not_repeated_counts() {
        let mut lines = lines();
        let (_, first) = sent(&submit(&mut lines, 1, 0, &THERE));
        assert_eq!(
            answers(&lines.replied(reply(&first, refused), 1, &THERE)),
            [(1, refused(0))]
        );
    }

    #[test]
    fn what_was_sent_is_unknown_in_the_end_and_what_was_not_is_refused() {
        let mut lines = lines();
        let (_, first) = sent(&submit(&mut lines, 1, 0, &THERE));
        submit(&mut lines, 2, 5, &THERE);
        let effects = lines.tick(DEADLINE_MS, &THERE);
        assert_eq!(answers(&effects), [(1, unknown(0))]);
        let (_, second) = sent(&effects);
        assert_eq!(ids(&second), [2], "who waited behind it has its turn");
        assert!(
            lines
                .replied(reply(&first, accepted), DEADLINE_MS + 1, &THERE)
                .is_empty()
        );

        let mut lines = self::lines();
        let busy = Fixed(Some(OTHER), true);
        assert!(submit(&mut lines, 1, 0, &busy).is_empty());
        let effects = lines.tick(DEADLINE_MS, &busy);
        assert_eq!(
            answers(&effects),
            [(1, Outcome::Refused(ErrorBody::new(Code::FeedUnavailable)))]
        );
        assert!(!lines.has(FEED) && lines.waiting == 0);
    }

    #[test]
    fn nothing_overtakes_what_waits_at_the_actor_here() {
        let mut lines = lines();
        assert!(submit(&mut lines, 1, 0, &Fixed(Some(OTHER), true)).is_empty());
        assert!(lines.tick(20, &Fixed(Some(OTHER), true)).is_empty());
        assert_eq!(ids(&sent(&lines.tick(40, &THERE)).1), [1]);
    }

    #[test]
    fn what_waits_at_the_actor_here_does_not_move_past_what_waits_before_it() {
        let mut lines = lines();
        let (to, _) = sent(&submit(&mut lines, 1, 0, &Fixed(None, true)));
        assert_eq!(to, None);
        assert!(lines.tick(20, &Fixed(Some(OTHER), true)).is_empty());
        assert_eq!(sent(&lines.tick(40, &THERE)).0, Some(OTHER));
    }

    #[test]
    fn more_than_a_feed_may_hold_is_refused() {
        let mut lines = lines();
        for token in 0..FEED_UNSAVED_OPERATIONS_MAX as u32 {
            submit_from(&mut lines, token % 7, token, 0, &THERE);
        }
        let more = lines.submit(asked(FEED, 1, 9), 0, &THERE);
        assert!(matches!(more, Err((Code::FeedOverloaded, 9, _))));
        assert_eq!(lines.operations(), FEED_UNSAVED_OPERATIONS_MAX);
        let mut lines = Lines::new(ME, 0, 3);
        for number in 0..3 {
            let feed = UserId(Uuid::from_u128(number));
            assert!(lines.submit(asked(feed, 1, 0), 0, &THERE).is_ok());
        }
        assert!(lines.submit(asked(FEED, 1, 9), 0, &THERE).is_err());
    }

    #[test]
    fn a_request_holds_no_more_bytes_than_a_message_may() {
        let mut lines = lines();
        submit(&mut lines, 1, 0, &THERE);
        for token in 2..=4 {
            let submitted = Submitted {
                bytes: MESSAGE_BYTES_MAX,
                ..asked(FEED, 1, token)
            };
            lines.submit(submitted, 0, &THERE).expect("there is room");
        }
        let first = Request {
            from: 1,
            id: 100,
            attempt: 1,
            feed: FEED,
            items: vec![Item {
                author: FEED,
                operations: vec![operation(1)],
                trace: None,
            }],
        };
        let effects = lines.replied(reply(&first, accepted), 1, &THERE);
        let (_, second) = sent(&effects);
        assert_eq!(ids(&second), [2, 3]);
        assert_eq!(
            effects.len(),
            2,
            "what had no room is behind it, and not in a request of its own"
        );
        let effects = lines.replied(reply(&second, accepted), 2, &THERE);
        assert_eq!(ids(&sent(&effects).1), [4]);
    }
}
