//! How a connection lives and ends: hello, heartbeats, tokens, limits, the server's own end.

use std::time::{Duration, Instant};

use crate::support::ws::{FIN, PING, PONG, closing, masked, task};
use crate::support::{
    Account, Client, DEADLINE, ENCODINGS, Encoding, Ended, EventStream, Follower, Raw, Replica, Server, eventually,
    http, in_parallel, json,
};

fn closed(code: u16, name: &str) -> Ended {
    Ended::Closed(Some(code), name.to_owned())
}

#[test]
fn welcome_says_what_the_server_is_and_takes() {
    let server = Server::start(&[]);
    let account = server.user();
    for encoding in ENCODINGS {
        let welcome = Client::connect(&server, encoding).hello(&account, &json!([]));
        assert_eq!(welcome["user"], *account.user);
        assert_eq!(welcome["version"], 1);
        assert_eq!(welcome["protocol"], json!({ "min": 1, "max": 1 }));
        assert_eq!(welcome["heartbeat_ms"], 25_000);
        assert_eq!(welcome["message_bytes_max"], 262_144);
        assert_eq!(welcome["operations_max"], 100);
        assert!(
            welcome["build"]
                .as_str()
                .is_some_and(|build| build.starts_with("taskflow ")),
            "{welcome}"
        );
        let (now, expires) = (
            welcome["time"].as_i64().unwrap(),
            welcome["token_expires_at"].as_i64().unwrap(),
        );
        assert!((3_590_000..=3_600_000).contains(&(expires - now)), "{welcome}");
    }
}

#[test]
fn the_version_is_the_highest_in_both_ranges() {
    let server = Server::start(&[]);
    let account = server.user();
    let hello = |min: i64, max: i64| {
        let mut client = Client::connect(&server, Encoding::Json);
        let protocol = json!({ "min": min, "max": max });
        client.send(&json!({ "hello": { "protocol": protocol, "token": account.token } }));
        client
    };
    for (min, max) in [(1, 1), (0, 1), (1, 2), (0, 65_535)] {
        assert_eq!(hello(min, max).wait_for("welcome")["version"], 1, "{min} to {max}");
    }
    for (min, max) in [(2, 2), (2, 9), (0, 0), (2, 1)] {
        assert_eq!(
            hello(min, max).ended(),
            closed(4109, "version_unsupported"),
            "{min} to {max}"
        );
    }
}

#[test]
fn the_first_message_is_hello_and_only_the_first() {
    let server = Server::start(&[]);
    let account = server.user();
    for encoding in ENCODINGS {
        for message in [
            json!({ "heartbeat": {} }),
            json!({ "follow": {} }),
            json!({ "strange": {} }),
            json!(7),
        ] {
            let mut client = Client::connect(&server, encoding);
            client.send(&message);
            assert_eq!(client.ended(), closed(4108, "hello_expected"), "{message}");
        }
        let mut client = Client::open(&server, encoding, &account);
        client.send_hello(&account.token, &json!([]));
        assert_eq!(client.ended(), closed(4108, "hello_expected"), "a second one");
    }
}

#[test]
fn who_says_no_hello_is_sent_away_even_if_it_pings() {
    let server = Server::start(&[]);
    let begun = Instant::now();
    let mut silent = Client::connect(&server, Encoding::Json);
    let mut pinging = Client::connect(&server, Encoding::MsgPack);
    let mut pings = pinging.raw.stream().try_clone().unwrap();
    let pinger = std::thread::spawn(move || {
        use std::io::Write;
        while pings.write_all(&masked(FIN | PING, b"")).is_ok() && begun.elapsed() < DEADLINE {
            std::thread::park_timeout(Duration::from_millis(200));
        }
    });
    assert_eq!(silent.ended(), closed(4112, "hello_timeout"));
    assert_eq!(pinging.ended(), closed(4112, "hello_timeout"));
    let took = begun.elapsed();
    assert!(
        (Duration::from_secs(9)..Duration::from_secs(20)).contains(&took),
        "{took:?}"
    );
    for client in [silent, pinging] {
        assert_eq!(client.stash[0]["reconnect"]["code"], 112);
    }
    assert_eq!(server.metric("taskflow_evictions_total{reason=\"hello_timeout\"}"), 2.0);
    pinger.join().unwrap();
}

#[test]
fn a_connection_that_a_proxy_keeps_for_the_next_request_is_not_closed_under_it() {
    let server = Server::start(&[]);
    let mut kept = http::Connection::open(server.address);
    let mut ask = || {
        kept.send("GET", "/.well-known/jwks.json", &["connection: keep-alive"], b"");
        kept.response().status
    };
    assert_eq!(ask(), 200);
    // Ten seconds: no proxy in front of a server that closes sooner knows whether its request arrived.
    let mut silent = Client::connect(&server, Encoding::Json);
    assert_eq!(silent.ended(), closed(4112, "hello_timeout"));
    assert_eq!(ask(), 200);
}

#[test]
fn who_answers_heartbeats_stays_and_who_is_silent_goes() {
    let server = Server::start(&["--heartbeat-ms=1000"]);
    let account = server.user();
    let begun = Instant::now();
    let mut silent = Client::open(&server, Encoding::Json, &account);
    silent.is_alive = false;
    let mut ponging = Client::open(&server, Encoding::Json, &account);
    let mut alive = Client::open(&server, Encoding::MsgPack, &account);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // It reads, and answers nothing.
            assert_eq!(silent.ended(), closed(4510, "heartbeat_missed"));
            let took = begun.elapsed();
            assert!(
                (Duration::from_secs(2)..Duration::from_secs(10)).contains(&took),
                "{took:?}"
            );
            assert_eq!(silent.stash[0]["reconnect"]["code"], 510);
        });
        scope.spawn(|| {
            // Every byte is life, not only a heartbeat.
            while begun.elapsed() < Duration::from_secs(6) {
                ponging.raw.send(&masked(FIN | PONG, b""));
                ponging.flush();
                std::thread::park_timeout(Duration::from_millis(300));
            }
        });
        scope.spawn(|| {
            let mut beats = 0;
            while begun.elapsed() < Duration::from_secs(6) {
                let frame = alive.raw.frame().expect("it lives");
                assert_eq!(alive.encoding.decode(&frame.payload), json!({ "heartbeat": {} }));
                beats += 1;
                let answer = alive.frame_of(&json!({ "heartbeat": {} }));
                alive.raw.send(&answer);
            }
            assert!((4..=8).contains(&beats), "{beats} heartbeats in 6 s");
        });
    });
    ponging.flush();
    alive.flush();
    assert_eq!(
        server.metric("taskflow_evictions_total{reason=\"heartbeat_missed\"}"),
        1.0
    );
}

#[test]
fn a_refreshed_token_carries_a_connection_beyond_the_old_one_and_an_expired_one_ends_it() {
    // Heartbeats are long in coming: the token ends by itself.
    let server = Server::start(&["--access-token-seconds=10", "--heartbeat-ms=50000"]);
    let account = server.register();
    let begun = Instant::now();
    let mut kept = Client::connect(&server, Encoding::Json);
    let first = kept.hello(&account, &json!([]))["token_expires_at"].as_i64().unwrap();
    let mut left = Client::open(&server, Encoding::MsgPack, &account);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(left.ended(), closed(4202, "token_expired"));
            assert_eq!(left.stash.back().unwrap()["error"]["name"], "token_expired");
            let took = begun.elapsed();
            assert!(
                (Duration::from_secs(8)..Duration::from_secs(18)).contains(&took),
                "{took:?}"
            );
        });
        scope.spawn(|| {
            // Until a token is a few seconds younger: times in tokens are whole seconds.
            let mut refresh = account.refresh.clone();
            eventually("a later token", || {
                let answer = http::post(
                    server.address,
                    "/api/v1/auth/refresh",
                    &[],
                    &json!({ "refresh_token": refresh }),
                );
                assert_eq!(answer.status, 200, "{answer:?}");
                let answer = answer.json();
                refresh = answer["refresh_token"].as_str().unwrap().to_owned();
                kept.send(&json!({ "refresh": { "token": answer["access_token"] } }));
                let expires = kept.wait_for("refreshed")["token_expires_at"].as_i64().unwrap();
                std::thread::park_timeout(Duration::from_millis(500));
                (expires >= first + 5_000).then_some(())
            });
            while begun.elapsed() < Duration::from_secs(12) {
                kept.flush();
                std::thread::park_timeout(Duration::from_millis(300));
            }
        });
    });
    kept.accept(&task("still here")["command"]);
}

#[test]
fn a_token_of_another_user_or_none_does_not_refresh() {
    let server = Server::start(&[]);
    let (account, other) = (server.user(), server.user());
    let mut client = Client::open(&server, Encoding::Json, &account);
    for (token, name) in [(other.token.as_str(), "token_invalid"), ("nonsense", "token_invalid")] {
        client.send(&json!({ "refresh": { "token": token } }));
        let error = client.wait_for("error");
        assert_eq!(
            (&error["name"], &error["field"]),
            (&json!(name), &json!("refresh.token"))
        );
    }
    let expired = server.mint(&account.user, &["--seconds=-60"]);
    client.send(&json!({ "refresh": { "token": expired } }));
    assert_eq!(client.wait_for("error")["name"], "token_expired");
    // The token that it has is as good as before.
    client.accept(&task("as before")["command"]);
}

#[test]
fn a_sign_out_closes_its_connections_and_no_others() {
    let server = Server::start(&[]);
    let first = server.register();
    let login = |account: &Account| {
        let body = json!({ "email": account.email, "password": crate::support::server::PASSWORD });
        let answer = http::post(server.address, "/api/v1/auth/login", &[], &body);
        Account::of(&answer, account.email.clone())
    };
    let second = login(&first);
    let mut firsts: Vec<_> = ENCODINGS.map(|encoding| Client::open(&server, encoding, &first)).into();
    // One that came in under the second sign-in and was renewed under the first.
    let mut renewed = Client::open(&server, Encoding::Json, &second);
    renewed.send(&json!({ "refresh": { "token": first.token } }));
    renewed.wait_for("refreshed");
    firsts.push(renewed);
    let mut stream = EventStream::open(server.address, "/api/v1/events", &[&first.bearer()]).unwrap();
    stream.wait_for("snapshot");
    let mut seconds: Vec<_> = ENCODINGS
        .map(|encoding| Client::open(&server, encoding, &second))
        .into();
    let begun = Instant::now();
    let body = json!({ "refresh_token": first.refresh });
    assert_eq!(
        http::post(server.address, "/api/v1/auth/logout", &[], &body).status,
        204
    );
    for client in &mut firsts {
        assert_eq!(client.ended(), closed(4203, "signed_out"));
    }
    assert_eq!(stream.wait_for("reconnect").data["code"], 203);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    for client in &mut seconds {
        client.accept(&task("still in")["command"]);
    }
    let mut late = Client::connect(&server, Encoding::Json);
    late.send_hello(&first.token, &json!([]));
    assert_eq!(late.ended(), closed(4203, "signed_out"));
}

#[test]
fn a_user_has_so_many_connections_and_no_more() {
    let server = Server::start(&["--connections-a-user-max=3"]);
    let (account, other) = (server.user(), server.user());
    let mut clients: Vec<_> = (0..3)
        .map(|_| Client::open(&server, Encoding::Json, &account))
        .collect();
    let mut refused = Client::connect(&server, Encoding::Json);
    refused.send_hello(&account.token, &json!([]));
    assert_eq!(refused.ended(), closed(4507, "too_many_connections"));
    // Whoever is in stays in, and others are not concerned.
    for client in &mut clients {
        client.flush();
    }
    Client::open(&server, Encoding::Json, &other);
    // With one gone there is room for one.
    clients[0].raw.send(&closing(1000, b""));
    assert_eq!(clients[0].ended().code(), Some(1000));
    eventually("room again", || {
        let mut client = Client::connect(&server, Encoding::Json);
        client.send_hello(&account.token, &json!([]));
        client
            .next()
            .is_ok_and(|message| message.get("welcome").is_some())
            .then_some(())
    });
}

#[test]
fn event_streams_and_sockets_share_the_users_connections() {
    let server = Server::start(&["--connections-a-user-max=2"]);
    let account = server.user();
    let _socket = Client::open(&server, Encoding::Json, &account);
    let _stream = EventStream::open(server.address, "/api/v1/events", &[&account.bearer()]).expect("the second");
    let third = EventStream::open(server.address, "/api/v1/events", &[&account.bearer()]);
    assert_eq!(third.err().map(|response| response.status), Some(429));
    let mut third = Client::connect(&server, Encoding::Json);
    third.send_hello(&account.token, &json!([]));
    assert_eq!(third.ended(), closed(4507, "too_many_connections"));
}

#[test]
fn a_slow_reader_is_cut_the_others_are_not_and_it_catches_up() {
    let server = Server::start(&["--outbound-bytes-max=1048576"]);
    let account = server.user();
    let mut author = Follower::start(&server, Encoding::Json, &account);
    let mut reader = Follower::start(&server, Encoding::MsgPack, &account);
    let small = Client::over(Raw::connect_small(server.address), Encoding::Json);
    let mut slow = Follower::over(small, &account, Default::default());
    // It stops reading here. What follows is more than its queue and the kernel hold.
    let notes = "x".repeat(50_000);
    let evicted = "taskflow_evictions_total{reason=\"too_slow\"}";
    eventually("the eviction", || {
        let operation = json!({ "id": crate::support::id(), "command": { "task_create": {
            "task": crate::support::id(), "title": "large", "notes": notes,
        } } });
        assert!(author.client.submit(&operation)["accepted"].is_object());
        let seq = author.replica.position + 1;
        author.until_seq(seq);
        reader.until_seq(seq);
        (server.metric(evicted) > 0.0).then_some(())
    });
    assert_eq!(server.metric(evicted), 1.0);
    let last = author.replica.position;
    // It wakes up, reads what the kernel still has, and finds itself cut off, with or without hearing why.
    loop {
        match slow.client.next() {
            Ok(message) => {
                if message.get("reconnect").is_some() {
                    assert_eq!(message["reconnect"]["code"], 508);
                } else {
                    assert!(slow.take(&message), "{message}");
                }
            }
            Err(ended) => {
                assert!(
                    matches!(ended, Ended::Cut) || ended == closed(4508, "too_slow"),
                    "{ended:?}"
                );
                break;
            }
        }
    }
    assert!(slow.replica.position < last, "it missed something");
    let mut again = Follower::resume(&server, Encoding::Json, &account, slow.replica);
    assert_eq!(again.following["mode"], "entries");
    again.until_seq(last);
    assert_eq!(again.replica.rows, author.replica.rows);
    assert_eq!(again.replica.entries, author.replica.entries);
    server.wait_for_metric("taskflow_queue_bytes", |bytes| bytes == 0.0);
}

#[test]
fn when_all_queues_together_are_too_full_the_fullest_is_cut_and_nobody_who_reads() {
    let server = Server::start(&["--outbound-bytes-total-max=3145728"]);
    let account = server.user();
    let mut author = Follower::start(&server, Encoding::Json, &account);
    // Some on each worker.
    let mut readers: Vec<_> = (0..8)
        .map(|index| Follower::start(&server, ENCODINGS[index % 2], &account))
        .collect();
    let slow: Vec<_> = (0..4)
        .map(|_| {
            let small = Client::over(Raw::connect_small(server.address), Encoding::Json);
            Follower::over(small, &account, Default::default())
        })
        .collect();
    // They stop reading here, and none of them alone has more than one may have.
    let notes = "x".repeat(50_000);
    let evicted = "taskflow_evictions_total{reason=\"queues_full\"}";
    eventually("the eviction", || {
        let seq = author.client.accept(&json!({ "task_create": {
            "task": crate::support::id(), "title": "large", "notes": notes,
        } }));
        for reader in readers.iter_mut().chain([&mut author]) {
            reader.until_seq(seq);
        }
        (server.metric(evicted) > 0.0).then_some(())
    });
    assert_eq!(server.metric("taskflow_evictions_total{reason=\"too_slow\"}"), 0.0);
    for reader in &mut readers {
        reader.client.flush();
    }
    let last = author.replica.position;
    let mut cut = 0.0;
    for mut follower in slow {
        let ended = loop {
            match follower.client.next() {
                Ok(message) if message.get("reconnect").is_some() => {
                    assert_eq!(message["reconnect"]["code"], 508);
                }
                Ok(message) => assert!(follower.take(&message), "{message}"),
                Err(ended) => break Some(ended),
            }
            if follower.replica.position == last {
                break None;
            }
        };
        if let Some(ended) = ended {
            cut += 1.0;
            assert!(
                matches!(ended, Ended::Cut) || ended == closed(4508, "too_slow"),
                "{ended:?}"
            );
            follower = Follower::resume(&server, Encoding::Json, &account, follower.replica);
            assert_eq!(follower.following["mode"], "entries");
            follower.until_seq(last);
        }
        assert_eq!(follower.replica.rows, author.replica.rows);
    }
    assert_eq!(server.metric(evicted), cut);
}

#[test]
fn the_queue_of_one_does_not_cost_others_their_connection() {
    // On each worker are some who read; on one of them is who does not, and fills its queue by itself.
    let server = Server::start(&["--outbound-bytes-max=67108864", "--outbound-bytes-total-max=1048576"]);
    let (account, other) = (server.user(), server.user());
    let mut author = Follower::start(&server, Encoding::Json, &account);
    let mut readers: Vec<_> = (0..8)
        .map(|_| Follower::start(&server, Encoding::Json, &account))
        .collect();
    let mut client = Client::over(Raw::connect_small(server.address), Encoding::Json);
    client.hello(&other, &json!([]));
    let frame = client.frame_of(&json!({ "unfollow": {} })).repeat(1000);
    eventually("the eviction", || {
        client.raw.try_send(&frame);
        let seq = author.client.accept(&task("meanwhile")["command"]);
        for reader in readers.iter_mut().chain([&mut author]) {
            reader.until_seq(seq);
        }
        (server.metric("taskflow_evictions_total{reason=\"queues_full\"}") > 0.0).then_some(())
    });
    let seq = author.client.accept(&task("afterwards")["command"]);
    for reader in readers.iter_mut().chain([&mut author]) {
        reader.until_seq(seq);
    }
    assert_eq!(server.metric("taskflow_evictions_total{reason=\"queues_full\"}"), 1.0);
}

#[test]
fn a_queue_that_fills_while_nothing_is_published_is_cut_too() {
    let server = Server::start(&["--outbound-bytes-max=67108864", "--outbound-bytes-total-max=1048576"]);
    let account = server.user();
    let mut client = Client::over(Raw::connect_small(server.address), Encoding::Json);
    client.hello(&account, &json!([]));
    let frame = client.frame_of(&json!({ "unfollow": {} })).repeat(1000);
    client.raw.try_send(&frame.repeat(20));
    server.wait_for_metric("taskflow_evictions_total{reason=\"queues_full\"}", |count| count == 1.0);
    server.wait_for_metric("taskflow_connections", |count| count == 0.0);
}

#[test]
fn a_client_that_never_reads_its_answers_is_cut() {
    let server = Server::start(&["--outbound-bytes-max=1048576"]);
    let account = server.user();
    let mut client = Client::over(Raw::connect_small(server.address), Encoding::Json);
    client.hello(&account, &json!([]));
    let frame = client.frame_of(&json!({ "unfollow": {} })).repeat(1000);
    eventually("the eviction", || {
        client.raw.try_send(&frame);
        (server.metric("taskflow_evictions_total{reason=\"too_slow\"}") == 1.0).then_some(())
    });
    server.wait_for_metric("taskflow_connections", |count| count == 0.0);
}

#[test]
fn a_server_that_stops_tells_everyone_and_ends_well() {
    let mut server = Server::start(&["--heartbeat-ms=1000"]);
    let account = server.user();
    let mut followers: Vec<_> = ENCODINGS
        .map(|encoding| Follower::start(&server, encoding, &account))
        .into();
    let mut waiting = Client::connect(&server, Encoding::Json);
    let mut stream = EventStream::open(server.address, "/api/v1/events", &[&account.bearer()]).unwrap();
    let done = stream.wait_for("snapshot");
    assert!(
        done.data.get("done").is_some() || done.data["snapshot"].get("done").is_some(),
        "{done:?}"
    );
    for follower in &mut followers {
        follower.client.accept(&task("before the end")["command"]);
    }
    let operator = server.operator;
    let begun = Instant::now();
    server.signal(rustix::process::Signal::TERM);
    for client in followers
        .iter_mut()
        .map(|follower| &mut follower.client)
        .chain([&mut waiting])
    {
        assert_eq!(client.ended(), closed(1012, "shutting_down"));
        let reconnect = client.stash.back().expect("a word before")["reconnect"].clone();
        assert_eq!(reconnect["code"], 509);
        assert!(reconnect["after_ms"].as_u64() >= Some(500), "{reconnect}");
        assert!(reconnect["window_ms"].as_u64() > Some(0), "{reconnect}");
    }
    loop {
        let event = stream.next().expect("a last word");
        if event.event == "reconnect" {
            let data = event.data.get("reconnect").unwrap_or(&event.data);
            assert_eq!(data["code"], 509);
            break;
        }
    }
    assert_eq!(stream.next(), None);
    drop((followers, waiting, stream));
    let status = server.exit_status();
    assert_eq!(status.code(), Some(0), "{}", server.log.text());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(std::net::TcpStream::connect(operator).is_err(), "it is gone");
}

#[test]
fn a_server_that_stops_takes_no_new_connections() {
    // A client that does not leave holds the drain up for some seconds: time to look.
    let mut server = Server::start(&[]);
    let account = server.user();
    let mut stubborn = Client::open(&server, Encoding::Json, &account);
    let mut early = Raw::connect(server.address);
    let probe = http::request(server.operator, "GET", "/health/ready", &[], b"");
    assert_eq!(probe.status, 200);
    server.signal(rustix::process::Signal::TERM);
    // It hears, and does not answer.
    stubborn.wait_for("reconnect");
    let response = early.upgrade(&[]);
    assert_eq!(
        (response.status, &response.json()["name"]),
        (503, &json!("shutting_down")),
        "{response:?}"
    );
    let ready = http::request(server.operator, "GET", "/health/ready", &[], b"");
    assert_eq!(ready.status, 503, "{ready:?}");
    assert_eq!(
        http::request(server.operator, "GET", "/health/live", &[], b"").status,
        200
    );
    // The client that stays is cut in the end.
    assert_eq!(server.exit_status().code(), Some(0));
}

#[test]
fn many_connections_come_and_go_and_none_stays() {
    let server = Server::start(&["--connections-a-user-max=1000"]);
    let account = server.user();
    in_parallel(0..8, |index| {
        for round in 0..25 {
            let encoding = ENCODINGS[(index + round) % 2];
            match round % 5 {
                0 => drop(Raw::connect(server.address)),
                1 => drop(Client::connect(&server, encoding)),
                2 => drop(Client::open(&server, encoding, &account)),
                3 => drop(Follower::start(&server, encoding, &account)),
                _ => {
                    let mut client = Client::open(&server, encoding, &account);
                    client.raw.send(&closing(1000, b""));
                    assert_eq!(client.ended().code(), Some(1000));
                }
            }
        }
    });
    server.wait_for_metric("taskflow_connections", |count| count == 0.0);
    // Nothing of them counts against the user.
    let limited = Server::start(&["--connections-a-user-max=1"]);
    let account = limited.user();
    for _ in 0..20 {
        let mut client = eventually("the one before is gone", || {
            let mut client = Client::connect(&limited, Encoding::Json);
            client.send_hello(&account.token, &json!([{}]));
            client
                .next()
                .is_ok_and(|message| message.get("welcome").is_some())
                .then_some(client)
        });
        client.wait_for("following");
    }
}

/// The server's threads: the name of each, and whether it waits until others have done their turn.
fn threads(server: &Server) -> Vec<(String, bool)> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid().as_raw_nonzero())).unwrap();
    let of = |task: std::io::Result<std::fs::DirEntry>| {
        let path = task.ok()?.path();
        let name = std::fs::read_to_string(path.join("comm")).ok()?;
        let stat = std::fs::read_to_string(path.join("stat")).ok()?;
        // The policy is field 41, and the name, which is field 2, may have spaces (proc_pid_stat(5)).
        let policy = stat.rsplit_once(')')?.1.split_whitespace().nth(38)?.to_owned();
        Some((name.trim().to_owned(), policy == "3"))
    };
    tasks.filter_map(of).collect()
}

/// The server's arbiters: threads for connections, that of the operator's port, and those for feeds.
fn arbiters(server: &Server) -> usize {
    let names = threads(server).into_iter().map(|(name, _)| name);
    names.filter(|name| name.starts_with("actix-rt")).count()
}

/// The threads that wait until others have done their turn.
fn that_give_way(server: &Server) -> Vec<String> {
    let give_way = threads(server).into_iter().filter(|(_, gives_way)| *gives_way);
    give_way.map(|(name, _)| name).collect()
}

#[test]
fn one_thread_for_feeds_is_the_main_one_and_two_are_their_own() {
    let [mut one, two] = ["--feed-arbiters=1", "--feed-arbiters=2"].map(|flag| Server::start(&[flag]));
    // Threads name themselves, once they run.
    eventually("two for connections, one for operators, two for feeds", || {
        (arbiters(&two) == 5).then_some(())
    });
    assert_eq!(that_give_way(&two), ["actix-rt|system"; 2]);
    eventually("of one that runs all feeds only that thread gives way", || {
        (that_give_way(&one) == ["taskflow"]).then_some(())
    });
    let account = one.user();
    let mut follower = Follower::start(&one, Encoding::Json, &account);
    for _ in 0..20 {
        let outcome = one.submit(&account, &task("on the main thread"));
        assert!(outcome.get("accepted").is_some(), "{outcome}");
    }
    follower.until_seq(21);
    assert_eq!(arbiters(&one), 3);
    let shown = follower.replica;
    drop(follower.client);
    assert!(one.stop().success());
    one.restart();
    assert_eq!(Replica::of(&one, &account).rows, shown.rows);
}
