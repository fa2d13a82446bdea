//! WebSockets to servers that are reached without an agent: both ends hold one connection each, and the gateway stands
//! between them.
//!
//! Nobody on the other side can resume, so the end of the server's connection is the end. What is left to do well is to
//! tell it as what it was: one that the server made is passed on, and a loss is told in a close frame where one may stand.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::future::BoxFuture;
use landfast_core::link::Close;
use landfast_core::reason::Cause;
use landfast_core::record::Generation;
use landfast_core::redial::Presence;
use landfast_core::{ErrorCode, InstanceId};
use landfast_net::copy::{Copied, Ended, copy_both};
use landfast_net::program::Program;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use crate::access::Record;
use crate::auth::Access;
use crate::gateway::Gateway;
use crate::routes::Entry;
use crate::tap::Tap;
use crate::upstream::Upstream;

/// A WebSocket whose client is about to get its 101, or has it.
#[derive(Debug)]
pub(crate) struct Direct {
    gateway: Arc<Gateway>,
    access: Arc<Access>,
    upstream: Whole,
    /// Held so that it hears all news.
    _entry: Arc<Entry>,
    news: watch::Receiver<Presence>,
    generation: Generation,
}

impl Direct {
    /// Takes over a connection on which a server has just said 101.
    ///
    /// # Errors
    ///
    /// `registry.unavailable`, or `internal` for a connection that is none.
    pub(crate) async fn new(
        gateway: &Arc<Gateway>,
        access: Arc<Access>,
        upstream: Upstream,
        instance: InstanceId,
        generation: Generation,
    ) -> Result<Self, ErrorCode> {
        let entry = gateway.routes.hold(instance).await?;
        let upstream = Whole(Program::new(upstream.into_socket().ok_or(ErrorCode::Internal)?));
        let news = entry.news();
        Ok(Self { gateway: Arc::clone(gateway), access, upstream, _entry: entry, news, generation })
    }

    /// Copies until either side ends, and tells the client why.
    pub(crate) async fn run<S>(mut self: Box<Self>, client: S, mut record: Box<Record>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut tap = Box::new(Tap::new(client, self.gateway.config.slow_client_timeout()));
        let cause = self.wait(&mut tap).await;
        (record.up, record.down) = tap.bytes();
        record.generation = Some(self.generation);
        let close = cause.close();
        record.cause = Some(close.code);
        drop(self);
        // Boxed, so that a session does not go on for hours with the room for its end.
        let goodbye: BoxFuture<'_, _> = match cause {
            // A client that closes has no need of a word, and one that is lost hears none.
            Cause::ClientClosed | Cause::ClientLost | Cause::FarEnd(_) => Box::pin(tap.pass_end()),
            Cause::Instance(..)
            | Cause::TokenRevoked
            | Cause::TokenExpired
            | Cause::SlowClient
            | Cause::GatewayDraining
            | Cause::Redial(_) => Box::pin(tap.end(close.code, &close.reason)),
        };
        let goodbye = goodbye.await;
        tracing::debug!(code = close.code.as_str(), ?goodbye, "session ended");
    }

    async fn wait<S: AsyncRead + AsyncWrite + Unpin>(&mut self, tap: &mut Tap<S>) -> Cause {
        let expiry_counts = self.gateway.config.end_sessions_at_expiry;
        tokio::select! {
            biased;
            cause = self.access.ended(expiry_counts) => cause,
            () = self.gateway.drain.over.cancelled() => Cause::GatewayDraining,
            cause = ended(&mut self.news) => cause,
            Copied { ended_by, .. } = copy_both(tap, &mut self.upstream) => match ended_by {
                Ended::Clean | Ended::First(_) => tap.cause(),
                Ended::Second(_) if tap.has_ended() => tap.cause(),
                Ended::Second(_) if self.upstream.0.is_reset() && !tap.far_closed() => {
                    Cause::Redial(ErrorCode::UpstreamLost)
                }
                Ended::Second(_) => Cause::FarEnd(Close::new(ErrorCode::UpstreamEnded, "")),
            },
        }
    }
}

/// Waits until the instance has ended. That it lives on elsewhere is no reason to cut what still works.
async fn ended(news: &mut watch::Receiver<Presence>) -> Cause {
    let seen = news.wait_for(|presence| matches!(presence, Presence::Ended(_))).await.map(|presence| *presence);
    match seen {
        Ok(Presence::Ended(code)) => Cause::Redial(code),
        // The entry that is held keeps the sender.
        Ok(_) | Err(_) => std::future::pending().await,
    }
}

/// A server's connection, whose end is the end of both directions: a WebSocket knows no half-close.
#[derive(Debug)]
struct Whole(Program);

impl AsyncRead for Whole {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(cx, buf))?;
        let has_ended = buf.filled().len() == before;
        Poll::Ready(if has_ended { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) })
    }
}

impl AsyncWrite for Whole {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
