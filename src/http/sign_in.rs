//! `/api/v1/auth/…`, `/api/v1/sessions` and the key set.

use std::net::IpAddr;
use std::sync::Once;

use actix_web::http::header;
use actix_web::web::{Data, Payload};
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, ResponseError as _};
use serde::{Deserialize, Serialize};
use taskflow_actors::domain::birth;
use taskflow_actors::ports::Account;
use taskflow_protocol::codes::Action;
use taskflow_protocol::limits::DEVICE_NAME_BYTES_MAX;
use taskflow_protocol::message::Outcome;
use taskflow_protocol::values::UnixMs;
use taskflow_protocol::{Code, UserId};
use uuid::Uuid;

use crate::auth::Event;
use crate::auth::password::Passwords;
use crate::auth::sign_in::{Asker, Opened, normalise_email, sign_in_of};
use crate::config::{Config, RateLimits, Registration};
use crate::http::attempts::Verdict;
use crate::http::cookie::Kept;
use crate::http::problem::Problem;
use crate::http::{Api, address, cookie, links, request};
use crate::mail::letters;
use crate::telemetry::metrics::SignInOutcome;

/// Who somebody is, with a password.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Credentials {
    pub email: String,
    pub password: String,
    pub device: Option<String>,
    #[serde(default)]
    pub cookie: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Register {
    email: String,
    password: String,
    time_zone: Option<String>,
    locale: Option<String>,
    device: Option<String>,
    #[serde(default)]
    cookie: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPassword {
    email: String,
    password: String,
    new_password: String,
    device: Option<String>,
    #[serde(default)]
    cookie: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Refresh {
    refresh_token: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Logout {
    refresh_token: Option<String>,
    everywhere: bool,
}

/// A sign-in, as its owner sees it.
#[derive(Serialize)]
struct Session {
    id: Uuid,
    device: String,
    address: String,
    created_at: UnixMs,
    seen_at: UnixMs,
    expires_at: UnixMs,
    current: bool,
}

#[derive(Serialize)]
struct Sessions {
    items: Vec<Session>,
    next: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    access_token: String,
    token_type: &'static str,
    expires_in: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    user: UserId,
}

pub(super) fn answer(
    api: &Api,
    mut response: actix_web::HttpResponseBuilder,
    opened: Opened,
    kept: Kept,
) -> HttpResponse {
    let refresh_token = match kept {
        Kept::ByClient => Some(opened.refresh_token),
        Kept::InCookie => {
            response.insert_header((
                header::SET_COOKIE,
                cookie::put(&api.config.now(), &opened.refresh_token),
            ));
            None
        }
    };
    response.insert_header(("cache-control", "no-store")).json(Answer {
        access_token: opened.access_token,
        token_type: "Bearer",
        expires_in: opened.expires_in,
        refresh_token,
        user: opened.user,
    })
}

/// Who asks: the device by the name that it gives itself, else by that of its program.
pub(super) fn asker(api: &Api, http: &HttpRequest, device: Option<String>) -> Result<Asker, Problem> {
    let device = match device {
        Some(device) if device.len() > DEVICE_NAME_BYTES_MAX || device.contains(char::is_control) => {
            let problem = Problem::new(Code::ValueInvalid).field("device");
            return Err(problem.because("it must be one line of 100 bytes at most"));
        }
        Some(device) => device,
        None => {
            let agent = http.headers().get(header::USER_AGENT);
            let agent = agent.and_then(|agent| agent.to_str().ok()).unwrap_or_default();
            // Headers that are text are ASCII.
            agent.chars().take(DEVICE_NAME_BYTES_MAX).collect()
        }
    };
    Ok(Asker {
        device,
        address: address_text(api, http),
    })
}

fn address_of(api: &Api, http: &HttpRequest) -> Option<IpAddr> {
    address::of(http, &api.config.now())
}

fn address_text(api: &Api, http: &HttpRequest) -> String {
    address_of(api, http).map_or_else(String::new, |address| address.to_string())
}

/// One more attempt for the account of this e-mail address, from wherever the request comes.
pub(super) fn attempt(api: &Api, http: &HttpRequest, email: &str) -> Result<(), Problem> {
    if address::is_passed_on_by_a_stranger(http, &api.config.now().trusted_proxies) {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            tracing::warn!(
                peer = http.peer_addr().map(tracing::field::display),
                "requests are passed on by a proxy that is not in trusted_proxies: all who come through it count as one \
                 address, and may soon sign in no more"
            );
        });
    }
    // What is no address is no account; it counts as it is written.
    let email = normalise_email(email).unwrap_or_else(|| email.to_owned());
    let quota = match api.attempts.try_one(address_of(api, http), &email, api.clock.now_ms()) {
        Verdict::Free => return Ok(()),
        Verdict::Passed(quota) => quota,
        Verdict::Refused(quota) => {
            api.metrics.sign_ins.of(SignInOutcome::Limited).inc();
            if api.config.now().rate_limits == RateLimits::Enforce {
                http.extensions_mut().insert(quota);
                let wait = u32::try_from(quota.more_in_ms).unwrap_or(u32::MAX);
                return Err(Problem::new(Code::TooManySignIns).retry_after_ms(wait));
            }
            return Ok(());
        }
    };
    http.extensions_mut().insert(quota);
    Ok(())
}

/// The account of somebody who has its password. It may be one that is to be deleted: see [`staying`].
pub(super) async fn authenticated(
    api: &Api,
    http: &HttpRequest,
    email: &str,
    password: String,
    asker: &Asker,
) -> Result<Account, Problem> {
    attempt(api, http, email)?;
    let account = api.sign_ins.authenticate(email, password, asker).await;
    account.map_err(|code| failed(api, code))
}

/// Refuses what is to be deleted.
pub(super) fn staying(account: Account) -> Result<Account, Problem> {
    match account.deletes_at {
        None => Ok(account),
        Some(at) => {
            let day = jiff::Timestamp::from_millisecond(at).map_or_else(|_| at.to_string(), |at| at.to_string());
            Err(Problem::new(Code::AccountDeleting).because(format_args!("it will be deleted at {day}")))
        }
    }
}

/// Opens a sign-in, and gives the user the feed that a crash kept from being made.
pub(super) async fn opened(api: &Api, account: &Account, asker: Asker) -> Result<Opened, Problem> {
    let opened = async {
        let user = account.user;
        let head = api.store.head(user).await.map_err(crate::http::read_code)?;
        if head.is_none() {
            api.router.birth(user, TIME_ZONE.to_owned(), LOCALE.to_owned()).await?;
        }
        api.sign_ins.open_with_password(account, asker).await
    };
    counted(api, SignInOutcome::Opened, opened.await)
}

/// What a feed is born with where the client does not say.
const TIME_ZONE: &str = "UTC";
const LOCALE: &str = "en";

/// The zone and the locale that a feed is born with. To be asked before anything is made that would stay, or used up.
pub(super) fn first_settings(zone: Option<String>, locale: Option<String>) -> Result<(String, String), Problem> {
    let zone = zone.unwrap_or_else(|| TIME_ZONE.to_owned());
    let locale = locale.unwrap_or_else(|| LOCALE.to_owned());
    match birth(UserId(Uuid::nil()), 0, &zone, &locale).map_err(|refusal| refusal.outcome()) {
        Err(Outcome::Refused(error)) => Err(error.into()),
        _ => Ok((zone, locale)),
    }
}

/// `POST /api/v1/auth/register`
pub async fn register(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let registration = api.config.now().registration;
    if registration == Registration::Closed {
        return Err(Problem::new(Code::RegistrationClosed));
    }
    let body: Register = request::sign_in_document(&http, payload).await?;
    let asker = asker(&api, &http, body.device)?;
    let (zone, locale) = first_settings(body.time_zone, body.locale)?;
    attempt(&api, &http, &body.email)?;
    if registration == Registration::Verified {
        links::needs_letters(&api)?;
        let made = api.sign_ins.register_unproven(&body.email, body.password, &asker);
        let news = made.await.map_err(|code| failed(&api, code))?;
        return Ok(links::posted(&api, news, letters::welcome));
    }
    let made = async {
        let user = api.sign_ins.register(&body.email, body.password).await?;
        // A crash before this leaves an account without a feed: the next sign-in makes up for it.
        api.router.birth(user, zone, locale).await?;
        api.sign_ins.open(user, asker.clone()).await
    };
    let opened = counted(&api, SignInOutcome::Registered, made.await)?;
    let (user, sign_in) = (opened.user, opened.sign_in);
    api.sign_ins.note(user, Event::Registered, sign_in, &asker).await;
    Ok(answer(
        &api,
        HttpResponse::Created(),
        opened,
        Kept::as_asked(body.cookie),
    ))
}

/// `POST /api/v1/auth/login`
pub async fn login(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let body: Credentials = request::sign_in_document(&http, payload).await?;
    let asker = asker(&api, &http, body.device)?;
    let account = authenticated(&api, &http, &body.email, body.password, &asker).await?;
    let opened = opened(&api, &staying(account)?, asker).await?;
    Ok(answer(&api, HttpResponse::Ok(), opened, Kept::as_asked(body.cookie)))
}

/// `POST /api/v1/auth/refresh`: by the refresh token in the body, or by that in the cookie.
pub async fn refresh(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let body: Refresh = request::document_or_default(&http, payload).await?;
    let asker = asker(&api, &http, None)?;
    let config = api.config.now();
    let (token, kept) = match body.refresh_token {
        Some(token) => (token, Kept::ByClient),
        None => {
            let token = cookie::token(&http, &config)?;
            let missing = Problem::new(Code::TokenMissing).field("refresh_token");
            let missing = missing.because("there is neither this field nor a cookie");
            (token.ok_or(missing)?, Kept::InCookie)
        }
    };
    if let Some(sign_in) = sign_in_of(&token) {
        let passed = api.rates.refresh(address_of(&api, &http), sign_in);
        passed.map_err(|too_much| too_much.problem(&mut http.extensions_mut()))?;
    }
    let opened = api.sign_ins.refresh(&token, &asker).await;
    match counted(&api, SignInOutcome::Opened, opened) {
        Ok(opened) => Ok(answer(&api, HttpResponse::Ok(), opened, kept)),
        Err(problem) => refused(problem, kept, &config),
    }
}

/// Takes a cookie away that is good for nothing more.
fn refused(problem: Problem, kept: Kept, config: &Config) -> Result<HttpResponse, Problem> {
    if kept == Kept::ByClient || problem.code().action() != Action::SignIn {
        return Err(problem);
    }
    let mut answer = problem.error_response();
    answer.headers_mut().append(header::SET_COOKIE, cookie::clear(config));
    Ok(answer)
}

/// `POST /api/v1/auth/password`: replaces the password, and ends every sign-in but the one that it answers with.
pub async fn password(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let body: NewPassword = request::sign_in_document(&http, payload).await?;
    let asker = asker(&api, &http, body.device)?;
    Passwords::check_new(&body.new_password)?;
    let account = authenticated(&api, &http, &body.email, body.password, &asker).await?;
    let account = staying(account)?;
    let to = account.email.clone();
    let changed = api.sign_ins.change_password(account, body.new_password, asker);
    let opened = counted(&api, SignInOutcome::Opened, changed.await)?;
    api.letters.post(letters::password_changed(to, &api.letters.base));
    Ok(answer(&api, HttpResponse::Ok(), opened, Kept::as_asked(body.cookie)))
}

/// `POST /api/v1/auth/logout`: ends the sign-in of the refresh token in the body, of the access token, or of the cookie; or all.
pub async fn logout(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let body: Logout = request::document_or_default(&http, payload).await?;
    let config = api.config.now();
    let by_refresh_token = match body.refresh_token {
        Some(token) => Some((token, Kept::ByClient)),
        None if http.headers().contains_key(header::AUTHORIZATION) => None,
        None => cookie::token(&http, &config)?.map(|token| (token, Kept::InCookie)),
    };
    let ended = match by_refresh_token {
        Some((token, kept)) => match api.sign_ins.end_by_refresh_token(&token).await {
            Ok(ended) => ended,
            Err(code) => return refused(code.into(), kept, &config),
        },
        None => {
            let claims = request::owner(&api, &http).await?;
            if !body.everywhere {
                api.sign_ins.end(claims.user, claims.sign_in).await?;
            }
            Some((claims.user, claims.sign_in))
        }
    };
    let asker = asker(&api, &http, None)?;
    if body.everywhere {
        // A token that is good no more names nobody: it must not look as if all had been ended.
        let (user, sign_in) = ended.ok_or(Code::SignedOut)?;
        api.sign_ins.end_all(user).await?;
        api.sign_ins
            .note(user, Event::SignedOutEverywhere, sign_in, &asker)
            .await;
    } else if let Some((user, sign_in)) = ended {
        api.sign_ins.note(user, Event::SignedOut, sign_in, &asker).await;
    }
    let mut answer = HttpResponse::NoContent();
    if cookie::is_there(&http, &config) {
        answer.append_header((header::SET_COOKIE, cookie::clear(&config)));
    }
    Ok(answer.finish())
}

/// `GET /api/v1/sessions`: where the user is signed in, the one used last first.
pub async fn sessions(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::owner(&api, &http).await?;
    request::no_parameters(&http)?;
    let all = api.sign_ins.of_user(caller.user).await?;
    let items = all.into_iter().map(|(sign_in, device)| Session {
        id: sign_in.id,
        device: device.name,
        address: device.address,
        created_at: device.created_at,
        seen_at: sign_in.rotated_at,
        expires_at: sign_in.expires_at,
        current: sign_in.id == caller.sign_in,
    });
    let answer = Sessions {
        items: items.collect(),
        next: None,
    };
    Ok(HttpResponse::Ok()
        .insert_header(("cache-control", "no-store"))
        .json(answer))
}

/// `DELETE /api/v1/sessions/{id}`
pub async fn end_session(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::owner(&api, &http).await?;
    let id: Uuid = request::id(&http)?;
    let all = api.sign_ins.of_user(caller.user).await?;
    if !all.iter().any(|(sign_in, _)| sign_in.id == id) {
        return Err(Code::RowNotFound.into());
    }
    api.sign_ins.end(caller.user, id).await?;
    let asker = asker(&api, &http, None)?;
    api.sign_ins.note(caller.user, Event::SessionEnded, id, &asker).await;
    Ok(HttpResponse::NoContent().finish())
}

/// `GET /.well-known/jwks.json`
pub async fn jwks(api: Data<Api>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("application/json")
        .insert_header(("cache-control", "public, max-age=300"))
        .body(api.tokens.jwks())
}

fn counted(api: &Api, success: SignInOutcome, result: Result<Opened, Code>) -> Result<Opened, Problem> {
    let opened = result.map_err(|code| failed(api, code))?;
    api.metrics.sign_ins.of(success).inc();
    Ok(opened)
}

pub(super) fn failed(api: &Api, code: Code) -> Problem {
    let outcome = match code {
        Code::SignInBusy => SignInOutcome::Busy,
        code if code.http_status() < 500 => SignInOutcome::Refused,
        _ => SignInOutcome::Failed,
    };
    api.metrics.sign_ins.of(outcome).inc();
    code.into()
}
