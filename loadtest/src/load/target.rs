//! Where the load goes, and how it gets there.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use socket2::SockRef;
use taskflow_protocol::SUBPROTOCOL_JSON;
use tokio::net::TcpSocket;

use crate::net::http::Http;
use crate::net::link::{Link, NotUpgraded};
use crate::net::stream::Stream;

/// From dialling to the first byte of an answer: what a user bears.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server or a cluster, as clients reach it.
pub struct Target {
    /// As it stands in `Host`.
    pub host: String,
    addresses: Vec<SocketAddr>,
    sources: Vec<IpAddr>,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// Something that a person has to put right, in a sentence that says how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble(pub String);

impl fmt::Display for Trouble {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Trouble {}

/// `https://tasks.example:8443` in parts.
#[derive(Debug, PartialEq, Eq)]
struct Url {
    is_secured: bool,
    name: String,
    port: u16,
    /// Name and port as they stand in `Host`.
    host: String,
}

impl Url {
    fn parse(text: &str) -> Result<Self, Trouble> {
        let wrong = || {
            Trouble(format!(
                "{text} is no address of a server: write https://tasks.example or http://127.0.0.1:8080."
            ))
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let (is_secured, usual) = match scheme {
            "http" | "ws" => (false, 80),
            "https" | "wss" => (true, 443),
            _ => return Err(wrong()),
        };
        let host = rest.strip_suffix('/').unwrap_or(rest);
        if host.is_empty() || host.contains(['/', '@', '?', '#', ' ']) {
            return Err(wrong());
        }
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port.parse().map_err(|_| wrong())?),
            _ => (host, usual),
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        Ok(Self {
            is_secured,
            name: name.to_owned(),
            port,
            host: host.to_owned(),
        })
    }
}

impl Target {
    /// Looks the name up and reads the certificates.
    pub fn new(url: &str, ca: Option<&Path>, sources: &[IpAddr]) -> Result<Self, Trouble> {
        let url = Url::parse(url)?;
        let found = (url.name.as_str(), url.port).to_socket_addrs();
        let mut addresses: Vec<_> = found
            .map_err(|error| Trouble(format!("The name {} cannot be looked up: {error}.", url.name)))?
            .collect();
        if let Some(source) = sources.first() {
            addresses.retain(|address| address.is_ipv4() == source.is_ipv4());
        }
        if addresses.is_empty() {
            return Err(Trouble(format!(
                "{} has no address that can be reached from the --source given.",
                url.name
            )));
        }
        let tls = match url.is_secured {
            true => {
                let name = ServerName::try_from(url.name.clone())
                    .map_err(|_| Trouble(format!("{} is no name that a certificate can have.", url.name)))?;
                Some((Arc::new(trust(ca)?), name))
            }
            false => None,
        };
        Ok(Self {
            host: url.host,
            addresses,
            sources: sources.to_vec(),
            tls,
        })
    }

    /// Connects; connections take turns among source addresses, and among those of the server.
    pub async fn connect(&self, number: usize) -> io::Result<Stream> {
        let connected = async {
            let address = self.addresses[number % self.addresses.len()];
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            if !self.sources.is_empty() {
                let source = self.sources[number % self.sources.len()];
                socket.bind(SocketAddr::new(source, 0))?;
            }
            let tcp = socket.connect(address).await?;
            tcp.set_nodelay(true)?;
            // A dropped connection is reset: the server sees it at once, and no port waits for a minute.
            SockRef::from(&tcp).set_linger(Some(Duration::ZERO))?;
            match &self.tls {
                Some((config, name)) => Stream::secured(tcp, config.clone(), name.clone()).await,
                None => Ok(Stream::plain(tcp)),
            }
        };
        in_time(connected).await
    }

    /// Opens a WebSocket, without a hello.
    pub async fn open(&self, number: usize) -> io::Result<Link> {
        self.open_at(number, "/api/v1/socket", Some(SUBPROTOCOL_JSON)).await
    }

    /// Opens a WebSocket of another server.
    pub async fn open_at(&self, number: usize, path: &str, subprotocol: Option<&str>) -> io::Result<Link> {
        let stream = self.connect(number).await?;
        in_time(Link::upgrade(stream, &self.host, path, subprotocol)).await
    }

    /// A connection for requests.
    pub async fn http(&self, number: usize) -> io::Result<Http> {
        Ok(Http::over(self.connect(number).await?, self.host.clone()))
    }

    /// What the server said to a handshake, if that is what went wrong.
    pub fn status(error: &io::Error) -> Option<u16> {
        error.get_ref()?.downcast_ref::<NotUpgraded>()?.status()
    }

    /// What went wrong, and what to do about it.
    pub fn sentence(&self, error: &io::Error) -> String {
        let host = &self.host;
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return match tls {
                rustls::Error::InvalidCertificate(why) => format!(
                    "The certificate of {host} is not trusted ({why}): give the authority that signed it with --ca FILE."
                ),
                other => {
                    format!("{host} and this client do not agree on TLS ({other}): does --url begin as it should?")
                }
            };
        }
        if let Some(answer) = error.get_ref().and_then(|inner| inner.downcast_ref::<NotUpgraded>()) {
            return match answer.status() {
                Some(421) => format!("The server does not go by the name {host}: add it to its setting hosts."),
                Some(429) => {
                    "The server takes no more connections a second from one address (429): give more --ramp or --source \
                              addresses, or set its strangers_a_second_max to 0 for the test."
                        .to_owned()
                }
                Some(503) => "The server takes no more connections (503).".to_owned(),
                _ => format!("{host} does not open a WebSocket: {answer}. Is it a TaskFlow server?"),
            };
        }
        match (error.raw_os_error(), error.kind()) {
            (Some(23 | 24), _) => {
                "There are too few open files: raise the limit with ulimit -n, or use more --generators.".to_owned()
            }
            (Some(98 | 99), _) => {
                "No local port is left, or a --source is no address of this machine: give more addresses of it with \
                 --source."
                    .to_owned()
            }
            (_, io::ErrorKind::ConnectionRefused) => {
                format!("Nobody listens on {host}: is the server running, and is --url right?")
            }
            (_, io::ErrorKind::TimedOut) => format!("{host} did not answer in {} s.", PATIENCE.as_secs()),
            (_, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                format!("{host} ended a connection without a word.")
            }
            _ => format!("{host} cannot be reached: {error}."),
        }
    }
}

async fn in_time<T>(run: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(PATIENCE, run).await {
        Ok(done) => done,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// The authorities that browsers trust, and one's own.
fn trust(ca: Option<&Path>) -> Result<ClientConfig, Trouble> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Some(path) = ca {
        let unreadable = |why: String| {
            Trouble(format!(
                "{} cannot be read as certificates (PEM): {why}.",
                path.display()
            ))
        };
        let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|error| unreadable(error.to_string()))?;
        if certificates.is_empty() {
            return Err(unreadable("there are none in it".to_owned()));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Trouble(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Option<(bool, &str, u16, &str)>) {
        let got = Url::parse(text).ok();
        let got = got
            .as_ref()
            .map(|url| (url.is_secured, url.name.as_str(), url.port, url.host.as_str()));
        assert_eq!(got, expect, "{text}");
    }

    #[test]
    fn addresses_have_a_scheme_a_name_and_perhaps_a_port() {
        check(
            "https://tasks.example",
            Some((true, "tasks.example", 443, "tasks.example")),
        );
        check(
            "http://127.0.0.1:8080/",
            Some((false, "127.0.0.1", 8080, "127.0.0.1:8080")),
        );
        check("wss://[::1]:8443", Some((true, "::1", 8443, "[::1]:8443")));
        check("http://[::1]", Some((false, "::1", 80, "[::1]")));
        for wrong in [
            "tasks.example",
            "ftp://tasks.example",
            "http://",
            "http://a/b",
            "http://a:b",
            "http://u@a",
        ] {
            check(wrong, None);
        }
    }
}
