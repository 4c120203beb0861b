//! `/api/v1/statistics`: the numbers of a dashboard.

use std::collections::BTreeMap;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Span, ToSpan as _};
use serde::Serialize;
use taskflow_actors::domain::find::{self, Count, TaskCounts};
use taskflow_actors::domain::{Settings, State};
use taskflow_protocol::limits::ACTIVITY_DAYS_MAX;
use taskflow_protocol::values::{Priority, Seq, Status, WeekStart};
use taskflow_protocol::{Code, LabelId, ListId, UserId};

use crate::http::activity::{self, Day};
use crate::http::problem::Problem;
use crate::http::{Api, operations, request};

/// Days that are looked at first: a week is among them, and most streaks end within.
const DAYS_FIRST: i32 = 31;

/// What is shown, counted.
#[derive(Debug, PartialEq, Serialize)]
pub struct Statistics {
    /// The entry up to which it is counted.
    seq: Seq,
    time_zone: String,
    #[serde(flatten)]
    all: Number,
    overdue: u64,
    due_today: u64,
    by_status: BTreeMap<&'static str, u64>,
    by_priority: BTreeMap<&'static str, Number>,
    by_list: Vec<OfList>,
    by_label: Vec<OfLabel>,
    #[serde(flatten)]
    done: Done,
    /// Done among those that are not cancelled; `None`: there is none.
    completion_rate: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Number {
    tasks: u64,
    open: u64,
}

#[derive(Debug, PartialEq, Serialize)]
struct OfList {
    list: ListId,
    #[serde(flatten)]
    number: Number,
}

#[derive(Debug, PartialEq, Serialize)]
struct OfLabel {
    label: LabelId,
    #[serde(flatten)]
    number: Number,
}

/// What follows from the activity.
#[derive(Debug, PartialEq, Serialize)]
struct Done {
    completed_today: u32,
    completed_this_week: u32,
    /// Days one after the other on which something was completed, up to today, or up to yesterday while today has nothing yet.
    streak_days: u32,
}

/// `GET /api/v1/statistics`
pub async fn get(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::caller(&api, &http).await?;
    request::no_parameters(&http)?;
    let statistics = of(&api, caller.user).await?;
    Ok(HttpResponse::Ok()
        .insert_header(("cache-control", "private, no-cache"))
        .json(statistics))
}

/// The numbers of a user, now.
pub async fn of(api: &Api, user: UserId) -> Result<Statistics, Code> {
    let now = api.clock.now_ms();
    let look = move |state: &State| {
        let settings: Settings = state.settings().clone();
        (state.seq(), settings, find::counts(state, now), state.latest_activity())
    };
    let (seq, settings, counts, latest) = operations::view(api, user, look).await?;
    let zone = TimeZone::get(&settings.time_zone).unwrap_or(TimeZone::UTC);
    let today = activity::date_of(now, &zone);
    let mut days = Vec::new();
    for length in [DAYS_FIRST, ACTIVITY_DAYS_MAX] {
        let from = today.saturating_sub((length - 1).days());
        days = activity::counted(api, user, latest.clone(), from, today, &zone).await?;
        if streak(&days) < days.len() - 1 {
            break;
        }
    }
    let week = today
        .saturating_sub(since_week_start(today, settings.week_start))
        .to_string();
    let completed_since = |first: &str| {
        let days = days.iter().filter(|day| day.day.as_str() >= first);
        days.map(|day| day.completed).sum()
    };
    let done = Done {
        completed_today: completed_since(&today.to_string()),
        completed_this_week: completed_since(&week),
        streak_days: u32::try_from(streak(&days)).unwrap_or(u32::MAX),
    };
    Ok(Statistics::new(seq, settings.time_zone, &counts, done))
}

/// Days with something completed, one before the other from the end. The last day may have nothing yet.
fn streak(days: &[Day]) -> usize {
    let from = usize::from(days.last().is_some_and(|today| today.completed == 0));
    let before = days.iter().rev().skip(from);
    before.take_while(|day| day.completed > 0).count()
}

fn since_week_start(today: Date, week_start: WeekStart) -> Span {
    let first = match week_start {
        WeekStart::Monday => Weekday::Monday,
        WeekStart::Sunday => Weekday::Sunday,
        WeekStart::Saturday => Weekday::Saturday,
    };
    i32::from(today.weekday().since(first)).days()
}

impl Statistics {
    fn new(seq: Seq, time_zone: String, counts: &TaskCounts, done: Done) -> Self {
        let of = |wanted: Status| {
            let found = counts.statuses.iter().find(|(status, _)| *status == wanted);
            found.map_or(0, |(_, count)| *count)
        };
        let to_do = counts.all.tasks - of(Status::Cancelled);
        #[allow(clippy::cast_precision_loss, reason = "there are fewer tasks than 2^52")]
        let completion_rate = (to_do > 0).then(|| of(Status::Done) as f64 / to_do as f64);
        Self {
            seq,
            time_zone,
            all: counts.all.into(),
            overdue: counts.overdue,
            due_today: counts.due_today,
            by_status: counts
                .statuses
                .iter()
                .map(|(status, count)| (status_name(*status), *count))
                .collect(),
            by_priority: counts
                .priorities
                .iter()
                .map(|(priority, count)| (priority_name(*priority), Number::from(*count)))
                .collect(),
            by_list: counts
                .lists
                .iter()
                .map(|&(list, count)| OfList {
                    list,
                    number: count.into(),
                })
                .collect(),
            by_label: counts
                .labels
                .iter()
                .map(|&(label, count)| OfLabel {
                    label,
                    number: count.into(),
                })
                .collect(),
            done,
            completion_rate,
        }
    }
}

impl From<Count> for Number {
    fn from(count: Count) -> Self {
        Self {
            tasks: count.tasks,
            open: count.open,
        }
    }
}

/// As on the wire.
fn status_name(status: Status) -> &'static str {
    match status {
        Status::Todo => "todo",
        Status::Doing => "doing",
        Status::Done => "done",
        Status::Cancelled => "cancelled",
    }
}

fn priority_name(priority: Priority) -> &'static str {
    match priority {
        Priority::None => "none",
        Priority::Low => "low",
        Priority::Medium => "medium",
        Priority::High => "high",
        Priority::Urgent => "urgent",
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    fn days(completed: &[u32]) -> Vec<Day> {
        completed.iter().map(|&completed| Day::with(completed)).collect()
    }

    #[test]
    fn a_streak_ends_where_a_day_has_nothing_and_today_may_still_get_something() {
        for (completed, expected) in [
            (&[0, 0, 0][..], 0),
            (&[1, 1, 0], 2),
            (&[1, 0, 2], 1),
            (&[0, 3, 1], 2),
            (&[1, 0, 0], 0),
            (&[1, 1, 1], 3),
            (&[0], 0),
        ] {
            assert_eq!(streak(&days(completed)), expected, "{completed:?}");
        }
    }

    #[test]
    fn a_week_begins_where_the_user_says() {
        // A Monday.
        let today = date(2026, 11, 30);
        for (week_start, expected) in [
            (WeekStart::Monday, date(2026, 11, 30)),
            (WeekStart::Sunday, date(2026, 11, 29)),
            (WeekStart::Saturday, date(2026, 11, 28)),
        ] {
            assert_eq!(today.saturating_sub(since_week_start(today, week_start)), expected);
        }
        let sunday = date(2026, 12, 6);
        assert_eq!(
            sunday.saturating_sub(since_week_start(sunday, WeekStart::Monday)),
            today
        );
    }

    #[test]
    fn names_are_those_of_the_wire() {
        for status in [Status::Todo, Status::Doing, Status::Done, Status::Cancelled] {
            assert_eq!(serde_json::json!(status), status_name(status));
        }
        for priority in [
            Priority::None,
            Priority::Low,
            Priority::Medium,
            Priority::High,
            Priority::Urgent,
        ] {
            assert_eq!(serde_json::json!(priority), priority_name(priority));
        }
    }
}
