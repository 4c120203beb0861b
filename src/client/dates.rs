//! Dates as people and other programs write them.
//!
//! Architecture invariant: reads no clock; who needs today brings it.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use taskflow_protocol::values::{Due, UnixMs, Zoned};

/// Today in a user's zone.
pub fn today(now: UnixMs, zone: &str) -> Date {
    moment(now, zone).date()
}

/// A moment on the clock of a zone; of UTC where this machine does not know the zone.
pub fn moment(at: UnixMs, zone: &str) -> DateTime {
    let zone = TimeZone::get(zone).unwrap_or(TimeZone::UTC);
    let timestamp = jiff::Timestamp::from_millisecond(at).unwrap_or_default();
    zone.to_datetime(timestamp)
}

/// What `--due` takes: `2026-12-01`, `2026-12-01 15:30`, `today`, `tomorrow`.
pub fn due(text: &str, today: Date) -> Option<Due> {
    let word = text.trim().to_lowercase();
    let date = match word.as_str() {
        "today" => Some(today),
        "tomorrow" => today.tomorrow().ok(),
        _ => None,
    };
    match date {
        Some(date) => Some(Due::AllDay(date.to_string())),
        None => fixed(text, "en").map(|(date, time)| local(date, time, None)),
    }
}

/// What `--deadline` takes, and what a day is on the wire.
pub fn day(text: &str, today: Date) -> Option<String> {
    match due(text, today)? {
        Due::AllDay(day) => Some(day),
        _ => None,
    }
}

/// A due date of these parts. A time without a zone is a time wherever the user is.
pub fn local(date: Date, time: Option<Time>, zone: Option<&str>) -> Due {
    let Some(time) = time else {
        return Due::AllDay(date.to_string());
    };
    // The wire's form has seconds, and nothing finer.
    let local = date.to_datetime(time).strftime("%Y-%m-%dT%H:%M:%S").to_string();
    match zone.filter(|zone| TimeZone::get(zone).is_ok()) {
        Some(zone) => Due::Zoned(Zoned {
            local,
            zone: zone.to_owned(),
        }),
        None => Due::Floating(local),
    }
}

/// A date that names its day, month and year, with a time or without; `None` for what only a person (or a parser of one
/// language's words) understands.
///
/// `2026-10-06`, `2026-10-06 15:30`, `2026-10-06T15:30:00`, `2026-10-06 at 15:30`; in English also `Oct 6 2026`,
/// `6 October 2026 9am`, `Oct 6, 2026 at 9:30pm`.
pub fn fixed(text: &str, language: &str) -> Option<(Date, Option<Time>)> {
    let text = text.trim();
    if let (Some(date), Some(rest)) = (text.get(..10), text.get(10..))
        && let Ok(date) = date.parse::<Date>()
    {
        let rest = rest.trim_start_matches(['T', 't']).trim();
        let rest = rest.strip_prefix("at ").unwrap_or(rest).trim();
        return if rest.is_empty() {
            Some((date, None))
        } else {
            clock_time(rest).map(|time| (date, Some(time)))
        };
    }
    if !(language.is_empty() || language.eq_ignore_ascii_case("en")) {
        return None;
    }
    let lower = text.to_lowercase().replace([',', '@'], " ");
    let mut words = lower.split_whitespace();
    let (first, second, year) = (words.next()?, words.next()?, words.next()?);
    let (month, day) = match (month(first), month(second)) {
        (Some(month), None) => (month, second),
        (None, Some(month)) => (month, first),
        _ => return None,
    };
    let day = day
        .trim_end_matches(|letter: char| letter.is_ascii_alphabetic())
        .parse()
        .ok()?;
    if year.len() != 4 {
        return None;
    }
    let date = Date::new(year.parse().ok()?, month, day).ok()?;
    let rest: Vec<&str> = words.skip_while(|word| *word == "at").collect();
    match rest.as_slice() {
        [] => Some((date, None)),
        words => clock_time(&words.concat()).map(|time| (date, Some(time))),
    }
}

fn month(word: &str) -> Option<i8> {
    const MONTHS: [&str; 12] = [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];
    let at = MONTHS
        .iter()
        .position(|month| word.len() >= 3 && month.starts_with(word))?;
    i8::try_from(at + 1).ok()
}

/// `15:30`, `15:30:00`, `9am`, `9:30 pm`.
fn clock_time(text: &str) -> Option<Time> {
    let text = text.trim().to_lowercase().replace(' ', "");
    let (digits, afternoon) = if let Some(digits) = text.strip_suffix("am") {
        (digits, Some(false))
    } else if let Some(digits) = text.strip_suffix("pm") {
        (digits, Some(true))
    } else {
        (text.as_str(), None)
    };
    let mut parts = digits.split(':');
    let mut hour: i8 = parts.next()?.parse().ok()?;
    let minute: i8 = match parts.next() {
        Some(minute) => minute.parse().ok()?,
        // A bare number is no time unless a half of the day stands beside it.
        None if afternoon.is_some() => 0,
        None => return None,
    };
    let second: i8 = match parts.next() {
        // Fractions of a second occur in exports; the wire has none.
        Some(second) => second.split('.').next()?.parse().ok()?,
        None => 0,
    };
    if parts.next().is_some() {
        return None;
    }
    if let Some(afternoon) = afternoon {
        if !(1..=12).contains(&hour) {
            return None;
        }
        hour = hour % 12 + if afternoon { 12 } else { 0 };
    }
    Time::new(hour, minute, second, 0).ok()
}

/// For a person.
pub fn show(due: &Due) -> String {
    match due {
        Due::AllDay(day) => day.clone(),
        Due::Floating(local) => show_local(local),
        Due::Zoned(zoned) => format!("{} {}", show_local(&zoned.local), zoned.zone),
    }
}

fn show_local(local: &str) -> String {
    let minutes = local.strip_suffix(":00").unwrap_or(local);
    minutes.replace('T', " ")
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn dates_that_name_their_day_are_read_and_others_are_not() {
        let check = |text: &str, language: &str, expected: Option<&str>| {
            let found = fixed(text, language).map(|(date, time)| show(&local(date, time, None)));
            assert_eq!(found.as_deref(), expected, "{text}");
        };
        check("2026-10-06", "en", Some("2026-10-06"));
        check("2026-10-06", "de", Some("2026-10-06"));
        check("2026-10-06 15:30", "en", Some("2026-10-06 15:30"));
        check("2026-10-06T15:30:00", "en", Some("2026-10-06 15:30"));
        check("2025-03-31 at 11:00", "en", Some("2025-03-31 11:00"));
        check("Oct 5 2026", "en", Some("2026-10-05"));
        check("5 Oct 2026", "", Some("2026-10-05"));
        check("October 5th, 2026 at 9:30 pm", "en", Some("2026-10-05 21:30"));
        check("Oct 5 2026 9am", "en", Some("2026-10-05 09:00"));
        check("Oct 5 2026 12am", "en", Some("2026-10-05 00:00"));
        check("Oct 5 2026", "fr", None);
        check("Oct 5", "en", None);
        check("every day", "en", None);
        check("every 2nd tuesday", "en", None);
        check("tomorrow", "en", None);
        check("2026-02-30", "en", None);
        check("2026-10-06 every day", "en", None);
        check("2026-10-06 25:00", "en", None);
        check("", "en", None);
        check("ab→", "en", None);
    }

    #[test]
    fn due_takes_dates_times_and_the_two_words() {
        let today = date(2026, 11, 30);
        assert_eq!(due("today", today), Some(Due::AllDay("2026-11-30".to_owned())));
        assert_eq!(due("Tomorrow", today), Some(Due::AllDay("2026-12-01".to_owned())));
        assert_eq!(
            due("2026-12-01 15:30", today),
            Some(Due::Floating("2026-12-01T15:30:00".to_owned()))
        );
        assert_eq!(due("soon", today), None);
        assert_eq!(day("tomorrow", today), Some("2026-12-01".to_owned()));
        assert_eq!(day("2026-12-01 15:30", today), None);
    }

    #[test]
    fn a_time_in_a_zone_keeps_it_and_an_unknown_zone_floats() {
        let (day, time) = fixed("2026-10-06 15:30", "en").expect("it is a date");
        let zoned = Due::Zoned(Zoned {
            local: "2026-10-06T15:30:00".to_owned(),
            zone: "Europe/Moscow".to_owned(),
        });
        assert_eq!(local(day, time, Some("Europe/Moscow")), zoned);
        assert_eq!(
            local(day, time, Some("Middle/Earth")),
            Due::Floating("2026-10-06T15:30:00".to_owned())
        );
    }
}
