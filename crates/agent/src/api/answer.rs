//! Answers, and refusals that say what is wrong and what to do.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use landfast_core::{ErrorCode, Problem};
use landfast_net::head::ResponseHead;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

/// The most bytes of a JSON body: what the kernel takes as arguments and environment, twice.
const JSON_MAX: usize = 4 << 20;

/// The most bytes of a refused body that are read.
const DRAINED_MAX: usize = 16 << 20;

/// How long a sender of a refused body may pause before nobody reads on.
const DRAIN_PAUSE: Duration = Duration::from_secs(10);

/// An answer's body.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A refusal on its way out.
#[derive(Debug)]
pub(crate) struct Refused {
    problem: Problem,
    /// The methods that the path takes, where another was used.
    allow: Option<&'static str>,
}

impl Refused {
    /// A path that takes only these methods.
    pub(crate) fn method(allow: &'static str) -> Self {
        let problem = Problem::new(ErrorCode::RequestMethod, format!("This path takes {allow}."));
        Self { problem, allow: Some(allow) }
    }

    /// What was wrong.
    pub(crate) const fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Its code.
    pub(crate) const fn code(&self) -> ErrorCode {
        self.problem.code
    }

    /// Its status.
    pub(crate) fn status(&self) -> StatusCode {
        status(self.problem.code.status_or_500())
    }

    /// The answer.
    pub(crate) fn into_response(self) -> Response<Body> {
        let mut response = json(self.status(), &self.problem.body());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert("landfast-error", HeaderValue::from_static(self.problem.code.as_str()));
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self { problem, allow: None }
    }
}

impl From<ErrorCode> for Refused {
    fn from(code: ErrorCode) -> Self {
        Problem::from(code).into()
    }
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(value).expect("our own types are JSON");
    let mut response = Response::new(whole(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// An answer that is only a head, such as a 101. What a service wrote in its own that HTTP does not allow is left out.
pub(crate) fn head(head: &ResponseHead) -> Response<Body> {
    let mut response = empty(StatusCode::from_u16(head.status).unwrap_or(StatusCode::BAD_GATEWAY));
    for (name, value) in head.headers.iter() {
        if let (Ok(name), Ok(value)) = (header::HeaderName::try_from(name), HeaderValue::from_bytes(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// Reads a JSON body.
///
/// # Errors
///
/// [`ErrorCode::LimitBody`], [`ErrorCode::RequestInvalid`] with where and why.
pub(crate) async fn read_json<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Problem> {
    parse(&read_body(request).await?)
}

/// Reads what should be JSON.
///
/// # Errors
///
/// [`ErrorCode::RequestInvalid`] with where and why.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| invalid(format!("The body: {error}.")))
}

/// Reads a body that is to be JSON.
///
/// # Errors
///
/// [`ErrorCode::LimitBody`], and [`ErrorCode::RequestInvalid`] if it breaks off.
pub(crate) async fn read_body(request: Request<Incoming>) -> Result<Bytes, Problem> {
    let (mut body, mut bytes, mut len) = (request.into_body(), Vec::new(), 0);
    // A body that is too large is still read, up to a point: whoever sends would otherwise find the connection closed
    // before the answer that says why.
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| invalid("The body broke off.".to_owned()))?;
        let Ok(data) = frame.into_data() else { continue };
        len += data.len();
        if len <= JSON_MAX {
            bytes.extend_from_slice(&data);
        } else if len > DRAINED_MAX {
            break;
        }
    }
    if len > JSON_MAX {
        return Err(Problem::new(ErrorCode::LimitBody, format!("A body here has at most {JSON_MAX} bytes.")));
    }
    Ok(bytes.into())
}

fn invalid(detail: String) -> Problem {
    Problem::new(ErrorCode::RequestInvalid, detail)
}

/// Reads on in a body that is refused, while the refusal is on its way: whoever only listens once all is sent would
/// otherwise find the connection closed before the answer that says why. One that stops sending is not waited for.
pub(crate) async fn drain(mut body: Incoming) {
    while let Ok(Some(Ok(_))) = timeout(DRAIN_PAUSE, body.frame()).await {}
}

/// A body that is all there.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that breaks off, and the connection with it.
pub(crate) fn cut(bytes: Bytes) -> Body {
    let pieces = [Ok(Frame::data(bytes)), Err(io::Error::other("the rest is not passed on"))];
    StreamBody::new(stream::iter(pieces)).boxed_unsync()
}

fn status(status: u16) -> StatusCode {
    StatusCode::from_u16(status).expect("the error table holds statuses")
}
