//! The simulation, as much of it as the tests have time for: `make sim` runs thousands.

use taskflow_actors::planted::{Bug, plant};
use taskflow_actors::simulation::model::Counts;
use taskflow_actors::simulation::{Plan, run};

#[test]
fn schedules_that_found_something_once_find_nothing() {
    let seeds = include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#'));
    for line in seeds {
        let seed = line
            .split(' ')
            .next()
            .and_then(|seed| seed.parse().ok())
            .expect("a seed");
        let outcome = run(&Plan::of(seed));
        assert_eq!(outcome.violations, Vec::<String>::new(), "make sim: {line}");
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
fn bugs_that_break_much_are_found_at_once() {
    for bug in [
        Bug::AnswerBeforeDurable,
        Bug::PublishBeforeAppend,
        Bug::NoConditionOnHead,
        Bug::IdsForgottenAtStart,
        Bug::NoReplayAtStart,
        Bug::LastOfBatchDropped,
        Bug::RefusalOnStaleHead,
        Bug::RowsUptoOverHole,
        Bug::HoleIgnored,
        Bug::LiveTooEarly,
        Bug::StaleLook,
        Bug::IdsOfOthersForgotten,
    ] {
        plant(Some(bug));
        let found = (0..10).any(|seed| !run(&Plan::of(seed)).violations.is_empty());
        plant(None);
        assert!(found, "{bug:?}:{}", bug.about());
    }
}

#[test]
fn a_schedule_that_fails_is_made_short() {
    plant(Some(Bug::LiveTooEarly));
    let fails = |plan: &Plan| !run(plan).violations.is_empty();
    let plan = (0..20).map(Plan::of).find(fails).expect("one that fails");
    let short = plan.shortened(fails);
    let still = fails(&short);
    plant(None);
    assert!(still && short.steps.len() < 10, "{} steps", short.steps.len());
}
