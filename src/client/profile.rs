//! What the client keeps on disk: who it is, its copy of the feed, and what it has promised to send.
//!
//! | file | what |
//! | --- | --- |
//! | `account.json` | server, address and tokens; readable by its owner only |
//! | `replica` | the rows and the cursor that belongs to them, in one file: they cannot disagree |
//! | `pending/*.jsonl` | operations, written down before they are sent; one journal a process |
//! | `lock` | held for the moment in which one of the first two is replaced |
//!
//! Several processes may use one profile at once (a `watch` and an `add`). Files are replaced whole: written beside,
//! synced, renamed. A journal belongs to the process that holds its lock; one whose process is gone is adopted.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use taskflow_protocol::message::Operation;
use taskflow_protocol::values::UnixMs;
use taskflow_protocol::{Encoding, OperationId, UserId};

use super::replica::{Parked, Position, Replica, Rows};

/// Who is signed in, and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// Base address, such as `http://127.0.0.1:8080`, without a slash at the end.
    pub server: String,
    /// The address that the user signed in with.
    pub email: String,
    /// Known after the first connection; also names the inbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// Sent with every connection.
    pub access_token: String,
    /// Buys the next access token, once.
    pub refresh_token: String,
    /// By this machine's clock.
    pub expires_at: UnixMs,
}

/// A folder with everything the client keeps.
#[derive(Clone, Debug)]
pub struct Profile {
    folder: PathBuf,
}

/// Format of the replica's file. Another one is not read: a snapshot brings it back.
const REPLICA_FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Kept {
    format: u32,
    feed: UserId,
    position: Position,
    rows: Rows,
}

/// A line of a journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Made { at: UnixMs, operation: Operation },
    Settled { id: OperationId },
    Parked { reason: String, operation: Operation },
}

impl Profile {
    /// The folder that was asked for, or `$XDG_CONFIG_HOME/taskflow`, or `~/.config/taskflow`. A word leads to a folder
    /// inside of that: tokens are not left where somebody happens to stand.
    pub fn open(asked: Option<PathBuf>) -> anyhow::Result<Self> {
        let home = || {
            default_folder().context(
                "There is no home folder to keep the sign-in in. Set HOME or XDG_CONFIG_HOME, or name a folder with --profile.",
            )
        };
        let folder = match asked {
            None => home()?,
            Some(word) if is_word(&word) => home()?.join("profiles").join(word),
            Some(folder) => folder,
        };
        make_private_folder(&folder.join("pending"))?;
        Ok(Self { folder })
    }

    /// Where everything is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps other processes out while it is held.
    fn lock(&self) -> anyhow::Result<File> {
        let path = self.folder.join("lock");
        let file = private()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| cannot("open", &path))?;
        file.lock().with_context(|| cannot("lock", &path))?;
        Ok(file)
    }

    /// Who is signed in here, if anyone.
    pub fn account(&self) -> anyhow::Result<Option<Account>> {
        let path = self.folder.join("account.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| cannot("read", &path)),
        };
        let account = serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{} is damaged. Delete it and sign in again with `taskflow login`.",
                path.display()
            )
        })?;
        Ok(Some(account))
    }

    /// Replaces the account under the lock. `change` sees what is stored now: another process may have refreshed it.
    pub fn change_account<T>(
        &self,
        change: impl FnOnce(Option<Account>) -> anyhow::Result<(Option<Account>, T)>,
    ) -> anyhow::Result<T> {
        let _lock = self.lock()?;
        let before = self.account()?;
        let (after, value) = change(before.clone())?;
        if after != before {
            let path = self.folder.join("account.json");
            match after {
                Some(account) => replace(&path, &serde_json::to_vec_pretty(&account)?)?,
                None => remove(&path)?,
            }
        }
        Ok(value)
    }

    /// The copy of the feed as it was last kept. One that cannot be read is none: a snapshot brings it back.
    pub fn replica(&self) -> Replica {
        let kept = fs::read(self.folder.join("replica")).ok().and_then(|bytes| {
            let (body, sum) = bytes.split_last_chunk::<4>()?;
            if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
                return None;
            }
            let kept: Kept = Encoding::MsgPack.decode(body).ok()?;
            (kept.format == REPLICA_FORMAT).then_some(kept)
        });
        kept.map_or_else(Replica::default, |kept| {
            Replica::restore(kept.feed, kept.rows, kept.position)
        })
    }

    /// Keeps the copy. Of two processes the one that is further wins, unless this one was reset: then the other is wrong.
    pub fn keep_replica(&self, replica: &Replica, was_reset: bool) -> anyhow::Result<()> {
        let (Some(feed), Some(position)) = (replica.feed(), replica.position()) else {
            return Ok(());
        };
        let kept = Kept {
            format: REPLICA_FORMAT,
            feed,
            position: position.clone(),
            rows: replica.rows().clone(),
        };
        let mut bytes = Encoding::MsgPack.encode(&kept);
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        let _lock = self.lock()?;
        let stored = self.replica();
        let further = stored.position().map_or(0, |position| position.seq) > kept.position.seq;
        if further && stored.feed() == Some(feed) && !was_reset {
            return Ok(());
        }
        replace(&self.folder.join("replica"), &bytes)
    }

    /// Forgets everything but the folder.
    pub fn forget(&self) -> anyhow::Result<()> {
        let _lock = self.lock()?;
        remove(&self.folder.join("account.json"))?;
        remove(&self.folder.join("replica"))?;
        for path in self.journals()? {
            remove(&path)?;
        }
        Ok(())
    }

    fn journals(&self) -> anyhow::Result<Vec<PathBuf>> {
        let folder = self.folder.join("pending");
        let mut paths = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| cannot("read", &folder))? {
            let path = entry.with_context(|| cannot("read", &folder))?.path();
            if path.extension().is_some_and(|extension| extension == "jsonl") {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// How many operations wait in this profile, in every journal.
    pub fn waiting(&self) -> anyhow::Result<usize> {
        let mut waiting = 0;
        for path in self.journals()? {
            // A journal that vanished was settled this moment.
            if let Ok(bytes) = fs::read(&path) {
                let found = Found::parse(&bytes);
                waiting += found.made.len() + found.parked.len();
            }
        }
        Ok(waiting)
    }
}

/// What a journal held.
#[derive(Debug, Default)]
pub struct Found {
    /// Operations that nothing has settled, oldest first.
    pub made: Vec<(UnixMs, Operation)>,
    /// Operations that wait for a person, and why.
    pub parked: Vec<(String, Operation)>,
}

impl Found {
    fn parse(bytes: &[u8]) -> Self {
        let mut made: BTreeMap<(UnixMs, usize), Operation> = BTreeMap::new();
        let mut parked: Vec<(String, Operation)> = Vec::new();
        for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            // The last line may be torn: then its operation was never sent, for it was not synced.
            match serde_json::from_slice(line) {
                Ok(Line::Made { at, operation }) => drop(made.insert((at, number), operation)),
                Ok(Line::Settled { id }) => {
                    made.retain(|_, operation| operation.id != id);
                    parked.retain(|(_, operation)| operation.id != id);
                }
                Ok(Line::Parked { reason, operation }) => {
                    made.retain(|_, made| made.id != operation.id);
                    parked.push((reason, operation));
                }
                Err(_) => {}
            }
        }
        Self {
            made: made.into_iter().map(|((at, _), operation)| (at, operation)).collect(),
            parked,
        }
    }
}

/// The operations of this process, written down before they are sent.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// Locked for as long as this process lives: nobody else sends what is in it.
    file: File,
    unsettled: usize,
    folder: PathBuf,
}

impl Journal {
    /// A new, empty one. `random` makes its name its own.
    pub fn create(profile: &Profile, random: u64) -> anyhow::Result<Self> {
        let folder = profile.folder.join("pending");
        let path = folder.join(format!("{random:016x}.jsonl"));
        // Nobody may take it for abandoned between its creation and its lock.
        let _lock = profile.lock()?;
        let file = private()
            .create_new(true)
            .append(true)
            .open(&path)
            .with_context(|| cannot("create", &path))?;
        file.try_lock().with_context(|| cannot("lock", &path))?;
        Ok(Self {
            path,
            file,
            unsettled: 0,
            folder,
        })
    }

    /// Takes over what processes that are gone have left. What they made goes into this journal first.
    pub fn adopt(&mut self, profile: &Profile) -> anyhow::Result<Found> {
        let _lock = profile.lock()?;
        let mut all = Found::default();
        for path in profile.journals()? {
            if path == self.path {
                continue;
            }
            let Ok(mut file) = OpenOptions::new().read(true).write(true).open(&path) else {
                continue;
            };
            if file.try_lock().is_err() {
                continue;
            }
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).with_context(|| cannot("read", &path))?;
            let found = Found::parse(&bytes);
            let made = found.made.iter().map(|(at, operation)| Line::Made {
                at: *at,
                operation: operation.clone(),
            });
            let parked = found.parked.iter().map(|(reason, operation)| Line::Parked {
                reason: reason.clone(),
                operation: operation.clone(),
            });
            self.write(&made.chain(parked).collect::<Vec<_>>())?;
            self.unsettled += found.made.len() + found.parked.len();
            remove(&path)?;
            all.made.extend(found.made);
            all.parked.extend(found.parked);
        }
        all.made.sort_by_key(|(at, operation)| (*at, operation.id));
        Ok(all)
    }

    /// Writes an operation down; when this returns, it survives a loss of power.
    pub fn made(&mut self, at: UnixMs, operation: &Operation) -> anyhow::Result<()> {
        self.write(&[Line::Made {
            at,
            operation: operation.clone(),
        }])?;
        self.unsettled += 1;
        Ok(())
    }

    /// The operation needs nothing more. Not synced: at worst it is sent once more, under the same id.
    pub fn settled(&mut self, id: OperationId) -> anyhow::Result<()> {
        self.unsettled = self.unsettled.saturating_sub(1);
        self.append(&[Line::Settled { id }])
    }

    /// The operation waits for a person.
    pub fn parked(&mut self, operation: &Operation, reason: Parked) -> anyhow::Result<()> {
        let reason = match reason {
            Parked::TooOld => "it is older than a day",
            Parked::Reset => "the server's data was restored or replaced meanwhile",
        };
        self.write(&[Line::Parked {
            reason: reason.to_owned(),
            operation: operation.clone(),
        }])
    }

    fn append(&mut self, lines: &[Line]) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut bytes, line)?;
            bytes.push(b'\n');
        }
        self.file.write_all(&bytes).with_context(|| cannot("write", &self.path))
    }

    fn write(&mut self, lines: &[Line]) -> anyhow::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        self.append(lines)?;
        self.file.sync_data().with_context(|| cannot("sync", &self.path))?;
        sync_folder(&self.folder);
        Ok(())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if self.unsettled == 0 {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Neither empty, nor `.` or `..`, nor with a separator anywhere.
fn is_word(path: &Path) -> bool {
    let text = path.as_os_str().as_encoded_bytes();
    !text.contains(&b'/') && matches!(path.components().collect::<Vec<_>>()[..], [Component::Normal(_)])
}

fn default_folder() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    // The XDG base directory specification: a relative path is to be ignored.
    let config = set("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
    let config = config.or_else(|| set("HOME").map(|home| home.join(".config")));
    config.map(|config| config.join("taskflow"))
}

/// Files hold tokens and tasks: only their owner may read them.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn make_private_folder(folder: &Path) -> anyhow::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).with_context(|| cannot("create", folder))
}

/// Replaces a file whole: after a crash there is the old one or the new one.
fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        // Left over from a crash, perhaps with other rights.
        let _ = fs::remove_file(&beside);
        let mut file = private().create_new(true).write(true).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().with_context(|| cannot("write", path))?;
    if let Some(folder) = path.parent() {
        sync_folder(folder);
    }
    Ok(())
}

/// Makes a new name durable. Where a folder cannot be synced, the name may be lost, but no file is torn.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            bail!("Cannot delete {}: {error}.", path.display())
        }
        _ => Ok(()),
    }
}

fn cannot(what: &str, path: &Path) -> String {
    format!("Cannot {what} {}", path.display())
}
