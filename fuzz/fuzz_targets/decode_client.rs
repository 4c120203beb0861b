//! Whatever a client sends is read without a panic, and what was understood is understood again when written.
//!
//! `cargo +nightly fuzz run decode_client fuzz/corpus/decode_client protocol/golden/client protocol/golden/command`
//! The same property runs on the stable toolchain in `protocol/tests/mutations.rs`, with the same corpus.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taskflow_protocol::Encoding;
use taskflow_protocol::codec::Decoded;

fuzz_target!(|bytes: &[u8]| {
    for encoding in [Encoding::Json, Encoding::MsgPack] {
        if let Ok(Decoded::Message(message)) = encoding.decode_client(bytes) {
            let again = encoding.decode_client(&encoding.encode(&message));
            assert_eq!(again, Ok(Decoded::Message(message)));
        }
        let _ = encoding.decode_operations(bytes);
        let _ = encoding.decode_server(bytes);
    }
});
