//! The scenarios. Each leaves a [`Record`].

mod backlog_memory;
mod cluster;
mod cluster_faults;
mod cold_snapshot;
mod compare;
mod creates;
mod fanout;
mod footprint;
mod front_door;
mod idle_memory;
mod kill9;
mod latency;
mod load;
mod metrics_cost;
mod overload;
mod pages;
mod rolling;
mod slow_reader;
mod soak;
mod start;
mod storm;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::Future;
use std::rc::Rc;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::clock;
use crate::machine::Machine;
use crate::record::Record;
use crate::server::Bench;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Resident memory of 19,500 idle connections.
    IdleMemory,
    /// CPU and last-screen time of pushes to 5,000 connections, beside the bare floor.
    Fanout,
    /// Durable creates by 64 clients, beside PocketBase.
    Creates,
    /// Pages of tasks by 16 clients, beside PocketBase; searches over 10,000 tasks.
    Pages,
    /// Sign-ins beside pushes; from a sign-out to closed sockets.
    FrontDoor,
    /// From one client's operation to another client's screen, beside the bare fsync.
    Latency,
    /// SIGKILL at random moments under load: nothing lost, doubled or reordered.
    #[value(name = "kill9")]
    Kill9,
    /// A feed that is not in memory, from hello to its whole snapshot.
    ColdSnapshot,
    /// 10,000 clients come back at once.
    Storm,
    /// What is left in memory of a connection that once carried a lot.
    BacklogMemory,
    /// What others notice of a client that does not read.
    SlowReader,
    /// TaskFlow beside PocketBase and Centrifugo, as `taskflow-loadtest compare` does it.
    Compare,
    /// Memory of a feed, disk of a task, length of a push.
    Footprint,
    /// Two nodes over Redis and a CQL database, beside the bare conditional writes of the same database.
    Cluster,
    /// What users notice when a part of a cluster goes, or is taken away.
    ClusterFaults,
    /// Nodes replaced one after the other, under load, behind real proxies.
    Rolling,
    /// Three times as much as a node with half a core can do.
    Overload,
    /// From start to ready; idle memory, size, scrapes.
    Start,
    /// A mixed day for half an hour: whether memory grows.
    Soak,
    /// What the instruments cost at full fan-out.
    MetricsCost,
}

impl Scenario {
    /// The name on the command line and of the file of results.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Runs it.
    pub async fn run(self, bench: &mut Bench) -> Result<Record> {
        let mut record = Record {
            scenario: self.name(),
            date: clock::today(),
            machine: Machine::here(),
            quick: bench.quick,
            ..Record::default()
        };
        bench.commands.clear();
        match self {
            Self::IdleMemory => idle_memory::run(bench, &mut record).await,
            Self::Fanout => fanout::run(bench, &mut record).await,
            Self::Creates => creates::run(bench, &mut record).await,
            Self::Pages => pages::run(bench, &mut record).await,
            Self::FrontDoor => front_door::run(bench, &mut record).await,
            Self::Latency => latency::run(bench, &mut record).await,
            Self::Kill9 => kill9::run(bench, &mut record).await,
            Self::ColdSnapshot => cold_snapshot::run(bench, &mut record).await,
            Self::Storm => storm::run(bench, &mut record).await,
            Self::BacklogMemory => backlog_memory::run(bench, &mut record).await,
            Self::SlowReader => slow_reader::run(bench, &mut record).await,
            Self::Compare => compare::run(bench, &mut record).await,
            Self::Footprint => footprint::run(bench, &mut record).await,
            Self::Cluster => cluster::run(bench, &mut record).await,
            Self::ClusterFaults => cluster_faults::run(bench, &mut record).await,
            Self::Rolling => rolling::run(bench, &mut record).await,
            Self::Overload => overload::run(bench, &mut record).await,
            Self::Start => start::run(bench, &mut record).await,
            Self::Soak => soak::run(bench, &mut record).await,
            Self::MetricsCost => metrics_cost::run(bench, &mut record).await,
        }?;
        record.commands = std::mem::take(&mut bench.commands);
        Ok(record)
    }
}

/// Opens `count` connections, `at_once` at a time, and gives them in no order.
///
/// One that fails ends the scenario: what is measured is so many connections, not nearly so many.
pub async fn open_many<F, T>(
    count: usize,
    at_once: usize,
    open: impl Fn(usize) -> F + Clone + 'static,
) -> Result<Vec<T>>
where
    F: Future<Output = Result<T>>,
    T: 'static,
{
    let next = Rc::new(Cell::new(0));
    let diallers: Vec<_> = (0..at_once.min(count))
        .map(|_| {
            let (next, open) = (next.clone(), open.clone());
            tokio::task::spawn_local(async move {
                let mut opened = Vec::new();
                loop {
                    let number = next.replace(next.get() + 1);
                    if number >= count {
                        return Ok::<_, anyhow::Error>(opened);
                    }
                    opened.push(open(number).await?);
                }
            })
        })
        .collect();
    let mut all = Vec::with_capacity(count);
    for dialler in diallers {
        all.append(&mut dialler.await??);
    }
    if all.len() != count {
        bail!("{} of {count} connections were opened", all.len());
    }
    Ok(all)
}

/// The servers, or variants of the load, that a scenario ran, each once.
fn subjects(record: &Record) -> BTreeSet<String> {
    record.rounds.iter().map(|round| round.subject.clone()).collect()
}
