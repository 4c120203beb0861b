//! An update in the middle of the day: nodes of two versions together, one way and back.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::Nodes;
use crate::load::{Load, Told, port_of_its_own};
use crate::services::{Cassandra, Redis};
use crate::support::server::Program;

/// Operations that are acknowledged before the next node is updated.
const BETWEEN: u64 = 300;

/// The version that is updated: the binary that `make rolling` built of an older commit, or this one.
pub fn old() -> Program {
    match std::env::var_os("ROLLING_FROM") {
        Some(binary) => Program {
            binary: PathBuf::from(binary),
            ..Program::default()
        },
        None => Program::default(),
    }
}

#[test]
fn a_rolling_update_and_the_way_back_lose_and_refuse_nothing() {
    let old = old();
    // As docs/operations.md asks for, while a build may come back that cannot read what is compressed.
    let new = Program {
        environment: vec![("TASKFLOW_CQL_COMPRESS", "false".to_owned())],
        ..Program::default()
    };
    let mut cluster = Nodes::on(Cassandra::shared(), Redis::start("standalone"), "rolling", 0);
    for _ in 0..3 {
        cluster.add_as(&old, [port_of_its_own(), port_of_its_own()], &[]);
    }
    cluster.meet();
    let load = Load {
        users: 12,
        followers: 24,
    };
    let told = Told::default();
    let update = |cluster: &mut Nodes| {
        let mut next = BETWEEN;
        for program in [&new, &old] {
            for node in 0..3 {
                while told.acknowledged.load(Ordering::Relaxed) < next {
                    told.go_on();
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                next = told.acknowledged.load(Ordering::Relaxed) + BETWEEN;
                let node = &mut cluster.nodes[node];
                assert!(node.stop().success());
                node.program = program.clone();
                node.restart();
                cluster.meet();
            }
        }
    };
    let (_cluster, total, ()) = load.during(cluster, &told, update);
    let again = told.again.load(Ordering::Relaxed);
    let cut = told.cut.load(Ordering::Relaxed);
    #[allow(clippy::print_stdout, reason = "what a run showed is part of its result")]
    {
        println!(
            "{total} acknowledged operations while six nodes were updated, from {} and back; {again} were refused for \
             now or unknown, {cut} were on their way when their connection ended",
            old.binary.display()
        );
    }
    assert_eq!(again, 0, "refused for now, or unknown");
}
