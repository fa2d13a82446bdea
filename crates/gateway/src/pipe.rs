//! A connection to a server inside an instance, as a stream that does not know how it gets there.
//!
//! Behind it is a session, held by a task of its own: links may be lost, nodes restart and instances move, and whoever
//! reads and writes the stream notices a pause. See docs/decisions/0005.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use landfast_core::ErrorCode;
use landfast_core::link::Close;
use landfast_core::record::Generation;
use landfast_core::route::Route;
use landfast_net::head::{Headers, RequestHead};
use landfast_net::hold::{Attempt, Dialer, Ending, Holder};
use landfast_net::link::{self, LinkError, OpenRequest, ResumeRequest};
use landfast_net::relay::Target;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::sync::Notify;

use crate::first;
use crate::gateway::Gateway;
use crate::hold::Redialer;

/// What may wait in the stream in each direction: a few reads' worth. What waits longer waits in the session's window.
const ROOM: usize = 64 * 1024;

/// A stream to a server inside an instance.
#[derive(Debug)]
pub(crate) struct Pipe {
    stream: DuplexStream,
    state: Arc<State>,
}

/// What the holder tells the stream's user beside bytes.
#[derive(Debug, Default)]
struct State {
    ended: AtomicBool,
    /// No link carries it now. What is said waits, and nobody knows whether it will get there.
    is_unlinked: AtomicBool,
    /// Nobody uses it now.
    is_idle: AtomicBool,
    /// The generation that its last link led to.
    generation: AtomicU64,
    /// Tells the holder that nobody will use it again.
    spent: Notify,
    /// It did not end because the server ended it: what was read may lack its end.
    is_broken: AtomicBool,
}

impl Pipe {
    /// Opens a session to a place in an instance.
    ///
    /// # Errors
    ///
    /// Why there is none; nothing was started.
    pub(crate) async fn open(gateway: &Arc<Gateway>, route: &Route, target: Target) -> Result<Self, ErrorCode> {
        let entry = gateway.routes.hold(route.instance).await?;
        let socket = gateway.dial(route, Target::Agent).await?;
        let head =
            RequestHead { method: "CONNECT".into(), target: format!("/services/{target}"), headers: Headers::new() };
        let opened = link::open(socket, first::PATH, &OpenRequest::new(head), &[]).await;
        let (socket, answer) = opened.map_err(|error| match error {
            LinkError::Refused(refusal) => refusal.code(),
            LinkError::Connection(_) => ErrorCode::NodeUnreachable,
        })?;
        let holder = Holder::new(socket, &answer, route.generation);
        let (stream, far) = duplex(ROOM);
        let state = Arc::new(State { generation: AtomicU64::new(route.generation.0), ..State::default() });
        let news = entry.news();
        let redialer = Observed { redialer: Redialer::new(Arc::clone(gateway), entry), state: Arc::clone(&state) };
        let held = Held { holder, far, redialer, state: Arc::clone(&state) };
        tokio::spawn(held.run(news));
        Ok(Self { stream, state })
    }

    /// Says whether somebody uses it. One that nobody uses, and that a move has led to another generation, ends: who asks
    /// for that generation opens its own, and agents hold only so many.
    pub(crate) fn set_idle(&self, is_idle: bool) {
        self.state.is_idle.store(is_idle, Ordering::Release);
    }

    /// The generation that it leads to.
    pub(crate) fn generation(&self) -> Generation {
        Generation(self.state.generation.load(Ordering::Acquire))
    }

    /// Whether it can carry another request. One that has lost its link may find none any more, and a request that is
    /// given to it cannot be given to somebody else.
    pub(crate) fn is_open(&self) -> bool {
        !self.state.ended.load(Ordering::Acquire) && !self.state.is_unlinked.load(Ordering::Acquire)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // The holder would see the stream's end only behind what it has no room to read.
        self.state.spent.notify_one();
    }
}

/// The other side of a pipe.
struct Held {
    holder: Holder,
    far: DuplexStream,
    redialer: Observed,
    state: Arc<State>,
}

/// Dials further links, and tells when there is none.
struct Observed {
    redialer: Redialer,
    state: Arc<State>,
}

impl Dialer for Observed {
    fn resume(&mut self, request: ResumeRequest) -> Attempt {
        self.redialer.resume(request)
    }

    fn on_redial(&mut self, attempt: usize, last: Option<ErrorCode>) {
        self.state.is_unlinked.store(true, Ordering::Release);
        self.redialer.on_redial(attempt, last);
    }

    fn on_linked(&mut self, generation: Generation) {
        self.state.is_unlinked.store(false, Ordering::Release);
        let before = self.state.generation.swap(generation.0, Ordering::AcqRel);
        if before != generation.0 && self.state.is_idle.load(Ordering::Acquire) {
            self.state.spent.notify_one();
        }
        self.redialer.on_linked(generation);
    }
}

impl Held {
    async fn run(mut self, mut news: tokio::sync::watch::Receiver<landfast_core::redial::Presence>) {
        let ending = tokio::select! {
            ending = self.holder.run(&mut self.far, &mut self.redialer, &mut news) => ending,
            () = self.state.spent.notified() => Ending::Local(None),
        };
        let (close, is_broken) = match ending {
            Ending::Far(close) => {
                let is_broken = close.code != ErrorCode::UpstreamEnded;
                (close, is_broken)
            }
            Ending::Refused(code) => (Close::new(code, ""), true),
            Ending::Local(_) => (Close::new(ErrorCode::ClientLost, ""), true),
        };
        tracing::trace!(code = close.code.as_str(), "pipe ended");
        self.state.is_broken.store(is_broken, Ordering::Release);
        self.state.ended.store(true, Ordering::Release);
        drop(self.far);
        self.holder.leave(close).await;
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let is_end = matches!(read, Poll::Ready(Ok(()))) && buf.filled().len() == before;
        if is_end && self.state.is_broken.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        read
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
