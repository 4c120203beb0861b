//! Accounts and sign-ins, in their tables.

use rusqlite::{Connection, OptionalExtension as _};
use taskflow_actors::ports::{Account, Device, SignIn};
use taskflow_protocol::UserId;
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
        }))
    };
    // The address is the user's own business: the message does not carry it.
    read().map_err(|fault| fault.at(Table::Account.name(), "one account"))
}

/// Creates an account; `false`: the address is taken.
pub(super) fn create(connection: &Connection, account: &Account) -> Outcome<bool> {
    let key = account.email.as_bytes();
    if by_email(connection, &account.email)?.is_some() {
        return Ok(false);
    }
    let value = encode(account);
    connection
        .prepare_cached("INSERT INTO account(k,v) VALUES(?,?)")?
        .execute((key, &value))?;
    let Census { count, digest } = Census::stored(connection)?;
    Census {
        count: count + 1,
        digest: digest ^ codec::row_digest(&value),
    }
    .store(connection)?;
    Ok(true)
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
