//! A WebSocket that is written at any time by anybody and read by one task, over TLS or not.

use std::cell::{Cell, RefCell};
use std::io;
use std::time::Duration;

use memchr::memmem;
use tokio::sync::Notify;

use super::socket::{Event, Seen, Unread, pong_frame, text_frame, upgrade_request, with_shared_buffer};
use super::stream::Stream;

/// What a slow reader reads at once, and how long it then pauses.
const SLOW_BYTES: usize = 1024;
const SLOW_PAUSE: Duration = Duration::from_secs(1);

/// See the module.
pub struct Link {
    stream: Stream,
    /// What came behind the answer to the handshake.
    early: Cell<Vec<u8>>,
    /// What could not be written at once.
    out: RefCell<Vec<u8>>,
    left_over: Notify,
}

impl Link {
    /// Upgrades; a server that does not is an error of kind `Other` that holds its answer.
    pub async fn upgrade(stream: Stream, host: &str, path: &str, subprotocol: Option<&str>) -> io::Result<Self> {
        stream
            .write_all(upgrade_request(host, path, subprotocol).as_bytes())
            .await?;
        let mut unread = Vec::new();
        let head_end = loop {
            if let Some(at) = memmem::find(&unread, b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_some(&mut unread).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        if !unread.starts_with(b"HTTP/1.1 101") {
            return Err(io::Error::other(NotUpgraded(
                String::from_utf8_lossy(&unread[..head_end]).into_owned(),
            )));
        }
        unread.drain(..head_end);
        Ok(Self {
            stream,
            early: Cell::new(unread),
            out: RefCell::default(),
            left_over: Notify::new(),
        })
    }

    /// Sends a message, now or as soon as there is room.
    pub fn send(&self, text: &[u8]) {
        self.write(&text_frame(text));
    }

    fn write(&self, frame: &[u8]) {
        self.out.borrow_mut().extend_from_slice(frame);
        // An error is met again by whoever reads.
        let _ = self.flush();
        if !self.out.borrow().is_empty() {
            self.left_over.notify_one();
        }
    }

    /// Whether something is left that waits for room.
    fn flush(&self) -> io::Result<bool> {
        let mut out = self.out.borrow_mut();
        while !out.is_empty() {
            match self.stream.try_write(&out) {
                Ok(written) => drop(out.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        *out = Vec::new();
        match self.stream.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            flushed => flushed.map(|()| false),
        }
    }

    /// The first message; what came with it is lost.
    pub async fn first(&self) -> io::Result<Vec<u8>> {
        let mut read = self.early.take();
        loop {
            let mut first = None;
            let end = Unread::default().take(&read, &mut |seen| {
                if let Seen::Text(text) = seen {
                    first.get_or_insert_with(|| text.to_vec());
                }
            })?;
            if let Some(first) = first {
                return Ok(first);
            }
            if end.is_some() || self.stream.read_some(&mut read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads until the connection ends, or nothing came for `silence`, and shows each message. For messages that come in
    /// one frame. While `slow` is set, it reads as somebody who is far away on a bad line.
    pub async fn drive(&self, silence: Duration, slow: &Cell<bool>, mut each: impl FnMut(&[u8])) -> io::Result<Event> {
        let mut unread = Unread::default();
        let mut show = |seen: Seen<'_>| match seen {
            Seen::Ping(body) => self.write(&pong_frame(body)),
            Seen::Text(text) => each(text),
        };
        if let Some(end) = unread.take(&self.early.take(), &mut show)? {
            return Ok(end);
        }
        loop {
            let read = with_shared_buffer(|buffer| {
                let size = if slow.get() { SLOW_BYTES } else { buffer.len() };
                let read = self.stream.try_read(&mut buffer[..size])?;
                // Shown when the buffer is given back: who is shown a message may look at another connection.
                Ok::<_, io::Error>(buffer[..read].to_vec())
            });
            match read {
                Ok(bytes) if bytes.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => {
                    if let Some(end) = unread.take(&bytes, &mut show)? {
                        return Ok(end);
                    }
                    if slow.get() {
                        tokio::time::sleep(SLOW_PAUSE).await;
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            let to_write = self.flush()?;
            let ready = async {
                tokio::select! {
                    ready = self.stream.ready(to_write) => ready,
                    () = self.left_over.notified() => Ok(()),
                }
            };
            tokio::time::timeout(silence, ready)
                .await
                .map_err(|_| io::ErrorKind::TimedOut)??;
        }
    }
}

/// The answer of a server that does not upgrade.
#[derive(Debug)]
pub struct NotUpgraded(pub String);

impl NotUpgraded {
    /// Its HTTP status.
    pub fn status(&self) -> Option<u16> {
        self.0.split(' ').nth(1)?.parse().ok()
    }
}

impl std::fmt::Display for NotUpgraded {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "not upgraded: {}", self.0.lines().next().unwrap_or_default())
    }
}

impl std::error::Error for NotUpgraded {}
