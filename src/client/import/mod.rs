//! x
use clap::ValueEnum;
use std::process::ExitCode;
/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// a
    Auto,
}
/// r
pub async fn run(_args: super::Import) -> anyhow::Result<ExitCode> {
    todo!()
}
