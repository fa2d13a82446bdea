//! What this node has to do for one instance, by the record as it is.
//!
//! The record says what is and what should be; the next step follows from it alone, so a daemon that was killed in the
//! middle of anything goes on from the record when it comes back. Only one thing is remembered beside it: since when a
//! move has been under way, by this machine's clock.

use std::time::Duration;

use landfast_core::NodeId;
use landfast_core::record::{Desired, Generation, Instance, Move, MoveStep, Phase};
use landfast_core::time::Instant;

/// How long a move may take before its source gives it up: the target needs milliseconds, and the client's patience
/// for a pause is longer than this.
pub(crate) const MOVE_DEADLINE: Duration = Duration::from_secs(10);

/// The next thing to do. Each may be done again without harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Bring the agent up and say that it started.
    Start,
    /// See that the agent lives and knows its generation, and carry connections to it.
    Serve,
    /// See that the agent can be taken over, and say so.
    Prepare,
    /// Nothing until the record changes.
    Wait,
    /// Carry nothing any more, and give the instance to the target.
    HandOver,
    /// Carry nothing any more, stop the agent, and say that the instance sleeps.
    Sleep,
    /// The move took too long, or its being put to sleep had begun before: go on here.
    GiveUp,
    /// End the instance as desired.
    End,
    /// It has ended or sleeps, or is another host's now: nothing of it may remain on this host; its files neither, if so.
    Clear {
        /// Whether it was deleted.
        files: bool,
    },
    /// It is none of this node's business (any more).
    Leave,
}

/// One instance as this node sees it.
#[derive(Debug)]
pub(crate) struct Life {
    me: NodeId,
    host: String,
    record: Instance,
    /// The move that is under way here as its source, and since when.
    moving: Option<(Generation, NodeId, Instant)>,
    /// The generation in which this host has begun to put the instance to sleep, which is then done to the end.
    dozing: Option<Generation>,
}

impl Life {
    /// Begins with the record as it was read.
    pub(crate) fn new(me: NodeId, host: &str, record: Instance, now: Instant) -> Self {
        let mut life = Self { me, host: host.to_owned(), record: record.clone(), moving: None, dozing: None };
        life.handle_record(record, now);
        life
    }

    /// The record has changed.
    pub(crate) fn handle_record(&mut self, record: Instance, now: Instant) {
        self.moving = match (&record.moving, self.moving) {
            (Some(Move { to, .. }), Some(known)) if known.0 == record.generation && known.1 == *to => Some(known),
            (Some(Move { to, .. }), _) => Some((record.generation, *to, now)),
            (None, _) => None,
        };
        self.record = record;
    }

    /// This host has begun to put the instance to sleep in this generation.
    pub(crate) const fn handle_doze(&mut self, generation: Generation) {
        self.dozing = Some(generation);
    }

    /// Whether its being put to sleep has begun, which is done to the end before anything else.
    pub(crate) fn dozes(&self) -> bool {
        self.dozing == Some(self.record.generation)
    }

    /// Whether the instance is to be put to sleep, or its being put to sleep has begun: then its agent's end is no failure.
    pub(crate) fn is_to_sleep(&self) -> bool {
        let wanted = self.record.desired == Desired::Sleeping || self.dozes();
        wanted && self.record.phase == Phase::Running && self.record.node == Some(self.me)
    }

    /// The record as this node knows it.
    pub(crate) const fn record(&self) -> &Instance {
        &self.record
    }

    /// What to do now.
    pub(crate) fn step(&self, now: Instant) -> Step {
        let record = &self.record;
        let mine = record.node == Some(self.me);
        if self.is_elsewhere() {
            return Step::Clear { files: record.phase == Phase::Deleted };
        }
        match record.phase {
            Phase::Pending => Step::Leave,
            Phase::Starting if mine => self.unless_unwanted(Step::Start),
            Phase::Running if self.is_to_sleep() => self.unless_unwanted(Step::Sleep),
            Phase::Running if mine => self.unless_unwanted(Step::Serve),
            Phase::Moving if mine => self.unless_unwanted(self.step_as_source(now)),
            Phase::Moving => self.step_as_target(),
            Phase::Starting | Phase::Running => Step::Leave,
            Phase::Sleeping | Phase::Stopped | Phase::Failed | Phase::Lost | Phase::Deleted => {
                self.step_after_the_end()
            }
        }
    }

    /// When [`Self::step`] may say something else although the record has not changed.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let source = self.record.node == Some(self.me);
        self.moving.filter(|_| source).map(|(_, _, since)| since + MOVE_DEADLINE)
    }

    /// Whether another host has it: what there is of it here is of an earlier life, and its agent was left alone when this host's
    /// nodes were away.
    fn is_elsewhere(&self) -> bool {
        // A machine may be given another name: what is ours by its node stays ours.
        let another = self.record.host.as_ref().is_some_and(|host| *host != self.host);
        another && self.record.node != Some(self.me)
    }

    fn unless_unwanted(&self, step: Step) -> Step {
        match self.record.desired {
            Desired::Running | Desired::Sleeping => step,
            Desired::Stopped | Desired::Deleted => Step::End,
        }
    }

    fn step_as_source(&self, now: Instant) -> Step {
        if self.dozes() || self.next_deadline().is_some_and(|deadline| now >= deadline) {
            return Step::GiveUp;
        }
        match &self.record.moving {
            Some(Move { step: MoveStep::Prepared, .. }) => Step::HandOver,
            Some(Move { step: MoveStep::Preparing, .. }) | None => Step::Serve,
        }
    }

    fn step_as_target(&self) -> Step {
        match &self.record.moving {
            Some(Move { to, .. }) if *to != self.me => Step::Leave,
            Some(Move { step: MoveStep::Preparing, .. }) => Step::Prepare,
            Some(Move { step: MoveStep::Prepared, .. }) => Step::Wait,
            None => Step::Leave,
        }
    }

    /// Any node of the host clears up, because the one that ran it may never come back.
    fn step_after_the_end(&self) -> Step {
        let here = self.record.node == Some(self.me) || self.record.host.as_ref() == Some(&self.host);
        if here { Step::Clear { files: self.record.phase == Phase::Deleted } } else { Step::Leave }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use landfast_core::InstanceId;
    use landfast_core::record::{InstanceSpec, Kind};

    use super::*;

    const ME: NodeId = NodeId::new(1, 1);
    const OTHER: NodeId = NodeId::new(1, 2);

    fn record(phase: Phase, node: NodeId) -> Instance {
        Instance {
            id: InstanceId::new(1, 1),
            kind: Kind::Sandbox,
            spec: InstanceSpec::default(),
            desired: Desired::Running,
            phase,
            generation: Generation(3),
            node: Some(node),
            host: Some("here".to_owned()),
            address: None,
            moving: None,
            reason: None,
            labels: BTreeMap::new(),
            created_at: 0,
            ended_at: None,
        }
    }

    fn moving(from: NodeId, to: NodeId, step: MoveStep) -> Instance {
        Instance { moving: Some(Move { to, step }), ..record(Phase::Moving, from) }
    }

    fn step(record: Instance) -> Step {
        Life::new(ME, "here", record, Instant::ZERO).step(Instant::ZERO)
    }

    #[test]
    fn a_move_of_what_was_being_put_to_sleep_is_given_up_so_that_it_sleeps() {
        let mut life = Life::new(ME, "here", moving(ME, OTHER, MoveStep::Preparing), Instant::ZERO);
        life.handle_doze(Generation(3));
        assert_eq!(life.step(Instant::ZERO), Step::GiveUp);
        life.handle_record(record(Phase::Running, ME), Instant::ZERO);
        assert_eq!(life.step(Instant::ZERO), Step::Sleep);
    }

    #[test]
    fn what_was_given_to_us_is_started_and_served() {
        assert_eq!(step(record(Phase::Starting, ME)), Step::Start);
        assert_eq!(step(record(Phase::Running, ME)), Step::Serve);
        assert_eq!(step(record(Phase::Starting, OTHER)), Step::Leave);
        assert_eq!(step(record(Phase::Running, OTHER)), Step::Leave);
    }

    #[test]
    fn what_should_end_is_ended_in_every_phase_in_which_we_have_it() {
        for phase in [Phase::Starting, Phase::Running] {
            let unwanted = Instance { desired: Desired::Stopped, ..record(phase, ME) };
            assert_eq!(step(unwanted), Step::End);
        }
        let unwanted = Instance { desired: Desired::Deleted, ..moving(ME, OTHER, MoveStep::Prepared) };
        assert_eq!(step(unwanted), Step::End);
    }

    #[test]
    fn a_source_serves_until_the_target_is_prepared_and_then_hands_over() {
        assert_eq!(step(moving(ME, OTHER, MoveStep::Preparing)), Step::Serve);
        assert_eq!(step(moving(ME, OTHER, MoveStep::Prepared)), Step::HandOver);
        assert_eq!(step(moving(OTHER, ME, MoveStep::Preparing)), Step::Prepare);
        assert_eq!(step(moving(OTHER, ME, MoveStep::Prepared)), Step::Wait);
        assert_eq!(step(moving(OTHER, NodeId::new(1, 3), MoveStep::Preparing)), Step::Leave);
    }

    #[test]
    fn a_move_is_given_up_ten_seconds_after_it_was_seen_and_each_move_has_its_own_ten() {
        let mut life = Life::new(ME, "here", moving(ME, OTHER, MoveStep::Preparing), Instant::from_millis(1_000));
        life.handle_record(moving(ME, OTHER, MoveStep::Prepared), Instant::from_millis(9_000));
        assert_eq!(life.next_deadline(), Some(Instant::from_millis(11_000)));
        assert_eq!(life.step(Instant::from_millis(10_999)), Step::HandOver);
        assert_eq!(life.step(Instant::from_millis(11_000)), Step::GiveUp);
        life.handle_record(record(Phase::Running, ME), Instant::from_millis(11_001));
        life.handle_record(moving(ME, OTHER, MoveStep::Preparing), Instant::from_millis(12_000));
        assert_eq!(life.step(Instant::from_millis(13_000)), Step::Serve);
    }

    #[test]
    fn what_should_sleep_is_put_to_sleep_and_one_woken_too_late_as_well() {
        let asleep = Instance { desired: Desired::Sleeping, ..record(Phase::Running, ME) };
        assert_eq!(step(asleep.clone()), Step::Sleep);
        assert_eq!(step(Instance { node: Some(OTHER), ..asleep.clone() }), Step::Leave);
        let mut life = Life::new(ME, "here", record(Phase::Running, ME), Instant::ZERO);
        life.handle_doze(Generation(2));
        assert_eq!(life.step(Instant::ZERO), Step::Serve, "that was an earlier life");
        life.handle_doze(Generation(3));
        assert_eq!(life.step(Instant::ZERO), Step::Sleep);
        life.handle_record(Instance { desired: Desired::Deleted, ..asleep }, Instant::ZERO);
        assert_eq!(life.step(Instant::ZERO), Step::End);
        let sleeping = Instance { node: None, ..record(Phase::Sleeping, ME) };
        assert_eq!(step(sleeping), Step::Clear { files: false });
    }

    #[test]
    fn any_node_of_the_host_clears_up() {
        assert_eq!(step(record(Phase::Lost, OTHER)), Step::Clear { files: false });
        assert_eq!(step(record(Phase::Deleted, ME)), Step::Clear { files: true });
        let there = || Some("there".to_owned());
        let elsewhere = |phase| Instance { host: there(), ..record(phase, OTHER) };
        assert_eq!(step(elsewhere(Phase::Running)), Step::Clear { files: false });
        assert_eq!(step(elsewhere(Phase::Deleted)), Step::Clear { files: true });
        let pending = Instance { node: None, host: None, ..record(Phase::Pending, OTHER) };
        assert_eq!(step(pending), Step::Leave);
    }
}
