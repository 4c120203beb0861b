//! How bodies are stored: a checksum in front, and large ones compressed.
//!
//! The database writes a commit several times over before it answers (the promise, the proposal, the commit itself, and each of
//! them on every replica): above a kibibyte every byte less is time.

use bytes::{BufMut as _, Bytes};
use lz4_flex::block;
use taskflow_protocol::limits::COMMIT_BYTES_MAX;

/// Bytes from which on a body is compressed: below, one less does not matter.
const PACK_BYTES: usize = 1024;

/// The first byte of what is compressed: the length of the body follows, then an LZ4 block. A body that begins with it by
/// itself is compressed whatever its size.
const PACKED: u8 = 0xc1;

/// Bytes that a compressed body may have: more than the largest commit, and so than the largest row. What says that it has
/// more is damaged.
const UNPACKED_BYTES_MAX: usize = 16 * 1024 * 1024;
const _: () = assert!(COMMIT_BYTES_MAX <= UNPACKED_BYTES_MAX, "what is written can be read");

/// A body as it is stored.
pub(super) fn seal(body: &[u8], compress: bool) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(4 + body.len());
    sealed.put_u32(0);
    if (compress && body.len() > PACK_BYTES) || body.first() == Some(&PACKED) {
        sealed.put_u8(PACKED);
        sealed.extend(block::compress_prepend_size(body));
    } else {
        sealed.extend_from_slice(body);
    }
    let sum = crc32c::crc32c(&sealed[4..]);
    sealed[..4].copy_from_slice(&sum.to_be_bytes());
    sealed
}

/// The body that was stored; `None` if it is not what was written.
pub(super) fn unseal(sealed: &Bytes) -> Option<Bytes> {
    let (sum, stored) = sealed.split_first_chunk::<4>()?;
    if u32::from_be_bytes(*sum) != crc32c::crc32c(stored) {
        return None;
    }
    let Some(packed) = stored.strip_prefix(&[PACKED]) else {
        return Some(sealed.slice(4..));
    };
    let (length, _) = block::uncompressed_size(packed).ok()?;
    if length > UNPACKED_BYTES_MAX {
        return None;
    }
    block::decompress_size_prepended(packed).ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(body: &[u8], compress: bool) -> Bytes {
        Bytes::from(seal(body, compress))
    }

    #[test]
    fn what_was_sealed_comes_back() {
        let alike = vec![7; 9_000];
        let random: Vec<u8> = std::iter::repeat_with(rand::random).take(9_000).collect();
        let marked: Vec<u8> = [&[PACKED], alike.as_slice()].concat();
        for body in [&[][..], &[1], &[PACKED], &[PACKED, 1], &alike, &random, &marked] {
            for compress in [false, true] {
                assert_eq!(unseal(&sealed(body, compress)).expect("whole"), body);
            }
        }
    }

    #[test]
    fn only_what_is_large_is_compressed_and_only_if_it_may_be() {
        let bytes = |length: usize, compress| seal(&vec![7; length], compress).len();
        assert_eq!(bytes(PACK_BYTES, true), 4 + PACK_BYTES);
        assert!(bytes(PACK_BYTES + 1, true) < 100);
        assert_eq!(bytes(PACK_BYTES + 1, false), 4 + PACK_BYTES + 1);
    }

    #[test]
    fn what_an_older_build_stored_is_read() {
        let body = [1, 2, 3];
        let stored = [&crc32c::crc32c(&body).to_be_bytes()[..], &body].concat();
        assert_eq!(unseal(&Bytes::from(stored)).expect("whole"), body.as_slice());
    }

    #[test]
    fn what_is_damaged_is_nothing() {
        let good = seal(&vec![7; 9_000], true);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(unseal(&Bytes::from(bad)), None, "byte {at}");
            assert_eq!(unseal(&Bytes::copy_from_slice(&good[..at])), None, "{at} bytes");
        }
    }

    #[test]
    fn a_length_that_nobody_wrote_takes_no_memory() {
        let mut stored = vec![PACKED];
        stored.extend((u32::MAX - 1).to_le_bytes());
        stored.extend([0; 16]);
        let sealed = [&crc32c::crc32c(&stored).to_be_bytes()[..], &stored].concat();
        assert_eq!(unseal(&Bytes::from(sealed)), None);
    }
}
