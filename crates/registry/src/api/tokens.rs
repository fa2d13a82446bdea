//! Access tokens: made for an instance, and taken back.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use landfast_core::lifecycle::{end_code, will_restart};
use landfast_core::record::{RevokedToken, keys};
use landfast_core::{ErrorCode, InstanceId, TokenId};
use landfast_net::clock;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::input::{Id, Json, invalid};
use super::refusal::Refusal;
use super::view::{TOKEN_SECONDS, sign};
use crate::records;
use crate::store::{Expect, Swap};
use crate::token::Scope;

/// The longest life of a token. A revocation is kept as long, since an id does not tell when its token expires.
pub(super) const TTL_MAX_SECONDS: u64 = 24 * 60 * 60;

/// What is asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = NewToken)]
pub(super) struct Wish {
    /// What it allows: everything if not said.
    scopes: Vec<Scope>,
    /// How long it is good: an hour if not said, a day at most.
    ttl_seconds: u64,
}

impl Default for Wish {
    fn default() -> Self {
        Self { scopes: vec![Scope::All], ttl_seconds: TOKEN_SECONDS }
    }
}

/// An access token. It is shown once.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Token)]
pub(super) struct TokenView {
    /// Its id, by which it is revoked.
    #[schema(value_type = String, example = "tok_06f4n6b8p0h2k4m6p8r0t2v4w6")]
    id: TokenId,
    /// The token itself.
    token: String,
    /// What it allows.
    scopes: Vec<Scope>,
    /// Unix time in milliseconds from which on it is not accepted.
    expires_at: u64,
}

/// Makes an access token for an instance.
#[utoipa::path(
    post, path = "/v1/instances/{id}/tokens", operation_id = "create_token", tag = "tokens",
    params(("id" = String, Path, description = "The instance's id.")),
    request_body(content = Wish, description = "What it should allow, and how long; everything has a default."),
    responses((status = 201, description = "The token.", body = TokenView)),
)]
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    Json(wish): Json<Wish>,
) -> Result<Response, Refusal> {
    if !(1..=TTL_MAX_SECONDS).contains(&wish.ttl_seconds) {
        return Err(invalid(format!("ttl_seconds is from 1 to {TTL_MAX_SECONDS}.")).into());
    }
    if wish.scopes.is_empty() {
        return Err(invalid("scopes is empty: such a token would allow nothing.").into());
    }
    let (instance, _) = records::instance(&*api.store, id).await?.ok_or(ErrorCode::InstanceUnknown)?;
    if let Some(code) = end_code(instance.phase).filter(|_| !will_restart(&instance)) {
        return Err(code.into());
    }
    let (token, claims) = sign(&api, id, wish.scopes, wish.ttl_seconds);
    let view = TokenView { id: claims.jti, token, scopes: claims.scopes, expires_at: claims.exp * 1000 };
    Ok((StatusCode::CREATED, axum::Json(view)).into_response())
}

/// Takes an access token back.
///
/// Gateways refuse it from now on and end the sessions that were opened with it. Taking it back again changes nothing.
#[utoipa::path(
    delete, path = "/v1/tokens/{id}", operation_id = "revoke_token", tag = "tokens",
    params(("id" = String, Path, description = "The token's id.")),
    responses((status = 204, description = "It is taken back.")),
)]
pub(super) async fn revoke(State(api): State<Arc<Api>>, Id(id): Id<TokenId>) -> Result<StatusCode, Refusal> {
    let made_at = id.created_at_millis().min(clock::unix_millis()) / 1000;
    let revoked = records::encode(&RevokedToken { expires_at: made_at + TTL_MAX_SECONDS })?;
    match api.store.put(&keys::revoked(id), Expect::Absent, revoked, None).await? {
        Swap::Done(_) | Swap::Conflict(_) => Ok(StatusCode::NO_CONTENT),
    }
}
