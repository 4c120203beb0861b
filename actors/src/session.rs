//! A user's live connections on this node: who may come in, what each may follow, and who has to go.
//!
//! [`Session`] is the component, [`SessionActor`] its shell, [`Sessions`] the node's table of them. The bytes of pushes
//! and operations do not pass here: a session decides, the connection then talks to the feed and the hub directly.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::prelude::*;
use taskflow_protocol::{Code, UserId};
use uuid::Uuid;

use crate::ports::ConnectionId;

/// Shards of the table of sessions.
const TABLE_SHARDS: usize = 64;

/// What happens to a session.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// A connection with a valid token wants in.
    Join(ConnectionId, Uuid),
    /// A connection is gone.
    Leave(ConnectionId),
    /// A connection brought a new token, of this sign-in.
    Renew(ConnectionId, Uuid),
    /// A connection wants to follow a feed.
    Follow(ConnectionId, UserId),
    /// A sign-in was ended: its connections must go.
    SignedOut(Uuid),
}

/// An event on its way to a session.
#[derive(actix::Message)]
#[rtype(result = "()")]
struct Sent(Event, Waits);

/// Counts as waiting until the session has done it, or is gone.
struct Waits(Arc<AtomicUsize>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Asks a session for the sign-ins of its connections.
#[derive(actix::Message)]
#[rtype(result = "Vec<Uuid>")]
struct InUse;

/// What a session decides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// The connection is in.
    Admit(ConnectionId),
    /// The connection has to go.
    Close(ConnectionId, Code),
    /// The connection may follow the feed, or not.
    Follow(ConnectionId, UserId, Result<(), Code>),
}

/// Carries a session's decisions to the connections. Never waits.
pub trait Gate: Send + Sync + 'static {
    /// Tells the connection.
    fn decided(&self, decision: Decision);
}

/// The component.
#[derive(Debug)]
pub struct Session {
    user: UserId,
    connections: Vec<(ConnectionId, Uuid)>,
}

impl Session {
    /// A session without connections.
    pub fn new(user: UserId) -> Self {
        Self {
            user,
            connections: Vec::new(),
        }
    }

    /// The sign-ins of its connections, each once.
    pub fn sign_ins(&self) -> Vec<Uuid> {
        let mut all: Vec<Uuid> = self.connections.iter().map(|(_, sign_in)| *sign_in).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Takes one event. Waits for nothing.
    pub fn handle(&mut self, event: Event) -> Vec<Decision> {
        match event {
            Event::Join(connection, sign_in) => {
                if self.connections.is_empty() {
                    // Nearly always it stays the only one.
                    self.connections.reserve_exact(1);
                }
                self.connections.push((connection, sign_in));
                vec![Decision::Admit(connection)]
            }
            Event::Leave(connection) => {
                self.connections.retain(|(other, _)| *other != connection);
                self.connections.shrink_to(self.connections.len() * 2);
                Vec::new()
            }
            Event::Renew(connection, sign_in) => {
                let renewed = self.connections.iter_mut().filter(|(other, _)| *other == connection);
                renewed.for_each(|(_, old)| *old = sign_in);
                Vec::new()
            }
            Event::Follow(connection, feed) => {
                let allowed = if feed == self.user {
                    Ok(())
                } else {
                    Err(Code::FeedNotFound)
                };
                vec![Decision::Follow(connection, feed, allowed)]
            }
            Event::SignedOut(sign_in) => {
                let ended = self.connections.iter().filter(|(_, other)| *other == sign_in);
                ended
                    .map(|(connection, _)| Decision::Close(*connection, Code::SignedOut))
                    .collect()
            }
        }
    }
}

/// The shell.
struct SessionActor {
    session: Session,
    gate: Arc<dyn Gate>,
}

impl Actor for SessionActor {
    type Context = Context<Self>;
}

impl Handler<Sent> for SessionActor {
    type Result = ();

    fn handle(&mut self, Sent(event, _waits): Sent, _: &mut Self::Context) {
        for decision in self.session.handle(event) {
            self.gate.decided(decision);
        }
    }
}

impl Handler<InUse> for SessionActor {
    type Result = Vec<Uuid>;

    fn handle(&mut self, _: InUse, _: &mut Self::Context) -> Vec<Uuid> {
        self.session.sign_ins()
    }
}

/// A session in the table. The actor stops when the table drops its address.
struct Place {
    address: Addr<SessionActor>,
    /// Connections that joined and did not leave, refused ones included: with the last one the session ends.
    joined: u32,
}

/// The sessions of this node.
pub struct Sessions {
    shards: Vec<Mutex<HashMap<UserId, Place>>>,
    gate: Arc<dyn Gate>,
    /// Events on their way.
    waiting: Arc<AtomicUsize>,
}

impl Sessions {
    /// No sessions yet.
    pub fn new(gate: Arc<dyn Gate>) -> Self {
        Self {
            shards: (0..TABLE_SHARDS).map(|_| Mutex::default()).collect(),
            gate,
            waiting: Arc::default(),
        }
    }

    /// How many sessions there are, and how many events are on their way to them. For whoever counts: each shard is locked once.
    pub fn count(&self) -> (usize, usize) {
        let shards = self.shards.iter();
        let sessions = shards.map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len());
        (sessions.sum(), self.waiting.load(Ordering::Relaxed))
    }

    fn shard(&self, user: UserId) -> MutexGuard<'_, HashMap<UserId, Place>> {
        let shard = &self.shards[user.bytes()[15] as usize % TABLE_SHARDS];
        // A panic while the lock is held leaves the map whole: every change is one insert or remove.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a connection to its user's session, which begins on this worker's arbiter if there is none. Each call is
    /// to be followed by one [`Sessions::leave`], whatever the decision.
    pub fn join(&self, user: UserId, connection: ConnectionId, sign_in: Uuid) {
        let mut shard = self.shard(user);
        let place = shard.entry(user).or_insert_with(|| {
            let session = Session::new(user);
            Place {
                address: SessionActor {
                    session,
                    gate: self.gate.clone(),
                }
                .start(),
                joined: 0,
            }
        });
        place.joined += 1;
        self.send(&place.address, Event::Join(connection, sign_in));
    }

    /// Takes a connection out; the last one ends the session.
    pub fn leave(&self, user: UserId, connection: ConnectionId) {
        let mut shard = self.shard(user);
        if let Some(place) = shard.get_mut(&user) {
            place.joined -= 1;
            self.send(&place.address, Event::Leave(connection));
            if place.joined == 0 {
                shard.remove(&user);
            }
        }
    }

    /// Everyone who has a session here.
    pub fn users(&self) -> Vec<UserId> {
        let shards = self.shards.iter();
        let users = shards.flat_map(|shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.keys().copied().collect::<Vec<_>>()
        });
        users.collect()
    }

    /// The sign-ins under which the user is connected here.
    pub async fn sign_ins(&self, user: UserId) -> Vec<Uuid> {
        let address = self.shard(user).get(&user).map(|place| place.address.clone());
        match address {
            // A session that ends meanwhile has none.
            Some(address) => address.send(InUse).await.unwrap_or_default(),
            None => Vec::new(),
        }
    }

    /// Tells the user's session, if there is one.
    pub fn tell(&self, user: UserId, event: Event) {
        if let Some(place) = self.shard(user).get(&user) {
            self.send(&place.address, event);
        }
    }

    fn send(&self, address: &Addr<SessionActor>, event: Event) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let sent = Sent(event, Waits(self.waiting.clone()));
        #[allow(
            clippy::disallowed_methods,
            reason = "at most a few events for each of the user's connections"
        )]
        address.do_send(sent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(slot: u32) -> ConnectionId {
        ConnectionId {
            worker: 0,
            slot,
            generation: 0,
        }
    }

    fn session() -> (Session, UserId) {
        let user = UserId(Uuid::from_u128(7));
        (Session::new(user), user)
    }

    #[test]
    fn only_the_connections_of_an_ended_sign_in_go() {
        let (mut session, _) = session();
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        session.handle(Event::Join(connection(1), one));
        session.handle(Event::Join(connection(2), other));
        session.handle(Event::Join(connection(3), other));
        session.handle(Event::Renew(connection(3), one));
        assert_eq!(
            session.handle(Event::SignedOut(one)),
            [
                Decision::Close(connection(1), Code::SignedOut),
                Decision::Close(connection(3), Code::SignedOut),
            ]
        );
    }

    /// Decides nothing.
    struct Nobody;
    impl Gate for Nobody {
        fn decided(&self, _: Decision) {}
    }

    #[actix::test]
    async fn sessions_and_what_is_on_its_way_to_them_are_counted() {
        let sessions = Sessions::new(Arc::new(Nobody));
        let (one, other) = (UserId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        sessions.join(one, connection(1), Uuid::nil());
        sessions.join(one, connection(2), Uuid::nil());
        sessions.join(other, connection(3), Uuid::nil());
        assert_eq!(sessions.count(), (2, 3));
        // Behind those that were sent before.
        sessions.sign_ins(one).await;
        sessions.sign_ins(other).await;
        assert_eq!(sessions.count(), (2, 0));
        sessions.leave(other, connection(3));
        assert_eq!(sessions.count(), (1, 1));
        while sessions.count() != (1, 0) {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn a_foreign_feed_is_not_found() {
        let (mut session, user) = session();
        let foreign = UserId(Uuid::from_u128(8));
        let follow = |feed| Event::Follow(connection(1), feed);
        assert_eq!(
            session.handle(follow(user)),
            [Decision::Follow(connection(1), user, Ok(()))]
        );
        let not_found = Err(Code::FeedNotFound);
        assert_eq!(
            session.handle(follow(foreign)),
            [Decision::Follow(connection(1), foreign, not_found)]
        );
    }
}
