//! A store in memory, for tests: keeps the contract of [`Store`] while the process lives, and fails when told to.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use taskflow_protocol::UserId;
use taskflow_protocol::values::{Seq, UnixMs};

use crate::domain::Quarter;
use crate::ports::{
    Account, AccountError, Accounts, Append, AppendError, BoxFuture, Deletion, Device, Head, Loaded, LogPage, LogRow,
    Note, ReadError, Retention, RowKey, SignIn, Store, StoredRow,
};

#[derive(Debug, Default)]
struct StoredFeed {
    head: Option<Head>,
    log: BTreeMap<Seq, LogRow>,
    rows: BTreeMap<RowKey, StoredRow>,
    removed: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct MemoryStore {
    feeds: Mutex<HashMap<UserId, StoredFeed>>,
    failures: Mutex<VecDeque<Failure>>,
}

/// What the next append does instead of succeeding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Failure {
    /// Nothing is written, and that is known.
    Full,
    /// Nothing is written, but nobody knows.
    Lost,
    /// It is written, but nobody knows.
    AnswerLost,
}

impl MemoryStore {
    /// The next appends fail like this, one after the other.
    pub fn fail_next(&self, failures: impl IntoIterator<Item = Failure>) {
        lock(&self.failures).extend(failures);
    }

    fn feeds(&self) -> MutexGuard<'_, HashMap<UserId, StoredFeed>> {
        lock(&self.feeds)
    }

    fn append_now(&self, append: Append) -> Result<(), AppendError> {
        let failure = lock(&self.failures).pop_front();
        match failure {
            Some(Failure::Full) => return Err(AppendError::Full),
            Some(Failure::Lost) => return Err(AppendError::Unavailable("planted".to_owned())),
            Some(Failure::AnswerLost) | None => {}
        }
        let mut feeds = self.feeds();
        if append.base == 0 && feeds.get(&append.feed).is_some_and(|feed| feed.removed) {
            return Err(AppendError::Gone);
        }
        let found = feeds.get(&append.feed).and_then(|feed| feed.head);
        let fits = match found {
            Some(head) => head.seq == append.base && head.epoch == append.epoch,
            None => append.base == 0,
        };
        if !fits {
            return Err(AppendError::Conflict(found));
        }
        let feed = feeds.entry(append.feed).or_default();
        let (first, rows_upto) = found.map_or((1, 0), |head| (head.first, head.rows_upto));
        feed.head = Some(Head {
            epoch: append.epoch,
            seq: append.last,
            first,
            rows_upto,
        });
        let Append {
            last,
            append_id,
            time,
            body,
            ..
        } = append;
        feed.log.insert(
            last,
            LogRow {
                last,
                append_id,
                time,
                body,
            },
        );
        match failure {
            Some(_) => Err(AppendError::Unavailable("planted".to_owned())),
            None => Ok(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ready<T: Send + 'static>(value: T) -> BoxFuture<T> {
    Box::pin(std::future::ready(value))
}

impl Store for MemoryStore {
    fn append(&self, append: Append) -> BoxFuture<Result<(), AppendError>> {
        ready(self.append_now(append))
    }

    fn head(&self, feed: UserId) -> BoxFuture<Result<Option<Head>, ReadError>> {
        ready(Ok(self.feeds().get(&feed).and_then(|feed| feed.head)))
    }

    fn read_log(&self, feed: UserId, after: Seq, bytes_max: usize) -> BoxFuture<Result<Option<LogPage>, ReadError>> {
        let feeds = self.feeds();
        let Some((head, stored)) = feeds.get(&feed).and_then(|stored| Some((stored.head?, stored))) else {
            return ready(Ok(None));
        };
        let mut bytes = 0;
        let mut rows = Vec::new();
        for row in stored.log.range(after.saturating_add(1)..).map(|(_, row)| row) {
            if !rows.is_empty() && bytes + row.body.len() > bytes_max {
                break;
            }
            bytes += row.body.len();
            rows.push(row.clone());
        }
        ready(Ok(Some(LogPage { head, rows })))
    }

    fn load(&self, feed: UserId, ids_since: UnixMs) -> BoxFuture<Result<Option<Loaded>, ReadError>> {
        let feeds = self.feeds();
        let Some((head, stored)) = feeds.get(&feed).and_then(|stored| Some((stored.head?, stored))) else {
            return ready(Ok(None));
        };
        let wanted = |row: &&LogRow| row.last > head.rows_upto || row.time >= ids_since;
        let log: Vec<_> = stored.log.values().skip_while(|row| !wanted(row)).cloned().collect();
        let since = log.first().map(|row| Quarter::of(row.time));
        let is_needed = |row: &&StoredRow| {
            Quarter::of_key(row.key).is_none_or(|quarter| since.is_some_and(|since| quarter >= since))
        };
        ready(Ok(Some(Loaded {
            unreadable: Vec::new(),
            head,
            rows: stored.rows.values().filter(is_needed).cloned().collect(),
            log,
        })))
    }

    fn activity(&self, feed: UserId, from: Quarter, to: Quarter) -> BoxFuture<Result<Vec<StoredRow>, ReadError>> {
        let feeds = self.feeds();
        let rows = feeds.get(&feed).map(|stored| stored.rows.range(from.key()..=to.key()));
        ready(Ok(rows.into_iter().flatten().map(|(_, row)| row.clone()).collect()))
    }

    fn write_rows(&self, feed: UserId, rows: Vec<StoredRow>, upto: Seq) -> BoxFuture<Result<(), AppendError>> {
        let mut feeds = self.feeds();
        let Some(stored) = feeds.get_mut(&feed) else {
            return ready(Err(AppendError::Conflict(None)));
        };
        for row in rows {
            let newer = stored.rows.get(&row.key).is_none_or(|old| old.seq <= row.seq);
            if newer {
                stored.rows.insert(row.key, row);
            }
        }
        if let Some(head) = &mut stored.head {
            head.rows_upto = head.rows_upto.max(upto);
        }
        ready(Ok(()))
    }

    fn trim(&self, feed: UserId, retention: Retention) -> BoxFuture<Result<Option<Head>, AppendError>> {
        let mut feeds = self.feeds();
        let Some(stored) = feeds.get_mut(&feed) else {
            return ready(Ok(None));
        };
        let Some(head) = &mut stored.head else {
            return ready(Ok(None));
        };
        let mut commits = stored.log.len() as u64;
        let mut bytes: u64 = stored.log.values().map(|row| row.body.len() as u64).sum();
        while let Some(row) = stored.log.values().next() {
            let over =
                row.time < retention.cut_before || commits > retention.commits_max || bytes > retention.bytes_max;
            if !over || row.time >= retention.keep_since || row.last > head.rows_upto {
                break;
            }
            commits -= 1;
            bytes -= row.body.len() as u64;
            head.first = row.last + 1;
            stored.log.pop_first();
        }
        ready(Ok(Some(*head)))
    }

    fn remove(&self, feed: UserId, _: UnixMs) -> BoxFuture<Result<(), AppendError>> {
        let removed = StoredFeed {
            removed: true,
            ..StoredFeed::default()
        };
        self.feeds().insert(feed, removed);
        ready(Ok(()))
    }
}

/// The history of one account.
type Notes = BTreeMap<(UnixMs, uuid::Uuid), Note>;

/// Accounts in memory, for tests.
#[derive(Debug, Default)]
pub struct MemoryAccounts {
    accounts: Mutex<HashMap<String, Account>>,
    notes: Mutex<HashMap<UserId, Notes>>,
    sign_ins: Mutex<BTreeMap<uuid::Uuid, (SignIn, Device)>>,
}

impl Accounts for MemoryAccounts {
    fn create_account(&self, account: Account) -> BoxFuture<Result<(), AccountError>> {
        let mut accounts = lock(&self.accounts);
        if accounts.contains_key(&account.email) {
            return ready(Err(AccountError::EmailTaken));
        }
        accounts.insert(account.email.clone(), account);
        ready(Ok(()))
    }

    fn account_by_email(&self, email: String) -> BoxFuture<Result<Option<Account>, AccountError>> {
        ready(Ok(lock(&self.accounts).get(&email).cloned()))
    }

    fn replace_password(&self, email: String, expected: String, hash: String) -> BoxFuture<Result<bool, AccountError>> {
        let mut accounts = lock(&self.accounts);
        let found = accounts
            .get_mut(&email)
            .filter(|present| present.password_hash == expected);
        let replaced = found.map(|present| present.password_hash = hash).is_some();
        ready(Ok(replaced))
    }

    fn change_email(&self, email: String, expected: String, new: String) -> BoxFuture<Result<bool, AccountError>> {
        let mut accounts = lock(&self.accounts);
        let may_move = |found: &Account| found.password_hash == expected && found.deletes_at.is_none();
        if !accounts.get(&email).is_some_and(may_move) {
            return ready(Ok(false));
        }
        if accounts.contains_key(&new) {
            return ready(Err(AccountError::EmailTaken));
        }
        if let Some(account) = accounts.remove(&email) {
            accounts.insert(new.clone(), Account { email: new, ..account });
        }
        ready(Ok(true))
    }

    fn set_deletion(
        &self,
        email: String,
        user: UserId,
        expected: Option<UnixMs>,
        deletes_at: Option<UnixMs>,
    ) -> BoxFuture<Result<bool, AccountError>> {
        let mut accounts = lock(&self.accounts);
        let found = accounts.get_mut(&email);
        let found = found.filter(|found| found.user == user && found.deletes_at == expected);
        ready(Ok(found.map(|found| found.deletes_at = deletes_at).is_some()))
    }

    fn deletions_due(&self, now: UnixMs) -> BoxFuture<Result<Vec<Deletion>, AccountError>> {
        let accounts = lock(&self.accounts);
        let due = accounts.values().filter_map(|account| {
            let at = account.deletes_at.filter(|at| *at <= now)?;
            let account = account.clone();
            Some(Deletion { at, account })
        });
        ready(Ok(due.collect()))
    }

    fn remove_account(&self, deletion: Deletion) -> BoxFuture<Result<(), AccountError>> {
        let Account { user, email, .. } = deletion.account;
        lock(&self.accounts).retain(|of, account| *of != email || account.user != user);
        lock(&self.sign_ins).retain(|_, (sign_in, _)| sign_in.user != user);
        lock(&self.notes).remove(&user);
        ready(Ok(()))
    }

    fn note(&self, user: UserId, note: Note) -> BoxFuture<Result<(), AccountError>> {
        lock(&self.notes)
            .entry(user)
            .or_default()
            .insert((note.at, note.id), note);
        ready(Ok(()))
    }

    fn history(
        &self,
        user: UserId,
        before: Option<(UnixMs, uuid::Uuid)>,
        count: usize,
    ) -> BoxFuture<Result<Vec<Note>, AccountError>> {
        let notes = lock(&self.notes);
        let before = before.unwrap_or((UnixMs::MAX, uuid::Uuid::max()));
        let found = notes
            .get(&user)
            .into_iter()
            .flat_map(|notes| notes.range(..before).rev());
        ready(Ok(found.take(count).map(|(_, note)| note.clone()).collect()))
    }

    fn create_sign_in(&self, sign_in: SignIn, device: Device) -> BoxFuture<Result<(), AccountError>> {
        lock(&self.sign_ins).insert(sign_in.id, (sign_in, device));
        ready(Ok(()))
    }

    fn sign_in(&self, id: uuid::Uuid) -> BoxFuture<Result<Option<SignIn>, AccountError>> {
        ready(Ok(lock(&self.sign_ins).get(&id).map(|(sign_in, _)| sign_in.clone())))
    }

    fn sign_ins_of(&self, user: UserId) -> BoxFuture<Result<Vec<(SignIn, Device)>, AccountError>> {
        let sign_ins = lock(&self.sign_ins);
        let of_user = sign_ins.values().filter(|(sign_in, _)| sign_in.user == user);
        ready(Ok(of_user.cloned().collect()))
    }

    fn replace_sign_in(
        &self,
        expected: [u8; 32],
        sign_in: SignIn,
        address: String,
    ) -> BoxFuture<Result<bool, AccountError>> {
        let mut sign_ins = lock(&self.sign_ins);
        let found = sign_ins
            .get_mut(&sign_in.id)
            .filter(|(present, _)| present.secret_hash == expected);
        let replaced = found.map(|(present, device)| {
            *present = sign_in;
            device.address = address;
        });
        ready(Ok(replaced.is_some()))
    }

    fn end_sign_in(&self, user: UserId, id: uuid::Uuid) -> BoxFuture<Result<(), AccountError>> {
        let mut sign_ins = lock(&self.sign_ins);
        if sign_ins.get(&id).is_some_and(|(present, _)| present.user == user) {
            sign_ins.remove(&id);
        }
        ready(Ok(()))
    }
}
