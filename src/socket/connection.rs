//! One WebSocket: reads its frames, answers its messages, holds what waits for it.
//!
//! A connection belongs to one worker thread and is never touched from another. It costs one task, no timer and, while
//! idle, no buffer.

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell, RefMut};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use taskflow_actors::follow::{Follower, Kept, Wanted};
use taskflow_actors::ports::{Access, ConnectionId, Head, Tracer as _};
use taskflow_actors::session::Event;
use taskflow_actors::supervisor::{ReplyTo, Submission};
use taskflow_actors::trace::Span;
use taskflow_protocol::codec::Decoded;
use taskflow_protocol::limits::{
    CLIENT_NAME_BYTES_MAX, FOLLOWS_A_CONNECTION_MAX, HELLO_TIMEOUT_MS, MESSAGE_BYTES_MAX, OPERATIONS_A_MESSAGE_MAX,
    REFRESHES_A_MINUTE_MAX,
};
use taskflow_protocol::message::{
    ClientMessage, ErrorBody, Follow, Hello, OperationResult, Operations, Outcome, ProtocolRange, Reconnect, Refreshed,
    ServerMessage, Unfollow, Unfollowed, Welcome,
};
use taskflow_protocol::values::UnixMs;
use taskflow_protocol::{Action, Code, Encoding, OperationId, PROTOCOL_MAX, PROTOCOL_MIN, UserId};
use uuid::Uuid;

use super::counting::Counting;
use super::frame::{self, Decoder, Incoming};
use super::hub::{Delivery, Lag, results_frame};
use super::outbound::{Full, Outbound};
use super::wire::Wire;
use super::worker::Worker;
use crate::auth::Claims;
use crate::config::RateLimits;
use crate::http::rates::{Asked, BURST_SECONDS};
use crate::http::seats::Seat;
use crate::telemetry::metrics::{Eviction, FollowOutcome, HelloOutcome, Limited, MessageKind, Shed};

/// Messages handled in one turn of a connection, so that a flooding client leaves its neighbours their turns.
const MESSAGES_A_TURN_MAX: usize = 32;

/// Size of the read buffer that all connections of a worker share, in bytes.
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// How long a connection may take to read its last words and close, in seconds; then it is cut.
const CLOSE_GRACE_S: u32 = 5;

/// How long a client may take to say hello, in seconds.
const HELLO_TIMEOUT_S: u32 = (HELLO_TIMEOUT_MS / 1000) as u32;

/// Up to this many waiting bytes a catch-up or snapshot goes on; above it waits for the socket. A quarter of the queue,
/// so that live answers always find room.
const PIPELINE_BYTES: usize = 512 * 1024;

/// Where a connection is in its life.
#[derive(Debug)]
enum Phase {
    /// Waits for `hello`, until this second. The token came with the handshake, or comes with it.
    Hello { token: Option<String>, until_s: u32 },
    /// The token is being checked, or the session asked, since then.
    Joining(Box<Hello>, Instant),
    /// Everything works.
    Open,
    /// The last words are queued; nothing more is taken in. Cut at this second.
    Closing(u32),
    /// The socket is to be dropped now.
    Dead,
}

/// What became of a publication at a connection.
pub(super) enum Delivered {
    /// A frame of so many bytes is on its way.
    Pushed(usize),
    /// It has the entries, or gets them from the log.
    NotWanted,
    /// It missed some, and has to read the log from its position.
    Behind(FollowId),
}

/// One following of a feed by a connection. A client may unfollow and follow again while a catch-up of the first
/// following is still under way: that one must find out that it is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct FollowId {
    pub feed: UserId,
    number: u32,
}

/// How a connection follows a feed.
#[derive(Debug)]
pub(super) struct Followed {
    number: u32,
    /// The session allowed it, and the catch-up has begun.
    begun: bool,
    pub feed: UserId,
    /// How far the connection is.
    pub at: Follower,
    /// What it gets when the log has been read to there.
    pub kept: Kept<Arc<Delivery>>,
    /// Where the client stopped reading, until the catch-up begins.
    pub cursor: Option<Box<str>>,
    /// When the client asked, until it is answered.
    asked: Option<Instant>,
    /// Its statistics, if they were asked for.
    _counting: Option<Counting>,
}

/// See the module.
pub(super) struct Connection {
    pub id: ConnectionId,
    stream: Wire,
    encoding: Encoding,
    /// When the last byte came, in seconds of the worker's clock.
    last_read: Cell<u32>,
    allowance: Cell<Allowance>,
    state: RefCell<State>,
}

/// What a connection may still send: it grows each second, up to what [`BURST_SECONDS`] give.
#[derive(Clone, Copy)]
struct Allowance {
    bytes: i64,
    /// In seconds of the worker's clock.
    grew_at_s: u32,
    /// It is used up, and nothing is read until it has grown.
    is_waiting: bool,
}

struct State {
    phase: Phase,
    decoder: Decoder,
    outbound: Outbound,
    /// The peer has said goodbye: nothing more is read, and it is over when what waits has been sent.
    goodbye: bool,
    /// Wakes the task that owns the connection.
    task: Option<Waker>,
    /// Wakes those that wait for the queue to drain: a catch-up, and statistics.
    drained: Vec<Waker>,
    user: UserId,
    sign_in: Uuid,
    access: Access,
    expires_at: UnixMs,
    /// Tokens that were brought in the present minute of the worker's clock, and which minute that is.
    refreshes: u32,
    refreshes_minute: u32,
    /// The session knows this connection, and it counts among its user's.
    seat: Option<Seat>,
    /// Whole messages may be among the bytes that the decoder keeps: they came while the token was checked.
    held: bool,
    /// Followings so far.
    follow_count: u32,
    follows: Vec<Followed>,
    /// Messages with operations that were handed on and are not answered.
    unanswered: u32,
    /// The operations in them that wait for a feed of this node.
    operations: u32,
    /// Heartbeats that the client has not answered.
    heartbeats: u32,
    /// What was refused just now and comes again: nothing may overtake it.
    refused: Option<Box<Refused>>,
    /// Those of them that are traced, by their first operation.
    traced: Vec<(OperationId, Box<Span>)>,
    /// It ends when these are answered, and takes no more.
    leaving: bool,
}

/// Operations that were refused and may be sent again. What their client had sent behind them would be done before them, and may build
/// on them: it is refused, too, until the client knows.
struct Refused {
    first: OperationId,
    error: ErrorBody,
    /// Answers to heartbeats until that to the one that went out behind the refusal: then the client has heard it.
    heartbeats: u32,
    /// A client that answers none has waited for long enough.
    until_s: u32,
}

/// Whether an operation took the time that it takes: what has no room, or does not come to its feed, does not.
fn is_done(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Accepted(_) | Outcome::Conflict(_) => true,
        Outcome::Refused(error) => error.code.action() != Action::Retry,
        Outcome::Unknown(_) => false,
    }
}

impl State {
    /// Whoever still has to wait says so again.
    fn wake_drained(&mut self) {
        for waiting in self.drained.drain(..) {
            waiting.wake();
        }
    }
}

/// Runs a connection until it ends. By hand, because an `async fn` of this takes twice the memory.
pub(super) struct Run {
    pub connection: Rc<Connection>,
    pub worker: Rc<Worker>,
}

impl Future for Run {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        ready!(self.connection.poll(&self.worker, context));
        self.connection.end(&self.worker);
        Poll::Ready(())
    }
}

impl Connection {
    pub fn new(
        id: ConnectionId,
        stream: Wire,
        encoding: Encoding,
        token: Option<String>,
        now_s: u32,
        early: &[u8],
    ) -> Self {
        let mut decoder = Decoder::new(encoding);
        let keep = |_: &mut Decoder, _: &mut BytesMut| Ok::<_, Ended>(());
        drop(decoder.feed(&mut BytesMut::from(early), keep));
        Self {
            id,
            stream,
            encoding,
            last_read: Cell::new(now_s),
            allowance: Cell::new(Allowance {
                // As much as may be.
                bytes: i64::MAX,
                grew_at_s: now_s,
                is_waiting: false,
            }),
            state: RefCell::new(State {
                phase: Phase::Hello {
                    token,
                    until_s: now_s + HELLO_TIMEOUT_S,
                },
                decoder,
                outbound: Outbound::default(),
                goodbye: false,
                task: None,
                drained: Vec::new(),
                user: UserId(Uuid::nil()),
                sign_in: Uuid::nil(),
                access: Access::Read,
                expires_at: 0,
                refreshes: 0,
                refreshes_minute: 0,
                seat: None,
                held: !early.is_empty(),
                follow_count: 0,
                follows: Vec::new(),
                unanswered: 0,
                operations: 0,
                heartbeats: 0,
                refused: None,
                traced: Vec::new(),
                leaving: false,
            }),
        }
    }

    fn state(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }

    pub fn user(&self) -> UserId {
        self.state.borrow().user
    }

    /// It got its last words: it goes by itself, or is cut.
    pub fn is_ending(&self) -> bool {
        matches!(self.state.borrow().phase, Phase::Closing(_) | Phase::Dead)
    }

    /// Nothing waits, neither here nor in the TLS session.
    fn has_sent(&self, state: &State) -> bool {
        state.outbound.is_empty() && !self.stream.wants_write()
    }

    pub fn outbound_bytes(&self) -> usize {
        self.state.borrow().outbound.bytes()
    }

    /// How far its client is behind, for an operator.
    pub fn lag(&self) -> Lag {
        let state = self.state.borrow();
        let behind = state.outbound.behind_since().map(|since| since.elapsed());
        Lag {
            user: state.user,
            bytes: state.outbound.bytes(),
            behind_ms: behind.unwrap_or_default().as_millis() as u64,
        }
    }

    // ---------------------------------------------------------------------------------------------------- the way out

    /// Queues a message; a full queue ends the connection.
    pub fn say(&self, worker: &Worker, message: &ServerMessage) {
        let frame = frame::message(self.encoding, &self.encoding.encode(message));
        self.send(worker, &frame);
    }

    /// Queues a message of a catch-up, when there is room for it. `false`: the connection is over, or follows no more.
    pub async fn say_with_room(&self, worker: &Worker, id: FollowId, message: &ServerMessage) -> bool {
        let frame = frame::message(self.encoding, &self.encoding.encode(message));
        self.send_with_room(worker, id, &frame).await
    }

    /// The same with a frame.
    async fn send_with_room(&self, worker: &Worker, id: FollowId, frame: &Bytes) -> bool {
        let wanted = self.has_room(id, frame.len()).await;
        if wanted {
            self.send(worker, frame);
        }
        wanted
    }

    /// Sends what was kept and begins where the catch-up is, until there is no more of it. `false`: as above.
    pub async fn send_kept(&self, worker: &Worker, id: FollowId) -> bool {
        loop {
            match self.with_followed(id, |followed| followed.kept.next(&mut followed.at)) {
                None => return false,
                Some(None) => return true,
                Some(Some(delivery)) => {
                    if !self.send_with_room(worker, id, delivery.frame(self.encoding)).await {
                        return false;
                    }
                }
            }
        }
    }

    /// Sends a frame, at once if nothing waits before it.
    pub fn send(&self, worker: &Worker, frame: &Bytes) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Closing(_) | Phase::Dead) {
            return;
        }
        let sent = state
            .outbound
            .send(&self.stream, frame, worker.gateway.outbound_bytes_max);
        self.after_send(worker, state, &sent);
    }

    /// Queues a frame without sending it; [`Connection::flush`] follows.
    pub fn queue(&self, worker: &Worker, frame: Bytes) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Closing(_) | Phase::Dead) {
            return;
        }
        let queued = state.outbound.push(frame, worker.gateway.outbound_bytes_max);
        self.after_send(worker, state, &Ok(queued));
    }

    /// Queues the answers to operations; [`Connection::flush`] follows.
    pub fn answer(&self, worker: &Worker, results: Vec<OperationResult>) {
        if !self.state.borrow().traced.is_empty() {
            self.end_traced(worker, &results);
        }
        let count = results.len() as u32;
        let done = results.iter().filter(|result| is_done(&result.outcome)).count() as u32;
        self.queue(worker, results_frame(self.encoding, results));
        let mut state = self.state();
        state.unanswered = state.unanswered.saturating_sub(1);
        let count = count.min(state.operations);
        state.operations -= count;
        worker.gateway.overload.operations_end(count, done.min(count));
        if state.leaving && state.unanswered == 0 {
            drop(state);
            self.close(worker, Code::ShuttingDown);
        }
    }

    fn end_traced(&self, worker: &Worker, results: &[OperationResult]) {
        let mut state = self.state();
        let is_answered = |(first, _): &(OperationId, _)| results.first().is_some_and(|result| result.id == *first);
        let Some(place) = state.traced.iter().position(is_answered) else {
            return;
        };
        let (_, mut span) = state.traced.swap_remove(place);
        if state.traced.is_empty() {
            state.traced = Vec::new();
        }
        drop(state);
        if let Some(traces) = &worker.gateway.traces {
            span.settle(results);
            traces.end(span);
        }
    }

    /// Closes when what is under way has been answered. The second time, at once.
    pub fn leave(&self, worker: &Worker) {
        let mut state = self.state();
        if state.unanswered == 0 || std::mem::replace(&mut state.leaving, true) {
            drop(state);
            self.close(worker, Code::ShuttingDown);
        }
    }

    fn after_send(&self, worker: &Worker, mut state: RefMut<'_, State>, sent: &io::Result<Result<(), Full>>) {
        match sent {
            Ok(Ok(())) => {
                if !self.has_sent(&state) {
                    wake(&state.task);
                }
            }
            Ok(Err(Full)) => {
                drop(state);
                worker.gateway.metrics.evictions.of(Eviction::TooSlow).inc();
                self.close(worker, Code::TooSlow);
            }
            Err(_) => {
                state.phase = Phase::Dead;
                wake(&state.task);
            }
        }
    }

    /// Sends what waits, in as few writes as can be.
    pub fn flush(&self) {
        let mut state = self.state();
        if state.outbound.flush(&self.stream).is_err() {
            state.phase = Phase::Dead;
        }
        if !self.has_sent(&state) || matches!(state.phase, Phase::Dead) {
            wake(&state.task);
        }
    }

    /// Says why, when to come back, and goodbye. What waited before is dropped: the client catches up by its cursors.
    pub fn close(&self, worker: &Worker, code: Code) {
        // What does not close by itself (a store that did not answer for a token) closes as a failure of the server.
        let number = code.close_code().or(Code::Internal.close_code()).unwrap_or(1011);
        let mut words = Vec::new();
        if matches!(
            code,
            Code::FramingError | Code::InvalidUtf8 | Code::WrongEncoding | Code::TooLarge
        ) {
            // The peer speaks another language: the close code is all that it is sure to understand.
        } else if let (Action::Reconnect, Some(after_ms)) = (code.action(), code.retry_after_ms()) {
            let window_ms = worker.gateway.reconnect_window_ms;
            words.push(ServerMessage::Reconnect(Reconnect {
                after_ms,
                window_ms,
                code,
            }));
        } else {
            words.push(ServerMessage::Error(ErrorBody::new(code)));
        }
        self.close_with(worker, &words, number, code.name());
    }

    fn close_with(&self, worker: &Worker, words: &[ServerMessage], number: u16, reason: &str) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Closing(_) | Phase::Dead) {
            return;
        }
        if let Phase::Joining(_, asked) = &state.phase {
            let refused = worker.gateway.metrics.hello_duration.of(HelloOutcome::Refused);
            refused.observe(asked.elapsed());
        }
        let mut last = Vec::new();
        for word in words {
            last.extend_from_slice(&frame::message(self.encoding, &self.encoding.encode(word)));
        }
        last.extend_from_slice(&frame::close(number, reason));
        state.phase = Phase::Closing(worker.now_s() + CLOSE_GRACE_S);
        if state.outbound.bytes() > PIPELINE_BYTES {
            state.outbound.replace(Bytes::from(last));
        } else {
            // A few frames that wait may still arrive, answers among them.
            drop(state.outbound.push(Bytes::from(last), usize::MAX));
        }
        if state.outbound.flush(&self.stream).is_err() {
            state.phase = Phase::Dead;
        }
        wake(&state.task);
        state.wake_drained();
        drop(state);
        worker.watch(self.id.slot);
    }

    /// Drops the socket at once; the kernel forgets what it holds for it.
    fn cut(&self) {
        drop(socket2::SockRef::from(self.stream.tcp()).set_linger(Some(Duration::ZERO)));
        let mut state = self.state();
        state.phase = Phase::Dead;
        wake(&state.task);
    }

    /// Waits until a catch-up may queue so many bytes more: a frame larger than the pipeline waits until it is alone.
    /// `false`: the connection is over, or follows no more.
    async fn has_room(&self, id: FollowId, bytes: usize) -> bool {
        poll_fn(|context| {
            let is_followed = self.with_followed(id, |_| ()).is_some();
            let mut state = self.state();
            if !is_followed || !matches!(state.phase, Phase::Open) {
                return Poll::Ready(false);
            }
            let waiting = state.outbound.bytes();
            if waiting == 0 || waiting + bytes <= PIPELINE_BYTES {
                return Poll::Ready(true);
            }
            if !state.drained.iter().any(|waiting| waiting.will_wake(context.waker())) {
                state.drained.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    // ----------------------------------------------------------------------------------------------------- following

    /// Pushes committed entries, if this is what the connection is waiting for.
    pub fn deliver(&self, worker: &Worker, delivery: &Arc<Delivery>, joined: bool) -> Delivered {
        let (first, last) = (delivery.first(), delivery.last());
        {
            let mut state = self.state();
            let feed = delivery.publication.feed;
            let Some(followed) = state.follows.iter_mut().find(|followed| followed.feed == feed) else {
                return Delivered::NotWanted;
            };
            let epoch = delivery.publication.epoch;
            match followed.at.published(epoch, first, last) {
                Wanted::Now => {}
                Wanted::Not => return Delivered::NotWanted,
                Wanted::Later => {
                    followed
                        .kept
                        .keep(epoch, &delivery.publication.entries, delivery.clone());
                    return Delivered::NotWanted;
                }
                Wanted::Missed => {
                    followed
                        .kept
                        .keep(epoch, &delivery.publication.entries, delivery.clone());
                    return Delivered::Behind(FollowId {
                        feed,
                        number: followed.number,
                    });
                }
            }
        }
        let frame = delivery.frame(self.encoding);
        if joined {
            self.queue(worker, frame.clone());
        } else {
            self.send(worker, frame);
        }
        Delivered::Pushed(frame.len())
    }

    /// A feed is this far: whether the connection missed something.
    pub fn announced(&self, feed: UserId, head: Head) -> Option<FollowId> {
        let mut state = self.state();
        let followed = state.follows.iter_mut().find(|followed| followed.feed == feed)?;
        followed.at.announced(head.epoch, head.seq).then_some(FollowId {
            feed,
            number: followed.number,
        })
    }

    /// The session allowed to follow a feed: `None` if the client does not want to any more, or it has begun already.
    pub fn begin_following(&self, feed: UserId) -> Option<FollowId> {
        let mut state = self.state();
        let waiting = |followed: &&mut Followed| followed.feed == feed && !followed.begun;
        let followed = state.follows.iter_mut().find(waiting)?;
        followed.begun = true;
        Some(FollowId {
            feed,
            number: followed.number,
        })
    }

    /// Changes how a feed is followed; `None` if it is followed no more.
    pub fn with_followed<T>(&self, id: FollowId, change: impl FnOnce(&mut Followed) -> T) -> Option<T> {
        let same = |followed: &&mut Followed| followed.feed == id.feed && followed.number == id.number;
        self.state().follows.iter_mut().find(same).map(change)
    }

    /// Publications were lost on the way here: what is to be read again. What is being read already reads on by itself.
    pub fn lost_some(&self) -> Vec<FollowId> {
        let mut state = self.state();
        let lost = state.follows.iter_mut().filter_map(|followed| {
            followed.at.lost_some().then_some(FollowId {
                feed: followed.feed,
                number: followed.number,
            })
        });
        lost.collect()
    }

    /// The client hears what became of its wish to follow the feed; of a reset that it did not ask for nothing is counted.
    pub fn follow_answered(&self, worker: &Worker, id: FollowId, outcome: FollowOutcome) {
        let asked = self.with_followed(id, |followed| followed.asked.take());
        if let Some(asked) = asked.flatten() {
            worker
                .gateway
                .metrics
                .follow_duration
                .of(outcome)
                .observe(asked.elapsed());
        }
    }

    /// The session did not allow to follow the feed, or it cannot be read.
    pub fn refuse_following(&self, worker: &Worker, id: FollowId, code: Code) {
        self.follow_answered(worker, id, FollowOutcome::Refused);
        if self.stop_following(worker, id.feed) {
            self.error(worker, ErrorBody::new(code).feed(id.feed));
        }
    }

    pub fn stop_following(&self, worker: &Worker, feed: UserId) -> bool {
        let mut state = self.state();
        let before = state.follows.len();
        state.follows.retain(|followed| followed.feed != feed);
        let followed = state.follows.len() < before;
        // What waits for this following need not wait any more.
        state.wake_drained();
        drop(state);
        if followed {
            worker.unfollow(feed, self.id.slot);
        }
        followed
    }

    // ------------------------------------------------------------------------------------------------------ messages

    fn take(self: &Rc<Self>, worker: &Rc<Worker>, message: &[u8]) {
        let is_too_much = worker.gateway.overload.refuses_operations();
        if (is_too_much || self.state.borrow().refused.is_some()) && self.shed(worker, message, is_too_much) {
            return;
        }
        let decoded = self.encoding.decode_client(message);
        let kind = decoded.as_ref().map_or(MessageKind::Invalid, Into::into);
        worker.gateway.metrics.messages_received.of(kind).inc();
        let in_hello = matches!(self.state.borrow().phase, Phase::Hello { .. });
        match decoded {
            Ok(Decoded::Message(ClientMessage::Hello(hello))) if in_hello => self.hello(worker, hello),
            Err(error) if in_hello => {
                self.say(worker, &ServerMessage::Error(error.body()));
                self.close(worker, Code::HelloExpected);
            }
            _ if in_hello => self.close(worker, Code::HelloExpected),
            Ok(Decoded::Message(message)) => self.converse(worker, message),
            Ok(Decoded::Partly(operations, refused)) => {
                if !refused.is_empty() {
                    self.send(worker, &results_frame(self.encoding, refused));
                }
                if !operations.operations.is_empty() {
                    self.operations(worker, operations);
                }
            }
            Err(error) => self.say(worker, &ServerMessage::Error(error.body())),
        }
    }

    /// Refuses operations, if these are some: they are too much for the node, or behind others that were refused. It must cost little, or
    /// nothing else is done.
    fn shed(&self, worker: &Worker, message: &[u8], is_too_much: bool) -> bool {
        if !matches!(self.state.borrow().phase, Phase::Open) {
            return false;
        }
        let Some(ids) = self.encoding.operation_ids(message) else {
            return false;
        };
        let error = self
            .refused_before(worker.now_s(), &ids)
            .or_else(|| is_too_much.then(|| ErrorBody::new(Code::Overloaded)));
        let Some(error) = error else {
            return false;
        };
        let metrics = &worker.gateway.metrics;
        match error.code {
            Code::Overloaded => metrics.shed.of(Shed::Operations).inc(),
            _ => metrics.limited.of(Asked::Writes.into()).inc(),
        };
        metrics.messages_received.of(MessageKind::Operations).inc();
        self.refuse(worker, ids.into_iter(), &error);
        true
    }

    fn heartbeat_answered(&self) {
        let mut state = self.state();
        state.heartbeats = state.heartbeats.saturating_sub(1);
        state.refused.take_if(|refused| {
            refused.heartbeats = refused.heartbeats.saturating_sub(1);
            refused.heartbeats == 0
        });
    }

    /// Why operations are refused that came behind others that were: see [`Refused`].
    fn refused_before(&self, now_s: u32, ids: &[OperationId]) -> Option<ErrorBody> {
        let mut state = self.state();
        state
            .refused
            .take_if(|refused| now_s >= refused.until_s || ids.contains(&refused.first));
        state.refused.as_ref().map(|refused| refused.error.clone())
    }

    /// Answers operations that are not handed on, and asks whether the client has heard it.
    fn refuse(&self, worker: &Worker, operations: impl Iterator<Item = OperationId>, error: &ErrorBody) {
        let refused: Vec<_> = operations
            .map(|id| OperationResult {
                id,
                outcome: Outcome::Refused(error.clone()),
            })
            .collect();
        let first = refused.first().map(|result| result.id);
        self.queue(worker, results_frame(self.encoding, refused));
        let is_behind = self.state.borrow().refused.is_some();
        let (false, Some(first)) = (is_behind, first) else {
            return;
        };
        self.beat(worker);
        let wait_ms = error.retry_after_ms.or(error.code.retry_after_ms()).unwrap_or_default();
        let mut state = self.state();
        state.refused = Some(Box::new(Refused {
            first,
            error: error.clone(),
            heartbeats: state.heartbeats,
            // Of the worker's clock, which counts whole seconds.
            until_s: worker.now_s() + wait_ms.div_ceil(1_000) + 1,
        }));
    }

    fn converse(self: &Rc<Self>, worker: &Rc<Worker>, message: ClientMessage) {
        match message {
            ClientMessage::Heartbeat(_) => self.heartbeat_answered(),
            ClientMessage::Operations(operations) => self.operations(worker, operations),
            ClientMessage::Follow(follow) => self.follow(worker, follow),
            ClientMessage::Unfollow(Unfollow { feed }) => {
                let feed = feed.unwrap_or(self.user());
                if self.stop_following(worker, feed) {
                    self.say(worker, &ServerMessage::Unfollowed(Unfollowed { feed }));
                } else {
                    self.error(worker, ErrorBody::new(Code::NotFollowing).feed(feed));
                }
            }
            ClientMessage::Refresh(refresh) => self.refresh(worker, refresh.token),
            ClientMessage::Hello(_) => self.close(worker, Code::HelloExpected),
        }
    }

    pub fn error(&self, worker: &Worker, error: ErrorBody) {
        self.say(worker, &ServerMessage::Error(error));
    }

    fn hello(self: &Rc<Self>, worker: &Rc<Worker>, mut hello: Hello) {
        let ProtocolRange { min, max } = hello.protocol;
        let is_version_known = min <= max && max >= PROTOCOL_MIN && min <= PROTOCOL_MAX;
        let is_name_long = |name: &String| name.len() > CLIENT_NAME_BYTES_MAX;
        let wrong = if hello.client.as_ref().is_some_and(is_name_long) {
            Some(ErrorBody::new(Code::ValueTooLong).field("hello.client"))
        } else if hello.follow.len() > FOLLOWS_A_CONNECTION_MAX {
            Some(ErrorBody::new(Code::TooManyFollows).field("hello.follow"))
        } else {
            None
        };
        let mut state = self.state();
        let Phase::Hello {
            token: from_handshake, ..
        } = &mut state.phase
        else {
            return;
        };
        let token = hello.token.take().or(from_handshake.take());
        state.phase = Phase::Joining(Box::new(hello), Instant::now());
        drop(state);
        if !is_version_known {
            return self.close(worker, Code::VersionUnsupported);
        }
        if let Some(error) = wrong {
            self.error(worker, error);
            return self.close(worker, Code::HelloExpected);
        }
        let Some(token) = token else {
            return self.close(worker, Code::TokenMissing);
        };
        let connection = self.clone();
        let owner = worker.clone();
        worker.verify(token, move |verified| match verified {
            Ok(claims) => connection.join(&owner, &claims),
            Err(code) => connection.close(&owner, code),
        });
    }

    fn join(&self, worker: &Worker, claims: &Claims) {
        let mut state = self.state();
        if !matches!(state.phase, Phase::Joining(..)) {
            return;
        }
        match worker.gateway.seats.take_for_socket(claims.user) {
            Ok(seat) => state.seat = Some(seat),
            Err(code) => {
                drop(state);
                return self.close(worker, code);
            }
        }
        state.user = claims.user;
        state.sign_in = claims.sign_in;
        state.access = claims.access;
        state.expires_at = claims.expires_at;
        drop(state);
        worker.expires(self.id, claims.expires_at);
        worker.gateway.sessions.join(claims.user, self.id, claims.sign_in);
    }

    /// The session let the connection in.
    pub fn admitted(self: &Rc<Self>, worker: &Rc<Worker>) {
        let mut state = self.state();
        if !matches!(state.phase, Phase::Joining(..)) {
            return;
        }
        if worker.gateway.tokens.is_ended(state.sign_in) {
            // It was ended between the check of the token and here, when the session did not know the connection yet.
            drop(state);
            return self.close(worker, Code::SignedOut);
        }
        let Phase::Joining(hello, asked) = std::mem::replace(&mut state.phase, Phase::Open) else {
            return;
        };
        let welcome = Welcome {
            build: worker.gateway.build.clone(),
            protocol: ProtocolRange {
                min: PROTOCOL_MIN,
                max: PROTOCOL_MAX,
            },
            version: hello.protocol.max.min(PROTOCOL_MAX),
            user: state.user,
            time: worker.gateway.clock.now_ms(),
            heartbeat_ms: worker.gateway.heartbeat_ms,
            token_expires_at: state.expires_at,
            message_bytes_max: MESSAGE_BYTES_MAX as u32,
            operations_max: OPERATIONS_A_MESSAGE_MAX as u32,
            traces: worker.gateway.traces.is_some(),
        };
        // What was read while the token was checked is taken now.
        wake(&state.task);
        drop(state);
        self.say(worker, &ServerMessage::Welcome(welcome));
        let welcomed = worker.gateway.metrics.hello_duration.of(HelloOutcome::Welcomed);
        welcomed.observe(asked.elapsed());
        if worker.is_stale() {
            self.beat(worker);
        }
        for follow in hello.follow {
            self.follow(worker, follow);
        }
    }

    fn operations(&self, worker: &Worker, operations: Operations) {
        let Operations {
            feed,
            operations,
            traceparent,
        } = operations;
        let user = self.user();
        let feed = feed.unwrap_or(user);
        if operations.len() > OPERATIONS_A_MESSAGE_MAX {
            return self.error(worker, ErrorBody::new(Code::TooManyOperations).feed(feed));
        }
        if operations.is_empty() {
            return self.error(
                worker,
                ErrorBody::new(Code::InvalidField).field("operations.operations"),
            );
        }
        if feed != user {
            return self.error(worker, ErrorBody::new(Code::FeedNotFound).feed(feed));
        }
        let state = self.state.borrow();
        if state.access < Access::Write {
            drop(state);
            return self.error(worker, ErrorBody::new(Code::ScopeMissing).feed(feed));
        }
        if state.leaving {
            // As if the connection had ended before: its client sends them again, elsewhere.
            return;
        }
        drop(state);
        if let Err(too_much) = worker.gateway.rates.user(Asked::Writes, user, operations.len()) {
            let error = too_much.error();
            return self.refuse(worker, operations.iter().map(|operation| operation.id), &error);
        }
        let traces = worker.gateway.traces.as_ref();
        let span = traces.and_then(|traces| traces.message("socket operations", traceparent.as_deref()));
        let trace = span.as_ref().map(|span| span.context);
        let mut state = self.state();
        if let (Some(span), Some(first)) = (span, operations.first()) {
            state.traced.push((first.id, span));
        }
        state.unanswered += 1;
        if !worker.gateway.router.is_elsewhere(feed) {
            // What waits for another node says nothing of this one: that one may be gone.
            state.operations += operations.len() as u32;
            worker.gateway.overload.operations_begin(operations.len() as u32);
        }
        drop(state);
        let reply = ReplyTo::Connection(self.id);
        let submission = Submission {
            feed,
            author: user,
            operations,
            reply,
            repeated: false,
            trace,
        };
        worker.gateway.router.submit(submission, &*worker.gateway.hub);
    }

    fn follow(self: &Rc<Self>, worker: &Rc<Worker>, follow: Follow) {
        let asked = Instant::now();
        let mut state = self.state();
        let feed = follow.feed.unwrap_or(state.user);
        // A feed of another the session refuses.
        let is_counted = follow.statistics && feed == state.user;
        let rates = &worker.gateway.rates;
        let refused = if follow.lists.is_some() {
            // The shape is there for shared lists; until a list can be shared there is nothing to filter.
            Some(
                ErrorBody::new(Code::InvalidField)
                    .field("follow.lists")
                    .because("Single lists cannot be followed yet"),
            )
        } else if state.follows.iter().any(|followed| followed.feed == feed) {
            Some(ErrorBody::new(Code::AlreadyFollowing))
        } else if state.follows.len() >= FOLLOWS_A_CONNECTION_MAX {
            Some(ErrorBody::new(Code::TooManyFollows))
        } else if is_counted && let Err(too_much) = rates.user(Asked::Reads, state.user, 1) {
            Some(too_much.error())
        } else {
            None
        };
        if let Some(error) = refused {
            drop(state);
            let refused = worker.gateway.metrics.follow_duration.of(FollowOutcome::Refused);
            refused.observe(asked.elapsed());
            return self.error(worker, error.feed(feed));
        }
        state.follows.reserve_exact(1);
        let cursor = follow.cursor.map(String::into_boxed_str);
        state.follow_count = state.follow_count.wrapping_add(1);
        let number = state.follow_count;
        let id = FollowId { feed, number };
        state.follows.push(Followed {
            number,
            begun: false,
            feed,
            at: Follower::default(),
            kept: Kept::default(),
            cursor,
            asked: Some(asked),
            _counting: is_counted.then(|| Counting::begin(self.clone(), worker.clone(), id)),
        });
        let user = state.user;
        drop(state);
        worker.gateway.sessions.tell(user, Event::Follow(self.id, feed));
    }

    fn refresh(self: &Rc<Self>, worker: &Rc<Worker>, token: String) {
        if !self.may_refresh(worker.now_s() / 60) {
            return self.error(worker, ErrorBody::new(Code::TooManyRefreshes));
        }
        let connection = self.clone();
        let owner = worker.clone();
        worker.verify(token, move |verified| match verified {
            Ok(claims) => connection.refreshed(&owner, &claims),
            // The old token is still good: the client may try again until it expires.
            Err(code) => connection.error(&owner, ErrorBody::new(code).field("refresh.token")),
        });
    }

    fn may_refresh(&self, minute: u32) -> bool {
        let mut state = self.state();
        if state.refreshes_minute != minute {
            (state.refreshes_minute, state.refreshes) = (minute, 0);
        }
        state.refreshes += 1;
        state.refreshes <= REFRESHES_A_MINUTE_MAX
    }

    fn refreshed(&self, worker: &Worker, claims: &Claims) {
        let mut state = self.state();
        if claims.user != state.user {
            drop(state);
            let error = ErrorBody::new(Code::TokenInvalid).because("This token is another user's");
            return self.error(worker, error.field("refresh.token"));
        }
        state.expires_at = claims.expires_at;
        state.access = claims.access;
        state.sign_in = claims.sign_in;
        drop(state);
        worker.expires(self.id, claims.expires_at);
        worker
            .gateway
            .sessions
            .tell(claims.user, Event::Renew(self.id, claims.sign_in));
        if worker.gateway.tokens.is_ended(claims.sign_in) {
            // It was ended between the check of the token and here, when the session knew the connection by its old one.
            return self.close(worker, Code::SignedOut);
        }
        self.say(
            worker,
            &ServerMessage::Refreshed(Refreshed {
                token_expires_at: claims.expires_at,
            }),
        );
    }

    // ------------------------------------------------------------------------------------------------------ the wheel

    /// Its token has expired.
    pub fn expire(&self, worker: &Worker) {
        if !self.is_ending() {
            worker.gateway.metrics.evictions.of(Eviction::SignedOut).inc();
            self.close(worker, Code::TokenExpired);
        }
    }

    /// Once a heartbeat period: is it alive, is its token (the clock may have been set forward), did it say hello?
    pub fn heartbeat(&self, worker: &Worker) {
        let silent_s = worker.now_s().saturating_sub(self.last_read.get());
        let state = self.state.borrow();
        let expired = state.seat.is_some() && worker.gateway.clock.now_ms() >= state.expires_at;
        drop(state);
        if silent_s > worker.gateway.heartbeat_timeout_s {
            worker.gateway.metrics.evictions.of(Eviction::HeartbeatMissed).inc();
            self.close(worker, Code::HeartbeatMissed);
        } else if expired {
            self.expire(worker);
        } else {
            self.beat(worker);
        }
    }

    /// A heartbeat, if the client has said hello.
    pub fn beat(&self, worker: &Worker) {
        let open = matches!(self.state.borrow().phase, Phase::Open);
        if open {
            self.state().heartbeats += 1;
            self.send(worker, &worker.heartbeat(self.encoding));
        }
    }

    /// Once a second, for connections that are at a beginning or an end: are they there too long? And for those that have sent too
    /// much: they may go on.
    pub fn check_phase(&self, worker: &Worker) -> bool {
        let now = worker.now_s();
        let mut allowance = self.allowance.get();
        if std::mem::take(&mut allowance.is_waiting) {
            self.allowance.set(allowance);
            wake(&self.state.borrow().task);
        }
        let waiting_for_hello = match self.state.borrow().phase {
            Phase::Closing(until) if now >= until => None,
            Phase::Hello { until_s, .. } => Some(now >= until_s),
            Phase::Closing(_) | Phase::Joining(..) => Some(false),
            Phase::Open | Phase::Dead => return false,
        };
        match waiting_for_hello {
            None => self.cut(),
            Some(true) => {
                worker.gateway.metrics.evictions.of(Eviction::HelloTimeout).inc();
                self.close(worker, Code::HelloTimeout);
            }
            Some(false) => {}
        }
        true
    }

    // -------------------------------------------------------------------------------------------------------- the task

    /// Takes the connection out of everything it was in.
    fn end(&self, worker: &Worker) {
        let (user, seat, follows, traced, operations) = {
            let mut state = self.state();
            state.phase = Phase::Dead;
            state.wake_drained();
            let (follows, traced) = (std::mem::take(&mut state.follows), std::mem::take(&mut state.traced));
            let operations = std::mem::take(&mut state.operations);
            (state.user, state.seat.take(), follows, traced, operations)
        };
        worker.gateway.overload.operations_end(operations, 0);
        if let Some(traces) = &worker.gateway.traces {
            for (_, mut span) in traced {
                span.event("the connection ended");
                traces.end(span);
            }
        }
        for followed in follows {
            worker.unfollow(followed.feed, self.id.slot);
        }
        if seat.is_some() {
            worker.gateway.sessions.leave(user, self.id);
        }
        worker.remove(self.id);
    }

    fn poll(self: &Rc<Self>, worker: &Rc<Worker>, context: &mut Context<'_>) -> Poll<()> {
        {
            let mut state = self.state();
            if !state.task.as_ref().is_some_and(|task| task.will_wake(context.waker())) {
                state.task = Some(context.waker().clone());
            }
            while !self.has_sent(&state) && !matches!(state.phase, Phase::Dead) {
                match self.stream.poll_write_ready(context) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(())) if state.outbound.flush(&self.stream).is_ok() => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                }
            }
            if state.outbound.bytes() < PIPELINE_BYTES / 2 {
                state.wake_drained();
            }
            if matches!(state.phase, Phase::Dead) || (state.goodbye && self.has_sent(&state)) {
                return Poll::Ready(());
            }
        }
        self.poll_read(worker, context)
    }

    fn poll_read(self: &Rc<Self>, worker: &Rc<Worker>, context: &mut Context<'_>) -> Poll<()> {
        let mut taken = 0;
        loop {
            if self.state.borrow().goodbye || matches!(self.state.borrow().phase, Phase::Joining(..)) {
                // The messages of one that joins wait in the kernel until the token is checked.
                return Poll::Pending;
            }
            if std::mem::take(&mut self.state().held) && self.take_bytes(worker, &mut BytesMut::new(), &mut taken) {
                return Poll::Ready(());
            }
            if !self.may_send(worker) {
                return Poll::Pending;
            }
            match self.stream.poll_read_ready(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {}
            }
            let mut buffer = worker.read_buffer();
            buffer.clear();
            buffer.reserve(READ_BUFFER_BYTES);
            match self.stream.try_read_buf(&mut buffer) {
                Ok(0) => return Poll::Ready(()),
                Ok(count) => {
                    self.last_read.set(worker.now_s());
                    let mut allowance = self.allowance.get();
                    allowance.bytes -= count as i64;
                    self.allowance.set(allowance);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    worker.give_back(buffer);
                    continue;
                }
                Err(_) => return Poll::Ready(()),
            }
            let ended = self.take_bytes(worker, &mut buffer, &mut taken);
            worker.give_back(buffer);
            if ended {
                return Poll::Ready(());
            }
            if taken >= MESSAGES_A_TURN_MAX {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Whether the client may send more now. If not, the wheel wakes the task when it may; until then what it sends waits in the
    /// network, and it notices by that.
    fn may_send(&self, worker: &Worker) -> bool {
        let a_second = i64::from(worker.gateway.bytes_a_second_max);
        if a_second == 0 {
            return true;
        }
        let burst = a_second * i64::from(BURST_SECONDS);
        let now_s = worker.now_s();
        let mut allowance = self.allowance.get();
        let grown = i64::from(now_s.saturating_sub(allowance.grew_at_s)) * a_second;
        allowance.bytes = allowance.bytes.saturating_add(grown).min(burst);
        allowance.grew_at_s = now_s;
        if allowance.bytes <= 0 && !allowance.is_waiting {
            worker.gateway.metrics.limited.of(Limited::Bytes).inc();
            if worker.gateway.live.now().rate_limits == RateLimits::Count {
                allowance.bytes = burst;
            } else {
                allowance.is_waiting = true;
                worker.watch(self.id.slot);
            }
        }
        self.allowance.set(allowance);
        allowance.bytes > 0
    }

    /// Takes the messages in these bytes, after those that were kept. `true`: the connection is over.
    fn take_bytes(self: &Rc<Self>, worker: &Rc<Worker>, bytes: &mut BytesMut, taken: &mut usize) -> bool {
        // Out of its place while it works: handling a message may borrow the rest of the state.
        let mut decoder = std::mem::replace(&mut self.state().decoder, Decoder::new(self.encoding));
        let ended = decoder
            .feed(bytes, |decoder, bytes| self.take_each(worker, decoder, bytes, taken))
            .is_err();
        self.state().decoder = decoder;
        ended
    }

    fn take_each(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        decoder: &mut Decoder,
        bytes: &mut BytesMut,
        taken: &mut usize,
    ) -> Result<(), Ended> {
        loop {
            let closing = {
                let mut state = self.state();
                match state.phase {
                    Phase::Dead => return Err(Ended),
                    Phase::Closing(_) => true,
                    Phase::Joining(..) => {
                        // The rest of what was read waits for the answer; `admitted` wakes the task.
                        state.held = true;
                        return Ok(());
                    }
                    Phase::Hello { .. } | Phase::Open => false,
                }
            };
            match decoder.next(bytes) {
                Ok(None) => return Ok(()),
                Ok(Some(Incoming::Close(code))) => {
                    if !closing {
                        self.close_with(worker, &[], code.unwrap_or(1000), "");
                    }
                    let mut state = self.state();
                    if self.has_sent(&state) {
                        return Err(Ended);
                    }
                    state.goodbye = true;
                    bytes.clear();
                    return Ok(());
                }
                Ok(Some(_)) if closing => {}
                Ok(Some(Incoming::Message(message))) => self.take(worker, &message),
                Ok(Some(Incoming::Ping(payload))) => self.send(worker, &frame::pong(&payload)),
                Ok(Some(Incoming::Pong)) => {}
                // The stream of frames is broken: nothing after this can be read.
                Err(_) if closing => return Err(Ended),
                Err(code) => {
                    worker.gateway.metrics.evictions.of(Eviction::Protocol).inc();
                    self.close(worker, code);
                    bytes.clear();
                    return Ok(());
                }
            }
            *taken += 1;
        }
    }
}

/// There is nothing more to read.
struct Ended;

fn wake(waker: &Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake_by_ref();
    }
}
