//! SIGKILL at random moments under writing clients: what was acknowledged is there, once, in one order, on every screen.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use taskflow_protocol::codec::Encoding;
use taskflow_protocol::message::{
    Command, Operation, OperationResult, Outcome, Place, ServerMessage, TaskMove, TaskPatch, TaskRef,
};
use taskflow_protocol::model::TaskFields;
use taskflow_protocol::values::{Priority, Seq};
use taskflow_protocol::{Action, OperationId, TaskId};
use tokio::time::Instant;

use crate::clock;
use crate::machine::Watch;
use crate::net::Dial;
use crate::net::socket::Socket;
use crate::record::{Better, Measure, Record, Round};
use crate::replica::Replica;
use crate::server::taskflow::{HEARTBEAT, Setup, TaskFlow, create, hello, open, operation, operations, task_id};
use crate::server::{Bench, User};

const USERS: usize = 16;
/// 64 in all.
const WRITERS_A_USER: usize = 4;
const FOLLOWERS_A_USER: usize = 2;
/// Operations of a writer that are not settled; more wait until some are.
const PENDING_MAX: usize = 32;
/// Milliseconds between two operations of a writer. The whole run must stay within what a feed may hold.
const PAUSE_MS: std::ops::Range<u64> = 20..80;
/// Milliseconds from a start of the server to its kill: some kills meet a server that has not finished starting.
const LIFE_MS: std::ops::Range<u64> = 10..600;
/// Milliseconds after which a follower goes away by itself and comes back.
const FOLLOW_MS: std::ops::Range<u64> = 200..3_000;
/// Milliseconds until a client dials again.
const REDIAL_MS: std::ops::Range<u64> = 5..40;
/// How long the last start may take until every client is current.
const CURRENT_WITHIN: Duration = Duration::from_secs(60);

/// What all clients share.
struct Crew {
    address: SocketAddr,
    /// New operations are made while this holds.
    writing: Cell<bool>,
    wrongs: RefCell<Vec<String>>,
    connects: Cell<u64>,
    resends: Cell<u64>,
}

impl Crew {
    fn wrong(&self, what: String) {
        eprintln!("WRONG: {what}");
        self.wrongs.borrow_mut().push(what);
    }
}

/// A client, as it would be on a user's device.
struct Client {
    name: String,
    user: User,
    writes: bool,
    random: StdRng,
    replica: Replica,
    /// Not settled, in the order in which they were made.
    pending: VecDeque<Operation>,
    /// Answered so that they are to be sent again.
    again: HashSet<OperationId>,
    made: HashSet<OperationId>,
    accepted: HashMap<OperationId, Seq>,
    refused: HashSet<OperationId>,
}

/// Runs the scenario.
pub async fn run(bench: &mut Bench, record: &mut Record) -> Result<()> {
    let kills = bench.size(200, 10);
    let seed = bench.seed;
    let writers = USERS * WRITERS_A_USER;
    record.about = format!(
        "{writers} clients of {USERS} users write (make, change, move, complete, delete and restore tasks) and follow; {} \
         more follow and reconnect at random. The server is killed with SIGKILL {kills} times, {LIFE_MS:?} ms after its \
         start, and started again on the same data and ports. Clients reconnect with their cursors, catch up, and send what \
         is not settled again under the same ids. Checked at every client, at every entry: dense, once, in order, no \
         reset. Checked at the end: every acknowledged operation is in the log exactly once and where it was acknowledged, \
         no refused one is, none was made by nobody; every client's rows equal those of a fresh snapshot, and those that \
         the log gives when it is read from its start. Seed {seed}.",
        USERS * FOLLOWERS_A_USER
    );
    let mut server = TaskFlow::start(bench, Setup::default()).await?;
    let users = server.users(bench, USERS)?;
    let crew = Rc::new(Crew {
        address: server.address,
        writing: Cell::new(true),
        wrongs: RefCell::default(),
        connects: Cell::new(0),
        resends: Cell::new(0),
    });
    let mut random = StdRng::seed_from_u64(seed);
    let mut readers = Vec::new();
    let mut clients = Vec::new();
    for (number, user) in users.iter().enumerate() {
        // Reads the log from here when all is over.
        readers.push(snapshot(&crew, user).await?);
        for client in 0..WRITERS_A_USER + FOLLOWERS_A_USER {
            let writes = client < WRITERS_A_USER;
            let name = format!(
                "{} {client} of user {number}",
                if writes { "writer" } else { "follower" }
            );
            let client = Client::new(name, user.clone(), writes, StdRng::seed_from_u64(random.random()));
            clients.push(Rc::new(RefCell::new(client)));
        }
    }
    let running: Vec<_> = clients
        .iter()
        .map(|client| tokio::task::spawn_local(live(client.clone(), crew.clone())))
        .collect();
    let watch = Watch::begin(&[]);
    let mut lives_ms = Vec::new();
    for _ in 0..kills {
        let life_ms = random.random_range(LIFE_MS);
        tokio::time::sleep(Duration::from_millis(life_ms)).await;
        server.process.check_running()?;
        server.process.kill();
        server.start_again(bench)?;
        lives_ms.push(life_ms as f64);
    }
    server.wait_until_ready().await?;
    // A last stretch of ordinary life: the server must not only survive, it must work.
    tokio::time::sleep(Duration::from_secs(1)).await;
    crew.writing.set(false);
    settle(&clients, &crew).await;
    check(&crew, &users, &clients, readers).await?;
    for client in running {
        client.abort();
    }
    let seen = watch.end();
    let sum = |of: fn(&Client) -> usize| clients.iter().map(|client| of(&client.borrow())).sum::<usize>() as f64;
    let wrongs = crew.wrongs.borrow();
    record.rounds.push(
        Round::new("taskflow", seen)
            .figure("kills", kills as f64)
            .figure("acknowledged", sum(|client| client.accepted.len()))
            .figure("refused", sum(|client| client.refused.len()))
            .figure("entries_received", sum(|client| client.replica.entries.len()))
            .figure("connects", crew.connects.get() as f64)
            .figure("sent_again", crew.resends.get() as f64)
            .figure("wrong", wrongs.len() as f64)
            .samples("life_ms", &lives_ms),
    );
    record.notes.extend(wrongs.iter().take(20).cloned());
    record.measures = vec![
        Measure::new(
            &format!(
                "lost, doubled, reordered or gapped entries at any client, over {kills} kill -9 under {writers} writing \
                 clients with reconnecting followers"
            ),
            "cases",
            Better::Less,
            &[wrongs.len() as f64],
        )
        .asked(0.0, 0.0),
    ];
    Ok(())
}

/// Waits until nothing is pending.
async fn settle(clients: &[Rc<RefCell<Client>>], crew: &Crew) {
    let deadline = clock::now_ns() + CURRENT_WITHIN.as_nanos() as u64;
    while clients.iter().any(|client| !client.borrow().pending.is_empty()) {
        if clock::now_ns() > deadline {
            for client in clients.iter().map(|client| client.borrow()) {
                if let Some(first) = client.pending.front() {
                    crew.wrong(format!("{}: {} never settled", client.name, first.id));
                }
            }
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Compares what the clients have with the log and with a fresh snapshot.
async fn check(crew: &Crew, users: &[User], clients: &[Rc<RefCell<Client>>], readers: Vec<Replica>) -> Result<()> {
    for (user, mut reader) in users.iter().zip(readers) {
        let fresh = snapshot(crew, user).await?;
        read_log(crew, user, &mut reader, fresh.position).await?;
        if reader.rows != fresh.rows {
            crew.wrong(format!("user {}: the log does not give the snapshot", user.id));
        }
        let of_user: Vec<_> = clients.iter().filter(|client| client.borrow().user == *user).collect();
        let mut made = HashSet::new();
        for client in &of_user {
            until_current(client, fresh.position).await;
            let client = client.borrow();
            client.compare(crew, &reader, &fresh);
            made.extend(client.made.iter().copied());
        }
        for operation in reader.entries.keys().filter(|operation| !made.contains(operation)) {
            crew.wrong(format!(
                "user {}: nobody made {operation}, which is in the log",
                user.id
            ));
        }
    }
    Ok(())
}

async fn until_current(client: &Rc<RefCell<Client>>, head: Seq) {
    let deadline = clock::now_ns() + CURRENT_WITHIN.as_nanos() as u64;
    while client.borrow().replica.position < head && clock::now_ns() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A copy of the feed as it is now.
async fn snapshot(crew: &Crew, user: &User) -> Result<Replica> {
    let mut replica = Replica::default();
    let mut socket = open(Dial::to(crew.address)).await?;
    socket.writer().send(&hello(&user.token, Some(None))).await?;
    while !replica.is_whole() {
        take(&mut replica, &mut socket).await?;
    }
    Ok(replica)
}

/// Reads the log on from where the copy is.
async fn read_log(crew: &Crew, user: &User, replica: &mut Replica, head: Seq) -> Result<()> {
    let mut socket = open(Dial::to(crew.address)).await?;
    let first = hello(&user.token, Some(replica.cursor.as_deref()));
    socket.writer().send(&first).await?;
    while replica.position < head {
        take(replica, &mut socket).await?;
    }
    Ok(())
}

async fn take(replica: &mut Replica, socket: &mut Socket) -> Result<()> {
    let text = tokio::time::timeout(CURRENT_WITHIN, socket.text()).await??;
    let message = Encoding::Json.decode::<ServerMessage>(&text)?;
    if let ServerMessage::Error(error) = &message {
        bail!("{}: {}", error.name, error.message);
    }
    replica.take(message).map_err(|wrong| anyhow::anyhow!("{wrong:?}"))
}

/// A client's life: connected, or about to be.
async fn live(client: Rc<RefCell<Client>>, crew: Rc<Crew>) {
    loop {
        // However a connection ends, the client comes back: that is its whole contract.
        let _ = connection(&client, &crew).await;
        let pause_ms = client.borrow_mut().random.random_range(REDIAL_MS);
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
}

async fn connection(client: &Rc<RefCell<Client>>, crew: &Crew) -> Result<()> {
    let mut socket = open(Dial::to(crew.address)).await?;
    crew.connects.set(crew.connects.get() + 1);
    let (first, leave_at) = client.borrow_mut().connected();
    let writer = socket.writer();
    writer.send(&first).await?;
    // Until the position has reached it, nothing is sent: what got through is learnt first.
    let mut head = None;
    let mut caught_up = false;
    let mut next_turn = Instant::now();
    loop {
        tokio::select! {
            text = socket.text() => {
                let message = Encoding::Json.decode::<ServerMessage>(&text?)?;
                match &message {
                    ServerMessage::Heartbeat(_) => writer.send_now(HEARTBEAT),
                    ServerMessage::Following(following) => head = Some(following.head),
                    ServerMessage::Error(error) => bail!("{}", error.name),
                    ServerMessage::Reconnect(_) => return Ok(()),
                    _ => {}
                }
                client.borrow_mut().take(message, crew)?;
            }
            () = tokio::time::sleep_until(next_turn) => {
                next_turn = Instant::now() + client.borrow_mut().pause();
                if leave_at.is_some_and(|leave_at| Instant::now() > leave_at) {
                    return Ok(());
                }
                if !client.borrow().is_current(head) {
                    continue;
                }
                let messages = client.borrow_mut().next_messages(crew, !caught_up);
                caught_up = true;
                for message in messages {
                    writer.send(&message).await?;
                }
            }
        }
    }
}

impl Client {
    fn new(name: String, user: User, writes: bool, random: StdRng) -> Self {
        Self {
            name,
            user,
            writes,
            random,
            replica: Replica::default(),
            pending: VecDeque::new(),
            again: HashSet::new(),
            made: HashSet::new(),
            accepted: HashMap::new(),
            refused: HashSet::new(),
        }
    }

    /// The first message of a new connection, and when a client that only follows goes away again.
    fn connected(&mut self) -> (Vec<u8>, Option<Instant>) {
        self.replica.connected();
        let first = hello(&self.user.token, Some(self.replica.cursor.as_deref()));
        let stay = Duration::from_millis(self.random.random_range(FOLLOW_MS));
        (first, (!self.writes).then(|| Instant::now() + stay))
    }

    fn pause(&mut self) -> Duration {
        Duration::from_millis(self.random.random_range(PAUSE_MS))
    }

    fn is_current(&self, head: Option<Seq>) -> bool {
        self.replica.is_whole() && head.is_some_and(|head| self.replica.position >= head)
    }

    fn take(&mut self, message: ServerMessage, crew: &Crew) -> Result<()> {
        match message {
            ServerMessage::Results(results) => {
                for result in results.results {
                    self.settle(result, crew);
                }
            }
            message => {
                let before = self.replica.position;
                if let Err(wrong) = self.replica.take(message) {
                    crew.wrong(format!("{}: {wrong:?}", self.name));
                    bail!("the server is wrong");
                }
                if self.replica.position != before {
                    let entries = &self.replica.entries;
                    self.pending.retain(|operation| !entries.contains_key(&operation.id));
                }
            }
        }
        Ok(())
    }

    /// An answer. An accepted operation stays pending until its entry comes.
    fn settle(&mut self, OperationResult { id, outcome }: OperationResult, crew: &Crew) {
        match outcome {
            Outcome::Accepted(accepted) => {
                if let Some(before) = self.accepted.insert(id, accepted.seq)
                    && before != accepted.seq
                {
                    crew.wrong(format!(
                        "{}: {id} was accepted as {before} and {}",
                        self.name, accepted.seq
                    ));
                }
            }
            Outcome::Refused(error) if error.code.action() == Action::Retry => {
                self.again.insert(id);
            }
            Outcome::Unknown(_) => {
                self.again.insert(id);
            }
            Outcome::Refused(_) | Outcome::Conflict(_) => {
                self.refused.insert(id);
                self.pending.retain(|operation| operation.id != id);
            }
        }
    }

    /// What to send now: after connecting, all that is pending; else what is to be sent again, and something new.
    fn next_messages(&mut self, crew: &Crew, just_connected: bool) -> Vec<Vec<u8>> {
        if !self.writes {
            return Vec::new();
        }
        let again = std::mem::take(&mut self.again);
        let old: Vec<Operation> = self
            .pending
            .iter()
            .filter(|operation| just_connected || again.contains(&operation.id))
            .cloned()
            .collect();
        crew.resends.set(crew.resends.get() + old.len() as u64);
        let mut messages = Vec::new();
        if !old.is_empty() {
            messages.push(operations(old));
        }
        if crew.writing.get() && self.pending.len() < PENDING_MAX {
            let new = operation(self.command());
            self.made.insert(new.id);
            self.pending.push_back(new.clone());
            messages.push(operations(vec![new]));
        }
        messages
    }

    /// Something that a user would do next. Some of it is refused, because another client deleted the task.
    fn command(&mut self) -> Command {
        let tasks = self.replica.rows.tasks.len();
        let random = &mut self.random;
        if tasks == 0 || random.random_bool(0.4) {
            let title = format!("Task {} of {}", self.made.len(), self.name);
            return create(task_id(), title, String::new());
        }
        let mut any = || -> TaskId {
            let index = random.random_range(0..tasks);
            *self
                .replica
                .rows
                .tasks
                .keys()
                .nth(index)
                .expect("the index is below the length")
        };
        let task = any();
        let neighbour = any();
        match random.random_range(0..10) {
            0..4 => Command::TaskPatch(TaskPatch {
                task,
                set: TaskFields {
                    title: Some(format!("Changed {} by {}", self.made.len(), self.name)),
                    priority: Some([Priority::None, Priority::Low, Priority::Urgent][random.random_range(0..3)]),
                    ..TaskFields::default()
                },
            }),
            4 | 5 => Command::TaskComplete(TaskRef { task }),
            6 => Command::TaskReopen(TaskRef { task }),
            7 => Command::TaskDelete(TaskRef { task }),
            8 => Command::TaskRestore(TaskRef { task }),
            _ => Command::TaskMove(TaskMove {
                task,
                list: None,
                parent: None,
                place: Place::After(neighbour),
            }),
        }
    }

    /// What this client has, beside the log and a fresh snapshot.
    fn compare(&self, crew: &Crew, log: &Replica, fresh: &Replica) {
        let name = &self.name;
        if self.replica.position != fresh.position {
            let (position, head) = (self.replica.position, fresh.position);
            crew.wrong(format!("{name}: is at {position} where the feed is at {head}"));
        } else if self.replica.rows != fresh.rows {
            crew.wrong(format!("{name}: its rows are not those of the snapshot"));
        }
        for (operation, seq) in &self.accepted {
            match log.entries.get(operation) {
                Some(logged) if logged == seq => {}
                Some(logged) => crew.wrong(format!(
                    "{name}: {operation} was acknowledged as {seq}, and is {logged}"
                )),
                None => crew.wrong(format!("{name}: {operation} was acknowledged as {seq}, and is lost")),
            }
        }
        for operation in self
            .refused
            .iter()
            .filter(|operation| log.entries.contains_key(operation))
        {
            crew.wrong(format!("{name}: {operation} was refused, and was done"));
        }
    }
}
