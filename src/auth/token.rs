//! Access tokens: signed, short-lived, and worth nothing once their sign-in was ended.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use taskflow_actors::ports::{Access, Accounts, Clock, SignIn};
use taskflow_protocol::limits::TOKEN_BYTES_MAX;
use taskflow_protocol::values::UnixMs;
use taskflow_protocol::{Code, UserId};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::auth::issuers::Issuers;
use crate::auth::key::{Key, Keys};
use crate::auth::personal;
use crate::telemetry::instruments::Family;
use crate::telemetry::metrics::Lookup;

/// Who signs: the claim `iss`.
pub const ISSUER: &str = "taskflow";

/// For whom: the claim `aud`.
const AUDIENCE: &str = "taskflow";

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
    /// What it lets do.
    pub access: Access,
    /// From then on it is refused.
    pub expires_at: UnixMs,
}

/// A token that was verified.
#[derive(Clone, Copy)]
struct Known {
    claims: Claims,
    /// For so long it need not be looked up again. That an ended sign-in is remembered for as long is what makes it safe.
    until: UnixMs,
}

/// As it stands in the token (RFC 7519; times in seconds).
#[derive(Serialize, Deserialize)]
struct Body {
    iss: String,
    #[serde(skip_deserializing)]
    aud: &'static str,
    sub: UserId,
    sid: Uuid,
    iat: i64,
    exp: i64,
    /// We write none; who signs with our key elsewhere may.
    #[serde(default, skip_serializing)]
    nbf: Option<i64>,
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
    keys: RwLock<Keys>,
    validation: Validation,
    life_seconds: u32,
    clock: Arc<dyn Clock>,
    accounts: Arc<dyn Accounts>,
    issuers: OnceLock<Issuers>,
    verified: [Mutex<Verified>; SHARDS],
    /// How often they were forgotten: what was looked up before is not remembered after.
    forgotten: AtomicU64,
    ended: RwLock<Ended>,
    on_sign_out: OnceLock<Box<dyn Fn(SignedOut) + Send + Sync>>,
    watched: Arc<Watched>,
    lookups: Family<Lookup>,
}

/// Tokens whose signature was checked, by SHA-256 of the whole token. Two generations: what was not used while the young
/// one filled up goes with the old one.
#[derive(Default)]
struct Verified {
    young: HashMap<[u8; 32], Known>,
    old: HashMap<[u8; 32], Known>,
}

impl Verified {
    fn get(&mut self, hash: &[u8; 32]) -> Option<Known> {
        if let Some(known) = self.young.get(hash) {
            return Some(*known);
        }
        let known = self.old.remove(hash)?;
        self.insert(*hash, known);
        Some(known)
    }

    fn insert(&mut self, hash: [u8; 32], known: Known) {
        if self.young.len() >= VERIFIED_MAX / SHARDS / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, known);
    }
}

/// Sign-ins that were ended while tokens of theirs may still be good.
#[derive(Default)]
struct Ended {
    until: HashMap<Uuid, UnixMs>,
    swept_at: UnixMs,
}

/// Sign-ins that streams watch.
type Watched = Mutex<HashMap<Uuid, Watchers>>;

/// Whose sign-in it is, how many watch it, and how to wake them.
struct Watchers {
    user: UserId,
    count: usize,
    notify: Arc<Notify>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in this file panics while it holds a lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tokens {
    /// Signs with `keys`; looks sign-ins up in `accounts`.
    pub fn new(keys: Keys, life_seconds: u32, clock: Arc<dyn Clock>, accounts: Arc<dyn Accounts>) -> Self {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "iss", "sub", "aud"]);
        // Against the injected clock, below, and again at every hit of the memory.
        validation.validate_exp = false;
        Self {
            keys: RwLock::new(keys),
            validation,
            life_seconds,
            clock,
            accounts,
            issuers: OnceLock::new(),
            verified: Default::default(),
            forgotten: AtomicU64::new(0),
            ended: RwLock::default(),
            on_sign_out: OnceLock::new(),
            watched: Arc::default(),
            lookups: Family::default(),
        }
    }

    /// Counts here what was in memory.
    pub fn counted(mut self, lookups: Family<Lookup>) -> Self {
        self.lookups = lookups;
        self
    }

    /// Takes tokens of these, too. To be set once, before the server takes requests.
    pub fn trust(&self, issuers: Issuers) {
        let _ = self.issuers.set(issuers);
    }

    /// The key set for `/.well-known/jwks.json`.
    pub fn jwks(&self) -> String {
        self.keys().jwks()
    }

    fn keys(&self) -> RwLockReadGuard<'_, Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A secret of the key that signs at this time, for one purpose: see [`Key::derive`].
    pub fn derive(&self, at: UnixMs, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        self.keys().at(at).derive(purpose, parts)
    }

    /// Whether these are the first bytes of such a secret, of whatever key: see [`Key::has_derived`].
    pub fn has_derived(&self, purpose: &str, parts: &[&[u8]], bytes: &[u8]) -> bool {
        self.keys()
            .iter()
            .any(|(_, key)| key.has_derived(purpose, parts, bytes))
    }

    /// What the key makes that signs at this time.
    pub fn sign_by<T>(&self, at: UnixMs, make: impl FnOnce(&Key) -> T) -> T {
        make(self.keys().at(at))
    }

    /// What the first of the keys makes that makes something of it: for what was made before, perhaps by another key.
    pub fn find_made<T>(&self, make: impl FnMut(&Key) -> Option<T>) -> Option<T> {
        let keys = self.keys();
        keys.iter().map(|(_, key)| key).find_map(make)
    }

    /// Signs and checks with these from now on. What only a removed one has signed is refused.
    pub fn set_keys(&self, keys: Keys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        self.forget_verified();
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
        encode(key, user, OPERATOR_SIGN_IN, now, life_seconds).0
    }

    fn encode(&self, user: UserId, sign_in: Uuid, now: UnixMs, life_seconds: i64) -> (String, Claims) {
        encode(self.keys().at(now), user, sign_in, now, life_seconds)
    }

    /// Checks a token that was seen before: one hash and one look-up. `None`: not seen; ask [`Tokens::verify`].
    pub fn verify_cached(&self, token: &str) -> Option<Result<Claims, Code>> {
        if token.len() > TOKEN_BYTES_MAX {
            return Some(Err(Code::TokenInvalid));
        }
        let hash = hash(token);
        let known = lock(self.shard(&hash)).get(&hash);
        let known = known.filter(|known| known.until > self.clock.now_ms());
        let outcome = if known.is_some() { Lookup::Hit } else { Lookup::Miss };
        self.lookups.of(outcome).inc();
        Some(self.still_good(known?.claims))
    }

    /// Checks a token: signature, issuer, time, and that its sign-in was not ended, here or before a restart; or that it is
    /// a personal access token, or one of an issuer that is trusted.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn verify(&self, token: &str) -> Result<Claims, Code> {
        match self.verify_cached(token) {
            Some(known) => known,
            None => self.verify_anew(token).await,
        }
    }

    /// The same of a token that is not in memory.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn verify_anew(&self, token: &str) -> Result<Claims, Code> {
        let forgotten = self.forgotten.load(Ordering::Acquire);
        let claims = match personal::Token::parse(token) {
            Some(personal) => self.look_up(&personal).await?,
            None => match self.of_issuer(token).await {
                Some(claims) => self.still_good(claims?)?,
                None => self.check(token).await?,
            },
        };
        if forgotten == self.forgotten.load(Ordering::Acquire) {
            self.remember(token, claims);
        }
        // Once more: it may have been ended between the look-up and here.
        self.still_good(claims)
    }

    /// Whether somebody has to be asked to find out that a token was made up: the store, or its issuer. What we signed is known by
    /// the signature.
    pub fn asks_others(&self, token: &str) -> bool {
        let names_issuer = |token| self.issuers.get().is_some_and(|issuers| issuers.names_one(token));
        token.len() <= TOKEN_BYTES_MAX && (personal::Token::parse(token).is_some() || names_issuer(token))
    }

    /// `None`: it is not a token of somebody else whom we trust.
    async fn of_issuer(&self, token: &str) -> Option<Result<Claims, Code>> {
        self.issuers.get()?.verify(token).await
    }

    async fn check(&self, token: &str) -> Result<Claims, Code> {
        let claims = self.still_good(self.decode(token)?)?;
        if claims.sign_in != OPERATOR_SIGN_IN {
            let sign_in = self.sign_in(claims.sign_in).await?.ok_or(Code::SignedOut)?;
            if sign_in.user != claims.user {
                return Err(Code::TokenInvalid);
            }
            if sign_in.expires_at <= self.clock.now_ms() {
                return Err(Code::SignedOut);
            }
        }
        Ok(claims)
    }

    /// Of an unknown one nobody learns more than that it is.
    async fn look_up(&self, token: &personal::Token) -> Result<Claims, Code> {
        let found = self.sign_in(token.id).await?;
        let found = found.filter(|found| token.is(found)).ok_or(Code::TokenInvalid)?;
        self.still_good(Claims {
            user: found.user,
            sign_in: found.id,
            access: found.access,
            expires_at: found.expires_at,
        })
    }

    async fn sign_in(&self, id: Uuid) -> Result<Option<SignIn>, Code> {
        self.accounts.sign_in(id).await.map_err(|error| {
            tracing::warn!(%error, "cannot look up a sign-in");
            Code::StoreUnavailable
        })
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
            .map(|watchers| Arc::clone(&watchers.notify));
        if let Some(notify) = watched {
            notify.notify_waiters();
        }
        if let Some(callback) = self.on_sign_out.get() {
            callback(signed_out);
        }
    }

    /// Watches a sign-in for as long as the answer lives: for streams, which no request ends.
    pub fn watch(&self, user: UserId, sign_in: Uuid) -> SignInWatch {
        let mut watched = lock(&self.watched);
        let watchers = watched.entry(sign_in).or_insert_with(|| Watchers {
            user,
            count: 0,
            notify: Arc::default(),
        });
        watchers.count += 1;
        SignInWatch {
            sign_in,
            notify: Arc::clone(&watchers.notify),
            watched: Arc::clone(&self.watched),
        }
    }

    /// The sign-ins that are watched, and whose they are.
    pub fn watched(&self) -> Vec<(UserId, Uuid)> {
        let watched = lock(&self.watched);
        watched
            .iter()
            .map(|(sign_in, watchers)| (watchers.user, *sign_in))
            .collect()
    }

    /// Every token is looked up at its next use.
    pub fn forget_verified(&self) {
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        for shard in &self.verified {
            *lock(shard) = Verified::default();
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
        // Why not is for nobody but the one who tries.
        let header = jsonwebtoken::decode_header(token).map_err(|_| Code::TokenInvalid)?;
        let body = {
            let keys = self.keys();
            let key = header.kid.as_deref().and_then(|id| keys.find(id));
            let key = key.ok_or(Code::TokenInvalid)?;
            jsonwebtoken::decode::<Body>(token, key.decoding(), &self.validation).map_err(|_| Code::TokenInvalid)?
        }
        .claims;
        let expires_at = body.exp.checked_mul(1_000).ok_or(Code::TokenInvalid)?;
        let made_at = body.iat.checked_mul(1_000).ok_or(Code::TokenInvalid)?;
        if expires_at > i64::MAX / 2 {
            return Err(Code::TokenInvalid);
        }
        if body
            .nbf
            .is_some_and(|from| from.saturating_mul(1_000) > self.clock.now_ms() + LEEWAY_MS)
        {
            return Err(Code::TokenInvalid);
        }
        // From the future: the clocks of two nodes differ. It is ours, so that its owner need not sign in again: a refresh
        // gives one by this node's clock.
        if made_at > self.clock.now_ms() + LEEWAY_MS {
            return Err(Code::TokenExpired);
        }
        Ok(Claims {
            user: body.sub,
            sign_in: body.sid,
            access: Access::Owner,
            expires_at,
        })
    }

    fn remember(&self, token: &str, claims: Claims) {
        let hash = hash(token);
        let until = self.clock.now_ms() + i64::from(self.life_seconds) * 1_000;
        lock(self.shard(&hash)).insert(hash, Known { claims, until });
    }

    fn shard(&self, hash: &[u8; 32]) -> &Mutex<Verified> {
        &self.verified[usize::from(hash[0]) % SHARDS]
    }
}

fn encode(key: &Key, user: UserId, sign_in: Uuid, now: UnixMs, life_seconds: i64) -> (String, Claims) {
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some(key.id.clone());
    let iat = now.div_euclid(1_000);
    let body = Body {
        iss: ISSUER.to_owned(),
        aud: AUDIENCE,
        sub: user,
        sid: sign_in,
        iat,
        exp: iat + life_seconds,
        nbf: None,
    };
    let token = jsonwebtoken::encode(&header, &body, key.encoding()).expect("an Ed25519 key signs anything");
    let claims = Claims {
        user,
        sign_in,
        access: Access::Owner,
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
    watched: Arc<Watched>,
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
        if let Some(watchers) = watched.get_mut(&self.sign_in) {
            watchers.count -= 1;
            if watchers.count == 0 {
                watched.remove(&self.sign_in);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::sign_in::Asker;
    use crate::testing::{AuthBench, MemoryAccounts};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;
    use taskflow_actors::ports::{AccountError, Device, SignIn};

    const USER: UserId = UserId(Uuid::from_u128(1));
    const SIGN_IN: Uuid = Uuid::from_u128(2);

    async fn bench() -> AuthBench {
        let bench = AuthBench::default();
        put_sign_in(&bench.accounts, USER, bench.clock.now_ms() + 86_400_000).await;
        bench
    }

    async fn put_sign_in(accounts: &MemoryAccounts, user: UserId, expires_at: UnixMs) {
        let sign_in = SignIn {
            access: Access::Owner,
            id: SIGN_IN,
            user,
            secret_hash: [1; 32],
            previous_hash: [0; 32],
            rotated_at: 0,
            expires_at,
        };
        accounts
            .create_sign_in(sign_in, Device::default())
            .await
            .expect("stored");
    }

    /// Signs any header and body with the bench's key.
    fn forge(bench: &AuthBench, header: &serde_json::Value, body: &serde_json::Value) -> String {
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(body.to_string())
        );
        let signature =
            jsonwebtoken::crypto::sign(signed.as_bytes(), bench.key().encoding(), Algorithm::EdDSA).expect("signed");
        format!("{signed}.{signature}")
    }

    fn good_header(bench: &AuthBench) -> serde_json::Value {
        serde_json::json!({ "alg": "EdDSA", "typ": "JWT", "kid": bench.key().id })
    }

    fn good_body(bench: &AuthBench) -> serde_json::Value {
        let now = bench.clock.now_ms() / 1_000;
        serde_json::json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": USER, "sid": SIGN_IN, "iat": now, "exp": now + 900 })
    }

    #[tokio::test]
    async fn a_minted_token_says_who_and_is_known_at_once() {
        let bench = bench().await;
        let token = bench.tokens.mint(USER, SIGN_IN);
        let expected = Claims {
            access: Access::Owner,
            user: USER,
            sign_in: SIGN_IN,
            expires_at: bench.clock.now_ms() + 900_000,
        };
        assert_eq!(bench.tokens.verify_cached(&token), Some(Ok(expected)));
        assert_eq!(bench.restarted().tokens.verify_cached(&token), None);
        assert_eq!(bench.restarted().tokens.verify(&token).await, Ok(expected));
    }

    #[tokio::test]
    async fn a_token_is_looked_up_once_and_then_remembered() {
        let bench = bench().await;
        let token = bench.tokens.mint(USER, SIGN_IN);
        let restarted = bench.restarted();
        for _ in 0..3 {
            assert!(restarted.tokens.verify(&token).await.is_ok());
        }
        assert_eq!(bench.accounts.look_ups.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_token_expires_also_when_it_is_remembered() {
        let bench = bench().await;
        let token = bench.tokens.mint(USER, SIGN_IN);
        bench.clock.advance_ms(900_000 + LEEWAY_MS - 1);
        assert!(bench.tokens.verify(&token).await.is_ok());
        bench.clock.advance_ms(1);
        assert_eq!(bench.tokens.verify(&token).await, Err(Code::TokenExpired));
        assert_eq!(bench.restarted().tokens.verify(&token).await, Err(Code::TokenExpired));
    }

    #[tokio::test]
    async fn what_is_not_signed_by_our_key_is_refused() {
        let bench = bench().await;
        let other = AuthBench::default();
        put_sign_in(&other.accounts, USER, i64::MAX).await;
        let foreign = other.tokens.mint(USER, SIGN_IN);
        assert_eq!(bench.tokens.verify(&foreign).await, Err(Code::TokenInvalid));
        // The same, under our key's name.
        let named = forge(&other, &good_header(&bench), &good_body(&bench));
        assert_eq!(bench.tokens.verify(&named).await, Err(Code::TokenInvalid));
    }

    #[tokio::test]
    async fn no_other_algorithm_is_taken() {
        let bench = bench().await;
        let body = URL_SAFE_NO_PAD.encode(good_body(&bench).to_string());
        for alg in [
            "none", "None", "NONE", "HS256", "HS512", "RS256", "ES256", "Ed25519", "", "eddsa",
        ] {
            let header = serde_json::json!({ "alg": alg, "typ": "JWT", "kid": bench.key().id }).to_string();
            let header = URL_SAFE_NO_PAD.encode(header);
            for signature in ["", "AAAA"] {
                let token = format!("{header}.{body}.{signature}");
                assert_eq!(bench.tokens.verify(&token).await, Err(Code::TokenInvalid), "{alg}");
            }
            // Signed with our key, but saying otherwise.
            let mut header = good_header(&bench);
            header["alg"] = alg.into();
            let token = forge(&bench, &header, &good_body(&bench));
            assert_eq!(bench.tokens.verify(&token).await, Err(Code::TokenInvalid), "{alg}");
        }
        // The classic: the public key as the secret of an HMAC.
        let key = jsonwebtoken::EncodingKey::from_secret(bench.key().public_x().as_bytes());
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(bench.key().id.clone());
        let token = jsonwebtoken::encode(&header, &good_body(&bench), &key).expect("signed");
        assert_eq!(bench.tokens.verify(&token).await, Err(Code::TokenInvalid));
    }

    #[tokio::test]
    async fn claims_that_are_missing_or_wrong_are_refused() {
        let bench = bench().await;
        let good = forge(&bench, &good_header(&bench), &good_body(&bench));
        assert!(
            bench.restarted().tokens.verify(&good).await.is_ok(),
            "the forge itself works"
        );
        let now = bench.clock.now_ms() / 1_000;
        let wrong = [
            ("iss", serde_json::json!("somebody")),
            ("iss", serde_json::json!(null)),
            ("sub", serde_json::json!("not a uuid")),
            ("sub", serde_json::json!(null)),
            ("sid", serde_json::json!(null)),
            ("exp", serde_json::json!("tomorrow")),
            ("exp", serde_json::json!(i64::MAX)),
            ("iat", serde_json::json!(i64::MIN)),
        ];
        for (claim, value) in wrong {
            let mut body = good_body(&bench);
            body[claim] = value.clone();
            let token = forge(&bench, &good_header(&bench), &body);
            assert_eq!(
                bench.tokens.verify(&token).await,
                Err(Code::TokenInvalid),
                "{claim} {value}"
            );
            body.as_object_mut().expect("a map").remove(claim);
            let token = forge(&bench, &good_header(&bench), &body);
            assert_eq!(bench.tokens.verify(&token).await, Err(Code::TokenInvalid), "no {claim}");
        }
        let mut body = good_body(&bench);
        body["iat"] = serde_json::json!(now + 60);
        let from_the_future = forge(&bench, &good_header(&bench), &body);
        assert_eq!(
            bench.tokens.verify(&from_the_future).await,
            Err(Code::TokenExpired),
            "a node whose clock is ahead made it: to be refreshed"
        );
        let mut header = good_header(&bench);
        header["kid"] = "another".into();
        let token = forge(&bench, &header, &good_body(&bench));
        assert_eq!(bench.tokens.verify(&token).await, Err(Code::TokenInvalid), "kid");
    }

    #[tokio::test]
    async fn a_token_of_another_users_sign_in_is_refused() {
        let bench = bench().await;
        let token = bench.tokens.mint(UserId(Uuid::from_u128(77)), SIGN_IN);
        assert_eq!(bench.restarted().tokens.verify(&token).await, Err(Code::TokenInvalid));
    }

    #[tokio::test]
    async fn an_ended_sign_in_is_refused_at_once_and_after_a_restart() {
        let bench = bench().await;
        let token = bench.tokens.mint(USER, SIGN_IN);
        let told = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&told);
        bench.tokens.on_sign_out(move |signed_out| lock(&seen).push(signed_out));
        assert!(!bench.tokens.is_ended(SIGN_IN));
        bench.sign_ins().end(USER, SIGN_IN).await.expect("ended");
        assert!(bench.tokens.is_ended(SIGN_IN));
        assert_eq!(bench.tokens.verify_cached(&token), Some(Err(Code::SignedOut)));
        let expected = SignedOut {
            user: USER,
            sign_in: SIGN_IN,
        };
        assert_eq!(*lock(&told), [expected]);
        assert_eq!(bench.restarted().tokens.verify(&token).await, Err(Code::SignedOut));
    }

    #[tokio::test]
    async fn who_watches_a_sign_in_is_told_of_its_end() {
        let bench = bench().await;
        let watch = bench.tokens.watch(USER, SIGN_IN);
        let other = bench.tokens.watch(USER, Uuid::from_u128(3));
        let (ended, not_ended) = (watch.ended(), other.ended());
        bench.sign_ins().end(USER, SIGN_IN).await.expect("ended");
        ended.await;
        tokio::select! {
            biased;
            () = not_ended => panic!("another sign-in was ended"),
            () = std::future::ready(()) => {}
        }
        drop((watch, other));
        assert!(
            lock(&bench.tokens.watched).is_empty(),
            "nothing is kept of watches that are over"
        );
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_refuses_nobody_for_good() {
        let bench = bench().await;
        let token = bench.tokens.mint(USER, SIGN_IN);
        let restarted = bench.restarted();
        bench
            .accounts
            .fail(Some(AccountError::Unavailable("planted".to_owned())));
        assert_eq!(restarted.tokens.verify(&token).await, Err(Code::StoreUnavailable));
        bench.accounts.fail(None);
        assert!(restarted.tokens.verify(&token).await.is_ok());
    }

    #[tokio::test]
    async fn an_operators_token_needs_no_account() {
        let bench = AuthBench::default();
        let token = Tokens::mint_for_operator(bench.key(), USER, bench.clock.now_ms(), 60);
        let claims = bench.tokens.verify(&token).await.expect("good");
        assert_eq!((claims.user, claims.sign_in), (USER, OPERATOR_SIGN_IN));
        let body = token.split('.').nth(1).expect("a body");
        let body = URL_SAFE_NO_PAD.decode(body).expect("base64");
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((&body["iss"], &body["aud"]), (&ISSUER.into(), &AUDIENCE.into()));
        assert_eq!(bench.accounts.look_ups.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_token_for_somebody_else_or_for_nobody_is_refused() {
        let bench = AuthBench::default();
        let key = bench.key();
        let iat = bench.clock.now_ms() / 1_000;
        let verify = async |aud: Option<serde_json::Value>| {
            let mut body = serde_json::json!({
                "iss": ISSUER, "sub": USER, "sid": OPERATOR_SIGN_IN, "iat": iat, "exp": iat + 60,
            });
            if let Some(aud) = aud {
                body["aud"] = aud;
            }
            let mut header = Header::new(Algorithm::EdDSA);
            header.kid = Some(key.id.clone());
            let token = jsonwebtoken::encode(&header, &body, key.encoding()).expect("signed");
            bench.tokens.verify(&token).await.map(|claims| claims.user)
        };
        assert_eq!(verify(None).await, Err(Code::TokenInvalid));
        assert_eq!(verify(Some("taskflow".into())).await, Ok(USER));
        assert_eq!(verify(Some(serde_json::json!(["other", "taskflow"]))).await, Ok(USER));
        for other in [
            serde_json::json!("other"),
            serde_json::json!(["other"]),
            serde_json::json!(""),
        ] {
            assert_eq!(verify(Some(other)).await, Err(Code::TokenInvalid));
        }
    }

    #[tokio::test]
    async fn a_token_is_refused_before_its_time() {
        let bench = bench().await;
        let verify = async |nbf: serde_json::Value| {
            let mut body = good_body(&bench);
            body["nbf"] = nbf;
            let token = forge(&bench, &good_header(&bench), &body);
            bench.tokens.verify(&token).await.map(|claims| claims.user)
        };
        let now = bench.clock.now_ms() / 1_000;
        let leeway = LEEWAY_MS / 1_000;
        for good in [now - 60, now, now + leeway] {
            assert_eq!(verify(good.into()).await, Ok(USER), "{good}");
        }
        for early in [now + leeway + 1, i64::MAX] {
            assert_eq!(verify(early.into()).await, Err(Code::TokenInvalid), "{early}");
        }
        assert_eq!(verify("now".into()).await, Err(Code::TokenInvalid));
    }

    #[tokio::test]
    async fn a_personal_access_token_is_looked_up_again_after_a_while() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let made = sign_ins.make_token(USER, Access::Read, 86_400_000, Asker::default());
        let (stored, text) = made.await.expect("made");
        for _ in 0..2 {
            let claims = bench.tokens.verify(&text).await.expect("good");
            assert_eq!((claims.user, claims.access), (USER, Access::Read));
            assert_eq!(claims.expires_at, stored.expires_at);
        }
        assert_eq!(bench.accounts.look_ups.load(Ordering::SeqCst), 1, "it is remembered");
        // Ended on another node, and nobody has said so here.
        bench.accounts.end_sign_in(USER, stored.id).await.expect("ended");
        bench.clock.advance_ms(899_000);
        assert!(bench.tokens.verify(&text).await.is_ok());
        bench.clock.advance_ms(1_000);
        assert_eq!(bench.tokens.verify(&text).await, Err(Code::TokenInvalid));
    }

    #[tokio::test]
    async fn a_personal_access_token_is_over_on_its_day() {
        let bench = AuthBench::default();
        let sign_ins = bench.sign_ins();
        let made = sign_ins.make_token(USER, Access::Write, 86_400_000, Asker::default());
        let (_, text) = made.await.expect("made");
        bench.clock.advance_ms(86_399_000);
        assert!(bench.tokens.verify(&text).await.is_ok());
        bench.clock.advance_ms(1_000 + LEEWAY_MS);
        assert_eq!(bench.tokens.verify(&text).await, Err(Code::TokenExpired));
    }

    #[test]
    fn the_memory_of_verified_tokens_is_bounded_and_keeps_what_is_used() {
        let mut verified = Verified::default();
        let claims = Claims {
            access: Access::Owner,
            user: USER,
            sign_in: SIGN_IN,
            expires_at: 0,
        };
        let known = Known { claims, until: 0 };
        let hash_of = |n: u32| -> [u8; 32] { Sha256::digest(n.to_be_bytes()).into() };
        verified.insert(hash_of(0), known);
        for n in 1..10_000 {
            verified.insert(hash_of(n), known);
            if n % 100 == 0 {
                assert!(verified.get(&hash_of(0)).is_some(), "{n}");
            }
            assert!(verified.young.len() + verified.old.len() <= VERIFIED_MAX / SHARDS);
        }
        assert!(verified.get(&hash_of(1)).is_none());
    }

    #[test]
    fn ended_sign_ins_are_forgotten_once_their_tokens_are_dead() {
        let bench = AuthBench::default();
        for n in 0..100 {
            bench.clock.advance_ms(100_000);
            bench.tokens.end(SignedOut {
                user: USER,
                sign_in: Uuid::from_u128(n),
            });
        }
        let count = bench.tokens.ended.read().expect("not poisoned").until.len();
        assert!(
            count <= 11,
            "{count} are remembered; ten lifetimes of 965 s have passed"
        );
        assert!(bench.tokens.is_ended(Uuid::from_u128(99)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_token_with_any_character_changed_is_refused(at in any::<prop::sample::Index>(), to in 0_usize..64) {
            const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                let bench = bench().await;
                let mut token = bench.tokens.mint(USER, SIGN_IN).into_bytes();
                let at = at.index(token.len());
                prop_assume!(token[at] != b'.' && token[at] != ALPHABET[to]);
                token[at] = ALPHABET[to];
                let token = String::from_utf8(token).expect("ASCII");
                prop_assert_eq!(bench.tokens.verify(&token).await, Err(Code::TokenInvalid));
                Ok(())
            })?;
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,300}") {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let result = runtime.block_on(AuthBench::default().tokens.verify(&text));
            prop_assert_eq!(result, Err(Code::TokenInvalid));
        }
    }
}
