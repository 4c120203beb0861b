//! What happens to a client's connection before its first request: who it is, if a proxy says so, and TLS.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use actix_http::Protocol;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use socket2::SockRef;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_cert::der::Decode as _;

use crate::config::{Config, Live};

/// How long a client may take to say who it is and to agree on a key. Each costs a file and its
/// buffers meanwhile.
const WITHIN: Duration = Duration::from_secs(10);

/// How long the kernel tries to send to a peer that acknowledges nothing, or that takes nothing: then the connection is over. A
/// client that is in a tunnel for less goes on where it was; who does not read keeps memory and a file for no longer. What is
/// idle is not concerned, for nothing is sent to it.
pub const UNTAKEN_MAX: Duration = Duration::from_secs(30);

/// How often the files of the certificate are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How a PROXY protocol header begins (version 2; <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>, section 2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of addresses and extensions in such a header: those that proxies send are below 300.
const HEADER_BYTES_MAX: usize = 2_048;

/// Takes connections in.
pub struct Accept {
    live: Arc<Live>,
    tls: Option<TlsAcceptor>,
}

impl Accept {
    /// As these settings say; with TLS, if there is a certificate.
    pub fn new(live: Arc<Live>, certificate: Option<&Arc<Certificate>>) -> Self {
        let tls = certificate.map(|certificate| TlsAcceptor::from(Arc::new(server_config(certificate.clone()))));
        Self { live, tls }
    }

    /// Whether there is TLS.
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whose connection it is.
    pub async fn peer(&self, stream: &mut TcpStream) -> io::Result<SocketAddr> {
        let peer = stream.peer_addr()?;
        stream.set_nodelay(true)?;
        give_up_sending(stream, UNTAKEN_MAX);
        let config = self.live.now();
        if !config.proxy_protocol || !config.trusted_proxies.contain(peer.ip().to_canonical()) {
            return Ok(peer);
        }
        let header = tokio::time::timeout(WITHIN, read_header(stream)).await;
        Ok(header.map_err(io::Error::from)??.unwrap_or(peer))
    }

    /// The same connection behind its TLS handshake. Only where there is TLS.
    pub async fn secure(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Protocol)> {
        let Some(tls) = &self.tls else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let stream = tokio::time::timeout(WITHIN, tls.accept(stream)).await;
        let stream = stream.map_err(io::Error::from)??;
        let protocol = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            _ => Protocol::Http1,
        };
        Ok((stream, protocol))
    }
}

/// After so long without anything being taken (RFC 5482). The time without an acknowledgement and that with a window of zero
/// count, since Linux 5.11 also where each probe of the window is answered.
fn give_up_sending(stream: &TcpStream, after: Duration) {
    // A platform that lacks it serves without: it bounds what a dead peer costs, not what is right.
    drop(SockRef::from(stream).set_tcp_user_timeout(Some(after)));
}

/// The address in a header; `None`: the proxy speaks for itself.
async fn read_header(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut head = [0; 16];
    stream.read_exact(&mut head).await?;
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if head[..12] != SIGNATURE || head[12] >> 4 != 2 {
        return Err(wrong("it does not begin with a PROXY protocol header of version 2"));
    }
    if length > HEADER_BYTES_MAX {
        return Err(wrong("its PROXY protocol header is too long"));
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    match head[12] & 0xf {
        0 => Ok(None),
        1 => address_in(head[13], &rest)
            .map(Some)
            .ok_or_else(|| wrong("its PROXY protocol header has no address")),
        _ => Err(wrong("its PROXY protocol header has an unknown command")),
    }
}

/// Source address and port, behind which those of the destination come.
fn address_in(family: u8, rest: &[u8]) -> Option<SocketAddr> {
    let port = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
    match family {
        0x11 => {
            let source: [u8; 4] = rest.get(..4)?.try_into().ok()?;
            Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(source)), port(8)?))
        }
        0x21 => {
            let source: [u8; 16] = rest.get(..16)?.try_into().ok()?;
            Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(source)), port(32)?))
        }
        _ => None,
    }
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {} ({key}): {cause}", path.display())]
pub struct CertificateError {
    path: PathBuf,
    key: &'static str,
    cause: String,
}

/// The certificate, as the files last said.
#[derive(Debug)]
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    present: RwLock<Arc<CertifiedKey>>,
    /// The files may have changed: look now.
    pub look: Notify,
}

impl Certificate {
    /// From the files that the settings name; `None`: they name none.
    pub fn open(config: &Config) -> Result<Option<Arc<Self>>, CertificateError> {
        if !config.has_tls() {
            return Ok(None);
        }
        let (chain, key) = (config.tls_certificate.clone(), config.tls_key.clone());
        let present = RwLock::new(Arc::new(read(&chain, &key)?));
        let look = Notify::new();
        Ok(Some(Arc::new(Self {
            chain,
            key,
            present,
            look,
        })))
    }

    /// When the present one ends, in seconds since 1970; `None`: that cannot be read.
    pub fn expires_s(&self) -> Option<u64> {
        let present = self.present.read().unwrap_or_else(PoisonError::into_inner).clone();
        let certificate = x509_cert::Certificate::from_der(present.end_entity_cert().ok()?).ok()?;
        let end = certificate.tbs_certificate.validity.not_after;
        Some(end.to_unix_duration().as_secs())
    }

    /// Takes what is new in the files, for as long as the node runs. What cannot be used is said once, and the present goes on.
    pub async fn follow(self: Arc<Self>) {
        let mut seen = self.stamps();
        loop {
            let _ = tokio::time::timeout(LOOK_EVERY, self.look.notified()).await;
            let stamps = self.stamps();
            if stamps == seen {
                continue;
            }
            seen = stamps;
            match read(&self.chain, &self.key) {
                Ok(new) => {
                    *self.present.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                    tracing::info!("the certificate has changed");
                }
                Err(error) => tracing::error!(%error, "the new certificate cannot be used; the present one goes on"),
            }
        }
    }

    /// When the files were last written.
    fn stamps(&self) -> [Option<SystemTime>; 2] {
        [&self.chain, &self.key].map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.present.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read(chain: &Path, key: &Path) -> Result<CertifiedKey, CertificateError> {
    let wrong = |path: &Path, key, cause: String| CertificateError {
        path: path.to_owned(),
        key,
        cause,
    };
    let of_chain = |cause: String| wrong(chain, "tls_certificate", cause);
    let certificates = CertificateDer::pem_file_iter(chain).map_err(|error| of_chain(error.to_string()))?;
    let certificates: Result<Vec<_>, _> = certificates.collect();
    let certificates = certificates.map_err(|error| of_chain(error.to_string()))?;
    if certificates.is_empty() {
        return Err(of_chain("there is no certificate in it".to_owned()));
    }
    let of_key = |cause: String| wrong(key, "tls_key", cause);
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| of_key(error.to_string()))?;
    CertifiedKey::from_der(certificates, private, &provider()).map_err(|error| of_key(error.to_string()))
}

fn server_config(certificate: Arc<Certificate>) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider knows the versions")
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let client = TcpStream::connect(listener.local_addr().expect("an address"));
        let (client, accepted) = tokio::join!(client, listener.accept());
        (accepted.expect("accepted").0, client.expect("connected"))
    }

    #[tokio::test]
    async fn who_takes_nothing_is_given_up() {
        let (mut stream, _client) = pair().await;
        give_up_sending(&stream, Duration::from_millis(200));
        let endless = async {
            loop {
                if let Err(error) = stream.write_all(&[0; 65_536]).await {
                    return error.kind();
                }
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(60), endless).await;
        assert_eq!(ended.expect("in time"), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn every_client_is_given_up_one_day() {
        let accept = Accept::new(Arc::new(Live::new(Config::default())), None);
        let (mut stream, _client) = pair().await;
        accept.peer(&mut stream).await.expect("it is there");
        let after = SockRef::from(&stream).tcp_user_timeout().expect("it can be asked for");
        assert_eq!(after, Some(UNTAKEN_MAX));
    }

    #[test]
    fn the_source_is_read_and_nothing_else() {
        let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x67, 0, 80, 0xee, 0, 1, 9];
        assert_eq!(
            address_in(0x11, &v4).map(|address| address.to_string()).as_deref(),
            Some("192.0.2.7:4711")
        );
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        v6[15] = 9;
        v6[33] = 80;
        assert_eq!(
            address_in(0x21, &v6).map(|address| address.to_string()).as_deref(),
            Some("[2001:db8::9]:80")
        );
        for (family, rest) in [(0x11, &v4[..9]), (0x21, &v6[..33]), (0x31, &v4[..]), (0, &v4[..])] {
            assert_eq!(address_in(family, rest), None);
        }
    }
}
