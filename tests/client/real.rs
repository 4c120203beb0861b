//! The program against the server in the same binary, which is killed in the middle.

use std::io::{BufRead, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;

use serde_json::{Value, json};

use crate::commands::{Person, Watching, todo_txt};

/// A server on its folder.
struct Server {
    child: Child,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        Self::start_with(&[]).0
    }

    /// With these settings; and what comes in its log.
    fn start_with(flags: &[&str]) -> (Self, Receiver<Value>) {
        let folder = tempfile::tempdir().unwrap();
        let (child, address, log) = spawn(folder.path(), "127.0.0.1:0", flags);
        (Self { child, address, folder }, log)
    }

    /// `kill -9`, and up again on the same folder and port.
    fn kill_and_start_again(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        (self.child, ..) = spawn(self.folder.path(), &self.address.to_string(), &[]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &std::path::Path, listen: &str, flags: &[&str]) -> (Child, SocketAddr, Receiver<Value>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_taskflow"))
        .args([
            "serve",
            "--listen",
            listen,
            "--operator-listen",
            "127.0.0.1:0",
            "--log-format",
            "json",
            "--data-dir",
        ])
        .arg(folder)
        .args(flags)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = loop {
        let line = lines.next().expect("it says when it serves").unwrap();
        let line: Value = serde_json::from_str(&line).unwrap_or_default();
        if line["message"] == "serving" {
            break line["address"].as_str().unwrap().parse().unwrap();
        }
    };
    // Its log goes on, and must have somewhere to go.
    let (say, log) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            drop(say.send(serde_json::from_str(&line).unwrap_or_default()));
        }
    });
    (child, address, log)
}

#[test]
fn an_import_and_a_watch_carry_on_over_kills_of_the_server() {
    let mut server = Server::start();
    let (one, two) = (Person::at(&server.address), Person::at(&server.address));
    one.ok(&["register", "--server", &one.server, "ada@example.org"]);
    two.ok(&["login", "--server", &two.server, "ada@example.org"]);
    let watching = Watching::start(&two, &["watch", "--json"]);
    watching.line_with("\"reset\"");
    let file = todo_txt(&one, 2_000);
    let mut importing = one.command(&["import", &file]).stdout(Stdio::null()).spawn().unwrap();
    let mut titles = Vec::new();
    let mut seq = 1;
    while titles.len() < 2_000 {
        let entry: Value = serde_json::from_str(&watching.line()).unwrap();
        seq += 1;
        assert_eq!(entry["seq"], seq, "{entry}");
        if let Some(title) = entry["changes"][0]["task_put"]["task"]["title"].as_str() {
            titles.push(title.to_owned());
            if titles.len() == 300 || titles.len() == 1_100 {
                server.kill_and_start_again();
            }
        }
    }
    assert!(importing.wait().unwrap().success());
    titles.sort();
    titles.dedup();
    assert_eq!(titles.len(), 2_000);
    assert_eq!(
        one.ok(&["import", &file]),
        "todo.txt: 0 tasks imported, 2000 were there already\n"
    );
}

#[test]
fn an_export_is_taken_back_as_it_was_and_only_once() {
    let server = Server::start();
    let (one, two) = (Person::at(&server.address), Person::at(&server.address));
    one.ok(&["register", "--server", &one.server, "ada@example.org"]);
    let file = todo_txt(&one, 500);
    one.ok(&["import", &file]);
    one.ok(&[
        "add",
        "Crème “brûlée” \u{1f36e} 東京  ",
        "--due",
        "2026-12-24",
        "--priority",
        "high",
    ]);
    one.ok(&["done", "brûlée"]);
    let path = std::path::Path::new(&file).with_file_name("all.json");
    let path = path.to_str().unwrap();
    let said = one.ok(&["export", path]);
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(said, format!("{path}: {} bytes.\n", bytes.len()));
    assert!(one.fails(&["export", path]).contains("There is already a file"));
    let parse = |bytes: &[u8]| {
        let mut export: Value = serde_json::from_slice(bytes).unwrap();
        export["exported_at"].take();
        export
    };
    assert!(parse(one.ok(&["export"]).as_bytes()) == parse(&bytes));
    // Nothing is new to who has it already.
    assert_eq!(
        one.ok(&["import", path]),
        "all.json: 0 tasks imported, 501 were there already\n"
    );
    two.ok(&["register", "--server", &two.server, "bob@example.org"]);
    // Somebody who lives elsewhere wrote it.
    let mut elsewhere = parse(&bytes);
    elsewhere["settings"]["time_zone"] = json!("Asia/Tokyo");
    std::fs::write(path, elsewhere.to_string()).unwrap();
    let said = two.ok(&["import", "--dry-run", path]);
    assert!(said.contains("would change the settings"), "{said}");
    let import = || {
        let output = two.command(&["import", path]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap())
    };
    let [said, lost] = import();
    assert_eq!(
        said,
        "all.json: 501 tasks imported, 3 new lists, 1 new labels, the settings\n"
    );
    assert_eq!(
        lost,
        "Not carried over as it was:\n  what is brought counts as made, and what is done as completed, at the time of the import: \
         history, activity and streak begin with it\n"
    );
    let there = "all.json: 0 tasks imported, 501 were there already\n";
    assert_eq!(import(), [there.to_owned(), String::new()]);
    let settings = || parse(two.ok(&["export"]).as_bytes())["settings"]["time_zone"].clone();
    assert_eq!(settings(), "Asia/Tokyo");
    // What was chosen here stays.
    elsewhere["settings"]["time_zone"] = json!("Asia/Seoul");
    std::fs::write(path, elsewhere.to_string()).unwrap();
    let stay = "Not carried over as it was:\n  the settings were changed here, and stay as they are here\n";
    assert_eq!(import(), [there.to_owned(), stay.to_owned()]);
    assert_eq!(settings(), "Asia/Tokyo");
    // What both have is the same, but for when it was made and by whom.
    let content = |person: &Person| {
        let export: Value = serde_json::from_str(&person.ok(&["export"])).unwrap();
        let name_of = |rows: &str, id: &Value| {
            let rows = export[rows].as_array().unwrap();
            rows.iter().find(|row| row["id"] == *id).unwrap()["name"].clone()
        };
        let mut tasks: Vec<_> = export["tasks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|task| {
                let labels = task["labels"].as_array().map_or(&[][..], Vec::as_slice);
                let labels: Vec<_> = labels.iter().map(|label| name_of("labels", label)).collect();
                let list = name_of("lists", &task["list"]);
                let fields = ["id", "title", "status", "priority", "due", "parent"].map(|field| task[field].clone());
                serde_json::json!([list, fields, labels]).to_string()
            })
            .collect();
        tasks.sort();
        tasks
    };
    assert_eq!(content(&one), content(&two));
    // Cut off on its way to another machine.
    std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(
        two.fails(&["import", path])
            .contains("The file is cut off. Export it again.")
    );
}

#[test]
fn an_account_moves_is_deleted_and_kept_and_says_what_happened() {
    let server = Server::start();
    let ada = Person::at(&server.address);
    ada.ok(&["register", "--server", &ada.server, "ada@example.org"]);
    ada.ok(&["add", "keep me"]);
    assert_eq!(
        ada.ok(&["account", "email", "countess@example.org"]),
        "Your e-mail address is countess@example.org now.\n"
    );
    assert!(ada.ok(&["whoami"]).starts_with("countess@example.org at "));
    let token = ada.ok(&["tokens", "--make", "backup script", "--days", "7"]);
    assert!(token.contains("\ntfp_") || token.starts_with("tfp_"), "{token}");
    let listed = ada.ok(&["tokens"]);
    assert!(listed.contains("  backup script  tasks:read  until 20"), "{listed}");
    let (id, _) = listed.split_once(' ').unwrap();
    assert_eq!(
        ada.fails(&["tokens", "--end", "nothing"]),
        "taskflow: There is no such token. Use `taskflow tokens` to see them.\n"
    );
    assert!(
        ada.ok(&["tokens", "--end", id])
            .starts_with(&format!("Ended: {id}  backup script"))
    );
    assert_eq!(ada.ok(&["tokens"]), "");
    let history = ada.ok(&["account", "history"]);
    let events: Vec<&str> = history.lines().map(|line| line.split("  ").nth(1).unwrap()).collect();
    assert_eq!(
        events,
        ["token_ended", "token_made", "email_changed", "registered"],
        "{history}"
    );
    assert!(history.lines().all(|line| line.contains("  127.0.0.1  ")), "{history}");
    let deleted = ada.ok(&["account", "delete"]);
    assert!(
        deleted.starts_with("Your account and everything in it will be deleted on 20"),
        "{deleted}"
    );
    let (_, restore) = deleted.split_once("\n  taskflow ").unwrap();
    let restore: Vec<&str> = restore.split_whitespace().collect();
    assert_eq!(restore[..2], ["account", "restore"], "{deleted}");
    assert!(ada.fails(&["list"]).contains("Nobody is signed in here."));
    let refused = ada.fails(&["login", "--server", &ada.server, "countess@example.org"]);
    assert!(refused.contains("it will be deleted at 20"), "{refused}");
    ada.ok(&restore);
    assert!(ada.ok(&["list"]).contains("keep me"));
}

#[test]
fn sign_ins_are_shown_and_ended_and_a_new_password_ends_all_others() {
    let server = Server::start();
    let people: Vec<Person> = (0..3).map(|_| Person::at(&server.address)).collect();
    let [one, two, three] = &people[..] else { unreachable!() };
    one.ok(&["register", "--server", &one.server, "ada@example.org"]);
    two.ok(&["login", "--server", &two.server, "ada@example.org"]);
    three.ok(&["login", "--server", &three.server, "ada@example.org"]);
    let shown = one.ok(&["sessions"]);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 3, "{shown}");
    let mine: Vec<_> = lines.iter().filter(|line| line.ends_with("  (this one)")).collect();
    assert_eq!(mine.len(), 1, "{shown}");
    assert!(lines.iter().all(|line| line.contains("  taskflow/")), "{shown}");
    assert!(lines.iter().all(|line| line.contains("  127.0.0.1  seen ")), "{shown}");
    // The one that was used last stands first: that is the third person's.
    let (id, _) = lines[0].split_once(' ').unwrap();
    assert!(
        one.ok(&["sessions", "--end", id])
            .starts_with(&format!("Ended: {id}  "))
    );
    assert_eq!(
        three.fails(&["list"]),
        "taskflow: This sign-in was ended; sign in again. Use `taskflow login`.\n"
    );
    assert_eq!(
        one.fails(&["sessions", "--end", id]),
        "taskflow: There is no such session. Use `taskflow sessions` to see them.\n"
    );
    let change = |present: &str, new: &str| {
        let mut child = one.command(&["password", "--password-stdin"]);
        let mut child = child
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(format!("{present}\n{new}\n").as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    assert_eq!(
        change("not this one", "another horse"),
        "taskflow: The e-mail address or the password is wrong, or the address has not been verified yet: then follow the link in the letter to it.\n"
    );
    assert_eq!(
        change("correct horse", "another horse"),
        "The password is changed. Wherever else you were signed in, sign in again.\n"
    );
    one.ok(&["add", "still here"]);
    assert!(two.fails(&["list"]).contains("sign in again"));
    assert_eq!(one.ok(&["sessions"]).lines().count(), 1);
    assert_eq!(one.ok(&["logout", "--everywhere"]), "ada@example.org is signed out.\n");
    assert!(one.fails(&["sessions"]).contains("Nobody is signed in here."));
}

#[test]
fn where_addresses_are_verified_it_says_that_a_letter_is_on_its_way() {
    let (server, log) = Server::start_with(&["--registration=verified"]);
    let ada = Person::at(&server.address);
    let url = ada.server.as_str();
    // The token of the link in the next letter to this address.
    let token = |to: &str| {
        let text = log.iter().find(|line| line["to"] == to).unwrap()["text"].clone();
        let mut words = text.as_str().unwrap().split_whitespace();
        let link = words.find_map(|word| word.split_once('#'));
        link.unwrap().1.to_owned()
    };
    let follow = |what: &str, body: Value| {
        let answer = ureq::post(&format!("http://{}/api/v1/auth/{what}", server.address)).send_json(body);
        assert_eq!(answer.unwrap().status(), 200);
    };
    let said = ada.ok(&["register", "--server", url, "ada@example.org"]);
    let login = format!("login --server {url} ada@example.org");
    assert_eq!(
        said,
        format!("A letter is on its way to ada@example.org. Follow the link in it, and then use `taskflow {login}`.\n")
    );
    let login: Vec<&str> = login.split(' ').collect();
    assert!(ada.fails(&login).contains("follow the link in the letter"));
    follow(
        "verify",
        json!({ "token": token("ada@example.org"), "password": "correct horse" }),
    );
    ada.ok(&login);

    let said = ada.ok(&["account", "email", "countess@example.org"]);
    assert!(
        said.starts_with("A letter is on its way to countess@example.org."),
        "{said}"
    );
    assert!(ada.ok(&["whoami"]).contains("ada@example.org"));
    follow(
        "verify",
        json!({ "token": token("countess@example.org"), "password": "correct horse" }),
    );

    let said = ada.ok(&["account", "forgot", "countess@example.org"]);
    assert_eq!(
        said,
        "If there is an account with countess@example.org, a letter is on its way to it, with a link to a new password.\n"
    );
    follow(
        "reset",
        json!({ "token": token("countess@example.org"), "new_password": "another password" }),
    );
    ada.ok(&["logout"]);
    let refused = ada.fails(&["login", "--server", url, "countess@example.org"]);
    assert!(refused.contains("password"), "{refused}");
}
