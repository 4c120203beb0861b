//! The simulation, as much of it as the tests have time for: `make sim` runs thousands.

use taskflow_actors::planted::{Bug, plant};
use taskflow_actors::simulation::model::Counts;
use taskflow_actors::simulation::{Plan, run};

#[test]
fn each_deliberate_bug_is_found_by_its_schedule_and_nothing_else_is() {
    let seeds = include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#'));
    let seeds: Vec<(u64, &str)> = seeds
        .filter_map(|line| line.split_once(' '))
        .map(|(seed, bug)| (seed.parse().expect("a seed"), bug))
        .collect();
    for bug in Bug::ALL {
        let of_bug = seeds.iter().find(|(_, name)| *name == format!("{bug:?}"));
        let plan = Plan::of(of_bug.unwrap_or_else(|| panic!("{bug:?} has no seed")).0);
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
    plant(Some(Bug::MovedFeedTrusted));
    let fails = |plan: &Plan| !run(plan).violations.is_empty();
    let plan = (0..200).map(Plan::of).find(fails).expect("one that fails");
    let short = plan.shortened(fails);
    let still = fails(&short);
    plant(None);
    assert!(still && short.steps.len() < 10, "{} steps", short.steps.len());
}
