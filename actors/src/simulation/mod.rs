//! Whole clusters in one thread and in virtual time, from a seed: nodes, feeds, followers and clients, a store and a
//! broker, and everything that can go wrong between them.
//!
//! What runs is what runs in production: [`Feed`](crate::feed::Feed), [`Node`](crate::cluster::Node) with its members,
//! placement, lines and watch, [`Follower`](crate::follow::Follower), and the rules of the domain. Simulated are the
//! shells around them, the store ([`store`]), the broker ([`broker`]), and the clients ([`client`]). A [`plan::Plan`] says what
//! the clients do and what goes wrong when; [`world`] carries it out; [`model`] knows what was answered and checks after
//! every step. docs/simulation.md says what is not covered.

pub mod broker;
pub mod client;
pub mod model;
pub mod node;
pub mod plan;
pub mod rng;
pub mod store;
pub mod world;

pub use self::plan::Plan;
pub use self::world::{Outcome, run};
