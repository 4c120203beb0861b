//! Accounts and sign-ins: register, sign in, refresh, sign out.
//!
//! # Refresh tokens
//!
//! A refresh token is 16 bytes that name the sign-in and a 32-byte secret, in base64url. The store has only the SHA-256
//! of the secret, and of the one before it. Every use replaces the secret by the next one; the next one is computed from
//! it (HMAC under the server's key), so the same token always leads to the same next one. Half of a secret is what nobody can
//! guess, the other half says that the server made it (HMAC again). What follows:
//!
//! - The answer to a refresh may be lost, and two tabs may refresh at the same moment: the token before the present one,
//!   used again within [`REUSE_GRACE_MS`] of its replacement, gets the same answer again.
//! - Used later than that, or older still, it was copied: thief or owner, one of the two is holding it. The sign-in is
//!   ended, and its access tokens with it, because nobody can tell which one (RFC 9700, section 4.14.2). Both then hold
//!   nothing, and only the owner has the password.
//! - What the server never made was copied from nobody: it is refused, and ends nothing. The name of a sign-in is no secret (it
//!   stands in access tokens and in the list of sessions), and whoever knows it must not sign its owner out by it.
//! - So a thief gets at most until the owner's client refreshes next, and that shows.

use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use taskflow_actors::ports::{Access, Account, AccountError, Accounts, Clock, DELETING, Device, Note, SignIn};
use taskflow_protocol::limits::{SIGN_INS_A_USER_MAX, TOKENS_A_USER_MAX};
use taskflow_protocol::values::UnixMs;
use taskflow_protocol::{Code, UserId};
use uuid::Uuid;

use crate::auth::history::Event;
use crate::auth::key::Key;
use crate::auth::link;
use crate::auth::password::Passwords;
use crate::auth::personal;
use crate::auth::token::{OPERATOR_SIGN_IN, SignedOut, Tokens};

/// How long the previous refresh token gets its answer again, in milliseconds: longer than a client's request time-out
/// and its first tries after it.
pub const REUSE_GRACE_MS: i64 = 60_000;

/// Longest e-mail address, in bytes (RFC 5321, section 4.5.3.1.3, less the angle brackets).
const EMAIL_BYTES_MAX: usize = 254;

/// What a client gets for a password or a refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Whose.
    pub user: UserId,
    /// What it was opened as.
    pub sign_in: Uuid,
    /// For every request.
    pub access_token: String,
    /// For the next access token.
    pub refresh_token: String,
    /// Seconds that the access token is good for.
    pub expires_in: u32,
}

/// Who asks for a sign-in, as its owner will see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// What the device calls itself.
    pub device: String,
    /// The network address that it comes from.
    pub address: String,
}

/// Opens and ends sign-ins.
pub struct SignIns {
    pub(super) accounts: Arc<dyn Accounts>,
    pub(super) tokens: Arc<Tokens>,
    pub(super) passwords: Passwords,
    pub(super) clock: Arc<dyn Clock>,
    refresh_life_ms: i64,
    on_end: OnceLock<Box<dyn Fn(SignedOut) + Send + Sync>>,
}

impl SignIns {
    /// Over these accounts, with these tokens.
    pub fn new(
        accounts: Arc<dyn Accounts>,
        tokens: Arc<Tokens>,
        clock: Arc<dyn Clock>,
        refresh_token_days: u32,
    ) -> Self {
        Self {
            accounts,
            tokens,
            passwords: Passwords::default(),
            clock,
            refresh_life_ms: i64::from(refresh_token_days) * 86_400_000,
            on_end: OnceLock::new(),
        }
    }

    /// Passwords that are being hashed or checked, and those that wait.
    pub fn passwords(&self) -> (usize, usize) {
        self.passwords.load()
    }

    /// Is told of every sign-in that is ended through this node, so that the other nodes hear of it. Must not wait. To be
    /// set once.
    pub fn on_end(&self, callback: impl Fn(SignedOut) + Send + Sync + 'static) {
        let _ = self.on_end.set(Box::new(callback));
    }

    /// Makes an account; the caller gives the user a feed next, and then [`SignIns::open`]s a sign-in.
    pub async fn register(&self, email: &str, password: String) -> Result<UserId, Code> {
        let email = normalise_email(email).ok_or(Code::EmailInvalid)?;
        Passwords::check_new(&password)?;
        // Before the 25 ms of a hash. Two at the same moment are told apart by `create_account`.
        if self.account(&email).await?.is_some() {
            return Err(Code::EmailTaken);
        }
        let password_hash = self.passwords.hash(password).await?;
        let now = self.clock.now_ms();
        let user = UserId(new_id(now));
        let account = Account {
            user,
            email,
            password_hash,
            created_at: now,
            deletes_at: None,
        };
        self.accounts.create_account(account).await.map_err(code_of)?;
        Ok(user)
    }

    /// The account whose e-mail address and password these are. It may be one that is to be deleted.
    pub async fn authenticate(&self, email: &str, password: String, asker: &Asker) -> Result<Account, Code> {
        // No account has such a one; and no hash is computed over a megabyte.
        if Passwords::check_length(&password).is_err() {
            return Err(Code::CredentialsWrong);
        }
        let account = match normalise_email(email) {
            Some(email) => self.account(&email).await?,
            None => None,
        };
        let (hash, is_unproven) = match &account {
            Some(account) => {
                let (hash, is_unproven) = link::bare(&account.password_hash);
                (Some(hash.to_owned()), is_unproven)
            }
            None => (None, false),
        };
        // Also without an account: an unknown address takes as long as a wrong password. And nobody's address is told by the
        // right one: else registering it and signing in would say whether there had been an account.
        let right = self.passwords.verify(password.clone(), hash).await? && !is_unproven;
        match account {
            Some(account) if right && account.deletes_at != Some(DELETING) => self.rehashed(account, password).await,
            Some(account) if !right => {
                // Beside the answer: that takes as long for an address that nobody has.
                let note = Event::SignInFailed.note(self.clock.now_ms(), Uuid::nil(), asker);
                tokio::spawn(write(self.accounts.clone(), account.user, note));
                Err(Code::CredentialsWrong)
            }
            _ => Err(Code::CredentialsWrong),
        }
    }

    /// Replaces a hash that was made with other parameters, now that its password is known.
    async fn rehashed(&self, account: Account, password: String) -> Result<Account, Code> {
        if Passwords::is_present(&account.password_hash) {
            return Ok(account);
        }
        let hash = self.passwords.hash(password).await?;
        let (email, old) = (account.email.clone(), account.password_hash.clone());
        let replaced = self.accounts.replace_password(email, old, hash.clone()).await;
        Ok(match replaced {
            Ok(true) => Account {
                password_hash: hash,
                ..account
            },
            // Replaced by another meanwhile, who is asked again below, or not at all: then the next sign-in does it.
            Ok(false) | Err(_) => account,
        })
    }

    /// Writes into the history of an account. What cannot be written does not stop what it is about.
    pub async fn note(&self, user: UserId, event: Event, sign_in: Uuid, asker: &Asker) {
        let note = event.note(self.clock.now_ms(), sign_in, asker);
        write(self.accounts.clone(), user, note).await;
    }

    /// The newest notes about an account, before this one.
    pub async fn history(&self, user: UserId, before: Option<(UnixMs, Uuid)>, count: usize) -> Result<Vec<Note>, Code> {
        let history = self.accounts.history(user, before, count);
        history.await.map_err(code_of)
    }

    /// Opens a sign-in for somebody who has the password of the account.
    pub async fn open_with_password(&self, account: &Account, asker: Asker) -> Result<Opened, Code> {
        let opened = self.open(account.user, asker.clone()).await?;
        // The password may have been replaced since it was checked, and what it had opened by then been ended. So may the
        // account have been marked for deletion.
        match self.account(&account.email).await? {
            Some(present) if present == *account => {
                self.note(account.user, Event::SignedIn, opened.sign_in, &asker).await;
                Ok(opened)
            }
            _ => {
                self.end_by_refresh_token(&opened.refresh_token).await?;
                Err(Code::CredentialsWrong)
            }
        }
    }

    /// Replaces a password: every sign-in of the account is ended, and a new one opened for whoever asks.
    pub async fn change_password(&self, account: Account, new: String, asker: Asker) -> Result<Opened, Code> {
        Passwords::check_new(&new)?;
        let hash = self.passwords.hash(new).await?;
        let Account {
            user,
            email,
            password_hash,
            ..
        } = account;
        let replaced = self.accounts.replace_password(email, password_hash, hash).await;
        if !replaced.map_err(code_of)? {
            // Somebody else was faster: what was given is the password no more.
            return Err(Code::CredentialsWrong);
        }
        self.end_all(user).await?;
        let opened = self.open(user, asker.clone()).await?;
        self.note(user, Event::PasswordChanged, opened.sign_in, &asker).await;
        Ok(opened)
    }

    /// Replaces the e-mail address of an account. Its sign-ins stay.
    pub async fn change_email(&self, account: Account, new: &str, asker: &Asker) -> Result<(), Code> {
        let new = normalise_email(new).ok_or(Code::EmailInvalid)?;
        if new != account.email {
            self.moved(account, &new, asker).await?;
        }
        Ok(())
    }

    /// The account, once it is at this address.
    pub(super) async fn moved(&self, account: Account, new: &str, asker: &Asker) -> Result<Account, Code> {
        let (email, hash) = (account.email.clone(), account.password_hash.clone());
        let changed = self.accounts.change_email(email, hash, new.to_owned()).await;
        if !changed.map_err(code_of)? {
            // Somebody else was faster: what was given is the password no more, or the account is to be deleted.
            return Err(Code::CredentialsWrong);
        }
        self.note(account.user, Event::EmailChanged, Uuid::nil(), asker).await;
        Ok(Account {
            email: new.to_owned(),
            ..account
        })
    }

    /// Marks an account for deletion at this time, and ends all of its sign-ins. Says when it will be: marked twice, it is
    /// the first time that counts.
    pub async fn request_deletion(&self, account: Account, at: UnixMs, asker: &Asker) -> Result<UnixMs, Code> {
        let (user, present) = (account.user, account.deletes_at);
        let at = match present {
            Some(present) => present,
            None => {
                let marked = self.accounts.set_deletion(account.email, user, None, Some(at)).await;
                if !marked.map_err(code_of)? {
                    return Err(Code::CredentialsWrong);
                }
                self.note(user, Event::DeletionRequested, Uuid::nil(), asker).await;
                at
            }
        };
        self.end_all(user).await?;
        Ok(at)
    }

    /// Keeps an account that was marked for deletion.
    pub async fn cancel_deletion(&self, account: Account, asker: &Asker) -> Result<Account, Code> {
        if account.deletes_at.is_none() {
            return Ok(account);
        }
        let (email, user) = (account.email.clone(), account.user);
        let kept = self.accounts.set_deletion(email, user, account.deletes_at, None);
        if !kept.await.map_err(code_of)? {
            // It is being deleted by now.
            return Err(Code::CredentialsWrong);
        }
        self.note(user, Event::DeletionCancelled, Uuid::nil(), asker).await;
        Ok(Account {
            deletes_at: None,
            ..account
        })
    }

    /// The sign-ins of a user that are not over, the one used last first.
    pub async fn of_user(&self, user: UserId) -> Result<Vec<(SignIn, Device)>, Code> {
        let mut all = self.all_of_user(user).await?;
        all.retain(|(sign_in, _)| sign_in.access == Access::Owner);
        Ok(all)
    }

    /// The personal access tokens of a user that are not over, the newest first.
    pub async fn tokens_of(&self, user: UserId) -> Result<Vec<(SignIn, Device)>, Code> {
        let mut all = self.all_of_user(user).await?;
        all.retain(|(sign_in, _)| sign_in.access < Access::Owner);
        Ok(all)
    }

    async fn all_of_user(&self, user: UserId) -> Result<Vec<(SignIn, Device)>, Code> {
        let mut all = self.accounts.sign_ins_of(user).await.map_err(code_of)?;
        let now = self.clock.now_ms();
        all.retain(|(sign_in, _)| sign_in.expires_at > now);
        all.sort_by_key(|(sign_in, _)| (std::cmp::Reverse(sign_in.rotated_at), sign_in.id));
        Ok(all)
    }

    /// Ends every sign-in and every personal access token of a user.
    pub async fn end_all(&self, user: UserId) -> Result<(), Code> {
        // Again until there is none: one of them may have made a token meanwhile.
        loop {
            let all = self.all_of_user(user).await?;
            if all.is_empty() {
                return Ok(());
            }
            for (sign_in, _) in all {
                self.end(user, sign_in.id).await?;
            }
        }
    }

    /// Whether a sign-in was ended, wherever that was.
    pub async fn is_over(&self, sign_in: Uuid) -> Result<bool, Code> {
        let found = self.accounts.sign_in(sign_in).await.map_err(code_of)?;
        Ok(found.is_none_or(|found| found.expires_at <= self.clock.now_ms()))
    }

    /// Makes a personal access token. Its text is not kept: only its owner has it.
    pub async fn make_token(
        &self,
        user: UserId,
        access: Access,
        life_ms: i64,
        named: Asker,
    ) -> Result<(SignIn, String), Code> {
        if self.tokens_of(user).await?.len() >= TOKENS_A_USER_MAX {
            return Err(Code::LimitReached);
        }
        let now = self.clock.now_ms();
        let token = personal::Token::random();
        let sign_in = SignIn {
            id: token.id,
            user,
            access,
            secret_hash: token.hash(),
            previous_hash: [0; 32],
            rotated_at: now,
            expires_at: now + life_ms,
        };
        let device = Device {
            name: named.device,
            address: named.address,
            created_at: now,
        };
        let made = self.accounts.create_sign_in(sign_in.clone(), device).await;
        made.map_err(code_of)?;
        Ok((sign_in, token.text()))
    }

    /// Opens a sign-in.
    pub async fn open(&self, user: UserId, asker: Asker) -> Result<Opened, Code> {
        for (sign_in, _) in self.of_user(user).await?.iter().skip(SIGN_INS_A_USER_MAX - 1) {
            self.end(user, sign_in.id).await?;
        }
        let now = self.clock.now_ms();
        let (sign_in, unguessable) = (Uuid::from_bytes(rand::random()), rand::random::<[u8; 16]>());
        let token = RefreshToken::of(sign_in, &unguessable, |parts| self.tokens.derive(now, MADE, parts));
        let sign_in = SignIn {
            id: token.sign_in,
            user,
            access: Access::Owner,
            secret_hash: token.hash(),
            previous_hash: [0; 32],
            rotated_at: now,
            expires_at: now + self.refresh_life_ms,
        };
        let device = Device {
            name: asker.device,
            address: asker.address,
            created_at: now,
        };
        self.accounts.create_sign_in(sign_in, device).await.map_err(code_of)?;
        Ok(self.opened(user, &token))
    }

    /// A new access token and the next refresh token, for somebody at this address. See the head of this file.
    pub async fn refresh(&self, text: &str, asker: &Asker) -> Result<Opened, Code> {
        let token = RefreshToken::parse(text).ok_or(Code::TokenInvalid)?;
        let derived = |key: &Key| key.derive("refresh", &[token.sign_in.as_bytes(), &token.secret]);
        let next = |key: &Key| RefreshToken::of(token.sign_in, &derived(key)[..16], |parts| key.derive(MADE, parts));
        // A second time if another request replaced the secret in between: then ours is the previous one.
        for _ in 0..2 {
            let found = self.accounts.sign_in(token.sign_in).await.map_err(code_of)?;
            // A personal access token is none, whatever is cut off from it.
            let found = found.filter(|found| found.access == Access::Owner);
            let found = found.ok_or(Code::SignedOut)?;
            let now = self.clock.now_ms();
            if found.expires_at <= now {
                self.end(found.user, found.id).await?;
                return Err(Code::SignedOut);
            }
            let hash = token.hash();
            if hash == found.previous_hash && now - found.rotated_at <= REUSE_GRACE_MS {
                let given = self.tokens.find_made(|key| {
                    // By a build from before secrets said who made them.
                    let unsigned = RefreshToken {
                        sign_in: token.sign_in,
                        secret: derived(key),
                    };
                    let mut given = [next(key), unsigned].into_iter();
                    given.find(|given| given.hash() == found.secret_hash)
                });
                // If it is none of them, the key is gone with which it was made, and the answer with it.
                return Ok(self.opened(found.user, &given.ok_or(Code::SignedOut)?));
            }
            let is_known = [found.secret_hash, found.previous_hash].contains(&hash);
            if !is_known && !token.is_made_by(&self.tokens) {
                return Err(Code::TokenInvalid);
            }
            if hash != found.secret_hash {
                tracing::warn!(user.id = %found.user, "a replaced refresh token was used: the sign-in is ended");
                self.end(found.user, found.id).await?;
                self.note(found.user, Event::RefreshTokenReused, found.id, asker).await;
                return Err(Code::SignedOut);
            }
            let (user, next) = (found.user, self.tokens.sign_by(now, next));
            let replaced = SignIn {
                secret_hash: next.hash(),
                previous_hash: hash,
                rotated_at: now,
                expires_at: now + self.refresh_life_ms,
                ..found
            };
            let address = asker.address.clone();
            let replaced = self.accounts.replace_sign_in(hash, replaced, address).await;
            if replaced.map_err(code_of)? {
                return Ok(self.opened(user, &next));
            }
        }
        // Replaced twice within one request: whoever that was is not done yet.
        Err(Code::SignInBusy)
    }

    /// Ends the sign-in of a refresh token, and says whose it was; what is no longer a sign-in is no error.
    pub async fn end_by_refresh_token(&self, text: &str) -> Result<Option<(UserId, Uuid)>, Code> {
        let token = RefreshToken::parse(text).ok_or(Code::TokenInvalid)?;
        let Some(found) = self.accounts.sign_in(token.sign_in).await.map_err(code_of)? else {
            return Ok(None);
        };
        let hash = token.hash();
        if hash != found.secret_hash && hash != found.previous_hash {
            return Err(Code::TokenInvalid);
        }
        self.end(found.user, found.id).await?;
        Ok(Some((found.user, found.id)))
    }

    /// Ends a sign-in: durable first, then its tokens are refused and its connections close.
    pub async fn end(&self, user: UserId, sign_in: Uuid) -> Result<(), Code> {
        if sign_in == OPERATOR_SIGN_IN {
            return Err(Code::TokenInvalid);
        }
        self.accounts.end_sign_in(user, sign_in).await.map_err(code_of)?;
        let signed_out = SignedOut { user, sign_in };
        self.tokens.end(signed_out);
        if let Some(callback) = self.on_end.get() {
            callback(signed_out);
        }
        Ok(())
    }

    pub(super) async fn account(&self, email: &str) -> Result<Option<Account>, Code> {
        self.accounts.account_by_email(email.to_owned()).await.map_err(code_of)
    }

    fn opened(&self, user: UserId, token: &RefreshToken) -> Opened {
        Opened {
            user,
            sign_in: token.sign_in,
            access_token: self.tokens.mint(user, token.sign_in),
            refresh_token: token.text(),
            expires_in: self.tokens.life_seconds(),
        }
    }
}

async fn write(accounts: Arc<dyn Accounts>, user: UserId, note: Note) {
    if let Err(error) = accounts.note(user, note).await {
        tracing::warn!(%error, user.id = %user, "the history of an account was not written");
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
pub(super) fn code_of(error: AccountError) -> Code {
    match error {
        AccountError::EmailTaken => Code::EmailTaken,
        AccountError::Full => Code::StoreFull,
        AccountError::Unavailable(_) => {
            tracing::warn!(%error, "the accounts do not answer");
            Code::StoreUnavailable
        }
        AccountError::Damaged(_) => {
            tracing::error!(%error, "the accounts are damaged");
            Code::Internal
        }
    }
}

/// A new id: a UUIDv7 (RFC 9562), in the order of time.
pub fn new_id(now: UnixMs) -> Uuid {
    let millis = u64::try_from(now).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid()
}

/// The sign-in that a refresh token names, whether it is a good one or not.
pub fn sign_in_of(token: &str) -> Option<Uuid> {
    RefreshToken::parse(token).map(|token| token.sign_in)
}

/// One address, one spelling: trimmed and in lower case. `None` if it is no address.
///
/// Only a mail to it could tell whether it really is one; this keeps out what is plainly something else.
pub fn normalise_email(text: &str) -> Option<String> {
    let text = text.trim();
    if text.len() > EMAIL_BYTES_MAX {
        return None;
    }
    let email = text.to_lowercase();
    let (local, domain) = email.rsplit_once('@')?;
    let strange =
        |c: char| c.is_whitespace() || c.is_control() || matches!(c, '@' | ',' | ';' | '<' | '>' | '"' | '\\');
    let plain = |part: &str| !part.is_empty() && !part.contains(strange);
    let dots = !domain.starts_with('.') && !domain.ends_with('.') && !domain.contains("..");
    (plain(local) && plain(domain) && dots && email.len() <= EMAIL_BYTES_MAX).then_some(email)
}

struct RefreshToken {
    sign_in: Uuid,
    secret: [u8; 32],
}

/// What the second half of a secret is derived for.
const MADE: &str = "refresh token";

impl RefreshToken {
    /// With these 16 bytes, and as many that are derived from them.
    fn of(sign_in: Uuid, unguessable: &[u8], derive: impl FnOnce(&[&[u8]]) -> [u8; 32]) -> Self {
        let made = derive(&[sign_in.as_bytes(), unguessable]);
        let mut secret = [0; 32];
        secret[..16].copy_from_slice(unguessable);
        secret[16..].copy_from_slice(&made[..16]);
        Self { sign_in, secret }
    }

    /// Whether it is one of ours, however long ago it was replaced.
    fn is_made_by(&self, tokens: &Tokens) -> bool {
        let (unguessable, made) = self.secret.split_at(16);
        tokens.has_derived(MADE, &[self.sign_in.as_bytes(), unguessable], made)
    }

    /// 64 characters.
    fn text(&self) -> String {
        let mut bytes = [0; 48];
        bytes[..16].copy_from_slice(self.sign_in.as_bytes());
        bytes[16..].copy_from_slice(&self.secret);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn parse(text: &str) -> Option<Self> {
        if text.len() != 64 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        Some(Self {
            sign_in: Uuid::from_slice(&bytes[..16]).ok()?,
            secret: bytes[16..].try_into().ok()?,
        })
    }

    fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.secret).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Keys;
    use crate::auth::key::Key;
    use crate::testing::AuthBench;

    const USER: UserId = UserId(Uuid::from_u128(1));

    #[tokio::test]
    async fn an_account_opens_with_its_password_and_nothing_else() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let user = sign_ins
            .register(" Ann@Example.ORG ", "correct horse".to_owned())
            .await
            .expect("made");
        let wrong = Err(Code::CredentialsWrong);
        assert_eq!(
            sign_ins
                .authenticate("ann@example.org", "correct horse".to_owned(), &Asker::default())
                .await
                .map(|account| account.user),
            Ok(user)
        );
        assert_eq!(
            sign_ins
                .authenticate("ann@example.org", "wrong horse".to_owned(), &Asker::default())
                .await,
            wrong
        );
        assert_eq!(
            sign_ins
                .authenticate("bob@example.org", "correct horse".to_owned(), &Asker::default())
                .await,
            wrong
        );
        assert_eq!(
            sign_ins
                .authenticate("no address", "correct horse".to_owned(), &Asker::default())
                .await,
            wrong
        );
        assert_eq!(
            sign_ins
                .authenticate("ann@example.org", "short".to_owned(), &Asker::default())
                .await,
            wrong
        );
        let again = sign_ins.register("ANN@example.org", "another horse".to_owned()).await;
        assert_eq!(again, Err(Code::EmailTaken));
    }

    #[tokio::test]
    async fn beyond_the_limit_the_sign_in_that_was_not_used_for_longest_is_ended() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let mut tokens = Vec::new();
        for _ in 0..SIGN_INS_A_USER_MAX {
            bench.clock.advance_ms(1_000);
            tokens.push(
                sign_ins
                    .open(USER, Asker::default())
                    .await
                    .expect("opened")
                    .refresh_token,
            );
        }
        bench.clock.advance_ms(1_000);
        let first = sign_ins
            .refresh(&tokens[0], &Asker::default())
            .await
            .expect("the oldest is in use");
        assert!(sign_ins.open(USER, Asker::default()).await.is_ok());
        assert_eq!(
            sign_ins.of_user(USER).await.map(|all| all.len()),
            Ok(SIGN_INS_A_USER_MAX)
        );
        assert_eq!(
            sign_ins.refresh(&tokens[1], &Asker::default()).await,
            Err(Code::SignedOut)
        );
        assert!(sign_ins.refresh(&first.refresh_token, &Asker::default()).await.is_ok());
        assert!(sign_ins.refresh(&tokens[2], &Asker::default()).await.is_ok());
    }

    #[tokio::test]
    async fn a_password_that_was_replaced_since_it_was_checked_opens_nothing() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let password = || "correct horse".to_owned();
        let user = sign_ins.register("ann@example.org", password()).await.expect("made");
        let checked = sign_ins
            .authenticate("ann@example.org", password(), &Asker::default())
            .await
            .expect("right");
        let new = "another horse".to_owned();
        let changed = sign_ins.change_password(checked.clone(), new, Asker::default());
        assert!(changed.await.is_ok());
        let opened = sign_ins.open_with_password(&checked, Asker::default()).await;
        assert_eq!(opened, Err(Code::CredentialsWrong));
        assert_eq!(
            sign_ins.of_user(user).await.map(|all| all.len()),
            Ok(1),
            "that of the change"
        );
    }

    #[tokio::test]
    async fn a_hash_of_other_parameters_is_replaced_at_the_next_sign_in() {
        use argon2::password_hash::{PasswordHasher as _, SaltString};
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let cheap = argon2::Params::new(1024, 1, 1, None).expect("in range");
        let cheap = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, cheap);
        let salt = SaltString::encode_b64(&[7; 16]).expect("a salt");
        let account = Account {
            user: USER,
            email: "ann@example.org".to_owned(),
            password_hash: cheap
                .hash_password(b"correct horse", &salt)
                .expect("hashed")
                .to_string(),
            created_at: 1,
            deletes_at: None,
        };
        bench.accounts.create_account(account.clone()).await.expect("made");
        let asker = Asker::default();
        let authenticate = async |password: &str| {
            sign_ins
                .authenticate("ann@example.org", password.to_owned(), &asker)
                .await
        };
        assert_eq!(authenticate("wrong horse").await, Err(Code::CredentialsWrong));
        let stored = async || bench.accounts.account_by_email("ann@example.org".to_owned()).await;
        assert_eq!(stored().await, Ok(Some(account)), "only for who knows the password");
        let found = authenticate("correct horse").await.expect("right");
        assert!(found.password_hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert_eq!(stored().await, Ok(Some(found.clone())));
        assert!(sign_ins.open_with_password(&found, asker.clone()).await.is_ok());
        assert_eq!(authenticate("correct horse").await, Ok(found), "once");
    }

    #[tokio::test]
    async fn an_account_that_was_marked_for_deletion_since_the_password_was_checked_opens_nothing() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let password = || "correct horse".to_owned();
        let asker = Asker::default();
        let user = sign_ins.register("ann@example.org", password()).await.expect("made");
        let checked = sign_ins.authenticate("ann@example.org", password(), &asker).await;
        let checked = checked.expect("right");
        let at = bench.clock.now_ms() + 1_000;
        let marked = sign_ins.request_deletion(checked.clone(), at, &asker).await;
        assert_eq!(marked, Ok(at));
        let opened = sign_ins.open_with_password(&checked, asker).await;
        assert_eq!(opened, Err(Code::CredentialsWrong));
        assert_eq!(sign_ins.of_user(user).await, Ok(Vec::new()));
    }

    #[tokio::test]
    async fn what_is_no_address_or_password_makes_no_account() {
        let sign_ins = AuthBench::default().sign_ins();
        let register = async |email: &str, password: &str| sign_ins.register(email, password.to_owned()).await;
        assert_eq!(register("ann", "correct horse").await, Err(Code::EmailInvalid));
        assert_eq!(register("ann@example.org", "short").await, Err(Code::PasswordInvalid));
    }

    #[test]
    fn addresses_have_one_spelling() {
        for (text, expected) in [
            (" Ann@Example.ORG\n", Some("ann@example.org")),
            ("a@localhost", Some("a@localhost")),
            ("ÄNN@exämple.org", Some("änn@exämple.org")),
            ("ann+tag@example.org", Some("ann+tag@example.org")),
            ("", None),
            ("@", None),
            ("ann@", None),
            ("@example.org", None),
            ("a@b@c", None),
            ("a b@example.org", None),
            ("ann@.org", None),
            ("ann@example..org", None),
            ("ann@example.", None),
            ("ann\u{0}@example.org", None),
        ] {
            assert_eq!(normalise_email(text).as_deref(), expected, "{text:?}");
        }
        let long = format!("{}@example.org", "a".repeat(243));
        assert_eq!(normalise_email(&long), None);
    }

    #[tokio::test]
    async fn a_refresh_gives_the_next_token_and_the_one_before_is_good_no_more() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let first = sign_ins.open(USER, Asker::default()).await.expect("opened");
        bench.clock.advance_ms(600_000);
        let second = sign_ins
            .refresh(&first.refresh_token, &Asker::default())
            .await
            .expect("refreshed");
        assert_ne!(second.refresh_token, first.refresh_token);
        assert_eq!(second.user, USER);
        assert_eq!(second.expires_in, 900);
        bench.clock.advance_ms(600_000);
        let third = sign_ins
            .refresh(&second.refresh_token, &Asker::default())
            .await
            .expect("refreshed");
        assert!(bench.restarted().tokens.verify(&third.access_token).await.is_ok());
    }

    #[tokio::test]
    async fn a_lost_answer_can_be_had_again_for_a_minute() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let first = sign_ins.open(USER, Asker::default()).await.expect("opened");
        let second = sign_ins
            .refresh(&first.refresh_token, &Asker::default())
            .await
            .expect("refreshed");
        bench.clock.advance_ms(REUSE_GRACE_MS);
        let again = sign_ins
            .refresh(&first.refresh_token, &Asker::default())
            .await
            .expect("the same answer");
        assert_eq!(again.refresh_token, second.refresh_token);
        // And what it gave still works: both tabs hold the same token.
        assert!(sign_ins.refresh(&second.refresh_token, &Asker::default()).await.is_ok());
    }

    #[tokio::test]
    async fn a_new_signing_key_signs_nobody_out_and_changes_no_answer() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let now = bench.clock.now_ms();
        let first = sign_ins.open(USER, Asker::default()).await.expect("opened");
        let data = tempfile::tempdir().expect("a folder");
        Keys::open_or_create(data.path()).expect("made");
        Keys::add(data.path(), now + 1_000).expect("made");
        let keys = Keys::open(data.path()).expect("read");
        // The key of the bench is not among them: what it signed is refused.
        bench.tokens.set_keys(keys.clone());
        assert_eq!(bench.tokens.verify(&first.access_token).await, Err(Code::TokenInvalid));
        let second = sign_ins
            .refresh(&first.refresh_token, &Asker::default())
            .await
            .expect("refreshed");
        bench.clock.advance_ms(2_000);
        let again = sign_ins
            .refresh(&first.refresh_token, &Asker::default())
            .await
            .expect("the same answer");
        assert_eq!(again.refresh_token, second.refresh_token, "made by the key of then");
        assert!(
            bench.tokens.verify(&second.access_token).await.is_ok(),
            "of the older key"
        );
        assert!(
            bench.tokens.verify(&again.access_token).await.is_ok(),
            "of the newer one"
        );
        let kid = |token: &str| jsonwebtoken::decode_header(token).expect("a token").kid.expect("a key");
        assert_eq!(kid(&second.access_token), keys.at(now).id);
        assert_eq!(kid(&again.access_token), keys.at(now + 2_000).id);
        assert!(sign_ins.refresh(&second.refresh_token, &Asker::default()).await.is_ok());
    }

    #[tokio::test]
    async fn a_refresh_is_answered_again_where_another_key_of_the_same_secret_signs() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let data = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let [old, new] = data.each_ref().map(|data| {
            Keys::open_or_create(data.path()).expect("made");
            std::fs::read_to_string(Keys::path(data.path())).expect("read")
        });
        let keys = |pem: &str| Keys::from_pem("here", pem).expect("keys");
        bench.tokens.set_keys(keys(&format!("{old}{new}")));
        let first = sign_ins.open(USER, Asker::default()).await.expect("opened");
        let second = sign_ins.refresh(&first.refresh_token, &Asker::default()).await;
        let second = second.expect("refreshed");
        // The answer was lost, and the next pod signs with the new key already.
        bench.tokens.set_keys(keys(&format!("{new}{old}")));
        let again = sign_ins.refresh(&first.refresh_token, &Asker::default()).await;
        assert_eq!(again.expect("the same answer").refresh_token, second.refresh_token);
        assert!(bench.tokens.verify(&second.access_token).await.is_ok());
        bench.tokens.set_keys(keys(&new));
        assert_eq!(bench.tokens.verify(&second.access_token).await, Err(Code::TokenInvalid));
        assert!(sign_ins.refresh(&second.refresh_token, &Asker::default()).await.is_ok());
    }

    #[tokio::test]
    async fn two_refreshes_at_once_get_the_same_token() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let first = sign_ins.open(USER, Asker::default()).await.expect("opened");
        let token = &first.refresh_token;
        let asker = Asker::default();
        let (one, two) = tokio::join!(sign_ins.refresh(token, &asker), sign_ins.refresh(token, &asker));
        assert_eq!(
            one.expect("refreshed").refresh_token,
            two.expect("refreshed").refresh_token
        );
    }

    #[tokio::test]
    async fn a_copied_token_ends_the_sign_in_for_both() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let stolen = sign_ins
            .open(USER, Asker::default())
            .await
            .expect("opened")
            .refresh_token;
        let owner = sign_ins.refresh(&stolen, &Asker::default()).await.expect("the owner's");
        bench.clock.advance_ms(REUSE_GRACE_MS + 1);
        assert_eq!(
            sign_ins.refresh(&stolen, &Asker::default()).await,
            Err(Code::SignedOut),
            "the thief"
        );
        assert_eq!(
            sign_ins.refresh(&owner.refresh_token, &Asker::default()).await,
            Err(Code::SignedOut),
            "the owner"
        );
        assert_eq!(bench.tokens.verify(&owner.access_token).await, Err(Code::SignedOut));
        assert_eq!(
            bench.restarted().tokens.verify(&owner.access_token).await,
            Err(Code::SignedOut)
        );
    }

    #[tokio::test]
    async fn a_token_older_than_the_previous_one_ends_the_sign_in_also_within_the_minute() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let first = sign_ins
            .open(USER, Asker::default())
            .await
            .expect("opened")
            .refresh_token;
        let second = sign_ins
            .refresh(&first, &Asker::default())
            .await
            .expect("refreshed")
            .refresh_token;
        let third = sign_ins
            .refresh(&second, &Asker::default())
            .await
            .expect("refreshed")
            .refresh_token;
        assert_eq!(sign_ins.refresh(&first, &Asker::default()).await, Err(Code::SignedOut));
        assert_eq!(sign_ins.refresh(&third, &Asker::default()).await, Err(Code::SignedOut));
    }

    #[tokio::test]
    async fn a_token_that_was_never_given_out_is_refused_and_ends_nothing() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let opened = sign_ins.open(USER, Asker::default()).await.expect("opened");
        let token = RefreshToken::parse(&opened.refresh_token).expect("a token");
        let of_another_key = RefreshToken::of(token.sign_in, &[7; 16], |parts| Key::random().derive(MADE, parts));
        for place in [0, 15, 16, 31] {
            let mut guessed = RefreshToken { ..token };
            guessed.secret[place] ^= 1;
            for guessed in [&guessed, &of_another_key] {
                let refused = sign_ins.refresh(&guessed.text(), &Asker::default()).await;
                assert_eq!(refused, Err(Code::TokenInvalid), "{place}");
            }
        }
        assert!(bench.tokens.verify(&opened.access_token).await.is_ok());
        assert_eq!(sign_ins.history(USER, None, 10).await, Ok(Vec::new()));
        assert!(sign_ins.refresh(&opened.refresh_token, &Asker::default()).await.is_ok());
    }

    #[tokio::test]
    async fn a_token_of_a_build_that_did_not_sign_them_goes_on() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let opened = sign_ins.open(USER, Asker::default()).await.expect("opened");
        let token = RefreshToken::parse(&opened.refresh_token).expect("a token");
        let stored = bench
            .accounts
            .sign_in(token.sign_in)
            .await
            .expect("an answer")
            .expect("there");
        // That build has replaced the token by this one, and the answer was lost.
        let now = bench.clock.now_ms();
        let unsigned = RefreshToken {
            secret: bench
                .tokens
                .derive(now, "refresh", &[token.sign_in.as_bytes(), &token.secret]),
            ..token
        };
        let replaced = SignIn {
            secret_hash: unsigned.hash(),
            previous_hash: token.hash(),
            rotated_at: now,
            ..stored
        };
        let replaced = bench.accounts.replace_sign_in(token.hash(), replaced, String::new());
        assert_eq!(replaced.await, Ok(true));
        let again = sign_ins.refresh(&opened.refresh_token, &Asker::default()).await;
        assert_eq!(again.map(|opened| opened.refresh_token), Ok(unsigned.text()));
        let next = sign_ins
            .refresh(&unsigned.text(), &Asker::default())
            .await
            .expect("refreshed");
        assert!(
            RefreshToken::parse(&next.refresh_token)
                .expect("a token")
                .is_made_by(&bench.tokens)
        );
    }

    #[tokio::test]
    async fn a_sign_in_that_nobody_used_for_its_days_is_over() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let token = sign_ins
            .open(USER, Asker::default())
            .await
            .expect("opened")
            .refresh_token;
        bench.clock.advance_ms(30 * 86_400_000);
        assert_eq!(sign_ins.refresh(&token, &Asker::default()).await, Err(Code::SignedOut));
    }

    #[tokio::test]
    async fn what_is_no_refresh_token_is_invalid() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let access = sign_ins
            .open(USER, Asker::default())
            .await
            .expect("opened")
            .access_token;
        for text in ["", "x", &access, &"A".repeat(63), &"!".repeat(64)] {
            assert_eq!(
                sign_ins.refresh(text, &Asker::default()).await,
                Err(Code::TokenInvalid),
                "{text}"
            );
            assert_eq!(
                sign_ins.end_by_refresh_token(text).await,
                Err(Code::TokenInvalid),
                "{text}"
            );
        }
        assert_eq!(
            sign_ins.refresh(&"A".repeat(64), &Asker::default()).await,
            Err(Code::SignedOut),
            "of no sign-in"
        );
    }

    #[tokio::test]
    async fn signing_out_by_refresh_token_needs_the_right_one() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let opened = sign_ins.open(USER, Asker::default()).await.expect("opened");
        let token = RefreshToken::parse(&opened.refresh_token).expect("a token");
        let guessed = RefreshToken {
            secret: [7; 32],
            ..token
        };
        assert_eq!(
            sign_ins.end_by_refresh_token(&guessed.text()).await,
            Err(Code::TokenInvalid)
        );
        assert!(bench.tokens.verify(&opened.access_token).await.is_ok());
        assert_eq!(
            sign_ins.end_by_refresh_token(&opened.refresh_token).await,
            Ok(Some((USER, token.sign_in)))
        );
        assert_eq!(bench.tokens.verify(&opened.access_token).await, Err(Code::SignedOut));
        assert_eq!(
            sign_ins.end_by_refresh_token(&opened.refresh_token).await,
            Ok(None),
            "twice is no error"
        );
    }

    #[tokio::test]
    async fn a_store_without_room_or_answer_says_so() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        bench.accounts.fail(Some(AccountError::Full));
        assert_eq!(sign_ins.open(USER, Asker::default()).await, Err(Code::StoreFull));
        bench
            .accounts
            .fail(Some(AccountError::Unavailable("planted".to_owned())));
        assert_eq!(sign_ins.open(USER, Asker::default()).await, Err(Code::StoreUnavailable));
        bench.accounts.fail(Some(AccountError::Damaged("planted".to_owned())));
        assert_eq!(sign_ins.open(USER, Asker::default()).await, Err(Code::Internal));
    }
}
