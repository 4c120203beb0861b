//! The stored form of entries and rows.

use serde::Serialize;

use super::super::codec::{FORMAT, decode_commit, encode_commit};
use super::super::{Change, CodecError, TaskPut};
use super::*;
use crate::domain::Quarter;
use crate::ports::{RowKey, RowKind, StoredRow};

fn task_key(n: u128) -> RowKey {
    RowKey {
        kind: RowKind::Task,
        id: *task(n).bytes(),
    }
}

#[test]
fn a_plain_new_task_is_about_two_hundred_bytes() {
    let mut feed = Feed::new();
    let entry = feed.accept(Command::TaskCreate(TaskCreate {
        title: "Buy milk and bread".to_owned(),
        ..create(1)
    }));
    let bytes = encode_commit(std::slice::from_ref(&entry)).len();
    assert!((150..=220).contains(&bytes), "{bytes}");
    assert!(entry.stored_bytes_max() >= bytes);
}

#[test]
fn the_bound_of_an_entry_holds_for_the_fullest_change() {
    use taskflow_protocol::values::{Due, Zoned};

    let mut feed = Feed::new();
    feed.accept(list_create(5));
    for n in 100..150 {
        feed.accept(label_create(n));
    }
    // A zone name of the greatest length, and times that need nine bytes.
    let due = |minute: u8| {
        Some(Due::Zoned(Zoned {
            local: format!("2026-12-24T18:{minute}:00"),
            zone: "America/Argentina/ComodRivadavia".to_owned(),
        }))
    };
    let labels: Vec<LabelId> = (100..150).map(label).collect();
    let made = feed.accept(Command::TaskCreate(TaskCreate {
        notes: "n".repeat(50_000),
        priority: Priority::Urgent,
        due: due(10),
        deadline: Some("2026-12-24".to_owned()),
        duration_minutes: Some(500_000),
        labels: labels.clone(),
        status: Status::Cancelled,
        ..create(1)
    }));
    feed.accept(task_create(9));
    let set = TaskFields {
        title: Some("t".repeat(2_000)),
        notes: Some("m".repeat(50_000)),
        priority: Some(Priority::Medium),
        status: Some(Status::Done),
        due: Some(due(20)),
        deadline: Some(Some("2026-12-25".to_owned())),
        duration_minutes: Some(Some(500_001)),
        labels: Some(labels[1..].to_vec()),
        ..TaskFields::default()
    };
    let changed = feed.accept(batch([
        task_patch(1, set),
        move_to_list(9, list(5)),
        Command::TaskMove(TaskMove {
            list: Some(list(5)),
            parent: Some(task(9)),
            ..moving(1)
        }),
        task_delete(1),
    ]));
    let name = Some("n".repeat(250));
    let renamed = feed.accept(list_patch(
        list(5),
        ListFields {
            name,
            ..ListFields::default()
        },
    ));
    let again = Some("m".repeat(250));
    let renamed_again = feed.accept(list_patch(
        list(5),
        ListFields {
            name: again,
            ..ListFields::default()
        },
    ));
    for entry in [&feed.log[0], &made, &changed, &renamed, &renamed_again] {
        let bytes = encode_commit(std::slice::from_ref(entry)).len();
        assert!(entry.stored_bytes_max() >= bytes, "{bytes} of {entry:?}");
        assert!(entry.stored_bytes_max() <= bytes + 2_048, "{bytes} of {entry:?}");
    }
}

#[test]
fn a_commit_reads_back_as_it_was_written() {
    let mut feed = Feed::new();
    feed.accept(list_create(5));
    feed.accept(task_create(1));
    feed.accept(batch([retitle(1, "x"), move_to_list(1, list(5)), task_complete(1)]));
    feed.accept(task_complete(1));
    let body = encode_commit(&feed.log);
    assert_eq!(body[0], FORMAT);
    assert_eq!(decode_commit(&body), Ok(feed.log));
}

#[test]
fn what_is_not_a_commit_is_an_error_and_says_why() {
    let feed = Feed::new();
    let body = encode_commit(&feed.log);
    assert_eq!(decode_commit(&[]), Err(CodecError::Empty));
    let mut newer = body.clone();
    newer[0] = FORMAT + 1;
    assert_eq!(decode_commit(&newer), Err(CodecError::Format(FORMAT + 1)));
    let mut longer = body.clone();
    longer.push(0);
    assert_eq!(
        decode_commit(&longer),
        Err(CodecError::Malformed("there are bytes after it".to_owned()))
    );
    for cut in 1..body.len() {
        assert!(
            matches!(decode_commit(&body[..cut]), Err(CodecError::Malformed(_))),
            "cut at {cut}"
        );
    }
    let twice = [feed.log[0].clone(), feed.log[0].clone()];
    assert_eq!(decode_commit(&encode_commit(&twice)), Err(CodecError::NotDense(1, 1)));
}

/// A newer build's entry: more fields everywhere, and the known ones under their keys.
#[test]
fn keys_that_this_build_does_not_know_are_skipped() {
    #[derive(Serialize)]
    struct NewerEntry {
        s: u64,
        t: i64,
        a: UserId,
        o: OperationId,
        h: u64,
        c: Vec<NewerChange>,
        why: &'static str,
    }
    #[derive(Serialize)]
    enum NewerChange {
        #[serde(rename = "ts")]
        TaskSet {
            i: TaskId,
            l: ListId,
            c: NewerFields,
            from: (u8, u8),
        },
    }
    #[derive(Serialize)]
    struct NewerFields {
        t: (&'static str, &'static str),
        energy: (u8, u8),
    }
    let entry = NewerEntry {
        s: 3,
        t: 5,
        a: USER,
        o: OperationId(USER.0),
        h: 9,
        c: vec![NewerChange::TaskSet {
            i: task(1),
            l: INBOX,
            c: NewerFields {
                t: ("new", "old"),
                energy: (1, 2),
            },
            from: (0, 0),
        }],
        why: "because",
    };
    let mut body = vec![FORMAT];
    body.extend(rmp_serde::to_vec_named(&[entry]).expect("it is plain data"));
    let read = decode_commit(&body).expect("unknown keys are skipped");
    assert_eq!((read[0].seq, read[0].time, read[0].operation_hash), (3, 5, 9));
    let set = TaskFields {
        title: Some("new".to_owned()),
        ..TaskFields::default()
    };
    let wire = read[0].wire();
    assert_eq!(
        wire.changes,
        [taskflow_protocol::message::Change::TaskSet(
            taskflow_protocol::message::TaskSet {
                task: task(1),
                list: INBOX,
                set
            }
        )]
    );
}

#[test]
fn a_change_that_this_build_does_not_know_is_an_error() {
    #[derive(Serialize)]
    struct NewerEntry {
        s: u64,
        t: i64,
        a: UserId,
        o: OperationId,
        h: u64,
        c: Vec<NewerChange>,
    }
    #[derive(Serialize)]
    enum NewerChange {
        #[serde(rename = "goal_put")]
        GoalPut { i: TaskId },
    }
    let entry = NewerEntry {
        s: 3,
        t: 5,
        a: USER,
        o: OperationId(USER.0),
        h: 9,
        c: vec![NewerChange::GoalPut { i: task(1) }],
    };
    let mut body = vec![FORMAT];
    body.extend(rmp_serde::to_vec_named(&[entry]).expect("it is plain data"));
    assert!(matches!(decode_commit(&body), Err(CodecError::Malformed(_))));
}

#[test]
fn an_entry_touches_the_rows_that_it_changes() {
    let mut feed = Feed::new();
    let entry = feed.accept(batch([list_create(5), label_create(7), task_create(1)]));
    let touched: Vec<RowKey> = feed.state.touched(&entry).collect();
    let key = |kind, id: &[u8; 16]| RowKey { kind, id: *id };
    assert_eq!(
        touched,
        [
            key(RowKind::List, list(5).bytes()),
            key(RowKind::Label, label(7).bytes()),
            task_key(1),
            Quarter::of(entry.time).key(),
        ]
    );
    let born: Vec<RowKey> = feed.state.touched(&feed.log[0]).collect();
    assert_eq!(
        born,
        [key(RowKind::Settings, USER.bytes()), key(RowKind::List, USER.bytes())]
    );
}

#[test]
fn a_row_is_stored_with_its_version_and_loads_under_its_own_key_only() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    feed.accept(task_complete(1));
    let row = feed.state.stored_row(task_key(1)).expect("it was made");
    assert_eq!((row.key, row.seq, row.body[0]), (task_key(1), 3, FORMAT));
    assert_eq!(feed.state.stored_row(task_key(2)), None);

    let mut loaded = State::new(USER);
    loaded.load_row(&row).expect("it was just stored");
    assert_eq!(loaded.task(task(1)), feed.state.task(task(1)));
    let wrong_key = StoredRow {
        key: task_key(2),
        ..row.clone()
    };
    assert_eq!(loaded.load_row(&wrong_key), Err(CodecError::OtherRow));
    let wrong_version = StoredRow { seq: 2, ..row.clone() };
    assert_eq!(loaded.load_row(&wrong_version), Err(CodecError::OtherRow));
    let damaged = StoredRow {
        body: row.body.slice(..row.body.len() - 1),
        ..row
    };
    assert!(matches!(loaded.load_row(&damaged), Err(CodecError::Malformed(_))));
}

#[test]
fn a_row_that_has_an_entry_already_is_left_as_it_is() {
    use taskflow_protocol::message::LabelPatch;
    use taskflow_protocol::model::{LabelFields, SettingsFields};

    let mut feed = Feed::new();
    feed.accept(batch([task_create(1), list_create(5), label_create(7)]));
    for text in ["de", "fr"] {
        let name = || Some(text.to_owned());
        feed.accept(retitle(1, text));
        feed.accept(list_patch(
            list(5),
            ListFields {
                name: name(),
                ..ListFields::default()
            },
        ));
        let set = LabelFields {
            name: name(),
            ..LabelFields::default()
        };
        feed.accept(Command::LabelPatch(LabelPatch { label: label(7), set }));
        let set = SettingsFields {
            locale: name(),
            ..SettingsFields::default()
        };
        feed.accept(Command::SettingsPatch(set));
    }
    for entry in &feed.log {
        let mut state = feed.state.clone();
        state.apply(entry);
        assert_eq!(state, feed.state, "entry {} was in it", entry.seq);
    }
}

#[test]
fn an_entry_about_a_row_that_was_left_out_makes_nothing_up() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    let entry = feed.accept(retitle(1, "new"));
    let mut state = State::new(USER);
    state.apply(&entry);
    assert_eq!((state.task(task(1)), state.seq()), (None, 3));
}

#[test]
fn a_state_without_a_trace_of_the_last_entry_still_knows_its_seq() {
    let mut state = State::new(USER);
    state.loaded_upto(7);
    state.loaded_upto(5);
    assert_eq!(state.seq(), 7);
}

/// The keys of a stored task, by hand: changing one would make every stored feed unreadable.
#[test]
fn the_stored_keys_of_a_task_stay_as_they_are() {
    let mut feed = Feed::new();
    feed.accept(label_create(7));
    feed.accept(task_create(9));
    let entry = feed.accept(Command::TaskCreate(TaskCreate {
        notes: "n".to_owned(),
        status: Status::Done,
        priority: Priority::Urgent,
        due: Some(taskflow_protocol::values::Due::AllDay("2026-12-24".to_owned())),
        deadline: Some("2026-12-24".to_owned()),
        duration_minutes: Some(5),
        labels: vec![label(7)],
        parent: Some(task(9)),
        ..create(1)
    }));
    feed.accept(task_delete(1));
    let Change::TaskPut(put) = &entry.changes[0] else {
        panic!("{entry:?}");
    };
    let put: &TaskPut = put;
    let stored = rmp_serde::to_vec_named(&Task {
        updated: Some(put.task.created),
        deleted_at: Some(1),
        ..put.task.clone()
    });
    let stored = stored.expect("it is plain data");
    let values: std::collections::BTreeMap<String, serde::de::IgnoredAny> =
        rmp_serde::from_slice(&stored).expect("it is a map with string keys");
    let keys: String = values.into_keys().collect();
    assert_eq!(keys, "abcdeilmnoprstuvx");
}
