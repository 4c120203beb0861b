//! Damaged documents: whatever bytes come, reading them does not panic, takes bounded memory and bounded time, and the
//! code that comes out is one for bad documents.
//!
//! `FUZZ_SECONDS` says for how long each test goes on (2 by default); `make test` gives it 60. A failure prints the seed
//! and the bytes.

#![allow(clippy::panic, reason = "helpers of tests")]

#[path = "common/catalog.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod catalog;

use std::hash::{BuildHasher, RandomState};
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use catalog::ENCODINGS;
use peak_alloc::PeakAlloc;
use taskflow_protocol::codec::Decoded;
use taskflow_protocol::limits::MESSAGE_BYTES_MAX;
use taskflow_protocol::message::Outcome;
use taskflow_protocol::{Code, Encoding};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Memory is counted for the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Memory that reading a message may take, for each of its bytes and altogether.
///
/// The worst is an array of nils, one byte each, read as a generic document to explain what is wrong with it: 32 bytes an
/// item in an array that doubles as it grows, while the old half is still there: 48 bytes of memory a byte.
const MEMORY_A_BYTE: usize = 64;
const MEMORY_BASE: usize = 64 * 1024;

fn budget() -> Duration {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

/// The golden files, and what the fuzz targets have found worth keeping.
fn corpus() -> Vec<Vec<u8>> {
    let mut corpus: Vec<_> = catalog::catalog()
        .iter()
        .filter(|golden| ["client", "command"].contains(&golden.folder))
        .flat_map(|golden| ENCODINGS.map(|(encoding, _)| (golden.encode)(encoding)))
        .collect();
    let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/decode_client");
    for file in std::fs::read_dir(kept).expect("fuzz/corpus is there") {
        corpus.push(std::fs::read(file.expect("an entry").path()).expect("a readable file"));
    }
    corpus
}

/// Reads the bytes as a client's message in one encoding and looks at everything that comes out.
fn read(encoding: Encoding, bytes: &[u8]) {
    match encoding.decode_client(bytes) {
        Ok(Decoded::Message(message)) => {
            // What was understood is understood again when it is written.
            let again = encoding.decode_client(&encoding.encode(&message));
            assert_eq!(again, Ok(Decoded::Message(message)));
        }
        Ok(Decoded::Partly(_, refused)) => {
            assert!(!refused.is_empty(), "what was not understood is refused");
            for result in refused {
                match result.outcome {
                    Outcome::Refused(error) => assert_eq!(error.code, Code::InvalidField),
                    other => panic!("{other:?} is no refusal"),
                }
            }
        }
        Err(error) => assert!(
            [
                Code::Malformed,
                Code::UnknownMessage,
                Code::InvalidField,
                Code::TooLarge,
                Code::TooManyOperations,
                Code::InvalidUtf8,
            ]
            .contains(&error.code),
            "{error}"
        ),
    }
    // A client reads what a server sends with the same care.
    let _ = encoding.decode_server(bytes);
}

/// Reads, and says the seed and bytes if it panics or takes too much.
fn check(seed: u64, bytes: &[u8]) {
    for (encoding, name) in ENCODINGS {
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        let outcome = catch_unwind(|| read(encoding, bytes));
        let taken = MEMORY.peak_usage().saturating_sub(before);
        assert!(outcome.is_ok(), "seed {seed}: {name} panics on {bytes:x?}");
        let allowed = MEMORY_BASE + bytes.len() * MEMORY_A_BYTE;
        assert!(
            taken <= allowed,
            "seed {seed}: {name} takes {taken} bytes for {bytes:x?}"
        );
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): a seed repeats a failure.
struct Random(u64);

impl Random {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below `end`; 0 if there is nothing below it.
    fn below(&mut self, end: usize) -> usize {
        (self.number() % end.max(1) as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        self.number() as u8
    }
}

/// One to eight small changes: what lengths, markers and borders are most likely to get wrong.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len());
        match random.below(8) {
            _ if bytes.is_empty() => bytes.push(random.byte()),
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.byte(),
            // The markers of MessagePack and the signs of JSON.
            2 => {
                let signs = b"\x80\x81\x90\x91\xa0\xc0\xc1\xc4\xc7\xca\xcb\xcf\xd3\xd4\xd9\xdb\xdc\xdd\xde\xdf\xff{}[]\",:\\-0eE\0";
                bytes[at] = signs[random.below(signs.len())];
            }
            3 => bytes.truncate(at),
            4 => drop(bytes.remove(at)),
            5 => bytes.insert(at, random.byte()),
            // A piece of itself again.
            6 => {
                let end = at + random.below(bytes.len() - at);
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            // A piece of another.
            _ => {
                let other = &corpus[random.below(corpus.len())];
                let (from, to) = (random.below(other.len()), random.below(bytes.len()));
                bytes.splice(to.., other[from..].iter().copied());
            }
        }
    }
}

#[test]
fn flipping_any_bit_of_a_golden_document_is_survived() {
    let _alone = ALONE.lock();
    for golden in catalog::catalog() {
        for (encoding, _) in ENCODINGS {
            let mut bytes = (golden.encode)(encoding);
            if bytes.len() > 400 {
                continue;
            }
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                check(0, &bytes);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}

#[test]
fn damaged_messages_are_survived() {
    let _alone = ALONE.lock();
    let corpus = corpus();
    let seed = std::env::var("FUZZ_SEED").ok().and_then(|text| text.parse().ok());
    // The standard library's hasher is where a program gets a random number without asking for one.
    let seed: u64 = seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    let mut random = Random(seed);
    let (begun, mut rounds) = (Instant::now(), 0_u64);
    while begun.elapsed() < budget() {
        for original in &corpus {
            let mut bytes = original.clone();
            mutate(&mut random, &mut bytes, &corpus);
            check(seed, &bytes);
            rounds += 1;
        }
    }
    assert!(rounds > 1_000, "only {rounds} documents in {:?}", budget());
}

#[test]
fn the_worst_message_takes_bounded_memory() {
    let _alone = ALONE.lock();
    // A length that promises much more than there is.
    check(0, b"\x81\xaaoperations\x81\xaaoperations\xdd\xff\xff\xff\xff\x80");
    let mut array = vec![0xdd];
    array.extend_from_slice(&(MESSAGE_BYTES_MAX as u32 - 5).to_be_bytes());
    array.resize(MESSAGE_BYTES_MAX, 0xc0);
    check(0, &array);
    check(0, format!("[{}0]", "0,".repeat(MESSAGE_BYTES_MAX / 2 - 2)).as_bytes());
    check(0, "[".repeat(MESSAGE_BYTES_MAX).as_bytes());
    check(0, &[0x91].repeat(MESSAGE_BYTES_MAX));
    let mut map = vec![0xde, 0xff, 0xff];
    for key in 0..65_535_u32 {
        let digit = |place: u32| b' ' + (key / 90_u32.pow(place) % 90) as u8;
        map.extend([0xa3, digit(0), digit(1), digit(2), 0xc0]);
    }
    check(0, &map[..MESSAGE_BYTES_MAX.min(map.len())]);
    let operations = format!(
        r#"{{"operations":{{"operations":[{}7]}}}}"#,
        r#"{"id":"0197a3c0-5555-7aaa-8000-000000000006"},"#.repeat(5_000)
    );
    check(0, operations.as_bytes());
}
