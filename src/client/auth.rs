//! Sign-in over REST.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use taskflow_protocol::Code;
use taskflow_protocol::codes::Action;
use ureq::http::StatusCode;

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
    retry_after_ms: Option<u64>,
}

/// Milliseconds for one request. A password check takes a tenth of a second, and a full queue of them a few.
const REQUEST_TIMEOUT_MS: u64 = 15_000;

#[derive(Serialize)]
struct Credentials<'a> {
    email: &'a str,
    password: &'a str,
}

#[derive(Serialize)]
struct Forgot<'a> {
    email: &'a str,
}

#[derive(Serialize)]
struct NewPassword<'a> {
    email: &'a str,
    password: &'a str,
    new_password: &'a str,
}

#[derive(Serialize)]
struct Logout<'a> {
    refresh_token: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    everywhere: bool,
}

/// Where the user is signed in.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Session {
    /// Names it.
    pub id: uuid::Uuid,
    /// What the device calls itself.
    pub device: String,
    /// The address that it last came from.
    pub address: String,
    /// When that was, in Unix milliseconds.
    pub seen_at: i64,
    /// It is this one.
    pub current: bool,
}

/// A personal access token.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Token {
    /// Names it.
    pub id: uuid::Uuid,
    /// What it is for.
    pub name: String,
    /// What it lets do.
    pub scopes: Vec<String>,
    /// When it ends, in Unix milliseconds.
    pub expires_at: i64,
    /// Itself, when it is made.
    pub token: Option<String>,
}

/// Something that happened to the account.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Happened {
    /// When, in Unix milliseconds.
    pub at: i64,
    /// What.
    pub event: String,
    /// The address that it came from.
    pub address: String,
    /// What the device calls itself.
    pub device: String,
}

#[derive(Deserialize)]
struct Items<T> {
    items: Vec<T>,
}

#[derive(Serialize)]
struct NewEmail<'a> {
    email: &'a str,
    password: &'a str,
    new_email: &'a str,
}

#[derive(Serialize)]
struct NewToken<'a> {
    name: &'a str,
    scopes: &'a [&'a str],
    expires_in_days: u32,
}

#[derive(Deserialize)]
struct Deleting {
    deletes_at: i64,
}

#[derive(Serialize)]
struct RefreshToken<'a> {
    refresh_token: &'a str,
}

/// Makes an account; `None`: a letter is on its way first.
pub fn register(server: &str, email: &str, password: &str) -> Result<Option<Tokens>, AuthError> {
    match send(server, "register", &Credentials { email, password })? {
        (StatusCode::ACCEPTED, _) => Ok(None),
        (_, text) => parsed(server, &text).map(Some),
    }
}

/// Asks for a letter with a link to a new password.
pub fn forgot(server: &str, email: &str) -> Result<(), AuthError> {
    send(server, "forgot", &Forgot { email }).map(drop)
}

/// Signs in.
pub fn login(server: &str, email: &str, password: &str) -> Result<Tokens, AuthError> {
    tokens(server, "login", &Credentials { email, password })
}

/// Gets new tokens. The old refresh token is used up.
pub fn refresh(server: &str, refresh_token: &str) -> Result<Tokens, AuthError> {
    tokens(server, "refresh", &RefreshToken { refresh_token })
}

/// Ends the sign-in, or all of the user.
pub fn logout(server: &str, refresh_token: &str, everywhere: bool) -> Result<(), AuthError> {
    let body = Logout {
        refresh_token,
        everywhere,
    };
    send(server, "logout", &body).map(drop)
}

/// Replaces the password. Every other sign-in is ended.
pub fn change_password(server: &str, email: &str, password: &str, new_password: &str) -> Result<Tokens, AuthError> {
    let body = NewPassword {
        email,
        password,
        new_password,
    };
    tokens(server, "password", &body)
}

/// Keeps an account that is to be deleted, and signs in.
pub fn restore(server: &str, email: &str, password: &str) -> Result<Tokens, AuthError> {
    tokens(server, "restore", &Credentials { email, password })
}

/// Replaces the e-mail address; `false`: a letter is on its way to the new one first.
pub fn change_email(server: &str, email: &str, password: &str, new_email: &str) -> Result<bool, AuthError> {
    let body = NewEmail {
        email,
        password,
        new_email,
    };
    let (status, _) = send(server, "email", &body)?;
    Ok(status != StatusCode::ACCEPTED)
}

/// Deletes the account; when that will be, in Unix milliseconds.
pub fn delete(server: &str, email: &str, password: &str) -> Result<i64, AuthError> {
    let (_, text) = send(server, "delete", &Credentials { email, password })?;
    parsed(server, &text).map(|Deleting { deletes_at }| deletes_at)
}

/// What happened to the account, the newest first.
pub fn history(server: &str, access_token: &str) -> Result<Vec<Happened>, AuthError> {
    get_items(server, "history", access_token)
}

/// The personal access tokens.
pub fn list_tokens(server: &str, access_token: &str) -> Result<Vec<Token>, AuthError> {
    get_items(server, "tokens", access_token)
}

/// Makes one.
pub fn make_token(server: &str, access_token: &str, name: &str, write: bool, days: u32) -> Result<Token, AuthError> {
    let scopes: &[&str] = if write {
        &["tasks:read", "tasks:write"]
    } else {
        &["tasks:read"]
    };
    let body = NewToken {
        name,
        scopes,
        expires_in_days: days,
    };
    let url = format!("{server}/api/v1/tokens");
    let bearer = format!("Bearer {access_token}");
    let request = agent().post(&url).header("authorization", &bearer);
    parsed(server, &read(server, request.send_json(body))?.1)
}

/// Ends one.
pub fn end_token(server: &str, access_token: &str, id: uuid::Uuid) -> Result<(), AuthError> {
    let url = format!("{server}/api/v1/tokens/{id}");
    let bearer = format!("Bearer {access_token}");
    read(server, agent().delete(&url).header("authorization", &bearer).call()).map(drop)
}

fn get_items<T: serde::de::DeserializeOwned>(
    server: &str,
    what: &str,
    access_token: &str,
) -> Result<Vec<T>, AuthError> {
    let url = format!("{server}/api/v1/{what}");
    let bearer = format!("Bearer {access_token}");
    let (_, text) = read(server, agent().get(&url).header("authorization", &bearer).call())?;
    parsed(server, &text).map(|Items { items }| items)
}

/// Where the user is signed in.
pub fn sessions(server: &str, access_token: &str) -> Result<Vec<Session>, AuthError> {
    get_items(server, "sessions", access_token)
}

/// Ends one of them.
pub fn end_session(server: &str, access_token: &str, id: uuid::Uuid) -> Result<(), AuthError> {
    let url = format!("{server}/api/v1/sessions/{id}");
    let bearer = format!("Bearer {access_token}");
    read(server, agent().delete(&url).header("authorization", &bearer).call()).map(drop)
}

/// Bytes of any other answer.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// Milliseconds for an export: the most that a feed holds, over a slow line.
const EXPORT_TIMEOUT_MS: u64 = 10 * 60 * 1000;

/// Bytes of an export: as many tasks as a feed may hold are about 20 MB, and notes may be long.
const EXPORT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Everything of the user, as one JSON document.
pub fn export(server: &str, access_token: &str) -> Result<String, AuthError> {
    let url = format!("{server}/api/v1/export");
    let bearer = format!("Bearer {access_token}");
    let request = agent_within(EXPORT_TIMEOUT_MS)
        .get(&url)
        .header("authorization", &bearer);
    let (_, text) = read_upto(server, request.call(), EXPORT_BYTES_MAX)?;
    // What was cut off on its way is no JSON.
    match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        Ok(_) => Ok(text),
        Err(_) => Err(AuthError::Unreachable(format!(
            "The server at {server} did not send everything. Try again."
        ))),
    }
}

fn tokens(server: &str, what: &str, body: &impl Serialize) -> Result<Tokens, AuthError> {
    parsed(server, &send(server, what, body)?.1)
}

fn parsed<T: serde::de::DeserializeOwned>(server: &str, text: &str) -> Result<T, AuthError> {
    serde_json::from_str(text).map_err(|_| not_taskflow(server))
}

fn agent() -> ureq::Agent {
    agent_within(REQUEST_TIMEOUT_MS)
}

fn agent_within(ms: u64) -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_millis(ms)))
        .http_status_as_error(false)
        // A password must not follow a redirect to somewhere else.
        .max_redirects(0)
        .user_agent(super::CLIENT_NAME)
        .build()
        .into()
}

fn send(server: &str, what: &str, body: &impl Serialize) -> Result<(StatusCode, String), AuthError> {
    let url = format!("{server}/api/v1/auth/{what}");
    read(server, agent().post(&url).send_json(body))
}

/// An answer, or why there is none.
fn read(
    server: &str,
    answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<(StatusCode, String), AuthError> {
    read_upto(server, answer, ANSWER_BYTES_MAX)
}

fn read_upto(
    server: &str,
    answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    bytes_max: u64,
) -> Result<(StatusCode, String), AuthError> {
    let mut response = answer.map_err(|error| {
        AuthError::Unreachable(format!(
            "The server at {server} does not answer ({error}). Check the address, and that the server runs."
        ))
    })?;
    let status = response.status();
    let body = response.body_mut().with_config().limit(bytes_max);
    let text = body.read_to_string().map_err(|_| not_taskflow(server))?;
    if status.is_success() {
        return Ok((status, text));
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
    let mut message = problem.detail.unwrap_or(problem.title);
    if code == Some(Code::TooManySignIns)
        && let Some(ms) = problem.retry_after_ms
    {
        message.push_str(&format!(" That is {} min.", ms.div_ceil(60_000)));
    }
    if code == Some(Code::AccountDeleting) {
        message =
            format!("The account is to be deleted: {message}. `taskflow account restore` with its address keeps it.");
    }
    Err(AuthError::Refused { code, message })
}

fn not_taskflow(server: &str) -> AuthError {
    AuthError::Refused {
        code: None,
        message: format!("What answers at {server} is not a TaskFlow server. Check the address."),
    }
}
