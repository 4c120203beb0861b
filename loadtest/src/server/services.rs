//! A real Redis and a real CQL database, started by the project's own scripts, and nodes over them.

use std::path::PathBuf;
use std::process::Command as Program;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::taskflow::{Setup, TaskFlow};
use super::{Bench, output_of};
use crate::clock;

/// They end with this.
pub struct Services {
    folder: PathBuf,
    variables: Vec<(&'static str, String)>,
    database: Vec<String>,
    redis: String,
    key_dir: String,
}

const REDIS_PORT: &str = "6742";

impl Services {
    /// Redis and so many nodes of the database, with as many replicas, and the tables.
    pub fn start(bench: &Bench, database_nodes: usize) -> Result<Self> {
        let folder = PathBuf::from(if std::path::Path::new("/dev/shm").is_dir() {
            "/dev/shm"
        } else {
            "/tmp"
        });
        let folder = folder.join(format!("taskflow-bench-{}", std::process::id()));
        let mut services = Self {
            variables: vec![
                ("CASSANDRA_RUN", folder.join("cassandra").display().to_string()),
                ("CASSANDRA_PORT", "9742".to_owned()),
                ("CASSANDRA_GOSSIP", "7742".to_owned()),
                ("REDIS_RUN", folder.join("redis").display().to_string()),
                ("REDIS_PORT", REDIS_PORT.to_owned()),
            ],
            key_dir: bench.work.join("taskflow-one").display().to_string(),
            folder,
            database: Vec::new(),
            redis: String::new(),
        };
        let database = services.script("cassandra-up", &database_nodes.to_string())?;
        services.database = database.lines().map(str::to_owned).collect();
        services.redis_up()?;
        let nodes = services.database.join(",");
        let replication = format!("--cql-replication={database_nodes}");
        let migrate = [
            "migrate",
            "--store=cql",
            "--cql-keyspace=bench",
            &replication,
            "--cql-nodes",
            &nodes,
        ];
        output_of(&bench.server_binary, &migrate)?;
        Ok(services)
    }

    /// Addresses of the database.
    pub fn database(&self) -> &[String] {
        &self.database
    }

    /// A node over them. The first one is called `one`: its folder has the key of all.
    pub async fn node(&self, bench: &mut Bench, name: &str) -> Result<TaskFlow> {
        TaskFlow::start_in(bench, self.setup(name), &format!("taskflow-{name}")).await
    }

    /// What such a node is started with.
    pub fn setup(&self, name: &str) -> Setup {
        Setup {
            texts: vec![
                ("store", "\"cql\"".to_owned()),
                ("cql_nodes", format!("{:?}", self.database)),
                ("cql_keyspace", "\"bench\"".to_owned()),
                ("redis", format!("[{:?}]", self.redis)),
                ("cluster_name", "\"bench\"".to_owned()),
                ("node_name", format!("{name:?}")),
                ("key_dir", format!("{:?}", self.key_dir)),
            ],
            settings: vec![
                ("cql_replication", self.database.len() as i64),
                // Nodes, client, Redis and database share the cores: threads beyond them are switches and nothing else.
                ("workers", 1),
                ("feed_arbiters", 1),
            ],
            ..Setup::default()
        }
    }

    /// Starts Redis, if it does not run.
    pub fn redis_up(&mut self) -> Result<()> {
        self.redis = self.script("redis-up", "standalone")?.trim().to_owned();
        Ok(())
    }

    /// To Redis.
    pub fn signal_redis(&self, signal: Signal) -> Result<()> {
        self.signal(&format!("redis/{REDIS_PORT}"), signal)
    }

    /// To the node of the database of this number, from 1.
    pub fn signal_database(&self, node: usize, signal: Signal) -> Result<()> {
        self.signal(&format!("cassandra/node{node}"), signal)
    }

    fn signal(&self, service: &str, signal: Signal) -> Result<()> {
        let pid = std::fs::read_to_string(self.folder.join(service).join("pid"))?;
        Ok(kill(Pid::from_raw(pid.trim().parse()?), signal)?)
    }

    fn script(&self, name: &str, argument: &str) -> Result<String> {
        let variables = self.variables.iter().map(|(name, value)| (*name, value.as_str()));
        let output = Program::new(format!("scripts/services/{name}"))
            .arg(argument)
            .envs(variables)
            .output()
            .with_context(|| format!("cannot run scripts/services/{name}: run the bench from the project's folder"))?;
        if !output.status.success() {
            bail!("{name}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        for name in ["cassandra-down", "redis-down"] {
            // There is nobody to tell.
            let _ = self.script(name, "--wipe");
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Waits until each of these nodes knows so many.
pub async fn meet(nodes: &[&TaskFlow], members: f64) -> Result<()> {
    for node in nodes {
        let deadline = clock::now_ns() + 30_000_000_000;
        while node.metric("taskflow_cluster_members").await? != Some(members) {
            if clock::now_ns() > deadline {
                bail!("the nodes do not see each other");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // Feeds that were hosted elsewhere until now are found by the first operation.
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(())
}
