//! Every metric, once: a field whose doc comment is its help text.
//!
//! All of them are registered at start, so the first scrape has them, at zero. A field holds the handle: to count costs one
//! atomic operation. Labels are finite and listed here; never a user, a list, a token or an address.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::prometheus_text;
use prometheus_client::registry::Registry;

use super::instruments::{Counter, Family, Gauge, Histogram, Instrument, Labelled, Table};
use super::process::Process;

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident = $label:literal { $($(#[$variant_doc:meta])* $variant:ident = $text:expr,)+ })+) => {$(
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
    /// What runs.
    Build = "version" {
        /// This.
        This = env!("CARGO_PKG_VERSION"),
    }

    /// Whose fault it is that something was refused, by the code's HTTP status.
    Fault = "fault" {
        /// The client's: 4xx.
        Client = "client",
        /// The server's: 5xx.
        Server = "server",
    }

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
        /// As many connections as the server takes, or more handshakes than it or their address may make.
        Limited = "limited",
    }

    /// How a client's hello was answered.
    HelloOutcome = "outcome" {
        /// It is in.
        Welcomed = "welcomed",
        /// It has to go: its token, its protocol or its place is not right.
        Refused = "refused",
    }

    /// How a client's wish to follow a feed was answered.
    FollowOutcome = "outcome" {
        /// It goes on from its cursor.
        CaughtUp = "caught_up",
        /// It begins anew, with a snapshot.
        Reset = "reset",
        /// It does not follow it.
        Refused = "refused",
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

    /// What an HTTP request is for: the first part of its path.
    Route = "route" {
        /// /api/v1/auth/…
        Auth = "auth",
        /// /api/v1/tasks/…
        Tasks = "tasks",
        /// /api/v1/lists/…
        Lists = "lists",
        /// /api/v1/labels/…
        Labels = "labels",
        /// /api/v1/settings
        Settings = "settings",
        /// /api/v1/operations
        Operations = "operations",
        /// /api/v1/changes: long-polls, too, which wait for something to change.
        Changes = "changes",
        /// /api/v1/events: until the stream begins.
        Events = "events",
        /// /api/v1/snapshot, until it begins.
        Snapshot = "snapshot",
        /// /api/v1/statistics and /api/v1/activity
        Statistics = "statistics",
        /// /api/v1/export, until it begins.
        Export = "export",
        /// /api/v1/sessions, /api/v1/tokens and /api/v1/history
        Account = "account",
        /// Anything else: pages, the description, keys, and what is not there.
        Other = "other",
    }

    /// What a message on a WebSocket is.
    MessageKind = "kind" {
        /// The first one.
        Hello = "hello",
        /// Changes.
        Operations = "operations",
        /// To follow something.
        Follow = "follow",
        /// To follow it no longer.
        Unfollow = "unfollow",
        /// A new token.
        Refresh = "refresh",
        /// That the client is there.
        Heartbeat = "heartbeat",
        /// None of these.
        Invalid = "invalid",
    }

    /// What a client is connected by.
    ConnectionKind = "kind" {
        /// A WebSocket.
        WebSocket = "websocket",
        /// An event stream or a long-poll.
        Request = "request",
    }

    /// What a node no longer does when it has more to do than it can.
    Shed = "what" {
        /// To count what a dashboard shows, and to export.
        Statistics = "statistics",
        /// To send whole feeds by REST.
        Snapshots = "snapshots",
        /// To take WebSockets, event streams and long-polls.
        Connections = "connections",
        /// To sign in and register.
        SignIns = "sign_ins",
        /// Any other request that changes nothing.
        Reads = "reads",
        /// Operations.
        Operations = "operations",
    }

    /// What a thread does.
    Thread = "thread" {
        /// Serves connections.
        Worker = "worker",
        /// Runs feeds.
        Feeds = "feeds",
    }

    /// What became of a step of a trace.
    SpanOutcome = "outcome" {
        /// The collector has taken it.
        Sent = "sent",
        /// Too many waited for the collector.
        QueueFull = "queue_full",
        /// The collector was away, or did not want it.
        Failed = "failed",
    }

    /// Whether something was in memory.
    Lookup = "outcome" {
        /// It was.
        Hit = "hit",
        /// It had to be found out.
        Miss = "miss",
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
        /// Connections of a user who has as many as one may have.
        Connections = "connections",
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

    /// What became of a report of errors to Sentry.
    ReportOutcome = "outcome" {
        /// Sentry has it.
        Sent = "sent",
        /// Sentry did not take it; it waits.
        Failed = "failed",
        /// Too many at once: it is in the log only.
        Dropped = "dropped",
    }
}

impl From<taskflow_protocol::Code> for Fault {
    fn from(code: taskflow_protocol::Code) -> Self {
        match code.http_status() {
            500.. => Self::Server,
            _ => Self::Client,
        }
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

impl From<&taskflow_protocol::codec::Decoded> for MessageKind {
    fn from(decoded: &taskflow_protocol::codec::Decoded) -> Self {
        use taskflow_protocol::codec::Decoded;
        use taskflow_protocol::message::ClientMessage as C;
        match decoded {
            Decoded::Partly(..) | Decoded::Message(C::Operations(_)) => Self::Operations,
            Decoded::Message(C::Hello(_)) => Self::Hello,
            Decoded::Message(C::Follow(_)) => Self::Follow,
            Decoded::Message(C::Unfollow(_)) => Self::Unfollow,
            Decoded::Message(C::Refresh(_)) => Self::Refresh,
            Decoded::Message(C::Heartbeat(_)) => Self::Heartbeat,
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

/// A line of the inventory.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// Its name, as it is scraped.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// counter, gauge or histogram.
    pub kind: &'static str,
    /// Its labels, from the outermost, each with every value.
    pub labels: &'static [(&'static str, &'static [&'static str])],
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $field:ident: $kind:ty = $name:literal;)+) => {
        /// The handles of every metric.
        pub struct Metrics {
            $($(#[doc = $doc])+ pub $field: $kind,)+
        }

        /// The inventory.
        pub const ALL: &[Described] = &[$(Described {
            name: $name,
            help: concat!($($doc),+).trim_ascii(),
            kind: <$kind as Instrument>::KIND,
            labels: <$kind as Instrument>::LABELS,
        },)+];

        impl Metrics {
            fn register(registry: &mut Registry) -> Self {
                let all = Self { $($field: <$kind>::default(),)+ };
                $(register(registry, $name, concat!($($doc),+), all.$field.clone());)+
                all
            }
        }
    };
}

/// The library writes the end of a counter's name, and the full stop behind the help, by itself.
fn register(registry: &mut Registry, name: &str, help: &str, metric: impl Instrument) {
    let name = name.strip_suffix("_total").unwrap_or(name);
    registry.register(name, help.trim().trim_end_matches('.'), metric);
}

metrics! {
    /// The version that runs: 1 for it.
    build_info: Family<Build, Gauge> = "taskflow_build_info";
    /// Whether this node takes clients, as /health/ready says: 1 or 0.
    ready: Gauge = "taskflow_ready";
    /// Connections that are open, by kind: WebSockets; event streams and long-polls.
    connections: Family<ConnectionKind, Gauge> = "taskflow_connections";
    /// Sessions: users who have a WebSocket here.
    sessions: Gauge = "taskflow_sessions";
    /// Events on their way to sessions: connections that come, go, follow or bring another token, and sign-outs.
    session_events_waiting: Gauge = "taskflow_session_events_waiting";
    /// Feeds that are followed here: one for each user with a connection, nearly always.
    feeds_followed: Gauge = "taskflow_feeds_followed";
    /// Whether this node stops: 1 from the signal on, 0 before.
    draining: Gauge = "taskflow_draining";
    /// Connections that were sent to other nodes because this one stops, by kind.
    drained: Family<ConnectionKind> = "taskflow_drained_total";
    /// WebSockets that were cut because they were still there when the time for stopping was over, or when this node was told to stop a second time.
    drain_cut: Counter = "taskflow_drain_cut_total";
    /// Handshakes under way.
    handshakes_pending: Gauge = "taskflow_handshakes_pending";
    /// WebSocket handshakes, by outcome.
    handshakes: Family<Handshake> = "taskflow_handshakes_total";
    /// Seconds from a WebSocket handshake until it was answered, whatever the answer.
    handshake_duration: Histogram = "taskflow_handshake_duration_seconds";
    /// Seconds from a client's hello until it was welcomed or refused.
    hello_duration: Family<HelloOutcome, Histogram> = "taskflow_hello_duration_seconds";
    /// Seconds from a client's wish to follow a feed until it heard from where on it does, or that it does not; for a reset, its turn among the snapshots included.
    follow_duration: Family<FollowOutcome, Histogram> = "taskflow_follow_duration_seconds";
    /// Frames that were put into the queues of connections.
    pushes: Counter = "taskflow_pushes_total";
    /// Bytes of those frames.
    push_bytes: Counter = "taskflow_push_bytes_total";
    /// Seconds from when this node knew of a commit until its frame was given to the kernel, or put into the queue of a client that reads slowly; one for each push.
    push_duration: Histogram = "taskflow_push_duration_seconds";
    /// Messages that came from clients over WebSockets, by kind.
    messages_received: Family<MessageKind> = "taskflow_messages_received_total";
    /// Bytes that wait in the queues of all connections.
    queue_bytes: Gauge = "taskflow_queue_bytes";
    /// Publications that wait for the worker for which the most do; 16,384 at most, beyond it they are dropped and its followers read the log.
    publications_waiting: Gauge = "taskflow_publications_waiting";
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
    /// Bytes of commits that are durable and not yet in their place; a start after a crash reads them back.
    store_tail_bytes: Gauge = "taskflow_store_tail_bytes";
    /// Bytes of the embedded store's files: the database and its write-ahead log. With store = cql, 0.
    store_bytes: Gauge = "taskflow_store_bytes";
    /// Bytes of the embedded store's write-ahead log.
    store_wal_bytes: Gauge = "taskflow_store_wal_bytes";
    /// Bytes that are free where the store is.
    store_bytes_free: Gauge = "taskflow_store_bytes_free";
    /// Appends and other writes that wait for the embedded store; 65,536 at most, beyond it they are refused. With store = cql, 0.
    store_writes_waiting: Gauge = "taskflow_store_writes_waiting";
    /// Bytes of those; 64 MiB at most.
    store_bytes_waiting: Gauge = "taskflow_store_bytes_waiting";
    /// Reads that wait for the embedded store; 65,536 at most, beyond it they are refused. With store = cql, 0.
    store_reads_waiting: Gauge = "taskflow_store_reads_waiting";
    /// Reads, appends and writes that the store failed.
    store_errors: Counter = "taskflow_store_errors_total";

    /// Feeds that are in memory.
    feeds_running: Gauge = "taskflow_feeds_running";
    /// Feeds that were brought into memory.
    feed_starts: Counter = "taskflow_feed_starts_total";
    /// Feeds that the supervisor is to start.
    feed_starts_waiting: Gauge = "taskflow_feed_starts_waiting";
    /// Feeds that left memory because nobody used them.
    feed_stops: Counter = "taskflow_feed_stops_total";
    /// Feeds that failed and were started again.
    feed_panics: Counter = "taskflow_feed_panics_total";
    /// Seconds from when a feed was given operations until it had their results.
    operation_duration: Histogram = "taskflow_operation_duration_seconds";
    /// Operations at the feeds of this node that are not answered yet.
    feed_operations_waiting: Gauge = "taskflow_feed_operations_waiting";
    /// The same at the feed that has the most of them; 256 at most, beyond it they are refused.
    feed_operations_waiting_max: Gauge = "taskflow_feed_operations_waiting_max";
    /// Accounts that were deleted, with everything that was theirs.
    accounts_deleted: Counter = "taskflow_accounts_deleted_total";
    /// HTTP connections that are open, without those that became WebSockets; 16,384 at most (fewer where few files may be open), beyond it they wait to be accepted.
    http_connections: Gauge = "taskflow_http_connections";
    /// HTTP connections that were closed because they had kept the server waiting while there were too many of them, or had taken nothing of an answer for 30 s.
    http_idle_closed: Counter = "taskflow_http_idle_closed_total";
    /// Operations that were answered, by outcome.
    operations: Family<OperationOutcome> = "taskflow_operations_total";
    /// Operations that feeds refused, by whose fault it is: the client's (codes with a status of 4xx) or the server's (5xx).
    operation_refusals: Family<Fault> = "taskflow_operation_refusals_total";

    /// Appends that found another head: another node had written to the feed.
    append_conflicts: Counter = "taskflow_append_conflicts_total";
    /// Reads that were sent to another replica as well, because no answer came.
    cql_speculations: Counter = "taskflow_cql_speculations_total";
    /// Seconds that a request to the database took, by what was asked.
    cql_request_duration: Family<CqlRequest, Histogram> = "taskflow_cql_request_duration_seconds";
    /// Requests to the database under way; cql_requests_max at most. With store = embedded, 0.
    cql_requests_running: Gauge = "taskflow_cql_requests_running";
    /// Requests to the database that wait until others have ended.
    cql_requests_waiting: Gauge = "taskflow_cql_requests_waiting";
    /// Feeds that are being read whole from the database; 8 at most.
    cql_loads_running: Gauge = "taskflow_cql_loads_running";
    /// Feeds that wait for that.
    cql_loads_waiting: Gauge = "taskflow_cql_loads_waiting";
    /// Requests to the database that failed, by class.
    cql_errors: Family<CqlError> = "taskflow_cql_errors_total";
    /// Appends of which the database did not say what became of them; they were read back.
    cql_unknown: Counter = "taskflow_cql_unknown_appends_total";
    /// Requests that were sent again because they had certainly not been sent.
    cql_retries: Counter = "taskflow_cql_retries_total";
    /// Requests that were not, because too many had been already.
    cql_retries_refused: Counter = "taskflow_cql_retries_refused_total";

    /// Whether there is a Redis in the settings: 1 or 0.
    bus_configured: Gauge = "taskflow_bus_configured";
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
    /// Messages that wait to be sent over Redis; 16,384 at most, beyond it they are dropped.
    bus_waiting: Gauge = "taskflow_bus_waiting";
    /// Bytes of those; 64 MiB at most.
    bus_bytes_waiting: Gauge = "taskflow_bus_bytes_waiting";
    /// Seconds from the sending of a message to its arrival here, by the clock of Redis.
    bus_lag: Histogram = "taskflow_bus_lag_duration_seconds";
    /// Seconds that a message of this node to itself took.
    bus_canary: Histogram = "taskflow_bus_canary_duration_seconds";
    /// Seconds by which this node's clock is ahead of that of Redis; behind it, below 0.
    clock_ahead: Gauge = "taskflow_clock_ahead_seconds";
    /// Sign-outs that have not come back to this node over Redis, and are told again until they have; 10,000 at most, beyond it the oldest are dropped.
    sign_outs_waiting: Gauge = "taskflow_sign_outs_waiting";
    /// Rounds in which the sign-ins of all open connections were looked up, because messages about them may have been missed.
    sign_in_rounds: Counter = "taskflow_sign_in_rounds_total";
    /// Attempts to sign in on other nodes that were counted here as well.
    sign_in_attempts_heard: Counter = "taskflow_sign_in_attempts_heard_total";
    /// Channels that this node is subscribed to: one for each feed that is followed here, and that of all nodes.
    bus_subscriptions: Gauge = "taskflow_bus_subscriptions";
    /// Nodes of the cluster that this node knows of, itself included. While Redis is away, and without Redis in the settings, 0.
    cluster_members: Gauge = "taskflow_cluster_members";
    /// Changes of the members: nodes that came or went.
    cluster_changes: Counter = "taskflow_cluster_changes_total";
    /// Requests sent to the node that hosts the feed, repeats included.
    cluster_forwards: Counter = "taskflow_cluster_forwards_total";
    /// Operations for feeds that other nodes host that are not answered yet; 65,536 at most, beyond it they are refused.
    cluster_operations_waiting: Gauge = "taskflow_cluster_operations_waiting";
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
    /// Snapshots and exports under way; 8 at most, the others wait.
    snapshots_running: Gauge = "taskflow_snapshots_running";

    /// When the certificate for TLS on this node ends, in seconds since 1970. Without TLS here, 0.
    certificate_expires: Gauge = "taskflow_certificate_expires_timestamp_seconds";
    /// HTTP requests, by the first part of the path and by class of the answer's status.
    http_requests: Table<Route, StatusClass> = "taskflow_http_requests_total";
    /// Seconds from the head of an HTTP request to the head of its answer, by the first part of the path.
    http_request_duration: Family<Route, Histogram> = "taskflow_http_request_duration_seconds";
    /// Seconds by which a timer of a thread rang too late: for so long the thread had been busy with something else.
    thread_delay: Family<Thread, Histogram> = "taskflow_thread_delay_duration_seconds";
    /// Steps of traced requests (spans), by what became of them: what is not sent was dropped. Without otlp_endpoint, 0.
    spans: Family<SpanOutcome> = "taskflow_spans_total";
    /// Steps of traced requests that wait for the collector; 4,096 at most, beyond it they are dropped.
    spans_waiting: Gauge = "taskflow_spans_waiting";
    /// How hard this node is pressed: 0 not at all; 1 to 3, from which on it does less, as docs/operations.md says.
    overload: Gauge = "taskflow_overload";
    /// Operations by WebSocket that are under way for feeds of this node: from their message to their answer.
    socket_operations: Gauge = "taskflow_socket_operations";
    /// How many of them may be under way before some are refused: what is done in half a second. 0: there are not too many.
    socket_operations_max: Gauge = "taskflow_socket_operations_max";
    /// What was not done because the node was pressed too hard, by what it was.
    shed: Family<Shed> = "taskflow_shed_total";
    /// Bytes of memory that this node may have: of memory_bytes_max, its control group or the machine.
    memory_bytes_max: Gauge = "taskflow_memory_bytes_max";
    /// Tokens that came with requests and handshakes, by whether they had been checked before.
    token_lookups: Family<Lookup> = "taskflow_token_lookups_total";
    /// Passwords that are being hashed or checked; 2 at most, each on a core.
    passwords_running: Gauge = "taskflow_passwords_running";
    /// Passwords that wait for that; 64 at most.
    passwords_waiting: Gauge = "taskflow_passwords_waiting";
    /// Requests, handshakes and operations beyond a limit, by what is limited. With rate_limits = count they went on.
    limited: Family<Limited> = "taskflow_limited_total";
    /// Users, addresses and sign-ins whose rate is counted: those who asked in the last ten seconds.
    rates_counted: Gauge = "taskflow_rates_counted";
    /// Addresses and accounts whose attempts to sign in are counted; 100,000 at most, beyond it those are forgotten whose last attempt is the oldest.
    sign_in_attempts_counted: Gauge = "taskflow_sign_in_attempts_counted";
    /// Attempts to register, sign in or refresh, by outcome.
    sign_ins: Family<SignInOutcome> = "taskflow_sign_ins_total";
    /// Letters to the owners of accounts, by what became of them.
    letters: Family<LetterOutcome> = "taskflow_letters_total";
    /// Letters that are being sent, or wait for another try; 256 at most, beyond it they are dropped.
    letters_waiting: Gauge = "taskflow_letters_waiting";
    /// Reports of errors to Sentry, by what became of them; one may stand for many of the same error.
    error_reports: Family<ReportOutcome> = "taskflow_error_reports_total";
    /// Different errors that are still to be told to Sentry; 64 at most, beyond it they are dropped.
    error_reports_waiting: Gauge = "taskflow_error_reports_waiting";

    /// Users who changed something for the first time on a day (UTC): its increase over a day is how many were active.
    users_active: Counter = "taskflow_users_active_total";
    /// Tasks that were made.
    tasks_created: Counter = "taskflow_tasks_created_total";
    /// Tasks that became done.
    tasks_completed: Counter = "taskflow_tasks_completed_total";
}

impl Route {
    /// Whose path this is.
    pub fn of(path: &str) -> Self {
        let Some(rest) = path.strip_prefix("/api/v1/") else {
            return Self::Other;
        };
        match rest.split('/').next().unwrap_or_default() {
            "auth" => Self::Auth,
            "tasks" => Self::Tasks,
            "lists" => Self::Lists,
            "labels" => Self::Labels,
            "settings" => Self::Settings,
            "operations" => Self::Operations,
            "changes" => Self::Changes,
            "events" => Self::Events,
            "snapshot" => Self::Snapshot,
            "statistics" | "activity" => Self::Statistics,
            "export" => Self::Export,
            "sessions" | "tokens" | "history" => Self::Account,
            _ => Self::Other,
        }
    }
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
    registry: Arc<Registry>,
    looks: Arc<Mutex<Vec<Look>>>,
}

/// Sets gauges.
type Look = Box<dyn Fn(&Metrics) + Send + Sync>;

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

impl Telemetry {
    /// Registers every metric in a registry of its own: nothing global, so tests do not see each other's figures.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = Arc::new(Metrics::register(&mut registry));
        registry.register_collector(Box::new(Process));
        Self {
            metrics,
            registry: Arc::new(registry),
            looks: Arc::default(),
        }
    }

    /// Has gauges set at each scrape, and never else.
    pub fn at_scrape(&self, look: impl Fn(&Metrics) + Send + Sync + 'static) {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.push(Box::new(look));
    }

    /// All metrics in the Prometheus text format (0.0.4).
    pub fn render(&self) -> String {
        for look in &*self.looks.lock().unwrap_or_else(PoisonError::into_inner) {
            look(&self.metrics);
        }
        let mut text = String::new();
        if let Err(error) = prometheus_text::encode(&mut text, &self.registry) {
            // A collector cannot fail, nor can writing into memory; what is there is better than nothing.
            let _ = writeln!(text, "# {error}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_scrape_has_every_metric_at_zero_with_its_help() {
        let scrape = Telemetry::new().render();
        for Described { name, help, kind, .. } in ALL {
            assert!(scrape.contains(&format!("# HELP {name} {help}\n")), "{name}: {scrape}");
            assert!(scrape.contains(&format!("# TYPE {name} {kind}\n")), "{name}: {scrape}");
        }
        let samples: Vec<&str> = scrape.lines().filter(|line| line.starts_with("taskflow_")).collect();
        for sample in &samples {
            assert!(sample.ends_with(" 0") || sample.ends_with(" 0.0"), "{sample}");
        }
        for expected in [
            "taskflow_evictions_total{reason=\"too_slow\"} 0",
            "taskflow_http_requests_total{route=\"tasks\",class=\"5xx\"} 0",
            "taskflow_fsync_duration_seconds_bucket{le=\"0.001\"} 0",
            "taskflow_fsync_duration_seconds_count 0",
        ] {
            assert!(samples.contains(&expected), "{expected} is not in {scrape}");
        }
    }

    #[test]
    fn names_follow_the_rule_and_occur_once() {
        let mut names: Vec<&str> = ALL.iter().map(|metric| metric.name).collect();
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
    fn a_refusal_is_the_fault_of_whoever_can_do_something_about_it() {
        use taskflow_protocol::Code;
        for code in [Code::RowNotFound, Code::ValueTooLong, Code::LimitReached] {
            assert_eq!(Fault::from(code), Fault::Client, "{code}");
        }
        for code in [Code::StoreFull, Code::RowDamaged, Code::FeedOverloaded] {
            assert_eq!(Fault::from(code), Fault::Server, "{code}");
        }
    }

    #[test]
    fn what_is_counted_is_scraped() {
        let telemetry = Telemetry::new();
        telemetry.metrics.operations.of(OperationOutcome::Conflict).inc_by(2);
        telemetry.metrics.fsync_duration.observe(Duration::from_micros(700));
        telemetry
            .metrics
            .http_requests
            .of(Route::of("/api/v1/tasks/1"), StatusClass::of(404))
            .inc();
        let scrape = telemetry.render();
        for expected in [
            "taskflow_operations_total{outcome=\"conflict\"} 2\n",
            "taskflow_fsync_duration_seconds_bucket{le=\"0.0005\"} 0\n",
            "taskflow_fsync_duration_seconds_bucket{le=\"0.001\"} 1\n",
            "taskflow_http_requests_total{route=\"tasks\",class=\"4xx\"} 1\n",
        ] {
            assert!(scrape.contains(expected), "{expected} is not in {scrape}");
        }
    }
}
