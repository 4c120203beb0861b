//! Many sockets that one task reads, once a millisecond.
//!
//! With a task for each, and a look at every arrival, a client that keeps up with the server costs more than the server: in
//! a fan-out it would be the client that is measured. Here a fan-out takes a hundred milliseconds, so one more or less is
//! nothing.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use socket2::SockRef;

use super::socket::{Seen, Socket, Unread, pong_frame, text_frame, with_shared_buffer};

/// Between two looks at the sockets.
const PAUSE: Duration = Duration::from_millis(1);
/// Sockets that are read before other tasks have their turn.
const SOCKETS_A_TURN: usize = 256;

struct Member {
    stream: TcpStream,
    unread: Unread,
}

/// See the module.
pub struct Crowd {
    epoll: Epoll,
    members: Vec<Option<Member>>,
}

impl Crowd {
    /// Takes the sockets over. Nobody may have a writer of one.
    pub fn new(sockets: Vec<Socket>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut members = Vec::with_capacity(sockets.len());
        for (number, socket) in sockets.into_iter().enumerate() {
            let (stream, unread) = socket.into_parts()?;
            // Acknowledgements go with what is sent next, or late: each at once would cost the client as much as its read.
            SockRef::from(&stream).set_tcp_quickack(false)?;
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
            members.push(Some(Member { stream, unread }));
        }
        Ok(Self { epoll, members })
    }

    /// Reads all of them for ever, and shows each frame to `each`, with a way to answer at once. For messages that come
    /// in one frame. `ended` is told of each connection that ends.
    pub async fn drive(
        mut self,
        mut each: impl FnMut(Seen<'_>, &mut dyn FnMut(&[u8])),
        mut ended: impl FnMut(),
    ) -> io::Result<()> {
        let mut events = vec![EpollEvent::empty(); SOCKETS_A_TURN];
        loop {
            let count = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
            for event in &events[..count] {
                let member = &mut self.members[event.data() as usize];
                if member.as_mut().is_some_and(|member| member.read(&mut each).is_err()) {
                    *member = None;
                    ended();
                }
            }
            if count < events.len() {
                tokio::time::sleep(PAUSE).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
    }
}

impl Member {
    /// Reads once: what is left makes the socket ready again.
    fn read(&mut self, each: &mut impl FnMut(Seen<'_>, &mut dyn FnMut(&[u8]))) -> io::Result<()> {
        let (mut reader, mut writer) = (&self.stream, &self.stream);
        with_shared_buffer(|buffer| {
            let read = match reader.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                read => read?,
            };
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let end = self.unread.take(&buffer[..read], &mut |seen| {
                if let Seen::Ping(body) = seen {
                    let _ = writer.write(&pong_frame(body));
                }
                // What is sent this way is small, and is repeated when it is missed.
                each(seen, &mut |text| drop(writer.write(&text_frame(text))));
            })?;
            match end {
                Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
                None => Ok(()),
            }
        })
    }
}
