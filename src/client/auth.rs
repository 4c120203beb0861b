//! Sign-in over REST.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use taskflow_protocol::Code;
use taskflow_protocol::codes::Action;

/// What a sign-in or a refresh gives.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Tokens {
    /// For connections.
    pub access_token: String,
    /// For the next access token.
    pub refresh_token: String,
    /// Of the access token, in seconds.
    pub expires_in: i64,
}

/// Why a request did not succeed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AuthError {
    /// The server said no, with a number of the code table.
    #[error("{message}")]
    Refused {
        /// The number, if this build knows it.
        code: Option<Code>,
        /// A sentence.
        message: String,
    },
    /// No answer, or none of a TaskFlow server.
    #[error("{0}")]
    Unreachable(String),
}

impl AuthError {
    /// What to do about it.
    pub fn action(&self) -> Action {
        match self {
            Self::Refused { code: Some(code), .. } => code.action(),
            Self::Refused { code: None, .. } => Action::GiveUp,
            Self::Unreachable(_) => Action::Retry,
        }
    }
}

/// The body of a failed request (RFC 9457, with the code table's number).
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: String,
    detail: Option<String>,
    code: Option<u16>,
}

/// Milliseconds for one request. A password check takes a tenth of a second, and a full queue of them a few.
const REQUEST_TIMEOUT_MS: u64 = 15_000;

#[derive(Serialize)]
struct Credentials<'a> {
    email: &'a str,
    password: &'a str,
}

#[derive(Serialize)]
struct RefreshToken<'a> {
    refresh_token: &'a str,
}

/// Makes an account.
pub fn register(server: &str, email: &str, password: &str) -> Result<Tokens, AuthError> {
    tokens(server, "register", &Credentials { email, password })
}

/// Signs in.
pub fn login(server: &str, email: &str, password: &str) -> Result<Tokens, AuthError> {
    tokens(server, "login", &Credentials { email, password })
}

/// Gets new tokens. The old refresh token is used up.
pub fn refresh(server: &str, refresh_token: &str) -> Result<Tokens, AuthError> {
    tokens(server, "refresh", &RefreshToken { refresh_token })
}

/// Ends the sign-in.
pub fn logout(server: &str, refresh_token: &str) -> Result<(), AuthError> {
    post(server, "logout", &RefreshToken { refresh_token }).map(drop)
}

fn tokens(server: &str, what: &str, body: &impl Serialize) -> Result<Tokens, AuthError> {
    let text = post(server, what, body)?;
    serde_json::from_str(&text).map_err(|_| not_taskflow(server))
}

fn post(server: &str, what: &str, body: &impl Serialize) -> Result<String, AuthError> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_millis(REQUEST_TIMEOUT_MS)))
        .http_status_as_error(false)
        // A password must not follow a redirect to somewhere else.
        .max_redirects(0)
        .user_agent(super::CLIENT_NAME)
        .build()
        .into();
    let url = format!("{server}/api/v1/auth/{what}");
    let mut response = agent.post(&url).send_json(body).map_err(|error| {
        AuthError::Unreachable(format!(
            "The server at {server} does not answer ({error}). Check the address, and that the server runs."
        ))
    })?;
    let status = response.status();
    let text = response.body_mut().read_to_string().map_err(|_| not_taskflow(server))?;
    if status.is_success() {
        return Ok(text);
    }
    let problem: Problem = serde_json::from_str(&text).unwrap_or_default();
    let code = problem.code.and_then(Code::from_number);
    if code.is_none() && problem.title.is_empty() {
        return Err(if status.is_server_error() {
            AuthError::Unreachable(format!(
                "The server at {server} answers with status {status}. Try again later."
            ))
        } else {
            not_taskflow(server)
        });
    }
    let message = problem.detail.unwrap_or(problem.title);
    Err(AuthError::Refused { code, message })
}

fn not_taskflow(server: &str) -> AuthError {
    AuthError::Refused {
        code: None,
        message: format!("What answers at {server} is not a TaskFlow server. Check the address."),
    }
}
