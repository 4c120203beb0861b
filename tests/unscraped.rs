//! A Prometheus that never comes: nothing is kept for it, and nobody looks for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use peak_alloc::PeakAlloc;
use taskflow::telemetry::metrics::{Eviction, Route, StatusClass};
use taskflow::telemetry::{Metrics, Telemetry};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// One of each kind that there is.
fn count(metrics: &Metrics, times: u64) {
    for time in 0..times {
        metrics.pushes.inc();
        metrics.overload.set(time as f64);
        metrics.push_duration.observe(Duration::from_micros(time));
        metrics.evictions.of(Eviction::TooSlow).inc();
        let route = Route::of("/api/v1/tasks");
        metrics.http_requests.of(route, StatusClass::of(200)).inc();
        metrics
            .http_request_duration
            .of(route)
            .observe(Duration::from_micros(time));
    }
}

/// The only test here: memory is counted for the whole process.
#[test]
fn what_nobody_scrapes_takes_no_memory_and_no_work() {
    let telemetry = Telemetry::new();
    let looks = Arc::new(AtomicUsize::new(0));
    let looked = looks.clone();
    telemetry.at_scrape(move |_| {
        looked.fetch_add(1, Ordering::Relaxed);
    });
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    count(&telemetry.metrics, 1_000_000);
    assert_eq!((MEMORY.current_usage(), MEMORY.peak_usage()), (before, before));
    assert_eq!(looks.load(Ordering::Relaxed), 0);

    let scrape = telemetry.render();
    assert!(scrape.contains("taskflow_pushes_total 1000000\n"), "{scrape}");
    assert_eq!(looks.load(Ordering::Relaxed), 1);
}
