//! Which connections may reach which instances, decided and undone in one place.
//!
//! An older life of an instance must not be reached once a newer one may run, so it is not enough to check a connection
//! when it comes: whoever shuts a door also waits until the last that went through it is with the agent, before it has the
//! agent cut them and tells anybody. Checking and being counted are one step under one lock, so nothing slips in between.
//!
//! Two things must hold for a connection: the instance's door is open for its generation, and the node holds its lease
//! at this moment by the clock, whether or not a timer has fired. An instance that nobody else can be given needs no lease.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use landfast_core::lifecycle::{is_bound, may_serve};
use landfast_core::record::{Generation, Instance};
use landfast_core::time::Instant;
use landfast_core::{ErrorCode, InstanceId, NodeId};
use landfast_net::clock;
use landfast_net::tenure::{Tenure, TenureFile};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long connections that went through a door may take to be with their agent: each is a few bytes away.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);

/// The doors of all instances that this node has to do with.
#[derive(Debug)]
pub(crate) struct Fence {
    me: NodeId,
    /// Never held across an await.
    places: Mutex<HashMap<InstanceId, Arc<Place>>>,
    /// Nanoseconds of the monotonic clock until which the lease is held.
    holds_until: AtomicU64,
    /// Whether the lease is held as far as the timers know: what the instances' tasks are woken by.
    holding: watch::Sender<bool>,
    /// Tells the agents the same: they have to see for themselves when this daemon cannot tell them anything. Never held
    /// across an await.
    tenure: Mutex<TenureFile>,
}

/// One instance's door.
#[derive(Debug)]
pub(crate) struct Place {
    state: watch::Sender<State>,
}

#[derive(Debug)]
struct State {
    record: Instance,
    door: Door,
    /// Connections that are through the door, and not with the agent yet.
    inside: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// The node is getting ready to serve, or does not know yet whether it will: wait.
    Closed,
    /// The agent serves this generation.
    Open(Generation),
    /// For now or for good: go away with this.
    Shut(ErrorCode),
}

/// The right to give one connection to the agent, until it is dropped.
#[derive(Debug)]
pub(crate) struct Pass(Arc<Place>);

/// A typed no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    /// The generation the record has.
    pub(crate) generation: Option<Generation>,
}

/// What a place says to a connection.
enum Verdict {
    Pass,
    Refuse(ErrorCode),
    /// The record or the door will change.
    Wait,
    /// The asker knows a newer generation than this node does.
    Ignorant,
}

/// What came of asking for admission.
#[derive(Debug)]
pub(crate) enum Admission {
    /// Give it to the agent.
    Pass(Pass),
    /// Say no.
    Refused(Refusal),
    /// This node does not know enough to say no: read the record, then ask again.
    Ignorant,
}

impl Fence {
    pub(crate) fn new(me: NodeId, tenure: TenureFile) -> Self {
        Self {
            me,
            places: Mutex::default(),
            holds_until: AtomicU64::new(0),
            holding: watch::Sender::new(false),
            tenure: Mutex::new(tenure),
        }
    }

    /// The node holds its lease until then, which may be over. The agents know before the first connection comes to them
    /// under it.
    ///
    /// They are not told that it is over: the time they know is, or their end is near. A daemon that has just started and
    /// holds nothing yet goes on with what the one before it was granted.
    ///
    /// # Errors
    ///
    /// The agents could not be told.
    pub(crate) fn prolong(&self, until: Instant) -> io::Result<()> {
        let told = if until > Instant::ZERO { self.tenure_file().hold_until(until) } else { Ok(()) };
        self.hold_until(until);
        told
    }

    /// Others may have seen the lease lapse: what agents carry now is not covered by the next.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(crate) fn begin_tenure(&self) -> io::Result<()> {
        self.tenure_file().begin_anew()
    }

    /// What an agent is given with a connection: nothing if it is to carry it with or without a lease.
    pub(crate) fn tenure(&self, pass: &Pass) -> Option<Tenure> {
        (!pass.0.is_bound()).then(|| self.tenure_file().view())
    }

    /// Tells when the lease is lost and held again.
    pub(crate) fn holding(&self) -> watch::Receiver<bool> {
        self.holding.subscribe()
    }

    /// The lease is over: nothing is admitted that needs it, and nothing of that is inside when this returns.
    ///
    /// # Errors
    ///
    /// The number of connections that would not go.
    pub(crate) async fn shut_leased(&self) -> Result<(), usize> {
        self.hold_until(Instant::ZERO);
        let leased: Vec<_> = self.lock().values().filter(|place| !place.is_bound()).cloned().collect();
        let mut stuck = 0;
        for place in &leased {
            stuck += place.drained().await.err().unwrap_or(0);
        }
        if stuck == 0 { Ok(()) } else { Err(stuck) }
    }

    /// The daemon ends: nothing is admitted any more, and nothing is inside when this returns.
    ///
    /// # Errors
    ///
    /// As [`Self::shut_leased`].
    pub(crate) async fn shut_all(&self) -> Result<(), usize> {
        self.hold_until(Instant::ZERO);
        let places: Vec<_> = self.lock().values().cloned().collect();
        let mut stuck = 0;
        for place in &places {
            stuck += place.shut(ErrorCode::NodeDraining).await.err().unwrap_or(0);
        }
        if stuck == 0 { Ok(()) } else { Err(stuck) }
    }

    /// The instance's door; made, closed, if this node had nothing to do with it yet.
    pub(crate) fn enter(&self, record: &Instance) -> Arc<Place> {
        match self.lock().entry(record.id) {
            Entry::Occupied(place) => place.get().clone(),
            Entry::Vacant(vacant) => vacant.insert(Arc::new(Place::new(record.clone()))).clone(),
        }
    }

    /// The instance's record as the node knows it now.
    pub(crate) fn learn(&self, record: &Instance) {
        let place = self.lock().get(&record.id).cloned();
        if let Some(place) = place {
            place.learn(record);
        }
    }

    /// Forgets an instance's door. Nothing is inside any more: whoever leaves has shut it.
    pub(crate) fn leave(&self, id: InstanceId) {
        self.lock().remove(&id);
    }

    /// Asks for a connection to be let in, waiting until `deadline` for a door that is about to open.
    pub(crate) async fn admit(&self, id: InstanceId, generation: Generation, deadline: Duration) -> Admission {
        let draining = Admission::Refused(Refusal { code: ErrorCode::NodeDraining, generation: None });
        let place = self.lock().get(&id).cloned();
        let is_entitled = || self.holds() || place.as_ref().is_some_and(|place| place.is_bound());
        if !is_entitled() {
            return draining;
        }
        let Some(place) = &place else { return Admission::Ignorant };
        match timeout(deadline, place.admit(self.me, generation)).await {
            Ok(Admission::Pass(_)) if !is_entitled() => draining,
            Ok(admission) => admission,
            Err(_) => Admission::Refused(place.refusal(ErrorCode::InstanceStarting)),
        }
    }

    /// For how long the lease is held from now on; not at all if it is over.
    pub(crate) fn holds_for(&self) -> Duration {
        Instant::from_nanos(self.holds_until.load(Ordering::Acquire)).since(clock::now())
    }

    /// Instances whose doors are open.
    pub(crate) fn open(&self) -> Vec<InstanceId> {
        let is_open = |place: &Arc<Place>| matches!(place.state.borrow().door, Door::Open(_));
        self.lock().iter().filter(|(_, place)| is_open(place)).map(|(&id, _)| id).collect()
    }

    /// Connections that are let in now.
    pub(crate) fn inside(&self) -> usize {
        self.lock().values().map(|place| place.state.borrow().inside).sum()
    }

    /// Instances that have a door.
    pub(crate) fn places(&self) -> usize {
        self.lock().len()
    }

    fn hold_until(&self, until: Instant) {
        self.holds_until.store(until.as_nanos(), Ordering::Release);
        let holds = until > clock::now();
        self.holding.send_if_modified(|holding| std::mem::replace(holding, holds) != holds);
    }

    fn holds(&self) -> bool {
        clock::now().as_nanos() < self.holds_until.load(Ordering::Acquire)
    }

    fn tenure_file(&self) -> MutexGuard<'_, TenureFile> {
        self.tenure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceId, Arc<Place>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn new(record: Instance) -> Self {
        let state = State { record, door: Door::Closed, inside: 0 };
        Self { state: watch::Sender::new(state) }
    }

    /// The record as the node knows it now. A door that was shut on an earlier life is not open for this one yet: whoever asks
    /// for it waits, and does not hear what became of that.
    pub(crate) fn learn(&self, record: &Instance) {
        self.state.send_modify(|state| {
            if record.generation > state.record.generation && matches!(state.door, Door::Shut(_)) {
                state.door = Door::Closed;
            }
            state.record = record.clone();
        });
    }

    /// The agent serves this generation: let connections in.
    pub(crate) fn open(&self, generation: Generation) {
        self.state.send_if_modified(|state| {
            let changed = state.door != Door::Open(generation);
            state.door = Door::Open(generation);
            changed
        });
    }

    /// Lets nobody in any more. When it returns, nobody is between the door and the agent.
    ///
    /// # Errors
    ///
    /// The number of connections that would not go.
    pub(crate) async fn shut(&self, code: ErrorCode) -> Result<(), usize> {
        self.state.send_modify(|state| state.door = Door::Shut(code));
        self.drained().await
    }

    /// Lets nobody in for the moment; whoever comes waits. What is inside is not touched.
    pub(crate) fn close(&self) {
        self.state.send_modify(|state| state.door = Door::Closed);
    }

    /// Whether connections of this generation are let in.
    pub(crate) fn is_open(&self, generation: Generation) -> bool {
        self.state.borrow().door == Door::Open(generation)
    }

    /// Whether it is served with or without a lease.
    pub(crate) fn is_bound(&self) -> bool {
        is_bound(&self.state.borrow().record)
    }

    async fn drained(&self) -> Result<(), usize> {
        let mut states = self.state.subscribe();
        let gone = timeout(DRAIN_DEADLINE, states.wait_for(|state| state.inside == 0)).await.is_ok();
        if gone { Ok(()) } else { Err(self.state.borrow().inside) }
    }

    async fn admit(self: &Arc<Self>, me: NodeId, generation: Generation) -> Admission {
        let mut states = self.state.subscribe();
        loop {
            states.mark_unchanged();
            match self.try_admit(me, generation) {
                Verdict::Pass => return Admission::Pass(Pass(self.clone())),
                Verdict::Refuse(code) => return Admission::Refused(self.refusal(code)),
                Verdict::Ignorant => return Admission::Ignorant,
                Verdict::Wait => {
                    // The sender is ours and outlives the wait, so it cannot end without a change.
                    let _ = states.changed().await;
                }
            }
        }
    }

    /// Decides and, if it is a yes, counts the connection in, in one step.
    fn try_admit(&self, me: NodeId, generation: Generation) -> Verdict {
        let mut verdict = Verdict::Wait;
        self.state.send_if_modified(|state| {
            verdict = state.verdict(me, generation);
            if matches!(verdict, Verdict::Pass) {
                state.inside += 1;
            }
            false
        });
        verdict
    }

    fn refusal(&self, code: ErrorCode) -> Refusal {
        Refusal { code, generation: Some(self.state.borrow().record.generation) }
    }
}

impl State {
    fn verdict(&self, me: NodeId, generation: Generation) -> Verdict {
        if generation > self.record.generation {
            return Verdict::Ignorant;
        }
        match may_serve(&self.record, me, generation) {
            // The asker knows that it has started; so will we in a moment.
            Err(ErrorCode::InstanceStarting) => return Verdict::Wait,
            Err(code) => return Verdict::Refuse(code),
            Ok(()) => {}
        }
        match self.door {
            Door::Open(open) if open == generation => Verdict::Pass,
            Door::Open(_) | Door::Closed => Verdict::Wait,
            Door::Shut(code) => Verdict::Refuse(code),
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.inside -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use landfast_core::record::{Desired, InstanceSpec, Kind, Phase};

    use super::*;

    const ME: NodeId = NodeId::new(1, 1);

    fn running(generation: u64) -> Instance {
        Instance {
            id: InstanceId::new(1, 1),
            kind: Kind::Sandbox,
            spec: InstanceSpec::default(),
            desired: Desired::Running,
            phase: Phase::Running,
            generation: Generation(generation),
            node: Some(ME),
            host: None,
            address: None,
            moving: None,
            reason: None,
            labels: BTreeMap::new(),
            created_at: 0,
            ended_at: None,
        }
    }

    #[tokio::test]
    async fn a_door_that_was_shut_on_one_life_lets_who_comes_for_the_next_wait_until_it_opens() {
        let place = Arc::new(Place::new(running(1)));
        place.shut(ErrorCode::InstanceWaking).await.unwrap();
        place.learn(&running(1));
        assert!(matches!(place.admit(ME, Generation(1)).await, Admission::Refused(_)), "it is shut on this life");
        place.learn(&running(2));
        let admission = tokio::spawn({
            let place = place.clone();
            async move { place.admit(ME, Generation(2)).await }
        });
        tokio::task::yield_now().await;
        place.open(Generation(2));
        assert!(matches!(admission.await.unwrap(), Admission::Pass(_)));
    }
}
