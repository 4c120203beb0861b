//! An fsync that fails: nobody knows what is on the disk, and the kernel reads back what is not.

use std::sync::Arc;

use taskflow::store::embedded::{self, Options};
use taskflow_actors::ports::{AppendError, Store as _};

use crate::disk::{Crash, Disk, File, VFS, lay_down};
use crate::load::{Plan, Verdict, busy, commit, examine, feed, run, settle};

/// Options with which nothing happens by itself but the groups.
fn quiet() -> Options {
    let never = std::time::Duration::from_secs(3_600);
    Options {
        vfs: Some(VFS),
        move_idle: never,
        move_every: never,
        ..busy()
    }
}

#[tokio::test]
async fn after_a_failed_fsync_the_store_reads_back_and_what_it_then_says_survives_a_loss_of_power() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::watch(folder.path());
    let store = embedded::open(folder.path(), quiet(), Arc::new(())).unwrap();
    for base in 0..3 {
        assert_eq!(store.append(commit(0, base)).await, Ok(()));
    }
    disk.fail_syncs(File::Wal, 1);
    let answer = store.append(commit(0, 3)).await;
    assert!(matches!(answer, Err(AppendError::Unavailable(_))), "{answer:?}");
    // The very next read waits until the store knows; SQLite finds the commit in the kernel's cache.
    let head = settle(&store, 0).await;
    assert_eq!(head, 4);
    assert_eq!(store.append(commit(0, 4)).await, Ok(()));

    let left = tempfile::tempdir().unwrap();
    lay_down(&disk.crash(disk.now(), Crash::NothingMore), left.path());
    let mut owed = crate::load::Owed::default();
    owed.heads.insert(0, 5);
    let verdict = examine(left.path(), &owed).await;
    assert!(matches!(verdict, Verdict::Whole), "{verdict:?}");
}

#[tokio::test]
async fn while_the_disk_keeps_failing_appends_are_unavailable_and_reads_wait() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::watch(folder.path());
    let store = embedded::open(folder.path(), quiet(), Arc::new(())).unwrap();
    assert_eq!(store.append(commit(0, 0)).await, Ok(()));
    disk.fail_syncs(File::Wal, u32::MAX);
    for _ in 0..3 {
        let answer = store.append(commit(0, 1)).await;
        assert!(matches!(answer, Err(AppendError::Unavailable(_))), "{answer:?}");
        let check = store.check_append().await;
        assert!(matches!(check, Err(AppendError::Unavailable(_))), "{check:?}");
    }
    let read = tokio::spawn(store.head(feed(0)));
    let check = store.check_append().await;
    assert!(matches!(check, Err(AppendError::Unavailable(_))), "{check:?}");
    assert!(!read.is_finished(), "a read was answered while nobody knows");
    disk.fail_syncs(File::Wal, 0);
    let head = read.await.unwrap().unwrap().unwrap();
    assert!((1..=2).contains(&head.seq), "{head:?}");
    assert_eq!(store.append(commit(0, head.seq)).await, Ok(()));
    assert_eq!(store.check_append().await, Ok(()));
}

#[tokio::test]
async fn a_read_shows_no_append_that_is_not_durable() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::watch(folder.path());
    let store = embedded::open(folder.path(), quiet(), Arc::new(())).unwrap();
    assert_eq!(store.append(commit(0, 0)).await, Ok(()));
    // The first read opens the reader's connection, which writes.
    assert_eq!(store.load(feed(0), 0).await.unwrap().unwrap().head.seq, 1);
    let held = disk.hold();
    let appended = tokio::spawn(store.append(commit(0, 1)));
    for _ in 0..20 {
        assert_eq!(store.head(feed(0)).await.unwrap().unwrap().seq, 1);
        assert_eq!(store.load(feed(0), 0).await.unwrap().unwrap().log.len(), 1);
        assert_eq!(
            store.read_log(feed(0), 0, 1_000_000).await.unwrap().unwrap().rows.len(),
            1
        );
    }
    assert!(!appended.is_finished(), "it was answered before its fsync");
    drop(held);
    assert_eq!(appended.await.unwrap(), Ok(()));
    assert_eq!(store.head(feed(0)).await.unwrap().unwrap().seq, 2);
}

#[tokio::test]
async fn a_refusal_that_was_judged_on_an_append_in_flight_is_told_only_if_that_one_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::watch(folder.path());
    let store = embedded::open(folder.path(), quiet(), Arc::new(())).unwrap();
    assert_eq!(store.append(commit(0, 0)).await, Ok(()));
    // One is held up, so that the two others wait together and go in one group.
    let held = disk.hold();
    let before = tokio::spawn(store.append(commit(1, 0)));
    tokio::task::yield_now().await;
    let append = tokio::spawn(store.append(commit(0, 1)));
    let rival = tokio::spawn(store.append(commit(0, 1)));
    drop(held);
    assert_eq!(before.await.unwrap(), Ok(()));
    assert_eq!(append.await.unwrap(), Ok(()));
    let conflict = rival.await.unwrap();
    assert!(
        matches!(conflict, Err(AppendError::Conflict(Some(head))) if head.seq == 2),
        "{conflict:?}"
    );

    // The same where there is no room: nothing was written, so nobody may hear of a head that was to be.
    disk.full_after(Some(0));
    let held = disk.hold();
    let before = tokio::spawn(store.append(commit(1, 1)));
    tokio::task::yield_now().await;
    let append = tokio::spawn(store.append(commit(0, 2)));
    let rival = tokio::spawn(store.append(commit(0, 2)));
    drop(held);
    for append in [before, append, rival] {
        assert_eq!(append.await.unwrap(), Err(AppendError::Full));
    }
    assert_eq!(settle(&store, 0).await, 2);
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_when_any_fsync_fails() {
    let mut failures = 0;
    for seed in 0..12 {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::watch(folder.path());
        let store = embedded::open(
            folder.path(),
            Options {
                vfs: Some(VFS),
                ..busy()
            },
            Arc::new(()),
        )
        .unwrap();
        let (clock, failing) = (disk.clone(), disk.clone());
        let count = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let plan = Plan { seed, rounds: 10 };
        let acknowledged = run(
            &store,
            plan,
            move || clock.now(),
            move |_| {
                // Every so often one, of the log and of the database in turn, so that checkpoints fail too.
                let heard = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if heard % 12 == seed as u32 {
                    failing.fail_syncs(if heard % 24 < 12 { File::Wal } else { File::Database }, 1 + heard % 3);
                }
            },
        )
        .await;
        failures += disk.syncs_failed();
        let now = disk.now();
        for how in [Crash::NothingMore, Crash::PowerLost(seed), Crash::Killed] {
            let left = tempfile::tempdir().unwrap();
            lay_down(&disk.crash(now, how), left.path());
            let verdict = examine(left.path(), &acknowledged.until(now)).await;
            assert!(matches!(verdict, Verdict::Whole), "seed {seed}, {how:?}: {verdict:?}");
        }
        drop(store);
    }
    assert!(failures > 40, "only {failures} failed");
}
