//! 10,000 clients lose their connection at once and come back with their cursors.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use memchr::memmem;
use taskflow_protocol::codec::Encoding;
use taskflow_protocol::message::{FollowMode, ServerMessage};

use super::open_many;
use crate::board::{Board, mark};
use crate::clock;
use crate::machine::Watch;
use crate::net::Dial;
use crate::net::http::Http;
use crate::net::socket::Socket;
use crate::record::{Better, Measure, Record, Round};
use crate::server::taskflow::{Setup, TaskFlow, hello, next};
use crate::server::{Bench, User};
use crate::stats;

/// Changes that each client misses.
const MISSED: usize = 2;
/// Clients that dial at the same time.
const DIALLING: usize = 512;
/// A client that is not current by then has lost something.
const LOST_AFTER: Duration = Duration::from_secs(15);

/// Runs the scenario.
pub async fn run(bench: &mut Bench, record: &mut Record) -> Result<()> {
    let clients = bench.size(10_000, 1_000);
    record.about = format!(
        "{clients} clients of as many users follow their feeds; all connections are reset at once; each feed changes \
         {MISSED} times (REST); then all come back with their cursors, {DIALLING} dialling at a time. Time from the first \
         dial until the last client has what it missed. Afterwards every message is decoded: exactly the missed entries, \
         dense, once. Server and client share both cores; the client has one thread."
    );
    let server = Rc::new(TaskFlow::start(bench, Setup::default()).await?);
    let users = Rc::new(server.users(bench, clients)?);
    let (mut sockets, mut cursors) = follow_all(&server, &users).await?;
    for round in 0..bench.rounds(5) {
        drop(sockets);
        tokio::time::sleep(Duration::from_secs(1)).await;
        change_each(&server, users.clone(), round).await?;
        bench.quiet().await;
        let watch = Watch::begin(&[server.process.pid()]);
        let returned = come_back(
            Rc::new(vec![server.clone()]),
            users.clone(),
            Rc::new(cursors.clone()),
            LOST_AFTER,
        )
        .await?;
        let seen = watch.end();
        let current_s: Vec<f64> = returned.iter().map(|client| client.current_s).collect();
        let mut wrong = 0;
        let board = Board::new();
        let mut watching = Vec::with_capacity(clients);
        for client in returned {
            match client.check(round) {
                Ok(cursor) => cursors[client.number] = cursor,
                Err(error) => {
                    eprintln!("client {}: {error:#}", client.number);
                    wrong += 1;
                }
            }
            watching.push(board.watch(client.socket));
        }
        if wrong > 0 {
            bail!("{wrong} clients did not get exactly what they missed");
        }
        // What comes now comes a second time.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let doubled = board.pushes();
        for connection in &watching {
            connection.abort();
        }
        sockets = Vec::new();
        record.rounds.push(
            Round::new("taskflow", seen)
                .figure("all_current_s", stats::quantile(&current_s, 1.0))
                .figure("cpu_us_per_client", seen.server_cpu_seconds * 1e6 / clients as f64)
                .figure(
                    "client_us_per_client",
                    seen.client_percent / 100.0 * seen.seconds * 1e6 / clients as f64,
                )
                .figure("lost_or_doubled", doubled as f64)
                .figure("ended", board.ended() as f64)
                .figure("resident_mib", server.process.memory()?.resident as f64 / 1048576.0)
                .samples("current_s", &every_tenth(&current_s))
                .void_if_others_used_more_than(bench.foreign_percent_max),
        );
    }
    report(record);
    Ok(())
}

fn every_tenth(samples: &[f64]) -> Vec<f64> {
    samples.iter().copied().step_by(10).collect()
}

/// The number of a change, so that it is known again.
fn number(client: usize, round: usize, change: usize) -> u32 {
    (client * 64 + round * MISSED + change) as u32
}

/// Each user follows the own feed: the connections, in no order, and the cursors in that of the users.
pub(super) async fn follow_all(server: &Rc<TaskFlow>, users: &Rc<Vec<User>>) -> Result<(Vec<Socket>, Vec<String>)> {
    let (dialled, follower) = (server.clone(), users.clone());
    let opened = open_many(users.len(), 64, move |number| {
        let (server, users) = (dialled.clone(), follower.clone());
        async move {
            let (socket, cursor) = server.follow(server.dial(number), &users[number]).await?;
            Ok((number, socket, cursor))
        }
    })
    .await?;
    let mut cursors = vec![String::new(); users.len()];
    let mut sockets = Vec::with_capacity(users.len());
    for (number, socket, cursor) in opened {
        cursors[number] = cursor;
        sockets.push(socket);
    }
    Ok((sockets, cursors))
}

/// Each user makes tasks.
pub(super) async fn change_each(server: &Rc<TaskFlow>, users: Rc<Vec<User>>, round: usize) -> Result<()> {
    let next = Rc::new(Cell::new(0));
    let authors: Vec<_> = (0..32)
        .map(|author| {
            let (next, users, dial) = (next.clone(), users.clone(), Dial::to(server.address).number(author));
            tokio::task::spawn_local(async move {
                let mut http = Http::connect(dial).await?;
                loop {
                    let client = next.replace(next.get() + 1);
                    let Some(user) = users.get(client) else {
                        return Ok::<_, anyhow::Error>(());
                    };
                    for change in 0..MISSED {
                        let body = format!(r#"{{"title":"{}"}}"#, mark(number(client, round, change)));
                        let answer = http.request("POST", "/api/v1/tasks", Some(&user.token), &body).await?;
                        if answer.status != 201 {
                            bail!("a task was answered {}: {}", answer.status, answer.text());
                        }
                    }
                }
            })
        })
        .collect();
    for author in authors {
        author.await??;
    }
    Ok(())
}

/// A client that is back and current.
pub(super) struct Returned {
    number: usize,
    socket: Socket,
    /// What it was sent, undecoded: decoding is not what is measured.
    messages: Vec<Vec<u8>>,
    /// Since the first dial.
    pub(super) current_s: f64,
}

/// All of them, by turns to each of the servers.
pub(super) async fn come_back(
    servers: Rc<Vec<Rc<TaskFlow>>>,
    users: Rc<Vec<User>>,
    cursors: Rc<Vec<String>>,
    lost_after: Duration,
) -> Result<Vec<Returned>> {
    let begin = clock::now_ns();
    open_many(users.len(), DIALLING, move |number| {
        let (users, cursors) = (users.clone(), cursors.clone());
        let server = servers[number % servers.len()].clone();
        async move {
            let (mut messages, mut missed) = (Vec::new(), 0);
            let current = async {
                let mut socket = server.open(server.dial(number)).await?;
                let first = hello(&users[number].token, Some(Some(&cursors[number])));
                socket.writer().send(&first).await?;
                while missed < MISSED {
                    let text = next(&mut socket).await?;
                    missed += memmem::find_iter(&text, b"\"@@").count();
                    messages.push(text);
                }
                Ok::<_, std::io::Error>(socket)
            };
            let socket = tokio::time::timeout(lost_after, current)
                .await
                .with_context(|| format!("client {number} is not current after {lost_after:?}"))??;
            Ok(Returned {
                number,
                socket,
                messages,
                current_s: (clock::now_ns() - begin) as f64 / 1e9,
            })
        }
    })
    .await
}

impl Returned {
    /// Exactly the entries that it missed, and the cursor after them.
    pub(super) fn check(&self, round: usize) -> Result<String> {
        let (mut head, mut seqs, mut cursor) = (0, Vec::new(), None);
        let mut texts = Vec::new();
        for message in &self.messages {
            match Encoding::Json.decode::<ServerMessage>(message)? {
                ServerMessage::Following(following) if following.mode == FollowMode::Entries => head = following.head,
                ServerMessage::Entries(entries) => {
                    seqs.extend(entries.entries.iter().map(|entry| entry.seq));
                    texts.extend(entries.entries.iter().map(|entry| format!("{entry:?}")));
                    cursor = Some(entries.cursor);
                }
                ServerMessage::Welcome(_) | ServerMessage::Heartbeat(_) => {}
                other => bail!("it was sent {other:?}"),
            }
        }
        let expected: Vec<u64> = (head.saturating_sub(MISSED as u64 - 1)..=head).collect();
        if seqs != expected {
            bail!("it got the entries {seqs:?} where the head is {head}");
        }
        for (change, text) in texts.iter().enumerate() {
            if !text.contains(&mark(number(self.number, round, change))) {
                bail!("entry {} is not the change that it missed: {text}", seqs[change]);
            }
        }
        cursor.context("no cursor")
    }
}

fn report(record: &mut Record) {
    let lost = record.total("taskflow", "lost_or_doubled");
    let limited = record
        .counting("taskflow")
        .any(|round| round.machine.client_percent > 90.0);
    if limited {
        record.notes.push(
            "The client used more than 90 % of its core: the seconds are an upper bound of what the server needs."
                .to_owned(),
        );
    }
    record.measures = vec![
        record
            .measure(
                "10,000 clients drop at once and come back with their cursors, two missed changes each, 512 dialling at a \
                 time: until all are current",
                "s",
                Better::Less,
                "taskflow",
                "all_current_s",
            )
            .asked(1.6, 1.0),
        record
            .measure("server CPU a client", "µs", Better::Less, "taskflow", "cpu_us_per_client")
            .asked(150.0, 80.0),
        Measure::new("changes lost or doubled", "entries", Better::Less, &[lost]).asked(0.0, 0.0),
        record.measure("client CPU a client", "µs", Better::Less, "taskflow", "client_us_per_client"),
    ];
}
