//! When things are due: at random, at a rate, whatever became of what was due before.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Due times of a Poisson process: what many people do independently of each other, each with time to think.
pub struct Arrivals {
    random: StdRng,
    gap_ns: f64,
    at_ns: f64,
}

impl Arrivals {
    /// At so many a second; the same seed gives the same times.
    pub fn new(rate: f64, seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            gap_ns: 1e9 / rate,
            at_ns: 0.0,
        }
    }
}

impl Iterator for Arrivals {
    type Item = u64;

    /// Nanoseconds after the beginning; never ends, unless nothing is ever due.
    fn next(&mut self) -> Option<u64> {
        // Of (0, 1]: zero has no logarithm.
        let chance = 1.0 - self.random.random::<f64>();
        self.at_ns -= chance.ln() * self.gap_ns;
        self.at_ns.is_finite().then_some(self.at_ns as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_due_as_the_rate_says_and_half_of_the_gaps_are_short() {
        let due: Vec<u64> = Arrivals::new(200.0, 1).take_while(|at| *at < 100_000_000_000).collect();
        assert!((19_500..20_500).contains(&due.len()), "{}", due.len());
        assert!(due.is_sorted());
        let short = due.windows(2).filter(|pair| pair[1] - pair[0] < 3_465_736).count();
        assert!(
            (9_700..10_300).contains(&short),
            "the median of the gaps is ln 2 of the mean: {short}"
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_times() {
        let times = |seed| Arrivals::new(5.0, seed).take(10).collect::<Vec<_>>();
        assert_eq!(times(7), times(7));
        assert_ne!(times(7), times(8));
    }

    #[test]
    fn at_a_rate_of_nothing_nothing_is_due() {
        assert_eq!(Arrivals::new(0.0, 1).next(), None);
    }
}
