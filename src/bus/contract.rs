//! The contract of the port `Bus`, one function a promise, for every adapter.
//!
//! A test includes this file, implements [`Bench`] for its adapter, and names it in [`bus_contract!`].

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use taskflow_actors::ports::{Bus, BusEvent, BusInbox, NodeId};
use taskflow_protocol::UserId;
use uuid::Uuid;

/// An adapter under test.
pub trait Bench {
    /// A node on the bus. Nodes of one bench hear each other.
    fn join(&self, node: NodeId, inbox: Arc<dyn BusInbox>) -> Arc<dyn Bus>;
}

/// How long a test waits for what must happen: reached only by a failure.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Keeps what came in.
#[derive(Default)]
pub struct Heard(Mutex<Vec<BusEvent>>);

impl BusInbox for Heard {
    fn take(&self, event: BusEvent) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

impl Heard {
    /// Waits until something came that this finds; what it made of it.
    pub async fn until<T>(&self, what: &str, mut find: impl FnMut(&[BusEvent]) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            {
                let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(found) = find(&heard) {
                    return found;
                }
                assert!(
                    begun.elapsed() < PATIENCE,
                    "{what}: not in time; heard last: {:?}",
                    heard.last()
                );
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until messages come through.
    pub async fn up(&self) {
        self.until("up", |heard| heard.contains(&BusEvent::Up).then_some(()))
            .await;
    }

    /// Forgets what came in.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Waits until these feeds are subscribed.
    pub async fn subscribed(&self, feeds: &[UserId]) {
        let wanted: HashSet<UserId> = feeds.iter().copied().collect();
        self.until("subscribed", |heard| {
            let subscribed = heard.iter().filter_map(|event| match event {
                BusEvent::Subscribed(feeds) => Some(feeds),
                _ => None,
            });
            let subscribed: HashSet<UserId> = subscribed.flatten().copied().collect();
            wanted.is_subset(&subscribed).then_some(())
        })
        .await;
    }

    /// What was published for a feed so far.
    pub fn published(heard: &[BusEvent], feed: UserId) -> Vec<Bytes> {
        let published = heard.iter().filter_map(|event| match event {
            BusEvent::Published(of, message) if *of == feed => Some(message.clone()),
            _ => None,
        });
        published.collect()
    }
}

/// A node with what it hears.
pub struct Joined {
    /// The node.
    pub node: NodeId,
    /// Its bus.
    pub bus: Arc<dyn Bus>,
    /// What it hears.
    pub heard: Arc<Heard>,
}

/// A node that is on the bus.
pub async fn joined(bench: &impl Bench) -> Joined {
    let (node, heard) = (NodeId(rand::random()), Arc::new(Heard::default()));
    let bus = bench.join(node, heard.clone());
    bus.beat(Bytes::from(format!("node {}", node.0)));
    heard.up().await;
    Joined { node, bus, heard }
}

/// A feed of its own.
pub fn a_feed() -> UserId {
    UserId(Uuid::new_v4())
}

/// All promises, as tests.
#[macro_export]
macro_rules! bus_contract {
    ($bench:expr) => {
        $crate::bus_contract_tests! { $bench;
            what_is_published_reaches_all_who_subscribed_and_no_one_else
            messages_for_one_feed_arrive_in_order
            what_is_sent_reaches_its_node_alone
            who_unsubscribed_hears_no_more
            every_node_sees_the_beats_of_all
            messages_of_every_size_and_byte_arrive
        }
    };
}

/// One test for each name.
#[macro_export]
macro_rules! bus_contract_tests {
    ($bench:expr; $($name:ident)+) => {
        $(#[tokio::test]
        async fn $name() {
            contract::$name(&$bench).await;
        })+
    };
}

pub async fn what_is_published_reaches_all_who_subscribed_and_no_one_else(bench: &impl Bench) {
    let (one, two, three) = (joined(bench).await, joined(bench).await, joined(bench).await);
    let (feed, other) = (a_feed(), a_feed());
    for node in [&one, &two] {
        node.bus.subscribe(feed);
        node.heard.subscribed(&[feed]).await;
    }
    three.bus.subscribe(other);
    three.heard.subscribed(&[other]).await;
    one.bus.publish(feed, Bytes::from_static(b"hello"));
    for node in [&one, &two] {
        let published = |heard: &[BusEvent]| Heard::published(heard, feed).pop();
        assert_eq!(node.heard.until("the message", published).await, "hello");
    }
    one.bus.publish(other, Bytes::from_static(b"over"));
    let over = |heard: &[BusEvent]| (!Heard::published(heard, other).is_empty()).then(|| Heard::published(heard, feed));
    assert_eq!(three.heard.until("its own", over).await, Vec::<Bytes>::new());
}

pub async fn messages_for_one_feed_arrive_in_order(bench: &impl Bench) {
    const COUNT: u32 = 3_000;
    let (one, two) = (joined(bench).await, joined(bench).await);
    let feeds: Vec<UserId> = (0..20).map(|_| a_feed()).collect();
    for feed in &feeds {
        two.bus.subscribe(*feed);
    }
    two.heard.subscribed(&feeds).await;
    for number in 0..COUNT {
        for feed in &feeds {
            one.bus.publish(*feed, Bytes::copy_from_slice(&number.to_be_bytes()));
        }
        // The queue holds so many: whoever publishes more at once loses some, and that is no matter of order.
        if number % 500 == 0 {
            let last = |heard: &[BusEvent]| {
                let newest = Heard::published(heard, feeds[19]).pop();
                (newest.as_deref() == Some(&number.to_be_bytes()[..])).then_some(())
            };
            two.heard.until("those so far", last).await;
        }
    }
    for feed in feeds {
        let all = |heard: &[BusEvent]| {
            let published = Heard::published(heard, feed);
            (published.len() == COUNT as usize).then_some(published)
        };
        let published = two.heard.until("all of them", all).await;
        for (number, message) in (0..COUNT).zip(published) {
            assert_eq!(message[..], number.to_be_bytes());
        }
    }
}

pub async fn what_is_sent_reaches_its_node_alone(bench: &impl Bench) {
    let (one, two, three) = (joined(bench).await, joined(bench).await, joined(bench).await);
    one.bus.send(two.node, Bytes::from_static(b"for two"));
    one.bus.send(three.node, Bytes::from_static(b"for three"));
    for (node, expected) in [(&two, "for two"), (&three, "for three")] {
        let received = |heard: &[BusEvent]| {
            let all: Vec<Bytes> = heard
                .iter()
                .filter_map(|event| match event {
                    BusEvent::Received(message) => Some(message.clone()),
                    _ => None,
                })
                .collect();
            (!all.is_empty()).then_some(all)
        };
        assert_eq!(node.heard.until("the message", received).await, [expected]);
    }
}

pub async fn who_unsubscribed_hears_no_more(bench: &impl Bench) {
    let (one, two) = (joined(bench).await, joined(bench).await);
    let (feed, other) = (a_feed(), a_feed());
    two.bus.subscribe(feed);
    two.bus.subscribe(other);
    two.heard.subscribed(&[feed, other]).await;
    two.bus.unsubscribe(feed);
    // Subscriptions change in order: when this one is there, the other is gone.
    let third = a_feed();
    two.bus.subscribe(third);
    two.heard.subscribed(&[third]).await;
    one.bus.publish(feed, Bytes::from_static(b"lost"));
    one.bus.publish(other, Bytes::from_static(b"heard"));
    let heard =
        |heard: &[BusEvent]| (!Heard::published(heard, other).is_empty()).then(|| Heard::published(heard, feed));
    assert_eq!(two.heard.until("the other", heard).await, Vec::<Bytes>::new());
}

pub async fn every_node_sees_the_beats_of_all(bench: &impl Bench) {
    let nodes = [joined(bench).await, joined(bench).await, joined(bench).await];
    for seer in &nodes {
        for seen in &nodes {
            let body = format!("node {}", seen.node.0);
            let there = |heard: &[BusEvent]| {
                let beats = heard.iter().rev().find_map(|event| match event {
                    BusEvent::Beats(beats) => Some(beats),
                    _ => None,
                })?;
                let beat = beats.iter().find(|beat| beat.node == seen.node)?;
                (beat.body == body && beat.age_ms < 5_000).then_some(())
            };
            seer.heard.until("the beat", there).await;
        }
    }
    nodes[0].bus.beat(Bytes::from_static(b"changed"));
    let changed = |heard: &[BusEvent]| {
        let beats = heard.iter().rev().find_map(|event| match event {
            BusEvent::Beats(beats) => Some(beats),
            _ => None,
        })?;
        let beat = beats.iter().find(|beat| beat.node == nodes[0].node)?;
        (beat.body == "changed").then_some(())
    };
    nodes[1].heard.until("the new beat", changed).await;
}

pub async fn messages_of_every_size_and_byte_arrive(bench: &impl Bench) {
    let (one, two) = (joined(bench).await, joined(bench).await);
    let feed = a_feed();
    two.bus.subscribe(feed);
    two.heard.subscribed(&[feed]).await;
    for size in [0, 1, 255, 256, 65_536, 1_100_000] {
        let message: Bytes = (0..size).map(|at| (at % 256) as u8).collect();
        two.heard.forget();
        one.bus.publish(feed, message.clone());
        let there = |heard: &[BusEvent]| Heard::published(heard, feed).pop();
        assert!(two.heard.until("the message", there).await == message, "{size} bytes");
    }
}
