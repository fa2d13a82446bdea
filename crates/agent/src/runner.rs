//! The one task that serves a process: drains what it says, writes what is said to it, and waits for its end.
//!
//! The end is told after the last byte. Everything the process itself wrote lies in its pipes or terminal when it exits
//! and is read at once. What a background child still writes is waited for until it is silent for [`SILENCE`], for at
//! most [`PATIENCE`], so that no child can withhold its parent's exit; what comes later is read and dropped, so that
//! nobody blocks on it. A service's exit waits for nobody.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::writev;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFdReadyGuard;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::events::Events;
use crate::exit::Exit;
use crate::file::{Watched, watch};
use crate::kill::kill_session;
use crate::log::Stream;
use crate::process::{KilledBy, Life, Pace, Process, Role, Shown, State};
use crate::record::Records;
use crate::spawn::Ends;

/// How long a background child that holds the output open must be silent before the output counts as ended: longer
/// than the pauses of a program that is working.
const SILENCE: Duration = Duration::from_millis(250);

/// How long at most the exit waits for background children.
const PATIENCE: Duration = Duration::from_secs(1);

/// The most that is read at once after the exit: the largest pipe that a program without privileges can have.
const LEFT_MAX: usize = 1 << 20;

/// Between looks at a terminal that none of its programs has open: seldom, and then it only delays what comes after.
const CLOSED_PAUSE: Duration = Duration::from_millis(20);

/// Serves one process.
pub(crate) struct Runner {
    process: Arc<Process>,
    pidfd: Watched,
    outputs: [Option<Output>; 2],
    input: Option<Arc<Watched>>,
    timeout_at: Option<Instant>,
    told: Told,
}

/// Those who are told of a process's end.
pub(crate) struct Told {
    pub(crate) records: Arc<Records>,
    pub(crate) events: Arc<Events>,
    /// Rung when the process was waited for: an orphan may have hidden behind it.
    pub(crate) reaped: Arc<Notify>,
}

/// Something the process writes to.
struct Output {
    file: Arc<Watched>,
    stream: Stream,
    /// A terminal reports an error while none of its programs has it open; another may open it again.
    is_terminal: bool,
}

/// Our ends, known to the runtime.
pub(crate) struct Files {
    outputs: [Option<Output>; 2],
    input: Option<Arc<Watched>>,
}

/// What came of one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Some(usize),
    Nothing,
    End,
}

impl Files {
    /// Takes our ends into the runtime.
    ///
    /// # Errors
    ///
    /// The runtime's.
    pub(crate) fn new(ends: Ends) -> io::Result<Self> {
        match ends {
            Ends::Terminal(master) => {
                let master = Arc::new(watch(master, Interest::READABLE | Interest::WRITABLE)?);
                let output = Output { file: master.clone(), stream: Stream::Stdout, is_terminal: true };
                Ok(Self { outputs: [Some(output), None], input: Some(master) })
            }
            Ends::Pipes { stdin, stdout, stderr } => {
                let output = |file, stream| {
                    let file = Arc::new(watch(file, Interest::READABLE)?);
                    io::Result::Ok(Some(Output { file, stream, is_terminal: false }))
                };
                let stdin = stdin.map(|stdin| watch(stdin, Interest::WRITABLE)).transpose()?;
                Ok(Self {
                    outputs: [output(stdout, Stream::Stdout)?, output(stderr, Stream::Stderr)?],
                    input: stdin.map(Arc::new),
                })
            }
        }
    }

    /// The terminal, if that is what it is.
    pub(crate) fn terminal(&self) -> Option<Arc<Watched>> {
        self.outputs[0].as_ref().filter(|output| output.is_terminal).map(|output| output.file.clone())
    }
}

impl Runner {
    pub(crate) fn new(
        process: Arc<Process>,
        pidfd: Watched,
        files: Files,
        timeout_at: Option<Instant>,
        told: Told,
    ) -> Self {
        let Files { outputs, input } = files;
        Self { process, pidfd, outputs, input, timeout_at, told }
    }

    /// Serves the process to its end, and its output to the last who holds it open.
    pub(crate) async fn run(mut self) {
        let exit = self.live().await;
        self.told.reaped.notify_one();
        self.input = None;
        self.read_what_is_left();
        match self.process.role {
            Role::Task => self.wait_for_silence().await,
            // What it has started was killed with it, but for what has left its session, as crash handlers do: the next
            // start waits for nobody's last words.
            Role::Service(_) => {}
        }
        self.finish(exit);
        self.swallow_rest().await;
    }

    async fn live(&mut self) -> Exit {
        loop {
            let deadline = self.deadline();
            let (input_is_due, is_free) = {
                let state = self.process.state();
                (self.input.is_some() && state.input.is_due(), !state.is_held_back())
            };
            tokio::select! {
                exit = exited(&self.process, &self.pidfd) => return exit,
                read = read_some(&self.process, self.outputs[0].as_ref()), if is_free => self.handle_read(0, read).await,
                read = read_some(&self.process, self.outputs[1].as_ref()), if is_free => self.handle_read(1, read).await,
                open = write_some(&self.process, self.input.as_deref()), if input_is_due => {
                    if !open {
                        self.input = None;
                    }
                }
                () = self.process.bell.notified() => {}
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => self.handle_deadline(),
            }
        }
    }

    async fn handle_read(&mut self, which: usize, read: Read) {
        match read {
            Read::End => self.outputs[which] = None,
            // Whoever floods shares the thread with the others.
            Read::Some(_) => tokio::task::yield_now().await,
            Read::Nothing => {}
        }
    }

    fn deadline(&self) -> Option<Instant> {
        [self.timeout_at, self.detach_deadline(), self.viewer_deadline()].into_iter().flatten().min()
    }

    fn viewer_deadline(&self) -> Option<Instant> {
        match self.process.state().pace {
            Pace::Awaiting { until } => Some(until),
            Pace::Process | Pace::Viewer(_) => None,
        }
    }

    fn detach_deadline(&self) -> Option<Instant> {
        let state = self.process.state();
        let since = state.detached_at.filter(|_| state.killed_by.is_none())?;
        Some(since + self.process.max_run_after_detach?)
    }

    fn handle_deadline(&mut self) {
        let now = Instant::now();
        if self.viewer_deadline().is_some_and(|at| at <= now) {
            self.process.state().pace = Pace::Process;
        }
        if self.timeout_at.is_some_and(|at| at <= now) {
            self.timeout_at = None;
            self.process.kill(KilledBy::Timeout);
        } else if self.detach_deadline().is_some_and(|at| at <= now) {
            self.process.kill(KilledBy::Detach);
        }
    }

    /// Reads what the process itself wrote: it lies there already, however busy this machine is.
    fn read_what_is_left(&mut self) {
        for output in &mut self.outputs {
            let mut left = LEFT_MAX;
            while let Some(Output { file, stream, .. }) = output.as_ref() {
                let taken = take(&mut self.process.state(), file.get_ref(), *stream);
                match taken {
                    Ok(Read::Some(n)) if n < left => left -= n,
                    Ok(Read::Some(_) | Read::Nothing) => break,
                    Ok(Read::End) | Err(_) => *output = None,
                }
            }
        }
    }

    async fn wait_for_silence(&mut self) {
        let latest = Instant::now() + PATIENCE;
        while self.outputs.iter().any(Option::is_some) {
            let silent_at = (Instant::now() + SILENCE).min(latest);
            tokio::select! {
                read = read_some(&self.process, self.outputs[0].as_ref()) => self.handle_read(0, read).await,
                read = read_some(&self.process, self.outputs[1].as_ref()) => self.handle_read(1, read).await,
                () = sleep_until(silent_at) => return,
            }
        }
    }

    /// Tells the end: on disk first, so that an agent started again never knows less than somebody was told.
    fn finish(&self, exit: Exit) {
        let process = &self.process;
        match process.role {
            Role::Task => self.told.records.ended(process, exit),
            Role::Service(_) => {}
        }
        self.told.events.process_exit(process, exit);
        let mut state = process.state();
        let State { log, input, life, terminal, waiters, .. } = &mut *state;
        *life = Life::Exited(exit);
        input.close();
        if let Some(terminal) = terminal {
            terminal.master = None;
            if let Shown::Live(screen) = &mut terminal.shown {
                terminal.shown = Shown::Last(screen.redraw(log));
            }
        }
        waiters.wake();
    }

    async fn swallow_rest(mut self) {
        while self.outputs.iter().any(Option::is_some) && !self.process.state().is_forgotten {
            tokio::select! {
                read = swallow_some(self.outputs[0].as_ref()) => self.handle_read(0, read).await,
                read = swallow_some(self.outputs[1].as_ref()) => self.handle_read(1, read).await,
                () = self.process.bell.notified() => {}
            }
        }
    }
}

/// Waits for the process's end and takes its status, once.
async fn exited(process: &Process, pidfd: &Watched) -> Exit {
    loop {
        let Ok(mut guard) = pidfd.readable().await else { return std::future::pending().await };
        if let Role::Service(_) = process.role {
            // Before its status is taken: its number, and so that of its session, is still its own.
            kill_session(process.pid);
        }
        if let Some(exit) = reap(&mut process.state(), pidfd.get_ref()) {
            return exit;
        }
        guard.clear_ready();
    }
}

/// Takes the status of a process that has ended. Under the lock: whoever signals it does so before, or is refused.
fn reap(state: &mut State, pidfd: &OwnedFd) -> Option<Exit> {
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).ok()??;
    state.is_reaped = true;
    let code = status.exit_status().map(Exit::Code);
    Some(code.or_else(|| status.terminating_signal().map(Exit::Signal)).expect("an ended process has one of the two"))
}

/// Waits until there is output, and takes it.
async fn read_some(process: &Process, output: Option<&Output>) -> Read {
    let Some(output) = output else { return std::future::pending().await };
    loop {
        let Ok(guard) = output.file.readable().await else { return Read::End };
        let taken = take(&mut process.state(), output.file.get_ref(), output.stream);
        match taken {
            Ok(Read::Nothing) => {}
            Ok(read) => return read,
            Err(_) if output.is_terminal => {}
            Err(_) => return Read::End,
        }
        nothing(guard).await;
    }
}

/// Takes what there is to read into the log; the screen follows.
fn take(state: &mut State, file: &OwnedFd, stream: Stream) -> io::Result<Read> {
    let State { log, terminal, waiters, .. } = state;
    let len = match log.fill_from(file, stream) {
        Ok(0) => return Ok(Read::End),
        Ok(len) => len,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Read::Nothing),
        Err(error) => return Err(error),
    };
    if let Some(Shown::Live(screen)) = terminal.as_mut().map(|terminal| &mut terminal.shown) {
        screen.follow(log);
    }
    waiters.wake();
    Ok(Read::Some(len))
}

/// Waits until the process takes input, and writes some of what waits. False once the input is closed.
async fn write_some(process: &Process, file: Option<&Watched>) -> bool {
    let Some(file) = file else { return std::future::pending().await };
    loop {
        let Ok(guard) = file.writable().await else { return false };
        let given = give(&mut process.state(), file.get_ref());
        match given {
            Ok(is_open) => return is_open,
            Err(rustix::io::Errno::AGAIN) => {}
            // It reads no more.
            Err(_) => {
                close_input(&mut process.state());
                return false;
            }
        }
        nothing(guard).await;
    }
}

/// Writes some of what waits, or passes on the end. False once the input is closed.
fn give(state: &mut State, file: &OwnedFd) -> rustix::io::Result<bool> {
    if state.input.is_at_end() {
        close_input(state);
        return Ok(false);
    }
    let written = writev(file, &state.input.waiting().map(IoSlice::new))?;
    state.input.written(written);
    state.waiters.wake();
    Ok(true)
}

fn close_input(state: &mut State) {
    state.input.close();
    state.waiters.wake();
}

/// Waits until there is output that nobody is interested in any more, and drops it.
async fn swallow_some(output: Option<&Output>) -> Read {
    let Some(output) = output else { return std::future::pending().await };
    loop {
        let Ok(guard) = output.file.readable().await else { return Read::End };
        match rustix::io::read(output.file.get_ref(), &mut [0; 4096]) {
            Ok(0) => return Read::End,
            Ok(n) => return Read::Some(n),
            Err(rustix::io::Errno::AGAIN) => {}
            Err(_) => return Read::End,
        }
        nothing(guard).await;
    }
}

/// Nothing could be read or written although the runtime said so: asks it anew. Where it knows that the other end was
/// closed it would say so for ever, although a terminal can be opened again.
async fn nothing(mut guard: AsyncFdReadyGuard<'_, OwnedFd>) {
    let ready = guard.ready();
    guard.clear_ready();
    drop(guard);
    if ready.is_read_closed() || ready.is_write_closed() {
        sleep(CLOSED_PAUSE).await;
    }
}
