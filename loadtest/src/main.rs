//! Puts TaskFlow under load beside reference servers, and writes down what it measured.
//!
//! Architecture invariant: knows TaskFlow by its protocol, its command line and its ports only.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool talks to its terminal"
)]

mod board;
mod capacity;
mod clock;
mod compare;
mod load;
mod machine;
mod net;
mod process;
mod record;
mod replica;
mod report;
mod scenarios;
mod server;
mod stats;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use tokio::task::LocalSet;

use crate::record::Record;
use crate::scenarios::Scenario;
use crate::server::Bench;

/// Where the report is kept.
const REPORT: &str = "loadtest/REPORT.md";

#[derive(Parser)]
#[command(
    about = "Load for TaskFlow: on a server that runs already (run), or measured beside reference servers (SCENARIO)",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Load>,
    /// A scenario (idle-memory, fanout, creates, pages, front-door, latency, kill9, cold-snapshot, storm, backlog-memory, slow-reader, compare,
    /// footprint, cluster, cluster-faults, rolling, overload, start, soak, metrics-cost), `all` of them, or `report`: write the report from
    /// what was measured.
    #[arg(required = true)]
    what: Option<What>,
    /// The server; absent: the one that was built beside this program.
    #[arg(long, env = "SERVER_BIN")]
    server_bin: Option<PathBuf>,
    /// The reference servers.
    #[arg(
        long,
        env = "REFERENCE_BIN",
        default_value = "loadtest/reference/target/release/taskflow-reference"
    )]
    reference_bin: PathBuf,
    /// A folder of the bench's own, on the disk that is to be measured.
    #[arg(long, default_value = "target/loadtest")]
    work: PathBuf,
    /// Where results are kept; those of quick runs stay in the work folder.
    #[arg(long, default_value = "loadtest/results")]
    results: PathBuf,
    /// Small and short: shows that everything runs, measures nothing.
    #[arg(long)]
    quick: bool,
    /// How often each server is measured; absent: as often as the scenario thinks right.
    #[arg(long)]
    rounds: Option<usize>,
    /// What the random moments and choices of `kill9` follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Percent of all cores above which what other programs use makes a round void; quick runs bear anything.
    #[arg(long, default_value_t = 10.0)]
    foreign_percent_max: f64,
    /// The servers of scenarios that compare several, such as `taskflow,r,e,a`, the parts of `cluster` (feed-each,
    /// one-feed, latency, kill), or the proxies of `rolling` (haproxy, caddy, nginx); absent: all that belong to it.
    #[arg(long, value_delimiter = ',')]
    subjects: Vec<String>,
}

/// Load on a server that runs already.
#[derive(Subcommand)]
enum Load {
    Run(load::Run),
    Merge(load::Merge),
    Compare(compare::Compare),
    Capacity(capacity::Capacity),
    /// What `run` starts: one process that makes load
    #[command(hide = true)]
    Generate,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    One(Scenario),
    All,
    Report,
}

impl FromStr for What {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "all" => Ok(Self::All),
            "report" => Ok(Self::Report),
            scenario => Scenario::from_str(scenario, false).map(Self::One),
        }
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    let done = match (arguments.command.take(), arguments.what) {
        (Some(Load::Run(options)), _) => load::run(&options),
        (Some(Load::Merge(options)), _) => load::merge(&options),
        (Some(Load::Compare(options)), _) => compare::compare(&options),
        (Some(Load::Capacity(options)), _) => capacity::capacity(&options),
        (Some(Load::Generate), _) => load::generator::main().map(|()| 0),
        (None, Some(what)) => match bench(arguments, what) {
            Ok(()) => Ok(0),
            Err(error) => {
                eprintln!("Error: {error:?}");
                Ok(1)
            }
        },
        (None, None) => unreachable!("clap asks for one of them"),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        // Nothing was measured.
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

fn bench(arguments: Arguments, what: What) -> Result<()> {
    let chosen: &[Scenario] = match &what {
        What::One(scenario) => std::slice::from_ref(scenario),
        What::All => Scenario::value_variants(),
        What::Report => &[],
    };
    std::fs::create_dir_all(&arguments.work)?;
    let work = arguments.work.canonicalize()?;
    let results = if arguments.quick {
        work.join("results")
    } else {
        arguments.results
    };
    let server_binary = match arguments.server_bin {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("taskflow"),
    };
    let mut bench = Bench {
        server_binary,
        reference_binary: arguments.reference_bin,
        work,
        quick: arguments.quick,
        rounds: arguments.rounds,
        seed: arguments.seed,
        foreign_percent_max: if arguments.quick {
            100.0
        } else {
            arguments.foreign_percent_max
        },
        subjects: arguments.subjects,
        commands: Vec::new(),
    };
    let (mut failed, mut broken) = (Vec::new(), Vec::new());
    for scenario in chosen {
        match measure(*scenario, &mut bench) {
            Ok(record) => {
                record.save(&results)?;
                println!("{}", report::table(&record));
                broken.extend(record.broken().map(|row| format!("{}: {}", scenario.name(), row.what)));
            }
            // The others are measured all the same.
            Err(error) => {
                eprintln!("{} failed: {error:#}\n", scenario.name());
                failed.push(scenario.name());
            }
        }
    }
    if !matches!(what, What::One(_)) {
        write_report(&results, arguments.quick)?;
    }
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    // How fast it was is for people to judge.
    if !broken.is_empty() {
        bail!("what must not happen did: {}", broken.join("; "));
    }
    Ok(())
}

/// One thread for the client: its CPU is then one number, and nothing is shared between connections but that thread.
fn measure(scenario: Scenario, bench: &mut Bench) -> Result<Record> {
    println!("{} …", scenario.name());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let record = LocalSet::new().block_on(&runtime, scenario.run(bench));
    process::pin_this_thread(None)?;
    record
}

fn write_report(results: &Path, quick: bool) -> Result<()> {
    let mut records = Vec::new();
    for scenario in Scenario::value_variants() {
        records.extend(Record::load(results, &scenario.name())?);
    }
    let path = if quick {
        results.join("REPORT.md")
    } else {
        PathBuf::from(REPORT)
    };
    std::fs::write(&path, report::whole(&records)).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}", path.display());
    Ok(())
}
