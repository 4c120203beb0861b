//! Rows that cannot be read: no operation may name one, whatever for. What was judged without them, or written over them,
//! could not be put right when the row is brought back from a backup.

use taskflow_protocol::message::{Command, Operation};
use taskflow_protocol::{Code, Encoding};
use uuid::Uuid;

use super::super::entry::Entry;
use super::{Draft, Judged, Refusal};

impl Draft<'_> {
    pub(super) fn check_left_out(&self, operation: &Operation, undo_of: Option<&Entry>) -> Judged {
        let state = self.overlay.state();
        if state.left_out().is_empty() {
            return Ok(());
        }
        // As a document, where an id stands between quotation marks: slow, but complete, also for commands that are still
        // to come. (In a text the marks would be escaped.)
        let document = Encoding::Json.encode(&operation.command);
        let document = String::from_utf8_lossy(&document);
        for key in state.left_out() {
            let id = Uuid::from_bytes(key.id);
            if document.contains(&format!("\"{id}\"")) {
                return Err(Refusal::new(Code::RowDamaged).because(format!("{id} cannot be read")));
            }
        }
        let mut undone = undo_of.into_iter().flat_map(|entry| state.touched(entry));
        if matches!(operation.command, Command::Undo(_)) && undone.any(|key| state.left_out().contains(&key)) {
            return Err(Refusal::new(Code::RowDamaged).field("seq"));
        }
        Ok(())
    }
}
