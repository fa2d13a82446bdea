//! What runs on the hosts: the agents' processes, which outlive the node daemons.

use std::collections::HashMap;

use landfast_core::InstanceId;
use landfast_core::record::Generation;

use crate::Sabotage;
use crate::agent::Agent;
use crate::clock::Clock;
use crate::fact::Fact;
use crate::names::host_of;
use crate::stage::{Event, Stage, Who};

/// The process tables of all hosts.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    pub(crate) agents: Vec<Agent>,
    /// The clock of each host.
    clocks: Vec<Clock>,
    /// The processes that are to run in the first life of an instance: for which client, and how much each says.
    pub(crate) wanted: Vec<(InstanceId, usize, u64)>,
    begun: Vec<InstanceId>,
    /// What was stopped to sleep, as the daemons of each host have noted it before they did.
    put_to_sleep: HashMap<(usize, InstanceId), Generation>,
}

impl Hosts {
    pub(crate) fn new(clocks: Vec<Clock>) -> Self {
        Self { clocks, ..Self::default() }
    }

    /// The instance's agent on a host, if it lives.
    pub(crate) fn agent(&mut self, host: usize, instance: InstanceId) -> Option<(usize, &mut Agent)> {
        let is_it = |agent: &Agent| agent.alive && agent.host == host && agent.instance == instance;
        self.agents.iter_mut().enumerate().find(|(_, agent)| is_it(agent))
    }

    /// Starts an agent.
    pub(crate) fn spawn(&mut self, stage: &mut Stage, host: usize, instance: InstanceId, generation: Generation) {
        let me = self.agents.len();
        self.agents.push(Agent::new(me, instance, host, generation, self.clocks[host], stage));
    }

    /// An instance runs: when it does for the first time, its users begin their processes. What ran in one life is lost
    /// with it.
    pub(crate) fn begin(&mut self, stage: &mut Stage, host: usize, instance: InstanceId) {
        if self.begun.contains(&instance) {
            return;
        }
        self.begun.push(instance);
        let wanted: Vec<_> = self.wanted.iter().filter(|(id, ..)| *id == instance).map(|&(_, c, n)| (c, n)).collect();
        if let Some((_, agent)) = self.agent(host, instance) {
            agent.begin(stage, &wanted);
        }
    }

    /// A node kills an instance's agent on its host, by what it knows of up to a generation. An agent of a later life is left
    /// alone: another node's, of whose being given it this one has not heard. Says whether there is none of a later life.
    pub(crate) fn kill(&mut self, stage: &mut Stage, node: usize, instance: InstanceId, known: Generation) -> bool {
        let is_reckless = stage.config.sabotage == Some(Sabotage::EndLaterLives);
        let Some((_, agent)) = self.agent(host_of(node), instance) else { return true };
        if agent.born > known && !is_reckless {
            return false;
        }
        stage.note(Fact::Ended { instance, node, known, life: agent.born });
        agent.kill(stage);
        true
    }

    /// A node kills an instance's agent on its host because its lease is over. One that was given a later generation than the
    /// node knows of is another node's by now: it has given it away, and was not told that it had.
    pub(crate) fn kill_unleased(&mut self, stage: &mut Stage, node: usize, instance: InstanceId, known: Generation) {
        let is_reckless = stage.config.sabotage == Some(Sabotage::EndWhatWasGivenAway);
        let Some((_, agent)) = self.agent(host_of(node), instance) else { return };
        if agent.generation <= known || is_reckless {
            stage.note(Fact::Ended { instance, node, known, life: agent.generation });
            agent.kill(stage);
        }
    }

    /// A node kills an instance's agent on its host because it is to sleep, and notes that first.
    pub(crate) fn put_to_sleep(&mut self, stage: &mut Stage, node: usize, instance: InstanceId, known: Generation) {
        self.put_to_sleep.insert((host_of(node), instance), known);
        self.kill(stage, node, instance, known);
    }

    /// Whether an instance was put to sleep in this generation.
    pub(crate) fn was_put_to_sleep(&self, host: usize, instance: InstanceId, generation: Generation) -> bool {
        self.put_to_sleep.get(&(host, instance)) == Some(&generation)
    }

    /// An agent dies by itself; the node daemons of its host hear of it.
    pub(crate) fn crash(&mut self, stage: &mut Stage, agent: usize, daemons: &[usize]) {
        let agent = &mut self.agents[agent];
        agent.kill(stage);
        for &node in daemons {
            stage.post(stage.now, Who::Node(node), Event::AgentDied);
        }
    }
}
