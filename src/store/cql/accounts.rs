//! Accounts and sign-ins: every write conditional, every read at LOCAL_SERIAL.

use futures_util::future::try_join_all;
use taskflow_actors::ports::{
    Access, Account, AccountError, Clock as _, DELETING, Deletion, Device, HISTORY_KEPT_MS, Note, SignIn,
};
use taskflow_protocol::UserId;
use taskflow_protocol::values::UnixMs;
use uuid::Uuid;

use super::Cql;
use super::log::{Applied, applied};
use super::session::Failed;
use crate::clock::SystemClock;

/// The longest time to live that CQL takes: 20 years.
const TTL_MAX_S: i64 = 20 * 365 * 24 * 60 * 60;

/// A sign-in is kept this much longer than it is good for: the server says itself that it is over, with its own clock.
const TTL_GRACE_S: i64 = 24 * 60 * 60;

/// How often a row is looked at again that somebody else is changing.
const TRIES: usize = 3;

/// Shards of the index of deletions: see cql/0005-account-life.cql.
const SHARDS: i8 = 16;

/// Deletions of a shard that are looked at together.
const DELETIONS_A_SHARD: i32 = 100;

/// An entry of the index whose account says something else is removed after so long, in milliseconds: whoever wrote it has
/// marked the account by then, or never will.
const STALE_AFTER_MS: i64 = 60 * 60 * 1_000;

fn shard_of(user: UserId) -> i8 {
    (user.bytes()[15] % SHARDS.unsigned_abs()).cast_signed()
}

/// An account, as its row has it.
struct AccountRow {
    account: Account,
    /// It is there now, and here no more.
    moved_to: Option<String>,
    /// It is here once the row there says that it has moved.
    comes_from: Option<String>,
}

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
        let Account {
            user,
            email,
            password_hash,
            created_at,
            ..
        } = account;
        let mut last = None;
        for _ in 0..TRIES {
            let statement = &self.0.session.statements().account_insert;
            let values = (&email, user.0, &password_hash, created_at);
            let done = self.0.session.execute(statement, values).await.and_then(applied);
            if matches!(done, Ok(Applied::Yes)) {
                return Ok(());
            }
            // Taken, or not known: the row that is there says whose it is.
            match self.account_row(&email).await? {
                Some(AccountRow {
                    moved_to: Some(new), ..
                }) => self.settle_move(&email, &new).await?,
                Some(found) if found.account.user == user => return Ok(()),
                Some(_) => return Err(AccountError::EmailTaken),
                None => last = done.err(),
            }
        }
        Err(last.map_or_else(
            || AccountError::Unavailable("the address was taken and is free again: try again".to_owned()),
            Failed::account,
        ))
    }

    pub(super) async fn find_account(&self, email: String) -> Result<Option<Account>, AccountError> {
        for _ in 0..TRIES {
            let found = match self.account_row(&email).await? {
                None | Some(AccountRow { moved_to: Some(_), .. }) => return Ok(None),
                Some(found) => found,
            };
            let Some(old) = &found.comes_from else {
                return Ok(Some(found.account));
            };
            match self.account_row(old).await? {
                Some(before) if before.account.user == found.account.user => {
                    let has_moved = before.moved_to.is_some_and(|new| new == email);
                    return Ok(has_moved.then_some(found.account));
                }
                // It was tidied away since the first look, or it never came to a move: the row itself says which.
                _ => {}
            }
        }
        Ok(None)
    }

    async fn account_row(&self, email: &str) -> Result<Option<AccountRow>, AccountError> {
        let statement = &self.0.session.statements().account;
        let result = self.0.session.execute(statement, (email,)).await;
        let broken = |what: &dyn std::fmt::Display| damaged("accounts_by_email", &email, what);
        let rows = result
            .map_err(Failed::account)?
            .into_rows_result()
            .map_err(|error| broken(&error))?;
        let row = rows
            .maybe_first_row::<(Uuid, String, i64, Option<i64>, Option<String>, Option<String>)>()
            .map_err(|error| broken(&error))?;
        let row = row.map(
            |(user, password_hash, created_at, deletes_at, moved_to, comes_from)| AccountRow {
                account: Account {
                    user: UserId(user),
                    email: email.to_owned(),
                    password_hash,
                    created_at,
                    deletes_at,
                },
                moved_to,
                comes_from,
            },
        );
        Ok(row)
    }

    /// See cql/0005-account-life.cql.
    pub(super) async fn move_account(
        &self,
        email: String,
        expected: String,
        new: String,
    ) -> Result<bool, AccountError> {
        let may_move = |found: &Account| found.password_hash == expected && found.deletes_at.is_none();
        let Some(found) = self.find_account(email.clone()).await?.filter(may_move) else {
            return Ok(false);
        };
        self.claim(&found, &new).await?;
        let statements = self.0.session.statements();
        let user = found.user.0;
        let values = (&new, &email, user, &expected);
        let moved = self
            .0
            .session
            .execute(&statements.account_move, values)
            .await
            .and_then(applied);
        if !matches!(moved, Ok(Applied::Yes)) {
            match self.account_row(&email).await? {
                Some(before) if before.account.user == found.user && before.moved_to.as_ref() == Some(&new) => {}
                // Replaced, marked or moved by another meanwhile, or certainly not done.
                before => {
                    let undone = self
                        .0
                        .session
                        .execute(&statements.claim_undo, (&new, user, &email))
                        .await;
                    undone.map_err(Failed::account)?;
                    let is_there = before.is_some_and(|before| before.moved_to.is_none() && may_move(&before.account));
                    return match moved {
                        Err(failed) if is_there => Err(failed.account()),
                        _ => Ok(false),
                    };
                }
            }
        }
        self.settle_move(&email, &new).await?;
        Ok(true)
    }

    /// Takes the new address, without an account there yet.
    async fn claim(&self, account: &Account, new: &str) -> Result<(), AccountError> {
        let statements = self.0.session.statements();
        let user = account.user.0;
        let mut last = None;
        for _ in 0..TRIES {
            let values = (new, user, &account.password_hash, account.created_at, &account.email);
            let done = self
                .0
                .session
                .execute(&statements.account_claim, values)
                .await
                .and_then(applied);
            if matches!(done, Ok(Applied::Yes)) {
                return Ok(());
            }
            match self.account_row(new).await? {
                Some(AccountRow {
                    moved_to: Some(next), ..
                }) => self.settle_move(new, &next).await?,
                // Of a move of before that came to nothing.
                Some(found)
                    if found.account.user == account.user && found.comes_from.as_ref() == Some(&account.email) =>
                {
                    let values = (&account.password_hash, new, user, &account.email);
                    let renewed = self.0.session.execute(&statements.claim_renew, values).await;
                    match renewed.and_then(applied) {
                        Ok(Applied::Yes) => return Ok(()),
                        other => last = other.err(),
                    }
                }
                Some(_) => return Err(AccountError::EmailTaken),
                None => last = done.err(),
            }
        }
        Err(last.map_or_else(
            || AccountError::Unavailable("the address was taken and is free again: try again".to_owned()),
            Failed::account,
        ))
    }

    /// An account has moved: the new row stands alone, and the old one goes.
    async fn settle_move(&self, email: &str, new: &str) -> Result<(), AccountError> {
        let statements = self.0.session.statements();
        let settled = self.0.session.execute(&statements.claim_settle, (new, email)).await;
        settled.map_err(Failed::account)?;
        let deleted = self.0.session.execute(&statements.moved_delete, (email, new)).await;
        deleted.map(drop).map_err(Failed::account)
    }

    /// The index first: an entry without an account is removed later, an account without an entry would never be found.
    pub(super) async fn mark_account(
        &self,
        email: String,
        user: UserId,
        expected: Option<UnixMs>,
        deletes_at: Option<UnixMs>,
    ) -> Result<bool, AccountError> {
        let statements = self.0.session.statements();
        if let Some(at) = deletes_at.filter(|at| *at != DELETING) {
            let values = (shard_of(user), at, user.0, &email);
            let written = self.0.session.execute(&statements.deletion_insert, values).await;
            written.map_err(Failed::account)?;
        }
        let values = (deletes_at, &email, user.0, expected);
        let done = self
            .0
            .session
            .execute(&statements.deletion_set, values)
            .await
            .and_then(applied);
        if !matches!(done, Ok(Applied::Yes)) {
            let found = self.find_account(email).await?.filter(|found| found.user == user);
            match found.map(|found| found.deletes_at) {
                // An answer was lost: what is there now is what was asked for.
                Some(present) if done.is_err() && present == deletes_at => {}
                Some(present) if present == expected => {
                    return Err(done.err().map_or_else(
                        || AccountError::Unavailable("the account was not marked: try again".to_owned()),
                        Failed::account,
                    ));
                }
                _ => return Ok(false),
            }
        }
        if let (Some(at), None) = (expected, deletes_at) {
            // It is found stale later if not.
            let values = (shard_of(user), at, user.0);
            let _ = self.0.session.execute(&statements.deletion_delete, values).await;
        }
        Ok(true)
    }

    pub(super) async fn find_deletions(&self, now: UnixMs) -> Result<Vec<Deletion>, AccountError> {
        let statements = self.0.session.statements();
        let mut due = Vec::new();
        for shard in 0..SHARDS {
            let broken = |what: &dyn std::fmt::Display| damaged("account_deletions", &shard, what);
            let values = (shard, now, DELETIONS_A_SHARD);
            let result = self.0.session.execute(&statements.deletions, values).await;
            let rows = result
                .map_err(Failed::account)?
                .into_rows_result()
                .map_err(|error| broken(&error))?;
            let rows = rows
                .rows::<(i64, Uuid, Option<String>)>()
                .map_err(|error| broken(&error))?;
            let entries: Vec<_> = rows.collect::<Result<_, _>>().map_err(|error| broken(&error))?;
            for (at, user, email) in entries {
                let found = self.find_account(email.unwrap_or_default()).await?;
                let is_due =
                    |found: &Account| found.user.0 == user && [Some(at), Some(DELETING)].contains(&found.deletes_at);
                match found.filter(is_due) {
                    Some(account) => due.push(Deletion { at, account }),
                    None if now - at > STALE_AFTER_MS => {
                        let stale = (shard, at, user);
                        let _ = self.0.session.execute(&statements.deletion_delete, stale).await;
                    }
                    // The account may be about to be marked.
                    None => {}
                }
            }
        }
        Ok(due)
    }

    pub(super) async fn delete_account(&self, deletion: Deletion) -> Result<(), AccountError> {
        let statements = self.0.session.statements();
        let Account { user, email, .. } = deletion.account;
        for (sign_in, _) in self.find_sign_ins_of(user).await? {
            self.delete_sign_in(user, sign_in.id).await?;
        }
        for statement in [&statements.devices_delete, &statements.history_delete] {
            let deleted = self.0.session.execute(statement, (user.0,)).await;
            deleted.map_err(Failed::account)?;
        }
        if let Some(old) = self.account_row(&email).await?.and_then(|found| found.comes_from) {
            self.settle_move(&old, &email).await?;
        }
        let deleted = self
            .0
            .session
            .execute(&statements.account_delete, (&email, user.0))
            .await;
        deleted.map_err(Failed::account)?;
        let values = (shard_of(user), deletion.at, user.0);
        let deleted = self.0.session.execute(&statements.deletion_delete, values).await;
        deleted.map(drop).map_err(Failed::account)
    }

    pub(super) async fn write_note(&self, user: UserId, note: Note) -> Result<(), AccountError> {
        let statement = &self.0.session.statements().note;
        let Note {
            at,
            id,
            event,
            sign_in,
            address,
            device,
        } = note;
        let ttl = i32::try_from(HISTORY_KEPT_MS / 1_000).unwrap_or(i32::MAX);
        let values = (user.0, at, id, event, sign_in, address, device, ttl);
        let done = self.0.session.execute(statement, values).await;
        done.map(drop).map_err(Failed::account)
    }

    pub(super) async fn read_history(
        &self,
        user: UserId,
        before: Option<(UnixMs, Uuid)>,
        count: usize,
    ) -> Result<Vec<Note>, AccountError> {
        let statement = &self.0.session.statements().history;
        let (at, id) = before.unwrap_or((UnixMs::MAX, Uuid::max()));
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        let result = self.0.session.execute(statement, (user.0, at, id, count)).await;
        let broken = |what: &dyn std::fmt::Display| damaged("account_history", &user, what);
        let rows = result
            .map_err(Failed::account)?
            .into_rows_result()
            .map_err(|error| broken(&error))?;
        let rows = rows
            .rows::<(i64, Uuid, String, Uuid, String, String)>()
            .map_err(|error| broken(&error))?;
        let notes = rows.map(|row| {
            let (at, id, event, sign_in, address, device) = row.map_err(|error| broken(&error))?;
            Ok(Note {
                at,
                id,
                event,
                sign_in,
                address,
                device,
            })
        });
        notes.collect()
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
            (sign_in.access as u8).cast_signed(),
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
            .maybe_first_row::<(Uuid, Option<i8>, Vec<u8>, Vec<u8>, i64, i64)>()
            .map_err(|error| broken(&error))?;
        let Some((user, access, secret, previous, rotated_at, expires_at)) = row else {
            return Ok(None);
        };
        let hash = |bytes: Vec<u8>| <[u8; 32]>::try_from(bytes).map_err(|_| broken(&"a hash has not 32 bytes"));
        Ok(Some(SignIn {
            id,
            user: UserId(user),
            access: match access {
                None => Access::Owner,
                Some(number) => Access::from_number(number.cast_unsigned()).ok_or_else(|| broken(&"unknown access"))?,
            },
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
            (sign_in.access as u8).cast_signed(),
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
