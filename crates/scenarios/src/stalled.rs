//! One thread of a process that stands still while the others go on: what a disk that does not answer makes of the thread that
//! asked it.
//!
//! A whole process is stopped by a signal, a single thread only by a debugger. So this is one that does nothing else.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// A thread that stands still until the value is dropped.
#[derive(Debug)]
pub struct Stalled {
    /// Hung up to let the thread go on.
    held: Option<mpsc::SyncSender<()>>,
    /// What a thread traces, no other may let go.
    tracer: Option<JoinHandle<()>>,
}

impl Stalled {
    /// Stops the thread of this name.
    ///
    /// # Panics
    ///
    /// There is no such thread, or the system does not let this process trace it.
    pub fn new(pid: u32, name: &str) -> Self {
        let thread = find(pid, name).unwrap_or_else(|| panic!("process {pid} has no thread {name}"));
        let (held, go) = mpsc::sync_channel::<()>(0);
        let (stopped, stands) = mpsc::sync_channel(1);
        let tracer = std::thread::spawn(move || {
            let id = Pid::from_raw(thread.file_name().and_then(|id| id.to_str()?.parse().ok()).expect("a thread's id"));
            while !stops_waiting(id, &thread) {
                ptrace::detach(id, None).expect("a thread that is traced");
                std::thread::sleep(Duration::from_millis(1));
            }
            stopped.send(()).expect("somebody waits for it");
            // Only the end of this wait counts.
            let _ = go.recv();
            // A thread that was killed meanwhile needs nobody.
            let _ = ptrace::detach(id, None);
        });
        stands.recv().expect("the thread can be traced; kernel.yama.ptrace_scope is 1 at most");
        Self { held: Some(held), tracer: Some(tracer) }
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        drop(self.held.take());
        let ended = self.tracer.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || !matches!(ended, Some(Err(_))), "the tracer failed");
    }
}

fn find(pid: u32, name: &str) -> Option<PathBuf> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut threads = threads.filter_map(|thread| Some(thread.ok()?.path()));
    threads.find(|thread| std::fs::read_to_string(thread.join("comm")).is_ok_and(|comm| comm.trim_end() == name))
}

/// Stops a thread, and says whether it was waiting in the kernel: elsewhere it might hold what the others need.
fn stops_waiting(id: Pid, thread: &Path) -> bool {
    ptrace::seize(id, ptrace::Options::empty()).expect("a thread that may be traced");
    ptrace::interrupt(id).expect("a thread that is traced");
    waitpid(id, Some(WaitPidFlag::__WALL)).expect("a thread that stops");
    std::fs::read_to_string(thread.join("syscall")).is_ok_and(|call| !call.starts_with('-'))
}
