//! What the kernel knows of this process, under the names that all exporters use.

use std::fmt;

use procfs::Current as _;
use procfs::process::{LimitValue, Process as Proc, Stat};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Reads it at each scrape.
#[derive(Debug)]
pub struct Process;

/// Name, help; what they say, and whether it is a counter.
type Line = (&'static str, &'static str, f64, bool);

fn lines() -> procfs::ProcResult<[Line; 6]> {
    let myself = Proc::myself()?;
    let stat: Stat = myself.stat()?;
    let ticks = procfs::ticks_per_second() as f64;
    let files_max = match myself.limits()?.max_open_files.soft_limit {
        LimitValue::Unlimited => f64::INFINITY,
        LimitValue::Value(max) => max as f64,
    };
    let begun = procfs::boot_time_secs()? as f64 + stat.starttime as f64 / ticks;
    Ok([
        (
            "process_cpu_seconds",
            "User and system time of this process",
            (stat.utime + stat.stime) as f64 / ticks,
            true,
        ),
        (
            "process_resident_memory_bytes",
            "Memory that this process has",
            (stat.rss * procfs::page_size()) as f64,
            false,
        ),
        (
            "process_open_fds",
            "Files and sockets that this process has open",
            files_open() as f64,
            false,
        ),
        (
            "process_max_fds",
            "Files and sockets that this process may have open",
            files_max,
            false,
        ),
        (
            "process_threads",
            "Threads of this process",
            stat.num_threads as f64,
            false,
        ),
        (
            "process_start_time_seconds",
            "When this process began, in seconds since 1970",
            begun,
            false,
        ),
    ])
}

/// The kernel says how many there are (since 6.2); to list twenty thousand takes longer than all else in a scrape.
fn files_open() -> u64 {
    let folder = "/proc/self/fd";
    match std::fs::metadata(folder).map_or(0, |folder| folder.len()) {
        0 => std::fs::read_dir(folder).map_or(0, |files| files.count() as u64),
        files => files,
    }
}

/// Bytes of memory that this process has; 0: nobody knows.
pub fn memory() -> u64 {
    let statm = Proc::myself().and_then(|myself| myself.statm());
    statm.map_or(0, |statm| statm.resident * procfs::page_size())
}

/// Bytes of memory that this process may have: of its control group (version 2 or 1), or else of the machine.
pub fn memory_max() -> u64 {
    let groups = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let limits = groups.into_iter().filter_map(|file| std::fs::read_to_string(file).ok());
    // "max" is no number, and no limit.
    let limits = limits.filter_map(|text| text.trim().parse().ok());
    let machine = procfs::Meminfo::current().map_or(u64::MAX, |machine| machine.mem_total);
    limits.chain([machine]).min().unwrap_or(machine)
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Without /proc there is nothing to say.
        for (name, help, value, is_counter) in lines().into_iter().flatten() {
            let kind = if is_counter {
                MetricType::Counter
            } else {
                MetricType::Gauge
            };
            let metric = encoder.encode_descriptor(name, help, None, kind)?;
            match is_counter {
                true => ConstCounter::new(value).encode(metric)?,
                false => ConstGauge::new(value).encode(metric)?,
            }
        }
        Ok(())
    }
}
