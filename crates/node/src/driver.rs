//! The `process` driver: an agent per instance, as processes of this host, in a sandbox where there is one.
//!
//! The agent is started so that it owes the daemon nothing: a session of its own, no descriptor but its log, an
//! environment without secrets. The note that finds it again is on disk before it can do anything.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use landfast_core::record::{Instance, Network};
use landfast_core::{ErrorCode, InstanceId, Problem};
use tokio::time::{Instant, sleep};

use crate::agent::{Agent, AgentError, Death, Note, clear_away};
use crate::dir::InstanceDir;
use crate::isolation::{Confinement, View};
use crate::launch::{Environment, Launch, Launched, id_of};
use crate::process::{MARK, Process};

/// How long an agent may take from its start to its first answer: a loaded machine takes a second or two.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// Between looks at an agent that is coming up: begins short, because most are up in a few milliseconds.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const SLOWEST_LOOK: Duration = Duration::from_millis(50);

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
        match Note::read(&dir, record.id)? {
            Some(note) if note.generation > record.generation => {
                return Err(StartError(format!("This host runs its generation {}.", note.generation)));
            }
            note => clear_life(&dir, note).await?,
        }
        dir.clear_sockets()?;
        match self.launch(record, &dir).await {
            Ok(agent) => Ok(agent),
            Err(error) => {
                clear_life(&dir, Note::read(&dir, record.id)?).await?;
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
            note => clear_life(&dir, note).await?,
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
        let mut note = Note { instance, generation, isolated, process: None, leader: None, network: None };
        // Before anything runs, so that a daemon that is killed now is followed by one that looks for it.
        note.write(dir)?;
        dir.note_leased(generation)?;
        dir.write_spec(&record.spec, self.confinement.user(record.id))?;
        let view = self.confinement.view(dir);
        let mut program = self.command.clone();
        program.extend(arguments(record, &view));
        let environment = environment(record.id, &view);
        let launch = Launch { id: record.id, dir, program: &program, environment };
        let Launched { mut child, process, network } = self.start_program(record, launch).await?;
        note.leader = id_of(&child);
        (note.process, note.network) = (Some(process), network);
        note.write(dir)?;
        let Some(process) = Process::find(process)? else {
            // It ended before it could be looked at.
            return Err(no_agent(Death::of(&mut child, instance).await));
        };
        let mut agent = Agent::started(dir.clone(), note, process, child);
        come_up(&mut agent, record).await?;
        Ok(agent)
    }

    async fn start_program(&self, record: &Instance, launch: Launch<'_>) -> Result<Launched, StartError> {
        match &self.confinement {
            Confinement::Bubblewrap(sandbox) => {
                let connection = sandbox.connection(record.kind, record.spec.network).map_err(StartError)?;
                launch.isolated(sandbox, connection).await.map_err(|error| {
                    tracing::error!(instance = %record.id, %error, "no sandbox; the instance's agent.log may say why");
                    StartError("The sandbox could not be made.".to_owned())
                })
            }
            Confinement::None(_) => match record.spec.network {
                Network::Auto | Network::Host => Ok(launch.plain()?),
                Network::Private | Network::None => {
                    Err(StartError("A network of its own needs isolation, and this node has none.".to_owned()))
                }
            },
        }
    }
}

/// Kills what a life has left and takes its note away, so that it is looked for once: what carries the instance's mark later may be
/// of its next life, which runs elsewhere on a machine whose processes are all seen from here.
async fn clear_life(dir: &InstanceDir, note: Option<Note>) -> io::Result<()> {
    let Some(note) = note else { return Ok(()) };
    clear_away(&note).await?;
    Note::remove(dir)
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
