//! Accounts and sign-ins, in their tables.

use rusqlite::{Connection, OptionalExtension as _};
use taskflow_actors::ports::{Access, Account, DELETING, Deletion, Device, HISTORY_KEPT_MS, Note, SignIn};
use taskflow_protocol::UserId;
use taskflow_protocol::values::UnixMs;
use uuid::Uuid;

use super::codec::{self, Fields, Table};
use super::fault::{Fault, Outcome};
use super::schema::{Meta, meta, put_meta};

/// Sign-ins that each new one looks at to remove the expired: faster than they come, and never a burden.
const SWEEP_ROWS: u32 = 8;

/// How many accounts there must be, and the digest of all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Census {
    count: u64,
    digest: u64,
}

impl Census {
    pub(super) fn stored(connection: &Connection) -> Outcome<Self> {
        let [count, digest] = meta(connection, Meta::Accounts)?;
        Ok(Self { count, digest })
    }

    fn store(self, connection: &Connection) -> Outcome<()> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.count.to_be_bytes());
        bytes[8..].copy_from_slice(&self.digest.to_be_bytes());
        put_meta(connection, Meta::Accounts, &bytes)
    }

    /// Counts anew: a missing account is damage that no look-up by address could tell from an address nobody has.
    pub(super) fn taken(connection: &Connection) -> Outcome<Self> {
        let mut census = Self::default();
        let mut statement = connection.prepare_cached("SELECT k,v FROM account")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (key, value) = (row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_blob()?);
            // A changed key is an account that is not found where it should be.
            codec::open(Table::Account, key, value)?;
            census.count += 1;
            census.digest ^= codec::row_digest(value);
        }
        Ok(census)
    }
}

/// What is said where an account may be missing.
pub(super) fn incomplete() -> Fault {
    Fault::damaged(
        Table::Account.name(),
        "all accounts",
        "some of the accounts that were written are missing",
    )
}

/// The first sign-in that the sweep looks at next.
#[derive(Default)]
pub(super) struct Sweep(Vec<u8>);

pub(super) fn by_email(connection: &Connection, email: &str) -> Outcome<Option<Account>> {
    let read = || -> Outcome<Option<Account>> {
        let mut statement = connection.prepare_cached("SELECT v FROM account WHERE k=?")?;
        let Some(value) = statement
            .query_row([email.as_bytes()], |row| row.get::<_, Vec<u8>>(0))
            .optional()?
        else {
            return Ok(None);
        };
        let mut fields = Fields(codec::open(Table::Account, email.as_bytes(), &value)?);
        let (user, created_at) = (UserId(fields.uuid()?), fields.i64()?);
        let password_hash = String::from_utf8_lossy(fields.0).into_owned();
        Ok(Some(Account {
            user,
            email: email.to_owned(),
            password_hash,
            created_at,
            deletes_at: deletion(connection, user)?.map(|(_, deletes_at)| deletes_at),
        }))
    };
    // The address is the user's own business: the message does not carry it.
    read().map_err(|fault| fault.at(Table::Account.name(), "one account"))
}

/// What became of a write with a condition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Written {
    Yes,
    /// What it needs is not there.
    No,
    /// The address is taken.
    Taken,
}

impl From<bool> for Written {
    fn from(is_written: bool) -> Self {
        if is_written { Self::Yes } else { Self::No }
    }
}

/// Creates an account, unless the address is taken.
pub(super) fn create(connection: &Connection, account: &Account) -> Outcome<Written> {
    if by_email(connection, &account.email)?.is_some() {
        return Ok(Written::Taken);
    }
    insert(connection, account)?;
    Ok(Written::Yes)
}

fn insert(connection: &Connection, account: &Account) -> Outcome<()> {
    let value = encode(account);
    connection
        .prepare_cached("INSERT INTO account(k,v) VALUES(?,?)")?
        .execute((account.email.as_bytes(), &value))?;
    let Census { count, digest } = Census::stored(connection)?;
    Census {
        count: count + 1,
        digest: digest ^ codec::row_digest(&value),
    }
    .store(connection)
}

fn delete(connection: &Connection, account: &Account) -> Outcome<()> {
    connection
        .prepare_cached("DELETE FROM account WHERE k=?")?
        .execute([account.email.as_bytes()])?;
    let Census { count, digest } = Census::stored(connection)?;
    Census {
        count: count.saturating_sub(1),
        digest: digest ^ codec::row_digest(&encode(account)),
    }
    .store(connection)
}

/// Moves an account whose hash is still the expected one to another address.
pub(super) fn change_email(connection: &Connection, email: &str, expected: &str, new: &str) -> Outcome<Written> {
    let may_move = |found: &Account| found.password_hash == expected && found.deletes_at.is_none();
    let Some(found) = by_email(connection, email)?.filter(may_move) else {
        return Ok(Written::No);
    };
    if by_email(connection, new)?.is_some() {
        return Ok(Written::Taken);
    }
    delete(connection, &found)?;
    let email = new.to_owned();
    insert(connection, &Account { email, ..found })?;
    Ok(Written::Yes)
}

/// When a user's account is to be deleted: for when it was marked, and what is said now.
fn deletion(connection: &Connection, user: UserId) -> Outcome<Option<(UnixMs, UnixMs)>> {
    let mut statement = connection.prepare_cached("SELECT v FROM deletion WHERE k=?")?;
    let found = statement
        .query_row([user.bytes()], |row| row.get::<_, Vec<u8>>(0))
        .optional()?;
    let Some(value) = found else { return Ok(None) };
    let mut fields = Fields(codec::open(Table::Deletion, user.bytes(), &value)?);
    Ok(Some((fields.i64()?, fields.i64()?)))
}

/// Says when an account is to be deleted, if what was said before is still the expected.
pub(super) fn set_deletion(
    connection: &Connection,
    email: &str,
    user: UserId,
    expected: Option<UnixMs>,
    deletes_at: Option<UnixMs>,
) -> Outcome<bool> {
    let is_expected = |found: &Account| found.user == user && found.deletes_at == expected;
    if !by_email(connection, email)?.is_some_and(|found| is_expected(&found)) {
        return Ok(false);
    }
    let Some(deletes_at) = deletes_at else {
        forget_deletion(connection, user)?;
        return Ok(true);
    };
    // Who claims it may crash: it stays due.
    let before = deletion(connection, user)?.filter(|_| deletes_at == DELETING);
    let marked = before.map_or(deletes_at, |(at, _)| at);
    let mut value = Vec::new();
    codec::begin(&mut value);
    value.extend_from_slice(&marked.to_be_bytes());
    value.extend_from_slice(&deletes_at.to_be_bytes());
    value.extend_from_slice(email.as_bytes());
    codec::seal(Table::Deletion, user.bytes(), &mut value);
    connection
        .prepare_cached("INSERT INTO deletion(k,v) VALUES(?,?) ON CONFLICT(k) DO UPDATE SET v=excluded.v")?
        .execute((user.bytes(), &value))?;
    Ok(true)
}

fn forget_deletion(connection: &Connection, user: UserId) -> Outcome<()> {
    connection
        .prepare_cached("DELETE FROM deletion WHERE k=?")?
        .execute([user.bytes()])?;
    Ok(())
}

/// Deletions that are looked at together.
const DELETIONS_AT_ONCE: usize = 100;

/// Accounts whose time has come. There are as many rows as accounts in their grace: few.
pub(super) fn deletions_due(connection: &Connection, now: UnixMs) -> Outcome<Vec<Deletion>> {
    let read = || -> Outcome<Vec<Deletion>> {
        let mut due = Vec::new();
        let mut statement = connection.prepare_cached("SELECT k,v FROM deletion ORDER BY k")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (key, value) = (row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_blob()?);
            let user = UserId(Fields(key).uuid()?);
            let mut fields = Fields(codec::open(Table::Deletion, key, value)?);
            let (at, _) = (fields.i64()?, fields.i64()?);
            if at > now || due.len() == DELETIONS_AT_ONCE {
                continue;
            }
            let email = String::from_utf8_lossy(fields.0);
            if let Some(account) = by_email(connection, &email)?.filter(|found| found.user == user) {
                due.push(Deletion { at, account });
            }
        }
        Ok(due)
    };
    read().map_err(|fault| fault.at(Table::Deletion.name(), "one account"))
}

/// Removes an account with everything that is its own here.
pub(super) fn remove(connection: &Connection, Deletion { account, .. }: &Deletion) -> Outcome<()> {
    let user = account.user;
    if let Some(found) = by_email(connection, &account.email)?.filter(|found| found.user == user) {
        delete(connection, &found)?;
    }
    forget_deletion(connection, user)?;
    let ids = {
        let mut statement = connection.prepare_cached("SELECT k FROM device WHERE k>=? AND k<=?")?;
        let bounds = (device_key(user, Uuid::nil()), device_key(user, Uuid::max()));
        let keys = statement.query_map(bounds, |row| row.get::<_, Vec<u8>>(0))?;
        keys.map(|key| Fields(key?.get(16..).unwrap_or_default()).uuid())
            .collect::<Outcome<Vec<Uuid>>>()?
    };
    for id in ids {
        end_sign_in(connection, user, id)?;
    }
    connection
        .prepare_cached("DELETE FROM history WHERE k>=? AND k<=?")?
        .execute((
            note_key(user, UnixMs::MIN, Uuid::nil()),
            note_key(user, UnixMs::MAX, Uuid::max()),
        ))?;
    Ok(())
}

/// The order of the keys is that of time: user ‖ time ‖ id.
fn note_key(user: UserId, at: UnixMs, id: Uuid) -> [u8; 40] {
    let mut key = [0; 40];
    key[..16].copy_from_slice(user.bytes());
    // So that bytes are in the order of the numbers, those below zero included.
    key[16..24].copy_from_slice(&(at.cast_unsigned() ^ (1 << 63)).to_be_bytes());
    key[24..].copy_from_slice(id.as_bytes());
    key
}

/// Writes a note, and removes those of the same user that are kept no longer.
pub(super) fn put_note(connection: &Connection, user: UserId, note: &Note) -> Outcome<()> {
    let key = note_key(user, note.at, note.id);
    let mut value = Vec::new();
    codec::begin(&mut value);
    value.extend_from_slice(note.sign_in.as_bytes());
    for text in [&note.event, &note.address, &note.device] {
        value.extend_from_slice(&(text.len() as u64).to_be_bytes());
        value.extend_from_slice(text.as_bytes());
    }
    codec::seal(Table::History, &key, &mut value);
    connection
        .prepare_cached("INSERT INTO history(k,v) VALUES(?,?) ON CONFLICT(k) DO UPDATE SET v=excluded.v")?
        .execute((&key, &value))?;
    let kept_from = note_key(user, note.at.saturating_sub(HISTORY_KEPT_MS), Uuid::nil());
    connection
        .prepare_cached("DELETE FROM history WHERE k>=? AND k<?")?
        .execute((note_key(user, UnixMs::MIN, Uuid::nil()), kept_from))?;
    Ok(())
}

/// The newest notes before one, the newest first.
pub(super) fn history(
    connection: &Connection,
    user: UserId,
    before: Option<(UnixMs, Uuid)>,
    count: usize,
) -> Outcome<Vec<Note>> {
    let (at, id) = before.unwrap_or((UnixMs::MAX, Uuid::max()));
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let read = || -> Outcome<Vec<Note>> {
        let mut found = Vec::new();
        let mut statement =
            connection.prepare_cached("SELECT k,v FROM history WHERE k>=? AND k<? ORDER BY k DESC LIMIT ?")?;
        let from = note_key(user, UnixMs::MIN, Uuid::nil());
        let mut rows = statement.query((from, note_key(user, at, id), count))?;
        while let Some(row) = rows.next()? {
            let (key, value) = (row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_blob()?);
            let mut of_key = Fields(key.get(16..).unwrap_or_default());
            let at = (of_key.u64()? ^ (1 << 63)).cast_signed();
            let id = of_key.uuid()?;
            let mut fields = Fields(codec::open(Table::History, key, value)?);
            let sign_in = fields.uuid()?;
            let mut text = || -> Outcome<String> {
                let length = usize::try_from(fields.u64()?).unwrap_or(usize::MAX);
                Ok(String::from_utf8_lossy(fields.slice(length)?).into_owned())
            };
            let (event, address, device) = (text()?, text()?, text()?);
            found.push(Note {
                at,
                id,
                event,
                sign_in,
                address,
                device,
            });
        }
        Ok(found)
    };
    read().map_err(|fault| fault.at(Table::History.name(), format_args!("user {user}")))
}

/// Replaces the password of an account whose hash is still the expected one.
pub(super) fn replace_password(connection: &Connection, email: &str, expected: &str, hash: &str) -> Outcome<bool> {
    let Some(found) = by_email(connection, email)?.filter(|found| found.password_hash == expected) else {
        return Ok(false);
    };
    let old = encode(&found);
    let new = encode(&Account {
        password_hash: hash.to_owned(),
        ..found
    });
    connection
        .prepare_cached("UPDATE account SET v=? WHERE k=?")?
        .execute((&new, email.as_bytes()))?;
    let Census { count, digest } = Census::stored(connection)?;
    Census {
        count,
        digest: digest ^ codec::row_digest(&old) ^ codec::row_digest(&new),
    }
    .store(connection)?;
    Ok(true)
}

fn encode(account: &Account) -> Vec<u8> {
    let mut value = Vec::new();
    codec::begin(&mut value);
    value.extend_from_slice(account.user.bytes());
    value.extend_from_slice(&account.created_at.to_be_bytes());
    value.extend_from_slice(account.password_hash.as_bytes());
    codec::seal(Table::Account, account.email.as_bytes(), &mut value);
    value
}

/// Devices are found by their user: the key is user ‖ sign-in.
fn device_key(user: UserId, id: Uuid) -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(user.bytes());
    key[16..].copy_from_slice(id.as_bytes());
    key
}

fn put_device(connection: &Connection, sign_in: &SignIn, device: &Device) -> Outcome<()> {
    let key = device_key(sign_in.user, sign_in.id);
    let mut value = Vec::new();
    codec::begin(&mut value);
    value.extend_from_slice(&device.created_at.to_be_bytes());
    value.extend_from_slice(&(device.address.len() as u64).to_be_bytes());
    value.extend_from_slice(device.address.as_bytes());
    value.extend_from_slice(device.name.as_bytes());
    codec::seal(Table::Device, &key, &mut value);
    connection
        .prepare_cached("INSERT INTO device(k,v) VALUES(?,?) ON CONFLICT(k) DO UPDATE SET v=excluded.v")?
        .execute((&key, &value))?;
    Ok(())
}

fn decode_device(key: &[u8], value: &[u8]) -> Outcome<Device> {
    let mut fields = Fields(codec::open(Table::Device, key, value)?);
    let created_at = fields.i64()?;
    let length = usize::try_from(fields.u64()?).unwrap_or(usize::MAX);
    let address = String::from_utf8_lossy(fields.slice(length)?).into_owned();
    let name = String::from_utf8_lossy(fields.0).into_owned();
    Ok(Device {
        name,
        address,
        created_at,
    })
}

fn device(connection: &Connection, user: UserId, id: Uuid) -> Outcome<Option<Device>> {
    let key = device_key(user, id);
    let mut statement = connection.prepare_cached("SELECT v FROM device WHERE k=?")?;
    let found = statement
        .query_row([&key[..]], |row| row.get::<_, Vec<u8>>(0))
        .optional()?;
    found.map(|value| decode_device(&key, &value)).transpose()
}

/// Gives every sign-in of an older format a device, about which nothing is known.
pub(super) fn name_devices(connection: &Connection) -> Outcome<()> {
    let mut statement = connection.prepare("SELECT k,v FROM sign_in")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        // One that cannot be read is reported when it is used.
        if let Ok(sign_in) = decode_sign_in(row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_blob()?) {
            let device = Device {
                created_at: sign_in.rotated_at,
                ..Device::default()
            };
            put_device(connection, &sign_in, &device)?;
        }
    }
    Ok(())
}

/// All sign-ins of a user.
pub(super) fn sign_ins_of(connection: &Connection, user: UserId) -> Outcome<Vec<(SignIn, Device)>> {
    let read = || -> Outcome<Vec<(SignIn, Device)>> {
        let mut found = Vec::new();
        let mut statement = connection.prepare_cached("SELECT k,v FROM device WHERE k>=? AND k<=? ORDER BY k")?;
        let mut rows = statement.query((device_key(user, Uuid::nil()), device_key(user, Uuid::max())))?;
        while let Some(row) = rows.next()? {
            let (key, value) = (row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_blob()?);
            let device = decode_device(key, value)?;
            let id = Fields(key.get(16..).unwrap_or_default()).uuid()?;
            if let Some(sign_in) = sign_in(connection, id)?.filter(|found| found.user == user) {
                found.push((sign_in, device));
            }
        }
        Ok(found)
    };
    read().map_err(|fault| fault.at(Table::Device.name(), format_args!("user {user}")))
}

fn decode_sign_in(key: &[u8], value: &[u8]) -> Outcome<SignIn> {
    let id = Fields(key).uuid()?;
    let mut fields = Fields(codec::open(Table::SignIn, key, value)?);
    Ok(SignIn {
        id,
        user: UserId(fields.uuid()?),
        secret_hash: fields.bytes()?,
        previous_hash: fields.bytes()?,
        rotated_at: fields.i64()?,
        expires_at: fields.i64()?,
        // Before format 3 there was nothing less.
        access: match fields.0 {
            [] => Access::Owner,
            [number, ..] => {
                Access::from_number(*number).ok_or_else(|| Fault::Damaged(format!("access {number} is unknown")))?
            }
        },
    })
}

pub(super) fn sign_in(connection: &Connection, id: Uuid) -> Outcome<Option<SignIn>> {
    let read = || -> Outcome<Option<SignIn>> {
        let mut statement = connection.prepare_cached("SELECT v FROM sign_in WHERE k=?")?;
        let found = statement
            .query_row([id.as_bytes()], |row| row.get::<_, Vec<u8>>(0))
            .optional()?;
        found.map(|value| decode_sign_in(id.as_bytes(), &value)).transpose()
    };
    read().map_err(|fault| fault.at(Table::SignIn.name(), format_args!("sign-in {id}")))
}

fn put_sign_in(connection: &Connection, sign_in: &SignIn) -> Outcome<()> {
    let mut value = Vec::new();
    codec::begin(&mut value);
    value.extend_from_slice(sign_in.user.bytes());
    value.extend_from_slice(&sign_in.secret_hash);
    value.extend_from_slice(&sign_in.previous_hash);
    value.extend_from_slice(&sign_in.rotated_at.to_be_bytes());
    value.extend_from_slice(&sign_in.expires_at.to_be_bytes());
    value.push(sign_in.access as u8);
    codec::seal(Table::SignIn, sign_in.id.as_bytes(), &mut value);
    connection
        .prepare_cached("INSERT INTO sign_in(k,v) VALUES(?,?) ON CONFLICT(k) DO UPDATE SET v=excluded.v")?
        .execute((sign_in.id.as_bytes(), &value))?;
    Ok(())
}

/// Stores a sign-in, and removes a few that have expired when this one was made.
pub(super) fn create_sign_in(
    connection: &Connection,
    sweep: &mut Sweep,
    sign_in: &SignIn,
    device: &Device,
) -> Outcome<()> {
    put_sign_in(connection, sign_in)?;
    put_device(connection, sign_in, device)?;
    let mut expired = Vec::new();
    let mut seen = 0;
    {
        let mut statement = connection.prepare_cached("SELECT k,v FROM sign_in WHERE k>? ORDER BY k LIMIT ?")?;
        let mut rows = statement.query((&sweep.0, SWEEP_ROWS))?;
        while let Some(row) = rows.next()? {
            let (key, value) = (row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_blob()?);
            seen += 1;
            sweep.0 = key.to_vec();
            // One that cannot be read stays: it is reported when it is used.
            if let Ok(found) = decode_sign_in(key, value)
                && found.expires_at < sign_in.rotated_at
            {
                expired.push(found);
            }
        }
    }
    if seen < SWEEP_ROWS {
        sweep.0.clear();
    }
    for found in expired {
        end_sign_in(connection, found.user, found.id)?;
    }
    Ok(())
}

/// Replaces a sign-in whose secret is still the expected one.
pub(super) fn replace_sign_in(
    connection: &Connection,
    expected: &[u8; 32],
    new: &SignIn,
    address: &str,
) -> Outcome<bool> {
    match sign_in(connection, new.id)? {
        Some(found) if found.secret_hash == *expected => {
            put_sign_in(connection, new)?;
            let device = device(connection, new.user, new.id)?.unwrap_or_default();
            let address = address.to_owned();
            put_device(connection, new, &Device { address, ..device })?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

pub(super) fn end_sign_in(connection: &Connection, user: UserId, id: Uuid) -> Outcome<()> {
    if sign_in(connection, id)?.is_some_and(|found| found.user != user) {
        return Ok(());
    }
    connection
        .prepare_cached("DELETE FROM sign_in WHERE k=?")?
        .execute([id.as_bytes()])?;
    connection
        .prepare_cached("DELETE FROM device WHERE k=?")?
        .execute([device_key(user, id)])?;
    Ok(())
}
