//! A connection to somebody else's program: heard to its end whatever becomes of what is said to it, and with the truth
//! about how it ended.
//!
//! A program may answer and go while it is still spoken to; then its answer counts, and not that nobody listens. And one
//! that was reset must never look as if it had said all it wanted.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::socket::Socket;

/// A connection to a program. Every end is an end to whoever reads; which one, [`Self::is_reset`] tells.
#[derive(Debug)]
pub struct Program {
    socket: Socket,
    is_deaf: bool,
    is_reset: bool,
}

impl Program {
    /// Takes a connection to a program.
    pub const fn new(socket: Socket) -> Self {
        Self { socket, is_deaf: false, is_reset: false }
    }

    /// Whether the program takes nothing any more. What it said before is still read, and what is said to it is dropped: a
    /// program that has answered and gone need not have heard everything.
    pub const fn is_deaf(&self) -> bool {
        self.is_deaf
    }

    /// Whether the program reset the connection. Known for certain once its end was read.
    pub const fn is_reset(&self) -> bool {
        self.is_reset
    }

    /// Ends the connection so that the program sees that it was cut.
    pub fn abort(self) {
        self.socket.abort();
    }

    fn handle_written(&mut self, written: Poll<io::Result<usize>>, asked: usize) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(ready!(written).unwrap_or_else(|error| {
            self.is_deaf = true;
            // A broken pipe is one whose reader had ended its own direction before it was gone: all of that will still be
            // read.
            self.is_reset |= error.kind() != io::ErrorKind::BrokenPipe;
            asked
        })))
    }
}

impl AsyncRead for Program {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.socket).poll_read(cx, buf));
        self.is_reset |= read.is_err();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Program {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.handle_written(written, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let asked = bufs.iter().map(|buf| buf.len()).sum();
        if self.is_deaf {
            return Poll::Ready(Ok(asked));
        }
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.handle_written(written, asked)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A program speaks no TLS with us: the kernel has what was written.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (Program, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Program::new(Socket::tcp(near)), listener.accept().await.unwrap().0)
    }

    async fn heard(program: &mut Program) -> String {
        let mut heard = String::new();
        program.read_to_string(&mut heard).await.unwrap();
        heard
    }

    #[tokio::test]
    async fn a_program_that_ends_its_connection_has_ended_it() {
        let (mut program, mut its) = pair().await;
        its.write_all(b"bye").await.unwrap();
        drop(its);
        assert_eq!((heard(&mut program).await.as_str(), program.is_reset()), ("bye", false));
    }

    #[tokio::test]
    async fn a_reset_is_no_end() {
        let (mut program, mut its) = pair().await;
        its.write_all(b"by").await.unwrap();
        Socket::tcp(its).abort();
        heard(&mut program).await;
        assert!(program.is_reset());
    }

    #[tokio::test]
    async fn a_reset_that_a_write_finds_is_no_end_either() {
        let (mut program, its) = pair().await;
        Socket::tcp(its).abort();
        while !program.is_deaf() {
            program.write_all(b"anybody?").await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!((heard(&mut program).await.as_str(), program.is_reset()), ("", true));
    }

    #[tokio::test]
    async fn a_program_that_answers_and_goes_is_heard_whatever_is_still_said_to_it() {
        let (mut program, mut its) = pair().await;
        its.write_all(b"413").await.unwrap();
        drop(its);
        for _ in 0..100 {
            program.write_all(&[b'x'; 10_000]).await.unwrap();
        }
        assert_eq!((heard(&mut program).await.as_str(), program.is_reset()), ("413", false));
    }
}
