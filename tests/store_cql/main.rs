//! The store of a cluster keeps the contract of its ports, against a real Cassandra.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where what it needs fails")]

#[path = "../../src/store/contract.rs"]
mod contract;
mod overload;
mod races;
mod schema;
mod secured;
#[path = "../support/services.rs"]
mod services;

use std::sync::{Arc, OnceLock};

use contract::Bench;
use services::Cassandra;
use taskflow::store::cql::{Cql, Options, migrate};
use taskflow_actors::domain::Quarter;
use taskflow_actors::ports::{
    Account, AccountError, Accounts, Append, AppendError, BoxFuture, Deletion, Device, Head, Loaded, LogPage, Note,
    ReadError, Retention, SignIn, Store, StoredRow,
};
use taskflow_protocol::UserId;
use taskflow_protocol::values::{Seq, UnixMs};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use uuid::Uuid;

fn options(keyspace: &str) -> Options {
    Options {
        nodes: Cassandra::shared().nodes.clone(),
        keyspace: keyspace.to_owned(),
        replication: 1,
        ..Options::default()
    }
}

/// The keyspace of the suite: migrated by the first who asks.
async fn migrated() -> Options {
    static MIGRATED: OnceCell<()> = OnceCell::const_new();
    let options = options("contract");
    MIGRATED
        .get_or_init(|| async {
            migrate(&options).await.unwrap();
        })
        .await;
    options
}

async fn open() -> Cql {
    Cql::open(&migrated().await, Arc::new(())).await.unwrap()
}

/// The suite uses the same ids in every test; here each test has ids of its own, on one database.
#[derive(Clone)]
struct Salted {
    cql: Cql,
    salt: u128,
}

impl Salted {
    fn id(&self, id: Uuid) -> Uuid {
        Uuid::from_u128(id.as_u128() ^ self.salt)
    }
    fn user(&self, user: UserId) -> UserId {
        UserId(self.id(user.0))
    }
    fn salted(&self, sign_in: &SignIn) -> SignIn {
        SignIn {
            id: self.id(sign_in.id),
            user: self.user(sign_in.user),
            ..sign_in.clone()
        }
    }
    fn account(&self, account: Account, email: String) -> Account {
        Account {
            user: self.user(account.user),
            email,
            ..account
        }
    }
}

impl Store for Salted {
    fn append(&self, append: Append) -> BoxFuture<Result<(), AppendError>> {
        let feed = self.user(append.feed);
        self.cql.append(Append { feed, ..append })
    }
    fn head(&self, feed: UserId) -> BoxFuture<Result<Option<Head>, ReadError>> {
        self.cql.head(self.user(feed))
    }
    fn peek_head(&self, feed: UserId) -> BoxFuture<Result<Option<Head>, ReadError>> {
        self.cql.peek_head(self.user(feed))
    }
    fn read_log(&self, feed: UserId, after: Seq, bytes_max: usize) -> BoxFuture<Result<Option<LogPage>, ReadError>> {
        self.cql.read_log(self.user(feed), after, bytes_max)
    }
    fn load(&self, feed: UserId, ids_since: UnixMs) -> BoxFuture<Result<Option<Loaded>, ReadError>> {
        self.cql.load(self.user(feed), ids_since)
    }
    fn activity(&self, feed: UserId, from: Quarter, to: Quarter) -> BoxFuture<Result<Vec<StoredRow>, ReadError>> {
        self.cql.activity(self.user(feed), from, to)
    }
    fn write_rows(&self, feed: UserId, rows: Vec<StoredRow>, upto: Seq) -> BoxFuture<Result<(), AppendError>> {
        self.cql.write_rows(self.user(feed), rows, upto)
    }
    fn trim(&self, feed: UserId, retention: Retention) -> BoxFuture<Result<Option<Head>, AppendError>> {
        self.cql.trim(self.user(feed), retention)
    }
    fn remove(&self, feed: UserId, since: UnixMs) -> BoxFuture<Result<(), AppendError>> {
        self.cql.remove(self.user(feed), since)
    }
}

impl Salted {
    fn email(&self, email: &str) -> String {
        format!("{}{email}", self.salt)
    }
    fn unsalted(&self, account: Account) -> Account {
        let salt = self.salt.to_string();
        let email = account.email.strip_prefix(&salt).unwrap_or(&account.email).to_owned();
        self.account(account, email)
    }
}

impl Accounts for Salted {
    fn create_account(&self, account: Account) -> BoxFuture<Result<(), AccountError>> {
        let email = format!("{}{}", self.salt, account.email);
        self.cql.create_account(self.account(account, email))
    }
    fn account_by_email(&self, email: String) -> BoxFuture<Result<Option<Account>, AccountError>> {
        let salted = self.clone();
        let found = self.cql.account_by_email(format!("{}{email}", self.salt));
        Box::pin(async move { Ok(found.await?.map(|account| salted.account(account, email))) })
    }
    fn replace_password(&self, email: String, expected: String, hash: String) -> BoxFuture<Result<bool, AccountError>> {
        self.cql
            .replace_password(format!("{}{email}", self.salt), expected, hash)
    }
    fn change_email(&self, email: String, expected: String, new: String) -> BoxFuture<Result<bool, AccountError>> {
        self.cql.change_email(self.email(&email), expected, self.email(&new))
    }
    fn set_deletion(
        &self,
        email: String,
        user: UserId,
        expected: Option<UnixMs>,
        deletes_at: Option<UnixMs>,
    ) -> BoxFuture<Result<bool, AccountError>> {
        self.cql
            .set_deletion(self.email(&email), self.user(user), expected, deletes_at)
    }
    fn deletions_due(&self, now: UnixMs) -> BoxFuture<Result<Vec<Deletion>, AccountError>> {
        let (salted, due) = (self.clone(), self.cql.deletions_due(now));
        Box::pin(async move {
            let due = due.await?.into_iter();
            Ok(due
                .map(|Deletion { at, account }| Deletion {
                    at,
                    account: salted.unsalted(account),
                })
                .collect())
        })
    }
    fn remove_account(&self, Deletion { at, account }: Deletion) -> BoxFuture<Result<(), AccountError>> {
        let email = self.email(&account.email);
        let account = self.account(account, email);
        self.cql.remove_account(Deletion { at, account })
    }
    fn note(&self, user: UserId, note: Note) -> BoxFuture<Result<(), AccountError>> {
        self.cql.note(self.user(user), note)
    }
    fn history(
        &self,
        user: UserId,
        before: Option<(UnixMs, Uuid)>,
        count: usize,
    ) -> BoxFuture<Result<Vec<Note>, AccountError>> {
        self.cql.history(self.user(user), before, count)
    }
    fn create_sign_in(&self, sign_in: SignIn, device: Device) -> BoxFuture<Result<(), AccountError>> {
        self.cql.create_sign_in(self.salted(&sign_in), device)
    }
    fn sign_in(&self, id: Uuid) -> BoxFuture<Result<Option<SignIn>, AccountError>> {
        let (salted, found) = (self.clone(), self.cql.sign_in(self.id(id)));
        Box::pin(async move { Ok(found.await?.map(|sign_in| salted.salted(&sign_in))) })
    }
    fn sign_ins_of(&self, user: UserId) -> BoxFuture<Result<Vec<(SignIn, Device)>, AccountError>> {
        let (salted, found) = (self.clone(), self.cql.sign_ins_of(self.user(user)));
        Box::pin(async move {
            let all = found.await?.into_iter();
            Ok(all.map(|(sign_in, device)| (salted.salted(&sign_in), device)).collect())
        })
    }
    fn replace_sign_in(
        &self,
        expected: [u8; 32],
        sign_in: SignIn,
        address: String,
    ) -> BoxFuture<Result<bool, AccountError>> {
        self.cql.replace_sign_in(expected, self.salted(&sign_in), address)
    }
    fn end_sign_in(&self, user: UserId, id: Uuid) -> BoxFuture<Result<(), AccountError>> {
        self.cql.end_sign_in(self.user(user), self.id(id))
    }
}

struct CqlBench(Salted);

/// A runtime for the sessions of the benches, which are opened where nobody can wait for a future.
fn drivers() -> &'static Handle {
    static DRIVERS: OnceLock<Handle> = OnceLock::new();
    DRIVERS.get_or_init(|| {
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            sender.send(runtime.handle().clone()).unwrap();
            runtime.block_on(std::future::pending::<()>());
        });
        receiver.recv().unwrap()
    })
}

fn opened() -> Cql {
    let (sender, receiver) = std::sync::mpsc::channel();
    drivers().spawn(async move { sender.send(open().await).unwrap() });
    receiver.recv().unwrap()
}

impl CqlBench {
    fn new() -> Self {
        Self(Salted {
            cql: opened(),
            salt: rand::random(),
        })
    }
}

impl Bench for CqlBench {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.0.clone())
    }
    fn accounts(&self) -> Arc<dyn Accounts> {
        Arc::new(self.0.clone())
    }
    fn reopen(&mut self) {
        // A second instance knows nothing of what the first one did.
        self.0.cql = opened();
    }
}

store_contract!(CqlBench::new());
accounts_contract!(CqlBench::new());
