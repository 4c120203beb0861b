//! A client's copy of a feed, kept by the rules of `docs/protocol.md`, sections 11 and 12, and by nothing else.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

use super::ws::Client;
use super::{Account, DEADLINE, Encoding, Server};

/// Rows by kind and id, the position, the cursor, and every operation that was seen on an entry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Replica {
    pub rows: BTreeMap<(String, String), Value>,
    pub position: u64,
    pub cursor: Option<String>,
    /// `seq` and operation of each entry that was applied.
    pub entries: Vec<Value>,
    /// Pieces of a snapshot that is not done.
    pub pieces: Vec<Value>,
}

impl Replica {
    pub fn task(&self, id: &str) -> Option<&Value> {
        self.rows.get(&("task".to_owned(), id.to_owned()))
    }

    /// Applies the content of an `entries` message.
    ///
    /// # Panics
    ///
    /// At a hole, and at an entry that is known already: a server sends neither on a healthy connection.
    pub fn apply_entries(&mut self, message: &Value) {
        let entries = message["entries"].as_array().expect("entries");
        assert!(!entries.is_empty(), "at least one entry");
        assert!(self.pieces.is_empty(), "no entries between the pieces of a snapshot");
        for entry in entries {
            let seq = entry["seq"].as_u64().expect("a seq");
            assert_eq!(seq, self.position + 1, "dense");
            for change in entry.get("changes").and_then(Value::as_array).into_iter().flatten() {
                self.apply(change, entry);
            }
            self.position = seq;
            self.entries.push(entry.clone());
        }
        self.cursor = Some(message["cursor"].as_str().expect("a cursor").to_owned());
    }

    fn apply(&mut self, change: &Value, entry: &Value) {
        let (kind, body) = change
            .as_object()
            .and_then(|map| map.iter().next())
            .expect("a map with one key");
        let (name, verb) = kind.rsplit_once('_').expect("a kind of change");
        if verb == "put" {
            let row = if name == "task" { &body["task"] } else { body };
            let id = row["id"].as_str().expect("an id").to_owned();
            self.rows.insert((name.to_owned(), id), row.clone());
            return;
        }
        assert_eq!(verb, "set", "a kind of change");
        let (id, set) = match name {
            "settings" => (String::new(), body),
            _ => (body[name].as_str().expect("an id").to_owned(), &body["set"]),
        };
        let row = self
            .rows
            .get_mut(&(name.to_owned(), id))
            .expect("a change is of a row that is there");
        let row = row.as_object_mut().expect("a row");
        for (field, value) in set.as_object().expect("fields") {
            let empty = value.is_null() || *value == json!([]) || *value == json!("") || *value == json!(false);
            if empty {
                row.remove(field);
            } else {
                row.insert(field.clone(), value.clone());
            }
        }
        row.insert("version".to_owned(), entry["seq"].clone());
        if row.contains_key("updated_at") {
            row.insert("updated_at".to_owned(), entry["time"].clone());
        }
        if row.contains_key("updated_by") {
            row.insert("updated_by".to_owned(), entry["author"].clone());
        }
    }

    /// Takes the content of a `snapshot` message; `true` when it was the last one, and is shown.
    pub fn apply_snapshot(&mut self, piece: &Value) -> bool {
        assert_eq!(
            piece["piece"].as_u64(),
            Some(self.pieces.len() as u64),
            "pieces come in order"
        );
        if let Some(first) = self.pieces.first() {
            assert_eq!(piece["seq"], first["seq"], "all pieces are of one seq");
        }
        assert_eq!(
            piece.get("settings").is_some(),
            self.pieces.is_empty(),
            "settings are in the first piece"
        );
        self.pieces.push(piece.clone());
        let Some(done) = piece.get("done") else { return false };
        let mut rows = BTreeMap::new();
        for piece in std::mem::take(&mut self.pieces) {
            if let Some(settings) = piece.get("settings") {
                rows.insert(("settings".to_owned(), String::new()), settings.clone());
            }
            for (name, kind) in [("lists", "list"), ("labels", "label"), ("tasks", "task")] {
                for row in piece.get(name).and_then(Value::as_array).into_iter().flatten() {
                    let id = row["id"].as_str().expect("an id").to_owned();
                    let before = rows.insert((kind.to_owned(), id), row.clone());
                    assert_eq!(before, None, "a row is in one piece");
                }
            }
        }
        assert_eq!(
            done["rows"].as_u64(),
            Some(rows.len() as u64),
            "as many rows as it says"
        );
        self.rows = rows;
        self.position = piece["seq"].as_u64().expect("a seq");
        self.cursor = Some(done["cursor"].as_str().expect("a cursor").to_owned());
        true
    }

    /// What the server says that the feed is now.
    pub fn of(server: &Server, account: &Account) -> Self {
        let response = server.get("/api/v1/snapshot", account);
        assert_eq!(response.status, 200, "{response:?}");
        let mut replica = Self::default();
        let pieces = response.json_lines();
        for piece in &pieces {
            // One document, or one message a line.
            replica.apply_snapshot(piece.get("snapshot").unwrap_or(piece));
        }
        assert!(replica.cursor.is_some(), "the last piece is done");
        replica
    }

    /// The ids of the operations seen, in order.
    pub fn operations(&self) -> Vec<&str> {
        self.entries
            .iter()
            .map(|entry| entry["operation"].as_str().expect("an id"))
            .collect()
    }
}

impl Server {
    /// The whole log after the birth.
    pub fn history(&self, account: &Account) -> Vec<Value> {
        let newest = Replica::of(self, account).cursor.expect("a cursor");
        let mut cursor = format!("{}{:016x}", &newest[..16], 1);
        let mut entries = Vec::new();
        while cursor != newest {
            let answer = self.get(&format!("/api/v1/changes?cursor={cursor}"), account).json();
            entries.extend(answer["entries"].as_array().expect("entries").clone());
            cursor = answer["cursor"].as_str().expect("a cursor").to_owned();
        }
        entries
    }
}

/// A connection that follows its user's own feed.
pub struct Follower {
    pub client: Client,
    pub replica: Replica,
    /// How it began: the content of `following`.
    pub following: Value,
}

impl Follower {
    /// Follows from nothing, up to the present.
    pub fn start(server: &Server, encoding: Encoding, account: &Account) -> Self {
        Self::resume(server, encoding, account, Replica::default())
    }

    /// Follows from where a copy ends, up to the present.
    pub fn resume(server: &Server, encoding: Encoding, account: &Account, replica: Replica) -> Self {
        Self::over(Client::connect(server, encoding), account, replica)
    }

    pub fn over(mut client: Client, account: &Account, replica: Replica) -> Self {
        let follow = match &replica.cursor {
            Some(cursor) => json!([{ "cursor": cursor }]),
            None => json!([{}]),
        };
        client.hello(account, &follow);
        Self::following(client, replica)
    }

    /// Reads what comes after a `follow` was sent.
    pub fn following(mut client: Client, mut replica: Replica) -> Self {
        let following = client.wait_for("following");
        let head = following["head"].as_u64().expect("a seq");
        if following["mode"] == "reset" {
            replica = Replica {
                entries: replica.entries,
                ..Replica::default()
            };
        }
        let mut follower = Self {
            client,
            replica,
            following,
        };
        follower.until(|replica| replica.cursor.is_some() && replica.position >= head);
        follower
    }

    /// Applies what comes until it is enough.
    pub fn until(&mut self, is_enough: impl Fn(&Replica) -> bool) {
        let until = Instant::now() + DEADLINE;
        let mut kept = Vec::new();
        while !is_enough(&self.replica) {
            match self.client.next_until(until) {
                Ok(message) => {
                    if !self.take(&message) {
                        kept.push(message);
                    }
                }
                Err(ended) => panic!("{ended:?} at {}", self.replica.position),
            }
        }
        for message in kept.into_iter().rev() {
            self.client.stash.push_front(message);
        }
    }

    /// Applies a message, if it is one of the feed.
    pub fn take(&mut self, message: &Value) -> bool {
        if let Some(entries) = message.get("entries") {
            self.replica.apply_entries(entries);
        } else if let Some(piece) = message.get("snapshot") {
            self.replica.apply_snapshot(piece);
        } else {
            return false;
        }
        true
    }

    pub fn until_seq(&mut self, seq: u64) {
        self.until(|replica| replica.position >= seq);
        assert_eq!(self.replica.position, seq);
    }
}
