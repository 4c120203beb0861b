//! WebSocket frames (RFC 6455, section 5) on top of actix-http's parser, which knows the bits, masks and opcodes.
//!
//! What is added here: lengths are checked as soon as the header is there (the parser waits for the whole frame), text
//! is checked for UTF-8 as its fragments arrive, fragments are joined within limits, and frames for clients are built
//! once and shared.

use actix_http::ws::{OpCode, Parser};
use bytes::{Bytes, BytesMut};
use taskflow_protocol::limits::{FRAGMENTS_MAX, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX};
use taskflow_protocol::{Code, Encoding};

/// What a client sent.
#[derive(Debug, PartialEq)]
pub enum Incoming {
    /// A whole message, text or binary as the connection's encoding demands.
    Message(BytesMut),
    /// To be answered with a pong of the same payload.
    Ping(BytesMut),
    /// Nothing to do.
    Pong,
    /// The peer closes; with the code it gave, if any.
    Close(Option<u16>),
}

/// The rarely used part of a decoder: a connection that sends whole frames never has one.
#[derive(Debug, Default)]
struct Partial {
    /// Bytes of an incomplete frame.
    bytes: BytesMut,
    /// Fragments of an incomplete message.
    fragments: Option<Fragments>,
}

#[derive(Debug)]
struct Fragments {
    payload: BytesMut,
    count: usize,
    /// So much of a text is known to be valid UTF-8.
    valid: usize,
}

/// Takes bytes as they arrive and gives what they say. Holds no memory between whole messages.
#[derive(Debug)]
pub struct Decoder {
    encoding: Encoding,
    partial: Option<Box<Partial>>,
}

impl Decoder {
    /// For a connection that agreed on this encoding.
    pub fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            partial: None,
        }
    }

    /// Takes bytes that were just read; `each` gets what they say, and says whether to go on. Leaves nothing in `read`:
    /// what is incomplete is kept here.
    pub fn feed<E>(
        &mut self,
        read: &mut BytesMut,
        mut each: impl FnMut(&mut Self, &mut BytesMut) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut kept = self
            .partial
            .as_mut()
            .map(|partial| std::mem::take(&mut partial.bytes))
            .unwrap_or_default();
        let result = if kept.is_empty() {
            let result = each(self, read);
            if !read.is_empty() {
                self.partial.get_or_insert_default().bytes = BytesMut::from(&read[..]);
            }
            result
        } else {
            // Grown, not copied: a message that comes byte by byte costs no more than one that comes at once.
            kept.extend_from_slice(read);
            let result = each(self, &mut kept);
            if !kept.is_empty() {
                self.partial.get_or_insert_default().bytes = kept;
            }
            result
        };
        read.clear();
        let idle = |partial: &Partial| partial.bytes.is_empty() && partial.fragments.is_none();
        if self.partial.as_deref().is_some_and(idle) {
            self.partial = None;
        }
        result
    }

    /// Takes the next message or control frame out of `bytes`; `None`: more bytes are needed.
    pub fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Incoming>, Code> {
        loop {
            // The parser would reserve what the header promises; bytes are cheaper to promise than to send.
            if check_header(bytes)?.is_none_or(|length| bytes.len() < length) {
                return Ok(None);
            }
            let parsed = Parser::parse(bytes, true, FRAME_BYTES_MAX).map_err(|_| Code::FramingError)?;
            let Some((finished, opcode, payload)) = parsed else {
                return Ok(None);
            };
            let payload = payload.unwrap_or_default();
            match opcode {
                OpCode::Ping => return Ok(Some(Incoming::Ping(payload))),
                OpCode::Pong => return Ok(Some(Incoming::Pong)),
                OpCode::Close => return parse_close(&payload).map(|code| Some(Incoming::Close(code))),
                OpCode::Text | OpCode::Binary | OpCode::Continue => {
                    if let Some(message) = self.take_data(opcode, finished, payload)? {
                        return Ok(Some(Incoming::Message(message)));
                    }
                }
                OpCode::Bad => return Err(Code::FramingError),
            }
        }
    }

    /// Joins fragments; gives the message when it is whole.
    fn take_data(&mut self, opcode: OpCode, finished: bool, payload: BytesMut) -> Result<Option<BytesMut>, Code> {
        let open = self.partial.as_ref().is_some_and(|partial| partial.fragments.is_some());
        if open != matches!(opcode, OpCode::Continue) {
            return Err(Code::FramingError);
        }
        let text = self.encoding == Encoding::Json;
        if !open {
            if text != matches!(opcode, OpCode::Text) {
                return Err(Code::WrongEncoding);
            }
            if finished {
                if text && std::str::from_utf8(&payload).is_err() {
                    return Err(Code::InvalidUtf8);
                }
                return Ok(Some(payload));
            }
            let mut fragments = Fragments {
                payload,
                count: 1,
                valid: 0,
            };
            if text {
                fragments.check_text(false)?;
            }
            self.partial.get_or_insert_default().fragments = Some(fragments);
            return Ok(None);
        }
        let partial = self.partial.as_mut().expect("an open message has its fragments here");
        let fragments = partial
            .fragments
            .as_mut()
            .expect("an open message has its fragments here");
        if fragments.payload.len() + payload.len() > MESSAGE_BYTES_MAX || fragments.count == FRAGMENTS_MAX {
            return Err(Code::TooLarge);
        }
        fragments.payload.extend_from_slice(&payload);
        fragments.count += 1;
        if text {
            fragments.check_text(finished)?;
        }
        Ok(if finished {
            partial.fragments.take().map(|fragments| fragments.payload)
        } else {
            None
        })
    }
}

impl Fragments {
    /// Fails at the first byte that cannot be UTF-8; a character may be cut only before the end.
    fn check_text(&mut self, finished: bool) -> Result<(), Code> {
        match std::str::from_utf8(&self.payload[self.valid..]) {
            Ok(text) => self.valid += text.len(),
            Err(error) if error.error_len().is_none() && !finished => self.valid += error.valid_up_to(),
            Err(_) => return Err(Code::InvalidUtf8),
        }
        Ok(())
    }
}

/// Refuses what can be refused from the header alone, before its payload is waited for. Gives the length of the whole
/// frame, if the header is all there.
fn check_header(bytes: &[u8]) -> Result<Option<usize>, Code> {
    let [first, second, ..] = bytes else { return Ok(None) };
    let (opcode, short) = (first & 0x0f, second & 0x7f);
    if first & 0x70 != 0 || second & 0x80 == 0 || !matches!(opcode, 0..=2 | 8..=10) {
        return Err(Code::FramingError);
    }
    if opcode >= 8 && (short > 125 || first & 0x80 == 0) {
        return Err(Code::FramingError);
    }
    let (header, length) = match (short, bytes) {
        (126, [_, _, a, b, ..]) => (4, u64::from(u16::from_be_bytes([*a, *b]))),
        (127, [_, _, a, b, c, d, e, f, g, h, ..]) => (10, u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h])),
        (126 | 127, _) => return Ok(None),
        _ => (2, u64::from(short)),
    };
    // The shortest form is the only one (section 5.2), and the highest bit is never set.
    let overlong = match short {
        126 => length < 126,
        127 => length <= u64::from(u16::MAX),
        _ => false,
    };
    if overlong || length > i64::MAX as u64 {
        return Err(Code::FramingError);
    }
    if length > FRAME_BYTES_MAX as u64 {
        return Err(Code::TooLarge);
    }
    const MASK: usize = 4;
    Ok(Some(header + MASK + length as usize))
}

/// Checks the payload of a close frame (section 5.5.1 and 7.4).
fn parse_close(payload: &[u8]) -> Result<Option<u16>, Code> {
    match payload {
        [] => Ok(None),
        [_] => Err(Code::FramingError),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(Code::FramingError);
            }
            if std::str::from_utf8(reason).is_err() {
                return Err(Code::InvalidUtf8);
            }
            Ok(Some(code))
        }
    }
}

/// A finished frame with this payload.
pub fn message(encoding: Encoding, payload: &[u8]) -> Bytes {
    let opcode = match encoding {
        Encoding::Json => 1,
        Encoding::MsgPack => 2,
    };
    frame(opcode, payload)
}

/// The answer to a ping.
pub fn pong(payload: &[u8]) -> Bytes {
    frame(10, payload)
}

/// A close frame; the reason is cut to what a control frame can carry.
pub fn close(code: u16, reason: &str) -> Bytes {
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = Vec::with_capacity(2 + end);
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    frame(8, &payload)
}

fn frame(opcode: u8, payload: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(payload.len() + 10);
    bytes.push(0x80 | opcode);
    match payload.len() {
        length @ 0..=125 => bytes.push(length as u8),
        length @ 126..=0xffff => {
            bytes.push(126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    Bytes::from(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as a client sends it: masked.
    fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = frame(first & 0x0f, payload).to_vec();
        bytes[0] = first;
        let header = bytes.len() - payload.len();
        bytes[1] |= 0x80;
        let mask = [0x12, 0x34, 0x56, 0x78];
        bytes.splice(header..header, mask);
        for (index, byte) in bytes[header + 4..].iter_mut().enumerate() {
            *byte ^= mask[index % 4];
        }
        bytes
    }

    /// What a decoder says to bytes that arrive in these pieces.
    fn decode(encoding: Encoding, pieces: &[&[u8]]) -> Result<Vec<Incoming>, Code> {
        let mut decoder = Decoder::new(encoding);
        let mut all = Vec::new();
        for piece in pieces {
            decoder.feed(&mut BytesMut::from(*piece), |decoder, bytes| {
                while let Some(incoming) = decoder.next(bytes)? {
                    all.push(incoming);
                }
                Ok(())
            })?;
        }
        Ok(all)
    }

    fn text(bytes: &[u8]) -> Result<Vec<Incoming>, Code> {
        decode(Encoding::Json, &[bytes])
    }

    fn message(payload: &[u8]) -> Incoming {
        Incoming::Message(BytesMut::from(payload))
    }

    #[test]
    fn a_message_is_the_same_in_however_many_pieces_it_arrives() {
        let frames = [
            client_frame(0x81, b"hello"),
            client_frame(0x89, b"?"),
            client_frame(0x81, &[b'x'; 300]),
        ]
        .concat();
        let expected = text(&frames);
        assert_eq!(expected.as_ref().map(Vec::len), Ok(3));
        for cut in 1..frames.len() {
            assert_eq!(
                decode(Encoding::Json, &[&frames[..cut], &frames[cut..]]),
                expected,
                "cut at {cut}"
            );
        }
        let single: Vec<&[u8]> = frames.chunks(1).collect();
        assert_eq!(decode(Encoding::Json, &single), expected);
    }

    #[test]
    fn fragments_are_joined_and_control_frames_may_come_between() {
        let frames = [
            client_frame(0x01, b"he"),
            client_frame(0x89, b"ping"),
            client_frame(0x00, b"ll"),
            client_frame(0x80, b"o"),
        ];
        let expected = vec![Incoming::Ping(BytesMut::from(&b"ping"[..])), message(b"hello")];
        assert_eq!(text(&frames.concat()), Ok(expected));
    }

    #[test]
    fn what_breaks_the_framing_is_refused() {
        let cases: [(&str, Vec<u8>); 16] = [
            ("reserved bit", client_frame(0xc1, b"x")),
            ("unmasked", frame(1, b"x").to_vec()),
            ("reserved opcode", client_frame(0x83, b"x")),
            ("reserved control opcode", client_frame(0x8b, b"x")),
            ("fragmented ping", client_frame(0x09, b"x")),
            ("long ping", client_frame(0x89, &[0; 126])),
            ("continuation of nothing", client_frame(0x80, b"x")),
            (
                "a new message within a message",
                [client_frame(0x01, b"a"), client_frame(0x81, b"b")].concat(),
            ),
            ("close with one byte", client_frame(0x88, b"x")),
            ("close with code 999", client_frame(0x88, &999u16.to_be_bytes())),
            ("close with code 1005", client_frame(0x88, &1005u16.to_be_bytes())),
            ("close with code 1006", client_frame(0x88, &1006u16.to_be_bytes())),
            ("close with code 5000", client_frame(0x88, &5000u16.to_be_bytes())),
            (
                "a length with the highest bit",
                vec![0x81, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0],
            ),
            ("125 in two bytes", vec![0x81, 0xfe, 0, 125]),
            ("65,535 in eight bytes", vec![0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
        ];
        for (name, bytes) in cases {
            assert_eq!(text(&bytes), Err(Code::FramingError), "{name}");
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_payload_comes() {
        let mut header = vec![0x81, 0xff];
        header.extend_from_slice(&(FRAME_BYTES_MAX as u64 + 1).to_be_bytes());
        assert_eq!(text(&header), Err(Code::TooLarge));
        let half = vec![b'x'; MESSAGE_BYTES_MAX / 2 + 1];
        assert_eq!(
            text(&[client_frame(0x01, &half), client_frame(0x80, &half)].concat()),
            Err(Code::TooLarge)
        );
        let whole = vec![b'x'; MESSAGE_BYTES_MAX];
        assert_eq!(text(&client_frame(0x81, &whole)), Ok(vec![message(&whole)]));
    }

    #[test]
    fn a_message_of_countless_empty_fragments_is_refused() {
        let mut bytes = client_frame(0x01, b"");
        for _ in 0..FRAGMENTS_MAX {
            bytes.extend(client_frame(0x00, b""));
        }
        assert_eq!(text(&bytes), Err(Code::TooLarge));
    }

    #[test]
    fn text_is_utf8_and_a_fragment_may_end_within_a_character() {
        let euro = "€".as_bytes();
        assert_eq!(text(&client_frame(0x81, &euro[..2])), Err(Code::InvalidUtf8));
        let whole = [
            client_frame(0x01, &euro[..1]),
            client_frame(0x00, &euro[1..2]),
            client_frame(0x80, &euro[2..]),
        ];
        assert_eq!(text(&whole.concat()), Ok(vec![message(euro)]));
        // What can no longer become valid is refused at once, not at the end.
        assert_eq!(text(&client_frame(0x01, b"\xff")), Err(Code::InvalidUtf8));
        let cut = [client_frame(0x01, &euro[..1]), client_frame(0x80, b"")];
        assert_eq!(text(&cut.concat()), Err(Code::InvalidUtf8));
        assert_eq!(text(&client_frame(0x88, b"\x03\xe8\xff")), Err(Code::InvalidUtf8));
    }

    #[test]
    fn the_agreed_encoding_is_the_only_one() {
        assert_eq!(text(&client_frame(0x82, b"x")), Err(Code::WrongEncoding));
        assert_eq!(
            decode(Encoding::MsgPack, &[&client_frame(0x81, b"x")]),
            Err(Code::WrongEncoding)
        );
        assert_eq!(
            decode(Encoding::MsgPack, &[&client_frame(0x82, b"\xff")]),
            Ok(vec![message(b"\xff")])
        );
    }

    #[test]
    fn close_codes_that_exist_are_taken() {
        for code in [1000, 1001, 1003, 1007, 1011, 1014, 3000, 3999, 4000, 4999u16] {
            let close = client_frame(0x88, &code.to_be_bytes());
            assert_eq!(text(&close), Ok(vec![Incoming::Close(Some(code))]));
        }
        assert_eq!(text(&client_frame(0x88, b"")), Ok(vec![Incoming::Close(None)]));
    }

    #[test]
    fn nothing_is_kept_between_whole_messages() {
        let mut decoder = Decoder::new(Encoding::Json);
        for piece in [client_frame(0x01, b"a"), client_frame(0x80, b"b")] {
            let all = |decoder: &mut Decoder, bytes: &mut BytesMut| {
                while decoder.next(bytes)?.is_some() {}
                Ok::<_, Code>(())
            };
            decoder.feed(&mut BytesMut::from(&piece[..]), all).expect("valid");
        }
        assert!(decoder.partial.is_none());
    }

    #[test]
    fn a_close_reason_is_cut_between_characters() {
        let bytes = close(1000, &"é".repeat(100));
        assert!(bytes.len() <= 2 + 125);
        assert!(std::str::from_utf8(&bytes[4..]).is_ok());
    }

    /// Frames in any order, with damage, in any pieces: never a panic, the same verdict whole and in pieces, and nothing
    /// kept beyond one message. Goes on for `FUZZ_SECONDS` (2; `make test` gives it 60); a failure prints the seed.
    #[test]
    fn damaged_frames_are_refused_alike_in_any_pieces() {
        use rand::rngs::StdRng;
        use rand::{Rng, SeedableRng};

        let seconds = std::env::var("FUZZ_SECONDS")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(2);
        let (begun, first): (_, u64) = (std::time::Instant::now(), rand::random());
        let mut rounds = 0;
        while begun.elapsed().as_secs() < seconds {
            let seed = first.wrapping_add(rounds);
            rounds += 1;
            let mut random = StdRng::seed_from_u64(seed);
            let mut bytes = Vec::new();
            for _ in 0..random.random_range(1..6) {
                let opcode = [0x81, 0x82, 0x01, 0x00, 0x80, 0x88, 0x89, 0x8a][random.random_range(0..8)];
                let length = [0, 1, 2, 125, 126, 127, 700, 70_000][random.random_range(0..8)];
                let byte = [b'x', 0xe2, 0x82, 0xac, 0x03, 0xff][random.random_range(0..6)];
                bytes.extend(client_frame(opcode, &vec![byte; length]));
            }
            for _ in 0..random.random_range(0..3) {
                let at = random.random_range(0..bytes.len().min(200));
                bytes[at] = random.random();
            }
            let encoding = [Encoding::Json, Encoding::MsgPack][random.random_range(0..2)];
            let mut cuts: Vec<usize> = (0..random.random_range(0..6))
                .map(|_| random.random_range(0..=bytes.len()))
                .collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            let whole = decode(encoding, &[&bytes]);
            assert_eq!(whole, decode(encoding, &pieces), "seed {seed}");
            let codes = [
                Code::FramingError,
                Code::TooLarge,
                Code::InvalidUtf8,
                Code::WrongEncoding,
            ];
            assert!(
                whole.is_ok() || whole.is_err_and(|code| codes.contains(&code)),
                "seed {seed}"
            );
        }
        assert!(rounds > 100, "{rounds} rounds");
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused_in_any_pieces(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 0usize..600) {
            let whole = text(&bytes);
            let cut = cut.min(bytes.len());
            let pieces = decode(Encoding::Json, &[&bytes[..cut], &bytes[cut..]]);
            // Whether in one piece or two, the verdict is the same.
            prop_assert_eq!(whole, pieces);
        }

        #[test]
        fn any_fragmentation_gives_the_message(payload in ".{0,200}", cuts in proptest::collection::vec(0usize..800, 0..6)) {
            let bytes = payload.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            cuts.insert(0, 0);
            cuts.push(bytes.len());
            let last = cuts.len() - 2;
            let frames: Vec<u8> = cuts.windows(2).enumerate().flat_map(|(index, cut)| {
                let opcode = if index == 0 { 1 } else { 0 } | if index == last { 0x80 } else { 0 };
                client_frame(opcode, &bytes[cut[0]..cut[1]])
            }).collect();
            prop_assert_eq!(text(&frames), Ok(vec![message(bytes)]));
        }
    }
}
