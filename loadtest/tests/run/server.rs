//! The real server, as a process that ends with the test.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// Users that have tokens.
const USERS: &str = "8";

/// See the module.
pub struct Server {
    child: Child,
    folder: TempDir,
    flags: Vec<String>,
    pub address: SocketAddr,
    operator: SocketAddr,
}

/// Built beside the program under test: `cargo test --workspace` does it.
fn binary() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_taskflow-loadtest")).with_file_name("taskflow");
    let binary = std::env::var_os("SERVER_BIN").map_or(beside, PathBuf::from);
    assert!(
        binary.exists(),
        "{} is not there: cargo build --bin taskflow",
        binary.display()
    );
    binary
}

fn command() -> Command {
    let mut command = Command::new(binary());
    // What a developer has set must not reach the server under test.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TASKFLOW_")) {
        command.env_remove(name);
    }
    command
}

impl Server {
    /// With these flags beside the usual ones.
    pub fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (child, address, operator) = launch(folder.path(), any, &flags);
        let tokens = command()
            .args(["token", "--count", USERS, "--data-dir"])
            .arg(folder.path().join("data"))
            .output()
            .unwrap();
        assert!(tokens.status.success(), "{tokens:?}");
        std::fs::write(folder.path().join("tokens"), tokens.stdout).unwrap();
        Self {
            child,
            folder,
            flags,
            address,
            operator,
        }
    }

    /// As a power cut, for the process.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// For signals.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// On the same data and address.
    pub fn start_again(&mut self) {
        let (child, _, operator) = launch(self.folder.path(), self.address, &self.flags);
        (self.child, self.operator) = (child, operator);
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn operator_url(&self) -> String {
        format!("http://{}", self.operator)
    }

    /// Waits until it has answered so many operations more.
    pub fn wait_for_changes(&self, more: u64) {
        let upto = self.changes() + more;
        let begun = Instant::now();
        while self.changes() < upto {
            assert!(begun.elapsed() < Duration::from_secs(40), "nothing is changed");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    fn changes(&self) -> u64 {
        let mut stream = TcpStream::connect(self.operator).unwrap();
        let ask = b"GET /metrics HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n";
        stream.write_all(ask).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        let name = "taskflow_operations_total{outcome=\"accepted\"} ";
        let value = said.lines().find_map(|line| line.strip_prefix(name));
        value.unwrap().parse().unwrap()
    }

    /// A file of tokens.
    pub fn tokens(&self) -> PathBuf {
        self.folder.path().join("tokens")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn launch(folder: &Path, listen: SocketAddr, flags: &[String]) -> (Child, SocketAddr, SocketAddr) {
    let mut command = command();
    command
        .args([
            "serve",
            "--operator-listen=127.0.0.1:0",
            "--workers=2",
            "--feed-arbiters=2",
        ])
        .arg(format!("--listen={listen}"))
        .arg(format!("--data-dir={}", folder.join("data").display()))
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    // All of a test comes from one address.
    if !flags.iter().any(|flag| flag.starts_with("--sign-in-attempts-max")) {
        command.arg("--sign-in-attempts-max=0");
    }
    let mut child = command.spawn().unwrap();
    let mut log = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let mut said = Vec::new();
    let serving = log.by_ref().find_map(|line| {
        let parsed: Value = serde_json::from_str(&line).ok()?;
        said.push(line);
        (parsed["message"] == "serving").then_some(parsed)
    });
    let serving = serving.unwrap_or_else(|| panic!("the server did not start: {said:#?}"));
    // It must not wait for somebody who reads its log.
    std::thread::spawn(move || log.for_each(drop));
    let address = |name: &str| {
        serving[name]
            .as_str()
            .and_then(|text| text.parse().ok())
            .expect("an address")
    };
    (child, address("address"), address("operator_address"))
}
