//! What the agent itself tells: each kind of event once, with what is in it.
//!
//! Anybody with the right to look reads this, so it has no argument of a command, no environment, no query and no body.

use std::sync::Arc;
use std::time::Instant;

use http::{Method, StatusCode};
use landfast_core::event::Event;
use landfast_core::id::ConnectionId;
use landfast_core::record::Generation;
use landfast_core::{ErrorCode, ServiceName, SessionId};
use landfast_net::far::Ended;
use serde::Serialize;
use serde_json::json;

use super::Events;
use crate::exit::Exit;
use crate::process::{Process, Role};

/// The longest path in an event. The agent's own are shorter.
const PATH_MAX: usize = 200;

/// A session of which the opening was told, and the close will be, whatever becomes of its task.
#[derive(Debug)]
pub(crate) struct OpenSession {
    events: Arc<Events>,
    id: SessionId,
    since: Instant,
    ended: Option<Ended>,
}

/// In which part of its life a service crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CrashPhase {
    /// Before it was ready.
    Startup,
    /// After.
    Running,
    /// It is not started again.
    GaveUp,
}

/// A service's crash.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Crash {
    pub(crate) service: ServiceName,
    pub(crate) phase: CrashPhase,
    pub(crate) start: u64,
    pub(crate) pid: Option<i32>,
    pub(crate) exit: Option<Exit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// The end of a connection to the browser.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct CdpDisconnect {
    pub(crate) connection_id: ConnectionId,
    pub(crate) reason: &'static str,
    pub(crate) duration_ms: u64,
    /// In both directions.
    pub(crate) message_count: u64,
    /// From the client.
    pub(crate) bytes_in: u64,
    /// To the client.
    pub(crate) bytes_out: u64,
    /// The start of the browser that it was connected to.
    pub(crate) start: u64,
}

impl Events {
    /// The agent began to serve.
    pub(crate) fn instance_started(&self, generation: Generation) {
        self.say("instance_started", json!({"generation": generation}));
    }

    /// The agent begins to end.
    pub(crate) fn instance_stopping(&self, generation: Generation) {
        self.say("instance_stopping", json!({"generation": generation}));
    }

    /// The instance was given to another node, or to the same one anew.
    pub(crate) fn moved(&self, from: Generation, to: Generation) {
        self.say("moved", json!({"from": from, "generation": to}));
    }

    /// A process has ended and said its last word.
    pub(crate) fn process_exit(&self, process: &Process, exit: Exit) {
        let service = match process.role {
            Role::Task => None,
            Role::Service(name) => Some(name),
        };
        let killed_by = process.state().killed_by;
        self.say(
            "process_exit",
            json!({"process": process.id, "pid": process.pid, "service": service, "exit": exit, "killed_by": killed_by}),
        );
    }

    /// A service ended that nobody had asked to, or could not be started.
    pub(crate) fn service_crashed(&self, crash: &Crash) {
        self.say("service_crashed", serde_json::to_value(crash).expect("a crash is JSON"));
    }

    /// A client is connected to the browser.
    pub(crate) fn cdp_connect(&self, id: ConnectionId, start: u64) {
        self.say("cdp_connect", json!({"connection_id": id, "start": start}));
    }

    /// It is not any more, since `ts`, in microseconds since 1970.
    pub(crate) fn cdp_disconnect(&self, ts: u64, disconnect: &CdpDisconnect) {
        let data = serde_json::to_value(disconnect).expect("an end is JSON");
        self.emit(&Event::new("cdp_disconnect", ts).with_data(data));
    }

    /// Somebody changed something by a call.
    pub(crate) fn api_call(
        &self,
        (method, path): (&Method, &str),
        (status, code): (StatusCode, Option<ErrorCode>),
        since: Instant,
    ) {
        let path: String = path.chars().take(PATH_MAX).collect();
        let duration_ms = since.elapsed().as_millis() as u64;
        let (method, status, code) = (method.as_str(), status.as_u16(), code.map(ErrorCode::as_str));
        self.say(
            "api_call",
            json!({"method": method, "path": path, "status": status, "code": code, "duration_ms": duration_ms}),
        );
    }

    /// A session began. `to` is the path it leads to.
    pub(crate) fn session_open(self: &Arc<Self>, id: SessionId, to: &str) -> OpenSession {
        let path = to.split('?').next().unwrap_or_default();
        let to: String = path.chars().take(PATH_MAX).collect();
        self.say("session_open", json!({"session": id, "to": to}));
        OpenSession { events: self.clone(), id, since: Instant::now(), ended: None }
    }

    /// A session goes on over a further link.
    pub(crate) fn session_resume(&self, id: SessionId, link: u64) {
        self.say("session_resume", json!({"session": id, "link": link}));
    }
}

impl OpenSession {
    /// Notes how it ended.
    pub(crate) fn end(&mut self, ended: Ended) {
        self.ended = Some(ended);
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        let (by, reason, detail) = match &self.ended {
            Some(Ended::Far(close)) => ("instance", close.code.as_str(), close.reason.as_str()),
            Some(Ended::Client(close)) => ("client", close.code.as_str(), close.reason.as_str()),
            Some(Ended::Abandoned) => ("client", ErrorCode::ClientLost.as_str(), "no link came back in time"),
            // Why is for the registry to say.
            None => ("agent", "agent_stopping", ""),
        };
        let duration_ms = self.since.elapsed().as_millis() as u64;
        let data =
            json!({"session": self.id, "by": by, "reason": reason, "detail": detail, "duration_ms": duration_ms});
        self.events.say("session_close", data);
    }
}
