//! The stored form of commits and rows: a byte with the format's version, then MessagePack with short string keys.
//!
//! Reading is tolerant in one direction: a key that this build does not know is skipped, an absent one has its ordinary
//! value. A *change* that it does not know is an error, because a log that is half understood would be lost quietly.
//! What old builds must not read gets a new version byte.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use taskflow_protocol::Encoding;
use taskflow_protocol::message::Operation;

use super::entry::Entry;

/// The format that is written: the first byte of every body.
pub const FORMAT: u8 = 1;

/// Why a stored body was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// There is not even a version byte.
    #[error("the stored body is empty")]
    Empty,
    /// A newer build wrote it, or it is damaged.
    #[error("the stored body has format {0}, this build reads {FORMAT}")]
    Format(u8),
    /// It is not what the format says.
    #[error("the stored body does not decode: {0}")]
    Malformed(String),
    /// A commit whose entries are not dense.
    #[error("the entries of the commit are not dense: {0} after {1}")]
    NotDense(u64, u64),
    /// A row under the key, or with the version, of another.
    #[error("the stored row is not the one that its key and version say")]
    OtherRow,
}

/// Writes the body of one commit.
pub fn encode_commit(entries: &[Entry]) -> Vec<u8> {
    encode(entries, 224 * entries.len())
}

/// Reads the body of one commit: entries in order, without a hole.
pub fn decode_commit(body: &[u8]) -> Result<Vec<Entry>, CodecError> {
    let entries: Vec<Entry> = decode(body)?;
    for pair in entries.windows(2) {
        if pair[1].seq != pair[0].seq.wrapping_add(1) {
            return Err(CodecError::NotDense(pair[1].seq, pair[0].seq));
        }
    }
    Ok(entries)
}

/// Writes the body of one row.
pub(super) fn encode_row<T: Serialize>(row: &T) -> Vec<u8> {
    encode(row, 192)
}

/// Reads the body of one row.
pub(super) fn decode_row<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    decode(body)
}

fn encode<T: Serialize + ?Sized>(value: &T, bytes_expected: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(1 + bytes_expected);
    body.push(FORMAT);
    let mut serializer = rmp_serde::Serializer::new(&mut body).with_struct_map();
    value
        .serialize(&mut serializer)
        .expect("rows and entries are plain data and the writer is memory: neither can fail");
    body
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    let (&format, mut rest) = body.split_first().ok_or(CodecError::Empty)?;
    if format != FORMAT {
        return Err(CodecError::Format(format));
    }
    let value = {
        let mut deserializer = rmp_serde::Deserializer::new(&mut rest);
        T::deserialize(&mut deserializer).map_err(|error| CodecError::Malformed(error.to_string()))?
    };
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(CodecError::Malformed("there are bytes after it".to_owned()))
    }
}

/// Tells an operation that is sent again from another one under the same id: the first 8 bytes of SHA-256 over the
/// MessagePack of its base and command. Two encodings or spellings that decode to the same are the same.
pub fn operation_hash(operation: &Operation) -> u64 {
    let canonical = Encoding::MsgPack.encode(&(operation.base, &operation.command));
    let digest = Sha256::digest(&canonical);
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}
