//! A disk that remembers what was written and what was synced, so that a test can ask afterwards what a loss of power at
//! any moment would have left; and that fails when told to.
//!
//! It is a layer between SQLite and its usual file layer: everything is passed on, and noted. What a kernel keeps in its
//! cache is read back as usual, also after a failed sync, exactly as on Linux.
#![allow(unsafe_code, reason = "a file layer of SQLite is a table of C functions")]

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rusqlite::ffi;

/// The name under which the layer is registered.
pub const VFS: &str = "taskflow-faults";

pub const DATABASE: &str = "taskflow.db";
pub const WAL: &str = "taskflow.db-wal";
pub const WITNESS: &str = "taskflow.witness";

/// The unit in which a disk writes: a write is torn only between these.
const SECTOR: u64 = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum File {
    Database,
    Wal,
}

impl File {
    pub fn name(self) -> &'static str {
        match self {
            Self::Database => DATABASE,
            Self::Wal => WAL,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Truncate(u64),
    Sync,
    /// The kernel forgets that the pages were dirty: they may or may not be on the disk, and will not get there later.
    SyncFailed,
}

#[derive(Default)]
struct Record {
    steps: Vec<(File, Step)>,
    /// What the witness held, from this step on.
    witness: Vec<(usize, Vec<u8>)>,
    /// Syncs to come that fail, of this file.
    syncs_failing: Option<(File, u32)>,
    /// Writes to come that find room; after them the disk is full.
    writes_left: Option<u64>,
}

/// The disk under one folder.
pub struct Disk {
    folder: PathBuf,
    record: Mutex<Record>,
}

struct Held<'a> {
    _record: MutexGuard<'a, Record>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {}
}

/// What a crash leaves, by name of the file.
pub type Image = HashMap<&'static str, Vec<u8>>;

/// How a crash ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Crash {
    /// The process is gone, the kernel lives.
    Killed,
    /// The power is gone: of what was not synced, each sector is there in some version.
    PowerLost(u64),
    /// The power is gone, and nothing was written that was not synced.
    NothingMore,
}

static DISKS: Mutex<Vec<Weak<Disk>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Disk {
    /// Watches a folder from now on.
    pub fn watch(folder: &Path) -> Arc<Self> {
        register();
        let folder = folder.canonicalize().unwrap();
        let disk = Arc::new(Self {
            folder,
            record: Mutex::default(),
        });
        let mut disks = lock(&DISKS);
        disks.retain(|disk| disk.strong_count() > 0);
        disks.push(Arc::downgrade(&disk));
        disk
    }

    /// How many steps there were: the time on this disk.
    pub fn now(&self) -> usize {
        lock(&self.record).steps.len()
    }

    /// The next syncs of a file fail.
    pub fn fail_syncs(&self, file: File, count: u32) {
        lock(&self.record).syncs_failing = Some((file, count));
    }

    /// As long as this is held, every write and every sync waits.
    pub fn hold(&self) -> impl Drop + '_ {
        Held {
            _record: lock(&self.record),
        }
    }

    /// How many syncs have failed.
    pub fn syncs_failed(&self) -> usize {
        lock(&self.record)
            .steps
            .iter()
            .filter(|(_, step)| matches!(step, Step::SyncFailed))
            .count()
    }

    /// The disk is full after so many more writes; `None`: there is room again.
    pub fn full_after(&self, writes: Option<u64>) {
        lock(&self.record).writes_left = writes;
    }

    fn note(&self, record: &mut Record, file: File, step: Step) {
        if let Ok(witness) = std::fs::read(self.folder.join(WITNESS))
            && record.witness.last().is_none_or(|(_, last)| *last != witness)
        {
            let now = record.steps.len();
            record.witness.push((now, witness));
        }
        record.steps.push((file, step));
    }

    /// What a crash would have left after `at` steps.
    pub fn crash(&self, at: usize, how: Crash) -> Image {
        let record = lock(&self.record);
        let mut random = StdRng::seed_from_u64(match how {
            Crash::PowerLost(seed) => seed,
            Crash::Killed | Crash::NothingMore => 0,
        });
        let mut image = Image::new();
        for file in [File::Database, File::Wal] {
            let steps = record.steps[..at]
                .iter()
                .filter(|(of, _)| *of == file)
                .map(|(_, step)| step);
            image.insert(file.name(), after(steps, how, &mut random));
        }
        let versions: Vec<&[u8]> = record
            .witness
            .iter()
            .take_while(|(from, _)| *from <= at)
            .map(|(_, bytes)| &bytes[..])
            .collect();
        // It is synced where the words about a checkpoint change; what it said since then may be on the disk or not.
        let frames = |bytes: &[u8]| {
            let line = String::from_utf8_lossy(bytes).into_owned();
            line.split_once("frames")
                .map(|(_, rest)| rest.split(" sum").next().map(str::to_owned))
        };
        let synced = (1..versions.len())
            .rev()
            .find(|at| frames(versions[*at]) != frames(versions[*at - 1]))
            .unwrap_or(0);
        let chosen = match how {
            Crash::Killed => versions.len() - 1,
            Crash::NothingMore => synced,
            Crash::PowerLost(_) => random.random_range(synced..versions.len()),
        };
        image.insert(WITNESS, versions[chosen].to_vec());
        image
    }
}

/// Puts an image into a folder.
pub fn lay_down(image: &Image, folder: &Path) {
    for (name, bytes) in image {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}

fn after<'a>(steps: impl Iterator<Item = &'a Step>, how: Crash, random: &mut StdRng) -> Vec<u8> {
    let mut synced = Vec::new();
    let mut pending: Vec<&Step> = Vec::new();
    for step in steps {
        match step {
            // The store itself syncs this cut, not through this layer.
            Step::Truncate(0) => {
                pending.clear();
                synced.clear();
            }
            Step::Write(..) | Step::Truncate(_) => pending.push(step),
            Step::Sync => pending.drain(..).for_each(|step| apply(&mut synced, step)),
            Step::SyncFailed if how == Crash::Killed => {}
            Step::SyncFailed => {
                persist_some(&mut synced, &pending, how, random);
                pending.clear();
            }
        }
    }
    match how {
        Crash::Killed => pending.into_iter().for_each(|step| apply(&mut synced, step)),
        Crash::PowerLost(_) | Crash::NothingMore => persist_some(&mut synced, &pending, how, random),
    }
    synced
}

fn apply(bytes: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write(offset, data) => {
            let (from, to) = (*offset as usize, *offset as usize + data.len());
            if bytes.len() < to {
                bytes.resize(to, 0);
            }
            bytes[from..to].copy_from_slice(data);
        }
        Step::Truncate(size) => bytes.resize(*size as usize, 0),
        Step::Sync | Step::SyncFailed => {}
    }
}

/// Of what waits in the cache, each sector reaches the disk in one of the versions that it had.
fn persist_some(bytes: &mut Vec<u8>, pending: &[&Step], how: Crash, random: &mut StdRng) {
    if how == Crash::NothingMore {
        return;
    }
    let keep = random.random_range(0..4);
    let mut writes_of: HashMap<u64, usize> = HashMap::new();
    for step in pending {
        if let Step::Write(offset, data) = step {
            for sector in sectors(*offset, data.len()) {
                *writes_of.entry(sector).or_default() += 1;
            }
        }
    }
    let mut touched: Vec<u64> = writes_of.keys().copied().collect();
    touched.sort_unstable();
    let mut versions: HashMap<u64, usize> = HashMap::new();
    for sector in touched {
        let last = writes_of[&sector];
        let version = match keep {
            0 => random.random_range(0..=last),
            1 => {
                if random.random_bool(0.9) {
                    last
                } else {
                    0
                }
            }
            2 => {
                if random.random_bool(0.1) {
                    last
                } else {
                    0
                }
            }
            _ => last,
        };
        versions.insert(sector, version);
    }
    let mut applied: HashMap<u64, usize> = HashMap::new();
    for step in pending {
        match step {
            Step::Write(offset, data) => {
                for sector in sectors(*offset, data.len()) {
                    let count = applied.entry(sector).or_default();
                    *count += 1;
                    if *count <= versions[&sector] {
                        let from = (sector * SECTOR).max(*offset);
                        let to = ((sector + 1) * SECTOR).min(offset + data.len() as u64);
                        let part = &data[(from - offset) as usize..(to - offset) as usize];
                        apply(bytes, &Step::Write(from, part.to_vec()));
                    }
                }
            }
            Step::Truncate(_) if random.random_bool(0.5) => apply(bytes, step),
            _ => {}
        }
    }
}

fn sectors(offset: u64, length: usize) -> std::ops::RangeInclusive<u64> {
    offset / SECTOR..=(offset + (length as u64).max(1) - 1) / SECTOR
}

/// What SQLite has for an open file; the usual layer's own part follows behind it.
#[repr(C)]
struct Layered {
    base: ffi::sqlite3_file,
    disk: *const Disk,
    file: File,
}

/// Where the usual layer's part begins.
const REAL_AT: usize = size_of::<Layered>().next_multiple_of(16);

struct Usual(*mut ffi::sqlite3_vfs);
// SAFETY: SQLite's file layers are registered for the whole process and used by all its threads.
unsafe impl Send for Usual {}
// SAFETY: as above; it is only read.
unsafe impl Sync for Usual {}

static USUAL: OnceLock<Usual> = OnceLock::new();

/// Registers the layer once.
fn register() {
    USUAL.get_or_init(|| {
        // SAFETY: the usual layer always exists; the copy lives as long as the process.
        unsafe {
            let usual = ffi::sqlite3_vfs_find(std::ptr::null());
            let mut layer = *usual;
            layer.zName = CString::new(VFS).unwrap().into_raw();
            layer.szOsFile = (REAL_AT as c_int) + (*usual).szOsFile;
            layer.pNext = std::ptr::null_mut();
            layer.xOpen = Some(open);
            let layer = Box::into_raw(Box::new(layer));
            assert_eq!(ffi::sqlite3_vfs_register(layer, 0), ffi::SQLITE_OK);
            Usual(usual)
        }
    });
}

/// The usual layer's part of a file.
unsafe fn real(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: `szOsFile` left room for it there.
    unsafe { file.cast::<u8>().add(REAL_AT).cast() }
}

unsafe extern "C" fn open(
    _layer: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let usual = USUAL.get().unwrap().0;
    // SAFETY: SQLite calls this with room for `szOsFile` bytes and a valid name, or none for a temporary file.
    unsafe {
        let outcome = ((*usual).xOpen.unwrap())(usual, name, real(file), flags, out_flags);
        let layered = file.cast::<Layered>();
        (*layered).base.pMethods = std::ptr::null();
        (*layered).disk = std::ptr::null();
        if (*real(file)).pMethods.is_null() {
            return outcome;
        }
        if !name.is_null() {
            let path = Path::new(std::ffi::OsStr::from_bytes(
                CStr::from_ptr(name.cast::<c_char>()).to_bytes(),
            ));
            let disks = lock(&DISKS);
            let disk = disks
                .iter()
                .filter_map(Weak::upgrade)
                .find(|disk| path.starts_with(&disk.folder));
            (*layered).file = if path.ends_with(WAL) { File::Wal } else { File::Database };
            (*layered).disk = disk.map_or(std::ptr::null(), Arc::into_raw);
        }
        (*layered).base.pMethods = &raw const METHODS;
        outcome
    }
}

/// The disk that a file is on, and which file it is.
unsafe fn on_disk<'a>(file: *mut ffi::sqlite3_file) -> Option<(&'a Disk, File)> {
    // SAFETY: set by `open`, freed by `close`.
    unsafe {
        let layered = file.cast::<Layered>();
        (*layered).disk.as_ref().map(|disk| (disk, (*layered).file))
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: the pointer came from `Arc::into_raw` in `open` and is used no more.
    unsafe {
        let layered = file.cast::<Layered>();
        if !(*layered).disk.is_null() {
            drop(Arc::from_raw((*layered).disk));
        }
        ((*(*real(file)).pMethods).xClose.unwrap())(real(file))
    }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, data: *const c_void, length: c_int, offset: i64) -> c_int {
    // SAFETY: SQLite gives `length` readable bytes; the rest is passed on.
    unsafe {
        let Some((disk, which)) = on_disk(file) else {
            return ((*(*real(file)).pMethods).xWrite.unwrap())(real(file), data, length, offset);
        };
        // Held over the write, so that the order on record is the order in the file.
        let mut record = lock(&disk.record);
        if let Some(left) = &mut record.writes_left {
            if *left == 0 {
                return ffi::SQLITE_FULL;
            }
            *left -= 1;
        }
        let bytes = std::slice::from_raw_parts(data.cast::<u8>(), length as usize).to_vec();
        disk.note(&mut record, which, Step::Write(offset as u64, bytes));
        ((*(*real(file)).pMethods).xWrite.unwrap())(real(file), data, length, offset)
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    // SAFETY: passed on.
    unsafe {
        if let Some((disk, which)) = on_disk(file) {
            disk.note(&mut lock(&disk.record), which, Step::Truncate(size as u64));
        }
        ((*(*real(file)).pMethods).xTruncate.unwrap())(real(file), size)
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: as set by `open`. Nothing is really synced: that is what the record is for.
    unsafe {
        let Some((disk, which)) = on_disk(file) else {
            return ffi::SQLITE_OK;
        };
        let mut record = lock(&disk.record);
        if let Some((failing, left)) = &mut record.syncs_failing
            && *failing == which
            && *left > 0
        {
            *left -= 1;
            disk.note(&mut record, which, Step::SyncFailed);
            return ffi::SQLITE_IOERR_FSYNC;
        }
        disk.note(&mut record, which, Step::Sync);
        ffi::SQLITE_OK
    }
}

/// A function that hands everything on to the usual layer.
macro_rules! passed_on {
    ($($name:ident $method:ident($($argument:ident: $kind:ty),*) $(-> $answer:ty)?;)+) => {$(
        unsafe extern "C" fn $name(file: *mut ffi::sqlite3_file $(, $argument: $kind)*) $(-> $answer)? {
            // SAFETY: the arguments are SQLite's own, for the file that is behind this one.
            unsafe { ((*(*real(file)).pMethods).$method.unwrap())(real(file) $(, $argument)*) }
        }
    )+};
}

passed_on! {
    read xRead(data: *mut c_void, length: c_int, offset: i64) -> c_int;
    file_size xFileSize(size: *mut i64) -> c_int;
    lock_file xLock(level: c_int) -> c_int;
    unlock_file xUnlock(level: c_int) -> c_int;
    check_reserved xCheckReservedLock(out: *mut c_int) -> c_int;
    control xFileControl(what: c_int, argument: *mut c_void) -> c_int;
    sector_size xSectorSize() -> c_int;
    characteristics xDeviceCharacteristics() -> c_int;
    shm_map xShmMap(page: c_int, size: c_int, extend: c_int, out: *mut *mut c_void) -> c_int;
    shm_lock xShmLock(offset: c_int, count: c_int, flags: c_int) -> c_int;
    shm_barrier xShmBarrier();
    shm_unmap xShmUnmap(delete: c_int) -> c_int;
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock_file),
    xUnlock: Some(unlock_file),
    xCheckReservedLock: Some(check_reserved),
    xFileControl: Some(control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};
