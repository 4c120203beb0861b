//! A load on a store whose every byte follows from feed and `seq`, and the check of what is left of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use taskflow::store::embedded::{self, Embedded, OpenError, Options};
use taskflow_actors::ports::{
    Account, AccountError, Accounts as _, Append, AppendError, Epoch, LogRow, ReadError, Retention, RowKey, RowKind,
    Store as _, StoredRow,
};
use taskflow_protocol::UserId;
use taskflow_protocol::values::{Seq, UnixMs};
use uuid::Uuid;

/// Feeds of a load.
pub const FEEDS: u64 = 6;

pub fn feed(number: u64) -> UserId {
    UserId(Uuid::from_u128(u128::from(number + 1) << 100))
}

/// The one commit that this load ever makes at this place.
pub fn commit(number: u64, base: Seq) -> Append {
    let mut random = StdRng::seed_from_u64(number * 1_000_003 + base);
    let length = if random.random_bool(0.05) {
        9_000
    } else {
        random.random_range(10..600)
    };
    let body: Vec<u8> = (0..length).map(|_| random.random()).collect();
    Append {
        feed: feed(number),
        epoch: Epoch(number),
        base,
        last: base + 1,
        append_id: random.random(),
        time: 10 * base.cast_signed(),
        body: Bytes::from(body),
    }
}

fn row(number: u64, id: u8, seq: Seq) -> StoredRow {
    let mut random = StdRng::seed_from_u64(number ^ (seq << 20) ^ u64::from(id));
    let body: Vec<u8> = (0..random.random_range(10..500)).map(|_| random.random()).collect();
    StoredRow {
        key: RowKey {
            kind: RowKind::Task,
            id: [id; 16],
        },
        seq,
        body: Bytes::from(body),
    }
}

/// Rows are written three at a time, all at the same `seq`: so the rows of any moment follow from `rows_upto`.
pub fn rows(number: u64, seq: Seq) -> Vec<StoredRow> {
    (0..3).map(|id| row(number, id, seq)).collect()
}

fn account(number: u64, count: u64) -> Account {
    Account {
        user: feed(number),
        email: format!("user{number}.{count}@example.org"),
        password_hash: format!("$argon2id${number}${count}"),
        created_at: 1,
        deletes_at: None,
    }
}

/// What was acknowledged, each with the moment by the load's own clock.
#[derive(Clone, Debug, Default)]
pub struct Acknowledged {
    heads: Vec<(usize, u64, Seq)>,
    accounts: Vec<(usize, u64, u64)>,
    /// When the removal of [`REMOVED`] was asked for, and when it was done.
    removing: Option<usize>,
    removed: Option<usize>,
}

/// The feed that grows a little and is removed.
const REMOVED: u64 = FEEDS + 1;

/// Commits that it has then.
const REMOVED_AT: Seq = 20;

/// As much as can be demanded at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Owed {
    pub heads: BTreeMap<u64, Seq>,
    pub accounts: Vec<(u64, u64)>,
    /// It was asked that [`REMOVED`] goes: it may be gone.
    pub removing: bool,
    /// It must be.
    pub removed: bool,
    /// Something else than the store has written to its files: what keeps a removed feed from being born again may be lost.
    pub is_damaged: bool,
}

impl Acknowledged {
    /// What was acknowledged up to a moment.
    pub fn until(&self, at: usize) -> Owed {
        let mut owed = Owed::default();
        for (_, number, seq) in self.heads.iter().filter(|(when, ..)| *when <= at) {
            let head = owed.heads.entry(*number).or_default();
            *head = (*head).max(*seq);
        }
        let accounts = self.accounts.iter().filter(|(when, ..)| *when <= at);
        owed.removing = self.removing.is_some_and(|when| when <= at);
        owed.removed = self.removed.is_some_and(|when| when <= at);
        owed.accounts = accounts.map(|(_, number, count)| (*number, *count)).collect();
        owed
    }
}

/// How a load goes.
#[derive(Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    /// Rounds of each feed: some appends, then perhaps rows, a cut, or an account.
    pub rounds: u64,
}

/// Runs a load to its end. `now` is the clock by which acknowledgements are noted; `acknowledged` hears of each.
pub async fn run(
    store: &Embedded,
    plan: Plan,
    now: impl Fn() -> usize + Clone + Send + 'static,
    heard: impl Fn(&str) + Clone + Send + 'static,
) -> Acknowledged {
    let acknowledged = Arc::new(Mutex::new(Acknowledged::default()));
    let feeds = (0..FEEDS).map(|number| {
        let (store, acknowledged, now, heard) = (store.clone(), acknowledged.clone(), now.clone(), heard.clone());
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(plan.seed * 1_000 + number);
            let mut at = settle(&store, number).await;
            for round in 0..plan.rounds {
                let together = random.random_range(1..4);
                let answers = join_all((at..at + together).map(|base| store.append(commit(number, base)))).await;
                for answer in answers {
                    match answer {
                        Ok(()) => {
                            at += 1;
                            acknowledged.lock().unwrap().heads.push((now(), number, at));
                            heard(&format!("head {number} {at}"));
                        }
                        Err(AppendError::Unavailable(_)) => {
                            // Only reading can tell; what it finds is durable.
                            at = settle(&store, number).await;
                            acknowledged.lock().unwrap().heads.push((now(), number, at));
                            break;
                        }
                        // Those behind one that was refused do not fit any more.
                        Err(AppendError::Full | AppendError::Conflict(_)) => break,
                        Err(AppendError::Damaged(what)) => panic!("damaged: {what}"),
                        Err(AppendError::Gone) => panic!("feed {number} was never removed"),
                    }
                }
                match random.random_range(0..8) {
                    0..3 if at > 0 => {
                        let _ = store.write_rows(feed(number), rows(number, at), at).await;
                    }
                    3 => {
                        let _ = store.trim(feed(number), retention()).await;
                    }
                    4 => match store.create_account(account(number, round)).await {
                        Ok(()) => {
                            acknowledged.lock().unwrap().accounts.push((now(), number, round));
                            heard(&format!("account {number} {round}"));
                        }
                        Err(AccountError::Full | AccountError::Unavailable(_) | AccountError::EmailTaken) => {}
                        Err(AccountError::Damaged(what)) => panic!("damaged: {what}"),
                    },
                    _ => {}
                }
            }
        })
    });
    let removal = remove(store.clone(), acknowledged.clone(), now.clone(), heard.clone());
    let (feeds, ()) = tokio::join!(join_all(feeds), removal);
    for feed in feeds {
        feed.unwrap();
    }
    Arc::into_inner(acknowledged).unwrap().into_inner().unwrap()
}

/// A feed that grows with the others, and is removed in the middle of it.
async fn remove(
    store: Embedded,
    acknowledged: Arc<Mutex<Acknowledged>>,
    now: impl Fn() -> usize,
    heard: impl Fn(&str),
) {
    let mut at = settle(&store, REMOVED).await;
    while at < REMOVED_AT {
        match store.append(commit(REMOVED, at)).await {
            Ok(()) => {
                at += 1;
                acknowledged.lock().unwrap().heads.push((now(), REMOVED, at));
                heard(&format!("head {REMOVED} {at}"));
            }
            // In a life before this one.
            Err(AppendError::Gone) => break,
            Err(AppendError::Unavailable(_)) => at = settle(&store, REMOVED).await,
            Err(AppendError::Full | AppendError::Conflict(_)) => return,
            Err(AppendError::Damaged(what)) => panic!("damaged: {what}"),
        }
        if at.is_multiple_of(4) {
            let _ = store.write_rows(feed(REMOVED), rows(REMOVED, at), at).await;
        }
    }
    acknowledged.lock().unwrap().removing = Some(now());
    heard("removing 0 0");
    if store.remove(feed(REMOVED), 0).await.is_ok() {
        acknowledged.lock().unwrap().removed = Some(now());
        heard("removed 0 0");
    }
}

/// Whether it is gone, where it must be; as whole as any other, where it need not.
async fn examine_removed(store: &Embedded, owed: &Owed) -> Result<(), String> {
    let id = feed(REMOVED);
    let head = store.head(id).await.map_err(named)?;
    if owed.removed || owed.removing && head.is_none() {
        assert_eq!(head, None, "the removed feed is there");
        assert_eq!(store.load(id, 0).await.map_err(named)?, None);
        if !owed.is_damaged {
            let born = store.append(commit(REMOVED, 0)).await;
            assert_eq!(born, Err(AppendError::Gone), "the removed feed is born again");
        }
        return Ok(());
    }
    let least = owed.heads.get(&REMOVED).copied().unwrap_or(0);
    examine_feed(store, REMOVED, least).await
}

fn retention() -> Retention {
    Retention {
        keep_since: UnixMs::MAX,
        cut_before: UnixMs::MIN,
        commits_max: 12,
        bytes_max: u64::MAX,
    }
}

/// The head of a feed, asked until there is an answer.
pub async fn settle(store: &Embedded, number: u64) -> Seq {
    loop {
        match store.head(feed(number)).await {
            Ok(head) => return head.map_or(0, |head| head.seq),
            Err(ReadError::Unavailable(_)) => tokio::task::yield_now().await,
            Err(ReadError::Damaged(what)) => panic!("damaged: {what}"),
        }
    }
}

/// Options under which everything happens often.
pub fn busy() -> Options {
    Options {
        move_idle: Duration::ZERO,
        move_every: Duration::from_millis(1),
        move_retry: Duration::from_millis(5),
        move_items: 7,
        checkpoint_frames: 40,
        reserve_bytes: 0,
        readers: 1,
        ..Options::default()
    }
}

/// What became of a store.
#[derive(Debug)]
pub enum Verdict {
    /// All that is owed is there.
    Whole,
    /// It did not open, and said why.
    Refused(OpenError),
    /// It opened, and named these.
    Named(Vec<String>),
}

/// Opens what is left in a folder and demands what is owed: there, and right, or named. Panics at anything else.
pub async fn examine(folder: &Path, owed: &Owed) -> Verdict {
    let store = match embedded::open(folder, busy(), Arc::new(())) {
        Ok(store) => store,
        Err(error) => return Verdict::Refused(error),
    };
    let mut named = Vec::new();
    for number in 0..FEEDS {
        let owed = owed.heads.get(&number).copied().unwrap_or(0);
        if let Err(what) = examine_feed(&store, number, owed).await {
            named.push(what);
        }
    }
    if let Err(what) = examine_removed(&store, owed).await {
        named.push(what);
    }
    for (number, count) in &owed.accounts {
        let expected = account(*number, *count);
        match store.account_by_email(expected.email.clone()).await {
            Ok(found) => assert_eq!(found, Some(expected), "an account"),
            Err(AccountError::Damaged(what)) => named.push(what),
            Err(error) => panic!("account: {error}"),
        }
    }
    drop(store);
    if named.is_empty() {
        Verdict::Whole
    } else {
        Verdict::Named(named)
    }
}

fn named(error: ReadError) -> String {
    match error {
        ReadError::Damaged(what) => what,
        ReadError::Unavailable(what) => panic!("a read did not find what is wrong: {what}"),
    }
}

async fn examine_feed(store: &Embedded, number: u64, owed: Seq) -> Result<(), String> {
    let id = feed(number);
    let Some(head) = store.head(id).await.map_err(named)? else {
        assert_eq!(owed, 0, "feed {number} is gone without a word");
        return Ok(());
    };
    assert_eq!(head.epoch, Epoch(number), "the epoch of feed {number}");
    assert!(
        head.seq >= owed,
        "feed {number} ends at {} without a word, {owed} was acknowledged",
        head.seq
    );
    // From the tables, whatever the tail holds.
    let loaded = store
        .load(id, UnixMs::MAX)
        .await
        .map_err(named)?
        .expect("it has a head");
    if let Some(row) = loaded.unreadable.first() {
        return Err(row.what.clone());
    }
    let expected = if loaded.head.rows_upto == 0 {
        Vec::new()
    } else {
        rows(number, loaded.head.rows_upto)
    };
    assert_eq!(
        loaded.rows, expected,
        "the rows of feed {number} at {}",
        loaded.head.rows_upto
    );
    let mut cursor = loaded.head.first - 1;
    while cursor < head.seq {
        let page = store
            .read_log(id, cursor, 2_000)
            .await
            .map_err(named)?
            .expect("it has a head");
        assert!(
            !page.rows.is_empty(),
            "feed {number} has nothing after {cursor}, its head is {head:?}"
        );
        for found in page.rows {
            let Append {
                last,
                append_id,
                time,
                body,
                ..
            } = commit(number, cursor);
            assert_eq!(
                found,
                LogRow {
                    last,
                    append_id,
                    time,
                    body
                },
                "feed {number} after {cursor}"
            );
            cursor += 1;
        }
    }
    Ok(())
}
