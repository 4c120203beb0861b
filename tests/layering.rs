//! Dependencies point one way: protocol ← actors ← taskflow. Checked with what cargo itself says, so that nothing has to
//! be installed for it; `deny.toml` says the same to cargo-deny.

#![allow(clippy::panic, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Crates that must not be anywhere in the tree of `taskflow-protocol`: no I/O, no clock, no randomness, no runtime.
const NOT_IN_PROTOCOL: &[&str] = &[
    "actix",
    "actix-rt",
    "actix-web",
    "actix-http",
    "tokio",
    "mio",
    "socket2",
    "bytes",
    "futures-util",
    "jiff",
    "chrono",
    "time",
    "rand",
    "getrandom",
    "tracing",
    "log",
    "libc",
];

/// Crates that must not be anywhere in the tree of `taskflow-actors`: no database, broker, HTTP or file crate.
const NOT_IN_ACTORS: &[&str] = &[
    "actix-web",
    "actix-http",
    "actix-server",
    "actix-web-actors",
    "actix-ws",
    "hyper",
    "reqwest",
    "tungstenite",
    "rusqlite",
    "libsqlite3-sys",
    "redb",
    "fjall",
    "rocksdb",
    "scylla",
    "redis",
    "jsonwebtoken",
    "argon2",
    "clap",
    "metrics",
    "tracing-subscriber",
    "tempfile",
];

/// Crates that only these may depend on directly.
const ONLY_UNDER: &[(&str, &[&str])] = &[
    ("actix", &["taskflow", "taskflow-actors"]),
    ("actix-web", &["taskflow"]),
    ("actix-http", &["taskflow", "actix-web"]),
    ("reqwest", &["taskflow"]),
    ("rusqlite", &["taskflow"]),
    ("redb", &["taskflow"]),
    ("fjall", &["taskflow"]),
    ("scylla", &["taskflow", "taskflow-loadtest"]),
    ("redis", &["taskflow"]),
    ("actix-web-actors", &[]),
    ("openssl-sys", &[]),
];

/// The resolved graph: names of packages, and what each depends on (development dependencies left out).
struct Graph {
    depends_on: BTreeMap<String, BTreeSet<String>>,
}

fn cargo(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args([
            "--locked",
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ])
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Everything that a crate pulls in when it is built alone. (`cargo metadata` unites what the whole workspace asks for.)
fn tree(root: &str) -> BTreeSet<String> {
    let tree = cargo(&[
        "tree",
        "--package",
        root,
        "--edges=normal,build",
        "--prefix=none",
        "--format={p}",
    ]);
    let tree = String::from_utf8(tree).expect("names are text");
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    let names: BTreeSet<_> = names.map(str::to_owned).collect();
    assert!(names.contains(root), "{root} is not in its own tree");
    names
}

impl Graph {
    fn read() -> Self {
        let metadata: Value =
            serde_json::from_slice(&cargo(&["metadata", "--format-version=1"])).expect("cargo metadata is JSON");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let names: BTreeMap<String, String> = metadata["packages"]
            .as_array()
            .expect("packages")
            .iter()
            .map(|package| (text(&package["id"]), text(&package["name"])))
            .collect();
        let mut depends_on = BTreeMap::<String, BTreeSet<String>>::new();
        for node in metadata["resolve"]["nodes"].as_array().expect("nodes") {
            let of = depends_on.entry(names[&text(&node["id"])].clone()).or_default();
            for dependency in node["deps"].as_array().expect("deps") {
                let kinds = dependency["dep_kinds"].as_array().expect("kinds");
                if kinds.iter().any(|kind| kind["kind"] != "dev") {
                    of.insert(names[&text(&dependency["pkg"])].clone());
                }
            }
        }
        Self { depends_on }
    }

    /// Our own crates that a package pulls in.
    fn ours<'a>(&'a self, root: &'a str) -> BTreeSet<&'a str> {
        let mut ours = BTreeSet::new();
        let mut open = vec![root];
        while let Some(name) = open.pop() {
            let dependencies = self
                .depends_on
                .get(name)
                .unwrap_or_else(|| panic!("{name} is no package"));
            for dependency in dependencies.iter().filter(|name| name.starts_with("taskflow")) {
                if ours.insert(dependency.as_str()) {
                    open.push(dependency);
                }
            }
        }
        ours
    }
}

#[test]
fn dependencies_point_one_way() {
    let graph = Graph::read();
    assert_eq!(graph.ours("taskflow-protocol"), BTreeSet::new());
    assert_eq!(graph.ours("taskflow-actors"), BTreeSet::from(["taskflow-protocol"]));
    assert_eq!(
        graph.ours("taskflow"),
        BTreeSet::from(["taskflow-actors", "taskflow-protocol"])
    );
    for name in graph.depends_on.keys().filter(|name| name.starts_with("taskflow-")) {
        if !["taskflow-protocol", "taskflow-actors"].contains(&name.as_str()) {
            assert_eq!(graph.ours(name), BTreeSet::from(["taskflow-protocol"]), "{name}");
        }
    }
}

#[test]
fn the_protocol_is_serde_only() {
    let tree = tree("taskflow-protocol");
    let found: Vec<_> = NOT_IN_PROTOCOL.iter().filter(|name| tree.contains(**name)).collect();
    assert!(found.is_empty(), "in the tree of taskflow-protocol: {found:?}");
    let graph = Graph::read();
    let direct: Vec<_> = graph.depends_on["taskflow-protocol"]
        .iter()
        .map(String::as_str)
        .collect();
    assert_eq!(
        direct,
        [
            "rmp-serde",
            "serde",
            "serde_json",
            "serde_path_to_error",
            "thiserror",
            "uuid"
        ],
        "a new dependency of the protocol is a new dependency of every client"
    );
}

#[test]
fn the_actors_know_no_database_broker_or_web_crate() {
    let tree = tree("taskflow-actors");
    let found: Vec<_> = NOT_IN_ACTORS.iter().filter(|name| tree.contains(**name)).collect();
    assert!(found.is_empty(), "in the tree of taskflow-actors: {found:?}");
}

#[test]
fn adapters_are_known_to_the_server_only() {
    let graph = Graph::read();
    for (banned, allowed) in ONLY_UNDER {
        for (name, dependencies) in &graph.depends_on {
            assert!(
                !dependencies.contains(*banned) || allowed.contains(&name.as_str()),
                "{name} depends on {banned}, which only {allowed:?} may"
            );
        }
    }
}

#[test]
fn cargo_deny_is_told_the_same() {
    let deny = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml")).expect("deny.toml is there");
    for (banned, allowed) in ONLY_UNDER {
        let line = deny
            .lines()
            .find(|line| line.contains(&format!("crate = \"{banned}\"")));
        let line = line.unwrap_or_else(|| panic!("deny.toml does not ban {banned}"));
        let wrappers = allowed
            .iter()
            .map(|name| format!("\"{name}\""))
            .collect::<Vec<_>>()
            .join(", ");
        let expected = if allowed.is_empty() {
            String::new()
        } else {
            format!("wrappers = [{wrappers}]")
        };
        assert!(line.contains(&expected), "deny.toml says of {banned}: {line}");
        assert_eq!(allowed.is_empty(), !line.contains("wrappers"), "{line}");
    }
}
