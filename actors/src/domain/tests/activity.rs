//! What is counted for the charts.

use super::*;
use crate::domain::{Activity, Quarter};
use crate::ports::{RowKind, StoredRow};

const QUARTER: UnixMs = 900_000;

fn counts(activity: &Activity) -> (u32, u32, u32) {
    (activity.created, activity.completed, activity.reopened)
}

fn of_entry(entry: &Entry) -> Option<(u32, u32, u32)> {
    Activity::of(entry).as_ref().map(counts)
}

#[test]
fn making_completing_and_reopening_count_and_nothing_else() {
    let mut feed = Feed::new();
    assert_eq!(of_entry(&feed.log[0]), None, "a birth");
    assert_eq!(
        of_entry(&feed.accept(batch([task_create(1), task_create(2)]))),
        Some((2, 0, 0))
    );
    assert_eq!(of_entry(&feed.accept(retitle(1, "x"))), None);
    let completed = feed.accept(task_complete(1));
    assert_eq!(of_entry(&completed), Some((0, 1, 0)));
    assert_eq!(of_entry(&feed.accept(task_complete(1))), None, "it was done already");
    let undone = feed.accept(Command::Undo(Undo { seq: completed.seq }));
    assert_eq!(of_entry(&undone), Some((0, 0, 1)));
    assert_eq!(of_entry(&feed.accept(list_create(5))), None);
    let now = feed.state.activity(Quarter::of(BIRTH_TIME)).expect("the quarter");
    assert_eq!(counts(now), (2, 1, 1));
    assert_eq!(now.version, undone.seq);
}

#[test]
fn a_task_that_is_made_and_completed_in_one_entry_is_both() {
    let mut feed = Feed::new();
    let entry = feed.accept(batch([task_create(1), task_complete(1)]));
    assert_eq!(of_entry(&entry), Some((1, 1, 0)));
}

#[test]
fn quarters_are_told_apart_and_keys_lead_back_to_them() {
    for (time, quarter) in [
        (-1, 0),
        (0, 0),
        (QUARTER - 1, 0),
        (QUARTER, 1),
        (i64::MAX, u32::MAX),
        (i64::MIN, 0),
    ] {
        assert_eq!(Quarter::of(time), Quarter(quarter), "at {time}");
    }
    for quarter in [Quarter(0), Quarter(2_000_000), Quarter(u32::MAX)] {
        assert_eq!(Quarter::of_key(quarter.key()), Some(quarter));
        assert_eq!(Quarter::of(quarter.begin()), quarter);
    }
    let other = crate::ports::RowKey {
        kind: RowKind::Task,
        id: [0; 16],
    };
    assert_eq!(Quarter::of_key(other), None);
}

#[test]
fn counts_go_through_the_store_and_replaying_what_is_counted_changes_nothing() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    feed.accept(task_complete(1));
    let key = Quarter::of(BIRTH_TIME).key();
    let touched: Vec<_> = feed.state.touched(&feed.log[2]).collect();
    assert!(touched.contains(&key));
    let stored = feed.state.stored_row(key).expect("it was counted");
    assert_eq!((stored.seq, feed.state.version(key)), (3, Some(3)));

    let mut loaded = State::new(USER);
    loaded.load_row(&stored).expect("it was just stored");
    for entry in &feed.log {
        loaded.apply(entry);
    }
    assert_eq!(loaded, feed.state);
    let elsewhere = StoredRow {
        key: Quarter(1).key(),
        ..stored
    };
    assert!(loaded.load_row(&elsewhere).is_err());
}

#[test]
fn a_quarter_that_cannot_be_read_is_not_made_up() {
    let mut feed = Feed::new();
    let key = Quarter::of(BIRTH_TIME).key();
    assert!(feed.state.leave_out(key), "the feed lives without it");
    feed.accept(task_create(1));
    assert_eq!(feed.state.stored_row(key), None);
}

#[test]
fn what_is_stored_is_forgotten_but_for_the_last_quarter() {
    let mut feed = Feed::new();
    for number in 0..3 {
        let mut entry = feed
            .judge(&operation(9 + number, task_create(number.into())))
            .expect("it breaks no rule");
        entry.time = BIRTH_TIME + QUARTER * number.cast_signed();
        feed.take(entry);
    }
    let quarters = |feed: &Feed| -> Vec<u32> {
        let first = Quarter::of(BIRTH_TIME).0;
        (0..3)
            .filter(|after| feed.state.activity(Quarter(first + after)).is_some())
            .collect()
    };
    let waits = Quarter(Quarter::of(BIRTH_TIME).0 + 1).key();
    feed.state.forget_activity(|key| key != waits);
    assert_eq!(quarters(&feed), [1, 2]);
    feed.state.forget_activity(|_| true);
    assert_eq!(quarters(&feed), [2]);
}
