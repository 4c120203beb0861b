//! The machine under the measurement, and what else runs on it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::clock;

/// What a reader needs to judge the absolute figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// As the processor names itself.
    pub processor: String,
    /// Cores that the bench may use.
    pub cores: usize,
    /// Main memory, in MiB.
    pub memory_mib: u64,
    /// Kernel and its version.
    pub kernel: String,
    /// The compiler.
    pub rustc: String,
    /// The commit that was measured.
    pub commit: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        Self {
            processor: field("/proc/cpuinfo", "model name").unwrap_or_default(),
            cores: cores(),
            memory_mib: field("/proc/meminfo", "MemTotal")
                .and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok())
                .map_or(0, |kilobytes| kilobytes / 1024),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            rustc: first_line("rustc", &["--version"]),
            commit: first_line("git", &["rev-parse", "--short", "HEAD"]),
        }
    }
}

/// Cores of the machine.
pub fn cores() -> usize {
    // Not `available_parallelism`: that says one once the bench has pinned itself.
    fs::read_to_string("/proc/cpuinfo").map_or(1, |text| {
        text.lines().filter(|line| line.starts_with("processor")).count().max(1)
    })
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    Command::new(program)
        .args(arguments)
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .and_then(|text| text.lines().next().map(str::to_owned))
        .unwrap_or_default()
}

/// Waits until other programs use at most so many percent of the machine, for a minute at most: the round says what it
/// was like.
pub async fn quiet(foreign_percent_max: f64) {
    for _ in 0..60 {
        let watch = Watch::begin(&[]);
        tokio::time::sleep(Duration::from_millis(500)).await;
        if watch.end().foreign_percent < foreign_percent_max {
            return;
        }
    }
}

/// Watches a stretch of time: what the servers and the client used, and what the machine did besides.
pub struct Watch {
    servers: Vec<Pid>,
    began: Reading,
}

/// What a watch saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// How long, in seconds.
    pub seconds: f64,
    /// CPU of the servers, in seconds.
    pub server_cpu_seconds: f64,
    /// CPU of the client's thread, in percent of one core.
    pub client_percent: f64,
    /// CPU of other processes, in percent of all cores.
    pub foreign_percent: f64,
    /// CPU that the hypervisor gave to others, in percent of all cores.
    pub steal_percent: f64,
}

struct Reading {
    time_ns: u64,
    servers_ns: u64,
    /// The bench itself, and children that have ended.
    bench_ns: u64,
    client_ns: u64,
    total: Total,
}

impl Watch {
    /// Begins; to be called on the thread of the load client, which also ends it.
    pub fn begin(servers: &[Pid]) -> Self {
        Self {
            servers: servers.to_vec(),
            began: Reading::now(servers),
        }
    }

    /// Ends.
    pub fn end(self) -> Seen {
        let (began, ended) = (self.began, Reading::now(&self.servers));
        let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e9;
        let elapsed = seconds(began.time_ns, ended.time_ns).max(1e-3);
        let server_cpu_seconds = seconds(began.servers_ns, ended.servers_ns);
        let known = server_cpu_seconds + seconds(began.bench_ns, ended.bench_ns);
        let all_cores = elapsed * cores() as f64;
        Seen {
            seconds: elapsed,
            server_cpu_seconds,
            client_percent: seconds(began.client_ns, ended.client_ns) / elapsed * 100.0,
            foreign_percent: ((ended.total.busy_s - began.total.busy_s - known) / all_cores * 100.0).max(0.0),
            steal_percent: (ended.total.steal_s - began.total.steal_s) / all_cores * 100.0,
        }
    }
}

impl Reading {
    fn now(servers: &[Pid]) -> Self {
        Self {
            time_ns: clock::now_ns(),
            servers_ns: servers.iter().map(|pid| clock::process_cpu_ns(*pid)).sum(),
            bench_ns: clock::process_cpu_ns(Pid::this()) + ended_children_ns(),
            client_ns: clock::thread_cpu_ns(),
            total: Total::now(),
        }
    }
}

/// CPU of children that have ended and were waited for: servers that a scenario killed.
fn ended_children_ns() -> u64 {
    let micros = |time: nix::sys::time::TimeVal| time.num_microseconds().unsigned_abs();
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or(0, |usage| {
        (micros(usage.user_time()) + micros(usage.system_time())) * 1_000
    })
}

#[derive(Clone, Copy)]
struct Total {
    busy_s: f64,
    steal_s: f64,
}

impl Total {
    /// The first line of `/proc/stat`, in ticks of 10 ms.
    fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let ticks: Vec<f64> = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .filter_map(|word| word.parse().ok())
            .collect();
        let tick = |index: usize| ticks.get(index).copied().unwrap_or(0.0) / 100.0;
        Self {
            // user, nice, system, irq, softirq
            busy_s: tick(0) + tick(1) + tick(2) + tick(5) + tick(6),
            steal_s: tick(7),
        }
    }
}
