//! Moves of external instances, as their platform announces them.
//!
//! Landfast does not run these instances and cannot see them go. Between `begin` and `commit` nothing new is sent to the
//! old place, so that nothing is lost there; the next generation leads to the new one.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use landfast_core::lifecycle::{begin_external_move, commit_external_move, give_up_external_move};
use landfast_core::record::Instance;
use landfast_core::{InstanceId, Problem, ServiceName};
use serde::Deserialize;
use utoipa::ToSchema;

use super::Api;
use super::input::{Id, Json};
use super::refusal::Refusal;
use super::spec::check_address;
use super::view::InstanceView;
use crate::records;

/// Where it is now. What is not named has not moved.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = MovedTo)]
pub(super) struct Addresses {
    /// Where its agent listens (`host:port`).
    agent: Option<String>,
    /// Where its services listen (`host:port`), by name.
    #[schema(value_type = BTreeMap<String, String>)]
    services: BTreeMap<ServiceName, String>,
}

/// Announces that the platform moves an external instance.
///
/// Requests and sessions wait for the new place from now on, until `commit` or `abort`; after ten minutes without either
/// they go on at the old one. Announcing it again changes nothing.
#[utoipa::path(
    post, path = "/v1/instances/{id}/move/begin", operation_id = "begin_move", tag = "instances",
    params(("id" = String, Path, description = "The instance's id.")),
    responses((status = 200, description = "The instance, moving.", body = InstanceView)),
)]
pub(super) async fn begin(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    headers: HeaderMap,
) -> Result<axum::Json<InstanceView>, Refusal> {
    change(&api, id, &headers, |instance| Ok(begin_external_move(instance)?)).await
}

/// Tells where an external instance has moved to.
#[utoipa::path(
    post, path = "/v1/instances/{id}/move/commit", operation_id = "commit_move", tag = "instances",
    params(("id" = String, Path, description = "The instance's id.")),
    request_body(content = Addresses, description = "Where it is now."),
    responses((status = 200, description = "The instance, of the next generation.", body = InstanceView)),
)]
pub(super) async fn commit(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    headers: HeaderMap,
    Json(to): Json<Addresses>,
) -> Result<axum::Json<InstanceView>, Refusal> {
    if let Some(agent) = &to.agent {
        check_address("agent", agent)?;
    }
    for (name, address) in &to.services {
        check_address(&format!("services.{name}"), address)?;
    }
    change(&api, id, &headers, |instance| Ok(commit_external_move(instance, to.agent.as_deref(), &to.services)?)).await
}

/// Calls the move of an external instance off: it is where it was.
#[utoipa::path(
    post, path = "/v1/instances/{id}/move/abort", operation_id = "abort_move", tag = "instances",
    params(("id" = String, Path, description = "The instance's id.")),
    responses((status = 200, description = "The instance, running as before.", body = InstanceView)),
)]
pub(super) async fn abort(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    headers: HeaderMap,
) -> Result<axum::Json<InstanceView>, Refusal> {
    let why = "Its platform called the move off.";
    change(&api, id, &headers, |instance| Ok(give_up_external_move(instance, instance.generation, why)?)).await
}

async fn change(
    api: &Api,
    id: InstanceId,
    headers: &HeaderMap,
    change: impl FnMut(&mut Instance) -> Result<(), Problem>,
) -> Result<axum::Json<InstanceView>, Refusal> {
    let instance = records::update_instance(&*api.store, id, change).await?;
    Ok(axum::Json(InstanceView::new(api, headers, instance)))
}
