//! Flipped bits and cut files: what was acknowledged is read back right, or what is wrong with it is named.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use taskflow::store::embedded::{self, OpenError};
use taskflow_actors::ports::{AppendError, ReadError, Store as _};

use crate::crash::recorded;
use crate::disk::{Crash, DATABASE, Image, WAL, WITNESS, lay_down};
use crate::load::{Owed, Plan, Verdict, busy, commit, examine, feed, rows};

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for name in [DATABASE, WAL, WITNESS] {
        // SQLite makes an empty write-ahead log where there is none.
        if let Ok(bytes) = std::fs::read(folder.join(name))
            && !bytes.is_empty()
        {
            files.insert(name.to_owned(), bytes);
        }
    }
    files
}

/// Looks at a damaged image; panics if something is silently wrong, or if a store that is refused was touched.
async fn look(image: &Image, owed: &Owed, case: &str) -> Verdict {
    let folder = tempfile::tempdir().unwrap();
    lay_down(image, folder.path());
    let before = files(folder.path());
    let owed = Owed {
        is_damaged: true,
        ..owed.clone()
    };
    let examined = examine(folder.path(), &owed);
    let verdict = std::panic::AssertUnwindSafe(examined);
    let verdict = futures_util::FutureExt::catch_unwind(verdict).await;
    let verdict = verdict.unwrap_or_else(|_| panic!("silent: {case}"));
    match &verdict {
        Verdict::Refused(error) => {
            assert!(files(folder.path()) == before, "{case}: it was refused, and changed");
            assert!(
                error.to_string().contains("taskflow."),
                "{case}: no file is named: {error}"
            );
        }
        Verdict::Named(named) => {
            for what in named {
                assert!(what.starts_with(DATABASE), "{case}: no file is named: {what}");
            }
        }
        Verdict::Whole => {}
    }
    verdict
}

#[derive(Debug, Default)]
struct Tally {
    whole: usize,
    refused: usize,
    named: usize,
}

impl Tally {
    fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Whole => self.whole += 1,
            Verdict::Refused(_) => self.refused += 1,
            Verdict::Named(_) => self.named += 1,
        }
    }
}

/// Images of a store that was killed: some in the middle of a load, and one with nothing in the write-ahead log.
async fn killed(seed: u64) -> Vec<(Image, Owed)> {
    let (disk, acknowledged) = recorded(Plan { seed, rounds: 40 }).await;
    let steps = disk.now();
    let moments = [steps / 3, steps * 2 / 3, steps * 9 / 10, steps];
    moments
        .iter()
        .map(|at| (disk.crash(*at, Crash::Killed), acknowledged.until(*at)))
        .collect()
}

#[tokio::test]
async fn no_flipped_bit_goes_unnoticed() {
    let mut random = StdRng::seed_from_u64(1);
    let mut tally = Tally::default();
    for (image, owed) in killed(100).await {
        let verdict = look(&image, &owed, "untouched").await;
        assert!(matches!(verdict, Verdict::Whole), "untouched: {verdict:?}");
        for (name, share) in [(DATABASE, 70), (WAL, 50), (WITNESS, 10)] {
            if image[name].is_empty() {
                continue;
            }
            for _ in 0..share {
                let mut image = image.clone();
                let bytes = image.get_mut(name).unwrap();
                let at = random.random_range(0..bytes.len());
                bytes[at] ^= 1 << random.random_range(0..8);
                let verdict = look(&image, &owed, &format!("{name}, a bit of byte {at}")).await;
                tally.add(&verdict);
            }
        }
    }
    eprintln!("flipped bits: {tally:?}");
    assert!(tally.refused > 20 && tally.named > 50, "{tally:?}");
}

#[tokio::test]
async fn no_cut_file_goes_unnoticed() {
    let mut random = StdRng::seed_from_u64(2);
    let mut tally = Tally::default();
    for (image, owed) in killed(200).await {
        for (name, share) in [(DATABASE, 30), (WAL, 30), (WITNESS, 5)] {
            for turn in 0..share {
                let mut image = image.clone();
                let bytes = image.get_mut(name).unwrap();
                // Also at the bounds of pages, where a cut leaves nothing half.
                let at = random.random_range(0..=bytes.len());
                let at = if turn % 3 == 0 { at / 4096 * 4096 } else { at };
                bytes.truncate(at);
                let verdict = look(&image, &owed, &format!("{name}, cut at {at}")).await;
                tally.add(&verdict);
            }
        }
    }
    eprintln!("cut files: {tally:?}");
    assert!(tally.refused > 50, "{tally:?}");
}

#[tokio::test]
async fn a_page_of_zeros_or_of_another_place_does_not_go_unnoticed() {
    let mut random = StdRng::seed_from_u64(3);
    let mut tally = Tally::default();
    for (image, owed) in killed(300).await {
        let pages = image[DATABASE].len() / 4096;
        for turn in 0..60 {
            let mut image = image.clone();
            let bytes = image.get_mut(DATABASE).unwrap();
            let to = random.random_range(0..pages) * 4096;
            let page = match turn % 2 {
                0 => vec![0; 4096],
                _ => {
                    let from = random.random_range(0..pages) * 4096;
                    bytes[from..from + 4096].to_vec()
                }
            };
            bytes[to..to + 4096].copy_from_slice(&page);
            let verdict = look(&image, &owed, &format!("page {} replaced, turn {turn}", to / 4096)).await;
            tally.add(&verdict);
        }
    }
    eprintln!("replaced pages: {tally:?}");
    assert!(tally.refused + tally.named > 100, "{tally:?}");
}

#[tokio::test]
async fn a_file_that_is_missing_is_named() {
    let (image, owed) = killed(400).await.remove(1);
    for name in [DATABASE, WITNESS] {
        let mut image = image.clone();
        image.remove(name);
        let Verdict::Refused(OpenError::Damaged { what, .. }) = look(&image, &owed, name).await else {
            panic!("it opened without {name}");
        };
        assert!(what.starts_with(&format!("{name}: the file is missing")), "{what}");
    }
    // Without its write-ahead log a store is refused, unless everything in it was in the database as well.
    let mut refused = 0;
    for (mut image, owed) in killed(401).await {
        image.remove(WAL);
        refused += usize::from(matches!(look(&image, &owed, WAL).await, Verdict::Refused(_)));
    }
    assert!(refused > 0);
}

#[tokio::test]
async fn a_database_that_went_back_in_time_is_refused() {
    let (disk, acknowledged) = recorded(Plan { seed: 500, rounds: 20 }).await;
    let steps = disk.now();
    let mut image = disk.crash(steps / 2, Crash::Killed);
    image.insert(WITNESS, disk.crash(steps, Crash::Killed)[WITNESS].clone());
    let verdict = look(&image, &acknowledged.until(steps), "yesterday's database").await;
    let Verdict::Refused(OpenError::Damaged { what, .. }) = verdict else {
        panic!("{verdict:?}")
    };
    // The last witness may be one of a checkpoint under way, and then its frames are missed first.
    assert!(
        what.contains("is missing") || what.contains("in the middle of a checkpoint"),
        "{what}"
    );
}

#[tokio::test]
async fn files_of_two_stores_are_not_mixed() {
    let (one, owed) = killed(600).await.remove(3);
    let (other, _) = killed(601).await.remove(3);
    let mut image = one;
    image.insert(WITNESS, other[WITNESS].clone());
    let verdict = look(&image, &owed, "the witness of another store").await;
    let Verdict::Refused(OpenError::Damaged { what, .. }) = verdict else {
        panic!("{verdict:?}")
    };
    assert_eq!(what, "taskflow.db and taskflow.witness belong to different stores");
}

/// Flips a byte of a feed's first log body, wherever it lies in the database.
fn damage_first_commit(image: &mut Image, number: u64) {
    let body = commit(number, 0).body;
    let bytes = image.get_mut(DATABASE).unwrap();
    let part = &body[..body.len().min(40)];
    let at = bytes
        .windows(part.len())
        .position(|window| window == part)
        .expect("the first commit is in the database");
    bytes[at] ^= 0x10;
}

#[tokio::test]
async fn a_damaged_feed_takes_no_appends_and_the_others_do() {
    let folder = tempfile::tempdir().unwrap();
    let store = embedded::open(folder.path(), busy(), Arc::new(())).unwrap();
    for number in 0..3 {
        for base in 0..3 {
            assert_eq!(store.append(commit(number, base)).await, Ok(()));
        }
    }
    store.shutdown();
    let mut image: Image = [DATABASE, WITNESS]
        .map(|name| (name, std::fs::read(folder.path().join(name)).unwrap()))
        .into();
    damage_first_commit(&mut image, 1);
    lay_down(&image, folder.path());

    let store = embedded::open(folder.path(), busy(), Arc::new(())).unwrap();
    let damage = format!(
        "taskflow.db, table log, feed {}: seq 1: the checksum does not match",
        feed(1)
    );
    assert_eq!(
        store.read_log(feed(1), 0, 1_000).await,
        Err(ReadError::Damaged(damage.clone()))
    );
    assert_eq!(
        store.append(commit(1, 3)).await,
        Err(AppendError::Damaged(damage.clone()))
    );
    assert_eq!(
        store.write_rows(feed(1), Vec::new(), 1).await,
        Err(AppendError::Damaged(damage))
    );
    // What lies behind the damage is still read, and the neighbours live on.
    assert_eq!(store.read_log(feed(1), 1, 10_000).await.unwrap().unwrap().rows.len(), 2);
    for number in [0, 2] {
        assert_eq!(store.append(commit(number, 3)).await, Ok(()));
        assert_eq!(store.load(feed(number), 0).await.unwrap().unwrap().log.len(), 4);
    }
}

#[tokio::test]
async fn commits_in_the_inbox_of_a_feed_whose_head_is_damaged_are_put_aside_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = embedded::open(folder.path(), busy(), Arc::new(())).unwrap();
    for number in 0..2 {
        assert_eq!(store.append(commit(number, 0)).await, Ok(()));
    }
    store.shutdown();
    // More of it, which stays in the inbox.
    let never = std::time::Duration::from_secs(3_600);
    let lazy = embedded::Options {
        move_idle: never,
        move_every: never,
        ..busy()
    };
    let store = embedded::open(folder.path(), lazy, Arc::new(())).unwrap();
    for number in 0..2 {
        assert_eq!(store.append(commit(number, 1)).await, Ok(()));
    }
    drop(store);
    // Somebody writes nonsense over one head.
    let database = rusqlite::Connection::open(folder.path().join(DATABASE)).unwrap();
    let changed = database
        .execute("UPDATE head SET v=zeroblob(68) WHERE k=?", [feed(0).bytes()])
        .unwrap();
    assert_eq!(changed, 1);
    drop(database);

    for _ in 0..2 {
        let store = embedded::open(folder.path(), busy(), Arc::new(())).unwrap();
        let what = format!("taskflow.db, table head, feed {}: the checksum does not match", feed(0));
        assert_eq!(
            store.append(commit(0, 2)).await,
            Err(AppendError::Damaged(what.clone()))
        );
        assert_eq!(store.head(feed(0)).await, Err(ReadError::Damaged(what)));
        assert_eq!(store.head(feed(1)).await.unwrap().unwrap().seq, 2);
        store.shutdown();
    }
    let database = rusqlite::Connection::open(folder.path().join(DATABASE)).unwrap();
    let kept: i64 = database
        .query_row("SELECT count(*) FROM aside", [], |row| row.get(0))
        .unwrap();
    let waiting: i64 = database
        .query_row("SELECT count(*) FROM inbox", [], |row| row.get(0))
        .unwrap();
    assert_eq!((kept, waiting), (1, 0));
}

/// Frames of the write-ahead log that SQLite takes for valid.
fn valid_frames(image: &Image) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    lay_down(image, folder.path());
    let database = rusqlite::Connection::open(folder.path().join(DATABASE)).unwrap();
    let frames: i64 = database
        .query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get(1))
        .unwrap();
    frames as u64
}

#[tokio::test]
async fn in_the_middle_of_a_checkpoint_not_one_frame_may_be_missing() {
    let (disk, acknowledged) = recorded(Plan { seed: 700, rounds: 20 }).await;
    let mut cut = 0;
    let mut last_frames = String::new();
    for at in 0..disk.now() {
        let mut image = disk.crash(at, Crash::Killed);
        let witness = String::from_utf8(image[WITNESS].clone()).unwrap();
        let words: Vec<&str> = witness.split(' ').collect();
        let (frames, emptying) = (words[8].to_owned(), words[10]);
        // Once in each checkpoint, a few steps after its beginning.
        if frames == last_frames || emptying != "0" {
            continue;
        }
        last_frames.clone_from(&frames);
        let frames: u64 = frames.parse().unwrap();
        if frames == 0 {
            continue;
        }
        assert_eq!(valid_frames(&image), frames, "the witness names all of them");
        // A header of 32 bytes, and 24 bytes before each page. <https://sqlite.org/fileformat2.html#walformat>
        let wal = image.get_mut(WAL).unwrap();
        wal.truncate(32 + (frames as usize - 1) * (24 + 4096) + 24 + 4000);
        let verdict = look(&image, &acknowledged.until(at), "the last frame is cut").await;
        let Verdict::Refused(OpenError::Damaged { what, .. }) = verdict else {
            panic!("{frames} frames at step {at}: {verdict:?}")
        };
        let expected = format!("needs {frames} frames of this file, and only ");
        assert!(
            what.starts_with("taskflow.db-wal: the last run ended in the middle of a checkpoint"),
            "{what}"
        );
        assert!(what.contains(&expected), "{what}");
        cut += 1;
    }
    assert!(cut > 3, "only {cut} checkpoints");
}

/// Something done to the tables behind the store's back, with what the store then says of feed 0.
async fn tampered(tamper: impl Fn(&rusqlite::Connection, &[u8]), expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(DATABASE);
    let store = embedded::open(folder.path(), busy(), Arc::new(())).unwrap();
    for base in 0..6 {
        assert_eq!(store.append(commit(0, base)).await, Ok(()));
    }
    assert_eq!(store.write_rows(feed(0), rows(0, 3), 3).await, Ok(()));
    store.shutdown();
    let database = rusqlite::Connection::open(&path).unwrap();
    database
        .execute_batch("CREATE TABLE old AS SELECT k,v FROM row UNION SELECT k,v FROM head")
        .unwrap();
    drop(database);
    let store = embedded::open(folder.path(), busy(), Arc::new(())).unwrap();
    for base in 6..9 {
        assert_eq!(store.append(commit(0, base)).await, Ok(()));
    }
    assert_eq!(store.write_rows(feed(0), rows(0, 8), 8).await, Ok(()));
    store.shutdown();
    let database = rusqlite::Connection::open(&path).unwrap();
    tamper(&database, feed(0).bytes());
    drop(database);

    let store = embedded::open(folder.path(), busy(), Arc::new(())).unwrap();
    let said = store.load(feed(0), 0).await.map(|_| ());
    let expected = format!("taskflow.db, table {expected}").replace("FEED", &feed(0).to_string());
    assert_eq!(said, Err(ReadError::Damaged(expected.clone())));
    assert_eq!(store.append(commit(0, 9)).await, Err(AppendError::Damaged(expected)));
}

#[tokio::test]
async fn what_is_taken_out_of_a_table_or_put_back_from_before_is_named() {
    let run = |sql: &'static str| {
        move |database: &rusqlite::Connection, feed: &[u8]| {
            let changed = database.execute(sql, [feed]).unwrap();
            assert!(changed > 0, "{sql}");
        }
    };
    tampered(
        run("DELETE FROM row WHERE k=(SELECT max(k) FROM row WHERE substr(k,1,16)=?)"),
        "row, feed FEED: 2 rows were found, 3 were written",
    )
    .await;
    tampered(
        run("UPDATE row SET v=(SELECT v FROM old WHERE old.k=row.k) WHERE k=(SELECT max(k) FROM row WHERE substr(k,1,16)=?)"),
        "row, feed FEED: some rows are older than what was written",
    )
    .await;
    tampered(
        run("UPDATE head SET v=(SELECT v FROM old WHERE old.k=head.k) WHERE k=?"),
        "head, feed FEED: the log goes beyond it",
    )
    .await;
    tampered(
        run("DELETE FROM head WHERE k=?"),
        "head, feed FEED: the log goes beyond it",
    )
    .await;
    tampered(
        run("DELETE FROM log WHERE k=(SELECT k FROM log WHERE substr(k,1,16)=? ORDER BY k LIMIT 1 OFFSET 4)"),
        "log, feed FEED: the commits after seq 4 up to seq 5 are missing",
    )
    .await;
    tampered(
        run("DELETE FROM log WHERE k=(SELECT max(k) FROM log WHERE substr(k,1,16)=?)"),
        "log, feed FEED: the commits after seq 8 up to seq 9 are missing",
    )
    .await;
    tampered(
        run("DELETE FROM log WHERE k=(SELECT min(k) FROM log WHERE substr(k,1,16)=?)"),
        "log, feed FEED: the commits after seq 0 up to seq 1 are missing",
    )
    .await;
}

#[tokio::test]
async fn a_row_that_is_damaged_alone_is_named_and_nothing_writes_over_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(DATABASE);
    let store = embedded::open(folder.path(), busy(), Arc::new(())).unwrap();
    for base in 0..6 {
        assert_eq!(store.append(commit(0, base)).await, Ok(()));
    }
    let all = rows(0, 6);
    assert_eq!(store.write_rows(feed(0), all.clone(), 6).await, Ok(()));
    store.shutdown();
    let damaged = || {
        let database = rusqlite::Connection::open(&path).unwrap();
        let count = "SELECT count(*) FROM row WHERE substr(v,-1)=x'ee'";
        let count: i64 = database.query_row(count, [], |row| row.get(0)).unwrap();
        (database, count)
    };
    let (database, none) = damaged();
    assert_eq!(none, 0);
    let sql = "UPDATE row SET v=CAST(substr(v,1,length(v)-1)||x'ee' AS BLOB) WHERE k=(SELECT max(k) FROM row)";
    assert_eq!(database.execute(sql, []).unwrap(), 1);
    drop(database);
    for base in 6..8 {
        // Again after a restart.
        let store = embedded::open(folder.path(), busy(), Arc::new(())).unwrap();
        let loaded = store.load(feed(0), 0).await.unwrap().unwrap();
        assert_eq!(loaded.rows, all[..all.len() - 1]);
        let last = all.last().unwrap().key;
        let unreadable: Vec<_> = loaded.unreadable.iter().map(|row| row.key).collect();
        assert_eq!(unreadable, [last]);
        let what = format!("taskflow.db, table row, feed {}, row ", feed(0));
        assert!(
            loaded.unreadable[0].what.starts_with(&what),
            "{}",
            loaded.unreadable[0].what
        );
        assert_eq!(store.append(commit(0, base)).await, Ok(()));
        assert_eq!(store.write_rows(feed(0), Vec::new(), base + 1).await, Ok(()));
        store.shutdown();
        assert_eq!(damaged().1, 1);
    }
}
