//! A Sentry: takes envelopes, or does not.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a test waits for an event that must come.
const DEADLINE: Duration = Duration::from_secs(40);

/// What it does with what comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answers {
    Takes,
    /// With this line of a head and these headers.
    Says(&'static str),
    /// Reads, and never answers.
    Hangs,
}

#[derive(Default)]
struct Seen {
    requests: Vec<(String, String)>,
    held: Vec<TcpStream>,
}

pub struct Sentry {
    pub address: SocketAddr,
    seen: Arc<(Mutex<Seen>, Condvar)>,
    answers: Arc<Mutex<Answers>>,
}

impl Sentry {
    pub fn start(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let sentry = Self {
            address: listener.local_addr().expect("bound"),
            seen: Arc::default(),
            answers: Arc::new(Mutex::new(answers)),
        };
        let (seen, answers) = (sentry.seen.clone(), sentry.answers.clone());
        // Ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                serve(stream, &seen, &answers);
            }
        });
        sentry
    }

    pub fn dsn(&self) -> String {
        format!("http://0123456789abcdef@{}/42", self.address)
    }

    pub fn answers(&self, answers: Answers) {
        *self.answers.lock().expect("not poisoned") = answers;
    }

    /// Waits for so many requests; all there are, each with its head.
    pub fn requests(&self, count: usize) -> Vec<(String, String)> {
        let begun = Instant::now();
        let mut seen = self.seen.0.lock().expect("not poisoned");
        while seen.requests.len() < count {
            let left = DEADLINE.checked_sub(begun.elapsed());
            let left = left.unwrap_or_else(|| panic!("{count} did not come: {:#?}", seen.requests));
            seen = self.seen.1.wait_timeout(seen, left).expect("not poisoned").0;
        }
        seen.requests.clone()
    }

    /// The same, of each the event in it.
    pub fn events(&self, count: usize) -> Vec<Value> {
        let requests = self.requests(count);
        requests.iter().map(|(_, body)| event_in(body)).collect()
    }
}

/// The event of an envelope, whose form is looked at.
fn event_in(envelope: &str) -> Value {
    let lines: Vec<&str> = envelope.lines().collect();
    let [head, item, event] = lines[..] else {
        panic!("three lines: {envelope}");
    };
    let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let (head, item, document) = (parse(head), parse(item), parse(event));
    assert_eq!(head["event_id"], document["event_id"], "{envelope}");
    assert_eq!(document["event_id"].as_str().map(str::len), Some(32), "{envelope}");
    assert_eq!(item["type"], "event", "{envelope}");
    assert_eq!(item["length"], event.len(), "{envelope}");
    document
}

fn serve(stream: TcpStream, seen: &(Mutex<Seen>, Condvar), answers: &Mutex<Answers>) {
    let mut reader = BufReader::new(&stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if !matches!(reader.read_line(&mut head), Ok(1..)) {
            return;
        }
    }
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.and_then(|length| length.parse().ok()).unwrap_or(0)];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let answers = *answers.lock().expect("not poisoned");
    let mut now = seen.0.lock().expect("not poisoned");
    now.requests.push((head, String::from_utf8(body).expect("UTF-8")));
    let status = match answers {
        Answers::Takes => "200 OK",
        Answers::Says(status) => status,
        Answers::Hangs => {
            now.held.push(stream);
            seen.1.notify_all();
            return;
        }
    };
    seen.1.notify_all();
    drop(now);
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
    let _ = (&stream).write_all(answer.as_bytes());
}
