//! Starts a process: with a terminal or with pipes, in a session of its own.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use landfast_core::record::Service;
use landfast_core::{ErrorCode, Problem};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, pidfd_open, set_parent_process_death_signal, setrlimit,
    setsid,
};
use serde::Deserialize;

use crate::config::Config;
use crate::kill::kill_session;
use crate::pty::{Pty, Size};

/// What a terminal's programs are told it can do, unless the request says otherwise.
const TERM: &str = "xterm-256color";

/// The longest time that can be asked for: a year of 366 days.
const SECONDS_MAX: f64 = 366.0 * 86_400.0;

/// What is asked for with `POST /processes`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    argv: Option<Vec<String>>,
    shell: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    cwd: Option<PathBuf>,
    pub(crate) tty: Option<Size>,
    stdin: Option<StdinMode>,
    timeout: Option<f64>,
    max_run_after_detach: Option<f64>,
    #[serde(default)]
    lossless: bool,
}

/// Whether a process without a terminal gets an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StdinMode {
    /// A pipe.
    Open,
    /// Nothing to read.
    Closed,
}

/// What was asked for, checked.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The program and its arguments; never empty.
    pub(crate) argv: Vec<String>,
    env: BTreeMap<String, String>,
    cwd: Option<PathBuf>,
    pub(crate) tty: Option<Size>,
    pub(crate) stdin: StdinMode,
    /// How long it may run.
    pub(crate) timeout: Option<Duration>,
    /// How long it may run with nobody attached, counted from when the last viewer left.
    pub(crate) max_run_after_detach: Option<Duration>,
    /// Whether it is held back rather than that its first viewer misses a byte.
    pub(crate) lossless: bool,
}

/// A process that was started, and our ends of what it reads and writes.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: i32,
    /// Readable once the process has ended.
    pub(crate) pidfd: OwnedFd,
    pub(crate) ends: Ends,
}

/// Our ends, none of which blocks.
#[derive(Debug)]
pub(crate) enum Ends {
    /// A terminal's.
    Terminal(OwnedFd),
    /// Pipes'.
    Pipes { stdin: Option<OwnedFd>, stdout: OwnedFd, stderr: OwnedFd },
}

impl Spec {
    /// Checks what the types cannot.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::RequestInvalid`], naming the field.
    pub(crate) fn check(self) -> Result<Plan, Problem> {
        let argv = match (self.argv, self.shell) {
            (Some(argv), None) if argv.first().is_some_and(|program| !program.is_empty()) => argv,
            (None, Some(shell)) => vec!["/bin/sh".to_owned(), "-c".to_owned(), shell],
            (Some(_), None) => return Err(invalid("argv is empty; its first element is the program.")),
            (Some(_), Some(_)) => return Err(invalid("argv and shell are both given; choose one.")),
            (None, None) => return Err(invalid("Neither argv nor shell is given; one says what to run.")),
        };
        if let Some(name) = self.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(invalid(format!("{name:?} in env is no variable's name.")));
        }
        if self.tty.is_some() && self.stdin == Some(StdinMode::Closed) {
            return Err(invalid("stdin cannot be closed on a terminal."));
        }
        Ok(Plan {
            argv,
            env: self.env,
            cwd: self.cwd,
            tty: self.tty,
            stdin: self.stdin.unwrap_or(StdinMode::Open),
            timeout: self.timeout.map(|seconds| duration("timeout", seconds)).transpose()?,
            max_run_after_detach: self
                .max_run_after_detach
                .map(|seconds| duration("max_run_after_detach", seconds))
                .transpose()?,
            lossless: self.lossless,
        })
    }
}

impl Plan {
    /// How a service is started, with these variables over its own; `None` if it has no command.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::RequestInvalid`], naming the field.
    pub(crate) fn of_service(service: &Service, ours: BTreeMap<String, String>) -> Result<Option<Self>, Problem> {
        if service.argv.is_empty() && service.shell.is_none() {
            return Ok(None);
        }
        let mut env = service.env.clone();
        env.extend(ours);
        let spec = Spec {
            argv: (!service.argv.is_empty()).then(|| service.argv.clone()),
            shell: service.shell.clone(),
            env,
            cwd: service.cwd.as_ref().map(PathBuf::from),
            stdin: Some(StdinMode::Closed),
            ..Spec::default()
        };
        spec.check().map(Some)
    }

    /// A command of the agent's own, with these variables over the instance's, and nothing to read.
    pub(crate) const fn of_command(argv: Vec<String>, env: BTreeMap<String, String>) -> Self {
        Self {
            argv,
            env,
            cwd: None,
            tty: None,
            stdin: StdinMode::Closed,
            timeout: None,
            max_run_after_detach: None,
            lossless: false,
        }
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ProcessSpawn`] with the kernel's words.
    pub(crate) fn start(&self, config: &Config) -> Result<Started, Problem> {
        let cwd = self.cwd.as_ref().map_or_else(|| config.home.clone(), |cwd| config.home.join(cwd));
        if !cwd.is_dir() {
            return Err(spawn_problem(format!("The working directory {} does not exist.", cwd.display())));
        }
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).current_dir(cwd);
        if self.tty.is_some() {
            command.env("TERM", TERM);
        }
        command.envs(&config.env).envs(&self.env);
        let started = match self.tty {
            Some(size) => start_on_terminal(command, size),
            None => start_on_pipes(command, self.stdin),
        };
        started.map_err(|error| spawn_problem(format!("{}: {error}.", self.argv[0])))
    }
}

fn start_on_terminal(mut command: Command, size: Size) -> io::Result<Started> {
    let Pty { master, slave } = Pty::open(size)?;
    command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
    prepare(&mut command, true);
    set_nonblocking(&master)?;
    let child = command.spawn()?;
    // Our copies of the process's end go with the command, or the terminal would never be seen to end.
    drop(command);
    started(child, Ends::Terminal(master))
}

fn start_on_pipes(mut command: Command, stdin: StdinMode) -> io::Result<Started> {
    command.stdin(match stdin {
        StdinMode::Open => Stdio::piped(),
        StdinMode::Closed => Stdio::null(),
    });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    prepare(&mut command, false);
    let mut child = command.spawn()?;
    let stdin = child.stdin.take().map(OwnedFd::from);
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        unreachable!("both were asked to be pipes");
    };
    let (stdout, stderr) = (OwnedFd::from(stdout), OwnedFd::from(stderr));
    for end in [Some(&stdout), Some(&stderr), stdin.as_ref()].into_iter().flatten() {
        if let Err(error) = set_nonblocking(end) {
            give_up(&mut child);
            return Err(error);
        }
    }
    started(child, Ends::Pipes { stdin, stdout, stderr })
}

fn started(mut child: Child, ends: Ends) -> io::Result<Started> {
    let pid = Pid::from_child(&child);
    match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(pidfd) => Ok(Started { pid: pid.as_raw_nonzero().get(), pidfd, ends }),
        Err(error) => {
            give_up(&mut child);
            Err(error.into())
        }
    }
}

/// Undoes a start that could not be finished.
fn give_up(child: &mut Child) {
    // It is ours and was not waited for: neither can fail, and a killed process ends.
    let _ = child.kill();
    let _ = child.wait();
}

/// Ends a process that was started and cannot be served.
pub(crate) fn abandon(pid: i32) {
    kill_session(pid);
    // It is ours and was not waited for, and a killed process ends.
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
}

/// Lets this process have as many descriptors as it may: a process takes four and a session one, and the usual limit is
/// for programs that count them in a fixed set. What the agent starts gets the usual one back.
pub(crate) fn raise_descriptor_limit() {
    let usual = *USUAL_LIMIT.get_or_init(|| getrlimit(Resource::Nofile));
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: usual.maximum, ..usual }) {
        tracing::warn!(%error, "the limit of descriptors stays");
    }
}

/// The limit of descriptors that the agent was started with, if it has raised it.
static USUAL_LIMIT: OnceLock<Rlimit> = OnceLock::new();

/// What the child does between fork and exec: it takes back the usual limit of descriptors, forgets which signals the agent
/// was started to ignore, begins a session, takes the terminal, and ties its life to the agent's, because a process that
/// nobody can reach or tell the end of must not go on.
#[allow(unsafe_code)]
fn prepare(command: &mut Command, on_terminal: bool) {
    use nix::sys::signal::{SigHandler, Signal as Sig, signal};
    // What shells and nohup ignore for their background jobs.
    const OFTEN_IGNORED: [Sig; 6] = [Sig::SIGHUP, Sig::SIGINT, Sig::SIGQUIT, Sig::SIGTERM, Sig::SIGTSTP, Sig::SIGALRM];
    let usual_limit = USUAL_LIMIT.get().copied();
    let in_child = move || {
        for ignored in OFTEN_IGNORED {
            // SAFETY: the default action runs no handler.
            unsafe { signal(ignored, SigHandler::SigDfl) }?;
        }
        if let Some(limit) = usual_limit {
            setrlimit(Resource::Nofile, limit)?;
        }
        setsid()?;
        if on_terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(())
    };
    // SAFETY: the closure only makes system calls that are async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(in_child) };
}

fn set_nonblocking(file: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(file, true)?)
}

fn duration(field: &str, seconds: f64) -> Result<Duration, Problem> {
    if (0.0..=SECONDS_MAX).contains(&seconds) && seconds > 0.0 {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(invalid(format!("{field} is {seconds}; a number of seconds, more than 0 and at most {SECONDS_MAX}.")))
    }
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::RequestInvalid, detail)
}

fn spawn_problem(detail: String) -> Problem {
    Problem::new(ErrorCode::ProcessSpawn, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<Plan, String> {
        serde_json::from_str::<Spec>(json).map_err(|error| error.to_string())?.check().map_err(|problem| problem.detail)
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_name() {
        for (json, named) in [
            ("{}", "argv"),
            (r#"{"argv":[]}"#, "argv"),
            (r#"{"argv":[""]}"#, "argv"),
            (r#"{"argv":["a"],"shell":"b"}"#, "both"),
            (r#"{"argv":["a"],"env":{"A=B":"c"}}"#, "env"),
            (r#"{"argv":["a"],"timeout":0}"#, "timeout"),
            (r#"{"argv":["a"],"timeout":-1}"#, "timeout"),
            (r#"{"argv":["a"],"max_run_after_detach":1e300}"#, "max_run_after_detach"),
            (r#"{"argv":["a"],"tty":{"rows":0,"cols":80}}"#, "rows"),
            (r#"{"argv":["a"],"tty":{"rows":1000,"cols":1000}}"#, "cells"),
            (r#"{"argv":["a"],"tty":{"rows":24,"cols":80},"stdin":"closed"}"#, "terminal"),
            (r#"{"argv":["a"],"stdin":"shut"}"#, "shut"),
            (r#"{"argw":["a"]}"#, "argw"),
        ] {
            let said = plan(json).expect_err(json);
            assert!(said.contains(named), "{json}: {said}");
        }
    }

    #[test]
    fn a_plan_says_what_was_left_open() {
        let plan = plan(r#"{"shell":"exit 3","timeout":1.5}"#).unwrap();
        assert_eq!(plan.argv, ["/bin/sh", "-c", "exit 3"]);
        assert_eq!((plan.stdin, plan.timeout), (StdinMode::Open, Some(Duration::from_millis(1500))));
    }
}
