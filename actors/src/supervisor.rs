//! Knows which feeds run on this node, starts them on first use, and routes operations to them.

use std::sync::Arc;

use taskflow_protocol::message::{Operation, OperationResult};
use taskflow_protocol::{Code, UserId};
use tokio::sync::oneshot;

use crate::domain::State;
use crate::ports::ConnectionId;

/// Where the results of a submission go.
#[derive(Debug)]
pub enum ReplyTo {
    /// To a connection, in one write with the push of the entries.
    Connection(ConnectionId),
    /// To a waiting request. A dropped sender means `outcome_unknown`.
    Waiter(oneshot::Sender<Vec<OperationResult>>),
}

/// Operations on their way to a feed.
#[derive(Debug)]
pub struct Submission {
    /// The feed that they change.
    pub feed: UserId,
    /// Who asks.
    pub author: UserId,
    /// In the order in which they are judged.
    pub operations: Vec<Operation>,
    /// Who gets the results.
    pub reply: ReplyTo,
}

/// The way to every feed. Cheap to clone.
#[derive(Clone)]
pub struct Router(Arc<()>);

impl Router {
    /// Sends operations to their feed. Every operation is answered through `reply`, also those that are refused at once.
    pub fn submit(&self, _submission: Submission) {
        unimplemented!()
    }

    /// Looks at a feed's memory, starting the feed if it is not running. The look runs on the feed's own thread.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the feed as it was.
    pub async fn view<T: Send + 'static>(
        &self,
        _feed: UserId,
        _look: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<T, Code> {
        unimplemented!()
    }

    /// Gives a new user a feed with an inbox and settings; it is no error if it is there already.
    pub async fn birth(&self, _user: UserId, _time_zone: String, _locale: String) -> Result<(), Code> {
        unimplemented!()
    }
}
