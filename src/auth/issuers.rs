//! Tokens of others: JWTs of the issuers that the operator trusts, checked by the keys that each publishes.
//!
//! Who comes with one is a user of this server, the same one each time: its id is computed from the issuer and the claim that
//! names the user there. There is no account behind it, so such a token lets read and change tasks and nothing else; sign-ins,
//! passwords and their end are the issuer's business.
//!
//! Keys are remembered for [`KEYS_KEPT`] and fetched again for a key that is not among them, but no more often than
//! [`FETCH_PAUSE`]: a flood of tokens with made-up keys costs one request in that time. An issuer that does not answer changes
//! nothing about the keys that are known, and only whoever asks it waits for it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use taskflow_actors::ports::{Access, BoxFuture, Clock};
use taskflow_protocol::values::UnixMs;
use taskflow_protocol::{Code, UserId};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;
use uuid::Uuid;

use super::token::{Claims, OPERATOR_SIGN_IN};
use crate::config::Issuer;

/// How long keys are taken for those that the issuer has: what it has withdrawn is refused by then.
const KEYS_KEPT: Duration = Duration::from_secs(10 * 60);

/// Between two requests for the keys of an issuer.
const FETCH_PAUSE: Duration = Duration::from_secs(10);

/// Keys of one issuer. The largest have a dozen.
const KEYS_MAX: usize = 100;

/// How far the clock of an issuer may be ahead, in milliseconds.
const LEEWAY_MS: i64 = 60_000;

/// Longest claim that names a user, in bytes: OpenID Connect allows 255 characters of ASCII.
const SUBJECT_BYTES_MAX: usize = 1_024;

/// The scopes that let read tasks, and change them, too.
const READ: &str = "tasks:read";
const WRITE: &str = "tasks:write";

/// Asks for a document.
pub trait Fetch: Send + Sync + 'static {
    /// The text at this address, or what went wrong.
    fn fetch(&self, url: String) -> BoxFuture<Result<String, String>>;
}

/// A published key, and what it may have signed with.
struct PublicKey {
    decoding: DecodingKey,
    algorithms: Vec<Algorithm>,
}

#[derive(Default)]
struct Keys {
    by_id: HashMap<String, Arc<PublicKey>>,
    fetched_at: Option<Instant>,
}

struct Known {
    settings: Issuer,
    keys: RwLock<Keys>,
    /// When they were last asked for. Whoever asks holds it.
    asked_at: Arc<Mutex<Option<Instant>>>,
}

/// The issuers that are trusted.
pub struct Issuers {
    all: Vec<Arc<Known>>,
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
}

/// What there is of a token before anything about it is known to be true.
#[derive(Deserialize)]
struct Said {
    iss: String,
}

impl Issuers {
    /// Those of the settings.
    pub fn new(issuers: &[Issuer], fetch: Arc<dyn Fetch>, clock: Arc<dyn Clock>) -> Self {
        let known = |settings: &Issuer| Known {
            settings: settings.clone(),
            keys: RwLock::default(),
            asked_at: Arc::default(),
        };
        let all = issuers.iter().map(|settings| Arc::new(known(settings)));
        Self {
            all: all.collect(),
            fetch,
            clock,
        }
    }

    /// Checks a token of one of them; `None`: it is not.
    pub async fn verify(&self, token: &str) -> Option<Result<Claims, Code>> {
        let issuer = self.issuer_of(token)?;
        Some(self.check(issuer, token).await)
    }

    /// Whether it says that it is of one of them.
    pub fn names_one(&self, token: &str) -> bool {
        self.issuer_of(token).is_some()
    }

    fn issuer_of(&self, token: &str) -> Option<&Arc<Known>> {
        if self.all.is_empty() {
            return None;
        }
        let body = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let Said { iss } = serde_json::from_slice(&body).ok()?;
        self.all.iter().find(|known| known.settings.issuer == iss)
    }

    async fn check(&self, issuer: &Arc<Known>, token: &str) -> Result<Claims, Code> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Code::TokenInvalid)?;
        let id = header.kid.ok_or(Code::TokenInvalid)?;
        let key = self.key(issuer, &id).await?;
        if !key.algorithms.contains(&header.alg) {
            return Err(Code::TokenInvalid);
        }
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&issuer.settings.issuer]);
        validation.set_audience(&[&issuer.settings.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        // By the injected clock, below.
        validation.validate_exp = false;
        let body = jsonwebtoken::decode::<Value>(token, &key.decoding, &validation);
        let body = body.map_err(|_| Code::TokenInvalid)?.claims;
        claims(&issuer.settings, &body, self.clock.now_ms())
    }

    async fn key(&self, issuer: &Arc<Known>, id: &str) -> Result<Arc<PublicKey>, Code> {
        let (key, is_fresh) = issuer.key(id);
        let asked_at = match key {
            Some(key) if is_fresh => return Ok(key),
            // As good as it was, until whoever asks for it anew has the answer.
            Some(key) => match issuer.asked_at.clone().try_lock_owned() {
                Ok(asked_at) => asked_at,
                Err(_) => return Ok(key),
            },
            None => issuer.asked_at.clone().lock_owned().await,
        };
        // Whoever held it may have asked meanwhile.
        let is_there = matches!(issuer.key(id), (Some(_), true));
        if !is_there && asked_at.is_none_or(|at| at.elapsed() >= FETCH_PAUSE) {
            // A task of its own: who goes away does not take the answer along.
            let asking = tokio::spawn(issuer.clone().ask(self.fetch.clone(), asked_at));
            if asking.await.is_err() {
                return Err(Code::Internal);
            }
        }
        match issuer.key(id) {
            (Some(key), _) => Ok(key),
            // Not known, and whether it is one of theirs is not known either.
            (None, _) if issuer.fetched_at().is_none() => Err(Code::IssuerUnavailable),
            (None, _) => Err(Code::TokenInvalid),
        }
    }
}

impl Known {
    /// A key, and whether it was theirs a moment ago.
    fn key(&self, id: &str) -> (Option<Arc<PublicKey>>, bool) {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = keys.fetched_at.is_some_and(|at| at.elapsed() < KEYS_KEPT);
        (keys.by_id.get(id).cloned(), is_fresh)
    }

    fn fetched_at(&self) -> Option<Instant> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).fetched_at
    }

    async fn ask(self: Arc<Self>, fetch: Arc<dyn Fetch>, mut asked_at: OwnedMutexGuard<Option<Instant>>) {
        *asked_at = Some(Instant::now());
        match fetch.fetch(self.settings.jwks()).await.and_then(|text| parse(&text)) {
            Ok(by_id) => {
                let fetched_at = Some(Instant::now());
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Keys { by_id, fetched_at };
            }
            Err(error) => {
                let issuer = &self.settings.issuer;
                tracing::warn!(issuer, error, "the keys of an issuer cannot be read");
            }
        }
    }
}

/// The keys of a set (RFC 7517) that sign. What is something else in it is the issuer's business.
fn parse(text: &str) -> Result<HashMap<String, Arc<PublicKey>>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_str(text).map_err(|error| format!("it is no key set: {error}"))?;
    let keys = set.keys.into_iter().take(KEYS_MAX).filter_map(|key| {
        let key: Jwk = serde_json::from_value(key).ok()?;
        let algorithms = algorithms_of(&key);
        let decoding = DecodingKey::from_jwk(&key).ok().filter(|_| !algorithms.is_empty())?;
        let key_of = PublicKey { decoding, algorithms };
        Some((key.common.key_id?, Arc::new(key_of)))
    });
    Ok(keys.collect())
}

/// What a key may have signed with: never what its owner has in common with whoever checks (HMAC), and never what it does not
/// say it is for.
fn algorithms_of(key: &Jwk) -> Vec<Algorithm> {
    if matches!(key.common.public_key_use, Some(ref other) if *other != PublicKeyUse::Signature) {
        return Vec::new();
    }
    let possible: &[Algorithm] = match &key.algorithm {
        AlgorithmParameters::RSA(_) => &[
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(parameters) => match parameters.curve {
            EllipticCurve::P256 => &[Algorithm::ES256],
            EllipticCurve::P384 => &[Algorithm::ES384],
            _ => &[],
        },
        AlgorithmParameters::OctetKeyPair(parameters) if parameters.curve == EllipticCurve::Ed25519 => {
            &[Algorithm::EdDSA]
        }
        _ => &[],
    };
    let said = key.common.key_algorithm.map(|said| said.to_string());
    let is_said = |algorithm: &Algorithm| said.as_ref().is_none_or(|said| *said == format!("{algorithm:?}"));
    possible.iter().copied().filter(is_said).collect()
}

fn claims(settings: &Issuer, body: &Value, now: UnixMs) -> Result<Claims, Code> {
    // Whole seconds, or parts of them (RFC 7519, NumericDate).
    let time = |name: &str| {
        let seconds = body
            .get(name)
            .map(|value| value.as_f64().ok_or(Code::TokenInvalid))
            .transpose()?;
        let is_sane = seconds.is_none_or(|seconds| (0.0..1e12).contains(&seconds));
        if is_sane {
            Ok(seconds.map(|seconds| (seconds * 1_000.0) as UnixMs))
        } else {
            Err(Code::TokenInvalid)
        }
    };
    let expires_at = time("exp")?.ok_or(Code::TokenInvalid)?;
    for name in ["nbf", "iat"] {
        if time(name)?.is_some_and(|at| at > now + LEEWAY_MS) {
            return Err(Code::TokenInvalid);
        }
    }
    let subject = match body.get(&settings.user_claim) {
        Some(Value::String(text)) if !text.is_empty() && text.len() <= SUBJECT_BYTES_MAX => text.clone(),
        Some(Value::Number(number)) if number.is_u64() => number.to_string(),
        _ => return Err(Code::TokenInvalid),
    };
    let access = match settings.scope_claim.as_str() {
        "" => Access::Write,
        claim => access(body.get(claim)).ok_or(Code::ScopeMissing)?,
    };
    Ok(Claims {
        user: user_of(&settings.issuer, &subject),
        sign_in: OPERATOR_SIGN_IN,
        access,
        expires_at,
    })
}

/// By the scopes in a claim: a text with spaces between (RFC 8693, section 4.2), or a list.
fn access(claim: Option<&Value>) -> Option<Access> {
    let scopes: Vec<&str> = match claim? {
        Value::String(text) => text.split(' ').collect(),
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        _ => return None,
    };
    if scopes.contains(&WRITE) {
        return Some(Access::Write);
    }
    scopes.contains(&READ).then_some(Access::Read)
}

/// The user of this name there: the same on every node and after every start, and no other's of any issuer (UUIDv8, RFC 9562).
pub fn user_of(issuer: &str, subject: &str) -> UserId {
    let digest = Sha256::new()
        .chain_update("taskflow user of issuer\0")
        .chain_update((issuer.len() as u64).to_be_bytes())
        .chain_update(issuer)
        .chain_update(subject)
        .finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    UserId(Uuid::new_v8(bytes))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::json;

    use super::*;
    use crate::testing::TestClock;

    const ISSUER: &str = "https://id.example/realms/home";
    /// Made for these tests.
    const RSA: &str = include_str!("../../tests/support/issuer.pem");
    const EC: &str = include_str!("../../tests/support/issuer-ec.pem");

    fn rsa() -> EncodingKey {
        EncodingKey::from_rsa_pem(RSA.as_bytes()).expect("a key")
    }

    fn ec() -> EncodingKey {
        EncodingKey::from_ec_pem(EC.as_bytes()).expect("a key")
    }

    /// The public half, under this id.
    fn published(key: &EncodingKey, algorithm: Algorithm, id: &str) -> Value {
        let mut jwk = Jwk::from_encoding_key(key, algorithm).expect("it is one of such keys");
        jwk.common.key_id = Some(id.to_owned());
        serde_json::to_value(jwk).expect("it is written")
    }

    /// Answers with this, and counts.
    struct Published {
        keys: std::sync::Mutex<Result<Value, String>>,
        asked: AtomicUsize,
        takes: Duration,
    }

    impl Fetch for Arc<Published> {
        fn fetch(&self, url: String) -> BoxFuture<Result<String, String>> {
            assert_eq!(url, "https://id.example/realms/home/.well-known/jwks.json");
            self.asked.fetch_add(1, Ordering::SeqCst);
            let (this, takes) = (self.clone(), self.takes);
            Box::pin(async move {
                tokio::time::sleep(takes).await;
                let keys = this.keys.lock().expect("not poisoned").clone()?;
                Ok(json!({ "keys": keys }).to_string())
            })
        }
    }

    struct Bench {
        published: Arc<Published>,
        issuers: Arc<Issuers>,
        clock: Arc<TestClock>,
    }

    impl Bench {
        fn new(keys: Value) -> Self {
            Self::with(keys, |_| {})
        }

        fn with(keys: Value, change: impl FnOnce(&mut Issuer)) -> Self {
            let mut settings = Issuer {
                issuer: ISSUER.to_owned(),
                audience: "taskflow".to_owned(),
                jwks: String::new(),
                user_claim: "sub".to_owned(),
                scope_claim: String::new(),
            };
            change(&mut settings);
            let published = Arc::new(Published {
                keys: std::sync::Mutex::new(Ok(keys)),
                asked: AtomicUsize::new(0),
                takes: Duration::from_secs(1),
            });
            let clock = TestClock::new();
            let issuers = Issuers::new(&[settings], Arc::new(published.clone()), clock.clone());
            Self {
                published,
                issuers: Arc::new(issuers),
                clock,
            }
        }

        fn publishes(&self, keys: Result<Value, &str>) {
            *self.published.keys.lock().expect("not poisoned") = keys.map_err(str::to_owned);
        }

        fn asked(&self) -> usize {
            self.published.asked.load(Ordering::SeqCst)
        }

        /// A token that is good for an hour, with these claims instead.
        fn token(&self, key: &EncodingKey, algorithm: Algorithm, id: &str, other: &Value) -> String {
            let now = self.clock.now_ms() / 1_000;
            let mut claims = json!({
                "iss": ISSUER, "aud": "taskflow", "sub": "ada", "iat": now, "nbf": now, "exp": now + 3_600,
            });
            for (name, value) in other.as_object().expect("claims") {
                claims[name] = value.clone();
            }
            let header = Header {
                kid: Some(id.to_owned()),
                ..Header::new(algorithm)
            };
            jsonwebtoken::encode(&header, &claims, key).expect("it is signed")
        }

        async fn verify(&self, token: &str) -> Result<Claims, Code> {
            self.issuers.verify(token).await.expect("it is of an issuer of ours")
        }

        async fn says(&self, other: &Value) -> Result<Claims, Code> {
            self.verify(&self.token(&rsa(), Algorithm::RS256, "1", other)).await
        }
    }

    fn rsa_published() -> Value {
        json!([published(&rsa(), Algorithm::RS256, "1")])
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_of_an_issuer_is_the_same_user_each_time() {
        let bench = Bench::new(rsa_published());
        let ada = bench.says(&json!({})).await.expect("good");
        assert_eq!((ada.user, ada.access), (user_of(ISSUER, "ada"), Access::Write));
        assert_eq!((ada.sign_in, ada.user.0.get_version_num()), (OPERATOR_SIGN_IN, 8));
        // Written down: a version that computes it otherwise would take the tasks of everybody away.
        assert_eq!(ada.user.to_string(), "f7c226c6-f55d-89c8-9263-8bc574a43c4a");
        let bob = bench.says(&json!({ "sub": "bob", "aud": ["other", "taskflow"] })).await;
        assert_ne!(bob.expect("good").user, ada.user);
        assert_ne!(user_of("https://id.example/realms/homea", "da"), ada.user);
        assert_eq!(
            bench.says(&json!({ "sub": 7 })).await.expect("good").user,
            user_of(ISSUER, "7")
        );
        assert_eq!(bench.asked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_token_says_must_be_right() {
        let bench = Bench::new(rsa_published());
        let now = bench.clock.now_ms() / 1_000;
        for wrong in [
            json!({ "aud": "another" }),
            json!({ "aud": ["another"] }),
            json!({ "aud": null }),
            json!({ "exp": null }),
            json!({ "exp": "tomorrow" }),
            json!({ "exp": -1 }),
            json!({ "exp": 1e300 }),
            json!({ "nbf": now + 120 }),
            json!({ "iat": now + 120 }),
            json!({ "nbf": "now" }),
            json!({ "sub": null }),
            json!({ "sub": "" }),
            json!({ "sub": "a".repeat(1_025) }),
            json!({ "sub": { "a": 1 } }),
            json!({ "sub": 1.5 }),
        ] {
            assert_eq!(bench.says(&wrong).await, Err(Code::TokenInvalid), "{wrong}");
        }
        // Clocks are a little apart, and some have parts of seconds.
        assert!(bench.says(&json!({ "nbf": now + 50, "iat": now + 50 })).await.is_ok());
        let parts = bench.says(&json!({ "exp": 1_900_000_000.5 })).await.expect("good");
        assert_eq!(parts.expires_at, 1_900_000_000_500);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_the_issuer_signed_is_taken() {
        let keys = json!([
            published(&rsa(), Algorithm::RS256, "1"),
            published(&ec(), Algorithm::ES256, "2"),
            { "kty": "oct", "kid": "3", "k": "AAAA" },
            "no key",
        ]);
        let bench = Bench::new(keys.clone());
        let token = bench.token(&ec(), Algorithm::ES256, "2", &json!({}));
        assert!(bench.verify(&token).await.is_ok());

        // With the public half, or what everybody can read, as a secret in common.
        let n = keys[0]["n"].as_str().expect("a number").to_owned();
        let shared = [
            n.as_bytes().to_vec(),
            URL_SAFE_NO_PAD.decode(&n).expect("base64"),
            vec![0; 3],
            Vec::new(),
        ];
        for secret in shared {
            for id in ["1", "2", "3"] {
                let token = bench.token(&EncodingKey::from_secret(&secret), Algorithm::HS256, id, &json!({}));
                assert_eq!(bench.verify(&token).await, Err(Code::TokenInvalid), "{id}");
            }
        }
        // By the key of another id, and in a way that the key does not say.
        for (key, algorithm, id) in [
            (ec(), Algorithm::ES256, "1"),
            (rsa(), Algorithm::RS256, "2"),
            (rsa(), Algorithm::PS256, "1"),
        ] {
            let token = bench.token(&key, algorithm, id, &json!({}));
            assert_eq!(
                bench.verify(&token).await,
                Err(Code::TokenInvalid),
                "{algorithm:?} {id}"
            );
        }
        // Signed by nobody, or with another body.
        let token = bench.token(&rsa(), Algorithm::RS256, "1", &json!({}));
        let parts: Vec<&str> = token.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"1"}"#);
        let other = bench.token(&rsa(), Algorithm::RS256, "1", &json!({ "sub": "bob" }));
        let other = other.split('.').nth(1).expect("a body");
        for forged in [
            format!("{none}.{}.", parts[1]),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{}.{other}.{}", parts[0], parts[2]),
        ] {
            assert_eq!(bench.verify(&forged).await, Err(Code::TokenInvalid), "{forged}");
        }
        assert!(bench.verify(&token).await.is_ok());
    }

    #[test]
    fn a_key_that_encrypts_signs_nothing() {
        let mut key = published(&rsa(), Algorithm::RS256, "1");
        key["use"] = json!("enc");
        assert!(parse(&json!({ "keys": [key] }).to_string()).expect("a set").is_empty());
        key["use"] = json!("sig");
        key.as_object_mut().expect("a key").remove("alg");
        let keys = parse(&json!({ "keys": [key] }).to_string()).expect("a set");
        assert_eq!(keys["1"].algorithms.len(), 6, "it does not say in which way");
        assert!(parse("[]").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_of_none_of_them_is_left_to_others() {
        let bench = Bench::new(rsa_published());
        let other = bench.token(
            &rsa(),
            Algorithm::RS256,
            "1",
            &json!({ "iss": "https://id.example/realms/home2" }),
        );
        for text in [other.as_str(), "", ".", "a.b.c", "tfp_x", "a.e30.c"] {
            assert_eq!(bench.issuers.verify(text).await, None, "{text}");
        }
        assert_eq!(bench.asked(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_keys_cost_one_request_in_a_while() {
        let bench = Bench::new(rsa_published());
        let all = (0..1_000).map(|n| {
            let (issuers, id) = (bench.issuers.clone(), n.to_string());
            let token = bench.token(&ec(), Algorithm::ES256, &format!("made up {id}"), &json!({}));
            tokio::spawn(async move { issuers.verify(&token).await })
        });
        for one in all.collect::<Vec<_>>() {
            assert_eq!(one.await.expect("no panic"), Some(Err(Code::TokenInvalid)));
        }
        assert_eq!(bench.asked(), 1);
        assert!(bench.says(&json!({})).await.is_ok(), "and nobody else minds");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_key_is_found_and_a_withdrawn_one_is_refused() {
        let bench = Bench::new(rsa_published());
        assert!(bench.says(&json!({})).await.is_ok());
        bench.publishes(Ok(json!([published(&ec(), Algorithm::ES256, "2")])));
        tokio::time::advance(FETCH_PAUSE).await;
        let new = bench.token(&ec(), Algorithm::ES256, "2", &json!({}));
        assert!(bench.verify(&new).await.is_ok());
        assert_eq!(bench.says(&json!({})).await, Err(Code::TokenInvalid));

        bench.publishes(Ok(rsa_published()));
        assert!(bench.verify(&new).await.is_ok());
        tokio::time::advance(KEYS_KEPT).await;
        assert_eq!(bench.verify(&new).await, Err(Code::TokenInvalid));
    }

    #[tokio::test(start_paused = true)]
    async fn an_issuer_that_is_away_is_no_reason_to_forget_its_keys() {
        let bench = Bench::new(rsa_published());
        bench.publishes(Err("connection refused"));
        assert_eq!(bench.says(&json!({})).await, Err(Code::IssuerUnavailable));
        bench.publishes(Ok(rsa_published()));
        assert_eq!(
            bench.says(&json!({})).await,
            Err(Code::IssuerUnavailable),
            "it is asked again a little later"
        );
        tokio::time::advance(FETCH_PAUSE).await;
        assert!(bench.says(&json!({})).await.is_ok());

        for answer in [Err("connection refused"), Ok(json!("no set"))] {
            bench.publishes(answer);
            tokio::time::advance(KEYS_KEPT).await;
            assert!(bench.says(&json!({})).await.is_ok());
            let unknown = bench.token(&ec(), Algorithm::ES256, "2", &json!({}));
            assert_eq!(bench.verify(&unknown).await, Err(Code::TokenInvalid));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_and_goes_away_keeps_nobody_from_the_answer() {
        let bench = Bench::new(rsa_published());
        let token = bench.token(&rsa(), Algorithm::RS256, "1", &json!({}));
        let gone = tokio::time::timeout(Duration::from_millis(10), bench.issuers.verify(&token)).await;
        assert!(gone.is_err());
        assert!(bench.verify(&token).await.is_ok());
        assert_eq!(bench.asked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_known_key_is_good_while_somebody_asks_whether_it_still_is() {
        let bench = Bench::new(rsa_published());
        let token = bench.token(&rsa(), Algorithm::RS256, "1", &json!({}));
        assert!(bench.verify(&token).await.is_ok());
        tokio::time::advance(KEYS_KEPT).await;
        let (issuers, same) = (bench.issuers.clone(), token.clone());
        let asking = tokio::spawn(async move { issuers.verify(&same).await });
        tokio::task::yield_now().await;
        let before = Instant::now();
        assert!(bench.verify(&token).await.is_ok());
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert!(asking.await.expect("no panic").expect("ours").is_ok());
        assert_eq!(bench.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn scopes_say_what_may_be_done_where_the_operator_says_so() {
        let bench = Bench::with(rsa_published(), |settings| {
            settings.scope_claim = "scope".to_owned();
            settings.user_claim = "email".to_owned();
        });
        for (scopes, expected) in [
            (json!("openid tasks:read"), Ok(Access::Read)),
            (json!("tasks:write"), Ok(Access::Write)),
            (json!(["tasks:read", "tasks:write"]), Ok(Access::Write)),
            (json!("openid"), Err(Code::ScopeMissing)),
            (json!(null), Err(Code::ScopeMissing)),
            (json!(7), Err(Code::ScopeMissing)),
        ] {
            let said = bench
                .says(&json!({ "scope": scopes, "email": "ada@example.org" }))
                .await;
            assert_eq!(said.map(|claims| claims.access), expected, "{scopes}");
        }
        let said = bench
            .says(&json!({ "scope": "tasks:read", "email": "ada@example.org" }))
            .await;
        assert_eq!(said.expect("good").user, user_of(ISSUER, "ada@example.org"));
    }
}
