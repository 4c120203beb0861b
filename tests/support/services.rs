//! Real servers for tests, started by `scripts/services`, each run with ports and a folder of its own.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// A port that nobody has now. Below those that the system gives to connections: a service takes seconds until it
/// listens, and by then one of those may be somebody's.
pub fn free_port() -> u16 {
    loop {
        let port = 15_000 + rand::random::<u16>() % 7_000;
        if is_free(port) {
            return port;
        }
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("scripts/services")
        .join(name)
}

/// A folder in memory, if there is any: these servers sync after every write.
fn folder(name: &str) -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
    parent.join(format!("taskflow-test-{name}-{}", std::process::id()))
}

/// To the process whose pid is in the folder.
fn signal_to(folder: &Path, signal: &str) {
    assert!(
        is_signalled(folder, signal),
        "kill {signal}: no process of {}",
        folder.display()
    );
}

/// The same; `false` if it has ended.
fn is_signalled(folder: &Path, signal: &str) -> bool {
    let pid = std::fs::read_to_string(folder.join("pid")).expect("a pid");
    let mut kill = Command::new("kill");
    kill.args([signal, pid.trim()]).stderr(Stdio::null());
    kill.status().expect("kill").success()
}

/// Ends a service when this process ends, however that happens: it reads from a pipe whose other end only this process
/// has.
struct Reaper(Child);

impl Reaper {
    fn of(down: &str, variables: &[(&str, String)]) -> Self {
        let mut command = Command::new("sh");
        command
            .args(["-c", "read -r _; exec \"$0\" --wipe"])
            .arg(script(down))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.envs(variables.iter().map(|(name, value)| (*name, value.as_str())));
        Self(command.spawn().expect("sh"))
    }
}

/// A real Apache Cassandra, as the stand-in for ScyllaDB.
pub struct Cassandra {
    /// Addresses of its nodes.
    pub nodes: Vec<String>,
    /// Where data, logs and pid files are: `node1/pid` and so on.
    pub folder: PathBuf,
    /// Where clients ask, at each of the addresses.
    pub port: u16,
    /// Where the nodes talk with each other.
    pub gossip: u16,
    variables: Vec<(&'static str, String)>,
    _reaper: Option<Reaper>,
}

impl Cassandra {
    /// The one of this process: started by the first who asks. `TEST_CQL_NODES` names another database that is there.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cassandra> = OnceLock::new();
        SHARED.get_or_init(|| match std::env::var("TEST_CQL_NODES") {
            Ok(nodes) => Self {
                nodes: nodes.split(',').map(str::to_owned).collect(),
                folder: PathBuf::new(),
                port: 0,
                gossip: 0,
                variables: Vec::new(),
                _reaper: None,
            },
            Err(_) => Self::start(1),
        })
    }

    /// So many nodes.
    pub fn start(nodes: usize) -> Self {
        Self::start_with(nodes, &[])
    }

    /// The same, with more settings of the script.
    pub fn start_with(nodes: usize, more: &[(&'static str, &str)]) -> Self {
        let folder = folder(&format!("cassandra-{}", free_port()));
        let (port, gossip) = (free_port(), free_port());
        let mut variables = vec![
            ("CASSANDRA_RUN", folder.display().to_string()),
            ("CASSANDRA_PORT", port.to_string()),
            ("CASSANDRA_GOSSIP", gossip.to_string()),
        ];
        variables.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let reaper = Reaper::of("cassandra-down", &variables);
        let mut cassandra = Self {
            nodes: Vec::new(),
            folder,
            port,
            gossip,
            variables,
            _reaper: Some(reaper),
        };
        cassandra.nodes = cassandra.up(nodes);
        cassandra
    }

    /// Sends a signal to the node of this number, from 1.
    pub fn signal(&self, node: usize, signal: &str) {
        signal_to(&self.folder.join(format!("node{node}")), signal);
    }

    /// Ends the node of this number, if it has not ended by itself: whether it had not.
    pub fn end(&self, node: usize) -> bool {
        is_signalled(&self.folder.join(format!("node{node}")), "-KILL")
    }

    /// Fills the disk of this node, which is its own (CASSANDRA_DISK), to the last byte.
    pub fn fill_disk(&self, node: usize) {
        let mut file = std::fs::File::create(self.ballast(node)).expect("a file");
        let full = std::io::copy(&mut std::io::repeat(0), &mut file).expect_err("a disk of a size");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
    }

    /// Makes room again.
    pub fn free_disk(&self, node: usize) {
        std::fs::remove_file(self.ballast(node)).expect("it was filled");
    }

    fn ballast(&self, node: usize) -> PathBuf {
        self.folder.join(format!("node{node}/ballast"))
    }

    /// Starts what does not run of so many nodes; their addresses.
    pub fn up(&self, nodes: usize) -> Vec<String> {
        let started = Command::new(script("cassandra-up"))
            .arg(nodes.to_string())
            .envs(self.variables.iter().map(|(name, value)| (*name, value.as_str())))
            .output()
            .expect("bash");
        assert!(
            started.status.success(),
            "Cassandra did not start: {}",
            String::from_utf8_lossy(&started.stderr)
        );
        let text = String::from_utf8(started.stdout).expect("text");
        text.lines().map(str::to_owned).collect()
    }
}

/// A real Redis: one server, with Sentinels, or a cluster.
pub struct Redis {
    /// Addresses for clients.
    pub nodes: Vec<String>,
    /// The first port.
    pub port: u16,
    folder: PathBuf,
    /// What it was started as.
    pub kind: &'static str,
    variables: Vec<(&'static str, String)>,
    _reaper: Reaper,
}

impl Redis {
    /// `standalone`, `sentinel` or `cluster`.
    pub fn start(kind: &'static str) -> Self {
        // Sixteen ports in a row, and as many 10,000 above: those of a cluster's own talk.
        let port = loop {
            let port = free_port();
            if (0..13).all(|more| is_free(port + more) && is_free(port + 10_000 + more)) {
                break port;
            }
        };
        let folder = folder(&format!("redis-{port}"));
        let variables = vec![
            ("REDIS_RUN", folder.display().to_string()),
            ("REDIS_PORT", port.to_string()),
        ];
        let reaper = Reaper::of("redis-down", &variables);
        let mut redis = Self {
            nodes: Vec::new(),
            port,
            folder,
            kind,
            variables,
            _reaper: reaper,
        };
        redis.nodes = redis.up();
        redis
    }

    /// Starts what does not run; the addresses.
    pub fn up(&self) -> Vec<String> {
        let started = Command::new(script("redis-up"))
            .arg(self.kind)
            .envs(self.variables.iter().map(|(name, value)| (*name, value.as_str())))
            .output()
            .expect("bash");
        assert!(
            started.status.success(),
            "Redis did not start: {}",
            String::from_utf8_lossy(&started.stderr)
        );
        let text = String::from_utf8(started.stdout).expect("text");
        text.lines().map(str::to_owned).collect()
    }

    /// Sends a signal to the server on the port that is so many above the first.
    pub fn signal(&self, above: u16, signal: &str) {
        signal_to(&self.folder.join((self.port + above).to_string()), signal);
    }

    /// Says something to that server.
    pub fn say(&self, above: u16, words: &[&str]) -> String {
        let port = (self.port + above).to_string();
        let said = Command::new("redis-cli")
            .args(["-h", "127.0.0.1", "-p", &port])
            .args(words)
            .output()
            .expect("redis-cli");
        String::from_utf8_lossy(&said.stdout).into_owned()
    }
}
