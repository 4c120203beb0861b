//! Operations, end to end: every command in both encodings over the socket and over REST, once whatever is repeated.

use std::collections::BTreeSet;

use crate::support::ws::{operation, task};
use crate::support::{
    Account, Client, ENCODINGS, Encoding, Follower, Replica, Server, Value, http, id, in_parallel, json,
};

/// How an operation gets to the server.
enum Way {
    Socket(Client),
    Rest(Encoding),
}

impl Way {
    fn all(server: &Server, account: &Account) -> Vec<(String, Self)> {
        let sockets = ENCODINGS.map(|e| (format!("socket {e:?}"), Self::Socket(Client::open(server, e, account))));
        let rest = ENCODINGS.map(|e| (format!("REST {e:?}"), Self::Rest(e)));
        sockets.into_iter().chain(rest).collect()
    }

    fn submit(&mut self, server: &Server, account: &Account, operation: &Value) -> Value {
        match self {
            Self::Socket(client) => client.submit(operation),
            Self::Rest(encoding) => {
                let body = encoding.encode(&json!({ "operations": [operation] }));
                let content_type = format!("content-type: {}", encoding.content_type());
                let headers = [account.bearer(), content_type];
                let headers: Vec<_> = headers.iter().map(String::as_str).collect();
                let response = http::request(server.address, "POST", "/api/v1/operations", &headers, &body);
                assert_eq!(response.status, 200, "{response:?}");
                assert_eq!(response.header("content-type"), Some(encoding.content_type()));
                let answer = encoding.decode(&response.body);
                assert_eq!(answer["results"][0]["id"], operation["id"]);
                answer["results"][0]["outcome"].clone()
            }
        }
    }
}

/// Every command once, so that each is accepted and does something. `undo` names what comes right before it.
fn every_command(inbox: &str) -> Vec<Value> {
    let (list, other_list, label) = (id(), id(), id());
    let (parent, child, third) = (id(), id(), id());
    vec![
        json!({ "list_create": { "list": list, "name": "Work", "color": "#3366CC" } }),
        json!({ "list_create": { "list": other_list, "name": "Home", "place": "first" } }),
        json!({ "list_patch": { "list": list, "set": { "name": "Office", "color": null } } }),
        json!({ "list_move": { "list": list, "place": { "before": other_list } } }),
        json!({ "label_create": { "label": label, "name": "errand", "color": "#00aa55" } }),
        json!({ "label_patch": { "label": label, "set": { "name": "errands", "color": null } } }),
        json!({ "task_create": { "task": parent, "list": list, "title": "Parent 🥛", "notes": "*A3*\nline" } }),
        json!({ "task_create": {
            "task": child, "list": list, "title": "Child", "parent": parent, "labels": [label], "priority": "high",
            "status": "doing", "due": { "zoned": { "local": "2026-06-21T09:30:00", "zone": "Europe/Berlin" } },
            "deadline": "2026-06-30", "duration_minutes": 45, "place": "first",
        } }),
        json!({ "task_create": { "task": third, "title": "Third", "due": { "all_day": "2026-06-21" } } }),
        json!({ "task_patch": { "task": child, "set": {
            "title": "Kid", "notes": "n", "status": "todo", "priority": "none", "due": null, "deadline": null,
            "duration_minutes": null, "labels": [],
        } } }),
        json!({ "task_move": { "task": third, "list": list, "parent": parent, "place": { "after": child } } }),
        json!({ "task_move": { "task": parent, "list": inbox, "place": "first" } }),
        json!({ "task_complete": { "task": child } }),
        json!({ "task_reopen": { "task": child } }),
        json!({ "task_delete": { "task": parent } }),
        json!({ "task_restore": { "task": parent } }),
        json!({ "label_delete": { "label": label } }),
        json!({ "label_restore": { "label": label } }),
        json!({ "list_delete": { "list": list } }),
        json!({ "list_restore": { "list": list } }),
        json!({ "settings_patch": { "time_zone": "America/New_York", "week_start": "sunday", "locale": "de-AT" } }),
        json!({ "batch": { "commands": [
            { "task_complete": { "task": child } }, { "task_patch": { "task": third, "set": { "title": "3" } } },
        ] } }),
        json!({ "undo": {} }),
        // It changes nothing, and is an entry all the same.
        json!({ "task_reopen": { "task": child } }),
    ]
}

#[test]
fn every_command_works_every_way_and_leads_every_copy_to_the_same_rows() {
    let server = Server::start(&[]);
    let account = server.user();
    let mut names = BTreeSet::new();
    for (way_name, mut way) in Way::all(&server, &account) {
        let mut followers = ENCODINGS.map(|encoding| Follower::start(&server, encoding, &account));
        for mut command in every_command(&account.user) {
            let before = followers[0].replica.position;
            if command.get("undo").is_some() {
                command = json!({ "undo": { "seq": before } });
            }
            names.insert(command.as_object().unwrap().keys().next().unwrap().clone());
            let operation = operation(&command);
            let outcome = way.submit(&server, &account, &operation);
            assert_eq!(
                outcome,
                json!({ "accepted": { "seq": before + 1 } }),
                "{way_name}: {command}"
            );
            // Sent again at once, it is the same.
            assert_eq!(
                way.submit(&server, &account, &operation),
                outcome,
                "{way_name}: {command}"
            );
            for follower in &mut followers {
                follower.until_seq(before + 1);
                let entry = follower.replica.entries.last().unwrap();
                assert_eq!(entry["operation"], operation["id"]);
                assert_eq!(entry["author"], *account.user);
            }
            let truth = Replica::of(&server, &account);
            for follower in &followers {
                assert_eq!(follower.replica.rows, truth.rows, "{way_name}: {command}");
            }
        }
        let last = followers[0].replica.entries.last().unwrap();
        assert_eq!(
            last.get("changes"),
            None,
            "the last command asked for what was so already"
        );
    }
    // All that docs/protocol.md lists.
    let documented: BTreeSet<String> = include_str!("../../docs/protocol.md")
        .split("## 8. Commands")
        .nth(1)
        .and_then(|rest| rest.split("\n## ").next())
        .unwrap()
        .lines()
        .filter_map(|line| {
            line.strip_prefix("| `")?
                .split_once('`')
                .map(|(name, _)| name.to_owned())
        })
        .filter(|name| !name.starts_with('"') && !name.starts_with('{'))
        .collect();
    assert_eq!(names, documented);
}

#[test]
fn the_same_id_with_another_command_is_refused_and_with_the_same_one_done_once() {
    let server = Server::start(&[]);
    let account = server.user();
    let mut follower = Follower::start(&server, Encoding::Json, &account);
    let first = task("once");
    let mut other = task("another");
    other["id"] = first["id"].clone();
    for (name, mut way) in Way::all(&server, &account) {
        assert_eq!(
            way.submit(&server, &account, &first),
            json!({ "accepted": { "seq": 2 } }),
            "{name}"
        );
        let outcome = way.submit(&server, &account, &other);
        assert_eq!(outcome["refused"]["name"], "operation_id_reused", "{name}");
    }
    follower.until_seq(2);
    // Ids belong to the author: another user may use the same.
    let stranger = server.user();
    assert_eq!(server.submit(&stranger, &other), json!({ "accepted": { "seq": 2 } }));
    // Twice in one message, and in two that are on their way at once.
    let twice = task("twice");
    let mut client = Client::open(&server, Encoding::MsgPack, &account);
    client.send_operations(&[twice.clone(), twice.clone()]);
    client.send_operations(std::slice::from_ref(&twice));
    let id = twice["id"].as_str().unwrap();
    for _ in 0..3 {
        assert_eq!(client.outcome(id), json!({ "accepted": { "seq": 3 } }));
    }
    follower.until_seq(3);
    // The same command, written in another way, is the same.
    let again = json!({ "id": id.to_uppercase(), "base": null, "command": twice["command"] });
    assert_eq!(server.submit(&account, &again), json!({ "accepted": { "seq": 3 } }));
}

#[test]
fn operations_of_a_message_are_judged_in_order_and_each_on_its_own() {
    let server = Server::start(&[]);
    let account = server.user();
    for encoding in ENCODINGS {
        let mut client = Client::open(&server, encoding, &account);
        let (list, row) = (id(), id());
        let operations = [
            operation(&json!({ "list_create": { "list": list, "name": "New" } })),
            operation(&json!({ "task_create": { "task": row, "list": list, "title": "in it" } })),
            operation(&json!({ "task_create": { "task": row, "list": list, "title": "again" } })),
            operation(&json!({ "task_create": { "task": id(), "title": "" } })),
            json!({ "id": id(), "command": { "no_such_command": {} } }),
            json!({ "id": id(), "command": { "task_complete": { "task": row, "unknown": 1 } } }),
            operation(&json!({ "task_complete": { "task": row } })),
        ];
        client.send_operations(&operations);
        let outcomes: Vec<_> = operations
            .iter()
            .map(|op| client.outcome(op["id"].as_str().unwrap()))
            .collect();
        let name = |index: usize| outcomes[index]["refused"]["name"].as_str();
        let first = outcomes[0]["accepted"]["seq"].as_u64().expect("accepted");
        assert_eq!(outcomes[1], json!({ "accepted": { "seq": first + 1 } }));
        assert_eq!((name(2), name(3), name(4), name(5)), {
            (
                Some("id_taken"),
                Some("value_invalid"),
                Some("invalid_field"),
                Some("invalid_field"),
            )
        });
        assert_eq!(outcomes[6], json!({ "accepted": { "seq": first + 2 } }));
        client.flush();
        assert!(
            client.stash.iter().all(|left| left["results"]["results"] == json!([])),
            "{:?}",
            client.stash
        );
    }
}

#[test]
fn one_bad_operation_does_not_take_its_neighbours_with_it_over_rest() {
    let server = Server::start(&[]);
    let account = server.user();
    let operations = json!([
        task("good"), { "id": id(), "command": { "no_such_command": {} } },
        { "id": id(), "command": { "task_complete": { "task": "no id" } } }, task("good, too"),
    ]);
    let response = server.post("/api/v1/operations", &account, &json!({ "operations": operations }));
    assert_eq!(response.status, 200, "{response:?}");
    let results = response.json()["results"].clone();
    let ids = |list: &Value| {
        list.as_array()
            .unwrap()
            .iter()
            .map(|item| item["id"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&results), ids(&operations), "in the order of the operations");
    assert!(results[0]["outcome"]["accepted"].is_object(), "{results}");
    assert_eq!(results[1]["outcome"]["refused"]["name"], "invalid_field");
    assert_eq!(results[2]["outcome"]["refused"]["name"], "invalid_field");
    assert!(results[3]["outcome"]["accepted"].is_object(), "{results}");
}

#[test]
fn an_operation_without_an_id_of_its_own_is_refused_alone() {
    let server = Server::start(&[]);
    let account = server.user();
    let ways = Way::all(&server, &account);
    let count = ways.len();
    for (name, mut way) in ways {
        let mut nil = task("nil");
        nil["id"] = json!("00000000-0000-0000-0000-000000000000");
        let refused = way.submit(&server, &account, &nil)["refused"].clone();
        assert_eq!(
            (&refused["name"], &refused["field"]),
            (&json!("value_invalid"), &json!("id")),
            "{name}"
        );
        assert!(
            way.submit(&server, &account, &task("good"))["accepted"].is_object(),
            "{name}"
        );
    }
    assert_eq!(
        server.get("/api/v1/tasks", &account).json()["items"]
            .as_array()
            .unwrap()
            .len(),
        count
    );
}

#[test]
fn a_batch_is_all_or_nothing_and_one_entry() {
    let server = Server::start(&[]);
    let account = server.user();
    let mut follower = Follower::start(&server, Encoding::Json, &account);
    let before = follower.replica.rows.clone();
    let good = json!({ "task_create": { "task": id(), "title": "good" } });
    let refused = follower.client.submit(&operation(&json!({ "batch": { "commands": [
        good, { "task_complete": { "task": id() } },
    ] } })));
    assert_eq!(refused["refused"]["name"], "row_not_found");
    assert_eq!(Replica::of(&server, &account).rows, before);
    let hundred: Vec<_> = (0..100)
        .map(|_| json!({ "task_create": { "task": id(), "title": "t" } }))
        .collect();
    let seq = follower.client.accept(&json!({ "batch": { "commands": hundred } }));
    follower.until_seq(seq);
    assert_eq!(
        follower.replica.entries.last().unwrap()["changes"]
            .as_array()
            .unwrap()
            .len(),
        100
    );
    assert_eq!(follower.replica.rows.len(), before.len() + 100);
}

#[test]
fn a_conflict_shows_the_present_row() {
    let server = Server::start(&[]);
    let account = server.user();
    for (name, mut way) in Way::all(&server, &account) {
        let row = id();
        let create = operation(&json!({ "task_create": { "task": row, "title": "v1" } }));
        let version = way.submit(&server, &account, &create)["accepted"]["seq"]
            .as_u64()
            .unwrap();
        let patch = |base: u64, title: &str| {
            let mut operation = operation(&json!({ "task_patch": { "task": row, "set": { "title": title } } }));
            operation["base"] = json!(base);
            operation
        };
        let second = way.submit(&server, &account, &patch(version, "v2"));
        assert_eq!(second["accepted"]["seq"], version + 1, "{name}");
        for stale in [version, 0, version + 2, 1 << 52] {
            let outcome = way.submit(&server, &account, &patch(stale, "v3"));
            let task = &outcome["conflict"]["row"]["task"];
            let seen = json!([task["id"], task["title"], task["version"]]);
            assert_eq!(seen, json!([row, "v2", version + 1]), "{name} at {stale}: {outcome}");
        }
        let mut settings = operation(&json!({ "settings_patch": { "week_start": "sunday" } }));
        settings["base"] = json!(77_777);
        let outcome = way.submit(&server, &account, &settings);
        assert!(outcome["conflict"]["row"]["settings"].is_object(), "{outcome}");
    }
}

#[test]
fn writers_on_many_connections_make_one_dense_order() {
    let server = Server::start(&[]);
    let account = server.user();
    let writers = 8;
    let each = 40;
    let followers = std::sync::Mutex::new(Vec::new());
    in_parallel(0..writers, |writer| {
        let mut follower = Follower::start(&server, ENCODINGS[writer % 2], &account);
        let mut mine = Vec::new();
        for round in 0..each / 4 {
            let operations: Vec<_> = (0..4).map(|index| task(&format!("{writer}.{round}.{index}"))).collect();
            follower.client.send_operations(&operations);
            let seqs: Vec<_> = operations
                .iter()
                .map(|operation| {
                    let id = operation["id"].as_str().unwrap().to_owned();
                    let outcome = follower.client.outcome(&id);
                    let seq = outcome["accepted"]["seq"]
                        .as_u64()
                        .unwrap_or_else(|| panic!("{outcome}"));
                    (seq, id)
                })
                .collect();
            assert!(
                seqs.is_sorted(),
                "operations of one connection keep their order: {seqs:?}"
            );
            mine.extend(seqs);
        }
        follower.until(|replica| replica.position > (writers * each) as u64);
        for (seq, operation) in &mine {
            let entry = follower
                .replica
                .entries
                .iter()
                .find(|entry| entry["seq"] == *seq)
                .expect("it is pushed");
            assert_eq!(entry["operation"], **operation);
        }
        followers.lock().unwrap().push(follower);
    });
    let followers = followers.into_inner().unwrap();
    let history = crate::support::Follower::resume(
        &server,
        Encoding::Json,
        &account,
        Replica {
            cursor: Some(format!(
                "{}{:016x}",
                &followers[0].replica.cursor.as_ref().unwrap()[..16],
                1
            )),
            position: 1,
            rows: {
                // As it was born: the rest is replayed.
                let mut rows = followers[0].replica.rows.clone();
                rows.retain(|(kind, _), _| kind != "task");
                rows
            },
            ..Replica::default()
        },
    );
    assert_eq!(history.following["mode"], "entries");
    for follower in &followers {
        assert_eq!(follower.replica.rows, history.replica.rows);
        assert_eq!(follower.replica.position, 1 + (writers * each) as u64);
    }
    let times: Vec<_> = history
        .replica
        .entries
        .iter()
        .map(|entry| entry["time"].as_i64())
        .collect();
    assert!(times.is_sorted(), "time does not go back");
}

#[test]
fn a_connection_that_is_cut_after_sending_gets_its_operation_done_once() {
    let server = Server::start(&["--connections-a-user-max=1000"]);
    let account = server.user();
    let operations: Vec<_> = (0..40).map(|index| task(&format!("cut {index}"))).collect();
    let mut outcomes = Vec::new();
    for (index, operation) in operations.iter().enumerate() {
        let mut client = Client::open(&server, ENCODINGS[index % 2], &account);
        client.send_operations(std::slice::from_ref(operation));
        drop(client);
        // Again, on a new connection, as a client does that heard no answer.
        outcomes.push(Client::open(&server, Encoding::Json, &account).submit(operation));
    }
    let follower = Follower::start(&server, Encoding::Json, &account);
    assert_eq!(follower.replica.position, 41);
    assert_eq!(follower.replica.rows.len(), 42);
    let mut seqs: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome["accepted"]["seq"].as_u64())
        .collect();
    seqs.dedup();
    assert_eq!(seqs.len(), 40);
}
