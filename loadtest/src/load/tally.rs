//! What a run counts and times, second by second, in a form that adds up exactly.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// What is timed. All times run from when it was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timed {
    /// A first connection, until its screen is current.
    Connect,
    /// A connection anew, until the screen has what it missed.
    Reconnect,
    /// A change, until it is on another screen that was connected all the time.
    Push,
    /// The same for screens that read slowly.
    SlowPush,
    /// The same for what a screen missed while it was not connected.
    CatchUp,
    /// A change by WebSocket, until it is acknowledged.
    Write,
    /// A change by REST, until it is acknowledged.
    Rest,
    /// A page or a search by REST.
    Read,
    /// A sign-in with a password.
    SignIn,
    /// How late this client itself was.
    Late,
}

impl Timed {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Connect,
        Self::Reconnect,
        Self::Push,
        Self::SlowPush,
        Self::CatchUp,
        Self::Write,
        Self::Rest,
        Self::Read,
        Self::SignIn,
        Self::Late,
    ];

    /// As it stands in results and thresholds.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reconnect => "reconnect",
            Self::Push => "push",
            Self::SlowPush => "slow_push",
            Self::CatchUp => "catch_up",
            Self::Write => "write",
            Self::Rest => "rest",
            Self::Read => "read",
            Self::SignIn => "sign_in",
            Self::Late => "late",
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Count {
    /// Connections that were made for the first time.
    Connects,
    /// Connections that were made again.
    Reconnects,
    /// Connections that were tried in vain.
    Unconnected,
    /// Connections that ended and were not to.
    Cut,
    /// Of those, what the server ended because the client read too slowly.
    Evicted,
    /// Changes that were due.
    Changes,
    /// Changes that were acknowledged.
    Acknowledged,
    /// Changes that were sent again, because the first time was refused for now, or its outcome is not known.
    Retried,
    /// Changes that were refused for good.
    Refused,
    /// Changes without an answer at the end.
    Unanswered,
    /// Changes that came to screens.
    Pushes,
    /// Pages and searches that were answered.
    Reads,
    /// Sign-ins that were answered.
    SignIns,
    /// Requests that met a limit (429).
    Limited,
    /// Requests that failed.
    Failed,
    /// See [`super::check::Wrong`]; and what did not come to a screen by the end.
    Lost,
    /// See [`super::check::Wrong`].
    Doubled,
    /// See [`super::check::Wrong`].
    Disordered,
    /// Acknowledged changes that could not be read back.
    Gone,
}

impl Count {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Connects,
        Self::Reconnects,
        Self::Unconnected,
        Self::Cut,
        Self::Evicted,
        Self::Changes,
        Self::Acknowledged,
        Self::Retried,
        Self::Refused,
        Self::Unanswered,
        Self::Pushes,
        Self::Reads,
        Self::SignIns,
        Self::Limited,
        Self::Failed,
        Self::Lost,
        Self::Doubled,
        Self::Disordered,
        Self::Gone,
    ];

    /// As it stands in results and thresholds.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connects => "connects",
            Self::Reconnects => "reconnects",
            Self::Unconnected => "unconnected",
            Self::Cut => "cut",
            Self::Evicted => "evicted",
            Self::Changes => "changes",
            Self::Acknowledged => "acknowledged",
            Self::Retried => "retried",
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
            Self::Pushes => "pushes",
            Self::Reads => "reads",
            Self::SignIns => "sign_ins",
            Self::Limited => "limited",
            Self::Failed => "failed",
            Self::Lost => "lost",
            Self::Doubled => "doubled",
            Self::Disordered => "disordered",
            Self::Gone => "gone",
        }
    }
}

/// Digits of a time that are kept: of the whole run three, of a second two.
const DIGITS_OF_RUN: u8 = 3;
const DIGITS_OF_SECOND: u8 = 2;

/// The recorded values of a histogram and how often each was recorded. Microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Recorded(pub Vec<(u64, u64)>);

impl From<&Histogram<u64>> for Recorded {
    fn from(histogram: &Histogram<u64>) -> Self {
        let pairs = histogram.iter_recorded();
        Self(
            pairs
                .map(|step| (step.value_iterated_to(), step.count_at_value()))
                .collect(),
        )
    }
}

impl Recorded {
    fn histogram(&self, digits: u8) -> Histogram<u64> {
        let mut histogram = empty(digits);
        for (value, count) in &self.0 {
            record(&mut histogram, *value, *count);
        }
        histogram
    }

    /// To ask for percentiles.
    pub fn of_run(&self) -> Histogram<u64> {
        self.histogram(DIGITS_OF_RUN)
    }

    /// The value in milliseconds that this share of those in one second did not exceed; `None` if there were none.
    pub fn quantile_of_second_ms(&self, share: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.histogram(DIGITS_OF_SECOND).value_at_quantile(share) as f64 / 1e3)
    }

    /// The same of several seconds.
    pub fn quantile_of_seconds_ms<'a>(
        seconds: impl Iterator<Item = &'a Second>,
        timed: Timed,
        share: f64,
    ) -> Option<f64> {
        let mut all = Self::default();
        for recorded in seconds.filter_map(|second| second.latency_us.get(&timed)) {
            all.add(recorded, DIGITS_OF_SECOND);
        }
        all.quantile_of_second_ms(share)
    }

    fn add(&mut self, other: &Self, digits: u8) {
        let mut histogram = self.histogram(digits);
        for (value, count) in &other.0 {
            record(&mut histogram, *value, *count);
        }
        *self = Self::from(&histogram);
    }
}

/// A histogram that grows with what is recorded.
fn empty(digits: u8) -> Histogram<u64> {
    Histogram::new(digits).expect("up to five digits are allowed")
}

fn record(histogram: &mut Histogram<u64>, micros: u64, times: u64) {
    // Not `saturating_record`: that does not let it grow.
    histogram
        .record_n(micros, times)
        .expect("it grows with what is recorded");
}

/// One second of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Screens that were connected at its end.
    pub connections: u64,
    /// What was counted in it.
    pub counts: BTreeMap<Count, u64>,
    /// What was timed in it, by when it ended.
    pub latency_us: BTreeMap<Timed, Recorded>,
}

impl Second {
    /// What was counted.
    pub fn count(&self, count: Count) -> u64 {
        self.counts.get(&count).copied().unwrap_or(0)
    }

    /// The same second of another generator.
    pub fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        add_counts(&mut self.counts, &other.counts);
        for (timed, recorded) in &other.latency_us {
            let mine = self.latency_us.entry(*timed).or_default();
            mine.add(recorded, DIGITS_OF_SECOND);
        }
    }
}

/// A run, or what of it is over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// What was counted, connecting and checking included.
    pub counts: BTreeMap<Count, u64>,
    /// What was timed.
    pub latency_us: BTreeMap<Timed, Recorded>,
    /// From the first second of the load on.
    pub seconds: Vec<Second>,
    /// What went wrong, in sentences, and how often.
    pub errors: BTreeMap<String, u64>,
}

impl Tally {
    /// What was counted.
    pub fn count(&self, count: Count) -> u64 {
        self.counts.get(&count).copied().unwrap_or(0)
    }

    /// What another generator did, which began so many seconds after this one.
    pub fn add(&mut self, other: &Self, seconds_later: usize) {
        add_counts(&mut self.counts, &other.counts);
        for (timed, recorded) in &other.latency_us {
            let mine = self.latency_us.entry(*timed).or_default();
            mine.add(recorded, DIGITS_OF_RUN);
        }
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
        for (index, second) in other.seconds.iter().enumerate() {
            let index = index + seconds_later;
            if self.seconds.len() <= index {
                self.seconds.resize(index + 1, Second::default());
            }
            self.seconds[index].add(second);
        }
    }
}

fn add_counts(into: &mut BTreeMap<Count, u64>, from: &BTreeMap<Count, u64>) {
    for (count, number) in from {
        *into.entry(*count).or_default() += number;
    }
}

/// A tally that is being made.
#[derive(Default)]
pub struct Meter {
    tally: Tally,
    run: BTreeMap<Timed, Histogram<u64>>,
    second: Second,
    of_second: BTreeMap<Timed, Histogram<u64>>,
}

/// Different errors that are told apart; what comes beyond is counted together.
const ERRORS_MAX: usize = 50;

impl Meter {
    /// One more.
    pub fn count(&mut self, count: Count) {
        self.count_many(count, 1);
    }

    /// So many more.
    pub fn count_many(&mut self, count: Count, number: u64) {
        if number > 0 {
            *self.tally.counts.entry(count).or_default() += number;
            *self.second.counts.entry(count).or_default() += number;
        }
    }

    /// Something took so long.
    pub fn time(&mut self, timed: Timed, from_ns: u64, to_ns: u64) {
        let micros = to_ns.saturating_sub(from_ns) / 1_000;
        let run = self.run.entry(timed).or_insert_with(|| empty(DIGITS_OF_RUN));
        record(run, micros, 1);
        let second = self.of_second.entry(timed).or_insert_with(|| empty(DIGITS_OF_SECOND));
        record(second, micros, 1);
    }

    /// Something went wrong.
    pub fn error(&mut self, sentence: impl Into<String>) {
        let mut sentence = sentence.into();
        if !self.tally.errors.contains_key(&sentence) && self.tally.errors.len() >= ERRORS_MAX {
            sentence = "Other errors.".to_owned();
        }
        *self.tally.errors.entry(sentence).or_default() += 1;
    }

    /// The most frequent error so far.
    pub fn worst_error(&self) -> Option<&str> {
        let worst = self.tally.errors.iter().max_by_key(|(_, count)| **count)?;
        Some(worst.0)
    }

    /// Ends a second without keeping it: what is before the load is in no second.
    pub fn forget_second(&mut self) {
        self.second = Second::default();
        self.of_second.clear();
    }

    /// Ends a second.
    pub fn end_second(&mut self, connections: u64) -> &Second {
        let mut second = std::mem::take(&mut self.second);
        second.connections = connections;
        second.latency_us = recorded(&self.of_second);
        self.of_second.clear();
        self.tally.seconds.push(second);
        self.tally.seconds.last().expect("one was pushed")
    }

    /// The end.
    pub fn finish(mut self) -> Tally {
        self.tally.latency_us = recorded(&self.run);
        self.tally
    }
}

fn recorded(histograms: &BTreeMap<Timed, Histogram<u64>>) -> BTreeMap<Timed, Recorded> {
    let filled = histograms.iter().filter(|(_, histogram)| !histogram.is_empty());
    filled.map(|(timed, histogram)| (*timed, histogram.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One generator that timed these, in microseconds.
    fn tally(micros: impl IntoIterator<Item = u64>) -> Tally {
        let mut meter = Meter::default();
        for value in micros {
            meter.time(Timed::Push, 0, value * 1_000);
            meter.count(Count::Pushes);
        }
        meter.end_second(3);
        meter.finish()
    }

    #[test]
    fn what_two_generators_timed_adds_up_to_what_one_would_have_timed() {
        let values: Vec<u64> = (0..5_000).map(|n| n * n % 900_001).collect();
        let (some, others) = values.split_at(1_777);
        let mut merged = tally(some.iter().copied());
        merged.add(&tally(others.iter().copied()), 0);
        let one = tally(values.iter().copied());
        assert_eq!(merged.latency_us, one.latency_us);
        assert_eq!(merged.seconds[0].latency_us, one.seconds[0].latency_us);
        assert_eq!(merged.count(Count::Pushes), 5_000);
        assert_eq!(merged.seconds[0].connections, 6);
    }

    #[test]
    fn writing_a_histogram_down_and_reading_it_changes_nothing() {
        let once = tally((0..1_000).map(|n| n * 7_919)).latency_us;
        let text = serde_json::to_string(&once).unwrap();
        let again: BTreeMap<Timed, Recorded> = serde_json::from_str(&text).unwrap();
        assert_eq!(again, once);
        let recorded = &once[&Timed::Push];
        assert_eq!(&Recorded::from(&recorded.of_run()), recorded);
    }

    #[test]
    fn percentiles_are_of_all_values() {
        let recorded = tally((1..=1_000).map(|n| n * 1_000)).latency_us[&Timed::Push].clone();
        let p99 = recorded.of_run().value_at_quantile(0.99);
        assert!((990_000..991_000).contains(&p99), "{p99}");
        assert_eq!(Recorded::default().quantile_of_second_ms(0.99), None);
    }

    #[test]
    fn seconds_of_a_generator_that_began_later_stand_where_they_were() {
        let mut first = tally([1]);
        first.add(&tally([1, 1]), 2);
        let pushes: Vec<_> = first.seconds.iter().map(|second| second.count(Count::Pushes)).collect();
        assert_eq!(pushes, [1, 0, 2]);
    }

    #[test]
    fn errors_beyond_the_limit_are_counted_together() {
        let mut meter = Meter::default();
        for number in 0..60 {
            meter.error(format!("error {number}"));
        }
        let tally = meter.finish();
        assert_eq!(tally.errors["Other errors."], 10);
        assert_eq!(tally.errors.len(), 51);
    }
}
