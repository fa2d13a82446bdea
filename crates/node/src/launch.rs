//! From a command to processes that owe the daemon nothing: a session of their own, no descriptor but a log, an
//! environment without secrets; in a sandbox, or as they are.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::process::Stdio;
use std::time::Duration;

use landfast_core::InstanceId;
use landfast_core::record::Network;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::dir::InstanceDir;
use crate::isolation::{Channels, Sandbox};
use crate::private_network::{Gate, PrivateNetwork};
use crate::process::ProcessId;

/// How long bubblewrap may take to say which process is the first: a loaded machine takes a second or two.
const SANDBOX_DEADLINE: Duration = Duration::from_secs(20);

/// The most bytes that bubblewrap says about the sandbox it made.
const INFO_MAX: u64 = 4096;

/// The whole environment of what is started.
pub(crate) type Environment = Vec<(&'static str, OsString)>;

/// What is to be started, and for whom.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) id: InstanceId,
    pub(crate) dir: &'a InstanceDir,
    pub(crate) program: &'a [OsString],
    pub(crate) environment: Environment,
}

/// What was started.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) child: Child,
    /// The process whose end is the end of all.
    pub(crate) process: ProcessId,
    /// What keeps its network, if that is its own.
    pub(crate) network: Option<ProcessId>,
}

/// Which network a sandbox gets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Connection<'a> {
    /// One of its own, connected by this.
    Private(&'a PrivateNetwork),
    /// As it stands.
    Plain(Network),
}

impl Launch<'_> {
    /// Starts the program as it is.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub(crate) fn plain(self) -> io::Result<Launched> {
        let child = spawn(self.program, self.environment, self.dir, &[])?;
        let process = id_of(&child).ok_or(io::ErrorKind::NotFound)?;
        Ok(Launched { child, process, network: None })
    }

    /// Starts the program in a sandbox, finds out which process is the first in it, and connects its network before it
    /// runs. If that fails, what was started is left to whoever looks for the instance's mark.
    ///
    /// # Errors
    ///
    /// If the sandbox or its network cannot be made; the instance's `agent.log` says why.
    pub(crate) async fn isolated(self, sandbox: &Sandbox, connection: Connection<'_>) -> io::Result<Launched> {
        let (info, told) = pipe_with(PipeFlags::CLOEXEC)?;
        let (network, gate) = match connection {
            Connection::Private(_) => (Network::Private, Some(Gate::new()?)),
            Connection::Plain(network) => (network, None),
        };
        let channels = Channels { info: Some(&told), gate: gate.as_ref().map(Gate::inside) };
        let line = sandbox.wrap(self.dir, self.id, network, &channels, self.program)?;
        let child = spawn(&line, self.environment.clone(), self.dir, &channels.all())?;
        drop(told);
        let process = first_process(info).await.ok_or_else(|| io::Error::other("bubblewrap made no sandbox"))?;
        let network = match (connection, gate) {
            (Connection::Private(private), Some(gate)) => {
                let helper = private.connect(process, self.dir, self.environment).await?;
                gate.open()?;
                Some(helper)
            }
            (Connection::Private(_) | Connection::Plain(_), _) => None,
        };
        Ok(Launched { child, process, network })
    }
}

/// Starts a command that owes the daemon nothing. It gets the descriptors in `keep`, and its log.
///
/// # Errors
///
/// If it cannot be started.
pub(crate) fn spawn(
    line: &[OsString],
    environment: Environment,
    dir: &InstanceDir,
    keep: &[&OwnedFd],
) -> io::Result<Child> {
    let (program, arguments) = line.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(environment).current_dir(dir.home());
    command.stdin(Stdio::null()).stdout(dir.log()?).stderr(dir.log()?);
    detach(&mut command, keep.iter().map(|descriptor| descriptor.as_raw_fd()).collect());
    command.spawn()
}

/// The process that a command became.
pub(crate) fn id_of(child: &Child) -> Option<ProcessId> {
    child.id().and_then(|pid| ProcessId::now(pid.cast_signed()).ok())
}

/// A session of its own, so that no signal to the daemon's group reaches the agent; and no descriptor that the daemon
/// was started with.
#[allow(unsafe_code)]
fn detach(command: &mut Command, keep: Vec<RawFd>) {
    use nix::libc::{CLOSE_RANGE_CLOEXEC, F_SETFD, SYS_close_range, fcntl, setsid, syscall};
    let prepare = move || {
        // SAFETY: between fork and exec only async-signal-safe calls are made: these three are plain system calls that
        // touch no memory. The descriptors are only marked, so that the runtime's own stay usable until exec.
        unsafe {
            setsid();
            syscall(SYS_close_range, 3, u32::MAX, CLOSE_RANGE_CLOEXEC);
            for &descriptor in &keep {
                fcntl(descriptor, F_SETFD, 0);
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
    timeout(SANDBOX_DEADLINE, reader.take(INFO_MAX).read_to_end(&mut told)).await.ok()?.ok()?;
    let info: Info = serde_json::from_slice(&told).ok()?;
    ProcessId::now(info.child).ok()
}
