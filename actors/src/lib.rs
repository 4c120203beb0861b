//! The rules, the ports and the actors of TaskFlow.
//!
//! - [`domain`]: what a feed holds and what an operation does to it. Pure.
//! - [`ports`]: what the actors need from outside (store, push, clock), and the contracts that adapters keep.
//! - [`follow`]: what a follower of a feed gets, and when.
//! - [`feed`], [`session`], [`supervisor`]: each a plain component that returns effects, and an actix shell around it.
//! - [`cluster`]: many nodes as one, in the same manner.
//! - [`trace`]: what goes along with a request that is traced.
//!
//! Architecture invariant: no database, broker, HTTP or file crate is in this crate's tree.

pub mod cluster;
pub mod cursor;
pub mod domain;
pub mod feed;
pub mod follow;
pub mod memory;
pub mod planted;
pub mod ports;
pub mod session;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod supervisor;
pub mod trace;
