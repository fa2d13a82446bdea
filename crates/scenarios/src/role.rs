//! A role as a process of its own, which can be killed, stopped, frozen and started again.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::leaks::Footprint;
use crate::plain::PATIENCE;
use crate::stalled::Stalled;

/// The variable that says how much a role logs.
const LEVEL: &str = "LANDFAST_LOG";

/// The setting that is said for all roles alike: where the store is.
const STORE: &str = "store";

/// A role's settings, by key; they reach it as `LANDFAST_<ROLE>_<KEY>`.
pub type Settings = BTreeMap<&'static str, String>;

/// A role's process.
#[derive(Debug)]
pub struct Role {
    kind: &'static str,
    data: PathBuf,
    log: PathBuf,
    settings: Settings,
    /// How much it logs, if not as much as this process's environment says.
    level: Option<&'static str>,
    place: Place,
    running: Option<(Child, watch::Receiver<Option<SocketAddr>>)>,
}

/// Where a role runs, if not beside whoever starts it.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The namespace of the network, as `ip netns` knows it.
    pub namespace: Option<String>,
    /// The cell's store, if it is not in the data directory.
    pub store: Option<String>,
    /// The file that says by how much the time of day is wrong there, as libfaketime reads it.
    pub clock: Option<PathBuf>,
}

impl Role {
    /// Starts a role (`api`, `gateway`, `node`) and waits until it says that it is ready. `name` tells its log from others'.
    ///
    /// # Panics
    ///
    /// It did not become ready in time.
    pub async fn start(kind: &'static str, name: &str, data: &Path, settings: Settings) -> Self {
        let mut role = Self::new(kind, name, data, settings);
        role.start_again().await;
        role
    }

    /// Starts a role that logs at `level` whatever the environment says.
    ///
    /// # Panics
    ///
    /// It did not become ready in time.
    pub async fn start_at(
        level: &'static str,
        kind: &'static str,
        name: &str,
        data: &Path,
        settings: Settings,
    ) -> Self {
        let mut role = Self::new(kind, name, data, settings);
        role.level = Some(level);
        role.start_again().await;
        role
    }

    /// A role elsewhere, which is not started yet.
    pub fn elsewhere(place: Place, kind: &'static str, name: &str, data: &Path, settings: Settings) -> Self {
        let mut role = Self::new(kind, name, data, settings);
        role.place = place;
        role
    }

    /// Starts it again with the settings it had.
    ///
    /// # Panics
    ///
    /// It did not become ready in time.
    pub async fn start_again(&mut self) {
        self.launch();
        assert!(self.becomes_ready().await, "{} is not ready:\n{}", self.kind, self.log());
    }

    /// Starts it with the settings it had, and waits for nothing.
    ///
    /// # Panics
    ///
    /// The program was not built.
    pub fn launch(&mut self) {
        let mut child = self.command().spawn().expect("the program under test was built");
        let (said, address) = watch::channel(None);
        let stdout = child.stdout.take().expect("stdout is a pipe");
        tokio::spawn(read_address(stdout, format!("ready {} ", self.kind), said));
        self.running = Some((child, address));
    }

    /// Waits until it says that it is ready; `false` if it ends or says nothing.
    ///
    /// # Panics
    ///
    /// It was not started.
    pub async fn becomes_ready(&mut self) -> bool {
        let (_, address) = self.running.as_mut().expect("the role runs");
        matches!(timeout(PATIENCE, address.wait_for(Option::is_some)).await, Ok(Ok(_)))
    }

    /// Whether it says that it is ready, as long as it runs.
    pub fn is_ready(&self) -> bool {
        self.running.as_ref().is_some_and(|(_, address)| address.borrow().is_some())
    }

    /// How it ended, if it was started and has ended by itself.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        let (child, _) = self.running.as_mut()?;
        let status = child.try_wait().expect("it is our child")?;
        self.running = None;
        Some(status)
    }

    /// Whether it was started and has not been ended.
    pub const fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// Where its log is.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// Changes a setting for the next start.
    pub fn set(&mut self, key: &'static str, value: impl Into<String>) {
        self.settings.insert(key, value.into());
    }

    /// Where it listens.
    ///
    /// # Panics
    ///
    /// It does not run.
    pub fn address(&self) -> SocketAddr {
        let (_, address) = self.running.as_ref().expect("the role runs");
        address.borrow().expect("the role is ready")
    }

    /// Its process id.
    ///
    /// # Panics
    ///
    /// It does not run.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().and_then(|(child, _)| child.id()).expect("the role runs")
    }

    /// Kills it as a power failure would, and waits until it is gone.
    pub async fn kill(&mut self) {
        self.end(Signal::SIGKILL).await;
    }

    /// Asks it to stop and returns how it did.
    pub async fn stop(&mut self) -> ExitStatus {
        self.end(Signal::SIGTERM).await
    }

    /// Kills it and starts it again.
    pub async fn restart(&mut self) {
        self.kill().await;
        self.start_again().await;
    }

    /// Freezes it: its sockets stay, and nothing answers.
    pub fn freeze(&self) {
        landfast_rig::freeze(self.pid());
    }

    /// Stops one thread of it: `landfast-bell` has news of the store, `landfast-read` and `landfast-write` ask it.
    ///
    /// # Panics
    ///
    /// It has no such thread, or it cannot be stopped.
    pub fn stall(&self, thread: &str) -> Stalled {
        Stalled::new(self.pid(), thread)
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// It does not run.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).expect("the role runs");
    }

    /// The end of what it logged.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// What it holds once that has stopped changing.
    pub async fn settled(&self) -> Footprint {
        let mut before = Footprint::of(self.pid());
        loop {
            sleep(Duration::from_millis(200)).await;
            let now = Footprint::of(self.pid());
            if now.descriptors == before.descriptors {
                return now;
            }
            before = now;
        }
    }

    /// Waits until it has ended, as it was asked to.
    ///
    /// # Panics
    ///
    /// It does not end.
    pub async fn ends(&mut self) -> ExitStatus {
        let (mut child, _) = self.running.take().expect("the role runs");
        let status = timeout(PATIENCE, child.wait()).await;
        status.unwrap_or_else(|_| panic!("{} does not end:\n{}", self.kind, self.log())).expect("it is our child")
    }

    async fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.ends().await
    }

    fn new(kind: &'static str, name: &str, data: &Path, settings: Settings) -> Self {
        let log = data.join(format!("{kind}-{name}.log"));
        Self { kind, data: data.to_owned(), log, settings, level: None, place: Place::default(), running: None }
    }

    fn command(&self) -> Command {
        let log = File::options().create(true).append(true).open(&self.log).expect("the data directory takes files");
        let mut command = self.place.command(&program("landfast-under-test"));
        if let Some(store) = &self.place.store {
            command.args(["--store", store]);
        }
        command.arg(self.kind).arg("--data").arg(&self.data).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(name)) {
            command.env_remove(name);
        }
        if let Some(store) = self.settings.get(STORE) {
            command.arg("--store").arg(store);
        }
        for (key, value) in self.settings.iter().filter(|(key, _)| **key != STORE) {
            command.env(format!("LANDFAST_{}_{}", self.kind, key).to_uppercase(), value);
        }
        if let Some(level) = self.level {
            command.env(LEVEL, level);
        }
        command.kill_on_drop(true);
        command
    }
}

impl Place {
    /// A command there.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = match &self.namespace {
            None => Command::new(program),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
        };
        if let Some(clock) = &self.clock {
            // The loader knows what LIB is. Only the time of day is wrong: how long something takes is as it is.
            command.env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1").env("FAKETIME_TIMESTAMP_FILE", clock);
            command.envs([("FAKETIME_DONT_FAKE_MONOTONIC", "1"), ("FAKETIME_NO_CACHE", "1"), ("NO_FAKE_STAT", "1")]);
        }
        command
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of {}\n{}", self.log.display(), self.log());
        }
    }
}

/// Reads where a role listens, and then to the end, or it would stop at a full pipe.
async fn read_address(stdout: ChildStdout, ready: String, said: watch::Sender<Option<SocketAddr>>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(address) = line.strip_prefix(&ready) {
            said.send_replace(Some(address.trim().parse().expect("an address")));
        }
    }
}

/// Whether a variable would change how a role works. How much it logs does not.
fn is_setting(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"LANDFAST_") && name != LEVEL
}

/// A program of this package, beside the one that runs: tests lie one folder deeper.
///
/// # Panics
///
/// It was not built.
pub fn program(name: &str) -> PathBuf {
    let here = std::env::current_exe().expect("a running program has a path");
    let folders = here.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} was not built; it is a program of this package"))
}
