//! The WebSocket, from the outside: real sockets to the real binary.

#![allow(
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests, helpers included, fail by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod aged;
mod drain;
mod following;
mod framing;
mod handshake;
mod input;
mod lifecycle;
mod operations;
