//! Which node hosts which feed: shards of user ids by rendezvous hashing over the members. Pure.
//!
//! Every node computes the same from the same members, so placement needs no agreement and no messages. Nodes that see
//! different members for a moment place some feeds differently: two hosts of one feed are slower, never wrong.

use taskflow_protocol::UserId;

use super::Member;
use crate::ports::NodeId;

/// Shards of user ids: the unit of placement. Far more than nodes, so that each gets nearly the same share; few enough
/// that placing all of them over a dozen nodes takes less than a millisecond.
pub const SHARDS: usize = 4096;

/// The shard of a feed.
pub fn shard_of(feed: UserId) -> usize {
    let (high, low) = feed.0.as_u64_pair();
    (mix(high ^ mix(low)) % SHARDS as u64) as usize
}

/// Who hosts what, as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// For each shard its host; empty: nobody is there, and each node handles what arrives at it.
    hosts: Vec<NodeId>,
}

impl Placement {
    /// Nobody is there: every node for itself.
    pub fn alone() -> Self {
        Self { hosts: Vec::new() }
    }

    /// Places all shards over the members that host feeds and stay.
    pub fn over<'a>(members: impl IntoIterator<Item = &'a Member>) -> Self {
        let hosts = members
            .into_iter()
            .filter(|member| member.hosts_feeds && !member.leaving);
        // By name, not by id: a node that was started again gets the shards that it had.
        let hosts: Vec<(NodeId, u64)> = hosts.map(|member| (member.node, hash(&member.name))).collect();
        if hosts.is_empty() {
            return Self::alone();
        }
        let host = |shard: usize| {
            let best = hosts
                .iter()
                .max_by_key(|(node, name)| (mix(name ^ mix(shard as u64)), *node));
            best.expect("there is a host").0
        };
        Self {
            hosts: (0..SHARDS).map(host).collect(),
        }
    }

    /// The host of a feed; `None`: whoever gets the operation.
    pub fn host(&self, feed: UserId) -> Option<NodeId> {
        self.hosts.get(shard_of(feed)).copied()
    }

    /// How much of all feeds a node hosts, from 0 to 1.
    pub fn share(&self, node: NodeId) -> f64 {
        let hosted = self.hosts.iter().filter(|host| **host == node).count();
        hosted as f64 / SHARDS as f64
    }

    /// Whether the feed has another host here than there.
    pub fn differs(&self, other: &Self, feed: UserId) -> bool {
        self.host(feed) != other.host(feed)
    }
}

/// The finaliser of splitmix64: every bit of the input changes half of the output's.
fn mix(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// FNV-1a over the name: the same on every build.
fn hash(name: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use uuid::Uuid;

    use super::*;

    fn member(number: u64) -> Member {
        Member {
            node: NodeId(number),
            name: format!("node-{number}"),
            hosts_feeds: true,
            leaving: false,
            cluster: 0,
        }
    }

    fn shares(placement: &Placement) -> HashMap<NodeId, usize> {
        let mut shares = HashMap::new();
        for host in &placement.hosts {
            *shares.entry(*host).or_default() += 1;
        }
        shares
    }

    #[test]
    fn every_node_gets_nearly_the_same_share() {
        for count in 1..=12 {
            let members: Vec<_> = (0..count).map(member).collect();
            let shares = shares(&Placement::over(&members));
            let fair = SHARDS / count as usize;
            assert_eq!(shares.len(), count as usize);
            for (node, share) in shares {
                assert!(
                    share * 4 > fair * 3 && share * 3 < fair * 4,
                    "{node:?}: {share} of {fair}"
                );
            }
        }
    }

    #[test]
    fn a_node_that_leaves_moves_its_own_feeds_and_no_others() {
        let mut members: Vec<_> = (0..5).map(member).collect();
        let before = Placement::over(&members);
        members[2].leaving = true;
        let after = Placement::over(&members);
        for (was, is) in before.hosts.iter().zip(&after.hosts) {
            assert!(*is != NodeId(2) && (was == is || *was == NodeId(2)));
        }
    }

    #[test]
    fn a_node_that_was_started_again_gets_what_it_had() {
        let members: Vec<_> = (0..5).map(member).collect();
        let mut again = members.clone();
        again[3].node = NodeId(77);
        let (before, after) = (Placement::over(&members), Placement::over(&again));
        for (was, is) in before.hosts.iter().zip(&after.hosts) {
            assert_eq!(*is, if *was == NodeId(3) { NodeId(77) } else { *was });
        }
    }

    #[test]
    fn neighbouring_users_are_in_different_shards() {
        let shards: std::collections::HashSet<_> = (0..1_000).map(|id| shard_of(UserId(Uuid::from_u128(id)))).collect();
        assert!(shards.len() > 850, "{}", shards.len());
    }

    #[test]
    fn without_hosts_everyone_handles_what_arrives() {
        let gateway = Member {
            hosts_feeds: false,
            ..member(1)
        };
        assert_eq!(Placement::over([&gateway]).host(UserId(Uuid::nil())), None);
    }
}
