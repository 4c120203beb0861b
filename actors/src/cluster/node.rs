//! One node of a cluster: what it knows of the others, and what it does about it.
//!
//! [`Node`] is the component, [`super::shell::Cluster`] its shell. It joins the parts: who is there ([`Members`]), who
//! hosts what ([`Placement`]), what waits for a host elsewhere ([`Lines`]), what is followed here ([`Watch`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use taskflow_protocol::message::{Operation, OperationResult};
use taskflow_protocol::{Code, UserId};

use super::lines::{self, Ground, Lines, Submitted, WAITING_MAX};
use super::wire::{FeedMessage, NodeMessage, Notice, Reply, Request};
use super::{Member, Members, Placement, Watch};
use crate::domain::Entry;
use crate::planted::{Bug, is_planted};
use crate::ports::{BusEvent, Epoch, Head, NodeId, ReadError};

/// How long a follower waits for its feed's subscription before it reads the log, in milliseconds. Later it would read
/// twice; a broker that takes longer is about to be found dead.
pub const SUBSCRIBE_WAIT_MS: u64 = 1_000;

/// A subscription that took longer than this is followed by a read of the head: whoever waited for it may have read the
/// log before. Half of the wait, so that no one falls between.
const SUBSCRIBE_LATE_MS: u64 = SUBSCRIBE_WAIT_MS / 2;

/// How long a node without messages may go without one answer of the store before it tells its followers that what they see
/// may be old, in milliseconds: two reads that found nothing out, and the time between them.
const STALE_AFTER_MS: u64 = 5_000;

/// How long a feed stays subscribed after its last follower here left, in milliseconds: whoever waits for one change
/// after the other, or connects again, finds it as it was.
const LINGER_MS: u64 = 5_000;

/// How long the requests of other nodes are remembered, in milliseconds: one that comes again under the same number and
/// attempt was doubled on its way, and judging it again could change a refusal that was answered.
const TAKEN_KEPT_MS: u64 = 2 * lines::DEADLINE_MS;

/// How long a node waits to hear its own notice before it says it again, in milliseconds: messages come back in a few, and
/// whoever was signed out is to be gone within a second.
const NOTICE_AGAIN_MS: u64 = 400;

/// Notices that a node has not heard itself yet. Each is a sign-in that was ended while Redis was away; 10,000 in 1 MB.
const NOTICES_MAX: usize = 10_000;

/// How many of them: 100,000 are more than a node takes in that time, and 5 MB.
const TAKEN_MAX: usize = 100_000;

/// What happens to a node.
#[derive(Debug)]
pub enum Event<T> {
    /// Operations for a feed that is not hosted here, or behind others that wait.
    Submit(Submitted<T>),
    /// A request that this node asked of itself is answered.
    Replied(Reply),
    /// Something came over the bus.
    Bus(BusEvent),
    /// Somebody here follows the feed now.
    Followed(UserId),
    /// Nobody here does any more.
    Unfollowed(UserId),
    /// The answer to [`Effect::ReadHead`].
    HeadRead(UserId, Result<Option<Head>, ReadError>),
    /// The time of [`Effect::Gather`] is over.
    Gathered(UserId),
    /// Every node is to know this.
    Notice(Notice),
    /// This node is about to end.
    Leave,
    /// Time has passed.
    Tick,
}

/// What the shell is to do.
#[derive(Debug)]
pub enum Effect<T> {
    /// Answer who asked.
    Answer(T, Vec<OperationResult>),
    /// There is no room for these.
    Refuse(Code, T, Vec<Operation>),
    /// Have the feed's actor here do it, and send the reply to the node; `None`: it is this node's own.
    Perform(Option<NodeId>, Request),
    /// Send to a node.
    Send(NodeId, Bytes),
    /// Say [`Event::Gathered`] of the feed after [`lines::GATHER_MS`].
    Gather(UserId),
    /// Publish to every node.
    Tell(Bytes),
    /// Subscribe to the feed.
    Subscribe(UserId),
    /// Unsubscribe from it.
    Unsubscribe(UserId),
    /// Say this in the beats from now on.
    Beat(Bytes),
    /// Read the head of the feed from the store.
    ReadHead(UserId),
    /// Entries were committed elsewhere.
    Deliver(UserId, Epoch, Vec<Entry>),
    /// A feed is this far.
    Announce(UserId, Head),
    /// Say of every feed in memory here how far it is: what was published while no messages came through, and shortly
    /// before, may have reached nobody.
    AnnounceAll,
    /// Feeds are placed like this now.
    Placed(Arc<Placement>),
    /// Who waits for the subscription of these feeds waits no more.
    Subscribed(Vec<UserId>),
    /// Tell all who follow anything here that for so many milliseconds nobody has been able to find out whether it changed;
    /// `None`: that it is known again.
    Stale(Option<u64>),
    /// Every node was told this.
    Notice(Notice),
    /// What every node was told until now may not have come here.
    NoticesMissed,
    /// An operator should know.
    Report(Report),
}

/// What an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A node came or went; these are there, by name.
    Members(Vec<String>),
    /// Messages come through again.
    Up,
    /// They do not, because of this.
    Down(String),
    /// The cluster is set up wrongly: the text says what to do.
    Clash(String),
    /// A message was not understood.
    Garbled,
    /// Neither messages nor the store say whether what is followed here has changed.
    Stale,
    /// One of them does again.
    Fresh,
}

#[derive(Debug)]
struct Following {
    since: u64,
    confirmed: bool,
    /// When the last follower left.
    left: Option<u64>,
}

/// The component. See the module. `T` says who asked.
#[derive(Debug)]
pub struct Node<T> {
    me: Member,
    members: Members,
    /// What was reported of them last.
    clash: Option<String>,
    placement: Arc<Placement>,
    /// The one before it: a host of then may still finish what had come to it.
    placement_before: Arc<Placement>,
    /// The members' version that the placement was made for.
    placed: u64,
    lines: Lines<T>,
    watch: Watch,
    following: BTreeMap<UserId, Following>,
    /// Feeds whose last follower left, by when.
    lingering: VecDeque<(u64, UserId)>,
    /// Requests of others that were taken: sender, number and attempt.
    taken: BTreeSet<(u64, u64, u32)>,
    /// The same, by when.
    taken_order: VecDeque<(u64, (u64, u64, u32))>,
    /// What every node is to know and this one has not heard come back, by when it was said last.
    unheard: VecDeque<(u64, Notice)>,
    up: bool,
    stale: bool,
}

struct Here<'a> {
    me: NodeId,
    placement: &'a Placement,
    busy: &'a dyn Fn(UserId) -> bool,
}

impl Ground for Here<'_> {
    fn host(&self, feed: UserId) -> Option<NodeId> {
        self.placement.host(feed).filter(|host| *host != self.me)
    }
    fn is_busy_here(&self, feed: UserId) -> bool {
        (self.busy)(feed)
    }
}

impl<T> Node<T> {
    /// A node that has heard of nobody yet. The numbers of its requests begin at a random one.
    pub fn new(me: Member, first_request: u64) -> Self {
        let node = me.node;
        Self {
            members: Members::new(&me),
            me,
            clash: None,
            placement: Arc::new(Placement::alone()),
            placement_before: Arc::new(Placement::alone()),
            placed: 0,
            lines: Lines::new(node, first_request, WAITING_MAX),
            watch: Watch::default(),
            following: BTreeMap::new(),
            lingering: VecDeque::new(),
            taken: BTreeSet::new(),
            taken_order: VecDeque::new(),
            unheard: VecDeque::new(),
            up: false,
            stale: false,
        }
    }

    /// What it says of itself.
    pub fn me(&self) -> &Member {
        &self.me
    }

    /// Who hosts what.
    pub fn placement(&self) -> &Arc<Placement> {
        &self.placement
    }

    /// Whether messages come through.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Everyone who is there.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Whether operations for the feed must go through [`Event::Submit`].
    pub fn is_elsewhere(&self, feed: UserId) -> bool {
        self.lines.has(feed) || self.placement.host(feed).is_some_and(|host| host != self.me.node)
    }

    /// The feeds that this node is subscribed to, or wants to be.
    pub fn followed(&self) -> impl Iterator<Item = UserId> {
        self.following.keys().copied()
    }

    /// How many feeds have operations that wait for a host.
    pub fn lines(&self) -> usize {
        self.lines.len()
    }

    /// How many operations those are.
    pub fn operations_waiting(&self) -> usize {
        self.lines.operations()
    }

    /// How many sign-outs are to be told again, because this node has not heard them itself.
    pub fn sign_outs_waiting(&self) -> usize {
        self.unheard.len()
    }

    /// Whether a follower has to wait for the feed's subscription.
    pub fn awaits_subscription(&self, feed: UserId) -> bool {
        self.up && self.following.get(&feed).is_some_and(|following| !following.confirmed)
    }

    /// Takes one event. Waits for nothing. `busy` says whether operations wait at the feed's actor on this node.
    pub fn handle(&mut self, event: Event<T>, now: u64, busy: &dyn Fn(UserId) -> bool) -> Vec<Effect<T>> {
        let mut effects = Vec::new();
        match event {
            Event::Submit(submitted) => {
                let here = here(&self.me, &self.placement, busy);
                match self.lines.submit(submitted, now, &here) {
                    Ok(done) => self.carry_on(done, &mut effects),
                    Err((code, token, operations)) => effects.push(Effect::Refuse(code, token, operations)),
                }
            }
            Event::Replied(reply) => self.replied(reply, now, busy, &mut effects),
            Event::Bus(event) => self.bus(event, now, busy, &mut effects),
            Event::Followed(feed) => match self.following.get_mut(&feed) {
                Some(following) => following.left = None,
                None => {
                    let following = Following {
                        since: now,
                        confirmed: false,
                        left: None,
                    };
                    self.following.insert(feed, following);
                    self.watch.follow(feed, now);
                    effects.push(Effect::Subscribe(feed));
                }
            },
            Event::Unfollowed(feed) => {
                if let Some(following) = self.following.get_mut(&feed) {
                    following.left = Some(now);
                    self.lingering.push_back((now, feed));
                }
            }
            Event::HeadRead(feed, result) => {
                self.watch.read(feed, result.as_ref().ok().copied(), now);
                if result.is_ok() {
                    self.look(now, &mut effects);
                }
                if let Ok(Some(head)) = result {
                    effects.push(Effect::Announce(feed, head));
                }
            }
            Event::Gathered(feed) => {
                let here = here(&self.me, &self.placement, busy);
                let done = self.lines.gathered(feed, now, &here);
                self.carry_on(done, &mut effects);
            }
            Event::Notice(notice) => {
                effects.push(Effect::Tell(notice.encode()));
                if matches!(notice, Notice::Tried { .. } | Notice::Spent { .. }) {
                    return effects;
                }
                if self.unheard.len() >= NOTICES_MAX {
                    self.unheard.pop_front();
                }
                self.unheard.push_back((now, notice));
            }
            Event::Leave => {
                self.me.leaving = true;
                effects.push(Effect::Beat(self.me.encode()));
            }
            Event::Tick => {
                self.members.forget(now);
                self.place(now, busy, &mut effects);
                self.let_go(now, &mut effects);
                self.tell_again(now, &mut effects);
                effects.extend(self.watch.tick(now).into_iter().map(Effect::ReadHead));
                self.look(now, &mut effects);
                let here = here(&self.me, &self.placement, busy);
                let done = self.lines.tick(now, &here);
                self.carry_on(done, &mut effects);
            }
        }
        effects
    }

    /// Says when it is no longer known of some feed that is followed here whether it has changed, and when it is of all again.
    fn look(&mut self, now: u64, effects: &mut Vec<Effect<T>>) {
        let unknown_for = now.saturating_sub(self.watch.failing_since().unwrap_or(now));
        let trusts = self.up && is_planted(Bug::BackIsTrusted) || is_planted(Bug::StaleUntold);
        let stale = unknown_for >= STALE_AFTER_MS && !trusts;
        if stale != self.stale {
            self.stale = stale;
            effects.push(Effect::Stale(stale.then_some(unknown_for)));
            effects.push(Effect::Report(if stale { Report::Stale } else { Report::Fresh }));
        }
    }

    /// Says again what this node has not heard itself: while no messages come through, nobody else has either.
    fn tell_again(&mut self, now: u64, effects: &mut Vec<Effect<T>>) {
        if !self.up {
            return;
        }
        let due = |told: &mut (u64, Notice)| told.0 + NOTICE_AGAIN_MS <= now;
        while let Some((_, notice)) = self.unheard.pop_front_if(due) {
            effects.push(Effect::Tell(notice.encode()));
            self.unheard.push_back((now, notice));
        }
    }

    /// Ends the subscriptions of feeds that nobody here has followed for a while.
    fn let_go(&mut self, now: u64, effects: &mut Vec<Effect<T>>) {
        while let Some((left, feed)) = self.lingering.pop_front_if(|(left, _)| *left + LINGER_MS <= now) {
            // It may have been followed, and left, again since.
            if self
                .following
                .get(&feed)
                .is_some_and(|following| following.left == Some(left))
            {
                self.following.remove(&feed);
                self.watch.unfollow(feed);
                effects.push(Effect::Unsubscribe(feed));
            }
        }
    }

    fn bus(&mut self, event: BusEvent, now: u64, busy: &dyn Fn(UserId) -> bool, effects: &mut Vec<Effect<T>>) {
        match event {
            BusEvent::Published(Notice::CHANNEL, message) => effects.push(match Notice::decode(&message) {
                // Counted before it was told.
                Some(Notice::Tried { node, .. } | Notice::Spent { node, .. }) if node == self.me.node.0 => return,
                Some(notice) => {
                    self.unheard.retain(|(_, told)| *told != notice);
                    Effect::Notice(notice)
                }
                None => Effect::Report(Report::Garbled),
            }),
            // The node's own followers had it before it went out.
            BusEvent::Published(feed, message) if FeedMessage::sender(&message) == Some(self.me.node) => {
                self.watch.changed(feed, now);
            }
            BusEvent::Published(feed, message) => match FeedMessage::decode(&message) {
                Some(FeedMessage::Entries(_, epoch, entries)) => {
                    self.watch.changed(feed, now);
                    effects.push(Effect::Deliver(feed, epoch, entries));
                }
                Some(FeedMessage::Head(_, head)) => effects.push(Effect::Announce(feed, head)),
                None => effects.push(Effect::Report(Report::Garbled)),
            },
            BusEvent::Received(message) => match NodeMessage::decode(&message) {
                Some(NodeMessage::Request(request)) if self.is_new(&request, now) => {
                    effects.push(Effect::Perform(Some(NodeId(request.from)), request));
                }
                Some(NodeMessage::Request(_)) => {}
                Some(NodeMessage::Reply(reply)) => self.replied(reply, now, busy, effects),
                None => effects.push(Effect::Report(Report::Garbled)),
            },
            BusEvent::Subscribed(feeds) => {
                if feeds.contains(&Notice::CHANNEL) {
                    effects.push(Effect::NoticesMissed);
                }
                let mut late = Vec::new();
                for feed in &feeds {
                    if let Some(following) = self.following.get_mut(feed) {
                        let again = std::mem::replace(&mut following.confirmed, true);
                        let is_late = again || now.saturating_sub(following.since) > SUBSCRIBE_LATE_MS;
                        if is_late && !is_planted(Bug::LateSubscriptionTrusted) {
                            late.push(*feed);
                        }
                    }
                }
                self.watch.doubt(late, now);
                effects.push(Effect::Subscribed(feeds));
            }
            BusEvent::Beats(beats) => {
                self.members.beats(&beats, now);
                let clash = self.members.clash();
                if clash != self.clash {
                    self.clash.clone_from(&clash);
                    effects.extend(clash.map(|clash| Effect::Report(Report::Clash(clash))));
                }
                self.place(now, busy, effects);
            }
            BusEvent::Down(why) => {
                self.set_up(false, now, busy, effects);
                // Nobody waits for what may never come: they read the log, and read it again when it has come.
                for following in self.following.values_mut() {
                    following.since = 0;
                    following.confirmed = false;
                }
                effects.push(Effect::Subscribed(self.following.keys().copied().collect()));
                effects.push(Effect::Report(Report::Down(why)));
            }
            BusEvent::Up => {
                self.set_up(true, now, busy, effects);
                if !is_planted(Bug::LossForgotten) {
                    effects.push(Effect::AnnounceAll);
                }
                effects.push(Effect::Report(Report::Up));
            }
        }
    }

    /// Whether a request of another node comes for the first time, and remembers it.
    fn is_new(&mut self, request: &Request, now: u64) -> bool {
        let is_over = |taken: &mut (u64, _)| taken.0 + TAKEN_KEPT_MS <= now;
        while let Some((_, key)) = self.taken_order.pop_front_if(is_over) {
            self.taken.remove(&key);
        }
        if self.taken_order.len() >= TAKEN_MAX
            && let Some((_, key)) = self.taken_order.pop_front()
        {
            self.taken.remove(&key);
        }
        let key = (request.from, request.id, request.attempt);
        let is_new = self.taken.insert(key) || is_planted(Bug::DoubledIsNew);
        if is_new {
            self.taken_order.push_back((now, key));
        }
        is_new
    }

    fn set_up(&mut self, up: bool, now: u64, busy: &dyn Fn(UserId) -> bool, effects: &mut Vec<Effect<T>>) {
        // Until now it was as before.
        self.look(now, effects);
        self.up = up;
        self.members.set_up(up);
        self.watch.set_up(up, now);
        self.look(now, effects);
        self.place(now, busy, effects);
    }

    /// Places the feeds anew if other members are there. Followers of a feed whose host changed compare it: its last
    /// publication may have died with the old host, also where that finished what it had and another is host since.
    fn place(&mut self, now: u64, busy: &dyn Fn(UserId) -> bool, effects: &mut Vec<Effect<T>>) {
        if self.placed == self.members.version() {
            return;
        }
        self.placed = self.members.version();
        let placement = self.members.placement();
        let has_moved = |feed: &UserId| {
            placement.differs(&self.placement, *feed) || placement.differs(&self.placement_before, *feed)
        };
        let moved: Vec<UserId> = self.watch.feeds().filter(has_moved).collect();
        if !is_planted(Bug::MovedFeedTrusted) {
            self.watch.doubt(moved, now);
        }
        self.placement_before = std::mem::replace(&mut self.placement, Arc::new(placement));
        effects.push(Effect::Placed(self.placement.clone()));
        let names = self.members.iter().map(|member| member.name.clone()).collect();
        effects.push(Effect::Report(Report::Members(names)));
        let here = here(&self.me, &self.placement, busy);
        let done = self.lines.tick(now, &here);
        self.carry_on(done, effects);
    }

    fn replied(&mut self, reply: Reply, now: u64, busy: &dyn Fn(UserId) -> bool, effects: &mut Vec<Effect<T>>) {
        let here = here(&self.me, &self.placement, busy);
        let done = self.lines.replied(reply, now, &here);
        self.carry_on(done, effects);
    }

    fn carry_on(&self, done: Vec<lines::Effect<T>>, effects: &mut Vec<Effect<T>>) {
        effects.extend(done.into_iter().map(|effect| match effect {
            lines::Effect::Send(to, request) => Effect::Send(to, NodeMessage::Request(request).encode()),
            lines::Effect::Here(request) => Effect::Perform(None, request),
            lines::Effect::Answer(token, results) => Effect::Answer(token, results),
            lines::Effect::Gather(feed) => Effect::Gather(feed),
        }));
    }
}

fn here<'a>(me: &Member, placement: &'a Placement, busy: &'a dyn Fn(UserId) -> bool) -> Here<'a> {
    Here {
        me: me.node,
        placement,
        busy,
    }
}

#[cfg(test)]
mod tests {
    use taskflow_protocol::OperationId;
    use uuid::Uuid;

    use super::*;
    use crate::domain::Entry;
    use crate::ports::{Beat, Epoch};

    /// Screens are told only where neither way works, once, and when one does again.
    #[test]
    fn without_messages_and_without_the_store_followers_are_told_that_what_they_see_may_be_old() {
        let mut node = Node::<()>::new(member(), 1);
        let feed = UserId(Uuid::from_u128(7));
        let mut told = Vec::new();
        let mut handle = |event, now, store: bool| {
            for effect in node.handle(event, now, &|_| false) {
                match effect {
                    Effect::Stale(since) => told.push((now, since)),
                    Effect::ReadHead(read) => {
                        let answer = if store {
                            Ok(None)
                        } else {
                            Err(ReadError::Unavailable("away".to_owned()))
                        };
                        let more = node.handle(Event::HeadRead(read, answer), now, &|_| false);
                        told.extend(more.into_iter().filter_map(|effect| match effect {
                            Effect::Stale(since) => Some((now, since)),
                            _ => None,
                        }));
                    }
                    _ => {}
                }
            }
        };
        let ticks = |handle: &mut dyn FnMut(Event<()>, u64, bool), range: std::ops::Range<u64>, store| {
            for now in range.step_by(100) {
                handle(Event::Tick, now, store);
            }
        };
        // Nobody follows anything: there is nobody to tell.
        ticks(&mut handle, 0..20_000, false);
        handle(Event::Followed(feed), 20_000, true);
        // The store alone is enough, and so are messages.
        ticks(&mut handle, 20_000..40_000, true);
        handle(Event::Bus(BusEvent::Up), 40_000, false);
        ticks(&mut handle, 40_000..41_000, true);
        ticks(&mut handle, 41_000..60_000, false);
        handle(Event::Bus(BusEvent::Down("cut".to_owned())), 60_000, false);
        ticks(&mut handle, 60_000..80_000, false);
        ticks(&mut handle, 80_000..100_000, true);
        ticks(&mut handle, 100_000..120_000, false);
        // That messages come again does not tell what they would have told before.
        handle(Event::Bus(BusEvent::Up), 120_000, false);
        ticks(&mut handle, 120_000..140_000, false);
        ticks(&mut handle, 140_000..145_000, true);
        ticks(&mut handle, 145_000..240_000, false);
        let [(first, since), (back, None), (second, Some(_)), (again, None)] = told[..] else {
            panic!("{told:?}")
        };
        assert_eq!((first, since), (65_000, Some(STALE_AFTER_MS)));
        assert!((80_000..82_000).contains(&back), "{back}");
        assert!((104_000..=106_600).contains(&second), "{second}");
        assert!((140_000..142_000).contains(&again), "{again}");
    }

    #[test]
    fn what_every_node_is_to_know_is_said_until_it_is_heard() {
        let mut node = Node::<()>::new(member(), 1);
        let notice = Notice::SignedOut {
            user: UserId(Uuid::from_u128(7)),
            sign_in: Uuid::from_u128(8),
        };
        let mut told = Vec::new();
        let mut handle = |event, now| {
            let effects = node.handle(event, now, &|_| false);
            for effect in &effects {
                if let Effect::Tell(bytes) = effect {
                    assert_eq!(Notice::decode(bytes), Some(notice.clone()));
                    told.push(now);
                }
            }
            effects
        };
        handle(Event::Notice(notice.clone()), 0);
        for now in (20..1_000).step_by(20) {
            handle(Event::Tick, now);
        }
        // It is no use while no messages come through.
        handle(Event::Bus(BusEvent::Up), 1_000);
        for now in (1_000..1_500).step_by(20) {
            handle(Event::Tick, now);
        }
        let heard = handle(Event::Bus(BusEvent::Published(Notice::CHANNEL, notice.encode())), 1_500);
        assert!(
            matches!(&heard[..], [Effect::Notice(heard)] if *heard == notice),
            "{heard:?}"
        );
        for now in (1_500..5_000).step_by(20) {
            handle(Event::Tick, now);
        }
        assert_eq!(told, [0, 1_000, 1_400]);
    }

    #[test]
    fn a_subscription_made_anew_means_that_notices_may_have_been_missed() {
        let mut node = Node::<()>::new(member(), 1);
        let mut missed = |feeds| {
            let effects = node.handle(Event::Bus(BusEvent::Subscribed(feeds)), 0, &|_| false);
            effects.iter().any(|effect| matches!(effect, Effect::NoticesMissed))
        };
        assert!(!missed(vec![UserId(Uuid::from_u128(7))]));
        assert!(missed(vec![UserId(Uuid::from_u128(7)), Notice::CHANNEL]));
    }

    /// The answers about one feed say nothing of another.
    #[test]
    fn a_feed_that_cannot_be_read_is_not_hidden_by_those_that_can() {
        let mut node = Node::<()>::new(member(), 1);
        let [good, bad] = [1, 2].map(|number| UserId(Uuid::from_u128(number)));
        let mut told = Vec::new();
        let mut handle = |event, now| {
            for effect in node.handle(event, now, &|_| false) {
                let Effect::ReadHead(feed) = effect else { continue };
                let answer = if feed == bad {
                    Err(ReadError::Unavailable("away".to_owned()))
                } else {
                    Ok(None)
                };
                let more = node.handle(Event::HeadRead(feed, answer), now, &|_| false);
                assert!(!more.iter().any(|effect| matches!(effect, Effect::Stale(_))));
            }
            let stale = node.stale;
            if told.last().is_none_or(|(_, last)| *last != stale) {
                told.push((now, stale));
            }
        };
        handle(Event::Followed(good), 0);
        handle(Event::Followed(bad), 0);
        for now in (0..20_000).step_by(100) {
            handle(Event::Tick, now);
        }
        // Who left is not waited for.
        handle(Event::Unfollowed(bad), 20_000);
        for now in (20_000..30_000).step_by(100) {
            handle(Event::Tick, now);
        }
        let [(0, false), (stale, true), (fresh, false)] = told[..] else {
            panic!("{told:?}")
        };
        assert!((5_000..=6_600).contains(&stale), "{stale}");
        assert!((25_000..=25_200).contains(&fresh), "{fresh}");
    }

    fn member() -> Member {
        Member {
            node: NodeId(1),
            name: "one".to_owned(),
            hosts_feeds: true,
            leaving: false,
            cluster: 1,
        }
    }

    /// A host that no longer is one finishes what it has. If it ends at that, nobody publishes what it did last.
    #[test]
    fn a_feed_is_compared_when_its_host_changes_and_again_when_the_old_host_ends() {
        let mut node = Node::<()>::new(member(), 1);
        let beat = |number: u64| Beat {
            node: NodeId(number),
            age_ms: 0,
            body: Member {
                node: NodeId(number),
                name: number.to_string(),
                ..member()
            }
            .encode(),
        };
        let (mut now, mut reads) = (0, BTreeMap::<UserId, usize>::new());
        // For three seconds these are there; what is read meanwhile is counted.
        let mut members = |node: &mut Node<()>, there: &[u64]| {
            reads.clear();
            for _ in 0..30 {
                let beats = there.iter().map(|number| beat(*number)).collect();
                for event in [Event::Bus(BusEvent::Beats(beats)), Event::Tick] {
                    for effect in node.handle(event, now, &|_| false) {
                        if let Effect::ReadHead(feed) = effect {
                            *reads.entry(feed).or_default() += 1;
                            node.handle(Event::HeadRead(feed, Ok(None)), now, &|_| false);
                        }
                    }
                }
                now += 100;
            }
            reads.clone()
        };
        node.handle(Event::Bus(BusEvent::Up), 0, &|_| false);
        members(&mut node, &[1, 2]);
        let feeds: Vec<UserId> = (0..40).map(|number| UserId(Uuid::from_u128(number))).collect();
        for feed in &feeds {
            node.handle(Event::Followed(*feed), 3_000, &|_| false);
        }
        members(&mut node, &[1, 2]);
        let before = node.placement().clone();
        let on_arrival = members(&mut node, &[1, 2, 3]);
        let after = node.placement().clone();
        let taken_over = |feed: &UserId| before.host(*feed) == Some(NodeId(2)) && after.host(*feed) == Some(NodeId(3));
        let taken_over: Vec<UserId> = feeds.into_iter().filter(taken_over).collect();
        assert!(!taken_over.is_empty());
        let on_end = members(&mut node, &[1, 3]);
        for feed in taken_over {
            assert_eq!(node.placement().host(feed), Some(NodeId(3)), "it does not move again");
            assert_eq!((on_arrival.get(&feed), on_end.get(&feed)), (Some(&1), Some(&1)));
        }
    }

    /// A feed that this node hosts changes by what it publishes itself. When messages stop coming through, another node may
    /// go on with it at once.
    #[test]
    fn what_this_node_published_lately_is_compared_often_when_messages_stop() {
        let (feed, mut node) = (UserId(Uuid::from_u128(7)), Node::<()>::new(member(), 1));
        let mut reads = 0;
        let mut handle = |event, now| {
            for effect in node.handle(event, now, &|_| false) {
                if let Effect::ReadHead(read) = effect {
                    reads += usize::from(read == feed && now >= 115_000);
                    node.handle(Event::HeadRead(read, Ok(None)), now, &|_| false);
                }
            }
        };
        handle(Event::Bus(BusEvent::Up), 0);
        handle(Event::Followed(feed), 0);
        // Among many others, that are quiet.
        for number in 1_000..16_000 {
            handle(Event::Followed(UserId(Uuid::from_u128(number))), 0);
        }
        let entry = Entry {
            seq: 1,
            time: 1,
            author: feed,
            operation: OperationId(feed.0),
            operation_hash: 1,
            changes: Vec::new(),
            refused: None,
            trace: None,
        };
        let message = FeedMessage::entries(NodeId(1), Epoch(1), &[entry]);
        handle(Event::Bus(BusEvent::Published(feed, message)), 100_000);
        handle(Event::Bus(BusEvent::Down("cut".to_owned())), 110_000);
        for now in (110_000..145_000).step_by(20) {
            handle(Event::Tick, now);
        }
        assert!((18..=22).contains(&reads), "{reads} in 30 s");
    }
}
