//! Takes out of a text what nobody but the users themselves should read: for texts of which nobody knows what is in them, as
//! those of a panic or of a library's error.
//!
//! What is quoted may be anybody's title or note, for that is how libraries show what they did not understand. What looks like an
//! address, a token or a query goes, too. It takes rather too much.

use std::net::{IpAddr, SocketAddr};

/// What stands there instead.
pub const SCRUBBED: &str = "[scrubbed]";

/// What the standard library quotes in its own messages: nobody's words.
const QUOTED_KEPT: [&str; 8] = [
    "Result::unwrap()",
    "Option::unwrap()",
    "Err",
    "None",
    "Ok",
    "Some",
    "left == right",
    "left != right",
];

/// Characters from which on a word with letters and digits may be a token: the shortest of ours has 43, a UUID is known by its
/// form, and names of things are mostly shorter.
const TOKEN_CHARS_MIN: usize = 20;

/// A UUID with its dashes.
const UUID_CHARS: usize = 36;

/// A text without what is quoted in it, e-mail addresses, network addresses, tokens and query strings.
pub fn scrub(text: &str) -> String {
    let mut scrubbed = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = None;
    while let Some(at) = quote(rest, before) {
        let (plain, quoted) = rest.split_at(at);
        scrub_plain(plain, &mut scrubbed);
        let mark = &quoted[..1];
        let inside = &quoted[1..];
        // Without an end everything is inside.
        let end = end_of_quote(inside, mark);
        let (inside, behind) = end.map_or((inside, ""), |end| (&inside[..end], &inside[end + 1..]));
        let kept = if QUOTED_KEPT.contains(&inside) {
            inside
        } else {
            SCRUBBED
        };
        for part in [mark, kept, mark] {
            scrubbed.push_str(part);
        }
        (rest, before) = (behind, mark.chars().next());
    }
    scrub_plain(rest, &mut scrubbed);
    scrubbed
}

/// Where something quoted begins. What is behind a letter is an apostrophe.
fn quote(text: &str, mut before: Option<char>) -> Option<usize> {
    for (at, char) in text.char_indices() {
        let is_apostrophe = char == '\'' && before.is_some_and(char::is_alphanumeric);
        if matches!(char, '"' | '`' | '\'') && !is_apostrophe {
            return Some(at);
        }
        before = Some(char);
    }
    None
}

fn end_of_quote(inside: &str, mark: &str) -> Option<usize> {
    if mark == "`" {
        // What is between these is written down as it is, with what it has of them: so the last one counts.
        let first = inside.find(mark)?;
        let is_kept = QUOTED_KEPT.contains(&&inside[..first]);
        return if is_kept { Some(first) } else { inside.rfind(mark) };
    }
    let mut is_escaped = false;
    for (at, char) in inside.char_indices() {
        if is_escaped {
            is_escaped = false;
        } else if char == '\\' {
            is_escaped = true;
        } else if inside[at..].starts_with(mark) {
            // An apostrophe inside of single quotes.
            let next = inside[at + 1..].chars().next();
            if mark != "'" || !next.is_some_and(char::is_alphanumeric) {
                return Some(at);
            }
        }
    }
    None
}

fn scrub_plain(text: &str, scrubbed: &mut String) {
    for piece in text.split_inclusive(char::is_whitespace) {
        let word = piece.trim_end();
        if word.contains('@') {
            scrubbed.push_str(SCRUBBED);
        } else {
            // A question mark at the end is one.
            let query = word.find('?').filter(|at| *at + 1 < word.len());
            scrub_word(&word[..query.unwrap_or(word.len())], scrubbed);
            if query.is_some() {
                scrubbed.push('?');
                scrubbed.push_str(SCRUBBED);
            }
        }
        scrubbed.push_str(&piece[word.len()..]);
    }
}

/// Takes a word apart at what can be in no address, and then at what can be in no token.
fn scrub_word(word: &str, scrubbed: &mut String) {
    let is_of_address = |char: char| char.is_alphanumeric() || matches!(char, '.' | ':' | '_' | '-');
    pieces(word, is_of_address, |piece| {
        let address = piece.trim_end_matches(['.', ':', '-']);
        if is_address(address) {
            scrubbed.push_str(SCRUBBED);
            scrubbed.push_str(&piece[address.len()..]);
            return;
        }
        let is_of_token = |char: char| char.is_alphanumeric() || matches!(char, '_' | '-' | '.' | '+');
        pieces(piece, is_of_token, |piece| {
            scrubbed.push_str(if is_token(piece) { SCRUBBED } else { piece });
        });
    });
}

/// Gives `each` the longest pieces of what belongs together, and what is between them.
fn pieces<'a>(text: &'a str, belongs: impl Fn(char) -> bool, mut each: impl FnMut(&'a str)) {
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_inside = belongs(first);
        let end = rest.find(|char| belongs(char) != is_inside).unwrap_or(rest.len());
        let (piece, behind) = rest.split_at(end);
        each(piece);
        rest = behind;
    }
}

fn is_address(piece: &str) -> bool {
    piece.parse::<IpAddr>().is_ok() || piece.parse::<SocketAddr>().is_ok()
}

fn is_token(piece: &str) -> bool {
    let piece = piece.trim_matches('.');
    let is_uuid = piece.len() == UUID_CHARS && uuid::Uuid::try_parse(piece).is_ok();
    !is_uuid
        && piece.len() >= TOKEN_CHARS_MIN
        && piece.bytes().any(|byte| byte.is_ascii_digit())
        && piece.bytes().any(|byte| byte.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_people_wrote_and_who_they_are_goes() {
        for (text, expected) in [
            ("the disk is full", "the disk is full"),
            (
                "byte index 4 is not a char boundary; it is inside 'é' (bytes 3..5) of `Café with Ann`",
                "byte index 4 is not a char boundary; it is inside '[scrubbed]' (bytes 3..5) of `[scrubbed]`",
            ),
            (
                r#"invalid type: string "say \"hi\" to Ann", expected u64 at line 3"#,
                r#"invalid type: string "[scrubbed]", expected u64 at line 3"#,
            ),
            (
                "called `Result::unwrap()` on an `Err` value: Bad { title: \"Buy milk\" }",
                "called `Result::unwrap()` on an `Err` value: Bad { title: \"[scrubbed]\" }",
            ),
            (
                "it is inside 'é' (bytes 3..5) of `a ` private words ` b`",
                "it is inside '[scrubbed]' (bytes 3..5) of `[scrubbed]`",
            ),
            ("the driver's pool isn't open", "the driver's pool isn't open"),
            ("no column 'Ann's list' here", "no column '[scrubbed]' here"),
            ("it ends in \"Buy mil", "it ends in \"[scrubbed]\""),
            ("mailbox of ann@example.com is full", "mailbox of [scrubbed] is full"),
            ("redis://:secret@10.0.0.5:6379/ is away", "[scrubbed] is away"),
            (
                "10.0.0.5:9042 refused, as 10.0.0.6.",
                "[scrubbed] refused, as [scrubbed].",
            ),
            (
                "from [2001:db8::7]:443 (and ::1)",
                "from [[scrubbed]]:443 (and [scrubbed])",
            ),
            ("tcp://192.168.1.1:80/x", "tcp://[scrubbed]/x"),
            (
                "GET https://id.example/keys?token=abc failed",
                "GET https://id.example/keys?[scrubbed] failed",
            ),
            ("is it there?", "is it there?"),
            (
                "Bearer eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl-_9",
                "Bearer [scrubbed]",
            ),
            (
                "feed 0190a5b0-0000-7000-8000-000000000001. At seq 7 in /data/taskflow.db",
                "feed 0190a5b0-0000-7000-8000-000000000001. At seq 7 in /data/taskflow.db",
            ),
            (
                "taskflow::feed::actor at src/feed/actor.rs:12:3",
                "taskflow::feed::actor at src/feed/actor.rs:12:3",
            ),
        ] {
            assert_eq!(scrub(text), expected);
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_quoted_stays(secret in "[A-Za-z][a-z ]{3,20}[A-Za-z]", before in "[ a-z.:=]{0,8}", mark in "[\"`]") {
            let text = format!("{before}{mark}{secret}{mark} is wrong");
            prop_assume!(!before.contains(&secret) && !"[scrubbed] is wrong".contains(&secret));
            prop_assert!(!scrub(&text).contains(&secret));
        }

        #[test]
        fn any_text_can_be_scrubbed_and_a_second_time_changes_nothing(text in ".{0,80}") {
            let once = scrub(&text);
            prop_assert_eq!(scrub(&once), once);
        }
    }
}
