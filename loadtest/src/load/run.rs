//! Plans a run, starts its generators, shows what they say, and judges what they found.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use taskflow_protocol::codec::Encoding;
use taskflow_protocol::message::{ServerMessage, Welcome};

use super::options::{Merge, Run};
use super::outcome::{Outcome, Settings, Versions};
use super::plan::{Line, Order, Plan, Report};
use super::tally::Second;
use super::target::{Target, Trouble};
use super::users::{self, Account, REGISTERED_MAX, User};
use super::view::View;
use crate::clock;
use crate::server::taskflow::hello;

/// From the order to the first second of the load: enough for all generators to read it.
const BEGIN_AFTER_NS: u64 = 100_000_000;
/// What a token must be good for beyond the ramp and the load: connecting and settling take their time.
const TOKEN_SECONDS_LEFT: f64 = 60.0;
/// People who sign in again and again.
const ACCOUNTS: usize = 4;
/// What is said when the load begins.
pub const ALL_CONNECTED: &str = "are connected, and that is all of them.";
const WELCOME_PATIENCE: Duration = Duration::from_secs(10);

/// Runs a scenario: what the process ends with.
pub fn run(options: &Run) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Ctrl-C is for the generators, who get it, too: they end the load, and what they found is still judged.
    let _interrupts =
        runtime.block_on(async { tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()) })?;
    let (plans, settings, welcome) = runtime.block_on(plan(options))?;
    let reports = generate(&plans, settings.seconds)?;
    let versions = Versions {
        loadtest: env!("CARGO_PKG_VERSION").to_owned(),
        server: welcome.build,
        protocol: welcome.version,
    };
    let outcome = Outcome::new(
        options.scenario,
        options.url.clone(),
        settings,
        versions,
        reports,
        options.threshold.clone(),
    );
    println!("{}", outcome.summary());
    outcome.save(&options.out())?;
    Ok(outcome.verdict.exit_code())
}

/// Merges files: what the process ends with.
pub fn merge(options: &Merge) -> Result<u8> {
    let outcomes: Result<Vec<_>, _> = options.files.iter().map(|path| Outcome::load(path)).collect();
    let whole = Outcome::merge(outcomes?, options.threshold.clone())?;
    println!("{}", whole.summary());
    whole.save(&options.out)?;
    Ok(whole.verdict.exit_code())
}

async fn plan(options: &Run) -> Result<(Vec<Plan>, Settings, Welcome)> {
    let target = Target::new(&options.url, options.ca.as_deref(), &options.source)?;
    let known = options.tokens.as_deref().map(users::read).transpose()?;
    let users_max = known.as_ref().map_or(REGISTERED_MAX, Vec::len);
    let shape = options.shape(users_max)?;
    options.check_machine(shape.connections)?;
    let (mut users, mut accounts) = (Vec::new(), Vec::new());
    if let Some(known) = known {
        users = known;
        users.truncate(shape.users);
        if options.signs_in() {
            accounts = users::register(&target, ACCOUNTS).await?;
        }
    } else {
        accounts = users::register(&target, shape.users).await?;
        users.extend(accounts.iter().map(|(_, user)| user.clone()));
    }
    let accounts: Vec<Account> = match options.signs_in() {
        true => accounts.into_iter().map(|(account, _)| account).collect(),
        false => Vec::new(),
    };
    let welcome = welcome(&target, &users[0]).await?;
    let good_for = (welcome.token_expires_at as f64 - welcome.time as f64) / 1e3;
    let needed = options.ramp + shape.seconds + TOKEN_SECONDS_LEFT;
    if good_for < needed {
        bail!(Trouble(format!(
            "The tokens are good for {good_for:.0} s more, and the run takes {needed:.0}: make some with taskflow token \
             --count N --seconds {:.0} and give them with --tokens.",
            needed + 600.0
        )));
    }
    let settings = Settings {
        users: users.len(),
        connections: shape.connections,
        rate: shape.rate,
        seconds: shape.seconds,
        ramp: options.ramp,
        generators: options.generators,
        seed: options.seed,
        late_ms_max: options.late_ms_max,
    };
    let plans = split(users.len(), shape.connections, options.generators);
    let mut users = users.into_iter();
    let plans = plans.enumerate().map(|(number, (its_users, its_connections))| Plan {
        scenario: options.scenario,
        url: options.url.clone(),
        ca: options.ca.clone(),
        sources: options.source.clone(),
        users: users.by_ref().take(its_users).collect(),
        accounts: accounts.clone(),
        connections: its_connections,
        rate: shape.rate * its_users as f64 / settings.users as f64,
        seconds: shape.seconds,
        ramp: options.ramp,
        settle: options.settle,
        seed: options.seed.wrapping_add(number as u64),
    });
    Ok((plans.collect(), settings, welcome))
}

/// Users and connections of each generator: whole users, with all their connections.
fn split(users: usize, connections: usize, generators: usize) -> impl Iterator<Item = (usize, usize)> {
    // The connections are the users' in turn.
    let of_user = move |user: usize| connections / users + usize::from(user < connections % users);
    (0..generators).map(move |number| {
        let (first, end) = (number * users / generators, (number + 1) * users / generators);
        (end - first, (first..end).map(of_user).sum())
    })
}

/// Connects once as a user does, so that what is wrong is said before anything is loaded.
pub async fn welcome(target: &Target, user: &User) -> Result<Welcome> {
    let link = target.open(0).await.map_err(|error| Trouble(target.sentence(&error)))?;
    link.send(&hello(&user.token, None));
    let first = tokio::time::timeout(WELCOME_PATIENCE, link.first())
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(|error| Trouble(target.sentence(&error)))?;
    match Encoding::Json.decode_server(&first) {
        Ok(Some(ServerMessage::Welcome(welcome))) => Ok(welcome),
        Ok(Some(ServerMessage::Error(error))) => bail!(Trouble(format!(
            "The server refuses the token of user {} ({}): make new ones with taskflow token --count N, with the data \
             folder and keys of this very server.",
            user.id, error.name
        ))),
        _ => bail!(Trouble(format!(
            "{} does not answer as a TaskFlow server of this version: {}",
            target.host,
            String::from_utf8_lossy(&first).chars().take(200).collect::<String>()
        ))),
    }
}

/// A generator that runs. Killed when dropped.
struct Generator {
    child: Child,
    told: ChildStdin,
}

impl Generator {
    fn start(number: usize, plan: &Plan, heard: &mpsc::Sender<(usize, Option<Line>)>) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("generate")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("a generator cannot be started")?;
        let told = child.stdin.take().context("it has an input")?;
        let says = child.stdout.take().context("it has an output")?;
        let heard = heard.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(says).lines().map_while(Result::ok) {
                if let Ok(line) = serde_json::from_str(&line) {
                    let _ = heard.send((number, Some(line)));
                }
            }
            let _ = heard.send((number, None));
        });
        let mut generator = Self { child, told };
        generator.tell(plan)?;
        Ok(generator)
    }

    fn tell<T: Serialize>(&mut self, what: &T) -> Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        self.told.write_all(&line)?;
        Ok(self.told.flush()?)
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        // It is no error if it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs all generators at the same time; what each of them found.
fn generate(plans: &[Plan], seconds: f64) -> Result<Vec<Report>> {
    let count = plans.len();
    let connections: usize = plans.iter().map(|plan| plan.connections).sum();
    let (say, heard) = mpsc::channel();
    let mut generators = Vec::with_capacity(count);
    for (number, plan) in plans.iter().enumerate() {
        generators.push(Generator::start(number, plan, &say)?);
    }
    drop(say);
    let mut view = View::new(seconds.round() as usize);
    let (mut connecting, mut ready, mut checking) = (vec![0; count], 0, 0);
    let mut shown = Seconds::new(count);
    let mut reports: Vec<Option<Report>> = vec![None; count];
    while let Ok((number, line)) = heard.recv() {
        match line {
            Some(Line::Connecting(up)) => {
                connecting[number] = up;
                let up: u64 = connecting.iter().sum();
                view.say_for_now(&format!("Connecting: {up} of {connections}"));
            }
            Some(Line::Ready) => {
                ready += 1;
                if ready == count {
                    view.say(&format!("{connections} {ALL_CONNECTED}"));
                    let begin = Order::Begin(clock::now_ns() + BEGIN_AFTER_NS);
                    for generator in &mut generators {
                        generator.tell(&begin)?;
                    }
                }
            }
            Some(Line::Second(second)) => {
                for (index, second) in shown.add(number, &second) {
                    view.second(index, &second);
                }
            }
            Some(Line::Checking) => {
                checking += 1;
                if checking == count {
                    view.say("Waiting for what is under way, and reading back.");
                }
            }
            Some(Line::Report(report)) => reports[number] = Some(report),
            Some(Line::Trouble(sentence)) => {
                view.finish();
                bail!(Trouble(sentence));
            }
            None if reports[number].is_none() => {
                view.finish();
                bail!("a generator ended before it was done");
            }
            None => {}
        }
    }
    view.finish();
    Ok(reports.into_iter().flatten().collect())
}

/// Puts the seconds of all generators together.
struct Seconds {
    /// How many each has sent.
    sent: Vec<usize>,
    /// Those that not all have sent, the first of which is `first`.
    open: Vec<Second>,
    first: usize,
}

impl Seconds {
    fn new(generators: usize) -> Self {
        Self {
            sent: vec![0; generators],
            open: Vec::new(),
            first: 0,
        }
    }

    /// The seconds that are whole now.
    fn add(&mut self, generator: usize, second: &Second) -> Vec<(usize, Second)> {
        let place = self.sent[generator] - self.first;
        self.sent[generator] += 1;
        if self.open.len() == place {
            self.open.push(Second::default());
        }
        self.open[place].add(second);
        let whole = self.sent.iter().min().map_or(0, |all| all - self.first);
        let begin = self.first;
        self.first += whole;
        self.open
            .drain(..whole)
            .enumerate()
            .map(|(index, second)| (begin + index, second))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(users: usize, connections: usize, generators: usize, expect: &[(usize, usize)]) {
        let got: Vec<_> = split(users, connections, generators).collect();
        assert_eq!(got, expect);
    }

    #[test]
    fn a_generator_has_whole_users_and_all_their_connections() {
        check(1, 60, 1, &[(1, 60)]);
        check(3, 8, 2, &[(1, 3), (2, 5)]);
        check(4, 8, 3, &[(1, 2), (1, 2), (2, 4)]);
    }

    #[test]
    fn a_second_is_whole_when_the_last_generator_has_sent_it() {
        let mut seconds = Seconds::new(2);
        let of = |connections| Second {
            connections,
            ..Second::default()
        };
        assert_eq!(seconds.add(0, &of(1)), []);
        assert_eq!(seconds.add(0, &of(2)), []);
        assert_eq!(seconds.add(1, &of(10)), [(0, of(11))]);
        assert_eq!(seconds.add(1, &of(20)), [(1, of(22))]);
        assert_eq!(seconds.add(1, &of(30)), []);
    }
}
