//! The formula: what so many users need, and what that costs.

use serde::Serialize;

use super::inputs::Inputs;

const HOURS_A_MONTH: f64 = 730.0;
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
const MIB: f64 = 1024.0 * 1024.0;

/// In words: each line is a line of [`plan`].
pub const FORMULA: &str = "\
connected     = users × connected_share
connections   = connected × screens
changes       = connected × changes_hour ÷ 3600                                              a second
pushes        = changes × followers                                                          a second
reads         = connected × reads_hour ÷ 3600                                                a second
cores         = changes × change_us + pushes × push_us + reads × read_us + connections × idle_us, in 1,000,000 µs a second
feeds         = connected × (1 − e^(−(changes_hour + reads_hour) × feed_idle_s ÷ 3600))      in memory
memory        = connections × connection_kib + feeds × feed_kib
network       = pushes × push_bytes + reads × read_bytes
nodes         = the largest of these, and spare more:
                  cores       ÷ (node_cores × busy_share)
                  memory      ÷ (node_gib × memory_share − base_mib)
                  connections ÷ (node_connections × busy_share)
                  network     ÷ (node_mbit × busy_share)
back again    = connections ÷ nodes × storm_us ÷ what the other nodes have left of their cores
database      = the largest of these:
                  changes × database_us × copies     ÷ (database_cores × busy_share)
                  users × tasks × task_bytes × copies ÷ (database_disk_gib × disk_share)
                  copies
redis         = changes × redis_messages ÷ (redis_second × busy_share), each with a replica
a month       = 730 h × (nodes × (node_cores × price_core_hour + node_gib × price_gib_hour),
                         and so for database_cores and database_gib, and for one core and redis_gib)
                + the database's disk ÷ disk_share × price_disk_gib_month
                + network × day_share × price_traffic_gib";

/// What so many users need.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    pub users: f64,
    pub connected: f64,
    pub connections: f64,
    pub changes_a_second: f64,
    pub pushes_a_second: f64,
    pub reads_a_second: f64,
    /// Cores that are busy in the busiest hour, of all nodes.
    pub cores: f64,
    pub feeds: f64,
    pub memory_gib: f64,
    pub network_mbit: f64,
    /// The spare ones included.
    pub nodes: f64,
    /// How many each limit asks for, not rounded, and without spare ones.
    pub nodes_by: Limits,
    /// Which of them it is.
    pub decided_by: &'static str,
    /// Until the clients of a node that failed are all current on the others; absent: there are no others, or they have nothing left.
    pub back_again_s: Option<f64>,
    pub database_nodes: f64,
    pub database_cores: f64,
    pub database_gib: f64,
    /// Replicas included.
    pub redis: f64,
    pub cost: Cost,
}

/// Nodes that each limit asks for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Limits {
    pub cpu: f64,
    pub memory: f64,
    pub connections: f64,
    pub network: f64,
}

/// A month.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    pub nodes: f64,
    pub database: f64,
    pub redis: f64,
    pub traffic: f64,
    pub all: f64,
}

impl Limits {
    fn largest(&self) -> (f64, &'static str) {
        let all = [
            (self.cpu, "CPU"),
            (self.memory, "memory"),
            (self.connections, "connections"),
            (self.network, "network"),
        ];
        all.into_iter()
            .reduce(|most, other| if other.0 > most.0 { other } else { most })
            .unwrap_or((0.0, "CPU"))
    }
}

/// See [`FORMULA`].
pub fn plan(users: f64, inputs: &Inputs) -> Plan {
    let of = |name| inputs.of(name);
    let connected = users * of("connected_share");
    let connections = connected * of("screens");
    let changes = connected * of("changes_hour") / 3600.0;
    let pushes = changes * of("followers");
    let reads = connected * of("reads_hour") / 3600.0;
    let cpu_us =
        changes * of("change_us") + pushes * of("push_us") + reads * of("read_us") + connections * of("idle_us");
    let cores = cpu_us / 1e6;
    let feeds = connected * (1.0 - (-(of("changes_hour") + of("reads_hour")) * of("feed_idle_s") / 3600.0).exp());
    let memory_gib = (connections * of("connection_kib") + feeds * of("feed_kib")) * 1024.0 / GIB;
    let network_bytes = pushes * of("push_bytes") + reads * of("read_bytes");
    let network_mbit = network_bytes * 8.0 / 1e6;

    let nodes_by = Limits {
        cpu: cores / (of("node_cores") * of("busy_share")),
        memory: memory_gib / (of("node_gib") * of("memory_share") - of("base_mib") * MIB / GIB),
        connections: connections / (of("node_connections") * of("busy_share")),
        network: network_mbit / (of("node_mbit") * of("busy_share")),
    };
    let (needed, decided_by) = nodes_by.largest();
    let nodes = needed.ceil().max(1.0) + of("spare").round();
    let left = (nodes - 1.0) * of("node_cores") - cores;
    let back_again_s = (left > 0.0).then(|| connections / nodes * of("storm_us") / 1e6 / left);

    let database_busy = changes * of("database_us") * of("copies") / 1e6;
    let database_full_gib = users * of("tasks") * of("task_bytes") * of("copies") / GIB;
    let database_nodes = (database_busy / (of("database_cores") * of("busy_share")))
        .max(database_full_gib / (of("database_disk_gib") * of("disk_share")))
        .max(of("copies"))
        .ceil();
    let redis = 2.0
        * (changes * of("redis_messages") / (of("redis_second") * of("busy_share")))
            .ceil()
            .max(1.0);

    let hourly = |machines: f64, cores: f64, gib: f64| {
        machines * (cores * of("price_core_hour") + gib * of("price_gib_hour")) * HOURS_A_MONTH
    };
    // No less than what is stored, and no more than what is planned of each disk.
    let disk_gib = database_full_gib / of("disk_share");
    let traffic_gib = network_bytes * of("day_share") * HOURS_A_MONTH * 3600.0 / GIB;
    let mut cost = Cost {
        nodes: hourly(nodes, of("node_cores"), of("node_gib")),
        database: hourly(database_nodes, of("database_cores"), of("database_gib"))
            + disk_gib * of("price_disk_gib_month"),
        redis: hourly(redis, 1.0, of("redis_gib")),
        traffic: traffic_gib * of("price_traffic_gib"),
        all: 0.0,
    };
    cost.all = cost.nodes + cost.database + cost.redis + cost.traffic;
    Plan {
        users,
        connected,
        connections,
        changes_a_second: changes,
        pushes_a_second: pushes,
        reads_a_second: reads,
        cores,
        feeds,
        memory_gib,
        network_mbit,
        nodes,
        nodes_by,
        decided_by,
        back_again_s,
        database_nodes,
        database_cores: database_busy,
        database_gib: database_full_gib,
        redis,
        cost,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::inputs::{Input, MEASURED};
    use super::*;

    /// Round figures, so that a reader can follow by hand.
    const ROUND: [(&str, f64); 12] = [
        ("change_us", 400.0),
        ("push_us", 10.0),
        ("read_us", 100.0),
        ("idle_us", 1.0),
        ("storm_us", 100.0),
        ("connection_kib", 8.0),
        ("feed_kib", 256.0),
        ("base_mib", 32.0),
        ("task_bytes", 512.0),
        ("push_bytes", 500.0),
        ("read_bytes", 10_000.0),
        ("database_us", 2_000.0),
    ];

    fn given(more: &[(&str, f64)]) -> anyhow::Result<Inputs> {
        let given = ROUND.iter().chain(more);
        let given: Vec<_> = given.map(|(name, value)| ((*name).to_owned(), *value)).collect();
        Inputs::read(Path::new("nowhere"), &given)
    }

    fn inputs(more: &[(&str, f64)]) -> Inputs {
        given(more).unwrap()
    }

    fn near(got: f64, expect: f64) {
        assert!((got / expect - 1.0).abs() < 1e-9, "{got} is not {expect}");
    }

    #[test]
    fn a_million_users_by_hand() {
        let plan = plan(1e6, &inputs(&[]));
        near(plan.connections, 150_000.0);
        near(plan.changes_a_second, 1e6 / 3600.0);
        near(plan.pushes_a_second, 1.5e6 / 3600.0);
        near(plan.reads_a_second, 6e5 / 3600.0);
        // 0.1111 for changes, 0.0042 for pushes, 0.0167 for reads, 0.15 for heartbeats.
        near(
            plan.cores,
            (1e6 * 400.0 + 1.5e6 * 10.0 + 6e5 * 100.0) / 3600.0 / 1e6 + 0.15,
        );
        near(plan.feeds, 1e5 * (1.0 - (-16.0_f64 / 60.0).exp()));
        near(
            plan.memory_gib,
            (150_000.0 * 8.0 + plan.feeds * 256.0) / 1024.0 / 1024.0,
        );
        near(plan.network_mbit, (1.5e6 * 500.0 + 6e5 * 10_000.0) / 3600.0 * 8.0 / 1e6);
        // 150,000 connections at 50,000 a node, and one to spare.
        assert_eq!((plan.nodes, plan.decided_by), (4.0, "connections"));
        // A half more is a whole one.
        assert_eq!(super::plan(1.2e6, &inputs(&[])).nodes, 5.0);
        near(
            plan.back_again_s.unwrap(),
            150_000.0 / 4.0 * 100.0 / 1e6 / (3.0 * 4.0 - plan.cores),
        );
        near(plan.database_cores, 1e6 / 3600.0 * 0.002 * 3.0);
        near(plan.database_gib, 1e6 * 500.0 * 512.0 * 3.0 / GIB);
        assert_eq!((plan.database_nodes, plan.redis), (3.0, 2.0));
        near(plan.cost.nodes, 4.0 * (4.0 * 0.03 + 16.0 * 0.004) * 730.0);
        near(
            plan.cost.traffic,
            (1.5e6 * 500.0 + 6e5 * 10_000.0) * 0.4 * 730.0 / GIB * 0.05,
        );
    }

    #[test]
    fn more_users_never_need_less_and_ten_times_as_many_need_no_more_than_ten_times_as_much() {
        let inputs = inputs(&[]);
        let figures = |plan: &Plan| {
            let cost = plan.cost;
            let machines = [
                plan.nodes,
                plan.database_nodes,
                plan.redis,
                plan.cores,
                plan.memory_gib,
                plan.network_mbit,
            ];
            [
                &machines[..],
                &[cost.nodes, cost.database, cost.redis, cost.traffic, cost.all],
            ]
            .concat()
        };
        let mut users = 1.0;
        while users < 1e9 {
            let (few, more, many) = (
                plan(users, &inputs),
                plan(users * 1.3, &inputs),
                plan(users * 10.0, &inputs),
            );
            for ((few, more), many) in figures(&few).into_iter().zip(figures(&more)).zip(figures(&many)) {
                assert!(few <= more, "{users}: {few} and {more}");
                assert!(many <= few * 10.0 * (1.0 + 1e-9), "{users}: {few} and {many}");
            }
            users *= 1.3;
        }
    }

    #[test]
    fn what_costs_more_or_is_planned_for_less_never_needs_fewer_nodes_or_less_money() {
        let less_is_dearer = [
            "busy_share",
            "memory_share",
            "disk_share",
            "node_connections",
            "node_mbit",
            "database_disk_gib",
            "redis_second",
        ];
        // With more of a machine there are fewer, dearer ones.
        let either = ["node_cores", "node_gib", "database_cores", "database_gib"];
        let Inputs(all) = inputs(&[]);
        for Input { name, value, .. } in all.iter().filter(|input| !either.contains(&input.name)) {
            for users in [1e5, 1e6, 1e8] {
                let usual = plan(users, &inputs(&[]));
                let factor = if less_is_dearer.contains(name) { 0.7 } else { 1.3 };
                let dearer = plan(users, &inputs(&[(name, value * factor)]));
                assert!(dearer.cost.all >= usual.cost.all, "{name}: {usual:?} {dearer:?}");
                assert!(dearer.nodes >= usual.nodes, "{name}");
            }
        }
    }

    #[test]
    fn each_limit_decides_where_it_is_the_narrowest() {
        let by = |more: &[(&str, f64)]| plan(1e6, &inputs(more)).decided_by;
        assert_eq!(by(&[("node_connections", 10_000.0)]), "connections");
        assert_eq!(by(&[("changes_hour", 5_000.0)]), "CPU");
        assert_eq!(by(&[("feed_kib", 50_000.0)]), "memory");
        assert_eq!(by(&[("read_bytes", 5e7)]), "network");
    }

    #[test]
    fn a_node_without_others_leaves_nobody_to_come_back_to() {
        assert_eq!(plan(1_000.0, &inputs(&[("spare", 0.0)])).back_again_s, None);
        assert!(plan(1_000.0, &inputs(&[])).back_again_s.is_some());
    }

    #[test]
    fn the_formula_names_every_input_and_each_of_them_matters() {
        let Inputs(all) = inputs(&[]);
        for Input { name, value, group, .. } in &all {
            assert!(FORMULA.contains(name), "{name} is not in the formula");
            assert!(*group != MEASURED || *value > 0.0);
            let matters = [1e4, 1e6, 1e8].into_iter().any(|users| {
                let factor = if name.ends_with("_share") { 0.5 } else { 3.0 };
                plan(users, &inputs(&[(name, value * factor)])) != plan(users, &inputs(&[]))
            });
            assert!(matters, "{name} changes nothing");
        }
    }

    fn refused(more: &[(&str, f64)], expect: &str) {
        let error = given(more).unwrap_err();
        assert!(error.to_string().starts_with(expect), "{error}");
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_can() {
        refused(&[("busy_share", 1.5)], "busy_share is above 0 and at most 1, not 1.5.");
        refused(&[("node_cores", 0.0)], "node_cores is a number above 0, not 0.");
        refused(
            &[("price_core_hour", -1.0)],
            "price_core_hour is a number, 0 or above, not -1.",
        );
        refused(&[("screens", f64::NAN)], "screens is a number above 0, not NaN.");
        refused(
            &[("cores", 2.0)],
            "There is no input cores: there are change_us, push_us",
        );
        refused(&[("node_gib", 0.001)], "node_gib is too little");
        let error = Inputs::read(Path::new("nowhere"), &[]).unwrap_err().to_string();
        let expect = "nowhere/cluster.json does not say what change_us is: make bench SCENARIO=cluster, name another folder with \
                      --results, or give it with --set change_us=NUMBER.";
        assert_eq!(error, expect);
    }
}
