//! What a run found, as it is kept, and what to think of it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::plan::Report;
use super::scenario::Scenario;
use super::tally::{Count, Tally, Timed};
use super::target::Trouble;
use super::threshold::{Threshold, figures};

/// The form of the file.
const FORM: u32 = 1;
/// Percent of a core beyond which it is the client that is measured.
const CPU_PERCENT_MAX: f64 = 90.0;

/// How the run was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub users: usize,
    pub connections: usize,
    pub rate: f64,
    pub seconds: f64,
    pub ramp: f64,
    pub generators: usize,
    pub seed: u64,
    pub late_ms_max: f64,
}

/// Which programs took part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Versions {
    pub loadtest: String,
    pub server: String,
    pub protocol: u16,
}

/// A threshold and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    pub threshold: Threshold,
    /// Absent: it was not measured.
    pub value: Option<f64>,
    pub is_met: bool,
}

/// What to think of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All is as it must be.
    Ok,
    /// The server did what it must not do, or a threshold is not met.
    Failed,
    /// It is the client that was measured.
    Void,
}

impl Verdict {
    /// What the process ends with.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Void => 2,
        }
    }
}

/// One file of results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub form: u32,
    pub scenario: Scenario,
    pub url: String,
    /// When the load began, in seconds of Unix time.
    pub began: f64,
    pub settings: Settings,
    pub versions: Versions,
    pub tally: Tally,
    /// CPU of the busiest generator, in percent of a core.
    pub cpu_percent: f64,
    pub interrupted: bool,
    /// What could not be checked.
    pub unchecked: Vec<String>,
    pub thresholds: Vec<Judged>,
    pub verdict: Verdict,
    /// Why, in sentences.
    pub reasons: Vec<String>,
}

impl Outcome {
    /// Of all generators of a machine.
    pub fn new(
        scenario: Scenario,
        url: String,
        settings: Settings,
        versions: Versions,
        reports: Vec<Report>,
        thresholds: Vec<Threshold>,
    ) -> Self {
        let mut outcome = Self {
            form: FORM,
            scenario,
            url,
            began: reports.first().map_or(0.0, |report| report.began),
            settings,
            versions,
            tally: Tally::default(),
            cpu_percent: 0.0,
            interrupted: false,
            unchecked: Vec::new(),
            thresholds: Vec::new(),
            verdict: Verdict::Ok,
            reasons: Vec::new(),
        };
        for report in reports {
            outcome.tally.add(&report.tally, 0);
            outcome.cpu_percent = outcome.cpu_percent.max(report.cpu_percent);
            outcome.interrupted |= report.interrupted;
            outcome.unchecked.extend(report.unchecked);
        }
        outcome.judge(thresholds);
        outcome
    }

    /// Of all machines: the one that began first is the first second.
    pub fn merge(mut outcomes: Vec<Self>, thresholds: Vec<Threshold>) -> Result<Self, Trouble> {
        outcomes.sort_by(|one, other| one.began.total_cmp(&other.began));
        let mut outcomes = outcomes.into_iter();
        let mut whole = outcomes
            .next()
            .ok_or_else(|| Trouble("There are no results to merge.".to_owned()))?;
        for other in outcomes {
            if (other.scenario, other.form) != (whole.scenario, whole.form) {
                return Err(Trouble(format!(
                    "Results of one scenario can be merged, not those of {} and {}.",
                    whole.scenario.name(),
                    other.scenario.name()
                )));
            }
            let later = (other.began - whole.began).round();
            whole.tally.add(&other.tally, later as usize);
            whole.cpu_percent = whole.cpu_percent.max(other.cpu_percent);
            whole.interrupted |= other.interrupted;
            whole.unchecked.extend(other.unchecked);
            let (mine, others) = (&mut whole.settings, other.settings);
            mine.users += others.users;
            mine.connections += others.connections;
            mine.rate += others.rate;
            mine.seconds = mine.seconds.max(later + others.seconds);
            mine.generators += others.generators;
            mine.late_ms_max = mine.late_ms_max.min(others.late_ms_max);
        }
        let kept = std::mem::take(&mut whole.thresholds);
        let thresholds = match thresholds.is_empty() {
            true => kept.into_iter().map(|judged| judged.threshold).collect(),
            false => thresholds,
        };
        whole.judge(thresholds);
        Ok(whole)
    }

    /// What the server did wrong counts whatever the client was like; times do not, if it was the client's fault.
    fn judge(&mut self, thresholds: Vec<Threshold>) {
        let figures = figures(&self.tally);
        let judged = thresholds.into_iter().map(|threshold| {
            let (value, is_met) = threshold.judge(&figures);
            Judged {
                threshold,
                value,
                is_met,
            }
        });
        self.thresholds = judged.collect();
        let (wrong, limited) = (self.wrong(), self.limited());
        let missed: Vec<_> = self.thresholds.iter().filter(|judged| !judged.is_met).collect();
        let missed: Vec<_> = missed.into_iter().map(Judged::sentence).collect();
        self.verdict = match (wrong.is_empty(), limited.is_empty(), missed.is_empty()) {
            (false, ..) => Verdict::Failed,
            (true, false, _) => Verdict::Void,
            (true, true, false) => Verdict::Failed,
            (true, true, true) => Verdict::Ok,
        };
        self.reasons = [wrong, limited, missed].concat();
    }

    fn wrong(&self) -> Vec<String> {
        let of = |count: Count, what: &str| {
            let number = self.tally.count(count);
            (number > 0).then(|| format!("{number} {what}"))
        };
        let mut wrong: Vec<String> = [
            of(
                Count::Lost,
                "acknowledged changes did not come to a screen, or an entry was left out on the way.",
            ),
            of(Count::Doubled, "entries came twice, or were made twice."),
            of(
                Count::Disordered,
                "entries came out of order, or are not those that were acknowledged.",
            ),
            of(
                Count::Gone,
                "tasks do not have their newest acknowledged change at the end.",
            ),
            of(Count::Refused, "changes were refused for good."),
            of(Count::Unanswered, "changes had no answer at the end."),
        ]
        .into_iter()
        .flatten()
        .collect();
        wrong.extend(self.unchecked.iter().cloned());
        if self.tally.count(Count::Changes) > 0 && self.tally.count(Count::Acknowledged) == 0 {
            wrong.push("No change was acknowledged.".to_owned());
        }
        wrong
    }

    fn limited(&self) -> Vec<String> {
        let late = self.tally.latency_us.get(&Timed::Late);
        let late_ms = late.map_or(0.0, |late| late.of_run().value_at_quantile(0.99) as f64 / 1e3);
        let mut limited = Vec::new();
        if late_ms > self.settings.late_ms_max {
            limited.push(format!(
                "This client was late itself: {late_ms:.1} ms at the 99th percentile. Run it on a machine that has time \
                 for it, with more --generators, or with a smaller load."
            ));
        }
        if self.cpu_percent > CPU_PERCENT_MAX {
            limited.push(format!(
                "This client used {:.0} % of a core in one of its processes: use more --generators.",
                self.cpu_percent
            ));
        }
        limited
    }

    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, Trouble> {
        let read = fs::read(path).map_err(|error| error.to_string());
        let outcome: Result<Self, String> =
            read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()));
        match outcome {
            Ok(outcome) if outcome.form == FORM => Ok(outcome),
            Ok(outcome) => Err(Trouble(format!(
                "{} is of another version of this program (form {}, this one reads {FORM}).",
                path.display(),
                outcome.form
            ))),
            Err(why) => Err(Trouble(format!("{} is no file of results: {why}.", path.display()))),
        }
    }

    /// Writes NAME.json and NAME.html.
    pub fn save(&self, name: &Path) -> Result<()> {
        if let Some(folder) = name.parent() {
            fs::create_dir_all(folder)?;
        }
        let with = |extension: &str| {
            let mut path = name.as_os_str().to_owned();
            path.push(extension);
            std::path::PathBuf::from(path)
        };
        let (json, html) = (with(".json"), with(".html"));
        fs::write(&json, serde_json::to_vec(self)?).with_context(|| format!("cannot write {}", json.display()))?;
        fs::write(&html, super::page::of(self)).with_context(|| format!("cannot write {}", html.display()))?;
        println!("{} {}", json.display(), html.display());
        Ok(())
    }

    /// The line that says what was done.
    pub fn headline(&self) -> String {
        let settings = &self.settings;
        format!(
            "{} on {} ({}): {} s, {} users, {} connections, {} acts a second, {} generator{}",
            self.scenario.name(),
            self.url,
            self.versions.server,
            settings.seconds,
            settings.users,
            settings.connections,
            settings.rate,
            settings.generators,
            if settings.generators == 1 { "" } else { "s" }
        )
    }

    /// For a terminal.
    pub fn summary(&self) -> String {
        let mut text = format!("{}\n\n", self.headline());
        add(
            &mut text,
            format_args!(
                "{:<11}{:>11}{:>10}{:>10}{:>10}{:>10}{:>10}\n",
                "ms", "times", "p50", "p90", "p99", "p99.9", "max"
            ),
        );
        for (timed, recorded) in &self.tally.latency_us {
            let histogram = recorded.of_run();
            add(&mut text, format_args!("{:<11}{:>11}", timed.name(), histogram.len()));
            for share in [0.5, 0.9, 0.99, 0.999, 1.0] {
                let millis = histogram.value_at_quantile(share) as f64 / 1e3;
                add(&mut text, format_args!("{millis:>10.2}"));
            }
            text.push('\n');
        }
        text.push('\n');
        let counted: Vec<String> = Count::ALL
            .iter()
            .map(|count| format!("{} {}", count.name().replace('_', " "), self.tally.count(*count)))
            .collect();
        for some in counted.chunks(6) {
            add(&mut text, format_args!("{}\n", some.join(" · ")));
        }
        add(
            &mut text,
            format_args!("client: {:.0} % of a core in the busiest process\n", self.cpu_percent),
        );
        for (error, count) in &self.tally.errors {
            add(&mut text, format_args!("{count} × {error}\n"));
        }
        for judged in &self.thresholds {
            add(&mut text, format_args!("{}\n", judged.sentence()));
        }
        if self.interrupted {
            text.push_str("The load was ended before its time.\n");
        }
        add(&mut text, format_args!("\n{}\n", self.conclusion()));
        text
    }

    /// The verdict and its reasons.
    pub fn conclusion(&self) -> String {
        let word = match self.verdict {
            Verdict::Ok => "OK: every acknowledged change came to every screen, once and in order, and is there.",
            Verdict::Failed => "FAILED.",
            Verdict::Void => "VOID: this is no measurement.",
        };
        let reasons = self.reasons.iter().map(String::as_str);
        std::iter::once(word).chain(reasons).collect::<Vec<_>>().join(" ")
    }
}

impl Judged {
    /// What became of it.
    pub fn sentence(&self) -> String {
        let value = self
            .value
            .map_or_else(|| "was not measured".to_owned(), |value| format!("is {value:.2}"));
        let met = if self.is_met { "met" } else { "not met" };
        format!("Threshold {} {met}: it {value}.", self.threshold)
    }
}

fn add(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to memory does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::tally::Meter;

    /// A run with some of these counted, and pushes and lateness of so many milliseconds.
    fn run(counts: &[(Count, u64)], push_ms: u64, late_ms: u64, began: f64) -> Outcome {
        let mut meter = Meter::default();
        meter.count_many(Count::Changes, 10);
        meter.count_many(Count::Acknowledged, 10);
        for (count, number) in counts {
            meter.count_many(*count, *number);
        }
        meter.time(Timed::Push, 0, push_ms * 1_000_000);
        meter.time(Timed::Late, 0, late_ms * 1_000_000);
        meter.end_second(5);
        let report = Report {
            tally: meter.finish(),
            began,
            cpu_percent: 20.0,
            ..Report::default()
        };
        let settings = Settings {
            users: 2,
            connections: 5,
            rate: 10.0,
            seconds: 1.0,
            ramp: 0.0,
            generators: 1,
            seed: 1,
            late_ms_max: 20.0,
        };
        let versions = Versions {
            loadtest: "1".to_owned(),
            server: "taskflow".to_owned(),
            protocol: 1,
        };
        let thresholds = vec!["push_p99_ms<50".parse().unwrap()];
        Outcome::new(
            Scenario::Push,
            "http://x".to_owned(),
            settings,
            versions,
            vec![report],
            thresholds,
        )
    }

    fn check(outcome: &Outcome, verdict: Verdict, reasons: &[&str]) {
        let begin = outcome
            .reasons
            .iter()
            .zip(reasons)
            .all(|(got, begin)| got.starts_with(begin));
        assert!(
            outcome.verdict == verdict && begin && outcome.reasons.len() == reasons.len(),
            "{:?} {:?}",
            outcome.verdict,
            outcome.reasons
        );
    }

    #[test]
    fn a_run_is_judged_by_what_the_server_did_then_by_the_client_then_by_the_thresholds() {
        check(&run(&[], 5, 1, 0.0), Verdict::Ok, &[]);
        check(
            &run(&[], 60, 1, 0.0),
            Verdict::Failed,
            &["Threshold push_p99_ms < 50 not met"],
        );
        check(
            &run(&[], 60, 30, 0.0),
            Verdict::Void,
            &["This client was late itself", "Threshold"],
        );
        check(
            &run(&[(Count::Lost, 3)], 5, 30, 0.0),
            Verdict::Failed,
            &["3 acknowledged changes did not come", "This client was late"],
        );
        let mut busy = run(&[], 5, 1, 0.0);
        busy.cpu_percent = 95.0;
        busy.judge(Vec::new());
        check(&busy, Verdict::Void, &["This client used 95 % of a core"]);
    }

    #[test]
    fn each_thing_that_the_server_must_not_do_fails_the_run() {
        for (count, reason) in [
            (Count::Lost, "2 acknowledged changes did not come"),
            (Count::Doubled, "2 entries came twice"),
            (Count::Disordered, "2 entries came out of order"),
            (Count::Gone, "2 tasks do not have"),
            (Count::Refused, "2 changes were refused"),
            (Count::Unanswered, "2 changes had no answer"),
        ] {
            check(&run(&[(count, 2)], 5, 1, 0.0), Verdict::Failed, &[reason]);
        }
    }

    #[test]
    fn machines_add_up_by_when_they_began() {
        let (one, other) = (run(&[], 5, 1, 100.0), run(&[(Count::Lost, 1)], 7, 1, 102.2));
        let whole = Outcome::merge(vec![other, one], Vec::new()).unwrap();
        assert_eq!(whole.settings.connections, 10);
        assert_eq!(whole.tally.count(Count::Changes), 20);
        let connections: Vec<_> = whole.tally.seconds.iter().map(|second| second.connections).collect();
        assert_eq!(connections, [5, 0, 5]);
        assert_eq!(whole.tally.latency_us[&Timed::Push].of_run().len(), 2);
        check(&whole, Verdict::Failed, &["1 acknowledged changes"]);
        assert_eq!(whole.thresholds.len(), 1, "those of the files hold");
    }

    #[test]
    fn a_file_says_all_that_was_found() {
        let folder = tempfile::tempdir().unwrap();
        let outcome = run(&[(Count::Reconnects, 4)], 5, 1, 3.5);
        outcome.save(&folder.path().join("run")).unwrap();
        assert_eq!(Outcome::load(&folder.path().join("run.json")).unwrap(), outcome);
        let error = Outcome::load(&folder.path().join("run.html")).unwrap_err();
        assert!(error.0.contains("is no file of results"), "{error}");
        Outcome { form: 2, ..outcome }
            .save(&folder.path().join("later"))
            .unwrap();
        let error = Outcome::load(&folder.path().join("later.json")).unwrap_err();
        assert!(error.0.contains("is of another version of this program"), "{error}");
    }
}
