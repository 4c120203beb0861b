//! TLS, HTTP/2, what proxies say, redirects, names, and settings that change while the server runs.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::TlsConnector;

use crate::support::http::{self, Connection, EventStream};
use crate::support::server::{Account, DataDir, Server};
use crate::support::ws::{Client, FIN, TEXT, masked, task};
use crate::support::{ENCODINGS, Replica, Value, eventually, json};

/// A certificate of its own for localhost, with its key.
fn certificate(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (key, chain) = (folder.join(format!("{name}.key")), folder.join(format!("{name}.pem")));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&chain)
        .output()
        .expect("openssl is installed: scripts/setup");
    assert!(made.status.success(), "{made:?}");
    (chain, key)
}

/// A client of servers with this certificate.
fn connector(chain: &Path, protocol: &[u8]) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(chain).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsConnector::from(Arc::new(config))
}

fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// Encrypts for clients that speak no TLS: what comes in goes to the server behind a handshake, which begins with `before`.
fn tunnel(server: SocketAddr, chain: &Path, before: &'static [u8]) -> SocketAddr {
    let connector = connector(chain, b"http/1.1");
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((mut near, _)) = listener.accept().await {
                let connector = connector.clone();
                tokio::spawn(async move {
                    use tokio::io::AsyncWriteExt as _;
                    let Ok(mut far) = tokio::net::TcpStream::connect(server).await else {
                        return;
                    };
                    far.write_all(before).await.unwrap();
                    if let Ok(mut far) = connector.connect(localhost(), far).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
    });
    address
}

struct Secure {
    server: Server,
    /// Where the server itself listens.
    inner: SocketAddr,
    chain: PathBuf,
    key: PathBuf,
    _folder: tempfile::TempDir,
}

/// A server with TLS, whose `address` is that of a tunnel to it.
fn secure(flags: &[&str], before: &'static [u8]) -> Secure {
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = certificate(folder.path(), "first");
    let (of_chain, of_key) = (
        format!("--tls-certificate={}", chain.display()),
        format!("--tls-key={}", key.display()),
    );
    let mut all = vec![&*of_chain, &*of_key];
    all.extend(flags);
    let mut server = Server::start(&all);
    let inner = server.address;
    server.address = tunnel(inner, &chain, before);
    Secure {
        server,
        inner,
        chain,
        key,
        _folder: folder,
    }
}

#[test]
fn everything_works_over_tls_as_it_does_without() {
    let secure = secure(&[], b"");
    let server = &secure.server;
    let ada = server.register();
    let answer = server.get("/api/v1/tasks", &ada);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000"));
    // Far more than one record at once, both ways.
    let notes = "ä".repeat(20_000);
    for n in 0..40 {
        let body = json!({ "title": format!("{n}"), "notes": notes });
        assert_eq!(server.post("/api/v1/tasks", &ada, &body).status, 201);
    }
    let mut stream = EventStream::open(server.address, "/api/v1/events", &[&ada.bearer()]).unwrap();
    stream.wait_for("snapshot");
    for encoding in ENCODINGS {
        let mut follower = crate::support::Follower::start(server, encoding, &ada);
        assert!(follower.replica.rows == Replica::of(server, &ada).rows);
        let seq = follower.client.accept(&task("pushed")["command"]);
        follower.until_seq(seq);
        let mut large = task("large");
        large["command"]["task_create"]["notes"] = json!(notes);
        let seq = follower.client.accept(&large["command"]);
        follower.until_seq(seq);
        assert!(follower.replica.rows == Replica::of(server, &ada).rows);
    }
    // Many at once, and a goodbye.
    let mut clients: Vec<Client> = (0..20).map(|n| Client::open(server, ENCODINGS[n % 2], &ada)).collect();
    let body = json!({ "refresh_token": ada.refresh });
    assert_eq!(
        http::post(server.address, "/api/v1/auth/logout", &[], &body).status,
        204
    );
    for client in &mut clients {
        assert_eq!(client.ended().code(), Some(4203));
    }
    // Who speaks no TLS gets nothing.
    let mut plain = Connection::open(secure.inner);
    plain.send("GET", "/api/v1/tasks", &[], b"");
    assert!(!String::from_utf8_lossy(&plain.rest()).contains("HTTP/1.1"));
}

#[test]
fn the_last_record_leaves_also_where_the_client_is_slow() {
    // Nothing else makes the server write in the meantime.
    let secure = secure(&["--heartbeat-ms=600000"], b"");
    let ada = secure.server.register();
    let make = |bytes: usize| {
        let body = json!({ "title": "long", "notes": "x".repeat(bytes) });
        assert_eq!(secure.server.post("/api/v1/tasks", &ada, &body).status, 201);
    };
    // More than the kernel holds for a client. Whether the last record fits at once depends on the size: so, of many sizes.
    (0..12).for_each(|_| make(40_000));
    for _ in 0..10 {
        make(9_000);
        read_slowly(&secure, &ada);
    }
}

/// Reads the snapshot in small pieces, by a client with little room.
fn read_slowly(secure: &Secure, ada: &Account) {
    use std::io::{Read as _, Write as _};
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(&secure.inner.into()).unwrap();
    socket.set_read_timeout(Some(crate::support::DEADLINE / 4)).unwrap();
    let config = connector(&secure.chain, b"http/1.1").config().clone();
    let session = rustls::ClientConnection::new(config, localhost()).unwrap();
    let mut stream = rustls::StreamOwned::new(session, TcpStream::from(socket));
    let upgrade = "GET /api/v1/socket HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   sec-websocket-protocol: taskflow.v1.json\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).unwrap();
    let hello = json!({ "hello": { "protocol": { "min": 1, "max": 1 }, "token": ada.token, "follow": [{}] } });
    stream
        .write_all(&masked(FIN | TEXT, hello.to_string().as_bytes()))
        .unwrap();
    let (mut read, mut buffer) = (Vec::new(), [0; 512]);
    while !read.windows(7).rev().take(2_000).any(|window| window == b"\"done\":") {
        // Never more than a little at once: the server has more than the socket takes.
        let count = stream.read(&mut buffer);
        let count = count.expect("the rest comes without anything else happening");
        assert!(count > 0, "it goes on");
        read.extend_from_slice(&buffer[..count]);
    }
}

#[test]
fn clients_of_http_2_are_served_where_tls_is_on() {
    let secure = secure(&[], b"");
    let ada = secure.server.register();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(secure.inner).await.unwrap();
        let stream = connector(&secure.chain, b"h2")
            .connect(localhost(), stream)
            .await
            .unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        let driver = tokio::spawn(connection);
        let mut ask = async |method: &str, body: Option<&'static str>| {
            client = client.clone().ready().await.unwrap();
            let request = ::http::Request::builder()
                .method(method)
                .uri("https://localhost/api/v1/tasks")
                .header("authorization", format!("Bearer {}", ada.token))
                .header("content-type", "application/json")
                .body(())
                .unwrap();
            let (response, mut sender) = client.send_request(request, body.is_none()).unwrap();
            if let Some(body) = body {
                sender.send_data(body.into(), true).unwrap();
            }
            let response = response.await.unwrap();
            let status = response.status().as_u16();
            let mut stream = response.into_body();
            let mut bytes = Vec::new();
            while let Some(chunk) = stream.data().await {
                bytes.extend_from_slice(&chunk.unwrap());
            }
            (status, serde_json::from_slice::<Value>(&bytes).unwrap())
        };
        let (status, made) = ask("POST", Some(r#"{"title":"by HTTP/2"}"#)).await;
        assert_eq!((status, &made["title"]), (201, &json!("by HTTP/2")));
        let (status, page) = ask("GET", None).await;
        assert_eq!((status, &page["items"][0]["title"]), (200, &json!("by HTTP/2")));
        driver.abort();
    });
}

/// The certificate that the server shows.
fn shown(server: SocketAddr, chain: &Path) -> Option<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(server).await.unwrap();
        let stream = connector(chain, b"http/1.1").connect(localhost(), stream).await.ok()?;
        let certificates = stream.get_ref().1.peer_certificates()?;
        Some(certificates.first()?.to_vec())
    })
}

#[test]
fn a_new_certificate_is_taken_without_a_restart_and_a_bad_one_is_not() {
    let secure = secure(&[], b"");
    let ada = secure.server.register();
    let mut open = Client::open(&secure.server, ENCODINGS[0], &ada);
    let first = shown(secure.inner, &secure.chain).expect("its own");
    let ends = |chain: &Path| {
        let said = Command::new("openssl")
            .args(["x509", "-noout", "-enddate", "-dateopt", "iso_8601", "-in"])
            .arg(chain)
            .output()
            .unwrap();
        // notAfter=2026-12-30 16:00:00Z
        let said = String::from_utf8(said.stdout).unwrap();
        let date = said.trim().trim_start_matches("notAfter=").replace(' ', "T");
        date.parse::<jiff::Timestamp>().unwrap().as_second() as f64
    };
    let metric = "taskflow_certificate_expires_timestamp_seconds";
    assert_eq!(secure.server.metric(metric), ends(&secure.chain));
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = certificate(folder.path(), "second");
    std::fs::write(&secure.chain, b"nonsense").unwrap();
    secure.server.signal(Signal::HUP);
    let told = secure.server.log.wait(|line| {
        line.contains("the new certificate cannot be used")
            .then(|| line.to_owned())
    });
    assert!(told.unwrap().contains("tls_certificate"));
    std::fs::copy(&key, &secure.key).unwrap();
    std::fs::copy(&chain, &secure.chain).unwrap();
    secure.server.signal(Signal::HUP);
    let second = eventually("the new certificate is shown", || shown(secure.inner, &chain));
    assert_ne!(first, second);
    assert_eq!(secure.server.metric(metric), ends(&chain));
    // Who is there stays.
    open.accept(&task("still here")["command"]);
}

#[test]
fn what_is_wrong_with_a_certificate_is_said_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = certificate(folder.path(), "one");
    let (_, other) = certificate(folder.path(), "other");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let refused = |chain: &Path, key: &Path| {
        let flags = [
            format!("--tls-certificate={}", chain.display()),
            format!("--tls-key={}", key.display()),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let (status, log) = Server::try_start(DataDir::temporary(), any, any, &flags)
            .err()
            .expect("it refuses");
        assert!(!status.success());
        log
    };
    let missing = folder.path().join("no.pem");
    for (chain, key, named) in [
        (&missing, &key, "no.pem (tls_certificate): "),
        (&key, &key, "(tls_certificate): there is no certificate in it"),
        (&chain, &missing, "no.pem (tls_key): "),
        (&chain, &other, "(tls_key): "),
    ] {
        let log = refused(chain, key);
        assert!(log.contains("cannot use ") && log.contains(named), "{log}");
    }
}

/// A header of version 2: 192.0.2.66, port 4711.
const FROM: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x42\x7f\0\0\x01\x12\x67\0\x50";
/// The proxy asks for itself.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// The address of the newest note.
fn last_address(server: &Server, account: &Account) -> Value {
    server.get("/api/v1/history?limit=1", account).json()["items"][0]["address"].clone()
}

#[test]
fn a_trusted_proxy_says_whose_connection_it_is() {
    let secure = secure(&["--proxy-protocol=true", "--trusted-proxies=127.0.0.1"], FROM);
    let ada = secure.server.register();
    assert_eq!(last_address(&secure.server, &ada), "192.0.2.66");
    Client::open(&secure.server, ENCODINGS[0], &ada).accept(&task("over TLS")["command"]);

    let server = Server::start(&["--proxy-protocol=true", "--trusted-proxies=127.0.0.1"]);
    let ask = |before: &[u8]| {
        let mut connection = Connection::open(server.address);
        let request = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        connection.send_raw(&[before, request].concat());
        connection.rest()
    };
    for good in [FROM, LOCAL] {
        assert!(ask(good).starts_with(b"HTTP/1.1 200"), "{good:?}");
    }
    let mut long = FROM[..16].to_vec();
    long[14..].copy_from_slice(&2_049_u16.to_be_bytes());
    let mut older = FROM.to_vec();
    older[12] = 0x11;
    for bad in [
        &b""[..],
        b"PROXY TCP4 192.0.2.66 127.0.0.1 4711 80\r\n",
        &long,
        &older,
        b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\0",
    ] {
        assert_eq!(ask(bad), b"", "{bad:?}");
    }
    // Nobody else is believed, or even asked.
    let server = Server::start(&["--proxy-protocol=true", "--trusted-proxies=10.0.0.0/8"]);
    let ada = server.register();
    assert_eq!(last_address(&server, &ada), "127.0.0.1");
}

#[test]
fn who_comes_without_tls_is_sent_on() {
    let port = crate::support::server::free_port();
    let listen = format!("--redirect-listen=127.0.0.1:{port}");
    let secure = secure(&[&listen, "--hosts=localhost,127.0.0.1"], b"");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let answer = http::request(address, "GET", "/api/v1/tasks?limit=3", &[], b"");
    let expected = format!("https://127.0.0.1:{}/api/v1/tasks?limit=3", secure.inner.port());
    assert_eq!((answer.status, answer.header("location")), (308, Some(&*expected)));
    let mut stranger = Connection::open(address);
    stranger.send_raw(b"GET / HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n");
    let answer = stranger.response();
    assert_eq!((answer.status, &answer.json()["name"]), (421, &json!("host_refused")));
    // Where the name is in the address, that one counts, and goes to the new address once.
    let named = |target: &str| {
        let mut connection = Connection::open(address);
        connection
            .send_raw(format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes());
        let answer = connection.response();
        (answer.status, answer.header("location").map(str::to_owned))
    };
    assert_eq!(named("http://evil.example/a"), (421, None));
    for (path, expected) in [("/a?b=c", "/a?b=c"), ("", "/")] {
        let expected = format!("https://127.0.0.1:{}{expected}", secure.inner.port());
        assert_eq!(named(&format!("http://127.0.0.1:1{path}")), (308, Some(expected)));
    }
}

#[test]
fn a_server_answers_to_its_own_names_only() {
    let server = Server::start(&["--hosts=tasks.example"]);
    let ask = |head: &str| {
        let mut connection = Connection::open(server.address);
        connection.send_raw(format!("{head}\r\nconnection: close\r\n\r\n").as_bytes());
        let response = connection.response();
        (response.status, response.json()["name"].as_str().map(str::to_owned))
    };
    assert_eq!(ask("GET /openapi.json HTTP/1.1\r\nhost: tasks.example:8080").0, 200);
    let refused = (421, Some("host_refused".to_owned()));
    assert_eq!(ask("GET /openapi.json HTTP/1.1\r\nhost: evil.example"), refused);
    assert_eq!(
        ask("GET /openapi.json HTTP/1.1\r\nhost: tasks.example.evil.example"),
        refused
    );
    // The name in the address goes before that in the header.
    assert_eq!(
        ask("GET http://evil.example/openapi.json HTTP/1.1\r\nhost: tasks.example"),
        refused
    );
    assert_eq!(
        ask("GET http://tasks.example/openapi.json HTTP/1.1\r\nhost: evil.example").0,
        200
    );
    for (address, host) in [("", "evil.example"), ("http://evil.example", "tasks.example")] {
        let mut connection = Connection::open(server.address);
        let upgrade = format!(
            "GET {address}/api/v1/socket HTTP/1.1\r\nhost: {host}\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nconnection: upgrade\r\n\r\n"
        );
        connection.send_raw(upgrade.as_bytes());
        let response = connection.response();
        assert_eq!(
            (response.status, &response.json()["name"]),
            (421, &json!("host_refused"))
        );
    }
}

#[test]
fn settings_are_read_again_on_sighup() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("taskflow.toml");
    std::fs::write(&file, "registration = \"open\"\nheartbeat_ms = 20000\n").unwrap();
    let data = DataDir::temporary();
    let mut command = crate::support::server::binary();
    command
        .args([
            "serve",
            "--listen=127.0.0.1:0",
            "--operator-listen=127.0.0.1:0",
            "--workers=1",
        ])
        .arg(format!("--config={}", file.display()))
        .arg(format!("--data-dir={}", data.path().display()));
    let server = Server::spawn(command, data, &[]).unwrap_or_else(|(_, log)| panic!("{log}"));
    let ada = server.register();
    let told = |what: &str| {
        let line = server.log.wait(|line| line.contains(what).then(|| line.to_owned()));
        serde_json::from_str::<Value>(&line.unwrap()).unwrap()
    };
    std::fs::write(
        &file,
        "registration = \"closed\"\nheartbeat_ms = 30000\nlog_level = \"debug\"\n",
    )
    .unwrap();
    server.signal(Signal::HUP);
    assert_eq!(told("were read again")["changed"], "registration, log_level");
    assert_eq!(told("need a restart")["settings"], "heartbeat_ms");
    let body = json!({ "email": "b@example.org", "password": "correct horse" });
    let answer = http::post(server.address, "/api/v1/auth/register", &[], &body);
    assert_eq!(answer.json()["name"], "registration_closed");
    assert_eq!(server.get("/api/v1/tasks", &ada).status, 200);
    std::fs::write(&file, "registration = \"ajar\"\n").unwrap();
    server.signal(Signal::HUP);
    let error = told("cannot be read again")["error"].as_str().unwrap().to_owned();
    assert!(
        error.contains("line 1, column 16 (registration): unknown variant, expected one of"),
        "{error}"
    );
    let answer = http::post(server.address, "/api/v1/auth/register", &[], &body);
    assert_eq!(answer.json()["name"], "registration_closed");
}

#[test]
fn the_key_may_come_from_a_secret_that_is_mounted() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = Server::start(&[]);
    let pem = std::fs::read_to_string(taskflow::auth::Keys::path(elsewhere.data.path())).unwrap();
    let file = folder.path().join("signing-key");
    std::fs::write(&file, &pem).unwrap();
    let program = crate::support::server::Program {
        environment: vec![("TASKFLOW_SIGNING_KEY_FILE", file.display().to_string())],
        ..Default::default()
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let started = Server::try_start_as(&program, DataDir::temporary(), any, any, &[]);
    let server = started.unwrap_or_else(|(_, log)| panic!("{log}"));
    // The same key, and none of its own.
    let user = crate::support::id();
    let account = Account {
        token: elsewhere.mint(&user, &[]),
        user,
        refresh: String::new(),
        email: String::new(),
    };
    assert_eq!(server.get("/api/v1/tasks", &account).status, 200);
    assert!(!server.data.path().join("keys").exists());
    assert!(!server.log.text().contains("PRIVATE"));
    std::fs::write(&file, "no key").unwrap();
    let (_, log) = Server::try_start_as(&program, DataDir::temporary(), any, any, &[])
        .err()
        .unwrap();
    assert!(log.contains("signing_key") && log.contains("damaged"), "{log}");
}

#[test]
fn a_secret_with_the_key_before_behind_the_new_one_signs_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let [old, new] = [Server::start(&[]), Server::start(&[])]
        .map(|server| std::fs::read_to_string(taskflow::auth::Keys::path(server.data.path())).unwrap());
    let file = folder.path().join("signing-key");
    std::fs::write(&file, &old).unwrap();
    let program = crate::support::server::Program {
        environment: vec![("TASKFLOW_SIGNING_KEY_FILE", file.display().to_string())],
        ..Default::default()
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let started = Server::try_start_as(&program, DataDir::temporary(), any, any, &[]);
    let mut server = started.unwrap_or_else(|(_, log)| panic!("{log}"));
    let before = server.register();
    std::fs::write(&file, format!("{new}{old}")).unwrap();
    server.restart();
    let after = server.register();
    for account in [&before, &after] {
        assert_eq!(server.get("/api/v1/tasks", account).status, 200);
    }
    let set = http::request(server.address, "GET", "/.well-known/jwks.json", &[], b"").json();
    assert_eq!(set["keys"].as_array().unwrap().len(), 2);
    std::fs::write(&file, &new).unwrap();
    server.restart();
    assert_eq!(server.get("/api/v1/tasks", &before).status, 401, "the old key is gone");
    assert_eq!(server.get("/api/v1/tasks", &after).status, 200, "the new one signed");
    let body = serde_json::json!({ "refresh_token": before.refresh });
    assert_eq!(
        http::post(server.address, "/api/v1/auth/refresh", &[], &body).status,
        200,
        "nobody is signed out"
    );
    std::fs::write(&file, format!("{new}# the one before\n{old}")).unwrap();
    let (_, log) = server.try_restart().err().unwrap();
    let sentence =
        "the signing key in signing_key is damaged: key 2 in it: it does not begin with -----BEGIN PRIVATE KEY-----";
    assert!(log.contains(sentence), "{log}");
}
