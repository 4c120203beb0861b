//! The order of rows.

use taskflow_protocol::message::ListMove;

use super::*;

fn create_at(n: u128, place: Place<TaskId>) -> Command {
    Command::TaskCreate(TaskCreate { place, ..create(n) })
}

fn three() -> Feed {
    let mut feed = Feed::new();
    for n in 1..=3 {
        feed.accept(task_create(n));
    }
    feed
}

#[test]
fn a_task_is_put_first_last_before_or_after() {
    let mut feed = three();
    feed.accept(create_at(4, Place::First));
    feed.accept(create_at(5, Place::Last));
    feed.accept(create_at(6, Place::Before(task(2))));
    feed.accept(create_at(7, Place::After(task(2))));
    assert_eq!(feed.order(INBOX), [4, 1, 6, 2, 7, 3, 5]);
    feed.accept(move_beside(5, Place::First));
    feed.accept(move_beside(4, Place::After(task(3))));
    feed.accept(move_beside(1, Place::Before(task(3))));
    assert_eq!(feed.order(INBOX), [5, 6, 2, 7, 1, 3, 4]);
}

#[test]
fn a_row_that_is_at_its_place_already_keeps_its_rank() {
    let mut feed = three();
    for (n, place) in [
        (1, Place::First),
        (1, Place::Before(task(2))),
        (2, Place::After(task(1))),
        (2, Place::Before(task(3))),
        (3, Place::Last),
    ] {
        assert_eq!(feed.accept(move_beside(n, place)).changes, []);
    }
}

#[test]
fn rows_in_the_bin_keep_their_place() {
    let mut feed = three();
    feed.accept(task_delete(2));
    feed.accept(move_beside(3, Place::After(task(1))));
    feed.accept(create_at(4, Place::Before(task(2))));
    feed.accept(task_restore(2));
    assert_eq!(feed.order(INBOX), [1, 3, 4, 2]);
}

#[test]
fn a_place_is_beside_another_row_of_the_same_list() {
    let mut feed = three();
    feed.accept(list_create(5));
    feed.accept(task_create_in(9, list(5)));
    feed.refuse(move_beside(1, Place::After(task(1))), Code::ValueInvalid, "place");
    feed.refuse(move_beside(1, Place::After(task(9))), Code::ValueInvalid, "place");
    feed.refuse(create_at(4, Place::After(task(4))), Code::RowNotFound, "place");
    feed.accept(Command::TaskMove(TaskMove {
        list: Some(list(5)),
        place: Place::Before(task(9)),
        ..moving(1)
    }));
    assert_eq!(feed.order(list(5)), [1, 9]);
}

#[test]
fn between_rows_of_equal_rank_a_place_is_beside_all_of_them() {
    let mut feed = Feed::new();
    feed.accept(list_create(5));
    feed.accept(task_create(1));
    feed.accept(task_create_under(2, 1));
    // The subtask keeps rank a1 in the other list, which then has it twice.
    feed.accept(task_create_in(10, list(5)));
    feed.accept(task_create_in(11, list(5)));
    feed.accept(move_to_list(1, list(5)));
    assert_eq!(feed.task(2).rank, feed.task(11).rank);
    feed.accept(Command::TaskCreate(TaskCreate {
        list: Some(list(5)),
        place: Place::After(task(2)),
        ..create(20)
    }));
    feed.accept(Command::TaskCreate(TaskCreate {
        list: Some(list(5)),
        place: Place::Before(task(11)),
        ..create(21)
    }));
    assert_eq!(feed.order(list(5)), [10, 21, 2, 11, 20, 1]);
}

#[test]
fn lists_are_ordered_too() {
    let mut feed = Feed::new();
    for n in 1..=3 {
        feed.accept(list_create(n));
    }
    feed.accept(Command::ListMove(ListMove {
        list: list(3),
        place: Place::Before(list(1)),
    }));
    feed.accept(Command::ListMove(ListMove {
        list: list(1),
        place: Place::Last,
    }));
    let order: Vec<ListId> = feed.state.lists().map(|list| list.id).collect();
    assert_eq!(order, [INBOX, list(3), list(2), list(1)]);
}

#[test]
fn one_draft_orders_rows_among_those_of_the_state() {
    let mut feed = three();
    let places = [
        (4, Place::Last),
        (5, Place::Last),
        (6, Place::After(task(4))),
        (7, Place::Before(task(2))),
        (8, Place::Before(task(7))),
        (9, Place::First),
    ];
    let state = feed.state.clone();
    let mut draft = Draft::new(&state);
    let mut entries = Vec::new();
    for (n, place) in places {
        let operation = operation(n as u64, create_at(n, place));
        entries.push(draft.judge(USER, feed.time(), &operation, None).expect("it is new"));
    }
    // A row of the state that moved in this draft is a neighbour at its new place only.
    let operation = operation(99, move_beside(3, Place::First));
    entries.push(draft.judge(USER, feed.time(), &operation, None).expect("it is there"));
    for entry in entries {
        feed.take(entry);
    }
    assert_eq!(feed.order(INBOX), [3, 9, 1, 8, 7, 2, 4, 6, 5]);
}

#[test]
fn where_there_is_no_room_left_a_place_is_refused() {
    let mut feed = Feed::new();
    feed.accept(task_create(1));
    feed.accept(task_create(2));
    // Someone plays: each new row goes between the last two, from alternating sides.
    let (mut low, mut high) = (1, 2);
    for n in 3..2_000 {
        let place = if n % 2 == 0 {
            Place::After(task(low))
        } else {
            Place::Before(task(high))
        };
        match feed.try_to(create_at(n, place)) {
            Ok(_) if n % 2 == 0 => high = n,
            Ok(_) => low = n,
            Err(refusal) => {
                let why = "there is no more room between these neighbours; move one of them first";
                assert_eq!(refusal, Refusal::new(Code::LimitReached).field("place").because(why));
                return;
            }
        }
    }
    panic!("a rank has a greatest length");
}
