//! What the formula is given: what was measured, what is assumed of people, what a node is, what things cost.

use std::path::Path;

use anyhow::{Result, bail};

use crate::load::target::Trouble;
use crate::record::Record;
use crate::stats;

/// Where a number comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Measured: the file of results and what in it.
    Measured(&'static str),
    /// Assumed; change it to what is true for you.
    Assumed,
    /// Given on the command line.
    Given,
}

/// A number with its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// As in the formula, and behind `--set`.
    pub name: &'static str,
    /// What it is of.
    pub group: &'static str,
    /// In its unit.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// What it means.
    pub what: &'static str,
    /// Where it comes from.
    pub source: Source,
}

/// The groups, as headings.
pub const MEASURED: &str = "Measured";
const PEOPLE: &str = "People";
const MACHINES: &str = "Machines";
const PRICES: &str = "Prices";
/// In this order.
pub const GROUPS: [&str; 4] = [MEASURED, PEOPLE, MACHINES, PRICES];

/// A figure of the kept results.
struct Unit {
    name: &'static str,
    unit: &'static str,
    what: &'static str,
    scenario: &'static str,
    subject: &'static str,
    figure: fn(&Record, &str) -> f64,
    place: &'static str,
}

const UNITS: &[Unit] = &[
    Unit {
        name: "change_us",
        unit: "µs",
        what: "CPU of the nodes for a change, in a cluster of two, one feed each",
        scenario: "cluster",
        subject: "taskflow, one feed each",
        figure: |record, subject| median(record, subject, "server_cpu_us"),
        place: "cluster: CPU of both nodes for an operation",
    },
    Unit {
        name: "push_us",
        unit: "µs",
        what: "CPU of the server to bring a change to one screen",
        scenario: "fanout",
        subject: "taskflow, 1 in flight",
        figure: |record, subject| median(record, subject, "cpu_us_per_message"),
        place: "fanout: µs a message, 1 in flight",
    },
    Unit {
        name: "read_us",
        unit: "µs",
        what: "CPU of the server for a page of 50 tasks",
        scenario: "pages",
        subject: "taskflow",
        figure: |record, subject| median(record, subject, "cpu_ms_per_answer") * 1e3,
        place: "pages: ms of CPU an answer",
    },
    Unit {
        name: "idle_us",
        unit: "µs a second",
        what: "CPU of the server for a connection that is quiet: heartbeats",
        scenario: "idle-memory",
        subject: "taskflow",
        figure: |record, subject| median(record, subject, "idle_cpu_us_per_connection_and_s"),
        place: "idle-memory: µs of CPU a connection and second",
    },
    Unit {
        name: "storm_us",
        unit: "µs",
        what: "CPU of the server for a client that comes back with its cursor and two missed changes",
        scenario: "storm",
        subject: "taskflow",
        figure: |record, subject| median(record, subject, "cpu_us_per_client"),
        place: "storm: server CPU a client",
    },
    Unit {
        name: "connection_kib",
        unit: "KiB",
        what: "memory of a connection that once carried a lot",
        scenario: "backlog-memory",
        subject: "taskflow",
        figure: |record, subject| median(record, subject, "resident_kib_per_connection"),
        place: "backlog-memory",
    },
    Unit {
        name: "feed_kib",
        unit: "KiB",
        what: "memory of a feed of 200 tasks while somebody works with it",
        scenario: "footprint",
        subject: "taskflow",
        figure: |record, subject| median(record, subject, "resident_kib_per_feed"),
        place: "footprint: memory of a feed",
    },
    Unit {
        name: "base_mib",
        unit: "MiB",
        what: "memory of a node with a few connections",
        scenario: "idle-memory",
        subject: "taskflow",
        figure: |record, subject| median(record, subject, "resident_at_base_mib"),
        place: "idle-memory: resident_at_base_mib",
    },
    Unit {
        name: "task_bytes",
        unit: "bytes",
        what: "disk of a task in the embedded store, its entry in the log and its row; taken for one copy in a database, too",
        scenario: "footprint",
        subject: "taskflow",
        figure: |record, subject| median(record, subject, "disk_bytes_per_task"),
        place: "footprint: disk of a task",
    },
    Unit {
        name: "push_bytes",
        unit: "bytes",
        what: "a change on its way to a screen",
        scenario: "footprint",
        subject: "taskflow",
        figure: |record, subject| median(record, subject, "push_bytes"),
        place: "footprint: the push of a change",
    },
    Unit {
        name: "read_bytes",
        unit: "bytes",
        what: "a page of 50 tasks",
        scenario: "pages",
        subject: "taskflow",
        figure: |record, subject| median(record, subject, "bytes_an_answer"),
        place: "pages: bytes_an_answer",
    },
    Unit {
        name: "database_us",
        unit: "µs",
        what: "CPU of one copy of the database for a conditional write, all that other programs used meanwhile",
        scenario: "cluster",
        subject: "bare, one partition each",
        figure: |record, subject| {
            let all_cores_us = 1e6 * record.machine.cores as f64;
            let used = record
                .counting(subject)
                .map(|round| all_cores_us * round.machine.foreign_percent / 100.0 / round.figures["a_second"]);
            stats::median(&used.collect::<Vec<_>>())
        },
        place: "cluster: bare conditional writes, 64 partitions",
    },
];

fn median(record: &Record, subject: &str, figure: &str) -> f64 {
    stats::median(&record.figures(subject, figure))
}

/// (name, group, value, unit, what).
type Assumption = (&'static str, &'static str, f64, &'static str, &'static str);

const ASSUMED: &[Assumption] = &[
    (
        "connected_share",
        PEOPLE,
        0.1,
        "of users",
        "connected in the busiest hour",
    ),
    (
        "screens",
        PEOPLE,
        1.5,
        "connections",
        "of a user who is connected: a browser and, for every second one, a telephone",
    ),
    (
        "changes_hour",
        PEOPLE,
        10.0,
        "an hour",
        "changes of a user who is connected",
    ),
    ("followers", PEOPLE, 1.5, "screens", "that a change is pushed to"),
    (
        "reads_hour",
        PEOPLE,
        6.0,
        "an hour",
        "pages over REST of a user who is connected: screens that follow need none",
    ),
    (
        "tasks",
        PEOPLE,
        500.0,
        "tasks",
        "of each user, connected or not, that are kept",
    ),
    (
        "day_share",
        PEOPLE,
        0.4,
        "of the peak",
        "what goes over the network in an hour, on average over the day",
    ),
    (
        "feed_idle_s",
        MACHINES,
        60.0,
        "s",
        "after which a quiet feed leaves memory: `feed_idle_seconds`",
    ),
    (
        "node_cores",
        MACHINES,
        4.0,
        "cores",
        "of a node; each does what a core of the machine that was measured on does",
    ),
    ("node_gib", MACHINES, 16.0, "GiB", "of memory of a node"),
    (
        "node_connections",
        MACHINES,
        100_000.0,
        "connections",
        "of a node at most: `connections_max`. No more than 19,500 on one node were measured",
    ),
    ("node_mbit", MACHINES, 2_000.0, "Mbit/s", "out of a node"),
    (
        "busy_share",
        MACHINES,
        0.5,
        "",
        "of cores, connections and network is planned for: the other half is for what nobody expects",
    ),
    ("memory_share", MACHINES, 0.7, "", "of memory is planned for"),
    (
        "spare",
        MACHINES,
        1.0,
        "nodes",
        "more than that, for the one that fails or is updated",
    ),
    ("database_cores", MACHINES, 8.0, "cores", "of a node of the database"),
    (
        "database_gib",
        MACHINES,
        32.0,
        "GiB",
        "of memory of a node of the database",
    ),
    (
        "database_disk_gib",
        MACHINES,
        2_000.0,
        "GiB",
        "of disk of a node of the database",
    ),
    (
        "copies",
        MACHINES,
        3.0,
        "copies",
        "of everything in the database: `cql_replication`. As many nodes it has at least",
    ),
    (
        "disk_share",
        MACHINES,
        0.5,
        "",
        "of the database's disks is planned for: compaction needs room",
    ),
    (
        "redis_messages",
        MACHINES,
        3.0,
        "messages",
        "over Redis for a change: asked, answered, published",
    ),
    (
        "redis_second",
        MACHINES,
        100_000.0,
        "messages",
        "that a Redis of one core carries in a second. Not measured here",
    ),
    (
        "redis_gib",
        MACHINES,
        2.0,
        "GiB",
        "of memory of a Redis; it keeps nothing of tasks",
    ),
    ("price_core_hour", PRICES, 0.03, "an hour", "for a core"),
    ("price_gib_hour", PRICES, 0.004, "an hour", "for a GiB of memory"),
    ("price_disk_gib_month", PRICES, 0.1, "a month", "for a GiB of disk"),
    ("price_traffic_gib", PRICES, 0.05, "", "for a GiB that leaves"),
];

/// When the prices were assumed, and what they are.
pub const PRICES_ARE: &str = "assumed in November 2026, in dollars: round figures between those of large clouds on demand and of rented \
                              machines. They are no offer of anybody.";

/// All numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs(pub Vec<Input>);

impl Inputs {
    /// Reads the results; what is given on the command line as `name=number` needs none.
    pub fn read(results: &Path, given: &[(String, f64)]) -> Result<Self> {
        let mut all = Vec::new();
        for unit in UNITS {
            let value = match given.iter().any(|(name, _)| name == unit.name) {
                true => f64::NAN,
                false => unit.read(results)?,
            };
            all.push(Input {
                name: unit.name,
                group: MEASURED,
                value,
                unit: unit.unit,
                what: unit.what,
                source: Source::Measured(unit.place),
            });
        }
        all.extend(ASSUMED.iter().map(|&(name, group, value, unit, what)| Input {
            name,
            group,
            value,
            unit,
            what,
            source: Source::Assumed,
        }));
        for (name, value) in given {
            let Some(input) = all.iter_mut().find(|input| input.name == name) else {
                let names: Vec<_> = all.iter().map(|input| input.name).collect();
                bail!(Trouble(format!(
                    "There is no input {name}: there are {}.",
                    names.join(", ")
                )));
            };
            (input.value, input.source) = (*value, Source::Given);
        }
        let inputs = Self(all);
        inputs.check()?;
        Ok(inputs)
    }

    /// What cannot be is refused with what can.
    fn check(&self) -> Result<(), Trouble> {
        for Input { name, value, .. } in &self.0 {
            let is_share = name.ends_with("_share");
            let may_be_nothing = name.starts_with("price_") || ["spare", "reads_hour", "changes_hour"].contains(name);
            let is_good =
                value.is_finite() && (*value > 0.0 || *value == 0.0 && may_be_nothing) && !(is_share && *value > 1.0);
            if !is_good {
                let range = match (is_share, may_be_nothing) {
                    (true, _) => "above 0 and at most 1",
                    (false, true) => "a number, 0 or above",
                    (false, false) => "a number above 0",
                };
                return Err(Trouble(format!("{name} is {range}, not {value}.")));
            }
        }
        if self.of("node_gib") * 1024.0 * self.of("memory_share") <= self.of("base_mib") {
            return Err(Trouble(
                "node_gib is too little: a node without anybody needs more.".to_owned(),
            ));
        }
        Ok(())
    }

    /// The number of this name.
    pub fn of(&self, name: &str) -> f64 {
        let found = self.0.iter().find(|input| input.name == name);
        found.expect("the formula names inputs that there are").value
    }
}

impl Unit {
    fn read(&self, results: &Path) -> Result<f64> {
        let Self { scenario, name, .. } = self;
        let record = Record::load(results, scenario)?;
        let value = record.map_or(f64::NAN, |record| (self.figure)(&record, self.subject));
        if !value.is_finite() {
            bail!(Trouble(format!(
                "{}/{scenario}.json does not say what {name} is: make bench SCENARIO={scenario}, name another folder with --results, or \
                 give it with --set {name}=NUMBER.",
                results.display()
            )));
        }
        Ok(value)
    }
}
