//! A feed's state in pieces, as clients get it.

use taskflow_actors::cursor::Cursor;
use taskflow_actors::domain::State;
use taskflow_actors::ports::{Head, RowKey, RowKind};
use taskflow_protocol::limits::SNAPSHOT_PIECE_ROWS;
use taskflow_protocol::message::{LeftOut, Snapshot, SnapshotDone};
use taskflow_protocol::{LabelId, ListId, TaskId};
use uuid::Uuid;

/// The pieces, written down one by one as they are taken. The first has settings, lists and labels; the last has the
/// cursor. They hold the rows, not the state: its indexes are free to go.
pub fn pieces(state: &State, head: Head) -> impl Iterator<Item = Snapshot> + Send + use<> {
    let feed = state.user();
    let settings = state.settings().clone();
    let lists: Vec<_> = state.all_lists().cloned().collect();
    let labels: Vec<_> = state.all_labels().cloned().collect();
    let tasks: Vec<_> = state.all_tasks().cloned().collect();
    let mut tasks = tasks.into_iter();
    let left_out: Vec<_> = state.left_out().iter().filter_map(left_out).collect();
    let mut piece = 0;
    let mut rows = 0;
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        let mut snapshot = Snapshot {
            feed,
            seq: head.seq,
            piece,
            settings: None,
            lists: Vec::new(),
            labels: Vec::new(),
            tasks: Vec::new(),
            done: None,
        };
        if piece == 0 {
            snapshot.settings = Some(settings.to_wire());
            snapshot.lists = lists.iter().map(|list| list.to_wire()).collect();
            snapshot.labels = labels.iter().map(|label| label.to_wire()).collect();
            rows += 1 + (snapshot.lists.len() + snapshot.labels.len()) as u64;
        } else {
            snapshot.tasks = tasks
                .by_ref()
                .take(SNAPSHOT_PIECE_ROWS)
                .map(|task| task.to_wire())
                .collect();
            rows += snapshot.tasks.len() as u64;
        }
        piece += 1;
        if tasks.len() == 0 {
            done = true;
            snapshot.done = Some(SnapshotDone {
                cursor: Cursor {
                    epoch: head.epoch,
                    seq: head.seq,
                }
                .text(),
                rows,
                left_out: left_out.clone(),
            });
        }
        Some(snapshot)
    })
}

fn left_out(key: &RowKey) -> Option<LeftOut> {
    let id = Uuid::from_bytes(key.id);
    match key.kind {
        RowKind::List => Some(LeftOut::List(ListId(id))),
        RowKind::Task => Some(LeftOut::Task(TaskId(id))),
        RowKind::Label => Some(LeftOut::Label(LabelId(id))),
        // There is no feed without them.
        RowKind::Settings | RowKind::Activity => None,
    }
}
