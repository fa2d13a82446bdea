//! Moves of an instance to another node.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use landfast_core::lifecycle::{StepError, TargetError, begin_move, end_code};
use landfast_core::placement::{self, Candidate};
use landfast_core::record::{Generation, Instance, Node, Phase};
use landfast_core::{ErrorCode, InstanceId, NodeId, Problem};
use serde::Deserialize;
use utoipa::ToSchema;

use super::input::{Id, Json, Params};
use super::refusal::Refusal;
use super::view::InstanceView;
use super::{Api, nodes, wait};
use crate::records;

/// Where to.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = MoveTo)]
pub(super) struct Wish {
    /// The node's id or name; the best other node of the same host if not said.
    node: Option<String>,
}

/// Moves an instance to another node of the same host.
///
/// Its processes go on, and so do the sessions with them. With `wait` the answer comes once it has moved, or stays where
/// it is, or when the time is up.
#[utoipa::path(
    post, path = "/v1/instances/{id}/move", operation_id = "move_instance", tag = "instances",
    params(
        ("id" = String, Path, description = "The instance's id."),
        ("wait" = Option<u64>, Query, description = "Seconds to wait until it has moved; 60 at most."),
    ),
    request_body(content = Wish, description = "Where to."),
    responses(
        (status = 200, description = "It has moved.", body = InstanceView),
        (status = 202, description = "The move is under way.", body = InstanceView),
    ),
)]
pub(super) async fn begin(
    State(api): State<Arc<Api>>,
    Id(id): Id<InstanceId>,
    mut params: Params,
    headers: HeaderMap,
    Json(wish): Json<Wish>,
) -> Result<Response, Refusal> {
    let patience = params.wait()?;
    params.end()?;
    let (instance, _) = records::instance(&*api.store, id).await?.ok_or(ErrorCode::InstanceUnknown)?;
    if let Some(code) = end_code(instance.phase) {
        return Err(code.into());
    }
    if instance.spec.external.is_some() {
        return Err(Problem::from(StepError::Target(TargetError::External)).into());
    }
    let target = choose(&api, &instance, wish.node.as_deref()).await?;
    let moving = records::update_instance(&*api.store, id, |instance| Ok(begin_move(instance, &target)?)).await?;
    let (outcome, instance) = wait::until(&api, id, patience, |instance| outcome(instance, moving.generation)).await?;
    let status = match outcome {
        Some(Ok(())) => StatusCode::OK,
        None => StatusCode::ACCEPTED,
        Some(Err(problem)) => return Err(problem.into()),
    };
    Ok((status, axum::Json(InstanceView::new(&api, &headers, instance))).into_response())
}

/// Chooses among the nodes that the instance can move to.
async fn choose(api: &Api, instance: &Instance, wished: Option<&str>) -> Result<Node, Refusal> {
    let nodes = nodes::live(api).await?;
    let named = |node: &&Node| wished.is_none_or(|wished| node.name == wished || wished.parse() == Ok(node.id));
    let candidates: Vec<&Node> = nodes.iter().filter(named).collect();
    if wished.is_some() && candidates.is_empty() {
        return Err(ErrorCode::NodeUnknown.into());
    }
    let candidates = movable(instance, candidates, wished.is_some())?;
    let counts = nodes::counts(api).await?;
    let candidates =
        candidates.into_iter().map(|node| Candidate { node, running: count(&counts, node.id), drained: false });
    let chosen = placement::choose(candidates, instance.host.as_deref(), &instance.spec.node_labels);
    let chosen = chosen.map_err(|why| Problem::new(ErrorCode::MoveRefused, why.to_string()))?;
    Ok(chosen.clone())
}

/// The candidates that the instance's record allows. If it allows none, what speaks against the instance is told rather
/// than what speaks against nodes that nobody named.
fn movable<'a>(instance: &Instance, candidates: Vec<&'a Node>, is_named: bool) -> Result<Vec<&'a Node>, Problem> {
    let mut allowed = Vec::new();
    let mut refusal = StepError::Target(TargetError::SameNode);
    for node in candidates {
        match begin_move(&mut instance.clone(), node) {
            Ok(()) => allowed.push(node),
            Err(error) => refusal = error,
        }
    }
    match refusal {
        _ if !allowed.is_empty() => Ok(allowed),
        StepError::Target(_) if !is_named => {
            let why = "There is no other live node on the instance's host that takes new ones.";
            Err(Problem::new(ErrorCode::MoveRefused, why))
        }
        refusal => Err(refusal.into()),
    }
}

fn count(counts: &BTreeMap<NodeId, u32>, id: NodeId) -> u32 {
    counts.get(&id).copied().unwrap_or(0)
}

/// How the move ended, if it has: with the next generation elsewhere, or with the present one where it was.
fn outcome(instance: &Instance, before: Generation) -> Option<Result<(), Problem>> {
    if let Some(code) = end_code(instance.phase) {
        return Some(Err(Problem::new(code, instance.reason.clone().unwrap_or_default())));
    }
    match instance.phase {
        _ if instance.generation > before => Some(Ok(())),
        Phase::Running | Phase::Sleeping => {
            Some(Err(Problem::new(ErrorCode::MoveFailed, instance.reason.clone().unwrap_or_default())))
        }
        Phase::Pending | Phase::Starting | Phase::Moving => None,
        Phase::Stopped | Phase::Failed | Phase::Lost | Phase::Deleted => None,
    }
}
