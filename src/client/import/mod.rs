//! `taskflow import`: tasks from other programs' files.
//!
//! A reader turns the file into an [`outline`], [`plan`] turns that into operations with derived ids, and this sends them.

use std::collections::{HashMap, VecDeque};
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use taskflow_protocol::limits::NAME_BYTES_MAX;
use taskflow_protocol::message::ErrorBody;
use taskflow_protocol::{Code, OperationId};
use tokio::time::Instant;

use self::outline::{Outline, Remark};
use self::plan::{Kind, Plan, Step, Wishes};
use super::connection::{Client, GaveUp, Happening, Status};
use super::profile::Profile;
use super::replica::{Event, is_already_there};
use super::text::printable;
use super::{Import, commands, say, warn};

pub mod outline;
pub mod plan;
pub mod taskflow_json;
pub mod todo_txt;
pub mod todoist_csv;
pub mod todoist_json;

/// Largest file, in bytes. As many tasks as a feed may hold are about 15 MB of JSON.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Operations that wait to be sent or settled at once: twice what is on the way, so that the way is never empty.
const WAITING_MAX: usize = 400;
/// Milliseconds without the server after which an import ends rather than wait for ever. It can be run again.
const AWAY_MAX_MS: u64 = 10 * 60 * 1000;
/// Milliseconds between redraws of the countdown.
const TICK_MS: u64 = 1_000;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Found out from the file.
    Auto,
    /// What `taskflow export` wrote.
    TaskflowJson,
    /// A project exported from Todoist, or a file of its backup.
    TodoistCsv,
    /// Everything, as Todoist's sync API gives it.
    TodoistJson,
    /// One task a line.
    TodoTxt,
}

/// `import`.
pub async fn run(args: Import) -> anyhow::Result<ExitCode> {
    if let Some(name) = &args.list {
        commands::check_line("The name of --list", name, NAME_BYTES_MAX)?;
    }
    // All files are read before anything is sent: a typo in the last one must not leave half an import.
    let mut files = Vec::new();
    for path in &args.files {
        let bytes = read_file(path)?;
        files.push((path, read(path, &bytes, args.format)?));
    }
    let mut client = Client::open(Profile::open(args.place.profile.clone())?, super::encoding())?;
    if !commands::until_live(&mut client).await? {
        bail!("{}", commands::not_live(&client));
    }
    let mut code = ExitCode::SUCCESS;
    for (path, outline) in files {
        let user = client.replica().feed().context("a live client has a feed")?;
        let wishes = Wishes {
            list: args.list.as_deref(),
            again: args.again,
        };
        let plan = plan::plan(&outline, user, client.replica().rows(), wishes).map_err(GaveUp)?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let name = printable(&name);
        if args.dry_run {
            say(&format!("{name}: {}", would_do(&plan)))?;
            report(&outline.remarks, &plan.remarks, &[]);
            continue;
        }
        let mut importing = Importing::new(&plan);
        let ended = importing.run(&mut client, &name).await;
        let lines = importing.summary(&plan);
        say(&format!("{name}: {lines}"))?;
        report(&outline.remarks, &plan.remarks, &importing.refused);
        if !importing.refused.is_empty() {
            code = ExitCode::FAILURE;
        }
        if let Err(error) = ended {
            client.close().await?;
            return Err(error);
        }
    }
    client.close().await?;
    Ok(code)
}

fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let length = std::fs::metadata(path)
        .with_context(|| format!("Cannot read {shown}"))?
        .len();
    if length > FILE_BYTES_MAX {
        bail!("{shown} is larger than {FILE_BYTES_MAX} bytes; split it.");
    }
    std::fs::read(path).with_context(|| format!("Cannot read {shown}"))
}

/// Reads a file of this format.
///
/// # Errors
///
/// A sentence that names the file.
pub fn read(path: &Path, bytes: &[u8], format: Format) -> anyhow::Result<Outline> {
    let shown = path.display();
    if bytes.starts_with(b"PK\x03\x04") {
        bail!("{shown} is a ZIP file. Unpack it and import the .csv files in it.");
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        bail!("{shown} is in UTF-16. Save it as UTF-8 and try again.");
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let line = bytes[..error.valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                + 1;
            bail!("{shown} is not UTF-8 text (line {line}). Save it as UTF-8 and try again.");
        }
    };
    let format = match format {
        Format::Auto => detect(path, text).map_err(|sentence| GaveUp(format!("{shown}: {sentence}")))?,
        format => format,
    };
    let (name, outline) = match format {
        Format::TaskflowJson => ("taskflow-json", taskflow_json::read(text)),
        Format::TodoistCsv => ("todoist-csv", todoist_csv::read(text, &project_name(path))),
        Format::TodoistJson => ("todoist-json", todoist_json::read(text)),
        Format::TodoTxt | Format::Auto => ("todo-txt", Ok(todo_txt::read(text))),
    };
    let outline = outline.map(|outline| Outline {
        format: name,
        ..outline
    });
    outline.map_err(|sentence| GaveUp(format!("{shown}: {sentence}")).into())
}

fn detect(path: &Path, text: &str) -> Result<Format, String> {
    let start = text.trim_start_matches('\u{feff}').trim_start();
    let first_line = start.lines().next().unwrap_or_default().to_uppercase();
    let extension = path
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default()
        .to_lowercase();
    if first_line.starts_with("TYPE,") || first_line.contains(",CONTENT,") {
        Ok(Format::TodoistCsv)
    } else if taskflow_json::is_marked(start) {
        Ok(Format::TaskflowJson)
    } else if start.starts_with('{') || (start.starts_with('[') && extension == "json") {
        Ok(Format::TodoistJson)
    } else if extension == "txt" {
        Ok(Format::TodoTxt)
    } else {
        Err("what this file is cannot be seen. Say it with --format.".to_owned())
    }
}

/// Todoist names its files `Garden [6Crg8jQ886Wh4P5g].csv`, after the project and its id.
fn project_name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    // What a browser calls it the second time: `Garden [6Crg8jQ886Wh4P5g] (1).csv`.
    let name = match stem.rsplit_once(" [") {
        Some((name, id)) if id.ends_with(']') || id.contains("] (") => name,
        _ => &stem,
    };
    name.trim().to_owned()
}

fn would_do(plan: &Plan) -> String {
    let count = |kind| plan.steps.iter().filter(|step| step.kind == kind).count();
    let (tasks, lists, labels) = (count(Kind::Task), count(Kind::List), count(Kind::Label));
    let settings = match count(Kind::Settings) {
        0 => "",
        _ => "would change the settings; ",
    };
    format!(
        "would add {tasks} tasks, {lists} lists and {labels} labels; {settings}{} tasks are there already",
        plan.already_there
    )
}

/// What is lost or changed, and what the server refused.
fn report(read: &[Remark], planned: &[Remark], refused: &[Remark]) {
    let tell = |title: &str, remarks: &[&Remark]| {
        if !remarks.is_empty() {
            warn(title);
        }
        for remark in remarks {
            let place = if remark.place.is_empty() {
                String::new()
            } else {
                format!("{}: ", printable(&remark.place))
            };
            warn(&format!("  {place}{}", printable(&remark.what)));
        }
    };
    tell(
        "Not carried over as it was:",
        &read.iter().chain(planned).collect::<Vec<_>>(),
    );
    tell("Refused by the server:", &refused.iter().collect::<Vec<_>>());
}

/// How a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    Waits,
    There,
    Failed,
}

/// An import under way.
struct Importing<'a> {
    steps: &'a [Step],
    stands: Vec<Stand>,
    by_operation: HashMap<OperationId, usize>,
    queue: VecDeque<usize>,
    waiting: usize,
    refused: Vec<Remark>,
}

impl<'a> Importing<'a> {
    fn new(plan: &'a Plan) -> Self {
        Self {
            steps: &plan.steps,
            stands: vec![Stand::Waits; plan.steps.len()],
            by_operation: plan
                .steps
                .iter()
                .enumerate()
                .map(|(at, step)| (step.operation.id, at))
                .collect(),
            queue: (0..plan.steps.len()).collect(),
            waiting: 0,
            refused: Vec::new(),
        }
    }

    async fn run(&mut self, client: &mut Client, name: &str) -> anyhow::Result<()> {
        let bar = progress(self.steps.len(), name);
        let mut away_since: Option<Instant> = None;
        loop {
            self.fill(client)?;
            if self.waiting == 0 {
                bar.finish_and_clear();
                return Ok(());
            }
            let wake = Instant::now() + Duration::from_millis(TICK_MS);
            match client.next(Some(wake)).await {
                Ok(Happening::Event(event)) => self.event(client, event)?,
                Ok(Happening::Interrupted) => {
                    bar.finish_and_clear();
                    bail!("Interrupted. Run the same command again to go on; nothing is doubled.");
                }
                Ok(Happening::Status(_) | Happening::Tick) => {}
                Err(error) => {
                    bar.finish_and_clear();
                    return Err(error);
                }
            }
            let was_away = away_since.is_some();
            away_since = match client.status() {
                Status::Live => None,
                _ => away_since.or_else(|| Some(Instant::now())),
            };
            // Where there is a bar, it says so itself.
            match (was_away, away_since.is_some()) {
                (false, true) if bar.is_hidden() => {
                    let why = match client.status() {
                        Status::Waiting(_, why) => why,
                        _ => "The server does not answer.",
                    };
                    warn(&format!(
                        "{why} The import goes on by itself when that is over; to stop, press Ctrl-C, and run the same command \
                         again later: nothing is doubled."
                    ));
                }
                (true, false) if bar.is_hidden() => warn("The server is back; the import goes on."),
                _ => {}
            }
            if away_since.is_some_and(|since| since.elapsed() >= Duration::from_millis(AWAY_MAX_MS)) {
                bar.finish_and_clear();
                bail!(
                    "{} Run the same command again to go on; nothing is doubled.",
                    commands::not_live(client)
                );
            }
            bar.set_position((self.steps.len() - self.queue.len() - self.waiting) as u64);
            bar.set_message(match client.status() {
                Status::Live => String::new(),
                Status::Waiting(until, _) => {
                    let left = until
                        .saturating_duration_since(Instant::now())
                        .as_millis()
                        .div_ceil(1000);
                    format!("reconnecting in {left} s")
                }
                Status::Stale(_) => "the server does not reach its database".to_owned(),
                Status::Connecting | Status::CatchingUp(..) => "reconnecting".to_owned(),
            });
        }
    }

    /// Hands steps to the client while there is room.
    fn fill(&mut self, client: &mut Client) -> anyhow::Result<()> {
        while self.waiting < WAITING_MAX {
            let Some(at) = self.queue.pop_front() else {
                return Ok(());
            };
            let step = &self.steps[at];
            let failed = step.needs.iter().find(|need| self.stands[**need] == Stand::Failed);
            if let Some(need) = failed {
                let what = format!(
                    "\"{}\" was left out, because \"{}\" was",
                    step.name, self.steps[*need].name
                );
                self.fail(at, what);
                continue;
            }
            match client.submit_derived(step.operation.clone()) {
                Ok(()) => self.waiting += 1,
                Err(error) => self.fail(at, format!("\"{}\": {error:#}", step.name)),
            }
        }
        Ok(())
    }

    fn fail(&mut self, at: usize, what: String) {
        self.stands[at] = Stand::Failed;
        self.refused.push(Remark {
            place: self.steps[at].place.clone(),
            what,
        });
    }

    fn event(&mut self, client: &Client, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Retired(id, _) => {
                if let Some(at) = self.by_operation.get(&id).copied() {
                    self.waiting -= 1;
                    self.stands[at] = Stand::There;
                }
            }
            Event::Refused(operation, error) => {
                if let Some(at) = self.by_operation.get(&operation.id).copied() {
                    self.waiting -= 1;
                    self.refused(at, &error);
                } else {
                    commands::tell_of_earlier(client, &Event::Refused(operation, error));
                }
            }
            other => commands::tell_of_earlier(client, &other),
        }
        Ok(())
    }

    fn refused(&mut self, at: usize, error: &ErrorBody) {
        let step = &self.steps[at];
        // What it needs was itself refused, or put off (for lack of room, say): then it comes again after that.
        let lacks = step.needs.iter().find(|need| self.stands[**need] == Stand::Failed);
        let needs_wait = step.needs.iter().any(|need| self.stands[*need] == Stand::Waits);
        if is_already_there(error) {
            self.stands[at] = Stand::There;
        } else if needs_wait && matches!(error.code, Code::RowNotFound | Code::ParentElsewhere) {
            self.queue.push_back(at);
        } else if let Some(need) = lacks {
            self.fail(
                at,
                format!(
                    "\"{}\" was left out, because \"{}\" was",
                    step.name, self.steps[*need].name
                ),
            );
        } else {
            self.fail(at, format!("\"{}\": {}", step.name, error.message));
        }
    }

    fn summary(&self, plan: &Plan) -> String {
        let there = |kind| {
            let steps = self.steps.iter().zip(&self.stands);
            steps
                .filter(|(step, stand)| step.kind == kind && **stand == Stand::There)
                .count()
        };
        let mut text = format!("{} tasks imported", there(Kind::Task));
        for (kind, words) in [(Kind::List, "new lists"), (Kind::Label, "new labels")] {
            let count = there(kind);
            if count > 0 {
                text.push_str(&format!(", {count} {words}"));
            }
        }
        if there(Kind::Settings) > 0 {
            text.push_str(", the settings");
        }
        if plan.already_there > 0 {
            text.push_str(&format!(", {} were there already", plan.already_there));
        }
        if plan.in_bin > 0 {
            text.push_str(&format!(
                " ({} of them in the bin; --again brings those once more)",
                plan.in_bin
            ));
        }
        let open = self.stands.iter().filter(|stand| **stand == Stand::Waits).count();
        if open > 0 {
            text.push_str(&format!(", {open} still to do"));
        }
        if !self.refused.is_empty() {
            text.push_str(&format!(", {} refused", self.refused.len()));
        }
        text
    }
}

fn progress(steps: usize, name: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {eta} {msg}")
        .expect("the template is a constant that was tried");
    let bar = ProgressBar::new(steps as u64).with_style(style.progress_chars("=> "));
    bar.set_prefix(name.to_owned());
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_what_is_in_them() {
        let check = |name: &str, text: &str, expected: Result<Format, ()>| {
            assert_eq!(detect(Path::new(name), text).map_err(drop), expected, "{name}");
        };
        check("a.csv", "\u{feff}TYPE,CONTENT,DESCRIPTION\n", Ok(Format::TodoistCsv));
        check("a.txt", "TYPE,CONTENT,PRIORITY\n", Ok(Format::TodoistCsv));
        check("a.json", " {\"items\":[]}", Ok(Format::TodoistJson));
        check("a.json", "[{}]", Ok(Format::TodoistJson));
        check("a.json", "{ \"taskflow\": 1, cut off", Ok(Format::TaskflowJson));
        check("a.json", "{\"tasks\":[],\"taskflow\":1}", Ok(Format::TaskflowJson));
        check("todo.txt", "[ ] buy milk", Ok(Format::TodoTxt));
        check("todo.txt", "(A) buy milk", Ok(Format::TodoTxt));
        check("todo.txt", "", Ok(Format::TodoTxt));
        check("a.csv", "name,date\n", Err(()));
        check("todo", "buy milk", Err(()));
    }

    #[test]
    fn what_cannot_be_read_is_said_in_a_sentence() {
        let check = |bytes: &[u8], expected: &str| {
            let error = read(Path::new("x.txt"), bytes, Format::Auto).expect_err("it cannot be read");
            assert_eq!(error.to_string(), expected);
        };
        check(
            b"PK\x03\x04rest",
            "x.txt is a ZIP file. Unpack it and import the .csv files in it.",
        );
        check(b"\xff\xfea\0", "x.txt is in UTF-16. Save it as UTF-8 and try again.");
        check(
            b"good\nb\xe4d",
            "x.txt is not UTF-8 text (line 2). Save it as UTF-8 and try again.",
        );
    }

    #[test]
    fn a_project_is_called_as_its_file_without_the_id() {
        assert_eq!(project_name(Path::new("x/Garden [6Crg8jQ886Wh4P5g].csv")), "Garden");
        assert_eq!(project_name(Path::new("Garden [6Crg8jQ886Wh4P5g] (1).csv")), "Garden");
        assert_eq!(project_name(Path::new("Garden.csv")), "Garden");
        assert_eq!(project_name(Path::new("Garden (1).csv")), "Garden (1)");
    }
}
