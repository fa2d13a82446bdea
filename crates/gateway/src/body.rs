//! Bodies on their way through: what a client is answered, and what it sent.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use landfast_core::ErrorCode;

use crate::access::Record;
use crate::upstream::Answer;

/// The body of an answer: bytes of ours or a stream from upstream. It takes the request's record along, so that the
/// access log has the line when the last byte is out.
#[derive(Debug)]
pub(crate) struct Body {
    source: Source,
    record: Option<Box<Record>>,
}

#[derive(Debug)]
enum Source {
    Whole(Bytes),
    Upstream(Box<Answer>),
}

impl Body {
    /// No body.
    pub(crate) fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    /// A body of ours.
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self { source: Source::Whole(bytes.into()), record: None }
    }

    /// The body of an answer from upstream.
    pub(crate) fn upstream(answer: Answer) -> Self {
        Self { source: Source::Upstream(Box::new(answer)), record: None }
    }

    /// Gives the body its request's record.
    pub(crate) fn carry(&mut self, record: Box<Record>) {
        self.record = Some(record);
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = match &mut self.source {
            Source::Whole(bytes) if bytes.is_empty() => None,
            Source::Whole(bytes) => Some(Ok(Frame::data(std::mem::take(bytes)))),
            Source::Upstream(answer) => ready!(Pin::new(answer.as_mut()).poll_frame(cx)),
        };
        if let Some(record) = &mut self.record {
            match &frame {
                Some(Ok(frame)) => record.down += frame.data_ref().map_or(0, Bytes::len) as u64,
                Some(Err(_)) => record.cause = Some(ErrorCode::UpstreamLost),
                None => {}
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Upstream(answer) => answer.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Upstream(answer) => answer.size_hint(),
        }
    }
}

/// The body of a request on its way upstream: nothing, or what the client sends, counted.
#[derive(Debug)]
pub(crate) struct Upload {
    client: Option<Incoming>,
    sent: Arc<AtomicU64>,
}

impl Upload {
    /// Passes a client's body on and counts it in `sent`.
    pub(crate) fn new(client: Incoming, sent: Arc<AtomicU64>) -> Self {
        Self { client: Some(client).filter(|body| !body.is_end_stream()), sent }
    }

    /// No body.
    pub(crate) fn empty() -> Self {
        Self { client: None, sent: Arc::default() }
    }

    /// Whether the request has no body, and may therefore be made again at will.
    pub(crate) const fn is_empty(&self) -> bool {
        self.client.is_none()
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(client) = &mut self.client else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(client).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let len = frame.data_ref().map_or(0, Bytes::len) as u64;
            self.sent.fetch_add(len, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.client.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.client.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}
