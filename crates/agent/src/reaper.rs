//! Takes in the instance's orphans and waits for them, so that no zombie stays.
//!
//! Every process that the agent started is waited for by its own task and by nobody else: a status that is taken twice
//! is a status that is lost. So a child is only looked at here, and taken if it is none of ours.

use std::sync::Arc;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use tokio::signal::unix::{SignalKind, signal};

use crate::table::Processes;

/// Waits for orphans for as long as the agent lives. Only right where all other children of this process are in
/// `processes`.
///
/// # Errors
///
/// If the kernel gives neither orphans nor signals.
pub(crate) async fn run(processes: Arc<Processes>) -> std::io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)?;
    let mut children = signal(SignalKind::child())?;
    loop {
        sweep(&processes);
        tokio::select! {
            _ = children.recv() => {}
            // An orphan may have stood behind one of ours.
            () = processes.reaped.notified() => {}
        }
    }
}

fn sweep(processes: &Processes) {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) = waitid(Id::All, look) {
        if processes.owns(pid.as_raw()) {
            // Its task rings when it has waited for it.
            return;
        }
        if let Err(error) = waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            tracing::warn!(%pid, %error, "an orphan could not be waited for");
            return;
        }
    }
}
