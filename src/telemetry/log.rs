//! Log lines: one JSON document a line on standard error, or text for people.

use std::fmt;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::scrub::scrub;
use super::sentry::Errors;
use crate::config::{LogFormat, LogLevel};
use crate::telemetry::request_id;
use crate::telemetry::trace::{self, export};

/// The target of lines about panics.
pub const PANIC: &str = "panic";

/// The fields of log lines, each with what it says; the first four are in each line. What is logged under another name fails a
/// test, and what libraries say under theirs is folded into `cause`: whoever ships logs can rely on these. Never an e-mail address, a token, a title or a note; but for `to` and `text`, the
/// letters of a server on one's own machine.
pub const FIELDS: &[(&str, &str)] = &[
    ("timestamp", "When, in UTC (RFC 3339, with microseconds)."),
    ("level", "ERROR, WARN, INFO, DEBUG or TRACE."),
    ("target", "The part of the program that says it, or panic."),
    ("message", "What happened, in the same words each time."),
    ("address", "Where this node takes clients, or who comes without TLS."),
    ("build", "Name and version of the server."),
    (
        "cause",
        "Why, in the words of the system or a library; in a library's own lines, the fields that it gives them.",
    ),
    ("changed", "Settings that have changed."),
    ("code", "Name of a code of docs/protocol.md."),
    ("connections", "How many connections it is about."),
    ("damage", "What is wrong with a stored feed."),
    ("error", "What went wrong, in the words of the part that failed."),
    ("feed.id", "Whose feed: the id of its user."),
    ("files_open_max", "Files that the process may have open."),
    ("issuer", "Whose keys it is about, as in the setting."),
    ("keys", "How many signing keys there are."),
    ("late_ms", "Milliseconds by which timers rang too late."),
    ("members", "Names of the nodes of the cluster that are there."),
    ("memory_bytes", "Memory that the process has."),
    ("memory_bytes_max", "Memory that it may have."),
    ("nodes", "Addresses of Redis, without passwords."),
    ("operator_address", "Where this node has its operator's port."),
    ("overload", "How hard the node is pressed: taskflow_overload."),
    ("panic.backtrace", "Which calls led to a panic; with RUST_BACKTRACE=1."),
    ("panic.location", "Where in the sources a thread panicked."),
    ("panic.message", "What it said, without what may be somebody's words."),
    ("panic.thread", "Which thread."),
    ("path", "The path of a request, without its query."),
    ("pause_seconds", "For how long nothing is tried."),
    ("peer", "Address of a proxy that is not trusted."),
    ("problem", "What is wrong, in a sentence."),
    ("request.id", "Which request: its X-Request-Id."),
    ("seconds", "How long it takes."),
    (
        "seconds_ahead",
        "By how much this node's clock is ahead of that of Redis.",
    ),
    ("settings", "Settings that need a restart."),
    ("sockets", "WebSockets that are sent to other nodes."),
    ("span_id", "Which step of a trace the line belongs to."),
    ("streams", "Event streams and long-polls that are sent to other nodes."),
    ("subject", "What a letter is about."),
    ("text", "A letter, where there is no mail server (environment = dev)."),
    ("to", "Whom such a letter is for."),
    ("trace_id", "Which trace: that of the request."),
    ("user.id", "Whom it is about: the id of a user."),
    ("variable", "A variable of the environment that is no setting."),
    ("wait_ms", "Milliseconds for which operations by WebSocket waited."),
    ("why", "Why a letter was dropped."),
];

/// So many of them are in each line.
const IN_ALL: usize = 4;

/// Changes what is logged.
type SetLevel = Box<dyn Fn(LogLevel) + Send + Sync>;

static SET_LEVEL: OnceLock<SetLevel> = OnceLock::new();

/// Sends log lines of this program to standard output from now on, and errors to whoever else takes them. Once a process.
pub fn init(level: LogLevel, format: LogFormat, errors: Option<Errors>) {
    let (subscriber, set_level) = subscriber(level, format, std::io::stdout);
    match errors {
        Some(errors) => subscriber.with(errors).init(),
        None => subscriber.init(),
    }
    let _ = SET_LEVEL.set(set_level);
    std::panic::set_hook(Box::new(log_panic));
}

/// A panic is a line like others. What it says may have been made of anybody's words.
pub(super) fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let backtrace = std::backtrace::Backtrace::capture();
    let is_asked_for = backtrace.status() == std::backtrace::BacktraceStatus::Captured;
    let thread = std::thread::current();
    tracing::error!(
        target: PANIC,
        {
            panic.message = scrub(panic.payload_as_str().unwrap_or("it says nothing")),
            panic.location = panic.location().map(tracing::field::display),
            panic.thread = thread.name(),
            panic.backtrace = is_asked_for.then(|| tracing::field::display(backtrace))
        },
        "a thread panicked"
    );
}

/// Logs what is at least so important from now on.
pub fn set_level(level: LogLevel) {
    if let Some(set_level) = SET_LEVEL.get() {
        set_level(level);
    }
}

/// Libraries at `warn` at most: their `info` is not ours to explain. Nothing of actix-http, which calls it an error when
/// what comes is no HTTP: anybody could fill the log. What warns in the builder of the database's driver is a keep-alive of
/// a second, and that is meant (docs/decisions/0007).
fn filter(level: LogLevel) -> EnvFilter {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "warn,taskflow=info,taskflow_actors=info",
        LogLevel::Debug => "warn,taskflow=debug,taskflow_actors=debug",
        LogLevel::Trace => "info,taskflow=trace,taskflow_actors=trace",
    };
    EnvFilter::new(format!("{level},actix_http=off,scylla::client::session_builder=error"))
}

fn subscriber<W>(
    level: LogLevel,
    format: LogFormat,
    writer: W,
) -> (Box<dyn tracing::Subscriber + Send + Sync>, SetLevel)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(level))
        .with_writer(writer);
    match format {
        // Facts as members of the document itself, with the same names everywhere.
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_current_span(false);
            let builder = builder.map_event_format(|format| Traced { format, is_json: true });
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            let set_level = move |level| drop(handle.reload(filter(level)));
            (Box::new(builder.finish()), Box::new(set_level))
        }
        LogFormat::Text => {
            let builder = builder
                .with_target(false)
                .map_event_format(|format| Traced { format, is_json: false });
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            let set_level = move |level| drop(handle.reload(filter(level)));
            (Box::new(builder.finish()), Box::new(set_level))
        }
    }
}

/// Whether a part of this program says it. What a library says has fields of its own.
fn is_ours(target: &str) -> bool {
    target.starts_with("taskflow") || target == PANIC
}

/// A line of a library, with no other fields than ours: what it says beside its message is its `cause`.
fn folded(line: &str) -> Option<String> {
    let line: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).ok()?;
    let is_in_all = |name: &str| FIELDS[..IN_ALL].iter().any(|(known, _)| *known == name);
    let (mut line, others): (serde_json::Map<_, _>, serde_json::Map<_, _>) =
        line.into_iter().partition(|(name, _)| is_in_all(name));
    if !others.is_empty() {
        let words = others.iter().map(|(name, value)| match value.as_str() {
            Some(text) => format!("{name}: {text}"),
            None => format!("{name}: {value}"),
        });
        line.insert("cause".to_owned(), words.collect::<Vec<_>>().join(", ").into());
    }
    let mut line = serde_json::to_string(&line).ok()?;
    line.push('\n');
    Some(line)
}

/// Lines that have our fields only, and say which request they belong to, and which step of which trace, if they do.
struct Traced<F> {
    format: F,
    is_json: bool,
}

impl<S, N, F> FormatEvent<S, N> for Traced<F>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> fmt::Result {
        let is_to_fold = self.is_json && !is_ours(event.metadata().target());
        let mut facts = Vec::new();
        if let Some(request) = request_id::current() {
            facts.push(("request.id", request.as_str().to_owned()));
        }
        if let Some(current) = trace::current() {
            facts.push(("trace_id", export::trace_id(current)));
            facts.push(("span_id", export::span_id(current.span)));
        }
        if facts.is_empty() && !is_to_fold {
            return self.format.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        if is_to_fold && let Some(folded) = folded(&line) {
            line = folded;
        }
        match line.strip_prefix('{') {
            Some(rest) if self.is_json => {
                writer.write_char('{')?;
                // Nothing in them has to be escaped.
                for (name, value) in facts {
                    write!(writer, "\"{name}\":\"{value}\",")?;
                }
                writer.write_str(rest)
            }
            _ => {
                writer.write_str(line.trim_end())?;
                for (name, value) in facts {
                    write!(writer, " {name}={value}")?;
                }
                writeln!(writer)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use scylla::client::session_builder::SessionBuilder;

    use super::*;
    use crate::telemetry::trace::Handling;
    use crate::telemetry::{Telemetry, Traces};
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines(level: LogLevel, format: LogFormat) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, set_level) = subscriber(LogLevel::Error, format, move || writer.clone());
        set_level(level);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "taskflow::feed", { connections = 7 }, "feed loaded");
            tracing::debug!(target: "taskflow::feed", "details");
            tracing::info!(target: "actix_server", "chatter");
            // One of the names has another meaning in the table.
            tracing::warn!(target: "scylla::cluster", { control_connection_address = %"10.0.0.1:9042", nodes = 3 }, "a worry");
            tracing::error!(target: "actix_http::h1::dispatcher", "what came is no HTTP");
            // Does not connect yet, and warns of that at once.
            let second = std::time::Duration::from_secs(1);
            let _ = SessionBuilder::new()
                .keepalive_interval(second)
                .keepalive_timeout(second);
        });
        let bytes = lines.0.lock().expect("not poisoned").clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn a_json_line_is_one_document_with_the_facts_in_it() {
        let text = lines(LogLevel::Info, LogFormat::Json);
        let documents: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(documents.len(), 2, "{text}");
        assert_eq!(documents[0]["message"], "feed loaded");
        assert_eq!(documents[0]["connections"], 7);
        assert_eq!(documents[0]["level"], "INFO");
        assert_eq!(documents[1]["message"], "a worry");
        assert_eq!(documents[1]["target"], "scylla::cluster");
        assert_eq!(
            documents[1]["cause"],
            "control_connection_address: 10.0.0.1:9042, nodes: 3"
        );
    }

    /// A collector and a store of log lines find each other by it.
    #[test]
    fn a_line_of_a_request_that_is_traced_says_which() {
        let traces = Traces::start("http://127.0.0.1:1", 1.0, "here", Telemetry::new().metrics).expect("a thread");
        let traced = traces.request(None).expect("all are");
        let context = traced.context().expect("it is traced");
        let handling = Handling::of(traced);
        let [json, text] = [LogFormat::Json, LogFormat::Text].map(|format| lines(LogLevel::Info, format));
        drop(handling);
        let (trace, span) = (export::trace_id(context), export::span_id(context.span));
        for line in json.lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(
                (&line["trace_id"], &line["span_id"]),
                (&trace.clone().into(), &span.clone().into())
            );
        }
        let end = format!(" trace_id={trace} span_id={span}");
        assert!(
            text.lines().count() == 2 && text.lines().all(|line| line.ends_with(&end)),
            "{text}"
        );
        assert!(!lines(LogLevel::Info, LogFormat::Json).contains("trace_id"));
    }

    #[test]
    fn a_line_of_a_request_says_which() {
        let mut headers = actix_http::header::HeaderMap::new();
        headers.insert(request_id::X_REQUEST_ID, "one-of-many".parse().expect("a value"));
        let handling = request_id::Handling::of(request_id::RequestId::of(&headers));
        let [json, text] = [LogFormat::Json, LogFormat::Text].map(|format| lines(LogLevel::Info, format));
        drop(handling);
        for line in json.lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(line["request.id"], "one-of-many");
        }
        assert!(
            text.lines().count() == 2 && text.lines().all(|line| line.ends_with(" request.id=one-of-many")),
            "{text}"
        );
        assert!(!lines(LogLevel::Info, LogFormat::Json).contains("request.id"));
    }

    /// The names of the fields in what stands between the brackets of a macro of `tracing`.
    fn fields_in(arguments: &str) -> Vec<String> {
        let (mut depth, mut is_text, mut is_escaped, mut parts) = (0, false, false, vec![String::new()]);
        for char in arguments.chars() {
            match char {
                _ if is_escaped => is_escaped = false,
                '\\' => is_escaped = true,
                '"' => is_text = !is_text,
                '(' | '[' | '{' if !is_text => depth += 1,
                ')' | ']' | '}' if !is_text => depth -= 1,
                _ => {}
            }
            match char {
                ',' if depth == 0 && !is_text => parts.push(String::new()),
                _ => parts.last_mut().expect("there is one").push(char),
            }
        }
        let parts = parts.iter().map(|part| part.trim());
        let names = parts.flat_map(
            |part| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
                Some(inside) => fields_in(inside),
                None if part.is_empty() || part.starts_with(['"', '/']) || part.starts_with("target:") => Vec::new(),
                None => vec![
                    part.split(" = ")
                        .next()
                        .unwrap_or(part)
                        .trim_start_matches(['%', '?'])
                        .to_owned(),
                ],
            },
        );
        names.collect()
    }

    /// What stands between the brackets of each macro of `tracing` in a source, but for its tests.
    fn logged_in(source: &str) -> Vec<&str> {
        let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or(source);
        let calls = ["error", "warn", "info", "debug", "trace"].map(|level| format!("tracing::{level}!("));
        let begins = calls.iter().flat_map(|call| source.match_indices(call.as_str()));
        let begins = begins.map(|(at, call)| at + call.len());
        let inside = begins.map(|at| {
            let rest = &source[at..];
            let (mut depth, mut is_text) = (1, false);
            let end = rest.char_indices().find(|(_, char)| {
                match char {
                    '"' => is_text = !is_text,
                    '(' if !is_text => depth += 1,
                    ')' if !is_text => depth -= 1,
                    _ => {}
                }
                depth == 0
            });
            &rest[..end.expect("the bracket is closed").0]
        });
        inside.collect()
    }

    #[test]
    fn what_is_logged_has_the_fields_of_the_table_and_the_table_has_no_others() {
        fn sources(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("it is readable").path();
                match path.is_dir() {
                    true => sources(&path, found),
                    false => found.extend(path.extension().is_some_and(|end| end == "rs").then_some(path)),
                }
            }
        }
        let mut found = Vec::new();
        for folder in ["src", "actors/src"] {
            sources(
                &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder),
                &mut found,
            );
        }
        // These are written by `Traced`.
        let mut used = std::collections::BTreeSet::from(["request.id", "span_id", "trace_id"].map(str::to_owned));
        for path in found {
            let source = std::fs::read_to_string(&path).expect("it is text");
            for field in logged_in(&source).into_iter().flat_map(fields_in) {
                assert!(
                    FIELDS.iter().any(|(known, _)| *known == field),
                    "{}: {field}",
                    path.display()
                );
                used.insert(field);
            }
        }
        // Lines of libraries too, which have names of their own.
        let written = lines(LogLevel::Info, LogFormat::Json);
        for line in written.lines() {
            let line: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).expect("JSON");
            for field in line.keys() {
                assert!(FIELDS.iter().any(|(known, _)| known == field), "{field} in {line:?}");
            }
            let library = line["target"].as_str().expect("text").starts_with("scylla");
            assert!(!library || line.len() == IN_ALL + 1, "{line:?}");
        }
        assert!(written.contains("scylla"), "{written}");
        let in_all = ["timestamp", "level", "target", "message"];
        let table: Vec<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
        assert_eq!(table[..IN_ALL], in_all);
        assert!(table[IN_ALL..].is_sorted(), "{table:?}");
        let unused: Vec<_> = table[IN_ALL..].iter().filter(|name| !used.contains(**name)).collect();
        assert!(unused.is_empty(), "{unused:?}");
    }

    #[test]
    fn text_is_for_people() {
        let text = lines(LogLevel::Debug, LogFormat::Text);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("feed loaded"), "{text}");
    }
}
