//! The bytes of a WebSocket's connection, in the clear or over TLS: the little of a TCP stream that a connection needs.
//!
//! Over TLS the session has what was decrypted and not read, and what was encrypted and not sent; both are bounded by one
//! record (16 KiB), because nothing more is encrypted before that has gone.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice, Read as _, Write};
use std::task::{Context, Poll};

use bytes::BytesMut;
use rustls::ServerConnection;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// See the module.
pub enum Wire {
    /// In the clear.
    Plain(TcpStream),
    /// Over TLS.
    Tls(Box<Tls>),
}

/// A TLS session on its stream. A connection is touched by one thread only.
pub struct Tls {
    stream: TcpStream,
    session: RefCell<ServerConnection>,
}

/// What is encrypted at once.
const RECORD_BYTES: usize = 16 * 1024;

impl From<TcpStream> for Wire {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

impl From<TlsStream<TcpStream>> for Wire {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        let (stream, session) = stream.into_inner();
        let session = RefCell::new(session);
        Self::Tls(Box::new(Tls { stream, session }))
    }
}

impl Wire {
    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => &tls.stream,
        }
    }

    /// Whether something that was taken is still to be sent: [`Wire::try_flush`].
    pub fn wants_write(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(tls) => tls.session.borrow().wants_write(),
        }
    }

    /// Sends what was taken, as far as the socket takes it.
    pub fn try_flush(&self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => tls.flush(&mut tls.session.borrow_mut()),
        }
    }

    /// As of [`TcpStream`].
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.try_write(bytes),
            Self::Tls(tls) => tls.write(&[IoSlice::new(bytes)]),
        }
    }

    /// As of [`TcpStream`].
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.try_write_vectored(slices),
            Self::Tls(tls) => tls.write(slices),
        }
    }

    /// As of [`TcpStream`].
    pub fn try_read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.try_read_buf(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }

    /// As of [`TcpStream`].
    pub fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_read_ready(context),
            Self::Tls(tls) if tls.has_plaintext() => Poll::Ready(Ok(())),
            Self::Tls(tls) => tls.stream.poll_read_ready(context),
        }
    }

    /// As of [`TcpStream`].
    pub fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp().poll_write_ready(context)
    }

    /// Sends all of it.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() || self.wants_write() {
            poll_fn(|context| self.poll_write_ready(context)).await?;
            let written = match bytes {
                [] => self.try_flush().map(|()| 0),
                bytes => self.try_write(bytes),
            };
            match written {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Tls {
    fn has_plaintext(&self) -> bool {
        let mut session = self.session.borrow_mut();
        // What is wrong with the session is said by the next read.
        session.process_new_packets().map_or(true, |state| {
            state.plaintext_bytes_to_read() > 0 || state.peer_has_closed()
        })
    }

    fn flush(&self, session: &mut ServerConnection) -> io::Result<()> {
        while session.wants_write() {
            match session.write_tls(&mut Try(&self.stream)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let session = &mut *self.session.borrow_mut();
        self.flush(session)?;
        if session.wants_write() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut taken = 0;
        for slice in slices {
            let part = &slice[..slice.len().min(RECORD_BYTES - taken)];
            session.writer().write_all(part)?;
            taken += part.len();
            if taken == RECORD_BYTES {
                break;
            }
        }
        self.flush(session)?;
        Ok(taken)
    }

    fn read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let session = &mut *self.session.borrow_mut();
        loop {
            let before = buffer.len();
            buffer.resize(before + RECORD_BYTES, 0);
            let read = session.reader().read(&mut buffer[before..]);
            buffer.truncate(before + read.as_ref().map_or(0, |read| *read));
            match read {
                Ok(read) => return Ok(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Gone without a goodbye: the frames say themselves where they end.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) => return Err(error),
            }
            if session.read_tls(&mut Try(&self.stream))? == 0 {
                // The reader knows what that means.
                drop(session.process_new_packets());
                return Ok(0);
            }
            let processed = session.process_new_packets();
            // An alert, or the answer to a new key.
            self.flush(session)?;
            processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }
}

/// A stream that does not wait.
struct Try<'a>(&'a TcpStream);

impl io::Read for Try<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Try<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
