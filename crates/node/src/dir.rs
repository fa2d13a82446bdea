//! One instance's directory on this host, and the one safe way to the sockets in it.
//!
//! The instance's own programs may write in `home/`, `run/` and `state/`, and so may put anything in the place of a
//! socket, such as a link to another instance's. The daemon sees the whole host, so it never follows a link out of there.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use landfast_core::InstanceId;
use landfast_core::record::{Generation, InstanceSpec};
use nix::fcntl::{Flock, FlockArg};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::identity::replace;

/// The agent's data socket, which relays reach.
pub(crate) const AGENT_SOCKET: &str = "agent.sock";

/// The socket on which the agent takes connections over.
pub(crate) const HANDOFF_SOCKET: &str = "handoff.sock";

/// The agent's control socket, which only this daemon reaches.
pub(crate) const CONTROL_SOCKET: &str = "control.sock";

/// The note that the instance is being put to sleep.
const DOZE: &str = "doze.json";

/// The note of the life that the node carries by its lease.
const LEASED: &str = "leased.json";

/// The same note, of a life that was ended because the node had lost the lease.
const UNLEASED: &str = "unleased.json";

/// A log this large is put aside when the next agent starts: enough to explain a failure, small beside a home.
const LOG_MAX: u64 = 8 * 1024 * 1024;

/// How long one pass over a directory's files may take: a home with a few million files.
const REMOVE_DEADLINE: Duration = Duration::from_secs(300);

/// How long another daemon of this host may hold an instance's directory: it starts or kills an agent meanwhile.
const LOCK_DEADLINE: Duration = Duration::from_secs(10);

/// Between two tries to get the lock; two daemons want one directory only when one of them was just lost.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// An instance's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InstanceDir {
    path: PathBuf,
}

/// Held while an agent is started or killed, so that two daemons of one host do not do it at once. Other processes than
/// this daemon never inherit it.
#[derive(Debug)]
pub(crate) struct DirLock(#[expect(dead_code, reason = "holding it is its use")] Flock<File>);

/// Where all instances of this host are.
pub(crate) fn instances(data: &Path) -> PathBuf {
    data.join("instances")
}

impl InstanceDir {
    pub(crate) fn new(data: &Path, id: InstanceId) -> Self {
        Self { path: instances(data).join(id.to_string()) }
    }

    pub(crate) const fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// All of it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the instance's user sees as home.
    pub(crate) fn home(&self) -> PathBuf {
        self.path.join("home")
    }

    /// Where the agent's sockets are.
    pub(crate) fn run(&self) -> PathBuf {
        self.path.join("run")
    }

    /// Where the agent keeps what must not be lost.
    pub(crate) fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    /// A file of the daemon's, which the instance does not see.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where the agent finds the instance's spec. It holds secrets, so it is the agent's and nobody else's to read.
    pub(crate) fn spec(&self) -> PathBuf {
        self.file("spec.json")
    }

    /// Writes the spec for the next agent, which runs as `owner` where the instance has a user of its own.
    pub(crate) fn write_spec(&self, spec: &InstanceSpec, owner: Option<u32>) -> io::Result<()> {
        replace(&self.spec(), spec)?;
        owner.map_or(Ok(()), |owner| chown(self.spec(), Some(owner), Some(owner)))
    }

    /// Notes that the instance is being put to sleep in this generation, so that a daemon that comes back in between goes
    /// on with that instead of missing the agent.
    pub(crate) fn note_doze(&self, generation: Generation) -> io::Result<()> {
        replace(&self.file(DOZE), &generation)
    }

    /// The generation of the last such note.
    pub(crate) fn doze(&self) -> Option<Generation> {
        serde_json::from_slice(&fs::read(self.file(DOZE)).ok()?).ok()
    }

    /// Notes the life that is about to start, which its node carries by its lease.
    pub(crate) fn note_leased(&self, generation: Generation) -> io::Result<()> {
        replace(&self.file(LEASED), &generation)?;
        absent_is_fine(fs::remove_file(self.file(UNLEASED)))
    }

    /// Notes that the instance was ended because its node had lost the lease: who misses its agent then knows that this is no
    /// failure of the instance. The note is there already, under another name, so that a full disk does not hinder it.
    pub(crate) fn note_unleased(&self) -> io::Result<()> {
        fs::rename(self.file(LEASED), self.file(UNLEASED))
    }

    /// The generation in which the life began that ended so.
    pub(crate) fn unleased(&self) -> Option<Generation> {
        serde_json::from_slice(&fs::read(self.file(UNLEASED)).ok()?).ok()
    }

    pub(crate) fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// Makes what is missing, with the writable parts owned by `owner` where the instance has a user of its own.
    pub(crate) fn create(&self, owner: Option<u32>) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.path)?;
        for part in [self.home(), self.run(), self.state()] {
            builder.create(&part)?;
            fs::set_permissions(&part, Permissions::from_mode(0o700))?;
            if let Some(owner) = owner {
                chown(&part, Some(owner), Some(owner))?;
            }
        }
        Ok(())
    }

    /// Takes away the sockets of an agent that has ended, so that nobody waits for it.
    pub(crate) fn clear_sockets(&self) -> io::Result<()> {
        for name in [AGENT_SOCKET, HANDOFF_SOCKET, CONTROL_SOCKET] {
            absent_is_fine(fs::remove_file(self.run().join(name)))?;
        }
        Ok(())
    }

    /// Opens the log that the next agent appends to.
    pub(crate) fn log(&self) -> io::Result<Stdio> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.file("agent.log");
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_MAX) {
            fs::rename(&path, self.file("agent.log.old"))?;
        }
        let log = File::options().append(true).create(true).mode(0o600).open(&path)?;
        Ok(log.into())
    }

    /// Waits until no other daemon of this host starts or kills an agent here.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] after ten seconds.
    pub(crate) async fn lock(&self) -> io::Result<DirLock> {
        let patient = async {
            loop {
                let file = File::options().write(true).create(true).truncate(false).open(self.file("lock"))?;
                match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                    Ok(lock) => return Ok(DirLock(lock)),
                    Err((_, nix::Error::EWOULDBLOCK)) => tokio::time::sleep(LOCK_RETRY).await,
                    Err((_, error)) => return Err(error.into()),
                }
            }
        };
        timeout(LOCK_DEADLINE, patient).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Connects to one of the agent's sockets.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] and [`io::ErrorKind::ConnectionRefused`] say that nobody listens;
    /// [`io::ErrorKind::InvalidInput`] that something else than a socket stands there.
    pub(crate) async fn connect(&self, name: &str) -> io::Result<UnixStream> {
        let socket = open_socket(&self.run().join(name))?;
        // By descriptor: what was checked is what is connected to, and its path may be of any length.
        UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
    }

    /// Removes everything. What it holds may be as deep and as odd as a program could make it, so `rm` does it, in a
    /// process of its own.
    pub(crate) async fn remove(&self) -> io::Result<()> {
        if rm(&self.path).await.is_err() {
            // The daemon is not always root, and a directory without permissions does not let its owner in either.
            run("chmod", &["-R", "u+rwX", "--"], &self.path).await.ok();
            rm(&self.path).await?;
        }
        Ok(())
    }
}

/// Whether an answer of [`InstanceDir::connect`] proves that nobody listens.
pub(crate) fn nobody_listens(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Opens a socket's file without following a link in its place.
fn open_socket(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
    if kind == FileType::Socket { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

async fn rm(path: &Path) -> io::Result<()> {
    run("rm", &["-rf", "--one-file-system", "--"], path).await
}

async fn run(program: &str, arguments: &[&str], path: &Path) -> io::Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).arg(path).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(REMOVE_DEADLINE, command.output()).await??;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim_end())))
}

/// What was to be removed may not have been there.
pub(crate) fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    fn dir() -> (tempfile::TempDir, InstanceDir) {
        let data = tempfile::tempdir().unwrap();
        let dir = InstanceDir::new(data.path(), landfast_net::random::instance_id());
        dir.create(None).unwrap();
        (data, dir)
    }

    #[tokio::test]
    async fn a_socket_is_reached_and_its_absence_is_known() {
        let (_data, dir) = dir();
        assert!(nobody_listens(&dir.connect(AGENT_SOCKET).await.unwrap_err()));
        let listener = UnixListener::bind(dir.run().join(AGENT_SOCKET)).unwrap();
        let (dialled, accepted) = tokio::join!(dir.connect(AGENT_SOCKET), listener.accept());
        assert!(dialled.is_ok() && accepted.is_ok());
        drop(listener);
        assert!(nobody_listens(&dir.connect(AGENT_SOCKET).await.unwrap_err()));
    }

    #[tokio::test]
    async fn a_link_in_the_place_of_a_socket_is_not_followed() {
        let ((_data, dir), (_other_data, other)) = (dir(), dir());
        let _secret = UnixListener::bind(other.run().join(AGENT_SOCKET)).unwrap();
        std::os::unix::fs::symlink(other.run().join(AGENT_SOCKET), dir.run().join(AGENT_SOCKET)).unwrap();
        assert!(dir.connect(AGENT_SOCKET).await.is_err());
        fs::remove_file(dir.run().join(AGENT_SOCKET)).unwrap();
        fs::write(dir.run().join(AGENT_SOCKET), "").unwrap();
        assert_eq!(dir.connect(AGENT_SOCKET).await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[tokio::test]
    async fn a_directory_is_removed_however_odd_it_is() {
        let (_data, dir) = dir();
        let locked = dir.home().join("locked");
        fs::create_dir_all(locked.join("inner")).unwrap();
        fs::write(locked.join("inner/file"), "x").unwrap();
        fs::set_permissions(&locked, Permissions::from_mode(0o000)).unwrap();
        dir.remove().await.unwrap();
        assert!(!dir.exists());
        dir.remove().await.unwrap();
    }

    #[test]
    fn the_next_life_begins_without_the_note_of_the_last() {
        let (_data, dir) = dir();
        let [first, second] = [1, 2].map(Generation);
        dir.note_leased(first).unwrap();
        assert_eq!(dir.unleased(), None);
        dir.note_unleased().unwrap();
        assert_eq!(dir.unleased(), Some(first));
        dir.note_leased(second).unwrap();
        assert_eq!(dir.unleased(), None);
    }

    #[tokio::test]
    async fn only_one_holds_the_lock() {
        let (_data, dir) = dir();
        let held = dir.lock().await.unwrap();
        let second = timeout(Duration::from_millis(100), dir.lock());
        assert!(second.await.is_err());
        drop(held);
        dir.lock().await.unwrap();
    }
}
