//! The `taskflow` binary: parses, builds, runs, drains.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use taskflow::client::{self, ClientCommand};

/// A real-time task server, and its terminal client.
#[derive(Debug, Parser)]
#[command(name = "taskflow", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Client(ClientCommand),
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Command::Client(command) => client::run(command),
    }
}
