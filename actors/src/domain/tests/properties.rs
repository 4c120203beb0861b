//! What holds for every sequence of operations. They begin in a feed with a few rows and name few ids, so that many
//! are accepted and they meet often; the last test here counts that.

use proptest::prelude::*;
use taskflow_protocol::message::{LabelPatch, ListMove};
use taskflow_protocol::model::{LabelFields, SettingsFields};
use taskflow_protocol::values::{Due, WeekStart, Zoned};

use super::super::codec::{decode_commit, encode_commit};
use super::undo::plain;
use super::*;
use crate::ports::StoredRow;

/// Three lists, three labels, and in the inbox and one list eight tasks of which some are subtasks.
pub(super) fn furnished() -> Feed {
    let mut feed = Feed::new();
    for n in 1..4 {
        feed.accept(list_create(n));
        feed.accept(label_create(n));
    }
    feed.accept(batch([
        task_create(1),
        task_create_under(2, 1),
        task_create_under(3, 2),
    ]));
    feed.accept(batch([task_create(4), task_create_under(5, 1)]));
    feed.accept(batch([task_create_in(6, list(1)), task_create_in(7, list(1))]));
    feed.accept(task_create_in(8, list(2)));
    feed
}

/// Mostly one that is there from the beginning.
fn a_task() -> impl Strategy<Value = TaskId> {
    prop_oneof![8 => 1..9_u128, 2 => 9..13_u128].prop_map(task)
}

fn a_list() -> impl Strategy<Value = ListId> {
    prop_oneof![2 => Just(INBOX), 6 => (1..5_u128).prop_map(list)]
}

fn a_label() -> impl Strategy<Value = LabelId> {
    (1..4_u128).prop_map(label)
}

/// Mostly valid, sometimes anything.
fn a_text() -> impl Strategy<Value = String> {
    prop_oneof![20 => "[a-d]{2,3}", 1 => any::<String>()]
}

fn a_place<Id: Copy + std::fmt::Debug>(id: impl Strategy<Value = Id> + Clone) -> impl Strategy<Value = Place<Id>> {
    prop_oneof![
        3 => Just(Place::First),
        3 => Just(Place::Last),
        1 => id.clone().prop_map(Place::Before),
        1 => id.prop_map(Place::After),
    ]
}

fn a_status() -> impl Strategy<Value = Status> {
    prop_oneof![
        Just(Status::Todo),
        Just(Status::Doing),
        Just(Status::Done),
        Just(Status::Cancelled)
    ]
}

fn a_due() -> impl Strategy<Value = Due> {
    let text = |good: &'static str| prop_oneof![20 => Just(good.to_owned()), 1 => any::<String>()];
    prop_oneof![
        text("2026-12-24").prop_map(Due::AllDay),
        text("2026-12-24T18:00").prop_map(Due::Floating),
        (text("2026-12-24T18:00:00"), text("Asia/Tokyo")).prop_map(|(local, zone)| Due::Zoned(Zoned { local, zone })),
    ]
}

fn some_fields() -> impl Strategy<Value = TaskFields> {
    (
        proptest::option::of(a_text()),
        proptest::option::of(a_text()),
        proptest::option::of(a_status()),
        proptest::option::of(proptest::option::of(a_due())),
        proptest::option::of(proptest::collection::vec(a_label(), 0..3)),
        proptest::option::of(proptest::option::of(0..50_u32)),
    )
        .prop_map(|(title, notes, status, due, labels, duration_minutes)| TaskFields {
            title,
            notes,
            status,
            due,
            labels,
            duration_minutes,
            ..TaskFields::default()
        })
}

fn a_create() -> BoxedStrategy<Command> {
    (
        ((5..40_u128).prop_map(task), proptest::option::of(a_list()), a_text()),
        (a_status(), proptest::option::of(a_due())),
        proptest::option::weighted(0.3, a_task()),
        a_place((1..9_u128).prop_map(task)),
    )
        .prop_map(|((task, list, title), (status, due), parent, place)| {
            Command::TaskCreate(TaskCreate {
                task,
                list,
                title,
                status,
                due,
                parent,
                place,
                ..create(0)
            })
        })
        .boxed()
}

fn a_move() -> BoxedStrategy<Command> {
    let parent = proptest::option::weighted(0.4, a_task());
    let list = proptest::option::weighted(0.5, a_list());
    (a_task(), list, parent, a_place((1..9_u128).prop_map(task)))
        .prop_map(|(task, list, parent, place)| {
            Command::TaskMove(TaskMove {
                task,
                list,
                parent,
                place,
            })
        })
        .boxed()
}

fn a_list_command() -> BoxedStrategy<Command> {
    prop_oneof![
        3 => (a_list(), a_text(), a_place((1..4_u128).prop_map(list))).prop_map(|(list, name, place)| {
            Command::ListCreate(ListCreate { list, name, color: None, place })
        }),
        1 => (a_list(), proptest::option::of(a_text()), proptest::option::of(any::<bool>())).prop_map(|(list, name, archived)| {
            list_patch(list, ListFields { name, archived, ..ListFields::default() })
        }),
        1 => (a_list(), a_place((1..4_u128).prop_map(list)))
            .prop_map(|(list, place)| Command::ListMove(ListMove { list, place })),
        1 => a_list().prop_map(|list| Command::ListDelete(ListRef { list })),
        2 => a_list().prop_map(|list| Command::ListRestore(ListRef { list })),
    ]
    .boxed()
}

fn a_label_command() -> BoxedStrategy<Command> {
    prop_oneof![
        2 => (a_label(), a_text()).prop_map(|(label, name)| {
            Command::LabelCreate(LabelCreate { label, name, color: Some("#ABCDEF".to_owned()) })
        }),
        1 => (a_label(), a_text()).prop_map(|(label, name)| {
            Command::LabelPatch(LabelPatch { label, set: LabelFields { name: Some(name), ..LabelFields::default() } })
        }),
        1 => a_label().prop_map(|label| Command::LabelDelete(LabelRef { label })),
        1 => a_label().prop_map(|label| Command::LabelRestore(LabelRef { label })),
    ]
    .boxed()
}

fn a_plain_command() -> BoxedStrategy<Command> {
    prop_oneof![
        5 => a_create(),
        4 => (a_task(), some_fields()).prop_map(|(task, set)| Command::TaskPatch(TaskPatch { task, set })),
        7 => a_move(),
        1 => a_task().prop_map(|task| Command::TaskComplete(TaskRef { task })),
        1 => a_task().prop_map(|task| Command::TaskReopen(TaskRef { task })),
        2 => a_task().prop_map(|task| Command::TaskDelete(TaskRef { task })),
        2 => a_task().prop_map(|task| Command::TaskRestore(TaskRef { task })),
        3 => a_list_command(),
        2 => a_label_command(),
        1 => (a_text(), any::<bool>(), any::<bool>()).prop_map(|(locale, sunday, moved)| {
            Command::SettingsPatch(SettingsFields {
                locale: Some(locale),
                week_start: sunday.then_some(WeekStart::Sunday),
                time_zone: moved.then(|| "Asia/Tokyo".to_owned()),
            })
        }),
    ]
    .boxed()
}

fn a_command() -> BoxedStrategy<Command> {
    prop_oneof![
        12 => a_plain_command(),
        2 => proptest::collection::vec(a_plain_command(), 1..5).prop_map(batch),
        3 => (8..30_u64).prop_map(undo),
    ]
    .boxed()
}

pub(super) fn commands(at_most: usize) -> impl Strategy<Value = Vec<Command>> {
    proptest::collection::vec(a_command(), 1..at_most)
}

/// What every state must be, whatever led to it.
fn check_invariants(state: &State) {
    let mut tasks = 0;
    for row in state.all_tasks() {
        assert_eq!(row.status == Status::Done, row.completed.is_some(), "{row:?}");
        assert!(state.list(row.list).is_some(), "{row:?}");
        assert!(row.version <= state.seq());
        assert!(!row.title.trim().is_empty());
        if let Some(parent) = row.parent {
            let parent = state.task(parent).expect("a parent exists");
            assert_eq!(parent.list, row.list, "a parent is in the same list");
            assert!(state.subtasks(parent.id).any(|subtask| subtask.id == row.id));
        }
        let (mut above, mut depth) = (row.parent, 0);
        while let Some(parent) = above {
            depth += 1;
            assert!(depth <= 8, "{row:?} is too deep or in a circle");
            above = state.task(parent).and_then(|parent| parent.parent);
        }
        tasks += usize::from(!row.is_deleted());
    }
    let inbox = state.list(INBOX).expect("the inbox is always there");
    assert_eq!(
        (inbox.name.as_str(), inbox.archived, inbox.deleted_at),
        ("Inbox", false, None)
    );
    let counts = state.counts();
    assert_eq!(counts.tasks, tasks);
    assert_eq!(
        counts.lists,
        state.all_lists().filter(|list| !list.is_deleted()).count()
    );
    assert_eq!(
        counts.labels,
        state.all_labels().filter(|label| !label.is_deleted()).count()
    );
    let rows = state.all_tasks().len() + state.all_lists().len() + state.all_labels().len();
    assert_eq!(counts.rows, rows);
    let ordered: usize = state.all_lists().map(|list| state.tasks_in(list.id).count()).sum();
    assert_eq!(ordered, state.all_tasks().len());
    for list in state.all_lists() {
        let ranks: Vec<_> = state.tasks_in(list.id).map(|task| (&task.rank, task.id)).collect();
        assert!(ranks.is_sorted(), "{ranks:?}");
    }
}

fn stored_rows(state: &State, log: &[Entry]) -> Vec<StoredRow> {
    let keys: std::collections::BTreeSet<_> = log.iter().flat_map(|entry| state.touched(entry)).collect();
    keys.into_iter().filter_map(|key| state.stored_row(key)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn one_draft_and_many_drafts_come_to_the_same_and_replaying_the_log_too(
        before in commands(30),
        commands in commands(40),
    ) {
        let mut feed = furnished();
        for command in before {
            let _ = feed.try_to(command);
        }
        let state = feed.state.clone();
        let mut draft = Draft::new(&state);
        let mut drafted = feed.log.clone();
        for (n, command) in commands.into_iter().enumerate() {
            let operation = operation(n as u64, command);
            let time = feed.time();
            let undo_of = match &operation.command {
                Command::Undo(undo) => drafted.iter().find(|entry| entry.seq == undo.seq).cloned(),
                _ => None,
            };
            let together = draft.judge(USER, time, &operation, undo_of.as_ref());
            let alone = feed.judge(&operation);
            prop_assert_eq!(&together, &alone);
            if let Ok(entry) = alone {
                drafted.push(entry.clone());
                feed.take(entry);
                check_invariants(&feed.state);
            }
        }
        let mut replayed = State::new(USER);
        for entry in decode_commit(&encode_commit(&feed.log)).expect("it was just encoded") {
            replayed.apply(&entry);
        }
        prop_assert_eq!(&replayed, &feed.state);
        for entry in &feed.log {
            let bytes = encode_commit(std::slice::from_ref(entry)).len();
            prop_assert!(entry.stored_bytes_max() >= bytes, "{} is below {}", entry.stored_bytes_max(), bytes);
        }
    }

    #[test]
    fn rows_stored_at_any_point_and_the_entries_after_any_earlier_point_give_the_same_state(
        commands in commands(40),
        stored_at in 0.0..1.0f64,
        replayed_from in 0.0..1.0f64,
    ) {
        let mut feed = furnished();
        let born = feed.log.len() - 1;
        let mut states = vec![feed.state.clone()];
        for command in commands {
            if feed.try_to(command).is_ok() {
                states.push(feed.state.clone());
            }
        }
        let stored_at = (stored_at * states.len() as f64) as usize;
        let replayed_from = (replayed_from * (stored_at + 1) as f64) as usize;
        let mut loaded = State::new(USER);
        for row in stored_rows(&states[stored_at], &feed.log[..=born + stored_at]) {
            loaded.load_row(&row).expect("it was just stored");
        }
        loaded.loaded_upto(states[replayed_from].seq());
        for entry in &feed.log[born + replayed_from + 1..] {
            loaded.apply(entry);
        }
        prop_assert_eq!(&loaded, &feed.state);
    }

    #[test]
    fn undoing_the_last_entry_restores_the_rows(commands in commands(40), last in a_plain_command()) {
        let mut feed = furnished();
        for command in commands {
            let _ = feed.try_to(command);
        }
        let before = feed.state.clone();
        let Ok(done) = feed.try_to(last) else { return Ok(()) };
        let made: Vec<_> = done.changes.iter().filter(|change| match change {
            super::super::Change::TaskPut(put) => put.moved.is_none(),
            super::super::Change::ListPut(_) | super::super::Change::LabelPut(_) => true,
            _ => false,
        }).collect();
        match feed.try_to(undo(done.seq)) {
            Ok(_) if made.is_empty() => prop_assert_eq!(plain(&feed.state), plain(&before)),
            // What was made is in the bin.
            Ok(_) => prop_assert_eq!(feed.state.counts().tasks, before.counts().tasks),
            // The old values may be against the rules of today: back into an archived list, under a parent in the bin,
            // or a label in the bin.
            Err(Refusal::Code { code, .. }) => {
                prop_assert!(matches!(code, Code::ListArchived | Code::RowDeleted), "{}", code);
            }
            Err(refusal) => prop_assert!(false, "{:?}", refusal),
        }
    }

    #[test]
    fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), flip in any::<(u16, u8)>()) {
        let _ = decode_commit(&bytes);
        let feed = Feed::new();
        let mut body = encode_commit(&feed.log);
        let at = usize::from(flip.0) % body.len();
        body[at] ^= flip.1;
        let _ = decode_commit(&body);
    }
}

/// A property that only ever sees refusals proves nothing.
#[test]
fn a_third_of_the_random_operations_change_something_and_every_kind_of_refusal_is_met() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let mut met = std::collections::BTreeMap::new();
    for _ in 0..150 {
        let mut feed = furnished();
        let commands = proptest::collection::vec(a_command(), 60).new_tree(&mut runner);
        for command in commands.expect("it filters nothing").current() {
            let came = match feed.try_to(command) {
                Ok(entry) if entry.changes.is_empty() => "nothing changed".to_owned(),
                Ok(_) => "changed".to_owned(),
                Err(Refusal::Code { code, .. }) => code.to_string(),
                Err(Refusal::Conflict(_)) => "conflict".to_owned(),
            };
            *met.entry(came).or_insert(0) += 1;
        }
    }
    assert!(met["changed"] > 9_000 / 3, "{met:?}");
    for code in [
        Code::RowNotFound,
        Code::IdTaken,
        Code::RowDeleted,
        Code::ParentElsewhere,
        Code::ParentCycle,
        Code::ListArchived,
        Code::InboxFixed,
        Code::ValueInvalid,
        Code::UndoConflict,
        Code::UndoGone,
    ] {
        assert!(met.contains_key(code.name()), "no {code} among {met:?}");
    }
}
