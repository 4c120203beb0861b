//! Following without a WebSocket: the same entries, from the same cursors, with the same resets.

use std::time::{Duration, Instant};

use crate::support::ws::task;
use crate::support::{
    Account, Client, ENCODINGS, Encoding, EventStream, Follower, Replica, Server, Value, eventually, in_parallel, json,
};

fn stream(server: &Server, account: &Account, headers: &[&str]) -> EventStream {
    let bearer = account.bearer();
    let mut all = vec![bearer.as_str()];
    all.extend(headers);
    EventStream::open(server.address, "/api/v1/events", &all).expect("a stream")
}

/// Reads events until the copy is there; the stream's `Last-Event-ID` goes along.
fn read(stream: &mut EventStream, replica: &mut Replica, until: u64) {
    while replica.position < until || replica.cursor.is_none() {
        let event = stream.next().expect("it goes on");
        match event.event.as_str() {
            "reset" => {
                *replica = Replica {
                    entries: std::mem::take(&mut replica.entries),
                    ..Replica::default()
                }
            }
            "snapshot" => {
                let is_done = replica.apply_snapshot(&event.data);
                assert_eq!(event.id.is_some(), is_done, "only the last piece has an id");
            }
            "entries" => {
                replica.apply_entries(&event.data);
                assert!(event.id.is_some());
            }
            other => panic!("{other}: {}", event.data),
        }
        if event.id.is_some() {
            assert_eq!(event.id, replica.cursor, "the id is the cursor");
        }
    }
}

/// What `/changes` has from here on, call by call.
fn poll(server: &Server, account: &Account, cursor: &str, limit: usize) -> (Vec<Value>, String) {
    let mut cursor = cursor.to_owned();
    let mut entries = Vec::new();
    loop {
        let answer = server.get(&format!("/api/v1/changes?cursor={cursor}&limit={limit}"), account);
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        let some = answer["entries"].as_array().unwrap();
        assert!(some.len() <= limit);
        assert_eq!(
            answer["following"]["mode"],
            if some.is_empty() { "up_to_date" } else { "entries" }
        );
        entries.extend(some.clone());
        cursor = answer["cursor"].as_str().unwrap().to_owned();
        if answer["more"] == false {
            return (entries, cursor);
        }
        assert!(!some.is_empty());
    }
}

#[test]
fn stream_poll_and_sockets_say_the_same() {
    let server = Server::start(&[]);
    let account = server.user();
    let mut sockets = ENCODINGS.map(|encoding| Follower::start(&server, encoding, &account));
    let mut replica = Replica::default();
    let mut events = stream(&server, &account, &[]);
    read(&mut events, &mut replica, 1);
    let start = replica.cursor.clone().unwrap();
    let mut author = Client::open(&server, Encoding::Json, &account);
    let mut last = 1;
    for round in 0..20 {
        let operations: Vec<_> = (0..=round % 5).map(|_| task("t")).collect();
        author.send_operations(&operations);
        last += operations.len() as u64;
        read(&mut events, &mut replica, last);
        for socket in &mut sockets {
            socket.until_seq(last);
        }
    }
    for socket in &sockets {
        assert_eq!(socket.replica.entries, replica.entries);
        assert_eq!(socket.replica.rows, replica.rows);
        assert_eq!(socket.replica.cursor, replica.cursor);
    }
    for limit in [1, 7, 500] {
        let (entries, cursor) = poll(&server, &account, &start, limit);
        assert_eq!(
            (&entries, Some(cursor)),
            (&replica.entries, replica.cursor.clone()),
            "limit {limit}"
        );
    }
    assert_eq!(Replica::of(&server, &account).rows, replica.rows);
    // A cursor of one way is good for the others.
    let resumed = Follower::resume(&server, Encoding::MsgPack, &account, replica);
    assert_eq!(resumed.following["mode"], "up_to_date");
}

#[test]
fn a_stream_that_breaks_goes_on_where_it_was() {
    let server = Server::start(&["--connections-a-user-max=1000"]);
    let account = server.user();
    let total = 150;
    in_parallel(0..3, |thread| {
        if thread == 0 {
            let mut author = Client::open(&server, Encoding::Json, &account);
            for _ in 0..total {
                author.accept(&task("t")["command"]);
            }
            return;
        }
        let mut replica = Replica::default();
        while replica.position < 1 + total {
            let mut events = match &replica.cursor {
                None => stream(&server, &account, &[]),
                // The header goes before the parameter: the browser sets it, the address stays as it was.
                Some(id) => {
                    let headers = [account.bearer(), format!("last-event-id: {id}")];
                    let path = format!("/api/v1/events?cursor={}", "0".repeat(32));
                    let headers = headers.iter().map(String::as_str).collect::<Vec<_>>();
                    EventStream::open(server.address, &path, &headers).expect("a stream")
                }
            };
            let until = (replica.position + 9).min(1 + total);
            read(&mut events, &mut replica, until);
        }
        assert_eq!(replica.rows.len() as u64, 2 + total);
    });
}

#[test]
fn a_cursor_that_leads_nowhere_is_a_reset_and_what_is_none_is_refused() {
    let server = Server::start(&[]);
    let (account, other) = (server.user(), server.user());
    let cursor = Replica::of(&server, &account).cursor.unwrap();
    let foreign = Replica::of(&server, &other).cursor.unwrap();
    let ahead = format!("{}{:016x}", &cursor[..16], 1_000_000);
    for (cursor, reason) in [
        (foreign, "epoch_changed"),
        ("0".repeat(32), "epoch_changed"),
        (ahead, "cursor_ahead"),
    ] {
        let answer = server.get(&format!("/api/v1/changes?cursor={cursor}&wait=50"), &account);
        let following = &answer.json()["following"];
        assert_eq!(
            (&following["mode"], &following["reason"]),
            (&json!("reset"), &json!(reason)),
            "{answer:?}"
        );
        assert_eq!(answer.json().get("cursor"), None);
        assert_eq!(answer.json()["snapshot"], "/api/v1/snapshot");
        let mut events = stream(&server, &account, &[&format!("last-event-id: {cursor}")]);
        let event = events.next().unwrap();
        assert_eq!((event.event.as_str(), &event.data["reason"]), ("reset", &json!(reason)));
        let mut replica = Replica::default();
        read(&mut events, &mut replica, 1);
        assert_eq!(replica, Replica::of(&server, &account));
    }
    let none = server.get("/api/v1/changes", &account).json();
    assert_eq!(none["following"]["reason"], "no_cursor");
    for path in [
        "/api/v1/changes?cursor=x",
        "/api/v1/events?cursor=x",
        "/api/v1/changes?cursor=",
    ] {
        let answer = server.get(path, &account);
        assert_eq!(
            (answer.status, &answer.json()["name"]),
            (400, &json!("cursor_invalid")),
            "{path}"
        );
    }
    let bearer = account.bearer();
    let refused = EventStream::open(server.address, "/api/v1/events", &[&bearer, "last-event-id: x"]);
    assert_eq!(
        refused.err().map(|answer| answer.json()["name"].clone()),
        Some(json!("cursor_invalid"))
    );
}

#[test]
fn a_long_poll_waits_for_what_comes_or_for_its_time() {
    let server = Server::start(&[]);
    let account = server.user();
    let cursor = Replica::of(&server, &account).cursor.unwrap();
    // Nothing comes: an empty answer after the time, with the same cursor.
    let begun = Instant::now();
    let answer = server
        .get(&format!("/api/v1/changes?cursor={cursor}&wait=1"), &account)
        .json();
    let took = begun.elapsed();
    assert!(
        (Duration::from_millis(950)..Duration::from_secs(8)).contains(&took),
        "{took:?}"
    );
    assert_eq!(answer["following"]["mode"], "up_to_date");
    assert_eq!((&answer["entries"], &answer["cursor"]), (&json!([]), &json!(cursor)));
    // Something comes: at once, to all who wait.
    let mut author = Client::open(&server, Encoding::Json, &account);
    let waiting = std::sync::Barrier::new(9);
    std::thread::scope(|scope| {
        let polls: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    waiting.wait();
                    server
                        .get(&format!("/api/v1/changes?cursor={cursor}&wait=50"), &account)
                        .json()
                })
            })
            .collect();
        waiting.wait();
        let open = "taskflow_connections";
        server.wait_for_metric(open, |count| count == 9.0);
        let begun = Instant::now();
        let operation = task("wake up");
        author.submit(&operation);
        for poll in polls {
            let answer = poll.join().unwrap();
            assert_eq!(answer["entries"][0]["operation"], operation["id"]);
            assert_eq!(answer["entries"].as_array().unwrap().len(), 1);
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    });
    // What is there already is not waited for.
    let begun = Instant::now();
    let answer = server
        .get(&format!("/api/v1/changes?cursor={cursor}&wait=50"), &account)
        .json();
    assert_eq!(answer["following"]["mode"], "entries");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_large_feed_is_polled_streamed_and_taken_as_a_snapshot_whole() {
    let server = Server::start(&[]);
    let account = server.user();
    let start = Replica::of(&server, &account).cursor.unwrap();
    let mut author = Client::open(&server, Encoding::MsgPack, &account);
    // More than one read of the log brings, in commits that are large.
    for round in 0..40 {
        let command =
            |_| json!({ "task_create": { "task": crate::support::id(), "title": "t", "notes": "x".repeat(2_000) } });
        let commands: Vec<_> = (0..30).map(command).collect();
        let seq = author.accept(&json!({ "batch": { "commands": commands } }));
        assert_eq!(seq, 2 + round);
    }
    let truth = Replica::of(&server, &account);
    assert_eq!(truth.rows.len(), 2 + 1_200);
    let (entries, cursor) = poll(&server, &account, &start, 500);
    assert_eq!((entries.len(), Some(&cursor)), (40, truth.cursor.as_ref()));
    let mut replica = Replica {
        position: 1,
        ..Replica::default()
    };
    let mut events = stream(&server, &account, &[&format!("last-event-id: {start}")]);
    read(&mut events, &mut replica, 41);
    assert_eq!(replica.entries, entries);
    // A socket from the same cursor: 2.5 MB to catch up, without waiting for anything new.
    for encoding in ENCODINGS {
        let rows = truth.rows.iter().filter(|((kind, _), _)| kind != "task");
        let rows = rows.map(|(key, row)| (key.clone(), row.clone())).collect();
        let replica = Replica {
            position: 1,
            cursor: Some(start.clone()),
            rows,
            ..Replica::default()
        };
        let follower = Follower::resume(&server, encoding, &account, replica);
        assert_eq!(follower.following["mode"], "entries");
        assert_eq!(follower.replica.rows, truth.rows);
        assert_eq!(follower.replica.entries, entries);
    }
}

#[test]
fn an_expired_token_ends_a_stream_with_a_word() {
    let server = Server::start(&["--access-token-seconds=10"]);
    let account = server.register();
    let mut events = stream(&server, &account, &[]);
    events.wait_for("snapshot");
    let begun = Instant::now();
    assert_eq!(events.wait_for("reconnect").data["code"], 202);
    assert!(begun.elapsed() > Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(events.next(), None);
}

#[test]
fn a_client_of_a_stream_that_vanishes_gives_its_place_back() {
    let server = Server::start(&["--connections-a-user-max=2"]);
    let account = server.user();
    let mut author = Client::open(&server, Encoding::Json, &account);
    for _ in 0..10 {
        let mut events = crate::support::eventually("a place", || {
            // The one before is noticed when it is written to.
            author.accept(&task("t")["command"]);
            EventStream::open(server.address, "/api/v1/events", &[&account.bearer()]).ok()
        });
        events.wait_for("snapshot");
    }
}

#[test]
fn a_look_waits_until_the_feed_has_come_as_far_as_a_cursor() {
    let server = Server::start(&[]);
    let account = server.user();
    let made = |title: &str| {
        let made = server.post("/api/v1/tasks", &account, &json!({ "title": title }));
        assert_eq!(made.status, 201, "{made:?}");
    };
    let looks = [
        "tasks?limit=1",
        "tasks?sort=due",
        "lists?",
        "labels?",
        "settings?",
        "statistics?",
        "activity?",
        "snapshot?",
        "export?",
    ];
    let look = |look: &str, cursor: &str| server.get(&format!("/api/v1/{look}&wait_for={cursor}"), &account);
    made("here");
    let here = Replica::of(&server, &account).cursor.expect("a cursor");
    let (epoch, seq) = here.split_at(16);
    let next = u64::from_str_radix(seq, 16).unwrap() + 1;
    let next = format!("{epoch}{next:016x}");
    for path in looks {
        assert_eq!(look(path, &here).status, 200, "{path}");
    }
    let task = server.get("/api/v1/tasks", &account).json()["items"][0]["id"].clone();
    let task = format!("tasks/{}?", task.as_str().unwrap());
    assert_eq!(look(&task, &here).status, 200);
    // What is not there yet is waited for.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| look("tasks?limit=500", &next));
        eventually("it waits", || {
            (server.metric("taskflow_connections{kind=\"request\"}") >= 1.0).then_some(())
        });
        made("later");
        let found = waiting.join().unwrap().json();
        let titles: Vec<_> = found["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|task| &task["title"])
            .collect();
        assert_eq!(titles, ["here", "later"]);
    });
    // What can never be there is not.
    let other = format!("{:016x}{seq}", u64::from_str_radix(epoch, 16).unwrap() ^ 1);
    for cursor in ["", "nonsense", other.as_str()] {
        for path in looks {
            let refused = look(path, cursor);
            assert_eq!(refused.status, 400, "{path} {cursor}: {refused:?}");
            assert_eq!(refused.json()["name"], "cursor_invalid");
            assert_eq!(refused.json()["field"], "wait_for");
        }
    }
    let twice = look("lists?", &format!("{here}&wait_for={here}"));
    assert_eq!((twice.status, &twice.json()["name"]), (400, &json!("invalid_field")));
    // Whoever looks at something else has nothing to wait for.
    for path in ["sessions?", "changes?", "history?"] {
        let refused = look(path, &here);
        assert_eq!(
            (refused.status, &refused.json()["name"]),
            (400, &json!("invalid_field")),
            "{path}"
        );
    }
}
