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
    /// The same, at the moment at which its next append is in the store and nobody has heard of it.
    CrashAtAppend(usize, Time),
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
    /// The broker takes its time to subscribe anybody.
    LateSubscriptions(Time),
    /// What a node publishes to its own followers is more than its queues hold.
    Overflow(usize, Time),
    /// A node lets go of the feeds that nobody uses.
    Retire(usize),
    /// A client's connection breaks.
    Drop(usize),
    /// The same, and the client forgets what it had.
    Forget(usize),
}

impl Fault {
    /// A node may write what it cannot tell the others.
    fn lets_work_alone(self) -> bool {
        match self {
            Self::CutBroker(..) | Self::Deaf(..) | Self::BrokerDown(_) => true,
            // The others have taken its feeds, and it does not know.
            Self::Pause(_, length) => length > SECOND,
            _ => false,
        }
    }

    /// A node forgets feeds, and what it has not told.
    fn ends_a_feed(self) -> bool {
        matches!(
            self,
            Self::Crash(..) | Self::CrashAtAppend(..) | Self::Leave(..) | Self::Retire(_)
        )
    }
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
    /// Renames a task that is only made later, perhaps.
    Early,
    /// Undoes one of the last entries.
    Undo,
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
    /// Feeds come into being at two nodes at once.
    pub twins: bool,
    /// What happens when, in order.
    pub steps: Vec<(Time, Step)>,
    /// When the last of it is over.
    pub end: Time,
}

fn wish(rng: &mut Rng) -> Wish {
    match rng.below(24) {
        0..=7 => Wish::Create,
        8..=10 => Wish::Rename,
        11..=12 => Wish::RenameAt,
        13..=15 => Wish::Complete,
        16 => Wish::Delete,
        17..=18 => Wish::Two,
        19..=20 => Wish::Early,
        21..=22 => Wish::Undo,
        _ => Wish::Look,
    }
}

fn fault(rng: &mut Rng, nodes: usize, clients: usize) -> Fault {
    let node = rng.below(nodes as u64) as usize;
    let client = rng.below(clients as u64) as usize;
    let short = rng.between(50, 1_500) * MS;
    let long = rng.between(500, 6_000) * MS;
    match rng.below(32) {
        0..=2 => Fault::Crash(node, long),
        3..=5 => Fault::CrashAtAppend(node, long),
        6..=7 => Fault::Leave(node, long),
        8..=10 => Fault::Pause(node, if rng.permille(500) { short } else { long }),
        11..=12 => Fault::CutBroker(node, long),
        13 => Fault::Deaf(node, long),
        14..=15 => Fault::CutStore(node, short),
        16..=18 => Fault::StoreFlaky(long),
        19..=20 => Fault::StoreSlow(long),
        // Longer than anybody waits for an answer, now and then.
        21 => Fault::StoreDown(if rng.permille(300) { 12 * SECOND } else { short }),
        22 => Fault::Flush,
        23 => Fault::BrokerDown(long),
        24 => Fault::Lossy(long),
        25..=26 => Fault::LateSubscriptions(long),
        27 => Fault::Overflow(node, long),
        28 => Fault::Retire(node),
        29 => Fault::Forget(client),
        _ => Fault::Drop(client),
    }
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = rng.between(3, 4) as usize;
        // Where little happens, a message that is lost is often the last one, and nothing later shows the hole.
        let is_quiet = rng.permille(400);
        let feeds = rng.between(3, 4) as usize;
        let clients = rng.between(8, 12) as usize;
        let skews = (0..nodes)
            .map(|_| rng.between(0, 1_200_000).cast_signed() - 600_000)
            .collect();
        let length = rng.between(10, 30) * SECOND;
        let mut steps = Vec::new();
        // In two of three schedules whatever is lost is lost in a way that somebody must notice.
        let allowed: fn(Fault) -> bool = match rng.below(3) {
            0 => |_| true,
            1 => |fault| !fault.lets_work_alone() && !matches!(fault, Fault::Lossy(_)),
            _ => |fault| !fault.ends_a_feed() && !matches!(fault, Fault::Lossy(_)),
        };
        let mut last: Option<Time> = None;
        for _ in 0..if is_quiet {
            rng.between(2, 7)
        } else {
            rng.between(3, 14)
        } {
            // Often one comes soon after another: before the first is mended, or while it is.
            let at = match last {
                Some(last) if rng.permille(400) => (last + rng.below(2_500 * MS)).min(length - 1),
                _ => rng.below(length),
            };
            last = Some(at);
            let mut one = fault(&mut rng, nodes, clients);
            while !allowed(one) {
                one = fault(&mut rng, nodes, clients);
            }
            steps.push((at, Step::Fault(one)));
        }
        let faults = steps.len() as u64;
        for _ in 0..if is_quiet {
            rng.between(5, 40)
        } else {
            rng.between(300, 400)
        } {
            let wish = Step::Wish(rng.below(clients as u64) as usize, wish(&mut rng));
            let at = if is_quiet && rng.permille(700) {
                // While something goes wrong.
                let (begun, _) = steps[rng.below(faults) as usize];
                (begun + rng.below(4 * SECOND)).min(length - 1)
            } else {
                rng.below(length)
            };
            // Half of them in bursts: what waits together goes together.
            let at = match rng.permille(500) {
                true => at - at % (SECOND / 2) + rng.below(5 * MS),
                false => at,
            };
            steps.push((at, wish));
        }
        // Two beats after the nodes began each knows of all. Before that one may work alone, as after a cut.
        steps.iter_mut().for_each(|(at, _)| *at += SECOND);
        steps.sort_by_key(|(at, _)| *at);
        Self {
            seed,
            nodes,
            feeds,
            clients,
            skews,
            twins: rng.permille(500),
            steps,
            end: length + 14 * SECOND,
        }
    }

    /// Whether messages may be lost without anybody being told: by the broker, or with a node that had worked alone and
    /// ended, or let go of the feed, before it could say so.
    pub fn loses_quietly(&self) -> bool {
        let has = |kind: fn(Fault) -> bool| {
            self.steps
                .iter()
                .any(|(_, step)| matches!(step, Step::Fault(fault) if kind(*fault)))
        };
        has(|fault| matches!(fault, Fault::Lossy(_))) || has(Fault::lets_work_alone) && has(Fault::ends_a_feed)
    }

    /// The same without some of its steps, and still failing: as short as leaving out parts makes it. Without a step chance
    /// falls otherwise, so what could not be left out at first may be left out later.
    pub fn shortened(&self, fails: impl Fn(&Self) -> bool) -> Self {
        let mut plan = self.clone();
        loop {
            let before = plan.steps.len();
            let mut part = before.div_ceil(2);
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
            if plan.steps.len() == before {
                return plan;
            }
        }
    }
}
