//! Reading over REST: pages of tasks beside PocketBase, what the client has already, and searches.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use taskflow_protocol::Encoding;
use taskflow_protocol::message::Operations;

use super::{open_many, subjects};
use crate::clock::{self, Pacer};
use crate::machine::Watch;
use crate::net::Dial;
use crate::net::http::Http;
use crate::process::{Process, pin_this_thread};
use crate::record::{Better, Measure, Record, Round};
use crate::server::pocketbase::{self, PocketBase};
use crate::server::taskflow::{Setup, TaskFlow, create, operation, task_id};
use crate::server::{Bench, User};
use crate::stats;

const CLIENTS: usize = 16;
const SERVER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;
/// Tasks of the user whose first page is read.
const TASKS: usize = 1_000;
/// Tasks of the user who searches.
const SEARCHED_TASKS: usize = 10_000;
/// Searches a second.
const SEARCHES_A_SECOND: u64 = 50;

const PAGE: &str = "taskflow";
const HAD: &str = "taskflow, If-None-Match";
const POCKETBASE: &str = "pocketbase";
const SEARCH: &str = "taskflow, search";
const FILTER: &str = "taskflow, filter and sort";

const PAGE_PATH: &str = "/api/v1/tasks?limit=50";

/// Words of the tasks that are searched: as many as a person uses, some often and most seldom.
const WORDS: usize = 4_000;

/// Runs the scenario.
pub async fn run(bench: &mut Bench, record: &mut Record) -> Result<()> {
    let seconds = bench.size(5.0, 1.0);
    record.about = format!(
        "{CLIENTS} clients, each with a kept-alive connection, read the first page of 50 tasks out of {TASKS} as fast as they \
         are answered, {seconds} s a round: `GET {PAGE_PATH}` beside PocketBase's `GET {}` (`skipTotal`, so that it does not \
         count) by the same HTTP client, and the same with an `If-None-Match` that matches. Then, for a user with \
         {SEARCHED_TASKS} tasks, {SEARCHES_A_SECOND} searches a second for two beginnings of words, and as many filtered and \
         sorted pages; the time runs from when each was due. Server on core {SERVER_CORE}, client on core {CLIENT_CORE}.",
        pocketbase::PAGE_PATH
    );
    let core = Some(SERVER_CORE);
    let rival = PocketBase::start(bench, core, 1).await?;
    rival.fill(TASKS).await?;
    let setup = Setup {
        core,
        ..Setup::default()
    };
    let server = Rc::new(TaskFlow::start(bench, setup).await?);
    let users = server.users_with_feeds(bench, 2).await?;
    let [reader, searcher] = &users[..] else {
        bail!("there are not two users");
    };
    let mut random = StdRng::seed_from_u64(bench.seed);
    fill(&server, reader, TASKS, |n| {
        (format!("Task {n} of many, to be done soon"), String::new())
    })
    .await?;
    fill(&server, searcher, SEARCHED_TASKS, |_| {
        (text(&mut random, 6), text(&mut random, 30))
    })
    .await?;
    pin_this_thread(Some(CLIENT_CORE))?;
    for round in 0..bench.rounds(5) {
        let mut order = [PAGE, POCKETBASE, HAD, SEARCH, FILTER];
        if round % 2 == 1 {
            order.reverse();
        }
        for subject in order {
            bench.quiet().await;
            let load = Load { subject, seconds };
            let round = match subject {
                POCKETBASE => {
                    load.closed(
                        &rival.process,
                        rival.address,
                        pocketbase::PAGE_PATH,
                        200,
                        &rival.users[0],
                    )
                    .await?
                }
                HAD => {
                    load.closed(&server.process, server.address, PAGE_PATH, 304, reader)
                        .await?
                }
                PAGE => {
                    load.closed(&server.process, server.address, PAGE_PATH, 200, reader)
                        .await?
                }
                _ => load.searches(&server, searcher, &mut random).await?,
            };
            record
                .rounds
                .push(round.void_if_others_used_more_than(bench.foreign_percent_max));
        }
    }
    report(record);
    Ok(())
}

/// A word that is the rarer the higher its number, and begins like others.
fn word(random: &mut StdRng) -> String {
    const SYLLABLES: [&str; 16] = [
        "ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe", "ri", "so", "tu", "vé",
    ];
    // Zipf's law, near enough: the square root spreads the few and crowds the many.
    let share: f64 = random.random();
    let mut number = ((share * share) * WORDS as f64) as usize;
    let mut word = String::new();
    for _ in 0..3 {
        word.push_str(SYLLABLES[number % SYLLABLES.len()]);
        number /= SYLLABLES.len();
    }
    word
}

fn text(random: &mut StdRng, words: usize) -> String {
    let words: Vec<String> = (0..words).map(|_| word(random)).collect();
    words.join(" ")
}

/// Gives a user so many tasks.
async fn fill(
    server: &TaskFlow,
    user: &User,
    tasks: usize,
    mut task: impl FnMut(usize) -> (String, String),
) -> Result<()> {
    let mut http = Http::connect(server.dial(0)).await?;
    for first in (0..tasks).step_by(100) {
        let operations = (first..tasks.min(first + 100))
            .map(|number| {
                let (title, notes) = task(number);
                operation(create(task_id(), title, notes))
            })
            .collect();
        let body = Encoding::Json.encode(&Operations {
            feed: None,
            operations,
            traceparent: None,
        });
        let body = String::from_utf8(body).context("JSON is text")?;
        let answer = http
            .request("POST", "/api/v1/operations", Some(&user.token), &body)
            .await?;
        if answer.status != 200 || answer.text().contains("refused") {
            bail!("tasks were not made: {}", answer.text());
        }
    }
    Ok(())
}

struct Load {
    subject: &'static str,
    seconds: f64,
}

#[derive(Default)]
struct Tally {
    took_ms: Vec<f64>,
    bytes: usize,
    first_error: Option<String>,
}

impl Load {
    /// Each client asks again when it has its answer.
    async fn closed(
        &self,
        process: &Process,
        address: SocketAddr,
        path: &'static str,
        status: u16,
        user: &User,
    ) -> Result<Round> {
        let clients = open_many(CLIENTS, CLIENTS, move |number| async move {
            Ok(Http::connect(Dial::to(address).number(number)).await?)
        })
        .await?;
        let tally = Rc::new(RefCell::new(Tally::default()));
        // What a client sends that has the page already; the star would match whatever there is.
        let had = if status == 304 { "If-None-Match: *\r\n" } else { "" };
        let watch = Watch::begin(&[process.pid()]);
        let end = clock::now_ns() + (self.seconds * 1e9) as u64;
        let running: Vec<_> = clients
            .into_iter()
            .map(|mut http| {
                let (tally, token) = (tally.clone(), user.token.clone());
                tokio::task::spawn_local(async move {
                    while clock::now_ns() < end {
                        let begin = clock::now_ns();
                        let answer = http.request_with("GET", path, Some(&token), had, "").await?;
                        tally.borrow_mut().count(begin, status, &answer);
                    }
                    Ok::<_, anyhow::Error>(())
                })
            })
            .collect();
        for client in running {
            client.await??;
        }
        tally
            .take()
            .round(self.subject, watch)
            .map(Round::void_if_client_was_the_limit)
    }

    /// So many a second, whether answered or not.
    async fn searches(&self, server: &TaskFlow, user: &User, random: &mut StdRng) -> Result<Round> {
        let mut https = Vec::new();
        for number in 0..CLIENTS {
            https.push(Http::connect(server.dial(number)).await?);
        }
        let idle = Rc::new(RefCell::new(https));
        let tally = Rc::new(RefCell::new(Tally::default()));
        let mut pacer = Pacer::new()?;
        let watch = Watch::begin(&[server.process.pid()]);
        let begin = clock::now_ns();
        let mut running = Vec::new();
        for number in 0..(self.seconds * SEARCHES_A_SECOND as f64) as u64 {
            // As somebody types who has no key for the accents.
            let (one, other) = (word(random).replace('é', "e"), word(random).replace('é', "e"));
            let path = match self.subject {
                // Two and four letters: as somebody who has not typed all of it.
                SEARCH => format!("/api/v1/tasks?limit=50&search={}+{}", &one[..2], &other[..4]),
                _ => format!("/api/v1/tasks?limit=50&sort=-priority,title&filter=status:open%20%26%20({one}|!{other})"),
            };
            let due = begin + number * 1_000_000_000 / SEARCHES_A_SECOND;
            pacer.until(due).await?;
            let (idle, tally, token) = (idle.clone(), tally.clone(), user.token.clone());
            running.push(tokio::task::spawn_local(async move {
                let mut http = idle
                    .borrow_mut()
                    .pop()
                    .context("no connection is free: the server is too slow")?;
                let answer = http.request("GET", &path, Some(&token), "").await?;
                tally.borrow_mut().count(due, 200, &answer);
                idle.borrow_mut().push(http);
                Ok::<_, anyhow::Error>(())
            }));
        }
        for search in running {
            search.await??;
        }
        tally
            .take()
            .round(self.subject, watch)
            .map(Round::void_if_client_was_the_limit)
    }
}

impl Tally {
    fn count(&mut self, begin_ns: u64, wanted: u16, answer: &crate::net::http::Answer) {
        if answer.status == wanted {
            self.took_ms.push((clock::now_ns() - begin_ns) as f64 / 1e6);
            self.bytes += answer.body.len();
        } else {
            self.first_error
                .get_or_insert_with(|| format!("{} {}", answer.status, answer.text()));
        }
    }

    fn round(self, subject: &str, watch: Watch) -> Result<Round> {
        let seen = watch.end();
        if let Some(error) = &self.first_error {
            bail!("{subject}: a request failed with {error}");
        }
        let answers = self.took_ms.len() as f64;
        let step = self.took_ms.len().div_ceil(1_000).max(1);
        let samples: Vec<f64> = self.took_ms.iter().copied().step_by(step).collect();
        Ok(Round::new(subject, seen)
            .figure("answers_per_s", answers / seen.seconds)
            .figure("bytes_an_answer", self.bytes as f64 / answers)
            .figure("cpu_ms_per_answer", seen.server_cpu_seconds * 1e3 / answers)
            .figure("p50_ms", stats::median(&self.took_ms))
            .figure("p99_ms", stats::quantile(&self.took_ms, 0.99))
            .samples("answer_ms", &samples))
    }
}

fn report(record: &mut Record) {
    let ratio = |ours: &str, theirs: &str| -> Vec<f64> {
        let of = |subject: &str| -> Vec<Option<f64>> {
            let rounds = record.rounds.iter().filter(|round| round.subject == subject);
            rounds
                .map(|round| round.void.is_none().then(|| round.figures["answers_per_s"]))
                .collect()
        };
        let pairs = of(ours).into_iter().zip(of(theirs));
        pairs.filter_map(|(ours, theirs)| Some(ours? / theirs?)).collect()
    };
    let mut measures = vec![
        Measure::new(
            "pages of 50 tasks out of 1,000, 16 clients, against PocketBase",
            "×",
            Better::More,
            &ratio(PAGE, POCKETBASE),
        )
        .asked(12.0, 40.0)
        .without(&record.void(PAGE)),
        Measure::new(
            "the same with an If-None-Match that matches, against without",
            "×",
            Better::More,
            &ratio(HAD, PAGE),
        )
        .asked(1.5, 3.0)
        .without(&record.void(HAD)),
        record
            .measure("search over 10,000 tasks, p99", "ms", Better::Less, SEARCH, "p99_ms")
            .asked(15.0, 3.0),
        record
            .measure(
                "a filtered and sorted page of 10,000 tasks, p99",
                "ms",
                Better::Less,
                FILTER,
                "p99_ms",
            )
            .asked(15.0, 3.0),
    ];
    for subject in subjects(record) {
        for (figure, unit) in [
            ("answers_per_s", "answers a second"),
            ("cpu_ms_per_answer", "ms of CPU an answer"),
        ] {
            measures.push(record.measure(&subject, unit, Better::Less, &subject, figure));
        }
    }
    record.measures = measures;
}
