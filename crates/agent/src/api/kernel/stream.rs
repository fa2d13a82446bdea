//! Server-sent events as Kernel's clients read them: each frame has data, and silence is broken by comments.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::time::timeout;

use super::super::answer::Body;

/// How long a stream is silent at most: such a client takes a minute of silence for the end.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// What is told piece by piece.
pub(super) trait Told: Send + 'static {
    /// The next frames; `None` at the end.
    ///
    /// Cancel safe.
    fn next(&mut self) -> impl Future<Output = Option<String>> + Send;
}

/// The answer that tells it.
pub(super) fn answer(told: impl Told) -> Response<Body> {
    let pieces = stream::unfold(told, async |mut told| {
        let piece = match timeout(KEEPALIVE, told.next()).await {
            Ok(frames) => Bytes::from(frames?),
            Err(_) => Bytes::from_static(b":\n\n"),
        };
        Some((Ok(Frame::data(piece)), told))
    });
    let builder = Response::builder().header(header::CACHE_CONTROL, "no-store");
    let response = builder.header(header::CONTENT_TYPE, "text/event-stream");
    response.body(StreamBody::new(pieces).boxed_unsync()).expect("the headers are well formed")
}
