//! The client side: as lean as the measurement needs it to be.

pub mod crowd;
pub mod http;
pub mod link;
pub mod socket;
pub mod stream;

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream};

/// How a connection is made.
#[derive(Clone, Copy, Debug)]
pub struct Dial {
    /// Where to.
    pub address: SocketAddr,
    /// Which connection of the client this is: they take turns among eight source addresses, because one address has
    /// 28,000 ports only, and those of dropped connections are not free at once.
    pub number: usize,
    /// The kernel's buffer for what comes in; absent: the kernel's choice.
    pub receive_buffer_bytes: Option<u32>,
}

impl Dial {
    /// The first connection to somewhere.
    pub fn to(address: SocketAddr) -> Self {
        Self {
            address,
            number: 0,
            receive_buffer_bytes: None,
        }
    }

    /// The same for another connection.
    #[must_use]
    pub fn number(self, number: usize) -> Self {
        Self { number, ..self }
    }

    /// Connects.
    pub async fn connect(self) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = self.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        let source = Ipv4Addr::new(127, 0, 0, 2 + (self.number % 8) as u8);
        socket.bind(SocketAddr::from((source, 0)))?;
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        // A dropped connection is reset: the server sees it at once, and no port waits for a minute.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        Ok(stream)
    }
}

/// Writes all of it.
pub async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads what there is, once there is something, to the end of `into`; 0 is the end of the stream.
pub async fn read_some(stream: &TcpStream, into: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        let read: io::Result<usize> = socket::with_shared_buffer(|buffer| {
            let read = try_read(stream, buffer)?;
            into.extend_from_slice(&buffer[..read]);
            Ok(read)
        });
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

/// Reads what there is now. A read that does not fill the buffer has emptied the socket: the runtime is told so, which
/// saves the second system call that would find nothing. The client must be cheaper than what it measures.
fn try_read(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = None;
    let emptied = stream.try_io(Interest::READABLE, || {
        let bytes = (&*SockRef::from(stream)).read(buffer)?;
        read = Some(bytes);
        if bytes < buffer.len() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(bytes)
    });
    read.map_or(emptied, Ok)
}
