//! `/api/v1/changes`, `/api/v1/snapshot` and `/api/v1/events`: following a feed without a WebSocket.
//!
//! All three are one loop: read the log after the cursor; if there is nothing, wait until the feed changes. The waiting
//! begins before the reading, so nothing can fall between.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use actix_web::http::header;
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::stream;
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use taskflow_actors::cursor::Cursor;
use taskflow_actors::domain::{Entry, State};
use taskflow_actors::feed::rebuild;
use taskflow_actors::ports::BoxFuture;
use taskflow_protocol::limits::{CATCH_UP_BYTES, LONG_POLL_SECONDS_MAX};
use taskflow_protocol::message::{
    self, Entries, ErrorBody, FollowMode, Following, Heartbeat, Reconnect, ResetReason, ServerMessage, Snapshot,
};
use taskflow_protocol::values::{Seq, UnixMs};
use taskflow_protocol::{Code, Encoding, UserId};
use tokio::sync::watch;

use crate::auth::Claims;
use crate::auth::token::SignInWatch;
use crate::http::problem::Problem;
use crate::http::seats::Seat;
use crate::http::{Api, Leaving, compress, leave, operations, read_code, request, statistics};
use crate::snapshot;
use crate::telemetry::metrics::Shed;
use taskflow_actors::follow::{self, Decision};

/// Where a client without a usable cursor goes.
const SNAPSHOT_PATH: &str = "/api/v1/snapshot";

/// Milliseconds between comment lines of a quiet event stream: proxies cut what is silent for 30 s, and a client that is
/// gone is noticed only by writing to it.
const COMMENT_MS: u64 = 15_000;

/// Milliseconds within which a long-poll reads the log unasked while nobody can find out whether feeds have changed. Each at a
/// moment of its own: ten thousand that wait must not all ask a database that hardly answers at once.
const LOOK_WITHIN_MS: u64 = 10_000;

/// How long it is waited until the feed has come as far as a cursor: one that is still ahead then is of what was lost in a restore.
const WAIT_FOR_MAX: Duration = Duration::from_secs(10);

/// When it is looked for the second time; the time between two looks doubles each time, for each is a few requests to a database.
const WAIT_FOR_PAUSE_FIRST: Duration = Duration::from_millis(100);

/// How long after a change the statistics are sent, to who asked for them.
pub const STATISTICS_WITHIN: Duration = Duration::from_secs(1);

/// How long after the last ones they are sent again, where nothing changed but the time.
pub const STATISTICS_AGAIN: Duration = Duration::from_secs(60);

/// What a client waits before it connects again, at least, and the time over which all of them spread, in milliseconds.
const RECONNECT_MS: (u32, u32) = (500, 5_000);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangesQuery {
    cursor: Option<String>,
    wait: Option<u64>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Changes {
    following: Following,
    entries: Vec<message::Entry>,
    /// Absent when the mode is `reset`: the snapshot brings one.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    more: bool,
    /// Where to go when the mode is `reset`.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<&'static str>,
}

/// `GET /api/v1/changes`: what came after the cursor; with `wait` (seconds), not before there is something.
pub async fn changes(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::caller(&api, &http).await?;
    let query: ChangesQuery = request::parameters(&http)?;
    let limit = request::limit(query.limit)?;
    let cursor = query.cursor.as_deref().map(parse_cursor).transpose()?;
    let wait = query.wait.unwrap_or(0);
    if wait > LONG_POLL_SECONDS_MAX {
        let cause = format!("{wait} is more than {LONG_POLL_SECONDS_MAX} seconds");
        return Err(Problem::new(Code::ValueInvalid).field("wait").because(cause));
    }
    let wait = Duration::from_secs(wait);
    let changes = match cursor {
        None => {
            let head = api.store.peek_head(caller.user).await.map_err(read_code)?;
            reset_to_snapshot(
                &api,
                caller.user,
                ResetReason::NoCursor,
                head.map_or(0, |head| head.seq),
            )
        }
        Some(cursor) if wait.is_zero() => match read(&api, caller.user, cursor).await? {
            Read::Reset(reason, head) => reset_to_snapshot(&api, caller.user, reason, head),
            Read::Entries(entries, head) => entries_upto(caller.user, cursor, &entries, head, limit),
        },
        // It would end at once and be asked again at once.
        Some(_) if api.leaving.borrow().is_some() => return Err(Code::ShuttingDown.into()),
        Some(cursor) => long_poll(&api, caller, cursor, wait, limit).await?,
    };
    let answer = Encoding::Json.encode(&changes);
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    Ok(response.content_type("application/json").body(answer))
}

async fn long_poll(
    api: &Api,
    caller: Claims,
    cursor: Cursor,
    wait: Duration,
    limit: usize,
) -> Result<Changes, Problem> {
    let _seat = api.seats.take(caller.user)?;
    let watched = api.tokens.watch(caller.user, caller.sign_in);
    let (mut leaving, share) = (api.leaving.clone(), rand::random());
    let mut stale = api.changes.stale();
    let over = tokio::time::sleep(wait);
    tokio::pin!(over);
    let mut last = false;
    loop {
        let changed = api.changes.changed(caller.user, cursor.seq);
        api.changes.listening(caller.user).await;
        let ended = watched.ended();
        if api.tokens.is_ended(caller.sign_in) {
            return Err(Code::SignedOut.into());
        }
        match read(api, caller.user, cursor).await? {
            Read::Reset(reason, head) => return Ok(reset_to_snapshot(api, caller.user, reason, head)),
            Read::Entries(entries, head) if last || !entries.is_empty() => {
                return Ok(entries_upto(caller.user, cursor, &entries, head, limit));
            }
            Read::Entries(..) => {}
        }
        tokio::select! {
            () = changed => {}
            () = ended => {}
            // Nothing comes by itself: what the log says counts, and that it says nothing is an error.
            () = a_while_in_doubt(&mut stale) => {}
            () = &mut over => last = true,
            // The last word before the server goes: what there is now.
            () = leave(&api.metrics, &mut leaving, share) => last = true,
        }
    }
}

/// Waits until a look at the feed shows what is before this cursor. Every look shows every change that was answered or
/// pushed, whichever node said so: there is something to wait for only where data centres of the database are behind each other.
pub async fn wait_for(api: &Api, user: UserId, cursor: &str) -> Result<(), Problem> {
    let not_here = |why| Problem::new(Code::CursorInvalid).field("wait_for").because(why);
    let cursor = Cursor::parse(cursor).ok_or_else(|| not_here("it is no cursor"))?;
    let (mut leaving, share) = (api.leaving.clone(), rand::random());
    let until = tokio::time::Instant::now() + WAIT_FOR_MAX;
    let mut pause = WAIT_FOR_PAUSE_FIRST;
    let mut seat = None;
    loop {
        let is_last = tokio::time::Instant::now() >= until;
        match api.store.peek_head(user).await.map_err(read_code)? {
            // Not even born, as far as one sees from here.
            None => {}
            Some(head) if head.epoch != cursor.epoch => {
                return Err(not_here(
                    "it is of another feed, or of what the feed was before a restore",
                ));
            }
            Some(_) if operations::view(&api.router, user, State::seq).await? >= cursor.seq => return Ok(()),
            Some(_) => {}
        }
        if is_last {
            return Err(not_here("the feed has not come as far as this"));
        }
        if seat.is_none() {
            seat = Some(api.seats.take(user)?);
        }
        let next = until.min(tokio::time::Instant::now() + pause);
        pause *= 2;
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = leave(&api.metrics, &mut leaving, share) => return Err(Code::ShuttingDown.into()),
        }
    }
}

async fn a_while_in_doubt(stale: &mut watch::Receiver<Option<Instant>>) {
    // An error means that the server ends.
    drop(stale.wait_for(Option::is_some).await);
    let wait_ms = rand::rng().random_range(0..LOOK_WITHIN_MS);
    tokio::time::sleep(Duration::from_millis(wait_ms)).await;
}

fn reset_to_snapshot(api: &Api, feed: UserId, reason: ResetReason, head: Seq) -> Changes {
    api.metrics.resets.of(reason.into()).inc();
    Changes {
        following: Following {
            feed,
            mode: FollowMode::Reset,
            reason: Some(reason),
            head,
        },
        entries: Vec::new(),
        cursor: None,
        more: false,
        snapshot: Some(SNAPSHOT_PATH),
    }
}

fn entries_upto(feed: UserId, cursor: Cursor, entries: &[Entry], head: Seq, limit: usize) -> Changes {
    let entries: Vec<_> = entries.iter().take(limit).map(Entry::wire).collect();
    let last = entries.last().map_or(cursor.seq, |entry| entry.seq);
    let mode = if entries.is_empty() {
        FollowMode::UpToDate
    } else {
        FollowMode::Entries
    };
    let following = Following {
        feed,
        mode,
        reason: None,
        head,
    };
    Changes {
        following,
        entries,
        cursor: Some(Cursor { seq: last, ..cursor }.text()),
        more: last < head,
        snapshot: None,
    }
}

/// What one read of the log found after a cursor, with the head.
enum Read {
    Entries(Vec<Entry>, Seq),
    Reset(ResetReason, Seq),
}

async fn read(api: &Api, feed: UserId, cursor: Cursor) -> Result<Read, Code> {
    let page = api
        .store
        .read_log(feed, cursor.seq, CATCH_UP_BYTES)
        .await
        .map_err(read_code)?;
    let Some(page) = page else {
        // A cursor into a feed that does not exist is of another history.
        return Ok(Read::Reset(ResetReason::EpochChanged, 0));
    };
    let head = page.head.seq;
    match follow::decide(Some(cursor), &page.head) {
        Decision::Reset(reason) => Ok(Read::Reset(reason, head)),
        Decision::UpToDate => Ok(Read::Entries(Vec::new(), head)),
        Decision::Entries(after) => {
            let entries = follow::entries_after(feed, &page, after).map_err(|problem| {
                tracing::error!(user.id = %feed, problem, "stored feed needs attention");
                Code::FeedDamaged
            })?;
            Ok(Read::Entries(entries, head))
        }
    }
}

fn parse_cursor(text: &str) -> Result<Cursor, Problem> {
    Cursor::parse(text).ok_or_else(|| Problem::new(Code::CursorInvalid).field("cursor"))
}

/// Written down one by one as they are taken.
pub type Pieces = Box<dyn Iterator<Item = Snapshot> + Send>;

/// The state of a feed in pieces, and the cursor that belongs to it.
pub async fn load(api: &Api, feed: UserId) -> Result<(Pieces, Cursor), Code> {
    // A load holds a feed in memory. The permit is given back when the rows are taken, not when the client has read them.
    let _permit = api.snapshots.acquire().await.map_err(|_| Code::ShuttingDown)?;
    let ids_since = UnixMs::MAX;
    let mut loaded = api.store.load(feed, ids_since).await.map_err(read_code)?;
    if loaded.is_none() {
        operations::born(&api.router, feed).await?;
        loaded = api.store.load(feed, ids_since).await.map_err(read_code)?;
    }
    let loaded = loaded.ok_or(Code::FeedNotFound)?;
    let report = |problem: String| tracing::error!(user.id = %feed, problem, "stored feed needs attention");
    let rebuilt = rebuild(feed, &loaded, report).map_err(|problem| {
        report(problem);
        Code::FeedDamaged
    })?;
    api.metrics.snapshots.inc();
    let head = loaded.head;
    let cursor = Cursor {
        epoch: head.epoch,
        seq: head.seq,
    };
    Ok((Box::new(snapshot::pieces(&rebuilt.state, head)), cursor))
}

/// `GET /api/v1/snapshot`: the whole feed, one `snapshot` message a line, written as the client reads.
pub async fn snapshot(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::reader(&api, &http).await?;
    request::no_parameters(&http)?;
    let (pieces, _) = load(&api, caller.user).await?;
    let lines = pieces.map(|piece| {
        let mut line = Encoding::Json.encode(&ServerMessage::Snapshot(piece));
        line.push(b'\n');
        Ok::<_, actix_web::Error>(Bytes::from(line))
    });
    let mut response = HttpResponse::Ok();
    response
        .content_type("application/x-ndjson")
        .insert_header((header::CACHE_CONTROL, "no-store"));
    Ok(compress::pieces(http.headers(), response, stream::iter(lines)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    cursor: Option<String>,
    #[serde(default)]
    statistics: bool,
}

/// `GET /api/v1/events`: server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>). The id of
/// an event is the cursor after it, so a client that comes back with `Last-Event-ID` misses nothing.
pub async fn events(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::caller(&api, &http).await?;
    let query: EventsQuery = request::parameters(&http)?;
    let last_id = http.headers().get("last-event-id").and_then(|id| id.to_str().ok());
    // The header is the later word: the browser sets it when it reconnects to the same address.
    let cursor = last_id.filter(|id| !id.is_empty()).or(query.cursor.as_deref());
    let cursor = cursor.map(parse_cursor).transpose()?;
    if api.leaving.borrow().is_some() {
        return Err(Code::ShuttingDown.into());
    }
    let seat = api.seats.take(caller.user)?;
    let mut events = Events::new(api, caller, cursor, seat);
    events.statistics_at = query.statistics.then(tokio::time::Instant::now);
    events.with_statistics = query.statistics;
    // What can fail at once fails as a problem, not inside a stream.
    events.begin().await?;
    let stream = stream::unfold(events, |mut events| async move {
        let chunk = events.next().await?;
        Some((Ok::<_, actix_web::Error>(chunk), events))
    });
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(stream))
}

/// What ended a wait.
enum Happened {
    Changed,
    Quiet,
    Counted,
    Stale,
    Leave(Code),
}

/// One event stream.
struct Events {
    api: Data<Api>,
    caller: Claims,
    /// What the client has, or will have when it has read `ready` and `pieces`. `None`: nothing yet.
    cursor: Option<Cursor>,
    /// Written, not yet taken.
    ready: VecDeque<Bytes>,
    /// The rest of a snapshot.
    pieces: Option<Pieces>,
    /// The wait that began before the last read.
    changed: Option<BoxFuture<()>>,
    watched: SignInWatch,
    leaving: watch::Receiver<Option<Leaving>>,
    /// When it ends among all that end with the server, from 0 to 1.
    share: f64,
    stale: watch::Receiver<Option<Instant>>,
    /// The client asked for statistics.
    with_statistics: bool,
    /// When they are sent next; `None`: they have not changed since.
    statistics_at: Option<tokio::time::Instant>,
    over: bool,
    _seat: Seat,
}

impl Events {
    fn new(api: Data<Api>, caller: Claims, cursor: Option<Cursor>, seat: Seat) -> Self {
        Self {
            caller,
            cursor,
            ready: VecDeque::new(),
            pieces: None,
            changed: None,
            watched: api.tokens.watch(caller.user, caller.sign_in),
            leaving: api.leaving.clone(),
            share: rand::random(),
            stale: api.changes.stale(),
            with_statistics: false,
            statistics_at: None,
            over: false,
            _seat: seat,
            api,
        }
    }

    async fn begin(&mut self) -> Result<(), Code> {
        if self.stale.borrow().is_some() {
            self.beat();
        }
        match self.cursor {
            None => self.reset(ResetReason::NoCursor).await,
            Some(_) => {
                self.api.metrics.catch_ups.inc();
                // So that a client sees at once that it is connected.
                self.ready.push_back(Bytes::from_static(b":\n\n"));
                self.advance().await
            }
        }
    }

    /// Says whether what the client shows may be old.
    fn beat(&mut self) {
        let now = self.api.clock.now_ms();
        let since = *self.stale.borrow_and_update();
        let stale_since = since.map(|since| now - since.elapsed().as_millis() as UnixMs);
        self.ready
            .push_back(event("heartbeat", None, &Heartbeat { stale_since }));
    }

    /// The next chunk; `None`: the stream is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(chunk);
            }
            if let Some(piece) = self.pieces.as_mut().and_then(Iterator::next) {
                let cursor = piece.done.as_ref().map(|done| done.cursor.clone());
                return Some(event("snapshot", cursor.as_deref(), &piece));
            }
            self.pieces = None;
            if self.over {
                return None;
            }
            if let Err(code) = self.wait().await {
                self.over = true;
                self.ready.push_back(event("error", None, &ErrorBody::new(code)));
            }
        }
    }

    /// Waits for something to say.
    async fn wait(&mut self) -> Result<(), Code> {
        let Some(changed) = self.changed.as_mut() else {
            return self.advance().await;
        };
        let expires_in = self.caller.expires_at - self.api.clock.now_ms();
        let expires_in = Duration::from_millis(u64::try_from(expires_in).unwrap_or(0));
        let ended = self.watched.ended();
        let ended = async {
            // Asked after the watch began: a sign-out before it counts, too.
            if !self.api.tokens.is_ended(self.caller.sign_in) {
                ended.await;
            }
        };
        let quiet = Duration::from_millis(COMMENT_MS);
        let statistics_at = self.statistics_at;
        let statistics = async {
            match statistics_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let happened = tokio::select! {
            () = changed => Happened::Changed,
            () = statistics => Happened::Counted,
            () = tokio::time::sleep(quiet) => Happened::Quiet,
            () = ended => Happened::Leave(Code::SignedOut),
            () = tokio::time::sleep(expires_in) => Happened::Leave(Code::TokenExpired),
            () = leave(&self.api.metrics, &mut self.leaving, self.share) => Happened::Leave(Code::ShuttingDown),
            _ = self.stale.changed() => Happened::Stale,
        };
        match happened {
            Happened::Changed => self.advance().await?,
            Happened::Counted if self.api.overload.may(Shed::Statistics).is_err() => {
                self.statistics_at = Some(tokio::time::Instant::now() + STATISTICS_WITHIN);
            }
            Happened::Counted => {
                let statistics =
                    statistics::of(&self.api.router, &self.api.store, &*self.api.clock, self.caller.user).await?;
                self.ready.push_back(event("statistics", None, &statistics));
                // What is overdue changes without anybody doing anything.
                self.statistics_at = Some(tokio::time::Instant::now() + STATISTICS_AGAIN);
            }
            Happened::Quiet => self.ready.push_back(Bytes::from_static(b":\n\n")),
            Happened::Stale => self.beat(),
            Happened::Leave(code) => self.send_away(code),
        }
        Ok(())
    }

    /// Reads what came after the cursor, having begun to wait for more.
    async fn advance(&mut self) -> Result<(), Code> {
        let Some(cursor) = self.cursor else {
            return self.reset(ResetReason::NoCursor).await;
        };
        self.changed = Some(self.api.changes.changed(self.caller.user, cursor.seq));
        self.api.changes.listening(self.caller.user).await;
        match read(&self.api, self.caller.user, cursor).await? {
            Read::Reset(reason, _) => self.reset(reason).await,
            Read::Entries(entries, _) => {
                if let Some(last) = entries.last() {
                    let cursor = Cursor {
                        seq: last.seq,
                        ..cursor
                    };
                    let text = cursor.text();
                    let body = Entries {
                        feed: self.caller.user,
                        entries: entries.iter().map(Entry::wire).collect(),
                        cursor: text.clone(),
                    };
                    self.ready.push_back(event("entries", Some(&text), &body));
                    self.cursor = Some(cursor);
                    self.count_soon();
                    // There may be more than one read takes: look again before waiting.
                    self.changed = None;
                }
                Ok(())
            }
        }
    }

    /// Sends statistics within a second. Each is a look at the feed: many changes are one of it.
    fn count_soon(&mut self) {
        if self.with_statistics {
            let soon = tokio::time::Instant::now() + STATISTICS_WITHIN;
            self.statistics_at = Some(self.statistics_at.map_or(soon, |at| at.min(soon)));
        }
    }

    async fn reset(&mut self, reason: ResetReason) -> Result<(), Code> {
        self.api.metrics.resets.of(reason.into()).inc();
        let (pieces, cursor) = load(&self.api, self.caller.user).await?;
        let following = Following {
            feed: self.caller.user,
            mode: FollowMode::Reset,
            reason: Some(reason),
            head: cursor.seq,
        };
        self.ready.push_back(event("reset", None, &following));
        self.pieces = Some(pieces);
        self.cursor = Some(cursor);
        self.count_soon();
        // What is committed while the client reads the snapshot is read from the log.
        self.changed = None;
        Ok(())
    }

    fn send_away(&mut self, code: Code) {
        let (after_ms, window_ms) = RECONNECT_MS;
        let reconnect = Reconnect {
            after_ms,
            window_ms,
            code,
        };
        self.ready.push_back(event("reconnect", None, &reconnect));
        self.over = true;
    }
}

/// JSON has no line breaks outside of strings, and escapes them inside: the data is one line.
fn event<T: Serialize>(name: &str, id: Option<&str>, data: &T) -> Bytes {
    let mut text = Vec::with_capacity(256);
    text.extend_from_slice(b"event: ");
    text.extend_from_slice(name.as_bytes());
    if let Some(id) = id {
        text.extend_from_slice(b"\nid: ");
        text.extend_from_slice(id.as_bytes());
    }
    text.extend_from_slice(b"\ndata: ");
    text.extend_from_slice(&Encoding::Json.encode(data));
    text.extend_from_slice(b"\n\n");
    text.into()
}
