//! Who is connected, and how a push reaches them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use actix::Addr;
use slab::Slab;
use tokio::sync::mpsc;

use crate::connection::{Connection, seconds};
use crate::frame::Push;
use crate::token;
use crate::upgrade::User;
use crate::web_actors::WebConnection;

/// What a stack does beyond pushing.
#[derive(Clone, Copy)]
pub struct Policy {
    /// Connections bring a token, and are found by user.
    pub sign_in: bool,
    /// Pings go out this often; who is silent for longer is cut.
    pub heartbeat_seconds: Option<u32>,
    /// A push goes to each worker in one message, and from there to its connections; else the publisher's thread writes.
    pub fan_out_by_worker: bool,
}

/// Where a push goes.
pub enum Target {
    /// Straight to the socket.
    Socket(Arc<Connection>),
    /// To the actor of a user, which writes to the user's sockets.
    UserActor(Addr<User>, Arc<Connection>),
    /// To the actor of a connection.
    ConnectionActor(Addr<WebConnection>),
}

impl Target {
    fn send(&self, push: &Push) {
        match self {
            Self::Socket(connection) => connection.push(&push.frame),
            Self::UserActor(user, _) => user.do_send(crate::upgrade::Frame(push.frame.clone())),
            Self::ConnectionActor(connection) => connection.do_send(crate::web_actors::Text(push.text.clone())),
        }
    }

    fn socket(&self) -> Option<&Connection> {
        match self {
            Self::Socket(connection) | Self::UserActor(_, connection) => Some(connection),
            Self::ConnectionActor(_) => None,
        }
    }
}

/// Connections counted and cut since the start.
#[derive(Default)]
pub struct Counters {
    /// Connections that ended.
    pub closed: AtomicU64,
    /// Of those, the ones that did not answer their heartbeat.
    pub silent: AtomicU64,
}

/// The users of one shard of the registry.
type Users = HashMap<u64, Arc<Target>>;

/// Everyone who is connected.
pub struct Hub {
    /// See [`Policy`].
    pub policy: Policy,
    /// See [`Counters`].
    pub counters: Counters,
    workers: Mutex<Vec<Arc<Worker>>>,
    /// By user id, in as many parts as keep workers from waiting for each other.
    users: [Mutex<Users>; 64],
}

impl Hub {
    /// With nobody connected.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            counters: Counters::default(),
            workers: Mutex::default(),
            users: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Whether a connection with this query may enter: `None` is no; within it the user, if connections have one.
    pub fn admit(&self, query: Option<&str>) -> Option<Option<u64>> {
        if self.policy.sign_in {
            token::user_in_query(query?).map(Some)
        } else {
            Some(None)
        }
    }

    /// To everyone.
    pub fn publish(&self, push: Push) {
        let workers = lock(&self.workers).clone();
        if self.policy.fan_out_by_worker {
            let push = Arc::new(push);
            for worker in workers {
                // A worker that is gone has no connections left.
                let _ = worker.pushes.send(push.clone());
            }
        } else {
            for worker in workers {
                worker.send(&push);
            }
        }
    }

    /// To one user.
    pub fn publish_to(&self, user: u64, push: &Push) {
        let target = lock(self.users_beside(user)).get(&user).cloned();
        if let Some(target) = target {
            target.send(push);
        }
    }

    /// How many are connected.
    pub fn connections(&self) -> usize {
        lock(&self.workers)
            .iter()
            .map(|worker| lock(&worker.targets).len())
            .sum()
    }

    fn users_beside(&self, user: u64) -> &Mutex<Users> {
        &self.users[(user % 64) as usize]
    }

    /// Takes a connection in; to be called on the worker that owns it.
    pub fn enter(self: &Arc<Self>, target: Target, user: Option<u64>) -> Registration {
        let worker = Worker::of_this_thread(self);
        let target = Arc::new(target);
        let key = lock(&worker.targets).insert(target.clone());
        if let Some(user) = user {
            lock(self.users_beside(user)).insert(user, target);
        }
        Registration {
            hub: self.clone(),
            worker,
            key,
            user,
        }
    }
}

/// Keeps a connection in the hub until it is dropped.
pub struct Registration {
    hub: Arc<Hub>,
    worker: Arc<Worker>,
    key: usize,
    user: Option<u64>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.hub.counters.closed.fetch_add(1, Relaxed);
        let target = lock(&self.worker.targets).remove(self.key);
        let Some(user) = self.user else { return };
        let mut users = lock(self.hub.users_beside(user));
        // The user may have connected again meanwhile.
        if users.get(&user).is_some_and(|present| Arc::ptr_eq(present, &target)) {
            users.remove(&user);
        }
    }
}

/// The connections of one thread.
struct Worker {
    targets: Mutex<Slab<Arc<Target>>>,
    pushes: mpsc::UnboundedSender<Arc<Push>>,
}

impl Worker {
    fn of_this_thread(hub: &Arc<Hub>) -> Arc<Self> {
        thread_local! { static WORKER: RefCell<Option<Arc<Worker>>> = const { RefCell::new(None) }; }
        WORKER.with_borrow_mut(|worker| worker.get_or_insert_with(|| Self::start(hub)).clone())
    }

    fn start(hub: &Arc<Hub>) -> Arc<Self> {
        let (pushes, mut waiting) = mpsc::unbounded_channel::<Arc<Push>>();
        let worker = Arc::new(Self {
            targets: Mutex::default(),
            pushes,
        });
        lock(&hub.workers).push(worker.clone());
        if hub.policy.fan_out_by_worker {
            let worker = worker.clone();
            actix_rt::spawn(async move {
                while let Some(push) = waiting.recv().await {
                    worker.send(&push);
                }
            });
        }
        if let Some(period) = hub.policy.heartbeat_seconds {
            actix_rt::spawn(heartbeats(hub.clone(), worker.clone(), period));
        }
        worker
    }

    fn send(&self, push: &Push) {
        for (_, target) in lock(&self.targets).iter() {
            target.send(push);
        }
    }
}

/// One timer a worker: each second it serves one part in `period` of the connections.
async fn heartbeats(hub: Arc<Hub>, worker: Arc<Worker>, period: u32) {
    let mut part = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        part = (part + 1) % period as usize;
        let now = seconds();
        for (key, target) in lock(&worker.targets).iter() {
            if key % period as usize != part {
                continue;
            }
            let Some(connection) = target.socket() else { continue };
            if connection.heartbeat(now, period).is_err() {
                hub.counters.silent.fetch_add(1, Relaxed);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds a lock")
}
