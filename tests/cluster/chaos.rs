//! Everything ends now and then while many write and follow: what was acknowledged is there, once, and every screen
//! shows it. The short form, on every run of the tests.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Nodes;
use crate::faults::accepted;
use crate::proxy::{Proxy, Weather};
use crate::services::{Cassandra, Redis};
use crate::support::ws::{handshake, task};
use crate::support::{Account, Client, Encoding, Raw, Replica, Server, http};

/// How long and how wide: the short form, or what `make chaos` asks for.
struct Form {
    /// Acknowledged operations that there must be.
    operations: u64,
    /// How long it goes on at least.
    seconds: u64,
    /// Users, each with a writer.
    users: usize,
    /// Followers: of the users in turn.
    followers: usize,
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
            seconds: number("CHAOS_SECONDS", 0),
            users: number("CHAOS_USERS", 12) as usize,
            followers: number("CHAOS_FOLLOWERS", 24) as usize,
            database_nodes: number("CHAOS_DATABASE_NODES", 1) as usize,
            redis: match std::env::var("CHAOS_REDIS").as_deref() {
                Ok("sentinel") => "sentinel",
                Ok("cluster") => "cluster",
                _ => "standalone",
            },
        }
    }
}

/// Operations in one message.
const BATCH: usize = 16;

/// Connects to whichever node takes it, and says hello.
fn connect(addresses: &[SocketAddr], first: usize, account: &Account, follow: &Value) -> Client {
    for at in first.. {
        let address = addresses[at % addresses.len()];
        // A node that stands still takes the connection, and says nothing.
        if let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
            let mut raw = Raw {
                http: http::Connection::over(stream),
            };
            let protocol = format!("sec-websocket-protocol: {}", Encoding::MsgPack.subprotocol());
            raw.try_send(handshake(address, &[&protocol]).as_bytes());
            if raw.http.head().is_some_and(|head| head.status == 101) {
                let mut client = Client::connected(raw, Encoding::MsgPack);
                let hello = json!({ "protocol": { "min": 1, "max": 1 }, "token": account.token, "follow": follow });
                say(&mut client, &json!({ "hello": hello }));
                return client;
            }
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    unreachable!("there is always a next one")
}

/// A port that nobody has now, and that the system gives to no connection while its server is away.
fn port_of_its_own() -> SocketAddr {
    let addresses =
        std::iter::repeat_with(|| SocketAddr::from(([127, 0, 0, 1], 22_000 + rand::random::<u16>() % 10_000)));
    let free = addresses.take(100).find(|address| TcpListener::bind(address).is_ok());
    free.expect("a free port")
}

/// To a server that may be gone.
fn say(client: &mut Client, message: &Value) {
    let frame = client.frame_of(message);
    client.raw.try_send(&frame);
}

/// Writes until enough is acknowledged. What is not known is sent again, over whatever connection there is.
fn write(
    addresses: &[SocketAddr],
    account: &Account,
    number: usize,
    count: &AtomicU64,
    is_enough: &(impl Fn() -> bool + Sync),
) -> HashMap<String, u64> {
    let mut acknowledged = HashMap::new();
    let mut pending: Vec<Value> = Vec::new();
    let mut turn = number;
    loop {
        turn += 1;
        let mut client = connect(addresses, turn, account, &json!([]));
        let mut is_welcome = false;
        loop {
            if is_welcome {
                if pending.is_empty() {
                    if is_enough() {
                        return acknowledged;
                    }
                    pending = (0..BATCH).map(|_| task("chaos")).collect();
                }
                say(&mut client, &json!({ "operations": { "operations": pending } }));
            }
            let mut waiting = pending.len();
            let mut is_over = false;
            while !is_welcome || waiting > 0 {
                let Ok(message) = client.next() else {
                    is_over = true;
                    break;
                };
                if message.get("welcome").is_some() {
                    is_welcome = true;
                    break;
                }
                for result in message["results"]["results"].as_array().into_iter().flatten() {
                    waiting = waiting.saturating_sub(1);
                    let id = result["id"].as_str().unwrap();
                    let outcome = &result["outcome"];
                    if let Some(seq) = outcome["accepted"]["seq"].as_u64() {
                        pending.retain(|operation| operation["id"] != id);
                        let before = acknowledged.insert(id.to_owned(), seq);
                        assert!(
                            before.is_none_or(|before| before == seq),
                            "{id} is at {before:?} and at {seq}"
                        );
                        count.fetch_add(1, Ordering::Relaxed);
                    } else {
                        let error = outcome.get("unknown").or(outcome.get("refused")).expect("an error");
                        assert!(
                            error["retry_after_ms"].is_u64(),
                            "a create is never refused for good: {outcome}"
                        );
                    }
                }
            }
            if is_over {
                break;
            }
            if is_welcome && !pending.is_empty() && waiting == 0 {
                // Some are not known yet.
                std::thread::park_timeout(Duration::from_millis(100));
            }
        }
    }
}

/// Follows until it has everything; its copy panics at a hole, and at an entry that comes twice.
fn follow(addresses: &[SocketAddr], account: &Account, first: usize, heads: &Mutex<HashMap<String, u64>>) -> Replica {
    let mut replica = Replica::default();
    let mut turn = first;
    loop {
        turn += 1;
        let cursor = match &replica.cursor {
            Some(cursor) => json!([{ "cursor": cursor }]),
            None => json!([{}]),
        };
        let mut client = connect(addresses, turn, account, &cursor);
        replica.pieces.clear();
        loop {
            if heads
                .lock()
                .unwrap()
                .get(&account.user)
                .is_some_and(|head| replica.position > *head)
            {
                return replica;
            }
            let Ok(message) = client.next() else { break };
            if let Some(following) = message.get("following") {
                if replica.cursor.is_some() {
                    assert_ne!(following["mode"], "reset", "a cursor survives everything: {following}");
                }
            } else if let Some(entries) = message.get("entries") {
                replica.apply_entries(entries);
            } else if let Some(piece) = message.get("snapshot") {
                replica.apply_snapshot(piece);
            } else if message.get("error").is_some() {
                break;
            }
        }
    }
}

/// The whole log after the birth.
fn history(server: &Server, account: &Account) -> Vec<Value> {
    let newest = Replica::of(server, account).cursor.expect("a cursor");
    let mut cursor = format!("{}{:016x}", &newest[..16], 1);
    let mut entries = Vec::new();
    while cursor != newest {
        let answer = server.get(&format!("/api/v1/changes?cursor={cursor}"), account).json();
        entries.extend(answer["entries"].as_array().expect("entries").clone());
        cursor = answer["cursor"].as_str().expect("a cursor").to_owned();
    }
    entries
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
}

impl Fault {
    /// Those that this form can have.
    fn all(form: &Form) -> Vec<Self> {
        let mut all = vec![
            Self::NodeKilled,
            Self::RedisKilled,
            Self::NodeStopped,
            Self::RedisStopped,
            Self::DatabaseStopped,
            Self::RedisEmptied,
        ];
        if form.redis == "standalone" {
            // Sentinels and clusters name their servers' own addresses.
            all.extend([Self::NothingToRedis, Self::NothingFromRedis, Self::SlowToRedis]);
        }
        if form.database_nodes >= 3 {
            all.push(Self::DatabaseKilled);
        }
        all
    }

    /// Does it for the time of this round, and undoes it.
    fn strike(self, round: usize, cluster: &mut Nodes, proxies: &[Proxy], form: &Form) {
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
                let node = 1 + round % 2;
                cluster.nodes[node].kill();
                wait(500);
                cluster.nodes[node].restart();
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
                cluster.cassandra.up(form.database_nodes);
            }
        }
    }
}

/// Rounds of faults that there are at least: one fault of each kind in each.
const ROUNDS_MIN: usize = 3;

/// Faults in turn, until it is over; how many of each. Says how many rounds are done.
fn faults(
    cluster: &mut Nodes,
    proxies: &[Proxy],
    form: &Form,
    rounds: &AtomicUsize,
    over: &AtomicBool,
) -> Vec<(Fault, u32)> {
    let mut counts: Vec<(Fault, u32)> = Fault::all(form).into_iter().map(|fault| (fault, 0)).collect();
    for round in 0.. {
        rounds.store(round, Ordering::Relaxed);
        for (fault, count) in &mut counts {
            if over.load(Ordering::Relaxed) {
                return counts;
            }
            fault.strike(round, cluster, proxies, form);
            *count += 1;
            std::thread::park_timeout(Duration::from_millis(300));
        }
    }
    counts
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_whatever_ends() {
    // A database of its own, that may be stopped.
    let form = Form::asked();
    let cassandra = Box::leak(Box::new(Cassandra::start(form.database_nodes)));
    let mut cluster = Nodes::on(cassandra, Redis::start(form.redis), "chaos", 0);
    let redis = SocketAddr::from(([127, 0, 0, 1], cluster.redis.port));
    let proxies: Vec<Proxy> = (0..3).map(|_| Proxy::to(redis)).collect();
    for proxy in &proxies {
        let behind = format!("--redis=redis://{}", proxy.address);
        let flags = [behind.as_str()];
        let behind: &[&str] = if form.redis == "standalone" { &flags } else { &[] };
        cluster.add_at([port_of_its_own(), port_of_its_own()], behind);
    }
    cluster.meet();
    let accounts: Vec<Account> = (0..form.users).map(|_| cluster.nodes[0].user()).collect();
    let addresses: Vec<SocketAddr> = cluster.nodes.iter().map(|node| node.address).collect();
    let (count, over, heads) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::default());
    let (begun, rounds) = (Instant::now(), AtomicUsize::new(0));
    let is_enough = || {
        count.load(Ordering::Relaxed) >= form.operations
            && rounds.load(Ordering::Relaxed) >= ROUNDS_MIN
            && begun.elapsed() >= Duration::from_secs(form.seconds)
    };
    let (cluster, acknowledged, replicas, faults) = std::thread::scope(|scope| {
        let writers: Vec<_> = accounts
            .iter()
            .enumerate()
            .map(|(number, account)| {
                let (addresses, count, is_enough) = (&addresses, &count, &is_enough);
                scope.spawn(move || write(addresses, account, number, count, is_enough))
            })
            .collect();
        let followers: Vec<_> = accounts
            .iter()
            .cycle()
            .take(form.followers)
            .enumerate()
            .map(|(number, account)| {
                let (addresses, heads) = (&addresses, &heads);
                scope.spawn(move || follow(addresses, account, number, heads))
            })
            .collect();
        let (over_seen, rounds, proxies, form) = (&over, &rounds, &proxies, &form);
        let faults = scope.spawn(move || {
            let counts = faults(&mut cluster, proxies, form, rounds, over_seen);
            (cluster, counts)
        });
        let acknowledged: Vec<HashMap<String, u64>> =
            writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        over.store(true, Ordering::Relaxed);
        let (cluster, faults) = faults.join().unwrap();
        // Everything runs again: what the log holds now is what everyone must come to show.
        for account in &accounts {
            // The last entry makes every follower look whether it has all.
            let last = loop {
                let outcome = cluster.nodes[0].submit(account, &task("the last"));
                if let Some(seq) = outcome["accepted"]["seq"].as_u64() {
                    break seq;
                }
            };
            heads.lock().unwrap().insert(account.user.clone(), last);
            accepted(&cluster.nodes[1], account);
        }
        let replicas: Vec<Replica> = followers.into_iter().map(|follower| follower.join().unwrap()).collect();
        (cluster, acknowledged, replicas, faults)
    });
    let total: usize = acknowledged.iter().map(HashMap::len).sum();
    for (number, account) in accounts.iter().enumerate() {
        let (log, now) = (
            history(&cluster.nodes[0], account),
            Replica::of(&cluster.nodes[1], account),
        );
        let mut places: HashMap<&str, u64> = HashMap::new();
        for (entry, seq) in log.iter().zip(2_u64..) {
            assert_eq!(entry["seq"], seq, "the log has a hole");
            let before = places.insert(entry["operation"].as_str().unwrap(), seq);
            assert_eq!(before, None, "an operation is there twice: {entry}");
        }
        for (id, seq) in &acknowledged[number] {
            assert_eq!(
                places.get(id.as_str()),
                Some(seq),
                "an acknowledged operation is elsewhere, or nowhere"
            );
        }
        for replica in replicas.iter().skip(number).step_by(form.users) {
            for entry in &replica.entries {
                let seq = entry["seq"].as_u64().unwrap();
                assert_eq!(*entry, log[seq as usize - 2], "a screen showed something else");
            }
            assert_eq!(replica.rows, now.rows);
        }
    }
    #[allow(clippy::print_stdout, reason = "what a run showed is part of its result")]
    {
        println!(
            "{total} acknowledged operations, none lost or doubled, in {:.0} s, by {} writers before {} followers",
            begun.elapsed().as_secs_f64(),
            form.users,
            form.followers
        );
        println!("faults: {faults:?}");
    }
    assert!(total as u64 >= form.operations);
}
