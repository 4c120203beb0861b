//! Doubles of PocketBase and Centrifugo: as much of their documented protocols as `compare` speaks. The real ones are in
//! `make bench SCENARIO=compare`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

pub const API_KEY: &str = "a-key";
pub const TOKEN: &str = "a-token";

/// What it does not do as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trait {
    None,
    /// Centrifugo: channels have a history.
    History,
    /// Centrifugo: one message in three goes to nobody, but for the first.
    Loses,
    /// Centrifugo: subscribing is refused with this code.
    Refuses(u64),
    /// Centrifugo: clients are let in with a token.
    WantsToken,
    /// PocketBase: nobody is told of records.
    Silent,
    /// PocketBase: records are for superusers.
    Closed,
}

/// A server, until the test ends.
pub struct Double {
    pub address: SocketAddr,
}

struct State {
    is_pocketbase: bool,
    how: Trait,
    /// Who follows which channel.
    followers: Mutex<Vec<(String, TcpStream)>>,
    published: Mutex<u64>,
}

impl Double {
    pub fn pocketbase(how: Trait) -> Self {
        Self::start(true, how)
    }

    pub fn centrifugo(how: Trait) -> Self {
        Self::start(false, how)
    }

    fn start(is_pocketbase: bool, how: Trait) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            is_pocketbase,
            how,
            followers: Mutex::default(),
            published: Mutex::default(),
        });
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = state.clone();
                // A client that goes is no fault.
                std::thread::spawn(move || drop(state.serve(stream)));
            }
        });
        Self { address }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl State {
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let (mut reader, mut writer) = (BufReader::new(stream.try_clone()?), stream);
        loop {
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                match line.trim_end() {
                    "" => break,
                    line => head.push(line.to_owned()),
                }
            }
            let header = |name: &str| {
                head.iter()
                    .find_map(|line| line.strip_prefix(name))
                    .unwrap_or_default()
                    .to_owned()
            };
            let mut body = vec![0; header("Content-Length: ").parse().unwrap_or(0)];
            reader.read_exact(&mut body)?;
            let said: Value = serde_json::from_slice(&body).unwrap_or_default();
            let words: Vec<&str> = head[0].split(' ').collect();
            let path = words[1].split('?').next().unwrap_or_default();
            let (status, answer) = match (self.is_pocketbase, words[0], path) {
                (true, "GET", "/api/realtime") => return self.stream_events(writer, reader),
                (false, "GET", "/connection/websocket") => return self.talk(writer, reader),
                (true, ..) => self.pocketbase(words[0], words[1], &header("Authorization: Bearer "), &said),
                (false, ..) => self.centrifugo(path, &header("X-API-Key: "), &said),
            };
            let answer = if answer.is_null() {
                String::new()
            } else {
                answer.to_string()
            };
            write!(
                writer,
                "HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n\r\n{answer}",
                answer.len()
            )?;
        }
    }

    fn pocketbase(&self, method: &str, path: &str, token: &str, said: &Value) -> (u16, Value) {
        let is_good = token == TOKEN;
        match (method, path) {
            ("GET", "/api/health") => (200, json!({"message": "API is healthy.", "code": 200})),
            ("POST", "/api/realtime") if is_good => {
                let channel = said["subscriptions"][0].as_str().unwrap_or_default().to_owned();
                let mut followers = self.followers.lock().unwrap();
                let client = said["clientId"].as_str().unwrap_or_default();
                let follower = followers.iter_mut().find(|(waiting, _)| waiting == client).unwrap();
                follower.0 = channel;
                (204, Value::Null)
            }
            (_, path) if !path.starts_with("/api/collections/tasks/records") => {
                (404, json!({"message": "Missing collection"}))
            }
            _ if !is_good || self.how == Trait::Closed => {
                (403, json!({"message": "Only superusers can perform this action."}))
            }
            ("POST", _) if said["title"].as_str().is_none() => (400, json!({"message": "Failed to create record."})),
            ("POST", _) => {
                if self.how != Trait::Silent {
                    let event = format!(
                        "id:1\nevent:tasks/*\ndata:{}\n\n",
                        json!({"action": "create", "record": said})
                    );
                    self.tell("tasks/*", format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
                }
                (200, said.clone())
            }
            _ => {
                let page: usize = path
                    .split("perPage=")
                    .nth(1)
                    .and_then(|rest| rest.split('&').next()?.parse().ok())
                    .unwrap_or(30);
                (
                    200,
                    json!({"items": vec![json!({"title": "a task"}); page], "totalItems": 1_000}),
                )
            }
        }
    }

    fn centrifugo(&self, path: &str, key: &str, said: &Value) -> (u16, Value) {
        match path {
            _ if key != API_KEY => (401, Value::Null),
            "/api/info" => (
                200,
                json!({"result": {"nodes": [{"name": "double", "version": "6.9.1 OSS"}]}}),
            ),
            "/api/publish" => {
                let mut published = self.published.lock().unwrap();
                let channel = said["channel"].as_str().unwrap_or_default();
                let push = json!({"push": {"channel": channel, "pub": {"data": said["data"]}}});
                if self.how != Trait::Loses || *published % 3 != 1 {
                    self.tell(channel, &frame(&push));
                }
                *published += 1;
                match self.how {
                    Trait::History => (200, json!({"result": {"offset": *published, "epoch": "e"}})),
                    _ => (200, json!({"result": {}})),
                }
            }
            _ => (404, Value::Null),
        }
    }

    fn tell(&self, channel: &str, bytes: &[u8]) {
        let mut followers = self.followers.lock().unwrap();
        followers.retain_mut(|(follows, stream)| follows != channel || stream.write_all(bytes).is_ok());
    }

    fn stream_events(&self, mut writer: TcpStream, mut reader: BufReader<TcpStream>) -> std::io::Result<()> {
        let client = format!("c{}", writer.peer_addr()?.port());
        let event = format!(
            "id:{client}\nevent:PB_CONNECT\ndata:{}\n\n",
            json!({"clientId": client})
        );
        // In two chunks, as it may come.
        let (one, other) = event.split_at(8);
        self.followers.lock().unwrap().push((client, writer.try_clone()?));
        write!(
            writer,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{one}\r\n{:x}\r\n{other}\r\n",
            one.len(),
            other.len()
        )?;
        reader.read_to_end(&mut Vec::new()).map(drop)
    }

    fn talk(&self, mut writer: TcpStream, mut reader: BufReader<TcpStream>) -> std::io::Result<()> {
        write!(
            writer,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        )?;
        loop {
            let mut head = [0; 2];
            reader.read_exact(&mut head)?;
            let mut length = u64::from(head[1] & 0x7f);
            if length == 126 {
                let mut long = [0; 2];
                reader.read_exact(&mut long)?;
                length = u64::from(u16::from_be_bytes(long));
            }
            let mut mask = [0; 4];
            reader.read_exact(&mut mask)?;
            let mut text = vec![0; length as usize];
            reader.read_exact(&mut text)?;
            let said: Value = serde_json::from_slice(&text).unwrap_or_default();
            let id = &said["id"];
            if !said["connect"].is_null() {
                if self.how == Trait::WantsToken && said["connect"]["token"] != TOKEN {
                    let mut close = vec![0x88, 15, 0x0d, 0xac];
                    close.extend_from_slice(b"invalid token");
                    return writer.write_all(&close);
                }
                // Two lines in one frame: an answer, and a heartbeat, which wants one.
                let lines = format!("{}\n", json!({"id": id, "connect": {"client": "double"}}));
                writer.write_all(&raw_frame(lines.as_bytes()))?;
            } else if let Trait::Refuses(code) = self.how {
                writer.write_all(&frame(
                    &json!({"id": id, "error": {"code": code, "message": "refused"}}),
                ))?;
            } else if let Some(channel) = said["subscribe"]["channel"].as_str() {
                self.followers
                    .lock()
                    .unwrap()
                    .push((channel.to_owned(), writer.try_clone()?));
                writer.write_all(&frame(&json!({"id": id, "subscribe": {}})))?;
            }
        }
    }
}

fn frame(message: &Value) -> Vec<u8> {
    raw_frame(message.to_string().as_bytes())
}

fn raw_frame(text: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match text.len() {
        short @ 0..126 => frame.push(short as u8),
        long => {
            frame.push(126);
            frame.extend_from_slice(&(long as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(text);
    frame
}
