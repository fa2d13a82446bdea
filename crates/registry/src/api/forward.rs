//! Calls to an instance's agent by way of the control plane, for clients that hold an API key and no access token.
//!
//! The data plane (`/i/{instance}/…`) is the way for anything that streams or lasts; here a call and its answer are whole
//! and bounded. The call is sent at most once: only refusals that prove that nothing was started are tried again.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderName;
use axum::http::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE,
    TRANSFER_ENCODING, UPGRADE,
};
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use landfast_core::lifecycle::{end_code, is_dozing, wakes, will_restart};
use landfast_core::record::{Desired, Instance, MoveStep, Phase};
use landfast_core::{ErrorCode, InstanceId, Problem};
use landfast_net::http::{CallError, call};
use landfast_net::relay::{Route, Target, dial};
use landfast_net::socket::Socket;
use tokio::time::{Instant, sleep, timeout};

use super::input::{Id, invalid, read_body};
use super::refusal::Refusal;
use super::{Api, wait};
use crate::records;

/// The largest body that is forwarded.
pub(super) const BODY_MAX: usize = 16 * 1024 * 1024;

/// How long to wait for an instance that starts, moves or comes back.
const PLACE_DEADLINE: Duration = Duration::from_secs(30);

/// How long one dial may take: the relay answers at once or not at all.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);

/// Dials, and the first pause between two, which doubles: together well under a second for an instance that has just
/// gone elsewhere.
const DIALS: u32 = 4;
const DIAL_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How long the agent may take to begin an answer that does not end.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// How long the agent may take to answer. What takes longer is started as a process and followed on the data plane.
pub(super) const ANSWER_DEADLINE: Duration = Duration::from_secs(300);

/// What the agent gets to know of a call's head.
const PASSED: [HeaderName; 10] = [
    CONTENT_TYPE,
    ACCEPT,
    RANGE,
    IF_RANGE,
    IF_MATCH,
    IF_NONE_MATCH,
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static(landfast_core::event::OLDER),
    HeaderName::from_static("landfast-public-url"),
    HeaderName::from_static("landfast-public-query"),
];

/// The processes of an instance: list them, or start one.
///
/// Forwarded to the instance's agent.
#[utoipa::path(
    method(get, post), path = "/v1/instances/{id}/processes", operation_id = "forward_processes", tag = "processes",
    params(("id" = String, Path, description = "The instance's id.")),
    responses((status = 200, description = "What the agent answers."), (status = 201, description = "What the agent answers.")),
)]
pub(super) async fn processes(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    request: Request,
) -> Result<Response, Refusal> {
    forward(&api, id, request).await
}

/// One process of an instance: read it, end it, signal it, write to it, read its output.
///
/// Forwarded to the instance's agent. Attaching and following are for the data plane.
#[utoipa::path(
    method(get, post, delete), path = "/v1/instances/{id}/processes/{*rest}", operation_id = "forward_process", tag = "processes",
    params(
        ("id" = String, Path, description = "The instance's id."),
        ("rest" = String, Path, description = "The process's id, and what of it."),
    ),
    responses((status = 200, description = "What the agent answers."), (status = 204, description = "What the agent answers.")),
)]
pub(super) async fn process(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    request: Request,
) -> Result<Response, Refusal> {
    forward(&api, id, request).await
}

/// Runs a command in an instance and answers with its exit and output.
///
/// Forwarded to the instance's agent.
#[utoipa::path(
    post, path = "/v1/instances/{id}/exec", operation_id = "forward_exec", tag = "processes",
    params(("id" = String, Path, description = "The instance's id.")),
    responses((status = 200, description = "What the agent answers.")),
)]
pub(super) async fn exec(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    request: Request,
) -> Result<Response, Refusal> {
    forward(&api, id, request).await
}

/// The browser of an instance: how it is.
///
/// Forwarded to the instance's agent.
#[utoipa::path(
    get, path = "/v1/instances/{id}/browser", operation_id = "forward_browser", tag = "browsers",
    params(("id" = String, Path, description = "The instance's id.")),
    responses((status = 200, description = "What the agent answers.")),
)]
pub(super) async fn browser(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    request: Request,
) -> Result<Response, Refusal> {
    forward(&api, id, request).await
}

/// What is done with the browser of an instance: `PATCH flags`, `POST restart`, `GET screenshot`.
///
/// Forwarded to the instance's agent. CDP and the live view are for the data plane.
#[utoipa::path(
    method(get, post, patch), path = "/v1/instances/{id}/browser/{*rest}", operation_id = "forward_browser_verb",
    tag = "browsers",
    params(
        ("id" = String, Path, description = "The instance's id."),
        ("rest" = String, Path, description = "What is done."),
    ),
    responses((status = 200, description = "What the agent answers.")),
)]
pub(super) async fn browser_verb(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    request: Request,
) -> Result<Response, Refusal> {
    forward(&api, id, request).await
}

/// Forwards a whole call, wherever the instance is, and wakes it if it sleeps, unless it only reads what was said there.
pub(super) async fn forward(api: &Api, id: InstanceId, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let target = agent_target(&parts, id)?;
    check_is_whole(&parts, id)?;
    let body = read_body(body, BODY_MAX).await?;
    exchange(reach(api, id, wakes(&target)).await?, &parts, &target, body).await
}

/// Forwards a call without a body to this place, and wakes nobody.
pub(super) async fn forward_to(api: &Api, id: InstanceId, parts: &Parts, route: &Route) -> Result<Response, Refusal> {
    let target = agent_target(parts, id)?;
    let socket = dial(route, Target::Agent, &api.credential, DIAL_DEADLINE).await.map_err(|error| error.code())?;
    exchange(socket, parts, &target, Bytes::new()).await
}

/// Forwards a call whose answer ends when either side leaves, or this server stops.
pub(super) async fn stream(api: &Api, id: InstanceId, request: Request) -> Result<Response, Refusal> {
    let (parts, _) = request.into_parts();
    let target = agent_target(&parts, id)?;
    open(api, id, agent_request(&parts, &target, Full::new(Bytes::new())), HEAD_DEADLINE).await
}

/// Sends the agent a request that is put together already, and passes its answer on as it comes. The agent may take so
/// long to begin it.
pub(super) async fn open(
    api: &Api,
    id: InstanceId,
    request: http::Request<Full<Bytes>>,
    patience: Duration,
) -> Result<Response, Refusal> {
    let target = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
    let socket = reach(api, id, wakes(target)).await?;
    let broken = |error| Refusal(lost(&CallError::Connection(error)));
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(broken)?;
    let stop = api.stop.clone();
    tokio::spawn(async move { stop.run_until_cancelled(connection).await });
    let answer = timeout(patience, sender.send_request(request)).await;
    let (mut head, body) = answer.map_err(|_| lost(&CallError::Timeout))?.map_err(broken)?.into_parts();
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        head.headers.remove(name);
    }
    Ok(Response::from_parts(head, Body::new(body)))
}

/// Asks the agent for something on behalf of the control plane itself, and waits for the whole answer.
pub(super) async fn ask(
    api: &Api,
    id: InstanceId,
    method: http::Method,
    target: &str,
    body: Bytes,
) -> Result<http::Response<Bytes>, Refusal> {
    let request = http::Request::builder().method(method).uri(target).header(HOST, "agent").body(Full::new(body));
    let request = request.map_err(|_| ErrorCode::Internal)?;
    let socket = reach(api, id, true).await?;
    call(socket, request, ANSWER_DEADLINE).await.map_err(|error| Refusal(lost(&error)))
}

async fn exchange(socket: Socket, parts: &Parts, target: &str, body: Bytes) -> Result<Response, Refusal> {
    let answer = call(socket, agent_request(parts, target, Full::new(body)), ANSWER_DEADLINE)
        .await
        .map_err(|error| lost(&error))?;
    let (mut head, body) = answer.into_parts();
    for name in [CONNECTION, TRANSFER_ENCODING, CONTENT_LENGTH, UPGRADE] {
        head.headers.remove(name);
    }
    let mut response = (head.status, body).into_response();
    response.headers_mut().extend(head.headers);
    Ok(response)
}

/// Refuses what would go on for as long as a process does.
fn check_is_whole(parts: &Parts, id: InstanceId) -> Result<(), Problem> {
    let query = parts.uri.query().unwrap_or_default();
    if query.split('&').any(|pair| pair.starts_with("follow=") && pair != "follow=false") {
        return Err(invalid(format!("Output is followed at /i/{id}/…, the data plane.")));
    }
    Ok(())
}

/// The agent's own path, with the caller's query.
pub(super) fn agent_target(parts: &Parts, id: InstanceId) -> Result<String, Problem> {
    if parts.headers.contains_key(UPGRADE) {
        return Err(invalid(format!("There are no upgrades here; attach at /i/{id}/processes/….")));
    }
    let all = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    let prefix = format!("/v1/instances/{id}");
    all.strip_prefix(&prefix).map(ToOwned::to_owned).ok_or_else(|| invalid("The path is written in an unusual way."))
}

/// The call as the agent gets it, without what is between the client and the control plane.
pub(super) fn agent_request<B>(parts: &Parts, target: &str, body: B) -> http::Request<B> {
    let mut request = http::Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = target.parse().unwrap_or_default();
    for name in PASSED {
        if let Some(value) = parts.headers.get(&name) {
            request.headers_mut().insert(name, value.clone());
        }
    }
    request.headers_mut().insert(HOST, http::HeaderValue::from_static("agent"));
    request
}

/// Connects to the agent wherever the instance is by then, and with `wakes` wakes it if it sleeps. Whoever refuses has started
/// nothing, so this may try again.
pub(super) async fn reach(api: &Api, id: InstanceId, wakes: bool) -> Result<Socket, Refusal> {
    let mut pause = DIAL_AGAIN_AFTER;
    let mut dials = 1;
    loop {
        let route = route(api, id, wakes).await?;
        match dial(&route, Target::Agent, &api.credential, DIAL_DEADLINE).await {
            Ok(socket) => return Ok(socket),
            Err(error) if dials < DIALS => tracing::debug!(%error, instance = %id, "dialling again"),
            Err(error) => return Err(error.code().into()),
        }
        sleep(pause).await;
        pause *= 2;
        dials += 1;
    }
}

/// Waits until the instance is somewhere, and with `wakes` wakes it as often as somebody puts it to sleep meanwhile.
async fn route(api: &Api, id: InstanceId, wakes: bool) -> Result<Route, Refusal> {
    let deadline = Instant::now() + PLACE_DEADLINE;
    loop {
        let instance = if wakes {
            records::wake(&*api.store, id).await?
        } else {
            let (instance, _) = records::instance(&*api.store, id).await?.ok_or(ErrorCode::InstanceUnknown)?;
            if instance.desired == Desired::Sleeping {
                return Err(ErrorCode::InstanceSleeping.into());
            }
            instance
        };
        if instance.spec.external.is_some_and(|external| external.agent.is_none()) {
            let why = "The instance is external and has no agent; only its services are reached, on the data plane.";
            return Err(Problem::new(ErrorCode::UpstreamRefused, why).into());
        }
        let patience = deadline.saturating_duration_since(Instant::now());
        let (found, instance) = wait::until(api, id, patience, find).await?;
        match found {
            Some(Found::Place(place)) => return Ok(place?),
            Some(Found::Asleep) if Instant::now() < deadline => {}
            Some(Found::Asleep) | None => return Err(still(instance.phase).into()),
        }
    }
}

/// What became of waiting.
enum Found {
    Place(Result<Route, ErrorCode>),
    /// It is to sleep, and has to be woken.
    Asleep,
}

fn find(instance: &Instance) -> Option<Found> {
    let is_to_sleep = instance.desired == Desired::Sleeping;
    place(instance).map(Found::Place).or_else(|| is_to_sleep.then_some(Found::Asleep))
}

/// Why there is no place after all that time.
pub(super) fn still(phase: Phase) -> ErrorCode {
    match phase {
        Phase::Moving => ErrorCode::InstanceMoving,
        Phase::Sleeping => ErrorCode::InstanceWaking,
        Phase::Pending | Phase::Starting | Phase::Running => ErrorCode::InstanceStarting,
        Phase::Stopped | Phase::Failed | Phase::Lost | Phase::Deleted => end_code(phase).unwrap_or(ErrorCode::Internal),
    }
}

/// Where the instance serves, or why it never will; nothing while that may change by itself.
pub(super) fn place(instance: &Instance) -> Option<Result<Route, ErrorCode>> {
    if let Some(code) = end_code(instance.phase) {
        return (!will_restart(instance)).then_some(Err(code));
    }
    let serves = match (instance.phase, &instance.moving) {
        (Phase::Running, _) => !is_dozing(instance),
        (_, Some(moving)) => moving.step == MoveStep::Preparing,
        (_, None) => false,
    };
    let address = instance.address.clone().filter(|_| serves)?;
    Some(Ok(Route { instance: instance.id, generation: instance.generation, address }))
}

pub(super) fn lost(error: &CallError) -> Problem {
    let code = match error {
        CallError::Timeout => ErrorCode::UpstreamTimeout,
        CallError::Connection(_) | CallError::Body(_) => ErrorCode::UpstreamLost,
    };
    Problem::new(code, format!("The instance's agent: {error}."))
}
