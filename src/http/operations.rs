//! `POST /api/v1/operations`, and how every other change becomes an operation.

use std::time::Duration;

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use taskflow_actors::domain::State;
use taskflow_actors::supervisor::{Committed, Router, Settled};
use taskflow_protocol::message::{Accepted, Command, Operation, OperationResult, Outcome, Results};
use taskflow_protocol::values::Seq;
use taskflow_protocol::{Code, Encoding, OperationId, UserId};

use crate::auth::sign_in::new_id;
use crate::http::problem::Problem;
use crate::http::rates::Asked;
use crate::http::{Api, request};
use crate::telemetry::trace;

/// How long a request waits for its answer. A store that takes longer has failed; then nobody knows (`outcome_unknown`).
const ANSWER_SECONDS_MAX: u64 = 30;

/// `POST /api/v1/operations`: the answer is in the encoding of the question.
pub async fn submit(api: Data<Api>, http: HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
    let caller = request::author(&api, &http).await?;
    let encoding = request::encoding(&http)?;
    let bytes = request::body(&http, payload).await?;
    // One bad operation does not take its neighbours with it, as on the socket.
    let (body, refused) = encoding.decode_operations(&bytes)?;
    if body.feed.is_some_and(|feed| feed != caller.user) {
        return Err(Problem::new(Code::FeedNotFound).field("feed"));
    }
    request::count(&api, &http, Asked::Writes, caller.user, body.operations.len().max(1))?;
    let mut results = match body.operations.is_empty() {
        true => Vec::new(),
        false => submit_all(&api, caller.user, body.operations).await?.results,
    };
    // In the order of the operations: the places are ascending, so each one is right when it is filled.
    for (place, refusal) in refused {
        results.insert(place.min(results.len()), refusal);
    }
    let content_type = match encoding {
        Encoding::Json => "application/json",
        Encoding::MsgPack => "application/msgpack",
    };
    let answer = encoding.encode(&Results { results });
    Ok(HttpResponse::Ok().content_type(content_type).body(answer))
}

async fn submit_all(api: &Api, user: UserId, operations: Vec<Operation>) -> Result<Settled, Problem> {
    let within = Duration::from_secs(ANSWER_SECONDS_MAX);
    let ask = async {
        let again = operations.clone();
        let settled = api.router.ask(user, user, operations, trace::current()).await;
        if settled.results.iter().any(is_feed_missing) {
            born(&api.router, user).await?;
            return Ok(api.router.ask(user, user, again, trace::current()).await);
        }
        Ok(settled)
    };
    tokio::time::timeout(within, ask)
        .await
        .unwrap_or_else(|_| Err(Code::OutcomeUnknown.into()))
}

fn is_feed_missing(result: &OperationResult) -> bool {
    matches!(&result.outcome, Outcome::Refused(error) if error.code == Code::FeedNotFound)
}

/// Gives a user the feed that is missing: a registration was cut short, or the operator minted a token for a new user.
pub async fn born(router: &Router, user: UserId) -> Result<(), Code> {
    router.birth(user, "UTC".to_owned(), "en".to_owned()).await
}

/// Looks at the user's feed.
pub async fn view<T: Send + 'static>(
    router: &Router,
    user: UserId,
    look: impl FnOnce(&State) -> T + Clone + Send + 'static,
) -> Result<T, Code> {
    match router.view(user, look.clone()).await {
        Err(Code::FeedNotFound) => {
            born(router, user).await?;
            router.view(user, look).await
        }
        found => found,
    }
}

/// The id of the request's operation: from `Idempotency-Key`, or a new one.
pub fn operation_id(api: &Api, http: &HttpRequest) -> Result<OperationId, Problem> {
    match request::operation_id(http)? {
        Some(id) => Ok(id),
        None => Ok(OperationId(new_id(api.clock.now_ms()))),
    }
}

/// Submits one command and waits until it is durable. With the answer comes what was committed with it, unless it was given
/// before.
pub async fn submit_one(
    api: &Api,
    user: UserId,
    id: OperationId,
    base: Option<Seq>,
    command: Command,
) -> Result<(Accepted, Option<Committed>), Problem> {
    let operation = Operation { id, base, command };
    let settled = submit_all(api, user, vec![operation]).await;
    // Who sent no id gets ours: repeating the request under it is then safe.
    let mut settled = settled.map_err(|problem| problem.operation(id))?;
    match settled.results.pop().map(|result| result.outcome) {
        Some(Outcome::Accepted(accepted)) => Ok((accepted, settled.committed)),
        Some(Outcome::Refused(error)) => Err(Problem::from(error)),
        Some(Outcome::Conflict(conflict)) => Err(Problem::new(Code::VersionConflict).row(conflict.row)),
        Some(Outcome::Unknown(error)) => Err(Problem::from(error).operation(id)),
        None => Err(Problem::new(Code::OutcomeUnknown).operation(id)),
    }
}
