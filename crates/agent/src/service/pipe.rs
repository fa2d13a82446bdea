//! A session's far end at a service: the bytes of a connection to it, and the truth about how that connection ended.
//!
//! A program that was reset, or died, must never look as if it had said all it wanted: an answer whose length is told by
//! its end would be cut in silence.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use landfast_core::ErrorCode;
use landfast_core::link::Close;
use landfast_net::far::Far;
use landfast_net::socket::Socket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection to a service.
#[derive(Debug)]
pub(crate) struct Pipe {
    socket: Socket,
    /// The program takes nothing any more. What it said before is still read, and what is said to it is dropped: a
    /// program that has answered and gone need not have heard everything.
    is_deaf: bool,
    /// How its own direction ended.
    ending: Option<Close>,
}

impl Pipe {
    pub(crate) const fn new(socket: Socket) -> Self {
        Self { socket, is_deaf: false, ending: None }
    }

    /// Notes that the program was lost; the first word counts.
    pub(super) fn lose(&mut self, why: &str) {
        self.ending.get_or_insert_with(|| Close::new(ErrorCode::UpstreamLost, why));
    }

    fn heard(&mut self, written: Poll<io::Result<usize>>, asked: usize) -> Poll<io::Result<usize>> {
        let error = match ready!(written) {
            Ok(written) => return Poll::Ready(Ok(written)),
            Err(error) => error,
        };
        self.is_deaf = true;
        match error.kind() {
            // It had ended its own direction before it was gone, so that all of it will still be read.
            io::ErrorKind::BrokenPipe => {}
            _ => self.lose("the program reset the connection"),
        }
        Poll::Ready(Ok(asked))
    }
}

impl Far for Pipe {
    fn ending(&self) -> Close {
        self.ending.clone().unwrap_or_else(|| Close::new(ErrorCode::UpstreamEnded, ""))
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.socket).poll_read(cx, buf));
        if read.is_err() {
            self.lose("the program reset the connection");
        }
        // The end is an end to whoever reads; which one, it asks.
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.heard(written, buf.len())
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
        self.heard(written, asked)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
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

    async fn pair() -> (Pipe, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Pipe::new(Socket::tcp(near)), listener.accept().await.unwrap().0)
    }

    async fn heard(pipe: &mut Pipe) -> String {
        let mut heard = String::new();
        pipe.read_to_string(&mut heard).await.unwrap();
        heard
    }

    #[tokio::test]
    async fn a_program_that_ends_its_connection_has_ended_it() {
        let (mut pipe, mut program) = pair().await;
        program.write_all(b"bye").await.unwrap();
        drop(program);
        assert_eq!((heard(&mut pipe).await.as_str(), pipe.ending().code), ("bye", ErrorCode::UpstreamEnded));
    }

    #[tokio::test]
    async fn a_reset_is_no_end() {
        let (mut pipe, mut program) = pair().await;
        program.write_all(b"by").await.unwrap();
        Socket::tcp(program).abort();
        heard(&mut pipe).await;
        assert_eq!(pipe.ending().code, ErrorCode::UpstreamLost);
    }

    #[tokio::test]
    async fn a_reset_that_a_write_finds_is_no_end_either() {
        let (mut pipe, program) = pair().await;
        Socket::tcp(program).abort();
        while !pipe.is_deaf {
            pipe.write_all(b"anybody?").await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!((heard(&mut pipe).await.as_str(), pipe.ending().code), ("", ErrorCode::UpstreamLost));
    }

    #[tokio::test]
    async fn a_program_that_answers_and_goes_is_heard_whatever_is_still_said_to_it() {
        let (mut pipe, mut program) = pair().await;
        program.write_all(b"413").await.unwrap();
        drop(program);
        for _ in 0..100 {
            pipe.write_all(&[b'x'; 10_000]).await.unwrap();
        }
        assert_eq!((heard(&mut pipe).await.as_str(), pipe.ending().code), ("413", ErrorCode::UpstreamEnded));
    }
}
