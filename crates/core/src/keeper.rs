//! What the registry's keeper does by itself: place what is pending or was woken, call lost what nobody holds, bring back
//! what shall come back, finish what nobody else can finish, and sweep the records of what ended long ago.
//!
//! It acts on what it has seen of the store, which may be old, and there may be several keepers. So each of its steps
//! is a proposal: it names the generation it is meant for, goes through [`crate::lifecycle`] on the record as it is by
//! then, and is decided anew if it was refused or nothing came of it. A few steps are under way at a time, so that a
//! cell that starts with ten thousand records does not write them all at once.
//!
//! The keeper never judges a node itself: a node is live while its record is there, which the store removes when the
//! node's lease lapses. What the keeper has seen of nodes may be older than what it has seen of instances, and a new
//! generation is a sign of life: it calls an instance lost only when it has known the generation for one lease time. So
//! a keeper that has just started waits that long, and a cell that was off as a whole comes back whole. And because
//! news may be late by any time, whoever takes the step looks for the node's record once more; see
//! [`StepKind::absent_node`].

mod step;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

pub use step::{Applied, Step, StepKind};

use self::step::is_old;
use crate::placement::{self, Candidate};
use crate::record::{Desired, Generation, Instance, Node, Phase, Restart};
use crate::time::{Instant, earliest};
use crate::{InstanceId, NodeId, lease};

/// How many steps are under way at a time: enough to keep a store busy, few enough not to flood it.
pub const STEPS_AT_ONCE: usize = 64;

/// A step of which nothing was heard is decided anew after this long: longer than a slow write and its way back.
pub const STEP_WITHIN: Duration = Duration::from_secs(5);

/// A step that was refused, or an instance that fits nowhere, is looked at again after this long.
pub const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The wait before an instance that ended is placed again; doubles with each end in a row.
pub const RESTART_AFTER: Duration = Duration::from_secs(1);

/// The longest such wait. An instance that ran for as long as this begins at [`RESTART_AFTER`] again.
pub const RESTART_AFTER_MOST: Duration = Duration::from_secs(60);

/// The record of an end is kept this long, so that "gone" can be told from "never was".
pub const TOMBSTONE_KEPT: Duration = Duration::from_secs(24 * 3600);

/// An instance that has waited this long for a node is told why. What is placed sooner needs no word.
pub const EXPLAIN_AFTER: Duration = Duration::from_secs(1);

/// Another word on the same wait comes no sooner: two keepers whose news differ would take turns for ever.
const EXPLAIN_EVERY: Duration = Duration::from_secs(10);

/// The move of an external instance of which its platform says nothing more is given up after this long: a machine's
/// memory of many gigabytes is carried over in less, and nobody waits longer for an answer.
pub const EXTERNAL_MOVE_WITHIN: Duration = Duration::from_secs(600);

/// How often the age of a tombstone is looked at: wall clocks may be set, so the time left is not trusted for long.
const TOMBSTONE_LOOK_EVERY: Duration = Duration::from_secs(3600);

/// The keeper's view of the cell, and what it has under way.
#[derive(Debug)]
pub struct Keeper {
    up_since: Instant,
    /// Since when it sees the registry: before that, maybe nobody could renew anything.
    in_touch_since: Instant,
    nodes: BTreeMap<NodeId, Node>,
    /// The nodes that an operator drains, live or not; until they are known nothing is placed.
    drained: Option<BTreeSet<NodeId>>,
    instances: HashMap<InstanceId, Seen>,
    /// What each node has been given; a node is here as long as that is anything.
    given: HashMap<NodeId, Given>,
    /// When each instance wants to be looked at.
    due: BTreeSet<(Instant, InstanceId)>,
    /// Until when something should be heard of each step.
    under_way: BTreeSet<(Instant, InstanceId)>,
}

/// What the keeper needs of a record.
#[derive(Debug)]
struct Seen {
    phase: Phase,
    desired: Desired,
    generation: Generation,
    /// When this generation was first seen.
    since: Instant,
    /// When it was first seen in this phase in this generation.
    phase_since: Instant,
    /// Where it must be placed, if that is said.
    host: Option<String>,
    /// What its record says of why it waits for a node.
    waits_for: Option<String>,
    /// When that was last to be written.
    explained_at: Option<Instant>,
    is_external: bool,
    node: Option<NodeId>,
    /// The node that is to have it next: the target of a move, or of our own step.
    next_node: Option<NodeId>,
    restart: Restart,
    node_labels: BTreeMap<String, String>,
    ended_at: Option<u64>,
    turn: Turn,
    backoff: Backoff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nothing to do until it changes.
    Quiet,
    Due(Instant),
    UnderWay(Instant),
}

/// How often in a row it ended, and since when it runs.
#[derive(Clone, Copy, Debug, Default)]
struct Backoff {
    ends_in_a_row: u32,
    has_ended: bool,
    running_since: Option<Instant>,
    again_at: Instant,
}

#[derive(Clone, Copy, Debug, Default)]
struct Given {
    count: u32,
    /// Since when it is known not to be live.
    gone_since: Option<Instant>,
}

enum Decision {
    Do(StepKind),
    LookAt(Instant),
    Nothing,
}

impl Keeper {
    /// A keeper that has seen nothing yet.
    pub fn new(now: Instant) -> Self {
        Self {
            up_since: now,
            in_touch_since: now,
            nodes: BTreeMap::new(),
            drained: None,
            instances: HashMap::new(),
            given: HashMap::new(),
            due: BTreeSet::new(),
            under_way: BTreeSet::new(),
        }
    }

    /// The registry answers again. If it was away for all, leases may have lapsed that their nodes could not renew: each has
    /// the time of a lease to come back before it is called lost.
    pub const fn handle_in_touch(&mut self, now: Instant) {
        self.in_touch_since = now;
    }

    /// A whole listing of the live nodes.
    pub fn handle_nodes(&mut self, nodes: impl IntoIterator<Item = Node>, now: Instant) {
        let listed: BTreeMap<_, _> = nodes.into_iter().map(|node| (node.id, node)).collect();
        let gone: Vec<_> = self.nodes.keys().filter(|id| !listed.contains_key(id)).copied().collect();
        gone.into_iter().for_each(|id| self.handle_node(id, None, now));
        listed.into_iter().for_each(|(id, node)| self.handle_node(id, Some(node), now));
    }

    /// A node's record has changed, or was removed because its lease lapsed.
    pub fn handle_node(&mut self, id: NodeId, node: Option<Node>, now: Instant) {
        if let Some(given) = self.given.get_mut(&id) {
            given.gone_since = node.is_none().then_some(now);
        }
        match node {
            Some(node) => self.nodes.insert(id, node),
            None => self.nodes.remove(&id),
        };
        self.look_at(|seen| seen.waits() || seen.node == Some(id), now);
    }

    /// A whole listing of the nodes that an operator drains.
    pub fn handle_drains(&mut self, drained: BTreeSet<NodeId>, now: Instant) {
        if self.drained.as_ref() != Some(&drained) {
            self.drained = Some(drained);
            self.look_at(Seen::waits, now);
        }
    }

    /// An operator drains a node, or does so no more.
    pub fn handle_drain(&mut self, id: NodeId, is_drained: bool, now: Instant) {
        let Some(drained) = &mut self.drained else { return };
        if is_drained {
            drained.insert(id);
        } else {
            drained.remove(&id);
        }
        self.look_at(Seen::waits, now);
    }

    fn look_at(&mut self, concerned: impl Fn(&Seen) -> bool, now: Instant) {
        let ids: Vec<_> = self.instances.iter().filter(|(_, seen)| concerned(seen)).map(|(id, _)| *id).collect();
        for id in ids {
            if !matches!(self.instances[&id].turn, Turn::UnderWay(_)) {
                self.set_turn(id, Turn::Due(now));
            }
        }
    }

    /// A whole listing of the instances.
    pub fn handle_instances<'a>(&mut self, instances: impl IntoIterator<Item = &'a Instance>, now: Instant) {
        let listed: HashMap<_, _> = instances.into_iter().map(|instance| (instance.id, instance)).collect();
        let gone: Vec<_> = self.instances.keys().filter(|id| !listed.contains_key(id)).copied().collect();
        gone.into_iter().for_each(|id| self.handle_instance(id, None, now));
        listed.into_iter().for_each(|(id, instance)| self.handle_instance(id, Some(instance), now));
    }

    /// An instance's record has changed, or was removed.
    pub fn handle_instance(&mut self, id: InstanceId, instance: Option<&Instance>, now: Instant) {
        self.set_turn(id, Turn::Quiet);
        let before = self.instances.remove(&id);
        for node in before.iter().flat_map(Seen::holders) {
            self.take_back(node);
        }
        let Some(instance) = instance else { return };
        let mut seen = Seen::of(instance, now);
        if let Some(before) = before.as_ref().filter(|before| before.generation == seen.generation) {
            seen.since = before.since;
            if before.phase == seen.phase {
                (seen.phase_since, seen.explained_at) = (before.phase_since, before.explained_at);
            }
        }
        seen.backoff = before.map(|before| before.backoff).unwrap_or_default();
        seen.backoff.handle_phase(instance.phase, now);
        for node in seen.holders() {
            self.give(node);
        }
        self.instances.insert(id, seen);
        self.set_turn(id, Turn::Due(now));
    }

    /// A step was refused or could not be written.
    pub fn handle_refused(&mut self, id: InstanceId, now: Instant) {
        if self.instances.get(&id).is_some_and(|seen| matches!(seen.turn, Turn::UnderWay(_))) {
            self.withdraw(id);
            self.set_turn(id, Turn::Due(now + LOOK_AGAIN_AFTER));
        }
    }

    /// The next step to try. Call until it returns `None`; `unix_millis` is the wall clock, for the ages of tombstones.
    pub fn poll(&mut self, now: Instant, unix_millis: u64) -> Option<Step> {
        while let Some(&(until, id)) = self.under_way.first()
            && now >= until
        {
            self.withdraw(id);
            self.set_turn(id, Turn::Due(now));
        }
        while self.under_way.len() < STEPS_AT_ONCE
            && let Some(&(at, id)) = self.due.first()
            && now >= at
        {
            match self.decide(&self.instances[&id], now, unix_millis) {
                Decision::Do(kind) => {
                    self.begin(id, &kind, now);
                    return Some(Step { instance: id, kind });
                }
                Decision::LookAt(at) => self.set_turn(id, Turn::Due(at)),
                Decision::Nothing => self.set_turn(id, Turn::Quiet),
            }
        }
        None
    }

    /// When [`Self::poll`] wants to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let due = self.due.first().map(|&(at, _)| at).filter(|_| self.under_way.len() < STEPS_AT_ONCE);
        earliest(due, self.under_way.first().map(|&(until, _)| until))
    }

    fn decide(&self, seen: &Seen, now: Instant, unix_millis: u64) -> Decision {
        let generation = seen.generation;
        match (seen.phase, seen.desired) {
            (Phase::Pending | Phase::Sleeping, Desired::Running) => self.decide_place(seen, now),
            (Phase::Pending | Phase::Sleeping, Desired::Sleeping) => Decision::Nothing,
            (Phase::Pending | Phase::Sleeping, Desired::Stopped | Desired::Deleted) => {
                Decision::Do(StepKind::End(generation))
            }
            (Phase::Starting | Phase::Running | Phase::Moving, _) if seen.is_external => decide_external(seen, now),
            (Phase::Starting | Phase::Running | Phase::Moving, desired) => match self.lost_from(seen) {
                None => Decision::Nothing,
                Some(at) if now < at => Decision::LookAt(at),
                Some(_) => match desired {
                    Desired::Running => Decision::Do(StepKind::Lost(generation)),
                    // It may run on where it is: nobody can say that it sleeps, and nobody has missed it yet.
                    Desired::Sleeping if seen.restart == Restart::Never => Decision::Nothing,
                    Desired::Sleeping => Decision::Do(StepKind::Asleep(generation)),
                    Desired::Stopped | Desired::Deleted => Decision::Do(StepKind::End(generation)),
                },
            },
            (Phase::Failed | Phase::Lost, Desired::Running) if seen.restart == Restart::Always => {
                let at = seen.backoff.again_at;
                if now < at { Decision::LookAt(at) } else { Decision::Do(StepKind::PlaceAgain(generation)) }
            }
            (Phase::Stopped | Phase::Failed | Phase::Lost, Desired::Deleted) => Decision::Do(StepKind::End(generation)),
            (Phase::Stopped | Phase::Failed | Phase::Lost | Phase::Deleted, _) => {
                let old = is_old(seen.ended_at, unix_millis);
                if old { Decision::Do(StepKind::Sweep) } else { Decision::LookAt(now + TOMBSTONE_LOOK_EVERY) }
            }
        }
    }

    fn decide_place(&self, seen: &Seen, now: Instant) -> Decision {
        let Some(drained) = &self.drained else { return Decision::LookAt(now + LOOK_AGAIN_AFTER) };
        let candidates = self.nodes.values().map(|node| Candidate {
            node,
            running: self.given.get(&node.id).map_or(0, |given| given.count),
            drained: drained.contains(&node.id),
        });
        match placement::choose(candidates, seen.host.as_deref(), &seen.node_labels) {
            Ok(node) => Decision::Do(StepKind::Place(Box::new(node.clone()))),
            Err(why) if seen.waits_for.as_deref() == Some(&*why.to_string()) => {
                Decision::LookAt(now + LOOK_AGAIN_AFTER)
            }
            Err(why) => {
                let first = seen.phase_since + EXPLAIN_AFTER;
                let at = seen.explained_at.map_or(first, |before| first.max(before + EXPLAIN_EVERY));
                if now < at {
                    Decision::LookAt(at.min(now + LOOK_AGAIN_AFTER))
                } else {
                    Decision::Do(StepKind::Explain(why))
                }
            }
        }
    }

    /// From when on the instance is lost, if its node is not live.
    fn lost_from(&self, seen: &Seen) -> Option<Instant> {
        let gone_since = self.given.get(&seen.node?)?.gone_since?;
        Some(gone_since.max(seen.since.max(self.in_touch_since) + lease::TTL))
    }

    fn begin(&mut self, id: InstanceId, kind: &StepKind, now: Instant) {
        self.set_turn(id, Turn::UnderWay(now + STEP_WITHIN));
        if let StepKind::Place(node) = kind {
            // Counted at once, or a burst of creations would all go to the same node.
            self.instances.get_mut(&id).expect("it was decided on").next_node = Some(node.id);
            self.give(node.id);
        }
        if let StepKind::Explain(_) = kind {
            self.instances.get_mut(&id).expect("it was decided on").explained_at = Some(now);
        }
    }

    /// Forgets what a step under way would have given to a node.
    fn withdraw(&mut self, id: InstanceId) {
        let seen = self.instances.get_mut(&id).expect("a step is under way");
        if let Some(node) = seen.next_node.take_if(|_| matches!(seen.phase, Phase::Pending | Phase::Sleeping)) {
            self.take_back(node);
        }
    }

    fn give(&mut self, node: NodeId) {
        // When one that is not live was last seen, if ever, is not remembered: since before this keeper's time.
        let gone_since = (!self.nodes.contains_key(&node)).then_some(self.up_since);
        self.given.entry(node).or_insert(Given { count: 0, gone_since }).count += 1;
    }

    fn take_back(&mut self, node: NodeId) {
        if let Some(given) = self.given.get_mut(&node) {
            given.count -= 1;
            if given.count == 0 {
                self.given.remove(&node);
            }
        }
    }

    fn set_turn(&mut self, id: InstanceId, turn: Turn) {
        let Some(seen) = self.instances.get_mut(&id) else { return };
        match std::mem::replace(&mut seen.turn, turn) {
            Turn::Quiet => false,
            Turn::Due(at) => self.due.remove(&(at, id)),
            Turn::UnderWay(until) => self.under_way.remove(&(until, id)),
        };
        match turn {
            Turn::Quiet => false,
            Turn::Due(at) => self.due.insert((at, id)),
            Turn::UnderWay(until) => self.under_way.insert((until, id)),
        };
    }
}

impl Seen {
    fn of(instance: &Instance, now: Instant) -> Self {
        Self {
            since: now,
            phase_since: now,
            host: instance.host.clone().filter(|_| instance.phase == Phase::Sleeping),
            waits_for: instance.reason.clone().filter(|_| is_waiting(instance.phase)),
            explained_at: None,
            is_external: instance.spec.external.is_some(),
            phase: instance.phase,
            desired: instance.desired,
            generation: instance.generation,
            node: instance.node.filter(|_| !instance.phase.is_end()),
            next_node: instance.moving.as_ref().map(|moving| moving.to),
            restart: instance.spec.restart,
            node_labels: instance.spec.node_labels.clone(),
            ended_at: instance.ended_at,
            turn: Turn::Quiet,
            backoff: Backoff::default(),
        }
    }

    fn waits(&self) -> bool {
        is_waiting(self.phase) && self.desired == Desired::Running
    }

    /// The nodes on which it takes up room.
    fn holders(&self) -> impl Iterator<Item = NodeId> + use<> {
        self.node.into_iter().chain(self.next_node)
    }
}

impl Backoff {
    fn handle_phase(&mut self, phase: Phase, now: Instant) {
        match phase {
            Phase::Running | Phase::Moving => {
                self.running_since.get_or_insert(now);
                self.has_ended = false;
            }
            Phase::Pending | Phase::Starting | Phase::Sleeping => self.has_ended = false,
            Phase::Failed | Phase::Lost if !self.has_ended => self.handle_end(now),
            Phase::Stopped | Phase::Failed | Phase::Lost | Phase::Deleted => {}
        }
    }

    fn handle_end(&mut self, now: Instant) {
        self.has_ended = true;
        if self.running_since.take().is_some_and(|since| now >= since + RESTART_AFTER_MOST) {
            self.ends_in_a_row = 0;
        }
        let wait = RESTART_AFTER.saturating_mul(2u32.saturating_pow(self.ends_in_a_row));
        self.again_at = now + wait.min(RESTART_AFTER_MOST);
        self.ends_in_a_row += 1;
    }
}

const fn is_waiting(phase: Phase) -> bool {
    matches!(phase, Phase::Pending | Phase::Sleeping)
}

/// Nobody says of an external instance that it is lost; only a move that its platform has forgotten is ended.
fn decide_external(seen: &Seen, now: Instant) -> Decision {
    let at = seen.phase_since + EXTERNAL_MOVE_WITHIN;
    match seen.phase {
        Phase::Moving if now < at => Decision::LookAt(at),
        Phase::Moving => Decision::Do(StepKind::GiveUpMove(seen.generation)),
        Phase::Pending | Phase::Starting | Phase::Running | Phase::Sleeping => Decision::Nothing,
        Phase::Stopped | Phase::Failed | Phase::Lost | Phase::Deleted => Decision::Nothing,
    }
}
