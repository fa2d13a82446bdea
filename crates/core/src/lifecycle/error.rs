//! Why a step was refused, and how a client is told.

use std::fmt;

use super::refusal;
use crate::record::{Desired, Generation, Phase};
use crate::{ErrorCode, Problem, ServiceName};

/// Why a step was refused. The record is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepError {
    /// The step does not lead out of this phase.
    Phase(Phase),
    /// The writer does not run the instance, or is not the one it moves to.
    NotYours,
    /// The writer acts on another placement than the present one.
    Generation {
        /// The generation the writer acted on.
        given: Generation,
        /// The record's.
        present: Generation,
    },
    /// The step goes against what should be.
    Desired(Desired),
    /// The spec says that the instance stays ended.
    NoRestart,
    /// Only its own node can say that of it.
    Bound,
    /// The node cannot take the instance.
    Target(TargetError),
    /// It is external: Landfast does not run it, so it cannot put it to sleep.
    CannotSleep,
    /// It is not external: where it is, is for the cell to say.
    NotExternal,
    /// No move of it is under way.
    NoMove,
    /// It has no service with this name.
    NoService(ServiceName),
}

/// Why a node cannot be the target of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetError {
    /// The instance runs there already.
    SameNode,
    /// It is on another host, and the instance's processes cannot leave theirs.
    OtherHost,
    /// It takes nothing new.
    Draining,
    /// The instance is external: no node has it.
    External,
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Phase(phase) => write!(f, "The instance is {}.", phase.as_str()),
            Self::NotYours => f.write_str("The instance was given to another node."),
            Self::Generation { given, present } => {
                write!(f, "The step was meant for generation {given}; the instance is at {present}.")
            }
            Self::Desired(Desired::Running) => f.write_str("Nobody asked for the instance to end."),
            Self::Desired(Desired::Sleeping) => f.write_str("The instance is to sleep."),
            Self::Desired(Desired::Stopped) => f.write_str("The instance is to be stopped."),
            Self::Desired(Desired::Deleted) => f.write_str("The instance is to be deleted."),
            Self::NoRestart => f.write_str("The instance was made with restart: never."),
            Self::Target(TargetError::SameNode) => f.write_str("The instance runs on this node already."),
            Self::Target(TargetError::OtherHost) => f.write_str("The node is on another host."),
            Self::Target(TargetError::Draining) => f.write_str("The node is draining."),
            Self::Target(TargetError::External) => {
                f.write_str("The instance is external: its platform moves it, and announces that with move/begin.")
            }
            Self::CannotSleep => f.write_str("The instance is external: its platform decides when it sleeps."),
            Self::NotExternal => f.write_str("The instance is not external: the cell moves it between its nodes."),
            Self::Bound => f.write_str("The instance may still run on its node, and nobody can say that it sleeps."),
            Self::NoMove => f.write_str("No move of the instance is under way; announce it with move/begin first."),
            Self::NoService(name) => write!(f, "The instance has no service {name}."),
        }
    }
}

impl std::error::Error for StepError {}

impl From<StepError> for Problem {
    fn from(error: StepError) -> Self {
        let code = match error {
            StepError::Phase(phase) => refusal(phase).unwrap_or(ErrorCode::RequestConflict),
            StepError::NotYours => ErrorCode::NodeNotHere,
            StepError::Generation { .. } => ErrorCode::NodeStaleGeneration,
            StepError::Desired(Desired::Running) | StepError::NoRestart => ErrorCode::RequestConflict,
            StepError::Desired(Desired::Sleeping) => ErrorCode::InstanceSleeping,
            StepError::Desired(Desired::Stopped) => ErrorCode::InstanceStopped,
            StepError::Desired(Desired::Deleted) => ErrorCode::InstanceGone,
            StepError::Target(_) | StepError::NotExternal | StepError::NoMove => ErrorCode::MoveRefused,
            StepError::CannotSleep | StepError::Bound => ErrorCode::SleepRefused,
            StepError::NoService(_) => ErrorCode::ServiceUnknown,
        };
        Self::new(code, error.to_string())
    }
}
