//! The actix shell of a feed: carries out the component's effects and knows who waits for what.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use taskflow_protocol::message::{ErrorBody, OperationResult, Outcome};
use taskflow_protocol::{Code, OperationId, UserId, limits};

use super::{Effect, Feed, Message as Step, SubmissionId};
use crate::domain::State;
use crate::ports::{BoxFuture, Publication};
use crate::supervisor::{Envelope, Permit, Ports, ReplyTo, Settled, Submission, Table};

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
    _permit: Permit,
}

/// The shell.
pub struct FeedActor {
    user: UserId,
    feed: Feed,
    ports: Arc<Ports>,
    table: Arc<Table>,
    asked: HashMap<SubmissionId, Asked>,
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
    /// A shell around a feed that has nothing in memory.
    pub fn new(user: UserId, first_append_id: u64, ports: Arc<Ports>, table: Arc<Table>) -> Self {
        Self {
            user,
            feed: Feed::new(user, first_append_id, ports.writers),
            ports,
            table,
            asked: HashMap::new(),
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

    fn ask(&mut self, reply: ReplyTo, ids: Vec<OperationId>, permit: Permit) -> SubmissionId {
        let submission = self.next();
        self.asked.insert(
            submission,
            Asked {
                reply,
                ids,
                begun: Instant::now(),
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
                self.later(load, Step::Loaded, ctx);
            }
            Effect::Append(append) => {
                let (id, begun) = (append.append_id, Instant::now());
                let done = store.append(append);
                let observer = self.ports.observer.clone();
                let step = move |result| {
                    observer.appended(begun.elapsed(), &result);
                    Step::Appended(id, result)
                };
                self.later(done, step, ctx);
            }
            Effect::ReadBack(id, after) => {
                let read = store.read_log(self.user, after, 1);
                self.later(read, move |result| Step::ReadBack(id, result), ctx);
            }
            Effect::ReadHead(id) => {
                let read = store.head(self.user);
                self.later(read, move |result| Step::HeadRead(id, result), ctx);
            }
            Effect::ReadOn(id, after) => {
                let read = store.read_log(self.user, after, limits::CATCH_UP_BYTES);
                self.later(read, move |result| Step::ReadOn(id, result), ctx);
            }
            Effect::ReadEntry(seq) => {
                let read = store.read_log(self.user, seq - 1, 1);
                self.later(read, move |result| Step::EntryRead(seq, result), ctx);
            }
            Effect::WriteRows { rows, upto } => {
                let written = store.write_rows(self.user, rows, upto);
                self.later(written, move |result| Step::RowsWritten(upto, result), ctx);
            }
            Effect::Trim(retention) => {
                let trimmed = store.trim(self.user, retention);
                self.later(trimmed, Step::Trimmed, ctx);
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
                            let entries = Some(entries.clone());
                            drop(waiter.send(Settled { results, entries }));
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
        self.ports.observer.settled(results, asked.begun.elapsed());
        Some(asked.reply)
    }

    fn answer(&self, reply: ReplyTo, results: Vec<OperationResult>) {
        match reply {
            ReplyTo::Connection(connection) => self.ports.push.answer(connection, results),
            ReplyTo::Waiter(waiter) => drop(waiter.send(Settled::from(results))),
        }
    }

    fn later<T: 'static>(&self, future: BoxFuture<T>, step: impl FnOnce(T) -> Step + 'static, ctx: &mut Context<Self>) {
        ctx.spawn(
            future
                .into_actor(self)
                .map(move |result, actor, ctx| actor.step(step(result), ctx)),
        );
    }
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
            let results = asked
                .ids
                .into_iter()
                .map(|id| OperationResult { id, outcome: unknown() })
                .collect();
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
                ..
            }) => {
                let ids = operations.iter().map(|operation| operation.id).collect();
                let submission = self.ask(reply, ids, permit);
                self.step(
                    Step::Submit {
                        submission,
                        author,
                        operations,
                        repeated,
                    },
                    ctx,
                );
            }
            Request::Birth {
                time_zone,
                locale,
                reply,
            } => {
                let submission = self.ask(reply, vec![OperationId(self.user.0)], permit);
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
