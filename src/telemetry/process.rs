//! What the kernel knows of this process, under the names that all exporters use.

use std::fmt;
use std::path::Path;

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

/// Bytes of memory that this process may have: of its control groups, or else of the machine.
pub fn memory_max() -> u64 {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let machine = procfs::Meminfo::current().map_or(u64::MAX, |machine| machine.mem_total);
    group_memory_max(Path::new("/sys/fs/cgroup"), &own).map_or(machine, |group| group.min(machine))
}

/// The smallest limit of a process's control group and of those that it is in, by what the kernel says of the process
/// (cgroups(7), "/proc files": `0::/path` in version 2, `N:memory:/path` in version 1). `None`: there is none.
///
/// Inside of a container the root that is seen is the container's own group, and the path below it may not be seen at all.
fn group_memory_max(root: &Path, own: &str) -> Option<u64> {
    let groups = own.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (folder, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        Some((folder, path, file))
    });
    let limits = groups.flat_map(|(mut folder, path, file)| {
        let mut limits = vec![folder.join(file)];
        // A group beside that of the container is named by a way up, and is not seen.
        for group in path.split('/').filter(|group| !matches!(*group, "" | "." | "..")) {
            folder.push(group);
            limits.push(folder.join(file));
        }
        limits
    });
    let limits = limits.filter_map(|file| std::fs::read_to_string(file).ok());
    // "max" is no number, and no limit.
    limits.filter_map(|text| text.trim().parse().ok()).min()
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder tree with these limits in it.
    fn group_max(limits: &[(&str, &str)], own: &str) -> Option<u64> {
        let root = tempfile::tempdir().expect("a folder");
        for (file, limit) in limits {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().expect("it is in one")).expect("made");
            std::fs::write(file, format!("{limit}\n")).expect("written");
        }
        group_memory_max(root.path(), own)
    }

    #[test]
    fn the_smallest_limit_up_the_tree_counts() {
        let service = "0::/system.slice/taskflow.service\n";
        let max = |slice, own| {
            let limits = [
                ("memory.max", "9000"),
                ("system.slice/memory.max", slice),
                ("system.slice/taskflow.service/memory.max", own),
                ("system.slice/other.service/memory.max", "1"),
            ];
            group_max(&limits, service)
        };
        assert_eq!(max("max", "5000"), Some(5000), "the unit's own (MemoryMax=)");
        assert_eq!(max("4000", "5000"), Some(4000), "that of the slice around it");
        assert_eq!(max("max", "max"), Some(9000), "that of the root: a container");
        assert_eq!(group_max(&[("system.slice/memory.max", "max")], service), None, "none");
    }

    #[test]
    fn both_versions_are_read_and_a_path_that_is_not_seen_is_the_root() {
        let first = "5:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n1:name=systemd:/docker/a\n";
        let of_root = [("memory/memory.limit_in_bytes", "7000"), ("cpu/memory.max", "1")];
        assert_eq!(group_max(&of_root, first), Some(7000));
        let of_group = [of_root[0], ("memory/docker/a/memory.limit_in_bytes", "6000")];
        assert_eq!(group_max(&of_group, first), Some(6000));
        let root = [("memory.max", "8000")];
        for own in ["0::/\n", "0::/../other.slice\n", "0::/not/seen\n", "0::/a:b/c\n"] {
            assert_eq!(group_max(&root, own), Some(8000), "{own}");
        }
        assert_eq!(group_max(&[root[0], ("a:b/memory.max", "3")], "0::/a:b\n"), Some(3));
        for nonsense in ["", "\n", "0\n", "0::\n", "::::"] {
            let _ = group_max(&root, nonsense);
        }
    }
}
