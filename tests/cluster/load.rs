//! Many write and follow while something happens to the cluster; then everything that was acknowledged must be in the log,
//! once, and every screen must have shown what the log has.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Nodes;
use crate::faults::accepted;
use crate::support::ws::{handshake, task};
use crate::support::{Account, Client, Encoding, Raw, Replica, http};

/// How many writers, one a user, and how many followers, of the users in turn.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub users: usize,
    pub followers: usize,
}

/// What clients were told so far.
#[derive(Debug, Default)]
pub struct Told {
    /// Operations that were acknowledged.
    pub acknowledged: AtomicU64,
    /// Operations that were refused for now, or whose outcome was not known.
    pub again: AtomicU64,
    /// Operations that were on their way when their connection ended.
    pub cut: AtomicU64,
    /// Feeds that somebody asked for who has no right to them, and was refused.
    pub refused: AtomicU64,
    /// The last operation of each user that was acknowledged, and when.
    last: Mutex<HashMap<String, (u64, Instant)>>,
    /// Something was found: nobody goes on.
    failed: AtomicBool,
}

/// Says of a follower that heard nothing for too long whether there was anything to hear.
struct Witness<'a> {
    told: &'a Told,
    user: &'a str,
    /// How far its screen is, and since when.
    shown: Cell<(u64, Instant)>,
}

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.told.failed.load(Ordering::Relaxed) {
            let (position, since) = self.shown.get();
            let last = self.told.last.lock().unwrap().get(self.user).copied();
            eprintln!(
                "the screen of {} shows {position} since {:?}; acknowledged was {:?}",
                self.user,
                since.elapsed(),
                last.map(|(seq, at)| format!("{seq}, {:?} ago", at.elapsed()))
            );
        }
    }
}

/// What one thread found ends the others: they would go on for ever.
struct Alarm<'a>(&'a Told);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.store(true, Ordering::Relaxed);
        }
    }
}

impl Told {
    /// Ends a thread that would go on though another one has found something.
    pub fn go_on(&self) {
        if self.failed.load(Ordering::Relaxed) {
            // Without a word of its own.
            std::panic::resume_unwind(Box::new("another thread found something"));
        }
    }
}

impl Load {
    /// Goes on until this has happened; then compares. Leaves the cluster, how many operations were acknowledged, and what
    /// happened.
    ///
    /// # Panics
    ///
    /// If an acknowledged operation is not in the log, or elsewhere or twice, and if a screen showed something else.
    pub fn during<T: Send>(
        self,
        mut cluster: Nodes,
        told: &Told,
        meanwhile: impl FnOnce(&mut Nodes) -> T + Send,
    ) -> (Nodes, usize, T) {
        // Writers end last: a follower takes a feed that is silent for long for one that is lost.
        let over = AtomicBool::new(false);
        let accounts: Vec<Account> = (0..self.users).map(|_| cluster.nodes[0].user()).collect();
        let strangers: Vec<Account> = accounts.iter().step_by(4).map(|_| cluster.nodes[0].user()).collect();
        let addresses: Vec<SocketAddr> = cluster.nodes.iter().map(|node| node.address).collect();
        let heads: Mutex<HashMap<String, u64>> = Mutex::default();
        let rest = Duration::from_millis(REST_MS * self.users as u64);
        let (cluster, acknowledged, replicas, happened) = std::thread::scope(|scope| {
            let _alarm = Alarm(told);
            let writers: Vec<_> = accounts
                .iter()
                .enumerate()
                .map(|(number, account)| {
                    let (addresses, over) = (&addresses, &over);
                    scope.spawn(move || write(addresses, account, number, rest, told, over))
                })
                .collect();
            let followers: Vec<_> = accounts
                .iter()
                .cycle()
                .take(self.followers)
                .enumerate()
                .map(|(number, account)| {
                    let (addresses, heads) = (&addresses, &heads);
                    scope.spawn(move || follow(addresses, account, number, told, heads))
                })
                .collect();
            for (stranger, account) in strangers.iter().zip(accounts.iter().step_by(4)) {
                let (addresses, over) = (&addresses, &over);
                scope.spawn(move || pry(addresses, stranger, account, told, over));
            }
            let over_now = &over;
            let happening = scope.spawn(move || {
                let _alarm = Alarm(told);
                let happened = meanwhile(&mut cluster);
                over_now.store(true, Ordering::Relaxed);
                (cluster, happened)
            });
            let acknowledged: Vec<HashMap<String, u64>> =
                writers.into_iter().map(|writer| writer.join().unwrap()).collect();
            let (cluster, happened) = happening.join().unwrap();
            // Everything runs again: what the log holds now is what everyone must come to show.
            let nodes = &cluster.nodes;
            std::thread::scope(|ends| {
                for account in &accounts {
                    let heads = &heads;
                    // The last entry makes every follower look whether it has all.
                    ends.spawn(move || {
                        let _alarm = Alarm(told);
                        let last = loop {
                            let outcome = nodes[0].submit(account, &task("the last"));
                            if let Some(seq) = outcome["accepted"]["seq"].as_u64() {
                                break seq;
                            }
                        };
                        heads.lock().unwrap().insert(account.user.clone(), last);
                        accepted(&nodes[1], account);
                    });
                }
            });
            let replicas: Vec<Replica> = followers.into_iter().map(|follower| follower.join().unwrap()).collect();
            (cluster, acknowledged, replicas, happened)
        });
        for (number, account) in accounts.iter().enumerate() {
            let shown = replicas.iter().skip(number).step_by(self.users);
            compare(&cluster, account, &acknowledged[number], shown);
        }
        let total = acknowledged.iter().map(HashMap::len).sum();
        (cluster, total, happened)
    }
}

/// What was acknowledged, and what screens showed, with the log and a fresh snapshot.
fn compare<'a>(
    cluster: &Nodes,
    account: &Account,
    acknowledged: &HashMap<String, u64>,
    shown: impl Iterator<Item = &'a Replica>,
) {
    let log = cluster.nodes[0].history(account);
    let now = Replica::of(&cluster.nodes[1], account);
    let mut places: HashMap<&str, u64> = HashMap::new();
    for (entry, seq) in log.iter().zip(2_u64..) {
        assert_eq!(entry["seq"], seq, "the log has a hole");
        assert_eq!(entry["author"], account.user.as_str(), "somebody else wrote: {entry}");
        let before = places.insert(entry["operation"].as_str().unwrap(), seq);
        assert_eq!(before, None, "an operation is there twice: {entry}");
    }
    for (id, seq) in acknowledged {
        assert_eq!(
            places.get(id.as_str()),
            Some(seq),
            "an acknowledged operation is elsewhere, or nowhere"
        );
    }
    for replica in shown {
        for entry in &replica.entries {
            let seq = entry["seq"].as_u64().unwrap();
            assert_eq!(*entry, log[seq as usize - 2], "a screen showed something else");
        }
        assert_eq!(replica.rows, now.rows);
    }
}

/// Operations in one message.
const BATCH: usize = 16;

/// How long a writer rests between two of them, for each writer that there is: five hundred operations a second in all, so
/// that what happens to the cluster is met at work, and not in a traffic jam, and what ended finds time to start.
const REST_MS: u64 = 30;

/// Connects to whichever node takes it, and says hello.
fn connect(addresses: &[SocketAddr], first: usize, account: &Account, told: &Told, follow: &Value) -> Client {
    for at in first.. {
        told.go_on();
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
pub fn port_of_its_own() -> SocketAddr {
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

/// Writes until it is over. What is not known is sent again, over whatever connection there is.
fn write(
    addresses: &[SocketAddr],
    account: &Account,
    number: usize,
    rest: Duration,
    told: &Told,
    over: &AtomicBool,
) -> HashMap<String, u64> {
    let _alarm = Alarm(told);
    let mut acknowledged = HashMap::new();
    let mut pending: Vec<Value> = Vec::new();
    let mut turn = number;
    loop {
        turn += 1;
        let mut client = connect(addresses, turn, account, told, &json!([]));
        let mut is_welcome = false;
        loop {
            told.go_on();
            if is_welcome {
                if pending.is_empty() {
                    if over.load(Ordering::Relaxed) {
                        return acknowledged;
                    }
                    std::thread::park_timeout(rest);
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
                        told.acknowledged.fetch_add(1, Ordering::Relaxed);
                        let now = (seq, Instant::now());
                        told.last.lock().unwrap().insert(account.user.clone(), now);
                    } else {
                        let error = outcome.get("unknown").or(outcome.get("refused")).expect("an error");
                        assert!(
                            error["retry_after_ms"].is_u64(),
                            "a create is never refused for good: {outcome}"
                        );
                        told.again.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            if is_over {
                told.cut
                    .fetch_add(if is_welcome { waiting as u64 } else { 0 }, Ordering::Relaxed);
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
fn follow(
    addresses: &[SocketAddr],
    account: &Account,
    first: usize,
    told: &Told,
    heads: &Mutex<HashMap<String, u64>>,
) -> Replica {
    let _alarm = Alarm(told);
    let mut replica = Replica::default();
    let shown = Cell::new((0, Instant::now()));
    let user = &account.user;
    let witness = Witness { told, user, shown };
    let mut turn = first;
    loop {
        turn += 1;
        let cursor = match &replica.cursor {
            Some(cursor) => json!([{ "cursor": cursor }]),
            None => json!([{}]),
        };
        let mut client = connect(addresses, turn, account, told, &cursor);
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
            told.go_on();
            let Ok(message) = client.next() else { break };
            if let Some(following) = message.get("following") {
                if replica.cursor.is_some() {
                    assert_ne!(following["mode"], "reset", "a cursor survives everything: {following}");
                }
            } else if let Some(entries) = message.get("entries") {
                replica.apply_entries(entries);
                witness.shown.set((replica.position, Instant::now()));
            } else if let Some(piece) = message.get("snapshot") {
                replica.apply_snapshot(piece);
            } else if message.get("error").is_some() {
                break;
            }
        }
    }
}

/// Asks for the feed of somebody else, to read it and to write to it, until it is over.
fn pry(addresses: &[SocketAddr], stranger: &Account, owner: &Account, told: &Told, over: &AtomicBool) {
    let _alarm = Alarm(told);
    for turn in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let mut client = connect(addresses, turn, stranger, told, &json!([{ "feed": owner.user }]));
        say(
            &mut client,
            &json!({ "operations": { "feed": owner.user, "operations": [task("pried")] } }),
        );
        let mut refusals = 0;
        while refusals < 2 {
            let Ok(message) = client.next() else { break };
            if let Some(error) = message.get("error") {
                let refused = error["name"] == "feed_not_found";
                // Or the connection is about to end.
                assert!(refused || error["feed"].is_null(), "{error}");
                refusals += u64::from(refused);
            } else {
                for shown in ["following", "entries", "snapshot", "results"] {
                    assert!(message.get(shown).is_none(), "a stranger was shown {message}");
                }
            }
        }
        told.refused.fetch_add(refusals, Ordering::Relaxed);
        std::thread::park_timeout(Duration::from_millis(100));
    }
}
