//! What is shown while it runs: a bar on a terminal, a line now and then elsewhere. On standard error, so that the summary
//! alone is on standard output.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use super::tally::{Count, Second, Timed};

/// Where there is no terminal, one of so many seconds is shown.
const EVERY: usize = 10;

/// See the module.
pub struct View {
    bar: Option<ProgressBar>,
    seconds: usize,
    reconnects: u64,
    errors: u64,
}

impl View {
    /// Of a load of so many seconds.
    pub fn new(seconds: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(seconds as u64);
            let style = ProgressStyle::with_template("{bar:40} {pos:>4}/{len} s\n{msg}");
            bar.set_style(style.expect("the template is right"));
            bar
        });
        Self {
            bar,
            seconds,
            reconnects: 0,
            errors: 0,
        }
    }

    /// What happens before and after the load.
    pub fn say(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None => eprintln!("{what}"),
        }
    }

    /// The same, where only the last word counts: on a terminal.
    pub fn say_for_now(&self, what: &str) {
        if self.bar.is_some() {
            self.say(what);
        }
    }

    /// A second of the load is over.
    pub fn second(&mut self, index: usize, second: &Second) {
        self.reconnects += second.count(Count::Reconnects);
        let wrong = [
            Count::Failed,
            Count::Limited,
            Count::Refused,
            Count::Lost,
            Count::Doubled,
            Count::Disordered,
        ];
        self.errors += wrong.iter().map(|count| second.count(*count)).sum::<u64>();
        let line = self.line(second);
        match &self.bar {
            Some(bar) => {
                bar.set_position(index as u64 + 1);
                // Two lines fit where one does not.
                bar.set_message(line.replacen("  push ", "\npush ", 1));
            }
            None if (index + 1).is_multiple_of(EVERY) || index + 1 == self.seconds => {
                eprintln!("{:>5} s  {line}", index + 1);
            }
            None => {}
        }
    }

    fn line(&self, second: &Second) -> String {
        let acts = second.count(Count::Changes) + second.count(Count::Reads) + second.count(Count::SignIns);
        format!(
            "{} connections  {acts} acts/s  {} pushes/s  push {}  write {}  {} reconnects  {} errors",
            second.connections,
            second.count(Count::Pushes),
            times(second, &[Timed::Push]),
            times(second, &[Timed::Write, Timed::Rest]),
            self.reconnects,
            self.errors,
        )
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The median and the 99th percentile of the first of these that was timed in a second.
fn times(second: &Second, wanted: &[Timed]) -> String {
    let recorded = wanted.iter().find_map(|timed| second.latency_us.get(timed));
    let quantile = |share| recorded.and_then(|recorded| recorded.quantile_of_second_ms(share));
    match (quantile(0.5), quantile(0.99)) {
        (Some(p50), Some(p99)) => format!("p50 {p50:.1} p99 {p99:.1} ms"),
        _ => "–".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::tally::Meter;

    #[test]
    fn a_second_is_a_line() {
        let mut meter = Meter::default();
        meter.count_many(Count::Changes, 4);
        meter.count_many(Count::Pushes, 12);
        for millis in 1..=100 {
            meter.time(Timed::Push, 0, millis * 100_000);
        }
        let view = View::new(5);
        assert_eq!(
            view.line(meter.end_second(7)),
            "7 connections  4 acts/s  12 pushes/s  push p50 5.0 p99 9.9 ms  write –  0 reconnects  0 errors"
        );
    }
}
