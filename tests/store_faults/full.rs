//! A full disk: appends are refused, reads go on, and it recovers by itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use taskflow::store::embedded::{self, Options};
use taskflow_actors::ports::{Append, AppendError, Epoch, Store as _};
use taskflow_protocol::values::Seq;

use crate::disk::{Crash, Disk, VFS, lay_down};
use crate::load::{FEEDS, Plan, Verdict, busy, commit, examine, feed, run, settle};

/// A small file system of its own, for as long as it is held.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, with a word about it, where mounting is not allowed.
    fn mount(megabytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { folder });
        }
        eprintln!("skipped: a small file system could not be mounted; run as root to test a disk that is really full");
        None
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

/// Fills what is left with a file.
fn fill(disk: &Path) -> PathBuf {
    let path = disk.join("ballast");
    let mut bytes = 1 << 20;
    let mut file = std::fs::File::create(&path).unwrap();
    while bytes > 0 {
        if std::io::Write::write_all(&mut file, &vec![1; bytes]).is_err() {
            bytes /= 2;
        }
    }
    path
}

fn large(base: Seq) -> Append {
    Append {
        epoch: Epoch(9),
        body: Bytes::from(vec![base as u8; 60_000]),
        ..commit(9, base)
    }
}

async fn append_until_refused(store: &embedded::Embedded, mut head: Seq) -> Seq {
    loop {
        match store.append(large(head)).await {
            Ok(()) => head += 1,
            Err(AppendError::Full) => return head,
            Err(error) => panic!("{error}"),
        }
        assert!(head < 2_000, "the disk is never full");
    }
}

#[tokio::test]
async fn on_a_full_disk_appends_are_refused_reads_go_on_and_room_is_all_it_needs() {
    // With a reserve that stops in time, and without one, so that SQLite itself meets the end of the disk.
    for reserve_bytes in [4 << 20, 0] {
        let Some(disk) = SmallDisk::mount(24) else { return };
        let data = disk.path().join("data");
        let options = Options {
            reserve_bytes,
            checkpoint_frames: 500,
            ..busy()
        };
        let store = embedded::open(&data, options.clone(), Arc::new(())).unwrap();
        let mut head = 0;
        for _ in 0..3 {
            let ballast = fill(disk.path());
            head = append_until_refused(&store, head).await;
            assert_eq!(store.check_append().await, Err(AppendError::Full));
            assert_eq!(settle(&store, 9).await, head);
            if head > 0 {
                let page = store.read_log(feed(9), 0, usize::MAX).await.unwrap().unwrap();
                assert_eq!(page.rows.len() as u64, head);
            }
            std::fs::remove_file(ballast).unwrap();
            for _ in 0..5 {
                assert_eq!(store.append(large(head)).await, Ok(()), "there is room again");
                head += 1;
            }
        }
        // Full by its own weight.
        head = append_until_refused(&store, head).await;
        let ballast = fill(disk.path());
        assert_eq!(store.append(large(head)).await, Err(AppendError::Full));
        drop(store);
        std::fs::remove_file(ballast).unwrap();
        let store = embedded::open(&data, options, Arc::new(())).unwrap();
        let loaded = store.load(feed(9), 0).await.unwrap().unwrap();
        assert_eq!(loaded.log.len() as u64, head);
        assert!((0..).zip(&loaded.log).all(|(base, row)| row.body == large(base).body));
    }
}

#[tokio::test]
async fn a_disk_that_fills_up_at_any_write_loses_and_doubles_nothing() {
    let mut refused = 0;
    for seed in 0..25 {
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
        let plan = Plan { seed, rounds: 4 };
        disk.full_after(Some(1 + seed * 7));
        let clock = disk.clone();
        let before = run(&store, plan, move || clock.now(), |_| {}).await.until(usize::MAX);
        let answer = store.append(commit(FEEDS, 0)).await;
        if answer == Err(AppendError::Full) {
            refused += 1;
        }
        // Reading goes on.
        for (number, owed) in &before.heads {
            assert_eq!(settle(&store, *number).await, *owed, "seed {seed}, feed {number}");
        }
        disk.full_after(None);
        let clock = disk.clone();
        let after = run(
            &store,
            Plan {
                seed: seed + 100,
                ..plan
            },
            move || clock.now(),
            |_| {},
        )
        .await;
        let now = disk.now();
        let mut owed = after.until(now);
        for (number, seq) in before.heads {
            let head = owed.heads.entry(number).or_default();
            *head = seq.max(*head);
        }
        owed.accounts.extend(before.accounts);
        let left = tempfile::tempdir().unwrap();
        lay_down(&disk.crash(now, Crash::NothingMore), left.path());
        let verdict = examine(left.path(), &owed).await;
        assert!(matches!(verdict, Verdict::Whole), "seed {seed}: {verdict:?}");
        drop(store);
    }
    assert!(refused > 5, "only {refused} were refused");
}
