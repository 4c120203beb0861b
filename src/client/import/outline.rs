//! What a file says, in our words: lists of tasks, and what does not fit.
//!
//! Architecture invariant: readers turn text into this and do no I/O; nothing here knows ids or the server.

use taskflow_protocol::TaskId;
use taskflow_protocol::model::Settings;
use taskflow_protocol::values::{Due, Priority, Status};

/// What was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outline {
    /// The format: ids that are derived from one say nothing of another.
    pub format: &'static str,
    /// In the order of the file.
    pub lists: Vec<OutlineList>,
    /// Labels that are to be there even if no task has them, or that have a colour.
    pub labels: Vec<OutlineLabel>,
    /// Whether it is TaskFlow's own: its texts are such as the server takes, and stay as they are to the byte; the lists before the
    /// inbox were put there.
    pub is_own: bool,
    /// Where it has any.
    pub settings: Option<Settings>,
    /// What could not be carried over, or not as it was.
    pub remarks: Vec<Remark>,
}

/// A list.
#[derive(Clone, Debug, PartialEq)]
pub struct OutlineList {
    /// Absent: the inbox.
    pub name: Option<String>,
    /// `#rrggbb`.
    pub color: Option<String>,
    /// Put away.
    pub archived: bool,
    /// In their order, but that parents come before their parts.
    pub tasks: Vec<OutlineTask>,
}

/// A label.
#[derive(Clone, Debug, PartialEq)]
pub struct OutlineLabel {
    /// Without the @.
    pub name: String,
    /// `#rrggbb`.
    pub color: Option<String>,
}

/// A task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutlineTask {
    /// Where it stands in the file, for a person: `line 14`.
    pub place: String,
    /// Its id, where the file is of TaskFlow: it stays the same task.
    pub id: Option<TaskId>,
    /// What the source calls it, where it has ids.
    pub source_id: Option<String>,
    /// One line.
    pub title: String,
    /// Paragraphs of Markdown, to be joined by empty lines.
    pub notes: Vec<String>,
    /// Where it stands.
    pub status: Status,
    /// How much it matters.
    pub priority: Priority,
    /// When to do it.
    pub due: Option<Due>,
    /// `YYYY-MM-DD`.
    pub deadline: Option<String>,
    /// In minutes.
    pub duration_minutes: Option<u32>,
    /// Names, without the @.
    pub labels: Vec<String>,
    /// Index of the parent, earlier in the same list.
    pub parent: Option<usize>,
}

/// Something that was lost or changed on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct Remark {
    /// Where in the file.
    pub place: String,
    /// What, as a sentence without its full stop.
    pub what: String,
}

impl Outline {
    /// Notes that something was lost or changed.
    pub fn remark(&mut self, place: &str, what: impl Into<String>) {
        self.remarks.push(Remark {
            place: place.to_owned(),
            what: what.into(),
        });
    }

    /// The list of this name, made if it is new; its index.
    pub fn list(&mut self, name: Option<&str>) -> usize {
        if let Some(at) = self.lists.iter().position(|list| list.name.as_deref() == name) {
            return at;
        }
        self.lists.push(OutlineList {
            name: name.map(str::to_owned),
            color: None,
            archived: false,
            tasks: Vec::new(),
        });
        self.lists.len() - 1
    }
}

/// Takes the words with this mark from the end of a title, and finds those in the middle without taking them: there they
/// belong to the sentence.
pub fn take_marked(title: &str, marks: &[char]) -> (String, Vec<String>) {
    let marked = |word: &str| {
        let mut letters = word.chars();
        letters.next().is_some_and(|first| marks.contains(&first)) && letters.next().is_some()
    };
    let words: Vec<&str> = title.split_whitespace().collect();
    let found = words
        .iter()
        .filter(|word| marked(word))
        .map(|word| (*word).to_owned())
        .collect();
    let kept = words.iter().rposition(|word| !marked(word)).map_or(0, |last| last + 1);
    if kept == words.len() {
        // Untouched, its inner spaces too.
        return (title.trim().to_owned(), found);
    }
    (words[..kept].join(" "), found)
}
