//! The first entry of every feed.

use taskflow_protocol::values::UnixMs;
use taskflow_protocol::{ListId, OperationId, UserId};

use super::entry::{Change, Entry};
use super::judge::Refusal;
use super::row::{List, Settings};
use super::{due, rank};

/// Entry 1: the inbox, under the user's own id, and the settings. Its operation has the user's id, too.
pub fn birth(user: UserId, time: UnixMs, time_zone: &str, locale: &str) -> Result<Entry, Refusal> {
    let settings = Settings {
        time_zone: due::zone(time_zone).map_err(|why| Refusal::value("time_zone", why))?,
        locale: due::locale(locale).map_err(|why| Refusal::value("locale", why))?,
        version: 1,
        ..Settings::default()
    };
    let inbox = List {
        id: ListId(user.0),
        name: "Inbox".to_owned(),
        color: None,
        rank: rank::between(None, None),
        archived: false,
        created_at: time,
        updated_at: time,
        deleted_at: None,
        version: 1,
    };
    Ok(Entry {
        seq: 1,
        time,
        author: user,
        operation: OperationId(user.0),
        operation_hash: 0,
        changes: vec![
            Change::SettingsPut(Box::new(settings)),
            Change::ListPut(Box::new(inbox)),
        ],
        refused: None,
        trace: None,
    })
}
