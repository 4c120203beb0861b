//! What an operator sees of a node beside its figures: the nodes around it, and who is behind. Names and users, so it is no
//! metric. It is found out when somebody looks, and not more often than [`LOOK_EVERY`].

use std::time::Duration;

use actix_web::web::Bytes;
use serde::Serialize;
use taskflow_actors::cluster::shell::SeenNode;
use taskflow_actors::ports::BoxFuture;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long an answer is good for: each makes every worker look at all of its connections while somebody is behind.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A connection whose client is behind.
#[derive(Debug, Serialize)]
pub struct SlowStatus {
    /// Whose it is, as `user.id` in the log.
    pub user: String,
    /// Bytes that wait for it.
    pub bytes: usize,
    /// For how long its socket has not taken all that there was.
    pub behind_ms: u64,
}

/// A feed at which operations wait.
#[derive(Debug, Serialize)]
pub struct FeedStatus {
    /// Whose it is.
    pub user: String,
    /// How many.
    pub operations: u32,
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Name of this node.
    pub node: String,
    /// Name and version of the server.
    pub build: String,
    /// Of the cluster; none if this node is alone.
    pub nodes: Vec<SeenNode>,
    /// The slowest connections of this node, the one with the most bytes first.
    pub slowest: Vec<SlowStatus>,
    /// Workers that did not say in time who of theirs is slow: they are busy.
    pub workers_silent: usize,
    /// The feeds of this node with the longest queues, the longest first.
    pub feeds: Vec<FeedStatus>,
}

/// Finds it out.
pub trait Look: Send + Sync + 'static {
    /// Must not take long, nor keep anybody waiting.
    fn look(&self) -> BoxFuture<Status>;
}

/// Remembers the last answer, so that whoever looks, and however many do, costs the same.
#[derive(Debug, Default)]
pub struct Seen(Mutex<Option<(Instant, Bytes)>>);

impl Seen {
    /// The last answer as JSON, or a new one if that is too old. One asks at a time.
    pub async fn look(&self, look: &dyn Look) -> Bytes {
        let mut last = self.0.lock().await;
        match &*last {
            Some((at, body)) if at.elapsed() < LOOK_EVERY => body.clone(),
            _ => {
                let status = look.look().await;
                let body = Bytes::from(serde_json::to_vec(&status).expect("it has text keys only"));
                *last = Some((Instant::now(), body.clone()));
                body
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicU32);

    impl Look for Counted {
        fn look(&self) -> BoxFuture<Status> {
            let looks = self.0.fetch_add(1, Ordering::Relaxed) + 1;
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                Status {
                    node: format!("look {looks}"),
                    build: String::new(),
                    nodes: Vec::new(),
                    slowest: Vec::new(),
                    workers_silent: 0,
                    feeds: Vec::new(),
                }
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_look_it_is_found_out_once_a_second() {
        let (seen, look) = (Seen::default(), Counted::default());
        let all = futures_util::future::join_all((0..50).map(|_| seen.look(&look))).await;
        assert!(
            all.iter().all(|body| body.starts_with(br#"{"node":"look 1""#)),
            "{all:?}"
        );
        tokio::time::advance(LOOK_EVERY - Duration::from_millis(1)).await;
        seen.look(&look).await;
        assert_eq!(look.0.load(Ordering::Relaxed), 1);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(seen.look(&look).await.starts_with(br#"{"node":"look 2""#));
    }
}
