//! Errors as `application/problem+json` (RFC 9457), the same code table as on the socket.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use taskflow_protocol::message::{ErrorBody, Row};
use taskflow_protocol::{Code, OperationId};

use crate::telemetry::request_id::{self, RequestId};

/// Media type of the errors.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What went wrong with a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem(Box<Inner>);

#[derive(Clone, Debug, PartialEq)]
struct Inner {
    code: Code,
    detail: Option<String>,
    field: Option<String>,
    column: Option<usize>,
    row: Option<Row>,
    operation: Option<OperationId>,
    /// Where it is longer than the table says.
    retry_after_ms: Option<u32>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    code: Code,
    name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<&'a Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<OperationId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

impl Problem {
    /// The code with the table's own sentence.
    pub fn new(code: Code) -> Self {
        Self(Box::new(Inner {
            code,
            detail: None,
            field: None,
            column: None,
            row: None,
            operation: None,
            retry_after_ms: None,
        }))
    }

    /// What is particular to this case.
    #[must_use]
    pub fn because(mut self, detail: impl fmt::Display) -> Self {
        self.0.detail = Some(detail.to_string());
        self
    }

    /// The field, parameter or header that is wrong.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    /// The character of the field where it is wrong, from 1.
    #[must_use]
    pub fn column(mut self, column: usize) -> Self {
        self.0.column = Some(column);
        self
    }

    /// The row as it is now.
    #[must_use]
    pub fn row(mut self, row: Row) -> Self {
        self.0.row = Some(row);
        self
    }

    /// The operation that may be repeated under this id (as `Idempotency-Key`).
    #[must_use]
    pub fn operation(mut self, operation: OperationId) -> Self {
        self.0.operation = Some(operation);
        self
    }

    /// How long to wait, where that is more than the table says.
    #[must_use]
    pub fn retry_after_ms(mut self, ms: u32) -> Self {
        self.0.retry_after_ms = Some(ms);
        self
    }

    fn wait_ms(&self) -> Option<u32> {
        self.0.retry_after_ms.max(self.0.code.retry_after_ms())
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The field, parameter or header that is wrong.
    pub fn named(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// The document.
    pub fn json(&self) -> Vec<u8> {
        let inner = &*self.0;
        let code = inner.code;
        let request = request_id::current();
        taskflow_protocol::Encoding::Json.encode(&Body {
            r#type: format!("about:blank#{}", code.name()),
            title: code.sentence(),
            status: code.http_status(),
            code,
            name: code.name(),
            detail: inner.detail.as_deref(),
            field: inner.field.as_deref(),
            column: inner.column,
            retry_after_ms: self.wait_ms(),
            row: inner.row.as_ref(),
            operation: inner.operation,
            request_id: request.as_ref().map(RequestId::as_str),
        })
    }
}

impl From<Code> for Problem {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}

impl From<ErrorBody> for Problem {
    fn from(body: ErrorBody) -> Self {
        // The sentence of the table is the title: what stands before it is the detail.
        let cause = body.message.strip_suffix(body.code.sentence()).unwrap_or(&body.message);
        let cause = cause.trim_end().trim_end_matches('.');
        let mut problem = Self::new(body.code);
        problem.0.detail = (!cause.is_empty()).then(|| cause.to_owned());
        problem.0.field = body.field;
        problem
    }
}

impl From<taskflow_protocol::DecodeError> for Problem {
    fn from(error: taskflow_protocol::DecodeError) -> Self {
        let mut problem = Self::new(error.code).because(error.detail);
        problem.0.field = error.field;
        problem
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.code.name())
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let code = self.code();
        let mut response = HttpResponse::build(self.status_code());
        response.insert_header((header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON)));
        response.insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store")));
        if let Some(after_ms) = self.wait_ms() {
            response.insert_header((header::RETRY_AFTER, after_ms.div_ceil(1_000)));
        }
        if self.status_code() == StatusCode::UNAUTHORIZED {
            // RFC 6750, section 3.
            let challenge = match code {
                Code::TokenInvalid | Code::TokenExpired | Code::SignedOut => "Bearer error=\"invalid_token\"",
                _ => "Bearer",
            };
            response.insert_header((header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge)));
        }
        response.body(self.json())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::body::MessageBody as _;

    fn json(problem: &Problem) -> serde_json::Value {
        let body = problem.error_response().into_body().try_into_bytes().expect("whole");
        serde_json::from_slice(&body).expect("JSON")
    }

    #[test]
    fn a_problem_says_what_the_table_says() {
        let problem = Problem::new(Code::FeedOverloaded);
        let response = problem.error_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers().get("content-type").expect("set"), PROBLEM_JSON);
        assert_eq!(response.headers().get("retry-after").expect("set"), "1");
        let expected = serde_json::json!({
            "type": "about:blank#feed_overloaded", "title": Code::FeedOverloaded.sentence(), "status": 503,
            "code": 501, "name": "feed_overloaded", "retry_after_ms": 250,
        });
        assert_eq!(json(&problem), expected);
    }

    #[test]
    fn what_the_socket_would_say_becomes_title_and_detail() {
        let body = ErrorBody::new(Code::ValueTooLong)
            .because("2001 bytes, at most 2000")
            .field("title");
        let problem = json(&Problem::from(body));
        assert_eq!(problem["title"], Code::ValueTooLong.sentence());
        assert_eq!(problem["detail"], "2001 bytes, at most 2000");
        assert_eq!(problem["field"], "title");
        assert_eq!(
            json(&Problem::from(ErrorBody::new(Code::ListArchived))).get("detail"),
            None
        );
    }

    #[test]
    fn who_is_not_signed_in_is_challenged() {
        for (code, challenge) in [
            (Code::TokenMissing, "Bearer"),
            (Code::TokenExpired, "Bearer error=\"invalid_token\""),
        ] {
            let response = Problem::new(code).error_response();
            assert_eq!(response.headers().get("www-authenticate").expect("set"), challenge);
        }
    }
}
