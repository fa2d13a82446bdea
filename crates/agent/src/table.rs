//! The processes of the instance, by id.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use landfast_core::{ErrorCode, Problem, ProcessId, ServiceName};
use landfast_net::clock;
use landfast_net::random;
use tokio::io::Interest;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::config::Config;
use crate::events::Events;
use crate::file::watch;
use crate::input::Input;
use crate::log::Log;
use crate::process::{
    Description, KilledBy, Life, Pace, Process, Role, Shown, State, Terminal, VIEWER_DEADLINE, Viewer,
};
use crate::record::{Record, Records};
use crate::runner::{Files, Runner, Told};
use crate::screen::{Redraw, Screen};
use crate::spawn::{self, Plan, Started, StdinMode};

/// How long the deletion of a running process waits for its end: the kernel needs milliseconds, or for ever if a disk
/// hangs.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How long processes may take to end by themselves when the agent ends: the node kills it after five seconds.
const ASK_PATIENCE: Duration = Duration::from_secs(2);

/// The processes that run, and those that ended and were not deleted.
#[derive(Debug)]
pub(crate) struct Processes {
    by_id: Mutex<BTreeMap<ProcessId, Arc<Process>>>,
    /// Each service's newest start.
    served: Mutex<BTreeMap<ServiceName, Arc<Process>>>,
    records: Arc<Records>,
    events: Arc<Events>,
    /// Rung when one of ours was waited for.
    pub(crate) reaped: Arc<Notify>,
}

impl Processes {
    /// The processes that earlier agents left records of.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn load(config: &Config, events: &Arc<Events>) -> io::Result<Self> {
        let records = Records::open(&config.state)?;
        let past = records.load(config.limits.processes)?;
        let by_id = past.into_iter().map(|record| (record.id, past_process(record))).collect();
        Ok(Self {
            by_id: Mutex::new(by_id),
            served: Mutex::default(),
            records: Arc::new(records),
            events: events.clone(),
            reaped: Arc::new(Notify::new()),
        })
    }

    /// Starts a process.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::LimitProcesses`], [`ErrorCode::ProcessSpawn`].
    pub(crate) fn start(self: &Arc<Self>, plan: Plan, config: &Config) -> Result<Arc<Process>, Problem> {
        let limit = config.limits.processes;
        if self.table().len() >= limit {
            let detail = format!("The instance has {limit} processes, those included that have exited.");
            return Err(Problem::new(ErrorCode::LimitProcesses, detail));
        }
        let process = self.spawn(plan, Role::Task, Log::new(config.limits.log), config)?;
        if let Err(error) = self.records.started(&process) {
            // An agent started again would take it for one that never was.
            process.kill(KilledBy::Request);
            self.forget_at_end(Viewer::watch(process));
            return Err(unwritten(&error));
        }
        Ok(process)
    }

    /// Starts a service's command. What it says goes on in the log of the service's last start.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ProcessSpawn`].
    pub(crate) fn start_service(
        &self,
        name: ServiceName,
        plan: Plan,
        last: &Process,
        config: &Config,
    ) -> Result<Arc<Process>, Problem> {
        let process = self.spawn(plan, Role::Service(name), Log::new(config.limits.log), config)?;
        // Its task has not run yet, so it has said nothing. A copy, because there may be readers of the last one.
        process.state().log = last.state().log.clone();
        Ok(process)
    }

    /// Starts a process of either kind. From its start to its place in the table nothing is awaited: the reaper must find
    /// it there.
    fn spawn(&self, plan: Plan, role: Role, log: Log, config: &Config) -> Result<Arc<Process>, Problem> {
        let Started { pid, pidfd, ends } = plan.start(config)?;
        let files = Files::new(ends).and_then(|files| Ok((files, watch(pidfd, Interest::READABLE)?)));
        let (files, pidfd) = files.map_err(|error| {
            spawn::abandon(pid);
            internal("a process's files were not taken", &error)
        })?;
        let terminal = plan.tty.map(|size| Terminal {
            size,
            shown: Shown::Live(Box::new(Screen::new(size))),
            master: files.terminal(),
        });
        let takes_input = terminal.is_some() || plan.stdin == StdinMode::Open;
        let input = if takes_input { Input::open() } else { Input::closed() };
        let mut state = State::running(log, input, terminal);
        if plan.lossless {
            state.pace = Pace::Awaiting { until: Instant::now() + VIEWER_DEADLINE };
        }
        let timeout_at = plan.timeout.map(|timeout| Instant::now() + timeout);
        let what = (plan.argv, pid, clock::unix_millis());
        let process = Process::new(random::process_id(), what, plan.max_run_after_detach, role, state);
        match role {
            Role::Task => drop(self.table().insert(process.id, process.clone())),
            Role::Service(name) => drop(self.served().insert(name, process.clone())),
        }
        let told = Told { records: self.records.clone(), events: self.events.clone(), reaped: self.reaped.clone() };
        let runner = Runner::new(process.clone(), pidfd, files, timeout_at, told);
        tokio::spawn(runner.run());
        Ok(process)
    }

    /// A process.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ProcessUnknown`], also for a text that is no id.
    pub(crate) fn get(&self, id: &str) -> Result<Arc<Process>, Problem> {
        let found = id.parse::<ProcessId>().ok().and_then(|id| self.table().get(&id).cloned());
        found.ok_or_else(|| ErrorCode::ProcessUnknown.into())
    }

    /// All of them, oldest first.
    pub(crate) fn list(&self) -> Vec<Description> {
        self.table().values().map(|process| process.describe()).collect()
    }

    /// Kills a process if it runs, waits for its end, and forgets it. False if it has not ended in time; it is forgotten
    /// once it has.
    pub(crate) async fn delete(self: &Arc<Self>, process: Arc<Process>) -> bool {
        process.kill(KilledBy::Request);
        let viewer = Viewer::watch(process);
        let has_ended = timeout(KILL_PATIENCE, viewer.ended()).await.is_ok();
        if has_ended {
            self.forget(viewer.process());
        } else {
            self.forget_at_end(viewer);
        }
        has_ended
    }

    /// Ends everything: asks, waits a bounded time, then kills.
    pub(crate) async fn end_all(&self) {
        let running: Vec<_> = self.table().values().filter(|process| process.is_running()).cloned().collect();
        running.iter().for_each(|process| process.ask_to_end());
        if timeout(ASK_PATIENCE, all_ended(&running)).await.is_ok() {
            return;
        }
        running.iter().for_each(|process| process.kill(KilledBy::Request));
        if timeout(ASK_PATIENCE, all_ended(&running)).await.is_err() {
            tracing::warn!("not every process has ended");
        }
    }

    /// Whether a process with this number runs and will be waited for by its own task.
    pub(crate) fn owns(&self, pid: i32) -> bool {
        let is_it = |process: &Arc<Process>| process.pid == pid && !process.state().is_reaped;
        self.table().values().any(is_it) || self.served().values().any(is_it)
    }

    /// Forgets a process once it has ended. Where the runtime ends, so does everything.
    pub(crate) fn forget_at_end(self: &Arc<Self>, viewer: Viewer) {
        let table = self.clone();
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                viewer.ended().await;
                table.forget(viewer.process());
            });
        }
    }

    fn forget(&self, process: &Process) {
        if self.table().remove(&process.id).is_some() {
            self.records.forget(process.id);
            process.forget();
        }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<ProcessId, Arc<Process>>> {
        self.by_id.lock().expect("nobody panics while holding the table")
    }

    fn served(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Arc<Process>>> {
        self.served.lock().expect("nobody panics while holding the table")
    }
}

async fn all_ended(processes: &[Arc<Process>]) {
    for process in processes {
        Viewer::watch(process.clone()).ended().await;
    }
}

/// A process that an earlier agent ran.
fn past_process(record: Record) -> Arc<Process> {
    let life = record.end.map_or(Life::Unknown, |end| Life::Exited(end.exit));
    let log_end = record.end.map_or(0, |end| end.log);
    let mut state = State::past(life, Log::lost(log_end));
    state.terminal = record.tty.map(|size| Terminal {
        size,
        shown: Shown::Last(Redraw { bytes: Vec::new(), offset: log_end }),
        master: None,
    });
    Process::new(record.id, (record.argv, record.pid, record.started_at), None, Role::Task, state)
}

/// A process whose record could not be written has been ended. A full disk is the instance's to see to.
fn unwritten(error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Problem::new(ErrorCode::FileNoSpace, "The process was ended: there is no space to write down that it runs.")
        }
        _ => internal("a process's record was not written", error),
    }
}

fn internal(what: &str, error: &io::Error) -> Problem {
    tracing::error!(%error, "{what}");
    ErrorCode::Internal.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_full_is_told_as_that() {
        assert_eq!(unwritten(&io::ErrorKind::StorageFull.into()).code, ErrorCode::FileNoSpace);
        assert_eq!(unwritten(&io::ErrorKind::PermissionDenied.into()).code, ErrorCode::Internal);
    }
}
