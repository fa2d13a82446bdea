//! What a request says, read strictly: what is not understood is refused with its name, not ignored.

use std::str::FromStr;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request};
use axum::http::request::Parts;
use bytes::Bytes;
use http_body_util::LengthLimitError;
use landfast_core::{ErrorCode, Problem};
use serde::de::DeserializeOwned;

use super::refusal::Refusal;

/// The largest JSON body: a spec with its environment, as it then fits the store.
const JSON_MAX: usize = 128 * 1024;

/// The longest wait that one request may ask for; longer than any start or move, shorter than what proxies cut.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A JSON object as body. An empty body counts as `{}`.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let body = read_body(request.into_body(), JSON_MAX).await?;
        let body = if body.is_empty() { b"{}" } else { body.trim_ascii() };
        // A list would be taken for an object's fields in order.
        if !body.starts_with(b"{") {
            return Err(invalid("The body: expected a JSON object.").into());
        }
        serde_json::from_slice(body).map(Self).map_err(|error| invalid(format!("The body: {error}.")).into())
    }
}

/// Reads a whole body.
///
/// # Errors
///
/// [`ErrorCode::LimitBody`] if it is larger, [`ErrorCode::RequestInvalid`] if it breaks off.
pub(super) async fn read_body(body: Body, limit: usize) -> Result<Bytes, Problem> {
    to_bytes(body, limit).await.map_err(|error| {
        let source = std::error::Error::source(&error);
        if source.is_some_and(<dyn std::error::Error>::is::<LengthLimitError>) {
            Problem::new(ErrorCode::LimitBody, format!("{limit} bytes are the most here."))
        } else {
            invalid("The body broke off.")
        }
    })
}

/// The id at the end of a path's fixed part: a text that is no id names nothing.
pub(super) struct Id<T>(pub(super) T);

/// An id that a path may carry.
pub(super) trait PathId: FromStr<Err: std::fmt::Display> {
    /// What to answer when the text is none.
    const UNKNOWN: ErrorCode;
}

impl PathId for landfast_core::InstanceId {
    const UNKNOWN: ErrorCode = ErrorCode::InstanceUnknown;
}

impl PathId for landfast_core::TokenId {
    const UNKNOWN: ErrorCode = ErrorCode::RequestInvalid;
}

impl PathId for landfast_core::id::KeyId {
    const UNKNOWN: ErrorCode = ErrorCode::KeyUnknown;
}

impl<T: PathId, S: Send + Sync> FromRequestParts<S> for Id<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let params =
            RawPathParams::from_request_parts(parts, state).await.map_err(|_| invalid("The path is not UTF-8."))?;
        let text =
            params.iter().find_map(|(name, value)| matches!(name, "id" | "node").then_some(value)).unwrap_or_default();
        let id = text.parse().map_err(|error| Problem::new(T::UNKNOWN, format!("In the path: {error}.")))?;
        Ok(Self(id))
    }
}

/// The query's parameters, to be taken one by one.
pub(super) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let Query(pairs) = Query::try_from_uri(&parts.uri).map_err(|error| invalid(format!("The query: {error}.")))?;
        Ok(Self(pairs))
    }
}

impl Params {
    /// Takes all values of a parameter.
    pub(super) fn all(&mut self, name: &str) -> Vec<String> {
        self.0.extract_if(.., |pair| pair.0 == name).map(|(_, value)| value).collect()
    }

    /// Takes a parameter that may stand once.
    pub(super) fn one<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        match self.all(name).as_slice() {
            [] => Ok(None),
            [value] => {
                value.parse().map(Some).map_err(|_| invalid(format!("The value {value:?} of {name} is not allowed.")))
            }
            _ => Err(invalid(format!("{name} stands more than once."))),
        }
    }

    /// Takes all of a map that is written `name[key]=value`.
    pub(super) fn bracketed(&mut self, name: &str) -> Vec<(String, String)> {
        let key = |text: &str| text.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']').map(ToOwned::to_owned);
        let taken = self.0.extract_if(.., |pair| key(&pair.0).is_some());
        taken.filter_map(|(text, value)| Some((key(&text)?, value))).collect()
    }

    /// Takes how long the caller is ready to wait.
    pub(super) fn wait(&mut self) -> Result<Duration, Problem> {
        let wait = Duration::from_secs(self.one("wait")?.unwrap_or(0));
        if wait > WAIT_MAX {
            return Err(invalid(format!("wait is {} seconds at most.", WAIT_MAX.as_secs())));
        }
        Ok(wait)
    }

    /// Refuses what was not taken.
    pub(super) fn end(self) -> Result<(), Problem> {
        match self.0.first() {
            Some((name, _)) => Err(invalid(format!("There is no parameter {name:?} here."))),
            None => Ok(()),
        }
    }
}

/// A refusal of the request's form.
pub(super) fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::RequestInvalid, detail)
}
