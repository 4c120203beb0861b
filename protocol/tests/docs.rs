//! `docs/protocol.md` is what other people's clients are written from: its examples decode, its bytes are right, and its
//! tables are those of the code.

#![allow(clippy::panic, reason = "helpers of tests")]

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use taskflow_protocol::message::{Change, ClientMessage, Command, ServerMessage};
use taskflow_protocol::{Code, Encoding, limits};

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md")
}

fn page() -> String {
    std::fs::read_to_string(path()).expect("docs/protocol.md is there")
}

/// A fenced block: the words after the fence, and its lines.
struct Block {
    line: usize,
    words: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(words), None) => {
                open = Some(Block {
                    line: number + 1,
                    words: words.to_owned(),
                    text: String::new(),
                });
            }
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "the last block has no end");
    blocks
}

/// The bytes of a document that this page shows in JSON, in MessagePack.
fn msgpack<T: Serialize + DeserializeOwned>(block: &Block) -> Vec<u8> {
    let document: T = Encoding::Json
        .decode(block.text.trim_end().as_bytes())
        .unwrap_or_else(|error| panic!("docs/protocol.md, line {}: {error}", block.line));
    Encoding::MsgPack.encode(&document)
}

fn bytes_of(block: &Block) -> Option<Vec<u8>> {
    match block.words.as_str() {
        "json client" => Some(msgpack::<ClientMessage>(block)),
        "json server" => Some(msgpack::<ServerMessage>(block)),
        "json command" => Some(msgpack::<Command>(block)),
        "json change" => Some(msgpack::<Change>(block)),
        _ => None,
    }
}

/// Sixteen bytes a line.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(16) {
        let line: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        text.push_str(&line.join(" "));
        text.push('\n');
    }
    text
}

#[test]
fn every_example_is_a_document_of_its_kind() {
    let page = page();
    let blocks = blocks(&page);
    let decoded = blocks.iter().filter_map(bytes_of).count();
    assert!(decoded >= 45, "only {decoded} examples were found");
}

#[test]
fn every_message_command_and_change_has_an_example() {
    let page = page();
    let all = blocks(&page);
    let first_keys = |words: &str| -> std::collections::BTreeSet<String> {
        all.iter()
            .filter(|block| block.words == words)
            .filter_map(|block| block.text.strip_prefix("{\"")?.split('"').next().map(str::to_owned))
            .collect()
    };
    for (words, names) in [
        (
            "json client",
            "hello operations follow unfollow refresh heartbeat".to_owned(),
        ),
        (
            "json server",
            "welcome following unfollowed snapshot entries results statistics refreshed heartbeat reconnect error".to_owned(),
        ),
        (
            "json command",
            "task_create task_patch task_move task_complete task_reopen task_delete task_restore list_create list_patch \
             list_move list_delete list_restore label_create label_patch label_delete label_restore settings_patch undo \
             batch"
                .to_owned(),
        ),
        (
            "json change",
            "task_put task_set list_put list_set label_put label_set settings_set".to_owned(),
        ),
    ] {
        let want: std::collections::BTreeSet<_> = names.split_whitespace().map(str::to_owned).collect();
        assert_eq!(first_keys(words), want, "{words}");
    }
}

#[test]
fn the_bytes_on_the_page_are_the_messagepack_of_the_example_before_them() {
    let page = page();
    let all = blocks(&page);
    for pair in all.windows(2) {
        if pair[1].words.starts_with("hex ") {
            let bytes = bytes_of(&pair[0]).expect("bytes stand after an example");
            assert_eq!(pair[1].text, hex(&bytes), "line {}", pair[1].line);
        }
    }
    assert_eq!(all.iter().filter(|block| block.words.starts_with("hex ")).count(), 4);
}

/// The code table as the page must show it.
fn codes_table() -> String {
    let mut table =
        "| code | name | HTTP | close | action | wait, ms | |\n| --- | --- | --- | --- | --- | --- | --- |\n"
            .to_owned();
    for code in Code::ALL {
        let close = code.close_code().map_or("–".to_owned(), |close| close.to_string());
        let wait = code.retry_after_ms().map_or("–".to_owned(), |wait| wait.to_string());
        writeln!(
            table,
            "| {} | `{}` | {} | {close} | {} | {wait} | {} |",
            *code as u16,
            code.name(),
            code.http_status(),
            code.action().name(),
            code.sentence(),
        )
        .expect("writing into memory");
    }
    table
}

/// The limits that a client meets: what, how much, unit, and the code of what is beyond.
fn limits_table() -> String {
    let rows: &[(&str, u64, &str, Option<Code>)] = &[
        (
            "message from the client",
            limits::MESSAGE_BYTES_MAX as u64,
            "bytes",
            Some(Code::TooLarge),
        ),
        (
            "frame from the client",
            limits::FRAME_BYTES_MAX as u64,
            "bytes",
            Some(Code::TooLarge),
        ),
        (
            "fragments of one message",
            limits::FRAGMENTS_MAX as u64,
            "frames",
            Some(Code::TooLarge),
        ),
        (
            "nesting of a document",
            limits::NESTING_MAX as u64,
            "levels",
            Some(Code::Malformed),
        ),
        (
            "operations in one message",
            limits::OPERATIONS_A_MESSAGE_MAX as u64,
            "",
            Some(Code::TooManyOperations),
        ),
        (
            "commands in one batch",
            limits::COMMANDS_A_BATCH_MAX as u64,
            "",
            Some(Code::BatchTooLarge),
        ),
        (
            "changes of one operation",
            limits::COMMIT_BYTES_MAX as u64,
            "bytes, as stored",
            Some(Code::BatchTooLarge),
        ),
        (
            "operations of a feed that wait for the disk",
            limits::FEED_UNSAVED_OPERATIONS_MAX as u64,
            "",
            Some(Code::FeedOverloaded),
        ),
        (
            "title of a task",
            limits::TITLE_BYTES_MAX as u64,
            "bytes",
            Some(Code::ValueTooLong),
        ),
        (
            "notes of a task",
            limits::NOTES_BYTES_MAX as u64,
            "bytes",
            Some(Code::ValueTooLong),
        ),
        (
            "name of a list or label",
            limits::NAME_BYTES_MAX as u64,
            "bytes",
            Some(Code::ValueTooLong),
        ),
        (
            "time zone or locale",
            limits::ZONE_BYTES_MAX as u64,
            "bytes",
            Some(Code::ValueInvalid),
        ),
        (
            "labels of one task",
            limits::LABELS_A_TASK_MAX as u64,
            "",
            Some(Code::LimitReached),
        ),
        (
            "levels of subtasks below a task that has no parent",
            limits::PARENT_DEPTH_MAX as u64,
            "",
            Some(Code::ParentTooDeep),
        ),
        (
            "duration of a task",
            u64::from(limits::DURATION_MINUTES_MAX),
            "minutes",
            Some(Code::ValueInvalid),
        ),
        (
            "tasks of a feed, without the bin",
            limits::TASKS_A_FEED_MAX as u64,
            "",
            Some(Code::LimitReached),
        ),
        (
            "lists of a feed, without the bin",
            limits::LISTS_A_FEED_MAX as u64,
            "",
            Some(Code::LimitReached),
        ),
        (
            "labels of a feed, without the bin",
            limits::LABELS_A_FEED_MAX as u64,
            "",
            Some(Code::LimitReached),
        ),
        (
            "feeds that a connection follows",
            limits::FOLLOWS_A_CONNECTION_MAX as u64,
            "",
            Some(Code::TooManyFollows),
        ),
        (
            "connections of one user",
            limits::CONNECTIONS_A_USER_MAX as u64,
            "",
            Some(Code::TooManyConnections),
        ),
        (
            "waiting for a client that does not read",
            limits::OUTBOUND_BYTES_MAX as u64,
            "bytes",
            Some(Code::TooSlow),
        ),
        (
            "access token",
            limits::TOKEN_BYTES_MAX as u64,
            "bytes",
            Some(Code::TokenInvalid),
        ),
        (
            "name of the client in `hello`",
            limits::CLIENT_NAME_BYTES_MAX as u64,
            "bytes",
            Some(Code::ValueTooLong),
        ),
        (
            "from connecting to `hello`",
            limits::HELLO_TIMEOUT_MS,
            "ms",
            Some(Code::HelloTimeout),
        ),
        ("between heartbeats of the server", limits::HEARTBEAT_MS, "ms", None),
        (
            "without a byte from the client",
            limits::HEARTBEAT_TIMEOUT_MS,
            "ms",
            Some(Code::HeartbeatMissed),
        ),
        (
            "`refresh` messages of a connection within a minute",
            limits::REFRESHES_A_MINUTE_MAX.into(),
            "",
            Some(Code::TooManyRefreshes),
        ),
        (
            "body of a request to register or sign in",
            limits::SIGN_IN_BYTES_MAX as u64,
            "bytes",
            Some(Code::TooLarge),
        ),
        (
            "from the head of a request to the end of its body",
            limits::BODY_TIMEOUT_MS,
            "ms",
            Some(Code::BodyTimeout),
        ),
        ("`wait` of a long-poll", limits::LONG_POLL_SECONDS_MAX, "seconds", None),
        (
            "items on one page of a REST answer",
            limits::PAGE_ITEMS_MAX as u64,
            "",
            Some(Code::ValueInvalid),
        ),
    ];
    let mut table = "| what | at most | unit | beyond it |\n| --- | --- | --- | --- |\n".to_owned();
    for (what, much, unit, code) in rows {
        let code = code.map_or("–".to_owned(), |code| format!("`{}`", code.name()));
        writeln!(table, "| {what} | {} | {unit} | {code} |", grouped(*much)).expect("writing into memory");
    }
    table
}

/// 262144 as 262,144.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Where the table between the markers of this name stands in the page.
fn between(page: &str, name: &str) -> std::ops::Range<usize> {
    let begin = page.find(&format!("<!-- {name}: begin")).expect("the marker is there");
    let begin = begin + page[begin..].find("-->\n").expect("the marker has an end") + 4;
    let end = page.find(&format!("<!-- {name}: end")).expect("the marker is there");
    begin..end
}

#[test]
fn the_code_table_on_the_page_is_that_of_the_code() {
    let (page, want) = (page(), codes_table());
    assert!(
        page[between(&page, "codes")] == want,
        "the table in docs/protocol.md must be:\n\n{want}"
    );
}

#[test]
fn the_limits_on_the_page_are_those_of_the_code() {
    let (page, want) = (page(), limits_table());
    assert!(
        page[between(&page, "limits")] == want,
        "the table in docs/protocol.md must be:\n\n{want}"
    );
}

#[test]
fn names_and_close_codes_and_numbers_of_the_code_table_are_unique() {
    for (place, code) in Code::ALL.iter().enumerate() {
        assert_eq!(Code::from_number(*code as u16), Some(*code));
        for other in &Code::ALL[place + 1..] {
            assert!((*code as u16) < (*other as u16), "{code} stands before {other}");
            assert_ne!(code.name(), other.name());
            if let Some(close) = code.close_code() {
                assert_ne!(Some(close), other.close_code(), "{code} and {other}");
            }
        }
    }
}

/// Not a test: writes the tables and the bytes into the page. Asked for by hand only.
#[test]
#[ignore = "writes docs/protocol.md; UPDATE_DOCS=1 asks for it"]
fn write_the_tables() {
    if std::env::var_os("UPDATE_DOCS").is_none() {
        return;
    }
    let mut page = page();
    for (name, table) in [("codes", codes_table()), ("limits", limits_table())] {
        let range = between(&page, name);
        page.replace_range(range, &table);
    }
    let all = blocks(&page);
    for pair in all.windows(2).rev() {
        if pair[1].words.starts_with("hex ") {
            let bytes = bytes_of(&pair[0]).expect("bytes stand after an example");
            let begin: usize = page.split_inclusive('\n').take(pair[1].line).map(str::len).sum();
            page.replace_range(begin..begin + pair[1].text.len(), &hex(&bytes));
        }
    }
    std::fs::write(path(), page).expect("docs/protocol.md can be written");
}
