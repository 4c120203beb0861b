//! How many rows a feed may hold. Each state at its limit comes from one made-up entry: judging 50,000 would take long.

use super::super::{Change, Label, List, Stamp, TaskPut};
use super::*;

const STAMP: Stamp = Stamp {
    at: BIRTH_TIME,
    by: USER,
};

fn feed_with(changes: Vec<Change>) -> Feed {
    let mut feed = Feed::new();
    let entry = Entry {
        seq: 2,
        time: BIRTH_TIME,
        author: USER,
        operation: OperationId(Uuid::from_u128(1)),
        operation_hash: 0,
        changes,
        refused: None,
        trace: None,
    };
    feed.take(entry);
    feed
}

fn tasks(ids: std::ops::Range<u128>, deleted_at: Option<UnixMs>) -> impl Iterator<Item = Change> {
    ids.map(move |n| {
        Change::TaskPut(Box::new(TaskPut {
            task: Task {
                id: task(n),
                list: INBOX,
                title: "x".to_owned(),
                notes: String::new(),
                status: Status::Todo,
                priority: Priority::None,
                due: None,
                deadline: None,
                duration_minutes: None,
                labels: Vec::new(),
                parent: None,
                rank: format!("a0{n:06}V"),
                completed: None,
                created: STAMP,
                updated: None,
                deleted_at,
                version: 2,
            },
            moved: None,
        }))
    })
}

#[test]
fn a_feed_holds_fifty_thousand_tasks_that_are_not_in_the_bin() {
    let mut feed = feed_with(
        tasks(1000..50_999, None)
            .chain(tasks(100_000..100_010, Some(1)))
            .collect(),
    );
    feed.accept(task_create(1));
    assert_eq!(feed.state.counts().tasks, 50_000);
    feed.refuse(task_create(2), Code::LimitReached, "tasks");
    feed.refuse(task_restore(100_000), Code::LimitReached, "tasks");
    feed.refuse(batch([task_create(2), task_create(3)]), Code::LimitReached, "tasks");
    // One out, one in.
    feed.accept(batch([task_create(2), task_delete(1)]));
    let deleted = feed.state.seq();
    feed.refuse(undo(deleted - 1), Code::UndoConflict, "seq");
    feed.accept(task_delete(2));
    feed.accept(task_restore(1));
    feed.refuse(undo(deleted + 1), Code::LimitReached, "tasks");
}

#[test]
fn a_feed_holds_ninety_five_thousand_rows_with_the_bin() {
    let mut feed = feed_with(tasks(1000..95_999, Some(1)).collect());
    assert_eq!(feed.state.counts().rows, 95_000);
    feed.refuse(task_create(1), Code::LimitReached, "rows");
    feed.refuse(list_create(5), Code::LimitReached, "rows");
    feed.refuse(label_create(5), Code::LimitReached, "rows");
    feed.accept(task_restore(1000));
}

#[test]
fn a_feed_holds_five_hundred_lists() {
    let lists = (1000..1498).map(|n| {
        Change::ListPut(Box::new(List {
            id: list(n),
            name: "x".to_owned(),
            color: None,
            rank: format!("a0{n}V"),
            archived: false,
            created_at: 1,
            updated_at: 1,
            deleted_at: None,
            version: 2,
        }))
    });
    let mut feed = feed_with(lists.collect());
    feed.accept(list_create(5));
    feed.refuse(list_create(6), Code::LimitReached, "lists");
    feed.accept(list_delete(5));
    feed.accept(list_create(6));
    feed.refuse(list_restore(5), Code::LimitReached, "lists");
}

#[test]
fn a_feed_holds_five_hundred_labels() {
    let labels = (1000..1499).map(|n| {
        Change::LabelPut(Box::new(Label {
            id: label(n),
            name: "x".to_owned(),
            color: None,
            deleted_at: None,
            version: 2,
        }))
    });
    let mut feed = feed_with(labels.collect());
    feed.accept(label_create(5));
    feed.refuse(label_create(6), Code::LimitReached, "labels");
    feed.accept(label_delete(5));
    feed.accept(label_create(6));
    let label = label(5);
    feed.refuse(Command::LabelRestore(LabelRef { label }), Code::LimitReached, "labels");
}

#[test]
fn what_a_refused_operation_would_have_made_does_not_count() {
    let mut feed = Feed::new();
    for n in 1..=498 {
        feed.accept(list_create(n));
    }
    let mut draft = Draft::new(&feed.state);
    let mut judge = |n, command| {
        draft
            .judge(USER, feed.time(), &operation(n, command), None)
            .map(|entry| entry.seq)
    };
    let failed = judge(1, batch([list_create(1_000), task_complete(9)]));
    assert_eq!(failed, Err(Refusal::new(Code::RowNotFound).field("commands[1].task")));
    assert_eq!(judge(2, list_create(1_000)), Ok(500));
    let why = "a feed holds at most 500 lists";
    let full = Refusal::new(Code::LimitReached).field("lists").because(why);
    assert_eq!(judge(3, list_create(1_001)), Err(full));
}

/// Were any step linear in the feed or the draft, this would be 25 million steps a time, and nobody would wait for it.
#[test]
fn five_thousand_tasks_are_judged_in_one_draft_and_changed_again() {
    let feed = Feed::new();
    let mut draft = Draft::new(&feed.state);
    let mut state = feed.state.clone();
    for n in 1..=5_000_u64 {
        let entry = draft.judge(USER, feed.time(), &operation(n, task_create(n.into())), None);
        state.apply(&entry.expect("it is new"));
    }
    for n in 1..=5_000_u64 {
        let command = move_beside(n.into(), Place::First);
        let entry = draft.judge(USER, feed.time(), &operation(n + 5_000, command), None);
        state.apply(&entry.expect("it is there"));
    }
    assert_eq!(state.counts().tasks, 5_000);
    assert_eq!(state.seq(), 10_001);
    let longest = state.all_tasks().map(|task| task.rank.len()).max();
    assert_eq!(longest, Some(4));
}
