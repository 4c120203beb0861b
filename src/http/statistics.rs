//! `/api/v1/statistics`: the numbers of a dashboard.

use std::sync::Arc;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Span, ToSpan as _};
use taskflow_actors::domain::find::{self, Count, TaskCounts};
use taskflow_actors::domain::{Settings, State};
use taskflow_actors::ports::{Clock, Store};
use taskflow_actors::supervisor::Router;
use taskflow_protocol::limits::ACTIVITY_DAYS_MAX;
use taskflow_protocol::model::{Counted, CountedLabel, CountedList, Statistics};
use taskflow_protocol::values::{Seq, Status, WeekStart};
use taskflow_protocol::{Code, UserId};

use crate::http::activity::{self, Day};
use crate::http::problem::Problem;
use crate::http::{Api, operations, request};

/// Days that are looked at first: a week is among them, and most streaks end within.
const DAYS_FIRST: i32 = 31;

/// What follows from the activity.
struct Done {
    completed_today: u32,
    completed_this_week: u32,
    /// Days one after the other on which something was completed, up to today, or up to yesterday while today has nothing yet.
    streak_days: u32,
}

/// `GET /api/v1/statistics`
pub async fn get(api: Data<Api>, http: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = request::reader(&api, &http).await?;
    request::no_parameters(&http)?;
    let statistics = of(&api.router, &api.store, &*api.clock, caller.user).await?;
    Ok(HttpResponse::Ok()
        .insert_header(("cache-control", "private, no-cache"))
        .json(statistics))
}

/// The numbers of a user, now.
pub async fn of(router: &Router, store: &Arc<dyn Store>, clock: &dyn Clock, user: UserId) -> Result<Statistics, Code> {
    let now = clock.now_ms();
    let look = move |state: &State| {
        let settings: Settings = state.settings().clone();
        (state.seq(), settings, find::counts(state, now), state.latest_activity())
    };
    let (seq, settings, counts, latest) = operations::view(router, user, look).await?;
    let zone = TimeZone::get(&settings.time_zone).unwrap_or(TimeZone::UTC);
    let today = activity::date_of(now, &zone);
    let mut days = Vec::new();
    for length in [DAYS_FIRST, ACTIVITY_DAYS_MAX] {
        let from = today.saturating_sub((length - 1).days());
        days = activity::counted(store, user, latest.clone(), from, today, &zone).await?;
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
    Ok(whole(seq, settings.time_zone, &counts, &done))
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

fn whole(seq: Seq, time_zone: String, counts: &TaskCounts, done: &Done) -> Statistics {
    let of = |wanted: Status| {
        let found = counts.statuses.iter().find(|(status, _)| *status == wanted);
        found.map_or(0, |(_, count)| *count)
    };
    let to_do = counts.all.tasks - of(Status::Cancelled);
    #[allow(clippy::cast_precision_loss, reason = "there are fewer tasks than 2^52")]
    let completion_rate = (to_do > 0).then(|| of(Status::Done) as f64 / to_do as f64);
    let by_priority = counts
        .priorities
        .iter()
        .map(|&(priority, Count { tasks, open })| (priority, Counted { tasks, open }));
    let by_list = counts.lists.iter();
    let by_label = counts.labels.iter();
    Statistics {
        seq,
        time_zone,
        tasks: counts.all.tasks,
        open: counts.all.open,
        overdue: counts.overdue,
        due_today: counts.due_today,
        by_status: counts.statuses.iter().copied().collect(),
        by_priority: by_priority.collect(),
        by_list: by_list
            .map(|&(list, Count { tasks, open })| CountedList { list, tasks, open })
            .collect(),
        by_label: by_label
            .map(|&(label, Count { tasks, open })| CountedLabel { label, tasks, open })
            .collect(),
        completed_today: done.completed_today,
        completed_this_week: done.completed_this_week,
        streak_days: done.streak_days,
        completion_rate,
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
}
