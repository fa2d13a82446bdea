//! A browser as Kernel's clients know it: `/kernel/…`.
//!
//! They go straight to a browser once they know where it is, and their paths are not ours, so they have a place of their
//! own. It is a translation: what runs are the agent's processes, what they read are its logs and events.

mod computer;
mod curl;
mod files;
mod ledger;
mod logs;
mod once;
mod process;
mod raw;
mod stdout;
mod stream;
mod telemetry;
mod upload;
mod watches;

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use landfast_core::ErrorCode;
use landfast_core::kernel::{RETRY_AFTER, Refusal, SHOULD_RETRY, is_repeatable};

use super::answer::{Body, Refused, json};
use crate::Agent;

pub(crate) use ledger::Ledger;
pub(crate) use watches::Watches;

/// Answers one request, in their words.
pub(super) async fn answer(agent: &Arc<Agent>, request: Request<Incoming>) -> Response<Body> {
    let is_repeatable = is_repeatable(request.method().as_str());
    route(agent, request).await.unwrap_or_else(|refused| refuse(&refused, is_repeatable))
}

async fn route(agent: &Arc<Agent>, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.split('/').skip(2).collect();
    match (segments.as_slice(), request.method()) {
        (["process", "exec"], &Method::POST) => once::run(agent, request, process::exec).await,
        (["process", "spawn"], &Method::POST) => once::run(agent, request, process::spawn).await,
        (["process", "exec" | "spawn"], _) => Err(Refused::method("POST")),
        (["process", id, "status"], &Method::GET) => process::status(&*agent.processes.get(id)?),
        (["process", id, "stdout", "stream"], &Method::GET) => stdout::get(agent.processes.get(id)?, &request),
        (["process", _, "status"] | ["process", _, "stdout", "stream"], _) => Err(Refused::method("GET")),
        (["process", id, what @ ("stdin" | "kill" | "resize")], &Method::POST) => {
            let (process, what) = (agent.processes.get(id)?, process::Verb::parse(what));
            once::run(agent, request, async move |_, body| process::tell(process, what, &body).await).await
        }
        (["process", _, "stdin" | "kill" | "resize"], _) => Err(Refused::method("POST")),
        (["curl"], &Method::POST) => once::run(agent, request, curl::post).await,
        (["curl"], _) => Err(Refused::method("POST")),
        (["curl", "raw"], _) => raw::any(agent, request).await,
        (["computer", "screenshot"], &Method::POST) => computer::screenshot(agent, request).await,
        (["computer", "get_mouse_position"], &Method::POST) => Ok(computer::position(agent)),
        (["computer", verb], &Method::POST) => {
            let verb = (*verb).to_owned();
            once::run(agent, request, async move |agent, body| computer::act(agent, verb, body).await).await
        }
        (["open"], &Method::POST) => once::run(agent, request, computer::open).await,
        (["computer", _] | ["open"], _) => Err(Refused::method("POST")),
        (["fs", "watch"], &Method::POST) => watches::start(agent, request).await,
        (["fs", "watch", id, "events"], &Method::GET) => watches::events(agent, id),
        (["fs", "watch", id], &Method::DELETE) => watches::end(agent, id),
        (["fs", "upload"], &Method::POST) => upload::post(agent, request).await,
        (["fs", verb], _) => files::route(agent, verb, request).await,
        (["telemetry", "stream"], &Method::GET) => telemetry::stream(agent, &request),
        (["logs", "stream"], &Method::GET) => logs::stream(agent, &request).await,
        (["telemetry" | "logs", "stream"], _) => Err(Refused::method("GET")),
        _ => Err(ErrorCode::RequestNotFound.into()),
    }
}

fn refuse(refused: &Refused, is_repeatable: bool) -> Response<Body> {
    let Refusal { status, body, should_retry, retry_after_ms } = Refusal::new(refused.problem(), is_repeatable);
    let mut response = json(StatusCode::from_u16(status).expect("the error table holds statuses"), &body);
    let headers = response.headers_mut();
    headers.insert("landfast-error", HeaderValue::from_static(refused.code().as_str()));
    forbid_unless(&mut response, should_retry);
    if let Some(millis) = retry_after_ms {
        response.headers_mut().insert(HeaderName::from_static(RETRY_AFTER), millis.into());
    }
    response
}

/// Says whether the request may be sent again.
fn forbid_unless(response: &mut Response<Body>, should_retry: bool) {
    let word = HeaderValue::from_static(if should_retry { "true" } else { "false" });
    response.headers_mut().insert(HeaderName::from_static(SHOULD_RETRY), word);
}
