//! Keeps a connection to the server, and the replica in step with it.
//!
//! [`Client::next`] is the whole of it: it connects, catches up, sends what waits, answers heartbeats, renews the token,
//! comes back after a failure, and says what happened. Who calls it shows that to a person.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use taskflow_actors::ports::Clock;
use taskflow_protocol::codes::Action;
use taskflow_protocol::limits::MESSAGE_BYTES_MAX;
use taskflow_protocol::message::{
    Command, Empty, ErrorBody, Follow, Heartbeat, Hello, Operation, Operations, ProtocolRange, Refresh, ServerMessage,
    Welcome,
};
use taskflow_protocol::values::{Seq, UnixMs};
use taskflow_protocol::{
    ClientMessage, Code, Encoding, OperationId, PROTOCOL_MAX, PROTOCOL_MIN, SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK,
};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::auth::{self, AuthError};
use super::backoff::{Backoff, Failure, Step};
use super::profile::{Account, Journal, Profile};
use super::replica::{Event, Parked, Repeat, Replica};
use crate::clock::SystemClock;

/// Milliseconds from dialling to the welcome. Three round trips and a token check; a hung server is found this way.
const CONNECT_TIMEOUT_MS: u64 = 10_000;
/// Milliseconds in which a message must leave: a socket that takes none is dead, or its server hangs.
const SEND_TIMEOUT_MS: u64 = 10_000;
/// Operations on the way at once: below the 256 that a feed holds unsaved, so that a long import leaves room for others.
const IN_FLIGHT_MAX: usize = 200;
/// Milliseconds between a change and its place on disk. The copy is one whole file; what is lost is caught up.
const KEEP_AFTER_MS: u64 = 2_000;
/// Milliseconds that a connection must hold before a failure counts as the first again.
const HELD_MS: u64 = 5_000;
/// Milliseconds before its end at which a token is renewed, at most a fifth of its life.
const REFRESH_BEFORE_MS: i64 = 60_000;
/// Milliseconds after which a failed renewal is tried again.
const REFRESH_AGAIN_MS: u64 = 5_000;
/// Bytes of a message that are not operations.
const ENVELOPE_BYTES: usize = 256;

/// Where the connection stands, as a person should see it.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// Dialling and saying hello.
    Connecting,
    /// What was missed is coming: entry so and so of so many.
    CatchingUp(Seq, Seq),
    /// What is shown is what is there.
    Live,
    /// What is shown is what was there then: the server cannot find out what has changed since.
    Stale(UnixMs),
    /// No connection. Tried again then, for this reason.
    Waiting(Instant, String),
}

/// What [`Client::next`] returns.
#[allow(clippy::large_enum_variant, reason = "one at a time, moved and taken apart at once")]
#[derive(Debug)]
pub enum Happening {
    /// The connection stands otherwise than before.
    Status(Status),
    /// The replica changed, or an operation was settled.
    Event(Event),
    /// The asked time has come.
    Tick,
    /// The person, or the system, wants the program to end.
    Interrupted,
}

/// The client cannot go on; the sentence says what a person has to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct GaveUp(pub String);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A connection that was welcomed.
struct Link {
    socket: Socket,
    /// When the last byte came.
    heard_at: Instant,
    /// Silence that long means that the connection is dead.
    silence_max: Duration,
    opened_at: Instant,
    refresh_at: Instant,
    /// The server's clock when the connection opened.
    server_time: UnixMs,
    message_bytes_max: usize,
    operations_max: usize,
}

enum State {
    Down { until: Instant },
    Up(Box<Link>),
}

/// A user's connection with all that belongs to it.
pub struct Client {
    profile: Profile,
    account: Account,
    encoding: Encoding,
    replica: Replica,
    journal: Journal,
    /// Those of this process that are written down.
    journaled: HashSet<OperationId>,
    parked: Vec<(String, Operation)>,
    state: State,
    status: Status,
    /// What the last heartbeat said.
    stale_since: Option<UnixMs>,
    backoff: Backoff,
    queue: VecDeque<Happening>,
    /// When the copy is to be kept, if it changed.
    keep_at: Option<Instant>,
    was_reset: bool,
    signals: Signals,
    clock: SystemClock,
}

impl Client {
    /// With what the profile holds; connects at the first [`Client::next`]. Needs a tokio runtime.
    pub fn open(profile: Profile, encoding: Encoding) -> anyhow::Result<Self> {
        let account = profile.account()?.ok_or_else(|| {
            GaveUp("Nobody is signed in here. Use `taskflow register --server URL EMAIL` or `taskflow login --server URL EMAIL`.".to_owned())
        })?;
        let journal = Journal::create(&profile, rand::random())?;
        let mut client = Self {
            replica: profile.replica(),
            profile,
            account,
            encoding,
            journal,
            journaled: HashSet::new(),
            parked: Vec::new(),
            state: State::Down { until: Instant::now() },
            status: Status::Connecting,
            stale_since: None,
            backoff: Backoff::default(),
            queue: VecDeque::new(),
            keep_at: None,
            was_reset: false,
            signals: Signals::new()?,
            clock: SystemClock,
        };
        client.adopt()?;
        Ok(client)
    }

    /// The copy.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Who and where.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Where the connection stands.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Operations that wait for a person, and why.
    pub fn parked(&self) -> &[(String, Operation)] {
        &self.parked
    }

    /// Takes a person's command: written down now, sent when live.
    pub fn submit(&mut self, command: Command) -> anyhow::Result<OperationId> {
        let operation = Operation {
            id: OperationId(self.new_id()),
            base: None,
            command,
        };
        self.check_size(&operation)?;
        let (id, now) = (operation.id, self.clock.now_ms());
        self.journal.made(now, &operation)?;
        self.journaled.insert(id);
        self.replica.submit(operation, now, Repeat::Ask);
        Ok(id)
    }

    /// Takes an operation whose ids are derived from a source that can be read again: it is not written down.
    pub fn submit_derived(&mut self, operation: Operation) -> anyhow::Result<()> {
        self.check_size(&operation)?;
        self.replica.submit(operation, self.clock.now_ms(), Repeat::Safe);
        Ok(())
    }

    fn check_size(&self, operation: &Operation) -> anyhow::Result<()> {
        let bytes = self.encoding.encode(operation).len();
        if bytes + ENVELOPE_BYTES > MESSAGE_BYTES_MAX {
            return Err(GaveUp(format!(
                "The change is too large to send ({bytes} bytes); shorten its notes."
            ))
            .into());
        }
        Ok(())
    }

    /// Sends a parked operation after all, as a new one, or forgets it.
    pub fn decide_parked(&mut self, send: bool) -> anyhow::Result<Vec<OperationId>> {
        let mut ids = Vec::new();
        for (_, operation) in std::mem::take(&mut self.parked) {
            // First written down anew, then settled: a crash between sends it twice rather than never.
            if send {
                ids.push(self.submit(operation.command)?);
            }
            self.settled(operation.id)?;
        }
        Ok(ids)
    }

    /// A new id: UUIDv7 (RFC 9562, section 5.7).
    pub fn new_id(&self) -> uuid::Uuid {
        let millis = u64::try_from(self.clock.now_ms()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid()
    }

    /// The next thing that happens; at `wake` a [`Happening::Tick`] if nothing else does.
    pub async fn next(&mut self, wake: Option<Instant>) -> anyhow::Result<Happening> {
        loop {
            if let Some(happening) = self.queue.pop_front() {
                return Ok(happening);
            }
            if self.keep_at.is_some_and(|at| at <= Instant::now()) {
                self.keep()?;
            }
            if matches!(self.state, State::Up(_)) {
                if let Some(happening) = self.listen(wake).await? {
                    return Ok(happening);
                }
                continue;
            }
            let State::Down { until } = self.state else {
                continue;
            };
            let keep_at = self.keep_at;
            tokio::select! {
                () = sleep_until(until) => {}
                () = at(wake) => return Ok(Happening::Tick),
                () = at(keep_at) => continue,
                () = self.signals.next() => return Ok(Happening::Interrupted),
            }
            self.set_status(Status::Connecting);
            if let Some(happening) = self.dial().await? {
                return Ok(happening);
            }
        }
    }

    async fn dial(&mut self) -> anyhow::Result<Option<Happening>> {
        if self.account.expires_at - self.clock.now_ms() < 0 {
            // A token that has surely expired would only cost a round trip.
            match self.renew().await {
                Ok(()) => {}
                Err(failure) => return self.failed(&failure).map(|()| None),
            }
        }
        let limit = Duration::from_millis(CONNECT_TIMEOUT_MS);
        let opening = timeout(limit, open(&self.account, self.encoding, self.replica.cursor()));
        let opened = tokio::select! {
            opened = opening => opened,
            () = self.signals.next() => return Ok(Some(Happening::Interrupted)),
        };
        let server = &self.account.server;
        match opened {
            Ok(Ok((socket, welcome))) => self.welcome(socket, &welcome)?,
            Ok(Err(failure)) => self.failed(&failure)?,
            Err(_) => {
                let message = format!("The server at {server} takes too long to answer.");
                self.failed(&Failure::network(message))?;
            }
        }
        Ok(None)
    }

    fn welcome(&mut self, socket: Socket, welcome: &Welcome) -> anyhow::Result<()> {
        self.backoff.welcomed();
        self.replica.connected(welcome.user);
        if self.account.user != Some(welcome.user) {
            self.account.user = Some(welcome.user);
            self.profile.change_account(|stored| {
                let mut stored = stored;
                if let Some(account) = &mut stored {
                    account.user = Some(welcome.user);
                }
                Ok((stored, ()))
            })?;
        }
        let now = Instant::now();
        self.state = State::Up(Box::new(Link {
            socket,
            heard_at: now,
            silence_max: Duration::from_millis(u64::from(welcome.heartbeat_ms) * 2),
            opened_at: now,
            refresh_at: now + refresh_in(welcome.token_expires_at - welcome.time),
            server_time: welcome.time,
            message_bytes_max: usize::try_from(welcome.message_bytes_max).unwrap_or(usize::MAX),
            operations_max: usize::try_from(welcome.operations_max).unwrap_or(usize::MAX).max(1),
        }));
        Ok(())
    }

    /// Waits on an open connection. `None`: look again at everything.
    async fn listen(&mut self, wake: Option<Instant>) -> anyhow::Result<Option<Happening>> {
        if let Err(failure) = self.pump().await? {
            self.failed(&failure)?;
            return Ok(None);
        }
        if !self.queue.is_empty() {
            return Ok(None);
        }
        let now_ms = self.clock.now_ms();
        let send_at = self
            .replica
            .next_send_at()
            .filter(|at| self.replica.live() && *at > now_ms)
            .map(|at| Instant::now() + Duration::from_millis(u64::try_from(at - now_ms).unwrap_or(0)));
        let keep_at = self.keep_at;
        let State::Up(link) = &mut self.state else {
            return Ok(None);
        };
        let dead_at = link.heard_at + link.silence_max;
        let refresh_at = link.refresh_at;
        tokio::select! {
            frame = link.socket.next() => {
                link.heard_at = Instant::now();
                if let Err(failure) = self.frame(frame).await? {
                    self.failed(&failure)?;
                }
            }
            () = sleep_until(dead_at) => {
                self.failed(&Failure::network("The server has gone silent."))?;
            }
            () = sleep_until(refresh_at) => {
                if let Err(failure) = self.refresh().await? {
                    self.failed(&failure)?;
                }
            }
            () = at(send_at) => {}
            () = at(keep_at) => {}
            () = at(wake) => return Ok(Some(Happening::Tick)),
            () = self.signals.next() => return Ok(Some(Happening::Interrupted)),
        }
        Ok(None)
    }

    /// Sends what may be sent.
    async fn pump(&mut self) -> anyhow::Result<Result<(), Failure>> {
        loop {
            let State::Up(link) = &mut self.state else {
                return Ok(Ok(()));
            };
            let (encoding, mut bytes, mut count) = (self.encoding, ENVELOPE_BYTES, 0);
            let (operations, events) =
                self.replica
                    .next_to_send(self.clock.now_ms(), IN_FLIGHT_MAX, &mut |operation| {
                        count += 1;
                        bytes += encoding.encode(operation).len();
                        // One is always taken: how large one may be was checked when it was made.
                        count == 1 || (count <= link.operations_max && bytes <= link.message_bytes_max)
                    });
            self.events(events)?;
            if operations.is_empty() {
                return Ok(Ok(()));
            }
            let message = ClientMessage::Operations(Operations {
                feed: None,
                operations,
                traceparent: None,
            });
            if let Err(failure) = self.send(&message).await {
                return Ok(Err(failure));
            }
        }
    }

    async fn send(&mut self, message: &ClientMessage) -> Result<(), Failure> {
        let State::Up(link) = &mut self.state else {
            return Ok(());
        };
        send(&mut link.socket, self.encoding, message).await
    }

    async fn frame(&mut self, frame: Option<tungstenite::Result<Message>>) -> anyhow::Result<Result<(), Failure>> {
        let message = match read(frame, self.encoding) {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(Ok(())),
            Err(failure) => return Ok(Err(failure)),
        };
        match message {
            ServerMessage::Heartbeat(Heartbeat { stale_since }) => {
                self.stale_since = stale_since;
                self.look()?;
                Ok(self.send(&ClientMessage::Heartbeat(Empty {})).await)
            }
            ServerMessage::Reconnect(reconnect) => Ok(Err(Failure {
                // Whatever the reason, the server wants us back.
                action: Action::Reconnect,
                message: reconnect.code.sentence().to_owned(),
                wait: Some((reconnect.after_ms, reconnect.window_ms)),
            })),
            ServerMessage::Refreshed(refreshed) => {
                if let State::Up(link) = &mut self.state {
                    let elapsed = i64::try_from(link.opened_at.elapsed().as_millis()).unwrap_or(i64::MAX);
                    let left = refreshed.token_expires_at - link.server_time.saturating_add(elapsed);
                    link.refresh_at = Instant::now() + refresh_in(left);
                }
                Ok(Ok(()))
            }
            message => match self.replica.receive(message, self.clock.now_ms()) {
                Ok(events) => {
                    for event in &events {
                        if let Event::Error(error) = event {
                            return Ok(Err(about_error(error)));
                        }
                    }
                    self.events(events)?;
                    self.look()?;
                    Ok(Ok(()))
                }
                Err(broken) => Ok(Err(Failure {
                    action: broken.action(),
                    message: format!("This copy and the server disagree: {broken}."),
                    wait: None,
                })),
            },
        }
    }

    fn events(&mut self, events: Vec<Event>) -> anyhow::Result<()> {
        for event in events {
            match &event {
                Event::Applied(..) => {
                    let at = Instant::now() + Duration::from_millis(KEEP_AFTER_MS);
                    self.keep_at.get_or_insert(at);
                }
                Event::Reset(..) => {
                    // At once: the operations that follow are told apart from older ones by what is kept.
                    self.was_reset = true;
                    self.keep()?;
                }
                Event::Retired(id, _) => self.settled(*id)?,
                Event::Refused(operation, _) | Event::Conflict(operation, _) => self.settled(operation.id)?,
                Event::Parked(operation, reason) => {
                    self.journal.parked(operation, *reason)?;
                    self.journaled.insert(operation.id);
                    self.parked
                        .push((parked_because(*reason).to_owned(), operation.clone()));
                }
                Event::Following(_) | Event::LeftOut(_) | Event::Error(_) => {}
            }
            self.queue.push_back(Happening::Event(event));
        }
        Ok(())
    }

    fn settled(&mut self, id: OperationId) -> anyhow::Result<()> {
        if self.journaled.remove(&id) {
            self.journal.settled(id)?;
        }
        Ok(())
    }

    /// Says how the connection stands, if it stands otherwise.
    fn look(&mut self) -> anyhow::Result<()> {
        if self.replica.live() {
            let was_live = matches!(self.status, Status::Live | Status::Stale(_));
            self.set_status(self.stale_since.map_or(Status::Live, Status::Stale));
            if !was_live {
                self.adopt()?;
            }
        } else if let Some((seq, head)) = self.replica.behind() {
            self.set_status(Status::CatchingUp(seq, head));
        }
        Ok(())
    }

    fn set_status(&mut self, status: Status) {
        if self.status != status {
            self.status = status.clone();
            self.queue.push_back(Happening::Status(status));
        }
    }

    /// Takes over what processes that are gone have left.
    fn adopt(&mut self) -> anyhow::Result<()> {
        let found = self.journal.adopt(&self.profile)?;
        for (made_at, operation) in found.made {
            self.journaled.insert(operation.id);
            self.replica.resume(operation, made_at);
        }
        for (reason, operation) in found.parked {
            self.journaled.insert(operation.id);
            self.parked.push((reason, operation));
        }
        Ok(())
    }

    /// The connection is gone, or never came.
    fn failed(&mut self, failure: &Failure) -> anyhow::Result<()> {
        if let State::Up(link) = &self.state
            && link.opened_at.elapsed() >= Duration::from_millis(HELD_MS)
        {
            self.backoff.held();
        }
        self.replica.disconnected();
        self.stale_since = None;
        match self.backoff.step(failure, rand::random()) {
            Step::Wait { ms, resync } => {
                if resync {
                    self.replica.resync();
                }
                let until = Instant::now() + Duration::from_millis(ms);
                self.state = State::Down { until };
                self.set_status(Status::Waiting(until, failure.message.clone()));
                Ok(())
            }
            Step::Refresh => {
                self.state = State::Down { until: Instant::now() };
                // Makes the next dial renew it.
                self.account.expires_at = UnixMs::MIN / 2;
                self.set_status(Status::Connecting);
                Ok(())
            }
            Step::Stop(sentence) => {
                self.state = State::Down { until: Instant::now() };
                self.keep()?;
                Err(GaveUp(sentence).into())
            }
        }
    }

    /// Renews the token and gives it to the open connection.
    async fn refresh(&mut self) -> anyhow::Result<Result<(), Failure>> {
        match self.renew().await {
            Ok(()) => {
                if let State::Up(link) = &mut self.state {
                    // Until the answer says better.
                    link.refresh_at = Instant::now() + Duration::from_millis(CONNECT_TIMEOUT_MS);
                }
                let token = self.account.access_token.clone();
                Ok(self.send(&ClientMessage::Refresh(Refresh { token })).await)
            }
            Err(failure) if failure.action == Action::Reconnect => {
                if let State::Up(link) = &mut self.state {
                    link.refresh_at = Instant::now() + Duration::from_millis(REFRESH_AGAIN_MS);
                }
                Ok(Ok(()))
            }
            Err(failure) => Ok(Err(failure)),
        }
    }

    /// Gets a new access token, or takes the one that another process of this profile has got.
    async fn renew(&mut self) -> Result<(), Failure> {
        let (profile, mine, now) = (
            self.profile.clone(),
            self.account.access_token.clone(),
            self.clock.now_ms(),
        );
        let renewed = tokio::task::spawn_blocking(move || renew(&profile, &mine, now)).await;
        match renewed {
            Ok(Ok(account)) => {
                self.account = account;
                Ok(())
            }
            Ok(Err(error)) => match error.downcast_ref::<AuthError>() {
                Some(AuthError::Unreachable(message)) => Err(Failure::network(message)),
                Some(refused) => Err(match refused.action() {
                    Action::Retry | Action::Reconnect => Failure::network(refused.to_string()),
                    _ => Failure {
                        action: Action::GiveUp,
                        message: format!("{refused} Use `taskflow login`."),
                        wait: None,
                    },
                }),
                None => Err(Failure {
                    action: Action::GiveUp,
                    message: format!("{error:#}"),
                    wait: None,
                }),
            },
            Err(join) => Err(Failure::network(join.to_string())),
        }
    }

    fn keep(&mut self) -> anyhow::Result<()> {
        self.keep_at = None;
        let was_reset = std::mem::take(&mut self.was_reset);
        self.profile.keep_replica(&self.replica, was_reset)
    }

    /// Keeps the copy and says goodbye.
    pub async fn close(mut self) -> anyhow::Result<()> {
        self.keep()?;
        if let State::Up(link) = &mut self.state {
            // A courtesy: the server would find out by itself.
            let _ = timeout(Duration::from_millis(500), link.socket.close(None)).await;
        }
        Ok(())
    }
}

/// Runs on a thread that may wait: a request, under the profile's lock, so that two processes do not use up each
/// other's refresh token.
pub(super) fn renew(profile: &Profile, mine: &str, now: UnixMs) -> anyhow::Result<Account> {
    profile.change_account(|stored| {
        let Some(account) = stored else {
            return Err(GaveUp("You have signed out. Use `taskflow login` to sign in again.".to_owned()).into());
        };
        if account.access_token != mine && account.expires_at > now {
            return Ok((Some(account.clone()), account));
        }
        let tokens = auth::refresh(&account.server, &account.refresh_token)?;
        let account = Account {
            access_token: tokens.access_token,
            refresh_token: tokens.refresh_token,
            expires_at: now.saturating_add(tokens.expires_in.saturating_mul(1000)),
            ..account
        };
        Ok((Some(account.clone()), account))
    })
}

fn parked_because(reason: Parked) -> &'static str {
    match reason {
        Parked::TooOld => "it is older than a day",
        Parked::Reset => "the server's data was restored or replaced meanwhile",
    }
}

fn refresh_in(left_ms: i64) -> Duration {
    let before = REFRESH_BEFORE_MS.min(left_ms / 5);
    Duration::from_millis(u64::try_from(left_ms - before).unwrap_or(0))
}

fn about_error(error: &ErrorBody) -> Failure {
    let mut failure = Failure::code(error.code, error.message.clone());
    if let Some(after) = error.retry_after_ms {
        failure.wait = Some((after, after));
    }
    failure
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Dials, says hello, waits for the welcome.
async fn open(account: &Account, encoding: Encoding, cursor: Option<String>) -> Result<(Socket, Welcome), Failure> {
    let server = &account.server;
    let give_up = |message: String| Failure {
        action: Action::GiveUp,
        message,
        wait: None,
    };
    // Said once and for all: a second provider somewhere in the tree must not leave TLS without any.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = match server.split_once("://") {
        Some(("http", rest)) => format!("ws://{rest}/api/v1/socket"),
        Some(("https", rest)) => format!("wss://{rest}/api/v1/socket"),
        _ => return Err(give_up(format!("{server} is not an http:// or https:// address."))),
    };
    let mut request = url
        .into_client_request()
        .map_err(|error| give_up(format!("{server}: {error}.")))?;
    let subprotocol = match encoding {
        Encoding::Json => SUBPROTOCOL_JSON,
        Encoding::MsgPack => SUBPROTOCOL_MSGPACK,
    };
    request
        .headers_mut()
        .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    let (mut socket, _) = tokio_tungstenite::connect_async(request)
        .await
        .map_err(|error| handshake_failed(server, error))?;
    let hello = Hello {
        protocol: ProtocolRange {
            min: PROTOCOL_MIN,
            max: PROTOCOL_MAX,
        },
        token: Some(account.access_token.clone()),
        client: Some(super::CLIENT_NAME.to_owned()),
        follow: vec![Follow {
            cursor,
            ..Follow::default()
        }],
    };
    send(&mut socket, encoding, &ClientMessage::Hello(hello)).await?;
    loop {
        match read(socket.next().await, encoding)? {
            Some(ServerMessage::Welcome(welcome)) => return Ok((socket, welcome)),
            Some(ServerMessage::Error(error)) => return Err(about_error(&error)),
            Some(ServerMessage::Reconnect(reconnect)) => {
                return Err(Failure {
                    action: Action::Reconnect,
                    message: reconnect.code.sentence().to_owned(),
                    wait: Some((reconnect.after_ms, reconnect.window_ms)),
                });
            }
            _ => {}
        }
    }
}

fn handshake_failed(server: &str, error: tungstenite::Error) -> Failure {
    let response = match error {
        tungstenite::Error::Http(response) => response,
        tungstenite::Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(_)) => {
            return Failure {
                action: Action::GiveUp,
                message: format!("What answers at {server} is not a TaskFlow server. Check the address."),
                wait: None,
            };
        }
        other => {
            return Failure::network(format!("The server at {server} does not answer ({other})."));
        }
    };
    let problem: serde_json::Value = response
        .body()
        .as_deref()
        .and_then(|body| serde_json::from_slice(body).ok())
        .unwrap_or_default();
    let number = problem["code"].as_u64().and_then(|number| u16::try_from(number).ok());
    if let Some(code) = number.and_then(Code::from_number) {
        let message = problem["title"].as_str().unwrap_or(code.sentence());
        return Failure::code(code, message);
    }
    let status = response.status();
    if status.is_server_error() || status.as_u16() == 429 {
        // A proxy in front of a server that restarts.
        return Failure::network(format!("The server at {server} answers with status {status}."));
    }
    Failure {
        action: Action::GiveUp,
        message: format!("What answers at {server} is not a TaskFlow server (status {status}). Check the address."),
        wait: None,
    }
}

async fn send(socket: &mut Socket, encoding: Encoding, message: &ClientMessage) -> Result<(), Failure> {
    let bytes = encoding.encode(message);
    let frame = match encoding {
        Encoding::Json => Message::text(String::from_utf8(bytes).expect("JSON is UTF-8")),
        Encoding::MsgPack => Message::binary(bytes),
    };
    match timeout(Duration::from_millis(SEND_TIMEOUT_MS), socket.send(frame)).await {
        Ok(Ok(())) => Ok(()),
        // The reason stands in what the server sent before it closed.
        Ok(Err(error)) => Err(after_failed_send(socket, encoding, &error).await),
        Err(_) => Err(Failure::network("The server takes no messages.")),
    }
}

/// Looks whether a close frame came before the connection broke.
async fn after_failed_send(socket: &mut Socket, encoding: Encoding, error: &tungstenite::Error) -> Failure {
    let looking = async {
        loop {
            if let Err(failure) = read(socket.next().await, encoding) {
                return failure;
            }
        }
    };
    let found = timeout(Duration::from_millis(100), looking).await;
    found.unwrap_or_else(|_| Failure::network(format!("The connection broke ({error}).")))
}

/// A frame's message; `None` for frames that carry none, and for messages that this version does not know.
fn read(frame: Option<tungstenite::Result<Message>>, encoding: Encoding) -> Result<Option<ServerMessage>, Failure> {
    let bytes = match frame {
        Some(Ok(Message::Text(text))) if encoding == Encoding::Json => text.as_bytes().to_vec(),
        Some(Ok(Message::Binary(bytes))) if encoding == Encoding::MsgPack => bytes.to_vec(),
        Some(Ok(Message::Text(_) | Message::Binary(_))) => {
            return Err(Failure::network("The server sent a frame of the wrong kind."));
        }
        Some(Ok(Message::Close(Some(close)))) => return Err(Failure::closed(close.code.into(), &close.reason)),
        Some(Ok(Message::Close(None))) | None => return Err(Failure::network("The server closed the connection.")),
        Some(Ok(_)) => return Ok(None),
        Some(Err(tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
            return Err(Failure::network("The connection to the server broke."));
        }
        Some(Err(error)) => return Err(Failure::network(format!("The connection broke ({error})."))),
    };
    match encoding.decode::<ServerMessage>(&bytes) {
        Ok(message) => Ok(Some(message)),
        Err(error) => {
            let document: serde_json::Value = encoding.decode(&bytes).unwrap_or_default();
            let name = document.as_object().and_then(|map| map.keys().next());
            if name.is_some_and(|name| !KNOWN_MESSAGES.contains(&name.as_str())) {
                return Ok(None);
            }
            Err(Failure::network(format!(
                "The server sent what this version does not understand ({}).",
                error.detail
            )))
        }
    }
}

/// A newer server may send others; they are ignored.
const KNOWN_MESSAGES: [&str; 10] = [
    "welcome",
    "following",
    "unfollowed",
    "snapshot",
    "entries",
    "results",
    "refreshed",
    "heartbeat",
    "reconnect",
    "error",
];

/// Ctrl-C and a polite kill.
#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Ctrl-C.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        // Without a handler there is nothing to wait for; the system then ends the program itself.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
