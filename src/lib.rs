//! The TaskFlow server and its terminal client.
pub mod clock;
pub mod config;
pub mod follow;
