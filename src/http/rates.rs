//! How much somebody may ask for: what a user reads and changes, and what comes from an address without a good token.
//!
//! Each is a rate that may be kept up for ever, and what was not used of it in the last [`BURST_SECONDS`] on top (GCRA, by the
//! crate governor). Each node counts alone: whoever spreads over all nodes of a cluster gets as much from each.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota as Rate, RateLimiter};
use sha2::{Digest as _, Sha256};
use taskflow_protocol::message::ErrorBody;
use taskflow_protocol::{Code, UserId};
use uuid::Uuid;

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

type Limiter = RateLimiter<u128, DefaultKeyedStateStore<u128>, DefaultClock, StateInformationMiddleware>;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Requests of a user that change nothing.
    Reads,
    /// Operations of a user, however they come.
    Writes,
    /// Requests and handshakes from an address, without a token or with a bad one.
    Strangers,
    /// Uses of the refresh tokens of one sign-in, from an address.
    Refreshes,
}

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
}

/// It was too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuch {
    /// Milliseconds until it is not.
    pub wait_ms: u32,
    quota: Quota,
}

impl Rates {
    /// As these settings say.
    pub fn new(live: Arc<Live>, metrics: Arc<Metrics>) -> Self {
        let config: &Config = &live.now();
        let limiter = |a_second: u32| {
            let a_second = NonZeroU32::new(a_second)?;
            let burst = a_second.saturating_mul(NonZeroU32::MIN.saturating_add(BURST_SECONDS - 1));
            Some(RateLimiter::keyed(Rate::per_second(a_second).allow_burst(burst)).with_middleware())
        };
        Self {
            reads: limiter(config.reads_a_second_max),
            writes: limiter(config.writes_a_second_max),
            strangers: limiter(config.strangers_a_second_max),
            refreshes: limiter(REFRESHES_A_SECOND_MAX),
            live,
            metrics,
        }
    }

    /// Forgets who has not asked lately, for as long as the node runs.
    pub async fn forget(self: Arc<Self>) {
        loop {
            tokio::time::sleep(FORGET_EVERY).await;
            for limiter in [&self.reads, &self.writes, &self.strangers, &self.refreshes]
                .into_iter()
                .flatten()
            {
                limiter.retain_recent();
                limiter.shrink_to_fit();
            }
        }
    }

    /// A user asks for so much. What is left, where there is a limit.
    pub fn user(&self, asked: Asked, user: UserId, count: usize) -> Result<Option<Quota>, TooMuch> {
        self.check(asked, user.0.as_u128(), count)
    }

    /// Somebody at this address asks for something.
    pub fn stranger(&self, address: Option<IpAddr>) -> Result<Option<Quota>, TooMuch> {
        let key = match address.map(|address| address.to_canonical()) {
            None => return Ok(None),
            Some(IpAddr::V4(address)) => u128::from(address.to_bits()),
            // Whoever has one has all of a /64 (RFC 6177).
            Some(IpAddr::V6(address)) => address.to_bits() >> 64 << 64,
        };
        self.check(Asked::Strangers, key, 1)
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
        let limiter = match asked {
            Asked::Reads => &self.reads,
            Asked::Writes => &self.writes,
            Asked::Strangers => &self.strangers,
            Asked::Refreshes => &self.refreshes,
        };
        let (Some(limiter), Some(count)) = (limiter, u32::try_from(count).ok().and_then(NonZeroU32::new)) else {
            return Ok(None);
        };
        // What is more than a whole burst never fits: it is taken for one.
        let burst = self.burst(asked);
        let count = count.min(burst);
        let quota = |left: u32| Quota {
            name: asked.name(),
            window_ms: i64::from(BURST_SECONDS) * 1_000,
            max: burst.get() as usize,
            left: left as usize,
            more_in_ms: if left < burst.get() { 1_000 } else { 0 },
        };
        match limiter.check_key_n(&key, count) {
            Ok(Ok(state)) => Ok(Some(quota(state.remaining_burst_capacity()))),
            Ok(Err(not_until)) => {
                self.metrics.limited.of(asked.into()).increment(1);
                if self.live.now().rate_limits == RateLimits::Count {
                    return Ok(None);
                }
                let wait = not_until.wait_time_from(DefaultClock::default().now());
                let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
                Err(TooMuch {
                    wait_ms,
                    quota: Quota {
                        more_in_ms: wait_ms.into(),
                        ..quota(0)
                    },
                })
            }
            Err(_) => Ok(None),
        }
    }

    fn burst(&self, asked: Asked) -> NonZeroU32 {
        let config = self.live.now();
        let a_second = match asked {
            Asked::Reads => config.reads_a_second_max,
            Asked::Writes => config.writes_a_second_max,
            Asked::Strangers => config.strangers_a_second_max,
            Asked::Refreshes => REFRESHES_A_SECOND_MAX,
        };
        NonZeroU32::new(a_second.saturating_mul(BURST_SECONDS)).unwrap_or(NonZeroU32::MIN)
    }
}

impl TooMuch {
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
    use crate::telemetry::Telemetry;

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
    fn where_limits_are_only_counted_all_pass() {
        let rates = rates(RateLimits::Count);
        assert!((0..100).all(|_| rates.user(Asked::Reads, ADA, 1).is_ok()));
    }
}
