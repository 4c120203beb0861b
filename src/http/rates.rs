//! How much somebody may ask for: what a user reads and changes, and what comes from an address without a good token.
//!
//! Each is a rate that may be kept up for ever, and what was not used of it in the last [`BURST_SECONDS`] on top (GCRA, by the
//! crate governor). The nodes of a cluster tell each other each second of those who did much: what is done elsewhere is taken off
//! what is left here, if need be in advance. So whoever spreads over all nodes has the rate once in the long run, though a burst on
//! each. What a node does not hear it does not count.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::{NoOpMiddleware, StateInformationMiddleware};
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::{DefaultKeyedStateStore, ShrinkableKeyedStateStore};
use governor::{Quota as Rate, RateLimiter};
use sha2::{Digest as _, Sha256};
use taskflow_actors::ports::Spent;
use taskflow_protocol::message::ErrorBody;
use taskflow_protocol::{Code, UserId};
use uuid::Uuid;

use crate::auth::{Claims, Tokens};
use crate::config::{Config, Live, RateLimits};
use crate::http::attempts::Quota;
use crate::http::problem::Problem;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Limited;

/// Seconds of the rate that may come at once: an application that opens, or an import's next hundred tasks.
pub const BURST_SECONDS: u32 = 10;

/// Refreshes of one sign-in a second that go on for long: a client needs one in ten minutes, and a few at once when its tabs wake up.
const REFRESHES_A_SECOND_MAX: u32 = 1;

/// How often those who have not asked lately are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(10);

/// How often nodes tell each other.
pub const TELL_EVERY: Duration = Duration::from_secs(1);

/// Who did less than this part of the rate within that time is not told of: on as many nodes that is the rate once more.
pub const TOLD_FROM: u32 = 10;

/// Of one rate or limit so many are told of, those who did or have most: 12 KB a second.
pub const TOLD_MAX: usize = 500;

/// What governor remembers of each key, where what other nodes say can be added.
#[derive(Clone, Default)]
struct States(Arc<DefaultKeyedStateStore<u128>>);

impl StateStore for States {
    type Key = u128;

    fn measure_and_replace<T, F, E>(&self, key: &u128, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.0.measure_and_replace(key, decide)
    }
}

impl ShrinkableKeyedStateStore<u128> for States {
    fn retain_recent(&self, drop_below: Nanos) {
        self.0.retain_recent(drop_below);
    }

    fn shrink_to_fit(&self) {
        self.0.shrink_to_fit();
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

struct Limiter {
    a_second: NonZeroU32,
    limiter: RateLimiter<u128, States, DefaultClock, StateInformationMiddleware>,
    states: States,
    /// When the limiter's time began.
    began: <DefaultClock as Clock>::Instant,
    /// What passed since the others were told, if there are others.
    spent: Mutex<HashMap<u128, u32>>,
}

impl Limiter {
    /// `None`: there is no limit.
    fn new(a_second: u32) -> Option<Self> {
        let a_second = NonZeroU32::new(a_second)?;
        let (states, clock) = (States::default(), DefaultClock::default());
        let quota = Rate::per_second(a_second).allow_burst(burst(a_second));
        let began = clock.now();
        Some(Self {
            a_second,
            limiter: RateLimiter::<_, _, _, NoOpMiddleware>::new(quota, states.clone(), clock).with_middleware(),
            states,
            began,
            spent: Mutex::default(),
        })
    }

    /// Takes what was done elsewhere off what is left here.
    fn charge(&self, key: u128, count: u32) {
        let each = 1_000_000_000 / u64::from(self.a_second.get());
        let now = Nanos::from(self.began.elapsed()).as_u64();
        // Of what is wrong with such a word nobody suffers for longer than two bursts.
        let latest = now + 2 * u64::from(BURST_SECONDS) * 1_000_000_000;
        let charged = self.states.measure_and_replace(&key, |used_up_to| {
            let from = used_up_to.map_or(now, Nanos::as_u64).max(now);
            let upto = from
                .saturating_add(each.saturating_mul(count.into()))
                .min(latest.max(from));
            Ok::<_, Infallible>(((), Nanos::new(upto)))
        });
        let Ok(()) = charged;
    }

    /// How long this key has to wait until the next one passes, if it has to.
    fn wait(&self, key: u128) -> Option<Duration> {
        let each = 1_000_000_000 / u64::from(self.a_second.get());
        // What may be used in advance, beside the one that is asked for.
        let others = each * u64::from(burst(self.a_second).get() - 1);
        let now = Nanos::from(self.began.elapsed()).as_u64();
        let read = |used_up_to: Option<Nanos>| Err::<((), Nanos), _>(used_up_to);
        // An error leaves the state as it is.
        let used_up_to = self.states.measure_and_replace(&key, read).err().flatten()?;
        let wait = used_up_to.as_u64().saturating_sub(now + others);
        (wait > 0).then_some(Duration::from_nanos(wait))
    }

    fn quota(&self, asked: Asked, left: u32, more_in_ms: i64) -> Quota {
        Quota {
            name: asked.name(),
            window_ms: i64::from(BURST_SECONDS) * 1_000,
            max: burst(self.a_second).get() as usize,
            left: left as usize,
            more_in_ms,
        }
    }

    fn take_spent(&self) -> Vec<(u128, u32)> {
        let spent = std::mem::take(&mut *lock(&self.spent));
        let least = (self.a_second.get() / TOLD_FROM).max(1);
        let mut much: Vec<_> = spent.into_iter().filter(|(_, count)| *count >= least).collect();
        much.sort_unstable_by_key(|(_, count)| Reverse(*count));
        much.truncate(TOLD_MAX);
        much
    }
}

fn lock(spent: &Mutex<HashMap<u128, u32>>) -> MutexGuard<'_, HashMap<u128, u32>> {
    spent.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key_of(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        // Whoever has one has all of a /64 (RFC 6177).
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

fn burst(a_second: NonZeroU32) -> NonZeroU32 {
    a_second.saturating_mul(NonZeroU32::MIN.saturating_add(BURST_SECONDS - 1))
}

/// What is limited. The numbers go over the bus, where [`HELD`](crate::http::seats::HELD) is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Asked {
    /// Requests of a user that change nothing.
    Reads = 1,
    /// Operations of a user, however they come.
    Writes = 2,
    /// Requests and handshakes from an address, without a token or with a bad one.
    Strangers = 3,
    /// Uses of the refresh tokens of one sign-in, from an address.
    Refreshes = 4,
}

const ALL: [Asked; 4] = [Asked::Reads, Asked::Writes, Asked::Strangers, Asked::Refreshes];

impl Asked {
    fn name(self) -> &'static str {
        match self {
            Self::Reads => "reads",
            Self::Writes => "writes",
            Self::Strangers => "strangers",
            Self::Refreshes => "refreshes",
        }
    }
}

/// See the module.
pub struct Rates {
    live: Arc<Live>,
    metrics: Arc<Metrics>,
    reads: Option<Limiter>,
    writes: Option<Limiter>,
    strangers: Option<Limiter>,
    refreshes: Option<Limiter>,
    /// There are other nodes.
    is_shared: AtomicBool,
}

/// It was too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuch {
    /// Milliseconds until it is not.
    pub wait_ms: u32,
    quota: Quota,
}

/// A token does not open anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Why.
    Code(Code),
    /// There were too many bad ones.
    TooMuch(TooMuch),
}

impl Rates {
    /// As these settings say.
    pub fn new(live: Arc<Live>, metrics: Arc<Metrics>) -> Self {
        let config: &Config = &live.now();
        Self {
            reads: Limiter::new(config.reads_a_second_max),
            writes: Limiter::new(config.writes_a_second_max),
            strangers: Limiter::new(config.strangers_a_second_max),
            refreshes: Limiter::new(REFRESHES_A_SECOND_MAX),
            is_shared: AtomicBool::new(false),
            live,
            metrics,
        }
    }

    /// Forgets who has not asked lately, for as long as the node runs.
    pub async fn forget(self: Arc<Self>) {
        loop {
            tokio::time::sleep(FORGET_EVERY).await;
            for limiter in ALL.into_iter().filter_map(|asked| self.limiter(asked)) {
                limiter.limiter.retain_recent();
                limiter.limiter.shrink_to_fit();
            }
        }
    }

    /// How many users, addresses and sign-ins are counted.
    pub fn counted(&self) -> usize {
        let limiters = ALL.into_iter().filter_map(|asked| self.limiter(asked));
        limiters.map(|limiter| limiter.states.len()).sum()
    }

    /// Tells the other nodes, for as long as the node runs.
    pub async fn share(self: Arc<Self>, tell: impl Fn(Vec<Spent>)) {
        self.is_shared.store(true, Ordering::Relaxed);
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            let spent = self.take_spent();
            if !spent.is_empty() {
                tell(spent);
            }
        }
    }

    fn take_spent(&self) -> Vec<Spent> {
        let all = ALL.into_iter().filter_map(|asked| Some((asked, self.limiter(asked)?)));
        let spent = all.flat_map(|(asked, limiter)| {
            let spent = limiter.take_spent().into_iter();
            spent.map(move |(key, count)| Spent(asked as u8, key, count))
        });
        spent.collect()
    }

    /// Another node has told of these.
    pub fn heard(&self, spent: &[Spent]) {
        for Spent(what, key, count) in spent {
            let asked = ALL.into_iter().find(|asked| *asked as u8 == *what);
            if let Some(limiter) = asked.and_then(|asked| self.limiter(asked)) {
                limiter.charge(*key, *count);
            }
        }
    }

    fn limiter(&self, asked: Asked) -> Option<&Limiter> {
        match asked {
            Asked::Reads => self.reads.as_ref(),
            Asked::Writes => self.writes.as_ref(),
            Asked::Strangers => self.strangers.as_ref(),
            Asked::Refreshes => self.refreshes.as_ref(),
        }
    }

    /// A user asks for so much. What is left, where there is a limit.
    pub fn user(&self, asked: Asked, user: UserId, count: usize) -> Result<Option<Quota>, TooMuch> {
        self.check(asked, user.0.as_u128(), count)
    }

    /// Somebody at this address asks for something.
    pub fn stranger(&self, address: Option<IpAddr>) -> Result<Option<Quota>, TooMuch> {
        match address {
            None => Ok(None),
            Some(address) => self.check(Asked::Strangers, key_of(address), 1),
        }
    }

    /// Whose token this is. Whoever brings a bad one is a stranger; and for those who may ask for nothing more, nobody else is
    /// asked whose it is. What others cannot answer is nobody's fault.
    pub async fn claims(
        &self,
        tokens: &Tokens,
        token: &str,
        address: impl Fn() -> Option<IpAddr>,
    ) -> Result<Claims, Denied> {
        let claims = match tokens.verify_cached(token) {
            Some(known) => known,
            None => {
                if tokens.asks_others(token) {
                    self.may_stranger(address()).map_err(Denied::TooMuch)?;
                }
                tokens.verify_anew(token).await
            }
        };
        match claims {
            Ok(claims) => Ok(claims),
            Err(code) if code.http_status() == 503 => Err(Denied::Code(code)),
            Err(code) => match self.stranger(address()) {
                Ok(_) => Err(Denied::Code(code)),
                Err(too_much) => Err(Denied::TooMuch(too_much)),
            },
        }
    }

    /// Whether a stranger at this address may ask for something; nothing is counted.
    fn may_stranger(&self, address: Option<IpAddr>) -> Result<(), TooMuch> {
        let (Some(limiter), Some(key)) = (&self.strangers, address.map(key_of)) else {
            return Ok(());
        };
        match limiter.wait(key) {
            Some(wait) if self.live.now().rate_limits == RateLimits::Enforce => {
                self.metrics.limited.of(Limited::Strangers).inc();
                Err(TooMuch::until(Asked::Strangers, limiter, wait))
            }
            _ => Ok(()),
        }
    }

    /// Somebody at this address uses a refresh token that names this sign-in. Whether it is a good one is not known yet: so nobody
    /// uses up what the owner has elsewhere.
    pub fn refresh(&self, address: Option<IpAddr>, sign_in: Uuid) -> Result<(), TooMuch> {
        let address = address.map_or_else(String::new, |address| address.to_canonical().to_string());
        let hash = Sha256::digest([sign_in.as_bytes(), address.as_bytes()].concat());
        let mut key = [0; 16];
        key.copy_from_slice(&hash[..16]);
        self.check(Asked::Refreshes, u128::from_be_bytes(key), 1).map(drop)
    }

    fn check(&self, asked: Asked, key: u128, count: usize) -> Result<Option<Quota>, TooMuch> {
        let (Some(limiter), Some(count)) = (self.limiter(asked), u32::try_from(count).ok().and_then(NonZeroU32::new))
        else {
            return Ok(None);
        };
        // What is more than a whole burst never fits: it is taken for one.
        let burst = burst(limiter.a_second);
        let count = count.min(burst);
        match limiter.limiter.check_key_n(&key, count) {
            Ok(Ok(state)) => {
                if self.is_shared.load(Ordering::Relaxed) {
                    *lock(&limiter.spent).entry(key).or_default() += count.get();
                }
                let left = state.remaining_burst_capacity();
                let more_in_ms = if left < burst.get() { 1_000 } else { 0 };
                Ok(Some(limiter.quota(asked, left, more_in_ms)))
            }
            Ok(Err(not_until)) => {
                self.metrics.limited.of(asked.into()).inc();
                if self.live.now().rate_limits == RateLimits::Count {
                    return Ok(None);
                }
                let wait = not_until.wait_time_from(DefaultClock::default().now());
                Err(TooMuch::until(asked, limiter, wait))
            }
            Err(_) => Ok(None),
        }
    }
}

impl TooMuch {
    fn until(asked: Asked, limiter: &Limiter, wait: Duration) -> Self {
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
        Self {
            wait_ms,
            quota: limiter.quota(asked, 0, wait_ms.into()),
        }
    }

    /// As an error on a WebSocket.
    pub fn error(self) -> ErrorBody {
        let mut error = ErrorBody::new(Code::RateLimited);
        error.retry_after_ms = Some(self.wait_ms.max(Code::RateLimited.retry_after_ms().unwrap_or(0)));
        error
    }

    /// As an answer; what is left goes into its header.
    pub fn problem(self, extensions: &mut actix_web::dev::Extensions) -> Problem {
        extensions.insert(self.quota);
        Problem::new(Code::RateLimited).retry_after_ms(self.wait_ms)
    }
}

impl From<Asked> for Limited {
    fn from(asked: Asked) -> Self {
        match asked {
            Asked::Reads => Self::Reads,
            Asked::Writes => Self::Writes,
            Asked::Strangers => Self::Strangers,
            Asked::Refreshes => Self::Refreshes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::seats::HELD;
    use crate::telemetry::Telemetry;
    use crate::testing::AuthBench;
    use taskflow_actors::ports::AccountError;

    fn rates(mode: RateLimits) -> Rates {
        let config = Config {
            reads_a_second_max: 1,
            writes_a_second_max: 0,
            strangers_a_second_max: 1,
            rate_limits: mode,
            ..Config::default()
        };
        Rates::new(Arc::new(Live::new(config)), Telemetry::new().metrics)
    }

    const ADA: UserId = UserId(Uuid::from_u128(1));
    const BOB: UserId = UserId(Uuid::from_u128(2));

    #[test]
    fn each_user_has_a_burst_and_is_told_when_there_is_more() {
        let rates = rates(RateLimits::Enforce);
        for left in (0..10).rev() {
            let quota = rates.user(Asked::Reads, ADA, 1).expect("it passes").expect("a limit");
            assert_eq!((quota.max, quota.left), (10, left));
        }
        let refused = rates.user(Asked::Reads, ADA, 1).expect_err("too much");
        assert!((1..=1_000).contains(&refused.wait_ms), "{refused:?}");
        assert!(rates.user(Asked::Reads, BOB, 1).is_ok(), "another has their own");
        assert_eq!(rates.user(Asked::Writes, ADA, 1_000_000), Ok(None), "there is no limit");
    }

    #[test]
    fn what_is_more_than_a_burst_passes_once_a_burst_is_there() {
        let rates = rates(RateLimits::Enforce);
        assert!(rates.user(Asked::Reads, ADA, 100).is_ok());
        assert!(rates.user(Asked::Reads, ADA, 1).is_err());
    }

    #[test]
    fn whether_a_stranger_may_ask_is_known_without_counting() {
        let at = Some("192.0.2.1".parse().expect("an address"));
        let strict = rates(RateLimits::Enforce);
        for _ in 0..10 {
            assert_eq!((strict.may_stranger(at), strict.may_stranger(at)), (Ok(()), Ok(())));
            assert!(strict.stranger(at).is_ok());
        }
        let refused = strict.may_stranger(at).expect_err("too much");
        assert!((1..=1_000).contains(&refused.wait_ms), "{refused:?}");
        assert!(strict.stranger(at).is_err());
        let counting = rates(RateLimits::Count);
        assert!((0..20).all(|_| counting.stranger(at).is_ok() && counting.may_stranger(at).is_ok()));
        assert_eq!(counting.may_stranger(None), Ok(()));
    }

    #[tokio::test]
    async fn an_outage_is_nobodys_fault() {
        let (bench, rates) = (AuthBench::default(), rates(RateLimits::Enforce));
        let at = || Some([192, 0, 2, 1].into());
        let token = bench.tokens.mint(ADA, Uuid::from_u128(1));
        // It knows of no sign-in yet, and there is none.
        let tokens = bench.restarted().tokens;
        let down = AccountError::Unavailable("planted".to_owned());
        bench.accounts.fail(Some(down));
        for _ in 0..20 {
            let denied = rates.claims(&tokens, &token, at).await.err();
            assert_eq!(denied, Some(Denied::Code(Code::StoreUnavailable)));
        }
        bench.accounts.fail(None);
        for _ in 0..10 {
            let denied = rates.claims(&tokens, &token, at).await.err();
            assert_eq!(denied, Some(Denied::Code(Code::SignedOut)), "nothing was counted");
        }
        let denied = rates.claims(&tokens, &token, at).await.err();
        assert!(matches!(denied, Some(Denied::TooMuch(_))), "{denied:?}");
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_nobody_is_none() {
        let rates = rates(RateLimits::Enforce);
        let at = |text: &str| Some(text.parse().expect("an address"));
        for n in 0..10 {
            assert!(rates.stranger(at(&format!("2001:db8::{n}"))).is_ok());
        }
        assert!(rates.stranger(at("2001:db8::ffff")).is_err());
        assert!(rates.stranger(at("2001:db8:0:1::1")).is_ok());
        assert!(rates.stranger(at("192.0.2.1")).is_ok());
        assert!((0..100).all(|_| rates.stranger(None).is_ok()));
    }

    #[test]
    fn a_sign_in_is_refreshed_once_a_second_and_nobody_elsewhere_uses_that_up() {
        let rates = rates(RateLimits::Enforce);
        let (here, there) = (Some([192, 0, 2, 1].into()), Some([192, 0, 2, 2].into()));
        assert!((0..10).all(|_| rates.refresh(here, Uuid::nil()).is_ok()));
        assert!(rates.refresh(here, Uuid::nil()).is_err());
        assert!(rates.refresh(there, Uuid::nil()).is_ok());
        assert!(rates.refresh(here, Uuid::max()).is_ok());
    }

    #[test]
    fn what_is_done_on_another_node_is_taken_off_what_is_left_here() {
        let (here, there) = (rates(RateLimits::Enforce), rates(RateLimits::Enforce));
        for rates in [&here, &there] {
            rates.is_shared.store(true, Ordering::Relaxed);
            assert!((0..10).all(|_| rates.user(Asked::Reads, ADA, 1).is_ok()));
        }
        there.heard(&here.take_spent());
        // In advance: ten seconds of what it had itself, and ten of what passed elsewhere.
        let refused = there.user(Asked::Reads, ADA, 1).expect_err("too much");
        assert!((9_000..=11_000).contains(&refused.wait_ms), "{refused:?}");
        assert!(there.user(Asked::Reads, BOB, 1).is_ok());
        assert!(
            there.stranger(Some([0, 0, 0, 1].into())).is_ok(),
            "the number of an address is not that of a user"
        );
        // Nobody is kept out for long by what a node says, and nothing is said twice.
        there.heard(&[Spent(Asked::Reads as u8, ADA.0.as_u128(), u32::MAX), Spent(99, 0, 1)]);
        let refused = there.user(Asked::Reads, ADA, 1).expect_err("too much");
        assert!(refused.wait_ms <= 11_000, "{refused:?}");
        assert_eq!(here.take_spent(), []);
        assert!(ALL.iter().all(|asked| *asked as u8 != HELD), "that is no rate");
    }

    #[test]
    fn only_those_who_do_much_are_told_of_and_those_who_do_most_first() {
        let config = Config {
            reads_a_second_max: 1_000,
            ..Config::default()
        };
        let rates = Rates::new(Arc::new(Live::new(config)), Telemetry::new().metrics);
        rates.is_shared.store(true, Ordering::Relaxed);
        for n in 0..2_000 {
            let user = UserId(Uuid::from_u128(n));
            assert!(rates.user(Asked::Reads, user, n as usize).is_ok());
        }
        let told = rates.take_spent();
        assert_eq!(told.len(), TOLD_MAX);
        assert!(
            told.iter()
                .all(|Spent(what, key, count)| *what == 1 && *key == u128::from(*count) && *count >= 1_500)
        );
        assert!(rates.user(Asked::Reads, ADA, 99).is_ok());
        assert_eq!(rates.take_spent(), [], "a tenth of the rate on ten nodes is the rate");
    }

    #[test]
    fn where_limits_are_only_counted_all_pass() {
        let rates = rates(RateLimits::Count);
        assert!((0..100).all(|_| rates.user(Asked::Reads, ADA, 1).is_ok()));
    }
}
