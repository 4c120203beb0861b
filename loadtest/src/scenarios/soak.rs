//! A mixed day for half an hour: whether memory stays as it is.

use std::time::Duration;

use anyhow::Result;

use super::load::{Load, now};
use crate::load::{Count, Timed};
use crate::machine::Watch;
use crate::record::{Better, Measure, Record, Round};
use crate::server::taskflow::{Setup, TaskFlow};
use crate::server::{Bench, User};
use crate::stats;

const USERS: usize = 100;
/// The first five minutes of half an hour: caches and pools are filling.
const WARM_UP_SHARE: f64 = 1.0 / 6.0;
/// Feeds that nobody changes stop after this, so that the bench need not wait a minute.
const FEED_IDLE_SECONDS: i64 = 20;
/// Then the allocator gives pages back, and a quiet store its caches.
const GIVEN_BACK: Duration = Duration::from_secs(15);
const AT_REST_SECONDS: f64 = 15.0;
const EVERY: Duration = Duration::from_secs(1);

/// The server at a moment, in seconds since the stretch began.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at_s: f64,
    resident_mib: f64,
    anonymous_mib: f64,
}

/// Runs the scenario.
pub async fn run(bench: &mut Bench, record: &mut Record) -> Result<()> {
    let seconds = bench.size(1_800.0, 60.0);
    record.about = format!(
        "`taskflow-loadtest run soak` for {seconds} s in two stretches, of a sixth and of the rest: {USERS} users with two screens each, ten \
         acts a second (25 of a hundred make a task, 30 give one a title, 15 complete one, 10 search, 15 look at a page, 5 reconnect), \
         against a server that has just started. Resident memory each second (`Rss` and, without pages of files, `Anonymous` of \
         smaps_rollup). After each stretch the feeds stop ({FEED_IDLE_SECONDS} s), memory is given back ({} s), and the median of {AT_REST_SECONDS} s \
         counts.",
        GIVEN_BACK.as_secs()
    );
    for _ in 0..bench.rounds(1) {
        bench.quiet().await;
        measure(bench, record, seconds).await?;
    }
    report(record);
    Ok(())
}

async fn measure(bench: &mut Bench, record: &mut Record, seconds: f64) -> Result<()> {
    let setup = Setup::default().with("feed_idle_seconds", FEED_IDLE_SECONDS);
    let mut server = TaskFlow::start(bench, setup).await?;
    let users = server.users(bench, USERS)?;
    let watch = Watch::begin(&[server.process.pid()]);
    let first = stretch(bench, &mut server, &users, seconds * WARM_UP_SHARE).await?;
    let second = stretch(bench, &mut server, &users, seconds * (1.0 - WARM_UP_SHARE)).await?;
    let growth = |of: fn(&Sample) -> f64| (median(&second.at_rest, of) / median(&first.at_rest, of) - 1.0) * 100.0;
    let series = |samples: &[Sample], of: fn(&Sample) -> f64| samples.iter().map(of).collect::<Vec<_>>();
    let both = [&first, &second];
    let sum = |of: fn(&Stretch) -> f64| both.into_iter().map(of).sum::<f64>();
    record.rounds.push(
        Round::new("taskflow", watch.end())
            .figure("growth_percent", growth(resident))
            .figure("anonymous_growth_percent", growth(anonymous))
            .figure("at_rest_mib", median(&second.at_rest, resident))
            .figure("at_rest_anonymous_mib", median(&second.at_rest, anonymous))
            .figure("loaded_mib", second.loaded.last().map_or(f64::NAN, resident))
            .figure(
                "loaded_slope_kib_a_minute",
                slope(&second.loaded, resident) * 1_024.0 * 60.0,
            )
            .figure(
                "loaded_bytes_a_change",
                slope(&second.loaded, anonymous) * 1_048_576.0 * second.seconds / second.changes,
            )
            .figure("changes", sum(|stretch| stretch.changes))
            .figure("wrong", sum(|stretch| stretch.wrong))
            .figure("failed", sum(|stretch| stretch.failed))
            .figure("push_p99_ms", second.push_p99_ms)
            .samples("first_resident_mib", &series(&first.loaded, resident))
            .samples("first_anonymous_mib", &series(&first.loaded, anonymous))
            .samples("second_resident_mib", &series(&second.loaded, resident))
            .samples("second_anonymous_mib", &series(&second.loaded, anonymous))
            .samples("first_at_rest_mib", &series(&first.at_rest, resident))
            .samples("second_at_rest_mib", &series(&second.at_rest, resident)),
    );
    Ok(())
}

/// A stretch of the day, and the rest after it.
struct Stretch {
    seconds: f64,
    loaded: Vec<Sample>,
    at_rest: Vec<Sample>,
    changes: f64,
    wrong: f64,
    failed: f64,
    push_p99_ms: f64,
}

async fn stretch(bench: &mut Bench, server: &mut TaskFlow, users: &[User], seconds: f64) -> Result<Stretch> {
    let mut load = Load::start(bench, "soak", server.address, users, &[("seconds", seconds)])?;
    load.has_begun().await?;
    let loaded = samples(server, seconds).await?;
    let outcome = load.outcome().await?;
    server.wait_until_feeds_stopped(0.0).await?;
    tokio::time::sleep(GIVEN_BACK).await;
    let at_rest = samples(server, AT_REST_SECONDS).await?;
    let count = |count| outcome.tally.count(count) as f64;
    let wrong = [
        Count::Lost,
        Count::Doubled,
        Count::Disordered,
        Count::Gone,
        Count::Refused,
        Count::Unanswered,
    ];
    let push = outcome.tally.latency_us.get(&Timed::Push);
    Ok(Stretch {
        seconds,
        loaded,
        at_rest,
        changes: count(Count::Acknowledged),
        wrong: wrong.map(count).iter().sum(),
        failed: count(Count::Failed) + count(Count::Limited),
        push_p99_ms: push.map_or(f64::NAN, |push| push.of_run().value_at_quantile(0.99) as f64 / 1e3),
    })
}

/// The server each second for so long.
async fn samples(server: &mut TaskFlow, seconds: f64) -> Result<Vec<Sample>> {
    let (began, mut samples) = (now(), Vec::new());
    while now() < began + seconds {
        server.process.check_running()?;
        let memory = server.process.memory()?;
        samples.push(Sample {
            at_s: now() - began,
            resident_mib: memory.resident as f64 / 1_048_576.0,
            anonymous_mib: memory.anonymous as f64 / 1_048_576.0,
        });
        tokio::time::sleep(EVERY).await;
    }
    Ok(samples)
}

fn resident(sample: &Sample) -> f64 {
    sample.resident_mib
}

fn anonymous(sample: &Sample) -> f64 {
    sample.anonymous_mib
}

fn median(samples: &[Sample], of: fn(&Sample) -> f64) -> f64 {
    stats::median(&samples.iter().map(of).collect::<Vec<_>>())
}

/// By how much it grows in a second: the line of least squares.
fn slope(samples: &[Sample], of: fn(&Sample) -> f64) -> f64 {
    let points: Vec<_> = samples.iter().map(|sample| (sample.at_s, of(sample))).collect();
    let count = points.len() as f64;
    let (sum_x, sum_y) = points
        .iter()
        .fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    let (mean_x, mean_y) = (sum_x / count, sum_y / count);
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    covariance / variance
}

fn report(record: &mut Record) {
    let row = |what: &str, unit: &str, figure: &str| -> Measure {
        record.measure(what, unit, Better::Less, "taskflow", figure)
    };
    let measures = vec![
        row(
            "growth of resident memory after the first sixth of the time, feeds at rest",
            "%",
            "growth_percent",
        )
        .asked(2.0, 0.5),
        row("the same without pages of files", "%", "anonymous_growth_percent"),
        row("resident memory at the end, feeds at rest", "MiB", "at_rest_mib"),
        row("of that heap and stacks", "MiB", "at_rest_anonymous_mib"),
        row(
            "resident memory at the end of the load, all feeds in memory",
            "MiB",
            "loaded_mib",
        ),
        row("its slope meanwhile", "KiB a minute", "loaded_slope_kib_a_minute"),
        row(
            "heap that a change adds to a feed that stays in memory",
            "B",
            "loaded_bytes_a_change",
        ),
        row("changes that were made", "changes", "changes"),
        row(
            "lost, doubled, out of order, gone, refused or without an answer",
            "changes",
            "wrong",
        )
        .asked(0.0, 0.0),
        row("requests that failed", "requests", "failed").asked(0.0, 0.0),
        row("p99 of a push, from when the change was due", "ms", "push_p99_ms"),
    ];
    record.measures = measures;
    record.notes.push(
        "While the users act, all feeds are in memory, and grow with what is made: tasks, and the answers of the last 24 hours. \
         Feeds that nobody changes stop, and give it back. So what is compared is the server at rest, after the first sixth and at the \
         end: what is more then is not anybody's data."
            .to_owned(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_that_of_the_line_and_not_of_a_single_peak() {
        let samples: Vec<_> = (0..1_800)
            .map(|second| Sample {
                at_s: f64::from(second),
                resident_mib: 100.0 + f64::from(second) / 600.0 + if second == 900 { 50.0 } else { 0.0 },
                anonymous_mib: 50.0,
            })
            .collect();
        let a_minute = slope(&samples, resident) * 60.0;
        assert!((0.099..0.101).contains(&a_minute), "{a_minute}");
        assert_eq!((slope(&samples, anonymous), median(&samples, anonymous)), (0.0, 50.0));
    }
}
