//! The few bytes of WebSocket (RFC 6455) that a server which only pushes needs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use sha1::{Digest, Sha1};

/// A ping without a body.
pub const PING: Bytes = Bytes::from_static(&[0x89, 0]);

/// One message, for connections that frame it themselves and for those that take the frame ready.
#[derive(Clone)]
pub struct Push {
    /// The payload.
    pub text: ByteString,
    /// The same as a frame, shared by every connection it goes to.
    pub frame: Bytes,
}

impl Push {
    /// A push of `size` bytes of JSON that carries a number for the load tool to recognise it by.
    pub fn numbered(number: u32, size: usize) -> Self {
        let mut text = format!("{{\"push\":\"@@{number:08x}");
        let end = "\"}";
        while text.len() + end.len() < size {
            text.push('x');
        }
        text.push_str(end);
        let frame = frame(text.as_bytes());
        Self {
            text: text.into(),
            frame,
        }
    }
}

/// A final text frame from a server, which is not masked.
fn frame(payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(payload.len() + 4);
    match u16::try_from(payload.len()) {
        Ok(length @ 0..126) => frame.extend_from_slice(&[0x81, length as u8]),
        Ok(length) => {
            frame.extend_from_slice(&[0x81, 126]);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => unreachable!("the control port takes sizes of 16 bits only"),
    }
    frame.extend_from_slice(payload);
    frame.freeze()
}

/// The answer to a handshake with this key.
pub fn switching_protocols(key: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = STANDARD.encode(hash.finalize());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_has_the_size_and_the_number_that_are_asked() {
        for size in [64, 125, 126, 256, 4096] {
            let push = Push::numbered(0x1234_abcd, size);
            assert_eq!(push.text.len(), size);
            assert!(push.text.contains("@@1234abcd"), "{}", push.text);
            let head = if size < 126 { 2 } else { 4 };
            assert_eq!(&push.frame[head..], push.text.as_bytes());
        }
    }

    #[test]
    fn the_handshake_is_answered_as_in_the_example_of_rfc_6455() {
        let answer = switching_protocols(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert!(
            answer.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
            "{answer}"
        );
    }
}
