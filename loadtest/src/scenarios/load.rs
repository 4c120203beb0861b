//! `taskflow-loadtest run` as the client of a scenario: a process of its own, while the scenario does something to the servers.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::clock;
use crate::load::{ALL_CONNECTED, Outcome, Second};
use crate::process::Process;
use crate::server::{Bench, User};

/// A run that is under way. Killed when dropped.
pub struct Load {
    process: Process,
    out: PathBuf,
    log: PathBuf,
}

impl Load {
    /// Starts a scenario of `run` with these users on what listens there.
    pub fn start(
        bench: &mut Bench,
        scenario: &str,
        address: SocketAddr,
        users: &[User],
        arguments: &[(&str, f64)],
    ) -> Result<Self> {
        let folder = bench.folder("load")?;
        let (tokens, out) = (folder.join("tokens"), folder.join("run"));
        let mut lines = String::new();
        for user in users {
            writeln!(lines, "{} {}", user.id, user.token)?;
        }
        fs::write(&tokens, lines)?;
        let mut words = vec![
            "run".to_owned(),
            scenario.to_owned(),
            format!("--url=http://{address}"),
            format!("--tokens={}", tokens.display()),
            format!("--out={}", out.display()),
            format!("--users={}", users.len()),
            // How late the client was stands in the results: losses count however late it was.
            "--late-ms-max=60000".to_owned(),
        ];
        words.extend(arguments.iter().map(|(name, value)| format!("--{name}={value}")));
        let itself = std::env::current_exe()?;
        let process = bench.start(&itself, &words, None, "load/log")?;
        Ok(Self {
            process,
            out,
            log: folder.join("log"),
        })
    }

    /// Waits until all are connected and the load has begun.
    pub async fn has_begun(&mut self) -> Result<()> {
        while !fs::read_to_string(&self.log)?.contains(ALL_CONNECTED) {
            self.process.check_running()?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Whether it still puts load on.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.process.ended()?.is_none())
    }

    /// Waits for its end: what it found.
    pub async fn outcome(mut self) -> Result<Outcome> {
        let path = self.out.with_extension("json");
        while self.is_running()? {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // It says with its code what it thinks of what it found, which it has written in any case.
        if !path.exists() {
            bail!("the load failed:\n{}", fs::read_to_string(&self.log)?);
        }
        Outcome::load(&path).context("what the load found cannot be read")
    }
}

/// The seconds of a run that begin between two times of the wall clock, in seconds of Unix time.
pub fn seconds_between(outcome: &Outcome, from: f64, to: f64) -> &[Second] {
    let seconds = &outcome.tally.seconds;
    let place = |time: f64| ((time - outcome.began).max(0.0).round() as usize).min(seconds.len());
    &seconds[place(from)..place(to).max(place(from))]
}

/// How many a second of something that goes on at one rate for some time, by how many there were in each second: of the
/// middle four fifths, because the first and the last are spread over a second that is not all theirs.
pub fn steady_rate(a_second: &[u64]) -> f64 {
    let all = a_second.iter().sum::<u64>() as f64;
    let when = |share: f64| {
        let mut sum = 0.0;
        for (second, count) in a_second.iter().enumerate() {
            let next = sum + *count as f64;
            if next >= share * all && *count > 0 {
                return second as f64 + (share * all - sum) / *count as f64;
            }
            sum = next;
        }
        f64::NAN
    };
    0.8 * all / (when(0.9) - when(0.1))
}

/// Now, as results have it.
pub fn now() -> f64 {
    clock::unix_seconds()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_middle_whenever_it_began() {
        for begin in 0..10_u64 {
            // 1,000 at 200 a second, from a tenth of a second on.
            let mut a_second = vec![0; 3];
            a_second.extend([200 - 20 * begin, 200, 200, 200, 200, 20 * begin]);
            let rate = steady_rate(&a_second);
            assert!((195.0..205.0).contains(&rate), "{begin}: {rate}");
        }
        assert!(steady_rate(&[]).is_nan());
    }
}
