//! WebSocket (RFC 6455) from the client's side: bytes and frames that may be wrong on purpose, and above them the protocol.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use serde_json::{Value, json};

use super::http::{Connection, Response};
use super::{Account, DEADLINE, Encoding, Server};

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;
/// The bit that ends a message.
pub const FIN: u8 = 0x80;

/// A frame from the server.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// The first byte: FIN, reserved bits, opcode.
    pub first: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn opcode(&self) -> u8 {
        self.first & 0x0f
    }
}

/// A frame as a client sends it: masked. `first` is its first byte.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let key = [0x37, 0xfa, 0x21, 0x3d];
    bytes.extend_from_slice(&key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// A close frame with a code.
pub fn closing(code: u16, reason: &[u8]) -> Vec<u8> {
    masked(FIN | CLOSE, &[&code.to_be_bytes()[..], reason].concat())
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// With a close frame: its code, if it had one, and its reason.
    Closed(Option<u16>, String),
    /// Without.
    Cut,
}

impl Ended {
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Closed(code, _) => *code,
            Self::Cut => None,
        }
    }
}

/// The key and the accept value of RFC 6455, section 1.3.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The request of a handshake, with these headers beside the required ones.
pub fn handshake(address: SocketAddr, headers: &[&str]) -> String {
    let mut text = format!(
        "GET /api/v1/socket HTTP/1.1\r\nhost: {address}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n"
    );
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text
}

/// Bytes and frames.
pub struct Raw {
    pub http: Connection,
}

impl Raw {
    pub fn connect(address: SocketAddr) -> Self {
        Self {
            http: Connection::open(address),
        }
    }

    /// A socket for which the kernel holds little: it is full soon when nobody reads.
    pub fn connect_small(address: SocketAddr) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(4 * 1024).expect("a socket");
        socket.connect(&address.into()).expect("the server listens");
        Self {
            http: Connection::over(socket.into()),
        }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.http.stream
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.http.stream.set_write_timeout(Some(DEADLINE)).expect("not zero");
        self.http.stream.write_all(bytes).expect("the server takes it");
    }

    /// Sends bytes to a server that may have closed.
    pub fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.http.stream.write_all(bytes);
    }

    /// Asks for the upgrade; the answer, whatever it is.
    pub fn upgrade(&mut self, headers: &[&str]) -> Response {
        let address = self.http.stream.peer_addr().expect("connected");
        self.send(handshake(address, headers).as_bytes());
        self.upgraded()
    }

    /// Reads the answer to a request for the upgrade.
    pub fn upgraded(&mut self) -> Response {
        let mut response = self.http.head().expect("an answer");
        if response.status != 101 {
            while let Some(piece) = self.http.piece() {
                response.body.extend(piece);
            }
        }
        response
    }

    /// The next frame; `None` at the end of the stream.
    pub fn frame(&mut self) -> Option<Frame> {
        self.frame_until(Instant::now() + DEADLINE)
    }

    fn frame_until(&mut self, until: Instant) -> Option<Frame> {
        loop {
            if let Some((frame, length)) = parse(&self.http.ahead) {
                self.http.ahead.drain(..length);
                return Some(frame);
            }
            if !self.http.read_more(until) {
                return None;
            }
        }
    }

    /// Reads until the connection ends.
    pub fn ended(&mut self) -> Ended {
        let mut ended = Ended::Cut;
        while let Some(frame) = self.frame() {
            if frame.opcode() == CLOSE {
                ended = close_of(&frame);
            }
        }
        ended
    }
}

fn close_of(frame: &Frame) -> Ended {
    match frame.payload.as_slice() {
        [] => Ended::Closed(None, String::new()),
        [high, low, reason @ ..] => {
            let reason = String::from_utf8(reason.to_vec()).expect("a reason is UTF-8");
            Ended::Closed(Some(u16::from_be_bytes([*high, *low])), reason)
        }
        [_] => panic!("a close frame of one byte"),
    }
}

/// A whole frame at the beginning of these bytes, and its length.
fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
    let [first, second, ..] = *bytes else { return None };
    assert_eq!(second & 0x80, 0, "a server masks nothing");
    let (header, length) = match second {
        126 => (4, u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?).into()),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        length => (2, length.into()),
    };
    let payload = bytes.get(header..header + length)?.to_vec();
    Some((Frame { first, payload }, header + length))
}

/// Speaks the protocol.
pub struct Client {
    pub raw: Raw,
    pub encoding: Encoding,
    /// Whose connection it is; empty before `welcome`.
    pub user: String,
    /// Messages that came while another one was waited for.
    pub stash: VecDeque<Value>,
    /// Answers heartbeats.
    pub is_alive: bool,
    /// The last heartbeat said that what is shown may be old.
    is_stale: bool,
    ended: Option<Ended>,
}

impl Client {
    /// The handshake, nothing more.
    pub fn connect(server: &Server, encoding: Encoding) -> Self {
        Self::over(Raw::connect(server.address), encoding)
    }

    pub fn over(mut raw: Raw, encoding: Encoding) -> Self {
        let response = raw.upgrade(&[&format!("sec-websocket-protocol: {}", encoding.subprotocol())]);
        assert_eq!(response.status, 101, "{response:?}");
        assert_eq!(response.header("sec-websocket-protocol"), Some(encoding.subprotocol()));
        Self::connected(raw, encoding)
    }

    /// After the handshake.
    pub fn connected(raw: Raw, encoding: Encoding) -> Self {
        Self {
            raw,
            encoding,
            user: String::new(),
            stash: VecDeque::new(),
            is_alive: true,
            is_stale: false,
            ended: None,
        }
    }

    /// Connects and says hello, following nothing.
    pub fn open(server: &Server, encoding: Encoding, account: &Account) -> Self {
        let mut client = Self::connect(server, encoding);
        client.hello(account, &json!([]));
        client
    }

    /// Says hello; the welcome.
    pub fn hello(&mut self, account: &Account, follow: &Value) -> Value {
        self.send_hello(&account.token, follow);
        let welcome = self.wait_for("welcome");
        self.user = welcome["user"].as_str().expect("an id").to_owned();
        welcome
    }

    pub fn send_hello(&mut self, token: &str, follow: &Value) {
        let hello = json!({ "protocol": { "min": 1, "max": 1 }, "token": token, "follow": follow });
        self.send(&json!({ "hello": hello }));
    }

    /// The frame of a message.
    pub fn frame_of(&self, message: &Value) -> Vec<u8> {
        let opcode = match self.encoding {
            Encoding::Json => TEXT,
            Encoding::MsgPack => BINARY,
        };
        masked(FIN | opcode, &self.encoding.encode(message))
    }

    pub fn send(&mut self, message: &Value) {
        let frame = self.frame_of(message);
        self.raw.send(&frame);
    }

    /// The next message, or how the connection ended. Pings and heartbeats are answered, and not seen; but for those that
    /// say otherwise than the one before whether what is shown may be old.
    pub fn next(&mut self) -> Result<Value, Ended> {
        self.next_until(Instant::now() + DEADLINE)
    }

    pub fn next_until(&mut self, until: Instant) -> Result<Value, Ended> {
        if let Some(message) = self.stash.pop_front() {
            return Ok(message);
        }
        self.read(until)
    }

    fn read(&mut self, until: Instant) -> Result<Value, Ended> {
        if let Some(ended) = &self.ended {
            return Err(ended.clone());
        }
        loop {
            let Some(frame) = self.raw.frame_until(until) else {
                self.ended = Some(Ended::Cut);
                return Err(Ended::Cut);
            };
            match frame.opcode() {
                TEXT | BINARY => {
                    let expected = if self.encoding == Encoding::Json { TEXT } else { BINARY };
                    assert_eq!(frame.first, FIN | expected, "a server does not fragment");
                    let message = self.encoding.decode(&frame.payload);
                    let Some(beat) = message.get("heartbeat") else {
                        return Ok(message);
                    };
                    let was_stale = std::mem::replace(&mut self.is_stale, !beat["stale_since"].is_null());
                    let is_seen = was_stale != self.is_stale;
                    if self.is_alive {
                        let frame = self.frame_of(&json!({ "heartbeat": {} }));
                        self.raw.try_send(&frame);
                    }
                    if is_seen {
                        return Ok(message);
                    }
                }
                CLOSE => {
                    let ended = close_of(&frame);
                    // The answer, so that the server closes first.
                    self.raw.try_send(&masked(FIN | CLOSE, &frame.payload));
                    self.ended = Some(ended.clone());
                    return Err(ended);
                }
                PING => {
                    let pong = masked(FIN | PONG, &frame.payload);
                    self.raw.try_send(&pong);
                }
                PONG => {}
                opcode => panic!("an unknown opcode {opcode}"),
            }
        }
    }

    /// Waits for a message that is picked; others are kept for later, in order.
    pub fn wait<T>(&mut self, what: &str, mut pick: impl FnMut(&Value) -> Option<T>) -> T {
        for index in 0..self.stash.len() {
            if let Some(found) = pick(&self.stash[index]) {
                self.stash.remove(index);
                return found;
            }
        }
        let until = Instant::now() + DEADLINE;
        loop {
            match self.read(until) {
                Ok(message) => match pick(&message) {
                    Some(found) => return found,
                    None => self.stash.push_back(message),
                },
                Err(ended) => panic!("{ended:?} before {what}; kept: {:?}", self.stash),
            }
        }
    }

    /// Waits for a message of this name; its content.
    pub fn wait_for(&mut self, name: &str) -> Value {
        self.wait(name, |message| message.get(name).cloned())
    }

    /// Waits until the server has read everything sent so far: it answers a ping in order.
    pub fn flush(&mut self) {
        let frame = masked(FIN | PING, b"flush");
        self.raw.send(&frame);
        let until = Instant::now() + DEADLINE;
        loop {
            let frame = self.raw.frame_until(until).expect("the connection lives");
            match frame.opcode() {
                PONG if frame.payload == b"flush" => return,
                TEXT | BINARY => {
                    let message = self.encoding.decode(&frame.payload);
                    if message.get("heartbeat").is_none() {
                        self.stash.push_back(message);
                    }
                }
                PONG => {}
                _ => panic!("the connection ends: {frame:?}"),
            }
        }
    }

    /// Sends operations, without waiting.
    pub fn send_operations(&mut self, operations: &[Value]) {
        self.send(&json!({ "operations": { "operations": operations } }));
    }

    /// Waits for the outcome of an operation.
    pub fn outcome(&mut self, id: &str) -> Value {
        // A results message may hold several: the others are kept.
        let mut found = None;
        for message in &mut self.stash {
            found = found.or_else(|| take_result(message, id));
        }
        if let Some(found) = found {
            return found;
        }
        let until = Instant::now() + DEADLINE;
        loop {
            let mut message = match self.read(until) {
                Ok(message) => message,
                Err(ended) => panic!("{ended:?} before the result of {id}"),
            };
            let found = take_result(&mut message, id);
            if message["results"]["results"] != json!([]) {
                self.stash.push_back(message);
            }
            if let Some(found) = found {
                return found;
            }
        }
    }

    /// Sends one operation and waits for its outcome.
    pub fn submit(&mut self, operation: &Value) -> Value {
        self.send_operations(std::slice::from_ref(operation));
        self.outcome(operation["id"].as_str().expect("an id"))
    }

    /// Sends a command under a new id; the `seq` of its entry.
    pub fn accept(&mut self, command: &Value) -> u64 {
        let outcome = self.submit(&operation(command));
        outcome["accepted"]["seq"]
            .as_u64()
            .unwrap_or_else(|| panic!("{command}: {outcome}"))
    }

    /// Sends bytes that end the connection. A heartbeat is not answered after it: what comes at a socket that the
    /// server has closed resets it, and what it had sent before is lost with it.
    pub fn says_goodbye(&mut self, bytes: &[u8]) {
        self.is_alive = false;
        self.raw.try_send(bytes);
    }

    /// Reads until the connection ends; messages on the way are kept.
    pub fn ended(&mut self) -> Ended {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.read(until) {
                Ok(message) => self.stash.push_back(message),
                Err(ended) => return ended,
            }
        }
    }
}

fn take_result(message: &mut Value, id: &str) -> Option<Value> {
    let results = message.get_mut("results")?.get_mut("results")?.as_array_mut()?;
    let index = results.iter().position(|result| result["id"] == id)?;
    Some(results.remove(index)["outcome"].clone())
}

/// A command under a new id.
pub fn operation(command: &Value) -> Value {
    json!({ "id": super::id(), "command": command })
}

/// An operation that makes a task with this title in the inbox.
pub fn task(title: &str) -> Value {
    operation(&json!({ "task_create": { "task": super::id(), "title": title } }))
}
