//! Calls that do something: run by nobody but the agent, and never twice for one asker.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use landfast_core::ErrorCode;
use landfast_core::kernel::{self, RETRY_COUNT};
use sha2::{Digest as _, Sha256};

use super::super::answer::{Body, Refused, read_body, whole};
use super::ledger::{Answered, Begun, Key, Outcome};
use crate::Agent;

/// Runs a call, or gives what came of it if it was run before.
///
/// It runs in a task of its own: an asker who was cut off comes back for it.
///
/// # Errors
///
/// What is wrong with the request, or [`ErrorCode::RequestRepeated`].
pub(super) async fn run<F>(
    agent: &Arc<Agent>,
    request: Request<Incoming>,
    run: impl FnOnce(Arc<Agent>, Bytes) -> F,
) -> Result<Response<Body>, Refused>
where
    F: Future<Output = Result<Response<Body>, Refused>> + Send + 'static,
{
    let count = count(request.headers());
    let target = request.uri().path_and_query().map_or("", |target| target.as_str()).to_owned();
    let method = request.method().clone();
    let body = read_body(request).await?;
    let asker = match agent.ledger.begin(key(&[method.as_str().as_bytes(), target.as_bytes(), &body]), count) {
        Begun::Again(asker) => asker,
        Begun::First(ticket, asker) => {
            let (running, busy) = (run(agent.clone(), body), agent.activity.begin());
            agent.until_stopped(async move {
                let outcome = tokio::select! {
                    answered = running => kept(answered).await,
                    () = ticket.abandoned() => Outcome::Forgotten,
                };
                ticket.settle(outcome);
                drop(busy);
            });
            asker
        }
    };
    told(asker.outcome().await)
}

/// Which repeat a request says it is.
pub(super) fn count(headers: &HeaderMap) -> u32 {
    headers.get(RETRY_COUNT).and_then(|count| count.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// What a call is known by.
pub(super) fn key(parts: &[&[u8]]) -> Key {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// What came of a call, as an answer.
///
/// # Errors
///
/// [`ErrorCode::RequestRepeated`] if nobody can tell.
pub(super) fn told(outcome: Outcome) -> Result<Response<Body>, Refused> {
    let Outcome::Answered(Answered { status, headers, body }) = outcome else {
        return Err(ErrorCode::RequestRepeated.into());
    };
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(name, value);
    }
    Ok(builder.body(whole(body)).expect("the headers were well formed"))
}

/// An answer as it can be given again, with the headers that count.
async fn kept(answered: Result<Response<Body>, Refused>) -> Outcome {
    let answer = answered.unwrap_or_else(|refused| super::refuse(&refused, false));
    let (head, body) = answer.into_parts();
    let names = ["content-type", "landfast-error", kernel::SHOULD_RETRY, kernel::RETRY_AFTER];
    let value = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let headers = names.into_iter().filter_map(|name| Some((name, value(name)?))).collect();
    match body.collect().await {
        Ok(body) => Outcome::Answered(Answered { status: head.status, headers, body: body.to_bytes() }),
        Err(_) => Outcome::Forgotten,
    }
}
