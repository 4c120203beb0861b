//! What an operator sees: log lines, metrics, health.

pub mod log;
pub mod metrics;
pub mod operator;

pub use metrics::{Metrics, Telemetry};
pub use operator::{Operator, Readiness};
