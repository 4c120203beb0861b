//! Statistics of the feed that a connection follows, for who asked for them: at the beginning, within a second after a change,
//! and each minute, because what is overdue changes without anybody doing anything.

use std::rc::Rc;

use taskflow_protocol::message::{FeedStatistics, ServerMessage};
use tokio::task::JoinHandle;

use super::connection::{Connection, FollowId};
use super::worker::Worker;
use crate::http::feed::{STATISTICS_AGAIN, STATISTICS_WITHIN};
use crate::http::{Changes as _, statistics};
use crate::telemetry::metrics::Shed;

/// A following's statistics: they end with it.
#[derive(Debug)]
pub(super) struct Counting(JoinHandle<()>);

impl Drop for Counting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Counting {
    /// From now on.
    pub fn begin(connection: Rc<Connection>, worker: Rc<Worker>, id: FollowId) -> Self {
        Self(actix_rt::spawn(async move { count(&connection, &worker, id).await }))
    }
}

async fn count(connection: &Connection, worker: &Worker, id: FollowId) {
    let feed = id.feed;
    let gateway = &worker.gateway;
    let mut seq = 0;
    loop {
        while gateway.overload.may(Shed::Statistics).is_err() {
            tokio::time::sleep(STATISTICS_WITHIN).await;
        }
        // Before the look: what happens meanwhile ends the wait.
        let changed = gateway.hub.changed(feed, seq);
        gateway.hub.listening(feed).await;
        match statistics::of(&gateway.router, &gateway.store, &*gateway.clock, feed).await {
            Ok(counts) => {
                seq = counts.seq;
                let statistics = FeedStatistics { feed, counts };
                // Not on top of what a slow reader has not taken.
                if !connection
                    .say_with_room(worker, id, &ServerMessage::Statistics(statistics))
                    .await
                {
                    return;
                }
            }
            // They come late; that the store is away is said elsewhere.
            Err(code) => tracing::debug!(%code, feed.id = %feed, "statistics cannot be made"),
        }
        tokio::select! {
            // Each is a look at the feed: many changes are one of it.
            () = changed => tokio::time::sleep(STATISTICS_WITHIN).await,
            () = tokio::time::sleep(STATISTICS_AGAIN) => {}
        }
    }
}
