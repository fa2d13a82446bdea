//! One viewer of a process: the far end of a WebSocket, as a stream of its raw bytes.
//!
//! Nothing is pushed at a viewer. Whoever carries its bytes reads when the way to the client has room, and what is read
//! comes from the log at the viewer's own offset at that moment. So a slow viewer holds back only itself, costs no
//! memory, and is told exactly what it missed. No frame is begun that is not finished in the same read, or the log could
//! let go of its second half.

use std::io::{self, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use landfast_core::link::Close;
use landfast_core::ws::{CONTROL_MAX, HEADER_MAX, Header, Opcode, apply_mask, encode_close, encode_server};
use landfast_core::{ErrorCode, Problem};
use landfast_net::far::Far;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;
use crate::frames::{Frames, Heard};
use crate::kill;
use crate::log::{Piece, Stream};
use crate::process::{Life, Pace, Process, State, Viewer};
use crate::pty::Size;
use crate::screen::Redraw;

/// The most bytes of a binary message, its channel byte included.
const MESSAGE_MAX: usize = 64 * 1024;

/// How much output passes before the client is told its offset again.
const OFFSET_EVERY: u64 = 64 * 1024;

/// Less room than this is not worth a frame of its own size: a small one is put together beside it.
const ROOM_MIN: usize = 256;

/// The first byte of a binary message.
mod channel {
    pub(super) const STDOUT: u8 = 0x01;
    pub(super) const STDERR: u8 = 0x02;
    pub(super) const EXIT: u8 = 0x03;
    pub(super) const LIVE: u8 = 0x04;
    pub(super) const GAP: u8 = 0x05;
}

/// Where in a process's output a viewer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// With its first byte.
    Start,
    /// With what it says next.
    Now,
    /// With what its terminal shows.
    Screen,
    /// At an offset of the log.
    Offset(u64),
}

/// What a viewer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) from: From,
    /// Whether it may touch the process.
    pub(crate) takes_input: bool,
    /// How many bytes of the log it is sent beyond the last one that it said it has taken; no bound if not said.
    pub(crate) window: Option<u64>,
}

/// A viewer of a process.
pub(crate) struct Attachment {
    viewer: Viewer,
    /// Waits for room for input, apart from the viewer's waiting for output.
    typist: Viewer,
    takes_input: bool,
    frames: Frames,
    /// A redraw, and how much of it was sent.
    redraw: Option<(Vec<u8>, usize)>,
    /// The offset of the next byte of the log.
    at: u64,
    /// Whether the process goes at this viewer's pace.
    sets_pace: bool,
    /// Where replay ends; `None` once that was told.
    live_from: Option<u64>,
    /// The offset the client was told last.
    told: u64,
    window: Option<u64>,
    /// The offset up to which the client has taken what it was sent.
    taken: u64,
    /// Small frames that are under way, and how much of them was read.
    pending: Vec<u8>,
    pending_read: usize,
    /// The ping that was not answered yet; only the newest counts.
    pong: Option<([u8; CONTROL_MAX], usize)>,
    /// The mark that was not given back yet; only the newest counts.
    mark: Option<u64>,
    ending: Option<Ending>,
    /// Wakes the reader when the writer has caused something to be read.
    reader: Option<Waker>,
    over: CancellationToken,
}

/// Why and how a viewer's connection ends.
#[derive(Clone, Debug)]
struct Ending {
    cause: Close,
    /// The close frame that is still to be sent: its code and reason.
    frame: Option<(u16, String)>,
}

/// Where a viewer begins, where replay ends for it, and what is drawn before.
struct Beginning {
    at: u64,
    live_from: u64,
    redraw: Option<(Vec<u8>, usize)>,
}

/// A text message of a client.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Control {
    Resize(Size),
    Signal(String),
    Eof(bool),
    /// Is given back once everything before it was taken, for clients that cannot ping.
    Mark(u64),
    /// The output before this offset was taken, from clients that cannot let their connection fill.
    Taken(u64),
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl Attachment {
    /// Attaches. What was said up to now, and what will be said, is one log: nothing falls between the two.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ProcessNoTerminal`] for a screen where there is none, [`ErrorCode::RequestInvalid`] for an offset
    /// that the log has not come to, [`ErrorCode::ProcessNotRunning`] if what it said was lost with its agent.
    pub(crate) fn new(process: &Arc<Process>, wish: Wish) -> Result<Self, Problem> {
        let Wish { from, takes_input, window } = wish;
        // First: a viewer that is refused was never attached, and so does not leave.
        let (Beginning { at, live_from, redraw }, sets_pace) = {
            let mut state = process.state();
            let beginning = begin(&mut state, from)?;
            let sets_pace = matches!(state.pace, Pace::Awaiting { .. });
            if sets_pace {
                process.set_pace(&mut state, Pace::Viewer(beginning.at));
            }
            (beginning, sets_pace)
        };
        Ok(Self {
            viewer: Viewer::attach(process.clone()),
            typist: Viewer::watch(process.clone()),
            takes_input,
            frames: Frames::new(),
            redraw,
            at,
            sets_pace,
            live_from: Some(live_from),
            told: at,
            window,
            taken: at,
            pending: Vec::new(),
            pending_read: 0,
            pong: None,
            mark: None,
            ending: None,
            reader: None,
            over: CancellationToken::new(),
        })
    }

    /// Is cancelled once everything was read, the close frame included.
    pub(crate) fn over(&self) -> CancellationToken {
        self.over.clone()
    }

    // --- out ---

    /// Puts what is next into `buf`; false if there is nothing now.
    fn write_next(&mut self, cx: &Context<'_>, buf: &mut ReadBuf<'_>) -> bool {
        if self.pending_read < self.pending.len() {
            let left = &self.pending[self.pending_read..];
            let n = left.len().min(buf.remaining());
            buf.put_slice(&left[..n]);
            self.pending_read += n;
            return true;
        }
        self.pending.clear();
        self.pending_read = 0;
        if let Some((payload, len)) = self.pong.take() {
            encode_server(Opcode::Pong, &[&payload[..len]], &mut self.pending);
            return true;
        }
        if let Some(mark) = self.mark.take() {
            encode_server(Opcode::Text, &[format!("{{\"mark\":{mark}}}").as_bytes()], &mut self.pending);
            return true;
        }
        if let Some(ending) = &mut self.ending {
            let Some((code, reason)) = ending.frame.take() else { return false };
            encode_close(code, &reason, &mut self.pending);
            return true;
        }
        self.write_output(cx, buf)
    }

    fn write_output(&mut self, cx: &Context<'_>, buf: &mut ReadBuf<'_>) -> bool {
        if let Some((redraw, sent)) = &mut self.redraw {
            *sent += put_frame(buf, &mut self.pending, Stream::Stdout, &redraw[*sent..]);
            if *sent == redraw.len() {
                self.redraw = None;
            }
            return true;
        }
        let process = self.viewer.process().clone();
        let mut state = process.state();
        if self.live_from.is_some_and(|from| self.at >= from) {
            self.live_from = None;
            self.push(channel::LIVE, &self.at.to_be_bytes());
            return true;
        }
        if self.window.is_some_and(|window| self.at.saturating_sub(self.taken) >= window) {
            return false;
        }
        match state.log.read(self.at) {
            Piece::Data(stream, bytes) => {
                let most = self.live_from.map_or(u64::MAX, |from| from - self.at);
                let bytes = &bytes[..bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX))];
                self.at += put_frame(buf, &mut self.pending, stream, bytes) as u64;
                if self.sets_pace {
                    process.set_pace(&mut state, Pace::Viewer(self.at));
                }
                self.tell_offset();
            }
            Piece::Gap { to } => {
                self.push(channel::GAP, &[self.at.to_be_bytes(), to.to_be_bytes()].concat());
                self.at = to;
            }
            Piece::End => return self.write_end(&mut state, cx),
        }
        true
    }

    fn write_end(&mut self, state: &mut State, cx: &Context<'_>) -> bool {
        match state.life {
            Life::Exited(exit) => {
                self.push(channel::EXIT, &Exit::status(exit).to_be_bytes());
                self.end(Close::new(ErrorCode::ProcessExited, ""));
                true
            }
            Life::Running | Life::Unknown => {
                self.viewer.wait(state, cx);
                false
            }
        }
    }

    fn tell_offset(&mut self) {
        if self.at - self.told < OFFSET_EVERY {
            return;
        }
        self.told = self.at;
        let mut number = [0; 20];
        let mut rest = number.as_mut_slice();
        write!(rest, "{}", self.at).expect("a u64 has at most 20 digits");
        let len = 20 - rest.len();
        encode_server(Opcode::Text, &[b"{\"offset\":", &number[..len], b"}"], &mut self.pending);
    }

    fn push(&mut self, channel: u8, payload: &[u8]) {
        encode_server(Opcode::Binary, &[&[channel], payload], &mut self.pending);
    }

    // --- in ---

    /// Reads the next piece of what the client says: how many bytes of it, or `None` if it has to wait.
    fn read_next(&mut self, cx: &Context<'_>, bytes: &[u8]) -> Option<usize> {
        let (consumed, heard) = match self.frames.next(bytes) {
            Ok(next) => next,
            Err(broken) => {
                self.refuse(broken.code(), &broken.to_string());
                return Some(bytes.len());
            }
        };
        match heard {
            Heard::Nothing => {}
            Heard::Input { len, mask, at } => return self.type_in(cx, &bytes[..len], mask, at),
            Heard::Text => self.obey(),
            Heard::Ping => {
                let (mut payload, control) = ([0; CONTROL_MAX], self.frames.control());
                payload[..control.len()].copy_from_slice(control);
                self.pong = Some((payload, control.len()));
            }
            Heard::Close(code) => {
                let cause = Close::new(ErrorCode::ClientClose, "");
                self.ending.get_or_insert(Ending { cause, frame: Some((code, String::new())) });
            }
        }
        Some(consumed)
    }

    /// Input for a process that takes none is dropped, as a terminal's would be: the client hears of the end anyway.
    fn type_in(&mut self, cx: &Context<'_>, bytes: &[u8], mask: [u8; 4], at: u64) -> Option<usize> {
        let process = self.typist.process().clone();
        let mut state = process.state();
        let taken = if self.takes_input && state.check_input().is_ok() {
            state.input.take_with(bytes, |from, part| apply_mask(mask, at + from as u64, part))
        } else {
            bytes.len()
        };
        if taken == 0 {
            self.typist.wait(&mut state, cx);
            return None;
        }
        drop(state);
        process.bell.notify_one();
        self.frames.took(taken);
        Some(taken)
    }

    /// Does what a text message says. A viewer without input may not touch the process.
    fn obey(&mut self) {
        let control = match serde_json::from_slice::<Control>(self.frames.text()) {
            Ok(control) => control,
            Err(error) => return self.refuse(ErrorCode::RequestInvalid, &error.to_string()),
        };
        let process = self.viewer.process().clone();
        let done = match control {
            Control::Mark(mark) => {
                self.mark = Some(mark);
                Ok(())
            }
            Control::Taken(offset) => {
                self.taken = self.taken.max(offset.min(self.at));
                self.wake_reader();
                Ok(())
            }
            _ if !self.takes_input => Ok(()),
            Control::Resize(size) => process.resize(size),
            Control::Eof(is_end) if is_end => process.end_input(),
            Control::Eof(_) => Ok(()),
            Control::Signal(name) => match kill::parse(&name) {
                Ok(signal) => process.signal(signal),
                Err(problem) => return self.refuse(problem.code, &problem.detail),
            },
        };
        // What comes too late, or has no effect on a process without a terminal, is no fault.
        if let Err(problem) = done {
            tracing::debug!(process = %process.id, %problem, "a control had no effect");
        }
    }

    fn refuse(&mut self, code: ErrorCode, detail: &str) {
        self.end(Close::new(code, detail));
    }

    /// Ends the connection after what is under way. The first cause counts.
    fn end(&mut self, cause: Close) {
        let separator = if cause.reason.is_empty() { "" } else { " " };
        let frame = (cause.code.close_or_1011(), format!("{}{separator}{}", cause.code, cause.reason));
        self.ending.get_or_insert(Ending { cause, frame: Some(frame) });
    }

    /// Lets the process go at its own pace: a viewer that has ended may be kept for a while, until its client knows.
    fn let_go(&mut self) {
        if std::mem::take(&mut self.sets_pace) {
            let process = self.viewer.process();
            process.set_pace(&mut process.state(), Pace::Process);
        }
    }

    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Whether everything was sent, the close frame included.
    fn is_over(&self) -> bool {
        self.ending.as_ref().is_some_and(|ending| ending.frame.is_none())
            && self.pong.is_none()
            && self.mark.is_none()
            && self.pending_read == self.pending.len()
    }
}

impl AsyncRead for Attachment {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        while buf.remaining() > 0 && !self.is_over() && self.write_next(cx, buf) {}
        if buf.filled().len() > before || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if self.is_over() {
            self.over.cancel();
            return Poll::Ready(Ok(()));
        }
        self.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Attachment {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut read = 0;
        // What a client says after its end, or ours, means nothing any more.
        while read < bytes.len() && self.ending.is_none() {
            match self.read_next(cx, &bytes[read..]) {
                Some(n) => read += n,
                None if read > 0 => break,
                None => return Poll::Pending,
            }
        }
        if self.ending.is_some() {
            self.let_go();
        }
        if self.pong.is_some() || self.mark.is_some() || self.ending.is_some() {
            self.wake_reader();
        }
        Poll::Ready(Ok(if self.ending.is_some() { bytes.len() } else { read }))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The client's bytes end without a close frame: it is gone, and nobody reads one.
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let cause = Close::new(ErrorCode::ClientLost, "");
        self.ending.get_or_insert(Ending { cause, frame: None });
        self.let_go();
        self.wake_reader();
        Poll::Ready(Ok(()))
    }
}

impl Far for Attachment {
    fn ending(&self) -> Close {
        self.ending.as_ref().map_or_else(|| Close::new(ErrorCode::ClientLost, ""), |ending| ending.cause.clone())
    }
}

/// Finds the place where a viewer begins.
fn begin(state: &mut State, from: From) -> Result<Beginning, Problem> {
    if state.life == Life::Unknown {
        let detail = "The process was lost with its agent; what it said and how it ended are not known.";
        return Err(Problem::new(ErrorCode::ProcessNotRunning, detail));
    }
    let end = state.log.end();
    match from {
        From::Start => Ok(Beginning { at: 0, live_from: end, redraw: None }),
        From::Now => Ok(Beginning { at: end, live_from: end, redraw: None }),
        From::Offset(at) if at <= end => Ok(Beginning { at, live_from: end, redraw: None }),
        From::Offset(at) => {
            Err(Problem::new(ErrorCode::RequestInvalid, format!("from is {at}, and the log ends at {end}.")))
        }
        From::Screen => {
            let Redraw { bytes, offset } = state.redraw()?;
            let redraw = Some((bytes, 0)).filter(|(bytes, _)| !bytes.is_empty());
            Ok(Beginning { at: offset, live_from: offset, redraw })
        }
    }
}

/// Puts one frame of output into `buf`, or where that is small a short one into `pending`, and returns how many of the
/// bytes are in it.
fn put_frame(buf: &mut ReadBuf<'_>, pending: &mut Vec<u8>, stream: Stream, bytes: &[u8]) -> usize {
    let channel = match stream {
        Stream::Stdout => channel::STDOUT,
        Stream::Stderr => channel::STDERR,
    };
    if buf.remaining() < ROOM_MIN {
        let n = bytes.len().min(ROOM_MIN);
        encode_server(Opcode::Binary, &[&[channel], &bytes[..n]], pending);
        return n;
    }
    let n = bytes.len().min(MESSAGE_MAX - 1).min(buf.remaining() - HEADER_MAX - 1);
    let mut header = [0; HEADER_MAX];
    let len = Header::server(Opcode::Binary, n as u64 + 1).encode(&mut header);
    buf.put_slice(&header[..len]);
    buf.put_slice(&[channel]);
    buf.put_slice(&bytes[..n]);
    n
}
