//! Two nodes append to one feed, and answers are lost: nothing is lost, doubled or out of order.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use taskflow::store::cql::{Cql, Options};
use taskflow_actors::ports::{Account, AccountError, Accounts as _, Append, AppendError, Epoch, Store};
use taskflow_protocol::UserId;
use uuid::Uuid;

use crate::{migrated, open};

const EPOCH: Epoch = Epoch(7);

pub fn append(feed: UserId, base: u64, id: u64) -> Append {
    Append {
        feed,
        epoch: EPOCH,
        base,
        last: base + 1,
        append_id: id,
        time: base.cast_signed(),
        body: id.to_be_bytes().to_vec().into(),
    }
}

/// Makes so many appends as a feed does: what is not known is read back, and nothing is sent twice before that.
async fn write(cql: Cql, feed: UserId, writer: u64, count: u64) -> (HashSet<u64>, u64) {
    let (mut made, mut unknown, mut head) = (HashSet::new(), 0, 1);
    for number in 0..count {
        let id = writer << 32 | number;
        loop {
            let base = head;
            match cql.append(append(feed, base, id)).await {
                Ok(()) => {
                    head = base + 1;
                    break;
                }
                Err(AppendError::Conflict(Some(found))) => head = found.seq,
                Err(AppendError::Unavailable(_)) => {
                    unknown += 1;
                    // A failed read says nothing: it is repeated.
                    let page = loop {
                        if let Ok(page) = cql.read_log(feed, base, usize::MAX).await {
                            break page.expect("the feed");
                        }
                    };
                    head = page.head.seq;
                    if page.rows.iter().any(|row| row.append_id == id) {
                        break;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
        made.insert(id);
    }
    (made, unknown)
}

async fn race(options: Vec<Options>, count: u64) -> u64 {
    let feed = UserId(Uuid::new_v4());
    let reader = open().await;
    reader.append(append(feed, 0, 0)).await.unwrap();
    let mut writers = Vec::new();
    for (writer, options) in (1..).zip(options) {
        let cql = Cql::open(&options, Arc::new(())).await.unwrap();
        writers.push(tokio::spawn(write(cql, feed, writer, count)));
    }
    let (mut made, mut unknown) = (HashSet::new(), 0);
    for writer in writers {
        let (ids, lost) = writer.await.unwrap();
        made.extend(ids);
        unknown += lost;
    }
    let page = reader.read_log(feed, 1, usize::MAX).await.unwrap().expect("the feed");
    let lasts: Vec<u64> = page.rows.iter().map(|row| row.last).collect();
    assert_eq!(lasts, (2..=page.head.seq).collect::<Vec<_>>(), "dense up to the head");
    let written: Vec<u64> = page.rows.iter().map(|row| row.append_id).collect();
    let once: HashSet<u64> = written.iter().copied().collect();
    assert_eq!(once.len(), written.len(), "something was written twice");
    assert_eq!(once, made, "something was lost, or came from nowhere");
    unknown
}

#[tokio::test]
async fn two_nodes_on_one_feed_write_each_append_once() {
    let options = migrated().await;
    race(vec![options; 2], 60).await;
}

#[tokio::test]
async fn an_append_whose_answer_does_not_come_in_time_is_written_once_or_not_at_all() {
    let options = migrated().await;
    let mut unknown = 0;
    // However fast this machine is, one of these is too short for some answers and long enough for others.
    for micros in [2_000, 1_000, 500, 250] {
        let append_timeout = Duration::from_micros(micros);
        let short = Options {
            append_timeout,
            ..options.clone()
        };
        unknown += race(vec![short; 3], 40).await;
        if unknown > 10 {
            return;
        }
    }
    panic!("only {unknown} outcomes were unknown: this showed little");
}

#[tokio::test]
async fn an_append_that_is_there_already_is_ok_where_nobody_was_told() {
    let (cql, other) = (open().await, open().await);
    let feed = UserId(Uuid::new_v4());
    assert_eq!(cql.append(append(feed, 0, 1)).await, Ok(()));
    assert_eq!(other.append(append(feed, 0, 1)).await, Ok(()), "the birth");
    assert_eq!(cql.append(append(feed, 1, 2)).await, Ok(()));
    assert_eq!(other.append(append(feed, 1, 2)).await, Ok(()));
    assert_eq!(other.append(append(feed, 2, 3)).await, Ok(()));
    let third = open().await;
    assert_eq!(
        third.append(append(feed, 1, 2)).await,
        Ok(()),
        "also when others came after it"
    );
    let conflict = third.append(append(feed, 1, 9)).await;
    assert!(
        matches!(conflict, Err(AppendError::Conflict(Some(head))) if head.seq == 3),
        "{conflict:?}"
    );
}

#[tokio::test]
async fn what_is_cut_is_in_the_archive() {
    use taskflow_actors::ports::Retention;
    let cql = open().await;
    let feed = UserId(Uuid::new_v4());
    for base in 0..150 {
        cql.append(append(feed, base, base)).await.unwrap();
    }
    cql.write_rows(feed, Vec::new(), 150).await.unwrap();
    let all_but_ten = Retention {
        keep_since: i64::MAX,
        cut_before: 0,
        commits_max: 10,
        bytes_max: u64::MAX,
    };
    let head = cql.trim(feed, all_but_ten).await.unwrap().expect("the feed");
    assert_eq!((head.first, head.seq), (141, 150));
    let archived = cql.archived(feed, 1970 * 12 + 1).await.unwrap();
    assert_eq!(
        archived.iter().map(|row| row.last).collect::<Vec<_>>(),
        (1..=140).collect::<Vec<_>>()
    );
    assert_eq!(archived[9].body[..], 9_u64.to_be_bytes());
}

/// A change of address that a crash cut off, in the state that these statements leave.
async fn cut_off(statements: &[String]) -> (Cql, Account, String) {
    let options = migrated().await;
    let cql = open().await;
    let number: u64 = rand::random();
    let account = Account {
        user: UserId(Uuid::new_v4()),
        email: format!("old{number}@example.org"),
        password_hash: "$hash".to_owned(),
        created_at: 1,
        deletes_at: None,
    };
    let new = format!("new{number}@example.org");
    assert_eq!(cql.create_account(account.clone()).await, Ok(()));
    let session = scylla::client::session_builder::SessionBuilder::new()
        .known_nodes(&options.nodes)
        .build()
        .await
        .unwrap();
    for statement in statements {
        let statement = statement
            .replace("OLD", &format!("'{}'", account.email))
            .replace("NEW", &format!("'{new}'"))
            .replace("USER", &account.user.to_string());
        session.query_unpaged(statement, ()).await.unwrap();
    }
    (cql, account, new)
}

const CLAIM: &str = "INSERT INTO contract.accounts_by_email (email, user_id, password_hash, created_at, comes_from) \
                     VALUES (NEW, USER, '$older', 1, OLD) IF NOT EXISTS";
const MOVE: &str = "UPDATE contract.accounts_by_email SET moved_to = NEW WHERE email = OLD IF user_id = USER";

#[tokio::test]
async fn a_claimed_address_is_no_account_and_its_owner_may_try_again() {
    let (cql, account, new) = cut_off(&[CLAIM.to_owned()]).await;
    let find = |email: &str| cql.account_by_email(email.to_owned());
    assert_eq!(find(&new).await, Ok(None));
    assert_eq!(find(&account.email).await, Ok(Some(account.clone())));
    let stranger = Account {
        user: UserId(Uuid::new_v4()),
        email: new.clone(),
        ..account.clone()
    };
    assert_eq!(cql.create_account(stranger).await, Err(AccountError::EmailTaken));
    let changed = cql.change_email(account.email.clone(), "$hash".to_owned(), new.clone());
    assert_eq!(changed.await, Ok(true));
    let moved = Account {
        email: new.clone(),
        ..account.clone()
    };
    assert_eq!(find(&new).await, Ok(Some(moved)), "with the present password");
    assert_eq!(find(&account.email).await, Ok(None));
}

#[tokio::test]
async fn a_move_that_was_decided_is_one_and_is_tidied_by_who_comes_by() {
    let claim = CLAIM.replace("$older", "$hash");
    let (cql, account, new) = cut_off(&[claim, MOVE.to_owned()]).await;
    let find = |email: &str| cql.account_by_email(email.to_owned());
    let moved = Account {
        email: new.clone(),
        ..account.clone()
    };
    assert_eq!(find(&new).await, Ok(Some(moved.clone())));
    assert_eq!(find(&account.email).await, Ok(None));
    let next = Account {
        user: UserId(Uuid::new_v4()),
        ..account.clone()
    };
    assert_eq!(
        cql.create_account(next.clone()).await,
        Ok(()),
        "the old address is free"
    );
    assert_eq!(find(&account.email).await, Ok(Some(next)));
    assert_eq!(find(&new).await, Ok(Some(moved)));
}
