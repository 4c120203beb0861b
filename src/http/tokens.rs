//! `/api/v1/tokens`: personal access tokens.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use taskflow_actors::ports::{Access, Device, SignIn};
use taskflow_protocol::Code;
use taskflow_protocol::limits::{DEVICE_NAME_BYTES_MAX, TOKEN_DAYS_MAX, TOKENS_A_USER_MAX};
use taskflow_protocol::values::UnixMs;
use uuid::Uuid;

use crate::auth::Event;
use crate::http::problem::Problem;
use crate::http::sign_in::asker;
use crate::http::{Api, request};

const DAY_MS: i64 = 86_400_000;

/// What a token lets do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Scope {
    /// Look at tasks and all that belongs to them, and follow their changes.
    #[serde(rename = "tasks:read")]
    Read,
    /// Change them. Whoever may change may look.
    #[serde(rename = "tasks:write")]
    Write,
}

impl Scope {
    fn of(access: Access) -> Vec<Self> {
        match access {
            Access::Read => vec![Self::Read],
            Access::Write | Access::Owner => vec![Self::Read, Self::Write],
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewToken {
    name: String,
    scopes: Vec<Scope>,
    expires_in_days: u32,
}

/// A token, as its owner sees it.
#[derive(Serialize)]
struct Token {
    id: Uuid,
    name: String,
    scopes: Vec<Scope>,
    created_at: UnixMs,
    expires_at: UnixMs,
    /// Once, when it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl Token {
    fn of(sign_in: &SignIn, device: Device) -> Self {
        Self {
            id: sign_in.id,
            name: device.name,
            scopes: Scope::of(sign_in.access),
            created_at: device.created_at,
            expires_at: sign_in.expires_at,
            token: None,
        }
    }
}

#[derive(Serialize)]
struct Tokens {
    items: Vec<Token>,
    next: Option<String>,
}

/// `GET /api/v1/tokens`
pub async fn list(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::owner(&api, &http).await?;
    request::no_parameters(&http)?;
    let all = api.sign_ins.tokens_of(caller.user).await?;
    let items = all.into_iter().map(|(sign_in, device)| Token::of(&sign_in, device));
    let answer = Tokens {
        items: items.collect(),
        next: None,
    };
    Ok(HttpResponse::Ok()
        .insert_header(("cache-control", "no-store"))
        .json(answer))
}

/// `POST /api/v1/tokens`: the answer is the only place where the token itself ever stands.
pub async fn make(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let caller = request::owner(&api, &http).await?;
    request::no_operation_id(&http)?;
    let body: NewToken = request::document(&http, payload).await?;
    let wrong = |field: &str, cause: String| Problem::new(Code::ValueInvalid).field(field).because(cause);
    let name = body.name.trim();
    if name.is_empty() || name.len() > DEVICE_NAME_BYTES_MAX || name.contains(char::is_control) {
        let cause = format!("it must be one line of 1 to {DEVICE_NAME_BYTES_MAX} bytes");
        return Err(wrong("name", cause));
    }
    if !(1..=TOKEN_DAYS_MAX).contains(&body.expires_in_days) {
        let cause = format!("{} is not between 1 and {TOKEN_DAYS_MAX}", body.expires_in_days);
        return Err(wrong("expires_in_days", cause));
    }
    let access = match body.scopes.iter().max() {
        Some(Scope::Write) => Access::Write,
        Some(Scope::Read) => Access::Read,
        None => return Err(wrong("scopes", "a token without a scope could do nothing".to_owned())),
    };
    let asker = asker(&api, &http, Some(name.to_owned()))?;
    let life_ms = i64::from(body.expires_in_days) * DAY_MS;
    let made = api.sign_ins.make_token(caller.user, access, life_ms, asker.clone());
    let (sign_in, text) = made.await.map_err(|code| match code {
        Code::LimitReached => Problem::new(code).because(format_args!("there are {TOKENS_A_USER_MAX} tokens")),
        other => other.into(),
    })?;
    // It may have been ended since the request began; whoever ended it, and all there was, did not know of this one.
    if api.sign_ins.is_over(caller.sign_in).await? {
        api.sign_ins.end(caller.user, sign_in.id).await?;
        return Err(Code::SignedOut.into());
    }
    let noted = api.sign_ins.note(caller.user, Event::TokenMade, sign_in.id, &asker);
    noted.await;
    let device = Device {
        name: asker.device,
        address: asker.address,
        created_at: sign_in.rotated_at,
    };
    let answer = Token {
        token: Some(text),
        ..Token::of(&sign_in, device)
    };
    Ok(HttpResponse::Created()
        .insert_header(("cache-control", "no-store"))
        .json(answer))
}

/// `DELETE /api/v1/tokens/{id}`
pub async fn end(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::owner(&api, &http).await?;
    let id: Uuid = request::id(&http)?;
    let all = api.sign_ins.tokens_of(caller.user).await?;
    if !all.iter().any(|(sign_in, _)| sign_in.id == id) {
        return Err(Code::RowNotFound.into());
    }
    api.sign_ins.end(caller.user, id).await?;
    let asker = asker(&api, &http, None)?;
    api.sign_ins.note(caller.user, Event::TokenEnded, id, &asker).await;
    Ok(HttpResponse::NoContent().finish())
}
