//! REST, event streams and long-polls, on actix-web.
//!
//! Architecture invariant: nothing here decides about tasks. A change becomes an operation and goes to its feed; what is
//! read comes from the feed's memory or from the log.

pub mod account;
pub mod activity;
pub mod address;
pub mod attempts;
pub mod compress;
pub mod cookie;
pub mod docs;
pub mod export;
pub mod feed;
pub mod idle;
pub mod links;
pub mod lists;
pub mod operations;
pub mod pages;
mod parameters;
pub mod problem;
pub mod rates;
pub mod request;
pub mod rows;
pub mod seats;
pub mod sign_in;
pub mod statistics;
pub mod tasks;
#[cfg(test)]
mod tests;
pub mod tokens;
#[cfg(test)]
mod wire_tests;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::http::{ConnectionType, Method, StatusCode, Uri};
use actix_web::middleware::{Next, from_fn};
use actix_web::{HttpMessage as _, HttpResponse, ResponseError as _, guard, web};
use taskflow_actors::ports::{BoxFuture, Clock, ReadError, Store, Tracer as _};
use taskflow_actors::supervisor::Router;
use taskflow_actors::trace::Span;
use taskflow_protocol::values::Seq;
use taskflow_protocol::{Code, UserId};
use tokio::sync::{Semaphore, watch};

use crate::auth::{Deletions, SignIns, Tokens};
use crate::config::{Config, Live};
use crate::http::attempts::{Attempts, Quota};
use crate::http::problem::Problem;
use crate::http::rates::Rates;
use crate::http::seats::Seats;
use crate::mail::Letters;
use crate::overload::Overload;
use crate::telemetry::metrics::{ConnectionKind, Route, Shed, StatusClass};
use crate::telemetry::request_id::{self, RequestId, X_REQUEST_ID};
use crate::telemetry::trace::Handling;
use crate::telemetry::{Metrics, Traces};

/// Tells when a feed has something new, so that streams and long-polls need not ask.
pub trait Changes: Send + Sync + 'static {
    /// Resolves once an entry above `after` was published on this node; at once if that is known already.
    ///
    /// Listening begins with the call, not with the first poll: whoever calls, then reads the log, then waits, misses
    /// nothing. It may resolve for nothing, and it may resolve late by the time that a lost publication takes to be found.
    fn changed(&self, feed: UserId, after: Seq) -> BoxFuture<()>;

    /// Resolves once what is published on other nodes comes in, for a feed that somebody listens to. Then is the time to
    /// read the log.
    fn listening(&self, feed: UserId) -> BoxFuture<()>;
    /// Since when nobody here can find out whether feeds have changed; `None`: they can.
    fn stale(&self) -> watch::Receiver<Option<Instant>>;
}

/// What the handlers work with: the data of the application (`web::Data<Api>`).
pub struct Api {
    /// Checks access tokens.
    pub tokens: Arc<Tokens>,
    /// Opens and ends sign-ins.
    pub sign_ins: Arc<SignIns>,
    /// Deletes accounts whose time has come.
    pub deletions: Arc<Deletions>,
    /// The way to every feed.
    pub router: Router,
    /// The log, for reading.
    pub store: Arc<dyn Store>,
    /// When there is something new.
    pub changes: Arc<dyn Changes>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// How often somebody may try to sign in.
    pub attempts: Arc<Attempts>,
    /// Where letters are posted.
    pub letters: Arc<Letters>,
    /// How much somebody may ask for.
    pub rates: Arc<Rates>,
    /// The settings.
    pub config: Arc<Live>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Which requests are traced; `None`: none.
    pub traces: Option<Arc<Traces>>,
    /// Event streams and long-polls that are open.
    pub seats: Arc<Seats>,
    /// Snapshots that are being loaded at once: each holds a feed in memory.
    pub snapshots: Arc<Semaphore>,
    /// When streams and long-polls end, once the server stops.
    pub leaving: watch::Receiver<Option<Leaving>>,
    /// The server has been told to stop: an answer is the last of its connection, so that the next request goes elsewhere.
    pub stopping: Arc<AtomicBool>,
    /// What is not done because there is too much to do.
    pub overload: Arc<Overload>,
}

macro_rules! resources {
    ($($path:literal { $($method:ident $handler:path),+ })+) => {
        /// Every address and its methods. `/openapi.json` describes exactly these.
        pub const ROUTES: &[(&str, &[&str])] = &[$(($path, &[$(stringify!($method)),+]),)+];

        fn resources(cfg: &mut web::ServiceConfig) {
            $(
                const _: () = assert!(!$path.is_empty());
                cfg.service(
                    web::resource($path)
                        $(.route(asked(Method::$method).to($handler)))+
                        .default_service(web::to(|| async {
                            method_not_allowed(&[$(stringify!($method)),+])
                        })),
                );
            )+
        }
    };
}

// In the order in which they are tried: what is hot stands first.
resources! {
    "/api/v1/tasks" { POST tasks::create, GET tasks::page }
    "/api/v1/operations" { POST operations::submit }
    "/api/v1/changes" { GET feed::changes }
    "/api/v1/events" { GET feed::events }
    "/api/v1/snapshot" { GET feed::snapshot }
    "/api/v1/tasks/{id}" { GET tasks::get, PATCH tasks::patch, DELETE tasks::delete }
    "/api/v1/tasks/{id}/complete" { POST tasks::complete }
    "/api/v1/tasks/{id}/reopen" { POST tasks::reopen }
    "/api/v1/tasks/{id}/move" { POST tasks::r#move }
    "/api/v1/tasks/{id}/restore" { POST tasks::restore }
    "/api/v1/lists" { GET lists::lists, POST lists::create_list }
    "/api/v1/lists/{id}" { GET lists::list, PATCH lists::patch_list, DELETE lists::delete_list }
    "/api/v1/lists/{id}/move" { POST lists::move_list }
    "/api/v1/lists/{id}/restore" { POST lists::restore_list }
    "/api/v1/labels" { GET lists::labels, POST lists::create_label }
    "/api/v1/labels/{id}" { GET lists::label, PATCH lists::patch_label, DELETE lists::delete_label }
    "/api/v1/labels/{id}/restore" { POST lists::restore_label }
    "/api/v1/settings" { GET lists::settings, PATCH lists::patch_settings }
    "/api/v1/auth/refresh" { POST sign_in::refresh }
    "/api/v1/auth/login" { POST sign_in::login }
    "/api/v1/auth/register" { POST sign_in::register }
    "/api/v1/auth/logout" { POST sign_in::logout }
    "/api/v1/auth/password" { POST sign_in::password }
    "/api/v1/auth/forgot" { POST links::forgot }
    "/api/v1/auth/reset" { POST links::reset }
    "/api/v1/auth/verify" { POST links::verify }
    "/api/v1/auth/email" { POST account::email }
    "/api/v1/auth/delete" { POST account::delete }
    "/api/v1/auth/restore" { POST account::restore }
    "/api/v1/activity" { GET activity::days }
    "/api/v1/statistics" { GET statistics::get }
    "/api/v1/export" { GET export::get }
    "/api/v1/sessions" { GET sign_in::sessions }
    "/api/v1/sessions/{id}" { DELETE sign_in::end_session }
    "/api/v1/tokens" { GET tokens::list, POST tokens::make }
    "/api/v1/tokens/{id}" { DELETE tokens::end }
    "/api/v1/history" { GET account::history }
    "/.well-known/jwks.json" { GET sign_in::jwks }
    "/openapi.json" { GET openapi }
}

/// Event streams and long-polls end within this time, each at a moment of its own.
#[derive(Clone, Copy, Debug)]
pub struct Leaving {
    /// From then on.
    pub from: tokio::time::Instant,
    /// So long.
    pub over: Duration,
}

/// Waits until the server ends what is at this share, from 0 to 1, of all that it ends, and counts that it does.
///
/// # Cancel safety
///
/// Dropping the future changes nothing.
async fn leave(metrics: &Metrics, leaving: &mut watch::Receiver<Option<Leaving>>, share: f64) {
    let Ok(Some(Leaving { from, over })) = leaving.wait_for(Option::is_some).await.map(|leaving| *leaving) else {
        return;
    };
    tokio::time::sleep_until(from + over.mul_f64(share)).await;
    metrics.drained.of(ConnectionKind::Request).inc();
}

/// Configures the application of the client port; its data is `web::Data<Api>`.
pub fn routes(cfg: &mut web::ServiceConfig) {
    let not_found = web::to(|| async { Problem::new(Code::NotFound).error_response() });
    cfg.service(
        web::scope("")
            .wrap(from_fn(front))
            .configure(resources)
            .configure(links::page)
            .configure(docs::page)
            // An upgrade does not come here (see `serve`): whatever does is no handshake.
            .service(web::resource("/api/v1/socket").to(|| async { Problem::new(Code::FramingError).error_response() }))
            .default_service(not_found),
    );
}

/// `GET /openapi.json`
async fn openapi() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .body(include_str!("openapi.json"))
}

/// Whatever may be asked for with GET may be with HEAD: that gets the same answer without its body (RFC 9110, section 9.3.2).
pub(crate) fn asked(method: Method) -> actix_web::Route {
    match method {
        Method::GET => web::route().guard(guard::Any(guard::Get()).or(guard::Head())),
        other => web::method(other),
    }
}

fn method_not_allowed(methods: &[&str]) -> HttpResponse {
    let mut response = Problem::new(Code::MethodNotAllowed).error_response();
    let head = methods.contains(&"GET").then_some("HEAD");
    let methods: Vec<&str> = methods.iter().copied().chain(head).collect();
    if let Ok(allow) = HeaderValue::from_str(&methods.join(", ")) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// Before every handler: what needs none. After it: what every answer says, and counts.
async fn front(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse, actix_web::Error> {
    let api = request.app_data::<web::Data<Api>>().cloned();
    let api = api.ok_or_else(|| actix_web::Error::from(Problem::new(Code::Internal)))?;
    let (route, begun) = (Route::of(request.path()), Instant::now());
    let config = api.config.now();
    let origin = request.headers().get(header::ORIGIN).cloned();
    let id = RequestId::of(request.headers());
    let traced = api
        .traces
        .as_ref()
        .and_then(|traces| traces.request(traceparent(&request)));
    let here = {
        let _handling = request_id::Handling::of(id);
        answered_here(&api, &config, &request, route, origin.as_ref())
    };
    let response = match here {
        Some(answer) => request.into_response(answer),
        None => {
            let mut handled = std::pin::pin!(next.call(request));
            let handled = std::future::poll_fn(|context| {
                let _handling = (request_id::Handling::of(id), traced.clone().map(Handling::of));
                handled.as_mut().poll(context)
            });
            let mut response = handled.await?.map_into_boxed_body();
            if let Some(origin) = &origin {
                allow_origin(response.headers_mut(), origin);
            }
            response
        }
    };
    let (request, response) = response.into_parts();
    let mut response = compress::whole(request.headers(), response);
    if *request.method() == Method::HEAD {
        response = response.map_body(|_, body| BoxBody::new(Untold(body.size())));
    }
    let mut response = ServiceResponse::new(request, response);
    let quota = response.request().extensions().get::<Quota>().copied();
    if let Some(quota) = quota {
        say_quota(response.headers_mut(), quota);
    }
    response.headers_mut().insert(X_REQUEST_ID, id.value());
    for (name, value) in FIXED_HEADERS {
        // A page has a policy of its own.
        if !response.headers().contains_key(&name) {
            response.headers_mut().insert(name, value);
        }
    }
    let is_own = |kept: &HeaderValue| kept.as_bytes().starts_with(b"private");
    if response.headers().get(header::CACHE_CONTROL).is_some_and(is_own) {
        // Of whoever's token it is: a cache may serve several users.
        let asked_by = HeaderValue::from_static("Authorization");
        response.headers_mut().append(header::VARY, asked_by);
    }
    if let Some(value) = strict_transport(&config) {
        response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, value);
    }
    if api.stopping.load(Ordering::Acquire) {
        response
            .response_mut()
            .head_mut()
            .set_connection_type(ConnectionType::Close);
    }
    let status = response.status();
    let class = StatusClass::of(status.as_u16());
    api.metrics.http_requests.of(route, class).inc();
    api.metrics.http_request_duration.of(route).observe(begun.elapsed());
    let handling = (request_id::Handling::of(id), traced.clone().map(Handling::of));
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(path = response.request().path(), "a request failed");
    }
    drop(handling);
    if let (Some(traces), Some(mut span)) = (&api.traces, traced.and_then(|traced| traced.take())) {
        describe(&mut span, &response);
        traces.end(span);
    }
    Ok(response)
}

/// The one header of this name: of two, nobody knows which is meant.
fn traceparent(request: &ServiceRequest) -> Option<&str> {
    let mut all = request.headers().get_all("traceparent");
    match (all.next(), all.next()) {
        (Some(one), None) => one.to_str().ok(),
        _ => None,
    }
}

/// Says what a request was and what became of it, in the words of OpenTelemetry. Of the address only which resource it is.
fn describe(span: &mut Span, response: &ServiceResponse) {
    let method = match *response.request().method() {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PUT => "PUT",
        _ => "_OTHER",
    };
    span.name = method.into();
    span.fact("http.request.method", method);
    if let Some(route) = response.request().match_pattern() {
        span.name = format!("{method} {route}").into();
        span.fact("http.route", route);
    }
    span.fact("http.response.status_code", u64::from(response.status().as_u16()));
    if let Some(problem) = response
        .response()
        .error()
        .and_then(actix_web::Error::as_error::<Problem>)
    {
        span.fact("taskflow.code", problem.code().name());
    }
    span.is_failed = response.status().is_server_error();
}

/// The answer to what no handler needs to see: a name that is not ours, a page of an origin that is not allowed, the question
/// of one that is, and a stranger who asks too often.
fn answered_here(
    api: &Api,
    config: &Config,
    request: &ServiceRequest,
    route: Route,
    origin: Option<&HeaderValue>,
) -> Option<HttpResponse> {
    let host = host_of(request.uri(), request.headers());
    if !config.is_host(host) {
        return Some(Problem::new(Code::HostRefused).error_response());
    }
    if let Some(origin) = origin {
        let text = origin.to_str();
        if !text.is_ok_and(|origin| config.origins_allowed.allow(origin, host)) {
            return Some(Problem::new(Code::OriginRefused).error_response());
        }
        if is_preflight(request.method(), request.headers()) {
            let mut answer = HttpResponse::NoContent().finish();
            allow_preflight(answer.headers_mut(), origin);
            return Some(answer);
        }
    }
    if let Err(code) = shed(request, route).map_or(Ok(()), |what| api.overload.may(what)) {
        let mut answer = Problem::new(code).error_response();
        if let Some(origin) = origin {
            allow_origin(answer.headers_mut(), origin);
        }
        return Some(answer);
    }
    let path = request.path();
    let is_read = path.starts_with("/api/v1/") && !path.starts_with("/api/v1/auth/");
    if is_read && request.headers().contains_key(header::AUTHORIZATION) {
        // A user, who has limits of their own, or whoever reads the token finds that it is none.
        return None;
    }
    let peer = request.peer_addr().map(|peer| peer.ip());
    match api.rates.stranger(address::behind(peer, request.headers(), config)) {
        Ok(quota) => {
            if let Some(quota) = quota {
                request.extensions_mut().insert(quota);
            }
            None
        }
        Err(too_much) => {
            let mut answer = too_much.problem(&mut request.extensions_mut()).error_response();
            if let Some(origin) = origin {
                allow_origin(answer.headers_mut(), origin);
            }
            Some(answer)
        }
    }
}

/// What a request is where not everything can be done. Whoever is signed in stays so, and can end what a thief has: refreshes,
/// sign-outs and the ends of sign-ins and tokens are always done, and pages, which cost nothing.
fn shed(request: &ServiceRequest, route: Route) -> Option<Shed> {
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    match route {
        Route::Account if *request.method() == Method::DELETE => None,
        Route::Auth if request.path().ends_with("/refresh") || request.path().ends_with("/logout") => None,
        Route::Auth => Some(Shed::SignIns),
        Route::Statistics | Route::Export => Some(Shed::Statistics),
        Route::Snapshot => Some(Shed::Snapshots),
        Route::Events => Some(Shed::Connections),
        Route::Changes if request.query_string().contains("wait=") => Some(Shed::Connections),
        Route::Other => None,
        _ if is_read => Some(Shed::Reads),
        _ => Some(Shed::Operations),
    }
}

/// What every answer says to browsers: nothing here is a page, nothing is to be guessed, shown in a frame or told to others.
const FIXED_HEADERS: [(header::HeaderName, HeaderValue); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    ),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        header::PERMISSIONS_POLICY,
        HeaderValue::from_static("camera=(), geolocation=(), microphone=()"),
    ),
];

/// The name by which the client reached this server. If it is in the address, `Host` counts for nothing (RFC 9112, section
/// 3.2.2); HTTP/2 has it only there.
pub(crate) fn host_of<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let named = uri.authority().map(|authority| authority.as_str());
    named.or_else(|| headers.get(header::HOST)?.to_str().ok())
}

/// The body of an answer to HEAD: nothing but its length.
struct Untold(BodySize);

impl MessageBody for Untold {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        self.0
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<web::Bytes, Infallible>>> {
        Poll::Ready(None)
    }
}

/// Where clients come over TLS, browsers are told to come over nothing else (RFC 6797).
fn strict_transport(config: &Config) -> Option<HeaderValue> {
    let seconds = Some(config.hsts_seconds).filter(|seconds| config.is_safe() && *seconds > 0)?;
    HeaderValue::from_str(&format!("max-age={seconds}")).ok()
}

/// What is left of the limit that the request counted for (draft-ietf-httpapi-ratelimit-headers-10).
fn say_quota(headers: &mut HeaderMap, quota: Quota) {
    let Quota {
        name,
        window_ms,
        max,
        left,
        more_in_ms,
    } = quota;
    let (window, more) = (window_ms / 1_000, (more_in_ms + 999) / 1_000);
    for (header, value) in [
        ("ratelimit-policy", format!("\"{name}\";q={max};w={window}")),
        ("ratelimit", format!("\"{name}\";r={left};t={more}")),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(header::HeaderName::from_static(header), value);
        }
    }
}

/// The question before a request of another origin (CORS, <https://fetch.spec.whatwg.org/#cors-preflight-request>).
fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn allow_origin(headers: &mut HeaderMap, origin: &HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    // The refresh token's cookie may come along, and be put: from pages of the origins that are allowed, and of no others.
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        HeaderValue::from_static("true"),
    );
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    let exposed = HeaderValue::from_static(
        "Deprecation, ETag, Link, Location, Preference-Applied, RateLimit, RateLimit-Policy, Retry-After, Sunset, X-Request-Id",
    );
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
}

fn allow_preflight(headers: &mut HeaderMap, origin: &HeaderValue) {
    allow_origin(headers, origin);
    let methods = HeaderValue::from_static("GET, POST, PATCH, DELETE");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    let names = HeaderValue::from_static(
        "Authorization, Content-Type, If-Match, If-None-Match, Idempotency-Key, Last-Event-ID, Prefer, Traceparent, \
         X-Request-Id",
    );
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
}

/// What a client is told when the store cannot be read.
#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
pub(crate) fn read_code(error: ReadError) -> Code {
    match error {
        ReadError::Unavailable(_) => {
            tracing::warn!(%error, "the store does not answer");
            Code::StoreUnavailable
        }
        ReadError::Damaged(_) => {
            tracing::error!(%error, "a stored feed is damaged");
            Code::FeedDamaged
        }
    }
}
