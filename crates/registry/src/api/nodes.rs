//! Nodes: which are live, and how much they run.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use landfast_core::NodeId;
use landfast_core::record::Node;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
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

/// All live nodes.
pub(super) async fn live(api: &Api) -> Result<Vec<Node>, StoreError> {
    Ok(records::nodes(&*api.store).await?.into_iter().map(|(node, _)| node).collect())
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
