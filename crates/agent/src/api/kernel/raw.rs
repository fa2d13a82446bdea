//! `ANY /kernel/curl/raw?url=`: a request made from inside of the instance, passed through both ways as it comes.
//!
//! The answer is the target's, status and all, and such a client repeats a request for some of them. It obeys a word about
//! that for all but 401 and 403, which it takes for a refusal of its token; so those are kept, and given again.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Collected, Limited};
use hyper::body::Incoming;
use landfast_core::kernel::is_repeatable;
use landfast_core::{ErrorCode, Problem};

use super::super::answer::{Body, Refused, whole};
use super::curl::send;
use super::ledger::{Answered, Begun, Outcome, Ticket};
use super::{forbid_unless, once};
use crate::Agent;

/// A body of this size is taken whole, so that it can be sent on when the target leads elsewhere.
const WHOLE_MAX: u64 = 1 << 20;

/// The most of a refusal that is kept.
const KEPT_MAX: usize = 64 * 1024;

/// Headers that are for us, or for a hop.
const OURS: [header::HeaderName; 9] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
    header::FORWARDED,
];

/// Begins of names of headers that are for us.
const OUR_PREFIXES: [&str; 4] = ["landfast-", "x-stainless-", "x-forwarded-", "traceparent"];

/// Makes the request.
pub(super) async fn any(agent: &Arc<Agent>, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let url = target(request.uri().query().unwrap_or(""))?;
    let (method, count) = (request.method().clone(), once::count(request.headers()));
    let mut headers = request.headers().clone();
    strip(&mut headers);
    let (key, body) = read(request, &method, &url).await?;
    if is_repeatable(method.as_str()) {
        return Ok(passed_on(send(method, &url, headers, body).await?, None).await);
    }
    let (ticket, _asker) = match agent.ledger.begin(key, count) {
        Begun::First(ticket, asker) => (ticket, asker),
        Begun::Again(asker) => return once::told(asker.outcome().await),
    };
    let answered = send(method, &url, headers, body).await?;
    let mut answer = passed_on(answered, Some(ticket)).await;
    forbid_unless(&mut answer, false);
    Ok(answer)
}

/// The target's answer. A refusal that such a client takes for ours is noted as the call's outcome.
async fn passed_on(answered: Response<reqwest::Body>, ticket: Option<Ticket>) -> Response<Body> {
    let (mut head, body) = answered.into_parts();
    strip(&mut head.headers);
    // What is left of them could not be followed from here, and must not be from there.
    head.headers.remove(header::LOCATION);
    let is_taken_for_ours = matches!(head.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    let Some(ticket) = ticket.filter(|_| is_taken_for_ours) else {
        return Response::from_parts(head, body.map_err(io::Error::other).boxed_unsync());
    };
    let kept = Limited::new(body, KEPT_MAX).collect().await.map(Collected::to_bytes).unwrap_or_default();
    let kind = head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).map(str::to_owned);
    let headers = kind.into_iter().map(|kind| ("content-type", kind)).collect();
    let outcome = Answered { status: head.status, headers, body: kept.clone() };
    ticket.settle(Outcome::Answered(outcome));
    Response::from_parts(head, whole(kept))
}

fn target(query: &str) -> Result<String, Problem> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let url = pairs.find(|(name, _)| name == "url").map(|(_, url)| url.into_owned());
    url.ok_or_else(|| Problem::new(ErrorCode::RequestInvalid, "url is missing: which one?"))
}

/// The request's body, and what the call is known by. Of one that is streamed only its length is known.
async fn read(
    request: Request<Incoming>,
    method: &Method,
    url: &str,
) -> Result<(super::ledger::Key, Option<reqwest::Body>), Problem> {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let is_chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let key = |body: &[u8]| once::key(&[b"raw", method.as_str().as_bytes(), url.as_bytes(), body]);
    match length {
        None | Some(0) if !is_chunked => Ok((key(b""), None)),
        Some(1..=WHOLE_MAX) => {
            let body = request.into_body().collect().await;
            let body: Bytes =
                body.map_err(|_| Problem::new(ErrorCode::RequestInvalid, "The body broke off."))?.to_bytes();
            Ok((key(&body), Some(body.into())))
        }
        length => Ok((key(format!("{length:?}").as_bytes()), Some(reqwest::Body::wrap(request.into_body())))),
    }
}

/// Takes away what is for a hop, and what only Landfast may say.
fn strip(headers: &mut HeaderMap) {
    for name in OURS {
        headers.remove(name);
    }
    let names: Vec<_> = headers.keys().filter(|name| is_ours(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn is_ours(name: &str) -> bool {
    OUR_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
