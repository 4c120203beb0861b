//! What a run must keep to: `push_p99_ms<50`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::tally::{Count, Tally, Timed};

/// A figure and what it must be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Threshold {
    figure: String,
    relation: Relation,
    limit: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Relation {
    Less,
    AtMost,
    More,
    AtLeast,
    Equal,
}

/// Two characters before one, so that `<=` is not read as `<`.
const RELATIONS: [(&str, Relation); 5] = [
    ("<=", Relation::AtMost),
    (">=", Relation::AtLeast),
    ("<", Relation::Less),
    (">", Relation::More),
    ("=", Relation::Equal),
];

/// What of each time can be asked for, and the share of it: 0 is the mean.
const STATISTICS: [(&str, f64); 7] = [
    ("mean", 0.0),
    ("p50", 0.5),
    ("p90", 0.9),
    ("p95", 0.95),
    ("p99", 0.99),
    ("p999", 0.999),
    ("max", 1.0),
];

/// Every figure of a run, by name. Times without a value are not in it.
pub fn figures(tally: &Tally) -> BTreeMap<String, f64> {
    let mut figures = BTreeMap::new();
    for (timed, recorded) in &tally.latency_us {
        let histogram = recorded.of_run();
        for (name, share) in STATISTICS {
            let micros = match name {
                "mean" => histogram.mean(),
                _ => histogram.value_at_quantile(share) as f64,
            };
            figures.insert(format!("{}_{name}_ms", timed.name()), micros / 1e3);
        }
    }
    let seconds = tally.seconds.len().max(1) as f64;
    for count in Count::ALL {
        figures.insert(count.name().to_owned(), tally.count(count) as f64);
        let of_load = tally.seconds.iter().map(|second| second.count(count));
        figures.insert(
            format!("{}_per_second", count.name()),
            of_load.clone().sum::<u64>() as f64 / seconds,
        );
        figures.insert(
            format!("{}_per_second_max", count.name()),
            of_load.max().unwrap_or(0) as f64,
        );
    }
    figures
}

fn is_figure(name: &str) -> bool {
    let of_time = Timed::ALL.iter().any(|timed| {
        let statistic = name
            .strip_prefix(timed.name())
            .and_then(|rest| rest.strip_prefix('_')?.strip_suffix("_ms"));
        statistic.is_some_and(|statistic| STATISTICS.iter().any(|(known, _)| *known == statistic))
    });
    let base = name.strip_suffix("_max").unwrap_or(name);
    let of_count = Count::ALL.iter().any(|count| {
        name == count.name()
            || base
                .strip_suffix("_per_second")
                .is_some_and(|base| base == count.name())
    });
    of_time || of_count
}

impl Threshold {
    /// The figure's value, and whether it is as it must be: a figure that was not measured is not.
    pub fn judge(&self, figures: &BTreeMap<String, f64>) -> (Option<f64>, bool) {
        let value = figures.get(&self.figure).copied();
        let is_met = value.is_some_and(|value| match self.relation {
            Relation::Less => value < self.limit,
            Relation::AtMost => value <= self.limit,
            Relation::More => value > self.limit,
            Relation::AtLeast => value >= self.limit,
            Relation::Equal => value == self.limit,
        });
        (value, is_met)
    }
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = RELATIONS
            .iter()
            .find_map(|(sign, relation)| text.split_once(sign).map(|(left, right)| (left, *relation, right)));
        let Some((figure, relation, limit)) = found else {
            return Err("write a figure, a relation and a number, such as push_p99_ms<50".to_owned());
        };
        let (figure, limit) = (figure.trim(), limit.trim());
        if !is_figure(figure) {
            let times: Vec<_> = Timed::ALL.iter().map(|timed| timed.name()).collect();
            let counts: Vec<_> = Count::ALL.iter().map(|count| count.name()).collect();
            return Err(format!(
                "there is no figure {figure}; there are TIME_STATISTIC_ms, where TIME is {} and STATISTIC is mean, p50, \
                 p90, p95, p99, p999 or max, and COUNT, COUNT_per_second and COUNT_per_second_max, where COUNT is {}",
                times.join(", "),
                counts.join(", ")
            ));
        }
        let number = limit.parse().ok().filter(|limit: &f64| limit.is_finite());
        Ok(Self {
            figure: figure.to_owned(),
            relation,
            limit: number.ok_or_else(|| format!("{limit:?} is no number"))?,
        })
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = RELATIONS.iter().find(|(_, relation)| *relation == self.relation);
        let sign = sign.map_or("?", |(sign, _)| sign);
        write!(formatter, "{} {sign} {}", self.figure, self.limit)
    }
}

impl TryFrom<String> for Threshold {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Threshold> for String {
    fn from(threshold: Threshold) -> Self {
        threshold.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::tally::Meter;

    fn run() -> BTreeMap<String, f64> {
        let mut meter = Meter::default();
        for millis in 1..=100 {
            meter.time(Timed::Push, 0, millis * 1_000_000);
        }
        meter.count_many(Count::Reconnects, 30);
        meter.end_second(1);
        meter.count_many(Count::Reconnects, 10);
        meter.end_second(1);
        figures(&meter.finish())
    }

    fn check(text: &str, expect: bool) {
        let threshold: Threshold = text.parse().unwrap();
        assert_eq!(threshold.judge(&run()).1, expect, "{text}");
        assert_eq!(threshold.to_string().parse::<Threshold>().unwrap(), threshold);
    }

    #[test]
    fn figures_are_held_against_their_limits() {
        check("push_p99_ms<99.5", true);
        check("push_p99_ms < 99", false);
        check("push_p50_ms>=50", true);
        check("push_p50_ms>51", false);
        check("push_mean_ms<=51", true);
        check("lost=0", true);
        check("reconnects=39", false);
        check("reconnects_per_second<=20", true);
        check("reconnects_per_second_max<30", false);
        check("reconnects_per_second_max<=30", true);
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        check("sign_in_p99_ms<1000000", false);
        let threshold: Threshold = "sign_in_p99_ms>0".parse().unwrap();
        assert_eq!(threshold.judge(&run()), (None, false));
    }

    #[test]
    fn every_figure_of_a_run_can_be_asked_for() {
        for name in run().keys() {
            assert!(is_figure(name), "{name}");
        }
    }

    fn refused(text: &str, expect: &str) {
        let error = text.parse::<Threshold>().unwrap_err();
        assert!(error.starts_with(expect), "{text}: {error}");
    }

    #[test]
    fn what_is_no_threshold_is_refused_with_what_to_write() {
        refused("push_p99_ms", "write a figure, a relation and a number");
        refused("push_p98_ms<5", "there is no figure push_p98_ms; there are");
        refused("losses=0", "there is no figure losses; there are");
        refused("lost_max=0", "there is no figure lost_max; there are");
        refused("push_p99_ms<fast", "\"fast\" is no number");
        refused("push_p99_ms<NaN", "\"NaN\" is no number");
    }
}
