//! Nodes: which are live, how much they run, and whether they are given more.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use landfast_core::record::{Drain, Node};
use landfast_core::{ErrorCode, NodeId};
use landfast_net::clock;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::input::{Id, PathId};
use super::refusal::Refusal;
use crate::records;
use crate::store::StoreError;

/// A live node.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Node)]
pub(super) struct NodeView {
    /// Its id.
    #[schema(value_type = String, example = "nod_06f4n6b8p0h2k4m6p8r0t2v4w6")]
    id: NodeId,
    /// Its name, unique in the cell.
    name: String,
    /// The machine it runs on. Instances move between nodes of one host.
    host: String,
    /// Where its relay is.
    address: String,
    /// The number of instances it is willing to run.
    capacity: u32,
    /// The number of instances it was given.
    instances: u32,
    /// The operator's labels.
    labels: BTreeMap<String, String>,
    /// Whether it takes nothing new.
    draining: bool,
    /// How instances are kept apart: `bubblewrap`, or `none: <why>`.
    isolation: String,
    /// Unix time in milliseconds at which it started.
    started_at: u64,
}

/// All live nodes.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NodeList)]
pub(super) struct Nodes {
    /// The nodes, oldest first.
    items: Vec<NodeView>,
}

/// Lists the live nodes.
#[utoipa::path(
    get, path = "/v1/nodes", operation_id = "list_nodes", tag = "nodes",
    responses((status = 200, description = "All of them.", body = Nodes)),
)]
pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<axum::Json<Nodes>, Refusal> {
    let (nodes, counts) = (live(&api).await?, counts(&api).await?);
    let view = |node: Node| NodeView {
        instances: counts.get(&node.id).copied().unwrap_or(0),
        id: node.id,
        name: node.name,
        host: node.host,
        address: node.address,
        capacity: node.capacity,
        labels: node.labels,
        draining: node.draining,
        isolation: node.isolation,
        started_at: node.started_at,
    };
    Ok(axum::Json(Nodes { items: nodes.into_iter().map(view).collect() }))
}

/// Gives a node nothing new from now on.
///
/// What it runs goes on. It stays so over its restarts, until it is taken back; saying it again changes nothing.
#[utoipa::path(
    put, path = "/v1/nodes/{node}/drain", operation_id = "drain_node", tag = "nodes",
    params(("node" = String, Path, description = "The node's id or name.")),
    responses((status = 204, description = "It is given nothing new.")),
)]
pub(super) async fn drain(State(api): State<Arc<Api>>, Id(Named(wished)): Id<Named>) -> Result<StatusCode, Refusal> {
    let node = named(&live(&api).await?, &wished).ok_or(ErrorCode::NodeUnknown)?;
    records::set_drain(&*api.store, node, Some(Drain { since: clock::unix_millis() })).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets a node be given instances again.
///
/// A node that is not live is found by its id.
#[utoipa::path(
    delete, path = "/v1/nodes/{node}/drain", operation_id = "undrain_node", tag = "nodes",
    params(("node" = String, Path, description = "The node's id or name.")),
    responses((status = 204, description = "It is given instances again.")),
)]
pub(super) async fn undrain(State(api): State<Arc<Api>>, Id(Named(wished)): Id<Named>) -> Result<StatusCode, Refusal> {
    let node = named(&live(&api).await?, &wished).or_else(|| wished.parse().ok()).ok_or(ErrorCode::NodeUnknown)?;
    records::set_drain(&*api.store, node, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A node's id or name.
pub(super) struct Named(String);

impl FromStr for Named {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl PathId for Named {
    const UNKNOWN: ErrorCode = ErrorCode::NodeUnknown;
}

/// The live node with this name or id.
fn named(live: &[Node], wished: &str) -> Option<NodeId> {
    let is_it = |node: &&Node| node.name == wished || wished.parse() == Ok(node.id);
    live.iter().find(is_it).map(|node| node.id)
}

/// All live nodes; those that an operator drains say that they are draining.
pub(super) async fn live(api: &Api) -> Result<Vec<Node>, StoreError> {
    let drained = records::drains(&*api.store).await?;
    let nodes = records::nodes(&*api.store).await?.into_iter();
    Ok(nodes.map(|(node, _)| Node { draining: node.draining || drained.contains(&node.id), ..node }).collect())
}

/// How many live instances each node was given.
pub(super) async fn counts(api: &Api) -> Result<BTreeMap<NodeId, u32>, StoreError> {
    let mut counts = BTreeMap::new();
    for (instance, _) in records::instances(&*api.store).await? {
        if let Some(node) = instance.node.filter(|_| !instance.phase.is_end()) {
            *counts.entry(node).or_default() += 1;
        }
    }
    Ok(counts)
}
