//! Tasks: their values, status, parents, lists and the bin.

use taskflow_protocol::message::{self, Row};
use taskflow_protocol::model;
use taskflow_protocol::values::{Due, Zoned};

use super::*;

#[test]
fn a_new_task_is_sent_whole() {
    let mut feed = Feed::new();
    feed.accept(label_create(8));
    feed.accept(label_create(7));
    let entry = feed.accept(Command::TaskCreate(TaskCreate {
        notes: "**bold**\n".to_owned(),
        priority: Priority::High,
        due: Some(Due::Zoned(Zoned {
            local: "2026-12-24T18:00".to_owned(),
            zone: "europe/vienna".to_owned(),
        })),
        deadline: Some("2026-12-25".to_owned()),
        duration_minutes: Some(90),
        labels: vec![label(8), label(7), label(8)],
        ..create(1)
    }));
    let expected = model::Task {
        id: task(1),
        list: INBOX,
        title: "Task 1".to_owned(),
        notes: "**bold**\n".to_owned(),
        status: Status::Todo,
        priority: Priority::High,
        due: Some(Due::Zoned(Zoned {
            local: "2026-12-24T18:00:00".to_owned(),
            zone: "Europe/Vienna".to_owned(),
        })),
        deadline: Some("2026-12-25".to_owned()),
        duration_minutes: Some(90),
        labels: vec![label(7), label(8)],
        parent: None,
        rank: "a0".to_owned(),
        completed_at: None,
        completed_by: None,
        created_at: entry.time,
        created_by: USER,
        updated_at: entry.time,
        updated_by: USER,
        deleted_at: None,
        version: 4,
    };
    assert_eq!(
        entry.wire(),
        message::Entry {
            seq: 4,
            time: BIRTH_TIME + 3_000,
            author: USER,
            operation: operation(4, task_create(1)).id,
            changes: vec![message::Change::TaskPut(message::TaskPut {
                from: None,
                task: expected.clone()
            })],
        }
    );
    assert_eq!(feed.task(1).to_wire(), expected);
}

#[test]
fn a_patch_changes_only_the_fields_that_really_change() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    feed.author = OTHER;
    let entry = feed.accept(task_patch(
        1,
        TaskFields {
            title: Some("Task 1".to_owned()),
            notes: Some("more".to_owned()),
            due: Some(None),
            ..TaskFields::default()
        },
    ));
    let set = TaskFields {
        notes: Some("more".to_owned()),
        ..TaskFields::default()
    };
    assert_eq!(
        entry.wire().changes,
        [message::Change::TaskSet(message::TaskSet {
            task: task(1),
            list: INBOX,
            set
        })]
    );
    let row = feed.task(1).to_wire();
    assert_eq!((row.version, row.updated_at, row.updated_by), (3, entry.time, OTHER));
    assert_eq!((row.created_at, row.created_by), (entry.time - 1_000, USER));
}

#[test]
fn a_patch_clears_what_it_sets_to_null() {
    let mut feed = Feed::new();
    feed.accept(Command::TaskCreate(TaskCreate {
        due: Some(Due::AllDay("2026-12-24".to_owned())),
        deadline: Some("2026-12-25".to_owned()),
        duration_minutes: Some(5),
        ..create(1)
    }));
    let set = TaskFields {
        due: Some(None),
        deadline: Some(None),
        duration_minutes: Some(None),
        ..TaskFields::default()
    };
    let entry = feed.accept(task_patch(1, set.clone()));
    assert_eq!(
        entry.wire().changes,
        [message::Change::TaskSet(message::TaskSet {
            task: task(1),
            list: INBOX,
            set
        })]
    );
    let row = feed.task(1);
    assert_eq!((&row.due, &row.deadline, row.duration_minutes), (&None, &None, None));
}

#[test]
fn a_title_is_one_line_that_shows_something() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    for bad in [
        "",
        "   ",
        "\u{a0}",
        "two\nlines",
        "tab\t",
        "nul\0",
        "next\u{85}line",
        "line\u{2028}separator",
    ] {
        feed.refuse(retitle(1, bad), Code::ValueInvalid, "title");
        feed.refuse(
            Command::TaskCreate(TaskCreate {
                title: bad.to_owned(),
                ..create(2)
            }),
            Code::ValueInvalid,
            "title",
        );
    }
    for good in [
        " spaces stay ",
        "مهمة",
        "👩‍👩‍👧 ZWJ",
        "\u{202e}bidi",
        "<script>alert(1)</script>",
    ] {
        feed.accept(retitle(1, good));
        assert_eq!(feed.task(1).title, good);
    }
}

#[test]
fn texts_have_a_greatest_length_in_bytes() {
    let mut feed = Feed::new();
    feed.accept(retitle_new(&"é".repeat(1_000)));
    feed.refuse(retitle(1, &"é".repeat(1_001)), Code::ValueTooLong, "title");
    let notes = |bytes: usize| TaskFields {
        notes: Some("n".repeat(bytes)),
        ..TaskFields::default()
    };
    feed.accept(task_patch(1, notes(50_000)));
    feed.refuse(task_patch(1, notes(50_001)), Code::ValueTooLong, "notes");
}

fn retitle_new(title: &str) -> Command {
    Command::TaskCreate(TaskCreate {
        title: title.to_owned(),
        ..create(1)
    })
}

#[test]
fn notes_have_line_ends_and_tabs_but_no_other_control_characters() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    let notes = |text: &str| TaskFields {
        notes: Some(text.to_owned()),
        ..TaskFields::default()
    };
    feed.accept(task_patch(1, notes("a\r\n\tb\n")));
    for bad in ["\0", "\u{1b}[31m", "\u{7f}"] {
        feed.refuse(task_patch(1, notes(bad)), Code::ValueInvalid, "notes");
    }
}

#[test]
fn dates_zones_and_durations_must_be_valid() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    let zoned = |local: &str, zone: &str| {
        Due::Zoned(Zoned {
            local: local.to_owned(),
            zone: zone.to_owned(),
        })
    };
    for bad in [
        Due::AllDay("2026-02-30".to_owned()),
        Due::AllDay("tomorrow".to_owned()),
        Due::Floating("2026-02-28".to_owned()),
        zoned("2026-02-28T10:00", "Mars/Olympus"),
        zoned("2026-02-28T25:00", "Europe/Berlin"),
    ] {
        feed.refuse(
            task_patch(
                1,
                TaskFields {
                    due: Some(Some(bad.clone())),
                    ..TaskFields::default()
                },
            ),
            Code::ValueInvalid,
            "due",
        );
        feed.refuse(
            Command::TaskCreate(TaskCreate {
                due: Some(bad),
                ..create(2)
            }),
            Code::ValueInvalid,
            "due",
        );
    }
    let deadline = Some(Some("2026-02-30".to_owned()));
    feed.refuse(
        task_patch(
            1,
            TaskFields {
                deadline,
                ..TaskFields::default()
            },
        ),
        Code::ValueInvalid,
        "deadline",
    );
    for minutes in [0, 366 * 24 * 60 + 1] {
        let set = TaskFields {
            duration_minutes: Some(Some(minutes)),
            ..TaskFields::default()
        };
        feed.refuse(task_patch(1, set), Code::ValueInvalid, "duration_minutes");
    }
}

#[test]
fn a_patch_cannot_set_what_other_commands_are_for() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    let none = TaskFields::default();
    for (field, set) in [
        (
            "parent",
            TaskFields {
                parent: Some(None),
                ..none.clone()
            },
        ),
        (
            "rank",
            TaskFields {
                rank: Some("a9".to_owned()),
                ..none.clone()
            },
        ),
        (
            "completed_at",
            TaskFields {
                completed_at: Some(None),
                ..none.clone()
            },
        ),
        (
            "completed_by",
            TaskFields {
                completed_by: Some(Some(USER)),
                ..none.clone()
            },
        ),
        (
            "deleted_at",
            TaskFields {
                deleted_at: Some(Some(1)),
                ..none
            },
        ),
    ] {
        feed.refuse(task_patch(1, set), Code::ValueInvalid, field);
    }
}

#[test]
fn done_tasks_say_when_and_by_whom_and_other_tasks_do_not() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    feed.author = OTHER;
    let entry = feed.accept(task_complete(1));
    let set = TaskFields {
        status: Some(Status::Done),
        completed_at: Some(Some(entry.time)),
        completed_by: Some(Some(OTHER)),
        ..TaskFields::default()
    };
    assert_eq!(
        entry.wire().changes,
        [message::Change::TaskSet(message::TaskSet {
            task: task(1),
            list: INBOX,
            set
        })]
    );
    let entry = feed.accept(task_reopen(1));
    let set = TaskFields {
        status: Some(Status::Todo),
        completed_at: Some(None),
        completed_by: Some(None),
        ..TaskFields::default()
    };
    assert_eq!(
        entry.wire().changes,
        [message::Change::TaskSet(message::TaskSet {
            task: task(1),
            list: INBOX,
            set
        })]
    );
    // By patch, and at creation, too.
    let status = |status| TaskFields {
        status: Some(status),
        ..TaskFields::default()
    };
    feed.accept(task_patch(1, status(Status::Done)));
    assert!(feed.task(1).completed.is_some());
    feed.accept(task_patch(1, status(Status::Cancelled)));
    assert_eq!(feed.task(1).completed, None);
    feed.accept(Command::TaskCreate(TaskCreate {
        status: Status::Done,
        ..create(2)
    }));
    assert!(feed.task(2).completed.is_some());
}

#[test]
fn asking_for_what_is_so_already_makes_an_entry_without_changes() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    feed.accept(task_complete(1));
    let before = feed.task(1).clone();
    let entry = feed.accept(task_complete(1));
    assert_eq!((entry.seq, &entry.changes), (4, &vec![]));
    assert_eq!(feed.task(1), &before);
    assert_eq!(feed.state.seq(), 4);
    feed.accept(task_delete(1));
    assert_eq!(feed.accept(task_delete(1)).changes, []);
    feed.accept(task_restore(1));
    assert_eq!(feed.accept(task_restore(1)).changes, []);
}

#[test]
fn an_id_is_taken_also_by_a_row_in_the_bin() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    feed.refuse(task_create(1), Code::IdTaken, "task");
    feed.accept(task_delete(1));
    feed.refuse(task_create(1), Code::IdTaken, "task");
}

#[test]
fn what_a_command_names_must_exist() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    for command in [
        retitle(9, "x"),
        move_to_list(9, INBOX),
        task_complete(9),
        task_reopen(9),
        task_delete(9),
        task_restore(9),
    ] {
        feed.refuse(command, Code::RowNotFound, "task");
    }
    feed.refuse(task_create_in(2, list(9)), Code::RowNotFound, "list");
    feed.refuse(move_to_list(1, list(9)), Code::RowNotFound, "list");
    feed.refuse(task_create_under(2, 9), Code::RowNotFound, "parent");
    feed.refuse(move_under(1, 9), Code::RowNotFound, "parent");
    feed.refuse(move_beside(1, Place::After(task(9))), Code::RowNotFound, "place");
    let labels = Some(vec![label(9)]);
    feed.refuse(
        task_patch(
            1,
            TaskFields {
                labels,
                ..TaskFields::default()
            },
        ),
        Code::RowNotFound,
        "labels",
    );
}

#[test]
fn a_task_in_the_bin_can_only_be_restored() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    let entry = feed.accept(task_delete(1));
    let set = TaskFields {
        deleted_at: Some(Some(entry.time)),
        ..TaskFields::default()
    };
    assert_eq!(
        entry.wire().changes,
        [message::Change::TaskSet(message::TaskSet {
            task: task(1),
            list: INBOX,
            set
        })]
    );
    for command in [
        retitle(1, "x"),
        move_to_list(1, INBOX),
        task_complete(1),
        task_reopen(1),
    ] {
        feed.refuse(command, Code::RowDeleted, "task");
    }
    feed.accept(task_restore(1));
    assert_eq!(feed.task(1).deleted_at, None);
}

#[test]
fn nothing_happens_to_tasks_of_a_list_in_the_bin() {
    let mut feed = Feed::new();
    feed.accept(list_create(5));
    feed.accept(task_create_in(1, list(5)));
    feed.accept(task_create(2));
    feed.accept(list_delete(5));
    for command in [
        retitle(1, "x"),
        move_to_list(1, INBOX),
        task_complete(1),
        task_delete(1),
        task_restore(1),
        task_create_in(3, list(5)),
        move_to_list(2, list(5)),
    ] {
        feed.refuse(command, Code::RowDeleted, "list");
    }
    assert!(!feed.state.is_shown(feed.task(1)));
    feed.accept(list_restore(5));
    assert!(feed.state.is_shown(feed.task(1)));
}

#[test]
fn an_archived_list_keeps_its_tasks_and_takes_no_new_ones() {
    let mut feed = Feed::new();
    feed.accept(list_create(5));
    feed.accept(task_create_in(1, list(5)));
    feed.accept(task_create_in(2, list(5)));
    feed.accept(task_create(3));
    feed.accept(list_archive(5));
    feed.refuse(task_create_in(4, list(5)), Code::ListArchived, "list");
    feed.refuse(move_to_list(3, list(5)), Code::ListArchived, "list");
    feed.accept(task_complete(1));
    feed.accept(move_beside(1, Place::Last));
    assert_eq!(feed.order(list(5)), [2, 1]);
    feed.accept(move_to_list(1, INBOX));
}

#[test]
fn a_subtask_is_in_the_list_of_its_parent() {
    let mut feed = Feed::new();
    feed.accept(list_create(5));
    feed.accept(task_create(1));
    feed.accept(task_create_in(2, list(5)));
    feed.refuse(
        Command::TaskCreate(TaskCreate {
            list: Some(list(5)),
            parent: Some(task(1)),
            ..create(3)
        }),
        Code::ParentElsewhere,
        "parent",
    );
    feed.refuse(move_under(2, 1), Code::ParentElsewhere, "parent");
    feed.accept(Command::TaskMove(TaskMove {
        list: Some(INBOX),
        parent: Some(task(1)),
        ..moving(2)
    }));
    assert_eq!((feed.task(2).list, feed.task(2).parent), (INBOX, Some(task(1))));
}

#[test]
fn a_task_is_no_part_of_itself() {
    let mut feed = Feed::new();
    feed.accept(list_create(5));
    feed.accept(task_create(1));
    feed.accept(task_create_under(2, 1));
    feed.accept(task_create_under(3, 2));
    for parent in [1, 2, 3] {
        feed.refuse(move_under(1, parent), Code::ParentCycle, "parent");
    }
    let with_list = TaskMove {
        list: Some(list(5)),
        parent: Some(task(3)),
        ..moving(1)
    };
    feed.refuse(Command::TaskMove(with_list), Code::ParentCycle, "parent");
}

#[test]
fn subtasks_have_eight_levels() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    for level in 2..=9 {
        feed.accept(task_create_under(level, level - 1));
    }
    feed.refuse(task_create_under(10, 9), Code::ParentTooDeep, "parent");
    // A task brings its own levels along, also those in the bin.
    feed.accept(task_create(20));
    feed.accept(task_create_under(21, 20));
    feed.accept(task_delete(21));
    feed.refuse(move_under(20, 8), Code::ParentTooDeep, "parent");
    feed.accept(move_under(20, 7));
}

#[test]
fn no_task_goes_under_a_parent_that_is_in_the_bin_or_below_one() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    feed.accept(task_create_under(2, 1));
    feed.accept(task_create(3));
    feed.accept(task_delete(1));
    for parent in [1, 2] {
        feed.refuse(task_create_under(4, parent), Code::RowDeleted, "parent");
        feed.refuse(move_under(3, parent), Code::RowDeleted, "parent");
    }
}

#[test]
fn a_deleted_task_hides_its_subtasks_and_a_restored_one_is_shown() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    feed.accept(task_create_under(2, 1));
    feed.accept(task_create_under(3, 2));
    assert_eq!(feed.accept(task_delete(1)).changes.len(), 1);
    assert!(!feed.state.is_shown(feed.task(2)));
    assert!(!feed.state.is_shown(feed.task(3)));
    feed.accept(task_restore(1));
    assert!(feed.state.is_shown(feed.task(3)));
    // Where the parent stays in the bin, the task leaves it.
    feed.accept(task_delete(2));
    feed.accept(task_delete(1));
    let entry = feed.accept(task_restore(2));
    let set = TaskFields {
        parent: Some(None),
        deleted_at: Some(None),
        ..TaskFields::default()
    };
    assert_eq!(
        entry.wire().changes,
        [message::Change::TaskSet(message::TaskSet {
            task: task(2),
            list: INBOX,
            set
        })]
    );
    assert!(feed.state.is_shown(feed.task(2)));
    assert!(feed.state.is_shown(feed.task(3)));
}

#[test]
fn a_task_takes_all_its_subtasks_to_another_list() {
    let mut feed = Feed::new();
    feed.accept(list_create(5));
    feed.accept(task_create_in(9, list(5)));
    feed.accept(task_create(1));
    feed.accept(task_create_under(2, 1));
    feed.accept(task_create_under(3, 2));
    feed.accept(task_delete(3));
    feed.accept(task_create(4));
    let entry = feed.accept(move_to_list(1, list(5)));
    let put: Vec<_> = entry
        .wire()
        .changes
        .into_iter()
        .map(|change| match change {
            message::Change::TaskPut(put) => (put.from, put.task),
            other => panic!("{other:?} is no put"),
        })
        .collect();
    let mut moved: Vec<u128> = put.iter().map(|(_, row)| row.id.0.as_u128()).collect();
    moved.sort_unstable();
    assert_eq!(moved, [1, 2, 3]);
    for (from, row) in &put {
        assert_eq!((*from, row.list, row.version), (Some(INBOX), list(5), entry.seq));
        assert_eq!(row, &feed.state.task(row.id).expect("it was put").to_wire());
    }
    assert_eq!(feed.task(2).parent, Some(task(1)));
    assert_eq!(feed.task(2).rank, "a1", "subtasks keep their ranks");
    assert!(feed.task(3).is_deleted());
    assert_eq!(feed.order(INBOX), [4]);
    assert_eq!(feed.task(1).rank, "a1", "after task 9");
}

#[test]
fn a_move_within_a_list_changes_rank_and_parent_only() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    feed.accept(task_create(2));
    let entry = feed.accept(Command::TaskMove(TaskMove {
        list: Some(INBOX),
        parent: Some(task(2)),
        ..moving(1)
    }));
    let set = TaskFields {
        parent: Some(Some(task(2))),
        rank: Some("a2".to_owned()),
        ..TaskFields::default()
    };
    assert_eq!(
        entry.wire().changes,
        [message::Change::TaskSet(message::TaskSet {
            task: task(1),
            list: INBOX,
            set
        })]
    );
}

#[test]
fn a_base_version_that_is_not_the_rows_gets_the_present_row() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    feed.accept(retitle(1, "newer"));
    let with_base = |base| Operation {
        base: Some(base),
        ..operation(77, retitle(1, "mine"))
    };
    for stale in [0, 2, 4] {
        let refusal = feed.judge(&with_base(stale)).expect_err("the version is 3");
        assert_eq!(refusal, Refusal::Conflict(Box::new(Row::Task(feed.task(1).to_wire()))));
        assert_eq!(
            refusal.outcome(),
            message::Outcome::Conflict(message::Conflict {
                row: Row::Task(feed.task(1).to_wire())
            })
        );
    }
    assert_eq!(feed.judge(&with_base(3)).map(|entry| entry.seq), Ok(4));
    // The present row also tells that it is in the bin.
    feed.accept(task_delete(1));
    let refusal = feed.judge(&with_base(3)).expect_err("the version is 4");
    assert_eq!(refusal, Refusal::Conflict(Box::new(Row::Task(feed.task(1).to_wire()))));
}

#[test]
fn a_base_version_is_for_one_row_that_exists() {
    let feed = Feed::new();
    for command in [
        task_create(1),
        list_create(5),
        label_create(7),
        undo(1),
        batch([task_create(1)]),
    ] {
        let operation = Operation {
            base: Some(1),
            ..operation(77, command)
        };
        match feed.judge(&operation) {
            Err(Refusal::Code { code, field, .. }) => {
                assert_eq!((code, field.as_deref()), (Code::ValueInvalid, Some("base")));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_refusal_names_the_code_the_field_and_the_way_out() {
    let mut feed = Feed::new();
    let outcome = feed.try_to(retitle_new("")).expect_err("it has no title").outcome();
    let message::Outcome::Refused(body) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(body.code, Code::ValueInvalid);
    assert_eq!(body.field.as_deref(), Some("title"));
    assert_eq!(
        body.message,
        format!("it must not be empty. {}", Code::ValueInvalid.sentence())
    );
}
