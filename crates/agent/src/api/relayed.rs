//! Connections that came with a CONNECT, once they are the agent's: it says yes or no, and is their fence from then on.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use landfast_core::ErrorCode;
use landfast_core::time::Instant;
use landfast_net::clock;
use landfast_net::copy::{Ended, copy_both};
use landfast_net::far::Far as _;
use landfast_net::relay::{self, Target};
use landfast_net::socket::Socket;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;

use super::{Door, serve_connection};
use crate::Agent;
use crate::fence::Era;
use crate::service::{self, Pipe};

/// The most bytes that an asker who does not wait for the answer may send before it: then it is only listened to again
/// once it has one.
const EARLY_MAX: usize = 16 * 1024;

/// Takes a connection that the fence has admitted, and serves it to its end in a task of its own. `room` is for those who
/// came in before.
pub(super) async fn take(
    agent: &Arc<Agent>,
    mut socket: Socket,
    target: Target,
    era: Era,
    room: &Arc<Semaphore>,
) -> io::Result<()> {
    let Ok(permit) = room.clone().try_acquire_owned() else {
        return relay::refuse(&mut socket, ErrorCode::LimitInFlight, None).await;
    };
    let owner = agent.clone();
    agent.until(era.cut.clone(), async move {
        let socket = socket.on_leash(&era.leash);
        let led = match target {
            Target::Agent => welcome(owner, socket, era).await,
            Target::Port(_) | Target::Service(_) => lead(&owner, socket, target).await,
        };
        if let Err(error) = led {
            tracing::debug!(%error, "a connection that was taken over broke");
        }
        drop(permit);
    });
    Ok(())
}

/// Says the relay's `200`, and serves the connection as if it had come in by `agent.sock`.
async fn welcome(agent: Arc<Agent>, mut socket: Socket, era: Era) -> io::Result<()> {
    relay::accept(&mut socket).await?;
    serve_connection(agent, socket, Door::Agent, era.cut).await;
    Ok(())
}

/// Connects to a service and copies until either side ends. An end that is not clean is passed on as one.
async fn lead(agent: &Arc<Agent>, mut socket: Socket, target: Target) -> io::Result<()> {
    let mut early = Vec::new();
    let dialled = tokio::select! {
        biased;
        dialled = service::dial(agent, target, service::HOLD) => dialled,
        () = left(&mut socket, &mut early) => return Ok(()),
    };
    let mut socket = socket.with_ahead(early);
    let pipe = match dialled {
        Ok(pipe) => pipe,
        Err(problem) => return relay::refuse(&mut socket, problem.code, None).await,
    };
    relay::accept(&mut socket).await?;
    carry(socket, Bridge::new(pipe), agent.config.limits.half_closed).await;
    Ok(())
}

/// Waits until an asker has left. What it says meanwhile is kept; one that says much is not watched any more.
async fn left(socket: &mut Socket, early: &mut Vec<u8>) {
    while early.len() < EARLY_MAX {
        if matches!(socket.read_buf(early).await, Ok(0) | Err(_)) {
            return;
        }
    }
    std::future::pending::<()>().await;
}

async fn carry(mut socket: Socket, mut bridge: Bridge, patience: Duration) {
    let silence = half_closed_silence(bridge.seen.clone(), patience);
    let ended = tokio::select! {
        copied = copy_both(&mut socket, &mut bridge) => copied.ended_by,
        () = silence => Ended::Second(io::ErrorKind::TimedOut),
    };
    match ended {
        Ended::Clean => {}
        Ended::First(_) | Ended::Second(_) => {
            socket.abort();
            bridge.pipe.abort();
        }
    }
}

/// Waits until nothing has moved for so long on a connection of which one direction has ended. One that waits for nobody
/// any more would otherwise be held for ever; with both directions open it is for the two sides to say.
async fn half_closed_silence(seen: Arc<Seen>, patience: Duration) {
    let mut look = clock::now() + patience;
    loop {
        clock::sleep_until(Some(look)).await;
        let silent_at = Instant::from_nanos(seen.moved_at.load(Ordering::Relaxed)) + patience;
        look = match seen.is_half_closed.load(Ordering::Relaxed) {
            true if clock::now() >= silent_at => return,
            true => silent_at,
            false => clock::now() + patience,
        };
    }
}

/// A service's connection for a copy: an end that is none is a failure, and what moves is seen.
struct Bridge {
    pipe: Pipe,
    /// The service has said all. If it takes nothing either, there is nobody to copy for.
    has_ended: bool,
    seen: Arc<Seen>,
}

/// What is seen of a connection.
#[derive(Debug)]
struct Seen {
    /// Nanoseconds of the monotonic clock.
    moved_at: AtomicU64,
    is_half_closed: AtomicBool,
}

impl Bridge {
    fn new(pipe: Pipe) -> Self {
        let moved_at = AtomicU64::new(clock::now().as_nanos());
        Self { pipe, has_ended: false, seen: Arc::new(Seen { moved_at, is_half_closed: AtomicBool::new(false) }) }
    }
}

impl Seen {
    fn moved(&self) {
        self.moved_at.store(clock::now().as_nanos(), Ordering::Relaxed);
    }
}

impl AsyncRead for Bridge {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.pipe).poll_read(cx, buf))?;
        self.seen.moved();
        if buf.filled().len() == before {
            self.has_ended = true;
            self.seen.is_half_closed.store(true, Ordering::Relaxed);
            if self.pipe.ending().code != ErrorCode::UpstreamEnded {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bridge {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.has_ended && self.pipe.is_deaf() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = ready!(Pin::new(&mut self.pipe).poll_write(cx, buf));
        self.seen.moved();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.has_ended && self.pipe.is_deaf() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = ready!(Pin::new(&mut self.pipe).poll_write_vectored(cx, bufs));
        self.seen.moved();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.seen.is_half_closed.store(true, Ordering::Relaxed);
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}
