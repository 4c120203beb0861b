//! Undo.

use taskflow_protocol::message::{self, LabelPatch};
use taskflow_protocol::model::{LabelFields, SettingsFields};

use super::*;

/// Does it, undoes it, and compares the rows except for versions and update times.
#[track_caller]
fn does_and_undoes(feed: &mut Feed, command: Command) -> Entry {
    let before = feed.state.clone();
    let done = feed.accept(command);
    let undone = feed.accept(undo(done.seq));
    assert_eq!(plain(&feed.state), plain(&before));
    undone
}

/// Every row without version and update stamps.
pub(super) fn plain(state: &State) -> impl PartialEq + std::fmt::Debug + use<> {
    let tasks: Vec<_> = state
        .all_tasks()
        .map(|row| Task {
            version: 0,
            updated: None,
            ..Task::clone(row)
        })
        .collect();
    let lists: Vec<_> = state
        .all_lists()
        .map(|row| super::super::List {
            version: 0,
            updated_at: 0,
            ..super::super::List::clone(row)
        })
        .collect();
    let labels: Vec<_> = state
        .all_labels()
        .map(|row| super::super::Label {
            version: 0,
            ..super::super::Label::clone(row)
        })
        .collect();
    let settings = super::super::Settings {
        version: 0,
        ..state.settings().clone()
    };
    (tasks, lists, labels, settings)
}

fn feed() -> Feed {
    let mut feed = Feed::new();
    feed.accept(list_create(5));
    feed.accept(label_create(7));
    feed.accept(task_create(1));
    feed.accept(task_create_under(2, 1));
    feed.accept(task_create_in(3, list(5)));
    feed
}

#[test]
fn changes_are_undone_to_the_old_values() {
    let mut feed = feed();
    does_and_undoes(&mut feed, retitle(1, "changed"));
    does_and_undoes(&mut feed, task_complete(1));
    does_and_undoes(&mut feed, task_delete(1));
    does_and_undoes(&mut feed, move_beside(1, Place::Last));
    does_and_undoes(&mut feed, move_to_list(1, list(5)));
    does_and_undoes(&mut feed, list_archive(5));
    does_and_undoes(&mut feed, list_delete(5));
    does_and_undoes(&mut feed, label_delete(7));
    let set = LabelFields {
        name: Some("x".to_owned()),
        ..LabelFields::default()
    };
    does_and_undoes(&mut feed, Command::LabelPatch(LabelPatch { label: label(7), set }));
    let set = SettingsFields {
        time_zone: Some("Asia/Tokyo".to_owned()),
        ..SettingsFields::default()
    };
    does_and_undoes(&mut feed, Command::SettingsPatch(set));
    does_and_undoes(
        &mut feed,
        batch([list_delete(5), move_to_list(1, INBOX), retitle(1, "x"), task_delete(2)]),
    );
    does_and_undoes(&mut feed, batch([move_to_list(3, INBOX), list_delete(5)]));
    does_and_undoes(&mut feed, batch([retitle(3, "x"), list_delete(5)]));
}

#[test]
fn what_was_made_is_put_in_the_bin_and_undoing_that_takes_it_out() {
    let mut feed = Feed::new();
    let made = feed.accept(batch([list_create(5), label_create(7), task_create_in(1, list(5))]));
    let undone = feed.accept(undo(made.seq));
    assert_eq!(undone.changes.len(), 3);
    assert_eq!(feed.task(1).deleted_at, Some(undone.time));
    assert!(
        feed.state
            .list(list(5))
            .is_some_and(|row| row.deleted_at == Some(undone.time))
    );
    assert!(
        feed.state
            .label(label(7))
            .is_some_and(|row| row.deleted_at == Some(undone.time))
    );
    feed.accept(undo(undone.seq));
    assert!(feed.state.is_shown(feed.task(1)));
}

#[test]
fn an_undo_sends_only_what_it_changes_back() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    feed.accept(retitle(1, "changed"));
    feed.author = OTHER;
    let entry = feed.accept(undo(3));
    let set = TaskFields {
        title: Some("Task 1".to_owned()),
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
    assert_eq!(feed.task(1).updated().by, OTHER);
}

#[test]
fn what_changed_since_is_not_undone() {
    let mut feed = feed();
    let retitled = feed.accept(retitle(1, "mine"));
    feed.accept(task_complete(1));
    // Another field: both stay possible.
    feed.accept(undo(retitled.seq));
    let retitled = feed.accept(retitle(1, "mine"));
    feed.accept(retitle(1, "theirs"));
    feed.refuse(undo(retitled.seq), Code::UndoConflict, "seq");
    // A task that was made, and changed since, is not put in the bin.
    let made = feed.accept(task_create(10));
    feed.accept(retitle(10, "worked on"));
    feed.refuse(undo(made.seq), Code::UndoConflict, "seq");
    let archived = feed.accept(list_archive(5));
    feed.accept(undo(archived.seq));
    feed.refuse(undo(archived.seq), Code::UndoConflict, "seq");
    // A list that was made, and changed since, is not put in the bin either.
    feed.accept(list_archive(5));
    feed.refuse(undo(2), Code::UndoConflict, "seq");
    let deleted = feed.accept(label_delete(7));
    feed.accept(undo(deleted.seq));
    feed.refuse(undo(deleted.seq), Code::UndoConflict, "seq");
    let zone = |zone: &str| {
        let time_zone = Some(zone.to_owned());
        Command::SettingsPatch(SettingsFields {
            time_zone,
            ..SettingsFields::default()
        })
    };
    let first = feed.accept(zone("Asia/Tokyo"));
    feed.accept(zone("UTC"));
    feed.refuse(undo(first.seq), Code::UndoConflict, "seq");
}

#[test]
fn an_entry_that_is_not_kept_is_not_undone() {
    let mut feed = feed();
    feed.refuse(undo(0), Code::UndoGone, "seq");
    feed.refuse(undo(99), Code::UndoGone, "seq");
    let other = feed.log[2].clone();
    let judged = Draft::new(&feed.state).judge(USER, feed.time(), &operation(99, undo(2)), Some(&other));
    assert_eq!(judged, Err(Refusal::new(Code::UndoGone).field("seq")));
}

#[test]
fn an_undo_obeys_the_rules_on_the_bin() {
    let mut feed = feed();
    let retitled = feed.accept(retitle(3, "x"));
    let moved = feed.accept(move_to_list(3, INBOX));
    feed.accept(task_delete(3));
    feed.refuse(undo(retitled.seq), Code::RowDeleted, "task");
    feed.refuse(undo(moved.seq), Code::RowDeleted, "task");
    feed.accept(task_restore(3));
    feed.accept(list_archive(5));
    feed.refuse(undo(moved.seq), Code::ListArchived, "list");
    let archived = feed.state.seq();
    feed.accept(list_delete(5));
    feed.refuse(undo(moved.seq), Code::RowDeleted, "list");
    feed.refuse(undo(archived), Code::RowDeleted, "list");
    // A change to a task whose list went to the bin.
    feed.accept(list_create(6));
    feed.accept(task_create_in(20, list(6)));
    let retitled = feed.accept(retitle(20, "x"));
    feed.accept(list_delete(6));
    feed.refuse(undo(retitled.seq), Code::RowDeleted, "list");
    let renamed = {
        let set = LabelFields {
            name: Some("x".to_owned()),
            ..LabelFields::default()
        };
        feed.accept(Command::LabelPatch(LabelPatch { label: label(7), set }))
    };
    feed.accept(label_delete(7));
    feed.refuse(undo(renamed.seq), Code::RowDeleted, "label");
}

#[test]
fn an_undo_gives_no_task_a_deleted_label() {
    let mut feed = feed();
    let labels = |labels: Vec<LabelId>| {
        task_patch(
            1,
            TaskFields {
                labels: Some(labels),
                ..TaskFields::default()
            },
        )
    };
    feed.accept(labels(vec![label(7)]));
    let cleared = feed.accept(labels(vec![]));
    feed.accept(label_delete(7));
    feed.refuse(undo(cleared.seq), Code::RowDeleted, "labels");
}

#[test]
fn an_undo_obeys_the_rules_on_parents() {
    let mut feed = feed();
    // 2 leaves 1; then 1 goes under 2: back would be a circle.
    let left = feed.accept(move_beside(2, Place::Last));
    feed.accept(move_under(1, 2));
    feed.refuse(undo(left.seq), Code::ParentCycle, "parent");
    feed.accept(move_beside(1, Place::Last));
    // Now 1 goes to another list.
    feed.accept(move_to_list(1, list(5)));
    feed.refuse(undo(left.seq), Code::ParentElsewhere, "parent");
    // The parent went to the bin.
    let mut feed = self::feed();
    let left = feed.accept(move_beside(2, Place::Last));
    feed.accept(task_delete(1));
    feed.refuse(undo(left.seq), Code::RowDeleted, "parent");
    // Too deep, since the task has got subtasks.
    let mut feed = self::feed();
    feed.accept(task_create_under(10, 2));
    for n in 11..=16 {
        feed.accept(task_create_under(n, n - 1));
    }
    let left = feed.accept(move_beside(16, Place::Last));
    feed.accept(task_create_under(17, 16));
    feed.accept(task_create_under(18, 17));
    feed.refuse(undo(left.seq), Code::ParentTooDeep, "parent");
}

#[test]
fn a_move_is_not_undone_where_it_would_tear_a_tree_apart() {
    let mut feed = feed();
    let moved = feed.accept(move_to_list(1, list(5)));
    feed.accept(Command::TaskCreate(TaskCreate {
        list: Some(list(5)),
        parent: Some(task(1)),
        ..create(10)
    }));
    feed.refuse(undo(moved.seq), Code::UndoConflict, "seq");
}

#[test]
fn a_subtask_in_the_bin_goes_back_with_its_parent() {
    let mut feed = feed();
    let moved = feed.accept(move_to_list(1, list(5)));
    feed.accept(task_delete(2));
    feed.accept(undo(moved.seq));
    assert_eq!((feed.task(1).list, feed.task(2).list), (INBOX, INBOX));
    assert!(feed.task(2).is_deleted());
}

#[test]
fn a_restore_that_left_its_parent_is_undone_into_the_bin_below_it() {
    let mut feed = feed();
    feed.accept(task_delete(2));
    feed.accept(task_delete(1));
    does_and_undoes(&mut feed, task_restore(2));
    assert_eq!(feed.task(2).parent, Some(task(1)));
}

#[test]
fn an_entry_without_changes_is_undone_without_changes() {
    let mut feed = feed();
    let nothing = feed.accept(task_reopen(1));
    assert_eq!(feed.accept(undo(nothing.seq)).changes, []);
}
