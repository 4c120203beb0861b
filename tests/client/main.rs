//! The terminal client against a small server that speaks the protocol and misbehaves on demand.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that fails is to stop, also in its helpers"
)]

mod commands;
mod connection;
mod fake;
mod real;
