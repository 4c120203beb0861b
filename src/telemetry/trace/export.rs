//! Sends spans to a collector: OTLP over HTTP, as JSON (<https://opentelemetry.io/docs/specs/otlp/>).

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use taskflow_actors::trace::{Fact, Span, SpanKind, TraceContext};
use tokio::sync::oneshot;

use crate::telemetry::Metrics;
use crate::telemetry::metrics::SpanOutcome;

/// How long a request to the collector may take. One that is well takes milliseconds.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Spans in one request: about 300 KB.
const SPANS_A_REQUEST_MAX: usize = 512;

/// How long spans are gathered, so that those of one trace go together.
const GATHER: Duration = Duration::from_millis(500);

/// How long a collector that failed is left alone. What ends meanwhile waits in the queue.
const REST: Duration = Duration::from_secs(5);

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// A span that has ended.
pub(super) struct Ended {
    pub span: Box<Span>,
    pub at: Instant,
    /// The same moment, in Unix time.
    pub at_ns: u64,
}

/// What the exporter is told.
pub(super) enum Message {
    Ended(Ended),
    /// The server stops: what came before is sent at once, and then this is told.
    Last(oneshot::Sender<()>),
}

/// The exporter: everything on its own thread.
pub(super) struct Export {
    agent: ureq::Agent,
    url: String,
    resource: Resource,
    metrics: Arc<Metrics>,
    /// The last request failed, and the operator was told.
    is_failing: bool,
}

impl Export {
    pub(super) fn new(endpoint: &str, node: &str, metrics: Arc<Metrics>) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .max_redirects(0)
            .build();
        let attribute = |key, text: &str| Attribute {
            key,
            value: Value::Text(text.to_owned()),
        };
        Self {
            agent: config.into(),
            url: format!("{}/v1/traces", endpoint.trim_end_matches('/')),
            resource: Resource {
                attributes: vec![
                    attribute("service.name", "taskflow"),
                    attribute("service.version", env!("CARGO_PKG_VERSION")),
                    attribute("service.instance.id", node),
                ],
            },
            metrics,
            is_failing: false,
        }
    }

    /// Until nobody makes spans any more.
    pub(super) fn run(mut self, ended: &Receiver<Message>) {
        while let Ok(first) = ended.recv() {
            let (batch, last) = gather(first, ended);
            self.metrics.spans_waiting.dec_by(batch.len() as f64);
            let is_sent = batch.is_empty() || self.send(batch);
            if let Some(last) = last {
                // Who does not wait any more is not there to be told.
                let _ = last.send(());
            } else if !is_sent {
                // Woken when the server stops.
                std::thread::park_timeout(REST);
            }
        }
    }

    /// Whether the collector has taken them.
    fn send(&mut self, batch: Vec<Ended>) -> bool {
        let count = batch.len() as u64;
        let sent = self.ask(&batch);
        drop(batch);
        let spans = &self.metrics.spans;
        let rejected = match &sent {
            Ok(rejected) => (*rejected).min(count),
            Err(_) => count,
        };
        spans.of(SpanOutcome::Sent).inc_by(count - rejected);
        spans.of(SpanOutcome::Failed).inc_by(rejected);
        let was_failing = std::mem::replace(&mut self.is_failing, sent.is_err());
        match &sent {
            Ok(_) if was_failing => tracing::info!("the collector takes traces again"),
            Err(error) if !was_failing => {
                tracing::warn!(
                    error,
                    "the collector at otlp_endpoint takes no traces: they are dropped"
                );
            }
            _ => {}
        }
        sent.is_ok()
    }

    /// How many of them the collector did not want.
    fn ask(&self, batch: &[Ended]) -> Result<u64, String> {
        let document = Document {
            resource_spans: [ResourceSpans {
                resource: &self.resource,
                scope_spans: [ScopeSpans {
                    scope: Scope { name: "taskflow" },
                    spans: batch.iter().map(Written::from).collect(),
                }],
            }],
        };
        let body = serde_json::to_vec(&document).map_err(|error| error.to_string())?;
        let request = self.agent.post(&self.url).header("content-type", "application/json");
        let mut answer = request.send(&body[..]).map_err(|error| error.to_string())?;
        if !answer.status().is_success() {
            return Err(format!("it answers {}", answer.status()));
        }
        let answer = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX);
        let answer = answer.read_to_vec().map_err(|error| error.to_string())?;
        // Whatever else it says, it has taken them.
        let answer = serde_json::from_slice::<Answer>(&answer).unwrap_or_default();
        Ok(answer.partial_success.rejected_spans.number())
    }
}

/// What goes in the next request, and who waits for it.
fn gather(first: Message, ended: &Receiver<Message>) -> (Vec<Ended>, Option<oneshot::Sender<()>>) {
    let until = Instant::now() + GATHER;
    let mut batch = Vec::new();
    let mut next = Ok(first);
    loop {
        match next {
            Ok(Message::Ended(span)) => batch.push(span),
            Ok(Message::Last(last)) => return (batch, Some(last)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return (batch, None),
        }
        if batch.len() == SPANS_A_REQUEST_MAX {
            return (batch, None);
        }
        next = ended.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    resource: &'a Resource,
    scope_spans: [ScopeSpans<'a>; 1],
}

#[derive(Serialize)]
struct Resource {
    attributes: Vec<Attribute>,
}

#[derive(Serialize)]
struct ScopeSpans<'a> {
    scope: Scope,
    spans: Vec<Written<'a>>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
}

#[derive(Serialize)]
struct Attribute {
    key: &'static str,
    value: Value,
}

/// Numbers are text: JSON's have 53 bits.
#[derive(Serialize)]
enum Value {
    #[serde(rename = "stringValue")]
    Text(String),
    #[serde(rename = "intValue")]
    Number(String),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    trace_id: String,
    span_id: String,
    parent_span_id: String,
    name: &'a str,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<Attribute>,
    events: Vec<Event>,
    status: Status,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    time_unix_nano: String,
    name: &'static str,
}

#[derive(Serialize)]
struct Status {
    /// 0: nothing is said; 2: an error.
    code: u8,
}

impl<'a> From<&'a Ended> for Written<'a> {
    fn from(Ended { span, at, at_ns }: &'a Ended) -> Self {
        let unix_ns = |moment: Instant| {
            let before = at.saturating_duration_since(moment).as_nanos() as u64;
            at_ns.saturating_sub(before).to_string()
        };
        let attribute = |(key, fact): &(&'static str, Fact)| Attribute {
            key,
            value: match fact {
                Fact::Number(number) => Value::Number(number.to_string()),
                Fact::Text(text) => Value::Text(text.clone().into_owned()),
            },
        };
        let event = |(name, moment): &(&'static str, Instant)| Event {
            time_unix_nano: unix_ns(*moment),
            name,
        };
        Self {
            trace_id: trace_id(span.context),
            span_id: span_id(span.context.span),
            parent_span_id: span.parent.map_or_else(String::new, span_id),
            name: &span.name,
            kind: match span.kind {
                SpanKind::Internal => 1,
                SpanKind::Server => 2,
                SpanKind::Client => 3,
            },
            start_time_unix_nano: unix_ns(span.began),
            end_time_unix_nano: at_ns.to_string(),
            attributes: span.facts.iter().map(attribute).collect(),
            events: span.events.iter().map(event).collect(),
            status: Status {
                code: if span.is_failed { 2 } else { 0 },
            },
        }
    }
}

/// As everyone writes it.
pub fn trace_id(context: TraceContext) -> String {
    format!("{:032x}", context.trace)
}

/// As everyone writes it.
pub fn span_id(span: u64) -> String {
    format!("{span:016x}")
}

/// What a collector says that took them.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Answer {
    partial_success: Partial,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Partial {
    rejected_spans: Count,
}

/// A number, or as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Count {
    Number(u64),
    Text(String),
}

impl Default for Count {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl Count {
    fn number(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Text(text) => text.parse().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the specification's JSON has it: ids as hexadecimal text, 64 bits as decimal text, enums as numbers.
    #[test]
    fn a_span_is_written_as_otlp_says() {
        let at = Instant::now();
        let before = |ns| {
            at.checked_sub(Duration::from_nanos(ns))
                .expect("the machine runs for longer")
        };
        let span = Span {
            context: TraceContext {
                trace: 0x1f,
                span: 0x2f,
            },
            parent: Some(0x3f),
            name: "store append".into(),
            kind: SpanKind::Client,
            began: before(1_500),
            facts: vec![("feed.seq", 7_u64.into()), ("taskflow.outcome", "conflict".into())],
            events: vec![("conflict", before(500))],
            is_failed: true,
        };
        let ended = Ended {
            span: Box::new(span),
            at,
            at_ns: 1_796_062_924_976_866_748,
        };
        let expected = serde_json::json!({
            "traceId": "0000000000000000000000000000001f", "spanId": "000000000000002f", "parentSpanId": "000000000000003f",
            "name": "store append", "kind": 3,
            "startTimeUnixNano": "1796062924976865248", "endTimeUnixNano": "1796062924976866748",
            "attributes": [
                { "key": "feed.seq", "value": { "intValue": "7" } },
                { "key": "taskflow.outcome", "value": { "stringValue": "conflict" } },
            ],
            "events": [{ "timeUnixNano": "1796062924976866248", "name": "conflict" }],
            "status": { "code": 2 },
        });
        let written = serde_json::to_value(Written::from(&ended)).expect("JSON");
        assert_eq!(written, expected);
    }

    #[test]
    fn what_a_collector_did_not_want_is_counted_however_it_says_so() {
        for (answer, rejected) in [
            ("{}", 0),
            ("", 0),
            (r#"{"partialSuccess":{}}"#, 0),
            (r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"no"}}"#, 3),
            (r#"{"partialSuccess":{"rejectedSpans":4}}"#, 4),
        ] {
            let answer: Answer = serde_json::from_str(answer).unwrap_or_default();
            assert_eq!(answer.partial_success.rejected_spans.number(), rejected);
        }
    }
}
