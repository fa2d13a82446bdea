//! A process of this host that may be somebody else's child: found again after a restart, told apart from a later one
//! with the same number, waited for, and ended with all that belongs to it.
//!
//! A process is its number and the time it started. A pid descriptor is opened first and the start time compared then:
//! from there on the descriptor means that process and no other.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use landfast_core::InstanceId;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{sleep, timeout};

/// The variable that marks an unisolated instance's processes, so that they are found when their parents are gone.
pub(crate) const MARK: &str = "LANDFAST_INSTANCE";

/// How long a killed process may take to be gone. The kernel needs milliseconds, or for ever if a disk hangs.
const DEATH_DEADLINE: Duration = Duration::from_secs(10);

/// Rounds of killing an unisolated instance's processes: they fork while they are looked for, and each round that finds
/// some leaves fewer that can.
const KILL_ROUNDS: u32 = 50;

/// How many looks in a row must find nothing.
const LOOKS: u32 = 2;

/// Between two rounds, for the kernel to take down what was killed.
const KILL_PAUSE: Duration = Duration::from_millis(5);

/// Which process, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// Its number in this host's (or the daemon's container's) process table.
    pub(crate) pid: i32,
    /// Clock ticks after boot at which it started.
    pub(crate) started: u64,
}

/// A living process, or one that was living when it was looked up.
#[derive(Debug)]
pub(crate) struct Process {
    descriptor: AsyncFd<OwnedFd>,
}

impl ProcessId {
    /// The process that has this number now.
    pub(crate) fn now(pid: i32) -> io::Result<Self> {
        Ok(Self { pid, started: Stat::read(pid)?.started })
    }
}

impl Process {
    /// Finds a process; `None` if it is gone, even if another has its number.
    ///
    /// # Errors
    ///
    /// If the kernel cannot tell.
    pub(crate) fn find(id: ProcessId) -> io::Result<Option<Self>> {
        let pid = Pid::from_raw(id.pid).ok_or(io::ErrorKind::InvalidData)?;
        let descriptor = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match Stat::read(id.pid) {
            Ok(stat) if stat.started == id.started && !stat.is_zombie => {
                Ok(Some(Self { descriptor: watch(descriptor)? }))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits for its end. The end of a pid namespace's first process is that of all others in it.
    ///
    /// Cancel safe.
    pub(crate) async fn ended(&self) {
        // An error is one of the runtime's shutting down; then nobody asks any more.
        if self.descriptor.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Kills it and waits until it is gone.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] if it hangs in the kernel, or the reason why it may not be killed.
    pub(crate) async fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)?;
        timeout(DEATH_DEADLINE, self.ended()).await.map_err(|_| io::ErrorKind::TimedOut.into())
    }

    /// Sends a signal; to one that has ended it does nothing.
    fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.descriptor.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[allow(unsafe_code)]
fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by what is returned, which neither replaces nor closes it before its own end.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

/// Kills every process of an instance that has no pid namespace: whatever carries its mark, and the session of `leader`
/// as long as that lives. A program that begins a session of its own and wipes its environment escapes, which only
/// isolation prevents.
///
/// # Errors
///
/// If the process table cannot be read, or new processes keep coming.
pub(crate) async fn kill_marked(instance: InstanceId, leader: Option<ProcessId>) -> io::Result<()> {
    let mark = format!("{MARK}={instance}").into_bytes();
    let leader =
        leader.map(|id| Ok::<_, io::Error>(Process::find(id)?.map(|process| (id.pid, process)))).transpose()?;
    let leader = leader.flatten();
    if let Some((_, process)) = &leader {
        // It starts nothing any more, and as long as it is there its session's number is nobody else's.
        process.signal(Signal::STOP)?;
    }
    let session = leader.as_ref().map(|(pid, _)| *pid);
    let (mut rounds, mut looks) = (0, 0);
    // A process that is just being turned into another program shows no environment, and so no mark.
    while looks < LOOKS {
        let found = marked(&mark, session)?;
        looks = if found.is_empty() { looks + 1 } else { 0 };
        if rounds == KILL_ROUNDS {
            return Err(io::Error::other("its processes keep starting others"));
        }
        rounds += 1;
        for pid in found.into_iter().filter_map(Pid::from_raw) {
            // It may have ended since.
            let _ = kill_process(pid, Signal::KILL);
        }
        sleep(KILL_PAUSE).await;
    }
    match leader {
        Some((_, process)) => process.kill().await,
        None => Ok(()),
    }
}

/// Living processes with the mark or in the session, without the session's leader.
fn marked(mark: &[u8], session: Option<i32>) -> io::Result<HashSet<i32>> {
    let own = std::process::id().cast_signed();
    let mut found = HashSet::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(stat) = Stat::read(pid) else { continue };
        let is_other = pid != own && Some(pid) != session && !stat.is_zombie;
        if is_other && (Some(stat.session) == session || carries(pid, mark)) {
            found.insert(pid);
        }
    }
    Ok(found)
}

fn carries(pid: i32, mark: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| environ.split(|&byte| byte == 0).any(|line| line == mark))
}

/// What the kernel says about a process.
struct Stat {
    is_zombie: bool,
    session: i32,
    started: u64,
}

impl Stat {
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if there is no such process.
    fn read(pid: i32) -> io::Result<Self> {
        let gone = |error: io::Error| match error.raw_os_error() {
            // The file was opened while the process lived, and read when it did not.
            Some(nix::libc::ESRCH) => io::ErrorKind::NotFound.into(),
            _ => error,
        };
        let text = fs::read(format!("/proc/{pid}/stat")).map_err(gone)?;
        Self::parse(&String::from_utf8_lossy(&text)).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The command's name stands in parentheses and may hold anything, also spaces and parentheses.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
        Some(Self {
            is_zombie: matches!(*fields.first()?, "Z" | "X"),
            session: fields.get(3)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn sleeper() -> std::process::Child {
        Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap()
    }

    #[tokio::test]
    async fn a_process_is_found_waited_for_and_killed() {
        let mut child = sleeper();
        let id = ProcessId::now(child.id() as i32).unwrap();
        let process = Process::find(id).unwrap().unwrap();
        assert!(timeout(Duration::from_millis(20), process.ended()).await.is_err());
        process.kill().await.unwrap();
        process.ended().await;
        assert!(Process::find(id).unwrap().is_none(), "a zombie is no process");
        child.wait().unwrap();
        assert!(Process::find(id).unwrap().is_none());
    }

    #[tokio::test]
    async fn another_process_with_the_same_number_is_not_taken_for_it() {
        let mut child = sleeper();
        let id = ProcessId::now(child.id() as i32).unwrap();
        assert!(Process::find(ProcessId { started: id.started - 1, ..id }).unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn marked_processes_are_killed_even_in_a_session_of_their_own() {
        let instance = landfast_net::random::instance_id();
        let shell = "setsid sleep 60 & sleep 60 & exec sleep 60";
        let mut child = Command::new("sh").args(["-c", shell]).env(MARK, instance.to_string()).spawn().unwrap();
        let mark = format!("{MARK}={instance}").into_bytes();
        while marked(&mark, None).unwrap().len() < 3 {
            tokio::task::yield_now().await;
        }
        kill_marked(instance, None).await.unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(marked(&mark, None).unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_living_leaders_session_is_killed_and_that_of_a_number_which_is_anothers_now_is_not() {
        let shell = "sleep 60 & sleep 60 & exec sleep 60";
        let mut child = Command::new("setsid").args(["sh", "-c", shell]).spawn().unwrap();
        let session = child.id().cast_signed();
        let others = || marked(b"no mark", Some(session)).unwrap().len();
        while others() < 2 {
            tokio::task::yield_now().await;
        }
        let leader = ProcessId::now(session).unwrap();
        let instance = landfast_net::random::instance_id();
        kill_marked(instance, Some(ProcessId { started: leader.started - 1, ..leader })).await.unwrap();
        assert_eq!(others(), 2);
        kill_marked(instance, Some(leader)).await.unwrap();
        assert_eq!(others(), 0);
        child.wait().unwrap();
    }

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let text = "7 (a) b (c) S 1 7 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.session, stat.started, stat.is_zombie), (5, 4711, false));
    }
}
