//! The simulation from the command line: `make sim`, `make sim-planted`.
#![allow(clippy::print_stdout, reason = "it answers on standard output")]

use std::process::ExitCode;
use std::time::Instant;

use taskflow_actors::planted::{Bug, plant};
use taskflow_actors::simulation::{Plan, run};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    match arguments.first().map(String::as_str) {
        Some("planted") => planted(number(1, 2_000), number(2, 1), arguments.get(3).map(String::as_str)),
        Some("one") => one(number(1, 1)),
        _ => schedules(number(0, 2_000), number(1, 1)),
    }
}

/// Failing schedules that are made short.
const SHORTENED_MAX: u64 = 3;

/// Seeds of schedules follow from the first one.
fn seed_of(seed: u64, index: u64) -> u64 {
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index)
}

fn schedules(count: u64, seed: u64) -> ExitCode {
    let begun = Instant::now();
    let (mut steps, mut violations, mut digest) = (0_u64, 0_u64, 0_u64);
    let mut counts = taskflow_actors::simulation::model::Counts::default();
    for index in 0..count {
        let plan = Plan::of(seed_of(seed, index));
        let outcome = run(&plan);
        steps += outcome.steps;
        digest = (digest ^ outcome.digest).wrapping_mul(0x0100_0000_01b3);
        counts.add(&outcome.counts);
        if !outcome.violations.is_empty() {
            violations += 1;
            // Shortening one takes hundreds of runs: the first few tell enough.
            report(&plan, &outcome.violations, violations <= SHORTENED_MAX);
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    for (what, count) in &counts.0 {
        println!("{count:>10} {what}");
    }
    for name in counts.missing() {
        println!("never happened: {name}");
    }
    println!("{:.0} steps a second", steps as f64 / seconds);
    println!("schedules={count} steps={steps} violations={violations} digest={digest:016x} seed={seed}");
    if violations == 0 && counts.missing().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn report(plan: &Plan, violations: &[String], shorten: bool) {
    println!("schedule {} fails: {}", plan.seed, violations.join("; "));
    if !shorten {
        return;
    }
    let short = plan.shortened(|plan| !run(plan).violations.is_empty());
    println!("as short as it gets ({} steps):", short.steps.len());
    for (at, step) in &short.steps {
        println!("  {:>9.3} ms  {step:?}", *at as f64 / 1000.0);
    }
    println!("  which ends with: {}", run(&short).violations.join("; "));
}

fn one(seed: u64) -> ExitCode {
    let plan = Plan::of(seed);
    let outcome = run(&plan);
    println!("{outcome:#?}");
    if !outcome.violations.is_empty() {
        report(&plan, &outcome.violations, true);
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// All of them, or the one of this name.
fn planted(most: u64, seed: u64, name: Option<&str>) -> ExitCode {
    let wanted = |bug: &&Bug| name.is_none_or(|name| format!("{bug:?}") == name);
    let bugs: Vec<Bug> = Bug::ALL.iter().filter(wanted).copied().collect();
    let mut found = 0;
    for bug in &bugs {
        plant(Some(*bug));
        let first = (0..most).find_map(|index| {
            let seed = seed_of(seed, index);
            let what = run(&Plan::of(seed)).violations.into_iter().next()?;
            Some((index + 1, seed, what))
        });
        plant(None);
        match first {
            Some((schedules, seed, what)) => {
                found += 1;
                println!("{bug:?}: found by schedule {schedules} (seed {seed}): {what}");
            }
            None => println!("{bug:?}: NOT FOUND in {most} schedules:{}", bug.about()),
        }
    }
    println!("{found} of {} found", bugs.len());
    if found == bugs.len() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
