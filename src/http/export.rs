//! `/api/v1/export`: everything of a user in one file.

use actix_web::http::header;
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::stream;
use serde::Serialize;
use taskflow_protocol::message::Snapshot;
use taskflow_protocol::values::UnixMs;
use taskflow_protocol::{Encoding, UserId};

use crate::auth::Event;
use crate::http::problem::Problem;
use crate::http::{Api, compress, feed, request, sign_in};

/// Of the file's form. A reader refuses what is newer than itself.
const FORM: u32 = 1;

/// `GET /api/v1/export`: one JSON document, written as the client reads. What is cut off is no JSON, and so noticed.
pub async fn get(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::reader(&api, &http).await?;
    request::no_parameters(&http)?;
    let asker = sign_in::asker(&api, &http, None)?;
    let noted = api.sign_ins.note(caller.user, Event::Exported, caller.sign_in, &asker);
    noted.await;
    let now = api.clock.now_ms();
    let (pieces, _) = feed::load(&api, caller.user).await?;
    let chunks = pieces.map(move |piece| Ok::<_, actix_web::Error>(Bytes::from(chunk(caller.user, now, &piece))));
    let mut response = HttpResponse::Ok();
    response
        .content_type("application/json")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::CONTENT_DISPOSITION, "attachment; filename=\"taskflow.json\""));
    Ok(compress::pieces(http.headers(), response, stream::iter(chunks)))
}

/// The part of the document that a piece of the snapshot is.
fn chunk(user: UserId, now: UnixMs, piece: &Snapshot) -> Vec<u8> {
    let mut text = Vec::new();
    let mut field = |before: &str, name: &str, value: &dyn Fn() -> Vec<u8>| {
        text.extend_from_slice(before.as_bytes());
        text.extend_from_slice(format!("\"{name}\":").as_bytes());
        text.extend_from_slice(&value());
    };
    if piece.piece == 0 {
        field("{", "taskflow", &|| json(&FORM));
        field(",", "user", &|| json(&user));
        field(",", "exported_at", &|| json(&now));
        field(",", "settings", &|| json(&piece.settings));
        field(",", "lists", &|| json(&piece.lists));
        field(",", "labels", &|| json(&piece.labels));
        field(",", "tasks", &|| b"[".to_vec());
    }
    // The first tasks come in the second piece.
    let comma_from = usize::from(piece.piece == 1);
    for (at, task) in piece.tasks.iter().enumerate() {
        if at >= comma_from {
            text.push(b',');
        }
        text.extend_from_slice(&json(task));
    }
    if let Some(done) = &piece.done {
        text.extend_from_slice(b"],\"left_out\":");
        text.extend_from_slice(&json(&done.left_out));
        text.push(b'}');
    }
    text
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    Encoding::Json.encode(value)
}
