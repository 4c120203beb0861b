//! `compare`: TaskFlow beside servers that people might take instead, by the same client, in turns.

mod load;
mod rival;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::unistd::Pid;
use tokio::task::LocalSet;

pub use self::load::{Load, Part, subject};
pub use self::rival::Rival;
use crate::clock;
use crate::load::target::{Target, Trouble};
use crate::load::users::{self, REGISTERED_MAX};
use crate::machine::Machine;
use crate::record::{Better, Measure, Record, Round};
use crate::report;

/// Screens of a user whose pushes are personal.
pub const PERSONAL_SCREENS: usize = 3;
/// Users whose pushes are personal, at most.
pub const PERSONAL_USERS: usize = 20;

/// Puts TaskFlow and others that are running under the same load, in turns, and says how they differ
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Secrets are variables of the environment, or files that those name:
  POCKETBASE_TOKEN, POCKETBASE_TOKEN_FILE      of a user who may list and create records of the collection
  CENTRIFUGO_API_KEY, CENTRIFUGO_API_KEY_FILE  http_api.key of its configuration
  CENTRIFUGO_TOKEN, CENTRIFUGO_TOKEN_FILE      a connection token (JWT), unless it lets clients in without

Tasks and records that are made stay.")]
pub struct Compare {
    /// TaskFlow, such as https://tasks.example or http://127.0.0.1:8080
    #[arg(long)]
    pub url: String,
    /// Users of TaskFlow and their tokens, as `taskflow token --count N` writes them; absent: a few accounts are registered
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// A PocketBase: pages, creates and pushes to all who follow a collection
    #[arg(long, value_name = "URL", required_unless_present = "centrifugo")]
    pub pocketbase: Option<String>,
    /// Its collection, with a text field `title`
    #[arg(long, value_name = "NAME", default_value = "tasks")]
    pub pocketbase_collection: String,
    /// A Centrifugo: pushes to all who follow a channel, and to those who follow one of many
    #[arg(long, value_name = "URL")]
    pub centrifugo: Option<String>,
    /// The namespace of its channels; absent: channels without one
    #[arg(long, value_name = "NAME")]
    pub centrifugo_namespace: Option<String>,
    /// Screens that all follow the same (TaskFlow's connections_a_user_max is 64, unless set)
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub followers: usize,
    /// Pages, creates or changes a second
    #[arg(long, default_value_t = 20.0)]
    pub rate: f64,
    /// Seconds of each turn
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Turns of each server
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Certificates (PEM) of authorities to trust besides those that browsers trust
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// What random times and choices follow from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Milliseconds that this client may be late at the 99th percentile; beyond it a turn is void
    #[arg(long, default_value_t = 20.0, value_name = "MS")]
    pub late_ms_max: f64,
    /// Where results go
    #[arg(long, default_value = "loadtest-compare.json", value_name = "FILE")]
    pub out: PathBuf,
}

/// Compares: what the process ends with.
pub fn compare(options: &Compare) -> Result<u8> {
    options.check()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let record = LocalSet::new().block_on(&runtime, options.run())?;
    println!("\n{}", report::table(&record));
    for note in &record.notes {
        println!("- {note}");
    }
    record.write(&options.out)?;
    println!("\n{}", options.out.display());
    Ok(conclude(&record))
}

/// The exit code, with the reason.
fn conclude(record: &Record) -> u8 {
    let wrong: Vec<String> = record
        .measures
        .iter()
        .filter(|measure| is_wrong(measure))
        .map(|measure| measure.what.clone())
        .collect();
    if !wrong.is_empty() {
        println!("FAILED: not 0: {}.", wrong.join("; "));
        return 1;
    }
    if record.measures.iter().any(|measure| measure.measured.is_nan()) {
        println!(
            "VOID: no turn of something counts. Run it on a machine that has time for it, with a lower --rate or fewer --followers."
        );
        return 2;
    }
    0
}

/// What must be 0, and is not.
fn is_wrong(measure: &Measure) -> bool {
    measure.at_least == Some(0.0) && measure.measured > 0.0
}

/// A secret of the environment, or of the file that it names.
fn secret(name: &str) -> Result<Option<String>, Trouble> {
    if let Ok(value) = std::env::var(name) {
        return Ok(Some(value));
    }
    let Ok(path) = std::env::var(format!("{name}_FILE")) else {
        return Ok(None);
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) => Err(Trouble(format!(
            "{name}_FILE names {path}, which cannot be read: {error}."
        ))),
    }
}

impl Compare {
    fn check(&self) -> Result<(), Trouble> {
        let is_positive = |number: f64| number.is_finite() && number > 0.0;
        if !is_positive(self.rate) || !is_positive(self.seconds) || self.rate * self.seconds < 2.0 {
            return Err(Trouble(
                "--rate times --seconds is at least 2: a turn has to time something.".to_owned(),
            ));
        }
        if self.followers == 0 || self.rounds == 0 {
            return Err(Trouble("--followers and --rounds are at least 1.".to_owned()));
        }
        Ok(())
    }

    async fn run(&self) -> Result<Record> {
        let rivals = self.rivals().await?;
        let mut record = Record {
            scenario: "compare".to_owned(),
            date: clock::today(),
            machine: Machine::here(),
            ..Record::default()
        };
        for rival in &rivals {
            let version = rival.check().await?;
            println!("{}: {version} at {}", rival.name, rival.target.host);
            rival.fill().await?;
            record.notes.push(rival.what_it_is());
        }
        let groups = rivals.iter().map(|rival| rival.groups()).min().unwrap_or(1);
        let personal = groups.min(PERSONAL_USERS);
        record.about = format!(
            "{} a second, {} s a turn; fan-out to {} screens, personal pushes to {PERSONAL_SCREENS} screens of one of {personal} users.",
            self.rate, self.seconds, self.followers
        );
        println!("{}", record.about);
        let load = Load {
            part: Part::Page,
            rate: self.rate,
            seconds: self.seconds,
            groups: 1,
            screens: self.followers,
            seed: self.seed,
            late_ms_max: self.late_ms_max,
        };
        let parts = [
            load,
            Load {
                part: Part::Create,
                ..load
            },
            Load {
                part: Part::Fanout,
                ..load
            },
            Load {
                part: Part::Personal,
                groups: personal,
                screens: PERSONAL_SCREENS,
                ..load
            },
        ];
        for round in 0..self.rounds {
            println!("Round {} of {}", round + 1, self.rounds);
            for part in &parts {
                let subjects = rivals.iter().map(|rival| (rival.clone(), None));
                turn(&mut record, part, subjects.collect(), round, |round| round).await?;
            }
        }
        measures(&mut record, &rivals, &parts.map(|load| load.part));
        Ok(record)
    }

    async fn rivals(&self) -> Result<Vec<Rc<Rival>>> {
        let target = |url: &str| Target::new(url, self.ca.as_deref(), &[]);
        // What is missing is said before accounts are made.
        let mut others = Vec::new();
        if let Some(url) = &self.pocketbase {
            let token = secret("POCKETBASE_TOKEN")?.ok_or_else(|| {
                Trouble(format!(
                    "PocketBase wants to know who asks: set POCKETBASE_TOKEN (or POCKETBASE_TOKEN_FILE) to the token of a user who \
                     may list and create records of {}.",
                    self.pocketbase_collection
                ))
            })?;
            others.push(Rival::pocketbase(
                target(url)?,
                token,
                self.pocketbase_collection.clone(),
            ));
        }
        if let Some(url) = &self.centrifugo {
            let key = secret("CENTRIFUGO_API_KEY")?.ok_or_else(|| {
                Trouble(
                    "Publishing to Centrifugo needs its key: set CENTRIFUGO_API_KEY (or CENTRIFUGO_API_KEY_FILE) to http_api.key of \
                     its configuration."
                        .to_owned(),
                )
            })?;
            others.push(Rival::centrifugo(
                target(url)?,
                key,
                secret("CENTRIFUGO_TOKEN")?,
                self.centrifugo_namespace.clone(),
            ));
        }
        let taskflow = target(&self.url)?;
        let users = match &self.tokens {
            Some(path) => users::read(path)?,
            None => {
                let made = users::register(&taskflow, REGISTERED_MAX).await?;
                made.into_iter().map(|(_, user)| user).collect()
            }
        };
        if users.len() < 2 {
            bail!(Trouble(
                "Two users of TaskFlow at least are needed, one whose tasks are read and one who is followed: make more tokens with \
                 taskflow token --count."
                    .to_owned()
            ));
        }
        let first = Rival::taskflow(taskflow, users);
        Ok(std::iter::once(first).chain(others).map(Rc::new).collect())
    }
}

/// A part on each server that can do it, in turns: in each odd round in the other order.
pub async fn turn(
    record: &mut Record,
    load: &Load,
    mut subjects: Vec<(Rc<Rival>, Option<Pid>)>,
    round: usize,
    judge: impl Fn(Round) -> Round,
) -> Result<()> {
    if round % 2 == 1 {
        subjects.reverse();
    }
    let load = Load {
        // Other times in each round, the same for each server.
        seed: load.seed.wrapping_add(round as u64),
        ..*load
    };
    for (rival, server) in subjects {
        if load.part.is_for(&rival) {
            let servers: Vec<Pid> = server.into_iter().collect();
            let ran = load
                .run(&rival, &servers)
                .await
                .with_context(|| subject(&rival, load.part))?;
            record.rounds.push(judge(ran));
        }
    }
    Ok(())
}

/// The rows: each server beside the first, within a round, and then what each took.
pub fn measures(record: &mut Record, rivals: &[Rc<Rival>], parts: &[Part]) {
    let [ours, theirs @ ..] = rivals else { return };
    let mut rows = Vec::new();
    for part in parts {
        for rival in theirs.iter().filter(|rival| part.is_for(rival)) {
            for (figure, what) in [("p50_ms", "median"), ("p99_ms", "p99"), ("cpu_us", "CPU of the server")] {
                let (theirs, ours) = (subject(rival, *part), subject(ours, *part));
                if record
                    .rounds
                    .iter()
                    .any(|round| round.subject == theirs && round.figures.contains_key(figure))
                {
                    let what = format!("{}: {what}, {} against TaskFlow", part.name(), rival.name);
                    let void = record.void(&theirs);
                    rows.push(
                        Measure::new(&what, "×", Better::More, &ratios(record, &theirs, &ours, figure)).without(&void),
                    );
                }
            }
        }
    }
    for part in parts {
        for rival in rivals.iter().filter(|rival| part.is_for(rival)) {
            let name = subject(rival, *part);
            for (figure, unit) in [
                ("p50_ms", "ms, median"),
                ("p99_ms", "ms, p99"),
                ("cpu_us", "µs of CPU each"),
            ] {
                if record
                    .rounds
                    .iter()
                    .any(|round| round.subject == name && round.figures.contains_key(figure))
                {
                    rows.push(record.measure(&name, unit, Better::Less, &name, figure));
                }
            }
        }
    }
    for (figure, what) in [
        ("failed", "requests that failed"),
        ("missed", "pushes that did not come"),
        ("doubled", "pushes that came twice"),
    ] {
        // Void or not: what did not come did not come.
        let mut times = BTreeMap::<&str, f64>::new();
        for round in &record.rounds {
            *times.entry(&round.subject).or_default() += round.figures.get(figure).copied().unwrap_or(0.0);
        }
        let who: Vec<&str> = times
            .iter()
            .filter(|(_, times)| **times > 0.0)
            .map(|(who, _)| *who)
            .collect();
        let what = match who[..] {
            [] => what.to_owned(),
            _ => format!("{what} ({})", who.join("; ")),
        };
        rows.push(Measure::new(&what, "times", Better::Less, &[times.values().sum()]).asked(0.0, 0.0));
    }
    record.measures = rows;
}

/// Of the rounds in which both count.
fn ratios(record: &Record, theirs: &str, ours: &str, figure: &str) -> Vec<f64> {
    let of = |subject: &str| -> Vec<Option<f64>> {
        let rounds = record.rounds.iter().filter(|round| round.subject == subject);
        rounds
            .map(|round| round.void.is_none().then(|| round.figures[figure]))
            .collect()
    };
    let pairs = of(theirs).into_iter().zip(of(ours));
    pairs.filter_map(|(theirs, ours)| Some(theirs? / ours?)).collect()
}
