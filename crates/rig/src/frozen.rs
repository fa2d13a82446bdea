//! Processes that stand still.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long the threads of a process may take to stop.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// Stops a process, and returns when all its threads stand still: the signal stops one, which tells the others.
///
/// # Panics
///
/// It does not run, or does not stop.
pub fn freeze(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGSTOP).expect("a process that runs");
    let until = Instant::now() + STOPS_WITHIN;
    while !stands_still(pid) {
        assert!(Instant::now() < until, "process {pid} does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Lets a process go on.
///
/// # Panics
///
/// It does not run.
pub fn thaw(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGCONT).expect("a process that runs");
}

/// Whether every thread of a process is stopped (`proc_pid_stat(5)`: the state follows the name, which stands in parentheses).
fn stands_still(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process that runs");
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't', 'Z']))
    })
}
