//! The control plane as Kernel's clients know it: `/browsers` and `/browser_pools`.
//!
//! It is a translation and nothing else: a browser of theirs is an instance of kind `browser`, and everything they may ask
//! of one is asked of its agent, which answers in their words too (`landfast_agent::api::kernel`). What is asked for and
//! cannot be had is refused by name: a client that believes it has a proxy must not go without one.

mod browsers;
mod forward;
mod label;
mod lease;
mod names;
mod pool;
mod pools;
mod tend;
mod view;
mod wish;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use landfast_core::Problem;
use landfast_core::kernel::{self, RETRY_AFTER, SHOULD_RETRY};

use super::{Api, access};

pub(super) use tend::tend;

/// The paths of Kernel's API.
pub(super) fn router(api: &Arc<Api>) -> Router<Arc<Api>> {
    Router::new()
        .route("/browsers", get(browsers::list).post(browsers::create))
        .route("/browsers/{browser}", get(browsers::read).patch(browsers::update).delete(browsers::delete))
        .route("/browsers/{browser}/telemetry/events", get(forward::events))
        .route("/browsers/{browser}/{*rest}", any(forward::forward))
        .route("/browser_pools", get(pools::list).post(pools::create))
        .route("/browser_pools/{pool}", get(pools::read).patch(pools::update).delete(pools::delete))
        .route("/browser_pools/{pool}/acquire", post(lease::acquire))
        .route("/browser_pools/{pool}/release", post(lease::release))
        .route("/browser_pools/{pool}/flush", post(pools::flush))
        .route_layer(from_fn_with_state(api.clone(), access::require_key))
        .route_layer(from_fn(in_their_words))
}

/// Tells every refusal as those clients read it.
async fn in_their_words(request: Request, next: Next) -> Response {
    let is_repeatable = kernel::is_repeatable(request.method().as_str());
    let mut answer = next.run(request).await;
    let Some(problem) = answer.extensions_mut().remove::<Problem>() else { return answer };
    let refusal = kernel::Refusal::new(&problem, is_repeatable);
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut told = (status, axum::Json(&refusal.body)).into_response();
    let headers = told.headers_mut();
    for (name, value) in answer.headers() {
        if name.as_str().starts_with("landfast-") || name == header::RETRY_AFTER {
            headers.insert(name.clone(), value.clone());
        }
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(SHOULD_RETRY, HeaderValue::from_static(if refusal.should_retry { "true" } else { "false" }));
    if let Some(millis) = refusal.retry_after_ms {
        headers.insert(RETRY_AFTER, millis.into());
    }
    told
}
