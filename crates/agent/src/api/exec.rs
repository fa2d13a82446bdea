//! `POST /exec`: run, wait, answer with everything.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use landfast_core::{ErrorCode, Problem};
use serde::Serialize;
use serde_json::{Map, Value};

use super::answer::{Body, Refused, json, read_json};
use crate::Agent;
use crate::exit::Exit;
use crate::log::{Piece, Stream};
use crate::process::{KilledBy, Process, Viewer};
use crate::spawn::{Plan, Spec, StdinMode};
use crate::table::Processes;

/// What came of a command. Output that is UTF-8 stands as it is, other in base64.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    exit: Option<Exit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    killed_by: Option<KilledBy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stdout_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr_base64: Option<String>,
    /// Whether the oldest output was let go.
    truncated: bool,
}

/// A process that nobody but the asker knows: killed if the asker leaves, forgotten in any case.
pub(super) struct Errand {
    processes: Arc<Processes>,
    process: Arc<Process>,
}

/// What a process has said.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    /// Whether the oldest was let go.
    truncated: bool,
}

/// `POST /exec`.
pub(super) async fn post(agent: &Agent, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let (plan, input) = read(read_json(request).await?)?;
    let errand = Errand::start(agent, plan)?;
    let viewer = Viewer::watch(errand.process.clone());
    let typed = async {
        // A command that does not read its input, or not all of it, has not failed by that.
        if viewer.say(input.as_bytes()).await.is_ok() {
            let _ = errand.process.end_input();
        }
        std::future::pending::<()>().await;
    };
    let waiter = Viewer::watch(errand.process.clone());
    tokio::select! {
        _ = waiter.ended() => {}
        () = typed => {}
    }
    Ok(json(StatusCode::OK, &outcome(&errand.process)))
}

/// Takes the input out of the body; the rest is that of `POST /processes`.
fn read(mut body: Map<String, Value>) -> Result<(Plan, String), Problem> {
    let invalid = |detail: String| Problem::new(ErrorCode::RequestInvalid, detail);
    let input = match body.remove("input") {
        None | Some(Value::Null) => None,
        Some(Value::String(input)) => Some(input),
        Some(_) => return Err(invalid("input is no text.".to_owned())),
    };
    if body.get("tty").is_some_and(|tty| !tty.is_null()) {
        return Err(invalid(
            "A command that is waited for has no terminal; use POST /processes and attach.".to_owned(),
        ));
    }
    let spec: Spec =
        serde_json::from_value(Value::Object(body)).map_err(|error| invalid(format!("The body: {error}.")))?;
    let mut plan = spec.check()?;
    plan.stdin = if input.is_some() { StdinMode::Open } else { StdinMode::Closed };
    Ok((plan, input.unwrap_or_default()))
}

fn outcome(process: &Process) -> Outcome {
    let Output { stdout, stderr, truncated } = Output::of(process);
    let state = process.state();
    let mut outcome = Outcome { exit: state.life.exit(), killed_by: state.killed_by, truncated, ..Outcome::default() };
    (outcome.stdout, outcome.stdout_base64) = text_or_base64(stdout);
    (outcome.stderr, outcome.stderr_base64) = text_or_base64(stderr);
    outcome
}

impl Output {
    /// All that is kept of it.
    pub(super) fn of(process: &Process) -> Self {
        let (state, mut output, mut at) = (process.state(), Self::default(), 0);
        loop {
            match state.log.read(at) {
                Piece::Data(stream, bytes) => {
                    at += bytes.len() as u64;
                    match stream {
                        Stream::Stdout => output.stdout.extend_from_slice(bytes),
                        Stream::Stderr => output.stderr.extend_from_slice(bytes),
                    }
                }
                Piece::Gap { to } => {
                    output.truncated = true;
                    at = to;
                }
                Piece::End => return output,
            }
        }
    }
}

fn text_or_base64(bytes: Vec<u8>) -> (Option<String>, Option<String>) {
    match String::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(STANDARD.encode(error.as_bytes()))),
    }
}

impl Errand {
    /// Starts a process that ends with this.
    ///
    /// # Errors
    ///
    /// As [`Processes::start`].
    pub(super) fn start(agent: &Agent, plan: Plan) -> Result<Self, Problem> {
        let process = agent.processes.start(plan, &agent.config)?;
        Ok(Self { processes: agent.processes.clone(), process })
    }

    /// The process.
    pub(super) const fn process(&self) -> &Arc<Process> {
        &self.process
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        self.process.kill(KilledBy::Request);
        self.processes.forget_at_end(Viewer::watch(self.process.clone()));
    }
}
