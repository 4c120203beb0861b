//! The servers that are compared, as clients see them: how each is asked for a page, told of a change and followed.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail};
use memchr::memmem;
use serde_json::{Value, json};
use taskflow_protocol::codec::Encoding;
use taskflow_protocol::message::ServerMessage;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::board::{Board, mark};
use crate::load;
use crate::load::target::{Target, Trouble};
use crate::load::users::User;
use crate::net::http::{Answer, Http};
use crate::net::link::Link;
use crate::net::stream::Stream;
use crate::server::taskflow::{HEARTBEAT, hello, is_heartbeat, task_id};

/// Tasks that there are before a page is read.
const TASKS: usize = 1_000;
/// Of a page.
const PAGE: usize = 50;
/// A server that was silent for so long is dead: more than twice the heartbeat of each of them.
const SILENCE: Duration = Duration::from_secs(120);
/// From the first word of a connection until it follows.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
/// Until a single change is on a single screen.
const PROBE_PATIENCE: Duration = Duration::from_secs(10);
/// Centrifugo's errors (its client protocol): no such namespace; not allowed.
const UNKNOWN_CHANNEL: u64 = 102;
const PERMISSION_DENIED: u64 = 103;

/// A server, and what this client may do there.
pub struct Rival {
    /// As it stands in the report.
    pub name: String,
    /// Where it is.
    pub target: Target,
    kind: Kind,
}

enum Kind {
    /// The first user has the tasks that are read, the others are followed.
    TaskFlow {
        users: Vec<User>,
    },
    PocketBase {
        token: String,
        collection: String,
    },
    Centrifugo {
        api_key: String,
        /// Absent: clients connect without one.
        token: Option<String>,
        namespace: Option<String>,
        has_history: Cell<bool>,
    },
}

/// A request, with what makes its answer a good one.
pub struct Asked {
    method: &'static str,
    path: String,
    token: Option<String>,
    headers: String,
    body: String,
    is_good: fn(&Answer) -> bool,
}

impl Asked {
    /// Sends it. An answer that is not good is an error with its beginning.
    pub async fn send(&self, http: &mut Http) -> Result<Answer> {
        let token = self.token.as_deref();
        let answer = http
            .request_with(self.method, &self.path, token, &self.headers, &self.body)
            .await?;
        if !(self.is_good)(&answer) {
            bail!("{} {} is answered with {}", self.method, self.path, shown(&answer));
        }
        Ok(answer)
    }
}

/// Status and the beginning of the body.
fn shown(answer: &Answer) -> String {
    let text: String = answer.text().split_whitespace().collect::<Vec<_>>().join(" ");
    format!("{} {}", answer.status, text.chars().take(200).collect::<String>())
}

/// A connection that follows; it ends when this is dropped.
pub struct Follower(JoinHandle<()>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a message means to somebody who is not following yet.
enum Step {
    Wait,
    Say(Vec<u8>),
    Joined,
    Refused(Trouble),
}

impl Rival {
    /// TaskFlow, with at least two users.
    pub fn taskflow(target: Target, users: Vec<User>) -> Self {
        Self {
            name: "taskflow".to_owned(),
            target,
            kind: Kind::TaskFlow { users },
        }
    }

    /// PocketBase, with the token of somebody who may list and create records of the collection.
    pub fn pocketbase(target: Target, token: String, collection: String) -> Self {
        Self {
            name: "pocketbase".to_owned(),
            target,
            kind: Kind::PocketBase { token, collection },
        }
    }

    /// Centrifugo, with channels of a namespace, or of none.
    pub fn centrifugo(target: Target, api_key: String, token: Option<String>, namespace: Option<String>) -> Self {
        Self {
            name: match &namespace {
                Some(namespace) => format!("centrifugo, {namespace}"),
                None => "centrifugo".to_owned(),
            },
            target,
            kind: Kind::Centrifugo {
                api_key,
                token,
                namespace,
                has_history: Cell::new(false),
            },
        }
    }

    /// Whether it keeps tasks, and can be asked for them.
    pub fn has_tasks(&self) -> bool {
        !matches!(self.kind, Kind::Centrifugo { .. })
    }

    /// Whether what is pushed can be for some of those who are connected.
    pub fn has_personal_pushes(&self) -> bool {
        !matches!(self.kind, Kind::PocketBase { .. })
    }

    /// Users or channels that can be followed.
    pub fn groups(&self) -> usize {
        match &self.kind {
            Kind::TaskFlow { users } => users.len() - 1,
            _ => usize::MAX,
        }
    }

    /// What a reader has to know beside the figures.
    pub fn what_it_is(&self) -> String {
        match &self.kind {
            Kind::TaskFlow { .. } => {
                "TaskFlow: a change is on the disk before it is acknowledged or pushed, and has a number in the log of its feed; a \
                 screen that was away says how far it was, and gets what it missed."
            }
            Kind::PocketBase { .. } => {
                "PocketBase: a record is in SQLite before it is acknowledged, as durable as its `synchronous` (NORMAL, unless a hook \
                 says otherwise: a power cut loses the last ones). Pushes are server-sent events, without numbers: a screen that was \
                 away reads everything again. For each subscriber the rules of the collection are looked at."
            }
            Kind::Centrifugo { has_history, .. } if has_history.get() => {
                "Centrifugo with history: it keeps no tasks. A message is acknowledged when it is in the history of its channel, which \
                 is in memory unless Redis is set up; a screen that was away gets what the history still has. Whoever uses it writes \
                 tasks to a database first, which is not in these times."
            }
            Kind::Centrifugo { .. } => {
                "Centrifugo without history: it keeps nothing. A message is pushed to whoever is connected at that moment and is then \
                 gone; nothing is durable. Whoever uses it writes tasks to a database first, which is not in these times."
            }
        }
        .to_owned()
    }

    /// Looks whether it is what it is said to be, and lets this client do what is measured: its version, where it says so.
    pub async fn check(self: &Rc<Self>) -> Result<String> {
        let version = match &self.kind {
            Kind::TaskFlow { users } => load::welcome(&self.target, &users[0]).await?.build,
            Kind::PocketBase { token, collection } => self.check_pocketbase(token, collection).await?,
            Kind::Centrifugo { api_key, .. } => self.check_centrifugo(api_key).await?,
        };
        self.probe().await?;
        Ok(version)
    }

    async fn check_pocketbase(&self, token: &str, collection: &str) -> Result<String> {
        let host = &self.target.host;
        let mut http = self.http().await?;
        let answer = self.ask(&mut http, "/api/health", None).await?;
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if answer.status != 200
            || !said["message"]
                .as_str()
                .is_some_and(|text| text.starts_with("API is healthy"))
        {
            bail!(Trouble(format!(
                "{host} is no PocketBase: /api/health is answered with {}.",
                shown(&answer)
            )));
        }
        let answer = self.ask(&mut http, &page_of(collection, 1), Some(token)).await?;
        match answer.status {
            200 => Ok("PocketBase".to_owned()),
            404 => bail!(Trouble(format!(
                "PocketBase has no collection {collection}: make one with a text field title, or name another with \
                 --pocketbase-collection."
            ))),
            401 | 403 => bail!(Trouble(format!(
                "PocketBase does not let the user of POCKETBASE_TOKEN list the records of {collection} ({}): set its list rule to \
                 @request.auth.id != '', or take a newer token.",
                shown(&answer)
            ))),
            _ => bail!(Trouble(format!(
                "PocketBase does not list {collection}: {}.",
                shown(&answer)
            ))),
        }
    }

    async fn check_centrifugo(&self, api_key: &str) -> Result<String> {
        let host = &self.target.host;
        let mut http = self.http().await?;
        let asked = api(api_key, "/api/info", &json!({}), |_| true);
        let answer = asked.send(&mut http).await?;
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        match (answer.status, said["result"]["nodes"][0]["version"].as_str()) {
            (200, Some(version)) => Ok(format!("Centrifugo {version}")),
            (401 | 403, _) => bail!(Trouble(format!(
                "Centrifugo at {host} does not take the key of CENTRIFUGO_API_KEY: it must be that of http_api.key in its \
                 configuration."
            ))),
            _ => bail!(Trouble(format!(
                "{host} is no Centrifugo: /api/info is answered with {}.",
                shown(&answer)
            ))),
        }
    }

    /// A change must come to a screen: what does not work for one need not be tried with many.
    async fn probe(self: &Rc<Self>) -> Result<()> {
        let board = Board::new();
        let _follower = self.follow(0, 0, &board).await?;
        let mut http = self.http().await?;
        let answer = match self.change(0, 0).send(&mut http).await {
            Ok(answer) => answer,
            Err(error) => bail!(Trouble(self.refused(&error))),
        };
        if let Kind::Centrifugo { has_history, .. } = &self.kind {
            let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            has_history.set(said["result"]["offset"].is_u64());
        }
        let came = tokio::time::timeout(PROBE_PATIENCE, board.until_pushes(1)).await;
        if came.is_err() || board.pushes() == 0 {
            bail!(Trouble(match &self.kind {
                Kind::PocketBase { collection, .. } => format!(
                    "A record of {collection} was made, and who subscribed to it was not told in {} s: its list rule must let the \
                     user of POCKETBASE_TOKEN see it.",
                    PROBE_PATIENCE.as_secs()
                ),
                _ => format!(
                    "{} took a change, and who followed was not told in {} s.",
                    self.target.host,
                    PROBE_PATIENCE.as_secs()
                ),
            }));
        }
        Ok(())
    }

    fn refused(&self, error: &anyhow::Error) -> String {
        match &self.kind {
            Kind::TaskFlow { .. } => format!("TaskFlow makes no task: {error}."),
            Kind::PocketBase { collection, .. } => format!(
                "PocketBase makes no record of {collection}: {error}. It needs a text field title, and a create rule that the user \
                 of POCKETBASE_TOKEN meets."
            ),
            Kind::Centrifugo { .. } => format!("Centrifugo publishes nothing: {error}."),
        }
    }

    /// Makes tasks until there are as many as a page is read of.
    pub async fn fill(&self) -> Result<()> {
        let mut http = self.http().await?;
        let there = match &self.kind {
            Kind::Centrifugo { .. } => return Ok(()),
            Kind::PocketBase { token, collection } => {
                let path = format!("/api/collections/{collection}/records?perPage=1&fields=id");
                let answer = self.ask(&mut http, &path, Some(token)).await?;
                let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                said["totalItems"].as_u64().unwrap_or(0) as usize
            }
            // A page that is full was filled by an earlier run.
            Kind::TaskFlow { .. } => {
                let answer = self.page().send(&mut http).await;
                if answer.is_ok() { TASKS } else { 0 }
            }
        };
        for number in there..TASKS {
            let asked = match &self.kind {
                Kind::TaskFlow { users } => task(&users[0], &format!("Task {number} of many, to be done soon")),
                _ => self.create(&format!("Task {number} of many, to be done soon")),
            };
            // As many a second as a user may make.
            loop {
                match asked.send(&mut http).await {
                    Ok(_) => break,
                    Err(error) if error.to_string().contains("with 429") => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    Err(error) => bail!(Trouble(self.refused(&error))),
                }
            }
        }
        Ok(())
    }

    /// Reads a page of 50 tasks.
    pub fn page(&self) -> Asked {
        let (path, token): (String, &String) = match &self.kind {
            Kind::TaskFlow { users } => (format!("/api/v1/tasks?limit={PAGE}"), &users[0].token),
            Kind::PocketBase { token, collection } => (page_of(collection, PAGE), token),
            Kind::Centrifugo { .. } => unreachable!("it has no tasks"),
        };
        Asked {
            method: "GET",
            path,
            token: Some(token.clone()),
            headers: String::new(),
            body: String::new(),
            // Each of them names titles in what it lists, and nowhere else.
            is_good: |answer| answer.status == 200 && memmem::find_iter(&answer.body, br#""title":"#).count() == PAGE,
        }
    }

    /// Makes a task that nobody follows, where that can be.
    pub fn create(&self, title: &str) -> Asked {
        match &self.kind {
            Kind::TaskFlow { users } => task(&users[0], title),
            Kind::PocketBase { token, collection } => Asked {
                method: "POST",
                path: format!("/api/collections/{collection}/records"),
                token: Some(token.clone()),
                headers: String::new(),
                body: json!({"title": title}).to_string(),
                is_good: |answer| answer.status == 200,
            },
            Kind::Centrifugo { .. } => unreachable!("it has no tasks"),
        }
    }

    /// Makes a task, or publishes one, that is pushed to whoever follows the group.
    pub fn change(&self, group: usize, number: u32) -> Asked {
        let title = format!("{} of many", mark(number));
        match &self.kind {
            Kind::TaskFlow { users } => task(&users[1 + group], &title),
            Kind::PocketBase { .. } => self.create(&title),
            Kind::Centrifugo { api_key, namespace, .. } => {
                let body = json!({
                    "channel": channel(namespace.as_deref(), group),
                    "data": {"task": task_id(), "title": title},
                });
                api(api_key, "/api/publish", &body, |answer| {
                    answer.status == 200 && answer.body.starts_with(br#"{"result""#)
                })
            }
        }
    }

    /// Follows a group; what comes goes to the board. It is done when everything from now on comes.
    pub async fn follow(self: &Rc<Self>, group: usize, number: usize, board: &Rc<Board>) -> Result<Follower> {
        let (joined, is_joined) = oneshot::channel();
        let (rival, board) = (self.clone(), board.clone());
        let follower = Follower(tokio::task::spawn_local(async move {
            let mut joined = Some(joined);
            let say = |joined: &mut Option<oneshot::Sender<_>>, result| {
                // Whoever waits may have given up.
                joined.take().map(|waits| waits.send(result))
            };
            let ended = match &rival.kind {
                Kind::PocketBase { .. } => rival.listen(number, &board, |result| say(&mut joined, result)).await,
                _ => {
                    rival
                        .talk(group, number, &board, |result| say(&mut joined, result))
                        .await
                }
            };
            board.count_end();
            let why = match ended {
                Ok(()) => Trouble(format!("{} ended a connection that was to follow.", rival.target.host)),
                Err(error) => Trouble(rival.sentence(&error)),
            };
            say(&mut joined, Err(why));
        }));
        match tokio::time::timeout(JOIN_PATIENCE, is_joined).await {
            Ok(Ok(joined)) => joined?,
            Ok(Err(_)) => bail!(Trouble(format!(
                "{} does not let this client follow.",
                self.target.host
            ))),
            Err(_) => bail!(Trouble(format!(
                "{} took a connection, and it did not follow within {} s.",
                self.target.host,
                JOIN_PATIENCE.as_secs()
            ))),
        }
        Ok(follower)
    }

    /// A WebSocket, until it ends.
    async fn talk<T>(
        &self,
        group: usize,
        number: usize,
        board: &Board,
        mut joined: impl FnMut(Result<(), Trouble>) -> T,
    ) -> io::Result<()> {
        let link = self.open(number).await?;
        link.send(&self.first_words(group));
        let is_joined = Cell::new(false);
        let never = Cell::new(false);
        link.drive(SILENCE, &never, |text| {
            if is_joined.get() {
                match self.heartbeat(text) {
                    Some(answer) => link.send(answer),
                    None => board.look(text),
                }
                return;
            }
            match self.step(group, text) {
                Step::Wait => {}
                Step::Say(words) => link.send(&words),
                Step::Joined => {
                    is_joined.set(true);
                    joined(Ok(()));
                }
                Step::Refused(trouble) => {
                    joined(Err(trouble));
                }
            }
        })
        .await
        .map(|end| {
            if let crate::net::socket::Event::Close(code, reason) = end {
                joined(Err(self.closed(code, &reason)));
            }
        })
    }

    async fn open(&self, number: usize) -> io::Result<Link> {
        match &self.kind {
            Kind::Centrifugo { .. } => self.target.open_at(number, "/connection/websocket", None).await,
            _ => self.target.open(number).await,
        }
    }

    fn first_words(&self, group: usize) -> Vec<u8> {
        match &self.kind {
            Kind::TaskFlow { users } => hello(&users[1 + group].token, Some(None)),
            Kind::Centrifugo { token: Some(token), .. } => {
                json!({"id": 1, "connect": {"token": token}}).to_string().into_bytes()
            }
            _ => json!({"id": 1, "connect": {}}).to_string().into_bytes(),
        }
    }

    /// The answer to a heartbeat, if it is one.
    fn heartbeat(&self, text: &[u8]) -> Option<&'static [u8]> {
        match &self.kind {
            Kind::Centrifugo { .. } => (text == b"{}").then_some(b"{}"),
            _ => is_heartbeat(text).then_some(HEARTBEAT),
        }
    }

    fn step(&self, group: usize, text: &[u8]) -> Step {
        match &self.kind {
            Kind::Centrifugo { namespace, .. } => {
                let channel = channel(namespace.as_deref(), group);
                // Several answers may come in one frame, a line each.
                let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                lines
                    .map(|line| centrifugo_step(&channel, line))
                    .find(|step| !matches!(step, Step::Wait))
                    .unwrap_or(Step::Wait)
            }
            _ => match Encoding::Json.decode_server(text) {
                Ok(Some(ServerMessage::Snapshot(snapshot))) if snapshot.done.is_some() => Step::Joined,
                Ok(Some(ServerMessage::Error(error))) => Step::Refused(Trouble(format!(
                    "TaskFlow does not let a user follow ({}): {}.",
                    error.name, error.message
                ))),
                Ok(Some(ServerMessage::Reconnect(reconnect))) => Step::Refused(Trouble(format!(
                    "TaskFlow does not let a user follow ({}): {}",
                    reconnect.code.name(),
                    reconnect.code.sentence()
                ))),
                _ => Step::Wait,
            },
        }
    }

    fn closed(&self, code: u16, reason: &str) -> Trouble {
        match (&self.kind, code) {
            (Kind::Centrifugo { token: Some(_), .. }, 3500) => Trouble(
                "Centrifugo does not take the token of CENTRIFUGO_TOKEN (3500 invalid token): sign one with the secret of \
                 client.token in its configuration."
                    .to_owned(),
            ),
            (Kind::Centrifugo { token: None, .. }, 3000..4000) => Trouble(format!(
                "Centrifugo does not let clients in without a token ({code} {reason}): set CENTRIFUGO_TOKEN (or \
                 CENTRIFUGO_TOKEN_FILE), or client.allow_anonymous_connect_without_token in its configuration."
            )),
            _ => Trouble(format!("{} closed a connection: {code} {reason}.", self.target.host)),
        }
    }

    /// An event stream of PocketBase, until it ends.
    async fn listen<T>(
        &self,
        number: usize,
        board: &Board,
        mut joined: impl FnMut(Result<(), Trouble>) -> T,
    ) -> io::Result<()> {
        let Kind::PocketBase { token, collection } = &self.kind else {
            unreachable!("only PocketBase is listened to");
        };
        let stream = self.target.connect(number).await?;
        let request = format!(
            "GET /api/realtime HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n",
            self.target.host
        );
        stream.write_all(request.as_bytes()).await?;
        let mut events = Events::begin(stream).await?;
        let client = loop {
            let event = events.next().await?;
            let id = event
                .strip_prefix(b"id:")
                .and_then(|rest| rest.split(|byte| *byte == b'\n').next());
            if let Some(id) = id {
                break String::from_utf8_lossy(id).into_owned();
            }
        };
        let body = json!({"clientId": client, "subscriptions": [format!("{collection}/*")]}).to_string();
        let mut http = self.target.http(number).await?;
        let answer = http.request("POST", "/api/realtime", Some(token), &body).await?;
        drop(http);
        if answer.status != 204 {
            joined(Err(Trouble(format!(
                "PocketBase does not let the user of POCKETBASE_TOKEN subscribe to {collection}: {}.",
                shown(&answer)
            ))));
            return Ok(());
        }
        joined(Ok(()));
        loop {
            board.look(&events.next().await?);
        }
    }

    /// A connection for requests.
    pub async fn http(&self) -> Result<Http, Trouble> {
        self.target
            .http(0)
            .await
            .map_err(|error| Trouble(self.sentence(&error)))
    }

    async fn ask(&self, http: &mut Http, path: &str, token: Option<&str>) -> Result<Answer> {
        let answer = http.request("GET", path, token, "").await;
        answer.map_err(|error| Trouble(self.sentence(&error)).into())
    }

    /// What went wrong on the way there: each has its own flag for the address.
    fn sentence(&self, error: &io::Error) -> String {
        let flag = match &self.kind {
            Kind::TaskFlow { .. } => "--url",
            Kind::PocketBase { .. } => "--pocketbase",
            Kind::Centrifugo { .. } => "--centrifugo",
        };
        match &self.kind {
            Kind::Centrifugo { .. } if Target::status(error).is_some() => format!(
                "{} does not open a WebSocket at /connection/websocket: {error}. Is the transport on, and its client.allowed_origins right?",
                self.target.host
            ),
            _ => self.target.sentence(error).replace("--url", flag),
        }
    }
}

/// What a line of Centrifugo means to somebody who wants to follow a channel.
fn centrifugo_step(channel: &str, line: &[u8]) -> Step {
    let said: Value = serde_json::from_slice(line).unwrap_or_default();
    if let Some(code) = said["error"]["code"].as_u64() {
        let message = said["error"]["message"].as_str().unwrap_or_default();
        return Step::Refused(Trouble(match code {
            UNKNOWN_CHANNEL => format!(
                "Centrifugo knows no channel {channel} (102 {message}): is --centrifugo-namespace one of channel.namespaces in its \
                 configuration?"
            ),
            PERMISSION_DENIED => format!(
                "Centrifugo does not let this client subscribe to {channel} (103 {message}): set allow_subscribe_for_client for the \
                 namespace (or channel.without_namespace), and allow_subscribe_for_anonymous if there is no CENTRIFUGO_TOKEN."
            ),
            _ => format!("Centrifugo does not let this client follow {channel}: {code} {message}."),
        }));
    }
    match said["id"].as_u64() {
        Some(1) => Step::Say(
            json!({"id": 2, "subscribe": {"channel": channel}})
                .to_string()
                .into_bytes(),
        ),
        Some(2) => Step::Joined,
        _ => Step::Wait,
    }
}

/// A channel of a group.
fn channel(namespace: Option<&str>, group: usize) -> String {
    let prefix = namespace.map_or_else(String::new, |namespace| format!("{namespace}:"));
    format!("{prefix}taskflow-loadtest-{group}")
}

fn page_of(collection: &str, size: usize) -> String {
    format!("/api/collections/{collection}/records?perPage={size}&skipTotal=1")
}

fn task(user: &User, title: &str) -> Asked {
    Asked {
        method: "POST",
        path: "/api/v1/tasks".to_owned(),
        token: Some(user.token.clone()),
        headers: String::new(),
        body: json!({"id": task_id(), "title": title}).to_string(),
        is_good: |answer| answer.status == 201,
    }
}

fn api(key: &str, path: &str, body: &Value, is_good: fn(&Answer) -> bool) -> Asked {
    Asked {
        method: "POST",
        path: path.to_owned(),
        token: None,
        headers: format!("X-API-Key: {key}\r\n"),
        body: body.to_string(),
        is_good,
    }
}

/// Server-sent events in a chunked answer (RFC 9112, section 7.1).
struct Events {
    stream: Stream,
    /// As it came, behind the head.
    raw: Vec<u8>,
    /// Without the sizes of chunks.
    text: Vec<u8>,
}

impl Events {
    /// Reads the head of the answer.
    async fn begin(stream: Stream) -> io::Result<Self> {
        let mut raw = Vec::new();
        let end = loop {
            if let Some(at) = memmem::find(&raw, b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_some(&mut raw).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        if !raw.starts_with(b"HTTP/1.1 200") {
            let head = String::from_utf8_lossy(&raw);
            return Err(io::Error::other(format!(
                "no event stream: {}",
                head.lines().next().unwrap_or_default()
            )));
        }
        raw.drain(..end);
        Ok(Self {
            stream,
            raw,
            text: Vec::new(),
        })
    }

    /// The next event, without the empty line at its end.
    async fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            while let Some((chunk, used)) = first_chunk(&self.raw)? {
                self.text.extend_from_slice(chunk);
                self.raw.drain(..used);
            }
            if let Some(end) = memmem::find(&self.text, b"\n\n") {
                let mut event: Vec<u8> = self.text.drain(..end + 2).collect();
                event.truncate(end);
                return Ok(event);
            }
            if self.stream.read_some(&mut self.raw).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// The first chunk, and how many bytes it is with its size; `None` while it is not whole.
fn first_chunk(raw: &[u8]) -> io::Result<Option<(&[u8], usize)>> {
    let Some(line_end) = memmem::find(raw, b"\r\n") else {
        return Ok(None);
    };
    let size = std::str::from_utf8(&raw[..line_end])
        .ok()
        .and_then(|line| usize::from_str_radix(line.split(';').next()?.trim(), 16).ok())
        .ok_or_else(|| io::Error::other("a chunk has no size"))?;
    if size == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let begin = line_end + 2;
    Ok(raw
        .get(begin..begin + size + 2)
        .map(|chunk| (&chunk[..size], begin + size + 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_come_apart_where_their_sizes_say() {
        assert_eq!(first_chunk(b"5\r\nid:ab\r\n3\r\n").unwrap(), Some((&b"id:ab"[..], 10)));
        assert_eq!(first_chunk(b"5\r\nid:a").unwrap(), None);
        assert!(first_chunk(b"0\r\n\r\n").is_err(), "the end");
        assert!(first_chunk(b"id:\r\n").is_err(), "no size");
    }

    fn refused(line: &str, expect: &str) {
        let Step::Refused(Trouble(sentence)) = centrifugo_step("news:1", line.as_bytes()) else {
            panic!("{line} is no refusal");
        };
        assert!(sentence.starts_with(expect), "{sentence}");
    }

    #[test]
    fn what_centrifugo_refuses_is_said_with_what_to_do() {
        refused(
            r#"{"id":2,"error":{"code":102,"message":"unknown channel"}}"#,
            "Centrifugo knows no channel news:1 (102 unknown channel): is --centrifugo-namespace",
        );
        refused(
            r#"{"id":2,"error":{"code":103,"message":"permission denied"}}"#,
            "Centrifugo does not let this client subscribe to news:1 (103 permission denied): set allow_subscribe_for_client",
        );
        refused(
            r#"{"id":1,"error":{"code":109,"message":"token expired"}}"#,
            "Centrifugo does not let this client follow news:1: 109 token expired",
        );
    }
}
