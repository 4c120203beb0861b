//! What outlives the process: kill -9 under load, restarts, the data folder.

#![allow(
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests, helpers included, fail by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod crash;
mod folder;
