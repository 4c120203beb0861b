//! REST, event streams, long-polls and the operator's port, from the outside.

#![allow(
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests, helpers included, fail by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod account;
mod cookies;
mod docs;
mod errors;
mod feed;
mod issuers;
mod letters;
mod limits;
mod operator;
mod overload;
mod requests;
mod sign_in;
mod strangers;
mod tls;
mod traces;
