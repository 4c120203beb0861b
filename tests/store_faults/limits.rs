//! Bounds, refusals and small promises of the embedded store that are not part of the ports' contract.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use taskflow::store::embedded::{self, OpenError, Options, StoreObserver};
use taskflow_actors::ports::{Access, Accounts as _, Append, AppendError, Device, Head, Note, SignIn, Store as _};
use uuid::Uuid;

use crate::disk::{DATABASE, Disk, VFS, WAL};
use crate::load::{busy, commit, feed, settle};

#[tokio::test]
async fn what_does_not_fit_into_the_queue_is_refused_at_once_and_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::watch(folder.path());
    let options = Options {
        vfs: Some(VFS),
        queue_jobs_max: 10,
        ..busy()
    };
    let store = embedded::open(folder.path(), options, Arc::new(())).unwrap();
    assert_eq!(store.append(commit(0, 0)).await, Ok(()));
    let held = disk.hold();
    let waiting: Vec<_> = (1..40)
        .map(|base| tokio::spawn(store.append(commit(0, base))))
        .collect();
    // The writer holds some in its hands and ten wait; the rest were refused in the call itself.
    let mut refused = 0;
    while refused < 19 {
        refused = waiting.iter().filter(|append| append.is_finished()).count();
        tokio::task::yield_now().await;
    }
    let queued = store.waiting();
    assert_eq!((queued.writes, queued.reads), (10, 0));
    assert!(queued.bytes > 10 * commit(0, 0).body.len(), "{queued:?}");
    drop(held);
    let answers: Vec<_> = join_all(waiting).await.into_iter().map(Result::unwrap).collect();
    let queued = store.waiting();
    assert_eq!((queued.writes, queued.bytes), (0, 0));
    let taken = answers.iter().take_while(|answer| **answer == Ok(())).count();
    // Those that found room again behind a refused one do not fit its feed any more.
    let refused =
        |answer: &Result<(), AppendError>| matches!(answer, Err(AppendError::Full | AppendError::Conflict(_)));
    assert!(answers[taken..].iter().all(refused), "{answers:?}");
    assert_eq!(settle(&store, 0).await, 1 + taken as u64);
}

#[tokio::test]
async fn queue_overflow_in_bytes_is_refused_too() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::watch(folder.path());
    let options = Options {
        vfs: Some(VFS),
        queue_bytes_max: 100_000,
        ..busy()
    };
    let store = embedded::open(folder.path(), options, Arc::new(())).unwrap();
    assert_eq!(store.append(commit(0, 0)).await, Ok(()));
    let held = disk.hold();
    let large = |base| Append {
        body: Bytes::from(vec![0; 60_000]),
        ..commit(0, base)
    };
    let waiting: Vec<_> = (1..5).map(|base| tokio::spawn(store.append(large(base)))).collect();
    while !waiting[3].is_finished() {
        tokio::task::yield_now().await;
    }
    drop(held);
    let answers: Vec<_> = join_all(waiting).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers[0], Ok(()));
    assert_eq!(answers[3], Err(AppendError::Full));
}

#[derive(Default)]
struct Most(AtomicUsize);

impl StoreObserver for Most {
    fn tail_bytes(&self, bytes: usize) {
        self.0.fetch_max(bytes, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn what_waits_to_be_moved_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let never = Duration::from_secs(3_600);
    let options = Options {
        move_idle: never,
        move_every: never,
        tail_bytes_max: 50_000,
        ..busy()
    };
    let most = Arc::new(Most::default());
    let store = embedded::open(folder.path(), options, most.clone()).unwrap();
    for base in 0..100 {
        let append = Append {
            body: Bytes::from(vec![0; 5_000]),
            ..commit(0, base)
        };
        assert_eq!(store.append(append).await, Ok(()));
    }
    let most = most.0.load(Ordering::Relaxed);
    assert!((40_000..60_000).contains(&most), "{most} bytes");
    assert_eq!(store.load(feed(0), 0).await.unwrap().unwrap().log.len(), 100);
}

#[tokio::test]
async fn rows_beyond_the_head_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = embedded::open(folder.path(), busy(), Arc::new(())).unwrap();
    assert_eq!(store.append(commit(3, 0)).await, Ok(()));
    let head = Head {
        epoch: commit(3, 0).epoch,
        seq: 1,
        first: 1,
        rows_upto: 0,
    };
    assert_eq!(
        store.write_rows(feed(3), Vec::new(), 2).await,
        Err(AppendError::Conflict(Some(head)))
    );
}

#[tokio::test]
async fn an_append_whose_future_is_dropped_goes_ahead() {
    let folder = tempfile::tempdir().unwrap();
    let store = embedded::open(folder.path(), busy(), Arc::new(())).unwrap();
    drop(store.append(commit(0, 0)));
    assert_eq!(store.append(commit(0, 1)).await, Ok(()));
    assert_eq!(settle(&store, 0).await, 2);
}

#[tokio::test]
async fn thousands_of_reads_at_once_are_all_answered() {
    let folder = tempfile::tempdir().unwrap();
    let store = embedded::open(folder.path(), Options { readers: 2, ..busy() }, Arc::new(())).unwrap();
    let births = join_all((0..3_000).map(|number| store.append(commit(number, 0)))).await;
    assert_eq!(births, vec![Ok(()); 3_000]);
    for _ in 0..2 {
        let pages = join_all((0..3_000).map(|number| store.read_log(feed(number), 0, 1_000))).await;
        assert!(pages.into_iter().all(|page| page.unwrap().unwrap().rows.len() == 1));
    }
}

#[tokio::test]
async fn reads_beyond_the_bound_are_refused_and_not_kept_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let store = embedded::open(folder.path(), Options { reads_max: 0, ..busy() }, Arc::new(())).unwrap();
    let answer = store.load(feed(0), 0).await;
    assert_eq!(
        answer,
        Err(taskflow_actors::ports::ReadError::Unavailable(
            "too many reads wait".to_owned()
        ))
    );
}

fn sign_in(number: u128, now: i64) -> SignIn {
    SignIn {
        id: Uuid::from_u128(number),
        user: feed(0),
        access: Access::Owner,
        secret_hash: [1; 32],
        previous_hash: [0; 32],
        rotated_at: now,
        expires_at: now + 100,
    }
}

#[tokio::test]
async fn expired_sign_ins_are_removed_as_new_ones_come() {
    let folder = tempfile::tempdir().unwrap();
    let store = embedded::open(folder.path(), busy(), Arc::new(())).unwrap();
    for number in 0..50 {
        assert_eq!(
            store.create_sign_in(sign_in(number, 0), Device::default()).await,
            Ok(())
        );
    }
    for number in 50..70 {
        assert_eq!(
            store.create_sign_in(sign_in(number, 101), Device::default()).await,
            Ok(())
        );
    }
    let found = join_all((0..70).map(|number| store.sign_in(Uuid::from_u128(number)))).await;
    let left: Vec<usize> = (0..70).filter(|at| found[*at].as_ref().unwrap().is_some()).collect();
    assert_eq!(left, (50..70).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_closed_store_answers_that_it_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let store = embedded::open(folder.path(), busy(), Arc::new(())).unwrap();
    assert_eq!(store.append(commit(0, 0)).await, Ok(()));
    let late = store.clone();
    store.shutdown();
    assert_eq!(
        late.append(commit(0, 1)).await,
        Err(AppendError::Unavailable("it is closed".to_owned()))
    );
    assert_eq!(
        late.head(feed(0)).await,
        Err(taskflow_actors::ports::ReadError::Unavailable(
            "it is closed".to_owned()
        ))
    );
}

#[tokio::test]
async fn a_shutdown_leaves_everything_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let never = Duration::from_secs(3_600);
    let options = Options {
        move_idle: never,
        move_every: never,
        ..busy()
    };
    let store = embedded::open(folder.path(), options, Arc::new(())).unwrap();
    for base in 0..20 {
        assert_eq!(store.append(commit(0, base)).await, Ok(()));
    }
    store.shutdown();
    assert_eq!(std::fs::metadata(folder.path().join(WAL)).unwrap().len(), 0);
    let database = rusqlite::Connection::open(folder.path().join(DATABASE)).unwrap();
    let count = |table: &str| -> i64 {
        database
            .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
            .unwrap()
    };
    assert_eq!((count("inbox"), count("log"), count("head")), (0, 20, 1));
}

#[tokio::test]
async fn a_history_is_kept_for_ninety_days() {
    let folder = tempfile::tempdir().unwrap();
    let store = embedded::open(folder.path(), busy(), Arc::new(())).unwrap();
    let day = 86_400_000;
    let noted = |at: i64| Note {
        at,
        id: Uuid::from_u128(1),
        event: "signed_in".to_owned(),
        sign_in: Uuid::nil(),
        address: String::new(),
        device: String::new(),
    };
    for at in [0, day, 2 * day] {
        assert_eq!(store.note(feed(0), noted(at)).await, Ok(()));
    }
    assert_eq!(store.note(feed(1), noted(0)).await, Ok(()));
    assert_eq!(store.note(feed(0), noted(91 * day)).await, Ok(()));
    let left = store.history(feed(0), None, 10).await.unwrap();
    let times: Vec<i64> = left.iter().map(|note| note.at / day).collect();
    assert_eq!(times, [91, 2, 1]);
    assert_eq!(store.history(feed(1), None, 10).await.unwrap().len(), 1, "another's");
}

#[tokio::test]
async fn what_is_removed_before_it_was_moved_is_in_no_table() {
    let folder = tempfile::tempdir().unwrap();
    let never = Duration::from_secs(3_600);
    let options = Options {
        move_idle: never,
        move_every: never,
        ..busy()
    };
    let store = embedded::open(folder.path(), options, Arc::new(())).unwrap();
    for base in 0..20 {
        let both = [store.append(commit(0, base)), store.append(commit(1, base))];
        assert_eq!(futures_util::future::join_all(both).await, [Ok(()), Ok(())]);
    }
    assert_eq!(store.remove(feed(0), 0).await, Ok(()));
    store.shutdown();
    let database = rusqlite::Connection::open(folder.path().join(DATABASE)).unwrap();
    let count = |table: &str| -> i64 {
        database
            .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
            .unwrap()
    };
    let tables = ["inbox", "log", "head", "row", "aside", "removed"];
    assert_eq!(tables.map(count), [0, 20, 1, 0, 0, 1]);
}

#[test]
fn a_newer_format_and_a_foreign_database_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(embedded::open(folder.path(), busy(), Arc::new(())).unwrap());
    let set = |pragma: &str| {
        let database = rusqlite::Connection::open(folder.path().join(DATABASE)).unwrap();
        database.execute_batch(&format!("PRAGMA {pragma}")).unwrap();
    };
    set("user_version=4");
    match embedded::open(folder.path(), busy(), Arc::new(())).err() {
        Some(OpenError::Newer { found: 4, known: 3, .. }) => {}
        other => panic!("{other:?}"),
    }
    set("user_version=3");
    set("application_id=1");
    match embedded::open(folder.path(), busy(), Arc::new(())).err() {
        Some(OpenError::Damaged { what, .. }) => {
            assert_eq!(what, "taskflow.db, header: it is not a database of taskflow");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_store_of_a_format_before_is_brought_to_the_present_one() {
    for format in [1, 2] {
        an_old_store(format).await;
    }
}

async fn an_old_store(old: i64) {
    let folder = tempfile::tempdir().unwrap();
    let store = embedded::open(folder.path(), busy(), Arc::new(())).unwrap();
    assert_eq!(store.append(commit(0, 0)).await, Ok(()));
    let signed_in = sign_in(1, 5);
    assert_eq!(store.create_sign_in(signed_in.clone(), Device::default()).await, Ok(()));
    store.shutdown();
    let format = |set: Option<i64>| -> i64 {
        let database = rusqlite::Connection::open(folder.path().join(DATABASE)).unwrap();
        if let Some(format) = set {
            for (table, since) in [("device", 2), ("deletion", 3), ("history", 3), ("removed", 3)] {
                if format < since {
                    database.execute_batch(&format!("DROP TABLE {table}")).unwrap();
                }
            }
            database.pragma_update(None, "user_version", format).unwrap();
        }
        database.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(format(Some(old)), old);
    let store = embedded::open(folder.path(), busy(), Arc::new(())).unwrap();
    assert_eq!(store.head(feed(0)).await.unwrap().unwrap().seq, 1);
    let created_at = if old < 2 { signed_in.rotated_at } else { 0 };
    let device = Device {
        created_at,
        ..Device::default()
    };
    let found = store.sign_ins_of(signed_in.user).await;
    assert_eq!(found, Ok(vec![(signed_in, device)]));
    assert_eq!(store.remove(feed(0), 0).await, Ok(()));
    store.shutdown();
    assert_eq!(format(None), 3);
}

#[test]
fn a_start_that_was_interrupted_before_the_store_was_made_is_repeated() {
    for database in [None, Some(&b""[..])] {
        let folder = tempfile::tempdir().unwrap();
        drop(embedded::open(folder.path(), busy(), Arc::new(())).unwrap());
        // As if it had ended between making the witness and making the tables.
        let witness = folder.path().join("taskflow.witness");
        let line = std::fs::read_to_string(&witness).unwrap();
        let (words, _) = line.trim().rsplit_once(" sum ").unwrap();
        let words = words.replace("ready 1", "ready 0");
        std::fs::write(
            &witness,
            format!("{words} sum {:08x}\n", crc32c::crc32c(words.as_bytes())),
        )
        .unwrap();
        std::fs::remove_file(folder.path().join(DATABASE)).unwrap();
        std::fs::remove_file(folder.path().join(WAL)).unwrap();
        if let Some(bytes) = database {
            std::fs::write(folder.path().join(DATABASE), bytes).unwrap();
        }
        drop(embedded::open(folder.path(), busy(), Arc::new(())).unwrap());
    }
}
