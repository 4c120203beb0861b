//! Todoist's CSV: a project exported as a template, or a file of its backup.
//!
//! The columns are found by their names, for they were added over the years. Rows are `task`, `section`, `note` (a comment
//! on the task above), `meta` and empty ones. <https://todoist.com/help/articles/YC8YvN> has the format. Two things to
//! know: priority 1 is the highest here (the JSON has it the other way round), and dates are words of a person's language
//! wherever a person wrote them so.

use taskflow_protocol::values::Priority;

use super::outline::{Outline, OutlineTask, take_marked};
use crate::client::dates;

/// Reads a file. `name` is what the project is called, which stands in the file's name only.
///
/// # Errors
///
/// A sentence, if it is no such file at all.
pub fn read(text: &str, name: &str) -> Result<Outline, String> {
    // With one kind of line end the reader's line numbers are those of an editor.
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .has_headers(true)
        .from_reader(text.as_bytes());
    let header = reader
        .headers()
        .map_err(|error| format!("The file is not CSV: {error}."))?
        .clone();
    let column = |name: &str| header.iter().position(|found| found.trim().eq_ignore_ascii_case(name));
    let (Some(kind), Some(content)) = (column("TYPE"), column("CONTENT")) else {
        return Err("The file is not Todoist's CSV: its first line must name the columns TYPE and CONTENT.".to_owned());
    };
    let columns = Columns {
        kind,
        content,
        description: column("DESCRIPTION"),
        priority: column("PRIORITY"),
        indent: column("INDENT"),
        responsible: column("RESPONSIBLE"),
        date: column("DATE"),
        date_language: column("DATE_LANG"),
        zone: column("TIMEZONE"),
        duration: column("DURATION"),
        duration_unit: column("DURATION_UNIT"),
        deadline: column("DEADLINE"),
        deadline_language: column("DEADLINE_LANG"),
    };
    let mut reading = Reading {
        outline: Outline::default(),
        name: name.to_owned(),
        list: None,
        above: Vec::new(),
    };
    let place = |position: Option<&csv::Position>| format!("line {}", position.map_or(0, csv::Position::line));
    let mut last = None;
    for record in reader.records() {
        match record {
            Ok(record) => {
                last = record.position().cloned();
                reading.row(&columns, &record, place(record.position()));
            }
            Err(error) => reading
                .outline
                .remark(&place(error.position()), "the line cannot be read"),
        }
    }
    // Such a quotation takes in all that follows it.
    if let Some(last) = last
        && let Some(below) = open_quotation(&text[last.byte() as usize..])
    {
        let line = last.line() + below;
        return Err(format!(
            "A quotation that begins in line {line} has no end. Is the file whole?"
        ));
    }
    Ok(reading.outline)
}

/// How many lines below its first a record begins a quotation that never ends, if it does.
fn open_quotation(record: &str) -> Option<u64> {
    let mut line = 0;
    let mut quoted = None;
    let mut begins = true;
    for byte in record.bytes() {
        line += u64::from(byte == b'\n');
        // Two marks within a quotation end it and begin it again, which is the same.
        (quoted, begins) = match quoted {
            Some(_) if byte == b'"' => (None, true),
            None if byte == b'"' && begins => (Some(line), false),
            Some(_) => (quoted, false),
            None => (None, matches!(byte, b',' | b'\n')),
        };
    }
    quoted
}

struct Columns {
    kind: usize,
    content: usize,
    description: Option<usize>,
    priority: Option<usize>,
    indent: Option<usize>,
    responsible: Option<usize>,
    date: Option<usize>,
    date_language: Option<usize>,
    zone: Option<usize>,
    duration: Option<usize>,
    duration_unit: Option<usize>,
    deadline: Option<usize>,
    deadline_language: Option<usize>,
}

struct Reading {
    outline: Outline,
    name: String,
    /// The list that the rows are in now; a project's first rows are in no section.
    list: Option<usize>,
    /// The task above, its parent, and so on: by their indent, outermost first.
    above: Vec<usize>,
}

impl Reading {
    fn row(&mut self, columns: &Columns, record: &csv::StringRecord, place: String) {
        let field = |column: Option<usize>| column.and_then(|at| record.get(at)).unwrap_or_default().trim();
        let content = field(Some(columns.content));
        match field(Some(columns.kind)) {
            "" if record.iter().all(|field| field.trim().is_empty()) => {}
            "meta" => {}
            "task" if content.is_empty() => self.outline.remark(&place, "a task without a name was left out"),
            "task" => self.task(columns, record, place),
            "section" => {
                let list = format!("{} / {content}", self.name);
                self.outline
                    .remark(&place, format!("the section \"{content}\" became the list \"{list}\""));
                self.list = Some(self.outline.list(Some(&list)));
                self.above.clear();
            }
            "note" => self.note(field(Some(columns.content)), &place),
            other => self
                .outline
                .remark(&place, format!("a row of the unknown type \"{other}\" was left out")),
        }
    }

    fn list(&mut self) -> usize {
        match self.list {
            Some(list) => list,
            None => {
                let list = self.outline.list(Some(&self.name));
                self.list = Some(list);
                list
            }
        }
    }

    fn note(&mut self, content: &str, place: &str) {
        let list = self.list();
        match self.above.last() {
            Some(task) => {
                self.outline.lists[list].tasks[*task]
                    .notes
                    .push(format!("Comment: {content}"));
                self.outline
                    .remark(place, "a comment became a part of its task's notes");
            }
            None => self
                .outline
                .remark(place, format!("a comment on the project was left out: {content}")),
        }
    }

    fn task(&mut self, columns: &Columns, record: &csv::StringRecord, place: String) {
        let field = |column: Option<usize>| column.and_then(|at| record.get(at)).unwrap_or_default().trim();
        let (title, labels) = take_marked(field(Some(columns.content)), &['@']);
        let mut task = OutlineTask {
            title: if title.is_empty() {
                field(Some(columns.content)).to_owned()
            } else {
                title
            },
            labels: labels
                .iter()
                .map(|label| label.trim_start_matches('@').to_owned())
                .collect(),
            ..OutlineTask::default()
        };
        let description = field(columns.description);
        if !description.is_empty() {
            task.notes.push(description.to_owned());
        }
        task.priority = match field(columns.priority) {
            "1" => Priority::Urgent,
            "2" => Priority::High,
            "3" => Priority::Medium,
            // Todoist's own import takes an empty cell for 1; in a file made by hand it means that nobody chose.
            "4" | "" => Priority::None,
            other => {
                self.outline
                    .remark(&place, format!("the priority \"{other}\" is not known"));
                Priority::None
            }
        };
        let date = field(columns.date);
        match dates::fixed(date, field(columns.date_language)) {
            _ if date.is_empty() => {}
            Some((day, time)) => task.due = Some(dates::local(day, time, Some(field(columns.zone)))),
            None => {
                task.notes.push(format!("Due in Todoist: {date}"));
                self.outline.remark(
                    &place,
                    format!("the date \"{date}\" is in words and was kept in the notes"),
                );
            }
        }
        let deadline = field(columns.deadline);
        match dates::fixed(deadline, field(columns.deadline_language)) {
            _ if deadline.is_empty() => {}
            Some((day, _)) => task.deadline = Some(day.to_string()),
            None => {
                task.notes.push(format!("Deadline in Todoist: {deadline}"));
                self.outline.remark(
                    &place,
                    format!("the deadline \"{deadline}\" is in words and was kept in the notes"),
                );
            }
        }
        let (amount, unit) = (field(columns.duration), field(columns.duration_unit));
        if !(amount.is_empty() || amount == "None") {
            task.duration_minutes = minutes(amount.parse().ok(), unit);
            if task.duration_minutes.is_none() {
                self.outline
                    .remark(&place, format!("the duration \"{amount} {unit}\" is not known"));
            }
        }
        let responsible = field(columns.responsible);
        if !responsible.is_empty() {
            task.notes.push(format!("Assigned to {responsible}"));
            self.outline.remark(
                &place,
                format!("the assignment to \"{responsible}\" was kept in the notes"),
            );
        }
        let indent = field(columns.indent).parse::<usize>().unwrap_or(1).max(1);
        // A row that is indented by more than one step is a part of the row above, as Todoist takes it.
        self.above.truncate(indent - 1);
        task.parent = self.above.last().copied();
        task.place = place;
        let list = self.list();
        let tasks = &mut self.outline.lists[list].tasks;
        tasks.push(task);
        let index = tasks.len() - 1;
        self.above.push(index);
    }
}

/// A duration of so many of a unit.
pub fn minutes(amount: Option<u32>, unit: &str) -> Option<u32> {
    match unit {
        "minute" => amount,
        "day" => amount?.checked_mul(24 * 60),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use taskflow_protocol::values::{Due, Zoned};

    use super::super::outline::Remark;
    use super::*;

    fn sample() -> Outline {
        read(include_str!("samples/Garden [6Crg8jQ886Wh4P5g].csv"), "Garden").expect("it is such a file")
    }

    #[test]
    fn a_quotation_without_an_end_is_named_where_it_begins() {
        let head = "TYPE,CONTENT,DESCRIPTION\n";
        let broken = |rows: &str| read(&format!("{head}{rows}"), "Garden").expect_err("it is not whole");
        assert_eq!(
            broken("task,before,\ntask,\"open,\ntask,after,\n"),
            "A quotation that begins in line 3 has no end. Is the file whole?"
        );
        assert_eq!(
            broken("task,\"two\nlines\",\"open \"\"too\"\" "),
            "A quotation that begins in line 3 has no end. Is the file whole?"
        );
        for whole in [
            "task,5\" pipe,",
            "task,5\"\" pipe,\n",
            "task,\"said \"\"no\"\"\",\"\"",
            "task,\"a\"b\"c,",
        ] {
            assert_eq!(
                read(&format!("{head}{whole}"), "Garden").map(|outline| outline.lists[0].tasks.len()),
                Ok(1)
            );
        }
    }

    #[test]
    fn sections_become_lists_and_indents_become_parents() {
        let outline = sample();
        let shape: Vec<(_, Vec<(&str, Option<_>)>)> = outline
            .lists
            .iter()
            .map(|list| {
                let tasks = list
                    .tasks
                    .iter()
                    .map(|task| (task.title.as_str(), task.parent))
                    .collect();
                (list.name.as_deref(), tasks)
            })
            .collect();
        assert_eq!(
            shape,
            [
                (
                    Some("Garden"),
                    vec![
                        ("Repot the basil", None),
                        ("Buy compost", Some(0)),
                        ("Compare prices, \"organic\" first", Some(1)),
                        ("Ask @Maria about seeds", None),
                    ]
                ),
                (
                    Some("Garden / Weekly"),
                    vec![
                        ("Water the ferns", None),
                        ("Check the seed tray", None),
                        ("Order seeds", None)
                    ]
                ),
            ]
        );
    }

    #[test]
    fn priority_one_is_urgent_and_four_is_none() {
        let outline = sample();
        let priorities: Vec<Priority> = outline
            .lists
            .iter()
            .flat_map(|list| &list.tasks)
            .map(|task| task.priority)
            .collect();
        use Priority::{High, Medium, None, Urgent};
        assert_eq!(priorities, [Urgent, None, None, None, High, Medium, None]);
    }

    #[test]
    fn dates_durations_labels_and_notes_are_carried_over() {
        let outline = sample();
        let basil = &outline.lists[0].tasks[0];
        assert_eq!(basil.due, Some(Due::AllDay("2026-10-05".to_owned())));
        assert_eq!(basil.duration_minutes, Some(30));
        assert_eq!(basil.labels, ["garden", "weekend"]);
        assert_eq!(basil.notes, ["Terracotta pot from the shed.\nThe big one."]);
        let compost = &outline.lists[0].tasks[1];
        assert_eq!(
            compost.notes,
            ["Assigned to Kai (48151623)", "Comment: Get the peat-free one"]
        );
        let seeds = &outline.lists[1].tasks[2];
        let zoned = Zoned {
            local: "2026-10-06T15:30:00".to_owned(),
            zone: "Africa/Cairo".to_owned(),
        };
        assert_eq!(
            (seeds.due.clone(), seeds.deadline.as_deref()),
            (Some(Due::Zoned(zoned)), Some("2026-10-09"))
        );
        assert_eq!(outline.lists[0].tasks[3].labels, ["Maria"]);
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_line() {
        let remark = |line: u32, what: &str| Remark {
            place: format!("line {line}"),
            what: what.to_owned(),
        };
        assert_eq!(
            sample().remarks,
            [
                remark(5, "the assignment to \"Kai (48151623)\" was kept in the notes"),
                remark(6, "a comment became a part of its task's notes"),
                remark(10, "the section \"Weekly\" became the list \"Garden / Weekly\""),
                remark(
                    11,
                    "the date \"every monday at 9am\" is in words and was kept in the notes"
                ),
                remark(12, "the date \"jeden Tag\" is in words and was kept in the notes"),
                remark(14, "a task without a name was left out"),
                remark(15, "a row of the unknown type \"reminder\" was left out"),
            ]
        );
    }

    #[test]
    fn older_files_without_the_newer_columns_are_read_too() {
        let text = "TYPE,CONTENT,PRIORITY,INDENT,AUTHOR,RESPONSIBLE,DATE,DATE_LANG\ntask,Old,2,1,,,2015-01-02,en\n";
        let outline = read(text, "Old").expect("it is such a file");
        assert_eq!(
            outline.lists[0].tasks[0].due,
            Some(Due::AllDay("2015-01-02".to_owned()))
        );
        assert_eq!(outline.remarks, []);
    }

    #[test]
    fn another_csv_is_refused_with_a_sentence() {
        assert_eq!(
            read("a,b\n1,2\n", "x"),
            Err("The file is not Todoist's CSV: its first line must name the columns TYPE and CONTENT.".to_owned())
        );
    }
}
