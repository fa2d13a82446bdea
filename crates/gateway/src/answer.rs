//! Answers that the gateway writes itself, and what it writes on every answer.
//!
//! An answer of ours must never be mistaken for the instance's own, nor the other way round: ours carry
//! `landfast-error`, and all carry the request's id.

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use landfast_core::{ErrorCode, Problem};
use landfast_net::link::Refusal;

use crate::body::Body;
use crate::headers;

/// What a client is told to wait before it tries again, in seconds: most absences are over within one.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

const ERROR: HeaderName = HeaderName::from_static("landfast-error");

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A refusal of ours.
pub(crate) fn refusal(problem: &Problem) -> Response<Body> {
    let json = serde_json::to_vec(&problem.body()).expect("a problem is plain data");
    let mut response = Response::new(Body::whole(json));
    *response.status_mut() = status(problem.code);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(ERROR, HeaderValue::from_static(problem.code.as_str()));
    match problem.code.status_or_500() {
        401 => drop(headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        429 | 503 => drop(headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS)),
        _ => {}
    }
    response
}

/// A far end's refusal of an upgrade, as a plain answer.
pub(crate) fn passed_on(refusal: Refusal) -> Response<Body> {
    let mut response = Response::new(Body::whole(refusal.body));
    *response.status_mut() = StatusCode::from_u16(refusal.head.status).unwrap_or(StatusCode::BAD_GATEWAY);
    *response.headers_mut() = headers::from_head(&refusal.head.headers);
    headers::remove_hop_by_hop(response.headers_mut());
    // The body is whole and may have been cut; hyper counts it again.
    response.headers_mut().remove(http::header::CONTENT_LENGTH);
    response
}

/// The cause that an answer carries in `landfast-error`.
pub(crate) fn cause(response: &Response<Body>) -> Option<ErrorCode> {
    response.headers().get(ERROR).and_then(|value| value.to_str().ok()).and_then(ErrorCode::parse)
}

fn status(code: ErrorCode) -> StatusCode {
    StatusCode::from_u16(code.status_or_500()).expect("the table's statuses are statuses")
}

#[cfg(test)]
mod tests {
    use landfast_net::head::{Headers, ResponseHead};

    use super::*;

    #[test]
    fn a_refusal_carries_its_cause_and_when_to_come_back() {
        let response = refusal(&ErrorCode::InstanceMoving.into());
        assert_eq!(response.status(), 503);
        assert_eq!(cause(&response), Some(ErrorCode::InstanceMoving));
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }

    #[test]
    fn a_missing_token_is_asked_for() {
        assert_eq!(refusal(&ErrorCode::AuthMissing.into()).headers()["www-authenticate"], "Bearer");
    }

    #[test]
    fn a_far_ends_refusal_keeps_its_status_and_headers_but_not_its_hops() {
        let mut headers = Headers::new();
        for (name, value) in [("Landfast-Error", "process.unknown"), ("Connection", "close"), ("Content-Length", "9")] {
            headers.push(name, value);
        }
        let head = ResponseHead { status: 404, headers };
        let response = passed_on(Refusal { head, body: b"no".to_vec() });
        assert_eq!((response.status().as_u16(), cause(&response)), (404, Some(ErrorCode::ProcessUnknown)));
        assert_eq!(response.headers().len(), 1);
    }
}
