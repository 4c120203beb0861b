//! How many connections a user has: event streams, long-polls and WebSockets.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use taskflow_protocol::{Code, UserId};

use crate::config::Config;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::ConnectionKind;

/// Counts what stays open.
pub struct Seats {
    users: Mutex<HashMap<UserId, usize>>,
    total: AtomicUsize,
    /// Connections that are not in the total here, but share its limit: the WebSockets.
    others: Box<dyn Fn() -> usize + Send + Sync>,
    metrics: Arc<Metrics>,
    user_max: usize,
    total_max: usize,
}

/// One open request or WebSocket; given back when dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    user: UserId,
    /// Counted in the total and the metric, too. WebSockets are counted there from their handshake on.
    is_request: bool,
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

    /// A seat for one more request.
    pub fn take(self: &Arc<Self>, user: UserId) -> Result<Seat, Code> {
        self.seat(user, true)
    }

    /// A seat for one more WebSocket.
    pub fn take_for_socket(self: &Arc<Self>, user: UserId) -> Result<Seat, Code> {
        self.seat(user, false)
    }

    fn seat(self: &Arc<Self>, user: UserId, is_request: bool) -> Result<Seat, Code> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if is_request && self.total.load(Ordering::Relaxed) + (self.others)() >= self.total_max {
            return Err(Code::ServerBusy);
        }
        let count = users.entry(user).or_insert(0);
        if *count >= self.user_max {
            return Err(Code::TooManyConnections);
        }
        *count += 1;
        if is_request {
            self.total.fetch_add(1, Ordering::Relaxed);
            self.metrics.connections.of(ConnectionKind::Request).inc();
        }
        Ok(Seat {
            seats: Arc::clone(self),
            user,
            is_request,
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
        if self.is_request {
            self.seats.total.fetch_sub(1, Ordering::Relaxed);
            self.seats.metrics.connections.of(ConnectionKind::Request).dec();
        }
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
        assert!(
            seats.take_for_socket(two).is_ok(),
            "its place in the total was taken at the handshake"
        );
        assert_eq!(seats.take_for_socket(one).err(), Some(Code::TooManyConnections));
        drop(first);
        assert!(seats.take(two).is_ok());
        assert!(seats.take(one).is_ok());
        assert_eq!(seats.total.load(Ordering::Relaxed), 2);
    }
}
