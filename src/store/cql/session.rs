//! The driver: its settings, the prepared statements, and what its errors mean.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session as Driver;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{DbError, ExecutionError, NewSessionError, PrepareError, RequestAttemptError, UseKeyspaceError};
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::policies::retry::{DefaultRetryPolicy, FallthroughRetryPolicy};
use scylla::policies::speculative_execution::{Context, SpeculativeExecutionPolicy};
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{CqlObserver, OpenError, Options, Used};
use crate::telemetry::metrics::{CqlError, CqlRequest};

/// How often a silent connection is asked whether it is there, and how long it may take to say so. With the driver's 30 s
/// a node that hangs (and is not dead) stalls everything that runs into it; below 1 s a busy node is cut.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A read that was not answered by then is sent to another replica as well, twice at most.
const SPECULATE_AFTER: Duration = Duration::from_millis(100);

/// The same for a read that settles what is under way: two of those at once compete, so a second one is sent only where
/// the first is as good as lost, and once.
const SPECULATE_SERIAL_AFTER: Duration = Duration::from_millis(700);

/// How long a statement about the schema may take: a table on a fresh node takes two seconds.
const SCHEMA_TIMEOUT: Duration = Duration::from_secs(20);

/// How often a request that was certainly not sent is tried again, and how long after the first time.
const RETRIES: u32 = 3;
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Of a hundred requests ten may be sent again, or to another replica as well, and so many at once before that: a database
/// that refuses everything, or has more to do than it can, is not asked three times as often.
const AGAIN_PERCENT: i64 = 10;
const AGAIN_AT_ONCE: i64 = 100;

/// How many requests may be sent again now, in hundredths.
#[derive(Debug)]
struct Budget(AtomicI64);

impl Budget {
    fn full() -> Self {
        Self(AtomicI64::new(AGAIN_AT_ONCE * 100))
    }

    /// A request was sent for the first time.
    fn earn(&self) {
        // A little more or less than full, by those who do the same at once, is nothing.
        if self.0.load(Ordering::Relaxed) < AGAIN_AT_ONCE * 100 {
            self.0.fetch_add(AGAIN_PERCENT, Ordering::Relaxed);
        }
    }

    /// Whether one may be sent again; it counts.
    fn spend(&self) -> bool {
        let spent = |left: i64| (left >= 100).then_some(left - 100);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent).is_ok()
    }

    /// Whether one that begins now may be sent again if it comes to that.
    fn may(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= 100
    }

    /// One was. Those that began together may owe more than there was: then nobody may until it is earned.
    fn owe(&self) {
        self.0.fetch_sub(100, Ordering::Relaxed);
    }
}

/// A read whose answer does not come is sent to another replica too, within the budget.
#[derive(Clone, Copy, Debug)]
struct Speculation {
    after: Duration,
    times: u32,
}

#[derive(Debug)]
struct Speculate {
    how: Speculation,
    budget: Arc<Budget>,
}

impl SpeculativeExecutionPolicy for Speculate {
    fn max_retry_count(&self, _: &Context) -> usize {
        if self.budget.may() { self.how.times as usize } else { 0 }
    }

    fn retry_interval(&self, _: &Context) -> Duration {
        self.how.after
    }
}

/// Places for those who do something at once; who finds none waits.
pub(super) struct Places {
    free: Semaphore,
    all: usize,
    waiting: AtomicUsize,
}

/// Somebody waits for a place.
struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Places {
    pub(super) fn new(all: usize) -> Self {
        Self {
            free: Semaphore::new(all),
            all,
            waiting: AtomicUsize::new(0),
        }
    }

    /// A place; `None`: there was none within that time.
    ///
    /// # Cancel safety
    ///
    /// Whoever waits no more has no place, and is not counted.
    async fn take(&self, patience: Duration) -> Option<SemaphorePermit<'_>> {
        // Who waits comes first: there is no free place for others meanwhile.
        if let Ok(place) = self.free.try_acquire() {
            return Some(place);
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waits = Waits(&self.waiting);
        let place = tokio::time::timeout(patience, self.free.acquire()).await;
        place.ok()?.ok()
    }

    /// How many have a place, and how many wait for one.
    pub(super) fn used(&self) -> Used {
        Used {
            running: self.all - self.free.available_permits(),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }
}

/// A statement, and what is counted as it.
pub(super) struct Statement {
    pub prepared: PreparedStatement,
    request: CqlRequest,
    speculation: Option<Speculation>,
}

/// The statements. Each is prepared once, with the consistency that it needs.
pub(super) struct Statements {
    pub birth: Statement,
    pub append: Statement,
    pub head: Statement,
    pub head_serial: Statement,
    pub log: Statement,
    pub log_serial: Statement,
    pub log_back: Statement,
    pub log_back_serial: Statement,
    pub log_sizes: Statement,
    pub cut_first: Statement,
    pub cut_rows: Statement,
    pub archive: Statement,
    pub read_archive: Statement,
    pub row: Statement,
    pub rows_upto: Statement,
    pub read_rows: Statement,
    pub write_activity: Statement,
    pub read_activity: Statement,
    pub read_rows_upto: Statement,
    pub account_insert: Statement,
    pub account: Statement,
    pub sign_in_insert: Statement,
    pub sign_in: Statement,
    pub sign_in_replace: Statement,
    pub sign_in_delete: Statement,
    pub password_replace: Statement,
    pub device_insert: Statement,
    pub device_seen: Statement,
    pub devices: Statement,
    pub device_delete: Statement,
    pub remove_log: Statement,
    pub remove_rows: Statement,
    pub remove_activity: Statement,
    pub remove_archive: Statement,
    pub account_claim: Statement,
    pub claim_renew: Statement,
    pub claim_undo: Statement,
    pub account_move: Statement,
    pub claim_settle: Statement,
    pub moved_delete: Statement,
    pub deletion_set: Statement,
    pub account_delete: Statement,
    pub deletion_insert: Statement,
    pub deletion_delete: Statement,
    pub deletions: Statement,
    pub note: Statement,
    pub history: Statement,
    pub history_delete: Statement,
    pub devices_delete: Statement,
}

/// A session, its statements, and the bound of what is under way.
pub(super) struct Session {
    pub driver: Driver,
    /// `None` until the schema is there.
    statements: Option<Statements>,
    pub places: Places,
    retries: Budget,
    speculations: Arc<Budget>,
    patience: Duration,
    observer: Arc<dyn CqlObserver>,
}

/// Why a request has no result.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Failed {
    /// It was not sent, and has done nothing.
    #[error("{0}")]
    NotSent(String),
    /// It may have been done.
    #[error("{0}")]
    Unknown(String),
}

/// Rows of a page of the log: small enough that commits of the greatest size, 1 MiB, are no more than 64 MiB together.
const LOG_PAGE_ROWS: i32 = 64;
/// Rows of a page of anything small.
const PAGE_ROWS: i32 = 2_000;

pub(super) async fn connect(options: &Options) -> Result<Driver, OpenError> {
    let mut policy = DefaultPolicy::builder().token_aware(true).permit_dc_failover(false);
    policy = match (&options.datacenter, &options.rack) {
        (Some(datacenter), Some(rack)) => policy.prefer_datacenter_and_rack(datacenter.clone(), rack.clone()),
        (Some(datacenter), None) => policy.prefer_datacenter(datacenter.clone()),
        (None, _) => policy,
    };
    let profile = ExecutionProfile::builder()
        .consistency(Consistency::LocalQuorum)
        .serial_consistency(Some(SerialConsistency::LocalSerial))
        .load_balancing_policy(policy.build())
        .request_timeout(Some(SCHEMA_TIMEOUT))
        // An append that is sent twice competes with itself: what is not known is read back instead.
        .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&options.nodes)
        .default_execution_profile_handle(profile.into_handle())
        .connection_timeout(CONNECT_TIMEOUT)
        .keepalive_interval(KEEPALIVE)
        .keepalive_timeout(KEEPALIVE)
        .tcp_nodelay(true);
    if let Some((name, password)) = &options.login {
        builder = builder.user(name, password);
    }
    if let Some(path) = &options.tls_ca {
        let tls = tls(path).map_err(|cause| OpenError::Tls {
            path: path.clone(),
            cause,
        })?;
        builder = builder.tls_context(Some(tls));
    }
    let unreachable = |cause: String| OpenError::Unreachable {
        nodes: options.nodes.join(", "),
        cause,
    };
    // The driver tries for ever where a login is wrong.
    let connected = tokio::time::timeout(Duration::from_secs(15), builder.build());
    let driver = connected
        .await
        .map_err(|_| unreachable("no answer within 15 s".to_owned()))?
        .map_err(|error: NewSessionError| unreachable(error.to_string()))?;
    if let Some(named) = &options.datacenter {
        let state = driver.get_cluster_state();
        let mut found: Vec<String> = state
            .get_nodes_info()
            .iter()
            .filter_map(|node| node.datacenter.clone())
            .collect();
        found.sort();
        found.dedup();
        if !found.contains(named) {
            return Err(OpenError::Datacenter {
                named: named.clone(),
                found: found.join(", "),
            });
        }
    }
    Ok(driver)
}

fn tls(path: &std::path::Path) -> Result<Arc<rustls::ClientConfig>, String> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl Session {
    /// Connects to a keyspace that is there, without its statements.
    pub async fn bare(options: &Options, observer: Arc<dyn CqlObserver>) -> Result<Self, OpenError> {
        let driver = Box::pin(connect(options)).await?;
        // A database that is too busy to answer has not said that there is none.
        let why = |error| match error {
            UseKeyspaceError::BadKeyspaceName(_)
            | UseKeyspaceError::RequestError(RequestAttemptError::DbError(DbError::Invalid, _)) => {
                OpenError::Keyspace(options.keyspace.clone())
            }
            other => OpenError::Unreachable {
                nodes: options.nodes.join(", "),
                cause: other.to_string(),
            },
        };
        driver.use_keyspace(&options.keyspace, false).await.map_err(why)?;
        Ok(Self {
            driver,
            statements: None,
            places: Places::new(options.requests_max),
            retries: Budget::full(),
            speculations: Arc::new(Budget::full()),
            patience: options.append_timeout,
            observer,
        })
    }

    /// Connects, and prepares the statements.
    pub async fn open(options: &Options, observer: Arc<dyn CqlObserver>) -> Result<Self, OpenError> {
        let mut session = Box::pin(Self::bare(options, observer)).await?;
        super::migrate::check(&session).await?;
        session.statements = Some(Box::pin(session.prepare_all(options)).await?);
        Ok(session)
    }

    pub fn statements(&self) -> &Statements {
        self.statements
            .as_ref()
            .expect("a session that was opened has its statements")
    }

    async fn prepare(
        &self,
        statement: &str,
        options: &Options,
        request: CqlRequest,
        kind: Kind,
    ) -> Result<Statement, OpenError> {
        let mut prepared = self.driver.prepare(statement).await.map_err(|error| {
            let (what, cause) = (statement.to_owned(), error.to_string());
            match error {
                PrepareError::AllAttemptsFailed { first_attempt } if is_refusal(&first_attempt) => {
                    OpenError::Statement { what, cause }
                }
                _ => OpenError::Silent { what, cause },
            }
        })?;
        prepared.set_page_size(PAGE_ROWS);
        let mut speculation = None;
        match kind {
            Kind::Conditional => prepared.set_request_timeout(Some(options.append_timeout)),
            Kind::Serial | Kind::Read(_) => {
                let (consistency, times, after) = match kind {
                    Kind::Read(consistency) => (consistency, 2, SPECULATE_AFTER),
                    _ => (Consistency::LocalSerial, 1, SPECULATE_SERIAL_AFTER),
                };
                let how = Speculation { after, times };
                speculation = Some(how);
                let speculate = Speculate {
                    how,
                    budget: self.speculations.clone(),
                };
                let profile = self.driver.get_default_execution_profile_handle().to_profile();
                let profile = profile
                    .to_builder()
                    .retry_policy(Arc::new(DefaultRetryPolicy::new()))
                    .speculative_execution_policy(Some(Arc::new(speculate)))
                    .build();
                prepared.set_execution_profile_handle(Some(profile.into_handle()));
                prepared.set_consistency(consistency);
                prepared.set_is_idempotent(true);
                prepared.set_request_timeout(Some(options.read_timeout));
            }
            Kind::Write => {
                prepared.set_request_timeout(Some(options.append_timeout));
                prepared.set_is_idempotent(true);
                prepared.set_retry_policy(Some(Arc::new(DefaultRetryPolicy::new())));
            }
        }
        Ok(Statement {
            prepared,
            request,
            speculation,
        })
    }

    async fn prepare_all(&self, options: &Options) -> Result<Statements, OpenError> {
        const QUORUM: Kind = Kind::Read(Consistency::LocalQuorum);
        const COMMIT: &str =
            "SELECT last, base, append_id, time, body, head, epoch, first FROM feed_log WHERE user_id = ?";
        let forward = format!("{COMMIT} AND last > ?");
        let backward = format!("{COMMIT} ORDER BY last DESC");
        let head = "SELECT head, epoch, first FROM feed_log WHERE user_id = ? LIMIT 1";
        let prepare =
            |request, statement: String, kind| async move { self.prepare(&statement, options, request, kind).await };
        let mut statements = Statements {
            birth: prepare(
                CqlRequest::Append,
                "UPDATE feed_log SET head = ?, epoch = ?, first = 1, base = ?, append_id = ?, time = ?, bytes = ?, body = ? \
                 WHERE user_id = ? AND last = ? IF head = NULL"
                    .to_owned(),
                Kind::Conditional,
            )
            .await?,
            append: prepare(
                CqlRequest::Append,
                "UPDATE feed_log SET head = ?, base = ?, append_id = ?, time = ?, bytes = ?, body = ? \
                 WHERE user_id = ? AND last = ? IF head = ? AND epoch = ?"
                    .to_owned(),
                Kind::Conditional,
            )
            .await?,
            head: prepare(CqlRequest::Head, head.to_owned(), QUORUM).await?,
            head_serial: prepare(CqlRequest::Head, head.to_owned(), Kind::Serial).await?,
            log: prepare(CqlRequest::Log, forward.clone(), QUORUM).await?,
            log_serial: prepare(CqlRequest::Log, forward, Kind::Serial).await?,
            log_back: prepare(CqlRequest::Log, backward.clone(), QUORUM).await?,
            log_back_serial: prepare(CqlRequest::Log, backward, Kind::Serial).await?,
            log_sizes: prepare(
                CqlRequest::Trim,
                "SELECT last, time, bytes, first, epoch FROM feed_log WHERE user_id = ?".to_owned(),
                QUORUM,
            )
            .await?,
            cut_first: prepare(
                CqlRequest::Trim,
                "UPDATE feed_log SET first = ? WHERE user_id = ? IF first = ? AND epoch = ?".to_owned(),
                Kind::Conditional,
            )
            .await?,
            cut_rows: prepare(
                CqlRequest::Trim,
                "DELETE FROM feed_log WHERE user_id = ? AND last <= ?".to_owned(),
                Kind::Conditional,
            )
            .await?,
            archive: prepare(
                CqlRequest::Trim,
                "INSERT INTO feed_archive (user_id, month, last, epoch, base, append_id, time, body) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
                    .to_owned(),
                Kind::Write,
            )
            .await?,
            read_archive: prepare(
                CqlRequest::Trim,
                "SELECT last, append_id, time, body FROM feed_archive WHERE user_id = ? AND month = ?".to_owned(),
                QUORUM,
            )
            .await?,
            row: prepare(
                CqlRequest::WriteRows,
                "INSERT INTO feed_rows (user_id, kind, id, seq, body) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?".to_owned(),
                Kind::Write,
            )
            .await?,
            rows_upto: prepare(
                CqlRequest::WriteRows,
                "UPDATE feed_rows USING TIMESTAMP ? SET rows_upto = ? WHERE user_id = ?".to_owned(),
                Kind::Write,
            )
            .await?,
            read_rows: prepare(
                CqlRequest::Rows,
                "SELECT kind, id, seq, body, rows_upto FROM feed_rows WHERE user_id = ?".to_owned(),
                QUORUM,
            )
            .await?,
            write_activity: prepare(
                CqlRequest::WriteRows,
                "INSERT INTO feed_activity (user_id, month, quarter, seq, body) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?"
                    .to_owned(),
                Kind::Write,
            )
            .await?,
            read_activity: prepare(
                CqlRequest::Rows,
                "SELECT quarter, seq, body FROM feed_activity WHERE user_id = ? AND month = ? AND quarter >= ? AND \
                 quarter <= ?"
                    .to_owned(),
                QUORUM,
            )
            .await?,
            // One replica is enough: a value that is too low is safe wherever this is asked.
            read_rows_upto: prepare(
                CqlRequest::Head,
                "SELECT rows_upto FROM feed_rows WHERE user_id = ? LIMIT 1".to_owned(),
                Kind::Read(Consistency::LocalOne),
            )
            .await?,
            account_insert: prepare(
                CqlRequest::Account,
                "INSERT INTO accounts_by_email (email, user_id, password_hash, created_at) VALUES (?, ?, ?, ?) \
                 IF NOT EXISTS"
                    .to_owned(),
                Kind::Conditional,
            )
            .await?,
            account: prepare(
                CqlRequest::Account,
                "SELECT user_id, password_hash, created_at, deletes_at, moved_to, comes_from FROM accounts_by_email \
                 WHERE email = ?"
                    .to_owned(),
                Kind::Serial,
            )
            .await?,
            sign_in_insert: prepare(
                CqlRequest::Account,
                "INSERT INTO sign_ins (id, user_id, access, secret_hash, previous_hash, rotated_at, expires_at) \
                 VALUES (?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS USING TTL ?"
                    .to_owned(),
                Kind::Conditional,
            )
            .await?,
            sign_in: prepare(
                CqlRequest::Account,
                "SELECT user_id, access, secret_hash, previous_hash, rotated_at, expires_at FROM sign_ins WHERE id = ?".to_owned(),
                Kind::Serial,
            )
            .await?,
            sign_in_replace: prepare(
                CqlRequest::Account,
                "UPDATE sign_ins USING TTL ? SET user_id = ?, access = ?, secret_hash = ?, previous_hash = ?, rotated_at = ?, \
                 expires_at = ? WHERE id = ? IF secret_hash = ?"
                    .to_owned(),
                Kind::Conditional,
            )
            .await?,
            sign_in_delete: prepare(
                CqlRequest::Account,
                "DELETE FROM sign_ins WHERE id = ? IF user_id = ?".to_owned(),
                Kind::Conditional,
            )
            .await?,
            password_replace: prepare(
                CqlRequest::Account,
                "UPDATE accounts_by_email SET password_hash = ? WHERE email = ? IF password_hash = ?".to_owned(),
                Kind::Conditional,
            )
            .await?,
            device_insert: prepare(
                CqlRequest::Account,
                "INSERT INTO sign_ins_by_user (user_id, id, name, address, created_at) VALUES (?, ?, ?, ?, ?)".to_owned(),
                Kind::Write,
            )
            .await?,
            device_seen: prepare(
                CqlRequest::Account,
                "UPDATE sign_ins_by_user SET address = ? WHERE user_id = ? AND id = ?".to_owned(),
                Kind::Write,
            )
            .await?,
            devices: prepare(
                CqlRequest::Account,
                "SELECT id, name, address, created_at FROM sign_ins_by_user WHERE user_id = ?".to_owned(),
                QUORUM,
            )
            .await?,
            device_delete: prepare(
                CqlRequest::Account,
                "DELETE FROM sign_ins_by_user WHERE user_id = ? AND id = ?".to_owned(),
                Kind::Write,
            )
            .await?,
            remove_log: prepare(
                CqlRequest::Trim,
                "UPDATE feed_log SET head = ? WHERE user_id = ? IF head = ?".to_owned(),
                Kind::Conditional,
            )
            .await?,
            remove_rows: prepare(
                CqlRequest::Trim,
                "DELETE FROM feed_rows WHERE user_id = ?".to_owned(),
                Kind::Write,
            )
            .await?,
            remove_activity: prepare(
                CqlRequest::Trim,
                "DELETE FROM feed_activity WHERE user_id = ? AND month = ?".to_owned(),
                Kind::Write,
            )
            .await?,
            remove_archive: prepare(
                CqlRequest::Trim,
                "DELETE FROM feed_archive WHERE user_id = ? AND month = ?".to_owned(),
                Kind::Write,
            )
            .await?,
            account_claim: prepare(
                CqlRequest::Account,
                "INSERT INTO accounts_by_email (email, user_id, password_hash, created_at, comes_from) VALUES (?, ?, ?, ?, ?) \
                 IF NOT EXISTS".to_owned(),
                Kind::Conditional,
            )
            .await?,
            claim_renew: prepare(
                CqlRequest::Account,
                "UPDATE accounts_by_email SET password_hash = ? WHERE email = ? IF user_id = ? AND comes_from = ?".to_owned(),
                Kind::Conditional,
            )
            .await?,
            claim_undo: prepare(
                CqlRequest::Account,
                "DELETE FROM accounts_by_email WHERE email = ? IF user_id = ? AND comes_from = ?".to_owned(),
                Kind::Conditional,
            )
            .await?,
            account_move: prepare(
                CqlRequest::Account,
                "UPDATE accounts_by_email SET moved_to = ? WHERE email = ? IF user_id = ? AND password_hash = ? \
                 AND deletes_at = NULL AND moved_to = NULL".to_owned(),
                Kind::Conditional,
            )
            .await?,
            claim_settle: prepare(
                CqlRequest::Account,
                "UPDATE accounts_by_email SET comes_from = NULL WHERE email = ? IF comes_from = ?".to_owned(),
                Kind::Conditional,
            )
            .await?,
            moved_delete: prepare(
                CqlRequest::Account,
                "DELETE FROM accounts_by_email WHERE email = ? IF moved_to = ?".to_owned(),
                Kind::Conditional,
            )
            .await?,
            deletion_set: prepare(
                CqlRequest::Account,
                "UPDATE accounts_by_email SET deletes_at = ? WHERE email = ? IF user_id = ? AND deletes_at = ? \
                 AND moved_to = NULL".to_owned(),
                Kind::Conditional,
            )
            .await?,
            account_delete: prepare(
                CqlRequest::Account,
                "DELETE FROM accounts_by_email WHERE email = ? IF user_id = ?".to_owned(),
                Kind::Conditional,
            )
            .await?,
            deletion_insert: prepare(
                CqlRequest::Account,
                "INSERT INTO account_deletions (shard, deletes_at, user_id, email) VALUES (?, ?, ?, ?)".to_owned(),
                Kind::Write,
            )
            .await?,
            deletion_delete: prepare(
                CqlRequest::Account,
                "DELETE FROM account_deletions WHERE shard = ? AND deletes_at = ? AND user_id = ?".to_owned(),
                Kind::Write,
            )
            .await?,
            deletions: prepare(
                CqlRequest::Account,
                "SELECT deletes_at, user_id, email FROM account_deletions WHERE shard = ? AND deletes_at <= ? LIMIT ?".to_owned(),
                QUORUM,
            )
            .await?,
            note: prepare(
                CqlRequest::Account,
                "INSERT INTO account_history (user_id, at, id, event, sign_in, address, device) \
                 VALUES (?, ?, ?, ?, ?, ?, ?) USING TTL ?".to_owned(),
                Kind::Write,
            )
            .await?,
            history: prepare(
                CqlRequest::Account,
                "SELECT at, id, event, sign_in, address, device FROM account_history \
                 WHERE user_id = ? AND (at, id) < (?, ?) LIMIT ?".to_owned(),
                QUORUM,
            )
            .await?,
            history_delete: prepare(
                CqlRequest::Account,
                "DELETE FROM account_history WHERE user_id = ?".to_owned(),
                Kind::Write,
            )
            .await?,
            devices_delete: prepare(
                CqlRequest::Account,
                "DELETE FROM sign_ins_by_user WHERE user_id = ?".to_owned(),
                Kind::Write,
            )
            .await?,
        };
        for log in [
            &mut statements.log,
            &mut statements.log_serial,
            &mut statements.log_back,
            &mut statements.log_back_serial,
            &mut statements.read_archive,
        ] {
            log.prepared.set_page_size(LOG_PAGE_ROWS);
        }
        Ok(statements)
    }

    /// A place among the requests under way.
    async fn permit(&self) -> Result<SemaphorePermit<'_>, Failed> {
        self.place(&self.places).await
    }

    /// A place of some; whoever waits too long has asked for nothing.
    pub async fn place<'a>(&self, places: &'a Places) -> Result<SemaphorePermit<'a>, Failed> {
        let place = places.take(self.patience).await;
        place.ok_or_else(|| Failed::NotSent("too many requests to the database are under way".to_owned()))
    }

    /// Carries a statement out. What was certainly not sent is tried again, a few times.
    pub async fn execute(&self, statement: &Statement, values: impl SerializeRow) -> Result<QueryResult, Failed> {
        let _permit = self.permit().await?;
        self.retries.earn();
        let mut tries = 0;
        loop {
            let done = self.asked(statement, self.driver.execute_unpaged(&statement.prepared, &values));
            let error = match done.await {
                Ok(result) => return Ok(result),
                Err(error) => error,
            };
            tries += 1;
            match error {
                Failed::NotSent(_) if tries <= RETRIES => {
                    let may = self.retries.spend();
                    self.observer.retry(may);
                    if !may {
                        return Err(error);
                    }
                    tokio::time::sleep(RETRY_AFTER * tries * tries).await;
                }
                error => return Err(error),
            }
        }
    }

    /// A page of a result, and where the next one begins.
    pub async fn page(
        &self,
        statement: &Statement,
        values: impl SerializeRow,
        from: scylla::response::PagingState,
    ) -> Result<(QueryResult, scylla::response::PagingStateResponse), Failed> {
        let _permit = self.permit().await?;
        let page = self.driver.execute_single_page(&statement.prepared, &values, from);
        self.asked(statement, page).await
    }

    /// Carries statements out together: all on one partition.
    pub async fn batch(
        &self,
        statements: &[&Statement],
        values: impl scylla::serialize::batch::BatchValues,
        is_idempotent: bool,
    ) -> Result<QueryResult, Failed> {
        let _permit = self.permit().await?;
        let prepared = statements.iter().map(|statement| statement.prepared.clone().into());
        let mut batch = Batch::new_with_statements(BatchType::Unlogged, prepared.collect());
        batch.set_is_idempotent(is_idempotent);
        self.asked(statements[0], self.driver.batch(&batch, values)).await
    }

    /// Counts a request, and what it cost beyond the one time that it was asked for.
    async fn asked<T>(
        &self,
        statement: &Statement,
        answer: impl Future<Output = Result<T, ExecutionError>>,
    ) -> Result<T, Failed> {
        let (begun, may_speculate) = (Instant::now(), self.speculations.may());
        let answer = answer.await;
        let took = begun.elapsed();
        self.observer.request(statement.request, took);
        if let Some(Speculation { after, times }) = statement.speculation {
            self.speculations.earn();
            if may_speculate {
                let more = took.as_millis() / after.as_millis();
                for _ in 0..more.min(times.into()) {
                    self.speculations.owe();
                    self.observer.speculated();
                }
            }
        }
        answer.map_err(|error| self.classify(&error))
    }

    fn classify(&self, error: &ExecutionError) -> Failed {
        let text = error.to_string();
        let (class, was_sent) = match error {
            ExecutionError::ConnectionPoolError(_) | ExecutionError::EmptyPlan => (CqlError::NoConnection, false),
            ExecutionError::LastAttemptError(RequestAttemptError::UnableToAllocStreamId) => (CqlError::NoStream, false),
            ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::Unavailable { .. }, _)) => {
                (CqlError::Unavailable, false)
            }
            ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, _)) => match error {
                DbError::WriteTimeout { .. } => (CqlError::WriteTimeout, true),
                DbError::ReadTimeout { .. } => (CqlError::ReadTimeout, true),
                DbError::Overloaded => (CqlError::Overloaded, true),
                DbError::Unauthorized => (CqlError::Unauthorized, false),
                _ => (CqlError::Server, true),
            },
            ExecutionError::LastAttemptError(RequestAttemptError::BrokenConnectionError(_)) => (CqlError::Broken, true),
            ExecutionError::RequestTimeout(_) => (CqlError::Timeout, true),
            _ => (CqlError::Other, true),
        };
        self.observer.error(class);
        if was_sent {
            Failed::Unknown(text)
        } else {
            Failed::NotSent(text)
        }
    }
}

/// Whether the database has said no: not that it is too busy, or that too few of its nodes are there.
pub(super) fn is_refusal(error: &RequestAttemptError) -> bool {
    match error {
        RequestAttemptError::DbError(error, _) => !matches!(
            error,
            DbError::Unavailable { .. }
                | DbError::Overloaded
                | DbError::IsBootstrapping
                | DbError::ReadTimeout { .. }
                | DbError::WriteTimeout { .. }
                | DbError::ReadFailure { .. }
                | DbError::WriteFailure { .. }
                | DbError::TruncateError
        ),
        _ => false,
    }
}

enum Kind {
    /// A conditional write: never sent twice by the driver.
    Conditional,
    /// A read that sees every conditional write that was ever answered, and settles the one under way.
    Serial,
    /// A read.
    Read(Consistency),
    /// A write that may be sent twice.
    Write,
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn retries_are_a_tenth_of_what_is_asked_and_a_hundred_at_once() {
        let budget = Budget::full();
        let rush = (0..1_000).filter(|_| budget.spend()).count();
        assert_eq!(rush, 100);
        let steady = (0..1_000).filter(|_| {
            budget.earn();
            budget.spend()
        });
        assert_eq!(steady.count(), 100);
        (0..100_000).for_each(|_| budget.earn());
        assert_eq!((0..1_000).filter(|_| budget.spend()).count(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_counted_and_who_waits_for_one_until_there_is_one_or_none_comes() {
        let (places, patience) = (Places::new(2), Duration::from_secs(2));
        let used = |running, waiting| assert_eq!(places.used(), Used { running, waiting });
        used(0, 0);
        let first = places.take(patience).await.expect("there is one");
        let second = places.take(patience).await.expect("there is one");
        used(2, 0);
        let mut third = Box::pin(places.take(patience));
        let mut fourth = Box::pin(places.take(patience));
        assert!((&mut third).now_or_never().is_none() && (&mut fourth).now_or_never().is_none());
        used(2, 2);
        drop(first);
        let third = third.await.expect("one is free");
        used(2, 1);
        assert!(fourth.await.is_none(), "none came");
        used(2, 0);
        let gone = Box::pin(places.take(patience)).now_or_never();
        assert!(gone.is_none());
        drop((second, third));
        used(0, 0);
    }

    #[test]
    fn a_database_that_is_too_busy_has_refused_nothing() {
        let said = |error| RequestAttemptError::DbError(error, String::new());
        assert!(is_refusal(&said(DbError::Unauthorized)));
        assert!(is_refusal(&said(DbError::Invalid)));
        assert!(!is_refusal(&said(DbError::Overloaded)));
        let (consistency, received, required) = (Consistency::LocalQuorum, 1, 2);
        assert!(!is_refusal(&said(DbError::ReadTimeout {
            consistency,
            received,
            required,
            data_present: true,
        })));
        assert!(!is_refusal(&RequestAttemptError::UnableToAllocStreamId));
    }

    #[test]
    fn what_was_sent_again_beyond_the_budget_is_paid_back_first() {
        let budget = Budget::full();
        (0..150).for_each(|_| budget.owe());
        assert!(!budget.may());
        (0..509).for_each(|_| budget.earn());
        assert!(!budget.may());
        budget.earn();
        assert!(budget.may());
    }
}
