//! The one place that reads the machine's clock.

use taskflow_actors::ports::Clock;
use taskflow_protocol::values::UnixMs;

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the one place")]
    fn now_ms(&self) -> UnixMs {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

impl SystemClock {
    /// Unix time in nanoseconds, for the steps of traces, which are shorter than a millisecond.
    #[allow(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn now_ns(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}
