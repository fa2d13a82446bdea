//! Ids and addresses by number: a run must give the same ones each time.

use landfast_core::record::Node;
use landfast_core::{InstanceId, NodeId};

/// The capacity of a node: room for everything a run creates, twice.
const CAPACITY: u32 = 16;

pub(crate) const fn instance_id(number: usize) -> InstanceId {
    InstanceId::new(1, number as u128)
}

pub(crate) const fn node_id(number: usize) -> NodeId {
    NodeId::new(1, number as u128)
}

/// Nodes 0 and 1 share a host, 2 and 3 the next.
pub(crate) const fn host_of(node: usize) -> usize {
    node / 2
}

/// The record of a node whose daemon has been started for the `start`th time: its relay has a new port then.
pub(crate) fn node_record(node: usize, start: u64) -> Node {
    Node {
        id: node_id(node),
        name: format!("node-{node}"),
        host: format!("host-{}", host_of(node)),
        address: address(node, start),
        capacity: CAPACITY,
        labels: std::collections::BTreeMap::new(),
        draining: false,
        isolation: "none: a simulation".to_owned(),
        started_at: start,
    }
}

pub(crate) fn address(node: usize, start: u64) -> String {
    format!("{node}:{start}")
}

/// The node and the start of its daemon that an address leads to.
pub(crate) fn parse_address(address: &str) -> (usize, u64) {
    let (node, start) = address.split_once(':').expect("an address of ours");
    (node.parse().expect("a node's number"), start.parse().expect("a start's number"))
}
