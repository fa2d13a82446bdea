//! A session's far end at a service's WebSocket: its bytes, without the answers to pings that were not its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use landfast_core::link::Close;
use landfast_net::far::Far;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pipe::Pipe;
use super::sieve::{Next, Sieve};

/// A WebSocket to a service, after its 101.
pub(crate) struct WebSocket {
    pipe: Pipe,
    from_client: Sieve,
}

impl WebSocket {
    pub(crate) fn new(pipe: Pipe) -> Self {
        Self { pipe, from_client: Sieve::default() }
    }
}

impl Far for WebSocket {
    fn ending(&self) -> Close {
        self.pipe.ending()
    }
}

impl AsyncRead for WebSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, buf)
    }
}

impl AsyncWrite for WebSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let Self { pipe, from_client } = &mut *self;
        loop {
            match from_client.next(buf) {
                Next::Pass(most) => {
                    let written = ready!(Pin::new(&mut *pipe).poll_write(cx, &buf[..most]))?;
                    from_client.passed(&buf[..written]);
                    return Poll::Ready(Ok(written));
                }
                Next::Took(taken) => return Poll::Ready(Ok(taken)),
                Next::Release => {
                    let written = ready!(Pin::new(&mut *pipe).poll_write(cx, from_client.kept()))?;
                    from_client.released(written);
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}
