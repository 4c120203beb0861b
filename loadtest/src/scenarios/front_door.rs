//! Signing in beside the pushes: a storm of sign-ins, and how fast a sign-out closes what is open.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::latency::Load;
use super::open_many;
use crate::board::Board;
use crate::clock::{self, Pacer};
use crate::machine::Watch;
use crate::net::http::Http;
use crate::net::socket::Event;
use crate::process::pin_this_thread;
use crate::record::{Better, Record, Round};
use crate::server::taskflow::{Author, Setup, TaskFlow};
use crate::server::{Bench, User};
use crate::stats;

const FOLLOWERS: usize = 50;
const CHANGES_A_SECOND: u64 = 200;
const SIGN_INS_A_SECOND: u64 = 200;
/// Who signs in, one after the other.
const ACCOUNTS: usize = 8;
/// Connections that sign-ins use: at most so many are under way.
const CONNECTIONS: usize = 512;
/// Sign-ins that are ended in a round, and sockets that each has open.
const SIGN_OUTS: usize = 40;
const SOCKETS: usize = 5;
const SIGN_OUTS_A_SECOND: u64 = 10;
const SERVER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;

const CALM: &str = "pushes alone";
const STORM: &str = "pushes beside the storm";
const SIGN_OUT: &str = "sign-outs";

const PASSWORD: &str = "correct horse battery staple";

/// Runs the scenario.
pub async fn run(bench: &mut Bench, record: &mut Record) -> Result<()> {
    let seconds = bench.size(10, 2);
    record.about = format!(
        "One client changes a task {CHANGES_A_SECOND} times a second, {FOLLOWERS} others follow: alone, and while \
         {SIGN_INS_A_SECOND} sign-ins a second are offered with the passwords of {ACCOUNTS} accounts, {seconds} s a round each. \
         Then {SIGN_OUTS} sign-ins, each with {SOCKETS} sockets open, are ended, {SIGN_OUTS_A_SECOND} a second: the time runs \
         from when the request was due to the close frame of each socket. Open loop. Server on core {SERVER_CORE}, client on \
         core {CLIENT_CORE}."
    );
    let setup = Setup {
        core: Some(SERVER_CORE),
        ..Setup::default()
    };
    let setup = setup.with("sign_in_attempts_max", 0);
    let server = Rc::new(TaskFlow::start(bench, setup).await?);
    let mut http = Http::connect(server.dial(0)).await?;
    for number in 0..ACCOUNTS {
        opened(&mut http, "register", number).await?;
    }
    let user = server.users_with_feeds(bench, 1).await?;
    let user = user.into_iter().next().context("one user was asked for")?;
    let author = Author::sign_in(&server, &user).await?;
    let board = Board::of_every_arrival();
    let dialled = server.clone();
    let sockets = open_many(FOLLOWERS, 16, move |number| {
        let (server, user) = (dialled.clone(), user.clone());
        async move { Ok(server.follow(server.dial(number), &user).await?.0) }
    })
    .await?;
    for socket in sockets {
        board.watch(socket);
    }
    pin_this_thread(Some(CLIENT_CORE))?;
    let mut first = 0;
    for round in 0..bench.rounds(5) {
        let mut order = [CALM, STORM];
        if round % 2 == 1 {
            order.reverse();
        }
        for subject in order {
            bench.quiet().await;
            let watch = Watch::begin(&[server.process.pid()]);
            let storm = (subject == STORM).then(|| tokio::task::spawn_local(storm(server.clone(), seconds)));
            let load = Load::run(&author, &board, first, CHANGES_A_SECOND * seconds, CHANGES_A_SECOND).await?;
            let tally = match storm {
                Some(storm) => storm.await??,
                None => Tally::default(),
            };
            let seen = watch.end();
            first = load.next();
            let round = Round::new(subject, seen)
                .figure("p50_ms", stats::quantile_of_sorted(&load.every_ms, 0.5))
                .figure("p99_ms", stats::quantile_of_sorted(&load.every_ms, 0.99))
                .figure("max_ms", stats::quantile_of_sorted(&load.every_ms, 1.0))
                .figure("missed", load.missed(FOLLOWERS) as f64)
                .figure("not_accepted", author.not_accepted() as f64)
                .figure("signed_in_a_second", tally.took_ms.len() as f64 / seconds as f64)
                .figure("told_to_come_back_a_second", tally.busy as f64 / seconds as f64)
                .figure("late_p99_ms", load.late_p99_ms)
                .samples("last_screen_ms", &load.last_ms(FOLLOWERS))
                .void_if_others_used_more_than(bench.foreign_percent_max)
                .void_if_client_was_the_limit()
                .void_if(load.sent_late());
            record.rounds.push(match subject {
                STORM => round.figure("sign_in_p50_ms", stats::median(&tally.took_ms)),
                _ => round,
            });
        }
        bench.quiet().await;
        let round = sign_outs(&server).await?;
        record
            .rounds
            .push(round.void_if_others_used_more_than(bench.foreign_percent_max));
    }
    report(record);
    Ok(())
}

fn email(number: usize) -> String {
    format!("account{number}@example.org")
}

/// What a password opens: the user, and the refresh token.
async fn opened(http: &mut Http, how: &str, number: usize) -> Result<(User, String)> {
    let body = format!(r#"{{"email":"{}","password":"{PASSWORD}"}}"#, email(number));
    let path = format!("/api/v1/auth/{how}");
    let answer = http.request("POST", &path, None, &body).await?;
    let tokens: Value = serde_json::from_slice(&answer.body)?;
    let text = |name: &str| tokens[name].as_str().map(str::to_owned);
    match (text("user"), text("access_token"), text("refresh_token")) {
        (Some(id), Some(token), Some(refresh)) => Ok((User { id, token }, refresh)),
        _ => bail!("{how}: {} {}", answer.status, answer.text()),
    }
}

#[derive(Default)]
struct Tally {
    /// From when they were due, of those that succeeded.
    took_ms: Vec<f64>,
    busy: u64,
    first_error: Option<String>,
}

/// Offers sign-ins at a steady rate, whether answered or not.
async fn storm(server: Rc<TaskFlow>, seconds: u64) -> Result<Tally> {
    let tally = Rc::new(RefCell::new(Tally::default()));
    // In turns: a connection that is not used for five seconds is closed by the server.
    let idle: Rc<RefCell<VecDeque<Http>>> = Rc::default();
    for number in 0..CONNECTIONS {
        let http = Http::connect(server.dial(number)).await?;
        idle.borrow_mut().push_back(http);
    }
    let mut pacer = Pacer::new()?;
    let begin = clock::now_ns();
    let mut running = Vec::new();
    for number in 0..SIGN_INS_A_SECOND * seconds {
        let due = begin + number * 1_000_000_000 / SIGN_INS_A_SECOND;
        pacer.until(due).await?;
        let http = idle.borrow_mut().pop_front();
        let mut http = http.context("no connection is free: the server lets sign-ins wait too long")?;
        let body = format!(
            r#"{{"email":"{}","password":"{PASSWORD}"}}"#,
            email(number as usize % ACCOUNTS)
        );
        let (idle, tally) = (idle.clone(), tally.clone());
        running.push(tokio::task::spawn_local(async move {
            let answer = http.request("POST", "/api/v1/auth/login", None, &body).await?;
            let mut tally = tally.borrow_mut();
            match answer.status {
                200 => tally.took_ms.push((clock::now_ns() - due) as f64 / 1e6),
                503 => tally.busy += 1,
                _ => drop(tally.first_error.get_or_insert_with(|| answer.text())),
            }
            drop(tally);
            idle.borrow_mut().push_back(http);
            Ok::<_, anyhow::Error>(())
        }));
    }
    for sign_in in running {
        sign_in.await??;
    }
    let tally = tally.take();
    match &tally.first_error {
        Some(error) => bail!("a sign-in failed with {error}"),
        None => Ok(tally),
    }
}

async fn sign_outs(server: &Rc<TaskFlow>) -> Result<Round> {
    let mut http = Http::connect(server.dial(0)).await?;
    let mut signed_in = Vec::new();
    for number in 0..SIGN_OUTS {
        let (user, refresh) = opened(&mut http, "login", number % ACCOUNTS).await?;
        let mut sockets = Vec::new();
        for place in 0..SOCKETS {
            sockets.push(server.sign_in(server.dial(place), &user).await?);
        }
        signed_in.push((refresh, sockets));
    }
    let mut pacer = Pacer::new()?;
    let watch = Watch::begin(&[server.process.pid()]);
    let begin = clock::now_ns() + 1_000_000;
    let mut closed = Vec::new();
    for (number, (refresh, sockets)) in (0..).zip(signed_in) {
        let due = begin + number * 1_000_000_000 / SIGN_OUTS_A_SECOND;
        for mut socket in sockets {
            closed.push(tokio::task::spawn_local(async move {
                loop {
                    match tokio::time::timeout(Duration::from_secs(30), socket.next()).await?? {
                        Event::Close(4203, _) => return Ok((clock::now_ns() - due) as f64 / 1e6),
                        Event::Close(code, reason) => bail!("closed with {code} {reason}"),
                        Event::Text(_) => {}
                    }
                }
            }));
        }
        pacer.until(due).await?;
        let body = format!(r#"{{"refresh_token":"{refresh}"}}"#);
        let answer = http.request("POST", "/api/v1/auth/logout", None, &body).await?;
        if answer.status != 204 {
            bail!("a sign-out failed: {} {}", answer.status, answer.text());
        }
    }
    let mut took_ms = Vec::new();
    for socket in closed {
        took_ms.push(socket.await??);
    }
    let seen = watch.end();
    Ok(Round::new(SIGN_OUT, seen)
        .figure("closed", took_ms.len() as f64)
        .figure("p50_ms", stats::median(&took_ms))
        .figure("p99_ms", stats::quantile(&took_ms, 0.99))
        .samples("closed_ms", &took_ms)
        .void_if_client_was_the_limit())
}

fn report(record: &mut Record) {
    let measures = vec![
        record
            .measure(
                "pushes of 200 changes a second beside 200 offered sign-ins a second, p99",
                "ms",
                Better::Less,
                STORM,
                "p99_ms",
            )
            .asked(20.0, 10.0),
        record.measure("the same without sign-ins, p99", "ms", Better::Less, CALM, "p99_ms"),
        record.measure(
            "sign-ins that succeed in the storm",
            "a second",
            Better::More,
            STORM,
            "signed_in_a_second",
        ),
        record.measure(
            "and are told to come back",
            "a second",
            Better::Less,
            STORM,
            "told_to_come_back_a_second",
        ),
        record.measure(
            "a sign-in in the storm, median",
            "ms",
            Better::Less,
            STORM,
            "sign_in_p50_ms",
        ),
        record
            .measure("sign-out to closed socket, p99", "ms", Better::Less, SIGN_OUT, "p99_ms")
            .asked(1_000.0, 100.0),
        record.measure(
            "sign-out to closed socket, median",
            "ms",
            Better::Less,
            SIGN_OUT,
            "p50_ms",
        ),
    ];
    record.measures = measures;
}
