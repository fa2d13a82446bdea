//! Who may use the control plane: the holders of an API key.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use landfast_core::ErrorCode;
use landfast_core::id::KeyId;

use super::Api;
use super::refusal::Refusal;
use crate::api_key;

/// Whose request it is; present in every request behind [`require_key`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller(pub(super) KeyId);

/// Lets a request pass only with an API key of this cell.
pub(super) async fn require_key(
    State(api): State<Arc<Api>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let key = bearer(request.headers()).ok_or(ErrorCode::AuthMissing)?;
    let caller = Caller(api_key::check(&*api.store, key).await?);
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
