//! Many nodes as one: who is there, who hosts which feed, and how operations get to their host.
//!
//! [`node`] is a plain component, without runtime, clock or randomness, made of four others: [`placement`], [`members`],
//! [`lines`] and [`watch`]. [`shell`] carries out what it says. None of it decides what is right: an append is conditional on the log, whoever makes it, so a wrong view of
//! the cluster costs time and nothing else.

pub mod lines;
pub mod members;
pub mod node;
pub mod placement;
pub mod shell;
pub mod watch;
pub mod wire;

pub use self::members::Members;
pub use self::node::Node;
pub use self::placement::Placement;
pub use self::shell::Cluster;
pub use self::watch::Watch;
pub use self::wire::Member;
