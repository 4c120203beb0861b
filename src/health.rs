//! `taskflow health`: whether the server with these settings is ready, for health checks where there is no shell and no curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;

use crate::config::Config;

/// The server answers from memory, so a second is long; whoever runs this waits three seconds and more.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the operator's port answers.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    reason: Option<String>,
}

/// Asks for `/health/ready`; says in a sentence what the server said, or why there is no answer.
pub fn run(config: &Config) -> anyhow::Result<String> {
    let address = reachable(config.operator_listen)?;
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        // The reason is in the answer.
        .http_status_as_error(false)
        // The way to this machine leads through no proxy, whatever the environment says of others.
        .proxy(None)
        .build()
        .into();
    let mut answer = agent
        .get(format!("http://{address}/health/ready"))
        .call()
        .with_context(|| format!("no answer from {address} (operator_listen)"))?;
    let status = answer.status().as_u16();
    let reason = answer
        .body_mut()
        .read_json::<Answer>()
        .ok()
        .and_then(|said| said.reason);
    match (status, reason) {
        (200, None) => Ok("the server is ready\n".to_owned()),
        (200, Some(reason)) => Ok(format!("the server is ready, but: {reason}\n")),
        (503, Some(reason)) => anyhow::bail!("the server is not ready: {reason}"),
        (status, _) => anyhow::bail!("what listens on {address} (operator_listen) answers {status}: is it TaskFlow?"),
    }
}

/// Where a server that listens there can be reached from this machine.
fn reachable(listen: SocketAddr) -> anyhow::Result<SocketAddr> {
    anyhow::ensure!(
        listen.port() != 0,
        "operator_listen has port 0: only the server knows which one it took"
    );
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(SocketAddr::new(ip, listen.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_listens_everywhere_is_asked_here() {
        for (listen, asked) in [
            ("0.0.0.0:9464", "127.0.0.1:9464"),
            ("[::]:9464", "[::1]:9464"),
            ("10.0.0.7:9464", "10.0.0.7:9464"),
        ] {
            let address = reachable(listen.parse().expect("an address")).expect("a port");
            assert_eq!(address, asked.parse().expect("an address"), "{listen}");
        }
    }
}
