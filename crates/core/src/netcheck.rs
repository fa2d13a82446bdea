//! Which leg of the way from a client to a process is broken, in words.
//!
//! A request passes a gateway, a node and an agent, and each of them leans on the registry. When something is wrong, what
//! an operator needs first is the leg. Each leg is judged by who stands at its near end and has just used it: the client
//! measures its gateways, a gateway its nodes, a node its agents. Durations are told, never times: nobody compares clocks.

use serde::{Deserialize, Serialize};

use crate::lease::TTL;
use crate::{ErrorCode, InstanceId, NodeId, Problem};

/// Milliseconds after which the way to a gateway is slow: an ocean and a handshake take half of it.
const GATEWAY_SLOW: f64 = 1000.0;

/// Milliseconds after which an API server is slow: it reads a few records.
const API_SLOW: f64 = 500.0;

/// Milliseconds after which the way to a node is slow: gateways and nodes are neighbours, and a busy machine takes a tenth.
const NODE_SLOW: f64 = 250.0;

/// A lease that is renewed every third of its time has more than a quarter left, unless the registry is slow.
const LEASE_SLOW_MILLIS: u64 = TTL.as_millis() as u64 / 4;

/// Agents that are named; the others are counted.
pub const NAMED_MAX: usize = 8;

/// How a leg is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It was used just now, and well.
    Ok,
    /// It works, and takes long.
    Slow,
    /// It does not work.
    Broken,
}

/// One leg, from its near end to its far end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Leg {
    /// Who has used it.
    pub from: String,
    /// Who was to answer.
    pub to: String,
    /// How it is.
    pub health: Health,
    /// How long the answer took, where one was measured.
    pub millis: Option<f64>,
    /// The row of the error table, if it is broken.
    pub code: Option<ErrorCode>,
    /// What was found.
    pub says: String,
    /// What to do, if anything.
    pub advice: String,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCondition {
    /// Which one answers.
    pub node: NodeId,
    /// For how many milliseconds more it may serve; nothing if its lease is over.
    pub lease_ms: u64,
}

/// What a node says of its agents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentsCondition {
    /// Instances that are served here, and whose agents have answered.
    pub answering: usize,
    /// Those whose agents have not.
    pub silent: usize,
    /// Some of these.
    pub named: Vec<InstanceId>,
    /// Those that could not be asked in time.
    pub not_asked: usize,
}

/// What one gateway has found, for whoever may see the nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatewayReport {
    /// For how many milliseconds the registry has not answered its watch.
    pub registry_silent_ms: u64,
    /// How long the registry took to answer a question.
    pub registry_ms: f64,
    /// Why it gave no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_failure: Option<String>,
    /// How long an API server took to say which nodes there are.
    pub api_ms: f64,
    /// Its nodes.
    pub nodes: Vec<NodeReport>,
    /// Nodes that were not asked, because there are so many.
    pub not_asked: usize,
}

/// What a gateway has found of one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Where its relay should be.
    pub address: String,
    /// How long its answer took.
    pub millis: f64,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// What it says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<NodeCondition>,
    /// What it says of its agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<AgentsCondition>,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The row of the error table.
    pub code: ErrorCode,
    /// What exactly happened.
    pub detail: String,
}

impl Leg {
    /// A leg that works; slow if its answer took longer than `slow_after` milliseconds.
    pub fn measured(
        from: impl Into<String>,
        to: impl Into<String>,
        millis: f64,
        slow_after: f64,
        says: impl Into<String>,
    ) -> Self {
        let is_slow = millis > slow_after;
        let says: String = says.into();
        Self {
            from: from.into(),
            to: to.into(),
            health: if is_slow { Health::Slow } else { Health::Ok },
            millis: Some(millis),
            code: None,
            says: if is_slow { format!("{says}, and took long") } else { says },
            advice: if is_slow {
                "Look at the network between them, and at the load of both.".to_owned()
            } else {
                String::new()
            },
        }
    }

    /// A leg that does not work.
    pub fn broken(from: impl Into<String>, to: impl Into<String>, problem: &Problem) -> Self {
        Self {
            from: from.into(),
            to: to.into(),
            health: Health::Broken,
            millis: None,
            code: Some(problem.code),
            says: problem.detail.clone(),
            advice: problem.code.advice().to_owned(),
        }
    }

    /// A leg of which nothing was measured but that it works, or works badly.
    fn told(from: &str, to: &str, health: Health, says: String, advice: &str) -> Self {
        let (from, to, advice) = (from.to_owned(), to.to_owned(), advice.to_owned());
        Self { from, to, health, millis: None, code: None, says, advice }
    }

    /// The way from a client to a gateway that has answered.
    pub fn to_gateway(gateway: &str, millis: f64) -> Self {
        Self::measured("client", gateway, millis, GATEWAY_SLOW, "answers")
    }

    /// How a gateway hears of changes: for how long the registry has not answered it.
    pub fn to_registry(gateway: &str, silent_ms: u64) -> Self {
        if silent_ms == 0 {
            return Self::told(gateway, "registry", Health::Ok, "its watch has not failed".to_owned(), "");
        }
        let seconds = silent_ms.div_ceil(1000);
        let detail = format!(
            "The registry has not answered this gateway for {seconds} s; it goes on with what it knew then, and hears of no \
             move or new instance."
        );
        Self::without_registry(gateway, detail)
    }

    fn without_registry(gateway: &str, detail: String) -> Self {
        let advice = "Look whether its store can be reached from the gateway: the file in its data directory, or etcd.";
        let problem = Problem::new(ErrorCode::RegistryUnavailable, detail);
        Self { advice: advice.to_owned(), ..Self::broken(gateway, "registry", &problem) }
    }
}

impl GatewayReport {
    /// The legs that this report is about. A node's own are told once, however many gateways have asked it; `known` are those
    /// that were told.
    pub fn legs(&self, gateway: &str, known: &mut Vec<NodeId>) -> Vec<Leg> {
        let mut legs = vec![self.registry(gateway), Leg::measured(gateway, "API", self.api_ms, API_SLOW, "answers")];
        if self.nodes.is_empty() {
            let detail = "No node is live: nothing can run, and what ran is lost or waits for its node.";
            let advice =
                "Start one with `landfast node`, or look at the logs of those that should be there.".to_owned();
            let problem = Problem::new(ErrorCode::NodeNoneFits, detail);
            legs.push(Leg { advice, ..Leg::broken(gateway, "nodes", &problem) });
        }
        for node in &self.nodes {
            legs.push(node.way(gateway));
            if node.condition.is_some() && !known.contains(&node.id) {
                known.push(node.id);
                legs.extend(node.own_legs());
            }
        }
        if self.not_asked > 0 {
            let says = format!("{} more nodes were not asked", self.not_asked);
            legs.push(Leg::told(gateway, "other nodes", Health::Ok, says, ""));
        }
        legs
    }
}

impl GatewayReport {
    fn registry(&self, gateway: &str) -> Leg {
        match &self.registry_failure {
            Some(failure) => {
                Leg::without_registry(gateway, format!("The registry did not answer a question: {failure}."))
            }
            None if self.registry_silent_ms > 0 => Leg::to_registry(gateway, self.registry_silent_ms),
            None => {
                Leg::measured(gateway, "registry", self.registry_ms, API_SLOW, "answers, and the watch has not failed")
            }
        }
    }
}

impl NodeReport {
    /// From the gateway to the node's relay.
    fn way(&self, gateway: &str) -> Leg {
        let to = format!("node {}", self.name);
        if let Some(Failure { code, detail }) = &self.failure {
            return Leg::broken(gateway, to, &Problem::new(*code, detail.clone()));
        }
        match &self.condition {
            Some(condition) if condition.node != self.id => {
                let detail =
                    format!("At {} another node answers, {}, and not {}.", self.address, condition.node, self.id);
                let advice = "Give each node an address of its own with `advertise`.".to_owned();
                Leg { advice, ..Leg::broken(gateway, to, &Problem::new(ErrorCode::NodeUnreachable, detail)) }
            }
            Some(_) | None => Leg::measured(gateway, to, self.millis, NODE_SLOW, "its relay answers"),
        }
    }

    /// What the node has said of its own legs.
    fn own_legs(&self) -> Vec<Leg> {
        let from = format!("node {}", self.name);
        let lease = self.condition.as_ref().map(|condition| lease_leg(&from, condition.lease_ms));
        let agents = self.agents.as_ref().map(|agents| agents_leg(&from, agents));
        lease.into_iter().chain(agents).collect()
    }
}

fn lease_leg(from: &str, left: u64) -> Leg {
    let seconds = left as f64 / 1000.0;
    if left == 0 {
        let detail = "The node could not renew its lease in time. It carries nothing until it has one again, and its \
                      instances may be given to others.";
        let advice = "Look whether its store can be reached from the node, and at the node's log.".to_owned();
        return Leg { advice, ..Leg::broken(from, "registry", &Problem::new(ErrorCode::StoreLeaseLapsed, detail)) };
    }
    if left < LEASE_SLOW_MILLIS {
        let says = format!("its lease has {seconds:.1} s left, and was not renewed when it should have been");
        let advice = "Look whether its store can be reached from the node, and how fast it writes.";
        return Leg::told(from, "registry", Health::Slow, says, advice);
    }
    Leg::told(from, "registry", Health::Ok, format!("its lease has {seconds:.1} s left"), "")
}

fn agents_leg(from: &str, agents: &AgentsCondition) -> Leg {
    let AgentsCondition { answering, silent, named, not_asked } = agents;
    let rest = if *not_asked == 0 { String::new() } else { format!(", {not_asked} were not asked in time") };
    if answering + silent + not_asked == 0 {
        return Leg::told(from, "agents", Health::Ok, "it serves no instance".to_owned(), "");
    }
    if *silent == 0 {
        return Leg::told(from, "agents", Health::Ok, format!("{answering} answer{rest}"), "");
    }
    let named: Vec<_> = named.iter().map(ToString::to_string).collect();
    let more = if named.len() < *silent { ", …" } else { "" };
    let detail = format!("Of {} agents {silent} do not answer: {}{more}{rest}.", answering + silent, named.join(", "));
    Leg::broken(from, "agents", &Problem::new(ErrorCode::AgentSilent, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(change: impl FnOnce(&mut NodeReport)) -> NodeReport {
        let id = NodeId::new(1, 1);
        let mut report = NodeReport {
            id,
            name: "a".to_owned(),
            address: "10.0.0.7:1".to_owned(),
            millis: 1.0,
            failure: None,
            condition: Some(NodeCondition { node: id, lease_ms: 6000 }),
            agents: Some(AgentsCondition { answering: 3, ..AgentsCondition::default() }),
        };
        change(&mut report);
        report
    }

    fn report(nodes: Vec<NodeReport>) -> GatewayReport {
        GatewayReport {
            registry_silent_ms: 0,
            registry_ms: 1.0,
            registry_failure: None,
            api_ms: 2.0,
            nodes,
            not_asked: 0,
        }
    }

    /// The legs that are not well, by their ends.
    fn unwell(nodes: Vec<NodeReport>) -> Vec<(String, Health, Option<ErrorCode>)> {
        let legs = report(nodes).legs("g", &mut Vec::new());
        let unwell = legs.into_iter().filter(|leg| leg.health != Health::Ok);
        unwell
            .map(|leg| {
                assert!(!leg.says.is_empty() && !leg.advice.is_empty(), "{leg:?}");
                (format!("{} → {}", leg.from, leg.to), leg.health, leg.code)
            })
            .collect()
    }

    #[test]
    fn a_cell_that_is_well_has_a_line_for_each_leg() {
        let legs = report(vec![node(|_| {})]).legs("g", &mut Vec::new());
        let ends: Vec<_> = legs.iter().map(|leg| format!("{} → {}", leg.from, leg.to)).collect();
        assert_eq!(ends, ["g → registry", "g → API", "g → node a", "node a → registry", "node a → agents"]);
        assert!(legs.iter().all(|leg| leg.health == Health::Ok));
    }

    #[test]
    fn each_leg_that_is_broken_is_named_and_no_other() {
        let broken = |ends: &str, code| vec![(ends.to_owned(), Health::Broken, Some(code))];
        let away = node(|node| {
            let detail = "nothing listens".to_owned();
            node.failure = Some(Failure { code: ErrorCode::NodeUnreachable, detail });
            (node.condition, node.agents) = (None, None);
        });
        assert_eq!(unwell(vec![away]), broken("g → node a", ErrorCode::NodeUnreachable));
        let other = node(|node| node.condition.as_mut().unwrap().node = NodeId::new(2, 2));
        assert_eq!(unwell(vec![other]), broken("g → node a", ErrorCode::NodeUnreachable));
        let lapsed = node(|node| node.condition.as_mut().unwrap().lease_ms = 0);
        assert_eq!(unwell(vec![lapsed]), broken("node a → registry", ErrorCode::StoreLeaseLapsed));
        let silent = node(|node| {
            let named = vec![InstanceId::new(1, 1)];
            node.agents = Some(AgentsCondition { answering: 2, silent: 2, named, not_asked: 0 });
        });
        assert_eq!(unwell(vec![silent]), broken("node a → agents", ErrorCode::AgentSilent));
        assert_eq!(unwell(vec![]), broken("g → nodes", ErrorCode::NodeNoneFits));
    }

    #[test]
    fn what_takes_long_is_slow_and_not_broken() {
        let slow = |ends: &str| vec![(ends.to_owned(), Health::Slow, None)];
        assert_eq!(unwell(vec![node(|node| node.millis = 251.0)]), slow("g → node a"));
        let late = node(|node| node.condition.as_mut().unwrap().lease_ms = 1);
        assert_eq!(unwell(vec![late]), slow("node a → registry"));
    }

    #[test]
    fn what_a_node_says_of_itself_is_told_once_for_all_gateways() {
        let (report, mut known) = (report(vec![node(|_| {})]), Vec::new());
        assert_eq!(report.legs("g", &mut known).len(), 5);
        assert_eq!(report.legs("h", &mut known).len(), 3);
    }

    #[test]
    fn a_gateway_that_hears_nothing_says_for_how_long() {
        let leg = Leg::to_registry("g", 11_001);
        assert_eq!((leg.health, leg.code), (Health::Broken, Some(ErrorCode::RegistryUnavailable)));
        assert!(leg.says.contains("for 12 s"), "{}", leg.says);
        assert_eq!(Leg::to_registry("g", 0).health, Health::Ok);
        let deaf = GatewayReport { registry_failure: Some("no answer within 3s".to_owned()), ..report(vec![]) };
        assert_eq!(deaf.legs("g", &mut Vec::new())[0].code, Some(ErrorCode::RegistryUnavailable));
    }
}
