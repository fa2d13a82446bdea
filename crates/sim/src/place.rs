//! One instance as a node daemon knows it, and what takes time about it.

use landfast_core::record::{Generation, Instance};
use landfast_core::time::Instant;

use crate::clock::{MILLI, SECOND, Time};
use crate::host::Hosts;
use crate::names::host_of;
use crate::stage::{NodeWrite, Stage, Who};

/// One instance as the daemon knows it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) record: Instance,
    pub(crate) revision: u64,
    /// The generation in which this daemon may serve it: given to it, or claimed by it, under its present lease.
    pub(crate) serves: Option<Generation>,
    /// The agent is being brought up, or the instance is being prepared for, in this generation until then.
    pub(crate) busy: Option<(Generation, Time)>,
    /// Since when it has been the source of the present move.
    pub(crate) moving_since: Option<Instant>,
    /// A write is under way.
    pub(crate) is_writing: bool,
    /// Nothing is tried before.
    pub(crate) again_at: Time,
}

impl Place {
    pub(crate) fn new(record: &Instance) -> Self {
        Self {
            record: record.clone(),
            revision: 0,
            serves: None,
            busy: None,
            moving_since: None,
            is_writing: false,
            again_at: 0,
        }
    }

    /// Whether a record names another placement than the one known, or is the first that is known.
    pub(crate) fn is_new(&self, record: &Instance) -> bool {
        self.revision == 0 || record.generation > self.record.generation
    }

    /// Until when something takes that is done once in each generation.
    pub(crate) fn busy_until(&mut self, generation: Generation, until: impl FnOnce() -> Time) -> Time {
        match self.busy {
            Some((of, until)) if of == generation => until,
            Some(_) | None => self.busy.insert((generation, until())).1,
        }
    }

    pub(crate) fn bring_up(&mut self, stage: &mut Stage, hosts: &mut Hosts, me: usize) -> Option<NodeWrite> {
        let (id, generation, host) = (self.record.id, self.record.generation, host_of(me));
        let is_begun = self.busy.is_some_and(|(of, _)| of == generation);
        let ready_at = self.busy_until(generation, || stage.now + stage.chance.skewed(MILLI, 3 * SECOND));
        if !is_begun {
            // What runs there is of an earlier life, or this one is over.
            if !hosts.kill(stage, me, id, generation) {
                self.busy = None;
                return Some(NodeWrite::Failed("this host runs a later life"));
            }
            hosts.spawn(stage, host, id, generation);
        } else if hosts.agent(host, id).is_none() {
            self.serves = None;
            return Some(NodeWrite::Failed("the agent died while it started"));
        }
        stage.wake(Who::Node(me), Some(ready_at));
        (stage.now >= ready_at).then_some(NodeWrite::Started)
    }
}
