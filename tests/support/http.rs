//! HTTP/1.1, as much as the tests need: one request a connection, and streams of server-sent events.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::DEADLINE;

/// What came back.
#[derive(Clone)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {:?} {}",
            self.status,
            self.headers,
            String::from_utf8_lossy(&self.body)
        )
    }
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The lines of a body, each a document.
    pub fn json_lines(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.body).expect("UTF-8");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }
}

/// Sends a request and reads the whole answer.
pub fn request(address: SocketAddr, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Response {
    let mut connection = Connection::open(address);
    connection.send(method, path, headers, body);
    connection.response()
}

/// With a JSON body.
pub fn post(address: SocketAddr, path: &str, headers: &[&str], body: &Value) -> Response {
    let mut all = vec!["content-type: application/json"];
    all.extend(headers);
    request(address, "POST", path, &all, body.to_string().as_bytes())
}

/// A connection with bytes that were read ahead.
pub struct Connection {
    pub stream: TcpStream,
    pub ahead: Vec<u8>,
    chunked: bool,
    /// Bytes of the body that are still to come, where that is known.
    left: Option<usize>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).expect("the server listens"))
    }

    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket");
        Self {
            stream,
            ahead: Vec::new(),
            chunked: false,
            left: None,
        }
    }

    pub fn send(&mut self, method: &str, path: &str, headers: &[&str], body: &[u8]) {
        let mut text = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\n",
            self.stream.peer_addr().expect("connected")
        );
        for header in headers {
            text.push_str(header);
            text.push_str("\r\n");
        }
        let named = |name: &str| {
            headers
                .iter()
                .any(|header| header.to_ascii_lowercase().starts_with(name))
        };
        if !named("connection:") {
            text.push_str("connection: close\r\n");
        }
        if !named("content-length:") && !named("transfer-encoding:") && (!body.is_empty() || method != "GET") {
            text.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(body);
        // A server that refuses early may have closed already; what it said is read next.
        let _ = self.stream.write_all(&bytes);
    }

    /// What is no request of ours.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// All that comes until the end.
    pub fn rest(&mut self) -> Vec<u8> {
        let until = Instant::now() + DEADLINE;
        while self.read_more(until) {}
        std::mem::take(&mut self.ahead)
    }

    /// Reads more bytes; `false` at the end of the stream.
    pub fn read_more(&mut self, until: Instant) -> bool {
        let left = until
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left)).expect("not zero");
        let mut buffer = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => {
                    self.ahead.extend_from_slice(&buffer[..count]);
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("nothing came; read so far: {:?}", String::from_utf8_lossy(&self.ahead))
                }
                Err(_) => return false,
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(end) = self.ahead.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.ahead[..end]).into_owned();
                self.ahead.drain(..end + 2);
                return Some(line);
            }
            if !self.read_more(until) {
                return None;
            }
        }
    }

    /// Status and headers; `None` if the connection ended instead. The body is what [`Connection::piece`] gives.
    pub fn head(&mut self) -> Option<Response> {
        let line = self.line()?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {line:?}"));
        let mut response = Response {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("not a header: {line:?}"));
            response
                .headers
                .push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        self.chunked = response.header("transfer-encoding") == Some("chunked");
        self.left = response.header("content-length").and_then(|length| length.parse().ok());
        if matches!(status, 100..200 | 204 | 304) {
            self.left = Some(0);
        }
        Some(response)
    }

    /// The next piece of the body; `None` at its end.
    pub fn piece(&mut self) -> Option<Vec<u8>> {
        let until = Instant::now() + DEADLINE;
        if self.chunked {
            let size = self.line()?;
            let size = usize::from_str_radix(size.trim(), 16).expect("the size of a chunk");
            while self.ahead.len() < size + 2 {
                if !self.read_more(until) {
                    return None;
                }
            }
            let piece = self.ahead.drain(..size).collect();
            self.ahead.drain(..2);
            return (size > 0).then_some(piece);
        }
        if self.left == Some(0) {
            return None;
        }
        if self.ahead.is_empty() && !self.read_more(until) {
            return None;
        }
        let take = self.left.map_or(self.ahead.len(), |left| left.min(self.ahead.len()));
        if let Some(left) = &mut self.left {
            *left -= take;
        }
        Some(self.ahead.drain(..take).collect())
    }

    /// The whole answer.
    pub fn response(&mut self) -> Response {
        let mut response = self.head().expect("an answer");
        while let Some(piece) = self.piece() {
            response.body.extend(piece);
        }
        response
    }
}

/// A server-sent event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    pub event: String,
    pub id: Option<String>,
    pub data: Value,
}

/// A stream of them.
pub struct EventStream {
    connection: Connection,
    text: String,
    /// As the browser keeps it.
    pub last_id: Option<String>,
}

impl EventStream {
    /// Opens a stream; `Err` if the answer is another one.
    pub fn open(address: SocketAddr, path: &str, headers: &[&str]) -> Result<Self, Response> {
        let mut connection = Connection::open(address);
        connection.send("GET", path, headers, b"");
        let head = connection.head().expect("an answer");
        if head.status != 200 {
            let mut response = head;
            while let Some(piece) = connection.piece() {
                response.body.extend(piece);
            }
            return Err(response);
        }
        assert_eq!(head.header("content-type"), Some("text/event-stream"), "{head:?}");
        Ok(Self {
            connection,
            text: String::new(),
            last_id: None,
        })
    }

    /// The next event; `None` when the server ended the stream.
    pub fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let mut event = Event::default();
                let mut data = None;
                for line in block.lines().filter(|line| !line.is_empty()) {
                    match line.split_once(": ").unwrap_or((line, "")) {
                        ("event", name) => event.event = name.to_owned(),
                        ("id", id) => event.id = Some(id.to_owned()),
                        ("data", text) => data = Some(serde_json::from_str(text).expect("JSON")),
                        _ if line.starts_with(':') || line.starts_with("retry:") => {}
                        _ => panic!("not a field of an event: {line:?}"),
                    }
                }
                if let Some(data) = data {
                    event.data = data;
                    if event.id.is_some() {
                        self.last_id.clone_from(&event.id);
                    }
                    return Some(event);
                }
            }
            let piece = self.connection.piece()?;
            self.text.push_str(std::str::from_utf8(&piece).expect("UTF-8"));
        }
    }

    /// The next event of this name; others are passed over.
    pub fn wait_for(&mut self, name: &str) -> Event {
        loop {
            let event = self.next().unwrap_or_else(|| panic!("the stream ended before {name}"));
            if event.event == name {
                return event;
            }
        }
    }
}
