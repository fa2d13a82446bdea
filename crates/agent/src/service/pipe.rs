//! A session's far end at a service: the bytes of a connection to it, and the truth about how that connection ended.
//!
//! A program that was reset, or died, must never look as if it had said all it wanted: an answer whose length is told by
//! its end would be cut in silence.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use landfast_core::ErrorCode;
use landfast_core::link::Close;
use landfast_net::far::Far;
use landfast_net::socket::Socket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::timeout;

use super::keeper::Status;
use crate::activity::Activity;
use crate::kill::{Ending, is_ending};

/// How long it takes at most until a service that is known to be ending has ended.
const DEATH_DEADLINE: Duration = Duration::from_millis(1_500);

/// How long a shell may take to end after the program that it was only a shell around.
const SHELL_DEADLINE: Duration = Duration::from_millis(100);

/// A connection to a service.
pub(crate) struct Pipe {
    socket: Socket,
    /// The start of the service that was connected to, if the agent keeps it; taken to be asked when the connection ends.
    origin: Option<Origin>,
    /// Where bytes count as activity, unless somebody else decides which do.
    activity: Option<Arc<Activity>>,
    /// The program takes nothing any more. What it said before is still read, and what is said to it is dropped: a
    /// program that has answered and gone need not have heard everything.
    is_deaf: bool,
    /// The program reset the connection.
    is_reset: bool,
    /// Finds out what the end of the connection was.
    judging: Option<Pin<Box<dyn Future<Output = Close> + Send>>>,
    ending: Option<Close>,
}

/// One start of a service.
#[derive(Debug)]
pub(crate) struct Origin {
    status: watch::Receiver<Status>,
    start: u64,
    pid: i32,
}

impl Pipe {
    pub(crate) const fn new(socket: Socket, origin: Option<Origin>) -> Self {
        Self { socket, origin, activity: None, is_deaf: false, is_reset: false, judging: None, ending: None }
    }

    /// Has every byte count as activity.
    pub(super) fn counted(self, activity: &Arc<Activity>) -> Self {
        Self { activity: Some(activity.clone()), ..self }
    }

    /// Whether what is said to the program is dropped.
    pub(crate) const fn is_deaf(&self) -> bool {
        self.is_deaf
    }

    fn moved(&self) {
        if let Some(activity) = &self.activity {
            activity.touch();
        }
    }

    /// Ends the connection so that the program sees that it was cut.
    pub(crate) fn abort(self) {
        self.socket.abort();
    }

    fn heard(&mut self, written: Poll<io::Result<usize>>, asked: usize) -> Poll<io::Result<usize>> {
        let error = match ready!(written) {
            Ok(written) => {
                self.moved();
                return Poll::Ready(Ok(written));
            }
            Err(error) => error,
        };
        self.is_deaf = true;
        // A broken pipe is one whose reader had ended its own direction before it was gone: all of that will still be read.
        self.is_reset |= error.kind() != io::ErrorKind::BrokenPipe;
        Poll::Ready(Ok(asked))
    }
}

impl Origin {
    /// The service's present start.
    pub(super) fn new(status: &watch::Receiver<Status>) -> Self {
        let present = status.borrow();
        Self { status: status.clone(), start: present.start, pid: present.process.pid }
    }

    /// Finds out whether a connection has ended because the service did.
    async fn judge(mut self, is_reset: bool) -> Close {
        let has_ended = |status: &Status| status.start > self.start || !status.is_living;
        let is_known = has_ended(&self.status.borrow());
        let seen = if is_known { Ending::No } else { is_ending(self.pid) };
        let patience = match seen {
            Ending::No => Duration::ZERO,
            Ending::Child => SHELL_DEADLINE,
            Ending::Itself => DEATH_DEADLINE,
        };
        // No news in time is news too: then it was not the service's end.
        let _ = timeout(patience, self.status.wait_for(has_ended)).await;
        let status = self.status.borrow();
        if status.start > self.start {
            Close::new(ErrorCode::UpstreamChanged, "")
        } else if !status.is_living || seen == Ending::Itself {
            Close::new(ErrorCode::UpstreamLost, "the service has ended")
        } else {
            end_of(is_reset)
        }
    }
}

fn end_of(is_reset: bool) -> Close {
    if is_reset {
        Close::new(ErrorCode::UpstreamLost, "the program reset the connection")
    } else {
        Close::new(ErrorCode::UpstreamEnded, "")
    }
}

impl Far for Pipe {
    fn ending(&self) -> Close {
        self.ending.clone().unwrap_or_else(|| end_of(self.is_reset))
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.judging.is_none() {
            let before = buf.filled().len();
            let read = ready!(Pin::new(&mut self.socket).poll_read(cx, buf));
            self.is_reset |= read.is_err();
            if buf.filled().len() > before {
                self.moved();
                return Poll::Ready(Ok(()));
            }
            let is_reset = self.is_reset;
            let Some(origin) = self.origin.take() else { return Poll::Ready(Ok(())) };
            self.judging = Some(Box::pin(origin.judge(is_reset)));
        }
        if let Some(judging) = &mut self.judging {
            self.ending = Some(ready!(judging.as_mut().poll(cx)));
            self.judging = None;
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
        (Pipe::new(Socket::tcp(near), None), listener.accept().await.unwrap().0)
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
