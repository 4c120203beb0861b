//! Judging: from an operation to an entry, or to the reason why not.
//!
//! Every command looks at rows through the draft's overlay, checks, and puts rows back as they shall be. What the entry
//! says is then the difference: a change carries only fields that really changed, and an operation that asked for what
//! was so already gives an entry without changes. Checks come in this order: the row exists, it is at the base version,
//! neither it nor its list is in the bin, then the values, then what they refer to, then the limits.

mod label;
mod left_out;
mod list;
mod overlay;
mod parent;
mod place;
mod refusal;
mod settings;
mod task;
mod undo;
mod value;

use taskflow_protocol::limits::{COMMANDS_A_BATCH_MAX, COMMIT_BYTES_MAX};
use taskflow_protocol::message::{Batch, Command, Operation, Row};
use taskflow_protocol::values::{Seq, UnixMs};
use taskflow_protocol::{Code, ListId, UserId};

use self::overlay::Overlay;
pub use self::refusal::Refusal;
use self::refusal::refuse;
use super::codec::{encode_commit, operation_hash};
use super::entry::Entry;
use super::row::Stamp;
use super::state::State;

/// What a check or a command answers.
type Judged<T = ()> = Result<T, Refusal>;

/// Operations judged on a state, one after the other, before any of them is durable.
///
/// It never changes the state: it keeps the rows that it touched. Once its entries are durable, [`State::apply`] gives
/// the state what the draft saw. A refused operation leaves no trace.
pub struct Draft<'a> {
    overlay: Overlay<'a>,
    /// The last entry, of the state or of this draft.
    seq: Seq,
    /// Its time, once this draft has made one.
    time: UnixMs,
    /// Who asks for the operation under way, and when.
    stamp: Stamp,
}

impl<'a> Draft<'a> {
    /// Begins after the last entry of the state.
    pub fn new(state: &'a State) -> Self {
        Self {
            overlay: Overlay::new(state),
            seq: state.seq(),
            time: UnixMs::MIN,
            stamp: Stamp {
                at: UnixMs::MIN,
                by: state.user(),
            },
        }
    }

    /// The last entry, of the state or of this draft.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// Judges one operation on everything that was accepted before it. `time` must not be below that of the last entry;
    /// `undo_of` is the entry that an `undo` names, if it is still kept.
    ///
    /// A `base` is for commands on one row that exists already: with `*_create`, `batch` and `undo` it is
    /// `value_invalid`.
    pub fn judge(
        &mut self,
        author: UserId,
        time: UnixMs,
        operation: &Operation,
        undo_of: Option<&Entry>,
    ) -> Result<Entry, Refusal> {
        debug_assert!(time >= self.time, "the feed lets time go forward only");
        self.stamp = Stamp { at: time, by: author };
        let judged = self.operation(operation, undo_of);
        let entry = judged
            .and_then(|()| self.overlay.check_counts())
            .and_then(|()| self.entry(author, time, operation));
        match &entry {
            Ok(_) => {
                self.overlay.keep();
                self.seq += 1;
                self.time = time;
            }
            Err(_) => self.overlay.roll_back(),
        }
        entry
    }

    /// Keeps the refusal of an operation that was just judged, as an entry without changes.
    pub fn keep_refusal(&mut self, author: UserId, time: UnixMs, operation: &Operation, code: Code) -> Entry {
        self.seq += 1;
        self.time = time;
        Entry {
            seq: self.seq,
            time,
            author,
            operation: operation.id,
            operation_hash: operation_hash(operation),
            changes: Vec::new(),
            refused: Some(code as u16),
            trace: None,
        }
    }

    /// What the operation under way did. It must fit in a commit alone.
    fn entry(&mut self, author: UserId, time: UnixMs, operation: &Operation) -> Judged<Entry> {
        let seq = self.seq + 1;
        let entry = Entry {
            seq,
            time,
            author,
            operation: operation.id,
            operation_hash: operation_hash(operation),
            changes: self.overlay.changes(seq, self.stamp),
            refused: None,
            trace: None,
        };
        // Nearly every entry is far below the limit; only one that may not be is measured.
        let is_too_large = entry.stored_bytes_max() > COMMIT_BYTES_MAX
            && encode_commit(std::slice::from_ref(&entry)).len() > COMMIT_BYTES_MAX;
        if is_too_large {
            return Err(Refusal::new(Code::BatchTooLarge));
        }
        Ok(entry)
    }

    fn operation(&mut self, operation: &Operation, undo_of: Option<&Entry>) -> Judged {
        self.check_left_out(operation, undo_of)?;
        let base = operation.base;
        match &operation.command {
            Command::Batch(batch) => {
                self.no_base(base)?;
                self.batch(batch)
            }
            Command::Undo(undo) => {
                self.no_base(base)?;
                self.undo(*undo, undo_of)
            }
            command => self.command(command, base),
        }
    }

    /// All or none: whoever calls this rolls back on `Err`.
    fn batch(&mut self, batch: &Batch) -> Judged {
        if batch.commands.is_empty() {
            return Err(Refusal::value("commands", "a batch has at least one command"));
        }
        if batch.commands.len() > COMMANDS_A_BATCH_MAX {
            return refuse(Code::BatchTooLarge, "commands");
        }
        for (index, command) in batch.commands.iter().enumerate() {
            let judged = match command {
                Command::Batch(_) | Command::Undo(_) => {
                    Err(Refusal::new(Code::ValueInvalid).because("a batch holds no batch and no undo"))
                }
                command => self.command(command, None),
            };
            judged.map_err(|refusal| refusal.in_command(index))?;
        }
        Ok(())
    }

    fn command(&mut self, command: &Command, base: Option<Seq>) -> Judged {
        match command {
            Command::TaskCreate(create) => {
                self.no_base(base)?;
                self.task_create(create)
            }
            Command::TaskPatch(patch) => self.task_patch(patch, base),
            Command::TaskMove(to) => self.task_move(to, base),
            Command::TaskComplete(target) => self.task_complete(target.task, base),
            Command::TaskReopen(target) => self.task_reopen(target.task, base),
            Command::TaskDelete(target) => self.task_delete(target.task, base),
            Command::TaskRestore(target) => self.task_restore(target.task, base),
            Command::ListCreate(create) => {
                self.no_base(base)?;
                self.list_create(create)
            }
            Command::ListPatch(patch) => self.list_patch(patch, base),
            Command::ListMove(to) => self.list_move(to, base),
            Command::ListDelete(target) => self.list_delete(target.list, base),
            Command::ListRestore(target) => self.list_restore(target.list, base),
            Command::LabelCreate(create) => {
                self.no_base(base)?;
                self.label_create(create)
            }
            Command::LabelPatch(patch) => self.label_patch(patch, base),
            Command::LabelDelete(target) => self.label_delete(target.label, base),
            Command::LabelRestore(target) => self.label_restore(target.label, base),
            Command::SettingsPatch(set) => self.settings_patch(set, base),
            Command::Undo(_) | Command::Batch(_) => {
                Err(Refusal::new(Code::ValueInvalid).because("a batch holds no batch and no undo"))
            }
        }
    }

    fn no_base(&self, base: Option<Seq>) -> Judged {
        match base {
            None => Ok(()),
            Some(_) => Err(Refusal::value(
                "base",
                "only a command on one row that exists has a base version",
            )),
        }
    }

    /// The row must be at the base version, if there is one; else the client gets the row.
    fn check_base(&self, base: Option<Seq>, version: Seq, row: impl FnOnce() -> Row) -> Judged {
        match base {
            Some(base) if base != version => Err(Refusal::Conflict(Box::new(row()))),
            _ => Ok(()),
        }
    }

    fn inbox(&self) -> ListId {
        self.overlay.state().inbox()
    }
}
