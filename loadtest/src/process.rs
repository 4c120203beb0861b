//! Servers as child processes: started, pinned, sampled, killed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A child. Killed when dropped, so that no scenario leaves one behind.
pub struct Process {
    child: Child,
    /// The process that is sampled: the child itself, or what the child traces.
    pid: Pid,
    log: PathBuf,
}

/// Resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Pages that are in memory.
    pub resident: u64,
    /// The same, shared pages by their share.
    pub proportional: u64,
    /// Heap and stacks.
    pub anonymous: u64,
}

impl Process {
    /// Starts a program whose output goes to a file beside the data.
    pub fn start(program: &Path, arguments: &[String], core: Option<usize>, log: PathBuf) -> Result<Self> {
        let mut command = match core {
            // Pinned before its first instruction, so that it counts one core.
            Some(core) => {
                let mut command = Command::new("taskset");
                command.args(["-c", &core.to_string()]).arg(program);
                command
            }
            None => Command::new(program),
        };
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        Ok(Self { child, pid, log })
    }

    /// The process that is sampled.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Samples the only child of the started process instead: that is a tracer.
    pub fn sample_traced(&mut self) -> Result<()> {
        let parent = self.pid;
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        // The tracer starts helpers of its own, which end at once: the last child is the program.
        let traced = children.split_whitespace().last().context("the tracer has no child")?;
        self.pid = Pid::from_raw(traced.parse()?);
        Ok(())
    }

    /// Resident memory now.
    pub fn memory(&self) -> Result<Memory> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid))?;
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next())
                .and_then(|kilobytes| kilobytes.parse::<u64>().ok())
                .map_or(0, |kilobytes| kilobytes * 1024)
        };
        Ok(Memory {
            resident: field("Rss"),
            proportional: field("Pss"),
            anonymous: field("Anonymous"),
        })
    }

    /// Open files.
    pub fn files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid)).map_or(0, Iterator::count)
    }

    /// An error with the end of the log, if the process has ended.
    pub fn check_running(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the server ended ({status}); its log ends with:\n{}", self.log_end());
        }
        Ok(())
    }

    /// How it ended, once it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// SIGKILL, as a crash.
    pub fn kill(&mut self) {
        if self.pid.as_raw() != self.child.id() as i32 {
            let _ = kill(self.pid, Signal::SIGKILL);
        }
        // It is no error if it has ended by itself; waiting takes its entry out of the process table.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, without waiting.
    pub fn ask_to_stop(&self) {
        // It is no error if it has ended by itself.
        let _ = kill(self.pid, Signal::SIGTERM);
    }

    /// SIGTERM, and waits: what the process writes at its end is written.
    pub fn stop(&mut self) {
        if kill(self.pid, Signal::SIGTERM).is_ok() {
            let _ = self.child.wait();
        }
    }

    fn log_end(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A control group that holds what runs in it to a share of a core. For the superuser; gone when dropped, after what ran in it.
pub struct CpuCap {
    folder: PathBuf,
}

impl CpuCap {
    /// With the period that containers have: what is used up early is missed for the rest of 100 ms.
    pub fn new(cores: f64) -> Result<Self> {
        const PERIOD_US: f64 = 100_000.0;
        let quota = cores * PERIOD_US;
        // In version 2 all controllers are in one tree.
        let is_unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let root = Path::new(if is_unified {
            "/sys/fs/cgroup"
        } else {
            "/sys/fs/cgroup/cpu"
        });
        let cap = Self {
            folder: root.join(format!("taskflow-bench-{}", std::process::id())),
        };
        let made = || -> std::io::Result<()> {
            if is_unified {
                fs::write(root.join("cgroup.subtree_control"), "+cpu")?;
            }
            fs::create_dir_all(&cap.folder)?;
            match is_unified {
                true => fs::write(cap.folder.join("cpu.max"), format!("{quota} {PERIOD_US}")),
                false => {
                    fs::write(cap.folder.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
                    fs::write(cap.folder.join("cpu.cfs_quota_us"), quota.to_string())
                }
            }
        };
        made().with_context(|| {
            format!(
                "cannot make a control group with a share of the CPU at {}: run this as the superuser",
                cap.folder.display()
            )
        })?;
        Ok(cap)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How long what runs in it had to stand still so far.
    pub fn throttled_seconds(&self) -> f64 {
        let text = fs::read_to_string(self.folder.join("cpu.stat")).unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|number| number.trim().parse::<f64>().ok())
        };
        let (version_2, version_1) = (field("throttled_usec "), field("throttled_time "));
        version_2.map_or_else(|| version_1.unwrap_or(f64::NAN) / 1e9, |micros| micros / 1e6)
    }
}

impl Drop for CpuCap {
    fn drop(&mut self) {
        // A group whose last process has just ended is busy for a moment.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// Pins the calling thread, and what it starts, to one core, or lets it run on all again.
pub fn pin_this_thread(core: Option<usize>) -> Result<()> {
    let mut cores = CpuSet::new();
    match core {
        Some(core) => cores.set(core)?,
        None => {
            for core in 0..crate::machine::cores() {
                cores.set(core)?;
            }
        }
    }
    sched_setaffinity(Pid::from_raw(0), &cores)?;
    Ok(())
}
