//! Following a feed: live order, catching up from every place, resets, snapshots, and nothing lost or doubled between.

use crate::support::ws::{operation, task};
use crate::support::{
    Account, Client, ENCODINGS, Encoding, Follower, Raw, Replica, Server, Value, eventually, id, in_parallel, json,
};

fn user_of(account: &Account) -> Value {
    json!(account.user)
}

/// Makes so many tasks, a hundred in an operation.
fn fill(client: &mut Client, count: usize) {
    let mut left = count;
    while left > 0 {
        let now = left.min(100);
        let commands: Vec<_> = (0..now)
            .map(|index| json!({ "task_create": { "task": id(), "title": format!("task {}", left - index) } }))
            .collect();
        client.accept(&json!({ "batch": { "commands": commands } }));
        left -= now;
    }
}

#[test]
fn every_follower_sees_the_same_entries_in_the_same_order() {
    let server = Server::start(&[]);
    let account = server.user();
    let mut followers: Vec<_> = (0..24)
        .map(|index| Follower::start(&server, ENCODINGS[index % 2], &account))
        .collect();
    let mut author = Client::open(&server, Encoding::MsgPack, &account);
    let mut sent = Vec::new();
    for round in 0..30 {
        // One at a time, and many at once, which go in one commit.
        let operations: Vec<_> = (0..=round % 7)
            .map(|index| task(&format!("task {round}.{index}")))
            .collect();
        sent.extend(
            operations
                .iter()
                .map(|operation| operation["id"].as_str().unwrap().to_owned()),
        );
        author.send_operations(&operations);
    }
    let last = 1 + sent.len() as u64;
    for follower in &mut followers {
        follower.until_seq(last);
        assert_eq!(follower.replica.operations(), sent);
    }
    let truth = Replica::of(&server, &account);
    assert_eq!(truth.position, last);
    for follower in &followers {
        assert_eq!(
            follower.replica.entries, followers[0].replica.entries,
            "JSON and MessagePack say the same"
        );
        assert_eq!(follower.replica.rows, truth.rows);
        assert_eq!(follower.replica.cursor, truth.cursor);
    }
}

#[test]
fn an_answer_and_its_entry_both_reach_the_author_once() {
    let server = Server::start(&[]);
    let account = server.user();
    for encoding in ENCODINGS {
        let mut author = Follower::start(&server, encoding, &account);
        for _ in 0..50 {
            let operation = task("mine");
            let seq = author.client.submit(&operation)["accepted"]["seq"]
                .as_u64()
                .expect("accepted");
            author.until_seq(seq);
            assert_eq!(author.replica.operations().last().copied(), operation["id"].as_str());
        }
        author.client.flush();
        assert!(author.client.stash.is_empty(), "{:?}", author.client.stash);
    }
}

#[test]
fn every_cursor_of_a_history_leads_to_exactly_what_came_after_it() {
    let server = Server::start(&[]);
    let account = server.user();
    let mut author = Follower::start(&server, Encoding::Json, &account);
    let mut cursors = vec![(author.replica.position, author.replica.cursor.clone().unwrap())];
    for round in 0..12 {
        // Commits of several entries: a cursor may point into one, when a client was cut off there.
        let operations: Vec<_> = (0..=round % 4).map(|_| task("entry")).collect();
        author.client.send_operations(&operations);
        for operation in &operations {
            author.client.outcome(operation["id"].as_str().unwrap());
        }
        let seq = author.replica.position + operations.len() as u64;
        author.until_seq(seq);
        cursors.push((seq, author.replica.cursor.clone().unwrap()));
    }
    // Every seq has a cursor, also those that no message ended with: its shape is the server's, so ask it for them.
    let epoch = &cursors[0].1[..16];
    let all: Vec<_> = (1..=author.replica.position)
        .map(|seq| (seq, format!("{epoch}{seq:016x}")))
        .collect();
    for cursor in &cursors {
        assert!(all.contains(cursor), "{cursor:?}");
    }
    let history = &author.replica.entries;
    for (index, (seq, cursor)) in all.iter().enumerate() {
        let mut client = Client::open(&server, ENCODINGS[index % 2], &account);
        client.send(&json!({ "follow": { "cursor": cursor } }));
        let following = client.wait_for("following");
        let mode = if *seq == author.replica.position {
            "up_to_date"
        } else {
            "entries"
        };
        assert_eq!(following["mode"], mode, "{cursor}");
        assert_eq!(following["head"], author.replica.position);
        assert_eq!(following["feed"], user_of(&account));
        let mut missed = Vec::new();
        while missed.len() as u64 + seq < author.replica.position {
            let message = client.wait_for("entries");
            missed.extend(message["entries"].as_array().unwrap().clone());
        }
        let after: Vec<_> = history
            .iter()
            .filter(|entry| entry["seq"].as_u64() > Some(*seq))
            .cloned()
            .collect();
        assert_eq!(missed, after, "after {seq}");
        client.flush();
        assert!(client.stash.is_empty(), "and nothing else: {:?}", client.stash);
    }
}

#[test]
fn every_reset_says_why() {
    let server = Server::start(&[]);
    let account = server.user();
    let mut author = Follower::start(&server, Encoding::Json, &account);
    assert_eq!(author.following["reason"], "no_cursor");
    let seq = author.client.accept(&task("one")["command"]);
    author.until_seq(seq);
    let cursor = author.replica.cursor.clone().unwrap();
    let (epoch, seq) = cursor.split_at(16);
    let other_epoch: String = epoch
        .chars()
        .map(|digit| if digit == '0' { '1' } else { '0' })
        .collect();
    let other = server.user();
    let foreign = Follower::start(&server, Encoding::Json, &other).replica.cursor.unwrap();
    let cases = [
        (format!("{other_epoch}{seq}"), "epoch_changed"),
        (foreign, "epoch_changed"),
        ("0".repeat(32), "epoch_changed"),
        (format!("{epoch}{:016x}", author.replica.position + 1), "cursor_ahead"),
        (format!("{epoch}{:016x}", u64::MAX), "cursor_ahead"),
    ];
    for (index, (cursor, reason)) in cases.iter().enumerate() {
        let replica = Replica {
            cursor: Some(cursor.clone()),
            position: 7,
            ..Replica::default()
        };
        let follower = Follower::resume(&server, ENCODINGS[index % 2], &account, replica);
        assert_eq!(follower.following["mode"], "reset", "{cursor}");
        assert_eq!(follower.following["reason"], *reason, "{cursor}");
        assert_eq!(follower.replica.rows, author.replica.rows);
        // The new cursor works.
        let again = Follower::resume(&server, Encoding::Json, &account, follower.replica);
        assert_eq!(again.following["mode"], "up_to_date");
    }
    for reason in ["no_cursor", "epoch_changed", "cursor_ahead"] {
        assert!(
            server.metric(&format!("taskflow_resets_total{{reason=\"{reason}\"}}")) > 0.0,
            "{reason}"
        );
    }
}

#[test]
fn what_is_no_cursor_is_refused_and_the_connection_goes_on() {
    let server = Server::start(&[]);
    let account = server.user();
    let mut client = Client::open(&server, Encoding::Json, &account);
    let long = "0".repeat(100_000);
    for cursor in [
        "",
        "x",
        "0",
        "not a cursor at all, and quite long",
        "FFFFFFFFFFFFFFFF0000000000000001",
        &long,
        "\u{0}",
    ] {
        client.send(&json!({ "follow": { "cursor": cursor } }));
        let error = client.wait_for("error");
        assert_eq!(
            (&error["name"], &error["feed"]),
            (&json!("cursor_invalid"), &user_of(&account)),
            "{cursor:.40}"
        );
        client.send(&json!({ "unfollow": {} }));
        assert_eq!(client.wait_for("error")["name"], "not_following", "it was not begun");
    }
    client.send(&json!({ "follow": {} }));
    let follower = Follower::following(client, Replica::default());
    assert_eq!(follower.replica.rows, Replica::of(&server, &account).rows);
}

#[test]
fn follow_unfollow_and_follow_again() {
    let server = Server::start(&[]);
    let account = server.user();
    for encoding in ENCODINGS {
        let mut author = Follower::start(&server, encoding, &account);
        let mut client = Client::open(&server, encoding, &account);
        // Not following: an answer comes, and no entry.
        client.accept(&task("unseen")["command"]);
        client.send(&json!({ "follow": {} }));
        let mut follower = Follower::following(client, Replica::default());
        follower.client.send(&json!({ "follow": {} }));
        assert_eq!(follower.client.wait_for("error")["name"], "already_following");
        let seq = follower.client.accept(&task("seen")["command"]);
        follower.until_seq(seq);
        follower.client.send(&json!({ "unfollow": {} }));
        assert_eq!(follower.client.wait_for("unfollowed")["feed"], user_of(&account));
        let missed = author.client.accept(&task("missed")["command"]);
        author.until_seq(missed);
        follower.client.flush();
        assert!(follower.client.stash.is_empty(), "{:?}", follower.client.stash);
        follower.client.send(&json!({ "unfollow": {} }));
        assert_eq!(follower.client.wait_for("error")["name"], "not_following");
        let Follower {
            mut client, replica, ..
        } = follower;
        client.send(&json!({ "follow": { "feed": account.user, "cursor": replica.cursor } }));
        let mut follower = Follower::following(client, replica);
        assert_eq!(follower.following["mode"], "entries");
        follower.until_seq(missed);
        assert_eq!(follower.replica.rows, author.replica.rows);
    }
}

#[test]
fn unfollow_in_the_middle_of_a_snapshot_ends_it() {
    let server = Server::start(&[]);
    let account = server.user();
    let mut author = Client::open(&server, Encoding::Json, &account);
    for _ in 0..40 {
        let notes = "x".repeat(2_000);
        let command = |_| json!({ "task_create": { "task": id(), "title": "large", "notes": notes } });
        author.accept(&json!({ "batch": { "commands": (0..100).map(command).collect::<Vec<_>>() } }));
    }
    // 21 pieces of 400 KB: more than the kernel and the queue take at once, so the rest waits for the client to read.
    let mut client = Client::over(Raw::connect_small(server.address), Encoding::Json);
    client.hello(&account, &json!([{}]));
    client.wait_for("snapshot");
    client.send(&json!({ "unfollow": {} }));
    client.wait_for("unfollowed");
    assert!(client.stash.len() < 15, "{} pieces came", client.stash.len());
    client.stash.clear();
    // What comes after `unfollowed` is not of that feed.
    client.flush();
    assert!(client.stash.is_empty(), "{} after unfollowed", client.stash.len());
    client.send(&json!({ "follow": {} }));
    let follower = Follower::following(client, Replica::default());
    assert_eq!(follower.replica.rows.len(), 4_002);
}

#[test]
fn a_client_that_changes_its_mind_in_a_hurry_gets_one_snapshot() {
    let server = Server::start(&[]);
    let account = server.user();
    let mut client = Client::open(&server, Encoding::Json, &account);
    fill(&mut client, 1_000);
    for round in 1..40 {
        let messages = [json!({ "follow": {} }), json!({ "unfollow": {} })];
        let messages = messages.iter().cycle().take(2 * (round % 4));
        let mut frames: Vec<u8> = messages.flat_map(|message| client.frame_of(message)).collect();
        frames.extend(client.frame_of(&json!({ "follow": {} })));
        client.raw.send(&frames);
        for _ in 0..round % 4 {
            client.wait_for("unfollowed");
            // What was begun for a following that is over.
            client.stash.clear();
        }
        let mut follower = Follower::following(client, Replica::default());
        assert_eq!(follower.replica.rows.len(), 1_002);
        follower.client.send(&json!({ "unfollow": {} }));
        follower.client.wait_for("unfollowed");
        client = follower.client;
        client.flush();
        assert!(client.stash.is_empty(), "{} after unfollowed", client.stash.len());
    }
}

#[test]
fn another_users_feed_is_not_there() {
    let server = Server::start(&[]);
    let (account, other) = (server.user(), server.user());
    let mut theirs = Follower::start(&server, Encoding::Json, &other);
    for encoding in ENCODINGS {
        let mut client = Client::connect(&server, encoding);
        client.hello(&account, &json!([{ "feed": other.user }, { "feed": id() }, {}]));
        for _ in 0..2 {
            assert_eq!(client.wait_for("error")["name"], "feed_not_found");
        }
        assert_eq!(
            client.wait_for("following")["feed"],
            user_of(&account),
            "the third is one's own"
        );
        client.send(&json!({ "follow": { "feed": other.user, "cursor": theirs.replica.cursor } }));
        assert_eq!(client.wait_for("error")["feed"], user_of(&other));
        let operation = task("not mine");
        client.send(&json!({ "operations": { "feed": other.user, "operations": [operation] } }));
        assert_eq!(client.wait_for("error")["name"], "feed_not_found");
        client.send(&json!({ "follow": { "lists": [other.user] } }));
        let error = client.wait_for("error");
        assert!(
            ["invalid_field", "already_following"].contains(&error["name"].as_str().unwrap()),
            "{error}"
        );
    }
    // Nothing of it got there, and the pushes of one do not reach the other.
    let mut mine = Follower::start(&server, Encoding::Json, &account);
    let seq = theirs.client.accept(&task("theirs")["command"]);
    theirs.until_seq(seq);
    assert_eq!(seq, 2, "the first one after the birth");
    mine.client.flush();
    assert!(mine.client.stash.is_empty(), "{:?}", mine.client.stash);
}

#[test]
fn a_large_snapshot_comes_in_pieces_and_what_happens_meanwhile_comes_once() {
    let server = Server::start(&["--connections-a-user-max=1000"]);
    let account = server.user();
    let mut author = Client::open(&server, Encoding::Json, &account);
    fill(&mut author, 2_500);
    let label = |index| json!({ "label_create": { "label": id(), "name": format!("label {index}") } });
    let labels: Vec<_> = (0..40).map(label).collect();
    author.accept(&json!({ "batch": { "commands": labels } }));
    let writing = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while writing.load(std::sync::atomic::Ordering::Relaxed) {
                author.accept(&task("meanwhile")["command"]);
            }
        });
        let result = std::panic::catch_unwind(|| {
            in_parallel(0..4, |index| {
                for _ in 0..4 {
                    let mut follower = Follower::start(&server, ENCODINGS[index % 2], &account);
                    assert!(follower.replica.rows.len() >= 2_542, "{}", follower.replica.rows.len());
                    // Some entries beyond: `apply_entries` demands that they are dense.
                    let more = follower.replica.position + 5;
                    follower.until(|replica| replica.position >= more);
                }
            });
        });
        writing.store(false, std::sync::atomic::Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    let truth = Replica::of(&server, &account);
    for encoding in ENCODINGS {
        let mut client = Client::connect(&server, encoding);
        client.hello(&account, &json!([{}]));
        client.wait_for("following");
        let mut pieces = 0;
        let mut replica = Replica::default();
        loop {
            let piece = client.wait_for("snapshot");
            let rows = ["lists", "labels", "tasks"].map(|kind| piece[kind].as_array().map_or(0, Vec::len));
            assert!(rows.iter().sum::<usize>() <= 250, "about 200 a piece: {rows:?}");
            pieces += 1;
            if replica.apply_snapshot(&piece) {
                break;
            }
        }
        assert!(pieces > 10, "{pieces}");
        assert_eq!(replica.rows, truth.rows);
    }
}

#[test]
fn rows_in_the_bin_are_in_the_snapshot() {
    let server = Server::start(&[]);
    let account = server.user();
    let mut author = Follower::start(&server, Encoding::Json, &account);
    let (list, inside, alone) = (id(), id(), id());
    for command in [
        json!({ "list_create": { "list": list, "name": "Work" } }),
        json!({ "task_create": { "task": inside, "list": list, "title": "inside" } }),
        json!({ "task_create": { "task": alone, "title": "alone" } }),
        json!({ "task_delete": { "task": alone } }),
        json!({ "list_delete": { "list": list } }),
    ] {
        author.client.accept(&command);
    }
    author.until_seq(6);
    let fresh = Follower::start(&server, Encoding::MsgPack, &account);
    assert_eq!(fresh.replica.rows, author.replica.rows);
    assert!(fresh.replica.task(&alone).unwrap()["deleted_at"].is_i64());
    assert!(
        fresh.replica.task(&inside).unwrap().get("deleted_at").is_none(),
        "its list is in the bin, not it"
    );
}

#[test]
fn a_follower_that_comes_and_goes_misses_nothing_and_sees_nothing_twice() {
    let server = Server::start(&["--connections-a-user-max=1000"]);
    let account = server.user();
    let total = 300;
    in_parallel(0..4, |thread| {
        if thread == 0 {
            let mut author = Client::open(&server, Encoding::MsgPack, &account);
            for _ in 0..total {
                author.accept(&task("one of many")["command"]);
            }
            return;
        }
        // Cut off after every few entries, in the middle of whatever is under way.
        let mut replica = Replica::default();
        while replica.position < 1 + total {
            let mut follower = Follower::resume(&server, ENCODINGS[thread % 2], &account, replica);
            let enough = (follower.replica.position + 7 * thread as u64).min(1 + total);
            follower.until(|replica| replica.position >= enough);
            replica = follower.replica;
        }
        assert_eq!(replica.rows.len() as u64, 2 + total);
    });
}

#[test]
fn sixty_four_feeds_may_be_asked_for_and_not_more() {
    let server = Server::start(&[]);
    let account = server.user();
    let follows: Vec<_> = (0..63).map(|_| json!({ "feed": id() })).chain([json!({})]).collect();
    let mut client = Client::connect(&server, Encoding::MsgPack);
    client.hello(&account, &json!(follows));
    client.wait_for("following");
    for _ in 0..63 {
        assert_eq!(client.wait_for("error")["name"], "feed_not_found");
    }
    let mut client = Client::connect(&server, Encoding::Json);
    client.send_hello(
        &account.token,
        &json!((0..65).map(|_| json!({ "feed": id() })).collect::<Vec<_>>()),
    );
    assert_eq!(client.ended().code(), Some(4108));
    assert_eq!(client.stash[0]["error"]["name"], "too_many_follows");
}

#[test]
fn a_feed_that_left_memory_is_followed_all_the_same() {
    let server = Server::start(&["--feed-idle-seconds=1"]);
    let account = server.user();
    let mut follower = Follower::start(&server, Encoding::Json, &account);
    let mut client = Client::open(&server, Encoding::Json, &account);
    for _ in 0..2 {
        let seq = client.accept(&task("awake")["command"]);
        follower.until_seq(seq);
        server.wait_for_metric("taskflow_feeds_running", |count| count == 0.0);
        // Catching up does not wake it.
        let other = Follower::start(&server, Encoding::MsgPack, &account);
        assert_eq!(other.replica.rows, follower.replica.rows);
        assert_eq!(server.metric("taskflow_feeds_running"), 0.0);
    }
    // The ids of operations are remembered all the same.
    let again = operation(&json!({ "task_create": { "task": id(), "title": "once" } }));
    let first = client.submit(&again);
    server.wait_for_metric("taskflow_feeds_running", |count| count == 0.0);
    assert_eq!(client.submit(&again), first);
    eventually("it stops again", || {
        (server.metric("taskflow_feed_stops_total") >= 3.0).then_some(())
    });
}

#[test]
fn statistics_come_to_who_asks_at_first_and_after_each_change() {
    let server = Server::start(&[]);
    let (ada, bob) = (server.register(), server.register());
    for encoding in ENCODINGS {
        let mut client = Client::connect(&server, encoding);
        client.hello(&ada, &json!([{ "statistics": true }]));
        let mut other = Client::connect(&server, encoding);
        other.hello(&ada, &json!([{}]));
        let first = client.wait_for("statistics");
        assert_eq!(first["feed"], json!(ada.user));
        assert_eq!(first["counts"], server.get("/api/v1/statistics", &ada).json());
        let seq = client.accept(&task("counted")["command"]);
        let counts = client.wait("the change is counted", |message| {
            let counts = &message["statistics"]["counts"];
            (counts["seq"].as_u64()? >= seq).then(|| counts.clone())
        });
        assert_eq!(
            counts["tasks"].as_u64(),
            first["counts"]["tasks"].as_u64().map(|tasks| tasks + 1)
        );
        assert_eq!(counts, server.get("/api/v1/statistics", &ada).json());

        client.send(&json!({ "unfollow": {} }));
        client.wait_for("unfollowed");
        let last = other.accept(&task("not counted")["command"]);
        client.send(&json!({ "follow": {} }));
        Follower::following(client, Replica::default()).until_seq(last);
        // Nobody but who asked, and nobody about another's.
        other.send(&json!({ "follow": { "feed": bob.user, "statistics": true } }));
        assert_eq!(other.wait_for("error")["name"], "feed_not_found");
        assert!(
            other.stash.iter().all(|message| message.get("statistics").is_none()),
            "{:?}",
            other.stash
        );
    }
}
