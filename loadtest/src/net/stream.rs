//! A connection with or without TLS, read and written without waiting.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::socket::with_shared_buffer;

/// See the module.
pub struct Stream {
    tcp: TcpStream,
    tls: Option<RefCell<ClientConnection>>,
}

impl Stream {
    /// Without TLS.
    pub fn plain(tcp: TcpStream) -> Self {
        Self { tcp, tls: None }
    }

    /// With TLS, once the two sides have agreed on it. An error about the certificate is a [`rustls::Error`] within.
    pub async fn secured(tcp: TcpStream, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        let connection = RefCell::new(ClientConnection::new(config, name).map_err(io::Error::other)?);
        loop {
            let (wants_write, is_handshaking) = {
                let connection = connection.borrow();
                (connection.wants_write(), connection.is_handshaking())
            };
            if wants_write {
                match write_tls(&tcp, &mut connection.borrow_mut()) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    written => {
                        written?;
                        continue;
                    }
                }
                tcp.writable().await?;
            } else if is_handshaking {
                match read_tls(&tcp, &mut connection.borrow_mut()) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => {
                        read?;
                        continue;
                    }
                }
                tcp.readable().await?;
            } else {
                break;
            }
        }
        Ok(Self {
            tcp,
            tls: Some(connection),
        })
    }

    /// Reads what there is now: 0 is the end, `WouldBlock` is nothing yet.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else {
            return super::try_read(&self.tcp, buffer);
        };
        let mut connection = tls.borrow_mut();
        loop {
            match connection.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            if read_tls(&self.tcp, &mut connection)? == 0 {
                return Ok(0);
            }
        }
    }

    /// Writes what can be written now.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else {
            return self.tcp.try_write(bytes);
        };
        let mut connection = tls.borrow_mut();
        while connection.wants_write() {
            write_tls(&self.tcp, &mut connection)?;
        }
        let taken = connection.writer().write(bytes)?;
        while connection.wants_write() {
            match write_tls(&self.tcp, &mut connection) {
                // What is taken is on its way: the next call, or `flush`, goes on.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                written => written?,
            };
        }
        Ok(taken)
    }

    /// Writes what TLS still holds; `WouldBlock` while it does.
    pub fn flush(&self) -> io::Result<()> {
        let Some(tls) = &self.tls else { return Ok(()) };
        let mut connection = tls.borrow_mut();
        while connection.wants_write() {
            write_tls(&self.tcp, &mut connection)?;
        }
        Ok(())
    }

    /// Waits until there may be something to read, or, if it is asked for, room to write.
    pub async fn ready(&self, to_write: bool) -> io::Result<()> {
        let interest = match to_write {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        self.tcp.ready(interest).await.map(drop)
    }

    /// Writes all of it.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let wrote = match bytes {
                [] => self.flush().map(|()| 0),
                bytes => self.try_write(bytes),
            };
            match wrote {
                Ok(0) if bytes.is_empty() => return Ok(()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.tcp.writable().await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads what there is, once there is something, to the end of `into`; 0 is the end of the stream.
    pub async fn read_some(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            let read: io::Result<usize> = with_shared_buffer(|buffer| {
                let read = self.try_read(buffer)?;
                into.extend_from_slice(&buffer[..read]);
                Ok(read)
            });
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.tcp.readable().await?,
                read => return read,
            }
        }
    }
}

fn read_tls(tcp: &TcpStream, connection: &mut ClientConnection) -> io::Result<usize> {
    let read = tcp.try_io(Interest::READABLE, || connection.read_tls(&mut &*SockRef::from(tcp)))?;
    if let Err(error) = connection.process_new_packets() {
        // The other side is told why, as far as it still listens.
        let _ = write_tls(tcp, connection);
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    Ok(read)
}

fn write_tls(tcp: &TcpStream, connection: &mut ClientConnection) -> io::Result<usize> {
    tcp.try_io(Interest::WRITABLE, || connection.write_tls(&mut &*SockRef::from(tcp)))
}
