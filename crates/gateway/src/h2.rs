//! HTTP/2 toward clients (RFC 9113), WebSockets over it included (RFC 8441).
//!
//! Frames, flow control and the defences against floods of resets, pings and continuations are the h2 crate's. Here a
//! stream becomes the same request that HTTP/1.1 has, and the same answer becomes a stream.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};
use h2::ext::Protocol;
use h2::server::{Connection, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use landfast_core::time::Instant;
use landfast_core::{ErrorCode, Problem};
use landfast_net::alarm::Alarm;
use landfast_net::carry::Local;
use landfast_net::head::{HEAD_MAX, Headers, ResponseHead};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::access;
use crate::client::{BodySize, Client, Fault, Piece, Request, Upgrade};
use crate::dispatch::{Outcome, respond};
use crate::gateway::Worker;
use crate::headers::Origin;

/// How long a client may take to hear why its connection ends.
const GOODBYE: Duration = Duration::from_secs(2);

/// The most requests at once on one connection: what browsers and h2load use, with room.
const STREAMS_MAX: u32 = 256;

/// What a client may send of one body before it is asked for more. What the instance does not take waits here.
const STREAM_WINDOW: u32 = 256 * 1024;

/// The same for all bodies of a connection together.
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// The most of an answer that waits for a client in one stream.
const SEND_BUFFER: usize = 256 * 1024;

/// How often a silent client is asked whether it lives; unanswered until the next time, it is lost.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Headers that concern the connection, which HTTP/2 does not have (RFC 9113, section 8.2.2).
const CONNECTION_HEADERS: [&str; 5] = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// Serves a connection until it ends.
pub(crate) async fn serve<S>(worker: Arc<Worker>, socket: S, origin: Arc<Origin>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(HEAD_MAX).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .enable_connect_protocol();
    match timeout(worker.gateway.config.head_timeout(), builder.handshake::<_, Bytes>(socket)).await {
        Ok(Ok(connection)) => Served { worker, origin, streams: TaskTracker::new() }.run(connection).await,
        Ok(Err(error)) => tracing::debug!(%error, "no HTTP/2 connection"),
        Err(_) => tracing::debug!("no HTTP/2 connection in time"),
    }
}

struct Served {
    worker: Arc<Worker>,
    origin: Arc<Origin>,
    streams: TaskTracker,
}

impl Served {
    async fn run<S: AsyncRead + AsyncWrite + Unpin>(self, mut connection: Connection<S, Bytes>) {
        let idle = self.worker.gateway.config.idle_timeout();
        let drain = &self.worker.gateway.drain;
        let pings = connection.ping_pong().expect("it is taken once");
        let mut silence = std::pin::pin!(silence(pings));
        let mut is_draining = false;
        loop {
            let has_streams = !self.streams.is_empty();
            tokio::select! {
                biased;
                () = drain.over.cancelled() => return,
                () = drain.begun.cancelled(), if !is_draining => {
                    is_draining = true;
                    connection.graceful_shutdown();
                }
                accepted = connection.accept() => match accepted {
                    Some(Ok((request, respond))) => self.begin(request, respond),
                    Some(Err(error)) => {
                        tracing::debug!(%error, "HTTP/2 connection");
                        // Polled to its end, so that the client hears why.
                        let closing = std::future::poll_fn(|cx| connection.poll_closed(cx));
                        let _ = timeout(GOODBYE, closing).await;
                        return;
                    }
                    None => return,
                },
                () = sleep(idle), if !has_streams && !is_draining => {
                    is_draining = true;
                    connection.graceful_shutdown();
                }
                () = &mut silence => return tracing::debug!("an HTTP/2 client answers no ping"),
            }
        }
    }

    fn begin(&self, request: http::Request<RecvStream>, response: SendResponse<Bytes>) {
        let (worker, origin) = (Arc::clone(&self.worker), Arc::clone(&self.origin));
        self.streams.spawn(async move {
            let (stream, request) = Stream::of(request, response);
            stream.serve(&worker, &origin, request).await;
        });
    }
}

/// Asks a client again and again whether it lives; resolves when it does not answer.
async fn silence(mut pings: PingPong) {
    loop {
        sleep(PING_INTERVAL).await;
        if !matches!(timeout(PING_INTERVAL, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// One request's stream.
struct Stream {
    body: RecvStream,
    /// Of the body, read and not yet taken.
    ahead: Bytes,
    response: SendResponse<Bytes>,
    answer: Option<SendStream<Bytes>>,
    /// What is left of an answer whose length was said.
    left: Option<u64>,
    has_ended: bool,
    alarm: Alarm,
}

impl Stream {
    /// A stream and the request on it.
    fn of(request: http::Request<RecvStream>, response: SendResponse<Bytes>) -> (Self, Result<Request, Problem>) {
        let (parts, body) = request.into_parts();
        let has_body = !body.is_end_stream();
        let request = read(&parts, has_body);
        let stream = Self {
            body,
            ahead: Bytes::new(),
            response,
            answer: None,
            left: None,
            has_ended: false,
            alarm: Alarm::default(),
        };
        (stream, request)
    }

    async fn serve(mut self, worker: &Worker, origin: &Origin, request: Result<Request, Problem>) {
        let request = match request {
            Ok(request) => request,
            Err(problem) => {
                access::refused(worker, origin, self.version(), &problem);
                // Malformed, so it is no request to be answered (RFC 9113, section 8.1.1).
                return self.response.send_reset(Reason::PROTOCOL_ERROR);
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = respond(worker, origin, &mut self, request) => outcome,
            () = worker.gateway.drain.over.cancelled() => Outcome::Cut,
        };
        match outcome {
            // A client that still sends a body is told that nobody reads it.
            Outcome::Answered if !self.body.is_end_stream() => self.reset(Reason::NO_ERROR),
            Outcome::Answered => {}
            Outcome::Cut => self.reset(Reason::INTERNAL_ERROR),
            Outcome::Gone => self.reset(Reason::CANCEL),
            Outcome::Upgraded(upgraded) => match self.into_io() {
                Some(io) => upgraded.run(io).await,
                None => upgraded.abandon().await,
            },
        }
    }

    fn reset(&mut self, reason: Reason) {
        match &mut self.answer {
            Some(answer) => answer.send_reset(reason),
            None => self.response.send_reset(reason),
        }
    }

    /// The stream as bytes both ways, after the answer to an upgrade has begun.
    fn into_io(self) -> Option<Io> {
        Some(Io { from: self.body, ahead: self.ahead, to: self.answer?, has_ended: false })
    }
}

/// Reads a request out of its pseudo-headers and headers.
fn read(parts: &http::request::Parts, has_body: bool) -> Result<Request, Problem> {
    let invalid = |detail: &str| Problem::new(ErrorCode::RequestInvalid, detail);
    let upgrade = match parts.extensions.get::<Protocol>() {
        Some(protocol) if protocol.as_str() == "websocket" => Some(Upgrade::WebSocket),
        Some(_) => return Err(invalid("The only protocol over CONNECT is websocket.")),
        None => None,
    };
    // Only a CONNECT that asks for no protocol has no path (RFC 9113, section 8.3.1).
    if parts.uri.path().is_empty() && parts.method != Method::CONNECT {
        return Err(invalid("There is no :path."));
    }
    let mut headers = Headers::new();
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    let said = parts.headers.get("host").map(HeaderValue::as_bytes);
    match (authority, said) {
        (Some(authority), Some(said)) if !authority.as_bytes().eq_ignore_ascii_case(said) => {
            return Err(invalid("Host and :authority differ."));
        }
        (Some(authority), _) => headers.push("host", authority),
        (None, Some(said)) => headers.push("host", said),
        (None, None) => return Err(invalid("Neither :authority nor Host is there.")),
    }
    let mut cookies = Vec::new();
    for (name, value) in &parts.headers {
        match name.as_str() {
            "host" => {}
            // One header again, as those behind us know it (RFC 9113, section 8.2.3).
            "cookie" => cookies.push(value.as_bytes()),
            name => headers.push(name, value.as_bytes()),
        }
    }
    if !cookies.is_empty() {
        headers.push("cookie", cookies.join(&b"; "[..]));
    }
    let mut method = parts.method.as_str().to_owned();
    if upgrade.is_some() {
        "GET".clone_into(&mut method);
        headers.set("sec-websocket-key", STANDARD.encode(rand::random::<[u8; 16]>()));
    }
    let length = parts.headers.get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
    let body = match length {
        _ if upgrade.is_some() => BodySize::None,
        Some(length) => BodySize::Exactly(length),
        None if has_body => BodySize::Open,
        None => BodySize::None,
    };
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    Ok(Request { method, target, headers, body, upgrade })
}

/// Headers as HTTP/2 has them. What cannot stand there is left out: names that the server wrote with bytes that HTTP does
/// not allow.
fn to_map(headers: &Headers) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers.iter() {
        let is_dropped = CONNECTION_HEADERS.iter().any(|dropped| name.eq_ignore_ascii_case(dropped));
        if let (false, Ok(name), Ok(value)) =
            (is_dropped, HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
        {
            map.append(name, value);
        }
    }
    map
}

fn from_map(map: &HeaderMap) -> Headers {
    let mut headers = Headers::new();
    map.iter().for_each(|(name, value)| headers.push(name.as_str(), value.as_bytes()));
    headers
}

impl Client for Stream {
    fn poll_body(&mut self, cx: &mut Context<'_>, space: &mut [u8]) -> Poll<Result<Piece, Fault>> {
        loop {
            if !self.ahead.is_empty() {
                let len = self.ahead.len().min(space.len());
                self.ahead.copy_to_slice(&mut space[..len]);
                // A stream that was reset needs no room; what follows tells.
                let _ = self.body.flow_control().release_capacity(len);
                return Poll::Ready(Ok(Piece::Data(len)));
            }
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(bytes)) => self.ahead = bytes,
                Some(Err(_)) => return Poll::Ready(Err(Fault::Gone)),
                None => break,
            }
        }
        let trailers = ready!(self.body.poll_trailers(cx)).map_err(|_| Fault::Gone)?;
        Poll::Ready(Ok(Piece::End(trailers.as_ref().map(from_map))))
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.answer {
            Some(answer) => answer.poll_reset(cx).map(drop),
            None => self.response.poll_reset(cx).map(drop),
        }
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.alarm.poll(cx, deadline)
    }

    fn inform(&mut self, head: &ResponseHead) {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(head.status).unwrap_or(StatusCode::CONTINUE);
        *response.headers_mut() = to_map(&head.headers);
        // A client that has left needs no word.
        let _ = self.response.send_informational(response);
    }

    fn begin(&mut self, head: ResponseHead, body: BodySize) {
        let mut response = Response::new(());
        // RFC 8441, section 4: what is 101 over HTTP/1.1 is 200 here.
        let status = if head.status == 101 { 200 } else { head.status };
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
        *response.headers_mut() = to_map(&head.headers);
        if head.status == 101 {
            response.headers_mut().remove("sec-websocket-accept");
        }
        self.has_ended = matches!(body, BodySize::None | BodySize::Exactly(0));
        self.left = match body {
            BodySize::Exactly(length) => Some(length),
            BodySize::None | BodySize::Open => None,
        };
        // A client that has left is found by the next poll.
        self.answer = self.response.send_response(response, self.has_ended).ok();
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, Fault>> {
        let Some(answer) = &mut self.answer else { return Poll::Ready(Err(Fault::Gone)) };
        answer.reserve_capacity(data.len());
        while answer.capacity() == 0 {
            match ready!(answer.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(Fault::Gone)),
            }
        }
        let len = data.len().min(answer.capacity());
        self.left = self.left.map(|left| left.saturating_sub(len as u64));
        self.has_ended = self.left == Some(0);
        match answer.send_data(Bytes::copy_from_slice(&data[..len]), self.has_ended) {
            Ok(()) => Poll::Ready(Ok(len)),
            Err(_) => Poll::Ready(Err(Fault::Gone)),
        }
    }

    fn end(&mut self, trailers: Option<&Headers>) {
        let (Some(answer), false) = (&mut self.answer, self.has_ended) else { return };
        // A client that has left needs no end.
        let _ = match trailers {
            Some(trailers) => answer.send_trailers(to_map(trailers)),
            None => answer.send_data(Bytes::new(), true),
        };
        self.has_ended = true;
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        // The connection's own task writes what streams have said.
        Poll::Ready(Ok(()))
    }
}

/// A stream whose request became something else.
struct Io {
    from: RecvStream,
    ahead: Bytes,
    to: SendStream<Bytes>,
    has_ended: bool,
}

impl Local for Io {
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Who has reset the stream is not there; who has only said all cannot be told from who says nothing.
        self.to.poll_reset(cx).map(drop)
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            match ready!(self.from.poll_data(cx)) {
                Some(Ok(bytes)) => self.ahead = bytes,
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let len = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead.split_to(len));
        // A stream that was reset needs no room; the next read tells.
        let _ = self.from.flow_control().release_capacity(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.to.reserve_capacity(buf.len());
        while self.to.capacity() == 0 {
            match ready!(self.to.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let len = buf.len().min(self.to.capacity());
        self.to.send_data(Bytes::copy_from_slice(&buf[..len]), false).map_err(io_error)?;
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.has_ended, true) {
            self.to.send_data(Bytes::new(), true).map_err(io_error)?;
        }
        Poll::Ready(Ok(()))
    }
}

fn io_error(error: h2::Error) -> io::Error {
    if error.is_io() {
        error.into_io().expect("it is one")
    } else {
        io::Error::new(io::ErrorKind::ConnectionReset, error)
    }
}
