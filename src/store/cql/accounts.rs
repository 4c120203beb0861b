//! Accounts and sign-ins: every write conditional, every read at LOCAL_SERIAL.

use taskflow_actors::ports::{Account, AccountError, Clock as _, SignIn};
use taskflow_protocol::UserId;
use uuid::Uuid;

use super::Cql;
use super::log::{Applied, applied};
use super::session::Failed;
use crate::clock::SystemClock;

/// The longest time to live that CQL takes: 20 years.
const TTL_MAX_S: i64 = 20 * 365 * 24 * 60 * 60;

/// A sign-in is kept this much longer than it is good for: the server says itself that it is over, with its own clock.
const TTL_GRACE_S: i64 = 24 * 60 * 60;

impl Failed {
    fn account(self) -> AccountError {
        AccountError::Unavailable(self.to_string())
    }
}

fn damaged(table: &str, key: &dyn std::fmt::Display, what: &dyn std::fmt::Display) -> AccountError {
    AccountError::Damaged(format!("{table} of {key}: {what}"))
}

/// Seconds that a sign-in is stored. The database counts them, from when it takes the write.
fn ttl_of(sign_in: &SignIn) -> i32 {
    let left = (sign_in.expires_at - SystemClock.now_ms()) / 1000 + TTL_GRACE_S;
    left.clamp(TTL_GRACE_S, TTL_MAX_S) as i32
}

impl Cql {
    pub(super) async fn insert_account(&self, account: Account) -> Result<(), AccountError> {
        let statement = &self.0.session.statements().account_insert;
        let Account {
            user,
            email,
            password_hash,
            created_at,
        } = account;
        let values = (&email, user.0, &password_hash, created_at);
        let done = self.0.session.execute(statement, values).await.and_then(applied);
        if matches!(done, Ok(Applied::Yes)) {
            return Ok(());
        }
        // Taken, or not known: the account that is there says whose it is.
        match self.find_account(email).await? {
            Some(found) if found.user == user => Ok(()),
            Some(_) => Err(AccountError::EmailTaken),
            None => Err(done.err().map_or_else(
                || AccountError::Unavailable("the address was taken and is free again: try again".to_owned()),
                Failed::account,
            )),
        }
    }

    pub(super) async fn find_account(&self, email: String) -> Result<Option<Account>, AccountError> {
        let statement = &self.0.session.statements().account;
        let result = self
            .0
            .session
            .execute(statement, (&email,))
            .await
            .map_err(Failed::account)?;
        let broken = |what: &dyn std::fmt::Display| damaged("accounts_by_email", &email, what);
        let rows = result.into_rows_result().map_err(|error| broken(&error))?;
        let row = rows
            .maybe_first_row::<(Uuid, String, i64)>()
            .map_err(|error| broken(&error))?;
        Ok(row.map(|(user, password_hash, created_at)| Account {
            user: UserId(user),
            email,
            password_hash,
            created_at,
        }))
    }

    pub(super) async fn insert_sign_in(&self, sign_in: SignIn) -> Result<(), AccountError> {
        let statement = &self.0.session.statements().sign_in_insert;
        let values = (
            sign_in.id,
            sign_in.user.0,
            sign_in.secret_hash.as_slice(),
            sign_in.previous_hash.as_slice(),
            sign_in.rotated_at,
            sign_in.expires_at,
            ttl_of(&sign_in),
        );
        let done = self.0.session.execute(statement, values).await.and_then(applied);
        if matches!(done, Ok(Applied::Yes)) {
            return Ok(());
        }
        match self.find_sign_in(sign_in.id).await? {
            Some(found) if found == sign_in => Ok(()),
            _ => Err(done.err().map_or_else(
                || AccountError::Unavailable("the sign-in's id is taken: try again".to_owned()),
                Failed::account,
            )),
        }
    }

    pub(super) async fn find_sign_in(&self, id: Uuid) -> Result<Option<SignIn>, AccountError> {
        let statement = &self.0.session.statements().sign_in;
        let result = self
            .0
            .session
            .execute(statement, (id,))
            .await
            .map_err(Failed::account)?;
        let broken = |what: &dyn std::fmt::Display| damaged("sign_ins", &id, what);
        let rows = result.into_rows_result().map_err(|error| broken(&error))?;
        let row = rows
            .maybe_first_row::<(Uuid, Vec<u8>, Vec<u8>, i64, i64)>()
            .map_err(|error| broken(&error))?;
        let Some((user, secret, previous, rotated_at, expires_at)) = row else {
            return Ok(None);
        };
        let hash = |bytes: Vec<u8>| <[u8; 32]>::try_from(bytes).map_err(|_| broken(&"a hash has not 32 bytes"));
        Ok(Some(SignIn {
            id,
            user: UserId(user),
            secret_hash: hash(secret)?,
            previous_hash: hash(previous)?,
            rotated_at,
            expires_at,
        }))
    }

    pub(super) async fn swap_sign_in(&self, expected: [u8; 32], sign_in: SignIn) -> Result<bool, AccountError> {
        let statement = &self.0.session.statements().sign_in_replace;
        let values = (
            ttl_of(&sign_in),
            sign_in.user.0,
            sign_in.secret_hash.as_slice(),
            sign_in.previous_hash.as_slice(),
            sign_in.rotated_at,
            sign_in.expires_at,
            sign_in.id,
            expected.as_slice(),
        );
        let done = self.0.session.execute(statement, values).await.and_then(applied);
        if matches!(done, Ok(Applied::Yes)) {
            return Ok(true);
        }
        // Another was faster, or this one was and its answer was lost: the secret that is there says which.
        match self.find_sign_in(sign_in.id).await? {
            Some(found) if found == sign_in => Ok(true),
            Some(found) if found.secret_hash == expected => Err(done.err().map_or_else(
                || AccountError::Unavailable("the sign-in was not replaced: try again".to_owned()),
                Failed::account,
            )),
            _ => Ok(false),
        }
    }

    pub(super) async fn delete_sign_in(&self, id: Uuid) -> Result<(), AccountError> {
        let statement = &self.0.session.statements().sign_in_delete;
        let done = self.0.session.execute(statement, (id,)).await.and_then(applied);
        if done.is_ok() {
            return Ok(());
        }
        match self.find_sign_in(id).await? {
            None => Ok(()),
            Some(_) => done.map(drop).map_err(Failed::account),
        }
    }
}
