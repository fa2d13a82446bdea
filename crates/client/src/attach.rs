//! Attaching to a process, and staying attached.
//!
//! What the caller holds is a stream of events and a way to send input. Behind it a task keeps the session: it holds the
//! client's end of the link, dials again when the link is lost, and begins a new session where the output stands when
//! the old one is gone. The caller sees a pause.

use std::time::Duration;

use bytes::Bytes;
use landfast_core::{InstanceId, ProcessId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::client::Client;
use crate::conversation::{Event, From, State};
use crate::error::Error;
use crate::keeper::Keeper;
use crate::way::FIRST_PATIENCE;

/// The most input in one frame, so that a signal or a resize never waits long behind a paste.
pub const INPUT_MAX: usize = 32 * 1024;

/// Events that wait for the caller; with output in pieces of 64 KiB at most that is a megabyte, the session's window again.
const EVENTS_WAITING: usize = 16;

/// Commands that wait for the session.
const COMMANDS_WAITING: usize = 16;

/// How long leaving in good order may take before it is done without the far end's word.
const LEAVING: Duration = Duration::from_secs(3);

/// How to attach.
#[derive(Clone, Copy, Debug)]
pub struct Attach {
    /// Where in the output to begin.
    pub from: From,
    /// Whether input may be sent.
    pub input: bool,
    /// How long to go on dialling while nothing answers, before the attachment fails.
    pub patience: Duration,
    /// Whether a gap in the output is followed by a redraw of the screen, from which output goes on: what was lost may
    /// have drawn what is still to be seen. For a process on a terminal only.
    pub redraw: bool,
}

/// A process as it is seen from here.
#[derive(Debug)]
pub struct Attached {
    events: mpsc::Receiver<Said>,
    state: watch::Receiver<State>,
    input: Input,
    keeper: Option<JoinHandle<Result<(), Error>>>,
    offset: Option<u64>,
}

/// The way to the process. Copies share it; what they send keeps each one's order.
#[derive(Clone, Debug)]
pub struct Input {
    commands: mpsc::Sender<Command>,
}

/// The attachment has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputClosed;

/// An event, and where the output log stands after it.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) event: Event,
    pub(crate) offset: Option<u64>,
}

/// What the caller wants sent.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Write(Bytes),
    Resize { rows: u16, cols: u16 },
    Signal(String),
    Eof,
    Leave,
}

impl Attach {
    /// Attaches with input, and goes on dialling for ten minutes: a commuter's tunnel, and a laptop carried to another
    /// room.
    pub const fn from(from: From) -> Self {
        Self { from, input: true, patience: Duration::from_secs(600), redraw: false }
    }
}

impl Client {
    /// Attaches to a process. Returns when the session stands.
    ///
    /// Cancel safe: with the future goes the session.
    ///
    /// # Errors
    ///
    /// The refusal, for example `process.unknown`; or a transport failure that outlasted the first minute.
    pub async fn attach(&self, instance: InstanceId, process: ProcessId, how: Attach) -> Result<Attached, Error> {
        let (events, said) = mpsc::channel(EVENTS_WAITING);
        let (commands, wanted) = mpsc::channel(COMMANDS_WAITING);
        let (state, mut seen) = watch::channel(State::Connected);
        let keeper = Keeper::new(self.clone(), instance, process, how, state);
        let opened = keeper.open(FIRST_PATIENCE).await?;
        // The first state is news too.
        seen.mark_changed();
        let keeper = tokio::spawn(keeper.keep(opened, events, wanted));
        Ok(Attached { events: said, state: seen, input: Input { commands }, keeper: Some(keeper), offset: None })
    }
}

impl Attached {
    /// The next event; `None` after the exit was told.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// Why the attachment ended without an exit. Told once; then `None`.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        tokio::select! {
            biased;
            Ok(()) = self.state.changed() => Ok(Some(Event::State(self.state.borrow_and_update().clone()))),
            said = self.events.recv() => match said {
                Some(Said { event, offset }) => {
                    self.offset = offset;
                    Ok(Some(event))
                }
                None => self.ending().await.map(|()| None),
            },
        }
    }

    /// Where the output log stands after the last event, for [`From::Offset`]; `None` as long as that is not known.
    pub const fn offset(&self) -> Option<u64> {
        self.offset
    }

    /// The way to the process.
    pub fn input(&self) -> Input {
        self.input.clone()
    }

    /// Leaves in good order: what was sent before goes first. The process goes on.
    pub async fn detach(mut self) {
        // A session that takes no more input, or a cell out of reach, is left without a word: that is not a failure.
        let _ = timeout(LEAVING, async {
            let _ = self.input.send(Command::Leave).await;
            while self.events.recv().await.is_some() {}
            let _ = self.ending().await;
        })
        .await;
    }

    async fn ending(&mut self) -> Result<(), Error> {
        let Some(keeper) = &mut self.keeper else { return Ok(()) };
        let ending =
            keeper.await.unwrap_or_else(|panic| Err(Error::Protocol(format!("the attachment failed: {panic}"))));
        self.keeper = None;
        ending
    }
}

impl Input {
    /// Sends input. Waits while the process takes none.
    ///
    /// Cancel safe for at most [`INPUT_MAX`] bytes: then all were sent or none. Of more, a part may have been.
    ///
    /// # Errors
    ///
    /// [`InputClosed`].
    pub async fn write(&self, bytes: impl Into<Bytes>) -> Result<(), InputClosed> {
        let mut bytes = bytes.into();
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(INPUT_MAX));
            self.send(Command::Write(piece)).await?;
        }
        Ok(())
    }

    /// Tells the terminal its size. It is told again to a new session. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`InputClosed`].
    pub async fn resize(&self, rows: u16, cols: u16) -> Result<(), InputClosed> {
        self.send(Command::Resize { rows, cols }).await
    }

    /// Sends a signal to the process group, by its name without `SIG`. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`InputClosed`].
    pub async fn signal(&self, name: &str) -> Result<(), InputClosed> {
        self.send(Command::Signal(name.to_owned())).await
    }

    /// Ends the input. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`InputClosed`].
    pub async fn eof(&self) -> Result<(), InputClosed> {
        self.send(Command::Eof).await
    }

    async fn send(&self, command: Command) -> Result<(), InputClosed> {
        self.commands.send(command).await.map_err(|_| InputClosed)
    }
}

impl std::fmt::Display for InputClosed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the attachment has ended")
    }
}

impl std::error::Error for InputClosed {}
