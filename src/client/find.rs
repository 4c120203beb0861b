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

#[cfg(test)]
mod tests {
    use taskflow_protocol::values::Status;

    use super::super::samples;
    use super::*;

    fn rows() -> Rows {
        let mut rows = samples::rows([
            samples::task(0x0192_0000_0000_7000_8000_0000_00aa_bbcc, 7, "Buy milk"),
            samples::task(0x0192_0000_0000_7000_8000_0000_00aa_bbdd, 8, "Buy oat milk"),
            samples::task(0x0192_0000_0000_7000_8000_0000_1234_5678, 8, "aabbcc is a colour"),
            samples::task(0x0192_0000_0000_7000_8000_0000_9999_9999, 9, "In a list that is gone"),
        ]);
        let mut done = samples::task(20, 7, "Buy bread");
        done.status = Status::Done;
        rows.tasks.insert(done.id, done);
        rows
    }

    fn check(what: &str, among: Among, expected: Result<&str, &str>) {
        let rows = rows();
        let found = task(&rows, what, among);
        let found = found
            .as_ref()
            .map(|task| task.title.as_str())
            .map_err(|sentence| sentence.as_str());
        assert_eq!(found, expected);
    }

    #[test]
    fn a_title_an_id_or_a_part_of_a_title_finds_a_task() {
        check("buy MILK", Among::Open, Ok("Buy milk"));
        check("oat", Among::Open, Ok("Buy oat milk"));
        check("00aabbdd", Among::Open, Ok("Buy oat milk"));
        check("bbdd", Among::Open, Ok("Buy oat milk"));
        check("01920000-0000-7000-8000-000000aabbcc", Among::Open, Ok("Buy milk"));
        check("bread", Among::Closed, Ok("Buy bread"));
    }

    #[test]
    fn an_id_comes_before_a_part_of_a_title_and_a_title_before_an_id() {
        check("aabbcc", Among::Open, Ok("Buy milk"));
        check("aabbcc is a colour", Among::Open, Ok("aabbcc is a colour"));
    }

    #[test]
    fn what_is_not_shown_is_not_found() {
        let none = |what: &str| format!("There is no open task \"{what}\". Use `taskflow list` to see them.");
        check("In a list", Among::Open, Err(&none("In a list")));
        check("bread", Among::Open, Err(&none("bread")));
        check("", Among::Open, Err(&none("")));
    }

    #[test]
    fn what_means_several_names_them() {
        check(
            "milk",
            Among::Open,
            Err(
                "\"milk\" means 2 tasks; name one by its id:\n  00aabbcc  Buy milk (Inbox)\n  00aabbdd  Buy oat milk (Work)",
            ),
        );
        // The beginning of ids made at the same time.
        assert!(task(&rows(), "01920000", Among::Open).is_err_and(|sentence| sentence.contains("means 3 tasks")));
    }

    #[test]
    fn a_list_is_found_in_any_case_unless_that_leaves_several() {
        let mut rows = rows();
        assert_eq!(list(&rows, "work").map(|list| list.id), Ok(samples::list_id(8)));
        let other = samples::list(9, "WORK");
        rows.lists.insert(other.id, other);
        assert_eq!(list(&rows, "WORK").map(|list| list.id), Ok(samples::list_id(9)));
        assert_eq!(
            list(&rows, "work").map(|list| list.id),
            Err("There are several lists \"work\"; rename one of them.".to_owned())
        );
        assert_eq!(
            list(&rows, "Home").map(|list| list.id),
            Err("There is no list \"Home\". Use `taskflow lists` to see them.".to_owned())
        );
    }
}
