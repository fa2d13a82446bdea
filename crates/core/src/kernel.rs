//! What clients made for Kernel's API understand: how a refusal and an event are told to them.
//!
//! Such a client repeats by itself what was refused for the moment or has met a broken connection, a POST too, and sends
//! no idempotency key with it. The one word it obeys stands in a header of the answer, so every refusal on that surface
//! says whether it may be repeated.

mod telling;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::{ErrorCode, Problem, Retry};

pub use telling::event;

/// The header that such a client obeys.
pub const SHOULD_RETRY: &str = "x-should-retry";

/// How long such a client waits before it repeats, in milliseconds.
pub const RETRY_AFTER: &str = "retry-after-ms";

/// Which repeat of a call such a client sends: 0 the first time.
pub const RETRY_COUNT: &str = "x-stainless-retry-count";

/// What a browser that has ended for ever is called there.
pub const GONE: &str = "browser_gone";

/// What waiting for a place takes: long enough to be worth a try, short enough for somebody who waits.
const SOON_MS: u32 = 500;

/// A new token is there at once, from the control plane that such a client turns to then.
const AT_ONCE_MS: u32 = 1;

/// A refusal as it is told on that surface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: RefusalBody,
    /// Whether the same request may be sent again.
    pub should_retry: bool,
    /// How long to wait before, if that matters.
    pub retry_after_ms: Option<u32>,
}

/// The JSON of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusalBody {
    /// [`GONE`], or the row of the error table.
    pub code: String,
    /// What happened, and what to do.
    pub message: String,
}

impl Refusal {
    /// Tells of a problem with a request that may be repeated, or may not, if it has run.
    pub fn new(problem: &Problem, is_repeatable: bool) -> Self {
        let code = problem.code;
        let is_gone = is_gone(code);
        let (status, name) = if is_gone { (404, GONE) } else { (code.status_or_500(), code.as_str()) };
        let detail = if problem.detail.is_empty() { code.sentence() } else { &problem.detail };
        let should_retry = match code.retry() {
            Retry::Never => false,
            Retry::Safe => true,
            Retry::IfIdempotent => is_repeatable,
        };
        let retry_after_ms = match status {
            401 | 403 => Some(AT_ONCE_MS),
            _ => should_retry.then_some(SOON_MS),
        };
        let message = format!("{detail} {}", code.advice());
        Self { status, body: RefusalBody { code: name.to_owned(), message }, should_retry, retry_after_ms }
    }
}

/// A time in milliseconds since 1970, as texts have it there.
pub fn time(unix_millis: u64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_millis) * 1_000_000);
    at.ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
}

/// Whether a request may be sent again although it may have run, by its method.
pub fn is_repeatable(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE")
}

/// Whether this is the word for an end after which nothing follows.
pub const fn is_gone(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::InstanceGone | ErrorCode::InstanceStopped | ErrorCode::InstanceFailed | ErrorCode::InstanceLost
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(code: ErrorCode, method: &str) -> (u16, String, bool, Option<u32>) {
        let Refusal { status, body, should_retry, retry_after_ms } = Refusal::new(&code.into(), is_repeatable(method));
        (status, body.code, should_retry, retry_after_ms)
    }

    #[test]
    fn a_browser_that_has_ended_is_gone_and_nothing_else_is() {
        for &code in ErrorCode::ALL {
            let (status, name, should_retry, _) = told(code, "GET");
            assert_eq!(name == GONE, is_gone(code), "{code}");
            assert!(!is_gone(code) || (status, should_retry) == (404, false), "{code}");
        }
        assert!(is_gone(ErrorCode::InstanceGone) && !is_gone(ErrorCode::ProcessUnknown));
    }

    #[test]
    fn only_what_did_not_run_or_may_run_twice_is_repeated() {
        assert!(told(ErrorCode::InstanceMoving, "POST").2, "it was not started");
        assert!(told(ErrorCode::UpstreamLost, "GET").2);
        assert!(!told(ErrorCode::UpstreamLost, "POST").2, "it may have run");
        assert!(!told(ErrorCode::UpstreamTimeout, "PATCH").2);
        assert!(!told(ErrorCode::RequestInvalid, "GET").2, "it would be refused again");
    }

    #[test]
    fn a_time_is_a_text() {
        assert_eq!(time(1_790_000_000_250), "2026-09-21T14:13:20.25Z");
    }

    #[test]
    fn who_came_with_an_old_token_comes_back_at_once() {
        assert_eq!(told(ErrorCode::AuthExpired, "POST").3, Some(AT_ONCE_MS));
        assert_eq!(told(ErrorCode::InstanceMoving, "POST").3, Some(SOON_MS));
        assert_eq!(told(ErrorCode::RequestInvalid, "POST").3, None);
    }
}
