//! The one place that reads clocks.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId as TimerClock, TimerFd, TimerFlags};
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Nanoseconds of a clock that never goes back.
pub fn now_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// CPU time of the calling thread, in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time of a process, all its threads and those that ended included, in nanoseconds; 0 if it is gone.
///
/// `/proc/PID/stat` says the same in steps of 10 ms.
pub fn process_cpu_ns(pid: Pid) -> u64 {
    clock_getcpuclockid(pid).map_or(0, read)
}

/// Seconds of Unix time, as `strace -ttt` writes them.
pub fn unix_seconds() -> f64 {
    jiff::Timestamp::now().as_duration().as_secs_f64()
}

/// Today, `YYYY-MM-DD`.
pub fn today() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d").to_string()
}

fn read(clock: ClockId) -> u64 {
    clock.now().map_or(0, |time| Duration::from(time).as_nanos() as u64)
}

/// Wakes at exact times: the runtime's own timers are up to a millisecond late, which is half of what is measured here.
pub struct Pacer(AsyncFd<Timer>);

struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Pacer {
    /// Holds one file.
    pub fn new() -> std::io::Result<Self> {
        let timer = TimerFd::new(
            TimerClock::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        #[allow(
            deprecated,
            reason = "its replacement is unsafe code, to promise what holds here: the timer keeps its file while it lives"
        )]
        Ok(Self(AsyncFd::with_interest(Timer(timer), Interest::READABLE)?))
    }

    /// Waits until [`now_ns`] has reached this.
    pub async fn until(&mut self, due_ns: u64) -> std::io::Result<()> {
        if now_ns() >= due_ns {
            // The others on this thread get their turn even when the sender is late.
            tokio::task::yield_now().await;
            return Ok(());
        }
        let due = TimeSpec::from_duration(Duration::from_nanos(due_ns));
        self.0
            .get_ref()
            .0
            .set(Expiration::OneShot(due), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
        loop {
            let mut ready = self.0.readable().await?;
            if ready.try_io(|timer| Ok(timer.get_ref().0.wait()?)).is_ok() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pacer_is_never_early_and_hardly_late() {
        let mut pacer = Pacer::new().unwrap();
        let mut lateness = Vec::new();
        let start = now_ns();
        for step in 1..=50 {
            let due = start + step * 1_000_000;
            pacer.until(due).await.unwrap();
            assert!(now_ns() >= due);
            lateness.push(now_ns() - due);
        }
        lateness.sort_unstable();
        assert!(
            lateness[25] < 900_000,
            "half of the wake-ups are {} ns late",
            lateness[25]
        );
    }
}
