//! One generator: a process with one thread, whose CPU is then one number. It is told what to do on standard input, and says
//! on standard output what it did.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use taskflow_protocol::TaskId;
use taskflow_protocol::values::Seq;
use tokio::sync::Notify;
use tokio::task::LocalSet;

use super::acts;
use super::arrivals::Arrivals;
use super::plan::{Line, Order, Plan, Report};
use super::scenario::act_at;
use super::tally::{Count, Timed};
use super::world::World;
use crate::clock::{self, Pacer};

/// After the ramp, until all screens must be current.
const CONNECTING_MAX: Duration = Duration::from_secs(30);
/// Then, for what comes though it has come already.
const DOUBLES_WAIT: Duration = Duration::from_millis(200);
/// Between two looks at how late the client is.
const LOOK_NS: u64 = 20_000_000;
/// What is older and on all screens is forgotten.
const FORGET_NS: u64 = 60_000_000_000;
/// Feeds that are read back at a time.
const READING_BACK: usize = 16;
const SECOND_NS: u64 = 1_000_000_000;

/// Does what it is told; what it cannot do, it says.
pub fn main() -> Result<()> {
    let mut told = std::io::stdin().lock();
    let mut first = String::new();
    told.read_line(&mut first)?;
    let plan: Plan = serde_json::from_str(&first).context("the first line is no plan")?;
    drop(told);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        match World::new(plan) {
            Ok(world) => generate(world).await,
            Err(trouble) => say(&Line::Trouble(trouble.0)),
        }
    })
}

fn say(line: &Line) -> Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&text)?;
    Ok(out.flush()?)
}

async fn generate(world: Rc<World>) -> Result<()> {
    let stop = Rc::new(Notify::new());
    tokio::task::spawn_local(interrupts(stop.clone()));
    if let Err(sentence) = connect_all(&world).await? {
        return say(&Line::Trouble(sentence));
    }
    say(&Line::Ready)?;
    let order = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let Order::Begin(begin_ns) = serde_json::from_str(&order.await??).context("no order came")?;
    let mut report = load(&world, begin_ns, &stop).await?;
    say(&Line::Checking)?;
    settle(&world).await;
    report.unchecked = read_back(&world).await;
    let meter = world.meter.take();
    report.tally = meter.finish();
    say(&Line::Report(report))
}

/// The first Ctrl-C ends the load, the second one everything.
async fn interrupts(stop: Rc<Notify>) {
    for last in [false, true] {
        if tokio::signal::ctrl_c().await.is_err() {
            return;
        }
        if last {
            std::process::exit(2);
        }
        stop.notify_one();
    }
}

/// All screens, one after the other as the ramp says; why not, if not all of them are current in time.
async fn connect_all(world: &Rc<World>) -> Result<Result<(), String>> {
    let (begin, screens) = (clock::now_ns(), &world.screens);
    for (index, screen) in screens.iter().enumerate() {
        let after = world.plan.ramp * index as f64 / screens.len() as f64;
        let live = screen.clone().live(world.clone(), begin + (after * 1e9) as u64);
        tokio::task::spawn_local(live);
    }
    let deadline = begin + (world.plan.ramp * 1e9) as u64 + CONNECTING_MAX.as_nanos() as u64;
    let wanted = screens.len() as u64;
    let mut tick = 0;
    while world.up.get() < wanted {
        if tick % 20 == 0 {
            say(&Line::Connecting(world.up.get()))?;
        }
        tick += 1;
        let is_refused = screens.iter().any(|screen| screen.is_refused());
        if is_refused || clock::now_ns() > deadline {
            let meter = world.meter.borrow();
            let why = meter.worst_error().unwrap_or("The server does not answer in time.");
            return Ok(Err(format!(
                "{} of {wanted} connections came about. {why}",
                world.up.get()
            )));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(Ok(()))
}

/// The load itself, from its first to its last second.
async fn load(world: &Rc<World>, begin_ns: u64, stop: &Notify) -> Result<Report> {
    let end_ns = begin_ns + (world.plan.seconds * 1e9) as u64;
    let arrivals = tokio::task::spawn_local(act(world.clone(), begin_ns, end_ns));
    let storms = tokio::task::spawn_local(storms(world.clone(), begin_ns, end_ns));
    let mut pacer = Pacer::new()?;
    pacer.until(begin_ns).await?;
    world.meter.borrow_mut().forget_second();
    for screen in &world.screens {
        screen.read_slowly(true);
    }
    let mut report = Report {
        began: clock::unix_seconds(),
        ..Report::default()
    };
    let (cpu_ns, mut due_ns) = (clock::thread_cpu_ns(), begin_ns);
    let mut second_ends_ns = begin_ns + SECOND_NS;
    while due_ns < end_ns && !report.interrupted {
        due_ns = end_ns.min(due_ns + LOOK_NS);
        tokio::select! {
            waited = pacer.until(due_ns) => waited?,
            () = stop.notified() => report.interrupted = true,
        }
        world.time(Timed::Late, due_ns);
        // What is left over at the end is a second, too, if it is half of one.
        let is_last = due_ns == end_ns && second_ends_ns - end_ns < SECOND_NS / 2;
        if due_ns >= second_ends_ns || is_last {
            say(&Line::Second(
                world.meter.borrow_mut().end_second(world.up.get()).clone(),
            ))?;
            second_ends_ns += SECOND_NS;
            forget(world, due_ns);
        }
    }
    let elapsed_ns = (clock::now_ns() - begin_ns).max(1);
    report.cpu_percent = (clock::thread_cpu_ns() - cpu_ns) as f64 / elapsed_ns as f64 * 100.0;
    arrivals.abort();
    storms.abort();
    Ok(report)
}

/// What is due is begun, whatever became of what was due before.
async fn act(world: Rc<World>, begin_ns: u64, end_ns: u64) -> std::io::Result<()> {
    let mix = world.plan.scenario.shape().mix;
    let places: u32 = mix.iter().map(|(_, weight)| weight).sum();
    let mut pacer = Pacer::new()?;
    for after_ns in Arrivals::new(world.plan.rate, world.plan.seed) {
        let due_ns = begin_ns + after_ns;
        if due_ns >= end_ns {
            break;
        }
        pacer.until(due_ns).await?;
        world.time(Timed::Late, due_ns);
        if let Some(act) = act_at(mix, world.below(places as usize) as u32) {
            acts::begin(&world, act, due_ns);
        }
    }
    Ok(())
}

/// All connections are dropped at once: first after half of the interval, or of the load if that is shorter.
async fn storms(world: Rc<World>, begin_ns: u64, end_ns: u64) -> std::io::Result<()> {
    let Some(every) = world.plan.scenario.shape().storm_every else {
        return Ok(());
    };
    let every_ns = (every.min(world.plan.seconds) * 1e9) as u64;
    let mut pacer = Pacer::new()?;
    let mut due_ns = begin_ns + every_ns / 2;
    while due_ns < end_ns {
        pacer.until(due_ns).await?;
        for screen in &world.screens {
            screen.drop_connection(due_ns);
        }
        due_ns += every_ns;
    }
    Ok(())
}

/// Keeps a long run's memory as it is.
fn forget(world: &World, now_ns: u64) {
    let mut shown = vec![Seq::MAX; world.feeds.len()];
    for screen in &world.screens {
        let position = screen.sequence.borrow().position;
        shown[screen.user] = position.min(shown[screen.user]);
    }
    for (feed, shown) in world.feeds.iter().zip(shown) {
        feed.borrow_mut().forget(now_ns.saturating_sub(FORGET_NS), shown);
    }
}

/// Waits for what is under way; what has not come by then does not come.
async fn settle(world: &World) {
    let deadline = clock::now_ns() + (world.plan.settle * 1e9) as u64;
    for screen in &world.screens {
        screen.read_slowly(false);
    }
    while !is_settled(world) && clock::now_ns() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(DOUBLES_WAIT).await;
    world.is_over.set(true);
    let mut meter = world.meter.borrow_mut();
    let unanswered: u64 = world.screens.iter().map(|screen| screen.unanswered()).sum();
    meter.count_many(Count::Unanswered, unanswered + world.under_way.get());
    for screen in &world.screens {
        let acknowledged = world.feeds[screen.user].borrow().acknowledged;
        meter.count_many(Count::Lost, screen.sequence.borrow().behind(acknowledged));
    }
}

fn is_settled(world: &World) -> bool {
    world.under_way.get() == 0
        && world.screens.iter().all(|screen| {
            let acknowledged = world.feeds[screen.user].borrow().acknowledged;
            screen.is_current.get() && screen.unanswered() == 0 && screen.sequence.borrow().behind(acknowledged) == 0
        })
}

/// Reads every feed that was changed by REST, and compares; what could not be read, in a sentence.
async fn read_back(world: &Rc<World>) -> Vec<String> {
    let changed = (0..world.feeds.len()).filter(|user| world.feeds[*user].borrow().has_rows());
    let mut left: Vec<usize> = changed.collect();
    let mut unread = Vec::new();
    while !left.is_empty() {
        let some = left.split_off(left.len().saturating_sub(READING_BACK));
        let reading: Vec<_> = some
            .into_iter()
            .map(|user| {
                let world = world.clone();
                tokio::task::spawn_local(async move { (user, versions(&world, user).await) })
            })
            .collect();
        for read in reading {
            match read.await {
                Ok((user, Ok(versions))) => {
                    let gone = world.feeds[user].borrow().gone(&versions);
                    world.meter.borrow_mut().count_many(Count::Gone, gone);
                }
                Ok((_, Err(why))) => unread.push(why),
                Err(error) => unread.push(error.to_string()),
            }
        }
    }
    let Some(why) = unread.first() else { return Vec::new() };
    vec![format!(
        "{} feeds could not be read back, so it is not known whether what was acknowledged is there. {why}",
        unread.len()
    )]
}

#[derive(Deserialize)]
struct SnapshotLine {
    snapshot: Snapshot,
}

#[derive(Deserialize)]
struct Snapshot {
    #[serde(default)]
    tasks: Vec<Row>,
    done: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Row {
    id: TaskId,
    version: Seq,
}

/// The tasks of a user and their versions, those in the bin included.
async fn versions(world: &World, user: usize) -> Result<HashMap<TaskId, Seq>, String> {
    let token = Some(world.plan.users[user].token.as_str());
    let answer = world.request("GET", "/api/v1/snapshot", token, "", "").await;
    let answer = answer.map_err(|error| world.target.sentence(&error))?;
    if answer.status != 200 {
        return Err(format!("The server answered {}.", answer.status));
    }
    let (mut versions, mut is_whole) = (HashMap::new(), false);
    for line in answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let piece: SnapshotLine =
            serde_json::from_slice(line).map_err(|error| format!("A snapshot cannot be read: {error}."))?;
        versions.extend(piece.snapshot.tasks.into_iter().map(|task| (task.id, task.version)));
        is_whole = piece.snapshot.done.is_some();
    }
    is_whole
        .then_some(versions)
        .ok_or_else(|| "A snapshot was cut off.".to_owned())
}
