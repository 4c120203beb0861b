//! WebSocket (RFC 6455) for a client that holds 20,000 of them: no buffer while nothing is half read, masks of zero.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::Poll;

use memchr::memmem;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::{Dial, read_some, try_read, write_all};

/// The frames that this client tells apart.
const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const FINAL: u8 = 0x80;

/// Runs something on the read buffer that all connections of this thread share.
pub fn with_shared_buffer<T>(run: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local! { static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 256 * 1024]); }
    BUFFER.with_borrow_mut(|buffer| run(buffer))
}

/// An open WebSocket, text messages only.
pub struct Socket {
    stream: Rc<TcpStream>,
    /// What was read, the first `taken` bytes of which are done with.
    unread: Vec<u8>,
    taken: usize,
}

/// What comes out of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole message.
    Text(Vec<u8>),
    /// The server says good-bye: the close code (1005 if there is none) and the reason.
    Close(u16, String),
}

/// What passes by while a socket is driven.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// A message.
    Text(&'a [u8]),
    /// A ping; it is answered already.
    Ping(&'a [u8]),
}

/// The writing half; as many as are wanted.
#[derive(Clone)]
pub struct Writer(Rc<TcpStream>);

impl Writer {
    /// Sends a message.
    pub async fn send(&self, text: &[u8]) -> io::Result<()> {
        write_all(&self.0, &frame(TEXT, text)).await
    }

    /// Sends a message if it can be sent at once. What is sent this way is small, and is repeated when it is missed.
    pub fn send_now(&self, text: &[u8]) {
        let _ = self.0.try_write(&frame(TEXT, text));
    }

    fn pong(&self, body: &[u8]) {
        let _ = self.0.try_write(&frame(PONG, body));
    }
}

impl Socket {
    /// Connects and upgrades.
    pub async fn open(dial: Dial, path: &str, subprotocol: Option<&str>) -> io::Result<Self> {
        let stream = dial.connect().await?;
        let request = upgrade_request(&format!("localhost:{}", dial.address.port()), path, subprotocol);
        write_all(&stream, request.as_bytes()).await?;
        let mut unread = Vec::new();
        let head_end = loop {
            if let Some(at) = memmem::find(&unread, b"\r\n\r\n") {
                break at + 4;
            }
            if read_some(&stream, &mut unread).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        if !unread.starts_with(b"HTTP/1.1 101") {
            let head = String::from_utf8_lossy(&unread).chars().take(300).collect::<String>();
            return Err(io::Error::other(format!("not upgraded: {head}")));
        }
        unread.drain(..head_end);
        if unread.is_empty() {
            unread = Vec::new();
        }
        Ok(Self {
            stream: Rc::new(stream),
            unread,
            taken: 0,
        })
    }

    /// The writing half.
    pub fn writer(&self) -> Writer {
        Writer(self.stream.clone())
    }

    /// Whether the server has reset the connection, as far as one can know without reading.
    pub fn is_reset(&self) -> bool {
        !matches!(SockRef::from(&*self.stream).take_error(), Ok(None))
    }

    /// The next message; pings are answered on the way.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: what was read stays for the next call.
    pub async fn next(&mut self) -> io::Result<Event> {
        loop {
            let (event, used) = self.whole_message()?;
            self.taken += used;
            if let Some(event) = event {
                return Ok(event);
            }
            self.forget_taken();
            if read_some(&self.stream, &mut self.unread).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The next message; anything else is an error.
    pub async fn text(&mut self) -> io::Result<Vec<u8>> {
        match self.next().await? {
            Event::Text(text) => Ok(text),
            Event::Close(code, reason) => Err(io::Error::other(format!("closed with {code} {reason}"))),
        }
    }

    fn forget_taken(&mut self) {
        self.unread.drain(..self.taken);
        self.taken = 0;
        if self.unread.is_empty() {
            self.unread = Vec::new();
        }
    }

    /// The first message in what was read, and how many bytes can be forgotten.
    fn whole_message(&self) -> io::Result<(Option<Event>, usize)> {
        let unread = &self.unread[self.taken..];
        let (mut at, mut message, mut kept) = (0, Vec::new(), 0);
        while let Some(frame) = Frame::parse(&unread[at..])? {
            at += frame.bytes;
            match frame.opcode {
                PING => self.writer().pong(frame.payload),
                PONG => {}
                CLOSE => return Ok((Some(close(frame.payload)), at)),
                _ => {
                    message.extend_from_slice(frame.payload);
                    if frame.is_final {
                        return Ok((Some(Event::Text(message)), at));
                    }
                    // Fragments are read again with the rest of their message.
                    continue;
                }
            }
            if message.is_empty() {
                kept = at;
            }
        }
        Ok((None, kept))
    }

    /// Reads until the connection ends, and shows each frame to `each` without copying it. For messages that come in one
    /// frame. Pings are answered.
    pub async fn drive(self, mut each: impl FnMut(Seen<'_>, &Writer)) -> io::Result<Event> {
        let writer = self.writer();
        let (stream, mut unread) = (self.stream, Unread(self.unread[self.taken..].to_vec()));
        let mut show = |seen: Seen<'_>| {
            if let Seen::Ping(body) = seen {
                writer.pong(body);
            }
            each(seen, &writer);
        };
        if let Some(end) = unread.take(&[], &mut show)? {
            return Ok(end);
        }
        std::future::poll_fn(move |context| {
            loop {
                std::task::ready!(stream.poll_read_ready(context))?;
                let read: io::Result<Option<Event>> = with_shared_buffer(|buffer| {
                    let read = try_read(&stream, buffer)?;
                    if read == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    unread.take(&buffer[..read], &mut show)
                });
                match read {
                    Ok(Some(end)) => return Poll::Ready(Ok(end)),
                    Ok(None) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        })
        .await
    }

    /// The bare stream, and what was read of it. Nobody may have a writer.
    pub fn into_parts(self) -> io::Result<(std::net::TcpStream, Unread)> {
        let stream = Rc::into_inner(self.stream).ok_or_else(|| io::Error::other("somebody has a writer"))?;
        Ok((stream.into_std()?, Unread(self.unread[self.taken..].to_vec())))
    }
}

/// A frame that has not arrived whole. No buffer while there is none.
#[derive(Default)]
pub struct Unread(Vec<u8>);

impl Unread {
    /// Takes what was read, and shows each frame. The event with which the server says good-bye, if it does.
    pub fn take(&mut self, fresh: &[u8], show: &mut impl FnMut(Seen<'_>)) -> io::Result<Option<Event>> {
        if self.0.is_empty() {
            let (used, end) = parse(fresh, show)?;
            self.0.extend_from_slice(&fresh[used..]);
            return Ok(end);
        }
        self.0.extend_from_slice(fresh);
        let (used, end) = parse(&self.0, show)?;
        self.0.drain(..used);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
        Ok(end)
    }
}

fn parse(bytes: &[u8], show: &mut impl FnMut(Seen<'_>)) -> io::Result<(usize, Option<Event>)> {
    let mut at = 0;
    while let Some(frame) = Frame::parse(&bytes[at..])? {
        match frame.opcode {
            PING => show(Seen::Ping(frame.payload)),
            PONG => {}
            CLOSE => return Ok((at, Some(close(frame.payload)))),
            _ => show(Seen::Text(frame.payload)),
        }
        at += frame.bytes;
    }
    Ok((at, None))
}

/// What asks for a WebSocket.
pub fn upgrade_request(host: &str, path: &str, subprotocol: Option<&str>) -> String {
    let subprotocol = subprotocol.map_or_else(String::new, |name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{subprotocol}\r\n"
    )
}

/// A text frame, for whoever writes it without a [`Writer`].
pub fn text_frame(text: &[u8]) -> Vec<u8> {
    frame(TEXT, text)
}

/// The answer to a ping.
pub fn pong_frame(body: &[u8]) -> Vec<u8> {
    frame(PONG, body)
}

fn close(payload: &[u8]) -> Event {
    match payload {
        [high, low, reason @ ..] => Event::Close(
            u16::from_be_bytes([*high, *low]),
            String::from_utf8_lossy(reason).into_owned(),
        ),
        _ => Event::Close(1005, String::new()),
    }
}

/// A frame from a server.
struct Frame<'a> {
    opcode: u8,
    is_final: bool,
    payload: &'a [u8],
    /// Its length with its head.
    bytes: usize,
}

impl<'a> Frame<'a> {
    /// `None` while it is not whole.
    fn parse(bytes: &'a [u8]) -> io::Result<Option<Self>> {
        let &[first, second, ref rest @ ..] = bytes else {
            return Ok(None);
        };
        if second & 0x80 != 0 || first & 0x70 != 0 {
            return Err(io::Error::other("a frame that servers do not send"));
        }
        let (head, length) = match (second, rest) {
            (126, [high, low, ..]) => (4, u64::from(u16::from_be_bytes([*high, *low]))),
            (127, [a, b, c, d, e, f, g, h, ..]) => (10, u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h])),
            (126 | 127, _) => return Ok(None),
            (short, _) => (2, u64::from(short)),
        };
        let length = usize::try_from(length).map_err(io::Error::other)?;
        Ok(bytes.get(head..head + length).map(|payload| Self {
            opcode: first & 0x0f,
            is_final: first & FINAL != 0,
            payload,
            bytes: head + length,
        }))
    }
}

/// A final frame from a client. Its mask is zero: the payload is as it was, and the server does its usual work.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 14);
    frame.push(FINAL | opcode);
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length @ 126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// A server that upgrades and then sends these bytes, in these pieces.
    async fn serve(pieces: Vec<Vec<u8>>) -> Socket {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while memmem::find(&request, b"\r\n\r\n").is_none() {
                read_some(&stream, &mut request).await.unwrap();
            }
            stream
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
                .await
                .unwrap();
            for piece in pieces {
                stream.write_all(&piece).await.unwrap();
                stream.flush().await.unwrap();
                tokio::task::yield_now().await;
            }
            // A socket that is closed with something unread in it resets the connection.
            stream.shutdown().await.unwrap();
            while read_some(&stream, &mut request).await.unwrap() > 0 {}
        });
        Socket::open(Dial::to(address), "/", None).await.unwrap()
    }

    fn text(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first, 126];
        frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }

    #[tokio::test]
    async fn fragments_and_split_frames_make_whole_messages() {
        let mut bytes = text(0x01, b"one, ");
        bytes.extend([0x89, 1, b'!']);
        bytes.extend(text(0x80, b"two"));
        bytes.extend(text(0x81, &[b'x'; 300]));
        bytes.extend([0x88, 5, 0x10, 0x68, b'b', b'y', b'e']);
        let pieces = bytes.chunks(7).map(<[u8]>::to_vec).collect();
        let mut socket = serve(pieces).await;
        assert_eq!(socket.next().await.unwrap(), Event::Text(b"one, two".to_vec()));
        assert_eq!(socket.next().await.unwrap(), Event::Text(vec![b'x'; 300]));
        assert_eq!(socket.next().await.unwrap(), Event::Close(4200, "bye".to_owned()));
    }

    #[tokio::test]
    async fn driving_sees_every_frame_once_however_the_bytes_are_cut() {
        let bytes: Vec<u8> = (0..200u8).flat_map(|n| text(0x81, &[n; 130])).collect();
        let socket = serve(bytes.chunks(97).map(<[u8]>::to_vec).collect()).await;
        let mut seen = Vec::new();
        let end = socket
            .drive(|frame, _| match frame {
                Seen::Text(text) => seen.push(text[0]),
                Seen::Ping(_) => panic!("there was no ping"),
            })
            .await;
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(seen, (0..200).collect::<Vec<u8>>());
    }

    #[test]
    fn every_length_of_frame_has_its_form() {
        assert_eq!(frame(TEXT, b"ab"), [0x81, 0x82, 0, 0, 0, 0, b'a', b'b']);
        assert_eq!(frame(TEXT, &[0; 126])[..4], [0x81, 0xfe, 0, 126]);
        assert_eq!(
            frame(TEXT, &vec![0; 0x1_0000])[..10],
            [0x81, 0xff, 0, 0, 0, 0, 0, 1, 0, 0]
        );
    }
}
