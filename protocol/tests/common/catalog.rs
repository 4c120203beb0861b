//! One document for every variant of every enum of the protocol: the golden files are these, in both encodings.
//!
//! The lists of variants are made by a macro that also matches on the enum, so that a new variant does not compile until
//! it is listed, and a listed variant without a document and without files fails a test.

use serde::Serialize;
use serde::de::DeserializeOwned;
use taskflow_protocol::message::*;
use taskflow_protocol::model::*;
use taskflow_protocol::values::*;
use taskflow_protocol::{Code, DecodeError, Encoding, LabelId, ListId, OperationId, TaskId, UserId};

/// The two encodings and the ends of their files' names.
pub const ENCODINGS: [(Encoding, &str); 2] = [(Encoding::Json, "json"), (Encoding::MsgPack, "msgpack")];

/// What is wrong with a golden file: nothing, or a sentence.
type Check = Box<dyn Fn(Encoding, &[u8]) -> Result<(), String>>;

/// One document and how its file is checked.
pub struct Golden {
    /// Folder, by type.
    pub folder: &'static str,
    /// Name of the file without its end: the variant, then perhaps a dash and what is particular about this one.
    pub name: String,
    /// The document as this build writes it.
    pub encode: Box<dyn Fn(Encoding) -> Vec<u8>>,
    /// Reads the bytes and compares with the document.
    pub check: Check,
}

impl Golden {
    /// The variant that the name begins with.
    pub fn variant(&self) -> &str {
        self.name.split('-').next().unwrap_or_default()
    }
}

/// An enum whose every variant has a name for files.
pub trait Variants: Sized {
    /// Folder of the files.
    const FOLDER: &'static str;
    /// Every variant.
    const NAMES: &'static [&'static str];
    /// The variant's name.
    fn variant(&self) -> &'static str;
}

macro_rules! variants {
    ($type:ty, $folder:literal: $($variant:ident $name:literal),+ $(,)?) => {
        impl Variants for $type {
            const FOLDER: &'static str = $folder;
            const NAMES: &'static [&'static str] = &[$($name),+];
            fn variant(&self) -> &'static str {
                match self { $(Self::$variant { .. } => $name),+ }
            }
        }
    };
}

variants! { ClientMessage, "client":
    Hello "hello", Operations "operations", Follow "follow", Unfollow "unfollow", Refresh "refresh",
    Heartbeat "heartbeat",
}
variants! { Command, "command":
    TaskCreate "task_create", TaskPatch "task_patch", TaskMove "task_move", TaskComplete "task_complete",
    TaskReopen "task_reopen", TaskDelete "task_delete", TaskRestore "task_restore", ListCreate "list_create",
    ListPatch "list_patch", ListMove "list_move", ListDelete "list_delete", ListRestore "list_restore",
    LabelCreate "label_create", LabelPatch "label_patch", LabelDelete "label_delete", LabelRestore "label_restore",
    SettingsPatch "settings_patch", Undo "undo", Batch "batch",
}
variants! { ServerMessage, "server":
    Welcome "welcome", Following "following", Unfollowed "unfollowed", Snapshot "snapshot", Entries "entries",
    Results "results", Statistics "statistics", Refreshed "refreshed", Heartbeat "heartbeat", Reconnect "reconnect", Error "error",
}
variants! { Change, "change":
    TaskPut "task_put", TaskSet "task_set", ListPut "list_put", ListSet "list_set", LabelPut "label_put",
    LabelSet "label_set", SettingsSet "settings_set",
}
variants! { Outcome, "outcome":
    Accepted "accepted", Refused "refused", Conflict "conflict", Unknown "unknown",
}
variants! { Row, "row": Task "task", List "list", Label "label", Settings "settings" }
variants! { Place<TaskId>, "place": First "first", Last "last", Before "before", After "after" }
variants! { Due, "due": AllDay "all_day", Floating "floating", Zoned "zoned" }
variants! { Status, "status": Todo "todo", Doing "doing", Done "done", Cancelled "cancelled" }
variants! { Priority, "priority": None "none", Low "low", Medium "medium", High "high", Urgent "urgent" }
variants! { WeekStart, "week_start": Monday "monday", Saturday "saturday", Sunday "sunday" }
variants! { FollowMode, "follow_mode": UpToDate "up_to_date", Entries "entries", Reset "reset" }
variants! { LeftOut, "left_out": List "list", Task "task", Label "label" }
variants! { ResetReason, "reset_reason":
    NoCursor "no_cursor", EpochChanged "epoch_changed", CursorAhead "cursor_ahead", CursorTooOld "cursor_too_old",
    ListsChanged "lists_changed",
}

/// Every folder with the variants that must have a file in it.
pub fn folders() -> Vec<(&'static str, &'static [&'static str])> {
    fn of<T: Variants>() -> (&'static str, &'static [&'static str]) {
        (T::FOLDER, T::NAMES)
    }
    vec![
        of::<ClientMessage>(),
        of::<Command>(),
        of::<ServerMessage>(),
        of::<Change>(),
        of::<Outcome>(),
        of::<Row>(),
        of::<Place<TaskId>>(),
        of::<Due>(),
        of::<Status>(),
        of::<Priority>(),
        of::<WeekStart>(),
        of::<FollowMode>(),
        of::<ResetReason>(),
        of::<LeftOut>(),
    ]
}

fn golden<T>(suffix: &str, document: T) -> Golden
where
    T: Variants + Clone + std::fmt::Debug + PartialEq + Serialize + DeserializeOwned + 'static,
{
    let name = match suffix {
        "" => document.variant().to_owned(),
        suffix => format!("{}-{suffix}", document.variant()),
    };
    let written = document.clone();
    Golden {
        folder: T::FOLDER,
        name,
        encode: Box::new(move |encoding| encoding.encode(&written)),
        check: Box::new(move |encoding, bytes| {
            let read: T = encoding
                .decode(bytes)
                .map_err(|error: DecodeError| format!("it does not decode: {error}"))?;
            if read != document {
                return Err(format!("it decodes to {read:?}\nnot to {document:?}"));
            }
            if encoding.encode(&document) != bytes {
                return Err("the document encodes to other bytes".to_owned());
            }
            Ok(())
        }),
    }
}

/// The user whose feed the examples are about.
pub fn user() -> UserId {
    id("0197a3c0-1111-7aaa-8000-000000000001")
}
/// The user's inbox.
pub fn inbox() -> ListId {
    ListId(user().0)
}
/// Another list.
pub fn list() -> ListId {
    id("0197a3c0-2222-7aaa-8000-000000000002")
}
/// A task.
pub fn task() -> TaskId {
    id("0197a3c0-3333-7aaa-8000-000000000003")
}
/// Another task.
pub fn other_task() -> TaskId {
    id("0197a3c0-3333-7aaa-8000-000000000004")
}
/// A label.
pub fn label() -> LabelId {
    id("0197a3c0-4444-7aaa-8000-000000000005")
}
/// An operation.
pub fn operation() -> OperationId {
    id("0197a3c0-5555-7aaa-8000-000000000006")
}

fn id<T: std::str::FromStr>(text: &str) -> T {
    match text.parse() {
        Ok(id) => id,
        Err(_) => unreachable!("the ids of the examples are UUIDs"),
    }
}

const TIME: UnixMs = 1_782_000_000_123;
const CURSOR: &str = "1f2e3d4c5b6a79880000000000000029";

/// A task with every field set.
pub fn full_task() -> Task {
    Task {
        id: task(),
        list: list(),
        title: "Call the printer – Grüße 🖨".to_owned(),
        notes: "Ask for *A3*.\nBefore noon.".to_owned(),
        status: Status::Done,
        priority: Priority::High,
        due: Some(Due::Zoned(Zoned {
            local: "2026-06-21T09:30:00".to_owned(),
            zone: "Europe/Berlin".to_owned(),
        })),
        deadline: Some("2026-06-30".to_owned()),
        duration_minutes: Some(45),
        labels: vec![label()],
        parent: Some(other_task()),
        rank: "a1V".to_owned(),
        completed_at: Some(TIME),
        completed_by: Some(user()),
        created_at: TIME - 86_400_000,
        created_by: user(),
        updated_at: TIME,
        updated_by: user(),
        deleted_at: Some(TIME),
        version: 41,
    }
}

/// A task with no field set that may be absent.
pub fn small_task() -> Task {
    Task {
        id: task(),
        list: inbox(),
        title: "Buy milk".to_owned(),
        notes: String::new(),
        status: Status::Todo,
        priority: Priority::None,
        due: None,
        deadline: None,
        duration_minutes: None,
        labels: Vec::new(),
        parent: None,
        rank: "a0".to_owned(),
        completed_at: None,
        completed_by: None,
        created_at: TIME,
        created_by: user(),
        updated_at: TIME,
        updated_by: user(),
        deleted_at: None,
        version: 3,
    }
}

fn full_list() -> List {
    List {
        id: list(),
        name: "Work".to_owned(),
        color: Some("#3366cc".to_owned()),
        rank: "a1".to_owned(),
        archived: true,
        created_at: TIME - 86_400_000,
        updated_at: TIME,
        deleted_at: Some(TIME),
        version: 40,
    }
}

fn small_list() -> List {
    List {
        id: inbox(),
        name: "Inbox".to_owned(),
        color: None,
        rank: "a0".to_owned(),
        archived: false,
        created_at: TIME,
        updated_at: TIME,
        deleted_at: None,
        version: 1,
    }
}

fn full_label() -> Label {
    Label {
        id: label(),
        name: "errand".to_owned(),
        color: Some("#00aa55".to_owned()),
        deleted_at: Some(TIME),
        version: 39,
    }
}

fn settings() -> Settings {
    Settings {
        time_zone: "Europe/Berlin".to_owned(),
        week_start: WeekStart::Monday,
        locale: "de-AT".to_owned(),
        version: 1,
    }
}

fn every_task_field() -> TaskFields {
    TaskFields {
        title: Some("Call the printer".to_owned()),
        notes: Some("Ask for A4.".to_owned()),
        status: Some(Status::Doing),
        priority: Some(Priority::Urgent),
        due: Some(Some(Due::Floating("2026-06-21T09:30:00".to_owned()))),
        deadline: Some(Some("2026-07-01".to_owned())),
        duration_minutes: Some(Some(30)),
        labels: Some(vec![label()]),
        parent: Some(Some(other_task())),
        rank: Some("a2".to_owned()),
        completed_at: Some(Some(TIME)),
        completed_by: Some(Some(user())),
        deleted_at: Some(Some(TIME)),
    }
}

fn every_task_field_cleared() -> TaskFields {
    TaskFields {
        title: None,
        notes: Some(String::new()),
        status: None,
        priority: None,
        due: Some(None),
        deadline: Some(None),
        duration_minutes: Some(None),
        labels: Some(Vec::new()),
        parent: Some(None),
        rank: None,
        completed_at: Some(None),
        completed_by: Some(None),
        deleted_at: Some(None),
    }
}

fn task_create() -> TaskCreate {
    TaskCreate {
        task: task(),
        list: Some(list()),
        title: "Call the printer".to_owned(),
        notes: "Ask for *A3*.".to_owned(),
        status: Status::Todo,
        priority: Priority::High,
        due: Some(Due::AllDay("2026-06-21".to_owned())),
        deadline: Some("2026-06-30".to_owned()),
        duration_minutes: Some(45),
        labels: vec![label()],
        parent: Some(other_task()),
        place: Place::After(other_task()),
    }
}

fn follow() -> Follow {
    Follow {
        feed: Some(user()),
        lists: Some(vec![list()]),
        cursor: Some(CURSOR.to_owned()),
        statistics: false,
    }
}

fn statistics() -> Statistics {
    let counted = |tasks, open| Counted { tasks, open };
    Statistics {
        seq: 42,
        time_zone: "Europe/Berlin".to_owned(),
        tasks: 5,
        open: 3,
        overdue: 1,
        due_today: 2,
        by_status: [
            (Status::Todo, 2),
            (Status::Doing, 1),
            (Status::Done, 1),
            (Status::Cancelled, 1),
        ]
        .into(),
        by_priority: [(Priority::None, counted(4, 2)), (Priority::High, counted(1, 1))].into(),
        by_list: vec![CountedList {
            list: list(),
            tasks: 5,
            open: 3,
        }],
        by_label: vec![CountedLabel {
            label: label(),
            tasks: 1,
            open: 1,
        }],
        completed_today: 1,
        completed_this_week: 4,
        streak_days: 2,
        completion_rate: Some(0.25),
    }
}

fn entry(seq: Seq, changes: Vec<Change>) -> Entry {
    Entry {
        seq,
        time: TIME,
        author: user(),
        operation: operation(),
        changes,
    }
}

fn error() -> ErrorBody {
    ErrorBody {
        code: Code::ValueInvalid,
        name: Code::ValueInvalid.name().to_owned(),
        message: "A colour is #rrggbb.".to_owned(),
        field: Some("command.list_create.color".to_owned()),
        feed: Some(user()),
        retry_after_ms: Some(250),
    }
}

fn small_error() -> ErrorBody {
    ErrorBody {
        message: "Two rows have this id.".to_owned(),
        field: None,
        feed: None,
        retry_after_ms: None,
        ..ErrorBody::new(Code::IdTaken)
    }
}

/// Every document that has golden files.
pub fn catalog() -> Vec<Golden> {
    let mut all = Vec::new();
    all.extend(client_messages());
    all.extend(commands());
    all.extend(server_messages());
    all.extend(changes());
    all.extend(outcomes_and_rows());
    all.extend(values());
    all
}

fn client_messages() -> Vec<Golden> {
    use ClientMessage as M;
    let range = ProtocolRange { min: 1, max: 2 };
    vec![
        golden(
            "",
            M::Hello(Hello {
                protocol: range,
                token: Some("eyJhbGciOiJFZERTQSJ9.e30.c2ln".to_owned()),
                client: Some("taskflow-cli 0.1.0".to_owned()),
                follow: vec![
                    Follow {
                        cursor: Some(CURSOR.to_owned()),
                        ..Follow::default()
                    },
                    follow(),
                ],
            }),
        ),
        golden(
            "small",
            M::Hello(Hello {
                protocol: range,
                token: None,
                client: None,
                follow: Vec::new(),
            }),
        ),
        golden(
            "",
            M::Operations(Operations {
                feed: Some(user()),
                operations: vec![
                    Operation {
                        id: operation(),
                        base: Some(41),
                        command: Command::TaskComplete(TaskRef { task: task() }),
                    },
                    Operation {
                        id: id("0197a3c0-5555-7aaa-8000-000000000007"),
                        base: None,
                        command: Command::Undo(Undo { seq: 40 }),
                    },
                ],
                traceparent: None,
            }),
        ),
        golden(
            "small",
            M::Operations(Operations {
                feed: None,
                operations: vec![Operation {
                    id: operation(),
                    base: None,
                    command: Command::TaskReopen(TaskRef { task: task() }),
                }],
                traceparent: None,
            }),
        ),
        golden(
            "traced",
            M::Operations(Operations {
                feed: None,
                operations: vec![Operation {
                    id: operation(),
                    base: None,
                    command: Command::TaskReopen(TaskRef { task: task() }),
                }],
                traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
            }),
        ),
        golden("", M::Follow(follow())),
        golden("small", M::Follow(Follow::default())),
        golden(
            "counted",
            M::Follow(Follow {
                statistics: true,
                ..Follow::default()
            }),
        ),
        golden("", M::Unfollow(Unfollow { feed: Some(user()) })),
        golden("small", M::Unfollow(Unfollow::default())),
        golden(
            "",
            M::Refresh(Refresh {
                token: "eyJhbGciOiJFZERTQSJ9.e30.bmV3".to_owned(),
            }),
        ),
        golden("", M::Heartbeat(Empty {})),
    ]
}

fn commands() -> Vec<Golden> {
    use Command as C;
    vec![
        golden("", C::TaskCreate(task_create())),
        golden(
            "small",
            C::TaskCreate(TaskCreate {
                task: task(),
                list: None,
                title: "Buy milk".to_owned(),
                notes: String::new(),
                status: Status::Todo,
                priority: Priority::None,
                due: None,
                deadline: None,
                duration_minutes: None,
                labels: Vec::new(),
                parent: None,
                place: Place::Last,
            }),
        ),
        golden(
            "",
            C::TaskPatch(TaskPatch {
                task: task(),
                set: TaskFields {
                    title: Some("Call the printer".to_owned()),
                    due: Some(None),
                    ..TaskFields::default()
                },
            }),
        ),
        golden(
            "",
            C::TaskMove(TaskMove {
                task: task(),
                list: Some(list()),
                parent: Some(other_task()),
                place: Place::First,
            }),
        ),
        golden("", C::TaskComplete(TaskRef { task: task() })),
        golden("", C::TaskReopen(TaskRef { task: task() })),
        golden("", C::TaskDelete(TaskRef { task: task() })),
        golden("", C::TaskRestore(TaskRef { task: task() })),
        golden(
            "",
            C::ListCreate(ListCreate {
                list: list(),
                name: "Work".to_owned(),
                color: Some("#3366cc".to_owned()),
                place: Place::After(inbox()),
            }),
        ),
        golden(
            "",
            C::ListPatch(ListPatch {
                list: list(),
                set: ListFields {
                    name: Some("Office".to_owned()),
                    color: Some(None),
                    rank: None,
                    archived: Some(true),
                    deleted_at: None,
                },
            }),
        ),
        golden(
            "",
            C::ListMove(ListMove {
                list: list(),
                place: Place::Before(inbox()),
            }),
        ),
        golden("", C::ListDelete(ListRef { list: list() })),
        golden("", C::ListRestore(ListRef { list: list() })),
        golden(
            "",
            C::LabelCreate(LabelCreate {
                label: label(),
                name: "errand".to_owned(),
                color: Some("#00aa55".to_owned()),
            }),
        ),
        golden(
            "",
            C::LabelPatch(LabelPatch {
                label: label(),
                set: LabelFields {
                    name: Some("errands".to_owned()),
                    color: Some(None),
                    deleted_at: None,
                },
            }),
        ),
        golden("", C::LabelDelete(LabelRef { label: label() })),
        golden("", C::LabelRestore(LabelRef { label: label() })),
        golden(
            "",
            C::SettingsPatch(SettingsFields {
                time_zone: Some("America/New_York".to_owned()),
                week_start: Some(WeekStart::Sunday),
                locale: Some("en-US".to_owned()),
            }),
        ),
        golden("", C::Undo(Undo { seq: 41 })),
        golden(
            "",
            C::Batch(Batch {
                commands: vec![
                    C::TaskComplete(TaskRef { task: task() }),
                    C::TaskDelete(TaskRef { task: other_task() }),
                ],
            }),
        ),
    ]
}

fn server_messages() -> Vec<Golden> {
    use ServerMessage as M;
    vec![
        golden(
            "",
            M::Welcome(Welcome {
                build: "taskflow 0.1.0".to_owned(),
                protocol: ProtocolRange { min: 1, max: 1 },
                version: 1,
                user: user(),
                time: TIME,
                heartbeat_ms: 25_000,
                token_expires_at: TIME + 900_000,
                message_bytes_max: 262_144,
                operations_max: 100,
                traces: false,
            }),
        ),
        golden(
            "traced",
            M::Welcome(Welcome {
                build: "taskflow 0.1.0".to_owned(),
                protocol: ProtocolRange { min: 1, max: 1 },
                version: 1,
                user: user(),
                time: TIME,
                heartbeat_ms: 25_000,
                token_expires_at: TIME + 900_000,
                message_bytes_max: 262_144,
                operations_max: 100,
                traces: true,
            }),
        ),
        golden(
            "",
            M::Following(Following {
                feed: user(),
                mode: FollowMode::Reset,
                reason: Some(ResetReason::CursorTooOld),
                head: 41,
            }),
        ),
        golden(
            "small",
            M::Following(Following {
                feed: user(),
                mode: FollowMode::UpToDate,
                reason: None,
                head: 41,
            }),
        ),
        golden("", M::Unfollowed(Unfollowed { feed: user() })),
        golden(
            "",
            M::Snapshot(Snapshot {
                feed: user(),
                seq: 41,
                piece: 0,
                settings: Some(settings()),
                lists: vec![small_list(), full_list()],
                labels: vec![full_label()],
                tasks: vec![small_task(), full_task()],
                done: Some(SnapshotDone {
                    cursor: CURSOR.to_owned(),
                    rows: 6,
                    left_out: Vec::new(),
                }),
            }),
        ),
        golden(
            "small",
            M::Snapshot(Snapshot {
                feed: user(),
                seq: 41,
                piece: 1,
                settings: None,
                lists: Vec::new(),
                labels: Vec::new(),
                tasks: Vec::new(),
                done: None,
            }),
        ),
        golden(
            "",
            M::Entries(Entries {
                feed: user(),
                entries: vec![
                    entry(
                        40,
                        vec![Change::TaskPut(TaskPut {
                            from: None,
                            task: small_task(),
                        })],
                    ),
                    entry(41, Vec::new()),
                ],
                cursor: CURSOR.to_owned(),
            }),
        ),
        golden(
            "",
            M::Results(Results {
                results: vec![
                    OperationResult {
                        id: operation(),
                        outcome: Outcome::Accepted(Accepted { seq: 41 }),
                    },
                    OperationResult {
                        id: id("0197a3c0-5555-7aaa-8000-000000000007"),
                        outcome: Outcome::Refused(small_error()),
                    },
                ],
            }),
        ),
        golden(
            "",
            M::Statistics(FeedStatistics {
                feed: user(),
                counts: statistics(),
            }),
        ),
        golden(
            "",
            M::Refreshed(Refreshed {
                token_expires_at: TIME + 900_000,
            }),
        ),
        golden("", M::Heartbeat(Heartbeat::default())),
        golden(
            "stale",
            M::Heartbeat(Heartbeat {
                stale_since: Some(TIME),
            }),
        ),
        golden(
            "",
            M::Reconnect(Reconnect {
                after_ms: 500,
                window_ms: 10_000,
                code: Code::ShuttingDown,
            }),
        ),
        golden("", M::Error(error())),
        golden("small", M::Error(small_error())),
    ]
}

fn changes() -> Vec<Golden> {
    use Change as C;
    vec![
        golden(
            "",
            C::TaskPut(TaskPut {
                from: Some(inbox()),
                task: full_task(),
            }),
        ),
        golden(
            "small",
            C::TaskPut(TaskPut {
                from: None,
                task: small_task(),
            }),
        ),
        golden(
            "",
            C::TaskSet(TaskSet {
                task: task(),
                list: list(),
                set: every_task_field(),
            }),
        ),
        golden(
            "cleared",
            C::TaskSet(TaskSet {
                task: task(),
                list: list(),
                set: every_task_field_cleared(),
            }),
        ),
        golden("", C::ListPut(full_list())),
        golden("small", C::ListPut(small_list())),
        golden(
            "",
            C::ListSet(ListSet {
                list: list(),
                set: ListFields {
                    name: Some("Office".to_owned()),
                    color: Some(Some("#cc3366".to_owned())),
                    rank: Some("a0V".to_owned()),
                    archived: Some(false),
                    deleted_at: Some(Some(TIME)),
                },
            }),
        ),
        golden(
            "cleared",
            C::ListSet(ListSet {
                list: list(),
                set: ListFields {
                    color: Some(None),
                    deleted_at: Some(None),
                    ..ListFields::default()
                },
            }),
        ),
        golden("", C::LabelPut(full_label())),
        golden(
            "",
            C::LabelSet(LabelSet {
                label: label(),
                set: LabelFields {
                    name: Some("errands".to_owned()),
                    color: Some(Some("#aa5500".to_owned())),
                    deleted_at: Some(Some(TIME)),
                },
            }),
        ),
        golden(
            "cleared",
            C::LabelSet(LabelSet {
                label: label(),
                set: LabelFields {
                    name: None,
                    color: Some(None),
                    deleted_at: Some(None),
                },
            }),
        ),
        golden(
            "",
            C::SettingsSet(SettingsFields {
                time_zone: Some("America/New_York".to_owned()),
                week_start: Some(WeekStart::Saturday),
                locale: Some("en-US".to_owned()),
            }),
        ),
    ]
}

fn outcomes_and_rows() -> Vec<Golden> {
    vec![
        golden("", Outcome::Accepted(Accepted { seq: 41 })),
        golden("", Outcome::Refused(error())),
        golden(
            "",
            Outcome::Conflict(Conflict {
                row: Row::Task(full_task()),
            }),
        ),
        golden("", Outcome::Unknown(ErrorBody::new(Code::OutcomeUnknown))),
        golden("", Row::Task(full_task())),
        golden("", Row::List(full_list())),
        golden("", Row::Label(full_label())),
        golden("", Row::Settings(settings())),
    ]
}

fn values() -> Vec<Golden> {
    vec![
        golden("", Place::<TaskId>::First),
        golden("", Place::<TaskId>::Last),
        golden("", Place::Before(task())),
        golden("", Place::After(task())),
        golden("", Due::AllDay("2026-06-21".to_owned())),
        golden("", Due::Floating("2026-06-21T09:30:00".to_owned())),
        golden(
            "",
            Due::Zoned(Zoned {
                local: "2026-06-21T09:30:00".to_owned(),
                zone: "Europe/Berlin".to_owned(),
            }),
        ),
        golden("", Status::Todo),
        golden("", Status::Doing),
        golden("", Status::Done),
        golden("", Status::Cancelled),
        golden("", Priority::None),
        golden("", Priority::Low),
        golden("", Priority::Medium),
        golden("", Priority::High),
        golden("", Priority::Urgent),
        golden("", WeekStart::Monday),
        golden("", WeekStart::Saturday),
        golden("", WeekStart::Sunday),
        golden("", FollowMode::UpToDate),
        golden("", FollowMode::Entries),
        golden("", FollowMode::Reset),
        golden("", LeftOut::List(list())),
        golden("", LeftOut::Task(task())),
        golden("", LeftOut::Label(label())),
        golden("", ResetReason::NoCursor),
        golden("", ResetReason::EpochChanged),
        golden("", ResetReason::CursorAhead),
        golden("", ResetReason::CursorTooOld),
        golden("", ResetReason::ListsChanged),
    ]
}
