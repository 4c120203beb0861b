//! The TaskFlow server and its terminal client.

pub mod accept;
pub mod allocator;
pub mod auth;
pub mod bus;
pub mod client;
pub mod clock;
pub mod config;
mod drain;
pub mod health;
pub mod http;
pub mod keys;
pub mod mail;
pub mod overload;
mod scheduling;
pub mod serve;
pub mod snapshot;
pub mod socket;
pub mod store;
pub mod telemetry;
#[cfg(test)]
pub mod testing;
pub mod token;
