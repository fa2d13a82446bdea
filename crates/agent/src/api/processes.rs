//! `/processes`: start, look, signal, type, end.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use landfast_core::{ErrorCode, Problem};
use serde::{Deserialize, Serialize};

use super::answer::{Body, Refused, empty, json, read_json};
use crate::Agent;
use crate::kill;
use crate::process::{Description, Process, Viewer};
use crate::pty::Size;
use crate::spawn::Spec;

/// `GET /processes`.
pub(super) fn list(agent: &Agent) -> Response<Body> {
    #[derive(Serialize)]
    struct List {
        processes: Vec<Description>,
    }
    json(StatusCode::OK, &List { processes: agent.processes.list() })
}

/// `POST /processes`.
pub(super) async fn start(agent: &Agent, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let plan = read_json::<Spec>(request).await?.check()?;
    let process = agent.processes.start(plan, &agent.config)?;
    Ok(json(StatusCode::CREATED, &process.describe()))
}

/// `GET /processes/{id}`.
pub(super) fn get(process: &Process) -> Response<Body> {
    json(StatusCode::OK, &process.describe())
}

/// `DELETE /processes/{id}`: 204 once it is gone, 202 if it takes longer.
pub(super) async fn delete(agent: &Agent, process: Arc<Process>) -> Result<Response<Body>, Refused> {
    let is_gone = agent.processes.delete(process).await;
    Ok(empty(if is_gone { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED }))
}

/// `POST /processes/{id}/signal`.
pub(super) async fn signal(process: &Process, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Signal {
        signal: String,
    }
    let signal: Signal = read_json(request).await?;
    process.signal(kill::parse(&signal.signal)?)?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `POST /processes/{id}/resize`.
pub(super) async fn resize(process: &Process, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let size: Size = read_json(request).await?;
    process.resize(size)?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `POST /processes/{id}/stdin`: the body is handed on as it comes, as fast as the process reads.
pub(super) async fn stdin(process: Arc<Process>, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    process.state().check_input()?;
    let (viewer, mut body) = (Viewer::watch(process), request.into_body());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::new(ErrorCode::RequestInvalid, "The body broke off."))?;
        if let Ok(bytes) = frame.into_data() {
            viewer.say(&bytes).await?;
        }
    }
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `POST /processes/{id}/eof`.
pub(super) fn end_input(process: &Process) -> Result<Response<Body>, Refused> {
    process.end_input()?;
    Ok(empty(StatusCode::NO_CONTENT))
}
