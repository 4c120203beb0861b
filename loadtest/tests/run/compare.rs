//! `taskflow-loadtest compare` against a real TaskFlow and doubles of the others.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::doubles::{API_KEY, Double, TOKEN, Trait};
use crate::server::Server;
use crate::{Ran, binary, flag, result};

const SECRETS: [(&str, &str); 2] = [("POCKETBASE_TOKEN", TOKEN), ("CENTRIFUGO_API_KEY", API_KEY)];

/// Small and quick, with these secrets.
fn compare_with(secrets: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary());
    for name in ["POCKETBASE_TOKEN", "CENTRIFUGO_API_KEY", "CENTRIFUGO_TOKEN"] {
        command.env_remove(name).env_remove(format!("{name}_FILE"));
    }
    command.envs(secrets.iter().copied());
    command
        .current_dir(folder.path())
        .arg("compare")
        .args(["--out=run.json"]);
    for usual in [
        "--rounds=2",
        "--seconds=0.5",
        "--rate=20",
        "--followers=4",
        "--late-ms-max=5000",
    ] {
        let key = usual.split('=').next().unwrap();
        if !arguments.iter().any(|argument| argument.starts_with(key)) {
            command.arg(usual);
        }
    }
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    result(folder.path(), "run", &output)
}

/// A real TaskFlow, and what else is named.
fn compare(server: &Server, arguments: &[&str]) -> Ran {
    let (url, tokens) = (flag("url", server.url()), flag("tokens", server.tokens().display()));
    compare_with(&SECRETS, &[arguments, &[&url, &tokens]].concat())
}

fn subjects(ran: &Ran) -> Vec<&str> {
    let rounds = ran.found["rounds"].as_array().unwrap();
    rounds.iter().map(|round| round["subject"].as_str().unwrap()).collect()
}

#[test]
fn servers_take_turns_and_the_report_says_how_they_differ() {
    let server = Server::start(&[]);
    let (pocketbase, centrifugo) = (Double::pocketbase(Trait::None), Double::centrifugo(Trait::History));
    let ran = compare(
        &server,
        &[
            &flag("pocketbase", pocketbase.url()),
            &flag("centrifugo", centrifugo.url()),
            "--centrifugo-namespace=kept",
        ],
    );
    ran.expect(0, "PocketBase: a record is in SQLite before it is acknowledged");
    ran.expect(0, "Centrifugo with history: it keeps no tasks.");
    ran.expect(0, "| page of 50: median, pocketbase against TaskFlow | × |");
    ran.expect(0, "| personal push: p99, centrifugo, kept against TaskFlow | × |");
    let one = [
        "page of 50, taskflow",
        "page of 50, pocketbase",
        "create, taskflow",
        "create, pocketbase",
        "fan-out, taskflow",
        "fan-out, pocketbase",
        "fan-out, centrifugo, kept",
        "personal push, taskflow",
        "personal push, centrifugo, kept",
    ];
    let other = [
        "page of 50, pocketbase",
        "page of 50, taskflow",
        "create, pocketbase",
        "create, taskflow",
        "fan-out, centrifugo, kept",
        "fan-out, pocketbase",
        "fan-out, taskflow",
        "personal push, centrifugo, kept",
        "personal push, taskflow",
    ];
    assert_eq!(subjects(&ran), [&one[..], &other[..]].concat());
    for round in ran.found["rounds"].as_array().unwrap() {
        let (subject, figures) = (round["subject"].as_str().unwrap(), &round["figures"]);
        let samples = round["samples"]["took_ms"].as_array().unwrap();
        // The same random times for each server: about ten in half a second.
        let changes = (figures["done_per_s"].as_f64().unwrap() * 0.5).round() as usize;
        assert!((3..30).contains(&changes), "{subject}: {changes}");
        let screens = match subject.split(',').next().unwrap() {
            "fan-out" => 4,
            "personal push" => 3,
            _ => 1,
        };
        assert_eq!(samples.len(), changes * screens, "{subject}");
        assert!(samples.iter().all(|sample| sample.as_f64().unwrap() > 0.0), "{subject}");
    }
}

#[test]
fn pushes_that_do_not_come_fail_the_comparison_whoever_lost_them() {
    let server = Server::start(&[]);
    let centrifugo = Double::centrifugo(Trait::Loses);
    let ran = compare(&server, &[&flag("centrifugo", centrifugo.url()), "--rounds=1"]);
    ran.expect(
        1,
        "FAILED: not 0: pushes that did not come (fan-out, centrifugo; personal push, centrifugo).",
    );
    ran.expect(1, "Centrifugo without history: it keeps nothing.");
}

#[test]
fn a_client_that_is_late_makes_turns_void() {
    let server = Server::start(&[]);
    let centrifugo = Double::centrifugo(Trait::None);
    let ran = compare(&server, &[&flag("centrifugo", centrifugo.url()), "--late-ms-max=0"]);
    ran.expect(2, "VOID: no turn of something counts.");
    ran.expect(2, "this client was late itself: ");
}

#[test]
fn what_another_server_does_not_allow_is_said_with_what_to_do() {
    let server = Server::start(&[]);
    let refused = |double: &Double, kind: &str, more: &[&str], sentence: &str| {
        compare(&server, &[&[&flag(kind, double.url())[..]], more].concat()).expect(2, sentence);
    };
    let pocketbase = Double::pocketbase(Trait::None);
    let centrifugo = Double::centrifugo(Trait::None);
    refused(
        &pocketbase,
        "centrifugo",
        &[],
        "is no Centrifugo: /api/info is answered with 404",
    );
    refused(
        &centrifugo,
        "pocketbase",
        &[],
        "is no PocketBase: /api/health is answered with 401",
    );
    refused(
        &pocketbase,
        "pocketbase",
        &["--pocketbase-collection=notes"],
        "PocketBase has no collection notes: make one with a text field title",
    );
    refused(
        &Double::pocketbase(Trait::Closed),
        "pocketbase",
        &[],
        "PocketBase does not let the user of POCKETBASE_TOKEN list the records of tasks (403",
    );
    refused(
        &Double::pocketbase(Trait::Silent),
        "pocketbase",
        &[],
        "A record of tasks was made, and who subscribed to it was not told in 10 s: its list rule",
    );
    refused(
        &Double::centrifugo(Trait::Refuses(103)),
        "centrifugo",
        &[],
        "(103 refused): set allow_subscribe_for_client",
    );
    refused(
        &Double::centrifugo(Trait::Refuses(102)),
        "centrifugo",
        &["--centrifugo-namespace=news"],
        "Centrifugo knows no channel news:taskflow-loadtest-0 (102 refused): is --centrifugo-namespace",
    );
    refused(
        &Double::centrifugo(Trait::WantsToken),
        "centrifugo",
        &[],
        "Centrifugo does not let clients in without a token (3500 invalid token): set CENTRIFUGO_TOKEN",
    );
}

#[test]
fn secrets_come_from_the_environment_or_from_files_that_it_names() {
    let server = Server::start(&[]);
    let (url, tokens) = (flag("url", server.url()), flag("tokens", server.tokens().display()));
    let pocketbase = flag("pocketbase", Double::pocketbase(Trait::None).url());
    let centrifugo = flag("centrifugo", Double::centrifugo(Trait::WantsToken).url());
    let run = |secrets: &[(&str, &str)], other: &str| compare_with(secrets, &[&url, &tokens, other, "--rounds=1"]);
    run(&[], &pocketbase).expect(
        2,
        "set POCKETBASE_TOKEN (or POCKETBASE_TOKEN_FILE) to the token of a user",
    );
    run(&[], &centrifugo).expect(2, "set CENTRIFUGO_API_KEY (or CENTRIFUGO_API_KEY_FILE) to http_api.key");
    run(&[("CENTRIFUGO_API_KEY_FILE", "no-such-file")], &centrifugo)
        .expect(2, "CENTRIFUGO_API_KEY_FILE names no-such-file, which cannot be read");
    run(&[("CENTRIFUGO_API_KEY", "another")], &centrifugo).expect(2, "does not take the key of CENTRIFUGO_API_KEY");
    let wrong = [("CENTRIFUGO_API_KEY", API_KEY), ("CENTRIFUGO_TOKEN", "another")];
    run(&wrong, &centrifugo).expect(
        2,
        "Centrifugo does not take the token of CENTRIFUGO_TOKEN (3500 invalid token)",
    );
    run(&[("POCKETBASE_TOKEN", "another")], &pocketbase).expect(2, "list the records of tasks (403");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, format!("{API_KEY}\n")).unwrap();
    let good = [
        ("CENTRIFUGO_API_KEY_FILE", path.to_str().unwrap()),
        ("CENTRIFUGO_TOKEN", TOKEN),
    ];
    run(&good, &centrifugo).expect(0, "Centrifugo without history");
}

#[test]
fn what_cannot_be_compared_is_said_before_anything_is_loaded() {
    let server = Server::start(&[]);
    let (url, tokens) = (flag("url", server.url()), flag("tokens", server.tokens().display()));
    let centrifugo = flag("centrifugo", Double::centrifugo(Trait::None).url());
    let said = |arguments: &[&str], sentence: &str| compare_with(&SECRETS, arguments).expect(2, sentence);
    said(&[&url, &tokens], "--pocketbase <URL>");
    said(
        &[&url, &tokens, "--centrifugo=http://127.0.0.1:1"],
        "Nobody listens on 127.0.0.1:1: is the server running, and is --centrifugo right?",
    );
    said(
        &["--url=http://127.0.0.1:1", &tokens, &centrifugo],
        "Nobody listens on 127.0.0.1:1: is the server running, and is --url right?",
    );
    said(
        &[&url, &tokens, "--centrifugo=nowhere"],
        "nowhere is no address of a server",
    );
    said(
        &[&url, &tokens, &centrifugo, "--rate=1"],
        "--rate times --seconds is at least 2",
    );
    said(
        &[&url, &tokens, &centrifugo, "--followers=0"],
        "--followers and --rounds are at least 1",
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    let all = std::fs::read_to_string(server.tokens()).unwrap();
    std::fs::write(&path, all.lines().next().unwrap()).unwrap();
    said(
        &[&url, &flag("tokens", path.display()), &centrifugo],
        "Two users of TaskFlow at least are needed",
    );
    let ran = compare(&server, &[&centrifugo, "--followers=70"]);
    ran.expect(2, "TaskFlow does not let a user follow (too_many_connections)");
    assert_eq!(ran.found, Value::Null);
}
