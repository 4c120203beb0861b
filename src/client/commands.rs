//! The commands that do one thing and end.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use taskflow_actors::ports::Clock;
use taskflow_protocol::limits::{NAME_BYTES_MAX, TITLE_BYTES_MAX};
use taskflow_protocol::message::{Batch, Command, LabelCreate, ListCreate, TaskCreate, TaskMove, TaskPatch, TaskRef};
use taskflow_protocol::model::TaskFields;
use taskflow_protocol::values::{Due, Priority};
use taskflow_protocol::{LabelId, ListId, OperationId, TaskId};
use tokio::time::Instant;

use super::auth::{self, AuthError, Tokens};
use super::connection::{Client, GaveUp, Happening, Status, renew};
use super::find::{self, Among, short_id};
use super::profile::{Account, Profile};
use super::replica::{Event, Rows, is_open};
use super::text::{self, printable};
use super::{
    Add, Edit, Export, Forgot, List, Lists, Logout, NewEmail, Password, Pending, Place, Sessions, SignIn, What, dates,
    say, warn,
};
use crate::clock::SystemClock;

/// Milliseconds that a command waits for the server before it says what it can do without. A restart takes less.
pub(super) const PATIENCE_MS: u64 = 5_000;

/// How to sign in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// With a new account.
    Register,
    /// With an old one.
    Login,
    /// With one that is to be deleted, and is kept after all.
    Restore,
}

/// `register`, `login` and `account restore`.
pub async fn sign_in(args: SignIn, door: Door) -> anyhow::Result<ExitCode> {
    let profile = Profile::open(args.place.profile)?;
    let before = profile.account()?;
    let server = server(args.server, before.as_ref())?;
    let email = args.email.trim().to_owned();
    if let Some(account) = &before
        && (account.email != email || account.server != server || door == Door::Register)
    {
        bail!(
            "{} is signed in here ({}). Use `taskflow logout` first, or another folder with --profile.",
            account.email,
            account.server
        );
    }
    let password = super::password(args.password_stdin, door == Door::Register)?;
    let (address, name) = (server.clone(), email.clone());
    let tokens = tokio::task::spawn_blocking(move || match door {
        Door::Register => auth::register(&address, &name, &password),
        Door::Login => auth::login(&address, &name, &password).map(Some),
        Door::Restore => auth::restore(&address, &name, &password).map(Some),
    })
    .await??;
    let Some(tokens) = tokens else {
        say(&format!(
            "A letter is on its way to {email}. Follow the link in it, and then use `taskflow login --server {server} {email}`."
        ))?;
        return Ok(ExitCode::SUCCESS);
    };
    let account = account(server, email, tokens, before);
    profile.change_account(|_| Ok((Some(account.clone()), ())))?;
    say(&format!("Signed in as {} at {}.", account.email, account.server))?;
    Ok(ExitCode::SUCCESS)
}

/// Where to go: there, or where this profile was before.
fn server(there: Option<String>, before: Option<&Account>) -> anyhow::Result<String> {
    let known = before.map(|account| account.server.clone());
    let server = there.or(known).unwrap_or_else(|| super::SERVER_DEFAULT.to_owned());
    let server = server.trim_end_matches('/').to_owned();
    if !(server.starts_with("http://") || server.starts_with("https://")) {
        bail!("{server} is not an http:// or https:// address.");
    }
    Ok(server)
}

/// `account forgot`.
pub async fn forgot(args: Forgot) -> anyhow::Result<ExitCode> {
    let profile = Profile::open(args.place.profile)?;
    let server = server(args.server, profile.account()?.as_ref())?;
    let email = args.email.trim().to_owned();
    let to = email.clone();
    tokio::task::spawn_blocking(move || auth::forgot(&server, &to)).await??;
    say(&format!(
        "If there is an account with {email}, a letter is on its way to it, with a link to a new password."
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn account(server: String, email: String, tokens: Tokens, before: Option<Account>) -> Account {
    Account {
        server,
        email,
        user: before.and_then(|account| account.user),
        access_token: tokens.access_token,
        refresh_token: tokens.refresh_token,
        expires_at: SystemClock
            .now_ms()
            .saturating_add(tokens.expires_in.saturating_mul(1000)),
    }
}

/// `logout`.
pub async fn logout(args: Logout) -> anyhow::Result<ExitCode> {
    let profile = Profile::open(args.place.profile)?;
    let Some(account) = profile.account()? else {
        say("Nobody is signed in here.")?;
        return Ok(ExitCode::SUCCESS);
    };
    let waiting = profile.waiting()?;
    if waiting > 0 && !args.force {
        bail!("{waiting} changes were not sent yet. Use `taskflow list` to send them, or --force to forget them.");
    }
    let (server, token) = (account.server.clone(), account.refresh_token.clone());
    let ended = tokio::task::spawn_blocking(move || auth::logout(&server, &token, args.everywhere)).await?;
    if let Err(error) = &ended
        && args.everywhere
    {
        bail!("{error} You are still signed in everywhere.");
    }
    profile.forget()?;
    if let Err(error @ AuthError::Unreachable(_)) = ended {
        warn(&format!(
            "{error} Everything is forgotten here; the sign-in at the server ends by itself."
        ));
    }
    say(&format!("{} is signed out.", account.email))?;
    Ok(ExitCode::SUCCESS)
}

/// `password`.
pub async fn password(args: Password) -> anyhow::Result<ExitCode> {
    let profile = Profile::open(args.place.profile)?;
    let before = signed_in(&profile)?;
    let (present, new) = super::passwords(args.password_stdin)?;
    let (server, email) = (before.server.clone(), before.email.clone());
    let changed = move || auth::change_password(&server, &email, &present, &new);
    let tokens = tokio::task::spawn_blocking(changed).await??;
    let after = account(before.server.clone(), before.email.clone(), tokens, Some(before));
    profile.change_account(|_| Ok((Some(after), ())))?;
    say("The password is changed. Wherever else you were signed in, sign in again.")?;
    Ok(ExitCode::SUCCESS)
}

/// `account email`.
pub async fn email(args: NewEmail) -> anyhow::Result<ExitCode> {
    let profile = Profile::open(args.place.profile)?;
    let before = signed_in(&profile)?;
    let password = super::password(args.password_stdin, false)?;
    let (server, email, new) = (before.server, before.email, args.new.clone());
    let changed = move || auth::change_email(&server, &email, &password, &new);
    if !tokio::task::spawn_blocking(changed).await?? {
        say(&format!(
            "A letter is on its way to {}. When you have followed the link in it, use `taskflow logout` and `taskflow login` with that \
             address.",
            args.new
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    profile.change_account(|account| {
        let account = account.map(|account| Account {
            email: args.new.clone(),
            ..account
        });
        Ok((account, ()))
    })?;
    say(&format!("Your e-mail address is {} now.", args.new))?;
    Ok(ExitCode::SUCCESS)
}

/// `account delete`.
pub async fn delete_account(args: Password) -> anyhow::Result<ExitCode> {
    let profile = Profile::open(args.place.profile)?;
    let account = signed_in(&profile)?;
    let password = super::password(args.password_stdin, false)?;
    let (server, email) = (account.server.clone(), account.email.clone());
    let asked = tokio::task::spawn_blocking(move || auth::delete(&server, &email, &password));
    let deletes_at = asked.await??;
    profile.forget()?;
    say(&format!(
        "Your account and everything in it will be deleted on {}. Until then this keeps it:\n  taskflow account restore \
         --server {} {}",
        text::moment(deletes_at, &jiff::tz::TimeZone::system()),
        account.server,
        account.email
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// `account history`.
pub async fn history(place: Place) -> anyhow::Result<ExitCode> {
    let (server, token) = server_and_token(place)?;
    let all = tokio::task::spawn_blocking(move || auth::history(&server, &token)).await??;
    let zone = jiff::tz::TimeZone::system();
    for happened in &all {
        say(&text::happened(happened, &zone))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `tokens`.
pub async fn tokens(args: super::Tokens) -> anyhow::Result<ExitCode> {
    let (server, bearer) = server_and_token(args.place)?;
    let zone = jiff::tz::TimeZone::system();
    if let Some(name) = args.make {
        let made = move || auth::make_token(&server, &bearer, &name, args.write, args.days);
        let made = tokio::task::spawn_blocking(made).await??;
        warn("Keep this token: it is not shown again.");
        say(&made.token.unwrap_or_default())?;
        return Ok(ExitCode::SUCCESS);
    }
    let (address, token) = (server.clone(), bearer.clone());
    let all = tokio::task::spawn_blocking(move || auth::list_tokens(&address, &token)).await??;
    let Some(end) = args.end else {
        for token in &all {
            say(&text::token(token, &zone))?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let is_meant = |token: &&auth::Token| !end.is_empty() && token.id.to_string().starts_with(&end);
    let meant: Vec<_> = all.iter().filter(is_meant).collect();
    let [token] = meant[..] else {
        bail!("There is no such token. Use `taskflow tokens` to see them.");
    };
    let id = token.id;
    tokio::task::spawn_blocking(move || auth::end_token(&server, &bearer, id)).await??;
    say(&format!("Ended: {}", text::token(token, &zone)))?;
    Ok(ExitCode::SUCCESS)
}

/// `sessions`.
pub async fn sessions(args: Sessions) -> anyhow::Result<ExitCode> {
    let (server, token) = server_and_token(args.place)?;
    let (address, bearer) = (server.clone(), token.clone());
    let all = tokio::task::spawn_blocking(move || auth::sessions(&address, &bearer)).await??;
    let zone = jiff::tz::TimeZone::system();
    let Some(end) = args.end else {
        for session in &all {
            say(&text::session(session, &zone))?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let meant: Vec<_> = all
        .iter()
        .filter(|session| !end.is_empty() && session.id.to_string().starts_with(&end))
        .collect();
    let [session] = meant[..] else {
        bail!("There is no such session. Use `taskflow sessions` to see them.");
    };
    let id = session.id;
    tokio::task::spawn_blocking(move || auth::end_session(&server, &token, id)).await??;
    say(&format!("Ended: {}", text::session(session, &zone)))?;
    Ok(ExitCode::SUCCESS)
}

/// `export`.
pub async fn export(args: Export) -> anyhow::Result<ExitCode> {
    if let Some(file) = args.file.as_ref().filter(|file| file.exists()) {
        bail!("There is already a file {}. Name another one.", file.display());
    }
    let (server, token) = server_and_token(args.place)?;
    let text = tokio::task::spawn_blocking(move || auth::export(&server, &token)).await??;
    let Some(file) = args.file else {
        say(&text)?;
        return Ok(ExitCode::SUCCESS);
    };
    let written = std::fs::File::create_new(&file).and_then(|mut out| {
        out.write_all(text.as_bytes())?;
        out.sync_all()
    });
    written.with_context(|| format!("Cannot write {}", file.display()))?;
    say(&format!("{}: {} bytes.", file.display(), text.len()))?;
    Ok(ExitCode::SUCCESS)
}

/// Where the user is signed in, with a token that is good.
fn server_and_token(place: Place) -> anyhow::Result<(String, String)> {
    let profile = Profile::open(place.profile)?;
    let mut account = signed_in(&profile)?;
    if account.expires_at <= SystemClock.now_ms() {
        account = renew(&profile, &account.access_token, SystemClock.now_ms())?;
    }
    Ok((account.server, account.access_token))
}

fn signed_in(profile: &Profile) -> anyhow::Result<Account> {
    match profile.account()? {
        Some(account) => Ok(account),
        None => bail!(
            "Nobody is signed in here. Use `taskflow register --server URL EMAIL` or `taskflow login --server URL EMAIL`."
        ),
    }
}

/// `whoami`.
pub fn whoami(place: Place) -> anyhow::Result<ExitCode> {
    let profile = Profile::open(place.profile)?;
    let account = signed_in(&profile)?;
    say(&format!(
        "{} at {} (kept in {})",
        account.email,
        account.server,
        profile.folder().display()
    ))?;
    let waiting = profile.waiting()?;
    if waiting > 0 {
        say(&format!("{waiting} changes wait to be sent."))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `list`.
pub async fn list(args: List) -> anyhow::Result<ExitCode> {
    let mut client = Client::open(Profile::open(args.place.profile)?, super::encoding())?;
    let live = until_live(&mut client).await?;
    if !live && client.replica().position().is_none() {
        bail!("{}", not_live(&client));
    }
    if live {
        until_settled(&mut client, None).await?;
    }
    let lines = text::overview(client.replica().rows(), args.all);
    if lines.is_empty() {
        say("Nothing to do. Use `taskflow add \"…\"` to add a task.")?;
    }
    for line in lines {
        say(&line)?;
    }
    if !live {
        warn(&format!("This is what was known here. {}", not_live(&client)));
    }
    remind_of_parked(&client);
    client.close().await?;
    Ok(if live { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `lists`.
pub async fn lists(args: Lists) -> anyhow::Result<ExitCode> {
    if let Some(name) = &args.add {
        check_line("The name of the list", name, NAME_BYTES_MAX)?;
    }
    let mut client = Client::open(Profile::open(args.place.profile)?, super::encoding())?;
    let live = until_live(&mut client).await?;
    if let Some(name) = args.add {
        if client
            .replica()
            .rows()
            .lists_in_order()
            .iter()
            .any(|list| list.name == name)
        {
            bail!("There is a list \"{}\" already.", printable(&name));
        }
        let list = ListId(client.new_id());
        let create = ListCreate {
            list,
            name,
            color: None,
            place: Default::default(),
        };
        let id = client.submit(Command::ListCreate(create))?;
        let code = conclude(&mut client, id, &short_id(list.0)).await?;
        client.close().await?;
        return Ok(code);
    }
    if !live && client.replica().position().is_none() {
        bail!("{}", not_live(&client));
    }
    let rows = client.replica().rows();
    for list in rows.lists_in_order() {
        let open = rows
            .tasks_in_order(list.id)
            .into_iter()
            .filter(|(_, task)| is_open(task))
            .count();
        let archived = if list.archived { ", archived" } else { "" };
        say(&format!(
            "{}  {} ({open} open{archived})",
            short_id(list.id.0),
            printable(&list.name)
        ))?;
    }
    if !live {
        warn(&format!("This is what was known here. {}", not_live(&client)));
    }
    client.close().await?;
    Ok(if live { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the server would refuse is refused here, also when it cannot be asked: by the name that the person knows it by.
pub fn check_line(what: &str, text: &str, bytes_max: usize) -> anyhow::Result<()> {
    let is_line = |c: char| !(c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'));
    let wrong = if text.trim().is_empty() {
        "is empty".to_owned()
    } else if !text.chars().all(is_line) {
        "must be one line of text".to_owned()
    } else if text.len() > bytes_max {
        format!("is longer than {bytes_max} bytes")
    } else {
        return Ok(());
    };
    Err(GaveUp(format!("{what} {wrong}.")).into())
}

/// `add`.
pub async fn add(args: Add) -> anyhow::Result<ExitCode> {
    check_line("The title", &args.title, TITLE_BYTES_MAX)?;
    for name in &args.labels {
        check_line("The name of --label", name.trim_start_matches('@'), NAME_BYTES_MAX)?;
    }
    let mut client = Client::open(Profile::open(args.place.profile.clone())?, super::encoding())?;
    until_live(&mut client).await?;
    let (command, task) = add_command(&client, args)?;
    let id = client.submit(command)?;
    let code = conclude(&mut client, id, &short_id(task.0)).await?;
    client.close().await?;
    Ok(code)
}

fn add_command(client: &Client, args: Add) -> anyhow::Result<(Command, TaskId)> {
    let rows = client.replica().rows();
    let (due, deadline) = (args.due.as_deref(), args.deadline.as_deref());
    let due = due.map(|text| read_due(rows, text)).transpose()?;
    let deadline = deadline.map(|text| read_day(rows, text)).transpose()?;
    let known = client.replica().position().is_some();
    if !known && (args.list.is_some() || args.parent.is_some() || !args.labels.is_empty()) {
        // Without a copy there is nothing to look names up in.
        bail!("{}", not_live(client));
    }
    let parent = args
        .parent
        .map(|what| find::task(rows, &what, Among::Open))
        .transpose()
        .map_err(GaveUp)?;
    let list = match (&args.list, parent) {
        (Some(name), _) => Some(find::list(rows, name).map_err(GaveUp)?.id),
        (None, Some(parent)) => Some(parent.list),
        (None, None) => None,
    };
    let mut commands = Vec::new();
    let mut labels = Vec::new();
    for name in args.labels {
        let name = name.trim_start_matches('@').to_owned();
        let label = find::label(rows, &name).map_or_else(|| LabelId(client.new_id()), |label| label.id);
        if !rows.label_shown(label) {
            commands.push(Command::LabelCreate(LabelCreate {
                label,
                name,
                color: None,
            }));
        }
        labels.push(label);
    }
    let task = TaskId(client.new_id());
    commands.push(Command::TaskCreate(TaskCreate {
        task,
        list,
        title: args.title,
        notes: args.notes.unwrap_or_default(),
        status: Default::default(),
        priority: args.priority.map_or(Priority::None, Priority::from),
        due,
        deadline,
        duration_minutes: None,
        labels,
        parent: parent.map(|parent| parent.id),
        place: Default::default(),
    }));
    Ok((one(commands), task))
}

/// One command, or a batch of several.
fn one(mut commands: Vec<Command>) -> Command {
    match commands.len() {
        1 => commands.remove(0),
        _ => Command::Batch(Batch { commands }),
    }
}

fn read_due(rows: &Rows, text: &str) -> anyhow::Result<Due> {
    dates::due(text, today(rows)).ok_or_else(|| {
        let text = printable(text);
        GaveUp(format!(
            "\"{text}\" is not a date. Write 2026-12-01, \"2026-12-01 15:30\", today or tomorrow."
        ))
        .into()
    })
}

fn read_day(rows: &Rows, text: &str) -> anyhow::Result<String> {
    dates::day(text, today(rows)).ok_or_else(|| {
        GaveUp(format!(
            "\"{}\" is not a day. Write 2026-12-01, today or tomorrow.",
            printable(text)
        ))
        .into()
    })
}

fn today(rows: &Rows) -> jiff::civil::Date {
    let zone = rows
        .settings
        .as_ref()
        .map_or("UTC", |settings| settings.time_zone.as_str());
    dates::today(SystemClock.now_ms(), zone)
}

/// What to do with a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Complete it.
    Done,
    /// Open it again.
    Reopen,
    /// Put it in the bin.
    Delete,
}

/// `done`, `reopen` and `delete`.
pub async fn change(args: What, verb: Verb) -> anyhow::Result<ExitCode> {
    let mut client = Client::open(Profile::open(args.place.profile)?, super::encoding())?;
    let live = until_live(&mut client).await?;
    if !live && client.replica().position().is_none() {
        bail!("{}", not_live(&client));
    }
    let rows = client.replica().rows();
    let found = match verb {
        Verb::Done => find::task(rows, &args.what, Among::Open),
        Verb::Reopen => find::task(rows, &args.what, Among::Closed),
        Verb::Delete => find::task(rows, &args.what, Among::Open)
            .or_else(|open| find::task(rows, &args.what, Among::Closed).map_err(|_| open)),
    };
    let task = found.map_err(GaveUp)?;
    let named = TaskRef { task: task.id };
    let (command, word) = match verb {
        Verb::Done => (Command::TaskComplete(named), "done"),
        Verb::Reopen => (Command::TaskReopen(named), "reopened"),
        Verb::Delete => (Command::TaskDelete(named), "deleted"),
    };
    let said = format!("{}  {word}: {}", short_id(task.id.0), printable(&task.title));
    let id = client.submit(command)?;
    let code = conclude(&mut client, id, &said).await?;
    client.close().await?;
    Ok(code)
}

/// `edit`.
pub async fn edit(args: Edit) -> anyhow::Result<ExitCode> {
    if let Some(title) = &args.title {
        check_line("The title", title, TITLE_BYTES_MAX)?;
    }
    let mut client = Client::open(Profile::open(args.place.profile)?, super::encoding())?;
    let live = until_live(&mut client).await?;
    if !live && client.replica().position().is_none() {
        bail!("{}", not_live(&client));
    }
    let rows = client.replica().rows();
    let task = find::task(rows, &args.what, Among::Open).map_err(GaveUp)?;
    let or_none = |text: &String| (!text.eq_ignore_ascii_case("none")).then(|| text.clone());
    let set = TaskFields {
        title: args.title,
        notes: args.notes,
        priority: args.priority.map(Priority::from),
        due: args
            .due
            .map(|text| or_none(&text).map(|text| read_due(rows, &text)).transpose())
            .transpose()?,
        deadline: args
            .deadline
            .map(|text| or_none(&text).map(|text| read_day(rows, &text)).transpose())
            .transpose()?,
        ..TaskFields::default()
    };
    let mut commands = Vec::new();
    if set != TaskFields::default() {
        commands.push(Command::TaskPatch(TaskPatch { task: task.id, set }));
    }
    if let Some(name) = args.list {
        commands.push(Command::TaskMove(TaskMove {
            task: task.id,
            list: Some(find::list(rows, &name).map_err(GaveUp)?.id),
            parent: None,
            place: Default::default(),
        }));
    }
    let said = format!("{}  changed", short_id(task.id.0));
    let id = client.submit(one(commands))?;
    let code = conclude(&mut client, id, &said).await?;
    client.close().await?;
    Ok(code)
}

/// `pending`.
pub async fn pending(args: Pending) -> anyhow::Result<ExitCode> {
    let mut client = Client::open(Profile::open(args.place.profile)?, super::encoding())?;
    let live = until_live(&mut client).await?;
    if live {
        until_settled(&mut client, None).await?;
    }
    if args.send && !live {
        bail!("{}", not_live(&client));
    }
    let parked: Vec<String> = client
        .parked()
        .iter()
        .map(|(reason, operation)| {
            format!(
                "{} ({reason})",
                text::command_line(client.replica().rows(), &operation.command)
            )
        })
        .collect();
    let mut code = ExitCode::SUCCESS;
    if args.send || args.forget {
        for (id, line) in client.decide_parked(args.send)?.into_iter().zip(&parked) {
            if conclude(&mut client, id, line).await? != ExitCode::SUCCESS {
                code = ExitCode::FAILURE;
            }
        }
    } else {
        for line in &parked {
            say(line)?;
        }
        for pending in client.replica().pending() {
            say(&format!(
                "{} (not sent yet)",
                text::command_line(client.replica().rows(), &pending.operation.command)
            ))?;
        }
        if !parked.is_empty() {
            warn(
                "These were not sent again, because they may have been done already. Look, then use --send or --forget.",
            );
        } else if client.replica().pending().is_empty() {
            say("Everything was sent.")?;
        }
    }
    client.close().await?;
    Ok(code)
}

/// Tells of changes that wait for a decision.
fn remind_of_parked(client: &Client) {
    match client.parked().len() {
        0 => {}
        count => warn(&format!("{count} changes were not sent; see `taskflow pending`.")),
    }
}

/// Why the client is not live, as a sentence.
pub(super) fn not_live(client: &Client) -> String {
    match client.status() {
        Status::Waiting(_, why) => why.clone(),
        Status::Stale(_) => format!("The server at {} does not reach its database.", client.account().server),
        Status::Connecting | Status::CatchingUp(..) | Status::Live => {
            format!("The server at {} takes too long to answer.", client.account().server)
        }
    }
}

/// Connects and catches up, within the patience of a person. Whether it is live.
pub(super) async fn until_live(client: &mut Client) -> anyhow::Result<bool> {
    let patience = Instant::now() + Duration::from_millis(PATIENCE_MS);
    let mut told = false;
    while *client.status() != Status::Live {
        match client.next(Some(patience)).await? {
            Happening::Tick => return Ok(false),
            Happening::Interrupted => return Err(GaveUp("Interrupted.".to_owned()).into()),
            Happening::Status(Status::Waiting(until, why)) if until >= patience => {
                warn(&why);
                return Ok(false);
            }
            Happening::Status(Status::Waiting(_, why)) if !told => {
                told = true;
                warn(&format!("{why} Trying again…"));
            }
            Happening::Event(event) => tell_of_earlier(client, &event),
            Happening::Status(_) => {}
        }
        // Catching up may take longer than that, as long as something comes.
        if Instant::now() >= patience && !matches!(client.status(), Status::CatchingUp(..)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What became of operations of earlier runs.
pub(super) fn tell_of_earlier(client: &Client, event: &Event) {
    let rows = client.replica().rows();
    match event {
        Event::Refused(operation, error) => {
            let what = text::command_line(rows, &operation.command);
            warn(&format!(
                "An earlier change was refused ({what}): {}",
                printable(&error.message)
            ));
        }
        Event::Conflict(operation, _) => {
            let what = text::command_line(rows, &operation.command);
            warn(&format!(
                "An earlier change was not made ({what}): the row has changed meanwhile."
            ));
        }
        Event::Parked(operation, _) => {
            let what = text::command_line(rows, &operation.command);
            warn(&format!(
                "An earlier change was not sent again ({what}); see `taskflow pending`."
            ));
        }
        _ => {}
    }
}

/// How an operation ended.
enum Settled {
    Done,
    Refused(String),
    NotYet,
}

/// Waits until this operation, or every one, is settled.
async fn until_settled(client: &mut Client, id: Option<OperationId>) -> anyhow::Result<Settled> {
    let patience = Instant::now() + Duration::from_millis(PATIENCE_MS);
    loop {
        let waits = client
            .replica()
            .pending()
            .iter()
            .any(|pending| id.is_none_or(|id| pending.operation.id == id));
        if id.is_none() && !waits {
            return Ok(Settled::Done);
        }
        match client.next(Some(patience)).await? {
            Happening::Tick | Happening::Interrupted => return Ok(Settled::NotYet),
            Happening::Event(Event::Retired(retired, _)) if Some(retired) == id => return Ok(Settled::Done),
            Happening::Event(Event::Refused(operation, error)) if Some(operation.id) == id => {
                return Ok(Settled::Refused(error.message));
            }
            Happening::Event(Event::Conflict(operation, _)) if Some(operation.id) == id => {
                return Ok(Settled::Refused(
                    "The row has changed meanwhile; look at it and try again.".to_owned(),
                ));
            }
            Happening::Event(event) => tell_of_earlier(client, &event),
            Happening::Status(_) => {}
        }
        if Instant::now() >= patience {
            return Ok(Settled::NotYet);
        }
    }
}

/// Waits for the operation, and says `said` once it is durable.
///
/// Where the server cannot be reached the change is durable here, and the next command brings it there: that is a
/// success, or a script would do it twice.
async fn conclude(client: &mut Client, id: OperationId, said: &str) -> anyhow::Result<ExitCode> {
    let settled = match client.status() {
        // The patience was used up before.
        Status::Waiting(..) => Settled::NotYet,
        _ => until_settled(client, Some(id)).await?,
    };
    match settled {
        Settled::Done => {
            say(said)?;
            Ok(ExitCode::SUCCESS)
        }
        Settled::Refused(message) => bail!("{}", printable(&message)),
        Settled::NotYet => {
            say(said)?;
            warn(&format!(
                "{} The change is kept here; the next command sends it.",
                not_live(client)
            ));
            Ok(ExitCode::SUCCESS)
        }
    }
}
