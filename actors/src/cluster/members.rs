//! Who is in the cluster, from the beats that the broker holds.
//!
//! A node is gone after it missed beats, not when its record is missing: a broker that forgot everything (FLUSHALL, a
//! failover) hears from all of them again within a beat. Ages come from the broker's clock, or from this node's own; the
//! clocks of two nodes are never compared.

use std::collections::BTreeMap;

use super::{Member, Placement};
use crate::ports::{Beat, NodeId};

/// Milliseconds between two beats of a node.
pub const BEAT_MS: u64 = 500;

/// A node that was not heard for this long is gone, in milliseconds: four beats. One that was only slow comes back with
/// its next beat; meanwhile two hosts are harmless.
pub const GONE_AFTER_MS: u64 = 4 * BEAT_MS;

#[derive(Debug)]
struct Seen {
    member: Member,
    heard_at: u64,
}

/// The component. Times are milliseconds of this node's own monotonic clock.
#[derive(Debug)]
pub struct Members {
    me: NodeId,
    seen: BTreeMap<NodeId, Seen>,
    /// Messages come through.
    up: bool,
    /// Counts everything that may change the placement.
    version: u64,
}

impl Members {
    /// Nobody is known yet.
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            seen: BTreeMap::new(),
            up: false,
            version: 0,
        }
    }

    /// Another number than before if anything that decides the placement has changed.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The beats that the broker holds now.
    pub fn beats(&mut self, beats: &[Beat], now: u64) {
        for beat in beats {
            // What a newer version says that this one does not know is skipped; what is no member at all is nobody.
            let Some(member) = Member::decode(beat.node, &beat.body) else {
                continue;
            };
            let heard_at = now.saturating_sub(beat.age_ms);
            // A broker whose clock went back must not make a node younger than it was when it beat last.
            let before = self.seen.get(&beat.node);
            self.version += u64::from(before.is_none_or(|seen| seen.member != member));
            let heard_at = before.map_or(heard_at, |seen| seen.heard_at.max(heard_at));
            self.seen.insert(beat.node, Seen { member, heard_at });
        }
        self.forget(now);
    }

    /// Messages come through, or not.
    pub fn set_up(&mut self, up: bool) {
        self.version += u64::from(self.up != up);
        self.up = up;
    }

    /// Forgets who is gone.
    pub fn forget(&mut self, now: u64) {
        let before = self.seen.len();
        self.seen
            .retain(|_, seen| now.saturating_sub(seen.heard_at) < GONE_AFTER_MS);
        self.version += u64::from(self.seen.len() != before);
    }

    /// Everyone who is there.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.seen.values().map(|seen| &seen.member)
    }

    /// Another node of another cluster, or one with the name of another: neither may go on.
    pub fn clash(&self, me: &Member) -> Option<String> {
        self.iter().filter(|other| other.node != self.me).find_map(|other| {
            if other.cluster != me.cluster {
                Some(format!(
                    "the node {} on this broker works on another store: give each cluster a name of its own (cluster_name)",
                    other.name
                ))
            } else {
                None
            }
        })
    }

    /// Who hosts what. Where messages do not come through, each node is alone.
    pub fn placement(&self) -> Placement {
        if self.up {
            Placement::over(self.iter())
        } else {
            Placement::alone()
        }
    }
}

#[cfg(test)]
mod tests {
    use taskflow_protocol::UserId;
    use uuid::Uuid;

    use super::*;

    const FEED: UserId = UserId(Uuid::nil());

    fn member(number: u64) -> Member {
        Member {
            node: NodeId(number),
            name: format!("node-{number}"),
            hosts_feeds: true,
            leaving: false,
            cluster: 1,
        }
    }

    fn beat(number: u64, age_ms: u64) -> Beat {
        Beat {
            node: NodeId(number),
            age_ms,
            body: member(number).encode(),
        }
    }

    fn names(members: &Members) -> Vec<u64> {
        members.iter().map(|member| member.node.0).collect()
    }

    fn two() -> Members {
        let mut members = Members::new(NodeId(1));
        members.set_up(true);
        members.beats(&[beat(1, 0), beat(2, 100)], 10_000);
        members
    }

    #[test]
    fn a_node_is_gone_after_four_beats_and_not_before() {
        let mut members = two();
        members.beats(&[beat(1, 0), beat(2, 1_999)], 11_899);
        assert_eq!(names(&members), [1, 2]);
        members.beats(&[beat(1, 0), beat(2, 2_000)], 11_900);
        assert_eq!(names(&members), [1]);
    }

    #[test]
    fn a_broker_that_forgot_everything_is_survived() {
        let mut members = two();
        members.beats(&[beat(1, 0)], 10_500);
        assert_eq!(names(&members), [1, 2], "its record is gone, it is not");
        members.beats(&[beat(1, 0), beat(2, 0)], 11_000);
        assert_eq!(names(&members), [1, 2]);
        members.beats(&[beat(1, 0)], 13_000);
        assert_eq!(names(&members), [1]);
    }

    #[test]
    fn an_old_record_of_a_dead_node_is_nobody() {
        let mut members = Members::new(NodeId(1));
        members.set_up(true);
        members.beats(&[beat(1, 0), beat(2, 30_000)], 10_000);
        assert_eq!(names(&members), [1]);
    }

    #[test]
    fn without_messages_a_node_is_alone_and_afterwards_it_is_not() {
        let mut members = two();
        let together = members.placement();
        assert!(together.host(FEED).is_some());
        members.set_up(false);
        assert_eq!(members.placement(), Placement::alone());
        members.set_up(true);
        assert_eq!(members.placement(), together);
    }

    #[test]
    fn a_node_of_another_cluster_is_named() {
        let mut members = two();
        assert_eq!(members.clash(&member(1)), None);
        let stranger = Member {
            cluster: 2,
            ..member(9)
        };
        let beat = Beat {
            body: stranger.encode(),
            ..beat(9, 0)
        };
        members.beats(&[beat], 10_000);
        let clash = members.clash(&member(1)).expect("a clash");
        assert!(clash.contains("node-9") && clash.contains("cluster_name"), "{clash}");
    }
}
