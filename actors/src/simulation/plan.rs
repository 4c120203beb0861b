//! What happens in a schedule: what clients ask for, what goes wrong, and when. All of it from a seed, and each part can be
//! left out, so that a schedule that fails can be made short.

use super::rng::Rng;

/// Virtual time, in microseconds.
pub type Time = u64;

/// A millisecond of it.
pub const MS: Time = 1_000;

/// A second of it.
pub const SECOND: Time = 1_000 * MS;

/// Something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A node ends without a word, and starts again after so long.
    Crash(usize, Time),
    /// A node is told to end: it leaves, and ends after two seconds; it starts again after so long.
    Leave(usize, Time),
    /// A node stands still for so long, with all that comes in waiting.
    Pause(usize, Time),
    /// A node and the broker do not hear each other.
    CutBroker(usize, Time),
    /// The broker takes everything, and delivers nothing to this node.
    Deaf(usize, Time),
    /// A node and the store do not hear each other.
    CutStore(usize, Time),
    /// The store answers late, or not at all, though it may have done what was asked.
    StoreFlaky(Time),
    /// The store is slow.
    StoreSlow(Time),
    /// The store answers nobody; what had reached it is done.
    StoreDown(Time),
    /// The broker loses, doubles, delays and reorders messages.
    Lossy(Time),
    /// The broker forgets all that it holds.
    Flush,
    /// The broker is gone.
    BrokerDown(Time),
    /// A client's connection breaks.
    Drop(usize),
    /// The same, and the client forgets what it had.
    Forget(usize),
}

/// A client asks for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Makes a task.
    Create,
    /// Renames a task that somebody made, or may have made.
    Rename,
    /// The same, at a version that it may no longer have.
    RenameAt,
    /// Marks one as done.
    Complete,
    /// Deletes one.
    Delete,
    /// Two in one message.
    Two,
    /// Looks at the feed through its gateway.
    Look,
}

/// One thing of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something goes wrong.
    Fault(Fault),
    /// A client asks.
    Wish(usize, Wish),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Of everything that the plan does not name: delays, losses, ids.
    pub seed: u64,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Feeds.
    pub feeds: usize,
    /// Clients; each follows one feed.
    pub clients: usize,
    /// How much each node's clock is off, in milliseconds.
    pub skews: Vec<i64>,
    /// What happens when, in order.
    pub steps: Vec<(Time, Step)>,
    /// When the last of it is over.
    pub end: Time,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = rng.between(3, 4) as usize;
        let feeds = rng.between(3, 4) as usize;
        let clients = rng.between(8, 12) as usize;
        let skews = (0..nodes)
            .map(|_| rng.between(0, 1_200_000).cast_signed() - 600_000)
            .collect();
        let wishes = rng.between(300, 400);
        let length = rng.between(10, 30) * SECOND;
        let mut steps = Vec::new();
        for _ in 0..wishes {
            let wish = match rng.below(20) {
                0..=7 => Wish::Create,
                8..=10 => Wish::Rename,
                11..=12 => Wish::RenameAt,
                13..=15 => Wish::Complete,
                16 => Wish::Delete,
                17..=18 => Wish::Two,
                _ => Wish::Look,
            };
            // Half of them in bursts: what waits together goes together.
            let at = rng.below(length);
            let at = if rng.permille(500) {
                at - at % (SECOND / 2) + rng.below(5 * MS)
            } else {
                at
            };
            steps.push((at, Step::Wish(rng.below(clients as u64) as usize, wish)));
        }
        let is_lossy = rng.permille(500);
        for _ in 0..rng.between(3, 14) {
            let node = rng.below(nodes as u64) as usize;
            let short = rng.between(50, 1_500) * MS;
            let long = rng.between(500, 6_000) * MS;
            let fault = match rng.below(26) {
                0..=3 => Fault::Crash(node, long),
                4..=5 => Fault::Leave(node, long),
                6..=8 => Fault::Pause(node, if rng.permille(500) { short } else { long }),
                9..=10 => Fault::CutBroker(node, long),
                11 => Fault::Deaf(node, long),
                12..=13 => Fault::CutStore(node, short),
                14..=16 => Fault::StoreFlaky(long),
                17 => Fault::StoreSlow(short),
                18 => Fault::Flush,
                19 => Fault::BrokerDown(long),
                20..=21 if is_lossy => Fault::Lossy(long),
                // Longer than anybody waits for an answer, now and then.
                22 => Fault::StoreDown(if rng.permille(300) { 12 * SECOND } else { short }),
                23 => Fault::Forget(rng.below(clients as u64) as usize),
                _ => Fault::Drop(rng.below(clients as u64) as usize),
            };
            steps.push((rng.below(length), Step::Fault(fault)));
        }
        steps.sort_by_key(|(at, _)| *at);
        Self {
            seed,
            nodes,
            feeds,
            clients,
            skews,
            steps,
            end: length + 13 * SECOND,
        }
    }

    /// Whether messages may be lost without anybody being told: by the broker, or with a node that had worked alone and
    /// ended before it could say so.
    pub fn loses_quietly(&self) -> bool {
        let has = |kind: fn(&Fault) -> bool| {
            self.steps
                .iter()
                .any(|(_, step)| matches!(step, Step::Fault(fault) if kind(fault)))
        };
        let works_alone = has(|fault| matches!(fault, Fault::CutBroker(..) | Fault::Deaf(..) | Fault::BrokerDown(_)));
        let ends = has(|fault| matches!(fault, Fault::Crash(..) | Fault::Leave(..)));
        has(|fault| matches!(fault, Fault::Lossy(_))) || works_alone && ends
    }

    /// The same without some of its steps, and still failing: as short as leaving out parts makes it.
    pub fn shortened(&self, fails: impl Fn(&Self) -> bool) -> Self {
        let mut plan = self.clone();
        let mut part = plan.steps.len().div_ceil(2);
        while part > 0 {
            let mut from = 0;
            while from < plan.steps.len() {
                let mut shorter = plan.clone();
                shorter.steps.drain(from..(from + part).min(plan.steps.len()));
                if fails(&shorter) {
                    plan = shorter;
                } else {
                    from += part;
                }
            }
            part /= 2;
        }
        plan
    }
}
