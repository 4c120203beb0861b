//! Connections that wait for their clients: for a request, for the rest of one, or for its body.
//!
//! Each is cheap, and nobody has to hurry, until there are many: then whoever has kept the server waiting for longest is closed, so
//! that thousands who send a letter a second do not keep others out. What the server is busy with, an event stream or a long-poll
//! too, is not touched.
//!
//! Who does not take an answer at all is closed however few there are: by the kernel, where bytes wait for it
//! (`accept::UNTAKEN_MAX`), and by this, where the client says in HTTP/2 that it has no room for them (RFC 9113, section 5.2).

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use actix_codec::{AsyncRead, AsyncWrite, ReadBuf};
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::web::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::accept::UNTAKEN_MAX;
use crate::http::Leaving;
use crate::telemetry::Metrics;
use crate::telemetry::instruments::Gauge;

/// How long anybody may keep the server waiting, however many there are: a request that comes in one piece over a slow line, with
/// an agreement on keys before it, takes less.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of an answer that are handed out at once: that a slow client takes one of these within [`UNTAKEN_MAX`] is 2 KiB a second.
const PIECE_BYTES: usize = 64 * 1024;

/// How often one looks.
const EVERY: Duration = Duration::from_millis(250);

/// The connections of one worker thread.
pub struct Idle {
    all: RefCell<Vec<Weak<Connection>>>,
    /// So many may wait.
    max: usize,
    /// Those of all workers.
    open: Gauge,
}

/// One of them.
pub struct Connection {
    /// How much is being done for it: requests that are whole.
    busy: Cell<usize>,
    /// When it began to wait, or last took something.
    since: Cell<Instant>,
    /// Pieces of answers that it has not taken.
    untaken: Cell<usize>,
    /// The kernel has no room for more of what is sent to it.
    is_full: Cell<bool>,
    is_closed: Cell<bool>,
    /// Waits for the client to read or to write. It is one task that does both.
    task: RefCell<Option<Waker>>,
    /// Counts it.
    open: Gauge,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.dec();
    }
}

impl Idle {
    /// Of which so many may wait. `open` counts those that are there, on all workers.
    pub fn new(max: usize, open: Gauge) -> Rc<Self> {
        Rc::new(Self {
            all: RefCell::default(),
            max,
            open,
        })
    }

    /// Looks for as long as there is anybody who may add connections. When clients have been sent away, nobody is waited for.
    pub async fn watch(self: Rc<Self>, metrics: Arc<Metrics>, leaving: watch::Receiver<Option<Leaving>>) {
        let this = Rc::downgrade(&self);
        drop(self);
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            ticks.tick().await;
            let Some(this) = this.upgrade() else { return };
            let now = Instant::now();
            let closed = this.close_stuck(now) + this.close_beyond(now);
            metrics.http_idle_closed.inc_by(closed as u64);
            if leaving
                .borrow()
                .is_some_and(|leaving| leaving.from + leaving.over <= now)
            {
                this.close_rested(now);
            }
        }
    }

    /// A connection that waits from now on.
    pub fn add(&self) -> Rc<Connection> {
        self.open.inc();
        let connection = Rc::new(Connection {
            busy: Cell::new(0),
            since: Cell::new(Instant::now()),
            untaken: Cell::new(0),
            is_full: Cell::new(false),
            is_closed: Cell::new(false),
            task: RefCell::default(),
            open: self.open.clone(),
        });
        self.all.borrow_mut().push(Rc::downgrade(&connection));
        connection
    }

    /// Closes those that have taken nothing of an answer for too long though there is room on the way; how many.
    fn close_stuck(&self, now: Instant) -> usize {
        let all = self.all.borrow();
        let stuck = all.iter().filter_map(Weak::upgrade).filter(|one| {
            let for_long = now.saturating_duration_since(one.since.get()) >= UNTAKEN_MAX;
            for_long && one.untaken.get() > 0 && !one.is_full.get() && !one.is_closed.get()
        });
        stuck.map(|one| one.close()).count()
    }

    /// Closes those that wait, but for whoever may be in the middle of a request.
    fn close_rested(&self, now: Instant) {
        let all = self.all.borrow();
        let rested = all.iter().filter_map(Weak::upgrade).filter(|one| {
            let for_long = now.saturating_duration_since(one.since.get()) >= PATIENCE;
            for_long && one.busy.get() == 0 && !one.is_closed.get()
        });
        rested.for_each(|one| one.close());
    }

    /// Closes those that have waited for longest, if more wait than may; how many.
    fn close_beyond(&self, now: Instant) -> usize {
        let mut all = self.all.borrow_mut();
        all.retain(|one| one.strong_count() > 0);
        if all.len() <= self.max {
            return 0;
        }
        let waiting = all.iter().filter_map(Weak::upgrade);
        let mut waiting: Vec<_> = waiting
            .filter(|one| one.busy.get() == 0 && !one.is_closed.get())
            .collect();
        let beyond = waiting.len().saturating_sub(self.max);
        waiting.sort_by_key(|one| one.since.get());
        let mut closed = 0;
        for one in waiting.iter().take(beyond) {
            if now.saturating_duration_since(one.since.get()) < PATIENCE {
                break;
            }
            one.close();
            closed += 1;
        }
        closed
    }
}

impl Connection {
    /// Does this, unless the connection is closed before it is done.
    pub async fn unless_closed<T>(&self, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|context| {
            if self.is_closed.get() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            let done = work.as_mut().poll(context);
            self.keep(done.is_pending(), context);
            done
        })
        .await
    }

    fn close(&self) {
        self.is_closed.set(true);
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// Its task waits: if it is closed meanwhile, it has to know.
    fn keep(&self, is_pending: bool, context: &Context<'_>) {
        if is_pending {
            *self.task.borrow_mut() = Some(context.waker().clone());
        }
    }

    /// While it is there, something is done for the client.
    pub fn busy(self: &Rc<Self>) -> Busy {
        self.busy.set(self.busy.get() + 1);
        Busy(self.clone())
    }

    /// While it is there, what is done for the client waits for it: for a body.
    pub fn waits(self: &Rc<Self>) -> Waits {
        self.rests();
        Waits(self.clone())
    }

    /// While it is there, the client has a piece of an answer to take.
    fn untaken(self: &Rc<Self>) -> Untaken {
        self.untaken.set(self.untaken.get() + 1);
        Untaken(self.waits())
    }

    /// More of what is sent fits into the kernel, or does not.
    fn sent<T>(&self, sent: Poll<T>, context: &Context<'_>) -> Poll<T> {
        if self.is_full.replace(sent.is_pending()) && sent.is_ready() {
            self.since.set(Instant::now());
        }
        self.keep(sent.is_pending(), context);
        sent
    }

    fn rests(&self) {
        // Only what was busy rests: [`Waits`] stands within a [`Busy`], and is dropped before it.
        self.busy.set(self.busy.get() - 1);
        self.since.set(Instant::now());
    }
}

/// See [`Connection::busy`].
pub struct Busy(Rc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.rests();
    }
}

/// See [`Connection::waits`].
pub struct Waits(Rc<Connection>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() + 1);
    }
}

/// See [`Connection::untaken`].
struct Untaken(Waits);

impl Drop for Untaken {
    fn drop(&mut self) {
        let Waits(connection) = &self.0;
        connection.untaken.set(connection.untaken.get() - 1);
    }
}

/// The bytes of a connection, until it is closed.
pub struct Watched<IO> {
    io: IO,
    /// See [`Idle::add`].
    pub connection: Rc<Connection>,
}

impl<IO> Watched<IO> {
    /// From now on.
    pub fn new(io: IO, connection: Rc<Connection>) -> Self {
        Self { io, connection }
    }

    /// Nobody's business here any more.
    pub fn into_inner(self) -> IO {
        self.io
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.connection.is_closed.get() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        self.connection.keep(read.is_pending(), context);
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.connection.is_closed.get() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.connection.sent(written, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        self.connection.sent(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.connection.is_closed.get() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let written = Pin::new(&mut self.io).poll_write_vectored(context, pieces);
        self.connection.sent(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// An answer that is on its way.
pub struct Answering {
    body: BoxBody,
    /// What is left of a large piece.
    rest: Bytes,
    /// The client has to take a piece before it gets another. Before `busy`, which this takes something off.
    untaken: Option<Untaken>,
    busy: Option<Busy>,
}

impl Answering {
    /// Busy until all of it was taken, or nobody wants it any more.
    pub fn new(body: BoxBody, busy: Option<Busy>) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            untaken: None,
            busy,
        }
    }
}

impl MessageBody for Answering {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.untaken = None;
        if self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_next(context) {
                Poll::Ready(Some(Ok(piece))) => self.rest = piece,
                other => return other,
            }
        }
        self.untaken = self.busy.as_ref().map(|Busy(connection)| connection.untaken());
        let bytes = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(self.rest.split_to(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use actix_web::body::BodyStream;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn closed(all: &[Rc<Connection>]) -> Vec<usize> {
        let closed = all.iter().enumerate().filter(|(_, one)| one.is_closed.get());
        closed.map(|(place, _)| place).collect()
    }

    async fn later(ms: u64) {
        tokio::time::advance(Duration::from_millis(ms)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_have_waited_for_longest_are_closed_and_no_more_than_are_too_many() {
        let idle = Idle::new(3, Gauge::default());
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(idle.add());
            later(10_000).await;
        }
        assert_eq!(
            idle.close_beyond(Instant::now()),
            0,
            "there is room for as long as they like"
        );
        all.extend([idle.add(), idle.add()]);
        assert_eq!(idle.close_beyond(Instant::now()), 2);
        assert_eq!(closed(&all), [0, 1]);
        assert_eq!(idle.close_beyond(Instant::now()), 0, "they are not closed twice");
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_has_a_second() {
        let idle = Idle::new(1, Gauge::default());
        let all = [idle.add(), idle.add(), idle.add()];
        later(999).await;
        assert_eq!(idle.close_beyond(Instant::now()), 0);
        later(1).await;
        assert_eq!(idle.close_beyond(Instant::now()), 2);
        assert_eq!(closed(&all), [0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_being_served_is_not_closed_but_who_keeps_back_a_body_is() {
        let idle = Idle::new(1, Gauge::default());
        let all = [idle.add(), idle.add(), idle.add()];
        let busy = [all[0].busy(), all[1].busy()];
        let waits = all[1].waits();
        later(2_000).await;
        assert_eq!(idle.close_beyond(Instant::now()), 1);
        assert_eq!(closed(&all), [1]);
        drop(waits);
        assert_eq!(all[1].busy.get(), 1);
        drop(busy);
        // Since its last answer.
        assert_eq!(idle.close_beyond(Instant::now()), 1);
        assert_eq!(closed(&all), [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_an_answer_is_closed_and_who_waits_for_more_of_one_is_not() {
        let idle = Idle::new(0, Gauge::default());
        let connection = idle.add();
        let (pieces, stream) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
        let stream = futures_util::stream::unfold(stream, |mut stream| async {
            let piece = stream.recv().await?;
            Some((Ok::<_, Infallible>(piece), stream))
        });
        let body = BoxBody::new(BodyStream::new(Box::pin(stream)));
        let mut answer = Answering::new(body, Some(connection.busy()));
        let next = |answer: &mut Answering| {
            let mut context = Context::from_waker(Waker::noop());
            Pin::new(answer).poll_next(&mut context).is_ready()
        };
        assert!(!next(&mut answer));
        later(2_000).await;
        assert_eq!(idle.close_beyond(Instant::now()), 0, "it waits for us");
        pieces.send(Bytes::from_static(b"event")).expect("wanted");
        assert!(next(&mut answer));
        later(999).await;
        assert_eq!(idle.close_beyond(Instant::now()), 0);
        assert!(!next(&mut answer), "it has taken it");
        later(2_000).await;
        assert_eq!(idle.close_beyond(Instant::now()), 0);
        pieces.send(Bytes::from_static(b"event")).expect("wanted");
        assert!(next(&mut answer));
        later(1_000).await;
        assert_eq!(idle.close_beyond(Instant::now()), 1, "it has not");
        drop(answer);
        assert_eq!(connection.busy.get(), 0);
    }

    fn answer(bytes: usize, connection: &Rc<Connection>) -> Answering {
        Answering::new(BoxBody::new(Bytes::from(vec![b'x'; bytes])), Some(connection.busy()))
    }

    fn next(answer: &mut Answering) -> usize {
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(answer).poll_next(&mut context) {
            Poll::Ready(Some(piece)) => piece.expect("a piece").len(),
            _ => 0,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_of_an_answer_is_closed_however_few_there_are() {
        let idle = Idle::new(3, Gauge::default());
        let all = [idle.add(), idle.add(), idle.add()];
        let mut answers = all.each_ref().map(|one| answer(2 * PIECE_BYTES + 1, one));
        for answer in &mut answers {
            assert_eq!(next(answer), PIECE_BYTES);
        }
        later(29_999).await;
        // One takes what it got, another has got all, the third takes nothing.
        assert_eq!(next(&mut answers[1]), PIECE_BYTES);
        assert_eq!(
            [0; 3].map(|_| next(&mut answers[2])),
            [PIECE_BYTES, 1, 0],
            "no byte is lost"
        );
        assert_eq!(idle.close_stuck(Instant::now()), 0);
        later(1).await;
        assert_eq!(idle.close_stuck(Instant::now()), 1);
        assert_eq!(closed(&all), [0]);
        assert_eq!(idle.close_stuck(Instant::now()), 0, "they are not closed twice");
        later(29_999).await;
        assert_eq!(idle.close_stuck(Instant::now()), 1);
        assert_eq!(closed(&all), [0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_bytes_slowly_is_the_business_of_the_kernel() {
        let idle = Idle::new(3, Gauge::default());
        let connection = idle.add();
        let (io, mut client) = tokio::io::duplex(16);
        let mut io = Watched::new(io, connection.clone());
        let mut answer = answer(1, &connection);
        assert_eq!(next(&mut answer), 1);
        let look = || idle.close_stuck(Instant::now());
        let read = async {
            later(60_000).await;
            assert_eq!(look(), 0, "the bytes wait for room in the kernel");
            client.read_exact(&mut [0; 17]).await.expect("they come");
        };
        let (written, ()) = tokio::join!(io.write_all(&[0; 17]), read);
        written.expect("written");
        assert_eq!(look(), 0, "it has taken some this moment");
        later(30_000).await;
        assert_eq!(look(), 1, "it has taken no more, and there is room");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_gone_does_not_count() {
        let idle = Idle::new(1, Gauge::default());
        let gone = [idle.add(), idle.add()];
        drop(gone);
        let _one = idle.add();
        later(2_000).await;
        assert_eq!(idle.close_beyond(Instant::now()), 0);
        assert_eq!(idle.all.borrow().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_closed_is_over_at_once() {
        let idle = Idle::new(0, Gauge::default());
        let (io, mut client) = tokio::io::duplex(16);
        let connection = idle.add();
        let mut io = Watched::new(io, connection.clone());
        client.write_all(b"a").await.expect("sent");
        assert_eq!(io.read_u8().await.expect("a byte"), b'a');
        let close = async {
            later(2_000).await;
            idle.close_beyond(Instant::now())
        };
        let (read, closed) = tokio::join!(io.read_u8(), close);
        assert_eq!(
            (read.map_err(|error| error.kind()), closed),
            (Err(io::ErrorKind::TimedOut), 1)
        );
        assert!(io.write_u8(0).await.is_err());

        let connection = idle.add();
        let agrees = connection.unless_closed(std::future::pending::<io::Result<()>>());
        let close = async {
            later(2_000).await;
            idle.close_beyond(Instant::now())
        };
        let (agreed, closed) = tokio::join!(agrees, close);
        assert_eq!(
            (agreed.map_err(|error| error.kind()), closed),
            (Err(io::ErrorKind::TimedOut), 1)
        );
    }
}
