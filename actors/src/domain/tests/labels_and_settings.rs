//! Labels and settings.

use taskflow_protocol::message::{self, LabelPatch, Row};
use taskflow_protocol::model::{self, LabelFields, SettingsFields};
use taskflow_protocol::values::WeekStart;

use super::*;

fn label_patch(n: u128, set: LabelFields) -> Command {
    Command::LabelPatch(LabelPatch { label: label(n), set })
}

fn label_restore(n: u128) -> Command {
    Command::LabelRestore(LabelRef { label: label(n) })
}

fn with_labels(n: u128, labels: &[u128]) -> Command {
    let labels = Some(labels.iter().map(|n| label(*n)).collect());
    task_patch(
        n,
        TaskFields {
            labels,
            ..TaskFields::default()
        },
    )
}

#[test]
fn a_label_is_made_changed_deleted_and_restored() {
    let mut feed = Feed::new();
    let made = feed.accept(label_create(7));
    let row = model::Label {
        id: label(7),
        name: "label 7".to_owned(),
        color: None,
        deleted_at: None,
        version: 2,
    };
    assert_eq!(made.wire().changes, [message::Change::LabelPut(row)]);
    feed.refuse(label_create(7), Code::IdTaken, "label");
    let set = LabelFields {
        name: Some("home".to_owned()),
        color: Some(Some("#abcdef".to_owned())),
        ..LabelFields::default()
    };
    let changed = feed.accept(label_patch(7, set.clone()));
    assert_eq!(
        changed.wire().changes,
        [message::Change::LabelSet(message::LabelSet {
            label: label(7),
            set: set.clone()
        })]
    );
    feed.accept(label_delete(7));
    assert_eq!(feed.accept(label_delete(7)).changes, []);
    feed.refuse(label_patch(7, set), Code::RowDeleted, "label");
    feed.accept(label_restore(7));
    assert_eq!(feed.state.label(label(7)).map(|row| row.version), Some(6));
}

#[test]
fn what_a_label_command_says_must_be_valid() {
    let mut feed = Feed::new();
    let none = LabelFields::default();
    for command in [label_patch(7, none.clone()), label_delete(7), label_restore(7)] {
        feed.refuse(command, Code::RowNotFound, "label");
    }
    feed.accept(label_create(7));
    let name = |name: &str| LabelFields {
        name: Some(name.to_owned()),
        ..LabelFields::default()
    };
    feed.refuse(label_patch(7, name("")), Code::ValueInvalid, "name");
    feed.refuse(label_patch(7, name(&"n".repeat(251))), Code::ValueTooLong, "name");
    feed.refuse(
        label_patch(
            7,
            LabelFields {
                color: Some(Some("blue".to_owned())),
                ..none.clone()
            },
        ),
        Code::ValueInvalid,
        "color",
    );
    feed.refuse(
        label_patch(
            7,
            LabelFields {
                deleted_at: Some(None),
                ..none
            },
        ),
        Code::ValueInvalid,
        "deleted_at",
    );
    let operation = Operation {
        base: Some(1),
        ..operation(77, label_delete(7))
    };
    let row = feed.state.label(label(7)).expect("it was made").to_wire();
    assert_eq!(
        feed.judge(&operation),
        Err(Refusal::Conflict(Box::new(Row::Label(row))))
    );
}

#[test]
fn tasks_keep_a_deleted_label_and_no_task_is_given_it() {
    let mut feed = Feed::new();
    feed.accept(label_create(7));
    feed.accept(task_create(1));
    feed.accept(with_labels(1, &[7, 7]));
    let entry = feed.accept(label_delete(7));
    assert_eq!(entry.changes.len(), 1);
    assert_eq!(feed.task(1).labels, [label(7)]);
    feed.refuse(with_labels(1, &[7]), Code::RowDeleted, "labels");
    feed.refuse(
        Command::TaskCreate(TaskCreate {
            labels: vec![label(7)],
            ..create(2)
        }),
        Code::RowDeleted,
        "labels",
    );
    feed.accept(retitle(1, "still changes"));
}

#[test]
fn a_task_has_fifty_labels_at_most() {
    let mut feed = Feed::new();
    let labels: Vec<u128> = (100..151).collect();
    for n in &labels {
        feed.accept(label_create(*n));
    }
    feed.accept(task_create(1));
    feed.refuse(with_labels(1, &labels), Code::LimitReached, "labels");
    feed.accept(with_labels(1, &labels[1..]));
}

#[test]
fn settings_change_field_by_field() {
    let mut feed = Feed::new();
    let set = SettingsFields {
        time_zone: Some("america/new_york".to_owned()),
        week_start: Some(WeekStart::Sunday),
        locale: Some("de-at".to_owned()),
    };
    let entry = feed.accept(Command::SettingsPatch(set));
    let changed = SettingsFields {
        time_zone: Some("America/New_York".to_owned()),
        week_start: Some(WeekStart::Sunday),
        locale: None,
    };
    assert_eq!(entry.wire().changes, [message::Change::SettingsSet(changed)]);
    assert_eq!(feed.state.settings().version, 2);
    let none = SettingsFields::default();
    feed.refuse(
        Command::SettingsPatch(SettingsFields {
            time_zone: Some("Mars".to_owned()),
            ..none.clone()
        }),
        Code::ValueInvalid,
        "time_zone",
    );
    feed.refuse(
        Command::SettingsPatch(SettingsFields {
            locale: Some(String::new()),
            ..none.clone()
        }),
        Code::ValueInvalid,
        "locale",
    );
    let stale = Operation {
        base: Some(1),
        ..operation(77, Command::SettingsPatch(none))
    };
    let row = feed.state.settings().to_wire();
    assert_eq!(feed.judge(&stale), Err(Refusal::Conflict(Box::new(Row::Settings(row)))));
}
