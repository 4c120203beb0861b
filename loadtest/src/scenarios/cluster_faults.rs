//! What users notice when a part of a cluster goes, or is taken away.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use memchr::memmem;
use nix::sys::signal::Signal;

use super::open_many;
use super::storm::{change_each, come_back, follow_all};
use crate::board::{Board, mark};
use crate::clock::{self, Pacer};
use crate::machine::Watch;
use crate::net::socket::{Seen, Writer};
use crate::record::{Better, Record, Round};
use crate::server::services::{Services, meet};
use crate::server::taskflow::{Author, HEARTBEAT, TaskFlow, create, is_heartbeat, operation, operations, task_id};
use crate::server::{Bench, User};
use crate::stats;

const CHANGES_A_SECOND: u64 = 200;
const SECOND_NS: u64 = 1_000_000_000;

/// Runs the scenario.
pub async fn run(bench: &mut Bench, record: &mut Record) -> Result<()> {
    let feeds = bench.size(10_000, 500);
    let clients = bench.size(10_000, 500);
    record.about = format!(
        "Nodes and one client on one machine, over Cassandra (commitlog_sync: batch, data in memory) and Redis, all on loopback; each node with one thread for sockets and one for feeds. \
         Every load is open loop, {CHANGES_A_SECOND} changes a second, times from when each was due. Redis gone: it is killed, \
         or stopped, under a load on 100 feeds by way of one of two nodes, seen at the other; noticed when both nodes say so in \
         their metrics; pushes flow when every feed has shown a change that was made after the fault. Planned leave: one of two \
         nodes ends by SIGTERM while {feeds} feeds are in memory, half of them there, and changes go to all of them in turn, by \
         way of the other node. Database hung: one of three nodes of the database (three replicas) is stopped for ten seconds \
         under a load on 64 feeds. Come back: {clients} clients of as many users follow at the third of three nodes, which is \
         killed; all come back at once to the other two, 512 dialling at a time, each with a cursor two changes old."
    );
    redis_gone(bench, record).await?;
    planned_leave(bench, record, feeds).await?;
    come_back_to_two(bench, record, clients).await?;
    database_hung(bench, record).await?;
    report(record);
    Ok(())
}

/// Answers to one client's operations, as they were due.
type Answers = Rc<RefCell<Vec<Answer>>>;

#[derive(Clone, Copy, Debug)]
struct Answer {
    due_ns: u64,
    at_ns: u64,
    is_accepted: bool,
}

/// Clients that each make tasks in their own feed, at a steady rate all together.
struct Load {
    writers: Vec<(Writer, Rc<RefCell<VecDeque<u64>>>)>,
    answers: Answers,
}

impl Load {
    async fn sign_in(server: &Rc<TaskFlow>, users: &[User]) -> Result<Self> {
        let (dialled, all) = (server.clone(), Rc::new(users.to_vec()));
        let sockets = open_many(users.len(), 64, move |number| {
            let (server, users) = (dialled.clone(), all.clone());
            async move { server.sign_in(server.dial(number), &users[number]).await }
        })
        .await?;
        let answers = Answers::default();
        let mut writers = Vec::with_capacity(sockets.len());
        for socket in sockets {
            let (writer, due) = (socket.writer(), Rc::new(RefCell::new(VecDeque::new())));
            writers.push((writer, due.clone()));
            let answers = answers.clone();
            tokio::task::spawn_local(socket.drive(move |seen, writer| {
                let Seen::Text(text) = seen else { return };
                if is_heartbeat(text) {
                    writer.send_now(HEARTBEAT);
                }
                for at in memmem::find_iter(text, br#""outcome":{""#) {
                    let is_accepted = text[at..].starts_with(br#""outcome":{"accepted""#);
                    if let Some(due_ns) = due.borrow_mut().pop_front() {
                        answers.borrow_mut().push(Answer {
                            due_ns,
                            at_ns: clock::now_ns(),
                            is_accepted,
                        });
                    }
                }
            }));
        }
        Ok(Self { writers, answers })
    }

    /// Sends so many, at so many a second; the next one after `first`.
    async fn run(&self, first: u64, count: u64, a_second: u64) -> Result<()> {
        let mut pacer = Pacer::new()?;
        let begin = clock::now_ns() + 1_000_000;
        for number in first..first + count {
            let due_ns = begin + (number - first) * SECOND_NS / a_second;
            pacer.until(due_ns).await?;
            let (writer, due) = &self.writers[number as usize % self.writers.len()];
            due.borrow_mut().push_back(due_ns);
            let made = create(task_id(), format!("change {number}"), String::new());
            writer.send(&operations(vec![operation(made)])).await?;
        }
        Ok(())
    }

    /// Waits until all are answered, at most so long; how many were not.
    async fn rest(&self, at_most: Duration) -> usize {
        let deadline = clock::now_ns() + at_most.as_nanos() as u64;
        loop {
            let left = self.writers.iter().map(|(_, due)| due.borrow().len()).sum();
            if left == 0 || clock::now_ns() > deadline {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn take_answers(&self) -> Vec<Answer> {
        std::mem::take(&mut *self.answers.borrow_mut())
    }
}

fn took_ms(answers: &[Answer]) -> Vec<f64> {
    answers
        .iter()
        .map(|answer| answer.at_ns.saturating_sub(answer.due_ns) as f64 / 1e6)
        .collect()
}

/// The longest time in which nobody was answered.
fn longest_gap_ms(answers: &[Answer]) -> f64 {
    let mut times: Vec<u64> = answers.iter().map(|answer| answer.at_ns).collect();
    times.sort_unstable();
    times
        .windows(2)
        .map(|pair| (pair[1] - pair[0]) as f64 / 1e6)
        .fold(0.0, f64::max)
}

async fn redis_gone(bench: &mut Bench, record: &mut Record) -> Result<()> {
    const FEEDS: usize = 100;
    let mut services = Services::start(bench, 1)?;
    let one = Rc::new(services.node(bench, "one").await?);
    let two = Rc::new(services.node(bench, "two").await?);
    let users = one.users_with_feeds(bench, FEEDS).await?;
    meet(&[&one, &two], 2.0).await?;
    let mut authors = Vec::new();
    for user in &users {
        authors.push(Author::sign_in(&one, user).await?);
    }
    let board = Board::of_every_arrival();
    let mut watched = Vec::new();
    for (number, user) in users.iter().enumerate() {
        watched.push(board.watch(two.follow(two.dial(number), user).await?.0));
    }
    let authors = Rc::new(authors);
    let mut first = 0;
    for round in 0..bench.rounds(3) * 2 {
        let (subject, signal) = if round % 2 == 0 {
            ("redis killed", Signal::SIGKILL)
        } else {
            ("redis stopped", Signal::SIGSTOP)
        };
        board.take_every();
        let watch = Watch::begin(&[one.process.pid(), two.process.pid()]);
        let changes = CHANGES_A_SECOND * 14;
        let begin = clock::now_ns() + 1_000_000;
        let sender = {
            let authors = authors.clone();
            tokio::task::spawn_local(async move {
                let mut pacer = Pacer::new()?;
                for number in 0..changes {
                    pacer.until(begin + number * SECOND_NS / CHANGES_A_SECOND).await?;
                    let title = mark((first + number) as u32);
                    authors[number as usize % FEEDS].change(title).await?;
                }
                anyhow::Ok(())
            })
        };
        tokio::time::sleep(Duration::from_secs(2)).await;
        services.signal_redis(signal)?;
        let fault = clock::now_ns();
        let mut noticed_ms = 0.0;
        for node in [&one, &two] {
            while node.metric("taskflow_bus_up").await? != Some(0.0) {
                if clock::now_ns() - fault > 20 * SECOND_NS {
                    bail!("a node does not notice that Redis is gone");
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            noticed_ms = (clock::now_ns() - fault) as f64 / 1e6;
        }
        sender.await??;
        // What is not there by now does not come by reading the log.
        tokio::time::sleep(Duration::from_secs(4)).await;
        let mut flows_ns = vec![None; FEEDS];
        let mut seen = vec![0_u32; changes as usize];
        let mut arrivals = board.take_every();
        arrivals.sort_unstable_by_key(|(_, at_ns)| *at_ns);
        for (number, at_ns) in arrivals {
            let Some(number) = u64::from(number).checked_sub(first).filter(|number| *number < changes) else {
                continue;
            };
            seen[number as usize] += 1;
            if begin + number * SECOND_NS / CHANGES_A_SECOND > fault {
                flows_ns[number as usize % FEEDS].get_or_insert(at_ns);
            }
        }
        let flows_ms: Vec<f64> = flows_ns
            .into_iter()
            .map(|at_ns| at_ns.map_or(f64::INFINITY, |at_ns| (at_ns - fault) as f64 / 1e6))
            .collect();
        record.rounds.push(
            Round::new(subject, watch.end())
                .figure("noticed_ms", noticed_ms)
                .figure("pushes_flow_ms", stats::quantile(&flows_ms, 1.0))
                .figure(
                    "missed_or_doubled",
                    seen.iter().map(|count| f64::from(count.abs_diff(1))).sum(),
                )
                .figure(
                    "not_accepted",
                    authors.iter().map(Author::not_accepted).sum::<u64>() as f64,
                )
                .samples("first_push_of_each_feed_ms", &flows_ms)
                .void_if_client_was_the_limit(),
        );
        first += changes;
        if signal == Signal::SIGSTOP {
            services.signal_redis(Signal::SIGCONT)?;
        } else {
            services.redis_up()?;
        }
        meet(&[&one, &two], 2.0).await?;
    }
    for task in watched {
        task.abort();
    }
    Ok(())
}

async fn planned_leave(bench: &mut Bench, record: &mut Record, feeds: usize) -> Result<()> {
    let services = Services::start(bench, 1)?;
    let one = Rc::new(services.node(bench, "one").await?);
    let mut two = services.node(bench, "two").await?;
    let users = one.users_with_feeds(bench, feeds).await?;
    meet(&[&one, &two], 2.0).await?;
    let load = Load::sign_in(&one, &users).await?;
    let mut first = 0;
    for _ in 0..bench.rounds(3) {
        // All of them are in memory where they are hosted.
        load.run(first, feeds as u64, 800).await?;
        if load.rest(Duration::from_secs(30)).await > 0 {
            bail!("not every feed could be woken");
        }
        first += feeds as u64;
        load.take_answers();
        let hosted = two.metric("taskflow_feeds_running").await?.context("feeds running")?;
        bench.quiet().await;
        let watch = Watch::begin(&[one.process.pid(), two.process.pid()]);
        load.run(first, CHANGES_A_SECOND * 3, CHANGES_A_SECOND).await?;
        two.process.ask_to_stop();
        let left = clock::now_ns();
        first += CHANGES_A_SECOND * 3;
        load.run(first, CHANGES_A_SECOND * 10, CHANGES_A_SECOND).await?;
        first += CHANGES_A_SECOND * 10;
        let unanswered = load.rest(Duration::from_secs(30)).await;
        let seen = watch.end();
        let answers = load.take_answers();
        let (after, before): (Vec<Answer>, Vec<Answer>) = answers.iter().partition(|answer| answer.due_ns >= left);
        let refused = answers.iter().filter(|answer| !answer.is_accepted).count();
        record.rounds.push(
            Round::new("planned leave", seen)
                .figure("feeds_there", hosted)
                .figure("before_p99_ms", stats::quantile(&took_ms(&before), 0.99))
                .figure("p99_ms", stats::quantile(&took_ms(&after), 0.99))
                .figure("max_ms", stats::quantile(&took_ms(&after), 1.0))
                .figure("errors", (unanswered + refused) as f64)
                .samples("took_ms", &took_ms(&after))
                .void_if_client_was_the_limit(),
        );
        // It ends by itself.
        two.process.stop();
        two.start_again(bench)?;
        two.wait_until_ready().await?;
        meet(&[&one, &two], 2.0).await?;
    }
    Ok(())
}

async fn come_back_to_two(bench: &mut Bench, record: &mut Record, clients: usize) -> Result<()> {
    let services = Services::start(bench, 1)?;
    let one = Rc::new(services.node(bench, "one").await?);
    let two = Rc::new(services.node(bench, "two").await?);
    let mut three = services.node(bench, "three").await?;
    let users = Rc::new(one.users(bench, clients)?);
    for round in 0..bench.rounds(3) {
        meet(&[&one, &two, &three], 3.0).await?;
        let third = Rc::new(three);
        let (sockets, cursors) = follow_all(&third, &users).await?;
        let board = Board::new();
        let watching = board.watch_all(sockets)?;
        change_each(&one, users.clone(), round).await?;
        bench.quiet().await;
        three = Rc::into_inner(third).context("nobody dials any more")?;
        let watch = Watch::begin(&[one.process.pid(), two.process.pid()]);
        three.process.kill();
        let both = Rc::new(vec![one.clone(), two.clone()]);
        let returned = come_back(both, users.clone(), Rc::new(cursors), Duration::from_secs(60)).await?;
        let seen = watch.end();
        watching.abort();
        let current_s: Vec<f64> = returned.iter().map(|client| client.current_s).collect();
        let wrong = returned
            .into_iter()
            .filter(|client| client.check(round).is_err())
            .count();
        record.rounds.push(
            Round::new("come back", seen)
                .figure("all_current_s", stats::quantile(&current_s, 1.0))
                .figure("wrong", wrong as f64)
                .samples(
                    "current_s",
                    &current_s.iter().copied().step_by(10).collect::<Vec<f64>>(),
                ),
        );
        three.start_again(bench)?;
        three.wait_until_ready().await?;
    }
    Ok(())
}

async fn database_hung(bench: &mut Bench, record: &mut Record) -> Result<()> {
    const FEEDS: usize = 64;
    let services = Services::start(bench, 3)?;
    let one = Rc::new(services.node(bench, "one").await?);
    let two = services.node(bench, "two").await?;
    let users = one.users_with_feeds(bench, FEEDS).await?;
    meet(&[&one, &two], 2.0).await?;
    let load = Load::sign_in(&one, &users).await?;
    let mut first = 0;
    for round in 0..bench.rounds(3) {
        bench.quiet().await;
        load.run(first, CHANGES_A_SECOND * 3, CHANGES_A_SECOND).await?;
        first += CHANGES_A_SECOND * 3;
        load.rest(Duration::from_secs(10)).await;
        load.take_answers();
        let watch = Watch::begin(&[one.process.pid(), two.process.pid()]);
        let node = 1 + round % 3;
        services.signal_database(node, Signal::SIGSTOP)?;
        load.run(first, CHANGES_A_SECOND * 10, CHANGES_A_SECOND).await?;
        first += CHANGES_A_SECOND * 10;
        services.signal_database(node, Signal::SIGCONT)?;
        load.run(first, CHANGES_A_SECOND * 3, CHANGES_A_SECOND).await?;
        first += CHANGES_A_SECOND * 3;
        let unanswered = load.rest(Duration::from_secs(30)).await;
        let answers = load.take_answers();
        let refused = answers.iter().filter(|answer| !answer.is_accepted).count();
        let took_ms = took_ms(&answers);
        record.rounds.push(
            Round::new("database hung", watch.end())
                .figure("longest_gap_ms", longest_gap_ms(&answers))
                .figure("longest_answer_ms", stats::quantile(&took_ms, 1.0))
                .figure("p99_ms", stats::quantile(&took_ms, 0.99))
                .figure("errors", (unanswered + refused) as f64)
                .samples("took_ms", &took_ms)
                .void_if_client_was_the_limit(),
        );
    }
    Ok(())
}

fn report(record: &mut Record) {
    let less = |what: &str, unit: &str, subject: &str, figure: &str, at_least: f64, aim: f64| {
        record
            .measure(what, unit, Better::Less, subject, figure)
            .asked(at_least, aim)
    };
    let measures = vec![
        less(
            "Redis killed: until both nodes have noticed",
            "ms",
            "redis killed",
            "noticed_ms",
            5_000.0,
            2_000.0,
        ),
        less(
            "Redis stopped: until both nodes have noticed",
            "ms",
            "redis stopped",
            "noticed_ms",
            5_000.0,
            2_000.0,
        ),
        less(
            "Redis killed: until pushes of all feeds flow by reading the log",
            "ms",
            "redis killed",
            "pushes_flow_ms",
            7_000.0,
            3_000.0,
        ),
        less(
            "Redis stopped: until pushes of all feeds flow by reading the log",
            "ms",
            "redis stopped",
            "pushes_flow_ms",
            7_000.0,
            3_000.0,
        ),
        less(
            "changes missed or doubled meanwhile, Redis killed",
            "changes",
            "redis killed",
            "missed_or_doubled",
            0.0,
            0.0,
        ),
        less(
            "changes missed or doubled meanwhile, Redis stopped",
            "changes",
            "redis stopped",
            "missed_or_doubled",
            0.0,
            0.0,
        ),
        less(
            "planned leave of a node with half of 10,000 active feeds, 200 changes a second: p99 of an answer in the ten seconds after",
            "ms",
            "planned leave",
            "p99_ms",
            500.0,
            100.0,
        ),
        less(
            "errors and missing answers meanwhile",
            "answers",
            "planned leave",
            "errors",
            0.0,
            0.0,
        ),
        record.measure(
            "feeds in memory of the node that left",
            "feeds",
            Better::More,
            "planned leave",
            "feeds_there",
        ),
        record.measure(
            "p99 of an answer before it left",
            "ms",
            Better::Less,
            "planned leave",
            "before_p99_ms",
        ),
        less(
            "one database node of three hung, 200 changes a second: longest time without an answer to anyone",
            "ms",
            "database hung",
            "longest_gap_ms",
            3_000.0,
            1_500.0,
        ),
        less(
            "the same: the answer that took longest",
            "ms",
            "database hung",
            "longest_answer_ms",
            3_000.0,
            1_500.0,
        ),
        less(
            "errors and missing answers meanwhile, database hung",
            "answers",
            "database hung",
            "errors",
            0.0,
            0.0,
        ),
        less(
            "10,000 clients come back to two nodes after the third was killed, two missed changes each: until all are current",
            "s",
            "come back",
            "all_current_s",
            20.0,
            8.0,
        ),
        less(
            "of these with something missing, doubled or wrong",
            "clients",
            "come back",
            "wrong",
            0.0,
            0.0,
        ),
    ];
    record.measures = measures;
}
