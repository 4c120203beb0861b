//! Finds what a person means.
//!
//! Architecture invariant: looks at the copy only.

use taskflow_protocol::model::{Label, List, Task};

use super::replica::{Rows, is_open};

/// Hexadecimal digits of an id that are shown, from its end: the first digits of ids made at the same time are the same.
pub const SHORT_ID_DIGITS: usize = 8;
/// Fewer digits than this could as well be a word.
const ID_DIGITS_MIN: usize = 4;
/// Candidates that are named when a word means several things: what fits on a screen.
const CANDIDATES_SHOWN: usize = 10;

/// The short form of an id.
pub fn short_id(id: uuid::Uuid) -> String {
    let digits = id.simple().to_string();
    digits[digits.len() - SHORT_ID_DIGITS..].to_owned()
}

/// Which tasks a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Among {
    /// Those still to be done.
    Open,
    /// Those that are closed.
    Closed,
}

/// Finds one task by its title, the beginning or end of its id, or a part of its title, in this order.
///
/// # Errors
///
/// A sentence: there is none, or there are several (which are then named).
pub fn task<'a>(rows: &'a Rows, what: &str, among: Among) -> Result<&'a Task, String> {
    let wanted = |task: &&Task| is_open(task) == (among == Among::Open) && rows.task_shown(task);
    let tasks: Vec<&Task> = rows.tasks.values().filter(wanted).collect();
    let lower = what.trim().to_lowercase();
    let digits: String = lower.chars().filter(|letter| *letter != '-').collect();
    let is_id = digits.len() >= ID_DIGITS_MIN && digits.chars().all(|letter| letter.is_ascii_hexdigit());
    let by_title = |task: &Task| task.title.to_lowercase() == lower;
    let by_id = |task: &Task| {
        let id = task.id.0.simple().to_string();
        is_id && (id.ends_with(&digits) || id.starts_with(&digits))
    };
    let by_part = |task: &Task| !lower.is_empty() && task.title.to_lowercase().contains(&lower);
    let ways: [&dyn Fn(&Task) -> bool; 3] = [&by_title, &by_id, &by_part];
    for way in ways {
        let found: Vec<&Task> = tasks.iter().copied().filter(|task| way(task)).collect();
        match found.as_slice() {
            [] => {}
            [one] => return Ok(one),
            several => return Err(ambiguous(rows, what, several)),
        }
    }
    let kind = match among {
        Among::Open => "open",
        Among::Closed => "closed",
    };
    Err(format!(
        "There is no {kind} task \"{}\". Use `taskflow list` to see them.",
        super::text::printable(what)
    ))
}

fn ambiguous(rows: &Rows, what: &str, several: &[&Task]) -> String {
    let mut text = format!(
        "\"{}\" means {} tasks; name one by its id:",
        super::text::printable(what),
        several.len()
    );
    for task in several.iter().take(CANDIDATES_SHOWN) {
        let list = rows.lists.get(&task.list).map_or("", |list| list.name.as_str());
        let (title, list) = (super::text::printable(&task.title), super::text::printable(list));
        text.push_str(&format!("\n  {}  {title} ({list})", short_id(task.id.0)));
    }
    if several.len() > CANDIDATES_SHOWN {
        text.push_str(&format!("\n  and {} more", several.len() - CANDIDATES_SHOWN));
    }
    text
}

/// Finds a list by its name; upper and lower case are the same, unless that leaves several.
///
/// # Errors
///
/// A sentence: there is none, or there are several.
pub fn list<'a>(rows: &'a Rows, name: &str) -> Result<&'a List, String> {
    let lists = rows.lists_in_order();
    let shown = super::text::printable(name);
    match pick(&lists, |list| &list.name, name).as_slice() {
        [one] => Ok(one),
        [] => Err(format!(
            "There is no list \"{shown}\". Use `taskflow lists` to see them."
        )),
        _ => Err(format!("There are several lists \"{shown}\"; rename one of them.")),
    }
}

/// Finds a label by its name, in the same way; `None` if there is none.
pub fn label<'a>(rows: &'a Rows, name: &str) -> Option<&'a Label> {
    let labels: Vec<&Label> = rows
        .labels
        .values()
        .filter(|label| label.deleted_at.is_none())
        .collect();
    pick(&labels, |label| &label.name, name).first().copied()
}

fn pick<'a, T>(rows: &[&'a T], name_of: impl Fn(&T) -> &str, name: &str) -> Vec<&'a T> {
    let exact: Vec<&T> = rows.iter().copied().filter(|row| name_of(row) == name).collect();
    if !exact.is_empty() {
        return exact;
    }
    let lower = name.to_lowercase();
    rows.iter()
        .copied()
        .filter(|row| name_of(row).to_lowercase() == lower)
        .collect()
}
