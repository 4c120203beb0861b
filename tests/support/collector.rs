//! A collector of traces (OTLP over HTTP, JSON): real sockets, and whatever a collector may do wrong.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::eventually;
use super::http::Connection;

/// What a collector does with what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// Takes it.
    Take,
    /// Answers this status.
    Answer(&'static str),
    /// Takes the connection, and answers nothing.
    Hang,
}

/// A span as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// `service.instance.id`.
    pub node: String,
    pub trace: String,
    pub id: String,
    /// Empty: it has none.
    pub parent: String,
    pub name: String,
    pub kind: u64,
    pub began_ns: u64,
    pub ended_ns: u64,
    pub facts: BTreeMap<String, String>,
    pub events: Vec<String>,
    pub status: u64,
}

impl Span {
    fn read(node: &str, span: &Value) -> Self {
        let text = |name: &str| span[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| text(name).parse().expect("a number");
        let (trace, id) = (text("traceId"), text("spanId"));
        assert_eq!((trace.len(), id.len()), (32, 16), "{span}");
        let events = span["events"].as_array().expect("events");
        Self {
            node: node.to_owned(),
            trace,
            id,
            parent: text("parentSpanId"),
            name: text("name"),
            kind: span["kind"].as_u64().expect("a kind"),
            began_ns: number("startTimeUnixNano"),
            ended_ns: number("endTimeUnixNano"),
            facts: facts(&span["attributes"]),
            events: events
                .iter()
                .map(|event| event["name"].as_str().expect("a name").to_owned())
                .collect(),
            status: span["status"]["code"].as_u64().expect("a code"),
        }
    }

    pub fn fact(&self, name: &str) -> &str {
        self.facts.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }
}

fn facts(attributes: &Value) -> BTreeMap<String, String> {
    let attributes = attributes.as_array().expect("attributes");
    let fact = |attribute: &Value| {
        let value = attribute["value"].as_object().expect("a value");
        let (_, text) = value.iter().next().expect("one");
        let key = attribute["key"].as_str().expect("a key");
        (key.to_owned(), text.as_str().expect("text").to_owned())
    };
    attributes.iter().map(fact).collect()
}

/// Listens until the test ends.
pub struct Collector {
    pub address: SocketAddr,
    does: Arc<Mutex<Does>>,
    spans: Arc<Mutex<Vec<Span>>>,
    bodies: Arc<Mutex<String>>,
    connections: Arc<AtomicUsize>,
}

impl Collector {
    pub fn start(does: Does) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), does)
    }

    pub fn start_at(address: SocketAddr, does: Does) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let collector = Self {
            address: listener.local_addr().expect("bound"),
            does: Arc::new(Mutex::new(does)),
            spans: Arc::default(),
            bodies: Arc::default(),
            connections: Arc::default(),
        };
        let (does, spans) = (collector.does.clone(), collector.spans.clone());
        let (bodies, connections) = (collector.bodies.clone(), collector.connections.clone());
        // Ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                connections.fetch_add(1, Ordering::SeqCst);
                let (does, spans, bodies) = (does.clone(), spans.clone(), bodies.clone());
                std::thread::spawn(move || serve(stream, &does, &spans, &bodies));
            }
        });
        collector
    }

    /// From the next request on.
    pub fn now_does(&self, does: Does) {
        *self.does.lock().expect("not poisoned") = does;
    }

    /// The flag for a server that sends here.
    pub fn flag(&self) -> String {
        format!("--otlp-endpoint=http://{}", self.address)
    }

    /// Connections that were made.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Everything that was sent, as text.
    pub fn text(&self) -> String {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All spans that have come.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a trace has spans with these names, and gives all of it.
    pub fn trace(&self, trace: &str, names: &[&str]) -> Trace {
        let what = format!("spans {names:?} of {trace}");
        eventually(&what, || {
            let spans = self.spans().into_iter().filter(|span| span.trace == trace);
            let trace = Trace(spans.collect());
            names
                .iter()
                .all(|name| trace.0.iter().any(|span| span.name == *name))
                .then_some(trace)
        })
    }
}

/// The spans of one trace.
#[derive(Debug)]
pub struct Trace(pub Vec<Span>);

impl Trace {
    /// The only one of this name.
    pub fn one(&self, name: &str) -> &Span {
        let spans: Vec<_> = self.0.iter().filter(|span| span.name == name).collect();
        assert_eq!(spans.len(), 1, "{name} in {self:#?}");
        spans[0]
    }
}

fn serve(stream: TcpStream, does: &Mutex<Does>, spans: &Mutex<Vec<Span>>, bodies: &Mutex<String>) {
    let mut connection = Connection::over(stream);
    while let Some(body) = request(&mut connection) {
        let does = *does.lock().expect("not poisoned");
        let (status, answer) = match does {
            Does::Hang => continue,
            Does::Answer(status) => (status, "{}"),
            Does::Take => ("200 OK", r#"{"partialSuccess":{}}"#),
        };
        if does == Does::Take {
            bodies.lock().expect("not poisoned").push_str(&body);
            let document: Value = serde_json::from_str(&body).expect("JSON");
            for resource in document["resourceSpans"].as_array().expect("resources") {
                let about = facts(&resource["resource"]["attributes"]);
                assert_eq!(about["service.name"], "taskflow");
                for scope in resource["scopeSpans"].as_array().expect("scopes") {
                    let read = scope["spans"].as_array().expect("spans").iter();
                    let read = read.map(|span| Span::read(&about["service.instance.id"], span));
                    spans.lock().expect("not poisoned").extend(read);
                }
            }
        }
        let length = answer.len();
        let answer =
            format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{answer}");
        if connection.stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// The body of the next request of spans; `None`: there is none.
fn request(connection: &mut Connection) -> Option<String> {
    let begin = loop {
        if let Some(end) = connection.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if !more(connection) {
            return None;
        }
    };
    let head = String::from_utf8(connection.ahead.drain(..begin).collect()).expect("UTF-8");
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\ncontent-type: application/json\r\n"), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.expect("a length").parse().expect("a number");
    while connection.ahead.len() < length {
        if !more(connection) {
            return None;
        }
    }
    Some(String::from_utf8(connection.ahead.drain(..length).collect()).expect("UTF-8"))
}

/// A connection that is kept for the next request may be silent for long.
fn more(connection: &mut Connection) -> bool {
    connection.read_more(std::time::Instant::now() + std::time::Duration::from_secs(3_600))
}
