//! Keys and values as they are stored. All numbers are big endian; every value begins with a CRC32C over its table, its
//! key and the rest, so that a value that was changed, or that belongs elsewhere, is not taken for one that was written.

use bytes::Bytes;
use taskflow_actors::ports::{Epoch, Head, LogRow, RowKey, RowKind, StoredRow};
use taskflow_protocol::UserId;
use taskflow_protocol::values::{Seq, UnixMs};
use uuid::Uuid;

use super::fault::{Fault, Outcome};

/// A table, with the letter that stands for it in the checksums of its values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Table {
    Inbox = b'i' as isize,
    Head = b'h' as isize,
    Log = b'l' as isize,
    Row = b'r' as isize,
    Aside = b'x' as isize,
    Meta = b'm' as isize,
    Account = b'a' as isize,
    SignIn = b's' as isize,
    Device = b'd' as isize,
    Deletion = b'e' as isize,
    History = b'n' as isize,
    Removed = b'g' as isize,
}

impl Table {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Inbox => "inbox",
            Self::Head => "head",
            Self::Log => "log",
            Self::Row => "row",
            Self::Aside => "aside",
            Self::Meta => "meta",
            Self::Account => "account",
            Self::SignIn => "sign_in",
            Self::Device => "device",
            Self::Deletion => "deletion",
            Self::History => "history",
            Self::Removed => "removed",
        }
    }
}

const SUM_BYTES: usize = 4;

fn sum(table: Table, key: &[u8], value: &[u8]) -> [u8; SUM_BYTES] {
    let of_key = crc32c::crc32c_append(crc32c::crc32c(&[table as u8]), key);
    crc32c::crc32c_append(of_key, value).to_be_bytes()
}

/// Begins a value; the checksum is filled in by [`seal`].
pub(super) fn begin(value: &mut Vec<u8>) {
    value.clear();
    value.extend_from_slice(&[0; SUM_BYTES]);
}

/// Ends a value.
pub(super) fn seal(table: Table, key: &[u8], value: &mut [u8]) {
    let sum = sum(table, key, &value[SUM_BYTES..]);
    value[..SUM_BYTES].copy_from_slice(&sum);
}

/// Checks a value and takes the checksum off.
pub(super) fn open<'a>(table: Table, key: &[u8], value: &'a [u8]) -> Outcome<&'a [u8]> {
    match value.split_at_checked(SUM_BYTES) {
        Some((stored, rest)) if sum(table, key, rest) == stored => Ok(rest),
        _ => Err(Fault::Damaged("the checksum does not match".to_owned())),
    }
}

/// Reads numbers off the front of a value.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk::<N>().ok_or_else(too_short)?;
        self.0 = rest;
        Ok(*front)
    }

    pub(super) fn u64(&mut self) -> Outcome<u64> {
        self.bytes().map(u64::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Outcome<i64> {
        self.bytes().map(i64::from_be_bytes)
    }

    pub(super) fn uuid(&mut self) -> Outcome<Uuid> {
        self.bytes().map(Uuid::from_bytes)
    }

    pub(super) fn slice(&mut self, length: usize) -> Outcome<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(length).ok_or_else(too_short)?;
        self.0 = rest;
        Ok(front)
    }
}

fn too_short() -> Fault {
    Fault::Damaged("the value is too short".to_owned())
}

pub(super) const LOG_KEY_BYTES: usize = 24;
pub(super) const ROW_KEY_BYTES: usize = 33;

pub(super) fn log_key(feed: UserId, last: Seq) -> [u8; LOG_KEY_BYTES] {
    let mut key = [0; LOG_KEY_BYTES];
    key[..16].copy_from_slice(feed.bytes());
    key[16..].copy_from_slice(&last.to_be_bytes());
    key
}

/// The `seq` in a key of a feed's log. The feed is checked: in a damaged table a scan also meets what lies outside its
/// bounds.
pub(super) fn log_key_seq(feed: UserId, key: &[u8]) -> Outcome<Seq> {
    let key: &[u8; LOG_KEY_BYTES] = key.try_into().map_err(|_| wrong_key())?;
    of_feed(feed, key)?;
    Fields(&key[16..]).u64()
}

fn of_feed(feed: UserId, key: &[u8]) -> Outcome<()> {
    if key.starts_with(feed.bytes()) {
        Ok(())
    } else {
        Err(Fault::Damaged("there is a key of another feed".to_owned()))
    }
}

pub(super) fn row_key(feed: UserId, row: RowKey) -> [u8; ROW_KEY_BYTES] {
    let mut key = [0; ROW_KEY_BYTES];
    key[..16].copy_from_slice(feed.bytes());
    key[16] = row.kind as u8;
    key[17..].copy_from_slice(&row.id);
    key
}

pub(super) fn row_of_key(feed: UserId, key: &[u8]) -> Outcome<RowKey> {
    let key: &[u8; ROW_KEY_BYTES] = key.try_into().map_err(|_| wrong_key())?;
    of_feed(feed, key)?;
    let kind = match key[16] {
        1 => RowKind::Settings,
        2 => RowKind::List,
        3 => RowKind::Task,
        4 => RowKind::Label,
        5 => RowKind::Activity,
        _ => return Err(Fault::Damaged("there is no such kind of row".to_owned())),
    };
    let mut id = [0; 16];
    id.copy_from_slice(&key[17..]);
    Ok(RowKey { kind, id })
}

fn wrong_key() -> Fault {
    Fault::Damaged("the key has the wrong length".to_owned())
}

/// What the table `head` holds of a feed. It lags behind the log by what is still in the inbox.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StoredHead {
    pub epoch: Epoch,
    /// The last commit that is in the table `log`.
    pub seq: Seq,
    pub first: Seq,
    pub rows_upto: Seq,
    /// How many rows there are, and [`row_digest`] of all of them, combined by exclusive or. Without the activity, which is
    /// never read as a whole.
    pub rows: u64,
    pub digest: u64,
    /// Commits in the table `log`, and the bytes of their bodies.
    pub commits: u64,
    pub bytes: u64,
}

impl StoredHead {
    pub(super) fn born(epoch: Epoch) -> Self {
        Self {
            epoch,
            seq: 0,
            first: 1,
            rows_upto: 0,
            rows: 0,
            digest: 0,
            commits: 0,
            bytes: 0,
        }
    }

    /// As callers see it, with what is not moved yet.
    pub(super) fn head(&self, seq: Seq) -> Head {
        Head {
            epoch: self.epoch,
            seq,
            first: self.first,
            rows_upto: self.rows_upto,
        }
    }

    pub(super) fn encode(&self, feed: UserId, value: &mut Vec<u8>) {
        begin(value);
        let Self {
            epoch,
            seq,
            first,
            rows_upto,
            rows,
            digest,
            commits,
            bytes,
        } = *self;
        for number in [epoch.0, seq, first, rows_upto, rows, digest, commits, bytes] {
            value.extend_from_slice(&number.to_be_bytes());
        }
        seal(Table::Head, feed.bytes(), value);
    }

    pub(super) fn decode(feed: UserId, value: &[u8]) -> Outcome<Self> {
        let mut fields = Fields(open(Table::Head, feed.bytes(), value)?);
        Ok(Self {
            epoch: Epoch(fields.u64()?),
            seq: fields.u64()?,
            first: fields.u64()?,
            rows_upto: fields.u64()?,
            rows: fields.u64()?,
            digest: fields.u64()?,
            commits: fields.u64()?,
            bytes: fields.u64()?,
        })
    }
}

/// A row of the log with what it follows, so that a hole is seen.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Commit {
    pub base: Seq,
    pub row: LogRow,
    /// The group of the inbox that it came in; 0 where it was read from its place.
    pub group: u64,
}

impl Commit {
    pub(super) fn encode(&self, table: Table, key: &[u8], value: &mut Vec<u8>) {
        begin(value);
        value.extend_from_slice(&self.base.to_be_bytes());
        value.extend_from_slice(&self.row.append_id.to_be_bytes());
        value.extend_from_slice(&self.row.time.to_be_bytes());
        value.extend_from_slice(&self.row.body);
        seal(table, key, value);
    }

    pub(super) fn decode(feed: UserId, key: &[u8], value: &[u8]) -> Outcome<Self> {
        let last = log_key_seq(feed, key)?;
        let mut fields = Fields(open(Table::Log, key, value)?);
        let (base, append_id, time) = (fields.u64()?, fields.u64()?, fields.i64()?);
        let body = Bytes::copy_from_slice(fields.0);
        Ok(Self {
            base,
            row: LogRow {
                last,
                append_id,
                time,
                body,
            },
            group: 0,
        })
    }
}

/// What trimming needs of a commit.
pub(super) struct CommitMark {
    pub base: Seq,
    pub last: Seq,
    pub time: UnixMs,
    pub bytes: u64,
}

pub(super) fn commit_mark(feed: UserId, key: &[u8], value: &[u8]) -> Outcome<CommitMark> {
    let last = log_key_seq(feed, key)?;
    let mut fields = Fields(open(Table::Log, key, value)?);
    let (base, _append_id, time) = (fields.u64()?, fields.u64()?, fields.i64()?);
    Ok(CommitMark {
        base,
        last,
        time,
        bytes: fields.0.len() as u64,
    })
}

/// A row's `seq` and its part in the digest.
pub(super) struct RowMark {
    pub seq: Seq,
    pub digest: u64,
}

pub(super) fn encode_row(feed: UserId, row: &StoredRow, value: &mut Vec<u8>) -> [u8; ROW_KEY_BYTES] {
    let key = row_key(feed, row.key);
    begin(value);
    value.extend_from_slice(&row.seq.to_be_bytes());
    value.extend_from_slice(&row.body);
    seal(Table::Row, &key, value);
    key
}

pub(super) fn row_mark(key: &[u8], value: &[u8]) -> Outcome<RowMark> {
    let mut fields = Fields(open(Table::Row, key, value)?);
    Ok(RowMark {
        seq: fields.u64()?,
        digest: row_digest(value),
    })
}

pub(super) fn decode_row(feed: UserId, key: &[u8], value: &[u8]) -> Outcome<StoredRow> {
    let mut fields = Fields(open(Table::Row, key, value)?);
    Ok(StoredRow {
        key: row_of_key(feed, key)?,
        seq: fields.u64()?,
        body: Bytes::copy_from_slice(fields.0),
    })
}

/// A number for one stored value. Its checksum covers key and bytes; mixing spreads it so that two changes do not cancel.
pub(super) fn row_digest(value: &[u8]) -> u64 {
    let sum = value
        .first_chunk::<SUM_BYTES>()
        .map_or(0, |sum| u32::from_be_bytes(*sum));
    // SplitMix64 (Steele, Lea, Flood 2014).
    let mut mixed = u64::from(sum).wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// One append in a group of the inbox.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Filed {
    pub feed: UserId,
    pub epoch: Epoch,
    pub commit: Commit,
}

/// Bytes of a group that are not bodies, for each append.
pub(super) const FILED_BYTES: usize = 16 + 5 * 8 + 4;

/// Adds an append to a group that was begun with [`begin`].
pub(super) fn file(group: &mut Vec<u8>, feed: UserId, epoch: Epoch, base: Seq, row: &LogRow) {
    group.extend_from_slice(feed.bytes());
    for number in [epoch.0, base, row.last, row.append_id, row.time.cast_unsigned()] {
        group.extend_from_slice(&number.to_be_bytes());
    }
    group.extend_from_slice(&(row.body.len() as u32).to_be_bytes());
    group.extend_from_slice(&row.body);
}

pub(super) fn seal_group(number: u64, group: &mut [u8]) {
    seal(Table::Inbox, &number.to_be_bytes(), group);
}

pub(super) fn decode_group(number: u64, group: &[u8]) -> Outcome<Vec<Filed>> {
    let mut fields = Fields(open(Table::Inbox, &number.to_be_bytes(), group)?);
    let mut filed = Vec::new();
    while !fields.0.is_empty() {
        let feed = UserId(fields.uuid()?);
        let epoch = Epoch(fields.u64()?);
        let (base, last, append_id) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let time: UnixMs = fields.i64()?;
        let length = u32::from_be_bytes(fields.bytes()?) as usize;
        let body = Bytes::copy_from_slice(fields.slice(length)?);
        let commit = Commit {
            base,
            row: LogRow {
                last,
                append_id,
                time,
                body,
            },
            group: number,
        };
        filed.push(Filed { feed, epoch, commit });
    }
    Ok(filed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_refused_under_another_key_or_in_another_table() {
        let feed = UserId(Uuid::from_u128(1));
        let mut value = Vec::new();
        StoredHead::born(Epoch(7)).encode(feed, &mut value);
        assert_eq!(StoredHead::decode(feed, &value), Ok(StoredHead::born(Epoch(7))));
        let other = UserId(Uuid::from_u128(2));
        let mismatch = Fault::Damaged("the checksum does not match".to_owned());
        assert_eq!(StoredHead::decode(other, &value), Err(mismatch.clone()));
        assert_eq!(open(Table::Account, feed.bytes(), &value), Err(mismatch));
    }

    #[test]
    fn a_group_comes_back_as_it_was_filed() {
        let feed = UserId(Uuid::from_u128(3));
        let row = LogRow {
            last: 5,
            append_id: 6,
            time: -7,
            body: Bytes::from_static(b"body"),
        };
        let mut group = Vec::new();
        begin(&mut group);
        file(&mut group, feed, Epoch(9), 4, &row);
        file(&mut group, feed, Epoch(9), 5, &LogRow { last: 6, ..row.clone() });
        seal_group(12, &mut group);
        let filed = decode_group(12, &group).unwrap();
        assert_eq!(filed.len(), 2);
        assert_eq!(
            filed[0],
            Filed {
                feed,
                epoch: Epoch(9),
                commit: Commit {
                    base: 4,
                    row,
                    group: 12
                }
            }
        );
        assert_eq!(
            decode_group(13, &group),
            Err(Fault::Damaged("the checksum does not match".to_owned()))
        );
    }
}
