//! A network of an instance's own, from which the world can be reached but not the host's loopback: what it listens on
//! is reached by its agent alone, and two instances never want the same port.
//!
//! bubblewrap makes the namespace, with nothing in it but a loopback. slirp4netns, a process beside the sandbox, puts an
//! interface into it and speaks for it outside, like a home's router. The sandbox waits until that is done.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::geteuid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::{sleep, timeout};

use crate::dir::InstanceDir;
use crate::isolation::find_program;
use crate::launch::{Environment, spawn};
use crate::process::ProcessId;

/// How long the interface may take: some ten milliseconds on an idle machine.
const DEADLINE: Duration = Duration::from_secs(10);

/// What the kernel's table of routes has once a loopback is up.
const LOOPBACK: &str = "127.0.0.1";

/// Between looks for it: making it takes less than a millisecond.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Of the interface: as large as a loopback's, because no wire is involved until the host sends on.
const MTU: &str = "--mtu=65520";

/// The resolver that slirp4netns answers for, whatever the host's is.
const RESOLVER: &str = "nameserver 10.0.2.3\n";

/// What keeps the mounts of slirp4netns from being the host's.
const OWN_MOUNTS: [&str; 4] = ["--mount", "--propagation", "slave", "--"];

/// Gives instances networks of their own.
#[derive(Debug)]
pub(crate) struct PrivateNetwork {
    program: PathBuf,
    /// Present where the daemon is root. Then slirp4netns takes its whole tree of mounts off in a namespace that is a peer of
    /// the host's, and what is mounted below a shared mount goes there too: the namespaces of `ip netns`, for one. With less
    /// privilege the kernel itself sees to it that nothing comes back.
    unshare: Option<PathBuf>,
}

/// Holds a sandbox back until its network is there.
#[derive(Debug)]
pub(crate) struct Gate {
    inside: OwnedFd,
    outside: OwnedFd,
}

impl PrivateNetwork {
    /// Finds the program.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub(crate) fn find() -> Result<Self, String> {
        let program = find_program("slirp4netns")?;
        let unshare = if geteuid().is_root() { Some(find_program("unshare")?) } else { None };
        Ok(Self { program, unshare })
    }

    /// Connects the namespace of a sandbox, of which `first` is the first process. What does so lives as long as nobody
    /// kills it.
    ///
    /// # Errors
    ///
    /// If it does not come up; the instance's `agent.log` says why.
    pub(crate) async fn connect(
        &self,
        first: ProcessId,
        dir: &InstanceDir,
        environment: Environment,
    ) -> io::Result<ProcessId> {
        timeout(DEADLINE, loopback(first.pid)).await?;
        let (ready, told) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut line: Vec<OsString> = Vec::new();
        if let Some(unshare) = &self.unshare {
            line.push(unshare.into());
            line.extend(OWN_MOUNTS.map(OsString::from));
        }
        line.push(self.program.clone().into());
        line.extend(["--configure", MTU, "--disable-host-loopback", "--enable-sandbox"].map(OsString::from));
        line.extend(
            [format!("--ready-fd={}", told.as_raw_fd()), first.pid.to_string(), "tap0".to_owned()].map(OsString::from),
        );
        let child = spawn(&line, environment, dir, &[&told])?;
        drop(told);
        let helper = child.id().map(|pid| ProcessId::now(pid.cast_signed())).ok_or(io::ErrorKind::NotFound)??;
        let mut word = [0];
        let read = async { pipe::Receiver::from_owned_fd(ready)?.read_exact(&mut word).await };
        timeout(DEADLINE, read).await??;
        Ok(helper)
    }
}

impl Gate {
    /// A gate that is shut.
    pub(crate) fn new() -> io::Result<Self> {
        let (inside, outside) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Self { inside, outside })
    }

    /// What bubblewrap reads from before it runs anything.
    pub(crate) const fn inside(&self) -> &OwnedFd {
        &self.inside
    }

    /// Lets the sandbox go on.
    pub(crate) fn open(self) -> io::Result<()> {
        rustix::io::write(&self.outside, b"1").map(drop).map_err(Into::into)
    }
}

/// Waits until bubblewrap has made the namespace's loopback. slirp4netns makes sure of one too, and whichever finds the other's
/// there does not take it well: bubblewrap gives the sandbox up.
async fn loopback(pid: i32) {
    let is_up =
        || std::fs::read_to_string(format!("/proc/{pid}/net/fib_trie")).is_ok_and(|tree| tree.contains(LOOPBACK));
    while !is_up() {
        sleep(LOOK_AGAIN).await;
    }
}

/// Writes the resolver's configuration for such an instance, and says where it is.
///
/// # Errors
///
/// If it cannot be written.
pub(crate) fn write_resolver(dir: &InstanceDir) -> io::Result<PathBuf> {
    let path = dir.file("resolv.conf");
    std::fs::write(&path, RESOLVER)?;
    Ok(path)
}
