//! `/services`: how they are, and starting one anew.

use http::{Response, StatusCode};
use landfast_core::ServiceName;
use serde::Serialize;

use super::answer::{Body, Refused, empty, json};
use crate::Agent;
use crate::exit::Exit;
use crate::service::{Handle, Status};

/// A service in JSON.
#[derive(Debug, Serialize)]
struct Description {
    name: ServiceName,
    state: &'static str,
    start: u64,
    pid: Option<i32>,
    since: u64,
    exit: Option<Exit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// `GET /services`.
pub(super) fn list(agent: &Agent) -> Response<Body> {
    #[derive(Serialize)]
    struct List {
        services: Vec<Description>,
    }
    let services = agent.services.all_kept().map(|(name, handle)| describe(name, handle.status())).collect();
    json(StatusCode::OK, &List { services })
}

/// `POST /services/{name}/restart`: 202, because what it was ends first.
pub(super) fn restart(service: &Handle) -> Result<Response<Body>, Refused> {
    service.restart()?;
    Ok(empty(StatusCode::ACCEPTED))
}

fn describe(name: ServiceName, status: Status) -> Description {
    Description {
        name,
        state: status.state.as_str(),
        start: status.start,
        pid: status.is_living.then_some(status.process.pid),
        since: status.since,
        exit: status.exit,
        error: status.error,
    }
}
