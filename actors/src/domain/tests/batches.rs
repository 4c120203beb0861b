//! Several commands as one operation, and several operations in one draft.

use super::super::Change;
use super::*;

#[test]
fn a_batch_is_one_entry_with_one_net_change_a_row_and_lists_first() {
    let mut feed = Feed::new();
    let entry = feed.accept(batch([
        task_create(1),
        list_create(5),
        move_to_list(1, list(5)),
        retitle(1, "Renamed"),
        task_complete(1),
    ]));
    assert_eq!(entry.seq, 2);
    match entry.changes.as_slice() {
        [Change::ListPut(made), Change::TaskPut(put)] => {
            assert_eq!(made.id, list(5));
            assert_eq!(
                (put.task.title.as_str(), put.task.list, put.task.status),
                ("Renamed", list(5), Status::Done)
            );
            assert_eq!(put.moved, None);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(feed.task(1).version, 2);
}

#[test]
fn what_a_batch_does_and_takes_back_is_no_change() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    let before = feed.task(1).clone();
    let entry = feed.accept(batch([task_complete(1), task_reopen(1)]));
    assert_eq!(entry.changes, []);
    assert_eq!(feed.task(1), &before);
}

#[test]
fn a_batch_is_all_or_nothing_and_says_which_command_failed() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    feed.refuse(
        batch([
            list_create(5),
            label_create(7),
            task_create(2),
            retitle(1, "changed"),
            task_complete(9),
        ]),
        Code::RowNotFound,
        "commands[4].task",
    );
    assert_eq!(feed.state.task(task(2)), None);
    assert_eq!(feed.task(1).title, "Task 1");
}

#[test]
fn a_batch_has_one_to_a_hundred_plain_commands() {
    let mut feed = Feed::new();
    feed.refuse(batch([]), Code::ValueInvalid, "commands");
    feed.refuse(batch([task_create(1), batch([])]), Code::ValueInvalid, "commands[1]");
    feed.refuse(batch([undo(1)]), Code::ValueInvalid, "commands[0]");
    let many = |n| batch((1..=n).map(task_create).collect::<Vec<_>>());
    feed.refuse(many(101), Code::BatchTooLarge, "commands");
    assert_eq!(feed.accept(many(100)).changes.len(), 100);
}

#[test]
fn an_entry_that_would_not_fit_in_a_commit_is_refused_whole() {
    let mut feed = Feed::new();
    for n in 1..=25 {
        feed.accept(Command::TaskCreate(TaskCreate {
            notes: "n".repeat(50_000),
            ..create(n)
        }));
    }
    let clear = |n: u128| {
        task_patch(
            n,
            TaskFields {
                notes: Some(String::new()),
                ..TaskFields::default()
            },
        )
    };
    let before = feed.state.clone();
    // The old notes are part of the entry: undo needs them.
    let refusal = feed.try_to(batch((1..=25).map(clear).collect::<Vec<_>>()));
    assert_eq!(refusal, Err(Refusal::new(Code::BatchTooLarge)));
    assert_eq!(feed.state, before);
    feed.accept(batch((1..=20).map(clear).collect::<Vec<_>>()));
}

#[test]
fn a_tree_that_would_not_fit_in_a_commit_stays_in_its_list() {
    let mut feed = Feed::new();
    feed.accept(list_create(5));
    feed.accept(task_create(1));
    for n in 2..=25 {
        feed.accept(Command::TaskCreate(TaskCreate {
            notes: "n".repeat(50_000),
            parent: Some(task(1)),
            ..create(n)
        }));
    }
    feed.refuse(move_to_list(1, list(5)), Code::BatchTooLarge, "task");
}

#[test]
fn a_draft_judges_each_operation_on_those_before_it_and_leaves_the_state_alone() {
    let feed = Feed::new();
    let before = feed.state.clone();
    let mut draft = Draft::new(&feed.state);
    let mut judge = |n, command| draft.judge(USER, BIRTH_TIME + 5, &operation(n, command), None);
    let first = judge(1, task_create(1)).expect("it is new");
    let refused = judge(2, task_create(1)).expect_err("it is not new any more");
    assert_eq!(refused, Refusal::new(Code::IdTaken).field("task"));
    let failed = judge(3, batch([task_delete(1), task_complete(9)])).expect_err("there is no task 9");
    assert_eq!(failed, Refusal::new(Code::RowNotFound).field("commands[1].task"));
    let second = judge(4, task_complete(1)).expect("it is neither in the bin nor done");
    assert_eq!((first.seq, second.seq), (2, 3));
    assert_eq!(second.changes.len(), 1);
    assert_eq!(draft.seq(), 3);
    assert_eq!(feed.state, before);
}

#[test]
fn operations_that_decode_to_the_same_hash_alike_and_others_do_not() {
    use super::super::operation_hash;
    use taskflow_protocol::Encoding;

    let sent = operation(1, task_create(1));
    for encoding in [Encoding::Json, Encoding::MsgPack] {
        let received: Operation = encoding.decode(&encoding.encode(&sent)).expect("it was just encoded");
        assert_eq!(operation_hash(&received), operation_hash(&sent));
    }
    let hash = operation_hash(&sent);
    assert_eq!(
        operation_hash(&operation(2, task_create(1))),
        hash,
        "the id is no part of the body"
    );
    for other in [
        operation(1, task_create(2)),
        operation(1, task_create_in(1, INBOX)),
        Operation {
            base: Some(1),
            ..sent.clone()
        },
        Operation { base: Some(0), ..sent },
    ] {
        assert_ne!(operation_hash(&other), hash, "{other:?}");
    }
}
