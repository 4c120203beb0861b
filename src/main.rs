//! The `taskflow` binary: parses, builds, runs, drains.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use taskflow::client::{self, ClientCommand};
use taskflow::config::{Layer, Loaded};
use taskflow::serve::Signals;
use taskflow::{health, keys, serve, token};

/// Idle buffers must not be resident: with this allocator, and its huge pages off, they are given back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A real-time collaboration server for tasks, and its terminal client.
#[derive(Parser)]
#[command(name = "taskflow", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server
    Serve {
        /// TOML file with settings
        #[arg(long, env = "TASKFLOW_CONFIG")]
        config: Option<PathBuf>,
        #[command(flatten)]
        flags: Layer,
    },
    /// Bring the schema of the database to what this build needs (for store = cql)
    Migrate {
        /// TOML file with settings
        #[arg(long, env = "TASKFLOW_CONFIG")]
        config: Option<PathBuf>,
        #[command(flatten)]
        flags: Layer,
    },
    /// Ask the server with these settings whether it is ready, and exit with an error if not
    Health {
        /// TOML file with settings
        #[arg(long, env = "TASKFLOW_CONFIG")]
        config: Option<PathBuf>,
        #[command(flatten)]
        flags: Layer,
    },
    /// Show or check the settings
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Mint access tokens with the server's key, for load tests and scripts
    Token(token::Arguments),
    /// List, rotate and remove the keys that sign access tokens
    Keys {
        #[command(subcommand)]
        action: keys::Action,
    },
    /// Print the version
    Version,
    #[command(flatten)]
    Client(ClientCommand),
}

#[derive(Subcommand)]
enum ConfigAction {
    /// Every key with its meaning, its value and where that came from
    Print {
        /// TOML file with settings
        #[arg(long, env = "TASKFLOW_CONFIG")]
        config: Option<PathBuf>,
        #[command(flatten)]
        flags: Layer,
    },
    /// Exit with an error if a setting is wrong
    Check {
        /// TOML file with settings
        #[arg(long, env = "TASKFLOW_CONFIG")]
        config: Option<PathBuf>,
        #[command(flatten)]
        flags: Layer,
    },
}

fn main() -> ExitCode {
    match heard().and_then(|signals| run(Cli::parse().command, signals)) {
        Ok(code) => code,
        Err(error) => {
            #[allow(clippy::print_stderr, reason = "the last word of a command that failed")]
            {
                eprintln!("taskflow: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

/// A server hears from its first moment that it is to end: what is said to the first process of a container is lost if
/// nobody listens. Other commands end at a signal as every program does.
fn heard() -> anyhow::Result<Option<Signals>> {
    let is_server = std::env::args_os().nth(1).is_some_and(|command| command == "serve");
    is_server.then(Signals::hear).transpose()
}

#[allow(clippy::print_stdout, reason = "commands answer on standard output")]
fn run(command: Command, signals: Option<Signals>) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve { config, flags } => {
            let loaded = Loaded::load(config.as_deref(), flags)?;
            serve::run(loaded, signals.map_or_else(Signals::hear, Ok)?)?;
        }
        Command::Migrate { config, flags } => {
            let loaded = Loaded::load(config.as_deref(), flags)?;
            print!("{}", serve::migrate(&loaded.config)?);
        }
        Command::Health { config, flags } => {
            let loaded = Loaded::load(config.as_deref(), flags)?;
            print!("{}", health::run(&loaded.config)?);
        }
        Command::Config {
            action: ConfigAction::Print { config, flags },
        } => {
            print!("{}", Loaded::load(config.as_deref(), flags)?.print());
        }
        Command::Config {
            action: ConfigAction::Check { config, flags },
        } => {
            Loaded::load(config.as_deref(), flags)?.check_variables()?;
            println!("the settings are fine");
        }
        Command::Token(arguments) => token::run(&arguments)?,
        Command::Keys { action } => print!("{}", keys::run(&action)?),
        Command::Version => println!("{}", serve::build()),
        Command::Client(command) => return client::run(command),
    }
    Ok(ExitCode::SUCCESS)
}
