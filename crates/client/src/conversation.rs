//! What an attachment knows, without IO: how far into the process's output log it is, and what was told once already.
//!
//! A session survives its links. When the session itself is gone (the agent kept it for as long as it promises, and no
//! longer), a new one begins where this count stands, so that the caller still gets every byte once.

use bytes::{Buf, Bytes};
use serde::{Deserialize, Serialize};

use crate::frames::Message;

/// The subprotocol of a process attachment.
pub(crate) const SUBPROTOCOL: &str = "landfast.process.v1";

/// Where in the output an attachment begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// With the oldest output that is kept.
    Start,
    /// With a redraw of the terminal's present screen.
    Screen,
    /// With what comes next.
    Now,
    /// With the byte at this offset of the output log.
    Offset(u64),
}

/// Which of a process's outputs bytes came from. A terminal has one: `Stdout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal's.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a process ended, as a shell would say it: its exit code, or 128 and the signal's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus(pub i32);

/// What a process said or did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its next output. A redraw of the screen arrives as output of the terminal too.
    Output {
        /// Where the bytes came from.
        stream: Stream,
        /// The bytes.
        bytes: Bytes,
    },
    /// Everything before was said before the attachment began; what follows is live. Told once.
    ReplayEnd {
        /// The offset of the next byte in the output log.
        offset: u64,
    },
    /// This part of the output is no longer kept and cannot be had.
    Gap {
        /// The first byte lost.
        from: u64,
        /// The first byte after the loss.
        to: u64,
    },
    /// Some input may not have reached the process: it was under way when the session ended. It is not sent again,
    /// because that could type it twice.
    InputUnsure,
    /// It has exited. Told once, and last.
    Exit(ExitStatus),
    /// The connection changed. Nothing is lost by it.
    State(State),
}

/// How the connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// A link stands.
    Connected,
    /// None does; the client is at it.
    Reconnecting {
        /// How often it has tried since the last link was lost.
        attempt: usize,
        /// What went wrong last.
        why: String,
    },
}

/// What a message meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Something for the caller.
    Event(Event),
    /// A ping to answer.
    Ping(Vec<u8>),
    /// The far end closed.
    Close(Option<(u16, String)>),
    /// Nothing to pass on.
    Nothing,
}

/// The bookkeeping of one attachment over any number of sessions.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    from: From,
    /// The offset of the next output byte; unknown until the agent tells, when the attachment began with `Screen` or
    /// `Now`.
    offset: Option<u64>,
    /// Whether this session still replays. A redraw is no part of the log and is not counted.
    redrawing: bool,
    /// Whether a gap is to be followed by a redraw, and whether there was one.
    redraws: bool,
    is_torn: bool,
    replay_ended: bool,
    exit: Option<ExitStatus>,
}

impl Conversation {
    pub(crate) fn new(from: From, redraws: bool) -> Self {
        let offset = match from {
            From::Offset(offset) => Some(offset),
            From::Start => Some(0),
            From::Screen | From::Now => None,
        };
        let redrawing = from == From::Screen;
        Self { from, offset, redrawing, redraws, is_torn: false, replay_ended: false, exit: None }
    }

    /// Where the next session has to begin.
    pub(crate) fn resume_from(&self) -> From {
        self.offset.map_or(self.from, From::Offset)
    }

    /// Whether output was lost, so that only a redraw in a new session shows the screen.
    pub(crate) const fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// A new session begins there.
    pub(crate) fn handle_session(&mut self) {
        if std::mem::take(&mut self.is_torn) {
            (self.from, self.offset) = (From::Screen, None);
        }
        self.redrawing = self.resume_from() == From::Screen;
    }

    /// The offset of the next output byte, once it is known.
    pub(crate) const fn offset(&self) -> Option<u64> {
        self.offset
    }

    /// Whether the exit was told.
    pub(crate) const fn has_exited(&self) -> bool {
        self.exit.is_some()
    }

    /// Takes the next message.
    ///
    /// # Errors
    ///
    /// What no agent says, as a sentence.
    pub(crate) fn handle_message(&mut self, message: Message) -> Result<Heard, String> {
        match message {
            Message::Ping(payload) => Ok(Heard::Ping(payload)),
            Message::Close(close) => Ok(Heard::Close(close)),
            Message::Text(text) => self.handle_text(&text),
            Message::Binary(mut bytes) => {
                let Some(&channel) = bytes.first() else { return Ok(Heard::Nothing) };
                bytes.advance(1);
                self.handle_channel(channel, bytes)
            }
        }
    }

    fn handle_text(&mut self, text: &str) -> Result<Heard, String> {
        #[derive(Deserialize)]
        struct Note {
            offset: Option<u64>,
        }
        let note: Note =
            serde_json::from_str(text).map_err(|error| format!("a note that is no JSON object: {error}"))?;
        if let Some(offset) = note.offset {
            self.agree(offset)?;
        }
        Ok(Heard::Nothing)
    }

    fn handle_channel(&mut self, channel: u8, payload: Bytes) -> Result<Heard, String> {
        let event = match channel {
            1 => self.output(Stream::Stdout, payload),
            2 => self.output(Stream::Stderr, payload),
            3 => return self.handle_exit(&payload),
            4 => return self.handle_replay_end(&payload),
            5 => self.gap(&payload)?,
            other => return Err(format!("a frame of the unknown channel {other:#04x}")),
        };
        Ok(Heard::Event(event))
    }

    fn output(&mut self, stream: Stream, bytes: Bytes) -> Event {
        if !self.redrawing
            && let Some(offset) = &mut self.offset
        {
            *offset += bytes.len() as u64;
        }
        Event::Output { stream, bytes }
    }

    fn handle_exit(&mut self, payload: &[u8]) -> Result<Heard, String> {
        let code = <[u8; 4]>::try_from(payload)
            .map(i32::from_be_bytes)
            .map_err(|_| "an exit that is not four bytes".to_owned())?;
        if self.exit.is_some() {
            return Err("a second exit".to_owned());
        }
        self.exit = Some(ExitStatus(code));
        Ok(Heard::Event(Event::Exit(ExitStatus(code))))
    }

    fn handle_replay_end(&mut self, payload: &[u8]) -> Result<Heard, String> {
        let offset = number(payload).ok_or("a replay end that is not eight bytes")?;
        self.redrawing = false;
        self.agree(offset)?;
        if std::mem::replace(&mut self.replay_ended, true) {
            return Ok(Heard::Nothing);
        }
        Ok(Heard::Event(Event::ReplayEnd { offset }))
    }

    fn gap(&mut self, payload: &[u8]) -> Result<Event, String> {
        let (Some(from), Some(to)) = (payload.get(..8).and_then(number), payload.get(8..).and_then(number)) else {
            return Err("a gap that is not sixteen bytes".to_owned());
        };
        if to <= from {
            return Err(format!("a gap from {from} to {to}"));
        }
        self.agree(from)?;
        self.offset = Some(to);
        self.is_torn = self.redraws;
        Ok(Event::Gap { from, to })
    }

    /// The agent says where we are. If we count differently, bytes were lost or doubled, and saying so is the only
    /// honest thing left.
    fn agree(&mut self, offset: u64) -> Result<(), String> {
        match self.offset {
            Some(ours) if ours != offset => Err(format!("the agent's output offset is {offset}, ours is {ours}")),
            _ if self.redrawing => Ok(()),
            _ => {
                self.offset = Some(offset);
                Ok(())
            }
        }
    }
}

/// What the caller asks of the process beside its input, as the JSON of a text frame.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Control<'a> {
    Resize { rows: u16, cols: u16 },
    Signal(&'a str),
    Eof(bool),
}

fn number(payload: &[u8]) -> Option<u64> {
    payload.try_into().map(u64::from_be_bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(channel: u8, parts: &[&[u8]]) -> Message {
        Message::Binary([&[channel], parts.concat().as_slice()].concat().into())
    }

    fn replay_end(offset: u64) -> Message {
        frame(4, &[&offset.to_be_bytes()])
    }

    fn gap(from: u64, to: u64) -> Message {
        frame(5, &[&from.to_be_bytes(), &to.to_be_bytes()])
    }

    fn hear(conversation: &mut Conversation, message: Message) -> Heard {
        conversation.handle_message(message).unwrap()
    }

    #[test]
    fn every_output_byte_counts_on_either_stream() {
        let mut conversation = Conversation::new(From::Start, false);
        hear(&mut conversation, frame(1, &[b"out"]));
        hear(&mut conversation, frame(2, &[b"err!"]));
        assert_eq!(conversation.resume_from(), From::Offset(7));
    }

    #[test]
    fn a_redraw_does_not_count_but_what_follows_it_does() {
        let mut conversation = Conversation::new(From::Screen, false);
        hear(&mut conversation, frame(1, &[b"\x1b[2Jredraw"]));
        assert_eq!(conversation.resume_from(), From::Screen);
        hear(&mut conversation, replay_end(900));
        hear(&mut conversation, frame(1, &[b"live"]));
        assert_eq!(conversation.resume_from(), From::Offset(904));
    }

    #[test]
    fn the_replay_ends_once_over_any_number_of_sessions() {
        let mut conversation = Conversation::new(From::Now, false);
        assert_eq!(hear(&mut conversation, replay_end(5)), Heard::Event(Event::ReplayEnd { offset: 5 }));
        conversation.handle_session();
        hear(&mut conversation, frame(1, &[b"missed"]));
        assert_eq!(hear(&mut conversation, replay_end(11)), Heard::Nothing);
    }

    #[test]
    fn a_gap_moves_the_count_past_what_was_lost() {
        let mut conversation = Conversation::new(From::Offset(10), false);
        assert_eq!(hear(&mut conversation, gap(10, 25)), Heard::Event(Event::Gap { from: 10, to: 25 }));
        hear(&mut conversation, frame(1, &[b"rest"]));
        assert_eq!(conversation.resume_from(), From::Offset(29));
    }

    #[test]
    fn a_gap_on_a_terminal_is_followed_by_a_redraw_from_which_it_counts() {
        let mut conversation = Conversation::new(From::Offset(10), true);
        assert_eq!(hear(&mut conversation, gap(10, 25)), Heard::Event(Event::Gap { from: 10, to: 25 }));
        assert!(conversation.is_torn());
        conversation.handle_session();
        assert_eq!((conversation.resume_from(), conversation.is_torn()), (From::Screen, false));
        hear(&mut conversation, frame(1, &[b"\x1b[2Jredraw"]));
        hear(&mut conversation, replay_end(900));
        hear(&mut conversation, frame(1, &[b"live"]));
        conversation.handle_session();
        assert_eq!(conversation.resume_from(), From::Offset(904));
    }

    #[test]
    fn an_agent_that_counts_differently_is_not_believed_silently() {
        let mut conversation = Conversation::new(From::Start, false);
        hear(&mut conversation, frame(1, &[b"four"]));
        let note = Message::Text(r#"{"offset":5}"#.to_owned());
        assert!(conversation.handle_message(note).unwrap_err().contains("ours is 4"));
    }

    #[test]
    fn a_second_exit_is_an_error() {
        let mut conversation = Conversation::new(From::Start, false);
        let exit = || frame(3, &[&143i32.to_be_bytes()]);
        assert_eq!(hear(&mut conversation, exit()), Heard::Event(Event::Exit(ExitStatus(143))));
        assert!(conversation.handle_message(exit()).is_err());
    }

    #[test]
    fn empty_frames_and_unknown_notes_mean_nothing() {
        let mut conversation = Conversation::new(From::Start, false);
        assert_eq!(hear(&mut conversation, Message::Binary(Bytes::new())), Heard::Nothing);
        assert_eq!(hear(&mut conversation, Message::Text(r#"{"later":1}"#.to_owned())), Heard::Nothing);
    }

    #[test]
    fn controls_are_the_json_the_agent_reads() {
        let json = |control| serde_json::to_string(&control).unwrap();
        assert_eq!(json(Control::Resize { rows: 24, cols: 80 }), r#"{"resize":{"rows":24,"cols":80}}"#);
        assert_eq!(json(Control::Signal("INT")), r#"{"signal":"INT"}"#);
        assert_eq!(json(Control::Eof(true)), r#"{"eof":true}"#);
    }
}
