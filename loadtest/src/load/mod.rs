//! `run`: puts a server or a cluster that runs already under load. One engine for all scenarios: users who do things at a
//! rate, and screens that check what comes.

mod acts;
pub mod arrivals;
pub mod chart;
mod check;
pub mod generator;
mod options;
mod outcome;
mod page;
mod plan;
mod run;
mod scenario;
mod screen;
mod tally;
pub mod target;
mod threshold;
pub mod users;
mod view;
mod world;

pub use options::{Merge, Run};
pub use outcome::Outcome;
pub use run::{ALL_CONNECTED, merge, run, welcome};
pub use tally::{Count, Recorded, Second, Timed};
