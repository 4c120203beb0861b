//! Errors over HTTP: RFC 9457.

use taskflow_protocol::message::ErrorBody;

/// The body of a problem document.
pub fn json(error: &ErrorBody) -> String {
    serde_json::to_string(error).unwrap_or_default()
}
