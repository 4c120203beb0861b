//! The contract of the ports `Store` and `Accounts`, one function a promise, for every adapter.
//!
//! A test includes this file, implements [`Bench`] for its adapter, and names it in [`store_contract!`] and
//! [`accounts_contract!`].

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use taskflow_actors::domain::Quarter;
use taskflow_actors::ports::{
    Access, Account, AccountError, Accounts, Append, AppendError, DELETING, Deletion, Device, Epoch, Head, LogRow,
    Note, Retention, RowKey, RowKind, SignIn, Store, StoredRow,
};
use taskflow_protocol::UserId;
use taskflow_protocol::values::{Seq, UnixMs};
use uuid::Uuid;

/// An adapter under test, on a store of its own.
pub trait Bench {
    /// The store.
    fn store(&self) -> Arc<dyn Store>;
    /// The accounts beside it.
    fn accounts(&self) -> Arc<dyn Accounts>;
    /// As if the process had ended and started again.
    fn reopen(&mut self);
}

/// All promises of the store, as tests.
#[macro_export]
macro_rules! store_contract {
    ($bench:expr) => {
        $crate::contract_tests! { $bench;
            a_feed_is_born_by_its_first_append
            a_feed_is_born_once
            an_append_to_a_feed_that_is_not_there_is_refused
            an_append_needs_the_present_head
            an_append_needs_the_present_epoch
            appends_in_flight_together_are_applied_in_the_order_of_the_calls
            of_appends_at_one_head_one_wins
            what_was_answered_is_there_after_a_restart
            a_read_sees_what_was_answered_before_it
            commits_come_back_as_they_were_written
            a_page_ends_at_about_the_bytes_asked_for_and_holds_at_least_one_commit
            a_cursor_inside_a_commit_gets_the_whole_commit
            at_the_head_and_above_there_is_nothing_to_read
            a_feed_that_is_not_there_is_not_found
            rows_are_stored_with_rows_upto
            of_a_row_the_highest_seq_wins
            rows_written_again_change_nothing
            rows_upto_never_goes_down
            rows_of_a_feed_that_is_not_there_are_refused
            rows_and_rows_upto_survive_a_restart_together
            activity_is_found_by_quarters
            of_a_quarter_the_highest_seq_wins
            a_load_brings_the_activity_of_the_commits_it_brings
            activity_survives_a_restart_with_rows_upto
            activity_of_two_feeds_is_apart
            a_load_brings_the_commits_that_the_rows_lack
            a_load_brings_the_commits_since_a_time
            a_reader_never_sees_a_hole_while_the_feed_is_written
            trimming_removes_what_is_old_and_moves_first
            trimming_never_cuts_above_rows_upto
            trimming_never_cuts_what_is_recent
            trimming_leaves_no_more_commits_than_asked
            trimming_leaves_no_more_bytes_than_asked
            a_feed_without_its_log_lives_on
            trimming_a_feed_that_is_not_there_finds_none
            a_removed_feed_leaves_nothing_and_does_not_come_back
            what_was_just_written_is_removed_too_and_stays_so_over_a_restart
            removing_what_is_not_there_keeps_it_from_being_born
            feeds_do_not_touch_each_other
            bodies_of_every_size_come_back
            many_feeds_at_once_are_each_whole
        }
    };
}

/// All promises of the accounts, as tests.
#[macro_export]
macro_rules! accounts_contract {
    ($bench:expr) => {
        $crate::contract_tests! { $bench;
            an_account_is_found_by_its_address
            of_two_accounts_with_one_address_one_wins
            a_sign_in_is_found_until_it_is_ended
            of_two_replacements_of_a_sign_in_one_wins
            a_sign_in_that_is_gone_is_not_replaced
            of_two_replacements_of_a_password_one_wins
            the_sign_ins_of_a_user_are_found_with_their_devices
            nobody_ends_the_sign_in_of_another
            a_sign_in_keeps_what_it_lets_do
            an_account_moves_to_another_address_and_is_found_there_alone
            of_two_moves_of_an_account_one_wins
            an_account_is_marked_for_deletion_and_may_be_kept
            a_removed_account_leaves_nothing_and_its_address_is_free
            the_history_is_read_from_the_newest_on
            accounts_and_sign_ins_survive_a_restart
        }
    };
}

/// One test for each name.
#[macro_export]
macro_rules! contract_tests {
    ($bench:expr; $($name:ident)+) => {
        $(#[tokio::test]
        async fn $name() {
            contract::$name(&mut $bench).await;
        })+
    };
}

const EPOCH: Epoch = Epoch(0xE90C);

/// A feed of this number; neighbours differ in the last byte.
pub fn feed(number: u128) -> UserId {
    UserId(Uuid::from_u128((7 << 64) + number))
}

/// A commit of one entry, whose time and body follow from its `seq`.
pub fn commit(feed: UserId, base: Seq) -> Append {
    wide(feed, base, base + 1)
}

fn wide(feed: UserId, base: Seq, last: Seq) -> Append {
    let body = Bytes::from(format!("{feed} {last}"));
    Append {
        feed,
        epoch: EPOCH,
        base,
        last,
        append_id: last * 31,
        time: time_of(last),
        body,
    }
}

fn time_of(seq: Seq) -> UnixMs {
    1_000 * seq.cast_signed()
}

/// What a commit reads back as.
pub fn read_back(append: &Append) -> LogRow {
    let Append {
        last,
        append_id,
        time,
        body,
        ..
    } = append.clone();
    LogRow {
        last,
        append_id,
        time,
        body,
    }
}

/// A task's row whose body follows from `seq`.
pub fn row(number: u8, seq: Seq) -> StoredRow {
    let key = RowKey {
        kind: RowKind::Task,
        id: [number; 16],
    };
    StoredRow {
        key,
        seq,
        body: Bytes::from(format!("row {number} at {seq}")),
    }
}

async fn grow(store: &Arc<dyn Store>, feed: UserId, from: Seq, to: Seq) {
    for base in from..to {
        assert_eq!(store.append(commit(feed, base)).await, Ok(()), "append after {base}");
    }
}

async fn lasts(store: &Arc<dyn Store>, feed: UserId, after: Seq) -> Vec<Seq> {
    let page = store
        .read_log(feed, after, usize::MAX)
        .await
        .expect("a read")
        .expect("the feed");
    page.rows.iter().map(|row| row.last).collect()
}

async fn stored_rows(store: &Arc<dyn Store>, feed: UserId) -> (Seq, Vec<StoredRow>) {
    let loaded = store.load(feed, UnixMs::MAX).await.expect("a load").expect("the feed");
    (loaded.head.rows_upto, loaded.rows)
}

fn head(seq: Seq, first: Seq, rows_upto: Seq) -> Head {
    Head {
        epoch: EPOCH,
        seq,
        first,
        rows_upto,
    }
}

pub async fn a_feed_is_born_by_its_first_append(bench: &mut impl Bench) {
    let store = bench.store();
    assert_eq!(store.head(feed(1)).await, Ok(None));
    assert_eq!(store.peek_head(feed(1)).await, Ok(None));
    assert_eq!(store.append(wide(feed(1), 0, 3)).await, Ok(()));
    assert_eq!(store.head(feed(1)).await, Ok(Some(head(3, 1, 0))));
    assert_eq!(store.peek_head(feed(1)).await, Ok(Some(head(3, 1, 0))));
}

pub async fn a_feed_is_born_once(bench: &mut impl Bench) {
    let store = bench.store();
    assert_eq!(store.append(commit(feed(1), 0)).await, Ok(()));
    let again = Append {
        epoch: Epoch(99),
        ..commit(feed(1), 0)
    };
    assert_eq!(
        store.append(again).await,
        Err(AppendError::Conflict(Some(head(1, 1, 0))))
    );
    assert_eq!(store.head(feed(1)).await, Ok(Some(head(1, 1, 0))));
}

pub async fn an_append_to_a_feed_that_is_not_there_is_refused(bench: &mut impl Bench) {
    let store = bench.store();
    assert_eq!(store.append(commit(feed(1), 5)).await, Err(AppendError::Conflict(None)));
    assert_eq!(store.head(feed(1)).await, Ok(None));
}

pub async fn an_append_needs_the_present_head(bench: &mut impl Bench) {
    let store = bench.store();
    grow(&store, feed(1), 0, 3).await;
    for base in [0, 2, 4] {
        let conflict = Err(AppendError::Conflict(Some(head(3, 1, 0))));
        assert_eq!(store.append(commit(feed(1), base)).await, conflict, "at {base}");
    }
    assert_eq!(lasts(&store, feed(1), 0).await, [1, 2, 3]);
}

pub async fn an_append_needs_the_present_epoch(bench: &mut impl Bench) {
    let store = bench.store();
    grow(&store, feed(1), 0, 2).await;
    let stranger = Append {
        epoch: Epoch(EPOCH.0 + 1),
        ..commit(feed(1), 2)
    };
    assert_eq!(
        store.append(stranger).await,
        Err(AppendError::Conflict(Some(head(2, 1, 0))))
    );
    assert_eq!(lasts(&store, feed(1), 0).await, [1, 2]);
}

pub async fn appends_in_flight_together_are_applied_in_the_order_of_the_calls(bench: &mut impl Bench) {
    let store = bench.store();
    let answers = join_all((0..100).map(|base| store.append(commit(feed(1), base)))).await;
    assert_eq!(answers, vec![Ok(()); 100]);
    assert_eq!(lasts(&store, feed(1), 0).await, (1..=100).collect::<Vec<_>>());
}

pub async fn of_appends_at_one_head_one_wins(bench: &mut impl Bench) {
    let store = bench.store();
    grow(&store, feed(1), 0, 1).await;
    for base in 1..10 {
        let rivals = (0..16).map(|append_id| Append {
            append_id,
            ..commit(feed(1), base)
        });
        let answers = join_all(rivals.map(|append| store.append(append))).await;
        let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().enumerate().partition(|(_, answer)| answer.is_ok());
        let conflict = Err(AppendError::Conflict(Some(head(base + 1, 1, 0))));
        assert_eq!(won.len(), 1, "at {base}");
        assert!(
            lost.iter().all(|(_, answer)| *answer == conflict),
            "at {base}: {lost:?}"
        );
        let page = store
            .read_log(feed(1), base, usize::MAX)
            .await
            .expect("a read")
            .expect("the feed");
        assert_eq!(
            page.rows.iter().map(|row| row.append_id).collect::<Vec<_>>(),
            [won[0].0 as u64]
        );
    }
}

pub async fn what_was_answered_is_there_after_a_restart(bench: &mut impl Bench) {
    for round in 0..5 {
        let store = bench.store();
        grow(&store, feed(1), round * 10, round * 10 + 10).await;
        drop(store);
        bench.reopen();
        let store = bench.store();
        assert_eq!(
            lasts(&store, feed(1), 0).await,
            (1..=round * 10 + 10).collect::<Vec<_>>()
        );
        assert_eq!(store.head(feed(1)).await, Ok(Some(head(round * 10 + 10, 1, 0))));
    }
}

pub async fn a_read_sees_what_was_answered_before_it(bench: &mut impl Bench) {
    let store = bench.store();
    for base in 0..60 {
        assert_eq!(store.append(commit(feed(1), base)).await, Ok(()));
        assert_eq!(store.head(feed(1)).await, Ok(Some(head(base + 1, 1, 0))));
        assert_eq!(lasts(&store, feed(1), base).await, [base + 1]);
        let loaded = store.load(feed(1), 0).await.expect("a load").expect("the feed");
        assert_eq!(loaded.log.len() as u64, base + 1);
    }
}

pub async fn commits_come_back_as_they_were_written(bench: &mut impl Bench) {
    let store = bench.store();
    let appends = [wide(feed(1), 0, 4), wide(feed(1), 4, 5), wide(feed(1), 5, 300)];
    for append in appends.clone() {
        assert_eq!(store.append(append).await, Ok(()));
    }
    let page = store
        .read_log(feed(1), 0, usize::MAX)
        .await
        .expect("a read")
        .expect("the feed");
    assert_eq!(page.head, head(300, 1, 0));
    assert_eq!(page.rows, appends.iter().map(read_back).collect::<Vec<_>>());
}

pub async fn a_page_ends_at_about_the_bytes_asked_for_and_holds_at_least_one_commit(bench: &mut impl Bench) {
    let store = bench.store();
    for base in 0..30 {
        let append = Append {
            body: Bytes::from(vec![7; 1_000]),
            ..commit(feed(1), base)
        };
        assert_eq!(store.append(append).await, Ok(()));
    }
    for (bytes_max, least, most) in [(0, 1, 1), (10, 1, 1), (3_500, 2, 4), (1_000_000, 30, 30)] {
        let page = store
            .read_log(feed(1), 0, bytes_max)
            .await
            .expect("a read")
            .expect("the feed");
        assert_eq!(page.head, head(30, 1, 0));
        assert!(
            (least..=most).contains(&page.rows.len()),
            "{} commits for {bytes_max} bytes",
            page.rows.len()
        );
    }
    // Page by page, all of it.
    let (mut at, mut pages) = (0, 0);
    while at < 30 {
        let page = store
            .read_log(feed(1), at, 2_500)
            .await
            .expect("a read")
            .expect("the feed");
        assert_eq!(page.rows.first().map(|row| row.last), Some(at + 1));
        at = page.rows.last().map_or(at, |row| row.last);
        pages += 1;
    }
    assert!((8..=30).contains(&pages), "{pages} pages");
}

pub async fn a_cursor_inside_a_commit_gets_the_whole_commit(bench: &mut impl Bench) {
    let store = bench.store();
    for append in [wide(feed(1), 0, 10), wide(feed(1), 10, 20)] {
        assert_eq!(store.append(append).await, Ok(()));
    }
    for (after, expected) in [
        (0, vec![10, 20]),
        (3, vec![10, 20]),
        (9, vec![10, 20]),
        (10, vec![20]),
        (19, vec![20]),
    ] {
        assert_eq!(lasts(&store, feed(1), after).await, expected, "after {after}");
    }
}

pub async fn at_the_head_and_above_there_is_nothing_to_read(bench: &mut impl Bench) {
    let store = bench.store();
    grow(&store, feed(1), 0, 4).await;
    for after in [4, 5, Seq::MAX] {
        let page = store
            .read_log(feed(1), after, usize::MAX)
            .await
            .expect("a read")
            .expect("the feed");
        assert_eq!((page.head, page.rows), (head(4, 1, 0), Vec::new()), "after {after}");
    }
}

pub async fn a_feed_that_is_not_there_is_not_found(bench: &mut impl Bench) {
    let store = bench.store();
    grow(&store, feed(1), 0, 1).await;
    assert_eq!(store.head(feed(2)).await, Ok(None));
    assert_eq!(store.read_log(feed(2), 0, usize::MAX).await, Ok(None));
    assert_eq!(store.load(feed(2), 0).await, Ok(None));
}

pub async fn rows_are_stored_with_rows_upto(bench: &mut impl Bench) {
    let store = bench.store();
    grow(&store, feed(1), 0, 5).await;
    let rows = vec![row(1, 2), row(2, 4)];
    assert_eq!(store.write_rows(feed(1), rows.clone(), 4).await, Ok(()));
    assert_eq!(store.head(feed(1)).await, Ok(Some(head(5, 1, 4))));
    assert_eq!(stored_rows(&store, feed(1)).await, (4, rows));
}

pub async fn of_a_row_the_highest_seq_wins(bench: &mut impl Bench) {
    let store = bench.store();
    grow(&store, feed(1), 0, 9).await;
    for seq in [5, 3, 9, 4, 8] {
        assert_eq!(
            store.write_rows(feed(1), vec![row(1, seq), row(2, 9 - seq)], 9).await,
            Ok(())
        );
    }
    assert_eq!(stored_rows(&store, feed(1)).await, (9, vec![row(1, 9), row(2, 6)]));
}

pub async fn rows_written_again_change_nothing(bench: &mut impl Bench) {
    let store = bench.store();
    grow(&store, feed(1), 0, 5).await;
    let rows: Vec<_> = (1..=5).map(|number| row(number, u64::from(number))).collect();
    for _ in 0..3 {
        assert_eq!(store.write_rows(feed(1), rows.clone(), 5).await, Ok(()));
        assert_eq!(stored_rows(&store, feed(1)).await, (5, rows.clone()));
    }
}

pub async fn rows_upto_never_goes_down(bench: &mut impl Bench) {
    let store = bench.store();
    grow(&store, feed(1), 0, 9).await;
    for (upto, expected) in [(3, 3), (7, 7), (2, 7), (0, 7), (9, 9)] {
        assert_eq!(store.write_rows(feed(1), vec![row(1, upto.max(1))], upto).await, Ok(()));
        assert_eq!(
            store.head(feed(1)).await,
            Ok(Some(head(9, 1, expected))),
            "after {upto}"
        );
    }
}

pub async fn rows_of_a_feed_that_is_not_there_are_refused(bench: &mut impl Bench) {
    let store = bench.store();
    assert_eq!(
        store.write_rows(feed(1), vec![row(1, 1)], 1).await,
        Err(AppendError::Conflict(None))
    );
    assert_eq!(store.load(feed(1), 0).await, Ok(None));
}

pub async fn rows_and_rows_upto_survive_a_restart_together(bench: &mut impl Bench) {
    let store = bench.store();
    grow(&store, feed(1), 0, 20).await;
    for upto in 1..=20 {
        assert_eq!(
            store.write_rows(feed(1), vec![row((upto % 7) as u8, upto)], upto).await,
            Ok(())
        );
    }
    drop(store);
    bench.reopen();
    let (upto, rows) = stored_rows(&bench.store(), feed(1)).await;
    // The latest writes may be lost, and then `rows_upto` with them.
    let mut expected: Vec<StoredRow> = Vec::new();
    for number in 0..7 {
        let seq = (1..=upto).rev().find(|seq| seq % 7 == u64::from(number));
        expected.extend(seq.map(|seq| row(number, seq)));
    }
    assert_eq!(rows, expected);
}

/// What was done in a quarter, as of this entry.
fn counted(quarter: Quarter, seq: Seq) -> StoredRow {
    StoredRow {
        key: quarter.key(),
        seq,
        body: Bytes::from(format!("{quarter:?} at {seq}")),
    }
}

/// The first quarter of this month after the beginning of 1970.
fn month(number: i64) -> Quarter {
    const DAYS: [i64; 4] = [0, 31, 59, 90];
    let days = DAYS[usize::try_from(number).expect("one of the first months")];
    Quarter::of(days * 24 * 3_600_000)
}

async fn activity(store: &Arc<dyn Store>, feed: UserId, from: Quarter, to: Quarter) -> Vec<StoredRow> {
    store.activity(feed, from, to).await.expect("the activity")
}

pub async fn activity_is_found_by_quarters(bench: &mut impl Bench) {
    let store = bench.store();
    grow(&store, feed(1), 0, 9).await;
    // The last of a month and the first of the next, and some with a month between them.
    let quarters = [Quarter(1), Quarter(3), Quarter(month(1).0 - 1), month(1), month(3)];
    let rows: Vec<_> = quarters
        .iter()
        .zip(2..)
        .map(|(quarter, seq)| counted(*quarter, seq))
        .collect();
    let mut shuffled = rows.clone();
    shuffled.reverse();
    assert_eq!(store.write_rows(feed(1), shuffled, 9).await, Ok(()));
    for from in 0..quarters.len() {
        for to in from..quarters.len() {
            let found = activity(&store, feed(1), quarters[from], quarters[to]).await;
            assert_eq!(found, rows[from..=to], "from {from} to {to}");
        }
    }
    assert_eq!(activity(&store, feed(1), Quarter(4), Quarter(9)).await, Vec::new());
    assert_eq!(activity(&store, feed(1), Quarter(3), Quarter(1)).await, Vec::new());
    assert_eq!(activity(&store, feed(2), Quarter(0), month(3)).await, Vec::new());
}

pub async fn of_a_quarter_the_highest_seq_wins(bench: &mut impl Bench) {
    let store = bench.store();
    grow(&store, feed(1), 0, 9).await;
    for seq in [5, 3, 9, 4, 9, 8] {
        assert_eq!(
            store.write_rows(feed(1), vec![counted(Quarter(7), seq)], 9).await,
            Ok(())
        );
    }
    assert_eq!(
        activity(&store, feed(1), Quarter(7), Quarter(7)).await,
        [counted(Quarter(7), 9)]
    );
}

pub async fn a_load_brings_the_activity_of_the_commits_it_brings(bench: &mut impl Bench) {
    const HOUR: UnixMs = 3_600_000;
    let store = bench.store();
    let at = |base: Seq| Append {
        time: HOUR * base.cast_signed(),
        ..commit(feed(1), base)
    };
    for base in 0..6 {
        assert_eq!(store.append(at(base)).await, Ok(()));
    }
    let quarter = |hour: u32| Quarter(4 * hour);
    let mut rows = vec![row(1, 3), row(2, 4)];
    rows.extend((0..4).map(|hour| counted(quarter(hour), Seq::from(hour) + 1)));
    assert_eq!(store.write_rows(feed(1), rows.clone(), 4).await, Ok(()));
    // Commits 5 and 6 are in no row yet; the others come for their ids.
    for (since, first_hour) in [(UnixMs::MAX, 4), (3 * HOUR, 3), (2 * HOUR, 2), (0, 0)] {
        let loaded = store.load(feed(1), since).await.expect("a load").expect("the feed");
        let mut expected = rows[..2].to_vec();
        expected.extend_from_slice(&rows[2 + first_hour..]);
        assert_eq!(loaded.rows, expected, "since {since}");
        assert_eq!(loaded.unreadable, Vec::new());
    }
    assert_eq!(store.write_rows(feed(1), vec![counted(quarter(5), 6)], 6).await, Ok(()));
    assert_eq!(
        stored_rows(&store, feed(1)).await,
        (6, rows[..2].to_vec()),
        "none is needed"
    );
}

pub async fn activity_survives_a_restart_with_rows_upto(bench: &mut impl Bench) {
    let store = bench.store();
    grow(&store, feed(1), 0, 20).await;
    for upto in 1..=20 {
        let rows = vec![row(1, upto), counted(Quarter(7), upto)];
        assert_eq!(store.write_rows(feed(1), rows, upto).await, Ok(()));
    }
    drop(store);
    bench.reopen();
    let store = bench.store();
    let (rows_upto, _) = stored_rows(&store, feed(1)).await;
    let found = activity(&store, feed(1), Quarter(7), Quarter(7)).await;
    let seq = found.first().map_or(0, |row| row.seq);
    assert!((rows_upto..=20).contains(&seq), "at {seq}, the rows at {rows_upto}");
}

pub async fn activity_of_two_feeds_is_apart(bench: &mut impl Bench) {
    let store = bench.store();
    for number in [1, 2] {
        grow(&store, feed(number), 0, 3).await;
        let rows = vec![counted(Quarter(8), number as Seq), row(1, 3)];
        assert_eq!(store.write_rows(feed(number), rows, 3).await, Ok(()));
    }
    for number in [1, 2] {
        let found = activity(&store, feed(number), Quarter(0), month(1)).await;
        assert_eq!(found, [counted(Quarter(8), number as Seq)]);
        assert_eq!(stored_rows(&store, feed(number)).await, (3, vec![row(1, 3)]));
    }
}

pub async fn a_load_brings_the_commits_that_the_rows_lack(bench: &mut impl Bench) {
    let store = bench.store();
    grow(&store, feed(1), 0, 20).await;
    assert_eq!(store.write_rows(feed(1), vec![row(1, 12)], 12).await, Ok(()));
    let loaded = store
        .load(feed(1), UnixMs::MAX)
        .await
        .expect("a load")
        .expect("the feed");
    assert_eq!(loaded.head, head(20, 1, 12));
    assert_eq!(loaded.rows, [row(1, 12)]);
    assert_eq!(
        loaded.log,
        (12..20)
            .map(|base| read_back(&commit(feed(1), base)))
            .collect::<Vec<_>>()
    );
}

pub async fn a_load_brings_the_commits_since_a_time(bench: &mut impl Bench) {
    let store = bench.store();
    grow(&store, feed(1), 0, 20).await;
    assert_eq!(store.write_rows(feed(1), Vec::new(), 18).await, Ok(()));
    grow(&store, feed(1), 20, 22).await;
    for (since, first) in [
        (0, 1),
        (time_of(5), 5),
        (time_of(5) + 1, 6),
        (time_of(18), 18),
        (time_of(21), 19),
    ] {
        let loaded = store.load(feed(1), since).await.expect("a load").expect("the feed");
        let lasts: Vec<Seq> = loaded.log.iter().map(|row| row.last).collect();
        assert_eq!(lasts, (first..=22).collect::<Vec<_>>(), "since {since}");
    }
}

pub async fn a_reader_never_sees_a_hole_while_the_feed_is_written(bench: &mut impl Bench) {
    const COMMITS: Seq = 400;
    let store = bench.store();
    grow(&store, feed(1), 0, 1).await;
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for base in 1..COMMITS {
                assert_eq!(store.append(commit(feed(1), base)).await, Ok(()));
                if base % 40 == 0 {
                    let rows = vec![row((base % 5) as u8, base)];
                    assert_eq!(store.write_rows(feed(1), rows, base).await, Ok(()));
                }
                if base % 100 == 0 {
                    let retention = Retention {
                        keep_since: UnixMs::MAX,
                        cut_before: time_of(base - 70),
                        ..keep_everything()
                    };
                    assert!(matches!(store.trim(feed(1), retention).await, Ok(Some(_))));
                }
            }
        }
    });
    let mut seen = 0;
    let mut cursor = 0;
    while seen < COMMITS {
        let page = store
            .read_log(feed(1), cursor, 300)
            .await
            .expect("a read")
            .expect("the feed");
        assert!(
            page.head.seq >= seen,
            "the head went back from {seen} to {}",
            page.head.seq
        );
        seen = page.head.seq;
        for row in page.rows {
            assert_eq!(row, read_back(&commit(feed(1), cursor)));
            cursor += 1;
        }
        if cursor + 1 < page.head.first {
            cursor = page.head.first - 1;
        }
        let loaded = store
            .load(feed(1), UnixMs::MAX)
            .await
            .expect("a load")
            .expect("the feed");
        let lasts: Vec<Seq> = loaded.log.iter().map(|row| row.last).collect();
        assert_eq!(lasts, (loaded.head.rows_upto + 1..=loaded.head.seq).collect::<Vec<_>>());
        assert!(loaded.rows.iter().all(|row| row.seq <= loaded.head.rows_upto));
        // The writer gets its turn on a runtime of one thread.
        tokio::task::yield_now().await;
    }
    writer.await.expect("the writer ends");
}

fn keep_everything() -> Retention {
    Retention {
        keep_since: UnixMs::MIN,
        cut_before: UnixMs::MIN,
        commits_max: u64::MAX,
        bytes_max: u64::MAX,
    }
}

async fn grown_with_rows(store: &Arc<dyn Store>, commits: Seq, rows_upto: Seq) {
    grow(store, feed(1), 0, commits).await;
    assert_eq!(store.write_rows(feed(1), Vec::new(), rows_upto).await, Ok(()));
}

pub async fn trimming_removes_what_is_old_and_moves_first(bench: &mut impl Bench) {
    let store = bench.store();
    grown_with_rows(&store, 20, 20).await;
    let retention = Retention {
        keep_since: time_of(15),
        cut_before: time_of(8),
        ..keep_everything()
    };
    assert_eq!(store.trim(feed(1), retention).await, Ok(Some(head(20, 8, 20))));
    assert_eq!(store.head(feed(1)).await, Ok(Some(head(20, 8, 20))));
    assert_eq!(lasts(&store, feed(1), 7).await, (8..=20).collect::<Vec<_>>());
    drop(store);
    bench.reopen();
    let store = bench.store();
    assert_eq!(lasts(&store, feed(1), 7).await, (8..=20).collect::<Vec<_>>());
    grow(&store, feed(1), 20, 25).await;
    assert_eq!(store.head(feed(1)).await, Ok(Some(head(25, 8, 20))));
}

pub async fn trimming_never_cuts_above_rows_upto(bench: &mut impl Bench) {
    let store = bench.store();
    grown_with_rows(&store, 20, 6).await;
    let all = Retention {
        keep_since: UnixMs::MAX,
        cut_before: UnixMs::MAX,
        commits_max: 0,
        bytes_max: 0,
    };
    assert_eq!(store.trim(feed(1), all).await, Ok(Some(head(20, 7, 6))));
    assert_eq!(lasts(&store, feed(1), 6).await, (7..=20).collect::<Vec<_>>());
}

pub async fn trimming_never_cuts_what_is_recent(bench: &mut impl Bench) {
    let store = bench.store();
    grown_with_rows(&store, 20, 20).await;
    let retention = Retention {
        keep_since: time_of(11),
        cut_before: UnixMs::MAX,
        commits_max: 0,
        bytes_max: 0,
    };
    assert_eq!(store.trim(feed(1), retention).await, Ok(Some(head(20, 11, 20))));
}

pub async fn trimming_leaves_no_more_commits_than_asked(bench: &mut impl Bench) {
    let store = bench.store();
    grown_with_rows(&store, 20, 20).await;
    let retention = Retention {
        keep_since: UnixMs::MAX,
        commits_max: 5,
        ..keep_everything()
    };
    assert_eq!(store.trim(feed(1), retention).await, Ok(Some(head(20, 16, 20))));
    assert_eq!(lasts(&store, feed(1), 15).await, (16..=20).collect::<Vec<_>>());
}

pub async fn trimming_leaves_no_more_bytes_than_asked(bench: &mut impl Bench) {
    let store = bench.store();
    for base in 0..10 {
        let append = Append {
            body: Bytes::from(vec![1; 100]),
            ..commit(feed(1), base)
        };
        assert_eq!(store.append(append).await, Ok(()));
    }
    assert_eq!(store.write_rows(feed(1), Vec::new(), 10).await, Ok(()));
    let retention = Retention {
        keep_since: UnixMs::MAX,
        bytes_max: 350,
        ..keep_everything()
    };
    assert_eq!(store.trim(feed(1), retention).await, Ok(Some(head(10, 8, 10))));
}

pub async fn a_feed_without_its_log_lives_on(bench: &mut impl Bench) {
    let store = bench.store();
    grown_with_rows(&store, 5, 5).await;
    let all = Retention {
        keep_since: UnixMs::MAX,
        cut_before: UnixMs::MAX,
        commits_max: 0,
        bytes_max: 0,
    };
    assert_eq!(store.trim(feed(1), all).await, Ok(Some(head(5, 6, 5))));
    assert_eq!(lasts(&store, feed(1), 5).await, Vec::<Seq>::new());
    drop(store);
    bench.reopen();
    let store = bench.store();
    let loaded = store.load(feed(1), 0).await.expect("a load").expect("the feed");
    assert_eq!((loaded.head, loaded.log), (head(5, 6, 5), Vec::new()));
    assert_eq!(
        store.append(commit(feed(1), 0)).await,
        Err(AppendError::Conflict(Some(head(5, 6, 5))))
    );
    grow(&store, feed(1), 5, 7).await;
    assert_eq!(lasts(&store, feed(1), 5).await, [6, 7]);
}

pub async fn trimming_a_feed_that_is_not_there_finds_none(bench: &mut impl Bench) {
    assert_eq!(bench.store().trim(feed(1), keep_everything()).await, Ok(None));
}

pub async fn feeds_do_not_touch_each_other(bench: &mut impl Bench) {
    let store = bench.store();
    let edges = [
        UserId(Uuid::nil()),
        feed(1),
        feed(2),
        feed(255),
        feed(256),
        UserId(Uuid::max()),
    ];
    for (count, id) in (1..).zip(edges) {
        grow(&store, id, 0, count).await;
        assert_eq!(store.write_rows(id, vec![row(0, 1), row(0xff, 1)], 1).await, Ok(()));
    }
    drop(store);
    bench.reopen();
    let store = bench.store();
    for (count, id) in (1..).zip(edges) {
        assert_eq!(lasts(&store, id, 0).await, (1..=count).collect::<Vec<_>>(), "{id}");
        assert_eq!(stored_rows(&store, id).await.1, [row(0, 1), row(0xff, 1)], "{id}");
    }
}

pub async fn bodies_of_every_size_come_back(bench: &mut impl Bench) {
    let store = bench.store();
    let sizes = [0, 1, 100, 3_900, 4_096, 4_097, 65_536, 1_048_576];
    let body = |size: usize| Bytes::from((0..size).map(|at| (at * 131 + size) as u8).collect::<Vec<_>>());
    for (base, size) in (0..).zip(sizes) {
        assert_eq!(
            store
                .append(Append {
                    body: body(size),
                    ..commit(feed(1), base)
                })
                .await,
            Ok(())
        );
        let key = RowKey {
            kind: RowKind::List,
            id: [base as u8; 16],
        };
        let rows = vec![StoredRow {
            key,
            seq: base + 1,
            body: body(size),
        }];
        assert_eq!(store.write_rows(feed(1), rows, base + 1).await, Ok(()));
    }
    drop(store);
    bench.reopen();
    let loaded = bench.store().load(feed(1), 0).await.expect("a load").expect("the feed");
    assert_eq!(loaded.log.len(), sizes.len());
    for ((log, stored), size) in loaded.log.iter().zip(&loaded.rows).zip(sizes) {
        assert!(log.body == body(size), "a commit of {size} bytes");
        assert!(stored.body == body(size), "a row of {size} bytes");
    }
}

pub async fn many_feeds_at_once_are_each_whole(bench: &mut impl Bench) {
    const FEEDS: u128 = 64;
    const COMMITS: Seq = 25;
    let store = bench.store();
    let writers = (0..FEEDS).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut at = 0;
            while at < COMMITS {
                // One to three in flight together.
                let together = (1 + (number as u64 + at) % 3).min(COMMITS - at);
                let appends = (at..at + together).map(|base| store.append(commit(feed(number), base)));
                assert_eq!(join_all(appends).await, vec![Ok(()); together as usize]);
                at += together;
                if at % 4 == 0 {
                    let rows = (0..3).map(|number| row(number, at)).collect();
                    assert_eq!(store.write_rows(feed(number), rows, at).await, Ok(()));
                }
            }
        })
    });
    for writer in join_all(writers).await {
        writer.expect("a writer ends");
    }
    drop(store);
    for _ in 0..2 {
        let store = bench.store();
        for number in 0..FEEDS {
            let page = store
                .read_log(feed(number), 0, usize::MAX)
                .await
                .expect("a read")
                .expect("the feed");
            let expected: Vec<_> = (0..COMMITS)
                .map(|base| read_back(&commit(feed(number), base)))
                .collect();
            assert_eq!(page.rows, expected);
            let (upto, rows) = stored_rows(&store, feed(number)).await;
            assert!(upto <= COMMITS && rows.iter().all(|row| row.seq <= upto));
        }
        drop(store);
        bench.reopen();
    }
}

fn account(email: &str, number: u128) -> Account {
    Account {
        user: feed(number),
        email: email.to_owned(),
        password_hash: format!("$argon2id$v=19${number}"),
        created_at: 1_700_000_000_000,
        deletes_at: None,
    }
}

/// A sign-in whose secrets follow from `generation`.
fn signed_in(number: u128, generation: u8) -> SignIn {
    SignIn {
        id: Uuid::from_u128(number),
        user: feed(number),
        access: Access::Owner,
        secret_hash: [generation; 32],
        previous_hash: [generation.saturating_sub(1); 32],
        rotated_at: i64::from(generation),
        expires_at: 1_000,
    }
}

fn device(number: u8) -> Device {
    Device {
        name: format!("device {number}"),
        address: format!("192.0.2.{number}"),
        created_at: i64::from(number),
    }
}

/// The sign-ins of a user, by id.
async fn of_user(accounts: &Arc<dyn Accounts>, user: UserId) -> Vec<(SignIn, Device)> {
    let mut found = accounts.sign_ins_of(user).await.expect("the sign-ins");
    found.sort_by_key(|(sign_in, _)| sign_in.id);
    found
}

pub async fn of_two_replacements_of_a_password_one_wins(bench: &mut impl Bench) {
    let accounts = bench.accounts();
    let email = || "ada@example.org".to_owned();
    let old = account(&email(), 1).password_hash;
    let rivals = |expected: &String| {
        let replace = |number| accounts.replace_password(email(), expected.clone(), format!("$argon2id$new${number}"));
        join_all((0..8).map(replace))
    };
    assert_eq!(rivals(&old).await, vec![Ok(false); 8], "there is no account");
    assert_eq!(accounts.create_account(account(&email(), 1)).await, Ok(()));
    let answers = rivals(&old).await;
    let winner = answers.iter().position(|answer| *answer == Ok(true)).expect("one wins");
    assert_eq!(
        answers.iter().filter(|answer| **answer == Ok(false)).count(),
        7,
        "{answers:?}"
    );
    drop(accounts);
    bench.reopen();
    let expected = Account {
        password_hash: format!("$argon2id$new${winner}"),
        ..account(&email(), 1)
    };
    assert_eq!(bench.accounts().account_by_email(email()).await, Ok(Some(expected)));
    // Nothing is missing, so others may come.
    let other = account("bob@example.org", 2);
    assert_eq!(bench.accounts().create_account(other).await, Ok(()));
}

pub async fn the_sign_ins_of_a_user_are_found_with_their_devices(bench: &mut impl Bench) {
    let accounts = bench.accounts();
    // Three of one user's, one of another's.
    let mine = |number| SignIn {
        user: feed(1),
        ..signed_in(number, 1)
    };
    assert_eq!(of_user(&accounts, feed(1)).await, Vec::new());
    for number in 1..=3 {
        assert_eq!(
            accounts.create_sign_in(mine(number), device(number as u8)).await,
            Ok(())
        );
    }
    assert_eq!(accounts.create_sign_in(signed_in(4, 1), device(4)).await, Ok(()));
    let expected = |number| (mine(number), device(number as u8));
    assert_eq!(
        of_user(&accounts, feed(1)).await,
        [expected(1), expected(2), expected(3)]
    );
    assert_eq!(accounts.end_sign_in(feed(1), mine(1).id).await, Ok(()));
    let renewed = SignIn {
        user: feed(1),
        ..signed_in(2, 2)
    };
    let address = || "2001:db8::7".to_owned();
    assert_eq!(
        accounts.replace_sign_in([1; 32], renewed.clone(), address()).await,
        Ok(true)
    );
    // Whose secret is another has not been there.
    let other = SignIn {
        user: feed(1),
        ..signed_in(3, 3)
    };
    assert_eq!(accounts.replace_sign_in([9; 32], other, address()).await, Ok(false));
    drop(accounts);
    bench.reopen();
    let accounts = bench.accounts();
    let seen = Device {
        address: address(),
        ..device(2)
    };
    assert_eq!(of_user(&accounts, feed(1)).await, [(renewed, seen), expected(3)]);
    assert_eq!(of_user(&accounts, feed(4)).await, [(signed_in(4, 1), device(4))]);
}

pub async fn a_removed_feed_leaves_nothing_and_does_not_come_back(bench: &mut impl Bench) {
    let store = bench.store();
    for number in [1, 2] {
        grow(&store, feed(number), 0, 30).await;
        let rows = vec![row(1, 2), row(2, 4), counted(Quarter(3), 5)];
        assert_eq!(store.write_rows(feed(number), rows, 20).await, Ok(()));
    }
    let retention = Retention {
        keep_since: UnixMs::MAX,
        cut_before: time_of(10),
        commits_max: u64::MAX,
        bytes_max: u64::MAX,
    };
    assert!(store.trim(feed(1), retention).await.is_ok());
    let other = store.load(feed(2), 0).await.expect("a load");
    for _ in 0..2 {
        assert_eq!(store.remove(feed(1), 0).await, Ok(()));
        assert_eq!(store.head(feed(1)).await, Ok(None));
        assert_eq!(store.peek_head(feed(1)).await, Ok(None));
        assert_eq!(store.read_log(feed(1), 0, usize::MAX).await, Ok(None));
        assert_eq!(store.load(feed(1), 0).await, Ok(None));
        assert_eq!(
            store.activity(feed(1), Quarter(0), Quarter(10)).await,
            Ok(Vec::new()),
            "the activity"
        );
        assert_eq!(
            store.append(commit(feed(1), 30)).await,
            Err(AppendError::Conflict(None))
        );
        assert_eq!(store.append(commit(feed(1), 0)).await, Err(AppendError::Gone));
        assert_eq!(
            store.write_rows(feed(1), vec![row(1, 20)], 20).await,
            Err(AppendError::Conflict(None))
        );
        assert_eq!(store.trim(feed(1), retention).await, Ok(None));
    }
    assert_eq!(store.load(feed(2), 0).await, Ok(other.clone()));
    drop(store);
    bench.reopen();
    let store = bench.store();
    assert_eq!(store.load(feed(1), 0).await, Ok(None));
    assert_eq!(store.append(commit(feed(1), 0)).await, Err(AppendError::Gone));
    assert_eq!(store.load(feed(2), 0).await, Ok(other));
    assert_eq!(store.append(commit(feed(2), 30)).await, Ok(()));
}

pub async fn what_was_just_written_is_removed_too_and_stays_so_over_a_restart(bench: &mut impl Bench) {
    for round in 0..5 {
        let store = bench.store();
        let (gone, kept) = (feed(round), feed(100 + round));
        // Together, so that they share what an adapter writes at once.
        let appends = (0..10).flat_map(|base| [store.append(commit(gone, base)), store.append(commit(kept, base))]);
        assert_eq!(join_all(appends).await, vec![Ok(()); 20]);
        assert_eq!(store.remove(gone, 0).await, Ok(()));
        drop(store);
        bench.reopen();
        let store = bench.store();
        assert_eq!(store.load(gone, 0).await, Ok(None));
        assert_eq!(lasts(&store, kept, 0).await, (1..=10).collect::<Vec<_>>());
        assert_eq!(store.append(commit(kept, 10)).await, Ok(()));
    }
}

pub async fn removing_what_is_not_there_keeps_it_from_being_born(bench: &mut impl Bench) {
    let store = bench.store();
    assert_eq!(store.remove(feed(1), 0).await, Ok(()));
    assert_eq!(store.append(commit(feed(1), 0)).await, Err(AppendError::Gone));
    assert_eq!(store.head(feed(1)).await, Ok(None));
    assert_eq!(store.append(commit(feed(2), 0)).await, Ok(()));
}

pub async fn a_sign_in_keeps_what_it_lets_do(bench: &mut impl Bench) {
    for (number, access) in [(1, Access::Read), (2, Access::Write), (3, Access::Owner)] {
        let accounts = bench.accounts();
        let sign_in = SignIn {
            access,
            ..signed_in(number, 1)
        };
        assert_eq!(
            accounts.create_sign_in(sign_in.clone(), device(1)).await,
            Ok(()),
            "{access:?}"
        );
        drop(accounts);
        bench.reopen();
        assert_eq!(bench.accounts().sign_in(sign_in.id).await, Ok(Some(sign_in)));
    }
}

/// An account at its address, and at no other.
async fn is_only_at(accounts: &Arc<dyn Accounts>, account: &Account, not_at: &str) {
    let here = accounts.account_by_email(account.email.clone()).await;
    assert_eq!(here, Ok(Some(account.clone())));
    assert_eq!(accounts.account_by_email(not_at.to_owned()).await, Ok(None));
}

pub async fn an_account_moves_to_another_address_and_is_found_there_alone(bench: &mut impl Bench) {
    let accounts = bench.accounts();
    let ada = account("ada@example.org", 1);
    let bob = account("bob@example.org", 2);
    let change = |from: &str, expected: &str, to: &str| {
        bench
            .accounts()
            .change_email(from.to_owned(), expected.to_owned(), to.to_owned())
    };
    let (new, hash) = ("countess@example.org", ada.password_hash.clone());
    assert_eq!(change(&ada.email, &hash, new).await, Ok(false), "there is no account");
    for account in [&ada, &bob] {
        assert_eq!(accounts.create_account(account.clone()).await, Ok(()));
    }
    assert_eq!(change(&ada.email, "another hash", new).await, Ok(false));
    let taken = change(&ada.email, &hash, &bob.email).await;
    assert_eq!(taken, Err(AccountError::EmailTaken));
    is_only_at(&accounts, &ada, new).await;
    assert_eq!(change(&ada.email, &hash, new).await, Ok(true));
    let moved = Account {
        email: new.to_owned(),
        ..ada.clone()
    };
    is_only_at(&accounts, &moved, &ada.email).await;
    // The old address is free for others, and the account may go on moving, also back.
    let carol = account(&ada.email, 3);
    assert_eq!(accounts.create_account(carol.clone()).await, Ok(()));
    assert_eq!(change(new, &hash, "lovelace@example.org").await, Ok(true));
    assert_eq!(change("lovelace@example.org", &hash, new).await, Ok(true));
    let replaced = accounts.replace_password(new.to_owned(), hash, "$new".to_owned());
    assert_eq!(replaced.await, Ok(true));
    drop(accounts);
    bench.reopen();
    let accounts = bench.accounts();
    let moved = Account {
        password_hash: "$new".to_owned(),
        ..moved
    };
    is_only_at(&accounts, &moved, "lovelace@example.org").await;
    is_only_at(&accounts, &carol, "lovelace@example.org").await;
    // Nothing is missing, so others may come.
    assert_eq!(
        accounts.create_account(account("lovelace@example.org", 4)).await,
        Ok(())
    );
}

pub async fn of_two_moves_of_an_account_one_wins(bench: &mut impl Bench) {
    let accounts = bench.accounts();
    let ada = account("ada@example.org", 1);
    assert_eq!(accounts.create_account(ada.clone()).await, Ok(()));
    let to = |number| format!("ada{number}@example.org");
    let rivals = (0..4).map(|number| accounts.change_email(ada.email.clone(), ada.password_hash.clone(), to(number)));
    let answers = join_all(rivals).await;
    let winners: Vec<usize> = (0..4).filter(|at| answers[*at] == Ok(true)).collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    assert_eq!(accounts.account_by_email(ada.email.clone()).await, Ok(None));
    for number in 0..4 {
        let found = accounts.account_by_email(to(number)).await.expect("an answer");
        assert_eq!(found.is_some(), number == winners[0], "{number}");
        // An address that was not won is free.
        let other = account(&to(number), 10 + number as u128);
        let expected = if number == winners[0] {
            Err(AccountError::EmailTaken)
        } else {
            Ok(())
        };
        assert_eq!(accounts.create_account(other).await, expected, "{number}");
    }
}

/// The users of the deletions that are due.
async fn due(accounts: &Arc<dyn Accounts>, now: UnixMs, of: &[Account]) -> Vec<Deletion> {
    let due = accounts.deletions_due(now).await.expect("an answer");
    due.into_iter()
        .filter(|due| of.iter().any(|account| account.user == due.account.user))
        .collect()
}

pub async fn an_account_is_marked_for_deletion_and_may_be_kept(bench: &mut impl Bench) {
    let accounts = bench.accounts();
    let ada = account("ada@example.org", 1);
    let (email, user) = (ada.email.clone(), ada.user);
    let set = |expected, deletes_at| bench.accounts().set_deletion(email.clone(), user, expected, deletes_at);
    assert_eq!(set(None, Some(1_000)).await, Ok(false), "there is no account");
    assert_eq!(accounts.create_account(ada.clone()).await, Ok(()));
    let stranger = accounts.set_deletion(email.clone(), feed(9), None, Some(1_000));
    assert_eq!(stranger.await, Ok(false));
    assert_eq!(set(Some(7), Some(1_000)).await, Ok(false), "it is not marked");
    assert_eq!(set(None, Some(1_000)).await, Ok(true));
    let marked = Account {
        deletes_at: Some(1_000),
        ..ada.clone()
    };
    assert_eq!(accounts.account_by_email(email.clone()).await, Ok(Some(marked.clone())));
    let all = [ada.clone()];
    assert_eq!(due(&accounts, 999, &all).await, []);
    let expected = Deletion {
        at: 1_000,
        account: marked,
    };
    assert_eq!(due(&accounts, 1_000, &all).await, [expected]);
    // Later, after all.
    assert_eq!(set(Some(1_000), Some(3_000)).await, Ok(true));
    assert_eq!(due(&accounts, 2_999, &all).await, []);
    assert_eq!(due(&accounts, 3_000, &all).await.len(), 1);
    assert_eq!(set(Some(3_000), Some(1_000)).await, Ok(true));
    assert_eq!(due(&accounts, 1_000, &all).await.len(), 1);
    // One that is to be deleted keeps its address.
    let moved = accounts.change_email(email.clone(), ada.password_hash.clone(), "new@example.org".to_owned());
    assert_eq!(moved.await, Ok(false));
    assert_eq!(accounts.account_by_email("new@example.org".to_owned()).await, Ok(None));
    assert_eq!(set(Some(1_000), None).await, Ok(true));
    assert_eq!(set(Some(1_000), None).await, Ok(false), "once");
    assert_eq!(due(&accounts, 2_000, &all).await, []);
    assert_eq!(accounts.account_by_email(email.clone()).await, Ok(Some(ada.clone())));
    // Once it is being deleted there is no way back.
    assert_eq!(set(None, Some(3_000)).await, Ok(true));
    let answers = join_all([set(Some(3_000), Some(DELETING)), set(Some(3_000), None)]).await;
    assert_eq!(
        answers.iter().filter(|answer| **answer == Ok(true)).count(),
        1,
        "{answers:?}"
    );
    drop(accounts);
    bench.reopen();
    let is_marked = answers[0] == Ok(true);
    assert_eq!(due(&bench.accounts(), 3_000, &all).await.len(), usize::from(is_marked));
}

pub async fn a_removed_account_leaves_nothing_and_its_address_is_free(bench: &mut impl Bench) {
    let accounts = bench.accounts();
    let (ada, bob) = (account("ada@example.org", 1), account("bob@example.org", 2));
    for account in [&ada, &bob] {
        assert_eq!(accounts.create_account(account.clone()).await, Ok(()));
        assert_eq!(accounts.note(account.user, noted(1)).await, Ok(()));
        let set = accounts.set_deletion(account.email.clone(), account.user, None, Some(10));
        assert_eq!(set.await, Ok(true));
    }
    for number in [1, 2] {
        assert_eq!(accounts.create_sign_in(signed_in(number, 1), device(1)).await, Ok(()));
    }
    let all = [ada.clone(), bob.clone()];
    let deletion = due(&accounts, 10, &all[..1]).await.remove(0);
    for _ in 0..2 {
        assert_eq!(accounts.remove_account(deletion.clone()).await, Ok(()));
    }
    assert_eq!(accounts.account_by_email(ada.email.clone()).await, Ok(None));
    assert_eq!(accounts.sign_in(signed_in(1, 1).id).await, Ok(None));
    assert_eq!(of_user(&accounts, ada.user).await, []);
    assert_eq!(accounts.history(ada.user, None, 10).await, Ok(Vec::new()));
    let left: Vec<_> = due(&accounts, 10, &all).await;
    assert_eq!(left.iter().map(|due| due.account.user).collect::<Vec<_>>(), [bob.user]);
    assert_eq!(of_user(&accounts, bob.user).await.len(), 1);
    assert_eq!(accounts.history(bob.user, None, 10).await, Ok(vec![noted(1)]));
    drop(accounts);
    bench.reopen();
    let accounts = bench.accounts();
    let again = account(&ada.email, 3);
    assert_eq!(accounts.create_account(again.clone()).await, Ok(()));
    // What is repeated late does not meet the next one.
    assert_eq!(accounts.remove_account(deletion).await, Ok(()));
    assert_eq!(accounts.account_by_email(ada.email).await, Ok(Some(again)));
}

/// The note of a number, a second after the one before. The clock of a database counts what is kept, so they are of now.
fn noted(number: u8) -> Note {
    let now = taskflow::clock::SystemClock;
    let day = taskflow_actors::ports::Clock::now_ms(&now) / 86_400_000 * 86_400_000;
    Note {
        at: day + 1_000 * i64::from(number / 2),
        id: Uuid::from_u128((7 << 76) + (0b10 << 62) + u128::from(number)),
        event: format!("event {number}"),
        sign_in: Uuid::from_u128(number.into()),
        address: format!("192.0.2.{number}"),
        device: "Zoë's \u{1f4f1}".to_owned(),
    }
}

pub async fn the_history_is_read_from_the_newest_on(bench: &mut impl Bench) {
    let accounts = bench.accounts();
    assert_eq!(accounts.history(feed(1), None, 10).await, Ok(Vec::new()));
    // Not in order, and two of each moment.
    for number in [3, 0, 5, 1, 4, 2] {
        assert_eq!(accounts.note(feed(1), noted(number)).await, Ok(()));
    }
    assert_eq!(accounts.note(feed(2), noted(9)).await, Ok(()));
    drop(accounts);
    bench.reopen();
    let accounts = bench.accounts();
    let all: Vec<Note> = (0..6).rev().map(noted).collect();
    assert_eq!(accounts.history(feed(1), None, 10).await, Ok(all.clone()));
    for (at, before) in all.iter().enumerate() {
        let page = accounts.history(feed(1), Some((before.at, before.id)), 2).await;
        assert_eq!(
            page,
            Ok(all.iter().skip(at + 1).take(2).cloned().collect()),
            "before {at}"
        );
    }
}

pub async fn nobody_ends_the_sign_in_of_another(bench: &mut impl Bench) {
    let accounts = bench.accounts();
    assert_eq!(accounts.create_sign_in(signed_in(1, 1), device(1)).await, Ok(()));
    assert_eq!(accounts.end_sign_in(feed(2), signed_in(1, 1).id).await, Ok(()));
    assert_eq!(of_user(&accounts, feed(1)).await, [(signed_in(1, 1), device(1))]);
}

pub async fn an_account_is_found_by_its_address(bench: &mut impl Bench) {
    let accounts = bench.accounts();
    assert_eq!(accounts.account_by_email("ada@example.org".to_owned()).await, Ok(None));
    for (number, email) in (1..).zip(["ada@example.org", "bob@example.org", "zoë@example.org"]) {
        assert_eq!(accounts.create_account(account(email, number)).await, Ok(()));
    }
    for (number, email) in (1..).zip(["ada@example.org", "bob@example.org", "zoë@example.org"]) {
        assert_eq!(
            accounts.account_by_email(email.to_owned()).await,
            Ok(Some(account(email, number)))
        );
    }
    assert_eq!(accounts.account_by_email("ad@example.org".to_owned()).await, Ok(None));
}

pub async fn of_two_accounts_with_one_address_one_wins(bench: &mut impl Bench) {
    let accounts = bench.accounts();
    let rivals = (0..8).map(|number| accounts.create_account(account("ada@example.org", number)));
    let answers = join_all(rivals).await;
    let winner = answers.iter().position(|answer| *answer == Ok(())).expect("one wins");
    for (number, answer) in answers.into_iter().enumerate() {
        let expected = if number == winner {
            Ok(())
        } else {
            Err(AccountError::EmailTaken)
        };
        assert_eq!(answer, expected, "{number}");
    }
    let found = accounts.account_by_email("ada@example.org".to_owned()).await;
    assert_eq!(found, Ok(Some(account("ada@example.org", winner as u128))));
}

pub async fn a_sign_in_is_found_until_it_is_ended(bench: &mut impl Bench) {
    let accounts = bench.accounts();
    let id = signed_in(1, 1).id;
    assert_eq!(accounts.sign_in(id).await, Ok(None));
    assert_eq!(accounts.create_sign_in(signed_in(1, 1), device(1)).await, Ok(()));
    assert_eq!(accounts.create_sign_in(signed_in(2, 1), device(1)).await, Ok(()));
    assert_eq!(accounts.sign_in(id).await, Ok(Some(signed_in(1, 1))));
    for _ in 0..2 {
        assert_eq!(accounts.end_sign_in(feed(1), id).await, Ok(()));
        assert_eq!(accounts.sign_in(id).await, Ok(None));
    }
    assert_eq!(accounts.sign_in(signed_in(2, 1).id).await, Ok(Some(signed_in(2, 1))));
}

pub async fn of_two_replacements_of_a_sign_in_one_wins(bench: &mut impl Bench) {
    let accounts = bench.accounts();
    assert_eq!(accounts.create_sign_in(signed_in(1, 1), device(1)).await, Ok(()));
    let rivals = (2..10).map(|generation| accounts.replace_sign_in([1; 32], signed_in(1, generation), String::new()));
    let answers = join_all(rivals).await;
    let winners: Vec<usize> = (0..8).filter(|at| answers[*at] == Ok(true)).collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    assert_eq!(
        answers.iter().filter(|answer| **answer == Ok(false)).count(),
        7,
        "{answers:?}"
    );
    let expected = signed_in(1, winners[0] as u8 + 2);
    assert_eq!(accounts.sign_in(expected.id).await, Ok(Some(expected)));
}

pub async fn a_sign_in_that_is_gone_is_not_replaced(bench: &mut impl Bench) {
    let accounts = bench.accounts();
    assert_eq!(
        accounts.replace_sign_in([1; 32], signed_in(1, 2), String::new()).await,
        Ok(false)
    );
    assert_eq!(accounts.sign_in(signed_in(1, 2).id).await, Ok(None));
}

pub async fn accounts_and_sign_ins_survive_a_restart(bench: &mut impl Bench) {
    for number in 0..50 {
        let accounts = bench.accounts();
        let email = format!("user{number}@example.org");
        assert_eq!(accounts.create_account(account(&email, number)).await, Ok(()));
        assert_eq!(accounts.create_sign_in(signed_in(number, 1), device(1)).await, Ok(()));
    }
    assert_eq!(
        bench
            .accounts()
            .replace_sign_in([1; 32], signed_in(7, 2), String::new())
            .await,
        Ok(true)
    );
    bench.reopen();
    let accounts = bench.accounts();
    for number in 0..50 {
        let email = format!("user{number}@example.org");
        assert_eq!(
            accounts.account_by_email(email.clone()).await,
            Ok(Some(account(&email, number)))
        );
        let generation = if number == 7 { 2 } else { 1 };
        let expected = signed_in(number, generation);
        assert_eq!(accounts.sign_in(expected.id).await, Ok(Some(expected)));
    }
}
