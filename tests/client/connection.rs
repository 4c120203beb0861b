//! The connection: what is missed is caught up, what is not answered is sent again, and never twice.

use std::time::Duration;

use taskflow::client::connection::{Client, GaveUp, Happening, Status};
use taskflow::client::profile::{Account, Journal, Profile};
use taskflow::client::replica::{Event, Parked};
use taskflow_protocol::message::{Command, Operation, Reconnect, ResetReason, ServerMessage};
use taskflow_protocol::{Code, Encoding, OperationId, TaskId};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::fake::{Fake, Fault, Out, create};

/// A signed-in profile.
fn profile(fake: &Fake) -> (TempDir, Profile) {
    let folder = tempfile::tempdir().unwrap();
    let profile = Profile::open(Some(folder.path().to_owned())).unwrap();
    let (access_token, refresh_token) = fake.world().tokens();
    let account = Account {
        server: fake.url(),
        email: "ada@example.org".to_owned(),
        user: None,
        access_token,
        refresh_token,
        expires_at: i64::MAX / 4,
    };
    profile.change_account(|_| Ok((Some(account), ()))).unwrap();
    (folder, profile)
}

struct Driven {
    client: Client,
    happenings: Vec<Happening>,
}

impl Driven {
    fn open(profile: &Profile) -> Self {
        Self::open_with(profile, Encoding::MsgPack)
    }

    fn open_with(profile: &Profile, encoding: Encoding) -> Self {
        Self {
            client: Client::open(profile.clone(), encoding).unwrap(),
            happenings: Vec::new(),
        }
    }

    /// Runs the client until something has happened; a hung test says what came instead.
    async fn until(&mut self, what: impl Fn(&Client, &Happening) -> bool) {
        let waiting = async {
            loop {
                let happening = self.client.next(None).await.expect("it does not give up");
                let found = what(&self.client, &happening);
                self.happenings.push(happening);
                if found {
                    return;
                }
            }
        };
        let done = timeout(Duration::from_secs(20), waiting).await;
        assert!(done.is_ok(), "it did not happen; this did: {:#?}", self.happenings);
    }

    async fn until_live(&mut self) {
        self.until(|_, happening| matches!(happening, Happening::Status(Status::Live)))
            .await;
    }

    async fn until_retired(&mut self, id: OperationId) {
        self.until(|_, happening| matches!(happening, Happening::Event(Event::Retired(retired, _)) if *retired == id))
            .await;
    }

    async fn until_applied(&mut self, seq: u64) {
        self.until(|_, happening| matches!(happening, Happening::Event(Event::Applied(entry, _)) if entry.seq == seq))
            .await;
    }

    async fn gives_up(&mut self) -> String {
        let waiting = async {
            loop {
                if let Err(error) = self.client.next(None).await {
                    return error.downcast::<GaveUp>().unwrap().0;
                }
            }
        };
        timeout(Duration::from_secs(20), waiting).await.expect("it gives up")
    }

    fn applied(&self) -> Vec<u64> {
        let seq = |happening: &Happening| match happening {
            Happening::Event(Event::Applied(entry, _)) => Some(entry.seq),
            _ => None,
        };
        self.happenings.iter().filter_map(seq).collect()
    }
}

fn add(title: &str) -> Command {
    Command::TaskCreate(create(TaskId(Uuid::now_v7()), title))
}

#[tokio::test]
async fn both_encodings_carry_the_same_conversation() {
    for encoding in [Encoding::Json, Encoding::MsgPack] {
        let fake = Fake::start();
        let (_folder, profile) = profile(&fake);
        let mut driven = Driven::open_with(&profile, encoding);
        driven.until_live().await;
        let id = driven.client.submit(add("Buy milk")).unwrap();
        driven.until_retired(id).await;
        assert_eq!(fake.world().titles(), ["Buy milk"]);
        assert_eq!(driven.client.replica().rows().tasks.len(), 1);
    }
}

#[tokio::test]
async fn what_was_missed_is_caught_up_without_a_snapshot() {
    let fake = Fake::start();
    let (_folder, profile) = profile(&fake);
    let mut driven = Driven::open(&profile);
    driven.until_live().await;
    fake.world().cut();
    for title in ["one", "two", "three"] {
        fake.world().add_elsewhere(title);
    }
    fake.world().down = false;
    driven.until_applied(4).await;
    assert_eq!(driven.applied(), [2, 3, 4]);
    let resets = driven
        .happenings
        .iter()
        .filter(|happening| matches!(happening, Happening::Event(Event::Reset(..))));
    assert_eq!(resets.count(), 1);
}

#[tokio::test]
async fn a_restarted_client_goes_on_where_it_stopped() {
    let fake = Fake::start();
    let (_folder, profile) = profile(&fake);
    let mut driven = Driven::open(&profile);
    driven.until_live().await;
    fake.world().add_elsewhere("one");
    driven.until_applied(2).await;
    driven.client.close().await.unwrap();
    fake.world().add_elsewhere("two");
    let mut driven = Driven::open(&profile);
    driven.until_applied(3).await;
    assert_eq!(driven.applied(), [3]);
    assert_eq!(fake.world().hellos[1].follow[0].cursor.as_deref(), Some("1:2"));
}

#[tokio::test]
async fn a_damaged_copy_is_replaced_by_a_snapshot() {
    let fake = Fake::start();
    let (folder, profile) = profile(&fake);
    fake.world().add_elsewhere("one");
    let mut driven = Driven::open(&profile);
    driven.until_live().await;
    driven.client.close().await.unwrap();
    let path = folder.path().join("replica");
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&path, &damaged).unwrap();
        assert_eq!(profile.replica().position(), None, "byte {at}");
        std::fs::write(&path, &whole[..at]).unwrap();
        assert_eq!(profile.replica().position(), None, "{at} bytes");
    }
    let mut driven = Driven::open(&profile);
    driven.until_live().await;
    assert_eq!(driven.client.replica().rows().tasks.len(), 1);
}

#[tokio::test]
async fn an_operation_whose_answer_was_lost_is_retired_by_its_entry_and_not_sent_again() {
    let fake = Fake::start();
    let (_folder, profile) = profile(&fake);
    let mut driven = Driven::open(&profile);
    driven.until_live().await;
    fake.world().faults.push_back(Fault::LoseAnswer);
    let id = driven.client.submit(add("Buy milk")).unwrap();
    driven.until_retired(id).await;
    assert_eq!(fake.world().received.len(), 1);
    assert_eq!(fake.world().titles(), ["Buy milk"]);
}

#[tokio::test]
async fn an_operation_that_did_not_arrive_is_sent_again_under_the_same_id() {
    let fake = Fake::start();
    let (_folder, profile) = profile(&fake);
    let mut driven = Driven::open(&profile);
    driven.until_live().await;
    fake.world().faults.push_back(Fault::LoseOperations);
    let id = driven.client.submit(add("Buy milk")).unwrap();
    driven.until_retired(id).await;
    let received: Vec<OperationId> = fake.world().received.iter().map(|operation| operation.id).collect();
    assert_eq!(received, [id, id]);
    assert_eq!(fake.world().titles(), ["Buy milk"]);
}

#[tokio::test]
async fn an_operation_refused_for_lack_of_room_is_sent_again_after_a_while() {
    let fake = Fake::start();
    let (_folder, profile) = profile(&fake);
    let mut driven = Driven::open(&profile);
    driven.until_live().await;
    fake.world().faults.push_back(Fault::Overloaded);
    let id = driven.client.submit(add("Buy milk")).unwrap();
    let asked = Instant::now();
    driven.until_retired(id).await;
    assert!(asked.elapsed() >= Duration::from_millis(250), "{:?}", asked.elapsed());
    assert_eq!(fake.world().received.len(), 2);
}

#[tokio::test]
async fn what_a_killed_process_had_written_down_is_sent_by_the_next() {
    let fake = Fake::start();
    let (_folder, profile) = profile(&fake);
    let mut driven = Driven::open(&profile);
    driven.until_live().await;
    driven.client.close().await.unwrap();
    let now = Uuid::now_v7().get_timestamp().unwrap().to_unix().0 as i64 * 1000;
    let operation = Operation {
        id: OperationId(Uuid::now_v7()),
        base: None,
        command: add("Buy milk"),
    };
    let mut journal = Journal::create(&profile, 7).unwrap();
    journal.made(now, &operation).unwrap();
    drop(journal);
    let mut driven = Driven::open(&profile);
    driven.until_retired(operation.id).await;
    assert_eq!(fake.world().titles(), ["Buy milk"]);
    driven.client.close().await.unwrap();
    assert_eq!(profile.waiting().unwrap(), 0);
}

#[tokio::test]
async fn what_is_older_than_a_day_is_shown_and_not_sent() {
    let fake = Fake::start();
    let (_folder, profile) = profile(&fake);
    let mut driven = Driven::open(&profile);
    driven.until_live().await;
    driven.client.close().await.unwrap();
    let operation = Operation {
        id: OperationId(Uuid::now_v7()),
        base: None,
        command: add("Buy milk"),
    };
    let mut journal = Journal::create(&profile, 7).unwrap();
    journal.made(1, &operation).unwrap();
    drop(journal);
    let mut driven = Driven::open(&profile);
    let parked = Event::Parked(operation, Parked::TooOld);
    driven
        .until(|_, happening| matches!(happening, Happening::Event(event) if *event == parked))
        .await;
    assert_eq!(fake.world().received, []);
    assert_eq!(driven.client.parked().len(), 1);
    driven.client.close().await.unwrap();
    // It is still there for the next process, and goes when the person says so.
    let mut driven = Driven::open(&profile);
    driven.until_live().await;
    assert_eq!(driven.client.parked().len(), 1);
    let ids = driven.client.decide_parked(true).unwrap();
    driven.until_retired(ids[0]).await;
    driven.client.close().await.unwrap();
    assert_eq!(profile.waiting().unwrap(), 0);
    assert_eq!(fake.world().titles(), ["Buy milk"]);
}

#[tokio::test]
async fn after_another_history_began_what_was_on_its_way_is_shown_and_not_sent() {
    let fake = Fake::start();
    let (_folder, profile) = profile(&fake);
    let task = fake.world().add_elsewhere("Buy milk");
    let mut driven = Driven::open(&profile);
    driven.until_live().await;
    fake.world().faults.push_back(Fault::LoseOperations);
    fake.world().epoch = 2;
    let complete = Command::TaskComplete(taskflow_protocol::message::TaskRef { task });
    driven.client.submit(complete).unwrap();
    driven
        .until(|_, happening| matches!(happening, Happening::Event(Event::Parked(_, Parked::Reset))))
        .await;
    assert_eq!(fake.world().received.len(), 1);
    let reasons: Vec<ResetReason> = driven
        .happenings
        .iter()
        .filter_map(|happening| match happening {
            Happening::Event(Event::Reset(reason, _)) => Some(*reason),
            _ => None,
        })
        .collect();
    assert_eq!(reasons, [ResetReason::NoCursor, ResetReason::EpochChanged]);
}

#[tokio::test]
async fn a_client_that_is_sent_away_comes_back_when_it_was_asked_to() {
    let fake = Fake::start();
    let (_folder, profile) = profile(&fake);
    let mut driven = Driven::open(&profile);
    driven.until_live().await;
    let reconnect = ServerMessage::Reconnect(Reconnect {
        after_ms: 700,
        window_ms: 100,
        code: Code::ShuttingDown,
    });
    fake.world().tell(&Out::Message(Box::new(reconnect)));
    let asked = Instant::now();
    driven.until_live().await;
    assert!(asked.elapsed() >= Duration::from_millis(700), "{:?}", asked.elapsed());
    let reason = driven.happenings.iter().find_map(|happening| match happening {
        Happening::Status(Status::Waiting(_, why)) => Some(why.clone()),
        _ => None,
    });
    assert_eq!(reason.as_deref(), Some(Code::ShuttingDown.sentence()));
}

#[tokio::test]
async fn an_expired_token_is_renewed_and_the_client_comes_back_at_once() {
    let fake = Fake::start();
    let (_folder, profile) = profile(&fake);
    let mut driven = Driven::open(&profile);
    driven.until_live().await;
    fake.world().tokens.clear();
    fake.world().tell(&Out::Close(Code::TokenExpired.close_code().unwrap()));
    driven.until_live().await;
    assert_eq!(fake.world().refreshes_by_rest, 1);
    // The next process has the new one.
    driven.client.close().await.unwrap();
    Driven::open(&profile).until_live().await;
    assert_eq!(fake.world().refreshes_by_rest, 1);
}

#[tokio::test]
async fn an_ended_sign_in_is_said_and_not_tried_for_ever() {
    let fake = Fake::start();
    let (_folder, profile) = profile(&fake);
    let mut driven = Driven::open(&profile);
    driven.until_live().await;
    fake.world().tokens.clear();
    fake.world().refresh_tokens.clear();
    fake.world().tell(&Out::Close(Code::SignedOut.close_code().unwrap()));
    assert_eq!(
        driven.gives_up().await,
        "This sign-in was ended; sign in again. Use `taskflow login`."
    );
}

#[tokio::test]
async fn a_token_that_is_refused_though_new_is_not_tried_for_ever() {
    let fake = Fake::start();
    let (_folder, profile) = profile(&fake);
    fake.world().hello_closes.extend([4202, 4202]);
    let mut driven = Driven::open(&profile);
    let sentence = driven.gives_up().await;
    assert_eq!(
        sentence,
        format!("{} Use `taskflow login`.", Code::TokenExpired.sentence())
    );
    assert_eq!(fake.world().hellos.len(), 2);
}

#[tokio::test]
async fn the_token_is_renewed_on_the_open_connection_before_it_expires() {
    let fake = Fake::start();
    fake.world().token_life_ms = 500;
    let (_folder, profile) = profile(&fake);
    let mut driven = Driven::open(&profile);
    driven.until_live().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while fake.world().refreshes_in_band == 0 {
        assert!(Instant::now() < deadline);
        driven
            .client
            .next(Some(Instant::now() + Duration::from_millis(50)))
            .await
            .unwrap();
    }
    assert_eq!(fake.world().hellos.len(), 1);
    assert_eq!(*driven.client.status(), Status::Live);
}

#[tokio::test]
async fn heartbeats_are_answered_and_their_absence_is_noticed() {
    let fake = Fake::start();
    fake.world().heartbeat_ms = 100;
    let (_folder, profile) = profile(&fake);
    let mut driven = Driven::open(&profile);
    driven.until_live().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while fake.world().heartbeats < 3 {
        assert!(Instant::now() < deadline);
        driven
            .client
            .next(Some(Instant::now() + Duration::from_millis(50)))
            .await
            .unwrap();
    }
    assert_eq!(*driven.client.status(), Status::Live);
    fake.world().silent = true;
    driven
        .until(|_, happening| {
            matches!(happening, Happening::Status(Status::Waiting(_, why)) if why == "The server has gone silent.")
        })
        .await;
    fake.world().silent = false;
    driven.until_live().await;
}

#[tokio::test]
async fn a_server_of_another_version_is_not_tried_again() {
    let fake = Fake::start();
    let (_folder, profile) = profile(&fake);
    fake.world().hello_closes.push_back(4109);
    let mut driven = Driven::open(&profile);
    assert_eq!(driven.gives_up().await, Code::VersionUnsupported.sentence());
    assert_eq!(fake.world().hellos.len(), 1);
}

#[tokio::test]
async fn a_cursor_that_is_refused_is_forgotten() {
    let fake = Fake::start();
    let (_folder, profile) = profile(&fake);
    let mut driven = Driven::open(&profile);
    driven.until_live().await;
    fake.world().cursor_errors.push_back(Code::CursorInvalid);
    fake.world().cut_connections();
    driven.until_live().await;
    let cursors: Vec<Option<String>> = fake
        .world()
        .hellos
        .iter()
        .map(|hello| hello.follow[0].cursor.clone())
        .collect();
    assert_eq!(cursors, [None, Some("1:1".to_owned()), None]);
}

#[tokio::test]
async fn a_hole_in_the_entries_is_noticed_and_filled() {
    let fake = Fake::start();
    let (_folder, profile) = profile(&fake);
    let mut driven = Driven::open(&profile);
    driven.until_live().await;
    fake.world().faults.push_back(Fault::Hole);
    let ids = [
        driven.client.submit(add("one")).unwrap(),
        driven.client.submit(add("two")).unwrap(),
    ];
    driven.until_retired(ids[1]).await;
    assert_eq!(driven.applied(), [2, 3]);
    assert_eq!(fake.world().titles().len(), 2);
    let broken = driven.happenings.iter().any(|happening| {
        matches!(happening, Happening::Status(Status::Waiting(_, why))
            if why == "This copy and the server disagree: entry 2 was expected and 3 came.")
    });
    assert!(broken, "{:#?}", driven.happenings);
}

#[tokio::test]
async fn a_snapshot_that_is_not_whole_is_not_shown() {
    let fake = Fake::start();
    let (_folder, profile) = profile(&fake);
    fake.world().add_elsewhere("one");
    fake.world().faults.push_back(Fault::WrongCount);
    let mut driven = Driven::open(&profile);
    driven
        .until(|_, happening| matches!(happening, Happening::Status(Status::Waiting(..))))
        .await;
    assert_eq!(driven.client.replica().rows().tasks.len(), 0);
    driven.until_live().await;
    assert_eq!(driven.client.replica().rows().tasks.len(), 1);
}

#[tokio::test]
async fn an_https_address_is_dialled_with_tls() {
    let fake = Fake::start();
    let (_folder, profile) = profile(&fake);
    profile
        .change_account(|stored| {
            let mut account = stored.unwrap();
            account.server = account.server.replace("http://", "https://");
            Ok((Some(account), ()))
        })
        .unwrap();
    let mut driven = Driven::open(&profile);
    driven
        .until(|_, happening| matches!(happening, Happening::Status(Status::Waiting(_, why)) if why.contains("does not answer")))
        .await;
    // What speaks no TLS was told nothing, the token least of all.
    assert_eq!(fake.world().hellos, []);
}
