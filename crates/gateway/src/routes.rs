//! Where instances are, for everybody in the gateway who wants to know.
//!
//! One task owns what is decided, the [`RouteView`], and the registry's watch; it alone writes. Everybody else reads a
//! lock-free map of the instances in use: a request that finds its instance there asks nobody. One that does not asks
//! the owner, which asks the registry once for any number of askers.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use landfast_core::limit::Meter;
use landfast_core::record::{Generation, Instance, Limits, keys};
use landfast_core::redial::Presence;
use landfast_core::route::{ASK_WITHIN, Effect, Lookup, RouteView};
use landfast_core::{ErrorCode, InstanceId};
use landfast_net::clock;
use landfast_registry::records;
use landfast_registry::store::{Change, Listing, Revision, Store, StoreError, WatchEvent};
use tokio::sync::{SetOnce, mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::watch::{Feed, Silence};

/// Questions that wait for the owner: it answers each in microseconds, so more than this means that it is stuck.
const QUESTIONS_MAX: usize = 4096;

/// How long an asker waits for the registry's word, a little longer than the question may take.
const WORD_WITHIN: Duration = ASK_WITHIN.saturating_add(Duration::from_secs(1));

/// How often the instances in use are looked at again, so that what is doubted is asked about.
const TICK: Duration = Duration::from_secs(5);

/// An instance that nobody has used for this many ticks leaves the map: a minute, so that a page that polls stays.
const IDLE_TICKS: u8 = 12;

/// Where instances are.
#[derive(Clone, Debug)]
pub(crate) struct Routes {
    shared: Arc<Shared>,
    questions: mpsc::Sender<Question>,
}

#[derive(Debug, Default)]
struct Shared {
    entries: papaya::HashMap<InstanceId, Arc<Entry>, RandomState>,
    /// The registry's first listing has arrived.
    loaded: SetOnce<()>,
    /// Of the watch that tells where instances are.
    silence: Arc<Silence>,
}

/// What is known of one instance in use.
#[derive(Debug)]
pub(crate) struct Entry {
    id: InstanceId,
    state: ArcSwap<Lookup>,
    news: watch::Sender<Presence>,
    /// What of it is in use. Whoever holds a permit of it keeps the entry.
    meter: Arc<Meter>,
    /// Ticks since somebody looked.
    idle_ticks: AtomicU8,
}

/// What the owner is asked.
#[derive(Debug)]
enum Question {
    /// What is known of the instance?
    Look(InstanceId, oneshot::Sender<Arc<Entry>>),
    /// And now that its node has said it does not run this generation?
    Refused(InstanceId, Generation, oneshot::Sender<Arc<Entry>>),
}

impl Routes {
    /// Starts the owner; it ends with the returned future.
    pub(crate) fn new(store: Arc<dyn Store>) -> (Self, impl Future<Output = Infallible>) {
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let instances = Feed::new(&*store, keys::INSTANCES);
        let shared = Arc::new(Shared { silence: instances.silence(), ..Shared::default() });
        let owner = Owner { shared: Arc::clone(&shared), view: RouteView::new(), store, asks: FuturesUnordered::new() };
        (Self { shared, questions }, owner.run(instances, asked))
    }

    /// Whether the registry's instances have been read once.
    pub(crate) fn is_loaded(&self) -> bool {
        self.shared.loaded.initialized()
    }

    /// How many instances are in use.
    pub(crate) fn in_use(&self) -> u64 {
        self.shared.entries.len() as u64
    }

    /// For how long the registry has not answered.
    pub(crate) fn silence(&self) -> Duration {
        self.shared.silence.lasts(clock::now())
    }

    /// Waits until they have.
    pub(crate) async fn loaded(&self) {
        self.shared.loaded.wait().await;
    }

    /// What is known of an instance now, after the registry was asked if need be. Waits a few seconds at most.
    ///
    /// The entry is for a look: it may be replaced once nobody uses it. Who stays takes [`Self::hold`].
    ///
    /// # Errors
    ///
    /// `registry.unavailable` if nobody answers.
    pub(crate) async fn look(&self, id: InstanceId) -> Result<Arc<Entry>, ErrorCode> {
        match self.known(id) {
            Some(entry) => Ok(entry),
            None => self.hold(id).await,
        }
    }

    /// What is known of an instance without asking anybody.
    pub(crate) fn known(&self, id: InstanceId) -> Option<Arc<Entry>> {
        let entry = self.shared.entries.pin().get(&id).cloned()?;
        let is_known = matches!(**entry.state.load(), Lookup::Known(_) | Lookup::Ended(_));
        is_known.then(|| {
            entry.touch();
            entry
        })
    }

    /// What is known of an instance, in an entry that hears all news for as long as it is held.
    ///
    /// # Errors
    ///
    /// As [`Self::look`].
    pub(crate) async fn hold(&self, id: InstanceId) -> Result<Arc<Entry>, ErrorCode> {
        self.ask(|answer| Question::Look(id, answer)).await
    }

    /// Says that a node does not run this generation of an instance, and returns what is known then.
    ///
    /// # Errors
    ///
    /// `registry.unavailable` if nobody answers.
    pub(crate) async fn refused(&self, id: InstanceId, generation: Generation) -> Result<Arc<Entry>, ErrorCode> {
        self.ask(|answer| Question::Refused(id, generation, answer)).await
    }

    async fn ask(
        &self,
        question: impl FnOnce(oneshot::Sender<Arc<Entry>>) -> Question,
    ) -> Result<Arc<Entry>, ErrorCode> {
        let (answer, answered) = oneshot::channel();
        self.questions.try_send(question(answer)).map_err(|_| ErrorCode::RegistryUnavailable)?;
        let entry = answered.await.map_err(|_| ErrorCode::RegistryUnavailable)?;
        match *entry.settled().await {
            Lookup::Asking => Err(ErrorCode::RegistryUnavailable),
            Lookup::Known(_) | Lookup::Ended(_) | Lookup::Unknown | Lookup::Unavailable => Ok(entry),
        }
    }
}

impl Entry {
    /// The instance.
    pub(crate) const fn id(&self) -> InstanceId {
        self.id
    }

    /// What is known now.
    pub(crate) fn state(&self) -> Arc<Lookup> {
        self.state.load_full()
    }

    /// What its own limits say.
    pub(crate) fn limits(&self) -> Limits {
        match &**self.state.load() {
            Lookup::Known(route) => route.limits,
            Lookup::Asking | Lookup::Ended(_) | Lookup::Unknown | Lookup::Unavailable => Limits::default(),
        }
    }

    /// What counts who is let in.
    pub(crate) const fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// What is known once the registry has answered, which takes a few seconds at most.
    pub(crate) async fn settled(&self) -> Arc<Lookup> {
        let mut news = self.news();
        let settled = async {
            while **self.state.load() == Lookup::Asking {
                // The sender lives as long as the entry, so this waits until there is news.
                let _ = news.changed().await;
            }
        };
        // Late is as good as never: the state says "asking" then, and the caller what that means.
        let _ = timeout(WORD_WITHIN, settled).await;
        self.state()
    }

    /// Hears of every change; the state is new before the news is.
    pub(crate) fn news(&self) -> watch::Receiver<Presence> {
        self.news.subscribe()
    }

    fn publish(&self, state: Lookup) {
        if **self.state.load() != state {
            let presence = presence(&state);
            self.state.store(Arc::new(state));
            self.news.send_replace(presence);
        }
    }

    fn touch(&self) {
        // Not written by every request: the line is shared by all workers.
        if self.idle_ticks.load(Ordering::Relaxed) > 0 {
            self.idle_ticks.store(0, Ordering::Relaxed);
        }
    }
}

/// What a session is told.
fn presence(state: &Lookup) -> Presence {
    match state {
        Lookup::Known(route) => route.presence(),
        Lookup::Ended(code) => Presence::Ended(*code),
        Lookup::Unknown => Presence::Ended(ErrorCode::InstanceUnknown),
        Lookup::Asking | Lookup::Unavailable => Presence::Unknown,
    }
}

type Ask = BoxFuture<'static, (InstanceId, Result<Option<(Instance, Revision)>, StoreError>)>;

struct Owner {
    shared: Arc<Shared>,
    view: RouteView,
    store: Arc<dyn Store>,
    asks: FuturesUnordered<Ask>,
}

impl Owner {
    async fn run(mut self, mut instances: Feed, mut asked: mpsc::Receiver<Question>) -> Infallible {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.act();
            tokio::select! {
                event = instances.next() => self.handle_event(&event),
                Some(question) = asked.recv() => self.handle_question(question),
                Some((id, answer)) = self.asks.next() => self.handle_answer(id, answer),
                () = clock::sleep_until(self.view.next_deadline()) => {}
                _ = tick.tick() => self.look_again(),
            }
        }
    }

    /// Does what the view wants done.
    fn act(&mut self) {
        while let Some(effect) = self.view.poll(clock::now()) {
            match effect {
                Effect::Ask(id) => {
                    let store = Arc::clone(&self.store);
                    self.asks.push(Box::pin(async move { (id, records::instance(&*store, id).await) }));
                }
                Effect::Changed(id) => {
                    let entry = self.shared.entries.pin().get(&id).cloned();
                    if let Some(entry) = entry {
                        entry.publish(self.view.lookup(id, clock::now()));
                    }
                }
            }
        }
    }

    fn handle_event(&mut self, event: &WatchEvent) {
        match event {
            WatchEvent::Snapshot(listing) => self.handle_listing(listing),
            WatchEvent::Changes(changes) => changes.iter().for_each(|change| self.handle_change(change)),
            WatchEvent::Resync | WatchEvent::Back => {}
        }
    }

    fn handle_listing(&mut self, listing: &Listing) {
        let entries = listing.entries.iter();
        // One after the other: a record is several times as large as what is kept of it.
        let instances = entries.filter_map(|entry| Some((read(&entry.key, &entry.value)?, entry.revision)));
        self.view.handle_snapshot(instances, listing.revision, clock::now());
        // Set by the first listing; the later ones find it so.
        let _ = self.shared.loaded.set(());
    }

    fn handle_change(&mut self, change: &Change) {
        let Some(id) = change.key.strip_prefix(keys::INSTANCES).and_then(|text| text.parse().ok()) else { return };
        match &change.value {
            None => self.view.handle_change(id, None, change.revision, clock::now()),
            Some(value) => {
                if let Some(instance) = read(&change.key, value) {
                    self.view.handle_change(id, Some(&instance), change.revision, clock::now());
                }
            }
        }
    }

    fn handle_answer(&mut self, id: InstanceId, answer: Result<Option<(Instance, Revision)>, StoreError>) {
        match answer {
            Ok(found) => {
                let found = found.as_ref().map(|(instance, revision)| (instance, *revision));
                self.view.handle_answer(id, found, clock::now());
            }
            Err(error) => {
                tracing::debug!(%id, %error, "the registry did not answer");
                self.view.handle_ask_failed(id, clock::now());
            }
        }
    }

    fn handle_question(&mut self, question: Question) {
        let (id, answer) = match question {
            Question::Look(id, answer) => (id, answer),
            Question::Refused(id, generation, answer) => {
                self.view.handle_refused(id, generation);
                (id, answer)
            }
        };
        let state = self.view.lookup(id, clock::now());
        let known = self.shared.entries.pin().get(&id).cloned();
        let entry = known.unwrap_or_else(|| self.new_entry(id));
        entry.publish(state);
        entry.touch();
        // An asker that left needs no answer.
        let _ = answer.send(entry);
    }

    fn new_entry(&self, id: InstanceId) -> Arc<Entry> {
        let entry = Arc::new(Entry {
            id,
            state: ArcSwap::from_pointee(Lookup::Asking),
            news: watch::Sender::new(Presence::Unknown),
            meter: Arc::default(),
            idle_ticks: AtomicU8::new(0),
        });
        self.shared.entries.pin().insert(id, Arc::clone(&entry));
        entry
    }

    /// Looks at every instance in use again, and drops those that are not.
    fn look_again(&mut self) {
        let entries: Vec<Arc<Entry>> = self.shared.entries.pin().values().cloned().collect();
        for entry in entries {
            // One reference is the map's and one is ours; that of the meter is the entry's.
            if Arc::strong_count(&entry) > 2 || Arc::strong_count(&entry.meter) > 1 {
                entry.touch();
            }
            let idle_ticks = entry.idle_ticks.load(Ordering::Relaxed);
            if idle_ticks < IDLE_TICKS {
                if idle_ticks == 0 {
                    entry.publish(self.view.lookup(entry.id, clock::now()));
                }
                entry.idle_ticks.store(idle_ticks + 1, Ordering::Relaxed);
            } else {
                // Whoever reads it in this moment is told to look again.
                entry.publish(Lookup::Asking);
                self.shared.entries.pin().remove(&entry.id);
            }
        }
    }
}

/// Reads an instance's record. One that cannot be understood is left out, so that it does not hide the others.
fn read(key: &str, value: &[u8]) -> Option<Instance> {
    match records::decode(key, value) {
        Ok(instance) => Some(instance),
        Err(error) => {
            tracing::error!(%error, "an instance's record cannot be understood and is left out");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use landfast_core::limit::Entrance;
    use landfast_core::record::{Desired, InstanceSpec, Kind, Phase};
    use landfast_net::random;
    use landfast_registry::store::embedded::EmbeddedStore;
    use tempfile::TempDir;

    use super::*;

    fn store() -> (Arc<dyn Store>, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Arc::new(EmbeddedStore::open(&dir.path().join("cell.db")).unwrap()), dir)
    }

    fn running(generation: u64) -> Instance {
        Instance {
            id: random::instance_id(),
            kind: Kind::Sandbox,
            spec: InstanceSpec::default(),
            desired: Desired::Running,
            phase: Phase::Running,
            generation: Generation(generation),
            node: None,
            host: None,
            address: Some("127.0.0.1:1".into()),
            moving: None,
            reason: None,
            labels: BTreeMap::new(),
            created_at: 0,
            ended_at: None,
        }
    }

    fn generation(entry: &Entry) -> Option<u64> {
        match &*entry.state() {
            Lookup::Known(route) => Some(route.generation.0),
            Lookup::Asking | Lookup::Ended(_) | Lookup::Unknown | Lookup::Unavailable => None,
        }
    }

    #[tokio::test]
    async fn who_holds_an_entry_hears_of_every_change() {
        let (store, _dir) = store();
        let (routes, owner) = Routes::new(Arc::clone(&store));
        let instance = running(1);
        records::create_instance(&*store, &instance).await.unwrap();
        let heard = async {
            let entry = routes.hold(instance.id).await.unwrap();
            let mut news = entry.news();
            assert_eq!(generation(&entry), Some(1));
            let change = |instance: &mut Instance| {
                instance.generation = Generation(2);
                Ok(())
            };
            records::update_instance(&*store, instance.id, change).await.unwrap();
            news.wait_for(|presence| *presence == Presence::Here(Generation(2))).await.unwrap();
            assert_eq!(generation(&entry), Some(2));
            let end = |instance: &mut Instance| {
                instance.phase = Phase::Stopped;
                Ok(())
            };
            records::update_instance(&*store, instance.id, end).await.unwrap();
            news.wait_for(|presence| *presence == Presence::Ended(ErrorCode::InstanceStopped)).await.unwrap();
        };
        tokio::select! {
            () = heard => {}
            never = owner => match never {},
        }
    }

    #[tokio::test]
    async fn any_number_of_askers_is_one_question() {
        let (store, _dir) = store();
        let (routes, owner) = Routes::new(Arc::clone(&store));
        let id = random::instance_id();
        let asked = async {
            let askers = (0..100).map(|_| routes.hold(id));
            for entry in futures_util::future::join_all(askers).await {
                assert_eq!(*entry.unwrap().state(), Lookup::Unknown);
            }
            assert_eq!(routes.shared.entries.len(), 1);
        };
        tokio::select! {
            () = asked => {}
            never = owner => match never {},
        }
    }

    #[tokio::test]
    async fn an_entry_that_nobody_uses_is_retired_and_one_that_is_held_stays() {
        let (store, _dir) = store();
        let shared = Arc::new(Shared::default());
        let mut owner =
            Owner { shared: Arc::clone(&shared), view: RouteView::new(), store, asks: FuturesUnordered::new() };
        let ids = [random::instance_id(), random::instance_id()];
        let look = |owner: &mut Owner, id| {
            let (answer, mut answered) = oneshot::channel();
            owner.handle_question(Question::Look(id, answer));
            answered.try_recv().unwrap()
        };
        let held = look(&mut owner, ids[0]);
        let unused = Arc::downgrade(&look(&mut owner, ids[1]));
        for _ in 0..IDLE_TICKS {
            owner.look_again();
            assert_eq!(shared.entries.len(), 2);
        }
        owner.look_again();
        assert!(shared.entries.pin().get(&ids[1]).is_none(), "it is retired");
        assert!(shared.entries.pin().get(&ids[0]).is_some_and(|entry| Arc::ptr_eq(entry, &held)));
        // Whoever got hold of it in that moment is told to look again.
        assert!(unused.upgrade().is_none_or(|entry| *entry.state() == Lookup::Asking));
    }

    #[tokio::test]
    async fn an_entry_stays_while_somebody_is_counted_there() {
        let (store, _dir) = store();
        let shared = Arc::new(Shared::default());
        let mut owner =
            Owner { shared: Arc::clone(&shared), view: RouteView::new(), store, asks: FuturesUnordered::new() };
        let id = random::instance_id();
        let (answer, mut answered) = oneshot::channel();
        owner.handle_question(Question::Look(id, answer));
        let permit = {
            let entry = answered.try_recv().unwrap();
            entry.meter().admit(Entrance::Request, &Limits::default(), clock::now()).unwrap()
        };
        (0..3 * IDLE_TICKS).for_each(|_| owner.look_again());
        assert_eq!(shared.entries.pin().get(&id).map(|entry| entry.meter().in_flight()), Some(1));
        drop(permit);
        (0..=IDLE_TICKS).for_each(|_| owner.look_again());
        assert!(shared.entries.is_empty(), "nobody is counted there any more");
    }
}
