//! What a metric can be.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, counter, gauge};

/// What only grows.
pub type Counter = counter::Counter<u64, Kept>;
/// What grows and shrinks.
pub type Gauge = gauge::Gauge<f64, Kept>;

/// Where a number is kept.
#[cfg(not(feature = "unmetered"))]
type Kept = AtomicU64;
/// Nowhere: so that the same server can be measured without its instruments (`make bench SCENARIO=metrics-cost`).
#[cfg(feature = "unmetered")]
type Kept = Nowhere;

/// What is written here is gone.
#[cfg(feature = "unmetered")]
#[derive(Debug, Default)]
pub struct Nowhere;

#[cfg(feature = "unmetered")]
impl counter::Atomic<u64> for Nowhere {
    fn inc(&self) -> u64 {
        0
    }
    fn inc_by(&self, _: u64) -> u64 {
        0
    }
    fn get(&self) -> u64 {
        0
    }
}

#[cfg(feature = "unmetered")]
impl gauge::Atomic<f64> for Nowhere {
    fn inc(&self) -> f64 {
        0.0
    }
    fn inc_by(&self, _: f64) -> f64 {
        0.0
    }
    fn dec(&self) -> f64 {
        0.0
    }
    fn dec_by(&self, _: f64) -> f64 {
        0.0
    }
    fn set(&self, _: f64) -> f64 {
        0.0
    }
    fn get(&self) -> f64 {
        0.0
    }
}

/// Upper bounds of the buckets of durations, in seconds. A durable append is 0.1 to 10 ms on the disks we know; above a
/// second somebody waits.
pub const BUCKETS: [f64; 15] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// How often what took how long, in seconds.
///
/// The library's own has a lock; this one is written once for each push. Its memory is fixed, whoever scrapes or does not.
#[derive(Clone, Debug, Default)]
pub struct Histogram(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// One for each bucket, and one for what is beyond all of them.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    /// Something took so long.
    pub fn observe(&self, took: Duration) {
        self.observe_many(took, 1);
    }

    /// So many things took so long.
    pub fn observe_many(&self, took: Duration, count: u64) {
        if cfg!(feature = "unmetered") {
            return;
        }
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.partition_point(|bound| *bound < seconds);
        self.0.buckets[bucket].fetch_add(count, Ordering::Relaxed);
        // 584 years of it, then it begins anew as any counter does after a restart.
        let sum_ns = (took.as_nanos() as u64).wrapping_mul(count);
        self.0.sum_ns.fetch_add(sum_ns, Ordering::Relaxed);
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = BUCKETS.into_iter().chain([f64::MAX]);
        let counts = self.0.buckets.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.0.sum_ns.load(Ordering::Relaxed) as f64 / 1e9;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// A finite label.
pub trait Labelled: Copy + Send + Sync + fmt::Debug + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// Every value, in the order of [`Labelled::index`].
    const ALL: &'static [&'static str];
    /// Which value it is.
    fn index(self) -> usize;
}

/// What the struct of all metrics can have.
pub trait Instrument: EncodeMetric + Clone + Default + Send + Sync + fmt::Debug + 'static {
    /// As Prometheus calls it.
    const KIND: &'static str;
    /// Its labels, from the outermost, each with every value.
    const LABELS: &'static [(&'static str, &'static [&'static str])] = &[];
}

impl Instrument for Counter {
    const KIND: &'static str = "counter";
}
impl Instrument for Gauge {
    const KIND: &'static str = "gauge";
}
impl Instrument for Histogram {
    const KIND: &'static str = "histogram";
}

/// One metric for each value of a label.
#[derive(Debug)]
pub struct Family<L, M = Counter> {
    members: Arc<[M]>,
    label: std::marker::PhantomData<fn(L)>,
}

impl<L, M> Clone for Family<L, M> {
    fn clone(&self) -> Self {
        Self {
            members: self.members.clone(),
            label: self.label,
        }
    }
}

impl<L: Labelled, M: Instrument> Default for Family<L, M> {
    fn default() -> Self {
        Self {
            members: L::ALL.iter().map(|_| M::default()).collect(),
            label: std::marker::PhantomData,
        }
    }
}

impl<L: Labelled, M> Family<L, M> {
    /// The metric of a value.
    pub fn of(&self, value: L) -> &M {
        &self.members[value.index()]
    }
}

impl<L: Labelled, M: Instrument> EncodeMetric for Family<L, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (value, member) in L::ALL.iter().zip(self.members.iter()) {
            member.encode(encoder.encode_family(&[(L::NAME, *value)])?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::default().metric_type()
    }
}

impl<L: Labelled, M: Instrument> Instrument for Family<L, M> {
    const KIND: &'static str = M::KIND;
    const LABELS: &'static [(&'static str, &'static [&'static str])] = &[(L::NAME, L::ALL)];
}

/// One counter for each pair of values of two labels.
#[derive(Debug)]
pub struct Table<L, K>(Family<L, Family<K>>);

impl<L, K> Clone for Table<L, K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<L: Labelled, K: Labelled> Default for Table<L, K> {
    fn default() -> Self {
        Self(Family::default())
    }
}

impl<L: Labelled, K: Labelled> Table<L, K> {
    /// The counter of two values.
    pub fn of(&self, outer: L, inner: K) -> &Counter {
        self.0.of(outer).of(inner)
    }
}

impl<L: Labelled, K: Labelled> EncodeMetric for Table<L, K> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (outer, members) in L::ALL.iter().zip(self.0.members.iter()) {
            for (inner, member) in K::ALL.iter().zip(members.members.iter()) {
                let labels = [(L::NAME, *outer), (K::NAME, *inner)];
                member.encode(encoder.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

impl<L: Labelled, K: Labelled> Instrument for Table<L, K> {
    const KIND: &'static str = "counter";
    const LABELS: &'static [(&'static str, &'static [&'static str])] = &[(L::NAME, L::ALL), (K::NAME, K::ALL)];
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::prometheus_text;
    use prometheus_client::registry::Registry;

    use super::*;

    fn text(metric: impl Instrument) -> String {
        let mut registry = Registry::default();
        registry.register("it", "what it is", metric);
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).expect("it is written");
        text
    }

    #[test]
    fn what_took_as_long_as_a_bound_is_within_it_and_what_took_longer_than_all_is_counted() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_micros(100));
        histogram.observe_many(Duration::from_micros(101), 3);
        histogram.observe(Duration::from_secs(11));
        let text = text(histogram);
        for line in [
            "it_bucket{le=\"0.0001\"} 1\n",
            "it_bucket{le=\"0.00025\"} 4\n",
            "it_bucket{le=\"10\"} 4\n",
            "it_bucket{le=\"+Inf\"} 5\n",
            "it_count 5\n",
            "it_sum 11.000403\n",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
