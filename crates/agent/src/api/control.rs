//! `control.sock`: what the node asks and tells.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use landfast_core::record::Generation;
use landfast_core::{ErrorCode, InstanceId, Problem};
use serde::{Deserialize, Serialize};

use super::answer::{Body, Refused, empty, json, read_json};
use crate::Agent;

#[derive(Serialize)]
struct Health {
    instance: InstanceId,
    generation: Generation,
    pid: u32,
    processes: usize,
    sessions: usize,
    /// Milliseconds since anybody did anything with the instance.
    idle_ms: u64,
    /// Where gateways reach it without a node.
    address: Option<SocketAddr>,
}

pub(super) async fn route(agent: &Arc<Agent>, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    match (request.uri().path(), request.method()) {
        ("/healthz", &Method::GET) => Ok(health(agent)),
        ("/generation", &Method::PUT) => put_generation(agent, request).await,
        ("/fence", &Method::POST) => fence(agent, request.uri().query()).await,
        ("/shutdown", &Method::POST) => {
            agent.stop.cancel();
            Ok(empty(StatusCode::ACCEPTED))
        }
        ("/alive", &Method::GET) => Ok(alive(agent)),
        ("/healthz" | "/alive", _) => Err(Refused::method("GET")),
        ("/generation", _) => Err(Refused::method("PUT")),
        ("/fence" | "/shutdown", _) => Err(Refused::method("POST")),
        _ => Err(ErrorCode::RequestNotFound.into()),
    }
}

fn health(agent: &Agent) -> Response<Body> {
    let health = Health {
        instance: agent.config.instance,
        generation: agent.fence.generation(),
        pid: std::process::id(),
        processes: agent.processes.list().len(),
        sessions: agent.sessions.count(),
        idle_ms: agent.activity.idle().as_millis() as u64,
        address: agent.address,
    };
    json(StatusCode::OK, &health)
}

/// `PUT /generation`: only upwards. The same once more lifts a fence, and is no fault: the node may not have heard the
/// answer.
async fn put_generation(agent: &Agent, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        generation: Generation,
    }
    let wanted: Wanted = read_json(request).await?;
    match agent.take_generation(wanted.generation) {
        Ok(()) => Ok(empty(StatusCode::NO_CONTENT)),
        Err(has) => {
            let detail = format!("The agent has generation {has}, and it never decreases.");
            Err(Problem::new(ErrorCode::RequestConflict, detail).into())
        }
    }
}

/// `POST /fence?generation=`: answers once nothing that was handed over is left. Who has not heard that another node has the
/// instance in a later generation cuts nothing of that.
async fn fence(agent: &Agent, query: Option<&str>) -> Result<Response<Body>, Refused> {
    let said = query.and_then(|query| query.strip_prefix("generation=")).map(str::parse);
    let given = match said {
        // A node that is older than this says none.
        None => agent.fence.generation(),
        Some(Ok(number)) => Generation(number),
        Some(Err(_)) => return Err(Problem::new(ErrorCode::RequestInvalid, "generation is no number.").into()),
    };
    let has = agent.fence.generation();
    if given < has {
        let detail = format!("The agent has generation {has}; who has {given} does not cut it.");
        return Err(Problem::new(ErrorCode::RequestConflict, detail).into());
    }
    if agent.fence.shut().await {
        return Ok(empty(StatusCode::NO_CONTENT));
    }
    tracing::error!("a connection that was cut is still held");
    Err(ErrorCode::Internal.into())
}

/// `GET /alive`: an answer that says nothing and ends with the agent.
fn alive(agent: &Agent) -> Response<Body> {
    let ended = agent.ended.clone();
    let silence = stream::once(async move {
        ended.cancelled().await;
        Ok(Frame::data(Bytes::new()))
    });
    Response::new(StreamBody::new(silence).boxed_unsync())
}
