//! A process that is killed in the middle of its load, and a process that finds another one there.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use taskflow::store::embedded::{self, OpenError, Options};

use crate::load::{Owed, Plan, Verdict, busy, examine, run};

/// Where the other process finds its folder.
const FOLDER: &str = "STORE_FAULTS_FOLDER";
const SEED: &str = "STORE_FAULTS_SEED";

/// This test program again, as another process that runs one ignored test.
fn another(test: &str, folder: &Path, seed: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", test])
        .env(FOLDER, folder)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
#[ignore = "is the process that the test below kills"]
async fn the_process_that_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    let options = Options {
        checkpoint_frames: 300,
        ..busy()
    };
    let store = embedded::open(Path::new(&folder), options, Arc::new(())).unwrap();
    run(
        &store,
        Plan { seed, rounds: 10_000 },
        || 0,
        |what| println!("durable {what}"),
    )
    .await;
}

#[tokio::test]
async fn a_process_that_is_killed_at_any_moment_leaves_everything_it_acknowledged() {
    let mut random = StdRng::seed_from_u64(1);
    for seed in 0..12 {
        let folder = tempfile::tempdir().unwrap();
        let mut owed = Owed::default();
        // Killed twice on the same folder: the second start finds what the first left.
        for life in 0..2 {
            let mut process = another("kill::the_process_that_is_killed", folder.path(), seed * 2 + life);
            let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
            let mut left: usize = random.random_range(1..400);
            // What it had written when it was killed is still in the pipe: everything it said counts.
            while let Some(Ok(line)) = lines.next() {
                note(&mut owed, &line);
                left = left.saturating_sub(1);
                if left == 0 {
                    process.kill().unwrap();
                }
            }
            process.wait().unwrap();
            let verdict = examine(folder.path(), &owed).await;
            assert!(
                matches!(verdict, Verdict::Whole),
                "seed {seed}, life {life}: {verdict:?}"
            );
        }
        assert!(!owed.heads.is_empty(), "seed {seed}: nothing was acknowledged");
    }
}

fn note(owed: &mut Owed, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let ["durable", what, number, value] = words[..] else {
        return;
    };
    let (Ok(number), Ok(value)) = (number.parse(), value.parse::<u64>()) else {
        return;
    };
    match what {
        "head" => {
            let head = owed.heads.entry(number).or_default();
            *head = value.max(*head);
        }
        "removing" => owed.removing = true,
        "removed" => owed.removed = true,
        _ => owed.accounts.push((number, value)),
    }
}

#[test]
#[ignore = "is the second process of the test below"]
fn the_second_process() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    match embedded::open(Path::new(&folder), busy(), Arc::new(())) {
        Ok(_) => println!("opened"),
        Err(error) => println!("refused: {error}"),
    }
}

fn second_opinion(folder: &Path) -> String {
    let output = another("kill::the_second_process", folder, 0)
        .wait_with_output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_second_process_on_the_same_folder_is_refused_and_told_why() {
    let folder = tempfile::tempdir().unwrap();
    let store = embedded::open(folder.path(), busy(), Arc::new(())).unwrap();
    let told = second_opinion(folder.path());
    let expected = format!(
        "refused: the data folder {} is in use by another process ({}): stop it, or use another --data-dir",
        folder.path().canonicalize().unwrap().display(),
        std::process::id()
    );
    assert!(told.contains(&expected), "{told}");
    assert!(matches!(
        embedded::open(folder.path(), busy(), Arc::new(())),
        Err(OpenError::InUse { .. })
    ));
    drop(store);
    let told = second_opinion(folder.path());
    assert!(told.contains("opened"), "{told}");
}

#[cfg(unix)]
#[test]
fn nobody_else_can_read_what_the_store_writes() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("data");
    let store = embedded::open(&folder, busy(), Arc::new(())).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let mut files = 0;
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        files += 1;
    }
    assert_eq!(files, 5, "database, its log, its index, witness, lock");
    drop(store);
}
