//! A process of the instance: what it has said, what was said to it, how it ended, and who is watching.
//!
//! One task drains it (see [`crate::runner`]); everybody else looks at its state here. The lock is held for a look or a
//! change, never while waiting.

use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use landfast_core::{ErrorCode, Problem, ProcessId, ServiceName};
use nix::sys::signal::Signal;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::exit::Exit;
use crate::file::Watched;
use crate::input::Input;
use crate::kill;
use crate::log::Log;
use crate::pty::{self, Size};
use crate::screen::{Redraw, Screen};
use crate::wake::{Seat, Waiters};

/// A process that runs, or ran.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    /// What was run.
    pub(crate) argv: Vec<String>,
    /// Its number, and that of its group and session.
    pub(crate) pid: i32,
    /// Unix time in milliseconds.
    pub(crate) started_at: u64,
    /// How long it may run after its last viewer left.
    pub(crate) max_run_after_detach: Option<Duration>,
    pub(crate) role: Role,
    state: Mutex<State>,
    /// Rung when its task has something to do: input, a deadline, being forgotten.
    pub(crate) bell: Notify,
}

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It was asked for, and is remembered until it is deleted.
    Task,
    /// It is a start of a service. What it has started ends with it, so that the next start finds the ground clear.
    Service(ServiceName),
}

/// What changes.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) log: Log,
    pub(crate) input: Input,
    pub(crate) life: Life,
    pub(crate) terminal: Option<Terminal>,
    /// Whether it was waited for: from then on its number may be somebody else's.
    pub(crate) is_reaped: bool,
    pub(crate) killed_by: Option<KilledBy>,
    /// Whether it was deleted.
    pub(crate) is_forgotten: bool,
    attached: usize,
    /// When the last viewer left; `None` while there are some, and before the first.
    pub(crate) detached_at: Option<Instant>,
    pub(crate) pace: Pace,
    pub(crate) waiters: Waiters,
}

/// Who sets the pace of a process's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// The process: nobody is waited for.
    Process,
    /// A viewer that is expected until then.
    Awaiting {
        /// After this the process is let go.
        until: Instant,
    },
    /// The viewer that has taken everything before this offset.
    Viewer(u64),
}

/// How long a process that was started for a viewer waits for it: the client has just been told its id.
pub(crate) const VIEWER_DEADLINE: Duration = Duration::from_secs(60);

/// Whether it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It runs, or has ended and not all it said was read.
    Running,
    /// It has ended, and nothing follows in its log.
    Exited(Exit),
    /// The agent that knew died before it.
    Unknown,
}

/// Why the agent killed a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KilledBy {
    /// It ran longer than its `timeout`.
    Timeout,
    /// Nobody was attached for longer than its `max_run_after_detach`.
    Detach,
    /// It was deleted, or whoever waited for it left, or the agent was shut down and it did not end by itself.
    Request,
}

/// A process's terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    pub(crate) size: Size,
    pub(crate) shown: Shown,
    /// Our end; gone when the process is.
    pub(crate) master: Option<Arc<Watched>>,
}

/// What a terminal shows.
#[derive(Debug)]
pub(crate) enum Shown {
    /// A model that follows the output. Boxed: most processes have none.
    Live(Box<Screen>),
    /// The last screen of a process that has ended, ready to be sent.
    Last(Redraw),
}

/// A process in JSON.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Description {
    id: ProcessId,
    argv: Vec<String>,
    pid: i32,
    tty: Option<Size>,
    started_at: u64,
    state: &'static str,
    exit: Option<Exit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    killed_by: Option<KilledBy>,
    log: Range,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Range {
    from: u64,
    to: u64,
}

impl Process {
    pub(crate) fn new(
        id: ProcessId,
        (argv, pid, started_at): (Vec<String>, i32, u64),
        max_run_after_detach: Option<Duration>,
        role: Role,
        state: State,
    ) -> Arc<Self> {
        let state = Mutex::new(state);
        Arc::new(Self { id, argv, pid, started_at, max_run_after_detach, role, state, bell: Notify::new() })
    }

    /// The process of a service that was never started: it has only a log.
    pub(crate) fn none(name: ServiceName, argv: Vec<String>, log: usize) -> Arc<Self> {
        let state = State::past(Life::Unknown, Log::new(log));
        Self::new(landfast_net::random::process_id(), (argv, 0, 0), None, Role::Service(name), state)
    }

    /// Its state, to look at or change; never across an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding the state")
    }

    /// It as JSON.
    pub(crate) fn describe(&self) -> Description {
        let state = self.state();
        Description {
            id: self.id,
            argv: self.argv.clone(),
            pid: self.pid,
            tty: state.terminal.as_ref().map(|terminal| terminal.size),
            started_at: self.started_at,
            state: state.life.as_str(),
            exit: state.life.exit(),
            killed_by: state.killed_by,
            log: Range { from: state.log.start(), to: state.log.end() },
        }
    }

    /// Sends a signal to its group, or to what is in its terminal's foreground.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ProcessNotRunning`].
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Problem> {
        let state = self.state();
        if state.is_reaped {
            return Err(ErrorCode::ProcessNotRunning.into());
        }
        let terminal = state.terminal.as_ref().and_then(|terminal| terminal.master.as_ref());
        let sent = kill::send(self.pid, terminal.map(|master| master.get_ref()), signal);
        sent.map_err(|error| Problem::new(ErrorCode::ProcessNotRunning, format!("The signal was not sent: {error}.")))
    }

    /// Gives its terminal another size.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ProcessNoTerminal`], [`ErrorCode::ProcessNotRunning`].
    pub(crate) fn resize(&self, size: Size) -> Result<(), Problem> {
        let mut state = self.state();
        let State { log, terminal, .. } = &mut *state;
        let terminal = terminal.as_mut().ok_or(ErrorCode::ProcessNoTerminal)?;
        let master = terminal.master.as_ref().ok_or(ErrorCode::ProcessNotRunning)?;
        pty::resize(master.get_ref(), size).map_err(|error| {
            tracing::warn!(process = %self.id, %error, "a terminal could not be resized");
            Problem::from(ErrorCode::Internal)
        })?;
        terminal.size = size;
        if let Shown::Live(screen) = &mut terminal.shown {
            screen.resize(log, size);
        }
        Ok(())
    }

    /// Ends its input; on a terminal, types the key that does.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ProcessNotRunning`], [`ErrorCode::ProcessStdinClosed`].
    pub(crate) fn end_input(&self) -> Result<(), Problem> {
        let mut state = self.state();
        state.check_input()?;
        match state.terminal.as_ref().and_then(|terminal| terminal.master.as_ref()) {
            Some(master) => {
                if let Some(key) = pty::end_of_input(master.get_ref()) {
                    state.input.press(key);
                }
            }
            None => state.input.end(),
        }
        drop(state);
        self.bell.notify_one();
        Ok(())
    }

    /// Kills it and everything in its session.
    pub(crate) fn kill(&self, by: KilledBy) {
        let mut state = self.state();
        if !state.is_reaped {
            state.killed_by.get_or_insert(by);
            kill::kill_session(self.pid);
        }
    }

    /// Asks it to end: a terminal's programs as if its user had hung up, others by SIGTERM.
    pub(crate) fn ask_to_end(&self) {
        let state = self.state();
        if !state.is_reaped {
            let signal = if state.terminal.is_some() { Signal::SIGHUP } else { Signal::SIGTERM };
            kill::ask_session(self.pid, signal);
        }
    }

    /// Whether it runs, or has ended and not all it said was read.
    pub(crate) fn is_running(&self) -> bool {
        self.state().life.is_running()
    }

    /// Lets it go: its task stops draining what others hold open.
    pub(crate) fn forget(&self) {
        self.state().is_forgotten = true;
        self.bell.notify_one();
    }
}

impl State {
    /// The state of a process that was just started.
    pub(crate) fn running(log: Log, input: Input, terminal: Option<Terminal>) -> Self {
        Self {
            log,
            input,
            life: Life::Running,
            terminal,
            is_reaped: false,
            killed_by: None,
            is_forgotten: false,
            attached: 0,
            detached_at: None,
            pace: Pace::Process,
            waiters: Waiters::default(),
        }
    }

    /// The state of a process of an earlier agent.
    pub(crate) fn past(life: Life, log: Log) -> Self {
        Self { life, is_reaped: true, ..Self::running(log, Input::closed(), None) }
    }

    /// Whether its output is left unread for now, so that who sets the pace misses nothing.
    pub(crate) fn is_held_back(&self) -> bool {
        match self.pace {
            Pace::Process => false,
            Pace::Awaiting { .. } => self.log.is_half_full_from(0),
            Pace::Viewer(at) => self.log.is_half_full_from(at),
        }
    }

    /// Whether it takes input.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ProcessNotRunning`], [`ErrorCode::ProcessStdinClosed`].
    pub(crate) fn check_input(&self) -> Result<(), Problem> {
        match self.life {
            Life::Running if self.input.room().is_some() => Ok(()),
            Life::Running => Err(ErrorCode::ProcessStdinClosed.into()),
            Life::Exited(_) | Life::Unknown => Err(ErrorCode::ProcessNotRunning.into()),
        }
    }

    /// What shows the present screen.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ProcessNoTerminal`].
    pub(crate) fn redraw(&mut self) -> Result<Redraw, Problem> {
        match self.terminal.as_mut().map(|terminal| &mut terminal.shown) {
            Some(Shown::Live(screen)) => Ok(screen.redraw(&self.log)),
            Some(Shown::Last(redraw)) => Ok(redraw.clone()),
            None => Err(ErrorCode::ProcessNoTerminal.into()),
        }
    }
}

impl Life {
    /// The word used in the API.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Exited(_) => "exited",
            Self::Unknown => "unknown",
        }
    }

    /// How it ended, if that is known.
    pub(crate) const fn exit(self) -> Option<Exit> {
        match self {
            Self::Exited(exit) => Some(exit),
            Self::Running | Self::Unknown => None,
        }
    }

    /// Whether it runs.
    pub(crate) const fn is_running(self) -> bool {
        match self {
            Self::Running => true,
            Self::Exited(_) | Self::Unknown => false,
        }
    }
}

/// Somebody who watches a process: waits for it, or is attached to it.
#[derive(Debug)]
pub(crate) struct Viewer {
    process: Arc<Process>,
    seat: Seat,
    is_attached: bool,
}

impl Process {
    /// Changes who sets the pace, and goes on reading if that may be.
    pub(crate) fn set_pace(&self, state: &mut State, pace: Pace) {
        let was_held_back = state.is_held_back();
        state.pace = pace;
        if was_held_back && !state.is_held_back() {
            self.bell.notify_one();
        }
    }
}

impl Viewer {
    /// Watches, without counting as attached.
    pub(crate) fn watch(process: Arc<Process>) -> Self {
        let seat = process.state().waiters.take_seat();
        Self { process, seat, is_attached: false }
    }

    /// Attaches: until this viewer goes, the process is not left alone.
    pub(crate) fn attach(process: Arc<Process>) -> Self {
        let seat = {
            let mut state = process.state();
            state.attached += 1;
            state.detached_at = None;
            state.waiters.take_seat()
        };
        Self { process, seat, is_attached: true }
    }

    /// The process.
    pub(crate) const fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Looks, and if there is nothing yet, is woken when something has changed.
    pub(crate) fn poll<T>(&self, cx: &Context<'_>, look: impl FnOnce(&mut State) -> Option<T>) -> Poll<T> {
        let mut state = self.process.state();
        match look(&mut state) {
            Some(found) => Poll::Ready(found),
            None => {
                self.wait(&mut state, cx);
                Poll::Pending
            }
        }
    }

    /// Is woken at the next change of this process's state, which was looked at under the same lock.
    pub(crate) fn wait(&self, state: &mut State, cx: &Context<'_>) {
        state.waiters.wait(self.seat, cx.waker());
    }

    /// Waits until there is something.
    ///
    /// Cancel safe if `look` changes nothing when it finds nothing.
    pub(crate) async fn until<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        std::future::poll_fn(|cx| self.poll(cx, &mut look)).await
    }

    /// Waits for the process's end.
    ///
    /// Cancel safe.
    pub(crate) async fn ended(&self) -> Life {
        self.until(|state| (!state.life.is_running()).then_some(state.life)).await
    }

    /// Gives the process input, waiting for room.
    ///
    /// Not cancel safe: a part of it may have been taken.
    ///
    /// # Errors
    ///
    /// As [`State::check_input`].
    pub(crate) async fn say(&self, mut bytes: &[u8]) -> Result<(), Problem> {
        while !bytes.is_empty() {
            let taken = self.until(|state| match state.check_input() {
                Ok(()) => Some(Ok(state.input.take_with(bytes, |_, _| {}))).filter(|taken| *taken != Ok(0)),
                Err(problem) => Some(Err(problem)),
            });
            bytes = &bytes[taken.await?..];
            self.process.bell.notify_one();
        }
        self.process.state().check_input()
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let mut state = self.process.state();
        state.waiters.leave(self.seat);
        if self.is_attached {
            state.attached -= 1;
            if state.attached == 0 {
                state.detached_at = Some(Instant::now());
                drop(state);
                self.process.bell.notify_one();
            }
        }
    }
}
