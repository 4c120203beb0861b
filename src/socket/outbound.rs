//! What waits for one connection, bounded in bytes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, Bytes};
use tokio::time::Instant;

use super::wire::Wire;

/// Frames joined in one write: what Linux takes at once is 1024; 64 already spare nearly all system calls.
const FRAMES_A_WRITE_MAX: usize = 64;

/// Bytes that wait for all connections of this process.
pub static TOTAL_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Frames that wait for a socket, in order. The bytes are shared with other connections; they count in full for each.
#[derive(Debug, Default)]
pub struct Outbound {
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// The first frame has been sent in part: it must be finished, or the peer cannot read what follows.
    begun: bool,
    /// Since when the socket has not taken all that there was.
    blocked: Option<Instant>,
}

/// The queue is as full as it may be.
#[derive(Debug, PartialEq)]
pub struct Full;

impl Outbound {
    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Since when the client has been behind.
    pub fn behind_since(&self) -> Option<Instant> {
        self.blocked
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Puts a frame at the end, unless the queue would hold more than `max` bytes.
    pub fn push(&mut self, frame: Bytes, max: usize) -> Result<(), Full> {
        if self.bytes + frame.len() > max && !self.frames.is_empty() {
            return Err(Full);
        }
        self.add(frame);
        Ok(())
    }

    /// Drops all that waits, but for a frame that is sent in part, and puts these last words there instead.
    pub fn replace(&mut self, last_words: Bytes) {
        let begun = if self.begun { self.frames.pop_front() } else { None };
        self.clear();
        self.begun = begun.is_some();
        for frame in begun.into_iter().chain([last_words]) {
            self.add(frame);
        }
    }

    fn add(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        TOTAL_BYTES.fetch_add(frame.len(), Ordering::Relaxed);
        self.frames.push_back(frame);
    }

    fn clear(&mut self) {
        TOTAL_BYTES.fetch_sub(self.bytes, Ordering::Relaxed);
        self.frames = VecDeque::new();
        self.bytes = 0;
        self.begun = false;
    }

    /// Sends a frame at once if nothing waits before it, else queues it.
    pub fn send(&mut self, stream: &Wire, frame: &Bytes, max: usize) -> io::Result<Result<(), Full>> {
        if !self.frames.is_empty() {
            return Ok(self.push(frame.clone(), max));
        }
        let sent = match stream.try_write(frame) {
            Ok(sent) if sent == frame.len() => return Ok(Ok(())),
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        self.begun = sent > 0;
        self.add(frame.slice(sent..));
        self.blocked = Some(Instant::now());
        Ok(Ok(()))
    }

    /// Sends what waits, as much as the socket takes, several frames in one write.
    pub fn flush(&mut self, stream: &Wire) -> io::Result<()> {
        while !self.frames.is_empty() {
            let result = match self.frames.len() {
                1 => stream.try_write(&self.frames[0]),
                waiting => {
                    let mut slices = [IoSlice::new(&[]); FRAMES_A_WRITE_MAX];
                    let count = waiting.min(FRAMES_A_WRITE_MAX);
                    for (slice, frame) in slices.iter_mut().zip(&self.frames) {
                        *slice = IoSlice::new(frame);
                    }
                    stream.try_write_vectored(&slices[..count])
                }
            };
            match result {
                Ok(sent) => self.sent(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked.get_or_insert_with(Instant::now);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        // An idle connection holds no buffer.
        self.frames = VecDeque::new();
        self.blocked = None;
        stream.try_flush()
    }

    fn sent(&mut self, mut sent: usize) {
        self.bytes -= sent;
        TOTAL_BYTES.fetch_sub(sent, Ordering::Relaxed);
        while let Some(frame) = self.frames.front_mut() {
            if sent < frame.len() {
                frame.advance(sent);
                self.begun |= sent > 0;
                return;
            }
            sent -= frame.len();
            self.begun = false;
            self.frames.pop_front();
        }
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        self.clear();
    }
}
