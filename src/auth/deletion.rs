//! Deletes accounts whose time has come, with everything that is theirs.
//!
//! Every node looks, each at moments of its own; that two do the same at once changes nothing. The order is what makes a
//! crash harmless: the account itself goes last, so that whoever looks next finds it and goes on.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use taskflow_actors::ports::{Accounts, Clock, DELETING, Deletion, Store};
use taskflow_actors::supervisor::Router;
use tokio::sync::Notify;

use super::sign_in::SignIns;

/// How often a node looks. A day or two does not matter to who waits for weeks; ten minutes are nothing to the store.
const EVERY: Duration = Duration::from_secs(600);

/// See the module.
pub struct Deletions {
    /// The accounts.
    pub accounts: Arc<dyn Accounts>,
    /// Their feeds.
    pub store: Arc<dyn Store>,
    /// Where they run.
    pub router: Router,
    /// Their sign-ins.
    pub sign_ins: Arc<SignIns>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Look now.
    pub now: Notify,
}

impl Deletions {
    /// Goes on for as long as the node runs. `deleted` is told of each account that is gone.
    pub async fn run(self: Arc<Self>, deleted: impl Fn()) {
        loop {
            match self.round(&deleted).await {
                Ok(()) => {}
                Err(error) => tracing::warn!(error, "accounts could not be deleted; the next round tries again"),
            }
            let wait = rand::rng().random_range(EVERY / 2..EVERY);
            let _ = tokio::time::timeout(wait, self.now.notified()).await;
        }
    }

    async fn round(&self, deleted: &impl Fn()) -> Result<(), String> {
        let due = self.accounts.deletions_due(self.clock.now_ms());
        for deletion in due.await.map_err(|error| error.to_string())? {
            if self.delete(deletion).await? {
                deleted();
            }
        }
        Ok(())
    }

    /// `false`: its owner was faster and keeps it.
    async fn delete(&self, deletion: Deletion) -> Result<bool, String> {
        let account = &deletion.account;
        let (email, user) = (account.email.clone(), account.user);
        if account.deletes_at != Some(DELETING) {
            let marked = self
                .accounts
                .set_deletion(email, user, account.deletes_at, Some(DELETING));
            if !marked.await.map_err(|error| error.to_string())? {
                return Ok(false);
            }
        }
        self.sign_ins
            .end_all(user)
            .await
            .map_err(|code| format!("the sign-ins could not be ended: {code}"))?;
        let removed = self.store.remove(user, account.created_at).await;
        removed.map_err(|error| error.to_string())?;
        self.router.removed(user);
        let removed = self.accounts.remove_account(deletion).await;
        removed.map_err(|error| error.to_string())?;
        tracing::info!(user.id = %user, "an account was deleted with everything that was its");
        Ok(true)
    }
}
