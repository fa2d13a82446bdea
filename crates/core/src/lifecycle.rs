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
//! the source, which fences itself first; [`lost`] belongs to the keeper, after the owner's lease has lapsed. By then the
//! owner has fenced itself, or nobody else will be given the instance ([`is_bound`]). That is why no two nodes serve an
//! instance, however old their copies are. Until the target of a move is prepared, it may decline, and the source go on as
//! if nothing had been asked.
//!
//! Sleep is asked for by [`desire_sleeping`] or [`idle`] and done by [`asleep`]; between the two the owner takes nothing
//! new, so that whatever comes then has not been started and can wait for the next life. [`desire_awake`] may come at any
//! time: before the owner has begun, nothing happens; after it, the instance sleeps for a moment and is placed again.
//! What an end would be otherwise is no end of an instance that should sleep: nothing of it was to remain.
//!
//! An external instance has no owner among the nodes: its platform says what happens to it, and nobody else does.

mod error;
mod external;
#[cfg(test)]
mod tests;

pub use error::{StepError, TargetError};
pub use external::{begin_external_move, commit_external_move, ended_external, give_up_external_move};

use crate::record::{Desired, Generation, Instance, Move, MoveStep, Node, Phase, Restart};
use crate::{ErrorCode, NodeId};

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
    let node = instance.node.map(|node| node.to_string()).unwrap_or_default();
    lose(instance, generation, &format!("The lease of node {node} lapsed."), unix_millis)
}

/// Its host has ended it because the lease of the node that had it had lapsed: not of the one that has it now, if it was given to
/// another one meanwhile.
///
/// # Errors
///
/// As [`lost`].
pub fn lost_on_its_host(instance: &mut Instance, generation: Generation, unix_millis: u64) -> Result<(), StepError> {
    lose(instance, generation, "The lease of its node lapsed.", unix_millis)
}

fn lose(instance: &mut Instance, generation: Generation, why: &str, unix_millis: u64) -> Result<(), StepError> {
    in_phase(instance, OWNED)?;
    same_generation(instance, generation)?;
    awake(instance)?;
    end(instance, Phase::Lost, why, unix_millis);
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
    // Its node may be running it still, and whoever is asleep is woken elsewhere.
    if is_bound(instance) {
        return Err(StepError::Bound);
    }
    fall_asleep(instance);
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

/// The target of a move cannot take over: the instance stays where it is. Its source has not stopped serving it.
///
/// # Errors
///
/// Unless this very move is being prepared.
pub fn decline_move(instance: &mut Instance, by: NodeId, generation: Generation, why: &str) -> Result<(), StepError> {
    same_generation(instance, generation)?;
    match &instance.moving {
        Some(moving) if moving.to != by => return Err(StepError::NotYours),
        Some(moving) if moving.step == MoveStep::Preparing => {}
        Some(_) | None => return Err(StepError::Phase(instance.phase)),
    }
    instance.phase = Phase::Running;
    instance.moving = None;
    instance.reason = Some(why.to_owned());
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

/// Whether only its own node can bring it to another: it is never placed again after a loss, so that no other is given it unless
/// its own hands it over. Such an instance needs no lease to have one owner, and goes on without it.
pub const fn is_bound(instance: &Instance) -> bool {
    matches!(instance.spec.restart, Restart::Never)
}

/// Whether a request with this path of the agent's wakes an instance that sleeps. Whoever follows what is said there does
/// not: what was said is over with that life, and a reader that comes back by itself would never let it sleep.
pub fn wakes(path: &str) -> bool {
    let path = path.split('?').next().unwrap_or("");
    let is_stream = matches!(path, "/telemetry/stream" | "/kernel/telemetry/stream" | "/kernel/logs/stream");
    let is_output = (path.starts_with("/services/") || path.starts_with("/processes/")) && path.ends_with("/output");
    !is_stream && !is_output
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
