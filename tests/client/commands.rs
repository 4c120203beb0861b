//! The program itself, as a person runs it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::fake::{Fake, Fault};

/// A user's folder and program.
pub struct Person {
    folder: TempDir,
    pub server: String,
}

impl Person {
    fn new(fake: &Fake) -> Self {
        Self::at(&fake.address)
    }

    pub fn at(address: &std::net::SocketAddr) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            server: format!("http://{address}"),
        }
    }

    fn registered(fake: &Fake) -> Self {
        let person = Self::new(fake);
        let output = person.run(&["register", "--server", &person.server, "ada@example.org"]);
        assert!(output.status.success(), "{output:?}");
        person
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taskflow"));
        command
            .args(args)
            .env("TASKFLOW_PROFILE", self.folder.path())
            .env("TASKFLOW_PASSWORD", "correct horse");
        command
            .env_remove("TASKFLOW_SERVER")
            .env_remove("TASKFLOW_ENCODING")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What it printed, having succeeded.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it complained about, having failed.
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

/// A `watch` in the background.
pub struct Watching {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Watching {
    pub fn start(person: &Person, args: &[&str]) -> Self {
        let mut child = person
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    pub fn line(&self) -> String {
        self.lines
            .recv_timeout(std::time::Duration::from_secs(20))
            .expect("a line within 20 seconds")
    }

    pub fn line_with(&self, part: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(part) {
                return line;
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_first_session_registers_adds_lists_and_completes() {
    let fake = Fake::start();
    let person = Person::registered(&fake);
    let id = person.ok(&[
        "add",
        "Buy milk",
        "--due",
        "2026-12-01",
        "--priority",
        "high",
        "--label",
        "home",
    ]);
    let id = id.trim();
    assert_eq!(id.len(), 8);
    assert_eq!(
        person.ok(&["list"]),
        format!("Inbox\n{id}  [ ] Buy milk  (due 2026-12-01, high, @home)\n")
    );
    assert_eq!(person.ok(&["done", "milk"]), format!("{id}  done: Buy milk\n"));
    assert_eq!(
        person.ok(&["list"]),
        "Nothing to do. Use `taskflow add \"…\"` to add a task.\n"
    );
    assert_eq!(
        person.ok(&["list", "--all"]),
        format!("Inbox\n{id}  [x] Buy milk  (due 2026-12-01, high, @home)\n")
    );
    assert_eq!(person.ok(&["reopen", id]), format!("{id}  reopened: Buy milk\n"));
    assert_eq!(
        person.ok(&["edit", id, "--title", "Buy oat milk"]),
        format!("{id}  changed\n")
    );
    assert_eq!(person.ok(&["delete", "oat"]), format!("{id}  deleted: Buy oat milk\n"));
    assert_eq!(
        person.ok(&["list", "--all"]),
        "Nothing to do. Use `taskflow add \"…\"` to add a task.\n"
    );
}

#[test]
fn what_is_done_in_one_terminal_appears_in_the_other() {
    let fake = Fake::start();
    let (one, two) = (Person::registered(&fake), Person::new(&fake));
    two.ok(&["login", "--server", &fake.url(), "ada@example.org"]);
    let watching = Watching::start(&one, &["watch"]);
    watching.line_with("-- live");
    two.ok(&["add", "Buy milk"]);
    assert!(watching.line().ends_with("added      Buy milk in Inbox"));
    two.ok(&["done", "Buy milk"]);
    assert!(watching.line().ends_with("done       Buy milk"));
}

#[test]
fn a_screen_that_may_be_old_says_so() {
    let fake = Fake::start();
    let person = Person::registered(&fake);
    let watching = Watching::start(&person, &["watch"]);
    watching.line_with("-- live");
    fake.world().beat(Some(1_782_000_000_123));
    let line = watching.line();
    assert!(
        line.starts_with("-- not live: since ") && line.ends_with(":00 the server cannot find out what has changed"),
        "{line}"
    );
    // What comes nevertheless is shown, and changes nothing about that.
    fake.world().add_elsewhere("Buy milk");
    assert!(watching.line().ends_with("added      Buy milk in Inbox"));
    fake.world().beat(None);
    assert_eq!(watching.line(), "-- live");
}

#[test]
fn watch_in_json_prints_each_entry_once_across_a_power_failure() {
    let fake = Fake::start();
    let person = Person::registered(&fake);
    let watching = Watching::start(&person, &["watch", "--json"]);
    let first: Value = serde_json::from_str(&watching.line()).unwrap();
    assert_eq!(
        first,
        serde_json::json!({ "reset": { "reason": "no_cursor", "seq": 1 } })
    );
    fake.world().add_elsewhere("one");
    let entry: Value = serde_json::from_str(&watching.line()).unwrap();
    assert_eq!(
        (
            entry["seq"].as_u64(),
            entry["changes"][0]["task_put"]["task"]["title"].as_str()
        ),
        (Some(2), Some("one"))
    );
    fake.world().cut();
    fake.world().add_elsewhere("two");
    fake.world().add_elsewhere("three");
    fake.world().down = false;
    let seqs: Vec<u64> = (0..2)
        .map(|_| {
            serde_json::from_str::<Value>(&watching.line()).unwrap()["seq"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert_eq!(seqs, [3, 4]);
    // It came back with what it had.
    assert_eq!(
        fake.world().hellos.last().unwrap().follow[0].cursor.as_deref(),
        Some("1:2")
    );
}

#[test]
fn two_terminals_may_share_one_profile() {
    let fake = Fake::start();
    let person = Person::registered(&fake);
    let watching = Watching::start(&person, &["watch"]);
    watching.line_with("-- live");
    for title in ["one", "two", "three"] {
        person.ok(&["add", title]);
        assert!(watching.line().ends_with(&format!("added      {title} in Inbox")));
    }
}

#[test]
fn a_word_that_means_several_tasks_lists_them() {
    let fake = Fake::start();
    let person = Person::registered(&fake);
    let (milk, oat) = (person.ok(&["add", "Buy milk"]), person.ok(&["add", "Buy oat milk"]));
    let complaint = person.fails(&["done", "buy"]);
    assert_eq!(
        complaint,
        format!(
            "taskflow: \"buy\" means 2 tasks; name one by its id:\n  {}  Buy milk (Inbox)\n  {}  Buy oat milk (Inbox)\n",
            milk.trim(),
            oat.trim()
        )
    );
    // The whole title is not ambiguous.
    person.ok(&["done", "buy milk"]);
    assert_eq!(
        person.fails(&["done", "bread"]),
        "taskflow: There is no open task \"bread\". Use `taskflow list` to see them.\n"
    );
}

#[test]
fn a_task_added_without_a_server_is_kept_and_sent_by_the_next_command() {
    let fake = Fake::start();
    let person = Person::registered(&fake);
    person.ok(&["list"]);
    fake.world().cut();
    let output = person.run(&["add", "Buy milk"]);
    assert_eq!(output.status.code(), Some(0));
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(
        complaint.ends_with("The change is kept here; the next command sends it.\n"),
        "{complaint}"
    );
    fake.world().down = false;
    let id = String::from_utf8(output.stdout).unwrap();
    assert_eq!(person.ok(&["list"]), format!("Inbox\n{}  [ ] Buy milk\n", id.trim()));
    assert_eq!(fake.world().titles(), ["Buy milk"]);
}

#[test]
fn failures_are_sentences_and_exit_codes() {
    let fake = Fake::start();
    let person = Person::new(&fake);
    let url = fake.url();
    assert_eq!(
        person.fails(&["list"]),
        "taskflow: Nobody is signed in here. Use `taskflow register --server URL EMAIL` or `taskflow login --server URL \
         EMAIL`.\n"
    );
    assert_eq!(
        person.fails(&["login", "--server", &url, "ada@example.org"]),
        "taskflow: The e-mail address or the password is wrong, or the address has not been verified yet: then follow the link in the letter to it.\n"
    );
    person.ok(&["register", "--server", &url, "ada@example.org"]);
    assert_eq!(
        Person::new(&fake).fails(&["register", "--server", &url, "ada@example.org"]),
        "taskflow: There is an account with this e-mail address; sign in instead.\n"
    );
    assert_eq!(
        person.fails(&["register", "--server", &url, "bob@example.org"]),
        format!(
            "taskflow: ada@example.org is signed in here ({url}). Use `taskflow logout` first, or another folder with --profile.\n"
        )
    );
    assert_eq!(
        person.fails(&["add", "x", "--list", "Groceries"]),
        "taskflow: There is no list \"Groceries\". Use `taskflow lists` to see them.\n"
    );
    assert_eq!(
        person.fails(&["add", "x", "--due", "someday"]),
        "taskflow: \"someday\" is not a date. Write 2026-12-01, \"2026-12-01 15:30\", today or tomorrow.\n"
    );
    assert_eq!(person.fails(&["add", ""]), "taskflow: The title is empty.\n");
    assert_eq!(person.run(&["add"]).status.code(), Some(2));
    assert_eq!(person.run(&["edit", "x"]).status.code(), Some(2));
}

#[test]
fn signing_out_forgets_everything_but_not_what_was_not_sent() {
    let fake = Fake::start();
    let person = Person::registered(&fake);
    person.ok(&["add", "Buy milk"]);
    fake.world().cut();
    person.ok(&["add", "Buy bread"]);
    assert_eq!(
        person.fails(&["logout"]),
        "taskflow: 1 changes were not sent yet. Use `taskflow list` to send them, or --force to forget them.\n"
    );
    fake.world().down = false;
    person.ok(&["list"]);
    assert_eq!(person.ok(&["logout"]), "ada@example.org is signed out.\n");
    assert!(fake.world().refresh_tokens.is_empty());
    let left: Vec<_> = std::fs::read_dir(person.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "lock" && name != "pending")
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_read_the_profile() {
    use std::os::unix::fs::PermissionsExt;
    let fake = Fake::start();
    let person = Person::registered(&fake);
    person.ok(&["add", "Buy milk"]);
    for name in ["account.json", "replica"] {
        let mode = std::fs::metadata(person.folder.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_profile_that_is_a_word_is_kept_at_home_and_one_with_a_slash_is_a_folder() {
    let fake = Fake::start();
    let person = Person::registered(&fake);
    let (home, here) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for (profile, folder) in [
        ("other", home.path().join("taskflow/profiles/other")),
        ("./other", here.path().join("other")),
        ("other/", here.path().join("other")),
    ] {
        let output = person
            .command(&["whoami"])
            .env("TASKFLOW_PROFILE", profile)
            .env("XDG_CONFIG_HOME", home.path())
            .current_dir(here.path())
            .output()
            .unwrap();
        assert!(!output.status.success(), "{profile}: nobody is signed in there");
        assert!(folder.join("pending").is_dir(), "{profile}");
        let is_alone = std::fs::read_dir(here.path()).unwrap().count() == usize::from(folder.starts_with(here.path()));
        assert!(is_alone, "{profile}");
    }
}

#[test]
fn escape_sequences_in_titles_do_not_reach_the_terminal() {
    let fake = Fake::start();
    let person = Person::registered(&fake);
    fake.world().add_elsewhere("red \u{1b}[31m alert\u{7}\u{202e}");
    let shown = person.ok(&["list"]);
    assert!(shown.contains("red \u{fffd}[31m alert\u{fffd}\u{fffd}"), "{shown:?}");
}

/// A todo.txt of so many tasks in the person's folder.
pub fn todo_txt(person: &Person, tasks: usize) -> String {
    let path = person.folder.path().join("todo.txt");
    let lines: Vec<String> = (0..tasks)
        .map(|number| format!("(A) Task {number} +Project{} @home", number % 3))
        .collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn an_import_brings_everything_and_doing_it_again_brings_nothing() {
    let fake = Fake::start();
    let person = Person::registered(&fake);
    let file = todo_txt(&person, 250);
    assert_eq!(
        person.ok(&["import", "--dry-run", &file]),
        "todo.txt: would add 250 tasks, 3 lists and 1 labels; 0 tasks are there already\n"
    );
    assert_eq!(
        person.ok(&["import", &file]),
        "todo.txt: 250 tasks imported, 3 new lists, 1 new labels\n"
    );
    assert_eq!(fake.world().tasks.len(), 250);
    let entries = fake.world().log.len();
    assert_eq!(
        person.ok(&["import", &file]),
        "todo.txt: 0 tasks imported, 250 were there already\n"
    );
    // Nor from another machine, which knows nothing of the first run.
    let other = Person::new(&fake);
    other.ok(&["login", "--server", &fake.url(), "ada@example.org"]);
    assert_eq!(
        other.ok(&["import", &file]),
        "todo.txt: 0 tasks imported, 250 were there already\n"
    );
    assert_eq!(fake.world().log.len(), entries);
}

#[test]
fn a_later_export_brings_what_is_new_in_it() {
    let fake = Fake::start();
    let person = Person::registered(&fake);
    let path = person.folder.path().join("Garden [6Crg8jQ886Wh4P5g].csv");
    let import = |rows: &[&str]| {
        std::fs::write(&path, format!("TYPE,CONTENT,INDENT\n{}\n", rows.join("\n"))).unwrap();
        person.ok(&["import", path.to_str().unwrap()])
    };
    let said = import(&["task,dig,1", "task,the roots,2", "task,dig,1"]);
    assert!(said.ends_with(": 3 tasks imported, 1 new lists\n"), "{said}");
    let said = import(&[
        "task,first,1",
        "task,dig,1",
        "task,the roots,2",
        "task,dig,1",
        "task,sow,1",
    ]);
    assert!(said.ends_with(": 2 tasks imported, 3 were there already\n"), "{said}");
    // The wrong format is another thing altogether, and is in no way of the right one.
    person.ok(&["import", "--format", "todo-txt", path.to_str().unwrap()]);
    let said = import(&["task,dig,1", "task,reap,1"]);
    assert!(said.ends_with(": 1 tasks imported, 1 were there already\n"), "{said}");
}

#[test]
fn what_the_server_would_refuse_is_refused_by_the_name_of_the_option_also_without_a_server() {
    let fake = Fake::start();
    let person = Person::registered(&fake);
    person.ok(&["list"]);
    fake.world().down = true;
    let long = "x".repeat(2_001);
    for (args, expected) in [
        (&["add", " "][..], "The title is empty."),
        (&["add", "two\nlines"], "The title must be one line of text."),
        (&["add", &long], "The title is longer than 2000 bytes."),
        (&["add", "t", "--label", "@"], "The name of --label is empty."),
        (&["lists", "--add", ""], "The name of the list is empty."),
        (
            &["import", "--list", &long, "none.csv"],
            "The name of --list is longer than 250 bytes.",
        ),
    ] {
        let output = person.run(args);
        assert!(!output.status.success(), "{args:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(expected), "{args:?}: {said}");
    }
    fake.world().down = false;
    assert_eq!(fake.world().log.len(), 1, "nothing but the birth");
}

#[test]
fn an_import_survives_power_failures_lost_answers_and_a_lack_of_room() {
    let fake = Fake::start();
    let person = Person::registered(&fake);
    let file = todo_txt(&person, 600);
    {
        let mut world = fake.world();
        world
            .faults
            .extend([Fault::Overloaded, Fault::LoseAnswer, Fault::LoseOperations, Fault::Hole]);
        world.cut_at = Some(400);
    }
    let mut importing = person
        .command(&["import", &file])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !fake.world().down {
        assert!(std::time::Instant::now() < deadline, "the power never failed");
        std::thread::yield_now();
    }
    // It says so while nothing comes, not only afterwards.
    let mut said = BufReader::new(importing.stderr.take().unwrap()).lines();
    let line = said.next().unwrap().unwrap();
    assert!(
        line.contains(" The import goes on by itself when that is over; "),
        "{line}"
    );
    fake.world().down = false;
    assert!(importing.wait().unwrap().success());
    let rest: Vec<String> = said.map(Result::unwrap).collect();
    assert!(
        rest.iter()
            .any(|line| line == "The server is back; the import goes on."),
        "{rest:?}"
    );
    let mut printed = String::new();
    std::io::Read::read_to_string(&mut importing.stdout.take().unwrap(), &mut printed).unwrap();
    assert_eq!(printed, "todo.txt: 600 tasks imported, 3 new lists, 1 new labels\n");
    let world = fake.world();
    let mut titles = world.titles();
    titles.sort();
    titles.dedup();
    assert_eq!((world.tasks.len(), titles.len()), (600, 600));
    // And one more entry each for the birth, the lists and the label: nothing was done twice.
    assert_eq!(world.log.len(), 600 + 1 + 3 + 1);
}

#[test]
fn an_import_says_what_it_could_not_carry_over() {
    let fake = Fake::start();
    let person = Person::registered(&fake);
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/src/client/import/samples");
    let output = person.run(&[
        "import",
        &format!("{samples}/todoist.json"),
        &format!("{samples}/todo.txt"),
    ]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "todoist.json: 8 tasks imported, 4 new lists, 2 new labels\n\
         todo.txt: 7 tasks imported, 2 new lists, 3 new labels\n"
    );
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(
        complaint.contains("  item 105: the repetition \"every month\" was kept in the notes\n"),
        "{complaint}"
    );
    assert!(
        complaint.contains("  line 4: the priority (F) became low\n"),
        "{complaint}"
    );
    let archived: Vec<String> = fake
        .world()
        .lists
        .values()
        .filter(|list| list.archived)
        .map(|list| list.name.clone())
        .collect();
    assert_eq!(archived, ["Old house"]);
}

#[test]
fn what_the_server_refuses_is_named_and_takes_its_parts_along() {
    let fake = Fake::start();
    let person = Person::registered(&fake);
    let path = person.folder.path().join("Garden.csv");
    let csv = "TYPE,CONTENT,PRIORITY,INDENT\ntask,refuse me,4,1\ntask,part,4,2\ntask,other,4,1\n";
    std::fs::write(&path, csv).unwrap();
    fake.world().refused_title = Some("refuse me".to_owned());
    let output = person.run(&["import", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "Garden.csv: 1 tasks imported, 1 new lists, 2 refused\n"
    );
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "Refused by the server:\n  \
         line 2: \"refuse me\": A text is longer than it may be; shorten it.\n  \
         line 3: \"part\" was left out, because \"refuse me\" was\n"
    );
}
