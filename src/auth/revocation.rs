//! Sign-ins that are ended on other nodes: told over the bus, and looked for in the store where the bus may have failed.
//!
//! What a node trusts without asking the store are the tokens that it has verified and the connections that are open. Other
//! nodes say which sign-ins they end ([`Revocation::ended`]). When such a message may have been lost, the verified tokens are
//! forgotten, so that each is looked up at its next use, and the sign-in of every open connection is looked up here. The same
//! goes on all the time while no messages come through.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use taskflow_actors::ports::Accounts;
use taskflow_actors::session::Sessions;
use taskflow_protocol::UserId;
use tokio::sync::Notify;
use uuid::Uuid;

use super::token::{OPERATOR_SIGN_IN, SignedOut, Tokens};

/// Pause between two rounds while no messages come through: a sign-out is to be everywhere within a second, and the round itself takes
/// some of it.
const PAUSE: Duration = Duration::from_millis(500);

/// Sign-ins that a round looks up at a time. One after the other, those of 10,000 connections would take seconds; all at once, a
/// database that has to do without Redis for a while would have nodes to answer and nobody else.
const LOOKS: usize = 16;

/// Pause before the second round after something was missed. A connection whose token was verified before the first may
/// have been let in after it.
const SECOND: Duration = Duration::from_secs(2);

/// See the module.
pub struct Revocation {
    tokens: Arc<Tokens>,
    accounts: Arc<dyn Accounts>,
    missed: Notify,
}

impl Revocation {
    /// For these tokens, whose sign-ins are in these accounts.
    pub fn new(tokens: Arc<Tokens>, accounts: Arc<dyn Accounts>) -> Arc<Self> {
        Arc::new(Self {
            tokens,
            accounts,
            missed: Notify::new(),
        })
    }

    /// Goes on for as long as the node runs. `is_heard` says whether messages come through; `looked` is told of each round.
    pub async fn run(self: Arc<Self>, sessions: Arc<Sessions>, is_heard: impl Fn() -> bool, looked: impl Fn()) {
        loop {
            match tokio::time::timeout(PAUSE, self.missed.notified()).await {
                Ok(()) => {
                    self.round(&sessions).await;
                    looked();
                    tokio::time::sleep(SECOND).await;
                }
                Err(_) if is_heard() => continue,
                Err(_) => {}
            }
            self.round(&sessions).await;
            looked();
        }
    }

    async fn round(&self, sessions: &Sessions) {
        self.tokens.forget_verified();
        let of_connections = stream::iter(sessions.users()).for_each_concurrent(LOOKS, async |user| {
            for sign_in in sessions.sign_ins(user).await {
                self.look(user, sign_in).await;
            }
        });
        of_connections.await;
        let of_tokens = stream::iter(self.tokens.watched());
        of_tokens
            .for_each_concurrent(LOOKS, |(user, sign_in)| self.look(user, sign_in))
            .await;
    }

    async fn look(&self, user: UserId, sign_in: Uuid) {
        if sign_in == OPERATOR_SIGN_IN || self.tokens.is_ended(sign_in) {
            return;
        }
        match self.accounts.sign_in(sign_in).await {
            Ok(Some(found)) if found.user == user => {}
            Ok(_) => self.tokens.end(SignedOut { user, sign_in }),
            // Nobody is sent away because the store is busy: the round after this asks again.
            Err(error) => {
                tracing::debug!(%error, "an open connection's sign-in could not be looked up");
                self.missed.notify_one();
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Revocation {
    /// A sign-in was ended, here or elsewhere.
    pub fn ended(&self, user: UserId, sign_in: Uuid) {
        self.tokens.end(SignedOut { user, sign_in });
    }

    /// Some that were ended may not have been told of here.
    pub fn missed(&self) {
        self.tokens.forget_verified();
        self.missed.notify_one();
    }
}
