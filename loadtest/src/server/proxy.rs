//! The proxies that may stand in front of nodes, each as its example in `deploy/` has it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Bench, free_address};
use crate::clock;
use crate::net::Dial;
use crate::net::http::Http;
use crate::net::stream::Stream;
use crate::process::Process;

/// What stands in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Haproxy,
    Caddy,
    Nginx,
}

/// By the names that choose them.
pub const NAMES: [&str; 3] = ["haproxy", "caddy", "nginx"];

/// Where the nodes are: each at an address of its own, all at the same ports, as in containers.
#[derive(Clone, Copy, Debug)]
pub struct Nodes {
    /// Of `node-1`, `node-2`, `node-3` in the examples.
    pub addresses: [Ipv4Addr; 3],
    /// Where clients connect.
    pub port: u16,
    /// Where operators do.
    pub operator_port: u16,
}

/// A proxy that runs. Stopped when dropped.
pub struct Proxy {
    process: Process,
    /// Where clients connect.
    pub address: SocketAddr,
}

impl Proxy {
    /// Starts the one of this name, and waits until it leads to a node.
    pub async fn start(bench: &mut Bench, name: &str, nodes: Nodes) -> Result<Self> {
        let kind = match name {
            "haproxy" => Kind::Haproxy,
            "caddy" => Kind::Caddy,
            "nginx" => Kind::Nginx,
            other => bail!("no proxy is called {other}: choose of {}", NAMES.join(", ")),
        };
        let folder = bench.folder(name)?;
        let address = free_address()?;
        let config = folder.join("config");
        fs::write(&config, kind.config(nodes, address, &folder)?)?;
        let config = config.to_string_lossy().into_owned();
        let words: Vec<&str> = match kind {
            Kind::Haproxy => vec!["haproxy", "-db", "-f", &config],
            Kind::Caddy => vec!["caddy", "run", "--adapter", "caddyfile", "--config", &config],
            Kind::Nginx => vec!["nginx", "-e", "stderr", "-c", &config],
        };
        let arguments: Vec<String> = words[1..].iter().map(|&word| word.to_owned()).collect();
        let process = bench.start(words[0].as_ref(), &arguments, None, &format!("{name}.log"))?;
        let mut proxy = Self { process, address };
        proxy.wait_until_it_leads_somewhere().await?;
        Ok(proxy)
    }

    async fn wait_until_it_leads_somewhere(&mut self) -> Result<()> {
        let deadline = clock::now_ns() + 20_000_000_000;
        loop {
            self.process.check_running()?;
            if let Ok(tcp) = Dial::to(self.address).connect().await
                && let mut http = Http::over(Stream::plain(tcp), self.address.to_string())
                && let Ok(answer) = http.request("GET", "/api/v1/tasks", None, "").await
                // Without a token: it is the node that says so.
                && answer.status == 401
            {
                return Ok(());
            }
            if clock::now_ns() > deadline {
                bail!("the proxy leads nowhere after 20 s");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // In order: the first process of nginx takes the others with it.
        self.process.stop();
    }
}

impl Kind {
    /// The example with the addresses of this run in it, in the clear: nothing else is changed.
    fn config(self, nodes: Nodes, address: SocketAddr, folder: &Path) -> Result<String> {
        let file = match self {
            Self::Haproxy => "deploy/haproxy.cfg",
            Self::Caddy => "deploy/Caddyfile",
            Self::Nginx => "deploy/nginx.conf",
        };
        let mut text = fs::read_to_string(file)
            .with_context(|| format!("cannot read {file}: run the bench from the project's folder"))?;
        for (number, node) in nodes.addresses.iter().enumerate() {
            let name = format!("node-{}:8080", number + 1);
            text = replaced(&text, &name, &format!("{node}:{}", nodes.port))?;
        }
        let folder = folder.display();
        let operator_port = nodes.operator_port;
        match self {
            Self::Haproxy => {
                text = replaced(&text, "bind :8080", &format!("bind {address}"))?;
                text = replaced(&text, "check port 9464", &format!("check port {operator_port}"))?;
                replaced(&text, "bind 127.0.0.1:8404", &format!("bind {}", free_address()?))
            }
            Self::Caddy => {
                // Two Caddies on a machine would share that port and that folder.
                let own = format!("{{\n\tadmin off\n\tstorage file_system {folder}\n}}\n");
                text = replaced(&text, "tasks.example {", &format!("{own}http://{address} {{"))?;
                replaced(&text, "health_port 9464", &format!("health_port {operator_port}"))
            }
            Self::Nginx => {
                text = replaced(&text, "listen 443 ssl", &format!("listen {address}"))?;
                text = without_lines(&text, "ssl_certificate");
                let own = format!("pid {folder}/pid;\ndaemon off;\nevents {{");
                text = replaced(&text, "events {", &own)?;
                replaced(&text, "http {", "http {\n    access_log off;")
            }
        }
    }
}

/// An example that has changed is no reason to measure something else.
fn replaced(text: &str, from: &str, to: &str) -> Result<String> {
    if !text.contains(from) {
        bail!("the example has no {from:?} any more: see loadtest/src/server/proxy.rs");
    }
    Ok(text.replace(from, to))
}

fn without_lines(text: &str, with: &str) -> String {
    let lines = text.lines().filter(|line| !line.contains(with));
    lines.map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_have_everything_that_is_replaced_and_no_node_keeps_its_name() {
        std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).unwrap();
        let nodes = Nodes {
            addresses: [1, 2, 3].map(|last| Ipv4Addr::new(127, 0, 1, last)),
            port: 4001,
            operator_port: 4002,
        };
        for kind in [Kind::Haproxy, Kind::Caddy, Kind::Nginx] {
            let config = kind
                .config(nodes, ([127, 0, 0, 1], 4000).into(), Path::new("/nowhere"))
                .unwrap();
            for node in ["127.0.1.1:4001", "127.0.1.2:4001", "127.0.1.3:4001", "127.0.0.1:4000"] {
                assert!(config.contains(node), "{kind:?}: {config}");
            }
            for left in [":8080", "node-1:", "ssl_certificate", "9464"] {
                assert!(!config.contains(left), "{kind:?}: {config}");
            }
        }
        assert_eq!(
            replaced("a b", "c", "d").unwrap_err().to_string(),
            "the example has no \"c\" any more: see loadtest/src/server/proxy.rs"
        );
    }
}
