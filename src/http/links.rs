//! What links in letters lead to: a proven address, a new password.

use actix_web::web::{self, Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use taskflow_protocol::Code;

use crate::auth::password::Passwords;
use crate::auth::sign_in::normalise_email;
use crate::auth::{Link, News};
use crate::http::cookie::Kept;
use crate::http::pages;
use crate::http::problem::Problem;
use crate::http::sign_in::{answer, asker, attempt, failed, first_settings, opened, staying};
use crate::http::{Api, request};
use crate::mail::{Letter, letters};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Forgot {
    email: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reset {
    token: String,
    new_password: String,
    device: Option<String>,
    #[serde(default)]
    cookie: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Verify {
    token: String,
    password: String,
    time_zone: Option<String>,
    locale: Option<String>,
    device: Option<String>,
    #[serde(default)]
    cookie: bool,
}

/// Where a letter has to go out first: the settings may say so since a moment, and the mail server only since the next start.
pub(super) fn needs_letters(api: &Api) -> Result<(), Problem> {
    if api.letters.are_sent() {
        return Ok(());
    }
    Err(Code::NoLetters.into())
}

/// Posts what there is to write, and answers: a letter is on its way, whatever it says.
pub(super) fn posted(api: &Api, news: News, letter: fn(String, &str, &str) -> Letter) -> HttpResponse {
    let base = &api.letters.base;
    api.letters.post(match news {
        News::Link { to, token } => letter(to, base, &token),
        News::Known { to } => letters::known(to, base),
    });
    HttpResponse::Accepted().finish()
}

/// `POST /api/v1/auth/forgot`: sends a letter with a link to a new password, if there is such an account.
pub async fn forgot(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let body: Forgot = request::sign_in_document(&http, payload).await?;
    needs_letters(&api)?;
    if normalise_email(&body.email).is_none() {
        return Err(Problem::new(Code::EmailInvalid).field("email"));
    }
    attempt(&api, &http, &body.email)?;
    // Behind the answer, which says the same in the same time, whether there is an account or not.
    actix_web::rt::spawn(async move {
        match api.sign_ins.forgotten(&body.email).await {
            Ok(Some(news)) => drop(posted(&api, news, letters::reset)),
            Ok(None) => {}
            Err(code) => tracing::warn!(%code, "a letter with a link to a new password was not written"),
        }
    });
    Ok(HttpResponse::Accepted().finish())
}

fn link(api: &Api, http: &HttpRequest, token: &str) -> Result<Link, Problem> {
    let link = Link::parse(token).ok_or(Code::LinkInvalid)?;
    attempt(api, http, &link.email)?;
    Ok(link)
}

/// `POST /api/v1/auth/reset`: replaces the password, and ends every sign-in but the one that it answers with.
pub async fn reset(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let body: Reset = request::sign_in_document(&http, payload).await?;
    let asker = asker(&api, &http, body.device)?;
    Passwords::check_new(&body.new_password).map_err(|code| Problem::new(code).field("new_password"))?;
    let link = link(&api, &http, &body.token)?;
    let account = api.sign_ins.reset_password(&link, body.new_password, &asker).await;
    let account = account.map_err(|code| failed(&api, code))?;
    let letter = letters::password_changed(account.email.clone(), &api.letters.base);
    api.letters.post(letter);
    let opened = opened(&api, &staying(account)?, asker).await?;
    Ok(answer(&api, HttpResponse::Ok(), opened, Kept::as_asked(body.cookie)))
}

/// `POST /api/v1/auth/verify`: shows whose an address is, and signs in.
pub async fn verify(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let body: Verify = request::sign_in_document(&http, payload).await?;
    let asker = asker(&api, &http, body.device)?;
    let (zone, locale) = first_settings(body.time_zone, body.locale)?;
    let link = link(&api, &http, &body.token)?;
    let shown = api.sign_ins.prove(&link, body.password, &asker).await;
    let shown = shown.map_err(|code| failed(&api, code))?;
    let account = staying(shown.account)?;
    match shown.moved_from {
        Some(old) => {
            let letter = letters::email_changed(old, &api.letters.base, &account.email);
            api.letters.post(letter);
        }
        None => api.router.birth(account.user, zone, locale).await?,
    }
    let opened = opened(&api, &account, asker).await?;
    Ok(answer(&api, HttpResponse::Ok(), opened, Kept::as_asked(body.cookie)))
}

/// The pages that links lead to.
pub(super) fn page(cfg: &mut web::ServiceConfig) {
    let html = include_str!("links/page.html");
    let files = [
        ("/account/verify", html),
        ("/account/reset", html),
        ("/account/page.js", include_str!("links/page.js")),
        ("/account/page.css", include_str!("links/page.css")),
    ];
    pages::serve(cfg, &files);
}
