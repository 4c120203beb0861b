//! A way to a server on which something goes wrong once or again and again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A message with entries is left out.
    Drop,
    /// A message with entries comes twice.
    Double,
    /// Two messages with entries change places.
    Swap,
    /// The tasks of snapshots by REST are others.
    Forget,
}

/// The message with entries, of all connections together, from which on one in so many is hit.
const FIRST: u64 = 40;
const EVERY: u64 = 60;

/// Listens on a port of its own.
pub struct Faulty {
    address: SocketAddr,
}

impl Faulty {
    pub fn to(server: SocketAddr, fault: Fault) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let entries = Arc::new(AtomicU64::new(0));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(server).unwrap();
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || copy(from, to));
                let entries = entries.clone();
                std::thread::spawn(move || back(server, client, fault, &entries));
            }
        });
        Self { address }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// What comes from the server: HTTP until it upgrades, then frames.
fn back(mut from: TcpStream, mut to: TcpStream, fault: Fault, entries: &AtomicU64) {
    let mut held = Vec::new();
    let mut unread = Vec::new();
    let mut is_socket = false;
    let mut buffer = [0; 65_536];
    while let Ok(read) = from.read(&mut buffer)
        && read > 0
    {
        unread.extend_from_slice(&buffer[..read]);
        if !is_socket && unread.starts_with(b"HTTP/1.1 101") {
            let Some(end) = find(&unread, b"\r\n\r\n") else {
                continue;
            };
            let head: Vec<u8> = unread.drain(..end + 4).collect();
            if to.write_all(&head).is_err() {
                return;
            }
            is_socket = true;
        }
        let out = match is_socket {
            true => frames(&mut unread, fault, entries, &mut held),
            false => answer(std::mem::take(&mut unread), fault),
        };
        if to.write_all(&out).is_err() {
            return;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

fn answer(mut bytes: Vec<u8>, fault: Fault) -> Vec<u8> {
    let tasks = (fault == Fault::Forget)
        .then(|| find(&bytes, b"\"tasks\":[{\"id\":\""))
        .flatten();
    if let Some(tasks) = tasks {
        // The id of the first task is another one, of the same length.
        let digit = &mut bytes[tasks + b"\"tasks\":[{\"id\":\"".len()];
        *digit = if *digit == b'f' { b'e' } else { b'f' };
    }
    bytes
}

/// The whole frames, with what goes wrong with them.
fn frames(unread: &mut Vec<u8>, fault: Fault, entries: &AtomicU64, held: &mut Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(length) = frame_length(unread) {
        let frame: Vec<u8> = unread.drain(..length).collect();
        if find(&frame, b"{\"entries\":").is_none() {
            out.extend_from_slice(&frame);
            continue;
        }
        let number = entries.fetch_add(1, Ordering::Relaxed);
        let is_hit = number >= FIRST && (number - FIRST).is_multiple_of(EVERY);
        match fault {
            Fault::Drop if is_hit => {}
            Fault::Double if is_hit => out.extend([frame.as_slice(), frame.as_slice()].concat()),
            // Kept until the next one is through.
            Fault::Swap if is_hit && held.is_empty() => *held = frame,
            _ => {
                out.extend_from_slice(&frame);
                out.append(held);
            }
        }
    }
    out
}

/// Of the first frame, if it is whole (RFC 6455, section 5.2; servers do not mask).
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let (head, length) = match *bytes.get(1)? {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (
            10,
            usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?,
        ),
        short => (2, usize::from(short)),
    };
    (bytes.len() >= head + length).then_some(head + length)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
