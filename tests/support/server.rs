//! The real binary, as a process that ends with the test.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::http::{self, Response};
use super::{DEADLINE, unique};

/// What the process writes to standard error, line by line.
#[derive(Default)]
pub struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Log {
    fn read(self: &Arc<Self>, from: impl std::io::Read + Send + 'static) {
        let log = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                log.lock().0.push(line);
                log.changed.notify_all();
            }
            log.lock().1 = true;
            log.changed.notify_all();
        });
    }

    /// Also after a panic of the test that waits: what was read is shown then.
    fn lock(&self) -> MutexGuard<'_, (Vec<String>, bool)> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a line; `None` if the log ended without it.
    pub fn wait<T>(&self, mut pick: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let begun = Instant::now();
        let mut lines = self.lock();
        let mut seen = 0;
        loop {
            while seen < lines.0.len() {
                if let Some(found) = pick(&lines.0[seen]) {
                    return Some(found);
                }
                seen += 1;
            }
            if lines.1 {
                return None;
            }
            let left = DEADLINE.checked_sub(begun.elapsed());
            let left = left.unwrap_or_else(|| panic!("this line did not come; there is: {:#?}", lines.0));
            lines = self
                .changed
                .wait_timeout(lines, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// All lines so far.
    pub fn text(&self) -> String {
        self.lock().0.join("\n")
    }
}

/// A server that runs, or ran.
pub struct Server {
    child: Option<Child>,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where operators look.
    pub operator: SocketAddr,
    /// What it logs.
    pub log: Arc<Log>,
    /// What must outlive the process.
    pub data: Arc<DataDir>,
    /// What is run when it is started again.
    pub program: Program,
    flags: Vec<String>,
}

/// Which binary, and what it finds in its environment.
#[derive(Clone, Debug)]
pub struct Program {
    pub binary: PathBuf,
    pub environment: Vec<(&'static str, String)>,
}

impl Default for Program {
    fn default() -> Self {
        Self {
            binary: PathBuf::from(env!("CARGO_BIN_EXE_taskflow")),
            environment: Vec::new(),
        }
    }
}

impl Program {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        // What a developer has set must not reach the server under test.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TASKFLOW_")) {
            command.env_remove(name);
        }
        // All of a test comes from one address.
        command.env("TASKFLOW_SIGN_IN_ATTEMPTS_MAX", "0");
        for asked in ["READS", "WRITES", "STRANGERS"] {
            command.env(format!("TASKFLOW_{asked}_A_SECOND_MAX"), "0");
        }
        command.env("TASKFLOW_SOCKET_BYTES_A_SECOND_MAX", "0");
        command.envs(self.environment.iter().map(|(name, value)| (*name, value.as_str())));
        command
    }
}

/// A data folder: a temporary one, or one inside of something that the test made.
pub struct DataDir {
    path: PathBuf,
    _temporary: Option<TempDir>,
}

impl DataDir {
    pub fn temporary() -> Arc<Self> {
        let temporary = tempfile::Builder::new()
            .prefix("taskflow-")
            .tempdir()
            .expect("a temporary folder");
        Arc::new(Self {
            path: temporary.path().join("data"),
            _temporary: Some(temporary),
        })
    }

    pub fn at(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, _temporary: None })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The binary under test.
pub fn binary() -> Command {
    Program::default().command()
}

/// The processes in a test are one at a time per core anyway; two workers are enough to cross threads.
const FLAGS: [&str; 2] = ["--workers=2", "--feed-arbiters=2"];

/// What is set by a flag.
pub fn key_of(flag: &str) -> &str {
    flag.split('=').next().unwrap_or(flag)
}

impl Server {
    /// With the settings of a server, and these flags beside.
    pub fn start(flags: &[&str]) -> Self {
        Self::start_in(DataDir::temporary(), flags)
    }

    /// Over a data folder that is there already.
    pub fn start_in(data: Arc<DataDir>, flags: &[&str]) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        match Self::try_start(data, any, any, flags) {
            Ok(server) => server,
            Err((status, log)) => panic!("the server did not start: {status:?}\n{log}"),
        }
    }

    /// As it is typed, or what the process said when it refused.
    pub fn try_start(
        data: Arc<DataDir>,
        listen: SocketAddr,
        operator: SocketAddr,
        flags: &[&str],
    ) -> Result<Self, (ExitStatus, String)> {
        Self::try_start_as(&Program::default(), data, listen, operator, flags)
    }

    /// The same, by this program.
    pub fn try_start_as(
        program: &Program,
        data: Arc<DataDir>,
        listen: SocketAddr,
        operator: SocketAddr,
        flags: &[&str],
    ) -> Result<Self, (ExitStatus, String)> {
        let mut command = program.command();
        command
            .arg("serve")
            .arg(format!("--listen={listen}"))
            .arg(format!("--operator-listen={operator}"))
            .arg(format!("--data-dir={}", data.path.display()))
            .args(
                FLAGS
                    .iter()
                    .filter(|flag| !flags.iter().any(|other| key_of(other) == key_of(flag))),
            )
            .args(flags);
        let mut server = Self::spawn(command, data, flags)?;
        server.program = program.clone();
        Ok(server)
    }

    /// Starts a command that becomes a server.
    pub fn spawn(mut command: Command, data: Arc<DataDir>, flags: &[&str]) -> Result<Self, (ExitStatus, String)> {
        // Its log, and its last word if it does not start.
        let (from_server, to_log) = std::io::pipe().expect("a pipe");
        command
            .stdin(Stdio::null())
            .stdout(to_log.try_clone().expect("a pipe"))
            .stderr(to_log);
        let child = command.spawn().expect("the binary runs");
        // It holds the other end of the pipe.
        drop(command);
        let log = Arc::new(Log::default());
        log.read(from_server);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        // Whatever goes wrong from here on, the process is ended by the drop of this.
        let mut server = Self {
            child: Some(child),
            address: any,
            operator: any,
            log: log.clone(),
            data,
            program: Program::default(),
            flags,
        };
        let serving = log.wait(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == "serving").then_some(line)
        });
        let Some(serving) = serving else {
            let status = server.exit_status();
            return Err((status, log.text()));
        };
        let address = |name: &str| {
            serving[name]
                .as_str()
                .and_then(|text| text.parse().ok())
                .expect("an address")
        };
        // A node that serves no clients has no address for them.
        if !serving["address"].is_null() {
            server.address = address("address");
        }
        server.operator = address("operator_address");
        Ok(server)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("the process runs"))
    }

    /// As a power cut, for the process.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process is there");
    }

    /// Waits for the end of the process.
    pub fn exit_status(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the process runs");
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("it is ours") {
                return status;
            }
            if begun.elapsed() > DEADLINE {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the process did not end; its log:\n{}", self.log.text());
            }
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
    }

    /// Asks it to end, as an operator does, and waits.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.exit_status()
    }

    /// Starts it again: same folder, same address for clients, same flags.
    pub fn restart(&mut self) {
        if let Err((status, log)) = self.try_restart() {
            panic!("the server did not start again: {status:?}\n{log}");
        }
    }

    /// The same, or what the process said when it refused.
    pub fn try_restart(&mut self) -> Result<(), (ExitStatus, String)> {
        self.kill();
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        // Nobody comes back to the operator's port: another process may have it by now.
        let operator = SocketAddr::from(([127, 0, 0, 1], 0));
        *self = Self::try_start_as(&self.program, self.data.clone(), self.address, operator, &flags)?;
        Ok(())
    }

    /// A new account with a password, signed in.
    pub fn register(&self) -> Account {
        let email = format!("user{}-{}@example.org", unique(), std::process::id());
        let body = serde_json::json!({ "email": email, "password": PASSWORD });
        let response = http::post(self.address, "/api/v1/auth/register", &[], &body);
        assert_eq!(response.status, 201, "{response:?}");
        Account::of(&response, email)
    }

    /// A user without a password, whose token the operator made: quicker than an account.
    pub fn user(&self) -> Account {
        let account = self.user_without_feed();
        // The feed is made by the first look at it.
        assert_eq!(self.get("/api/v1/snapshot", &account).status, 200);
        account
    }

    /// A user of whom the server has not heard.
    pub fn user_without_feed(&self) -> Account {
        let user = super::id();
        let token = self.mint(&user, &["--seconds=3600"]);
        Account {
            user,
            token,
            refresh: String::new(),
            email: String::new(),
        }
    }

    /// Tokens for so many made-up users.
    pub fn mint_many(&self, count: usize) -> Vec<String> {
        let folder = format!("--data-dir={}", self.data.path.display());
        let output = binary()
            .args(["token", &folder, &format!("--count={count}")])
            .output()
            .expect("the server's binary runs");
        let lines = String::from_utf8(output.stdout).expect("UTF-8");
        let tokens = lines.lines().filter_map(|line| line.split(' ').nth(1));
        tokens.map(str::to_owned).collect()
    }

    /// A token as `taskflow token` makes it.
    pub fn mint(&self, user: &str, flags: &[&str]) -> String {
        let mut command = binary();
        let folder = format!("--data-dir={}", self.data.path.display());
        let output = command
            .arg("token")
            .arg(folder)
            .arg(format!("--user={user}"))
            .args(flags)
            .output();
        let output = output.expect("the binary runs");
        assert!(output.status.success(), "{output:?}");
        let line = String::from_utf8(output.stdout).expect("UTF-8");
        line.split_whitespace().nth(1).expect("a token").to_owned()
    }

    pub fn get(&self, path: &str, account: &Account) -> Response {
        http::request(self.address, "GET", path, &[&account.bearer()], b"")
    }

    pub fn post(&self, path: &str, account: &Account, body: &Value) -> Response {
        http::post(self.address, path, &[&account.bearer()], body)
    }

    /// With headers beside the token.
    pub fn send(&self, method: &str, path: &str, account: &Account, headers: &[&str], body: &Value) -> Response {
        let bearer = account.bearer();
        let mut all = vec![bearer.as_str(), "content-type: application/json"];
        all.extend(headers);
        let body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        http::request(self.address, method, path, &all, &body)
    }

    /// One operation by REST; its outcome.
    pub fn submit(&self, account: &Account, operation: &Value) -> Value {
        let response = self.post(
            "/api/v1/operations",
            account,
            &serde_json::json!({ "operations": [operation] }),
        );
        assert_eq!(response.status, 200, "{response:?}");
        response.json()["results"][0]["outcome"].clone()
    }

    /// A metric's value, with its labels as they are scraped.
    pub fn metric(&self, name: &str) -> f64 {
        let response = http::request(self.operator, "GET", "/metrics", &[], b"");
        let text = String::from_utf8(response.body).expect("UTF-8");
        let values: Vec<f64> = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))
            .map(|line| {
                line.rsplit(' ')
                    .next()
                    .and_then(|value| value.parse().ok())
                    .expect("a number")
            })
            .collect();
        assert!(!values.is_empty(), "{name} is not in {text}");
        values.iter().sum()
    }

    /// Waits until a metric has reached a value.
    pub fn wait_for_metric(&self, name: &str, is_there: impl Fn(f64) -> bool) {
        super::eventually(name, || is_there(self.metric(name)).then_some(()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of the server at {}\n{}\n---", self.address, self.log.text());
        }
    }
}

/// Everybody's.
pub const PASSWORD: &str = "correct horse battery";

/// Who talks to the server.
#[derive(Clone, Debug)]
pub struct Account {
    pub user: String,
    pub token: String,
    pub refresh: String,
    pub email: String,
}

impl Account {
    pub fn of(response: &Response, email: String) -> Self {
        let body = response.json();
        let text = |name: &str| {
            body[name]
                .as_str()
                .unwrap_or_else(|| panic!("{name} in {body}"))
                .to_owned()
        };
        Self {
            user: text("user"),
            token: text("access_token"),
            refresh: text("refresh_token"),
            email,
        }
    }

    /// The header.
    pub fn bearer(&self) -> String {
        format!("authorization: Bearer {}", self.token)
    }
}

/// A port that nobody listens on just now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("bound").port()
}
