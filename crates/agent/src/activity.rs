//! Whether anybody does anything with the instance: what its node asks before it puts it to sleep.
//!
//! Bytes to and from services, what is said to processes and what their viewers read, and requests are activity. Signs of
//! life are not: a gateway asks its clients every few seconds whether they are there, and a browser that was left open over
//! night answers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use landfast_core::link::Close;
use landfast_core::time::Instant;
use landfast_core::ws::Follower;
use landfast_net::clock;
use landfast_net::far::Far;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// When something was last done.
#[derive(Debug)]
pub(crate) struct Activity {
    /// Nanoseconds of the monotonic clock.
    last: AtomicU64,
    /// Requests that are being served.
    busy: AtomicUsize,
}

/// A request that is being served: as long as this lives, the instance is not idle.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Activity>);

impl Activity {
    /// It begins now.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { last: AtomicU64::new(clock::now().as_nanos()), busy: AtomicUsize::new(0) })
    }

    /// Something is being done.
    pub(crate) fn touch(&self) {
        self.last.store(clock::now().as_nanos(), Ordering::Relaxed);
    }

    /// Something is done until what this returns is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// For how long nothing was done.
    pub(crate) fn idle(&self) -> Duration {
        if self.busy.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        clock::now().since(Instant::from_nanos(self.last.load(Ordering::Relaxed)))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.touch();
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A far end that is a WebSocket, whose data is activity.
pub(crate) struct Observed<F> {
    far: F,
    up: Follower,
    down: Follower,
    activity: Arc<Activity>,
}

impl<F> Observed<F> {
    pub(crate) fn new(far: F, activity: &Arc<Activity>) -> Self {
        Self { far, up: Follower::new(), down: Follower::new(), activity: activity.clone() }
    }
}

impl<F: Far> Far for Observed<F> {
    fn ending(&self) -> Close {
        self.far.ending()
    }

    fn handle_left(&mut self, close: &Close) {
        self.far.handle_left(close);
    }
}

/// Follows bytes, and counts the data in them as activity.
fn follow(follower: &mut Follower, bytes: &[u8], activity: &Activity) {
    let before = follower.data();
    follower.advance(bytes);
    if follower.data() > before {
        activity.touch();
    }
}

impl<F: AsyncRead + Unpin> AsyncRead for Observed<F> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { far, down, activity, .. } = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(far).poll_read(cx, buf))?;
        follow(down, &buf.filled()[before..], activity);
        Poll::Ready(Ok(()))
    }
}

impl<F: AsyncWrite + Unpin> AsyncWrite for Observed<F> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { far, up, activity, .. } = &mut *self;
        let written = ready!(Pin::new(far).poll_write(cx, buf))?;
        follow(up, &buf[..written], activity);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.far).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.far).poll_shutdown(cx)
    }
}
