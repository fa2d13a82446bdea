//! API keys: made, listed and taken back.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use landfast_core::id::KeyId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::access::Caller;
use super::input::{Id, Json, invalid};
use super::refusal::Refusal;
use crate::api_key::{self, KeyInfo};

/// The longest name: it stands in tables.
const NAME_MAX: usize = 64;

/// What is asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewKey)]
pub(super) struct Wish {
    /// Who will use it, or what for: 1 to 64 characters.
    name: String,
}

/// A new API key. It is shown once.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NewApiKey)]
pub(super) struct NewKeyView {
    /// Its id, by which it is taken back.
    #[schema(value_type = String, example = "key_06f4n6b8p0h2k4m6p8r0t2v4w6")]
    id: KeyId,
    /// Its name.
    name: String,
    /// The key itself.
    key: String,
}

/// An API key, without what would let anybody use it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub(super) struct KeyView {
    /// Its id, by which it is taken back.
    #[schema(value_type = String, example = "key_06f4n6b8p0h2k4m6p8r0t2v4w6")]
    id: KeyId,
    /// Its name.
    name: String,
    /// Unix time in milliseconds at which it was made.
    created_at: u64,
    /// Whether it is the one of this request.
    current: bool,
}

/// All API keys.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKeyList)]
pub(super) struct Keys {
    /// The keys, oldest first.
    items: Vec<KeyView>,
}

/// Makes an API key.
///
/// The cell keeps only a hash of it.
#[utoipa::path(
    post, path = "/v1/keys", operation_id = "create_key", tag = "keys",
    request_body(content = Wish, description = "What to call it."),
    responses((status = 201, description = "The key.", body = NewKeyView)),
)]
pub(super) async fn create(State(api): State<Arc<Api>>, Json(wish): Json<Wish>) -> Result<Response, Refusal> {
    let is_name = (1..=NAME_MAX).contains(&wish.name.chars().count()) && !wish.name.contains(char::is_control);
    if !is_name {
        return Err(invalid(format!("name is 1 to {NAME_MAX} characters that can be shown.")).into());
    }
    let key = api_key::create(&*api.store, &wish.name).await?;
    let view = NewKeyView { id: key.id(), name: wish.name, key: key.to_text() };
    Ok((StatusCode::CREATED, axum::Json(view)).into_response())
}

/// Lists the API keys.
#[utoipa::path(
    get, path = "/v1/keys", operation_id = "list_keys", tag = "keys",
    responses((status = 200, description = "All of them.", body = Keys)),
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Extension(Caller(caller)): Extension<Caller>,
) -> Result<axum::Json<Keys>, Refusal> {
    let view = |KeyInfo { id, name }| KeyView { id, name, created_at: id.created_at_millis(), current: id == caller };
    Ok(axum::Json(Keys { items: api_key::list(&*api.store).await?.into_iter().map(view).collect() }))
}

/// Takes an API key back.
///
/// It is refused from now on. The last one stays.
#[utoipa::path(
    delete, path = "/v1/keys/{id}", operation_id = "remove_key", tag = "keys",
    params(("id" = String, Path, description = "The key's id.")),
    responses((status = 204, description = "It is taken back.")),
)]
pub(super) async fn remove(State(api): State<Arc<Api>>, Id(id): Id<KeyId>) -> Result<StatusCode, Refusal> {
    api_key::remove(&*api.store, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
