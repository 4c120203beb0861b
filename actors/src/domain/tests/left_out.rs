//! Rows that are damaged in the store.

use super::*;
use crate::feed::rebuild;
use crate::ports::{Epoch, Head, Loaded, RowKey, RowKind, Unreadable};

fn key(kind: RowKind, id: Uuid) -> RowKey {
    RowKey {
        kind,
        id: id.into_bytes(),
    }
}

/// The feed as it is loaded when these rows cannot be read; and what was reported.
fn without(feed: &Feed, keys: &[RowKey]) -> Result<(Feed, Vec<String>), String> {
    let all = feed.log.iter().flat_map(|entry| feed.state.touched(entry));
    let rows = all.filter(|key| !keys.contains(key));
    let seq = feed.state.seq();
    let loaded = Loaded {
        head: Head {
            epoch: Epoch(1),
            seq,
            first: 1,
            rows_upto: seq,
        },
        rows: rows.filter_map(|key| feed.state.stored_row(key)).collect(),
        unreadable: keys
            .iter()
            .map(|key| Unreadable {
                key: *key,
                what: "its checksum".to_owned(),
            })
            .collect(),
        log: Vec::new(),
    };
    let mut reported = Vec::new();
    let state = rebuild(USER, &loaded, |what| reported.push(what))?.state;
    let feed = Feed { state, ..feed.clone() };
    Ok((feed, reported))
}

/// Task 1 with its subtask 2 and that one's subtask 3; task 4; list 5 with task 6; label 7, which task 4 has.
fn feed() -> Feed {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    feed.accept(task_create_under(2, 1));
    feed.accept(task_create_under(3, 2));
    feed.accept(label_create(7));
    feed.accept(Command::TaskCreate(TaskCreate {
        labels: vec![label(7)],
        ..create(4)
    }));
    feed.accept(list_create(5));
    feed.accept(task_create_in(6, list(5)));
    feed
}

#[track_caller]
fn damaged(feed: &mut Feed, command: Command) {
    let before = feed.state.clone();
    let refused = feed.try_to(command);
    assert!(
        matches!(
            &refused,
            Err(Refusal::Code {
                code: Code::RowDamaged,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(feed.state, before);
}

#[test]
fn nothing_names_a_task_that_cannot_be_read_and_the_rest_goes_on() {
    let made = feed();
    let (mut feed, reported) = without(&made, &[key(RowKind::Task, task(1).0)]).expect("it loads");
    assert_eq!(reported, ["its checksum"]);
    assert_eq!(feed.state.all_tasks().count(), 4);
    for command in [
        task_create(1),
        retitle(1, "new"),
        task_complete(1),
        task_delete(1),
        task_restore(1),
        task_create_under(8, 1),
        move_under(4, 1),
        move_beside(4, Place::After(task(1))),
        batch([task_create(8), task_complete(1)]),
        // Its creation.
        undo(2),
    ] {
        damaged(&mut feed, command);
    }
    // Whether task 4 is above the task that is gone, nobody knows.
    damaged(&mut feed, move_under(4, 3));
    assert!(feed.state.is_shown(feed.task(2)));
    feed.accept(task_complete(2));
    feed.accept(move_to_list(4, list(5)));
    feed.accept(task_create(8));
    feed.accept(undo(4));
}

#[test]
fn tasks_of_a_list_that_cannot_be_read_are_shown_and_stay() {
    let made = feed();
    let (mut feed, _) = without(&made, &[key(RowKind::List, list(5).0)]).expect("it loads");
    assert!(feed.state.is_shown(feed.task(6)));
    for command in [
        list_delete(5),
        list_create(5),
        task_create_in(8, list(5)),
        move_to_list(4, list(5)),
        retitle(6, "new"),
    ] {
        damaged(&mut feed, command);
    }
    feed.accept(retitle(4, "new"));
}

#[test]
fn a_label_that_cannot_be_read_stays_where_it_is() {
    let made = feed();
    let (mut feed, _) = without(&made, &[key(RowKind::Label, label(7).0)]).expect("it loads");
    let labelled = |labels| TaskFields {
        labels: Some(labels),
        ..TaskFields::default()
    };
    damaged(&mut feed, label_delete(7));
    damaged(&mut feed, task_patch(1, labelled(vec![label(7)])));
    feed.accept(retitle(4, "new"));
    assert_eq!(feed.task(4).labels, [label(7)]);
}

#[test]
fn an_entry_writes_nothing_over_a_row_that_cannot_be_read() {
    let made = feed();
    let lost = key(RowKind::Task, task(1).0);
    let (mut feed, _) = without(&made, &[lost]).expect("it loads");
    for entry in &made.log {
        feed.state.apply(entry);
    }
    assert_eq!(feed.state.task(task(1)), None);
    assert_eq!(feed.state.stored_row(lost), None);
}

#[test]
fn without_settings_or_inbox_there_is_no_feed() {
    let made = feed();
    for kept in [key(RowKind::Settings, USER.0), key(RowKind::List, INBOX.0)] {
        assert_eq!(without(&made, &[kept]).map(|_| ()), Err("its checksum".to_owned()));
    }
}
