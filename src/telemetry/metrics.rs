//! Every metric, once: a field whose doc comment is its help text.
//!
//! All of them are described and registered at start, so the first scrape has them, at zero. A field holds the handle: to
//! count costs one atomic operation. Labels are finite and listed here; never a user, a list, a token or an address.

use std::sync::Arc;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Buckets of durations, in seconds. A durable append is 0.1 to 10 ms on the disks we know; above a second somebody waits.
const DURATION_BUCKETS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// A finite label.
pub trait Labelled: Copy + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// Every value, in the order of [`Labelled::index`].
    const ALL: &'static [&'static str];
    /// Which value it is.
    fn index(self) -> usize;
}

/// One counter for each value of a label.
pub struct Family<L> {
    counters: Vec<Counter>,
    label: std::marker::PhantomData<fn(L)>,
}

impl<L: Labelled> Family<L> {
    /// The counter of a value.
    pub fn of(&self, value: L) -> &Counter {
        &self.counters[value.index()]
    }
}

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident = $label:literal { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl Labelled for $name {
            const NAME: &'static str = $label;
            const ALL: &'static [&'static str] = &[$($text),+];
            fn index(self) -> usize {
                self as usize
            }
        }
    )+};
}

labels! {
    /// Why a connection was cut by the server.
    Eviction = "reason" {
        /// It read more slowly than its feeds change.
        TooSlow = "too_slow",
        /// All queues together were full, and its was the fullest.
        QueuesFull = "queues_full",
        /// It did not answer the heartbeat.
        HeartbeatMissed = "heartbeat_missed",
        /// It did not say hello in time.
        HelloTimeout = "hello_timeout",
        /// Its token expired or its sign-in was ended.
        SignedOut = "signed_out",
        /// It broke the protocol.
        Protocol = "protocol",
    }

    /// How a handshake ended.
    Handshake = "outcome" {
        /// A connection.
        Accepted = "accepted",
        /// A token, origin or request that is not right.
        Refused = "refused",
        /// Too many connections, of one user or of all.
        Limited = "limited",
    }

    /// What became of an operation.
    OperationOutcome = "outcome" {
        /// Durable.
        Accepted = "accepted",
        /// Not done.
        Refused = "refused",
        /// Not done: the row was at another version.
        Conflict = "conflict",
        /// Not known.
        Unknown = "unknown",
    }

    /// Why a follower was reset.
    Reset = "reason" {
        /// It brought no cursor.
        NoCursor = "no_cursor",
        /// Another history.
        EpochChanged = "epoch_changed",
        /// Ahead of the feed.
        CursorAhead = "cursor_ahead",
        /// No longer kept.
        CursorTooOld = "cursor_too_old",
        /// Other lists.
        ListsChanged = "lists_changed",
    }

    /// What the database was asked.
    CqlRequest = "request" {
        /// To append a commit to a log.
        Append = "append",
        /// For the head of a log.
        Head = "head",
        /// For a page of a log.
        Log = "log",
        /// For a page of the rows of a feed.
        Rows = "rows",
        /// To write rows of a feed.
        WriteRows = "write_rows",
        /// To cut a log, or for what was cut.
        Trim = "trim",
        /// For an account or a sign-in, or to write one.
        Account = "account",
    }

    /// Why a request to the database failed.
    CqlError = "class" {
        /// No connection to any node that could answer.
        NoConnection = "no_connection",
        /// Too many requests on one connection.
        NoStream = "no_stream",
        /// Too few replicas are there.
        Unavailable = "unavailable",
        /// Too few replicas answered a write in time.
        WriteTimeout = "write_timeout",
        /// Too few replicas answered a read in time.
        ReadTimeout = "read_timeout",
        /// A node has too much to do.
        Overloaded = "overloaded",
        /// The login may not do this.
        Unauthorized = "unauthorized",
        /// The connection broke.
        Broken = "broken",
        /// No answer in time.
        Timeout = "timeout",
        /// Any other error of the database.
        Server = "server",
        /// Anything else.
        Other = "other",
    }

    /// Class of an HTTP status.
    StatusClass = "class" {
        /// 1xx.
        Informational = "1xx",
        /// 2xx.
        Success = "2xx",
        /// 3xx.
        Redirection = "3xx",
        /// 4xx.
        ClientError = "4xx",
        /// 5xx.
        ServerError = "5xx",
    }

    /// What was asked for too often.
    Limited = "what" {
        /// Requests of a user that change nothing.
        Reads = "reads",
        /// Operations of a user.
        Writes = "writes",
        /// Requests and handshakes without a good token.
        Strangers = "strangers",
        /// Refreshes of one sign-in by REST.
        Refreshes = "refreshes",
        /// Bytes that a WebSocket sent: it had to wait.
        Bytes = "bytes",
    }

    /// What became of an attempt to sign in, register or refresh.
    SignInOutcome = "outcome" {
        /// A sign-in was opened or went on.
        Opened = "opened",
        /// An account was made.
        Registered = "registered",
        /// Wrong address, password or token.
        Refused = "refused",
        /// Too many at once.
        Busy = "busy",
        /// Too often from one address or for one account; with rate_limits = count they went on.
        Limited = "limited",
        /// The store failed.
        Failed = "failed",
    }

    /// What became of a letter.
    LetterOutcome = "outcome" {
        /// The mail server has it.
        Sent = "sent",
        /// The mail server refused it, or was away for too long.
        Failed = "failed",
        /// Too many to one address, or under way.
        Dropped = "dropped",
    }
}

impl From<taskflow_protocol::message::ResetReason> for Reset {
    fn from(reason: taskflow_protocol::message::ResetReason) -> Self {
        use taskflow_protocol::message::ResetReason as R;
        match reason {
            R::NoCursor => Self::NoCursor,
            R::EpochChanged => Self::EpochChanged,
            R::CursorAhead => Self::CursorAhead,
            R::CursorTooOld => Self::CursorTooOld,
            R::ListsChanged => Self::ListsChanged,
        }
    }
}

impl From<&taskflow_protocol::message::Outcome> for OperationOutcome {
    fn from(outcome: &taskflow_protocol::message::Outcome) -> Self {
        use taskflow_protocol::message::Outcome as O;
        match outcome {
            O::Accepted(_) => Self::Accepted,
            O::Refused(_) => Self::Refused,
            O::Conflict(_) => Self::Conflict,
            O::Unknown(_) => Self::Unknown,
        }
    }
}

/// What a field can be.
trait Registered: Sized {
    fn register(recorder: &dyn Recorder, name: &'static str, help: &'static str) -> Self;
}

const METADATA: Metadata<'static> = Metadata::new("taskflow", Level::INFO, None);

impl Registered for Counter {
    fn register(recorder: &dyn Recorder, name: &'static str, help: &'static str) -> Self {
        recorder.describe_counter(name.into(), None, help.into());
        recorder.register_counter(&Key::from_static_name(name), &METADATA)
    }
}

impl Registered for Gauge {
    fn register(recorder: &dyn Recorder, name: &'static str, help: &'static str) -> Self {
        recorder.describe_gauge(name.into(), None, help.into());
        recorder.register_gauge(&Key::from_static_name(name), &METADATA)
    }
}

impl Registered for Histogram {
    fn register(recorder: &dyn Recorder, name: &'static str, help: &'static str) -> Self {
        recorder.describe_histogram(name.into(), None, help.into());
        recorder.register_histogram(&Key::from_static_name(name), &METADATA)
    }
}

impl<L: Labelled> Registered for Family<L> {
    fn register(recorder: &dyn Recorder, name: &'static str, help: &'static str) -> Self {
        recorder.describe_counter(name.into(), None, help.into());
        let counter = |value: &&'static str| {
            let label = Label::from_static_parts(L::NAME, value);
            recorder.register_counter(&Key::from_parts(name, vec![label]), &METADATA)
        };
        Self {
            counters: L::ALL.iter().map(counter).collect(),
            label: std::marker::PhantomData,
        }
    }
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $field:ident: $kind:ty = $name:literal;)+) => {
        /// The handles of every metric.
        pub struct Metrics {
            $($(#[doc = $doc])+ pub $field: $kind,)+
        }

        /// Name and help text of every metric.
        pub const ALL: &[(&str, &str)] = &[$(($name, concat!($($doc),+)),)+];

        impl Metrics {
            /// Describes and registers all of them.
            pub fn register(recorder: &dyn Recorder) -> Self {
                Self {
                    $($field: <$kind>::register(recorder, $name, concat!($($doc),+).trim_start()),)+
                }
            }
        }
    };
}

metrics! {
    /// Connections that are open: WebSockets, event streams and long-polls.
    connections: Gauge = "taskflow_connections";
    /// Handshakes under way.
    handshakes_pending: Gauge = "taskflow_handshakes_pending";
    /// WebSocket handshakes, by outcome.
    handshakes: Family<Handshake> = "taskflow_handshakes_total";
    /// Frames that were put into the queues of connections.
    pushes: Counter = "taskflow_pushes_total";
    /// Bytes of those frames.
    push_bytes: Counter = "taskflow_push_bytes_total";
    /// Messages that came from clients over WebSockets.
    messages_received: Counter = "taskflow_messages_received_total";
    /// Bytes that wait in the queues of all connections.
    queue_bytes: Gauge = "taskflow_queue_bytes";
    /// Connections that the server cut, by reason.
    evictions: Family<Eviction> = "taskflow_evictions_total";

    /// Commits that were appended to logs.
    appends: Counter = "taskflow_appends_total";
    /// Seconds from the call of an append until it was durable.
    append_duration: Histogram = "taskflow_append_duration_seconds";
    /// Calls of fsync (or fdatasync) by the store.
    fsyncs: Counter = "taskflow_fsyncs_total";
    /// Seconds that an fsync took.
    fsync_duration: Histogram = "taskflow_fsync_duration_seconds";
    /// Bytes that are free where the store is.
    store_bytes_free: Gauge = "taskflow_store_bytes_free";
    /// Reads, appends and writes that the store failed.
    store_errors: Counter = "taskflow_store_errors_total";

    /// Feeds that are in memory.
    feeds_running: Gauge = "taskflow_feeds_running";
    /// Feeds that were brought into memory.
    feed_starts: Counter = "taskflow_feed_starts_total";
    /// Feeds that left memory because nobody used them.
    feed_stops: Counter = "taskflow_feed_stops_total";
    /// Feeds that failed and were started again.
    feed_panics: Counter = "taskflow_feed_panics_total";
    /// Accounts that were deleted, with everything that was theirs.
    accounts_deleted: Counter = "taskflow_accounts_deleted_total";
    /// HTTP connections that were closed because they had kept the server waiting while there were too many of them.
    http_idle_closed: Counter = "taskflow_http_idle_closed_total";
    /// Operations that were answered, by outcome.
    operations: Family<OperationOutcome> = "taskflow_operations_total";

    /// Appends that found another head: another node had written to the feed.
    append_conflicts: Counter = "taskflow_append_conflicts_total";
    /// Requests to the database that have ended, by what was asked.
    cql_requests: Family<CqlRequest> = "taskflow_cql_requests_total";
    /// Reads that were sent to another replica as well, because no answer came.
    cql_speculations: Counter = "taskflow_cql_speculations_total";
    /// Seconds that a request to the database took.
    cql_request_duration: Histogram = "taskflow_cql_request_duration_seconds";
    /// Requests to the database that failed, by class.
    cql_errors: Family<CqlError> = "taskflow_cql_errors_total";
    /// Appends of which the database did not say what became of them; they were read back.
    cql_unknown: Counter = "taskflow_cql_unknown_appends_total";
    /// Requests that were sent again because they had certainly not been sent.
    cql_retries: Counter = "taskflow_cql_retries_total";
    /// Requests that were not, because too many had been already.
    cql_retries_refused: Counter = "taskflow_cql_retries_refused_total";

    /// Whether Redis carries messages: 1 or 0. Without Redis in the settings, 0.
    bus_up: Gauge = "taskflow_bus_up";
    /// Whether clients are told that what they show may be old, for messages of Redis were missed and the database does not answer: 1 or 0.
    stale: Gauge = "taskflow_stale";
    /// Connections made to Redis.
    bus_connects: Counter = "taskflow_bus_connects_total";
    /// Messages sent over Redis.
    bus_sent: Counter = "taskflow_bus_sent_total";
    /// Messages received over Redis.
    bus_received: Counter = "taskflow_bus_received_total";
    /// Messages that were not sent, because Redis was away or too slow. Followers read the log instead.
    bus_dropped: Counter = "taskflow_bus_dropped_total";
    /// Seconds from the sending of a message to its arrival here, by the clock of Redis.
    bus_lag: Histogram = "taskflow_bus_lag_duration_seconds";
    /// Seconds that a message of this node to itself took.
    bus_canary: Histogram = "taskflow_bus_canary_duration_seconds";
    /// Seconds by which this node's clock is ahead of that of Redis; behind it, below 0.
    clock_ahead: Gauge = "taskflow_clock_ahead_seconds";
    /// Rounds in which the sign-ins of all open connections were looked up, because messages about them may have been missed.
    sign_in_rounds: Counter = "taskflow_sign_in_rounds_total";
    /// Attempts to sign in on other nodes that were counted here as well.
    sign_in_attempts_heard: Counter = "taskflow_sign_in_attempts_heard_total";
    /// Channels that this node is subscribed to: one for each feed that is followed here, and that of all nodes.
    bus_subscriptions: Gauge = "taskflow_bus_subscriptions";
    /// Nodes of the cluster that this node knows of, itself included. Without Redis in the settings, 0.
    cluster_members: Gauge = "taskflow_cluster_members";
    /// Changes of the members: nodes that came or went.
    cluster_changes: Counter = "taskflow_cluster_changes_total";
    /// Requests sent to the node that hosts the feed, repeats included.
    cluster_forwards: Counter = "taskflow_cluster_forwards_total";
    /// Requests of other nodes that this node carried out.
    cluster_requests: Counter = "taskflow_cluster_requests_total";
    /// Heads of followed feeds that were read from the store, to find lost messages.
    cluster_head_reads: Counter = "taskflow_cluster_head_reads_total";
    /// Messages of other nodes that were not understood: nodes of versions too far apart, or something else on the channel.
    cluster_garbled: Counter = "taskflow_cluster_garbled_total";

    /// Followers that were brought up to date with entries from the log.
    catch_ups: Counter = "taskflow_catch_ups_total";
    /// Followers that had to begin anew, by reason.
    resets: Family<Reset> = "taskflow_resets_total";
    /// Snapshots that were begun.
    snapshots: Counter = "taskflow_snapshots_total";

    /// HTTP requests, by class of the answer's status.
    http_requests: Family<StatusClass> = "taskflow_http_requests_total";
    /// Requests, handshakes and operations beyond a limit, by what is limited. With rate_limits = count they went on.
    limited: Family<Limited> = "taskflow_limited_total";
    /// Attempts to register, sign in or refresh, by outcome.
    sign_ins: Family<SignInOutcome> = "taskflow_sign_ins_total";
    /// Letters to the owners of accounts, by what became of them.
    letters: Family<LetterOutcome> = "taskflow_letters_total";
}

impl StatusClass {
    /// The class of a status.
    pub fn of(status: u16) -> Self {
        match status / 100 {
            1 => Self::Informational,
            2 => Self::Success,
            3 => Self::Redirection,
            4 => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

/// The metrics and the way to read them.
#[derive(Clone)]
pub struct Telemetry {
    /// The handles.
    pub metrics: Arc<Metrics>,
    handle: PrometheusHandle,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

impl Telemetry {
    /// Registers every metric with a recorder of its own: nothing global, so tests do not see each other's figures.
    pub fn new() -> Self {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".to_owned()), DURATION_BUCKETS)
            .expect("the buckets are not empty");
        let recorder = builder.build_recorder();
        Self {
            metrics: Arc::new(Metrics::register(&recorder)),
            handle: recorder.handle(),
        }
    }

    /// All metrics in the Prometheus text format.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds what histograms have collected into their buckets. Without a scrape they would grow: call it every few
    /// seconds.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_scrape_has_every_metric_at_zero_with_its_help() {
        let scrape = Telemetry::new().render();
        for (name, help) in ALL {
            assert!(
                scrape.contains(&format!("# HELP {name} {}\n", help.trim())),
                "{name}: {scrape}"
            );
            assert!(scrape.contains(&format!("# TYPE {name} ")), "{name}");
        }
        let samples: Vec<&str> = scrape
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .collect();
        for sample in &samples {
            assert!(sample.ends_with(" 0"), "{sample}");
        }
        for expected in [
            "taskflow_evictions_total{reason=\"too_slow\"} 0",
            "taskflow_http_requests_total{class=\"5xx\"} 0",
            "taskflow_fsync_duration_seconds_bucket{le=\"0.001\"} 0",
            "taskflow_fsync_duration_seconds_count 0",
        ] {
            assert!(samples.contains(&expected), "{expected} is not in {scrape}");
        }
    }

    #[test]
    fn names_follow_the_rule_and_occur_once() {
        let mut names: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
        for name in &names {
            assert!(name.starts_with("taskflow_"), "{name}");
            assert!(
                name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()),
                "{name}"
            );
        }
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn what_is_counted_is_scraped() {
        let telemetry = Telemetry::new();
        telemetry.metrics.operations.of(OperationOutcome::Conflict).increment(2);
        telemetry.metrics.fsync_duration.record(0.0007);
        telemetry.metrics.http_requests.of(StatusClass::of(404)).increment(1);
        telemetry.upkeep();
        let scrape = telemetry.render();
        for expected in [
            "taskflow_operations_total{outcome=\"conflict\"} 2\n",
            "taskflow_fsync_duration_seconds_bucket{le=\"0.0005\"} 0\n",
            "taskflow_fsync_duration_seconds_bucket{le=\"0.001\"} 1\n",
            "taskflow_http_requests_total{class=\"4xx\"} 1\n",
        ] {
            assert!(scrape.contains(expected), "{expected} is not in {scrape}");
        }
    }
}
