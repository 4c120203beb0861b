//! The simulation, as much of it as the tests have time for: `make sim` runs thousands.

use taskflow_actors::planted::{Bug, plant};
use taskflow_actors::simulation::model::Counts;
use taskflow_actors::simulation::{Plan, run};

/// The schedule that finds a deliberate bug.
fn plan_of(bug: Bug) -> Plan {
    let seeds = include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#'));
    let of_bug = seeds
        .filter_map(|line| line.split_once(' '))
        .find(|(_, name)| *name == format!("{bug:?}"));
    let (seed, _) = of_bug.expect("each bug has a seed");
    Plan::of(seed.parse().expect("a seed"))
}

#[test]
fn each_deliberate_bug_is_found_by_its_schedule_and_nothing_else_is() {
    for bug in Bug::ALL {
        let plan = plan_of(*bug);
        assert_eq!(
            run(&plan).violations,
            Vec::<String>::new(),
            "make sim: seed {}",
            plan.seed
        );
        plant(Some(*bug));
        let found = !run(&plan).violations.is_empty();
        plant(None);
        assert!(found, "{bug:?}:{}", bug.about());
    }
}

#[test]
fn schedules_find_nothing() {
    let mut counts = Counts::default();
    for seed in 0..40 {
        let outcome = run(&Plan::of(seed));
        assert_eq!(outcome.violations, Vec::<String>::new(), "seed {seed}");
        counts.add(&outcome.counts);
    }
    // So few cannot meet everything; most of it they must.
    assert!(counts.missing().len() <= 3, "{:?}", counts.missing());
}

#[test]
fn a_seed_always_makes_the_same_schedule() {
    let (one, other) = (run(&Plan::of(7)), run(&Plan::of(7)));
    assert_eq!(one, other);
    assert_ne!(one.digest, run(&Plan::of(8)).digest);
}

#[test]
fn a_schedule_that_fails_is_made_short() {
    let plan = plan_of(Bug::MovedFeedTrusted);
    plant(Some(Bug::MovedFeedTrusted));
    let fails = |plan: &Plan| !run(plan).violations.is_empty();
    let does = fails(&plan);
    let short = plan.shortened(fails);
    let still = fails(&short);
    plant(None);
    assert!(does && still && short.steps.len() < 10, "{} steps", short.steps.len());
}
