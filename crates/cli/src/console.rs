//! The local side of an attachment: keys and pipes go in, output comes out, and nothing else is disturbed.
//!
//! One task decides. Reading standard input and writing the outputs may block for as long as a pipe's other end likes,
//! so each has a thread of its own, joined by short queues; the task itself can always hear a signal or an escape.

use std::collections::VecDeque;
use std::future::pending;
use std::io::{self, IsTerminal, Read, Write};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use landfast_client::{Attached, Event, ExitStatus, INPUT_MAX, Input, InputClosed, State, Stream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, Permit};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use crate::escape::{Escapes, HELP, Wish};
use crate::failure::{Failure, TRANSPORT};
use crate::notice::Notice;
use crate::screen::Screen;
use crate::terminal::{self, RawMode};

/// Pieces of output that wait for a slow reader; beyond them the process is held back.
const OUTPUT_WAITING: usize = 8;

/// Pieces of input that wait for a slow process while the keyboard is still heard, for the sake of the escape.
const INPUT_WAITING: usize = 256;

/// How long what was typed before leaving may take to be sent.
const LAST_INPUT: Duration = Duration::from_secs(1);

/// How long the last output may take to be written when the person has left.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// Ends a control sequence that was cut in the middle, and plain text follows.
const AFRESH: &[u8] = b"\x18\x1b[m";

/// The size of a terminal that nobody sees.
const UNSEEN: (u16, u16) = (24, 80);

/// What is wanted of the local side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wants {
    /// The process has a terminal: keys are passed on as they are, and escapes count.
    pub(crate) tty: bool,
    /// Standard input is passed on.
    pub(crate) input: bool,
    /// The end of standard input is passed on.
    pub(crate) eof: bool,
    /// The first interrupt is for the process.
    pub(crate) forward_interrupt: bool,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// Bytes of output that were no longer kept when it was their turn.
    pub(crate) evicted: u64,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The process has exited.
    Exited(ExitStatus),
    /// The person left, and wants what was started hung up.
    Left,
    /// The person left, and wants it to go on.
    Detached,
    /// Nobody reads the output any more.
    OutputClosed,
    /// A signal told us to end.
    Signalled(i32),
}

/// Joins the local side to a process until either ends.
///
/// # Errors
///
/// Why the attachment ended without an exit.
pub(crate) async fn join(attached: Attached, wants: Wants) -> Result<Joined, Failure> {
    let mut signals =
        Signals::listen().map_err(|error| Failure::local(format!("Signals cannot be heard: {error}.")))?;
    let raw = wants.tty && wants.input && io::stdin().is_terminal();
    let raw = raw.then(RawMode::enter).transpose();
    let raw = raw.map_err(|error| Failure::local(format!("The terminal cannot be made raw: {error}.")))?;
    let (output, mut written) = write_outputs();
    let mut console = Console::new(wants, attached.input(), raw.is_some());
    let result = console.run(attached, &output, &mut signals).await;
    console.tidy(&output).await;
    drop(output);
    // After an exit every byte is owed to the reader; a person who has left is not kept by one that takes none.
    match &result {
        Ok(Outcome::Exited(_)) => tokio::select! {
            _ = &mut written => {}
            _ = signals.ending() => {}
        },
        Ok(_) | Err(_) => drop(timeout(LAST_OUTPUT, written).await),
    }
    drop(raw);
    Ok(Joined { outcome: result?, evicted: console.evicted })
}

/// The task's state.
struct Console {
    wants: Wants,
    input: Input,
    /// The local terminal is raw.
    raw: bool,
    /// What waits to be sent, in order.
    backlog: VecDeque<Outgoing>,
    escapes: Escapes,
    /// What a terminal's output has done to the local one.
    screen: Option<Screen>,
    notice: Notice,
    interrupted: bool,
    evicted: u64,
}

/// Something for the process.
#[derive(Clone, Debug)]
enum Outgoing {
    Bytes(Bytes),
    Resize(u16, u16),
    Interrupt,
    Eof,
}

/// Something for a reader of ours.
#[derive(Debug)]
struct Written {
    stream: Stream,
    bytes: Bytes,
}

impl Console {
    fn new(wants: Wants, input: Input, raw: bool) -> Self {
        let (rows, cols) = terminal::size().unwrap_or(UNSEEN);
        let backlog = if raw { VecDeque::from([Outgoing::Resize(rows, cols)]) } else { VecDeque::new() };
        let screen = wants.tty.then(|| Screen::new(rows, cols));
        let (escapes, notice) = (Escapes::default(), Notice::default());
        Self { wants, input, raw, backlog, escapes, screen, notice, interrupted: false, evicted: 0 }
    }

    async fn run(
        &mut self,
        mut attached: Attached,
        output: &mpsc::Sender<Written>,
        signals: &mut Signals,
    ) -> Result<Outcome, Failure> {
        let mut typed = if self.wants.input { Some(read_input()) } else { None };
        let mut room: Option<Permit<'_, Written>> = None;
        let outcome = loop {
            tokio::select! {
                biased;
                kind = signals.next() => if let Some(outcome) = self.handle_signal(kind) { break outcome },
                permit = output.reserve(), if room.is_none() => match permit {
                    Ok(permit) => room = Some(permit),
                    Err(_) => break Outcome::OutputClosed,
                },
                keys = receive(&mut typed), if self.backlog.len() < INPUT_WAITING => match keys {
                    Some(keys) => if let Some(outcome) = self.handle_typed(keys, output) { break outcome },
                    None => {
                        typed = None;
                        self.backlog.extend(self.wants.eof.then_some(Outgoing::Eof));
                    }
                },
                sent = deliver(&self.input, self.backlog.front()) => match sent {
                    Ok(()) => drop(self.backlog.pop_front()),
                    // The next event says why.
                    Err(InputClosed) => self.backlog.clear(),
                },
                event = attached.next(), if room.is_some() => match event? {
                    Some(Event::Exit(status)) => return Ok(Outcome::Exited(status)),
                    Some(event) => self.handle_event(event, &mut room)?,
                    None => return Err(transport("The attachment ended without an exit status.")),
                },
                () = until(self.notice.due()), if room.is_some() => self.show_notice(&mut room),
            }
        };
        drop(room);
        self.leave(attached).await;
        Ok(outcome)
    }

    fn handle_event(&mut self, event: Event, room: &mut Option<Permit<'_, Written>>) -> Result<(), Failure> {
        match event {
            Event::Output { stream, bytes } => {
                if let Some(screen) = &mut self.screen {
                    screen.process(&bytes);
                }
                self.notice.handle_output(&bytes);
                write(room, stream, bytes);
            }
            Event::State(State::Reconnecting { attempt, why }) => self.notice.lose(attempt, &why, Instant::now()),
            Event::State(State::Connected) => {
                if let Some(sequence) = self.notice.hide(self.screen.as_ref()).filter(|_| terminal::is_seen()) {
                    write(room, Stream::Stderr, sequence.into());
                }
            }
            Event::Gap { from, to } => {
                self.evicted += to - from;
                if let Some(screen) = &mut self.screen {
                    // What was cut off in the middle must not swallow the redraw that comes now.
                    screen.process(AFRESH);
                    write(room, Stream::Stdout, Bytes::from_static(AFRESH));
                }
            }
            Event::InputUnsure if self.wants.eof && !self.wants.tty => {
                return Err(transport("The session was lost with input under way; a part of it may not have arrived."));
            }
            Event::InputUnsure | Event::ReplayEnd { .. } | Event::Exit(_) => {}
        }
        Ok(())
    }

    /// Queues what was typed, up to a wish to leave.
    fn handle_typed(&mut self, keys: Bytes, output: &mpsc::Sender<Written>) -> Option<Outcome> {
        if !self.raw {
            self.backlog.push_back(Outgoing::Bytes(keys));
            return None;
        }
        let mut rest = &keys[..];
        while !rest.is_empty() {
            let mut meant = Vec::new();
            let (taken, wish) = self.escapes.take(rest, &mut meant);
            rest = &rest[taken..];
            if !meant.is_empty() {
                self.backlog.push_back(Outgoing::Bytes(meant.into()));
            }
            match wish {
                Some(Wish::Leave) => return Some(Outcome::Left),
                Some(Wish::Detach) => return Some(Outcome::Detached),
                // Where not even help can be written nobody reads it.
                Some(Wish::Help) => drop(output.try_send(Written { stream: Stream::Stderr, bytes: HELP.into() })),
                None => {}
            }
        }
        None
    }

    fn handle_signal(&mut self, kind: SignalKind) -> Option<Outcome> {
        if kind == SignalKind::window_change() {
            if let (true, Some(screen), Some((rows, cols))) = (self.raw, &mut self.screen, terminal::size()) {
                screen.resize(rows, cols);
                self.backlog.push_back(Outgoing::Resize(rows, cols));
            }
            return None;
        }
        let first = kind == SignalKind::interrupt() && !std::mem::replace(&mut self.interrupted, true);
        if first && self.wants.forward_interrupt {
            self.backlog.push_back(Outgoing::Interrupt);
            return None;
        }
        Some(Outcome::Signalled(kind.as_raw_value()))
    }

    fn show_notice(&mut self, room: &mut Option<Permit<'_, Written>>) {
        if let Some(sequence) = self.notice.show(self.screen.as_ref()).filter(|_| terminal::is_seen()) {
            write(room, Stream::Stderr, sequence.into());
        }
    }

    /// Leaves in good order: what was typed before goes first, if it can go at all.
    async fn leave(&mut self, attached: Attached) {
        if !self.notice.is_lost() {
            let all = async {
                while let Some(first) = self.backlog.front() {
                    deliver(&self.input, Some(first)).await?;
                    self.backlog.pop_front();
                }
                Ok::<(), InputClosed>(())
            };
            // What cannot be sent in time is what a person who leaves gives up.
            drop(timeout(LAST_INPUT, all).await);
        }
        attached.detach().await;
    }

    /// Leaves the terminal as a program should.
    async fn tidy(&mut self, output: &mpsc::Sender<Written>) {
        let mut last = self.notice.hide(self.screen.as_ref()).unwrap_or_default().to_owned();
        if let Some(screen) = &self.screen {
            last.push_str(&screen.undo());
        }
        if !last.is_empty() && terminal::is_seen() {
            drop(timeout(LAST_OUTPUT, output.send(Written { stream: Stream::Stderr, bytes: last.into() })).await);
        }
    }
}

/// The signals that concern an attachment.
struct Signals {
    window_change: Signal,
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            window_change: signal(SignalKind::window_change())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// The next signal. Cancel safe.
    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.window_change.recv() => SignalKind::window_change(),
            kind = Self::ending_of(&mut self.interrupt, &mut self.terminate, &mut self.hangup, &mut self.quit) => kind,
        }
    }

    /// The next signal that means us to end. Cancel safe.
    async fn ending(&mut self) -> SignalKind {
        Self::ending_of(&mut self.interrupt, &mut self.terminate, &mut self.hangup, &mut self.quit).await
    }

    async fn ending_of(
        interrupt: &mut Signal,
        terminate: &mut Signal,
        hangup: &mut Signal,
        quit: &mut Signal,
    ) -> SignalKind {
        tokio::select! {
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = terminate.recv() => SignalKind::terminate(),
            _ = hangup.recv() => SignalKind::hangup(),
            _ = quit.recv() => SignalKind::quit(),
        }
    }
}

/// Sends what is first; waits for ever if there is nothing. Cancel safe: it was sent or not.
async fn deliver(input: &Input, first: Option<&Outgoing>) -> Result<(), InputClosed> {
    match first {
        Some(Outgoing::Bytes(bytes)) => input.write(bytes.clone()).await,
        Some(Outgoing::Resize(rows, cols)) => input.resize(*rows, *cols).await,
        Some(Outgoing::Interrupt) => input.signal("INT").await,
        Some(Outgoing::Eof) => input.eof().await,
        None => pending().await,
    }
}

fn write(room: &mut Option<Permit<'_, Written>>, stream: Stream, bytes: Bytes) {
    if let Some(permit) = room.take() {
        permit.send(Written { stream, bytes });
    }
}

async fn receive(typed: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match typed {
        Some(typed) => typed.recv().await,
        None => pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// Reads standard input on a thread of its own, one piece ahead. The thread ends with the input or the process.
fn read_input() -> mpsc::Receiver<Bytes> {
    let (pieces, typed) = mpsc::channel(1);
    thread::spawn(move || {
        let mut piece = vec![0; INPUT_MAX];
        loop {
            match io::stdin().read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
                Ok(n) if pieces.blocking_send(Bytes::copy_from_slice(&piece[..n])).is_err() => return,
                Ok(_) => {}
            }
        }
    });
    typed
}

/// Writes both outputs on a thread of its own, in order. The queue closes when a reader has gone; the second value comes
/// when all was written.
fn write_outputs() -> (mpsc::Sender<Written>, oneshot::Receiver<()>) {
    let (output, mut pieces) = mpsc::channel::<Written>(OUTPUT_WAITING);
    let (done, written) = oneshot::channel();
    thread::spawn(move || {
        while let Some(Written { stream, bytes }) = pieces.blocking_recv() {
            let result = match stream {
                Stream::Stdout => write_all(io::stdout().lock(), &bytes),
                Stream::Stderr => write_all(io::stderr().lock(), &bytes),
            };
            if result.is_err() {
                return;
            }
        }
        // Whoever waited may have given up.
        let _ = done.send(());
    });
    (output, written)
}

fn write_all(mut to: impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

fn transport(text: &str) -> Failure {
    Failure { code: TRANSPORT, text: text.to_owned() }
}
