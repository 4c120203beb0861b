//! WebSockets: the upgrade is taken over whole, so that a connection owns its socket.

mod catch_up;
mod connection;
mod counting;
pub mod frame;
pub mod hub;
mod outbound;
pub mod upgrade;
mod wire;
pub mod worker;

pub use hub::Hub;
pub use wire::Wire;
pub use worker::{Gateway, Worker};

/// Bytes that wait in the queues of all connections.
pub fn queue_bytes() -> usize {
    outbound::TOTAL_BYTES.load(std::sync::atomic::Ordering::Relaxed)
}
