//! An agent as its node knows it: a process, a note on disk by which it is found again, and a control socket.
//!
//! The agent outlives this daemon, so nothing here depends on being its parent. And what it answers comes from inside
//! the instance, so every answer is bounded in size and time and believed only about the instance itself.

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use landfast_core::InstanceId;
use landfast_core::record::Generation;
use landfast_net::head::{Headers, RequestHead, read_response, write_all};
use landfast_net::http::call;
use landfast_net::socket::Socket;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::Child;
use tokio::time::timeout;

use crate::dir::{CONTROL_SOCKET, InstanceDir, absent_is_fine, nobody_listens};
use crate::identity::replace;
use crate::process::{Process, ProcessId, kill_marked};

/// How long the agent may take for one answer: it only looks at what it has in memory.
const CALL_DEADLINE: Duration = Duration::from_secs(2);

/// How long an agent that was asked to end may take before it is killed: what it runs gets a hang-up and some time.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// How long it may take when its instance is to come back: services get ten seconds to bring what they hold to disk, and the
/// rest a little.
pub(crate) const SLEEP_GRACE: Duration = Duration::from_secs(13);

/// How long the kernel may take to tell the parent of a process that has ended how it ended: at once, but on a machine whose
/// processors are all taken by what the instances run.
const STATUS_DEADLINE: Duration = Duration::from_secs(5);

/// The most bytes of the agent's answer head to `GET /alive`.
const HEAD_MAX: usize = 8 * 1024;

/// Between two looks at an agent that hangs up and yet listens.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What a shell and bubblewrap add to a signal's number when they pass a child's death on as an exit code.
const SIGNALLED: i32 = 128;

/// The note by which an agent is found again, in `agent.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) instance: InstanceId,
    /// The generation it was started for. Moves do not rewrite it: it only has to be no larger than the agent's own.
    pub(crate) generation: Generation,
    /// Whether `process` is the first of a pid namespace, whose end is everybody's.
    pub(crate) isolated: bool,
    /// The process whose end is the agent's; absent while it is being started.
    pub(crate) process: Option<ProcessId>,
    /// The process that the daemon started, leader of a session: the agent itself, or bubblewrap around it. Absent as long
    /// as `process` is.
    pub(crate) leader: Option<ProcessId>,
    /// What connects its network, if that is its own.
    #[serde(default)]
    pub(crate) network: Option<ProcessId>,
}

/// An agent that was started or found.
#[derive(Debug)]
pub(crate) struct Agent {
    dir: InstanceDir,
    note: Note,
    process: Process,
    /// Present if this daemon is the parent, and so hears how it ended.
    child: Option<Child>,
}

/// How an agent ended, as far as anybody can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Death(Option<ExitStatus>);

/// Why an agent did not do what it was asked.
#[derive(Debug)]
pub(crate) enum AgentError {
    /// Nobody listens on its control socket: it is not there, not yet or not any more.
    Absent,
    /// It could not be reached or did not answer; this is not its death.
    Silent(String),
    /// It answered something else than yes.
    Said(u16),
    /// It is another instance's, or of another generation than the record allows.
    Other(String),
}

impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("the agent is not there"),
            Self::Silent(why) => write!(f, "the agent did not answer: {why}"),
            Self::Said(status) => write!(f, "the agent answered with status {status}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.0.map(|status| (status.code(), status.signal()));
        match status {
            Some((_, Some(signal))) => write!(f, "The agent was killed by signal {signal}."),
            Some((Some(code), None)) if code > SIGNALLED => {
                write!(f, "The agent was killed by signal {}.", code - SIGNALLED)
            }
            Some((Some(code), None)) => write!(f, "The agent exited with status {code}."),
            Some((None, None)) | None => f.write_str("The agent ended; how is not known."),
        }
    }
}

impl Death {
    /// How a child of this daemon ended, which has ended or is about to.
    pub(crate) async fn of(child: &mut Child, instance: InstanceId) -> Self {
        Self(match timeout(STATUS_DEADLINE, child.wait()).await {
            Ok(Ok(status)) => Some(status),
            Ok(Err(error)) => {
                tracing::warn!(%instance, %error, "how the agent ended was not told");
                None
            }
            Err(_) => {
                tracing::warn!(%instance, "how the agent ended was not told in time");
                None
            }
        })
    }
}

impl Note {
    /// Reads an instance's note; `None` if there is none. One that a crash of the machine has damaged says nothing.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn read(dir: &InstanceDir, instance: InstanceId) -> io::Result<Option<Self>> {
        let nothing =
            Self { instance, generation: Generation(0), isolated: false, process: None, leader: None, network: None };
        match std::fs::read(dir.file(NOTE)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text).unwrap_or(nothing))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it whole. It need not outlive the machine's crash: neither does the agent.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn write(&self, dir: &InstanceDir) -> io::Result<()> {
        replace(&dir.file(NOTE), self)
    }

    /// Takes it away: nothing runs of which it told.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn remove(dir: &InstanceDir) -> io::Result<()> {
        absent_is_fine(std::fs::remove_file(dir.file(NOTE)))
    }
}

const NOTE: &str = "agent.json";

impl Agent {
    /// An agent that this daemon has just started.
    pub(crate) const fn started(dir: InstanceDir, note: Note, process: Process, child: Child) -> Self {
        Self { dir, note, process, child: Some(child) }
    }

    /// Finds the living agent of an instance on this host, whoever started it.
    ///
    /// # Errors
    ///
    /// If the note or the process table cannot be read.
    pub(crate) fn find(dir: &InstanceDir, instance: InstanceId) -> io::Result<Option<Self>> {
        let Some(note) = Note::read(dir, instance)? else { return Ok(None) };
        let Some(process) = note.process else { return Ok(None) };
        let process = Process::find(process)?;
        Ok(process.map(|process| Self { dir: dir.clone(), note, process, child: None }))
    }

    /// The generation it was started for.
    pub(crate) const fn born(&self) -> Generation {
        self.note.generation
    }

    /// Asks it who it is.
    ///
    /// # Errors
    ///
    /// [`AgentError::Other`] if it is not this instance's agent, or of a later generation than `at_most`.
    pub(crate) async fn check(&self, at_most: Generation) -> Result<(), AgentError> {
        let has = self.generation().await?;
        if has > at_most {
            return Err(AgentError::Other(format!("the agent has generation {has}, the record {at_most}")));
        }
        Ok(())
    }

    /// The newest generation that it was given.
    ///
    /// # Errors
    ///
    /// [`AgentError`]; [`AgentError::Other`] if it is another instance's.
    pub(crate) async fn generation(&self) -> Result<Generation, AgentError> {
        #[derive(Deserialize)]
        struct Health {
            instance: InstanceId,
            generation: Generation,
        }
        let answer = self.call(Method::GET, "/healthz", Bytes::new()).await?;
        let health: Health = serde_json::from_slice(&answer)
            .map_err(|error| AgentError::Other(format!("the agent's health cannot be read: {error}")))?;
        if health.instance != self.note.instance {
            return Err(AgentError::Other(format!("the agent says it is {}'s", health.instance)));
        }
        Ok(health.generation)
    }

    /// Tells it the generation that may reach it from now on.
    ///
    /// # Errors
    ///
    /// [`AgentError`].
    pub(crate) async fn put_generation(&self, generation: Generation) -> Result<(), AgentError> {
        let body = format!("{{\"generation\":{generation}}}");
        self.call(Method::PUT, "/generation", body.into()).await.map(drop)
    }

    /// For how long nobody has done anything with the instance.
    ///
    /// # Errors
    ///
    /// [`AgentError`].
    pub(crate) async fn idle(&self) -> Result<Duration, AgentError> {
        #[derive(Deserialize)]
        struct Health {
            idle_ms: u64,
        }
        let answer = self.call(Method::GET, "/healthz", Bytes::new()).await?;
        let health: Result<Health, _> = serde_json::from_slice(&answer);
        let health =
            health.map_err(|error| AgentError::Other(format!("the agent's health cannot be read: {error}")))?;
        Ok(Duration::from_millis(health.idle_ms))
    }

    /// Has it cut every connection that was handed to it, and take none until it is told a generation.
    ///
    /// # Errors
    ///
    /// [`AgentError`]; then connections may still stand.
    pub(crate) async fn fence(&self, generation: Generation) -> Result<(), AgentError> {
        match self.call(Method::POST, &format!("/fence?generation={generation}"), Bytes::new()).await {
            // An agent that knows no fence was handed nothing.
            Ok(_) | Err(AgentError::Said(404)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Ends it and everything it runs: asks, waits a bounded time, then kills.
    ///
    /// # Errors
    ///
    /// If something of it could not be killed.
    pub(crate) async fn end(&self, grace: Duration) -> io::Result<()> {
        let asked = self.call(Method::POST, "/shutdown", Bytes::new()).await;
        match asked {
            Ok(_) => drop(timeout(grace, self.process.ended()).await),
            Err(error) => tracing::debug!(instance = %self.note.instance, %error, "the agent is killed without asking"),
        }
        self.kill().await
    }

    /// Kills it and everything it runs.
    ///
    /// # Errors
    ///
    /// If something of it could not be killed.
    pub(crate) async fn kill(&self) -> io::Result<()> {
        clear_away(&self.note).await
    }

    /// Waits for the end of its process.
    ///
    /// Cancel safe.
    pub(crate) async fn ended(&mut self) -> Death {
        self.process.ended().await;
        self.status().await
    }

    /// Waits for its death: the end of its process, or of the answer that never ends while nobody listens any more.
    ///
    /// Cancel safe.
    pub(crate) async fn died(&mut self) -> Death {
        tokio::select! {
            () = self.process.ended() => {}
            () = hung_up(&self.dir) => {}
        }
        self.status().await
    }

    async fn status(&mut self) -> Death {
        match &mut self.child {
            Some(child) => Death::of(child, self.note.instance).await,
            None => Death(None),
        }
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, AgentError> {
        let stream = match timeout(CALL_DEADLINE, self.dir.connect(CONTROL_SOCKET)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if nobody_listens(&error) => return Err(AgentError::Absent),
            Ok(Err(error)) => return Err(AgentError::Silent(error.to_string())),
            Err(_) => return Err(AgentError::Silent("it accepts nothing".to_owned())),
        };
        let request = Request::builder().method(method).uri(path).header("host", "agent");
        let request = request.header("content-type", "application/json").body(Full::new(body));
        let request = request.map_err(|error| AgentError::Silent(error.to_string()))?;
        match call(Socket::unix(stream), request, CALL_DEADLINE).await {
            Ok(answer) if answer.status().is_success() => Ok(answer.into_body()),
            Ok(answer) => Err(AgentError::Said(answer.status().as_u16())),
            Err(error) => Err(AgentError::Silent(error.to_string())),
        }
    }
}

/// Kills what an agent may have left behind, found by what its note says. Does nothing where nothing is left.
///
/// # Errors
///
/// If something of it could not be killed.
pub(crate) async fn clear_away(note: &Note) -> io::Result<()> {
    if let (true, Some(first)) = (note.isolated, note.process) {
        for id in [Some(first), note.leader, note.network].into_iter().flatten() {
            if let Some(process) = Process::find(id)? {
                process.kill().await?;
            }
        }
        return Ok(());
    }
    // No pid namespace, or the daemon was killed between starting the agent and noting its number.
    kill_marked(note.instance, note.leader).await
}

/// Waits until the agent hangs up on `GET /alive` and nobody listens any more.
async fn hung_up(dir: &InstanceDir) {
    loop {
        match dir.connect(CONTROL_SOCKET).await {
            Ok(stream) => {
                if let Err(error) = listen(Socket::unix(stream)).await {
                    tracing::debug!(%error, "the agent hung up");
                }
            }
            Err(error) if nobody_listens(&error) => return,
            // It is there and has no room, or we have no descriptors: neither is its death.
            Err(error) => tracing::debug!(%error, "the agent cannot be watched"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Reads the answer that never ends, to its end.
async fn listen(mut socket: Socket) -> io::Result<()> {
    let mut headers = Headers::new();
    headers.push("Host", "agent");
    let request = RequestHead { method: "GET".to_owned(), target: "/alive".to_owned(), headers };
    write_all(&mut socket, &request.encode()).await?;
    timeout(CALL_DEADLINE, read_response(&mut socket, HEAD_MAX)).await?.map_err(io::Error::other)?;
    let mut sink = [0; 64];
    while socket.read(&mut sink).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_is_told_as_far_as_it_is_known() {
        let says = |raw| Death(Some(ExitStatus::from_raw(raw))).to_string();
        assert_eq!(says(9), "The agent was killed by signal 9.");
        assert_eq!(says(137 << 8), "The agent was killed by signal 9.");
        assert_eq!(says(3 << 8), "The agent exited with status 3.");
        assert_eq!(Death(None).to_string(), "The agent ended; how is not known.");
    }
}
