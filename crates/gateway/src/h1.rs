//! HTTP/1.1 toward clients: requests one after the other on a connection, in one task.
//!
//! Between two requests a connection holds no buffer: heads are read into the thread's scratch, and only what does not
//! fit a moment is kept.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use landfast_core::time::Instant;
use landfast_core::{ErrorCode, Problem, chunked};
use landfast_net::alarm::Alarm;
use landfast_net::head::{HEAD_MAX, Headers, ResponseHead};
use landfast_net::http1::{BodyReader, Framing, Received, encode_end, read_request};
use landfast_net::socket::Socket;
use landfast_net::{clock, scratch};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::client::{BodySize, Client, Fault, Piece, Request};
use crate::headers;

/// The most that is read ahead of a request that is being answered: more than any head, and the client is read no more.
const AHEAD_MAX: usize = HEAD_MAX;

/// What of the output's room is kept between two answers: a head's worth.
const OUTPUT_KEPT: usize = 1024;

/// The most of an answer that is gathered before it is written: copying this much costs less than another system call.
const GATHERED_MAX: usize = 16 * 1024;

/// A client's connection, between requests or in one.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    /// What was read and not yet understood.
    input: Vec<u8>,
    /// What was said and not yet written.
    output: Vec<u8>,
    written: usize,
    alarm: Alarm,
    body: BodyReader,
    body_ended: bool,
    is_http11: bool,
    keep_alive: bool,
    /// The client has said that this request is its last.
    is_last: bool,
    /// When the first request's head must be there; `None` after it.
    first_until: Option<Instant>,
    /// How long a request's head may take.
    head_timeout: Duration,
    /// How the answer's body is delimited; `None` before the answer.
    answer: Option<Framing>,
}

/// What a connection said where a request may stand.
#[derive(Debug)]
pub(crate) enum Next {
    /// A request.
    Request(Request),
    /// The connection has ended, or is to end, between two requests.
    End,
    /// Something that is no request, or half of one.
    Refused(Problem),
    /// The preface of HTTP/2 (RFC 9113, section 3.4), which stays in the connection.
    Http2,
}

/// What every HTTP/2 connection begins with, up to where it cannot be anything else.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Connection {
    /// A connection that was accepted now. A request's head may take `head_timeout`: the first one's from now on, since
    /// whoever connects has something to say, the others' from their first byte.
    pub(crate) fn new(socket: Socket, head_timeout: Duration) -> Self {
        Self {
            socket,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            alarm: Alarm::default(),
            body: BodyReader::Length(0),
            body_ended: true,
            is_http11: true,
            keep_alive: true,
            is_last: false,
            first_until: Some(clock::now() + head_timeout),
            head_timeout,
            answer: None,
        }
    }

    /// Waits for the next request, for at most `idle` before its first byte, but for the connection's first.
    ///
    /// Cancel safe: what was read stays.
    pub(crate) async fn next(&mut self, idle: Duration) -> Next {
        self.answer = None;
        let mut head_until = self.first_until.take();
        let idle_until = head_until.unwrap_or_else(|| clock::now() + idle);
        std::future::poll_fn(|cx| self.poll_next(cx, idle_until, &mut head_until)).await
    }

    /// Whether another request may follow the one that was answered.
    pub(crate) fn is_reusable(&self) -> bool {
        self.keep_alive && self.body_ended && self.answer.is_some_and(|framing| framing != Framing::Close)
    }

    /// The connection's socket, with what was read ahead, for what follows an upgrade.
    pub(crate) fn into_socket(self) -> Socket {
        self.socket.with_ahead(self.input)
    }

    /// Lets no further request follow this one.
    pub(crate) const fn close_after(&mut self) {
        self.keep_alive = false;
    }

    /// Ends the connection so that no answer that was cut looks whole.
    pub(crate) fn abort(self) {
        self.socket.abort();
    }

    /// Ends the connection. What the client still sends is read for a moment: bytes that nobody has read make the kernel
    /// reset the connection, which takes away the answer that the client has not read yet.
    pub(crate) async fn finish(mut self, patience: Duration) {
        let is_done = self.is_last && self.body_ended && self.input.is_empty();
        if is_done && self.socket.is_plain() && self.socket.seems_quiet() {
            // The client has said that it will say no more, and nothing of what it said is unread. TLS has an end of its
            // own to say.
            return;
        }
        let goodbye = async {
            self.socket.shutdown().await?;
            tokio::io::copy(&mut self.socket, &mut tokio::io::sink()).await
        };
        // Whether the client listens is its own affair.
        let _ = tokio::time::timeout(patience, goodbye).await;
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, idle_until: Instant, head_until: &mut Option<Instant>) -> Poll<Next> {
        loop {
            if !self.input.is_empty() {
                let parsed = parse(&self.input);
                if let Some((next, len)) = parsed {
                    self.input.drain(..len);
                    if self.input.is_empty() {
                        self.input = Vec::new();
                    }
                    return Poll::Ready(self.start(next));
                }
            }
            match self.poll_head_bytes(cx) {
                Poll::Ready(Ok(Some(next))) => return Poll::Ready(self.start(next)),
                Poll::Ready(Ok(None)) => {}
                Poll::Ready(Err(_)) if self.input.is_empty() => return Poll::Ready(Next::End),
                Poll::Ready(Err(_)) => {
                    let detail = "The connection ended inside a head.";
                    return Poll::Ready(Next::Refused(Problem::new(ErrorCode::RequestInvalid, detail)));
                }
                Poll::Pending if self.input.is_empty() => {
                    ready!(self.alarm.poll(cx, idle_until));
                    return Poll::Ready(Next::End);
                }
                Poll::Pending => {
                    let until = *head_until.get_or_insert_with(|| clock::now() + self.head_timeout);
                    ready!(self.alarm.poll(cx, until));
                    return Poll::Ready(Next::Refused(ErrorCode::RequestTimeout.into()));
                }
            }
        }
    }

    /// Reads once. A head that came as a whole is read where it is, without a copy; otherwise what came is kept.
    fn poll_head_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Parsed>>> {
        scratch::with(|scratch| {
            let mut space = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut space))?;
            let bytes = space.filled();
            if bytes.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if self.input.is_empty()
                && let Some((parsed, len)) = parse(bytes)
            {
                self.input.extend_from_slice(&bytes[len..]);
                return Poll::Ready(Ok(Some(parsed)));
            }
            self.input.extend_from_slice(bytes);
            Poll::Ready(Ok(None))
        })
    }

    fn start(&mut self, parsed: Parsed) -> Next {
        let received = match parsed {
            Parsed::Request(received) => received,
            Parsed::Refused(problem) => {
                self.keep_alive = false;
                return Next::Refused(problem);
            }
            Parsed::Http2 => return Next::Http2,
        };
        let Received { head, is_http11, framing, keep_alive } = *received;
        (self.is_http11, self.keep_alive, self.is_last) = (is_http11, keep_alive, !keep_alive);
        self.body = BodyReader::new(framing);
        self.body_ended = self.body.is_done();
        let body = match framing {
            Framing::Length(length) => BodySize::Exactly(length),
            Framing::Chunked | Framing::Close => BodySize::Open,
        };
        let upgrade = headers::upgrade(&head.headers).filter(|_| is_http11);
        Next::Request(Request { method: head.method, target: head.target, headers: head.headers, body, upgrade })
    }

    /// Moves what the body has in `self.input` into `space`.
    fn take_body(&mut self, space: &mut [u8]) -> Result<Option<Piece>, Fault> {
        let len = self.input.len().min(space.len());
        space[..len].copy_from_slice(&self.input[..len]);
        let decoded = self.body.decode(&mut space[..len]).map_err(|error| broken(&error))?;
        self.input.drain(..decoded.consumed);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        self.piece(decoded.payload)
    }

    fn piece(&mut self, payload: usize) -> Result<Option<Piece>, Fault> {
        if payload > 0 {
            return Ok(Some(Piece::Data(payload)));
        }
        if !self.body.is_done() {
            return Ok(None);
        }
        let trailers = self.body.trailers().map_err(|error| broken(&error))?;
        self.body_ended = true;
        Ok(Some(Piece::End(trailers)))
    }
}

/// What stands where a request may stand.
enum Parsed {
    Request(Box<Received>),
    Refused(Problem),
    Http2,
}

/// Reads what begins with `bytes`, and how long it is; `None` if more bytes are needed.
fn parse(bytes: &[u8]) -> Option<(Parsed, usize)> {
    let preface = HTTP2_PREFACE.len().min(bytes.len());
    if bytes[..preface] == HTTP2_PREFACE[..preface] {
        return (preface == HTTP2_PREFACE.len()).then_some((Parsed::Http2, 0));
    }
    match read_request(bytes) {
        Ok(None) => None,
        Ok(Some((received, len))) => Some((Parsed::Request(Box::new(received)), len)),
        Err(problem) => Some((Parsed::Refused(problem), bytes.len())),
    }
}

fn broken(error: &dyn std::error::Error) -> Fault {
    Fault::Broken(Problem::new(ErrorCode::RequestInvalid, format!("The request's body: {error}.")))
}

impl Client for Connection {
    fn version(&self) -> &'static str {
        if self.is_http11 { "1.1" } else { "1.0" }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, space: &mut [u8]) -> Poll<Result<Piece, Fault>> {
        loop {
            if let Some(piece) = self.take_body(space)? {
                return Poll::Ready(Ok(piece));
            }
            let mut into = ReadBuf::new(space);
            if ready!(Pin::new(&mut self.socket).poll_read(cx, &mut into)).is_err() || into.filled().is_empty() {
                return Poll::Ready(Err(Fault::Gone));
            }
            let len = into.filled().len();
            let decoded = self.body.decode(&mut space[..len]).map_err(|error| broken(&error))?;
            if decoded.consumed < len {
                // What was moved to the front has left these bytes alone: it is never longer than what it came from.
                self.input.extend_from_slice(&space[decoded.consumed..len]);
            }
            if let Some(piece) = self.piece(decoded.payload)? {
                return Poll::Ready(Ok(piece));
            }
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.input.len() < AHEAD_MAX {
            let read = scratch::with(|scratch| {
                let mut space = ReadBuf::new(&mut scratch[..AHEAD_MAX]);
                ready!(Pin::new(&mut self.socket).poll_read(cx, &mut space))?;
                self.input.extend_from_slice(space.filled());
                Poll::Ready(io::Result::Ok(space.filled().len()))
            });
            match ready!(read) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
        // A client that sends so much ahead is not read until its turn comes.
        Poll::Pending
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.alarm.poll(cx, deadline)
    }

    fn inform(&mut self, head: &ResponseHead) {
        if self.is_http11 {
            head.encode_into(&mut self.output);
        }
    }

    fn leave_body(&mut self) {
        self.keep_alive &= self.body_ended;
    }

    fn begin(&mut self, mut head: ResponseHead, body: BodySize) {
        let framing = match body {
            BodySize::None => Framing::Length(0),
            BodySize::Exactly(length) => Framing::Length(length),
            BodySize::Open if head.status == 101 => Framing::Close,
            BodySize::Open if self.is_http11 => Framing::Chunked,
            BodySize::Open => Framing::Close,
        };
        match body {
            BodySize::None | BodySize::Exactly(_) => {}
            BodySize::Open => head.headers.remove("content-length"),
        }
        if framing == Framing::Chunked {
            head.headers.push("transfer-encoding", "chunked");
        }
        self.keep_alive &= framing != Framing::Close;
        match (head.status, self.keep_alive) {
            (101, _) => {}
            (_, false) => head.headers.push("connection", "close"),
            (_, true) if self.is_http11 => {}
            (_, true) => head.headers.push("connection", "keep-alive"),
        }
        head.encode_into(&mut self.output);
        self.answer = Some(framing);
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, Fault>> {
        let chunked = self.answer == Some(Framing::Chunked);
        let mut space = [0; chunked::HEAD_MAX];
        let (head, tail): (&[u8], &[u8]) =
            if chunked { (chunked::head(data.len(), &mut space), b"\r\n") } else { (&[], &[]) };
        if self.output.len() + data.len() <= GATHERED_MAX {
            // Little goes out together with what stands before and behind it.
            [head, data, tail].iter().for_each(|part| self.output.extend_from_slice(part));
            return Poll::Ready(Ok(data.len()));
        }
        loop {
            let ahead = self.output.len() - self.written;
            let parts = [&self.output[self.written..], head, data, tail].map(IoSlice::new);
            let written = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, &parts));
            let n = written.ok().filter(|&n| n > 0).ok_or(Fault::Gone)?;
            if n <= ahead {
                self.written += n;
                continue;
            }
            self.output.clear();
            self.written = 0;
            if !chunked {
                return Poll::Ready(Ok(n - ahead));
            }
            // A chunk that was begun is kept as a whole: its length has been said.
            let mut skip = n - ahead;
            for part in [head, data, tail] {
                let written = skip.min(part.len());
                self.output.extend_from_slice(&part[written..]);
                skip -= written;
            }
            return Poll::Ready(Ok(data.len()));
        }
    }

    fn end(&mut self, trailers: Option<&Headers>) {
        if self.answer == Some(Framing::Chunked) {
            encode_end(trailers, &mut self.output);
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        while self.written < self.output.len() {
            let written = Pin::new(&mut self.socket).poll_write(cx, &self.output[self.written..]);
            match ready!(written) {
                Ok(n) if n > 0 => self.written += n,
                Ok(_) | Err(_) => return Poll::Ready(Err(Fault::Gone)),
            }
        }
        self.output.clear();
        self.output.shrink_to(OUTPUT_KEPT);
        self.written = 0;
        Pin::new(&mut self.socket).poll_flush(cx).map_err(|_| Fault::Gone)
    }
}
