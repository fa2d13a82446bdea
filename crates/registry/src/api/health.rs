//! Whether the server lives, whether it can work, and what it offers. No key is asked for.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::Api;
use super::refusal::Refusal;

/// Tells that the server answers at all.
#[utoipa::path(get, path = "/livez", operation_id = "live", tag = "health", responses((status = 200, description = "It lives.", body = String)))]
pub(super) async fn live() -> &'static str {
    "ok\n"
}

/// Tells that the server can read the cell's store.
#[utoipa::path(get, path = "/readyz", operation_id = "ready", tag = "health", responses((status = 200, description = "It can work.", body = String)))]
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Result<&'static str, Refusal> {
    api.store.get("ready").await?;
    Ok("ok\n")
}

/// Gives this description.
#[utoipa::path(get, path = "/v1/openapi.json", operation_id = "description", tag = "health", responses((status = 200, description = "The description.", body = serde_json::Value)))]
pub(super) async fn description() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], super::openapi())
}
