//! A client's WebSocket with the browser: its bytes as they are, and a close frame of ours where the browser has no word left.
//!
//! Nothing is opened, unmasked or buffered on the way: frames are followed by their headers, to count messages and to know
//! where one of ours may stand. In the middle of a frame none may, and the connection ends there: half a message must not
//! look like a whole one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use landfast_core::ErrorCode;
use landfast_core::cdp::MESSAGE_MAX;
use landfast_core::link::Close;
use landfast_core::ws::{Follower, encode_close};
use landfast_net::alarm::Alarm;
use landfast_net::far::Far;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, ReusableBoxFuture};

use super::line::{Act, Line};
use crate::service::{Status, WebSocket};

/// A client's connection with the browser, after the 101.
pub(crate) struct CdpSocket {
    /// Closed as soon as it has ended or nothing is carried any more, however long the client takes to hear of it.
    browser: Option<Box<WebSocket>>,
    /// When the machine wants to be asked again.
    alarm: Alarm,
    /// Gone once nothing is carried any more.
    line: Option<Line>,
    /// Resolves when there are news of the browser.
    news: ReusableBoxFuture<'static, Option<watch::Receiver<Status>>>,
    /// What the client says, as far as the browser has taken it.
    up: Follower,
    /// What the browser says, as far as it was read.
    down: Follower,
    bytes_up: u64,
    bytes_down: u64,
    /// How the client's side ended, and what of our close frame is still to be read.
    ending: Option<(Close, Vec<u8>)>,
    over: CancellationToken,
}

impl CdpSocket {
    pub(super) fn new(browser: Box<WebSocket>, line: Line) -> Self {
        let news = ReusableBoxFuture::new(next_news(line.status.clone()));
        Self {
            browser: Some(browser),
            alarm: Alarm::default(),
            line: Some(line),
            news,
            up: Follower::new(),
            down: Follower::new(),
            bytes_up: 0,
            bytes_down: 0,
            ending: None,
            over: CancellationToken::new(),
        }
    }

    /// Cancelled when nothing is carried any more.
    pub(crate) fn over(&self) -> CancellationToken {
        self.over.clone()
    }

    /// Counts what was carried: what was read was written since, or nobody would be reading again.
    fn count(&mut self) {
        if let Some(line) = &mut self.line {
            line.counts.messages = self.up.messages() + self.down.messages();
            (line.counts.bytes_in, line.counts.bytes_out) = (self.bytes_up, self.bytes_down);
        }
    }

    /// Does what the machine decides. False once nothing is carried any more.
    fn weigh(&mut self) -> bool {
        let Some(line) = &mut self.line else { return false };
        let mut told = None;
        while let Some(act) = line.poll() {
            match act {
                Act::CloseClient(code) => told = Some(code),
                // What was dialled is what is carried.
                Act::CloseUpstream | Act::Dial { .. } | Act::Refuse(_) => {}
            }
        }
        if line.is_carrying() {
            return true;
        }
        self.end(told.map(|code| Close::new(code, "")));
        false
    }

    /// Carries nothing any more. The client is told this, unless it has left or the browser has said so itself.
    fn end(&mut self, close: Option<Close>) {
        let mut frame = Vec::new();
        let close = match close {
            None => Close::new(ErrorCode::ClientClose, ""),
            Some(_) if self.down.saw_close() => Close::new(ErrorCode::UpstreamEnded, ""),
            Some(close) => {
                if self.down.at_boundary() {
                    let separator = if close.reason.is_empty() { "" } else { " " };
                    let reason = format!("{}{separator}{}", close.code, close.reason);
                    encode_close(close.code.close_or_1011(), &reason, &mut frame);
                }
                close
            }
        };
        self.ending.get_or_insert((close, frame));
        self.browser = None;
        if let Some(line) = self.line.take() {
            line.let_go();
        }
        self.over.cancel();
    }

    /// The client's side has ended.
    fn end_of_client(&mut self) {
        self.count();
        if let Some(line) = &mut self.line {
            line.handle_client_ended();
            self.weigh();
        }
    }

    /// The browser's side has ended; if that is its answer to a client that closed, the client's did first.
    fn end_of_browser(&mut self) {
        let (Some(line), Some(_)) = (&mut self.line, self.browser.take()) else { return };
        if self.up.saw_close() {
            line.handle_client_ended();
        } else {
            line.handle_upstream_ended();
        }
        self.weigh();
    }

    /// A message is longer than any may be.
    fn refuse(&mut self, is_clients: bool) {
        if let Some(line) = &mut self.line {
            if is_clients { line.handle_client_ended() } else { line.handle_upstream_ended() }
        }
        self.end(Some(Close::new(ErrorCode::LimitMessage, format!("{MESSAGE_MAX} bytes are the most"))));
    }

    /// Looks for news of the browser, and is woken when there are some, or when there were none for long enough.
    fn poll_news(&mut self, cx: &mut Context<'_>) {
        while let Some(deadline) = self.line.as_ref().and_then(Line::next_deadline) {
            if self.alarm.poll(cx, deadline).is_pending() {
                break;
            }
            self.weigh();
        }
        while self.line.is_some() {
            let Poll::Ready(status) = self.news.poll(cx) else { return };
            let is_carrying = self.weigh();
            match status {
                Some(status) if is_carrying => self.news.set(next_news(status)),
                // Its keeper has ended; so will the agent.
                Some(_) | None => self.news.set(std::future::pending()),
            }
        }
    }

    fn poll_ending(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let Some((_, frame)) = &mut self.ending else { return false };
        let n = frame.len().min(buf.remaining());
        buf.put_slice(&frame[..n]);
        frame.drain(..n);
        true
    }
}

async fn next_news(mut status: watch::Receiver<Status>) -> Option<watch::Receiver<Status>> {
    status.changed().await.ok().map(|()| status)
}

impl Far for CdpSocket {
    fn ending(&self) -> Close {
        self.ending.as_ref().map_or_else(|| Close::new(ErrorCode::ClientLost, ""), |(close, _)| close.clone())
    }

    fn handle_left(&mut self, close: &Close) {
        if matches!(close.code, ErrorCode::ClientClose | ErrorCode::ClientLost | ErrorCode::SessionSlowClient) {
            return self.end_of_client();
        }
        // Somebody between the client and us has called it off.
        self.count();
        if let Some(line) = &mut self.line {
            line.handle_cancelled();
            self.weigh();
        }
    }
}

impl AsyncRead for CdpSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.count();
        if self.poll_ending(buf) {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = self.browser.as_mut().map(|browser| Pin::new(browser).poll_read(cx, buf));
        let mut down = self.down.clone();
        down.advance(&buf.filled()[before..]);
        if buf.filled().len() == before {
            if read.is_some_and(|read| read.is_ready()) {
                self.end_of_browser();
            }
            self.poll_news(cx);
        } else if down.longest_message() > MESSAGE_MAX {
            buf.set_filled(before);
            self.refuse(false);
        } else {
            self.down = down;
            self.bytes_down += (buf.filled().len() - before) as u64;
            return Poll::Ready(Ok(()));
        }
        if self.poll_ending(buf) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl AsyncWrite for CdpSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut up = self.up.clone();
        up.advance(buf);
        if up.longest_message() > MESSAGE_MAX {
            self.refuse(true);
            // Whoever reads must hear of it.
            cx.waker().wake_by_ref();
        }
        // What a client says after its end, or ours, means nothing any more.
        let Some(browser) = &mut self.browser else { return Poll::Ready(Ok(buf.len())) };
        let written = ready!(Pin::new(browser).poll_write(cx, buf))?;
        if written == buf.len() {
            self.up = up;
        } else {
            self.up.advance(&buf[..written]);
        }
        self.bytes_up += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_news(cx);
        Poll::Ready(Ok(()))
    }

    /// The client's bytes end. If it has not closed before, it is gone.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.up.saw_close() {
            self.end_of_client();
        }
        match &mut self.browser {
            Some(browser) => Pin::new(browser).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for CdpSocket {
    fn drop(&mut self) {
        if self.up.saw_close() {
            self.end_of_client();
        }
    }
}
