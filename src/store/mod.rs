//! Where feeds and accounts are kept: the adapters of the ports `Store` and `Accounts`.
//!
//! Every adapter passes the suite in `contract.rs`, one function a promise.

pub mod cql;
pub mod embedded;
