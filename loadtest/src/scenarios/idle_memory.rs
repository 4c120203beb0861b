//! What a connection costs that does nothing: signed in, following its own feed, answering heartbeats.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{open_many, subjects};
use crate::board::{Board, mark};
use crate::clock;
use crate::machine::Watch;
use crate::net::socket::{Socket, Writer};
use crate::process::Process;
use crate::record::{Better, Record, Round};
use crate::server::reference::Reference;
use crate::server::taskflow::{Setup, TaskFlow, create, operation, operations, task_id};
use crate::server::{Bench, User};

/// Connections of the state that the rest is compared with: code, caches and pools are in memory by then.
const BASE: usize = 200;
/// Feeds stop after so much quiet, so that the bench need not wait a minute.
const FEED_IDLE_SECONDS: i64 = 2;
/// Changes under way at once.
const CHANGES_AT_ONCE: usize = 64;
/// Longer than the heartbeat's period of 25 s.
const HEARTBEATS_WITHIN: Duration = Duration::from_secs(60);

enum Server {
    TaskFlow(TaskFlow),
    Reference(Reference),
}

impl Server {
    fn process(&self) -> &Process {
        match self {
            Self::TaskFlow(server) => &server.process,
            Self::Reference(server) => &server.process,
        }
    }
}

/// Runs the scenario.
pub async fn run(bench: &mut Bench, record: &mut Record) -> Result<()> {
    // The process may open 20,000 files, and the server keeps 500 back for its store.
    let connections = bench.size(19_500, 1_000);
    record.about = format!(
        "{connections} signed-in connections of as many users. Each follows its own feed, makes one change and gets it \
         back; then its feed stops, and every connection answers a heartbeat. Resident memory of the server (smaps_rollup) \
         less that of the same server with {BASE} such connections, by the number of the others."
    );
    for round in 0..bench.rounds(3) {
        for subject in bench.subjects(&["taskflow", "r-jwt"], round) {
            let round = measure(bench, &subject, connections).await?;
            record.rounds.push(round);
        }
    }
    let row = record
        .measure(
            "resident memory per idle connection, after one change each and once idle feeds have stopped",
            "KiB",
            Better::Less,
            "taskflow",
            "resident_kib_per_connection",
        )
        .asked(3.5, 2.2);
    record.measures.push(row);
    for subject in subjects(record) {
        for (figure, unit) in [
            ("resident_kib_per_connection", "KiB resident"),
            ("proportional_kib_per_connection", "KiB proportional"),
            ("idle_cpu_us_per_connection_and_s", "µs of CPU a connection and second"),
        ] {
            let row = record.measure(&subject, unit, Better::Less, &subject, figure);
            record.measures.push(row);
        }
    }
    Ok(())
}

async fn measure(bench: &mut Bench, subject: &str, connections: usize) -> Result<Round> {
    let (server, users) = match subject {
        "taskflow" => {
            let setup = Setup::default().with("feed_idle_seconds", FEED_IDLE_SECONDS);
            let server = TaskFlow::start(bench, setup).await?;
            let users = server.users(bench, connections)?;
            (Server::TaskFlow(server), users)
        }
        stack => {
            let server = Reference::start(bench, stack).await?;
            (Server::Reference(server), Reference::users(bench, connections)?)
        }
    };
    let mut crowd = Crowd {
        server: Rc::new(server),
        users: Rc::new(users),
        board: Board::new(),
        connected: 0,
        published: 0,
    };
    crowd.grow(BASE).await?;
    crowd.settle().await?;
    let base = crowd.server.process().memory()?;
    crowd.grow(connections).await?;
    crowd.settle().await?;
    let watch = Watch::begin(&[crowd.server.process().pid()]);
    let heartbeats = crowd.heartbeats().await?;
    let seen = watch.end();
    let full = crowd.server.process().memory()?;
    let others = (connections - BASE) as f64;
    let per_connection = |full: u64, base: u64| full.saturating_sub(base) as f64 / 1024.0 / others;
    Ok(Round::new(subject, seen)
        .figure(
            "resident_kib_per_connection",
            per_connection(full.resident, base.resident),
        )
        .figure(
            "proportional_kib_per_connection",
            per_connection(full.proportional, base.proportional),
        )
        .figure(
            "anonymous_kib_per_connection",
            per_connection(full.anonymous, base.anonymous),
        )
        .figure("resident_mib", full.resident as f64 / 1048576.0)
        .figure("resident_at_base_mib", base.resident as f64 / 1048576.0)
        .figure("files", crowd.server.process().files() as f64)
        .figure("heartbeats", heartbeats as f64)
        .figure(
            "idle_cpu_us_per_connection_and_s",
            seen.server_cpu_seconds * 1e6 / seen.seconds / connections as f64,
        ))
}

/// The connections, all alike.
struct Crowd {
    server: Rc<Server>,
    users: Rc<Vec<User>>,
    board: Rc<Board>,
    connected: usize,
    /// Pushes to everyone, by a reference server.
    published: u32,
}

impl Crowd {
    /// Connects until there are so many, and has the new ones see one change.
    async fn grow(&mut self, connections: usize) -> Result<()> {
        let (from, new) = (self.connected, connections - self.connected);
        let (server, users) = (self.server.clone(), self.users.clone());
        let opened = open_many(new, 64, move |offset| {
            let (server, users) = (server.clone(), users.clone());
            let number = from + offset;
            async move { Ok((number, open(&server, number, &users[number]).await?)) }
        })
        .await?;
        let mut writers = Vec::with_capacity(new);
        for (number, socket) in opened {
            writers.push((number as u32, socket.writer()));
            self.board.watch(socket);
        }
        self.connected = connections;
        match Rc::get_mut(&mut self.server).context("the diallers are done")? {
            Server::TaskFlow(_) => self.change(&writers).await,
            Server::Reference(server) => {
                while server.connections().await? < connections {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let before = self.board.pushes();
                server.publish(self.published, 256).await?;
                self.published += 1;
                self.arrived(before + connections as u64).await
            }
        }
    }

    /// Each new connection makes a task and gets it pushed.
    async fn change(&self, writers: &[(u32, Writer)]) -> Result<()> {
        let before = self.board.pushes();
        for (done, chunk) in writers.chunks(CHANGES_AT_ONCE).enumerate() {
            for (number, writer) in chunk {
                let made = operation(create(task_id(), mark(*number), String::new()));
                writer.send(&operations(vec![made])).await?;
            }
            self.arrived(before + (done * CHANGES_AT_ONCE + chunk.len()) as u64)
                .await?;
        }
        Ok(())
    }

    async fn arrived(&self, pushes: u64) -> Result<()> {
        let arrived = tokio::time::timeout(Duration::from_secs(10), self.board.until_pushes(pushes)).await;
        if arrived.is_err() || self.board.ended() > 0 {
            let (got, ended) = (self.board.pushes(), self.board.ended());
            bail!("{got} pushes of {pushes} arrived, {ended} connections ended");
        }
        Ok(())
    }

    /// Waits until no feed runs, and until the allocator had time to give back what it wants to.
    async fn settle(&mut self) -> Result<()> {
        if let Server::TaskFlow(server) = Rc::get_mut(&mut self.server).context("nobody dials")? {
            server.wait_until_feeds_stopped(0.0).await?;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(())
    }

    /// Waits until every connection has answered a heartbeat, and gives how many were answered meanwhile.
    async fn heartbeats(&self) -> Result<u64> {
        let before = self.board.heartbeats();
        let began = clock::now_ns();
        while self.board.heartbeats() - before < self.connected as u64 {
            let late = Duration::from_nanos(clock::now_ns() - began) > HEARTBEATS_WITHIN;
            if late || self.board.ended() > 0 {
                let got = self.board.heartbeats() - before;
                bail!(
                    "{got} heartbeats on {} connections, {} ended",
                    self.connected,
                    self.board.ended()
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(self.board.heartbeats() - before)
    }
}

async fn open(server: &Server, number: usize, user: &User) -> Result<Socket> {
    match server {
        Server::TaskFlow(server) => Ok(server.follow(server.dial(number), user).await?.0),
        Server::Reference(server) => Ok(server.open(number, Some(user)).await?),
    }
}
