//! How many connections a user has: event streams, long-polls and WebSockets.
//!
//! The nodes of a cluster tell each other each second of the users who have many: what a user has elsewhere counts here as well.
//! Who opens them on all nodes within that second may have more. What a node does not hear for [`HEARD_FOR`] it does not count: the
//! other node may be gone, and its users are coming.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use taskflow_actors::ports::{NodeId, Spent};
use taskflow_protocol::{Code, UserId};

use tokio::time::Instant;
use uuid::Uuid;

use crate::config::Config;
use crate::http::rates::{TELL_EVERY, TOLD_FROM, TOLD_MAX};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{ConnectionKind, Limited};

/// What connections are in what nodes tell each other: a number that no [`Asked`](crate::http::rates::Asked) has.
pub const HELD: u8 = 5;

/// How long what another node has told counts: two of its words may be lost.
const HEARD_FOR: Duration = Duration::from_millis(3_500);

/// How many another node has, and when it said so.
type Told = (usize, Instant);

/// Counts what stays open.
pub struct Seats {
    users: Mutex<HashMap<UserId, usize>>,
    /// What each user has on other nodes.
    elsewhere: Mutex<HashMap<UserId, HashMap<NodeId, Told>>>,
    total: AtomicUsize,
    /// Connections that are not in the total here, but share its limit: the WebSockets.
    others: Box<dyn Fn() -> usize + Send + Sync>,
    /// What there is here does not count elsewhere any more.
    is_leaving: AtomicBool,
    metrics: Arc<Metrics>,
    user_max: usize,
    total_max: usize,
}

/// One open request or WebSocket; given back when dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    user: UserId,
    /// Counted in the total and the metric, too. WebSockets are counted there from their handshake on.
    is_request: bool,
}

impl std::fmt::Debug for Seats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seats")
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

impl Seats {
    /// With the limits of the settings; `others` says how many WebSockets there are.
    pub fn new(config: &Config, metrics: Arc<Metrics>, others: impl Fn() -> usize + Send + Sync + 'static) -> Self {
        Self {
            users: Mutex::default(),
            elsewhere: Mutex::default(),
            total: AtomicUsize::new(0),
            others: Box::new(others),
            is_leaving: AtomicBool::new(false),
            metrics,
            user_max: config.connections_a_user_max,
            total_max: config.connections_max,
        }
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// A seat for one more request.
    pub fn take(self: &Arc<Self>, user: UserId) -> Result<Seat, Code> {
        self.seat(user, true)
    }

    /// A seat for one more WebSocket.
    pub fn take_for_socket(self: &Arc<Self>, user: UserId) -> Result<Seat, Code> {
        self.seat(user, false)
    }

    /// Tells the other nodes, for as long as the node runs.
    pub async fn share(self: Arc<Self>, tell: impl Fn(Vec<Spent>)) {
        let mut told = HashMap::new();
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            let held = self.held();
            // Nobody has to wait until what is not so any more is forgotten.
            let gone = told
                .into_keys()
                .filter(|user| !held.contains_key(user))
                .map(|user| (user, 0));
            let news = held.iter().map(|(user, count)| (*user, *count)).chain(gone);
            let news: Vec<_> = news.map(|(user, count)| Spent(HELD, user.0.as_u128(), count)).collect();
            if !news.is_empty() {
                tell(news);
            }
            told = held;
            self.forget();
        }
    }

    /// Whoever is here is about to be sent to other nodes, and finds room there.
    pub fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
    }

    /// Who has much here, and how much: those who have most, if they are too many to tell of.
    fn held(&self) -> HashMap<UserId, u32> {
        if self.is_leaving.load(Ordering::Relaxed) {
            return HashMap::new();
        }
        let least = (self.user_max / TOLD_FROM as usize).max(1);
        let users = lock(&self.users);
        let many = users.iter().filter(|(_, count)| **count >= least);
        let mut many: Vec<_> = many
            .map(|(user, count)| (*user, u32::try_from(*count).unwrap_or(u32::MAX)))
            .collect();
        drop(users);
        many.sort_unstable_by_key(|(_, count)| Reverse(*count));
        many.truncate(TOLD_MAX);
        many.into_iter().collect()
    }

    /// Another node has told of these.
    pub fn heard(&self, node: NodeId, held: &[Spent]) {
        let now = Instant::now();
        let mut elsewhere = lock(&self.elsewhere);
        for Spent(_, user, count) in held.iter().filter(|Spent(what, ..)| *what == HELD) {
            let nodes = elsewhere.entry(UserId(Uuid::from_u128(*user))).or_default();
            match *count {
                0 => nodes.remove(&node),
                count => nodes.insert(node, (count as usize, now)),
            };
        }
    }

    /// How many a user has on other nodes, as far as it is known.
    fn elsewhere(&self, user: UserId) -> usize {
        let elsewhere = lock(&self.elsewhere);
        let nodes = elsewhere.get(&user).into_iter().flat_map(HashMap::values);
        let known = nodes.filter(|(_, told)| told.elapsed() < HEARD_FOR);
        known.map(|(count, _)| *count).sum()
    }

    /// Forgets what does not count any more.
    fn forget(&self) {
        let mut elsewhere = lock(&self.elsewhere);
        elsewhere.retain(|_, nodes| {
            nodes.retain(|_, (_, told)| told.elapsed() < HEARD_FOR);
            !nodes.is_empty()
        });
    }

    fn seat(self: &Arc<Self>, user: UserId, is_request: bool) -> Result<Seat, Code> {
        let elsewhere = self.elsewhere(user);
        let mut users = lock(&self.users);
        if is_request && self.total.load(Ordering::Relaxed) + (self.others)() >= self.total_max {
            return Err(Code::ServerBusy);
        }
        let here = users.get(&user).copied().unwrap_or(0);
        if here + elsewhere >= self.user_max {
            self.metrics.limited.of(Limited::Connections).inc();
            return Err(Code::TooManyConnections);
        }
        users.insert(user, here + 1);
        if is_request {
            self.total.fetch_add(1, Ordering::Relaxed);
            self.metrics.connections.of(ConnectionKind::Request).inc();
        }
        Ok(Seat {
            seats: Arc::clone(self),
            user,
            is_request,
        })
    }
}

fn lock<T>(counts: &Mutex<T>) -> MutexGuard<'_, T> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut users = lock(&self.seats.users);
        if let Some(count) = users.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.user);
            }
        }
        if self.is_request {
            self.seats.total.fetch_sub(1, Ordering::Relaxed);
            self.seats.metrics.connections.of(ConnectionKind::Request).dec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    use crate::telemetry::Telemetry;

    const ADA: UserId = UserId(Uuid::from_u128(1));
    const BOB: UserId = UserId(Uuid::from_u128(2));

    fn node(connections_a_user_max: usize) -> Arc<Seats> {
        let config = Config {
            connections_a_user_max,
            ..Config::default()
        };
        Arc::new(Seats::new(&config, Telemetry::new().metrics, || 0))
    }

    /// What this node tells each time.
    fn told(seats: &Arc<Seats>) -> mpsc::Receiver<Vec<Spent>> {
        let (tell, told) = mpsc::channel();
        tokio::spawn(seats.clone().share(move |held| tell.send(held).expect("heard")));
        told
    }

    async fn a_second() {
        tokio::time::sleep(TELL_EVERY + Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_user_has_on_other_nodes_counts_until_it_is_closed() {
        let (here, there, third) = (node(3), node(3), NodeId(3));
        let told = told(&there);
        let one = there.take(ADA).expect("free");
        let two = there.take_for_socket(ADA).expect("free");
        let _three = here.take(ADA).expect("nobody has told yet");
        a_second().await;
        let held = told.try_recv().expect("told");
        assert_eq!(held, [Spent(HELD, ADA.0.as_u128(), 2)]);
        here.heard(third, &held);
        assert_eq!(here.take(ADA).err(), Some(Code::TooManyConnections));
        assert!(here.take(BOB).is_ok(), "others have what they had");
        drop(one);
        a_second().await;
        // What is told is what there is, not more of it.
        here.heard(third, &told.try_recv().expect("told"));
        let four = here.take(ADA).expect("one was closed");
        assert_eq!(here.take(ADA).err(), Some(Code::TooManyConnections));
        drop((two, four));
        a_second().await;
        let gone = told.try_recv().expect("told");
        assert_eq!(gone, [Spent(HELD, ADA.0.as_u128(), 0)]);
        here.heard(third, &gone);
        let _four = here.take(ADA).expect("free");
        let _five = here.take(ADA).expect("free");
        a_second().await;
        assert_eq!(told.try_recv().ok(), None, "nothing to tell");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_sent_away_finds_room_elsewhere() {
        let here = node(3);
        let told = told(&here);
        let _seats = [here.take(ADA), here.take(ADA)];
        a_second().await;
        assert_eq!(told.try_recv(), Ok(vec![Spent(HELD, ADA.0.as_u128(), 2)]));
        here.leave();
        a_second().await;
        assert_eq!(told.try_recv(), Ok(vec![Spent(HELD, ADA.0.as_u128(), 0)]));
        let _third = here.take(ADA).expect("it has what it had");
        assert_eq!(here.take(ADA).err(), Some(Code::TooManyConnections));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_not_heard_any_more_holds_nothing() {
        let here = node(4);
        here.heard(
            NodeId(2),
            &[Spent(HELD, ADA.0.as_u128(), 2), Spent(1, ADA.0.as_u128(), 99)],
        );
        here.heard(NodeId(3), &[Spent(HELD, ADA.0.as_u128(), u32::MAX)]);
        assert_eq!(here.take(ADA).err(), Some(Code::TooManyConnections));
        tokio::time::sleep(HEARD_FOR / 2).await;
        here.heard(NodeId(2), &[Spent(HELD, ADA.0.as_u128(), 3)]);
        tokio::time::sleep(HEARD_FOR / 2).await;
        let one = here.take(ADA).expect("only what was told last counts");
        assert_eq!(here.take(ADA).err(), Some(Code::TooManyConnections));
        tokio::time::sleep(HEARD_FOR / 2).await;
        drop(one);
        here.forget();
        assert!(lock(&here.elsewhere).is_empty());
    }

    #[test]
    fn only_those_who_have_much_are_told_of_and_no_more_than_go_into_a_message() {
        let here = node(20);
        let _few = here.take(UserId(Uuid::from_u128(u128::MAX))).expect("free");
        assert!(here.held().is_empty(), "a tenth on ten nodes is all");
        let seats = (0..=TOLD_MAX as u128).flat_map(|user| std::iter::repeat_n(UserId(Uuid::from_u128(user)), 2));
        let _held: Vec<_> = seats
            .chain([ADA, BOB])
            .map(|user| here.take(user).expect("free"))
            .collect();
        let told = here.held();
        assert_eq!(told.len(), TOLD_MAX);
        assert_eq!((told[&ADA], told[&BOB]), (3, 3), "who has most");
    }

    #[test]
    fn a_user_gets_no_more_seats_than_allowed_and_gets_them_back() {
        let metrics = Telemetry::new().metrics;
        let config = Config {
            connections_a_user_max: 2,
            connections_max: 4,
            ..Config::default()
        };
        let seats = Arc::new(Seats::new(&config, metrics, || 1));
        let first = seats.take(ADA).expect("free");
        let _second = seats.take(ADA).expect("free");
        assert_eq!(seats.take(ADA).err(), Some(Code::TooManyConnections));
        let _third = seats.take(BOB).expect("free");
        assert_eq!(seats.take(BOB).err(), Some(Code::ServerBusy));
        assert!(
            seats.take_for_socket(BOB).is_ok(),
            "its place in the total was taken at the handshake"
        );
        assert_eq!(seats.take_for_socket(ADA).err(), Some(Code::TooManyConnections));
        drop(first);
        assert!(seats.take(BOB).is_ok());
        assert!(seats.take(ADA).is_ok());
        assert_eq!(seats.total.load(Ordering::Relaxed), 2);
    }
}
