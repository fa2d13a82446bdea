//! The steps of an external instance, which has no owner among the nodes: its platform says where it is.

use std::collections::BTreeMap;

use super::{StepError, ended_unowned, in_phase, same_generation, wanted};
use crate::ServiceName;
use crate::record::{Generation, Instance, Phase};

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

/// Ends an external instance as desired: no node will.
///
/// # Errors
///
/// Unless it is external and should end, and has not ended as desired already.
pub fn ended_external(instance: &mut Instance, unix_millis: u64) -> Result<(), StepError> {
    external(instance)?;
    ended_unowned(instance, instance.generation, unix_millis)
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
