//! The product's own rules about the record, as a table: what `landfast_core::lifecycle` says of every record there is
//! here.

use std::collections::{BTreeMap, HashMap};

use landfast_core::lifecycle::{self, may_serve};
use landfast_core::record::{Desired, Generation, Instance, InstanceSpec, Kind, Phase, Restart};

use crate::names::{instance_id, node_id, node_record};

/// The record's generation, always: that of what is older is the one before.
pub(super) const GENERATION: u64 = 2;

/// The highest that comes of a step.
pub(super) const GENERATIONS: u64 = GENERATION + 1;

/// What of the instance's record changes here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Record {
    pub(super) generation: u64,
    pub(super) stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Stage {
    Runs,
    Prepares,
    Prepared,
    /// Called lost, and placed on node 1 at once.
    Lost,
    /// Moved to node 1.
    Moved,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Op {
    BeginMove,
    Prepare,
    Commit,
    GiveUp,
    Claim,
    Lose,
}

/// What happens next, as a story tells it.
/// What `landfast_core::lifecycle` says about every record there is here, asked once.
pub(super) struct Rules {
    pub(super) after: HashMap<(Record, Op, Option<u64>), Record>,
    pub(super) served: HashMap<Record, bool>,
}

impl Rules {
    pub(super) fn from_the_product() -> Self {
        let mut rules = Self { after: HashMap::new(), served: HashMap::new() };
        let stages = [Stage::Runs, Stage::Prepares, Stage::Prepared, Stage::Lost, Stage::Moved];
        for (generation, stage) in (1..=GENERATIONS).flat_map(|generation| stages.map(|stage| (generation, stage))) {
            let record = Record { generation, stage };
            let instance = record.written_out();
            rules.served.insert(record, may_serve(&instance, node_id(0), Generation(generation)).is_ok());
            for op in [Op::BeginMove, Op::Prepare, Op::Commit, Op::GiveUp, Op::Claim, Op::Lose] {
                for meant in std::iter::once(None).chain((1..=GENERATIONS).map(Some)) {
                    if let Some(after) = op.apply(record, meant.unwrap_or(generation)) {
                        rules.after.insert((record, op, meant), after);
                    }
                }
            }
        }
        rules
    }

    /// Takes a step that is meant for a generation, or for whichever there is; whether it could be taken.
    pub(super) fn apply(&self, record: &mut Record, op: Op, meant: Option<u64>) -> bool {
        let after = self.after.get(&(*record, op, meant));
        *record = after.copied().unwrap_or(*record);
        after.is_some()
    }

    /// Whether node 0 may carry, by this record.
    pub(super) fn may_serve(&self, record: Record) -> bool {
        self.served[&record]
    }
}

impl Op {
    pub(super) fn apply(self, record: Record, meant: u64) -> Option<Record> {
        let (mut instance, meant) = (record.written_out(), Generation(meant));
        let (me, other) = (node_id(0), node_record(1, 1));
        match self {
            Self::BeginMove => lifecycle::begin_move(&mut instance, &other),
            Self::Prepare => lifecycle::prepared(&mut instance, other.id, meant),
            Self::Commit => lifecycle::commit_move(&mut instance, me, meant, &other),
            Self::GiveUp => lifecycle::give_up_move(&mut instance, me, meant, "given up"),
            Self::Claim => lifecycle::claim(&mut instance, me, meant, "0:1"),
            Self::Lose => lifecycle::lost(&mut instance, meant, 0),
        }
        .ok()?;
        let stage = match (instance.phase, instance.node == Some(me)) {
            (Phase::Lost, _) => Stage::Lost,
            (_, false) => Stage::Moved,
            (Phase::Moving, _) if lifecycle::is_handed_over(&instance) => Stage::Prepared,
            (Phase::Moving, _) => Stage::Prepares,
            (_, true) => Stage::Runs,
        };
        let generation = instance.generation.0;
        (generation <= GENERATIONS).then_some(Record { generation, stage })
    }
}

impl Record {
    /// The whole record that it stands for.
    pub(super) fn written_out(self) -> Instance {
        let (me, other) = (node_record(0, 1), node_record(1, 1));
        let mut instance = Instance {
            id: instance_id(0),
            kind: Kind::Sandbox,
            spec: InstanceSpec { restart: Restart::Always, ..InstanceSpec::default() },
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
        };
        let owner = if self.stage == Stage::Moved { &other } else { &me };
        lifecycle::place(&mut instance, owner).expect("it is pending");
        lifecycle::started(&mut instance, owner.id, Generation(1)).expect("it was placed");
        instance.generation = Generation(self.generation);
        if matches!(self.stage, Stage::Prepares | Stage::Prepared) {
            lifecycle::begin_move(&mut instance, &other).expect("it runs");
        }
        if self.stage == Stage::Prepared {
            lifecycle::prepared(&mut instance, other.id, Generation(self.generation)).expect("it is being prepared");
        }
        if self.stage == Stage::Lost {
            lifecycle::lost(&mut instance, Generation(self.generation), 0).expect("it runs");
        }
        instance
    }
}

impl Stage {
    /// Whether the instance is node 0's.
    pub(super) const fn is_mine(self) -> bool {
        matches!(self, Self::Runs | Self::Prepares | Self::Prepared)
    }
}
