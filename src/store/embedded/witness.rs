//! A file beside the database that says how far the database has come.
//!
//! SQLite drops what follows a damaged frame of its write-ahead log without a word, and a database file put back from
//! yesterday opens like any other. The witness makes both visible: it holds the number of the last durable group, written
//! after the group was synced, and is compared before the database is written again. It is not synced with each group, so
//! after a loss of power it may lag, never lead: a lag only makes it less strict.
//!
//! While a checkpoint is under way the database file is neither old nor new, and only the write-ahead log makes it whole.
//! So the witness also holds how many frames that log had when the checkpoint began; this part is synced. The same number
//! stays while the log is emptied after a checkpoint: then it may have all of its frames or none, and nothing between.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;

use super::folder::{Folder, WITNESS, private};

/// What the witness says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Record {
    /// The random number of the database that it belongs to.
    pub store: u64,
    /// The number of the last durable group.
    pub group: u64,
    /// Frames of the write-ahead log when a checkpoint began that has not ended; 0: none is under way.
    pub frames: u64,
    /// The checkpoint has ended, and the write-ahead log is being cut to nothing.
    pub emptying: bool,
    /// The database was made: from now on it must be there.
    pub ready: bool,
}

/// Length of the line without its end, padded: a line of fixed width, well within one sector, so that it is never half new.
const LINE_BYTES: usize = 127;

impl Record {
    fn encode(&self) -> String {
        let Self {
            store,
            group,
            frames,
            emptying,
            ready,
        } = *self;
        let (emptying, ready) = (u8::from(emptying), u8::from(ready));
        let line = format!(
            "taskflow witness 1 store {store:016x} group {group:020} frames {frames:010} emptying {emptying} ready {ready}"
        );
        let sum = crc32c::crc32c(line.as_bytes());
        let mut line = format!("{line} sum {sum:08x}");
        // Padded, so that a longer line of a later format fits in place.
        while line.len() < LINE_BYTES {
            line.push(' ');
        }
        line.push('\n');
        line
    }

    fn decode(text: &str) -> Option<Self> {
        let (line, sum) = text.trim_end().rsplit_once(" sum ")?;
        if u32::from_str_radix(sum, 16).ok()? != crc32c::crc32c(line.as_bytes()) {
            return None;
        }
        let words: Vec<&str> = line.split(' ').collect();
        let [
            "taskflow",
            "witness",
            "1",
            "store",
            store,
            "group",
            group,
            "frames",
            frames,
            "emptying",
            emptying,
            "ready",
            ready,
        ] = words[..]
        else {
            return None;
        };
        Some(Self {
            store: u64::from_str_radix(store, 16).ok()?,
            group: group.parse().ok()?,
            frames: frames.parse().ok()?,
            emptying: emptying == "1",
            ready: ready == "1",
        })
    }
}

/// The open file.
pub(super) struct Witness {
    file: File,
    record: Record,
}

/// What was found where the witness should be.
pub(super) enum Found {
    Missing,
    Unreadable,
    Valid(Witness),
}

impl Witness {
    /// Reads it, and writes nothing.
    pub(super) fn find(folder: &Folder) -> io::Result<Found> {
        let mut file = match private().open(folder.file(WITNESS)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        (&mut file).take(4096).read_to_end(&mut bytes)?;
        let record = std::str::from_utf8(&bytes).ok().and_then(Record::decode);
        Ok(record.map_or(Found::Unreadable, |record| Found::Valid(Self { file, record })))
    }

    /// Makes a new one, whole or not at all.
    pub(super) fn create(folder: &Folder, store: u64) -> io::Result<Self> {
        let record = Record {
            store,
            group: 0,
            frames: 0,
            emptying: false,
            ready: false,
        };
        let unfinished = folder.file("taskflow.witness.new");
        let mut file = private().create(true).truncate(true).open(&unfinished)?;
        file.write_all(record.encode().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&unfinished, folder.file(WITNESS))?;
        folder.sync()?;
        Ok(Self { file, record })
    }

    pub(super) fn record(&self) -> Record {
        self.record
    }

    fn write(&mut self, record: Record) -> io::Result<()> {
        self.file.write_all_at(record.encode().as_bytes(), 0)?;
        self.record = record;
        Ok(())
    }

    /// This group is durable.
    pub(super) fn set_group(&mut self, group: u64) -> io::Result<()> {
        self.write(Record { group, ..self.record })
    }

    /// A checkpoint begins (`frames` > 0), or everything is in the database file and durable (0).
    pub(super) fn set_frames(&mut self, frames: u64) -> io::Result<()> {
        self.write(Record {
            frames,
            emptying: false,
            ..self.record
        })?;
        self.file.sync_data()
    }

    /// The checkpoint has ended; what it began with may now go.
    pub(super) fn set_emptying(&mut self) -> io::Result<()> {
        self.write(Record {
            emptying: true,
            ..self.record
        })?;
        self.file.sync_data()
    }

    /// Can a write-ahead log with so many valid frames belong to the database?
    pub(super) fn allows(record: &Record, frames: u64) -> bool {
        frames >= record.frames || (record.emptying && frames == 0)
    }

    /// The database is there.
    pub(super) fn set_ready(&mut self) -> io::Result<()> {
        self.write(Record {
            ready: true,
            ..self.record
        })?;
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_changed_character_makes_the_line_invalid() {
        let record = Record {
            store: 0xfeed,
            group: 42,
            frames: 7,
            emptying: false,
            ready: true,
        };
        let line = record.encode();
        assert_eq!(Record::decode(&line), Some(record));
        for at in 0..line.trim_end().len() {
            let mut changed = line.clone().into_bytes();
            changed[at] ^= 1;
            let text = String::from_utf8(changed).unwrap();
            assert_eq!(Record::decode(&text), None, "{text}");
        }
    }

    #[test]
    fn every_line_has_the_same_length() {
        let small = Record {
            store: 0,
            group: 0,
            frames: 0,
            emptying: false,
            ready: false,
        };
        let large = Record {
            store: u64::MAX,
            group: u64::MAX,
            frames: 4_000_000_000,
            emptying: true,
            ready: true,
        };
        assert_eq!(small.encode().len(), large.encode().len());
    }
}
