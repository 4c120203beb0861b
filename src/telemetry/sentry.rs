//! Errors and panics, told to Sentry or to whatever takes its envelopes.
//!
//! What is logged as an error goes to a thread of its own, which tells it over HTTP. Whoever logs waits for nothing: what finds
//! the queue full is dropped, and counted. What leaves is made of what we know ([`Report`]) and scrubbed; there is nothing of the
//! request, the user's texts or the machine in it that had to be taken out first.
//!
//! Format: <https://develop.sentry.dev/sdk/data-model/envelopes/>

mod outbox;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use taskflow_actors::ports::Clock as _;
use taskflow_protocol::values::UnixMs;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use uuid::Uuid;

use self::outbox::Outbox;
use super::Metrics;
use super::log::PANIC;
use super::metrics::ReportOutcome;
use super::scrub::{SCRUBBED, scrub};
use crate::clock::SystemClock;

/// Errors that wait for the thread: it takes them faster than they are logged, unless it waits for the network.
const QUEUE_MAX: usize = 256;

/// How long Sentry may take for an event.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long nothing is sent after something was not taken, where the answer does not say it.
const PAUSE: Duration = Duration::from_secs(60);

/// The longest pause that an answer may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(60 * 60);

/// How long the end of the process waits for what is still to be told.
const END_MAX: Duration = Duration::from_secs(1);

/// Bytes of a text in an event; a message of ours has a hundred.
const TEXT_BYTES_MAX: usize = 1_024;

/// Facts of an event; the most of ours have seven.
const FACTS_MAX: usize = 16;

/// Names of facts that are never told, whatever is in them.
const SECRET: [&str; 10] = [
    "address", "body", "cookie", "email", "notes", "password", "query", "text", "title", "token",
];

/// Where events go: `https://KEY@HOST/PROJECT`, as Sentry shows it (Client Keys, DSN).
#[derive(Debug, PartialEq)]
pub struct Dsn {
    endpoint: String,
    key: String,
}

impl std::str::FromStr for Dsn {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (scheme, rest) = text.trim().split_once("://")?;
            let (key, place) = rest.split_once('@')?;
            // Old ones have a secret behind the key, which nobody asks for any more.
            let key = key.split(':').next()?;
            let (host, project) = place.rsplit_once('/')?;
            let is_word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let is_host = !host.is_empty() && !host.starts_with('/') && !host.contains(['@', '?', '#', ' ']);
            let is_dsn = matches!(scheme, "https" | "http") && is_word(key) && is_word(project) && is_host;
            is_dsn.then(|| {
                // The path that Sentry may be under stands before its own.
                let (host, path) = host.split_once('/').unwrap_or((host, ""));
                let path = if path.is_empty() {
                    String::new()
                } else {
                    format!("/{path}")
                };
                Self {
                    endpoint: format!("{scheme}://{host}{path}/api/{project}/envelope/"),
                    key: key.to_owned(),
                }
            })
        };
        parse().ok_or("it is no DSN; write https://KEY@sentry.example/PROJECT, as Sentry shows it")
    }
}

/// What is told of every error.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Of the settings.
    pub environment: String,
    /// Name of the node.
    pub node: String,
}

/// An error, as it is told.
#[derive(Clone, Debug, Default)]
pub struct Report {
    at: UnixMs,
    /// The part of the program that says it.
    target: String,
    text: String,
    facts: Vec<(&'static str, Value)>,
}

impl Report {
    fn of(event: &Event<'_>) -> Self {
        let mut report = Self {
            at: SystemClock.now_ms(),
            target: event.metadata().target().to_owned(),
            ..Self::default()
        };
        event.record(&mut report);
        report
    }

    /// Whether it is the same error: of the same place, or with the same words from the same part of the program.
    fn is_same(&self, other: &Self) -> bool {
        self.sameness() == other.sameness()
    }

    fn sameness(&self) -> (&str, &str) {
        (&self.target, self.panic().map_or(&*self.text, |(_, location)| location))
    }

    /// What a panic said, and where.
    fn panic(&self) -> Option<(&str, &str)> {
        let fact = |name| self.facts.iter().find(|(known, _)| *known == name)?.1.as_str();
        (self.target == PANIC).then(|| {
            (
                fact("panic.message").unwrap_or(""),
                fact("panic.location").unwrap_or(""),
            )
        })
    }

    fn note(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.text = value.as_str().unwrap_or_default().to_owned();
        } else if self.facts.len() < FACTS_MAX {
            self.facts.push((field.name(), value));
        }
    }

    fn note_text(&mut self, field: &Field, text: &str) {
        let last = field.name().rsplit('.').next().unwrap_or_default();
        let text = if SECRET.contains(&last) {
            SCRUBBED.to_owned()
        } else {
            scrub(&text[..text.floor_char_boundary(TEXT_BYTES_MAX)])
        };
        self.note(field, text.into());
    }

    /// The document that Sentry takes: <https://develop.sentry.dev/sdk/data-model/event-payloads/>
    fn event(&self, id: Uuid, times: u64, origin: &Origin) -> Value {
        let (target, words) = self.sameness();
        let mut event = json!({
            "event_id": id.simple().to_string(),
            "timestamp": self.at as f64 / 1_000.0,
            "platform": "other",
            "level": "error",
            "logger": self.target,
            "release": concat!("taskflow@", env!("CARGO_PKG_VERSION")),
            "environment": origin.environment,
            "server_name": origin.node,
            "fingerprint": [target, words],
            "logentry": { "formatted": self.text },
            "extra": { "times": times },
        });
        for (name, value) in &self.facts {
            event["extra"][*name] = value.clone();
        }
        if let Some((message, location)) = self.panic() {
            let mut place = location.rsplitn(3, ':');
            let mut number = || place.next().and_then(|number| number.parse::<u32>().ok());
            let (column, line) = (number(), number());
            let file = place.next().unwrap_or_default();
            event["level"] = "fatal".into();
            event["exception"] = json!({ "values": [{
                "type": "panic",
                "value": message,
                "mechanism": { "type": "panic", "handled": false },
                "stacktrace": { "frames": [{ "filename": file, "lineno": line, "colno": column, "in_app": true }] },
            }]});
        }
        event
    }
}

impl Visit for Report {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.note_text(field, &format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.note_text(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.note(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.note(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.note(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.note(field, value.into());
    }
}

enum Message {
    Heard(Report),
    /// Tell what waits, and drop this.
    End(Sender<()>),
}

/// Takes what is logged as an error.
pub struct Errors {
    queue: SyncSender<Message>,
    metrics: Arc<Metrics>,
}

impl<S: Subscriber> Layer<S> for Errors {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == Level::ERROR && self.queue.try_send(Message::Heard(Report::of(event))).is_err()
        {
            self.metrics.error_reports.of(ReportOutcome::Dropped).inc();
        }
    }
}

/// Tells, until it is dropped: then it waits for a moment for what is still to be told.
pub struct Telling(SyncSender<Message>);

impl Drop for Telling {
    fn drop(&mut self) {
        let (told, ended) = channel();
        // Full, while Sentry hangs: nothing would come of waiting.
        if self.0.try_send(Message::End(told)).is_ok() {
            let _ = ended.recv_timeout(END_MAX);
        }
    }
}

/// Starts the thread that tells.
pub fn start(dsn: Dsn, origin: Origin, metrics: Arc<Metrics>) -> std::io::Result<(Errors, Telling)> {
    let (queue, messages) = sync_channel(QUEUE_MAX);
    let teller = Teller {
        agent: ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .build()
            .into(),
        dsn,
        origin,
        metrics: metrics.clone(),
        begun: Instant::now(),
        outbox: Outbox::default(),
        is_refused: false,
    };
    std::thread::Builder::new()
        .name("sentry".to_owned())
        .spawn(move || teller.run(&messages))?;
    let errors = Errors {
        queue: queue.clone(),
        metrics,
    };
    Ok((errors, Telling(queue)))
}

struct Teller {
    agent: ureq::Agent,
    dsn: Dsn,
    origin: Origin,
    metrics: Arc<Metrics>,
    begun: Instant,
    outbox: Outbox,
    /// The last event was not taken.
    is_refused: bool,
}

impl Teller {
    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            // First all that has come, so that of many that are the same one is told.
            while let Ok(message) = messages.try_recv() {
                self.take(message);
            }
            self.metrics.error_reports_waiting.set(self.outbox.untold() as f64);
            let wait = self.outbox.due().map(|due| due.saturating_sub(self.begun.elapsed()));
            let message = match wait {
                Some(Duration::ZERO) => {
                    self.tell();
                    continue;
                }
                Some(wait) => messages.recv_timeout(wait),
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match message {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, message: Message) {
        let now = self.begun.elapsed();
        match message {
            Message::Heard(report) => {
                if !self.outbox.heard(report, now) {
                    self.metrics.error_reports.of(ReportOutcome::Dropped).inc();
                }
            }
            Message::End(told) => {
                self.outbox.hurry(now);
                while self.outbox.due().is_some_and(|due| due <= self.begun.elapsed()) {
                    self.tell();
                }
                drop(told);
            }
        }
    }

    /// Tells what is due first.
    fn tell(&mut self) {
        let Some((report, times)) = self.outbox.first() else {
            return;
        };
        let envelope = envelope(report, times, &self.origin);
        let sent = self.send(&envelope);
        let now = self.begun.elapsed();
        let outcome = match sent {
            Ok(()) => {
                self.outbox.told(now);
                self.is_refused = false;
                ReportOutcome::Sent
            }
            Err(NotTaken {
                pause,
                cause,
                is_for_good,
            }) => {
                if is_for_good {
                    // Asked again it would be the same, and those behind it would wait for ever.
                    self.outbox.told(now);
                }
                self.outbox.pause(now + pause);
                if !std::mem::replace(&mut self.is_refused, true) {
                    let pause_seconds = pause.as_secs();
                    tracing::warn!(
                        cause,
                        pause_seconds,
                        "Sentry does not take errors, and is left alone for a while"
                    );
                }
                ReportOutcome::Failed
            }
        };
        self.metrics.error_reports.of(outcome).inc();
    }

    fn send(&self, envelope: &str) -> Result<(), NotTaken> {
        let client = concat!("taskflow/", env!("CARGO_PKG_VERSION"));
        let auth = format!(
            "Sentry sentry_version=7, sentry_client={client}, sentry_key={}",
            self.dsn.key
        );
        let request = self.agent.post(&self.dsn.endpoint).header("user-agent", client);
        let request = request
            .header("x-sentry-auth", auth)
            .content_type("application/x-sentry-envelope");
        let answer = request.send(envelope).map_err(|error| NotTaken {
            pause: PAUSE,
            cause: error.to_string(),
            is_for_good: false,
        })?;
        let after = answer.headers().get("retry-after");
        taken(answer.status().as_u16(), after.and_then(|after| after.to_str().ok()))
    }
}

/// Why an event was not taken, and for how long to send nothing.
#[derive(Debug, PartialEq)]
struct NotTaken {
    pause: Duration,
    cause: String,
    /// It would not be taken later either.
    is_for_good: bool,
}

/// What an answer says, by its status and `Retry-After` in seconds.
fn taken(status: u16, after: Option<&str>) -> Result<(), NotTaken> {
    if (200..300).contains(&status) {
        return Ok(());
    }
    let after = after.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    Err(NotTaken {
        pause: after.unwrap_or(PAUSE).min(PAUSE_MAX),
        cause: format!("it answers with the status {status}"),
        is_for_good: (400..500).contains(&status) && status != 429,
    })
}

fn envelope(report: &Report, times: u64, origin: &Origin) -> String {
    let id = Uuid::new_v4();
    let event = report.event(id, times, origin).to_string();
    let mut envelope = json!({ "event_id": id.simple().to_string() }).to_string();
    let _ = write!(
        envelope,
        "\n{{\"type\":\"event\",\"length\":{}}}\n{event}\n",
        event.len()
    );
    envelope
}

#[cfg(test)]
#[allow(dead_code, reason = "the black-box tests use the rest")]
#[path = "../../tests/support/sentry.rs"]
mod fake;

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::fake::{Answers, Sentry};
    use super::*;
    use crate::telemetry::Telemetry;

    fn told(sentry: &Sentry, say: impl FnOnce()) {
        let origin = Origin {
            environment: "staging".to_owned(),
            node: "node-7".to_owned(),
        };
        let dsn = sentry.dsn().parse().expect("a DSN");
        let (errors, telling) = start(dsn, origin, Telemetry::new().metrics).expect("it starts");
        let subscriber = tracing_subscriber::registry().with(errors);
        tracing::subscriber::with_default(subscriber, say);
        // Waits until it is told.
        drop(telling);
    }

    #[test]
    fn a_dsn_is_read_as_sentry_writes_it() {
        let read = |text: &str| text.parse::<Dsn>().map(|dsn| (dsn.endpoint, dsn.key));
        let is = |endpoint: &str, key: &str| Ok((endpoint.to_owned(), key.to_owned()));
        assert_eq!(
            read("https://abc123@o1.ingest.sentry.example/42"),
            is("https://o1.ingest.sentry.example/api/42/envelope/", "abc123")
        );
        assert_eq!(
            read(" http://abc:old@10.0.0.5:9000/under/here/7\n"),
            is("http://10.0.0.5:9000/under/here/api/7/envelope/", "abc")
        );
        for wrong in [
            "",
            "sentry.example",
            "https://sentry.example/42",
            "https://@sentry.example/42",
            "https://abc@sentry.example",
            "https://abc@sentry.example/",
            "https://abc@/42",
            "ftp://abc@sentry.example/42",
            "https://abc@sentry.example?/42",
            "https://abc@sentry.example/42/ x",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_event_waits_for_as_long_as_the_answer_says_and_goes_if_it_is_never_taken() {
        let said = |status, after| {
            let not_taken = taken(status, after).err()?;
            Some((not_taken.pause.as_secs(), not_taken.is_for_good))
        };
        assert_eq!(said(200, None), None);
        assert_eq!(said(202, Some("60")), None);
        assert_eq!(said(500, None), Some((60, false)));
        assert_eq!(said(503, Some("7")), Some((7, false)));
        assert_eq!(said(429, Some("120")), Some((120, false)));
        assert_eq!(said(429, Some("999999")), Some((3_600, false)), "an hour at most");
        assert_eq!(said(429, Some("Mon, 30 Nov 2026 18:00:00 GMT")), Some((60, false)));
        for status in [301, 302] {
            assert_eq!(said(status, None), Some((60, false)), "nobody is followed");
        }
        for status in [400, 403, 413] {
            assert_eq!(said(status, None), Some((60, true)), "{status}");
        }
    }

    #[test]
    fn a_panic_is_told_with_its_place_and_without_what_somebody_wrote() {
        let sentry = Sentry::start(Answers::Takes);
        told(&sentry, || {
            let before = std::panic::take_hook();
            // Other tests of this process go on as they would.
            std::panic::set_hook(Box::new(move |panic| {
                crate::telemetry::log::log_panic(panic);
                before(panic);
            }));
            let title = "Café with Ann".to_owned();
            let sliced = std::panic::catch_unwind(|| title[..4].len());
            assert!(sliced.is_err());
        });
        let event = &sentry.events(1)[0];
        assert_eq!(event["level"], "fatal");
        assert_eq!(event["environment"], "staging");
        let panic = &event["exception"]["values"][0];
        assert_eq!(panic["type"], "panic");
        let said = panic["value"].as_str().expect("it is told");
        assert!(said.contains("byte index 4 is not a char boundary"), "{said}");
        let place = &panic["stacktrace"]["frames"][0];
        assert_eq!(place["filename"], file!());
        assert!(place["lineno"].as_u64() > Some(1), "{place}");
        for part in ["Caf", "Ann"] {
            assert!(!event.to_string().contains(part), "{event}");
        }
    }

    #[test]
    fn facts_are_told_but_for_those_whose_name_says_what_they_are_and_no_more_than_fits() {
        let sentry = Sentry::start(Answers::Takes);
        told(&sentry, || {
            tracing::warn!("no error");
            tracing::error!(
                user.id = "0190a5b0-0000-7000-8000-000000000001",
                feed.seq = 7,
                is_new = true,
                "one"
            );
            tracing::error!(
                title = "milk",
                user.email = "x",
                address = "y",
                problem = "z".repeat(100_000),
                "two"
            );
        });
        let events = sentry.events(2);
        assert_eq!(events.len(), 2);
        let extra = &events[0]["extra"];
        assert_eq!(extra["user.id"], "0190a5b0-0000-7000-8000-000000000001");
        assert_eq!((&extra["feed.seq"], &extra["is_new"]), (&json!(7), &json!(true)));
        for name in ["title", "user.email", "address"] {
            assert_eq!(events[1]["extra"][name], SCRUBBED, "{name}");
        }
        assert_eq!(
            events[1]["extra"]["problem"].as_str().map(str::len),
            Some(TEXT_BYTES_MAX)
        );
    }
}
