//! One HTTP/1.1 call over a socket that somebody else connected.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::socket::Socket;

/// The most bytes of an answer's body: these calls carry records and small outputs, not streams.
const BODY_MAX: usize = 32 * 1024 * 1024;

/// Why a call brought no answer.
#[derive(Debug)]
pub enum CallError {
    /// It took longer than the deadline. It may have run.
    Timeout,
    /// The connection broke, or did not speak HTTP. It may have run.
    Connection(hyper::Error),
    /// The answer's body broke off or was too large. It ran.
    Body(Box<dyn std::error::Error + Send + Sync>),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("no answer in time"),
            Self::Connection(error) => write!(f, "the connection broke: {error}"),
            Self::Body(error) => write!(f, "the answer broke off: {error}"),
        }
    }
}

impl std::error::Error for CallError {}

/// Sends a request and waits for the whole answer. The socket is used up.
///
/// Not cancel safe: a dropped call may have run.
///
/// # Errors
///
/// [`CallError`].
pub async fn call(
    socket: Socket,
    request: http::Request<Full<Bytes>>,
    deadline: Duration,
) -> Result<http::Response<Bytes>, CallError> {
    timeout(deadline, exchange(socket, request)).await.unwrap_or(Err(CallError::Timeout))
}

async fn exchange(socket: Socket, request: http::Request<Full<Bytes>>) -> Result<http::Response<Bytes>, CallError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(CallError::Connection)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(CallError::Connection)?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, BODY_MAX).collect().await.map_err(CallError::Body)?;
        Ok(http::Response::from_parts(parts, body.to_bytes()))
    };
    // The connection moves the bytes; when it ends first, the exchange says how.
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        _ = &mut connection => exchange.await,
    }
}
