//! A way to a server that can become slow, or deaf in one direction, as networks do.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// What it does with what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Weather {
    /// Hands it on.
    Fair,
    /// Hands it on late, both ways.
    Slow,
    /// Keeps what goes to the server; what comes from it arrives.
    NothingThere,
    /// Keeps what comes from the server; what goes to it arrives.
    NothingBack,
    /// Everything ends.
    Over,
}

impl Weather {
    fn of(shared: &AtomicU8) -> Self {
        let all = [
            Self::Fair,
            Self::Slow,
            Self::NothingThere,
            Self::NothingBack,
            Self::Over,
        ];
        all[usize::from(shared.load(Ordering::Relaxed))]
    }
}

/// Listens on a port of its own.
pub struct Proxy {
    /// Where.
    pub address: SocketAddr,
    weather: Arc<AtomicU8>,
}

/// How late, for each piece.
const LATE: Duration = Duration::from_millis(40);

/// How often a direction looks at the weather while nothing comes.
const LOOK: Duration = Duration::from_millis(20);

impl Proxy {
    pub fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let weather = Arc::new(AtomicU8::new(Weather::Fair as u8));
        let shared = weather.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if Weather::of(&shared) == Weather::Over {
                    return;
                }
                // A server that is away is away: the client's connection ends at once.
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(server)) else {
                    continue;
                };
                let ends = [
                    (&client, &server, Weather::NothingThere),
                    (&server, &client, Weather::NothingBack),
                ];
                for (from, to, kept_by) in ends {
                    let (from, to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
                    let shared = shared.clone();
                    std::thread::spawn(move || carry(from, to, kept_by, &shared));
                }
            }
        });
        Self { address, weather }
    }

    pub fn set(&self, weather: Weather) {
        self.weather.store(weather as u8, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(Weather::Over);
        // One more connection, so that it looks up.
        drop(TcpStream::connect(self.address));
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, kept_by: Weather, shared: &AtomicU8) {
    let _ = from.set_nodelay(true);
    from.set_read_timeout(Some(LOOK)).expect("a timeout");
    let mut piece = [0; 16 * 1024];
    loop {
        let length = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
            Err(_) => break,
        };
        // What is kept is handed on when the weather is better, like what TCP sends again.
        while length > 0 && Weather::of(shared) == kept_by {
            std::thread::park_timeout(LOOK);
        }
        match Weather::of(shared) {
            Weather::Over => break,
            Weather::Slow if length > 0 => std::thread::park_timeout(LATE),
            _ => {}
        }
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
