//! How the API says no.
//!
//! Whatever goes wrong becomes a [`Refusal`], and only here is one turned into an answer. What the framework would say by
//! itself (an unknown path, a wrong method, a panic) is caught and said in the same form.

use std::panic::AssertUnwindSafe;

use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use landfast_core::id::RequestId;
use landfast_core::{ErrorCode, Problem};
use landfast_net::random;

use crate::records::UpdateError;
use crate::store::StoreError;

const ERROR_HEADER: HeaderName = HeaderName::from_static("landfast-error");
const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("landfast-request-id");

/// Seconds after which a request that was refused for the moment is worth another try: what it waits for (a placement, a
/// lease, a disk) takes about that long.
const TRY_AGAIN_SECONDS: u16 = 1;

/// A problem on its way to the client.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) Problem);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self(code.into())
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::debug!(%error, "a request was refused because of the store");
        Self(error.into())
    }
}

impl From<UpdateError> for Refusal {
    fn from(error: UpdateError) -> Self {
        match error {
            UpdateError::Store(error) => error.into(),
            UpdateError::Unknown | UpdateError::Refused(_) | UpdateError::Conflict => Self(error.into()),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(problem) = self;
        let status = StatusCode::from_u16(problem.code.status_or_500()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&problem.body()).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(ERROR_HEADER, HeaderValue::from_static(problem.code.as_str()));
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(RETRY_AFTER, TRY_AGAIN_SECONDS.into());
        }
        // For whoever tells it in other words.
        response.extensions_mut().insert(problem);
        response
    }
}

/// Answers where there is nothing.
pub(super) async fn unknown_path() -> Refusal {
    ErrorCode::RequestNotFound.into()
}

/// Answers where there is something, but not for this method. The framework adds the methods in `Allow`.
pub(super) async fn wrong_method() -> Refusal {
    ErrorCode::RequestMethod.into()
}

/// Gives every answer its request's id, and turns a panic into an answer.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = answered.unwrap_or_else(|_| {
        tracing::error!(request = %id, "a handler panicked");
        Refusal::from(ErrorCode::Internal).into_response()
    });
    if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert(REQUEST_ID_HEADER, id);
    }
    response
}

/// The id that the gateway gave, or a new one.
fn request_id(request: &Request) -> RequestId {
    let given = request.headers().get(REQUEST_ID_HEADER).and_then(|id| id.to_str().ok()?.parse().ok());
    given.unwrap_or_else(random::request_id)
}
