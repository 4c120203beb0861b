//! The terminal client against a small server that speaks the protocol and misbehaves on demand.

mod commands;
mod connection;
mod fake;
