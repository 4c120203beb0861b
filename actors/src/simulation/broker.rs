//! The broker of a simulated cluster: who is subscribed to what, who can hear it, and the latest beats.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use taskflow_protocol::UserId;

use super::plan::Time;
use crate::ports::{Beat, NodeId};

/// How a node and the broker hear each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Both ways.
    Up,
    /// The node's messages arrive, and nothing is delivered to it.
    Deaf,
    /// Neither way.
    Cut,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Broker {
    /// Nodes, by index, that are subscribed.
    subscribed: BTreeMap<UserId, BTreeSet<usize>>,
    beats: BTreeMap<NodeId, (Time, Bytes)>,
    /// Nobody hears it, and it hears nobody.
    pub is_down: bool,
    /// It loses, doubles, delays and reorders.
    pub is_lossy: bool,
}

impl Broker {
    /// A node's beat; all beats that there are.
    pub fn beat(&mut self, node: NodeId, body: Bytes, now: Time) -> Vec<Beat> {
        self.beats.insert(node, (now, body));
        let beat = |(node, (at, body)): (&NodeId, &(Time, Bytes))| Beat {
            node: *node,
            age_ms: (now - at) / super::plan::MS,
            body: body.clone(),
        };
        self.beats.iter().map(beat).collect()
    }

    /// Forgets all that it holds.
    pub fn flush(&mut self) {
        self.beats.clear();
    }

    /// A node subscribes.
    pub fn subscribe(&mut self, node: usize, feed: UserId) {
        self.subscribed.entry(feed).or_default().insert(node);
    }

    /// A node unsubscribes.
    pub fn unsubscribe(&mut self, node: usize, feed: UserId) {
        if let Some(nodes) = self.subscribed.get_mut(&feed) {
            nodes.remove(&node);
        }
    }

    /// A node's connection is gone, and its subscriptions with it.
    pub fn forget(&mut self, node: usize) {
        for nodes in self.subscribed.values_mut() {
            nodes.remove(&node);
        }
    }

    /// Who is subscribed.
    pub fn subscribers(&self, feed: UserId) -> Vec<usize> {
        self.subscribed
            .get(&feed)
            .map(|nodes| nodes.iter().copied().collect())
            .unwrap_or_default()
    }
}
