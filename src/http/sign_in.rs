//! `/api/v1/auth/…` and the key set.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use taskflow_protocol::{Code, UserId};

use crate::auth::sign_in::Opened;
use crate::config::Registration;
use crate::http::problem::Problem;
use crate::http::{Api, request};
use crate::telemetry::metrics::SignInOutcome;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Credentials {
    email: String,
    password: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Register {
    email: String,
    password: String,
    time_zone: Option<String>,
    locale: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refresh {
    refresh_token: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Logout {
    refresh_token: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    access_token: String,
    token_type: &'static str,
    expires_in: u32,
    refresh_token: String,
    user: UserId,
}

fn answer(mut response: actix_web::HttpResponseBuilder, opened: Opened) -> HttpResponse {
    response.insert_header(("cache-control", "no-store")).json(Answer {
        access_token: opened.access_token,
        token_type: "Bearer",
        expires_in: opened.expires_in,
        refresh_token: opened.refresh_token,
        user: opened.user,
    })
}

/// What a feed is born with where the client does not say.
const TIME_ZONE: &str = "UTC";
const LOCALE: &str = "en";

/// `POST /api/v1/auth/register`
pub async fn register(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    if api.config.registration == Registration::Closed {
        return Err(Problem::new(Code::RegistrationClosed));
    }
    let body: Register = request::sign_in_document(&http, payload).await?;
    let made = async {
        let user = api.sign_ins.register(&body.email, body.password).await?;
        let zone = body.time_zone.unwrap_or_else(|| TIME_ZONE.to_owned());
        let locale = body.locale.unwrap_or_else(|| LOCALE.to_owned());
        // A crash before this leaves an account without a feed: the next sign-in makes up for it.
        api.router.birth(user, zone, locale).await?;
        api.sign_ins.open(user).await
    };
    let opened = counted(&api, SignInOutcome::Registered, made.await)?;
    Ok(answer(HttpResponse::Created(), opened))
}

/// `POST /api/v1/auth/login`
pub async fn login(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let body: Credentials = request::sign_in_document(&http, payload).await?;
    let opened = async {
        let user = api.sign_ins.authenticate(&body.email, body.password).await?;
        let head = api.store.head(user).await.map_err(crate::http::read_code)?;
        if head.is_none() {
            api.router.birth(user, TIME_ZONE.to_owned(), LOCALE.to_owned()).await?;
        }
        api.sign_ins.open(user).await
    };
    let opened = counted(&api, SignInOutcome::Opened, opened.await)?;
    Ok(answer(HttpResponse::Ok(), opened))
}

/// `POST /api/v1/auth/refresh`
pub async fn refresh(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let body: Refresh = request::sign_in_document(&http, payload).await?;
    let opened = api.sign_ins.refresh(&body.refresh_token).await;
    let opened = counted(&api, SignInOutcome::Opened, opened)?;
    Ok(answer(HttpResponse::Ok(), opened))
}

/// `POST /api/v1/auth/logout`: ends the sign-in of the refresh token in the body, or else of the access token.
pub async fn logout(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let body: Logout = request::document_or_default(&http, payload).await?;
    match body.refresh_token {
        Some(token) => api.sign_ins.end_by_refresh_token(&token).await?,
        None => {
            let claims = request::caller(&api, &http).await?;
            api.sign_ins.end(claims.user, claims.sign_in).await?;
        }
    }
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
    let outcome = match result {
        Ok(_) => success,
        Err(Code::SignInBusy) => SignInOutcome::Busy,
        Err(code) if code.http_status() < 500 => SignInOutcome::Refused,
        Err(_) => SignInOutcome::Failed,
    };
    api.metrics.sign_ins.of(outcome).increment(1);
    Ok(result?)
}
