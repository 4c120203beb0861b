//! How often somebody may try to sign in: a limit for each network address and for each account.
//!
//! A sliding window, exact: within any stretch of its length no more than so many attempts pass, neither in a burst nor on
//! the long run. (A bucket that fills up again would let twice as many through in the first stretch.) What is refused is not
//! counted, so whoever waits as long as the answer says gets through.
//!
//! The nodes of a cluster tell each other of the attempts that pass ([`Attempts::heard`]). Without Redis each counts alone.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, OnceLock, PoisonError};

use sha2::{Digest, Sha256};
use taskflow_protocol::limits::SIGN_IN_WINDOW_MS;
use taskflow_protocol::values::UnixMs;

/// Addresses and accounts that are remembered: 100,000 with their attempts are 25 MB. Where more come within a window, those
/// whose last attempt is the oldest are forgotten.
const KEYS_MAX: usize = 100_000;

/// Of the limit, in headers.
const NAME: &str = "sign-in";

/// What attempts are counted for: the first half of a SHA-256, so that no address or e-mail is kept or sent.
pub type Key = u128;

/// What is left of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Of what.
    pub name: &'static str,
    /// How long a window is, in milliseconds.
    pub window_ms: i64,
    /// Attempts in a window.
    pub max: usize,
    /// Attempts that are left.
    pub left: usize,
    /// Milliseconds until there is one more.
    pub more_in_ms: i64,
}

/// Whether an attempt may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is no limit.
    Free,
    /// It may; this is left.
    Passed(Quota),
    /// It may not.
    Refused(Quota),
}

/// Hears of the attempts that pass, to tell the other nodes.
type OnPass = Box<dyn Fn(&[Key]) + Send + Sync>;

/// See the module.
pub struct Attempts {
    max: usize,
    seen: Mutex<HashMap<Key, VecDeque<UnixMs>>>,
    on_pass: OnceLock<OnPass>,
}

impl Attempts {
    /// So many in a window; 0: any number.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            seen: Mutex::default(),
            on_pass: OnceLock::new(),
        }
    }

    /// Is told of the attempts that pass here. Must not wait. To be set once.
    pub fn on_pass(&self, callback: impl Fn(&[Key]) + Send + Sync + 'static) {
        let _ = self.on_pass.set(Box::new(callback));
    }

    /// An attempt from this address, for the account of this e-mail address. It passes if both limits have room.
    pub fn try_one(&self, address: Option<IpAddr>, email: &str, now: UnixMs) -> Verdict {
        if self.max == 0 {
            return Verdict::Free;
        }
        let account = key("account", email.as_bytes());
        let keys: Vec<Key> = [Some(account), address.map(of_address)].into_iter().flatten().collect();
        let verdict = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let tightest = keys.iter().map(|key| quota(seen.get_mut(key), self.max, now));
            let tightest = tightest.min_by_key(|quota| (quota.left, -quota.more_in_ms));
            let Some(quota) = tightest else { return Verdict::Free };
            if quota.left == 0 {
                return Verdict::Refused(quota);
            }
            for key in &keys {
                note(&mut seen, *key, self.max, now);
            }
            Verdict::Passed(Quota {
                left: quota.left - 1,
                more_in_ms: match quota.more_in_ms {
                    0 => SIGN_IN_WINDOW_MS,
                    other => other,
                },
                ..quota
            })
        };
        if let Some(callback) = self.on_pass.get() {
            callback(&keys);
        }
        verdict
    }

    /// How many addresses and accounts are counted.
    pub fn counted(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// An attempt passed on another node.
    pub fn heard(&self, keys: &[Key], now: UnixMs) {
        if self.max > 0 {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            for key in keys {
                note(&mut seen, *key, self.max, now);
            }
        }
    }
}

/// What is left for a key. Attempts that have left the window are forgotten.
fn quota(seen: Option<&mut VecDeque<UnixMs>>, max: usize, now: UnixMs) -> Quota {
    let Some(seen) = seen else {
        return Quota {
            name: NAME,
            window_ms: SIGN_IN_WINDOW_MS,
            max,
            left: max,
            more_in_ms: 0,
        };
    };
    while seen.front().is_some_and(|at| at + SIGN_IN_WINDOW_MS <= now) {
        seen.pop_front();
    }
    Quota {
        name: NAME,
        window_ms: SIGN_IN_WINDOW_MS,
        max,
        left: max.saturating_sub(seen.len()),
        // A clock that was set back makes nobody wait for longer than a window.
        more_in_ms: seen
            .front()
            .map_or(0, |at| (at + SIGN_IN_WINDOW_MS - now).min(SIGN_IN_WINDOW_MS)),
    }
}

fn note(seen: &mut HashMap<Key, VecDeque<UnixMs>>, key: Key, max: usize, now: UnixMs) {
    if seen.len() >= KEYS_MAX && !seen.contains_key(&key) {
        let mut last: Vec<UnixMs> = seen.values().filter_map(|at| at.back().copied()).collect();
        let middle = last.len() / 2;
        let (_, median, _) = last.select_nth_unstable(middle);
        let since = (*median).max(now - SIGN_IN_WINDOW_MS);
        seen.retain(|_, at| at.back().is_some_and(|last| *last > since));
    }
    let at = seen.entry(key).or_default();
    if at.len() >= max {
        at.pop_front();
    }
    at.push_back(now);
}

/// A whole network of IPv6 counts as one address: whoever has one has all of a /64 (RFC 6177).
fn of_address(address: IpAddr) -> Key {
    match address.to_canonical() {
        IpAddr::V4(address) => key("address", &address.octets()),
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            key("address", &Ipv6Addr::from(network).octets())
        }
    }
}

fn key(kind: &str, bytes: &[u8]) -> Key {
    let digest = Sha256::new()
        .chain_update(kind)
        .chain_update([0])
        .chain_update(bytes)
        .finalize();
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: i64 = 60_000;

    fn v4(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    fn passes(verdict: Verdict) -> bool {
        !matches!(verdict, Verdict::Refused(_))
    }

    #[test]
    fn an_address_has_its_attempts_and_after_the_window_has_them_again() {
        let attempts = Attempts::new(3);
        let mut at = 1_000_000;
        for left in [2, 1, 0] {
            let email = format!("{left}@example.org");
            let Verdict::Passed(quota) = attempts.try_one(v4(1), &email, at) else {
                panic!("it passes")
            };
            assert_eq!(quota.left, left);
            at += MINUTE;
        }
        // The first leaves the window 15 minutes after it came, three of which are over.
        let Verdict::Refused(quota) = attempts.try_one(v4(1), "x@example.org", at) else {
            panic!("it is refused")
        };
        assert_eq!(
            quota,
            Quota {
                name: NAME,
                window_ms: SIGN_IN_WINDOW_MS,
                max: 3,
                left: 0,
                more_in_ms: 12 * MINUTE
            }
        );
        assert!(passes(attempts.try_one(v4(2), "y@example.org", at)), "another address");
        assert!(!passes(attempts.try_one(
            v4(1),
            "x@example.org",
            at + quota.more_in_ms - 1
        )));
        assert!(passes(attempts.try_one(v4(1), "x@example.org", at + quota.more_in_ms)));
        assert!(!passes(attempts.try_one(v4(1), "x@example.org", at + quota.more_in_ms)));
    }

    #[test]
    fn an_account_has_its_attempts_from_wherever_they_come() {
        let attempts = Attempts::new(3);
        for from in 1..=3 {
            assert!(passes(attempts.try_one(v4(from), "ada@example.org", 0)));
        }
        assert!(!passes(attempts.try_one(v4(4), "ada@example.org", 0)));
        assert!(
            passes(attempts.try_one(v4(4), "bob@example.org", 0)),
            "what is refused is not counted"
        );
    }

    #[test]
    fn one_network_of_ipv6_is_one_address_and_an_embedded_ipv4_is_that_one() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(
            of_address(address("2001:db8:1:2::1")),
            of_address(address("2001:db8:1:2:ffff::9"))
        );
        assert_ne!(
            of_address(address("2001:db8:1:2::1")),
            of_address(address("2001:db8:1:3::1"))
        );
        assert_eq!(
            of_address(address("::ffff:192.0.2.1")),
            of_address(address("192.0.2.1"))
        );
    }

    #[test]
    fn what_passed_on_another_node_counts_here() {
        let (here, there) = (Attempts::new(2), std::sync::Arc::new(Attempts::new(2)));
        let hears = there.clone();
        here.on_pass(move |keys| hears.heard(keys, 0));
        for _ in 0..2 {
            assert!(passes(here.try_one(v4(1), "ada@example.org", 0)));
        }
        assert!(!passes(there.try_one(v4(1), "bob@example.org", 0)));
        assert!(!passes(there.try_one(v4(2), "ada@example.org", 0)));
    }

    #[test]
    fn a_flood_of_addresses_forgets_the_oldest_first() {
        let attempts = Attempts::new(1);
        let address = |number: usize| Some(IpAddr::from(u32::try_from(number).expect("small").to_be_bytes()));
        for number in 0..KEYS_MAX {
            assert!(passes(attempts.try_one(
                address(number),
                &number.to_string(),
                number as i64
            )));
        }
        let seen = attempts.seen.lock().expect("whole").len();
        assert!(seen <= KEYS_MAX, "{seen}");
        assert!(
            !passes(attempts.try_one(address(KEYS_MAX - 1), "x", KEYS_MAX as i64)),
            "one of the last"
        );
        assert!(passes(attempts.try_one(address(0), "y", KEYS_MAX as i64)), "the first");
    }

    proptest! {
        /// Whatever the rhythm, no window holds more than the limit; and who waits as told gets through.
        #[test]
        fn no_window_holds_more_than_the_limit(pauses in prop::collection::vec(0..400_000_i64, 1..200)) {
            let attempts = Attempts::new(5);
            let (mut now, mut passed) = (0, Vec::new());
            for pause in pauses {
                now += pause;
                match attempts.try_one(v4(1), "ada@example.org", now) {
                    Verdict::Refused(quota) => {
                        prop_assert!(quota.more_in_ms > 0);
                        if pause % 3 == 0 {
                            now += quota.more_in_ms;
                            prop_assert!(passes(attempts.try_one(v4(1), "ada@example.org", now)));
                            passed.push(now);
                        }
                    }
                    _ => passed.push(now),
                }
            }
            for window in passed.windows(6) {
                prop_assert!(window[5] - window[0] >= SIGN_IN_WINDOW_MS, "{window:?}");
            }
        }
    }
}
