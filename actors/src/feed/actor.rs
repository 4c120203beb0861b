//! The actix shell of a feed: carries out the component's effects and knows who waits for what.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use taskflow_protocol::message::{ErrorBody, OperationResult, Outcome};
use taskflow_protocol::{Code, OperationId, UserId, limits};

use super::{ENTRY_READ_BYTES, Effect, Feed, Message as Step, SubmissionId};
use crate::domain::State;
use crate::ports::{AppendError, BoxFuture, Publication};
use crate::supervisor::{Committed, Envelope, Permit, Ports, ReplyTo, Settled, Submission, Table};
use crate::trace::{Span, SpanKind};

/// What a feed's mailbox takes. Every one carries a permit, so the mailbox is bounded by what the router hands out.
impl actix::Message for Envelope<Request> {
    type Result = ();
}

/// What is asked of a feed.
pub enum Request {
    /// Change it.
    Submit(Submission),
    /// Make it.
    Birth {
        /// The user's zone.
        time_zone: String,
        /// The user's language.
        locale: String,
        /// Who waits.
        reply: ReplyTo,
    },
    /// Look at its memory, or hear why there is none.
    Look(Look),
}

/// A look at a feed's memory. Runs on the feed's thread, so it must be short.
pub type Look = Box<dyn FnOnce(Result<&State, Code>) + Send>;

/// Who waits for a submission.
struct Asked {
    reply: ReplyTo,
    ids: Vec<OperationId>,
    begun: Instant,
    /// Where the request is traced.
    span: Option<Box<Span>>,
    _permit: Permit,
}

/// The shell.
pub struct FeedActor {
    user: UserId,
    feed: Feed,
    ports: Arc<Ports>,
    table: Arc<Table>,
    asked: HashMap<SubmissionId, Asked>,
    /// How many of them are traced.
    traced: usize,
    looks: HashMap<SubmissionId, (Look, Permit)>,
    next_submission: u64,
    /// Something happened since the last look for idleness.
    active: bool,
    /// It panicked: nothing is done any more, and it stops behind what is in its mailbox.
    failed: bool,
}

/// Say how far the feed is, to all who follow it.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub struct Announce;

/// The feed was removed from the store.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub struct Removed;

/// The last message of a feed that panicked.
#[derive(actix::Message)]
#[rtype(result = "()")]
struct Stop;

impl FeedActor {
    /// A shell around a feed that has nothing in memory: [`Feed::new`].
    pub fn new(user: UserId, random: u64, ports: Arc<Ports>, table: Arc<Table>) -> Self {
        Self {
            user,
            feed: Feed::new(user, random, ports.writers),
            ports,
            table,
            asked: HashMap::new(),
            traced: 0,
            looks: HashMap::new(),
            next_submission: 0,
            active: true,
            failed: false,
        }
    }

    fn next(&mut self) -> SubmissionId {
        self.next_submission += 1;
        SubmissionId(self.next_submission)
    }

    fn ask(&mut self, reply: ReplyTo, ids: Vec<OperationId>, span: Option<Box<Span>>, permit: Permit) -> SubmissionId {
        let submission = self.next();
        self.traced += usize::from(span.is_some());
        self.asked.insert(
            submission,
            Asked {
                reply,
                ids,
                begun: Instant::now(),
                span,
                _permit: permit,
            },
        );
        submission
    }

    fn step(&mut self, step: Step, ctx: &mut Context<Self>) {
        if self.failed {
            return;
        }
        // A panic in here must end this feed only: the state is thrown away with the actor, and comes back from the store.
        let handled = catch_unwind(AssertUnwindSafe(|| {
            let now = self.ports.clock.now_ms();
            self.feed.handle(step, now)
        }));
        let Ok(effects) = handled else {
            return self.panicked(ctx);
        };
        for effect in effects {
            self.carry_out(effect, ctx);
        }
    }

    fn panicked(&mut self, ctx: &mut Context<Self>) {
        tracing::error!(user.id = %self.user, "feed panicked");
        self.failed = true;
        // From here on the mailbox gets nothing new. Whoever is in it already must hear that the feed is gone.
        self.table.failed(self.user);
        #[allow(clippy::disallowed_methods, reason = "one, behind everything else")]
        ctx.address().do_send(Stop);
    }

    fn carry_out(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        let store = &self.ports.store;
        match effect {
            Effect::Load { ids_since } => {
                let load = store.load(self.user, ids_since);
                self.later(Some("store load"), load, Step::Loaded, ctx);
            }
            Effect::Append(append) => {
                let (id, begun) = (append.append_id, Instant::now());
                let mut spans = self.spans("store append", |submission| {
                    self.feed.in_flight().any(|in_flight| in_flight == submission)
                });
                for span in &mut spans {
                    span.fact("taskflow.entries", append.last - append.base);
                    span.fact("taskflow.bytes", append.body.len());
                    span.fact("feed.seq", append.last);
                }
                let done = store.append(append);
                let (observer, tracer) = (self.ports.observer.clone(), self.ports.tracer.clone());
                let step = move |result| {
                    observer.appended(begun.elapsed(), &result);
                    for mut span in spans {
                        say_appended(&mut span, &result);
                        tracer.end(span);
                    }
                    Step::Appended(id, result)
                };
                self.later(None, done, step, ctx);
            }
            Effect::ReadBack(id, after) => {
                let read = store.read_log(self.user, after, 1);
                self.later(Some("store read"), read, move |result| Step::ReadBack(id, result), ctx);
            }
            Effect::ReadHead(id) => {
                let read = store.head(self.user);
                self.later(Some("store read"), read, move |result| Step::HeadRead(id, result), ctx);
            }
            Effect::ReadOn(id, after) => {
                let read = store.read_log(self.user, after, limits::CATCH_UP_BYTES);
                self.later(Some("store read"), read, move |result| Step::ReadOn(id, result), ctx);
            }
            Effect::ReadEntry(seq) => {
                let read = store.read_log(self.user, seq - 1, ENTRY_READ_BYTES);
                self.later(
                    Some("store read"),
                    read,
                    move |result| Step::EntryRead(seq, result),
                    ctx,
                );
            }
            Effect::WriteRows { rows, upto } => {
                let written = store.write_rows(self.user, rows, upto);
                self.later(None, written, move |result| Step::RowsWritten(upto, result), ctx);
            }
            Effect::Trim(retention) => {
                let trimmed = store.trim(self.user, retention);
                self.later(None, trimmed, Step::Trimmed, ctx);
            }
            Effect::Publish {
                epoch,
                entries,
                before,
                settled,
            } => {
                self.ports.observer.committed(&entries, before);
                let mut answers = Vec::new();
                for (submission, results) in settled {
                    match self.settled(submission, &results) {
                        Some(ReplyTo::Connection(connection)) => answers.push((connection, results)),
                        Some(ReplyTo::Waiter(waiter)) => {
                            let entries = entries.clone();
                            let committed = Some(Committed { epoch, entries });
                            drop(waiter.send(Settled { results, committed }));
                        }
                        None => {}
                    }
                }
                self.ports.push.publish(Publication {
                    feed: self.user,
                    epoch,
                    entries,
                    answers,
                });
            }
            Effect::Settled(submission, results) => {
                // The permit is given back first: who hears the answer may ask again at once.
                if let Some(reply) = self.settled(submission, &results) {
                    self.answer(reply, results);
                }
            }
            Effect::Look(look, may) => {
                let Some((look, _permit)) = self.looks.remove(&look) else {
                    return;
                };
                let looked = catch_unwind(AssertUnwindSafe(|| look(may.and_then(|()| self.feed.state()))));
                if looked.is_err() {
                    self.panicked(ctx);
                }
            }
            Effect::Announce(head) => self.ports.push.announce(self.user, head),
            Effect::After(ms, timer) => {
                ctx.run_later(Duration::from_millis(ms), move |actor, ctx| {
                    actor.step(Step::Timer(timer), ctx);
                });
            }
            Effect::Report(what) => {
                tracing::error!(user.id = %self.user, problem = what, "stored feed needs attention");
            }
        }
    }

    /// Who waits for these results.
    fn settled(&mut self, submission: SubmissionId, results: &[OperationResult]) -> Option<ReplyTo> {
        let asked = self.asked.remove(&submission)?;
        if let Some(mut span) = asked.span {
            self.traced -= 1;
            span.settle(results);
            self.ports.tracer.end(span);
        }
        self.ports.observer.settled(results, asked.begun.elapsed());
        Some(asked.reply)
    }

    fn answer(&self, reply: ReplyTo, results: Vec<OperationResult>) {
        match reply {
            ReplyTo::Connection(connection) => self.ports.push.answer(connection, results),
            ReplyTo::Waiter(waiter) => drop(waiter.send(Settled::from(results))),
        }
    }

    /// A step of this name for each of those who wait, if they are traced.
    #[allow(clippy::vec_box, reason = "each goes to the tracer as it is")]
    fn spans(&self, name: &'static str, is_for: impl Fn(SubmissionId) -> bool) -> Vec<Box<Span>> {
        if self.traced == 0 {
            return Vec::new();
        }
        let traced = self
            .asked
            .iter()
            .filter_map(|(submission, asked)| Some((*submission, asked.span.as_ref()?)));
        let traced = traced.filter(|(submission, _)| is_for(*submission));
        traced
            .filter_map(|(_, span)| self.ports.tracer.begin(name, SpanKind::Internal, span.context))
            .collect()
    }

    /// Takes the step when the store has answered. `name`: what whoever waits is told that it waits for.
    fn later<T: 'static, E: 'static>(
        &self,
        name: Option<&'static str>,
        future: BoxFuture<Result<T, E>>,
        step: impl FnOnce(Result<T, E>) -> Step + 'static,
        ctx: &mut Context<Self>,
    ) {
        let spans = name.map_or(Vec::new(), |name| self.spans(name, |_| true));
        ctx.spawn(future.into_actor(self).map(move |result, actor, ctx| {
            for mut span in spans {
                span.is_failed = result.is_err();
                actor.ports.tracer.end(span);
            }
            actor.step(step(result), ctx);
        }));
    }
}

fn say_appended(span: &mut Span, result: &Result<(), AppendError>) {
    let outcome = match result {
        Ok(()) => "durable",
        Err(AppendError::Conflict(_)) => {
            // Another node has written: what it did is read, and the operations are judged again.
            span.event("conflict");
            "conflict"
        }
        Err(AppendError::Full) => "full",
        Err(AppendError::Unavailable(_)) => "unavailable",
        Err(AppendError::Gone) => "gone",
        Err(AppendError::Damaged(_)) => "damaged",
    };
    span.fact("taskflow.outcome", outcome);
    span.is_failed = !matches!(result, Ok(()) | Err(AppendError::Conflict(_)));
}

impl Actor for FeedActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.ports.observer.feed_started();
        // Mailbox capacity is no bound (actix ignores it for clones); the permits are. This spares it the parking.
        ctx.set_mailbox_capacity(0);
        ctx.run_interval(self.ports.feed_idle, |actor, ctx| {
            if actor.failed || std::mem::take(&mut actor.active) || !actor.feed.is_idle() || !actor.looks.is_empty() {
                return;
            }
            // From here on new requests start a new actor; the table refuses if one is on its way to this one.
            if actor.table.retire(actor.user) {
                ctx.stop();
            }
        });
    }

    /// The one way out: whoever still waits hears that the outcome is unknown.
    fn stopped(&mut self, _: &mut Self::Context) {
        self.ports.observer.feed_stopped();
        for (_, asked) in std::mem::take(&mut self.asked) {
            let unknown = || Outcome::Unknown(ErrorBody::new(Code::OutcomeUnknown));
            let results = asked.ids.into_iter();
            let results: Vec<_> = results.map(|id| OperationResult { id, outcome: unknown() }).collect();
            if let Some(mut span) = asked.span {
                span.settle(&results);
                self.ports.tracer.end(span);
            }
            match asked.reply {
                ReplyTo::Connection(connection) => self.ports.push.answer(connection, results),
                ReplyTo::Waiter(waiter) => drop(waiter.send(Settled::from(results))),
            }
        }
        for (_, (look, _permit)) in self.looks.drain() {
            look(Err(Code::FeedUnavailable));
        }
    }
}

impl Handler<Announce> for FeedActor {
    type Result = ();

    fn handle(&mut self, _: Announce, _: &mut Self::Context) {
        if let Some(head) = self.feed.head().filter(|_| !self.failed) {
            self.ports.push.announce(self.user, head);
        }
    }
}

impl Handler<Removed> for FeedActor {
    type Result = ();

    fn handle(&mut self, _: Removed, ctx: &mut Self::Context) {
        self.step(Step::Removed, ctx);
    }
}

impl Handler<Stop> for FeedActor {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<Envelope<Request>> for FeedActor {
    type Result = ();

    fn handle(&mut self, Envelope { request, permit }: Envelope<Request>, ctx: &mut Self::Context) {
        self.active = true;
        match request {
            Request::Submit(Submission {
                author,
                operations,
                reply,
                repeated,
                trace,
                ..
            }) => {
                let ids = operations.iter().map(|operation| operation.id).collect();
                let tracer = &self.ports.tracer;
                let mut span = trace.and_then(|trace| tracer.begin("feed", SpanKind::Internal, trace));
                if let Some(span) = &mut span {
                    span.fact("user.id", self.user.to_string());
                }
                let trace = span.as_ref().map(|span| span.context);
                let submission = self.ask(reply, ids, span, permit);
                self.step(
                    Step::Submit {
                        submission,
                        author,
                        operations,
                        repeated,
                        trace,
                    },
                    ctx,
                );
            }
            Request::Birth {
                time_zone,
                locale,
                reply,
            } => {
                let submission = self.ask(reply, vec![OperationId(self.user.0)], None, permit);
                let epoch = (self.ports.new_epoch)();
                self.step(
                    Step::Birth {
                        submission,
                        epoch,
                        time_zone,
                        locale,
                    },
                    ctx,
                );
            }
            Request::Look(look) => {
                let id = self.next();
                self.looks.insert(id, (look, permit));
                self.step(Step::Look(id), ctx);
            }
        }
    }
}
