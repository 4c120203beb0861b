//! What a text, a colour or a number may be.

use taskflow_protocol::Code;
use taskflow_protocol::limits::{DURATION_MINUTES_MAX, NAME_BYTES_MAX, NOTES_BYTES_MAX, TITLE_BYTES_MAX};

use super::{Judged, Refusal};

/// One line of text that shows something.
fn line(text: &str, field: &str, bytes_max: usize) -> Judged<String> {
    if text.len() > bytes_max {
        return Err(too_long(field, bytes_max));
    }
    if text.trim().is_empty() {
        return Err(Refusal::value(field, "it must not be empty"));
    }
    // U+2028 and U+2029 are the two line ends that Unicode does not count as control characters.
    if text
        .chars()
        .any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
    {
        return Err(Refusal::value(field, "it is one line without control characters"));
    }
    Ok(text.to_owned())
}

fn too_long(field: &str, bytes_max: usize) -> Refusal {
    Refusal::new(Code::ValueTooLong)
        .field(field)
        .because(format!("it may have {bytes_max} bytes of UTF-8"))
}

/// The title of a task.
pub(super) fn title(text: &str) -> Judged<String> {
    line(text, "title", TITLE_BYTES_MAX)
}

/// The name of a list or a label.
pub(super) fn name(text: &str) -> Judged<String> {
    line(text, "name", NAME_BYTES_MAX)
}

/// Markdown of any number of lines, or none.
pub(super) fn notes(text: &str) -> Judged<String> {
    if text.len() > NOTES_BYTES_MAX {
        return Err(too_long("notes", NOTES_BYTES_MAX));
    }
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err(Refusal::value(
            "notes",
            "of control characters only line ends and tabs are allowed",
        ));
    }
    Ok(text.to_owned())
}

/// `#rrggbb`; kept in lower case.
pub(super) fn color(text: &str) -> Judged<String> {
    let is_color =
        text.len() == 7 && text.starts_with('#') && text.bytes().skip(1).all(|byte| byte.is_ascii_hexdigit());
    if is_color {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(Refusal::value("color", "a colour is written #rrggbb"))
    }
}

/// At least a minute, at most a year.
pub(super) fn duration_minutes(minutes: u32) -> Judged<u32> {
    if (1..=DURATION_MINUTES_MAX).contains(&minutes) {
        Ok(minutes)
    } else {
        let why = format!("a duration has 1 to {DURATION_MINUTES_MAX} minutes");
        Err(Refusal::value("duration_minutes", &why))
    }
}
