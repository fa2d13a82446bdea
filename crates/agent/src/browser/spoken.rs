//! A WebSocket that a task of the agent speaks: its bytes on one side, messages on the other.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use landfast_core::ErrorCode;
use landfast_core::link::Close;
use landfast_net::far::Far;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

/// Bytes that wait between the two sides. What waits longer waits in the session's window.
const ROOM: usize = 64 * 1024;

/// The most bytes of a message from whoever is spoken with: they only say that they go on.
const HEARD_MAX: usize = 4 * 1024;

/// How long the other side may take to answer our close frame.
const FAREWELL: Duration = Duration::from_secs(5);

/// The side of bytes: the far end of a session, or what a connection carries.
#[derive(Debug)]
pub(crate) struct Spoken {
    bytes: DuplexStream,
    farewell: Farewell,
}

/// The side of messages.
#[derive(Debug)]
pub(crate) struct Speaker {
    pub(crate) socket: WebSocketStream<DuplexStream>,
    pub(crate) farewell: Farewell,
}

/// What both sides know of the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Farewell {
    close: Arc<OnceLock<Close>>,
    over: CancellationToken,
}

/// Both sides of a WebSocket whose handshake is done.
pub(crate) async fn spoken() -> (Spoken, Speaker) {
    let (bytes, far) = duplex(ROOM);
    let farewell = Farewell::default();
    let config = WebSocketConfig::default()
        .max_message_size(Some(HEARD_MAX))
        .max_frame_size(Some(HEARD_MAX))
        .write_buffer_size(0);
    let socket = WebSocketStream::from_raw_socket(far, Role::Server, Some(config)).await;
    (Spoken { bytes, farewell: farewell.clone() }, Speaker { socket, farewell })
}

impl Speaker {
    /// Ends it with a close frame, and waits a while for the answer.
    pub(crate) async fn end(mut self, close: Close) {
        let frame = CloseFrame { code: close.code.close_or_1011().into(), reason: close.code.as_str().into() };
        // It ends once.
        let _ = self.farewell.close.set(close);
        let goodbye = async {
            self.socket.close(Some(frame)).await?;
            while self.socket.next().await.transpose()?.is_some() {}
            Ok::<_, tokio_tungstenite::tungstenite::Error>(())
        };
        // One that does not answer, or has gone, hears nothing more from here.
        let _ = timeout(FAREWELL, goodbye).await;
        self.farewell.over.cancel();
    }
}

impl Spoken {
    /// Cancelled once everything was said.
    pub(crate) fn over(&self) -> CancellationToken {
        self.farewell.over.clone()
    }
}

impl Far for Spoken {
    fn ending(&self) -> Close {
        self.farewell.close.get().cloned().unwrap_or_else(|| Close::new(ErrorCode::UpstreamEnded, ""))
    }
}

impl AsyncRead for Spoken {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_read(cx, buf)
    }
}

impl AsyncWrite for Spoken {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.bytes.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(cx)
    }
}
