//! Which error is told when: the same one seldom and with a count, all together not more often than so many a minute, and
//! nothing to whoever does not take it. Knows no clock and no socket.

use std::collections::VecDeque;
use std::time::Duration;

use super::Report;

/// Different errors that are remembered. A server has a few dozen places that report one; each is 20 KB at most.
const ERRORS_MAX: usize = 64;

/// Events a minute, of all errors together: more than somebody reads, and far less than what Sentry's plans are counted by.
pub const EVENTS_A_MINUTE_MAX: usize = 20;

const MINUTE: Duration = Duration::from_secs(60);

/// Between two events of the same error: one tells that it goes on, and the count how much.
pub const REPEAT_PAUSE: Duration = Duration::from_secs(5 * 60);

/// An error, and how often it came since it was told last.
struct Known {
    report: Report,
    times: u64,
    /// When it may be told.
    next: Duration,
}

/// What waits to be told. All times are since the start.
#[derive(Default)]
pub struct Outbox {
    known: Vec<Known>,
    told: VecDeque<Duration>,
    paused_until: Duration,
}

impl Outbox {
    /// An error came; `false`: there are too many different ones, and it is forgotten.
    pub fn heard(&mut self, report: Report, now: Duration) -> bool {
        if let Some(known) = self.known.iter_mut().find(|known| known.report.is_same(&report)) {
            known.times += 1;
            return true;
        }
        self.known.retain(|known| known.times > 0 || known.next > now);
        if self.known.len() == ERRORS_MAX {
            let told = self.known.iter().enumerate().filter(|(_, known)| known.times == 0);
            match told.min_by_key(|(_, known)| known.next).map(|(place, _)| place) {
                Some(place) => drop(self.known.swap_remove(place)),
                None => return false,
            }
        }
        self.known.push(Known {
            report,
            times: 1,
            next: now,
        });
        true
    }

    /// When there is something to tell; `None`: nothing waits.
    pub fn due(&self) -> Option<Duration> {
        let next = self.waiting()?.next.max(self.paused_until);
        match self.told.front() {
            Some(first) if self.told.len() == EVENTS_A_MINUTE_MAX => Some(next.max(*first + MINUTE)),
            _ => Some(next),
        }
    }

    /// How many different errors are still to be told.
    pub fn untold(&self) -> usize {
        self.known.iter().filter(|known| known.times > 0).count()
    }

    /// What is due first, and how often it came.
    pub fn first(&self) -> Option<(&Report, u64)> {
        self.waiting().map(|known| (&known.report, known.times))
    }

    fn waiting(&self) -> Option<&Known> {
        let waiting = self.known.iter().filter(|known| known.times > 0);
        waiting.min_by_key(|known| known.next)
    }

    /// The first was told.
    pub fn told(&mut self, now: Duration) {
        let waiting = self.known.iter_mut().filter(|known| known.times > 0);
        if let Some(known) = waiting.min_by_key(|known| known.next) {
            (known.times, known.next) = (0, now + REPEAT_PAUSE);
        }
        if self.told.len() == EVENTS_A_MINUTE_MAX {
            self.told.pop_front();
        }
        self.told.push_back(now);
    }

    /// Nothing is taken for so long; what waits goes on waiting.
    pub fn pause(&mut self, until: Duration) {
        self.paused_until = until;
    }

    /// The process ends: counts are told now.
    pub fn hurry(&mut self, now: Duration) {
        for known in &mut self.known {
            known.next = known.next.min(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn error(text: &str) -> Report {
        Report {
            text: text.to_owned(),
            ..Report::default()
        }
    }

    /// Tells all that is due at a time.
    fn tell(outbox: &mut Outbox, now: Duration) -> Vec<(String, u64)> {
        let mut told = Vec::new();
        while outbox.due().is_some_and(|due| due <= now) {
            let (report, times) = outbox.first().expect("it is due");
            told.push((report.text.clone(), times));
            outbox.told(now);
        }
        told
    }

    #[test]
    fn the_same_error_is_told_at_once_and_then_seldom_with_a_count() {
        let mut outbox = Outbox::default();
        assert!(outbox.due().is_none());
        outbox.heard(error("a"), s(0));
        assert_eq!(tell(&mut outbox, s(0)), [("a".to_owned(), 1)]);
        for second in 1..200 {
            outbox.heard(error("a"), s(second));
            assert!(tell(&mut outbox, s(second)).is_empty());
        }
        outbox.heard(error("b"), s(200));
        assert_eq!(tell(&mut outbox, s(200)), [("b".to_owned(), 1)]);
        assert_eq!(outbox.due(), Some(s(300)));
        assert_eq!(tell(&mut outbox, s(300)), [("a".to_owned(), 199)]);
        assert!(outbox.due().is_none());
        outbox.heard(error("a"), s(301));
        outbox.hurry(s(302));
        assert_eq!(
            tell(&mut outbox, s(302)),
            [("a".to_owned(), 1)],
            "the end tells the count"
        );
    }

    #[test]
    fn no_more_than_so_many_are_told_in_any_minute() {
        let mut outbox = Outbox::default();
        let mut at = Vec::new();
        for second in 0..180 {
            for error_of in 0..3 {
                outbox.heard(error(&format!("{second} {error_of}")), s(second));
            }
            at.extend(tell(&mut outbox, s(second)).iter().map(|_| second));
        }
        for (place, second) in at.iter().enumerate() {
            let after = at[place..].iter().filter(|other| **other < second + 60).count();
            assert!(after <= EVENTS_A_MINUTE_MAX, "{after} from {second} s on");
        }
        assert_eq!(at.len(), 3 * EVENTS_A_MINUTE_MAX);
    }

    #[test]
    fn what_nobody_took_waits_and_is_counted() {
        let mut outbox = Outbox::default();
        outbox.heard(error("a"), s(0));
        outbox.pause(s(30));
        outbox.heard(error("a"), s(1));
        assert!(tell(&mut outbox, s(29)).is_empty());
        outbox.hurry(s(29));
        assert_eq!(outbox.due(), Some(s(30)), "nor at the end");
        assert_eq!(tell(&mut outbox, s(30)), [("a".to_owned(), 2)]);
    }

    #[test]
    fn of_too_many_different_errors_those_that_wait_stay() {
        let mut outbox = Outbox::default();
        outbox.pause(s(1_000));
        for place in 0..ERRORS_MAX {
            assert!(outbox.heard(error(&place.to_string()), s(0)));
        }
        assert!(!outbox.heard(error("one more"), s(1)));
        assert!(outbox.heard(error("7"), s(1)), "those that are known are counted");
        outbox.pause(s(2));
        assert_eq!(tell(&mut outbox, s(2)).len(), EVENTS_A_MINUTE_MAX);
        // In the place of one that was told.
        assert!(outbox.heard(error("one more"), s(3)));
        assert_eq!(outbox.known.len(), ERRORS_MAX);
    }
}
