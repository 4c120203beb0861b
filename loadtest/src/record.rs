//! What a scenario leaves behind: raw samples, and the rows of the report that follow from them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer, Serialize};

use crate::machine::{Machine, Seen};
use crate::stats;

/// Percent of its core above which the client counts as what limited a run.
pub const CLIENT_PERCENT_MAX: f64 = 90.0;

/// Everything about one run of one scenario; a file of JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The scenario's name on the command line.
    pub scenario: String,
    /// What it does, in sentences.
    pub about: String,
    /// The day it ran.
    pub date: String,
    /// Where it ran.
    pub machine: Machine,
    /// A short run: a try-out, not a measurement.
    pub quick: bool,
    /// The commands that started the servers, without the paths of the machine.
    pub commands: Vec<String>,
    /// Stretches of load, in the order in which they ran.
    pub rounds: Vec<Round>,
    /// The rows of the report.
    pub measures: Vec<Measure>,
    /// What a reader has to know beside the rows.
    pub notes: Vec<String>,
}

/// One stretch of load on one server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// The server, or the variant of the load.
    pub subject: String,
    /// Figures of the whole stretch, by name with the unit last.
    pub figures: BTreeMap<String, f64>,
    /// Raw samples, by name with the unit last.
    pub samples: BTreeMap<String, Vec<f64>>,
    /// The machine meanwhile.
    pub machine: Seen,
    /// Why the stretch does not count.
    pub void: Option<String>,
}

impl Round {
    /// A stretch that was watched.
    pub fn new(subject: impl Into<String>, machine: Seen) -> Self {
        Self {
            subject: subject.into(),
            machine,
            ..Self::default()
        }
    }

    /// Adds a figure.
    #[must_use]
    pub fn figure(mut self, name: &str, value: f64) -> Self {
        self.figures.insert(name.to_owned(), value);
        self
    }

    /// Adds raw samples, rounded to three decimals: a thousandth of the unit is below every error of measurement here.
    #[must_use]
    pub fn samples(mut self, name: &str, samples: &[f64]) -> Self {
        let rounded = samples.iter().map(|sample| (sample * 1e3).round() / 1e3).collect();
        self.samples.insert(name.to_owned(), rounded);
        self
    }

    /// Does not count if this holds.
    #[must_use]
    pub fn void_if(mut self, reason: Option<String>) -> Self {
        self.void = self.void.or(reason);
        self
    }

    /// Does not count if other programs had a part in it.
    #[must_use]
    pub fn void_if_others_used_more_than(self, foreign_percent_max: f64) -> Self {
        let percent = self.machine.foreign_percent;
        let reason = format!("other programs used {percent:.0} % of the machine");
        self.void_if((percent > foreign_percent_max).then_some(reason))
    }

    /// Does not count if the client had no core to spare.
    #[must_use]
    pub fn void_if_client_was_the_limit(self) -> Self {
        let percent = self.machine.client_percent;
        let reason = format!("the client was the limit: {percent:.0} % of its core");
        self.void_if((percent > CLIENT_PERCENT_MAX).then_some(reason))
    }
}

/// One row of the report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// What was measured.
    pub what: String,
    /// Its unit.
    pub unit: String,
    /// Which way is good.
    pub better: Better,
    /// What must be reached; absent: the row is for comparison.
    pub at_least: Option<f64>,
    /// What is aimed at.
    pub aim: Option<f64>,
    /// The median of the rounds that count.
    #[serde(deserialize_with = "number")]
    pub measured: f64,
    /// The smallest and the largest of them.
    #[serde(deserialize_with = "numbers")]
    pub spread: (f64, f64),
    /// How many count.
    pub rounds: usize,
    /// How many do not, and why the first of them does not.
    pub void: Option<String>,
}

/// JSON has no "not a number": a row of which no round counts is written as null.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Option::deserialize(deserializer).map(|number| number.unwrap_or(f64::NAN))
}

fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(f64, f64), D::Error> {
    let (least, most) = <(Option<f64>, Option<f64>)>::deserialize(deserializer)?;
    Ok((least.unwrap_or(f64::NAN), most.unwrap_or(f64::NAN)))
}

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// More.
    More,
    /// Less.
    Less,
}

/// How a measure stands against what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As good as was aimed at.
    Aim,
    /// As good as it must be.
    AtLeast,
    /// Not as good as it must be.
    NotReached,
    /// Nothing was asked.
    Compared,
    /// No round counts.
    Void,
}

impl Verdict {
    /// As it stands in the report.
    pub fn words(self) -> &'static str {
        match self {
            Self::Aim => "aim reached",
            Self::AtLeast => "reached",
            Self::NotReached => "NOT REACHED",
            Self::Compared => "for comparison",
            Self::Void => "VOID",
        }
    }
}

impl Measure {
    /// A row from one value a round; rounds that do not count have none.
    pub fn new(what: &str, unit: &str, better: Better, values: &[f64]) -> Self {
        Self {
            what: what.to_owned(),
            unit: unit.to_owned(),
            better,
            at_least: None,
            aim: None,
            measured: stats::median(values),
            spread: stats::spread(values),
            rounds: values.len(),
            void: None,
        }
    }

    /// What is asked of it.
    #[must_use]
    pub fn asked(mut self, at_least: f64, aim: f64) -> Self {
        self.at_least = Some(at_least);
        self.aim = Some(aim);
        self
    }

    /// Says which rounds are missing.
    #[must_use]
    pub fn without(mut self, void: &[&Round]) -> Self {
        self.void = void.first().map(|first| {
            let reason = first.void.as_deref().unwrap_or_default();
            format!("{} rounds void ({reason})", void.len())
        });
        self
    }

    /// What must not happen at all: a change that is lost, a request that fails.
    fn is_forbidden(&self) -> bool {
        self.better == Better::Less && self.at_least == Some(0.0)
    }

    /// How it stands. What must not happen may in no round; of all else the median counts.
    pub fn verdict(&self) -> Verdict {
        if self.measured.is_nan() {
            return Verdict::Void;
        }
        let counts = if self.is_forbidden() {
            self.spread.1
        } else {
            self.measured
        };
        let reached = |asked: f64| match self.better {
            Better::More => counts >= asked,
            Better::Less => counts <= asked,
        };
        match (self.at_least, self.aim) {
            (_, Some(aim)) if reached(aim) => Verdict::Aim,
            (Some(at_least), _) if reached(at_least) => Verdict::AtLeast,
            (None, None) => Verdict::Compared,
            _ => Verdict::NotReached,
        }
    }
}

impl Record {
    /// What must not happen and did.
    pub fn broken(&self) -> impl Iterator<Item = &Measure> {
        let measures = self.measures.iter();
        measures.filter(|measure| measure.is_forbidden() && measure.verdict() == Verdict::NotReached)
    }

    /// The rounds of a subject that count.
    pub fn counting<'a>(&'a self, subject: &'a str) -> impl Iterator<Item = &'a Round> {
        self.rounds
            .iter()
            .filter(move |round| round.subject == subject && round.void.is_none())
    }

    /// The rounds of a subject that do not count.
    pub fn void(&self, subject: &str) -> Vec<&Round> {
        self.rounds
            .iter()
            .filter(|round| round.subject == subject && round.void.is_some())
            .collect()
    }

    /// A figure of each round of a subject that counts.
    pub fn figures(&self, subject: &str, name: &str) -> Vec<f64> {
        self.counting(subject)
            .filter_map(|round| round.figures.get(name).copied())
            .collect()
    }

    /// The sum of a figure over the rounds of a subject that count; `NaN` if none does.
    pub fn total(&self, subject: &str, name: &str) -> f64 {
        self.figures(subject, name)
            .into_iter()
            .reduce(|sum, value| sum + value)
            .unwrap_or(f64::NAN)
    }

    /// The raw samples of all rounds of a subject that count.
    pub fn samples(&self, subject: &str, name: &str) -> Vec<f64> {
        self.counting(subject)
            .filter_map(|round| round.samples.get(name))
            .flatten()
            .copied()
            .collect()
    }

    /// A row whose value each round has as a figure.
    pub fn measure(&self, what: &str, unit: &str, better: Better, subject: &str, figure: &str) -> Measure {
        Measure::new(what, unit, better, &self.figures(subject, figure)).without(&self.void(subject))
    }

    /// Writes the file.
    pub fn save(&self, folder: &Path) -> Result<PathBuf> {
        fs::create_dir_all(folder)?;
        let path = folder.join(format!("{}.json", self.scenario));
        self.write(&path)?;
        Ok(path)
    }

    /// Writes a file of any name.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut json = serde_json::to_string(&self)?;
        json.push('\n');
        fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads the file of a scenario, if it has run.
    pub fn load(folder: &Path, scenario: &str) -> Result<Option<Self>> {
        let path = folder.join(format!("{scenario}.json"));
        if !path.exists() {
            return Ok(None);
        }
        let json = fs::read_to_string(&path)?;
        let record = serde_json::from_str(&json).with_context(|| format!("{} is not a record", path.display()))?;
        Ok(Some(record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(better: Better, values: &[f64]) -> Measure {
        Measure::new("a thing", "ms", better, values).asked(6.0, 2.0)
    }

    #[test]
    fn a_verdict_is_about_the_median_and_the_right_way_round() {
        assert_eq!(measure(Better::Less, &[1.0, 2.0, 100.0]).verdict(), Verdict::Aim);
        assert_eq!(measure(Better::Less, &[3.0]).verdict(), Verdict::AtLeast);
        assert_eq!(measure(Better::Less, &[6.1]).verdict(), Verdict::NotReached);
        assert_eq!(
            Measure::new("rate", "x", Better::More, &[15.0])
                .asked(10.0, 20.0)
                .verdict(),
            Verdict::AtLeast
        );
    }

    #[test]
    fn what_must_not_happen_may_in_no_round() {
        let lost = |values| Measure::new("lost", "changes", Better::Less, values).asked(0.0, 0.0);
        let slow = Measure::new("late", "ms", Better::Less, &[9.0]).asked(6.0, 2.0);
        let rare = Measure::new("left", "of 10", Better::More, &[0.0]).asked(0.0, 1.0);
        let record = Record {
            measures: vec![lost(&[0.0, 0.0, 0.0]), lost(&[0.0, 0.0, 1.0]), lost(&[]), slow, rare],
            ..Record::default()
        };
        assert_eq!(record.measures[0].verdict(), Verdict::Aim);
        assert_eq!(record.measures[1].verdict(), Verdict::NotReached);
        assert_eq!(record.broken().collect::<Vec<_>>(), [&record.measures[1]]);
    }

    #[test]
    fn a_row_without_a_round_that_counts_is_void_and_never_reached() {
        assert_eq!(measure(Better::Less, &[]).verdict(), Verdict::Void);
    }

    #[test]
    fn a_round_whose_client_was_the_limit_does_not_count() {
        let busy = Seen {
            client_percent: 95.0,
            ..Seen::default()
        };
        let mut record = Record::default();
        record.rounds.push(
            Round::new("taskflow", busy)
                .figure("rate", 1.0)
                .void_if_client_was_the_limit(),
        );
        record
            .rounds
            .push(Round::new("taskflow", Seen::default()).figure("rate", 3.0));
        let row = record.measure("rate", "1/s", Better::More, "taskflow", "rate");
        assert_eq!((row.measured, row.rounds), (3.0, 1));
        assert_eq!(
            row.void.as_deref(),
            Some("1 rounds void (the client was the limit: 95 % of its core)")
        );
    }
}
