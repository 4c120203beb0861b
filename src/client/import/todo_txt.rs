//! todo.txt: one task a line. <https://github.com/todotxt/todo.txt> has the format.
//!
//! `x` and a space at the beginning mean done, then come the priority `(A)`, the date of completion and that of creation;
//! `+project`, `@context` and `key:value` may stand anywhere after that.

use jiff::civil::Date;
use taskflow_protocol::values::{Due, Priority, Status};

use super::outline::{Outline, OutlineTask, take_marked};

/// Reads a file. Every text is one: a line without marks is a task without marks.
pub fn read(text: &str) -> Outline {
    let mut outline = Outline::default();
    let text = text.trim_start_matches('\u{feff}');
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if !line.is_empty() {
            read_line(&mut outline, line, format!("line {number}"));
        }
    }
    outline
}

fn read_line(outline: &mut Outline, line: &str, place: String) {
    let (done, rest) = match line.strip_prefix("x ") {
        Some(rest) => (true, rest.trim_start()),
        None => (false, line),
    };
    let (mut letter, rest) = take_priority(rest);
    let (first, rest) = take_date(rest);
    let (second, rest) = take_date(rest);
    // A done task has the date of its completion first, an open one that of its creation.
    let (completed, created) = match (done, first, second) {
        (true, Some(completed), created) => (Some(completed), created),
        (_, created, _) => (None, created),
    };
    // Some programs leave the date between two priorities, or the priority after the dates.
    let (late_letter, rest) = if letter.is_none() {
        take_priority(rest)
    } else {
        (None, rest)
    };
    letter = letter.or(late_letter);
    let mut task = OutlineTask {
        status: if done { Status::Done } else { Status::Todo },
        ..OutlineTask::default()
    };
    let mut words = Vec::new();
    for word in rest.split_whitespace() {
        match word.split_once(':') {
            Some(("due", value)) => match value.parse::<Date>() {
                Ok(day) if task.due.is_none() => task.due = Some(Due::AllDay(day.to_string())),
                _ => {
                    task.notes.push(word.to_owned());
                    outline.remark(&place, format!("\"{word}\" is no date and was kept in the notes"));
                }
            },
            Some(("pri", value)) if done && value.len() == 1 => letter = letter.or(value.chars().next()),
            Some(("rec", value)) if !value.is_empty() => {
                task.notes.push(word.to_owned());
                outline.remark(&place, format!("the repetition \"{word}\" was kept in the notes"));
            }
            Some(("t", value)) if value.parse::<Date>().is_ok() => {
                task.notes.push(word.to_owned());
                outline.remark(&place, format!("the start \"{word}\" was kept in the notes"));
            }
            _ => words.push(word),
        }
    }
    task.priority = match letter {
        Some('A') => Priority::Urgent,
        Some('B') => Priority::High,
        Some('C') => Priority::Medium,
        Some('D'..='Z') => Priority::Low,
        _ => Priority::None,
    };
    if let Some(letter @ 'E'..='Z') = letter {
        outline.remark(&place, format!("the priority ({letter}) became low"));
    }
    let text = words.join(" ");
    let (title, marked) = take_marked(&text, &['+', '@']);
    let projects: Vec<&str> = marked.iter().filter_map(|word| word.strip_prefix('+')).collect();
    task.labels = marked
        .iter()
        .filter_map(|word| word.strip_prefix('@'))
        .map(str::to_owned)
        .collect();
    // A line of marks only: they are its title.
    task.title = if title.is_empty() { text } else { title };
    if task.title.is_empty() {
        outline.remark(&place, "a task without a name was left out");
        return;
    }
    if let Some(completed) = completed {
        task.notes.push(format!("Completed: {completed}"));
    }
    if let Some(created) = created {
        task.notes.push(format!("Created: {created}"));
    }
    for project in projects.iter().skip(1) {
        task.labels.push((*project).to_owned());
        outline.remark(
            &place,
            format!("the project +{project} became a label, for a task is in one list"),
        );
    }
    task.place = place;
    let list = outline.list(projects.first().copied());
    outline.lists[list].tasks.push(task);
}

/// `(A) `
fn take_priority(text: &str) -> (Option<char>, &str) {
    let mut letters = text.chars();
    let found = match (letters.next(), letters.next(), letters.next(), letters.next()) {
        (Some('('), Some(letter @ 'A'..='Z'), Some(')'), Some(' ')) => Some(letter),
        _ => None,
    };
    match found {
        Some(letter) => (Some(letter), text[4..].trim_start()),
        None => (None, text),
    }
}

/// `2011-03-02 `
fn take_date(text: &str) -> (Option<Date>, &str) {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    match word.parse::<Date>() {
        Ok(date) if word.len() == 10 => (Some(date), rest.trim_start()),
        _ => (None, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> (Option<String>, OutlineTask, Vec<String>) {
        let outline = read(line);
        let list = &outline.lists[0];
        let remarks = outline.remarks.iter().map(|remark| remark.what.clone()).collect();
        (list.name.clone(), list.tasks[0].clone(), remarks)
    }

    #[test]
    fn the_examples_of_the_format_are_read_as_it_says() {
        let (list, task, _) = one("(A) Thank Mom for the meatballs @phone");
        assert_eq!(
            (list, task.priority, task.title.as_str()),
            (None, Priority::Urgent, "Thank Mom for the meatballs")
        );
        assert_eq!(task.labels, ["phone"]);

        let (list, task, _) = one("(B) Schedule Goodwill pickup +GarageSale @phone");
        assert_eq!(
            (list.as_deref(), task.title.as_str()),
            (Some("GarageSale"), "Schedule Goodwill pickup")
        );

        // No priority: it is not upper case, or not at the beginning.
        for line in [
            "Really gotta call Mom (A) @phone @someday",
            "(b) Get back to the boss",
            "(B)->Submit TPS report",
        ] {
            assert_eq!(one(line).1.priority, Priority::None, "{line}");
        }

        let (_, task, _) = one("x 2011-03-02 2011-03-01 Review Tim's pull request +TodoTxtTouch @github");
        assert_eq!(
            (task.status, task.title.as_str()),
            (Status::Done, "Review Tim's pull request")
        );
        assert_eq!(task.notes, ["Completed: 2011-03-02", "Created: 2011-03-01"]);

        let (_, task, _) = one("2011-03-02 Document +TodoTxt task format");
        assert_eq!(
            (task.status, task.title.as_str()),
            (Status::Todo, "Document +TodoTxt task format")
        );
        assert_eq!(task.notes, ["Created: 2011-03-02"]);

        // Not done: no space after the x, or a capital one.
        for line in [
            "xylophone lesson",
            "X 2012-01-01 Make resolutions",
            "(A) x Find ticket prices",
        ] {
            assert_eq!(one(line).1.status, Status::Todo, "{line}");
        }
    }

    #[test]
    fn keys_that_we_know_are_fields_and_others_stay_in_the_title() {
        let (_, task, remarks) = one("Pay rent due:2026-12-01 rec:1m t:2026-11-28 id:7 see http://example.org/a:b");
        assert_eq!(task.due, Some(Due::AllDay("2026-12-01".to_owned())));
        assert_eq!(task.title, "Pay rent id:7 see http://example.org/a:b");
        assert_eq!(task.notes, ["rec:1m", "t:2026-11-28"]);
        assert_eq!(
            remarks,
            [
                "the repetition \"rec:1m\" was kept in the notes",
                "the start \"t:2026-11-28\" was kept in the notes"
            ]
        );
        let (_, task, remarks) = one("Pay rent due:tomorrow");
        assert_eq!((task.due, task.notes), (None, vec!["due:tomorrow".to_owned()]));
        assert_eq!(remarks, ["\"due:tomorrow\" is no date and was kept in the notes"]);
    }

    #[test]
    fn a_done_task_keeps_the_priority_that_programs_move_to_a_key() {
        assert_eq!(one("x 2011-03-03 Call Mom pri:A").1.priority, Priority::Urgent);
        assert_eq!(one("x (B) 2011-03-03 Call Mom").1.priority, Priority::High);
    }

    #[test]
    fn the_sample_is_read_whole() {
        let outline = read(include_str!("samples/todo.txt"));
        let shape: Vec<(Option<&str>, usize)> = outline
            .lists
            .iter()
            .map(|list| (list.name.as_deref(), list.tasks.len()))
            .collect();
        assert_eq!(shape, [(None, 3), (Some("GarageSale"), 2), (Some("TodoTxt"), 2)]);
        let remarks: Vec<(&str, &str)> = outline
            .remarks
            .iter()
            .map(|remark| (remark.place.as_str(), remark.what.as_str()))
            .collect();
        assert_eq!(
            remarks,
            [
                ("line 4", "the priority (F) became low"),
                ("line 6", "the project +Home became a label, for a task is in one list"),
                ("line 8", "the repetition \"rec:+1w\" was kept in the notes"),
            ]
        );
    }
}
