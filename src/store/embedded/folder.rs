//! The data folder: who may use it, what is in it, and how much room is left.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::OpenError;

/// Everything but the newest groups' number. SQLite keeps `-wal` and `-shm` beside it.
pub(super) const DATABASE: &str = "taskflow.db";
/// The number of the last durable group; see `witness`.
pub(super) const WITNESS: &str = "taskflow.witness";
/// Held while a process uses the folder; inside it, that process's number.
const LOCK: &str = "taskflow.lock";
/// How long a start waits for a process that has the folder to be gone.
const GOING_MAX: Duration = Duration::from_secs(2);

/// A data folder that this process alone uses.
pub(super) struct Folder {
    path: PathBuf,
    /// SQLite's own locks would let a second process in. The kernel frees this one with the process, however it ends.
    _lock: File,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        if !path.is_dir() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(io(path))?;
        }
        // A later change of the working directory must not lead elsewhere.
        let path = path.canonicalize().map_err(io(path))?;
        let lock_path = path.join(LOCK);
        let mut lock = private()
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(io(&lock_path))?;
        let asked_at = Instant::now();
        let mut held = lock.try_lock();
        // A process that was killed a moment ago may still be going.
        while matches!(held, Err(TryLockError::WouldBlock)) && asked_at.elapsed() < GOING_MAX {
            #[allow(clippy::disallowed_methods, reason = "the kernel tells nobody when a lock is free")]
            std::thread::sleep(Duration::from_millis(20));
            held = lock.try_lock();
        }
        match held {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut process = String::new();
                // Only for the message: the folder is refused with or without the number.
                let _ = lock.take(20).read_to_string(&mut process);
                return Err(OpenError::InUse {
                    folder: path,
                    process: process.trim().to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => {
                return Err(OpenError::Io {
                    path: lock_path,
                    source,
                });
            }
        }
        // The number helps whoever is refused; that it cannot be written (a full disk) stops nobody.
        let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn database(&self) -> PathBuf {
        self.file(DATABASE)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the names of new files durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// Bytes that this process may still write on the file system of the folder.
    pub(super) fn bytes_free(&self) -> io::Result<u64> {
        let room = rustix::fs::statvfs(&self.path)?;
        Ok(room.f_bavail.saturating_mul(room.f_frsize))
    }
}

/// How the store opens its files: for nobody else to read.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}
