//! The terminal client: `taskflow add`, `taskflow watch` and the like.
//!
//! It is an ordinary client of the public protocol (`docs/protocol.md`) and knows nothing of the server beside it.
//!
//! Architecture invariant: of this workspace only `taskflow-protocol` and the clock are used here. [`replica`],
//! [`backoff`], [`find`], [`text`], [`dates`] and the readers under [`import`] decide and do no I/O; [`connection`],
//! [`profile`] and [`auth`] carry out; the commands are what is between them and a person.

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use taskflow_protocol::Encoding;
use taskflow_protocol::values::Priority;

pub mod auth;
pub mod backoff;
mod commands;
pub mod connection;
pub mod dates;
pub mod find;
pub mod import;
pub mod profile;
pub mod replica;
#[cfg(test)]
mod samples;
pub mod text;
mod watch;

/// How this program calls itself to the server.
pub const CLIENT_NAME: &str = concat!("taskflow/", env!("CARGO_PKG_VERSION"));

/// The address that `make run` serves.
const SERVER_DEFAULT: &str = "http://127.0.0.1:8080";

/// The commands of the terminal client.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Make an account and sign in with it.
    Register(SignIn),
    /// Sign in.
    Login(SignIn),
    /// Sign out and forget what is kept here.
    Logout(Logout),
    /// Change your password. Wherever else you are signed in you will have to sign in again.
    Password(Password),
    /// Show where you are signed in, or end one of these sign-ins.
    Sessions(Sessions),
    /// Change your e-mail address, get a new password, delete your account, or read what happened to it.
    Account {
        /// What to do.
        #[command(subcommand)]
        action: AccountAction,
    },
    /// Show your access tokens for scripts, make one, or end one.
    Tokens(Tokens),
    /// Say who is signed in here, and where.
    Whoami(Place),
    /// Show your tasks live, until Ctrl-C.
    Watch(Watch),
    /// Show your open tasks.
    List(List),
    /// Show your lists, or add one.
    Lists(Lists),
    /// Add a task.
    Add(Add),
    /// Complete a task.
    Done(What),
    /// Open a completed task again.
    Reopen(What),
    /// Change a task.
    Edit(Edit),
    /// Put a task, with its subtasks, in the bin.
    Delete(What),
    /// Write everything of yours into one JSON file, which `import` takes back, here or on another server.
    ///
    /// That is tasks, lists, labels and settings, also what is in the bin. `import` says what it leaves out: the bin, and when
    /// something was made and completed.
    Export(Export),
    /// Bring tasks from files: what `export` wrote, Todoist (CSV or JSON) or todo.txt.
    ///
    /// Running it again doubles nothing, also with a later export of the same: a task with the id, or the list, parent and title, of one
    /// that was brought before is that one. What could not be brought, or not as it was, is listed at the end. Of an export, that is the
    /// bin, and when something was made and completed; its settings come along unless some were chosen here.
    Import(Import),
    /// Show changes that were not sent, because sending them late could double them.
    Pending(Pending),
}

/// Where the client keeps what it knows.
#[derive(Clone, Debug, Args)]
pub struct Place {
    /// Where the sign-in and the copy of your tasks are; use two to be two users. A word is kept under
    /// ~/.config/taskflow/profiles, what has a / in it is a folder. [default: ~/.config/taskflow]
    #[arg(long, env = "TASKFLOW_PROFILE", value_name = "NAME|DIR", hide_env_values = true)]
    pub profile: Option<PathBuf>,
}

/// See [`ClientCommand::Register`].
#[derive(Debug, Args)]
pub struct SignIn {
    /// Your e-mail address.
    pub email: String,
    /// The server. [default: the one used last, or http://127.0.0.1:8080]
    #[arg(long, env = "TASKFLOW_SERVER", value_name = "URL")]
    pub server: Option<String>,
    /// Read the password from the first line of standard input. (TASKFLOW_PASSWORD works too.)
    #[arg(long)]
    pub password_stdin: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub place: Place,
}

/// See [`ClientCommand::Logout`].
#[derive(Debug, Args)]
pub struct Logout {
    /// Forget changes that were not sent, too.
    #[arg(long)]
    pub force: bool,
    /// Sign out on every device.
    #[arg(long)]
    pub everywhere: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub place: Place,
}

/// See [`ClientCommand::Password`].
#[derive(Debug, Args)]
pub struct Password {
    /// Read the present password from the first line of standard input, and the new one from the second.
    #[arg(long)]
    pub password_stdin: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub place: Place,
}

/// See [`ClientCommand::Account`].
#[derive(Debug, Subcommand)]
pub enum AccountAction {
    /// Change your e-mail address. You stay signed in everywhere.
    Email(NewEmail),
    /// Delete your account, with everything that is yours. For some days it can be kept after all (restore).
    Delete(Password),
    /// Keep an account that is to be deleted, and sign in.
    Restore(SignIn),
    /// Get a letter with a link to a new password.
    Forgot(Forgot),
    /// Show who signed in from where, what failed and what was changed, in the last 90 days.
    History(Place),
}

/// See [`AccountAction::Email`].
#[derive(Debug, Args)]
pub struct NewEmail {
    /// Your new e-mail address.
    pub new: String,
    /// Read the password from the first line of standard input. (TASKFLOW_PASSWORD works too.)
    #[arg(long)]
    pub password_stdin: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub place: Place,
}

/// See [`AccountAction::Forgot`].
#[derive(Debug, Args)]
pub struct Forgot {
    /// Your e-mail address.
    pub email: String,
    /// The server. [default: the one used last, or http://127.0.0.1:8080]
    #[arg(long, env = "TASKFLOW_SERVER", value_name = "URL")]
    pub server: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub place: Place,
}

/// See [`ClientCommand::Tokens`].
#[derive(Debug, Args)]
pub struct Tokens {
    /// Make one for this purpose, and show it: this once.
    #[arg(long, value_name = "NAME", conflicts_with = "end")]
    pub make: Option<String>,
    /// It may change tasks, not only read them.
    #[arg(long, requires = "make")]
    pub write: bool,
    /// Days until it ends.
    #[arg(long, value_name = "N", default_value_t = 90, requires = "make")]
    pub days: u32,
    /// End this one: its id, or the beginning of it.
    #[arg(long, value_name = "ID")]
    pub end: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub place: Place,
}

/// See [`ClientCommand::Sessions`].
#[derive(Debug, Args)]
pub struct Sessions {
    /// End this one: its id, or the beginning of it.
    #[arg(long, value_name = "ID")]
    pub end: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub place: Place,
}

/// See [`ClientCommand::Watch`].
#[derive(Debug, Args)]
pub struct Watch {
    /// One line for each change, also on a terminal.
    #[arg(long)]
    pub log: bool,
    /// Each entry as one line of JSON; what is known from before is not repeated.
    #[arg(long, conflicts_with = "log")]
    pub json: bool,
    /// Show closed tasks and archived lists too.
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub place: Place,
}

/// See [`ClientCommand::List`].
#[derive(Debug, Args)]
pub struct List {
    /// Show closed tasks and archived lists too.
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub place: Place,
}

/// See [`ClientCommand::Lists`].
#[derive(Debug, Args)]
pub struct Lists {
    /// Add a list with this name.
    #[arg(long, value_name = "NAME")]
    pub add: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub place: Place,
}

/// See [`ClientCommand::Add`].
#[derive(Debug, Args)]
pub struct Add {
    /// What is to be done.
    pub title: String,
    /// The list. [default: the inbox]
    #[arg(long, value_name = "NAME")]
    pub list: Option<String>,
    /// When: 2026-12-01, "2026-12-01 15:30", today or tomorrow.
    #[arg(long, value_name = "WHEN")]
    pub due: Option<String>,
    /// The day after which it is too late.
    #[arg(long, value_name = "DAY")]
    pub deadline: Option<String>,
    /// How much it matters.
    #[arg(long, value_enum)]
    pub priority: Option<PriorityWord>,
    /// A label; one that does not exist is made. May be given several times.
    #[arg(long = "label", value_name = "NAME")]
    pub labels: Vec<String>,
    /// More about it, in Markdown.
    #[arg(long)]
    pub notes: Option<String>,
    /// The task that it is a part of: its id, or its title.
    #[arg(long, value_name = "TASK", conflicts_with = "list")]
    pub parent: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub place: Place,
}

/// Names a task.
#[derive(Debug, Args)]
pub struct What {
    /// Its title or a part of it, or its id or the beginning or end of it.
    pub what: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub place: Place,
}

/// See [`ClientCommand::Edit`].
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true)))]
pub struct Edit {
    /// Its title or a part of it, or its id or the beginning or end of it.
    pub what: String,
    /// The new title.
    #[arg(long, group = "change")]
    pub title: Option<String>,
    /// The new notes.
    #[arg(long, group = "change")]
    pub notes: Option<String>,
    /// The new due date, or none.
    #[arg(long, value_name = "WHEN", group = "change")]
    pub due: Option<String>,
    /// The new deadline, or none.
    #[arg(long, value_name = "DAY", group = "change")]
    pub deadline: Option<String>,
    /// The new priority.
    #[arg(long, value_enum, group = "change")]
    pub priority: Option<PriorityWord>,
    /// The list to move it to.
    #[arg(long, value_name = "NAME", group = "change")]
    pub list: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub place: Place,
}

/// See [`ClientCommand::Export`].
#[derive(Debug, Args)]
pub struct Export {
    /// The file; it must not be there yet. [default: standard output]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub place: Place,
}

/// See [`ClientCommand::Import`].
#[derive(Debug, Args)]
pub struct Import {
    /// The files.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// What they are.
    #[arg(long, value_enum, default_value = "auto")]
    pub format: import::Format,
    /// Put everything in this list; it is made if there is none. [default: as the file says]
    #[arg(long, value_name = "NAME")]
    pub list: Option<String>,
    /// Bring tasks of an earlier import once more that are in the bin by now.
    #[arg(long)]
    pub again: bool,
    /// Only say what would be done.
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub place: Place,
}

/// See [`ClientCommand::Pending`].
#[derive(Debug, Args)]
pub struct Pending {
    /// Send them now.
    #[arg(long)]
    pub send: bool,
    /// Forget them.
    #[arg(long, conflicts_with = "send")]
    pub forget: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub place: Place,
}

/// A priority on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the words say it, and clap would show it")]
pub enum PriorityWord {
    None,
    Low,
    Medium,
    High,
    Urgent,
}

impl From<PriorityWord> for Priority {
    fn from(word: PriorityWord) -> Self {
        match word {
            PriorityWord::None => Self::None,
            PriorityWord::Low => Self::Low,
            PriorityWord::Medium => Self::Medium,
            PriorityWord::High => Self::High,
            PriorityWord::Urgent => Self::Urgent,
        }
    }
}

/// Runs a command of the client.
///
/// # Errors
///
/// None that a person has to read: those are printed, and the exit code says that it failed. An error is a defect.
pub fn run(command: ClientCommand) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(Box::pin(dispatch(command)));
    // A request that still waits on another thread must not hold the program.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => Ok(code),
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            warn(&format!("taskflow: {error:#}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn dispatch(command: ClientCommand) -> anyhow::Result<ExitCode> {
    match command {
        ClientCommand::Register(args) => commands::sign_in(args, commands::Door::Register).await,
        ClientCommand::Login(args) => commands::sign_in(args, commands::Door::Login).await,
        ClientCommand::Logout(args) => commands::logout(args).await,
        ClientCommand::Password(args) => commands::password(args).await,
        ClientCommand::Sessions(args) => commands::sessions(args).await,
        ClientCommand::Account { action } => match action {
            AccountAction::Email(args) => commands::email(args).await,
            AccountAction::Delete(args) => commands::delete_account(args).await,
            AccountAction::Forgot(args) => commands::forgot(args).await,
            AccountAction::Restore(args) => commands::sign_in(args, commands::Door::Restore).await,
            AccountAction::History(place) => commands::history(place).await,
        },
        ClientCommand::Tokens(args) => commands::tokens(args).await,
        ClientCommand::Whoami(place) => commands::whoami(place),
        ClientCommand::Watch(args) => watch::run(args).await,
        ClientCommand::List(args) => commands::list(args).await,
        ClientCommand::Lists(args) => commands::lists(args).await,
        ClientCommand::Add(args) => commands::add(args).await,
        ClientCommand::Done(args) => commands::change(args, commands::Verb::Done).await,
        ClientCommand::Reopen(args) => commands::change(args, commands::Verb::Reopen).await,
        ClientCommand::Delete(args) => commands::change(args, commands::Verb::Delete).await,
        ClientCommand::Edit(args) => commands::edit(args).await,
        ClientCommand::Export(args) => commands::export(args).await,
        ClientCommand::Import(args) => import::run(args).await,
        ClientCommand::Pending(args) => commands::pending(args).await,
    }
}

/// MessagePack, unless a person wants to read along on the wire.
fn encoding() -> Encoding {
    match std::env::var("TASKFLOW_ENCODING") {
        Ok(name) if name == "json" => Encoding::Json,
        _ => Encoding::MsgPack,
    }
}

/// A line on standard output.
fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

/// A line on standard error. If that is closed, there is nobody to tell.
fn warn(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// The password: from standard input, from the environment, or typed without being shown.
fn password(from_stdin: bool, twice: bool) -> anyhow::Result<String> {
    if from_stdin {
        let mut text = String::new();
        // A password has 256 characters at most; a whole file piped in by mistake is not read into memory.
        std::io::stdin().lock().take(4096).read_to_string(&mut text)?;
        return Ok(text.lines().next().unwrap_or_default().to_owned());
    }
    if let Ok(password) = std::env::var("TASKFLOW_PASSWORD") {
        return Ok(password);
    }
    if !std::io::stdin().is_terminal() {
        anyhow::bail!("There is no terminal to ask for the password on. Use --password-stdin or TASKFLOW_PASSWORD.");
    }
    let password = ask("Password (8 characters or more): ")?;
    if twice && ask("Once more: ")? != password {
        anyhow::bail!("The two passwords differ. Try again.");
    }
    Ok(password)
}

/// The present password and the new one.
fn passwords(from_stdin: bool) -> anyhow::Result<(String, String)> {
    if from_stdin {
        let mut text = String::new();
        std::io::stdin().lock().take(4096).read_to_string(&mut text)?;
        let mut lines = text.lines().map(str::to_owned);
        return match (lines.next(), lines.next()) {
            (Some(present), Some(new)) => Ok((present, new)),
            _ => anyhow::bail!("Two lines are needed: the present password, and the new one."),
        };
    }
    if !std::io::stdin().is_terminal() {
        anyhow::bail!("There is no terminal to ask for the passwords on. Use --password-stdin.");
    }
    let present = ask("Present password: ")?;
    let new = ask("New password (8 characters or more): ")?;
    if ask("Once more: ")? != new {
        anyhow::bail!("The two passwords differ. Try again.");
    }
    Ok((present, new))
}

fn ask(prompt: &str) -> anyhow::Result<String> {
    let terminal = console::Term::stderr();
    terminal.write_str(prompt)?;
    Ok(terminal.read_secure_line()?)
}
