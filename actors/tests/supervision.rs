//! Feeds as real actix actors: they start on first use, stop when idle, and a panic in one is nobody else's business.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

use actix_rt::{Arbiter, System};
use taskflow_actors::domain::codec::{decode_commit, encode_commit};
use taskflow_actors::domain::{Entry, Quarter, State};
use taskflow_actors::feed::Writers;
use taskflow_actors::memory::MemoryStore;
use taskflow_actors::ports::{
    Append, AppendError, BoxFuture, Clock, ConnectionId, Epoch, Head, Loaded, LogPage, Publication, Push, ReadError,
    Retention, Store, StoredRow, Tracer,
};
use taskflow_actors::supervisor::{Observer, Ports, ReplyTo, Router, Submission, Supervisor, Waiting};
use taskflow_actors::trace::{Fact, Span, SpanKind, TraceContext};
use taskflow_protocol::limits::FEED_UNSAVED_OPERATIONS_MAX;
use taskflow_protocol::message::{Accepted, Command, Operation, OperationResult, Outcome};
use taskflow_protocol::model::SettingsFields;
use taskflow_protocol::values::{Seq, UnixMs};
use taskflow_protocol::{Code, OperationId, UserId};
use tokio::sync::{Semaphore, oneshot};
use uuid::Uuid;

/// A clock that panics when it is told to: the feed that reads it next is the one that panics.
#[derive(Default)]
struct Bomb(AtomicBool);

impl Clock for Bomb {
    fn now_ms(&self) -> UnixMs {
        assert!(!self.0.swap(false, Ordering::SeqCst), "planted");
        1_800_000_000_000
    }
}

/// Counts what starts and stops.
#[derive(Default)]
struct Counts {
    started: AtomicUsize,
    stopped: AtomicUsize,
    panicked: AtomicUsize,
}

impl Observer for Counts {
    fn feed_started(&self) {
        self.started.fetch_add(1, Ordering::SeqCst);
    }
    fn feed_stopped(&self) {
        self.stopped.fetch_add(1, Ordering::SeqCst);
    }
    fn feed_panicked(&self) {
        self.panicked.fetch_add(1, Ordering::SeqCst);
    }
}

/// Keeps what connections are answered.
#[derive(Default)]
struct Connections(Mutex<Vec<(ConnectionId, OperationResult)>>);

impl Connections {
    fn answers(&self) -> MutexGuard<'_, Vec<(ConnectionId, OperationResult)>> {
        self.0.lock().expect("no test panics while it holds this")
    }
}

impl Push for Connections {
    fn publish(&self, publication: Publication) {
        for (connection, results) in publication.answers {
            self.answer(connection, results);
        }
    }
    fn announce(&self, _: UserId, _: Head) {}
    fn answer(&self, connection: ConnectionId, results: Vec<OperationResult>) {
        self.answers()
            .extend(results.into_iter().map(|result| (connection, result)));
    }
    fn stale(&self, _: Option<Duration>) {}
}

/// A store whose appends wait until the gate has a permit for them.
struct Gated {
    store: Arc<MemoryStore>,
    gate: Arc<Semaphore>,
}

impl Store for Gated {
    fn append(&self, append: Append) -> BoxFuture<Result<(), AppendError>> {
        let (store, gate) = (self.store.clone(), self.gate.clone());
        Box::pin(async move {
            gate.acquire().await.expect("never closed").forget();
            store.append(append).await
        })
    }
    fn head(&self, feed: UserId) -> BoxFuture<Result<Option<Head>, ReadError>> {
        self.store.head(feed)
    }
    fn read_log(&self, feed: UserId, after: Seq, bytes_max: usize) -> BoxFuture<Result<Option<LogPage>, ReadError>> {
        self.store.read_log(feed, after, bytes_max)
    }
    fn load(&self, feed: UserId, ids_since: UnixMs) -> BoxFuture<Result<Option<Loaded>, ReadError>> {
        self.store.load(feed, ids_since)
    }
    fn activity(&self, feed: UserId, from: Quarter, to: Quarter) -> BoxFuture<Result<Vec<StoredRow>, ReadError>> {
        self.store.activity(feed, from, to)
    }
    fn write_rows(&self, feed: UserId, rows: Vec<StoredRow>, upto: Seq) -> BoxFuture<Result<(), AppendError>> {
        self.store.write_rows(feed, rows, upto)
    }
    fn trim(&self, feed: UserId, retention: Retention) -> BoxFuture<Result<Option<Head>, AppendError>> {
        self.store.trim(feed, retention)
    }
    fn remove(&self, feed: UserId, since: UnixMs) -> BoxFuture<Result<(), AppendError>> {
        self.store.remove(feed, since)
    }
}

/// Keeps the steps of traces that have ended.
#[derive(Default)]
struct Spans(Mutex<Vec<Span>>, AtomicUsize);

impl Spans {
    fn take(&self) -> Vec<Span> {
        std::mem::take(&mut *self.0.lock().expect("no test panics while it holds this"))
    }
}

impl Tracer for Spans {
    fn begin(&self, name: &'static str, kind: SpanKind, under: TraceContext) -> Option<Box<Span>> {
        let span = 100 + self.1.fetch_add(1, Ordering::SeqCst) as u64;
        Some(Box::new(Span {
            context: TraceContext { span, ..under },
            parent: Some(under.span),
            name: name.into(),
            kind,
            began: Instant::now(),
            facts: Vec::new(),
            events: Vec::new(),
            is_failed: false,
        }))
    }
    fn end(&self, span: Box<Span>) {
        let mut spans = self.0.lock().expect("no test panics while it holds this");
        spans.push(*span);
    }
}

struct Node {
    router: Router,
    store: Arc<MemoryStore>,
    spans: Arc<Spans>,
    connections: Arc<Connections>,
    counts: Arc<Counts>,
    bomb: Arc<Bomb>,
    gate: Arc<Semaphore>,
}

fn with_node<F: Future<Output = ()>>(feed_idle: Duration, test: impl FnOnce(Node) -> F) {
    System::new().block_on(async {
        let (counts, bomb) = (Arc::new(Counts::default()), Arc::new(Bomb::default()));
        let gate = Arc::new(Semaphore::new(1_000_000));
        let connections = Arc::new(Connections::default());
        let (store, spans) = (Arc::<MemoryStore>::default(), Arc::<Spans>::default());
        let ports = Ports {
            store: Arc::new(Gated {
                store: store.clone(),
                gate: gate.clone(),
            }),
            push: connections.clone(),
            writers: Writers::One,
            clock: bomb.clone(),
            observer: counts.clone(),
            tracer: spans.clone(),
            new_epoch: Box::new(|| Epoch(7)),
            feed_idle,
        };
        let arbiters = [Arbiter::new(), Arbiter::new()];
        let handles: Vec<_> = arbiters.iter().map(Arbiter::handle).collect();
        let router = Supervisor::start(ports, &handles, || 1);
        test(Node {
            router,
            store,
            spans,
            connections,
            counts,
            bomb,
            gate,
        })
        .await;
        for arbiter in &arbiters {
            arbiter.stop();
        }
    });
}

fn user(number: u128) -> UserId {
    UserId(Uuid::from_u128(number))
}

fn operation(id: u128) -> Operation {
    let locale = SettingsFields {
        locale: Some("de".to_owned()),
        ..Default::default()
    };
    Operation {
        id: OperationId(Uuid::from_u128(1_000_000 + id)),
        base: None,
        command: Command::SettingsPatch(locale),
    }
}

async fn born(node: &Node, number: u128) -> UserId {
    let user = user(number);
    node.router
        .birth(user, "UTC".to_owned(), "en".to_owned())
        .await
        .expect("born");
    user
}

async fn ask(node: &Node, user: UserId, id: u128) -> Outcome {
    node.router
        .ask(user, user, vec![operation(id)], None)
        .await
        .results
        .pop()
        .expect("one answer")
        .outcome
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .expect("it came true");
}

fn code(outcome: &Outcome) -> Option<Code> {
    match outcome {
        Outcome::Refused(error) | Outcome::Unknown(error) => Some(error.code),
        Outcome::Accepted(_) | Outcome::Conflict(_) => None,
    }
}

#[test]
fn a_panic_restarts_one_feed_from_the_store_and_nobody_else_notices() {
    with_node(Duration::from_secs(60), async |node| {
        let (hurt, other) = (born(&node, 1).await, born(&node, 2).await);
        assert_eq!(ask(&node, hurt, 1).await, Outcome::Accepted(Accepted { seq: 2 }));
        node.bomb.0.store(true, Ordering::SeqCst);
        assert_eq!(code(&ask(&node, hurt, 2).await), Some(Code::OutcomeUnknown));
        assert_eq!(node.counts.panicked.load(Ordering::SeqCst), 1);
        // While it rests, it says so; its neighbour works.
        assert_eq!(code(&ask(&node, hurt, 3).await), Some(Code::FeedUnavailable));
        assert_eq!(ask(&node, other, 4).await, Outcome::Accepted(Accepted { seq: 2 }));
        let back = async {
            loop {
                let outcome = ask(&node, hurt, 1).await;
                if code(&outcome) != Some(Code::FeedUnavailable) {
                    break outcome;
                }
                tokio::task::yield_now().await;
            }
        };
        let outcome = tokio::time::timeout(Duration::from_secs(10), back)
            .await
            .expect("it came back");
        assert_eq!(
            outcome,
            Outcome::Accepted(Accepted { seq: 2 }),
            "the answer from before the panic"
        );
        assert_eq!(ask(&node, hurt, 5).await, Outcome::Accepted(Accepted { seq: 3 }));
    });
}

#[test]
fn whoever_is_in_the_mailbox_of_a_feed_that_panics_hears_of_it() {
    with_node(Duration::from_secs(60), async |node| {
        let user = born(&node, 1).await;
        // The feed's thread is held until all three are in its mailbox.
        let (go, held) = mpsc::channel::<()>();
        let (begin, begun) = oneshot::channel();
        let router = node.router.clone();
        let hold = move |_: &State| {
            let _ = begin.send(());
            let _ = held.recv();
        };
        let look = actix_rt::spawn(async move { router.view(user, hold).await });
        begun.await.expect("the feed looks");
        node.bomb.0.store(true, Ordering::SeqCst);
        let connection = |slot| ConnectionId {
            worker: 0,
            slot,
            generation: 0,
        };
        for slot in 0..3 {
            let submission = Submission {
                feed: user,
                author: user,
                operations: vec![operation(slot.into())],
                reply: ReplyTo::Connection(connection(slot)),
                repeated: false,
                trace: None,
            };
            node.router.submit(submission, &*node.connections);
        }
        let router = node.router.clone();
        let last = actix_rt::spawn(async move { router.view(user, |_| ()).await });
        tokio::task::yield_now().await;
        drop(go);
        assert_eq!(look.await.expect("it ran"), Ok(()));
        assert_eq!(last.await.expect("it ran"), Err(Code::FeedUnavailable));
        until(|| node.counts.stopped.load(Ordering::SeqCst) == 1).await;
        let mut answers = std::mem::take(&mut *node.connections.answers());
        answers.sort_by_key(|(connection, _)| connection.slot);
        let told: Vec<_> = answers
            .iter()
            .map(|(to, result)| (*to, code(&result.outcome)))
            .collect();
        let unknown = |slot| (connection(slot), Some(Code::OutcomeUnknown));
        assert_eq!(told, [unknown(0), unknown(1), unknown(2)]);
    });
}

#[test]
fn an_idle_feed_stops_and_comes_back_on_the_next_use() {
    with_node(Duration::from_millis(30), async |node| {
        let user = born(&node, 1).await;
        assert_eq!(ask(&node, user, 1).await, Outcome::Accepted(Accepted { seq: 2 }));
        until(|| node.counts.stopped.load(Ordering::SeqCst) == 1).await;
        assert_eq!(ask(&node, user, 2).await, Outcome::Accepted(Accepted { seq: 3 }));
        assert_eq!(node.counts.started.load(Ordering::SeqCst), 2);
        let seq = node.router.view(user, |state| state.seq()).await;
        assert_eq!(seq, Ok(3));
    });
}

#[test]
fn more_operations_than_a_feed_may_hold_are_refused_and_the_others_are_not_lost() {
    with_node(Duration::from_secs(60), async |node| {
        let user = born(&node, 1).await;
        let permits = node.gate.available_permits();
        node.gate.forget_permits(permits);
        let asks = (0..FEED_UNSAVED_OPERATIONS_MAX as u128 + 10).map(|id| ask(&node, user, 100 + id));
        let answers = futures_util::future::join_all(asks);
        let open = async {
            // The refusals come at once; the rest only when the store goes on.
            let max = FEED_UNSAVED_OPERATIONS_MAX as u32;
            let waiting = Waiting {
                operations: max.into(),
                operations_max: max,
                starts: 0,
            };
            assert_eq!(node.router.waiting(), waiting);
            node.gate.add_permits(1_000);
        };
        let (answers, ()) = futures_util::future::join(answers, open).await;
        let refused = answers
            .iter()
            .filter(|outcome| code(outcome) == Some(Code::FeedOverloaded))
            .count();
        let accepted = answers.iter().filter(|outcome| code(outcome).is_none()).count();
        assert_eq!((refused, accepted), (10, FEED_UNSAVED_OPERATIONS_MAX));
        // All permits came back.
        assert_eq!(node.router.waiting(), Waiting::default());
        assert_eq!(code(&ask(&node, user, 1).await), None);
    });
}

#[test]
fn a_feed_that_was_never_born_is_not_found() {
    with_node(Duration::from_secs(60), async |node| {
        assert_eq!(code(&ask(&node, user(9), 1).await), Some(Code::FeedNotFound));
        assert_eq!(
            node.router.view(user(9), |state| state.seq()).await,
            Err(Code::FeedNotFound)
        );
    });
}

#[test]
fn an_append_that_another_node_was_before_is_in_the_trace_and_so_is_the_next() {
    with_node(Duration::from_secs(60), |node| async move {
        let user = born(&node, 1).await;
        assert!(node.spans.take().is_empty(), "nobody asked for a trace");
        // Another node appends.
        let head = node.store.head(user).await.expect("it answers").expect("born");
        let entry = Entry {
            seq: head.seq + 1,
            time: 1_800_000_000_000,
            author: user,
            operation: OperationId(Uuid::from_u128(9)),
            operation_hash: 0,
            changes: Vec::new(),
            refused: None,
            trace: None,
        };
        let append = Append {
            feed: user,
            epoch: head.epoch,
            base: head.seq,
            last: head.seq + 1,
            append_id: 9,
            time: entry.time,
            body: encode_commit(&[entry]).into(),
        };
        assert_eq!(node.store.append(append).await, Ok(()));
        let trace = TraceContext { trace: 7, span: 8 };
        // What is in the same commit, and not traced, is in no trace.
        let traced = node.router.ask(user, user, vec![operation(1)], Some(trace));
        let (traced, untraced) = tokio::join!(traced, ask(&node, user, 2));
        let accepted = |seq| Outcome::Accepted(Accepted { seq });
        assert_eq!((&traced.results[0].outcome, untraced), (&accepted(3), accepted(4)));
        let mut spans = node.spans.take();
        spans.sort_by_key(|span| span.context.span);
        let outcome = |span: &Span| {
            let outcome = span.facts.iter().find(|(name, _)| *name == "taskflow.outcome");
            outcome.map(|(_, fact)| fact.clone())
        };
        let told = spans.iter().map(|span| {
            let events: Vec<_> = span.events.iter().map(|(name, _)| *name).collect();
            let parent = span.parent.unwrap_or_default();
            (span.name.as_ref(), parent, outcome(span), events)
        });
        let text = |text: &'static str| Some(Fact::from(text));
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                ("feed", 8, text("accepted"), vec![]),
                ("store append", 100, text("conflict"), vec!["conflict"]),
                ("store read", 100, None, vec![]),
                ("store append", 100, text("durable"), vec![]),
            ]
        );
        assert!(spans.iter().all(|span| span.context.trace == 7 && !span.is_failed));
        // Whoever pushes it, on whatever node, knows under which step.
        let log = node.store.read_log(user, 2, usize::MAX).await.expect("it answers");
        let rows = log.expect("born").rows;
        let entries = rows.iter().flat_map(|row| decode_commit(&row.body).expect("a commit"));
        let traces: Vec<_> = entries.map(|entry| entry.trace.map(|trace| *trace)).collect();
        assert_eq!(traces, [Some(TraceContext { trace: 7, span: 100 }), None]);
    });
}
