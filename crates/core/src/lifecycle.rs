//! The steps an [`Instance`] record may take, and who may take them.
//!
//! Several parties write the same record: the API says what should be, the keeper places, nodes say what is. Each of
//! them may hold an old copy, and each retries its write after a conflict. So every step is a function of the record as
//! it is *now* and of the fact its writer acts on: a node's step carries the generation it ran, the keeper's the
//! generation it judged, and a step that the record has outgrown is refused without a change.
//!
//! ```text
//! pending ─place▶ starting ─started▶ running ─begin_move▶ moving{preparing} ─prepared▶ moving{prepared}
//!    ▲               ▲                │ ▲ ▲──────give_up_move──────┴───────────────────────┤
//!    │               │                │ │ └─────────────commit_move (generation + 1)───────┘
//!    │               └─place─ sleeping ◀┘asleep
//!    └──place_again── failed │ lost ◀──failed │ lost── starting, running, moving
//!                     any ──ended──▶ stopped │ deleted, as desired
//!
//! external:  running ─begin_external_move▶ moving ─commit_external_move (generation + 1)▶ running ──ended_external──▶
//!               ▲────────────give_up_external_move──────┘                                        stopped │ deleted
//! ```
//!
//! Only [`place`] and [`commit_move`] change the owner, and both give out the next generation. [`commit_move`] belongs to
//! the source, which fences itself first; [`lost`] belongs to the keeper, after the owner's lease has lapsed and the
//! owner has therefore fenced itself. That is why no two nodes serve an instance, however old their copies are.
//!
//! Sleep is asked for by [`desire_sleeping`] or [`idle`] and done by [`asleep`]; between the two the owner takes nothing
//! new, so that whatever comes then has not been started and can wait for the next life. [`desire_awake`] may come at any
//! time: before the owner has begun, nothing happens; after it, the instance sleeps for a moment and is placed again.
//! What an end would be otherwise is no end of an instance that should sleep: nothing of it was to remain.
//!
//! An external instance has no owner among the nodes: its platform says what happens to it, and nobody else does.

use std::collections::BTreeMap;
use std::fmt;

use crate::record::{Desired, Generation, Instance, Move, MoveStep, Node, Phase, Restart};
use crate::{ErrorCode, NodeId, Problem, ServiceName};

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
            StepError::CannotSleep => ErrorCode::SleepRefused,
            StepError::NoService(_) => ErrorCode::ServiceUnknown,
        };
        Self::new(code, error.to_string())
    }
}

// --- what the API writes ---

/// Asks for the instance to be moved to a node.
///
/// # Errors
///
/// Unless it runs and should, and the node is another one of the same host that takes new instances.
pub fn begin_move(instance: &mut Instance, to: &Node) -> Result<(), StepError> {
    if instance.spec.external.is_some() {
        return Err(StepError::Target(TargetError::External));
    }
    in_phase(instance, &[Phase::Running])?;
    wanted(instance)?;
    if instance.node == Some(to.id) {
        return Err(StepError::Target(TargetError::SameNode));
    }
    if instance.host.as_ref() != Some(&to.host) {
        return Err(StepError::Target(TargetError::OtherHost));
    }
    if to.draining {
        return Err(StepError::Target(TargetError::Draining));
    }
    instance.phase = Phase::Moving;
    instance.moving = Some(Move { to: to.id, step: MoveStep::Preparing });
    instance.reason = None;
    Ok(())
}

/// Asks for the instance to end and its record to stay. Of a failed or lost one it says that it is not to come back.
///
/// # Errors
///
/// It is to be deleted, or was.
pub fn desire_stopped(instance: &mut Instance) -> Result<(), StepError> {
    match instance.desired {
        Desired::Running | Desired::Sleeping | Desired::Stopped => instance.desired = Desired::Stopped,
        Desired::Deleted => return Err(StepError::Desired(Desired::Deleted)),
    }
    Ok(())
}

/// Asks for the instance to end for ever. Asking again changes nothing.
///
/// # Errors
///
/// It has been deleted.
pub fn desire_deleted(instance: &mut Instance) -> Result<(), StepError> {
    if instance.phase == Phase::Deleted {
        return Err(StepError::Phase(Phase::Deleted));
    }
    instance.desired = Desired::Deleted;
    Ok(())
}

/// Asks for the instance to sleep. Asking again changes nothing.
///
/// # Errors
///
/// Unless it runs or sleeps already, on nodes of the cell, and is not to end.
pub fn desire_sleeping(instance: &mut Instance) -> Result<(), StepError> {
    if instance.spec.external.is_some() {
        return Err(StepError::CannotSleep);
    }
    in_phase(instance, &[Phase::Running, Phase::Sleeping])?;
    match instance.desired {
        Desired::Running | Desired::Sleeping => instance.desired = Desired::Sleeping,
        Desired::Stopped | Desired::Deleted => return Err(StepError::Desired(instance.desired)),
    }
    Ok(())
}

/// Asks for an instance that sleeps, or is about to, to run. Of any other that should run it changes nothing.
///
/// # Errors
///
/// It is to end, or has for good.
pub fn desire_awake(instance: &mut Instance) -> Result<(), StepError> {
    if instance.phase.is_end() && !will_restart(instance) {
        return Err(StepError::Phase(instance.phase));
    }
    match instance.desired {
        Desired::Running | Desired::Sleeping => instance.desired = Desired::Running,
        Desired::Stopped | Desired::Deleted => return Err(StepError::Desired(instance.desired)),
    }
    Ok(())
}

/// The platform of an external instance begins to move it: nothing new is sent there. Saying so again changes nothing.
///
/// # Errors
///
/// Unless the instance is external and runs, or moves already.
pub fn begin_external_move(instance: &mut Instance) -> Result<(), StepError> {
    external(instance)?;
    in_phase(instance, &[Phase::Running, Phase::Moving])?;
    wanted(instance)?;
    instance.phase = Phase::Moving;
    instance.reason = None;
    Ok(())
}

/// An external instance has moved: to these addresses of its agent and services, as far as they have changed.
///
/// # Errors
///
/// Unless the instance is external and moves, and has these services.
pub fn commit_external_move(
    instance: &mut Instance,
    agent: Option<&str>,
    services: &BTreeMap<ServiceName, String>,
) -> Result<(), StepError> {
    external(instance)?;
    under_way(instance)?;
    if let Some(name) = services.keys().find(|name| !instance.spec.services.contains_key(name)) {
        return Err(StepError::NoService(*name));
    }
    for (name, service) in &mut instance.spec.services {
        if let Some(address) = services.get(name) {
            service.address = Some(address.clone());
        }
    }
    if let (Some(agent), Some(external)) = (agent, &mut instance.spec.external) {
        external.agent = Some(agent.to_owned());
        instance.address = Some(agent.to_owned());
    }
    instance.generation = instance.generation.next();
    instance.phase = Phase::Running;
    Ok(())
}

/// Ends an external instance as desired: no node will.
///
/// # Errors
///
/// Unless it is external and should end, and has not ended as desired already.
pub fn ended_external(instance: &mut Instance, unix_millis: u64) -> Result<(), StepError> {
    external(instance)?;
    ended_unowned(instance, instance.generation, unix_millis)
}

// --- what the keeper writes ---

/// Gives a pending or a woken instance to a node, with the next generation.
///
/// # Errors
///
/// Unless it is pending or sleeps, and should run. What slept goes on where its files are.
pub fn place(instance: &mut Instance, node: &Node) -> Result<(), StepError> {
    in_phase(instance, WAITING)?;
    wanted(instance)?;
    if instance.phase == Phase::Sleeping && instance.host.as_ref() != Some(&node.host) {
        return Err(StepError::Target(TargetError::OtherHost));
    }
    give_to(instance, node);
    instance.phase = Phase::Starting;
    instance.reason = None;
    Ok(())
}

/// No node can take the instance now, for this reason.
///
/// # Errors
///
/// Unless it waits for a node.
pub fn waits(instance: &mut Instance, why: &str) -> Result<(), StepError> {
    in_phase(instance, WAITING)?;
    wanted(instance)?;
    instance.reason = Some(why.to_owned());
    Ok(())
}

/// The owner's lease has lapsed.
///
/// # Errors
///
/// It has ended already, has no owner, or has had another since; or it should sleep: then see [`asleep_unowned`].
pub fn lost(instance: &mut Instance, generation: Generation, unix_millis: u64) -> Result<(), StepError> {
    in_phase(instance, OWNED)?;
    same_generation(instance, generation)?;
    awake(instance)?;
    let node = instance.node.map(|node| node.to_string()).unwrap_or_default();
    end(instance, Phase::Lost, &format!("The lease of node {node} lapsed."), unix_millis);
    Ok(())
}

/// Puts to sleep, as desired, an instance whose owner's lease has lapsed.
///
/// # Errors
///
/// It is not to sleep, has ended or sleeps already, or has had another owner since.
pub fn asleep_unowned(instance: &mut Instance, generation: Generation) -> Result<(), StepError> {
    in_phase(instance, OWNED)?;
    same_generation(instance, generation)?;
    if instance.desired != Desired::Sleeping {
        return Err(StepError::Desired(instance.desired));
    }
    fall_asleep(instance);
    Ok(())
}

/// The move of an external instance is given up: it is where it was.
///
/// # Errors
///
/// Unless the instance is external and moves in this generation.
pub fn give_up_external_move(instance: &mut Instance, generation: Generation, why: &str) -> Result<(), StepError> {
    external(instance)?;
    under_way(instance)?;
    same_generation(instance, generation)?;
    instance.phase = Phase::Running;
    instance.reason = Some(why.to_owned());
    Ok(())
}

/// Ends, as desired, what no live node owns: a pending or ended instance, or one whose owner's lease has lapsed.
///
/// # Errors
///
/// It is to run, has ended as desired already, or has had another owner since.
pub fn ended_unowned(instance: &mut Instance, generation: Generation, unix_millis: u64) -> Result<(), StepError> {
    same_generation(instance, generation)?;
    let phase = desired_end(instance)?;
    if instance.phase == phase || (instance.phase.is_end() && phase == Phase::Stopped) {
        return Err(StepError::Phase(instance.phase));
    }
    end(instance, phase, "Ended on request.", unix_millis);
    Ok(())
}

/// Makes a failed or lost instance pending again. Its memory is lost; the next placement has the next generation.
///
/// # Errors
///
/// Unless it failed or was lost in this generation, should run, and has `restart: always`.
pub fn place_again(instance: &mut Instance, generation: Generation) -> Result<(), StepError> {
    in_phase(instance, &[Phase::Failed, Phase::Lost])?;
    same_generation(instance, generation)?;
    wanted(instance)?;
    if instance.spec.restart == Restart::Never {
        return Err(StepError::NoRestart);
    }
    instance.phase = Phase::Pending;
    (instance.node, instance.host, instance.address) = (None, None, None);
    instance.ended_at = None;
    Ok(())
}

// --- what nodes write ---

/// The owner has brought the agent up.
///
/// # Errors
///
/// Unless it is starting there in this generation.
pub fn started(instance: &mut Instance, by: NodeId, generation: Generation) -> Result<(), StepError> {
    in_phase(instance, &[Phase::Starting])?;
    owned_by(instance, by, generation)?;
    instance.phase = Phase::Running;
    instance.reason = None;
    Ok(())
}

/// The owner begins anew under another lease: its daemon was started again, and its relay may have another address.
///
/// Whoever saw the earlier lease lapse may be about to call the instance lost; the next generation makes that step
/// stale. An owner must therefore claim what it was given under an earlier lease before it serves it.
///
/// # Errors
///
/// Unless it is the owner of a live instance.
pub fn claim(instance: &mut Instance, by: NodeId, generation: Generation, address: &str) -> Result<(), StepError> {
    in_phase(instance, OWNED)?;
    owned_by(instance, by, generation)?;
    instance.generation = generation.next();
    instance.address = Some(address.to_owned());
    Ok(())
}

/// The owner's relay has a new address: its daemon was started anew.
///
/// # Errors
///
/// Unless it is the owner of a live instance.
pub fn readdress(instance: &mut Instance, by: NodeId, generation: Generation, address: &str) -> Result<(), StepError> {
    in_phase(instance, OWNED)?;
    owned_by(instance, by, generation)?;
    instance.address = Some(address.to_owned());
    Ok(())
}

/// The instance could not start, or ended by itself.
///
/// # Errors
///
/// Unless the writer is the owner of a live instance; or it should sleep: then [`asleep`] is all there is to say.
pub fn failed(
    instance: &mut Instance,
    by: NodeId,
    generation: Generation,
    why: &str,
    unix_millis: u64,
) -> Result<(), StepError> {
    in_phase(instance, OWNED)?;
    owned_by(instance, by, generation)?;
    awake(instance)?;
    end(instance, Phase::Failed, why, unix_millis);
    Ok(())
}

/// The owner has seen no traffic for as long as the spec says, and asks for the instance to sleep.
///
/// # Errors
///
/// Unless the writer is the owner of an instance that runs and should.
pub fn idle(instance: &mut Instance, by: NodeId, generation: Generation) -> Result<(), StepError> {
    in_phase(instance, &[Phase::Running])?;
    owned_by(instance, by, generation)?;
    wanted(instance)?;
    instance.desired = Desired::Sleeping;
    Ok(())
}

/// The owner was asked to put the instance to sleep, and has: nothing of it runs any more.
///
/// It may have been woken since; then this is still true, and it is placed again.
///
/// # Errors
///
/// Unless the writer is the owner of an instance that runs and is not to end.
pub fn asleep(instance: &mut Instance, by: NodeId, generation: Generation) -> Result<(), StepError> {
    in_phase(instance, &[Phase::Running])?;
    owned_by(instance, by, generation)?;
    match instance.desired {
        Desired::Running | Desired::Sleeping => fall_asleep(instance),
        Desired::Stopped | Desired::Deleted => return Err(StepError::Desired(instance.desired)),
    }
    Ok(())
}

/// The target of a move can take over.
///
/// # Errors
///
/// Unless this very move is being prepared.
pub fn prepared(instance: &mut Instance, by: NodeId, generation: Generation) -> Result<(), StepError> {
    same_generation(instance, generation)?;
    match &mut instance.moving {
        Some(moving) if moving.to != by => Err(StepError::NotYours),
        Some(moving) if moving.step == MoveStep::Preparing => {
            moving.step = MoveStep::Prepared;
            Ok(())
        }
        Some(_) | None => Err(StepError::Phase(instance.phase)),
    }
}

/// The source has fenced itself and gives the instance, with the next generation, to the target.
///
/// # Errors
///
/// Unless the writer is the owner and the target is prepared.
pub fn commit_move(
    instance: &mut Instance,
    by: NodeId,
    generation: Generation,
    target: &Node,
) -> Result<(), StepError> {
    in_phase(instance, &[Phase::Moving])?;
    owned_by(instance, by, generation)?;
    if instance.moving != Some(Move { to: target.id, step: MoveStep::Prepared }) {
        return Err(StepError::NotYours);
    }
    instance.phase = Phase::Running;
    instance.moving = None;
    give_to(instance, target);
    Ok(())
}

/// The source gives the move up: the instance stays where it is.
///
/// # Errors
///
/// Unless the writer is the owner and a move is in progress.
pub fn give_up_move(instance: &mut Instance, by: NodeId, generation: Generation, why: &str) -> Result<(), StepError> {
    in_phase(instance, &[Phase::Moving])?;
    owned_by(instance, by, generation)?;
    instance.phase = Phase::Running;
    instance.moving = None;
    instance.reason = Some(why.to_owned());
    Ok(())
}

/// The owner has ended the instance as desired.
///
/// # Errors
///
/// Unless the writer is the owner of a live instance that should end.
pub fn ended(instance: &mut Instance, by: NodeId, generation: Generation, unix_millis: u64) -> Result<(), StepError> {
    in_phase(instance, OWNED)?;
    owned_by(instance, by, generation)?;
    let phase = desired_end(instance)?;
    end(instance, phase, "Ended on request.", unix_millis);
    Ok(())
}

// --- what follows from a record ---

/// Whether `node` may carry a connection to `generation` of the instance, by the record it has.
///
/// # Errors
///
/// The refusal to answer with. A record that is older than the asker's is to be read anew before it is believed.
pub fn may_serve(instance: &Instance, node: NodeId, generation: Generation) -> Result<(), ErrorCode> {
    let answer = match instance.phase {
        Phase::Pending => return Err(ErrorCode::InstanceStarting),
        Phase::Stopped => return Err(ErrorCode::InstanceStopped),
        Phase::Failed => return Err(ErrorCode::InstanceFailed),
        Phase::Lost => return Err(ErrorCode::InstanceLost),
        Phase::Deleted => return Err(ErrorCode::InstanceGone),
        Phase::Sleeping => return Err(ErrorCode::InstanceWaking),
        Phase::Starting => Err(ErrorCode::InstanceStarting),
        Phase::Running if is_dozing(instance) => Err(ErrorCode::InstanceWaking),
        Phase::Moving if is_handed_over(instance) => Err(ErrorCode::InstanceMoving),
        Phase::Running | Phase::Moving => Ok(()),
    };
    if instance.node != Some(node) || generation > instance.generation {
        Err(ErrorCode::NodeNotHere)
    } else if generation < instance.generation {
        Err(ErrorCode::NodeStaleGeneration)
    } else {
        answer
    }
}

/// Whether the source of a move serves no more: the target is prepared, or its platform moves an external instance.
pub fn is_handed_over(instance: &Instance) -> bool {
    match &instance.moving {
        Some(moving) => moving.step == MoveStep::Prepared,
        None => instance.phase == Phase::Moving && instance.spec.external.is_some(),
    }
}

/// Whether the owner is about to put the instance to sleep, and takes nothing new.
pub fn is_dozing(instance: &Instance) -> bool {
    instance.phase == Phase::Running && instance.desired == Desired::Sleeping
}

/// What a client is told about an instance in this phase, if the phase is an end.
pub const fn end_code(phase: Phase) -> Option<ErrorCode> {
    match phase {
        Phase::Pending | Phase::Starting | Phase::Running | Phase::Moving | Phase::Sleeping => None,
        Phase::Stopped => Some(ErrorCode::InstanceStopped),
        Phase::Failed => Some(ErrorCode::InstanceFailed),
        Phase::Lost => Some(ErrorCode::InstanceLost),
        Phase::Deleted => Some(ErrorCode::InstanceGone),
    }
}

/// Whether an ended instance comes back by itself.
pub fn will_restart(instance: &Instance) -> bool {
    let restarts = matches!(instance.phase, Phase::Failed | Phase::Lost);
    restarts && instance.desired == Desired::Running && instance.spec.restart == Restart::Always
}

/// The phases in which a node has the instance.
const OWNED: &[Phase] = &[Phase::Starting, Phase::Running, Phase::Moving];

/// The phases in which an instance that should run waits for a node.
const WAITING: &[Phase] = &[Phase::Pending, Phase::Sleeping];

/// Why nothing can be done with an instance in this phase; `None` while it runs.
const fn refusal(phase: Phase) -> Option<ErrorCode> {
    match phase {
        Phase::Running => None,
        Phase::Pending | Phase::Starting => Some(ErrorCode::InstanceStarting),
        Phase::Moving => Some(ErrorCode::InstanceMoving),
        Phase::Sleeping => Some(ErrorCode::InstanceSleeping),
        Phase::Stopped | Phase::Failed | Phase::Lost | Phase::Deleted => end_code(phase),
    }
}

fn in_phase(instance: &Instance, allowed: &[Phase]) -> Result<(), StepError> {
    if allowed.contains(&instance.phase) { Ok(()) } else { Err(StepError::Phase(instance.phase)) }
}

fn same_generation(instance: &Instance, given: Generation) -> Result<(), StepError> {
    let present = instance.generation;
    if given == present { Ok(()) } else { Err(StepError::Generation { given, present }) }
}

fn owned_by(instance: &Instance, by: NodeId, generation: Generation) -> Result<(), StepError> {
    if instance.node != Some(by) {
        return Err(StepError::NotYours);
    }
    same_generation(instance, generation)
}

fn wanted(instance: &Instance) -> Result<(), StepError> {
    match instance.desired {
        Desired::Running => Ok(()),
        Desired::Sleeping | Desired::Stopped | Desired::Deleted => Err(StepError::Desired(instance.desired)),
    }
}

fn awake(instance: &Instance) -> Result<(), StepError> {
    match instance.desired {
        Desired::Sleeping => Err(StepError::Desired(Desired::Sleeping)),
        Desired::Running | Desired::Stopped | Desired::Deleted => Ok(()),
    }
}

fn external(instance: &Instance) -> Result<(), StepError> {
    if instance.spec.external.is_some() { Ok(()) } else { Err(StepError::NotExternal) }
}

fn under_way(instance: &Instance) -> Result<(), StepError> {
    match instance.phase {
        Phase::Moving => Ok(()),
        Phase::Running => Err(StepError::NoMove),
        Phase::Pending | Phase::Starting | Phase::Sleeping => Err(StepError::Phase(instance.phase)),
        Phase::Stopped | Phase::Failed | Phase::Lost | Phase::Deleted => Err(StepError::Phase(instance.phase)),
    }
}

fn desired_end(instance: &Instance) -> Result<Phase, StepError> {
    match instance.desired {
        Desired::Running | Desired::Sleeping => Err(StepError::Desired(instance.desired)),
        Desired::Stopped => Ok(Phase::Stopped),
        Desired::Deleted => Ok(Phase::Deleted),
    }
}

fn give_to(instance: &mut Instance, node: &Node) {
    instance.generation = instance.generation.next();
    instance.node = Some(node.id);
    instance.host = Some(node.host.clone());
    instance.address = Some(node.address.clone());
}

/// The host stays: its files are there.
fn fall_asleep(instance: &mut Instance) {
    instance.phase = Phase::Sleeping;
    (instance.node, instance.address) = (None, None);
    instance.reason = None;
}

/// Node, host and address stay: they are the evidence of where it ended.
fn end(instance: &mut Instance, phase: Phase, reason: &str, unix_millis: u64) {
    instance.phase = phase;
    instance.moving = None;
    instance.ended_at = Some(unix_millis);
    instance.reason = Some(reason.to_owned());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::InstanceId;
    use crate::record::{External, InstanceSpec, Kind, Service};

    const NODES: u128 = 3;

    fn node_id(number: u128) -> NodeId {
        NodeId::new(1, number)
    }

    fn node(number: u128) -> Node {
        Node {
            id: node_id(number),
            name: format!("n{number}"),
            host: "h".to_owned(),
            address: format!("10.0.0.{number}:7000"),
            capacity: 10,
            labels: BTreeMap::new(),
            draining: false,
            isolation: "none: a test".to_owned(),
            started_at: 0,
        }
    }

    fn created(restart: Restart) -> Instance {
        Instance {
            id: InstanceId::new(1, 1),
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

    fn running(on: u128) -> Instance {
        let mut instance = created(Restart::Always);
        place(&mut instance, &node(on)).unwrap();
        started(&mut instance, node_id(on), Generation(1)).unwrap();
        instance
    }

    fn moving(from: u128, to: u128) -> Instance {
        let mut instance = running(from);
        begin_move(&mut instance, &node(to)).unwrap();
        instance
    }

    const G1: Generation = Generation(1);

    #[test]
    fn a_life_without_trouble_is_placed_started_moved_and_deleted() {
        let mut instance = moving(1, 2);
        prepared(&mut instance, node_id(2), G1).unwrap();
        commit_move(&mut instance, node_id(1), G1, &node(2)).unwrap();
        assert_eq!((instance.phase, instance.generation), (Phase::Running, Generation(2)));
        assert_eq!((instance.node, instance.address.as_deref()), (Some(node_id(2)), Some("10.0.0.2:7000")));
        desire_deleted(&mut instance).unwrap();
        ended(&mut instance, node_id(2), Generation(2), 77).unwrap();
        assert_eq!((instance.phase, instance.ended_at), (Phase::Deleted, Some(77)));
    }

    #[test]
    fn a_move_needs_another_live_node_of_the_same_host() {
        let far = Node { host: "elsewhere".to_owned(), ..node(2) };
        let draining = Node { draining: true, ..node(2) };
        for (to, why) in
            [(node(1), TargetError::SameNode), (far, TargetError::OtherHost), (draining, TargetError::Draining)]
        {
            let mut instance = running(1);
            assert_eq!(begin_move(&mut instance, &to), Err(StepError::Target(why)));
            assert_eq!(instance, running(1));
            assert_eq!(Problem::from(StepError::Target(why)).code, ErrorCode::MoveRefused);
        }
    }

    #[test]
    fn only_the_source_commits_and_only_to_a_prepared_target() {
        let mut instance = moving(1, 2);
        assert_eq!(commit_move(&mut instance, node_id(1), G1, &node(2)), Err(StepError::NotYours));
        assert_eq!(prepared(&mut instance, node_id(3), G1), Err(StepError::NotYours));
        prepared(&mut instance, node_id(2), G1).unwrap();
        assert_eq!(commit_move(&mut instance, node_id(2), G1, &node(2)), Err(StepError::NotYours));
        assert_eq!(commit_move(&mut instance, node_id(1), G1, &node(3)), Err(StepError::NotYours));
        give_up_move(&mut instance, node_id(1), G1, "the target did not answer").unwrap();
        assert_eq!(commit_move(&mut instance, node_id(1), G1, &node(2)), Err(StepError::Phase(Phase::Running)));
    }

    #[test]
    fn a_step_meant_for_an_earlier_placement_is_refused() {
        let mut instance = running(1);
        lost(&mut instance, G1, 5).unwrap();
        place_again(&mut instance, G1).unwrap();
        place(&mut instance, &node(1)).unwrap();
        let stale = StepError::Generation { given: G1, present: Generation(2) };
        assert_eq!(started(&mut instance, node_id(1), G1), Err(stale));
        assert_eq!(lost(&mut instance, G1, 6), Err(stale));
        assert_eq!(failed(&mut instance, node_id(1), G1, "late news", 6), Err(stale));
        assert_eq!(instance.phase, Phase::Starting);
    }

    #[test]
    fn a_stop_keeps_a_failed_instance_from_coming_back() {
        let mut instance = running(1);
        failed(&mut instance, node_id(1), G1, "the agent died", 5).unwrap();
        assert!(will_restart(&instance));
        desire_stopped(&mut instance).unwrap();
        assert!(!will_restart(&instance));
        assert_eq!(place_again(&mut instance, G1), Err(StepError::Desired(Desired::Stopped)));
        assert_eq!(ended_unowned(&mut instance, G1, 6), Err(StepError::Phase(Phase::Failed)));
        desire_deleted(&mut instance).unwrap();
        ended_unowned(&mut instance, G1, 6).unwrap();
        assert_eq!(instance.phase, Phase::Deleted);
    }

    fn asleep_on(host: u128) -> Instance {
        let mut instance = running(host);
        desire_sleeping(&mut instance).unwrap();
        asleep(&mut instance, node_id(host), G1).unwrap();
        instance
    }

    #[test]
    fn an_idle_instance_sleeps_on_no_node_and_wakes_where_its_files_are_with_the_next_generation() {
        let mut instance = running(1);
        idle(&mut instance, node_id(1), G1).unwrap();
        assert!(is_dozing(&instance));
        asleep(&mut instance, node_id(1), G1).unwrap();
        assert_eq!((instance.phase, instance.generation, instance.ended_at), (Phase::Sleeping, G1, None));
        assert_eq!((instance.node, instance.host.as_deref(), &instance.address), (None, Some("h"), &None));
        assert_eq!(place(&mut instance, &node(2)), Err(StepError::Desired(Desired::Sleeping)), "nobody woke it");
        desire_awake(&mut instance).unwrap();
        let far = Node { host: "elsewhere".to_owned(), ..node(2) };
        assert_eq!(place(&mut instance, &far), Err(StepError::Target(TargetError::OtherHost)));
        place(&mut instance, &node(2)).unwrap();
        assert_eq!((instance.phase, instance.generation), (Phase::Starting, Generation(2)));
        assert_eq!(asleep(&mut instance, node_id(1), G1), Err(StepError::Phase(Phase::Starting)));
    }

    #[test]
    fn only_the_owner_of_this_life_finds_it_idle_or_says_that_it_sleeps() {
        let mut instance = running(1);
        let stale = Err(StepError::Generation { given: Generation(0), present: G1 });
        assert_eq!(idle(&mut instance, node_id(2), G1), Err(StepError::NotYours));
        assert_eq!(idle(&mut instance, node_id(1), Generation(0)), stale);
        assert_eq!(asleep(&mut instance, node_id(2), G1), Err(StepError::NotYours));
        assert_eq!(instance, running(1));
    }

    #[test]
    fn one_that_is_woken_while_it_falls_asleep_is_placed_again_and_one_woken_before_never_slept() {
        let mut instance = running(1);
        desire_sleeping(&mut instance).unwrap();
        desire_awake(&mut instance).unwrap();
        assert_eq!(instance, running(1));
        desire_sleeping(&mut instance).unwrap();
        desire_awake(&mut instance).unwrap();
        // The owner had begun by then, and says what it did.
        asleep(&mut instance, node_id(1), G1).unwrap();
        place(&mut instance, &node(1)).unwrap();
        assert_eq!((instance.phase, instance.generation), (Phase::Starting, Generation(2)));
    }

    #[test]
    fn sleep_and_waking_are_asked_for_as_often_as_one_likes_and_of_nothing_that_is_to_end() {
        let mut instance = asleep_on(1);
        desire_sleeping(&mut instance).unwrap();
        assert_eq!(instance, asleep_on(1));
        for _ in 0..2 {
            desire_awake(&mut instance).unwrap();
        }
        desire_stopped(&mut instance).unwrap();
        assert_eq!(desire_awake(&mut instance), Err(StepError::Desired(Desired::Stopped)));
        let failed = Instance { phase: Phase::Failed, ..created(Restart::Never) };
        assert_eq!(desire_awake(&mut failed.clone()), Err(StepError::Phase(Phase::Failed)));
        assert_eq!(desire_sleeping(&mut instance), Err(StepError::Desired(Desired::Stopped)));
        ended_unowned(&mut instance, G1, 5).unwrap();
        assert_eq!((instance.phase, instance.host.as_deref()), (Phase::Stopped, Some("h")));
        assert_eq!(desire_sleeping(&mut instance), Err(StepError::Phase(Phase::Stopped)));
        let mut starting = created(Restart::Never);
        place(&mut starting, &node(1)).unwrap();
        assert_eq!(desire_sleeping(&mut starting), Err(StepError::Phase(Phase::Starting)));
    }

    #[test]
    fn what_should_sleep_neither_fails_nor_is_lost_but_sleeps() {
        let mut instance = running(1);
        desire_sleeping(&mut instance).unwrap();
        let sleeps = Err(StepError::Desired(Desired::Sleeping));
        assert_eq!(failed(&mut instance, node_id(1), G1, "the agent died", 5), sleeps);
        assert_eq!(lost(&mut instance, G1, 5), sleeps);
        asleep_unowned(&mut instance, G1).unwrap();
        assert_eq!(instance, asleep_on(1));
        let mut awake = running(1);
        assert_eq!(asleep_unowned(&mut awake, G1), Err(StepError::Desired(Desired::Running)));
    }

    #[test]
    fn why_an_instance_waits_for_a_node_stands_in_its_record_until_one_takes_it() {
        let mut instance = created(Restart::Never);
        waits(&mut instance, "No node is live.").unwrap();
        assert_eq!(instance.reason.as_deref(), Some("No node is live."));
        place(&mut instance, &node(1)).unwrap();
        assert_eq!(instance.reason, None);
        assert_eq!(waits(&mut instance, "late news"), Err(StepError::Phase(Phase::Starting)));
    }

    fn named(name: &str) -> ServiceName {
        name.parse().unwrap()
    }

    /// An external instance with an agent and a service.
    fn outside() -> Instance {
        let service = Service { address: Some("10.1.0.1:80".to_owned()), ..Service::default() };
        let spec = InstanceSpec {
            external: Some(External { agent: Some("10.1.0.1:9".to_owned()) }),
            services: [(named("web"), service)].into(),
            ..InstanceSpec::default()
        };
        let address = Some("10.1.0.1:9".to_owned());
        Instance { spec, phase: Phase::Running, generation: G1, address, ..created(Restart::Never) }
    }

    #[test]
    fn the_platform_of_an_external_instance_moves_it_in_two_steps() {
        let mut instance = outside();
        assert_eq!(commit_external_move(&mut instance, None, &BTreeMap::new()), Err(StepError::NoMove));
        begin_external_move(&mut instance).unwrap();
        assert!(is_handed_over(&instance));
        let moving = instance.clone();
        begin_external_move(&mut instance).unwrap();
        assert_eq!(instance, moving);
        let unknown = [(named("db"), "10.1.0.2:1".to_owned())].into();
        assert_eq!(commit_external_move(&mut instance, None, &unknown), Err(StepError::NoService(named("db"))));
        assert_eq!(instance, moving);
        let services = [(named("web"), "10.1.0.2:80".to_owned())].into();
        commit_external_move(&mut instance, Some("10.1.0.2:9"), &services).unwrap();
        assert_eq!((instance.phase, instance.generation), (Phase::Running, Generation(2)));
        assert_eq!(instance.address.as_deref(), Some("10.1.0.2:9"));
        assert_eq!(instance.spec.services[&named("web")].address.as_deref(), Some("10.1.0.2:80"));
    }

    #[test]
    fn an_external_move_that_is_given_up_changes_nothing_but_the_reason() {
        let mut instance = outside();
        begin_external_move(&mut instance).unwrap();
        give_up_external_move(&mut instance, G1, "called off").unwrap();
        assert_eq!(instance, Instance { reason: Some("called off".to_owned()), ..outside() });
        assert_eq!(give_up_external_move(&mut instance, G1, "late"), Err(StepError::NoMove));
    }

    #[test]
    fn who_runs_an_instance_moves_it_sleeps_it_and_ends_it_and_nobody_else() {
        let mut instance = outside();
        assert_eq!(desire_sleeping(&mut instance), Err(StepError::CannotSleep));
        assert_eq!(begin_move(&mut instance, &node(1)), Err(StepError::Target(TargetError::External)));
        desire_stopped(&mut instance).unwrap();
        ended_external(&mut instance, 5).unwrap();
        assert_eq!((instance.phase, instance.ended_at), (Phase::Stopped, Some(5)));
        let mut ours = running(1);
        assert_eq!(begin_external_move(&mut ours), Err(StepError::NotExternal));
        assert_eq!(ended_external(&mut ours, 5), Err(StepError::NotExternal));
    }

    #[test]
    fn who_may_serve_follows_from_the_record() {
        let mut prepared_move = moving(1, 2);
        prepared(&mut prepared_move, node_id(2), G1).unwrap();
        let mut starting = created(Restart::Never);
        place(&mut starting, &node(1)).unwrap();
        let in_phase = |phase| Instance { phase, ..running(1) };
        let later = Instance { generation: Generation(2), ..running(1) };
        for (instance, asked, expected) in [
            (running(1), 1, Ok(())),
            (moving(1, 2), 1, Ok(())),
            (prepared_move, 1, Err(ErrorCode::InstanceMoving)),
            (starting, 1, Err(ErrorCode::InstanceStarting)),
            (created(Restart::Never), 1, Err(ErrorCode::InstanceStarting)),
            (later, 1, Err(ErrorCode::NodeStaleGeneration)),
            (running(1), 2, Err(ErrorCode::NodeNotHere)),
            (running(2), 1, Err(ErrorCode::NodeNotHere)),
            (moving(2, 1), 1, Err(ErrorCode::NodeNotHere)),
            (Instance { desired: Desired::Sleeping, ..running(1) }, 1, Err(ErrorCode::InstanceWaking)),
            (asleep_on(1), 1, Err(ErrorCode::InstanceWaking)),
            (in_phase(Phase::Stopped), 1, Err(ErrorCode::InstanceStopped)),
            (in_phase(Phase::Failed), 1, Err(ErrorCode::InstanceFailed)),
            (in_phase(Phase::Lost), 1, Err(ErrorCode::InstanceLost)),
            (in_phase(Phase::Deleted), 1, Err(ErrorCode::InstanceGone)),
        ] {
            assert_eq!(may_serve(&instance, node_id(1), Generation(asked)), expected, "{instance:?}");
        }
    }

    /// A cell as the property sees it: the store's record, and the copy each node acts on, however old.
    struct World {
        record: Instance,
        history: Vec<Instance>,
        /// Which version of the history each node has seen; none while it is fenced by its lease.
        seen: [Option<usize>; NODES as usize],
    }

    /// What somebody tries. Nodes act by what they have seen; the store decides by what is.
    #[derive(Clone, Copy, Debug)]
    enum Try {
        See(u128),
        LeaseLapses(u128),
        Keeper(u8),
        Move(u128),
        Sleep,
        Wake,
        Desire(u8),
        Node(u128, u8),
    }

    impl World {
        fn new() -> Self {
            let record = created(Restart::Always);
            Self { history: vec![record.clone()], record, seen: [Some(0); NODES as usize] }
        }

        /// One compare-and-swap: the step is decided on the present record, whatever its writer has seen.
        fn write(&mut self, step: impl FnOnce(&mut Instance) -> Result<(), StepError>) -> bool {
            let before = self.record.clone();
            let done = step(&mut self.record).is_ok();
            assert!(done || self.record == before, "a refused step changed the record");
            if done {
                assert_allowed(&before, &self.record);
                self.history.push(self.record.clone());
            }
            done
        }

        fn attempt(&mut self, action: Try) {
            let generation = self.record.generation;
            match action {
                Try::See(n) => self.see(n),
                Try::LeaseLapses(n) => self.seen[n as usize] = None,
                Try::Keeper(0) => drop(self.write(|record| place(record, &node(u128::from(generation.0) % NODES)))),
                Try::Keeper(1) => drop(self.write(|record| place_again(record, generation))),
                Try::Keeper(step) => {
                    let fenced = self
                        .record
                        .node
                        .is_none_or(|owner| (0..NODES).any(|n| node_id(n) == owner && self.seen[n as usize].is_none()));
                    if fenced && step == 2 {
                        self.write(|record| lost(record, generation, 9));
                    } else if fenced && step == 3 {
                        self.write(|record| asleep_unowned(record, generation));
                    } else if fenced || self.record.phase.is_end() {
                        self.write(|record| ended_unowned(record, generation, 9));
                    }
                }
                Try::Move(to) => drop(self.write(|record| begin_move(record, &node(to)))),
                Try::Sleep => drop(self.write(desire_sleeping)),
                Try::Wake => drop(self.write(desire_awake)),
                Try::Desire(0) => drop(self.write(desire_stopped)),
                Try::Desire(_) => drop(self.write(desire_deleted)),
                Try::Node(by, step) => self.attempt_as_node(by, step),
            }
        }

        fn see(&mut self, n: u128) {
            self.seen[n as usize] = Some(self.history.len() - 1);
        }

        fn attempt_as_node(&mut self, by: u128, step: u8) {
            let Some(seen) = self.seen[by as usize] else { return };
            let (id, view) = (node_id(by), self.history[seen].clone());
            let generation = view.generation;
            // What is asked of an owner: it has stopped serving before it says that the instance is over, or another's.
            let to = view.moving.as_ref().and_then(|moving| (0..NODES).find(|&n| node_id(n) == moving.to)).unwrap_or(0);
            let fenced = view.moving.as_ref().is_some_and(|moving| moving.step == MoveStep::Prepared);
            if matches!(step, 1 | 6 | 8) {
                self.seen[by as usize] = None;
            }
            // Nobody hears the answer to a write: a writer learns what it did by looking.
            match step {
                0 => self.write(|record| started(record, id, generation)),
                1 => self.write(|record| failed(record, id, generation, "it died", 9)),
                2 => self.write(|record| prepared(record, id, generation)),
                3 => fenced && self.write(|record| commit_move(record, id, generation, &node(to))),
                4 => self.write(|record| give_up_move(record, id, generation, "no answer")),
                5 => self.write(|record| readdress(record, id, generation, "10.0.0.9:1")),
                7 => self.write(|record| idle(record, id, generation)),
                8 => self.write(|record| asleep(record, id, generation)),
                _ => self.write(|record| ended(record, id, generation, 9)),
            };
        }

        fn servers(&self) -> Vec<(u128, u64)> {
            let asked = (0..NODES).flat_map(|n| (0..=self.record.generation.0).map(move |g| (n, g)));
            asked
                .filter(|&(n, g)| {
                    self.seen[n as usize]
                        .is_some_and(|seen| may_serve(&self.history[seen], node_id(n), Generation(g)).is_ok())
                })
                .collect()
        }
    }

    fn assert_allowed(before: &Instance, after: &Instance) {
        assert!(after.generation >= before.generation, "the generation fell");
        assert_eq!(after.phase == Phase::Moving, after.moving.is_some());
        assert_eq!(after.phase.is_end(), after.ended_at.is_some());
        assert!(after.desired != Desired::Sleeping || matches!(after.phase, Phase::Running | Phase::Sleeping));
        assert!(after.phase != Phase::Sleeping || (after.node.is_none() && after.host.is_some()));
        let new_owner = after.node.is_some() && after.node != before.node;
        assert!(!new_owner || after.generation > before.generation, "a new owner without a new generation");
        let back = after.phase == Phase::Pending && matches!(before.phase, Phase::Failed | Phase::Lost);
        let on = after.phase == before.phase || after.phase == Phase::Deleted || back;
        assert!(!before.phase.is_end() || on, "{:?} to {:?}", before.phase, after.phase);
    }

    /// Mostly what brings the instance on, so that many lives, moves and losses fit into one run.
    fn any_try() -> impl Strategy<Value = Try> {
        let node = 0..NODES;
        let step = prop_oneof![9 => Just(0u8), 3 => Just(1), 9 => Just(2), 9 => Just(3), 1 => 4u8..9];
        prop_oneof![
            200 => node.clone().prop_map(Try::See),
            8 => node.clone().prop_map(Try::LeaseLapses),
            100 => (0u8..2).prop_map(Try::Keeper),
            30 => (2u8..5).prop_map(Try::Keeper),
            60 => node.clone().prop_map(Try::Move),
            20 => Just(Try::Sleep),
            40 => Just(Try::Wake),
            1 => (0u8..2).prop_map(Try::Desire),
            300 => (node, step).prop_map(|(by, step)| Try::Node(by, step)),
        ]
    }

    proptest! {
        #[test]
        fn no_two_nodes_serve_whoever_writes_what_and_however_old_their_copies_are(
            tries in proptest::collection::vec(any_try(), 1..400),
        ) {
            let mut world = World::new();
            for action in tries {
                world.attempt(action);
                let servers = world.servers();
                prop_assert!(servers.len() <= 1, "{servers:?} after {action:?}");
            }
        }
    }
}
