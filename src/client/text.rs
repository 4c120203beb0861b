//! Rows and changes as lines of text.
//!
//! Architecture invariant: no I/O. What other people wrote never reaches a terminal with its control characters.

use std::fmt::Write;

use jiff::tz::TimeZone;
use taskflow_protocol::message::{Command, Entry};
use taskflow_protocol::model::{Label, List, Task};
use taskflow_protocol::values::{Priority, Status};

use super::auth::{Happened, Session, Token};
use super::dates;
use super::find::short_id;
use super::replica::{Effect, Rows, is_open};

/// Text without what a terminal would obey: escape sequences, line ends, and the marks that turn the direction of writing.
pub fn printable(text: &str) -> String {
    let harmless = |letter: char| {
        let turns = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if letter.is_control() || turns {
            '\u{fffd}'
        } else {
            letter
        }
    };
    text.chars().map(harmless).collect()
}

/// What a status looks like.
pub fn mark(status: Status) -> &'static str {
    match status {
        Status::Todo => "[ ]",
        Status::Doing => "[~]",
        Status::Done => "[x]",
        Status::Cancelled => "[-]",
    }
}

/// A sign-in on one line: `3f2a91bc  taskflow/0.1.0  192.0.2.7  seen 2026-12-01 15:30  (this one)`.
pub fn session(session: &Session, zone: &TimeZone) -> String {
    let id = session.id.to_string();
    let seen = jiff::Timestamp::from_millisecond(session.seen_at).unwrap_or_default();
    let seen = zone.to_datetime(seen).strftime("%F %H:%M");
    let device = match session.device.trim() {
        "" => "(no name)",
        device => device,
    };
    let current = if session.current { "  (this one)" } else { "" };
    format!(
        "{}  {}  {}  seen {seen}{current}",
        &id[..8],
        printable(device),
        printable(&session.address)
    )
}

/// A moment, to the minute.
pub fn moment(at: i64, zone: &TimeZone) -> String {
    let at = jiff::Timestamp::from_millisecond(at).unwrap_or_default();
    zone.to_datetime(at).strftime("%F %H:%M").to_string()
}

/// A personal access token on one line: `3f2a91bc  backup script  tasks:read  until 2026-12-01 15:30`.
pub fn token(token: &Token, zone: &TimeZone) -> String {
    let id = token.id.to_string();
    format!(
        "{}  {}  {}  until {}",
        &id[..8],
        printable(&token.name),
        printable(&token.scopes.join(" ")),
        moment(token.expires_at, zone)
    )
}

/// Something that happened on one line: `2026-12-01 15:30  signed_in  192.0.2.7  taskflow/0.1.0`.
pub fn happened(happened: &Happened, zone: &TimeZone) -> String {
    let line = [&happened.event, &happened.address, &happened.device].map(|text| printable(text));
    format!("{}  {}", moment(happened.at, zone), line.join("  "))
        .trim_end()
        .to_owned()
}

/// A priority's word; nothing for none.
pub fn priority(priority: Priority) -> Option<&'static str> {
    match priority {
        Priority::None => None,
        Priority::Low => Some("low"),
        Priority::Medium => Some("medium"),
        Priority::High => Some("high"),
        Priority::Urgent => Some("urgent"),
    }
}

/// A task on one line: `3f2a91bc  [ ] Buy milk  (due 2026-12-01, high, @home)`.
pub fn task_line(rows: &Rows, task: &Task, depth: usize) -> String {
    let details = details(rows, task);
    let indent = "  ".repeat(depth);
    let mut line = format!(
        "{}  {indent}{} {}",
        short_id(task.id.0),
        mark(task.status),
        printable(&task.title)
    );
    if !details.is_empty() {
        let _ = write!(line, "  ({})", details.join(", "));
    }
    line
}

fn details(rows: &Rows, task: &Task) -> Vec<String> {
    let mut details = Vec::new();
    if let Some(due) = &task.due {
        details.push(format!("due {}", dates::show(due)));
    }
    if let Some(deadline) = &task.deadline {
        details.push(format!("deadline {}", printable(deadline)));
    }
    if let Some(minutes) = task.duration_minutes {
        details.push(format!("{minutes} min"));
    }
    details.extend(priority(task.priority).map(str::to_owned));
    let names = task.labels.iter().filter_map(|label| rows.labels.get(label));
    details.extend(
        names
            .filter(|label| label.deleted_at.is_none())
            .map(|label| format!("@{}", printable(&label.name))),
    );
    if !task.notes.is_empty() {
        details.push("notes".to_owned());
    }
    details
}

/// The name of a list, for a person.
pub fn list_name(rows: &Rows, task: &Task) -> String {
    rows.lists
        .get(&task.list)
        .map_or_else(|| "a list".to_owned(), |list| printable(&list.name))
}

/// Every list with its tasks; closed tasks only if asked for. Lists with nothing to show are left out.
pub fn overview(rows: &Rows, closed_too: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for list in rows.lists_in_order() {
        if list.archived && !closed_too {
            continue;
        }
        let tasks: Vec<(usize, &Task)> = rows
            .tasks_in_order(list.id)
            .into_iter()
            .filter(|(_, task)| closed_too || is_open(task))
            .collect();
        if tasks.is_empty() {
            continue;
        }
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.push(printable(&list.name));
        lines.extend(tasks.into_iter().map(|(depth, task)| task_line(rows, task, depth)));
    }
    lines
}

/// What an entry did, one line a row.
pub fn entry_lines(rows: &Rows, entry: &Entry, effects: &[Effect]) -> Vec<String> {
    let mut lines = Vec::new();
    for effect in effects {
        match effect {
            Effect::Task(before, task) => lines.extend(task_lines(rows, before.as_deref(), task)),
            Effect::List(before, list) => lines.push(list_line(before.as_deref(), list)),
            Effect::Label(before, label) => lines.push(label_line(before.as_deref(), label)),
            Effect::Settings(_) => lines.push("settings   changed".to_owned()),
        }
    }
    if lines.is_empty() {
        lines.push(format!("nothing    changed (entry {})", entry.seq));
    }
    lines
}

fn task_lines(rows: &Rows, before: Option<&Task>, task: &Task) -> Vec<String> {
    let title = printable(&task.title);
    let Some(before) = before else {
        let details = details(rows, task);
        let details = if details.is_empty() {
            String::new()
        } else {
            format!("  ({})", details.join(", "))
        };
        return vec![format!("added      {title}{details} in {}", list_name(rows, task))];
    };
    let mut lines = Vec::new();
    if before.deleted_at != task.deleted_at {
        let word = if task.deleted_at.is_some() {
            "deleted "
        } else {
            "restored"
        };
        lines.push(format!("{word}   {title}"));
    }
    if before.status != task.status {
        let word = match task.status {
            Status::Todo => "reopened ",
            Status::Doing => "begun    ",
            Status::Done => "done     ",
            Status::Cancelled => "cancelled",
        };
        lines.push(format!("{word}  {title}"));
    }
    if before.list != task.list {
        lines.push(format!(
            "moved      {title} from {} to {}",
            list_name(rows, before),
            list_name(rows, task)
        ));
    } else if before.parent != task.parent || before.rank != task.rank {
        lines.push(format!("moved      {title} in {}", list_name(rows, task)));
    }
    if before.title != task.title {
        lines.push(format!("renamed    {} to {title}", printable(&before.title)));
    }
    let mut changed = Vec::new();
    let mut tell = |differs: bool, text: String| {
        if differs {
            changed.push(text);
        }
    };
    let shown = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    tell(before.notes != task.notes, "notes".to_owned());
    tell(
        before.priority != task.priority,
        format!("priority {}", priority(task.priority).unwrap_or("none")),
    );
    tell(
        before.due != task.due,
        format!("due {}", shown(task.due.as_ref().map(dates::show))),
    );
    tell(
        before.deadline != task.deadline,
        format!("deadline {}", shown(task.deadline.as_deref().map(printable))),
    );
    tell(
        before.duration_minutes != task.duration_minutes,
        format!(
            "duration {}",
            shown(task.duration_minutes.map(|minutes| format!("{minutes} min")))
        ),
    );
    tell(before.labels != task.labels, "labels".to_owned());
    if !changed.is_empty() {
        lines.push(format!("changed    {title}: {}", changed.join(", ")));
    }
    if lines.is_empty() {
        lines.push(format!("changed    {title}"));
    }
    lines
}

fn list_line(before: Option<&List>, list: &List) -> String {
    let name = printable(&list.name);
    match before {
        None => format!("added      list {name}"),
        Some(before) if before.deleted_at != list.deleted_at => {
            let word = if list.deleted_at.is_some() {
                "deleted "
            } else {
                "restored"
            };
            format!("{word}   list {name}")
        }
        Some(before) if before.name != list.name => format!("renamed    list {} to {name}", printable(&before.name)),
        Some(before) if before.archived != list.archived => {
            let word = if list.archived { "archived  " } else { "unarchived" };
            format!("{word} list {name}")
        }
        Some(_) => format!("changed    list {name}"),
    }
}

fn label_line(before: Option<&Label>, label: &Label) -> String {
    let name = printable(&label.name);
    match before {
        None => format!("added      label {name}"),
        Some(before) if before.deleted_at != label.deleted_at => {
            let word = if label.deleted_at.is_some() {
                "deleted "
            } else {
                "restored"
            };
            format!("{word}   label {name}")
        }
        Some(before) if before.name != label.name => format!("renamed    label {} to {name}", printable(&before.name)),
        Some(_) => format!("changed    label {name}"),
    }
}

/// A command that is not done yet, in a few words.
pub fn command_line(rows: &Rows, command: &Command) -> String {
    let title = |id| {
        rows.tasks
            .get(id)
            .map_or_else(|| "a task".to_owned(), |task: &Task| printable(&task.title))
    };
    match command {
        Command::TaskCreate(create) => format!("add {}", printable(&create.title)),
        Command::TaskPatch(patch) => format!("change {}", title(&patch.task)),
        Command::TaskMove(moved) => format!("move {}", title(&moved.task)),
        Command::TaskComplete(task) => format!("complete {}", title(&task.task)),
        Command::TaskReopen(task) => format!("reopen {}", title(&task.task)),
        Command::TaskDelete(task) => format!("delete {}", title(&task.task)),
        Command::TaskRestore(task) => format!("restore {}", title(&task.task)),
        Command::ListCreate(create) => format!("add list {}", printable(&create.name)),
        Command::LabelCreate(create) => format!("add label {}", printable(&create.name)),
        Command::Batch(batch) => {
            // The last one is what the person asked for; those before make what it needs.
            batch
                .commands
                .last()
                .map_or_else(String::new, |command| command_line(rows, command))
        }
        _ => "change something".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use taskflow_protocol::values::Due;

    use super::super::samples;
    use super::*;

    #[test]
    fn a_session_is_one_line_whatever_it_calls_itself() {
        let mut phone = Session {
            id: uuid::Uuid::from_u128(0x3f2a_91bc << 96),
            device: "Ada's\u{1b}[31m phone\n".to_owned(),
            address: "192.0.2.7".to_owned(),
            seen_at: 1_796_139_000_000,
            current: true,
        };
        let line = session(&phone, &TimeZone::UTC);
        assert_eq!(
            line,
            "3f2a91bc  Ada's\u{fffd}[31m phone  192.0.2.7  seen 2026-12-01 15:30  (this one)"
        );
        (phone.device, phone.current) = (String::new(), false);
        let line = session(&phone, &TimeZone::UTC);
        assert_eq!(line, "3f2a91bc  (no name)  192.0.2.7  seen 2026-12-01 15:30");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(
            printable("a\u{1b}[2Jb\nc\u{9b}d\u{202e}e"),
            "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d\u{fffd}e"
        );
        assert_eq!(printable("Grüße, 世界 👋"), "Grüße, 世界 👋");
    }

    #[test]
    fn the_overview_groups_by_list_and_leaves_closed_and_empty_out() {
        let mut milk = samples::task(0x11, 7, "Buy milk");
        milk.due = Some(Due::AllDay("2026-12-01".to_owned()));
        milk.priority = Priority::High;
        milk.labels = vec![taskflow_protocol::LabelId(uuid::Uuid::from_u128(5))];
        let mut part = samples::task(0x12, 7, "The blue one");
        part.parent = Some(milk.id);
        part.notes = "x".to_owned();
        let mut done = samples::task(0x13, 8, "Report");
        done.status = Status::Done;
        let mut rows = samples::rows([milk, part, done]);
        let label = samples::label(5, "home");
        rows.labels.insert(label.id, label);
        let open = [
            "Inbox",
            "00000011  [ ] Buy milk  (due 2026-12-01, high, @home)",
            "00000012    [ ] The blue one  (notes)",
        ];
        assert_eq!(overview(&rows, false), open);
        let mut all = open.map(str::to_owned).to_vec();
        all.extend([String::new(), "Work".to_owned(), "00000013  [x] Report".to_owned()]);
        assert_eq!(overview(&rows, true), all);
    }

    #[test]
    fn each_kind_of_change_has_its_words() {
        let rows = samples::rows([]);
        let before = samples::task(1, 7, "Buy milk");
        let check = |change: &dyn Fn(&mut Task), expected: &[&str]| {
            let mut after = before.clone();
            change(&mut after);
            assert_eq!(task_lines(&rows, Some(&before), &after), expected);
        };
        check(&|task| task.status = Status::Done, &["done       Buy milk"]);
        check(&|task| task.status = Status::Doing, &["begun      Buy milk"]);
        check(&|task| task.status = Status::Cancelled, &["cancelled  Buy milk"]);
        check(&|task| task.deleted_at = Some(1), &["deleted    Buy milk"]);
        check(
            &|task| task.title = "Buy oat milk".to_owned(),
            &["renamed    Buy milk to Buy oat milk"],
        );
        check(
            &|task| task.list = samples::list_id(8),
            &["moved      Buy milk from Inbox to Work"],
        );
        check(&|task| task.rank = "a".to_owned(), &["moved      Buy milk in Inbox"]);
        check(
            &|task| {
                task.due = Some(Due::Floating("2026-12-01T15:30:00".to_owned()));
                task.priority = Priority::Low;
            },
            &["changed    Buy milk: priority low, due 2026-12-01 15:30"],
        );
        check(&|task| task.version = 2, &["changed    Buy milk"]);
        assert_eq!(task_lines(&rows, None, &before), ["added      Buy milk in Inbox"]);
    }
}
