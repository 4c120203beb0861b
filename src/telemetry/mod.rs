//! What an operator sees: log lines, metrics, health.

pub mod instruments;
pub mod log;
pub mod metrics;
pub mod operator;
pub mod process;
pub mod request_id;
pub mod scrub;
pub mod sentry;
pub mod status;
pub mod trace;

pub use metrics::{Metrics, Telemetry};
pub use operator::{Operator, Readiness};
pub use trace::Traces;
