//! Traces: which requests are traced, the one that is handled now, and the way to the collector.
//!
//! Nothing here waits. A span that has ended is put into a queue with a bound; a thread of its own sends what is in it
//! ([`export`]). A collector that hangs, refuses or is away costs that thread its time, and spans, which are counted.

pub mod export;

use std::cell::{Cell, RefCell};
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::Thread;
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use taskflow_actors::ports::Tracer;
use taskflow_actors::trace::{Span, SpanKind, TraceContext};
use tokio::sync::oneshot;

use self::export::{Ended, Export, Message};
use crate::clock::SystemClock;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::SpanOutcome;

/// Spans that wait for the collector. One has about 600 bytes: 2.5 MB. What comes beyond is dropped: a request never waits
/// for whoever looks at it.
const SPANS_WAITING_MAX: usize = 4_096;

/// Traces a second that clients may ask for, all of them together, by the flag in `traceparent`. Each has half a dozen spans:
/// 20 are 70 KB a second to the collector, and a thirtieth of the queue. Whoever wants more sets the ratio.
const TRACES_ASKED_A_SECOND_MAX: NonZeroU32 = NonZeroU32::new(20).expect("not 0");

/// How long a server that stops waits for the last spans to be taken: a collector that is well takes them in milliseconds.
const LAST_WITHIN: Duration = Duration::from_secs(1);

/// Makes spans, where traces are on.
pub struct Traces {
    queue: SyncSender<Message>,
    exporter: Thread,
    metrics: Arc<Metrics>,
    /// Of all numbers of 64 bits, those below are chosen.
    chosen: AtomicU64,
    asked: DefaultDirectRateLimiter,
}

impl Traces {
    /// Begins to send to the collector at this address. `ratio`: see [`Traces::set_ratio`]; `node` tells this one from others.
    pub fn start(endpoint: &str, ratio: f64, node: &str, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let (queue, ended) = sync_channel(SPANS_WAITING_MAX);
        let export = Export::new(endpoint, node, metrics.clone());
        let thread = std::thread::Builder::new().name("traces".to_owned());
        // Nobody joins it: it may be in the middle of a request when the process ends.
        let exporter = thread.spawn(move || export.run(&ended))?.thread().clone();
        let traces = Self {
            queue,
            exporter,
            metrics,
            chosen: AtomicU64::new(0),
            asked: RateLimiter::direct(Quota::per_second(TRACES_ASKED_A_SECOND_MAX)),
        };
        traces.set_ratio(ratio);
        Ok(traces)
    }

    /// From now on so many, from 0 to 1, of the requests are traced whose client says nothing about it.
    pub fn set_ratio(&self, ratio: f64) {
        // Beyond the ends the conversion stops at them.
        self.chosen.store((ratio * u64::MAX as f64) as u64, Ordering::Relaxed);
    }

    fn is_chosen(&self) -> bool {
        match self.chosen.load(Ordering::Relaxed) {
            0 => false,
            chosen => rand::random::<u64>() <= chosen,
        }
    }

    /// A request that has come now, with this `traceparent`. It is traced from the start, or when it turns out to be a user's
    /// ([`admit`]), or not at all.
    pub fn request(&self, traceparent: Option<&str>) -> Option<Rc<Traced>> {
        let parent = traceparent.and_then(TraceContext::parse);
        let is_asked = match parent {
            Some((_, is_sampled)) => is_sampled,
            None => false,
        };
        let is_traced = (is_asked || parent.is_none()) && self.is_chosen();
        (is_traced || is_asked).then(|| {
            Rc::new(Traced {
                span: RefCell::new(Some(begin(SpanKind::Server, parent.map(|(context, _)| context)))),
                is_traced: Cell::new(is_traced),
            })
        })
    }

    /// Operations that a user has sent over a WebSocket, with this `traceparent`: the span, if they are traced.
    pub fn message(&self, name: &'static str, traceparent: Option<&str>) -> Option<Box<Span>> {
        let parent = traceparent.and_then(TraceContext::parse);
        let is_traced = match parent {
            None => self.is_chosen(),
            Some((_, false)) => false,
            Some((_, true)) => self.asked.check().is_ok() || self.is_chosen(),
        };
        is_traced.then(|| {
            let mut span = begin(SpanKind::Server, parent.map(|(context, _)| context));
            span.name = name.into();
            span
        })
    }

    /// Waits until the collector has taken what ended before, for a moment at most, and until then at the latest.
    pub async fn flush(&self, deadline: tokio::time::Instant) {
        let deadline = deadline.min(tokio::time::Instant::now() + LAST_WITHIN);
        let (sender, taken) = oneshot::channel();
        let mut last = Message::Last(sender);
        while let Err(TrySendError::Full(back)) = self.queue.try_send(last) {
            if tokio::time::Instant::now() >= deadline {
                return;
            }
            last = back;
            // It may be resting.
            self.exporter.unpark();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.exporter.unpark();
        // Whether it was or not, the server ends.
        let _ = tokio::time::timeout_at(deadline, taken).await;
    }
}

impl Tracer for Traces {
    fn begin(&self, name: &'static str, kind: SpanKind, under: TraceContext) -> Option<Box<Span>> {
        let mut span = begin(kind, Some(under));
        span.name = name.into();
        Some(span)
    }

    fn end(&self, span: Box<Span>) {
        let ended = Ended {
            span,
            at: Instant::now(),
            at_ns: SystemClock.now_ns(),
        };
        // Before it is in the queue, so that it is never counted out first.
        self.metrics.spans_waiting.inc();
        let lost = match self.queue.try_send(Message::Ended(ended)) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => SpanOutcome::QueueFull,
            Err(TrySendError::Disconnected(_)) => SpanOutcome::Failed,
        };
        self.metrics.spans_waiting.dec();
        self.metrics.spans.of(lost).inc();
    }
}

fn begin(kind: SpanKind, under: Option<TraceContext>) -> Box<Span> {
    // 0 is no id.
    let (trace, span) = (rand::random::<u128>().max(1), rand::random::<u64>().max(1));
    Box::new(Span {
        context: TraceContext {
            trace: under.map_or(trace, |under| under.trace),
            span,
        },
        parent: under.map(|under| under.span),
        name: "".into(),
        kind,
        began: Instant::now(),
        facts: Vec::new(),
        events: Vec::new(),
        is_failed: false,
    })
}

/// A request by HTTP that is traced, or will be if it is a user's.
pub struct Traced {
    span: RefCell<Option<Box<Span>>>,
    is_traced: Cell<bool>,
}

impl Traced {
    /// Its context, if it is traced.
    pub fn context(&self) -> Option<TraceContext> {
        let span = self.span.borrow();
        span.as_ref().filter(|_| self.is_traced.get()).map(|span| span.context)
    }

    /// Its span, if it is traced; once, at its end.
    pub fn take(&self) -> Option<Box<Span>> {
        self.span.take().filter(|_| self.is_traced.get())
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Traced>>> = const { RefCell::new(None) };
}

/// The request that this thread is handling at the moment, if it is traced.
pub fn current() -> Option<TraceContext> {
    // Log lines are written also while a thread ends.
    let current = CURRENT.try_with(|current| current.borrow().as_ref().and_then(|traced| traced.context()));
    current.ok().flatten()
}

/// The request that this thread is handling is a user's: if its client wants it traced, it is, as long as not too many do.
pub fn admit(traces: &Traces) {
    CURRENT.with_borrow(|current| {
        if let Some(traced) = current.as_ref().filter(|traced| !traced.is_traced.get()) {
            traced.is_traced.set(traces.asked.check().is_ok());
        }
    });
}

/// While this lives, the thread is handling that request.
pub struct Handling(());

impl Handling {
    /// From now on.
    pub fn of(traced: Rc<Traced>) -> Self {
        CURRENT.set(Some(traced));
        Self(())
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}
