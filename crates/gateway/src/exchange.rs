//! One attempt at one request: what the client says goes up, what the upstream answers goes down, both at once.
//!
//! A server may answer before it has read everything, and a client may listen while it still talks, so neither direction
//! waits for the other. What may be needed for another attempt is kept while it is small.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use landfast_core::time::Instant;
use landfast_core::{ErrorCode, Problem, chunked};
use landfast_net::head::{Headers, RequestHead, ResponseHead};
use landfast_net::http1::{Answered, BodyReader, Framing, encode_end, read_answer};
use landfast_net::{clock, scratch};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::client::{BodySize, Client, Fault, Piece};
use crate::config::Patience;
use crate::limits;
use crate::upstream::Upstream;

/// The most of a body that is kept for another attempt.
const KEPT_MAX: usize = 64 * 1024;

/// How much of a body is read at once on its way up.
const STAGE: usize = 64 * 1024;

/// What a request's client still has to say, and what it has said so far.
#[derive(Debug)]
pub(crate) struct Upload {
    size: BodySize,
    /// The most bytes that it may have.
    max: Option<u64>,
    /// What was read, while it is all kept.
    kept: Option<Vec<u8>>,
    /// How much of that has gone up in this attempt.
    replayed: usize,
    /// The body has been read to its end.
    ended: Option<Option<Headers>>,
    /// How many bytes were read.
    bytes: u64,
}

/// Why an attempt brought no answer.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The client's side ended first.
    Client(Fault),
    /// The connection was lost. The request may have run.
    Lost(io::ErrorKind),
    /// What came was no answer. The request may have run.
    Protocol(String),
    /// No answer came in time. The request may have run.
    Timeout,
}

/// How an answer ended that had begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// As a whole. The upstream's connection may serve another request if nothing else speaks against it.
    Whole,
    /// It broke off. The client must be able to see that.
    Cut(ErrorCode),
}

/// One attempt.
pub(crate) struct Exchange<'a, C> {
    client: &'a mut C,
    upstream: &'a mut Upstream,
    upload: &'a mut Upload,
    patience: Patience,
    /// What is on its way up: this part of the stage.
    stage: Vec<u8>,
    at: usize,
    end: usize,
    /// The request's end has not been staged yet.
    uploading: bool,
    /// The upstream takes nothing any more.
    is_deaf: bool,
    /// When a byte had moved last, in either direction, as of the last wait.
    moved_at: Instant,
    /// Whether one has since. The clock is read once for any number of bytes.
    has_moved: bool,
    has_waited: bool,
    reader: BodyReader,
    /// What was read of the answer's body and not yet taken by the client.
    stash: Vec<u8>,
    stash_at: usize,
    answer_ended: bool,
    down: u64,
}

/// Whom a direction waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    Client,
    Upstream,
    Nobody,
}

impl Upload {
    /// A body of this size, and of `max` bytes at most. With `keeps`, what is read of it is kept as long as it is little.
    pub(crate) fn new(size: BodySize, max: Option<u64>, keeps: bool) -> Self {
        let ended = matches!(size, BodySize::None | BodySize::Exactly(0)).then_some(None);
        Self { size, max, kept: keeps.then(Vec::new), replayed: 0, ended, bytes: 0 }
    }

    /// Whether everything that was read is still there for another attempt.
    pub(crate) const fn is_whole(&self) -> bool {
        self.bytes == 0 || self.kept.is_some()
    }

    /// Goes back to its beginning.
    pub(crate) const fn rewind(&mut self) {
        self.replayed = 0;
    }

    fn poll_fill<C: Client>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        space: &mut [u8],
    ) -> Poll<Result<Piece, Fault>> {
        if let Some(kept) = &self.kept
            && self.replayed < kept.len()
        {
            let len = space.len().min(kept.len() - self.replayed);
            space[..len].copy_from_slice(&kept[self.replayed..][..len]);
            self.replayed += len;
            return Poll::Ready(Ok(Piece::Data(len)));
        }
        if let Some(trailers) = &self.ended {
            return Poll::Ready(Ok(Piece::End(trailers.clone())));
        }
        let piece = ready!(client.poll_body(cx, space))?;
        match &piece {
            Piece::Data(len) => {
                self.keep(&space[..*len]);
                if let Some(max) = self.max.filter(|max| self.bytes > *max) {
                    return Poll::Ready(Err(Fault::Broken(limits::too_long(max))));
                }
            }
            Piece::End(trailers) => self.ended = Some(trailers.clone()),
        }
        Poll::Ready(Ok(piece))
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.kept = self.kept.take().filter(|kept| kept.len() + bytes.len() <= KEPT_MAX);
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(bytes);
            self.replayed = kept.len();
        }
    }
}

impl<'a, C: Client> Exchange<'a, C> {
    /// Prepares to send a request.
    pub(crate) fn new(
        client: &'a mut C,
        upstream: &'a mut Upstream,
        upload: &'a mut Upload,
        head: &RequestHead,
        patience: Patience,
    ) -> Self {
        upload.rewind();
        let mut stage = upstream.take_stage();
        head.encode_into(&mut stage);
        let end = stage.len();
        let uploading = !matches!(upload.size, BodySize::None | BodySize::Exactly(0));
        Self {
            client,
            upstream,
            upload,
            patience,
            stage,
            at: 0,
            end,
            uploading,
            is_deaf: false,
            moved_at: Instant::ZERO,
            has_moved: true,
            has_waited: false,
            reader: BodyReader::Length(0),
            stash: Vec::new(),
            stash_at: 0,
            answer_ended: false,
            down: 0,
        }
    }

    /// Sends the request and waits for the head of its answer.
    ///
    /// Cancel safe in that the connection must be dropped; the request may have run.
    ///
    /// # Errors
    ///
    /// [`Failed`].
    pub(crate) async fn ask(&mut self) -> Result<Answered, Failed> {
        poll_fn(|cx| self.poll_ask(cx)).await
    }

    /// Passes the answer's body on, after its head was. The rest of the request goes on going up.
    ///
    /// Cancel safe in that the connection must be dropped.
    ///
    /// # Errors
    ///
    /// [`Fault`], if the client's side ended first.
    pub(crate) async fn answer(&mut self, framing: Framing) -> Result<Ended, Fault> {
        self.reader = BodyReader::new(framing);
        poll_fn(|cx| {
            let polled = self.poll_answer(cx);
            self.has_waited |= polled.is_pending();
            polled
        })
        .await
    }

    /// Begins the answer at the client.
    pub(crate) fn begin(&mut self, head: ResponseHead, size: BodySize) {
        self.client.begin(head, size);
    }

    /// Whether the request could be sent as a whole once more.
    pub(crate) const fn is_repeatable(&self) -> bool {
        self.upload.is_whole()
    }

    /// How many bytes of the request's body were read.
    pub(crate) const fn up(&self) -> u64 {
        self.upload.bytes
    }

    /// Whether nothing of this request is left in the upstream's connection.
    pub(crate) fn is_clean(&self) -> bool {
        !self.uploading && self.at == self.end && self.upstream.input.is_empty()
    }

    /// Whether anybody was waited for while the answer was passed on.
    pub(crate) const fn has_waited(&self) -> bool {
        self.has_waited
    }

    /// How many bytes the answer's body had.
    pub(crate) const fn down(&self) -> u64 {
        self.down
    }

    fn poll_ask(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answered, Failed>> {
        let waits = self.poll_upload(cx).map_err(Failed::Client)?;
        if let Poll::Ready(answered) = self.poll_head(cx)? {
            return Poll::Ready(Ok(answered));
        }
        if let Poll::Ready(Err(fault)) = self.client.poll_flush(cx) {
            return Poll::Ready(Err(Failed::Client(fault)));
        }
        if waits != Waits::Client && self.client.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Failed::Client(Fault::Gone)));
        }
        let patience = if waits == Waits::Client { self.patience.body } else { self.patience.answer };
        ready!(self.poll_patience(cx, patience));
        Poll::Ready(Err(match waits {
            Waits::Client => Failed::Client(Fault::Broken(ErrorCode::RequestTimeout.into())),
            Waits::Upstream | Waits::Nobody => Failed::Timeout,
        }))
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ended, Fault>> {
        let down = match self.poll_download(cx)? {
            Ok(ended) => return Poll::Ready(Ok(ended)),
            Err(waits) => waits,
        };
        // A server that answers may have stopped reading: that the rest cannot go up any more is no failure.
        let up = self.poll_upload(cx)?;
        if up != Waits::Client && down != Waits::Client && self.client.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Fault::Gone));
        }
        if down == Waits::Client {
            ready!(self.poll_patience(cx, self.patience.client));
            return Poll::Ready(Err(Fault::Broken(ErrorCode::SessionSlowClient.into())));
        }
        Poll::Pending
    }

    /// Resolves when nothing has moved for so long.
    fn poll_patience(&mut self, cx: &mut Context<'_>, patience: Duration) -> Poll<()> {
        if std::mem::take(&mut self.has_moved) {
            self.moved_at = clock::now();
        }
        self.client.poll_alarm(cx, self.moved_at + patience)
    }

    /// Moves the request up as far as it goes, and tells whom it waits for.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<Waits, Fault> {
        loop {
            while self.at < self.end {
                if self.is_deaf {
                    return Ok(Waits::Upstream);
                }
                match Pin::new(&mut *self.upstream).poll_write(cx, &self.stage[self.at..self.end]) {
                    Poll::Pending => return Ok(Waits::Upstream),
                    Poll::Ready(Ok(n)) if n > 0 => {
                        self.at += n;
                        self.has_moved = true;
                    }
                    Poll::Ready(_) => {
                        // Maybe it has answered before it hung up: reading tells.
                        self.is_deaf = true;
                        return Ok(Waits::Upstream);
                    }
                }
            }
            if !self.uploading {
                return Ok(Waits::Nobody);
            }
            if self.stage_more(cx)?.is_pending() {
                return Ok(Waits::Client);
            }
        }
    }

    /// Stages the next part of the body.
    fn stage_more(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Fault> {
        const ROOM: std::ops::Range<usize> = chunked::HEAD_MAX..chunked::HEAD_MAX + STAGE;
        if self.stage.len() < ROOM.end + 2 {
            self.stage.resize(ROOM.end + 2, 0);
        }
        let Poll::Ready(piece) = self.upload.poll_fill(cx, self.client, &mut self.stage[ROOM]) else {
            return Ok(Poll::Pending);
        };
        let is_chunked = self.upload.size == BodySize::Open;
        match piece? {
            Piece::Data(len) => {
                (self.at, self.end) = (ROOM.start, ROOM.start + len);
                if is_chunked {
                    let mut space = [0; chunked::HEAD_MAX];
                    let head = chunked::head(len, &mut space);
                    self.at -= head.len();
                    self.stage[self.at..ROOM.start].copy_from_slice(head);
                    self.stage[self.end..self.end + 2].copy_from_slice(b"\r\n");
                    self.end += 2;
                }
            }
            Piece::End(trailers) => {
                self.uploading = false;
                self.stage.clear();
                if is_chunked {
                    encode_end(trailers.as_ref(), &mut self.stage);
                }
                (self.at, self.end) = (0, self.stage.len());
            }
        }
        self.has_moved = true;
        Ok(Poll::Ready(()))
    }

    /// Reads until the answer's head is there; what comes before it is passed on.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answered, Failed>> {
        loop {
            if let Some(answered) = self.next_head()? {
                if answered.head.status >= 200 || answered.head.status == 101 {
                    return Poll::Ready(Ok(answered));
                }
                self.client.inform(&answered.head);
                continue;
            }
            let upstream = &mut *self.upstream;
            let read = scratch::with(|scratch| {
                let mut space = ReadBuf::new(scratch);
                ready!(Pin::new(&mut *upstream).poll_read(cx, &mut space))?;
                upstream.input.extend_from_slice(space.filled());
                Poll::Ready(io::Result::Ok(space.filled().len()))
            });
            match ready!(read) {
                Ok(0) => return Poll::Ready(Err(Failed::Lost(io::ErrorKind::UnexpectedEof))),
                Ok(_) => self.has_moved = true,
                Err(error) => return Poll::Ready(Err(Failed::Lost(error.kind()))),
            }
        }
    }

    fn next_head(&mut self) -> Result<Option<Answered>, Failed> {
        let input = &mut self.upstream.input;
        if input.is_empty() {
            return Ok(None);
        }
        let Some((answered, len)) = read_answer(input).map_err(|error| Failed::Protocol(error.to_string()))? else {
            return Ok(None);
        };
        input.drain(..len);
        Ok(Some(answered))
    }

    /// Moves the answer down as far as it goes: how it ended, or whom it waits for.
    fn poll_download(&mut self, cx: &mut Context<'_>) -> Result<Result<Ended, Waits>, Fault> {
        loop {
            while self.stash_at < self.stash.len() {
                match self.client.poll_send(cx, &self.stash[self.stash_at..])? {
                    Poll::Pending => return Ok(Err(Waits::Client)),
                    Poll::Ready(n) => {
                        self.stash_at += n;
                        self.down += n as u64;
                        self.has_moved = true;
                    }
                }
            }
            self.stash_at = 0;
            self.upstream.give_back(std::mem::take(&mut self.stash));
            if self.reader.is_done() {
                return self.poll_end(cx);
            }
            if let Some(ended) = self.take_input() {
                return Ok(Ok(ended));
            }
            if !self.stash.is_empty() || self.reader.is_done() {
                continue;
            }
            match self.poll_piece(cx)? {
                Poll::Ready(None) => {}
                Poll::Ready(Some(ended)) => return Ok(Ok(ended)),
                Poll::Pending => {
                    return Ok(Err(match self.client.poll_flush(cx)? {
                        Poll::Ready(()) => Waits::Upstream,
                        Poll::Pending => Waits::Client,
                    }));
                }
            }
        }
    }

    /// Decodes what was read behind the head.
    fn take_input(&mut self) -> Option<Ended> {
        if self.upstream.input.is_empty() {
            return None;
        }
        let mut bytes = std::mem::take(&mut self.upstream.input);
        let Ok(decoded) = self.reader.decode(&mut bytes) else { return Some(Ended::Cut(ErrorCode::UpstreamProtocol)) };
        self.upstream.input = bytes.split_off(decoded.consumed);
        bytes.truncate(decoded.payload);
        self.stash = bytes;
        None
    }

    /// Reads once, and sends what came as far as the client takes it.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Result<Poll<Option<Ended>>, Fault> {
        scratch::with(|scratch| {
            let mut space = ReadBuf::new(scratch);
            let len = match Pin::new(&mut *self.upstream).poll_read(cx, &mut space) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Ok(())) => space.filled().len(),
                Poll::Ready(Err(_)) => return Ok(Poll::Ready(Some(Ended::Cut(ErrorCode::UpstreamLost)))),
            };
            if len == 0 {
                if !matches!(self.reader, BodyReader::Close) {
                    return Ok(Poll::Ready(Some(Ended::Cut(ErrorCode::UpstreamLost))));
                }
                self.reader = BodyReader::Length(0);
                return Ok(Poll::Ready(None));
            }
            let Ok(decoded) = self.reader.decode(&mut scratch[..len]) else {
                return Ok(Poll::Ready(Some(Ended::Cut(ErrorCode::UpstreamProtocol))));
            };
            self.upstream.input.extend_from_slice(&scratch[decoded.consumed..len]);
            let mut data = &scratch[..decoded.payload];
            while !data.is_empty() {
                let Poll::Ready(n) = self.client.poll_send(cx, data)? else {
                    self.stash.extend_from_slice(data);
                    break;
                };
                self.down += n as u64;
                data = &data[n..];
            }
            self.has_moved = true;
            Ok(Poll::Ready(None))
        })
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Result<Result<Ended, Waits>, Fault> {
        if !std::mem::replace(&mut self.answer_ended, true) {
            match self.reader.trailers() {
                Ok(trailers) => self.client.end(trailers.as_ref()),
                Err(_) => return Ok(Ok(Ended::Cut(ErrorCode::UpstreamProtocol))),
            }
        }
        Ok(match self.client.poll_flush(cx)? {
            Poll::Ready(()) => Ok(Ended::Whole),
            Poll::Pending => Err(Waits::Client),
        })
    }
}

impl<C> Drop for Exchange<'_, C> {
    fn drop(&mut self) {
        self.upstream.keep_stage(std::mem::take(&mut self.stage));
    }
}

/// Waits for `future`, unless the client leaves first.
pub(crate) async fn unless_gone<C: Client, T>(client: &mut C, future: impl Future<Output = T>) -> Result<T, Fault> {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        Poll::Pending => client.poll_gone(cx).map(|()| Err(Fault::Gone)),
    })
    .await
}

/// Writes an answer of ours, whole.
pub(crate) async fn say<C: Client>(
    client: &mut C,
    head: ResponseHead,
    body: &[u8],
    patience: Duration,
) -> Result<(), Fault> {
    let until = clock::now() + patience;
    client.leave_body();
    client.begin(head, BodySize::Exactly(body.len() as u64));
    let mut at = 0;
    poll_fn(|cx| {
        while at < body.len() {
            match client.poll_send(cx, &body[at..])? {
                Poll::Ready(n) => at += n,
                Poll::Pending => {
                    ready!(client.poll_alarm(cx, until));
                    return Poll::Ready(Err(Fault::Gone));
                }
            }
        }
        if at == body.len() {
            at += 1;
            client.end(None);
        }
        match client.poll_flush(cx)? {
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending => client.poll_alarm(cx, until).map(|()| Err(Fault::Gone)),
        }
    })
    .await
}

impl From<Failed> for Problem {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Client(Fault::Gone) => ErrorCode::ClientLost.into(),
            Failed::Client(Fault::Broken(problem)) => problem,
            Failed::Lost(_) => ErrorCode::UpstreamLost.into(),
            Failed::Protocol(detail) => Self::new(ErrorCode::UpstreamProtocol, format!("What came is {detail}.")),
            Failed::Timeout => ErrorCode::UpstreamTimeout.into(),
        }
    }
}
