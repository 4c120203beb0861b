//! A small server that speaks the protocol and misbehaves on demand.
//!
//! It shares only the wire types with the client: its rules are its own, few and simple.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::{SinkExt, StreamExt};
use taskflow_protocol::codes::Code;
use taskflow_protocol::message::*;
use taskflow_protocol::model::*;
use taskflow_protocol::values::{Seq, Status, UnixMs, WeekStart};
use taskflow_protocol::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use uuid::Uuid;

/// What goes to a connection.
#[derive(Clone, Debug)]
pub enum Out {
    Message(Box<ServerMessage>),
    Close(u16),
    /// Without a goodbye.
    Cut,
}

/// What the server does wrong next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Takes the operations, and the connection breaks before the answer and the entries.
    LoseAnswer,
    /// The connection breaks before the operations are looked at.
    LoseOperations,
    /// Every second operation of the message is refused for lack of room.
    Overloaded,
    /// The entries go out without the first of them.
    Hole,
    /// The snapshot says one row more than it has.
    WrongCount,
}

pub struct World {
    pub user: UserId,
    pub epoch: u32,
    pub log: Vec<Entry>,
    pub lists: BTreeMap<ListId, List>,
    pub labels: BTreeMap<LabelId, Label>,
    pub tasks: BTreeMap<TaskId, Task>,
    answers: HashMap<OperationId, (Operation, OperationResult)>,
    followers: Vec<mpsc::UnboundedSender<Out>>,
    pub faults: VecDeque<Fault>,
    /// Answers the next hellos with these instead of a welcome.
    pub hello_closes: VecDeque<u16>,
    /// Answers the next hellos that bring a cursor with this error.
    pub cursor_errors: VecDeque<Code>,
    pub heartbeat_ms: u32,
    /// Sends no heartbeats and no answers.
    pub silent: bool,
    pub token_life_ms: i64,
    pub tokens: HashSet<String>,
    pub refresh_tokens: HashSet<String>,
    pub passwords: HashMap<String, String>,
    /// No task may be called that.
    pub refused_title: Option<String>,
    /// Everything is refused at the door.
    pub down: bool,
    // What was seen.
    pub hellos: Vec<Hello>,
    pub received: Vec<Operation>,
    pub heartbeats: usize,
    pub refreshes_in_band: usize,
    pub refreshes_by_rest: usize,
    /// Cuts everything when the log is this long, once, and stays down until told otherwise.
    pub cut_at: Option<usize>,
}

pub struct Fake {
    pub world: Arc<Mutex<World>>,
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

impl Fake {
    pub fn start() -> Self {
        let user = UserId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001));
        let inbox = List {
            id: ListId(user.0),
            name: "Inbox".to_owned(),
            color: None,
            rank: "m".to_owned(),
            archived: false,
            created_at: 1,
            updated_at: 1,
            deleted_at: None,
            version: 1,
        };
        let birth = Entry {
            seq: 1,
            time: 1,
            author: user,
            operation: OperationId(user.0),
            changes: vec![Change::ListPut(inbox.clone())],
        };
        let world = Arc::new(Mutex::new(World {
            user,
            epoch: 1,
            log: vec![birth],
            lists: BTreeMap::from([(inbox.id, inbox)]),
            labels: BTreeMap::new(),
            tasks: BTreeMap::new(),
            answers: HashMap::new(),
            followers: Vec::new(),
            faults: VecDeque::new(),
            hello_closes: VecDeque::new(),
            cursor_errors: VecDeque::new(),
            heartbeat_ms: 25_000,
            silent: false,
            token_life_ms: 900_000,
            tokens: HashSet::new(),
            refresh_tokens: HashSet::new(),
            passwords: HashMap::new(),
            refused_title: None,
            down: false,
            hellos: Vec::new(),
            received: Vec::new(),
            heartbeats: 0,
            refreshes_in_band: 0,
            refreshes_by_rest: 0,
            cut_at: None,
        }));
        let (stop, mut stopped) = watch::channel(false);
        let (tell, told) = std::sync::mpsc::channel();
        let shared = world.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                loop {
                    tokio::select! {
                        accepted = listener.accept() => {
                            let (stream, _) = accepted.unwrap();
                            if !shared.lock().unwrap().down {
                                tokio::spawn(serve(stream, shared.clone()));
                            }
                        }
                        _ = stopped.changed() => return,
                    }
                }
            });
        });
        Self {
            world,
            address: told.recv().unwrap(),
            stop,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }
}

impl World {
    /// A sign-in, as REST would give it.
    pub fn tokens(&mut self) -> (String, String) {
        let (access, refresh) = (Uuid::now_v7().to_string(), Uuid::now_v7().to_string());
        self.tokens.insert(access.clone());
        self.refresh_tokens.insert(refresh.clone());
        (access, refresh)
    }

    /// Another device of the same user.
    pub fn elsewhere(&mut self, command: Command) -> Seq {
        let operation = Operation {
            id: OperationId(Uuid::now_v7()),
            base: None,
            command,
        };
        let first = self.log.len();
        let result = self.judge(&operation);
        assert!(matches!(result.outcome, Outcome::Accepted(_)), "{result:?}");
        self.publish(first, &[]);
        self.log.len() as Seq
    }

    pub fn add_elsewhere(&mut self, title: &str) -> TaskId {
        let task = TaskId(Uuid::now_v7());
        self.elsewhere(Command::TaskCreate(create(task, title)));
        task
    }

    /// The power fails: every connection breaks, and nobody is let in.
    pub fn cut(&mut self) {
        self.down = true;
        self.cut_connections();
    }

    pub fn cut_connections(&mut self) {
        for follower in self.followers.drain(..) {
            let _ = follower.send(Out::Cut);
        }
    }

    /// A heartbeat, out of turn.
    pub fn beat(&mut self, stale_since: Option<UnixMs>) {
        let message = ServerMessage::Heartbeat(Heartbeat { stale_since });
        self.tell(&Out::Message(Box::new(message)));
    }

    pub fn tell(&mut self, out: &Out) {
        self.followers.retain(|follower| follower.send(out.clone()).is_ok());
    }

    pub fn titles(&self) -> Vec<String> {
        self.tasks.values().map(|task| task.title.clone()).collect()
    }

    fn cursor(&self, seq: Seq) -> String {
        format!("{}:{seq}", self.epoch)
    }

    fn publish(&mut self, first: usize, without: &[Seq]) {
        let entries: Vec<Entry> = self.log[first..]
            .iter()
            .filter(|entry| !without.contains(&entry.seq))
            .cloned()
            .collect();
        if entries.is_empty() {
            return;
        }
        let message = ServerMessage::Entries(Entries {
            feed: self.user,
            cursor: self.cursor(self.log.len() as Seq),
            entries,
        });
        self.tell(&Out::Message(Box::new(message)));
        if self.cut_at.is_some_and(|length| self.log.len() >= length) {
            self.cut_at = None;
            self.cut();
        }
    }

    fn judge(&mut self, operation: &Operation) -> OperationResult {
        if let Some((known, answer)) = self.answers.get(&operation.id) {
            if known == operation {
                return answer.clone();
            }
            return refused(operation.id, Code::OperationIdReused);
        }
        let seq = self.log.len() as Seq + 1;
        let before = (self.lists.clone(), self.labels.clone(), self.tasks.clone());
        match self.changes(&operation.command, seq) {
            Ok(changes) => {
                self.log.push(Entry {
                    seq,
                    time: seq as UnixMs * 1000,
                    author: self.user,
                    operation: operation.id,
                    changes,
                });
                let answer = OperationResult {
                    id: operation.id,
                    outcome: Outcome::Accepted(Accepted { seq }),
                };
                self.answers.insert(operation.id, (operation.clone(), answer.clone()));
                answer
            }
            Err(code) => {
                (self.lists, self.labels, self.tasks) = before;
                refused(operation.id, code)
            }
        }
    }

    fn changes(&mut self, command: &Command, seq: Seq) -> Result<Vec<Change>, Code> {
        let time = seq as UnixMs * 1000;
        match command {
            Command::TaskCreate(create) => {
                let list = create.list.unwrap_or(ListId(self.user.0));
                if self.tasks.contains_key(&create.task) {
                    return Err(Code::IdTaken);
                }
                if !self.lists.contains_key(&list)
                    || create.parent.is_some_and(|parent| !self.tasks.contains_key(&parent))
                    || create.labels.iter().any(|label| !self.labels.contains_key(label))
                {
                    return Err(Code::RowNotFound);
                }
                if self.refused_title.as_ref() == Some(&create.title) {
                    return Err(Code::ValueTooLong);
                }
                if create.title.is_empty() {
                    return Err(Code::ValueInvalid);
                }
                if create.parent.is_some_and(|parent| self.tasks[&parent].list != list) {
                    return Err(Code::ParentElsewhere);
                }
                let done = create.status == Status::Done;
                let task = Task {
                    id: create.task,
                    list,
                    title: create.title.clone(),
                    notes: create.notes.clone(),
                    status: create.status,
                    priority: create.priority,
                    due: create.due.clone(),
                    deadline: create.deadline.clone(),
                    duration_minutes: create.duration_minutes,
                    labels: create.labels.clone(),
                    parent: create.parent,
                    rank: format!("{seq:08}"),
                    completed_at: done.then_some(time),
                    completed_by: done.then_some(self.user),
                    created_at: time,
                    created_by: self.user,
                    updated_at: time,
                    updated_by: self.user,
                    deleted_at: None,
                    version: seq,
                };
                self.tasks.insert(task.id, task.clone());
                Ok(vec![Change::TaskPut(TaskPut { from: None, task })])
            }
            Command::TaskComplete(named) => self.set(named.task, |set| {
                set.status = Some(Status::Done);
                set.completed_at = Some(Some(time));
            }),
            Command::TaskReopen(named) => self.set(named.task, |set| {
                set.status = Some(Status::Todo);
                set.completed_at = Some(None);
            }),
            Command::TaskDelete(named) => self.set(named.task, |set| set.deleted_at = Some(Some(time))),
            Command::TaskPatch(patch) => self.set(patch.task, |set| *set = patch.set.clone()),
            Command::ListCreate(create) => {
                if self.lists.contains_key(&create.list) {
                    return Err(Code::IdTaken);
                }
                let list = List {
                    id: create.list,
                    name: create.name.clone(),
                    color: create.color.clone(),
                    rank: format!("n{seq:08}"),
                    archived: false,
                    created_at: time,
                    updated_at: time,
                    deleted_at: None,
                    version: seq,
                };
                self.lists.insert(list.id, list.clone());
                Ok(vec![Change::ListPut(list)])
            }
            Command::ListPatch(patch) => {
                let list = self.lists.get_mut(&patch.list).ok_or(Code::RowNotFound)?;
                list.archived = patch.set.archived.unwrap_or(list.archived);
                Ok(vec![Change::ListSet(ListSet {
                    list: patch.list,
                    set: patch.set.clone(),
                })])
            }
            Command::LabelCreate(create) => {
                if self.labels.contains_key(&create.label) {
                    return Err(Code::IdTaken);
                }
                let label = Label {
                    id: create.label,
                    name: create.name.clone(),
                    color: None,
                    deleted_at: None,
                    version: seq,
                };
                self.labels.insert(label.id, label.clone());
                Ok(vec![Change::LabelPut(label)])
            }
            Command::Batch(batch) => {
                let mut all = Vec::new();
                for command in &batch.commands {
                    all.extend(self.changes(command, seq)?);
                }
                Ok(all)
            }
            other => panic!("this server does not know {other:?}"),
        }
    }

    fn set(&mut self, id: TaskId, change: impl FnOnce(&mut TaskFields)) -> Result<Vec<Change>, Code> {
        let task = self.tasks.get_mut(&id).ok_or(Code::RowNotFound)?;
        let mut set = TaskFields::default();
        change(&mut set);
        if let Some(title) = &set.title {
            task.title.clone_from(title);
        }
        if let Some(status) = set.status {
            task.status = status;
        }
        if let Some(deleted_at) = set.deleted_at {
            task.deleted_at = deleted_at;
        }
        Ok(vec![Change::TaskSet(TaskSet {
            task: id,
            list: task.list,
            set,
        })])
    }

    fn operations(&mut self, operations: &Operations, own: &mpsc::UnboundedSender<Out>) {
        self.received.extend(operations.operations.iter().cloned());
        let fault = self.faults.pop_front();
        if fault == Some(Fault::LoseOperations) {
            let _ = own.send(Out::Cut);
            return;
        }
        let first = self.log.len();
        let mut results = Vec::new();
        for (at, operation) in operations.operations.iter().enumerate() {
            if fault == Some(Fault::Overloaded) && at % 2 == 0 {
                results.push(refused(operation.id, Code::FeedOverloaded));
            } else {
                results.push(self.judge(operation));
            }
        }
        match fault {
            Some(Fault::LoseAnswer) => {
                let _ = own.send(Out::Cut);
                return;
            }
            Some(Fault::Hole) => self.publish(first, &[first as Seq + 1]),
            _ => self.publish(first, &[]),
        }
        let _ = own.send(Out::Message(Box::new(ServerMessage::Results(Results { results }))));
    }

    fn hello(&mut self, hello: Hello, own: &mpsc::UnboundedSender<Out>) {
        self.hellos.push(hello.clone());
        let send = |message| {
            let _ = own.send(Out::Message(Box::new(message)));
        };
        if let Some(close) = self.hello_closes.pop_front() {
            let _ = own.send(Out::Close(close));
            return;
        }
        if !hello.token.is_some_and(|token| self.tokens.contains(&token)) {
            send(ServerMessage::Error(ErrorBody::new(Code::TokenInvalid)));
            let _ = own.send(Out::Close(Code::TokenInvalid.close_code().unwrap()));
            return;
        }
        send(ServerMessage::Welcome(Welcome {
            build: "fake".to_owned(),
            protocol: ProtocolRange { min: 1, max: 1 },
            version: 1,
            user: self.user,
            time: 1_000_000,
            heartbeat_ms: self.heartbeat_ms,
            token_expires_at: 1_000_000 + self.token_life_ms,
            message_bytes_max: 256 * 1024,
            operations_max: 100,
            traces: false,
        }));
        let head = self.log.len() as Seq;
        let cursor = hello.follow[0].cursor.clone();
        if cursor.is_some()
            && let Some(code) = self.cursor_errors.pop_front()
        {
            send(ServerMessage::Error(ErrorBody::new(code).feed(self.user)));
            return;
        }
        let reset = |reason| (FollowMode::Reset, Some(reason), 0);
        let (mode, reason, from) = match cursor.as_deref().and_then(|cursor| cursor.split_once(':')) {
            None => reset(ResetReason::NoCursor),
            Some((epoch, _)) if epoch != self.epoch.to_string() => reset(ResetReason::EpochChanged),
            Some((_, seq)) => match seq.parse::<Seq>().unwrap() {
                seq if seq > head => reset(ResetReason::CursorAhead),
                seq if seq == head => (FollowMode::UpToDate, None, seq),
                seq => (FollowMode::Entries, None, seq),
            },
        };
        send(ServerMessage::Following(Following {
            feed: self.user,
            mode,
            reason,
            head,
        }));
        match mode {
            FollowMode::UpToDate => {}
            FollowMode::Entries => send(ServerMessage::Entries(Entries {
                feed: self.user,
                entries: self.log[from as usize..].to_vec(),
                cursor: self.cursor(head),
            })),
            FollowMode::Reset => self.snapshot(head, &send),
        }
        self.followers.push(own.clone());
    }

    fn snapshot(&mut self, seq: Seq, send: &dyn Fn(ServerMessage)) {
        let settings = Settings {
            time_zone: "Europe/Berlin".to_owned(),
            week_start: WeekStart::Monday,
            locale: "de".to_owned(),
            version: 1,
        };
        let tasks: Vec<Task> = self.tasks.values().cloned().collect();
        let rows = (1 + self.lists.len() + self.labels.len() + tasks.len()) as u64;
        let wrong = self.faults.front() == Some(&Fault::WrongCount);
        if wrong {
            self.faults.pop_front();
        }
        send(ServerMessage::Snapshot(Snapshot {
            feed: self.user,
            seq,
            piece: 0,
            settings: Some(settings),
            lists: self.lists.values().cloned().collect(),
            labels: self.labels.values().cloned().collect(),
            tasks: Vec::new(),
            done: None,
        }));
        let mut pieces: Vec<Vec<Task>> = tasks.chunks(3).map(<[Task]>::to_vec).collect();
        if pieces.is_empty() {
            pieces.push(Vec::new());
        }
        let last = pieces.len();
        for (piece, tasks) in (1..).zip(pieces) {
            send(ServerMessage::Snapshot(Snapshot {
                feed: self.user,
                seq,
                piece,
                settings: None,
                lists: Vec::new(),
                labels: Vec::new(),
                tasks,
                done: (piece as usize == last).then(|| SnapshotDone {
                    cursor: self.cursor(seq),
                    rows: rows + u64::from(wrong),
                    left_out: Vec::new(),
                }),
            }));
        }
    }

    fn rest(&mut self, path: &str, body: &serde_json::Value) -> (u16, serde_json::Value) {
        let problem = |code: Code| {
            let body = serde_json::json!({
                "type": "about:blank", "title": code.sentence(), "status": code.http_status(),
                "code": code as u16, "name": code.name(),
            });
            (code.http_status(), body)
        };
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let status = match path {
            "register" if self.passwords.contains_key(&text("email")) => return problem(Code::EmailTaken),
            "register" if text("password").len() < 8 => return problem(Code::PasswordInvalid),
            "register" => {
                self.passwords.insert(text("email"), text("password"));
                201
            }
            "login" if self.passwords.get(&text("email")) != Some(&text("password")) => {
                return problem(Code::CredentialsWrong);
            }
            "login" => 200,
            "refresh" if !self.refresh_tokens.remove(&text("refresh_token")) => return problem(Code::SignedOut),
            "refresh" => {
                self.refreshes_by_rest += 1;
                200
            }
            "logout" => {
                self.refresh_tokens.remove(&text("refresh_token"));
                return (204, serde_json::Value::Null);
            }
            _ => return problem(Code::NotFound),
        };
        let (access, refresh) = self.tokens();
        let tokens = serde_json::json!({
            "access_token": access, "refresh_token": refresh, "expires_in": self.token_life_ms / 1000,
        });
        (status, tokens)
    }
}

pub fn create(task: TaskId, title: &str) -> TaskCreate {
    TaskCreate {
        task,
        list: None,
        title: title.to_owned(),
        notes: String::new(),
        status: Status::Todo,
        priority: Default::default(),
        due: None,
        deadline: None,
        duration_minutes: None,
        labels: Vec::new(),
        parent: None,
        place: Place::Last,
    }
}

fn refused(id: OperationId, code: Code) -> OperationResult {
    OperationResult {
        id,
        outcome: Outcome::Refused(ErrorBody::new(code)),
    }
}

async fn serve(mut stream: TcpStream, world: Arc<Mutex<World>>) {
    let mut start = [0; 5];
    while stream.peek(&mut start).await.unwrap_or(0) < start.len() {
        if stream.peek(&mut start).await.unwrap_or(0) == 0 {
            return;
        }
        tokio::task::yield_now().await;
    }
    if &start == b"POST " {
        rest(&mut stream, &world).await;
    } else {
        socket(stream, world).await;
    }
}

async fn rest(stream: &mut TcpStream, world: &Mutex<World>) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    let (path, body) = loop {
        let count = stream.read(&mut chunk).await.unwrap_or(0);
        if count == 0 {
            return;
        }
        bytes.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let lower = head.to_lowercase();
        let length = lower
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
        if body.len() >= length.unwrap_or(0) {
            let path = head.split(' ').nth(1).unwrap().rsplit('/').next().unwrap().to_owned();
            break (path, serde_json::from_str(body).unwrap_or_default());
        }
    };
    let (status, answer) = world.lock().unwrap().rest(&path, &body);
    let body = if answer.is_null() {
        String::new()
    } else {
        answer.to_string()
    };
    let answer = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

#[allow(clippy::result_large_err, reason = "the handshake callback's type is the library's")]
async fn socket(stream: TcpStream, world: Arc<Mutex<World>>) {
    let mut encoding = Encoding::Json;
    let choose = |request: &Request, mut response: Response| {
        assert_eq!(request.uri().path(), "/api/v1/socket");
        let offered = request.headers()["sec-websocket-protocol"].to_str().unwrap().to_owned();
        if offered == SUBPROTOCOL_MSGPACK {
            encoding = Encoding::MsgPack;
        }
        response
            .headers_mut()
            .insert("sec-websocket-protocol", offered.parse().unwrap());
        Ok(response)
    };
    let Ok(socket) = tokio_tungstenite::accept_hdr_async(stream, choose).await else {
        return;
    };
    let (mut sink, mut source) = socket.split();
    let (own, mut outbox) = mpsc::unbounded_channel();
    let beat = world.lock().unwrap().heartbeat_ms;
    let mut beats = tokio::time::interval(std::time::Duration::from_millis(u64::from(beat)));
    beats.tick().await;
    loop {
        tokio::select! {
            frame = source.next() => {
                let bytes = match frame {
                    Some(Ok(Message::Text(text))) => text.as_bytes().to_vec(),
                    Some(Ok(Message::Binary(bytes))) => bytes.to_vec(),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    Some(Ok(_)) => continue,
                };
                let message: ClientMessage = encoding.decode(&bytes).expect("the client speaks the protocol");
                let mut world = world.lock().unwrap();
                match message {
                    ClientMessage::Hello(hello) => world.hello(hello, &own),
                    ClientMessage::Operations(operations) => world.operations(&operations, &own),
                    ClientMessage::Heartbeat(_) => world.heartbeats += 1,
                    ClientMessage::Refresh(refresh) => {
                        assert!(world.tokens.contains(&refresh.token));
                        world.refreshes_in_band += 1;
                        let token_expires_at = 2_000_000_000;
                        let message = ServerMessage::Refreshed(Refreshed { token_expires_at });
                        let _ = own.send(Out::Message(Box::new(message)));
                    }
                    other => panic!("this server does not know {other:?}"),
                }
            }
            out = outbox.recv() => {
                match out {
                    Some(Out::Message(message)) => {
                        if world.lock().unwrap().silent {
                            continue;
                        }
                        let bytes = encoding.encode(&*message);
                        let frame = match encoding {
                            Encoding::Json => Message::text(String::from_utf8(bytes).unwrap()),
                            Encoding::MsgPack => Message::binary(bytes),
                        };
                        if sink.send(frame).await.is_err() {
                            return;
                        }
                    }
                    Some(Out::Close(code)) => {
                        let frame = CloseFrame { code: code.into(), reason: "".into() };
                        let _ = sink.send(Message::Close(Some(frame))).await;
                        return;
                    }
                    Some(Out::Cut) | None => return,
                }
            }
            _ = beats.tick() => {
                let message = ServerMessage::Heartbeat(Heartbeat::default());
                let _ = own.send(Out::Message(Box::new(message)));
            }
        }
    }
}
