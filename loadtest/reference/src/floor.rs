//! Stacks `r` and `r-jwt`: a listener a thread, a handshake by hand, the socket and nothing else.

use std::cell::RefCell;
use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::connection::Connection;
use crate::frame::switching_protocols;
use crate::hub::{Hub, Target};

/// Bytes of a request that is read before it is refused.
const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// Serves until the process ends.
pub fn run(address: SocketAddr, workers: usize, hub: Arc<Hub>) -> Result<()> {
    let threads: Vec<_> = (0..workers)
        .map(|_| {
            let hub = hub.clone();
            std::thread::spawn(move || actix_rt::System::new().block_on(accept(address, hub)))
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| Error::other("a worker panicked"))??;
    }
    Ok(())
}

/// Each worker has a listener of its own on the same address: the kernel spreads the connections.
async fn accept(address: SocketAddr, hub: Arc<Hub>) -> Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    let listener = TcpListener::from_std(socket.into())?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of files: wait until some connection ends.
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let hub = hub.clone();
        actix_rt::spawn(async move {
            if let Ok(user) = upgrade(&stream, &hub).await {
                hold(stream, user, hub);
            }
        });
    }
}

/// A task of its own, so that what the handshake needed is freed.
fn hold(stream: TcpStream, user: Option<u64>, hub: Arc<Hub>) {
    let connection = Arc::new(Connection::new(stream));
    let registration = hub.enter(Target::Socket(connection.clone()), user);
    actix_rt::spawn(async move {
        connection.run().await;
        drop(registration);
    });
}

/// The opening handshake, for as much of HTTP as the load tool sends.
async fn upgrade(stream: &TcpStream, hub: &Hub) -> Result<Option<u64>> {
    stream.set_nodelay(true)?;
    let request = read_request(stream).await?;
    let request = std::str::from_utf8(&request).map_err(|_| ErrorKind::InvalidData)?;
    let target = request
        .strip_prefix("GET /ws")
        .and_then(|rest| rest.split(' ').next())
        .ok_or(ErrorKind::InvalidInput)?;
    let user = hub.admit(target.strip_prefix('?')).ok_or(ErrorKind::PermissionDenied)?;
    let header = |wanted: &str| {
        request.split("\r\n").skip(1).find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    };
    if !header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")) {
        return Err(ErrorKind::InvalidInput.into());
    }
    let key = header("sec-websocket-key").ok_or(ErrorKind::InvalidInput)?;
    stream.writable().await?;
    stream.try_write(switching_protocols(key.as_bytes()).as_bytes())?;
    Ok(user)
}

async fn read_request(stream: &TcpStream) -> Result<Vec<u8>> {
    thread_local! { static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 16 * 1024]); }
    let mut request = Vec::new();
    loop {
        stream.readable().await?;
        let read = BUFFER.with_borrow_mut(|buffer| {
            let read = stream.try_read(buffer)?;
            request.extend_from_slice(&buffer[..read]);
            Ok::<_, Error>(read)
        });
        match read {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) if request.ends_with(b"\r\n\r\n") => return Ok(request),
            Ok(_) if request.len() > REQUEST_BYTES_MAX => return Err(ErrorKind::InvalidData.into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
