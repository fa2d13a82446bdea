//! Answers that the gateway writes itself, and what it writes on every answer.
//!
//! An answer of ours must never be mistaken for the instance's own, nor the other way round: ours carry
//! `landfast-error`, and all carry the request's id.

use landfast_core::{ErrorCode, Problem};
use landfast_net::head::{Headers, ResponseHead};
use landfast_net::link::Refusal;

use crate::headers;

/// What a client is told to wait before it tries again, in seconds: most absences are over within one, and so is
/// the wait of a rate, whose burst is never overdrawn.
const RETRY_AFTER_SECONDS: &str = "1";

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its head.
    pub(crate) head: ResponseHead,
    /// Its body.
    pub(crate) body: Vec<u8>,
    /// Why it is a refusal of ours, if it is one.
    pub(crate) cause: Option<ErrorCode>,
}

/// An answer without a body.
pub(crate) fn empty(status: u16) -> Answer {
    let mut headers = Headers::new();
    headers.push("content-length", "0");
    Answer { head: ResponseHead { status, headers }, body: Vec::new(), cause: None }
}

/// A refusal of ours.
pub(crate) fn refusal(problem: &Problem) -> Answer {
    let body = serde_json::to_vec(&problem.body()).expect("a problem is plain data");
    let mut headers = Headers::new();
    headers.push("content-type", "application/problem+json");
    headers.push("landfast-error", problem.code.as_str());
    let status = problem.code.status_or_500();
    match status {
        401 => headers.push("www-authenticate", "Bearer"),
        405 => headers.push("allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        429 | 503 => headers.push("retry-after", RETRY_AFTER_SECONDS),
        _ => {}
    }
    headers.push("content-length", body.len().to_string());
    Answer { head: ResponseHead { status, headers }, body, cause: Some(problem.code) }
}

/// A far end's refusal of an upgrade, as a plain answer.
pub(crate) fn passed_on(refusal: Refusal) -> Answer {
    let Refusal { mut head, body } = refusal;
    let cause = head.headers.get("landfast-error").and_then(ErrorCode::parse);
    headers::remove_hop_by_hop(&mut head.headers);
    head.headers.remove("landfast-origin");
    // The body may have been cut.
    head.headers.set("content-length", body.len().to_string());
    Answer { head, body, cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_its_cause_and_when_to_come_back() {
        let Answer { head, cause, .. } = refusal(&ErrorCode::InstanceMoving.into());
        assert_eq!((head.status, cause), (503, Some(ErrorCode::InstanceMoving)));
        assert_eq!(head.headers.get("landfast-error"), Some("instance.moving"));
        assert_eq!(head.headers.get("retry-after"), Some("1"));
        assert_eq!(head.headers.get("content-type"), Some("application/problem+json"));
    }

    #[test]
    fn a_missing_token_is_asked_for() {
        let answer = refusal(&ErrorCode::AuthMissing.into());
        assert_eq!(answer.head.headers.get("www-authenticate"), Some("Bearer"));
    }

    #[test]
    fn a_far_ends_refusal_keeps_its_status_and_headers_but_not_its_hops() {
        let mut headers = Headers::new();
        for (name, value) in [("Landfast-Error", "process.unknown"), ("Connection", "close"), ("Content-Length", "9")] {
            headers.push(name, value);
        }
        let head = ResponseHead { status: 404, headers };
        let answer = passed_on(Refusal { head, body: b"no".to_vec() });
        assert_eq!((answer.head.status, answer.cause), (404, Some(ErrorCode::ProcessUnknown)));
        assert_eq!(answer.head.headers.get("content-length"), Some("2"));
        assert_eq!(answer.head.headers.len(), 2);
    }
}
