//! Why a call failed, in a form a program can act on and a person can read.

use std::fmt;
use std::time::Duration;

use landfast_core::error::ProblemBody;
use landfast_core::{ErrorCode, Problem, Retry};

/// A failure.
#[derive(Debug)]
pub enum Error {
    /// Landfast, or the instance's own program, answered no.
    Refused(Box<Refusal>),
    /// A session was ended, and not by us. The code is `None` if this release does not know it.
    Ended {
        /// The cause.
        code: Option<ErrorCode>,
        /// The close frame's reason: the cause's text, and what exactly happened.
        reason: String,
    },
    /// No connection could be made. Nothing was started.
    Unreachable {
        /// Where to.
        address: String,
        /// Why not.
        why: String,
    },
    /// The connection broke before the whole answer had come. The call may have run.
    Broken {
        /// Where to.
        address: String,
        /// What happened.
        why: String,
    },
    /// What answered does not speak our protocol, as a sentence.
    Protocol(String),
    /// The caller's own mistake, found before anything was sent.
    Invalid(Problem),
    /// A file of this machine could not be read or written.
    Local(Problem),
}

/// An answer that says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The row of the error table; `None` for an answer that Landfast did not write, or of a newer release.
    pub code: Option<ErrorCode>,
    /// The HTTP status.
    pub status: u16,
    /// What exactly was wrong.
    pub detail: String,
    /// What to do about it; may be empty.
    pub advice: String,
    /// The request's id, for a report.
    pub request_id: Option<String>,
    /// How long the server asks us to wait before another try.
    pub retry_after: Option<Duration>,
}

impl Error {
    /// The row of the error table, if Landfast said one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(refusal) => refusal.code,
            Self::Ended { code, .. } => *code,
            Self::Invalid(problem) | Self::Local(problem) => Some(problem.code),
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Protocol(_) => None,
        }
    }

    /// The HTTP status, if there was an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(refusal) => Some(refusal.status),
            Self::Ended { .. }
            | Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::Protocol(_)
            | Self::Invalid(_)
            | Self::Local(_) => None,
        }
    }

    /// The request's id, if there was an answer that carried one.
    pub fn request_id(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) => refusal.request_id.as_deref(),
            Self::Ended { .. }
            | Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::Protocol(_)
            | Self::Invalid(_)
            | Self::Local(_) => None,
        }
    }

    /// When the same call may be made again. An answer without a code of ours proves nothing, so it is never repeated.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused(_) | Self::Ended { .. } => self.code().map_or(Retry::Never, ErrorCode::retry),
            Self::Unreachable { .. } => Retry::Safe,
            Self::Broken { .. } => Retry::IfIdempotent,
            Self::Protocol(_) | Self::Invalid(_) | Self::Local(_) => Retry::Never,
        }
    }

    /// Whether making the same call again may help at all; [`Self::retry`] says for which calls.
    pub fn retryable(&self) -> bool {
        self.retry() != Retry::Never
    }

    /// Whether it was the transport that failed, and not the cell that said no.
    pub const fn is_transport(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Protocol(_) => true,
            Self::Refused(_) | Self::Ended { .. } | Self::Invalid(_) | Self::Local(_) => false,
        }
    }

    /// A caller's mistake.
    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::Invalid(Problem::new(ErrorCode::RequestInvalid, detail))
    }
}

impl Refusal {
    /// Reads an answer that is not a success.
    pub(crate) fn read<'a>(status: u16, text: impl Fn(&str) -> Option<&'a str>, body: &[u8]) -> Self {
        let problem: Option<ProblemBody> = serde_json::from_slice(body).ok();
        let code = text("landfast-error").or(problem.as_ref().map(|problem| problem.code.as_str()));
        Self {
            code: code.and_then(ErrorCode::parse),
            status,
            detail: problem.as_ref().map_or_else(|| bare_detail(status, code), |problem| problem.detail.clone()),
            advice: problem.map_or_else(String::new, |problem| problem.advice),
            request_id: text("landfast-request-id").map(str::to_owned),
            retry_after: retry_after(text),
        }
    }
}

/// How long a server asks to wait, where it says so to the millisecond or in seconds.
fn retry_after<'a>(text: impl Fn(&str) -> Option<&'a str>) -> Option<Duration> {
    let number = |name: &str| text(name).and_then(|value| value.trim().parse().ok());
    number("retry-after-ms").map(Duration::from_millis).or_else(|| number("retry-after").map(Duration::from_secs))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Ended { code: Some(code), reason } => {
                let detail = reason.strip_prefix(code.as_str()).map_or(reason.as_str(), str::trim_start);
                Problem::new(*code, detail).fmt(f)
            }
            Self::Ended { code: None, reason } if reason.is_empty() => {
                f.write_str("The session was ended without a reason.")
            }
            Self::Ended { code: None, reason } => write!(f, "The session was ended: {reason}."),
            Self::Unreachable { address, why } => write!(f, "{address} cannot be reached: {why}."),
            Self::Broken { address, why } => write!(f, "The connection to {address} broke: {why}."),
            Self::Protocol(sentence) => write!(f, "What answers there is no Landfast of this release: {sentence}."),
            Self::Invalid(problem) | Self::Local(problem) => f.write_str(&problem.detail),
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(code) = self.code {
            write!(f, "{code}: ")?;
        }
        f.write_str(&self.detail)?;
        if !self.advice.is_empty() {
            write!(f, " {}", self.advice)?;
        }
        if let Some(id) = &self.request_id {
            write!(f, " (request {id})")?;
        }
        Ok(())
    }
}

fn bare_detail(status: u16, code: Option<&str>) -> String {
    match code.map(|code| (code, ErrorCode::parse(code))) {
        Some((_, Some(code))) => code.sentence().to_owned(),
        Some((code, None)) => format!("The answer was {status} {code}."),
        None => format!("The answer was {status}."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> impl Fn(&str) -> Option<&'static str> {
        move |wanted| pairs.iter().find(|(name, _)| *name == wanted).map(|&(_, value)| value)
    }

    #[test]
    fn a_refusal_carries_code_status_request_and_what_to_do() {
        let body = serde_json::to_vec(&Problem::new(ErrorCode::InstanceGone, "ins_1 was deleted.").body()).unwrap();
        let refusal = Refusal::read(410, headers(&[("landfast-request-id", "req_1"), ("retry-after", "3")]), &body);
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(3)));
        let error = Error::Refused(Box::new(refusal));
        assert_eq!((error.code(), error.status()), (Some(ErrorCode::InstanceGone), Some(410)));
        assert_eq!(error.request_id(), Some("req_1"));
        assert!(!error.retryable());
        assert_eq!(error.to_string(), "instance.gone: ins_1 was deleted. Create a new one. (request req_1)");
    }

    #[test]
    fn an_answer_that_is_not_ours_is_never_repeated() {
        let error = Error::Refused(Box::new(Refusal::read(503, headers(&[]), b"<html>")));
        assert_eq!((error.code(), error.retry()), (None, Retry::Never));
    }

    #[test]
    fn a_close_of_ours_reads_as_its_row() {
        let error = Error::Ended { code: Some(ErrorCode::InstanceLost), reason: "instance.lost node b".to_owned() };
        assert!(error.to_string().starts_with("instance.lost: node b Create"), "{error}");
    }
}
