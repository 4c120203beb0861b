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

    /// Puts kept bytes before new ones. Call once after each read, before [`Decoder::next`].
    pub fn begin(&mut self, read: &mut BytesMut) {
        if let Some(partial) = &mut self.partial
            && !partial.bytes.is_empty()
        {
            let mut joined = std::mem::take(&mut partial.bytes);
            joined.extend_from_slice(read);
            *read = joined;
        }
    }

    /// Keeps what is left for the next read, and gives up memory that is not needed.
    pub fn end(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            self.partial.get_or_insert_default().bytes = BytesMut::from(rest);
        } else if self.partial.as_ref().is_some_and(|partial| partial.fragments.is_none()) {
            self.partial = None;
        }
    }

    /// Takes the next message or control frame out of `bytes`; `None`: more bytes are needed.
    pub fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Incoming>, Code> {
        loop {
            check_header(bytes)?;
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

/// Refuses what can be refused from the header alone, before its payload is waited for.
fn check_header(bytes: &[u8]) -> Result<(), Code> {
    let [first, second, ..] = bytes else { return Ok(()) };
    let (opcode, short) = (first & 0x0f, second & 0x7f);
    if first & 0x70 != 0 || second & 0x80 == 0 || !matches!(opcode, 0..=2 | 8..=10) {
        return Err(Code::FramingError);
    }
    if opcode >= 8 && (short > 125 || first & 0x80 == 0) {
        return Err(Code::FramingError);
    }
    let length = match (short, bytes) {
        (126, [_, _, a, b, ..]) => u64::from(u16::from_be_bytes([*a, *b])),
        (127, [_, _, a, b, c, d, e, f, g, h, ..]) => u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
        (126 | 127, _) => return Ok(()),
        _ => u64::from(short),
    };
    if length > i64::MAX as u64 {
        return Err(Code::FramingError);
    }
    if length > FRAME_BYTES_MAX as u64 {
        Err(Code::TooLarge)
    } else {
        Ok(())
    }
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
