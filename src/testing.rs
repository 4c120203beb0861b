//! Doubles for tests of the server's own parts: a clock that stands still, accounts in memory, an application over the
//! real feeds on a store in memory.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_rt::Arbiter;
use actix_web::web;
use taskflow_actors::feed::Writers;
use taskflow_actors::memory::{self, MemoryStore};
use taskflow_actors::ports::{
    Account, AccountError, Accounts, BoxFuture, Clock, Deletion, Device, Epoch, Note, SignIn,
};
use taskflow_actors::supervisor::{Ports, Supervisor, Unobserved};
use taskflow_protocol::UserId;
use taskflow_protocol::values::UnixMs;
use tokio::sync::{Notify, Semaphore, watch};
use uuid::Uuid;

use crate::auth::{Deletions, Key, Keys, SignIns, Tokens};
use crate::config::{Config, Live};
use crate::http::attempts::Attempts;
use crate::http::rates::Rates;
use crate::http::seats::Seats;
use crate::http::{Api, Leaving};
use crate::mail::Letters;
use crate::overload::Overload;
use crate::socket::Hub;
use crate::telemetry::Telemetry;

/// A clock that stands still until it is set.
#[derive(Debug)]
pub struct TestClock(AtomicI64);

impl TestClock {
    /// Some moment in 2026.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(1_780_000_000_000)))
    }

    /// Moves it on.
    pub fn advance_ms(&self, by: i64) {
        self.0.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> UnixMs {
        self.0.load(Ordering::SeqCst)
    }
}

/// Accounts in memory that count look-ups, and fail when told to.
#[derive(Debug, Default)]
pub struct MemoryAccounts {
    inner: memory::MemoryAccounts,
    /// How often a sign-in was looked up.
    pub look_ups: AtomicUsize,
    failure: Mutex<Option<AccountError>>,
}

impl MemoryAccounts {
    /// Everything fails like this from now on; `None`: no more.
    pub fn fail(&self, failure: Option<AccountError>) {
        *lock(&self.failure) = failure;
    }

    fn answer<T: Send + 'static>(
        &self,
        work: impl FnOnce(&memory::MemoryAccounts) -> BoxFuture<Result<T, AccountError>>,
    ) -> BoxFuture<Result<T, AccountError>> {
        match lock(&self.failure).clone() {
            Some(failure) => Box::pin(std::future::ready(Err(failure))),
            None => work(&self.inner),
        }
    }
}

impl Accounts for MemoryAccounts {
    fn create_account(&self, account: Account) -> BoxFuture<Result<(), AccountError>> {
        self.answer(|inner| inner.create_account(account))
    }

    fn account_by_email(&self, email: String) -> BoxFuture<Result<Option<Account>, AccountError>> {
        self.answer(|inner| inner.account_by_email(email))
    }

    fn replace_password(&self, email: String, expected: String, hash: String) -> BoxFuture<Result<bool, AccountError>> {
        self.answer(|inner| inner.replace_password(email, expected, hash))
    }

    fn change_email(&self, email: String, expected: String, new: String) -> BoxFuture<Result<bool, AccountError>> {
        self.answer(|inner| inner.change_email(email, expected, new))
    }

    fn set_deletion(
        &self,
        email: String,
        user: UserId,
        expected: Option<UnixMs>,
        deletes_at: Option<UnixMs>,
    ) -> BoxFuture<Result<bool, AccountError>> {
        self.answer(|inner| inner.set_deletion(email, user, expected, deletes_at))
    }

    fn deletions_due(&self, now: UnixMs) -> BoxFuture<Result<Vec<Deletion>, AccountError>> {
        self.answer(|inner| inner.deletions_due(now))
    }

    fn remove_account(&self, deletion: Deletion) -> BoxFuture<Result<(), AccountError>> {
        self.answer(|inner| inner.remove_account(deletion))
    }

    fn note(&self, user: UserId, note: Note) -> BoxFuture<Result<(), AccountError>> {
        self.answer(|inner| inner.note(user, note))
    }

    fn history(
        &self,
        user: UserId,
        before: Option<(UnixMs, Uuid)>,
        count: usize,
    ) -> BoxFuture<Result<Vec<Note>, AccountError>> {
        self.answer(|inner| inner.history(user, before, count))
    }

    fn create_sign_in(&self, sign_in: SignIn, device: Device) -> BoxFuture<Result<(), AccountError>> {
        self.answer(|inner| inner.create_sign_in(sign_in, device))
    }

    fn sign_in(&self, id: Uuid) -> BoxFuture<Result<Option<SignIn>, AccountError>> {
        self.look_ups.fetch_add(1, Ordering::SeqCst);
        self.answer(|inner| inner.sign_in(id))
    }

    fn sign_ins_of(&self, user: UserId) -> BoxFuture<Result<Vec<(SignIn, Device)>, AccountError>> {
        self.answer(|inner| inner.sign_ins_of(user))
    }

    fn replace_sign_in(
        &self,
        expected: [u8; 32],
        sign_in: SignIn,
        address: String,
    ) -> BoxFuture<Result<bool, AccountError>> {
        self.answer(|inner| inner.replace_sign_in(expected, sign_in, address))
    }

    fn end_sign_in(&self, user: UserId, id: Uuid) -> BoxFuture<Result<(), AccountError>> {
        self.answer(|inner| inner.end_sign_in(user, id))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tokens over accounts in memory.
pub struct AuthBench {
    /// The clock.
    pub clock: Arc<TestClock>,
    /// The accounts.
    pub accounts: Arc<MemoryAccounts>,
    /// The keys.
    pub keys: Keys,
    /// The tokens.
    pub tokens: Arc<Tokens>,
}

impl Default for AuthBench {
    /// With a new key.
    fn default() -> Self {
        Self::with(Keys::of(Key::random()), TestClock::new(), Arc::default())
    }
}

impl AuthBench {
    /// As after a restart: the same key, clock and accounts, nothing in memory.
    pub fn restarted(&self) -> Self {
        Self::with(self.keys.clone(), self.clock.clone(), self.accounts.clone())
    }

    fn with(keys: Keys, clock: Arc<TestClock>, accounts: Arc<MemoryAccounts>) -> Self {
        let tokens = Tokens::new(keys.clone(), 900, clock.clone(), accounts.clone());
        Self {
            clock,
            accounts,
            keys,
            tokens: Arc::new(tokens),
        }
    }

    /// The key that signs.
    pub fn key(&self) -> &Key {
        self.keys.at(0)
    }

    /// Sign-ins over the same.
    pub fn sign_ins(&self) -> Arc<SignIns> {
        Arc::new(SignIns::new(
            self.accounts.clone(),
            self.tokens.clone(),
            self.clock.clone(),
            30,
        ))
    }
}

/// The data of an application whose feeds run, and what a test turns to change it.
pub struct ApiBench {
    /// The data.
    pub api: web::Data<Api>,
    /// Sign-in.
    pub auth: AuthBench,
    /// The store under the feeds.
    pub store: Arc<MemoryStore>,
    /// What feeds push to.
    pub hub: Arc<Hub>,
    /// Says that the server stops.
    pub leaving: watch::Sender<Option<Leaving>>,
    arbiter: Arbiter,
}

impl ApiBench {
    /// With these settings.
    pub fn new(config: Config) -> Self {
        let auth = AuthBench::default();
        let store = Arc::new(MemoryStore::default());
        let hub = Arc::new(Hub::new(1));
        let arbiter = Arbiter::new();
        let ports = Ports {
            store: store.clone(),
            push: hub.clone(),
            clock: auth.clock.clone(),
            writers: Writers::One,
            observer: Arc::new(Unobserved),
            tracer: Arc::new(()),
            new_epoch: Box::new(|| Epoch(rand::random())),
            feed_idle: Duration::from_secs(60),
        };
        let router = Supervisor::start(ports, &[arbiter.handle()], rand::random);
        let (leaving, leaving_seen) = watch::channel(None);
        let metrics = Telemetry::new().metrics;
        let sign_ins = auth.sign_ins();
        let overload = Arc::new(Overload::new(Arc::new(Live::new(config.clone())), metrics.clone()));
        let api = web::Data::new(Api {
            tokens: auth.tokens.clone(),
            sign_ins: sign_ins.clone(),
            deletions: Arc::new(Deletions {
                accounts: auth.accounts.clone(),
                store: store.clone(),
                router: router.clone(),
                sign_ins,
                clock: auth.clock.clone(),
                now: Notify::new(),
            }),
            router,
            store: store.clone(),
            changes: hub.clone(),
            clock: auth.clock.clone(),
            seats: Arc::new(Seats::new(&config, metrics.clone(), || 0)),
            attempts: Arc::new(Attempts::new(config.sign_in_attempts_max)),
            letters: Arc::new(Letters::new(None, String::new(), metrics.clone())),
            rates: Arc::new(Rates::new(Arc::new(Live::new(config.clone())), metrics.clone())),
            config: Arc::new(Live::new(config)),
            metrics,
            traces: None,
            snapshots: Arc::new(Semaphore::new(2)),
            leaving: leaving_seen,
            stopping: Arc::default(),
            overload,
        });
        Self {
            api,
            auth,
            store,
            hub,
            leaving,
            arbiter,
        }
    }

    /// The server stops: event streams and long-polls end now.
    pub fn leave(&self) {
        let now = Leaving {
            from: tokio::time::Instant::now(),
            over: Duration::ZERO,
        };
        self.leaving.send_replace(Some(now));
    }

    /// A user with a feed, and a token of the user's.
    pub async fn user(&self) -> (UserId, String) {
        let user = UserId(Uuid::from_bytes(rand::random()));
        let birth = self
            .api
            .router
            .birth(user, "Europe/Berlin".to_owned(), "de-AT".to_owned());
        birth.await.expect("born");
        let token = Tokens::mint_for_operator(self.auth.key(), user, self.auth.clock.now_ms(), 3_600);
        (user, token)
    }
}

impl Drop for ApiBench {
    fn drop(&mut self) {
        self.arbiter.stop();
    }
}
