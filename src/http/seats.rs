//! How many event streams and long-polls a user has open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use taskflow_protocol::{Code, UserId};

use crate::config::Config;
use crate::telemetry::Metrics;

/// Counts the requests that stay open.
pub struct Seats {
    users: Mutex<HashMap<UserId, usize>>,
    metrics: Arc<Metrics>,
    user_max: usize,
    total_max: usize,
}

/// One open request; given back when dropped.
pub struct Seat {
    seats: Arc<Seats>,
    user: UserId,
}

impl Seats {
    /// With the limits of the settings.
    pub fn new(config: &Config, metrics: Arc<Metrics>) -> Self {
        Self {
            users: Mutex::default(),
            metrics,
            user_max: config.connections_a_user_max,
            total_max: config.connections_max,
        }
    }

    /// A seat for one more.
    pub fn take(self: &Arc<Self>, user: UserId) -> Result<Seat, Code> {
        if self.metrics.connections.get() >= self.total_max {
            return Err(Code::ServerBusy);
        }
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let count = users.entry(user).or_insert(0);
        if *count >= self.user_max {
            return Err(Code::TooManyConnections);
        }
        *count += 1;
        self.metrics.connections.enter();
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
        self.seats.metrics.connections.leave();
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
            connections_max: 3,
            ..Config::default()
        };
        let seats = Arc::new(Seats::new(&config, Arc::clone(&metrics)));
        let (one, two) = (UserId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        let first = seats.take(one).ok().expect("free");
        let _second = seats.take(one).ok().expect("free");
        assert_eq!(seats.take(one).err(), Some(Code::TooManyConnections));
        let _third = seats.take(two).ok().expect("free");
        assert_eq!(seats.take(two).err(), Some(Code::ServerBusy));
        drop(first);
        assert_eq!(metrics.connections.get(), 2);
        assert!(seats.take(one).is_ok());
        assert_eq!(metrics.connections.get(), 2);
    }
}
