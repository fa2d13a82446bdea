//! Carries a session for as long as nothing changes: between its local stream, its machine and its present link, if any.
//!
//! This is the inner loop of every session at both ends. All state lives in the machine, so the future may be dropped at
//! any await and made again, with another link or none, and no byte is lost.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use landfast_core::link::ProtocolError;
use landfast_core::session::{Effect, Session};
use landfast_core::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

use crate::alarm::Alarm;
use crate::clock;
use crate::scratch;
use crate::socket::Socket;

/// Rounds of one poll before other tasks have their turn: a session between two fast sides would never pause by itself.
const ROUNDS_MAX: usize = 32;

/// What happened that the session's owner must decide about.
#[derive(Debug)]
pub enum Event {
    /// The link is lost; the session goes on.
    LinkLost(LinkLoss),
    /// The local side has ended, cleanly or by a failure. It is read no more once the session is finished.
    LocalEnded(Option<io::ErrorKind>),
    /// The peer has ended the session, and all it said was handed on.
    PeerClosed,
    /// Our CLOSE, and everything before it, is on the link.
    Finished,
}

/// The local side of a session at its client end.
pub trait Local: AsyncRead + AsyncWrite + Unpin {
    /// Ready once it has left, though what it said before is not read yet. Asked only while there is no link and no room
    /// for more of what it says, so that nobody is waited for who is not there; by default nothing is known of that.
    fn poll_left(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// Whoever drops the other side of one tells its holder by other means.
impl Local for DuplexStream {}

/// How a link was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLoss {
    /// The peer ended the connection.
    Eof,
    /// The connection failed.
    Io(io::ErrorKind),
    /// The peer answered no ping.
    Dead,
    /// The peer broke the protocol.
    Protocol(ProtocolError),
}

impl fmt::Display for LinkLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eof => f.write_str("ended by the peer"),
            Self::Io(kind) => kind.fmt(f),
            Self::Dead => f.write_str("no answer to pings"),
            Self::Protocol(error) => error.fmt(f),
        }
    }
}

/// What is kept between the calls of [`Carrier::carry`].
#[derive(Debug, Default)]
pub struct Carrier {
    alarm: Alarm,
    /// The event for our CLOSE was given for the present link.
    told_finished: bool,
}

impl Carrier {
    /// Moves bytes until something happens that is not the carrier's to decide. `link` is present exactly when the
    /// session has one.
    ///
    /// Cancel safe.
    pub async fn carry<L>(&mut self, local: &mut L, session: &mut Session, link: Option<&mut Socket>) -> Event
    where
        L: AsyncRead + AsyncWrite + Unpin,
    {
        self.carry_for(local, session, link, |_, _| Poll::Pending).await
    }

    /// The same for a local side that may leave while there is neither a link nor room: that is its end as well.
    ///
    /// Cancel safe.
    pub async fn carry_while_there<L>(
        &mut self,
        local: &mut L,
        session: &mut Session,
        link: Option<&mut Socket>,
    ) -> Event
    where
        L: Local,
    {
        self.carry_for(local, session, link, L::poll_left).await
    }

    async fn carry_for<L>(
        &mut self,
        local: &mut L,
        session: &mut Session,
        link: Option<&mut Socket>,
        mut poll_left: impl FnMut(&mut L, &mut Context<'_>) -> Poll<()>,
    ) -> Event
    where
        L: AsyncRead + AsyncWrite + Unpin,
    {
        debug_assert_eq!(link.is_some(), session.has_link());
        let mut link = link;
        std::future::poll_fn(|cx| {
            let mut round = Round { local, session, link: link.as_deref_mut(), now: clock::now() };
            let polled = round.poll(cx);
            if polled.is_ready() {
                return polled;
            }
            let is_stuck = !session.has_link() && session.room() == 0 && session.peer_close().is_none();
            if is_stuck && poll_left(local, cx).is_ready() {
                return Poll::Ready(Event::LocalEnded(None));
            }
            self.poll_finished(session).or_else(|| self.poll_timer(cx, session)).map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    fn poll_finished(&mut self, session: &Session) -> Option<Event> {
        let finished = session.is_close_sent();
        let told = std::mem::replace(&mut self.told_finished, finished);
        (finished && !told).then_some(Event::Finished)
    }

    /// Lets the machine do what time has made due, and sleeps until the next deadline.
    fn poll_timer(&mut self, cx: &mut Context<'_>, session: &mut Session) -> Option<Event> {
        loop {
            if self.alarm.poll(cx, session.next_deadline()?).is_pending() {
                return None;
            }
            if session.poll(clock::now()) == Some(Effect::LinkDead) {
                return Some(Event::LinkLost(LinkLoss::Dead));
            }
            // What became due, an ACK or a ping, is written in the next round.
            cx.waker().wake_by_ref();
        }
    }
}

/// Writes everything the session still has to say, its CLOSE included, and waits until the peer has ended too, so that
/// no reset overtakes the last bytes. At most for `patience`.
///
/// Cancel safe: what is dropped is a link whose session is over.
pub async fn say_goodbye(session: &mut Session, mut link: Socket, patience: Duration) {
    let goodbye = async {
        while session.compose() {
            let n = link.write_vectored(&session.outgoing().map(IoSlice::new)).await?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            session.handle_transmitted(n, clock::now());
        }
        link.shutdown().await?;
        tokio::io::copy(&mut link, &mut tokio::io::sink()).await
    };
    // Whoever does not listen any more has ended it as well.
    let _ = tokio::time::timeout(patience, goodbye).await;
}

/// One poll's view of the two sides.
struct Round<'a, L> {
    local: &'a mut L,
    session: &'a mut Session,
    link: Option<&'a mut Socket>,
    now: Instant,
}

/// Whether a step got anywhere, or what ended the carrying.
type Step = Result<bool, Event>;

impl<L: AsyncRead + AsyncWrite + Unpin> Round<'_, L> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        for _ in 0..ROUNDS_MAX {
            match self.step(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(event) => return Poll::Ready(event),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        let mut moved = self.hand_on(cx)?;
        moved |= self.read_link(cx)?;
        if !moved {
            // A side with a buffer of its own, such as TLS, may still have some of it.
            if let Poll::Ready(Err(error)) = Pin::new(&mut *self.local).poll_flush(cx) {
                return Err(Event::LocalEnded(Some(error.kind())));
            }
            if let Some(link) = self.link.as_deref_mut()
                && let Poll::Ready(Err(error)) = Pin::new(link).poll_flush(cx)
            {
                return Err(Event::LinkLost(LinkLoss::Io(error.kind())));
            }
        }
        if self.session.peer_close().is_some() && self.session.inbox_is_empty() {
            return Err(Event::PeerClosed);
        }
        moved |= self.read_local(cx)?;
        moved |= self.write_link(cx)?;
        Ok(moved)
    }

    /// Gives the local side what waits for it.
    fn hand_on(&mut self, cx: &mut Context<'_>) -> Step {
        let mut moved = false;
        while !self.session.inbox_is_empty() {
            let waiting = self.session.inbox().map(IoSlice::new);
            let Some(written) = write_local(cx, self.local, &waiting)? else { break };
            self.session.handle_handed_on(written, self.now);
            moved = true;
        }
        Ok(moved)
    }

    /// Reads the link once; data goes straight to the local side as far as it takes it.
    fn read_link(&mut self, cx: &mut Context<'_>) -> Step {
        scratch::with(|scratch| {
            let Some(link) = self.link.as_deref_mut() else { return Ok(false) };
            let mut space = ReadBuf::new(scratch);
            match Pin::new(link).poll_read(cx, &mut space) {
                Poll::Pending => Ok(false),
                Poll::Ready(Err(error)) => Err(Event::LinkLost(LinkLoss::Io(error.kind()))),
                Poll::Ready(Ok(())) if space.filled().is_empty() => Err(Event::LinkLost(LinkLoss::Eof)),
                Poll::Ready(Ok(())) => self.handle_input(cx, space.filled()),
            }
        })
    }

    fn handle_input(&mut self, cx: &mut Context<'_>, mut input: &[u8]) -> Step {
        let mut failed = None;
        while !input.is_empty() {
            let piece = self.session.handle_input(input, self.now);
            let piece = piece.map_err(|error| Event::LinkLost(LinkLoss::Protocol(error)))?;
            let direct = if failed.is_none() { self.write_directly(cx, piece.data) } else { Ok(0) };
            let direct = direct.unwrap_or_else(|event| {
                failed = Some(event);
                0
            });
            self.session.handle_data(piece.data, direct, self.now);
            input = &input[piece.consumed..];
        }
        // Everything that was read is accounted for before the local side's failure is told.
        failed.map_or(Ok(true), Err)
    }

    fn write_directly(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Result<usize, Event> {
        let mut written = 0;
        while written < data.len() && self.session.inbox_is_empty() {
            let Some(n) = write_local(cx, self.local, &[IoSlice::new(&data[written..])])? else { break };
            written += n;
        }
        Ok(written)
    }

    /// Takes from the local side as much as the window has room for.
    fn read_local(&mut self, cx: &mut Context<'_>) -> Step {
        let room = self.session.room();
        if room == 0 {
            return Ok(false);
        }
        let read = if self.session.has_buffer() {
            let mut space = ReadBuf::new(self.session.spare());
            let read = Pin::new(&mut *self.local).poll_read(cx, &mut space);
            let n = space.filled().len();
            read.map_ok(|()| self.session.handle_taken(n, self.now)).map_ok(|()| n)
        } else {
            scratch::with(|scratch| {
                let most = room.min(scratch.len());
                let mut space = ReadBuf::new(&mut scratch[..most]);
                let read = Pin::new(&mut *self.local).poll_read(cx, &mut space);
                read.map_ok(|()| {
                    self.session.take(space.filled(), self.now);
                    space.filled().len()
                })
            })
        };
        match read {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) => Err(Event::LocalEnded(None)),
            Poll::Ready(Ok(_)) => Ok(true),
            Poll::Ready(Err(error)) => Err(Event::LocalEnded(Some(error.kind()))),
        }
    }

    /// Writes what the machine wants to say.
    fn write_link(&mut self, cx: &mut Context<'_>) -> Step {
        let Some(link) = self.link.as_deref_mut() else { return Ok(false) };
        let mut moved = false;
        while self.session.compose() {
            let outgoing = self.session.outgoing().map(IoSlice::new);
            match Pin::new(&mut *link).poll_write_vectored(cx, &outgoing) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Err(Event::LinkLost(LinkLoss::Io(io::ErrorKind::WriteZero))),
                Poll::Ready(Ok(n)) => self.session.handle_transmitted(n, self.now),
                Poll::Ready(Err(error)) => return Err(Event::LinkLost(LinkLoss::Io(error.kind()))),
            }
            moved = true;
        }
        Ok(moved)
    }
}

/// Writes to the local side: how much it took, or `None` if it takes nothing now.
fn write_local<L>(cx: &mut Context<'_>, local: &mut L, bytes: &[IoSlice<'_>]) -> Result<Option<usize>, Event>
where
    L: AsyncWrite + Unpin,
{
    match Pin::new(local).poll_write_vectored(cx, bytes) {
        Poll::Pending => Ok(None),
        Poll::Ready(Ok(0)) => Err(Event::LocalEnded(Some(io::ErrorKind::WriteZero))),
        Poll::Ready(Ok(n)) => Ok(Some(n)),
        Poll::Ready(Err(error)) => Err(Event::LocalEnded(Some(error.kind()))),
    }
}
