//! Lists and the inbox.

use taskflow_protocol::message::{self, ListMove, Row};
use taskflow_protocol::model;

use super::*;

#[test]
fn a_feed_is_born_with_an_inbox_and_settings() {
    let feed = Feed::new();
    assert_eq!((feed.state.seq(), feed.state.user()), (1, USER));
    let inbox = feed.state.list(INBOX).expect("birth makes it").to_wire();
    assert_eq!(
        inbox,
        model::List {
            id: INBOX,
            name: "Inbox".to_owned(),
            color: None,
            rank: "a0".to_owned(),
            archived: false,
            created_at: BIRTH_TIME,
            updated_at: BIRTH_TIME,
            deleted_at: None,
            version: 1,
        }
    );
    let settings = feed.state.settings().to_wire();
    assert_eq!(
        (settings.time_zone.as_str(), settings.locale.as_str(), settings.version),
        ("Europe/Berlin", "de-AT", 1)
    );
    let entry = &feed.log[0];
    assert_eq!(
        (entry.seq, entry.author, entry.operation),
        (1, USER, OperationId(USER.0))
    );
    assert_eq!(feed.state.counts().rows, 1);
}

#[test]
fn a_feed_is_not_born_with_a_wrong_zone_or_locale() {
    let field = |born: Result<Entry, Refusal>| match born {
        Err(Refusal::Code { code, field, .. }) => (code, field),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        field(birth(USER, 0, "Nowhere", "en")),
        (Code::ValueInvalid, Some("time_zone".to_owned()))
    );
    assert_eq!(
        field(birth(USER, 0, "UTC", "?")),
        (Code::ValueInvalid, Some("locale".to_owned()))
    );
}

#[test]
fn a_list_is_made_changed_moved_deleted_and_restored() {
    let mut feed = Feed::new();
    let made = feed.accept(Command::ListCreate(ListCreate {
        list: list(5),
        name: "Garden".to_owned(),
        color: Some("#00FF7f".to_owned()),
        place: Place::First,
    }));
    let mut row = model::List {
        id: list(5),
        name: "Garden".to_owned(),
        color: Some("#00ff7f".to_owned()),
        rank: "Zz".to_owned(),
        archived: false,
        created_at: made.time,
        updated_at: made.time,
        deleted_at: None,
        version: 2,
    };
    assert_eq!(made.wire().changes, [message::Change::ListPut(row.clone())]);

    let set = ListFields {
        name: Some("Balcony".to_owned()),
        color: Some(None),
        archived: Some(true),
        ..ListFields::default()
    };
    let changed = feed.accept(list_patch(list(5), set.clone()));
    assert_eq!(
        changed.wire().changes,
        [message::Change::ListSet(message::ListSet { list: list(5), set })]
    );

    let moved = feed.accept(Command::ListMove(ListMove {
        list: list(5),
        place: Place::After(INBOX),
    }));
    let set = ListFields {
        rank: Some("a1".to_owned()),
        ..ListFields::default()
    };
    assert_eq!(
        moved.wire().changes,
        [message::Change::ListSet(message::ListSet { list: list(5), set })]
    );

    let deleted = feed.accept(list_delete(5));
    let set = ListFields {
        deleted_at: Some(Some(deleted.time)),
        ..ListFields::default()
    };
    assert_eq!(
        deleted.wire().changes,
        [message::Change::ListSet(message::ListSet { list: list(5), set })]
    );
    assert_eq!(feed.accept(list_delete(5)).changes, []);

    let restored = feed.accept(list_restore(5));
    row = model::List {
        name: "Balcony".to_owned(),
        color: None,
        archived: true,
        rank: "a1".to_owned(),
        updated_at: restored.time,
        version: restored.seq,
        ..row
    };
    assert_eq!(feed.state.list(list(5)).expect("it was made").to_wire(), row);
}

#[test]
fn the_inbox_is_neither_renamed_moved_archived_nor_deleted() {
    let mut feed = Feed::new();
    let none = ListFields::default();
    feed.refuse(
        list_patch(
            INBOX,
            ListFields {
                name: Some("Inbox".to_owned()),
                ..none.clone()
            },
        ),
        Code::InboxFixed,
        "name",
    );
    feed.refuse(
        list_patch(
            INBOX,
            ListFields {
                archived: Some(true),
                ..none.clone()
            },
        ),
        Code::InboxFixed,
        "archived",
    );
    feed.refuse(
        Command::ListMove(ListMove {
            list: INBOX,
            place: Place::Last,
        }),
        Code::InboxFixed,
        "list",
    );
    feed.refuse(Command::ListDelete(ListRef { list: INBOX }), Code::InboxFixed, "list");
    feed.refuse(undo(1), Code::InboxFixed, "seq");
    feed.accept(list_patch(
        INBOX,
        ListFields {
            color: Some(Some("#123456".to_owned())),
            ..none
        },
    ));
}

#[test]
fn names_and_colours_of_lists_must_be_valid() {
    let mut feed = Feed::new();
    feed.accept(list_create(5));
    let named = |name: &str| {
        list_patch(
            list(5),
            ListFields {
                name: Some(name.to_owned()),
                ..ListFields::default()
            },
        )
    };
    feed.refuse(named(" "), Code::ValueInvalid, "name");
    feed.refuse(named("a\nb"), Code::ValueInvalid, "name");
    feed.accept(named(&"n".repeat(250)));
    feed.refuse(named(&"n".repeat(251)), Code::ValueTooLong, "name");
    for color in ["", "red", "#12345", "#1234567", "#12345g", "#１２３", "123456#"] {
        let set = ListFields {
            color: Some(Some(color.to_owned())),
            ..ListFields::default()
        };
        feed.refuse(list_patch(list(5), set), Code::ValueInvalid, "color");
    }
    let none = ListFields::default();
    feed.refuse(
        list_patch(
            list(5),
            ListFields {
                rank: Some("a9".to_owned()),
                ..none.clone()
            },
        ),
        Code::ValueInvalid,
        "rank",
    );
    feed.refuse(
        list_patch(
            list(5),
            ListFields {
                deleted_at: Some(None),
                ..none
            },
        ),
        Code::ValueInvalid,
        "deleted_at",
    );
}

#[test]
fn what_a_list_command_names_must_exist_and_not_be_in_the_bin() {
    let mut feed = Feed::new();
    let to = |n, place| Command::ListMove(ListMove { list: list(n), place });
    for command in [list_archive(5), to(5, Place::Last), list_delete(5), list_restore(5)] {
        feed.refuse(command, Code::RowNotFound, "list");
    }
    feed.accept(list_create(5));
    feed.refuse(list_create(5), Code::IdTaken, "list");
    feed.refuse(to(5, Place::Before(list(6))), Code::RowNotFound, "place");
    feed.refuse(to(5, Place::Before(list(5))), Code::ValueInvalid, "place");
    feed.accept(list_delete(5));
    feed.refuse(list_archive(5), Code::RowDeleted, "list");
    feed.refuse(to(5, Place::Last), Code::RowDeleted, "list");
    feed.refuse(list_create(5), Code::IdTaken, "list");
}

#[test]
fn a_stale_base_of_a_list_gets_the_present_list() {
    let mut feed = Feed::new();
    feed.accept(list_create(5));
    let operation = Operation {
        base: Some(1),
        ..operation(77, list_delete(5))
    };
    let row = feed.state.list(list(5)).expect("it was made").to_wire();
    assert_eq!(feed.judge(&operation), Err(Refusal::Conflict(Box::new(Row::List(row)))));
}
