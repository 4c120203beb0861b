//! An issuer of access tokens: publishes its key, and signs.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use taskflow::clock::SystemClock;
use taskflow_actors::ports::Clock as _;

use super::Account;
use super::server::free_port;

/// The id of its key.
const KEY: &str = "2026-11";

pub struct Issuer {
    address: SocketAddr,
    key: EncodingKey,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    /// One that answers.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let issuer = Self::at(listener.local_addr().expect("bound"));
        let mut jwk = Jwk::from_encoding_key(&issuer.key, Algorithm::RS256).expect("an RSA key");
        jwk.common.key_id = Some(KEY.to_owned());
        let keys = json!({ "keys": [jwk] }).to_string();
        let asked = issuer.asked.clone();
        // Ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut stream = stream;
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if !matches!(stream.read(&mut byte), Ok(1)) {
                        break;
                    }
                    head.push(byte[0]);
                }
                asked.fetch_add(1, Ordering::SeqCst);
                let status = if head.starts_with(b"GET /keys ") {
                    "200 OK"
                } else {
                    "404 Not Found"
                };
                let length = keys.len();
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{keys}");
                drop(stream.write_all(answer.as_bytes()));
            }
        });
        issuer
    }

    /// One that nobody reaches.
    pub fn away() -> Self {
        Self::at(([127, 0, 0, 1], free_port()).into())
    }

    fn at(address: SocketAddr) -> Self {
        Self {
            address,
            key: EncodingKey::from_rsa_pem(include_bytes!("issuer.pem")).expect("a key"),
            asked: Arc::default(),
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How often its keys were asked for.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// The flag for a server that trusts it.
    pub fn flag(&self) -> String {
        let url = self.url();
        format!(
            "--issuers=[{{ issuer = \"{url}\", audience = \"taskflow\", jwks = \"{url}/keys\", scope_claim = \"scope\" }}]"
        )
    }

    /// A token for a user of its, for a minute, with these claims instead.
    pub fn token(&self, subject: &str, other: &Value) -> String {
        let now = SystemClock.now_ms() / 1_000;
        let mut claims = json!({
            "iss": self.url(), "aud": "taskflow", "sub": subject, "exp": now + 60, "scope": "openid tasks:write",
        });
        for (name, value) in other.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        let header = Header {
            kid: Some(KEY.to_owned()),
            ..Header::new(Algorithm::RS256)
        };
        jsonwebtoken::encode(&header, &claims, &self.key).expect("it is signed")
    }

    /// Somebody who comes with such a token.
    pub fn user(&self, subject: &str) -> Account {
        Account {
            user: String::new(),
            token: self.token(subject, &Value::Null),
            refresh: String::new(),
            email: String::new(),
        }
    }
}
