//! A generation never decreases; at most one node serves an instance; an older generation is refused before a byte
//! reaches the process.

use std::collections::{HashMap, HashSet};

use landfast_core::InstanceId;
use landfast_core::record::{Generation, Phase};

use crate::check::{Checker, Invariant, Violation};
use crate::clock::{SECOND, Time};
use crate::fact::Fact;

/// Who owns each instance, and what gateways have believed.
#[derive(Debug, Default)]
pub(super) struct Owners {
    records: HashMap<InstanceId, Record>,
    routed: HashMap<(usize, InstanceId), Generation>,
    /// The nodes whose leases lapsed while the store was away, and until when it was.
    lapsed: HashMap<usize, Time>,
    away_until: Time,
    /// Those who had their leases while it was, so that the keeper may not have missed them for the first time when they lapsed.
    unheard: HashSet<usize>,
}

/// A lease of ten seconds by the fastest clock: so long is waited for nodes that the store kept from renewing.
const A_LEASE: Time = 9 * SECOND;

#[derive(Clone, Copy, Debug)]
struct Record {
    phase: Phase,
    generation: Generation,
    node: Option<usize>,
    /// Nobody else can be given it, so its node serves it until it hears of an end.
    is_bound: bool,
}

impl Owners {
    fn record(&mut self, id: InstanceId, record: Record) -> Result<(), String> {
        match self.records.insert(id, record) {
            Some(before) if before.generation > record.generation => {
                Err(format!("{id}: generation {} was followed by {}", before.generation, record.generation))
            }
            Some(before) if record.node.is_some() && before.node != record.node => {
                let grew = record.generation > before.generation;
                if grew {
                    Ok(())
                } else {
                    Err(format!("{id}: a new owner, but still generation {}", record.generation))
                }
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A node whose lease lapsed because nobody could renew is not blamed before it could come back.
    fn blame(&self, at: Time, id: InstanceId, phase: Phase, node: Option<usize>) -> Result<(), String> {
        let Some((node, back)) = node.and_then(|node| Some((node, *self.lapsed.get(&node)?))) else {
            return Ok(());
        };
        if phase == Phase::Lost && at >= back && at < back + A_LEASE {
            return Err(format!("{id}: lost, and node {node} could not renew until {} s", back / SECOND));
        }
        Ok(())
    }

    fn serve(&self, id: InstanceId, node: usize, generation: Generation) -> Result<(), String> {
        let Some(record) = self.records.get(&id) else {
            return Err(format!("{id}: node {node} serves what never was"));
        };
        let is_served = match record.phase {
            Phase::Running | Phase::Moving => true,
            Phase::Stopped | Phase::Lost | Phase::Deleted => record.is_bound,
            Phase::Pending | Phase::Starting | Phase::Sleeping | Phase::Failed => false,
        };
        if is_served && record.node == Some(node) && record.generation == generation {
            return Ok(());
        }
        Err(format!("{id}: node {node} serves generation {generation}; by the record it is {record:?}"))
    }

    fn route(&mut self, gateway: usize, id: InstanceId, generation: Generation) -> Result<(), String> {
        match self.routed.insert((gateway, id), generation) {
            Some(before) if before > generation => {
                Err(format!("{id}: gateway {gateway} went back from generation {before} to {generation}"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Checker for Owners {
    fn observe(&mut self, at: Time, fact: Fact<'_>) -> Result<(), Violation> {
        let outcome = match fact {
            Fact::Recorded { instance, phase, generation, node, is_bound } => {
                let blamed = self.blame(at, instance, phase, node);
                self.record(instance, Record { phase, generation, node, is_bound }).and(blamed)
            }
            Fact::Ended { instance, node, known, life } if life > known => {
                Err(format!("{instance}: node {node} knew of generation {known} and ended generation {life}"))
            }
            Fact::Away { until } => {
                self.away_until = until;
                self.lapsed.values_mut().filter(|back| **back > at).for_each(|back| *back = until);
                Ok(())
            }
            Fact::Lapsed { node } if !self.unheard.contains(&node) => {
                self.lapsed.insert(node, self.away_until);
                Ok(())
            }
            Fact::Leased { node } => {
                self.lapsed.remove(&node);
                if at < self.away_until {
                    self.unheard.insert(node);
                } else {
                    self.unheard.remove(&node);
                }
                Ok(())
            }
            Fact::Served { instance, node, generation } => self.serve(instance, node, generation),
            Fact::Routed { gateway, instance, generation } => self.route(gateway, instance, generation),
            Fact::GatewayDied { gateway } | Fact::Draining { gateway } => {
                self.routed.retain(|(of, _), _| *of != gateway);
                Ok(())
            }
            _ => Ok(()),
        };
        outcome.map_err(|what| Violation { invariant: Invariant::Owners, at, what })
    }
}
