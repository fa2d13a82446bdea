//! A session's far end at a service: the bytes of a connection to it, and the truth about how that connection ended.
//!
//! A program that was reset, or died, must never look as if it had said all it wanted: an answer whose length is told by
//! its end would be cut in silence. Nor may one that ended a connection look as if it had been lost.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use landfast_core::ErrorCode;
use landfast_core::link::Close;
use landfast_net::far::Far;
use landfast_net::program::Program;
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
    program: Program,
    /// The start of the service that was connected to, if the agent keeps it; taken to be asked when the connection ends.
    origin: Option<Origin>,
    /// Where bytes count as activity, unless somebody else decides which do.
    activity: Option<Arc<Activity>>,
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
        Self { program: Program::new(socket), origin, activity: None, judging: None, ending: None }
    }

    /// Has every byte count as activity.
    pub(super) fn counted(self, activity: &Arc<Activity>) -> Self {
        Self { activity: Some(activity.clone()), ..self }
    }

    /// Whether what is said to the program is dropped.
    pub(crate) const fn is_deaf(&self) -> bool {
        self.program.is_deaf()
    }

    fn moved(&self) {
        if let Some(activity) = &self.activity {
            activity.touch();
        }
    }

    /// What nobody hears moves nothing.
    fn handle_said(&self) {
        if !self.is_deaf() {
            self.moved();
        }
    }

    /// Ends the connection so that the program sees that it was cut.
    pub(crate) fn abort(self) {
        self.program.abort();
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
        self.ending.clone().unwrap_or_else(|| end_of(self.program.is_reset()))
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.judging.is_none() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.program).poll_read(cx, buf))?;
            if buf.filled().len() > before {
                self.moved();
                return Poll::Ready(Ok(()));
            }
            let is_reset = self.program.is_reset();
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
        let written = ready!(Pin::new(&mut self.program).poll_write(cx, buf));
        self.handle_said();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.program).poll_write_vectored(cx, bufs));
        self.handle_said();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.program).poll_shutdown(cx)
    }
}
