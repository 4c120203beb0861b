//! Many nodes over a real Redis and a real CQL database: the real binary, real sockets, and real ends of all three.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test ends where what it needs fails, and shows why"
)]

mod chaos;
mod clock;
mod faults;
mod load;
mod network;
mod proxy;
mod rolling;
#[path = "../support/services.rs"]
mod services;
mod sign_outs;
#[path = "../support/mod.rs"]
mod support;
mod together;
mod traces;

use std::net::SocketAddr;
use std::sync::Arc;

use services::{Cassandra, Redis};
use support::Server;
use support::server::{DataDir, Program, binary, key_of};

/// Nodes that share a database, a Redis and a key.
pub struct Nodes {
    /// The nodes, by number.
    pub nodes: Vec<Server>,
    /// Their Redis.
    pub redis: Redis,
    /// Their database.
    pub cassandra: &'static Cassandra,
    key: Arc<DataDir>,
    flags: Vec<String>,
}

impl Nodes {
    /// So many, in a keyspace of their own.
    pub fn start(name: &str, count: usize) -> Self {
        Self::on(Cassandra::shared(), Redis::start("standalone"), name, count)
    }

    /// The same, on this database and this Redis.
    pub fn on(cassandra: &'static Cassandra, redis: Redis, name: &str, count: usize) -> Self {
        let key = DataDir::temporary();
        let flags: Vec<String> = [
            "--store=cql".to_owned(),
            format!("--cql-nodes={}", cassandra.nodes.join(",")),
            format!("--cql-keyspace={name}"),
            format!("--cql-replication={}", if cassandra.nodes.len() < 3 { 1 } else { 3 }),
            format!("--redis={}", redis.nodes.join(",")),
            format!("--redis-mode={}", redis.kind),
            "--redis-master=taskflow".to_owned(),
            format!("--cluster-name={name}"),
            format!("--key-dir={}", key.path().display()),
        ]
        .into();
        let migrated = binary().arg("migrate").args(&flags).output().unwrap();
        assert!(migrated.status.success(), "{migrated:?}");
        let mut nodes = Self {
            nodes: Vec::new(),
            redis,
            cassandra,
            key,
            flags,
        };
        for _ in 0..count {
            nodes.add(&[]);
        }
        nodes.meet();
        nodes
    }

    /// One more, with these flags beside, or instead of those for the same keys.
    pub fn add(&mut self, more: &[&str]) {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        self.add_as(&Program::default(), [any, any], more);
    }

    /// The same, by this program, at these addresses for clients and operators.
    pub fn add_as(&mut self, program: &Program, [listen, operator]: [SocketAddr; 2], more: &[&str]) {
        let number = self.nodes.len();
        // The first one's folder has the key, so that tokens can be minted with it.
        let data = if number == 0 {
            self.key.clone()
        } else {
            DataDir::temporary()
        };
        let name = format!("--node-name=node-{number}");
        let mut flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        flags.push(&name);
        flags.retain(|flag| !more.iter().any(|other| key_of(other) == key_of(flag)));
        flags.extend(more);
        match Server::try_start_as(program, data, listen, operator, &flags) {
            Ok(server) => self.nodes.push(server),
            Err((status, log)) => panic!("the server did not start: {status:?}\n{log}"),
        }
    }

    /// Waits until each node knows all that run.
    pub fn meet(&self) {
        for node in &self.nodes {
            node.wait_for_metric("taskflow_cluster_members", |members| members == self.nodes.len() as f64);
        }
    }

    /// The sum of a figure over all nodes.
    pub fn sum(&self, name: &str) -> f64 {
        self.nodes.iter().map(|node| node.metric(name)).sum()
    }
}
