//! The rules as sentences: each test does something to a small feed and says exactly what comes of it.

mod activity;
mod batches;
mod find;
mod labels_and_settings;
mod left_out;
mod limits;
mod lists;
mod places;
mod properties;
mod stored;
mod tasks;
mod undo;

use taskflow_protocol::message::{
    Batch, Command, LabelCreate, LabelRef, ListCreate, ListPatch, ListRef, Operation, Place, TaskCreate, TaskMove,
    TaskPatch, TaskRef, Undo,
};
use taskflow_protocol::model::{ListFields, TaskFields};
use taskflow_protocol::values::{Priority, Seq, Status, UnixMs};
use taskflow_protocol::{Code, LabelId, ListId, OperationId, TaskId, UserId};
use uuid::Uuid;

use super::{Draft, Entry, Refusal, State, Task, birth};

const USER: UserId = UserId(Uuid::from_u128(0xa11ce));
const OTHER: UserId = UserId(Uuid::from_u128(0xb0b));
const INBOX: ListId = ListId(USER.0);
const BIRTH_TIME: UnixMs = 1_760_000_000_000;

fn task(n: u128) -> TaskId {
    TaskId(Uuid::from_u128(n))
}

fn list(n: u128) -> ListId {
    ListId(Uuid::from_u128(n))
}

fn label(n: u128) -> LabelId {
    LabelId(Uuid::from_u128(n))
}

fn operation(n: u64, command: Command) -> Operation {
    Operation {
        id: OperationId(Uuid::from_u128(u128::from(n) + (1 << 80))),
        base: None,
        command,
    }
}

/// A feed as its actor would drive it: each operation is judged in a draft of its own, and its entry applied.
#[derive(Clone)]
struct Feed {
    state: State,
    log: Vec<Entry>,
    author: UserId,
}

impl Feed {
    /// Just born: an inbox, and nothing in it.
    fn new() -> Self {
        let mut feed = Self {
            state: State::new(USER),
            log: Vec::new(),
            author: USER,
        };
        feed.take(birth(USER, BIRTH_TIME, "Europe/Berlin", "de-AT").expect("zone and locale are valid"));
        feed
    }

    fn take(&mut self, entry: Entry) -> Entry {
        self.state.apply(&entry);
        self.log.push(entry.clone());
        entry
    }

    /// A second after the last entry.
    fn time(&self) -> UnixMs {
        self.log.last().map_or(BIRTH_TIME, |last| last.time + 1_000)
    }

    fn judge(&self, operation: &Operation) -> Result<Entry, Refusal> {
        let undo_of = match &operation.command {
            Command::Undo(undo) => self.log.iter().find(|entry| entry.seq == undo.seq),
            _ => None,
        };
        Draft::new(&self.state).judge(self.author, self.time(), operation, undo_of)
    }

    fn try_to(&mut self, command: Command) -> Result<Entry, Refusal> {
        let operation = operation(self.state.seq() + 1, command);
        let entry = self.judge(&operation)?;
        Ok(self.take(entry))
    }

    #[track_caller]
    fn accept(&mut self, command: Command) -> Entry {
        self.try_to(command).expect("the operation breaks no rule")
    }

    /// It is refused with this code and field.
    #[track_caller]
    fn refuse(&mut self, command: Command, code: Code, field: &str) {
        let before = self.state.clone();
        match self.try_to(command) {
            Err(Refusal::Code {
                code: found, field: at, ..
            }) => {
                assert_eq!((found, at.as_deref()), (code, Some(field)));
            }
            other => panic!("expected {code} at {field}, not {other:?}"),
        }
        assert_eq!(self.state, before);
    }

    #[track_caller]
    fn task(&self, n: u128) -> &Task {
        self.state.task(task(n)).expect("the task was made")
    }

    /// Ids of a list's tasks in their order.
    fn order(&self, of: ListId) -> Vec<u128> {
        self.state.tasks_in(of).map(|task| task.id.0.as_u128()).collect()
    }
}

fn create(n: u128) -> TaskCreate {
    TaskCreate {
        task: task(n),
        list: None,
        title: format!("Task {n}"),
        notes: String::new(),
        status: Status::Todo,
        priority: Priority::None,
        due: None,
        deadline: None,
        duration_minutes: None,
        labels: Vec::new(),
        parent: None,
        place: Place::Last,
    }
}

fn task_create(n: u128) -> Command {
    Command::TaskCreate(create(n))
}

fn task_create_in(n: u128, list: ListId) -> Command {
    Command::TaskCreate(TaskCreate {
        list: Some(list),
        ..create(n)
    })
}

/// A subtask in the inbox.
fn task_create_under(n: u128, parent: u128) -> Command {
    Command::TaskCreate(TaskCreate {
        parent: Some(task(parent)),
        ..create(n)
    })
}

fn task_patch(n: u128, set: TaskFields) -> Command {
    Command::TaskPatch(TaskPatch { task: task(n), set })
}

fn retitle(n: u128, title: &str) -> Command {
    task_patch(
        n,
        TaskFields {
            title: Some(title.to_owned()),
            ..TaskFields::default()
        },
    )
}

fn moving(n: u128) -> TaskMove {
    TaskMove {
        task: task(n),
        list: None,
        parent: None,
        place: Place::Last,
    }
}

fn move_to_list(n: u128, list: ListId) -> Command {
    Command::TaskMove(TaskMove {
        list: Some(list),
        ..moving(n)
    })
}

fn move_under(n: u128, parent: u128) -> Command {
    Command::TaskMove(TaskMove {
        parent: Some(task(parent)),
        ..moving(n)
    })
}

fn move_beside(n: u128, place: Place<TaskId>) -> Command {
    Command::TaskMove(TaskMove { place, ..moving(n) })
}

fn task_complete(n: u128) -> Command {
    Command::TaskComplete(TaskRef { task: task(n) })
}

fn task_reopen(n: u128) -> Command {
    Command::TaskReopen(TaskRef { task: task(n) })
}

fn task_delete(n: u128) -> Command {
    Command::TaskDelete(TaskRef { task: task(n) })
}

fn task_restore(n: u128) -> Command {
    Command::TaskRestore(TaskRef { task: task(n) })
}

fn list_create(n: u128) -> Command {
    Command::ListCreate(ListCreate {
        list: list(n),
        name: format!("List {n}"),
        color: None,
        place: Place::Last,
    })
}

fn list_patch(id: ListId, set: ListFields) -> Command {
    Command::ListPatch(ListPatch { list: id, set })
}

fn list_archive(n: u128) -> Command {
    list_patch(
        list(n),
        ListFields {
            archived: Some(true),
            ..ListFields::default()
        },
    )
}

fn list_delete(n: u128) -> Command {
    Command::ListDelete(ListRef { list: list(n) })
}

fn list_restore(n: u128) -> Command {
    Command::ListRestore(ListRef { list: list(n) })
}

fn label_create(n: u128) -> Command {
    Command::LabelCreate(LabelCreate {
        label: label(n),
        name: format!("label {n}"),
        color: None,
    })
}

fn label_delete(n: u128) -> Command {
    Command::LabelDelete(LabelRef { label: label(n) })
}

fn undo(seq: Seq) -> Command {
    Command::Undo(Undo { seq })
}

fn batch(commands: impl Into<Vec<Command>>) -> Command {
    Command::Batch(Batch {
        commands: commands.into(),
    })
}
