//! The TaskFlow server and its terminal client.
pub mod client;
pub mod clock;
