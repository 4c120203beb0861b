//! What the embedded store costs: `cargo test --release --test store_bench -- --ignored --nocapture`, pinned to one core
//! with `taskset -c 0`. Prints figures and asserts nothing: they are read beside the bare fsync of the same machine.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test ends where what it needs fails"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use taskflow::store::embedded::{self, Embedded, Options, StoreObserver};
use taskflow_actors::ports::{Append, Epoch, RowKey, RowKind, Store as _, StoredRow};
use taskflow_protocol::UserId;
use taskflow_protocol::values::Seq;
use uuid::Uuid;

/// Appends in flight, each of another feed.
const TOGETHER: u64 = 64;
/// Bytes of a body, of the log and of a row.
const BODY_BYTES: usize = 350;

fn feed(number: u64) -> UserId {
    UserId(Uuid::from_u128(
        u128::from(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)) << 64 | 7,
    ))
}

fn append(number: u64, base: Seq, body: &Bytes) -> Append {
    Append {
        feed: feed(number),
        epoch: Epoch(1),
        base,
        last: base + 1,
        append_id: base,
        time: base.cast_signed(),
        body: body.clone(),
    }
}

fn row(seq: Seq, body: &Bytes) -> StoredRow {
    let key = RowKey {
        kind: RowKind::Task,
        id: Uuid::from_u128(u128::from(seq)).into_bytes(),
    };
    StoredRow {
        key,
        seq,
        body: body.clone(),
    }
}

/// Microseconds of CPU that this process has used (`/proc/self/stat`, in hundredths of a second).
fn cpu_us() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks: Vec<f64> = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse().unwrap())
        .collect();
    (ticks[0] + ticks[1]) * 10_000.0
}

#[derive(Default)]
struct Counted {
    fsyncs: AtomicU64,
    commits_moved: AtomicU64,
    rows_moved: AtomicU64,
}

impl StoreObserver for Counted {
    fn fsync(&self, _: Duration) {
        self.fsyncs.fetch_add(1, Ordering::Relaxed);
    }
    fn moved(&self, commits: usize, rows: usize, _: Duration) {
        self.commits_moved.fetch_add(commits as u64, Ordering::Relaxed);
        self.rows_moved.fetch_add(rows as u64, Ordering::Relaxed);
    }
}

struct Feed {
    head: Seq,
    rows_upto: Seq,
    flushed: Instant,
}

/// Each feed does as its actor does: about once a second the rows of the commits since.
async fn appends(store: &Embedded, counted: &Counted, feeds: u64) {
    let body = Bytes::from(vec![b'x'; BODY_BYTES]);
    let now = Instant::now();
    let mut known: Vec<Feed> = (0..feeds)
        .map(|_| Feed {
            head: 0,
            rows_upto: 0,
            flushed: now,
        })
        .collect();
    let mut in_flight = FuturesUnordered::new();
    let mut next = 0;
    let start = |number: u64, head: Seq| {
        let answer = store.append(append(number, head, &body));
        let asked = Instant::now();
        async move { (number, answer.await, asked.elapsed()) }
    };
    while next < TOGETHER {
        in_flight.push(start(next, 0));
        next += 1;
    }
    let (mut count, mut waits) = (0_u64, Vec::new());
    let (cpu, begun) = (cpu_us(), Instant::now());
    let syncs = counted.fsyncs.load(Ordering::Relaxed);
    let mut row_writes = tokio::task::JoinSet::new();
    while begun.elapsed() < Duration::from_secs(6) {
        let (number, answer, wait) = in_flight.next().await.unwrap();
        answer.unwrap();
        waits.push(wait);
        count += 1;
        let known_feed = &mut known[number as usize];
        known_feed.head += 1;
        if known_feed.flushed.elapsed() > Duration::from_secs(1) {
            let rows = (known_feed.rows_upto + 1..=known_feed.head)
                .map(|seq| row(seq, &body))
                .collect();
            known_feed.rows_upto = known_feed.head;
            known_feed.flushed = Instant::now();
            row_writes.spawn(store.write_rows(feed(number), rows, known_feed.head));
        }
        let number = if feeds == TOGETHER { number } else { next % feeds };
        next += 1;
        in_flight.push(start(number, known[number as usize].head));
    }
    let cpu = cpu_us() - cpu;
    let moved = (
        counted.commits_moved.load(Ordering::Relaxed),
        counted.rows_moved.load(Ordering::Relaxed),
    );
    while let Some((_, answer, _)) = in_flight.next().await {
        answer.unwrap();
    }
    while let Some(answer) = row_writes.join_next().await {
        answer.unwrap().unwrap();
    }
    waits.sort_unstable();
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize].as_micros();
    println!(
        "{feeds} feeds: {:.0} appends/s, {:.2} us CPU an append (the load included), p50 {} us, p99 {} us, {:.4} fsyncs an \
         append, {:.2} commits and {:.2} rows moved an append",
        count as f64 / 6.0,
        cpu / count as f64,
        at(0.5),
        at(0.99),
        (counted.fsyncs.load(Ordering::Relaxed) - syncs) as f64 / count as f64,
        moved.0 as f64 / count as f64,
        moved.1 as f64 / count as f64,
    );
}

#[tokio::test]
#[ignore = "measures; not a test"]
async fn what_the_store_costs() {
    for feeds in [TOGETHER, 20_000] {
        let folder = tempfile::tempdir_in(".").unwrap();
        let counted = Arc::new(Counted::default());
        let store = embedded::open(folder.path(), Options::default(), counted.clone()).unwrap();
        appends(&store, &counted, feeds).await;
        let begun = Instant::now();
        store.shutdown();
        println!("shutdown {:?}", begun.elapsed());
    }

    let folder = tempfile::tempdir_in(".").unwrap();
    let store = embedded::open(folder.path(), Options::default(), Arc::new(())).unwrap();
    let body = Bytes::from(vec![b'x'; 400]);
    store
        .append(Append {
            last: 5_000,
            ..append(0, 0, &body)
        })
        .await
        .unwrap();
    store
        .write_rows(feed(0), (1..=5_000).map(|seq| row(seq, &body)).collect(), 5_000)
        .await
        .unwrap();
    for _ in 0..5 {
        let begun = Instant::now();
        let loaded = store.load(feed(0), 0).await.unwrap().unwrap();
        println!("a load of {} rows: {:?}", loaded.rows.len(), begun.elapsed());
    }

    let births: FuturesUnordered<_> = (1..=10_000)
        .map(|number| store.append(append(number, 0, &body)))
        .collect();
    births.for_each(|answer| async { answer.unwrap() }).await;
    for base in 1..4 {
        let more: FuturesUnordered<_> = (1..=10_000)
            .map(|number| store.append(append(number, base, &body)))
            .collect();
        more.for_each(|answer| async { answer.unwrap() }).await;
    }
    for place in ["memory", "the tables"] {
        let (cpu, begun) = (cpu_us(), Instant::now());
        for _ in 0..5 {
            let reads: FuturesUnordered<_> = (1..=10_000)
                .map(|number| store.read_log(feed(number), 2, 100_000))
                .collect();
            reads
                .for_each(|page| async { assert_eq!(page.unwrap().unwrap().rows.len(), 2) })
                .await;
        }
        let (cpu, took) = ((cpu_us() - cpu) / 50_000.0, begun.elapsed() / 5);
        println!("10,000 feeds read from {place}: {took:?}, {cpu:.1} us CPU each");
        if place == "memory" {
            // The mover has had its turn when rows are written.
            store.write_rows(feed(0), Vec::new(), 1).await.unwrap();
            store.trim(feed(0), KEEP).await.unwrap();
        }
    }
}

const KEEP: taskflow_actors::ports::Retention = taskflow_actors::ports::Retention {
    keep_since: i64::MIN,
    cut_before: i64::MIN,
    commits_max: u64::MAX,
    bytes_max: u64::MAX,
};
