//! Processes of an instance, one call each; staying attached to one is [`crate::Attached`]'s.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use landfast_core::{InstanceId, ProcessId};
use serde::{Deserialize, Serialize};

use crate::client::{Client, DEADLINE};
use crate::error::Error;
use crate::origin::Call;

/// How much longer than the command's own timeout its answer may take.
const EXEC_MARGIN: Duration = Duration::from_secs(30);

/// How long a command without a timeout may take before the call gives up on its answer; longer ones are started and
/// attached to.
const EXEC_DEADLINE: Duration = Duration::from_secs(600);

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tty {
    /// Its rows.
    pub rows: u16,
    /// Its columns.
    pub cols: u16,
}

/// What becomes of a process's standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stdin {
    /// It can be written until it is ended.
    Open,
    /// It is at its end from the start.
    Closed,
}

/// A process to start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StartProcess {
    /// The program and its arguments. Give this or `shell`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
    /// A command line for the instance's shell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// Its environment, above the instance's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The directory it starts in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Its terminal, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tty: Option<Tty>,
    /// What becomes of its standard input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<Stdin>,
    /// How many seconds it may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// How many seconds it may run on after its last viewer has left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_run_after_detach: Option<u64>,
    /// Whether it is held back, as by a pipe, rather than that its first viewer misses a byte of its output.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lossless: bool,
}

/// Whether a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    /// It runs.
    Running,
    /// It has exited, and how is known.
    Exited,
    /// The agent died with it: nobody knows how it ended.
    Unknown,
}

/// How a process exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Which part of a process's output is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRange {
    /// The offset of the oldest byte kept.
    pub from: u64,
    /// The offset after the newest.
    pub to: u64,
}

/// A process as its agent knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub id: ProcessId,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Its id inside the instance.
    pub pid: Option<u32>,
    /// Its terminal, if it has one.
    pub tty: Option<Tty>,
    /// Unix time in milliseconds.
    pub started_at: u64,
    /// Whether it runs.
    pub state: ProcessState,
    /// How it exited.
    pub exit: Option<Exit>,
    /// Its output log.
    pub log: LogRange,
}

/// What became of a command that was run to its end.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Executed {
    /// How it exited.
    pub exit: Option<Exit>,
    /// What it said on standard output, if that is UTF-8.
    #[serde(default)]
    pub stdout: Option<String>,
    /// What it said on standard error, if that is UTF-8.
    #[serde(default)]
    pub stderr: Option<String>,
    /// What it said on standard output, in base64, if that is not UTF-8.
    #[serde(default)]
    pub stdout_base64: Option<String>,
    /// What it said on standard error, in base64, if that is not UTF-8.
    #[serde(default)]
    pub stderr_base64: Option<String>,
    /// Whether it said more than is kept.
    #[serde(default)]
    pub truncated: bool,
}

impl StartProcess {
    /// A program and its arguments.
    pub fn argv(argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), ..Self::default() }
    }
}

impl Client {
    /// Starts a process.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `process.spawn`. After a broken connection it may run.
    pub async fn start_process(&self, instance: InstanceId, wish: &StartProcess) -> Result<Process, Error> {
        self.data(instance, &call(instance, Method::POST, "/processes").json(wish)).await
    }

    /// Lists an instance's processes, those that have exited too.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn processes(&self, instance: InstanceId) -> Result<Vec<Process>, Error> {
        #[derive(Deserialize)]
        struct List {
            processes: Vec<Process>,
        }
        let list: List = self.data(instance, &call(instance, Method::GET, "/processes")).await?;
        Ok(list.processes)
    }

    /// Looks at a process.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `process.unknown`.
    pub async fn process(&self, instance: InstanceId, process: ProcessId) -> Result<Process, Error> {
        self.data(instance, &call(instance, Method::GET, &format!("/processes/{process}"))).await
    }

    /// Sends a signal to a process's group, by its name without `SIG`.
    ///
    /// # Errors
    ///
    /// [`Error`], for example `process.not_running`.
    pub async fn signal(&self, instance: InstanceId, process: ProcessId, name: &str) -> Result<(), Error> {
        let call = call(instance, Method::POST, &format!("/processes/{process}/signal"));
        self.data_raw(instance, &call.json(&serde_json::json!({ "signal": name }))).await.map(drop)
    }

    /// Kills a process's group and forgets the process.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn delete_process(&self, instance: InstanceId, process: ProcessId) -> Result<(), Error> {
        self.data_raw(instance, &call(instance, Method::DELETE, &format!("/processes/{process}"))).await.map(drop)
    }

    /// Runs a command to its end and returns what became of it. For what runs long, start it and attach.
    ///
    /// # Errors
    ///
    /// [`Error`]. After a broken connection it may have run, or run still.
    pub async fn exec(&self, instance: InstanceId, wish: &StartProcess, input: &str) -> Result<Executed, Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(flatten)]
            wish: &'a StartProcess,
            #[serde(skip_serializing_if = "str::is_empty")]
            input: &'a str,
        }
        let mut call = call(instance, Method::POST, "/exec").json(&Body { wish, input });
        call.deadline = wish.timeout.map_or(EXEC_DEADLINE, |seconds| Duration::from_secs(seconds) + EXEC_MARGIN);
        self.data(instance, &call).await
    }
}

fn call(instance: InstanceId, method: Method, path: &str) -> Call {
    Call::new(method, Client::data_path(instance, path), DEADLINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_as_the_architecture_writes_it() {
        let id = ProcessId::new(1, 2);
        let json = format!(
            r#"{{"id":"{id}","argv":["bash"],"pid":7,"tty":{{"rows":24,"cols":80}},"started_at":1790000000000,
                "state":"exited","exit":{{"signal":9}},"log":{{"from":0,"to":1234}},"later":1}}"#
        );
        let process: Process = serde_json::from_str(&json).unwrap();
        assert_eq!((process.id, process.exit), (id, Some(Exit::Signal(9))));
    }

    #[test]
    fn a_wish_says_only_what_was_wished() {
        let wish = serde_json::to_string(&StartProcess::argv(["ls"])).unwrap();
        assert_eq!(wish, r#"{"argv":["ls"]}"#);
    }
}
