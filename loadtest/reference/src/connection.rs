//! The floor's connection: no buffer of its own while nothing waits, one `write` a push.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::frame::PING;

/// Bytes that wait for one connection; who lets more pile up is cut.
const WAITING_BYTES_MAX: usize = 64 * 1024;

/// Seconds of grace that a heartbeat's answer has.
const HEARTBEAT_GRACE_SECONDS: u32 = 8;

/// An open WebSocket.
pub struct Connection {
    stream: TcpStream,
    outbound: Mutex<Outbound>,
    /// When something last came in, in seconds since the process began.
    heard: AtomicU32,
}

#[derive(Default)]
struct Outbound {
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// Of the task that drives the connection.
    waker: Option<Waker>,
    dead: bool,
}

/// The peer did not answer and was cut.
pub struct Silent;

impl Connection {
    /// Takes over a socket after its handshake.
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            outbound: Mutex::default(),
            heard: AtomicU32::new(seconds()),
        }
    }

    /// Writes a frame from whatever thread, at once if nothing waits before it.
    pub fn push(&self, frame: &Bytes) {
        let mut outbound = self.outbound();
        if outbound.dead {
            return;
        }
        let mut rest = frame.clone();
        if outbound.frames.is_empty() {
            match self.stream.try_write(frame) {
                Ok(written) if written == frame.len() => return,
                Ok(written) => rest = frame.slice(written..),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => {
                    outbound.dead = true;
                    return;
                }
            }
        }
        if outbound.bytes + rest.len() > WAITING_BYTES_MAX {
            outbound.dead = true;
            outbound.frames = VecDeque::new();
            self.cut();
            return;
        }
        outbound.bytes += rest.len();
        outbound.frames.push_back(rest);
        if outbound.frames.len() == 1
            && let Some(waker) = &outbound.waker
        {
            waker.wake_by_ref();
        }
    }

    /// Pings a peer that was heard of within the last period, and cuts one that was not.
    pub fn heartbeat(&self, now: u32, period: u32) -> Result<(), Silent> {
        if now.saturating_sub(self.heard.load(Relaxed)) > period + HEARTBEAT_GRACE_SECONDS {
            self.cut();
            return Err(Silent);
        }
        self.push(&PING);
        Ok(())
    }

    /// Drives the connection until it ends.
    pub async fn run(&self) {
        std::future::poll_fn(|context| self.poll(context)).await;
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        match self.poll_write(context) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok(())) | Poll::Pending => self.poll_read(context),
        }
    }

    fn poll_write(&self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let mut outbound = self.outbound();
        if outbound.waker.is_none() {
            outbound.waker = Some(context.waker().clone());
        }
        while let Some(frame) = outbound.frames.front().cloned() {
            std::task::ready!(self.stream.poll_write_ready(context))?;
            match self.stream.try_write(&frame) {
                Ok(written) => {
                    outbound.bytes -= written;
                    outbound.frames.pop_front();
                    if written < frame.len() {
                        outbound.frames.push_front(frame.slice(written..));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads and forgets: the load tool sends nothing that matters. Ready when the peer is gone.
    fn poll_read(&self, context: &mut Context<'_>) -> Poll<()> {
        thread_local! { static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]); }
        loop {
            if std::task::ready!(self.stream.poll_read_ready(context)).is_err() {
                return Poll::Ready(());
            }
            match BUFFER.with_borrow_mut(|buffer| self.stream.try_read(buffer)) {
                Ok(0) => return Poll::Ready(()),
                Ok(_) => self.heard.store(seconds(), Relaxed),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// Ends the connection from whatever thread; its task notices by reading.
    fn cut(&self) {
        // It may be gone already, which is what is wanted.
        let _ = SockRef::from(&self.stream).shutdown(Shutdown::Both);
    }

    fn outbound(&self) -> MutexGuard<'_, Outbound> {
        self.outbound.lock().expect("nothing panics while it holds the lock")
    }
}

/// Seconds since the process began.
pub fn seconds() -> u32 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    BEGAN.get_or_init(Instant::now).elapsed().as_secs() as u32
}
