//! Any message survives both encodings, and both hold the same document.

use proptest::option::of;
use proptest::prelude::*;
use proptest::{collection::vec, sample::select};
use serde::Serialize;
use serde::de::DeserializeOwned;
use taskflow_protocol::codec::Decoded;
use taskflow_protocol::message::*;
use taskflow_protocol::model::*;
use taskflow_protocol::values::*;
use taskflow_protocol::{Code, Encoding, LabelId, ListId, OperationId, TaskId, UserId};

fn id<T>(make: fn(uuid::Uuid) -> T) -> BoxedStrategy<T>
where
    T: std::fmt::Debug + Clone + 'static,
{
    any::<u128>()
        .prop_map(move |bits| make(uuid::Uuid::from_u128(bits)))
        .boxed()
}

fn text() -> BoxedStrategy<String> {
    prop_oneof![Just(String::new()), ".{0,20}", any::<String>()].boxed()
}

fn seq() -> BoxedStrategy<Seq> {
    prop_oneof![0..200_u64, any::<u64>()].boxed()
}

fn time() -> BoxedStrategy<UnixMs> {
    prop_oneof![Just(1_782_000_000_123), any::<i64>()].boxed()
}

fn status() -> BoxedStrategy<Status> {
    select(vec![Status::Todo, Status::Doing, Status::Done, Status::Cancelled]).boxed()
}

fn priority() -> BoxedStrategy<Priority> {
    use Priority as P;
    select(vec![P::None, P::Low, P::Medium, P::High, P::Urgent]).boxed()
}

fn week_start() -> BoxedStrategy<WeekStart> {
    select(vec![WeekStart::Monday, WeekStart::Saturday, WeekStart::Sunday]).boxed()
}

fn due() -> BoxedStrategy<Due> {
    prop_oneof![
        text().prop_map(Due::AllDay),
        text().prop_map(Due::Floating),
        (text(), text()).prop_map(|(local, zone)| Due::Zoned(Zoned { local, zone })),
    ]
    .boxed()
}

fn code() -> BoxedStrategy<Code> {
    select(Code::ALL.to_vec()).boxed()
}

fn task() -> BoxedStrategy<Task> {
    (
        (id(TaskId), id(ListId), text(), text(), status(), priority()),
        (
            of(due()),
            of(text()),
            of(any::<u32>()),
            vec(id(LabelId), 0..3),
            of(id(TaskId)),
            text(),
        ),
        (of(time()), of(id(UserId)), time(), id(UserId)),
        (time(), id(UserId), of(time()), seq()),
    )
        .prop_map(
            |(
                (id, list, title, notes, status, priority),
                (due, deadline, duration_minutes, labels, parent, rank),
                (completed_at, completed_by, created_at, created_by),
                (updated_at, updated_by, deleted_at, version),
            )| Task {
                id,
                list,
                title,
                notes,
                status,
                priority,
                due,
                deadline,
                duration_minutes,
                labels,
                parent,
                rank,
                completed_at,
                completed_by,
                created_at,
                created_by,
                updated_at,
                updated_by,
                deleted_at,
                version,
            },
        )
        .boxed()
}

fn list() -> BoxedStrategy<List> {
    (
        (id(ListId), text(), of(text()), text(), any::<bool>()),
        (time(), time(), of(time()), seq()),
    )
        .prop_map(
            |((id, name, color, rank, archived), (created_at, updated_at, deleted_at, version))| List {
                id,
                name,
                color,
                rank,
                archived,
                created_at,
                updated_at,
                deleted_at,
                version,
            },
        )
        .boxed()
}

fn label() -> BoxedStrategy<Label> {
    (id(LabelId), text(), of(text()), of(time()), seq())
        .prop_map(|(id, name, color, deleted_at, version)| Label {
            id,
            name,
            color,
            deleted_at,
            version,
        })
        .boxed()
}

fn settings() -> BoxedStrategy<Settings> {
    (text(), week_start(), text(), seq())
        .prop_map(|(time_zone, week_start, locale, version)| Settings {
            time_zone,
            week_start,
            locale,
            version,
        })
        .boxed()
}

fn row() -> BoxedStrategy<Row> {
    prop_oneof![
        task().prop_map(Row::Task),
        list().prop_map(Row::List),
        label().prop_map(Row::Label),
        settings().prop_map(Row::Settings),
    ]
    .boxed()
}

fn task_fields() -> BoxedStrategy<TaskFields> {
    (
        (of(text()), of(text()), of(status()), of(priority())),
        (
            of(of(due())),
            of(of(text())),
            of(of(any::<u32>())),
            of(vec(id(LabelId), 0..3)),
        ),
        (of(of(id(TaskId))), of(text())),
        (of(of(time())), of(of(id(UserId))), of(of(time()))),
    )
        .prop_map(
            |(
                (title, notes, status, priority),
                (due, deadline, duration_minutes, labels),
                (parent, rank),
                (completed_at, completed_by, deleted_at),
            )| TaskFields {
                title,
                notes,
                status,
                priority,
                due,
                deadline,
                duration_minutes,
                labels,
                parent,
                rank,
                completed_at,
                completed_by,
                deleted_at,
            },
        )
        .boxed()
}

fn list_fields() -> BoxedStrategy<ListFields> {
    (
        of(text()),
        of(of(text())),
        of(text()),
        of(any::<bool>()),
        of(of(time())),
    )
        .prop_map(|(name, color, rank, archived, deleted_at)| ListFields {
            name,
            color,
            rank,
            archived,
            deleted_at,
        })
        .boxed()
}

fn label_fields() -> BoxedStrategy<LabelFields> {
    (of(text()), of(of(text())), of(of(time())))
        .prop_map(|(name, color, deleted_at)| LabelFields {
            name,
            color,
            deleted_at,
        })
        .boxed()
}

fn settings_fields() -> BoxedStrategy<SettingsFields> {
    (of(text()), of(week_start()), of(text()))
        .prop_map(|(time_zone, week_start, locale)| SettingsFields {
            time_zone,
            week_start,
            locale,
        })
        .boxed()
}

fn place<Id>(id: impl Strategy<Value = Id> + Clone + 'static) -> BoxedStrategy<Place<Id>>
where
    Id: std::fmt::Debug + Clone + 'static,
{
    prop_oneof![
        Just(Place::First),
        Just(Place::Last),
        id.clone().prop_map(Place::Before),
        id.prop_map(Place::After),
    ]
    .boxed()
}

fn task_create() -> BoxedStrategy<TaskCreate> {
    (
        (id(TaskId), of(id(ListId)), text(), text(), status(), priority()),
        (of(due()), of(text()), of(any::<u32>())),
        (vec(id(LabelId), 0..3), of(id(TaskId)), place(id(TaskId))),
    )
        .prop_map(
            |(
                (task, list, title, notes, status, priority),
                (due, deadline, duration_minutes),
                (labels, parent, place),
            )| {
                TaskCreate {
                    task,
                    list,
                    title,
                    notes,
                    status,
                    priority,
                    due,
                    deadline,
                    duration_minutes,
                    labels,
                    parent,
                    place,
                }
            },
        )
        .boxed()
}

fn command() -> BoxedStrategy<Command> {
    let task_ref = || id(TaskId).prop_map(|task| TaskRef { task });
    let list_ref = || id(ListId).prop_map(|list| ListRef { list });
    let label_ref = || id(LabelId).prop_map(|label| LabelRef { label });
    let leaf = prop_oneof![
        task_create().prop_map(Command::TaskCreate),
        (id(TaskId), task_fields()).prop_map(|(task, set)| Command::TaskPatch(TaskPatch { task, set })),
        (id(TaskId), of(id(ListId)), of(id(TaskId)), place(id(TaskId))).prop_map(|(task, list, parent, place)| {
            Command::TaskMove(TaskMove {
                task,
                list,
                parent,
                place,
            })
        }),
        task_ref().prop_map(Command::TaskComplete),
        task_ref().prop_map(Command::TaskReopen),
        task_ref().prop_map(Command::TaskDelete),
        task_ref().prop_map(Command::TaskRestore),
        (id(ListId), text(), of(text()), place(id(ListId))).prop_map(|(list, name, color, place)| {
            Command::ListCreate(ListCreate {
                list,
                name,
                color,
                place,
            })
        }),
        (id(ListId), list_fields()).prop_map(|(list, set)| Command::ListPatch(ListPatch { list, set })),
        (id(ListId), place(id(ListId))).prop_map(|(list, place)| Command::ListMove(ListMove { list, place })),
        list_ref().prop_map(Command::ListDelete),
        list_ref().prop_map(Command::ListRestore),
        (id(LabelId), text(), of(text()))
            .prop_map(|(label, name, color)| { Command::LabelCreate(LabelCreate { label, name, color }) }),
        (id(LabelId), label_fields()).prop_map(|(label, set)| Command::LabelPatch(LabelPatch { label, set })),
        label_ref().prop_map(Command::LabelDelete),
        label_ref().prop_map(Command::LabelRestore),
        settings_fields().prop_map(Command::SettingsPatch),
        seq().prop_map(|seq| Command::Undo(Undo { seq })),
    ];
    leaf.prop_recursive(3, 12, 4, |command| {
        vec(command, 0..4).prop_map(|commands| Command::Batch(Batch { commands }))
    })
    .boxed()
}

fn range() -> BoxedStrategy<ProtocolRange> {
    (any::<u16>(), any::<u16>())
        .prop_map(|(min, max)| ProtocolRange { min, max })
        .boxed()
}

fn follow() -> BoxedStrategy<Follow> {
    (of(id(UserId)), of(vec(id(ListId), 0..3)), of(text()), any::<bool>())
        .prop_map(|(feed, lists, cursor, statistics)| Follow {
            feed,
            lists,
            cursor,
            statistics,
        })
        .boxed()
}

fn statistics() -> BoxedStrategy<Statistics> {
    let counted = || (any::<u64>(), any::<u64>());
    let numbers = (any::<[u64; 4]>(), any::<[u32; 3]>(), of(0..4_u8));
    let status = vec((status(), any::<u64>()), 0..4);
    let priority = vec((priority(), counted()), 0..4);
    let lists = vec((id(ListId), counted()), 0..3);
    let labels = vec((id(LabelId), counted()), 0..3);
    (seq(), text(), numbers, status, priority, lists, labels)
        .prop_map(|(seq, time_zone, numbers, statuses, priorities, lists, labels)| {
            let ([tasks, open, overdue, due_today], [completed_today, completed_this_week, streak_days], rate) =
                numbers;
            let by_priority = priorities.into_iter();
            let by_list = lists.into_iter();
            let by_label = labels.into_iter();
            Statistics {
                seq,
                time_zone,
                tasks,
                open,
                overdue,
                due_today,
                by_status: statuses.into_iter().collect(),
                by_priority: by_priority
                    .map(|(priority, (tasks, open))| (priority, Counted { tasks, open }))
                    .collect(),
                by_list: by_list
                    .map(|(list, (tasks, open))| CountedList { list, tasks, open })
                    .collect(),
                by_label: by_label
                    .map(|(label, (tasks, open))| CountedLabel { label, tasks, open })
                    .collect(),
                completed_today,
                completed_this_week,
                streak_days,
                // Parts that every encoding has exactly.
                completion_rate: rate.map(|quarters| f64::from(quarters) / 4.0),
            }
        })
        .boxed()
}

fn operation() -> BoxedStrategy<Operation> {
    (id(OperationId), of(seq()), command())
        .prop_map(|(id, base, command)| Operation { id, base, command })
        .boxed()
}

fn client_message() -> BoxedStrategy<ClientMessage> {
    prop_oneof![
        (range(), of(text()), of(text()), vec(follow(), 0..3)).prop_map(|(protocol, token, client, follow)| {
            ClientMessage::Hello(Hello {
                protocol,
                token,
                client,
                follow,
            })
        }),
        (of(id(UserId)), vec(operation(), 1..4), of(text())).prop_map(|(feed, operations, traceparent)| {
            ClientMessage::Operations(Operations {
                feed,
                operations,
                traceparent,
            })
        }),
        follow().prop_map(ClientMessage::Follow),
        of(id(UserId)).prop_map(|feed| ClientMessage::Unfollow(Unfollow { feed })),
        text().prop_map(|token| ClientMessage::Refresh(Refresh { token })),
        Just(ClientMessage::Heartbeat(Empty {})),
    ]
    .boxed()
}

fn change() -> BoxedStrategy<Change> {
    prop_oneof![
        (of(id(ListId)), task()).prop_map(|(from, task)| Change::TaskPut(TaskPut { from, task })),
        (id(TaskId), id(ListId), task_fields()).prop_map(|(task, list, set)| Change::TaskSet(TaskSet {
            task,
            list,
            set
        })),
        list().prop_map(Change::ListPut),
        (id(ListId), list_fields()).prop_map(|(list, set)| Change::ListSet(ListSet { list, set })),
        label().prop_map(Change::LabelPut),
        (id(LabelId), label_fields()).prop_map(|(label, set)| Change::LabelSet(LabelSet { label, set })),
        settings_fields().prop_map(Change::SettingsSet),
    ]
    .boxed()
}

fn entry() -> BoxedStrategy<Entry> {
    (seq(), time(), id(UserId), id(OperationId), vec(change(), 0..3))
        .prop_map(|(seq, time, author, operation, changes)| Entry {
            seq,
            time,
            author,
            operation,
            changes,
        })
        .boxed()
}

fn error() -> BoxedStrategy<ErrorBody> {
    (code(), text(), text(), of(text()), of(id(UserId)), of(any::<u32>()))
        .prop_map(|(code, name, message, field, feed, retry_after_ms)| ErrorBody {
            code,
            name,
            message,
            field,
            feed,
            retry_after_ms,
        })
        .boxed()
}

fn outcome() -> BoxedStrategy<Outcome> {
    prop_oneof![
        seq().prop_map(|seq| Outcome::Accepted(Accepted { seq })),
        error().prop_map(Outcome::Refused),
        row().prop_map(|row| Outcome::Conflict(Conflict { row })),
        error().prop_map(Outcome::Unknown),
    ]
    .boxed()
}

fn left_out() -> BoxedStrategy<LeftOut> {
    prop_oneof![
        id(ListId).prop_map(LeftOut::List),
        id(TaskId).prop_map(LeftOut::Task),
        id(LabelId).prop_map(LeftOut::Label),
    ]
    .boxed()
}

fn server_message() -> BoxedStrategy<ServerMessage> {
    use FollowMode as F;
    use ResetReason as R;
    let mode = select(vec![F::UpToDate, F::Entries, F::Reset]);
    let reason = select(vec![
        R::NoCursor,
        R::EpochChanged,
        R::CursorAhead,
        R::CursorTooOld,
        R::ListsChanged,
    ]);
    prop_oneof![
        (
            (text(), range(), any::<u16>(), id(UserId), time()),
            (any::<u32>(), time(), any::<u32>(), any::<u32>(), any::<bool>())
        )
            .prop_map(
                |(
                    (build, protocol, version, user, time),
                    (heartbeat_ms, token_expires_at, message_bytes_max, operations_max, traces),
                )| {
                    ServerMessage::Welcome(Welcome {
                        build,
                        protocol,
                        version,
                        user,
                        time,
                        heartbeat_ms,
                        token_expires_at,
                        message_bytes_max,
                        operations_max,
                        traces,
                    })
                }
            ),
        (id(UserId), mode, of(reason), seq()).prop_map(|(feed, mode, reason, head)| {
            ServerMessage::Following(Following {
                feed,
                mode,
                reason,
                head,
            })
        }),
        id(UserId).prop_map(|feed| ServerMessage::Unfollowed(Unfollowed { feed })),
        (
            (id(UserId), seq(), any::<u32>(), of(settings())),
            (vec(list(), 0..3), vec(label(), 0..3), vec(task(), 0..3)),
            of(
                (text(), any::<u64>(), vec(left_out(), 0..3)).prop_map(|(cursor, rows, left_out)| SnapshotDone {
                    cursor,
                    rows,
                    left_out
                })
            ),
        )
            .prop_map(|((feed, seq, piece, settings), (lists, labels, tasks), done)| {
                ServerMessage::Snapshot(Snapshot {
                    feed,
                    seq,
                    piece,
                    settings,
                    lists,
                    labels,
                    tasks,
                    done,
                })
            }),
        (id(UserId), vec(entry(), 0..3), text())
            .prop_map(|(feed, entries, cursor)| { ServerMessage::Entries(Entries { feed, entries, cursor }) }),
        vec(
            (id(OperationId), outcome()).prop_map(|(id, outcome)| OperationResult { id, outcome }),
            0..3
        )
        .prop_map(|results| ServerMessage::Results(Results { results })),
        (id(UserId), statistics())
            .prop_map(|(feed, counts)| ServerMessage::Statistics(FeedStatistics { feed, counts })),
        time().prop_map(|token_expires_at| ServerMessage::Refreshed(Refreshed { token_expires_at })),
        proptest::option::of(time()).prop_map(|stale_since| ServerMessage::Heartbeat(Heartbeat { stale_since })),
        (any::<u32>(), any::<u32>(), code()).prop_map(|(after_ms, window_ms, code)| {
            ServerMessage::Reconnect(Reconnect {
                after_ms,
                window_ms,
                code,
            })
        }),
        error().prop_map(ServerMessage::Error),
    ]
    .boxed()
}

/// The bytes in either encoding read back, and as generic documents both are the same.
fn survives<T>(document: &T) -> Result<(), TestCaseError>
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let [json, msgpack] = [Encoding::Json, Encoding::MsgPack].map(|encoding| (encoding, encoding.encode(document)));
    for (encoding, bytes) in [&json, &msgpack] {
        for read in [encoding.decode::<T>(bytes), encoding.decode_tolerant::<T>(bytes)] {
            prop_assert_eq!(read.as_ref(), Ok(document));
        }
    }
    let generic = |(encoding, bytes): (Encoding, Vec<u8>)| encoding.decode::<serde_json::Value>(&bytes);
    prop_assert_eq!(generic(json), generic(msgpack));
    Ok(())
}

proptest! {
    #[test]
    fn any_message_of_a_client_survives_both_encodings(message in client_message()) {
        survives(&message)?;
        for encoding in [Encoding::Json, Encoding::MsgPack] {
            let decoded = encoding.decode_client(&encoding.encode(&message));
            prop_assert_eq!(decoded, Ok(Decoded::Message(message.clone())));
        }
    }

    #[test]
    fn the_ids_of_operations_are_found_without_reading_the_rest(message in client_message()) {
        let expected: Option<Vec<_>> = match &message {
            ClientMessage::Operations(operations) => {
                Some(operations.operations.iter().map(|operation| operation.id).collect())
            }
            _ => None,
        };
        for encoding in [Encoding::Json, Encoding::MsgPack] {
            let bytes = encoding.encode(&message);
            prop_assert_eq!(encoding.operation_ids(&bytes), expected.clone());
            prop_assert_eq!(encoding.operation_ids(&bytes[..bytes.len() - 1]), None);
        }
    }

    #[test]
    fn any_message_of_a_server_survives_both_encodings(message in server_message()) {
        survives(&message)?;
        for encoding in [Encoding::Json, Encoding::MsgPack] {
            let decoded = encoding.decode_server(&encoding.encode(&message));
            prop_assert_eq!(decoded, Ok(Some(message.clone())));
        }
    }

    #[test]
    fn any_row_survives_both_encodings(row in row()) {
        survives(&row)?;
    }

    /// Ids are text for people and 16 bytes for the log.
    #[test]
    fn an_id_is_text_on_the_wire_and_bytes_in_the_log(bits in any::<u128>()) {
        let id = TaskId(uuid::Uuid::from_u128(bits));
        prop_assert_eq!(id.to_string().parse(), Ok(id));
        survives(&id)?;
        let stored = rmp_serde::to_vec(&id).expect("ids serialize");
        prop_assert_eq!(stored.len(), 18);
        prop_assert_eq!(rmp_serde::from_slice::<TaskId>(&stored).expect("ids read back"), id);
    }
}

#[test]
fn no_ids_are_taken_from_a_document_that_is_too_deep() {
    let id = "0197a3c0-5555-7aaa-8000-000000000006";
    for (encoding, before, level) in [
        (
            Encoding::Json,
            format!(r#"{{"operations":{{"operations":[{{"id":"{id}","command":"#).into_bytes(),
            b'[',
        ),
        (
            Encoding::MsgPack,
            [
                b"\x81\xaaoperations\x81\xaaoperations\x91\x82\xa2id\xd9\x24",
                id.as_bytes(),
                b"\xa7command",
            ]
            .concat(),
            0x91,
        ),
    ] {
        let deep = [before, vec![level; 200_000]].concat();
        assert_eq!(encoding.operation_ids(&deep), None, "{encoding:?}");
    }
}

#[test]
fn no_ids_are_taken_from_a_list_that_is_empty_or_too_long() {
    let of = |count: usize| {
        let ids = vec![r#"{"id":"0197a3c0-5555-7aaa-8000-000000000006"}"#; count].join(",");
        format!(r#"{{"operations":{{"operations":[{ids}]}}}}"#)
    };
    for (count, expected) in [(0, None), (1, Some(1)), (100, Some(100)), (101, None), (5_000, None)] {
        let json = of(count);
        let document: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        for (encoding, bytes) in [
            (Encoding::Json, json.into_bytes()),
            (Encoding::MsgPack, Encoding::MsgPack.encode(&document)),
        ] {
            let found = encoding.operation_ids(&bytes).map(|ids| ids.len());
            assert_eq!(found, expected, "{count}, {encoding:?}");
        }
    }
}
