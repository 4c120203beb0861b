//! What Redis may do to a node, and how soon the node knows.

use std::time::{Duration, Instant};

use bytes::Bytes;
use taskflow::bus::redis::Mode;
use taskflow_actors::ports::{BusEvent, NodeId};
use taskflow_protocol::UserId;

use crate::RedisBench;
use crate::contract::{Bench as _, Heard, a_feed, joined};
use crate::services::Redis;

/// Within this a loss is noticed: the promise of the port.
const NOTICED: Duration = Duration::from_secs(5);

async fn down(heard: &Heard) -> String {
    heard
        .until("down", |heard| {
            heard.iter().find_map(|event| match event {
                BusEvent::Down(why) => Some(why.clone()),
                _ => None,
            })
        })
        .await
}

/// A node with a feed that it hears.
async fn listening(redis: &Redis, mode: Mode) -> (RedisBench, crate::contract::Joined, UserId) {
    let bench = RedisBench::of(redis, mode);
    let node = joined(&bench).await;
    let feed = a_feed();
    node.bus.subscribe(feed);
    node.heard.subscribed(&[feed]).await;
    (bench, node, feed)
}

/// It hears the feed.
async fn hears(node: &crate::contract::Joined, feed: UserId, message: &'static str) {
    // What is sent before it knows that it is up again is dropped: that is what Up is for.
    node.bus.publish(feed, Bytes::from_static(message.as_bytes()));
    let there = |heard: &[BusEvent]| {
        Heard::published(heard, feed)
            .contains(&Bytes::from_static(message.as_bytes()))
            .then_some(())
    };
    node.heard.until(message, there).await;
}

#[tokio::test]
async fn a_redis_that_was_killed_is_missed_at_once_and_found_again() {
    let redis = Redis::start("standalone");
    let (_bench, node, feed) = listening(&redis, Mode::Standalone).await;
    node.heard.forget();
    let killed = Instant::now();
    redis.signal(0, "-KILL");
    down(&node.heard).await;
    assert!(killed.elapsed() < NOTICED, "{:?}", killed.elapsed());
    node.heard.forget();
    redis.up();
    node.heard.subscribed(&[feed]).await;
    node.heard.up().await;
    hears(&node, feed, "again").await;
}

#[tokio::test]
async fn a_redis_that_stands_still_is_noticed() {
    let redis = Redis::start("standalone");
    let (_bench, node, feed) = listening(&redis, Mode::Standalone).await;
    node.heard.forget();
    let stopped = Instant::now();
    redis.signal(0, "-STOP");
    down(&node.heard).await;
    assert!(stopped.elapsed() < NOTICED, "{:?}", stopped.elapsed());
    redis.signal(0, "-CONT");
    node.heard.up().await;
    hears(&node, feed, "again").await;
}

#[tokio::test]
async fn a_connection_that_redis_cut_is_made_anew_with_all_subscriptions() {
    let redis = Redis::start("standalone");
    let (_bench, node, feed) = listening(&redis, Mode::Standalone).await;
    let feeds: Vec<UserId> = (0..5_000).map(|_| a_feed()).collect();
    for feed in &feeds {
        node.bus.subscribe(*feed);
    }
    node.heard.subscribed(&feeds).await;
    node.heard.forget();
    redis.say(0, &["CLIENT", "KILL", "TYPE", "pubsub"]);
    redis.say(0, &["CLIENT", "KILL", "TYPE", "normal"]);
    down(&node.heard).await;
    node.heard.subscribed(&feeds).await;
    node.heard.up().await;
    hears(&node, feeds[4_999], "the last").await;
    hears(&node, feed, "the first").await;
}

#[tokio::test]
async fn a_redis_that_forgot_everything_has_all_nodes_again_after_their_next_beats() {
    let redis = Redis::start("standalone");
    let (bench, node, feed) = listening(&redis, Mode::Standalone).await;
    let other = joined(&bench).await;
    redis.say(0, &["FLUSHALL"]);
    node.heard.forget();
    let both = |heard: &[BusEvent]| {
        let has = |beats: &[taskflow_actors::ports::Beat], node: NodeId| beats.iter().any(|beat| beat.node == node);
        heard
            .iter()
            .any(|event| matches!(event, BusEvent::Beats(beats) if has(beats, node.node) && has(beats, other.node)))
            .then_some(())
    };
    node.heard.until("both", both).await;
    hears(&node, feed, "still").await;
    let is_down = |heard: &[BusEvent]| Some(heard.iter().any(|event| matches!(event, BusEvent::Down(_))));
    assert!(!node.heard.until("", is_down).await, "nothing was lost");
}

/// Redis answers, and delivers nothing: what a subscription that died on the way looks like.
#[tokio::test]
async fn a_redis_that_answers_and_does_not_deliver_is_noticed() {
    let redis = Redis::start("standalone");
    let (_bench, node, feed) = listening(&redis, Mode::Standalone).await;
    node.heard.forget();
    let deaf = Instant::now();
    // Its own channel and canary are taken from it: it is subscribed to nothing, and everything else works.
    let clients = redis.say(0, &["CLIENT", "LIST", "TYPE", "pubsub"]);
    assert!(clients.contains("id="), "{clients}");
    // The access list forbids every channel from now on: Redis cuts the subscription, and refuses it after that.
    redis.say(0, &["ACL", "SETUSER", "default", "resetchannels"]);
    let why = down(&node.heard).await;
    assert!(deaf.elapsed() < NOTICED, "{:?}: {why}", deaf.elapsed());
    redis.say(0, &["ACL", "SETUSER", "default", "allchannels"]);
    node.heard.up().await;
    hears(&node, feed, "again").await;
}

#[tokio::test]
async fn after_a_failover_of_the_sentinels_nodes_meet_on_the_new_master() {
    let redis = Redis::start("sentinel");
    let mode = Mode::Sentinel("taskflow".to_owned());
    let (bench, node, feed) = listening(&redis, mode).await;
    let other = joined(&bench).await;
    node.heard.forget();
    other.heard.forget();
    redis.signal(0, "-KILL");
    down(&node.heard).await;
    node.heard.up().await;
    other.heard.up().await;
    node.heard.subscribed(&[feed]).await;
    other.bus.publish(feed, Bytes::from_static(b"over there"));
    let there = |heard: &[BusEvent]| Heard::published(heard, feed).pop();
    assert_eq!(node.heard.until("the message", there).await, "over there");
}

#[tokio::test]
async fn a_cluster_that_lost_a_master_carries_all_feeds_again() {
    let redis = Redis::start("cluster");
    let (bench, node, _) = listening(&redis, Mode::Cluster).await;
    let other = joined(&bench).await;
    // Some on each of the masters.
    let feeds: Vec<UserId> = (0..60).map(|_| a_feed()).collect();
    for feed in &feeds {
        node.bus.subscribe(*feed);
    }
    node.heard.subscribed(&feeds).await;
    redis.signal(1, "-KILL");
    let begun = Instant::now();
    'feeds: for feed in &feeds {
        // Until the replica has taken over, messages of its feeds are lost: what is sent again then arrives.
        while begun.elapsed() < Duration::from_secs(30) {
            other.bus.publish(*feed, Bytes::from_static(b"after"));
            let wait = Instant::now();
            while wait.elapsed() < Duration::from_millis(200) {
                let heard = |heard: &[BusEvent]| Some(!Heard::published(heard, *feed).is_empty());
                if node.heard.until("", heard).await {
                    continue 'feeds;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        panic!("a feed was heard no more: {}", redis.say(0, &["CLUSTER", "NODES"]));
    }
}

/// Whichever master it is: a node that only listens there would never know from its own messages.
#[tokio::test]
async fn any_master_of_a_cluster_that_stands_still_is_noticed() {
    let redis = Redis::start("cluster");
    let (_bench, node, feed) = listening(&redis, Mode::Cluster).await;
    for above in 0..3 {
        node.heard.forget();
        let stopped = Instant::now();
        redis.signal(above, "-STOP");
        let why = down(&node.heard).await;
        assert!(stopped.elapsed() < NOTICED, "{:?}: {why}", stopped.elapsed());
        // Its replica takes over.
        node.heard.up().await;
        hears(&node, feed, ["one", "two", "three"][usize::from(above)]).await;
        redis.signal(above, "-CONT");
        redis.up();
    }
}

#[tokio::test]
async fn a_feed_whose_slot_goes_to_another_master_is_heard_there() {
    let redis = Redis::start("cluster");
    let (bench, node, feed) = listening(&redis, Mode::Cluster).await;
    node.heard.forget();
    let channel = format!("taskflow:{}:feed:{}", bench.0.cluster_name, feed.0);
    let slot = redis.say(0, &["CLUSTER", "KEYSLOT", &channel]).trim().to_owned();
    let id = |above| redis.say(above, &["CLUSTER", "MYID"]).trim().to_owned();
    // The three masters have a third of the slots each.
    let from = (slot.parse::<u32>().unwrap() * 3 / 16_384) as u16;
    let to = (from + 1) % 3;
    let moves = [
        (to, "IMPORTING", id(from)),
        (from, "MIGRATING", id(to)),
        (to, "NODE", id(to)),
        (from, "NODE", id(to)),
    ];
    for (above, what, whose) in moves {
        let said = redis.say(above, &["CLUSTER", "SETSLOT", &slot, what, &whose]);
        assert_eq!(said.trim(), "OK");
    }
    node.heard.subscribed(&[feed]).await;
    hears(&node, feed, "over there").await;
    let is_down = |heard: &[BusEvent]| Some(heard.iter().any(|event| matches!(event, BusEvent::Down(_))));
    assert!(
        !node.heard.until("", is_down).await,
        "the others were heard all the time"
    );
}

#[tokio::test]
async fn a_redis_that_is_not_there_is_waited_for() {
    let redis = Redis::start("standalone");
    redis.signal(0, "-KILL");
    let bench = RedisBench::of(&redis, Mode::Standalone);
    let heard = std::sync::Arc::new(Heard::default());
    let bus = bench.join(NodeId(7), heard.clone());
    bus.beat(Bytes::from_static(b"here"));
    let why = down(&heard).await;
    assert!(!why.is_empty());
    redis.up();
    heard.up().await;
}
