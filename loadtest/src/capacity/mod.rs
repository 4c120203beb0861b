//! `capacity`: measured costs in, nodes and cores and money out.

mod inputs;
mod page;
mod plan;

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Result;
use clap::{Args, ValueEnum};

use self::inputs::Inputs;
use self::plan::plan;
use crate::load::target::Trouble;

/// Says what so many users need, and what it costs, from what was measured
#[derive(Args, Clone, Debug)]
#[command(after_help = "The names for --set are in what it prints: --set changes_hour=40 --set price_core_hour=0.02")]
pub struct Capacity {
    /// How many users, each a column
    #[arg(long, value_delimiter = ',', default_values_t = page::USERS, value_name = "N,…")]
    pub users: Vec<u64>,
    /// A number in the place of the measured or assumed one; again for more
    #[arg(long, value_name = "NAME=NUMBER")]
    pub set: Vec<Given>,
    /// Results of `make bench`
    #[arg(long, default_value = "loadtest/results", value_name = "FOLDER")]
    pub results: PathBuf,
    /// What is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// What so many users need, the inputs and the formula
    Table,
    /// The same as a page: docs/capacity.md
    Markdown,
    /// All of it, for programs
    Json,
    /// The drawing of the page: docs/capacity.svg
    Svg,
}

/// `name=number`.
#[derive(Clone, Debug, PartialEq)]
pub struct Given(String, f64);

impl FromStr for Given {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once('=')
            .and_then(|(name, number)| Some(Self(name.trim().to_owned(), number.trim().parse().ok()?)));
        parsed.ok_or_else(|| "write it as NAME=NUMBER, such as changes_hour=40".to_owned())
    }
}

/// Prints it: what the process ends with.
pub fn capacity(options: &Capacity) -> Result<u8> {
    if options.users.is_empty() || options.users.contains(&0) {
        return Err(Trouble("--users are 1 or more each.".to_owned()).into());
    }
    let given: Vec<_> = options
        .set
        .iter()
        .map(|Given(name, number)| (name.clone(), *number))
        .collect();
    let inputs = Inputs::read(&options.results, &given)?;
    let plans: Vec<_> = options.users.iter().map(|users| plan(*users as f64, &inputs)).collect();
    match options.format {
        Format::Table => println!("{}", page::table(&plans, &inputs)),
        Format::Markdown => print!("{}", page::whole(&plans, &inputs)),
        Format::Json => println!("{}", page::json(&plans, &inputs)?),
        Format::Svg => print!("{}", page::drawing(&inputs)),
    }
    Ok(0)
}
