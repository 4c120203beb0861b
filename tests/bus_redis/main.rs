//! The bus keeps its contract over a real Redis of each kind, and finds out when it cannot.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where what it needs fails")]

#[path = "../../src/bus/contract.rs"]
mod contract;
mod faults;
#[path = "../support/services.rs"]
mod services;

use std::sync::{Arc, OnceLock};

use contract::Bench;
use services::Redis;
use taskflow::bus::redis::{Mode, Options, RedisBus};
use taskflow_actors::ports::{Bus, BusInbox, NodeId};

/// Nodes of one cluster, on one Redis.
struct RedisBench(Options);

impl RedisBench {
    fn of(redis: &Redis, mode: Mode) -> Self {
        Self(Options {
            nodes: redis.nodes.clone(),
            mode,
            // One Redis serves all tests: each is a cluster of its own.
            cluster_name: format!("test{}", rand::random::<u64>()),
        })
    }
}

impl Bench for RedisBench {
    fn join(&self, node: NodeId, inbox: Arc<dyn BusInbox>) -> Arc<dyn Bus> {
        Arc::new(RedisBus::start(self.0.clone(), node, inbox, Arc::new(())))
    }
}

mod standalone {
    use super::*;

    fn bench() -> RedisBench {
        static REDIS: OnceLock<Redis> = OnceLock::new();
        RedisBench::of(REDIS.get_or_init(|| Redis::start("standalone")), Mode::Standalone)
    }

    bus_contract!(bench());
}

mod sentinel {
    use super::*;

    fn bench() -> RedisBench {
        static REDIS: OnceLock<Redis> = OnceLock::new();
        let redis = REDIS.get_or_init(|| Redis::start("sentinel"));
        RedisBench::of(redis, Mode::Sentinel("taskflow".to_owned()))
    }

    bus_contract!(bench());
}

mod cluster {
    use super::*;

    fn bench() -> RedisBench {
        static REDIS: OnceLock<Redis> = OnceLock::new();
        RedisBench::of(REDIS.get_or_init(|| Redis::start("cluster")), Mode::Cluster)
    }

    bus_contract!(bench());
}
