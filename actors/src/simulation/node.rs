//! A node of a simulated cluster: the components, and what the shells around them would remember.

use std::collections::{BTreeMap, BTreeSet};

use taskflow_protocol::UserId;
use taskflow_protocol::message::OperationResult;
use taskflow_protocol::values::Seq;

use super::broker::Link;
use super::plan::Time;
use crate::cluster::Node;
use crate::cursor::Cursor;
use crate::domain::Entry;
use crate::feed::{Feed, SubmissionId};
use crate::follow::{Follower, Kept};
use crate::ports::{Epoch, NodeId};

/// Which client, and which of its connections.
pub type Token = (usize, u32);

/// Who waits for a submission.
#[derive(Clone, Debug)]
pub enum Asked {
    /// A client of this node.
    Client(Token, Vec<taskflow_protocol::OperationId>),
    /// A request, and which of its items.
    Item(RequestKey, usize),
    /// A client that looks, and how far the feed was when it asked.
    Look(Token, u64),
    /// Somebody who needs the feed to be there.
    Birth,
}

/// Who asked (`None`: this node), the number, the attempt.
pub type RequestKey = (Option<NodeId>, u64, u32);

/// A request of which some items are not answered.
#[derive(Clone, Debug)]
pub struct Gathering {
    /// Whose feed.
    pub feed: UserId,
    /// What is there.
    pub results: Vec<Option<Vec<OperationResult>>>,
}

/// A feed in a node's memory.
#[derive(Debug)]
pub struct Hosted {
    /// The component.
    pub feed: Feed,
    /// Who waits.
    pub asked: BTreeMap<SubmissionId, Asked>,
    /// The next submission.
    pub next: u64,
}

impl Hosted {
    /// Whether operations wait.
    pub fn is_busy(&self) -> bool {
        let operates = |asked: &Asked| matches!(asked, Asked::Client(..) | Asked::Item(..));
        self.asked.values().any(operates)
    }
}

/// A client's connection, as the node has it.
#[derive(Debug)]
pub struct Served {
    /// Which connection.
    pub number: u32,
    /// What it follows.
    pub feed: UserId,
    /// How far it is.
    pub at: Follower,
    /// What it gets when the log has been read to there.
    pub kept: Kept<(Epoch, Vec<Entry>)>,
    /// The newest entry that this node was told of while it served the follower.
    pub told: Seq,
    /// From where it follows, as its hello said.
    pub cursor: Option<Cursor>,
    /// The log is being read for it.
    pub is_reading: bool,
    /// It waits for the subscription, until then.
    pub waits: bool,
    /// Since when there is something that it was not sent.
    pub behind_since: Option<Time>,
    /// Since when it lacks what somebody was told is done.
    pub lacks_since: Option<Time>,
}

/// See the module.
#[derive(Debug)]
pub struct SimNode {
    /// Counts its lives.
    pub life: u32,
    /// It runs.
    pub is_up: bool,
    /// It stands still until then.
    pub paused_until: Time,
    /// Its clock is off by so many milliseconds.
    pub skew: i64,
    /// When this life began.
    pub begun: Time,
    /// The component.
    pub node: Node<Token>,
    /// Feeds in memory.
    pub feeds: BTreeMap<UserId, Hosted>,
    /// Requests of others under way.
    pub gathering: BTreeMap<RequestKey, Gathering>,
    /// Connections, by client.
    pub served: BTreeMap<usize, Served>,
    /// What it says in its beats.
    pub beat: bytes::Bytes,
    /// The connection to the broker, as the network has it.
    pub link: Link,
    /// The node knows that it has no connection.
    pub is_told_down: bool,
    /// What it told its clients last: that what they show may be old.
    pub says_stale: bool,
    /// When it said so, or that they are not.
    pub said_stale_at: Time,
    /// The store hears it.
    pub has_store: bool,
    /// It ends at its next append, and starts again after so long.
    pub ends_at_append: Option<Time>,
    /// How many faults fill its queues.
    pub overflow: u32,
    /// What it asked the broker to subscribe it to, and did not take back.
    pub wants: BTreeSet<UserId>,
}
