//! A TCP stream for hyper that ends when its peer stops taking what we write, and that stays in
//! our hands when hyper lets go of it: to say 408, and to close without cutting off an answer.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::head_watch::{HeadReader, HeadWatch};

/// How long, and how much, we read from a client that still sends after our last answer. To
/// close at once would reset the connection and take that answer from it.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 4 << 20;

/// Cheap to clone. Only one clone may read or write at a time.
#[derive(Clone)]
pub struct Socket(Arc<TcpStream>);

impl Socket {
    pub fn new(stream: TcpStream) -> Self {
        // Only speed is lost where the option can't be set.
        let _ = stream.set_nodelay(true);
        Self(Arc::new(stream))
    }

    pub fn peer(&self) -> io::Result<SocketAddr> {
        self.0.peer_addr()
    }

    pub fn local(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// As much of `text` as the socket's buffer takes now.
    pub fn last_words(&self, text: &[u8]) {
        let _ = self.0.try_write(text);
    }

    /// Ends our side, then waits a little for the peer to end its own.
    pub async fn close(self) {
        let _ = shutdown(&*self.0, Shutdown::Write);
        let _ = tokio::time::timeout(LINGER, self.discard()).await;
    }

    async fn discard(&self) -> io::Result<()> {
        let mut scratch = [0; 16 * 1024];
        let mut discarded = 0;
        while discarded < LINGER_BYTES {
            self.0.readable().await?;
            match self.0.try_read(&mut scratch) {
                Ok(0) => return Ok(()),
                Ok(read) => discarded += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What hyper reads and writes.
pub struct Watched {
    socket: Socket,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    heads: HeadReader,
}

impl Watched {
    pub fn new(socket: Socket, stall: Duration, heads: HeadWatch) -> Self {
        Self { socket, stall, stalled: None, heads: HeadReader::new(heads) }
    }

    /// Runs `write` when the socket takes bytes; an error once it has taken none for too long.
    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.socket.0.poll_write_ready(cx)?.is_pending() {
                ready!(self.poll_stalled(cx));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            match write(&self.socket.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => {
                    self.stalled = None;
                    return Poll::Ready(done);
                }
            }
        }
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = Instant::now() + self.stall;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        timer.as_mut().poll(cx)
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.0.poll_read_ready(cx))?;
            match self.socket.0.try_read(buf.initialize_unfilled()) {
                Ok(read) => {
                    self.heads.read(&buf.initialize_unfilled()[..read]);
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |stream| stream.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The connection's task closes, once hyper is done.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
