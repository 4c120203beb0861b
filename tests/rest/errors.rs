//! Errors told to Sentry: what is told, what never is, and that a Sentry that does not work costs nothing.

use std::net::SocketAddr;
use std::time::Instant;

use rustix::process::Signal;

use crate::support::Server;
use crate::support::sentry::{Answers, Sentry};
use crate::support::server::free_port;
use crate::support::server::{DataDir, Program};

/// A server whose settings go wrong when it reads them again: an error that a test can have whenever it wants.
struct Failing {
    server: Server,
    folder: tempfile::TempDir,
}

fn any() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// What no event may have in it.
const SECRETS: [&str; 8] = [
    "Buy milk",
    "for Ann",
    "ann@example.com",
    "10.1.2.3",
    "2001:db8::7",
    "eyJhbGciOiJFZERTQSJ9",
    "hunter2",
    "token=",
];

impl Failing {
    fn start(dsn: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path.display().to_string()
        };
        let flags = [
            format!("--config={}", file("settings", "")),
            "--node-name=node-7".to_owned(),
        ];
        let program = Program {
            environment: vec![("TASKFLOW_SENTRY_DSN_FILE", file("dsn", dsn))],
            ..Program::default()
        };
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let server = Server::try_start_as(&program, DataDir::temporary(), any(), any(), &flags);
        let server = server.unwrap_or_else(|(status, log)| panic!("{status:?}: {log}"));
        Self { server, folder }
    }

    /// Logs an error with all kinds of things in it, and waits until it has been logged so often.
    fn fail(&self, times: usize) {
        // Of what is wrong in the file only the name of a setting is told that does not exist.
        let line = "\"'Buy milk for Ann' ann@example.com 10.1.2.3:80 [2001:db8::7] https://x.example/?token=1 \
                    eyJhbGciOiJFZERTQSJ9.e30.c2ln redis://:hunter2@x 'Buy milk'\" = 1\n";
        std::fs::write(self.folder.path().join("settings"), line).expect("written");
        for _ in 0..times {
            let before = self.failures();
            self.server.signal(Signal::HUP);
            crate::support::eventually("the error", || (self.failures() > before).then_some(()));
        }
    }

    fn failures(&self) -> usize {
        self.server.log.text().matches("cannot be read again").count()
    }

    fn reports(&self, outcome: &str) -> f64 {
        self.server
            .metric(&format!("taskflow_error_reports_total{{outcome=\"{outcome}\"}}"))
    }
}

#[test]
fn an_error_is_told_once_without_what_is_nobodys_business_and_its_repeats_as_a_count() {
    let sentry = Sentry::start(Answers::Takes);
    let mut failing = Failing::start(&sentry.dsn());
    failing.fail(1);
    let event = &sentry.events(1)[0];
    assert_eq!(event["level"], "error");
    assert_eq!(event["environment"], "dev");
    assert_eq!(event["server_name"], "node-7");
    assert_eq!(event["release"], concat!("taskflow@", env!("CARGO_PKG_VERSION")));
    assert_eq!(event["logger"], "taskflow::serve");
    let message = "the settings cannot be read again; the present ones go on";
    assert_eq!(event["logentry"]["formatted"], message);
    assert_eq!(event["extra"]["times"], 1);
    let error = event["extra"]["error"].as_str().expect("it is told");
    assert!(error.contains("line 1"), "{error}");
    assert!(
        failing.server.log.text().contains("Buy milk"),
        "there was something to scrub"
    );
    for secret in SECRETS {
        assert!(!event.to_string().contains(secret), "{secret} is in {event}");
    }
    failing
        .server
        .wait_for_metric("taskflow_error_reports_waiting", |waiting| waiting == 0.0);
    let (head, _) = &sentry.requests(1)[0];
    assert!(head.starts_with("post /api/42/envelope/ http/1.1\r\n"), "{head}");
    assert!(head.contains("sentry_key=0123456789abcdef"), "{head}");

    failing.fail(30);
    assert_eq!(failing.reports("sent"), 1.0);
    assert!(failing.server.stop().success());
    let events = sentry.events(2);
    assert_eq!(events.len(), 2, "{events:#?}");
    assert_eq!(events[1]["extra"]["times"], 30);
    assert_eq!(events[1]["fingerprint"], events[0]["fingerprint"]);
}

#[test]
fn a_sentry_that_hangs_refuses_or_fails_costs_nothing() {
    let gone = SocketAddr::from(([127, 0, 0, 1], free_port()));
    for answers in [
        Some(Answers::Hangs),
        Some(Answers::Says("500 Internal Server Error")),
        Some(Answers::Says("429 Too Many Requests\r\nretry-after: 3600")),
        None,
    ] {
        let sentry = answers.map(Sentry::start);
        let dsn = sentry
            .as_ref()
            .map_or_else(|| format!("http://key@{gone}/42"), Sentry::dsn);
        let mut failing = Failing::start(&dsn);
        failing.fail(5);
        match &sentry {
            Some(sentry) => drop(sentry.requests(1)),
            None => failing
                .server
                .wait_for_metric("taskflow_error_reports_total{outcome=\"failed\"}", |failed| {
                    failed == 1.0
                }),
        }
        failing
            .server
            .wait_for_metric("taskflow_error_reports_waiting", |waiting| waiting == 1.0);
        let account = failing.server.register();
        assert_eq!(
            failing.server.get("/api/v1/snapshot", &account).status,
            200,
            "{answers:?}"
        );
        let begun = Instant::now();
        assert!(failing.server.stop().success(), "{answers:?}");
        let took = begun.elapsed();
        // A second is what it waits for events that are under way; the rest is the drain.
        assert!(took.as_secs_f64() < 6.0, "{answers:?}: {took:?}");
        if let Some(sentry) = sentry {
            assert_eq!(
                sentry.requests(1).len(),
                1,
                "{answers:?}: no second try before its pause is over"
            );
        }
        let said = failing.server.log.text();
        let is_said = said.matches("Sentry does not take errors").count();
        assert_eq!(
            is_said,
            usize::from(answers != Some(Answers::Hangs)),
            "{answers:?}: {said}"
        );
    }
}

#[test]
fn a_server_without_a_dsn_tells_nobody_and_one_with_a_bad_dsn_does_not_start() {
    let server = Server::start(&[]);
    let threads = format!("/proc/{}/task", server.pid().as_raw_nonzero());
    let is_sentry = |task: std::io::Result<std::fs::DirEntry>| {
        let name = std::fs::read_to_string(task.expect("readable").path().join("comm"));
        name.is_ok_and(|name| name.trim() == "sentry")
    };
    assert!(!std::fs::read_dir(&threads).expect("there").any(is_sentry));
    for dsn in [
        "sentry.example",
        "https://sentry.example/1",
        "https://secretkey@sentry.example",
    ] {
        let refused = Server::try_start(DataDir::temporary(), any(), any(), &[&format!("--sentry-dsn={dsn}")]);
        let (_, log) = refused.err().expect("it does not start");
        assert_eq!(
            log,
            "taskflow: sentry_dsn (--sentry-dsn): it is no DSN; write https://KEY@sentry.example/PROJECT, as Sentry shows it"
        );
    }
}
