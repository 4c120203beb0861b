//! The server's settings: a TOML file, then `TASKFLOW_…` variables, then flags; the later one wins.
//!
//! Every key stands once, in the table below: its doc comment is what `--help` and `taskflow config print` say about it.

use std::fmt;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use taskflow_actors::domain::find;
use taskflow_protocol::limits;

use crate::auth::token;
use crate::bus::redis;
use crate::mail::Smtp;
use crate::mail::smtp::is_safe as is_safe_smtp;
use crate::store::cql;
use crate::telemetry::sentry::Dsn;

/// Prefix of the variables.
const VARIABLE_PREFIX: &str = "TASKFLOW_";

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ty = $default:expr;)+) => {
        /// The settings of a server, complete and checked.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $($(#[doc = $doc])+ pub $name: $kind,)+
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        /// The flags, and at the same time the keys of the file: a layer that says nothing about a key leaves it.
        #[derive(Clone, Debug, Default, PartialEq, Deserialize, clap::Args)]
        #[serde(default, deny_unknown_fields)]
        pub struct Layer {
            $($(#[doc = $doc])+ #[arg(long, value_name = stringify!($kind))] pub $name: Option<$kind>,)+
        }

        /// Every key and what it means.
        pub const KEYS: &[(&str, &[&str])] = &[$((stringify!($name), &[$($doc),+]),)+];

        impl Layer {
            /// Reads the variables of the environment through `get`, so that tests bring their own.
            fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
                let mut layer = Self::default();
                $(
                    if let Some((variable, text)) = said(stringify!($name), &get)? {
                        let value = text.parse::<$kind>().map_err(|error| {
                            ConfigError::Variable { variable, cause: error.to_string() }
                        })?;
                        layer.$name = Some(value);
                    }
                )+
                Ok(layer)
            }
        }

        impl Config {
            /// The keys whose values are others.
            fn differs_in(&self, other: &Self) -> Vec<&'static str> {
                let mut keys = Vec::new();
                $(if self.$name != other.$name {
                    keys.push(stringify!($name));
                })+
                keys
            }

            fn take(&mut self, key: &str, from: &Self) {
                match key {
                    $(stringify!($name) => self.$name = from.$name.clone(),)+
                    _ => {}
                }
            }
        }

        impl Loaded {
            fn apply(&mut self, layer: Layer, source_of: impl Fn(&'static str) -> Source) {
                $(
                    if let Some(value) = layer.$name {
                        self.config.$name = value;
                        self.sources.push((stringify!($name), source_of(stringify!($name))));
                    }
                )+
            }

            fn value_text(&self, key: &str) -> String {
                match key {
                    $(stringify!($name) => toml_text(&self.config.$name),)+
                    _ => String::new(),
                }
            }
        }
    };
}

settings! {
    /// What this server is: dev (on a machine of your own), staging or prod. staging and prod do not start without TLS or behind_proxy; prod refuses what belongs to development, too: see docs/operations.md.
    environment: Environment = Environment::Dev;

    /// Address and port for clients: REST, WebSocket, event streams. Port 0 takes a free one.
    listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8080));

    /// Address and port for the operator: /metrics and /health. Keep it from the public.
    operator_listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9464));

    /// File with the certificate chain (PEM) for TLS on listen. Empty: no TLS. It is read again when it changes, and on SIGHUP.
    tls_certificate: PathBuf = PathBuf::new();

    /// File with the private key (PEM) of tls_certificate.
    tls_key: PathBuf = PathBuf::new();

    /// Address and port that sends who comes without TLS to listen, for where TLS is on. Empty: none.
    redirect_listen: Address = Address(None);

    /// Whether a proxy in front speaks TLS with the clients. It must be among trusted_proxies.
    behind_proxy: bool = false;

    /// Whether what comes to listen from trusted_proxies begins with a PROXY protocol header (version 2), which says whose connection it is.
    proxy_protocol: bool = false;

    /// Names (such as tasks.example, separated by commas) by which clients may reach this server, without the port. Empty: any name.
    hosts: Names = Names(Vec::new());

    /// Seconds for which browsers, once they came over TLS, come over nothing else (Strict-Transport-Security); where TLS is on, or behind_proxy. 0: it is not said.
    hsts_seconds: u32 = 31_536_000;

    /// Folder of everything that must outlive the process: the store, and the key that signs access tokens.
    data_dir: PathBuf = PathBuf::from("./data");

    /// Origins (such as https://app.example) whose pages may call this server. Its own origin always may.
    origins_allowed: Origins = Origins(Vec::new());

    /// Who may make an account: open (anyone), verified (whoever follows the link in a letter to the address; it is not told then which addresses have accounts) or closed (nobody; existing accounts go on working).
    registration: Registration = Registration::Open;

    /// Others whose access tokens (JWT) are taken, each { issuer, audience, jwks, user_claim, scope_claim }: see docs/operations.md.
    issuers: IssuerList = IssuerList(Vec::new());

    /// The mail server that letters go out through: smtps://user:password@host, or smtp://user:password@host?tls=required for STARTTLS. Empty: none go out, and with environment = dev they are written to the log.
    smtp: Secret = Secret(String::new());

    /// Whom letters come from, such as TaskFlow <tasks@tasks.example>.
    mail_from: Name = Name(String::new());

    /// Where people reach this server, such as https://tasks.example: links in letters begin with it. Empty: http:// and listen.
    public_url: Name = Name(String::new());

    /// Sign-ins, registrations and changes of password that one network address, and one account, may try within 15 minutes. 0: any number.
    sign_in_attempts_max: usize = limits::SIGN_IN_ATTEMPTS_MAX;

    /// Whether limits on how often something may be done refuse what is too much (enforce), or only count it (count), to see whom they would meet.
    rate_limits: RateLimits = RateLimits::Enforce;

    /// Requests a second that one user may make for long without changing anything; ten seconds' worth may come at once. 0: any number.
    reads_a_second_max: u32 = 200;

    /// Operations a second that one user may make for long, on the WebSocket and by REST; ten seconds' worth may come at once. 0: any number.
    writes_a_second_max: u32 = 500;

    /// Requests and handshakes a second that may come from one address for long without a token, or with a bad one; ten seconds' worth may come at once. 0: any number.
    strangers_a_second_max: u32 = 100;

    /// Bytes a second that one WebSocket may send for long; ten seconds' worth may come at once. What is more waits in the network until there is room. 0: any number.
    socket_bytes_a_second_max: u32 = limits::SOCKET_BYTES_A_SECOND_MAX;

    /// Networks (such as 10.0.0.0/8, separated by commas) of the proxies in front of this server. Only from them is it believed whose request they pass on. Empty: nobody; behind a proxy all users then have one address.
    trusted_proxies: Networks = Networks(Vec::new());

    /// The header in which the trusted proxies say whose request they pass on: x-forwarded-for or forwarded (RFC 7239).
    forwarded_header: ForwardedHeader = ForwardedHeader::XForwardedFor;

    /// Connections that one user may have at once on all nodes, event streams and long-polls included.
    connections_a_user_max: usize = limits::CONNECTIONS_A_USER_MAX;

    /// WebSockets that the server takes at once. An idle one costs about 2.5 KiB of memory, and each one open file.
    connections_max: usize = 100_000;

    /// Handshakes under way at once. Each holds about 16 KiB until it is done.
    handshakes_max: usize = limits::HANDSHAKES_MAX;

    /// Bytes of memory from which the server is full: near it, it does less (docs/operations.md, "More than it can"). 0: what its control group or the machine has.
    memory_bytes_max: u64 = 0;

    /// Seconds for which the server goes on as before when it is told to stop, but for /health/ready, which says that it is not ready: what a balancer needs to notice. 0: no balancer.
    drain_wait_seconds: u64 = 0;

    /// Clients a second that are then sent to other nodes: as many as those, or this one when it is back, take well. More, if all of them would not be gone in drain_seconds_max.
    drain_clients_a_second: u32 = 1_000;

    /// Seconds from being told to stop until the server has ended. Clients that are still there after them are cut; nothing that was confirmed is lost.
    drain_seconds_max: u64 = 30;

    /// Milliseconds between heartbeats. Many proxies cut what is silent for 30 s.
    heartbeat_ms: u64 = limits::HEARTBEAT_MS;

    /// Bytes that may wait for one connection. A client that reads more slowly is cut, and catches up from the log.
    outbound_bytes_max: usize = limits::OUTBOUND_BYTES_MAX;

    /// Bytes that may wait for all connections together: what the machine's memory has room for. Beyond it the connection with the most is cut, and catches up from the log.
    outbound_bytes_total_max: usize = limits::OUTBOUND_BYTES_TOTAL_MAX;

    /// Seconds that an access token is good for. A sign-out ends it at once all the same.
    access_token_seconds: u32 = 600;

    /// Days that a sign-in lasts without being used.
    refresh_token_days: u32 = 30;

    /// Days between the wish to delete an account and its deletion, during which it can be kept after all. 0: at once.
    account_grace_days: u32 = 14;

    /// Where everything is kept: embedded (in data_dir, one node) or cql (ScyllaDB or Cassandra, many nodes).
    store: StoreKind = StoreKind::Embedded;

    /// Addresses (host:port, separated by commas) of some nodes of the database, for store = cql. The others are found through them.
    cql_nodes: Names = Names(Vec::new());

    /// Keyspace in the database. `taskflow migrate` makes it.
    cql_keyspace: Name = Name("taskflow".to_owned());

    /// Replicas of everything in the data centre, when the keyspace is made.
    cql_replication: u8 = 3;

    /// Data centre of the database that this node talks to. Empty: the one of the first node found.
    cql_datacenter: Name = Name(String::new());

    /// Rack whose replicas are asked first. Empty: any.
    cql_rack: Name = Name(String::new());

    /// Name to sign in to the database with. Empty: without signing in.
    cql_user: Name = Name(String::new());

    /// File with the password for cql_user, on one line.
    cql_password_file: PathBuf = PathBuf::new();

    /// File with the certificates (PEM) that those of the database lead to. Empty: no TLS.
    cql_tls_ca: PathBuf = PathBuf::new();

    /// Requests to the database under way at once. A request takes a few milliseconds: 512 are more than 100,000 a second.
    cql_requests_max: usize = 512;

    /// Whether commits and rows of more than 1 KiB are compressed (LZ4) in the database. Builds from before this setting cannot read that: set false while one of them is in the cluster, or may come back.
    cql_compress: bool = true;

    /// Addresses (redis://host:port, or rediss:// with TLS, separated by commas) of Redis, which carries messages between the nodes: the server, the sentinels, or some nodes of the cluster. Empty: this node is alone.
    redis: Names = Names(Vec::new());

    /// What kind of Redis it is: standalone, sentinel or cluster.
    redis_mode: RedisMode = RedisMode::Standalone;

    /// Name of the server that the sentinels watch, for redis_mode = sentinel.
    redis_master: Name = Name("mymaster".to_owned());

    /// Name of this cluster. Clusters that share a Redis keep apart by it.
    cluster_name: Name = Name("taskflow".to_owned());

    /// Name of this node, the same after every start and another for every node. Empty: host name and port.
    node_name: Name = Name(String::new());

    /// What this node does, separated by commas: gateway (serves clients) and feeds (hosts feeds).
    roles: Roles = Roles { gateway: true, feeds: true };

    /// Folder with the key that signs access tokens (keys/ed25519.pem); the same on all nodes of a cluster. Empty: data_dir.
    key_dir: PathBuf = PathBuf::new();

    /// The key that signs access tokens itself (PKCS #8, PEM), for where it comes from a secret and not from a folder; behind it others whose tokens are still taken. Empty: those in key_dir.
    signing_key: Secret = Secret(String::new());

    /// Seconds without use after which a feed leaves memory. It comes back when it is needed.
    feed_idle_seconds: u64 = 60;

    /// Threads that serve connections; 0: as many as there are cores.
    workers: usize = 0;

    /// Threads that run feeds; 0: as many as there are cores; 1: the main thread, where the driver of the database is.
    feed_arbiters: usize = 0;

    /// The least important messages that are logged: error, warn, info, debug or trace.
    log_level: LogLevel = LogLevel::Info;

    /// Where traces go: the address of a collector that takes OTLP over HTTP, such as http://127.0.0.1:4318, without the path. Empty: nowhere, and nothing is traced.
    otlp_endpoint: Name = Name(String::new());

    /// Of the requests and operations whose clients say nothing about it, how many are traced where traces are on: from 0 (none) to 1 (all). A client that sends a traceparent says so itself.
    trace_sample_ratio: f64 = 0.01;

    /// How log lines look: json (one document a line) or text (for people).
    log_format: LogFormat = LogFormat::Json;

    /// Where errors and panics are told: the DSN of a project in Sentry, or in what takes the same (https://KEY@HOST/PROJECT). Empty: nowhere.
    sentry_dsn: Secret = Secret(String::new());
}

/// The variable of a key.
fn variable_of(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.to_ascii_uppercase())
}

/// What the environment says about a key, and in which variable: in one of its own, or in the file that one with `_FILE`
/// behind it names.
fn said(key: &str, get: &impl Fn(&str) -> Option<String>) -> Result<Option<(String, String)>, ConfigError> {
    let variable = variable_of(key);
    let in_file = file_variable_of(key).and_then(|name| Some((get(&name)?, name)));
    match (get(&variable), in_file) {
        (None, None) => Ok(None),
        (Some(text), None) => Ok(Some((variable, text))),
        (None, Some((path, name))) => match std::fs::read_to_string(&path) {
            // Who writes a file ends its last line.
            Ok(text) => Ok(Some((name, text.trim_end_matches(['\r', '\n']).to_owned()))),
            Err(cause) => {
                let cause = format!("cannot read {path}: {cause}");
                Err(ConfigError::Variable { variable: name, cause })
            }
        },
        (Some(_), Some((_, name))) => {
            let cause = format!("{name} is set, too: which of the two counts?");
            Err(ConfigError::Variable { variable, cause })
        }
    }
}

/// The variable that names a file with the value of a key; none where a key of its own has that name.
fn file_variable_of(key: &str) -> Option<String> {
    let other = format!("{key}_file");
    KEYS.iter()
        .all(|(known, _)| *known != other)
        .then(|| variable_of(&other))
}

/// The flag of a key.
fn flag_of(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

fn toml_text<T: Serialize>(value: &T) -> String {
    match toml::Value::try_from(value) {
        Ok(value) => value.to_string(),
        // Only a map or a null inside could fail, and no setting has one.
        Err(error) => format!("# {error}"),
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[doc = $variant_doc:literal])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[doc = $variant_doc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// As it is written in the settings.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("{text:?} is not one of {}", [$($word),+].join(", "))),
                }
            }
        }
    };
}

words! {
    /// What a server is.
    Environment {
        /// On a machine of one's own.
        Dev = "dev",
        /// Where what goes to people is tried before.
        Staging = "staging",
        /// For people.
        Prod = "prod",
    }
}

words! {
    /// Who may make an account.
    Registration {
        /// Anyone.
        Open = "open",
        /// Whoever has the mailbox.
        Verified = "verified",
        /// Nobody.
        Closed = "closed",
    }
}

words! {
    /// What limits on how often something may be done do.
    RateLimits {
        /// Refuse.
        Enforce = "enforce",
        /// Count.
        Count = "count",
    }
}

words! {
    /// The header in which proxies say whose request they pass on.
    ForwardedHeader {
        /// As nearly all write it.
        XForwardedFor = "x-forwarded-for",
        /// As in RFC 7239.
        Forwarded = "forwarded",
    }
}

words! {
    /// The least important messages that are logged.
    LogLevel {
        /// What failed for good.
        Error = "error",
        /// What went wrong and was dealt with.
        Warn = "warn",
        /// What an operator wants to know.
        Info = "info",
        /// What a developer wants to know.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

words! {
    /// Where everything is kept.
    StoreKind {
        /// In the data folder.
        Embedded = "embedded",
        /// In a database that speaks CQL.
        Cql = "cql",
    }
}

words! {
    /// What kind of Redis there is.
    RedisMode {
        /// One server.
        Standalone = "standalone",
        /// Sentinels that know the server.
        Sentinel = "sentinel",
        /// Redis Cluster.
        Cluster = "cluster",
    }
}

words! {
    /// How log lines look.
    LogFormat {
        /// One JSON document a line.
        Json = "json",
        /// For people.
        Text = "text",
    }
}

/// A word, perhaps empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Name(pub String);

impl FromStr for Name {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.trim().to_owned()))
    }
}

impl Name {
    /// Nothing, where it is empty.
    pub fn get(&self) -> Option<&str> {
        (!self.0.is_empty()).then_some(&self.0)
    }
}

/// What nobody must see: it is neither printed nor logged.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

/// What stands where a secret is.
const HIDDEN: &str = "********";

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "" } else { HIDDEN })
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "" } else { HIDDEN })
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// An address with a port, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(pub Option<SocketAddr>);

impl FromStr for Address {
    type Err = std::net::AddrParseError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "" => Ok(Self(None)),
            text => text.parse().map(|address| Self(Some(address))),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = std::net::AddrParseError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(Address(address): Address) -> Self {
        address.map_or_else(Self::new, |address| address.to_string())
    }
}

/// Words. In a variable or flag, separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Names(pub Vec<String>);

impl FromStr for Names {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        Ok(Self(names.map(str::to_owned).collect()))
    }
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Names", into = "Names")]
pub struct Roles {
    /// It serves clients.
    pub gateway: bool,
    /// It hosts feeds.
    pub feeds: bool,
}

impl TryFrom<Names> for Roles {
    type Error = String;
    fn try_from(names: Names) -> Result<Self, String> {
        let mut roles = Self {
            gateway: false,
            feeds: false,
        };
        for name in &names.0 {
            match name.as_str() {
                "gateway" => roles.gateway = true,
                "feeds" => roles.feeds = true,
                other => return Err(format!("{other:?} is no role: gateway, feeds")),
            }
        }
        match names.0.is_empty() {
            true => Err("a node has one role at least: gateway, feeds".to_owned()),
            false => Ok(roles),
        }
    }
}

impl From<Roles> for Names {
    fn from(roles: Roles) -> Self {
        let names = [(roles.gateway, "gateway"), (roles.feeds, "feeds")];
        Self(
            names
                .iter()
                .filter(|(has, _)| *has)
                .map(|(_, name)| (*name).to_owned())
                .collect(),
        )
    }
}

impl FromStr for Roles {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let Ok(names) = Names::from_str(text);
        Self::try_from(names)
    }
}

/// Origins, each as a browser sends it: scheme, host and, if it is not the scheme's own, port. In a variable or flag,
/// separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Origins(pub Vec<String>);

impl FromStr for Origins {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let origins = text.split(',').map(str::trim).filter(|origin| !origin.is_empty());
        Ok(Self(origins.map(str::to_owned).collect()))
    }
}

impl Origins {
    /// Whether a page of this origin may call a server that it reached as `host` (the `Host` header).
    ///
    /// Its own origin always may: the origin without its scheme is then what the browser put into `Host` (RFC 6454,
    /// section 7; a proxy in front must pass `Host` on).
    pub fn allow(&self, origin: &str, host: Option<&str>) -> bool {
        let own = origin.split_once("://").map(|(_, rest)| rest);
        let same = matches!((own, host), (Some(own), Some(host)) if own.eq_ignore_ascii_case(host));
        same || self.0.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
    }
}

/// Networks, each an address or with the length of its prefix. In a variable or flag, separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Names", into = "Names")]
pub struct Networks(pub Vec<IpNet>);

impl TryFrom<Names> for Networks {
    type Error = String;
    fn try_from(names: Names) -> Result<Self, String> {
        let network = |name: String| {
            let address = name.parse::<IpAddr>().map(IpNet::from);
            let network = address.or_else(|_| name.parse::<IpNet>());
            network.map_err(|_| format!("{name:?} is no network: write 10.0.0.0/8 or 2001:db8::/32"))
        };
        names.0.into_iter().map(network).collect::<Result<_, _>>().map(Self)
    }
}

impl From<Networks> for Names {
    fn from(networks: Networks) -> Self {
        Self(networks.0.iter().map(IpNet::to_string).collect())
    }
}

impl FromStr for Networks {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let Ok(names) = Names::from_str(text);
        Self::try_from(names)
    }
}

impl Networks {
    /// Whether the address is in one of them.
    pub fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// Somebody whose access tokens are taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The claim `iss`, to the letter.
    pub issuer: String,
    /// What the claim `aud` must be, or have among others.
    pub audience: String,
    /// Where its key set is; empty: at `/.well-known/jwks.json` behind the issuer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jwks: String,
    /// The claim that names the user: one that never changes and is never given to another.
    #[serde(default = "sub")]
    pub user_claim: String,
    /// The claim with the scopes tasks:read and tasks:write; empty: every token lets do both.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scope_claim: String,
}

fn sub() -> String {
    "sub".to_owned()
}

impl Issuer {
    /// Where its key set is.
    pub fn jwks(&self) -> String {
        if self.jwks.is_empty() {
            return format!("{}/.well-known/jwks.json", self.issuer.trim_end_matches('/'));
        }
        self.jwks.clone()
    }
}

/// Issuers. In a variable or flag, written as in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IssuerList(pub Vec<Issuer>);

impl FromStr for IssuerList {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct File {
            issuers: IssuerList,
        }
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let file = toml::from_str::<File>(&format!("issuers = {text}"));
        file.map(|file| file.issuers).map_err(|error| {
            let error = error.message();
            format!("{error}; write [{{ issuer = \"https://id.example\", audience = \"taskflow\" }}]")
        })
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// This file.
    File(PathBuf),
    /// This variable.
    Variable(String),
    /// This flag.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file is not what it should be; the text names line and key.
    #[error("{}: {cause}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the parser says.
        cause: String,
    },
    /// A variable is not what it should be.
    #[error("{variable}: {cause}")]
    Variable {
        /// Which.
        variable: String,
        /// Why.
        cause: String,
    },
    /// A value is not allowed.
    #[error("{key} ({source_text}): {cause}")]
    Value {
        /// The key.
        key: &'static str,
        /// Where the value came from.
        source_text: String,
        /// What is wrong with it.
        cause: String,
    },
}

/// What to say of the first key in the file that is no setting. A file that is no TOML says more about itself later.
fn unknown_key(text: &str) -> Option<String> {
    let table = text.parse::<toml::Table>().ok()?;
    let key = table.keys().find(|key| KEYS.iter().all(|(known, _)| known != key))?;
    let is_it = |line: &str| {
        line.trim_start()
            .trim_start_matches(['[', '"'])
            .starts_with(key.as_str())
    };
    let line = text.lines().position(is_it).map_or(0, |at| at + 1);
    Some(format!("line {line}: there is no setting {key}{}", meant(key)))
}

/// What to say of a mistake in the file, and where it is: neither its line nor the value, which may be a password.
fn mistake(text: &str, error: &toml::de::Error) -> String {
    let message = match error.message().rsplit_once(", expected ") {
        Some((wrong, expected)) if wrong.starts_with("invalid ") || wrong.starts_with("unknown variant") => {
            let wrong = wrong.split(['"', '`']).next().unwrap_or_default().trim_end();
            format!("{wrong}, expected {expected}").replace("a sequence", "a list such as [\"one\", \"two\"]")
        }
        _ => error.message().to_owned(),
    };
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return message;
    };
    let line = before.matches('\n').count();
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    // What begins no line of a setting may be part of a value.
    let key_of = |line: &str| {
        let line = line.trim_start_matches(|c: char| c.is_whitespace() || "[\"'".contains(c));
        let word = line.split(|c: char| c.is_whitespace() || "=]\"'".contains(c)).next()?;
        KEYS.iter().map(|(known, _)| *known).find(|known| *known == word)
    };
    let lines: Vec<&str> = text.lines().take(line + 1).collect();
    let key = lines.into_iter().rev().find_map(key_of);
    let key = key.map_or_else(String::new, |key| format!(" ({key})"));
    format!("line {}, column {column}{key}: {message}", line + 1)
}

/// The setting that somebody may have meant by a key or a variable.
pub fn meant(key: &str) -> String {
    let key = key.trim_start_matches(VARIABLE_PREFIX).to_ascii_lowercase();
    let meant = find::meant(&key, KEYS.iter().map(|(known, _)| *known));
    if meant.is_empty() {
        return "; `taskflow config print` shows all".to_owned();
    }
    meant
}

/// Whether Kubernetes made this variable, for a service whose name begins with taskflow
/// (<https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>).
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let has = |part: &str| name.contains(part);
    has("_SERVICE_HOST")
        || has("_SERVICE_PORT")
        || has("_PORT") && value.contains("://")
        || has("_PORT_") && (has("_TCP_") || has("_UDP_") || has("_SCTP_"))
}

/// The settings, and where each came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// From where they can be read again.
    file: Option<PathBuf>,
    flags: Layer,
    /// In the order in which they were set: the last one for a key holds.
    sources: Vec<(&'static str, Source)>,
    /// Variables with our prefix that are no setting, and not what Kubernetes makes of a service called taskflow. They may be
    /// somebody else's, so a server that starts reports them; see [`Loaded::check_variables`].
    pub variables_unknown: Vec<String>,
}

impl Loaded {
    /// Reads file, environment and flags.
    pub fn load(file: Option<&Path>, flags: Layer) -> Result<Self, ConfigError> {
        let mut loaded = Self::from_layers(file, |name| std::env::var(name).ok(), flags)?;
        // Set for the command line itself: not settings of the server.
        const OTHERS: [&str; 5] = ["CONFIG", "ENCODING", "PASSWORD", "PROFILE", "SERVER"];
        loaded.variables_unknown = std::env::vars()
            .filter(|(name, value)| !is_of_kubernetes(name, value))
            .map(|(name, _)| name)
            .filter(|name| {
                name.strip_prefix(VARIABLE_PREFIX).is_some_and(|rest| {
                    let of_file = rest.strip_suffix("_FILE").unwrap_or(rest);
                    let is_key = |rest: &str| KEYS.iter().any(|(key, _)| key.eq_ignore_ascii_case(rest));
                    !OTHERS.contains(&rest) && !is_key(rest) && !is_key(of_file)
                })
            })
            .collect();
        Ok(loaded)
    }

    fn from_layers(
        file: Option<&Path>,
        variable: impl Fn(&str) -> Option<String>,
        flags: Layer,
    ) -> Result<Self, ConfigError> {
        let mut loaded = Self {
            config: Config::default(),
            file: file.map(Path::to_owned),
            flags: flags.clone(),
            sources: Vec::new(),
            variables_unknown: Vec::new(),
        };
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).map_err(|cause| ConfigError::Read {
                path: path.to_owned(),
                cause,
            })?;
            let wrong = |cause: String| ConfigError::File {
                path: path.to_owned(),
                cause,
            };
            if let Some(cause) = unknown_key(&text) {
                return Err(wrong(cause));
            }
            let layer = toml::from_str::<Layer>(&text).map_err(|error| wrong(mistake(&text, &error)))?;
            loaded.apply(layer, |_| Source::File(path.to_owned()));
        }
        let variables = Layer::from_variables(&variable)?;
        loaded.apply(variables, |key| {
            let in_file = file_variable_of(key).filter(|name| variable(name).is_some());
            Source::Variable(in_file.unwrap_or_else(|| variable_of(key)))
        });
        loaded.apply(flags, |key| Source::Flag(flag_of(key)));
        loaded.check()?;
        Ok(loaded)
    }

    /// Refuses variables that are no setting: for those who ask whether all is right.
    pub fn check_variables(&self) -> Result<(), ConfigError> {
        match self.variables_unknown.first() {
            None => Ok(()),
            Some(variable) => Err(ConfigError::Variable {
                cause: format!("this variable is no setting{}", meant(variable)),
                variable: variable.clone(),
            }),
        }
    }

    /// Reads file, environment and flags again.
    pub fn reload(&self) -> Result<Self, ConfigError> {
        Self::load(self.file.as_deref(), self.flags.clone())
    }

    /// Where the value of a key came from.
    pub fn source(&self, key: &str) -> Source {
        let last = self.sources.iter().rev().find(|(set, _)| *set == key);
        last.map_or(Source::Default, |(_, source)| source.clone())
    }

    /// A TOML file with every key, what it means, and where its present value came from.
    pub fn print(&self) -> String {
        let mut text = String::from(
            "# Settings of TaskFlow. Variables (TASKFLOW_ and the key in capitals) beat this file, flags beat both.\n",
        );
        for (key, docs) in KEYS {
            text.push('\n');
            for doc in *docs {
                let _ = writeln!(text, "#{doc}");
            }
            let _ = writeln!(text, "# from: {}", self.source(key));
            let value = self.value_text(key);
            match without_secrets(&value) {
                // It would not mean the same.
                Some(hidden) => drop(writeln!(text, "# {key} = {hidden}")),
                None => drop(writeln!(text, "{key} = {value}")),
            }
        }
        text
    }

    /// A value that cannot be, and where it came from.
    fn refused(&self, key: &'static str, cause: String) -> ConfigError {
        ConfigError::Value {
            key,
            source_text: self.source(key).to_string(),
            cause,
        }
    }

    /// Refuses values with which the server could not work.
    fn check(&self) -> Result<(), ConfigError> {
        let config = &self.config;
        let refuse = |key, cause| Err(self.refused(key, cause));
        let ranges: [(&'static str, u64, u64, u64); 15] = [
            ("account_grace_days", u64::from(config.account_grace_days), 0, 365),
            (
                "connections_a_user_max",
                config.connections_a_user_max as u64,
                1,
                1_000_000,
            ),
            ("connections_max", config.connections_max as u64, 1, 10_000_000),
            ("handshakes_max", config.handshakes_max as u64, 1, 100_000),
            // The wheel that sends them turns once a second; above 10 minutes dead connections pile up.
            ("heartbeat_ms", config.heartbeat_ms, 1_000, 600_000),
            // A push of one whole commit must fit, or its followers could never get it.
            (
                "outbound_bytes_max",
                config.outbound_bytes_max as u64,
                limits::COMMIT_BYTES_MAX as u64,
                1024 * 1024 * 1024,
            ),
            (
                "outbound_bytes_total_max",
                config.outbound_bytes_total_max as u64,
                limits::COMMIT_BYTES_MAX as u64,
                1024 * 1024 * 1024 * 1024,
            ),
            (
                "access_token_seconds",
                u64::from(config.access_token_seconds),
                10,
                86_400,
            ),
            ("refresh_token_days", u64::from(config.refresh_token_days), 1, 3_650),
            (
                "drain_clients_a_second",
                u64::from(config.drain_clients_a_second),
                1,
                1_000_000,
            ),
            // Two seconds are kept for the end: see `serve`.
            ("drain_seconds_max", config.drain_seconds_max, 5, 3_600),
            ("feed_idle_seconds", config.feed_idle_seconds, 1, 86_400),
            ("workers", config.workers as u64, 0, 1_024),
            ("cql_replication", u64::from(config.cql_replication), 1, 9),
            ("cql_requests_max", config.cql_requests_max as u64, 1, 100_000),
        ];
        for (key, value, least, most) in ranges {
            if value < least || value > most {
                return refuse(key, format!("{value} is not between {least} and {most}"));
            }
        }
        if config.feed_arbiters > 1_024 {
            return refuse(
                "feed_arbiters",
                format!("{} is not between 0 and 1024", config.feed_arbiters),
            );
        }
        if config.drain_wait_seconds + 4 > config.drain_seconds_max {
            let cause = "nothing of drain_seconds_max would be left for the clients: it must be at least 4 more than drain_wait_seconds";
            return refuse("drain_wait_seconds", cause.to_owned());
        }
        let endpoint = &config.otlp_endpoint.0;
        if !endpoint.is_empty() && !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return refuse(
                "otlp_endpoint",
                format!("{endpoint:?} does not begin with http:// or https://"),
            );
        }
        if !(0.0..=1.0).contains(&config.trace_sample_ratio) {
            let ratio = config.trace_sample_ratio;
            return refuse("trace_sample_ratio", format!("{ratio} is not between 0 and 1"));
        }
        self.check_environment()?;
        if config.tls_certificate.as_os_str().is_empty() != config.tls_key.as_os_str().is_empty() {
            let cause = "tls_certificate and tls_key belong together: set both or none";
            return refuse("tls_key", cause.to_owned());
        }
        if config.redirect_listen.0.is_some() && !config.has_tls() {
            let cause = "there is no TLS here to send anybody to: set tls_certificate and tls_key";
            return refuse("redirect_listen", cause.to_owned());
        }
        for (key, is_set) in [
            ("behind_proxy", config.behind_proxy),
            ("proxy_protocol", config.proxy_protocol),
        ] {
            if is_set && config.trusted_proxies.0.is_empty() {
                let cause = "nobody would believe that proxy: name its network in trusted_proxies";
                return refuse(key, cause.to_owned());
            }
        }
        self.check_letters()?;
        if let Err(cause) = config.sentry() {
            return refuse("sentry_dsn", cause.to_owned());
        }
        for (place, issuer) in config.issuers.0.iter().enumerate() {
            if config.issuers.0[..place]
                .iter()
                .any(|other| other.issuer == issuer.issuer)
            {
                return refuse("issuers", format!("{:?} is there twice", issuer.issuer));
            }
            let jwks = issuer.jwks();
            let is_dev = config.environment == Environment::Dev;
            if !(jwks.starts_with("https://") || is_dev && jwks.starts_with("http://")) {
                let cause =
                    format!("{jwks:?} does not begin with https://: whoever is on the way to it could be anybody");
                return refuse("issuers", cause);
            }
            if issuer.issuer == token::ISSUER || issuer.issuer.is_empty() || issuer.audience.is_empty() {
                let cause = "issuer and audience must say something, and issuer something else than this server";
                return refuse("issuers", cause.to_owned());
            }
        }
        for host in &config.hosts.0 {
            if host.contains(['/', ' ', '*']) || host.is_empty() {
                return refuse("hosts", format!("{host:?} is no name of a host; write tasks.example"));
            }
        }
        if config.listen == config.operator_listen && config.listen.port() != 0 {
            return refuse("operator_listen", "it is the same as listen".to_owned());
        }
        if config.store == StoreKind::Cql && config.cql_nodes.0.is_empty() {
            return refuse(
                "cql_nodes",
                "store = cql needs the address of a node at least".to_owned(),
            );
        }
        if !config.redis.0.is_empty() && config.store == StoreKind::Embedded {
            let cause = "the nodes of a cluster share one store: set store = cql, or leave redis empty";
            return refuse("redis", cause.to_owned());
        }
        for address in &config.redis.0 {
            if !address.starts_with("redis://") && !address.starts_with("rediss://") {
                // Not which: a password may stand in it.
                let cause = "one of the addresses does not begin with redis:// or rediss://";
                return refuse("redis", cause.to_owned());
            }
        }
        let is_word = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if config.cluster_name.0.is_empty() || !is_word(&config.cluster_name.0) {
            let cause = "it is part of channel names: letters, digits, _ and - only";
            return refuse("cluster_name", cause.to_owned());
        }
        let keyspace = &config.cql_keyspace.0;
        if !keyspace.starts_with(|c: char| c.is_ascii_lowercase()) || !is_word(keyspace) || keyspace.contains('-') {
            return refuse("cql_keyspace", "a letter, then letters, digits and _ only".to_owned());
        }
        for origin in &config.origins_allowed.0 {
            let host = origin.split_once("://").map(|(_, host)| host);
            if !host.is_some_and(|host| !host.is_empty() && !host.contains('/')) {
                let cause = format!("{origin:?} is not an origin; write it as a browser sends it: https://app.example");
                return refuse("origins_allowed", cause);
            }
        }
        Ok(())
    }
}

impl Loaded {
    /// Letters that could not be sent, or whose links would lead nowhere.
    fn check_letters(&self) -> Result<(), ConfigError> {
        let config = &self.config;
        let refuse = |key, cause| Err(self.refused(key, cause));
        if let Some(url) = config.public_url.get()
            && !url.starts_with("https://")
            && !url.starts_with("http://")
        {
            return refuse("public_url", format!("{url:?} does not begin with https:// or http://"));
        }
        if config.smtp.0.is_empty() {
            if config.registration == Registration::Verified && config.environment != Environment::Dev {
                let cause = "verified needs letters: set smtp, mail_from and public_url";
                return refuse("registration", cause.to_owned());
            }
            return Ok(());
        }
        if let Err(cause) = Smtp::new(&config.smtp.0, &config.mail_from.0) {
            return refuse(cause.key, cause.text);
        }
        if config.public_url.get().is_none() {
            return refuse("public_url", "the links in letters begin with it: set it".to_owned());
        }
        Ok(())
    }

    /// What an environment does not start with.
    fn check_environment(&self) -> Result<(), ConfigError> {
        let config = &self.config;
        if config.environment == Environment::Dev {
            return Ok(());
        }
        let refuse = |key, cause: &str| {
            let cause = format!("not for environment = {}: {cause}", toml_text(&config.environment));
            Err(self.refused(key, cause))
        };
        if !config.has_tls() && !config.behind_proxy {
            let cause =
                "passwords would cross the network in the clear; set tls_certificate and tls_key, or behind_proxy";
            return refuse("tls_certificate", cause);
        }
        if config.environment == Environment::Staging {
            return Ok(());
        }
        if let Some(origin) = config
            .origins_allowed
            .0
            .iter()
            .find(|origin| !origin.starts_with("https://"))
        {
            let cause =
                format!("{origin:?} is not safe from who is on the way to it; name origins that begin with https://");
            return refuse("origins_allowed", &cause);
        }
        if config.sign_in_attempts_max == 0 {
            return refuse("sign_in_attempts_max", "passwords could be guessed without end");
        }
        if config.rate_limits == RateLimits::Count {
            return refuse(
                "rate_limits",
                "nothing would be refused; count is for trying limits out",
            );
        }
        if !config.smtp.0.is_empty() {
            if !config.public_url.0.starts_with("https://") {
                return refuse(
                    "public_url",
                    "the links in letters open accounts; let it begin with https://",
                );
            }
            if !is_safe_smtp(&config.smtp.0) {
                let cause = "letters, and the links in them, would cross the network in the clear; use smtps:// or \
                             ?tls=required";
                return refuse("smtp", cause);
            }
        }
        if config.trusted_proxies.0.iter().any(|network| network.prefix_len() == 0) {
            let cause =
                "anybody could say whose request it is; name the networks of the proxies, and not all there are";
            return refuse("trusted_proxies", cause);
        }
        if config.hosts.0.is_empty() {
            return refuse("hosts", "name those by which clients reach this server");
        }
        let passwords = config.redis.0.iter().filter_map(|address| password_in(address));
        for password in passwords {
            if DEVELOPMENT_SECRETS.contains(&password) {
                return refuse("redis", "its password is one that everybody knows");
            }
        }
        if let Ok(cql::Options {
            login: Some((_, password)),
            ..
        }) = config.cql()
            && DEVELOPMENT_SECRETS.contains(&password.as_str())
        {
            return refuse("cql_password_file", "the password in it is one that everybody knows");
        }
        Ok(())
    }
}

/// Passwords that stand in manuals and examples.
const DEVELOPMENT_SECRETS: [&str; 8] = [
    "cassandra",
    "scylla",
    "redis",
    "taskflow",
    "password",
    "secret",
    "changeme",
    "dev",
];

/// The password in an address.
fn password_in(address: &str) -> Option<&str> {
    let (_, rest) = address.split_once("://")?;
    let (login, _) = rest.rsplit_once('@')?;
    let (_, password) = login.split_once(':')?;
    Some(password)
}

/// A value as text, without what nobody must see; `None`: there is nothing of that in it.
fn without_secrets(value: &str) -> Option<String> {
    if value.contains(HIDDEN) {
        return Some(value.to_owned());
    }
    let mut hidden = value.to_owned();
    for address in value.split('"') {
        if let Some(password) = password_in(address).filter(|password| !password.is_empty()) {
            let shown = address.replacen(&format!(":{password}@"), &format!(":{HIDDEN}@"), 1);
            hidden = hidden.replace(address, &shown);
        }
    }
    (hidden != value).then_some(hidden)
}

/// The settings of a server that runs. Some can be changed without a restart.
#[derive(Debug)]
pub struct Live(RwLock<Arc<Config>>);

/// The keys of those. What is asked at each request, and nothing that somebody has built on.
pub const RELOADED: &[&str] = &[
    "account_grace_days",
    "connections_max",
    "forwarded_header",
    "handshakes_max",
    "hosts",
    "hsts_seconds",
    "log_level",
    "memory_bytes_max",
    "origins_allowed",
    "rate_limits",
    "registration",
    "trace_sample_ratio",
    "trusted_proxies",
];

impl Live {
    /// As of the start.
    pub fn new(config: Config) -> Self {
        Self(RwLock::new(Arc::new(config)))
    }

    /// As they are now.
    pub fn now(&self) -> Arc<Config> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes what can be changed. The keys that were, and those that need a restart.
    pub fn change(&self, config: &Config) -> (Vec<&'static str>, Vec<&'static str>) {
        let mut present = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let differs = present.differs_in(config);
        let (changed, rest): (Vec<_>, Vec<_>) = differs.into_iter().partition(|key| RELOADED.contains(key));
        let mut next = Config::clone(&present);
        for key in &changed {
            next.take(key, config);
        }
        *present = Arc::new(next);
        (changed, rest)
    }
}

impl Config {
    /// Whether clients come over TLS here.
    pub fn has_tls(&self) -> bool {
        !self.tls_certificate.as_os_str().is_empty()
    }

    /// Whether all that clients send and get crosses networks over TLS, here or up to the proxy in front.
    pub fn is_safe(&self) -> bool {
        self.has_tls() || self.behind_proxy
    }

    /// What links to this server begin with.
    pub fn public_url(&self) -> String {
        match self.public_url.get() {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{}", self.listen),
        }
    }

    /// Whether this server goes by the name in a `Host` header, whose port is its own business.
    pub fn is_host(&self, host: Option<&str>) -> bool {
        if self.hosts.0.is_empty() {
            return true;
        }
        let Some(host) = host else { return false };
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        self.hosts.0.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// Where the key that signs access tokens is.
    pub fn key_dir(&self) -> &Path {
        if self.key_dir.as_os_str().is_empty() {
            &self.data_dir
        } else {
            &self.key_dir
        }
    }

    /// Where the database is.
    pub fn cql(&self) -> Result<cql::Options, ConfigError> {
        let login = match self.cql_user.get() {
            None => None,
            Some(user) => {
                let path = &self.cql_password_file;
                let password = std::fs::read_to_string(path).map_err(|cause| ConfigError::Read {
                    path: path.clone(),
                    cause,
                })?;
                Some((user.to_owned(), password.trim_end_matches(['\r', '\n']).to_owned()))
            }
        };
        let has_tls = !self.cql_tls_ca.as_os_str().is_empty();
        Ok(cql::Options {
            nodes: self.cql_nodes.0.clone(),
            keyspace: self.cql_keyspace.0.clone(),
            datacenter: self.cql_datacenter.get().map(str::to_owned),
            rack: self.cql_rack.get().map(str::to_owned),
            login,
            tls_ca: has_tls.then(|| self.cql_tls_ca.clone()),
            replication: self.cql_replication,
            requests_max: self.cql_requests_max,
            compress: self.cql_compress,
            ..cql::Options::default()
        })
    }

    /// Where Redis is, if this node is part of a cluster.
    pub fn redis(&self) -> Option<redis::Options> {
        (!self.redis.0.is_empty()).then(|| redis::Options {
            nodes: self.redis.0.clone(),
            mode: match self.redis_mode {
                RedisMode::Standalone => redis::Mode::Standalone,
                RedisMode::Sentinel => redis::Mode::Sentinel(self.redis_master.0.clone()),
                RedisMode::Cluster => redis::Mode::Cluster,
            },
            cluster_name: self.cluster_name.0.clone(),
        })
    }

    /// The name of this node.
    pub fn node_name(&self) -> String {
        match self.node_name.get() {
            Some(name) => name.to_owned(),
            None => {
                let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
                format!("{host}:{}", self.listen.port())
            }
        }
    }

    /// Where errors are told.
    pub fn sentry(&self) -> Result<Option<Dsn>, &'static str> {
        match self.sentry_dsn.0.trim() {
            "" => Ok(None),
            dsn => dsn.parse().map(Some),
        }
    }

    /// Threads that serve connections.
    pub fn worker_count(&self) -> usize {
        or_cores(self.workers)
    }

    /// Threads that run feeds.
    pub fn feed_arbiter_count(&self) -> usize {
        or_cores(self.feed_arbiters)
    }
}

fn or_cores(count: usize) -> usize {
    if count == 0 {
        std::thread::available_parallelism().map_or(1, usize::from)
    } else {
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, variables: &[(&str, &str)], flags: Layer) -> Result<Loaded, ConfigError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("taskflow.toml");
        std::fs::write(&path, file).expect("written");
        let variable = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Loaded::from_layers(Some(&path), variable, flags)
    }

    #[test]
    fn a_value_may_be_in_a_file_that_a_variable_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("redis");
        std::fs::write(&path, "redis://:pa55@cache.example\n").expect("written");
        let path = path.to_str().expect("text");
        let variables = [
            ("TASKFLOW_REDIS_FILE", path),
            ("TASKFLOW_STORE", "cql"),
            ("TASKFLOW_CQL_NODES", "a:9042"),
        ];
        let loaded = load("", &variables, Layer::default()).expect("loads");
        assert_eq!(loaded.config.redis.0, ["redis://:pa55@cache.example"]);
        assert_eq!(
            loaded.source("redis"),
            Source::Variable("TASKFLOW_REDIS_FILE".to_owned())
        );
        let printed = loaded.print();
        assert!(!printed.contains("pa55"), "{printed}");
        assert!(
            printed.contains("# redis = [\"redis://:********@cache.example\"]"),
            "{printed}"
        );
        let both = [("TASKFLOW_HOSTS_FILE", path), ("TASKFLOW_HOSTS", "a.example")];
        assert_eq!(
            refusal("", &both),
            "TASKFLOW_HOSTS: TASKFLOW_HOSTS_FILE is set, too: which of the two counts?"
        );
        let text = refusal("", &[("TASKFLOW_HOSTS_FILE", "no/such/file")]);
        assert!(
            text.starts_with("TASKFLOW_HOSTS_FILE: cannot read no/such/file: "),
            "{text}"
        );
    }

    #[test]
    fn a_secret_is_neither_printed_nor_shown() {
        let loaded = load("", &[("TASKFLOW_SIGNING_KEY", "do not tell")], Layer::default()).expect("loads");
        assert_eq!(loaded.config.signing_key.0, "do not tell");
        let printed = loaded.print();
        assert!(printed.contains("# signing_key = \"********\""), "{printed}");
        assert!(!printed.contains("do not tell") && !format!("{loaded:?}").contains("do not tell"));
    }

    #[test]
    fn prod_does_not_start_with_what_belongs_to_development() {
        let good = [
            ("TASKFLOW_ENVIRONMENT", "prod"),
            ("TASKFLOW_BEHIND_PROXY", "true"),
            ("TASKFLOW_TRUSTED_PROXIES", "10.0.0.0/8"),
            ("TASKFLOW_HOSTS", "tasks.example"),
            ("TASKFLOW_STORE", "cql"),
            ("TASKFLOW_CQL_NODES", "a:9042"),
        ];
        assert!(load("", &good, Layer::default()).is_ok());
        let with = |more: (&'static str, &'static str)| {
            let others = good.iter().filter(|(name, _)| *name != more.0);
            let variables: Vec<_> = others.copied().chain([more]).collect();
            refusal("", &variables)
        };
        let everybody =
            "anybody could say whose request it is; name the networks of the proxies, and not all there are";
        for networks in ["10.0.0.0/8,0.0.0.0/0", "::/0"] {
            assert_eq!(
                with(("TASKFLOW_TRUSTED_PROXIES", networks)),
                format!("trusted_proxies (TASKFLOW_TRUSTED_PROXIES): not for environment = \"prod\": {everybody}")
            );
        }
        for (more, expected) in [
            (
                ("TASKFLOW_BEHIND_PROXY", "false"),
                "tls_certificate (default): not for environment = \"prod\": passwords would cross the network in the clear; \
                 set tls_certificate and tls_key, or behind_proxy",
            ),
            (
                ("TASKFLOW_ORIGINS_ALLOWED", "http://app.example"),
                "origins_allowed (TASKFLOW_ORIGINS_ALLOWED): not for environment = \"prod\": \"http://app.example\" is not \
                 safe from who is on the way to it; name origins that begin with https://",
            ),
            (
                ("TASKFLOW_SIGN_IN_ATTEMPTS_MAX", "0"),
                "sign_in_attempts_max (TASKFLOW_SIGN_IN_ATTEMPTS_MAX): not for environment = \"prod\": passwords could be \
                 guessed without end",
            ),
            (
                ("TASKFLOW_RATE_LIMITS", "count"),
                "rate_limits (TASKFLOW_RATE_LIMITS): not for environment = \"prod\": nothing would be refused; count is for \
                 trying limits out",
            ),
            (
                ("TASKFLOW_REGISTRATION", "verified"),
                "registration (TASKFLOW_REGISTRATION): verified needs letters: set smtp, mail_from and public_url",
            ),
            (
                ("TASKFLOW_HOSTS", ""),
                "hosts (TASKFLOW_HOSTS): not for environment = \"prod\": name those by which clients reach this server",
            ),
            (
                ("TASKFLOW_REDIS", "redis://:changeme@cache.example"),
                "redis (TASKFLOW_REDIS): not for environment = \"prod\": its password is one that everybody knows",
            ),
        ] {
            assert_eq!(with(more), expected);
        }
        let letters = |smtp, url| {
            let letters = [
                ("TASKFLOW_SMTP", smtp),
                ("TASKFLOW_MAIL_FROM", "a@b.example"),
                ("TASKFLOW_PUBLIC_URL", url),
            ];
            load("", &[&good[..], &letters].concat(), Layer::default())
                .err()
                .map(|error| error.to_string())
        };
        let (safe, here) = ("smtps://mail.example", "https://tasks.example");
        assert_eq!(letters(safe, here), None);
        assert!(letters(safe, "http://tasks.example").is_some_and(|said| said.contains("let it begin with https://")));
        assert!(
            letters("smtp://mail.example", here).is_some_and(|said| said.contains("cross the network in the clear"))
        );
        let staging = [("TASKFLOW_ENVIRONMENT", "staging")];
        assert!(refusal("", &staging).contains("in the clear"));
        let staging = [staging[0], good[1], good[2], ("TASKFLOW_RATE_LIMITS", "count")];
        assert!(load("", &staging, Layer::default()).is_ok());
    }

    #[test]
    fn settings_that_belong_together_are_set_together() {
        for (variables, expected) in [
            (
                &[("TASKFLOW_TLS_KEY", "key.pem")][..],
                "tls_key (TASKFLOW_TLS_KEY): tls_certificate and tls_key belong together: set both or none",
            ),
            (
                &[("TASKFLOW_REDIRECT_LISTEN", "127.0.0.1:80")],
                "redirect_listen (TASKFLOW_REDIRECT_LISTEN): there is no TLS here to send anybody to: set tls_certificate \
                 and tls_key",
            ),
            (
                &[("TASKFLOW_BEHIND_PROXY", "true")],
                "behind_proxy (TASKFLOW_BEHIND_PROXY): nobody would believe that proxy: name its network in trusted_proxies",
            ),
            (
                &[("TASKFLOW_HOSTS", "https://tasks.example")],
                "hosts (TASKFLOW_HOSTS): \"https://tasks.example\" is no name of a host; write tasks.example",
            ),
            (
                &[("TASKFLOW_PUBLIC_URL", "tasks.example")],
                "public_url (TASKFLOW_PUBLIC_URL): \"tasks.example\" does not begin with https:// or http://",
            ),
            (
                &[
                    ("TASKFLOW_SMTP", "smtp://localhost"),
                    ("TASKFLOW_MAIL_FROM", "a@tasks.example"),
                ],
                "public_url (default): the links in letters begin with it: set it",
            ),
            (
                &[("TASKFLOW_SMTP", "smtp://localhost")],
                "mail_from (default): it is no address of mail; write TaskFlow <tasks@tasks.example>",
            ),
            (
                &[("TASKFLOW_SMTP", "localhost")],
                "smtp (TASKFLOW_SMTP): it does not begin with smtp:// or smtps://",
            ),
        ] {
            assert_eq!(refusal("", variables), expected);
        }
    }

    #[test]
    fn issuers_are_a_table_in_the_file_and_the_same_in_a_variable() {
        let file = "[[issuers]]\nissuer = \"https://id.example/\"\naudience = \"taskflow\"\n";
        let variable = r#"[{ issuer = "https://id.example/", audience = "taskflow" }]"#;
        let of_file = load(file, &[], Layer::default()).expect("good").config.issuers;
        let of_variable = load("", &[("TASKFLOW_ISSUERS", variable)], Layer::default());
        let [issuer] = &of_file.0[..] else {
            panic!("one: {of_file:?}");
        };
        assert_eq!(
            (issuer.jwks().as_str(), issuer.user_claim.as_str()),
            ("https://id.example/.well-known/jwks.json", "sub")
        );
        assert_eq!(of_variable.expect("good").config.issuers, of_file);

        let with = |text: &str| refusal("", &[("TASKFLOW_ISSUERS", text)]);
        let issuer = |issuer: &str, more: &str| format!(r#"{{ issuer = "{issuer}", audience = "taskflow"{more} }}"#);
        for (wrong, part) in [
            (
                issuer("ftp://id.example", ""),
                "\"ftp://id.example/.well-known/jwks.json\" does not begin with https://",
            ),
            (
                issuer("taskflow", ", jwks = \"https://id.example/keys\""),
                "something else than this server",
            ),
            (issuer("", ", jwks = \"https://id.example/keys\""), "must say something"),
            (
                r#"{ issuer = "https://id.example" }"#.to_owned(),
                "missing field `audience`",
            ),
            (issuer("https://id.example", ", jwk = \"x\""), "unknown field `jwk`"),
            (
                format!("{0}, {0}", issuer("https://id.example", "")),
                "\"https://id.example\" is there twice",
            ),
            ("https://id.example".to_owned(), "write [{ issuer = "),
        ] {
            let said = with(&format!("[{wrong}]"));
            assert!(
                said.contains("TASKFLOW_ISSUERS") && said.contains(part),
                "{wrong}: {said}"
            );
        }
        // On one's own machine without TLS, elsewhere not.
        let plain = format!("[{}]", issuer("http://127.0.0.1:1", ""));
        assert!(load("", &[("TASKFLOW_ISSUERS", &plain)], Layer::default()).is_ok());
        let staging = [
            ("TASKFLOW_ENVIRONMENT", "staging"),
            ("TASKFLOW_BEHIND_PROXY", "true"),
            ("TASKFLOW_TRUSTED_PROXIES", "10.0.0.0/8"),
            ("TASKFLOW_ISSUERS", &plain),
        ];
        assert!(refusal("", &staging).contains("does not begin with https://"));
    }

    #[test]
    fn what_can_be_changed_is_changed_and_the_rest_is_named() {
        let live = Live::new(Config::default());
        let before = live.now();
        let next = Config {
            registration: Registration::Closed,
            workers: 7,
            ..Config::default()
        };
        assert_eq!(live.change(&next), (vec!["registration"], vec!["workers"]));
        assert_eq!(live.now().registration, Registration::Closed);
        assert_eq!((live.now().workers, before.registration), (0, Registration::Open));
        for key in RELOADED {
            assert!(KEYS.iter().any(|(known, _)| known == key), "{key}");
        }
    }

    #[test]
    fn a_server_goes_by_its_names_whatever_the_port() {
        let config = Config {
            hosts: "tasks.example, [2001:db8::1]".parse().expect("names"),
            ..Config::default()
        };
        for host in [
            "tasks.example",
            "TASKS.example:8443",
            "[2001:db8::1]",
            "[2001:db8::1]:8443",
        ] {
            assert!(config.is_host(Some(host)), "{host}");
        }
        for host in ["", "other.example", "tasks.example.evil.example", "tasks.example:x"] {
            assert!(!config.is_host(Some(host)), "{host}");
        }
        assert!(!config.is_host(None));
        assert!(Config::default().is_host(None));
    }

    fn refusal(file: &str, variables: &[(&str, &str)]) -> String {
        let error = load(file, variables, Layer::default()).expect_err("refused");
        error.to_string()
    }

    #[test]
    fn flags_beat_variables_and_variables_beat_the_file() {
        let flags = Layer {
            heartbeat_ms: Some(3_000),
            ..Layer::default()
        };
        let file = "heartbeat_ms = 1000\nworkers = 2\nhandshakes_max = 7\n";
        let variables = [("TASKFLOW_HEARTBEAT_MS", "2000"), ("TASKFLOW_WORKERS", "3")];
        let loaded = load(file, &variables, flags).expect("loads");
        assert_eq!(loaded.config.heartbeat_ms, 3_000);
        assert_eq!(loaded.source("heartbeat_ms"), Source::Flag("--heartbeat-ms".to_owned()));
        assert_eq!(loaded.config.workers, 3);
        assert_eq!(
            loaded.source("workers"),
            Source::Variable("TASKFLOW_WORKERS".to_owned())
        );
        assert_eq!(loaded.config.handshakes_max, 7);
        assert!(matches!(loaded.source("handshakes_max"), Source::File(_)));
        assert_eq!(loaded.config.access_token_seconds, 600);
        assert_eq!(loaded.source("access_token_seconds"), Source::Default);
    }

    #[test]
    fn an_unknown_key_is_refused_by_name_and_line() {
        let text = refusal("workers = 1\n\nhartbeat_ms = 5\n", &[]);
        assert!(
            text.ends_with("line 3: there is no setting hartbeat_ms; did you mean heartbeat_ms?"),
            "{text}"
        );
        let text = refusal("workers = 1\n[frobnicator]\nlevel = \"x\"\n", &[]);
        assert!(
            text.ends_with("line 2: there is no setting frobnicator; `taskflow config print` shows all"),
            "{text}"
        );
    }

    #[test]
    fn a_variable_is_like_the_setting_that_was_meant() {
        assert_eq!(meant("TASKFLOW_HARTBEAT_MS"), "; did you mean heartbeat_ms?");
        assert_eq!(meant("TASKFLOW_PORT_8080_TCP"), "; `taskflow config print` shows all");
    }

    #[test]
    fn what_kubernetes_makes_of_a_service_is_no_mistake() {
        for (name, value) in [
            ("TASKFLOW_SERVICE_HOST", "10.0.0.7"),
            ("TASKFLOW_OPERATOR_SERVICE_PORT_METRICS", "9464"),
            ("TASKFLOW_PORT", "tcp://10.0.0.7:8080"),
            ("TASKFLOW_PORT_8080_TCP", "tcp://10.0.0.7:8080"),
            ("TASKFLOW_PORT_8080_TCP_ADDR", "10.0.0.7"),
        ] {
            assert!(is_of_kubernetes(name, value), "{name}");
        }
        for (name, value) in [("TASKFLOW_PORT", "8080"), ("TASKFLOW_SING_IN", "1")] {
            assert!(!is_of_kubernetes(name, value), "{name}");
        }
    }

    #[test]
    fn a_mistake_in_the_file_is_refused_by_line_and_key_without_the_value() {
        for (file, expected) in [
            (
                "workers = \"hunter2\"\n",
                "line 1, column 11 (workers): invalid type: string, expected usize",
            ),
            (
                "workers = 1\n  smtp = smtp://bob:hunter2@mail\n",
                "line 2, column 10 (smtp): string values must be quoted, expected literal string",
            ),
            (
                "smtp = \"smtp://bob:hunter2@mail\nworkers = 1\n",
                "line 1, column 32 (smtp): invalid basic string, expected `\"`",
            ),
            (
                "workers = 1\nsmtp smtp://bob:hunter2@mail\n",
                "line 2, column 6 (smtp): key with no value, expected `=`",
            ),
            (
                "smtp = [\"smtp://bob:hunter2@mail\"]\n",
                "line 1, column 8 (smtp): invalid type: sequence, expected a string",
            ),
            (
                "redis = \"redis://:hunter2@cache, expected \"\n",
                "line 1, column 9 (redis): invalid type: string, expected a list such as [\"one\", \"two\"]",
            ),
            (
                "redis = [\n\"redis://:hunter2@cache\",\n 7]\n",
                "line 3, column 2 (redis): invalid type: integer, expected a string",
            ),
            (
                "log_level = \"hunter2\"\n",
                "line 1, column 13 (log_level): unknown variant, expected one of `error`, `warn`, `info`, `debug`, `trace`",
            ),
            (
                "smtp = \"a\"\nsmtp = \"hunter2\"\n",
                "line 2, column 1 (smtp): duplicate key",
            ),
            (
                "[[issuers]]\nissuer = \"hunter2\"\naudience = 7\n",
                "line 3, column 12 (issuers): invalid type: integer, expected a string",
            ),
        ] {
            let text = refusal(file, &[]);
            assert!(text.ends_with(&format!(": {expected}")), "{text}");
            assert!(!text.contains("hunter"), "{text}");
        }
    }

    #[test]
    fn a_bad_variable_is_refused_by_name() {
        let text = refusal("", &[("TASKFLOW_LOG_FORMAT", "xml")]);
        assert_eq!(text, "TASKFLOW_LOG_FORMAT: \"xml\" is not one of json, text");
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_its_source() {
        let text = refusal("", &[("TASKFLOW_ACCESS_TOKEN_SECONDS", "5")]);
        assert_eq!(
            text,
            "access_token_seconds (TASKFLOW_ACCESS_TOKEN_SECONDS): 5 is not between 10 and 86400"
        );
        let text = refusal("", &[("TASKFLOW_ORIGINS_ALLOWED", "app.example")]);
        assert!(text.starts_with("origins_allowed (TASKFLOW_ORIGINS_ALLOWED): \"app.example\" is not an origin"));
        let redis = [
            ("TASKFLOW_REDIS", "http://:hunter2@cache.example"),
            ("TASKFLOW_STORE", "cql"),
            ("TASKFLOW_CQL_NODES", "a:9042"),
        ];
        assert_eq!(
            refusal("", &redis),
            "redis (TASKFLOW_REDIS): one of the addresses does not begin with redis:// or rediss://"
        );
        let text = refusal("", &[("TASKFLOW_OPERATOR_LISTEN", "127.0.0.1:8080")]);
        assert_eq!(
            text,
            "operator_listen (TASKFLOW_OPERATOR_LISTEN): it is the same as listen"
        );
        for ratio in ["-0.1", "1.1", "NaN"] {
            let text = refusal("", &[("TASKFLOW_TRACE_SAMPLE_RATIO", ratio)]);
            let wrong = format!("trace_sample_ratio (TASKFLOW_TRACE_SAMPLE_RATIO): {ratio} is not between 0 and 1");
            assert_eq!(text, wrong);
        }
        let text = refusal("", &[("TASKFLOW_OTLP_ENDPOINT", "collector:4318")]);
        assert_eq!(
            text,
            "otlp_endpoint (TASKFLOW_OTLP_ENDPOINT): \"collector:4318\" does not begin with http:// or https://"
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let path = Path::new("no/such/file.toml");
        let error = Loaded::from_layers(Some(path), |_| None, Layer::default()).expect_err("refused");
        assert!(
            error.to_string().starts_with("cannot read no/such/file.toml: "),
            "{error}"
        );
    }

    #[test]
    fn what_print_writes_loads_again_to_the_same_settings() {
        let variables = [
            ("TASKFLOW_ORIGINS_ALLOWED", "https://a.example, https://b.example:8443"),
            ("TASKFLOW_REGISTRATION", "closed"),
        ];
        let loaded = load("", &variables, Layer::default()).expect("loads");
        let printed = loaded.print();
        assert!(
            printed.contains("# from: TASKFLOW_REGISTRATION\nregistration = \"closed\"\n"),
            "{printed}"
        );
        assert!(
            printed.contains("# from: default\nlisten = \"127.0.0.1:8080\"\n"),
            "{printed}"
        );
        for (key, docs) in KEYS {
            assert!(printed.contains(&format!("\n{key} = ")), "{key}");
            assert!(printed.contains(&format!("#{}", docs[0])), "{key}");
        }
        let again = load(&printed, &[], Layer::default()).expect("loads");
        assert_eq!(again.config, loaded.config);
    }

    #[test]
    fn the_defaults_pass_their_own_check() {
        let loaded = load("", &[], Layer::default()).expect("loads");
        assert_eq!(loaded.config, Config::default());
    }

    #[test]
    fn the_own_origin_is_always_allowed_and_others_only_by_name() {
        let origins = Origins(vec!["https://app.example".to_owned()]);
        let host = Some("tasks.example:8080");
        for (origin, expected) in [
            ("http://tasks.example:8080", true),
            ("https://TASKS.example:8080", true),
            ("https://app.example", true),
            ("https://app.example:444", false),
            ("https://tasks.example", false),
            ("https://evil.example", false),
            ("https://app.example.evil.example", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(origins.allow(origin, host), expected, "{origin}");
        }
        assert!(!origins.allow("http://tasks.example", None));
    }
}
