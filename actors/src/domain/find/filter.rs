//! The language of filters: `due < tomorrow & priority >= high & !label:home`.
//!
//! ```text
//! filter = either
//! either = all { "|" all }
//! all    = each { [ "&" ] each }
//! each   = "!" each | "(" either ")" | term
//! term   = field relation value | flag | word | "\"" words "\""
//! ```

use std::fmt;
use std::iter::Peekable;
use std::str::CharIndices;

use taskflow_protocol::TaskId;
use taskflow_protocol::limits::{FILTER_BYTES_MAX, FILTER_CONDITIONS_MAX, FILTER_NESTING_MAX};
use taskflow_protocol::values::{Priority, Status};

use super::moment::When;
use super::words::words;

/// A filter that was read, and not looked up: names of lists and labels are still names.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// All of these.
    All(Vec<Filter>),
    /// At least one of these.
    Either(Vec<Filter>),
    /// Not this.
    Not(Box<Filter>),
    /// A condition on one task, and the column where it begins.
    Term(usize, Term),
}

/// One condition.
#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    /// One of these.
    Status(&'static [Status]),
    /// In this relation.
    Priority(Relation, Priority),
    /// A time in this relation.
    Time(Field, Relation, When),
    /// There is no such time.
    Without(Field),
    /// It has a label of this name or id.
    Label(String),
    /// It has no label.
    NoLabel,
    /// It is in a list of this name or id.
    List(String),
    /// It is part of this task; `None`: of none.
    Parent(Option<TaskId>),
    /// It is open, and its due time is over.
    Overdue,
    /// Its title or notes have a word that begins so.
    Prefix(String),
    /// Its title or notes have all of these words, as they are.
    Words(String),
}

/// What a task has a time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// When it is to be done.
    Due,
    /// When it must be done.
    Deadline,
    /// When it was made.
    Created,
    /// When it was last changed.
    Updated,
    /// When it was completed.
    Completed,
}

impl Field {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Due, Self::Deadline, Self::Created, Self::Updated, Self::Completed];
}

/// How a value stands to that of the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// `:` or `=`; `!=` is [`Filter::Not`] of it.
    Is,
    /// `<`
    Below,
    /// `<=`
    UpTo,
    /// `>`
    Above,
    /// `>=`
    From,
}

/// What is wrong with a filter, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError {
    /// The character where it is, from 1.
    pub column: usize,
    /// What it is.
    pub message: String,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column, self.message)
    }
}

const FIELDS: &[&str] = &[
    "status",
    "priority",
    "label",
    "list",
    "parent",
    "due",
    "deadline",
    "created",
    "updated",
    "completed",
];
const STATUSES: &[(&str, &[Status])] = &[
    ("todo", &[Status::Todo]),
    ("doing", &[Status::Doing]),
    ("done", &[Status::Done]),
    ("cancelled", &[Status::Cancelled]),
    ("open", &[Status::Todo, Status::Doing]),
    ("closed", &[Status::Done, Status::Cancelled]),
];
const PRIORITIES: &[(&str, Priority)] = &[
    ("none", Priority::None),
    ("low", Priority::Low),
    ("medium", Priority::Medium),
    ("high", Priority::High),
    ("urgent", Priority::Urgent),
];

impl Filter {
    /// Reads a filter.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > FILTER_BYTES_MAX {
            let message = format!("a filter has at most {FILTER_BYTES_MAX} bytes");
            return Err(FilterError { column: 1, message });
        }
        let mut parser = Parser {
            text,
            letters: text.char_indices().peekable(),
            conditions: 0,
        };
        let filter = parser.either(0)?;
        match parser.peek() {
            None => Ok(filter),
            Some(')') => Err(parser.error("there is no ( for this )")),
            Some(_) => Err(parser.error("the filter should have ended here")),
        }
    }

    /// Whether what it finds depends on when it is asked.
    pub fn depends_on_time(&self) -> bool {
        match self {
            Self::All(parts) | Self::Either(parts) => parts.iter().any(Self::depends_on_time),
            Self::Not(inner) => inner.depends_on_time(),
            Self::Term(_, Term::Time(_, _, when)) => when.depends_on_now(),
            Self::Term(_, term) => *term == Term::Overdue,
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    letters: Peekable<CharIndices<'t>>,
    conditions: usize,
}

impl Parser<'_> {
    /// The next letter that is no space.
    fn peek(&mut self) -> Option<char> {
        while self.letters.next_if(|(_, letter)| letter.is_whitespace()).is_some() {}
        self.letters.peek().map(|(_, letter)| *letter)
    }

    fn at(&mut self) -> usize {
        self.letters.peek().map_or(self.text.len(), |(at, _)| *at)
    }

    /// The column of the next letter that is no space.
    fn column(&mut self) -> usize {
        self.peek();
        let at = self.at();
        column_of(self.text, at)
    }

    fn error(&mut self, message: impl Into<String>) -> FilterError {
        let (column, message) = (self.column(), message.into());
        FilterError { column, message }
    }

    fn skip(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.letters.next();
        }
        found
    }

    fn either(&mut self, depth: usize) -> Result<Filter, FilterError> {
        let mut parts = vec![self.all(depth)?];
        while self.skip('|') {
            parts.push(self.all(depth)?);
        }
        Ok(one_or(parts, Filter::Either))
    }

    fn all(&mut self, depth: usize) -> Result<Filter, FilterError> {
        let mut parts = vec![self.each(depth)?];
        while !matches!(self.peek(), None | Some('|' | ')')) {
            self.skip('&');
            parts.push(self.each(depth)?);
        }
        no_sign_as_a_word(&parts)?;
        Ok(one_or(parts, Filter::All))
    }

    fn each(&mut self, depth: usize) -> Result<Filter, FilterError> {
        if depth > FILTER_NESTING_MAX {
            return Err(self.error(format!("filters are nested {FILTER_NESTING_MAX} deep at most")));
        }
        let column = self.column();
        match self.peek() {
            None => Err(self.error("a condition is missing here, such as status:open")),
            Some('!') => {
                self.letters.next();
                Ok(Filter::Not(Box::new(self.each(depth + 1)?)))
            }
            Some('(') => {
                self.letters.next();
                let inner = self.either(depth + 1)?;
                if self.skip(')') {
                    Ok(inner)
                } else {
                    let message = "this ( is never closed".to_owned();
                    Err(FilterError { column, message })
                }
            }
            Some('"') => {
                let text = self.quoted()?;
                if words(&text).is_empty() {
                    let message = "there is no word in these quotes".to_owned();
                    return Err(FilterError { column, message });
                }
                self.one_more(column, 1)?;
                Ok(Filter::Term(column, Term::Words(text)))
            }
            Some(letter) if is_special(letter) => Err(self.error(format!(
                "a condition is missing before {letter:?}, such as status:open; put text with signs into quotes"
            ))),
            Some(_) => {
                let name = self.run(is_special);
                self.one_more(column, words(&name).len().max(1))?;
                match self.relation() {
                    Some((relation, is_not)) => {
                        let condition = self.condition(&name, column, relation)?;
                        let condition = Filter::Term(column, condition);
                        match is_not {
                            true => Ok(Filter::Not(Box::new(condition))),
                            false => Ok(condition),
                        }
                    }
                    None if name.eq_ignore_ascii_case("overdue") => Ok(Filter::Term(column, Term::Overdue)),
                    None if name.starts_with(['+', '-']) || words(&name).is_empty() => {
                        let message = format!("{name:?} is no word; {SIGNS}; put text with signs into quotes");
                        Err(FilterError { column, message })
                    }
                    None => Ok(Filter::Term(column, Term::Prefix(name))),
                }
            }
        }
    }

    /// Counts conditions.
    fn one_more(&mut self, column: usize, count: usize) -> Result<(), FilterError> {
        self.conditions += count;
        if self.conditions > FILTER_CONDITIONS_MAX {
            let message = format!("a filter has at most {FILTER_CONDITIONS_MAX} conditions and words");
            return Err(FilterError { column, message });
        }
        Ok(())
    }

    /// Letters up to a space or one of these.
    fn run(&mut self, ends: fn(char) -> bool) -> String {
        let mut run = String::new();
        while let Some((_, letter)) = self
            .letters
            .next_if(|(_, letter)| !letter.is_whitespace() && !ends(*letter))
        {
            run.push(letter);
        }
        run
    }

    fn quoted(&mut self) -> Result<String, FilterError> {
        let column = self.column();
        self.letters.next();
        let mut text = String::new();
        for (_, letter) in self.letters.by_ref() {
            if letter == '"' {
                return Ok(text);
            }
            text.push(letter);
        }
        let message = "these quotes are never closed".to_owned();
        Err(FilterError { column, message })
    }

    /// The relation that begins here, and whether it is turned round.
    fn relation(&mut self) -> Option<(Relation, bool)> {
        let (first, at) = (self.peek()?, self.at());
        let with_equals = self.text.get(at + 1..).is_some_and(|rest| rest.starts_with('='));
        let (relation, length) = match (first, with_equals) {
            (':' | '=', _) => (Relation::Is, 1),
            ('!', true) => (Relation::Is, 2),
            ('<', true) => (Relation::UpTo, 2),
            ('>', true) => (Relation::From, 2),
            ('<', false) => (Relation::Below, 1),
            ('>', false) => (Relation::Above, 1),
            _ => return None,
        };
        for _ in 0..length {
            self.letters.next();
        }
        Some((relation, first == '!'))
    }

    fn condition(&mut self, name: &str, column: usize, relation: Relation) -> Result<Term, FilterError> {
        let known = FIELDS.iter().find(|known| known.eq_ignore_ascii_case(name));
        let Some(&name) = known else {
            let message = format!("there is no field {name:?}{}", meant(name, FIELDS.iter().copied()));
            return Err(FilterError { column, message });
        };
        let at = self.column();
        let is_quoted = self.peek() == Some('"');
        let value = match is_quoted {
            true => self.quoted()?,
            false => self.run(|letter| matches!(letter, '&' | '|' | '(' | ')' | '"')),
        };
        let wrong = |message: String| FilterError { column: at, message };
        if value.is_empty() {
            return Err(wrong(format!("a value for {name} is missing here")));
        }
        let is_none = value.eq_ignore_ascii_case("none");
        let field = match name {
            "due" => Field::Due,
            "deadline" => Field::Deadline,
            "created" => Field::Created,
            "updated" => Field::Updated,
            "completed" => Field::Completed,
            "priority" => {
                let priority = one_of("priority", &value, PRIORITIES).map_err(wrong)?;
                return Ok(Term::Priority(relation, priority));
            }
            _ => {
                let term = match name {
                    "status" => Term::Status(one_of("status", &value, STATUSES).map_err(wrong)?),
                    // In quotes it is the name of one.
                    "label" if is_none && !is_quoted => Term::NoLabel,
                    "label" => Term::Label(value),
                    "list" => Term::List(value),
                    _ if is_none => Term::Parent(None),
                    _ => {
                        let id = value
                            .parse()
                            .map_err(|_| wrong("parent takes a task's id, or none".to_owned()))?;
                        Term::Parent(Some(TaskId(id)))
                    }
                };
                return match relation {
                    Relation::Is => Ok(term),
                    _ => Err(FilterError {
                        column,
                        message: format!("{name} has no order: write {name}:{0}, or {name}!={0}", "…"),
                    }),
                };
            }
        };
        if is_none {
            return match relation {
                Relation::Is => Ok(Term::Without(field)),
                _ => Err(FilterError {
                    column,
                    message: format!("none has no order: write {name}:none, or {name}!=none"),
                }),
            };
        }
        let when = When::parse(&value).ok_or_else(|| {
            wrong(format!(
                "{value:?} is no time; write today, tomorrow, yesterday, now, friday, +3d, -2w, 2026-12-24 or \
                 2026-12-24T18:00"
            ))
        })?;
        Ok(Term::Time(field, relation, when))
    }
}

/// What is written for the words of other languages of filters.
const SIGNS: &str = "write & for and, | for or, ! for not";

/// Refuses AND, OR and NOT where they stand for a sign: in capitals, or beside what is no text. Between words they are words.
fn no_sign_as_a_word(parts: &[Filter]) -> Result<(), FilterError> {
    let is_text = |part: &Filter| matches!(part, Filter::Term(_, Term::Prefix(_) | Term::Words(_)));
    for (at, part) in parts.iter().enumerate() {
        let Filter::Term(column, Term::Prefix(word)) = part else {
            continue;
        };
        let is_sign = ["and", "or", "not"].iter().any(|sign| word.eq_ignore_ascii_case(sign));
        let is_loud = word.chars().all(char::is_uppercase);
        let beside = &parts[at.saturating_sub(1)..parts.len().min(at + 2)];
        if is_sign && (is_loud || !beside.iter().all(is_text)) {
            let message = format!("{word} is a word to look for here; {SIGNS}, or \"{word}\" for the word");
            return Err(FilterError {
                column: *column,
                message,
            });
        }
    }
    Ok(())
}

fn one_or(mut parts: Vec<Filter>, several: fn(Vec<Filter>) -> Filter) -> Filter {
    match parts.len() {
        1 => parts.remove(0),
        _ => several(parts),
    }
}

fn is_special(letter: char) -> bool {
    matches!(letter, '&' | '|' | '!' | '(' | ')' | '<' | '>' | '=' | ':' | '"')
}

fn column_of(text: &str, at: usize) -> usize {
    text[..at].chars().count() + 1
}

/// The one of this name, or what there is instead.
fn one_of<T: Copy>(field: &str, value: &str, all: &[(&str, T)]) -> Result<T, String> {
    let known = all.iter().find(|(known, _)| known.eq_ignore_ascii_case(value));
    known.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|(known, _)| *known).collect();
        format!("{value:?} is no {field}; it is one of {}", names.join(", "))
    })
}

/// The name that was probably meant.
pub fn meant<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> String {
    let likeness = known.map(|known| (strsim::jaro_winkler(known, &name.to_lowercase()), known));
    match likeness.max_by(|(one, _), (other, _)| one.total_cmp(other)) {
        Some((likeness, known)) if likeness > 0.8 => format!("; did you mean {known}?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// With a letter for each kind of knot, and the columns.
    fn shape(text: &str) -> String {
        fn write(filter: &Filter) -> String {
            let all = |parts: &[Filter]| parts.iter().map(write).collect::<Vec<_>>().join(" ");
            match filter {
                Filter::All(parts) => format!("&[{}]", all(parts)),
                Filter::Either(parts) => format!("|[{}]", all(parts)),
                Filter::Not(inner) => format!("!{}", write(inner)),
                Filter::Term(column, _) => column.to_string(),
            }
        }
        write(&Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")))
    }

    fn term(text: &str) -> Term {
        match Filter::parse(text) {
            Ok(Filter::Term(_, term)) => term,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn all_binds_closer_than_either_and_not_closest() {
        assert_eq!(shape("a & b | c d"), "|[&[1 5] &[9 11]]");
        assert_eq!(shape("!a b"), "&[!2 4]");
        assert_eq!(shape("!(a | b) & !!c"), "&[!|[3 7] !!14]");
        assert_eq!(shape("(a)(b)"), "&[2 5]");
        assert_eq!(shape("due < tomorrow & priority >= high & !label:home"), "&[1 18 !38]");
    }

    #[test]
    fn every_condition_is_read() {
        use Relation::{Above, Below, From, Is, UpTo};
        for (text, relation) in [
            ("priority:high", Is),
            ("priority=high", Is),
            ("PRIORITY : High", Is),
            ("priority<high", Below),
            ("priority<=high", UpTo),
            ("priority > high", Above),
            ("priority >=high", From),
        ] {
            assert_eq!(term(text), Term::Priority(relation, Priority::High), "{text}");
        }
        assert_eq!(term("status:open"), Term::Status(&[Status::Todo, Status::Doing]));
        assert_eq!(term("label:\"to buy\""), Term::Label("to buy".to_owned()));
        assert_eq!(term("Status:OPEN"), Term::Status(&[Status::Todo, Status::Doing]));
        assert_eq!(term("label:none"), Term::NoLabel);
        assert_eq!(term("Label:None"), Term::NoLabel);
        assert_eq!(term("label:\"None\""), Term::Label("None".to_owned()));
        assert_eq!(term("list:Inbox"), Term::List("Inbox".to_owned()));
        assert_eq!(term("parent:none"), Term::Parent(None));
        assert_eq!(term("PARENT:NONE"), Term::Parent(None));
        let id = "019a0000-0000-7000-8000-000000000001";
        let parent = Term::Parent(Some(TaskId(id.parse().expect("an id"))));
        assert_eq!(term(&format!("parent:{id}")), parent);
        assert_eq!(term("overdue"), Term::Overdue);
        assert_eq!(term("Overdue"), Term::Overdue);
        assert_eq!(term("milk"), Term::Prefix("milk".to_owned()));
        assert_eq!(term("\"fresh milk\""), Term::Words("fresh milk".to_owned()));
        for (name, field) in [
            ("due", Field::Due),
            ("deadline", Field::Deadline),
            ("created", Field::Created),
            ("updated", Field::Updated),
            ("completed", Field::Completed),
        ] {
            let when = When::parse("2026-12-24T18:00").expect("a time");
            assert_eq!(
                term(&format!("{name}<2026-12-24T18:00")),
                Term::Time(field, Below, when)
            );
            assert_eq!(term(&format!("{name}:none")), Term::Without(field));
            assert_eq!(term(&format!("{}:None", name.to_uppercase())), Term::Without(field));
        }
    }

    #[test]
    fn and_or_and_not_between_words_are_words() {
        for text in [
            "milk and honey",
            "to be or not to be",
            "not \"now\"",
            "Or",
            "!(a or b)",
            "\"NOT\" overdue",
        ] {
            assert!(Filter::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn errors_point_at_their_column() {
        let nested = "(".repeat(FILTER_NESTING_MAX + 2);
        for (text, column, part) in [
            ("", 1, "a condition is missing here"),
            ("a &", 4, "a condition is missing here"),
            ("a | | b", 5, "a condition is missing before '|'"),
            ("a & (b | c", 5, "this ( is never closed"),
            ("a) b", 2, "there is no ( for this )"),
            ("ü \"b", 3, "these quotes are never closed"),
            ("due < & a", 7, "a value for due is missing"),
            (
                "a & pririty:high",
                5,
                "there is no field \"pririty\"; did you mean priority?",
            ),
            ("12:30", 1, "there is no field \"12\""),
            (
                "a OR b",
                3,
                "OR is a word to look for here; write & for and, | for or, ! for not, or \"OR\" for the word",
            ),
            ("a & (b AND c)", 8, "AND is a word to look for here; write & for and"),
            ("NOT x", 1, "NOT is a word to look for here"),
            (
                "status:open or overdue",
                13,
                "or is a word to look for here; write & for and, | for or",
            ),
            ("milk or (a | b)", 6, "or is a word to look for here"),
            ("not due:today", 1, "not is a word to look for here"),
            ("a and !b", 3, "and is a word to look for here"),
            (
                "-milk",
                1,
                "\"-milk\" is no word; write & for and, | for or, ! for not; put text with signs into quotes",
            ),
            ("due > today + 3d", 13, "\"+\" is no word"),
            ("due > today +3d", 13, "\"+3d\" is no word"),
            ("a & !🦄", 6, "\"🦄\" is no word"),
            ("a ~~~", 3, "\"~~~\" is no word"),
            ("\0", 1, "\"\\0\" is no word"),
            ("a | \"!?\"", 5, "there is no word in these quotes"),
            (
                "priority > hihg",
                12,
                "\"hihg\" is no priority; it is one of none, low, medium, high, urgent",
            ),
            (
                "status:opne",
                8,
                "is no status; it is one of todo, doing, done, cancelled, open, closed",
            ),
            ("status > todo", 1, "status has no order"),
            ("a | label<home", 5, "label has no order: write label:…, or label!=…"),
            ("due<none", 1, "none has no order: write due:none, or due!=none"),
            ("due < soon", 7, "\"soon\" is no time; write today"),
            ("parent:x", 8, "parent takes a task's id, or none"),
            (nested.as_str(), FILTER_NESTING_MAX + 2, "nested"),
            (&"a|".repeat(60), 2 * FILTER_CONDITIONS_MAX + 1, "at most 50 conditions"),
            (&"a-".repeat(60), 1, "at most 50 conditions"),
        ] {
            let error = Filter::parse(text).expect_err(text);
            assert_eq!(error.column, column, "{text}: {error}");
            assert!(error.message.contains(part), "{text}: {error}");
        }
        let long = "x".repeat(FILTER_BYTES_MAX + 1);
        assert!(Filter::parse(&long).expect_err("too long").message.contains("at most"));
    }

    #[test]
    fn what_depends_on_now_is_known() {
        for (text, depends) in [
            ("due < today", true),
            ("a | !(b & overdue)", true),
            ("due < 2026-12-24", false),
            ("created > now", true),
            ("status:open", false),
        ] {
            assert_eq!(Filter::parse(text).expect(text).depends_on_time(), depends, "{text}");
        }
    }

    /// Conditions of all kinds, whose case means nothing.
    fn condition() -> impl Strategy<Value = (&'static str, &'static str)> {
        prop::sample::select(vec![
            ("status", "open"),
            ("status", "done"),
            ("priority", "high"),
            ("label", "none"),
            ("label", "home"),
            ("list", "inbox"),
            ("parent", "none"),
            ("due", "none"),
            ("due", "tomorrow"),
            ("deadline", "fri"),
            ("created", "-2w"),
            ("updated", "now"),
            ("completed", "2026-12-24"),
        ])
    }

    proptest! {
        #[test]
        fn is_not_is_the_opposite_of_is(
            (field, value) in condition(),
            is in prop::sample::select(vec![":", "=", " = "]),
            is_not in prop::sample::select(vec!["!=", " != "]),
        ) {
            let is = Filter::parse(&format!("{field}{is}{value}")).expect("it is valid");
            let is_not = Filter::parse(&format!("{field}{is_not}{value}")).expect("it is valid");
            prop_assert_eq!(is_not, Filter::Not(Box::new(is)));
        }

        #[test]
        fn the_case_of_what_is_no_name_means_nothing((field, value) in condition(), capitals in any::<u32>()) {
            let text = format!("{field}:{value}");
            let mixed: String = text
                .chars()
                .enumerate()
                .map(|(at, letter)| match capitals >> at & 1 {
                    0 => letter,
                    _ => letter.to_ascii_uppercase(),
                })
                .collect();
            let read = Filter::parse(&mixed).expect("it is valid");
            match read {
                Filter::Term(1, Term::Label(name) | Term::List(name)) => prop_assert!(name.eq_ignore_ascii_case(value)),
                read => prop_assert_eq!(read, Filter::parse(&text).expect("it is valid")),
            }
        }

        #[test]
        fn what_has_no_word_in_it_is_an_error(text in "[ -/:-@\\[-`{-~\0🦄\u{301}]{0,30}") {
            prop_assert!(Filter::parse(&text).is_err());
        }

        #[test]
        fn no_text_makes_it_panic_and_columns_are_within(text in "[ -~äß🎉]{0,60}") {
            if let Err(error) = Filter::parse(&text) {
                prop_assert!(error.column <= text.chars().count() + 1);
            }
        }

        #[test]
        fn parts_of_filters_do_not_make_it_panic(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "due", "<", "=", "!", "(", ")", "&", "|", "today", "\"", ":", "label", "x", " ", "none", "priority", "high", "OR", "not", "-", "+3d",
                ]),
                0..30,
            )
        ) {
            drop(Filter::parse(&parts.concat()));
        }
    }
}
