//! What `taskflow-loadtest compare` does, with servers of its own, whose CPU is counted.

use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context, Result};
use nix::unistd::Pid;

use crate::compare::{self, Load, PERSONAL_SCREENS, Part, Rival};
use crate::load::target::Target;
use crate::load::users::User;
use crate::process::pin_this_thread;
use crate::record::Record;
use crate::server::Bench;
use crate::server::centrifugo::{API_KEY, Centrifugo, HISTORY};
use crate::server::pocketbase::PocketBase;
use crate::server::taskflow::{Setup, TaskFlow};

const SERVER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;
/// A client that sends later than this after the due time, in one case of a hundred, measures itself.
const LATE_MS_MAX: f64 = 5.0;

/// Runs the scenario.
pub async fn run(bench: &mut Bench, record: &mut Record) -> Result<()> {
    let (seconds, screens, users) = bench.size((5.0, 200, 100), (1.0, 20, 10));
    let (requests, changes) = (100.0, 10.0);
    record.about = format!(
        "The same client, open loop, {seconds} s a turn, one server after the other: {requests} pages of 50 tasks a second; {requests} \
         creates a second; {changes} changes a second that each go to {screens} screens; {requests} changes a second that each go to the \
         {PERSONAL_SCREENS} screens of one of {users} users. Changes are made over HTTP, pushes come over WebSockets (PocketBase: \
         server-sent events). All times run from when something was due. Ratios are theirs by TaskFlow's, within a round. Server on \
         core {SERVER_CORE}, client on core {CLIENT_CORE}."
    );
    let core = Some(SERVER_CORE);
    let pocketbase = PocketBase::start(bench, core, 1).await?;
    let centrifugo = Centrifugo::start(bench, core).await?;
    let setup = Setup {
        core,
        ..Setup::default()
    };
    let setup = setup.with("connections_a_user_max", screens as i64 + 8);
    let taskflow = TaskFlow::start(bench, setup).await?;
    let minted = taskflow.users(bench, 1 + users)?;
    let minted = minted.into_iter().map(|user| User {
        id: user.id,
        token: user.token,
    });
    let token = pocketbase
        .users
        .first()
        .context("one user was asked for")?
        .token
        .clone();
    let bare = Rival::centrifugo(target(centrifugo.address)?, API_KEY.to_owned(), None, None);
    let kept = Rival::centrifugo(
        target(centrifugo.address)?,
        API_KEY.to_owned(),
        None,
        Some(HISTORY.to_owned()),
    );
    let all = [
        (
            Rival::taskflow(target(taskflow.address)?, minted.collect()),
            taskflow.process.pid(),
        ),
        (
            Rival::pocketbase(target(pocketbase.address)?, token, "tasks".to_owned()),
            pocketbase.process.pid(),
        ),
        (bare, centrifugo.process.pid()),
        (kept, centrifugo.process.pid()),
    ];
    let subjects: Vec<(Rc<Rival>, Option<Pid>)> = all
        .into_iter()
        .map(|(rival, pid)| (Rc::new(rival), Some(pid)))
        .collect();
    for (rival, _) in &subjects {
        rival.check().await?;
        rival.fill().await?;
        record.notes.push(rival.what_it_is());
    }
    record.notes.push(
        "PocketBase runs with synchronous=FULL here, so that an answer means durable with both. Centrifugo keeps its history in memory. \
         Vikunja's server is not to be had by a package registry, and is not compared."
            .to_owned(),
    );
    let load = Load {
        part: Part::Page,
        rate: requests,
        seconds,
        groups: 1,
        screens,
        seed: bench.seed,
        late_ms_max: LATE_MS_MAX,
    };
    let parts = [
        load,
        Load {
            part: Part::Create,
            ..load
        },
        Load {
            part: Part::Fanout,
            rate: changes,
            ..load
        },
        Load {
            part: Part::Personal,
            groups: users,
            screens: PERSONAL_SCREENS,
            ..load
        },
    ];
    pin_this_thread(Some(CLIENT_CORE))?;
    let foreign_percent_max = bench.foreign_percent_max;
    for round in 0..bench.rounds(5) {
        for part in &parts {
            bench.quiet().await;
            let judge = |round: crate::record::Round| round.void_if_others_used_more_than(foreign_percent_max);
            compare::turn(record, part, subjects.clone(), round, judge).await?;
        }
    }
    let rivals: Vec<_> = subjects.into_iter().map(|(rival, _)| rival).collect();
    compare::measures(record, &rivals, &parts.map(|load| load.part));
    Ok(())
}

fn target(address: SocketAddr) -> Result<Target> {
    Ok(Target::new(&format!("http://{address}"), None, &[])?)
}
