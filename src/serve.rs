//! Wires the server together, runs it, and takes it down without losing anything.
//!
//! The one file that names both the ports and their adapters.

use std::cell::OnceCell;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_http::body::BoxBody;
use actix_http::error::DispatchError;
use actix_http::{HttpService, Protocol, Request, Response, h1};
use actix_rt::{Arbiter, ArbiterHandle, spawn};
use actix_service::{Service as _, ServiceFactory, ServiceFactoryExt as _, apply_fn_factory, fn_service, map_config};
use actix_web::dev::AppConfig;
use actix_web::{App, HttpServer, ResponseError as _, web};
use anyhow::Context as _;
use socket2::{Domain, Socket, Type};
use taskflow_actors::cluster::node::Report;
use taskflow_actors::cluster::shell::{Everywhere, Inbox};
use taskflow_actors::cluster::{self, Cluster, Member};
use taskflow_actors::domain::{Activity, Entry};
use taskflow_actors::feed::Writers;
use taskflow_actors::ports::{
    Accounts, AppendError, BoxFuture, Clock, Epoch, NodeId, Notices, Push, Spent, Store, Tracer,
};
use taskflow_actors::session::{Event, Sessions};
use taskflow_actors::supervisor::{Observer, Ports, Router, Supervisor};
use taskflow_protocol::message::{OperationResult, Outcome};
use taskflow_protocol::values::UnixMs;
use taskflow_protocol::{Code, UserId, limits};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, Semaphore, watch};
use uuid::Uuid;

use crate::accept::{Accept, Certificate};
use crate::allocator;
use crate::auth::issuers::Fetch;
use crate::auth::{Deletions, Issuers, Keys, Revocation, SignIns, SignedOut, Tokens};
use crate::bus::redis::{self, RedisBus, RedisObserver};
use crate::clock::SystemClock;
use crate::config::{Config, Environment, Live, Loaded, StoreKind};
use crate::drain::{self, Drain};
use crate::http::attempts::Attempts;
use crate::http::idle::{Answering, Connection, Idle, Watched};
use crate::http::rates::Rates;
use crate::http::request::own_head;
use crate::http::seats::Seats;
use crate::http::{self, Api};
use crate::mail::{Letters, Logged, Mail, Smtp};
use crate::overload::Overload;
use crate::scheduling;
use crate::socket::hub::SLOWEST_MAX;
use crate::socket::{self, Gateway, Hub, Wire, Worker, upgrade};
use crate::store::cql::{self, Cql, CqlObserver};
use crate::store::embedded::{self, Embedded, StoreObserver};
use crate::telemetry::metrics::{Build, CqlError, CqlRequest, Thread};
use crate::telemetry::operator::{self, Operator, Readiness};
use crate::telemetry::sentry::{self, Errors, Origin, Telling};
use crate::telemetry::status::{FeedStatus, Look, SlowStatus, Status};
use crate::telemetry::{Metrics, Telemetry, Traces};

/// Connections that wait to be accepted: 10,000 clients that come back at once find room while the workers catch up.
const BACKLOG: i32 = 4096;

/// How long a connection without a request is kept. Whoever closes it takes the risk that a request is just on its way to it, and a
/// proxy cannot send everything again: so it is the proxy that should close it, and this is longer than any keeps one (nginx and
/// Amazon's 60 s, Traefik 90 s, Caddy 120 s, Google's 600 s, which asks for 620 s here). Those that are too many are closed
/// sooner, and all of them when clients have been sent away: [`Idle`].
const KEEP_ALIVE: Duration = Duration::from_secs(620);

/// Snapshots that are made at once. Each holds a feed in memory, up to tens of megabytes for the largest.
const SNAPSHOTS_MAX: usize = 8;

/// Clients that are sent away come back spread over so many milliseconds. Ten thousand a second are what one node takes
/// (the storm scenario of the load tests); more would wait in the backlog.
const RECONNECT_WINDOW_MS: u32 = 1_000;

/// What a server stores in, and how it tells that it is well.
pub struct Stored {
    /// The log and the rows.
    pub store: Arc<dyn Store>,
    /// Accounts and sign-ins.
    pub accounts: Arc<dyn Accounts>,
    /// Whether an append would succeed now.
    pub readiness: Arc<dyn Readiness>,
    /// The number of the store that the nodes of a cluster share; `None`: only this process writes to it.
    pub shared: Option<u64>,
}

/// A server that runs.
pub struct Running {
    /// Where clients connect; `None`: this node has not the role `gateway`.
    pub address: Option<SocketAddr>,
    /// Where operators look.
    pub operator_address: SocketAddr,
    drain: Drain,
    operator: web::Data<Operator>,
    servers: Vec<actix_server::ServerHandle>,
    arbiters: Vec<Arbiter>,
    cluster: Option<(Arc<Cluster>, RedisBus)>,
    live: Arc<Live>,
    certificate: Option<Arc<Certificate>>,
    traces: Option<Arc<Traces>>,
}

/// What a node of a cluster does about what all are told.
struct Told {
    revocation: Arc<Revocation>,
    rates: Arc<Rates>,
    seats: Arc<Seats>,
    attempts: Arc<Attempts>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl Notices for Told {
    fn ended(&self, user: UserId, sign_in: Uuid) {
        self.revocation.ended(user, sign_in);
    }
    fn missed(&self) {
        self.revocation.missed();
    }
    fn tried(&self, keys: &[u128]) {
        self.attempts.heard(keys, self.clock.now_ms());
        self.metrics.sign_in_attempts_heard.inc();
    }
    fn spent(&self, node: NodeId, spent: &[Spent]) {
        self.rates.heard(spent);
        self.seats.heard(node, spent);
    }
}

/// Milliseconds of a day.
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

struct Counted(Arc<Metrics>);

impl Observer for Counted {
    fn feed_started(&self) {
        self.0.feed_starts.inc();
        self.0.feeds_running.inc();
    }
    fn feed_stopped(&self) {
        self.0.feed_stops.inc();
        self.0.feeds_running.dec();
    }
    fn feed_panicked(&self) {
        self.0.feed_panics.inc();
    }
    fn appended(&self, took: Duration, result: &Result<(), AppendError>) {
        self.0.append_duration.observe(took);
        if matches!(result, Err(AppendError::Conflict(_))) {
            self.0.append_conflicts.inc();
        }
    }
    fn settled(&self, results: &[OperationResult], took: Duration) {
        self.0.operation_duration.observe_many(took, results.len() as u64);
        for result in results {
            self.0.operations.of((&result.outcome).into()).inc();
            if let Outcome::Refused(error) = &result.outcome {
                self.0.operation_refusals.of(error.code.into()).inc();
            }
        }
    }
    fn committed(&self, entries: &[Entry], before: UnixMs) {
        let done = entries.iter().filter_map(Activity::of);
        let (created, completed) = done.fold((0, 0), |(created, completed), done| {
            (created + u64::from(done.created), completed + u64::from(done.completed))
        });
        self.0.tasks_created.inc_by(created);
        self.0.tasks_completed.inc_by(completed);
        let is_later_day = |last: &Entry| last.time.div_euclid(DAY_MS) > before.div_euclid(DAY_MS);
        if entries.last().is_some_and(is_later_day) {
            self.0.users_active.inc();
        }
    }
}

/// Starts a server on the present actix system.
pub async fn start(config: Config, stored: Stored, keys: Keys, telemetry: Telemetry) -> anyhow::Result<Running> {
    let live = Arc::new(Live::new(config));
    let config = live.now();
    let certificate = Certificate::open(&config)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let metrics = telemetry.metrics.clone();
    metrics.build_info.of(Build::This).set(1.0);
    metrics.bus_configured.set(f64::from(config.redis().is_some()));
    let workers = config.worker_count();
    let hub = Arc::new(Hub::new(workers));
    // One thread for feeds is this one, where the driver of the database is: a message to another thread wakes it.
    let arbiters: Vec<Arbiter> = match config.feed_arbiter_count() {
        1 => Vec::new(),
        count => (0..count).map(|_| feed_thread()).collect::<std::io::Result<_>>()?,
    };
    let handles: Vec<ArbiterHandle> = if arbiters.is_empty() {
        vec![Arbiter::current()]
    } else {
        arbiters.iter().map(Arbiter::handle).collect()
    };
    let overload = Arc::new(Overload::new(live.clone(), metrics.clone()));
    spawn(overload.clone().decide());
    for handle in &handles {
        let delays = metrics.thread_delay.of(Thread::Feeds).clone();
        handle.spawn(overload.clone().watch_thread(delays));
        handle.spawn(allocator::collect_always());
    }
    if !arbiters.is_empty() {
        spawn(allocator::collect_always());
    }
    let traces = match config.otlp_endpoint.get() {
        None => None,
        Some(endpoint) => {
            let traces = Traces::start(
                endpoint,
                config.trace_sample_ratio,
                &config.node_name(),
                metrics.clone(),
            );
            Some(Arc::new(traces.context("cannot start the thread that sends traces")?))
        }
    };
    let tracer: Arc<dyn Tracer> = match &traces {
        None => Arc::new(()),
        Some(traces) => traces.clone(),
    };
    let cluster = config.redis().map(|_| {
        let me = Member {
            node: NodeId(rand::random()),
            name: config.node_name(),
            hosts_feeds: config.roles.feeds,
            leaving: false,
            cluster: stored.shared.unwrap_or_default(),
        };
        let observer = Arc::new(ClusterFigures(metrics.clone()));
        let store = stored.store.clone();
        Cluster::new(me, rand::random(), store, hub.clone(), observer, tracer.clone())
    });
    let push: Arc<dyn Push> = match &cluster {
        None => hub.clone(),
        Some(cluster) => Arc::new(Everywhere {
            here: hub.clone(),
            cluster: cluster.clone(),
        }),
    };
    let ports = Ports {
        store: stored.store.clone(),
        writers: match stored.shared {
            None => Writers::One,
            Some(_) => Writers::Many,
        },
        push,
        clock: clock.clone(),
        observer: Arc::new(Counted(metrics.clone())),
        tracer,
        new_epoch: Box::new(|| Epoch(rand::random())),
        feed_idle: Duration::from_secs(config.feed_idle_seconds),
    };
    let mut router = Supervisor::start(ports, &handles, rand::random);
    let cluster = match (cluster, config.redis()) {
        (Some(cluster), Some(options)) => {
            hub.join(cluster.clone());
            let bus = join(&handles[0], options, cluster.clone(), router.clone(), metrics.clone()).await?;
            router = router.with_cluster(cluster.clone());
            Some((cluster, bus))
        }
        _ => None,
    };
    let tokens = Tokens::new(
        keys.clone(),
        config.access_token_seconds,
        clock.clone(),
        stored.accounts.clone(),
    );
    let tokens = Arc::new(tokens.counted(metrics.token_lookups.clone()));
    let over_http = Arc::new(OverHttp::new(config.environment));
    tokens.trust(Issuers::new(&config.issuers.0, over_http, clock.clone()));
    if config.signing_key.0.is_empty() {
        spawn(follow_keys(config.clone(), keys, tokens.clone()));
    }
    if let Some(certificate) = &certificate {
        spawn(certificate.clone().follow());
    }
    let counted = hub.clone();
    let seats = Arc::new(Seats::new(&config, metrics.clone(), move || {
        counted.connections.load(Ordering::Relaxed)
    }));
    let rates = Arc::new(Rates::new(live.clone(), metrics.clone()));
    spawn(rates.clone().forget());
    let gateway = Arc::new(Gateway {
        rates: rates.clone(),
        hub: hub.clone(),
        router: router.clone(),
        store: stored.store.clone(),
        tokens: tokens.clone(),
        sessions: Arc::new(Sessions::new(hub.clone())),
        seats: seats.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
        traces: traces.clone(),
        build: build(),
        heartbeat_ms: config.heartbeat_ms as u32,
        heartbeat_timeout_s: limits::heartbeat_timeout_ms(config.heartbeat_ms).div_ceil(1000) as u32,
        bytes_a_second_max: config.socket_bytes_a_second_max,
        live: live.clone(),
        outbound_bytes_max: config.outbound_bytes_max,
        outbound_bytes_total_max: config.outbound_bytes_total_max,
        reconnect_window_ms: RECONNECT_WINDOW_MS,
        snapshots: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
        overload: overload.clone(),
    });
    let sessions = gateway.clone();
    tokens.on_sign_out(move |SignedOut { user, sign_in }| sessions.sessions.tell(user, Event::SignedOut(sign_in)));

    let sign_ins = Arc::new(SignIns::new(
        stored.accounts.clone(),
        tokens.clone(),
        clock.clone(),
        config.refresh_token_days,
    ));
    let attempts = Arc::new(Attempts::new(config.sign_in_attempts_max));
    if let Some((cluster, _)) = &cluster {
        let revocation = Revocation::new(tokens.clone(), stored.accounts.clone());
        cluster.on_notices(Arc::new(Told {
            revocation: revocation.clone(),
            rates: rates.clone(),
            seats: seats.clone(),
            attempts: attempts.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
        }));
        let others = cluster.clone();
        sign_ins.on_end(move |SignedOut { user, sign_in }| others.signed_out(user, sign_in));
        let others = cluster.clone();
        attempts.on_pass(move |keys| others.tried(keys.to_vec()));
        let others = cluster.clone();
        spawn(rates.clone().share(move |spent| others.spent(spent)));
        let others = cluster.clone();
        spawn(seats.clone().share(move |held| others.spent(held)));
        let (heard, rounds) = (cluster.clone(), metrics.sign_in_rounds.clone());
        let (is_heard, looked) = (
            move || heard.status().0,
            move || {
                rounds.inc();
            },
        );
        spawn(revocation.run(gateway.sessions.clone(), is_heard, looked));
    }

    let deletions = Arc::new(Deletions {
        accounts: stored.accounts.clone(),
        store: stored.store.clone(),
        router: router.clone(),
        sign_ins: sign_ins.clone(),
        clock: clock.clone(),
        now: Notify::new(),
    });
    let deleted = metrics.accounts_deleted.clone();
    spawn(deletions.clone().run(move || {
        deleted.inc();
    }));
    let (followed, hashing, at) = (hub.clone(), sign_ins.clone(), gateway.clone());
    let (counted, tried) = (rates.clone(), attempts.clone());
    let present = certificate.clone();
    telemetry.at_scrape(move |metrics| {
        let expires_s = present.as_ref().and_then(|certificate| certificate.expires_s());
        metrics.certificate_expires.set(expires_s.unwrap_or(0) as f64);
        metrics.feeds_followed.set(followed.feeds_followed() as f64);
        metrics.queue_bytes.set(socket::queue_bytes() as f64);
        let (running, waiting) = hashing.passwords();
        metrics.passwords_running.set(running as f64);
        metrics.passwords_waiting.set(waiting as f64);
        let snapshots = SNAPSHOTS_MAX - at.snapshots.available_permits();
        metrics.snapshots_running.set(snapshots as f64);
        let (sessions, events) = at.sessions.count();
        metrics.sessions.set(sessions as f64);
        metrics.session_events_waiting.set(events as f64);
        metrics.rates_counted.set(counted.counted() as f64);
        metrics.sign_in_attempts_counted.set(tried.counted() as f64);
    });
    let letters = Arc::new(Letters::new(mail(&config)?, config.public_url(), metrics.clone()));
    watch_queues(
        &telemetry,
        hub.clone(),
        router.clone(),
        letters.clone(),
        cluster.clone(),
    );
    let (leaving, leaving_seen) = watch::channel(None);
    let drain = Drain {
        hub: hub.clone(),
        seats: seats.clone(),
        leaving,
        cluster: cluster.as_ref().map(|(cluster, _)| cluster.clone()),
        stopping: Arc::default(),
        metrics: metrics.clone(),
    };
    let looked_at = router.clone();
    let api = web::Data::new(Api {
        seats,
        snapshots: gateway.snapshots.clone(),
        tokens,
        sign_ins,
        deletions,
        router,
        store: stored.store.clone(),
        changes: hub.clone(),
        attempts,
        letters,
        rates,
        clock,
        config: live.clone(),
        metrics,
        traces: traces.clone(),
        leaving: leaving_seen,
        stopping: drain.stopping.clone(),
        overload,
    });

    let clients = if config.roles.gateway {
        let listener = listen(config.listen).with_context(|| {
            format!(
                "cannot listen on {} (listen): is another server running?",
                config.listen
            )
        })?;
        let address = listener.local_addr()?;
        let accept = Arc::new(Accept::new(live.clone(), certificate.as_ref()));
        Some((
            address,
            serve_clients(listener, workers, live.clone(), accept, gateway, api)?,
        ))
    } else {
        None
    };
    let address = clients.as_ref().map(|(address, _)| *address);
    let redirect = match (config.redirect_listen.0, address) {
        (Some(listen), Some(clients)) => Some(serve_redirects(listen, clients, live.clone())?),
        _ => None,
    };

    let operator = web::Data::new(Operator::new(telemetry.clone()));
    let data = operator.clone();
    let operators = HttpServer::new(move || {
        // Called once, on the thread that answers.
        spawn(allocator::collect_always());
        App::new().app_data(data.clone()).configure(operator::routes)
    })
    .workers(1)
    .disable_signals()
    .bind(config.operator_listen)
    .with_context(|| format!("cannot listen on {} (operator_listen)", config.operator_listen))?;
    let operator_address = *operators
        .addrs()
        .first()
        .context("the operator's port has no address")?;
    let operators = operators.run();
    let mut servers = vec![operators.handle()];
    if let Some(redirect) = redirect {
        servers.push(redirect.handle());
        spawn(redirect);
    }
    if let Some((_, clients)) = clients {
        servers.insert(0, clients.handle());
        spawn(clients);
    }
    spawn(operators);
    if arbiters.is_empty() {
        // After the servers have started their threads, which would be scheduled in the same way.
        spawn(async { give_way() });
    }
    let cluster_readiness = cluster.as_ref().map(|(cluster, _)| cluster.clone());
    operator.show(Arc::new(Around {
        node: config.node_name(),
        hub,
        router: looked_at,
        cluster: cluster_readiness.clone(),
    }));
    operator.started(Arc::new(NodeReadiness(stored.readiness, cluster_readiness)));
    Ok(Running {
        address,
        operator_address,
        drain,
        operator,
        servers,
        arbiters,
        cluster,
        live,
        certificate,
        traces,
    })
}

/// How long an issuer may take to say its keys.
const ISSUER_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a key set: a hundred keys are 50 KB.
const KEY_SET_BYTES_MAX: u64 = 256 * 1024;

/// Asks issuers for their keys.
struct OverHttp(ureq::Agent);

impl OverHttp {
    fn new(environment: Environment) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(ISSUER_TIMEOUT))
            // Nor where it is sent on to.
            .https_only(environment != Environment::Dev)
            .max_redirects(3)
            .build();
        Self(config.into())
    }
}

impl Fetch for OverHttp {
    fn fetch(&self, url: String) -> BoxFuture<Result<String, String>> {
        let agent = self.0.clone();
        Box::pin(async move {
            let asked = tokio::task::spawn_blocking(move || {
                let mut answer = agent.get(&url).call()?;
                answer
                    .body_mut()
                    .with_config()
                    .limit(KEY_SET_BYTES_MAX)
                    .read_to_string()
            });
            let answer = asked.await.map_err(|error| error.to_string())?;
            answer.map_err(|error| error.to_string())
        })
    }
}

/// Who takes letters.
fn mail(config: &Config) -> anyhow::Result<Option<Arc<dyn Mail>>> {
    if !config.smtp.0.is_empty() {
        let smtp = Smtp::new(&config.smtp.0, &config.mail_from.0);
        let smtp = smtp.map_err(|wrong| anyhow::anyhow!("{}: {}", wrong.key, wrong.text))?;
        return Ok(Some(Arc::new(smtp)));
    }
    Ok(match config.environment {
        Environment::Dev => Some(Arc::new(Logged)),
        Environment::Staging | Environment::Prod => None,
    })
}

/// How often the folder of the keys is looked at.
const KEYS_EVERY: Duration = Duration::from_secs(10);

/// Takes keys that were made or removed since.
async fn follow_keys(config: Arc<Config>, keys: Keys, tokens: Arc<Tokens>) {
    let mut known = keys.jwks();
    let mut is_told = false;
    loop {
        tokio::time::sleep(KEYS_EVERY).await;
        match Keys::open(config.key_dir()) {
            Ok(keys) => {
                is_told = false;
                let set = keys.jwks();
                if set != known {
                    tracing::info!(keys = keys.iter().count(), "the signing keys have changed");
                    tokens.set_keys(keys);
                    known = set;
                }
            }
            // What is in memory goes on; it is said once.
            Err(error) if !std::mem::replace(&mut is_told, true) => {
                tracing::error!(%error, "the signing keys cannot be read; the present ones go on");
            }
            Err(_) => {}
        }
    }
}

/// A thread for feeds.
///
/// Its runtime is made here, where much else lies that stays as long as the server. Among the feeds of its own thread it would
/// hold pages of the allocator that are empty but for it: 12 KiB of room for events hold 512 KiB.
fn feed_thread() -> std::io::Result<Arbiter> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(Arbiter::with_tokio_rt(move || {
        give_way();
        runtime
    }))
}

/// What the thread of feeds that calls this wakes for waits for the workers' turns.
fn give_way() {
    if let Err(error) = scheduling::give_way() {
        tracing::warn!(%error, "the threads of feeds do not give way to the workers: the server does less where cores are few");
    }
}

/// Goes on the bus: on an arbiter of its own, so that no client's work delays what other nodes say.
async fn join(
    arbiter: &ArbiterHandle,
    options: redis::Options,
    cluster: Arc<Cluster>,
    router: Router,
    metrics: Arc<Metrics>,
) -> anyhow::Result<RedisBus> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    arbiter.spawn(async move {
        let inbox = Arc::new(Inbox(cluster.clone()));
        let figures = BusFigures {
            metrics,
            told: AtomicBool::new(false),
        };
        let bus = RedisBus::start(options, cluster.node(), inbox, Arc::new(figures));
        cluster.join(Arc::new(bus.clone()), router);
        drop(sender.send(bus));
    });
    receiver.await.context("the arbiter of the bus ended")
}

/// The client port, with room for many who connect at once: the standard library's listener takes 128, and who comes
/// beyond is not told, but tries again after a second.
fn listen(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Name and version, as clients see it.
pub fn build() -> String {
    format!("taskflow {}", env!("CARGO_PKG_VERSION"))
}

/// REST and WebSockets on one port: a request to upgrade is taken over whole, everything else goes to actix-web.
fn serve_clients(
    listener: std::net::TcpListener,
    workers: usize,
    live: Arc<Live>,
    accept: Arc<Accept>,
    gateway: Arc<Gateway>,
    api: web::Data<Api>,
) -> anyhow::Result<actix_server::Server> {
    // Half of the files is for whoever is connected already.
    let files = usize::try_from(files_open_max()).unwrap_or(usize::MAX);
    let accepted_max = limits::HTTP_ACCEPTED_MAX.min(files / 2);
    let idle_max = limits::HTTP_CONNECTIONS_MAX.min(files / 8);
    let server = actix_server::Server::build()
        .workers(workers)
        .max_concurrent_connections(accepted_max / workers)
        .shutdown_timeout(live.now().drain_seconds_max)
        .disable_signals();
    // Called by each worker, on its thread.
    let idle = {
        let (metrics, leaving) = (api.metrics.clone(), api.leaving.clone());
        move || {
            let idle = Idle::new(idle_max / workers, metrics.http_connections.clone());
            actix_rt::spawn(idle.clone().watch(metrics.clone(), leaving.clone()));
            idle
        }
    };
    let server = if accept.has_tls() {
        server.listen("clients", listener, move || {
            let (accept, idle) = (accept.clone(), idle());
            let secure = move |mut stream: TcpStream| {
                let (accept, connection) = (accept.clone(), idle.add());
                async move {
                    let agreed = async {
                        let peer = accept.peer(&mut stream).await?;
                        let (stream, protocol) = accept.secure(stream).await?;
                        Ok((stream, protocol, Some(peer)))
                    };
                    let agreed = connection.unless_closed(agreed).await;
                    let (stream, protocol, peer) = agreed.map_err(DispatchError::Io)?;
                    Ok((Watched::new(stream, connection), protocol, peer))
                }
            };
            fn_service(secure).and_then(clients(gateway.clone(), live.clone(), api.clone()))
        })
    } else {
        server.listen("clients", listener, move || {
            let (accept, idle) = (accept.clone(), idle());
            let plain = move |mut stream: TcpStream| {
                let (accept, connection) = (accept.clone(), idle.add());
                async move {
                    let peer = connection.unless_closed(accept.peer(&mut stream)).await;
                    let peer = Some(peer.map_err(DispatchError::Io)?);
                    Ok((Watched::new(stream, connection), Protocol::Http1, peer))
                }
            };
            fn_service(plain).and_then(clients(gateway.clone(), live.clone(), api.clone()))
        })
    };
    Ok(server.context("cannot serve on the client port")?.run())
}

thread_local! {
    static WORKER: OnceCell<Option<Rc<Worker>>> = const { OnceCell::new() };
}

/// What is done with a client's connection, whatever carries its bytes.
fn clients<IO>(
    gateway: Arc<Gateway>,
    live: Arc<Live>,
    api: web::Data<Api>,
) -> impl ServiceFactory<
    (Watched<IO>, Protocol, Option<SocketAddr>),
    Config = (),
    Response = (),
    Error = DispatchError,
    InitError = (),
    Service: 'static,
    Future: 'static,
>
where
    IO: AsyncRead + AsyncWrite + Unpin + Into<Wire> + 'static,
{
    let app = App::new().app_data(api).configure(http::routes);
    HttpService::build()
        .keep_alive(KEEP_ALIVE)
        .on_connect_ext(|io: &Watched<IO>, data| drop(data.insert(io.connection.clone())))
        .upgrade(fn_service(
            move |(request, framed): (Request, actix_codec::Framed<Watched<IO>, h1::Codec>)| {
                let gateway = gateway.clone();
                let worker = WORKER.with(|cell| cell.get_or_init(|| Worker::start(gateway)).clone());
                let live = live.clone();
                async move {
                    if let Some(worker) = worker {
                        let framed = framed.into_map_io(Watched::into_inner);
                        upgrade::accept(worker, live, own_head(request), framed).await;
                    }
                    Ok::<_, actix_web::Error>(())
                }
            },
        ))
        .finish(apply_fn_factory(
            map_config(app, |()| AppConfig::default()),
            |request: Request, app| {
                let busy = request.conn_data::<Rc<Connection>>().map(Connection::busy);
                let answer = app.call(own_head(request));
                async move {
                    let answer: Response<BoxBody> = answer.await?.into();
                    Ok::<_, actix_web::Error>(answer.map_body(|_, body| Answering::new(body, busy)))
                }
            },
        ))
}

/// Sends who comes without TLS to where there is TLS.
fn serve_redirects(listen: SocketAddr, clients: SocketAddr, live: Arc<Live>) -> anyhow::Result<actix_web::dev::Server> {
    let server = HttpServer::new(move || {
        let live = live.clone();
        App::new().default_service(web::to(move |request: actix_web::HttpRequest| {
            let answer = redirect(&request, clients.port(), &live.now());
            async move { answer }
        }))
    });
    let server = server
        .workers(1)
        .disable_signals()
        .bind(listen)
        .with_context(|| format!("cannot listen on {listen} (redirect_listen)"))?;
    tracing::info!(address = ?server.addrs(), "who comes without TLS is sent on");
    Ok(server.run())
}

fn redirect(request: &actix_web::HttpRequest, port: u16, config: &Config) -> actix_web::HttpResponse {
    let host = http::host_of(request.uri(), request.headers());
    let name = host.map(|host| host.rsplit_once(':').map_or(host, |(name, _)| name));
    let Some(name) = name.filter(|name| config.is_host(host) && !name.is_empty()) else {
        return http::problem::Problem::new(Code::HostRefused).error_response();
    };
    let port = match port {
        443 => String::new(),
        port => format!(":{port}"),
    };
    let path = request.uri().path_and_query().map(|path| path.as_str());
    let path = path.filter(|path| path.starts_with('/')).unwrap_or("/");
    let to = format!("https://{name}{port}{path}");
    actix_web::HttpResponse::PermanentRedirect()
        .insert_header(("location", to))
        .finish()
}

impl Running {
    /// Takes what can be changed without a restart.
    pub fn reload(&self, config: &Config) {
        let (changed, rest) = self.live.change(config);
        crate::telemetry::log::set_level(config.log_level);
        if let Some(traces) = &self.traces {
            traces.set_ratio(config.trace_sample_ratio);
        }
        if let Some(certificate) = &self.certificate {
            certificate.look.notify_one();
        }
        tracing::info!(changed = changed.join(", "), "the settings were read again");
        if !rest.is_empty() {
            tracing::warn!(
                settings = rest.join(", "),
                "these settings have changed, and need a restart"
            );
        }
    }

    /// Takes the server down: see [`Drain`]. `hurry` says that whoever told it to stop does not want to wait.
    pub async fn stop(self, hurry: impl Future<Output = ()>) {
        self.operator.drain();
        let deadline = self.drain.run(&self.live.now(), hurry).await;
        // The operator's last: a scrape during the drain says how it goes.
        for server in &self.servers {
            drain::until(deadline, server.stop(true)).await;
        }
        if let Some(traces) = &self.traces {
            traces.flush(deadline).await;
        }
        if let Some((_, bus)) = &self.cluster {
            bus.stop().await;
        }
        for arbiter in self.arbiters {
            arbiter.stop();
        }
    }
}

/// Runs the server until it is told to stop (`taskflow serve`).
pub fn run(loaded: Loaded, signals: Signals) -> anyhow::Result<()> {
    let config = loaded.config.clone();
    let telemetry = Telemetry::new();
    // Until the end of this function: what is still to be told then is.
    let (errors, _telling) = report_errors(&config, &telemetry)?.unzip();
    crate::telemetry::log::init(config.log_level, config.log_format, errors);
    for variable in &loaded.variables_unknown {
        let hint = crate::config::meant(variable);
        tracing::warn!(variable, "this variable is no setting{hint}");
    }
    allocator::configure();
    // Without this the allocator's idle buffers become resident two megabytes at a time.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let files = raise_file_limit();
    // Two providers are in the tree: whoever sets up TLS without naming one (the driver of Redis) must find one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let keys = match config.signing_key.0.as_str() {
        "" => Keys::open_or_create(config.key_dir())?,
        pem => Keys::from_pem("in signing_key", pem)?,
    };
    if !config.has_tls() && !config.behind_proxy && !config.listen.ip().is_loopback() {
        tracing::warn!(
            "TLS is off: whoever is on the way between clients and this server reads passwords and tasks. Set tls_certificate and \
             tls_key, or put a proxy in front and set behind_proxy"
        );
    }
    let Signals {
        system,
        mut stop,
        reload: asked,
    } = signals;
    let opened = match config.store {
        StoreKind::Embedded => open_embedded(&config, &telemetry)?,
        StoreKind::Cql => {
            let opening = async {
                tokio::select! {
                    opened = open_cql(&config, &telemetry) => opened.map(Some),
                    () = stop.told() => Ok(None),
                }
            };
            let Some(opened) = system.block_on(opening)? else {
                tracing::info!("told to stop before the database had answered");
                return Ok(());
            };
            opened
        }
    };
    let closing = opened.clone();
    let served = system.block_on(async move {
        let mut stop = stop;
        let readiness = Arc::new(StoreReadiness(Mutex::new((Instant::now(), Ok(())))));
        spawn(readiness.clone().watch(opened.clone()));
        let running = start(config, opened.stored(readiness), keys, telemetry).await?;
        tracing::info!(
            address = running.address.map(tracing::field::display),
            operator_address = %running.operator_address,
            files_open_max = files,
            build = build(),
            "serving"
        );
        if let Some(address) = running.address {
            greet(address);
        }
        tokio::select! {
            () = stop.told() => {}
            never = reload(asked, &loaded, &running) => match never {},
        }
        tracing::info!("stopping");
        running.stop(stop.told()).await;
        anyhow::Ok(())
    });
    closing.close();
    tracing::info!("stopped");
    served
}

/// Has errors told to Sentry, where it is set.
fn report_errors(config: &Config, telemetry: &Telemetry) -> anyhow::Result<Option<(Errors, Telling)>> {
    let Some(dsn) = config.sentry().map_err(anyhow::Error::msg)? else {
        return Ok(None);
    };
    let origin = Origin {
        environment: config.environment.word().to_owned(),
        node: config.node_name(),
    };
    Ok(Some(sentry::start(dsn, origin, telemetry.metrics.clone())?))
}

/// Reads the settings again whenever somebody asks for it by SIGHUP; what is wrong with them is said, and the present go on.
async fn reload(mut asked: Signal, loaded: &Loaded, running: &Running) -> Infallible {
    loop {
        if asked.recv().await.is_none() {
            return std::future::pending().await;
        }
        match loaded.reload() {
            Ok(loaded) => running.reload(&loaded.config),
            Err(error) => tracing::error!(%error, "the settings cannot be read again; the present ones go on"),
        }
    }
}

/// A store that is open.
#[derive(Clone)]
enum Opened {
    Embedded(Embedded),
    Cql(Cql),
}

impl Opened {
    fn stored(&self, readiness: Arc<dyn Readiness>) -> Stored {
        match self.clone() {
            Self::Embedded(store) => Stored {
                store: Arc::new(store.clone()),
                accounts: Arc::new(store),
                readiness,
                shared: None,
            },
            Self::Cql(store) => Stored {
                shared: Some(store.cluster()),
                store: Arc::new(store.clone()),
                accounts: Arc::new(store),
                readiness,
            },
        }
    }

    async fn ready(&self) -> Result<(), String> {
        match self {
            Self::Embedded(store) => store.check_append().await.map_err(|error| error.to_string()),
            Self::Cql(store) => store.ready().await,
        }
    }

    fn close(self) {
        match self {
            Self::Embedded(store) => store.shutdown(),
            Self::Cql(_) => {}
        }
    }
}

/// What waits, counted when somebody scrapes.
fn watch_queues(
    telemetry: &Telemetry,
    hub: Arc<Hub>,
    router: Router,
    letters: Arc<Letters>,
    cluster: Option<(Arc<Cluster>, RedisBus)>,
) {
    telemetry.at_scrape(move |metrics| {
        metrics.publications_waiting.set(hub.publications_waiting() as f64);
        let waiting = router.waiting();
        metrics.feed_operations_waiting.set(waiting.operations as f64);
        metrics.feed_operations_waiting_max.set(waiting.operations_max.into());
        metrics.feed_starts_waiting.set(waiting.starts as f64);
        metrics.letters_waiting.set(letters.waiting() as f64);
        if let Some((cluster, bus)) = &cluster {
            metrics
                .cluster_operations_waiting
                .set(cluster.operations_waiting() as f64);
            metrics.sign_outs_waiting.set(cluster.sign_outs_waiting() as f64);
            let (messages, bytes) = bus.waiting();
            metrics.bus_waiting.set(messages as f64);
            metrics.bus_bytes_waiting.set(bytes as f64);
        }
    });
}

fn open_embedded(config: &Config, telemetry: &Telemetry) -> anyhow::Result<Opened> {
    let options = embedded::Options {
        collect: allocator::collect_of_store,
        ..embedded::Options::default()
    };
    let observer = Arc::new(StoreFigures(telemetry.metrics.clone()));
    let store = embedded::open(&config.data_dir, options, observer)?;
    let (folder, queues) = (config.data_dir.clone(), store.clone());
    telemetry.at_scrape(move |metrics| {
        metrics.store_bytes.set(embedded::bytes(&folder) as f64);
        let waiting = queues.waiting();
        metrics.store_writes_waiting.set(waiting.writes as f64);
        metrics.store_bytes_waiting.set(waiting.bytes as f64);
        metrics.store_reads_waiting.set(waiting.reads as f64);
    });
    Ok(Opened::Embedded(store))
}

async fn open_cql(config: &Config, telemetry: &Telemetry) -> anyhow::Result<Opened> {
    let observer = Arc::new(CqlFigures(telemetry.metrics.clone()));
    let store = Cql::open(&config.cql()?, observer).await?;
    let queues = store.clone();
    telemetry.at_scrape(move |metrics| {
        let (requests, loads) = (queues.requests(), queues.loads());
        metrics.cql_requests_running.set(requests.running as f64);
        metrics.cql_requests_waiting.set(requests.waiting as f64);
        metrics.cql_loads_running.set(loads.running as f64);
        metrics.cql_loads_waiting.set(loads.waiting as f64);
    });
    Ok(Opened::Cql(store))
}

/// Brings the schema of the database to what this build needs (`taskflow migrate`); says what it did.
pub fn migrate(config: &Config) -> anyhow::Result<String> {
    if config.store != StoreKind::Cql {
        anyhow::bail!("the embedded store needs no migration; for a database set store = cql and cql_nodes");
    }
    let options = config.cql()?;
    let done = actix_rt::System::new().block_on(cql::migrate(&options))?;
    let mut text = String::new();
    for (names, what) in [(&done.present, "was there"), (&done.applied, "applied")] {
        for name in names {
            let _ = writeln!(text, "{name}: {what}");
        }
    }
    let _ = writeln!(text, "The keyspace {} is ready.", options.keyspace);
    Ok(text)
}

/// As many files as the system lets this process have; a connection is one.
fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
    files_open_max()
}

fn files_open_max() -> u64 {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// What a person in front of a terminal does next.
fn greet(address: SocketAddr) {
    use std::io::IsTerminal as _;
    if !std::io::stdout().is_terminal() {
        return;
    }
    let program = std::env::args().next().unwrap_or_else(|| "taskflow".to_owned());
    #[allow(clippy::print_stdout, reason = "a greeting for the person who started it")]
    {
        println!(
            "\nTaskFlow is running on http://{address}\n\n\
             In a second terminal, make an account and watch your tasks:\n\
             \x20   {program} register --server http://{address} you@example.com\n\
             \x20   {program} watch\n\n\
             In a third one, make a task and see it appear:\n\
             \x20   {program} add \"Buy milk\"\n\n\
             Ctrl-C stops the server; it loses nothing, however it ends.\n"
        );
    }
}

/// What a server hears from outside, from [`Signals::hear`] on: whoever is told to stop while it opens the store stops as soon
/// as that is open, and whoever is asked to read the settings again does so then.
pub struct Signals {
    system: actix_rt::SystemRunner,
    stop: Stop,
    reload: Signal,
}

impl Signals {
    /// Before anything else: until then the system decides what a signal does.
    pub fn hear() -> anyhow::Result<Self> {
        let system = actix_rt::System::new();
        let listen = async { anyhow::Ok((Stop::listen()?, signal(SignalKind::hangup())?)) };
        let (stop, reload) = system.block_on(listen)?;
        Ok(Self { system, stop, reload })
    }
}

/// The signals that ask a process to end.
struct Stop(Signal, Signal);

impl Stop {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    }

    /// Cancel safety: what came while nobody waited is said the next time.
    async fn told(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// How often the store is asked whether an append would succeed. Readiness is what the last answer said.
const READINESS_EVERY: Duration = Duration::from_secs(2);

/// No answer for this long is an answer, too.
const READINESS_PATIENCE: Duration = Duration::from_secs(5);

/// The last answer of the store, for those who ask whether the server is ready.
struct StoreReadiness(Mutex<(Instant, Result<(), String>)>);

impl Readiness for StoreReadiness {
    fn ready(&self) -> Result<(), String> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = last.0.elapsed();
        if silent > READINESS_EVERY + READINESS_PATIENCE {
            return Err(format!("the store has not answered for {} s", silent.as_secs()));
        }
        last.1.clone()
    }
}

/// What an operator sees of a node beside its figures.
struct Around {
    node: String,
    hub: Arc<Hub>,
    router: Router,
    cluster: Option<Arc<Cluster>>,
}

impl Look for Around {
    fn look(&self) -> BoxFuture<Status> {
        let mut nodes = self.cluster.as_ref().map(|cluster| cluster.nodes()).unwrap_or_default();
        nodes.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        nodes.truncate(NODES_SHOWN_MAX);
        let feeds = self.router.longest_queues(SLOWEST_MAX).into_iter();
        let feeds = feeds.map(|(feed, operations)| FeedStatus {
            user: feed.to_string(),
            operations,
        });
        let (node, nodes, feeds, hub) = (self.node.clone(), nodes, feeds.collect(), self.hub.clone());
        Box::pin(async move {
            let (slowest, workers_silent) = hub.slowest().await;
            let slowest = slowest.into_iter().map(|lag| SlowStatus {
                user: lag.user.to_string(),
                bytes: lag.bytes,
                behind_ms: lag.behind_ms,
            });
            Status {
                node,
                build: build(),
                nodes,
                slowest: slowest.collect(),
                workers_silent,
                feeds,
            }
        })
    }
}

/// Nodes that the operator's page lists: far more than a cluster has.
const NODES_SHOWN_MAX: usize = 256;

/// The store's readiness, and what the node knows of the others.
struct NodeReadiness(Arc<dyn Readiness>, Option<Arc<Cluster>>);

impl Readiness for NodeReadiness {
    fn ready(&self) -> Result<(), String> {
        self.0.ready()
    }

    fn degraded(&self) -> Option<String> {
        let (is_up, _) = self.1.as_ref()?.status();
        (!is_up).then(|| "Redis does not carry messages: this node works alone and reads the log instead".to_owned())
    }
}

impl StoreReadiness {
    async fn watch(self: Arc<Self>, store: Opened) {
        let mut tick = tokio::time::interval(READINESS_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let answer = store.ready().await;
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), answer);
        }
    }
}

/// Puts what the store does into the figures.
struct StoreFigures(Arc<Metrics>);

impl StoreObserver for StoreFigures {
    fn fsync(&self, took: Duration) {
        self.0.fsyncs.inc();
        self.0.fsync_duration.observe(took);
    }
    fn group(&self, appends: usize, _bytes: usize) {
        self.0.appends.inc_by(appends as u64);
    }
    fn full(&self) {
        self.0.store_errors.inc();
    }
    fn error(&self) {
        self.0.store_errors.inc();
    }
    fn damage(&self) {
        self.0.store_errors.inc();
    }
    fn wal_bytes(&self, bytes: u64) {
        self.0.store_wal_bytes.set(bytes as f64);
    }
    fn tail_bytes(&self, bytes: usize) {
        self.0.store_tail_bytes.set(bytes as f64);
    }
    fn bytes_free(&self, bytes: u64) {
        self.0.store_bytes_free.set(bytes as f64);
    }
}

/// Puts what the database does into the figures.
struct CqlFigures(Arc<Metrics>);

impl CqlObserver for CqlFigures {
    fn request(&self, which: CqlRequest, took: Duration) {
        self.0.cql_request_duration.of(which).observe(took);
    }
    fn speculated(&self) {
        self.0.cql_speculations.inc();
    }
    fn error(&self, class: CqlError) {
        self.0.cql_errors.of(class).inc();
        self.0.store_errors.inc();
    }
    fn retry(&self, may: bool) {
        let counted = if may {
            &self.0.cql_retries
        } else {
            &self.0.cql_retries_refused
        };
        counted.inc();
    }
    fn unknown(&self) {
        self.0.cql_unknown.inc();
    }
    fn damage(&self) {
        self.0.store_errors.inc();
    }
}

/// A clock that is this far from Redis' is worth a word, in milliseconds: tokens are good for minutes, and NTP keeps clocks
/// within a tenth of a second.
const CLOCK_OFF_MS: i64 = 5_000;

/// Puts what Redis does into the figures.
struct BusFigures {
    metrics: Arc<Metrics>,
    /// The operator was told that the clock is off.
    told: AtomicBool,
}

impl RedisObserver for BusFigures {
    fn sent(&self, messages: usize) {
        self.metrics.bus_sent.inc_by(messages as u64);
    }
    fn received(&self, _bytes: usize) {
        self.metrics.bus_received.inc();
    }
    fn lag(&self, lag: Duration) {
        self.metrics.bus_lag.observe(lag);
    }
    fn dropped(&self) {
        self.metrics.bus_dropped.inc();
    }
    fn connected(&self) {
        self.metrics.bus_connects.inc();
    }
    fn canary(&self, took: Duration) {
        self.metrics.bus_canary.observe(took);
    }
    fn clock_ahead(&self, ms: i64) {
        self.metrics.clock_ahead.set(ms as f64 / 1000.0);
        let is_off = ms.abs() >= CLOCK_OFF_MS;
        if self.told.swap(is_off, Ordering::Relaxed) != is_off && is_off {
            tracing::warn!(
                seconds_ahead = ms as f64 / 1000.0,
                "this node's clock and that of Redis differ: sign-ins of one node may be refused by another; look at NTP on both"
            );
        }
    }
    fn subscriptions(&self, feeds: usize) {
        self.metrics.bus_subscriptions.set(feeds as f64);
    }
}

/// Puts what happens between nodes into the figures and the log.
struct ClusterFigures(Arc<Metrics>);

impl cluster::shell::Observer for ClusterFigures {
    fn forwarded(&self) {
        self.0.cluster_forwards.inc();
    }
    fn taken(&self) {
        self.0.cluster_requests.inc();
    }
    fn head_read(&self) {
        self.0.cluster_head_reads.inc();
    }
    fn reported(&self, report: &Report) {
        match report {
            Report::Members(names) => {
                self.0.cluster_members.set(names.len() as f64);
                self.0.cluster_changes.inc();
                tracing::info!(members = names.join(", "), "the cluster has other members");
            }
            Report::Up => {
                self.0.bus_up.set(1.0);
            }
            Report::Down(_) => {
                self.0.bus_up.set(0.0);
            }
            Report::Clash(problem) => tracing::error!(problem, "the cluster is set up wrongly"),
            Report::Garbled => {
                self.0.cluster_garbled.inc();
            }
            Report::Stale => {
                self.0.stale.set(1.0);
                tracing::error!(
                    "messages of Redis were missed, and the database does not answer about every feed that is followed: \
                     clients are told that what they show may be old"
                );
            }
            Report::Fresh => {
                self.0.stale.set(0.0);
                tracing::info!("changes are noticed again, and clients are told");
            }
        }
    }
}
