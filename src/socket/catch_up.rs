//! Brings a follower from its cursor to the present, and keeps it there without a window.
//!
//! A connection is registered for the feed's publications *before* the log is read. While it reads, some publications are
//! kept, and the newest `seq` is noted. When the reading has reached what is kept, that is sent, and when nothing that was
//! noted is missing, the connection is live: the next publication must begin right after its position, and one that does not
//! sends it back here. So nothing can fall between the log and the live stream, whatever is lost on the way.

use std::rc::Rc;

use taskflow_actors::cursor::Cursor;
use taskflow_actors::domain::Entry;
use taskflow_actors::feed::rebuild;
use taskflow_actors::ports::{Head, LogPage, ReadError};
use taskflow_protocol::limits::CATCH_UP_BYTES;
use taskflow_protocol::message::{Entries, FollowMode, Following, ResetReason, ServerMessage};
use taskflow_protocol::values::Seq;
use taskflow_protocol::{Code, UserId};

use super::connection::{Connection, FollowId};
use super::worker::Worker;
use crate::snapshot;
use crate::telemetry::metrics::FollowOutcome;
use taskflow_actors::follow::{self, Decision, entries_after};

/// Stored bytes of entries that go in one frame of a catch-up: about 50 KiB of JSON, so that answers get between.
const CATCH_UP_FRAME_BYTES: usize = 64 * 1024;

/// What ends a catch-up early.
enum End {
    /// The connection is over, or follows the feed no more.
    Gone,
    /// The client hears why, and is no follower any more.
    Failed(Code),
}

/// A client asked to follow a feed.
pub(super) async fn begin(connection: Rc<Connection>, worker: Rc<Worker>, id: FollowId) {
    if let Some(cluster) = worker.gateway.router.cluster() {
        cluster.subscribed(id.feed).await;
    }
    let outcome = from_cursor(&connection, &worker, id).await;
    finish(&connection, &worker, id, &outcome);
}

/// A live connection missed something.
pub(super) async fn resume(connection: Rc<Connection>, worker: Rc<Worker>, id: FollowId) {
    let outcome = read_to_the_end(&connection, &worker, id).await;
    finish(&connection, &worker, id, &outcome);
}

fn finish(connection: &Connection, worker: &Worker, id: FollowId, outcome: &Result<(), End>) {
    if let Err(End::Failed(code)) = *outcome {
        // If it is another following by now, this one has nothing to say any more.
        if connection.with_followed(id, |_| ()).is_some() {
            connection.refuse_following(worker, id, code);
        }
    }
}

async fn from_cursor(connection: &Connection, worker: &Worker, id: FollowId) -> Result<(), End> {
    let feed = id.feed;
    let cursor = connection
        .with_followed(id, |followed| followed.cursor.take())
        .ok_or(End::Gone)?;
    let cursor = match cursor {
        Some(text) => Some(Cursor::parse(&text).ok_or(End::Failed(Code::CursorInvalid))?),
        None => None,
    };
    let Some(cursor) = cursor else {
        return reset(connection, worker, id, ResetReason::NoCursor).await;
    };
    let page = read(worker, feed, cursor.seq).await?;
    let Some(page) = page else {
        // A cursor into a feed that is not there: birth and snapshot give one that works.
        return reset(connection, worker, id, ResetReason::EpochChanged).await;
    };
    let decision = follow::decide(Some(cursor), &page.head);
    let (mode, head) = (decision.mode(), page.head.seq);
    match decision {
        Decision::Reset(reason) => return reset(connection, worker, id, reason).await,
        Decision::UpToDate | Decision::Entries(_) => {
            worker.gateway.metrics.catch_ups.inc();
            let following = Following {
                feed,
                mode,
                reason: None,
                head,
            };
            set_position(connection, id, page.head, cursor.seq)?;
            connection.say(worker, &ServerMessage::Following(following));
            connection.follow_answered(worker, id, FollowOutcome::CaughtUp);
            send_page(connection, worker, id, &page).await?;
        }
    }
    read_to_the_end(connection, worker, id).await
}

/// Sends the whole state, then what was committed meanwhile.
async fn reset(connection: &Connection, worker: &Worker, id: FollowId, reason: ResetReason) -> Result<(), End> {
    let feed = id.feed;
    worker.gateway.metrics.resets.of(reason.into()).inc();
    worker.gateway.metrics.snapshots.inc();
    let gateway = &worker.gateway;
    // A load holds a feed in memory: the others wait here, in order, with nothing but their place. The permit is given back
    // when the rows are taken: eight clients that read slowly, or whose feed changes faster than it is read, are not all.
    let permit = gateway.snapshots.acquire().await.map_err(|_| End::Gone)?;
    let ids_since = i64::MAX;
    let mut loaded = gateway
        .store
        .load(feed, ids_since)
        .await
        .map_err(|error| failed(&error))?;
    if loaded.is_none() && feed == connection.user() {
        // A user whose registration was cut short, or one that an operator made a token for, gets the feed now.
        gateway
            .router
            .birth(feed, "UTC".to_owned(), "en".to_owned())
            .await
            .map_err(End::Failed)?;
        loaded = gateway
            .store
            .load(feed, ids_since)
            .await
            .map_err(|error| failed(&error))?;
    }
    let loaded = loaded.ok_or(End::Failed(Code::FeedNotFound))?;
    let report = |problem: String| tracing::error!(user.id = %feed, problem, "stored feed needs attention");
    let rebuilt = rebuild(feed, &loaded, report).map_err(|problem| {
        tracing::error!(user.id = %feed, problem, "stored feed needs attention");
        End::Failed(Code::FeedDamaged)
    })?;
    let head = loaded.head;
    drop(loaded);
    let following = Following {
        feed,
        mode: FollowMode::Reset,
        reason: Some(reason),
        head: head.seq,
    };
    // Before it is said: whoever unfollowed meanwhile hears nothing more.
    set_position(connection, id, head, head.seq)?;
    connection.say(worker, &ServerMessage::Following(following));
    connection.follow_answered(worker, id, FollowOutcome::Reset);
    let pieces = snapshot::pieces(&rebuilt.state, head);
    drop((rebuilt, permit));
    for piece in pieces {
        if !connection
            .say_with_room(worker, id, &ServerMessage::Snapshot(piece))
            .await
        {
            return Err(End::Gone);
        }
    }
    read_to_the_end(connection, worker, id).await
}

/// Reads the log until there is nothing more, then goes live.
async fn read_to_the_end(connection: &Connection, worker: &Worker, id: FollowId) -> Result<(), End> {
    let feed = id.feed;
    loop {
        // From the last of these on nothing is waited for until it is live, or reads: what is published is not missed.
        if !connection.send_kept(worker, id).await {
            return Err(End::Gone);
        }
        let position = connection.with_followed(id, |followed| followed.at.read_next());
        let Some(position) = position.ok_or(End::Gone)? else {
            return Ok(());
        };
        let page = read(worker, feed, position)
            .await?
            .ok_or(End::Failed(Code::FeedNotFound))?;
        let epoch = connection
            .with_followed(id, |followed| followed.at.epoch())
            .ok_or(End::Gone)?;
        let cursor = Cursor { epoch, seq: position };
        if let Decision::Reset(reason) = follow::decide(Some(cursor), &page.head) {
            connection
                .with_followed(id, |followed| followed.at.begins_anew())
                .ok_or(End::Gone)?;
            return Box::pin(reset(connection, worker, id, reason)).await;
        }
        send_page(connection, worker, id, &page).await?;
    }
}

async fn read(worker: &Worker, feed: UserId, after: Seq) -> Result<Option<LogPage>, End> {
    worker
        .gateway
        .store
        .read_log(feed, after, CATCH_UP_BYTES)
        .await
        .map_err(|error| failed(&error))
}

fn failed(error: &ReadError) -> End {
    tracing::error!(error = %error, "reading a feed failed");
    End::Failed(match error {
        ReadError::Unavailable(_) => Code::StoreUnavailable,
        ReadError::Damaged(_) => Code::FeedDamaged,
    })
}

fn set_position(connection: &Connection, id: FollowId, head: Head, position: Seq) -> Result<(), End> {
    let set = connection.with_followed(id, |followed| followed.at.stands(head.epoch, position));
    set.ok_or(End::Gone)
}

/// Sends the entries of a page after the connection's position, in frames of moderate size, and moves it. Nobody is sent
/// past a hole or an entry that does not decode.
async fn send_page(connection: &Connection, worker: &Worker, id: FollowId, page: &LogPage) -> Result<(), End> {
    let feed = id.feed;
    let position = connection
        .with_followed(id, |followed| followed.at.position())
        .ok_or(End::Gone)?;
    let entries = entries_after(feed, page, position).map_err(|problem| {
        tracing::error!(user.id = %feed, problem, "stored feed needs attention");
        End::Failed(Code::FeedDamaged)
    })?;
    let read = connection.with_followed(id, |followed| followed.at.read(!entries.is_empty(), page.head.seq));
    read.ok_or(End::Gone)?;
    let mut rest = entries.as_slice();
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            bytes += entry.stored_bytes_max();
            bytes <= CATCH_UP_FRAME_BYTES
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (now, later) = rest.split_at(count);
        rest = later;
        let last = now[count - 1].seq;
        let cursor = Cursor {
            epoch: page.head.epoch,
            seq: last,
        }
        .text();
        let entries = now.iter().map(Entry::wire).collect();
        let message = ServerMessage::Entries(Entries { feed, entries, cursor });
        if !connection.say_with_room(worker, id, &message).await {
            return Err(End::Gone);
        }
        connection
            .with_followed(id, |followed| followed.at.sent(last))
            .ok_or(End::Gone)?;
    }
    Ok(())
}
