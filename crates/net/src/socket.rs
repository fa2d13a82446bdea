//! A TCP, TLS or Unix stream, with the bytes that were read ahead of their time.
//!
//! Whoever parses a head reads a little too far. Those bytes belong to what follows the head, so they stay with the
//! socket and come out first.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

use crate::carry::Local;
use crate::departure::Departure;
use crate::leash::{Hold, Leash};

/// A connected stream.
#[derive(Debug)]
pub struct Socket {
    /// Before the stream, so that it is dropped first: the leash never knows a closed descriptor.
    leash: Option<Hold>,
    stream: Stream,
    /// Read already; comes out before anything else.
    ahead: Vec<u8>,
    /// Boxed: hardly any socket is ever watched.
    departure: Option<Box<Departure>>,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Boxed: a TLS session is a thousand bytes, and most sockets have none.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// Takes a TCP stream, and switches off Nagle's delay: every write here is meant to go now.
    pub fn tcp(stream: TcpStream) -> Self {
        // A socket that was reset meanwhile refuses the option; the next read tells.
        let _ = stream.set_nodelay(true);
        Self::new(Stream::Tcp(stream))
    }

    /// Takes a TCP stream that inherited its options, no delay among them, from its listener.
    pub const fn accepted(stream: TcpStream) -> Self {
        Self::new(Stream::Tcp(stream))
    }

    /// Takes a Unix stream.
    pub const fn unix(stream: UnixStream) -> Self {
        Self::new(Stream::Unix(stream))
    }

    /// Takes a TCP stream on which TLS is spoken.
    pub fn tls(stream: TlsStream<TcpStream>) -> Self {
        // As above.
        let _ = stream.get_ref().0.set_nodelay(true);
        Self::new(Stream::Tls(Box::new(stream)))
    }

    const fn new(stream: Stream) -> Self {
        Self { leash: None, stream, ahead: Vec::new(), departure: None }
    }

    /// Whether the peer agreed to speak HTTP/2 inside TLS.
    pub fn is_http2(&self) -> bool {
        match &self.stream {
            Stream::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
            Stream::Tcp(_) | Stream::Unix(_) => false,
        }
    }

    /// Whether nothing is between the bytes and the kernel.
    pub const fn is_plain(&self) -> bool {
        matches!(self.stream, Stream::Tcp(_) | Stream::Unix(_))
    }

    /// Puts bytes back that were read too early; they come out before those put back earlier.
    #[must_use]
    pub fn with_ahead(mut self, mut bytes: Vec<u8>) -> Self {
        bytes.append(&mut self.ahead);
        self.ahead = bytes;
        self
    }

    /// Has the kernel give the connection up once something sent was not acknowledged for so long, and not go on asking ever
    /// more slowly: after a network that was gone for 13 s it asks again after 25 s, and then after 51 s.
    #[must_use]
    pub fn acknowledged_within(self, limit: Duration) -> Self {
        if let Stream::Tcp(_) | Stream::Tls(_) = self.stream {
            // As above.
            let _ = SockRef::from(&self.fd()).set_tcp_user_timeout(Some(limit));
        }
        self
    }

    /// Puts the connection on a leash, by which it can be ended wherever it is.
    #[must_use]
    pub fn on_leash(mut self, leash: &Leash) -> Self {
        self.leash = Some(leash.hold(self.fd().as_raw_fd()));
        self
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Tls(stream) => stream.get_ref().0.as_fd(),
        }
    }

    /// The descriptor of a TCP stream.
    pub(crate) fn tcp_fd(&self) -> Option<RawFd> {
        match &self.stream {
            Stream::Tcp(stream) => Some(stream.as_raw_fd()),
            // What the other end of TLS says cannot be understood by somebody else.
            Stream::Unix(_) | Stream::Tls(_) => None,
        }
    }

    /// What was read ahead.
    pub(crate) fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    pub(crate) fn put_back(&mut self, mut bytes: Vec<u8>) {
        bytes.append(&mut self.ahead);
        self.ahead = bytes;
    }

    /// Ends the connection at once in both directions, so that the peer sees a reset or an end, and never a clean end
    /// of what was being sent.
    pub fn abort(self) {
        let stream = match &self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
            Stream::Unix(_) => return,
        };
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }

    /// Whether the runtime has heard of nothing to read, which costs no call of the kernel; [`Self::is_quiet`] knows for
    /// certain.
    pub fn seems_quiet(&self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        self.ahead.is_empty()
            && match &self.stream {
                Stream::Tcp(stream) => stream.poll_read_ready(cx).is_pending(),
                Stream::Unix(stream) => stream.poll_read_ready(cx).is_pending(),
                Stream::Tls(stream) => stream.get_ref().0.poll_read_ready(cx).is_pending(),
            }
    }

    /// Whether bytes may wait to be read, or the end was seen: what a pool must know before it hands out an idle socket.
    pub fn is_quiet(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::new(0)];
        let peeked = match &self.stream {
            Stream::Tcp(stream) => SockRef::from(stream).peek(&mut byte),
            Stream::Unix(stream) => SockRef::from(stream).peek(&mut byte),
            Stream::Tls(stream) => SockRef::from(stream.get_ref().0).peek(&mut byte),
        };
        self.ahead.is_empty() && matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Takes a connection back from hyper after its 101 was sent.
///
/// # Errors
///
/// If the connection ran over something else than a TCP stream, a Unix stream or a [`Socket`].
pub fn from_upgraded(upgraded: hyper::upgrade::Upgraded) -> io::Result<Socket> {
    let upgraded = match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => return Ok(Socket::tcp(parts.io.into_inner()).with_ahead(parts.read_buf.to_vec())),
        Err(upgraded) => upgraded,
    };
    let upgraded = match upgraded.downcast::<TokioIo<UnixStream>>() {
        Ok(parts) => return Ok(Socket::unix(parts.io.into_inner()).with_ahead(parts.read_buf.to_vec())),
        Err(upgraded) => upgraded,
    };
    match upgraded.downcast::<TokioIo<Socket>>() {
        Ok(parts) => Ok(parts.io.into_inner().with_ahead(parts.read_buf.to_vec())),
        Err(_) => Err(io::Error::other("the upgraded connection is no plain socket")),
    }
}

impl Local for Socket {
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.departure.is_none() {
            // Without a descriptor for it, the end is seen where it stands.
            self.departure = Departure::of(self.fd()).ok().map(Box::new);
        }
        self.departure.as_ref().map_or(Poll::Pending, |departure| departure.poll(cx))
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Who reads sees the end by that.
        self.departure = None;
        if !self.ahead.is_empty() {
            let taken = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..taken]);
            self.ahead.drain(..taken);
            if self.ahead.is_empty() {
                self.ahead = Vec::new();
            }
            return Poll::Ready(Ok(()));
        }
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            // The kernel has what was written.
            Stream::Tcp(_) | Stream::Unix(_) => Poll::Ready(Ok(())),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_kernel_gives_up_what_is_not_acknowledged_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let limit = Duration::from_secs(15);
        let socket = Socket::tcp(stream).acknowledged_within(limit);
        assert_eq!(SockRef::from(&socket.fd()).tcp_user_timeout().unwrap(), Some(limit));
    }
}
