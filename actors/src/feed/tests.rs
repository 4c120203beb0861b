//! The component alone: messages in, effects out. No runtime.

use std::collections::HashMap;
use std::rc::Rc;

use taskflow_protocol::message::{Command, Operation, OperationResult, Outcome, TaskCreate, TaskRef, Undo};
use taskflow_protocol::values::{Priority, Status};
use taskflow_protocol::{Code, OperationId, TaskId, UserId};
use uuid::Uuid;

use super::*;
use crate::memory::{Failure, MemoryStore};
use crate::ports::Store;

const NOW: UnixMs = 1_800_000_000_000;

fn user() -> UserId {
    UserId(Uuid::from_u128(0xabc))
}

fn operation(id: u128, command: Command) -> Operation {
    Operation {
        id: OperationId(Uuid::from_u128(id)),
        base: None,
        command,
    }
}

fn create(id: u128, title: &str) -> Operation {
    let create = TaskCreate {
        task: TaskId(Uuid::from_u128(id)),
        list: None,
        title: title.to_owned(),
        notes: String::new(),
        status: Status::Todo,
        priority: Priority::None,
        due: None,
        deadline: None,
        duration_minutes: None,
        labels: Vec::new(),
        parent: None,
        place: Default::default(),
    };
    operation(id, Command::TaskCreate(create))
}

fn complete(id: u128, task: u128) -> Operation {
    operation(
        id,
        Command::TaskComplete(TaskRef {
            task: TaskId(Uuid::from_u128(task)),
        }),
    )
}

fn undo(id: u128, seq: Seq) -> Operation {
    operation(id, Command::Undo(Undo { seq }))
}

/// A feed whose effects are carried out at once by a store in memory, except where a test holds them back.
struct Harness {
    feed: Feed,
    store: Rc<MemoryStore>,
    results: HashMap<u64, Vec<OperationResult>>,
    published: Vec<Entry>,
    reports: Vec<String>,
    timers: Vec<Timer>,
    looks: Vec<(SubmissionId, Result<Seq, Code>)>,
    announced: Vec<Seq>,
    appends: usize,
    loads: usize,
    reads_back: usize,
    reads_of_head: usize,
    reads_of_entries: usize,
    trims: usize,
    next: u64,
    now: UnixMs,
}

impl Harness {
    fn new() -> Self {
        let mut harness = Self::unborn(Rc::default());
        let birth = Message::Birth {
            submission: SubmissionId(u64::MAX),
            epoch: Epoch(7),
            time_zone: "UTC".to_owned(),
            locale: "en".to_owned(),
        };
        harness.send(birth);
        harness
    }

    fn unborn(store: Rc<MemoryStore>) -> Self {
        Self {
            feed: Feed::new(user(), 100, Writers::One),
            store,
            results: HashMap::new(),
            published: Vec::new(),
            reports: Vec::new(),
            timers: Vec::new(),
            looks: Vec::new(),
            announced: Vec::new(),
            appends: 0,
            loads: 0,
            reads_back: 0,
            reads_of_head: 0,
            reads_of_entries: 0,
            trims: 0,
            next: 0,
            now: NOW,
        }
    }

    /// Two hosts of one feed, on one store.
    fn two() -> (Self, Self) {
        let born = Self::new();
        let host = |first_append_id, next| Self {
            feed: Feed::new(user(), first_append_id, Writers::Many),
            next,
            ..Self::unborn(born.store.clone())
        };
        (host(1_000, 0), host(2_000, 1_000))
    }

    /// The same store, another life of the feed.
    fn restarted(self) -> Self {
        Self {
            feed: Feed::new(user(), 9_000, Writers::One),
            now: self.now,
            next: self.next,
            ..Self::unborn(self.store)
        }
    }

    fn now_or_never<T>(future: crate::ports::BoxFuture<T>) -> T {
        use futures_util::FutureExt;
        future.now_or_never().expect("the store in memory answers at once")
    }

    fn send(&mut self, message: Message) {
        let effects = self.feed.handle(message, self.now);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Load { ids_since } => {
                    self.loads += 1;
                    let loaded = Self::now_or_never(self.store.load(user(), ids_since));
                    self.send(Message::Loaded(loaded));
                }
                Effect::Append(append) => {
                    self.appends += 1;
                    let id = append.append_id;
                    let result = Self::now_or_never(self.store.append(append));
                    self.send(Message::Appended(id, result));
                }
                Effect::ReadBack(id, after) => {
                    self.reads_back += 1;
                    let page = Self::now_or_never(self.store.read_log(user(), after, 1));
                    self.send(Message::ReadBack(id, page));
                }
                Effect::ReadHead(id) => {
                    self.reads_of_head += 1;
                    let head = Self::now_or_never(self.store.head(user()));
                    self.send(Message::HeadRead(id, head));
                }
                Effect::ReadOn(id, after) => {
                    let page = Self::now_or_never(self.store.read_log(user(), after, 1));
                    self.send(Message::ReadOn(id, page));
                }
                Effect::Look(look, may) => {
                    let seen = may.and_then(|()| self.feed.state().map(State::seq));
                    self.looks.push((look, seen));
                }
                Effect::Announce(head) => self.announced.push(head.seq),
                Effect::ReadEntry(seq) => {
                    self.reads_of_entries += 1;
                    let page = Self::now_or_never(self.store.read_log(user(), seq - 1, ENTRY_READ_BYTES));
                    self.send(Message::EntryRead(seq, page));
                }
                Effect::WriteRows { rows, upto } => {
                    let written = Self::now_or_never(self.store.write_rows(user(), rows, upto));
                    self.send(Message::RowsWritten(upto, written));
                }
                Effect::Trim(retention) => {
                    self.trims += 1;
                    let trimmed = Self::now_or_never(self.store.trim(user(), retention));
                    self.send(Message::Trimmed(trimmed));
                }
                Effect::Publish { entries, settled, .. } => {
                    self.published.extend(entries.iter().cloned());
                    self.results
                        .extend(settled.into_iter().map(|(submission, results)| (submission.0, results)));
                }
                Effect::Settled(submission, results) => drop(self.results.insert(submission.0, results)),
                Effect::After(_, timer) => self.timers.push(timer),
                Effect::Report(what) => self.reports.push(what),
            }
        }
    }

    fn submit_message(&mut self, operations: Vec<Operation>) -> (u64, Message) {
        self.next += 1;
        (
            self.next,
            Message::Submit {
                submission: SubmissionId(self.next),
                author: user(),
                operations,
                repeated: false,
                trace: None,
            },
        )
    }

    fn submit(&mut self, operations: Vec<Operation>) -> Vec<Outcome> {
        let (id, message) = self.submit_message(operations);
        self.send(message);
        self.results
            .remove(&id)
            .expect("answered")
            .into_iter()
            .map(|result| result.outcome)
            .collect()
    }

    fn ring(&mut self, timer: Timer) {
        self.timers.retain(|other| *other != timer);
        self.send(Message::Timer(timer));
    }

    fn log_length(&self) -> usize {
        Self::now_or_never(self.store.read_log(user(), 0, usize::MAX))
            .expect("readable")
            .expect("born")
            .rows
            .len()
    }
}

fn accepted(seq: Seq) -> Outcome {
    Outcome::Accepted(Accepted { seq })
}

fn codes(outcomes: &[Outcome]) -> Vec<Option<Code>> {
    let code = |outcome: &Outcome| match outcome {
        Outcome::Refused(error) | Outcome::Unknown(error) => Some(error.code),
        Outcome::Accepted(_) | Outcome::Conflict(_) => None,
    };
    outcomes.iter().map(code).collect()
}

#[test]
fn a_feed_is_born_with_its_first_commit_and_only_once() {
    let mut harness = Harness::new();
    assert_eq!(harness.results.remove(&u64::MAX), Some(Vec::new()));
    assert_eq!(harness.published.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1]);
    let mut again = harness.restarted();
    let birth = Message::Birth {
        submission: SubmissionId(1),
        epoch: Epoch(8),
        time_zone: "UTC".to_owned(),
        locale: "en".to_owned(),
    };
    again.send(birth);
    assert_eq!(again.results.remove(&1), Some(Vec::new()));
    assert_eq!(again.log_length(), 1);
}

#[test]
fn operations_on_a_feed_that_was_never_born_are_refused() {
    let mut harness = Harness::unborn(Rc::default());
    assert_eq!(codes(&harness.submit(vec![create(1, "x")])), [Some(Code::FeedNotFound)]);
}

#[test]
fn operations_made_while_an_append_is_in_flight_go_in_one_later_commit() {
    let mut harness = Harness::new();
    let (_, first) = harness.submit_message(vec![create(1, "first")]);
    let mut held = harness.feed.handle(first, NOW);
    assert!(matches!(held.as_slice(), [Effect::Append(_)]));
    for id in 2..=4 {
        let (_, more) = harness.submit_message(vec![create(id, "more")]);
        assert!(
            harness.feed.handle(more, NOW).is_empty(),
            "nothing leaves while the append is in flight"
        );
    }
    let appends_before = harness.appends;
    harness.carry_out(std::mem::take(&mut held));
    assert_eq!(harness.appends - appends_before, 2);
    assert_eq!(
        harness.log_length(),
        3,
        "birth, the first, and one commit for the other three"
    );
    assert_eq!(harness.results.len(), 5, "all four were answered, and the birth");
}

#[test]
fn a_refusal_judged_on_what_is_in_flight_waits_for_it() {
    let mut harness = Harness::new();
    let (id, both) = harness.submit_message(vec![create(1, "x"), create(1, "y")]);
    let effects = harness.feed.handle(both, NOW);
    assert!(
        matches!(effects.as_slice(), [Effect::Append(_)]),
        "no answer leaves before the append is durable"
    );
    harness.carry_out(effects);
    let outcomes: Vec<_> = harness
        .results
        .remove(&id)
        .expect("answered")
        .into_iter()
        .map(|r| r.outcome)
        .collect();
    assert_eq!(codes(&outcomes), [None, Some(Code::OperationIdReused)]);
}

#[test]
fn who_waits_for_a_store_that_stays_silent_hears_so_and_nothing_is_forgotten() {
    let mut harness = Harness::new();
    let (in_flight, first) = harness.submit_message(vec![create(1, "in flight")]);
    let effects = harness.feed.handle(first, NOW);
    let [Effect::Append(append)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    let append = append.clone();
    let (behind, second) = harness.submit_message(vec![create(2, "behind it")]);
    assert!(harness.feed.handle(second, NOW).is_empty());
    let silent = || "no answer".to_owned();
    let failed = Message::Appended(append.append_id, Err(AppendError::Unavailable(silent())));
    let mut effects = harness.feed.handle(failed, NOW);
    let read_back_failed = |effects: &[Effect]| match effects {
        [Effect::ReadBack(id, _), ..] => Message::ReadBack(*id, Err(ReadError::Unavailable(silent()))),
        other => panic!("{other:?}"),
    };
    for now in [NOW + 1, NOW + PATIENCE_MS - 1] {
        let failed = harness.feed.handle(read_back_failed(&effects), now);
        assert!(matches!(failed.as_slice(), [Effect::After(..)]), "{failed:?}");
        effects = harness.feed.handle(Message::Timer(Timer::Retry), now);
    }
    let late = NOW + PATIENCE_MS;
    let told = harness.feed.handle(read_back_failed(&effects), late);
    harness.carry_out(told);
    let mut outcomes = |id| harness.results.remove(&id).map(|results| results[0].outcome.clone());
    assert_eq!(codes(&[outcomes(in_flight).unwrap()]), [Some(Code::OutcomeUnknown)]);
    assert!(matches!(outcomes(behind), Some(Outcome::Refused(error)) if error.code == Code::FeedUnavailable));
    // It had been done, and the store speaks again.
    let done = Harness::now_or_never(harness.store.append(append));
    assert_eq!(done, Ok(()));
    harness.now = late;
    harness.ring(Timer::Retry);
    assert_eq!(harness.published.last().map(|entry| entry.seq), Some(2));
    assert_eq!(harness.submit(vec![create(1, "in flight")]), [accepted(2)]);
    assert_eq!(harness.submit(vec![create(2, "behind it")]), [accepted(3)]);
    // The next silence is measured from its own beginning.
    let (_, third) = harness.submit_message(vec![create(3, "third")]);
    let effects = harness.feed.handle(third, late);
    let [Effect::Append(append)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    let failed = Message::Appended(append.append_id, Err(AppendError::Unavailable(silent())));
    let effects = harness.feed.handle(failed, late + PATIENCE_MS);
    assert!(matches!(effects.as_slice(), [Effect::ReadBack(..)]), "{effects:?}");
}

#[test]
fn the_same_operation_gets_the_same_answer_also_after_a_restart() {
    let mut harness = Harness::new();
    assert_eq!(harness.submit(vec![create(1, "x")]), [accepted(2)]);
    assert_eq!(harness.submit(vec![create(1, "x")]), [accepted(2)]);
    let mut harness = harness.restarted();
    assert_eq!(harness.submit(vec![create(1, "x")]), [accepted(2)]);
    assert_eq!(
        codes(&harness.submit(vec![create(1, "other")])),
        [Some(Code::OperationIdReused)]
    );
    assert_eq!(harness.log_length(), 2);
}

#[test]
fn the_nil_uuid_is_no_operation_id_and_leaves_nothing_behind() {
    let mut harness = Harness::new();
    let mut nil = create(1, "x");
    nil.id = OperationId(Uuid::nil());
    let outcomes = harness.submit(vec![nil, create(2, "y")]);
    let Outcome::Refused(refused) = &outcomes[0] else {
        panic!("{outcomes:?}");
    };
    assert_eq!(
        (refused.code, refused.field.as_deref()),
        (Code::ValueInvalid, Some("id"))
    );
    assert_eq!(outcomes[1], accepted(2));
}

#[test]
fn operation_ids_are_remembered_by_author() {
    let mut harness = Harness::new();
    harness.submit(vec![create(1, "x")]);
    let other = Message::Submit {
        submission: SubmissionId(77),
        author: UserId(Uuid::from_u128(0xdef)),
        operations: vec![complete(1, 1)],
        repeated: false,
        trace: None,
    };
    harness.send(other);
    let result = harness.results.remove(&77).expect("answered");
    assert_eq!(result[0].outcome, accepted(3));
}

#[test]
fn operation_ids_are_forgotten_only_after_24_hours() {
    let mut harness = Harness::new();
    harness.submit(vec![create(1, "x")]);
    harness.now += limits::OPERATION_IDS_KEPT_MS;
    assert_eq!(harness.submit(vec![create(1, "x")]), [accepted(2)]);
    // What is older goes an hour at a time.
    harness.now += 60 * 60 * 1000;
    harness.submit(vec![create(2, "y")]);
    assert_eq!(codes(&harness.submit(vec![create(1, "x")])), [Some(Code::IdTaken)]);
}

#[test]
fn an_append_whose_answer_was_lost_is_found_and_published_once() {
    let mut harness = Harness::new();
    harness.store.fail_next([Failure::AnswerLost]);
    assert_eq!(harness.submit(vec![create(1, "x")]), [accepted(2)]);
    assert_eq!(
        (harness.appends, harness.reads_back),
        (2, 1),
        "it was read back, not appended again"
    );
    assert_eq!(
        harness.published.iter().map(|entry| entry.seq).collect::<Vec<_>>(),
        [1, 2]
    );
}

#[test]
fn an_append_that_was_lost_is_sent_again_as_it_was() {
    let mut harness = Harness::new();
    harness.store.fail_next([Failure::Lost, Failure::Lost]);
    assert_eq!(harness.submit(vec![create(1, "x")]), [accepted(2)]);
    assert_eq!((harness.appends, harness.reads_back), (4, 2));
    assert_eq!(harness.log_length(), 2);
}

#[test]
fn a_failed_read_back_repeats_the_read_and_never_the_append() {
    let mut harness = Harness::new();
    let (_, message) = harness.submit_message(vec![create(1, "x")]);
    let effects = harness.feed.handle(message, NOW);
    let [Effect::Append(append)] = effects.as_slice() else {
        panic!("one append")
    };
    let lost = Err(AppendError::Unavailable("x".to_owned()));
    let effects = harness.feed.handle(Message::Appended(append.append_id, lost), NOW);
    assert!(matches!(effects.as_slice(), [Effect::ReadBack(_, 1)]));
    let effects = harness.feed.handle(
        Message::ReadBack(ReadId(1), Err(ReadError::Unavailable("x".to_owned()))),
        NOW,
    );
    assert!(matches!(effects.as_slice(), [Effect::After(_, Timer::Retry)]));
    let effects = harness.feed.handle(Message::Timer(Timer::Retry), NOW);
    assert!(matches!(effects.as_slice(), [Effect::ReadBack(_, 1)]));
}

#[test]
fn a_late_answer_to_one_read_says_nothing_about_the_next_append() {
    let mut harness = Harness::new();
    let lost = || Err(AppendError::Unavailable("x".to_owned()));
    let (_, first) = harness.submit_message(vec![create(1, "x")]);
    let effects = harness.feed.handle(first, NOW);
    let [Effect::Append(append)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    let effects = harness.feed.handle(Message::Appended(append.append_id, lost()), NOW);
    assert!(matches!(effects.as_slice(), [Effect::ReadBack(ReadId(1), 1)]));
    // A timer that was set for something else does not make it read twice.
    let effects = harness.feed.handle(Message::Timer(Timer::Retry), NOW);
    assert!(
        !effects.iter().any(|effect| matches!(effect, Effect::ReadBack(..))),
        "{effects:?}"
    );
    let stored = Harness::now_or_never(harness.store.append(append.clone()));
    assert_eq!(stored, Ok(()));
    let found = Harness::now_or_never(harness.store.read_log(user(), 1, 1));
    harness.feed.handle(Message::ReadBack(ReadId(1), found.clone()), NOW);
    let (_, second) = harness.submit_message(vec![create(2, "y")]);
    let effects = harness.feed.handle(second, NOW);
    let [Effect::Append(append)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    let effects = harness.feed.handle(Message::Appended(append.append_id, lost()), NOW);
    assert!(matches!(effects.as_slice(), [Effect::ReadBack(ReadId(2), 2)]));
    let effects = harness.feed.handle(Message::ReadBack(ReadId(1), found), NOW);
    assert!(effects.is_empty(), "{effects:?}");
}

#[test]
fn a_load_that_failed_is_repeated_for_the_next_one_who_asks_and_not_by_itself() {
    let mut feed = Feed::new(user(), 1, Writers::One);
    let effects = feed.handle(Message::Look(SubmissionId(99)), NOW);
    assert!(matches!(effects.as_slice(), [Effect::Load { .. }]));
    let failed = Message::Loaded(Err(ReadError::Unavailable("x".to_owned())));
    let effects = feed.handle(failed, NOW);
    let [
        Effect::Report(_),
        Effect::Look(SubmissionId(99), Err(Code::FeedUnavailable)),
    ] = effects.as_slice()
    else {
        panic!("whoever looks is not left waiting: {effects:?}");
    };
    assert!(feed.is_idle());
    assert_eq!(feed.state().err(), Some(Code::FeedUnavailable));
    let effects = feed.handle(Message::Look(SubmissionId(99)), NOW);
    assert!(matches!(effects.as_slice(), [Effect::Load { .. }]));
}

#[test]
fn a_full_store_refuses_with_its_code_and_loses_nothing_before_or_after() {
    let mut harness = Harness::new();
    harness.submit(vec![create(1, "x")]);
    harness.store.fail_next([Failure::Full]);
    assert_eq!(codes(&harness.submit(vec![create(2, "y")])), [Some(Code::StoreFull)]);
    assert!(
        harness
            .feed
            .state()
            .expect("readable")
            .task(TaskId(Uuid::from_u128(1)))
            .is_some()
    );
    assert_eq!(
        harness.submit(vec![create(2, "y")]),
        [accepted(3)],
        "the same id may be sent again"
    );
}

#[test]
fn a_commit_of_another_writer_is_loaded_and_the_operations_are_judged_anew() {
    let mut harness = Harness::new();
    harness.submit(vec![create(1, "x")]);
    // Another life of the same feed commits behind this one's back.
    let mut other = Harness {
        next: 50,
        ..Harness::unborn(harness.store.clone())
    };
    assert_eq!(other.submit(vec![complete(5, 1)]), [accepted(3)]);
    assert_eq!(
        harness.submit(vec![create(6, "y"), complete(5, 1)]),
        [accepted(4), accepted(3)]
    );
    assert_eq!(harness.feed.state().expect("ready").seq(), 4);
}

#[test]
fn rows_are_written_later_together_and_a_restart_needs_the_log_only_after_them() {
    let mut harness = Harness::new();
    harness.submit(vec![create(1, "x")]);
    harness.submit(vec![complete(2, 1)]);
    assert_eq!(harness.timers, [Timer::Flush], "one timer for all of them");
    harness.ring(Timer::Flush);
    let head = Harness::now_or_never(harness.store.head(user()))
        .expect("readable")
        .expect("born");
    assert_eq!((head.seq, head.rows_upto), (3, 3));
    assert!(harness.feed.is_idle());
    harness.submit(vec![create(3, "late")]);
    let before = format!(
        "{:?}",
        harness.feed.state().expect("ready").all_tasks().collect::<Vec<_>>()
    );
    let mut harness = harness.restarted();
    harness.send(Message::Look(SubmissionId(99)));
    let after = format!(
        "{:?}",
        harness.feed.state().expect("ready").all_tasks().collect::<Vec<_>>()
    );
    assert_eq!(before, after);
    // What was replayed is written like what was done here.
    harness.ring(Timer::Flush);
    let loaded = Harness::now_or_never(harness.store.load(user(), UnixMs::MAX));
    let loaded = loaded.expect("readable").expect("born");
    assert_eq!((loaded.head.rows_upto, loaded.log.len()), (4, 0));
    let rebuilt = rebuild(user(), &loaded, |what| panic!("{what}")).expect("whole");
    assert_eq!(before, format!("{:?}", rebuilt.state.all_tasks().collect::<Vec<_>>()));
}

#[test]
fn the_log_is_cut_after_a_start_and_only_if_it_may_hold_what_can_go() {
    const DAY_MS: UnixMs = 24 * 60 * 60 * 1000;
    let mut harness = Harness::new();
    // Days since the life before, whether a trim is asked for, and the commits that are left.
    for (index, (days, trims, left)) in (1..).zip([(0, 0, 2), (0, 0, 3), (2, 1, 4), (0, 1, 5), (91, 1, 1), (0, 0, 2)]) {
        harness.now += days * DAY_MS;
        harness.submit(vec![create(index, "x")]);
        harness.ring(Timer::Flush);
        assert_eq!((harness.trims, harness.log_length()), (trims, left), "life {index}");
        harness = harness.restarted();
    }
    // Old, and no rows were ever written: all of it comes with the load.
    let mut harness = Harness::new();
    harness.submit(vec![create(100, "x")]);
    harness.now += 91 * DAY_MS;
    let mut harness = harness.restarted();
    harness.submit(vec![create(101, "x")]);
    harness.ring(Timer::Flush);
    assert_eq!((harness.trims, harness.log_length()), (1, 1));
}

#[test]
fn an_old_entry_is_read_from_the_log_to_be_undone() {
    let mut harness = Harness::new();
    harness.submit(vec![create(1, "x")]);
    for id in 2..2 + RECENT_ENTRIES_MAX as u128 + 5 {
        harness.submit(vec![create(id, "more")]);
    }
    let head = harness.feed.state().expect("ready").seq();
    // What waits behind the undo is judged after it.
    assert_eq!(
        harness.submit(vec![undo(900, 2), complete(901, 1)])[0],
        accepted(head + 1)
    );
    assert!(
        harness
            .feed
            .state()
            .expect("ready")
            .task(TaskId(Uuid::from_u128(1)))
            .expect("kept")
            .deleted_at
            .is_some()
    );
    assert_eq!(codes(&harness.submit(vec![undo(902, 10_000)])), [Some(Code::UndoGone)]);
}

#[test]
fn an_entry_that_does_not_decode_is_a_wall() {
    let mut harness = Harness::new();
    harness.submit(vec![create(1, "x")]);
    let append = Append {
        feed: user(),
        epoch: Epoch(7),
        base: 2,
        last: 3,
        append_id: 1,
        time: NOW,
        body: Bytes::from_static(b"\x01garbage"),
    };
    Harness::now_or_never(harness.store.append(append)).expect("appended");
    let mut harness = harness.restarted();
    assert_eq!(codes(&harness.submit(vec![create(2, "y")])), [Some(Code::FeedDamaged)]);
    assert!(harness.reports[0].contains("commit at 3"), "{:?}", harness.reports);
}

#[test]
fn times_never_go_back_within_a_feed() {
    let mut harness = Harness::new();
    harness.now = NOW + 5_000;
    harness.submit(vec![create(1, "x")]);
    harness.now = NOW - 5_000;
    harness.submit(vec![create(2, "y")]);
    let times: Vec<_> = harness.published.iter().map(|entry| entry.time - NOW).collect();
    assert_eq!(times, [0, 5_000, 5_000]);
    let mut harness = harness.restarted();
    harness.now = NOW - 9_000;
    harness.submit(vec![create(3, "z")]);
    assert_eq!(harness.published[0].time - NOW, 5_000);
}

#[test]
fn operations_that_do_not_fit_in_one_commit_go_in_the_next() {
    let mut harness = Harness::new();
    let long = "n".repeat(limits::NOTES_BYTES_MAX);
    let operations = (1..=60).map(|id| {
        let mut operation = create(id, "long");
        if let Command::TaskCreate(create) = &mut operation.command {
            create.notes.clone_from(&long);
        }
        operation
    });
    let outcomes = harness.submit(operations.collect());
    assert_eq!(outcomes, (2..=61).map(accepted).collect::<Vec<_>>());
    let rows = Harness::now_or_never(harness.store.read_log(user(), 0, usize::MAX))
        .expect("readable")
        .expect("born")
        .rows;
    assert!(rows.iter().all(|row| row.body.len() <= limits::COMMIT_BYTES_MAX));
    assert!(rows.len() > 3, "{}", rows.len());
}

/// Submits what another copy may still be under way of.
fn repeat(harness: &mut Harness, operations: Vec<Operation>) -> Vec<Outcome> {
    let (id, message) = harness.submit_message(operations);
    let Message::Submit {
        submission,
        author,
        operations,
        ..
    } = message
    else {
        panic!("a submission")
    };
    harness.send(Message::Submit {
        submission,
        author,
        operations,
        repeated: true,
        trace: None,
    });
    let results = harness.results.remove(&id).expect("answered");
    results.into_iter().map(|result| result.outcome).collect()
}

mod two_hosts {
    use super::*;

    #[test]
    fn each_takes_in_what_the_other_did_without_a_new_load() {
        let (mut one, mut other) = Harness::two();
        for round in 0..10 {
            let seq = 2 * round + 2;
            assert_eq!(one.submit(vec![create(seq.into(), "one")]), [accepted(seq)]);
            assert_eq!(
                other.submit(vec![create((seq + 1).into(), "other")]),
                [accepted(seq + 1)]
            );
        }
        assert_eq!((one.loads, other.loads), (1, 1));
        assert_eq!(one.announced, [1], "who starts says how far the feed is");
    }

    #[test]
    fn an_operation_that_the_other_accepted_is_answered_as_accepted() {
        let (mut one, mut other) = Harness::two();
        one.submit(vec![create(1, "x")]);
        assert_eq!(other.submit(vec![complete(5, 1)]), [accepted(3)]);
        assert_eq!(one.submit(vec![complete(5, 1)]), [accepted(3)], "found by its id");
    }

    #[test]
    fn a_refusal_leaves_only_when_the_head_is_the_stores() {
        let (mut one, mut other) = Harness::two();
        assert_eq!(codes(&one.submit(vec![complete(9, 1)])), [Some(Code::RowNotFound)]);
        assert_eq!(one.reads_of_head, 1);
        other.submit(vec![create(1, "x")]);
        assert_eq!(
            one.submit(vec![complete(5, 1)]),
            [accepted(3)],
            "the task is there by now"
        );
    }

    #[test]
    fn a_refusal_waits_for_a_store_that_does_not_answer() {
        let (mut one, _) = Harness::two();
        one.submit(vec![create(1, "x")]);
        let (_, message) = one.submit_message(vec![complete(5, 7)]);
        let effects = one.feed.handle(message, NOW);
        assert!(matches!(effects.as_slice(), [Effect::ReadHead(_)]), "{effects:?}");
        let failed = Message::HeadRead(ReadId(1), Err(ReadError::Unavailable("x".to_owned())));
        let effects = one.feed.handle(failed, NOW);
        assert!(
            matches!(effects.as_slice(), [Effect::After(_, Timer::Retry)]),
            "{effects:?}"
        );
        let effects = one.feed.handle(Message::Timer(Timer::Retry), NOW);
        let [Effect::ReadHead(read)] = effects.as_slice() else {
            panic!("{effects:?}")
        };
        assert!(!one.feed.is_idle());
        // Nobody waits for ever.
        let failed = Message::HeadRead(*read, Err(ReadError::Unavailable("planted".to_owned())));
        let effects = one.feed.handle(failed, NOW + PATIENCE_MS);
        assert!(
            matches!(effects.as_slice(), [Effect::Settled(_, results)]
                if codes(&[results[0].outcome.clone()]) == [Some(Code::FeedUnavailable)]),
            "{effects:?}"
        );
        assert!(!one.feed.checking, "nothing is asked any more");
        // Who comes an hour later waits as long.
        let late = NOW + 3_600_000;
        let (_, refused) = one.submit_message(vec![complete(6, 9)]);
        let effects = one.feed.handle(refused, late);
        let [Effect::ReadHead(read)] = effects.as_slice() else {
            panic!("{effects:?}")
        };
        let failed = Message::HeadRead(*read, Err(ReadError::Unavailable("planted".to_owned())));
        let effects = one.feed.handle(failed, late);
        assert!(matches!(effects.as_slice(), [Effect::After(..)]), "{effects:?}");
    }

    #[test]
    fn a_look_sees_what_the_other_had_answered_before() {
        let (mut one, mut other) = Harness::two();
        one.submit(vec![create(1, "x")]);
        other.submit(vec![create(2, "y")]);
        one.send(Message::Look(SubmissionId(70)));
        assert_eq!(one.looks, [(SubmissionId(70), Ok(3))]);
        assert_eq!(one.loads, 1);
    }

    #[test]
    fn looks_ride_on_an_append_that_began_after_them() {
        let (mut one, _) = Harness::two();
        one.submit(vec![create(1, "x")]);
        let (_, first) = one.submit_message(vec![create(2, "y")]);
        let held = one.feed.handle(first, NOW);
        assert!(
            one.feed.handle(Message::Look(SubmissionId(70)), NOW).is_empty(),
            "the append began before"
        );
        let (_, second) = one.submit_message(vec![create(3, "z")]);
        assert!(one.feed.handle(second, NOW).is_empty());
        one.carry_out(held);
        assert_eq!(one.looks, [(SubmissionId(70), Ok(4))]);
        assert_eq!(one.reads_of_head, 0);
    }

    #[test]
    fn a_refusal_of_a_repeat_is_final_on_every_host_and_after_every_restart() {
        let (mut one, mut other) = Harness::two();
        assert_eq!(
            codes(&repeat(&mut one, vec![complete(5, 1)])),
            [Some(Code::RowNotFound)]
        );
        // By now it could be done, and the first copy arrives at last.
        one.submit(vec![create(1, "x")]);
        assert_eq!(codes(&other.submit(vec![complete(5, 1)])), [Some(Code::RowNotFound)]);
        assert_eq!(codes(&one.submit(vec![complete(5, 1)])), [Some(Code::RowNotFound)]);
        let mut later = one.restarted();
        assert_eq!(codes(&later.submit(vec![complete(5, 1)])), [Some(Code::RowNotFound)]);
        let refused = &later.feed.recent[1];
        assert!(refused.changes.is_empty() && refused.refused.is_some());
        assert!(
            refused.wire().operation.0.is_nil(),
            "no client may take it for accepted"
        );
    }

    #[test]
    fn a_repeat_that_the_store_keeps_from_being_judged_is_unknown() {
        let (mut one, _) = Harness::two();
        one.submit(vec![create(1, "x")]);
        one.store.fail_next([Failure::Full]);
        assert_eq!(
            codes(&repeat(&mut one, vec![complete(5, 1)])),
            [Some(Code::OutcomeUnknown)]
        );
    }

    #[test]
    fn a_feed_that_another_node_gave_birth_to_is_found() {
        let store = Rc::new(MemoryStore::default());
        let host = |first| Harness {
            feed: Feed::new(user(), first, Writers::Many),
            ..Harness::unborn(store.clone())
        };
        let (mut one, mut other) = (host(1), host(2));
        assert_eq!(codes(&one.submit(vec![create(1, "x")])), [Some(Code::FeedNotFound)]);
        one.send(Message::Look(SubmissionId(70)));
        assert_eq!(one.looks, [(SubmissionId(70), Err(Code::FeedNotFound))]);
        other.send(Message::Birth {
            submission: SubmissionId(90),
            epoch: Epoch(7),
            time_zone: "UTC".to_owned(),
            locale: "en".to_owned(),
        });
        assert_eq!(one.submit(vec![create(1, "x")]), [accepted(2)]);
    }

    #[test]
    fn who_only_reads_writes_no_rows_and_may_stop() {
        let (mut one, mut other) = Harness::two();
        one.submit(vec![create(1, "x")]);
        one.ring(Timer::Flush);
        other.send(Message::Look(SubmissionId(70)));
        one.submit(vec![create(2, "y")]);
        other.send(Message::Look(SubmissionId(71)));
        assert_eq!(other.looks.len(), 2);
        assert!(other.timers.is_empty() && other.feed.is_idle());
    }
}

/// Operations that are sent again, and those that have the fingerprint of another.
mod older_entries {
    use super::*;

    /// After so many the ones before them are no longer in memory.
    fn go_on(harness: &mut Harness) -> Seq {
        for id in 0..RECENT_ENTRIES_MAX as u128 {
            harness.submit(vec![create(10_000 + id, "more")]);
        }
        harness.feed.state().expect("ready").seq()
    }

    /// A task with so long notes that its commit is a page of its own.
    fn long(id: u128) -> Operation {
        let mut operation = create(id, "long");
        if let Command::TaskCreate(create) = &mut operation.command {
            create.notes = "n".repeat(ENTRY_READ_BYTES + 1);
        }
        operation
    }

    /// As if this operation had the fingerprint of the one at `seq`.
    fn collide(harness: &mut Harness, id: u128, seq: Seq) {
        let mut entry = harness.published[usize::try_from(seq).unwrap() - 1].clone();
        assert_eq!(entry.seq, seq);
        (entry.author, entry.operation) = (user(), OperationId(Uuid::from_u128(id)));
        harness.feed.answers.insert(&entry);
    }

    /// The one read of the log that is asked for.
    #[track_caller]
    fn asked(effects: &[Effect]) -> Seq {
        match effects {
            [Effect::ReadEntry(seq)] => *seq,
            other => panic!("{other:?}"),
        }
    }

    fn page(harness: &Harness, seq: Seq) -> Result<Option<LogPage>, ReadError> {
        Harness::now_or_never(harness.store.read_log(user(), seq - 1, ENTRY_READ_BYTES))
    }

    fn outcomes(harness: &mut Harness, id: u64) -> Vec<Outcome> {
        let results = harness.results.remove(&id).expect("answered");
        results.into_iter().map(|result| result.outcome).collect()
    }

    #[test]
    fn the_same_operation_gets_the_same_answer_after_one_read_of_the_log() {
        let mut harness = Harness::new();
        harness.submit(vec![create(1, "x")]);
        assert_eq!(
            codes(&repeat(&mut harness, vec![complete(5, 77)])),
            [Some(Code::RowNotFound)]
        );
        harness.submit(vec![create(77, "by now it could be done")]);
        let head = go_on(&mut harness);
        for round in 0..2 {
            assert_eq!(harness.submit(vec![create(1, "x")]), [accepted(2)]);
            assert_eq!(harness.reads_of_entries, 3 * round + 1);
            let other_body = harness.submit(vec![create(1, "other")]);
            assert_eq!(codes(&other_body), [Some(Code::OperationIdReused)]);
            let refused_before = harness.submit(vec![complete(5, 77)]);
            assert_eq!(codes(&refused_before), [Some(Code::RowNotFound)]);
            if round == 0 {
                harness = Harness {
                    reads_of_entries: 3,
                    ..harness.restarted()
                };
            }
        }
        assert_eq!(
            harness.feed.state().expect("ready").seq(),
            head,
            "nothing was done again"
        );
    }

    #[test]
    fn what_was_sent_together_and_is_sent_again_takes_one_read() {
        let mut harness = Harness::new();
        // So many fit on a page.
        let count = ENTRY_READ_BYTES as u128 / 512;
        let operations: Vec<_> = (1..=count).map(|id| create(id, "x")).collect();
        for operation in &operations {
            harness.submit(vec![operation.clone()]);
        }
        let head = go_on(&mut harness);
        // One that is new is among them, and the last one too: they go in one commit.
        let again = [&[create(901, "new")][..], &operations[..], &[create(902, "new")]].concat();
        let appends = harness.appends;
        let mut expected: Vec<_> = (2..).take(operations.len()).map(accepted).collect();
        expected.insert(0, accepted(head + 1));
        expected.push(accepted(head + 2));
        assert_eq!(harness.submit(again), expected);
        assert_eq!((harness.reads_of_entries, harness.appends - appends), (1, 2));
        assert!(harness.feed.fetched.is_empty(), "nothing that was read stays");
    }

    #[test]
    fn an_operation_with_the_fingerprint_of_another_is_new() {
        let mut harness = Harness::new();
        harness.submit(vec![create(1, "x")]);
        let head = go_on(&mut harness);
        collide(&mut harness, 700, 2);
        collide(&mut harness, 701, head);
        assert_eq!(harness.submit(vec![create(700, "y")]), [accepted(head + 1)]);
        assert_eq!(harness.reads_of_entries, 1);
        assert_eq!(harness.submit(vec![create(701, "z")]), [accepted(head + 2)]);
        assert_eq!(harness.reads_of_entries, 1, "the newest are in memory");
        assert_eq!(harness.submit(vec![create(700, "y")]), [accepted(head + 1)]);
        assert_eq!(harness.submit(vec![create(1, "x")]), [accepted(2)]);
        // Also where the other has the same id: it is that of another author.
        let author = UserId(Uuid::from_u128(0xdef));
        harness.send(Message::Submit {
            submission: SubmissionId(77),
            author,
            operations: vec![create(702, "of another")],
            repeated: false,
            trace: None,
        });
        assert_eq!(outcomes(&mut harness, 77), [accepted(head + 3)]);
        collide(&mut harness, 702, head + 3);
        let own = harness.submit(vec![create(702, "of another")]);
        assert_eq!(codes(&own), [Some(Code::IdTaken)]);
    }

    #[test]
    fn entries_of_several_pages_are_kept_until_the_operation_is_judged() {
        let mut harness = Harness::new();
        let places = [2, 3, 4];
        for seq in places {
            harness.submit(vec![long(seq.into())]);
        }
        let head = go_on(&mut harness);
        for seq in places {
            collide(&mut harness, 700, seq);
        }
        // One of them cannot be read: what was read before it is not kept for nobody.
        let (_, message) = harness.submit_message(vec![create(700, "y")]);
        let seq = asked(&harness.feed.handle(message, NOW));
        let page_of_first = page(&harness, seq);
        let seq = asked(&harness.feed.handle(Message::EntryRead(seq, page_of_first), NOW));
        assert!(!harness.feed.fetched.is_empty());
        let failed = Err(ReadError::Unavailable("planted".to_owned()));
        harness.feed.handle(Message::EntryRead(seq, failed), NOW);
        assert!(harness.feed.fetched.is_empty());
        // All of them can.
        let (id, message) = harness.submit_message(vec![create(700, "y")]);
        let mut effects = harness.feed.handle(message, NOW);
        let mut read = BTreeSet::new();
        for _ in places {
            let seq = asked(&effects);
            assert!(read.insert(seq), "{seq} is read again");
            let page = page(&harness, seq);
            effects = harness.feed.handle(Message::EntryRead(seq, page), NOW);
        }
        assert!(matches!(effects.as_slice(), [Effect::Append(_)]), "{effects:?}");
        harness.carry_out(effects);
        assert_eq!(outcomes(&mut harness, id), [accepted(head + 1)]);
        assert!(harness.feed.fetched.is_empty());
    }

    #[test]
    fn a_read_that_fails_refuses_and_a_repeat_is_unknown() {
        let mut harness = Harness::new();
        harness.submit(vec![create(1, "x")]);
        let head = go_on(&mut harness);
        for (repeated, code) in [(false, Code::StoreUnavailable), (true, Code::OutcomeUnknown)] {
            let (id, mut message) = harness.submit_message(vec![create(1, "x"), create(900, "behind it")]);
            if let Message::Submit { repeated: of, .. } = &mut message {
                *of = repeated;
            }
            let effects = harness.feed.handle(message, NOW);
            assert_eq!(asked(&effects), 2);
            let failed = Err(ReadError::Unavailable("planted".to_owned()));
            let effects = harness.feed.handle(Message::EntryRead(2, failed), NOW);
            harness.carry_out(effects);
            assert_eq!(codes(&outcomes(&mut harness, id)), [Some(code), Some(code)]);
            assert_eq!(harness.reports.len(), 1);
            harness.reports.clear();
            assert!(harness.feed.fetched.is_empty());
        }
        let again = harness.submit(vec![create(1, "x"), create(900, "behind it")]);
        assert_eq!(again, [accepted(2), accepted(head + 1)]);
    }

    #[test]
    fn an_entry_that_should_be_there_and_is_not_is_not_taken_for_one_that_was_never_made() {
        let mut harness = Harness::new();
        harness.submit(vec![create(1, "x")]);
        go_on(&mut harness);
        let whole = page(&harness, 2).expect("readable").expect("born");
        let mut without = whole.clone();
        without.rows.remove(0);
        let mut garbage = whole.clone();
        garbage.rows[0].body = Bytes::from_static(b"\x01garbage");
        for (page, problem) in [(without, "entry 2 is missing"), (garbage, "commit at 2")] {
            let (id, message) = harness.submit_message(vec![create(1, "x")]);
            assert_eq!(asked(&harness.feed.handle(message, NOW)), 2);
            let effects = harness.feed.handle(Message::EntryRead(2, Ok(Some(page))), NOW);
            harness.carry_out(effects);
            assert_eq!(codes(&outcomes(&mut harness, id)), [Some(Code::StoreUnavailable)]);
            let reported = harness.reports.pop().expect("reported");
            assert!(reported.contains(problem), "{reported}");
        }
        // Something else on the page is of no matter.
        let mut behind = whole;
        behind.rows[1].body = Bytes::from_static(b"\x01garbage");
        let (id, message) = harness.submit_message(vec![create(1, "x")]);
        assert_eq!(asked(&harness.feed.handle(message, NOW)), 2);
        let effects = harness.feed.handle(Message::EntryRead(2, Ok(Some(behind))), NOW);
        harness.carry_out(effects);
        assert_eq!(outcomes(&mut harness, id), [accepted(2)]);
        assert!(harness.reports.is_empty());
    }

    #[test]
    fn what_another_host_has_cut_from_the_log_is_no_longer_remembered() {
        let mut harness = Harness::new();
        harness.submit(vec![create(1, "x")]);
        let head = go_on(&mut harness);
        harness.ring(Timer::Flush);
        let trimmed = Harness::now_or_never(harness.store.trim(
            user(),
            Retention {
                keep_since: NOW + 1,
                cut_before: NOW + 1,
                commits_max: 0,
                bytes_max: 0,
            },
        ));
        assert_eq!(trimmed.map(|head| head.map(|head| head.first)), Ok(Some(head + 1)));
        assert_eq!(codes(&harness.submit(vec![undo(900, 2)])), [Some(Code::UndoGone)]);
        assert_eq!(codes(&harness.submit(vec![create(1, "x")])), [Some(Code::IdTaken)]);
        assert_eq!(harness.reads_of_entries, 1, "from then on it is known");
        assert!(harness.reports.is_empty());
    }

    /// Another history of the same feed, as after a restore: it has the operation 700, there.
    fn another_history(seq: Seq) -> Rc<MemoryStore> {
        let mut other = Harness::unborn(Rc::default());
        other.send(Message::Birth {
            submission: SubmissionId(1),
            epoch: Epoch(8),
            time_zone: "UTC".to_owned(),
            locale: "en".to_owned(),
        });
        for before in 2..seq {
            other.submit(vec![create(600 + u128::from(before), "before")]);
        }
        assert_eq!(other.submit(vec![create(700, "y")]), [accepted(seq)]);
        go_on(&mut other);
        other.store
    }

    #[test]
    fn what_was_read_of_another_history_is_thrown_away_with_it() {
        let mut harness = Harness::new();
        let places = [2, 3];
        for seq in places {
            harness.submit(vec![long(seq.into())]);
        }
        go_on(&mut harness);
        for seq in places {
            collide(&mut harness, 700, seq);
        }
        let (id, message) = harness.submit_message(vec![create(700, "y")]);
        let effects = harness.feed.handle(message, NOW);
        let first = asked(&effects);
        let old = page(&harness, first);
        let effects = harness.feed.handle(Message::EntryRead(first, old), NOW);
        let second = asked(&effects);
        assert_ne!(first, second);
        harness.store = another_history(first);
        harness.carry_out(effects);
        assert_eq!(outcomes(&mut harness, id), [accepted(first)]);
        assert_eq!(harness.loads, 2);
    }

    #[test]
    fn a_read_of_the_history_before_says_nothing_of_the_present_one() {
        let mut harness = Harness::new();
        harness.submit(vec![create(1, "x")]);
        go_on(&mut harness);
        collide(&mut harness, 700, 2);
        let (id, message) = harness.submit_message(vec![create(700, "y")]);
        assert_eq!(asked(&harness.feed.handle(message, NOW)), 2);
        let late = page(&harness, 2);
        // Meanwhile the feed is loaded anew.
        harness.store = another_history(2);
        harness.send(Message::Removed);
        harness.send(Message::Look(SubmissionId(99)));
        assert_eq!(harness.looks, [(SubmissionId(99), Ok(2 + RECENT_ENTRIES_MAX as Seq))]);
        harness.send(Message::EntryRead(2, late));
        assert_eq!(outcomes(&mut harness, id), [accepted(2)]);
    }

    #[test]
    fn a_feed_that_is_gone_when_an_entry_is_read_is_not_found() {
        let mut harness = Harness::new();
        harness.submit(vec![create(1, "x")]);
        go_on(&mut harness);
        Harness::now_or_never(harness.store.remove(user(), 0)).expect("removed");
        assert_eq!(codes(&harness.submit(vec![create(1, "x")])), [Some(Code::FeedNotFound)]);
    }

    #[test]
    fn another_history_that_is_met_while_the_head_is_being_read_is_left_to_that() {
        let (mut harness, _) = Harness::two();
        harness.submit(vec![create(1, "x")]);
        go_on(&mut harness);
        let seen = harness.reads_of_head;
        // The refusal waits for the head.
        let (id, message) = harness.submit_message(vec![complete(900, 77), create(1, "x")]);
        let effects = harness.feed.handle(message, NOW);
        let [Effect::ReadEntry(2), Effect::ReadHead(_)] = effects.as_slice() else {
            panic!("{effects:?}");
        };
        harness.store = another_history(2);
        harness.carry_out(effects);
        let outcomes = outcomes(&mut harness, id);
        assert_eq!(codes(&outcomes), [Some(Code::RowNotFound), None]);
        assert_eq!((harness.loads, harness.reads_of_head - seen), (2, 1));
    }
}
