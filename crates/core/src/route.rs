//! What a gateway knows of where instances are, and how sure it is of that.
//!
//! The view is fed by the registry's watch and asks for what it does not know. It must survive a registry that answers
//! late, twice, from the past, or out of an empty store, and it must not let any of that cut a session that works. So it
//! grades its knowledge instead of deleting it:
//!
//! * **sure**: the newest news. Older news never replaces it; a revision decides, and a generation never falls.
//! * **doubted**: the registry's listing no longer has it, without a word about its end. The route is used on, and the
//!   registry is asked about it when it is. A node that runs the instance will serve it; one that does not will say so.
//! * **disproved**: the node itself has said that it does not run this life of it. Nobody uses the route until the
//!   registry was asked; if that has no record either, the instance is unknown.
//!
//! An end is final and says its cause. No record and no end is "unknown", remembered for a moment only; a question that
//! failed proves nothing at all.

use std::borrow::Borrow;
use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::lifecycle::{end_code, is_handed_over, will_restart};
use crate::record::{Desired, Generation, Instance, Limits, Phase, Service};
use crate::redial::Presence;
use crate::time::{Instant, earliest};
use crate::{ErrorCode, InstanceId, NodeId, ServiceName};

/// The most questions to the registry at a time: unknown ids come from outside, and may be made up.
pub const ASKS_MAX: usize = 1_000;

/// A question without an answer counts as failed after this long; the waiter's own deadline is longer.
pub const ASK_WITHIN: Duration = Duration::from_secs(5);

/// How long "no such instance" and "no answer" are remembered: long enough to absorb a burst, too short to be noticed.
pub const ABSENT_FOR: Duration = Duration::from_secs(1);

/// The most ids remembered as absent; beyond it the oldest are forgotten and would be asked for again.
pub const ABSENT_MAX: usize = 10_000;

/// Room for effects that is kept while there are none.
const EFFECTS_KEPT: usize = 1_024;

/// A doubted route that is in use is asked about this often at most.
const DOUBT_ASK_EVERY: Duration = Duration::from_secs(5);

/// A doubted route that nobody has looked up for this long is forgotten. Longer than the day for which a registry keeps
/// the record of an end, so that a cell that came back has had its say.
const DOUBT_FOR: Duration = Duration::from_secs(25 * 3600);

/// Where an instance is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The instance.
    pub instance: InstanceId,
    /// Its phase.
    pub phase: Phase,
    /// Its generation, which every connection to it carries.
    pub generation: Generation,
    /// The node that has it.
    pub node: Option<NodeId>,
    /// That node's relay (`host:port`), or the agent's own address on a machine that is not ours.
    pub address: Option<Arc<str>>,
    /// What is known of its services.
    pub services: ServiceRoutes,
    /// What may be let through to it.
    pub limits: Limits,
    /// Its node has stopped serving it, for a move.
    handed_over: bool,
    /// It has ended, and comes back by itself.
    restarts: bool,
    /// It is to sleep: it does, or its node takes nothing new and is about to put it to sleep. What is different once
    /// somebody has woken it, so that whoever waits hears when it is put to sleep again before it ran.
    is_to_sleep: bool,
}

/// What a gateway needs to know of an instance's services, each of another name. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRoutes(Arc<Box<[(ServiceName, ServiceRoute)]>>);

/// What a gateway needs to know of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRoute {
    /// Where it is reached without an agent (`host:port`).
    pub address: Option<Arc<str>>,
    /// Whether its own refusals are believed to say that nothing was run.
    pub retry_signals: bool,
}

impl ServiceRoutes {
    /// Most instances have none, and share that.
    fn of(instance: &Instance) -> Self {
        static NONE: LazyLock<ServiceRoutes> = LazyLock::new(|| ServiceRoutes(Arc::default()));
        match &instance.spec.services {
            none if none.is_empty() => NONE.clone(),
            services => Self(Arc::new(services.iter().map(|(name, service)| (*name, service.into())).collect())),
        }
    }

    /// The service of this name. They are few: looked through, they are found as fast as in a map, in a tenth of its memory.
    pub fn get(&self, name: ServiceName) -> Option<&ServiceRoute> {
        self.0.iter().find_map(|(known, service)| (*known == name).then_some(service))
    }
}

impl From<&Service> for ServiceRoute {
    fn from(service: &Service) -> Self {
        Self { address: service.address.as_deref().map(Arc::from), retry_signals: service.retry_signals }
    }
}

impl Route {
    /// The route that follows from a record.
    pub fn of(instance: &Instance) -> Self {
        Self {
            instance: instance.id,
            phase: instance.phase,
            generation: instance.generation,
            node: instance.node,
            address: instance.address.as_deref().map(Arc::from),
            services: ServiceRoutes::of(instance),
            limits: instance.spec.limits,
            handed_over: is_handed_over(instance),
            restarts: will_restart(instance),
            is_to_sleep: instance.desired == Desired::Sleeping,
        }
    }

    /// What a session is told of this. The life it belongs to has ended even if another follows.
    ///
    /// So a sleep ends it: what it talked to runs no more, and what is started at the waking knows nothing of it. To hold
    /// its client until then would be to wait for a refusal, since a session that waits does not wake anybody. One whose
    /// instance is only about to sleep goes on until it does, or is woken first.
    pub const fn presence(&self) -> Presence {
        match self.phase {
            Phase::Pending | Phase::Starting => Presence::Between(ErrorCode::InstanceStarting),
            Phase::Moving if self.handed_over => Presence::Between(ErrorCode::InstanceMoving),
            Phase::Running | Phase::Moving => Presence::Here(self.generation),
            Phase::Sleeping => Presence::Ended(ErrorCode::UpstreamChanged),
            Phase::Stopped => Presence::Ended(ErrorCode::InstanceStopped),
            Phase::Failed => Presence::Ended(ErrorCode::InstanceFailed),
            Phase::Lost => Presence::Ended(ErrorCode::InstanceLost),
            Phase::Deleted => Presence::Ended(ErrorCode::InstanceGone),
        }
    }

    /// What a new request is told: it can be sent now, or why it must wait or end.
    ///
    /// # Errors
    ///
    /// `instance.starting` and `instance.moving` pass, and `instance.waking` once somebody wakes it; an end does not.
    pub const fn ready(&self) -> Result<(), ErrorCode> {
        if self.needs_waking() || matches!(self.phase, Phase::Sleeping) {
            return Err(ErrorCode::InstanceWaking);
        }
        match self.presence() {
            Presence::Ended(_) if self.restarts => Err(ErrorCode::InstanceStarting),
            Presence::Ended(code) | Presence::Between(code) => Err(code),
            Presence::Here(_) | Presence::Unknown => Ok(()),
        }
    }

    /// Whether whoever wants something of it has to wake it first. Look again with each change: it may be put to sleep
    /// anew before it ran.
    pub const fn needs_waking(&self) -> bool {
        self.is_to_sleep && matches!(self.phase, Phase::Running | Phase::Sleeping)
    }

    const fn final_end(&self) -> Option<ErrorCode> {
        if self.restarts { None } else { end_code(self.phase) }
    }
}

/// What the view says of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It is there, or between places; [`Route::ready`] tells.
    Known(Route),
    /// The registry is being asked: wait for [`Effect::Changed`] and look again.
    Asking,
    /// It has ended for this cause, and will not come back.
    Ended(ErrorCode),
    /// The registry was asked, and has no record.
    Unknown,
    /// Nothing is known, and the registry gave no answer.
    Unavailable,
}

/// What the view's owner must do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Read the instance's record from the store, and give back what came of it.
    Ask(InstanceId),
    /// Wake who waits for news of this instance.
    Changed(InstanceId),
}

/// A gateway's knowledge of a cell's instances.
#[derive(Debug, Default)]
pub struct RouteView {
    known: HashMap<InstanceId, Entry>,
    asks: Timed<()>,
    absent: Timed<Absence>,
    /// The nodes' addresses, which the routes to one node share.
    addresses: HashMap<NodeId, Arc<str>>,
    /// How far the watch has come.
    revision: u64,
    sweep_at: Option<Instant>,
    effects: VecDeque<Effect>,
}

#[derive(Debug)]
struct Entry {
    route: Route,
    revision: u64,
    trust: Trust,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    Sure,
    /// Last used at this time; to be asked about when next used after `ask_after`.
    Doubted {
        used: Instant,
        ask_after: Instant,
    },
    Disproved,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absence {
    NoRecord,
    NoAnswer,
}

impl RouteView {
    /// A view that knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many instances are known, ended ones included.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Says where an instance is, and sees to it that the registry is asked where that is not known.
    pub fn lookup(&mut self, id: InstanceId, now: Instant) -> Lookup {
        if let Some(entry) = self.known.get_mut(&id) {
            if let Some(code) = entry.route.final_end() {
                return Lookup::Ended(code);
            }
            let route = entry.route.clone();
            match &mut entry.trust {
                Trust::Sure => return Lookup::Known(route),
                Trust::Doubted { used, ask_after } => {
                    *used = now;
                    if now >= *ask_after {
                        *ask_after = now + DOUBT_ASK_EVERY;
                        self.ask(id, now);
                    }
                    return Lookup::Known(route);
                }
                Trust::Disproved => {}
            }
        }
        match self.absent.get(id) {
            Some(Absence::NoRecord) => Lookup::Unknown,
            Some(Absence::NoAnswer) => Lookup::Unavailable,
            None if self.ask(id, now) => Lookup::Asking,
            None => Lookup::Unavailable,
        }
    }

    /// A whole listing of the registry, as of `revision`: the first one, or the one that follows a resync. Each record
    /// comes with the revision of its last change.
    ///
    /// A listing from before what is known, or without anything, is that of a store that was restored or emptied: it
    /// adds, and raises doubt, but ends nothing.
    pub fn handle_snapshot(
        &mut self,
        instances: impl IntoIterator<Item = (impl Borrow<Instance>, u64)>,
        revision: u64,
        now: Instant,
    ) {
        let turned_back = revision < self.revision;
        if turned_back {
            // Its revisions are of another history: any of them is news.
            self.known.values_mut().for_each(|entry| entry.revision = 0);
        }
        self.revision = revision;
        let mut listed = HashSet::new();
        for (instance, revision) in instances {
            let instance = instance.borrow();
            listed.insert(instance.id);
            self.learn(instance, revision, now);
        }
        let trusted = !turned_back && !listed.is_empty();
        // The record of an end is swept after a day; of anything else a registry in its senses keeps the record.
        self.known.retain(|id, entry| listed.contains(id) || !trusted || entry.route.final_end().is_none());
        for (_, entry) in self.known.iter_mut().filter(|(id, _)| !listed.contains(id)) {
            entry.doubt(now);
            self.sweep_at.get_or_insert(now + DOUBT_FOR);
        }
        self.addresses.retain(|_, address| Arc::strong_count(address) > 1);
    }

    /// One change out of the watch; `None` if the record was removed.
    pub fn handle_change(&mut self, id: InstanceId, instance: Option<&Instance>, revision: u64, now: Instant) {
        if revision < self.revision {
            return;
        }
        self.revision = revision;
        let Some(instance) = instance else { return self.handle_removed(id, revision, now) };
        self.learn(instance, revision, now);
    }

    /// The registry's answer to [`Effect::Ask`]: the record and the revision of its last change, or that there is none.
    pub fn handle_answer(&mut self, id: InstanceId, answer: Option<(&Instance, u64)>, now: Instant) {
        let asked = self.asks.remove(id).is_some();
        match answer {
            Some((instance, _)) if self.knows_better_in_vain(instance) => drop(self.known.remove(&id)),
            Some((instance, revision)) => self.learn(instance, revision, now),
            // An answer that came too late may be older than what was learnt since.
            None if asked => self.handle_no_record(id, now),
            None => {}
        }
        self.changed(id);
    }

    /// The registry could not be asked, or did not answer.
    pub fn handle_ask_failed(&mut self, id: InstanceId, now: Instant) {
        if self.asks.remove(id).is_some() {
            self.remember_absent(id, Absence::NoAnswer, now);
            self.changed(id);
        }
    }

    /// A node has said that it does not run this generation of the instance, or runs a newer one.
    pub fn handle_refused(&mut self, id: InstanceId, generation: Generation) {
        if let Some(entry) = self.known.get_mut(&id)
            && entry.route.generation <= generation
        {
            entry.trust = Trust::Disproved;
        }
    }

    /// What to do now. Call until it returns `None`.
    pub fn poll(&mut self, now: Instant) -> Option<Effect> {
        while let Some(id) = self.asks.expired(now) {
            self.remember_absent(id, Absence::NoAnswer, now);
            self.changed(id);
        }
        while self.absent.expired(now).is_some() {}
        if self.sweep_at.is_some_and(|at| now >= at) {
            self.sweep(now);
        }
        let effect = self.effects.pop_front();
        if effect.is_none() {
            // A listing makes one for each route.
            self.effects.shrink_to(EFFECTS_KEPT);
        }
        effect
    }

    /// When [`Self::poll`] wants to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        earliest(earliest(self.asks.next(), self.absent.next()), self.sweep_at)
    }

    fn learn(&mut self, instance: &Instance, revision: u64, now: Instant) {
        let id = instance.id;
        let route = self.share_address(Route::of(instance));
        self.absent.remove(id);
        let Some(entry) = self.known.get_mut(&id) else {
            self.known.insert(id, Entry { route, revision, trust: Trust::Sure });
            return self.changed(id);
        };
        if revision < entry.revision || entry.outlives(&route) {
            return;
        }
        // A store that was turned back may name an earlier life. It is believed only where nothing better is known.
        if route.generation < entry.route.generation {
            entry.doubt(now);
            self.sweep_at.get_or_insert(now + DOUBT_FOR);
            return;
        }
        let is_news = entry.route != route || entry.trust == Trust::Disproved;
        *entry = Entry { route, revision, trust: Trust::Sure };
        if is_news {
            self.changed(id);
        }
    }

    fn share_address(&mut self, mut route: Route) -> Route {
        if let (Some(node), Some(address)) = (route.node, &mut route.address) {
            match self.addresses.entry(node) {
                Slot::Occupied(shared) if shared.get() == address => *address = Arc::clone(shared.get()),
                shared => drop(shared.insert_entry(Arc::clone(address))),
            }
        }
        route
    }

    /// Whether the registry was turned back to an earlier life, and the later one that was known has been disproved by
    /// its node. What was known is forgotten then, and the registry asked once more: this answer may be an old one.
    fn knows_better_in_vain(&self, instance: &Instance) -> bool {
        self.known.get(&instance.id).is_some_and(|entry| {
            let was_turned_back = entry.revision == 0 && instance.generation < entry.route.generation;
            was_turned_back && entry.trust == Trust::Disproved
        })
    }

    fn handle_removed(&mut self, id: InstanceId, revision: u64, now: Instant) {
        let Some(entry) = self.known.get_mut(&id) else { return };
        if revision < entry.revision {
            return;
        }
        if entry.route.final_end().is_some() {
            self.known.remove(&id);
            self.changed(id);
        } else {
            entry.doubt(now);
            self.sweep_at.get_or_insert(now + DOUBT_FOR);
        }
    }

    fn handle_no_record(&mut self, id: InstanceId, now: Instant) {
        match self.known.get(&id).map(|entry| entry.trust) {
            Some(Trust::Sure | Trust::Doubted { .. }) => {}
            Some(Trust::Disproved) => {
                self.known.remove(&id);
                self.remember_absent(id, Absence::NoRecord, now);
            }
            None => self.remember_absent(id, Absence::NoRecord, now),
        }
    }

    fn remember_absent(&mut self, id: InstanceId, absence: Absence, now: Instant) {
        if self.absent.len() >= ABSENT_MAX {
            self.absent.pop_first();
        }
        self.absent.insert(id, absence, now + ABSENT_FOR);
    }

    /// Whether a question is under way now.
    fn ask(&mut self, id: InstanceId, now: Instant) -> bool {
        if self.asks.get(id).is_some() {
            return true;
        }
        if self.asks.len() >= ASKS_MAX {
            return false;
        }
        self.asks.insert(id, (), now + ASK_WITHIN);
        self.effects.push_back(Effect::Ask(id));
        true
    }

    fn changed(&mut self, id: InstanceId) {
        self.effects.push_back(Effect::Changed(id));
    }

    fn sweep(&mut self, now: Instant) {
        self.known.retain(|_, entry| !entry.is_forgotten(now));
        let doubted = self.known.values().any(|entry| entry.trust != Trust::Sure);
        self.sweep_at = doubted.then(|| now + DOUBT_FOR);
    }
}

impl Entry {
    fn doubt(&mut self, now: Instant) {
        if self.trust == Trust::Sure {
            self.trust = Trust::Doubted { used: now, ask_after: now };
        }
    }

    /// An end stays an end, whatever an old copy says; only "deleted" may follow another end.
    fn outlives(&self, route: &Route) -> bool {
        self.route.final_end().is_some() && route.final_end().is_none()
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        matches!(self.trust, Trust::Doubted { used, .. } if now >= used + DOUBT_FOR)
    }
}

/// Values by id that are dropped at a time.
#[derive(Debug)]
struct Timed<T> {
    values: HashMap<InstanceId, (Instant, T)>,
    order: BTreeSet<(Instant, InstanceId)>,
}

impl<T> Default for Timed<T> {
    fn default() -> Self {
        Self { values: HashMap::new(), order: BTreeSet::new() }
    }
}

impl<T: Copy> Timed<T> {
    fn len(&self) -> usize {
        self.values.len()
    }

    fn get(&self, id: InstanceId) -> Option<T> {
        self.values.get(&id).map(|&(_, value)| value)
    }

    fn insert(&mut self, id: InstanceId, value: T, until: Instant) {
        self.remove(id);
        self.values.insert(id, (until, value));
        self.order.insert((until, id));
    }

    fn remove(&mut self, id: InstanceId) -> Option<T> {
        let (until, value) = self.values.remove(&id)?;
        self.order.remove(&(until, id));
        Some(value)
    }

    fn pop_first(&mut self) -> Option<InstanceId> {
        let (_, id) = self.order.pop_first()?;
        self.values.remove(&id);
        Some(id)
    }

    fn expired(&mut self, now: Instant) -> Option<InstanceId> {
        if self.next().is_some_and(|until| now >= until) { self.pop_first() } else { None }
    }

    fn next(&self) -> Option<Instant> {
        self.order.first().map(|&(until, _)| until)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::record::{External, InstanceSpec, Kind, Move, MoveStep, Restart};

    /// A listing without instances.
    const NOTHING: [(&Instance, u64); 0] = [];

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn id(number: u128) -> InstanceId {
        InstanceId::new(1, number)
    }

    fn record(number: u128, phase: Phase, generation: u64) -> Instance {
        Instance {
            id: id(number),
            kind: Kind::Sandbox,
            spec: InstanceSpec::default(),
            desired: Desired::Running,
            phase,
            generation: Generation(generation),
            node: Some(NodeId::new(1, 1)),
            host: Some("h".to_owned()),
            address: Some("10.0.0.1:7000".to_owned()),
            moving: None,
            reason: None,
            labels: BTreeMap::new(),
            created_at: 0,
            ended_at: phase.is_end().then_some(1),
        }
    }

    fn running(number: u128, generation: u64) -> Instance {
        record(number, Phase::Running, generation)
    }

    fn effects(view: &mut RouteView, now: Instant) -> Vec<Effect> {
        std::iter::from_fn(|| view.poll(now)).collect()
    }

    /// A view that has seen instance 1 running at `generation`, at revision 10.
    fn knowing(generation: u64) -> RouteView {
        let mut view = RouteView::new();
        view.handle_snapshot([(&running(1, generation), 10)], 10, at(0));
        assert_eq!(effects(&mut view, at(0)), [Effect::Changed(id(1))]);
        view
    }

    fn generation(view: &mut RouteView, now: Instant) -> Option<u64> {
        match view.lookup(id(1), now) {
            Lookup::Known(route) => Some(route.generation.0),
            Lookup::Asking | Lookup::Ended(_) | Lookup::Unknown | Lookup::Unavailable => None,
        }
    }

    #[test]
    fn an_unknown_id_is_asked_for_once_however_many_wait() {
        let mut view = RouteView::new();
        for _ in 0..3 {
            assert_eq!(view.lookup(id(1), at(0)), Lookup::Asking);
        }
        assert_eq!(effects(&mut view, at(0)), [Effect::Ask(id(1))]);
        view.handle_answer(id(1), Some((&running(1, 1), 5)), at(1));
        assert_eq!(effects(&mut view, at(1)), [Effect::Changed(id(1)), Effect::Changed(id(1))]);
        assert_eq!(generation(&mut view, at(1)), Some(1));
    }

    #[test]
    fn no_record_and_no_answer_are_two_things_and_both_soon_forgotten() {
        let mut view = RouteView::new();
        view.lookup(id(1), at(0));
        view.lookup(id(2), at(0));
        view.handle_answer(id(1), None, at(0));
        view.handle_ask_failed(id(2), at(0));
        assert_eq!(view.lookup(id(1), at(999)), Lookup::Unknown);
        assert_eq!(view.lookup(id(2), at(999)), Lookup::Unavailable);
        effects(&mut view, at(1_000));
        assert_eq!(view.lookup(id(1), at(1_000)), Lookup::Asking);
        assert_eq!(view.lookup(id(2), at(1_000)), Lookup::Asking);
    }

    #[test]
    fn a_registry_that_never_answers_is_not_waited_for_for_ever() {
        let mut view = RouteView::new();
        view.lookup(id(1), at(0));
        assert_eq!(view.next_deadline(), Some(at(5_000)));
        assert_eq!(effects(&mut view, at(5_000)), [Effect::Ask(id(1)), Effect::Changed(id(1))]);
        assert_eq!(view.lookup(id(1), at(5_000)), Lookup::Unavailable);
    }

    #[test]
    fn an_instance_made_after_it_was_refused_is_found_at_once() {
        let mut view = RouteView::new();
        view.lookup(id(1), at(0));
        view.handle_answer(id(1), None, at(0));
        view.handle_change(id(1), Some(&running(1, 1)), 7, at(1));
        assert_eq!(generation(&mut view, at(1)), Some(1));
    }

    #[test]
    fn made_up_ids_fill_neither_the_questions_nor_the_memory() {
        let mut view = RouteView::new();
        for number in 0..3 * ASKS_MAX as u128 {
            view.lookup(id(number), at(0));
        }
        assert_eq!((view.asks.len(), view.effects.len()), (ASKS_MAX, ASKS_MAX));
        assert_eq!(view.lookup(id(1_000_000), at(0)), Lookup::Unavailable);
        for number in 0..2 * ABSENT_MAX as u128 {
            view.remember_absent(id(number), Absence::NoRecord, at(number as u64));
        }
        assert_eq!((view.absent.len(), view.absent.order.len()), (ABSENT_MAX, ABSENT_MAX));
    }

    #[test]
    fn older_news_never_replaces_newer() {
        let mut view = knowing(3);
        view.handle_change(id(1), Some(&running(1, 2)), 9, at(1));
        view.handle_answer(id(1), Some((&record(1, Phase::Lost, 2), 8)), at(1));
        assert_eq!(generation(&mut view, at(1)), Some(3));
        view.handle_change(id(2), Some(&running(2, 1)), 9, at(1));
        assert_eq!(view.lookup(id(2), at(1)), Lookup::Asking, "the listing of revision 10 has it no more");
    }

    #[test]
    fn a_listing_that_only_lacks_a_live_instance_does_not_end_it() {
        let mut view = knowing(3);
        view.handle_snapshot([(&running(2, 1), 20)], 20, at(5));
        assert_eq!(generation(&mut view, at(6)), Some(3));
    }

    #[test]
    fn an_empty_snapshot_leaves_an_end_an_end() {
        let mut view = knowing(3);
        view.handle_change(id(1), Some(&record(1, Phase::Failed, 3)), 11, at(1));
        view.handle_snapshot(NOTHING, 12, at(5));
        assert_eq!(view.lookup(id(1), at(5)), Lookup::Ended(ErrorCode::InstanceFailed));
    }

    #[test]
    fn an_empty_snapshot_deletes_nothing_that_lives_and_is_doubted() {
        for revision in [0, 10, 20] {
            let mut view = knowing(3);
            view.handle_snapshot(NOTHING, revision, at(5));
            assert_eq!(generation(&mut view, at(6)), Some(3));
            assert_eq!(effects(&mut view, at(6)), [Effect::Ask(id(1))]);
            view.handle_answer(id(1), None, at(7));
            assert_eq!(generation(&mut view, at(8)), Some(3), "only its node may disprove it");
        }
    }

    #[test]
    fn a_store_that_was_turned_back_cannot_lower_a_generation_but_its_later_news_counts() {
        let mut view = knowing(3);
        view.handle_snapshot([(&running(1, 2), 4)], 5, at(5));
        assert_eq!(generation(&mut view, at(5)), Some(3));
        view.handle_change(id(1), Some(&running(1, 4)), 6, at(6));
        assert_eq!(generation(&mut view, at(6)), Some(4));
    }

    #[test]
    fn a_store_that_was_turned_back_for_good_is_believed_once_the_node_has_disproved_what_was_known() {
        let mut view = knowing(3);
        view.handle_snapshot([(&running(1, 2), 4)], 5, at(5));
        view.handle_refused(id(1), Generation(3));
        for _ in 0..2 {
            assert_eq!(view.lookup(id(1), at(6)), Lookup::Asking);
            view.handle_answer(id(1), Some((&running(1, 2), 4)), at(6));
        }
        assert_eq!(generation(&mut view, at(7)), Some(2));
    }

    #[test]
    fn a_route_its_node_disproved_is_used_by_nobody_until_the_registry_was_asked() {
        let mut view = knowing(3);
        view.handle_refused(id(1), Generation(2));
        assert_eq!(generation(&mut view, at(1)), Some(3), "an older life was refused");
        view.handle_refused(id(1), Generation(3));
        assert_eq!(view.lookup(id(1), at(1)), Lookup::Asking);
        view.handle_answer(id(1), Some((&running(1, 4), 12)), at(2));
        assert_eq!(generation(&mut view, at(2)), Some(4));
        view.handle_refused(id(1), Generation(4));
        assert_eq!(view.lookup(id(1), at(3)), Lookup::Asking);
        view.handle_answer(id(1), None, at(4));
        assert_eq!(view.lookup(id(1), at(4)), Lookup::Unknown);
        assert!(view.is_empty());
    }

    #[test]
    fn an_end_is_final_and_outlives_every_old_copy() {
        let mut view = knowing(3);
        view.handle_change(id(1), Some(&record(1, Phase::Stopped, 3)), 11, at(1));
        view.handle_snapshot([(&running(1, 3), 4)], 5, at(2));
        assert_eq!(view.lookup(id(1), at(2)), Lookup::Ended(ErrorCode::InstanceStopped));
        view.handle_change(id(1), Some(&record(1, Phase::Deleted, 3)), 12, at(3));
        assert_eq!(view.lookup(id(1), at(3)), Lookup::Ended(ErrorCode::InstanceGone));
        view.handle_change(id(1), None, 13, at(4));
        assert!(view.is_empty());
    }

    #[test]
    fn a_swept_end_is_forgotten_with_the_next_whole_listing() {
        let mut view = knowing(1);
        view.handle_change(id(1), Some(&record(1, Phase::Deleted, 1)), 11, at(1));
        view.handle_snapshot([(&running(2, 1), 12)], 12, at(2));
        assert_eq!(view.len(), 1);
    }

    #[test]
    fn a_doubted_route_that_nobody_uses_is_forgotten_after_a_day_and_one_in_use_is_not() {
        let mut view = knowing(1);
        view.handle_change(id(2), Some(&running(2, 1)), 11, at(1));
        view.handle_snapshot(NOTHING, 0, at(2));
        let day = view.sweep_at.unwrap();
        view.lookup(id(1), day);
        effects(&mut view, day);
        assert_eq!(view.len(), 1);
        assert_eq!(generation(&mut view, day), Some(1));
    }

    #[test]
    fn what_a_session_and_a_new_request_are_told_differs_where_another_life_follows() {
        let coming_back = |phase| Instance {
            spec: InstanceSpec { restart: Restart::Always, ..InstanceSpec::default() },
            ..record(1, phase, 1)
        };
        let moving =
            |step| Instance { moving: Some(Move { to: NodeId::new(1, 2), step }), ..record(1, Phase::Moving, 1) };
        let dozing = Instance { desired: Desired::Sleeping, ..running(1, 1) };
        let spec = InstanceSpec { external: Some(External::default()), ..InstanceSpec::default() };
        let external = Instance { spec, ..record(1, Phase::Moving, 1) };
        use ErrorCode::{
            InstanceGone, InstanceLost, InstanceMoving, InstanceStarting, InstanceWaking, UpstreamChanged,
        };
        let here = Presence::Here(Generation(1));
        for (instance, presence, ready) in [
            (record(1, Phase::Pending, 0), Presence::Between(InstanceStarting), Err(InstanceStarting)),
            (record(1, Phase::Starting, 1), Presence::Between(InstanceStarting), Err(InstanceStarting)),
            (running(1, 1), here, Ok(())),
            (moving(MoveStep::Preparing), here, Ok(())),
            (moving(MoveStep::Prepared), Presence::Between(InstanceMoving), Err(InstanceMoving)),
            (record(1, Phase::Sleeping, 1), Presence::Ended(UpstreamChanged), Err(InstanceWaking)),
            (dozing, here, Err(InstanceWaking)),
            (external, Presence::Between(InstanceMoving), Err(InstanceMoving)),
            (record(1, Phase::Lost, 1), Presence::Ended(InstanceLost), Err(InstanceLost)),
            (coming_back(Phase::Lost), Presence::Ended(InstanceLost), Err(InstanceStarting)),
            (coming_back(Phase::Deleted), Presence::Ended(InstanceGone), Err(InstanceGone)),
        ] {
            let route = Route::of(&instance);
            assert_eq!((route.presence(), route.ready()), (presence, ready), "{instance:?}");
        }
    }

    #[test]
    fn the_routes_to_one_node_share_its_address_and_follow_it() {
        let mut view = knowing(1);
        view.handle_change(id(2), Some(&running(2, 1)), 49, at(0));
        let address = |view: &mut RouteView, number| {
            let Lookup::Known(route) = view.lookup(id(number), at(0)) else { panic!() };
            route.address.unwrap()
        };
        assert!(Arc::ptr_eq(&address(&mut view, 1), &address(&mut view, 2)));
        let elsewhere = Instance { address: Some("10.0.0.9:7000".to_owned()), ..running(1, 1) };
        view.handle_change(id(1), Some(&elsewhere), 50, at(0));
        assert_eq!((&*address(&mut view, 1), &*address(&mut view, 2)), ("10.0.0.9:7000", "10.0.0.1:7000"));
    }

    #[test]
    fn whoever_waits_for_a_waking_instance_hears_that_it_was_put_to_sleep_again() {
        let sleeping = |desired| Instance { desired, ..record(1, Phase::Sleeping, 1) };
        let mut view = knowing(1);
        for (revision, desired) in (11..).zip([Desired::Sleeping, Desired::Running, Desired::Sleeping]) {
            view.handle_change(id(1), Some(&sleeping(desired)), revision, at(revision));
            assert_eq!(effects(&mut view, at(revision)), [Effect::Changed(id(1))]);
            let Lookup::Known(route) = view.lookup(id(1), at(revision)) else { panic!() };
            let needs_waking = desired == Desired::Sleeping;
            assert_eq!((route.ready(), route.needs_waking()), (Err(ErrorCode::InstanceWaking), needs_waking));
        }
    }

    #[test]
    fn a_route_takes_little_memory() {
        // A hundred thousand of them beside their map and addresses stay below 40 MB.
        assert!(size_of::<(InstanceId, Entry)>() <= 160, "{}", size_of::<(InstanceId, Entry)>());
    }

    /// What may reach a view, out of a store whose history is the list of its versions.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// The store's record goes on by one step.
        Write,
        /// The watch delivers up to this many changes.
        Watch(usize),
        /// A listing of the present, of an empty store, or of a restored one.
        Snapshot(u8),
        Lookup,
        /// The answer to a question, read from the store this many versions ago, or lost.
        Answer(Option<usize>),
        /// The node refuses what the view last said.
        Refuse,
        Wait(u64),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Write),
            4 => (1usize..4).prop_map(Step::Watch),
            1 => (0u8..2).prop_map(Step::Snapshot),
            4 => Just(Step::Lookup),
            3 => proptest::option::of(0usize..4).prop_map(Step::Answer),
            1 => Just(Step::Refuse),
            1 => (0u64..2_000).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn whatever_arrives_in_whatever_order_a_live_route_stays_and_never_grows_older(
            steps in proptest::collection::vec(any_step(), 1..120),
        ) {
            // Version `v` of the record has generation `v` and revision `v`; the watch stands at `seen`.
            let (mut store, mut seen, mut now, mut asked) = (1u64, 0u64, at(0), false);
            let (mut view, mut newest, mut refused) = (RouteView::new(), 0, 0);
            for step in steps {
                let mut vouched = 0;
                match step {
                    Step::Write => store += 1,
                    Step::Watch(most) => {
                        for version in (seen..store).take(most).map(|before| before + 1) {
                            view.handle_change(id(1), Some(&running(1, version)), version, now);
                            (seen, vouched) = (version, version);
                        }
                    }
                    Step::Snapshot(0) => {
                        view.handle_snapshot([(&running(1, store), store)], store, now);
                        (seen, vouched) = (store, store);
                    }
                    Step::Snapshot(_) => view.handle_snapshot(NOTHING, seen, now),
                    Step::Lookup => match view.lookup(id(1), now) {
                        Lookup::Known(route) => {
                            let generation = route.generation.0;
                            prop_assert!(generation >= newest, "{generation} after {newest}");
                            prop_assert!(generation > refused, "{generation} was disproved");
                            newest = generation;
                        }
                        Lookup::Asking | Lookup::Unavailable => prop_assert!(newest <= refused, "a live route was lost"),
                        other => prop_assert!(false, "{other:?} of a live instance"),
                    },
                    Step::Answer(None) => view.handle_ask_failed(id(1), now),
                    Step::Answer(Some(age)) if asked => {
                        let version = store.saturating_sub(age as u64).max(1);
                        view.handle_answer(id(1), Some((&running(1, version), version)), now);
                        vouched = version;
                    }
                    Step::Answer(Some(_)) => {}
                    Step::Refuse => {
                        view.handle_refused(id(1), Generation(newest));
                        refused = newest;
                    }
                    Step::Wait(millis) => now = now + Duration::from_millis(millis),
                }
                // What the registry says again after it was disproved counts again.
                refused = if vouched >= refused { 0 } else { refused };
                asked |= effects(&mut view, now).contains(&Effect::Ask(id(1)));
                asked &= view.asks.len() == 1;
            }
            view.handle_snapshot([(&running(1, store), store)], store, now);
            prop_assert_eq!(generation(&mut view, now), Some(store));
        }
    }
}
