//! Times in filters, as people say them, and the span of time that they mean in a user's zone.

use std::ops::Range;

use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan as _};
use taskflow_protocol::values::{Due, UnixMs, Zoned};

use super::super::due::zone_of;

/// A day or a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// `now`, `+2h`
    FromNow {
        /// Minutes after now.
        minutes: i64,
    },
    /// `today`, `tomorrow`, `-2w`
    FromToday {
        /// Days after today.
        days: i32,
        /// Months after that.
        months: i32,
    },
    /// `friday`: the next one, or today.
    Weekday(Weekday),
    /// `2026-12-24`
    Day(Date),
    /// `2026-12-24T18:00`
    Time(DateTime),
}

impl When {
    /// Reads a day or a time.
    pub fn parse(text: &str) -> Option<Self> {
        let days = |days| Some(Self::FromToday { days, months: 0 });
        let lower = text.to_ascii_lowercase();
        match &*lower {
            "now" => return Some(Self::FromNow { minutes: 0 }),
            "today" => return days(0),
            "tomorrow" => return days(1),
            "yesterday" => return days(-1),
            "monday" | "mon" => return Some(Self::Weekday(Weekday::Monday)),
            "tuesday" | "tue" => return Some(Self::Weekday(Weekday::Tuesday)),
            "wednesday" | "wed" => return Some(Self::Weekday(Weekday::Wednesday)),
            "thursday" | "thu" => return Some(Self::Weekday(Weekday::Thursday)),
            "friday" | "fri" => return Some(Self::Weekday(Weekday::Friday)),
            "saturday" | "sat" => return Some(Self::Weekday(Weekday::Saturday)),
            "sunday" | "sun" => return Some(Self::Weekday(Weekday::Sunday)),
            _ => {}
        }
        if let Some(rest) = lower.strip_prefix(['+', '-']) {
            let unit = rest.chars().last()?;
            // Five digits are 27 years of hours, and more than enough of everything else.
            let digits = rest
                .strip_suffix(unit)
                .filter(|digits| (1..=5).contains(&digits.len()))?;
            if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let count: i32 = digits.parse().ok()?;
            let count = if text.starts_with('-') { -count } else { count };
            return match unit {
                'h' => Some(Self::FromNow {
                    minutes: i64::from(count) * 60,
                }),
                'd' => days(count),
                'w' => days(count * 7),
                'm' => Some(Self::FromToday { days: 0, months: count }),
                'y' => Some(Self::FromToday {
                    days: 0,
                    months: count * 12,
                }),
                _ => None,
            };
        }
        if let Ok(day) = super::super::due::date(text) {
            return day.parse().ok().map(Self::Day);
        }
        let time = super::super::due::date_time(text).ok()?;
        time.parse().ok().map(Self::Time)
    }

    /// Whether it means something else tomorrow.
    pub fn depends_on_now(self) -> bool {
        !matches!(self, Self::Day(_) | Self::Time(_))
    }

    /// From its beginning up to its end, which is not in it: a day, or one millisecond. `None`: beyond the calendar.
    pub fn span(self, now: &Now) -> Option<Range<UnixMs>> {
        let point = |at: UnixMs| Some(at..at + 1);
        match self {
            Self::FromNow { minutes } => point(now.ms.checked_add(minutes * 60_000)?),
            Self::FromToday { days, months } => {
                let span = Span::new().try_months(months).ok()?.try_days(days).ok()?;
                now.day(now.today().checked_add(span).ok()?)
            }
            Self::Weekday(weekday) => {
                let ahead = now.today().weekday().until(weekday);
                now.day(now.today().checked_add(i32::from(ahead).days()).ok()?)
            }
            Self::Day(day) => now.day(day),
            Self::Time(time) => point(now.at(time)?),
        }
    }
}

/// The time, and where the user is.
#[derive(Clone, Debug)]
pub struct Now {
    /// The time.
    pub ms: UnixMs,
    /// The zone.
    pub zone: TimeZone,
}

impl Now {
    /// Now, in the zone of this name.
    pub fn new(ms: UnixMs, zone: &str) -> Self {
        Self {
            ms,
            zone: zone_of(zone),
        }
    }

    /// The date.
    pub fn today(&self) -> Date {
        let timestamp = Timestamp::from_millisecond(self.ms).unwrap_or_default();
        self.zone.to_datetime(timestamp).date()
    }

    /// From the first moment of a day up to the first of the next.
    pub fn day(&self, day: Date) -> Option<Range<UnixMs>> {
        let first = |day: Date| {
            day.to_zoned_datetime(self.zone.clone())
                .ok()
                .map(|first| first.timestamp().as_millisecond())
        };
        Some(first(day)?..first(day.tomorrow().ok()?)?)
    }

    fn at(&self, time: DateTime) -> Option<UnixMs> {
        Some(self.zone.to_zoned_datetime(time).ok()?.timestamp().as_millisecond())
    }

    /// When a due date is over: with the last moment of a whole day. `None`: beyond the calendar.
    pub fn due(&self, due: &Due) -> Option<UnixMs> {
        match due {
            Due::AllDay(day) => self.end_of(day),
            Due::Floating(local) => self.at(local.parse().ok()?),
            Due::Zoned(Zoned { local, zone }) => {
                let there = Self::new(self.ms, zone);
                there.at(local.parse().ok()?)
            }
        }
    }

    /// The last moment of a day that is written down.
    pub fn end_of(&self, day: &str) -> Option<UnixMs> {
        Some(self.day(day.parse().ok()?)?.end - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Monday, 30 November 2026, 10:00 in Berlin.
    fn now() -> Now {
        Now::new(1_796_029_200_000, "Europe/Berlin")
    }

    fn written(text: &str) -> String {
        let now = now();
        let span = When::parse(text)
            .unwrap_or_else(|| panic!("{text}"))
            .span(&now)
            .expect("in the calendar");
        let of = |ms| {
            let timestamp = Timestamp::from_millisecond(ms).expect("a time");
            now.zone.to_datetime(timestamp).strftime("%Y-%m-%dT%H:%M").to_string()
        };
        match span.end - span.start {
            1 => of(span.start),
            _ => format!("{}/{}", of(span.start), of(span.end)),
        }
    }

    #[test]
    fn times_are_what_people_mean() {
        assert_eq!(now().today().to_string(), "2026-11-30");
        for (text, means) in [
            ("now", "2026-11-30T10:00"),
            ("+2h", "2026-11-30T12:00"),
            ("-1h", "2026-11-30T09:00"),
            ("today", "2026-11-30T00:00/2026-12-01T00:00"),
            ("tomorrow", "2026-12-01T00:00/2026-12-02T00:00"),
            ("yesterday", "2026-11-29T00:00/2026-11-30T00:00"),
            ("monday", "2026-11-30T00:00/2026-12-01T00:00"),
            ("sun", "2026-12-06T00:00/2026-12-07T00:00"),
            ("+3d", "2026-12-03T00:00/2026-12-04T00:00"),
            ("-2w", "2026-11-16T00:00/2026-11-17T00:00"),
            ("-2W", "2026-11-16T00:00/2026-11-17T00:00"),
            ("Tomorrow", "2026-12-01T00:00/2026-12-02T00:00"),
            ("SUN", "2026-12-06T00:00/2026-12-07T00:00"),
            // The last day of a month that is shorter.
            ("+3m", "2027-02-28T00:00/2027-03-01T00:00"),
            ("-1y", "2025-11-30T00:00/2025-12-01T00:00"),
            ("2026-12-24", "2026-12-24T00:00/2026-12-25T00:00"),
            ("2026-12-24T18:00", "2026-12-24T18:00"),
            ("2026-12-24T18:00:00", "2026-12-24T18:00"),
        ] {
            assert_eq!(written(text), means, "{text}");
        }
        for bad in [
            "",
            "soon",
            "+",
            "+d",
            "+x",
            "+3",
            "+123456d",
            "+-3d",
            "2026-13-01",
            "2026-12-24T25:00",
            "+３d",
            "+3é",
        ] {
            assert_eq!(When::parse(bad), None, "{bad}");
        }
        assert!(When::parse("+99999y").expect("a time").span(&now()).is_none());
        assert!(When::parse("9999-12-31").expect("a time").span(&now()).is_none());
    }

    #[test]
    fn a_day_is_as_long_as_it_is_there() {
        let hours = |day| {
            let span = When::parse(day).and_then(|when| when.span(&now())).expect("a day");
            (span.end - span.start) / 3_600_000
        };
        assert_eq!(
            [hours("2026-03-29"), hours("2026-10-25"), hours("2026-10-26")],
            [23, 25, 24]
        );
    }

    #[test]
    fn a_whole_day_is_over_with_its_last_moment_and_a_zone_of_its_own_counts() {
        let now = now();
        let day = Now::day(&now, "2026-11-30".parse().expect("a day")).expect("a day");
        assert_eq!(now.due(&Due::AllDay("2026-11-30".to_owned())), Some(day.end - 1));
        assert_eq!(now.due(&Due::Floating("2026-11-30T10:00:00".to_owned())), Some(now.ms));
        let zoned = Due::Zoned(Zoned {
            local: "2026-11-30T18:00:00".to_owned(),
            zone: "Asia/Tokyo".to_owned(),
        });
        assert_eq!(now.due(&zoned), Some(now.ms));
        // In a zone that has no such time, the next that it has.
        let skipped = Due::Floating("2026-03-29T02:30:00".to_owned());
        let there = Due::Floating("2026-03-29T03:30:00".to_owned());
        assert_eq!(now.due(&skipped), now.due(&there));
    }
}
