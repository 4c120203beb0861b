//! The refresh token of a browser: in a cookie that no script reads.
//!
//! Who signs in with `"cookie": true` gets it there, and not in the answer. A browser sends a cookie along with whatever is asked,
//! by whichever page. So what is asked under one counts only if the browser itself says that the page may ask: by `Origin`, which
//! was looked at before any handler, or by `Sec-Fetch-Site`. `SameSite=Strict` keeps it from other sites before that, and a name
//! that begins with `__Host-` from being planted by other hosts of the same domain (RFC 6265bis, section 4.1.3.2).
//!
//! Access tokens are in no cookie: whatever changes a task is asked with a header that no foreign page can send.

use actix_web::HttpRequest;
use actix_web::http::header::{self, HeaderValue};
use taskflow_protocol::Code;

use crate::config::Config;
use crate::http::problem::Problem;

/// Where a client has its refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Wherever it puts what the answer says.
    ByClient,
    /// In the cookie.
    InCookie,
}

impl Kept {
    /// As the body of a request says.
    pub fn as_asked(in_cookie: bool) -> Self {
        if in_cookie { Self::InCookie } else { Self::ByClient }
    }
}

/// Without TLS a browser keeps neither the prefix nor `Secure`: that is for machines of one's own.
fn name(config: &Config) -> &'static str {
    if config.is_safe() {
        "__Host-taskflow_refresh"
    } else {
        "taskflow_refresh"
    }
}

fn with(config: &Config, value: &str, seconds: u64) -> HeaderValue {
    let secure = if config.is_safe() { "; Secure" } else { "" };
    let name = name(config);
    let text = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    HeaderValue::try_from(text).expect("base64url and digits")
}

/// Puts the token there, for as long as it is good.
pub fn put(config: &Config, token: &str) -> HeaderValue {
    with(config, token, u64::from(config.refresh_token_days) * 86_400)
}

/// Takes it away.
pub fn clear(config: &Config) -> HeaderValue {
    with(config, "", 0)
}

/// Whether the request brings one, whoever asks.
pub fn is_there(http: &HttpRequest, config: &Config) -> bool {
    values(http, config).next().is_some()
}

fn values<'a>(http: &'a HttpRequest, config: &Config) -> impl Iterator<Item = &'a str> {
    let name = name(config);
    let lines = http.headers().get_all(header::COOKIE);
    let pairs = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'));
    let pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(move |(key, _)| *key == name).map(|(_, value)| value)
}

/// The token in the cookie of a page that may ask.
pub fn token(http: &HttpRequest, config: &Config) -> Result<Option<String>, Problem> {
    let mut values = values(http, config);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        // One of them was planted, and nobody can say which.
        return Err(Problem::new(Code::TokenInvalid).because("there are two cookies of this name"));
    }
    let site = http.headers().get("sec-fetch-site");
    let is_own_page = site.is_some_and(|site| site.as_bytes() == b"same-origin");
    // One that may not call has been refused. Without TLS it could be anybody's who is on the way, whatever it calls itself.
    let origin = http.headers().get(header::ORIGIN);
    let is_safe = |origin: &HeaderValue| !config.is_safe() || origin.as_bytes().starts_with(b"https://");
    if !is_own_page && !origin.is_some_and(is_safe) {
        let problem = Problem::new(Code::OriginRefused);
        return Err(problem.because("a cookie counts only with the Origin of the page that asks"));
    }
    Ok(Some(value.to_owned()))
}
