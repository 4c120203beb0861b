//! Every limit, with its unit and its reason. They chain: a batch fits in a log row, a log row in a frame, a frame in an
//! outbound queue.

/// Largest message from a client, in bytes, after its fragments are joined.
///
/// 256 KiB hold a note of the greatest length several times over, and a full message of ordinary operations. It stops a
/// client from making the server hold megabytes before it can say no.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// Largest single WebSocket frame from a client, in bytes: a message may come in one frame.
pub const FRAME_BYTES_MAX: usize = MESSAGE_BYTES_MAX;

/// Fragments of one message. A message of the greatest size in frames of an Ethernet packet is about 180; the limit stops
/// a client from costing one wake-up a byte.
pub const FRAGMENTS_MAX: usize = 4096;

/// Deepest nesting of a document, in arrays and maps within each other, in both encodings.
///
/// The deepest that the protocol has is a batch with a due date in it: 12. Reading is recursive, so that a limit keeps a
/// small message from a big stack.
pub const NESTING_MAX: usize = 32;

/// What an error quotes of a bad document, in bytes: enough to find the place, and no echo of a large message.
pub const ERROR_DETAIL_BYTES_MAX: usize = 200;

/// Operations in one message. A hundred are what Todoist takes in one request; they are judged together.
pub const OPERATIONS_A_MESSAGE_MAX: usize = 100;

/// Commands in one batch: as many as operations in one message.
pub const COMMANDS_A_BATCH_MAX: usize = 100;

/// Largest body of one log row (a commit), in bytes.
///
/// 1 MiB holds 256 waiting operations of ordinary size. A commit takes what fits and leaves the rest for the next one; an
/// operation that alone does not fit is refused (`batch_too_large`). CQL stores carry 16 MB at most, 1 MB well.
pub const COMMIT_BYTES_MAX: usize = 1024 * 1024;

/// Operations that a feed holds that the store has not confirmed.
///
/// 256 of about 400 bytes are 100 KiB a feed, and as much as one commit should carry: together they go in the next one.
/// Beyond it the feed refuses (`feed_overloaded`) rather than grow.
pub const FEED_UNSAVED_OPERATIONS_MAX: usize = 256;

/// Title of a task, in bytes of UTF-8: two lines of text on a wide screen.
pub const TITLE_BYTES_MAX: usize = 2_000;
/// Notes of a task, in bytes of UTF-8: some ten pages.
pub const NOTES_BYTES_MAX: usize = 50_000;
/// Name of a list or label, in bytes of UTF-8: what fits on one line.
pub const NAME_BYTES_MAX: usize = 250;
/// Labels of one task: more than anyone can take in.
pub const LABELS_A_TASK_MAX: usize = 50;
/// Levels of subtasks. Moving a task walks them up; deeper trees cannot be shown.
pub const PARENT_DEPTH_MAX: usize = 8;
/// Duration of a task in minutes: one year.
pub const DURATION_MINUTES_MAX: u32 = 366 * 24 * 60;
/// A rank, in bytes. Inserting at one spot adds a byte every few dozen insertions; longer means somebody plays.
pub const RANK_BYTES_MAX: usize = 200;
/// Time zone or locale names, in bytes: the longest zone name has 32.
pub const ZONE_BYTES_MAX: usize = 64;

/// Tasks of a feed that are not deleted, the done ones included.
///
/// Loading them must be milliseconds (about 4 µs a task) and a partition must stay under 100,000 rows.
pub const TASKS_A_FEED_MAX: usize = 50_000;
/// Lists of a feed that are not deleted.
pub const LISTS_A_FEED_MAX: usize = 500;
/// Labels of a feed that are not deleted.
pub const LABELS_A_FEED_MAX: usize = 500;
/// Rows of a feed, those in the bin included.
///
/// Nearly as many in the bin as outside it: whoever creates and deletes for ever is stopped before a partition has
/// 100,000 rows.
pub const ROWS_A_FEED_MAX: usize = 95_000;

/// Feeds that one connection follows: one's own and those of lists shared by others.
pub const FOLLOWS_A_CONNECTION_MAX: usize = 64;

/// Bytes that wait for one connection. One snapshot piece and a second of a busy feed fit many times; a peer that does
/// not read is cut here (`too_slow`) and catches up from the log.
pub const OUTBOUND_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes that wait for all connections together; beyond it the connection with the most is cut (`too_slow`).
pub const OUTBOUND_BYTES_TOTAL_MAX: usize = 1024 * 1024 * 1024;
/// Rows in one piece of a snapshot: about 50 KiB, so that other traffic of the connection gets between.
pub const SNAPSHOT_PIECE_ROWS: usize = 200;
/// Bytes of log bodies that one read of a catching-up follower takes at most; it reads again until it is current.
pub const CATCH_UP_BYTES: usize = 512 * 1024;

/// Connections of one user, on all nodes. Five devices with a dozen tabs each; load tools raise it by configuration.
pub const CONNECTIONS_A_USER_MAX: usize = 64;
/// Bytes a second that one connection sends for long: 500 operations a second with notes of 2 KB. An import sends less.
pub const SOCKET_BYTES_A_SECOND_MAX: u32 = 1024 * 1024;
/// Handshakes under way at once. Each holds two 8 KiB buffers; 512 at a time cost no speed when 10,000 clients return.
pub const HANDSHAKES_MAX: usize = 512;
/// HTTP connections that may wait for their clients: for a request, the rest of one or its body. Each holds two 8 KiB buffers, so
/// these are 64 MiB. Of what is beyond, whoever has sent nothing whole for longest is closed, after a second at least.
/// At most an eighth of the files that the process may open.
pub const HTTP_CONNECTIONS_MAX: usize = 4096;
/// HTTP connections that are accepted, busy or not: those that may wait, and whoever comes in the second in which they are closed.
/// Who comes beyond waits to be accepted. At most half of the files that the process may open.
pub const HTTP_ACCEPTED_MAX: usize = 16_384;
/// Milliseconds that the body of a request may take: the largest at 9 KB a second. Meanwhile it costs up to 400 KiB.
pub const BODY_TIMEOUT_MS: u64 = 30_000;
/// Bytes of a body that comes without an access token: an e-mail address, a password and a zone fit many times.
pub const SIGN_IN_BYTES_MAX: usize = 8 * 1024;
/// Milliseconds between connecting and `hello`.
pub const HELLO_TIMEOUT_MS: u64 = 10_000;
/// Milliseconds between heartbeats. Proxies cut silent connections after 30 or 60 seconds.
pub const HEARTBEAT_MS: u64 = 25_000;
/// Milliseconds without a byte from the client after which it is gone: two heartbeats, and half a one for the way.
pub const HEARTBEAT_TIMEOUT_MS: u64 = heartbeat_timeout_ms(HEARTBEAT_MS);

/// [`HEARTBEAT_TIMEOUT_MS`] for a heartbeat that an operator has set otherwise.
pub const fn heartbeat_timeout_ms(heartbeat_ms: u64) -> u64 {
    heartbeat_ms * 5 / 2
}

/// Longest wait of a long-poll, in seconds: shorter than the idle time-out of common proxies.
pub const LONG_POLL_SECONDS_MAX: u64 = 55;
/// Tokens that a connection may bring in `refresh` within a minute.
///
/// A client brings one for each token, and a token lives ten seconds at least; the rest is for repeats. Each costs the
/// check of a signature, some 50 µs: 60 are 3 ms a minute, where a flood would be a core.
pub const REFRESHES_A_MINUTE_MAX: u32 = 60;
/// Length of an access token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 4096;
/// Length of the client's name in hello, in bytes.
pub const CLIENT_NAME_BYTES_MAX: usize = 100;
/// Sign-ins, registrations and changes of password that one address, and one account, may try within
/// [`SIGN_IN_WINDOW_MS`]: ten times what people need who do not know which of their passwords it is, and 2,000 a day for who
/// guesses.
pub const SIGN_IN_ATTEMPTS_MAX: usize = 20;
/// See [`SIGN_IN_ATTEMPTS_MAX`]: 15 minutes, in milliseconds.
pub const SIGN_IN_WINDOW_MS: i64 = 15 * 60 * 1000;
/// Sign-ins of one user: more than anybody has devices. Beyond it the one that was not used for longest is ended.
pub const SIGN_INS_A_USER_MAX: usize = 100;
/// Personal access tokens of one user: a script each, and then some.
pub const TOKENS_A_USER_MAX: usize = 50;
/// Days that a personal access token may be good for: a year. What is forgotten ends by itself.
pub const TOKEN_DAYS_MAX: u32 = 366;
/// Length of a device's name, in bytes.
pub const DEVICE_NAME_BYTES_MAX: usize = 100;
/// Days of activity in one answer: a year on a chart.
pub const ACTIVITY_DAYS_MAX: i32 = 366;
/// A filter, in bytes: a dozen conditions with names of lists and labels.
pub const FILTER_BYTES_MAX: usize = 1_000;
/// Deepest nesting of a filter, in brackets and negations. Reading is recursive.
pub const FILTER_NESTING_MAX: usize = 16;
/// Conditions of a filter, each bare word counted. One letter may begin a fifth of all words of a feed: fifty such are
/// milliseconds on the thread that other feeds share.
pub const FILTER_CONDITIONS_MAX: usize = 50;
/// Words of a search: more than anybody remembers of a task. Each costs what a condition of a filter does.
pub const SEARCH_WORDS_MAX: usize = 20;
/// What tasks are sorted by of their title, in bytes. It stands in page tokens, which stand in addresses; titles that are the
/// same that far are in the order of their ids.
pub const SORT_TITLE_BYTES_MAX: usize = 200;
/// Text to search for, in bytes: longer than a title that somebody remembers.
pub const SEARCH_BYTES_MAX: usize = 500;
/// Different words of one task that a search finds it by, the first ones: those of ten pages. What is indexed takes
/// several times the memory of the text, which this bounds.
pub const WORDS_A_TASK_MAX: usize = 2_000;
/// Fields that a page is sorted by. A third one decides nearly never.
pub const SORT_FIELDS_MAX: usize = 3;
/// Items on one page of a REST answer.
pub const PAGE_ITEMS_MAX: usize = 500;

/// Milliseconds for which operation ids are remembered: 24 hours.
pub const OPERATION_IDS_KEPT_MS: i64 = 24 * 60 * 60 * 1000;
/// Days that the log is kept. The last 24 hours are always kept, because operation ids are read from there.
pub const LOG_KEPT_MS: i64 = 90 * 24 * 60 * 60 * 1000;
/// Commits that the log of one feed keeps.
pub const LOG_KEPT_COMMITS: u64 = 50_000;
/// Bytes that the log of one feed keeps.
pub const LOG_KEPT_BYTES: u64 = 50_000_000;
