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

/// Beats in a row with which a namesake must be heard before it counts as one: the record of the life before this one, of
/// a node that was killed and started again at once, is as old as that life soon.
const NAMESAKE_BEATS: u32 = 6;

#[derive(Debug)]
struct Seen {
    member: Member,
    /// Before this node's own time began, if it is young.
    heard_at: i64,
}

impl Seen {
    fn age_ms(&self, now: u64) -> i64 {
        now.cast_signed() - self.heard_at
    }
}

/// The component. Times are milliseconds of this node's own monotonic clock.
#[derive(Debug)]
pub struct Members {
    me: NodeId,
    name: String,
    cluster: u64,
    /// How many times in a row another node of this name was heard.
    namesake_heard: u32,
    seen: BTreeMap<NodeId, Seen>,
    /// Messages come through.
    up: bool,
    /// Counts everything that may change the placement.
    version: u64,
}

impl Members {
    /// Nobody is known yet.
    pub fn new(me: &Member) -> Self {
        Self {
            me: me.node,
            name: me.name.clone(),
            cluster: me.cluster,
            namesake_heard: 0,
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
        // The broker keeps the records of nodes that are gone for a while.
        for beat in beats.iter().filter(|beat| beat.age_ms < GONE_AFTER_MS) {
            // What a newer version says that this one does not know is skipped; what is no member at all is nobody.
            let Some(member) = Member::decode(beat.node, &beat.body) else {
                continue;
            };
            let heard_at = now.cast_signed() - beat.age_ms.cast_signed();
            // A broker whose clock went back must not make a node younger than it was when it beat last.
            let before = self.seen.get(&beat.node);
            self.version += u64::from(before.is_none_or(|seen| seen.member != member));
            let heard_at = before.map_or(heard_at, |seen| seen.heard_at.max(heard_at));
            self.seen.insert(beat.node, Seen { member, heard_at });
        }
        self.forget(now);
        let is_namesake = |seen: &Seen| {
            let Member {
                node, cluster, name, ..
            } = &seen.member;
            let is_heard = seen.age_ms(now) < (BEAT_MS * 3 / 2).cast_signed();
            *node != self.me && *cluster == self.cluster && *name == self.name && is_heard
        };
        self.namesake_heard = match self.seen.values().any(is_namesake) {
            true => self.namesake_heard.saturating_add(1),
            false => 0,
        };
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
            .retain(|_, seen| seen.age_ms(now) < GONE_AFTER_MS.cast_signed());
        self.version += u64::from(self.seen.len() != before);
    }

    /// Everyone who is there and works on the same store.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        let all = self.seen.values().map(|seen| &seen.member);
        all.filter(|member| member.cluster == self.cluster)
    }

    /// Milliseconds since a node was heard; `None`: it is not there.
    pub fn heard_ms_ago(&self, node: NodeId, now: u64) -> Option<u64> {
        let seen = self.seen.get(&node)?;
        Some(u64::try_from(seen.age_ms(now)).unwrap_or(0))
    }

    /// What is wrong with who is there, for an operator. Nodes of another store are never asked for anything.
    pub fn clash(&self) -> Option<String> {
        let stranger = self.seen.values().find(|seen| seen.member.cluster != self.cluster);
        if let Some(Seen { member, .. }) = stranger {
            let name = &member.name;
            return Some(format!(
                "the node {name} on this Redis works on another store: give each cluster a name of its own (cluster_name)"
            ));
        }
        (self.namesake_heard >= NAMESAKE_BEATS).then(|| {
            let name = &self.name;
            format!(
                "two nodes are called {name}, and one of them hosts nothing: give each a name of its own (node_name)"
            )
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

    /// Another node with the name of the first.
    fn namesake(age_ms: u64) -> Beat {
        let member = Member {
            name: "node-1".to_owned(),
            ..member(7)
        };
        Beat {
            body: member.encode(),
            ..beat(7, age_ms)
        }
    }

    fn names(members: &Members) -> Vec<u64> {
        members.iter().map(|member| member.node.0).collect()
    }

    fn two() -> Members {
        let mut members = Members::new(&member(1));
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
        let mut members = Members::new(&member(1));
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
    fn the_record_of_a_node_that_is_gone_changes_nothing() {
        let mut members = two();
        members.beats(&[beat(1, 0), beat(2, 0), beat(3, 10)], 20_000);
        members.beats(
            &[beat(1, 0), beat(2, 0), beat(3, GONE_AFTER_MS)],
            20_000 + GONE_AFTER_MS,
        );
        let version = members.version();
        for round in 1..20 {
            let age = GONE_AFTER_MS + round * BEAT_MS;
            members.beats(&[beat(1, 0), beat(2, 0), beat(3, age)], 20_000 + age);
        }
        assert_eq!((names(&members), members.version()), (vec![1, 2], version));
    }

    #[test]
    fn a_node_of_another_cluster_is_named() {
        let mut members = two();
        assert_eq!(members.clash(), None);
        let stranger = Member {
            cluster: 2,
            ..member(9)
        };
        let beat = Beat {
            body: stranger.encode(),
            ..beat(9, 0)
        };
        let before = members.placement();
        members.beats(&[beat], 10_000);
        let clash = members.clash().expect("a clash");
        assert!(clash.contains("node-9") && clash.contains("cluster_name"), "{clash}");
        assert!(!names(&members).contains(&9), "it would refuse what this store has");
        assert_eq!(members.placement(), before);
    }

    /// A record may be older than the node that reads it.
    #[test]
    fn a_young_node_knows_how_old_a_record_is() {
        let mut members = Members::new(&member(1));
        members.set_up(true);
        for now in 1..=u64::from(NAMESAKE_BEATS) {
            members.beats(&[beat(1, 0), namesake(800 + now)], now);
        }
        assert_eq!(members.clash(), None);
        assert_eq!(names(&members), [1, 7]);
        members.forget(GONE_AFTER_MS - 801);
        assert_eq!(names(&members), [1, 7]);
        members.forget(GONE_AFTER_MS - 800);
        assert_eq!(names(&members), [1]);
    }

    #[test]
    fn a_namesake_is_named_if_it_is_no_former_life() {
        let mut members = two();
        // A life that ended grows older.
        for round in 0..20 {
            members.beats(&[beat(1, 0), namesake(round * BEAT_MS)], 10_000 + round * BEAT_MS);
            assert_eq!(members.clash(), None);
        }
        for round in 20..20 + u64::from(NAMESAKE_BEATS) {
            assert_eq!(members.clash(), None);
            members.beats(&[beat(1, 0), namesake(100)], 10_000 + round * BEAT_MS);
        }
        let clash = members.clash().expect("a clash");
        assert!(clash.contains("node-1") && clash.contains("node_name"), "{clash}");
    }
}
