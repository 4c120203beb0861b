//! How many event streams and long-polls a user has open.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use taskflow_protocol::{Code, UserId};

use crate::config::Config;
use crate::telemetry::Metrics;

/// Counts the requests that stay open.
pub struct Seats {
    users: Mutex<HashMap<UserId, usize>>,
    total: AtomicUsize,
    /// Connections that are not counted here, but share the limit: the WebSockets.
    others: Box<dyn Fn() -> usize + Send + Sync>,
    metrics: Arc<Metrics>,
    user_max: usize,
    total_max: usize,
}

/// One open request; given back when dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    user: UserId,
}

impl std::fmt::Debug for Seats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seats")
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

impl Seats {
    /// With the limits of the settings; `others` says how many WebSockets there are.
    pub fn new(config: &Config, metrics: Arc<Metrics>, others: impl Fn() -> usize + Send + Sync + 'static) -> Self {
        Self {
            users: Mutex::default(),
            total: AtomicUsize::new(0),
            others: Box::new(others),
            metrics,
            user_max: config.connections_a_user_max,
            total_max: config.connections_max,
        }
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// A seat for one more.
    pub fn take(self: &Arc<Self>, user: UserId) -> Result<Seat, Code> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if self.total.load(Ordering::Relaxed) + (self.others)() >= self.total_max {
            return Err(Code::ServerBusy);
        }
        let count = users.entry(user).or_insert(0);
        if *count >= self.user_max {
            return Err(Code::TooManyConnections);
        }
        *count += 1;
        self.total.fetch_add(1, Ordering::Relaxed);
        self.metrics.connections.increment(1.0);
        Ok(Seat {
            seats: Arc::clone(self),
            user,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut users = self.seats.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = users.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.user);
            }
        }
        self.seats.total.fetch_sub(1, Ordering::Relaxed);
        self.seats.metrics.connections.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Telemetry;
    use uuid::Uuid;

    #[test]
    fn a_user_gets_no_more_seats_than_allowed_and_gets_them_back() {
        let metrics = Telemetry::new().metrics;
        let config = Config {
            connections_a_user_max: 2,
            connections_max: 4,
            ..Config::default()
        };
        let seats = Arc::new(Seats::new(&config, metrics, || 1));
        let (one, two) = (UserId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        let first = seats.take(one).expect("free");
        let _second = seats.take(one).expect("free");
        assert_eq!(seats.take(one).err(), Some(Code::TooManyConnections));
        let _third = seats.take(two).expect("free");
        assert_eq!(seats.take(two).err(), Some(Code::ServerBusy));
        drop(first);
        assert!(seats.take(two).is_ok());
        assert!(seats.take(one).is_ok());
        assert_eq!(seats.total.load(Ordering::Relaxed), 2);
    }
}
