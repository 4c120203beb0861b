//! `taskflow watch`: the live view.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use taskflow_protocol::message::{Entry, LeftOut};
use tokio::time::Instant;

use super::connection::{Client, Happening, Status};
use super::profile::Profile;
use super::replica::{Effect, Event, is_open};
use super::text::{self, printable};
use super::{Watch, dates, say, warn};

/// Milliseconds between redraws while nothing happens: the countdown to the next try is in seconds.
const TICK_MS: u64 = 1_000;
/// Milliseconds between redraws while much happens: faster than a person reads.
const REDRAW_MS: u64 = 100;
/// Changes that stand below the lists.
const RECENT_SHOWN: usize = 5;

/// `watch`.
pub async fn run(args: Watch) -> anyhow::Result<ExitCode> {
    let mut client = Client::open(Profile::open(args.place.profile)?, super::encoding())?;
    let shown = if args.json {
        json_lines(&mut client).await
    } else if args.log || !std::io::stdout().is_terminal() {
        log_lines(&mut client).await
    } else {
        screen(&mut client, args.all).await
    };
    let closed = client.close().await;
    shown?;
    closed?;
    Ok(ExitCode::SUCCESS)
}

/// Each entry as it came over the wire. How the connection stands goes to standard error.
async fn json_lines(client: &mut Client) -> anyhow::Result<()> {
    loop {
        match client.next(None).await? {
            Happening::Event(Event::Applied(entry, _)) => say(&serde_json::to_string(&entry)?)?,
            // Whoever reads this keeps a view: it must know that entries were skipped.
            Happening::Event(Event::Reset(reason, seq)) => {
                say(&json!({ "reset": { "reason": reason, "seq": seq } }).to_string())?;
            }
            Happening::Event(Event::LeftOut(rows)) => say(&json!({ "left_out": rows }).to_string())?,
            Happening::Event(_) | Happening::Tick => {}
            Happening::Status(status) => warn(&status_line(&status, zone(client))),
            Happening::Interrupted => return Ok(()),
        }
    }
}

/// One line a change.
async fn log_lines(client: &mut Client) -> anyhow::Result<()> {
    loop {
        match client.next(None).await? {
            Happening::Event(Event::Applied(entry, effects)) => {
                for line in stamped(client, &entry, &effects) {
                    say(&line)?;
                }
            }
            Happening::Event(Event::Reset(_, seq)) => {
                let rows = client.replica().rows();
                let open = rows
                    .tasks
                    .values()
                    .filter(|task| is_open(task) && rows.task_shown(task))
                    .count();
                say(&format!("-- everything up to entry {seq}: {open} open tasks"))?;
            }
            Happening::Event(event) => {
                if let Some(line) = settled_line(client, &event) {
                    say(&line)?;
                }
            }
            Happening::Status(status) => say(&format!("-- {}", status_line(&status, zone(client))))?,
            Happening::Tick => {}
            Happening::Interrupted => return Ok(()),
        }
    }
}

/// The user's time zone.
fn zone(client: &Client) -> &str {
    let settings = client.replica().rows().settings.as_ref();
    settings.map_or("UTC", |settings| settings.time_zone.as_str())
}

fn stamped(client: &Client, entry: &Entry, effects: &[Effect]) -> Vec<String> {
    let rows = client.replica().rows();
    let time = dates::moment(entry.time, zone(client)).strftime("%H:%M:%S").to_string();
    text::entry_lines(rows, entry, effects)
        .into_iter()
        .map(|line| format!("{time}  {line}"))
        .collect()
}

/// What became of an operation, where it is not simply done.
fn settled_line(client: &Client, event: &Event) -> Option<String> {
    let rows = client.replica().rows();
    match event {
        Event::Refused(operation, error) => {
            let what = text::command_line(rows, &operation.command);
            Some(format!("-- refused: {what}: {}", printable(&error.message)))
        }
        Event::Conflict(operation, _) => {
            let what = text::command_line(rows, &operation.command);
            Some(format!("-- not made, because the row has changed meanwhile: {what}"))
        }
        Event::Parked(operation, _) => {
            let what = text::command_line(rows, &operation.command);
            Some(format!("-- not sent again: {what}; see `taskflow pending`"))
        }
        Event::LeftOut(rows) => {
            let named = rows.iter().map(|row| match row {
                LeftOut::List(id) => format!("list {id}"),
                LeftOut::Task(id) => format!("task {id}"),
                LeftOut::Label(id) => format!("label {id}"),
            });
            let named: Vec<String> = named.collect();
            Some(format!(
                "-- damaged in the server's store, to be restored from a backup by its operator: {}",
                named.join(", ")
            ))
        }
        _ => None,
    }
}

fn status_line(status: &Status, zone: &str) -> String {
    match status {
        Status::Connecting => "not live: connecting".to_owned(),
        Status::CatchingUp(seq, head) => format!("not live: catching up, entry {seq} of {head}"),
        Status::Live => "live".to_owned(),
        Status::Stale(since) => {
            let since = dates::moment(*since, zone).strftime("%H:%M:%S");
            format!("not live: since {since} the server cannot find out what has changed")
        }
        Status::Waiting(until, why) => {
            let left = until.saturating_duration_since(Instant::now());
            // Rounded up: nobody is told to wait for 0 seconds.
            let seconds = left.as_millis().div_ceil(1000);
            format!("not live: reconnecting in {seconds} s ({})", printable(why))
        }
    }
}

/// The lists, redrawn in place.
async fn screen(client: &mut Client, closed_too: bool) -> anyhow::Result<()> {
    let terminal = console::Term::stdout();
    let mut recent: Vec<String> = Vec::new();
    terminal.hide_cursor()?;
    terminal.clear_screen()?;
    let watched = watch_screen(client, &terminal, &mut recent, closed_too).await;
    terminal.show_cursor()?;
    watched
}

async fn watch_screen(
    client: &mut Client,
    terminal: &console::Term,
    recent: &mut Vec<String>,
    closed_too: bool,
) -> anyhow::Result<()> {
    let mut drawn_at: Option<Instant> = None;
    loop {
        let now = Instant::now();
        let due = drawn_at.map_or(now, |drawn| drawn + Duration::from_millis(REDRAW_MS));
        if due <= now {
            draw(client, terminal, recent, closed_too)?;
            drawn_at = Some(now);
        }
        let wake = if due <= now {
            now + Duration::from_millis(TICK_MS)
        } else {
            due
        };
        let mut changed = false;
        while !changed {
            changed = match client.next(Some(wake)).await? {
                Happening::Event(Event::Applied(entry, effects)) => {
                    recent.extend(stamped(client, &entry, &effects));
                    true
                }
                Happening::Event(event) => {
                    recent.extend(settled_line(client, &event));
                    true
                }
                Happening::Status(_) | Happening::Tick => true,
                Happening::Interrupted => return Ok(()),
            };
        }
        let surplus = recent.len().saturating_sub(RECENT_SHOWN);
        recent.drain(..surplus);
    }
}

fn draw(client: &Client, terminal: &console::Term, recent: &[String], closed_too: bool) -> anyhow::Result<()> {
    let (height, width) = terminal.size();
    let (height, width) = (usize::from(height), usize::from(width));
    let frame = frame(client, recent, closed_too, height, width);
    // In one write, line by line over the old picture: no flicker, and nothing stale below.
    let mut bytes = String::from("\x1b[H");
    for (number, line) in frame.iter().enumerate() {
        if number > 0 {
            bytes.push_str("\r\n");
        }
        bytes.push_str(line);
        bytes.push_str("\x1b[K");
    }
    bytes.push_str("\x1b[J");
    let mut out = std::io::stdout().lock();
    out.write_all(bytes.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// The picture: how the connection stands first, so that a stale screen says so.
fn frame(client: &Client, recent: &[String], closed_too: bool, height: usize, width: usize) -> Vec<String> {
    let rows = client.replica().rows();
    let status = client.status();
    let pending = client.replica().pending().len();
    let mut head = format!(
        "TaskFlow  {}  {}",
        printable(&client.account().email),
        status_line(status, zone(client))
    );
    if pending > 0 {
        head.push_str(&format!("  {pending} changes on their way"));
    }
    if !client.parked().is_empty() {
        head.push_str(&format!("  {} not sent, see `taskflow pending`", client.parked().len()));
    }
    let style = match status {
        Status::Live => console::Style::new().green(),
        _ => console::Style::new().yellow().bold(),
    };
    let fit = |line: &str| console::truncate_str(line, width, "…").into_owned();
    let mut lines = vec![style.apply_to(fit(&head)).to_string(), String::new()];
    let below = if recent.is_empty() { 1 } else { recent.len() + 2 };
    let room = height.saturating_sub(lines.len() + below).max(1);
    let overview = text::overview(rows, closed_too);
    if overview.is_empty() && client.replica().position().is_some() {
        lines.push("Nothing to do.".to_owned());
    } else if overview.len() > room {
        let hidden = overview.len() - (room - 1);
        lines.extend(overview.iter().take(room - 1).map(|line| fit(line)));
        lines.push(fit(&format!("… and {hidden} lines more; `taskflow list` shows all")));
    } else {
        lines.extend(overview.iter().map(|line| fit(line)));
    }
    lines.push(String::new());
    if !recent.is_empty() {
        lines.extend(recent.iter().map(|line| console::style(fit(line)).dim().to_string()));
        lines.push(String::new());
    }
    let last = lines.len() - 1;
    lines[last] = fit("Ctrl-C ends");
    lines
}
