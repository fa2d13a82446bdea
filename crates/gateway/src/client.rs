//! A client as one request sees it. HTTP/1.1 and HTTP/2 differ behind this, and nowhere else.

use std::task::{Context, Poll};

use landfast_core::Problem;
use landfast_core::time::Instant;
use landfast_net::head::{Headers, ResponseHead};

/// A request as every version of HTTP has it.
#[derive(Debug)]
pub(crate) struct Request {
    /// The method.
    pub(crate) method: String,
    /// The path and query.
    pub(crate) target: String,
    /// The headers, as they came.
    pub(crate) headers: Headers,
    /// How long its body is.
    pub(crate) body: BodySize,
    /// What it asks to switch to.
    pub(crate) upgrade: Option<Upgrade>,
}

/// How long a body is, as far as its sender has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodySize {
    /// There is none, and none can be: what `Content-Length` says is about another message.
    None,
    /// This many bytes, maybe none.
    Exactly(u64),
    /// It ends when it ends.
    Open,
}

/// The protocols that are spoken after an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// RFC 6455, or RFC 8441 over HTTP/2.
    WebSocket,
    /// Links of clients that are their own end.
    Link,
}

/// What came of a body.
#[derive(Debug)]
pub(crate) enum Piece {
    /// This many bytes were put into the space that was given.
    Data(usize),
    /// It has ended, with these trailers.
    End(Option<Headers>),
}

/// Why a client's side of a request has ended early.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It left.
    Gone,
    /// What it sent cannot be understood, or is too much. Nothing after it can be.
    Broken(Problem),
}

/// One request's client.
pub(crate) trait Client: Send {
    /// The version of HTTP it speaks.
    fn version(&self) -> &'static str {
        "2"
    }

    /// Reads what follows of the request's body into `space`, which is not empty. Not called after its end.
    fn poll_body(&mut self, cx: &mut Context<'_>, space: &mut [u8]) -> Poll<Result<Piece, Fault>>;

    /// Resolves when the client has left. What it says meanwhile waits, within bounds.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Resolves when the deadline has passed.
    fn poll_alarm(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()>;

    /// Passes on an answer that comes before the answer (1xx), if this client can hear it.
    fn inform(&mut self, head: &ResponseHead);

    /// Says that nobody will read what is left of the request's body. Where that stands before the next request, the answer
    /// that begins then is the connection's last, and says so.
    fn leave_body(&mut self) {}

    /// Begins the answer.
    fn begin(&mut self, head: ResponseHead, body: BodySize);

    /// Sends part of the answer's body, which is not empty: how much of it was taken.
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize, Fault>>;

    /// Ends the answer.
    fn end(&mut self, trailers: Option<&Headers>);

    /// Resolves when everything that was begun, sent or ended has been handed to the kernel.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>>;
}
