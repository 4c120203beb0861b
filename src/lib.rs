//! The TaskFlow server and its terminal client.
pub mod clock;
pub mod follow;
