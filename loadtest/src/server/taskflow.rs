//! The server under test, from outside: its command line, its ports, its protocol.

use std::cell::Cell;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use memchr::memmem;
use taskflow_protocol::codec::Encoding;
use taskflow_protocol::message::{
    ClientMessage, Command, Follow, Hello, Operation, Operations, ProtocolRange, ServerMessage, TaskCreate, TaskPatch,
};
use taskflow_protocol::model::TaskFields;
use taskflow_protocol::values::{Priority, Status};
use taskflow_protocol::{OperationId, PROTOCOL_MAX, PROTOCOL_MIN, SUBPROTOCOL_JSON, TaskId};
use uuid::Uuid;

use super::{Bench, User, free_address, output_of, parse_users, wait_until_listening};
use crate::clock;
use crate::net::Dial;
use crate::net::http::Http;
use crate::net::socket::{Seen, Socket, Writer};
use crate::process::Process;
use crate::scenarios::open_many;

/// The WebSocket's path.
const SOCKET_PATH: &str = "/api/v1/socket";

/// How the server is started.
#[derive(Clone, Default)]
pub struct Setup {
    /// The core that it runs on; absent: all.
    pub core: Option<usize>,
    /// Keys of the configuration file and their values.
    pub settings: Vec<(&'static str, i64)>,
    /// The same, where the value is a text or a list of texts: as it stands in the file.
    pub texts: Vec<(&'static str, String)>,
    /// Every system call that makes data durable is written down, with its time.
    pub trace_syncs: bool,
    /// The control group that it runs in.
    pub cap: Option<PathBuf>,
    /// Where clients and operators connect; absent: anywhere that is free.
    pub listen: Option<(SocketAddr, SocketAddr)>,
}

impl Setup {
    /// Sets a key of the configuration.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: i64) -> Self {
        self.settings.push((key, value));
        self
    }
}

/// A running server.
pub struct TaskFlow {
    /// Its process.
    pub process: Process,
    /// Where clients connect.
    pub address: SocketAddr,
    operator: SocketAddr,
    data: PathBuf,
    setup: Setup,
    /// How often users were minted: each time they are others.
    minted: Cell<u64>,
}

impl TaskFlow {
    /// Starts on an empty data folder.
    pub async fn start(bench: &mut Bench, setup: Setup) -> Result<Self> {
        Self::start_in(bench, setup, "taskflow-data").await
    }

    /// The same, where several run: each has a folder of its own.
    pub async fn start_in(bench: &mut Bench, setup: Setup, folder: &str) -> Result<Self> {
        let data = bench.folder(folder)?;
        let (address, operator) = match setup.listen {
            Some(addresses) => addresses,
            None => (free_address()?, free_address()?),
        };
        let process = Self::launch(bench, &setup, &data, address, operator)?;
        let mut server = Self {
            process,
            address,
            operator,
            data,
            setup,
            minted: Cell::new(0),
        };
        server.wait_until_ready().await?;
        Ok(server)
    }

    /// Starts again on the same data and the same ports, after [`Process::kill`] or [`Process::stop`]; does not wait.
    pub fn start_again(&mut self, bench: &mut Bench) -> Result<()> {
        self.process = Self::launch(bench, &self.setup, &self.data, self.address, self.operator)?;
        Ok(())
    }

    fn launch(
        bench: &mut Bench,
        setup: &Setup,
        data: &std::path::Path,
        address: SocketAddr,
        operator: SocketAddr,
    ) -> Result<Process> {
        let config = data.with_extension("toml");
        // Few users here do what many do elsewhere.
        let free = ["reads", "writes", "strangers", "socket_bytes"].map(|asked| format!("{asked}_a_second_max = 0\n"));
        let numbers = setup.settings.iter().map(|(key, value)| format!("{key} = {value}\n"));
        let texts = setup.texts.iter().map(|(key, value)| format!("{key} = {value}\n"));
        fs::write(
            &config,
            free.into_iter().chain(numbers).chain(texts).collect::<String>(),
        )?;
        let mut arguments: Vec<String> = [
            "serve",
            "--listen",
            &address.to_string(),
            "--operator-listen",
            &operator.to_string(),
            "--data-dir",
            &data.to_string_lossy(),
            "--config",
            &config.to_string_lossy(),
        ]
        .map(str::to_owned)
        .to_vec();
        let server = bench.server_binary.clone();
        if let Some(cap) = &setup.cap {
            // In it before its first instruction, so that it counts the cores that it has.
            let enter = format!("echo $$ >{}/cgroup.procs && exec \"$0\" \"$@\"", cap.display());
            let mut words = vec!["-c".to_owned(), enter, server.to_string_lossy().into_owned()];
            words.append(&mut arguments);
            return bench.start("sh".as_ref(), &words, setup.core, "taskflow.log");
        }
        if !setup.trace_syncs {
            return bench.start(&server, &arguments, setup.core, "taskflow.log");
        }
        // A filter in the kernel stops the server at these calls only. The tracer shares the server's core: on the client's
        // it would wait for the client at each of them.
        let trace = bench.work.join(SYNC_TRACE);
        let mut traced: Vec<String> = ["-f", "--seccomp-bpf", "-ttt", "-e", SYNC_CALLS, "-o"]
            .map(str::to_owned)
            .to_vec();
        traced.push(trace.to_string_lossy().into_owned());
        traced.push(server.to_string_lossy().into_owned());
        traced.append(&mut arguments);
        bench.start("strace".as_ref(), &traced, setup.core, "taskflow.log")
    }

    /// Waits until the server says that it is ready.
    pub async fn wait_until_ready(&mut self) -> Result<()> {
        wait_until_listening(self.operator, &mut self.process).await?;
        wait_until_listening(self.address, &mut self.process).await?;
        let deadline = clock::now_ns() + 30_000_000_000;
        while self.operator_page("/health/ready").await?.0 != 200 {
            self.process.check_running()?;
            if clock::now_ns() > deadline {
                bail!("the server is not ready after 30 s");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if self.setup.trace_syncs {
            self.process.sample_traced()?;
        }
        Ok(())
    }

    /// Whether it says so; `false` as well while nobody listens.
    pub async fn is_ready(&self) -> bool {
        matches!(self.operator_page("/health/ready").await, Ok((200, _)))
    }

    /// Throws away what it has kept; it must not run.
    pub fn empty_folder(&self) -> Result<()> {
        fs::remove_dir_all(&self.data)?;
        Ok(fs::create_dir(&self.data)?)
    }

    /// A connection to the operator's port.
    pub async fn operator(&self) -> Result<Http> {
        Ok(Http::connect(Dial::to(self.operator)).await?)
    }

    async fn operator_page(&self, path: &str) -> Result<(u16, String)> {
        let mut http = self.operator().await?;
        let answer = http.request("GET", path, None, "").await?;
        Ok((answer.status, answer.text()))
    }

    /// A figure of `/metrics`, summed over its labels; `None` if there is none of that name.
    pub async fn metric(&self, name: &str) -> Result<Option<f64>> {
        let (_, text) = self.operator_page("/metrics").await?;
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = match rest.strip_prefix('{') {
                Some(labelled) => labelled.split_once('}')?.1,
                None => rest.strip_prefix(' ')?,
            };
            value.trim().parse::<f64>().ok()
        });
        let values: Vec<f64> = values.collect();
        Ok((!values.is_empty()).then(|| values.iter().sum()))
    }

    /// Waits until at most this many feeds run.
    pub async fn wait_until_feeds_stopped(&mut self, at_most: f64) -> Result<()> {
        let deadline = clock::now_ns() + 120_000_000_000;
        loop {
            self.process.check_running()?;
            let running = self
                .metric(FEEDS_RUNNING)
                .await?
                .with_context(|| format!("there is no metric {FEEDS_RUNNING}"))?;
            if running <= at_most {
                return Ok(());
            }
            if clock::now_ns() > deadline {
                bail!("{running} feeds still run after 120 s");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Users with access tokens, whose feeds are there.
    pub async fn users_with_feeds(self: &Rc<Self>, bench: &Bench, count: usize) -> Result<Vec<User>> {
        let users = Rc::new(self.users(bench, count)?);
        let (server, born) = (self.clone(), users.clone());
        open_many(count, 64, move |number| {
            let (server, born) = (server.clone(), born.clone());
            async move { server.follow(server.dial(number), &born[number]).await.map(drop) }
        })
        .await?;
        Ok(Rc::unwrap_or_clone(users))
    }

    /// Users with access tokens, whose feeds are born when they first say hello.
    pub fn users(&self, bench: &Bench, count: usize) -> Result<Vec<User>> {
        let seed = self.minted.replace(self.minted.get() + 1);
        let arguments = [
            "token",
            "--data-dir",
            &self.data.to_string_lossy(),
            "--count",
            &count.to_string(),
            "--seed",
            &seed.to_string(),
            "--seconds",
            "86400",
        ];
        let users = parse_users(&output_of(&bench.server_binary, &arguments)?)?;
        if users.len() != count {
            bail!("asked for {count} users, got {}", users.len());
        }
        Ok(users)
    }

    /// Opens a connection, without a hello.
    pub async fn open(&self, dial: Dial) -> std::io::Result<Socket> {
        open(dial).await
    }

    /// How to dial the server.
    pub fn dial(&self, number: usize) -> Dial {
        Dial::to(self.address).number(number)
    }

    /// Opens a connection and follows the user's own feed from the start: all of the snapshot is read. The cursor.
    pub async fn follow(&self, dial: Dial, user: &User) -> Result<(Socket, String)> {
        let mut socket = self.open(dial).await?;
        socket.writer().send(&hello(&user.token, Some(None))).await?;
        loop {
            match Encoding::Json.decode::<ServerMessage>(&next(&mut socket).await?)? {
                ServerMessage::Snapshot(snapshot) => {
                    if let Some(done) = snapshot.done {
                        return Ok((socket, done.cursor));
                    }
                }
                ServerMessage::Error(error) => bail!("{}: {}", error.name, error.message),
                _ => {}
            }
        }
    }

    /// Opens a connection that follows nothing.
    pub async fn sign_in(&self, dial: Dial, user: &User) -> Result<Socket> {
        let mut socket = self.open(dial).await?;
        socket.writer().send(&hello(&user.token, None)).await?;
        match Encoding::Json.decode::<ServerMessage>(&next(&mut socket).await?)? {
            ServerMessage::Welcome(_) => Ok(socket),
            other => bail!("no welcome, but {other:?}"),
        }
    }

    /// The calls that made data durable between two times of the wall clock, in seconds; the server must have ended.
    pub fn syncs_between(bench: &Bench, from: f64, to: f64) -> Result<usize> {
        let text = fs::read_to_string(bench.work.join(SYNC_TRACE))?;
        let times = text.lines().filter_map(|line| {
            // PID TIME CALL(…; the second half of an interrupted line does not count again.
            let mut words = line.split_whitespace();
            let (_, time, call) = (words.next()?, words.next()?, words.next()?);
            (!call.starts_with('<') && !call.starts_with('+') && !call.starts_with('-'))
                .then(|| time.parse::<f64>().ok())?
        });
        Ok(times.filter(|time| (from..to).contains(time)).count())
    }
}

/// The gauge of feeds that are in memory.
const FEEDS_RUNNING: &str = "taskflow_feeds_running";

const SYNC_TRACE: &str = "syncs.trace";
/// What makes data durable on Linux.
const SYNC_CALLS: &str = "trace=fsync,fdatasync,sync_file_range,msync,sync,syncfs";

/// The next message that is not a heartbeat; those are answered.
///
/// # Cancel safety
///
/// Nothing is lost.
pub async fn next(socket: &mut Socket) -> std::io::Result<Vec<u8>> {
    loop {
        let text = socket.text().await?;
        if !is_heartbeat(&text) {
            return Ok(text);
        }
        socket.writer().send_now(HEARTBEAT);
    }
}

/// Opens a connection, without a hello.
pub async fn open(dial: Dial) -> std::io::Result<Socket> {
    Socket::open(dial, SOCKET_PATH, Some(SUBPROTOCOL_JSON)).await
}

/// Changes one task again and again, and follows nothing.
pub struct Author {
    writer: Writer,
    task: TaskId,
    not_accepted: Rc<Cell<u64>>,
}

impl Author {
    /// Signs in and makes the task.
    pub async fn sign_in(server: &TaskFlow, user: &User) -> Result<Self> {
        let mut socket = server.sign_in(server.dial(0), user).await?;
        let (writer, task) = (socket.writer(), task_id());
        let made = operation(create(task, "changed soon".to_owned(), String::new()));
        writer.send(&operations(vec![made])).await?;
        let answer = next(&mut socket).await?;
        if memmem::find(&answer, ACCEPTED).is_none() {
            bail!("the first task was not accepted: {}", String::from_utf8_lossy(&answer));
        }
        let not_accepted = Rc::new(Cell::new(0));
        let counted = not_accepted.clone();
        tokio::task::spawn_local(socket.drive(move |seen, writer| {
            let Seen::Text(text) = seen else { return };
            if is_heartbeat(text) {
                writer.send_now(HEARTBEAT);
            }
            let accepted = memmem::find_iter(text, ACCEPTED).count() as u64;
            let all = memmem::find_iter(text, br#""outcome":"#).count() as u64;
            counted.set(counted.get() + all - accepted);
        }));
        Ok(Self {
            writer,
            task,
            not_accepted,
        })
    }

    /// Gives the task a title.
    pub async fn change(&self, title: String) -> Result<()> {
        let patch = operation(rename(self.task, title));
        Ok(self.writer.send(&operations(vec![patch])).await?)
    }

    /// How many changes had another outcome.
    pub fn not_accepted(&self) -> u64 {
        self.not_accepted.get()
    }
}

const ACCEPTED: &[u8] = br#""outcome":{"accepted""#;

/// The first message. `follow`: the user's own feed, from the cursor if there is one.
pub fn hello(token: &str, follow: Option<Option<&str>>) -> Vec<u8> {
    let follow = follow.map(|cursor| Follow {
        cursor: cursor.map(str::to_owned),
        ..Follow::default()
    });
    Encoding::Json.encode(&ClientMessage::Hello(Hello {
        protocol: ProtocolRange {
            min: PROTOCOL_MIN,
            max: PROTOCOL_MAX,
        },
        token: Some(token.to_owned()),
        client: Some("taskflow-loadtest".to_owned()),
        follow: follow.into_iter().collect(),
    }))
}

/// The answer to the server's heartbeat.
pub const HEARTBEAT: &[u8] = br#"{"heartbeat":{}}"#;

/// Whether a message is the server's heartbeat.
pub fn is_heartbeat(text: &[u8]) -> bool {
    text.len() < 32 && text.starts_with(br#"{"heartbeat""#)
}

/// A message with these operations.
pub fn operations(operations: Vec<Operation>) -> Vec<u8> {
    Encoding::Json.encode(&ClientMessage::Operations(Operations {
        feed: None,
        operations,
        traceparent: None,
    }))
}

/// An operation with a fresh id.
pub fn operation(command: Command) -> Operation {
    Operation {
        id: OperationId(Uuid::now_v7()),
        base: None,
        command,
    }
}

/// Makes a task.
pub fn create(task: TaskId, title: String, notes: String) -> Command {
    Command::TaskCreate(TaskCreate {
        task,
        list: None,
        title,
        notes,
        status: Status::Todo,
        priority: Priority::None,
        due: None,
        deadline: None,
        duration_minutes: None,
        labels: Vec::new(),
        parent: None,
        place: Default::default(),
    })
}

/// Gives a task a title.
pub fn rename(task: TaskId, title: String) -> Command {
    Command::TaskPatch(TaskPatch {
        task,
        set: TaskFields {
            title: Some(title),
            ..TaskFields::default()
        },
    })
}

/// A new task's id.
pub fn task_id() -> TaskId {
    TaskId(Uuid::now_v7())
}
