//! The `process` driver: an agent per instance, as processes of this host, in a sandbox where there is one.
//!
//! The agent is started so that it owes the daemon nothing: a session of its own, no descriptor but its log, an
//! environment without secrets. The note that finds it again is on disk before it can do anything.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use landfast_core::record::{Instance, Network};
use landfast_core::{ErrorCode, InstanceId, Problem};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::agent::{Agent, AgentError, Death, Note, clear_away};
use crate::dir::InstanceDir;
use crate::isolation::{Confinement, Sandbox, View};
use crate::process::{MARK, Process, ProcessId};

/// How long an agent may take from its start to its first answer: a loaded machine takes a second or two.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// Between looks at an agent that is coming up: begins short, because most are up in a few milliseconds.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const SLOWEST_LOOK: Duration = Duration::from_millis(50);

/// The most bytes that bubblewrap says about the sandbox it made.
const INFO_MAX: u64 = 4096;

/// What an instance's programs are found in: the same for every node, whatever its daemon was started with.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How agents are started on this node.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) data: PathBuf,
    pub(crate) confinement: Confinement,
    /// The executable, then what comes before the agent's own arguments.
    pub(crate) command: Vec<OsString>,
}

/// An agent's environment.
type Environment = Vec<(&'static str, OsString)>;

/// Why an agent was not started. The text is the record's reason, read by users: no paths.
#[derive(Debug)]
pub(crate) struct StartError(pub(crate) String);

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self(format!("The agent could not be started: {}.", error.kind()))
    }
}

impl Driver {
    pub(crate) fn dir(&self, id: InstanceId) -> InstanceDir {
        InstanceDir::new(&self.data, id)
    }

    /// Starts the instance's agent in this generation, or finds that it was. What an older life left on this host is
    /// killed first.
    ///
    /// # Errors
    ///
    /// Why not; nothing of it is left then.
    pub(crate) async fn start(&self, record: &Instance) -> Result<Agent, StartError> {
        let dir = self.dir(record.id);
        dir.create(self.confinement.user(record.id))?;
        let _lock = dir.lock().await?;
        if let Some(agent) = Agent::find(&dir, record.id)?
            && agent.born() == record.generation
            && agent.check(record.generation).await.is_ok()
        {
            return Ok(agent);
        }
        if let Some(note) = Note::read(&dir, record.id)? {
            clear_away(&note).await?;
        }
        dir.clear_sockets()?;
        match self.launch(record, &dir).await {
            Ok(agent) => Ok(agent),
            Err(error) => {
                if let Some(note) = Note::read(&dir, record.id)? {
                    clear_away(&note).await?;
                }
                Err(error)
            }
        }
    }

    /// Sees to it that nothing of an ended instance runs on this host, and removes its files if asked to. A younger life
    /// than `record`'s is left alone.
    ///
    /// # Errors
    ///
    /// If something could not be killed or removed.
    pub(crate) async fn clear(&self, record: &Instance, files: bool) -> io::Result<()> {
        let dir = self.dir(record.id);
        if !dir.exists() {
            return Ok(());
        }
        let lock = dir.lock().await?;
        match Note::read(&dir, record.id)? {
            Some(note) if note.generation > record.generation => return Ok(()),
            Some(note) => clear_away(&note).await?,
            None => {}
        }
        if files {
            dir.remove().await?;
        }
        drop(lock);
        Ok(())
    }

    async fn launch(&self, record: &Instance, dir: &InstanceDir) -> Result<Agent, StartError> {
        let isolated = matches!(self.confinement, Confinement::Bubblewrap(_));
        let (instance, generation) = (record.id, record.generation);
        let mut note = Note { instance, generation, isolated, process: None, leader: None };
        // Before anything runs, so that a daemon that is killed now is followed by one that looks for it.
        note.write(dir)?;
        dir.write_spec(&record.spec, self.confinement.user(record.id))?;
        let view = self.confinement.view(dir);
        let mut program = self.command.clone();
        program.extend(arguments(record, &view));
        let environment = environment(record.id, &view);
        let (child, process) = match &self.confinement {
            Confinement::Bubblewrap(sandbox) => launch_isolated(sandbox, record, dir, &program, environment).await?,
            Confinement::None(_) => launch_plain(record, dir, &program, environment)?,
        };
        note.leader = id_of(&child);
        note.process = Some(process);
        note.write(dir)?;
        let process = Process::find(process)?.ok_or_else(|| no_agent(Death::unknown()))?;
        let mut agent = Agent::started(dir.clone(), note, process, child);
        come_up(&mut agent, record).await?;
        Ok(agent)
    }
}

/// Starts the program in its sandbox, and finds out which process is the first in it.
async fn launch_isolated(
    sandbox: &Sandbox,
    record: &Instance,
    dir: &InstanceDir,
    program: &[OsString],
    environment: Environment,
) -> Result<(Child, ProcessId), StartError> {
    let (info, told) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
    let line = sandbox.wrap(dir, record.id, record.spec.network, Some(told.as_raw_fd()), program)?;
    let child = spawn(&line, environment, dir, Some(&told))?;
    drop(told);
    match first_process(info).await {
        Some(first) => Ok((child, first)),
        None => {
            tracing::error!(instance = %record.id, "bubblewrap made no sandbox; the instance's agent.log says why");
            Err(StartError("The sandbox could not be made.".to_owned()))
        }
    }
}

fn launch_plain(
    record: &Instance,
    dir: &InstanceDir,
    program: &[OsString],
    environment: Environment,
) -> Result<(Child, ProcessId), StartError> {
    match record.spec.network {
        Network::Host => {}
        Network::None => {
            return Err(StartError("network: none needs isolation, and this node has none.".to_owned()));
        }
    }
    let child = spawn(program, environment, dir, None)?;
    let process = id_of(&child).ok_or_else(|| no_agent(Death::unknown()))?;
    Ok((child, process))
}

/// The agent's own arguments.
fn arguments(record: &Instance, view: &View) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |name: &str, value: OsString| arguments.extend([name.into(), value]);
    add("--instance", record.id.to_string().into());
    add("--generation", record.generation.to_string().into());
    add("--run", view.run.clone().into());
    add("--state", view.state.clone().into());
    add("--home", view.home.clone().into());
    add("--spec", view.spec.clone().into());
    arguments
}

/// Nothing of the daemon's own environment: it may hold secrets, and should not differ between nodes.
fn environment(id: InstanceId, view: &View) -> Environment {
    let lang = std::env::var_os("LANG").unwrap_or_else(|| "C.UTF-8".into());
    vec![
        ("PATH", PATH.into()),
        ("HOME", view.home.clone().into()),
        ("USER", "user".into()),
        ("LOGNAME", "user".into()),
        ("LANG", lang),
        (MARK, id.to_string().into()),
    ]
}

fn spawn(line: &[OsString], environment: Environment, dir: &InstanceDir, keep: Option<&OwnedFd>) -> io::Result<Child> {
    let (program, arguments) = line.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(environment).current_dir(dir.home());
    command.stdin(Stdio::null()).stdout(dir.log()?).stderr(dir.log()?);
    detach(&mut command, keep.map(AsRawFd::as_raw_fd));
    command.spawn()
}

/// A session of its own, so that no signal to the daemon's group reaches the agent; and no descriptor that the daemon
/// was started with.
#[allow(unsafe_code)]
fn detach(command: &mut Command, keep: Option<RawFd>) {
    use nix::libc::{CLOSE_RANGE_CLOEXEC, F_SETFD, SYS_close_range, fcntl, setsid, syscall};
    let prepare = move || {
        // SAFETY: between fork and exec only async-signal-safe calls are made: these three are plain system calls that
        // touch no memory. The descriptors are only marked, so that the runtime's own stay usable until exec.
        unsafe {
            setsid();
            syscall(SYS_close_range, 3, u32::MAX, CLOSE_RANGE_CLOEXEC);
            if let Some(keep) = keep {
                fcntl(keep, F_SETFD, 0);
            }
        }
        Ok(())
    };
    // SAFETY: see `prepare`.
    unsafe { command.pre_exec(prepare) };
}

/// The first process of the new pid namespace, as bubblewrap says it; `None` if it failed.
async fn first_process(info: OwnedFd) -> Option<ProcessId> {
    #[derive(serde::Deserialize)]
    struct Info {
        #[serde(rename = "child-pid")]
        child: i32,
    }
    let mut told = Vec::new();
    let reader = pipe::Receiver::from_owned_fd(info).ok()?;
    timeout(START_DEADLINE, reader.take(INFO_MAX).read_to_end(&mut told)).await.ok()?.ok()?;
    let info: Info = serde_json::from_slice(&told).ok()?;
    ProcessId::now(info.child).ok()
}

fn id_of(child: &Child) -> Option<ProcessId> {
    child.id().and_then(|pid| ProcessId::now(pid.cast_signed()).ok())
}

/// Waits until the agent answers.
async fn come_up(agent: &mut Agent, record: &Instance) -> Result<(), StartError> {
    let deadline = Instant::now() + START_DEADLINE;
    let mut pause = FIRST_LOOK;
    loop {
        match agent.check(record.generation).await {
            Ok(()) => return Ok(()),
            Err(AgentError::Absent | AgentError::Silent(_)) if Instant::now() < deadline => {}
            Err(error) => return Err(StartError(format!("The agent did not come up: {error}."))),
        }
        tokio::select! {
            death = agent.ended() => return Err(no_agent(death)),
            () = sleep(pause) => pause = (pause * 2).min(SLOWEST_LOOK),
        }
    }
}

fn no_agent(death: Death) -> StartError {
    StartError(format!("The agent did not come up. {death}"))
}

/// The command that starts agents: as configured, or this executable's own subcommand.
///
/// # Errors
///
/// [`ErrorCode::ConfigInvalid`] if there is no such executable.
pub(crate) fn agent_command(configured: &[String]) -> Result<Vec<OsString>, Problem> {
    let invalid = |what: String| Problem::new(ErrorCode::ConfigInvalid, what);
    let mut command: Vec<OsString> = configured.iter().map(OsString::from).collect();
    if command.is_empty() {
        let own =
            std::env::current_exe().map_err(|error| invalid(format!("This executable is not found: {error}.")))?;
        return Ok(vec![own.into_os_string(), "agent".into()]);
    }
    let program = std::fs::canonicalize(&command[0]).map_err(|error| {
        invalid(format!("agent_command begins with {:?}, which is not found: {error}.", command[0]))
    })?;
    command[0] = program.into_os_string();
    Ok(command)
}
