//! The task behind an attachment: it holds one session after another until the process has exited or somebody with
//! authority said no.

use std::time::Duration;

use landfast_core::link::Close;
use landfast_core::record::Generation;
use landfast_core::redial::Presence;
use landfast_core::{ErrorCode, InstanceId, ProcessId};
use landfast_net::hold::{Ending, Holder};
use tokio::sync::{mpsc, watch};

use crate::attach::{Attach, Command, Said};
use crate::client::Client;
use crate::conversation::{Conversation, Event, State};
use crate::error::Error;
use crate::talk::{self, How, Memory, talk};
use crate::way::{Opened, Redialler, Way, say_reconnecting};

/// Bytes between the two ends in this process; the session's window is what really bounds them.
const PIPE: usize = 64 * 1024;

/// Keeps one attachment.
pub(crate) struct Keeper {
    way: Way,
    process: ProcessId,
    how: Attach,
    conversation: Conversation,
    memory: Memory,
    state: watch::Sender<State>,
}

/// What follows a session.
enum Next {
    Done,
    /// A new session where the last one stood, which is gone.
    Reattach,
    /// A new session for the redraw that it begins with.
    Redraw,
}

impl Keeper {
    pub(crate) fn new(
        client: Client,
        instance: InstanceId,
        process: ProcessId,
        how: Attach,
        state: watch::Sender<State>,
    ) -> Self {
        let way = Way::new(client, instance);
        let conversation = Conversation::new(how.from, how.redraw);
        Self { way, process, how, conversation, memory: Memory::default(), state }
    }

    /// Opens a session where the conversation stands, by the same policy as a redial.
    pub(crate) async fn open(&self, patience: Duration) -> Result<Opened, Error> {
        let head = || talk::attach_head(self.process, self.conversation.resume_from(), self.how.input);
        let say = |attempt, error: &Error| self.say_reconnecting(attempt, error.to_string());
        let opened = self.way.open(patience, head, 101, say).await?;
        self.state.send_replace(State::Connected);
        Ok(opened)
    }

    /// Holds sessions until the end. Returns `Ok` after the exit was told or the caller has left.
    pub(crate) async fn keep(
        mut self,
        mut opened: Opened,
        events: mpsc::Sender<Said>,
        mut commands: mpsc::Receiver<Command>,
    ) -> Result<(), Error> {
        loop {
            match self.hold(opened, &events, &mut commands).await? {
                Next::Done => return Ok(()),
                Next::Reattach => self.say_reconnecting(1, ErrorCode::SessionUnknown.sentence().to_owned()),
                Next::Redraw => {}
            }
            self.conversation.handle_session();
            opened = tokio::select! {
                opened = self.open(self.how.patience) => opened?,
                () = events.closed() => return Ok(()),
            };
        }
    }

    /// Holds one session, and says what follows it.
    async fn hold(
        &mut self,
        (socket, answer): Opened,
        events: &mpsc::Sender<Said>,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Result<Next, Error> {
        // The registry is not ours to watch: all we know is what our dials bring back.
        let (_, mut presence) = watch::channel(Presence::Unknown);
        let mut dialer = Redialler::new(self.way.clone(), self.state.clone());
        let mut holder = Holder::new(socket, &answer, Generation(0)).with_resume_window(self.how.patience);
        let (near, mut far) = tokio::io::duplex(PIPE);
        let (how, ending) = {
            let talk = talk(&mut self.conversation, &mut self.memory, near, events, commands, &self.state);
            let mut talk = std::pin::pin!(talk);
            let first = tokio::select! {
                biased;
                ending = holder.run(&mut far, &mut dialer, &mut presence) => Err(ending),
                how = &mut talk => Ok(how),
            };
            match first {
                Ok(how) => (how, None),
                Err(ending) => {
                    // What the session had handed on still reaches the caller.
                    drop(far);
                    (talk.await, Some(ending))
                }
            }
        };
        // A far end that ended in answer to our close has heard everything before it.
        let heard_all = matches!(ending, Some(Ending::Far(_)));
        let unsure = !heard_all && (holder.unacknowledged() > 0 || self.memory.is_sending());
        // Also to a far end that was the one to end: until it is answered it keeps the session for another link.
        holder.leave(Close::new(ErrorCode::ClientClose, "")).await;
        let next = self.after(how, ending)?;
        if !matches!(next, Next::Done) && unsure {
            // A caller that has gone needs no news; the next session finds that out.
            let _ = events.send(Said { event: Event::InputUnsure, offset: self.conversation.offset() }).await;
        }
        Ok(next)
    }

    fn after(&self, how: How, ending: Option<Ending>) -> Result<Next, Error> {
        if self.conversation.has_exited() {
            return Ok(Next::Done);
        }
        match (how, ending) {
            (How::Left, _) => Ok(Next::Done),
            (How::Torn, _) => Ok(Next::Redraw),
            (How::Broken(sentence), _) => Err(Error::Protocol(sentence)),
            (How::Closed(close), _) => {
                let reason = close.map_or_else(String::new, |(_, reason)| reason);
                Err(Error::Ended { code: reason.split(' ').next().and_then(ErrorCode::parse), reason })
            }
            (How::Eof, Some(Ending::Refused(ErrorCode::SessionUnknown))) => Ok(Next::Reattach),
            (How::Eof, Some(Ending::Refused(code))) => Err(Error::Ended { code: Some(code), reason: String::new() }),
            (How::Eof, Some(Ending::Far(Close { code, reason }))) => Err(Error::Ended { code: Some(code), reason }),
            (How::Eof, Some(Ending::Local(_)) | None) => Err(Error::Ended { code: None, reason: String::new() }),
        }
    }

    fn say_reconnecting(&self, attempt: usize, why: String) {
        say_reconnecting(&self.state, attempt, why);
    }
}
