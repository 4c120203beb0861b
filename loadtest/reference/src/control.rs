//! A second port, on which the load tool says what to push. One request a line:
//!
//! | request | effect | answer |
//! | --- | --- | --- |
//! | `publish NUMBER SIZE` | one push of SIZE bytes with that number to everyone | none |
//! | `publish NUMBER SIZE USER` | the same to one user | none |
//! | `connections` | | how many there are |
//! | `closed` | | `N M`: how many ended, how many of them silent |

use std::io::{BufRead, BufReader, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::frame::Push;
use crate::hub::Hub;

/// Listens on threads of its own.
pub fn start(address: SocketAddr, hub: Arc<Hub>) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let hub = hub.clone();
            // A broken control connection ends; the load tool notices by itself.
            std::thread::spawn(move || serve(stream, &hub));
        }
    });
    Ok(())
}

fn serve(stream: TcpStream, hub: &Hub) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut answers = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        let mut words = line.split_whitespace();
        match words.next() {
            Some("publish") => {
                let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
                let push = |number: u64, size: u64| Push::numbered(number as u32, usize::from(size as u16));
                match numbers[..] {
                    [number, size] => hub.publish(push(number, size)),
                    [number, size, user] => hub.publish_to(user, &push(number, size)),
                    _ => writeln!(answers, "publish NUMBER SIZE [USER]")?,
                }
            }
            Some("connections") => writeln!(answers, "{}", hub.connections())?,
            Some("closed") => {
                let counters = &hub.counters;
                writeln!(
                    answers,
                    "{} {}",
                    counters.closed.load(Relaxed),
                    counters.silent.load(Relaxed)
                )?;
            }
            _ => writeln!(answers, "unknown request")?,
        }
    }
    Ok(())
}
