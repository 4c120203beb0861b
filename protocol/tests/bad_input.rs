//! Every document that is not what the protocol says gets its code, the same in both encodings.

#![allow(clippy::panic, reason = "helpers of tests")]

#[path = "common/catalog.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod catalog;

use catalog::ENCODINGS;
use serde_json::{Value, json};
use taskflow_protocol::codec::Decoded;
use taskflow_protocol::limits::{ERROR_DETAIL_BYTES_MAX, MESSAGE_BYTES_MAX, NESTING_MAX, OPERATIONS_A_MESSAGE_MAX};
use taskflow_protocol::message::{Operations, Outcome, ServerMessage, TaskPatch};
use taskflow_protocol::model::{Task, TaskFields};
use taskflow_protocol::values::{Due, Status};
use taskflow_protocol::{Code, Encoding};

const TASK: &str = "0197a3c0-3333-7aaa-8000-000000000003";
const OPERATION: &str = "0197a3c0-5555-7aaa-8000-000000000006";

/// What `decode_client` says, in few words: `ok`, `<code> <field>`, or, for operations of which some are bad,
/// `partly <good>: <code> <field>, …`.
fn verdict(encoding: Encoding, bytes: &[u8]) -> String {
    let with_field = |code: Code, field: Option<&str>| match field {
        Some(field) => format!("{} {field}", code.name()),
        None => code.name().to_owned(),
    };
    match encoding.decode_client(bytes) {
        Ok(Decoded::Message(_)) => "ok".to_owned(),
        Ok(Decoded::Partly(good, refused)) => {
            let refused: Vec<_> = refused
                .iter()
                .map(|result| match &result.outcome {
                    Outcome::Refused(error) => with_field(error.code, error.field.as_deref()),
                    other => panic!("{other:?} is no refusal"),
                })
                .collect();
            format!("partly {}: {}", good.operations.len(), refused.join(", "))
        }
        Err(error) => with_field(error.code, error.field.as_deref()),
    }
}

/// The same document in both encodings gets the same verdict.
#[track_caller]
fn both(document: &Value, expected: &str) {
    for (encoding, name) in ENCODINGS {
        assert_eq!(
            verdict(encoding, &encoding.encode(document)),
            expected,
            "{name}: {document}"
        );
    }
}

fn hello(rest: &Value) -> Value {
    let mut hello = json!({"protocol": {"min": 1, "max": 1}});
    for (name, value) in rest.as_object().expect("a map") {
        hello[name] = value.clone();
    }
    json!({ "hello": hello })
}

/// One operation with this command.
fn command(command: &Value) -> Value {
    json!({"operations": {"operations": [{"id": OPERATION, "command": command}]}})
}

fn create(rest: &Value) -> Value {
    let mut create = json!({"task": TASK, "title": "x"});
    for (name, value) in rest.as_object().expect("a map") {
        create[name] = value.clone();
    }
    command(&json!({ "task_create": create }))
}

fn patch(set: &Value) -> Value {
    command(&json!({"task_patch": {"task": TASK, "set": set}}))
}

#[test]
fn what_is_no_map_with_one_key_is_no_message() {
    for document in [
        json!(null),
        json!(true),
        json!(7),
        json!("hello"),
        json!([]),
        json!([{"heartbeat": {}}]),
        json!({}),
        json!({"heartbeat": {}, "unfollow": {}}),
        json!({"helo": {}}),
        json!({"Heartbeat": {}}),
        json!({"": {}}),
        json!({"welcome": {}}),
        json!({"0": {}}),
    ] {
        both(&document, "unknown_message");
    }
}

#[test]
fn a_field_that_is_missing_or_of_the_wrong_type_is_named() {
    for (document, expected) in [
        (json!({"heartbeat": null}), "invalid_field heartbeat"),
        (json!({"heartbeat": []}), "invalid_field heartbeat"),
        (json!({"heartbeat": "x"}), "invalid_field heartbeat"),
        (json!({"hello": null}), "invalid_field hello"),
        (json!({"hello": [{"min": 1, "max": 1}]}), "invalid_field hello"),
        (json!({"hello": {}}), "invalid_field hello.protocol"),
        (json!({"hello": {"protocol": 1}}), "invalid_field hello.protocol"),
        (json!({"hello": {"protocol": [1, 1]}}), "invalid_field hello.protocol"),
        (
            json!({"hello": {"protocol": {"min": 1}}}),
            "invalid_field hello.protocol.max",
        ),
        (
            json!({"hello": {"protocol": {"min": "1", "max": 1}}}),
            "invalid_field hello.protocol.min",
        ),
        (
            json!({"hello": {"protocol": {"min": -1, "max": 1}}}),
            "invalid_field hello.protocol.min",
        ),
        (
            json!({"hello": {"protocol": {"min": 1, "max": 65536}}}),
            "invalid_field hello.protocol.max",
        ),
        (
            json!({"hello": {"protocol": {"min": 1, "max": 1.5}}}),
            "invalid_field hello.protocol.max",
        ),
        (
            json!({"hello": {"protocol": {"min": 1.0, "max": 1}}}),
            "invalid_field hello.protocol.min",
        ),
        (
            json!({"hello": {"protocol": {"min": 1, "max": true}}}),
            "invalid_field hello.protocol.max",
        ),
        (hello(&json!({"token": 7})), "invalid_field hello.token"),
        (hello(&json!({"client": ["x"]})), "invalid_field hello.client"),
        (hello(&json!({"follow": {}})), "invalid_field hello.follow"),
        (hello(&json!({"follow": null})), "invalid_field hello.follow"),
        (
            hello(&json!({"follow": [[null, null, null]]})),
            "invalid_field hello.follow[0]",
        ),
        (
            hello(&json!({"follow": [{}, {"cursor": 7}]})),
            "invalid_field hello.follow[1].cursor",
        ),
        (json!({"follow": {"feed": "me"}}), "invalid_field follow.feed"),
        (json!({"follow": {"lists": TASK}}), "invalid_field follow.lists"),
        (
            json!({"follow": {"lists": [TASK, ""]}}),
            "invalid_field follow.lists[1]",
        ),
        (json!({"unfollow": {"feed": 1}}), "invalid_field unfollow.feed"),
        (json!({"refresh": {}}), "invalid_field refresh.token"),
        (json!({"refresh": {"token": null}}), "invalid_field refresh.token"),
        (json!({"operations": []}), "invalid_field operations"),
        (json!({"operations": {}}), "invalid_field operations.operations"),
        (
            json!({"operations": {"operations": {}}}),
            "invalid_field operations.operations",
        ),
        (
            json!({"operations": {"operations": []}}),
            "invalid_field operations.operations",
        ),
        (
            json!({"operations": {"operations": [7]}}),
            "invalid_field operations.operations[0].id",
        ),
        (
            json!({"operations": {"operations": [{}]}}),
            "invalid_field operations.operations[0].id",
        ),
        (
            json!({"operations": {"operations": [], "feed": 7}}),
            "invalid_field operations.feed",
        ),
    ] {
        both(&document, expected);
    }
}

#[test]
fn unknown_fields_are_errors_at_every_depth() {
    for (document, expected) in [
        (json!({"heartbeat": {"x": 1}}), "invalid_field heartbeat.x"),
        (hello(&json!({"tokn": "x"})), "invalid_field hello.tokn"),
        (
            json!({"hello": {"protocol": {"min": 1, "max": 1, "x": 1}}}),
            "invalid_field hello.protocol.x",
        ),
        (json!({"follow": {"list": []}}), "invalid_field follow.list"),
        (
            json!({"operations": {"operations": [], "atomic": true}}),
            "invalid_field operations.atomic",
        ),
        (create(&json!({"tag": "x"})), "partly 0: invalid_field tag"),
        (patch(&json!({"titel": "x"})), "partly 0: invalid_field set.titel"),
        (
            create(&json!({"due": {"zoned": {"local": "x", "zone": "y", "utc": 1}}})),
            "partly 0: invalid_field due.utc",
        ),
        (
            command(&json!({"settings_patch": {"zone": "x"}})),
            "partly 0: invalid_field zone",
        ),
    ] {
        both(&document, expected);
    }
}

#[test]
fn a_bad_operation_is_refused_alone() {
    let good = json!({"id": OPERATION, "command": {"task_complete": {"task": TASK}}});
    let bad = json!({"id": TASK, "command": {"task_complete": {"task": 7}}});
    let document = json!({"operations": {"operations": [good, bad, good]}});
    both(&document, "partly 2: invalid_field task");
    for (encoding, _) in ENCODINGS {
        let Ok(Decoded::Partly(_, refused)) = encoding.decode_client(&encoding.encode(&document)) else {
            panic!("it is understood in part");
        };
        assert_eq!(refused[0].id.to_string(), TASK);
    }
    // Without an id there is nobody to answer.
    both(
        &json!({"operations": {"operations": [good, {"command": {"task_complete": {"task": TASK}}}]}}),
        "invalid_field operations.operations[1].id",
    );
    // A frame that is wrong takes all with it.
    both(
        &json!({"operations": {"operations": [good, bad], "feed": "x"}}),
        "invalid_field operations.feed",
    );
}

#[test]
fn the_body_of_a_request_is_read_like_the_message() {
    let good = json!({"id": OPERATION, "command": {"task_complete": {"task": TASK}}});
    for (encoding, name) in ENCODINGS {
        let read = |document: &Value| encoding.decode_operations(&encoding.encode(document));
        let (operations, refused) = read(&json!({"operations": [good]})).expect("good");
        assert_eq!((operations.operations.len(), refused.len()), (1, 0), "{name}");
        let (operations, refused) = read(&json!({"operations": [good, {"id": TASK}]})).expect("partly good");
        assert_eq!((operations.operations.len(), refused.len()), (1, 1), "{name}");
        for (document, code, field) in [
            (json!({"operations": []}), Code::InvalidField, Some("operations")),
            (json!({"operations": [7]}), Code::InvalidField, Some("operations[0].id")),
            (
                json!({"operations": [good], "feed": 7}),
                Code::InvalidField,
                Some("feed"),
            ),
            (json!([good]), Code::InvalidField, None),
            (
                json!({"operations": vec![&good; 101]}),
                Code::TooManyOperations,
                Some("operations"),
            ),
        ] {
            let error = read(&document).expect_err("bad");
            assert_eq!((error.code, error.field.as_deref()), (code, field), "{name} {document}");
        }
    }
}

#[test]
fn every_field_of_an_operation_has_one_type() {
    let operation = |name: &str, value: Value| {
        let mut operation = json!({"id": OPERATION, "command": {"undo": {"seq": 1}}});
        operation[name] = value;
        json!({"operations": {"operations": [operation]}})
    };
    for (document, expected) in [
        (operation("id", json!(7)), "invalid_field operations.operations[0].id"),
        (operation("base", json!("41")), "partly 0: invalid_field base"),
        (operation("base", json!(-1)), "partly 0: invalid_field base"),
        (operation("base", json!(1.5)), "partly 0: invalid_field base"),
        (operation("command", json!(null)), "partly 0: invalid_field command"),
        (operation("command", json!("undo")), "partly 0: invalid_field command"),
        (operation("command", json!({})), "partly 0: invalid_field command"),
        (
            operation("command", json!([{"undo": {"seq": 1}}])),
            "partly 0: invalid_field command",
        ),
        (
            operation("command", json!({"undo": {"seq": 1}, "batch": {"commands": []}})),
            "partly 0: invalid_field command",
        ),
        (
            operation("command", json!({"task_destroy": {}})),
            "partly 0: invalid_field command",
        ),
        (
            operation("command", json!({"undo": {"seq": "1"}})),
            "partly 0: invalid_field seq",
        ),
        (
            operation("command", json!({"undo": {"seq": -1}})),
            "partly 0: invalid_field seq",
        ),
        (
            operation("command", json!({"batch": {"commands": {}}})),
            "partly 0: invalid_field commands",
        ),
        (
            operation("command", json!({"batch": {"commands": [{"undo": {}}]}})),
            "partly 0: invalid_field commands[0].seq",
        ),
        (
            command(&json!({"task_create": {"task": TASK}})),
            "partly 0: invalid_field title",
        ),
        (
            json!({"operations": {"operations": [{"id": OPERATION}]}}),
            "partly 0: invalid_field command",
        ),
        (
            create(&json!({"due": {"zoned": {"local": "2026-06-21T12:00:00"}}})),
            "partly 0: invalid_field due.zone",
        ),
        (create(&json!({"title": null})), "partly 0: invalid_field title"),
        (create(&json!({"title": 7})), "partly 0: invalid_field title"),
        (create(&json!({"notes": ["x"]})), "partly 0: invalid_field notes"),
        (create(&json!({"task": "x"})), "partly 0: invalid_field task"),
        (create(&json!({"status": "open"})), "partly 0: invalid_field status"),
        (create(&json!({"status": 0})), "partly 0: invalid_field status"),
        (
            create(&json!({"status": {"done": null}})),
            "partly 0: invalid_field status",
        ),
        (create(&json!({"priority": "HIGH"})), "partly 0: invalid_field priority"),
        (create(&json!({"due": "2026-06-21"})), "partly 0: invalid_field due"),
        (
            create(&json!({"due": {"all_day": 20_260_621}})),
            "partly 0: invalid_field due",
        ),
        (
            create(&json!({"due": {"zoned": ["x", "y"]}})),
            "partly 0: invalid_field due",
        ),
        (create(&json!({"deadline": 7})), "partly 0: invalid_field deadline"),
        (
            create(&json!({"duration_minutes": "7"})),
            "partly 0: invalid_field duration_minutes",
        ),
        (
            create(&json!({"duration_minutes": 4_294_967_296_u64})),
            "partly 0: invalid_field duration_minutes",
        ),
        (create(&json!({"labels": TASK})), "partly 0: invalid_field labels"),
        (create(&json!({"labels": [7]})), "partly 0: invalid_field labels[0]"),
        (create(&json!({"place": "middle"})), "partly 0: invalid_field place"),
        (
            create(&json!({"place": {"before": 7}})),
            "partly 0: invalid_field place",
        ),
        (create(&json!({"place": "before"})), "partly 0: invalid_field place"),
        (patch(&json!(null)), "partly 0: invalid_field set"),
        (patch(&json!({"title": false})), "partly 0: invalid_field set.title"),
    ] {
        both(&document, expected);
    }
}

#[test]
fn an_id_is_36_characters_with_hyphens_in_either_case() {
    for id in [
        "",
        "x",
        "0197a3c033337aaa8000000000000003",
        "{0197a3c0-3333-7aaa-8000-000000000003}",
        "urn:uuid:0197a3c0-3333-7aaa-8000-000000000003",
        "0197a3c0-3333-7aaa-8000-00000000000g",
        "0197a3c0-3333-7aaa-8000-0000000000003",
        "0197a3c0-3333-7aaa-8000-00000000003",
        " 197a3c0-3333-7aaa-8000-000000000003",
        "0197a3c03333-7aaa-8000-0000-00000003",
        "0197a3c0-3333-7aaa-8000-0000000000é",
    ] {
        both(&create(&json!({"task": id})), "partly 0: invalid_field task");
    }
    let upper = Encoding::Json
        .decode::<Operations>(
            json!({"operations": [{"id": OPERATION.to_uppercase(), "command": {"undo": {"seq": 1}}}]})
                .to_string()
                .as_bytes(),
        )
        .expect("capitals are read");
    assert_eq!(upper.operations[0].id.to_string(), OPERATION);
}

#[test]
fn null_is_the_same_as_absent_except_in_set_where_it_clears() {
    let absent = hello(&json!({}));
    let null = hello(&json!({"token": null, "client": null}));
    for (encoding, _) in ENCODINGS {
        assert_eq!(
            encoding.decode_client(&encoding.encode(&absent)),
            encoding.decode_client(&encoding.encode(&null))
        );
        let set = |set: Value| {
            encoding
                .decode::<TaskPatch>(&encoding.encode(&json!({"task": TASK, "set": set})))
                .map(|patch| patch.set)
        };
        assert_eq!(set(json!({})), Ok(TaskFields::default()));
        let cleared = set(json!({"due": null, "deadline": null, "duration_minutes": null})).expect("good");
        assert_eq!(
            (cleared.due, cleared.deadline, cleared.duration_minutes),
            (Some(None), Some(None), Some(None))
        );
        let given = set(json!({"due": {"all_day": "2026-06-21"}})).expect("good");
        assert_eq!(given.due, Some(Some(Due::AllDay("2026-06-21".to_owned()))));
        for field in ["title", "notes", "status", "priority", "labels", "rank"] {
            let refused = set(json!({ field: null })).expect_err("it cannot be cleared");
            assert_eq!(refused.code, Code::InvalidField, "{field}");
        }
    }
}

#[test]
fn words_are_text_in_both_encodings() {
    assert_eq!(Encoding::Json.encode(&Status::Done), br#""done""#);
    assert_eq!(Encoding::MsgPack.encode(&Status::Done), b"\xa4done");
}

#[test]
fn nesting_ends_at_the_same_depth_in_both_encodings() {
    let nested = |levels: usize| {
        let mut document = json!(0);
        for _ in 0..levels {
            document = json!([document]);
        }
        document
    };
    for (encoding, name) in ENCODINGS {
        let deepest = encoding.encode(&nested(NESTING_MAX));
        assert_eq!(verdict(encoding, &deepest), "unknown_message", "{name}");
        let deeper = encoding.encode(&nested(NESTING_MAX + 1));
        assert_eq!(verdict(encoding, &deeper), "malformed", "{name}");
    }
    // Batches within batches are the only way to be deep and of the right types: the map of the message and of its
    // content, the array of operations, the operation, and then three levels a batch, before the map and content of undo.
    let batches = |levels: usize| {
        let mut document = json!({"undo": {"seq": 1}});
        for _ in 0..levels {
            document = json!({"batch": {"commands": [document]}});
        }
        command(&document)
    };
    both(&batches((NESTING_MAX - 6) / 3), "ok");
    both(&batches((NESTING_MAX - 6) / 3 + 1), "malformed");
}

#[test]
fn a_message_as_deep_as_it_is_long_needs_no_deep_stack() {
    // On a quarter of the stack that a thread has by default, and without optimisation.
    let test = || {
        for open in [
            "[",
            "{\"operations\":",
            "{\"batch\":{\"commands\":[",
            "{\"a\":[",
            "{\"hello\":{\"follow\":[",
        ] {
            let text = open.repeat(MESSAGE_BYTES_MAX / open.len());
            assert_eq!(verdict(Encoding::Json, text.as_bytes()), "malformed", "{open}");
        }
        for open in [
            &b"\x91"[..],
            b"\xdd\xff\xff\xff\xff",
            b"\x81\xa1a",
            b"\xdf\xff\xff\xff\xff\xa1a",
            b"\x81\xa5batch",
        ] {
            let bytes = open.repeat(MESSAGE_BYTES_MAX / open.len());
            assert_eq!(verdict(Encoding::MsgPack, &bytes), "malformed", "{open:x?}");
        }
    };
    std::thread::Builder::new()
        .stack_size(512 * 1024)
        .spawn(test)
        .expect("a thread")
        .join()
        .expect("no panic");
}

#[test]
fn a_message_may_be_as_large_as_the_limit_and_no_larger() {
    let of_size = |encoding: Encoding, size: usize| {
        let small = encoding.encode(&hello(&json!({"token": "x".repeat(70_000)})));
        let bytes = encoding.encode(&hello(&json!({"token": "x".repeat(70_000 + size - small.len())})));
        assert_eq!(bytes.len(), size);
        bytes
    };
    for (encoding, name) in ENCODINGS {
        assert_eq!(verdict(encoding, &of_size(encoding, MESSAGE_BYTES_MAX)), "ok", "{name}");
        assert_eq!(
            verdict(encoding, &of_size(encoding, MESSAGE_BYTES_MAX + 1)),
            "too_large",
            "{name}"
        );
        assert_eq!(
            verdict(encoding, &vec![0; 3 * MESSAGE_BYTES_MAX]),
            "too_large",
            "{name}"
        );
    }
}

#[test]
fn a_message_may_hold_as_many_operations_as_the_limit_and_no_more() {
    let operations = |count: usize, last: Value| {
        let mut all = vec![json!({"id": OPERATION, "command": {"undo": {"seq": 1}}}); count - 1];
        all.push(last);
        json!({"operations": {"operations": all}})
    };
    let (good, bad) = (
        json!({"id": OPERATION, "command": {"undo": {"seq": 1}}}),
        json!({"id": OPERATION, "command": 7}),
    );
    both(&operations(OPERATIONS_A_MESSAGE_MAX, good.clone()), "ok");
    both(
        &operations(OPERATIONS_A_MESSAGE_MAX, bad.clone()),
        "partly 99: invalid_field command",
    );
    for last in [good, bad] {
        both(
            &operations(OPERATIONS_A_MESSAGE_MAX + 1, last),
            "too_many_operations operations.operations",
        );
    }
}

#[test]
fn a_document_cut_at_any_byte_is_malformed() {
    for golden in catalog::catalog() {
        for (encoding, end) in ENCODINGS {
            let bytes = (golden.encode)(encoding);
            for length in 0..bytes.len() {
                // Within a character JSON is not even text.
                let text = encoding == Encoding::MsgPack || std::str::from_utf8(&bytes[..length]).is_ok();
                assert_eq!(
                    verdict(encoding, &bytes[..length]),
                    if text { "malformed" } else { "invalid_utf8" },
                    "{}/{}.{end} cut to {length} bytes",
                    golden.folder,
                    golden.name
                );
            }
        }
    }
}

#[test]
fn nothing_may_follow_a_document() {
    for (encoding, more) in [
        (Encoding::Json, &b"x"[..]),
        (Encoding::Json, b"{}"),
        (Encoding::Json, b"\0"),
        (Encoding::Json, b"{\"heartbeat\":{}}"),
        (Encoding::MsgPack, b"\xc0"),
        (Encoding::MsgPack, b"\x81"),
        (Encoding::MsgPack, b"\x81\xa9heartbeat\x80"),
    ] {
        let mut bytes = encoding.encode(&json!({"heartbeat": {}}));
        bytes.extend_from_slice(more);
        assert_eq!(verdict(encoding, &bytes), "malformed", "{more:x?}");
    }
    assert_eq!(verdict(Encoding::Json, b" \r\n\t{ \"heartbeat\" : { } } \n"), "ok");
}

#[test]
fn json_that_is_none() {
    for text in [
        "",
        " ",
        "\u{feff}{\"heartbeat\":{}}",
        "{heartbeat:{}}",
        "{'heartbeat':{}}",
        "{\"heartbeat\":{},}",
        "{\"heartbeat\":{}} // note",
        "{\"follow\":{\"cursor\":\"\u{1}\"}}",
        "{\"follow\":{\"cursor\":\"\\x\"}}",
        "{\"follow\":{\"cursor\":\"\\ud800\"}}",
        "{\"follow\":{\"cursor\":\"\\udc00\\ud800\"}}",
        "{\"hello\":{\"protocol\":{\"min\":01,\"max\":1}}}",
        "{\"hello\":{\"protocol\":{\"min\":+1,\"max\":1}}}",
        "{\"hello\":{\"protocol\":{\"min\":NaN,\"max\":1}}}",
        "{\"hello\":{\"protocol\":{\"min\":1e999,\"max\":1}}}",
        "\0{\"heartbeat\":{}}",
    ] {
        assert_eq!(verdict(Encoding::Json, text.as_bytes()), "malformed", "{text:?}");
    }
}

#[test]
fn numbers_beyond_what_an_integer_holds_are_wrong_in_their_field() {
    for number in ["18446744073709551616", "1e2", "1.0", "-0.0", "-1"] {
        let text = format!(
            r#"{{"operations":{{"operations":[{{"id":"{OPERATION}","command":{{"undo":{{"seq":{number}}}}}}}]}}}}"#
        );
        assert_eq!(
            verdict(Encoding::Json, text.as_bytes()),
            "partly 0: invalid_field seq",
            "{number}"
        );
    }
    both(&command(&json!({"undo": {"seq": u64::MAX}})), "ok");
}

#[test]
fn a_key_that_stands_twice_is_an_error_wherever_it_stands() {
    let undo = r#""command":{"undo":{"seq":1}}"#;
    for text in [
        r#"{"heartbeat":{},"heartbeat":{}}"#.to_owned(),
        r#"{"refresh":{"token":"x","token":"x"}}"#.to_owned(),
        format!(r#"{{"operations":{{"operations":[{{"id":"{OPERATION}","id":"{TASK}",{undo}}}]}}}}"#),
        format!(r#"{{"operations":{{"operations":[{{"id":"{OPERATION}",{undo},{undo}}}]}}}}"#),
        format!(r#"{{"operations":{{"operations":[],"operations":[{{"id":"{OPERATION}",{undo}}}]}}}}"#),
        format!(
            r#"{{"operations":{{"operations":[{{"id":"{OPERATION}","command":{{"undo":{{"seq":1,"seq":2}}}}}}]}}}}"#
        ),
    ] {
        assert_eq!(verdict(Encoding::Json, text.as_bytes()), "invalid_field", "{text}");
    }
    assert_eq!(
        verdict(Encoding::MsgPack, b"\x82\xa9heartbeat\x80\xa9heartbeat\x80"),
        "invalid_field"
    );
    assert_eq!(
        verdict(Encoding::MsgPack, b"\x81\xa7refresh\x82\xa5token\xa1x\xa5token\xa1x"),
        "invalid_field"
    );
}

#[test]
fn text_that_is_not_utf8_has_a_code_of_its_own() {
    for bytes in [
        &b"{\"follow\":{\"cursor\":\"\xff\"}}"[..],
        b"{\"follow\":{\"cursor\":\"\xc0\x80\"}}",
        b"{\"follow\":{\"cursor\":\"\xed\xa0\x80\"}}",
        b"{\"follow\":{\"\xff\":7}}",
        b"\xff\xfe{\0}\0",
        b"{\"heartbeat\":{}}\xff",
    ] {
        assert_eq!(verdict(Encoding::Json, bytes), "invalid_utf8", "{bytes:x?}");
    }
    for bytes in [
        &b"\x81\xa6follow\x81\xa6cursor\xa1\xff"[..],
        b"\x81\xa6follow\x81\xa6cursor\xa2\xc0\x80",
        b"\x81\xa6follow\x81\xa1\xff\x07",
        b"\x81\xa1\xff\x80",
    ] {
        assert_eq!(verdict(Encoding::MsgPack, bytes), "invalid_utf8", "{bytes:x?}");
    }
}

#[test]
fn messagepack_that_is_none_or_not_of_this_protocol() {
    for (bytes, expected) in [
        (&b""[..], "malformed"),
        // The byte that MessagePack never uses.
        (b"\xc1", "malformed"),
        (b"\x81\xa9heartbeat\xc1", "malformed"),
        // Keys that are not text: an index of the variant or field, bytes, nil.
        (b"\x81\x05\x80", "invalid_field"),
        (b"\x81\xc0\x80", "invalid_field"),
        (b"\x81\xc4\x09heartbeat\x80", "invalid_field"),
        (b"\x81\xa7refresh\x81\x00\xa1x", "invalid_field"),
        (b"\x81\xa7refresh\x81\xc4\x05token\xa1x", "invalid_field"),
        (b"\x81\x91\xa9heartbeat\x80", "invalid_field"),
        // Bytes for text, extension types, a timestamp.
        (b"\x81\xa7refresh\x81\xa5token\xc4\x01x", "invalid_field"),
        (b"\x81\xa7refresh\x81\xa5token\xd4\x01x", "invalid_field"),
        (b"\x81\xa7refresh\x81\xa5token\xc7\x01\x01x", "invalid_field"),
        (b"\x81\xa7refresh\x81\xa5token\xd6\xff\0\0\0\0", "invalid_field"),
        (b"\xd4\x01x", "invalid_field"),
        // An array with one element is no map with one key.
        (b"\x91\xa9heartbeat\x80", "malformed"),
        (b"\x91\xa9heartbeat", "unknown_message"),
        // Floats, also those without a fraction, and those that are no number.
        (
            b"\x81\xa5hello\x81\xa8protocol\x82\xa3min\xca\x3f\x80\0\0\xa3max\x01",
            "invalid_field hello.protocol.min",
        ),
        (
            b"\x81\xa5hello\x81\xa8protocol\x82\xa3min\xcb\x7f\xf8\0\0\0\0\0\0\xa3max\x01",
            "invalid_field",
        ),
        // Lengths that promise more than there is.
        (b"\xdf\xff\xff\xff\xff", "malformed"),
        (b"\xdd\xff\xff\xff\xff", "malformed"),
        (b"\xdb\xff\xff\xff\xff", "malformed"),
        (
            b"\x81\xaaoperations\x81\xaaoperations\xdd\xff\xff\xff\xff\x80",
            "malformed",
        ),
        // JSON in a binary frame.
        (b"{\"heartbeat\":{}}", "malformed"),
    ] {
        assert_eq!(verdict(Encoding::MsgPack, bytes), expected, "{bytes:x?}");
    }
    // Any format of an integer that holds it.
    for one in [
        &b"\x01"[..],
        b"\xcc\x01",
        b"\xcd\0\x01",
        b"\xce\0\0\0\x01",
        b"\xcf\0\0\0\0\0\0\0\x01",
        b"\xd0\x01",
        b"\xd3\0\0\0\0\0\0\0\x01",
    ] {
        let mut bytes = b"\x81\xa5hello\x81\xa8protocol\x82\xa3max\x01\xa3min".to_vec();
        bytes.extend_from_slice(one);
        assert_eq!(verdict(Encoding::MsgPack, &bytes), "ok", "{one:x?}");
    }
    // Any format of a length.
    assert_eq!(
        verdict(Encoding::MsgPack, b"\xdf\0\0\0\x01\xdb\0\0\0\x09heartbeat\xde\0\0"),
        "ok"
    );
}

#[test]
fn an_error_does_not_send_a_large_message_back() {
    let long = "ü".repeat(50_000);
    for document in [
        json!({ long.clone(): {} }),
        json!({"hello": {long.clone(): 1}}),
        json!({"follow": {"feed": long}}),
        json!({"operations": {"operations": [{"id": long}]}}),
    ] {
        for (encoding, _) in ENCODINGS {
            let body = encoding
                .decode_client(&encoding.encode(&document))
                .expect_err("bad")
                .body();
            let size = body.message.len() + body.field.map_or(0, |field| field.len());
            assert!(size < 3 * ERROR_DETAIL_BYTES_MAX, "{size} bytes");
        }
    }
}

#[test]
fn what_a_newer_server_sends_beside_is_skipped() {
    let task = json!({
        "id": TASK, "list": TASK, "title": "x", "status": "todo", "priority": "none", "rank": "a",
        "created_at": 1, "created_by": TASK, "updated_at": 1, "updated_by": TASK, "version": 1,
        "emoji": {"skin": [1, 2, null]},
    });
    let entries = json!({"entries": {
        "feed": TASK, "cursor": "x", "lag": 7,
        "entries": [{"seq": 1, "time": 1, "author": TASK, "operation": OPERATION, "via": "mail", "changes": [
            {"task_set": {"task": TASK, "list": TASK, "set": {"title": "y", "emoji": "z"}}},
            {"settings_set": {"theme": "dark"}},
        ]}],
    }});
    for (encoding, name) in ENCODINGS {
        let read = encoding.decode_tolerant::<Task>(&encoding.encode(&task));
        assert_eq!(read.map(|task| task.title), Ok("x".to_owned()), "{name}");
        let message = encoding.decode_server(&encoding.encode(&entries)).expect("understood");
        let Some(ServerMessage::Entries(entries)) = message else {
            panic!("{name}: {message:?}");
        };
        assert_eq!(entries.entries[0].changes.len(), 2);
        // A message that this version does not have is ignored; a known one that is wrong is not.
        let future = encoding.encode(&json!({"presence": {"who": [TASK]}}));
        assert_eq!(encoding.decode_server(&future), Ok(None), "{name}");
        let wrong = encoding.decode_server(&encoding.encode(&json!({"entries": {"feed": 7}})));
        let wrong = wrong.expect_err("wrong");
        assert_eq!(
            (wrong.code, wrong.field.as_deref()),
            (Code::InvalidField, Some("entries.feed"))
        );
        let none = encoding
            .decode_server(&encoding.encode(&json!([])))
            .expect_err("no message");
        assert_eq!(none.code, Code::InvalidField);
        // The same from a client is an error.
        assert_eq!(
            encoding
                .decode::<Task>(&encoding.encode(&task))
                .expect_err("unknown field")
                .field
                .as_deref(),
            Some("emoji")
        );
    }
}

#[test]
fn the_code_of_an_error_is_a_number_and_one_of_a_newer_table_does_not_hide_the_message() {
    let cases = [
        (json!(100), true),
        (json!(415), true),
        (json!(599), true),
        (json!("x"), false),
        (json!(70_000), false),
    ];
    for (number, good) in cases {
        let error = json!({"code": number, "name": "x", "message": "y"});
        for (encoding, _) in ENCODINGS {
            let read = encoding.decode_tolerant::<taskflow_protocol::message::ErrorBody>(&encoding.encode(&error));
            assert_eq!(read.is_ok(), good, "{number}");
        }
    }
}

/// The whole catalog goes through `decode_client` as what it is.
#[test]
fn good_messages_are_good() {
    for golden in catalog::catalog() {
        if golden.folder == "client" {
            for (encoding, _) in ENCODINGS {
                assert_eq!(verdict(encoding, &(golden.encode)(encoding)), "ok", "{}", golden.name);
            }
        }
    }
}
