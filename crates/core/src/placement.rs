//! Which node gets an instance: the one with the fewest instances for its capacity, among those that can take it.
//!
//! Two API servers may place at the same moment, so the choice is a function of what both see, down to the tie: the
//! lower id wins. Only one of their writes succeeds.

use std::collections::BTreeMap;
use std::fmt;

use crate::record::Node;
use crate::{ErrorCode, Problem};

/// Why no node can take an instance: the furthest any of them came through the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoneFits {
    /// No node is live.
    NoNode,
    /// No live node is on the host that has the instance's files.
    Host,
    /// No live node carries the labels.
    Labels,
    /// Every node that carries them is draining.
    Draining,
    /// Every node that is left runs as many instances as it is willing to.
    Full,
}

impl fmt::Display for NoneFits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoNode => "No node is live.",
            Self::Host => "No live node is on the host that has the instance's files.",
            Self::Labels => "No live node carries the labels that the instance asks for.",
            Self::Draining => "Every live node with fitting labels is draining.",
            Self::Full => "Every live node with fitting labels is full.",
        })
    }
}

impl std::error::Error for NoneFits {}

impl From<NoneFits> for Problem {
    fn from(why: NoneFits) -> Self {
        Self::new(ErrorCode::NodeNoneFits, why.to_string())
    }
}

/// A live node, and what its own record does not say.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The node.
    pub node: &'a Node,
    /// How many instances it has been given already.
    pub running: u32,
    /// Whether an operator drains it.
    pub drained: bool,
}

/// Chooses among live nodes, of this host if one is named.
///
/// # Errors
///
/// [`NoneFits`], with the reason that came closest.
pub fn choose<'a>(
    candidates: impl IntoIterator<Item = Candidate<'a>>,
    host: Option<&str>,
    labels: &BTreeMap<String, String>,
) -> Result<&'a Node, NoneFits> {
    let mut best: Option<Candidate> = None;
    let mut why = NoneFits::NoNode;
    for candidate in candidates {
        match fits(candidate, host, labels) {
            Ok(()) if best.is_none_or(|best| is_before(candidate, best)) => best = Some(candidate),
            Ok(()) => {}
            Err(refusal) => why = why.max(refusal),
        }
    }
    best.map(|best| best.node).ok_or(why)
}

fn fits(candidate: Candidate, host: Option<&str>, labels: &BTreeMap<String, String>) -> Result<(), NoneFits> {
    let Candidate { node, running, drained } = candidate;
    if host.is_some_and(|host| node.host != host) {
        Err(NoneFits::Host)
    } else if labels.iter().any(|(name, value)| node.labels.get(name) != Some(value)) {
        Err(NoneFits::Labels)
    } else if node.draining || drained {
        Err(NoneFits::Draining)
    } else if running >= node.capacity {
        Err(NoneFits::Full)
    } else {
        Ok(())
    }
}

/// Compares the shares `running / capacity` without dividing; neither capacity is zero here.
fn is_before(a: Candidate, b: Candidate) -> bool {
    let share_a = u64::from(a.running) * u64::from(b.node.capacity);
    let share_b = u64::from(b.running) * u64::from(a.node.capacity);
    (share_a, a.node.id) < (share_b, b.node.id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::NodeId;

    /// Chooses among nodes of any host that nobody drains.
    fn choose_of<'a>(
        nodes: impl IntoIterator<Item = &'a Node>,
        labels: &BTreeMap<String, String>,
        running: impl Fn(NodeId) -> u32,
    ) -> Result<&'a Node, NoneFits> {
        let candidate = |node: &'a Node| Candidate { node, running: running(node.id), drained: false };
        choose(nodes.into_iter().map(candidate), None, labels)
    }

    fn node(number: u128, capacity: u32) -> Node {
        Node {
            id: NodeId::new(1, number),
            name: format!("n{number}"),
            host: "h".to_owned(),
            address: "10.0.0.1:1".to_owned(),
            capacity,
            labels: BTreeMap::new(),
            draining: false,
            isolation: "bubblewrap".to_owned(),
            started_at: 0,
        }
    }

    fn labels(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn the_node_with_the_smallest_share_is_chosen() {
        let nodes = [node(1, 10), node(2, 100)];
        let running = |id| if id == nodes[0].id { 2 } else { 15 };
        assert_eq!(choose_of(&nodes, &BTreeMap::new(), running).unwrap().id, nodes[1].id);
    }

    #[test]
    fn a_tie_goes_to_the_lower_id_in_whatever_order_they_come() {
        let nodes = [node(3, 10), node(1, 20), node(2, 10)];
        assert_eq!(choose_of(&nodes, &BTreeMap::new(), |_| 0).unwrap().id, nodes[1].id);
        assert_eq!(choose_of(nodes.iter().rev(), &BTreeMap::new(), |_| 0).unwrap().id, nodes[1].id);
    }

    #[test]
    fn a_refusal_says_what_came_closest() {
        let zone = |value| labels("zone", value);
        let labelled = Node { labels: zone("a"), ..node(1, 1) };
        let draining = Node { draining: true, ..labelled.clone() };
        let none: [Node; 0] = [];
        assert_eq!(choose_of(&none, &zone("a"), |_| 0).unwrap_err(), NoneFits::NoNode);
        assert_eq!(choose_of(&[node(1, 1)], &zone("a"), |_| 0).unwrap_err(), NoneFits::Labels);
        assert_eq!(choose_of(&[node(2, 1), draining.clone()], &zone("a"), |_| 0).unwrap_err(), NoneFits::Draining);
        assert_eq!(choose_of(&[draining, labelled], &zone("a"), |_| 1).unwrap_err(), NoneFits::Full);
        assert_eq!(choose_of(&[node(1, 0)], &BTreeMap::new(), |_| 0).unwrap_err(), NoneFits::Full);
        assert_eq!(Problem::from(NoneFits::Full).code, ErrorCode::NodeNoneFits);
    }

    #[test]
    fn only_nodes_of_the_named_host_that_nobody_drains_are_chosen() {
        let (here, drained) = (node(1, 1), node(2, 1));
        let there = Node { host: "there".to_owned(), ..node(3, 1) };
        let chosen = |host| {
            let candidates =
                [&here, &drained, &there].map(|node| Candidate { node, running: 0, drained: node.id == drained.id });
            choose(candidates, host, &BTreeMap::new()).map(|node| node.id)
        };
        assert_eq!((chosen(Some("h")), chosen(Some("there"))), (Ok(here.id), Ok(there.id)));
        assert_eq!(chosen(Some("nowhere")), Err(NoneFits::Host));
        let candidate = Candidate { node: &here, running: 0, drained: true };
        assert_eq!(choose([candidate], None, &BTreeMap::new()), Err(NoneFits::Draining));
    }

    proptest! {
        #[test]
        fn instances_placed_one_by_one_fill_all_nodes_evenly_and_none_beyond_its_capacity(
            capacities in proptest::collection::vec(1u32..20, 1..6),
            count in 0usize..120,
        ) {
            let nodes: Vec<Node> = (0..).zip(&capacities).map(|(number, &capacity)| node(number, capacity)).collect();
            let mut running: BTreeMap<NodeId, u32> = nodes.iter().map(|node| (node.id, 0)).collect();
            for _ in 0..count {
                let Ok(node) = choose_of(&nodes, &BTreeMap::new(), |id| running[&id]) else { break };
                *running.get_mut(&node.id).unwrap() += 1;
            }
            let placed: u32 = running.values().sum();
            prop_assert_eq!(placed, capacities.iter().sum::<u32>().min(count as u32));
            // A node is ahead of another by at most the one instance it was given last.
            for a in &nodes {
                for b in &nodes {
                    let ahead = f64::from(running[&a.id].saturating_sub(1)) / f64::from(a.capacity);
                    prop_assert!(ahead <= f64::from(running[&b.id]) / f64::from(b.capacity) + 1e-9);
                }
            }
        }
    }
}
