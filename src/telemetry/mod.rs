//! What an operator sees: log lines, metrics, health.

pub mod instruments;
pub mod log;
pub mod metrics;
pub mod operator;
mod process;
mod threads;

pub use metrics::{Metrics, Telemetry};
pub use operator::{Operator, Readiness};
pub use threads::thread_delay;
