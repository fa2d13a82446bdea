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

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::lifecycle::{self, StepError};
use crate::placement::{self, Candidate, NoneFits};
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

/// One compare-and-swap that should be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The instance whose record is to change.
    pub instance: InstanceId,
    /// What is to be done to it.
    pub kind: StepKind,
}

/// What is to be done to a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// Give it to this node.
    Place(Box<Node>),
    /// Make it pending again after it ended in this generation.
    PlaceAgain(Generation),
    /// Its owner's lease has lapsed in this generation.
    Lost(Generation),
    /// End it as desired; nobody has it in this generation.
    End(Generation),
    /// Put it to sleep as desired; its owner's lease has lapsed in this generation.
    Asleep(Generation),
    /// Say in its record why no node takes it.
    Explain(NoneFits),
    /// Its platform began to move it in this generation, and has said nothing since.
    GiveUpMove(Generation),
    /// Remove the record of its end.
    Sweep,
}

/// What became of a record under a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was changed: write it.
    Changed,
    /// It is to be removed.
    Removed,
}

impl StepKind {
    /// The node whose record must not be there, when it is read after this record and before it is written: the step
    /// rests on that node's lease having lapsed, and what the keeper has heard of nodes may be out of date.
    pub fn absent_node(&self, record: &Instance) -> Option<NodeId> {
        match self {
            Self::Lost(_) | Self::End(_) | Self::Asleep(_) => record.node.filter(|_| !record.phase.is_end()),
            Self::Place(_) | Self::PlaceAgain(_) | Self::Explain(_) | Self::GiveUpMove(_) | Self::Sweep => None,
        }
    }

    /// Takes the step on the record as it is now.
    ///
    /// # Errors
    ///
    /// The record has outgrown the step; it is unchanged.
    pub fn apply(&self, record: &mut Instance, unix_millis: u64) -> Result<Applied, StepError> {
        match self {
            Self::Place(node) => lifecycle::place(record, node)?,
            Self::PlaceAgain(generation) => lifecycle::place_again(record, *generation)?,
            Self::Lost(generation) => lifecycle::lost(record, *generation, unix_millis)?,
            Self::End(generation) => lifecycle::ended_unowned(record, *generation, unix_millis)?,
            Self::Asleep(generation) => lifecycle::asleep_unowned(record, *generation)?,
            Self::Explain(why) => lifecycle::waits(record, &why.to_string())?,
            Self::GiveUpMove(generation) => {
                lifecycle::give_up_external_move(record, *generation, "Its platform did not say how the move went.")?;
            }
            Self::Sweep if is_old(record.ended_at, unix_millis) && !lifecycle::will_restart(record) => {
                return Ok(Applied::Removed);
            }
            Self::Sweep => return Err(StepError::Phase(record.phase)),
        }
        Ok(Applied::Changed)
    }
}

/// The keeper's view of the cell, and what it has under way.
#[derive(Debug)]
pub struct Keeper {
    up_since: Instant,
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
            nodes: BTreeMap::new(),
            drained: None,
            instances: HashMap::new(),
            given: HashMap::new(),
            due: BTreeSet::new(),
            under_way: BTreeSet::new(),
        }
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
                Some(_) => Decision::Do(match desired {
                    Desired::Running => StepKind::Lost(generation),
                    Desired::Sleeping => StepKind::Asleep(generation),
                    Desired::Stopped | Desired::Deleted => StepKind::End(generation),
                }),
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
        Some(gone_since.max(seen.since + lease::TTL))
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

fn is_old(ended_at: Option<u64>, unix_millis: u64) -> bool {
    let kept = TOMBSTONE_KEPT.as_millis() as u64;
    ended_at.is_some_and(|ended_at| unix_millis >= ended_at.saturating_add(kept))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::{External, InstanceSpec, Kind};

    const DAY: u64 = 24 * 3600 * 1000;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn node(number: u128) -> Node {
        Node {
            id: NodeId::new(1, number),
            name: format!("n{number}"),
            host: "h".to_owned(),
            address: "10.0.0.1:1".to_owned(),
            capacity: 100,
            labels: BTreeMap::new(),
            draining: false,
            isolation: "bubblewrap".to_owned(),
            started_at: 0,
        }
    }

    fn id(number: u128) -> InstanceId {
        InstanceId::new(1, number)
    }

    fn pending(number: u128, restart: Restart) -> Instance {
        Instance {
            id: id(number),
            kind: Kind::Sandbox,
            spec: InstanceSpec { restart, ..InstanceSpec::default() },
            desired: Desired::Running,
            phase: Phase::Pending,
            generation: Generation(0),
            node: None,
            host: None,
            address: None,
            moving: None,
            reason: None,
            labels: BTreeMap::new(),
            created_at: 0,
            ended_at: None,
        }
    }

    fn running(number: u128, on: u128) -> Instance {
        let mut instance = pending(number, Restart::Always);
        lifecycle::place(&mut instance, &node(on)).unwrap();
        lifecycle::started(&mut instance, node(on).id, Generation(1)).unwrap();
        instance
    }

    /// A store with one keeper that hears of every change at once.
    struct Cell {
        keeper: Keeper,
        records: BTreeMap<InstanceId, Instance>,
        now: Instant,
        /// What was done, as (milliseconds, word).
        done: Vec<(u64, &'static str)>,
    }

    impl Cell {
        fn new(nodes: impl IntoIterator<Item = u128>, records: impl IntoIterator<Item = Instance>) -> Self {
            let mut cell = Self { keeper: Keeper::new(at(0)), records: BTreeMap::new(), now: at(0), done: Vec::new() };
            cell.keeper.handle_drains(BTreeSet::new(), at(0));
            cell.keeper.handle_nodes(nodes.into_iter().map(node), at(0));
            records.into_iter().for_each(|record| cell.write(record));
            cell
        }

        fn write(&mut self, record: Instance) {
            self.keeper.handle_instance(record.id, Some(&record), self.now);
            self.records.insert(record.id, record);
        }

        fn change(&mut self, number: u128, change: impl FnOnce(&mut Instance)) {
            let mut record = self.records[&id(number)].clone();
            change(&mut record);
            self.write(record);
        }

        fn apply(&mut self, step: &Step) {
            let unix = self.now.as_millis();
            let mut record = self.records[&step.instance].clone();
            match step.kind.apply(&mut record, unix) {
                Ok(Applied::Changed) => self.write(record),
                Ok(Applied::Removed) => {
                    self.records.remove(&step.instance);
                    self.keeper.handle_instance(step.instance, None, self.now);
                }
                Err(_) => self.keeper.handle_refused(step.instance, self.now),
            }
            let word = match step.kind {
                StepKind::Place(_) => "place",
                StepKind::PlaceAgain(_) => "again",
                StepKind::Lost(_) => "lost",
                StepKind::End(_) => "end",
                StepKind::Asleep(_) => "asleep",
                StepKind::Explain(_) => "explain",
                StepKind::GiveUpMove(_) => "give up",
                StepKind::Sweep => "sweep",
            };
            self.done.push((unix, word));
        }

        /// Lets time pass and the keeper act.
        fn run_until(&mut self, millis: u64) {
            loop {
                while let Some(step) = self.keeper.poll(self.now, self.now.as_millis()) {
                    self.apply(&step);
                }
                match self.keeper.next_deadline() {
                    Some(next) if next <= at(millis) => self.now = self.now.max(next),
                    Some(_) | None => break,
                }
            }
            self.now = at(millis);
        }

        fn phase(&self, number: u128) -> Phase {
            self.records[&id(number)].phase
        }
    }

    #[test]
    fn what_is_pending_is_placed_at_once_and_evenly() {
        let mut cell = Cell::new([1, 2], (0..10).map(|number| pending(number, Restart::Never)));
        cell.run_until(0);
        let on_first = cell.records.values().filter(|record| record.node == Some(node(1).id)).count();
        assert_eq!((cell.done.len(), on_first), (10, 5));
    }

    #[test]
    fn a_burst_is_spread_before_anything_is_heard_of_it() {
        let mut cell = Cell::new([1, 2], (0..10).map(|number| pending(number, Restart::Never)));
        let steps: Vec<_> = std::iter::from_fn(|| cell.keeper.poll(at(0), 0)).collect();
        let to_first = |step: &&Step| matches!(&step.kind, StepKind::Place(to) if to.id == node(1).id);
        assert_eq!((steps.len(), steps.iter().filter(to_first).count()), (10, 5));
    }

    #[test]
    fn what_fits_nowhere_waits_for_a_node() {
        let mut cell = Cell::new([], [pending(1, Restart::Never)]);
        cell.run_until(5_300);
        assert_eq!(cell.phase(1), Phase::Pending);
        cell.keeper.handle_node(node(1).id, Some(node(1)), cell.now);
        cell.run_until(5_300);
        assert_eq!(cell.phase(1), Phase::Starting);
    }

    #[test]
    fn a_lapsed_lease_loses_the_nodes_instances_and_no_others() {
        let mut cell = Cell::new([1, 2], [running(1, 1), running(2, 2)]);
        cell.run_until(20_000);
        cell.keeper.handle_node(node(1).id, None, cell.now);
        cell.run_until(20_000);
        assert_eq!((cell.phase(1), cell.phase(2)), (Phase::Lost, Phase::Running));
        cell.run_until(21_000);
        assert_eq!((cell.phase(1), cell.records[&id(1)].node), (Phase::Starting, Some(node(2).id)));
    }

    #[test]
    fn a_cell_that_was_off_as_a_whole_comes_back_whole() {
        let mut cell = Cell::new([], [running(1, 1)]);
        cell.run_until(9_000);
        cell.keeper.handle_nodes([node(1)], cell.now);
        cell.run_until(60_000);
        assert_eq!((cell.phase(1), cell.done.len()), (Phase::Running, 0));
    }

    #[test]
    fn a_node_that_never_comes_back_is_lost_after_one_lease_time() {
        let mut cell = Cell::new([], [running(1, 1)]);
        cell.run_until(11_500);
        assert_eq!(cell.done[..2], [(10_000, "lost"), (11_000, "again")]);
    }

    #[test]
    fn an_instance_on_a_node_not_yet_heard_of_is_not_lost() {
        let mut cell = Cell::new([], []);
        cell.run_until(100_000);
        cell.write(running(1, 7));
        cell.run_until(105_000);
        cell.keeper.handle_node(node(7).id, Some(node(7)), cell.now);
        cell.run_until(200_000);
        assert_eq!(cell.phase(1), Phase::Running);
    }

    #[test]
    fn a_node_that_shows_life_by_a_new_generation_is_not_called_lost_for_being_thought_gone() {
        let mut cell = Cell::new([1], [running(1, 1)]);
        cell.run_until(100_000);
        cell.keeper.handle_node(node(1).id, None, cell.now);
        cell.change(1, |record| lifecycle::claim(record, node(1).id, Generation(1), "10.0.0.1:2").unwrap());
        cell.run_until(109_000);
        cell.keeper.handle_node(node(1).id, Some(node(1)), cell.now);
        cell.run_until(200_000);
        assert_eq!(cell.phase(1), Phase::Running);
    }

    #[test]
    fn what_rests_on_a_lapsed_lease_names_the_node_whose_record_must_be_gone() {
        let (live, lost) = (running(1, 1), StepKind::Lost(Generation(1)));
        assert_eq!(lost.absent_node(&live), Some(node(1).id));
        assert_eq!(StepKind::End(Generation(1)).absent_node(&live), Some(node(1).id));
        assert_eq!(StepKind::End(Generation(0)).absent_node(&pending(1, Restart::Never)), None);
        assert_eq!(StepKind::Sweep.absent_node(&live), None);
    }

    #[test]
    fn restarts_wait_ever_longer_until_one_has_lasted() {
        let mut cell = Cell::new([1], [running(1, 1)]);
        let fail = |record: &mut Instance| {
            let (owner, generation) = (record.node.unwrap(), record.generation);
            lifecycle::failed(record, owner, generation, "it died", 0).unwrap();
        };
        let mut waits = Vec::new();
        for _ in 0..9 {
            let failed_at = cell.now.as_millis();
            cell.change(1, fail);
            cell.run_until(failed_at + 60_000);
            let again = cell.done.iter().rfind(|(_, word)| *word == "again").unwrap().0;
            waits.push((again - failed_at) / 1000);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        cell.change(1, |record| lifecycle::started(record, node(1).id, record.generation).unwrap());
        cell.run_until(cell.now.as_millis() + 60_000);
        let failed_at = cell.now.as_millis();
        cell.change(1, fail);
        cell.run_until(failed_at + 1_000);
        assert_eq!(cell.phase(1), Phase::Starting);
    }

    #[test]
    fn what_no_live_node_has_is_ended_as_desired() {
        let stopped = |mut instance: Instance| {
            lifecycle::desire_stopped(&mut instance).unwrap();
            instance
        };
        let mut cell =
            Cell::new([1], [stopped(pending(1, Restart::Never)), stopped(running(2, 9)), stopped(running(3, 1))]);
        cell.run_until(30_000);
        assert_eq!((cell.phase(1), cell.phase(2)), (Phase::Stopped, Phase::Stopped));
        assert_eq!(cell.phase(3), Phase::Running, "its node ends it");
        cell.change(1, |record| lifecycle::desire_deleted(record).unwrap());
        cell.run_until(30_000);
        assert_eq!(cell.phase(1), Phase::Deleted);
    }

    #[test]
    fn the_record_of_an_end_is_swept_after_a_day() {
        let mut cell = Cell::new([1], [pending(1, Restart::Never)]);
        cell.change(1, |record| lifecycle::desire_deleted(record).unwrap());
        cell.run_until(DAY - 1);
        assert_eq!(cell.phase(1), Phase::Deleted);
        cell.run_until(DAY + 3_600_000);
        assert!(cell.records.is_empty() && cell.keeper.instances.is_empty() && cell.keeper.due.is_empty());
    }

    fn asleep(number: u128, on: u128) -> Instance {
        let mut instance = running(number, on);
        lifecycle::desire_sleeping(&mut instance).unwrap();
        lifecycle::asleep(&mut instance, node(on).id, Generation(1)).unwrap();
        instance
    }

    #[test]
    fn what_sleeps_is_left_alone_until_it_is_woken_and_then_placed_on_its_host() {
        let mut cell = Cell::new([], [asleep(1, 1)]);
        let far = Node { host: "far".to_owned(), ..node(9) };
        cell.keeper.handle_node(far.id, Some(far), cell.now);
        cell.run_until(100_000);
        assert_eq!((cell.phase(1), cell.done.len()), (Phase::Sleeping, 0));
        cell.change(1, |record| lifecycle::desire_awake(record).unwrap());
        cell.run_until(103_000);
        assert_eq!((cell.phase(1), &cell.done[..]), (Phase::Sleeping, &[(100_000, "explain")][..]));
        let reason = cell.records[&id(1)].reason.clone();
        assert_eq!(reason.as_deref(), Some("No live node is on the host that has the instance's files."));
        cell.keeper.handle_node(node(2).id, Some(node(2)), cell.now);
        cell.run_until(103_000);
        let record = &cell.records[&id(1)];
        assert_eq!((record.phase, record.node, record.generation), (Phase::Starting, Some(node(2).id), Generation(2)));
        assert_eq!(record.reason, None);
    }

    #[test]
    fn what_sleeps_is_ended_on_request() {
        let mut cell = Cell::new([1], [asleep(1, 1)]);
        cell.change(1, |record| lifecycle::desire_deleted(record).unwrap());
        cell.run_until(0);
        assert_eq!(cell.phase(1), Phase::Deleted);
    }

    #[test]
    fn what_was_to_sleep_when_its_node_was_lost_sleeps() {
        let mut cell = Cell::new([1], [running(1, 1)]);
        cell.run_until(20_000);
        cell.change(1, |record| lifecycle::desire_sleeping(record).unwrap());
        cell.keeper.handle_node(node(1).id, None, cell.now);
        cell.run_until(40_000);
        assert_eq!((cell.phase(1), &cell.done[..]), (Phase::Sleeping, &[(20_000, "asleep")][..]));
    }

    #[test]
    fn what_waits_for_a_node_is_told_why_once_and_again_only_after_a_while() {
        let mut cell = Cell::new([], [pending(1, Restart::Never)]);
        cell.run_until(8_000);
        let reason = |cell: &Cell| cell.records[&id(1)].reason.clone().unwrap();
        assert_eq!((cell.done.len(), cell.done[0]), (1, (1_000, "explain")));
        assert_eq!(reason(&cell), "No node is live.");
        let full = Node { capacity: 0, ..node(1) };
        cell.keeper.handle_node(full.id, Some(full), cell.now);
        cell.run_until(30_000);
        assert_eq!((cell.done.len(), cell.done[1]), (2, (11_000, "explain")));
        assert_eq!(reason(&cell), "Every live node with fitting labels is full.");
    }

    #[test]
    fn nothing_is_placed_before_it_is_known_which_nodes_are_drained() {
        let mut keeper = Keeper::new(at(0));
        keeper.handle_nodes([node(1)], at(0));
        keeper.handle_instance(id(1), Some(&pending(1, Restart::Never)), at(0));
        assert_eq!(keeper.poll(at(0), 0), None);
        keeper.handle_drains([node(1).id].into(), at(1));
        assert_eq!(keeper.poll(at(1), 0), None);
        keeper.handle_drains(BTreeSet::new(), at(2));
        assert!(matches!(keeper.poll(at(2), 0), Some(Step { kind: StepKind::Place(_), .. })));
    }

    #[test]
    fn a_node_that_an_operator_drains_is_given_nothing_until_it_is_drained_no_more() {
        let mut cell = Cell::new([1], []);
        cell.keeper.handle_drain(node(1).id, true, cell.now);
        cell.write(pending(1, Restart::Never));
        cell.run_until(5_000);
        assert_eq!(cell.phase(1), Phase::Pending);
        assert_eq!(cell.records[&id(1)].reason.as_deref(), Some("Every live node with fitting labels is draining."));
        cell.keeper.handle_drains(BTreeSet::new(), cell.now);
        cell.run_until(5_000);
        assert_eq!(cell.phase(1), Phase::Starting);
    }

    fn external(number: u128) -> Instance {
        let spec = InstanceSpec { external: Some(External::default()), ..InstanceSpec::default() };
        Instance { spec, phase: Phase::Running, generation: Generation(1), ..pending(number, Restart::Never) }
    }

    #[test]
    fn an_external_instance_is_left_alone_but_for_a_move_that_was_forgotten() {
        let mut cell = Cell::new([], [external(1)]);
        cell.run_until(3_600_000);
        assert!(cell.done.is_empty());
        cell.change(1, |record| lifecycle::begin_external_move(record).unwrap());
        cell.run_until(3_600_000 + 599_999);
        assert_eq!(cell.phase(1), Phase::Moving);
        cell.run_until(3_600_000 + 600_000);
        assert_eq!(cell.phase(1), Phase::Running);
        assert!(cell.records[&id(1)].reason.as_ref().unwrap().contains("platform"));
        cell.change(1, |record| lifecycle::begin_external_move(record).unwrap());
        cell.run_until(4_500_000);
        assert_eq!(cell.phase(1), Phase::Moving, "each move has its own ten minutes");
    }

    #[test]
    fn few_steps_are_under_way_at_a_time_and_lost_ones_are_tried_again() {
        let mut cell = Cell::new([1], (0..1000).map(|number| pending(number, Restart::Never)));
        let steps = |cell: &mut Cell, now| std::iter::from_fn(|| cell.keeper.poll(now, 0)).count();
        // Room for a hundred is on the node; nothing is ever heard of any step.
        assert_eq!(steps(&mut cell, at(0)), STEPS_AT_ONCE);
        assert_eq!(cell.keeper.next_deadline(), Some(at(5_000)));
        assert_eq!(steps(&mut cell, at(5_000)), STEPS_AT_ONCE);
    }

    /// What happens to a cell from outside.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Create(u128),
        NodeUp(u128),
        NodeDown(u128),
        Fail(u128),
        Start(u128),
        Sleep(u128),
        Wake(u128),
        Delete(u128),
        Wait(u64),
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0u128..8).prop_map(Event::Create),
            (0u128..3).prop_map(Event::NodeUp),
            (0u128..3).prop_map(Event::NodeDown),
            (0u128..8).prop_map(Event::Fail),
            (0u128..8).prop_map(Event::Start),
            (0u128..8).prop_map(Event::Sleep),
            (0u128..8).prop_map(Event::Wake),
            (0u128..8).prop_map(Event::Delete),
            (0u64..30_000).prop_map(Event::Wait),
        ]
    }

    proptest! {
        #[test]
        fn in_the_end_everything_is_placed_or_has_ended_and_every_count_is_right(
            events in proptest::collection::vec(any_event(), 1..120),
        ) {
            let mut cell = Cell::new([], []);
            for event in events {
                match event {
                    Event::Create(number) if !cell.records.contains_key(&id(number)) => {
                        cell.write(pending(number, if number % 2 == 0 { Restart::Always } else { Restart::Never }));
                    }
                    Event::NodeUp(number) => cell.keeper.handle_node(node(number).id, Some(node(number)), cell.now),
                    Event::NodeDown(number) => cell.keeper.handle_node(node(number).id, None, cell.now),
                    Event::Wait(millis) => cell.run_until(cell.now.as_millis() + millis),
                    Event::Fail(n) | Event::Start(n) | Event::Sleep(n) | Event::Wake(n) | Event::Delete(n)
                        if cell.records.contains_key(&id(n)) => {
                        let unix = cell.now.as_millis();
                        cell.change(n, |record| {
                            let owner = record.node.unwrap_or(node(0).id);
                            let _ = match event {
                                Event::Fail(_) => lifecycle::failed(record, owner, record.generation, "it died", unix),
                                Event::Start(_) => lifecycle::started(record, owner, record.generation),
                                Event::Sleep(_) if unix.is_multiple_of(2) => lifecycle::desire_sleeping(record),
                                Event::Sleep(_) => lifecycle::asleep(record, owner, record.generation),
                                Event::Wake(_) => lifecycle::desire_awake(record),
                                _ => lifecycle::desire_deleted(record),
                            };
                        });
                    }
                    _ => {}
                }
                prop_assert!(cell.keeper.due.len() + cell.keeper.under_way.len() <= cell.records.len());
            }
            cell.keeper.handle_node(node(0).id, Some(node(0)), cell.now);
            cell.run_until(cell.now.as_millis() + 100_000);
            for record in cell.records.values() {
                let owner_is_live = record.node.is_some_and(|node| cell.keeper.nodes.contains_key(&node));
                let settled = match record.phase {
                    Phase::Starting | Phase::Running => owner_is_live,
                    Phase::Failed | Phase::Lost => record.spec.restart == Restart::Never,
                    Phase::Deleted => true,
                    Phase::Sleeping => record.desired == Desired::Sleeping,
                    Phase::Pending | Phase::Moving | Phase::Stopped => false,
                };
                prop_assert!(settled, "{record:?}");
            }
            for (id, given) in &cell.keeper.given {
                let holds = |record: &&Instance| record.node == Some(*id) && !record.phase.is_end();
                prop_assert_eq!(given.count as usize, cell.records.values().filter(holds).count());
            }
        }
    }
}
