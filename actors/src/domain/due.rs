//! Dates, times, zones and locales: what is valid, and the one spelling in which it is kept.
//!
//! Zones come from the database inside the binary, never from the machine: what one node accepts, every node does.

use std::sync::LazyLock;

use jiff::civil;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use taskflow_protocol::limits::ZONE_BYTES_MAX;
use taskflow_protocol::values::{Due, Zoned};

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// Why a date, time, zone or locale is refused. Each is a sentence for people.
pub type Why = &'static str;

/// A due in its one spelling.
pub fn due(due: &Due) -> Result<Due, Why> {
    Ok(match due {
        Due::AllDay(day) => Due::AllDay(date(day)?),
        Due::Floating(local) => Due::Floating(date_time(local)?),
        Due::Zoned(zoned) => Due::Zoned(Zoned {
            local: date_time(&zoned.local)?,
            zone: zone(&zoned.zone)?,
        }),
    })
}

/// A day: `YYYY-MM-DD`.
pub fn date(text: &str) -> Result<String, Why> {
    const WHY: Why = "a date is written YYYY-MM-DD and must exist";
    if !has_shape(text, b"0000-00-00") {
        return Err(WHY);
    }
    let date: civil::Date = text.parse().map_err(|_| WHY)?;
    Ok(date.to_string())
}

/// A wall-clock time: `YYYY-MM-DDTHH:MM:SS`; seconds may be left out. A time that a zone skips, or has twice, is fine:
/// it is what the wall clock is meant to say.
pub fn date_time(text: &str) -> Result<String, Why> {
    const WHY: Why = "a time is written YYYY-MM-DDTHH:MM:SS and must exist";
    if !has_shape(text, b"0000-00-00T00:00:00") && !has_shape(text, b"0000-00-00T00:00") {
        return Err(WHY);
    }
    // jiff takes a leap second for the second before it.
    if text.ends_with(":60") {
        return Err(WHY);
    }
    let time: civil::DateTime = text.parse().map_err(|_| WHY)?;
    Ok(time.to_string())
}

/// An IANA zone name, spelled as in the database; any case is taken.
pub fn zone(name: &str) -> Result<String, Why> {
    const WHY: Why = "there is no such time zone; use an IANA name such as Europe/Berlin";
    if name.len() > ZONE_BYTES_MAX {
        return Err(WHY);
    }
    let zone = ZONES.get(name).map_err(|_| WHY)?;
    zone.iana_name().map(str::to_owned).ok_or(WHY)
}

/// The zone of this name; UTC where it is none (it was one when it was stored).
pub fn zone_of(name: &str) -> TimeZone {
    ZONES.get(name).unwrap_or(TimeZone::UTC)
}

/// A BCP 47 language tag with the usual capitals: `de-AT`, `zh-Hant-TW`. Its shape is checked, not whether it is spoken.
pub fn locale(tag: &str) -> Result<String, Why> {
    const WHY: Why = "a locale is a BCP 47 language tag such as de-AT";
    if tag.len() > ZONE_BYTES_MAX {
        return Err(WHY);
    }
    let mut subtags = tag.split('-');
    let language = subtags.next().unwrap_or_default();
    if !(2..=8).contains(&language.len()) || !language.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Err(WHY);
    }
    let mut spelled = language.to_ascii_lowercase();
    // After a one-letter subtag come extensions, which are all in lower case.
    let mut in_extension = false;
    for subtag in subtags {
        if !(1..=8).contains(&subtag.len()) || !subtag.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(WHY);
        }
        in_extension |= subtag.len() == 1;
        let is_alphabetic = subtag.bytes().all(|byte| byte.is_ascii_alphabetic());
        let mut subtag = subtag.to_ascii_lowercase();
        match subtag.len() {
            2 if is_alphabetic && !in_extension => subtag.make_ascii_uppercase(),
            4 if is_alphabetic && !in_extension => subtag[..1].make_ascii_uppercase(),
            _ => {}
        }
        spelled.push('-');
        spelled.push_str(&subtag);
    }
    Ok(spelled)
}

/// The same length, digits where the shape has `0`, and the same character everywhere else.
fn has_shape(text: &str, shape: &[u8]) -> bool {
    text.len() == shape.len()
        && text.bytes().zip(shape).all(|(byte, &wanted)| match wanted {
            b'0' => byte.is_ascii_digit(),
            _ => byte == wanted,
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NO_DATE: Why = "a date is written YYYY-MM-DD and must exist";
    const NO_TIME: Why = "a time is written YYYY-MM-DDTHH:MM:SS and must exist";
    const NO_ZONE: Why = "there is no such time zone; use an IANA name such as Europe/Berlin";
    const NO_LOCALE: Why = "a locale is a BCP 47 language tag such as de-AT";

    #[test]
    fn a_date_is_a_day_of_the_calendar_in_one_spelling() {
        for good in ["2026-11-26", "2028-02-29", "0000-01-01", "9999-12-31"] {
            assert_eq!(date(good), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "2027-02-29",
            "2026-13-01",
            "2026-1-1",
            "20261126",
            "2026-11-26T10:00",
            "+002026-11-26",
            "２０２６-11-26",
        ] {
            assert_eq!(date(bad), Err(NO_DATE), "{bad}");
        }
    }

    #[test]
    fn a_time_has_seconds_even_where_they_were_left_out() {
        assert_eq!(date_time("2026-11-26T09:30"), Ok("2026-11-26T09:30:00".to_owned()));
        assert_eq!(date_time("2026-11-26T23:59:59"), Ok("2026-11-26T23:59:59".to_owned()));
        for bad in [
            "",
            "2026-11-26",
            "2026-11-26 09:30",
            "2026-11-26T24:00",
            "2026-11-26T09:30Z",
            "2026-11-26T09:30:00.5",
            "2026-11-31T09:30",
            "2016-12-31T23:59:60",
        ] {
            assert_eq!(date_time(bad), Err(NO_TIME), "{bad}");
        }
    }

    #[test]
    fn a_zone_is_one_of_the_bundled_database() {
        assert_eq!(zone("Europe/Berlin"), Ok("Europe/Berlin".to_owned()));
        assert_eq!(zone("europe/berlin"), Ok("Europe/Berlin".to_owned()));
        assert_eq!(zone("UTC"), Ok("UTC".to_owned()));
        for bad in [
            "",
            "Mars/Olympus",
            "+01:00",
            "../etc/passwd",
            "Europe/Berlin\0",
            &"x".repeat(65),
        ] {
            assert_eq!(zone(bad), Err(NO_ZONE), "{bad}");
        }
    }

    #[test]
    fn a_time_that_its_zone_skips_is_kept_as_it_is() {
        let skipped = Due::Zoned(Zoned {
            local: "2026-03-29T02:30:00".to_owned(),
            zone: "Europe/Berlin".to_owned(),
        });
        assert_eq!(due(&skipped), Ok(skipped.clone()));
    }

    #[test]
    fn a_locale_has_the_shape_and_the_capitals_of_a_language_tag() {
        for (given, spelled) in [
            ("de", "de"),
            ("DE-at", "de-AT"),
            ("zh-hant-tw", "zh-Hant-TW"),
            ("es-419", "es-419"),
            ("en-US-u-CA-gregory", "en-US-u-ca-gregory"),
        ] {
            assert_eq!(locale(given), Ok(spelled.to_owned()));
        }
        for bad in [
            "",
            "d",
            "de_AT",
            "de-",
            "-de",
            "de-toolongsub",
            "dé",
            "12",
            &"en-".repeat(30),
        ] {
            assert_eq!(locale(bad), Err(NO_LOCALE), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_a_spelling_is_its_own_spelling(text in any::<String>()) {
            for spell in [date, date_time, zone, locale] {
                if let Ok(spelled) = spell(&text) {
                    prop_assert_eq!(spell(&spelled), Ok(spelled.clone()));
                }
            }
        }
    }
}
