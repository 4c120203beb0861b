//! Durable creates by 64 clients, beside PocketBase.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use memchr::memmem;

use super::{open_many, subjects};
use crate::clock;
use crate::machine::Watch;
use crate::net::Dial;
use crate::net::http::Http;
use crate::process::{Process, pin_this_thread};
use crate::record::{Better, Measure, Record, Round};
use crate::server::pocketbase::{self, PocketBase};
use crate::server::taskflow::{Setup, TaskFlow, create, next, operation, operations, task_id};
use crate::server::{Bench, User};
use crate::stats;

const CLIENTS: usize = 64;
const SERVER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;
/// Creates of one run over one user: a feed holds 50,000 tasks.
const CREATES_OF_ONE_USER_MAX: u64 = 40_000;

const REST: &str = "taskflow, REST";
const SOCKET: &str = "taskflow, WebSocket";
const ONE_USER: &str = "taskflow, REST, one user";
const TRACED: &str = "taskflow, REST, under strace";
const POCKETBASE: &str = "pocketbase";
const POCKETBASE_ONE_USER: &str = "pocketbase, one user";

/// Runs the scenario.
pub async fn run(bench: &mut Bench, record: &mut Record) -> Result<()> {
    let seconds = bench.size(5.0, 1.0);
    record.about = format!(
        "{CLIENTS} clients, each with a kept-alive connection and a user of its own, make tasks as fast as they are \
         answered, {seconds} s a round: `POST /api/v1/tasks` beside PocketBase's `POST {}` with a token and \
         `synchronous=FULL`, by the same HTTP client. Server on core {SERVER_CORE}, client on core {CLIENT_CORE}; both \
         servers run all the time and only one is under load. Further: the same over WebSocket, and {CLIENTS} clients of \
         one user. The calls that make data durable are counted with strace in a run of their own.",
        pocketbase::CREATE_PATH
    );
    let core = Some(SERVER_CORE);
    let rival = PocketBase::start(bench, core, CLIENTS).await?;
    let setup = Setup {
        core,
        ..Setup::default()
    };
    let server = Rc::new(TaskFlow::start(bench, setup.clone()).await?);
    let users = server.users_with_feeds(bench, CLIENTS).await?;
    pin_this_thread(Some(CLIENT_CORE))?;
    for round in 0..bench.rounds(5) {
        let mut order = [REST, POCKETBASE, SOCKET, ONE_USER, POCKETBASE_ONE_USER];
        if round % 2 == 1 {
            order.reverse();
        }
        for subject in order {
            bench.quiet().await;
            let load = Load {
                seconds,
                creates_max: u64::MAX,
            };
            let round = match subject {
                POCKETBASE => {
                    let users = rival.users.clone();
                    load.rest(
                        subject,
                        &rival.process,
                        rival.address,
                        pocketbase::CREATE_PATH,
                        200,
                        users,
                    )
                    .await?
                }
                POCKETBASE_ONE_USER => {
                    let users = vec![rival.users[0].clone(); CLIENTS];
                    load.rest(
                        subject,
                        &rival.process,
                        rival.address,
                        pocketbase::CREATE_PATH,
                        200,
                        users,
                    )
                    .await?
                }
                SOCKET => load.socket(&server, &users).await?,
                ONE_USER => {
                    let fresh = server.users_with_feeds(bench, 1).await?;
                    let load = Load {
                        creates_max: CREATES_OF_ONE_USER_MAX,
                        ..load
                    };
                    let users = vec![fresh[0].clone(); CLIENTS];
                    load.rest(subject, &server.process, server.address, CREATE_PATH, 201, users)
                        .await?
                }
                _ => {
                    let users = users.clone();
                    load.rest(subject, &server.process, server.address, CREATE_PATH, 201, users)
                        .await?
                }
            };
            record
                .rounds
                .push(round.void_if_others_used_more_than(bench.foreign_percent_max));
        }
    }
    drop((server, rival));
    record.rounds.push(count_syncs(bench, setup, seconds).await?);
    report(record);
    Ok(())
}

/// Where TaskFlow makes tasks.
const CREATE_PATH: &str = "/api/v1/tasks";

struct Load {
    seconds: f64,
    /// All clients together stop there.
    creates_max: u64,
}

/// What the clients of one run count together.
#[derive(Default)]
struct Tally {
    took_ms: Vec<f64>,
    errors: u64,
    first_error: Option<String>,
}

impl Load {
    async fn rest(
        &self,
        subject: &str,
        process: &Process,
        address: SocketAddr,
        path: &'static str,
        created: u16,
        users: Vec<User>,
    ) -> Result<Round> {
        let clients = open_many(users.len(), 16, move |number| async move {
            Ok((number, Http::connect(Dial::to(address).number(number)).await?))
        })
        .await?;
        let tally = Rc::new(RefCell::new(Tally::default()));
        let watch = Watch::begin(&[process.pid()]);
        let end = clock::now_ns() + (self.seconds * 1e9) as u64;
        let creates_max = self.creates_max;
        let running: Vec<_> = clients
            .into_iter()
            .map(|(number, mut http)| {
                let (tally, token) = (tally.clone(), users[number].token.clone());
                tokio::task::spawn_local(async move {
                    let mut task = 0;
                    while clock::now_ns() < end && (tally.borrow().took_ms.len() as u64) < creates_max {
                        task += 1;
                        let body = format!(r#"{{"title":"Task {task} of client {number}, to be done soon"}}"#);
                        let begin = clock::now_ns();
                        let answer = http.request("POST", path, Some(&token), &body).await?;
                        let mut tally = tally.borrow_mut();
                        if answer.status == created {
                            tally.took_ms.push((clock::now_ns() - begin) as f64 / 1e6);
                        } else {
                            tally.errors += 1;
                            tally.first_error.get_or_insert_with(|| answer.text());
                        }
                    }
                    Ok::<_, anyhow::Error>(())
                })
            })
            .collect();
        for client in running {
            client.await??;
        }
        tally.take().round(subject, watch)
    }

    async fn socket(&self, server: &Rc<TaskFlow>, users: &[User]) -> Result<Round> {
        let (dialled, users) = (server.clone(), Rc::new(users.to_vec()));
        let clients = open_many(users.len(), 16, move |number| {
            let (server, users) = (dialled.clone(), users.clone());
            async move { server.sign_in(server.dial(number), &users[number]).await }
        })
        .await?;
        let tally = Rc::new(RefCell::new(Tally::default()));
        let watch = Watch::begin(&[server.process.pid()]);
        let end = clock::now_ns() + (self.seconds * 1e9) as u64;
        let running: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(number, mut socket)| {
                let tally = tally.clone();
                tokio::task::spawn_local(async move {
                    let (writer, mut task) = (socket.writer(), 0);
                    while clock::now_ns() < end {
                        task += 1;
                        let title = format!("Task {task} of client {number}, to be done soon");
                        let made = operation(create(task_id(), title, String::new()));
                        let begin = clock::now_ns();
                        writer.send(&operations(vec![made])).await?;
                        let answer = next(&mut socket).await?;
                        let mut tally = tally.borrow_mut();
                        if memmem::find(&answer, br#""outcome":{"accepted""#).is_some() {
                            tally.took_ms.push((clock::now_ns() - begin) as f64 / 1e6);
                        } else {
                            tally.errors += 1;
                            let answer = String::from_utf8_lossy(&answer).into_owned();
                            tally.first_error.get_or_insert(answer);
                        }
                    }
                    Ok::<_, anyhow::Error>(())
                })
            })
            .collect();
        for client in running {
            client.await??;
        }
        tally.take().round(SOCKET, watch)
    }
}

impl Tally {
    fn round(self, subject: &str, watch: Watch) -> Result<Round> {
        let seen = watch.end();
        if let Some(error) = &self.first_error {
            eprintln!("{subject}: {} creates failed, the first with {error}", self.errors);
        }
        if self.took_ms.is_empty() {
            bail!("{subject}: nothing was created");
        }
        let creates = self.took_ms.len() as f64;
        // As many raw samples as the file can bear: every so-manyth in the order of their ends.
        let step = self.took_ms.len().div_ceil(1_000);
        let samples: Vec<f64> = self.took_ms.iter().copied().step_by(step).collect();
        Ok(Round::new(subject, seen)
            .figure("creates", creates)
            .figure("creates_per_s", creates / seen.seconds)
            .figure("errors", self.errors as f64)
            .figure("cpu_ms_per_create", seen.server_cpu_seconds * 1e3 / creates)
            .figure("p50_ms", stats::median(&self.took_ms))
            .figure("p99_ms", stats::quantile(&self.took_ms, 0.99))
            .samples("create_ms", &samples)
            .void_if_client_was_the_limit())
    }
}

/// The same load on a server of its own that strace watches.
async fn count_syncs(bench: &mut Bench, setup: Setup, seconds: f64) -> Result<Round> {
    let setup = Setup {
        trace_syncs: true,
        ..setup
    };
    let server = Rc::new(TaskFlow::start(bench, setup).await?);
    let users = server.users_with_feeds(bench, CLIENTS).await?;
    let load = Load {
        seconds,
        creates_max: u64::MAX,
    };
    let from = clock::unix_seconds();
    let round = load
        .rest(TRACED, &server.process, server.address, CREATE_PATH, 201, users)
        .await?;
    let to = clock::unix_seconds();
    let mut server = Rc::into_inner(server).context("the clients are done")?;
    server.process.stop();
    let syncs = TaskFlow::syncs_between(bench, from, to)?;
    let creates = round.figures["creates"];
    Ok(round
        .figure("syncs", syncs as f64)
        .figure("syncs_per_create", syncs as f64 / creates)
        .void_if((syncs == 0).then(|| "strace saw no call that makes data durable".to_owned())))
}

fn report(record: &mut Record) {
    let ratio = |ours: &str, theirs: &str| -> Vec<f64> {
        let of = |subject: &str| -> Vec<Option<f64>> {
            let rounds = record.rounds.iter().filter(|round| round.subject == subject);
            rounds
                .map(|round| round.void.is_none().then(|| round.figures["creates_per_s"]))
                .collect()
        };
        let pairs = of(ours).into_iter().zip(of(theirs));
        pairs.filter_map(|(ours, theirs)| Some(ours? / theirs?)).collect()
    };
    let mut errors: BTreeMap<&str, f64> = BTreeMap::new();
    for round in &record.rounds {
        *errors.entry(&round.subject).or_default() += round.figures.get("errors").copied().unwrap_or(0.0);
    }
    let mut measures = vec![
        Measure::new(
            "durable creates by 64 clients over 64 users, REST, against PocketBase with synchronous=FULL",
            "×",
            Better::More,
            &ratio(REST, POCKETBASE),
        )
        .asked(10.0, 20.0)
        .without(&record.void(REST)),
        Measure::new(
            "errors with 64 clients of one user",
            "creates",
            Better::Less,
            &[errors.get(ONE_USER).copied().unwrap_or(f64::NAN)],
        )
        .asked(0.0, 0.0),
        record
            .measure(
                "server CPU per acknowledged create in that run",
                "ms",
                Better::Less,
                REST,
                "cpu_ms_per_create",
            )
            .asked(0.11, 0.055),
        record
            .measure(
                "fsyncs per acknowledged create under that load (counted with strace)",
                "calls",
                Better::Less,
                TRACED,
                "syncs_per_create",
            )
            .asked(0.2, 0.05),
        Measure::new(
            "durable creates by 64 clients over REST, against the same over WebSocket",
            "×",
            Better::More,
            &ratio(REST, SOCKET),
        )
        .asked(0.85, 0.95)
        .without(&record.void(REST)),
        Measure::new(
            "the same over WebSocket, against PocketBase over REST",
            "×",
            Better::More,
            &ratio(SOCKET, POCKETBASE),
        ),
    ];
    for subject in subjects(record) {
        for (figure, unit) in [
            ("creates_per_s", "creates a second"),
            ("cpu_ms_per_create", "ms of CPU a create"),
        ] {
            measures.push(record.measure(&subject, unit, Better::Less, &subject, figure));
        }
    }
    record.measures = measures;
}
