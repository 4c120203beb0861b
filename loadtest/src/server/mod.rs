//! The servers under load.

pub mod centrifugo;
pub mod pocketbase;
pub mod proxy;
pub mod reference;
pub mod services;
pub mod taskflow;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::clock;
use crate::machine;
use crate::net::Dial;
use crate::process::Process;

/// Where everything is, and what was started.
pub struct Bench {
    /// The server under test.
    pub server_binary: PathBuf,
    /// The reference servers.
    pub reference_binary: PathBuf,
    /// A folder on the disk that is measured; its contents are the bench's.
    pub work: PathBuf,
    /// Try out instead of measuring.
    pub quick: bool,
    /// Rounds of each subject; absent: the scenario's own number.
    pub rounds: Option<usize>,
    /// What random moments and choices follow from.
    pub seed: u64,
    /// Percent of all cores above which what other programs use makes a round void.
    pub foreign_percent_max: f64,
    /// The servers to compare; empty: the scenario's own choice.
    pub subjects: Vec<String>,
    /// Every distinct command line that started a server, as it stands in the report.
    pub commands: Vec<String>,
}

impl Bench {
    /// How often each subject runs.
    pub fn rounds(&self, usual: usize) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { usual })
    }

    /// Waits until the machine has little else to do.
    pub async fn quiet(&self) {
        machine::quiet(self.foreign_percent_max).await;
    }

    /// The smaller number when only trying out.
    pub fn size<T>(&self, usual: T, quick: T) -> T {
        if self.quick { quick } else { usual }
    }

    /// The servers to compare: in each odd round in the other order, so that none is always the first.
    pub fn subjects(&self, usual: &[&str], round: usize) -> Vec<String> {
        let mut subjects = self.subjects.clone();
        if subjects.is_empty() {
            subjects = usual.iter().map(|&subject| subject.to_owned()).collect();
        }
        if round % 2 == 1 {
            subjects.reverse();
        }
        subjects
    }

    /// An empty folder.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.work.join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Starts a program, and keeps its command line for the report.
    pub fn start(&mut self, program: &Path, arguments: &[String], core: Option<usize>, log: &str) -> Result<Process> {
        let process = Process::start(program, arguments, core, self.work.join(log))?;
        let pinned = core.map_or_else(String::new, |core| format!("taskset -c {core} "));
        let words = arguments.iter().map(|word| self.without_paths(word));
        let words: Vec<String> = std::iter::once(self.without_paths(&program.to_string_lossy()))
            .chain(words)
            .collect();
        let command = format!("{pinned}{}", words.join(" "));
        if !self.commands.contains(&command) {
            self.commands.push(command);
        }
        Ok(process)
    }

    /// The machine's own paths and this run's ports say nothing to a reader.
    fn without_paths(&self, word: &str) -> String {
        let work = self.work.to_string_lossy();
        let word = word.replace(&*work, "WORK");
        if let Some((address, port)) = word.rsplit_once(':')
            && port.parse::<u16>().is_ok()
        {
            return format!("{address}:PORT");
        }
        match word.strip_prefix('/') {
            Some(path) => path.rsplit('/').next().unwrap_or(path).to_owned(),
            None => word,
        }
    }
}

/// An address on loopback that nobody listens on. Below those that the system gives to connections: a server that is
/// started again needs its own.
pub fn free_address() -> Result<SocketAddr> {
    Ok((Ipv4Addr::LOCALHOST, free_port(&[Ipv4Addr::LOCALHOST])?).into())
}

/// A port that nobody listens on at any of these addresses, and that was not given to anybody here lately: who got it may not
/// listen yet.
pub fn free_port(addresses: &[Ipv4Addr]) -> Result<u16> {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(rand::random()));
    let mut error = None;
    for port in std::iter::repeat_with(|| 12_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 3_000).take(1_000) {
        let listen = |address: &Ipv4Addr| TcpListener::bind((*address, port));
        match addresses.iter().map(listen).collect::<Result<Vec<_>, _>>() {
            Ok(_) => return Ok(port),
            Err(taken) => error = Some(taken),
        }
    }
    Err(error.context("no port was tried")?.into())
}

/// Waits until somebody listens.
async fn wait_until_listening(address: SocketAddr, process: &mut Process) -> Result<()> {
    let deadline = clock::now_ns() + 30_000_000_000;
    while Dial::to(address).connect().await.is_err() {
        process.check_running()?;
        if clock::now_ns() > deadline {
            bail!("nobody listens on {address} after 30 s");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// What a command prints, or its complaint.
pub fn output_of(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = std::process::Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!(
            "{} {} failed ({}): {}{}",
            program.display(),
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Someone who signs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// As the server names the user.
    pub id: String,
    /// The access token.
    pub token: String,
}

/// Lines of `user token`.
fn parse_users(text: &str) -> Result<Vec<User>> {
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let (id, token) = line.split_once(' ').context("a line is not `user token`")?;
            Ok(User {
                id: id.to_owned(),
                token: token.trim().to_owned(),
            })
        })
        .collect()
}
