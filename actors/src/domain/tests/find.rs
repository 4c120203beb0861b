//! Finding: what the index finds is what looking at every task would find, whatever happened before.

use std::collections::BTreeSet;

use proptest::prelude::*;
use taskflow_protocol::values::Due;

use super::super::find::{
    Count, Field, Filter, FindError, Index, Now, Page, Query, Relation, Sort, Term, counts, page, words,
};
use super::properties::{commands, furnished};
use super::*;

/// 24 December 2026, 12:00 in Berlin.
const NOW: UnixMs = 1_798_110_000_000;

fn query(filter: &str) -> Query {
    Query {
        list: None,
        status: None,
        filter: (!filter.is_empty()).then(|| Filter::parse(filter).unwrap_or_else(|error| panic!("{filter}: {error}"))),
        search: None,
        sort: Sort::parse("place").expect("an order"),
        after: None,
        limit: 1000,
    }
}

fn numbers(page: &Page) -> Vec<u128> {
    page.tasks.iter().map(|task| task.id.0.as_u128()).collect()
}

#[track_caller]
fn found(feed: &Feed, filter: &str) -> Vec<u128> {
    numbers(&page(&feed.state, &query(filter), NOW).unwrap_or_else(|error| panic!("{filter}: {error:?}")))
}

fn patched(feed: &mut Feed, n: u128, set: TaskFields) {
    feed.accept(Command::TaskPatch(TaskPatch { task: task(n), set }));
}

/// Six tasks in the inbox with a bit of everything.
fn household() -> Feed {
    let mut feed = Feed::new();
    feed.accept(label_create(1));
    feed.accept(Command::LabelPatch(taskflow_protocol::message::LabelPatch {
        label: label(1),
        set: taskflow_protocol::model::LabelFields {
            name: Some("Zu Hause".to_owned()),
            ..Default::default()
        },
    }));
    feed.accept(list_create(1));
    for n in 1..=6 {
        feed.accept(task_create(n));
    }
    let all_day = |day: &str| Some(Some(Due::AllDay(day.to_owned())));
    patched(
        &mut feed,
        1,
        TaskFields {
            title: Some("Buy Crème fraîche".to_owned()),
            due: all_day("2026-12-23"),
            priority: Some(Priority::High),
            ..TaskFields::default()
        },
    );
    patched(
        &mut feed,
        2,
        TaskFields {
            title: Some("Wrap presents".to_owned()),
            notes: Some("cream-coloured paper".to_owned()),
            due: Some(Some(Due::Floating("2026-12-24T11:00".to_owned()))),
            labels: Some(vec![label(1)]),
            ..TaskFields::default()
        },
    );
    patched(
        &mut feed,
        3,
        TaskFields {
            title: Some("Light the tree".to_owned()),
            due: all_day("2026-12-24"),
            priority: Some(Priority::Urgent),
            status: Some(Status::Doing),
            ..TaskFields::default()
        },
    );
    patched(
        &mut feed,
        4,
        TaskFields {
            title: Some("buy milk".to_owned()),
            due: all_day("2026-12-22"),
            status: Some(Status::Done),
            ..TaskFields::default()
        },
    );
    patched(
        &mut feed,
        5,
        TaskFields {
            title: Some("Answer letters".to_owned()),
            due: all_day("2026-12-25"),
            deadline: Some(Some("2026-12-31".to_owned())),
            priority: Some(Priority::Low),
            ..TaskFields::default()
        },
    );
    patched(
        &mut feed,
        6,
        TaskFields {
            title: Some("Sleep".to_owned()),
            ..TaskFields::default()
        },
    );
    feed
}

#[test]
fn filters_find_what_they_say() {
    let mut feed = household();
    feed.accept(Command::TaskMove(TaskMove {
        task: task(6),
        list: Some(list(1)),
        parent: None,
        place: Place::Last,
    }));
    let name = feed.state.list(list(1)).expect("made").name.clone();
    for (filter, expected) in [
        ("", vec![1, 2, 3, 4, 5, 6]),
        ("status:open", vec![1, 2, 3, 5, 6]),
        ("!status:open", vec![4]),
        ("status:doing | status:done", vec![3, 4]),
        ("priority >= high", vec![1, 3]),
        ("priority < high", vec![2, 4, 5, 6]),
        ("priority != none & priority <= high", vec![1, 5]),
        ("due:today", vec![2, 3]),
        ("due < today", vec![1, 4]),
        ("due <= today", vec![1, 2, 3, 4]),
        ("due > today", vec![5]),
        ("due >= today", vec![2, 3, 5]),
        ("due != today", vec![1, 4, 5, 6]),
        ("due < now", vec![1, 2, 4]),
        ("due:fri", vec![5]),
        ("due <= +1d", vec![1, 2, 3, 4, 5]),
        ("due:none", vec![6]),
        ("deadline > 2026-12-30", vec![5]),
        ("completed > 2020-01-01", vec![4]),
        ("created < 2020-01-01", vec![]),
        ("overdue", vec![1, 2]),
        ("label:\"zu hause\"", vec![2]),
        ("label:none & status:open", vec![1, 3, 5, 6]),
        ("label != \"zu hause\" & STATUS:Open", vec![1, 3, 5, 6]),
        ("label != none", vec![2]),
        ("list != inbox", vec![6]),
        ("status != open", vec![4]),
        ("due != none & due != Yesterday", vec![2, 3, 4, 5]),
        (&format!("label:{}", label(1)), vec![2]),
        ("list:inbox & !overdue", vec![3, 4, 5]),
        (&format!("list:\"{}\"", name.to_uppercase()), vec![6]),
        ("parent:none & title", vec![]),
        ("creme", vec![1]),
        ("cre", vec![1, 2]),
        ("\"cre\"", vec![]),
        ("\"Fraiche CRÈME\"", vec![1]),
        ("buy | wrap", vec![1, 2, 4]),
        ("due < tomorrow & priority >= high & !label:\"Zu Hause\"", vec![1, 3]),
    ] {
        assert_eq!(found(&feed, filter), expected, "{filter}");
    }
}

#[test]
fn what_a_filter_names_must_be_there() {
    let feed = household();
    for (filter, column, part) in [
        (
            "overdue & label:\"zu hausse\"",
            11,
            "there is no label \"zu hausse\"; did you mean Zu Hause?",
        ),
        ("list:garden", 1, "there is no list \"garden\""),
        ("a | due < +99999y", 5, "beyond the calendar"),
    ] {
        match page(&feed.state, &query(filter), NOW) {
            Err(FindError::Filter(error)) => {
                assert_eq!(error.column, column, "{filter}");
                assert!(error.message.contains(part), "{filter}: {error}");
            }
            other => panic!("{filter}: {other:?}"),
        }
    }
    let missing = Query {
        list: Some(list(9)),
        ..query("")
    };
    assert_eq!(page(&feed.state, &missing, NOW).err(), Some(FindError::NoList));
}

#[test]
fn a_search_takes_any_text_and_wants_all_its_words() {
    let feed = household();
    let search = |text: &str| {
        let query = Query {
            search: Some(text.to_owned()),
            ..query("")
        };
        numbers(&page(&feed.state, &query, NOW).expect("any text is fine"))
    };
    assert_eq!(search("BUY cre"), [1]);
    assert_eq!(search("present, (paper)!"), [2]);
    assert_eq!(search("🦄 buy ~~~"), search("buy"));
    for signs in ["& | ! \" :", "🦄", "~~~", "\0", "\u{301}"] {
        assert_eq!(search(signs), Vec::<u128>::new(), "{signs}");
    }
    // A search that is still empty.
    assert_eq!(search(""), [1, 2, 3, 4, 5, 6]);
    assert_eq!(search(" "), [1, 2, 3, 4, 5, 6]);
    assert_eq!(search("nowhere"), Vec::<u128>::new());
}

#[test]
fn tasks_come_in_the_order_asked_for_and_what_has_no_value_last() {
    let feed = household();
    let sorted = |sort: &str| {
        let query = Query {
            sort: Sort::parse(sort).expect(sort),
            ..query("")
        };
        numbers(&page(&feed.state, &query, NOW).expect("found"))
    };
    assert_eq!(sorted("due"), [4, 1, 2, 3, 5, 6]);
    assert_eq!(sorted("-due"), [5, 3, 2, 1, 4, 6]);
    assert_eq!(sorted("title"), [5, 1, 4, 3, 6, 2]);
    assert_eq!(sorted("-priority,due"), [3, 1, 5, 4, 2, 6]);
    assert_eq!(sorted("-priority,-title"), [3, 1, 5, 2, 6, 4]);
    assert_eq!(sorted("status,-created"), [6, 5, 2, 1, 3, 4]);
    assert_eq!(sorted("-updated"), [6, 5, 4, 3, 2, 1]);
    assert_eq!(
        Sort::parse("prio"),
        Err("tasks are not sorted by \"prio\"; did you mean priority?".to_owned())
    );
    assert_eq!(Sort::parse(""), Err("tasks are not sorted by \"\"".to_owned()));
    assert!(Sort::parse("due,due,due,due").is_err());
}

#[test]
fn a_mark_stays_short_however_long_a_title_is() {
    let mut feed = household();
    for (n, end) in [(1, "a"), (2, "b")] {
        // One letter that is eighteen when it is taken apart.
        let title = format!("{}{end}", "\u{fdfa}".repeat(600));
        patched(
            &mut feed,
            n,
            TaskFields {
                title: Some(title),
                ..TaskFields::default()
            },
        );
    }
    let query = |after| Query {
        sort: Sort::parse("-title").expect("an order"),
        limit: 1,
        after,
        ..query("")
    };
    let first = page(&feed.state, &query(None), NOW).expect("a page");
    let mark = first.next.clone().expect("there is more");
    assert!(rmp_serde::to_vec(&mark).expect("it is written").len() < 300);
    // Titles that are the same so far are told apart by their ids.
    let second = page(&feed.state, &query(Some(mark)), NOW).expect("a page");
    assert_eq!((numbers(&first), numbers(&second)), (vec![1], vec![2]));
}

#[test]
fn a_change_of_zone_changes_what_today_is() {
    let mut feed = household();
    assert_eq!(found(&feed, "due:now"), Vec::<u128>::new());
    patched(
        &mut feed,
        6,
        TaskFields {
            due: Some(Some(Due::Floating("2026-12-24T12:00".to_owned()))),
            ..TaskFields::default()
        },
    );
    assert_eq!(found(&feed, "due:now"), [6]);
    feed.accept(Command::SettingsPatch(taskflow_protocol::model::SettingsFields {
        time_zone: Some("Asia/Tokyo".to_owned()),
        ..Default::default()
    }));
    assert_eq!(found(&feed, "due:now"), Vec::<u128>::new());
    assert_eq!(found(&feed, "overdue"), [1, 2, 6]);
}

#[test]
fn counts_are_by_kind_and_of_what_is_shown() {
    let mut feed = household();
    let found = counts(&feed.state, NOW);
    use Status::{Cancelled, Doing, Done, Todo};
    assert_eq!(found.statuses, [(Todo, 4), (Doing, 1), (Done, 1), (Cancelled, 0)]);
    let count = |tasks, open| Count { tasks, open };
    let expected = [count(3, 2), count(1, 1), count(0, 0), count(1, 1), count(1, 1)];
    assert_eq!(
        found.priorities.iter().map(|(_, count)| *count).collect::<Vec<_>>(),
        expected
    );
    assert_eq!(found.lists, [(INBOX, count(6, 5)), (list(1), count(0, 0))]);
    assert_eq!(found.labels, [(label(1), count(1, 1))]);
    assert_eq!((found.all, found.overdue, found.due_today), (count(6, 5), 2, 2));
    feed.accept(Command::TaskDelete(TaskRef { task: task(2) }));
    let found = counts(&feed.state, NOW);
    assert_eq!((found.all, found.overdue, found.due_today), (count(5, 4), 1, 1));
    assert_eq!(found.labels, [(label(1), count(0, 0))]);
}

/// Whether a filter holds for a task, by looking at the task.
fn holds(state: &State, filter: &Filter, task: &Task) -> bool {
    let now = Now::new(NOW, &state.settings().time_zone);
    let time = |field: Field| match field {
        Field::Due => task.due.as_ref().map(|due| now.due(due).unwrap_or(UnixMs::MAX)),
        Field::Deadline => task.deadline.as_ref().map(|day| now.end_of(day).unwrap_or(UnixMs::MAX)),
        Field::Created => Some(task.created.at),
        Field::Updated => Some(task.updated().at),
        Field::Completed => task.completed.map(|stamp| stamp.at),
    };
    match filter {
        Filter::All(parts) => parts.iter().all(|part| holds(state, part, task)),
        Filter::Either(parts) => parts.iter().any(|part| holds(state, part, task)),
        Filter::Not(inner) => !holds(state, inner, task),
        Filter::Term(_, term) => match term {
            Term::Status(statuses) => statuses.contains(&task.status),
            Term::Priority(Relation::Is, priority) => task.priority == *priority,
            Term::Priority(Relation::From, priority) => task.priority >= *priority,
            Term::Time(field, relation, when) => {
                let span = when.span(&now).expect("in the calendar");
                match (time(*field), relation) {
                    (None, _) => false,
                    (Some(time), Relation::Is) => span.contains(&time),
                    (Some(time), Relation::Below) => time < span.start,
                    (Some(time), Relation::UpTo) => time < span.end,
                    (Some(time), Relation::Above) => time >= span.end,
                    (Some(time), Relation::From) => time >= span.start,
                }
            }
            Term::Without(field) => time(*field).is_none(),
            Term::Label(id) => task.labels.iter().any(|label| label.to_string() == *id),
            Term::NoLabel => task.labels.is_empty(),
            Term::Parent(parent) => task.parent == *parent,
            Term::Overdue => {
                let is_open = matches!(task.status, Status::Todo | Status::Doing);
                is_open && time(Field::Due).is_some_and(|due| due < NOW)
            }
            Term::Prefix(text) => {
                // What words a text has is tested where they are taken out of it.
                let both = format!("{} {}", task.title, task.notes);
                words(&both).iter().any(|word| word.starts_with(text.as_str()))
            }
            other => panic!("{other:?} is not among the filters here"),
        },
    }
}

const FILTERS: &[&str] = &[
    "status:open",
    "!status:done & (due:none | due >= 2026-12-24)",
    "due < 2026-12-24T18:00",
    "due <= 2026-12-24",
    "due > 2026-12-24T10:00",
    "due != 2026-12-24",
    "due != none & status != done",
    "Status != Open | priority != none",
    "parent != none & completed != 2025-01-01",
    "label != 00000000-0000-0000-0000-000000000001 & label != none",
    "completed > 2025-01-01",
    "updated >= 2025-10-09",
    "priority >= low",
    "label:00000000-0000-0000-0000-000000000001 | label:none",
    "parent:00000000-0000-0000-0000-000000000001",
    "parent:none & !overdue",
    "ab",
    "!(a | b) c",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_index_that_was_kept_is_one_that_is_made_anew(commands in commands(40)) {
        let mut feed = furnished();
        feed.state.index();
        for command in commands {
            let asked_before = feed.state.index().sets();
            let refused = feed.try_to(command).is_err();
            let fresh = Index::new(&feed.state);
            prop_assert_eq!(feed.state.index().sets(), fresh.sets());
            prop_assert!(!refused || asked_before == fresh.sets());
        }
    }

    #[test]
    fn what_is_found_is_what_looking_at_each_would_find(commands in commands(40)) {
        let mut feed = furnished();
        feed.state.index();
        for command in commands {
            drop(feed.try_to(command));
        }
        let state = &feed.state;
        for text in FILTERS {
            let names_a_label = text.contains("label:0") || text.contains("label != 0");
            if names_a_label && state.label(label(1)).is_none_or(|label| label.is_deleted()) {
                continue;
            }
            let query = query(text);
            let filter = query.filter.as_ref().expect("there is one");
            let expected: BTreeSet<_> = state
                .all_tasks()
                .filter(|task| state.is_shown(task) && holds(state, filter, task))
                .map(|task| task.id)
                .collect();
            let page = page(state, &query, NOW).expect("it is valid");
            let found: BTreeSet<_> = page.tasks.iter().map(|task| task.id).collect();
            prop_assert_eq!(found, expected, "{}", text);
        }
    }

    #[test]
    fn counts_are_what_a_recount_gives(commands in commands(40)) {
        let mut feed = furnished();
        feed.state.index();
        for command in commands {
            drop(feed.try_to(command));
        }
        let state = &feed.state;
        let found = counts(state, NOW);
        let recount = |wanted: &dyn Fn(&Task) -> bool| {
            let all = state.all_tasks().filter(|task| state.is_shown(task) && wanted(task));
            let (mut tasks, mut open) = (0, 0);
            for task in all {
                tasks += 1;
                open += u64::from(matches!(task.status, Status::Todo | Status::Doing));
            }
            Count { tasks, open }
        };
        for (status, count) in &found.statuses {
            prop_assert_eq!(*count, recount(&|task| task.status == *status).tasks);
        }
        for (priority, count) in &found.priorities {
            prop_assert_eq!(*count, recount(&|task| task.priority == *priority));
        }
        let lists: Vec<_> = state.lists().filter(|list| !list.is_deleted()).map(|list| list.id).collect();
        prop_assert_eq!(found.lists.iter().map(|(list, _)| *list).collect::<Vec<_>>(), lists);
        for (list, count) in &found.lists {
            prop_assert_eq!(*count, recount(&|task| task.list == *list));
        }
        for (label, count) in &found.labels {
            prop_assert_eq!(*count, recount(&|task| task.labels.contains(label)));
        }
        prop_assert_eq!(found.all, recount(&|_| true));
        let holding = |text: &str| {
            let filter = Filter::parse(text).expect("it is valid");
            recount(&|task| holds(state, &filter, task)).tasks
        };
        prop_assert_eq!(found.overdue, holding("overdue"));
        prop_assert_eq!(found.due_today, holding("due:today & status:open"));
    }

    #[test]
    fn pages_have_everything_once_and_in_order(
        commands in commands(30),
        sort in prop::sample::select(vec!["place", "due", "-due,title", "-priority,-created", "title", "status,-updated"]),
        limit in 1..5_usize,
    ) {
        let mut feed = furnished();
        for command in commands {
            drop(feed.try_to(command));
        }
        let sort = Sort::parse(sort).expect("an order");
        let whole = page(&feed.state, &Query { sort: sort.clone(), ..query("") }, NOW).expect("all of it");
        prop_assert!(whole.next.is_none());
        let (mut pieces, mut after) = (Vec::new(), None);
        loop {
            let query = Query { sort: sort.clone(), limit, after, ..query("") };
            let piece = page(&feed.state, &query, NOW).expect("a page");
            pieces.extend(numbers(&piece));
            prop_assert!(piece.tasks.len() == limit || piece.next.is_none());
            match piece.next {
                Some(next) => {
                    prop_assert!(sort.fits(&next));
                    after = Some(next);
                }
                None => break,
            }
        }
        prop_assert_eq!(pieces, numbers(&whole));
        // Where the user put them: as the lists say.
        if sort == Sort::parse("place").expect("an order") {
            let lists = feed.state.lists().flat_map(|list| feed.state.tasks_in(list.id));
            let placed: Vec<_> = lists.filter(|task| feed.state.is_shown(task)).map(|task| task.id.0.as_u128()).collect();
            prop_assert_eq!(numbers(&whole), placed);
        }
    }
}
