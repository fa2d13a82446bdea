//! What a keeper proposes to do to a record, and how it is done.

use super::TOMBSTONE_KEPT;
use crate::lifecycle::{self, StepError};
use crate::placement::NoneFits;
use crate::record::{Generation, Instance, Node};
use crate::{InstanceId, NodeId};

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

/// Whether an end has been told for as long as its record is kept.
pub(super) fn is_old(ended_at: Option<u64>, unix_millis: u64) -> bool {
    let kept = TOMBSTONE_KEPT.as_millis() as u64;
    ended_at.is_some_and(|ended_at| unix_millis >= ended_at.saturating_add(kept))
}
