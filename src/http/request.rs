//! What every request brings: a token, a body, parameters, conditions. Each read once, each with its own error.

use std::borrow::Cow;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use actix_http::Request;
use actix_web::http::header::{self, HeaderValue};
use actix_web::http::{Method, Uri};
use actix_web::web::{Bytes, BytesMut, Payload};
use actix_web::{HttpMessage as _, HttpRequest};
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;
use taskflow_actors::ports::Access;
use taskflow_protocol::limits::{BODY_TIMEOUT_MS, MESSAGE_BYTES_MAX, PAGE_ITEMS_MAX, SIGN_IN_BYTES_MAX};
use taskflow_protocol::values::Seq;
use taskflow_protocol::{Code, Encoding, OperationId, UserId};

use crate::auth::Claims;
use crate::http::idle::Connection;
use crate::http::problem::Problem;
use crate::http::rates::{Asked, Denied};
use crate::http::rows::Mark;
use crate::http::{Api, address, feed, parameters};
use crate::telemetry::trace;

/// Copies the head of a request out of the buffer that it was read into.
///
/// actix-http and actix-web keep the heads of past requests for the next ones, up to 128 a worker each. Each would keep
/// its buffer, which after a large body has 128 KiB and more.
pub fn own_head(mut request: Request) -> Request {
    let head = request.head_mut();
    if let Ok(uri) = Uri::try_from(head.uri.to_string()) {
        head.uri = uri;
    }
    head.headers.retain(|_, value| {
        if let Ok(own) = HeaderValue::from_bytes(value.as_bytes()) {
            *value = own;
        }
        true
    });
    request
}

/// Who asks, by `Authorization: Bearer`. (Never by a parameter: addresses end up in logs and histories.) What only looks
/// needs less than what changes.
pub async fn caller(api: &Api, request: &HttpRequest) -> Result<Claims, Problem> {
    let least = match *request.method() {
        Method::GET | Method::HEAD => Access::Read,
        _ => Access::Write,
    };
    let claims = caller_with(api, request, least).await?;
    count_one(api, request, &claims)?;
    Ok(claims)
}

/// Who looks at the feed: not before it has come as far as the cursor in `wait_for`, if there is one.
pub async fn reader(api: &Api, request: &HttpRequest) -> Result<Claims, Problem> {
    let claims = caller(api, request).await?;
    let mut asked = request.query_string().split('&').filter_map(is_wait_for);
    match (asked.next(), asked.next()) {
        (None, _) => {}
        (Some(cursor), None) => {
            feed::wait_for(api, claims.user, cursor).await?;
            // It may have been ended meanwhile.
            if api.tokens.is_ended(claims.sign_in) {
                return Err(Code::SignedOut.into());
            }
            request.extensions_mut().insert(Waited);
        }
        (Some(_), Some(_)) => {
            let problem = Problem::new(Code::InvalidField).field("wait_for");
            return Err(problem.because("it is there twice"));
        }
    }
    Ok(claims)
}

/// The parameter `wait_for` was heeded.
struct Waited;

fn is_wait_for(parameter: &str) -> Option<&str> {
    parameter.strip_prefix("wait_for=")
}

/// Who brings operations, which are counted when it is known how many: [`count`].
pub async fn author(api: &Api, request: &HttpRequest) -> Result<Claims, Problem> {
    caller_with(api, request, Access::Write).await
}

/// Who asks for what only the owner of an account may do: no personal access token is enough.
pub async fn owner(api: &Api, request: &HttpRequest) -> Result<Claims, Problem> {
    let claims = caller_with(api, request, Access::Owner).await?;
    count_one(api, request, &claims)?;
    Ok(claims)
}

async fn caller_with(api: &Api, request: &HttpRequest, least: Access) -> Result<Claims, Problem> {
    let token = bearer(request)?;
    let address = || address::of(request, &api.config.now());
    let claims = api.rates.claims(&api.tokens, token, address).await;
    let claims = claims.map_err(|denied| match denied {
        Denied::Code(code) => code.into(),
        Denied::TooMuch(too_much) => too_much.problem(&mut request.extensions_mut()),
    })?;
    if let Some(traces) = &api.traces {
        trace::admit(traces);
    }
    if claims.access < least {
        return Err(Code::ScopeMissing.into());
    }
    Ok(claims)
}

fn count_one(api: &Api, request: &HttpRequest, claims: &Claims) -> Result<(), Problem> {
    let asked = match *request.method() {
        Method::GET | Method::HEAD => Asked::Reads,
        _ => Asked::Writes,
    };
    count(api, request, asked, claims.user, 1)
}

/// Counts what a user asks for.
pub fn count(api: &Api, request: &HttpRequest, asked: Asked, user: UserId, count: usize) -> Result<(), Problem> {
    match api.rates.user(asked, user, count) {
        Ok(None) => {}
        Ok(Some(quota)) => drop(request.extensions_mut().insert(quota)),
        Err(too_much) => return Err(too_much.problem(&mut request.extensions_mut())),
    }
    Ok(())
}

/// Whether the answer to a change may leave the row out (`Prefer: return=minimal`, RFC 7240).
pub fn prefers_minimal(request: &HttpRequest) -> bool {
    let lines = request
        .headers()
        .get_all("prefer")
        .filter_map(|line| line.to_str().ok());
    let mut wishes = lines.flat_map(|line| line.split(','));
    wishes.any(|wish| {
        let wish = wish.split(';').next().unwrap_or_default().trim();
        wish.eq_ignore_ascii_case("return=minimal")
    })
}

/// How many items a page has.
pub fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    let limit = asked.unwrap_or(PAGE_ITEMS_MAX);
    if (1..=PAGE_ITEMS_MAX).contains(&limit) {
        return Ok(limit);
    }
    let range = format_args!("{limit} is not between 1 and {PAGE_ITEMS_MAX}").to_string();
    Err(Problem::new(Code::ValueInvalid).field("limit").because(range))
}

/// The token of the request.
pub fn bearer(request: &HttpRequest) -> Result<&str, Problem> {
    let value = header(request, "Authorization")?.ok_or(Code::TokenMissing)?;
    let value = value.to_str().map_err(|_| Code::TokenInvalid)?;
    let (scheme, token) = value.split_once(' ').ok_or(Code::TokenInvalid)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Code::TokenMissing.into());
    }
    Ok(token.trim())
}

/// The encoding that a body says it has.
pub fn encoding(request: &HttpRequest) -> Result<Encoding, Problem> {
    if let Some(coding) = header(request, "Content-Encoding")?
        && !coding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return Err(Problem::new(Code::WrongEncoding).because("bodies are taken without Content-Encoding"));
    }
    let named = header(request, "Content-Type")?.and_then(|value| value.to_str().ok());
    let charset = named.into_iter().flat_map(|named| named.split(';').skip(1));
    let mut charset = charset.filter_map(|parameter| parameter.trim().strip_prefix("charset="));
    if !charset.all(|name| name.trim_matches('"').eq_ignore_ascii_case("utf-8")) {
        return Err(Problem::new(Code::WrongEncoding).because("text is taken as UTF-8 only"));
    }
    let essence = named.map(|named| named.split(';').next().unwrap_or_default().trim());
    match essence {
        Some(essence) if essence.eq_ignore_ascii_case("application/json") => Ok(Encoding::Json),
        // RFC 7396: fields that are not there stay, and `null` empties one. So it is with every PATCH here.
        Some(essence)
            if *request.method() == Method::PATCH && essence.eq_ignore_ascii_case("application/merge-patch+json") =>
        {
            Ok(Encoding::Json)
        }
        Some(essence)
            if [
                "application/msgpack",
                "application/vnd.msgpack",
                "application/x-msgpack",
            ]
            .iter()
            .any(|known| essence.eq_ignore_ascii_case(known)) =>
        {
            Ok(Encoding::MsgPack)
        }
        Some(other) => Err(Problem::new(Code::WrongEncoding).because(format_args!("{other:?} is not taken here"))),
        None => Err(Problem::new(Code::WrongEncoding).because("there is no Content-Type")),
    }
}

/// The whole body, unless it is larger than a message may be, or takes too long.
pub async fn body(request: &HttpRequest, payload: Payload) -> Result<Bytes, Problem> {
    body_within(request, payload, MESSAGE_BYTES_MAX).await
}

async fn body_within(request: &HttpRequest, payload: Payload, bytes_max: usize) -> Result<Bytes, Problem> {
    let mut whole = std::pin::pin!(whole(request, payload, bytes_max));
    // Most are here already, and need no clock.
    if let Poll::Ready(whole) = std::future::poll_fn(|context| Poll::Ready(whole.as_mut().poll(context))).await {
        return whole;
    }
    let _waits = request.conn_data::<Rc<Connection>>().map(Connection::waits);
    let within = Duration::from_millis(BODY_TIMEOUT_MS);
    let whole = tokio::time::timeout(within, whole).await;
    whole.unwrap_or_else(|_| Err(Code::BodyTimeout.into()))
}

/// What comes in one piece is not copied.
async fn whole(request: &HttpRequest, mut payload: Payload, bytes_max: usize) -> Result<Bytes, Problem> {
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    let length = length.and_then(|length| length.parse::<usize>().ok());
    if length.is_some_and(|length| length > bytes_max) {
        return Err(Code::TooLarge.into());
    }
    let failed = |error| Problem::new(Code::Malformed).because(format_args!("the body did not arrive whole: {error}"));
    let Some(first) = payload.next().await.transpose().map_err(failed)? else {
        return Ok(Bytes::new());
    };
    if first.len() > bytes_max {
        return Err(Code::TooLarge.into());
    }
    let Some(second) = payload.next().await.transpose().map_err(failed)? else {
        return Ok(first);
    };
    let mut whole = BytesMut::with_capacity(length.unwrap_or(first.len() + second.len()));
    whole.extend_from_slice(&first);
    let mut next = Some(second);
    while let Some(chunk) = next {
        if whole.len() + chunk.len() > bytes_max {
            return Err(Code::TooLarge.into());
        }
        whole.extend_from_slice(&chunk);
        next = payload.next().await.transpose().map_err(failed)?;
    }
    Ok(whole.freeze())
}

/// Reads a document in the encoding that the request names.
pub async fn document<T: DeserializeOwned>(request: &HttpRequest, payload: Payload) -> Result<T, Problem> {
    let encoding = encoding(request)?;
    let bytes = body(request, payload).await?;
    decode(encoding, &bytes)
}

/// The same of a stranger: strangers have little to say.
pub async fn sign_in_document<T: DeserializeOwned>(request: &HttpRequest, payload: Payload) -> Result<T, Problem> {
    let encoding = encoding(request)?;
    let bytes = body_within(request, payload, SIGN_IN_BYTES_MAX).await?;
    decode(encoding, &bytes)
}

/// Reads a document; an empty body is the document without fields.
pub async fn document_or_default<T: DeserializeOwned + Default>(
    request: &HttpRequest,
    payload: Payload,
) -> Result<T, Problem> {
    let bytes = body_within(request, payload, SIGN_IN_BYTES_MAX).await?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    decode(encoding(request)?, &bytes)
}

/// Reads a document that is here already.
pub fn decode<T: DeserializeOwned>(encoding: Encoding, bytes: &[u8]) -> Result<T, Problem> {
    Ok(encoding.decode(bytes)?)
}

/// The parameters after `?`; an unknown one is an error, like an unknown field.
pub fn parameters<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, Problem> {
    let mut text = Cow::Borrowed(request.query_string());
    if request.extensions().get::<Waited>().is_some() {
        let others = text.split('&').filter(|parameter| is_wait_for(parameter).is_none());
        text = Cow::Owned(others.collect::<Vec<_>>().join("&"));
    }
    parameters::read(&text)
}

/// Where the next page is, for `Link` (RFC 8288): the same question, from there on.
pub fn next_page(request: &HttpRequest, next: &str) -> Option<HeaderValue> {
    let parameters = request.query_string().split('&');
    let mut parameters: Vec<_> = parameters
        .filter(|parameter| !parameter.is_empty() && !parameter.starts_with("page="))
        .collect();
    let page = format!("page={next}");
    parameters.push(&page);
    let link = format!("<{}?{}>; rel=\"next\"", request.path(), parameters.join("&"));
    HeaderValue::from_bytes(link.as_bytes()).ok()
}

/// For addresses that take none.
pub fn no_parameters(request: &HttpRequest) -> Result<(), Problem> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct None {}
    let None {} = parameters(request)?;
    Ok(())
}

/// The one header of this name. Of two, nobody knows which is meant.
fn header<'a>(request: &'a HttpRequest, name: &'static str) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut all = request.headers().get_all(name);
    match (all.next(), all.next()) {
        (_, Some(_)) => Err(Problem::new(Code::InvalidField)
            .field(name)
            .because("it is there twice")),
        (one, None) => Ok(one),
    }
}

/// The id in the address. What is no id names nothing.
pub fn id<T: std::str::FromStr>(request: &HttpRequest) -> Result<T, Problem> {
    let text = request.match_info().get("id").unwrap_or_default();
    text.parse()
        .map_err(|_| Problem::new(Code::RowNotFound).because("the id is not a UUID"))
}

/// The tag that the row must still have, from `If-Match` (RFC 9110, section 13.1.1). The version alone will do: it stands in the
/// row.
pub fn base(request: &HttpRequest) -> Result<Option<(Seq, Option<Mark>)>, Problem> {
    let Some(value) = header(request, "If-Match")? else {
        return Ok(None);
    };
    let version = value.to_str().ok().map(str::trim).and_then(|text| {
        if text == "*" {
            return Some(None);
        }
        let inside = text.strip_prefix('"')?.strip_suffix('"')?;
        let (digits, mark) = match inside.split_once('-') {
            Some((digits, mark)) => (digits, Some(Mark::parse(mark)?)),
            None => (inside, None),
        };
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse().ok().map(|version| Some((version, mark))))?
    });
    version.ok_or_else(|| {
        Problem::new(Code::InvalidField)
            .field("If-Match")
            .because("it must be the ETag of the row, with its quotes")
    })
}

/// What the client has already, from `If-None-Match` (RFC 9110, section 13.1.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Had {
    tags: Vec<String>,
    any: bool,
}

impl Had {
    /// Of this request. What is no tag matches nothing.
    pub fn of(request: &HttpRequest) -> Self {
        let lines = request.headers().get_all(header::IF_NONE_MATCH);
        let tags = lines
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(','));
        let tags: Vec<String> = tags.map(|tag| opaque(tag).to_owned()).collect();
        Self {
            any: tags.iter().any(|tag| tag == "*"),
            tags,
        }
    }

    /// Whether this is among it. The comparison is the weak one: a tag means the same with and without `W/`.
    pub fn has(&self, tag: &str) -> bool {
        self.any || self.tags.iter().any(|known| known == opaque(tag))
    }
}

fn opaque(tag: &str) -> &str {
    let tag = tag.trim();
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// Refuses `Idempotency-Key` where nothing is remembered under it: whoever sends it relies on it.
pub fn no_operation_id(request: &HttpRequest) -> Result<(), Problem> {
    match header(request, "Idempotency-Key")? {
        None => Ok(()),
        Some(_) => Err(Problem::new(Code::InvalidField)
            .field("Idempotency-Key")
            .because("sent again, this makes another; look at the list before, and leave the header out")),
    }
}

/// The id of the operation, from `Idempotency-Key`: what is sent again under the same is done once.
pub fn operation_id(request: &HttpRequest) -> Result<Option<OperationId>, Problem> {
    let Some(value) = header(request, "Idempotency-Key")? else {
        return Ok(None);
    };
    let id = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().trim_matches('"').parse().ok());
    let refused = |code, cause| Problem::new(code).field("Idempotency-Key").because(cause);
    match id {
        None => Err(refused(Code::InvalidField, "it must be a UUID")),
        Some(OperationId(id)) if id.is_nil() => {
            let cause = "the nil UUID names no operation: make a new id for each";
            Err(refused(Code::ValueInvalid, cause))
        }
        id => Ok(id),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::HttpMessage as _;

    use super::*;

    #[test]
    fn an_own_head_says_the_same_and_lets_go_of_the_buffer() {
        let buffer = Bytes::from(b"/api/v1/tasks?list=1 one two".to_vec());
        let mut request = Request::new();
        let head = request.head_mut();
        head.uri = Uri::from_maybe_shared(buffer.slice(..20)).expect("an address");
        for part in [21..24, 25..28] {
            let value = HeaderValue::from_maybe_shared(buffer.slice(part)).expect("a value");
            head.headers.append(header::VIA, value);
        }
        assert!(!buffer.is_unique(), "the head holds the buffer");
        let request = own_head(request);
        assert!(buffer.is_unique());
        assert_eq!(request.uri(), "/api/v1/tasks?list=1");
        let via: Vec<_> = request.headers().get_all(header::VIA).collect();
        assert_eq!(via, ["one", "two"]);
    }
}
