//! The account itself: its e-mail address, its deletion, and what happened to it.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use taskflow_protocol::Code;
use taskflow_protocol::values::UnixMs;
use uuid::Uuid;

use crate::config::Registration;
use crate::http::cookie::Kept;
use crate::http::problem::Problem;
use crate::http::sign_in::{Credentials, answer, asker, authenticated, opened, staying};
use crate::http::{Api, links, request};
use crate::mail::letters;

const DAY_MS: i64 = 86_400_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewEmail {
    email: String,
    password: String,
    new_email: String,
}

/// `POST /api/v1/auth/email`: replaces the e-mail address, or, where addresses are verified, sends a letter there first. Whoever
/// is signed in stays so.
pub async fn email(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let body: NewEmail = request::sign_in_document(&http, payload).await?;
    let asker = asker(&api, &http, None)?;
    let account = authenticated(&api, &http, &body.email, body.password, &asker).await?;
    let account = staying(account)?;
    let wrong = |code| match code {
        Code::EmailInvalid | Code::EmailTaken => Problem::new(code).field("new_email"),
        other => other.into(),
    };
    if api.config.now().registration == Registration::Verified {
        links::needs_letters(&api)?;
        let news = api.sign_ins.link_to_move(&account, &body.new_email).await;
        return Ok(links::posted(&api, news.map_err(wrong)?, letters::confirm_move));
    }
    let old = account.email.clone();
    let changed = api.sign_ins.change_email(account, &body.new_email, &asker);
    changed.await.map_err(wrong)?;
    let letter = letters::email_changed(old, &api.letters.base, &body.new_email);
    api.letters.post(letter);
    Ok(HttpResponse::NoContent().finish())
}

#[derive(Serialize)]
struct Deleting {
    deletes_at: UnixMs,
}

/// `POST /api/v1/auth/delete`: deletes the account after the grace that the operator gives, and signs out everywhere now.
pub async fn delete(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let body: Credentials = request::sign_in_document(&http, payload).await?;
    let asker = asker(&api, &http, body.device)?;
    let account = authenticated(&api, &http, &body.email, body.password, &asker).await?;
    let at = api.clock.now_ms() + i64::from(api.config.now().account_grace_days) * DAY_MS;
    let deletes_at = api.sign_ins.request_deletion(account, at, &asker).await?;
    if deletes_at <= api.clock.now_ms() {
        api.deletions.now.notify_one();
    }
    Ok(HttpResponse::Accepted()
        .insert_header(("cache-control", "no-store"))
        .json(Deleting { deletes_at }))
}

/// `POST /api/v1/auth/restore`: keeps an account that was to be deleted, and signs in.
pub async fn restore(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let body: Credentials = request::sign_in_document(&http, payload).await?;
    let asker = asker(&api, &http, body.device)?;
    let account = authenticated(&api, &http, &body.email, body.password, &asker).await?;
    let account = api.sign_ins.cancel_deletion(account, &asker).await?;
    let opened = opened(&api, &account, asker).await?;
    Ok(answer(&api, HttpResponse::Ok(), opened, Kept::as_asked(body.cookie)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoryQuery {
    limit: Option<usize>,
    page: Option<String>,
}

#[derive(Serialize)]
struct Noted {
    at: UnixMs,
    event: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<Uuid>,
    address: String,
    device: String,
}

#[derive(Serialize)]
struct History {
    items: Vec<Noted>,
    next: Option<String>,
}

/// `GET /api/v1/history`: what happened to the account in the last 90 days, the newest first.
pub async fn history(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::owner(&api, &http).await?;
    let query: HistoryQuery = request::parameters(&http)?;
    let limit = request::limit(query.limit)?;
    let before = query.page.as_deref().map(place).transpose()?;
    let mut notes = api.sign_ins.history(caller.user, before, limit + 1).await?;
    let has_more = notes.len() > limit;
    notes.truncate(limit);
    let last = notes.last().filter(|_| has_more);
    let next = last.map(|note| format!("{}.{}", note.at, note.id.simple()));
    let items = notes.into_iter().map(|note| Noted {
        at: note.at,
        event: note.event,
        session: Some(note.sign_in).filter(|sign_in| !sign_in.is_nil()),
        address: note.address,
        device: note.device,
    });
    let history = History {
        items: items.collect(),
        next,
    };
    let mut response = HttpResponse::Ok();
    response.insert_header(("cache-control", "no-store"));
    if let Some(link) = history.next.as_deref().and_then(|next| request::next_page(&http, next)) {
        response.insert_header(("link", link));
    }
    Ok(response.json(history))
}

/// The note that a page ended with.
fn place(text: &str) -> Result<(UnixMs, Uuid), Problem> {
    let place = text.split_once('.').and_then(|(at, id)| {
        let at = at.parse().ok()?;
        Some((at, id.parse().ok()?))
    });
    place.ok_or_else(|| {
        Problem::new(Code::ValueInvalid)
            .field("page")
            .because("it is not what next of another page said")
    })
}
