//! The one task of a service: does what `core::supervise` decides, and tells everybody how the service is.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use landfast_core::supervise::{Effect, Policy, State, Supervisor, Why};
use landfast_core::time::Instant;
use landfast_core::{ErrorCode, Problem, ServiceName};
use landfast_net::clock;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

use super::recipe::{Found, Recipe, look};
use crate::browser::DevTools;
use crate::config::Config;
use crate::events::{Crash, CrashPhase, Events};
use crate::exit::Exit;
use crate::process::{KilledBy, Life, Process, Viewer};
use crate::table::Processes;

/// Requests to start a service anew that wait: they are taken at once, and two are one.
const COMMANDS: usize = 4;

/// How a service is, as of now.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    pub(crate) state: State,
    /// The number of its present start, or of the last.
    pub(crate) start: u64,
    /// Its newest process, whose log is the service's.
    pub(crate) process: Arc<Process>,
    /// Whether that process is the present start's, and has not ended.
    pub(crate) is_living: bool,
    /// Unix time in milliseconds at which the state began.
    pub(crate) since: u64,
    /// How its last process ended.
    pub(crate) exit: Option<Exit>,
    /// Why its last start was none.
    pub(crate) error: Option<String>,
    /// Which wish for a start the present one was made for; see [`Recipe::plan`].
    pub(crate) edition: u64,
    /// Where a browser that is up is reached.
    pub(crate) devtools: Option<Arc<DevTools>>,
    /// If it ends before this, it is given up.
    pub(crate) last_chance: Option<Instant>,
}

/// What a service's task is asked to do.
#[derive(Clone, Copy, Debug)]
enum Command {
    Restart,
    Stop,
}

/// Reaches a service's task.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    status: watch::Receiver<Status>,
    commands: mpsc::Sender<Command>,
}

/// A service's task.
pub(crate) struct Keeper {
    name: ServiceName,
    recipe: Recipe,
    machine: Supervisor,
    config: Arc<Config>,
    processes: Arc<Processes>,
    events: Arc<Events>,
    status: watch::Sender<Status>,
    commands: mpsc::Receiver<Command>,
    /// Whether the present start was ever ready.
    was_up: bool,
    /// Whether somebody asked for the present start's end.
    is_asked_to_end: bool,
    /// Waits for the end of the present start.
    ended: Option<Waiting<Exit>>,
    probed: Option<Waiting<Found>>,
    /// Waits for a sign of life of the present start.
    looked: Option<Waiting<()>>,
    /// What the last probe that found it ready found.
    devtools: Option<Arc<DevTools>>,
}

/// Something that is waited for, on behalf of a start.
struct Waiting<T> {
    start: u64,
    future: Pin<Box<dyn Future<Output = T> + Send>>,
}

/// What a keeper's next turn is about.
enum Fact {
    Asked(Command),
    Exited(u64, Exit),
    Probed(u64, Found),
    Alive(u64),
    Due,
}

impl Handle {
    /// How the service is now.
    pub(crate) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Tells of changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Has the service started anew. Returns before it is.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::UpstreamRefused`] if the agent is ending.
    pub(crate) fn restart(&self) -> Result<(), Problem> {
        match self.commands.try_send(Command::Restart) {
            // Where so many wait, one of them does the same.
            Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Closed(_)) => Err(Problem::new(ErrorCode::UpstreamRefused, "The instance is ending.")),
        }
    }

    /// Ends the service and waits until nothing of it is left, however long that takes.
    pub(crate) async fn stop(&self) {
        let mut status = self.watch();
        if self.commands.send(Command::Stop).await.is_ok() {
            // Its task ends when the service has.
            while status.changed().await.is_ok() {}
        }
    }
}

impl Keeper {
    /// A service that is to be started, and the way to reach its task.
    pub(crate) fn new(
        name: ServiceName,
        recipe: Recipe,
        policy: Policy,
        (config, processes, events): (&Arc<Config>, &Arc<Processes>, &Arc<Events>),
    ) -> (Self, Handle) {
        let machine = Supervisor::new(policy);
        let process = Process::none(name, recipe.argv(), config.limits.log);
        let (status, watcher) = watch::channel(Status {
            state: machine.state(),
            start: machine.start(),
            process,
            is_living: false,
            since: clock::unix_millis(),
            exit: None,
            error: None,
            edition: 0,
            devtools: None,
            last_chance: None,
        });
        let (sender, commands) = mpsc::channel(COMMANDS);
        let keeper = Self {
            name,
            recipe,
            machine,
            config: config.clone(),
            processes: processes.clone(),
            events: events.clone(),
            was_up: false,
            is_asked_to_end: false,
            status,
            commands,
            ended: None,
            probed: None,
            looked: None,
            devtools: None,
        };
        (keeper, Handle { status: watcher, commands: sender })
    }

    /// Keeps the service until it is stopped.
    pub(crate) async fn run(mut self) {
        let mut is_stopping = false;
        loop {
            while let Some(effect) = self.machine.poll(clock::now()) {
                self.obey(effect);
            }
            self.tell();
            if is_stopping && !self.machine.may_live() {
                return;
            }
            match self.next_fact().await {
                Fact::Asked(Command::Restart) if is_stopping => {}
                Fact::Asked(Command::Restart) => {
                    self.is_asked_to_end = true;
                    self.machine.handle_restart(clock::now());
                }
                Fact::Asked(Command::Stop) => {
                    (is_stopping, self.is_asked_to_end) = (true, true);
                    self.machine.handle_stop(clock::now());
                }
                Fact::Exited(start, exit) => self.handle_exit(start, exit),
                Fact::Probed(start, found) => self.handle_probe(start, found),
                Fact::Alive(start) => self.machine.handle_alive(start, clock::now()),
                Fact::Due => {}
            }
        }
    }

    async fn next_fact(&mut self) -> Fact {
        tokio::select! {
            Some(command) = self.commands.recv() => Fact::Asked(command),
            (start, exit) = waited(&mut self.ended) => Fact::Exited(start, exit),
            (start, found) = waited(&mut self.probed) => Fact::Probed(start, found),
            (start, ()) = waited(&mut self.looked) => Fact::Alive(start),
            () = clock::sleep_until(self.machine.next_deadline()) => Fact::Due,
        }
    }

    fn obey(&mut self, effect: Effect) {
        match effect {
            Effect::Spawn(start) => self.spawn(start),
            Effect::Probe(start) => {
                let session = self.status.borrow().process.pid;
                let future = self.recipe.clone().probe(session, self.config.instance);
                self.probed = Some(Waiting { start, future: Box::pin(future) });
            }
            Effect::Look(start) => {
                self.looked = Some(Waiting { start, future: Box::pin(look(self.devtools.clone())) });
            }
            Effect::Ask(_, why) => self.ask_to_end(why),
            Effect::Kill(_) => {
                tracing::warn!(service = %self.name, "a service did not end when asked, and is killed");
                self.status.borrow().process.kill(KilledBy::Request);
            }
        }
    }

    fn ask_to_end(&mut self, why: Why) {
        self.looked = None;
        let error = match why {
            Why::Late => Some("It was not ready in time."),
            Why::Silent => Some("It was up and did not answer any more."),
            Why::Restart | Why::Stop => None,
        };
        if let Some(error) = error {
            tracing::warn!(service = %self.name, start = self.machine.start(), error, "a service is ended");
            self.status.send_modify(|status| status.error = Some(error.to_owned()));
        }
        self.status.borrow().process.ask_to_end();
    }

    fn spawn(&mut self, start: u64) {
        self.recipe.clear();
        (self.was_up, self.is_asked_to_end) = (false, false);
        let last = self.status.borrow().process.clone();
        let (plan, edition) = self.recipe.plan(&self.config);
        self.status.send_modify(|status| status.edition = edition);
        match self.processes.start_service(self.name, plan, &last, &self.config) {
            Ok(process) => {
                tracing::info!(service = %self.name, start, pid = process.pid, "service started");
                self.ended = Some(Waiting { start, future: Box::pin(end_of(process.clone())) });
                self.status.send_modify(|status| {
                    (status.process, status.is_living, status.error) = (process, true, None);
                });
                self.machine.handle_spawned(start, clock::now());
            }
            Err(problem) => {
                tracing::warn!(service = %self.name, start, %problem, "service not started");
                self.status.send_modify(|status| status.error = Some(problem.detail));
                self.machine.handle_spawn_failed(start, clock::now());
                self.tell_crash(start, None);
            }
        }
    }

    fn handle_exit(&mut self, start: u64, exit: Exit) {
        tracing::info!(service = %self.name, start, status = exit.status(), "service ended");
        (self.probed, self.looked) = (None, None);
        self.status.send_modify(|status| (status.exit, status.is_living) = (Some(exit), false));
        self.machine.handle_exited(start, exit == Exit::Code(0), clock::now());
        self.tell_crash(start, Some(exit));
    }

    fn handle_probe(&mut self, start: u64, found: Found) {
        let is_ready = match found {
            Found::NotReady => false,
            Found::Ready(devtools) => {
                self.devtools = devtools;
                true
            }
        };
        self.machine.handle_probed(start, is_ready, clock::now());
    }

    /// Tells of an end that nobody asked for, and, if no start follows it, of that too. `Down` is how a service ends that may.
    fn tell_crash(&self, start: u64, exit: Option<Exit>) {
        let state = self.machine.state();
        if self.is_asked_to_end || state == State::Down {
            return;
        }
        let (pid, error) = {
            let status = self.status.borrow();
            (exit.map(|_| status.process.pid), status.error.clone())
        };
        let phase = if self.was_up { CrashPhase::Running } else { CrashPhase::Startup };
        let crash = Crash { service: self.name, phase, start, pid, exit, error };
        self.events.service_crashed(&crash);
        if !state.is_coming() {
            self.events.service_crashed(&Crash { phase: CrashPhase::GaveUp, ..crash });
        }
    }

    fn tell(&mut self) {
        let (state, start, last_chance) = (self.machine.state(), self.machine.start(), self.machine.last_chance());
        if state == State::Up && !std::mem::replace(&mut self.was_up, true) {
            tracing::info!(service = %self.name, start, "service up");
        }
        self.status.send_if_modified(|status| {
            let is_new = (status.state, status.start) != (state, start);
            if is_new {
                (status.state, status.start, status.since) = (state, start, clock::unix_millis());
                status.devtools = self.devtools.clone().filter(|_| state == State::Up);
                status.last_chance = last_chance;
            }
            is_new
        });
    }
}

async fn end_of(process: Arc<Process>) -> Exit {
    match Viewer::watch(process).ended().await {
        Life::Exited(exit) => exit,
        Life::Running | Life::Unknown => unreachable!("its task waits for it"),
    }
}

/// Waits for what is under way, once.
async fn waited<T>(waiting: &mut Option<Waiting<T>>) -> (u64, T) {
    let Some(Waiting { start, future }) = waiting else { return std::future::pending().await };
    let (start, found) = (*start, future.await);
    *waiting = None;
    (start, found)
}
