//! Log lines: one JSON document a line on standard error, or text for people.

use std::fmt;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogFormat, LogLevel};
use crate::telemetry::trace::{self, export};

/// Changes what is logged.
type SetLevel = Box<dyn Fn(LogLevel) + Send + Sync>;

static SET_LEVEL: OnceLock<SetLevel> = OnceLock::new();

/// Sends log lines of this program to standard error from now on. Once a process.
pub fn init(level: LogLevel, format: LogFormat) {
    let (subscriber, set_level) = subscriber(level, format, std::io::stderr);
    subscriber.init();
    let _ = SET_LEVEL.set(set_level);
}

/// Logs what is at least so important from now on.
pub fn set_level(level: LogLevel) {
    if let Some(set_level) = SET_LEVEL.get() {
        set_level(level);
    }
}

/// Libraries at `warn` at most: their `info` is not ours to explain. Nothing of actix-http, which calls it an error when
/// what comes is no HTTP: anybody could fill the log.
fn filter(level: LogLevel) -> EnvFilter {
    let level = match level {
        LogLevel::Error => "error,actix_http=off",
        LogLevel::Warn => "warn,actix_http=off",
        LogLevel::Info => "warn,actix_http=off,taskflow=info,taskflow_actors=info",
        LogLevel::Debug => "warn,actix_http=off,taskflow=debug,taskflow_actors=debug",
        LogLevel::Trace => "info,taskflow=trace,taskflow_actors=trace",
    };
    EnvFilter::new(level)
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

/// Lines that say which step of which trace they belong to, if they do.
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
        let Some(current) = trace::current() else {
            return self.format.format_event(context, writer, event);
        };
        let (trace, span) = (export::trace_id(current), export::span_id(current.span));
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        match line.strip_prefix('{') {
            Some(rest) if self.is_json => write!(writer, "{{\"trace_id\":\"{trace}\",\"span_id\":\"{span}\",{rest}"),
            _ => writeln!(writer, "{} trace_id={trace} span_id={span}", line.trim_end()),
        }
    }
}

#[cfg(test)]
mod tests {
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
            tracing::info!(target: "taskflow::feed", { feed.seq = 7 }, "feed loaded");
            tracing::debug!(target: "taskflow::feed", "details");
            tracing::info!(target: "actix_server", "chatter");
            tracing::warn!(target: "actix_server", "a worry");
            tracing::error!(target: "actix_http::h1::dispatcher", "what came is no HTTP");
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
        assert_eq!(documents[0]["feed.seq"], 7);
        assert_eq!(documents[0]["level"], "INFO");
        assert_eq!(documents[1]["message"], "a worry");
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
    fn text_is_for_people() {
        let text = lines(LogLevel::Debug, LogFormat::Text);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("feed loaded"), "{text}");
    }
}
