//! Counts what arrives on many connections, without decoding it: each publish carries `@@` and eight hexadecimal digits.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use memchr::memmem;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::clock;
use crate::net::crowd::Crowd;
use crate::net::socket::{Seen, Socket};
use crate::server::taskflow::{HEARTBEAT, is_heartbeat};

/// What a publish is recognised by.
const MARK: &[u8] = b"@@";

/// The mark of a publish, to be part of what it pushes.
pub fn mark(number: u32) -> String {
    format!("@@{number:08x}")
}

/// What has arrived so far, on all connections of this thread.
#[derive(Default)]
pub struct Board {
    arrivals: RefCell<Vec<Arrivals>>,
    pushes: Cell<u64>,
    heartbeats: Cell<u64>,
    ended: Cell<u64>,
    /// Bytes of the last frame that carried a push.
    frame_bytes: Cell<usize>,
    changed: Notify,
    wake_at: Cell<u64>,
    every: RefCell<Option<Vec<(u32, u64)>>>,
}

/// The arrivals of one publish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// On how many connections.
    pub count: u32,
    /// When the last one came, in nanoseconds of [`clock::now_ns`].
    pub last_ns: u64,
}

impl Board {
    /// With nothing on it.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// With nothing on it, and for [`Board::take_every`].
    pub fn of_every_arrival() -> Rc<Self> {
        Rc::new(Self {
            every: RefCell::new(Some(Vec::new())),
            ..Self::default()
        })
    }

    /// Reads a connection in the background until it ends or the handle is aborted.
    pub fn watch(self: &Rc<Self>, socket: Socket) -> JoinHandle<()> {
        let board = self.clone();
        tokio::task::spawn_local(async move {
            let seen = board.clone();
            // However it ends: that it ended is what counts.
            let _ = socket
                .drive(move |frame, writer| seen.read(frame, &mut |text| writer.send_now(text)))
                .await;
            board.count_end();
        })
    }

    /// The same for many connections at once, which never end as far as the caller is concerned.
    pub fn watch_all(self: &Rc<Self>, sockets: Vec<Socket>) -> io::Result<JoinHandle<io::Result<()>>> {
        let crowd = Crowd::new(sockets)?;
        let (seen, board) = (self.clone(), self.clone());
        Ok(tokio::task::spawn_local(crowd.drive(
            move |frame, answer| seen.read(frame, answer),
            move || board.count_end(),
        )))
    }

    fn read(&self, seen: Seen<'_>, answer: &mut dyn FnMut(&[u8])) {
        let text = match seen {
            Seen::Text(text) if !is_heartbeat(text) => text,
            Seen::Text(_) => {
                answer(HEARTBEAT);
                return self.heartbeat();
            }
            Seen::Ping(_) => return self.heartbeat(),
        };
        self.look(text);
    }

    /// Counts the marks in a message.
    pub fn look(&self, text: &[u8]) {
        let mut at = 0;
        while let Some(found) = memmem::find(&text[at..], MARK) {
            at += found + MARK.len();
            if let Some(number) = text.get(at..at + 8).and_then(hexadecimal) {
                self.arrived(number);
                self.frame_bytes.set(text.len());
            }
        }
    }

    /// A connection has ended.
    pub fn count_end(&self) {
        self.ended.set(self.ended.get() + 1);
        self.changed.notify_one();
    }

    fn heartbeat(&self) {
        self.heartbeats.set(self.heartbeats.get() + 1);
    }

    fn arrived(&self, number: u32) {
        let now_ns = clock::now_ns();
        if let Some(every) = &mut *self.every.borrow_mut() {
            every.push((number, now_ns));
        }
        let mut arrivals = self.arrivals.borrow_mut();
        let index = number as usize;
        if arrivals.len() <= index {
            arrivals.resize(index + 1, Arrivals::default());
        }
        arrivals[index].count += 1;
        arrivals[index].last_ns = now_ns;
        self.pushes.set(self.pushes.get() + 1);
        if self.pushes.get() >= self.wake_at.get() {
            self.changed.notify_one();
        }
    }

    /// What came of a publish.
    pub fn arrivals(&self, number: u32) -> Arrivals {
        self.arrivals.borrow().get(number as usize).copied().unwrap_or_default()
    }

    /// Number and time of every arrival since the last call.
    pub fn take_every(&self) -> Vec<(u32, u64)> {
        self.every.borrow_mut().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Pushes on all connections.
    pub fn pushes(&self) -> u64 {
        self.pushes.get()
    }

    /// Heartbeats of the server, or its pings, that were answered.
    pub fn heartbeats(&self) -> u64 {
        self.heartbeats.get()
    }

    /// Connections that ended.
    pub fn ended(&self) -> u64 {
        self.ended.get()
    }

    /// Bytes of a pushed message.
    pub fn frame_bytes(&self) -> usize {
        self.frame_bytes.get()
    }

    /// Waits until there were so many pushes, or a connection ended.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn until_pushes(&self, count: u64) {
        self.wake_at.set(count);
        let ended = self.ended.get();
        while self.pushes.get() < count && self.ended.get() == ended {
            self.changed.notified().await;
        }
    }
}

/// Eight digits, by hand: this runs once a message.
fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number: u32, digit| {
        Some(number << 4 | (*digit as char).to_digit(16)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_is_written() {
        for number in [0, 1, 0x1234_abcd, u32::MAX] {
            let text = mark(number);
            assert_eq!(hexadecimal(&text.as_bytes()[2..]), Some(number));
        }
        assert_eq!(hexadecimal(b"0000000g"), None);
    }
}
