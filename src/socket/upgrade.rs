//! The WebSocket handshake (RFC 6455, section 4.2), on the same port as everything else.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use actix_http::header::{self, HeaderMap};
use actix_http::{HttpMessage, ws};
use actix_http::{Request, h1};
use socket2::SockRef;
use taskflow_protocol::message::ErrorBody;
use taskflow_protocol::{Code, Encoding, SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK, SUBPROTOCOL_TOKEN_PREFIX};

use super::hub::Hub;
use super::wire::Wire;
use super::worker::Worker;
use crate::config::{Config, Live};
use crate::http::problem::{PROBLEM_JSON, Problem};
use crate::http::rates::{Asked, Denied, TooMuch};
use crate::http::{address, host_of};
use crate::telemetry::metrics::{Handshake, Shed};
use crate::telemetry::request_id::{self, RequestId, X_REQUEST_ID};

/// Where sockets are opened.
pub const PATH: &str = "/api/v1/socket";

/// What the kernel holds for a peer, in bytes (it doubles the figure). Unbounded, a peer that does not read pinned
/// 3.7 MiB.
const SEND_BUFFER_BYTES: usize = 128 * 1024;

/// What the handshake agreed on.
#[derive(Debug, PartialEq)]
struct Agreed {
    encoding: Encoding,
    /// The subprotocol to echo; none if none was offered.
    subprotocol: Option<&'static str>,
    token: Option<String>,
}

/// Answers an upgrade request and hands the socket to the worker.
pub async fn accept<IO: Into<Wire>>(
    worker: Rc<Worker>,
    config: Arc<Live>,
    request: Request,
    framed: actix_codec::Framed<IO, h1::Codec>,
) {
    let config = config.now();
    let id = RequestId::of(request.headers());
    let parts = framed.into_parts();
    let stream: Wire = parts.io.into();
    // The answers to requests that were pipelined before this one.
    if stream.write_all(&parts.write_buf).await.is_err() {
        return;
    }
    let pending = Pending::more(&worker);
    let agreed = match pending.before < config.handshakes_max {
        true => admit(&worker, &config, &request).await,
        false => Err(ErrorBody::new(Code::ServerBusy)),
    };
    // Counted before the answer is on its way: handshakes at the same moment must not all find the last place.
    let agreed = agreed.and_then(|agreed| {
        Ok((
            agreed,
            Counted::more(worker.gateway.hub.clone(), config.connections_max)?,
        ))
    });
    let (agreed, counted) = match agreed {
        Ok(agreed) => agreed,
        Err(error) => {
            let limited = matches!(
                error.code,
                Code::ServerBusy | Code::ShuttingDown | Code::RateLimited | Code::Overloaded
            );
            let outcome = if limited {
                Handshake::Limited
            } else {
                Handshake::Refused
            };
            worker.gateway.metrics.handshakes.of(outcome).inc();
            return refuse(&stream, id, &error).await;
        }
    };
    let socket = SockRef::from(stream.tcp());
    // A platform that lacks it serves without: it bounds what a dead peer costs, not what is right.
    drop(socket.set_send_buffer_size(SEND_BUFFER_BYTES));
    drop(stream.tcp().set_nodelay(true));
    let key = request
        .headers()
        .get(header::SEC_WEBSOCKET_KEY)
        .map_or(&[][..], |key| key.as_bytes());
    let accept = ws::hash_key(key);
    let accept = std::str::from_utf8(&accept).expect("base64 is ASCII");
    let protocol = agreed
        .subprotocol
        .map(|name| format!("sec-websocket-protocol: {name}\r\n"))
        .unwrap_or_default();
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-accept: {accept}\r\n{X_REQUEST_ID}: {}\r\n{protocol}\r\n",
        id.as_str()
    );
    if stream.write_all(response.as_bytes()).await.is_ok() {
        worker.gateway.metrics.handshakes.of(Handshake::Accepted).inc();
        counted.hand_over();
        worker.adopt(stream, agreed.encoding, agreed.token, &parts.read_buf);
    }
}

/// One handshake more under way; one less when it is dropped.
struct Pending<'a> {
    worker: &'a Worker,
    before: usize,
    since: Instant,
}

impl<'a> Pending<'a> {
    fn more(worker: &'a Worker) -> Self {
        worker.gateway.metrics.handshakes_pending.inc();
        let before = worker.gateway.hub.handshakes.fetch_add(1, Ordering::Relaxed);
        Self {
            worker,
            before,
            since: Instant::now(),
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.worker.gateway.hub.handshakes.fetch_sub(1, Ordering::Relaxed);
        let metrics = &self.worker.gateway.metrics;
        metrics.handshakes_pending.dec();
        metrics.handshake_duration.observe(self.since.elapsed());
    }
}

/// One connection more in the count of all; taken out again when it is dropped, unless a worker takes that over.
struct Counted(Option<Arc<Hub>>);

impl Counted {
    fn more(hub: Arc<Hub>, connections_max: usize) -> Result<Self, ErrorBody> {
        let before = hub.connections.fetch_add(1, Ordering::Relaxed);
        let counted = Self(Some(hub));
        if before < connections_max {
            Ok(counted)
        } else {
            Err(ErrorBody::new(Code::ServerBusy))
        }
    }

    fn hand_over(mut self) {
        self.0 = None;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(hub) = &self.0 {
            hub.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Whoever brings a good token asks as its user, everybody else as a stranger: behind one address there may be many users, and
/// all of them come back at once.
///
/// A token that came along is checked here: whoever may not come in gets an HTTP status. The answer is remembered, so that
/// `hello` does not check the signature again.
async fn admit(worker: &Worker, config: &Config, request: &Request) -> Result<Agreed, ErrorBody> {
    let gateway = &worker.gateway;
    let peer = request.peer_addr().map(|peer| peer.ip());
    let address = address::behind(peer, request.headers(), config);
    let agreed = match agree(worker, config, request) {
        // It is not the fault of who asked.
        Err(error) if error.code.http_status() == 503 => return Err(error),
        agreed => agreed,
    };
    if let Ok(Agreed { token: Some(token), .. }) = &agreed {
        let claims = gateway.rates.claims(&gateway.tokens, token, || address).await;
        let claims = claims.map_err(|denied| match denied {
            Denied::Code(code) => ErrorBody::new(code),
            Denied::TooMuch(too_much) => too_much.error(),
        })?;
        let passed = gateway.rates.user(Asked::Reads, claims.user, 1);
        passed.map_err(TooMuch::error)?;
        return agreed;
    }
    gateway.rates.stranger(address).map_err(TooMuch::error)?;
    agreed
}

/// Decides what to answer.
fn agree(worker: &Worker, config: &Config, request: &Request) -> Result<Agreed, ErrorBody> {
    if request.path() != PATH {
        return Err(ErrorBody::new(Code::NotFound));
    }
    if worker.is_draining() {
        return Err(ErrorBody::new(Code::ShuttingDown));
    }
    let may = worker.gateway.overload.may(Shed::Connections);
    may.map_err(ErrorBody::new)?;
    ws::verify_handshake(request.head()).map_err(|error| ErrorBody::new(Code::FramingError).because(error))?;
    let headers = request.headers();
    let host = host_of(request.uri(), headers);
    if !config.is_host(host) {
        return Err(ErrorBody::new(Code::HostRefused));
    }
    if let Some(origin) = headers.get(header::ORIGIN)
        && !origin
            .to_str()
            .is_ok_and(|origin| config.origins_allowed.allow(origin, host))
    {
        return Err(ErrorBody::new(Code::OriginRefused));
    }
    let mut agreed = negotiate(headers)?;
    if let Some(bearer) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) {
        // The scheme's name is in any case (RFC 9110, section 11.1). Another scheme is not ours: the token may be in hello.
        let token = bearer
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        agreed.token = token.map(|(_, token)| token.trim().to_owned()).or(agreed.token);
    }
    Ok(agreed)
}

/// Chooses the first subprotocol that is known, and takes a token that is offered beside it.
fn negotiate(headers: &HeaderMap) -> Result<Agreed, ErrorBody> {
    let mut agreed = Agreed {
        encoding: Encoding::Json,
        subprotocol: None,
        token: None,
    };
    let mut offered = false;
    for value in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
        for name in value.to_str().unwrap_or_default().split(',').map(str::trim) {
            if let Some(token) = name.strip_prefix(SUBPROTOCOL_TOKEN_PREFIX) {
                agreed.token = Some(token.to_owned());
                continue;
            }
            offered = true;
            let known = [
                (SUBPROTOCOL_JSON, Encoding::Json),
                (SUBPROTOCOL_MSGPACK, Encoding::MsgPack),
            ];
            if let (None, Some((known, encoding))) =
                (agreed.subprotocol, known.into_iter().find(|(known, _)| *known == name))
            {
                agreed.subprotocol = Some(known);
                agreed.encoding = encoding;
            }
        }
    }
    if agreed.subprotocol.is_none() && (offered || agreed.token.is_some()) {
        return Err(ErrorBody::new(Code::VersionUnsupported).field("sec-websocket-protocol"));
    }
    Ok(agreed)
}

async fn refuse(stream: &Wire, id: RequestId, error: &ErrorBody) {
    let status = error.code.http_status();
    let reason = actix_http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason());
    let body = {
        let _handling = request_id::Handling::of(id);
        Problem::from(error.clone()).json()
    };
    let body = String::from_utf8_lossy(&body);
    let retry = error
        .retry_after_ms
        .map(|ms| format!("retry-after: {}\r\n", ms.div_ceil(1000)))
        .unwrap_or_default();
    let response = format!(
        "HTTP/1.1 {status} {}\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\n{retry}\
         sec-websocket-version: 13\r\n{X_REQUEST_ID}: {}\r\nconnection: close\r\n\r\n{body}",
        reason.unwrap_or("Error"),
        body.len(),
        id.as_str(),
    );
    drop(stream.write_all(response.as_bytes()).await);
}
