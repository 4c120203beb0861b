//! A database that has more to do than it can is not asked more for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{join, join_all};
use taskflow::store::cql::{Cql, CqlObserver, migrate};
use taskflow::telemetry::metrics::CqlRequest;
use taskflow_actors::ports::Store as _;
use taskflow_protocol::UserId;
use uuid::Uuid;

use crate::options;
use crate::services::Cassandra;

#[derive(Default)]
struct Counts {
    rows: AtomicU64,
    speculated: AtomicU64,
}

impl CqlObserver for Counts {
    fn request(&self, which: CqlRequest, _: Duration) {
        self.rows
            .fetch_add(u64::from(which == CqlRequest::Rows), Ordering::Relaxed);
    }
    fn speculated(&self) {
        self.speculated.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn feeds_are_read_in_turn_and_what_is_asked_twice_has_a_budget() {
    // One that may be stopped.
    let database = Cassandra::start(1);
    let mut options = options("overload");
    options.nodes = database.nodes.clone();
    migrate(&options).await.unwrap();
    // All of it within the two seconds after which the connections are given up.
    options.read_timeout = Duration::from_millis(300);
    options.append_timeout = Duration::from_millis(400);
    let counts = Arc::new(Counts::default());
    let cql = Cql::open(&options, counts.clone()).await.unwrap();
    let feed = || UserId(Uuid::new_v4());
    database.signal(1, "-STOP");

    // Eight at a time: the first, and those who take their places. The others have waited too long by then.
    let counted = async {
        while (cql.loads().running, cql.loads().waiting, cql.requests().running) != (8, 92, 8) {
            tokio::task::yield_now().await;
        }
    };
    let counted = tokio::time::timeout(Duration::from_secs(1), counted);
    let (loads, counted) = join(join_all((0..100).map(|_| cql.load(feed(), i64::MAX))), counted).await;
    assert!(counted.is_ok());
    assert!(loads.iter().all(Result::is_err));
    let rows = counts.rows.load(Ordering::Relaxed);
    assert!((8..=16).contains(&rows), "{rows} feeds were read at once");

    // Those that begin together may all be asked twice more; then nobody.
    let heads = || join_all((0..100).map(|_| cql.head(feed())));
    assert!(heads().await.iter().all(Result::is_err));
    let first = counts.speculated.load(Ordering::Relaxed);
    assert!(first > 200, "{first} requests were sent again");
    assert!(heads().await.iter().all(Result::is_err));
    assert_eq!(counts.speculated.load(Ordering::Relaxed), first);

    database.signal(1, "-CONT");
    let answered = async {
        while cql.load(feed(), i64::MAX).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), answered).await.unwrap();
}
