//! `/api/v1/activity`: what was done on which day, for charts.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde::{Deserialize, Serialize};
use taskflow_actors::domain::{Activity, Quarter, State};
use taskflow_actors::ports::Store;
use taskflow_protocol::limits::ACTIVITY_DAYS_MAX;
use taskflow_protocol::values::UnixMs;
use taskflow_protocol::{Code, UserId};

use crate::http::problem::Problem;
use crate::http::{Api, operations, read_code, request};

/// Days where the client does not say: a month on a chart.
const DAYS_DEFAULT: i32 = 30;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    from: Option<String>,
    to: Option<String>,
}

/// What was done on a day.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Day {
    /// `YYYY-MM-DD`
    pub day: String,
    created: u32,
    /// Tasks that were completed.
    pub completed: u32,
    reopened: u32,
}

#[cfg(test)]
impl Day {
    /// With so many completed.
    pub fn with(completed: u32) -> Self {
        Self {
            completed,
            ..Self::default()
        }
    }
}

#[derive(Serialize)]
struct Days {
    items: Vec<Day>,
    time_zone: String,
}

/// `GET /api/v1/activity`: each day from the one to the other, in the user's zone.
pub async fn days(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::reader(&api, &http).await?;
    let query: Query = request::parameters(&http)?;
    // The memory first: what it has stored and forgotten by the second look is found by that.
    let look = |state: &State| (state.settings().time_zone.clone(), state.latest_activity());
    let (time_zone, latest) = operations::view(&api.router, caller.user, look).await?;
    let zone = TimeZone::get(&time_zone).unwrap_or(TimeZone::UTC);
    let (from, to) = span(&query, date_of(api.clock.now_ms(), &zone))?;
    let answer = Days {
        items: counted(&api.store, caller.user, latest, from, to, &zone).await?,
        time_zone,
    };
    Ok(HttpResponse::Ok()
        .insert_header(("cache-control", "private, no-cache"))
        .json(answer))
}

/// Each day from the one to the other. What is in memory was taken before: see [`days`].
pub async fn counted(
    store: &Arc<dyn Store>,
    user: UserId,
    latest: Vec<Activity>,
    from: Date,
    to: Date,
    zone: &TimeZone,
) -> Result<Vec<Day>, Code> {
    let (first, last) = (begin(from, zone), begin(after(to), zone) - 1);
    let stored = store.activity(user, Quarter::of(first), Quarter::of(last));
    let mut quarters = BTreeMap::new();
    for row in stored.await.map_err(read_code)? {
        let activity = Activity::of_row(&row).map_err(|error| {
            tracing::error!(user.id = %user, %error, "a stored quarter of activity does not decode");
            Code::FeedDamaged
        })?;
        quarters.insert(activity.quarter, activity);
    }
    for activity in latest {
        let stored = quarters.get(&activity.quarter).map_or(0, |stored| stored.version);
        if activity.version > stored {
            quarters.insert(activity.quarter, activity);
        }
    }
    Ok(by_day(quarters.into_values(), from, to, zone))
}

fn by_day(quarters: impl Iterator<Item = Activity>, from: Date, to: Date, zone: &TimeZone) -> Vec<Day> {
    let mut days: BTreeMap<Date, Day> = BTreeMap::new();
    let mut day = from;
    while day <= to {
        let name = day.to_string();
        days.insert(
            day,
            Day {
                day: name,
                ..Day::default()
            },
        );
        day = after(day);
    }
    for activity in quarters {
        if let Some(day) = days.get_mut(&date_of(activity.quarter.begin(), zone)) {
            day.created += activity.created;
            day.completed += activity.completed;
            day.reopened += activity.reopened;
        }
    }
    days.into_values().collect()
}

/// The days that are asked for.
fn span(query: &Query, today: Date) -> Result<(Date, Date), Problem> {
    let wrong = |field: &str, why: String| Err(Problem::new(Code::ValueInvalid).field(field).because(why));
    let parse = |field: &str, text: &Option<String>| match text.as_deref().map(str::parse::<Date>) {
        None => Ok(None),
        Some(Ok(date)) if (1970..=9998).contains(&date.year()) => Ok(Some(date)),
        Some(_) => wrong(field, "it must be a day, such as 2026-12-01".to_owned()).map(|()| None),
    };
    let (from, to) = (parse("from", &query.from)?, parse("to", &query.to)?);
    let to = to.unwrap_or(today);
    let from = from.unwrap_or_else(|| to.saturating_sub((DAYS_DEFAULT - 1).days()));
    let days = to.since(from).map_or(i32::MAX, |span| span.get_days() + 1);
    if !(1..=ACTIVITY_DAYS_MAX).contains(&days) {
        wrong("from", format!("from it to `to` must be 1 to {ACTIVITY_DAYS_MAX} days"))?;
    }
    Ok((from, to))
}

fn after(day: Date) -> Date {
    day.saturating_add(1.day())
}

/// The day of a moment in a zone.
pub fn date_of(at: UnixMs, zone: &TimeZone) -> Date {
    let at = Timestamp::from_millisecond(at).unwrap_or_default();
    zone.to_datetime(at).date()
}

/// When the day begins in the zone: not everywhere at midnight, where the clocks are put forward then.
fn begin(day: Date, zone: &TimeZone) -> UnixMs {
    let noon = day.at(12, 0, 0, 0).to_zoned_datetime(zone.clone());
    let begin = noon.and_then(|noon| noon.start_of_day());
    begin.map_or(UnixMs::MAX, |begin| begin.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    fn query(from: &str, to: &str) -> Query {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Query {
            from: given(from),
            to: given(to),
        }
    }

    #[test]
    fn days_are_those_of_the_zone_whatever_its_offset() {
        // Kathmandu is 5:45 ahead, St. John's 3:30 behind in winter.
        let at = |text: &str| Quarter::of(text.parse::<Timestamp>().expect("a time").as_millisecond());
        let one = |text: &str| Activity {
            quarter: at(text),
            completed: 1,
            ..Activity::default()
        };
        let times = [
            "2026-01-10T18:00:00Z",
            "2026-01-10T18:15:00Z",
            "2026-01-11T03:15:00Z",
            "2026-01-11T03:30:00Z",
        ];
        for (zone, expected) in [
            ("Asia/Kathmandu", [0, 1, 3]),
            ("America/St_Johns", [0, 3, 1]),
            ("UTC", [0, 2, 2]),
        ] {
            let zone = TimeZone::get(zone).expect("a zone");
            let days = by_day(
                times.iter().map(|text| one(text)),
                date(2026, 1, 9),
                date(2026, 1, 11),
                &zone,
            );
            let completed: Vec<u32> = days.iter().map(|day| day.completed).collect();
            assert_eq!(completed, expected, "{zone:?}");
            assert_eq!(days[0].day, "2026-01-09");
        }
    }

    #[test]
    fn a_span_is_a_month_up_to_today_unless_it_is_said() {
        let today = date(2026, 3, 1);
        let of = |from, to| span(&query(from, to), today).expect("a span");
        assert_eq!(of("", ""), (date(2026, 1, 31), today));
        assert_eq!(of("", "2026-02-10"), (date(2026, 1, 12), date(2026, 2, 10)));
        assert_eq!(of("2026-02-20", ""), (date(2026, 2, 20), today));
        assert_eq!(of("2025-03-01", ""), (date(2025, 3, 1), today));
        for (from, to) in [
            ("2026-03-02", ""),
            ("2024-01-01", ""),
            ("yesterday", ""),
            ("", "2026-02-30"),
            ("0001-01-01", "9999-12-31"),
        ] {
            let problem = span(&query(from, to), today).expect_err("no span");
            assert_eq!(problem.code(), Code::ValueInvalid, "{from} {to}");
        }
    }
}
