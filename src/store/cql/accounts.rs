//! Accounts and sign-ins: every write conditional, every read at LOCAL_SERIAL.

use futures_util::future::try_join_all;
use taskflow_actors::ports::{Account, AccountError, Clock as _, Device, SignIn};
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

    pub(super) async fn swap_password(
        &self,
        email: String,
        expected: String,
        hash: String,
    ) -> Result<bool, AccountError> {
        let statement = &self.0.session.statements().password_replace;
        let values = (&hash, &email, &expected);
        let done = self.0.session.execute(statement, values).await.and_then(applied);
        if matches!(done, Ok(Applied::Yes)) {
            return Ok(true);
        }
        // As with a sign-in's secret: hashes are salted, so that no two are the same.
        match self.find_account(email).await? {
            Some(found) if found.password_hash == hash => Ok(true),
            Some(found) if found.password_hash == expected => Err(done.err().map_or_else(
                || AccountError::Unavailable("the password was not replaced: try again".to_owned()),
                Failed::account,
            )),
            _ => Ok(false),
        }
    }

    /// The sign-in first: a device without one is removed by whoever lists it.
    pub(super) async fn open_sign_in(&self, sign_in: SignIn, device: Device) -> Result<(), AccountError> {
        let (user, id) = (sign_in.user.0, sign_in.id);
        self.insert_sign_in(sign_in).await?;
        let statement = &self.0.session.statements().device_insert;
        let values = (user, id, device.name, device.address, device.created_at);
        let done = self.0.session.execute(statement, values).await;
        done.map(drop).map_err(Failed::account)
    }

    pub(super) async fn find_sign_ins_of(&self, user: UserId) -> Result<Vec<(SignIn, Device)>, AccountError> {
        let statement = &self.0.session.statements().devices;
        let result = self
            .0
            .session
            .execute(statement, (user.0,))
            .await
            .map_err(Failed::account)?;
        let broken = |what: &dyn std::fmt::Display| damaged("sign_ins_by_user", &user, what);
        let rows = result.into_rows_result().map_err(|error| broken(&error))?;
        let rows = rows
            .rows::<(Uuid, Option<String>, Option<String>, Option<i64>)>()
            .map_err(|error| broken(&error))?;
        let mut devices = Vec::new();
        for row in rows {
            let (id, name, address, created_at) = row.map_err(|error| broken(&error))?;
            devices.push((id, name, address, created_at));
        }
        let found = devices.into_iter().map(async |(id, name, address, created_at)| {
            let Some(sign_in) = self.find_sign_in(id).await?.filter(|found| found.user == user) else {
                let statement = &self.0.session.statements().device_delete;
                // If not now, then the next time.
                let _ = self.0.session.execute(statement, (user.0, id)).await;
                return Ok(None);
            };
            let device = Device {
                name: name.unwrap_or_default(),
                address: address.unwrap_or_default(),
                created_at: created_at.unwrap_or(sign_in.rotated_at),
            };
            Ok::<_, AccountError>(Some((sign_in, device)))
        });
        Ok(try_join_all(found).await?.into_iter().flatten().collect())
    }

    pub(super) async fn renew_sign_in(
        &self,
        expected: [u8; 32],
        sign_in: SignIn,
        address: String,
    ) -> Result<bool, AccountError> {
        let (user, id) = (sign_in.user.0, sign_in.id);
        let replaced = self.swap_sign_in(expected, sign_in).await?;
        if replaced {
            let statement = &self.0.session.statements().device_seen;
            // The token is replaced, and its owner must hear of it; the address comes with the next one.
            if let Err(error) = self.0.session.execute(statement, (address, user, id)).await {
                tracing::debug!(%error, "the address of a sign-in was not written");
            }
        }
        Ok(replaced)
    }

    async fn insert_sign_in(&self, sign_in: SignIn) -> Result<(), AccountError> {
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

    async fn swap_sign_in(&self, expected: [u8; 32], sign_in: SignIn) -> Result<bool, AccountError> {
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

    pub(super) async fn delete_sign_in(&self, user: UserId, id: Uuid) -> Result<(), AccountError> {
        let statement = &self.0.session.statements().sign_in_delete;
        let done = self.0.session.execute(statement, (id, user.0)).await.and_then(applied);
        if let Err(failed) = done
            && self.find_sign_in(id).await?.is_some_and(|found| found.user == user)
        {
            return Err(failed.account());
        }
        let statement = &self.0.session.statements().device_delete;
        // Whoever lists it removes it if not.
        let _ = self.0.session.execute(statement, (user.0, id)).await;
        Ok(())
    }
}
