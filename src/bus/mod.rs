//! What carries messages between the nodes of a cluster: the adapters of the port `Bus`.
//!
//! Every adapter passes the suite in `contract.rs`, one function a promise.

pub mod redis;
