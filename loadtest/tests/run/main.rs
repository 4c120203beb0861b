//! `taskflow-loadtest run` against a real server: every scenario, and everything that can be wrong with a server, with a
//! user, or with the way between them.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests")]

mod compare;
mod doubles;
mod faulty;
mod server;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;

use crate::faulty::{Fault, Faulty};
use crate::server::Server;

/// What a test waits for, at most.
const DEADLINE: Duration = Duration::from_secs(60);

/// A run that was made, and what it left.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    said: String,
    /// Null where nothing was measured.
    found: Value,
    html: String,
}

impl Ran {
    fn count(&self, name: &str) -> u64 {
        self.found["tally"]["counts"][name].as_u64().unwrap_or(0)
    }

    /// How often something was timed.
    fn timed(&self, name: &str) -> u64 {
        let pairs = self.found["tally"]["latency_us"][name].as_array();
        pairs.map_or(0, |pairs| pairs.iter().filter_map(|pair| pair[1].as_u64()).sum())
    }

    fn expect(&self, code: i32, sentence: &str) {
        assert!(
            self.code == Some(code) && self.said.contains(sentence),
            "expected {code} and: {sentence}\n{self:#?}"
        );
    }
}

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_taskflow-loadtest"))
}

/// Small and quick, on a machine that has other things to do.
const USUAL: [&str; 8] = [
    "--ramp=0.2",
    "--seconds=2",
    "--rate=40",
    "--connections=12",
    "--users=3",
    "--settle=5",
    "--late-ms-max=5000",
    "--out=run",
];

/// What is run in a folder, with the usual options where others are not given.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let key = |argument: &str| argument.split('=').next().unwrap_or(argument).to_owned();
    let mut command = Command::new(binary());
    command.current_dir(folder).arg("run").args(arguments);
    command.args(
        USUAL
            .iter()
            .filter(|usual| !arguments.iter().any(|other| key(other) == key(usual))),
    );
    command.stdin(Stdio::null());
    command
}

fn result(folder: &Path, name: &str, output: &Output) -> Ran {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let json = std::fs::read(folder.join(format!("{name}.json")));
    Ran {
        code: output.status.code(),
        said: text(&output.stderr) + &text(&output.stdout),
        found: json.map_or(Value::Null, |json| serde_json::from_slice(&json).unwrap()),
        html: std::fs::read_to_string(folder.join(format!("{name}.html"))).unwrap_or_default(),
    }
}

fn run(arguments: &[&str]) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path(), arguments).output().unwrap();
    result(folder.path(), "run", &output)
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}

/// A scenario against a server, with its tokens.
fn run_on(server: &Server, url: &str, arguments: &[&str]) -> Ran {
    let (url, tokens) = (flag("url", url), flag("tokens", server.tokens().display()));
    run(&[arguments, &[&url, &tokens]].concat())
}

#[test]
fn every_scenario_runs_and_finds_nothing_wrong_with_a_good_server() {
    let server = Server::start(&[]);
    // What each must have counted and timed, besides.
    let scenarios: [(&str, &[&str], &[&str]); 10] = [
        ("idle", &["pushes"], &["connect", "push"]),
        ("fanout", &["pushes"], &["push", "write"]),
        ("push", &["pushes"], &["push", "write"]),
        ("writes", &["pushes"], &["push", "write", "rest"]),
        (
            "day",
            &["pushes", "reads", "reconnects"],
            &["push", "write", "rest", "read", "reconnect"],
        ),
        ("storm", &["reconnects"], &["push", "rest", "reconnect"]),
        ("slow", &["pushes"], &["push", "slow_push", "write"]),
        ("sign-in", &["sign_ins"], &["push", "write", "sign_in"]),
        ("rolling", &["pushes", "reads"], &["push", "write", "rest", "read"]),
        ("soak", &["reads", "reconnects"], &["push", "read", "reconnect"]),
    ];
    let run_one = |(name, counts, times): (&str, &[&str], &[&str])| {
        let users = if name == "slow" { "--users=2" } else { "--users=3" };
        let ran = run_on(&server, &server.url(), &[name, users]);
        ran.expect(
            0,
            "OK: every acknowledged change came to every screen, once and in order, and is there.",
        );
        assert_eq!(ran.count("connects"), 12, "{name}: {}", ran.said);
        assert!(ran.count("acknowledged") > 20, "{name}: {}", ran.said);
        assert_eq!(ran.count("acknowledged"), ran.count("changes"), "{name}: {}", ran.said);
        for count in counts {
            assert!(ran.count(count) > 0, "{name} counts no {count}: {}", ran.said);
        }
        for time in times {
            assert!(ran.timed(time) > 0, "{name} times no {time}: {}", ran.said);
        }
    };
    std::thread::scope(|scope| {
        for some in scenarios.chunks(5) {
            scope.spawn(|| some.iter().copied().for_each(run_one));
        }
    });
}

#[test]
fn every_push_is_counted_and_timed_on_every_screen() {
    let server = Server::start(&[]);
    let ran = run_on(&server, &server.url(), &["push"]);
    // Three users with four screens each.
    assert_eq!(ran.count("pushes"), 4 * ran.count("acknowledged"), "{}", ran.said);
    assert_eq!(ran.timed("push"), ran.count("pushes"), "{}", ran.said);
    assert_eq!(ran.timed("write"), ran.count("acknowledged"), "{}", ran.said);
    assert_eq!(ran.found["tally"]["seconds"].as_array().unwrap().len(), 2);
    let server = &ran.found["versions"]["server"];
    assert!(server.as_str().unwrap().starts_with("taskflow "), "{server}");
}

#[test]
fn a_limit_of_the_server_is_counted_and_said() {
    // Ten connections may be made at once.
    let server = Server::start(&["--strangers-a-second-max=1"]);
    let ran = run_on(&server, &server.url(), &["push"]);
    ran.expect(
        0,
        "The server takes no more connections a second from one address (429): give more --ramp or --source",
    );
    assert!(ran.count("limited") > 0, "{}", ran.said);
}

#[test]
fn the_page_has_its_charts_and_asks_nobody_for_anything() {
    let server = Server::start(&[]);
    let ran = run_on(&server, &server.url(), &["storm"]);
    for chart in [
        "From change to screen",
        "Latency percentiles",
        "Rate",
        "Pushes",
        "Connections",
        "Connections made again",
    ] {
        assert!(
            ran.html.contains(&format!("<figcaption><b>{chart}")),
            "no chart {chart}"
        );
    }
    for asked in ["src=", "href=", "url(", "@import", "<script"] {
        assert!(!ran.html.contains(asked), "{asked}");
    }
}

#[test]
fn several_generators_and_several_machines_add_up() {
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let (url, tokens) = (flag("url", server.url()), flag("tokens", server.tokens().display()));
    let mut runs = Vec::new();
    for (name, generators) in [("one", "--generators=1"), ("two", "--generators=2")] {
        let arguments = ["push", &url, &tokens, generators, &flag("out", name)];
        let output = command(folder.path(), &arguments).output().unwrap();
        let ran = result(folder.path(), name, &output);
        ran.expect(0, "OK:");
        assert_eq!(ran.count("connects"), 12, "{}", ran.said);
        let seconds = ran.found["tally"]["seconds"].as_array().unwrap();
        assert_eq!(seconds[0]["connections"], 12, "all generators are in one second");
        runs.push(ran);
    }
    let output = Command::new(binary())
        .current_dir(folder.path())
        .args([
            "merge",
            "one.json",
            "two.json",
            "--out=whole",
            "--threshold=connects=24",
        ])
        .output()
        .unwrap();
    let whole = result(folder.path(), "whole", &output);
    whole.expect(0, "Threshold connects = 24 met");
    for count in ["changes", "pushes"] {
        assert_eq!(
            whole.count(count),
            runs[0].count(count) + runs[1].count(count),
            "{count}"
        );
    }
    assert_eq!(whole.timed("push"), runs[0].timed("push") + runs[1].timed("push"));
    assert_eq!(whole.found["settings"]["generators"], 3);
}

#[test]
fn a_threshold_that_is_not_met_fails_the_run_and_says_so() {
    let server = Server::start(&[]);
    let thresholds = ["push", "--threshold=push_p99_ms<0.001", "--threshold=acknowledged>5"];
    let ran = run_on(&server, &server.url(), &thresholds);
    ran.expect(1, "Threshold push_p99_ms < 0.001 not met: it is ");
    ran.expect(1, "Threshold acknowledged > 5 met");
}

#[test]
fn a_client_that_is_late_makes_the_run_void() {
    let server = Server::start(&[]);
    let ran = run_on(&server, &server.url(), &["push", "--late-ms-max=0"]);
    ran.expect(2, "VOID: this is no measurement. This client was late itself");
}

/// What a run through a way with this fault counts of `finding`, and says.
fn finds(fault: Fault, finding: &str, sentence: &str) {
    let server = Server::start(&[]);
    let way = Faulty::to(server.address, fault);
    let ran = run_on(&server, &way.url(), &["fanout", "--users=1", "--settle=1"]);
    ran.expect(1, sentence);
    assert!(ran.count(finding) > 0, "{ran:#?}");
    let others: u64 = ["lost", "doubled", "disordered", "gone"]
        .iter()
        .filter(|other| **other != finding)
        .map(|other| ran.count(other))
        .sum();
    // What comes late was missed when the next one came.
    let is_late = fault == Fault::Swap;
    assert_eq!(others > 0, is_late, "{}", ran.said);
}

#[test]
fn an_entry_that_is_left_out_is_found() {
    finds(
        Fault::Drop,
        "lost",
        "did not come to a screen, or an entry was left out on the way",
    );
}

#[test]
fn an_entry_that_comes_twice_is_found() {
    finds(Fault::Double, "doubled", "entries came twice, or were made twice");
}

#[test]
fn entries_that_change_places_are_found() {
    finds(Fault::Swap, "disordered", "entries came out of order");
}

#[test]
fn acknowledged_tasks_that_are_not_there_at_the_end_are_found() {
    finds(
        Fault::Forget,
        "gone",
        "tasks do not have their newest acknowledged change at the end",
    );
}

#[test]
fn a_server_that_is_killed_for_good_fails_the_run() {
    let mut server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let (url, tokens) = (flag("url", server.url()), flag("tokens", server.tokens().display()));
    let arguments = ["rolling", "--settle=0.5", &url, &tokens];
    let running = Running::start(&server, command(folder.path(), &arguments));
    server.kill();
    let ran = running.finish(folder.path());
    ran.expect(1, "feeds could not be read back");
    ran.expect(1, "Nobody listens on ");
    assert!(ran.count("cut") >= 12, "{}", ran.said);
    assert!(ran.count("unanswered") > 0, "{}", ran.said);
}

#[test]
fn a_server_that_is_killed_and_comes_back_loses_nothing_that_this_client_would_call_lost() {
    let mut server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let (url, tokens) = (flag("url", server.url()), flag("tokens", server.tokens().display()));
    let arguments = ["rolling", "--seconds=3", "--settle=20", &url, &tokens];
    let running = Running::start(&server, command(folder.path(), &arguments));
    server.kill();
    server.start_again();
    let ran = running.finish(folder.path());
    ran.expect(0, "OK:");
    assert_eq!(ran.count("acknowledged"), ran.count("changes"), "{}", ran.said);
    assert!(ran.count("reconnects") >= 12, "{}", ran.said);
    assert!(ran.timed("catch_up") > 0, "{}", ran.said);
}

#[test]
fn what_is_due_while_the_server_stands_still_is_timed_from_when_it_was_due() {
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let (url, tokens) = (flag("url", server.url()), flag("tokens", server.tokens().display()));
    let running = Running::start(&server, command(folder.path(), &["push", "--seconds=3", &url, &tokens]));
    kill(server.pid(), Signal::SIGSTOP).unwrap();
    std::thread::park_timeout(Duration::from_millis(1_000));
    kill(server.pid(), Signal::SIGCONT).unwrap();
    let ran = running.finish(folder.path());
    ran.expect(0, "OK:");
    // 40 a second were due: of those in the first half of the stop, each waited for half a second and more. A client that
    // waits for answers would have three such times, one of each user.
    let writes = ran.found["tally"]["latency_us"]["write"].as_array().unwrap();
    let long: u64 = writes
        .iter()
        .filter(|pair| pair[0].as_u64().unwrap() > 500_000)
        .map(|pair| pair[1].as_u64().unwrap())
        .sum();
    assert!(long >= 10, "{long} of {}", ran.said);
}

#[test]
fn who_interrupts_gets_what_there_is() {
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let (url, tokens) = (flag("url", server.url()), flag("tokens", server.tokens().display()));
    let running = Running::start(
        &server,
        command(folder.path(), &["push", "--seconds=50", &url, &tokens]),
    );
    let begun = Instant::now();
    running.interrupt();
    let ran = running.finish(folder.path());
    assert!(begun.elapsed() < Duration::from_secs(20));
    ran.expect(0, "The load was ended before its time.");
    assert!(ran.count("acknowledged") > 0, "{}", ran.said);
}

/// A run that goes on; the load has begun.
struct Running {
    child: std::process::Child,
    heard: String,
    says: std::io::BufReader<std::process::ChildStderr>,
}

impl Running {
    fn start(server: &Server, mut command: Command) -> Self {
        // A group of its own, as a terminal gives it one: its generators are interrupted with it.
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let mut says = std::io::BufReader::new(child.stderr.take().unwrap());
        let mut heard = String::new();
        while !heard.contains("are connected") {
            assert!(
                std::io::BufRead::read_line(&mut says, &mut heard).unwrap() > 0,
                "{heard}"
            );
        }
        server.wait_for_changes(10);
        Self { child, heard, says }
    }

    fn interrupt(&self) {
        killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).unwrap();
    }

    fn finish(mut self, folder: &Path) -> Ran {
        let begun = Instant::now();
        std::io::Read::read_to_string(&mut self.says, &mut self.heard).unwrap();
        let output = self.child.wait_with_output().unwrap();
        assert!(begun.elapsed() < DEADLINE);
        let mut ran = result(folder, "run", &output);
        ran.said.insert_str(0, &self.heard);
        ran
    }
}

#[test]
fn without_tokens_a_few_accounts_are_made_as_far_as_the_server_lets() {
    let server = Server::start(&["--sign-in-attempts-max=5"]);
    let url = flag("url", server.url());
    run(&["push", &url]).expect(0, "OK:");
    let ran = run(&["push", &url]);
    ran.expect(
        2,
        "The server makes no more accounts for this address now (429, after 2): give --tokens FILE",
    );
    let closed = Server::start(&["--registration=closed"]);
    run(&["push", &flag("url", closed.url())]).expect(2, "The server makes no account (403 registration_closed)");
}

#[test]
fn a_token_that_is_refused_is_said_before_anything_is_loaded() {
    let (server, other) = (Server::start(&[]), Server::start(&[]));
    let tokens = flag("tokens", other.tokens().display());
    let ran = run(&["push", &flag("url", server.url()), &tokens]);
    ran.expect(2, "The server refuses the token of user ");
    ran.expect(2, "(token_invalid): make new ones with taskflow token --count N");
}

#[test]
fn a_run_that_outlives_its_tokens_is_not_begun() {
    let server = Server::start(&[]);
    let ran = run_on(&server, &server.url(), &["push", "--seconds=4000"]);
    ran.expect(2, "make some with taskflow token --count N --seconds 4660");
}

#[test]
fn what_cannot_be_reached_is_said_with_what_to_do() {
    let server = Server::start(&[]);
    run(&["push", "--url=http://127.0.0.1:1"]).expect(2, "Nobody listens on 127.0.0.1:1: is the server running");
    run(&["push", "--url=tasks.example"]).expect(2, "write https://tasks.example or http://127.0.0.1:8080");
    run(&["push", "--url=http://no-such-name.invalid"]).expect(2, "The name no-such-name.invalid cannot be looked up");
    run_on(&server, &server.operator_url(), &["push"])
        .expect(2, "does not open a WebSocket: not upgraded: HTTP/1.1 404");
    run_on(&server, &server.url(), &["push", "--source=192.0.2.1"])
        .expect(2, "a --source is no address of this machine");
    run_on(&server, &server.url(), &["push", "--source=127.0.0.8,127.0.0.9"]).expect(0, "OK:");
}

#[test]
fn more_connections_than_a_user_may_have_are_said_with_what_to_do() {
    let server = Server::start(&["--connections-a-user-max=10"]);
    let ran = run_on(&server, &server.url(), &["fanout", "--users=1"]);
    // One that is refused ends the run, also if one that fits is still on its way.
    ran.expect(
        2,
        " of 12 connections came about. A user has as many connections as the server allows one",
    );
}

#[test]
fn too_few_files_are_said_with_what_to_do() {
    let server = Server::start(&[]);
    let arguments = command(
        Path::new("."),
        &[
            "push",
            &flag("url", server.url()),
            &flag("tokens", server.tokens().display()),
        ],
    );
    let arguments: Vec<_> = arguments
        .get_args()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 200 && exec \"$@\"", "sh"])
        .arg(binary())
        .args(arguments)
        .output()
        .unwrap();
    let ran = result(Path::new("no-such-folder"), "run", &output);
    ran.expect(
        2,
        "12 connections of a process need 588 open files, and 200 are allowed: raise the limit (ulimit -n 588)",
    );
}

#[test]
fn a_certificate_is_trusted_if_its_authority_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = certificate(folder.path());
    let server = Server::start(&[
        &flag("tls-certificate", chain.display()),
        &flag("tls-key", key.display()),
    ]);
    let url = format!("https://localhost:{}", server.address.port());
    run_on(&server, &url, &["push"]).expect(2, "is not trusted (");
    run_on(&server, &url, &["push"]).expect(2, "give the authority that signed it with --ca FILE");
    let ca = flag("ca", chain.display());
    run_on(&server, &url, &["writes", &ca]).expect(0, "OK:");
    run_on(&server, &url, &["push", &flag("ca", key.display())]).expect(2, "cannot be read as certificates (PEM)");
    run_on(&server, &server.url(), &["push", &ca]).expect(2, "ended a connection without a word");
}

/// A certificate of its own for localhost, with its key.
fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&chain)
        .output()
        .expect("openssl is installed: scripts/setup");
    assert!(made.status.success(), "{made:?}");
    (chain, key)
}
