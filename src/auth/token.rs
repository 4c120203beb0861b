//! Access tokens: signed, short-lived, and worth nothing once their sign-in was ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use taskflow_actors::ports::{Accounts, Clock};
use taskflow_protocol::limits::TOKEN_BYTES_MAX;
use taskflow_protocol::values::UnixMs;
use taskflow_protocol::{Code, UserId};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::auth::key::Key;

/// Who signs: the claim `iss`.
const ISSUER: &str = "taskflow";

/// How far the clocks of two nodes may be apart, in milliseconds.
const LEEWAY_MS: i64 = 5_000;

/// Verified tokens that are remembered.
///
/// An Ed25519 check costs some 50 µs, as much as all else of a reconnect. 32,768 tokens are more than the connections of
/// one small machine, at about 100 bytes each.
const VERIFIED_MAX: usize = 32_768;

/// Shards of the memory, so that threads seldom wait for each other.
const SHARDS: usize = 16;

/// How long an ended sign-in is remembered beyond the life of its last token, in milliseconds: a token that was being
/// made while the sign-in ended is a moment younger.
const ENDED_MARGIN_MS: i64 = 60_000;

/// The sign-in of tokens that the operator minted (`taskflow token`): there is no account behind them to look at.
pub const OPERATOR_SIGN_IN: Uuid = Uuid::nil();

/// What an access token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Who.
    pub user: UserId,
    /// What it was made under; [`OPERATOR_SIGN_IN`] if by the operator.
    pub sign_in: Uuid,
    /// From then on it is refused.
    pub expires_at: UnixMs,
}

/// As it stands in the token (RFC 7519; times in seconds).
#[derive(Serialize, Deserialize)]
struct Body {
    iss: String,
    sub: UserId,
    sid: Uuid,
    iat: i64,
    exp: i64,
}

/// A sign-in that was ended just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedOut {
    /// Whose.
    pub user: UserId,
    /// Which: connections opened under it must close.
    pub sign_in: Uuid,
}

/// Makes and checks access tokens.
pub struct Tokens {
    key: Arc<Key>,
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    life_seconds: u32,
    clock: Arc<dyn Clock>,
    accounts: Arc<dyn Accounts>,
    verified: [Mutex<Verified>; SHARDS],
    ended: RwLock<Ended>,
    on_sign_out: OnceLock<Box<dyn Fn(SignedOut) + Send + Sync>>,
    watched: Arc<Mutex<HashMap<Uuid, (usize, Arc<Notify>)>>>,
}

/// Tokens whose signature was checked, by SHA-256 of the whole token. Two generations: what was not used while the young
/// one filled up goes with the old one.
#[derive(Default)]
struct Verified {
    young: HashMap<[u8; 32], Claims>,
    old: HashMap<[u8; 32], Claims>,
}

impl Verified {
    fn get(&mut self, hash: &[u8; 32]) -> Option<Claims> {
        if let Some(claims) = self.young.get(hash) {
            return Some(*claims);
        }
        let claims = self.old.remove(hash)?;
        self.insert(*hash, claims);
        Some(claims)
    }

    fn insert(&mut self, hash: [u8; 32], claims: Claims) {
        if self.young.len() >= VERIFIED_MAX / SHARDS / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, claims);
    }
}

/// Sign-ins that were ended while tokens of theirs may still be good.
#[derive(Default)]
struct Ended {
    until: HashMap<Uuid, UnixMs>,
    swept_at: UnixMs,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in this file panics while it holds a lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tokens {
    /// Signs with `key`; looks sign-ins up in `accounts`.
    pub fn new(key: Arc<Key>, life_seconds: u32, clock: Arc<dyn Clock>, accounts: Arc<dyn Accounts>) -> Self {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        // Against the injected clock, below, and again at every hit of the memory.
        validation.validate_exp = false;
        Self {
            encoding: EncodingKey::from_ed_der(&key.pkcs8_der()),
            decoding: DecodingKey::from_ed_components(&key.public_x()).expect("the public key is 32 bytes in base64"),
            key,
            validation,
            life_seconds,
            clock,
            accounts,
            verified: Default::default(),
            ended: RwLock::default(),
            on_sign_out: OnceLock::new(),
            watched: Arc::default(),
        }
    }

    /// The key set for `/.well-known/jwks.json`.
    pub fn jwks(&self) -> String {
        self.key.jwks()
    }

    /// The key; other secrets are derived from it.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// How long a token is good for, in seconds.
    pub fn life_seconds(&self) -> u32 {
        self.life_seconds
    }

    /// Is called once for every sign-in that is ended, on the thread that ends it: it must not wait. To be set once,
    /// before the server takes requests.
    pub fn on_sign_out(&self, callback: impl Fn(SignedOut) + Send + Sync + 'static) {
        let _ = self.on_sign_out.set(Box::new(callback));
    }

    /// Makes a token, and remembers it as verified.
    pub fn mint(&self, user: UserId, sign_in: Uuid) -> String {
        let now = self.clock.now_ms();
        let (token, claims) = self.encode(user, sign_in, now, i64::from(self.life_seconds));
        self.remember(&token, claims);
        token
    }

    /// Makes a token that names no sign-in and is good for `life_seconds`: for load tools and for the operator.
    pub fn mint_for_operator(key: &Key, user: UserId, now: UnixMs, life_seconds: i64) -> String {
        let encoding = EncodingKey::from_ed_der(&key.pkcs8_der());
        encode(&encoding, &key.id, user, OPERATOR_SIGN_IN, now, life_seconds).0
    }

    fn encode(&self, user: UserId, sign_in: Uuid, now: UnixMs, life_seconds: i64) -> (String, Claims) {
        encode(&self.encoding, &self.key.id, user, sign_in, now, life_seconds)
    }

    /// Checks a token that was seen before: one hash and one look-up. `None`: not seen; ask [`Tokens::verify`].
    pub fn verify_cached(&self, token: &str) -> Option<Result<Claims, Code>> {
        if token.len() > TOKEN_BYTES_MAX {
            return Some(Err(Code::TokenInvalid));
        }
        let hash = hash(token);
        let claims = lock(self.shard(&hash)).get(&hash)?;
        Some(self.still_good(claims))
    }

    /// Checks a token: signature, issuer, time, and that its sign-in was not ended, here or before a restart.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn verify(&self, token: &str) -> Result<Claims, Code> {
        if let Some(known) = self.verify_cached(token) {
            return known;
        }
        let claims = self.still_good(self.decode(token)?)?;
        if claims.sign_in != OPERATOR_SIGN_IN {
            let found = self.accounts.sign_in(claims.sign_in).await.map_err(|error| {
                tracing::warn!(%error, "cannot look up a sign-in");
                Code::StoreUnavailable
            })?;
            let sign_in = found.ok_or(Code::SignedOut)?;
            if sign_in.user != claims.user {
                return Err(Code::TokenInvalid);
            }
            if sign_in.expires_at <= self.clock.now_ms() {
                return Err(Code::SignedOut);
            }
        }
        self.remember(token, claims);
        // Once more: it may have been ended between the look-up and here.
        self.still_good(claims)
    }

    /// Whether a sign-in was ended lately. Who registers a connection asks after that, so that a sign-out in between is
    /// not missed.
    pub fn is_ended(&self, sign_in: Uuid) -> bool {
        let ended = self.ended.read().unwrap_or_else(PoisonError::into_inner);
        ended.until.contains_key(&sign_in)
    }

    /// Refuses the tokens of a sign-in from now on, and tells who listens. The caller has ended it in the store.
    pub fn end(&self, signed_out: SignedOut) {
        let now = self.clock.now_ms();
        {
            let mut ended = self.ended.write().unwrap_or_else(PoisonError::into_inner);
            let life_ms = i64::from(self.life_seconds) * 1_000 + LEEWAY_MS + ENDED_MARGIN_MS;
            if now - ended.swept_at > ENDED_MARGIN_MS {
                ended.until.retain(|_, until| *until > now);
                ended.swept_at = now;
            }
            ended.until.insert(signed_out.sign_in, now + life_ms);
        }
        let watched = lock(&self.watched)
            .get(&signed_out.sign_in)
            .map(|(_, notify)| Arc::clone(notify));
        if let Some(notify) = watched {
            notify.notify_waiters();
        }
        if let Some(callback) = self.on_sign_out.get() {
            callback(signed_out);
        }
    }

    /// Watches a sign-in for as long as the answer lives: for streams, which no request ends.
    pub fn watch(&self, sign_in: Uuid) -> SignInWatch {
        let mut watched = lock(&self.watched);
        let (count, notify) = watched.entry(sign_in).or_default();
        *count += 1;
        SignInWatch {
            sign_in,
            notify: Arc::clone(notify),
            watched: Arc::clone(&self.watched),
        }
    }

    fn still_good(&self, claims: Claims) -> Result<Claims, Code> {
        if claims.expires_at + LEEWAY_MS <= self.clock.now_ms() {
            return Err(Code::TokenExpired);
        }
        if self.is_ended(claims.sign_in) {
            return Err(Code::SignedOut);
        }
        Ok(claims)
    }

    fn decode(&self, token: &str) -> Result<Claims, Code> {
        let decoded = jsonwebtoken::decode::<Body>(token, &self.decoding, &self.validation);
        // Why is for nobody but the one who tries.
        let decoded = decoded.map_err(|_| Code::TokenInvalid)?;
        if decoded.header.kid.as_deref() != Some(&self.key.id) {
            return Err(Code::TokenInvalid);
        }
        let body = decoded.claims;
        let expires_at = body.exp.checked_mul(1_000).ok_or(Code::TokenInvalid)?;
        // A token from the future was not made by a node whose clock can be trusted.
        let made_at = body.iat.checked_mul(1_000).ok_or(Code::TokenInvalid)?;
        if made_at > self.clock.now_ms() + LEEWAY_MS || expires_at > i64::MAX / 2 {
            return Err(Code::TokenInvalid);
        }
        Ok(Claims {
            user: body.sub,
            sign_in: body.sid,
            expires_at,
        })
    }

    fn remember(&self, token: &str, claims: Claims) {
        let hash = hash(token);
        lock(self.shard(&hash)).insert(hash, claims);
    }

    fn shard(&self, hash: &[u8; 32]) -> &Mutex<Verified> {
        &self.verified[usize::from(hash[0]) % SHARDS]
    }
}

fn encode(
    encoding: &EncodingKey,
    kid: &str,
    user: UserId,
    sign_in: Uuid,
    now: UnixMs,
    life_seconds: i64,
) -> (String, Claims) {
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some(kid.to_owned());
    let iat = now.div_euclid(1_000);
    let body = Body {
        iss: ISSUER.to_owned(),
        sub: user,
        sid: sign_in,
        iat,
        exp: iat + life_seconds,
    };
    let token = jsonwebtoken::encode(&header, &body, encoding).expect("an Ed25519 key signs anything");
    let claims = Claims {
        user,
        sign_in,
        expires_at: body.exp * 1_000,
    };
    (token, claims)
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// See [`Tokens::watch`].
pub struct SignInWatch {
    sign_in: Uuid,
    notify: Arc<Notify>,
    watched: Arc<Mutex<HashMap<Uuid, (usize, Arc<Notify>)>>>,
}

impl SignInWatch {
    /// Resolves when the sign-in is ended. Ask [`Tokens::is_ended`] after making it and before waiting.
    ///
    /// # Cancel safety
    ///
    /// A sign-out while nobody waits is found by [`Tokens::is_ended`].
    pub fn ended(&self) -> impl Future<Output = ()> + '_ {
        self.notify.notified()
    }
}

impl Drop for SignInWatch {
    fn drop(&mut self) {
        let mut watched = lock(&self.watched);
        if let Some((count, _)) = watched.get_mut(&self.sign_in) {
            *count -= 1;
            if *count == 0 {
                watched.remove(&self.sign_in);
            }
        }
    }
}
