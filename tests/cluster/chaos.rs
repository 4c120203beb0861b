//! Everything ends now and then while many write and follow: what was acknowledged is there, once, and every screen
//! shows it. The short form, on every run of the tests.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::load::{Load, Told, port_of_its_own};
use crate::network::{self, Cut};
use crate::proxy::{Proxy, Weather};
use crate::services::{Cassandra, Redis};
use crate::{Nodes, clock};

/// How long and how wide: the short form, or what `make chaos` asks for.
struct Form {
    /// Acknowledged operations that there must be.
    operations: u64,
    /// How often there is one fault of each kind, at least.
    rounds: u64,
    load: Load,
    /// Nodes of the database: three carry three replicas.
    database_nodes: usize,
    /// What kind of Redis.
    redis: &'static str,
}

impl Form {
    fn asked() -> Self {
        let number = |name: &str, default: u64| {
            let asked = std::env::var(name).ok();
            asked.map_or(default, |text| text.parse().expect(name))
        };
        Self {
            operations: number("CHAOS_OPERATIONS", 10_000),
            rounds: number("CHAOS_ROUNDS", 3),
            load: Load {
                users: number("CHAOS_USERS", 12) as usize,
                followers: number("CHAOS_FOLLOWERS", 24) as usize,
            },
            database_nodes: number("CHAOS_DATABASE_NODES", 1) as usize,
            redis: match std::env::var("CHAOS_REDIS").as_deref() {
                Ok("sentinel") => "sentinel",
                Ok("cluster") => "cluster",
                _ => "standalone",
            },
        }
    }
}

/// What ends, or fails otherwise, and comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    NodeKilled,
    NodeStopped,
    RedisKilled,
    RedisStopped,
    RedisEmptied,
    /// A node's messages do not reach Redis, and what others say reaches the node.
    NothingToRedis,
    /// The other way round.
    NothingFromRedis,
    SlowToRedis,
    DatabaseStopped,
    DatabaseKilled,
    /// Nothing that is sent to a Redis server arrives: from nodes, replicas and sentinels.
    RedisUnreached,
    /// What a Redis server is asked arrives, its answers do not.
    RedisUnheard,
    /// The other nodes of the database do not reach one; clients do.
    DatabaseUnreached,
    /// No node of the database reaches another: none has a majority.
    DatabaseScattered,
    /// A node of the database does what it is asked, and its answers do not arrive.
    DatabaseUnheard,
    /// The disk of a node of the database is full.
    DatabaseFull,
}

impl Fault {
    /// Those that this form can have.
    fn all(form: &Form) -> Vec<Self> {
        // A node of the database takes long to come back: what does not need all of them happens meanwhile.
        let (whole, cuts) = (form.database_nodes >= 3, network::is_ours());
        let some = |faults: &[Self], there: bool| if there { faults.to_vec() } else { Vec::new() };
        [
            some(&[Self::DatabaseKilled], whole),
            vec![
                Self::NodeKilled,
                Self::RedisKilled,
                Self::NodeStopped,
                Self::RedisStopped,
            ],
            // Sentinels and clusters name their servers' own addresses.
            some(
                &[Self::NothingToRedis, Self::NothingFromRedis, Self::SlowToRedis],
                form.redis == "standalone",
            ),
            vec![Self::DatabaseStopped],
            some(&[Self::DatabaseUnheard], cuts),
            some(
                &[Self::DatabaseUnreached, Self::DatabaseScattered, Self::DatabaseFull],
                whole && cuts,
            ),
            vec![Self::RedisEmptied],
            some(&[Self::RedisUnreached, Self::RedisUnheard], cuts),
        ]
        .concat()
    }

    /// Whether it is done to a node of the database: the others have to be there.
    fn needs_database(self) -> bool {
        matches!(
            self,
            Self::DatabaseStopped
                | Self::DatabaseKilled
                | Self::DatabaseUnreached
                | Self::DatabaseScattered
                | Self::DatabaseUnheard
                | Self::DatabaseFull
        )
    }

    /// Does it for the time of this round, and undoes it; a node of the database comes back later.
    fn strike(
        self,
        round: usize,
        cluster: &mut Nodes,
        proxies: &[Proxy],
        form: &Form,
        returning: &mut Option<JoinHandle<()>>,
    ) {
        if self.needs_database() {
            join(returning);
        }
        let wait = |ms| std::thread::park_timeout(Duration::from_millis(ms));
        // Each server in turn: those that became masters, too.
        let redis = round as u16
            % match form.redis {
                "sentinel" => 2,
                "cluster" => 6,
                _ => 1,
            };
        let database = 1 + round % form.database_nodes;
        match self {
            Self::NodeKilled => {
                let node = &mut cluster.nodes[1 + round % 2];
                node.kill();
                wait(500);
                // A node that finds its database too busy ends, and is started again by whoever watches over it.
                let until = Instant::now() + START_PATIENCE;
                while let Err((status, log)) = node.try_restart() {
                    let is_early = log.contains("cannot reach the database") && Instant::now() < until;
                    assert!(is_early, "the node did not start again: {status}\n{log}");
                }
            }
            Self::NodeStopped => {
                let node = &cluster.nodes[round % 3];
                node.signal(rustix::process::Signal::STOP);
                wait(2_500);
                node.signal(rustix::process::Signal::CONT);
            }
            Self::RedisKilled => {
                cluster.redis.signal(redis, "-KILL");
                // A cluster and sentinels choose another master meanwhile, or not.
                wait(if round.is_multiple_of(2) { 700 } else { 4_000 });
                cluster.redis.up();
            }
            Self::RedisStopped => {
                cluster.redis.signal(redis, "-STOP");
                wait(if round.is_multiple_of(2) { 1_000 } else { 4_000 });
                cluster.redis.signal(redis, "-CONT");
            }
            Self::RedisEmptied => drop(cluster.redis.say(redis, &["FLUSHALL"])),
            Self::NothingToRedis | Self::NothingFromRedis | Self::SlowToRedis => {
                let proxy = &proxies[round % proxies.len()];
                proxy.set(match self {
                    Self::NothingToRedis => Weather::NothingThere,
                    Self::NothingFromRedis => Weather::NothingBack,
                    _ => Weather::Slow,
                });
                wait(2_500);
                proxy.set(Weather::Fair);
            }
            Self::DatabaseStopped => {
                cluster.cassandra.signal(database, "-STOP");
                wait(1_500);
                cluster.cassandra.signal(database, "-CONT");
            }
            Self::DatabaseKilled => {
                cluster.cassandra.signal(database, "-KILL");
                wait(1_500);
                *returning = Some(comes_back(cluster.cassandra, form.database_nodes));
            }
            Self::RedisUnreached | Self::RedisUnheard => {
                let way = if self == Self::RedisUnreached { "dport" } else { "sport" };
                let port = cluster.redis.port + redis;
                let _cut = Cut::of([port, port + 10_000].map(|port| format!("ipproto tcp {way} {port}")));
                // A cluster and sentinels choose another master meanwhile, or not.
                wait(if round.is_multiple_of(2) { 1_000 } else { 4_000 });
            }
            Self::DatabaseUnreached => {
                let gossip = cluster.cassandra.gossip;
                let _cut = Cut::of([format!("to 127.0.0.{database} ipproto tcp dport {gossip}")]);
                wait(2_500);
            }
            Self::DatabaseScattered => {
                let _cut = Cut::of([format!("ipproto tcp dport {}", cluster.cassandra.gossip)]);
                wait(2_500);
            }
            Self::DatabaseUnheard => {
                let port = cluster.cassandra.port;
                let _cut = Cut::of([format!("from 127.0.0.{database} ipproto tcp sport {port}")]);
                wait(2_500);
            }
            Self::DatabaseFull => {
                cluster.cassandra.fill_disk(database);
                wait(2_500);
                // It ends by itself when it cannot write, or goes on for a while: its operator starts it again.
                cluster.cassandra.free_disk(database);
                cluster.cassandra.end(database);
                *returning = Some(comes_back(cluster.cassandra, form.database_nodes));
            }
        }
    }
}

/// Starts those nodes of the database that have ended, and waits until all are there.
fn comes_back(database: &'static Cassandra, nodes: usize) -> JoinHandle<()> {
    std::thread::spawn(move || drop(database.up(nodes)))
}

fn join(returning: &mut Option<JoinHandle<()>>) {
    if let Some(returning) = returning.take() {
        returning.join().expect("the database came back");
    }
}

/// How long a node that is started again may end because its database is too busy, which itself is being started.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Faults in turn, until it is enough; how many of each.
fn faults(
    cluster: &mut Nodes,
    proxies: &[Proxy],
    form: &Form,
    told: &Told,
    is_enough: impl Fn(u64) -> bool,
) -> Vec<(Fault, u32)> {
    let mut counts: Vec<(Fault, u32)> = Fault::all(form).into_iter().map(|fault| (fault, 0)).collect();
    let mut returning = None;
    for round in 0.. {
        for (fault, count) in &mut counts {
            told.go_on();
            if is_enough(round as u64) {
                join(&mut returning);
                return counts;
            }
            let (begun, told_before) = (Instant::now(), told.acknowledged.load(Ordering::Relaxed));
            fault.strike(round, cluster, proxies, form, &mut returning);
            *count += 1;
            #[allow(clippy::print_stderr, reason = "long work shows progress")]
            {
                let (took, told_now) = (begun.elapsed().as_secs_f64(), told.acknowledged.load(Ordering::Relaxed));
                let meanwhile = told_now - told_before;
                eprintln!("round {round}: {fault:?} for {took:.1} s, {meanwhile} operations acknowledged meanwhile");
            }
            std::thread::park_timeout(Duration::from_millis(300));
        }
    }
    counts
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_whatever_ends() {
    // A database of its own, that may be stopped.
    let form = Form::asked();
    let mut settings = Vec::new();
    if network::is_ours() {
        settings.push(("CASSANDRA_DISK", "1g"));
    }
    let cassandra = Box::leak(Box::new(Cassandra::start_with(form.database_nodes, &settings)));
    let mut cluster = Nodes::on(cassandra, Redis::start(form.redis), "chaos", 0);
    let redis = SocketAddr::from(([127, 0, 0, 1], cluster.redis.port));
    let proxies: Vec<Proxy> = (0..3).map(|_| Proxy::to(redis)).collect();
    // Not behind: tokens are made by the first one, and those from the future are refused.
    for (proxy, clock_ahead_s) in proxies.iter().zip([0, 300, 600]) {
        let behind = format!("--redis=redis://{}", proxy.address);
        let flags = [behind.as_str()];
        let behind: &[&str] = if form.redis == "standalone" { &flags } else { &[] };
        cluster.add_as(
            &clock::ahead(clock_ahead_s),
            [port_of_its_own(), port_of_its_own()],
            behind,
        );
    }
    cluster.meet();
    let (told, begun) = (Told::default(), Instant::now());
    let is_enough = |rounds| rounds >= form.rounds && told.acknowledged.load(Ordering::Relaxed) >= form.operations;
    let strike = |cluster: &mut Nodes| faults(cluster, &proxies, &form, &told, is_enough);
    let (_cluster, total, faults) = form.load.during(cluster, &told, strike);
    let refused = told.refused.load(Ordering::Relaxed);
    #[allow(clippy::print_stdout, reason = "what a run showed is part of its result")]
    {
        println!(
            "{total} acknowledged operations, none lost or doubled, in {:.0} s, by {} writers before {} followers",
            begun.elapsed().as_secs_f64(),
            form.load.users,
            form.load.followers
        );
        println!("{refused} times a stranger asked for one of their feeds, and was refused");
        println!("faults: {faults:?}");
    }
    assert!(total as u64 >= form.operations && refused > 0);
}
